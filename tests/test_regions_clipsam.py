# SPDX-FileCopyrightText: 2026 The clipsam_hf authors
# SPDX-License-Identifier: Apache-2.0
"""Regions and prompts: the numbers by hand, the geometry as properties, and the faults M1-M15 of bad input."""

import doctest
import warnings
from typing import Any

import numpy as np
import pytest
import torch
from geometry import random_map, sam_content
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from scipy.special import expit

from clipsam_hf import regions_clipsam
from clipsam_hf.regions_clipsam import (
    Frame,
    Region,
    build_prompts,
    describe_regions,
    encode_rle,
    find_regions,
    judge,
    relative_threshold,
    sample_points,
    scale_coordinates,
)


# The machine that runs the tests may be busy: no deadline per example.
properties = settings(deadline=None, max_examples=60)
sides = st.integers(1, 4000)
small_sides = st.integers(1, 24)

# One region of three pixels (two of them joined by a corner) and one of a single pixel.
MAP = np.array(
    [
        [0.9, 0.0, 0.0, 0.0],
        [0.0, 0.7, 0.6, 0.0],
        [0.0, 0.0, 0.0, 0.0],
        [0.8, 0.0, 0.0, 0.0],
    ],
    dtype=np.float32,
)


def test_docstring_examples() -> None:
    result = doctest.testmod(regions_clipsam)
    assert result.attempted > 0 and result.failed == 0


