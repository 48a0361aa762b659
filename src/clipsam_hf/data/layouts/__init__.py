# SPDX-FileCopyrightText: 2026 The clipsam_hf authors
# SPDX-License-Identifier: Apache-2.0
"""Where the data sets of the field keep images and masks: one class per layout, and the registry of them."""

from contextlib import suppress
from pathlib import Path

from .base import ALL_CATEGORIES, DEFECT, GOOD, GOOD_NAMES, Counts, Entry, Layout, LayoutOptions
from .btad import BtadLayout
from .folder import FolderLayout
from .ksdd2 import Ksdd2Layout
from .matching import list_subfolders, name_some
from .meta import MetaLayout
from .mtd import MtdLayout
from .mvtec import MvtecLayout
from .visa import VISA_SPLITS, VISA_TOTALS, VisaLayout


LAYOUTS: dict[str, Layout] = {
    layout.name: layout
    for layout in (
        MetaLayout(),
        MtdLayout(),
        Ksdd2Layout(),
        BtadLayout(),
        VisaLayout(),
        MvtecLayout(),
        FolderLayout(),
    )
}
"""The layouts by name, in the order in which they are tried: what is like many data sets comes last."""

KNOWN_COUNTS: dict[str, Counts] = {
    name: layout.known_counts for name, layout in LAYOUTS.items() if layout.known_counts
}
"""(good, anomalous) images of the published sets: layout, category, split. VisA's are those of its split 1cls."""


def detect_layout(root: Path) -> str | None:
    """Recognise a data set by its folders and files.

    Args:
        root (`Path`): Folder of the data set, or of one category of MVTec-AD, BTAD or prepared VisA.

    Returns:
        `str` or `None`: One of `LAYOUTS`; `None` if the folder looks like none of them.

    Example:
        >>> import tempfile
        >>> root = Path(tempfile.mkdtemp())
        >>> detect_layout(root) is None
        True
        >>> (root / "MT_Crack" / "Imgs").mkdir(parents=True)
        >>> detect_layout(root)
        'mtd'
    """
    return next((name for name, layout in LAYOUTS.items() if layout.detect(root)), None)


def list_entries(root: Path, layout: str, options: LayoutOptions) -> tuple[str, list[Entry]]:
    """List the images of a data set with their masks, matched by stem and never by order.

    Args:
        root (`Path`): Folder of the data set.
        layout (`str`): "auto" or one of `LAYOUTS`.
        options (`LayoutOptions`): What is wanted.

    Returns:
        `tuple[str, list[Entry]]`: The layout, and the entries of the wanted split at least and of all categories,
        sorted by path within each folder.

    Raises:
        ValueError: If the layout is not there, holds no image in any split, or masks and images do not match one to
            one.
    """
    found = detect_layout(root) if layout == "auto" else layout
    # Without an image in the wanted split all are read, so that the caller can say which splits there are
    for each in (options, options._replace(split=None)):
        if found is not None and (entries := list(LAYOUTS[found].read(root, each))):
            return found, entries
    raise ValueError(_describe_failure(root, layout))


def _describe_failure(root: Path, layout: str) -> str:
    """Say why nothing was found, and where it may lie instead."""
    wanted = LAYOUTS if layout == "auto" else (layout,)
    lines = [f"'{root}' holds no images in the layout {layout!r}. What is looked for:"]
    lines += [f"  {name}: {LAYOUTS[name].paths}" for name in wanted]
    for folder in (root, *list_subfolders(root)):
        with suppress(OSError):  # a folder that may not be read is no place to point at
            if (name := detect_layout(folder)) not in (None, layout):
                lines.append(f"'{folder}' looks like {name!r}.")
    return "\n".join(lines)


__all__ = [
    "ALL_CATEGORIES",
    "DEFECT",
    "GOOD",
    "GOOD_NAMES",
    "KNOWN_COUNTS",
    "LAYOUTS",
    "VISA_SPLITS",
    "VISA_TOTALS",
    "Counts",
    "Entry",
    "Layout",
    "LayoutOptions",
    "detect_layout",
    "list_entries",
    "name_some",
]
