# SPDX-FileCopyrightText: 2026 The clipsam_hf authors
# SPDX-License-Identifier: Apache-2.0
"""The generator of images: reproducible, with exact masks, and a held-out set that training never touches."""

import numpy as np
import pytest
from synthetic import TRAINING_SHAPES, SyntheticImages
from synthetic_defects import TRAINING_DEFECTS, Canvas
from synthetic_details import DETAILS
from synthetic_heldout import HELDOUT_DEFECTS, HELDOUT_FAMILIES, HELDOUT_SHAPES, checksum, heldout_images
from synthetic_textures import TRAINING_FAMILIES, TexturePool, granular
from synthetic_words import (
    ABNORMAL_STATES,
    CLASS_NAMES,
    DEFECT_STATES,
    MATERIALS,
    NORMAL_STATES,
    TEMPLATES,
    random_sentence,
)
from tiny_text import build_tokenizer

from clipsam_hf import prompts_clipsam


@pytest.fixture(scope="module")
def images() -> SyntheticImages:
    return SyntheticImages(seed=0, size=64, variants=1)


@pytest.fixture(scope="module")
def heldout() -> SyntheticImages:
    return heldout_images()


def test_an_image_depends_on_seed_and_index_only(images: SyntheticImages) -> None:
    later = [images.sample(index) for index in (5, 3)]
    again = SyntheticImages(seed=0, size=64, variants=1)

    assert checksum([again.sample(5)]) == checksum([later[0]])
    assert checksum([again.sample(3)]) == checksum([later[1]])
    assert checksum([images.sample(4)]) != checksum([later[0]])


def test_another_seed_gives_other_images(images: SyntheticImages) -> None:
    other = SyntheticImages(seed=1, size=64, variants=1, families={"granular": granular})

    assert not np.array_equal(other.sample(3).image, images.sample(3).image)


