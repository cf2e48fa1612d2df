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
    path_option,
    progress_bar,
    set_option,
    threads_option,
)
from fre.cli.help import LongCommand


class _SpreadCommand(LongCommand):
    """A command whose repeatable options also take several values at once: ``--pool 2 4``."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Repeat the option before each further value."""
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


@click.command(
    cls=_SpreadCommand,
    groups={"More": "--layers --set --seed --layout --threads --max-pixels"},
)
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
    help="File of weights for a backbone; leave the name out if only one backbone needs a file.",
)
@click.option(
    "--preset",
    "presets",
    type=click.Choice(["default", "fast", "accurate", "reference"]),
    multiple=True,
    default=("default",),
    show_default=True,
    metavar="NAME...",
    help="One or more of default, fast, accurate and reference.",
)
@click.option(
    "--pool",
    "pools",
    type=int,
    multiple=True,
    metavar="N...",
    help="Edges of the pooling windows to compare.  [default: the preset's]",
)
@click.option(
    "--subspace",
    "subspaces",
    type=click.Choice(["pca", "tied", "plain"]),
    multiple=True,
    default=("pca",),
    show_default=True,
    help="PCA or autoencoders, which use the reference preset.",
)
@click.option(
    "--category",
    "categories",
    multiple=True,
    metavar="NAME...",
    help="Categories of the dataset to measure.  [default: all]",
)
@click.option(
    "--size",
    callback=parse_size,
    metavar="HxW",
    help="Input size in pixels, 256 or HxW.  [default: the images' shape]",
)
@path_option(
    "-o",
    "--output",
    metavar="DIR",
    default=Path("fre-benchmark"),
    show_default=True,
    help="Folder that keeps finished cells; the same command resumes.",
)
@click.option(
    "--against",
    type=click.Choice(["published"]),
    help="Add the published figures of the same backbones and pooling, and the differences.",
)
@json_option
@click.option(
    "--layers", callback=parse_names, metavar="NAMES", help="Layers to read, separated by commas."
)
@set_option
@click.option("--seed", default=42, show_default=True, help="Seed of every training.")
@click.option(
    "--layout", metavar="NAME", help="Folder layout of the dataset.  [default: recognised]"
)
@threads_option
@max_pixels_option
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
    layers: list[str] | None,
    size: tuple[int, int] | None,
    settings: tuple[str, ...],
    **options: Any,
) -> None:
    """Train and evaluate every category of a dataset with every backbone.

    Prints tables in Markdown. An interrupted run resumes with the same command.

    \b
    Example: fre benchmark mvtec --backbone efficientnet_lite0 resnet18 --against published
    """
    from fre.benchmark.run import (
        Study,
        assign_weights,
        make_variant,
        open_categories,
        run_benchmark,
    )
    from fre.benchmark.tables import benchmark_tables
    from fre.errors import OptionError
    from fre.training.config import OF_AUTOENCODER, OF_METHOD, parse_settings

    chosen = parse_settings(settings)
    if {*subspaces} == {"pca"}:
        for name in [name for name in OF_AUTOENCODER if name in chosen and name not in OF_METHOD]:
            raise OptionError(f"--set {name} has no effect with --subspace pca: add tied or plain")
    interruption.aftermath = f"finished cells are kept in {output}: the same command resumes"
    files = assign_weights(backbones, weights)
    variants = dict.fromkeys(
        make_variant(name, files.get(name), preset, pool, subspace)
        for name in backbones
        for preset in presets
        for pool in pools or (None,)
        for subspace in subspaces
    )

    with progress_bar() as progress:
        datasets = open_categories(root, options.pop("categories"), options.pop("layout"))
        study = Study([*variants], {"layers": layers, "size": size, **chosen}, **options)
        cells = run_benchmark(datasets, output, study, progress, _report)
    tables = benchmark_tables(cells, against_published=against == "published")
    emit({"cells": cells}, tables, json_file)


def _report(cell: dict[str, Any], known: bool) -> None:
    auroc = cell["figures"]["image_auroc"]
    figure = "-" if auroc is None else f"{auroc:.3f}"
    note(
        f"{cell['category']}, {cell['label']}: image AUROC {figure}"
        + (" (kept from before)" if known else "")
    )
