"""A fitted detector: one ONNX file that scores images and can be updated."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from fre.images.decode import ImageSource
from fre.inference.predictor import Predictor, load_predictor
from fre.types import Progress


class Model(Predictor):
    """A fitted detector: it scores images, is updated with more good ones, and saved as one file.

    `load` opens a model file; `fre.FRE.fit` makes a model.
    """

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
            skip_unreadable: leave out images that can't be read, instead of stopping.
            progress: called as the work advances.

        Raises:
            AnomalousError: some of the images are anomalous to this model.
            FrozenModelError: the file lacks the statistics that an update needs.
            DatasetError: there are no images.
            ImageError: an image can't be read.
        """
        # Prediction does not import the training half.
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
