# SPDX-FileCopyrightText: 2026 The clipsam_hf authors
# SPDX-License-Identifier: Apache-2.0
"""The pool of scenes behind the training of `clipsam-tiny`, and the real photographs that go into it."""

from pathlib import Path

import numpy as np
import pytest
import synthetic_pool
import torch
from PIL import Image
from synthetic_photographs import Photographs
from synthetic_pool import KINDS, ScenePool, build_pool
from tiny_sam import PromptedMasks, SamSettings, sam_config
from transformers import SamModel


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Grey photographs with one white square each, which is the defect."""
    root = tmp_path_factory.mktemp("sets") / "plates"
    for folder in ("good", "crack", "ground_truth/crack"):
        (root / folder).mkdir(parents=True)
    for number in range(3):
        image, mask = np.full((300, 400, 3), 90, np.uint8), np.zeros((300, 400), np.uint8)
        image[100:160, 200:280], mask[100:160, 200:280] = 255, 255
        Image.fromarray(np.full((300, 400, 3), 90, np.uint8)).save(root / "good" / f"g{number}.png")
        Image.fromarray(image).save(root / "crack" / f"c{number}.png")
        Image.fromarray(mask).save(root / "ground_truth" / "crack" / f"c{number}.png")
    return root


@pytest.fixture(scope="module")
def folder(photographs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pool")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(synthetic_pool, "CHUNK", 8)
        build_pool(folder, seed=3, num_scenes=16, data_dirs=[str(photographs)], num_workers=1)
    return folder


@pytest.fixture
def pool(folder: Path, monkeypatch: pytest.MonkeyPatch) -> ScenePool:
    monkeypatch.setattr(synthetic_pool, "CHUNK", 8)
    return ScenePool(folder, seed=3)


@pytest.mark.slow
def test_a_lost_chunk_is_drawn_again_to_the_same_bits(
    folder: Path, photographs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(synthetic_pool, "CHUNK", 8)
    kept, lost = (folder / f"scenes-000{number}.npy" for number in (0, 1))
    before, written = lost.read_bytes(), kept.stat().st_mtime_ns
    (folder / "words-0001.json").unlink()
    lost.write_bytes(b"half a chu")
    build_pool(folder, seed=3, num_scenes=16, data_dirs=[str(photographs)], num_workers=1)

    assert lost.read_bytes() == before
    assert kept.stat().st_mtime_ns == written


@pytest.mark.slow
def test_a_pool_of_another_seed_is_refused(folder: Path, photographs: Path) -> None:
    with pytest.raises(ValueError, match="made otherwise"):
        build_pool(folder, seed=4, num_scenes=256, data_dirs=[str(photographs)], num_workers=1)


def test_a_batch_is_a_function_of_the_step(pool: ScenePool) -> None:
    one, same, other = (pool.batch(step, first=0, count=6, size=64) for step in (5, 5, 6))

    assert torch.equal(one.images, same.images)
    assert torch.equal(one.kinds, same.kinds)
    assert one.words == same.words == other.words
    assert not torch.equal(one.images, other.images)
    assert one.images.shape == (6, 3, 64, 64)
    assert 0 <= one.images.min() and one.images.max() <= 1


def test_a_pair_differs_where_the_defect_is_and_nowhere_else(pool: ScenePool) -> None:
    batch = pool.batch(5, first=0, count=24, size=64, paired=True)
    assert len(batch.images) == len(batch.words) == 24 and batch.words[:12] == batch.words[12:]

    differing = 0
    for number in range(12):
        # the exposure follows the image's mean, which a large defect moves a little
        changed = (batch.images[number] - batch.images[number + 12]).abs().amax(0) > 0.1
        # the lens spreads a defect by three pixels, and scaling by one
        near = torch.nn.functional.max_pool2d(batch.masks[number, None].float(), 9, 1, 4)[0] > 0
        assert not (changed & ~near).any()
        if changed.any():
            differing += 1
            assert not batch.masks[number + 12].any()
        elif torch.equal(batch.images[number], batch.images[number + 12]):  # a true defect, which cannot be undone
            assert torch.equal(batch.kinds[number], batch.kinds[number + 12])
    assert differing > 4


def test_every_scene_comes_once_an_epoch(pool: ScenePool) -> None:
    first, second = list(pool._order(0, 16)), list(pool._order(16, 16))

    assert sorted(first) == sorted(second) == list(range(16))
    assert first != second
    assert list(pool._order(10, 12)) == [*first, *second][10:22]


def test_a_set_that_is_left_out_is_not_shown(folder: Path, pool: ScenePool, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "plates" in pool.batch(0, first=0, count=16, size=16).words
    without = ScenePool(folder, seed=3, leave_out=["plates"])

    assert 0 < len(without.scenes) < 16
    assert "plates" not in without.batch(0, first=0, count=32, size=16).words
    with pytest.raises(ValueError, match="shows 'cups', which was to be left out"):
        ScenePool(folder, seed=3, leave_out=["cups"])


def test_what_is_marked_has_changed_and_good_images_have_no_mark(
    pool: ScenePool, monkeypatch: pytest.MonkeyPatch
) -> None:
    # without the camera, what is left is the defect
    monkeypatch.setattr(synthetic_pool, "photograph", lambda images, generator: images)
    damaged = pool.batch(2, first=0, count=16, size=96)
    pool.good_fraction = 1.0
    good = pool.batch(2, first=0, count=16, size=96)
    changed = (damaged.images - good.images).abs().amax(1) > 1e-6

    undone = ~good.masks.flatten(1).any(1)  # all but the true defects, which cannot be undone
    assert 8 <= undone.sum() < 16
    inside, outside = (
        changed[undone][where].float().mean() for where in (damaged.masks[undone], ~damaged.masks[undone])
    )
    assert inside > 0.8
    assert outside < 0.02


def test_a_true_defect_keeps_its_mask_however_it_is_turned(photographs: Path) -> None:
    pieces = Photographs([photographs])
    for seed in range(12):
        image, mask, kind, class_name = pieces.defect(np.random.default_rng(seed), 64)
        assert (kind, class_name) == ("crack", "plates")
        assert ((image.min(-1) > 170) == mask).mean() > 0.97


def test_materials_avoid_the_known_defects(photographs: Path) -> None:
    pieces = Photographs([photographs])
    draws = [pieces.material(np.random.default_rng(seed), 64)[0] for seed in range(20)]

    assert np.mean([piece.max() < 0.5 for piece in draws]) >= 0.9


def test_a_kind_without_a_word_is_refused(tmp_path: Path) -> None:
    (tmp_path / "rust").mkdir()
    (tmp_path / "good").mkdir()
    (tmp_path / "ground_truth" / "rust").mkdir(parents=True)
    Image.new("RGB", (32, 32)).save(tmp_path / "good" / "0.png")
    Image.new("RGB", (32, 32)).save(tmp_path / "rust" / "1.png")
    Image.new("L", (32, 32), 255).save(tmp_path / "ground_truth" / "rust" / "1.png")

    with pytest.raises(ValueError, match="No kind for the defects 'rust'"):
        Photographs([tmp_path])


def test_the_kinds_present_are_those_with_enough_pixels(pool: ScenePool) -> None:
    batch = pool.batch(0, first=0, count=1, size=32)
    batch.kinds.zero_()
    batch.kinds[0, 0, :6] = KINDS.index("crack") + 1
    batch.kinds[0, 1, :5] = KINDS.index("dent") + 1

    assert batch.present(0) == ["crack"]


def test_sam_is_asked_for_something_on_every_image(pool: ScenePool) -> None:
    settings = SamSettings(schedule=((4, 64, 8),), image_size=64)
    prompted = PromptedMasks(SamModel(sam_config(settings, 64)), pool, settings)
    _, masks, boxes, points = prompted.batch(1, np.random.default_rng(0))

    assert masks.shape == (8, 3, 64, 64) and masks.flatten(2).any(2).all()
    assert boxes.shape == (8, 3, 4) and points.shape == (8, 3, settings.num_points, 2)


def test_boxes_and_points_are_near_what_they_ask_for() -> None:
    prompted = PromptedMasks.__new__(PromptedMasks)
    prompted.settings = SamSettings()
    masks = torch.zeros(40, 64, 64, dtype=torch.bool)
    masks[:, 20:30, 40:44] = True
    rng = np.random.default_rng(0)
    boxes, points = prompted.draw_boxes(masks, rng), prompted.draw_points(masks, rng)

    assert boxes.median(0).values == pytest.approx([40, 20, 44, 30], abs=2)
    assert (boxes[:, 2:] > boxes[:, :2]).all()
    # at most two pixels beside the mask, and half of the masks have points inside only
    assert points[..., 0].min() >= 38 and points[..., 0].max() <= 46
    assert points[..., 1].min() >= 18 and points[..., 1].max() <= 32
    inside = (points >= torch.tensor([40, 20])).all(2) & (points <= torch.tensor([44, 30])).all(2)
    assert 0.6 < inside.float().mean() < 1
