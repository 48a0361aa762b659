# SPDX-FileCopyrightText: 2026 The clipsam_hf authors
# SPDX-License-Identifier: Apache-2.0
"""Metrics of anomaly segmentation, per category: pixel and image AUROC, AP and F1-max, AUPRO, and regions found.

Pixel figures rank the pixels of all images of a category, good images included. Categories are never pooled: a
score of one category means nothing beside that of another, so the mean is taken over their figures.
"""

import json
import math
import warnings
from collections.abc import Mapping
from typing import Any, NotRequired, TypedDict

import numpy as np
import torch
from numpy.typing import NDArray

from .categories import Category, Outcome
from .figures import FIGURES, Figures, Intervals, check_registered, names_of


__all__ = ["AnomalyMetrics", "MetricResults"]

Array = np.ndarray | torch.Tensor

# 0.05 points, the last digit that tables of the field print
_WIDEST_HALF_INTERVAL = 0.0005


class MetricResults(TypedDict):
    """What `AnomalyMetrics.compute` returns.

    Args:
        categories (`dict[str, dict[str, float]]`): the figures of each category, in [0, 1]; NaN where undefined.
        mean (`dict[str, float]`): mean of each figure over the categories in which it is defined; a threshold has
            no mean.
        counts (`dict[str, dict[str, int]]`): images, pixels and regions behind the figures of each category.
        protocol (`dict[str, Any]`): the options that the figures depend on, for reports.
        intervals (`dict[str, dict[str, tuple[float, float]]]`, *streaming only*): bounds of the exact figures.
        mean_interval (`dict[str, tuple[float, float]]`, *streaming only*): bounds of their means.
    """

    categories: dict[str, Figures]
    mean: Figures
    counts: dict[str, dict[str, int]]
    protocol: dict[str, Any]
    intervals: NotRequired[dict[str, Intervals]]
    mean_interval: NotRequired[Intervals]


