"""FRE, the estimator: good images in, a model out."""

from __future__ import annotations

import inspect
import json
import os
import time
from collections.abc import Iterable, Sequence
from datetime import datetime, timezone
from itertools import repeat
from pathlib import Path
from typing import Any

import numpy as np

from fre.backbones import DEFAULT_BACKBONE, Backbone, get_backbone
from fre.calibration import Calibration, check_false_alarm_rate
from fre.datasets import training_images
from fre.errors import DatasetError, ImageError, OptionError
from fre.features import FeatureExtractor, Features, combined_digest
from fre.graph import FeatureLayout, detector_model
from fre.images import ImageSource
from fre.model import FORMAT, METADATA_KEY, Model
from fre.subspace.pca import Gram, Subspace, check_rank, make_folds
from fre.types import Progress
from fre.version import __version__

__all__ = ["FRE"]

FOLDS = 5


class FRE:
    """Feature reconstruction error: what good images' features span, and what falls outside.

    Ndiour, Ahuja, Genc and Tickoo, "FRE: A Fast Method For Anomaly Detection And Segmentation",
    BMVC 2023, with the linear autoencoder's optimum in closed form. Parameters follow
    scikit-learn's conventions: they are stored as given and checked by `fit`.

    Args:
        backbone: name of the frozen network.
        weights: a file of weights to use instead of the pretrained ones.
        layers: the layer whose features are modelled, as a list of one name; the backbone's
            reference layer, if ``None``.
        size: height and width of the input, or one number for both; the backbone's default, if
            ``None``.
        pool: edge of the average-pooling windows over the feature map.
        variance: share of the features' energy that the subspace keeps, in (0, 1].
        rank: a fixed number of dimensions instead.
        false_alarm_rate: share of good images that may be called anomalous, in (0, 1).
        seed: of the folds for cross-fitting.

    Attributes:
        seconds_: after `fit`, how long it took: ``total``, ``features`` and ``fit``.
        skipped_: after `fit`, the errors of the images that were left out.
    """

    seconds_: dict[str, float]
    skipped_: list[ImageError]

    def __init__(
        self,
        backbone: str = DEFAULT_BACKBONE,
        *,
        weights: Path | str | None = None,
        layers: Sequence[str] | None = None,
        size: int | tuple[int, int] | None = None,
        pool: int = 2,
        variance: float = 0.97,
        rank: int | None = None,
        false_alarm_rate: float = 0.01,
        seed: int = 0,
    ) -> None:
        self.backbone = backbone
        self.weights = weights
        self.layers = layers
        self.size = size
        self.pool = pool
        self.variance = variance
        self.rank = rank
        self.false_alarm_rate = false_alarm_rate
        self.seed = seed

    @classmethod
    def _parameter_names(cls) -> list[str]:
        return [name for name in inspect.signature(cls.__init__).parameters if name != "self"]

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """The constructor's parameters and their values."""
        return {name: getattr(self, name) for name in self._parameter_names()}

    def set_params(self, **params: Any) -> FRE:
        """Change some of the constructor's parameters.

        Raises:
            OptionError: an unknown parameter.
        """
        for name, value in params.items():
            if name not in self._parameter_names():
                valid = ", ".join(self._parameter_names())
                raise OptionError(f"FRE has no parameter {name!r}; choose from: {valid}")
            setattr(self, name, value)
        return self

    def __repr__(self) -> str:
        default = inspect.signature(type(self).__init__).parameters
        changed = (
            f"{name}={value!r}"
            for name, value in self.get_params().items()
            if value != default[name].default
        )
        return f"FRE({', '.join(changed)})"

    def fit(
        self,
        images: Path | str | Iterable[ImageSource],
        y: None = None,
        *,
        skip_unreadable: bool = False,
        threads: int = 0,
        progress: Progress | None = None,
    ) -> Model:
        """Learn what good images look like.

        Args:
            images: a folder of good images or the root of a dataset (its training split), files,
                or arrays, uint8 (H, W, 3), RGB. Two or more.
            y: ignored; scikit-learn's convention.
            skip_unreadable: leave out images that can't be read, instead of stopping.
            threads: threads of the network; 0 takes all cores.
            progress: called as the work advances.

        Raises:
            DatasetError: fewer than two images.
            ImageError: an image can't be read.
            BackboneError: an unknown backbone or layer, or unusable weights.
            OptionError: a parameter out of range, or a rank that the images do not allow.
        """
        began = time.perf_counter()
        check_rank(self.variance, self.rank)
        check_false_alarm_rate(self.false_alarm_rate)
        sources = _sources(images)
        backbone = get_backbone(self.backbone, weights=self.weights)
        size = _size(self.size, backbone.default_size)
        extractor = FeatureExtractor(
            backbone,
            _one_layer(self.layers, backbone),
            pool=self.pool,
            size=size,
            threads=threads,
        )
        layout = extractor.layout
        features = extractor.extract(sources, skip_unreadable=skip_unreadable, progress=progress)
        if len(features.X) < 2:
            raise DatasetError(
                f"training needs 2 good images or more; {len(features.X)} of {len(sources)} "
                "could be read"
            )
        extracted = time.perf_counter()
        gram = Gram(features.X)
        subspace = gram.fit(variance=self.variance, rank=self.rank)
        calibration = self._calibrate(gram, features, layout, progress)
        fitted = time.perf_counter()
        model = detector_model(extractor.network, backbone.normalisation, layout, size, subspace)
        metadata = {
            "format": FORMAT,
            "fre_version": __version__,
            "preset": "reference",
            "backbone": {
                "name": backbone.name,
                "layers": [layout.layer],
                "weights_sha256": backbone.weights_sha256,
            },
            "preprocessing": {
                "size": list(size),
                "resize": "stretch, bilinear, antialiased",
                "mean": list(backbone.normalisation.mean),
                "std": list(backbone.normalisation.std),
            },
            "subspaces": [_describe(subspace, layout)],
            "calibration": calibration.to_dict(),
            "provenance": {
                "n_images": len(features.X),
                "images_sha256": combined_digest(features.sha256),
                "created": _now(),
                "seed": self.seed,
            },
        }
        model.metadata_props.add(key=METADATA_KEY, value=json.dumps(metadata))
        result = Model(model.SerializeToString(), threads=threads)
        self.skipped_ = list(features.skipped)
        self.seconds_ = {
            "total": time.perf_counter() - began,
            "features": extracted - began,
            "fit": fitted - extracted,
        }
        return result

    def _calibrate(
        self,
        gram: Gram,
        features: Features,
        layout: FeatureLayout,
        progress: Progress | None,
    ) -> Calibration:
        # Folds are dealt in the order of the digests, so that the order of the files is no matter.
        by_digest = np.argsort(np.array(features.sha256), kind="stable")
        n = len(by_digest)
        folds = [by_digest[fold] for fold in make_folds(n, folds=FOLDS, seed=self.seed)]
        scores, maxima = np.empty((2, n))
        residuals = gram.cross_fit(
            folds, channels=layout.channels, variance=self.variance, rank=self.rank
        )
        for done, (rows, maps) in enumerate(residuals, start=1):
            scores[rows] = maps.sum(axis=1, dtype=np.float64)
            maxima[rows] = maps.max(axis=1)
            if progress:
                progress("Calibrating", done, len(folds))
        return Calibration.fit(scores, maxima, self.false_alarm_rate)


