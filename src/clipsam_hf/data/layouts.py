# SPDX-FileCopyrightText: 2026 The clipsam_hf authors
# SPDX-License-Identifier: Apache-2.0
"""Where the data sets of the field keep images and masks: folder layouts to entries; no pixel is read here."""

import csv
import json
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple


GOOD = "good"
DEFECT = "defect"
"""Kind of a defect where the data set does not tell kinds apart."""

GOOD_NAMES = frozenset({"good", "normal", "ok"})
BAD_NAMES = frozenset({"abnormal", "anomalous", "anomaly", "bad", "defect", "defective", "ko", "ng"})
MASK_FOLDERS = ("ground_truth", "masks")
IMAGE_SUFFIXES = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"})
SPLITS = ("train", "test")
VISA_SPLITS = ("1cls", "2cls_highshot", "2cls_fewshot")
LAYOUTS = ("mvtec", "visa", "mtd", "ksdd2", "btad", "folder", "meta")

_MASK_ENDING = re.compile(r"_(mask|gt)$", re.IGNORECASE)

_EXPECTED_PATHS = {
    "mvtec": "<category>/{train,test}/good/, <category>/test/<defect>/ and <category>/ground_truth/<defect>/",
    "visa": "split_csv/<visa_split>.csv beside <category>/Data/Images/, or the prepared <visa_split>/<category>/test/",
    "mtd": "MT_<kind>/Imgs/<stem>.jpg with <stem>.png",
    "ksdd2": "{train,test}/<stem>.png with <stem>_GT.png",
    "btad": "<category>/{train,test}/ok/, <category>/test/ko/ and <category>/ground_truth/ko/",
    "folder": "images directly in it or in images/, in good/ and bad/, or in train/ and test/",
    "meta": "meta.json",
}

# Images per category: good of train, good of test, anomalous of test.
_MVTEC_COUNTS = {
    "bottle": (209, 20, 63), "cable": (224, 58, 92), "capsule": (219, 23, 109), "carpet": (280, 28, 89),
    "grid": (264, 21, 57), "hazelnut": (391, 40, 70), "leather": (245, 32, 92), "metal_nut": (220, 22, 93),
    "pill": (267, 26, 141), "screw": (320, 41, 119), "tile": (230, 33, 84), "toothbrush": (60, 12, 30),
    "transistor": (213, 60, 40), "wood": (247, 19, 60), "zipper": (240, 32, 119),
}  # fmt: skip
_VISA_COUNTS = {
    "candle": (900, 100, 100), "capsules": (542, 60, 100), "cashew": (450, 50, 100), "chewinggum": (453, 50, 100),
    "fryum": (450, 50, 100), "macaroni1": (900, 100, 100), "macaroni2": (900, 100, 100), "pcb1": (904, 100, 100),
    "pcb2": (901, 100, 100), "pcb3": (905, 101, 100), "pcb4": (904, 101, 100), "pipe_fryum": (450, 50, 100),
}  # fmt: skip
_BTAD_COUNTS = {"01": (400, 21, 49), "02": (399, 30, 200), "03": (1000, 400, 41)}

Counts = dict[str, dict[str, tuple[int, int]]]


def _one_class(counts: Mapping[str, tuple[int, int, int]]) -> Counts:
    return {
        category: {"train": (train, 0), "test": (good, anomalous)}
        for category, (train, good, anomalous) in counts.items()
    }


KNOWN_COUNTS: dict[str, Counts] = {
    "mvtec": _one_class(_MVTEC_COUNTS),
    "visa": _one_class(_VISA_COUNTS),
    "btad": _one_class(_BTAD_COUNTS),
    "mtd": {"mtd": {"test": (956, 388)}},
    "ksdd2": {"ksdd2": {"train": (2085, 246), "test": (894, 110)}},
}
"""(good, anomalous) images of the published sets: layout, category, split. VisA's are those of its split 1cls."""

VISA_TOTALS = {
    "2cls_highshot": {"train": (5773, 720), "test": (3848, 480)},
    "2cls_fewshot": {"train": (1924, 240), "test": (7697, 960)},
}
"""(good, anomalous) images over all categories of VisA's other splits."""

