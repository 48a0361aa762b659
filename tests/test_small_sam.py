# SPDX-FileCopyrightText: 2026 The clipsam_hf authors
# SPDX-License-Identifier: Apache-2.0
"""What SAM of `clipsam-small` is asked in training, and how its outlines are measured."""

from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from probe_sam import find_parts, measure
from small_features import SceneCache, build_cache
from small_sam import (
    CELL,
    PIECES,
    SETTINGS,
    RegionPrompts,
    SamScenes,
    build_sam,
    disturbed_map,
    draw_pieces,
    encode,
    find_segments,
    near,
    train_decoder,
)
from small_scenes import Scenes
from synthetic import TRAINING_FAMILIES, SyntheticImages
from synthetic_pool import Batch
from tiny_common import SAM_PIXELS, normalise
from transformers import Dinov2Config, Dinov2Model

from clipsam_hf import EMBEDDED_CHECKPOINT
from clipsam_hf.data import AnomalyFolder
from clipsam_hf.modeling_clipsam import ClipSamForAnomalySegmentation


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
        return SamScenes(folder, seed=3, size=SIZE)


def test_a_scene_depends_on_its_number_alone(scenes: SamScenes) -> None:
    first = scenes.draw(40, 3)
    scenes.draw(0, 1)
    again = scenes.draw(41, 2)
    assert torch.equal(first.images[1:], again.images) and torch.equal(first.kinds[1:], again.kinds)
    assert first.images.shape == (3, 3, SIZE, SIZE) and 0 <= first.images.min() <= first.images.max() <= 1
    assert first.kinds.shape == (3, 2, SIZE, SIZE) and first.kinds[:, 0].any()


def test_a_patch_of_one_colour_ends_where_the_colour_does() -> None:
    image = np.full((40, 60, 3), 0.2, np.float32)
    image[10:20, 15:35] = 0.8
    inside = np.zeros((40, 60), bool)
    inside[10:20, 15:35] = True
    found = [find_segments(image, np.random.default_rng(seed)) for seed in range(40)]
    patches = [each == number for each in found for number in range(1, each.max() + 1)]
    assert patches and all(5e-4 <= patch.mean() <= 0.25 for patch in patches)
    # A flood that begins in the blur of the edge is a thin ring
    assert max((patch & inside).sum() / (patch | inside).sum() for patch in patches) > 0.9


@pytest.fixture
def photographs(tmp_path: Path) -> AnomalyFolder:
    image = np.full((40, 80, 3), 200, np.uint8)
    image[10:20, 30:60] = 20
    mask = np.zeros((40, 80), np.uint8)
    mask[10:20, 30:60] = 255
    for path, picture in (("test/crack/0.png", image), ("ground_truth/crack/0_mask.png", mask)):
        (tmp_path / "felt" / path).parent.mkdir(parents=True)
        Image.fromarray(picture).save(tmp_path / "felt" / path)
    return AnomalyFolder(tmp_path / "felt", split=None)


