import numpy as np
import pytest

from fre.drawing.heatmaps import (
    CONTROL_POINTS,
    OUTLINE_COLOUR,
    colorize,
    contact_sheet,
    heat_layer,
    outline,
    overlay,
    thumbnail,
)
from fre.errors import OptionError

SCALE = (1.0, 3.0)


@pytest.fixture
def image() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (12, 20, 3), dtype=np.uint8)


def constant(value: float, shape: tuple[int, int] = (12, 20)) -> np.ndarray:
    return np.full(shape, value, np.float32)


def test_colours_end_at_the_control_points() -> None:
    values = np.array([[-5, 1, np.sqrt(3), 3, 1e30, np.inf, -np.inf]], np.float32)
    colours = colorize(values, SCALE)
    assert colours.shape == (1, 7, 3)
    assert colours.dtype == np.uint8
    low, high = CONTROL_POINTS[0], CONTROL_POINTS[-1]
    assert [tuple(colours[0, i]) for i in (0, 1, 6)] == [low] * 3
    assert [tuple(colours[0, i]) for i in (3, 4, 5)] == [high] * 3
    assert np.abs(colours[0, 2].astype(int) - CONTROL_POINTS[3]).max() <= 2


def test_lightness_rises_evenly_with_the_value() -> None:
    colours = colorize(np.linspace(0, 1, 101, dtype=np.float32)[None], (0, 1))[0] / 255
    linear = np.where(colours <= 0.04045, colours / 12.92, ((colours + 0.055) / 1.055) ** 2.4)
    lightness = 116 * np.cbrt(linear @ [0.2126, 0.7152, 0.0722]) - 16
    assert (np.diff(lightness) > 0).all()
    assert np.abs(lightness - np.linspace(lightness[0], lightness[-1], 101)).max() < 4


def test_an_image_below_the_scale_is_unchanged(image: np.ndarray) -> None:
    for value in (-np.inf, -100.0, 1.0):
        np.testing.assert_array_equal(overlay(image, constant(value), SCALE), image)


def test_a_warm_part_is_blended_as_if_all_were(image: np.ndarray) -> None:
    values = constant(0.5)
    values[3, 4], values[8, 15] = 2.0, 9.0
    layer = heat_layer(values, SCALE).astype(np.float32)
    alpha = layer[..., 3:] / 255
    expected = np.rint(image + alpha * (layer[..., :3] - image))
    np.testing.assert_array_equal(overlay(image, values, SCALE), expected)


def test_the_scale_is_absolute() -> None:
    grey = np.full((4, 4, 3), 90, np.uint8)
    calm, wild = constant(1.5, (4, 4)), constant(1.5, (4, 4))
    wild[0] = 50.0
    calm_overlay, wild_overlay = overlay(grey, calm, SCALE), overlay(grey, wild, SCALE)
    np.testing.assert_array_equal(calm_overlay[1:], wild_overlay[1:])
    assert (calm_overlay[0] != wild_overlay[0]).any()


def test_steps_are_of_the_logarithm_where_the_scale_is_above_0() -> None:
    values = np.array([[0.5, 1, 2, 4, 8, 16]], np.float32)
    of_map = colorize(values, (1, 8))[0]
    of_logarithm = colorize(np.array([[0, 0, 1, 2, 3, 3]], np.float32), (0, 3))[0]
    np.testing.assert_array_equal(of_map, of_logarithm)


def test_overlay_of_a_clear_anomaly_is_80_percent_heat() -> None:
    black = np.zeros((2, 2, 3), np.uint8)
    expected = np.rint(0.8 * np.array(CONTROL_POINTS[-1]))
    np.testing.assert_array_equal(
        overlay(black, constant(3, (2, 2)), SCALE), np.broadcast_to(expected, (2, 2, 3))
    )


def test_opacity_rises_with_the_value() -> None:
    layer = heat_layer(np.geomspace(1, 3, 51, dtype=np.float32)[None], SCALE)
    assert layer.shape == (1, 51, 4)
    alpha = layer[0, :, 3].astype(int)
    assert (np.diff(alpha) >= 0).all()
    assert (alpha[0], alpha[25], alpha[-1]) == (0, 102, 204)


def test_inputs_are_not_written_to(image: np.ndarray) -> None:
    anomaly_map, mask = constant(2), np.ones((12, 20), np.bool_)
    kept = image.copy()
    for array in (image, anomaly_map, mask):
        array.flags.writeable = False
    overlay(image, anomaly_map, SCALE)
    outline(image, mask)
    np.testing.assert_array_equal(image, kept)


def test_outline_surrounds_the_mask() -> None:
    black = np.zeros((9, 9, 3), np.uint8)
    mask = np.zeros((9, 9), np.bool_)
    mask[4, 4] = True
    drawn = (outline(black, mask, (255, 0, 0), width=1) == (255, 0, 0)).all(axis=2)
    expected = np.zeros((9, 9), np.bool_)
    expected[3:6, 3:6] = True
    expected[4, 4] = False
    np.testing.assert_array_equal(drawn, expected)
    assert (outline(black, mask) == OUTLINE_COLOUR).all(axis=2).sum() == 24


def test_outline_of_nothing_is_the_image(image: np.ndarray) -> None:
    np.testing.assert_array_equal(outline(image, np.zeros((12, 20), np.bool_)), image)


def test_thumbnail_keeps_proportions_and_small_images(image: np.ndarray) -> None:
    assert thumbnail(image, 10).shape == (6, 10, 3)
    assert thumbnail(image, 20) is image
    assert thumbnail(np.zeros((1000, 1, 3), np.uint8), 10).shape == (10, 1, 3)


def test_contact_sheet_has_as_many_rows_as_it_needs(image: np.ndarray) -> None:
    tiles = [(image, "a caption far too long for its image")] * 5
    sheet = contact_sheet(tiles, columns=3, cell=40)
    assert sheet.shape == (8 + 2 * (24 + 24 + 8), 8 + 3 * (40 + 8), 3)
    assert (sheet[8:32, 48:56] == 255).all(), "a caption stays within its cell"
    assert (sheet[64:, 104:] == 255).all(), "the last cell is empty"


@pytest.mark.parametrize("scale", [(1, 1), (2, 1), (np.nan, 1), (0, np.inf)])
def test_a_scale_has_to_rise(scale: tuple[float, float]) -> None:
    with pytest.raises(OptionError, match="low < high"):
        colorize(constant(0), scale)


def test_wrong_arrays_are_refused(image: np.ndarray) -> None:
    with pytest.raises(OptionError, match="NaN"):
        colorize(constant(np.nan), SCALE)
    with pytest.raises(OptionError, match=r"\(H, W\)"):
        colorize(np.zeros((2, 3, 4), np.float32), SCALE)
    with pytest.raises(OptionError, match="anomaly map"):
        overlay(image, constant(0, (20, 12)), SCALE)
    with pytest.raises(OptionError, match="mask"):
        outline(image, np.zeros((20, 12), np.bool_))
    with pytest.raises(OptionError, match=r"\(H, W, 3\)"):
        overlay(image[..., 0], constant(0), SCALE)
    with pytest.raises(OptionError, match="width"):
        outline(image, np.zeros((12, 20), np.bool_), width=0)


def test_sheets_need_images_and_room(image: np.ndarray) -> None:
    with pytest.raises(OptionError, match="at least one"):
        contact_sheet([])
    with pytest.raises(OptionError, match="column"):
        contact_sheet([(image, "")], columns=0)
