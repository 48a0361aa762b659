# SPDX-FileCopyrightText: 2026 The clipsam_hf authors
# SPDX-License-Identifier: Apache-2.0
"""MMR, function by function: the numbers by hand, the geometry as properties, and the faults M1-M15 of bad input."""

import doctest
import warnings
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import SamImageProcessorPil

from clipsam_hf import refinement_clipsam
from clipsam_hf.refinement_clipsam import (
    build_prompts,
    find_regions,
    fuse_masks,
    merge_maps,
    resample_masks,
    sample_points,
    scale_coordinates,
    score_map,
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


def sam_content(height: int, width: int, side: int = 1024) -> tuple[int, int]:
    """The (height, width) that SAM's image processor gives to a photograph, at least one pixel."""
    scale = side / max(height, width)
    return max(1, int(height * scale + 0.5)), max(1, int(width * scale + 0.5))


def random_map(height: int, width: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).random((height, width), dtype=np.float32)


def test_docstring_examples() -> None:
    result = doctest.testmod(refinement_clipsam)
    assert result.attempted > 0 and result.failed == 0


class TestFindRegions:
    def test_hand_computed(self) -> None:
        first, second = find_regions(MAP, 0.5)
        assert first.mask.tolist() == [[True, False, False, False], [False, True, True, False], *[[False] * 4] * 2]
        assert (first.box, first.area) == ((0, 0, 3, 2), 3)
        assert (first.score, first.total) == pytest.approx((0.9, 2.2))
        assert (second.box, second.area) == ((0, 3, 1, 4), 1)
        assert (second.score, second.total) == pytest.approx((0.8, 0.8))

    def test_score_is_the_maximum_inside_the_region_not_inside_the_box(self) -> None:
        values = np.zeros((5, 5))
        values[0, :] = values[:, 0] = 0.6  # an L whose box holds a higher, separate pixel
        values[3, 3] = 0.9
        assert [region.score for region in find_regions(values, 0.5)] == [0.6, 0.9]

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
            assert region.score == values[region.mask].max()
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
        prompts = build_prompts(find_regions(MAP, 0.5), MAP, (20, 40), num_points=1)
        assert prompts.input_boxes is not None and prompts.input_points is not None
        assert prompts.input_boxes.tolist() == [[-0.5, -0.5, 29.5, 9.5], [-0.5, 14.5, 9.5, 19.5]]
        assert prompts.input_points.tolist() == [[[4.5, 2.0]], [[4.5, 17.0]]]
        assert prompts.input_labels is not None and prompts.input_labels.tolist() == [[1], [1]]

    @pytest.mark.parametrize(
        ("prompt_type", "present"),
        [("box_and_points", (True, True, True)), ("box", (True, False, False)), ("points", (False, True, True))],
    )
    def test_prompt_types(self, prompt_type: str, present: tuple[bool, ...]) -> None:
        prompts = build_prompts(find_regions(MAP, 0.5), MAP, (64, 64), prompt_type=prompt_type)
        assert tuple(field is not None for field in prompts) == present

    def test_m1_no_regions_give_no_rows(self) -> None:
        boxes, points, labels = build_prompts([], MAP, (64, 64), num_points=3)
        assert boxes is not None and points is not None and labels is not None
        assert (boxes.shape, points.shape, labels.shape) == ((0, 4), (0, 3, 2), (0, 3))

    def test_unknown_prompt_type_is_named(self) -> None:
        with pytest.raises(ValueError, match="must be one of 'box_and_points', 'box', 'points', got 'boxes'"):
            build_prompts([], MAP, (64, 64), prompt_type="boxes")

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
        boxes, points, _ = build_prompts(regions, values, content, num_points=num_points, seed=seed)
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
            build_prompts(find_regions(each, 0.8, max_regions=100), each, content, num_points=1)
            for each in (values, values[:, ::-1].copy())
        )
        assert prompts.input_boxes is not None and prompts.input_points is not None
        mirrored = 159 - prompts.input_boxes[:, [2, 1, 0, 3]]
        mirrored[:, [1, 3]] = prompts.input_boxes[:, [1, 3]]
        torch.testing.assert_close(flipped.input_boxes, mirrored)
        mirrored = prompts.input_points.clone()
        mirrored[..., 0] = 159 - mirrored[..., 0]
        torch.testing.assert_close(flipped.input_points, mirrored)


