# SPDX-FileCopyrightText: 2026 The clipsam_hf authors
# SPDX-License-Identifier: Apache-2.0
"""The figures of an evaluation as text, CSV, JSON and Markdown, always with the protocol that they depend on."""

import csv
import io
import json
import math
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ..files import open_atomically


__all__ = ["ALL_KINDS", "FILE_NAMES", "MEAN", "EvaluationResults", "ImageRow", "ResultRow"]

ALL_KINDS = "all"
"""Kind of the row of a whole category."""

MEAN = "mean"
"""Category of the row that holds the mean over the categories."""

FILE_NAMES = {
    "text": "results.txt",
    "csv": "results.csv",
    "json": "results.json",
    "markdown": "results.md",
    "image_csv": "images.csv",
}
"""The files that `EvaluationResults.write` makes."""

# Headings of the figures; the text table shows those that fit into a terminal.
_HEADINGS = {
    "pixel_auroc": "px AUROC",
    "pixel_ap": "px AP",
    "pixel_f1_max": "px F1-max",
    "pixel_f1_threshold": "at threshold",
    "pixel_iou": "px IoU",
    "pixel_aupro": "px AUPRO",
    "legacy_aupro_linear200": "LEGACY AUPRO-linear200",
    "region_recall": "found",
    "region_recall_small": "found, small",
    "region_recall_medium": "found, medium",
    "region_recall_large": "found, large",
    "image_auroc": "im AUROC",
    "image_ap": "im AP",
    "image_f1_max": "im F1-max",
}
_NOT_IN_TEXT = {"pixel_f1_threshold", "region_recall_small", "region_recall_medium", "region_recall_large"}

_TEXT_WIDTH = 110
_EXPLANATION = (
    "Figures in percent, of all images of a row, good ones included; `found` is the share of the defect regions of"
    " which enough pixels reach the F1-max threshold. A row of one defect kind holds the good images and those of that"
    " kind, and has its own threshold. A dash: not defined, for want of good or of abnormal images."
)
_LEGACY_NOTE = (
    "LEGACY AUPRO-linear200 depends on the scale of the scores, not on their order alone: for comparison with papers"
    " only."
)


@dataclass(frozen=True)
class ResultRow:
    """The figures of one map over one set of images.

    Args:
        anomaly_map (`str`): `"rough"`, CLIP's map, or `"refined"`, SAM's.
        category (`str`): the category, or `MEAN` for the mean over the categories.
        kind (`str`): a kind of defect, with which the good images of the category were compared, or `ALL_KINDS`.
        figures (`Mapping[str, float]`): those of `AnomalyMetrics`, in [0, 1], NaN where undefined.
        counts (`Mapping[str, int]`): images, pixels and regions behind them; empty for the mean.
        intervals (`Mapping[str, tuple[float, float]]`): bounds of the exact figures; empty unless streaming.
    """

    anomaly_map: str
    category: str
    kind: str
    figures: Mapping[str, float]
    counts: Mapping[str, int] = field(default_factory=dict)
    intervals: Mapping[str, tuple[float, float]] = field(default_factory=dict)


@dataclass(frozen=True)
class ImageRow:
    """The scores of one image.

    Args:
        path (`str`): the image, below the root of its data set.
        category (`str`): its category.
        kind (`str`): its kind of defect, or "good".
        scores (`Mapping[str, float]`): the image's score by the name of the map, in [0, 1].
    """

    path: str
    category: str
    kind: str
    scores: Mapping[str, float]


