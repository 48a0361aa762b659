# SPDX-FileCopyrightText: 2026 The clipsam_hf authors
# SPDX-License-Identifier: Apache-2.0
"""Patches and their distances: averages, the search, the coreset, the scale, and the fingerprint of what made them."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

from clipsam_hf import ClipSamForAnomalySegmentation, ClipSamProcessor, patches_clipsam
from clipsam_hf.patches_clipsam import (
    Scale,
    average_neighbourhoods,
    check_fingerprint,
    choose_coreset,
    describe_photographs,
    find_nearest,
    fingerprint_encoder,
    measure_scale,
)


# --------------------------------------------------------------------------------------------------------------------
# Neighbourhoods


def test_a_square_of_one_is_the_token_itself() -> None:
    feature_map = torch.randn(2, 3, 4, 5)
    (tokens,) = average_neighbourhoods([feature_map], [1])
    assert_close(tokens, F.normalize(feature_map.flatten(2).transpose(1, 2), dim=-1))


def test_squares_are_cut_at_the_border() -> None:
    """A 1 in the corner of 3 x 3 tokens counts a quarter there, a sixth beside it and a ninth in the middle."""
    feature_map = torch.zeros(1, 2, 3, 3)
    feature_map[0, 0, 0, 0] = 1
    feature_map[0, 1] = 1
    (tokens,) = average_neighbourhoods([feature_map], [3])
    ratio = (tokens[0, :, 0] / tokens[0, :, 1]).reshape(3, 3)
    assert_close(ratio, torch.tensor([[1 / 4, 1 / 6, 0], [1 / 6, 1 / 9, 0], [0, 0, 0]]))


def test_each_block_has_each_square_and_unit_length() -> None:
    tokens = average_neighbourhoods([torch.randn(2, 3, 4, 4), torch.randn(2, 3, 4, 4)], [1, 3, 5])
    assert len(tokens) == 6 and all(each.shape == (2, 16, 3) for each in tokens)
    assert_close(torch.stack(tokens).norm(dim=-1), torch.ones(6, 2, 16))


def test_a_square_may_be_larger_than_the_map() -> None:
    (tokens,) = average_neighbourhoods([torch.tensor([[[[3.0]], [[4.0]]]])], [5])
    assert_close(tokens, torch.tensor([[[0.6, 0.8]]]))


@torch.no_grad()
def test_a_patch_is_what_the_next_block_reads(tiny_model: ClipSamForAnomalySegmentation) -> None:
    tiny_model.config.reference_layers = (1, 2)
    pixels = torch.randn(2, 3, 32, 32)
    vision = tiny_model.clip.vision_model
    states = vision(pixels, output_hidden_states=True).hidden_states
    patches, text_map = describe_photographs(tiny_model, pixels)
    assert text_map is None
    for found, norm, state in zip(
        patches, (vision.encoder.layers[1].layer_norm1, vision.post_layernorm), states[1:], strict=True
    ):
        assert_close(found.flatten(2).transpose(1, 2), norm(state[:, 1:]))


# --------------------------------------------------------------------------------------------------------------------
# The search


@pytest.mark.parametrize("block", [1, 7, 100, 2**24])
def test_nearest_is_that_of_a_full_table_whatever_the_blocks(monkeypatch: pytest.MonkeyPatch, block: int) -> None:
    monkeypatch.setattr(patches_clipsam, "_BLOCK", block)
    tokens = F.normalize(torch.randn(2, 5, 8), dim=-1)
    memory = F.normalize(torch.randn(23, 8), dim=-1)
    expected = (1 - torch.einsum("btc,mc->btm", tokens, memory)).amin(dim=-1)
    assert_close(find_nearest(tokens, memory), expected)


def test_half_precision_costs_less_than_half_a_thousandth() -> None:
    """11 bits of each number: 1 - cosine is off by at most 2^-11."""
    tokens = F.normalize(torch.randn(50, 64), dim=-1)
    memory = F.normalize(torch.randn(200, 64), dim=-1)
    memory[:50] = tokens
    exact, half = find_nearest(tokens, memory), find_nearest(tokens, memory.half())
    assert half.dtype == torch.float32
    assert (exact - half).abs().max() < 2**-11 and half.min() >= 0


# --------------------------------------------------------------------------------------------------------------------
# The coreset


def test_every_candidate_is_near_a_chosen_one() -> None:
    """Of 12 clusters of very different sizes, 24 chosen ones leave none out."""
    generator = torch.Generator().manual_seed(3)
    centres = 10 * torch.randn(12, 32, generator=generator)
    sizes = torch.tensor([400, 200, 100, 50, 20, 10, 5, 5, 3, 2, 1, 1])
    tokens = centres.repeat_interleave(sizes, dim=0) + 0.1 * torch.randn(int(sizes.sum()), 32, generator=generator)
    chosen = choose_coreset(tokens, 24)
    assert torch.cdist(tokens, tokens[chosen]).amin(dim=1).max() < 2  # clusters are at least 40 apart
    assert chosen.unique().numel() == 24 and (chosen.diff() > 0).all()


def test_the_coreset_depends_on_the_seed_alone() -> None:
    tokens = torch.randn(300, 16)
    first = choose_coreset(tokens, 20, seed=1)
    torch.manual_seed(5)
    assert torch.equal(choose_coreset(tokens, 20, seed=1), first)
    assert not torch.equal(choose_coreset(tokens, 20, seed=2), first)


@pytest.mark.parametrize("size", [4, 5])
def test_a_size_that_holds_all_keeps_all(size: int) -> None:
    assert choose_coreset(torch.randn(4, 3), size).tolist() == [0, 1, 2, 3]


def test_more_than_one_is_taken_a_round(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patches_clipsam, "_CORESET_ROUNDS", 4)
    assert choose_coreset(torch.randn(50, 3), 18).unique().numel() == 18


def test_equal_candidates_are_not_chosen_twice() -> None:
    assert choose_coreset(torch.ones(9, 3), 6).unique().numel() == 6


# --------------------------------------------------------------------------------------------------------------------
# The scale


def test_scale_by_hand() -> None:
    """Of 0 to 1 and of 2 to 3: the median is 1.5, the tails begin at 0.95 and 2.95, their median is 1.95."""
    scale = measure_scale([np.linspace(0, 1, 101), np.linspace(2, 3, 101)])
    assert scale == pytest.approx((1.5, 0.45 / 1.645))


def test_one_defective_photograph_of_five_has_no_say() -> None:
    generator = np.random.default_rng(0)
    good = [generator.gamma(4.0, 0.01, 400) for _ in range(5)]
    defective = [*good[:4], np.concatenate([good[4][:300], generator.uniform(0.5, 1.0, 100)])]
    clean, touched = measure_scale(good), measure_scale(defective)
    assert touched.centre == pytest.approx(clean.centre, rel=0.05)
    assert touched.spread == pytest.approx(clean.spread, rel=0.1)


def test_equal_photographs_have_a_spread_all_the_same() -> None:
    assert measure_scale([np.zeros(9)] * 2) == pytest.approx((0.0, 1e-4))


def test_a_map_is_a_half_at_so_many_deviations() -> None:
    distances = torch.tensor([[[0.1, 0.2], [0.25, 0.3]]])
    maps = Scale(0.1, 0.05).to_map(distances, (2, 2), 3.0)
    assert maps[0, 1, 0] == 0.5
    assert_close(maps, torch.tensor([[[-3.0, -1.0], [0.0, 1.0]]]).sigmoid())


def test_distances_are_resized_before_they_are_squashed() -> None:
    """Half-pixel centres: 0 and 1 become 0, 1/4, 3/4 and 1."""
    maps = Scale(0.0, 1.0).to_map(torch.tensor([[[0.0, 1.0]]]), (1, 4), 1.0)
    assert_close(maps, (torch.tensor([[[0, 0.25, 0.75, 1]]]) - 1).sigmoid())


# --------------------------------------------------------------------------------------------------------------------
# The fingerprint


def other_weights(model: ClipSamForAnomalySegmentation) -> None:
    model.clip.vision_model.encoder.layers[1].mlp.fc1.weight.data.mul_(1.01)


def other_side(model: ClipSamForAnomalySegmentation) -> None:
    model.config.image_size = 40


def other_layers(model: ClipSamForAnomalySegmentation) -> None:
    model.config.reference_layers = (2,)


def other_neighbourhoods(model: ClipSamForAnomalySegmentation) -> None:
    model.config.reference_neighbourhoods = (1,)


def other_dtype(model: ClipSamForAnomalySegmentation) -> None:
    model.to(torch.bfloat16)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (other_weights, "other weights"),
        (other_side, "`image_size` 32, not 40"),
        (other_layers, r"`reference_layers` \[1, 2\], not \[2\]"),
        (other_neighbourhoods, r"`reference_neighbourhoods` \[1, 3, 5\], not \[1\]"),
        (other_dtype, "`dtype` float32, not bfloat16"),
    ],
)
def test_what_differs_is_named(
    tiny_model: ClipSamForAnomalySegmentation,
    tiny_processor: ClipSamProcessor,
    change: Callable[[ClipSamForAnomalySegmentation], None],
    message: str,
) -> None:
    before = fingerprint_encoder(tiny_model, tiny_processor)
    change(tiny_model)
    with pytest.raises(ValueError, match=f"made with another model: .*{message}.* Make them anew"):
        check_fingerprint(before, fingerprint_encoder(tiny_model, tiny_processor))


def test_texts_and_head_count_where_they_have_a_share(
    tiny_model: ClipSamForAnomalySegmentation, tiny_processor: ClipSamProcessor
) -> None:
    tiny_model.config.reference_text_weight = 0.25
    before = fingerprint_encoder(tiny_model, tiny_processor)
    tiny_processor.normal_states = ["a new {}"]
    with pytest.raises(ValueError, match="another model: other texts. Make"):
        check_fingerprint(before, fingerprint_encoder(tiny_model, tiny_processor))
    before = fingerprint_encoder(tiny_model, tiny_processor)
    tiny_model.sam.mask_decoder.iou_token.weight.data.add_(1)
    check_fingerprint(before, fingerprint_encoder(tiny_model, tiny_processor))
    tiny_model.umci[0].fuse.bias.data.add_(1)
    with pytest.raises(ValueError, match="another model: other weights. Make"):
        check_fingerprint(before, fingerprint_encoder(tiny_model, tiny_processor))


def test_other_preprocessing_is_named(
    tiny_model: ClipSamForAnomalySegmentation, tiny_processor: ClipSamProcessor
) -> None:
    before = fingerprint_encoder(tiny_model, tiny_processor)
    tiny_processor.image_processor.image_mean = [0.5, 0.5, 0.5]
    with pytest.raises(ValueError, match="other preprocessing"):
        check_fingerprint(before, fingerprint_encoder(tiny_model, tiny_processor))


def test_a_setting_that_one_of_them_lacks_is_named() -> None:
    with pytest.raises(ValueError, match="`of_tomorrow` 3, not None"):
        check_fingerprint({"weights": "a", "of_tomorrow": 3}, {"weights": "a"})


def test_the_same_model_loaded_again_has_the_same(
    tiny_checkpoint: Path, tiny_model: ClipSamForAnomalySegmentation, tiny_processor: ClipSamProcessor
) -> None:
    loaded = ClipSamForAnomalySegmentation.from_pretrained(tiny_checkpoint)
    processor = ClipSamProcessor.from_pretrained(tiny_checkpoint)
    check_fingerprint(fingerprint_encoder(tiny_model, tiny_processor), fingerprint_encoder(loaded, processor))


def test_what_does_not_touch_the_features_is_left_out(
    tiny_model: ClipSamForAnomalySegmentation, tiny_processor: ClipSamProcessor
) -> None:
    tiny_model.config.reference_text_weight = 0.0
    before = fingerprint_encoder(tiny_model, tiny_processor)
    tiny_processor.normal_states = ["a new {}"]
    tiny_model.config.update({"mutual_others": 3, "max_regions": 2, "mask_threshold": 0.4})
    tiny_model.umci[0].fuse.bias.data.add_(1)
    check_fingerprint(before, fingerprint_encoder(tiny_model, tiny_processor))
