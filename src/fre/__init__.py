"""Visual anomaly detection from a handful of good images.

    >>> from fre import FRE, load, evaluate
    >>> model = FRE().fit("parts")                            # doctest: +SKIP
    >>> model.predict("incoming/0001.png").score              # doctest: +SKIP

The rooms, in the order of the data's way; each imports only rooms before it:

- ``storage``, ``onnx_tools``: files and ONNX graphs, without knowledge of fre.
- ``images``, ``datasets``: a file becomes pixels, a folder becomes samples.
- ``runtimes``, ``backbones``, ``features``: a frozen network turns pixels into features.
- ``subspaces``: PCA of good images' features; what it leaves are squared residuals.
- ``drawing``: heat maps and charts from arrays.
- ``scoring``: squared residuals become a score, an anomaly map, a threshold and regions.
- ``inference``: a model file becomes predictions.
- ``training``: good images become a model file, and a model file is updated or merged.
- ``model``, ``detector``: `Model` and `FRE`, on top of both.
- ``evaluation``, ``report``: figures on labelled images, and pages that show them.
- ``line``, ``distributed``, ``benchmark``, ``serve``, ``cli``: ways to use it.

docs/architecture.md shows the way of the data and says where to change what.

Every public name is loaded when it is first used: ``import fre`` itself imports nothing heavy.
"""

from __future__ import annotations

import importlib
import os
from typing import TYPE_CHECKING, Any

from fre.version import __version__

if TYPE_CHECKING:
    from fre.detector import FRE
    from fre.errors import FREError, ImageError, InputError
    from fre.evaluation.compare import Comparison, compare
    from fre.evaluation.figures import Evaluation
    from fre.inference.prediction import Prediction
    from fre.model import Model, load
    from fre.report.evaluate import evaluate
    from fre.scoring.regions import Region
    from fre.training.config import Autoencoder, Method
    from fre.training.merge import merge_models

# ONNX Runtime reads it when it is imported. It would otherwise write an identifier of the device to
# the user's cache, and send figures of use to its makers: nothing leaves a machine through fre.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

__all__ = [
    "FRE",
    "Autoencoder",
    "Comparison",
    "Evaluation",
    "FREError",
    "ImageError",
    "InputError",
    "Method",
    "Model",
    "Prediction",
    "Region",
    "__version__",
    "compare",
    "evaluate",
    "load",
    "merge_models",
]

_HOMES = {
    "Autoencoder": "fre.training.config",
    "FRE": "fre.detector",
    "Method": "fre.training.config",
    "compare": "fre.evaluation.compare",
    "evaluate": "fre.report.evaluate",
    "load": "fre.model",
    "merge_models": "fre.training.merge",
    "Comparison": "fre.evaluation.compare",
    "Evaluation": "fre.evaluation.figures",
    "FREError": "fre.errors",
    "ImageError": "fre.errors",
    "InputError": "fre.errors",
    "Model": "fre.model",
    "Prediction": "fre.inference.prediction",
    "Region": "fre.scoring.regions",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'fre' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
