# SPDX-FileCopyrightText: 2026 The clipsam_hf authors
# SPDX-License-Identifier: Apache-2.0
"""What must hold of a data set before a photograph is decoded: options, files and published counts."""

import difflib
from collections import Counter
from collections.abc import Collection, Sequence
from typing import Any

from .layouts import ALL_CATEGORIES, Counts, Entry, name_some
from .samples import AnomalySample


def check_choice(name: str, value: Any, allowed: Collection[str]) -> None:
    """Stop if an option has none of its values, and name the nearest.

    Raises:
        ValueError: with the value and the allowed ones.

    Example:
        >>> check_choice("layout", "mvtech", ["mvtec", "visa"])
        Traceback (most recent call last):
        ...
        ValueError: `layout` must be one of ['mvtec', 'visa'], got 'mvtech'. Did you mean 'mvtec'?
    """
    if value not in allowed:
        near = difflib.get_close_matches(str(value), allowed, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"`{name}` must be one of {list(allowed)}, got {value!r}.{hint}")


def check_files(entries: Sequence[Entry]) -> None:
    """Stop if a file that a table names is not there, or an image is named twice.

    Raises:
        ValueError: with the paths.
    """
    paths = [path for entry in entries for path in (entry.image_path, entry.mask_path) if path is not None]
    if missing := [path for path in paths if not path.is_file()]:
        raise ValueError(f"{len(missing)} files of the data set are missing:\n  {name_some(missing)}")
    if twice := [path for path, count in Counter(entry.image_path for entry in entries).items() if count > 1]:
        raise ValueError(f"{len(twice)} images are listed twice:\n  {name_some(twice)}")


def find_count_differences(
    samples: Sequence[AnomalySample], expected: Counts, *, split: str | None, complete: bool
) -> list[str]:
    """Compare a published data set with the counts that its authors give.

    Args:
        samples (sequence of [`AnomalySample`]): what was found.
        expected (`Counts`): the published counts.
        split (`str` or `None`): the split that was read; all if `None`.
        complete (`bool`): whether all categories should be there; if not, those that are there are compared.

    Returns:
        `list[str]`: one line per category and split that differs.
    """
    found = Counter(
        (name, sample.split, sample.label) for sample in samples for name in (sample.category, ALL_CATEGORIES)
    )
    categories = expected if complete else sorted({sample.category for sample in samples})
    differences = []
    for category in categories:
        for name, counts in expected.get(category, {}).items():
            good, anomalous = found[category, name, 0], found[category, name, 1]
            if split in (None, name) and (good, anomalous) != counts:
                differences.append(
                    f"{category}, {name}: {good} good and {anomalous} anomalous images, "
                    f"expected are {counts[0]} and {counts[1]}"
                )
    return differences


__all__ = ["check_choice", "check_files", "find_count_differences"]
