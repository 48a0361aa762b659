# SPDX-FileCopyrightText: 2026 The clipsam_hf authors
# SPDX-License-Identifier: Apache-2.0
"""Data sets: a miniature of every layout, what must stop with the paths, and the real sets where there are some."""

import csv
import json
import os
import sys
import warnings
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
from PIL import Image

from clipsam_hf.data import AnomalyDataset, AnomalyFolder, AnomalySample, load_mask
from clipsam_hf.data.layouts import (
    KNOWN_COUNTS,
    LAYOUTS,
    VISA_TOTALS,
    Entry,
    Layout,
    LayoutOptions,
    detect_layout,
)
from clipsam_hf.image_loading import ImageReadError


HEIGHT, WIDTH = 4, 6


def write_image(path: Path, size: tuple[int, int] = (HEIGHT, WIDTH), **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    format = {".JPG": "JPEG", ".PNG": "PNG"}.get(path.suffix)
    Image.new("RGB", size[::-1], (90, 120, 30)).save(path, format=format, **options)
    return path


def write_mask(path: Path, value: int = 255, size: tuple[int, int] = (HEIGHT, WIDTH)) -> Path:
    """A mask with one defect pixel, at row 1 and column 2; 0 leaves it empty."""
    path.parent.mkdir(parents=True, exist_ok=True)
    mask = np.zeros(size, dtype=np.uint8)
    mask[1, 2] = value
    Image.fromarray(mask).save(path)
    return path


def write_mvtec(root: Path, category: str = "metal_plate") -> Path:
    folder = root / category
    for name in ("train/good/000", "test/good/000", "test/scratch/000", "test/scratch/001", "test/hole/000"):
        write_image(folder / f"{name}.png")
    for name in ("scratch/000", "scratch/001", "hole/000"):
        write_mask(folder / "ground_truth" / f"{name}_mask.png")
    return root


def write_visa_raw(root: Path, anomaly_row: dict[str, str] | None = None) -> Path:
    images, masks = "candle/Data/Images", "candle/Data/Masks"
    write_image(root / images / "Normal" / "0000.JPG")
    write_image(root / images / "Normal" / "0001.JPG")
    write_image(root / images / "Anomaly" / "000.JPG")
    write_mask(root / masks / "Anomaly" / "000.png", value=3)
    rows = [
        {"object": "candle", "split": "train", "label": "normal", "image": f"{images}/Normal/0000.JPG", "mask": ""},
        {"object": "candle", "split": "test", "label": "normal", "image": f"{images}/Normal/0001.JPG", "mask": ""},
        {
            "object": "candle",
            "split": "test",
            "label": "anomaly",
            "image": f"{images}/Anomaly/000.JPG",
            "mask": f"{masks}/Anomaly/000.png",
            **(anomaly_row or {}),
        },
    ]
    write_csv(root / "split_csv" / "1cls.csv", rows)
    kinds = [{"image": f"{images}/Anomaly/000.JPG", "label": "extra wax", "mask": f"{masks}/Anomaly/000.png"}]
    write_csv(root / "candle" / "image_anno.csv", kinds)
    return root


def write_csv(path: Path, rows: list[dict[str, str]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def write_visa_prepared(root: Path) -> Path:
    folder = root / "1cls" / "pcb1"
    for name in ("train/good/0000.JPG", "test/good/0001.JPG", "test/bad/000.JPG"):
        write_image(folder / name)
    write_mask(folder / "ground_truth" / "bad" / "000.png")
    return root


def write_mtd(root: Path) -> Path:
    for kind, stem, value in (("Blowhole", "a", 40), ("Uneven", "b", 0), ("Free", "c", 0)):
        write_image(root / f"MT_{kind}" / "Imgs" / f"{stem}.jpg")
        write_mask(root / f"MT_{kind}" / "Imgs" / f"{stem}.png", value)
    return root


def write_ksdd2(root: Path) -> Path:
    for split, stem, value in (("train", "10000", 0), ("test", "20000", 0), ("test", "20001", 255)):
        write_image(root / split / f"{stem}.png")
        write_mask(root / split / f"{stem}_GT.png", value)
    return root


def write_btad(root: Path) -> Path:
    for category, image, mask in (("01", ".bmp", ".png"), ("02", ".png", ".png"), ("03", ".bmp", ".bmp")):
        for name in ("train/ok/0000", "test/ok/0000", "test/ko/0001"):
            write_image(root / category / f"{name}{image}")
        write_mask(root / category / "ground_truth" / "ko" / f"0001{mask}")
    return root


def write_folder(root: Path) -> Path:
    for name in ("images/a.PNG", "images/b.jpeg"):
        write_image(root / name)
    write_mask(root / "masks" / "a.png")
    write_mask(root / "masks" / "b.png", value=0)
    return root


META_ROWS = [
    {
        "img_path": "images/a.jpg",
        "mask_path": "masks/a.png",
        "cls_name": "cookie",
        "specie_name": "crack",
        "anomaly": 1,
    },
    {"img_path": "images/b.jpg", "mask_path": "", "cls_name": "cookie", "specie_name": "good", "anomaly": 0},
]


def write_meta(root: Path, content: Any = None) -> Path:
    write_image(root / "images" / "a.jpg")
    write_image(root / "images" / "b.jpg")
    write_mask(root / "masks" / "a.png")
    rows = [{**row, "split": "test"} for row in META_ROWS]
    (root / "meta.json").write_text(json.dumps(rows if content is None else content), encoding="utf-8")
    return root


WRITERS = {
    "mvtec": write_mvtec,
    "visa": write_visa_raw,
    "mtd": write_mtd,
    "ksdd2": write_ksdd2,
    "btad": write_btad,
    "folder": write_folder,
    "meta": write_meta,
}


def read(root: Path, **options: Any) -> AnomalyFolder:
    """Reads a miniature, which has fewer images than the published set of its layout."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*is not the whole of")
        return AnomalyFolder(root, **options)


def describe(folder: AnomalyFolder) -> list[tuple[str, str | None, int | None, str, str | None, str]]:
    """One row per sample: image and mask relative to the root, label, category, defect type, split."""
    return [
        (
            sample.image_path.relative_to(folder.root).as_posix(),
            sample.mask_path and sample.mask_path.relative_to(folder.root).as_posix(),
            sample.label,
            sample.category,
            sample.defect_type,
            sample.split,
        )
        for sample in folder
    ]


# Layouts


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layout_is_detected_and_said(layout: str, tmp_path: Path) -> None:
    folder = read(WRITERS[layout](tmp_path))
    assert folder.layout == layout
    assert f"layout={layout!r}" in repr(folder)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layout_that_is_given_reads_the_same(layout: str, tmp_path: Path) -> None:
    root = WRITERS[layout](tmp_path)
    assert list(read(root, layout=layout)) == list(read(root))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_masks_of_every_layout_have_the_size_of_the_image_and_the_defect_in_place(layout: str, tmp_path: Path) -> None:
    expected = np.zeros((HEIGHT, WIDTH), dtype=bool)
    expected[1, 2] = True
    for sample in read(WRITERS[layout](tmp_path)):
        assert sample.load_image().size == (WIDTH, HEIGHT)
        assert np.array_equal(sample.load_mask(), expected if sample.label else np.zeros_like(expected))


def test_mvtec(tmp_path: Path) -> None:
    assert describe(AnomalyFolder(write_mvtec(tmp_path))) == [
        ("metal_plate/test/good/000.png", None, 0, "metal_plate", "good", "test"),
        (
            "metal_plate/test/hole/000.png",
            "metal_plate/ground_truth/hole/000_mask.png",
            1,
            "metal_plate",
            "hole",
            "test",
        ),
        *(
            (f"metal_plate/test/scratch/{stem}.png", f"metal_plate/ground_truth/scratch/{stem}_mask.png")
            + (1, "metal_plate", "scratch", "test")
            for stem in ("000", "001")
        ),
    ]


def test_mvtec_root_may_be_one_category(tmp_path: Path) -> None:
    folder = AnomalyFolder(write_mvtec(tmp_path) / "metal_plate")
    assert (folder.layout, folder.categories, len(folder)) == ("mvtec", ["metal_plate"], 4)


def test_root_without_a_name_is_named_by_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(write_mvtec(tmp_path) / "metal_plate")
    assert AnomalyFolder(".").categories == ["metal_plate"]


def test_train_split_of_mvtec_is_good(tmp_path: Path) -> None:
    [sample] = AnomalyFolder(write_mvtec(tmp_path), split="train")
    assert (sample.label, sample.image_path) == (0, tmp_path / "metal_plate/train/good/000.png")


def test_visa_as_downloaded_with_kinds_of_defect(tmp_path: Path) -> None:
    assert describe(read(write_visa_raw(tmp_path))) == [
        ("candle/Data/Images/Normal/0001.JPG", None, 0, "candle", "good", "test"),
        ("candle/Data/Images/Anomaly/000.JPG", "candle/Data/Masks/Anomaly/000.png", 1, "candle", "extra wax", "test"),
    ]


def test_visa_prepared_has_mask_of_other_extension(tmp_path: Path) -> None:
    assert describe(read(write_visa_prepared(tmp_path))) == [
        ("1cls/pcb1/test/bad/000.JPG", "1cls/pcb1/ground_truth/bad/000.png", 1, "pcb1", "bad", "test"),
        ("1cls/pcb1/test/good/0001.JPG", None, 0, "pcb1", "good", "test"),
    ]


def test_visa_prepared_is_detected_at_the_prepared_folder_too(tmp_path: Path) -> None:
    assert read(write_visa_prepared(tmp_path) / "1cls").layout == "visa"


def test_visa_two_class_split_has_masks_per_split(tmp_path: Path) -> None:
    folder = tmp_path / "2cls_fewshot" / "pcb1"
    for split in ("train", "test"):
        write_image(folder / split / "good" / "0000.JPG")
        write_image(folder / split / "bad" / "000.JPG")
        write_mask(folder / "ground_truth" / split / "bad" / "000.png")
    found = read(tmp_path, visa_split="2cls_fewshot", split=None)
    assert [row[1] for row in describe(found) if row[2]] == [
        "2cls_fewshot/pcb1/ground_truth/train/bad/000.png",
        "2cls_fewshot/pcb1/ground_truth/test/bad/000.png",
    ]


def test_mtd_takes_the_label_from_the_mask(tmp_path: Path) -> None:
    assert describe(read(write_mtd(tmp_path))) == [
        ("MT_Blowhole/Imgs/a.jpg", "MT_Blowhole/Imgs/a.png", 1, "mtd", "blowhole", "test"),
        ("MT_Free/Imgs/c.jpg", None, 0, "mtd", "good", "test"),
        ("MT_Uneven/Imgs/b.jpg", None, 0, "mtd", "good", "test"),
    ]


def test_gt_threshold_moves_the_label_that_the_mask_gives(tmp_path: Path) -> None:
    assert [sample.label for sample in read(write_mtd(tmp_path), gt_threshold=40)] == [0, 0, 0]


def test_ksdd2_test_split_is_read_from_test(tmp_path: Path) -> None:
    assert describe(read(write_ksdd2(tmp_path))) == [
        ("test/20000.png", None, 0, "ksdd2", "good", "test"),
        ("test/20001.png", "test/20001_GT.png", 1, "ksdd2", "defect", "test"),
    ]


def test_ksdd2_as_published_holds_copies_that_do_not_count(tmp_path: Path) -> None:
    write_image(write_ksdd2(tmp_path) / "train" / "10000 (copy).png")
    write_mask(tmp_path / "train" / "10000_GT (copy).png", value=0)
    assert [path for path, *_ in describe(read(tmp_path, split=None))] == [
        "train/10000.png",
        "test/20000.png",
        "test/20001.png",
    ]


def test_ksdd2_copy_without_its_original_stands_for_it(tmp_path: Path) -> None:
    folder = write_ksdd2(tmp_path) / "test"
    for stem in ("20001", "20001_GT"):
        (folder / f"{stem}.png").rename(folder / f"{stem} (copy).png")
    assert describe(read(tmp_path))[1] == (
        "test/20001 (copy).png",
        "test/20001_GT (copy).png",
        1,
        "ksdd2",
        "defect",
        "test",
    )


def test_btad_matches_bmp_and_png_by_stem(tmp_path: Path) -> None:
    masks = [sample.mask_path.name for sample in read(write_btad(tmp_path)) if sample.mask_path]
    assert masks == ["0001.png", "0001.png", "0001.bmp"]


def test_folder_of_images_and_masks(tmp_path: Path) -> None:
    assert describe(AnomalyFolder(write_folder(tmp_path / "screw"))) == [
        ("images/a.PNG", "masks/a.png", 1, "screw", "defect", "test"),
        ("images/b.jpeg", None, 0, "screw", "good", "test"),
    ]


def test_folder_with_masks_beside_the_images(tmp_path: Path) -> None:
    write_image(tmp_path / "a.jpg")
    write_mask(tmp_path / "a_mask.png")
    assert [row[:3] for row in describe(AnomalyFolder(tmp_path))] == [("a.jpg", "a_mask.png", 1)]


def test_folder_whose_masks_exist_for_defects_only(tmp_path: Path) -> None:
    (write_folder(tmp_path) / "masks" / "b.png").unlink()
    assert [sample.label for sample in AnomalyFolder(tmp_path, missing_mask="good")] == [1, 0]


def test_folder_of_good_and_bad_has_labels_but_no_masks(tmp_path: Path) -> None:
    write_image(tmp_path / "good" / "a.png")
    write_image(tmp_path / "scratch" / "a.png")
    good, bad = AnomalyFolder(tmp_path)
    assert (good.label, good.has_mask, bad.label, bad.has_mask, bad.defect_type) == (0, True, 1, False, "scratch")
    with pytest.raises(ValueError, match=r"scratch/a\.png' is anomalous and has no mask"):
        bad.load_mask()


@pytest.mark.parametrize("place", ["masks", "ground_truth/bad"])
def test_folder_of_good_and_bad_with_masks(place: str, tmp_path: Path) -> None:
    write_image(tmp_path / "good" / "a.png")
    write_image(tmp_path / "bad" / "a.png")
    mask = write_mask(tmp_path / place / "a.png")
    assert [(sample.label, sample.mask_path) for sample in AnomalyFolder(tmp_path)] == [(1, mask), (0, None)]


def test_folder_of_good_and_bad_per_split(tmp_path: Path) -> None:
    for name in ("train/good/a.png", "test/good/a.png", "test/bad/b.png"):
        write_image(tmp_path / name)
    folder = AnomalyFolder(tmp_path)
    assert (folder.layout, [row[0] for row in describe(folder)]) == ("folder", ["test/bad/b.png", "test/good/a.png"])


def test_folder_without_any_truth(tmp_path: Path) -> None:
    write_image(tmp_path / "a.jpg")
    [sample] = AnomalyFolder(tmp_path)
    assert (sample.label, sample.defect_type, sample.has_mask) == (None, None, False)
    with pytest.raises(ValueError, match="not known to be good or anomalous"):
        sample.load_mask()


def test_meta_of_the_clip_repositories(tmp_path: Path) -> None:
    content = {"train": {}, "test": {"cookie": [dict(row) for row in META_ROWS]}}
    assert describe(AnomalyFolder(write_meta(tmp_path, content))) == [
        ("images/a.jpg", "masks/a.png", 1, "cookie", "crack", "test"),
        ("images/b.jpg", None, 0, "cookie", "good", "test"),
    ]


def test_meta_without_any_mask_has_labels(tmp_path: Path) -> None:
    rows = [{**row, "mask_path": ""} for row in META_ROWS]
    assert [sample.has_mask for sample in AnomalyFolder(write_meta(tmp_path, rows))] == [False, True]


# Options


def test_category_is_chosen(tmp_path: Path) -> None:
    write_mvtec(write_mvtec(tmp_path, "tube"), "wheel")
    assert AnomalyFolder(tmp_path).categories == ["tube", "wheel"]
    assert AnomalyFolder(tmp_path, category="wheel").categories == ["wheel"]


def test_class_name_has_spaces_and_category_is_kept(tmp_path: Path) -> None:
    sample = AnomalyFolder(write_mvtec(tmp_path))[0]
    assert (sample.category, sample.class_name) == ("metal_plate", "metal plate")


def test_class_name_of_a_category_that_is_no_noun(tmp_path: Path) -> None:
    assert read(write_visa_prepared(tmp_path))[0].class_name == "printed circuit board"


def test_class_names_are_mapped(tmp_path: Path) -> None:
    folder = read(write_visa_prepared(tmp_path), class_names={"pcb1": "ultrasonic sensor"})
    assert (folder[0].category, folder[0].class_name) == ("pcb1", "ultrasonic sensor")


def test_all_splits_are_read(tmp_path: Path) -> None:
    assert [sample.split for sample in read(write_ksdd2(tmp_path), split=None)] == ["train", "test", "test"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layout": "mvtech"}, "`layout` must be one of .* got 'mvtech'. Did you mean 'mvtec'?"),
        ({"split": "tset"}, "`split` must be one of .* got 'tset'. Did you mean 'test'?"),
        ({"category": "metal_plat"}, "`category` .* Did you mean 'metal_plate'?"),
        ({"class_names": {"metal_plat": "plate"}}, "`class_names` .* Did you mean 'metal_plate'?"),
        ({"visa_split": "2cls"}, "`visa_split` must be one of"),
        ({"missing_mask": "skip"}, "`missing_mask` must be one of"),
    ],
)
def test_unknown_option_names_the_nearest(options: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        AnomalyFolder(write_mvtec(tmp_path), **options)


def test_category_of_another_split_only_says_which(tmp_path: Path) -> None:
    write_image(write_mvtec(tmp_path) / "tube/train/good/000.png")
    with pytest.raises(ValueError, match=r"`split` must be one of \['train'\], got 'test'"):
        AnomalyFolder(tmp_path, category="tube")
    assert len(AnomalyFolder(tmp_path, class_names={"tube": "pipe"})) == 4


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layout_is_documented(layout: str) -> None:
    page = Path(__file__).parents[1] / "docs" / "how-to" / "data.md"
    assert f"| `{layout}` |" in page.read_text(encoding="utf-8")


def test_layout_is_one_class_and_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class OneImage(Layout):
        name = "one"
        paths = "one.png"
        known_counts = {"thing": {"test": (0, 2)}}
        class_names = {"thing": "bolt"}

        def detect(self, root: Path) -> bool:
            return (root / "one.png").is_file()

        def read(self, root: Path, options: LayoutOptions) -> list[Entry]:
            return [Entry(root / "one.png", None, 1, "thing", None, "test")] if self.detect(root) else []

    for module in ("layouts", "folders"):
        monkeypatch.setattr(f"clipsam_hf.data.{module}.LAYOUTS", {"one": OneImage(), **LAYOUTS})
    with pytest.raises(ValueError, match=r"(?s)holds no images in the layout 'auto'.*one: one\.png"):
        AnomalyFolder(tmp_path)
    write_image(tmp_path / "one.png")
    with pytest.warns(UserWarning, match="thing, test: 0 good and 1 anomalous images, expected are 0 and 2"):
        [sample] = folder = AnomalyFolder(tmp_path)
    assert (folder.layout, sample.class_name) == ("one", "bolt")


def test_folder_is_a_sequence(tmp_path: Path) -> None:
    folder = AnomalyFolder(write_mvtec(tmp_path))
    assert folder[-1] == list(folder)[3]
    assert [sample.defect_type for sample in folder[:2]] == ["good", "hole"]


# What must stop, with the paths


def test_root_that_does_not_exist(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere"):
        AnomalyFolder(tmp_path / "nowhere")


def test_root_that_is_a_file(tmp_path: Path) -> None:
    with pytest.raises(NotADirectoryError, match=r"a\.png"):
        AnomalyFolder(write_image(tmp_path / "a.png"))


@pytest.mark.parametrize("layout", ["auto", *LAYOUTS])
def test_root_without_images_says_what_is_looked_for(layout: str, tmp_path: Path) -> None:
    (tmp_path / "readme.txt").write_text("nothing here", encoding="utf-8")
    with pytest.raises(ValueError, match=rf"holds no images in the layout '{layout}'"):
        AnomalyFolder(tmp_path, layout)


def test_root_one_folder_too_high_names_the_right_one(tmp_path: Path) -> None:
    write_btad(tmp_path / "BTech_Dataset_transformed")
    with pytest.raises(ValueError, match="BTech_Dataset_transformed' looks like 'btad'"):
        AnomalyFolder(tmp_path)


def test_wrong_layout_names_the_right_one(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="looks like 'ksdd2'"):
        AnomalyFolder(write_ksdd2(tmp_path), "mtd")


MASKS = {
    "mvtec": "metal_plate/ground_truth/hole/000_mask.png",
    "visa": "candle/Data/Masks/Anomaly/000.png",
    "mtd": "MT_Blowhole/Imgs/a.png",
    "ksdd2": "test/20001_GT.png",
    "btad": "03/ground_truth/ko/0001.bmp",
    "folder": "masks/a.png",
    "meta": "masks/a.png",
}
IMAGES = {
    "mvtec": "metal_plate/test/hole/000.png",
    "visa": "candle/Data/Images/Anomaly/000.JPG",
    "mtd": "MT_Blowhole/Imgs/a.jpg",
    "ksdd2": "test/20001.png",
    "btad": "03/test/ko/0001.bmp",
    "folder": "images/a.PNG",
    "meta": "images/a.jpg",
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_missing_mask_stops(layout: str, tmp_path: Path) -> None:
    (WRITERS[layout](tmp_path) / MASKS[layout]).unlink()
    named = MASKS if layout in ("visa", "meta") else IMAGES  # tables name the mask; folders only have the image
    with pytest.raises(ValueError, match=named[layout]):
        read(tmp_path)


@pytest.mark.parametrize("broken", ["train/10000_GT.png", "train/10000.png"], ids=["no mask", "no image"])
def test_trouble_in_one_split_of_ksdd2_stops_that_split_only(broken: str, tmp_path: Path) -> None:
    (write_ksdd2(tmp_path) / broken).unlink()
    assert len(read(tmp_path, split="test")) == 2
    for split in ("train", None):
        with pytest.raises(ValueError, match="10000"):
            read(tmp_path, split=split)


@pytest.mark.parametrize("broken", ["train", "test"])
@pytest.mark.parametrize("root", ["pcb1", "plain"])
def test_trouble_in_one_split_stops_that_split_only(root: str, broken: str, tmp_path: Path) -> None:
    for split in ("train", "test"):
        write_image(tmp_path / root / split / "good" / "a.png")
    write_image(tmp_path / root / broken / "good" / "a.jpg")
    assert len(read(tmp_path / root, split="test" if broken == "train" else "train")) == 1
    with pytest.raises(ValueError, match="share one stem"):
        read(tmp_path / root, split=broken)


def test_masks_without_images_trouble_the_test_split_only(tmp_path: Path) -> None:
    write_mask(write_mvtec(tmp_path) / "metal_plate/ground_truth/dent/000_mask.png")
    assert len(AnomalyFolder(tmp_path, split="train")) == 1


@pytest.mark.parametrize("layout", LAYOUTS)
def test_mask_without_an_image_stops(layout: str, tmp_path: Path) -> None:
    (WRITERS[layout](tmp_path) / IMAGES[layout]).unlink()
    named = IMAGES if layout in ("visa", "meta") else MASKS
    with pytest.raises(ValueError, match=named[layout]):
        read(tmp_path)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_mask_of_another_size_stops(layout: str, tmp_path: Path) -> None:
    write_mask(WRITERS[layout](tmp_path) / MASKS[layout], size=(HEIGHT, WIDTH + 1))
    with pytest.raises(ValueError, match=rf"{IMAGES[layout]}' is 4x6 \(height x width\), .*{MASKS[layout]}' is 4x7"):
        read(tmp_path)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_unreadable_mask_stops(layout: str, tmp_path: Path) -> None:
    (WRITERS[layout](tmp_path) / MASKS[layout]).write_bytes(b"no image")
    with pytest.raises(ImageReadError, match=MASKS[layout]):
        read(tmp_path)


def test_truncated_mask_stops_when_it_is_read(tmp_path: Path) -> None:
    mask = write_mvtec(tmp_path) / MASKS["mvtec"]
    mask.write_bytes(mask.read_bytes()[:45])
    sample = AnomalyFolder(tmp_path)[1]
    with pytest.raises(ImageReadError, match=MASKS["mvtec"]):
        sample.load_mask()


def test_two_images_of_one_stem_stop(tmp_path: Path) -> None:
    write_image(write_mvtec(tmp_path) / "metal_plate/test/hole/000.JPG")
    with pytest.raises(ValueError, match=r"(?s)share one stem.*hole/000\.JPG.*hole/000\.png"):
        AnomalyFolder(tmp_path)


def test_two_masks_of_one_image_stop(tmp_path: Path) -> None:
    write_mask(write_mvtec(tmp_path) / "metal_plate/ground_truth/hole/000.png")
    with pytest.raises(ValueError, match=r"(?s)Two masks belong to one image.*hole/000\.png.*hole/000_mask\.png"):
        AnomalyFolder(tmp_path)


def test_masks_of_a_defect_without_images_stop(tmp_path: Path) -> None:
    write_mask(write_mvtec(tmp_path) / "metal_plate/ground_truth/dent/000_mask.png")
    with pytest.raises(ValueError, match=r"1 masks without an image:\n.*dent/000_mask\.png"):
        AnomalyFolder(tmp_path)


def test_good_image_with_a_defect_in_its_mask_stops(tmp_path: Path) -> None:
    write_mask(write_mtd(tmp_path) / "MT_Free/Imgs/c.png")
    with pytest.raises(ValueError, match=r"MT_Free/Imgs/c\.jpg' is said to be good"):
        read(tmp_path)


def test_masks_are_matched_by_stem_and_not_by_order(tmp_path: Path) -> None:
    for stem in ("1", "10", "2"):
        write_image(tmp_path / "images" / f"{stem}.png")
        write_mask(tmp_path / "masks" / f"{stem}_mask.png")
    assert [
        (sample.image_path.stem, sample.mask_path.stem) for sample in AnomalyFolder(tmp_path) if sample.mask_path
    ] == [
        ("1", "1_mask"),
        ("10", "10_mask"),
        ("2", "2_mask"),
    ]


def test_files_that_are_no_images_are_passed_over(tmp_path: Path) -> None:
    write_mvtec(tmp_path)
    for name in ("Thumbs.db", "._000.png", "notes.txt"):
        (tmp_path / "metal_plate/test/hole" / name).write_bytes(b"x")
    assert len(AnomalyFolder(tmp_path)) == 4


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"label": "broken"}, "Line 4 of .*1cls.csv' has label 'broken'"),
        ({"mask": ""}, "Line 4 of .*1cls.csv': anomalies have a mask"),
        ({"image": "../secret.JPG"}, "names '../secret.JPG', accepted are paths below"),
        ({"object": "../secret"}, "names '../secret', accepted are paths below"),
    ],
)
def test_broken_line_of_a_split_file_is_named(change: dict[str, str], message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        read(write_visa_raw(tmp_path, change))


def test_split_file_of_other_columns_is_named(tmp_path: Path) -> None:
    write_csv(write_visa_raw(tmp_path) / "split_csv/1cls.csv", [{"object": "candle"}])
    with pytest.raises(ValueError, match=r"1cls\.csv' lacks the columns \['image', 'label', 'mask', 'split'\]"):
        read(tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([{"img_path": "images/a.jpg"}], r"Row 0 of .*meta\.json' lacks \['anomaly', 'cls_name', 'mask_path'\]"),
        ([{**META_ROWS[0], "anomaly": 2}], "Row 0 of .* has anomaly 2"),
        ([{**META_ROWS[0], "cls_name": 3}], "Row 0 of .* has cls_name 3, accepted is text"),
        ([{**META_ROWS[0], "img_path": "/etc/a.jpg"}], "accepted are paths below"),
        ([*META_ROWS, META_ROWS[1]], r"1 images are listed twice:\n.*b\.jpg"),
        ([META_ROWS[0], {**META_ROWS[1], "anomaly": 1}], r"names no mask for 1 anomalous images:\n.*b\.jpg"),
        ({"test": 1}, "neither a list of rows nor"),
        ([], "holds no images"),
    ],
)
def test_broken_meta_is_named(content: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        AnomalyFolder(write_meta(tmp_path, content))


# Masks


def test_any_class_id_is_a_defect_by_default(tmp_path: Path) -> None:
    assert read(write_visa_raw(tmp_path))[1].load_mask().sum() == 1  # its value is 3


def test_mask_that_the_threshold_empties_warns(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match=r"Anomaly/000\.JPG' has no value above 127"):
        read(write_visa_raw(tmp_path), gt_threshold=127)[1].load_mask()


def palette_mask() -> Image.Image:
    mask = Image.new("P", (3, 1))
    mask.putdata([0, 1, 2])
    mask.putpalette([0, 0, 0, 35, 164, 54, 0, 0, 0])
    return mask


@pytest.mark.parametrize(
    ("mask", "expected"),
    [
        (Image.fromarray(np.array([[0, 1, 255]], dtype=np.uint8)), [[False, True, True]]),
        (Image.fromarray(np.array([[0, 1, 65535]], dtype=np.uint16)), [[False, True, True]]),
        (Image.fromarray(np.array([[False, True, True]])), [[False, True, True]]),
        (Image.fromarray(np.array([[[0, 0, 0], [0, 0, 1], [9, 0, 0]]], dtype=np.uint8)), [[False, True, True]]),
        (Image.fromarray(np.array([[[255, 255, 255, 0], [9, 0, 0, 255]]], dtype=np.uint8)), [[False, True]]),
        (palette_mask(), [[False, True, False]]),
    ],
    ids=["grey", "16 bits", "1 bit", "colour", "transparent", "palette"],
)
def test_mask_of_every_mode(mask: Image.Image, expected: list[list[bool]]) -> None:
    assert load_mask(mask).tolist() == expected


@pytest.mark.parametrize("threshold", [-1, float("nan")])
def test_threshold_below_zero_is_refused(threshold: float, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"at least 0, got {threshold}"):
        AnomalyFolder(write_mvtec(tmp_path), gt_threshold=threshold)


def test_threshold_of_a_one_bit_mask_is_that_of_eight_bits() -> None:
    assert load_mask(Image.fromarray(np.array([[False, True]])), gt_threshold=127).tolist() == [[False, True]]


def rotated_sample(tmp_path: Path, mask_size: tuple[int, int]) -> AnomalySample:
    """A photograph that is stored as 4x6 and displayed as 6x4."""
    exif = Image.Exif()
    exif[0x0112] = 6
    image = write_image(tmp_path / "images" / "a.jpg", exif=exif.tobytes())
    mask = write_mask(tmp_path / "masks" / "a.png", size=mask_size)
    return AnomalySample(image, mask, 1, "screw", "screw", "dent", "test")


def test_mask_of_a_rotated_photograph_has_the_displayed_size(tmp_path: Path) -> None:
    sample = rotated_sample(tmp_path, (6, 4))
    assert (sample.load_image().size, sample.load_mask().shape) == ((4, 6), (6, 4))


def test_mask_drawn_before_the_rotation_stops(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="before its EXIF rotation"):
        rotated_sample(tmp_path, (4, 6)).load_mask()


# Published counts


def test_published_counts_add_up() -> None:
    """The totals that the authors give beside the counts per category."""

    def total(layout: str, split: str, label: int) -> int:
        return sum(counts[split][label] for counts in KNOWN_COUNTS[layout].values())

    assert [total("mvtec", *key) for key in (("train", 0), ("test", 0), ("test", 1))] == [3629, 467, 1258]
    assert [total("visa", *key) for key in (("train", 0), ("test", 0), ("test", 1))] == [8659, 962, 1200]
    assert sum(total("btad", *key) for key in (("train", 0), ("test", 0), ("test", 1))) == 2540
    assert sum(total("mtd", "test", label) for label in (0, 1)) == 1344
    assert sum(total("ksdd2", split, label) for split in ("train", "test") for label in (0, 1)) == 3335
    assert {sum(map(sum, counts.values())) for counts in VISA_TOTALS.values()} == {10821}


def test_short_set_warns_of_what_is_missing(tmp_path: Path) -> None:
    with pytest.warns(
        UserWarning, match="candle, test: 1 good and 1 anomalous images, expected are 100 and 100"
    ) as log:
        AnomalyFolder(write_visa_raw(tmp_path), category="candle")
    assert "capsules" not in str(log[0].message)


def test_set_without_a_category_warns(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="capsules, test: 0 good and 0 anomalous images, expected are 60 and 100"):
        AnomalyFolder(write_visa_raw(tmp_path))


def test_one_category_as_root_is_not_short_of_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(KNOWN_COUNTS["mvtec"], "tile", {"test": (1, 3)})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        AnomalyFolder(write_mvtec(tmp_path, "tile") / "tile")


def test_totals_of_a_two_class_split_are_checked(tmp_path: Path) -> None:
    (write_visa_prepared(tmp_path) / "1cls").rename(tmp_path / "2cls_fewshot")
    with pytest.warns(
        UserWarning, match="all categories, test: 1 good and 1 anomalous images, expected are 7697 and 960"
    ):
        AnomalyFolder(tmp_path / "2cls_fewshot")


def test_full_set_does_not_warn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(KNOWN_COUNTS["mtd"]["mtd"], "test", (2, 1))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        AnomalyFolder(write_mtd(tmp_path))


# Hugging Face datasets, out


def test_hf_dataset_has_the_documented_features(tmp_path: Path) -> None:
    dataset = read(write_visa_raw(tmp_path)).to_hf_dataset()
    assert dataset.features == datasets.Features(
        {
            "image": datasets.Image(),
            "mask": datasets.Image(),
            "label": datasets.ClassLabel(names=["good", "anomalous"]),
            "category": datasets.Value("string"),
            "class_name": datasets.Value("string"),
            "defect_type": datasets.Value("string"),
            "image_path": datasets.Value("string"),
            "split": datasets.Value("string"),
        }
    )


def test_hf_dataset_has_no_mask_for_good_images(tmp_path: Path) -> None:
    good, bad = read(write_visa_raw(tmp_path)).to_hf_dataset()
    assert (good["mask"], good["label"], good["image_path"]) == (None, 0, "candle/Data/Images/Normal/0001.JPG")
    assert (load_mask(bad["mask"]).sum(), bad["label"], bad["defect_type"]) == (1, 1, "extra wax")


def test_hf_dataset_streams(tmp_path: Path) -> None:
    stream = read(write_visa_raw(tmp_path)).to_hf_dataset(streaming=True)
    assert isinstance(stream, datasets.IterableDataset)
    assert [(row["image"].size, row["label"]) for row in stream] == [((WIDTH, HEIGHT), 0), ((WIDTH, HEIGHT), 1)]


def test_parquet_holds_images_and_features_of_every_split(tmp_path: Path) -> None:
    folder = read(write_visa_raw(tmp_path / "visa"), split=None)
    folder.save_parquet(tmp_path / "out")
    for path in folder.root.rglob("*.*"):
        if path.is_file():
            path.unlink()  # what was written must not need the folder
    loaded = datasets.load_dataset(str(tmp_path / "out"), cache_dir=str(tmp_path / "cache"))
    assert {split: len(rows) for split, rows in loaded.items()} == {"train": 1, "test": 2}
    assert loaded["test"].features["label"].names == ["good", "anomalous"]
    assert [sample.load_mask().sum() for sample in AnomalyDataset(loaded["test"])] == [0, 1]


def test_parquet_has_no_path_of_this_machine(tmp_path: Path) -> None:
    read(write_visa_raw(tmp_path / "visa")).save_parquet(tmp_path / "out")
    [file] = (tmp_path / "out" / "data").iterdir()
    assert str(tmp_path).encode() not in file.read_bytes()


def test_parquet_is_split_into_shards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("clipsam_hf.data.export._SHARD_BYTES", 1)
    read(write_visa_raw(tmp_path / "visa")).save_parquet(tmp_path / "out")
    names = sorted(path.name for path in (tmp_path / "out" / "data").iterdir())
    assert names == ["test-00000-of-00002.parquet", "test-00001-of-00002.parquet"]


def test_imagefolder_is_read_back(tmp_path: Path) -> None:
    folder = read(write_visa_raw(tmp_path / "visa"), split=None)
    folder.save_imagefolder(tmp_path / "out")
    loaded = datasets.load_dataset("imagefolder", data_dir=str(tmp_path / "out"), cache_dir=str(tmp_path / "cache"))
    assert {split: len(rows) for split, rows in loaded.items()} == {"train": 1, "test": 2}
    assert loaded["test"].features["label"].names == ["good", "anomalous"]
    samples = AnomalyDataset(loaded["test"])
    assert [(sample.label, sample.defect_type, sample.class_name) for sample in samples] == [
        (0, "good", "candle"),
        (1, "extra wax", "candle"),
    ]
    assert samples[1].load_mask().sum() == 1


def test_imagefolder_keeps_the_bytes(tmp_path: Path) -> None:
    folder = read(write_visa_raw(tmp_path / "visa"))
    folder.save_imagefolder(tmp_path / "out")
    assert (tmp_path / "out/test/images/000001.jpg").read_bytes() == folder[1].image_path.read_bytes()


@pytest.mark.parametrize("method", ["save_parquet", "save_imagefolder"])
def test_nothing_half_written_stays(method: str, tmp_path: Path) -> None:
    folder = read(write_visa_raw(tmp_path / "visa"))
    folder[1].image_path.unlink()
    with pytest.raises(FileNotFoundError):
        getattr(folder, method)(tmp_path / "out")
    assert os.listdir(tmp_path) == ["visa"]


@pytest.mark.parametrize("method", ["save_parquet", "save_imagefolder"])
def test_folder_with_files_is_not_overwritten(method: str, tmp_path: Path) -> None:
    kept = write_image(tmp_path / "out" / "kept.png")
    with pytest.raises(FileExistsError, match="out' exists and is no empty folder"):
        getattr(read(write_visa_raw(tmp_path / "visa")), method)(tmp_path / "out")
    assert kept.exists()


def test_missing_library_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = AnomalyFolder(write_mvtec(tmp_path))
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ImportError, match=r"clipsam_hf\[train\]"):
        folder.to_hf_dataset()


# Hugging Face datasets, in


def photographs(count: int) -> list[Image.Image]:
    return [Image.new("RGB", (WIDTH, HEIGHT)) for _ in range(count)]


def mask_image(value: int) -> Image.Image:
    return Image.fromarray(np.full((HEIGHT, WIDTH), value, dtype=np.uint8))


@pytest.mark.parametrize("streaming", [False, True])
def test_columns_of_any_name(streaming: bool) -> None:
    rows: Any = datasets.Dataset.from_dict(
        {"img": photographs(2), "segmentation": [None, mask_image(1)], "kind": ["OK", "dent"], "object": ["nut"] * 2}
    )
    columns = {"image": "img", "mask": "segmentation", "label": "kind", "category": "object"}
    samples = list(AnomalyDataset(rows.to_iterable_dataset() if streaming else rows, columns=columns))
    assert [(sample.label, sample.defect_type, sample.category) for sample in samples] == [
        (0, "good", "nut"),
        (1, "dent", "nut"),
    ]
    assert [sample.load_mask().sum() for sample in samples] == [0, HEIGHT * WIDTH]


def test_class_label_is_read_by_its_names() -> None:
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["bad", "good"])})
    rows = datasets.Dataset.from_dict({"image": photographs(2), "label": [0, 1]}, features=features)
    assert [sample.label for sample in AnomalyDataset(rows)] == [1, 0]


def test_class_label_that_is_no_verdict_stops() -> None:
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["bottle", "cable"])})
    rows = datasets.Dataset.from_dict({"image": photographs(1), "label": [0]}, features=features)
    with pytest.raises(ValueError, match=r"has none of the labels \['bottle', 'cable'\]"):
        AnomalyDataset(rows)


def test_mask_decides_without_a_label() -> None:
    rows = datasets.Dataset.from_dict({"image": photographs(3), "mask": [mask_image(0), mask_image(9), None]})
    assert [sample.label for sample in AnomalyDataset(rows)] == [0, 1, None]
    assert [sample.label for sample in AnomalyDataset(rows, missing_mask="good")] == [0, 1, 0]


def test_mask_of_a_row_has_the_size_of_its_image() -> None:
    rows = datasets.Dataset.from_dict({"image": photographs(1), "mask": [Image.new("L", (3, 3))]})
    with pytest.raises(ValueError, match="is 4x6 .* is 3x3"):
        AnomalyDataset(rows)[0]


def test_row_that_cannot_be_decoded_is_named() -> None:
    features = datasets.Features({"image": datasets.Image()})
    rows = datasets.Dataset.from_dict({"image": [{"bytes": b"no image", "path": None}]}, features=features)
    with pytest.raises(ImageReadError, match="Cannot read row 0 of the dataset"):
        list(AnomalyDataset(rows))


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"image": "imgae"}, r"`columns\['image'\]` must be one of \['image', 'label'\], got 'imgae'"),
        ({"masks": "label"}, "`columns` must be one of .* Did you mean 'mask'?"),
    ],
)
def test_column_that_does_not_exist_is_named(columns: dict[str, str], message: str) -> None:
    rows = datasets.Dataset.from_dict({"image": photographs(1), "label": [0]})
    with pytest.raises(ValueError, match=message):
        AnomalyDataset(rows, columns=columns)


def test_dataset_without_images_stops() -> None:
    with pytest.raises(ValueError, match="`columns` must name the images; the dataset has "):
        AnomalyDataset(datasets.Dataset.from_dict({"photo": photographs(1)}))


def test_all_splits_at_once_are_refused() -> None:
    rows = datasets.Dataset.from_dict({"image": photographs(1)})
    with pytest.raises(TypeError, match=r"got all of \['test', 'train'\]"):
        AnomalyDataset(datasets.DatasetDict({"train": rows, "test": rows}))


# Real photographs, where the environment variable names some

REAL_COUNTS = {
    "road": (0, 100),
    "cookie": (31, 32),
    "ball_screw": (0, 120),
    "mtd": (956, 388),
    "pavement": (0, 118),
}


@pytest.mark.skipif("CLIPSAM_DATA" not in os.environ, reason="CLIPSAM_DATA names no folder of real photographs")
@pytest.mark.parametrize("name", REAL_COUNTS)
def test_real_set_has_its_counts(name: str) -> None:
    root = Path(os.environ["CLIPSAM_DATA"]) / name
    if not root.is_dir():
        pytest.skip(f"no folder '{name}'")
    assert detect_layout(root) == "meta"
    samples = AnomalyFolder(root, split=None)
    assert tuple(sum(sample.label == label for sample in samples) for label in (0, 1)) == REAL_COUNTS[name]
