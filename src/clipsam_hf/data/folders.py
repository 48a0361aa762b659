# SPDX-FileCopyrightText: 2026 The clipsam_hf authors
# SPDX-License-Identifier: Apache-2.0
"""Data sets of photographs with defect masks: MVTec-AD, VisA, MTD, KolektorSDD2, BTAD, plain folders, Hugging Face."""

import difflib
import os
import shutil
import uuid
import warnings
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

from transformers.utils import logging

from ..image_loading import ImageReadError
from .layouts import (
    CLASS_NAMES,
    GOOD,
    GOOD_NAMES,
    KNOWN_COUNTS,
    LAYOUTS,
    VISA_SPLITS,
    VISA_TOTALS,
    Entry,
    list_entries,
    name_some,
)
from .samples import LABELS, AnomalySample, load_mask


if TYPE_CHECKING:
    import datasets


logger = logging.get_logger(__name__)

_COLUMNS = ("image", "mask", "label", "category", "class_name", "defect_type", "image_path", "split")
# A shard of a Parquet file is made in memory.
_SHARD_BYTES = 250_000_000


class AnomalyFolder(Sequence[AnomalySample]):
    """Read a data set from its folder, as it was downloaded: a sequence of [`AnomalySample`].

    | layout | data set | label from |
    |---|---|---|
    | `mvtec` | MVTec-AD, and whatever is laid out like it; the root may also be one category | folder |
    | `visa` | VisA with its split files, or prepared as `1cls/<category>/...` | split file, folder |
    | `mtd` | magnetic tiles: `MT_<kind>/Imgs/`; no split, all is test | mask |
    | `ksdd2` | KolektorSDD2: `{train,test}/<stem>.png` with `<stem>_GT.png` | mask |
    | `btad` | BTAD: `<category>/{train,test}/ok`, `test/ko`, `ground_truth/ko` | folder |
    | `folder` | good/ and bad/ (one folder per defect), or images with masks, or images alone | folder, mask, none |
    | `meta` | `meta.json`: rows, or the CLIP repositories' {split: {category: rows}} | row |

    Everything that can be known without decoding photographs is checked at once: that masks and images match one to
    one by stem, exist and have the same size. The counts of a published set are compared with what is there; a
    difference warns. Masks are decoded here only where they are the label, and of the asked split and category only.

    Args:
        root (`str` or `os.PathLike`): Folder of the data set.
        layout (`str`, *optional*, defaults to `"auto"`): As above; "auto" detects it, see the attribute `layout`.
        category (`str` or list of `str`, *optional*): Classes to read, in the data set's spelling; all if `None`.
        split (`str`, *optional*, defaults to `"test"`): The split to read; all if `None`.
        class_names (`dict[str, str]`, *optional*): Words for the prompts by category, {"pcb1": "circuit board"}. The
            default is the category with spaces for underscores, and [`CLASS_NAMES`] where that is no noun.
        mask_threshold (`float`, *optional*, defaults to 0): Mask values above it are defects; see [`load_mask`].
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
        mask_threshold: float = 0,
        missing_mask: str = "error",
        visa_split: str = "1cls",
    ) -> None:
        _check_choice("layout", layout, ("auto", *LAYOUTS))
        _check_choice("visa_split", visa_split, VISA_SPLITS)
        _check_choice("missing_mask", missing_mask, ("error", "good"))
        self.root = Path(root)
        self.split = split
        if not self.root.is_dir():
            problem = NotADirectoryError if self.root.exists() else FileNotFoundError
            raise problem(f"The data set '{self.root}' is no folder.")
        self.layout, entries = list_entries(self.root, layout, visa_split=visa_split, missing_mask=missing_mask)
        logger.info("'%s' is read as %r.", self.root, self.layout)

        known = sorted({entry.category for entry in entries})
        wanted = known if category is None else [category] if isinstance(category, str) else list(category)
        for name in wanted:
            _check_choice("category", name, known)
        words = dict(class_names or {})
        for name in words:
            _check_choice("class_names", name, known)
        splits = sorted({entry.split for entry in entries if entry.category in wanted})
        if split is not None:
            _check_choice("split", split, splits)
        entries = [entry for entry in entries if entry.category in wanted and split in (None, entry.split)]
        _check_files(entries)

        words = {**{name: name.replace("_", " ") for name in known}, **CLASS_NAMES.get(self.layout, {}), **words}
        self._samples = [
            AnomalySample(
                **entry._asdict(), class_name=words[entry.category], mask_threshold=mask_threshold
            ).resolve()
            for entry in entries
        ]  # fmt: skip
        self.categories = sorted({entry.category for entry in entries})
        # The root may be one category, or one split of prepared VisA.
        name = self.root.resolve().name
        visa_split = name if name in VISA_SPLITS else visa_split
        _check_counts(self, visa_split, complete=category is None and self.categories != [name])

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
        dataset = self._to_dataset([self._to_row(sample) for sample in self])
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
        with _write_folder(output_dir) as folder:
            (folder / "data").mkdir()
            for split, samples in self._group_by_split().items():
                paths = [path for sample in samples for path in (sample.image_path, sample.mask_path) if path]
                num_bytes = sum(path.stat().st_size for path in paths)
                num_shards = min(len(samples), 1 + num_bytes // _SHARD_BYTES)
                for number in range(num_shards):
                    begin, end = (len(samples) * part // num_shards for part in (number, number + 1))
                    # The library writes paths as they are: only images that are bytes go into the file.
                    rows = [self._to_row(sample) for sample in samples[begin:end]]
                    for row in rows:
                        row["image"], row["mask"] = _read_bytes(row["image"]), _read_bytes(row["mask"])
                    name = f"{split}-{number:05d}-of-{num_shards:05d}.parquet"
                    self._to_dataset(rows).to_parquet(folder / "data" / name)

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
        with _write_folder(output_dir) as folder:
            for split, samples in self._group_by_split().items():
                rows = []
                for number, sample in enumerate(samples):
                    row = self._to_row(sample)
                    for kind in ("image", "mask"):
                        source = row.pop(kind)
                        name = f"{kind}s/{number:06d}{Path(source).suffix.lower()}" if source else None
                        row[f"{kind}_file_name"] = name
                        if name is not None:
                            (folder / split / name).parent.mkdir(parents=True, exist_ok=True)
                            shutil.copyfile(source, folder / split / name)
                    rows.append(row)
                self._to_dataset(rows).to_parquet(folder / split / "metadata.parquet")

    def _to_row(self, sample: AnomalySample) -> dict[str, Any]:
        row = {name: getattr(sample, name) for name in _COLUMNS}
        row["image"] = str(sample.image_path)
        row["mask"] = None if sample.mask_path is None else str(sample.mask_path)
        # The path of this machine is nobody's business where the data set is published.
        row["image_path"] = sample.image_path.relative_to(self.root).as_posix()
        return row

    @staticmethod
    def _to_dataset(rows: list[dict[str, Any]]) -> "datasets.Dataset":
        """Give rows their types; all have the same columns."""
        datasets = _import_datasets()
        types = {"image": datasets.Image(), "mask": datasets.Image(), "label": datasets.ClassLabel(names=list(LABELS))}
        features = {name: types.get(name, datasets.Value("string")) for name in rows[0]}
        return datasets.Dataset.from_list(rows, features=datasets.Features(features))

    def _group_by_split(self) -> dict[str, list[AnomalySample]]:
        groups: dict[str, list[AnomalySample]] = {}
        for sample in self:
            groups.setdefault(sample.split, []).append(sample)
        return groups


class AnomalyDataset:
    """Read a Hugging Face dataset with columns of any name, in memory or streamed, as [`AnomalySample`]s.

    Args:
        dataset (`datasets.Dataset` or `datasets.IterableDataset`): One split of a dataset.
        columns (`dict[str, str]`, *optional*): Names of its columns: {"image": "img", "mask": "truth"}. The keys are
            image, mask, label, category, class_name, defect_type, image_path and split. A column that is not
            named is taken under its own name, if there is one; only an image is needed.
        good_labels (collection of `str` or `int`, *optional*): Values of the label that mean good, in any case of
            letters. A `ClassLabel` is compared by its names. Any other label is anomalous, and text is then the defect
            type too.
        category (`str`, *optional*, defaults to `"object"`): Category of all rows, if no column has it.
        class_names (`dict[str, str]`, *optional*): Words for the prompts by category; as in [`AnomalyFolder`].
        mask_threshold (`float`, *optional*, defaults to 0): Mask values above it are defects; see [`load_mask`].
        missing_mask (`str`, *optional*, defaults to `"unknown"`): What a row without a mask is, if it has no label
            either: "unknown" or "good".

    Raises:
        TypeError: If `dataset` is a dictionary of splits.
        ValueError: If a column is not there, or no name of a `ClassLabel` is among `good_labels`.

    Example:

    ```python
    >>> import datasets
    >>> from clipsam_hf.data import AnomalyDataset

    >>> rows = datasets.Dataset.from_dict({"photo": [photograph, photograph], "state": ["ok", "bent"]})
    >>> samples = AnomalyDataset(rows, columns={"image": "photo", "label": "state"}, category="screw")
    >>> [(sample.label, sample.defect_type) for sample in samples]
    [(0, 'good'), (1, 'bent')]

    ```
    """

    def __init__(
        self,
        dataset: Any,
        *,
        columns: Mapping[str, str] | None = None,
        good_labels: Collection[str | int] = (*sorted(GOOD_NAMES), 0),
        category: str = "object",
        class_names: Mapping[str, str] | None = None,
        mask_threshold: float = 0,
        missing_mask: str = "unknown",
    ) -> None:
        _check_choice("missing_mask", missing_mask, ("unknown", "good"))
        if isinstance(dataset, Mapping):
            raise TypeError(f"`dataset` must be one split, got all of {sorted(dataset)}: give dataset['test'], say.")
        # A streamed dataset of unknown features shows its columns in its rows only.
        available = dataset.column_names or list(next(iter(dataset), {}))
        self.columns = {name: name for name in _COLUMNS if name in available}
        for name, column in (columns or {}).items():
            _check_choice("columns", name, _COLUMNS)
            _check_choice(f"columns[{name!r}]", column, available)
            self.columns[name] = column
        if "image" not in self.columns:
            raise ValueError(f"`columns` must name the images; the dataset has {available}.")
        self.dataset = dataset
        self.good_labels = frozenset(_fold(label) for label in good_labels)
        self.category = category
        self.class_names = dict(class_names or {})
        self.mask_threshold = mask_threshold
        self.missing_mask = missing_mask

        self._label_names: list[str] | None = None
        if "label" in self.columns and dataset.features:
            self._label_names = getattr(dataset.features[self.columns["label"]], "names", None)
        if self._label_names and not self.good_labels.intersection(map(_fold, self._label_names)):
            raise ValueError(
                f"`good_labels` {sorted(map(str, self.good_labels))} has none of the labels {self._label_names}."
            )

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> AnomalySample:
        with _reading_row(index):
            row = self.dataset[index]
        return self._to_sample(row)

    def __iter__(self) -> Iterator[AnomalySample]:
        rows = iter(self.dataset)
        number = 0
        while True:
            with _reading_row(number):
                row = next(rows, None)
            if row is None:
                return
            yield self._to_sample(row)
            number += 1

    def _to_sample(self, row: Mapping[str, Any]) -> AnomalySample:
        values = {name: row[column] for name, column in self.columns.items()}
        image, mask = values["image"], values.get("mask")
        category = values.get("category", self.category)
        label, defect_type = self._read_label(values.get("label"))
        if label is None and mask is None and self.missing_mask == "good":
            label = 0
        class_name = self.class_names.get(category) or values.get("class_name") or str(category).replace("_", " ")
        return AnomalySample(
            image_path=Path(values.get("image_path") or getattr(image, "filename", "") or ""),
            mask_path=None,
            label=label,
            category=category,
            class_name=class_name,
            defect_type=values.get("defect_type") or defect_type,
            split=values.get("split") or str(self.dataset.split or "test"),
            mask_threshold=self.mask_threshold,
            image=image,
            mask=mask,
        ).resolve()

    def _read_label(self, value: Any) -> tuple[int | None, str | None]:
        """Give the label, and the defect type if the value says it."""
        if value is None or (self._label_names and value == -1):  # -1 is how `datasets` writes "no label"
            return None, None
        if self._label_names:
            value = self._label_names[value]
        if _fold(value) in self.good_labels:
            return 0, GOOD
        return 1, value if isinstance(value, str) and value != LABELS[1] else None


def _fold(label: Any) -> Any:
    return label.lower() if isinstance(label, str) else label


def _check_choice(name: str, value: str, allowed: Collection[str]) -> None:
    if value not in allowed:
        near = difflib.get_close_matches(str(value), allowed, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"`{name}` must be one of {list(allowed)}, got {value!r}.{hint}")


def _check_files(entries: list[Entry]) -> None:
    """Stop if a file that a table names is not there, or is named twice."""
    paths = [path for entry in entries for path in (entry.image_path, entry.mask_path) if path is not None]
    if missing := [path for path in paths if not path.is_file()]:
        raise ValueError(f"{len(missing)} files of the data set are missing:\n  {name_some(missing)}")
    if twice := [path for path, count in Counter(entry.image_path for entry in entries).items() if count > 1]:
        raise ValueError(f"{len(twice)} images are listed twice:\n  {name_some(twice)}")


def _check_counts(folder: AnomalyFolder, visa_split: str, *, complete: bool) -> None:
    """Warn if a published data set has other counts than its authors give."""
    known = KNOWN_COUNTS.get(folder.layout, {})
    if not known.keys() & set(folder.categories):
        return
    found = Counter((sample.category, sample.split, sample.label) for sample in folder)
    differences = []
    if folder.layout == "visa" and visa_split in VISA_TOTALS:
        every = Counter((sample.split, sample.label) for sample in folder)
        for split, expected in VISA_TOTALS[visa_split].items():
            counts = every[split, 0], every[split, 1]
            if complete and split in (folder.split or split) and counts != expected:
                differences.append(_describe_counts("all categories", split, counts, expected))
    else:
        for category in known if complete else folder.categories:
            for split, expected in known.get(category, {}).items():
                counts = found[category, split, 0], found[category, split, 1]
                if split in (folder.split or split) and counts != expected:
                    differences.append(_describe_counts(category, split, counts, expected))
    if differences:
        warnings.warn(
            f"'{folder.root}' is not the whole of {folder.layout!r} as published:\n  {name_some(differences, 20)}",
            stacklevel=3,
        )


def _describe_counts(category: str, split: str, found: tuple[int, int], expected: tuple[int, int]) -> str:
    return (
        f"{category}, {split}: {found[0]} good and {found[1]} anomalous images, "
        f"expected are {expected[0]} and {expected[1]}"
    )


def _read_bytes(path: str | None) -> dict[str, Any] | None:
    """Give an image as `datasets` stores it: the bytes of the file, and its name without the folders."""
    return None if path is None else {"bytes": Path(path).read_bytes(), "path": Path(path).name}


def _import_datasets() -> Any:
    try:
        import datasets
    except ImportError as error:
        raise ImportError('This needs the library `datasets`: pip install "clipsam_hf[train]".') from error
    return datasets


@contextmanager
def _reading_row(number: int) -> Iterator[None]:
    """Name the row whose image cannot be decoded."""
    try:
        yield
    except (MemoryError, IndexError, StopIteration):
        raise
    except Exception as error:
        raise ImageReadError(
            f"Cannot read row {number} of the dataset: {str(error) or type(error).__name__}."
        ) from error


@contextmanager
def _write_folder(output_dir: str | os.PathLike[str]) -> Iterator[Path]:
    """Fill a folder under another name and give it its own at the end, so that nothing half-written stays."""
    target = Path(output_dir)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise FileExistsError(f"'{target}' exists and is no empty folder; give another one.")
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.parent / f".{target.name}-{uuid.uuid4().hex}"
    temporary.mkdir()
    try:
        yield temporary
        if target.exists():
            target.rmdir()
        temporary.rename(target)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


__all__ = ["LABELS", "AnomalyDataset", "AnomalyFolder", "AnomalySample", "load_mask"]
