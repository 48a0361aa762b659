# SPDX-FileCopyrightText: 2026 The clipsam_hf authors
# SPDX-License-Identifier: Apache-2.0
"""Thresholds are those of the training set, and the model's own `>` finds with them what the figures say."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from clipsam_hf.data import AnomalySample
from clipsam_hf.inference_clipsam import ClipSamInference
from clipsam_hf.metrics import AnomalyMetrics, resize_mask
from clipsam_hf.modeling_clipsam import ClipSamForAnomalySegmentation
from clipsam_hf.processing_clipsam import ClipSamProcessor
from clipsam_hf.refinement_clipsam import Refinement
from clipsam_hf.regions_clipsam import SamPrompts
from clipsam_hf.training.calibration import REFINE_WEIGHTS, Calibration, calibrate


def sample(number: int, label: int) -> AnomalySample:
    """A photograph of noise, with a bright square if it is abnormal."""
    rng = np.random.default_rng(number)
    pixels, mask = rng.integers(0, 60, (40, 48, 3), dtype=np.uint8), np.zeros((40, 48), dtype=np.uint8)
    if label:
        pixels[10:26, 12:32], mask[10:26, 12:32] = 255, 255
    return AnomalySample(
        image_path=Path(f"{number}.png"),
        mask_path=None,
        label=label,
        category="plate",
        class_name="plate",
        defect_type=None,
        split="test",
        image=Image.fromarray(pixels),
        mask=Image.fromarray(mask) if label else None,
    )


SAMPLES = [sample(number, label=number % 2) for number in range(6)]


@pytest.fixture
def trained(tiny_model: ClipSamForAnomalySegmentation) -> ClipSamForAnomalySegmentation:
    tiny_model.head_is_trained = True
    return tiny_model


def rough_maps(model: ClipSamForAnomalySegmentation, processor: ClipSamProcessor) -> tuple[np.ndarray, np.ndarray]:
    maps, scores = [], []
    # one by one, as `calibrate` does: on some processors a batch differs in the last bit
    for each in SAMPLES:
        inputs = processor(images=[each.image], text="plate", return_sam_inputs=False, return_tensors="pt")
        del inputs["original_sizes"]
        with torch.no_grad():
            outputs = model(**inputs)
        maps.append(outputs.rough_anomaly_map.numpy())
        scores.append(outputs.pred_score.numpy())
    return np.concatenate(maps), np.concatenate(scores)


def test_the_threshold_of_the_rough_map_has_the_best_f1(
    trained: ClipSamForAnomalySegmentation, tiny_processor: ClipSamProcessor
) -> None:
    found = calibrate(trained, tiny_processor, SAMPLES, refine=False)
    maps, _ = rough_maps(trained, tiny_processor)
    masks = np.stack([resize_mask(each.load_mask(), (32, 32), "bilinear") for each in SAMPLES])

    def f1(threshold: float) -> float:
        marked = maps > threshold
        return 2 * (marked & masks).sum() / (marked.sum() + masks.sum())

    assert f1(found.binarize_threshold) == pytest.approx(found.rough_f1)
    # The histogram's step may hide a better threshold that differs in the fourth digit
    assert found.rough_f1 == pytest.approx(max(f1(value) for value in np.unique(maps)), abs=2e-3)


def test_the_thresholds_are_stored_in_the_configuration(
    trained: ClipSamForAnomalySegmentation, tiny_processor: ClipSamProcessor
) -> None:
    found = calibrate(trained, tiny_processor, SAMPLES, batch_size=4)
    config = trained.config

    assert found.binarize_threshold == config.binarize_threshold != 0.5
    assert found.mask_threshold == config.mask_threshold
    assert found.decision_threshold == config.decision_threshold
    assert found.refine_weight == config.refine_weight
    assert config.calibrated_refine is True and found.num_images == 6


def test_without_refinement_both_maps_have_one_threshold(
    trained: ClipSamForAnomalySegmentation, tiny_processor: ClipSamProcessor
) -> None:
    found = calibrate(trained, tiny_processor, SAMPLES, refine=False)

    assert found.mask_threshold == found.binarize_threshold
    assert trained.config.calibrated_refine is False
    assert found.refine_weight == trained.config.refine_weight == 0.5


def test_there_is_a_threshold_for_regions_from_now_on(
    trained: ClipSamForAnomalySegmentation, tiny_processor: ClipSamProcessor
) -> None:
    trained.config.region_rule = "relative"
    calibrate(trained, tiny_processor, SAMPLES, refine=False)

    assert trained.config.region_rule == "fixed"


def refine_by(
    monkeypatch: pytest.MonkeyPatch, model: ClipSamForAnomalySegmentation, masks_of: Callable[[int], torch.Tensor]
) -> None:
    """Makes SAM's map of the photograph that is refined next: the rough map of a photograph has no name."""
    numbers = iter(range(100))

    def refine(rough: torch.Tensor, **inputs: object) -> list[Refinement]:
        weight, nothing = model.config.refine_weight, torch.zeros(0)
        maps = [(1 - weight) * each + weight * masks_of(next(numbers)) for each in rough]
        return [Refinement(each, nothing, nothing, SamPrompts(None, None, None)) for each in maps]

    monkeypatch.setattr(model, "refine", refine)


