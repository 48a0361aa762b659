# SPDX-FileCopyrightText: 2026 The clipsam_hf authors
# SPDX-License-Identifier: Apache-2.0
"""The rough map as the mean over the photograph and its mirror image."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch.testing import assert_close

from clipsam_hf import ClipSamConfig, ClipSamForAnomalySegmentation, ClipSamProcessor, ClipSamReferences
from clipsam_hf.inference_clipsam import ClipSamInference
from clipsam_hf.mutual_clipsam import MutualReferences


def make_models(config: ClipSamConfig, **fields: Any) -> tuple[ClipSamForAnomalySegmentation, Any]:
    """Two models of the same weights, which look once and twice."""
    models = []
    for flip_average in (False, True):
        torch.manual_seed(0)
        settings = {**config.to_dict(), "flip_average": flip_average, **fields}
        model = ClipSamForAnomalySegmentation(ClipSamConfig.from_dict(settings)).eval()
        model.head_is_trained = True
        models.append(model)
    return models[0], models[1]


def sample(height: int = 32, width: int = 32) -> dict[str, torch.Tensor]:
    text_embeds = F.normalize(torch.randn(2, 2, 16), dim=-1)
    return {"pixel_values": torch.randn(2, 3, height, width), "text_embeds": text_embeds}


@pytest.mark.parametrize("fields", [{}, {"localizer": "windows"}, {"localizer": "vv", "novelty_weight": 0.5}])
@pytest.mark.parametrize("size", [(32, 32), (37, 30)])
@torch.no_grad()
def test_it_is_the_mean_of_both(tiny_config: ClipSamConfig, fields: dict[str, Any], size: tuple[int, int]) -> None:
    (once, twice), inputs = make_models(tiny_config, **fields), sample(*size)
    plain = once(**inputs).rough_anomaly_map
    mirrored = once(inputs["pixel_values"].flip(-1), text_embeds=inputs["text_embeds"]).rough_anomaly_map.flip(-1)
    found = twice(**inputs)
    assert not torch.allclose(plain, mirrored, atol=1e-4)
    assert_close(found.rough_anomaly_map, (plain + mirrored) / 2)
    assert_close(found.rough_score, once.score(found.rough_anomaly_map))
    # The mirror image has the mirrored map
    other = twice(inputs["pixel_values"].flip(-1), text_embeds=inputs["text_embeds"]).rough_anomaly_map.flip(-1)
    assert_close(other, found.rough_anomaly_map)


def test_it_is_a_setting_of_loading(tiny_checkpoint: Path) -> None:
    """The library takes `mirror` for an argument of its own, and drops it."""
    assert ClipSamForAnomalySegmentation.from_pretrained(tiny_checkpoint, flip_average=True).config.flip_average


def test_training_and_cached_features_look_once(tiny_config: ClipSamConfig) -> None:
    (once, twice), inputs = make_models(tiny_config), sample()
    labels = torch.zeros(2, 32, 32)
    assert torch.equal(once(**inputs, labels=labels).loss, twice(**inputs, labels=labels).loss)
    feature_maps = twice.get_feature_maps(inputs["pixel_values"])
    plain = once(**inputs).rough_anomaly_map
    cached = twice(feature_maps=feature_maps, text_embeds=inputs["text_embeds"]).rough_anomaly_map
    assert torch.equal(cached, plain)
    assert torch.equal(twice.train()(**inputs).rough_anomaly_map, plain)


def draw(count: int) -> list[Image.Image]:
    rng = np.random.default_rng(0)
    return [Image.fromarray(rng.integers(0, 256, (40, 30, 3)).astype(np.uint8)) for _ in range(count)]


def flip(image: Image.Image) -> Image.Image:
    return image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)


@pytest.mark.parametrize("text_weight", [0.0, 0.5])
def test_references_are_seen_in_both_ways(
    tiny_config: ClipSamConfig, tiny_processor: ClipSamProcessor, text_weight: float
) -> None:
    once, twice = make_models(tiny_config, reference_text_weight=text_weight)
    *good, other = draw(4)
    maps = []
    for model, photographs in ((once, [*good, *map(flip, good)]), (twice, good)):
        references = ClipSamReferences.from_images(model, tiny_processor, photographs, class_name="candle")
        assert len(references.photographs) == 6 * 16
        references.settings = replace(references.settings, centre=0.1, spread=0.1)
        inference = ClipSamInference(model, tiny_processor)

        def ask(image: Image.Image, inference: Any = inference, references: Any = references) -> np.ndarray:
            (answer,) = inference.predict([inference.prepare(image, "candle", refine=False)], references)
            return np.asarray(answer.anomaly_map)

        maps.append((ask(other), ask(flip(other))[:, ::-1]))
    plain, found = maps
    # The mean is that of distances, and the map's logit is linear in them
    if text_weight == 0:
        logits = [np.log(each / (1 - each)) for each in (*plain, found[0])]
        np.testing.assert_allclose(logits[2], (logits[0] + logits[1]) / 2, atol=2e-3)
    np.testing.assert_allclose(found[0], found[1], atol=1e-5)
    assert np.abs(plain[0] - plain[1]).max() > 1e-3
    with pytest.raises(ValueError, match="`flip_average` True, not False"):
        references.check(once, tiny_processor)


def test_a_folder_is_compared_in_both_ways(
    tiny_config: ClipSamConfig, tiny_processor: ClipSamProcessor, tmp_path: Path
) -> None:
    photographs = draw(4)
    answers = []
    for name, change in (("plain", lambda image: image), ("turned", flip)):
        _, model = make_models(tiny_config)
        inference = ClipSamInference(model, tiny_processor)
        prepared = [
            inference.prepare(change(image), "candle", refine=False, place=place)
            for place, image in enumerate(photographs)
        ]
        mutual = MutualReferences.from_images(inference, prepared.__getitem__, 4, tmp_path / name)
        together = [each.anomaly_map for each in inference.predict(prepared, mutual)]
        alone = [inference.predict([each], mutual)[0].anomaly_map for each in prepared]
        np.testing.assert_allclose(together, alone, atol=1e-5)
        answers.append(np.stack(together))
    np.testing.assert_allclose(answers[0], answers[1][..., ::-1], atol=1e-3)  # kept in half precision
    assert answers[0].std() > 1e-3


def test_a_single_reference_is_compared_with_what_it_does_not_hold(
    tiny_config: ClipSamConfig, tiny_processor: ClipSamProcessor, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured: list[torch.Tensor] = []
    measure = ClipSamReferences.measure

    def record(references: ClipSamReferences, patches: Any) -> torch.Tensor:
        measured.append(measure(references, patches))
        return measured[-1]

    monkeypatch.setattr(ClipSamReferences, "measure", record)
    for model in make_models(tiny_config):
        measured.clear()
        ClipSamReferences.from_images(model, tiny_processor, draw(1), class_name="candle")
        assert len(measured) == 2 and min(each.median() for each in measured) > 1e-3
