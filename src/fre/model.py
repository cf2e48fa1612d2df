"""A fitted detector: one ONNX file that scores images and can be updated."""

from __future__ import annotations

import warnings
from base64 import b64decode
from collections.abc import Iterable
from pathlib import Path

from fre.errors import FREWarning, ImageError
from fre.images.decode import ImageSource
from fre.inference.predictor import Predictor, load_predictor
from fre.types import Progress


class Model(Predictor):
    """A fitted detector: it scores images, is updated with more good ones, and saved as one file.

    `load` opens a model file; `fre.FRE.fit` makes a model.
    """

    def __repr__(self) -> str:
        facts = ", ".join(f"{name} {value}" for name, value in self._facts()[:4])
        return f"Model({facts})"

    def _facts(self) -> list[tuple[str, str]]:
        document, calibration = self.document, self.calibration
        height, width = self.size
        tiles = "" if self.geometry.tiling is None else " tiles"
        return [
            ("backbone", document.backbone.name),
            ("input", f"{height} x {width} pixels{tiles}"),
            ("trained on", f"{document.provenance.n_images} good images"),
            ("threshold", f"{self.threshold:.4g}"),
            ("false alarms", calibration.rate_in_words()),
            ("odd images, set aside", str(calibration.n_odd)),
            ("layers", ", ".join(dict.fromkeys(part.layer for part in document.subspaces))),
            ("file", f"{len(self.data) / 1e6:.1f} MB, sha256 {self.sha256[:12]}"),
        ]

    def _repr_html_(self) -> str:
        # Imported where they draw, as prediction needs neither.
        from fre.drawing.charts import Caption, good_histogram
        from fre.drawing.notebook import Chart, jpeg_picture, table

        scores = self.calibration.others
        caption = Caption(
            "model",
            "Held-out scores of the training images",
            f"{len(scores)} good images; the threshold is {self.threshold:.4g}.",
        )
        chart = Chart.of(good_histogram(caption, scores, self.threshold))
        shown = self.document.provenance.thumbnail
        part = "" if shown is None else jpeg_picture(b64decode(shown), "a training image")
        head = f"<div><strong>fre model</strong></div>{part}{table(self._facts())}"
        return head + chart._repr_html_()

    def update(
        self,
        images: Path | str | Iterable[ImageSource],
        *,
        accept_anomalous: bool = False,
        skip_unreadable: bool = False,
        progress: Progress | None = None,
    ) -> Model:
        """Return a model that is fitted to more good images; this model stays unchanged.

        The update needs neither the first training images nor PyTorch. This model scores the new
        images first, and refuses them if some are anomalous. docs/updates.md describes how scales
        and threshold follow from old and new images.

        Args:
            images: a folder of good images or the root of a dataset (its training split), files,
                or arrays, uint8 (H, W, 3), RGB.
            accept_anomalous: also use new images that are anomalous to this model.
            skip_unreadable: leave out images that can't be read, with a warning for each, instead
                of stopping.
            progress: called as the work advances.

        Raises:
            AnomalousError: some of the images are anomalous to this model.
            FrozenModelError: the file lacks the statistics that an update needs.
            DatasetError: there are no images.
            ImageError: an image can't be read.
        """
        # Prediction does not import the training half.
        from fre.training.update import update_model

        skipped: list[ImageError] = []
        updated = update_model(
            self,
            images,
            accept_anomalous=accept_anomalous,
            skipped=skipped if skip_unreadable else None,
            threads=self._threads,
            progress=progress,
        )
        for error in skipped:
            warnings.warn(f"left out: {error}", FREWarning, stacklevel=2)
        return updated


def load(
    path: Path | str, *, runtime: str = "onnxruntime", threads: int = 0, many: bool = False
) -> Model:
    """Open a model file. It runs no code from the file but the network.

    Args:
        path: a file written by `Model.save` or ``fre train``.
        runtime: ``"onnxruntime"``; ``"openvino"`` if it is installed; ``"cuda"``, ``"coreml"`` or
            ``"directml"`` if ONNX Runtime has them; or ``"auto"``, the faster of the first two,
            measured when the model first runs on a machine.
        threads: number of threads of the network, 0 for all cores.
        many: whether many images will be scored: the runtime is then opened for the most images
            per second only.

    Raises:
        ModelFileError: the file is missing, damaged, not ONNX, not written by fre, or of another
            format.
        MissingDependencyError: the runtime is not installed.
    """
    return load_predictor(Model, path, runtime=runtime, threads=threads, many=many)
