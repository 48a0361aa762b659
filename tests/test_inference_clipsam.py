# SPDX-FileCopyrightText: 2026 The clipsam_hf authors
# SPDX-License-Identifier: Apache-2.0
"""The one way from photographs to maps and scores gives what the model itself gives."""

import pickle

import numpy as np
import pytest
import torch
from PIL import Image
from torch.testing import assert_close

from clipsam_hf import ClipSamForAnomalySegmentation, ClipSamProcessor
from clipsam_hf.inference_clipsam import ClipSamInference, ImagePreparer


def photograph(height: int = 40, width: int = 60, seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


@pytest.fixture
def inference(tiny_model: ClipSamForAnomalySegmentation, tiny_processor: ClipSamProcessor) -> ClipSamInference:
    tiny_model.head_is_trained = True
    tiny_model.config.min_region_fraction = 0.0
    inference = ClipSamInference(tiny_model, tiny_processor)
    (prediction,) = inference.predict([inference.prepare(photograph(), refine=False)])
    tiny_model.config.binarize_threshold = float(prediction.rough_anomaly_map.quantile(0.97))
    return inference


@pytest.mark.parametrize("refine", [True, False])
@torch.no_grad()
def test_prediction_is_that_of_the_model(inference: ClipSamInference, refine: bool) -> None:
    inputs = inference.processor(images=photograph(), text="candle", return_sam_inputs=refine, return_tensors="pt")
    expected = inference.model(**inputs)
    (prediction,) = inference.predict([inference.prepare(photograph(), "candle", refine=refine)])
    assert_close(prediction.anomaly_map, expected.anomaly_map[0])
    assert_close(prediction.rough_anomaly_map, expected.rough_anomaly_map[0])
    assert prediction.pred_score == pytest.approx(expected.pred_score.item())
    assert prediction.rough_score == pytest.approx(expected.rough_score.item())
    assert (prediction.pred_score == prediction.rough_score) is not refine
    assert prediction.size == (40, 60) and prediction.resized().shape == (40, 60)


@pytest.mark.parametrize("known", [(True, True), (True, False)], ids=["all known", "one known"])
def test_known_embeddings_give_the_same(inference: ClipSamInference, known: tuple[bool, bool]) -> None:
    names = ["candle", "object"]
    plain = [inference.prepare(photograph(seed=seed), name) for seed, name in enumerate(names)]
    embeddings = inference.encode(plain)
    prepared = [
        inference.prepare(
            photograph(seed=seed),
            name,
            image_embeddings=embeddings[seed],
            reshaped_input_sizes=plain[seed].inputs["reshaped_input_sizes"],
        )
        if known[seed]
        else plain[seed]
        for seed, name in enumerate(names)
    ]
    assert ("sam_pixel_values" in prepared[0].inputs) is not known[0]
    for given, expected in zip(inference.predict(prepared), inference.predict(plain), strict=True):
        assert_close(given.anomaly_map, expected.anomaly_map)


def test_rough_score_is_that_of_the_configuration(inference: ClipSamInference) -> None:
    inference.model.config.image_score = "max"
    (prediction,) = inference.predict([inference.prepare(photograph())])
    assert prediction.rough_score == prediction.rough_anomaly_map.max().item()
    assert prediction.pred_score == prediction.anomaly_map.max().item()


def test_untrained_head_is_refused(inference: ClipSamInference) -> None:
    inference.model.head_is_trained = False
    with pytest.raises(ValueError, match="random weights"):
        inference.predict([inference.prepare(photograph())])


@pytest.mark.parametrize("name", ["", "  ", "can\x00dle"])
def test_unusable_class_name_is_refused_before_the_photograph_is_read(
    tiny_processor: ClipSamProcessor, name: str
) -> None:
    with pytest.raises(ValueError, match="class name"):
        ImagePreparer(tiny_processor)("no/such/photograph.png", name)


def test_preparer_can_be_sent_to_another_process(tiny_processor: ClipSamProcessor) -> None:
    copy = pickle.loads(pickle.dumps(ImagePreparer(tiny_processor)))
    expected = ImagePreparer(tiny_processor)(photograph(), "candle")
    assert_close(copy(photograph(), "candle").inputs, expected.inputs)
