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
    from fre.comparison import Comparison, compare
    from fre.detector import FRE
    from fre.errors import FREError, ImageError, InputError
    from fre.evaluation import evaluate
    from fre.growing import merge_models
    from fre.model import Model, load
    from fre.types import Evaluation, Prediction, Region

__all__ = [
    "FRE",
    "Comparison",
    "Evaluation",
    "FREError",
    "ImageError",
    "InputError",
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
    "FRE": "fre.detector",
    "Comparison": "fre.comparison",
    "Evaluation": "fre.types",
    "FREError": "fre.errors",
    "ImageError": "fre.errors",
    "InputError": "fre.errors",
    "Model": "fre.model",
    "Prediction": "fre.types",
    "Region": "fre.types",
    "compare": "fre.comparison",
    "evaluate": "fre.evaluation",
    "load": "fre.model",
    "merge_models": "fre.growing",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'fre' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
