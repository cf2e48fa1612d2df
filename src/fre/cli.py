"""The command line: it calls the library, and imports what is heavy inside the commands."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import click

from fre.errors import FREError, ImageError, InputError, OptionError
from fre.version import __version__

if TYPE_CHECKING:
    from fre.model import Model
    from fre.types import Evaluation, Progress

__all__ = ["cli", "main"]

Command = TypeVar("Command", bound=Callable[..., Any])


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="fre")
def cli() -> None:
    """Find defects having seen only good images.

    \b
    fre demo                                   the whole product on data of its own
    fre train parts/good -o part.onnx          learn what good parts look like
    fre predict part.onnx incoming -o results  judge new images
    """


def main() -> NoReturn:
    """Run the command line; exit with 0 if it is done, 1 if fre failed, 2 if the user erred."""
    for signal_number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(signal_number, _interruption.arrive)
    try:
        result = cli.main(standalone_mode=False)
        code = result if isinstance(result, int) else 0
        sys.stdout.flush()
    except (click.exceptions.Abort, KeyboardInterrupt):
        code = _complain(f"interrupted; {_interruption.aftermath}", 2)
    except click.UsageError as error:
        where = f" (try: {error.ctx.command_path} --help)" if error.ctx else ""
        code = _complain(error.format_message() + where, 2)
    except FREError as error:
        code = _complain(str(error), error.exit_code)
    except Exception as error:  # the last resort: a fault of ours, in one line
        if os.environ.get("FRE_DEBUG"):
            raise
        kind = type(error).__name__
        code = _complain(f"{kind}: {error} (a fault of fre; FRE_DEBUG=1 shows where)", 1)
    if _interruption.arrived:
        # An import that was cut short can crash the interpreter while it tidies up.
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


class _Interruption:
    """Ctrl-C or a request to end, which some libraries swallow when it comes as they load."""

    arrived = False
    aftermath = "no partial result is left behind"

    def arrive(self, *_: object) -> NoReturn:
        self.arrived = True
        raise KeyboardInterrupt

    def check(self) -> None:
        if self.arrived:
            raise KeyboardInterrupt


_interruption = _Interruption()


def _complain(message: str, code: int) -> int:
    print("fre: error:", " ".join(message.split()), file=sys.stderr)
    return code


def _note(message: str) -> None:
    print("fre:", message, file=sys.stderr)


@contextmanager
def _progress() -> Iterator[Progress]:
    """A bar on stderr for whatever takes over a second; nothing where that is no terminal."""
    from tqdm import tqdm

    bar: Any = None

    def show(task: str, done: int, total: int) -> None:
        nonlocal bar
        _interruption.check()
        if bar is None or bar.desc != task:
            if bar is not None:
                bar.close()
            bar = tqdm(desc=task, total=total, unit=" images", disable=None, delay=0.5)
            # tqdm adds a colon to what it is told at the start, and not to what it is told later
            bar.desc = task
        bar.update(done - bar.n)

    try:
        yield show
    finally:
        if bar is not None:
            bar.close()


def _emit(values: dict[str, Any], text: str, json_file: str | None) -> None:
    """Print the text, and write the JSON to the file that was named; ``-`` is stdout."""
    if json_file != "-":
        print(text)
    if json_file:
        _write_text(json_file, json.dumps(values, indent=2, ensure_ascii=False) + "\n")


def _print_line(line: str) -> bool:
    """Print at once; false if whoever read our output has gone, as ``head`` does."""
    try:
        print(line, flush=True)
    except BrokenPipeError:
        # Python would complain once more when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return False
    return True


def _write_text(file: str, text: str) -> None:
    if file == "-":
        sys.stdout.write(text)
        return
    from fre.files import write_atomic

    write_atomic(file, text.encode())


def _parse_size(_: click.Context, __: click.Parameter, value: str | None) -> Any:
    if value is None:
        return None
    sides = value.lower().split("x")
    if len(sides) > 2 or not all(side.isdecimal() for side in sides):
        raise click.BadParameter(f"expected 256 or HxW such as 192x320, not {value!r}")
    return (int(sides[0]), int(sides[-1]))


def _parse_layers(_: click.Context, __: click.Parameter, value: str | None) -> Any:
    return None if value is None else [name.strip() for name in value.split(",")]


def _set_pixel_limit(_: click.Context, __: click.Parameter, value: int | None) -> None:
    if value is not None:
        from fre.images import set_pixel_limit

        set_pixel_limit(value)


def _json_option(command: Command) -> Command:
    return click.option(
        "--json", "json_file", metavar="FILE", help="Write the result as JSON; - is stdout."
    )(command)


def _max_pixels_option(command: Command) -> Command:
    return click.option(
        "--max-pixels",
        type=click.IntRange(min=1),
        expose_value=False,
        callback=_set_pixel_limit,
        help="Refuse images of more pixels than this.  [default: about 89 million]",
    )(command)


def _runtime_options(command: Command) -> Command:
    command = click.option(
        "--threads",
        type=click.IntRange(min=0),
        default=0,
        help="Threads of the network; 0 takes all cores.",
    )(command)
    return click.option(
        "--runtime",
        type=click.Choice(["onnxruntime", "openvino"]),
        default="onnxruntime",
        show_default=True,
        help="What runs the model.",
    )(command)


@cli.command()
@click.argument("data", type=click.Path(path_type=Path))
@click.option(
    "-o", "--output", required=True, type=click.Path(path_type=Path), help="The model file."
)
@click.option(
    "--preset",
    type=click.Choice(["reference"]),
    help="By itself, FRE as documented: ResNet-50, pool 2, a tied autoencoder of rank 220.",
)
@click.option(
    "--backbone",
    metavar="NAME",
    help="The frozen network: efficientnet_lite0 to 2, any timm model, or a file ending in .onnx.  "
    "[default: efficientnet_lite0]",
)
@click.option(
    "--weights", type=click.Path(path_type=Path), help="A file of weights for the backbone."
)
@click.option(
    "--layers", callback=_parse_layers, help="The layer to read.  [default: the backbone's own]"
)
@click.option("--size", callback=_parse_size, help="256, or HxW.  [default: the backbone's]")
@click.option("--pool", type=int, help="Edge of the pooling windows.  [default: 2]")
@click.option(
    "--subspace",
    type=click.Choice(["pca", "tied", "plain"]),
    help="pca is the closed form; tied and plain are trained autoencoders.  [default: pca]",
)
@click.option("--variance", type=float, help="Share of the energy that pca keeps.  [default: 0.97]")
@click.option(
    "--rank", type=int, help="A fixed number of dimensions.  [default: 220 for an autoencoder]"
)
@click.option("--epochs", default=220, show_default=True, help="Of an autoencoder.")
@click.option("--learning-rate", default=1e-3, show_default=True, help="Of an autoencoder.")
@click.option("--batch-size", default=32, show_default=True, help="Of an autoencoder.")
@click.option(
    "--plateau",
    type=float,
    help="End an autoencoder's training once its loss improves by less than this share in ten "
    "epochs.",
)
@click.option(
    "--folds",
    default=5,
    show_default=True,
    help="For calibration; each trains an autoencoder anew.",
)
@click.option(
    "--false-alarm-rate",
    default=0.01,
    show_default=True,
    help="Share of good images that may be called anomalous.",
)
@click.option("--seed", default=0, show_default=True, help="Of folds and autoencoders.")
@click.option("--threads", type=click.IntRange(min=0), default=0, help="0 takes all cores.")
@click.option("--skip-unreadable", is_flag=True, help="Leave out images that can't be read.")
@_max_pixels_option
@_json_option
def train(
    data: Path,
    output: Path,
    threads: int,
    skip_unreadable: bool,
    json_file: str | None,
    **parameters: Any,
) -> None:
    """Learn what good parts look like.

    DATA is a folder of good images, or the root of a dataset, whose training split is taken.

    \b
    Example: fre train parts/good -o part.onnx
    """
    from fre.detector import FRE
    from fre.files import check_writable

    check_writable(output)
    detector = FRE(**parameters)
    with _progress() as progress:
        model = detector.fit(
            data, skip_unreadable=skip_unreadable, threads=threads, progress=progress
        )
    model.save(output)
    for skipped in detector.skipped_:
        _note(f"left out: {skipped}")
    if caveat := model.calibration.caveat():
        _note(caveat)
    summary = _training_summary(str(output), model, detector.seconds_, len(detector.skipped_))
    _emit(summary, _training_text(summary, model), json_file)


def _training_summary(
    name: str, model: Model, seconds: dict[str, float], skipped: int
) -> dict[str, Any]:
    n_images = model.metadata["provenance"]["n_images"]
    return {
        "model": name,
        "n_images": n_images,
        "n_skipped": skipped,
        "seconds": seconds,
        "images_per_second": n_images / seconds["total"],
        "layers": [
            {
                "name": subspace["layer"],
                "dimension": subspace["dimension"],
                "rank": subspace["rank"],
                "kept_variance": subspace["kept_variance"],
            }
            for subspace in model.metadata["subspaces"]
        ],
        "threshold": model.threshold,
    }


def _training_text(summary: dict[str, Any], model: Model) -> str:
    seconds = summary["seconds"]
    lines = [
        f"{summary['model']}: {len(model.data) / 1e6:.1f} MB, from {summary['n_images']} good "
        f"images in {seconds['total']:.1f} s "
        f"(features {seconds['features']:.1f} s, fit {seconds['fit']:.1f} s; "
        f"{summary['images_per_second']:.0f} images/s)"
    ]
    lines += [
        f"  {layer['name']}: {layer['rank']} of {layer['dimension']:,} dimensions keep "
        f"{layer['kept_variance']:.1%} of the variance"
        for layer in summary["layers"]
    ]
    lines.append(
        f"  anomalous above a score of {summary['threshold']:.6g} "
        f"(false-alarm rate {model.calibration.false_alarm_rate:g})"
    )
    return "\n".join(lines)


@cli.command()
@click.argument("model", type=click.Path(path_type=Path))
@click.argument("images", type=click.Path(path_type=Path), nargs=-1, required=True)
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    help="A folder for overlays, maps and predictions.jsonl.",
)
@click.option(
    "--maps",
    type=click.Choice(["tiff", "npy", "png"]),
    help="Write the anomaly maps, too (with -o): float32, or 16-bit grey for png.",
)
@click.option("--overwrite", is_flag=True, help="Replace the folder if it is not empty.")
@click.option("--batch-size", type=click.IntRange(min=1), default=8, show_default=True)
@_runtime_options
@_max_pixels_option
@_json_option
def predict(
    model: Path,
    images: tuple[Path, ...],
    output: Path | None,
    maps: str | None,
    overwrite: bool,
    batch_size: int,
    runtime: str,
    threads: int,
    json_file: str | None,
) -> int:
    """Judge images: a line of JSON for each.

    IMAGES are files and folders.

    \b
    Example: fre predict part.onnx incoming -o results --maps tiff
    """
    from contextlib import nullcontext

    from fre.files import staged_folder
    from fre.images import find_images
    from fre.model import load
    from fre.output import FolderWriter, json_line

    if maps and not output:
        raise OptionError("--maps needs a folder to write to: add -o FOLDER")
    loaded = load(model, runtime=runtime, threads=threads)
    paths = [path for source in images for path in find_images(source)]
    lines: list[str] = []
    failures = anomalous = 0
    reader_left = False
    staging = staged_folder(output, overwrite=overwrite) if output else nullcontext()
    with staging as folder, _progress() as progress:
        writer = FolderWriter(folder, images, loaded.map_range, maps) if folder else None
        results = loaded.predict_many(paths, batch_size=batch_size, errors="return")
        for done, result in enumerate(results, start=1):
            lines.append(json_line(result))
            if json_file is None:
                reader_left = reader_left or not _print_line(lines[-1])
                if reader_left and not folder:
                    break
            if isinstance(result, ImageError):
                failures += 1
            else:
                anomalous += result.anomalous
                if writer:
                    writer.add(result)
            progress("Predicting", done, len(paths))
        text = "".join(f"{line}\n" for line in lines)
        if folder:
            (folder / "predictions.jsonl").write_text(text, encoding="utf-8")
    if json_file is not None:
        _write_text(json_file, text)
    _note(
        f"{anomalous} of {len(lines) - failures} images anomalous"
        + (f"; {failures} could not be read" if failures else "")
        + (f"; written to {output}" if output else "")
    )
    return InputError.exit_code if failures else 0


@cli.command()
@click.argument("model", type=click.Path(path_type=Path))
@click.argument("dataset", type=click.Path(path_type=Path))
@click.option(
    "--report", type=click.Path(path_type=Path), help="Write an HTML report to this file."
)
@_runtime_options
@_max_pixels_option
@_json_option
def evaluate(
    model: Path,
    dataset: Path,
    report: Path | None,
    runtime: str,
    threads: int,
    json_file: str | None,
) -> None:
    """Measure a model on the test images of a dataset.

    \b
    Example: fre evaluate part.onnx parts --report part.html
    """
    from fre.datasets import open_dataset
    from fre.demo import report_on
    from fre.evaluate import evaluate as measure
    from fre.files import check_writable
    from fre.model import load

    if report:
        check_writable(report)
    loaded = load(model, runtime=runtime, threads=threads)
    opened = open_dataset(dataset)
    for remark in opened.notes:
        _note(remark)
    with _progress() as progress:
        result = measure(loaded, opened, progress=progress)
        if report:
            report_on(report, loaded, opened, result, model_name=model.name, progress=progress)
    _emit(result.to_dict(), _evaluation_text(result), json_file)


def _evaluation_text(result: Evaluation) -> str:
    def cell(value: float | None) -> str:
        return "-" if value is None else f"{value:.3f}"

    return "\n".join(
        [
            f"{result.n_good} good and {result.n_defect} defective images, "
            f"{result.images_per_second:.1f} images/s",
            "",
            "         AUROC   AUPR     F1  AUPRO",
            f"image    {cell(result.image_auroc):>5}  {cell(result.image_aupr):>5}  "
            f"{cell(result.image_f1):>5}",
            f"pixel    {cell(result.pixel_auroc):>5}         {cell(result.pixel_f1):>5}  "
            f"{cell(result.aupro):>5}",
            "",
            f"false-alarm rate observed: {cell(result.false_alarm_rate_observed)}",
        ]
    )


@cli.command()
@click.argument("model", type=click.Path(path_type=Path))
@_json_option
def info(model: Path, json_file: str | None) -> None:
    """Say what a model is.

    \b
    Example: fre info part.onnx
    """
    from fre.model import load

    loaded = load(model)
    values = {
        "model": str(model),
        "bytes": len(loaded.data),
        "sha256": loaded.sha256,
        **loaded.metadata,
    }
    _emit(values, _info_text(values, loaded), json_file)


def _info_text(values: dict[str, Any], model: Model) -> str:
    backbone, provenance = values["backbone"], values["provenance"]
    rows = [
        ("file", f"{values['model']}, {values['bytes'] / 1e6:.1f} MB"),
        ("sha256", values["sha256"]),
        ("written by", f"fre {values['fre_version']}, format {values['format']}"),
        ("backbone", f"{backbone['name']} (weights {backbone['weights_sha256'][:12]})"),
        ("input", "{} x {} pixels".format(*model.size)),
    ]
    rows += [
        (
            "subspace",
            f"{subspace['layer']}, pool {subspace['pool']}: rank {subspace['rank']} of "
            f"{subspace['dimension']:,}{_kept(subspace)}",
        )
        for subspace in values["subspaces"]
    ]
    rows += [
        (
            "calibration",
            f"{len(model.calibration.scores)} good images, false-alarm rate "
            f"{model.calibration.false_alarm_rate:g}, threshold {model.threshold:.6g}",
        ),
        _origin_row(provenance),
    ]
    return "\n".join(f"{name:<12} {value}" for name, value in rows)


def _kept(subspace: dict[str, Any]) -> str:
    kept = subspace["kept_variance"]
    return "" if kept is None else f", {kept:.1%} of the variance"


def _origin_row(provenance: dict[str, Any]) -> tuple[str, str]:
    if imported := provenance.get("imported"):
        return (
            "imported",
            f"{provenance['created']} from {imported['from']} ({imported['sha256'][:12]})",
        )
    images = f"{provenance['n_images']} images ({provenance['images_sha256'][:12]})"
    return "trained", f"{provenance['created']} on {images}"


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


@cli.command(cls=_SpreadCommand)
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
@click.option("--pool", "pools", type=int, multiple=True, default=(2,), show_default=True)
@click.option(
    "--subspace",
    "subspaces",
    type=click.Choice(["pca", "tied", "plain"]),
    multiple=True,
    default=("pca",),
    show_default=True,
)
@click.option("--category", "categories", multiple=True, help="Only these.  [default: all]")
@click.option("--layers", callback=_parse_layers, help="The layer to read.")
@click.option("--size", callback=_parse_size, help="256, or HxW.  [default: the backbone's]")
@click.option("--variance", type=float, help="Share of the energy that pca keeps.")
@click.option("--rank", type=int, help="A fixed number of dimensions.")
@click.option("--folds", default=5, show_default=True, help="For calibration.")
@click.option("--epochs", default=220, show_default=True, help="Of an autoencoder.")
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
@_max_pixels_option
@_json_option
def benchmark(
    root: Path,
    backbones: tuple[str, ...],
    weights: tuple[str, ...],
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
    from fre.benchmark import Variant, assign_weights, run_benchmark
    from fre.tables import benchmark_tables

    _interruption.aftermath = f"what is finished is kept in {output}: the same command goes on"
    files = assign_weights(backbones, weights)
    variants = [
        Variant(name, files.get(name), pool, subspace)
        for name in backbones
        for pool in pools
        for subspace in subspaces
    ]

    def report(cell: dict[str, Any], known: bool) -> None:
        auroc = cell["figures"]["image_auroc"]
        figure = "-" if auroc is None else f"{auroc:.3f}"
        _note(
            f"{cell['category']}, {cell['label']}: image AUROC {figure}"
            + (" (kept from before)" if known else "")
        )

    with _progress() as progress:
        cells = run_benchmark(
            root,
            output,
            variants=variants,
            parameters=parameters,
            seed=seed,
            categories=categories,
            layout=layout,
            threads=threads,
            progress=progress,
            report=report,
        )
    tables = benchmark_tables(cells, against_published=against == "published")
    _emit({"cells": cells}, tables, json_file)


@cli.command(name="import")
@click.argument("checkpoint", type=click.Path(path_type=Path))
@click.option(
    "-o", "--output", required=True, type=click.Path(path_type=Path), help="The model file."
)
@click.option(
    "--good",
    type=click.Path(path_type=Path),
    help="Good images to calibrate on, best ones it was not trained on.  [default: none; the "
    "threshold is the checkpoint's own]",
)
@click.option("--backbone", help="timm's name of the network.  [default: the checkpoint's]")
@click.option("--size", callback=_parse_size, help="256, or HxW.  [default: the checkpoint's]")
@click.option(
    "--false-alarm-rate",
    default=0.01,
    show_default=True,
    help="Share of good images that may be called anomalous.",
)
@click.option("--threads", type=click.IntRange(min=0), default=0, help="0 takes all cores.")
@_max_pixels_option
@_json_option
def import_(checkpoint: Path, output: Path, json_file: str | None, **options: Any) -> None:
    """Make a model of a checkpoint of anomalib's Fre.

    It then runs without PyTorch, with p-values from good images.

    \b
    Example: fre import model.ckpt --good parts/good-new -o part.onnx
    """
    from fre.checkpoint import import_checkpoint
    from fre.files import check_writable

    check_writable(output)
    with _progress() as progress:
        model = import_checkpoint(checkpoint, progress=progress, **options)
    model.save(output)
    if caveat := model.calibration.caveat():
        _note(caveat)
    n = len(model.calibration.scores)
    _emit(
        {"model": str(output), "n_calibration": n, "threshold": model.threshold},
        f"{output}: imported, calibrated on {n} good images; anomalous above a score of "
        f"{model.threshold:.6g}",
        json_file,
    )


@cli.command()
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    help="A new folder.  [default: fre-demo, or fre-demo-2 and so on if that is there]",
)
@click.option("--seed", type=click.IntRange(min=0), default=0, help="Draws another data set.")
@_json_option
def demo(output: Path | None, seed: int, json_file: str | None) -> None:
    """Show the whole product on data of its own: nothing is needed, nothing is downloaded.

    \b
    Example: fre demo
    """
    from fre.demo import run_demo
    from fre.files import staged_folder

    folder = output or _free_folder("fre-demo")
    with staged_folder(folder) as staging, _progress() as progress:
        result = run_demo(staging, seed=seed, progress=progress)
    text = [
        f"Trained on {result.n_images} good images in {result.seconds['total']:.1f} s.",
        "",
        _evaluation_text(result.evaluation),
        "",
        f"{folder / 'report.html'}    the report: open it in a browser",
        f"{folder / 'overview.png'}   one image of each kind, with its heat map",
        f"{folder / 'overlays'}/      all heat maps; the outline is the true defect",
        f"{folder / 'plates'}/        the images that were drawn",
        "",
        "Try next:",
        f"  fre predict {folder / 'plate.onnx'} {folder / 'plates/test/scratch'} -o results",
        f"  fre info {folder / 'plate.onnx'}",
        "  fre train YOUR/GOOD/IMAGES -o part.onnx",
    ]
    values = {"folder": str(folder), "seconds": result.seconds, **result.evaluation.to_dict()}
    _emit(values, "\n".join(text), json_file)


def _free_folder(name: str) -> Path:
    folder, count = Path(name), 1
    while folder.exists():
        count += 1
        folder = Path(f"{name}-{count}")
    return folder
