# SPDX-FileCopyrightText: 2026 The clipsam_hf authors
# SPDX-License-Identifier: Apache-2.0
"""Localizers: the registry, the chain against the model's own forward, and what of CLIP they train."""

import dataclasses
from typing import Any, get_args

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close
from transformers import CLIPConfig, CLIPModel

from clipsam_hf import ClipSamConfig, ClipSamForAnomalySegmentation
from clipsam_hf.localizer_clipsam import LOCALIZERS, Localizer, VvLocalizer, WindowsLocalizer


kinds = pytest.mark.parametrize("kind", list(LOCALIZERS))


def make_model(config: ClipSamConfig, kind: str, **kwargs: Any) -> ClipSamForAnomalySegmentation:
    torch.manual_seed(0)
    return ClipSamForAnomalySegmentation(ClipSamConfig(**{**config.to_dict(), "localizer": kind, **kwargs})).eval()


def sample(height: int = 32, width: int = 32) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.randn(2, 3, height, width), torch.nn.functional.normalize(torch.randn(2, 2, 16), dim=-1)


def test_registry_is_what_the_configuration_takes() -> None:
    (kinds_of_field,) = (field.type for field in dataclasses.fields(ClipSamConfig) if field.name == "localizer")
    assert set(LOCALIZERS) == set(get_args(kinds_of_field))


@kinds
def test_head_is_where_the_localizer_says(tiny_config: ClipSamConfig, kind: str) -> None:
    model = make_model(tiny_config, kind)
    children = {name for name, _ in model.named_children()}
    head_name = LOCALIZERS[kind].head_name
    assert children == {"clip", "sam"} | ({head_name} if head_name else set())
    assert (LOCALIZERS[kind](model.config).build_head() is None) is (head_name is None)


