# SPDX-FileCopyrightText: 2026 The clipsam_hf authors
# SPDX-License-Identifier: Apache-2.0
"""Rank statistics of the scores of good and of abnormal pixels: exact from all scores, or bounded in fixed memory.

Every figure here depends on the *order* of the scores alone. So the good scores are sorted once, each abnormal score
is looked up among them, and AUROC, average precision, F1-max and AUPRO are sums over what the look-up finds. Equal
scores form one group, in which no order is assumed: the curves are linear across it.
"""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import DTypeLike, NDArray


__all__ = ["ExactScores", "Ranks", "ScoreHistogram", "figures_of", "intervals_of"]

# 64 MiB of float32. Blocks of this size come straight from the system, page by page as they fill, and no block is
# ever copied: a rank is the sum of the ranks in all blocks.
_BLOCK_LENGTH = 2**24

# A histogram key is the upper part of a float32: the exponent and 13 bits of mantissa, steps of about 1e-4 of the
# value. Scores above 0.5 are keyed by their distance from 1, which is as fine there as near 0.
_KEY_SHIFT = 23 - 13
_HALF_KEY = int(np.float32(0.5).view(np.int32)) >> _KEY_SHIFT
_NUM_KEYS = 2 * _HALF_KEY + 1


class Ranks(NamedTuple):
    """Where the positives stand among the negatives: one entry per group of equal scores, by falling score.

    Args:
        scores (`np.ndarray` of shape `(num_groups,)`): the lowest score of each group; calling everything positive
            that has at least this score calls this group and those before it.
        positives (`np.ndarray` of shape `(num_groups,)`, int64): positives in the group, at least 1.
        weights (`np.ndarray` of shape `(num_groups,)`, float64): sum of their weights, 1 / area of the region.
        above (`np.ndarray` of shape `(num_groups,)`, int64): negatives that score higher than the group.
        tied (`np.ndarray` of shape `(num_groups,)`, int64): negatives in the group.
        num_negatives (`int`): all negatives.
    """

    scores: NDArray[Any]
    positives: NDArray[np.int64]
    weights: NDArray[np.float64]
    above: NDArray[np.int64]
    tied: NDArray[np.int64]
    num_negatives: int

    @property
    def is_defined(self) -> bool:
        """Whether there are positives and negatives at all; no ranking figure exists otherwise."""
        return len(self.scores) > 0 and self.num_negatives > 0


class GrowingArray:
    """A one-dimensional array that grows at its end without ever being copied.

    Args:
        dtype (`DTypeLike`): type of the values; what is appended is cast to it.
    """

    def __init__(self, dtype: DTypeLike) -> None:
        self.dtype = np.dtype(dtype)
        self._blocks: list[NDArray[Any]] = []
        self._length = 0

    def __len__(self) -> int:
        return self._length

    @property
    def blocks(self) -> list[NDArray[Any]]:
        """Views of the filled part of each block."""
        return [block[: self._length - i * _BLOCK_LENGTH] for i, block in enumerate(self._blocks)]

    def append(self, values: NDArray[Any]) -> None:
        """Copy the values of a one-dimensional array behind the last one."""
        start = 0
        while start < len(values):
            filled = self._length % _BLOCK_LENGTH
            if filled == 0:
                self._blocks.append(np.empty(_BLOCK_LENGTH, dtype=self.dtype))
            count = min(_BLOCK_LENGTH - filled, len(values) - start)
            self._blocks[-1][filled : filled + count] = values[start : start + count]
            self._length += count
            start += count

    def to_array(self) -> NDArray[Any]:
        """Return a copy of all values in one piece."""
        return np.concatenate([np.empty(0, dtype=self.dtype), *self.blocks])