@dataclass(frozen=True)
class EvaluationResults:
    """What `evaluate` found.

    Args:
        rows (`Sequence[ResultRow]`): per map first the categories, then their mean, then the kinds of defects.
        protocol (`Mapping[str, Any]`): everything that the figures depend on.
        notes (`Sequence[str]`): warnings: undefined figures, wide intervals, too many regions.
        images (`Sequence[ImageRow]`): every image by itself, by category and kind.

    Example:
        >>> row = ResultRow("rough", "candle", ALL_KINDS, {"pixel_auroc": 0.875})
        >>> print(EvaluationResults([row], {"size": 518}).to_text())  # doctest: +ELLIPSIS
        rough map  images  abnormal  px AUROC
        candle          -         -      87.5
        ...
    """

    rows: Sequence[ResultRow]
    protocol: Mapping[str, Any]
    notes: Sequence[str] = ()
    images: Sequence[ImageRow] = ()

    def find(self, anomaly_map: str, category: str = MEAN, kind: str = ALL_KINDS) -> ResultRow:
        """Return one row.

        Args:
            anomaly_map (`str`): `"rough"` or `"refined"`.
            category (`str`): the category, or `MEAN`.
            kind (`str`): a kind of defect, or `ALL_KINDS`.

        Returns:
            `ResultRow`: the row.

        Raises:
            KeyError: if there is none.
        """
        for row in self.rows:
            if (row.anomaly_map, row.category, row.kind) == (anomaly_map, category, kind):
                return row
        raise KeyError(f"no row for {(anomaly_map, category, kind)}")

    def to_text(self) -> str:
        """Lay out the main figures for a terminal, with the protocol below."""
        blocks = []
        for title, rows in self._tables():
            cells = _cells(title, rows, [name for name in self._figures() if name not in _NOT_IN_TEXT], digits=1)
            widths = [max(len(line[column]) for line in cells) for column in range(len(cells[0]))]
            blocks.append(
                "\n".join(
                    "  ".join([line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])]).rstrip()
                    for line in cells
                )
            )
        remarks = [*self._remarks(), *(f"note: {note}" for note in self.notes)]
        blocks.append("\n".join(textwrap.fill(remark, _TEXT_WIDTH) for remark in remarks))
        blocks.append("\n".join(["protocol", *(f"  {name}: {value}" for name, value in _flatten(self.protocol))]))
        return "\n\n".join(blocks) + "\n"

    def to_markdown(self) -> str:
        """Lay out all figures as Markdown tables, with the protocol below."""
        blocks = ["# Results"]
        for title, rows in self._tables():
            blocks.append(_markdown_table(_cells(title, rows, self._figures(), digits=2)))
        blocks += [*self._remarks(), *(f"Note: {_escape_markdown(note)}" for note in self.notes), "## Protocol"]
        protocol = [(f"`{name}`", value) for name, value in _flatten(self.protocol)]
        blocks.append(_markdown_table([("setting", "value"), *protocol], align_right=False))
        return "\n\n".join(blocks) + "\n"

    def to_csv(self) -> str:
        """List one line per row, figures in [0, 1]; what is undefined stays empty."""
        counts = list(dict.fromkeys(name for row in self.rows for name in row.counts))
        bounded = list(dict.fromkeys(name for row in self.rows for name in row.intervals))
        bounds = [f"{name}_{end}" for name in bounded for end in ("low", "high")]
        target = io.StringIO()
        writer = csv.writer(target, lineterminator="\n")
        writer.writerow(["map", "category", "kind", *self._figures(), *bounds, *counts])
        for row in self.rows:
            ends = [end for name in bounded for end in row.intervals.get(name, (math.nan, math.nan))]
            numbers = [*(row.figures.get(name, math.nan) for name in self._figures()), *ends]
            writer.writerow(
                [
                    *(_escape_formula(text) for text in (row.anomaly_map, row.category, row.kind)),
                    *("" if math.isnan(number) else repr(number) for number in numbers),
                    *(row.counts.get(name, "") for name in counts),
                ]
            )
        return target.getvalue()

    def to_image_csv(self) -> str:
        """List one line per image: path, category, kind of defect, and the score of each map."""
        maps = list(dict.fromkeys(name for image in self.images for name in image.scores))
        target = io.StringIO()
        writer = csv.writer(target, lineterminator="\n")
        writer.writerow(["path", "category", "kind", *(f"{name}_score" for name in maps)])
        for image in self.images:
            texts = (_escape_formula(text) for text in (image.path, image.category, image.kind))
            writer.writerow([*texts, *(repr(image.scores[name]) for name in maps)])
        return target.getvalue()

    def to_json(self) -> str:
        """Return everything but the single images as JSON; what is undefined is null."""
        content = {"rows": [asdict(row) for row in self.rows], "protocol": self.protocol, "notes": self.notes}
        return json.dumps(_without_nan(content), indent=2, allow_nan=False) + "\n"

    def write(self, folder: Path) -> None:
        """Write the files, each in one step.

        Args:
            folder (`Path`): where to; it is made if there is none.

        Raises:
            OSError: if it cannot be written.
        """
        folder.mkdir(parents=True, exist_ok=True)
        for form, name in FILE_NAMES.items():
            with open_atomically(folder / name) as file:
                file.write(getattr(self, f"to_{form}")().encode("utf-8"))

    def _figures(self) -> list[str]:
        """The figures that any row has, in the order of `_HEADINGS`."""
        return [name for name in _HEADINGS if any(name in row.figures for row in self.rows)]

    def _tables(self) -> Iterator[tuple[str, list[ResultRow]]]:
        """Group the rows into one table per map, and one more for its kinds of defects."""
        for name in dict.fromkeys(row.anomaly_map for row in self.rows):
            for title, is_kind in ((f"{name} map", False), (f"{name} map, by kind of defect", True)):
                rows = [row for row in self.rows if row.anomaly_map == name and (row.kind != ALL_KINDS) == is_kind]
                if rows:
                    yield title, rows

    def _remarks(self) -> list[str]:
        has_legacy = "legacy_aupro_linear200" in self._figures()
        return [_EXPLANATION, _LEGACY_NOTE] if has_legacy else [_EXPLANATION]


