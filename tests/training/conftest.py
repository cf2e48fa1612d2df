"""Models that are fitted once."""

from __future__ import annotations

import pytest

from fitted_models import IMAGES, detector
from fre import Model


@pytest.fixture(scope="session")
def model() -> Model:
    return detector().fit(IMAGES[:12])


@pytest.fixture(scope="session")
def whole() -> Model:
    return detector().fit(IMAGES)


@pytest.fixture(scope="session")
def reference() -> Model:
    return detector("reference").fit(IMAGES[:12])