class ExactScores:
    """All scores of one category, for exact figures: 4 bytes per good pixel, 8 per abnormal one.

    Args:
        dtype (`DTypeLike`): type in which the scores are kept and compared.
    """

    def __init__(self, dtype: DTypeLike = np.float32) -> None:
        self._negatives = GrowingArray(dtype)
        self._positives = GrowingArray(dtype)
        self._areas = GrowingArray(np.int32)

    def add(self, negatives: NDArray[Any], positives: NDArray[Any], areas: NDArray[Any]) -> None:
        """Add scores of shape `(n,)` and `(p,)`, and for each positive the area of its region in pixels, `(p,)`."""
        self._negatives.append(negatives)
        self._positives.append(positives)
        self._areas.append(areas)

    def merge(self, other: "ExactScores") -> None:
        """Add all scores of another object, which stays as it is."""
        for mine, others in zip(self._parts(), other._parts(), strict=True):
            for block in others.blocks:
                mine.append(block)

    def ranks(self) -> Ranks:
        """Rank the positives among the negatives, whose blocks are sorted in place."""
        for block in self._negatives.blocks:
            block.sort()
        positives, areas = self._positives.to_array(), self._areas.to_array()
        order = np.argsort(positives)[::-1]
        positives, areas = positives[order], areas[order]

        # Equal positives form a group
        is_first = np.ones(len(positives), dtype=bool)
        np.not_equal(positives[1:], positives[:-1], out=is_first[1:])
        starts = np.flatnonzero(is_first)
        scores = positives[starts]
        if len(starts) == len(positives):  # add.reduceat would need a copy, and refuses the empty array
            weights = 1.0 / areas
        else:
            weights = np.add.reduceat(1.0 / areas, starts)

        # Look every group up in each block. `searchsorted` is fast when what it looks for rises
        above, tied = np.zeros((2, len(scores)), dtype=np.int64)
        rising = scores[::-1]
        for block in self._negatives.blocks:
            lower, upper = _look_up(block, rising)
            above += len(block) - upper[::-1]
            tied += (upper - lower)[::-1]
        counts = np.diff(starts, append=len(positives))
        return Ranks(scores, counts, weights, above, tied, len(self._negatives))

    @property
    def negative_blocks(self) -> list[NDArray[Any]]:
        """All scores of the negatives in blocks, each of which `ranks` has sorted."""
        return self._negatives.blocks

    def state(self) -> dict[str, NDArray[Any]]:
        """Return everything as plain arrays."""
        return dict(zip(("negatives", "positives", "areas"), (part.to_array() for part in self._parts()), strict=True))

    def load(self, state: dict[str, NDArray[Any]]) -> None:
        """Add what `state` returned."""
        self.add(state["negatives"], state["positives"], state["areas"])

    def _parts(self) -> tuple[GrowingArray, GrowingArray, GrowingArray]:
        return self._negatives, self._positives, self._areas


class ScoreHistogram:
    """Counts of scores in [0, 1] over fixed keys, for bounded figures in memory that does not grow with the images.

    The keys are float32 values without their last bits, so that scores crowded at 0 or at 1, as a saturated softmax
    leaves them, stay apart. Two histograms merge by addition. The arrays hold 24 bytes for each of 2 million keys,
    of which the system gives only the pages that are used.
    """

    def __init__(self) -> None:
        self._negatives = np.zeros(_NUM_KEYS, dtype=np.int64)
        self._positives = np.zeros(_NUM_KEYS, dtype=np.int64)
        self._weights = np.zeros(_NUM_KEYS, dtype=np.float64)

    def add(self, negatives: NDArray[Any], positives: NDArray[Any], areas: NDArray[Any]) -> None:
        """Add scores of shape `(n,)` and `(p,)`, and for each positive the area of its region in pixels, `(p,)`."""
        np.add.at(self._negatives, _keys_of(negatives), 1)
        keys = _keys_of(positives)
        np.add.at(self._positives, keys, 1)
        np.add.at(self._weights, keys, 1.0 / areas)

    def merge(self, other: "ScoreHistogram") -> None:
        """Add all counts of another object, which stays as it is."""
        self._negatives += other._negatives
        self._positives += other._positives
        self._weights += other._weights

    def ranks(self) -> Ranks:
        """Rank the positives among the negatives, with each key as one group of equal scores."""
        keys = np.flatnonzero(self._positives)[::-1]
        at_least = np.cumsum(self._negatives[::-1])[::-1]  # (num_keys,) negatives with this key or a higher one
        tied = self._negatives[keys]
        return Ranks(
            _lowest_score_of(keys),
            self._positives[keys],
            self._weights[keys],
            at_least[keys] - tied,
            tied,
            int(at_least[0]),
        )

    def state(self) -> dict[str, NDArray[Any]]:
        """Return everything as plain arrays: the keys that occur, and their counts."""
        keys = np.flatnonzero(self._negatives + self._positives)
        return {
            "keys": keys,
            "negatives": self._negatives[keys],
            "positives": self._positives[keys],
            "weights": self._weights[keys],
        }

    def load(self, state: dict[str, NDArray[Any]]) -> None:
        """Add what `state` returned."""
        self._negatives[state["keys"]] += state["negatives"]
        self._positives[state["keys"]] += state["positives"]
        self._weights[state["keys"]] += state["weights"]


