"""``fre predict``."""

from __future__ import annotations

from contextlib import ExitStack, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fre.cli.common import (
    batch_size_option,
    count_option,
    emit,
    flag_option,
    interruption,
    json_option,
    max_pixels_option,
    note,
    note_left_out,
    progress_bar,
    ray_options,
    refuse_without_ray,
    runtime_options,
)
from fre.cli.help import LongCommand
from fre.cli.listing import Listing
from fre.errors import ImageError, InputError, OptionError

if TYPE_CHECKING:
    from fre.distributed import Cluster
    from fre.model import Model

PAGE = "index.html"
"""Name of the page that -o writes."""


@dataclass(frozen=True)
class ResultFolder:
    """The folder that -o names.

    Attributes:
        path: where it is.
        maps: form of the anomaly maps; ``None`` writes none.
        masks: whether to write masks.
        overwrite: whether to replace earlier results.
    """

    path: Path
    maps: str | None
    masks: bool
    overwrite: bool


@click.command(
    cls=LongCommand,
    groups={
        "Ray": "--engine --address --workers --format --shard-size",
        "Speed and limits": "--batch-size --runtime --threads --max-pixels",
    },
    details="""
    IMAGES are files, folders and lists of files (.txt with one path a line; .csv and .jsonl as for
    fre train). With Ray they may also be URLs (s3://, gs://, https://), and a list may be @FILE.
    Ray writes shards of some lines each, and an interrupted run resumes.
    """,
)
@click.argument("model", type=click.Path(path_type=Path))
@click.argument("images", type=click.Path(), nargs=-1, required=True)
@click.option(
    "-o",
    "--output",
    type=click.Path(),
    metavar="DIR",
    help="Folder for index.html, overlays, maps, masks and predictions.jsonl; with Ray, a folder "
    "or URL for shards.",
)
@click.option(
    "--maps",
    type=click.Choice(["tiff", "npy", "png"]),
    help="Also write the anomaly maps (with -o): float32, or 16-bit grey for png.",
)
@flag_option(
    "--masks", help="Also write binary masks (with -o): 255 for anomalous pixels, 0 for others."
)
@flag_option("--all-regions", help="Also find regions in images that are judged good.")
@flag_option("--overwrite", help="Replace earlier results in the folder; other files in it stay.")
@json_option
@click.option(
    "--csv", "csv_file", metavar="FILE", help="Write a table as CSV to FILE; - is stdout."
)
@click.option(
    "--sort",
    type=click.Choice(["given", "score"]),
    default="given",
    help="Order of the results: score puts the most anomalous first.  [default: given]",
)
@ray_options
@click.option(
    "--format",
    "form",
    type=click.Choice(["jsonl", "parquet"]),
    help="File format of the shards.  [default: jsonl]",
)
@count_option("--shard-size", help="Number of images in a shard.  [default: 1000]")
@batch_size_option
@runtime_options
@max_pixels_option
def predict(
    model: Path,
    images: tuple[str, ...],
    output: str | None,
    maps: str | None,
    masks: bool,
    engine: str,
    address: str | None,
    workers: int | None,
    form: str | None,
    shard_size: int | None,
    **options: Any,
) -> int:
    """Score images: a table at a terminal, else one line of JSON for each.

    \b
    Example: fre predict part.onnx incoming -o results --maps tiff
             fre predict part.onnx incoming --sort score --csv scores.csv
             fre predict part.onnx s3://line-3/june -o s3://line-3/scores --engine ray
    """
    of_ray = {"--address": address, "--workers": workers, "--format": form}
    refuse_without_ray(engine, {**of_ray, "--shard-size": shard_size})
    for option, wanted in (("--maps", maps), ("--masks", masks)):
        if wanted and not output:
            raise OptionError(f"{option} needs a folder to write to: add -o FOLDER")
    if engine != "ray":
        from fre.model import load

        runtime, overwrite = options.pop("runtime"), options.pop("overwrite")
        loaded = load(model, runtime=runtime, threads=options.pop("threads"), many=True)
        folder = None
        if output is not None:
            folder = ResultFolder(Path(output), maps, masks, overwrite)
        return _predict_here(loaded, model.name, [*map(Path, images)], folder, **options)
    if output is None:
        raise OptionError("--engine ray needs a folder to write to: add -o FOLDER")
    if maps or masks:
        raise OptionError(
            "--maps and --masks are not for --engine ray, which writes scores and regions"
        )
    for option, wanted in (
        ("--all-regions", options.pop("all_regions")),
        ("--csv", options.pop("csv_file")),
        ("--sort score", options.pop("sort") == "score"),
    ):
        if wanted:
            raise OptionError(f"{option} is not for --engine ray")
    from fre.distributed import Cluster

    cluster = Cluster(address, workers, max(1, options.pop("threads")))
    options |= {"form": form or "jsonl", "shard_size": shard_size or 1000}
    return _predict_on_ray(model, images, output, cluster, **options)


