# SPDX-FileCopyrightText: 2026 The clipsam_hf authors
# SPDX-License-Identifier: Apache-2.0
"""MMR, function by function: the numbers by hand, the geometry as properties, and the faults M1-M15 of bad input."""

import doctest
from dataclasses import asdict
from typing import Any

import numpy as np
import pytest
import torch
from geometry import random_map, sam_content
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import SamImageProcessorPil

from clipsam_hf import ClipSamConfig, ClipSamForAnomalySegmentation, refinement_clipsam
from clipsam_hf.refinement_clipsam import (
    Refinement,
    RefinementOptions,
    merge_masks,
    refine_map,
    resample_masks,
    resize_map,
    score_map,
)
from clipsam_hf.regions_clipsam import Frame, SamPrompts, build_prompts, find_regions


# The machine that runs the tests may be busy: no deadline per example.
properties = settings(deadline=None, max_examples=60)
sides = st.integers(1, 4000)
small_sides = st.integers(1, 24)


def test_docstring_examples() -> None:
    result = doctest.testmod(refinement_clipsam)
    assert result.attempted > 0 and result.failed == 0


class TestResampleMasks:
    def test_hand_computed(self) -> None:
        # Both cells are content; four pixels have their centres at 0.25, 0.75, 1.25 and 1.75 cells
        mask = torch.tensor([[0.0, 4.0], [8.0, 12.0]])
        expected = [[0.0, 1.0, 3.0, 4.0], [2.0, 3.0, 5.0, 6.0], [6.0, 7.0, 9.0, 10.0], [8.0, 9.0, 11.0, 12.0]]
        assert resample_masks(mask, Frame((8, 8), 8), (4, 4)).tolist() == expected

    def test_content_that_ends_inside_a_cell(self) -> None:
        # 7 of 16 pixels are 1.75 of 4 cells: two pixels have their centres at 0.4375 and 1.3125 cells
        mask = torch.tensor([[0.0, 1.0, 99.0, 99.0]])
        resampled = resample_masks(mask, Frame((16, 7), 16), (1, 2))
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
        resampled = resample_masks(torch.where(inside, values, float("nan")), Frame(content, side), output)
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
            resampled = resample_masks(mask, Frame(content, 1024), (37, 37)).numpy()
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
        resampled = resample_masks(mask, Frame(content, 1024), (518, 518))
        tolerance = 0.01 * float(mask.max() - mask.min())
        rows, columns = (518 - -(-518 * 6 // content[axis]) for axis in (0, 1))
        torch.testing.assert_close(
            resampled[..., :rows, :columns], expected[..., :rows, :columns], atol=tolerance, rtol=0
        )

    def test_m14_a_flipped_mask_gives_a_flipped_result(self) -> None:
        mask = torch.randn(16, 16)
        resampled = resample_masks(mask.flip(-1), Frame((20, 64), 64), (9, 11))
        torch.testing.assert_close(resampled, resample_masks(mask, Frame((20, 64), 64), (9, 11)).flip(-1))

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
    def test_half_precision_is_computed_in_float32(self, dtype: torch.dtype) -> None:
        mask = torch.randn(16, 16).to(dtype)
        resampled = resample_masks(mask, Frame((40, 64), 64), (30, 30))
        assert resampled.dtype == torch.float32
        assert torch.equal(resampled, resample_masks(mask.float(), Frame((40, 64), 64), (30, 30)))

    def test_autocast_changes_nothing(self) -> None:
        mask = torch.randn(16, 16)
        with torch.autocast("cpu", torch.bfloat16):
            resampled = resample_masks(mask, Frame((40, 64), 64), (30, 30))
        assert torch.equal(resampled, resample_masks(mask, Frame((40, 64), 64), (30, 30)))

    def test_gradients_reach_the_content_only(self) -> None:
        mask = torch.randn(4, 4, dtype=torch.float64, requires_grad=True)
        resample_masks(mask, Frame((8, 16), 16), (8, 8)).sum().backward()
        assert mask.grad is not None
        assert (mask.grad[:2] > 0).all() and (mask.grad[2:] == 0).all()

    def test_content_beyond_the_square_is_refused(self) -> None:
        with pytest.raises(ValueError, match=r"`frame.content` \(65, 64\) exceeds `frame.side` 64"):
            resample_masks(torch.zeros(4, 4), Frame((65, 64), 64), (8, 8))

    def test_a_vector_is_refused(self) -> None:
        with pytest.raises(ValueError, match=r"`mask_logits` must be of shape .*, got \(4,\)"):
            resample_masks(torch.zeros(4), Frame((8, 8), 8), (8, 8))


class TestMergeMasks:
    # Two regions of two masks of 2 x 2 cells; a logit of 100 is a probability of 1.
    logits = 100.0 * torch.tensor(
        [[[[1, 1], [-1, -1]], [[1, -1], [-1, -1]]], [[[-1, 1], [-1, 1]], [[-1, -1], [-1, 1]]]], dtype=torch.float32
    )
    scores = torch.tensor([[0.8, 0.4], [0.6, 0.2]])
    rough = torch.tensor([[0.9, 0.3], [0.1, 0.4]])

    def merge(self, **options: Any) -> torch.Tensor:
        """The answer for the masks above."""
        given = {name: options.pop(name, getattr(self, name)) for name in ("rough", "logits", "scores")}
        options = {"merge": "average", "frame": Frame((2, 2), 2), **options}
        return merge_masks(given["rough"], given["logits"], given["scores"], options.pop("frame"), **options)

    def masks(self, **options: Any) -> torch.Tensor:
        """What the masks add: S, which is twice the answer where the rough map is 0."""
        return 2 * self.merge(rough=torch.zeros(2, 2), **options)

    @pytest.mark.parametrize("mask_fusion", ["soft", "binary"])
    def test_hand_computed_average(self, mask_fusion: str) -> None:
        # Region 1: [[(.8 + .4) / 2, .8 / 2], [0, 0]]; region 2: [[0, .6 / 2], [0, (.6 + .2) / 2]]; then the maximum
        torch.testing.assert_close(self.masks(mask_fusion=mask_fusion), torch.tensor([[0.6, 0.4], [0.0, 0.4]]))
        merged = self.merge(mask_fusion=mask_fusion)
        torch.testing.assert_close(merged, torch.tensor([[0.75, 0.35], [0.05, 0.4]]))

    @pytest.mark.parametrize("mask_fusion", ["soft", "binary"])
    def test_hand_computed_sum(self, mask_fusion: str) -> None:
        # S is [[1.2, 1.4], [0, .8]], so that A + S is [[2.1, 1.7], [.1, 1.2]], from .1 to 2.1
        merged = self.merge(mask_fusion=mask_fusion, merge="sum_norm")
        torch.testing.assert_close(merged, torch.tensor([[1.0, 0.8], [0.0, 0.55]]))

    @pytest.mark.parametrize("mask_fusion", ["soft", "binary"])
    def test_hand_computed_anomaly_weights(self, mask_fusion: str) -> None:
        # Region 1 is abnormal by .9: .9 [[1, 2 / 3], [0, 0]]; region 2 by .4: .4 [[0, 3 / 4], [0, 1]]; the maximum
        options: Any = {"mask_fusion": mask_fusion, "merge": "anomaly_weighted", "region_peaks": [0.9, 0.4]}
        torch.testing.assert_close(self.masks(**options), torch.tensor([[0.9, 0.6], [0.0, 0.4]]))
        torch.testing.assert_close(self.merge(**options), torch.tensor([[0.9, 0.45], [0.05, 0.4]]))

    def test_anomaly_weights_are_the_default(self) -> None:
        arguments = (self.rough, self.logits, self.scores, Frame((2, 2), 2))
        expected = merge_masks(*arguments, region_peaks=[0.9, 0.4], merge="anomaly_weighted")
        assert torch.equal(merge_masks(*arguments, region_peaks=[0.9, 0.4]), expected)

    @pytest.mark.parametrize("mask_fusion", ["soft", "binary"])
    def test_hand_computed_refine_weights(self, mask_fusion: str) -> None:
        # A is [[.9, .3], [.1, .4]] and S [[.9, .6], [0, .4]]: .7 A + .3 S, and S alone
        options: Any = {"mask_fusion": mask_fusion, "merge": "anomaly_weighted", "region_peaks": [0.9, 0.4]}
        assert torch.equal(self.merge(refine_weight=0, **options), self.rough)
        merged = self.merge(refine_weight=0.3, **options)
        torch.testing.assert_close(merged, torch.tensor([[0.9, 0.39], [0.07, 0.4]]))
        merged = self.merge(refine_weight=1, **options)
        torch.testing.assert_close(merged, torch.tensor([[0.9, 0.6], [0.0, 0.4]]))

    def test_refine_weights_of_the_other_merges(self) -> None:
        # "average": S is [[.6, .4], [0, .4]]; "sum_norm": .7 A + .3 S is [[.99, .63], [.07, .52]], from .07 to .99
        merged = self.merge(refine_weight=0.3)
        torch.testing.assert_close(merged, torch.tensor([[0.81, 0.33], [0.07, 0.4]]))
        merged = self.merge(refine_weight=0.3, merge="sum_norm")
        torch.testing.assert_close(merged, torch.tensor([[1.0, 0.56 / 0.92], [0.0, 0.45 / 0.92]]))
        for merge in ("average", "sum_norm"):
            assert torch.equal(self.merge(refine_weight=0, merge=merge), self.rough)

    def test_refine_weight_of_the_default(self) -> None:
        assert ClipSamConfig().refine_weight == RefinementOptions().refine_weight == 0.5
        assert torch.equal(self.merge(), self.merge(refine_weight=0.5))

    @pytest.mark.parametrize("weight", [-0.1, 1.1, float("nan")])
    def test_refine_weight_out_of_range_is_refused(self, weight: float) -> None:
        with pytest.raises(ValueError, match=r"`refine_weight` must be in \[0, 1\], got"):
            self.merge(refine_weight=weight)

    def test_with_anomaly_weights_a_region_never_exceeds_its_peak(self) -> None:
        for score in (0.0, 0.01, 3.0):
            scores = torch.full((2, 2), score)
            masks = self.masks(scores=scores, merge="anomaly_weighted", region_peaks=[0.5, 0.3])
            assert masks.max() == pytest.approx(0.5 if score > 0 else 0.0)

    @properties
    @given(
        seed=st.integers(0, 10**6),
        threshold=st.floats(0.05, 0.95),
        mask_fusion=st.sampled_from(["soft", "binary"]),
    )
    def test_with_anomaly_weights_the_answer_at_a_peak_is_never_above_it(
        self, seed: int, threshold: float, mask_fusion: str
    ) -> None:
        # Whatever the masks say: by the formula (A + S) / 2 with S at most the highest peak of the image
        rough = torch.from_numpy(random_map(12, 12, seed))
        generator = torch.Generator().manual_seed(seed)
        peaks = [region.peak for region in find_regions(rough, threshold, min_region_fraction=0, max_regions=200)]
        merged = merge_masks(
            rough,
            20 * torch.randn(len(peaks), 3, 8, 8, generator=generator),
            torch.rand(len(peaks), 3, generator=generator),
            Frame((40, 64), 64),
            region_peaks=peaks,
            mask_fusion=mask_fusion,
        )
        assert merged.max() <= rough.max() + 1e-6
        if len(peaks) == 1:
            assert merged[rough == peaks[0]].max() <= peaks[0] + 1e-6

    def test_a_more_abnormal_region_may_lift_another_that_its_mask_covers(self) -> None:
        # Both masks are the whole square: S is .9 everywhere, and the weaker peak of .6 rises to (.6 + .9) / 2
        merged = merge_masks(
            torch.tensor([[0.9, 0.0, 0.6]]),
            torch.full((2, 1, 3, 3), 100.0),
            torch.ones(2, 1),
            Frame((1, 3), 3),
            region_peaks=[0.9, 0.6],
        )
        torch.testing.assert_close(merged, torch.tensor([[0.9, 0.45, 0.75]]))

    def test_soft_masks_are_probabilities(self) -> None:
        options: Any = {"logits": torch.zeros(1, 3, 4, 4), "scores": torch.ones(1, 3), "frame": Frame((16, 16), 16)}
        torch.testing.assert_close(self.merge(rough=torch.zeros(8, 8), **options), torch.full((8, 8), 0.25))

    def test_binary_masks_are_cut_after_upsampling(self) -> None:
        # Logits 3 and -1 cross zero at 3/4 of the way between the centres, not at the cells' common edge
        merged = self.merge(
            rough=torch.zeros(1, 16),
            logits=torch.tensor([[[[3.0, -1.0]]]]),
            scores=torch.ones(1, 1),
            frame=Frame((1, 8), 8),
            mask_fusion="binary",
        )
        assert merged.tolist() == [[0.5] * 10 + [0.0] * 6]

    @pytest.mark.parametrize("merge", ["average", "anomaly_weighted"])
    @pytest.mark.parametrize("mask_fusion", ["soft", "binary"])
    def test_m1_m9_without_regions_the_map_is_halved(self, mask_fusion: str, merge: str) -> None:
        merged = self.merge(
            logits=torch.zeros(0, 3, 2, 2), scores=torch.zeros(0, 3), mask_fusion=mask_fusion, merge=merge
        )
        assert torch.equal(merged, self.rough / 2)

    @pytest.mark.parametrize("merge", ["average", "anomaly_weighted"])
    @pytest.mark.parametrize("score", [0.0, -0.5])
    def test_m10_worthless_scores_add_nothing(self, score: float, merge: str) -> None:
        scores = torch.full((2, 2), score)
        assert torch.equal(self.masks(scores=scores, merge=merge, region_peaks=[0.9, 0.4]), torch.zeros(2, 2))

    def test_scores_above_one_are_clamped(self) -> None:
        assert self.masks(scores=torch.full((2, 2), 1.7)).max() == 1.0

    def test_m11_empty_masks_add_nothing(self) -> None:
        torch.testing.assert_close(self.masks(logits=torch.full((2, 2, 2, 2), -100.0)), torch.zeros(2, 2))

    def test_m12_the_order_of_regions_does_not_matter(self) -> None:
        assert torch.equal(self.merge(logits=self.logits.flip(0), scores=self.scores.flip(0)), self.merge())

    def test_half_precision_answers_give_a_float32_map(self) -> None:
        merged = self.merge(logits=self.logits.bfloat16(), scores=self.scores.bfloat16())
        assert merged.dtype == torch.float32
        torch.testing.assert_close(merged, self.merge(), atol=2e-3, rtol=0)

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
    def test_half_precision_maps_are_merged_in_float32(self, dtype: torch.dtype) -> None:
        rough = torch.rand(2, 2).to(dtype)
        merged = self.merge(rough=rough)
        assert merged.dtype == torch.float32
        assert torch.equal(merged, self.merge(rough=rough.float()))

    @properties
    @given(
        seed=st.integers(0, 10**6),
        height=sides,
        width=sides,
        num_regions=st.integers(0, 4),
        mask_fusion=st.sampled_from(["soft", "binary"]),
        merge=st.sampled_from(["average", "anomaly_weighted"]),
    )
    def test_m15_in_range_and_never_lowered_by_another_region(
        self, seed: int, height: int, width: int, num_regions: int, mask_fusion: str, merge: str
    ) -> None:
        generator = torch.Generator().manual_seed(seed)
        frame = Frame(sam_content(height, width, 64), 64)
        rough = torch.rand(11, 13, generator=generator)
        logits = 5 * torch.randn(num_regions + 1, 3, 16, 16, generator=generator)
        scores = 2 * torch.rand(num_regions + 1, 3, generator=generator) - 0.5
        peaks = torch.rand(num_regions + 1, generator=generator).tolist()
        fewer, more = (
            merge_masks(
                rough,
                logits[:count],
                scores[:count],
                frame,
                region_peaks=peaks[:count],
                mask_fusion=mask_fusion,
                merge=merge,
            )
            for count in (num_regions, num_regions + 1)
        )
        assert (more >= fewer).all() and more.min() >= 0 and more.max() <= 1

    @pytest.mark.parametrize(
        ("rough", "probability", "expected"), [(0.5, 0.0, 0.5), (0.0, 0.0, 0.0), (0.75, 1.0, 1.0)]
    )
    def test_m3_a_constant_map_is_not_zero_over_zero(self, rough: float, probability: float, expected: float) -> None:
        merged = self.merge(
            rough=torch.full((2, 2), rough),
            logits=torch.full((1, 2, 2, 2), 100.0 if probability else -100.0),
            scores=torch.ones(1, 2),
            merge="sum_norm",
        )
        assert torch.equal(merged, torch.full((2, 2), expected))

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"mask_fusion": "hard"}, "`mask_fusion` must be one of 'soft', 'binary', got 'hard'"),
            ({"merge": "max"}, "`merge` must be one of 'anomaly_weighted', 'average', 'sum_norm', got 'max'"),
            ({"merge": "anomaly_weighted"}, "needs 2 `region_peaks`, got 0"),
            ({"merge": "anomaly_weighted", "region_peaks": [0.5]}, "needs 2 `region_peaks`, got 1"),
            ({"scores": torch.zeros(2, 3)}, r"got \(2, 2, 2, 2\) and \(2, 3\)"),
            ({"logits": torch.zeros(2, 2, 2)}, r"got \(2, 2, 2\) and \(2, 2\)"),
            ({"rough": torch.zeros(1, 2, 2)}, r"`rough_anomaly_map` must be .*, got \(1, 2, 2\)"),
            ({"frame": Frame((3, 2), 2)}, r"`frame.content` \(3, 2\) exceeds `frame.side` 2"),
        ],
    )
    def test_bad_values_are_named(self, options: dict[str, Any], message: str) -> None:
        with pytest.raises(ValueError, match=message):
            self.merge(**options)