class TestFindRegions:
    def test_hand_computed(self) -> None:
        first, second = find_regions(MAP, 0.5)
        assert first.mask.tolist() == [[True, False, False, False], [False, True, True, False], *[[False] * 4] * 2]
        assert (first.box, first.area) == ((0, 0, 3, 2), 3)
        assert (first.score, first.peak, first.total) == pytest.approx((2.2 / 3, 0.9, 2.2))
        assert (second.box, second.area) == ((0, 3, 1, 4), 1)
        assert (second.score, second.peak, second.total) == pytest.approx((0.8, 0.8, 0.8))

    def test_score_and_peak_are_of_the_region_not_of_its_box(self) -> None:
        values = np.zeros((5, 5))
        values[0, :] = values[:, 0] = 0.6  # an L whose box holds a higher, separate pixel
        values[3, 3] = 0.9
        regions = find_regions(values, 0.5)
        assert [region.peak for region in regions] == [0.6, 0.9]
        assert [region.score for region in regions] == pytest.approx([0.6, 0.9])

    def test_threshold_is_strict(self) -> None:
        assert find_regions(np.full((3, 3), 0.3, dtype=np.float32), 0.3) == []
        assert find_regions(np.full((3, 3), 0.3, dtype=np.float32), np.float64(0.3)) == []

    def test_m1_below_the_threshold_there_is_nothing(self) -> None:
        assert find_regions(np.full((8, 8), 0.5), 0.5) == []

    def test_m2_all_ones_is_one_region_as_large_as_the_map(self) -> None:
        (region,) = find_regions(np.ones((5, 7)), 0.5)
        assert (region.box, region.area, region.total) == ((0, 0, 7, 5), 35, 35.0)

    @pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
    def test_m4_non_finite_maps_are_refused(self, bad: float) -> None:
        values = MAP.copy()
        values[2, 3] = bad
        with pytest.raises(ValueError, match="NaN or infinity"):
            find_regions(values, 0.5)

    def test_m5_thousands_of_blobs_are_capped_with_a_warning(self) -> None:
        rows, columns = np.mgrid[:1020, :1020]
        values = 0.6 * ((rows % 17 < 12) & (columns % 17 < 12))  # 3600 blobs of 144 pixels
        values[17:29, 34:46] = 0.9
        with pytest.warns(UserWarning, match="3600 regions .* only the 10 of largest summed score"):
            regions = find_regions(values, 0.5)
        assert len(regions) == 10
        assert regions[0].box == (34, 17, 46, 29)

    def test_no_warning_without_a_cut(self) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert len(find_regions(MAP, 0.5, max_regions=2)) == 2

    def test_m6_a_single_pixel_has_a_box_of_side_one(self) -> None:
        values = np.zeros((6, 9))
        values[4, 7] = 1.0
        assert find_regions(values, 0.5)[0].box == (7, 4, 8, 5)

    def test_m7_regions_at_borders_and_corners(self) -> None:
        values = np.zeros((4, 6))
        values[0, 0] = values[0, 5] = values[3, 0] = values[3, 5] = 1.0
        boxes = [region.box for region in find_regions(values, 0.5)]
        assert boxes == [(0, 0, 1, 1), (5, 0, 6, 1), (0, 3, 1, 4), (5, 3, 6, 4)]

    def test_m8_diagonal_neighbours_are_connected(self) -> None:
        assert len(find_regions(np.eye(6), 0.5)) == 1

    def test_m12_order_is_by_total_not_by_place(self) -> None:
        boxes = [region.box for region in find_regions(MAP, 0.5)]
        turned = [region.box for region in find_regions(MAP[::-1, ::-1].copy(), 0.5)]
        assert turned == [(4 - xmax, 4 - ymax, 4 - xmin, 4 - ymin) for xmin, ymin, xmax, ymax in boxes]

    def test_m13_boxes_are_xy(self) -> None:
        values = np.zeros((4, 9))
        values[1, 6:8] = 1.0
        assert find_regions(values, 0.5)[0].box == (6, 1, 8, 2)

    @pytest.mark.parametrize(("side", "kept"), [(4, 1), (3, 0)])
    def test_smallest_region_of_the_default(self, side: int, kept: int) -> None:
        values = np.zeros((518, 518))
        values[100 : 100 + side, 200 : 200 + side] = 1.0  # 16 pixels are the limit at 518
        assert len(find_regions(values, 0.5)) == kept

    def test_a_region_of_exactly_the_smallest_size_is_kept_whatever_the_rounding(self) -> None:
        values = np.zeros((27, 27))
        values[4, 4:7] = 1.0  # 3 / 27**2 * 27**2 is 3.0000000000000004
        assert len(find_regions(values, 0.5, min_region_fraction=3 / 27**2)) == 1

    def test_large_regions_are_dropped_and_those_of_exactly_the_limit_kept(self) -> None:
        values = np.zeros((27, 27))
        values[4, 4:7] = values[20, 4:8] = 1.0
        assert len(find_regions(values, 0.5, min_region_fraction=0)) == 2
        (region,) = find_regions(values, 0.5, min_region_fraction=0, max_region_fraction=3 / 27**2)
        assert region.area == 3

    @pytest.mark.parametrize("name", ["min_region_fraction", "max_region_fraction"])
    @pytest.mark.parametrize("fraction", [-0.1, 1.1, float("nan")])
    def test_a_fraction_out_of_range_is_refused(self, name: str, fraction: float) -> None:
        options: Any = {name: fraction}
        with pytest.raises(ValueError, match=f"`{name}` must be in"):
            find_regions(MAP, 0.5, **options)

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
    def test_tensors_of_any_precision(self, dtype: torch.dtype) -> None:
        values = torch.from_numpy(MAP).to(dtype).requires_grad_()
        assert [region.box for region in find_regions(values, 0.5)] == [(0, 0, 3, 2), (0, 3, 1, 4)]

    @properties
    @given(height=small_sides, width=small_sides, seed=st.integers(0, 10**6), threshold=st.floats(0.1, 0.95))
    def test_regions_partition_the_foreground(self, height: int, width: int, seed: int, threshold: float) -> None:
        values = random_map(height, width, seed)
        regions = find_regions(values, threshold, min_region_fraction=0, max_regions=1000)
        covered = np.sum([region.mask for region in regions], axis=0) if regions else np.zeros((height, width))
        assert np.array_equal(covered, values > np.float32(threshold))
        totals = [region.total for region in regions]
        assert totals == sorted(totals, reverse=True)
        for region in regions:
            rows, columns = np.nonzero(region.mask)
            assert region.box == (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
            assert region.area == len(rows)
            assert region.peak == values[region.mask].max()
            assert region.score == pytest.approx(values[region.mask].mean(dtype=np.float64))
            assert region.total == pytest.approx(values[region.mask].sum(dtype=np.float64))

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"threshold": float("nan")}, "`threshold` must be a finite number, got nan"),
            ({"min_region_fraction": 1.5}, r"`min_region_fraction` must be in \[0, 1\], got 1.5"),
            ({"max_regions": 0}, "`max_regions` must be at least 1, got 0"),
            ({"anomaly_map": np.zeros((1, 4, 4))}, r"must be of shape \(height, width\) .*, got \(1, 4, 4\)"),
            ({"anomaly_map": np.zeros((0, 4))}, r"not empty, got \(0, 4\)"),
        ],
    )
    def test_bad_values_are_named(self, options: dict[str, Any], message: str) -> None:
        with pytest.raises(ValueError, match=message):
            find_regions(**{"anomaly_map": MAP, "threshold": 0.5, **options})

    def test_other_types_are_refused(self) -> None:
        with pytest.raises(TypeError, match="got list"):
            find_regions(MAP.tolist(), 0.5)  # type: ignore[arg-type]


