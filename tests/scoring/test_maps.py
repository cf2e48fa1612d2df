"""The maps of layers: smoothing and enlargement."""

from __future__ import annotations

import numpy as np
from scipy.ndimage import gaussian_filter1d

from fre.images.resize import resize_map
from fre.scoring.maps import Enlargement, smoothing_matrix


def test_smoothing_is_a_gaussian_away_from_the_ends() -> None:
    signal = np.random.default_rng(0).normal(size=80)
    ours = smoothing_matrix(80, 2.5) @ signal
    np.testing.assert_allclose(ours[12:-12], gaussian_filter1d(signal, 2.5)[12:-12], atol=2e-3)
    np.testing.assert_allclose(smoothing_matrix(9, 4.0) @ np.ones(9), 1)


def test_enlargement_goes_from_grid_to_grid() -> None:
    small = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)
    expected = resize_map(resize_map(small, (6, 8)), (24, 20))
    ours = Enlargement.through((3, 4), (6, 8), (24, 20)).apply(small)
    np.testing.assert_allclose(ours, expected, atol=1e-5)