class TestStepAtTheThreshold:
    """What the threshold of the regions does to the answer at a peak, with masks that are sure of it."""

    @staticmethod
    def answer_at_peak(peak: float, **options: Any) -> float:
        rough = torch.zeros(16, 16)
        rough[4:8, 4:8] = 0.9 * peak
        rough[5, 5] = peak

        def decode(prompts: SamPrompts) -> tuple[torch.Tensor, torch.Tensor]:
            """Three confident masks per region, all of them the whole square."""
            assert prompts.input_boxes is not None
            return torch.full((len(prompts.input_boxes), 3, 8, 8), 50.0), torch.ones(len(prompts.input_boxes), 3)

        settings = RefinementOptions(binarize_threshold=0.5, min_region_fraction=0.0, **options)
        regions = settings.find_regions(rough)
        assert len(regions) == (peak > 0.5)
        return float(refine_map(rough, regions, Frame((64, 64), 64), decode, settings).anomaly_map[5, 5])

    @pytest.mark.parametrize("mask_fusion", ["soft", "binary"])
    def test_the_default_stays_at_the_peak(self, mask_fusion: str) -> None:
        assert ClipSamConfig().merge == RefinementOptions().merge == "anomaly_weighted"
        assert self.answer_at_peak(0.499, mask_fusion=mask_fusion) == pytest.approx(0.2495)
        assert self.answer_at_peak(0.501, mask_fusion=mask_fusion) == pytest.approx(0.501)

    def test_average_goes_beyond_it(self) -> None:
        assert self.answer_at_peak(0.499, merge="average") == pytest.approx(0.2495)
        assert self.answer_at_peak(0.501, merge="average") == pytest.approx(0.7505)

    def test_only_with_average_a_good_part_above_the_threshold_outranks_a_clear_defect(self) -> None:
        # 0.7 in the rough map, whose mask the refiner is unsure of, against 0.51 with a sure one
        rough, frame = torch.full((1, 1), 0.7), Frame((4, 4), 4)
        logits, unsure = torch.full((1, 3, 4, 4), 50.0), torch.full((1, 3), 0.3)
        defect = {
            merge: float(merge_masks(rough, logits, unsure, frame, region_peaks=[0.7], merge=merge))
            for merge in ("average", "anomaly_weighted")
        }
        assert self.answer_at_peak(0.51, merge="average") > defect["average"]
        assert self.answer_at_peak(0.51, merge="anomaly_weighted") < defect["anomaly_weighted"]