def map_of_an_uncalibrated_localizer(seed: int, offset: float) -> tuple[np.ndarray, np.ndarray]:
    """A map whose logits are smooth noise around an offset, with a defect that stands out by 1.5, and the defect."""
    generator = np.random.default_rng(seed)
    noise = ndimage.gaussian_filter(generator.standard_normal((128, 128)), 4)
    defect = np.zeros((128, 128), dtype=bool)
    row, column = generator.integers(10, 106, 2)
    defect[row : row + 12, column : column + 12] = True
    return expit(0.2 * noise / noise.std() + offset + 1.5 * defect), defect


class TestRelativeThreshold:
    def test_hand_computed(self) -> None:
        # Logits -1 (4 pixels), 0 (2), 1 (2), 5 (1): median 0, absolute deviations 0 (2), 1 (6), 5 (1): median 1
        values = expit(np.array([[-1.0, -1.0, -1.0], [-1.0, 0.0, 0.0], [1.0, 1.0, 5.0]]))
        assert relative_threshold(values, 3.0) == pytest.approx(expit(3 * 1.4826))
        assert relative_threshold(values, 1.0) == pytest.approx(expit(1.4826))

    @pytest.mark.parametrize("seed", range(20))
    def test_the_level_of_a_map_does_not_matter(self, seed: int) -> None:
        found = {}
        for offset in (-0.3, 0.0, 0.3):
            values, defect = map_of_an_uncalibrated_localizer(seed, offset)
            regions = find_regions(values, relative_threshold(values), max_region_fraction=0.25)
            found[offset] = regions[0].mask
            assert (found[offset] & defect).sum() / (found[offset] | defect).sum() > 0.6
        assert np.array_equal(found[-0.3], found[0.3]) and np.array_equal(found[-0.3], found[0.0])

    def test_half_is_not_where_a_map_that_nobody_calibrated_lies(self) -> None:
        shares = {
            offset: np.mean([map_of_an_uncalibrated_localizer(seed, offset)[0] > 0.5 for seed in range(20)])
            for offset in (-0.3, 0.3)
        }
        assert shares[-0.3] < 0.1 and shares[0.3] > 0.9

    @pytest.mark.parametrize("level", [0.0, 1e-6, 0.2, 0.5, 0.97, 1.0])
    @pytest.mark.parametrize("dtype", [np.float32, np.float64])
    def test_a_constant_map_has_no_region(self, level: float, dtype: Any) -> None:
        values = np.full((16, 16), level, dtype=dtype)
        assert find_regions(values, relative_threshold(values)) == []
        noise = 1e-4 * np.random.default_rng(0).standard_normal((16, 16))
        nearly = np.clip(values + noise, 0, 1).astype(dtype)
        assert find_regions(nearly, relative_threshold(nearly)) == []

    def test_what_stands_out_of_an_even_background_is_found(self) -> None:
        values = np.full((16, 16), 0.3)
        values[3:5, 3:5] = 0.33
        (region,) = find_regions(values, relative_threshold(values), min_region_fraction=0)
        assert region.box == (3, 3, 5, 5)

    def test_tensors_and_arrays_give_the_same(self) -> None:
        values = random_map(9, 7, 0)
        assert relative_threshold(torch.from_numpy(values)) == relative_threshold(values)

    @pytest.mark.parametrize("deviations", [0, -1.0, float("nan"), float("inf")])
    def test_bad_deviations_are_refused(self, deviations: float) -> None:
        with pytest.raises(ValueError, match="`deviations` must be a positive number"):
            relative_threshold(MAP, deviations)

    def test_bad_maps_are_refused(self) -> None:
        with pytest.raises(ValueError, match="NaN or infinity"):
            relative_threshold(np.array([[0.5, np.nan]]))


