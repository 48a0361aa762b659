# SPDX-FileCopyrightText: 2026 The clipsam_hf authors
# SPDX-License-Identifier: Apache-2.0
"""VisA as it is downloaded, with its tables, and as its authors' script prepares it."""

from collections.abc import Iterable, Iterator
from pathlib import Path

from .base import ALL_CATEGORIES, GOOD, Counts, Entry, Layout, LayoutOptions, one_class_counts
from .categories import detect_categories, list_categories, read_categories
from .matching import join_inside, name_of, read_table


VISA_SPLITS = ("1cls", "2cls_highshot", "2cls_fewshot")
VISA_TOTALS = {
    "2cls_highshot": {"train": (5773, 720), "test": (3848, 480)},
    "2cls_fewshot": {"train": (1924, 240), "test": (7697, 960)},
}
"""(good, anomalous) images over all categories of VisA's other splits."""


class VisaLayout(Layout):
    """VisA with its split files, or prepared as `1cls/<category>/...`; the root may also be `1cls` itself.

    The label is from the split file, or from the folder.
    """

    name = "visa"
    paths = "split_csv/<visa_split>.csv beside <category>/Data/Images/, or the prepared <visa_split>/<category>/test/"
    # Those of the split 1cls
    known_counts = one_class_counts(
        {
            "candle": (900, 100, 100), "capsules": (542, 60, 100), "cashew": (450, 50, 100),
            "chewinggum": (453, 50, 100), "fryum": (450, 50, 100), "macaroni1": (900, 100, 100),
            "macaroni2": (900, 100, 100), "pcb1": (904, 100, 100), "pcb2": (901, 100, 100), "pcb3": (905, 101, 100),
            "pcb4": (904, 101, 100), "pipe_fryum": (450, 50, 100),
        }
    )  # fmt: skip
    class_names = {
        "chewinggum": "chewing gum",
        "macaroni1": "macaroni",
        "macaroni2": "macaroni",
        **{f"pcb{number}": "printed circuit board" for number in range(1, 5)},
    }

    def detect(self, root: Path) -> bool:
        if (root / "split_csv").is_dir() or any(root.glob("*/Data/Images")):
            return True
        if any((root / split).is_dir() and list_categories(root / split) for split in VISA_SPLITS):
            return True
        categories = {name_of(folder) for folder in detect_categories(root)}
        return bool(categories) and categories <= self.known_counts.keys()

    def read(self, root: Path, options: LayoutOptions) -> Iterable[Entry]:
        if list_categories(root / options.visa_split):
            return read_categories(root / options.visa_split, options)
        table = root / "split_csv" / f"{options.visa_split}.csv"
        return _read_rows(root, table) if table.is_file() else read_categories(root, options)

    def expected_counts(self, root: Path, options: LayoutOptions) -> Counts:
        # The root may be one split as it was prepared
        split = name if (name := root.resolve().name) in VISA_SPLITS else options.visa_split
        return {ALL_CATEGORIES: VISA_TOTALS[split]} if split in VISA_TOTALS else self.known_counts


def _read_rows(root: Path, table: Path) -> Iterator[Entry]:
    kinds: dict[str, dict[str, str]] = {}
    for number, row in enumerate(read_table(table, ("object", "split", "label", "image", "mask")), start=2):
        category, label = row["object"], row["label"]
        if label not in ("normal", "anomaly"):
            raise ValueError(f"Line {number} of '{table}' has label {label!r}, accepted are 'normal' and 'anomaly'.")
        if (label == "anomaly") != bool(row["mask"]):
            raise ValueError(f"Line {number} of '{table}': anomalies have a mask and normal images none.")
        folder = join_inside(root, category, table)
        if not folder.is_dir():  # a category that was not unpacked
            continue
        if category not in kinds:
            kinds[category] = _read_kinds(folder / "image_anno.csv")
        image_path = join_inside(root, row["image"], table)
        mask_path = join_inside(root, row["mask"], table) if row["mask"] else None
        kind = GOOD if mask_path is None else kinds[category].get(row["image"], "anomaly")
        yield Entry(image_path, mask_path, int(mask_path is not None), category, kind, row["split"])


def _read_kinds(table: Path) -> dict[str, str]:
    """Read the kinds of defect of a category, which are no part of the split files: image to kinds."""
    return {row["image"]: row["label"] for row in read_table(table, ("image", "label"))} if table.is_file() else {}


__all__ = ["VISA_SPLITS", "VISA_TOTALS", "VisaLayout"]
