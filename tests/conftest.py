"""What the tests share: the real data where it is present, and small images of their own."""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

# Before NumPy, whose BLAS reads it: on small matrices several threads wait for one another longer
# than they compute. The processes that tests start inherit it.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from PIL import Image

settings.register_profile("fre", max_examples=12, deadline=None)
settings.load_profile("fre")

SHARED = Path(__file__).resolve().parents[2] / "shared"


def shared(*parts: str) -> Path:
    """A file or folder of the real data; the test is skipped where it is absent."""
    path = SHARED.joinpath(*parts)
    if not path.exists():
        pytest.skip(f"needs the real data in {path}, which is not on this machine")
    return path


@pytest.fixture(scope="session", autouse=True)
def _cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The tests neither read nor fill the user's cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FRE_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def tiles() -> Path:
    return shared("data", "magnetic_tile")


@pytest.fixture(scope="session")
def screws() -> Path:
    return shared("data", "screw")


def texture(seed: int, size: tuple[int, int] = (96, 96)) -> np.ndarray:
    """A grey weave with noise: uint8 (H, W, 3)."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[: size[0], : size[1]]
    phase = rng.uniform(0, 2 * np.pi, 2)
    weave = np.sin(x / 3 + phase[0]) + np.sin(y / 3 + phase[1])
    grey = 120 + 30 * weave + rng.normal(0, 4, size)
    return np.repeat(np.clip(grey, 0, 255).astype(np.uint8)[:, :, None], 3, axis=2)


def huge_png(path: Path, width: int, height: int) -> Path:
    """A PNG that claims a size and holds next to nothing."""
    Image.fromarray(np.zeros((1, 1), np.uint8)).save(path)
    data = bytearray(path.read_bytes())
    data[16:24] = width.to_bytes(4, "big") + height.to_bytes(4, "big")
    data[29:33] = zlib.crc32(data[12:29]).to_bytes(4, "big")
    path.write_bytes(data)
    return path


class LowRank(NamedTuple):
    """Features that span few dimensions, in some cases none.

    Attributes:
        X: float64 (n times repeats, dimension).
        n: number of different rows, at most.
        rank: of the rows before the offset, at most.
        offset: what is added to all of them.
    """

    X: np.ndarray
    n: int
    rank: int
    offset: float


@st.composite
def low_rank_features(draw: st.DrawFn) -> LowRank:
    """Few rows or many, in few dimensions or many, some of them repeated, far from 0 or not."""
    n, dimension = draw(st.integers(1, 12)), draw(st.integers(1, 12))
    rank, repeats = draw(st.integers(0, 5)), draw(st.integers(1, 3))
    offset = draw(st.sampled_from([0.0, 1.0, 1e4]))
    rng = np.random.default_rng(draw(st.integers(0, 99)))
    X = rng.normal(size=(n, rank)) @ rng.normal(size=(rank, dimension)) + offset
    return LowRank(np.repeat(X, repeats, axis=0), n, rank, offset)


@pytest.fixture(scope="session")
def good_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve small good images."""
    folder = tmp_path_factory.mktemp("good")
    for seed in range(12):
        Image.fromarray(texture(seed)).save(folder / f"{seed}.png")
    return folder