CLASS_NAMES = {
    "visa": {
        "chewinggum": "chewing gum",
        "macaroni1": "macaroni",
        "macaroni2": "macaroni",
        **{f"pcb{number}": "printed circuit board" for number in range(1, 5)},
    },
    "btad": {"01": "metal", "02": "wood", "03": "metal"},
    "mtd": {"mtd": "magnetic tile"},
    "ksdd2": {"ksdd2": "object"},
}
"""Words for the prompts where a category's name is no English noun: layout, category. CLIP never saw a "pcb1"."""


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


def detect_layout(root: Path) -> str | None:
    """Recognise a data set by its folders and files.

    Args:
        root (`Path`): Folder of the data set, or of one category of MVTec-AD, BTAD or prepared VisA.

    Returns:
        `str` or `None`: One of `LAYOUTS`; `None` if the folder looks like none of them.
    """
    if (root / "meta.json").is_file():
        return "meta"
    if (root / "split_csv").is_dir() or any(root.glob("*/Data/Images")):
        return "visa"
    if any((root / name).is_dir() and _category_folders(root / name) for name in VISA_SPLITS):
        return "visa"
    if any(root.glob("MT_*/Imgs")):
        return "mtd"
    if any(next(root.glob(f"{split}/*_GT.*"), None) for split in SPLITS):
        return "ksdd2"
    # A root that is split into good and bad images but has no masks is a plain folder, not a category.
    categories = _category_folders(root)
    if categories and (categories != [root] or (root / "ground_truth").is_dir()):
        if any((folder / split / "ok").is_dir() for folder in categories for split in SPLITS):
            return "btad"
        return "visa" if {_name_of(folder) for folder in categories} <= set(_VISA_COUNTS) else "mvtec"
    return "folder" if any(_plain_folder_has_images(folder) for _, folder in _plain_splits(root)) else None


def list_entries(
    root: Path, layout: str, *, visa_split: str = "1cls", missing_mask: str = "error"
) -> tuple[str, list[Entry]]:
    """List the images of a data set with their masks, matched by stem and never by order.

    Args:
        root (`Path`): Folder of the data set.
        layout (`str`): "auto" or one of `LAYOUTS`.
        visa_split (`str`, *optional*, defaults to `"1cls"`): One of `VISA_SPLITS`; read for VisA only.
        missing_mask (`str`, *optional*, defaults to `"error"`): What an image without a mask is, where nothing but
            the masks tell good from anomalous (a plain folder): "error" or "good".

    Returns:
        `tuple[str, list[Entry]]`: The layout, and the entries of all splits and categories, sorted by path within
        each folder.

    Raises:
        ValueError: If the layout is not there, holds no image, or masks and images do not match one to one.
    """
    found = detect_layout(root) if layout == "auto" else layout
    entries: list[Entry] = []
    if found == "meta" and (root / "meta.json").is_file():
        entries = _read_meta(root)
    elif found == "visa":
        entries = _read_visa(root, visa_split)
    elif found == "mtd":
        entries = _read_mtd(root)
    elif found == "ksdd2":
        entries = _read_ksdd2(root)
    elif found in ("mvtec", "btad"):
        entries = _read_categories(root)
    elif found == "folder":
        entries = _read_folder(root, missing_mask)
    if found is None or not entries:
        raise ValueError(_describe_failure(root, layout))
    return found, entries


def _describe_failure(root: Path, layout: str) -> str:
    """Say why nothing was found, and where it may lie instead."""
    wanted = LAYOUTS if layout == "auto" else (layout,)
    lines = [f"'{root}' holds no images in the layout {layout!r}. What is looked for:"]
    lines += [f"  {name}: {_EXPECTED_PATHS[name]}" for name in wanted]
    for folder in (root, *_subfolders(root)):
        with suppress(OSError):  # a folder that may not be read is no place to point at
            if (name := detect_layout(folder)) not in (None, layout):
                lines.append(f"'{folder}' looks like {name!r}.")
    return "\n".join(lines)


# --------------------------------------------------------------------------------------------------------------------
# Files and their stems


def name_some(paths: Iterable[object], limit: int = 5) -> str:
    """Write the first few paths one per line, and how many more there are."""
    every = [str(path) for path in paths]
    rest = [f"... and {len(every) - limit} more"] if len(every) > limit else []
    return "\n  ".join([*every[:limit], *rest])


def _subfolders(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))


