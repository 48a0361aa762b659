# SPDX-FileCopyrightText: 2026 The clipsam_hf authors
# SPDX-License-Identifier: Apache-2.0
"""Folders that are built like MVTec-AD's: one per category, with `train/`, `test/` and `ground_truth/` inside."""

from collections.abc import Iterator
from pathlib import Path

from .base import GOOD, GOOD_NAMES, SPLITS, Entry, LayoutOptions
from .matching import check_orphans, list_images, list_subfolders, match_masks, name_of


def list_categories(root: Path) -> list[Path]:
    """List the folders of the categories below a root, or the root itself if it is one."""
    return [root] if _is_category(root) else [folder for folder in list_subfolders(root) if _is_category(folder)]


def detect_categories(root: Path) -> list[Path]:
    """List the folders of the categories, if the root looks like a data set and not like a plain folder.

    A root that is split into good and bad images but has no masks is a plain folder, not a category.
    """
    categories = list_categories(root)
    return [] if categories == [root] and not (root / "ground_truth").is_dir() else categories


def _is_category(folder: Path) -> bool:
    if any((folder / split / name).is_dir() for split in SPLITS for name in GOOD_NAMES):
        return True
    return (folder / "ground_truth").is_dir() and bool(list_subfolders(folder / "test"))


def read_categories(root: Path, options: LayoutOptions) -> Iterator[Entry]:
    """List the images of all categories below a root, or of the root if it is one; the label is the folder."""
    for folder in list_categories(root):
        for split in filter(options.wants, SPLITS):
            yield from _read_split(folder, split)


def _read_split(folder: Path, split: str) -> Iterator[Entry]:
    truth = folder / "ground_truth"
    for kind in list_subfolders(folder / split):
        place = _mask_folder(truth, split, kind.name)
        is_good = kind.name.lower() in GOOD_NAMES
        images = list_images(kind)
        masks = {} if is_good and split == "train" else list_images(place)
        matched = match_masks(images, masks, place=place, optional=is_good)
        label, defect_type = (0, GOOD) if is_good else (1, kind.name)
        for stem, path in images.items():
            yield Entry(path, matched.get(stem), label, name_of(folder), defect_type, split)
    used = {_mask_folder(truth, name, kind.name) for name in SPLITS for kind in list_subfolders(folder / name)}
    # Masks that name no split are of the test split, where MVTec-AD has its defects
    places = list_subfolders(truth / split) + [
        place for place in list_subfolders(truth) if split == "test" and place.name not in SPLITS
    ]
    check_orphans(path for place in places if place not in used for path in list_images(place).values())


def _mask_folder(truth: Path, split: str, kind: str) -> Path:
    """Give the folder of the masks; VisA's two-class splits keep one more level, as both splits have defects there."""
    return nested if (nested := truth / split / kind).is_dir() else truth / kind


__all__ = ["detect_categories", "list_categories", "read_categories"]
