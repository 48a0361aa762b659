# SPDX-FileCopyrightText: 2026 The clipsam_hf authors
# SPDX-License-Identifier: Apache-2.0
"""MVTec-AD, and whatever is laid out like it."""

from collections.abc import Iterable
from pathlib import Path

from .base import Entry, Layout, LayoutOptions, one_class_counts
from .categories import detect_categories, read_categories


class MvtecLayout(Layout):
    """MVTec-AD, and whatever is laid out like it; the root may also be one category. The label is the folder."""

    name = "mvtec"
    paths = "<category>/{train,test}/good/, <category>/test/<defect>/ and <category>/ground_truth/<defect>/"
    known_counts = one_class_counts(
        {
            "bottle": (209, 20, 63), "cable": (224, 58, 92), "capsule": (219, 23, 109), "carpet": (280, 28, 89),
            "grid": (264, 21, 57), "hazelnut": (391, 40, 70), "leather": (245, 32, 92), "metal_nut": (220, 22, 93),
            "pill": (267, 26, 141), "screw": (320, 41, 119), "tile": (230, 33, 84), "toothbrush": (60, 12, 30),
            "transistor": (213, 60, 40), "wood": (247, 19, 60), "zipper": (240, 32, 119),
        }
    )  # fmt: skip

    def detect(self, root: Path) -> bool:
        return bool(detect_categories(root))

    def read(self, root: Path, options: LayoutOptions) -> Iterable[Entry]:
        return read_categories(root, options)


__all__ = ["MvtecLayout"]
