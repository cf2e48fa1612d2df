"""``fre benchmark``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from fre.cli.common import (
    emit,
    interruption,
    json_option,
    max_pixels_option,
    note,
    parse_names,
    parse_size,
    progress_bar,
)


class _SpreadCommand(click.Command):
    """A command whose repeatable options also take several values at once: ``--pool 2 4``."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        spread = {
            name
            for parameter in self.params
            if isinstance(parameter, click.Option) and parameter.multiple
            for name in parameter.opts
        }
        expanded: list[str] = []
        current: str | None = None
        for token in args:
            if token.startswith("-"):
                current = token if token in spread else None
                expanded.append(token)
            elif current is not None and expanded[-1] != current:
                expanded += [current, token]
            else:
                expanded.append(token)
        return super().parse_args(ctx, expanded)


@click.command(cls=_SpreadCommand)
@click.argument("root", type=click.Path(path_type=Path))
@click.option(
    "--backbone",
    "backbones",
    metavar="NAME...",
    multiple=True,
    default=("efficientnet_lite0",),
    show_default=True,
    help="One or more backbones.",
)
@click.option(
    "--weights",
    metavar="[NAME=]FILE",
    multiple=True,
    help="A file of weights for a backbone; the name may be left out where only one needs a file.",
)
@click.option(
    "--preset",
    "presets",
    type=click.Choice(["default", "reference"]),
    multiple=True,
    default=("default",),
    show_default=True,
)
@click.option(
    "--pool",
    "pools",
    type=int,
    multiple=True,
    help="One or more, for tables of the reference.  [default: the preset's]",
)
@click.option(
    "--subspace",
    "subspaces",
    type=click.Choice(["pca", "tied", "plain"]),
    multiple=True,
    default=("pca",),
    show_default=True,
    help="Autoencoders are trained with the reference preset.",
)
@click.option("--category", "categories", multiple=True, help="Only these.  [default: all]")
@click.option("--layers", callback=parse_names, help="The layer to read.")
@click.option("--size", callback=parse_size, help="256, or HxW.  [default: the backbone's]")
@click.option("--variance", type=float, help="Share of the energy that pca keeps.")
@click.option("--rank", type=int, help="A fixed number of dimensions.")
@click.option("--folds", default=5, show_default=True, help="For calibration.")
@click.option("--epochs", type=int, help="Epochs of an autoencoder's training.  [default: 220]")
@click.option("--seed", default=42, show_default=True)
@click.option("--layout", help="Of the dataset.  [default: recognised]")
@click.option("--threads", type=click.IntRange(min=0), default=0, help="0 takes all cores.")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    default=Path("fre-benchmark"),
    show_default=True,
    help="Where finished cells are kept; the same command continues from there.",
)
@click.option(
    "--against",
    type=click.Choice(["published"]),
    help="Add the published figures of the same backbones and pooling, and the differences.",
)
@max_pixels_option
@json_option
def benchmark(
    root: Path,
    backbones: tuple[str, ...],
    weights: tuple[str, ...],
    presets: tuple[str, ...],
    pools: tuple[int, ...],
    subspaces: tuple[str, ...],
    output: Path,
    against: str | None,
    json_file: str | None,
    seed: int,
    categories: tuple[str, ...],
    layout: str | None,
    threads: int,
    **parameters: Any,
) -> None:
    """Train and evaluate every category of a dataset by every backbone.

    Prints tables in Markdown. A run that is stopped keeps what is finished, and continues.

    \b
    Example: fre benchmark mvtec --backbone efficientnet_lite0 resnet18 --against published
    """
    from fre.benchmark.run import assign_weights, make_variant, run_benchmark
    from fre.benchmark.tables import benchmark_tables
    from fre.errors import OptionError

    if parameters["epochs"] is not None and {*subspaces} == {"pca"}:
        raise OptionError("--epochs has no effect with --subspace pca: add tied or plain")
    interruption.aftermath = f"what is finished is kept in {output}: the same command goes on"
    files = assign_weights(backbones, weights)
    variants = dict.fromkeys(
        make_variant(name, files.get(name), preset, pool, subspace)
        for name in backbones
        for preset in presets
        for pool in pools or (None,)
        for subspace in subspaces
    )

    def report(cell: dict[str, Any], known: bool) -> None:
        auroc = cell["figures"]["image_auroc"]
        figure = "-" if auroc is None else f"{auroc:.3f}"
        note(
            f"{cell['category']}, {cell['label']}: image AUROC {figure}"
            + (" (kept from before)" if known else "")
        )

    with progress_bar() as progress:
        cells = run_benchmark(
            root,
            output,
            variants=list(variants),
            parameters=parameters,
            seed=seed,
            categories=categories,
            layout=layout,
            threads=threads,
            progress=progress,
            report=report,
        )
    tables = benchmark_tables(cells, against_published=against == "published")
    emit({"cells": cells}, tables, json_file)
