# SPDX-FileCopyrightText: 2026 The clipsam_hf authors
# SPDX-License-Identifier: Apache-2.0
"""Hugging Face datasets, whatever their columns are called, as samples."""

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..image_loading import ImageReadError
from .checks import check_choice
from .layouts import GOOD, GOOD_NAMES
from .samples import COLUMNS, LABELS, AnomalySample


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
        gt_threshold (`float`, *optional*, defaults to 0): Mask values above it are defects; see [`load_mask`].
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
        gt_threshold: float = 0,
        missing_mask: str = "unknown",
    ) -> None:
        check_choice("missing_mask", missing_mask, ("unknown", "good"))
        if isinstance(dataset, Mapping):
            raise TypeError(f"`dataset` must be one split, got all of {sorted(dataset)}: give dataset['test'], say.")
        # A streamed dataset of unknown features shows its columns in its rows only.
        available = dataset.column_names or list(next(iter(dataset), {}))
        self.columns = {name: name for name in COLUMNS if name in available}
        for name, column in (columns or {}).items():
            check_choice("columns", name, COLUMNS)
            check_choice(f"columns[{name!r}]", column, available)
            self.columns[name] = column
        if "image" not in self.columns:
            raise ValueError(f"`columns` must name the images; the dataset has {available}.")
        self.dataset = dataset
        self.good_labels = frozenset(_fold(label) for label in good_labels)
        self.category = category
        self.class_names = dict(class_names or {})
        self.gt_threshold = gt_threshold
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
            gt_threshold=self.gt_threshold,
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


__all__ = ["AnomalyDataset"]
