# SPDX-FileCopyrightText: 2026 The clipsam_hf authors
# SPDX-License-Identifier: Apache-2.0
"""What is to be done: which images are scored, and in which pieces."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from ..data import AnomalyDataset, AnomalyFolder
from ..data.layouts import DEFECT, GOOD
from .options import EvaluationOptions


__all__ = ["Chunk", "Example", "cut_into_chunks", "plan_examples"]

# A chunk is what an interruption can cost at most, and what processes take in turn.
_CHUNK_SIZE = 16


class Example(NamedTuple):
    """One image of the data, by its place in the list."""

    place: int
    category: str
    kind: str
    class_name: str
    path: str
    has_mask: bool


class Chunk(NamedTuple):
    """Images of one category and kind: what is scored, kept and merged together."""

    number: int
    category: str
    kind: str
    places: list[int]


def plan_examples(data: AnomalyFolder | AnomalyDataset, options: EvaluationOptions) -> list[Example]:
    """List the images to evaluate: by category, then by kind, then in the order of the data.

    Args:
        data (`AnomalyFolder` or `AnomalyDataset`): photographs, masks and labels.
        options (`EvaluationOptions`): `limit` and `class_name` count.

    Returns:
        `list[Example]`: at least one.

    Raises:
        ValueError: if there is no image, or one has neither a mask nor a label.
    """
    categories: dict[str, list[Example]] = {}
    for place, sample in enumerate(data):
        if sample.label is None:
            raise ValueError(
                f"'{sample.image_path}' has neither a mask nor a label: there is nothing to compare with."
            )
        kind = (sample.defect_type or DEFECT) if sample.label else GOOD
        class_name = options.class_name or sample.class_name
        path = _inner_path(data, sample.image_path, place)
        example = Example(place, str(sample.category), kind, class_name, path, sample.has_mask)
        categories.setdefault(example.category, []).append(example)
    if not categories:
        raise ValueError("There are no images to evaluate.")
    chosen = [example for name in sorted(categories) for example in _limit(categories[name], options.limit)]
    return sorted(chosen, key=lambda example: (example.category, example.kind != GOOD, example.kind, example.place))


def cut_into_chunks(examples: Sequence[Example]) -> list[Chunk]:
    """Cut the sorted list wherever the category or the kind changes or a chunk is full."""
    groups: dict[tuple[str, str], list[int]] = {}
    for example in examples:
        groups.setdefault((example.category, example.kind), []).append(example.place)
    parts = [
        (category, kind, places[start : start + _CHUNK_SIZE])
        for (category, kind), places in groups.items()
        for start in range(0, len(places), _CHUNK_SIZE)
    ]
    return [Chunk(number, *part) for number, part in enumerate(parts)]


def _inner_path(data: AnomalyFolder | AnomalyDataset, path: Path, place: int) -> str:
    """Where an image stands in its data set: no two have the same, and none leads out of it."""
    if isinstance(data, AnomalyFolder):
        inner, root = Path(os.path.abspath(path)), Path(os.path.abspath(data.root))
        if inner.is_relative_to(root):
            return inner.relative_to(root).as_posix()
    return f"{place:06d}-{path.name}"


def _limit(examples: list[Example], limit: int | None) -> list[Example]:
    """Choose good and abnormal images in proportion, at least one of each, spread evenly over the list."""
    if limit is None or limit >= len(examples):
        return examples
    good = [example for example in examples if example.kind == GOOD]
    abnormal = [example for example in examples if example.kind != GOOD]
    num_abnormal = round(limit * len(abnormal) / len(examples))
    if good and abnormal and limit > 1:
        num_abnormal = min(max(num_abnormal, 1), limit - 1)
    return _spread(good, limit - num_abnormal) + _spread(abnormal, num_abnormal)


def _spread(examples: list[Example], count: int) -> list[Example]:
    return [examples[step * len(examples) // count] for step in range(count)]