class TestRefineMap:
    """The chain, with a refiner that notes what it is asked."""

    @staticmethod
    def refine(rough: torch.Tensor, **options: Any) -> tuple[Any, list[SamPrompts]]:
        asked: list[SamPrompts] = []

        def decode(prompts: SamPrompts) -> tuple[torch.Tensor, torch.Tensor]:
            asked.append(prompts)
            count = len(next(value for value in prompts if value is not None))
            return torch.full((count, 1, 8, 8), -50.0), torch.ones(count, 1)

        settings = RefinementOptions(**{"min_region_fraction": 0.0, **options})
        refinement = refine_map(rough, settings.find_regions(rough), Frame((32, 64), 64), decode, settings)
        return refinement, asked

    def test_the_options_reach_the_prompts(self) -> None:
        rough = torch.from_numpy(random_map(8, 8, 0))
        options: Any = {"binarize_threshold": 0.7, "max_regions": 100, "num_points": 3, "point_seed": 4}
        regions = find_regions(rough, 0.7, min_region_fraction=0.0, max_regions=100)
        expected = build_prompts(regions, rough, Frame((32, 64), 64), num_points=3, seed=4)
        refinement, (asked,) = self.refine(rough, **options)
        assert asked is refinement.prompts
        assert all(torch.equal(one, other) for one, other in zip(asked, expected, strict=True))
        _, (boxes,) = self.refine(rough, prompt_type="box", **options)
        assert boxes.input_points is None and torch.equal(boxes.input_boxes, expected.input_boxes)

    def test_defaults_are_those_of_the_configuration(self) -> None:
        config = ClipSamConfig()
        for name, value in asdict(RefinementOptions()).items():
            assert getattr(config, name) == value, name

    def test_a_large_region_does_not_prompt(self) -> None:
        rough = torch.zeros(8, 8)
        rough[:2, :8] = 0.8  # exactly a quarter
        assert len(RefinementOptions().find_regions(rough)) == 1
        rough[2, 0] = 0.8
        assert RefinementOptions().find_regions(rough) == []
        assert len(RefinementOptions(max_region_fraction=1.0).find_regions(rough)) == 1

    def test_the_rule_of_regions(self) -> None:
        rough = torch.full((8, 8), 0.2)
        rough[2, 2:4] = 0.4
        rough[5:, 5:] = 0.19
        assert RefinementOptions().find_regions(rough) == []
        (region,) = RefinementOptions(region_rule="relative").find_regions(rough)
        assert region.box == (2, 2, 4, 3)
        # A spread of 0.02 logits counts: 0.4 is 0.98 logits above 0.2, which is 49 of these
        assert RefinementOptions(region_rule="relative", region_deviations=50).find_regions(rough) == []
        with pytest.raises(ValueError, match="`region_rule` must be one of 'fixed', 'relative', got 'otsu'"):
            RefinementOptions(region_rule="otsu").find_regions(rough)

    def test_the_refine_weight_reaches_the_map(self) -> None:
        rough = torch.zeros(8, 8)
        rough[2, 3] = 0.8
        refinement, _ = self.refine(rough, refine_weight=0.25)
        torch.testing.assert_close(refinement.anomaly_map, 0.75 * rough)  # the mask is empty
        assert torch.equal(self.refine(rough, refine_weight=0)[0].anomaly_map, rough)

    def test_what_was_decoded_is_returned(self) -> None:
        rough = torch.zeros(8, 8)
        rough[2, 3] = rough[6, 6] = 0.8
        refinement, _ = self.refine(rough)
        assert refinement.mask_logits.shape == (2, 1, 8, 8) and refinement.iou_scores.tolist() == [[1.0], [1.0]]
        torch.testing.assert_close(refinement.anomaly_map, rough / 2)  # the masks are empty

    def test_a_region_weighs_by_its_peak(self) -> None:
        # One region of .9 and .6, whose mask is the whole square: S is .9 everywhere
        rough, settings = torch.tensor([[0.9, 0.6, 0.0]]), RefinementOptions(max_region_fraction=1.0)
        answer = (torch.full((1, 1, 4, 4), 50.0), torch.ones(1, 1))
        regions = settings.find_regions(rough)
        refined = refine_map(rough, regions, Frame((64, 64), 64), lambda prompts: answer, settings).anomaly_map
        torch.testing.assert_close(refined, torch.tensor([[0.9, 0.75, 0.45]]))

    def test_without_regions_the_refiner_gets_no_rows(self) -> None:
        refinement, (asked,) = self.refine(torch.full((8, 8), 0.3))
        assert [None if value is None else len(value) for value in asked] == [0, 0, 0]
        torch.testing.assert_close(refinement.anomaly_map, torch.full((8, 8), 0.15))


