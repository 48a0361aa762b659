# SPDX-FileCopyrightText: 2026 The clipsam_hf authors
# SPDX-License-Identifier: Apache-2.0
"""MMR as a whole: against the plain loops of `reference_mmr`, and what holds for a SAM that answers the boxes."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import reference_mmr
import torch
from geometry import random_map
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import SamConfig, SamModel

from clipsam_hf.refinement_clipsam import RefinementOptions, refine_map, score_map
from clipsam_hf.regions_clipsam import Frame, Region, SamPrompts, find_regions


Sam = Callable[[torch.Tensor, torch.Tensor], tuple[torch.Tensor, torch.Tensor]]

# The machine that runs the tests may be busy: no deadline per example.
properties = settings(deadline=None, max_examples=60)


def box_sam(boxes: torch.Tensor, points: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """A SAM of 64 pixels and 16 cells a side that answers one mask: the box itself."""
    centres = (torch.arange(16) + 0.5) * 4
    left, top, right, bottom = (boxes + 0.5)[:, :, None].unbind(1)  # (num_regions, 1) each
    columns = (centres >= left) & (centres < right)  # (num_regions, 16)
    rows = (centres >= top) & (centres < bottom)  # (num_regions, 16)
    inside = rows[:, None, :, None] & columns[:, None, None, :]  # (num_regions, 1, 16, 16)
    return torch.where(inside, 6.0, -6.0), torch.full((len(boxes), 1), 0.75)


def refine(rough: np.ndarray, sam: Sam, frame: Frame, **options: Any) -> torch.Tensor:
    """The chain of the module's functions, with one point per region: its maximum."""
    settings = RefinementOptions(
        **{"min_region_fraction": 0.0, "max_region_fraction": 1.0, "num_points": 1, **options}
    )

    def decode(prompts: SamPrompts) -> tuple[torch.Tensor, torch.Tensor]:
        assert prompts.input_boxes is not None and prompts.input_points is not None
        return sam(prompts.input_boxes, prompts.input_points)

    return refine_map(torch.from_numpy(rough), settings.find_regions(rough), frame, decode, settings).anomaly_map


def pixels_of(region: Region) -> list[tuple[int, int]]:
    return [(int(row), int(column)) for row, column in np.argwhere(region.mask)]


