# SPDX-FileCopyrightText: 2026 The clipsam_hf authors
# SPDX-License-Identifier: Apache-2.0
"""The modules for `evaluate.load`: they load without network and say what `AnomalyMetrics` says."""

from pathlib import Path

import evaluate
import numpy as np
import pytest

from clipsam_hf.metrics import AnomalyMetrics
from clipsam_hf.metrics.evaluate_modules import METRIC_NAMES, metric_path


@pytest.fixture(scope="module")
def modules(tmp_path_factory: pytest.TempPathFactory) -> dict[str, evaluate.EvaluationModule]:
    cache = str(tmp_path_factory.mktemp("evaluate"))
    return {name: evaluate.load(metric_path(name), cache_dir=cache) for name in METRIC_NAMES}


@pytest.fixture
def maps() -> np.ndarray:
    return np.random.default_rng(0).random((4, 9, 11), dtype=np.float32)


@pytest.fixture
def masks() -> np.ndarray:
    masks = np.random.default_rng(1).random((4, 9, 11)) < 0.1
    masks[::2] = False
    return masks


def figures_of(maps: np.ndarray, masks: np.ndarray, **options: bool) -> dict[str, float]:
    metrics = AnomalyMetrics(**options)
    for anomaly_map, mask in zip(maps, masks, strict=True):
        metrics.update(anomaly_map, mask, "all")
    return metrics.finish("all")


def test_every_folder_is_a_module() -> None:
    folder = Path(metric_path("aupro")).parent
    assert sorted(path.parent.name for path in folder.glob("*/*.py") if path.stem == path.parent.name) == [
        *METRIC_NAMES
    ]


def test_unknown_module_is_named() -> None:
    with pytest.raises(ValueError, match="got 'pro'"):
        metric_path("pro")


def test_aupro(modules: dict[str, evaluate.EvaluationModule], maps: np.ndarray, masks: np.ndarray) -> None:
    results = modules["aupro"].compute(predictions=maps, references=masks)
    assert results == {"aupro": pytest.approx(figures_of(maps, masks)["pixel_aupro"], abs=1e-12)}


def test_aupro_takes_batches_and_images_of_any_size(modules: dict[str, evaluate.EvaluationModule]) -> None:
    aupro = modules["aupro"]
    aupro.add_batch(predictions=[[[0.9, 0.1]]], references=[[[1, 0]]])
    aupro.add_batch(predictions=[[[0.2], [0.3], [0.1]]], references=[[[0], [0], [0]]])
    assert aupro.compute() == {"aupro": 1.0}


def test_legacy_aupro_is_labelled_so(
    modules: dict[str, evaluate.EvaluationModule], maps: np.ndarray, masks: np.ndarray
) -> None:
    results = modules["aupro"].compute(predictions=maps, references=masks, legacy_linear200=True)
    expected = figures_of(maps, masks, aupro_linear200=True)["legacy_aupro_linear200"]
    assert results["legacy_aupro_linear200"] == pytest.approx(expected, abs=1e-12)


def test_anomaly_segmentation(
    modules: dict[str, evaluate.EvaluationModule], maps: np.ndarray, masks: np.ndarray
) -> None:
    results = modules["anomaly_segmentation"].compute(predictions=maps, references=masks)
    pixel = {name: value for name, value in figures_of(maps, masks).items() if not name.startswith("image")}
    assert results["categories"]["all"] == pytest.approx(pixel, abs=1e-12, nan_ok=True)


def test_anomaly_segmentation_by_category(
    modules: dict[str, evaluate.EvaluationModule], maps: np.ndarray, masks: np.ndarray
) -> None:
    names = ["candle", "candle", "pill", "pill"]
    results = modules["anomaly_segmentation"].compute(predictions=maps, references=masks, categories=names)
    expected = [figures_of(maps[part], masks[part])["pixel_auroc"] for part in (slice(2), slice(2, 4))]
    assert [results["categories"][name]["pixel_auroc"] for name in ("candle", "pill")] == pytest.approx(expected)
    assert results["mean"]["pixel_auroc"] == pytest.approx(np.mean(expected))


def test_anomaly_detection(modules: dict[str, evaluate.EvaluationModule]) -> None:
    # 0.3 and 0.4 against 0.1 and 0.35: three of four pairs are in order.
    results = modules["anomaly_detection"].compute(predictions=[0.1, 0.3, 0.35, 0.4], references=[0, 1, 0, 1])
    assert results["categories"]["all"]["image_auroc"] == 0.75
    assert set(results["mean"]) == {"image_auroc", "image_ap", "image_f1_max"}


def test_anomaly_detection_by_category(modules: dict[str, evaluate.EvaluationModule]) -> None:
    results = modules["anomaly_detection"].compute(
        predictions=[0.1, 0.3, 9.0, 4.0], references=[0, 1, 0, 1], categories=["candle", "candle", "pill", "pill"]
    )
    assert [results["categories"][name]["image_auroc"] for name in ("candle", "pill")] == [1.0, 0.0]
    assert results["mean"]["image_auroc"] == 0.5
