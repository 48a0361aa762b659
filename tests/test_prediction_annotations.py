# SPDX-FileCopyrightText: 2026 The clipsam_hf authors
# SPDX-License-Identifier: Apache-2.0
"""Predictions as annotations: COCO's tools read the same masks, LabelMe draws the same regions."""

import contextlib
import io
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageDraw
from pycocotools.coco import COCO
from scipy import ndimage
from typer.testing import CliRunner

from clipsam_hf import cli
from clipsam_hf.prediction.annotations import remove_annotations, write_annotations
from clipsam_hf.prediction.polygons import SHARE_LOST, decode_region, trace_borders, trace_polygon
from clipsam_hf.prediction.results import make_error_row
from clipsam_hf.prediction.state import OutputFolder
from clipsam_hf.regions_clipsam import describe_regions


RING = np.pad(np.pad(np.zeros((2, 3), dtype=bool), 2, constant_values=True), 1)


def blobs(seed: int, size: tuple[int, int] = (60, 80), sigma: float = 3.0) -> np.ndarray:
    """A mask with regions of every shape, many of them with holes, some at the border."""
    noise = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=size), sigma)
    return noise > np.quantile(noise, 0.6)


def row(path: str, mask: np.ndarray, **named: str) -> dict[str, Any]:
    regions = describe_regions(mask.astype(np.float32), mask, outlines=True)
    size = {"width": mask.shape[1], "height": mask.shape[0]}
    return {**make_error_row(path, ""), **size, "error": None, "regions": [{**each, **named} for each in regions]}


def finished(folder: Path, *rows: dict[str, Any]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "predictions.jsonl").write_text("".join(f"{json.dumps(each)}\n" for each in rows))
    return folder


def drawn(size: tuple[int, int], points: Any) -> np.ndarray:
    """What `labelme.utils.shape_to_mask` makes of a polygon."""
    mask = Image.new("L", size[::-1])
    ImageDraw.Draw(mask).polygon([tuple(point) for point in points], outline=1, fill=1)
    return np.asarray(mask).astype(bool)


def iou(one: np.ndarray, other: np.ndarray) -> float:
    return (one & other).sum() / (one | other).sum()


# Polygons


def test_regions_are_decoded_inside_their_boxes() -> None:
    mask = blobs(0)
    for region in describe_regions(mask.astype(np.float32), mask, outlines=True):
        box, whole = region["box"], np.zeros_like(mask)
        whole[box["ymin"] : box["ymax"], box["xmin"] : box["xmax"]] = decode_region(region)
        assert whole.sum() == region["area"] and not (whole & ~mask).any()


def test_a_border_has_the_pixels_of_the_region_along_it() -> None:
    outer, hole = trace_borders(RING)
    assert len(outer) == 2 * (7 + 6) - 4 and len(hole) == 2 * (3 + 2)
    assert all(RING[y, x] for x, y in [*outer, *hole])


def test_parts_that_touch_at_a_corner_have_one_border() -> None:
    (border,) = trace_borders(np.eye(3, dtype=bool))
    assert border.tolist() == [[0, 0], [1, 1], [2, 2], [1, 1]]


@pytest.mark.parametrize("sigma", [1.0, 2.0, 5.0, 12.0])
def test_a_polygon_covers_its_region(sigma: float, monkeypatch: pytest.MonkeyPatch) -> None:
    labels, count = ndimage.label(blobs(1, sigma=sigma), np.ones((3, 3)))
    for share in (SHARE_LOST, 0.0):
        monkeypatch.setattr("clipsam_hf.prediction.polygons.SHARE_LOST", share)
        for number in range(1, count + 1):
            polygon = trace_polygon(labels == number)
            assert len(polygon) >= 3
            assert iou(drawn(labels.shape, polygon), labels == number) >= (0.95 if share else 1.0)


def test_a_large_region_has_few_points() -> None:
    rows, columns = np.mgrid[:600, :600]
    disc = (rows - 300) ** 2 + (columns - 300) ** 2 < 250**2
    polygon = trace_polygon(disc)
    assert len(polygon) < 60 < 1000 < len(trace_borders(disc)[0])
    assert iou(drawn(disc.shape, polygon), disc) > 0.97


def test_a_hole_stays_open() -> None:
    covered = drawn(RING.shape, trace_polygon(RING))
    assert (covered == RING).all()


@pytest.mark.parametrize("shape", [(1, 1), (1, 5), (4, 1)])
def test_lines_and_points_are_polygons_too(shape: tuple[int, int]) -> None:
    mask = np.pad(np.ones(shape, dtype=bool), 2)
    assert (drawn(mask.shape, trace_polygon(mask)) == mask).all()


# COCO


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # in pycocotools
def test_the_tools_of_coco_read_the_masks(tmp_path: Path) -> None:
    masks = {"a.jpg": blobs(1), "left/b.jpg": blobs(2, (40, 50)), "c.jpg": np.zeros((8, 9), dtype=bool)}
    broken = make_error_row("broken.jpg", "it is broken")
    finished(tmp_path, *(row(name, mask) for name, mask in masks.items()), broken)
    assert write_annotations(tmp_path, tmp_path / "photographs", ["coco"]) == ["annotations.json"]
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO(tmp_path / "annotations.json")
    assert [image["file_name"] for image in coco.loadImgs(coco.getImgIds())] == list(masks)
    for image, mask in zip(coco.loadImgs(coco.getImgIds()), masks.values(), strict=True):
        annotations = coco.loadAnns(coco.getAnnIds(imgIds=image["id"]))
        total = np.zeros(mask.shape, dtype=int)
        for annotation in annotations:
            one = coco.annToMask(annotation)
            x, y, width, height = annotation["bbox"]
            assert one[y : y + height, x : x + width].sum() == one.sum() == annotation["area"]
            assert annotation["score"] == 1.0 and annotation["category_id"] == 1
            total += one
        assert (total == mask).all()


