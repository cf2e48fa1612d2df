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
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        result = cli.main(standalone_mode=False)
        code = result if isinstance(result, int) else 0
        sys.stdout.flush()
    except click.exceptions.Abort:
        code = _complain("interrupted; no partial result is left behind", 2)
    except KeyboardInterrupt:
        code = _complain("interrupted; no partial result is left behind", 2)
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
    sys.exit(code)


def _interrupt(*_: object) -> NoReturn:
    raise KeyboardInterrupt


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
    "--backbone", default="efficientnet_lite0", show_default=True, help="The frozen network."
)
@click.option(
    "--weights", type=click.Path(path_type=Path), help="A file of weights for the backbone."
)
@click.option("--layers", callback=_parse_layers, help="The layer to read.  [default: its own]")
@click.option("--size", callback=_parse_size, help="256, or HxW.  [default: the backbone's]")
@click.option("--pool", default=2, show_default=True, help="Edge of the pooling windows.")
@click.option(
    "--subspace",
    type=click.Choice(["pca"]),
    default="pca",
    show_default=True,
    help="How the subspace is found: pca is the closed form.",
)
@click.option("--variance", default=0.97, show_default=True, help="Share of the energy to keep.")
@click.option("--rank", type=int, help="A fixed number of dimensions instead.")
@click.option(
    "--false-alarm-rate",
    default=0.01,
    show_default=True,
    help="Share of good images that may be called anomalous.",
)
@click.option("--seed", default=0, show_default=True, help="Of the folds for calibration.")
@click.option("--threads", type=click.IntRange(min=0), default=0, help="0 takes all cores.")
@click.option("--skip-unreadable", is_flag=True, help="Leave out images that can't be read.")
@_max_pixels_option
@_json_option
def train(
    data: Path,
    output: Path,
    subspace: str,
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
            f"{subspace['dimension']:,}, {subspace['kept_variance']:.1%} of the variance",
        )
        for subspace in values["subspaces"]
    ]
    rows += [
        (
            "calibration",
            f"{len(model.calibration.scores)} good images, false-alarm rate "
            f"{model.calibration.false_alarm_rate:g}, threshold {model.threshold:.6g}",
        ),
        ("trained", f"{provenance['created']} on {provenance['n_images']} images"),
        ("images", provenance["images_sha256"]),
    ]
    return "\n".join(f"{name:<12} {value}" for name, value in rows)


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
