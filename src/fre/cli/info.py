"""``fre info``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from fre.cli.common import describe_rank, emit, flag_option, json_option, note_all

if TYPE_CHECKING:
    from fre.checks.model_check import ModelCheck
    from fre.inference.document import Provenance
    from fre.model import Model


@click.command()
@click.argument("model", type=click.Path(path_type=Path))
@click.option("-v", "--verbose", is_flag=True, help="Also show each layer's subspace and its rank.")
@flag_option(
    "--check",
    "Check the file instead: integrity, milliseconds an image, and whether the installed runtimes "
    "agree; exits with 1 if they don't.",
)
@json_option
def info(model: Path, verbose: bool, check: bool, json_file: str | None) -> int:
    """Show the contents of a model file.

    \b
    Example: fre info part.onnx
             fre info --check part.onnx
    """
    if check:
        return _check(model, json_file)
    from fre.model import load

    loaded = load(model)
    values = {
        "model": str(model),
        "bytes": len(loaded.data),
        "sha256": loaded.sha256,
        **loaded.metadata,
        "odd": [{"name": image.name, "score": image.score} for image in loaded.odd_images],
    }
    emit(values, _info_text(model, loaded, verbose), json_file)
    return 0


def _check(path: Path, json_file: str | None) -> int:
    """Check the file, print the result, and return the exit code."""
    from fre.checks.model_check import check_file

    found = check_file(path)
    emit({"model": str(path), **found.to_dict()}, _check_text(path, found), json_file)
    note_all(found.problems)
    return 1 if found.problems else 0


def _check_text(path: Path, found: ModelCheck) -> str:
    rows = [("file", f"{path}, {found.megabytes:.1f} MB, sound: digest, document and graph")]
    rows += [
        (
            one.name,
            f"{one.milliseconds:.1f} ms an image, {one.seconds_to_first:.2f} s to the first score",
        )
        for one in found.runtimes
    ]
    rows += [
        (
            "agreement",
            f"{one.name} differs from {found.runtimes[0].name} by at most "
            f"{one.score_difference:.1e} in scores and {one.map_difference:.1e} in maps",
        )
        for one in found.runtimes[1:]
    ]
    rows += [("not checked", remark) for remark in found.remarks]
    return "\n".join(f"{name:<12} {value}" for name, value in rows)


def _info_text(path: Path, model: Model, verbose: bool) -> str:
    from fre.inference.document import FORMAT

    document, backbone = model.document, model.document.backbone
    rows = [
        ("file", f"{path}, {len(model.data) / 1e6:.1f} MB"),
        ("sha256", model.sha256),
        ("written by", f"fre {document.fre_version}, format {FORMAT}"),
        ("backbone", f"{backbone.name} (weights {backbone.weights_sha256[:12]})"),
        ("input", input_in_words(model)),
    ]
    if model.roi is not None:
        height, width = model.roi.inspected.shape
        share = model.roi.inspected.mean()
        rows.append(("inspected", f"{share:.1%} of the image, by a mask of {height} x {width}"))
    if verbose:
        rows += [
            ("subspace", f"{subspace.layer}, pool {subspace.pool}: {describe_rank(subspace)}")
            for subspace in document.subspaces
        ]
    rows += [
        (
            "calibration",
            f"{len(model.calibration.scores)} good images, "
            f"{model.calibration.rate_in_words()}, threshold {model.threshold:.6g}"
            f"{_chosen(document.provenance)}",
        ),
        *(("odd image", f"{image.name}, score {image.score:.3g}") for image in model.odd_images),
        _origin_row(document.provenance),
        ("learns more", _growth(model)),
    ]
    return "\n".join(f"{name:<12} {value}" for name, value in rows)


def input_in_words(model: Model) -> str:
    """Describe how images are resized to the input; sizes are height x width."""
    geometry, size = model.geometry, "{} x {}".format(*model.size)
    if geometry.tiling is not None:
        whole = geometry.tiling.image_size
        images = "at their own size" if whole is None else "stretched to {} x {}".format(*whole)
        return (
            f"tiles of {size} pixels (height x width), {geometry.tiling.overlap} or more shared, "
            f"of images {images}"
        )
    how = "stretched" if geometry.fit == "stretch" else "scaled with their aspect kept, and padded"
    return f"{size} pixels (height x width), images {how}"


def _growth(model: Model) -> str:
    if not model.document.can_update:
        return "no: it is frozen"
    from fre.onnx_tools.side_arrays import without_arrays

    beside = len(model.data) - len(without_arrays(model.data))
    steps = len(model.document.provenance.history or [])
    since = f"; updated or merged {steps} time{'s' if steps > 1 else ''}" if steps else ""
    return f"yes: {beside / 1e6:.1f} MB of the file{since}"


def _chosen(provenance: Provenance) -> str:
    return f" ({provenance.threshold})" if provenance.threshold else ""


def _origin_row(provenance: Provenance) -> tuple[str, str]:
    images = f"{provenance.n_images} images ({provenance.images_sha256[:12]})"
    return "trained", f"{provenance.created} on {images}"