class TestJudge:
    final, rough = np.array([[0.1, 0.4]]), np.array([[0.3, 0.7]])

    def judge(self, score: float, threshold: float, **options: Any) -> tuple[bool | None, list[list[bool]]]:
        is_anomalous, mask = judge(score, self.final, threshold, **options)
        return is_anomalous, mask.tolist()

    def test_without_a_decision_threshold_the_mask_follows_the_threshold(self) -> None:
        assert self.judge(0.0, 0.2) == (None, [[False, True]])
        assert self.judge(1.0, 0.5, rough_anomaly_map=lambda: self.rough) == (None, [[False, False]])

    def test_a_score_that_is_not_above_is_normal_and_has_no_mask(self) -> None:
        for score in (0.2, 0.6):
            assert self.judge(score, 0.2, decision_threshold=0.6) == (False, [[False, False]])

    def test_a_score_above_is_anomalous_where_the_mask_is(self) -> None:
        assert self.judge(0.7, 0.2, decision_threshold=0.6) == (True, [[False, True]])
        assert self.judge(0.7, 0.0, decision_threshold=0.6) == (True, [[True, True]])

    def test_an_empty_mask_is_normal_where_the_threshold_was_given(self) -> None:
        assert self.judge(0.7, 0.5, decision_threshold=0.6) == (False, [[False, False]])

    def test_an_empty_mask_is_taken_from_the_rough_map(self) -> None:
        options: Any = {"rough_anomaly_map": lambda: self.rough}
        assert self.judge(0.7, 0.5, decision_threshold=0.6, **options) == (True, [[False, True]])
        # nothing of it is above 0.8: then above the decision threshold
        assert self.judge(0.7, 0.8, decision_threshold=0.2, **options) == (True, [[True, True]])
        assert self.judge(0.9, 0.8, decision_threshold=0.7, **options) == (False, [[False, False]])

    def test_the_rough_map_is_not_asked_for_in_vain(self) -> None:
        def refuse() -> np.ndarray:
            raise AssertionError("the rough map was made")

        for score, threshold, decision_threshold in ((0.7, 0.5, None), (0.5, 0.5, 0.6), (0.7, 0.2, 0.6)):
            self.judge(score, threshold, decision_threshold=decision_threshold, rough_anomaly_map=refuse)

    @properties
    @given(
        seed=st.integers(0, 10**6),
        score=st.floats(0, 1),
        threshold=st.floats(0, 1),
        decision_threshold=st.none() | st.floats(0, 1),
        is_default=st.booleans(),
    )
    def test_verdict_mask_and_regions_agree(
        self, seed: int, score: float, threshold: float, decision_threshold: float | None, is_default: bool
    ) -> None:
        rough, final = random_map(9, 12, seed), random_map(9, 12, seed + 1)
        is_anomalous, mask = judge(
            score,
            final,
            threshold,
            decision_threshold=decision_threshold,
            rough_anomaly_map=(lambda: rough) if is_default else None,
        )
        regions = describe_regions(final, mask)
        assert sum(region["area"] for region in regions) == mask.sum()
        if decision_threshold is None:
            assert is_anomalous is None and np.array_equal(mask, final > threshold)
            return
        assert is_anomalous is bool(regions) is bool(mask.any())
        assert not is_anomalous or score > decision_threshold
        if is_anomalous and not is_default:
            assert np.array_equal(mask, final > threshold)