class TestResampleMasks:
    def test_hand_computed(self) -> None:
        # Both cells are content; four pixels have their centres at 0.25, 0.75, 1.25 and 1.75 cells
        mask = torch.tensor([[0.0, 4.0], [8.0, 12.0]])
        expected = [[0.0, 1.0, 3.0, 4.0], [2.0, 3.0, 5.0, 6.0], [6.0, 7.0, 9.0, 10.0], [8.0, 9.0, 11.0, 12.0]]
        assert resample_masks(mask, (8, 8), 8, (4, 4)).tolist() == expected

    def test_content_that_ends_inside_a_cell(self) -> None:
        # 7 of 16 pixels are 1.75 of 4 cells: two pixels have their centres at 0.4375 and 1.3125 cells
        mask = torch.tensor([[0.0, 1.0, 99.0, 99.0]])
        resampled = resample_masks(mask, (16, 7), 16, (1, 2))
        torch.testing.assert_close(resampled, torch.tensor([[0.0, 0.8125]]))

    @properties
    @given(
        height=sides,
        width=sides,
        cells=st.sampled_from([8, 13, 32]),
        side=st.sampled_from([32, 64, 100]),
        output=st.tuples(small_sides, small_sides),
    )
    def test_padding_never_leaks_in(
        self, height: int, width: int, cells: int, side: int, output: tuple[int, int]
    ) -> None:
        content = sam_content(height, width, side)
        centres = (torch.arange(cells, dtype=torch.float64) + 0.5) * side / cells
        rows, columns = centres < content[0], centres < content[1]
        rows[0] = columns[0] = True  # a content thinner than half a cell holds no centre: the first cell shows it
        inside = rows[:, None] & columns
        values = torch.rand(cells, cells)
        resampled = resample_masks(torch.where(inside, values, float("nan")), content, side, output)
        assert resampled.shape == output
        assert resampled.min() >= values[inside].min() and resampled.max() <= values[inside].max()

    @properties
    @given(height=st.integers(20, 4000), width=st.integers(20, 4000))
    def test_a_linear_ramp_shows_the_position_of_every_pixel(self, height: int, width: int) -> None:
        # A mask whose value is the x (or y) of SAM's frame must come back as the position of CLIP's pixel centres
        content = sam_content(height, width)
        ramp = ((torch.arange(256, dtype=torch.float64) + 0.5) * 4).expand(256, 256)
        centres = np.arange(37) + 0.5
        for axis, mask in ((1, ramp), (0, ramp.T)):
            resampled = resample_masks(mask, content, 1024, (37, 37)).numpy()
            expected = centres * content[axis] / 37
            shown = (expected >= 2) & (expected <= content[axis] - 4)  # between the first and the last centre of cells
            position = resampled[0] if axis == 1 else resampled[:, 0]
            assert np.abs(position - expected)[shown].max(initial=0.0) < 1e-3

    @pytest.mark.parametrize("size", [(427, 640), (640, 427), (500, 500), (300, 1000)])
    def test_agrees_with_sam_post_processing(self, size: tuple[int, int]) -> None:
        # SAM upsamples to 1024, crops, and resizes: two interpolations in place of one. On a smooth mask (blobs 8
        # cells wide) both agree within 1 % of its range, except in the last cell, where SAM blends in the padding.
        torch.manual_seed(0)
        coarse = torch.randn(1, 1, 32, 32)
        mask = torch.nn.functional.interpolate(coarse, (256, 256), mode="bicubic", align_corners=False)
        content = sam_content(*size)
        processor = SamImageProcessorPil()
        (expected,) = processor.post_process_masks([mask], [(518, 518)], [content], binarize=False)
        resampled = resample_masks(mask, content, 1024, (518, 518))
        tolerance = 0.01 * float(mask.max() - mask.min())
        rows, columns = (518 - -(-518 * 6 // content[axis]) for axis in (0, 1))
        torch.testing.assert_close(
            resampled[..., :rows, :columns], expected[..., :rows, :columns], atol=tolerance, rtol=0
        )

    def test_m14_a_flipped_mask_gives_a_flipped_result(self) -> None:
        mask = torch.randn(16, 16)
        resampled = resample_masks(mask.flip(-1), (20, 64), 64, (9, 11))
        torch.testing.assert_close(resampled, resample_masks(mask, (20, 64), 64, (9, 11)).flip(-1))

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
    def test_half_precision_is_computed_in_float32(self, dtype: torch.dtype) -> None:
        mask = torch.randn(16, 16).to(dtype)
        resampled = resample_masks(mask, (40, 64), 64, (30, 30))
        assert resampled.dtype == torch.float32
        assert torch.equal(resampled, resample_masks(mask.float(), (40, 64), 64, (30, 30)))

    def test_autocast_changes_nothing(self) -> None:
        mask = torch.randn(16, 16)
        with torch.autocast("cpu", torch.bfloat16):
            resampled = resample_masks(mask, (40, 64), 64, (30, 30))
        assert torch.equal(resampled, resample_masks(mask, (40, 64), 64, (30, 30)))

    def test_gradients_reach_the_content_only(self) -> None:
        mask = torch.randn(4, 4, dtype=torch.float64, requires_grad=True)
        resample_masks(mask, (8, 16), 16, (8, 8)).sum().backward()
        assert mask.grad is not None
        assert (mask.grad[:2] > 0).all() and (mask.grad[2:] == 0).all()

    def test_content_beyond_the_square_is_refused(self) -> None:
        with pytest.raises(ValueError, match=r"`reshaped_input_size` \(65, 64\) exceeds `sam_image_size` 64"):
            resample_masks(torch.zeros(4, 4), (65, 64), 64, (8, 8))

    def test_a_vector_is_refused(self) -> None:
        with pytest.raises(ValueError, match=r"`mask_logits` must be of shape .*, got \(4,\)"):
            resample_masks(torch.zeros(4), (8, 8), 8, (8, 8))


class TestFuseMasks:
    # Two regions of two masks of 2 x 2 cells; a logit of 100 is a probability of 1.
    logits = 100.0 * torch.tensor(
        [[[[1, 1], [-1, -1]], [[1, -1], [-1, -1]]], [[[-1, 1], [-1, 1]], [[-1, -1], [-1, 1]]]], dtype=torch.float32
    )
    scores = torch.tensor([[0.8, 0.4], [0.6, 0.2]])

    def fuse(self, **options: Any) -> torch.Tensor:
        return fuse_masks(
            options.pop("logits", self.logits), options.pop("scores", self.scores), (2, 2), 2, (2, 2), **options
        )

    @pytest.mark.parametrize("mask_fusion", ["soft", "binary"])
    def test_hand_computed_average(self, mask_fusion: str) -> None:
        # Region 1: [[(.8 + .4) / 2, .8 / 2], [0, 0]]; region 2: [[0, .6 / 2], [0, (.6 + .2) / 2]]; then the maximum
        torch.testing.assert_close(self.fuse(mask_fusion=mask_fusion), torch.tensor([[0.6, 0.4], [0.0, 0.4]]))

    @pytest.mark.parametrize("mask_fusion", ["soft", "binary"])
    def test_hand_computed_sum(self, mask_fusion: str) -> None:
        fused = self.fuse(mask_fusion=mask_fusion, merge="sum_norm")
        torch.testing.assert_close(fused, torch.tensor([[1.2, 1.4], [0.0, 0.8]]))

    @pytest.mark.parametrize("mask_fusion", ["soft", "binary"])
    def test_hand_computed_anomaly_weights(self, mask_fusion: str) -> None:
        # Region 1 is abnormal by .9: .9 [[1, 2 / 3], [0, 0]]; region 2 by .4: .4 [[0, 3 / 4], [0, 1]]; the maximum
        fused = self.fuse(mask_fusion=mask_fusion, merge="anomaly_weighted", region_scores=[0.9, 0.4])
        torch.testing.assert_close(fused, torch.tensor([[0.9, 0.6], [0.0, 0.4]]))

    def test_with_anomaly_weights_a_region_never_exceeds_its_anomaly(self) -> None:
        for score in (0.0, 0.01, 3.0):
            options: Any = {"merge": "anomaly_weighted", "region_scores": torch.tensor([0.5, 0.3])}
            fused = self.fuse(scores=torch.full((2, 2), score), **options)
            assert fused.max() == pytest.approx(0.5 if score > 0 else 0.0)

    def test_soft_masks_are_probabilities(self) -> None:
        fused = fuse_masks(torch.zeros(1, 3, 4, 4), torch.ones(1, 3), (16, 16), 16, (8, 8))
        torch.testing.assert_close(fused, torch.full((8, 8), 0.5))

    def test_binary_masks_are_cut_after_upsampling(self) -> None:
        # Logits 3 and -1 cross zero at 3/4 of the way between the centres, not at the cells' common edge
        logits = torch.tensor([[[[3.0, -1.0]]]])
        fused = fuse_masks(logits, torch.ones(1, 1), (1, 8), 8, (1, 16), mask_fusion="binary")
        assert fused.int().tolist() == [[1] * 10 + [0] * 6]

    def test_m1_m9_no_regions_give_zeros_of_the_same_frame(self) -> None:
        for mask_fusion in ("soft", "binary"):
            fused = self.fuse(logits=torch.zeros(0, 3, 2, 2), scores=torch.zeros(0, 3), mask_fusion=mask_fusion)
            assert torch.equal(fused, torch.zeros(2, 2))

    @pytest.mark.parametrize("score", [0.0, -0.5])
    def test_m10_worthless_scores_give_zeros(self, score: float) -> None:
        assert torch.equal(self.fuse(scores=torch.full((2, 2), score)), torch.zeros(2, 2))

    def test_scores_above_one_are_clamped(self) -> None:
        assert self.fuse(scores=torch.full((2, 2), 1.7)).max() == 1.0

    def test_m11_empty_masks_give_zeros(self) -> None:
        torch.testing.assert_close(self.fuse(logits=torch.full((2, 2, 2, 2), -100.0)), torch.zeros(2, 2))

    def test_m12_the_order_of_regions_does_not_matter(self) -> None:
        assert torch.equal(self.fuse(logits=self.logits.flip(0), scores=self.scores.flip(0)), self.fuse())

    def test_half_precision_answers_give_a_float32_map(self) -> None:
        fused = self.fuse(logits=self.logits.bfloat16(), scores=self.scores.bfloat16())
        assert fused.dtype == torch.float32
        torch.testing.assert_close(fused, self.fuse(), atol=2e-3, rtol=0)

    @properties
    @given(
        seed=st.integers(0, 10**6),
        height=sides,
        width=sides,
        num_regions=st.integers(0, 4),
        mask_fusion=st.sampled_from(["soft", "binary"]),
    )
    def test_m15_in_range_and_never_lowered_by_another_region(
        self, seed: int, height: int, width: int, num_regions: int, mask_fusion: str
    ) -> None:
        generator = torch.Generator().manual_seed(seed)
        content = sam_content(height, width, 64)
        logits = 5 * torch.randn(num_regions + 1, 3, 16, 16, generator=generator)
        scores = 2 * torch.rand(num_regions + 1, 3, generator=generator) - 0.5
        fewer = fuse_masks(logits[:-1], scores[:-1], content, 64, (11, 13), mask_fusion=mask_fusion)
        more = fuse_masks(logits, scores, content, 64, (11, 13), mask_fusion=mask_fusion)
        assert (more >= fewer).all() and more.min() >= 0 and more.max() <= 1

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"mask_fusion": "hard"}, "`mask_fusion` must be one of 'soft', 'binary', got 'hard'"),
            ({"merge": "max"}, "`merge` must be one of 'average', 'anomaly_weighted', 'sum_norm', got 'max'"),
            ({"merge": "anomaly_weighted"}, "needs 2 `region_scores`, got none"),
            ({"merge": "anomaly_weighted", "region_scores": [0.5]}, "needs 2 `region_scores`, got 1"),
            ({"scores": torch.zeros(2, 3)}, r"got \(2, 2, 2, 2\) and \(2, 3\)"),
            ({"logits": torch.zeros(2, 2, 2)}, r"got \(2, 2, 2\) and \(2, 2\)"),
        ],
    )
    def test_bad_values_are_named(self, options: dict[str, Any], message: str) -> None:
        with pytest.raises(ValueError, match=message):
            self.fuse(**options)


