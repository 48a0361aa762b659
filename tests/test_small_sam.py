# SPDX-FileCopyrightText: 2026 The clipsam_hf authors
# SPDX-License-Identifier: Apache-2.0
"""What SAM of `clipsam-small` is asked in training, and how its outlines are measured."""

from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from probe_sam import find_parts, measure
from small_sam import CELL, SETTINGS, RegionPrompts, SamScenes, disturbed_map, near
from synthetic import TRAINING_FAMILIES, SyntheticImages
from synthetic_pool import Batch


SIZE = 8 * CELL


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> SamScenes:
    folder = tmp_path_factory.mktemp("materials")
    rng = np.random.default_rng(0)
    for family in ("Wood", "Marble"):
        (folder / family).mkdir()
        Image.fromarray(rng.integers(0, 256, (40, 40, 3), dtype=np.uint8)).save(folder / family / "a.png")
    few = {name: TRAINING_FAMILIES[name] for name in ("granular", "plain")}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("small_sam.SyntheticImages", partial(SyntheticImages, families=few, variants=1))
        return SamScenes(folder, seed=3)


def test_a_batch_depends_on_its_place_alone(scenes: SamScenes) -> None:
    first = scenes.batch(5, first=40, count=3, size=SIZE)
    scenes.batch(6, first=43, count=2, size=2 * SIZE)
    again = scenes.batch(5, first=40, count=3, size=SIZE)
    assert torch.equal(first.images, again.images) and torch.equal(first.parts, again.parts)
    assert first.images.shape == (3, 3, SIZE, SIZE) and 0 <= first.images.min() <= first.images.max() <= 1
    assert ((first.parts > 0) == (first.kinds > 0)).all() and (first.kinds > 0).any()


def test_a_disturbed_map_is_high_where_the_defect_is() -> None:
    mask = np.zeros((SIZE, SIZE), bool)
    mask[2 * CELL : 4 * CELL, 3 * CELL : 5 * CELL] = True
    maps = np.stack([disturbed_map(mask, np.random.default_rng(seed)) for seed in range(60)])
    assert maps.shape == (60, SIZE // 2, SIZE // 2) and 0 <= maps.min() <= maps.max() <= 1
    inside = mask[::2, ::2]
    assert maps.mean(0)[inside].mean() > 2 * maps.mean(0)[~inside].mean()
    # A hair of one pixel answers nearly as much as a patch that is all defect
    hair = np.zeros((SIZE, SIZE), bool)
    hair[3 * CELL + 5, CELL:-CELL] = True
    answered = np.stack([disturbed_map(hair, np.random.default_rng(seed)) for seed in range(60)]).mean(0)
    assert answered[3 * CELL // 2 : 4 * CELL // 2].mean() > 2 * answered[: 2 * CELL // 2].mean()


def test_what_is_beside_a_region_belongs_to_it_up_to_a_patch() -> None:
    region = np.zeros((SIZE // 2, SIZE // 2), bool)
    region[20, 20] = True
    reached = near(region)
    rows = np.flatnonzero(reached.any(1))
    assert reached.shape == (SIZE, SIZE)
    assert (rows[0], rows[-1]) == (40 - CELL, 41 + CELL)


def test_regions_ask_for_what_is_defective_in_them() -> None:
    kinds = torch.zeros(1, SIZE, SIZE, dtype=torch.uint8)
    kinds[0, 40:60, 40:70] = 1
    batch = Batch(torch.zeros(1, 3, SIZE, SIZE), kinds, kinds, torch.zeros_like(kinds), ["felt"])
    asked: Any = RegionPrompts(SimpleNamespace(), SimpleNamespace(), SETTINGS)  # type: ignore[arg-type]
    empty = 0
    for seed in range(30):
        masks, boxes, points = asked.ask(batch, 0, np.random.default_rng(seed))
        assert masks.shape == (SETTINGS.prompts_per_image, SIZE, SIZE) and masks.dtype == torch.bool
        assert boxes.shape == (len(masks), 4) and points.shape == (len(masks), SETTINGS.num_points, 2)
        assert not (masks & (kinds == 0)).any()
        assert boxes.min() >= -0.5 and max(float(boxes.max()), float(points.max())) <= SIZE
        empty += int((~masks.flatten(1).any(1)).sum())
    # Sometimes what a region holds is no defect
    assert 0 < empty < 30 * SETTINGS.prompts_per_image // 2


def test_parts_are_shown_by_their_deepest_point() -> None:
    mask = np.zeros((60, 80), bool)
    mask[10:21, 30:61] = True
    mask[50:53, 3:6] = True
    mask[0, 0] = True
    (large, (x, y)), (small, point) = find_parts(mask)[:2]
    assert (large.sum(), small.sum()) == (11 * 31, 9)
    assert y == 15.5 and 35 <= x <= 56 and point == (4.5, 51.5)


def test_a_sam_that_knows_the_answer_is_perfect() -> None:
    """The photograph is 2:1, so that the square is half empty: points and masks must agree about where it lies."""
    mask = np.zeros((60, 120), bool)
    mask[20:40, 30:60] = True

    class Oracle:
        config = SimpleNamespace(vision_config=SimpleNamespace(image_size=240))

        def get_image_embeddings(self, pixel_values: torch.Tensor) -> torch.Tensor:
            return pixel_values

        def __call__(self, input_points: torch.Tensor, **_: Any) -> Any:
            x, y = (input_points[0, 0, 0] + 0.5).tolist()
            assert 60 < x < 120 and 40 < y < 80
            logits = torch.full((1, 1, 3, 120, 120), -1.0)
            logits[0, 0, 1, 20:40, 30:60] = 1.0
            return SimpleNamespace(pred_masks=logits, iou_scores=torch.tensor([[[0.2, 0.1, 0.3]]]))

    fittest, chosen, count = measure(Oracle(), iter([(np.zeros((60, 120, 3), np.uint8), mask)]))  # type: ignore[arg-type]
    assert (fittest, chosen, count) == (1.0, 0.0, 1)
