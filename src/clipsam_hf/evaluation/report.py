# SPDX-FileCopyrightText: 2026 The clipsam_hf authors
# SPDX-License-Identifier: Apache-2.0
"""What an evaluation found, always with the protocol that its figures depend on."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..files import open_atomically
from .rows import ALL_KINDS, MEAN, ImageRow, ResultRow
from .writers import FILE_NAMES, FORMATS


__all__ = ["ALL_KINDS", "FILE_NAMES", "MEAN", "EvaluationResults", "ImageRow", "ResultRow"]


@dataclass(frozen=True)
class EvaluationResults:
    """What `evaluate` found.

    Args:
        rows (`Sequence[ResultRow]`): per map first the categories, then their mean, then the kinds of defects.
        protocol (`Mapping[str, Any]`): everything that the figures depend on.
        notes (`Sequence[str]`): warnings: undefined figures, wide intervals, a set that was trained on.
        images (`Sequence[ImageRow]`): every image by itself, by category and kind.

    Example:
        >>> row = ResultRow("rough", "candle", ALL_KINDS, {"pixel_auroc": 0.875})
        >>> print(EvaluationResults([row], {"setting": "zero-shot", "data": {"name": "visa"}}).to_text())
        ... # doctest: +ELLIPSIS
        zero-shot: visa
        <BLANKLINE>
        rough map  images  abnormal  px AUROC
        candle          -         -      87.5
        ...
    """

    rows: Sequence[ResultRow]
    protocol: Mapping[str, Any]
    notes: Sequence[str] = ()
    images: Sequence[ImageRow] = ()

    def find(self, map_name: str, category: str = MEAN, kind: str = ALL_KINDS) -> ResultRow:
        """Return one row.

        Args:
            map_name (`str`): `"rough"` or `"refined"`.
            category (`str`): the category, or `MEAN`.
            kind (`str`): a kind of defect, or `ALL_KINDS`.

        Returns:
            `ResultRow`: the row.

        Raises:
            KeyError: if there is none.
        """
        for row in self.rows:
            if (row.map_name, row.category, row.kind) == (map_name, category, kind):
                return row
        raise KeyError(f"no row for {(map_name, category, kind)}")

    def to(self, form: str) -> str:
        """Return the report in one of the formats.

        Args:
            form (`str`): a name in `writers.FORMATS`, such as `"csv"` or `"markdown"`.

        Returns:
            `str`: the content of the file.

        Raises:
            ValueError: if there is no such format.
        """
        if form not in FORMATS:
            raise ValueError(f"`form` must be one of {list(FORMATS)}, got {form!r}")
        return FORMATS[form].write(self)

    def to_text(self) -> str:
        """Lay out the main figures for a terminal, with the protocol below."""
        return self.to("text")

    def write(self, folder: Path) -> None:
        """Write one file of each format, each in one step.

        Args:
            folder (`Path`): where to; it is made if there is none.

        Raises:
            OSError: if it cannot be written.
        """
        folder.mkdir(parents=True, exist_ok=True)
        for form in FORMATS.values():
            with open_atomically(folder / form.file_name) as file:
                file.write(form.write(self).encode("utf-8"))
