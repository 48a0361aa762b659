# SPDX-FileCopyrightText: 2026 The clipsam_hf authors
# SPDX-License-Identifier: Apache-2.0
"""A report for spreadsheets: one line per row of figures, or per image."""

import csv
import io
import math
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from .tables import figures_in


if TYPE_CHECKING:
    from ..report import EvaluationResults


__all__ = ["to_csv", "to_image_csv"]


def to_csv(results: "EvaluationResults") -> str:
    """List one line per row, figures in [0, 1]; what is undefined stays empty.

    Args:
        results (`EvaluationResults`): of one data set.

    Returns:
        `str`: with a line of headings; bounds of streamed figures are called `<figure>_low` and `<figure>_high`.
    """
    figures = [figure.name for figure in figures_in(results.rows)]
    counts = list(dict.fromkeys(name for row in results.rows for name in row.counts))
    bounded = list(dict.fromkeys(name for row in results.rows for name in row.intervals))
    bounds = [f"{name}_{end}" for name in bounded for end in ("low", "high")]
    lines = []
    for row in results.rows:
        ends = [end for name in bounded for end in row.intervals.get(name, (math.nan, math.nan))]
        numbers = [*(row.figures.get(name, math.nan) for name in figures), *ends]
        lines.append(
            [
                *(_escape_formula(text) for text in (row.map_name, row.category, row.kind)),
                *("" if math.isnan(number) else repr(number) for number in numbers),
                *(row.counts.get(name, "") for name in counts),
            ]
        )
    return _to_lines(["map", "category", "kind", *figures, *bounds, *counts], lines)


def to_image_csv(results: "EvaluationResults") -> str:
    """List one line per image: path, category, kind of defect, and the score of each map.

    Args:
        results (`EvaluationResults`): of one data set.

    Returns:
        `str`: with a line of headings.
    """
    maps = list(dict.fromkeys(name for image in results.images for name in image.scores))
    lines = [
        [
            *(_escape_formula(text) for text in (image.path, image.category, image.kind)),
            *(repr(image.scores[name]) for name in maps),
        ]
        for image in results.images
    ]
    return _to_lines(["path", "category", "kind", *(f"{name}_score" for name in maps)], lines)


def _to_lines(headings: list[str], lines: Iterable[list[Any]]) -> str:
    target = io.StringIO()
    csv.writer(target, lineterminator="\n").writerows([headings, *lines])
    return target.getvalue()


def _escape_formula(text: str) -> str:
    """Keep a spreadsheet from running the name of a folder as a formula."""
    return f"'{text}" if text.startswith(("=", "+", "-", "@", "\t", "\r")) else text
