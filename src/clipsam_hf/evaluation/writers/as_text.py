# SPDX-FileCopyrightText: 2026 The clipsam_hf authors
# SPDX-License-Identifier: Apache-2.0
"""A report for a terminal: the figures that fit, and the protocol below; and one table of several sets."""

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from ..rows import ALL_KINDS, MEAN, ResultRow
from .tables import figures_in, flatten, headline, remarks_on, tables_of, to_cells


if TYPE_CHECKING:
    from ..report import EvaluationResults


__all__ = ["to_combined_text", "to_text"]

_WIDTH = 110


def to_text(results: "EvaluationResults") -> str:
    """Lay out the main figures for a terminal, with the protocol below.

    Args:
        results (`EvaluationResults`): of one data set.

    Returns:
        `str`: its first line names the setting and the set.
    """
    figures = [figure for figure in figures_in(results.rows) if figure.in_terminal]
    blocks = [headline(results.protocol)]
    blocks += [_align(to_cells(title, rows, figures, digits=1)) for title, rows in tables_of(results)]
    blocks.append(_wrap([*remarks_on(figures), *(f"note: {note}" for note in results.notes)]))
    blocks.append("\n".join(["protocol", *(f"  {name}: {value}" for name, value in flatten(results.protocol))]))
    return "\n\n".join(blocks) + "\n"


def to_combined_text(sets: Mapping[str, "EvaluationResults"]) -> str:
    """Lay out the means of several data sets, a row each; what followed another protocol stands in another table.

    Args:
        sets (`Mapping[str, EvaluationResults]`): by the names that the rows shall have.

    Returns:
        `str`: one table per setting, way of comparing, and map.
    """
    tables: dict[str, list[ResultRow]] = {}
    for name, results in sets.items():
        protocol = results.protocol
        compared = ", ".join(f"{key} {value}" for key, value in _comparison(results).items())
        for row in results.rows:
            if (row.category, row.kind) == (MEAN, ALL_KINDS):
                title = f"{protocol['setting']}: {row.map_name} maps, {compared}"
                counts = {count: protocol["data"][count] for count in ("images", "abnormal_images")}
                tables.setdefault(title, []).append(replace(row, category=name, counts=counts))
    blocks = []
    for title, rows in tables.items():
        figures = [figure for figure in figures_in(rows) if figure.in_terminal]
        blocks.append(f"{title}\n" + _align(to_cells("mean of", rows, figures, digits=1)))
    blocks.append(_wrap(remarks_on(figures_in([row for rows in tables.values() for row in rows]))))
    return "\n\n".join(blocks) + "\n"


def _comparison(results: "EvaluationResults") -> dict[str, str]:
    """What must be equal for two sets to stand in one table: how maps and masks meet, and how AUPRO is cut."""
    comparison = results.protocol["comparison"]
    return {name: str(comparison[name]) for name in ("size", "mask_resize", "aupro", "pixel_figures")}


def _align(cells: Sequence[Sequence[str]]) -> str:
    widths = [max(len(line[column]) for line in cells) for column in range(len(cells[0]))]
    return "\n".join(
        "  ".join([line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])]).rstrip() for line in cells
    )


def _wrap(paragraphs: Sequence[str]) -> str:
    return "\n".join(textwrap.fill(paragraph, _WIDTH) for paragraph in paragraphs)
