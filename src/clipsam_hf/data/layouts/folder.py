# SPDX-FileCopyrightText: 2026 The clipsam_hf authors
# SPDX-License-Identifier: Apache-2.0
"""Plain folders of one's own."""

from collections.abc import Iterator
from pathlib import Path

from .base import DEFECT, GOOD, GOOD_NAMES, SPLITS, Entry, Layout, LayoutOptions
from .matching import (
    IMAGE_SUFFIXES,
    MASK_FOLDERS,
    bare_stem,
    list_images,
    list_subfolders,
    match_masks,
    name_of,
    name_some,
)


_BAD_NAMES = frozenset({"abnormal", "anomalous", "anomaly", "bad", "defect", "defective", "ko", "ng"})


class FolderLayout(Layout):
    """Plain folders: good/ and one folder per defect, or images with masks, or images alone, in splits or not.

    The label is the folder, or the mask's content, or unknown.
    """

    name = "folder"
    paths = "images directly in it or in images/, in good/ and bad/, or in train/ and test/"

    def detect(self, root: Path) -> bool:
        return any(_has_images(folder) for _, folder in _list_splits(root))

    def read(self, root: Path, options: LayoutOptions) -> Iterator[Entry]:
        for split, folder in _list_splits(root):
            if not options.wants(split):
                continue
            kinds = [kind for kind in list_subfolders(folder) if kind.name.lower() not in MASK_FOLDERS]
            place = next((folder / name for name in MASK_FOLDERS if (folder / name).is_dir()), None)
            if any(kind.name.lower() in GOOD_NAMES | _BAD_NAMES for kind in kinds):
                found = _read_kinds(kinds, place)
            else:
                found = _read_images(folder, place, options.missing_mask)
            for entry in found:
                yield entry._replace(category=name_of(root), split=split)


def _list_splits(root: Path) -> list[tuple[str, Path]]:
    """List the splits; a folder without sub-folders for them is all test."""
    return [(split, root / split) for split in SPLITS if (root / split).is_dir()] or [("test", root)]


def _has_images(folder: Path) -> bool:
    kinds = [kind for kind in list_subfolders(folder) if kind.name.lower() in GOOD_NAMES | _BAD_NAMES | {"images"}]
    return any(
        path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".")
        for place in (folder, *kinds)
        for path in place.iterdir()
    )


def _read_kinds(kinds: list[Path], place: Path | None) -> Iterator[Entry]:
    """Read one folder per kind, good or a defect; masks are in one folder or in one per kind, or there are none."""
    images = {kind: list_images(kind) for kind in kinds}
    bad = [kind for kind in kinds if kind.name.lower() not in GOOD_NAMES]
    matched: dict[Path, Path] = {}
    if place is not None and not list_subfolders(place):
        every: dict[str, Path] = {}
        for kind in bad:
            if shared := sorted(every.keys() & images[kind].keys()):
                same = [folder[shared[0]] for folder in (every, images[kind])]
                raise ValueError(f"Two images share one stem, so masks cannot be matched:\n  {name_some(same)}")
            every |= images[kind]
        matched = {every[stem]: path for stem, path in match_masks(every, list_images(place), place=place).items()}
    elif place is not None:
        for kind in kinds:
            masks = list_images(place / kind.name)
            pairs = match_masks(images[kind], masks, place=place / kind.name, optional=kind not in bad)
            matched |= {images[kind][stem]: path for stem, path in pairs.items()}
    for kind in kinds:
        label, defect_type = (1, kind.name) if kind in bad else (0, GOOD)
        for path in images[kind].values():
            yield Entry(path, matched.get(path), label, "", defect_type, "")


def _read_images(folder: Path, place: Path | None, missing_mask: str) -> Iterator[Entry]:
    """Read images with masks in a folder of their own or beside them as `<stem>_mask`, or without any truth."""
    images = list_images(folder / "images" if (folder / "images").is_dir() else folder)
    masks = list_images(place) if place is not None else {}
    if place is None:
        masks = {stem: path for stem, path in images.items() if (bare := bare_stem(stem)) != stem and bare in images}
        images = {stem: path for stem, path in images.items() if stem not in masks}
    has_truth = place is not None or bool(masks)
    absent_is_good = missing_mask == "good"
    matched = match_masks(images, masks, place=place or folder, optional=absent_is_good or not has_truth)
    for stem, path in images.items():
        if stem in matched:
            yield Entry(path, matched[stem], None, "", DEFECT, "")
        elif has_truth:
            yield Entry(path, None, 0, "", GOOD, "")
        else:
            yield Entry(path, None, None, "", None, "")


__all__ = ["FolderLayout"]
