# SPDX-FileCopyrightText: 2026 The clipsam_hf authors
# SPDX-License-Identifier: Apache-2.0
"""A figure that depends on the scale of the scores, kept for comparison with the tables that used it."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .ranks import Ranks


__all__ = ["aupro_linear200"]


def aupro_linear200(negative_blocks: Sequence[NDArray[Any]], ranks: Ranks, num_regions: int, limit: float) -> float:
    """Reproduce the AUPRO of the field's copied loop (LEGACY: only for comparison with published tables).

    The loop takes 200 thresholds at equal steps of the *score*, keeps those whose false positive rate is below the
    limit, stretches these rates to [0, 1] and integrates. So it depends on the scale of the scores, not only on their
    order, and integrates to the last kept rate instead of the limit: a saturated map of any quality gets almost 0.

    Args:
        negative_blocks (sequence of `np.ndarray`): the scores of the negatives, each block sorted.
        ranks (`Ranks`): of the same scores.
        num_regions (`int`): number of defect regions.
        limit (`float`, in (0, 1]): the rates below it are kept.

    Returns:
        `float`: the loop's figure; NaN where the loop fails: a constant map, or fewer than two different rates.
    """
    lowest = min(ranks.scores[-1], *(block[0] for block in negative_blocks))
    highest = max(ranks.scores[0], *(block[-1] for block in negative_blocks))
    if lowest == highest:
        return float("nan")
    thresholds = np.arange(lowest, highest, (highest - lowest) / 200)
    # A score is compared with the float64 threshold; the float32 just below it separates the scores alike
    rounded = thresholds.astype(ranks.scores.dtype)
    thresholds = np.where(rounded > thresholds, np.nextafter(rounded, -np.inf, dtype=rounded.dtype), rounded)

    false_positives = sum(len(block) - block.searchsorted(thresholds, "right") for block in negative_blocks)
    rates = np.asarray(false_positives) / ranks.num_negatives
    overlap = np.concatenate([[0.0], np.cumsum(ranks.weights)]) / num_regions
    overlaps = overlap[len(ranks.scores) - ranks.scores[::-1].searchsorted(thresholds, "right")]

    kept = rates < limit
    rates, overlaps = rates[kept][::-1], overlaps[kept][::-1]
    if not len(rates) or rates[0] == rates[-1]:
        return float("nan")
    return float(np.trapezoid(overlaps, (rates - rates[0]) / (rates[-1] - rates[0])))
