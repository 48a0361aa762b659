# SPDX-FileCopyrightText: 2026 The clipsam_hf authors
# SPDX-License-Identifier: Apache-2.0
"""A picture of a map says the same whatever else the map holds, and says it to every eye."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from clipsam_hf.visualization_clipsam import heat_map, overlay, place_labels, side_by_side


PHOTO = Image.new("RGB", (120, 80), (100, 150, 200))
FLAT = np.zeros((80, 120), np.float32)
REGION = {"box": {"xmin": 40, "ymin": 30, "xmax": 60, "ymax": 50}, "score": 0.87, "area": 300}


def plain(anomaly_map: np.ndarray, **options) -> Image.Image:
    """The photograph alone, pixel by pixel."""
    return overlay(PHOTO, anomaly_map, color_bar=False, max_side=None, **options)


def footer_of(**options) -> bytes:
    picture = overlay(PHOTO, FLAT, max_side=None, **options)
    return picture.crop((0, PHOTO.height, *picture.size)).tobytes()


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


def test_the_map_covers_the_more_the_higher_it_is():
    ramp = np.array([[0.0, 0.25, 0.5, 1.0]])
    grey = Image.new("RGB", (4, 1), (100, 100, 100))
    picture = np.asarray(overlay(grey, ramp, alpha=0.5, color_bar=False, max_side=None))[0].astype(float)
    colours = np.asarray(heat_map(ramp))[0].astype(float)
    opacity = np.array([[0], [0.25], [0.5], [0.5]])
    np.testing.assert_allclose(picture, 100 + opacity * (colours - 100), atol=1)


def test_a_flawless_photograph_is_shown_as_it_is():
    assert plain(FLAT).tobytes() == PHOTO.tobytes()


@pytest.mark.parametrize(("alpha", "expected"), [(0, (100, 150, 200)), (1, (252, 255, 164))])
def test_alpha_reaches_from_the_photograph_to_the_map(alpha, expected):
    assert plain(FLAT + 1, alpha=alpha).getpixel((5, 5)) == expected


def test_the_colour_bar_stands_under_the_photograph_and_leaves_it_alone():
    picture = overlay(PHOTO, FLAT, max_side=None)
    assert picture.height > PHOTO.height
    assert picture.crop((0, 0, *PHOTO.size)).tobytes() == PHOTO.tobytes()
    colours = {colour for _, colour in picture.crop((0, 80, *picture.size)).getcolors(maxcolors=10**6)}
    assert {(0, 0, 4), (252, 255, 164)} <= colours
    assert any(max(colour) < 50 and len(set(colour)) == 1 for colour in colours), "no number is printed"


def test_the_numbers_of_the_colour_bar_follow_the_scale():
    assert footer_of(vmax=1.0) != footer_of(vmax=0.5)


def test_verdict_and_score_are_written_under_the_picture():
    footers = [
        footer_of(**given) for given in ({}, {"score": 0.1}, {"score": 0.9}, {"score": 0.9, "label": "anomalous"})
    ]
    assert len(set(footers)) == 4
    assert overlay(PHOTO, FLAT, label="normal", color_bar=False, max_side=None).height > PHOTO.height


def test_a_region_is_framed_outside_its_box():
    before, after = np.asarray(plain(FLAT)), np.asarray(plain(FLAT, regions=[REGION]))
    np.testing.assert_array_equal(after[30:50, 40:60], before[30:50, 40:60])
    assert (after[29:51, [39, 60]] == 255).all() and (after[[29, 50], 39:61] == 255).all()
    assert (after[28:52, [38, 61]] == 0).all()


def test_a_region_of_a_larger_photograph_is_framed_at_its_place():
    large = {"box": {edge: 10 * value for edge, value in REGION["box"].items()}, "score": 0.87}
    assert plain(FLAT, regions=[large], size=(800, 1200)).tobytes() == plain(FLAT, regions=[REGION]).tobytes()
    enlarged = overlay(PHOTO, FLAT, regions=[REGION], color_bar=False)  # 120 x 80 is shown as 400 x 267
    assert (np.asarray(enlarged)[99, 140:190] == 255).all()


def test_a_region_at_the_border_keeps_its_whole_frame():
    whole = {"box": {"xmin": 0, "ymin": 0, "xmax": 120, "ymax": 80}, "score": 1.0}
    framed = np.asarray(plain(FLAT, regions=[whole]))
    # The score is written over a corner of the frame: there is no room outside.
    assert (framed[30:, [0, -1]] == 255).all() and (framed[-1] == 255).all() and (framed[0, 60:] == 255).all()


# Labels


BOXES = st.tuples(st.integers(0, 90), st.integers(0, 60), st.integers(1, 40), st.integers(1, 40)).map(
    lambda box: (box[0], box[1], min(box[0] + box[2], 100), min(box[1] + box[3], 70))
)


@settings(max_examples=30, deadline=None)
@given(frames=st.lists(BOXES, max_size=40), data=st.data())
def test_labels_neither_cover_each_other_nor_leave_the_picture(frames, data):
    sizes = data.draw(st.lists(st.tuples(st.integers(1, 120), st.integers(1, 20)), min_size=40, max_size=40))
    painted = np.zeros((70, 100), dtype=int)
    places = place_labels(frames, sizes[: len(frames)], (100, 70))
    for place, (width, height) in zip(places, sizes, strict=False):
        if place is None:
            continue
        left, top, right, bottom = place
        assert 0 <= left and 0 <= top and right <= 100 and bottom <= 70
        assert (right - left, bottom - top) == (width, height)
        painted[top:bottom, left:right] += 1
    assert painted.max(initial=0) <= 1
    assert not places or (places[0] is None) == (sizes[0][0] > 100)


def test_labels_of_many_small_neighbours_stay_apart():
    frames = [(x, y, x + 6, y + 6) for y in range(0, 140, 7) for x in range(0, 196, 7)]
    places = place_labels(frames, [(28, 14)] * len(frames), (200, 140))
    painted = np.zeros((140, 200), dtype=int)
    for left, top, right, bottom in filter(None, places):
        painted[top:bottom, left:right] += 1
    assert painted.max() == 1 and painted.mean() > 0.5  # most of the picture is used


def test_a_label_covers_as_little_of_other_frames_as_it_can():
    # Above the first is the second, under it there is room
    assert place_labels([(10, 20, 30, 40), (5, 5, 40, 20)], [(8, 5), (8, 5)], (100, 100))[0] == (10, 40, 18, 45)


# Sizes


@pytest.mark.parametrize("size", [(1, 1), (2000, 1), (1, 2000), (7, 5), (2400, 1800), (4096, 256), (256, 4096)])
@pytest.mark.parametrize("max_side", [200, 1600])
def test_every_size_gets_its_picture_and_none_is_large(size, max_side):
    region = {"box": {"xmin": 0, "ymin": 0, "xmax": 1, "ymax": 1}, "score": 1.0}
    options = {"score": 1.0, "label": "anomalous", "regions": [region], "max_side": max_side}
    picture = overlay(Image.new("RGB", size), np.zeros(size[::-1], np.float32), **options)
    assert 200 <= max(picture.size) <= max_side
    # The photograph takes all the room that the text leaves it
    assert max(picture.width, picture.height + 60) >= min(max_side, 400)
    assert max(heat_map(np.zeros(size[::-1], np.float32), max_side=max_side).size) == min(max(size), max_side)


@pytest.mark.parametrize("size", [(32, 32), (640, 480), (4096, 256), (256, 4096), (2000, 1500)])
def test_text_is_legible_at_every_size(size):
    """Digits are at least 9 pixels high, and 1.5 to 4 percent of what is about as high as it is wide."""
    pictures = [overlay(Image.new("RGB", size), np.zeros(size[::-1], np.float32), score=score) for score in (0.2, 0.8)]
    rows = np.flatnonzero((np.asarray(pictures[0]) != np.asarray(pictures[1])).any(axis=(1, 2)))
    digits = rows.max() - rows.min() + 1
    assert 9 <= digits <= max(14, 0.04 * min(pictures[0].size))


def test_a_single_bright_pixel_is_not_lost_in_a_small_picture():
    large = np.zeros((3000, 4000), np.float32)
    large[1000:1040, 2000:2040] = 1
    assert np.asarray(heat_map(large, max_side=400))[102, 202].sum() > 600


def test_pictures_stand_side_by_side_under_their_titles():
    joined = side_by_side({"one": PHOTO, "two": PHOTO.crop((0, 0, 50, 40))}, max_side=None)
    assert joined.width > 170 and joined.height > 80
    assert joined.getpixel((10, joined.height - 1)) == (100, 150, 200)


@pytest.mark.parametrize(
    ("size", "count", "shape"), [((2000, 1500), 4, (2, 2)), ((4096, 256), 3, (1, 3)), ((256, 4096), 3, (3, 1))]
)
def test_a_panel_is_bounded_as_a_whole_and_shows_its_pictures_large(size, count, shape):
    joined = side_by_side({f"picture {number}": Image.new("RGB", size) for number in range(count)})
    assert max(joined.size) <= 1600
    scale = min(1600 / (shape[0] * size[0]), 1600 / (shape[1] * size[1]))
    black = int((np.asarray(joined) == 0).all(axis=2).sum())
    assert black >= 0.75 * count * scale**2 * size[0] * size[1]


def test_a_long_title_is_cut():
    titles = {"x" * 60: PHOTO, "y" * 60: PHOTO}
    assert max(side_by_side(titles, max_side=400).size) <= 400


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
        ({"max_side": 199}, "`max_side` must be at least 200 pixels or None, got 199"),
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


def test_too_many_pictures_for_so_little_room_raise():
    with pytest.raises(ValueError, match="200 pixels is too small for 100 pictures"):
        side_by_side({str(number): PHOTO for number in range(100)}, max_side=200)