def test_a_photograph_is_shown_whole_and_in_pieces(photographs: AnomalyFolder) -> None:
    drawn = draw_pieces(photographs, 0, PIECES, seed=0, size=SIZE)
    again = draw_pieces(photographs, 1, PIECES - 1, seed=0, size=SIZE)
    assert torch.equal(drawn.images[1:], again.images) and torch.equal(drawn.kinds[1:], again.kinds)
    whole = drawn.kinds[0, 0] > 0
    rows, columns = whole.any(1).nonzero().flatten(), whole.any(0).nonzero().flatten()
    scale = SIZE / 80
    assert rows[0] == round(10 * scale) and columns[-1] == round(60 * scale) - 1
    # Below it is nothing: the mean colour, and no label
    assert not drawn.kinds[0, :, SIZE // 2 :].any()
    assert drawn.images[0, 0, SIZE // 2 :].unique().tolist() == pytest.approx([0.485])
    # What is defective is dark in every piece
    for image, kinds in zip(drawn.images, drawn.kinds[:, 0], strict=True):
        if (kinds > 0).any():
            assert image[:, kinds > 0].mean() < 0.35 < image[:, kinds == 0].mean()
    assert (drawn.kinds[1:, 0] > 0).any()


def build_small(seed: int = 0) -> tuple[Any, Any]:
    sizes = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 3, "image_size": 28, "patch_size": 14}
    torch.manual_seed(seed)
    settings = replace(
        SETTINGS,
        image_size=SIZE,
        num_layers=2,
        window_size=3,
        global_layers=(1,),
        num_steps=60,
        warmup=5,
        images_per_step=2,
        save_steps=40,
    )
    first = ClipSamForAnomalySegmentation.from_pretrained(EMBEDDED_CHECKPOINT).sam
    return build_sam(Dinov2Model(Dinov2Config(**sizes)), first, settings, seed=seed), settings


def test_the_decoder_learns_on_kept_states(tmp_path: Path) -> None:
    """The encoder's blocks stay."""

    def draw(first: int, count: int) -> Scenes:
        kinds = torch.zeros(count, 2, SIZE, SIZE, dtype=torch.uint8)
        images = torch.full((count, 3, SIZE, SIZE), 0.9)
        for row in range(count):
            place = 30 + 8 * ((first + row) % 4)
            kinds[row, 0, place : place + 40, 50:100] = 1
            images[row, :, place : place + 40, 50:100] = 0.1
        return Scenes(images, kinds, ["felt"] * count)

    model, _ = build_small()
    build_cache(tmp_path / "scenes", partial(encode, model.vision_encoder), draw, 8, about={})
    cache = SceneCache(tmp_path / "scenes")

    def train(path: Path) -> tuple[Any, RegionPrompts]:
        model, settings = build_small()
        loss = RegionPrompts(model, cache, [cache], settings, 0)
        train_decoder(model, loss, settings, path)
        return model, loss

    once, loss = train(tmp_path / "once.pt")
    before = {name: tensor.clone() for name, tensor in build_small()[0].state_dict().items()}
    after = once.state_dict()
    changed = {name for name in after if not torch.equal(after[name], before[name])}
    assert not any("vision_encoder.layers" in name or "pos_embed" in name for name in changed)
    assert "vision_encoder.neck.conv1.weight" in changed and any("mask_decoder" in name for name in changed)
    with torch.no_grad():
        untrained = RegionPrompts(build_small()[0], cache, [cache], loss.own, 0)
        losses = [np.mean([each(step)[1]["best"] for step in range(100, 120)]) for each in (loss, untrained)]
        assert losses[0] < 0.9 * losses[1]
    # The states that are kept are those that the whole encoder goes through
    images = draw(0, 1).images
    whole = once.vision_encoder(normalise(images, SAM_PIXELS)).last_hidden_state
    assert torch.allclose(loss.embed(cache.take([0]).features[:, 0].permute(0, 2, 3, 1)), whole, atol=0.02)


def test_a_disturbed_map_is_high_where_the_defect_is() -> None:
    mask = np.zeros((SIZE, SIZE), bool)
    mask[2 * CELL : 4 * CELL, 3 * CELL : 5 * CELL] = True
    maps = np.stack([disturbed_map(mask, np.random.default_rng(seed)) for seed in range(60)])
    assert maps.shape == (60, SIZE // 2, SIZE // 2) and 0 <= maps.min() <= maps.max() <= 1
    inside = mask[::2, ::2]
    assert maps.mean(0)[inside].mean() > 2 * maps.mean(0)[~inside].mean()
    # A hair of two pixels answers nearly as much as a patch that is all defect
    hair = np.zeros((SIZE, SIZE), bool)
    hair[3 * CELL + 5 : 3 * CELL + 7, CELL:-CELL] = True
    answered = np.stack([disturbed_map(hair, np.random.default_rng(seed)) for seed in range(60)]).mean(0)
    assert answered[3 * CELL // 2 : 4 * CELL // 2].mean() > 2 * answered[: 2 * CELL // 2].mean()


def test_what_is_beside_a_region_belongs_to_it_up_to_a_patch() -> None:
    region = np.zeros((SIZE // 2, SIZE // 2), bool)
    region[20, 20] = True
    reached = near(region)
    rows = np.flatnonzero(reached.any(1))
    assert reached.shape == (SIZE, SIZE)
    assert (rows[0], rows[-1]) == (40 - 2 * (CELL // 2), 41 + 2 * (CELL // 2))


def test_regions_ask_for_what_is_defective_in_them() -> None:
    kinds = torch.zeros(1, SIZE, SIZE, dtype=torch.uint8)
    kinds[0, 40:60, 40:70] = 1
    batch = Batch(torch.zeros(1, 3, SIZE, SIZE), kinds, kinds, torch.zeros_like(kinds), ["felt"])
    nothing: Any = SimpleNamespace()
    asked = RegionPrompts(nothing, nothing, [], SETTINGS, 0)
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
