# SPDX-FileCopyrightText: 2026 The clipsam_hf authors
# SPDX-License-Identifier: Apache-2.0
"""What is collected of one category, and the figures that are computed from it."""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from ..regions_clipsam import EIGHT_CONNECTED
from .figures import REGION_SIZES, Figures, Intervals
from .legacy import aupro_linear200
from .ranks import ExactScores, ScoreHistogram, figures_of, intervals_of


__all__ = ["Category", "Outcome"]


class Outcome(NamedTuple):
    """What is left of a category when its scores are gone.

    Args:
        figures (`dict[str, float]`): those that are defined, in [0, 1].
        intervals (`dict[str, tuple[float, float]]`): bounds of the exact figures; empty unless streaming.
        counts (`dict[str, int]`): images, pixels and regions.
    """

    figures: Figures
    intervals: Intervals
    counts: dict[str, int]


class Category:
    """Everything that is collected of one category.

    Args:
        streaming (`bool`): whether a histogram of fixed size is kept, and not all scores of pixels.
    """

    def __init__(self, streaming: bool) -> None:
        self.pixels: ExactScores | ScoreHistogram = ScoreHistogram() if streaming else ExactScores()
        self.num_pixels = 0
        self.region_fractions: list[float] = []
        self.region_scores: list[float] = []
        self.image_scores: list[float] = []
        self.image_labels: list[bool] = []

    def add_pixels(self, scores: NDArray[np.float32], mask: NDArray[np.bool_] | None, region_overlap: float) -> None:
        """Add the scores of shape `(height, width)`; `mask` is `None` when there is no defect."""
        self.num_pixels += scores.size
        if mask is None:
            nothing = np.empty(0, dtype=np.float32)
            self.pixels.add(scores.ravel(), nothing, nothing)
            return
        rows, columns = ndimage.find_objects(mask.view(np.uint8))[0]  # all defects lie in this part
        labels, count = ndimage.label(mask[rows, columns], structure=EIGHT_CONNECTED)
        positives = scores[mask]  # (num_positives,)
        regions = labels[mask[rows, columns]]  # (num_positives,) 1 .. count, in the same order
        areas = np.bincount(regions, minlength=count + 1)  # (count + 1,)
        self.pixels.add(scores[~mask], positives, areas[regions])

        # One score per region decides, at any threshold, whether enough of its pixels reach it
        order = np.lexsort((positives, regions))
        ends = np.cumsum(areas)[1:]  # (count,) where each region ends in that order
        needed = np.ceil(region_overlap * areas[1:] * (1 - 1e-12)).astype(np.int64)
        self.region_scores += positives[order][ends - needed].tolist()
        self.region_fractions += (areas[1:] / scores.size).tolist()

    def outcome(self, aupro_limit: float, *, with_legacy: bool = False) -> Outcome:
        """Compute the figures that are defined, their intervals and the counts behind them.

        Args:
            aupro_limit (`float`, in (0, 1]): false positive rate up to which AUPRO is integrated.
            with_legacy (`bool`): adds `legacy_aupro_linear200`, which needs all scores.

        Returns:
            `Outcome`: a figure that needs both good and abnormal pixels (or images) is left out where one kind is
            missing.
        """
        labels = np.array(self.image_labels, dtype=bool)
        fractions, scores = np.array(self.region_fractions), np.array(self.region_scores)
        figures, intervals = _image_figures(self.image_scores, labels), Intervals()
        ranks = self.pixels.ranks()
        if ranks.is_defined:
            pixel = figures_of(ranks, len(scores), aupro_limit)
            figures |= {f"pixel_{name}": value for name, value in pixel.items()}
            figures["pixel_iou"] = _iou(pixel["f1_max"])
            figures |= _region_recalls(fractions, scores >= pixel["f1_threshold"])
            if isinstance(self.pixels, ScoreHistogram):
                bounds = intervals_of(ranks, len(scores), aupro_limit)
                intervals = {f"pixel_{name}": bound for name, bound in bounds.items()}
                intervals["pixel_iou"] = (_iou(bounds["f1_max"][0]), _iou(bounds["f1_max"][1]))
            elif with_legacy:
                legacy = aupro_linear200(self.pixels.negative_blocks, ranks, len(scores), aupro_limit)
                figures["legacy_aupro_linear200"] = legacy
        counts = {
            "images": len(labels),
            "abnormal_images": int(labels.sum()),
            "pixels": self.num_pixels,
            "abnormal_pixels": int(ranks.positives.sum()),
            "regions": len(scores),
            **{f"regions_{size}": int(chosen.sum()) for size, chosen in _by_size(fractions).items()},
        }
        return Outcome(figures, intervals, counts)

    def merge(self, other: "Category") -> None:
        """Add everything that another object has collected, which stays as it is."""
        # Both sides were made with the same options, so both hold the same kind of scores
        self.pixels.merge(other.pixels)  # type: ignore[arg-type]
        self.num_pixels += other.num_pixels
        for name in ("region_fractions", "region_scores", "image_scores", "image_labels"):
            getattr(self, name).extend(getattr(other, name))

    def state(self) -> dict[str, NDArray[Any]]:
        """Return everything as plain arrays."""
        return {
            **{f"pixels.{name}": array for name, array in self.pixels.state().items()},
            "num_pixels": np.array(self.num_pixels),
            "region_fractions": np.array(self.region_fractions, dtype=np.float64),
            "region_scores": np.array(self.region_scores, dtype=np.float64),
            "image_scores": np.array(self.image_scores, dtype=np.float64),
            "image_labels": np.array(self.image_labels, dtype=bool),
        }

    def load(self, state: dict[str, NDArray[Any]]) -> None:
        """Add what `state` returned."""
        prefix = "pixels."
        self.pixels.load({name.removeprefix(prefix): state[name] for name in state if name.startswith(prefix)})
        self.num_pixels = int(state["num_pixels"])
        for name in ("region_fractions", "region_scores", "image_scores", "image_labels"):
            getattr(self, name).extend(state[name].tolist())


def _image_figures(scores: list[float], labels: NDArray[np.bool_]) -> Figures:
    """Return the figures of one score per image, or nothing when one kind of images is missing."""
    values = np.array(scores)
    collected = ExactScores(np.float64)
    collected.add(values[~labels], values[labels], np.ones(labels.sum()))
    ranks = collected.ranks()
    if not ranks.is_defined:
        return {}
    figures = figures_of(ranks)
    return {f"image_{name}": figures[name] for name in ("auroc", "ap", "f1_max")}


def _by_size(fractions: NDArray[np.float64]) -> dict[str, NDArray[np.bool_]]:
    """Return which regions have each size."""
    sizes = np.searchsorted(list(REGION_SIZES.values()), fractions, "left")
    return {size: sizes == index for index, size in enumerate(REGION_SIZES)}


def _region_recalls(fractions: NDArray[np.float64], found: NDArray[np.bool_]) -> Figures:
    """Return the share of the regions that are found, of all and by size."""
    recalls = {"region_recall": float(found.mean())}
    for size, chosen in _by_size(fractions).items():
        recalls[f"region_recall_{size}"] = float(found[chosen].mean()) if chosen.any() else float("nan")
    return recalls


def _iou(f1: float) -> float:
    return f1 / (2.0 - f1)