def _sources(images: Path | str | Iterable[ImageSource]) -> Sequence[ImageSource]:
    if isinstance(images, (str, Path)):
        sources: Sequence[ImageSource] = training_images(Path(images))
        origin = f"{images}: "
    else:
        sources, origin = list(images), ""
    if len(sources) < 2:
        raise DatasetError(f"{origin}training needs 2 good images or more, found {len(sources)}")
    return sources


def _size(size: int | tuple[int, int] | None, default: tuple[int, int]) -> tuple[int, int]:
    if size is None:
        return default
    height, width = tuple(repeat(size, 2)) if isinstance(size, int) else size
    if min(height, width) < 32 or max(height, width) > 8192:
        raise OptionError(f"size must be 32 to 8192 pixels a side, not {height} x {width}")
    return height, width


def _one_layer(layers: Sequence[str] | None, backbone: Backbone) -> str:
    names = [backbone.reference_layer] if layers is None else list(layers)
    if isinstance(layers, str) or len(names) != 1:
        raise OptionError(f"layers must be a list of one layer, not {layers!r}")
    return backbone.layer(names[0]).name


def _describe(subspace: Subspace, layout: FeatureLayout) -> dict[str, Any]:
    return {
        "layer": layout.layer,
        "scope": "image",
        "kind": "pca",
        "channels": layout.channels,
        "grid": list(layout.pooled),
        "pool": layout.pool,
        "dimension": layout.dimension,
        "rank": subspace.rank,
        "kept_variance": subspace.kept_variance,
        "singular_values": [float(value) for value in subspace.singular_values],
        "discarded": subspace.discarded,
        "n": subspace.n,
    }


def _now() -> str:
    """The time in UTC; ``SOURCE_DATE_EPOCH`` makes the whole file reproducible."""
    epoch = os.environ.get("SOURCE_DATE_EPOCH")
    moment = datetime.now(timezone.utc)
    if epoch:
        moment = datetime.fromtimestamp(int(epoch), timezone.utc)
    return moment.isoformat(timespec="seconds")
