# SPDX-FileCopyrightText: 2026 The clipsam_hf authors
# SPDX-License-Identifier: Apache-2.0
"""A picture of a map says the same whatever else the map holds, and says it to every eye."""

import numpy as np
import pytest
import torch
from PIL import Image

from clipsam_hf.visualization import heat_map, overlay, side_by_side


PHOTO = Image.new("RGB", (120, 80), (100, 150, 200))
FLAT = np.zeros((80, 120), np.float32)
REGION = {"box": {"xmin": 40, "ymin": 30, "xmax": 60, "ymax": 50}, "score": 0.87, "area": 300}


def lightness(rgb: np.ndarray) -> np.ndarray:
    """CIE L* of sRGB colours in 0..255."""
    linear = np.where(rgb / 255 <= 0.04045, rgb / 255 / 12.92, ((rgb / 255 + 0.055) / 1.055) ** 2.4)
    luminance = linear @ np.array([0.2126, 0.7152, 0.0722])
    return np.where(luminance > 0.008856, 116 * np.cbrt(luminance) - 16, 903.3 * luminance)


def test_a_value_has_one_colour_whatever_else_the_map_holds():
    alone, beside_a_defect = heat_map(np.full((1, 2), 0.3)), heat_map(np.array([[0.3, 1.0]]))
    assert alone.getpixel((0, 0)) == beside_a_defect.getpixel((0, 0))


def test_a_flawless_map_is_black_and_a_certain_one_pale():
    assert heat_map(np.array([[0.0, 1.0]])).tobytes() == bytes([0, 0, 4, 252, 255, 164])


def test_the_ramp_rises_evenly_in_lightness():
    ramp = np.asarray(heat_map(np.linspace(0, 1, 256)[None]))[0].astype(float)
    steps = np.diff(lightness(ramp))
    assert (steps > -0.05).all()
    np.testing.assert_allclose(lightness(ramp), np.linspace(0, 98, 256), atol=6)


def test_order_survives_without_the_red_green_difference():
    # Deuteranopia in linear RGB (Viénot, Brettel and Mollon 1999): red and green become one channel.
    ramp = np.asarray(heat_map(np.linspace(0, 1, 64)[None]))[0] / 255
    seen = ramp**2.2 @ np.array([[0.29275, 0.70725, 0.0], [0.29275, 0.70725, 0.0], [-0.02234, 0.02234, 1.0]]).T
    assert (np.diff(lightness(255 * np.clip(seen, 0, 1) ** (1 / 2.2))) > 0).all()


def test_the_scale_is_that_of_the_caller():
    assert heat_map(np.array([[2.0, 4.0]]), vmin=2, vmax=4).tobytes() == heat_map(np.array([[0.0, 1.0]])).tobytes()


def test_values_outside_the_scale_get_the_end_colours():
    assert heat_map(np.array([[-3.0, 7.0]])).tobytes() == heat_map(np.array([[0.0, 1.0]])).tobytes()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_tensors_are_painted_like_arrays(dtype):
    values = torch.tensor([[0.0, 0.25, 0.5, 1.0]], dtype=dtype, requires_grad=True)
    assert heat_map(values).tobytes() == heat_map(np.array([[0.0, 0.25, 0.5, 1.0]])).tobytes()


def test_a_plain_overlay_is_the_weighted_mean_of_photograph_and_heat():
    picture = overlay(PHOTO, FLAT, alpha=0.25, color_bar=False)
    assert picture.size == PHOTO.size
    assert picture.getcolors() == [(9600, (75, 112, 151))]  # 0.75 * (100, 150, 200) + 0.25 * (0, 0, 4)


@pytest.mark.parametrize(("alpha", "expected"), [(0, (100, 150, 200)), (1, (0, 0, 4))])
def test_alpha_reaches_from_the_photograph_to_the_map_alone(alpha, expected):
    assert overlay(PHOTO, FLAT, alpha=alpha, color_bar=False).getpixel((5, 5)) == expected


def test_the_colour_bar_stands_beside_the_photograph_and_leaves_it_alone():
    with_bar, without = overlay(PHOTO, FLAT), overlay(PHOTO, FLAT, color_bar=False)
    assert with_bar.height == PHOTO.height and with_bar.width > PHOTO.width
    assert with_bar.crop((0, 0, *PHOTO.size)).tobytes() == without.tobytes()
    bar = with_bar.crop((PHOTO.width, 0, *with_bar.size))
    colours = {colour for _, colour in bar.getcolors(maxcolors=10**6)}
    assert {(0, 0, 4), (252, 255, 164)} <= colours
    assert any(max(colour) < 50 and len(set(colour)) == 1 for colour in colours), "no number is printed"