class TestModelRefine:
    """The configuration's fields, and what a caller sets in their place."""

    @staticmethod
    def refine(model: ClipSamForAnomalySegmentation, **options: Any) -> list[Refinement]:
        rough = torch.full((2, 32, 32), 0.1)
        rough[:, 4:8, 4:8] = 0.4
        generator = torch.Generator().manual_seed(0)
        pixels, sizes = torch.randn(2, 3, 64, 64, generator=generator), torch.tensor([[48, 64], [64, 40]])
        return model.refine(rough, sam_pixel_values=pixels, reshaped_input_sizes=sizes, **options)

    def test_a_threshold_of_the_call_goes_before_the_rule_of_regions(
        self, tiny_model: ClipSamForAnomalySegmentation
    ) -> None:
        config = tiny_model.config
        config.region_rule, config.region_deviations, config.min_region_fraction = "relative", 100.0, 0.0
        for threshold, count in {None: 0, 0.3: 1, 0.5: 0}.items():
            refinements = self.refine(tiny_model, binarize_threshold=threshold)
            assert [len(each.iou_scores) for each in refinements] == [count, count]
        config.region_deviations = 3.0
        assert [len(each.iou_scores) for each in self.refine(tiny_model)] == [1, 1]
        with pytest.raises(ValueError, match=r"`binarize_threshold` must lie in \[0, 1\], got 1.5"):
            self.refine(tiny_model, binarize_threshold=1.5)

    def test_refine_weight_is_the_share_of_the_masks(self, tiny_model: ClipSamForAnomalySegmentation) -> None:
        maps = {}
        for tiny_model.config.refine_weight in (0.0, 0.3, 1.0):
            refinements = self.refine(tiny_model, binarize_threshold=0.3)
            maps[tiny_model.config.refine_weight] = torch.stack([each.anomaly_map for each in refinements])
        assert set(maps[0.0].unique().tolist()) == {torch.tensor(0.1).item(), torch.tensor(0.4).item()}
        torch.testing.assert_close(maps[0.3], 0.7 * maps[0.0] + 0.3 * maps[1.0])
        assert (maps[1.0] - maps[0.0]).abs().max() > 1e-3


