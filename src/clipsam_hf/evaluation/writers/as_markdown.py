# SPDX-FileCopyrightText: 2026 The clipsam_hf authors
# SPDX-License-Identifier: Apache-2.0
"""A report for papers and pull requests: all figures, and the protocol below."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from .tables import figures_in, flatten, headline, remarks_on, tables_of, to_cells


if TYPE_CHECKING:
    from ..report import EvaluationResults


__all__ = ["to_markdown"]


def to_markdown(results: "EvaluationResults") -> str:
    """Lay out all figures as Markdown tables, with the protocol below.

    Args:
        results (`EvaluationResults`): of one data set.

    Returns:
        `str`: its title names the setting and the set.
    """
    figures = figures_in(results.rows)
    blocks = [f"# Results, {_escape(headline(results.protocol))}"]
    blocks += [_to_table(to_cells(title, rows, figures, digits=2)) for title, rows in tables_of(results)]
    blocks += [*remarks_on(figures), *(f"Note: {_escape(note)}" for note in results.notes), "## Protocol"]
    protocol = [(f"`{name}`", value) for name, value in flatten(results.protocol)]
    blocks.append(_to_table([("setting", "value"), *protocol], align_right=False))
    return "\n\n".join(blocks) + "\n"


def _to_table(cells: Sequence[Sequence[str]], *, align_right: bool = True) -> str:
    lines = ["| " + " | ".join(_escape(cell) for cell in line) + " |" for line in cells]
    rule = ["---", *(["---:" if align_right else "---"] * (len(cells[0]) - 1))]
    return "\n".join([lines[0], "|" + "|".join(rule) + "|", *lines[1:]])


def _escape(text: str) -> str:
    """Keep a text inside its cell: names of folders may hold anything."""
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")
