# SPDX-FileCopyrightText: 2026 The clipsam_hf authors
# SPDX-License-Identifier: Apache-2.0
"""The rows of a report: figures of one map over one set of images, and the scores of single images."""

from collections.abc import Mapping
from dataclasses import dataclass, field


__all__ = ["ALL_KINDS", "MEAN", "ImageRow", "ResultRow"]

ALL_KINDS = "all"
"""Kind of the row of a whole category."""

MEAN = "mean"
"""Category of the row that holds the mean over the categories."""


@dataclass(frozen=True)
class ResultRow:
    """The figures of one map over one set of images.

    Args:
        map_name (`str`): `"rough"`, CLIP's map, or `"refined"`, SAM's.
        category (`str`): the category, or `MEAN` for the mean over the categories.
        kind (`str`): a kind of defect, with which the good images of the category were compared, or `ALL_KINDS`.
        figures (`Mapping[str, float]`): those of `AnomalyMetrics`, in [0, 1], NaN where undefined.
        counts (`Mapping[str, int]`): images, pixels and regions behind them; empty for the mean.
        intervals (`Mapping[str, tuple[float, float]]`): bounds of the exact figures; empty unless streaming.
    """

    map_name: str
    category: str
    kind: str
    figures: Mapping[str, float]
    counts: Mapping[str, int] = field(default_factory=dict)
    intervals: Mapping[str, tuple[float, float]] = field(default_factory=dict)


@dataclass(frozen=True)
class ImageRow:
    """The scores of one image.

    Args:
        path (`str`): the image, below the root of its data set.
        category (`str`): its category.
        kind (`str`): its kind of defect, or "good".
        scores (`Mapping[str, float]`): the image's score by the name of the map, in [0, 1].
    """

    path: str
    category: str
    kind: str
    scores: Mapping[str, float]