class AnomalyMetrics:
    """Collect anomaly maps and ground truth category by category, and compute the field's figures from them.

    | figure | meaning |
    |---|---|
    | `pixel_auroc`, `pixel_ap` | area under the ROC curve; average precision (step-wise, not the trapezoidal area) |
    | `pixel_f1_max`, `pixel_f1_threshold` | best F1 over all thresholds, and the highest threshold that reaches it |
    | `pixel_iou` | intersection over union of all defect pixels at that threshold |
    | `pixel_aupro` | area under the per-region overlap up to `aupro_limit`, rank-exact, divided by the limit |
    | `region_recall`, `region_recall_small`, ... | share of the defect regions found at that threshold, by size |
    | `image_auroc`, `image_ap`, `image_f1_max` | the same of one score per image |
    | `legacy_aupro_linear200` | LEGACY, on request: the AUPRO of the loop that most published tables used |

    A region is an 8-connected component of a mask; it is found when at least `region_overlap` of its pixels reach the
    threshold. Sizes are shares of the image's area: small up to 0.1 %, medium up to 1 %. A figure that needs both good
    and abnormal pixels (or images) is NaN, with a warning, when one kind is missing. A constant map has AUROC 0.5,
    AUPRO `aupro_limit / 2`, and its share of abnormal pixels as AP.

    Exact metrics hold 4 bytes per pixel of the categories that are not finished: call `finish` after each category to
    hold one at a time. Streaming metrics hold a histogram of fixed size per category instead, and give for each pixel
    figure an interval in which the exact one certainly lies.

    Args:
        aupro_limit (`float`, in (0, 1]): false positive rate up to which AUPRO is integrated.
        streaming (`bool`): fixed memory and certified intervals instead of exact figures; maps must be in [0, 1].
        region_overlap (`float`, in (0, 1]): share of a region's pixels that must reach the threshold.
        aupro_linear200 (`bool`): adds `legacy_aupro_linear200`, for comparison with papers only. It depends on the
            scale of the scores and not on their order alone, so it says little about a model. Not with `streaming`.

    Raises:
        ValueError: if an option is out of range.

    Example:
        >>> metrics = AnomalyMetrics()
        >>> _ = metrics.update(np.array([[0.9, 0.2], [0.1, 0.3]]), np.array([[1, 0], [0, 0]]), "candle")
        >>> _ = metrics.update(np.array([[0.4, 0.2], [0.1, 0.3]]), None, "candle")
        >>> metrics.compute()["categories"]["candle"]["pixel_auroc"]
        1.0
    """

    def __init__(
        self,
        aupro_limit: float = 0.3,
        *,
        streaming: bool = False,
        region_overlap: float = 0.5,
        aupro_linear200: bool = False,
    ) -> None:
        for name, value in (("aupro_limit", aupro_limit), ("region_overlap", region_overlap)):
            if not 0.0 < value <= 1.0:
                raise ValueError(f"`{name}` must be in (0, 1], got {value}")
        if streaming and aupro_linear200:
            raise ValueError("`aupro_linear200` needs all scores: it cannot be had with `streaming=True`")
        self.aupro_limit = float(aupro_limit)
        self.streaming = bool(streaming)
        self.region_overlap = float(region_overlap)
        self.aupro_linear200 = bool(aupro_linear200)
        self._categories: dict[str, Category] = {}
        self._finished: dict[str, Outcome] = {}

    def update(
        self,
        anomaly_map: Array,
        gt_mask: Array | None,
        category: str,
        *,
        image_score: float | None = None,
        label: bool | int | None = None,
    ) -> "AnomalyMetrics":
        """Add one image.

        Args:
            anomaly_map (`np.ndarray` or `torch.Tensor` of shape `(height, width)`): finite, higher is more abnormal;
                compared in float32. Never normalise it per image: that changes the order between images.
            gt_mask (`np.ndarray` or `torch.Tensor` of shape `(height, width)`, *optional*): nonzero on defects; `None`
                for a good image. An abnormal image (`label=True`) without mask counts for the image figures alone.
            category (`str`): the name under which it counts.
            image_score (`float`, *optional*): the score of the image; by default the maximum of its map.
            label (`bool`, *optional*): whether the image is abnormal; by default, whether the mask has a defect. Give
                it where a small defect may have vanished from a resized mask.

        Returns:
            `AnomalyMetrics`: itself.

        Raises:
            TypeError: if the map or mask is no array, or the category no string.
            ValueError: if a score is not finite, the map is not two-dimensional, the mask has another size, a good
                label comes with a defect, the category is finished, or a map is outside [0, 1] in streaming.
        """
        scores, mask = _as_scores(anomaly_map), _as_mask(gt_mask)
        lowest, highest = float(scores.min()), float(scores.max())
        if not (math.isfinite(lowest) and math.isfinite(highest)):
            raise ValueError(f"`anomaly_map` holds NaN or infinity (category {category!r})")
        if self.streaming and not (lowest >= 0.0 and highest <= 1.0):
            raise ValueError(
                f"streaming metrics take maps in [0, 1], got [{lowest:g}, {highest:g}]: squash all maps of the "
                "category by one increasing function, or take `streaming=False`"
            )
        if mask is not None and mask.shape != scores.shape:
            raise ValueError(
                f"`gt_mask` has shape {mask.shape}, `anomaly_map` {scores.shape}: see `resize_mask`, or resize the map"
            )
        image_score = highest if image_score is None else float(image_score)
        if not math.isfinite(image_score):
            raise ValueError(f"`image_score` must be finite, got {image_score}")
        has_defect = mask is not None and bool(mask.any())
        is_abnormal = has_defect if label is None else bool(label)
        if has_defect and not is_abnormal:
            raise ValueError(f"`label` is {label!r} but `gt_mask` has a defect")

        collected = self._open(category)
        collected.image_scores.append(image_score)
        collected.image_labels.append(is_abnormal)
        if mask is not None or not is_abnormal:
            collected.add_pixels(scores, mask if has_defect else None, self.region_overlap)
        return self

    def merge(self, other: "AnomalyMetrics") -> "AnomalyMetrics":
        """Add everything that another object collected, of another process say; `other` stays as it is.

        Args:
            other (`AnomalyMetrics`): with the same options, and no finished category that is here as well.

        Returns:
            `AnomalyMetrics`: itself.

        Raises:
            ValueError: if the options differ, or a category that one of them has finished is in both.
        """
        if self._options() != other._options():
            raise ValueError(f"metrics with different options: {self._options()} and {other._options()}")
        for name in sorted(other._finished):
            if name in self._finished or name in self._categories:
                raise ValueError(f"category {name!r} is finished: merge before `finish`")
        for name in other._categories:
            if name in self._finished:
                raise ValueError(f"category {name!r} is finished: merge before `finish`")
        for name, collected in other._categories.items():
            self._open(name).merge(collected)
        self._finished.update(other._finished)
        return self

    def image_scores(self, category: str) -> list[float]:
        """Return the scores of a category's images in the order in which they came.

        Args:
            category (`str`): one that was updated and is not finished.

        Returns:
            `list[float]`: one score per image.

        Raises:
            ValueError: if there is no such category.
        """
        if category not in self._categories:
            raise ValueError(f"there are no images of the category {category!r}; known: {sorted(self._categories)}")
        return list(self._categories[category].image_scores)

    def finish(self, category: str) -> Figures:
        """Compute the figures of a category and free its scores; nothing can be added to it afterwards.

        Args:
            category (`str`): one that was updated.

        Returns:
            `dict[str, float]`: its figures, as in `compute`.

        Raises:
            ValueError: if the category is unknown.
        """
        if category not in self._finished:
            if category not in self._categories:
                raise ValueError(f"unknown category {category!r}; there are {sorted(self._categories)}")
            self._finished[category] = self._outcome_of(self._categories[category])
            del self._categories[category]
        return dict(self._finished[category].figures)

    def compute(self) -> MetricResults:
        """Compute all figures; more images may be added afterwards.

        Returns:
            `MetricResults`: figures per category and their mean, in [0, 1]. With `streaming`, intervals too, and a
            warning when one is wider than 0.05 points to either side of its middle: then only `streaming=False` can
            give the last printed digit.

        Raises:
            ValueError: if no image was added.
        """
        outcomes = {**self._finished, **{name: self._outcome_of(part) for name, part in self._categories.items()}}
        if not outcomes:
            raise ValueError("there is nothing to compute: call `update` first")
        outcomes = dict(sorted(outcomes.items()))
        self._warn_of_undefined(outcomes)
        defined = {
            figure: [name for name, outcome in outcomes.items() if not math.isnan(outcome.figures[figure])]
            for figure in self._figure_names()
        }
        results = MetricResults(
            categories={name: dict(outcome.figures) for name, outcome in outcomes.items()},
            mean={
                figure: _mean([outcomes[name].figures[figure] for name in names])
                for figure, names in defined.items()
                if FIGURES[figure].has_mean
            },
            counts={name: dict(outcome.counts) for name, outcome in outcomes.items()},
            protocol={**self._options(), "connectivity": 8},
        )
        if self.streaming:
            results["intervals"] = {name: dict(outcome.intervals) for name, outcome in outcomes.items()}
            bounded = next((outcome.intervals for outcome in outcomes.values() if outcome.intervals), {})
            results["mean_interval"] = {
                figure: (
                    _mean([outcomes[name].intervals[figure][0] for name in defined[figure]]),
                    _mean([outcomes[name].intervals[figure][1] for name in defined[figure]]),
                )
                for figure in bounded
            }
            _warn_of_wide_intervals(results["intervals"])
        return results

    def state_dict(self) -> dict[str, NDArray[Any]]:
        """Return everything that was collected as a flat dictionary of copied arrays without Python objects.

        Returns:
            `dict[str, np.ndarray]`: fit for `np.savez`, pickling and gathering over processes.
        """
        header = {
            "version": 1,
            "options": self._options(),
            "categories": list(self._categories),
            "finished": {name: outcome._asdict() for name, outcome in self._finished.items()},
        }
        state = {"header": np.array(json.dumps(header))}
        for index, collected in enumerate(self._categories.values()):
            state.update({f"{index}.{name}": array for name, array in collected.state().items()})
        return state

    @classmethod
    def from_state_dict(cls, state: Mapping[str, NDArray[Any]]) -> "AnomalyMetrics":
        """Rebuild metrics from `state_dict`.

        Args:
            state (`Mapping[str, np.ndarray]`): what `state_dict` returned, or `np.load` of the file it was saved to.

        Returns:
            `AnomalyMetrics`: with the same options and everything that was collected.

        Raises:
            ValueError: if this is no such dictionary.
        """
        if "header" not in state:
            raise ValueError(f"not a state of AnomalyMetrics: no 'header' among {sorted(state)[:5]}")
        header = json.loads(str(state["header"]))
        if header["version"] != 1:
            raise ValueError(f"unknown version {header['version']} of the state; this release reads version 1")
        metrics = cls(**header["options"])
        for index, name in enumerate(header["categories"]):
            prefix = f"{index}."
            own = {key.removeprefix(prefix): state[key] for key in state if key.startswith(prefix)}
            metrics._open(name).load(own)
        for name, fields in header["finished"].items():
            fields["intervals"] = {figure: (low, high) for figure, (low, high) in fields["intervals"].items()}
            metrics._finished[name] = Outcome(**fields)
        return metrics

    def _options(self) -> dict[str, Any]:
        return {
            "aupro_limit": self.aupro_limit,
            "streaming": self.streaming,
            "region_overlap": self.region_overlap,
            "aupro_linear200": self.aupro_linear200,
        }

    def _figure_names(self) -> tuple[str, ...]:
        return names_of("pixel", "region", "image", *(("legacy",) if self.aupro_linear200 else ()))

    def _open(self, category: str) -> "Category":
        if not isinstance(category, str):
            raise TypeError(f"`category` must be a string, got {category!r}")
        if category in self._finished:
            raise ValueError(f"category {category!r} is finished: nothing can be added to it")
        if category not in self._categories:
            self._categories[category] = Category(self.streaming)
        return self._categories[category]

    def _outcome_of(self, collected: Category) -> Outcome:
        outcome = collected.outcome(self.aupro_limit, with_legacy=self.aupro_linear200)
        check_registered(outcome.figures)
        figures = {name: outcome.figures.get(name, float("nan")) for name in self._figure_names()}
        return outcome._replace(figures=figures)

    def _warn_of_undefined(self, outcomes: dict[str, "Outcome"]) -> None:
        """Say which categories lack one kind of pixels or images."""
        for figure, what in (("pixel_auroc", "pixels"), ("image_auroc", "images")):
            names = [name for name, outcome in outcomes.items() if math.isnan(outcome.figures[figure])]
            if names:
                warnings.warn(
                    f"no {what.removesuffix('s')} figures for {', '.join(names)}: they need both good and abnormal "
                    f"{what}. They are NaN, and left out of the mean",
                    stacklevel=3,
                )