class TestResizeMap:
    def test_hand_computed(self) -> None:
        resized = resize_map(torch.tensor([[0.0, 4.0], [8.0, 12.0]]), (4, 4))
        expected = [[0.0, 1.0, 3.0, 4.0], [2.0, 3.0, 5.0, 6.0], [6.0, 7.0, 9.0, 10.0], [8.0, 9.0, 11.0, 12.0]]
        assert resized.tolist() == expected

    def test_the_same_size_changes_nothing(self) -> None:
        values = torch.rand(5, 7)
        assert torch.equal(resize_map(values, (5, 7)), values)

    def test_a_flip_goes_through(self) -> None:
        values = torch.rand(6, 9)
        torch.testing.assert_close(resize_map(values.flip(1), (11, 4)), resize_map(values, (11, 4)).flip(1))

    def test_bad_sizes_are_named(self) -> None:
        with pytest.raises(ValueError, match="`size` must be a positive"):
            resize_map(torch.zeros(2, 2), (0, 3))


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


@pytest.mark.parametrize(("merge", "count"), [("average", 1), ("anomaly_weighted", 1), ("sum_norm", 5)])
def test_merging_low_and_high_is_the_same_where_it_is_linear(merge: str, count: int) -> None:
    """One region, or a sum: bringing every mask to the size of the map first changes nothing."""
    frame, masks, scores, rough = (
        Frame((768, 1024), 1024),
        torch.randn(count, 3, 16, 16),
        torch.rand(count, 3),
        torch.rand(25, 30),
    )
    weights = {"average": scores / 3, "anomaly_weighted": 0.7 * scores / scores.sum(1, keepdim=True)}.get(
        merge, scores
    )
    shown = (weights[..., None, None] * resample_masks(masks.sigmoid(), frame, rough.shape)).sum((0, 1))
    expected = (rough + shown) / 2
    if merge == "sum_norm":
        expected = (expected - expected.min()) / (expected.max() - expected.min())
    merged = merge_masks(rough, masks, scores, frame, region_peaks=[0.7] * count, merge=merge)
    torch.testing.assert_close(merged, expected, atol=1e-6, rtol=0)