@kinds
@pytest.mark.parametrize("size", [(32, 32), (40, 24), (37, 30)])
@torch.no_grad()
def test_the_chain_is_the_models_forward(tiny_config: ClipSamConfig, kind: str, size: tuple[int, int]) -> None:
    model = make_model(tiny_config, kind)
    pixel_values, text_embeds = sample(*size)
    localizer = LOCALIZERS[kind](model.config)
    features = localizer.encode(model.clip, pixel_values)
    head = None if localizer.head_name is None else getattr(model, localizer.head_name)
    logits = localizer.read(model.clip, head, features.feature_maps, text_embeds)
    outputs = model(pixel_values=pixel_values, text_embeds=text_embeds)
    num_stages = 1 if kind in ("vv", "windows") else 2
    assert logits.shape == (2, num_stages, 2, size[0] // 8, size[1] // 8) and logits.dtype == torch.float32
    assert [each.shape for each in features.feature_maps] == [(2, 32, *logits.shape[-2:])] * localizer.num_feature_maps
    assert torch.equal(logits, outputs.logits)
    assert torch.equal(localizer.to_map(logits, torch.Size(size)), outputs.rough_anomaly_map)
    assert outputs.rough_anomaly_map.shape == (2, *size) and outputs.rough_anomaly_map.std() > 0


def test_map_by_hand(tiny_config: ClipSamConfig) -> None:
    # Two stages on one token of 8 x 8 pixels; the abnormal logit is above the other by ln 3 and by 0: 3/4 and 1/2
    logits = torch.zeros(1, 2, 2, 1, 1)
    logits[0, 0, 1] = torch.log(torch.tensor(3.0))
    shown = Localizer(tiny_config).to_map(logits, torch.Size((8, 11)))
    assert_close(shown, torch.full((1, 8, 11), 0.625))


def test_similarity_by_hand(tiny_config: ClipSamConfig) -> None:
    """What an image's patches are like: cosine times the temperature, on CLIP's own layers."""
    model = make_model(tiny_config, "similarity")
    feature_map, text_embeds = torch.randn(1, 32, 1, 1), sample()[1][:1]
    clip: CLIPModel = model.clip
    with torch.no_grad():
        logits = LOCALIZERS["similarity"](model.config).read(clip, None, (feature_map,), text_embeds)
        token = clip.visual_projection(clip.vision_model.post_layernorm(feature_map.flatten()))
        cosines = torch.nn.functional.cosine_similarity(token[None], text_embeds[0])
    assert_close(logits.flatten(), clip.logit_scale.exp().detach() * cosines)


@pytest.mark.parametrize(
    ("kind", "fields"),
    [
        *((kind, {}) for kind in LOCALIZERS),
        ("vv", {"vv_num_stages": 0}),  # all stages
        ("vv", {"vv_residual": True}),
        ("windows", {"window_sizes": (), "window_stride": 2}),
    ],
)
@pytest.mark.parametrize("feature_layers", [(1, 2), (1,)])
@pytest.mark.parametrize("freeze_backbones", [True, False])
def test_all_and_only_what_is_trained_gets_a_gradient(
    tiny_config: ClipSamConfig,
    kind: str,
    fields: dict[str, Any],
    feature_layers: tuple[int, ...],
    freeze_backbones: bool,
) -> None:
    if LOCALIZERS[kind].head_name is None and freeze_backbones:
        pytest.skip("There is nothing to train.")
    if "vv_num_stages" in fields:
        fields = {"vv_num_stages": len(feature_layers)}
    fields = {**fields, "feature_layers": feature_layers, "freeze_backbones": freeze_backbones}
    model = make_model(tiny_config, kind, **fields).train()
    pixel_values, text_embeds = sample()
    labels = torch.zeros(2, 32, 32, dtype=torch.long)
    labels[:, :16, :16] = 1
    model(pixel_values=pixel_values, text_embeds=text_embeds, labels=labels).loss.sum().backward()
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert trained == {name for name, parameter in model.named_parameters() if parameter.grad is not None}

    # Nothing is left out: the same loss, asked for the gradient of all of CLIP, reaches no more than that
    if not freeze_backbones:
        model.clip.requires_grad_(True)
        model.zero_grad()
        model(pixel_values=pixel_values, text_embeds=text_embeds, labels=labels).loss.sum().backward()
        assert trained == {name for name, parameter in model.named_parameters() if parameter.grad is not None}
        deepest = 2 if kind == "windows" else feature_layers[-1]
        assert max(int(name.split(".")[4]) for name in trained if ".encoder.layers." in name) == deepest - 1


@kinds
def test_gradient_checkpointing_changes_nothing(tiny_config: ClipSamConfig, kind: str) -> None:
    model = make_model(tiny_config, kind, freeze_backbones=False).train()
    pixel_values, text_embeds = sample()
    gradients = []
    for _ in range(2):
        model.zero_grad()
        loss = model(pixel_values=pixel_values, text_embeds=text_embeds, labels=torch.ones(2, 32, 32)).loss
        loss.backward()
        gradients.append([p.grad for p in model.parameters() if p.requires_grad])
        model.activation_checkpointing_enable()
    for plain, checkpointed in zip(*gradients, strict=True):
        assert_close(checkpointed, plain)


@pytest.mark.parametrize("kind", ["vv", "windows"])
@torch.no_grad()
def test_what_clip_answered_is_still_there(tiny_config: ClipSamConfig, kind: str) -> None:
    model = make_model(tiny_config, kind, image_score="text")
    pixel_values, text_embeds = sample()
    outputs = model(pixel_values=pixel_values, text_embeds=text_embeds, output_hidden_states=True)
    expected = make_model(tiny_config, "similarity", image_score="text")(
        pixel_values=pixel_values, text_embeds=text_embeds, output_hidden_states=True
    )
    assert torch.equal(outputs.pred_score, expected.pred_score)
    assert all(map(torch.equal, outputs.hidden_states, expected.hidden_states))


# --- vv


def take_values_for_queries_and_keys(clip: CLIPModel) -> None:
    for block in clip.vision_model.encoder.layers:
        for projection in (block.self_attn.q_proj, block.self_attn.k_proj):
            projection.load_state_dict(block.self_attn.v_proj.state_dict())


def vv_maps(model: ClipSamForAnomalySegmentation, pixel_values: Tensor) -> tuple[list[Tensor], Any]:
    """Feature maps as tokens (batch, tokens, hidden), and CLIP's states."""
    features = VvLocalizer(model.config).encode(model.clip, pixel_values, whole=True)
    return [each.flatten(2).transpose(1, 2) for each in features.feature_maps], features.vision_outputs.hidden_states


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@torch.no_grad()
def test_with_values_as_queries_and_keys_vv_is_the_blocks_attention(
    tiny_config: ClipSamConfig, attention: str
) -> None:
    model = make_model(tiny_config, "vv")
    model.set_attn_implementation(attention)
    take_values_for_queries_and_keys(model.clip)
    (tokens,), states = vv_maps(model, sample(40, 24)[0])
    block = model.clip.vision_model.encoder.layers[1]
    expected, _ = block.self_attn(block.layer_norm1(states[1]))
    assert_close(tokens, expected[:, 1:])


@torch.no_grad()
def test_with_the_rest_of_the_block_vv_is_the_next_state(tiny_config: ClipSamConfig) -> None:
    """Values as queries and keys, the state before the stage, and the feed-forward part: the block itself."""
    model = make_model(tiny_config, "vv", vv_residual=True, vv_num_stages=2)
    take_values_for_queries_and_keys(model.clip)
    stages, states = vv_maps(model, sample()[0])
    for number, tokens in enumerate(stages):
        block = model.clip.vision_model.encoder.layers[number]
        assert_close(tokens + block.mlp(block.layer_norm2(tokens)), states[number + 1][:, 1:])


@torch.no_grad()
def test_a_stage_of_vv_is_the_sum_over_its_blocks(tiny_config: ClipSamConfig) -> None:
    pixel_values = sample()[0]
    (early, late), _ = vv_maps(make_model(tiny_config, "vv", vv_num_stages=2), pixel_values)
    (last,), _ = vv_maps(make_model(tiny_config, "vv"), pixel_values)
    (whole,), states = vv_maps(make_model(tiny_config, "vv", feature_layers=(2,)), pixel_values)
    (started,), _ = vv_maps(make_model(tiny_config, "vv", feature_layers=(2,), vv_residual=True), pixel_values)
    assert torch.equal(last, late)
    assert_close(whole, early + late)
    assert_close(started, states[0][:, 1:] + whole)


@torch.no_grad()
def test_vv_by_hand(tiny_config: ClipSamConfig) -> None:
    """Cosines over the temperature; a swap of the texts gives 1 - p; the stages' differences are averaged first."""
    model = make_model(tiny_config, "vv", vv_num_stages=2, text_temperature=0.5)
    localizer, text_embeds = VvLocalizer(model.config), sample()[1][:1]
    maps = (torch.randn(1, 32, 1, 1), torch.randn(1, 32, 1, 1))
    logits = localizer.read(model.clip, None, maps, text_embeds)
    for stage, feature_map in enumerate(maps):
        token = model.clip.visual_projection(model.clip.vision_model.post_layernorm(feature_map.flatten()))
        cosines = nn.functional.cosine_similarity(token[None], text_embeds[0])
        assert_close(logits[0, stage].flatten(), 2 * cosines)
    shown = localizer.to_map(logits, torch.Size((8, 8)))
    assert_close(shown, (logits[:, :, 1] - logits[:, :, 0]).mean().sigmoid().expand(1, 8, 8))
    swapped = localizer.read(model.clip, None, maps, text_embeds.flip(1))
    assert_close(localizer.to_map(swapped, torch.Size((8, 8))), 1 - shown)


def build_swapping_clip(config: CLIPConfig) -> CLIPModel:
    """A CLIP that knows what a patch shows (bright is good, dark is bad), and whose last block looks elsewhere.

    Channels 0 and 1 hold what a patch shows, the others where it is. In the last block every patch asks by its place
    for the patch opposite, and what that one shows outweighs its own.
    """
    config.vision_config.num_attention_heads = 1
    clip = CLIPModel(config).eval()
    vision, opposite = clip.vision_model, [0, *range(16, 0, -1)]
    for parameter in vision.parameters():
        parameter.zero_()
    for module in vision.modules():
        if isinstance(module, nn.LayerNorm):
            module.weight.fill_(1)
    vision.embeddings.patch_embedding.weight[0] = 1 / 192
    vision.embeddings.patch_embedding.weight[1] = -1 / 192
    for place in range(17):
        vision.embeddings.position_embedding.weight[place, 2 + place] = 1
    attention = vision.encoder.layers[1].self_attn
    for place in range(17):
        attention.q_proj.weight[place, 2 + opposite[place]] = 10
        attention.k_proj.weight[place, 2 + place] = 10
    for channel in (0, 1):
        attention.v_proj.weight[channel, channel] = 3
        attention.out_proj.weight[channel, channel] = 1
    clip.visual_projection.weight.zero_()
    clip.visual_projection.weight[0, 0] = clip.visual_projection.weight[1, 1] = 1
    return clip


@pytest.mark.parametrize(("kind", "marked"), [("vv", (0, 1)), ("similarity", (3, 2))])
@torch.no_grad()
def test_a_clip_that_swaps_patches_fools_plain_similarity_and_not_vv(
    tiny_config: ClipSamConfig, kind: str, marked: tuple[int, int]
) -> None:
    pixel_values = torch.ones(1, 3, 32, 32)
    pixel_values[:, :, :8, 8:16] = -1  # the defect is in the first row, second column of 4 x 4 patches
    text_embeds = torch.eye(16)[None, :2]
    model = make_model(tiny_config, kind)
    model.clip = build_swapping_clip(model.config.clip_config)
    # The last stage alone, where the two differ
    feature_maps = (model.get_feature_maps(pixel_values)[-1],)
    normal, abnormal = model.localizer.read(model.clip, None, feature_maps, text_embeds)[0, 0]
    expected = torch.zeros(4, 4, dtype=torch.bool)
    expected[marked] = True
    assert torch.equal(abnormal > normal, expected)


# --- windows


def windows_of(model: ClipSamForAnomalySegmentation, pixel_values: Tensor) -> Any:
    return WindowsLocalizer(model.config).encode(model.clip, pixel_values)


@pytest.mark.parametrize("side", [4, 9])
@torch.no_grad()
def test_a_window_over_the_whole_grid_is_the_pooled_output(tiny_config: ClipSamConfig, side: int) -> None:
    model = make_model(tiny_config, "windows", window_sizes=(side,))
    (window, whole), outputs = windows_of(model, sample(32, 40)[0][..., : 32 if side == 4 else 40])
    for feature_map in (window, whole):
        pooled = model.clip.vision_model.post_layernorm(feature_map[:, :, 0, 0])
        assert_close(pooled, outputs.pooler_output)
        assert feature_map.flatten(2)[:, :, 1:].abs().max() == 0


@torch.no_grad()
def test_windows_do_not_depend_on_the_chunks(tiny_config: ClipSamConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    model, pixel_values = make_model(tiny_config, "windows"), sample()[0]
    together = windows_of(model, pixel_values).feature_maps
    alone = windows_of(model, pixel_values[1:]).feature_maps
    monkeypatch.setattr(WindowsLocalizer, "chunk_size", 5)
    for whole, parts, one in zip(together, windows_of(model, pixel_values).feature_maps, alone, strict=True):
        assert_close(parts, whole)
        assert_close(one, whole[1:])


@torch.no_grad()
def test_a_window_sees_its_tokens_alone(tiny_config: ClipSamConfig) -> None:
    """The window of row 1, column 2 holds tokens 7, 8, 11, 12 of 4 x 4, where 0 is the class token."""
    model, pixel_values = make_model(tiny_config, "windows", window_sizes=(2,)), sample()[0]
    (windows, _), outputs = windows_of(model, pixel_values)
    seen = outputs.hidden_states[0][:, [0, 7, 8, 11, 12]]
    assert_close(windows[:, :, 1, 2], model.clip.vision_model.encoder(inputs_embeds=seen).last_hidden_state[:, 0])
    assert windows[:, :, 3].abs().max() == 0 and windows[..., 3].abs().max() == 0  # nothing begins at the border


@torch.no_grad()
def test_harmonic_mean_by_hand(tiny_config: ClipSamConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    """1 x 3 tokens under windows of one row and two columns, of 0.5 and 0.2; the whole image has 0.4.

    The middle is under both: 2 / (1 / 0.5 + 1 / 0.2) = 2 / 7. With the whole image, the left one has
    2 / (2 + 2.5) = 4 / 9, the middle 2 / (3.5 + 2.5) = 1 / 3, the right one 2 / (5 + 2.5) = 4 / 15.
    """
    localizer = WindowsLocalizer(ClipSamConfig(**{**tiny_config.to_dict(), "window_sizes": (2,)}))
    # Instead of comparing with texts: the "state" of a window is its logit
    monkeypatch.setattr(localizer, "_compare_places", lambda clip, places, text_embeds: places[:, 0])
    window, whole = torch.zeros(1, 1, 1, 3), torch.zeros(1, 1, 1, 3)
    window[0, 0, 0, :2] = torch.tensor([0.5, 0.2]).logit()
    whole[0, 0, 0, 0] = torch.tensor(0.4).logit()
    logits = localizer.read(None, None, (window, whole), torch.zeros(1, 2, 1))
    assert_close(logits.softmax(dim=2)[0, 0, 1, 0], torch.tensor([4 / 9, 1 / 3, 4 / 15]))


@pytest.mark.parametrize("stride", [1, 2, 3, 7])
@pytest.mark.parametrize("size", [1, 2, 3, 5])
@pytest.mark.parametrize("grid", [(4, 4), (5, 3), (1, 8)])
def test_every_token_is_covered(tiny_config: ClipSamConfig, grid: tuple[int, int], size: int, stride: int) -> None:
    config = ClipSamConfig(**{**tiny_config.to_dict(), "window_stride": stride})
    windows = WindowsLocalizer(config)._windows_of(size, grid)
    members = windows.members()
    assert members.unique().tolist() == list(range(grid[0] * grid[1] + 1))
    assert members.shape == (len(windows.tops) * len(windows.lefts), 1 + min(size, grid[0]) * min(size, grid[1]))
    averaged = windows.average(torch.full((1, len(windows.tops), len(windows.lefts)), 2.5))
    assert_close(averaged, torch.full((1, *grid), 2.5))


@torch.no_grad()
def test_no_windows_leave_the_whole_image(tiny_config: ClipSamConfig) -> None:
    model = make_model(tiny_config, "windows", window_sizes=())
    pixel_values, text_embeds = sample()
    outputs = model(pixel_values=pixel_values, text_embeds=text_embeds)
    assert_close(outputs.rough_anomaly_map, outputs.rough_anomaly_map[:, :1, :1].expand(-1, 32, 32))


# --- No block is run that nobody reads


@pytest.mark.parametrize(
    ("kind", "fields", "blocks"),
    [
        ("similarity", {"feature_layers": (1,)}, 1),
        ("vv", {"feature_layers": (1, 2)}, 1),  # of the last block the values are enough
        ("vv", {"feature_layers": (1,)}, 0),
        ("similarity", {"feature_layers": (1,), "image_score": "text"}, 2),
    ],
)
@torch.no_grad()
def test_blocks_that_nobody_reads_are_not_run(
    tiny_config: ClipSamConfig, kind: str, fields: dict[str, Any], blocks: int
) -> None:
    model = make_model(tiny_config, kind, **fields)
    pixel_values, runs = sample()[0], []
    whole = model.localizer.encode(model.clip, pixel_values, whole=True)
    for block in model.clip.vision_model.encoder.layers:
        block.mlp.register_forward_hook(lambda *_: runs.append(1))
    features = model.localizer.encode(model.clip, pixel_values)
    assert len(runs) == blocks
    for one, other in zip(features.feature_maps, whole.feature_maps, strict=True):
        assert torch.equal(one, other)
    further = model.localizer.encode(model.clip, pixel_values, layers=[2]).vision_outputs.hidden_states[2]
    assert torch.equal(further, whole.vision_outputs.hidden_states[2])
