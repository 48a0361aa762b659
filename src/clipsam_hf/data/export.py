# SPDX-FileCopyrightText: 2026 The clipsam_hf authors
# SPDX-License-Identifier: Apache-2.0
"""Data sets as the Hub stores them: a Hugging Face dataset, Parquet files, a folder of images."""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..files import fill_folder_atomically
from .samples import COLUMNS, LABELS, AnomalySample


if TYPE_CHECKING:
    import datasets


# A shard of a Parquet file is made in memory.
_SHARD_BYTES = 250_000_000


def to_dataset(samples: Sequence[AnomalySample], root: Path) -> "datasets.Dataset":
    """Make a Hugging Face dataset of samples; images stay files.

    Args:
        samples (sequence of [`AnomalySample`]): at least one; all are files.
        root (`Path`): folder of the data set, which the column `image_path` is relative to.

    Returns:
        `datasets.Dataset`: with the columns `COLUMNS`.

    Raises:
        ImportError: If `datasets` is not installed.
    """
    return _make_dataset([_to_row(sample, root) for sample in samples])


def write_parquet(samples: Sequence[AnomalySample], root: Path, output_dir: Path) -> None:
    """Write `data/<split>-*.parquet` with the images inside, see [`AnomalyFolder.save_parquet`]."""
    with fill_folder_atomically(output_dir) as folder:
        (folder / "data").mkdir()
        for split, group in _group_by_split(samples).items():
            paths = [path for sample in group for path in (sample.image_path, sample.mask_path) if path]
            num_bytes = sum(path.stat().st_size for path in paths)
            num_shards = min(len(group), 1 + num_bytes // _SHARD_BYTES)
            for number in range(num_shards):
                begin, end = (len(group) * part // num_shards for part in (number, number + 1))
                # The library writes paths as they are: only images that are bytes go into the file.
                rows = [_to_row(sample, root) for sample in group[begin:end]]
                for row in rows:
                    row["image"], row["mask"] = _read_bytes(row["image"]), _read_bytes(row["mask"])
                name = f"{split}-{number:05d}-of-{num_shards:05d}.parquet"
                _make_dataset(rows).to_parquet(folder / "data" / name)


def write_imagefolder(samples: Sequence[AnomalySample], root: Path, output_dir: Path) -> None:
    """Copy the files beside `<split>/metadata.parquet`, see [`AnomalyFolder.save_imagefolder`]."""
    with fill_folder_atomically(output_dir) as folder:
        for split, group in _group_by_split(samples).items():
            rows = []
            for number, sample in enumerate(group):
                row = _to_row(sample, root)
                for kind in ("image", "mask"):
                    source = row.pop(kind)
                    name = f"{kind}s/{number:06d}{Path(source).suffix.lower()}" if source else None
                    row[f"{kind}_file_name"] = name
                    if name is not None:
                        (folder / split / name).parent.mkdir(parents=True, exist_ok=True)
                        shutil.copyfile(source, folder / split / name)
                rows.append(row)
            _make_dataset(rows).to_parquet(folder / split / "metadata.parquet")


def _to_row(sample: AnomalySample, root: Path) -> dict[str, Any]:
    row = {name: getattr(sample, name) for name in COLUMNS}
    row["image"] = str(sample.image_path)
    row["mask"] = None if sample.mask_path is None else str(sample.mask_path)
    # The path of this machine is nobody's business where the data set is published.
    row["image_path"] = sample.image_path.relative_to(root).as_posix()
    return row


def _make_dataset(rows: list[dict[str, Any]]) -> "datasets.Dataset":
    """Give rows their types; all have the same columns."""
    datasets = _import_datasets()
    types = {"image": datasets.Image(), "mask": datasets.Image(), "label": datasets.ClassLabel(names=list(LABELS))}
    features = {name: types.get(name, datasets.Value("string")) for name in rows[0]}
    return datasets.Dataset.from_list(rows, features=datasets.Features(features))


def _group_by_split(samples: Sequence[AnomalySample]) -> dict[str, list[AnomalySample]]:
    groups: dict[str, list[AnomalySample]] = {}
    for sample in samples:
        groups.setdefault(sample.split, []).append(sample)
    return groups


def _read_bytes(path: str | None) -> dict[str, Any] | None:
    """Give an image as `datasets` stores it: the bytes of the file, and its name without the folders."""
    return None if path is None else {"bytes": Path(path).read_bytes(), "path": Path(path).name}


def _import_datasets() -> Any:
    try:
        import datasets
    except ImportError as error:
        raise ImportError('This needs the library `datasets`: pip install "clipsam_hf[train]".') from error
    return datasets


__all__ = ["to_dataset", "write_imagefolder", "write_parquet"]