class TestMergeMaps:
    def test_average_hand_computed(self) -> None:
        merged = merge_maps(torch.tensor([[0.2, 0.4]]), torch.tensor([[1.0, 0.0]]))
        torch.testing.assert_close(merged, torch.tensor([[0.6, 0.2]]))

    def test_sum_norm_hand_computed_per_image(self) -> None:
        rough = torch.tensor([[[0.2, 0.4, 0.6]], [[0.0, 0.1, 0.1]]])
        masks = torch.tensor([[[0.0, 3.0, 1.0]], [[0.0, 0.0, 0.1]]])
        merged = merge_maps(rough, masks, merge="sum_norm")  # sums .2 3.4 1.6 and 0 .1 .2
        torch.testing.assert_close(merged, torch.tensor([[[0.0, 1.0, 0.4375]], [[0.0, 0.5, 1.0]]]))

    @pytest.mark.parametrize(("rough", "mask", "expected"), [(0.5, 0.0, 0.5), (0.0, 0.0, 0.0), (0.75, 2.0, 1.0)])
    def test_m3_a_constant_map_is_not_zero_over_zero(self, rough: float, mask: float, expected: float) -> None:
        merged = merge_maps(torch.full((2, 4, 4), rough), torch.full((2, 4, 4), mask), merge="sum_norm")
        assert torch.equal(merged, torch.full((2, 4, 4), expected))

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
    def test_half_precision_is_merged_in_float32(self, dtype: torch.dtype) -> None:
        rough = torch.rand(4, 4).to(dtype)
        merged = merge_maps(rough, torch.full((4, 4), 0.3))
        assert merged.dtype == torch.float32
        assert torch.equal(merged, (rough.float() + 0.3) / 2)

    def test_different_shapes_are_refused(self) -> None:
        with pytest.raises(ValueError, match=r"got \(4, 4\) and \(1, 4, 4\)"):
            merge_maps(torch.zeros(4, 4), torch.zeros(1, 4, 4))

    def test_unknown_merge_is_named(self) -> None:
        with pytest.raises(
            ValueError, match="`merge` must be one of 'average', 'anomaly_weighted', 'sum_norm', got 'mean'"
        ):
            merge_maps(torch.zeros(4, 4), torch.zeros(4, 4), merge="mean")