def _predict_on_ray(
    model: Path,
    images: tuple[str, ...],
    output: str,
    cluster: Cluster,
    *,
    json_file: str | None,
    **options: Any,
) -> int:
    from fre.distributed import predict
    from fre.model import load

    loaded = load(model)
    interruption.aftermath = "finished shards are kept, and the same command resumes"
    with progress_bar() as progress:
        result = predict(loaded, images, output, cluster=cluster, progress=progress, **options)
    text = (
        f"{result.output}: {result.n_images} images in {result.n_shards} shards "
        f"({result.n_found} from an earlier run), {result.n_anomalous} anomalous, "
        f"{result.n_errors} could not be read; {result.seconds:.1f} s"
    )
    emit(result.to_dict(), text, json_file)
    return InputError.exit_code if result.n_errors else 0


def _images_of(source: Path) -> list[Path]:
    """Return the images of a folder or a list, or the one image that is named."""
    from fre.images.decode import find_images
    from fre.storage.listing import SUFFIXES

    if source.is_file() and source.suffix.lower() not in SUFFIXES:
        from fre.datasets import LIST_SUFFIXES, listed_images

        if source.suffix.lower() in LIST_SUFFIXES:
            return listed_images(source)
    return find_images(source)


def _predict_here(
    model: Model,
    name: str,
    images: list[Path],
    output: ResultFolder | None,
    *,
    all_regions: bool,
    batch_size: int,
    **listing: Any,
) -> int:
    from fre.report.prediction_files import FolderWriter, output_names, shown_names
    from fre.storage.listing import RESULTS
    from fre.storage.staged_folder import staged_folder

    paths = [path for source in images for path in _images_of(source)]
    for source in images:
        note_left_out(source)
    results = Listing(shown_names(images, paths), **listing)
    folder = writer = gallery = None
    with ExitStack() as stack:
        progress = stack.enter_context(progress_bar())
        if output:
            from fre.report.prediction_page import PredictionGallery

            folder = stack.enter_context(
                staged_folder(output.path, replace=RESULTS, overwrite=output.overwrite)
            )
            gallery = PredictionGallery(model)
            writer = FolderWriter(folder, model.map_range, output.maps, output.masks, gallery)
            names = output_names(images, paths)
        with writer or nullcontext():
            predictions = model.predict_many(
                paths, batch_size=batch_size, errors="return", all_regions=all_regions
            )
            for index, result in enumerate(predictions):
                results.add(result, writer.files(names[index]) if writer else None)
                if gallery:
                    gallery.count(result)
                if writer and not isinstance(result, ImageError):
                    writer.add(result, names[index])
                if results.reader_gone and not writer:
                    break
                progress("Predicting", index + 1, len(paths))
        if folder and gallery:
            results.write_lines(folder / RESULTS[0])
            gallery.write(folder / PAGE, name)
    results.finish()
    written = f"; written to {output.path}: open {output.path / PAGE}" if output else ""
    note(results.summary() + written)
    return InputError.exit_code if results.failures else 0