def test_named_defects_are_categories(tmp_path: Path) -> None:
    finished(tmp_path, row("a.jpg", RING, defect_name="hole"), row("b.jpg", RING, defect_name="scratch"))
    write_annotations(tmp_path, tmp_path, ["coco", "labelme"])
    written = json.loads((tmp_path / "annotations.json").read_text())
    names = {each["id"]: each["name"] for each in written["categories"]}
    assert [names[each["category_id"]] for each in written["annotations"]] == ["hole", "scratch"]
    assert json.loads((tmp_path / "labelme" / "b.json").read_text())["shapes"][0]["label"] == "scratch"


# LabelMe: the keys and their types are those that its `read_label_file` (6.3.1) asks for; the package needs Qt


def test_labelme_finds_photographs_and_draws_the_regions(tmp_path: Path) -> None:
    mask = blobs(3)
    output = finished(tmp_path / "out", row("a.jpg", mask), row("left/a.jpg", RING), row("good.jpg", mask & False))
    assert write_annotations(output, tmp_path / "photographs", ["labelme"]) == ["labelme"]
    for name, expected in (("a", mask), ("left/a", RING), ("good", mask & False)):
        path = output / "labelme" / f"{name}.json"
        read = json.loads(path.read_text())
        assert (path.parent / read["imagePath"]).resolve() == tmp_path / "photographs" / f"{name}.jpg"
        assert (read["imageHeight"], read["imageWidth"], read["imageData"]) == (*expected.shape, None)
        total = np.zeros(expected.shape, dtype=bool)
        for shape in read["shapes"]:
            assert shape["shape_type"] == "polygon" and isinstance(shape["label"], str)
            assert all(isinstance(value, float) for point in shape["points"] for value in point)
            total |= drawn(expected.shape, shape["points"])
        assert iou(total, expected) >= 0.95 if expected.any() else not total.any()


def test_names_that_collide_keep_their_endings(tmp_path: Path) -> None:
    names = ["a.jpg", "a.png", "b.jpg", f"{'x' * 251}.jpg", os.fsdecode(b"\xff.png")]
    output = finished(tmp_path, *(row(name, RING) for name in names))
    write_annotations(output, tmp_path, ["labelme"])
    written = {path.name for path in (output / "labelme").iterdir()}
    assert {"a.jpg.json", "a.png.json", "b.json", os.fsdecode(b"\xff.json")} <= written and len(written) == 5


def test_what_somebody_corrected_stays(tmp_path: Path) -> None:
    output = finished(tmp_path, row("a.jpg", RING), row("b.jpg", RING))
    write_annotations(output, tmp_path, ["labelme"])
    (output / "labelme" / "a.json").write_text("corrected")
    (output / "labelme" / "b.json").unlink()
    write_annotations(output, tmp_path, ["labelme"])
    assert (output / "labelme" / "a.json").read_text() == "corrected"
    assert (output / "labelme" / "b.json").exists()


@pytest.mark.parametrize("name", ["../../a.jpg", "link/a.jpg", "/a.jpg"])
def test_nothing_is_written_or_removed_outside_the_results(tmp_path: Path, name: str) -> None:
    output, outside = finished(tmp_path / "out", row(name, RING)), tmp_path / "elsewhere"
    outside.mkdir()
    (output / "labelme").mkdir()
    (output / "labelme" / "link").symlink_to(outside)
    with pytest.raises(OSError, match="leads out of the results' folder|Permission|Read-only"):
        write_annotations(output, tmp_path, ["labelme"])
    (outside / "a.json").write_text("not ours")
    remove_annotations(output)
    assert [path.name for path in outside.iterdir()] == ["a.json"]


def test_only_what_was_written_is_removed(tmp_path: Path) -> None:
    output = finished(tmp_path, row("left/a.jpg", RING), row("b.jpg", RING))
    write_annotations(output, tmp_path, ["coco", "labelme"])
    (output / "labelme" / "mine.json").write_text("{}")
    remove_annotations(output)
    assert sorted(path.relative_to(output).as_posix() for path in output.rglob("*")) == [
        "labelme", "labelme/mine.json", "predictions.jsonl",
    ]  # fmt: skip


def test_the_command_exports(tiny_checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for name in ("a", "b"):
        noise = np.random.default_rng(0).integers(0, 256, (40, 48, 3), dtype=np.uint8)
        Image.fromarray(noise).save(tmp_path / "in" / f"{name}.png")
    output = tmp_path / "out"
    command = ["predict", str(tmp_path / "in"), "--output", str(output), "--mutual", "--class-name", "part"]
    command += ["--model", str(tiny_checkpoint), "--num-workers", "0", "--threshold", "0.1", "--no-refine"]
    result = CliRunner().invoke(cli.app, [*command, "--export", "yolo"])
    assert result.exit_code == 2 and "`export` takes coco, labelme, got 'yolo'" in result.output
    # A finished run is exported without being run again
    for more in (["--export", "coco"], ["--resume", "--export", "coco", "--export", "labelme"]):
        result = CliRunner().invoke(cli.app, [*command, *more])
        assert result.exit_code == 0, result.output
    assert "annotations.json, labelme" in result.output
    assert len(json.loads((output / "annotations.json").read_text())["images"]) == 2
    assert sorted(path.name for path in (output / "labelme").iterdir()) == ["a.json", "b.json"]
    OutputFolder(output).open({}, overwrite=True)
    assert not (output / "labelme").exists() and not (output / "annotations.json").exists()
