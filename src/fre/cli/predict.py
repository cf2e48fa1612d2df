"""``fre predict``."""

from __future__ import annotations

from pathlib import Path

import click

from fre.cli.common import (
    json_option,
    max_pixels_option,
    note,
    print_line,
    progress_bar,
    runtime_options,
    write_text,
)
from fre.errors import ImageError, InputError, OptionError


@click.command()
@click.argument("model", type=click.Path(path_type=Path))
@click.argument("images", type=click.Path(path_type=Path), nargs=-1, required=True)
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    help="A folder for overlays, maps, masks and predictions.jsonl.",
)
@click.option(
    "--maps",
    type=click.Choice(["tiff", "npy", "png"]),
    help="Write the anomaly maps, too (with -o): float32, or 16-bit grey for png.",
)
@click.option(
    "--masks",
    is_flag=True,
    help="Write binary masks, too (with -o): 255 where a pixel is anomalous, 0 elsewhere.",
)
@click.option("--overwrite", is_flag=True, help="Replace the folder if it is not empty.")
@click.option("--batch-size", type=click.IntRange(min=1), default=8, show_default=True)
@runtime_options
@max_pixels_option
@json_option
def predict(
    model: Path,
    images: tuple[Path, ...],
    output: Path | None,
    maps: str | None,
    masks: bool,
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

    from fre.files import staged_folder, write_atomic
    from fre.images import find_images
    from fre.model import load
    from fre.output import FolderWriter, json_line

    for option, wanted in (("--maps", maps), ("--masks", masks)):
        if wanted and not output:
            raise OptionError(f"{option} needs a folder to write to: add -o FOLDER")
    loaded = load(model, runtime=runtime, threads=threads)
    paths = [path for source in images for path in find_images(source)]
    lines: list[str] = []
    failures = anomalous = 0
    reader_left = False
    staging = staged_folder(output, overwrite=overwrite) if output else nullcontext()
    with staging as folder, progress_bar() as progress:
        writer = FolderWriter(folder, images, loaded.map_range, maps, masks) if folder else None
        results = loaded.predict_many(paths, batch_size=batch_size, errors="return")
        for done, result in enumerate(results, start=1):
            lines.append(json_line(result))
            if json_file is None:
                reader_left = reader_left or not print_line(lines[-1])
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
            write_atomic(folder / "predictions.jsonl", text.encode())
    if json_file is not None:
        write_text(json_file, text)
    note(
        f"{anomalous} of {len(lines) - failures} images anomalous"
        + (f"; {failures} could not be read" if failures else "")
        + (f"; written to {output}" if output else "")
    )
    return InputError.exit_code if failures else 0
