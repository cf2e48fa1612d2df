"""``fre train``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fre.cli.common import (
    describe_rank,
    emit,
    good_option,
    interruption,
    json_option,
    max_pixels_option,
    note,
    parse_names,
    parse_numbers,
    parse_size,
    progress_bar,
    ray_options,
    refuse_without_ray,
    skip_unreadable_option,
    suggest_skipping,
)
from fre.errors import ImageError

if TYPE_CHECKING:
    from fre.model import Model


@click.command()
@click.argument("data", type=click.Path(path_type=Path))
@click.option(
    "-o", "--output", required=True, type=click.Path(path_type=Path), help="The model file."
)
@click.option(
    "--preset",
    type=click.Choice(["default", "reference"]),
    help="default reads three layers. reference by itself is FRE as documented: ResNet-50, pool 2, "
    "a tied autoencoder of rank 220.  [default: default]",
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
    "--layers",
    callback=parse_names,
    help="The layers to read, fine to coarse.  [default: the preset's]",
)
@click.option(
    "--size",
    callback=parse_size,
    help="256, or HxW, of the network's input; with --tile, of the whole image.  [default: the "
    "backbone's; with --tile, the image's own]",
)
@click.option(
    "--fit",
    "image_fit",
    type=click.Choice(["stretch", "letterbox"]),
    default="stretch",
    show_default=True,
    help="How images are brought to that size; letterbox keeps their aspect and pads.",
)
@click.option(
    "--tile",
    callback=parse_size,
    help="Cut large images into tiles of this size, 256 or HxW, at full resolution.",
)
@click.option("--overlap", type=int, help="Pixels that tiles share.  [default: 64]")
@click.option(
    "--per-tile",
    is_flag=True,
    help="Give each place of a tile a model of its own: for a camera and parts that do not move.",
)
@click.option(
    "--roi",
    type=click.Path(path_type=Path),
    help="A mask, the size of the images: only what is white is learnt and scored.",
)
@click.option(
    "--ignore",
    type=click.Path(path_type=Path),
    help="A mask: what is white is neither learnt nor scored.",
)
@click.option(
    "--augment",
    default=0,
    metavar="COPIES",
    help="Shifted and turned copies of each image, for when there are few.",
)
@click.option("--flip", is_flag=True, help="Mirror every second copy.")
@click.option(
    "--subspace",
    type=click.Choice(["pca", "tied", "plain"]),
    help="pca is the closed form; tied and plain are trained autoencoders.  [default: pca]",
)
@click.option("--variance", type=float, help="Share of the energy that pca keeps.  [default: 0.97]")
@click.option(
    "--rank",
    type=int,
    help="A fixed number of dimensions; in the default preset the limit of those of a whole image. "
    " [default: 220 for an autoencoder; 256]",
)
@click.option(
    "--pool",
    callback=parse_numbers,
    help="Edge of the pooling windows, one or one for each layer.  [default: 1; 2 in the "
    "reference]",
)
@click.option(
    "--scope",
    callback=parse_names,
    help="Of the default preset's subspaces, one or one for each layer: position, image, or patch, "
    "one for all positions.  [default: position, and image for the last layer]",
)
@click.option(
    "--score-layers",
    callback=parse_names,
    help="Those layers that count for the score.  [default: all but the first of three]",
)
@click.option(
    "--map-layers",
    callback=parse_names,
    help="Those that count for the anomaly map.  [default: all but the last of three]",
)
@click.option(
    "--standardise",
    type=click.Choice(["position", "layer", "none"]),
    help="What sets the scale of a residual.  [default: position]",
)
@click.option(
    "--top",
    type=float,
    help="Share of the map's largest pixels, whose mean is the score.  [default: 0.05]",
)
@click.option("--smoothing", type=float, help="Of maps, in pixels.  [default: 4]")
@click.option(
    "--prior",
    type=float,
    help="Weight of a position's neighbourhood, in images.  [default: 32]",
)
@click.option(
    "--overall/--no-overall",
    default=None,
    help="Let a large overall residual add to the score.  [default: with 100 images or more]",
)
@click.option("--epochs", type=int, help="Epochs of an autoencoder's training.  [default: 220]")
@click.option(
    "--learning-rate",
    type=float,
    help="Learning rate of an autoencoder's training, by Adam.  [default: 0.001]",
)
@click.option(
    "--batch-size", type=int, help="Images in a step of an autoencoder's training.  [default: 32]"
)
@click.option(
    "--folds",
    default=5,
    show_default=True,
    help="For calibration, at least; each trains an autoencoder anew.",
)
@click.option(
    "--false-alarm-rate",
    default=0.01,
    show_default=True,
    help="Share of good images that may be called anomalous.",
)
@click.option(
    "--group-by",
    metavar="RULE",
    help="Which images show one part, so that calibration keeps them together: folder, the name of "
    "an image's folder; a number, that of the folder so many levels up; or a regular expression "
    "with one capture group for the file's name, such as '^(part[0-9]+)_'.",
)
@click.option(
    "--memory",
    type=float,
    help="Gigabytes of features that are held at once; of more, images are read twice, and a "
    "training that is stopped goes on from OUTPUT.partial.  [default: 2]",
)
@click.option(
    "--checkpoint-every",
    "checkpoint_seconds",
    type=click.FloatRange(min=0),
    help="Seconds between two writes of OUTPUT.partial.  [default: 60]",
)
@click.option(
    "--frozen",
    is_flag=True,
    help="Leave out of the file what fre update and fre merge need, which is the larger part of "
    "it.",
)
@click.option(
    "--bits",
    type=click.Choice(["8", "10", "12", "14", "16"]),
    callback=lambda _context, _parameter, value: None if value is None else int(value),
    help="Range of the values of 16-bit image files, 0 to 2^bits - 1, in training and prediction. "
    " [default: the smallest that holds the largest value of the training images]",
)
@click.option("--seed", default=0, show_default=True, help="Of folds and autoencoders.")
@click.option("--threads", type=click.IntRange(min=0), default=0, help="0 takes all cores.")
@good_option
@skip_unreadable_option
@ray_options
@max_pixels_option
@json_option
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
    json_file: str | None,
    **parameters: Any,
) -> None:
    """Learn what good parts look like.

    DATA is a folder of good images, a list of them, or the root of a dataset, whose training split
    is taken. Folders whose names mean defects or masks are never learnt from. If names do not tell
    which of several folders are good, the error lists them: name one with --good.

    \b
    Example: fre train parts/good -o part.onnx
    """
    from fre.datasets import count_kinds, describe, open_dataset, require_train
    from fre.detector import FRE
    from fre.errors import OptionError
    from fre.storage.files import check_writable, discard
    from fre.training.checkpoint import CHECKPOINT_SECONDS

    refuse_without_ray(engine, {"--address": address, "--workers": workers})
    held = {"--memory": parameters["memory"], "--checkpoint-every": checkpoint_seconds}
    if engine == "ray" and (given := [name for name, value in held.items() if value is not None]):
        raise OptionError(f"{given[0]} has no effect with --engine ray, which holds no features")
    if parameters["memory"] is None:
        del parameters["memory"]
    stream = None
    if engine == "ray":
        from fre.distributed import Cluster, RayFit

        stream = RayFit(Cluster(address, workers, max(1, threads)))
    check_writable(output)
    opened = open_dataset(data, good=good)
    images = [sample.path for sample in require_train(opened)]
    for remark in opened.notes:
        note(remark)
    detector = FRE(**parameters)
    checkpoint = output.with_name(f"{output.name}.partial")
    try:
        with progress_bar() as progress:
            model = detector.fit(
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
    except ImageError as error:
        raise suggest_skipping(error, images) from error
    finally:
        if checkpoint.exists():
            interruption.aftermath = f"the same command goes on from {checkpoint}"
    model.save(output)
    discard(checkpoint)
    for remark in detector.notes_:
        note(remark)
    for skipped in detector.skipped_:
        note(f"left out: {skipped}")
    if model.geometry.bits is not None:
        bits = model.geometry.bits
        note(f"16-bit images are read as {bits}-bit values, 0 to {2**bits - 1:,} (--bits)")
    if caveat := model.calibration.caveat():
        note(caveat)
    if alike := model.metadata["provenance"].get("near_duplicates"):
        note(
            f"{alike} of {model.metadata['provenance']['n_images']} images have a near-duplicate: "
            "several shots of one part make the threshold too low; --group-by keeps them together"
        )
    summary = _training_summary(str(output), model, detector.seconds_, len(detector.skipped_))
    summary["dataset"] = {"path": str(data), "layout": opened.layout, **count_kinds(opened)}
    emit(summary, _training_text(summary, model, f"{data}: {describe(opened)}"), json_file)


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
                "scope": subspace["scope"],
                "dimension": subspace["dimension"],
                "rank": subspace["rank"],
                "kept_variance": subspace["kept_variance"],
            }
            for subspace in model.metadata["subspaces"]
        ],
        "threshold": model.threshold,
    }


def _training_text(summary: dict[str, Any], model: Model, data: str) -> str:
    seconds = summary["seconds"]
    lines = [
        f"{summary['model']}: {len(model.data) / 1e6:.1f} MB, from {summary['n_images']} good "
        f"images in {seconds['total']:.1f} s "
        f"(features {seconds['features']:.1f} s, fit {seconds['fit']:.1f} s; "
        f"{summary['images_per_second']:.0f} images/s)",
        f"  data: {data}",
    ]
    lines += [
        f"  {subspace['layer']}: {describe_rank(subspace)}"
        for subspace in model.metadata["subspaces"]
    ]
    lines.append(
        f"  anomalous above a score of {summary['threshold']:.6g} "
        f"({model.calibration.rate_in_words()})"
    )
    return "\n".join(lines)
