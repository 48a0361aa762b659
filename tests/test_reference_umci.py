# SPDX-FileCopyrightText: 2026 The clipsam_hf authors
# SPDX-License-Identifier: Apache-2.0
"""UMCI and the rough map against an independent implementation in plain loops."""

from typing import Any

import pytest
import reference_umci as reference
import torch
from transformers import CLIPConfig, SamConfig

from clipsam_hf import ClipSamConfig, ClipSamForAnomalySegmentation


# Square and not, multiples of the scale sizes (2, 3) and not, and smaller than one of them.
GRIDS = [(6, 6), (4, 4), (7, 5), (3, 8), (1, 4)]


@pytest.fixture
def make_model(tiny_clip_config: CLIPConfig, tiny_sam_config: SamConfig) -> Any:
    """A model whose head has random weights and biases: fresh biases are 0 and would hide that one is not used."""

    def make(**kwargs: Any) -> ClipSamForAnomalySegmentation:
        config = ClipSamConfig(
            clip_config=tiny_clip_config,
            sam_config=tiny_sam_config,
            feature_layers=(1, 2),
            image_size=32,
            umci_hidden_size=8,
            **{"scale_sizes": (2, 3), **kwargs},
        )
        model = ClipSamForAnomalySegmentation(config).eval()
        for parameter in model.umci.parameters():
            torch.nn.init.normal_(parameter, std=0.25)
        return model

    return make


def random_stages(height: int, width: int) -> tuple[torch.Tensor, ...]:
    return tuple(torch.randn(1, 32, height, width) for _ in range(2))


def as_lists(model: ClipSamForAnomalySegmentation, stage: int) -> reference.Weights:
    return {name: weight.double().tolist() for name, weight in model.umci[stage].state_dict().items()}


def reference_logits(
    model: ClipSamForAnomalySegmentation, stages: tuple[torch.Tensor, ...], text: torch.Tensor
) -> list[Any]:
    config = model.config
    return [
        reference.umci(
            feature_map[0].permute(1, 2, 0).double().tolist(),
            text[0].double().tolist(),
            as_lists(model, index),
            scale_sizes=config.scale_sizes,
            scale_interpolation=config.scale_interpolation,
            normalize_features=config.normalize_features,
            head=config.head,
            fused_features=config.fused_features,
        )
        for index, feature_map in enumerate(stages)
    ]


def assert_same_logits(model: ClipSamForAnomalySegmentation, grid: tuple[int, int]) -> None:
    stages, text = random_stages(*grid), torch.nn.functional.normalize(torch.randn(1, 2, 16), dim=-1)
    expected = torch.tensor(reference_logits(model, stages, text)).permute(0, 3, 1, 2)  # (stages, 2, height, width)
    with torch.no_grad():
        given = torch.cat([umci(stage, text) for umci, stage in zip(model.umci, stages, strict=True)])
    assert expected.std() > 0.1  # else agreement would mean little
    torch.testing.assert_close(given, expected.float(), atol=1e-5, rtol=0)


@pytest.mark.parametrize("scale_interpolation", ["aligned", "stretched"])
@pytest.mark.parametrize("head", ["conv", "text"])
@pytest.mark.parametrize("grid", GRIDS)
def test_umci_agrees_with_the_reference(
    make_model: Any, grid: tuple[int, int], head: str, scale_interpolation: str
) -> None:
    assert_same_logits(make_model(head=head, scale_interpolation=scale_interpolation), grid)


def test_normalized_features_agree_with_the_reference(make_model: Any) -> None:
    assert_same_logits(make_model(normalize_features=True), (5, 4))


@pytest.mark.parametrize("scale_sizes", [(3,), (4, 1), (2, 3, 4)])
def test_any_number_of_scales_agrees_with_the_reference(make_model: Any, scale_sizes: tuple[int, ...]) -> None:
    assert_same_logits(make_model(scale_sizes=scale_sizes), (7, 5))


@pytest.mark.parametrize("strip_kernel_size", [1, 5])
def test_any_strip_kernel_agrees_with_the_reference(make_model: Any, strip_kernel_size: int) -> None:
    assert_same_logits(make_model(strip_kernel_size=strip_kernel_size), (7, 5))


@pytest.mark.parametrize(
    "fused_features", [("original",), ("row", "column"), ("scale", "original"), ("column", "row", "scale")]
)
def test_ablated_fusion_agrees_with_the_reference(make_model: Any, fused_features: tuple[str, ...]) -> None:
    assert_same_logits(make_model(fused_features=fused_features), (5, 4))


@pytest.mark.parametrize("head", ["conv", "text"])
@pytest.mark.parametrize("grid", [(4, 4), (3, 5)])
def test_rough_map_agrees_with_the_reference(make_model: Any, grid: tuple[int, int], head: str) -> None:
    model = make_model(head=head)
    stages, text = random_stages(*grid), torch.nn.functional.normalize(torch.randn(1, 2, 16), dim=-1)
    height, width = 8 * grid[0], 8 * grid[1]

    expected = torch.tensor(reference.rough_map(reference_logits(model, stages, text), height, width))
    with torch.no_grad():
        given = model(feature_maps=stages, text_embeds=text).rough_anomaly_map[0]

    assert expected.std() > 0.01
    torch.testing.assert_close(given, expected.float(), atol=1e-5, rtol=0)


def test_each_image_of_a_batch_agrees_with_the_reference(make_model: Any) -> None:
    model = make_model()
    stages = tuple(torch.randn(2, 32, 4, 5) for _ in range(2))
    text = torch.nn.functional.normalize(torch.randn(2, 2, 16), dim=-1)
    with torch.no_grad():
        given = model(feature_maps=stages, text_embeds=text).logits

    for index in range(2):
        one = tuple(stage[index : index + 1] for stage in stages)
        expected = torch.tensor(reference_logits(model, one, text[index : index + 1])).permute(0, 3, 1, 2)
        torch.testing.assert_close(given[index], expected.float(), atol=1e-5, rtol=0)
