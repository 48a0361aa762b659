# SPDX-FileCopyrightText: 2026 The clipsam_hf authors
# SPDX-License-Identifier: Apache-2.0
"""Image figures for the `evaluate` library: a thin module over `clipsam_hf.metrics.AnomalyMetrics`."""

# evaluate reads the imports of this file line by line: one library on each, and none behind a comma.
from typing import Any

import datasets
import evaluate
import numpy as np

from clipsam_hf.metrics import AnomalyMetrics


_DESCRIPTION = """\
Image AUROC, average precision and F1-max of one anomaly score per image, per category; `mean` is the unweighted mean
over the categories, which are never pooled.
"""

_INPUTS = """\
Args:
    predictions: the scores of the images, higher is more abnormal.
    references: 1 for abnormal images, 0 for good ones.
    categories: optional, the category of each image; without it, all images are one category, "all".
Returns:
    mean: the means of the figures, in [0, 1].
    categories: the figures of each category; NaN when it has no abnormal or no good image.
"""


class AnomalyDetection(evaluate.Metric):
    """All image figures, by category."""

    def _info(self) -> evaluate.MetricInfo:
        features = {"predictions": datasets.Value("float64"), "references": datasets.Value("int32")}
        named = {**features, "categories": datasets.Value("string")}
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation="",
            inputs_description=_INPUTS,
            features=[datasets.Features(features), datasets.Features(named)],
        )

    def _compute(self, predictions: Any, references: Any, categories: Any = None) -> dict[str, dict[str, Any]]:
        metrics = AnomalyMetrics()
        names = ["all"] * len(predictions) if categories is None else categories
        pixel = np.zeros((1, 1), dtype=np.float32)  # there are no maps; the mask says no more than the label
        for score, label, name in zip(predictions, references, names, strict=True):
            mask = np.full((1, 1), bool(label))
            metrics.update(pixel, mask, name, image_score=score)
        results = metrics.compute()
        return {
            "mean": _image_figures(results["mean"]),
            "categories": {name: _image_figures(figures) for name, figures in results["categories"].items()},
        }


def _image_figures(figures: dict[str, float]) -> dict[str, float]:
    return {name: value for name, value in figures.items() if name.startswith("image_")}
