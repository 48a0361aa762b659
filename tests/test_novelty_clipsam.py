# SPDX-FileCopyrightText: 2026 The clipsam_hf authors
# SPDX-License-Identifier: Apache-2.0
"""Novelty within one photograph: the distances against plain loops, and its share in the rough map."""

from typing import Any

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from clipsam_hf import ClipSamConfig, ClipSamForAnomalySegmentation
from clipsam_hf.novelty_clipsam import NEIGHBOURS, REACH, measure_novelty
from clipsam_hf.patches_clipsam import Scale, mix_maps


def by_loops(feature_map: np.ndarray) -> np.ndarray:
    """(channels, height, width) to (height, width), a patch and a witness at a time."""
    _, height, width = feature_map.shape
    normalised = (feature_map - feature_map.mean(0)) / np.sqrt(feature_map.var(0) + 1e-5)
    tokens = {}
    for row in range(height):
        for column in range(width):
            square = normalised[:, max(row - 1, 0) : row + 2, max(column - 1, 0) : column + 2].mean((1, 2))
            tokens[row, column] = square / np.linalg.norm(square)
    answer = np.zeros((height, width))
    for (row, column), token in tokens.items():
        others = [
            1 - token @ other for (y, x), other in tokens.items() if abs(y - row) > REACH or abs(x - column) > REACH
        ]
        count = min(len(others), max(1, round(NEIGHBOURS * height * width)))
        answer[row, column] = np.mean(sorted(others)[:count]) if others else 0.0
    return answer


@pytest.mark.parametrize("size", [(12, 11), (5, 7), (3, 4), (1, 9), (2, 2)])
def test_distances_are_those_of_plain_loops(size: tuple[int, int]) -> None:
    feature_maps = torch.randn(2, 6, *size)
    expected = torch.from_numpy(np.stack([by_loops(each.double().numpy()) for each in feature_maps])).float()
    assert_close(measure_novelty([feature_maps]), expected, atol=2e-6, rtol=0)
    other = torch.randn(2, 6, *size)
    assert_close(measure_novelty([feature_maps, other]), (expected + measure_novelty([other])) / 2)


def test_an_even_surface_has_no_novelty_and_a_large_defect_has() -> None:
    surface = torch.randn(1, 16, 1, 1).expand(1, 16, 20, 20).clone()
    assert measure_novelty([surface]).amax() < 1e-6
    surface[..., 8:12, 8:12] = torch.randn(1, 16, 1, 1)
    novelty = measure_novelty([surface])[0]
    assert novelty[9:11, 9:11].min() > 0.3 and novelty[0].max() < 1e-6


def test_half_precision_is_measured_in_full() -> None:
    feature_map = torch.randn(1, 8, 9, 9).half()
    assert measure_novelty([feature_map]).dtype == torch.float32
    assert torch.equal(measure_novelty([feature_map]), measure_novelty([feature_map.float()]))


def make_model(config: ClipSamConfig, **fields: Any) -> ClipSamForAnomalySegmentation:
    torch.manual_seed(0)
    return ClipSamForAnomalySegmentation(ClipSamConfig(**{**config.to_dict(), **fields})).eval()


@pytest.mark.parametrize("localizer", ["umci", "vv", "similarity"])
@torch.no_grad()
def test_the_rough_map_is_mixed_by_weight(tiny_config: ClipSamConfig, localizer: str) -> None:
    model = make_model(tiny_config, localizer=localizer, novelty_scale=(0.3, 0.2))
    pixel_values = torch.randn(2, 3, 64, 48)
    text_embeds = torch.nn.functional.normalize(torch.randn(1, 2, 16), dim=-1)
    features = model.get_feature_maps(pixel_values)
    text_map = model(pixel_values=pixel_values, text_embeds=text_embeds).rough_anomaly_map
    novelty = measure_novelty(features)
    assert novelty.std() > 0
    novelty_map = Scale(0.3, 0.2).to_map(novelty, (64, 48), model.config.reference_deviations)
    for weight in (0.25, 1.0):
        model.config.novelty_weight = weight
        expected = mix_maps(novelty_map, text_map, 1 - weight)
        for given in ({"pixel_values": pixel_values}, {"feature_maps": features}):
            assert_close(model(**given, text_embeds=text_embeds).rough_anomaly_map, expected)


def test_training_looks_at_the_texts_alone(tiny_config: ClipSamConfig) -> None:
    pixel_values, labels = torch.randn(1, 3, 32, 32), torch.zeros(1, 32, 32)
    text_embeds = torch.nn.functional.normalize(torch.randn(1, 2, 16), dim=-1)
    losses = [
        make_model(tiny_config, novelty_weight=weight)(
            pixel_values=pixel_values, text_embeds=text_embeds, labels=labels
        ).loss
        for weight in (0.0, 0.5)
    ]
    assert torch.equal(*losses)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"novelty_weight": 1.5}, "`novelty_weight` must lie in"),
        ({"novelty_scale": (0.1, 0.0)}, "`novelty_scale` must be a centre and a positive spread"),
        ({"novelty_scale": (0.1,)}, "`novelty_scale` must be a centre and a positive spread"),
        ({"novelty_weight": 0.5, "localizer": "windows"}, "'windows' has not"),
    ],
)
def test_what_makes_no_sense_is_refused(tiny_config: ClipSamConfig, fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ClipSamConfig(**{**tiny_config.to_dict(), **fields})
