"""A fitted detector: one ONNX file that scores images and can learn more."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from fre.images.decode import ImageSource
from fre.inference.predictor import Predictor, load_predictor
from fre.types import Progress


class Model(Predictor):
    """A fitted detector: it scores images, learns more good ones, and is saved as one file.

    `load` opens one from a file, and `fre.FRE.fit` makes one.
    """

    def update(
        self,
        images: Path | str | Iterable[ImageSource],
        *,
        accept_anomalous: bool = False,
        skip_unreadable: bool = False,
        progress: Progress | None = None,
    ) -> Model:
        """A model that has learnt from more good images; this one stays as it is.

        The images that it was made from are not needed, nor is PyTorch. The new ones are first
        scored by this model; their residuals, and those of the old ones brought to the new number
        of images, are what scales and threshold are made of (docs/updates.md).

        Args:
            images: a folder of good images or the root of a dataset (its training split), files,
                or arrays, uint8 (H, W, 3), RGB.
            accept_anomalous: learn from images that this model calls anomalous, too.
            skip_unreadable: leave out images that can't be read, instead of stopping.
            progress: called as the work advances.

        Raises:
            AnomalousError: this model calls some of the images anomalous.
            FrozenModelError: the file lacks what an update needs.
            DatasetError: there are no images.
            ImageError: an image can't be read.
        """
        # Only an update needs what trains.
        from fre.training.update import update_model

        return update_model(
            self,
            images,
            accept_anomalous=accept_anomalous,
            skip_unreadable=skip_unreadable,
            threads=self._threads,
            progress=progress,
        )


def load(
    path: Path | str, *, runtime: str = "onnxruntime", threads: int = 0, many: bool = False
) -> Model:
    """Open a model file. Nothing in it is run but the network itself.

    Args:
        path: a file written by `Model.save` or ``fre train``.
        runtime: ``"onnxruntime"``; ``"openvino"`` if it is installed; ``"cuda"``, ``"coreml"`` or
            ``"directml"`` if ONNX Runtime has them; or ``"auto"``, the faster of the first two,
            which is measured when the model first runs on a machine.
        threads: of the network; 0 takes all cores.
        many: whether images will come in numbers, while others are decoded, so that the model is
            not opened for single ones before.

    Raises:
        ModelFileError: the file is missing, damaged, not ONNX, not ours, or of another format.
        MissingDependencyError: the runtime is not installed.
    """
    return load_predictor(Model, path, runtime=runtime, threads=threads, many=many)
