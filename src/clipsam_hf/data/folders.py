# SPDX-FileCopyrightText: 2026 The clipsam_hf authors
# SPDX-License-Identifier: Apache-2.0
"""A data set in the folder in which it was unpacked, as samples."""

import os
import warnings
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, overload

from transformers.utils import logging

from .checks import check_choice, check_files, find_count_differences
from .export import to_dataset, write_imagefolder, write_parquet
from .layouts import LAYOUTS, VISA_SPLITS, Entry, LayoutOptions, list_entries, name_some
from .samples import LABELS, AnomalySample


if TYPE_CHECKING:
    import datasets


logger = logging.get_logger(__name__)


class AnomalyFolder(Sequence[AnomalySample]):
    """Read a data set from its folder, as it was downloaded: a sequence of [`AnomalySample`].

    The published sets of the field are read, those that are laid out like them, and plain folders of one's own:
    `clipsam_hf.data.layouts.LAYOUTS` has the layouts by name, and each of them says in `paths` what it looks for.

    Everything that can be known without decoding photographs is checked at once: that masks and images match one to
    one by stem, exist and have the same size. The counts of a published set are compared with what is there; a
    difference warns. Masks are decoded here only where they are the label. What is wrong with the files of a split
    that is not asked for is no error.

    Args:
        root (`str` or `os.PathLike`): Folder of the data set.
        layout (`str`, *optional*, defaults to `"auto"`): One of `LAYOUTS`; "auto" detects it, see the attribute
            `layout`.
        category (`str` or list of `str`, *optional*): Classes to read, in the data set's spelling; all if `None`.
        split (`str`, *optional*, defaults to `"test"`): The split to read; all if `None`.
        class_names (`dict[str, str]`, *optional*): Words for the prompts by category, {"pcb1": "circuit board"}. The
            default is the category with spaces for underscores, or what the layout says where that is no noun.
        gt_threshold (`float`, *optional*, defaults to 0): Mask values above it are defects; see [`load_mask`].
        missing_mask (`str`, *optional*, defaults to `"error"`): What an image without a mask is in a plain folder of
            images with masks: "error", or "good" if masks exist for defects only.
        visa_split (`str`, *optional*, defaults to `"1cls"`): Or "2cls_highshot" or "2cls_fewshot"; for VisA only.

    Attributes:
        root (`Path`): The folder.
        layout (`str`): The layout that was read.
        categories (`list[str]`): Categories that were read.

    Raises:
        FileNotFoundError, NotADirectoryError: If the root is no folder.
        ImageReadError: If a mask, or the header of an image with a mask, cannot be read.
        ValueError: If an option is unknown, nothing is found, or images and masks do not agree; the message has the
            paths.

    Example:

    ```python
    >>> from pathlib import Path
    >>> from clipsam_hf.data import AnomalyFolder

    >>> for kind in ("good", "scratch"):
    ...     Path("metal_nut", kind).mkdir(parents=True)
    ...     photograph.save(f"metal_nut/{kind}/1.png")
    >>> folder = AnomalyFolder("metal_nut")
    >>> folder
    AnomalyFolder('metal_nut', layout='folder', split='test'): 2 images (1 good, 1 anomalous) in 1 category
    >>> [(sample.class_name, sample.defect_type, sample.label) for sample in folder]
    [('metal nut', 'good', 0), ('metal nut', 'scratch', 1)]

    ```
    """

    def __init__(
        self,
        root: str | os.PathLike[str],
        layout: str = "auto",
        *,
        category: str | Collection[str] | None = None,
        split: str | None = "test",
        class_names: Mapping[str, str] | None = None,
        gt_threshold: float = 0,
        missing_mask: str = "error",
        visa_split: str = "1cls",
    ) -> None:
        check_choice("layout", layout, ("auto", *LAYOUTS))
        check_choice("visa_split", visa_split, VISA_SPLITS)
        check_choice("missing_mask", missing_mask, ("error", "good"))
        self.root = Path(root)
        self.split = split
        self._again = partial(
            type(self),
            root,
            category=category,
            class_names=class_names,
            gt_threshold=gt_threshold,
            missing_mask=missing_mask,
            visa_split=visa_split,
        )
        if not self.root.is_dir():
            problem = NotADirectoryError if self.root.exists() else FileNotFoundError
            raise problem(f"The data set '{self.root}' is no folder.")
        options = LayoutOptions(split, visa_split, missing_mask)
        wanted = None if category is None else [category] if isinstance(category, str) else list(category)
        self.layout, entries, known = _read_entries(self.root, layout, options, wanted, class_names or {})
        logger.info("'%s' is read as %r.", self.root, self.layout)
        check_files(entries)

        kind = LAYOUTS[self.layout]
        words = {**{name: name.replace("_", " ") for name in known}, **kind.class_names, **(class_names or {})}
        self._samples = [
            AnomalySample(**entry._asdict(), class_name=words[entry.category], gt_threshold=gt_threshold).resolve()
            for entry in entries
        ]
        self.categories = sorted({entry.category for entry in entries})
        if kind.known_counts.keys() & set(self.categories):
            # The root may be one category.
            complete = category is None and self.categories != [self.root.resolve().name]
            expected = kind.expected_counts(self.root, options)
            differences = find_count_differences(self, expected, split=split, complete=complete)
            if differences:
                warnings.warn(
                    f"'{self.root}' is not the whole of {self.layout!r} as published:\n  {name_some(differences, 20)}",
                    stacklevel=2,
                )

    def with_split(self, split: str) -> "AnomalyFolder | list[AnomalySample]":
        """Read another split of the same data set.

        Args:
            split (`str`): Its name.

        Returns:
            `AnomalyFolder`: The same categories and words; an empty list if there is no such split.
        """
        try:
            return self._again(layout=self.layout, split=split)
        except (FileNotFoundError, ValueError):
            return []

    def __len__(self) -> int:
        return len(self._samples)

    @overload
    def __getitem__(self, index: int) -> AnomalySample: ...

    @overload
    def __getitem__(self, index: slice) -> list[AnomalySample]: ...

    def __getitem__(self, index: int | slice) -> AnomalySample | list[AnomalySample]:
        return self._samples[index]

    def __repr__(self) -> str:
        labels = Counter(sample.label for sample in self)
        kinds = [
            f"{labels[label]} {name}" for label, name in ((0, LABELS[0]), (1, LABELS[1]), (None, "unknown"))
            if labels[label]
        ]  # fmt: skip
        categories = f"{len(self.categories)} categor{'y' if len(self.categories) == 1 else 'ies'}"
        options = f"'{self.root}', layout={self.layout!r}, split={self.split!r}"
        return f"AnomalyFolder({options}): {len(self)} images ({', '.join(kinds)}) in {categories}"

    def to_hf_dataset(self, *, streaming: bool = False) -> "datasets.Dataset | datasets.IterableDataset":
        """Make a Hugging Face dataset of it; images stay files until they are looked at.

        Args:
            streaming (`bool`, *optional*, defaults to `False`): Give an `IterableDataset`, for `shuffle(buffer_size)`,
                sharding over workers and other ways of reading once through.

        Returns:
            `datasets.Dataset` or `datasets.IterableDataset` with the features `image` (Image), `mask` (Image as in the
            file, `None` for good images; [`load_mask`] reads it), `label` (ClassLabel good, anomalous), `category`,
            `class_name` (which the pipeline reads), `defect_type`, `image_path` (relative to the root) and `split`.

        Raises:
            ImportError: If `datasets` is not installed.
        """
        dataset = to_dataset(self, self.root)
        return dataset.to_iterable_dataset(num_shards=min(64, len(self))) if streaming else dataset

    def save_parquet(self, output_dir: str | os.PathLike[str]) -> None:
        """Write `data/<split>-*.parquet` with the images inside, as the Hub stores data sets.

        `datasets.load_dataset(output_dir)` reads it. The folder appears when it is complete.

        Args:
            output_dir (`str` or `os.PathLike`): A folder that is empty or does not exist.

        Raises:
            FileExistsError: If the folder is not empty.
            ImportError: If `datasets` is not installed.
        """
        write_parquet(self, self.root, Path(output_dir))

    def save_imagefolder(self, output_dir: str | os.PathLike[str]) -> None:
        """Copy the files to `<split>/images` and `<split>/masks`, with `<split>/metadata.parquet` beside them.

        `datasets.load_dataset("imagefolder", data_dir=output_dir)` reads it. The files keep their bytes, but are
        numbered: folders named `test` below `train` would be taken for splits. The metadata is no JSON, because there
        a split without any mask has another type than one with masks, and the library refuses the two together. The
        folder appears when it is complete.

        Args:
            output_dir (`str` or `os.PathLike`): A folder that is empty or does not exist.

        Raises:
            FileExistsError: If the folder is not empty.
            ImportError: If `datasets` is not installed.
        """
        write_imagefolder(self, self.root, Path(output_dir))


def _read_entries(
    root: Path, layout: str, options: LayoutOptions, wanted: Collection[str] | None, words: Collection[str]
) -> tuple[str, list[Entry], list[str]]:
    """List what is wanted; check the names of categories and split with what is there.

    Returns:
        `tuple`: the layout, the entries, and all known categories.
    """
    found, entries = list_entries(root, layout, options)
    if not {*(wanted or ()), *words} <= {entry.category for entry in entries}:
        # Before a name is refused, the other splits are read: it may be known there.
        found, entries = list_entries(root, found, options._replace(split=None))
    known = sorted({entry.category for entry in entries})
    for name in known if wanted is None else wanted:
        check_choice("category", name, known)
    for name in words:
        check_choice("class_names", name, known)
    entries = [entry for entry in entries if wanted is None or entry.category in wanted]
    if options.split is not None:
        check_choice("split", options.split, sorted({entry.split for entry in entries}))
    return found, [entry for entry in entries if options.wants(entry.split)], known


__all__ = ["AnomalyFolder"]
