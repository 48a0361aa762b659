# SPDX-FileCopyrightText: 2026 The clipsam_hf authors
# SPDX-License-Identifier: Apache-2.0
"""The magnetic tiles of MTD."""

from collections.abc import Iterator
from pathlib import Path

from .base import GOOD, Entry, Layout, LayoutOptions
from .matching import IMAGE_SUFFIXES, list_images, match_masks


class MtdLayout(Layout):
    """Magnetic tiles; there is no split, all is test. The label is the mask's content: some show no defect."""

    name = "mtd"
    paths = "MT_<kind>/Imgs/<stem>.jpg with <stem>.png"
    known_counts = {"mtd": {"test": (956, 388)}}
    class_names = {"mtd": "magnetic tile"}

    def detect(self, root: Path) -> bool:
        return any(root.glob("MT_*/Imgs"))

    def read(self, root: Path, options: LayoutOptions) -> Iterator[Entry]:
        for folder in sorted(root.glob("MT_*/Imgs")):
            images, masks = list_images(folder, IMAGE_SUFFIXES - {".png"}), list_images(folder, {".png"})
            matched = match_masks(images, masks, place=folder)
            kind = folder.parent.name.removeprefix("MT_").lower()
            label, defect_type = (0, GOOD) if kind == "free" else (None, kind)
            for stem, path in images.items():
                yield Entry(path, matched[stem], label, "mtd", defect_type, "test")


__all__ = ["MtdLayout"]