def _name_of(folder: Path) -> str:
    """Give the name of a folder, also of one like "." or "..", which has none of its own."""
    return folder.resolve().name if folder.name in ("", "..") else folder.name


def _list_images(folder: Path, suffixes: Collection[str] = IMAGE_SUFFIXES) -> dict[str, Path]:
    """List the images directly in a folder by stem; a folder that does not exist is empty."""
    images: dict[str, Path] = {}
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        # Names with a leading dot are what macOS writes beside the real files.
        if path.suffix.lower() not in suffixes or path.name.startswith(".") or not path.is_file():
            continue
        if path.stem in images:
            raise ValueError(f"Two files share one stem, so masks cannot be matched:\n  {images[path.stem]}\n  {path}")
        images[path.stem] = path
    return images


def _match_masks(
    images: Mapping[str, Path], masks: Mapping[str, Path], *, place: Path, optional: bool = False
) -> dict[str, Path]:
    """Give each image the mask of its stem, or of its stem with `_mask` or `_GT`."""
    matched: dict[str, Path] = {}
    for stem, path in masks.items():
        key = stem if stem in images else _MASK_ENDING.sub("", stem)
        if key in matched:
            raise ValueError(f"Two masks belong to one image:\n  {matched[key]}\n  {path}")
        matched[key] = path
    if orphans := [path for stem, path in matched.items() if stem not in images]:
        raise ValueError(f"{len(orphans)} masks without an image:\n  {name_some(orphans)}")
    if not optional and (missing := [path for stem, path in images.items() if stem not in matched]):
        raise ValueError(f"{len(missing)} images without a mask in '{place}':\n  {name_some(missing)}")
    return matched


# --------------------------------------------------------------------------------------------------------------------
# MVTec-AD, and BTAD and prepared VisA, which are built alike


def _category_folders(root: Path) -> list[Path]:
    """List the categories of a root, or the root itself if it is one."""
    return [root] if _is_category(root) else [folder for folder in _subfolders(root) if _is_category(folder)]


def _is_category(folder: Path) -> bool:
    if any((folder / split / name).is_dir() for split in SPLITS for name in GOOD_NAMES):
        return True
    return (folder / "ground_truth").is_dir() and bool(_subfolders(folder / "test"))


def _read_categories(root: Path) -> list[Entry]:
    return [entry for folder in _category_folders(root) for entry in _read_category(folder)]


def _read_category(folder: Path) -> Iterator[Entry]:
    truth, used = folder / "ground_truth", set()
    for split in SPLITS:
        for kind in _subfolders(folder / split):
            # VisA's two-class splits keep one more level, because both splits have defects there.
            place = nested if (nested := truth / split / kind.name).is_dir() else truth / kind.name
            is_good = kind.name.lower() in GOOD_NAMES
            images = _list_images(kind)
            masks = {} if is_good and split == "train" else _list_images(place)
            used.add(place)
            matched = _match_masks(images, masks, place=place, optional=is_good)
            label, defect_type = (0, GOOD) if is_good else (1, kind.name)
            for stem, path in images.items():
                yield Entry(path, matched.get(stem), label, _name_of(folder), defect_type, split)
    places = [place for top in _subfolders(truth) for place in ([top] if top.name not in SPLITS else _subfolders(top))]
    orphans = [path for place in places if place not in used for path in _list_images(place).values()]
    if orphans:
        raise ValueError(f"{len(orphans)} masks without an image:\n  {name_some(orphans)}")


# --------------------------------------------------------------------------------------------------------------------
# VisA as it is downloaded


def _read_visa(root: Path, visa_split: str) -> list[Entry]:
    if _category_folders(root / visa_split):
        return _read_categories(root / visa_split)
    table = root / "split_csv" / f"{visa_split}.csv"
    if not table.is_file():
        return _read_categories(root)
    kinds: dict[str, dict[str, str]] = {}
    entries = []
    for number, row in enumerate(_read_csv(table, ("object", "split", "label", "image", "mask")), start=2):
        category, label = row["object"], row["label"]
        if label not in ("normal", "anomaly"):
            raise ValueError(f"Line {number} of '{table}' has label {label!r}, accepted are 'normal' and 'anomaly'.")
        if (label == "anomaly") != bool(row["mask"]):
            raise ValueError(f"Line {number} of '{table}': anomalies have a mask and normal images none.")
        if not (root / category).is_dir():  # a category that was not unpacked
            continue
        if category not in kinds:
            kinds[category] = _read_visa_kinds(root / category / "image_anno.csv")
        image_path = _inside(root, row["image"], table)
        mask_path = _inside(root, row["mask"], table) if row["mask"] else None
        kind = GOOD if mask_path is None else kinds[category].get(row["image"], "anomaly")
        entries.append(Entry(image_path, mask_path, int(mask_path is not None), category, kind, row["split"]))
    return entries