def test_a_refinement_that_finds_the_defects_counts_and_one_that_hides_them_does_not(
    trained: ClipSamForAnomalySegmentation, tiny_processor: ClipSamProcessor, monkeypatch: pytest.MonkeyPatch
) -> None:
    def truth(number: int) -> torch.Tensor:
        return torch.from_numpy(resize_mask(SAMPLES[number].load_mask(), (32, 32), "bilinear")).float()

    refine_by(monkeypatch, trained, truth)
    found = calibrate(trained, tiny_processor, SAMPLES)
    assert found.final_f1 == 1 > found.rough_f1
    # the smallest of those that separate defects and the rest
    maps, _ = rough_maps(trained, tiny_processor)
    masks = np.stack([truth(number).numpy() for number in range(len(SAMPLES))])
    separates = [
        (merged := (1 - weight) * maps + weight * masks)[masks == 1].min() > merged[masks == 0].max()
        for weight in REFINE_WEIGHTS
    ]
    assert found.refine_weight == REFINE_WEIGHTS[separates.index(True)]

    refine_by(monkeypatch, trained, lambda number: 1 - truth(number))
    hidden = calibrate(trained, tiny_processor, SAMPLES)
    assert hidden.refine_weight == 0 and hidden.mask_threshold == hidden.binarize_threshold
    assert hidden.final_f1 == hidden.rough_f1 == found.rough_f1


def test_a_given_weight_stays(
    trained: ClipSamForAnomalySegmentation, tiny_processor: ClipSamProcessor, monkeypatch: pytest.MonkeyPatch
) -> None:
    noise = torch.rand(len(SAMPLES), 32, 32, generator=torch.Generator().manual_seed(0))
    refine_by(monkeypatch, trained, lambda number: noise[number])
    found = calibrate(trained, tiny_processor, SAMPLES, refine_weights=[0.4])
    assert trained.config.refine_weight == found.refine_weight == 0.4
    assert found.mask_threshold != found.binarize_threshold
    for wrong in ([], [0.4, 1.1]):
        with pytest.raises(ValueError, match="`refine_weights` must be numbers"):
            calibrate(trained, tiny_processor, SAMPLES, refine_weights=wrong)


def test_of_equal_weights_the_smallest_is_taken(
    trained: ClipSamForAnomalySegmentation, tiny_processor: ClipSamProcessor, monkeypatch: pytest.MonkeyPatch
) -> None:
    maps, _ = rough_maps(trained, tiny_processor)
    refine_by(monkeypatch, trained, lambda number: torch.from_numpy(maps[number]))
    found = calibrate(trained, tiny_processor, SAMPLES)

    assert found.refine_weight == 0 and found.final_f1 == found.rough_f1


def test_refinement_never_lowers_what_it_was_calibrated_on(
    trained: ClipSamForAnomalySegmentation, tiny_processor: ClipSamProcessor
) -> None:
    found = calibrate(trained, tiny_processor, SAMPLES)

    assert found.final_f1 >= found.rough_f1


def test_the_weight_of_a_merge_that_is_not_linear_stays(
    trained: ClipSamForAnomalySegmentation, tiny_processor: ClipSamProcessor
) -> None:
    trained.config.merge, trained.config.refine_weight = "sum_norm", 0.3
    found = calibrate(trained, tiny_processor, SAMPLES)

    assert found.refine_weight == trained.config.refine_weight == 0.3