def test_the_numbers_of_the_colour_bar_follow_the_scale():
    bars = [overlay(PHOTO, FLAT, vmax=vmax).crop((PHOTO.width, 0, 1000, 80)).tobytes() for vmax in (1.0, 0.5)]
    assert bars[0] != bars[1]


def test_the_score_is_written_under_the_picture():
    low, high = (overlay(PHOTO, FLAT, score=score, color_bar=False) for score in (0.1, 0.9))
    assert low.height > PHOTO.height
    assert low.crop((0, 0, *PHOTO.size)).tobytes() == high.crop((0, 0, *PHOTO.size)).tobytes()
    assert low.tobytes() != high.tobytes()


def test_a_region_is_framed_outside_its_box():
    plain = np.asarray(overlay(PHOTO, FLAT, color_bar=False))
    framed = np.asarray(overlay(PHOTO, FLAT, color_bar=False, regions=[REGION]))
    np.testing.assert_array_equal(framed[30:50, 40:60], plain[30:50, 40:60])
    assert (framed[29:51, [39, 60]] == 255).all() and (framed[[29, 50], 39:61] == 255).all()
    assert (framed[28:52, [38, 61]] == 0).all()


def test_a_region_at_the_border_keeps_its_whole_frame():
    whole = {"box": {"xmin": 0, "ymin": 0, "xmax": 120, "ymax": 80}, "score": 1.0}
    framed = np.asarray(overlay(PHOTO, FLAT, color_bar=False, regions=[whole]))
    # Below row 60 the score is written over the frame: there is no room outside.
    assert (framed[:60, [0, -1]] == 255).all() and (framed[0] == 255).all() and (framed[-1, 60:] == 255).all()


@pytest.mark.parametrize("size", [(1, 1), (2000, 1), (1, 2000), (7, 5)])
def test_every_size_gets_its_picture(size):
    region = {"box": {"xmin": 0, "ymin": 0, "xmax": 1, "ymax": 1}, "score": 1.0}
    overlay(Image.new("RGB", size), np.zeros(size[::-1]), score=1.0, regions=[region])


def test_pictures_stand_side_by_side_under_their_titles():
    joined = side_by_side({"one": PHOTO, "two": PHOTO.crop((0, 0, 50, 40))})
    assert joined.width > 170 and joined.height > 80
    assert joined.getpixel((10, joined.height - 1)) == (100, 150, 200)


# Mistakes


@pytest.mark.parametrize(
    ("anomaly_map", "error", "reason"),
    [
        (np.zeros((1, 80, 120)), ValueError, r"shape \(height, width\), got \(1, 80, 120\)"),
        (np.zeros((0, 3)), ValueError, "shape"),
        (np.array([[np.nan]]), ValueError, "NaN"),
        (np.array([[np.inf]]), ValueError, "infinite"),
        (torch.tensor([[float("nan")]]), ValueError, "NaN"),
        (np.array([["a"]]), TypeError, "real numbers"),
        ([[0.0]], TypeError, "got list"),
        (None, TypeError, "got NoneType"),
    ],
)
def test_maps_that_are_no_map_raise(anomaly_map, error, reason):
    with pytest.raises(error, match=reason):
        heat_map(anomaly_map)


@pytest.mark.parametrize(("vmin", "vmax"), [(1, 0), (0.5, 0.5), (0, float("nan")), (float("-inf"), 1)])
def test_an_empty_or_endless_scale_raises(vmin, vmax):
    with pytest.raises(ValueError, match="`vmin` must be finite and below `vmax`"):
        heat_map(FLAT, vmin=vmin, vmax=vmax)


def test_a_map_of_another_size_than_the_photograph_raises():
    with pytest.raises(ValueError, match="map is 120x80, its image 80x120"):
        overlay(PHOTO, FLAT.T)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"alpha": -0.1}, r"`alpha` must lie in \[0, 1\], got -0.1"),
        ({"alpha": float("nan")}, "`alpha`"),
        ({"score": float("nan")}, "`score` must be finite"),
        ({"regions": [{"score": 1.0}]}, "A region must be a mapping"),
        ({"regions": [REGION | {"box": {"xmin": 5, "ymin": 5, "xmax": 5, "ymax": 9}}]}, "xmin < xmax"),
        ({"regions": [REGION | {"box": {"xmin": 5, "ymin": 5, "xmax": 500, "ymax": 9}}]}, "inside the picture"),
    ],
)
def test_senseless_options_raise(options, reason):
    with pytest.raises(ValueError, match=reason):
        overlay(PHOTO, FLAT, **options)


def test_no_pictures_side_by_side_raise():
    with pytest.raises(ValueError, match="at least one picture"):
        side_by_side({})