def _as_scores(anomaly_map: Array) -> NDArray[np.float32]:
    if isinstance(anomaly_map, torch.Tensor):
        anomaly_map = anomaly_map.detach().to("cpu", torch.float32).numpy()
    if not isinstance(anomaly_map, np.ndarray):
        raise TypeError(f"`anomaly_map` must be an array or a tensor, got {type(anomaly_map).__name__}")
    if anomaly_map.ndim != 2 or not anomaly_map.size:
        raise ValueError(
            f"`anomaly_map` must have shape (height, width) and at least a pixel, got {anomaly_map.shape}"
        )
    with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinite, and is refused
        return anomaly_map.astype(np.float32, copy=False)


def _as_mask(gt_mask: Array | None) -> NDArray[np.bool_] | None:
    if gt_mask is None:
        return None
    if isinstance(gt_mask, torch.Tensor):
        gt_mask = gt_mask.detach().cpu().numpy()
    if not isinstance(gt_mask, np.ndarray):
        raise TypeError(f"`gt_mask` must be an array, a tensor or None, got {type(gt_mask).__name__}")
    return gt_mask if gt_mask.dtype == bool else gt_mask != 0


def _mean(values: list[float]) -> float:
    return math.fsum(values) / len(values) if values else float("nan")


def _warn_of_wide_intervals(intervals: dict[str, Intervals]) -> None:
    wide = [
        f"{name} {figure} [{100 * low:.2f}, {100 * high:.2f}]"
        for name, bounds in intervals.items()
        for figure, (low, high) in bounds.items()
        if high - low > 2 * _WIDEST_HALF_INTERVAL
    ]
    if wide:
        warnings.warn(
            f"intervals wider than 0.05 points to either side: {'; '.join(wide)}. Exact figures: `streaming=False`",
            stacklevel=3,
        )