@pytest.mark.parametrize("kind", sorted(TRAINING_DEFECTS))
def test_a_mask_is_where_the_defect_changed_the_scene(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    families = {name: TRAINING_FAMILIES[name] for name in ("granular", "wood")}
    defects = {kind: TRAINING_DEFECTS[kind]}
    one = SyntheticImages(seed=2, size=64, variants=1, families=families, defects=defects, good_fraction=0)
    # without the camera, what is left is the defect
    monkeypatch.setattr(one, "_photograph", lambda image, rng: image)
    damaged = [one.sample(index) for index in range(12)]
    checked = 0
    for index, sample in enumerate(damaged):
        changed = np.abs(sample.image - one.sample(index, with_defects=False).image).max(-1) > 0
        assert not (changed & ~sample.mask).any()
        if sample.masks:
            checked += 1
            assert set(sample.masks) == {kind}
            assert changed[sample.mask].mean() > 0.5
    assert checked > 0


@pytest.mark.parametrize("name", sorted(DETAILS))
def test_a_detail_changes_the_material_only(name: str) -> None:
    support = np.zeros((64, 64), bool)
    support[8:56, 8:56] = True
    pool = TexturePool({"granular": granular}, seed=0, variants=1, side=64)
    changed = np.zeros((64, 64), bool)
    for seed in range(12):
        rng = np.random.default_rng(seed)
        image = np.full((64, 64, 3), 0.5, np.float32)
        after = DETAILS[name](Canvas(image.copy(), image * 0, support, pool), rng)
        assert 0 <= after.min() and after.max() <= 1
        changed |= np.abs(after - image).max(-1) > 0.02
    assert changed.any() and not (changed & ~support).any()


def test_details_are_part_of_the_good_scene() -> None:
    bare, detailed = (SyntheticImages(seed=4, size=64, variants=1, detail_fraction=part) for part in (0, 1))
    # what is printed beside a small thing is not seen
    assert sum(not np.array_equal(bare.scene(n).clean, detailed.scene(n).clean) for n in range(8)) > 4
    for index in range(8):
        scene = detailed.scene(index)
        outside = ~np.any([*scene.masks.values(), np.zeros((64, 64), bool)], axis=0)
        assert np.array_equal(scene.clean[outside], scene.damaged[outside])


def test_a_third_of_the_images_is_good(images: SyntheticImages) -> None:
    good = np.mean([not images.sample(index, size=32).masks for index in range(200)])

    assert 0.25 < good < 0.5


def test_two_kinds_of_defect_have_a_mask_each(images: SyntheticImages) -> None:
    samples = [images.sample(index) for index in range(60)]
    double = [sample for sample in samples if len(sample.masks) == 2]

    assert double
    for sample in double:
        first, second = sample.masks.values()
        assert not np.array_equal(first, second)
        assert np.array_equal(sample.mask, first | second)


def test_a_caption_names_material_and_state(images: SyntheticImages) -> None:
    for index in range(40):
        sample = images.sample(index)
        states = DEFECT_STATES[next(iter(sample.masks))] if sample.masks else NORMAL_STATES
        assert sample.material in sample.caption
        assert any(state.replace("{}", "").strip() in sample.caption for state in states)


def test_a_crop_comes_from_the_pool() -> None:
    pool = TexturePool({"granular": granular}, seed=0, variants=2, side=32)
    crop = pool.crop(np.random.default_rng(0), "granular", 32)
    values = np.sort(np.round(crop * 255).ravel())

    assert crop.dtype == np.float32 and 0 <= crop.min() <= crop.max() <= 1
    assert any(np.array_equal(values, np.sort(texture.ravel())) for texture in pool.textures["granular"])


def test_heldout_families_shapes_and_defects_are_never_trained_on() -> None:
    for trained, held_out in (
        (TRAINING_FAMILIES, HELDOUT_FAMILIES),
        (TRAINING_SHAPES, HELDOUT_SHAPES),
        (TRAINING_DEFECTS, HELDOUT_DEFECTS),
    ):
        assert not set(trained) & set(held_out)
        assert not set(trained.values()) & set(held_out.values())


@pytest.mark.slow
def test_the_heldout_set_is_the_committed_one(heldout: SyntheticImages) -> None:
    # Means and areas and not a checksum: the last bit of a sine differs between processors.
    expected = {
        0: (139.707, 1606, {"shift"}),
        1: (96.417, 486, {"blister"}),
        2: (161.803, 2696, {"bleach", "burn"}),
        3: (48.338, 1311, {"crease"}),
        4: (110.089, 373, {"thread"}),
        5: (217.612, 793, {"shift"}),
    }
    for index, (mean, area, kinds) in expected.items():
        sample = heldout.sample(index)
        assert sample.image.mean() == pytest.approx(mean, abs=0.05)
        assert sample.mask.sum() == pytest.approx(area, abs=10)
        assert set(sample.masks) == kinds


def test_heldout_masks_are_where_the_scene_changed(heldout: SyntheticImages, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heldout, "_photograph", lambda image, rng: image)
    for index in range(12):
        sample = heldout.sample(index, size=96)
        changed = np.abs(sample.image - heldout.sample(index, size=96, with_defects=False).image).max(-1) > 0
        assert not (changed & ~sample.mask).any()
        assert not sample.masks or changed[sample.mask].mean() > 0.5


def test_the_words_include_those_of_the_processor() -> None:
    assert set(prompts_clipsam.NORMAL_STATES) <= set(NORMAL_STATES)
    assert set(prompts_clipsam.ABNORMAL_STATES) <= set(ABNORMAL_STATES)
    assert set(prompts_clipsam.PROMPT_TEMPLATES) <= set(TEMPLATES)
    assert set(DEFECT_STATES) == set(TRAINING_DEFECTS) and set(MATERIALS) == set(TRAINING_FAMILIES)


def test_the_tokenizer_knows_the_generated_words_and_takes_any_text() -> None:
    tokenizer = build_tokenizer()
    sentence = random_sentence(np.random.default_rng(0), ("cracked {}",), CLASS_NAMES[0])
    words = tokenizer.tokenize(sentence)

    assert len(words) == len(sentence.replace(".", " .").split())
    assert tokenizer.eos_token_id == len(tokenizer) - 1
    assert tokenizer.model_max_length == 77
    strange = "Ünïcode 漢字 🙂"
    assert tokenizer.decode(tokenizer(strange)["input_ids"], skip_special_tokens=True) == strange.lower()
