# SPDX-FileCopyrightText: 2026 The clipsam_hf authors
# SPDX-License-Identifier: Apache-2.0
"""meta.json, the table that the CLIP repositories make of every data set."""

from pathlib import Path
from typing import Any

from ...files import read_json
from .base import DEFECT, Entry, Layout, LayoutOptions
from .matching import join_inside, name_some


_FILE = "meta.json"
_COLUMNS = {"img_path", "mask_path", "cls_name", "anomaly", "split"}


class MetaLayout(Layout):
    """`meta.json`: a list of rows, or the CLIP repositories' {split: {category: rows}}. The label is the row's."""

    name = "meta"
    paths = _FILE

    def detect(self, root: Path) -> bool:
        return (root / _FILE).is_file()

    def read(self, root: Path, options: LayoutOptions) -> list[Entry]:
        source = root / _FILE
        if not source.is_file():
            return []
        entries = [_to_entry(root, source, number, row) for number, row in enumerate(_read_rows(source))]
        bare = [entry.image_path for entry in entries if entry.label == 1 and entry.mask_path is None]
        # Sets without any mask, of medical images say, have truth for whole images only.
        if bare and any(entry.mask_path for entry in entries):
            raise ValueError(f"'{source}' names no mask for {len(bare)} anomalous images:\n  {name_some(bare)}")
        return entries


def _to_entry(root: Path, source: Path, number: int, row: dict[str, Any]) -> Entry:
    if lacking := sorted(_COLUMNS - row.keys()):
        raise ValueError(f"Row {number} of '{source}' lacks {lacking}.")
    if row["anomaly"] not in (0, 1):
        raise ValueError(f"Row {number} of '{source}' has anomaly {row['anomaly']!r}, accepted are 0 and 1.")
    mask_name = row["mask_path"] or ""  # also null
    kind = row.get("specie_name") or DEFECT
    texts = {name: row[name] for name in ("img_path", "cls_name", "split")}
    for name, value in {**texts, "mask_path": mask_name, "specie_name": kind}.items():
        if not isinstance(value, str):
            raise ValueError(f"Row {number} of '{source}' has {name} {value!r}, accepted is text.")
    image_path = join_inside(root, row["img_path"], source)
    mask_path = join_inside(root, mask_name, source) if mask_name else None
    return Entry(image_path, mask_path, int(row["anomaly"]), row["cls_name"], kind, row["split"])


def _read_rows(source: Path) -> list[dict[str, Any]]:
    content = read_json(source)
    try:
        if isinstance(content, dict):
            return [
                {"split": split, "cls_name": category, **row}
                for split, categories in content.items()
                for category, rows in categories.items()
                for row in rows
            ]
        return [{"split": "test", **row} for row in content]
    except (AttributeError, TypeError) as error:
        raise ValueError(f"'{source}' is neither a list of rows nor {{split: {{category: rows}}}}.") from error


__all__ = ["MetaLayout"]