class TestSamplePoints:
    def test_first_point_is_the_maximum(self) -> None:
        assert sample_points(find_regions(MAP, 0.5)[0], MAP)[0].tolist() == [0.5, 0.5]

    def test_the_maximum_is_taken_inside_the_region_not_inside_the_box(self) -> None:
        values = np.zeros((5, 5))
        values[0, :] = values[:, 0] = 0.6  # an L whose box holds a higher, separate pixel
        values[3, 3] = 0.9
        assert sample_points(find_regions(values, 0.5)[0], values)[0].tolist() == [0.5, 0.5]

    def test_a_small_region_repeats_its_pixels_in_turn(self) -> None:
        points = sample_points(find_regions(MAP, 0.5)[1], MAP, num_points=3)
        assert points.tolist() == [[0.5, 3.5]] * 3

    def test_a_large_region_never_repeats(self) -> None:
        (region,) = find_regions(np.ones((3, 3)), 0.5)
        points = sample_points(region, np.ones((3, 3)), num_points=9)
        assert len({tuple(point) for point in points.tolist()}) == 9

    def test_the_seed_decides(self) -> None:
        values = random_map(40, 40, 0) / 2 + 0.5
        (region,) = find_regions(values, 0.4)
        first, again, other = (sample_points(region, values, seed=seed) for seed in (0, 0, 1))
        assert np.array_equal(first, again) and not np.array_equal(first, other)

    def test_m12_another_defect_does_not_move_the_points(self) -> None:
        values = np.zeros((40, 40))
        values[5:15, 5:15] = 0.6
        alone = sample_points(find_regions(values, 0.5)[0], values)
        values[20:35, 20:35] = 0.9
        second = find_regions(values, 0.5)[1]
        assert np.array_equal(sample_points(second, values), alone)

    def test_the_place_decides(self) -> None:
        values = np.zeros((40, 40))
        values[:12, :12] = values[20:32, 20:32] = 0.6
        first, second = (sample_points(region, values) for region in find_regions(values, 0.5))
        assert not np.array_equal(first, second - 20)

    def test_the_draw_is_uniform(self) -> None:
        values = np.ones((2, 5))
        values[0, 0] = 2.0
        (region,) = find_regions(values, 0.5)
        drawn = np.array([sample_points(region, values, num_points=2, seed=seed)[1] for seed in range(900)])
        counts = np.histogram2d(drawn[:, 1], drawn[:, 0], bins=(2, 5), range=((0, 2), (0, 5)))[0]
        assert counts[0, 0] == 0  # the maximum is not drawn again
        assert 60 < counts.ravel()[1:].min() and counts.max() < 140  # 100 expected, 9.4 standard deviation

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"num_points": 0}, "`num_points` must be at least 1, got 0"),
            ({"seed": -1}, "`seed` must be at least 0, got -1"),
            ({"anomaly_map": np.zeros((4, 5))}, r"mask is of size \(4, 4\), but `anomaly_map` of \(4, 5\)"),
        ],
    )
    def test_bad_values_are_named(self, options: dict[str, Any], message: str) -> None:
        with pytest.raises(ValueError, match=message):
            sample_points(**{"region": find_regions(MAP, 0.5)[0], "anomaly_map": MAP, **options})


class TestScaleCoordinates:
    def test_each_axis_has_its_own_factor(self) -> None:
        boxes = np.array([[1.0, 2.0, 3.0, 4.0]])
        assert scale_coordinates(boxes, (4, 8), (8, 80)).tolist() == [[10.0, 4.0, 30.0, 8.0]]

    @pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
    def test_tensors_keep_their_dtype(self, dtype: torch.dtype) -> None:
        scaled = scale_coordinates(torch.tensor([2.0, 4.0], dtype=dtype), (8, 8), (4, 2))
        assert scaled.dtype == dtype and scaled.tolist() == [0.5, 2.0]

    def test_whole_numbers_become_floating(self) -> None:
        assert scale_coordinates(np.array([1, 1]), (2, 2), (1, 1)).tolist() == [0.5, 0.5]
        assert scale_coordinates(torch.tensor([1, 1]), (2, 2), (1, 1)).tolist() == [0.5, 0.5]

    @properties
    @given(height=sides, width=sides, x=st.floats(0, 1), y=st.floats(0, 1), kind=st.sampled_from(["numpy", "torch"]))
    def test_there_and_back(self, height: int, width: int, x: float, y: float, kind: str) -> None:
        # Photograph -> CLIP's squash -> SAM's content, the half pixel that SAM expects to add, and all the way back
        content = sam_content(height, width)
        point: Any = np.array([x * width, y * height])
        if kind == "torch":
            point = torch.from_numpy(point).float()
        clip = scale_coordinates(point, (height, width), (518, 518))
        sam = scale_coordinates(clip, (518, 518), content) - 0.5
        back = scale_coordinates(scale_coordinates(sam + 0.5, content, (518, 518)), (518, 518), (height, width))
        assert np.abs(np.asarray(back) - np.asarray(point)).max() < 1e-3

    @properties
    @given(height=sides, width=sides)
    def test_edges_go_to_edges(self, height: int, width: int) -> None:
        content = sam_content(height, width)
        box = scale_coordinates(np.array([0.0, 0.0, width, height]), (height, width), content)
        assert box.tolist() == [0.0, 0.0, content[1], content[0]]

    @pytest.mark.parametrize("shape", [(3,), (2, 1), ()])
    def test_other_shapes_are_refused(self, shape: tuple[int, ...]) -> None:
        with pytest.raises(ValueError, match="`coordinates` must be of shape"):
            scale_coordinates(np.zeros(shape), (1, 1), (1, 1))

    @pytest.mark.parametrize("size", [(0, 4), (4,), (4, 4, 3)])
    def test_bad_sizes_are_named(self, size: tuple[int, ...]) -> None:
        with pytest.raises(ValueError, match="`target_size` must be a positive"):
            scale_coordinates(np.zeros(2), (1, 1), size)


