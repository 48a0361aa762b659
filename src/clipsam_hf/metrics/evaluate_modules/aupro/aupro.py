# SPDX-FileCopyrightText: 2026 The clipsam_hf authors
# SPDX-License-Identifier: Apache-2.0
"""AUPRO of one category for the `evaluate` library: a thin module over `clipsam_hf.metrics.AnomalyMetrics`."""

# evaluate reads the imports of this file line by line: one library on each, and none behind a comma.
from typing import Any

import datasets
import evaluate
import numpy as np

from clipsam_hf.metrics import AnomalyMetrics


_DESCRIPTION = """\
AUPRO is the mean overlap of the defect regions (8-connected) as a function of the false positive rate of all good
pixels, integrated up to a limit and divided by it. This one is rank-exact: only the order of the scores matters.
"""

_INPUTS = """\
Args:
    predictions: anomaly maps, one (height, width) list or array per image; sizes may differ.
    references: masks of the same sizes, nonzero on defects, all zero for good images.
    limit: false positive rate at which the integral ends, in (0, 1].
    legacy_linear200: also return `legacy_aupro_linear200`, the scale-dependent figure of the field's loop with 200
        thresholds. LEGACY: for comparison with published tables only.
Returns:
    aupro: in [0, 1]; NaN when there is no defect or no good pixel.
"""

_CITATION = """\
@article{bergmann2021mvtec,
  title   = {The {MVTec} Anomaly Detection Dataset},
  author  = {Bergmann, Paul and Batzner, Kilian and Fauser, Michael and Sattlegger, David and Steger, Carsten},
  journal = {International Journal of Computer Vision},
  year    = {2021}
}
"""


class Aupro(evaluate.Metric):
    """Area under the per-region overlap of one category."""

    def _info(self) -> evaluate.MetricInfo:
        features = {
            "predictions": datasets.List(datasets.List(datasets.Value("float32"))),
            "references": datasets.List(datasets.List(datasets.Value("int32"))),
        }
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_INPUTS,
            features=datasets.Features(features),
        )

    def _compute(
        self, predictions: Any, references: Any, limit: float = 0.3, legacy_linear200: bool = False
    ) -> dict[str, float]:
        metrics = AnomalyMetrics(limit, aupro_linear200=legacy_linear200)
        for anomaly_map, mask in zip(predictions, references, strict=True):
            metrics.update(np.asarray(anomaly_map, dtype=np.float32), np.asarray(mask), "all")
        figures = metrics.finish("all")
        results = {"aupro": figures["pixel_aupro"]}
        if legacy_linear200:
            results["legacy_aupro_linear200"] = figures["legacy_aupro_linear200"]
        return results
