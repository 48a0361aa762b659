# SPDX-FileCopyrightText: 2026 The clipsam_hf authors
# SPDX-License-Identifier: Apache-2.0
"""The figures of the recipe are those of scikit-learn, and the tiny checkpoint's evaluation measures what it says."""

import numpy as np
import pytest
import torch
from evaluate_tiny import CHECKPOINT, FixedTexts, build_similarity, embed_texts, measure_model, to_markdown
from floors import FLOORS
from sklearn.metrics import average_precision_score, roc_auc_score
from synthetic_heldout import heldout_images
from tiny_scores import Scores, rank_probability

from clipsam_hf import ClipSamForAnomalySegmentation, ClipSamProcessor
from clipsam_hf.inference_clipsam import ClipSamInference


@pytest.fixture
def pairs() -> list[tuple[np.ndarray, np.ndarray]]:
    rng = np.random.default_rng(0)
    masks = [rng.random((20, 20)) < share for share in (0.0, 0.1, 0.3, 0.0)]
    return [(np.clip(0.3 * mask + 0.6 * rng.random((20, 20)), 0, 1), mask) for mask in masks]


def test_pixel_figures_agree_with_scikit_learn(pairs: list[tuple[np.ndarray, np.ndarray]]) -> None:
    scores = Scores(0.5)
    for anomaly_map, mask in pairs:
        scores.update(anomaly_map, mask)
    maps, masks = (np.stack(parts).ravel() for parts in zip(*pairs, strict=True))
    found = scores.compute()
    marked = maps > 0.5

    assert found["pixel AUROC"] == pytest.approx(roc_auc_score(masks, maps), abs=1e-6)
    assert found["pixel AP"] == pytest.approx(average_precision_score(masks, maps), abs=1e-6)
    assert found["F1 at threshold"] == pytest.approx(2 * (marked & masks).sum() / (marked.sum() + masks.sum()))
    assert found["F1 at threshold"] <= found["pixel F1-max"] + 1e-9


def test_the_order_of_tiny_values_counts() -> None:
    scores = Scores()
    scores.update(np.array([[1e-9, 1e-8]]), np.array([[False, True]]))
    scores.update(np.array([[1e-10, 1e-10]]), np.array([[False, False]]))
    found = scores.compute()

    assert found["pixel AUROC"] == 1
    assert found["image AUROC"] == 1


def test_where_nothing_is_marked_nothing_is_ranked() -> None:
    scores = Scores()
    scores.update(np.array([[1e-20, 1e-18]], np.float32), np.array([[False, True]]))

    assert scores.compute()["pixel AUROC"] == 0.5


def test_rank_probability_counts_ties_half() -> None:
    # of six pairs four are won (3 > 1, 3 > 2 twice, 2 > 1) and two are ties (2 = 2 twice)
    assert rank_probability(np.array([3.0, 2.0]), np.array([1.0, 2.0, 2.0])) == pytest.approx((4 + 2 / 2) / 6)
    assert rank_probability(np.array([1.0]), np.array([2.0])) == 0.0


def test_a_dark_spot_stands_out_from_every_floor() -> None:
    image = np.full((64, 64, 3), 0.8, np.float32)
    image[30:34, 30:34] = 0.1
    for name, floor in FLOORS.items():
        anomaly_map = floor(image)
        assert anomaly_map.shape == (64, 64) and 0 <= anomaly_map.min() <= anomaly_map.max() <= 1, name
        assert anomaly_map[32, 32] > 2 * anomaly_map[5, 5], name


@pytest.mark.slow
def test_images_of_another_size_than_the_maps_are_measured() -> None:
    model, processor = (each.from_pretrained(CHECKPOINT) for each in (ClipSamForAnomalySegmentation, ClipSamProcessor))
    images = heldout_images()
    samples = [images.sample(0, size=96), images.sample(0, size=96, with_defects=False)]
    assert samples[0].mask.any() and model.config.image_size != 96
    table = measure_model(model, processor, samples)

    assert {"similarity", "rough", "refined"} <= set(table)
    assert all(0 <= table[name]["pixel AP"] <= 1 for name in table)


def test_a_table_leaves_out_what_was_not_measured() -> None:
    table = to_markdown({"rough": {"AP": 0.5, "F1": float("nan")}})

    assert table.splitlines() == ["| map | AP | F1 |", "|---|---:|---:|", "| rough | 0.500 |  |"]


@pytest.mark.slow
def test_two_equal_texts_leave_the_similarity_undecided() -> None:
    model, processor = (each.from_pretrained(CHECKPOINT) for each in (ClipSamForAnomalySegmentation, ClipSamProcessor))
    inference = ClipSamInference(model, processor)
    image = inference.prepare(heldout_images().sample(0, size=96).image, "object", refine=False)
    pairs, similarity = embed_texts(inference, "object"), build_similarity(model)
    maps = {name: FixedTexts(similarity, processor, texts).predict([image])[0] for name, texts in pairs.items()}

    assert torch.all(maps[", both texts normal"].anomaly_map == 0.5)
    assert maps[""].anomaly_map.std() > 0.01