def figures_of(ranks: Ranks, num_regions: int = 0, limit: float = 0.3) -> dict[str, float]:
    """Compute the ranking figures; a group counts as tied.

    Args:
        ranks (`Ranks`): of at least one positive and one negative.
        num_regions (`int`): number of defect regions; 0 leaves AUPRO out.
        limit (`float`, in (0, 1]): false positive rate up to which AUPRO is integrated.

    Returns:
        `dict[str, float]`: `auroc`, `ap`, `f1_max`, `f1_threshold` (the highest score whose F1 is the maximum) and
        `aupro`. AUROC is the probability that a positive beats a negative, a tie counting half; `ap` is the step-wise
        average precision; AUPRO is the area under the mean overlap of the regions over the false positive rate,
        linear between distinct scores and cut exactly at `limit`, divided by `limit`.
    """
    counts, total = ranks.positives, int(ranks.positives.sum())
    found = np.cumsum(counts)  # (num_groups,) positives with this score or a higher one
    at_least = ranks.above + ranks.tied
    f1 = 2.0 * found / (found + at_least + total)
    best = int(np.argmax(f1))
    figures = {
        "auroc": 1.0 - float(counts @ (ranks.above + 0.5 * ranks.tied)) / (total * ranks.num_negatives),
        "ap": float(counts @ (found / (found + at_least))) / total,
        "f1_max": float(f1[best]),
        "f1_threshold": float(ranks.scores[best]),
    }
    if num_regions:
        start, end = ranks.above / ranks.num_negatives, at_least / ranks.num_negatives
        # A group's overlap rises linearly from its first to its last false positive: all, none or a part counts
        areas = np.maximum(limit - 0.5 * (start + end), 0.0)
        cut = (start < limit) & (limit < end)
        areas[cut] = (limit - start[cut]) ** 2 / (2.0 * (end[cut] - start[cut]))
        figures["aupro"] = float(ranks.weights @ areas) / (num_regions * limit)
    return figures


def intervals_of(ranks: Ranks, num_regions: int, limit: float) -> dict[str, tuple[float, float]]:
    """Bound the figures over every order that the scores inside the groups may have.

    Args:
        ranks (`Ranks`): of a `ScoreHistogram` with at least one positive and one negative.
        num_regions (`int`): number of defect regions.
        limit (`float`, in (0, 1]): false positive rate up to which AUPRO is integrated.

    Returns:
        `dict[str, tuple[float, float]]`: for each figure but the threshold, the bounds between which the exact one,
        of the same scores in float32, certainly lies.
    """
    counts, total = ranks.positives, int(ranks.positives.sum())
    found = np.cumsum(counts)
    at_least = ranks.above + ranks.tied
    area = total * ranks.num_negatives
    # With all negatives of the group first, its k-th positive has precision (k + before) / (k + before + at_least):
    # concave in k, so that the mean of the first and the last of them is at most the mean of all
    first, last = found - counts + 1, found
    worst = 0.5 * (first / (first + at_least) + last / (last + at_least))
    f1_worst, f1_best = (2.0 * found / (found + wrong + total) for wrong in (at_least, ranks.above))
    overlap = ranks.weights / (num_regions * limit)
    rates = ranks.above / ranks.num_negatives, at_least / ranks.num_negatives
    bounds = {
        "auroc": (1.0 - float(counts @ at_least) / area, 1.0 - float(counts @ ranks.above) / area),
        "ap": (float(counts @ worst) / total, float(counts @ (found / (found + ranks.above))) / total),
        "f1_max": (float(f1_worst.max()), float(f1_best.max())),
        "aupro": (
            float(overlap @ np.maximum(limit - rates[1], 0.0)),
            float(overlap @ np.maximum(limit - rates[0], 0.0)),
        ),
    }
    # The bounds hold in exact arithmetic; this is more than the sums can lose
    slack = 1e-12
    return {name: (max(low - slack, 0.0), min(high + slack, 1.0)) for name, (low, high) in bounds.items()}


def _look_up(block: NDArray[Any], rising: NDArray[Any]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Count the values of a sorted block below each score, and those not above it."""
    lower = block.searchsorted(rising, "left")
    # Most maps have few ties, and only these need the second search
    tied = block[np.minimum(lower, len(block) - 1)] == rising
    upper = lower.copy()
    upper[tied] = block.searchsorted(rising[tied], "right")
    return lower, upper


def _keys_of(scores: NDArray[Any]) -> NDArray[np.int32]:
    """Return the keys of float32 scores in [0, 1]; a higher score never has a lower key."""
    from_end = np.minimum(scores, 1.0 - scores)  # exact above 0.5, where the difference is used
    keys = (from_end.view(np.int32) & 0x7FFFFFFF) >> _KEY_SHIFT  # the bit of -0.0 is dropped
    return np.where(scores < 0.5, keys, 2 * _HALF_KEY - keys)


def _lowest_score_of(keys: NDArray[Any]) -> NDArray[np.float32]:
    """Return the lowest float32 score that has each key."""
    below = (np.minimum(keys, _HALF_KEY) << _KEY_SHIFT).astype(np.int32).view(np.float32)
    # Above 0.5 the scores of a key end, exclusively, at this distance from 1
    distance = (np.minimum(2 * _HALF_KEY - keys + 1, _HALF_KEY) << _KEY_SHIFT).astype(np.int32).view(np.float32)
    bound = 1.0 - distance.astype(np.float64)
    rounded = bound.astype(np.float32)
    above = np.where(rounded > bound, rounded, np.nextafter(rounded, np.float32(2.0)))
    return np.where(keys <= _HALF_KEY, below, np.minimum(above, np.float32(1.0)))  # the last key holds 1 alone
