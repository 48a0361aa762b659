# SPDX-FileCopyrightText: 2026 The clipsam_hf authors
# SPDX-License-Identifier: Apache-2.0
"""Predictions as annotations that a person corrects: COCO's format, and LabelMe's.

Both are made of finished rows, whose regions have outlines, one row at a time.
"""

import json
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import IO, Any

from ..files import open_atomically
from .names import picture_name
from .polygons import decode_region, trace_polygon
from .results import FILE_NAMES, read_rows


__all__ = ["EXPORTS", "check_exports", "remove_annotations", "write_annotations"]

COCO_NAME, LABELME_NAME = "annotations.json", "labelme"

DEFAULT_NAME = "defect"
"""Of a region that nobody has named."""

# Of LabelMe, whose files these are like
_LABELME_VERSION = "6.3.1"


def check_exports(export: Iterable[str]) -> None:
    """Raise ValueError if one is not of `EXPORTS`."""
    for name in export:
        if name not in EXPORTS:
            raise ValueError(f"`export` takes {', '.join(EXPORTS)}, got {name!r}")


def write_annotations(
    output_dir: str | os.PathLike[str], source_dir: str | os.PathLike[str], export: Iterable[str]
) -> list[str]:
    """Write the predictions of a finished run as annotations.

    Args:
        output_dir (`str` or `os.PathLike`): folder of the results.
        source_dir (`str` or `os.PathLike`): folder of the photographs.
        export (`Iterable[str]`): of `"coco"`, one file `annotations.json`, and `"labelme"`, a file for each photograph
            below `labelme`. A file of LabelMe that is there stays as it is: somebody may have corrected it.

    Returns:
        `list[str]`: what was written, by its name below `output_dir`.

    Raises:
        ValueError: if one is unknown.
        OSError: if something cannot be written, or would lie outside `output_dir`.
    """
    wanted = list(dict.fromkeys(export))
    check_exports(wanted)
    return [EXPORTS[name](Path(output_dir), Path(source_dir)) for name in wanted]


def remove_annotations(output_dir: Path) -> None:
    """Remove what `write_annotations` has written of the rows that are there, and nothing else."""
    (output_dir / COCO_NAME).unlink(missing_ok=True)
    labels = output_dir / LABELME_NAME
    if labels.is_symlink() or not (output_dir / FILE_NAMES["jsonl"]).exists():
        return
    for _, name in _name_labels(output_dir):
        with suppress(OSError):  # it would lie elsewhere
            _check_inside(labels / name, output_dir).unlink(missing_ok=True)
    for parent, _, _ in os.walk(labels, topdown=False):
        with suppress(OSError):  # other files are there
            os.rmdir(parent)


def _write_coco(output_dir: Path, source_dir: Path) -> str:
    """Write images, then annotations, then the categories that occur."""
    rows, categories = output_dir / FILE_NAMES["jsonl"], {DEFAULT_NAME: 1}
    with open_atomically(output_dir / COCO_NAME) as file:
        file.write(b'{"info": {"description": "predicted by clipsam_hf, not checked by a person"}, "licenses": [],\n')
        _write_list(file, "images", _coco_images(rows))
        _write_list(file, "annotations", _coco_annotations(rows, categories))
        named = ({"id": number, "name": name, "supercategory": "anomaly"} for name, number in categories.items())
        _write_list(file, "categories", named, end=b"}\n")
    return COCO_NAME


def _write_list(file: IO[bytes], key: str, values: Iterable[dict[str, Any]], end: bytes = b",\n") -> None:
    file.write(json.dumps(key).encode() + b": [")
    for number, value in enumerate(values):
        file.write((b",\n" if number else b"\n") + json.dumps(value).encode())
    file.write(b"]" + end)


def _readable(rows: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the rows of photographs that could be read, with their numbers from 1 on."""
    return ((number, row) for number, row in enumerate(read_rows(rows), start=1) if row["error"] is None)


def _coco_images(rows: Path) -> Iterator[dict[str, Any]]:
    for number, row in _readable(rows):
        yield {"id": number, "file_name": row["path"], "width": row["width"], "height": row["height"]}


def _coco_annotations(rows: Path, categories: dict[str, int]) -> Iterator[dict[str, Any]]:
    """Yield regions; a category that is new gets the next number."""
    number = 0
    for image, row in _readable(rows):
        for region in row["regions"]:
            number += 1
            box = region["box"]
            yield {
                "id": number,
                "image_id": image,
                "category_id": categories.setdefault(region.get("defect_name", DEFAULT_NAME), len(categories) + 1),
                "segmentation": region["outline"],
                "bbox": [box["xmin"], box["ymin"], box["xmax"] - box["xmin"], box["ymax"] - box["ymin"]],
                "area": region["area"],
                "iscrowd": 0,
                "score": region["score"],
            }


def _write_labelme(output_dir: Path, source_dir: Path) -> str:
    source = source_dir.resolve()
    for row, name in _name_labels(output_dir):
        target = _check_inside(output_dir / LABELME_NAME / name, output_dir)
        if target.exists():
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        photograph = os.path.relpath(source / row["path"], target.parent.resolve())
        with open_atomically(target) as file:
            file.write(json.dumps(_labelme_file(row, PurePosixPath(photograph).as_posix()), indent=1).encode())
    return LABELME_NAME


def _name_labels(output_dir: Path) -> Iterator[tuple[dict[str, Any], str]]:
    """Yield rows and the names of their files of LabelMe.

    LabelMe looks for "a.json" when it shows "a.jpg". Where there is an "a.png" too, their files are "a.jpg.json" and
    "a.png.json", which are to be opened themselves.
    """
    rows = output_dir / FILE_NAMES["jsonl"]
    count = Counter(_short_name(row["path"]) for _, row in _readable(rows))
    for _, row in _readable(rows):
        short = _short_name(row["path"])
        yield row, short if count[short] == 1 else picture_name(row["path"], ".json")


def _short_name(path: str) -> str:
    name = PurePosixPath(path)
    return picture_name(name.with_name(name.stem).as_posix(), ".json")


def _check_inside(path: Path, folder: Path) -> Path:
    """Return the path if neither a link nor a made-up name leads out of the folder."""
    if path.is_symlink() or not path.parent.resolve().is_relative_to(folder.resolve()):
        raise OSError(f"{str(path)!r} leads out of the results' folder")
    return path


def _labelme_file(row: Mapping[str, Any], photograph: str) -> dict[str, Any]:
    """Return what LabelMe reads; coordinates are those of the middles of pixels."""
    shapes = []
    for region in row["regions"]:
        middle = (region["box"]["xmin"] + 0.5, region["box"]["ymin"] + 0.5)
        shapes.append(
            {
                "label": region.get("defect_name", DEFAULT_NAME),
                "points": (trace_polygon(decode_region(region)) + middle).tolist(),
                "group_id": None,
                "description": f"score {region['score']:.3f}",
                "shape_type": "polygon",
                "flags": {},
                "mask": None,
            }
        )
    return {
        "version": _LABELME_VERSION,
        "flags": {},
        "shapes": shapes,
        "imagePath": photograph,
        "imageData": None,
        "imageHeight": row["height"],
        "imageWidth": row["width"],
    }


EXPORTS: dict[str, Callable[[Path, Path], str]] = {"coco": _write_coco, "labelme": _write_labelme}
"""What `export` takes."""
