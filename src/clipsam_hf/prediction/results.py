# SPDX-FileCopyrightText: 2026 The clipsam_hf authors
# SPDX-License-Identifier: Apache-2.0
"""What is kept of a photograph: its row, as JSON lines, CSV and Parquet."""

import csv
import io
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ..answers_clipsam import Answer
from ..files import open_atomically
from .names import picture_name
from .parquet import row_schema, write_parquet


__all__ = [
    "COLUMNS",
    "FILE_NAMES",
    "FORMATS",
    "FolderPredictions",
    "check_formats",
    "make_error_row",
    "make_row",
    "parse_row",
    "read_rows",
    "write_formats",
]

FILE_NAMES = {"csv": "predictions.csv", "jsonl": "predictions.jsonl", "parquet": "predictions.parquet"}
"""Files of the rows, by format."""

FORMATS = tuple(FILE_NAMES)
"""What `formats` takes."""

COLUMNS = ("path", "width", "height", "score", "label", "threshold", "decision_threshold", "regions", "error")
"""Of a row."""

_NUMBERS = ("width", "height", "score", "threshold", "decision_threshold")

# With these a spreadsheet takes a text for a formula
_FORMULA_SIGNS = ("=", "+", "-", "@", "\t", "\r", "\n")


class FolderPredictions(NamedTuple):
    """What came of a folder.

    Args:
        output_dir (`Path`): where the results are.
        total (`int`): number of photographs.
        anomalous (`int`): of those that are called so.
        normal (`int`): likewise; the others have no verdict.
        failed (`int`): of those that could not be read; their rows say why.
        files (`Sequence[str]`): names of the files of rows, and of annotations.
    """

    output_dir: Path
    total: int
    anomalous: int
    normal: int
    failed: int
    files: Sequence[str]

    def rows(self) -> Iterator[dict[str, Any]]:
        """Read the rows one by one, in the order of the photographs' paths."""
        return read_rows(self.output_dir / FILE_NAMES["jsonl"])

    def to_text(self) -> str:
        """Say it in one sentence.

        Example:
            >>> FolderPredictions(Path("out"), 4, 1, 2, 1, ["predictions.csv"]).to_text()
            '4 photographs: 1 anomalous, 2 normal, 1 unreadable'
        """
        unjudged = self.total - self.anomalous - self.normal - self.failed
        parts = [f"{self.anomalous} anomalous, {self.normal} normal"] if self.anomalous + self.normal else []
        parts += [f"{unjudged} scored without a verdict, since there is no decision threshold"] if unjudged else []
        parts += [f"{self.failed} unreadable"] if self.failed else []
        return f"{self.total} photograph{'s' if self.total != 1 else ''}: {', '.join(parts)}"


def make_row(name: str, size: tuple[int, int], answer: Answer) -> dict[str, Any]:
    """Make the row of a photograph.

    Args:
        name (`str`): its path below the source.
        size (`tuple[int, int]`): (height, width).
        answer (`Answer`): with outlines.

    Returns:
        `dict[str, Any]`: JSON values, by the names of `COLUMNS`.
    """
    height, width = size
    values = (answer.score, answer.label, answer.threshold, answer.decision_threshold, answer.regions)
    return dict(zip(COLUMNS, (name, width, height, *values, None), strict=True))


def make_error_row(name: str, error: str) -> dict[str, Any]:
    """Make the row of a photograph that could not be read, with the reason."""
    return {**dict.fromkeys(COLUMNS), "path": name, "regions": [], "error": error}


def check_formats(formats: Iterable[str]) -> None:
    """Raise if a format is unknown, or the library that writes it is missing.

    Args:
        formats (`Iterable[str]`): of `FORMATS`.

    Raises:
        ValueError: if one is unknown.
        ImportError: if Parquet is wanted and there is no pyarrow.
    """
    for name in formats:
        if name not in FORMATS:
            raise ValueError(f"`formats` takes {', '.join(FORMATS)}, got {name!r}")
        if name == "parquet":
            row_schema()


def read_rows(path: Path) -> Iterator[dict[str, Any]]:
    """Read rows from JSON lines.

    Args:
        path (`Path`): of the JSON lines.

    Returns:
        `Iterator[dict[str, Any]]`: the rows, as `make_row` makes them.

    Raises:
        OSError: if the file cannot be read.
        ValueError: if a line of it is no row.
    """
    with open(path, "rb") as file:
        for number, line in enumerate(file, start=1):
            row = parse_row(line)
            if row is None:
                raise ValueError(f"line {number} of {str(path)!r} is no row of a prediction")
            yield row


def parse_row(line: bytes) -> dict[str, Any] | None:
    """Read one row, which may come from a damaged file, or from a stranger's.

    Args:
        line (`bytes`): of JSON lines.

    Returns:
        `dict[str, Any]`, *optional*: the row; `None` if this is none.
    """
    try:
        row = json.loads(line)
        usable = (
            row.keys() >= set(COLUMNS)
            and b"\0" not in os.fsencode(picture_name(row["path"]))
            and (row["error"] is None or isinstance(row["error"], str))
            and row["label"] in (None, "anomalous", "normal")
            and all(isinstance(row[name], (int, float, type(None))) for name in _NUMBERS)
            and all(region.keys() >= {"box", "score", "area"} for region in row["regions"])
            and all(isinstance(region.get("defect_name"), (str, type(None))) for region in row["regions"])
        )
    except (AttributeError, RecursionError, TypeError, ValueError):
        return None
    return row if usable else None


def write_formats(folder: Path, formats: Iterable[str]) -> list[str]:
    """Make the other formats of the JSON lines.

    Args:
        folder (`Path`): where they are.
        formats (`Iterable[str]`): of `FORMATS`.

    Returns:
        `list[str]`: names of all files of rows that are there now, the JSON lines too.

    Raises:
        OSError: if one cannot be written.
    """
    source = folder / FILE_NAMES["jsonl"]
    if "csv" in formats:
        _write_csv(folder / FILE_NAMES["csv"], read_rows(source))
    if "parquet" in formats:
        named = any("defect_name" in region for row in read_rows(source) for region in row["regions"])
        write_parquet(folder / FILE_NAMES["parquet"], read_rows(source), named=named)
    return [name for key, name in FILE_NAMES.items() if key == "jsonl" or key in formats]


def _write_csv(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    with open_atomically(path) as file:
        # A file name may hold bytes that are no text
        text = io.TextIOWrapper(file, encoding="utf-8", errors="backslashreplace", newline="")
        writer = csv.writer(text)
        writer.writerow(COLUMNS)
        for row in rows:
            # Outlines are left out: a cell of a spreadsheet takes 32,767 characters
            regions = [{key: value for key, value in each.items() if key != "outline"} for each in row["regions"]]
            values = {**row, "regions": json.dumps(regions, separators=(",", ":"))}
            writer.writerow([_make_harmless(values[name]) for name in COLUMNS])
        text.flush()
        text.detach()


def _make_harmless(value: Any) -> Any:
    """Put a quote before a text that a spreadsheet would calculate."""
    return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULA_SIGNS) else value