def test_continuous_at_the_threshold() -> None:
    # Just below there is no region; just above there is one, and SAM finds nothing: the same map
    def empty_sam(boxes: torch.Tensor, points: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return torch.full((len(boxes), 3, 16, 16), -50.0), torch.ones(len(boxes), 3)

    rough = np.zeros((16, 16), dtype=np.float32)
    results = []
    for peak in (0.5, np.nextafter(np.float32(0.5), np.float32(1))):
        rough[4:8, 4:8] = peak
        results.append(refine(rough, empty_sam, Frame((64, 64), 64)))
    torch.testing.assert_close(results[0], results[1], atol=1e-7, rtol=0)


def test_a_good_part_never_outranks_a_defect_that_sam_missed() -> None:
    # Below the threshold no region is asked for; above it there is one, and SAM finds nothing there
    def empty_sam(boxes: torch.Tensor, points: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return torch.full((len(boxes), 3, 16, 16), -50.0), torch.ones(len(boxes), 3)

    good, missed = (
        refine(np.full((4, 4), value, dtype=np.float32), empty_sam, Frame((64, 64), 64)).max()
        for value in (0.49, 0.51)
    )
    assert good < missed


@settings(properties, max_examples=10)
@given(seed=st.integers(0, 10**6), mask_fusion=st.sampled_from(["soft", "binary"]))
def test_m14_a_flipped_image_gives_a_flipped_map(seed: int, mask_fusion: str) -> None:
    rough = np.zeros((16, 16), dtype=np.float32)
    rough[::2, ::2] = random_map(8, 8, seed)
    for axis in (0, 1):
        flipped = refine(
            np.flip(rough, axis).copy(), box_sam, Frame((64, 64), 64), max_regions=64, mask_fusion=mask_fusion
        )
        expected = refine(rough, box_sam, Frame((64, 64), 64), max_regions=64, mask_fusion=mask_fusion).flip(axis)
        torch.testing.assert_close(flipped, expected)


@properties
@given(seed=st.integers(0, 10**6), row=st.integers(0, 12), column=st.integers(0, 12), value=st.floats(0.5, 1.0))
def test_m15_adding_a_defect_never_lowers_the_maximum(seed: int, row: int, column: int, value: float) -> None:
    rough = random_map(16, 16, seed)
    worse = rough.copy()
    worse[row : row + 4, column : column + 4] = np.maximum(worse[row : row + 4, column : column + 4], value)
    before, after = (refine(each, box_sam, Frame((48, 64), 64), max_regions=256) for each in (rough, worse))
    assert after.max() >= before.max()


@pytest.mark.filterwarnings("ignore:6 regions are above the threshold")
@pytest.mark.parametrize("mask_fusion", ["soft", "binary"])
@pytest.mark.parametrize("merge", ["average", "anomaly_weighted", "sum_norm"])
@pytest.mark.parametrize("content", [(64, 64), (43, 64), (64, 27), (3, 64)])
@pytest.mark.parametrize("threshold", [0.7, 2.0])
def test_agrees_with_plain_loops_around_a_real_sam(
    tiny_sam_config: SamConfig,
    content: tuple[int, int],
    merge: str,
    mask_fusion: str,
    threshold: float,
) -> None:
    torch.manual_seed(0)
    sam = SamModel(tiny_sam_config).eval()
    image_embeddings = torch.randn(1, 16, 8, 8)
    rough = random_map(12, 14, 5)

    @torch.no_grad()
    def predict(boxes: torch.Tensor, points: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        if len(boxes) == 0:
            return torch.zeros(0, 3, 32, 32), torch.zeros(0, 3)
        outputs = sam(image_embeddings=image_embeddings, input_boxes=boxes[None], input_points=points[None])
        return outputs.pred_masks[0], outputs.iou_scores[0]

    def predict_one(box: list[float], points: list[list[float]]) -> tuple[list[Any], list[float]]:
        masks, scores = predict(torch.tensor([box]), torch.tensor([points]))
        return masks[0].tolist(), scores[0].tolist()

    refined = refine(
        rough,
        predict,
        Frame(content, 64),
        binarize_threshold=threshold,
        min_region_fraction=2 / 168,
        max_regions=4,
        mask_fusion=mask_fusion,
        merge=merge,
    )
    expected = reference_mmr.refine(
        rough.tolist(),
        predict_one,
        mask_size=(32, 32),
        content=content,
        sam_side=64,
        threshold=threshold,
        min_fraction=2 / 168,
        max_regions=4,
        mask_fusion=mask_fusion,
        merge=merge,
    )
    torch.testing.assert_close(refined.double(), torch.tensor(expected, dtype=torch.float64), atol=1e-5, rtol=0)
    score = score_map(refined[None], top_fraction=0.05).item()
    assert score == pytest.approx(reference_mmr.score_of(expected, 0.05), abs=1e-5)


@properties
@given(seed=st.integers(0, 10**6), height=st.integers(1, 24), width=st.integers(1, 24), threshold=st.floats(0.3, 0.9))
def test_regions_agree_with_plain_loops(seed: int, height: int, width: int, threshold: float) -> None:
    rough = random_map(height, width, seed)
    threshold = float(np.float32(threshold))
    regions = find_regions(rough, threshold, min_region_fraction=0.02, max_regions=1000)
    expected = reference_mmr.regions_of(rough.tolist(), threshold, 0.02, 1000)
    assert [pixels_of(region) for region in regions] == [sorted(pixels) for pixels in expected]
