# SPDX-FileCopyrightText: 2026 The clipsam_hf authors
# SPDX-License-Identifier: Apache-2.0
"""Images and masks in folders, matched by the stems of their names; paths and tables that a data set names."""

import csv
import re
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path

from ...image_loading import IMAGE_SUFFIXES


MASK_FOLDERS = ("ground_truth", "masks")

_MASK_ENDING = re.compile(r"_(mask|gt)$", re.IGNORECASE)


def name_some(paths: Iterable[object], limit: int = 5) -> str:
    """Write the first few paths one per line, and how many more there are."""
    every = [str(path) for path in paths]
    rest = [f"... and {len(every) - limit} more"] if len(every) > limit else []
    return "\n  ".join([*every[:limit], *rest])


def list_subfolders(folder: Path) -> list[Path]:
    """List the folders in a folder by name, without hidden ones; a folder that does not exist is empty."""
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))


def name_of(folder: Path) -> str:
    """Give the name of a folder, also of one like "." or "..", which has none of its own."""
    return folder.resolve().name if folder.name in ("", "..") else folder.name


def list_images(folder: Path, suffixes: Collection[str] = IMAGE_SUFFIXES) -> dict[str, Path]:
    """List the images directly in a folder by stem; a folder that does not exist is empty.

    Raises:
        ValueError: if two files share one stem.
    """
    images: dict[str, Path] = {}
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        # Names with a leading dot are what macOS writes beside the real files.
        if path.suffix.lower() not in suffixes or path.name.startswith(".") or not path.is_file():
            continue
        if path.stem in images:
            raise ValueError(f"Two files share one stem, so masks cannot be matched:\n  {images[path.stem]}\n  {path}")
        images[path.stem] = path
    return images


def bare_stem(stem: str) -> str:
    """Give the stem of the image that a mask of this stem belongs to.

    Example:
        >>> bare_stem("000_mask"), bare_stem("10301_GT"), bare_stem("a")
        ('000', '10301', 'a')
    """
    return _MASK_ENDING.sub("", stem)


def match_masks(
    images: Mapping[str, Path], masks: Mapping[str, Path], *, place: Path, optional: bool = False
) -> dict[str, Path]:
    """Give each image the mask of its stem, or of its stem with `_mask` or `_GT`.

    Args:
        images (`Mapping[str, Path]`): images by stem.
        masks (`Mapping[str, Path]`): masks by stem.
        place (`Path`): where the masks are looked for, for the error.
        optional (`bool`): whether images may have none.

    Returns:
        `dict[str, Path]`: masks by the stem of their image.

    Raises:
        ValueError: if a mask has no image, an image has two masks or, unless `optional`, none.
    """
    matched: dict[str, Path] = {}
    for stem, path in masks.items():
        key = stem if stem in images else bare_stem(stem)
        if key in matched:
            raise ValueError(f"Two masks belong to one image:\n  {matched[key]}\n  {path}")
        matched[key] = path
    check_orphans(path for stem, path in matched.items() if stem not in images)
    if not optional and (missing := [path for stem, path in images.items() if stem not in matched]):
        raise ValueError(f"{len(missing)} images without a mask in '{place}':\n  {name_some(missing)}")
    return matched


def check_orphans(paths: Iterable[Path]) -> None:
    """Stop if there are masks that no image belongs to."""
    if orphans := list(paths):
        raise ValueError(f"{len(orphans)} masks without an image:\n  {name_some(orphans)}")


def read_table(path: Path, columns: Collection[str]) -> list[dict[str, str]]:
    """Read a CSV file that must have these columns.

    Raises:
        ValueError: if it lacks one, or cannot be read as one.
    """
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file, restval="")
            names, rows = list(reader.fieldnames or ()), list(reader)
    except (csv.Error, UnicodeDecodeError) as error:
        raise ValueError(f"'{path}' is no CSV file: {error}.") from error
    if missing := sorted(set(columns) - set(names)):
        raise ValueError(f"'{path}' lacks the columns {missing}; it has {name_some(names)}.")
    return rows


def join_inside(root: Path, name: str, source: Path) -> Path:
    """Join a path from a file of the data set to the root, which it must not leave.

    Args:
        root (`Path`): folder of the data set.
        name (`str`): a relative path; backslashes are taken for slashes.
        source (`Path`): the file that names it, for the error.

    Raises:
        ValueError: if it is absolute, goes up, or a link leads out.
    """
    parts = name.replace("\\", "/").split("/")
    if name.startswith(("/", "\\")) or ".." in parts or ":" in parts[0] or "\0" in name:
        raise ValueError(f"'{source}' names {name!r}, accepted are paths below '{root}'.")
    path, real_root = root.joinpath(*parts), root.resolve()
    # In the Hub's cache a data set is all links, from snapshots/<commit>/ to blobs/
    places = [
        real_root,
        *(each.parent / "blobs" for each in (real_root, *real_root.parents) if each.name == "snapshots"),
    ]
    if not any(path.resolve().is_relative_to(place) for place in places):
        raise ValueError(f"'{source}' names {name!r}, a link that leads out of '{root}'.")
    return path


__all__ = [
    "IMAGE_SUFFIXES",
    "MASK_FOLDERS",
    "bare_stem",
    "check_orphans",
    "join_inside",
    "list_images",
    "list_subfolders",
    "match_masks",
    "name_of",
    "name_some",
    "read_table",
]