def _read_visa_kinds(table: Path) -> dict[str, str]:
    """Read the kinds of defect of a category, which are no part of the split files: image to kinds."""
    if not table.is_file():
        return {}
    return {row["image"]: row["label"] for row in _read_csv(table, ("image", "label"))}


def _read_csv(path: Path, columns: Collection[str]) -> list[dict[str, str]]:
    with open(path, newline="", encoding="utf-8-sig") as file:
        reader = csv.DictReader(file, restval="")
        if missing := sorted(set(columns) - set(reader.fieldnames or ())):
            raise ValueError(f"'{path}' lacks the columns {missing}; it has {list(reader.fieldnames or ())}.")
        return list(reader)


def _inside(root: Path, name: str, source: Path) -> Path:
    """Join a path from a file of the data set to the root, which it must not leave."""
    parts = name.replace("\\", "/").split("/")
    if name.startswith(("/", "\\")) or ".." in parts or ":" in parts[0]:
        raise ValueError(f"'{source}' names {name!r}, accepted are paths below '{root}'.")
    return root.joinpath(*parts)


# --------------------------------------------------------------------------------------------------------------------
# MTD and KolektorSDD2: the mask's content is the label


def _read_mtd(root: Path) -> list[Entry]:
    entries = []
    for folder in sorted(root.glob("MT_*/Imgs")):
        images, masks = _list_images(folder, IMAGE_SUFFIXES - {".png"}), _list_images(folder, {".png"})
        matched = _match_masks(images, masks, place=folder)
        kind = folder.parent.name.removeprefix("MT_").lower()
        label, defect_type = (0, GOOD) if kind == "free" else (None, kind)
        entries += [Entry(path, matched[stem], label, "mtd", defect_type, "test") for stem, path in images.items()]
    return entries


def _read_ksdd2(root: Path) -> list[Entry]:
    entries = []
    for split in SPLITS:
        files = _list_images(root / split)
        masks = {stem: path for stem, path in files.items() if stem.upper().endswith("_GT")}
        images = {stem: path for stem, path in files.items() if stem not in masks}
        matched = _match_masks(images, masks, place=root / split)
        entries += [Entry(path, matched[stem], None, "ksdd2", DEFECT, split) for stem, path in images.items()]
    return entries


# --------------------------------------------------------------------------------------------------------------------
# Plain folders


def _plain_splits(root: Path) -> list[tuple[str, Path]]:
    """List the splits of a plain folder; one without sub-folders for them is all test."""
    return [(split, root / split) for split in SPLITS if (root / split).is_dir()] or [("test", root)]


def _plain_folder_has_images(folder: Path) -> bool:
    kinds = [kind for kind in _subfolders(folder) if kind.name.lower() in GOOD_NAMES | BAD_NAMES | {"images"}]
    return any(
        path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".")
        for place in (folder, *kinds)
        for path in place.iterdir()
    )


def _read_folder(root: Path, missing_mask: str) -> list[Entry]:
    entries: list[Entry] = []
    for split, folder in _plain_splits(root):
        kinds = [kind for kind in _subfolders(folder) if kind.name.lower() not in MASK_FOLDERS]
        place = next((folder / name for name in MASK_FOLDERS if (folder / name).is_dir()), None)
        if any(kind.name.lower() in GOOD_NAMES | BAD_NAMES for kind in kinds):
            found = _read_kinds(kinds, place)
        else:
            found = _read_images(folder, place, missing_mask)
        entries += [entry._replace(category=_name_of(root), split=split) for entry in found]
    return entries


