"""Visual anomaly detection from a handful of good images.

    >>> from fre import FRE, load, evaluate
    >>> model = FRE().fit("parts/good")                       # doctest: +SKIP
    >>> model.predict("incoming/0001.png").score              # doctest: +SKIP

Every public name is loaded when it is first used: ``import fre`` itself imports nothing heavy.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from fre.version import __version__

if TYPE_CHECKING:
    from fre.detector import FRE
    from fre.errors import FREError, ImageError, InputError
    from fre.evaluation.compare import Comparison, compare
    from fre.evaluation.evaluate import evaluate
    from fre.evaluation.figures import Evaluation
    from fre.inference.prediction import Prediction
    from fre.model import Model, load
    from fre.scoring.regions import Region
    from fre.training.config import Autoencoder, Method
    from fre.training.merge import merge_models

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
    "evaluate": "fre.evaluation.evaluate",
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
