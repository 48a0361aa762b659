# SPDX-FileCopyrightText: 2026 The clipsam_hf authors
# SPDX-License-Identifier: Apache-2.0
"""How the recipe measures a map: the package's own figures, of all pixels of all images together."""

import numpy as np
import torch

from clipsam_hf.metrics import FIGURES, AnomalyMetrics
from clipsam_hf.metrics.ranks import ExactScores, figures_of
from clipsam_hf.refinement_clipsam import score_map


__all__ = ["Scores", "rank_probability", "score_image"]

SHOWN = ("pixel_auroc", "pixel_ap", "pixel_f1_max", "image_auroc")
# generated images have no categories
POOL = "all"
# what a float32 softmax leaves where nothing is marked at all: its order says nothing
NOTHING = 1e-12


class Scores:
    """
    Pixel and image figures of one method.

    Args:
        threshold: For "F1 at threshold"; a pixel above it is marked.
    """

    def __init__(self, threshold: float | None = None) -> None:
        self.threshold, self.metrics = threshold, AnomalyMetrics()
        self.counts = np.zeros(3, np.int64)  # pixels marked rightly, marked, defective

    def update(self, anomaly_map: np.ndarray, mask: np.ndarray) -> None:
        """Add one image: its (height, width) map in [0, 1], and its truth."""
        mask = mask.astype(bool)
        self.metrics.update(np.maximum(anomaly_map, NOTHING), mask, POOL, image_score=score_image(anomaly_map))
        if self.threshold is not None:
            marked = anomaly_map > self.threshold
            self.counts += np.array(((marked & mask).sum(), marked.sum(), mask.sum()))

    def compute(self) -> dict[str, float]:
        """Return the figures by their titles, and F1 at the threshold (NaN without one), in [0, 1].

        No image can be added afterwards: the scores of all pixels are given up.
        """
        figures = self.metrics.finish(POOL)
        both, marked, defective = self.counts.tolist()
        at_threshold = float("nan") if self.threshold is None else 2 * both / max(marked + defective, 1)
        return {**{FIGURES[name].title: figures[name] for name in SHOWN}, "F1 at threshold": at_threshold}


def score_image(anomaly_map: np.ndarray) -> float:
    """Return the mean of the highest 0.1 % of a map: the score of an image for all methods alike."""
    return score_map(torch.from_numpy(np.ascontiguousarray(anomaly_map))[None]).item()


def rank_probability(above: np.ndarray, below: np.ndarray) -> float:
    """Return the probability that a value of the first kind is greater, ties counting half: the AUROC."""
    scores = ExactScores(np.float64)
    scores.add(below, above, np.ones(len(above)))
    return figures_of(scores.ranks())["auroc"]