def test_an_interrupt_leaves_the_weight(
    trained: ClipSamForAnomalySegmentation, tiny_processor: ClipSamProcessor, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*args: object, **kwargs: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(trained, "refine", interrupt)
    with pytest.raises(KeyboardInterrupt):
        calibrate(trained, tiny_processor, SAMPLES)
    assert trained.config.refine_weight == 0.5


def test_the_decision_finds_most_defects_for_the_fewest_false_alarms(
    trained: ClipSamForAnomalySegmentation, tiny_processor: ClipSamProcessor
) -> None:
    found = calibrate(trained, tiny_processor, SAMPLES, refine=False)
    _, scores = rough_maps(trained, tiny_processor)
    labels = np.array([each.label for each in SAMPLES], dtype=bool)

    def balance(threshold: float) -> float:
        return (scores[labels] > threshold).mean() - (scores[~labels] > threshold).mean()

    assert found.decision_threshold is not None
    assert balance(found.decision_threshold) == pytest.approx(max(balance(value) for value in [0, *scores]))
    assert found.found_images == (scores[labels] > found.decision_threshold).mean()
    assert found.false_alarms == (scores[~labels] > found.decision_threshold).mean()


def test_clip_sees_each_photograph_once_and_sam_the_regions_of_the_new_threshold(
    trained: ClipSamForAnomalySegmentation, tiny_processor: ClipSamProcessor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """CLIP used to see all of them twice; the thresholds are those of the whole model at the new threshold."""
    seen: list[int] = []
    encode = trained.clip.vision_model.forward

    def counted(pixel_values: torch.Tensor, **kwargs: object) -> object:
        seen.append(len(pixel_values))
        return encode(pixel_values, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(trained.clip.vision_model, "forward", counted)
        found = calibrate(trained, tiny_processor, SAMPLES, batch_size=2)
    assert seen == [2, 2, 2]

    inference = ClipSamInference(trained, tiny_processor)
    metrics, scores = AnomalyMetrics(streaming=True), []
    for each in SAMPLES:
        [prediction] = inference.predict([inference.prepare(each.image, "plate")])
        mask = resize_mask(each.load_mask(), (32, 32), "bilinear")
        metrics.update(prediction.anomaly_map.numpy(), mask, "plate", image_score=prediction.pred_score)
        scores.append(prediction.pred_score)
    figures = metrics.finish("plate")
    assert found.binarize_threshold == trained.config.binarize_threshold != 0.5
    assert found.final_f1 == pytest.approx(figures["pixel_f1_max"], abs=1e-4)
    assert found.mask_threshold == pytest.approx(figures["pixel_f1_threshold"], abs=1e-4)
    assert found.decision_threshold == pytest.approx(
        min(scores, key=lambda score: abs(score - found.decision_threshold))
    )


def test_the_score_of_words_is_kept_for_refined_maps(
    trained: ClipSamForAnomalySegmentation, tiny_processor: ClipSamProcessor
) -> None:
    trained.config.image_score = "text"
    rough, refined = (calibrate(trained, tiny_processor, SAMPLES, refine=refine) for refine in (False, True))

    assert refined.decision_threshold == rough.decision_threshold is not None


def test_without_good_images_there_is_no_decision(
    trained: ClipSamForAnomalySegmentation, tiny_processor: ClipSamProcessor
) -> None:
    trained.config.decision_threshold = 0.5
    found = calibrate(trained, tiny_processor, [each for each in SAMPLES if each.label], refine=False)

    assert found.decision_threshold is None is trained.config.decision_threshold


def test_good_images_alone_are_refused(
    trained: ClipSamForAnomalySegmentation, tiny_processor: ClipSamProcessor
) -> None:
    with pytest.raises(ValueError, match="pixels of both kinds"):
        calibrate(trained, tiny_processor, SAMPLES[::2], refine=False)


def test_a_random_head_is_refused(tiny_model: ClipSamForAnomalySegmentation, tiny_processor: ClipSamProcessor) -> None:
    with pytest.raises(ValueError, match="random weights"):
        calibrate(tiny_model, tiny_processor, SAMPLES)


def test_the_result_is_plain_data() -> None:
    found = Calibration(0.4, 0.3, None, 0.2, 0.8, 0.9, None, None, True, 2)

    assert (found.to_dict()["mask_threshold"], found.to_dict()["refine_weight"]) == (0.3, 0.2)
