# SPDX-FileCopyrightText: 2026 The clipsam_hf authors
# SPDX-License-Identifier: Apache-2.0
"""Localizers: the registry, the chain against the model's own forward, and what of CLIP they train."""

from dataclasses import fields
from typing import get_args

import pytest
import torch
from transformers import CLIPModel

from clipsam_hf import ClipSamConfig, ClipSamForAnomalySegmentation
from clipsam_hf.localizer_clipsam import LOCALIZERS, Localizer


kinds = pytest.mark.parametrize("kind", list(LOCALIZERS))


def make_model(config: ClipSamConfig, kind: str, **kwargs: object) -> ClipSamForAnomalySegmentation:
    torch.manual_seed(0)
    return ClipSamForAnomalySegmentation(ClipSamConfig(**{**config.to_dict(), "localizer": kind, **kwargs})).eval()


def sample(height: int = 32, width: int = 32) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.randn(2, 3, height, width), torch.nn.functional.normalize(torch.randn(2, 2, 16), dim=-1)


def test_registry_is_what_the_configuration_takes() -> None:
    (kinds_of_field,) = (field.type for field in fields(ClipSamConfig) if field.name == "localizer")
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
    assert logits.shape == (2, 2, 2, size[0] // 8, size[1] // 8) and logits.dtype == torch.float32
    assert torch.equal(logits, outputs.logits)
    assert torch.equal(localizer.to_map(logits, torch.Size(size)), outputs.rough_anomaly_map)
    assert outputs.rough_anomaly_map.shape == (2, *size) and outputs.rough_anomaly_map.std() > 0


def test_map_by_hand(tiny_config: ClipSamConfig) -> None:
    # Two stages on one token of 8 x 8 pixels; the abnormal logit is above the other by ln 3 and by 0: 3/4 and 1/2
    logits = torch.zeros(1, 2, 2, 1, 1)
    logits[0, 0, 1] = torch.log(torch.tensor(3.0))
    shown = Localizer(tiny_config).to_map(logits, torch.Size((8, 11)))
    torch.testing.assert_close(shown, torch.full((1, 8, 11), 0.625))


def test_similarity_by_hand(tiny_config: ClipSamConfig) -> None:
    """What an image's patches are like: cosine times the temperature, on CLIP's own layers."""
    model = make_model(tiny_config, "similarity")
    feature_map, text_embeds = torch.randn(1, 32, 1, 1), sample()[1][:1]
    clip: CLIPModel = model.clip
    with torch.no_grad():
        logits = LOCALIZERS["similarity"](model.config).read(clip, None, (feature_map,), text_embeds)
        token = clip.visual_projection(clip.vision_model.post_layernorm(feature_map.flatten()))
        cosines = torch.nn.functional.cosine_similarity(token[None], text_embeds[0])
    torch.testing.assert_close(logits.flatten(), clip.logit_scale.exp().detach() * cosines)


@kinds
@pytest.mark.parametrize("feature_layers", [(1, 2), (1,)])
@pytest.mark.parametrize("freeze_backbones", [True, False])
def test_all_and_only_what_is_trained_gets_a_gradient(
    tiny_config: ClipSamConfig, kind: str, feature_layers: tuple[int, ...], freeze_backbones: bool
) -> None:
    if kind == "similarity" and freeze_backbones:
        pytest.skip("There is nothing to train.")
    model = make_model(tiny_config, kind, feature_layers=feature_layers, freeze_backbones=freeze_backbones).train()
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
        assert max(int(name.split(".")[4]) for name in trained if ".encoder.layers." in name) == feature_layers[-1] - 1
