# SPDX-FileCopyrightText: 2026 The clipsam_hf authors
# SPDX-License-Identifier: Apache-2.0
"""Files of strangers: tables that name files elsewhere, folders that go in circles, what is no photograph at all."""

import contextlib
import io
import json
import os
import warnings
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from clipsam_hf import ClipSamReferences, image_loading
from clipsam_hf.data import AnomalyFolder, load_mask, samples
from clipsam_hf.image_loading import ImageReadError, find_photographs, load_rgb


GOOD, BAD, MASK = "candle/Data/Images/1.png", "candle/Data/Images/2.png", "candle/Data/Masks/2.png"
TABLES = {"visa": "split_csv/1cls.csv", "meta": "meta.json"}


def write_table(root: Path, layout: str, good: str, mask: str = MASK) -> None:
    """Writes the table of a data set of two photographs, one with a mask."""
    rows: list[dict[str, Any]] = [
        {"img_path": good, "mask_path": "", "anomaly": 0, "cls_name": "candle", "split": "test"},
        {"img_path": BAD, "mask_path": mask, "anomaly": 1, "cls_name": "candle", "split": "test"},
    ]
    table = f"object,split,label,image,mask\ncandle,test,normal,{good},\ncandle,test,anomaly,{BAD},{mask}\n"
    path = root / TABLES[layout]
    path.parent.mkdir(exist_ok=True)
    path.write_text(table if layout == "visa" else json.dumps(rows))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A data set without a table, and beside it a photograph that is none of its own."""
    root = tmp_path / "set"
    for path in (root / GOOD, root / BAD, root / MASK, tmp_path / "secret.png"):
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (4, 4), 255).save(path)
    return root


# ---------------------------------------------------------------------------------------------------------------------
# Tables of data sets


@pytest.mark.parametrize("layout", list(TABLES))
@pytest.mark.parametrize("column", ["image", "mask"])
@pytest.mark.parametrize("name", ["../secret.png", "/etc/passwd", "a/../../secret.png", "C:/secret.png", "link.png"])
def test_a_table_that_points_outside_is_refused(root: Path, layout: str, column: str, name: str) -> None:
    (root / "link.png").symlink_to(root.parent / "secret.png")
    write_table(root, layout, *((name,) if column == "image" else (GOOD, name)))
    with pytest.raises(ValueError, match=f"'{root / TABLES[layout]}' names '{name}', ") as refusal:
        AnomalyFolder(root, layout)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("layout", list(TABLES))
def test_links_inside_a_data_set_and_to_the_whole_of_it_are_followed(root: Path, tmp_path: Path, layout: str) -> None:
    (root / "link.png").symlink_to(GOOD)
    (tmp_path / "whole").symlink_to(root)
    write_table(root, layout, "link.png")
    assert [sample.label for sample in AnomalyFolder(tmp_path / "whole", layout)] == [0, 1]


def test_a_data_set_in_the_cache_of_the_hub_is_read(root: Path, tmp_path: Path) -> None:
    """There every file is a link from snapshots/<commit>/ to blobs/."""
    write_table(root, "meta", GOOD)
    snapshot = tmp_path / "datasets--organisation--set" / "snapshots" / "0123"
    (snapshot.parents[1] / "blobs").mkdir(parents=True)
    for number, path in enumerate(path for path in root.rglob("*") if path.is_file()):
        link = snapshot / path.relative_to(root)
        link.parent.mkdir(parents=True, exist_ok=True)
        blob = snapshot.parents[1] / "blobs" / str(number)
        path.rename(blob)
        link.symlink_to(os.path.relpath(blob, link.parent))
    assert [sample.label for sample in AnomalyFolder(snapshot)] == [0, 1]


@pytest.mark.parametrize(
    ("layout", "content", "message"),
    [
        ("visa", b"a" * 200_000, "is no CSV file: field larger"),
        ("visa", b"object,split,label,image,mask\n\xff\xfe", "is no CSV file: 'utf-8' codec"),
        ("meta", b"[" * 100_000, "is no JSON: maximum recursion"),
        ("meta", b"\xff\xfe", "is no JSON: "),
        ("meta", json.dumps([{"img_path": GOOD, "mask_path": "", "anomaly": 0, "cls_name": "a", "split": "test",
                              "specie_name": ["melt"]}]).encode(), "has specie_name"),
    ],
)  # fmt: skip
def test_a_damaged_table_is_one_sentence(root: Path, layout: str, content: bytes, message: str) -> None:
    write_table(root, layout, GOOD)
    (root / TABLES[layout]).write_bytes(content)
    with pytest.raises(ValueError, match=message) as refusal:
        AnomalyFolder(root, layout)
    assert TABLES[layout] in str(refusal.value)


# ---------------------------------------------------------------------------------------------------------------------
# Photographs


def test_an_animation_is_cut_anywhere() -> None:
    """Pillow reads the next frame's head to know whether there is one, and raises what it likes; found by fuzzing."""
    file = io.BytesIO()
    frames = [Image.new("P", (8, 8), colour) for colour in (0, 1)]
    frames[0].save(file, "GIF", save_all=True, append_images=frames[1:])
    content = file.getvalue()
    sizes = set()
    for length in range(len(content) // 2, len(content)):
        with warnings.catch_warnings(), contextlib.suppress(ImageReadError):
            warnings.simplefilter("ignore")  # of several frames, where the second is whole
            sizes.add(load_rgb(content[:length]).size)
    assert sizes == {(8, 8)}


def test_a_pipe_is_refused_at_once(tmp_path: Path) -> None:
    """Whoever opens one waits for a writer, for ever perhaps."""
    os.mkfifo(tmp_path / "a.png")
    with pytest.raises(ImageReadError, match="is no file, but a pipe"):
        load_rgb(tmp_path / "a.png")


def test_a_mask_of_too_many_pixels_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.new("1", (7, 3)).save(tmp_path / "mask.png")
    assert load_mask(tmp_path / "mask.png").shape == (3, 7)
    monkeypatch.setattr(samples, "MAX_PIXELS", 20)
    with pytest.raises(ImageReadError, match="3x7 pixels, more than 20"):
        load_mask(tmp_path / "mask.png")


def test_a_folder_that_links_to_itself_ends(tmp_path: Path) -> None:
    Image.new("L", (4, 4)).save(tmp_path / "a.png")
    (tmp_path / "below").mkdir()
    (tmp_path / "below" / "again").symlink_to(tmp_path)
    (tmp_path / "circle.png").symlink_to(tmp_path / "circle.png")
    assert find_photographs(tmp_path) == [tmp_path / "a.png", tmp_path / "circle.png"]
    with pytest.raises(OSError, match="symbolic links"):
        load_rgb(tmp_path / "circle.png")


def test_a_folder_that_cannot_be_listed_stops(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The administrator, who may run this, can list any."""

    def scandir(path: Any) -> Any:
        if Path(path).name == "closed":
            raise PermissionError(13, "Permission denied", str(path))
        return original(path)

    original = os.scandir
    Image.new("L", (4, 4)).save(tmp_path / "a.png")
    (tmp_path / "closed").mkdir()
    monkeypatch.setattr(image_loading.os, "scandir", scandir)
    with pytest.raises(PermissionError, match="closed"):
        find_photographs(tmp_path)


# ---------------------------------------------------------------------------------------------------------------------
# References


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"names": [1, 2]}, "a value is not of its kind"),
        ({"decision_threshold": [0.5]}, "must be real number"),
        ({"centre": float("nan")}, "a value is not of its kind"),
        ({"outliers": [7]}, "index out of range"),
        ({"tile": 3}, "`tile` must be"),
        (None, "no attribute 'pop'"),
    ],
)
def test_damaged_settings_of_references_are_told(tmp_path: Path, changes: dict[str, Any] | None, message: str) -> None:
    settings = {"format": 1, "class_name": "candle", "fingerprint": {}, "names": ["1.png", "2.png"]}
    settings |= {"sizes": [[4, 4], [4, 4]], "centre": 0.1, "spread": 0.02, "scores": [0.2, 0.5]}
    (tmp_path / "references.json").write_text(json.dumps(3 if changes is None else {**settings, **changes}))
    (tmp_path / "references.safetensors").touch()
    with pytest.raises(ValueError, match=f"The references '.*' are damaged: .*{message}"):
        ClipSamReferences.from_pretrained(tmp_path)