class TestBuildPrompts:
    def test_hand_computed(self) -> None:
        # The map's pixel is 10 wide and 5 high in SAM's content of (20, 40); SAM adds 0.5 to all
        prompts = build_prompts(find_regions(MAP, 0.5), MAP, Frame((20, 40), 40), num_points=1)
        assert prompts.input_boxes is not None and prompts.input_points is not None
        assert prompts.input_boxes.tolist() == [[-0.5, -0.5, 29.5, 9.5], [-0.5, 14.5, 9.5, 19.5]]
        assert prompts.input_points.tolist() == [[[4.5, 2.0]], [[4.5, 17.0]]]
        assert prompts.input_labels is not None and prompts.input_labels.tolist() == [[1], [1]]

    @pytest.mark.parametrize(
        ("prompt_type", "present"),
        [("box_and_points", (True, True, True)), ("box", (True, False, False)), ("points", (False, True, True))],
    )
    def test_prompt_types(self, prompt_type: str, present: tuple[bool, ...]) -> None:
        prompts = build_prompts(find_regions(MAP, 0.5), MAP, Frame((64, 64), 64), prompt_type=prompt_type)
        assert tuple(field is not None for field in prompts) == present

    def test_m1_no_regions_give_no_rows(self) -> None:
        boxes, points, labels = build_prompts([], MAP, Frame((64, 64), 64), num_points=3)
        assert boxes is not None and points is not None and labels is not None
        assert (boxes.shape, points.shape, labels.shape) == ((0, 4), (0, 3, 2), (0, 3))

    def test_unknown_prompt_type_is_named(self) -> None:
        with pytest.raises(ValueError, match="must be one of 'box_and_points', 'box', 'points', got 'boxes'"):
            build_prompts([], MAP, Frame((64, 64), 64), prompt_type="boxes")

    @properties
    @given(
        height=small_sides,
        width=small_sides,
        photo_height=sides,
        photo_width=sides,
        seed=st.integers(0, 10**6),
        num_points=st.integers(1, 6),
    )
    def test_m13_points_lie_in_their_regions_and_boxes_around_them(
        self, height: int, width: int, photo_height: int, photo_width: int, seed: int, num_points: int
    ) -> None:
        values = random_map(height, width, seed)
        content = sam_content(photo_height, photo_width)
        regions = find_regions(values, 0.6, min_region_fraction=0, max_regions=1000)
        boxes, points, _ = build_prompts(regions, values, Frame(content, 1024), num_points=num_points, seed=seed)
        assert boxes is not None and points is not None and boxes.dtype == points.dtype == torch.float32
        for region, box, region_points in zip(regions, boxes, points, strict=True):
            back = scale_coordinates(region_points.double() + 0.5, content, values.shape)
            for x, y in back.tolist():
                assert region.mask[int(y), int(x)]
                assert abs(x % 1 - 0.5) < 1e-3 and abs(y % 1 - 0.5) < 1e-3
            assert scale_coordinates(box.double() + 0.5, content, values.shape).tolist() == pytest.approx(
                region.box, abs=1e-3
            )

    def test_m14_a_flipped_map_gives_flipped_boxes_and_maxima(self) -> None:
        values = random_map(12, 20, 3)
        content = (96, 160)
        prompts, flipped = (
            build_prompts(find_regions(each, 0.8, max_regions=100), each, Frame(content, 160), num_points=1)
            for each in (values, values[:, ::-1].copy())
        )
        assert prompts.input_boxes is not None and prompts.input_points is not None
        mirrored = 159 - prompts.input_boxes[:, [2, 1, 0, 3]]
        mirrored[:, [1, 3]] = prompts.input_boxes[:, [1, 3]]
        torch.testing.assert_close(flipped.input_boxes, mirrored)
        mirrored = prompts.input_points.clone()
        mirrored[..., 0] = 159 - mirrored[..., 0]
        torch.testing.assert_close(flipped.input_points, mirrored)


