# SPDX-FileCopyrightText: 2026 The clipsam_hf authors
# SPDX-License-Identifier: Apache-2.0
"""BTAD."""

from collections.abc import Iterable
from pathlib import Path

from .base import SPLITS, Entry, Layout, LayoutOptions, one_class_counts
from .categories import detect_categories, read_categories


class BtadLayout(Layout):
    """BTAD: built like MVTec-AD, but with other names of its folders. The label is the folder."""

    name = "btad"
    paths = "<category>/{train,test}/ok/, <category>/test/ko/ and <category>/ground_truth/ko/"
    known_counts = one_class_counts({"01": (400, 21, 49), "02": (399, 30, 200), "03": (1000, 400, 41)})
    class_names = {"01": "metal", "02": "wood", "03": "metal"}

    def detect(self, root: Path) -> bool:
        return any((folder / split / "ok").is_dir() for folder in detect_categories(root) for split in SPLITS)

    def read(self, root: Path, options: LayoutOptions) -> Iterable[Entry]:
        return read_categories(root, options)


__all__ = ["BtadLayout"]
