"""``fre merge``."""

from __future__ import annotations

from pathlib import Path

import click

from fre.cli.common import decision_values, emit, json_option, note, output_option, threshold_lines


@click.command()
@click.argument("models", nargs=-1, required=True, type=click.Path(path_type=Path))
@output_option
@json_option
def merge(models: tuple[Path, ...], output: Path, json_file: str | None) -> None:
    """Merge models that were trained on different good images.

    They must have the same backbone, layers, pooling, scopes, input, region of interest and
    reading; if not, the error names the differences. The first model's false-alarm rate is kept.

    \b
    Example: fre merge line-1.onnx line-2.onnx -o both.onnx
    """
    from fre.model import load
    from fre.storage.files import check_writable
    from fre.training.merge import merge_models

    if len(models) < 2:
        raise click.UsageError(f"a merge needs 2 models or more, found {len(models)}")
    loaded = [load(model) for model in models]
    check_writable(output)
    merged = merge_models(*loaded)
    merged.save(output)
    if caveat := merged.calibration.caveat():
        note(caveat)
    counts = [model.document.provenance.n_images for model in loaded]
    n_images = sum(counts)
    if 3 * max(counts) < n_images:
        note(
            "each model was trained on few of all images, which makes the threshold too low: test "
            "it on other good images (fre evaluate), and raise it (fre threshold)"
        )
    values = {
        "model": str(output),
        "n_models": len(models),
        "n_images": n_images,
        **decision_values(merged),
        "previous_thresholds": [model.threshold for model in loaded],
    }
    text = f"{output}: {len(models)} models, {n_images} good images in all"
    emit(values, "\n".join([text, *threshold_lines(merged)]), json_file)