class TestDescribeRegions:
    def test_hand_computed(self) -> None:
        mask = np.array([[True, False, False, False], [False, True, False, False], [False] * 4, [True] * 4])
        first, second = describe_regions(MAP, mask)
        assert first["box"] == {"xmin": 0, "ymin": 0, "xmax": 2, "ymax": 2}  # joined at a corner
        assert (first["score"], first["area"]) == (pytest.approx(0.8), 2)
        assert second["box"] == {"xmin": 0, "ymin": 3, "xmax": 4, "ymax": 4}
        assert (second["score"], second["area"]) == (pytest.approx(0.2), 4)

    def test_nothing_abnormal_is_an_empty_list(self) -> None:
        assert describe_regions(MAP, np.zeros((4, 4), dtype=bool)) == []

    def test_equal_scores_go_from_top_to_bottom(self) -> None:
        mask = np.zeros((5, 5), dtype=bool)
        mask[4, 0] = mask[2, 4] = mask[0, 2] = True
        described = describe_regions(np.ones((5, 5)), mask)
        assert [region["box"]["ymin"] for region in described] == [0, 2, 4]

    def test_outlines_are_run_lengths_down_the_columns(self) -> None:
        mask = np.array([[True, False, True], [True, True, False]])
        (region,) = describe_regions(np.ones((2, 3)), mask, outlines=True)
        assert region["outline"] == {"size": [2, 3], "counts": [0, 2, 1, 2, 1]}

    @properties
    @given(height=small_sides, width=small_sides, seed=st.integers(0, 10**6))
    def test_outlines_together_are_the_mask(self, height: int, width: int, seed: int) -> None:
        values = random_map(height, width, seed)
        mask, rebuilt = values > 0.5, np.zeros((width, height), dtype=int)
        for region in describe_regions(values, mask, outlines=True):
            counts = region["outline"]["counts"]
            assert sum(counts) == height * width and all(counts[1:])
            part = np.repeat(np.arange(len(counts)) % 2, counts)
            assert part.sum() == region["area"]
            rebuilt += part.reshape(width, height)
        assert (rebuilt.T == mask).all()

    def test_run_lengths_of_nothing_and_of_everything(self) -> None:
        assert encode_rle(np.zeros((2, 3), dtype=bool))["counts"] == [6]
        assert encode_rle(np.ones((2, 3), dtype=bool))["counts"] == [0, 6]

    @properties
    @given(height=small_sides, width=small_sides, seed=st.integers(0, 10**6))
    def test_says_of_a_region_what_find_regions_says(self, height: int, width: int, seed: int) -> None:
        values = random_map(height, width, seed)
        found = find_regions(values, 0.6, min_region_fraction=0, max_regions=1000)

        def describe(region: Region) -> tuple[tuple[int, ...], int, float]:
            return region.box, region.area, region.score

        described = [
            (tuple(region["box"].values()), region["area"], region["score"])
            for region in describe_regions(values, values > np.float32(0.6))
        ]
        assert sorted(described) == sorted(map(describe, found))


def test_rounding_does_not_choose_the_first_point() -> None:
    """An upsampled map is flat at the edges of the image, up to the order in which sums were taken."""
    flat = np.full((4, 4), 0.75, dtype=np.float32)
    other = flat.copy()
    other[2, 1] = np.nextafter(other[2, 1], np.float32(1))
    points = [sample_points(find_regions(each, 0.5)[0], each, num_points=3) for each in (flat, other)]
    assert points[0][0].tolist() == [0.5, 0.5] and (points[0] == points[1]).all()
