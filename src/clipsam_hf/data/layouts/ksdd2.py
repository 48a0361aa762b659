# SPDX-FileCopyrightText: 2026 The clipsam_hf authors
# SPDX-License-Identifier: Apache-2.0
"""KolektorSDD2."""

import re
from collections.abc import Iterator
from pathlib import Path

from transformers.utils import logging

from .base import DEFECT, SPLITS, Entry, Layout, LayoutOptions
from .matching import list_images, match_masks


logger = logging.get_logger(__name__)

# The published archive holds `train/10301 (copy).png` and `train/10301_GT (copy).png` beside the files themselves;
# the published counts hold without them.
_COPY = re.compile(r" \(copy\)$", re.IGNORECASE)


class Ksdd2Layout(Layout):
    """KolektorSDD2; every image has a mask, whose content is the label. Copies of files do not count."""

    name = "ksdd2"
    paths = "{train,test}/<stem>.png with <stem>_GT.png"
    known_counts = {"ksdd2": {"train": (2085, 246), "test": (894, 110)}}
    class_names = {"ksdd2": "object"}

    def detect(self, root: Path) -> bool:
        return any(next(root.glob(f"{split}/*_GT.*"), None) for split in SPLITS)

    def read(self, root: Path, options: LayoutOptions) -> Iterator[Entry]:
        for split in filter(options.wants, SPLITS):
            files = _without_copies(list_images(root / split))
            masks = {stem: path for stem, path in files.items() if stem.upper().endswith("_GT")}
            images = {stem: path for stem, path in files.items() if stem not in masks}
            matched = match_masks(images, masks, place=root / split)
            for stem, path in images.items():
                yield Entry(path, matched[stem], None, "ksdd2", DEFECT, split)


def _without_copies(files: dict[str, Path]) -> dict[str, Path]:
    """Leave out copies; one whose original is not there stands for it."""
    kept: dict[str, Path] = {}
    for stem in sorted(files, key=lambda stem: bool(_COPY.search(stem))):
        original = _COPY.sub("", stem)
        if original in kept:
            logger.info("'%s' is left out as a copy of '%s'.", files[stem], kept[original])
        else:
            kept[original] = files[stem]
    return dict(sorted(kept.items()))


__all__ = ["Ksdd2Layout"]