class TestScoreMap:
    def test_hand_computed_per_image(self) -> None:
        maps = torch.tensor([[[0.1, 0.9], [0.5, 0.3]], [[0.0, 0.0], [0.0, 0.8]]])
        torch.testing.assert_close(score_map(maps, top_fraction=0.5), torch.tensor([0.7, 0.4]))

    def test_at_least_one_pixel(self) -> None:
        assert score_map(torch.tensor([[[0.25, 0.75]]])).tolist() == [0.75]

    def test_the_default_takes_268_pixels_at_518(self) -> None:
        maps = torch.zeros(1, 518, 518)
        maps.view(-1)[:268] = 1.0
        assert score_map(maps).item() == 1.0
        maps.view(-1)[0] = 0.0
        assert score_map(maps).item() == pytest.approx(267 / 268)

    @pytest.mark.parametrize("top_fraction", [0.0, -0.1, 1.1])
    def test_bad_fractions_are_named(self, top_fraction: float) -> None:
        with pytest.raises(ValueError, match=rf"`top_fraction` must be in \(0, 1\], got {top_fraction}"):
            score_map(torch.zeros(1, 2, 2), top_fraction=top_fraction)

    def test_a_map_without_batch_is_refused(self) -> None:
        with pytest.raises(ValueError, match=r"must be of shape \(batch_size, height, width\), got \(2, 2\)"):
            score_map(torch.zeros(2, 2))