def _cells(title: str, rows: Sequence[ResultRow], figures: Sequence[str], *, digits: int) -> list[list[str]]:
    """Return the texts of a table, its heading first."""
    cells = [[title, "images", "abnormal", *(_HEADINGS[name] for name in figures)]]
    for row in rows:
        name = row.category if row.kind == ALL_KINDS else f"{row.category} / {row.kind}"
        counts = [str(row.counts.get(count, "-")) for count in ("images", "abnormal_images")]
        cells.append([name, *counts, *(_format(row, figure, digits) for figure in figures)])
    return cells


def _format(row: ResultRow, figure: str, digits: int) -> str:
    """Return a figure in percent, with its interval if there is one; a threshold as it is."""
    value = row.figures.get(figure, math.nan)
    if math.isnan(value):
        return "-"
    if figure == "pixel_f1_threshold":
        return f"{value:.4f}"
    low, high = row.intervals.get(figure, (math.nan, math.nan))
    interval = "" if math.isnan(low) else f" [{100 * low:.2f}, {100 * high:.2f}]"
    return f"{100 * value:.{digits}f}{interval}"


def _flatten(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Yield the settings of a nested dictionary under dotted names."""
    for name, value in settings.items():
        if isinstance(value, Mapping):
            yield from _flatten(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value if isinstance(value, str) else json.dumps(value)


def _markdown_table(cells: Sequence[Sequence[str]], *, align_right: bool = True) -> str:
    lines = ["| " + " | ".join(_escape_markdown(cell) for cell in line) + " |" for line in cells]
    rule = ["---", *(["---:" if align_right else "---"] * (len(cells[0]) - 1))]
    return "\n".join([lines[0], "|" + "|".join(rule) + "|", *lines[1:]])


def _escape_markdown(text: str) -> str:
    """Keep a text inside its cell: names of folders may hold anything."""
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")


def _escape_formula(text: str) -> str:
    """Keep a spreadsheet from running the name of a folder as a formula."""
    return f"'{text}" if text.startswith(("=", "+", "-", "@", "\t", "\r")) else text


def _without_nan(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _without_nan(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_without_nan(item) for item in value]
    return None if isinstance(value, float) and math.isnan(value) else value