@properties
@given(
    seed=st.integers(0, 10**6),
    count=st.integers(1, 5),
    content=st.tuples(st.integers(3, 16), st.integers(3, 16)),
    output=st.tuples(small_sides, small_sides),
)
def test_merging_low_is_never_below_the_full_size_and_equal_where_one_region_leads(
    seed: int, count: int, content: tuple[int, int], output: tuple[int, int]
) -> None:
    """Between pixels of which one region leads everywhere, taking the maximum before or after makes no difference."""
    generator = torch.Generator().manual_seed(seed)
    masks = 4 * torch.randn(count, 2, 8, 8, generator=generator)
    scores, peaks = torch.rand(count, 2, generator=generator), torch.rand(count, generator=generator)
    frame = Frame(content, 16)
    merged = merge_masks(torch.zeros(output), masks, scores, frame, region_peaks=peaks.tolist(), refine_weight=1.0)

    weights = peaks[:, None] * scores / scores.sum(1, keepdim=True)
    low = (weights[..., None, None] * masks.sigmoid()).sum(1)  # (count, 8, 8)
    full = resample_masks(low, frame, output).amax(0)
    assert (merged - full).min() >= -1e-6
    leads = torch.nn.functional.one_hot(low.argmax(0), count).permute(2, 0, 1).float()
    one_leads = resample_masks(leads, frame, output).amax(0) > 1 - 1e-6
    torch.testing.assert_close(merged[one_leads], full[one_leads], atol=1e-6, rtol=0)
