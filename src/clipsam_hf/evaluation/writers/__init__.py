# SPDX-FileCopyrightText: 2026 The clipsam_hf authors
# SPDX-License-Identifier: Apache-2.0
"""The formats of a report. A new one is a file here with a function from results to text, and a line in `FORMATS`."""

from collections.abc import Callable
from typing import Any, NamedTuple

from .as_csv import to_csv, to_image_csv
from .as_json import to_json
from .as_markdown import to_markdown
from .as_text import to_text


__all__ = ["FILE_NAMES", "FORMATS", "Format"]


class Format(NamedTuple):
    """One form of a report.

    Args:
        file_name (`str`): the file that `EvaluationResults.write` makes.
        write (`Callable[[EvaluationResults], str]`): makes its content.
    """

    file_name: str
    write: Callable[[Any], str]


FORMATS: dict[str, Format] = {
    "text": Format("results.txt", to_text),
    "csv": Format("results.csv", to_csv),
    "json": Format("results.json", to_json),
    "markdown": Format("results.md", to_markdown),
    "image_csv": Format("images.csv", to_image_csv),
}
"""All formats by their names."""

FILE_NAMES: dict[str, str] = {name: form.file_name for name, form in FORMATS.items()}
"""The files that `EvaluationResults.write` makes."""
