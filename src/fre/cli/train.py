"""``fre train``."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fre.cli.common import (
    decision_values,
    emit,
    flag_option,
    good_option,
    interruption,
    json_option,
    max_pixels_option,
    note,
    note_all,
    output_option,
    parse_names,
    parse_size,
    path_option,
    ray_options,
    reading,
    refuse_without_ray,
    set_option,
    skip_unreadable_option,
    threads_option,
    threshold_lines,
)
from fre.cli.help import LongCommand
from fre.cli.info import input_in_words
from fre.errors import OptionError

if TYPE_CHECKING:
    from fre.detector import FRE
    from fre.model import Model
    from fre.training.streamed import TwoPasses

ODD_ADVICE = (
    "    wrong parts or bad photos? Look (--review DIR), and train again --without-odd;",
    "    good ones? Train again with --keep-odd",
)
"""What to do about odd training images."""


@click.command(
    cls=LongCommand,
    groups={
        "Input": "--good --bits --max-pixels",
        "Method": "--layers --per-tile --subspace --set --seed",
        "Odd images": "--keep-odd --without --without-odd",
        "Memory and machines": "--memory --checkpoint-every --threads --address --workers",
        "Output": "--frozen",
    },
    details="""
    DATA is a folder of good images, a list of them (.txt, .csv, .jsonl), or the root of a dataset,
    whose training split is taken. Images in folders whose names mean defects or masks are never
    used. If the names do not tell which of several folders are good, the error lists them: name
    one with --good.

    --group-by takes "folder", the name of an image's folder; a number, the folder so many levels
    up; or a regular expression with one capture group for the file's name, such as
    "^(part[0-9]+)_".

    An odd image is a training image that the model, fitted to the others, finds far more anomalous
    than them: often a wrong part or a bad photo. Odd images are named and do not count for the
    threshold; they still count for what a good part looks like, unless you leave them out.
    """,
)
@click.argument("data", type=click.Path(path_type=Path))
@output_option
@click.option(
    "--preset",
    type=click.Choice(["default", "fast", "accurate", "reference"]),
    metavar="NAME",
    help="default, fast (small input), accurate (large input), reference.",
)
@click.option(
    "--size",
    metavar="HxW",
    callback=parse_size,
    help="Input size in pixels, 256 or HxW.  [default: the images' shape]",
)
@click.option(
    "--defect-size",
    type=float,
    metavar="PX",
    help="Smallest defect to find, in image pixels: chooses size or tiles.",
)
@click.option(
    "--tile",
    metavar="HxW",
    callback=parse_size,
    help="Cut large images into tiles of this size in pixels.",
)
@click.option(
    "--overlap", type=int, metavar="PX", help="Pixels that neighbouring tiles share.  [default: 64]"
)
@click.option(
    "--fit",
    "image_fit",
    type=click.Choice(["stretch", "letterbox"]),
    default="stretch",
    show_default=True,
    help="How to resize; letterbox keeps the aspect.",
)
@path_option("--roi", help="Mask of the images' size: only white pixels are inspected.")
@path_option("--ignore", help="Mask of the images' size: white pixels are not inspected.")
@click.option(
    "--group-by",
    metavar="RULE",
    help="Rule that groups images of one part: folder, number or regex.",
)
@click.option(
    "--augment",
    default=0,
    show_default=True,
    metavar="COPIES",
    help="Shifted and turned copies per image, for under 16.",
)
@click.option(
    "--false-alarm-rate",
    default=0.01,
    show_default=True,
    metavar="SHARE",
    help="Share of good images that may alarm, in 0 to 1.",
)
@path_option("--review", metavar="DIR", help="Write overlays of odd training images to DIR.")
@skip_unreadable_option
@click.option(
    "--backbone",
    metavar="NAME",
    help="efficientnet_lite0 (default) to 2, a timm model, an ONNX file.",
)
@path_option("--weights", help="File of weights for the backbone.")
@ray_options
@json_option
@good_option
@click.option(
    "--bits",
    type=click.Choice(["8", "10", "12", "14", "16"]),
    callback=lambda _context, _parameter, value: None if value is None else int(value),
    help="Range of the values of 16-bit images, 0 to 2^BITS - 1.  [default: the smallest that "
    "holds the largest value of the training images]",
)
@max_pixels_option
@click.option(
    "--layers",
    callback=parse_names,
    metavar="NAMES",
    help="Layers to read, fine to coarse, separated by commas.  [default: the preset's]",
)
@flag_option(
    "--per-tile",
    help="Fit one model for each tile position, for a camera and parts that do not move.",
)
@click.option(
    "--subspace",
    type=click.Choice(["pca", "tied", "plain"]),
    help="PCA, or a trained autoencoder with tied or separate weights.  [default: pca]",
)
@set_option
@flag_option("--keep-odd", help="Let odd images count for the threshold like all others.")
@click.option(
    "--without",
    multiple=True,
    metavar="NAME",
    help="Leave a training image out: its file name or path. May be repeated.",
)
@flag_option("--without-odd", help="Train a second time, without the odd images of the first.")
@click.option(
    "--seed", default=0, show_default=True, help="Seed of the folds, copies and autoencoders."
)
@click.option(
    "--memory",
    type=float,
    metavar="GB",
    help="Gigabytes of features to hold at once. With more, fre reads the images twice, and "
    "resumes an interrupted training from OUTPUT.partial.  [default: 2]",
)
@click.option(
    "--checkpoint-every",
    "checkpoint_seconds",
    type=click.FloatRange(min=0),
    metavar="SECONDS",
    help="Least time between two writes of OUTPUT.partial.  [default: 60]",
)
@threads_option
@flag_option("--frozen", help="Write a smaller file that fre update and fre merge can't use.")
def train(
    data: Path,
    output: Path,
    checkpoint_seconds: float | None,
    threads: int,
    good: tuple[str, ...],
    skip_unreadable: bool,
    engine: str,
    address: str | None,
    workers: int | None,
    settings: tuple[str, ...],
    review: Path | None,
    keep_odd: bool,
    without: tuple[str, ...],
    without_odd: bool,
    json_file: str | None,
    **parameters: Any,
) -> None:
    """Train a model on good images: a folder, a dataset or a list of files.

    \b
    Example: fre train parts -o part.onnx
    """
    from fre.datasets import count_kinds, describe, open_dataset, require_train
    from fre.detector import FRE
    from fre.storage.files import check_writable, discard
    from fre.storage.listing import relative
    from fre.training.checkpoint import CHECKPOINT_SECONDS
    from fre.training.config import parse_settings
    from fre.training.odd import left_out, odd_files

    if keep_odd and without_odd:
        raise OptionError("--keep-odd and --without-odd exclude each other")
    held = {"--memory": parameters["memory"], "--checkpoint-every": checkpoint_seconds}
    stream = _ray(engine, address, workers, threads, held)
    if parameters["memory"] is None:
        del parameters["memory"]
    detector = FRE.from_parameters(parameters | parse_settings(settings))
    check_writable(output)
    opened = open_dataset(data, good=good)
    images = [sample.path for sample in require_train(opened)]
    note_all(opened.notes)
    aside = left_out(without, images, opened.root)
    images = [image for image in images if image not in aside]
    checkpoint = output.with_name(f"{output.name}.partial")

    def fit(images: list[Path]) -> Model:
        with reading(images) as progress:
            return detector.fit(
                images,
                skip_unreadable=skip_unreadable,
                checkpoint=checkpoint,
                checkpoint_seconds=CHECKPOINT_SECONDS
                if checkpoint_seconds is None
                else checkpoint_seconds,
                stream=stream,
                threads=threads,
                progress=progress,
            )

    model, odd = _fit(fit, images, checkpoint, without_odd=without_odd)
    aside += odd
    images = [image for image in images if image not in odd]
    if keep_odd:
        model = model.with_calibration(model.calibration.with_odd(keep=True))
    model.save(output)
    discard(checkpoint)
    skipped = [f"left out: {error}" for error in detector.skipped_]
    note_all([*detector.input_.notes, *detector.notes_, *skipped, *_remarks(model)])
    odd = odd_files(model.odd_images, images)
    summary = _training_summary(str(output), model, detector)
    summary["odd"] = [
        {"name": relative(path, opened.root), "score": image.score}
        for path, image in zip(odd, model.odd_images, strict=True)
    ]
    summary["without"] = [relative(path, opened.root) for path in aside]
    summary["input"] = {"size": list(model.size), "visible_defect": detector.input_.visible}
    summary["dataset"] = {"path": str(data), "layout": opened.layout, **count_kinds(opened)}
    text = _training_text(summary, model, f"{data}: {describe(opened)}")
    emit(summary, f"{text}\n{_next_step(output, data if opened.test else None)}", json_file)
    if review is not None:
        _review(review, odd, lambda: fit([image for image in images if image not in odd]))
        discard(checkpoint)


def _fit(
    fit: Callable[[list[Path]], Model], images: list[Path], checkpoint: Path, *, without_odd: bool
) -> tuple[Model, list[Path]]:
    """Fit to images, then without the odd ones if asked for; return those that were left out."""
    from fre.storage.files import discard
    from fre.training.odd import odd_files

    try:
        model = fit(images)
        if without_odd and (odd := odd_files(model.odd_images, images)):
            discard(checkpoint)
            return fit([image for image in images if image not in odd]), odd
        return model, []
    finally:
        if checkpoint.exists():
            interruption.aftermath = f"the same command resumes from {checkpoint}"


def _review(folder: Path, odd: list[Path], fit_others: Callable[[], Model]) -> None:
    """Write an overlay of each odd image, the oddest first in the order of their names.

    A model that was fitted to an odd image explains it: one of the others draws it.
    """
    from fre.report.prediction_files import FolderWriter

    if not odd:
        note(f"no odd images: nothing is written to {folder}")
        return
    note("training without the odd images, to draw them as new ones")
    model = fit_others()
    with FolderWriter(folder, model.map_range, None) as writer:
        for place, path in enumerate(odd, start=1):
            writer.add(model.predict(path, all_regions=True), f"{place:03}-{path.stem}")
    note(f"overlays of {len(odd)} odd images are in {folder / 'overlays'}")


def _next_step(output: Path, dataset: Path | None) -> str:
    """Return commands to try; ``dataset`` is one with test images."""
    shown = shlex.quote(str(output))
    tested = "" if dataset is None else f"\n      fre evaluate {shown} {shlex.quote(str(dataset))}"
    return f"next: fre predict {shown} IMAGES -o results{tested}"


def _ray(
    engine: str, address: str | None, workers: int | None, threads: int, held: dict[str, Any]
) -> TwoPasses | None:
    """Return the reader of images on a Ray cluster; ``None`` for this machine.

    Args:
        engine: ``"local"`` or ``"ray"``.
        address: address of the cluster, if given.
        workers: number of processes, if given.
        threads: threads of each process.
        held: options that only a local training has, and their values.

    Raises:
        OptionError: an option has no effect with this engine.
    """
    refuse_without_ray(engine, {"--address": address, "--workers": workers})
    if engine != "ray":
        return None
    if given := [name for name, value in held.items() if value is not None]:
        raise OptionError(f"{given[0]} has no effect with --engine ray, which holds no features")
    from fre.distributed import Cluster, RayFit

    return RayFit(Cluster(address, workers, max(1, threads)))


def _remarks(model: Model) -> list[str]:
    """Return remarks on a new model."""
    provenance = model.document.provenance
    remarks: list[str] = []
    if (bits := model.geometry.bits) is not None:
        remarks.append(
            f"16-bit images are read as {bits}-bit values, 0 to {2**bits - 1:,} (--bits)"
        )
    if caveat := model.calibration.caveat():
        remarks.append(caveat)
    if alike := provenance.near_duplicates:
        remarks.append(
            f"{alike} of {provenance.n_images} images have a near-duplicate: several shots of "
            "one part make the threshold too low; --group-by keeps them together"
        )
    return remarks


def _training_summary(name: str, model: Model, detector: FRE) -> dict[str, Any]:
    n_images, seconds = model.document.provenance.n_images, detector.seconds_
    return {
        "model": name,
        "n_images": n_images,
        "n_skipped": len(detector.skipped_),
        "seconds": seconds,
        "images_per_second": n_images / seconds["total"],
        "layers": [
            {
                "name": subspace.layer,
                "scope": subspace.scope,
                "dimension": subspace.dimension,
                "rank": subspace.rank,
                "kept_variance": subspace.kept_variance,
            }
            for subspace in model.document.subspaces
        ],
        **decision_values(model),
    }


def _training_text(summary: dict[str, Any], model: Model, data: str) -> str:
    seconds = summary["seconds"]
    lines = [
        f"{summary['model']}: {len(model.data) / 1e6:.1f} MB, from {summary['n_images']} good "
        f"images in {seconds['total']:.1f} s "
        f"(features {seconds['features']:.1f} s, fit {seconds['fit']:.1f} s; "
        f"{summary['images_per_second']:.0f} images/s)",
        f"  data: {data}",
        f"  input: {input_in_words(model)}",
    ]
    lines += [f"  left out: {name}" for name in summary["without"]]
    names = [image["name"] for image in summary["odd"]]
    lines += threshold_lines(model, names, ODD_ADVICE)
    return "\n".join(lines)
