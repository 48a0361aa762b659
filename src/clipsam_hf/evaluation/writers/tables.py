# SPDX-FileCopyrightText: 2026 The clipsam_hf authors
# SPDX-License-Identifier: Apache-2.0
"""What the formats have in common: which tables there are, what stands in their cells, and the protocol as lines."""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ...metrics.figures import FIGURES, Figure, check_registered
from ..rows import ALL_KINDS, ResultRow


if TYPE_CHECKING:
    from ..report import EvaluationResults


__all__ = ["figures_in", "flatten", "headline", "remarks_on", "tables_of", "to_cells"]

_EXPLANATION = (
    "Figures in percent, of all images of a row, good ones included; `found` is the share of the defect regions of"
    " which enough pixels reach the F1-max threshold. A row of one defect kind holds the good images and those of that"
    " kind, and has its own threshold. A dash: not defined, for want of good or of abnormal images."
)
_LEGACY_NOTE = (
    "LEGACY AUPRO-linear200 depends on the scale of the scores, not on their order alone: for comparison with papers"
    " only."
)


def headline(protocol: Mapping[str, Any]) -> str:
    """Say in a line under which setting, zero-shot say, which data set was evaluated."""
    name = protocol.get("data", {}).get("name")
    setting = protocol.get("setting", "setting unknown")
    return f"{setting}: {name}" if name else setting


def figures_in(rows: Sequence[ResultRow]) -> list[Figure]:
    """Return the figures that any row has, in the order of columns; one that is not registered raises ValueError."""
    names = {name for row in rows for name in row.figures}
    check_registered(names)
    return [figure for name, figure in FIGURES.items() if name in names]


def tables_of(results: "EvaluationResults") -> Iterator[tuple[str, list[ResultRow]]]:
    """Group the rows into one table per map, and one more for its kinds of defects, each with its title."""
    for name in dict.fromkeys(row.map_name for row in results.rows):
        for title, is_kind in ((f"{name} map", False), (f"{name} map, by kind of defect", True)):
            rows = [row for row in results.rows if row.map_name == name and (row.kind != ALL_KINDS) == is_kind]
            if rows:
                yield title, rows


def to_cells(title: str, rows: Sequence[ResultRow], figures: Sequence[Figure], *, digits: int) -> list[list[str]]:
    """Return the texts of a table, its heading first."""
    cells = [[title, "images", "abnormal", *(figure.heading for figure in figures)]]
    for row in rows:
        name = row.category if row.kind == ALL_KINDS else f"{row.category} / {row.kind}"
        counts = [str(row.counts.get(count, "-")) for count in ("images", "abnormal_images")]
        cells.append([name, *counts, *(_format(row, figure, digits) for figure in figures)])
    return cells


def _format(row: ResultRow, figure: Figure, digits: int) -> str:
    """Return a figure in percent, with its interval if there is one; a threshold as it is."""
    value = row.figures.get(figure.name, math.nan)
    if math.isnan(value):
        return "-"
    if not figure.is_percentage:
        return f"{value:.4f}"
    low, high = row.intervals.get(figure.name, (math.nan, math.nan))
    interval = "" if math.isnan(low) else f" [{100 * low:.2f}, {100 * high:.2f}]"
    return f"{100 * value:.{digits}f}{interval}"


def remarks_on(figures: Sequence[Figure]) -> list[str]:
    """Return what a reader of these figures must know."""
    return [_EXPLANATION, _LEGACY_NOTE] if any(figure.group == "legacy" for figure in figures) else [_EXPLANATION]


def flatten(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Yield the settings of a nested dictionary under dotted names."""
    for name, value in settings.items():
        if isinstance(value, Mapping):
            yield from flatten(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value if isinstance(value, str) else json.dumps(value)
