# SPDX-FileCopyrightText: 2026 The clipsam_hf authors
# SPDX-License-Identifier: Apache-2.0
"""What a layout is: a way in which a data set keeps its images and masks; no pixel is read here."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import ClassVar, NamedTuple


GOOD = "good"
DEFECT = "defect"
"""Kind of a defect where the data set does not tell kinds apart."""

GOOD_NAMES = frozenset({"good", "normal", "ok"})
SPLITS = ("train", "test")
ALL_CATEGORIES = "all categories"
"""Stands for a category in [`Counts`] that are published as a total only."""

Counts = dict[str, dict[str, tuple[int, int]]]
"""(good, anomalous) images by category and split."""


class Entry(NamedTuple):
    """What a data set says of one image.

    Args:
        image_path (`Path`): the image.
        mask_path (`Path` or `None`): its mask, if there is one.
        label (`int` or `None`): 0 good, 1 anomalous; `None` if only the mask's content can tell, or nothing at all.
        category (`str`): object class, in the data set's own spelling.
        defect_type (`str` or `None`): kind of defect, "good" for good images; `None` if unknown.
        split (`str`): "train" or "test", or whatever the data set calls it.
    """

    image_path: Path
    mask_path: Path | None
    label: int | None
    category: str
    defect_type: str | None
    split: str


class LayoutOptions(NamedTuple):
    """What a caller chooses; a layout takes what it knows.

    Args:
        split (`str` or `None`): the only split that is wanted: files of others need not be looked at, and what is
            wrong with them is no error. All if `None`.
        visa_split (`str`): which of VisA's ways to split.
        missing_mask (`str`): what an image without a mask is, where nothing but the masks tell good from anomalous (a
            plain folder): "error" or "good".
    """

    split: str | None = None
    visa_split: str = "1cls"
    missing_mask: str = "error"

    def wants(self, split: str) -> bool:
        """Whether a split is to be read."""
        return self.split in (None, split)


class Layout(ABC):
    """One way in which data sets keep their images and masks; a subclass and a line in the registry add another.

    Attributes:
        name (`str`): How it is called in `AnomalyFolder(layout=...)` and on the command line.
        paths (`str`): Where the files are looked for, for people who have to mend a folder.
        known_counts (`Counts`): Images of the published set, which a folder is compared with; empty if there is none.
        class_names (`Mapping[str, str]`): Words for the prompts by category, where a category's name is no English
            noun: CLIP never saw a "pcb1".
    """

    name: ClassVar[str]
    paths: ClassVar[str]
    known_counts: ClassVar[Counts] = {}
    class_names: ClassVar[Mapping[str, str]] = {}

    @abstractmethod
    def detect(self, root: Path) -> bool:
        """Whether a folder looks like this layout; only those before it in the registry were asked already.

        Args:
            root (`Path`): any folder, also an empty one.
        """

    @abstractmethod
    def read(self, root: Path, options: LayoutOptions) -> Iterable[Entry]:
        """List the images with their masks, matched by stem and never by order.

        Args:
            root (`Path`): folder of the data set, which need not be one of this layout: then there is no entry.
            options (`LayoutOptions`): what the caller wants.

        Returns:
            `Iterable[Entry]`: of the wanted split at least, in a fixed order.

        Raises:
            ValueError: if masks and images do not match one to one; with the paths.
        """

    def expected_counts(self, root: Path, options: LayoutOptions) -> Counts:
        """Give the published counts that a folder as a whole should have; `ALL_CATEGORIES` stands for a total."""
        return self.known_counts


def one_class_counts(counts: Mapping[str, tuple[int, int, int]]) -> Counts:
    """Give counts of a set whose train split is good, from (good of train, good of test, anomalous of test)."""
    return {
        category: {"train": (train, 0), "test": (good, anomalous)}
        for category, (train, good, anomalous) in counts.items()
    }


__all__ = [
    "ALL_CATEGORIES",
    "DEFECT",
    "GOOD",
    "GOOD_NAMES",
    "SPLITS",
    "Counts",
    "Entry",
    "Layout",
    "LayoutOptions",
    "one_class_counts",
]