def _read_kinds(kinds: list[Path], place: Path | None) -> Iterator[Entry]:
    """Read one folder per kind, good or a defect; masks are in one folder or in one per kind, or there are none."""
    images = {kind: _list_images(kind) for kind in kinds}
    bad = [kind for kind in kinds if kind.name.lower() not in GOOD_NAMES]
    matched: dict[Path, Path] = {}
    if place is not None and not _subfolders(place):
        every: dict[str, Path] = {}
        for kind in bad:
            if shared := sorted(every.keys() & images[kind].keys()):
                same = [folder[shared[0]] for folder in (every, images[kind])]
                raise ValueError(f"Two images share one stem, so masks cannot be matched:\n  {name_some(same)}")
            every |= images[kind]
        matched = {every[stem]: path for stem, path in _match_masks(every, _list_images(place), place=place).items()}
    elif place is not None:
        for kind in kinds:
            masks = _list_images(place / kind.name)
            pairs = _match_masks(images[kind], masks, place=place / kind.name, optional=kind not in bad)
            matched |= {images[kind][stem]: path for stem, path in pairs.items()}
    for kind in kinds:
        label, defect_type = (1, kind.name) if kind in bad else (0, GOOD)
        for path in images[kind].values():
            yield Entry(path, matched.get(path), label, "", defect_type, "")


def _read_images(folder: Path, place: Path | None, missing_mask: str) -> Iterator[Entry]:
    """Read images with masks in a folder of their own or beside them as `<stem>_mask`, or without any truth."""
    images = _list_images(folder / "images" if (folder / "images").is_dir() else folder)
    masks = _list_images(place) if place is not None else {}
    if place is None:
        masks = {
            stem: path
            for stem, path in images.items()
            if (bare := _MASK_ENDING.sub("", stem)) != stem and bare in images
        }
        images = {stem: path for stem, path in images.items() if stem not in masks}
    has_truth = place is not None or bool(masks)
    absent_is_good = missing_mask == "good"
    matched = _match_masks(images, masks, place=place or folder, optional=absent_is_good or not has_truth)
    for stem, path in images.items():
        if stem in matched:
            yield Entry(path, matched[stem], None, "", DEFECT, "")
        elif has_truth:
            yield Entry(path, None, 0, "", GOOD, "")
        else:
            yield Entry(path, None, None, "", None, "")


# --------------------------------------------------------------------------------------------------------------------
# meta.json


def _read_meta(root: Path) -> list[Entry]:
    """Read a list of rows, or the CLIP repositories' {split: {category: rows}}."""
    source = root / "meta.json"
    entries = []
    for number, row in enumerate(_meta_rows(source)):
        lacking = {"img_path", "mask_path", "cls_name", "anomaly", "split"} - row.keys()
        if lacking or row["anomaly"] not in (0, 1):
            problem = (
                f"lacks {sorted(lacking)}" if lacking else f"has anomaly {row['anomaly']!r}, accepted are 0 and 1"
            )
            raise ValueError(f"Row {number} of '{source}' {problem}.")
        mask_path = _inside(root, row["mask_path"], source) if row["mask_path"] else None
        kind = row.get("specie_name") or DEFECT
        image_path = _inside(root, row["img_path"], source)
        entries.append(Entry(image_path, mask_path, int(row["anomaly"]), row["cls_name"], kind, row["split"]))
    bare = [entry.image_path for entry in entries if entry.label == 1 and entry.mask_path is None]
    # Sets without any mask, of medical images say, have truth for whole images only.
    if bare and any(entry.mask_path for entry in entries):
        raise ValueError(f"'{source}' names no mask for {len(bare)} anomalous images:\n  {name_some(bare)}")
    return entries


def _meta_rows(source: Path) -> list[dict[str, Any]]:
    try:
        content = json.loads(source.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"'{source}' is no JSON: {error}.") from error
    try:
        if isinstance(content, dict):
            return [
                {"split": split, "cls_name": category, **row}
                for split, categories in content.items()
                for category, rows in categories.items()
                for row in rows
            ]
        return [{"split": "test", **row} for row in content]
    except (AttributeError, TypeError) as error:
        raise ValueError(f"'{source}' is neither a list of rows nor {{split: {{category: rows}}}}.") from error


__all__ = [
    "CLASS_NAMES",
    "DEFECT",
    "GOOD",
    "GOOD_NAMES",
    "KNOWN_COUNTS",
    "LAYOUTS",
    "VISA_SPLITS",
    "VISA_TOTALS",
    "Entry",
    "detect_layout",
    "list_entries",
    "name_some",
]
