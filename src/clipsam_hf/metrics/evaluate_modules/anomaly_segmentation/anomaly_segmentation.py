# SPDX-FileCopyrightText: 2026 The clipsam_hf authors
# SPDX-License-Identifier: Apache-2.0
"""Pixel figures for the `evaluate` library: a thin module over `clipsam_hf.metrics.AnomalyMetrics`."""

# evaluate reads the imports of this file line by line: one library on each, and none behind a comma.
import warnings
from typing import Any

import datasets
import evaluate
import numpy as np

from clipsam_hf.metrics import AnomalyMetrics


_DESCRIPTION = """\
Pixel AUROC, average precision, F1-max with its threshold and IoU, rank-exact AUPRO, and the share of defect regions
found at that threshold, per category; `mean` is the unweighted mean over the categories, which are never pooled.
"""

_INPUTS = """\
Args:
    predictions: anomaly maps, one (height, width) list or array per image; sizes may differ.
    references: masks of the same sizes, nonzero on defects, all zero for good images.
    categories: optional, the category of each image; without it, all images are one category, "all".
    limit: false positive rate at which the integral of AUPRO ends, in (0, 1].
Returns:
    mean: the means of all figures, in [0, 1].
    categories: the figures of each category; NaN when it has no defect or no good pixel.
"""


class AnomalySegmentation(evaluate.Metric):
    """All pixel figures, by category."""

    def _info(self) -> evaluate.MetricInfo:
        features = {
            "predictions": datasets.List(datasets.List(datasets.Value("float32"))),
            "references": datasets.List(datasets.List(datasets.Value("int32"))),
        }
        named = {**features, "categories": datasets.Value("string")}
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation="",
            inputs_description=_INPUTS,
            features=[datasets.Features(features), datasets.Features(named)],
        )

    def _compute(
        self, predictions: Any, references: Any, categories: Any = None, limit: float = 0.3
    ) -> dict[str, dict[str, Any]]:
        metrics = AnomalyMetrics(limit)
        names = ["all"] * len(predictions) if categories is None else categories
        for anomaly_map, mask, name in zip(predictions, references, names, strict=True):
            metrics.update(np.asarray(anomaly_map, dtype=np.float32), np.asarray(mask), name)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "no image figures")  # they are not asked for here
            results = metrics.compute()
        return {
            "mean": _pixel_figures(results["mean"]),
            "categories": {name: _pixel_figures(figures) for name, figures in results["categories"].items()},
        }


def _pixel_figures(figures: dict[str, float]) -> dict[str, float]:
    return {name: value for name, value in figures.items() if not name.startswith("image_")}
