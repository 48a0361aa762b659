# SPDX-FileCopyrightText: 2026 The clipsam_hf authors
# SPDX-License-Identifier: Apache-2.0
"""From finished chunks to rows of figures: groups of chunks are merged, by all processes, and put into one report."""

import warnings
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from ..data.layouts import GOOD
from .options import EvaluationOptions
from .plan import Chunk, Example
from .report import EvaluationResults
from .rows import ALL_KINDS, MEAN, ImageRow, ResultRow
from .state import StateFolder


__all__ = ["Group", "collect_results", "merge_groups", "plan_groups"]


class Group(NamedTuple):
    """The chunks whose figures are one row of the report."""

    number: int
    map_name: str
    category: str
    kind: str
    chunks: list[Chunk]


def plan_groups(chunks: Sequence[Chunk], options: EvaluationOptions) -> list[Group]:
    """List the rows of a report: each category as a whole, and if it has several kinds of defects, each kind of it.

    Args:
        chunks (`Sequence[Chunk]`): all of the evaluation.
        options (`EvaluationOptions`): which maps there are.

    Returns:
        `list[Group]`: per map first the categories, then the kinds; one of a kind holds the good images too.
    """
    categories: dict[str, list[Chunk]] = {}
    for chunk in chunks:
        categories.setdefault(chunk.category, []).append(chunk)
    parts: list[tuple[str, str, str, list[Chunk]]] = []
    for map_name in options.map_names:
        parts += [(map_name, category, ALL_KINDS, own) for category, own in categories.items()]
        for category, own in categories.items():
            kinds = dict.fromkeys(chunk.kind for chunk in own if chunk.kind != GOOD)
            for kind in kinds if len(kinds) > 1 else ():
                parts.append((map_name, category, kind, [chunk for chunk in own if chunk.kind in (GOOD, kind)]))
    return [Group(number, *part) for number, part in enumerate(parts)]


def merge_groups(state: StateFolder, groups: Sequence[Group], options: EvaluationOptions) -> None:
    """Compute the figures of some groups, one at a time, and keep them in the folder of the run.

    Args:
        state (`StateFolder`): with all chunks of these groups.
        groups (`Sequence[Group]`): the share of this process.
        options (`EvaluationOptions`): those of the run.

    Raises:
        OSError: if a chunk is missing, or the folder cannot be written.
    """
    for group in groups:
        missing = [chunk.number for chunk in group.chunks if not state.has(chunk.number)]
        if missing:
            raise OSError(
                f"{str(state.folder)!r} lacks the chunks {missing[:5]}: do all processes see the same folder?"
            )
        metrics, image_scores = options.new_metrics(), list[float]()
        for chunk in group.chunks:
            finished = state.load(chunk.number, group.map_name)
            image_scores += finished.image_scores(group.category)
            metrics.merge(finished)
        metrics.finish(group.category)
        state.save_figures(group.number, metrics, image_scores)


def collect_results(
    state: StateFolder,
    groups: Sequence[Group],
    options: EvaluationOptions,
    protocol: Mapping[str, Any],
    examples: Mapping[int, Example],
    notes: Sequence[str] = (),
) -> EvaluationResults:
    """Put the figures of all groups into one report.

    Args:
        state (`StateFolder`): with the figures of all groups.
        groups (`Sequence[Group]`): all of the run.
        options (`EvaluationOptions`): those of the run.
        protocol (`Mapping[str, Any]`): for the report.
        examples (`Mapping[int, Example]`): the images, by their places in the data.
        notes (`Sequence[str]`): of the run; those on the figures are added.

    Returns:
        `EvaluationResults`: the report.
    """
    rows: list[ResultRow] = []
    scores: dict[int, dict[str, float]] = {}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for map_name in options.map_names:
            whole, kinds = options.new_metrics(), list[ResultRow]()
            for group in groups:
                if group.map_name != map_name:
                    continue
                metrics, image_scores = state.load_figures(group.number)
                if group.kind != ALL_KINDS:
                    with warnings.catch_warnings():
                        warnings.simplefilter("ignore")  # the category's own row says so already
                        kinds += _to_rows(metrics.compute(), map_name, group.kind)
                    continue
                whole.merge(metrics)
                places = [place for chunk in group.chunks for place in chunk.places]
                for place, score in zip(places, image_scores, strict=True):
                    scores.setdefault(place, {})[map_name] = score
            results = whole.compute()
            rows += _to_rows(results, map_name, ALL_KINDS)
            rows.append(ResultRow(map_name, MEAN, ALL_KINDS, results["mean"], {}, results.get("mean_interval", {})))
            rows += kinds
    images = [
        ImageRow(examples[place].path, examples[place].category, examples[place].kind, found)
        for place, found in scores.items()
    ]
    notes = [*notes, *dict.fromkeys(str(warning.message) for warning in caught)]
    return EvaluationResults(rows, protocol, notes, images)


def _to_rows(results: Any, map_name: str, kind: str) -> list[ResultRow]:
    """One row per category of what `AnomalyMetrics.compute` gave."""
    intervals = results.get("intervals", {})
    return [
        ResultRow(map_name, category, kind, figures, results["counts"][category], intervals.get(category, {}))
        for category, figures in results["categories"].items()
    ]
