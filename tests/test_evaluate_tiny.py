# SPDX-FileCopyrightText: 2026 The clipsam_hf authors
# SPDX-License-Identifier: Apache-2.0
"""The figures of the tiny checkpoint's evaluation are scikit-learn's."""

import numpy as np
import pytest
from evaluate_tiny import CHECKPOINT, Scores, measure_model, to_markdown
from floors import FLOORS
from sklearn.metrics import average_precision_score, roc_auc_score
from synthetic_heldout import heldout_images

from clipsam_hf import ClipSamForAnomalySegmentation, ClipSamProcessor


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

    assert found["pixel AUROC"] == pytest.approx(roc_auc_score(masks, maps), abs=1e-3)
    assert found["pixel AP"] == pytest.approx(average_precision_score(masks, maps), abs=1e-3)
    assert found["F1 at threshold"] == pytest.approx(2 * (marked & masks).sum() / (marked.sum() + masks.sum()))
    assert found["F1 at threshold"] <= found["pixel F1-max"] + 1e-3


def test_the_order_of_tiny_values_counts() -> None:
    scores = Scores()
    scores.update(np.array([[1e-9, 1e-8]]), np.array([[False, True]]))
    scores.update(np.array([[1e-10, 1e-10]]), np.array([[False, False]]))

    assert scores.compute()["pixel AUROC"] == 1
    assert scores.compute()["image AUROC"] == 1


def test_a_dark_spot_stands_out_from_every_floor() -> None:
    image = np.full((64, 64, 3), 0.8, np.float32)
    image[30:34, 30:34] = 0.1
    for name, floor in FLOORS.items():
        anomaly_map = floor(image)
        assert anomaly_map.shape == (64, 64) and 0 <= anomaly_map.min() <= anomaly_map.max() <= 1, name
        assert anomaly_map[32, 32] > 2 * anomaly_map[5, 5], name


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
