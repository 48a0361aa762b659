# SPDX-FileCopyrightText: 2026 The clipsam_hf authors
# SPDX-License-Identifier: Apache-2.0
"""`clipsam predict`: rows and pictures as the pipeline answers, runs that go on after a kill, what is refused."""

import csv
import errno
import io
import json
import multiprocessing
import os
import re
import shlex
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet
import pytest
from PIL import Image
from test_distributed import run_processes
from test_references_clipsam import GOOD, photograph
from typer.testing import CliRunner, Result

from clipsam_hf import ClipSamForAnomalySegmentation, ClipSamProcessor, ClipSamReferences, cli
from clipsam_hf.image_loading import load_rgb
from clipsam_hf.inference_clipsam import ClipSamInference
from clipsam_hf.pipeline_clipsam import TASK, ZeroShotAnomalySegmentationPipeline
from clipsam_hf.prediction import FolderPredictions, picture_name, predict_folder
from clipsam_hf.prediction import work as prediction_work
from clipsam_hf.prediction.names import check_names, list_photographs
from clipsam_hf.prediction.results import COLUMNS
from clipsam_hf.prediction.state import RowFile


ROOT = Path(__file__).parents[1]
COMMAND = re.compile(r"<!-- command: predict -->\n```bash\n(.+?)\n```", re.DOTALL)
KINDS = ["overlay", "heatmap", "mask", "map"]

Model = tuple[ClipSamForAnomalySegmentation, ClipSamProcessor]


@pytest.fixture
def model(tiny_model: ClipSamForAnomalySegmentation, tiny_processor: ClipSamProcessor) -> Model:
    """A model whose head counts as trained, of few words; compared, it needs none of them."""
    tiny_processor.normal_states, tiny_processor.abnormal_states = ["perfect {}"], ["damaged {}"]
    tiny_processor.prompt_templates = ["a photo of a {}."]
    tiny_model.head_is_trained = True
    weights = {"reference_text_weight": 0.0, "mutual_text_weight": 0.0, "reference_neighbourhoods": (1,)}
    tiny_model.config.update({**weights, "max_regions": 2})
    return tiny_model, tiny_processor


@pytest.fixture
def checkpoint(model: Model, tmp_path: Path) -> Path:
    for part in model:
        part.save_pretrained(tmp_path / "checkpoint")
    return tmp_path / "checkpoint"


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Photographs of two sizes, one name and two endings, in two folders; the last one has a defect."""
    names = {"a.jpg": None, "a.png": None, "left/a.jpg": None, "right/b.png": (1, 2)}
    for number, (name, defect) in enumerate(names.items()):
        path = tmp_path / "photographs" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        photograph(10 + number, defect, (32, 40) if number else (32, 32)).save(path)
    return tmp_path / "photographs"


@pytest.fixture
def good(tmp_path: Path) -> Path:
    (tmp_path / "good").mkdir()
    for number, image in enumerate(GOOD):
        image.save(tmp_path / "good" / f"{number}.png")
    return tmp_path / "good"


def predict(model: Model, source: Path, output: Path, **options: Any) -> FolderPredictions:
    options = {"class_name": "candle", "device": "cpu", "num_workers": 0, "threshold": 0.4, **options}
    predicted = predict_folder(*model, source, output, **options)
    assert predicted is not None
    return predicted


def without_outlines(row: dict[str, Any]) -> dict[str, Any]:
    return {**row, "regions": [{k: v for k, v in each.items() if k != "outline"} for each in row["regions"]]}


def json_lines(content: bytes) -> list[dict[str, Any]]:
    return [json.loads(line) for line in content.splitlines()]


def files_of(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, by its path."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# --------------------------------------------------------------------------------------------------------------------
# Rows and pictures


@pytest.mark.parametrize("references", [None, "photographs", "photograph", "list", "line", "object", "mutual"])
def test_rows_are_the_answers_of_the_pipeline(
    model: Model, source: Path, good: Path, tmp_path: Path, references: str | None
) -> None:
    made = ClipSamReferences.from_images(*model, GOOD, class_name="candle")
    made.save_pretrained(tmp_path / "line")
    kinds = {"photographs": good, "photograph": good / "0.png", "list": GOOD, "line": str(tmp_path / "line")}
    compared = {**kinds, "object": made}.get(str(references), references)
    predicted = predict(model, source, tmp_path / "out", references=compared, threshold=None)

    names = ["a.jpg", "a.png", "left/a.jpg", "right/b.png"]
    pipe = ZeroShotAnomalySegmentationPipeline(model=model[0], processor=model[1], task=TASK)
    compared = [good / "0.png"] if references == "photograph" else compared
    answers = pipe([source / name for name in names], class_name="candle", references=compared)
    rows = list(predicted.rows())
    assert [row["path"] for row in rows] == names
    assert [(row["width"], row["height"]) for row in rows] == [(32, 32), (40, 32), (40, 32), (40, 32)]
    for row, answer in zip(rows, answers, strict=True):
        assert list(row) == list(COLUMNS) and row["error"] is None
        assert without_outlines(row)["regions"] == answer["regions"]
        assert (row["score"], row["label"]) == (answer["score"], answer["label"])
        mask = np.zeros((row["width"], row["height"]), dtype=np.int64)
        for region in row["regions"]:
            counts = region["outline"]["counts"]
            mask += np.repeat(np.arange(len(counts)) % 2, counts).reshape(mask.shape)
        assert (255 * mask.T == np.asarray(answer["mask"])).all()
    labels = [row["label"] for row in rows]
    assert (predicted.total, predicted.failed) == (4, 0)
    assert (predicted.anomalous, predicted.normal) == (labels.count("anomalous"), labels.count("normal"))


def test_pictures_lie_under_the_paths_of_their_photographs(model: Model, source: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    rows = list(predict(model, source, output, save=["map", *KINDS], threshold=0.4).rows())
    pictures = {name for name in files_of(output) if "/" in name}
    assert pictures == {f"{kind}/{row['path']}.png" for kind in KINDS for row in rows}

    pipe = ZeroShotAnomalySegmentationPipeline(model=model[0], processor=model[1], task=TASK)
    for row in rows:
        answer = pipe(source / row["path"], class_name="candle", threshold=0.4)
        opened = {kind: Image.open(output / kind / f"{row['path']}.png") for kind in KINDS}
        assert opened["mask"].mode == "L" and (np.asarray(opened["mask"]) == np.asarray(answer["mask"])).all()
        found = np.asarray(opened["map"])
        assert found.dtype == np.uint16 and found.shape == (row["height"], row["width"])
        np.testing.assert_allclose(found / 65535, answer["anomaly_map"], rtol=0, atol=1e-5)
        assert opened["heatmap"].size == (row["width"], row["height"])
        assert opened["overlay"].mode == "RGB" and opened["overlay"].width >= 400


def test_overlay_and_heat_map_are_bounded(model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prediction_work, "MAX_PICTURE_SIDE", 250)
    (tmp_path / "in").mkdir()
    photograph(0, (0, 1), (64, 500)).save(tmp_path / "in" / "wide.png")
    output = tmp_path / "out"
    predict(model, tmp_path / "in", output, save=KINDS, threshold=0.3)
    sizes = {kind: Image.open(output / kind / "wide.png.png").size for kind in KINDS}
    assert sizes["map"] == sizes["mask"] == (500, 64)
    assert sizes["heatmap"] == (250, 32) and max(sizes["overlay"]) <= 250


def test_nothing_is_painted_unless_wanted(model: Model, source: Path, tmp_path: Path) -> None:
    predict(model, source, tmp_path / "out")
    names = {"predictions.csv", "predictions.jsonl", "predictions.protocol.json"}
    assert set(files_of(tmp_path / "out")) == names


def test_a_single_photograph_and_batches_and_workers(model: Model, source: Path, tmp_path: Path) -> None:
    whole = {row["path"]: row for row in predict(model, source, tmp_path / "folder").rows()}
    (row,) = predict(model, source / "right" / "b.png", tmp_path / "single").rows()
    assert row == {**whole["right/b.png"], "path": "b.png"}
    batched = predict(model, source, tmp_path / "batched", batch_size=3, num_workers=2, save=["mask"])
    for row in batched.rows():
        assert row["score"] == pytest.approx(whole[row["path"]]["score"], abs=1e-6)


@pytest.mark.parametrize("kind", ["good photographs", "texts", "mutual", "line"])
def test_a_region_of_interest(model: Model, source: Path, good: Path, tmp_path: Path, kind: str) -> None:
    roi = np.zeros((32, 40), dtype=np.uint8)
    roi[:, :20] = 255
    output = tmp_path / "out"
    references = {"good photographs": good, "texts": None, "mutual": "mutual"}.get(kind)
    if kind == "line":
        references = ClipSamReferences.from_images(*model, GOOD, class_name="candle")
    predict(model, source, output, references=references, roi_mask=Image.fromarray(roi), save=["map"])
    found = np.asarray(Image.open(output / "map" / "right" / "b.png.png"))
    assert found[:, :18].any() and not found[:, 22:].any()


def test_a_long_photograph_is_cut_as_the_pipeline_cuts_it(model: Model, source: Path, tmp_path: Path) -> None:
    long = photograph(3, size=(32, 128))
    long.save(source / "long.png")
    pipe = ZeroShotAnomalySegmentationPipeline(model=model[0], processor=model[1], task=TASK)
    for tile in ("auto", 64, None):
        rows = list(predict(model, source / "long.png", tmp_path / str(tile), tile=tile).rows())
        assert rows[0]["score"] == pytest.approx(pipe(long, class_name="candle", tile=tile)["score"], abs=1e-6)
    with pytest.raises(ValueError, match="another protocol"):
        predict(model, source / "long.png", tmp_path / "auto", tile=None, resume=True)


def test_formats_hold_the_same_rows(model: Model, source: Path, tmp_path: Path) -> None:
    (source / "broken.jpg").write_text("no picture")
    rows = list(predict(model, source, tmp_path / "out", formats=["csv", "parquet"], threshold=0.3).rows())
    assert any(row["regions"] for row in rows)
    assert pyarrow.parquet.read_table(tmp_path / "out" / "predictions.parquet").to_pylist() == rows
    with open(tmp_path / "out" / "predictions.csv", encoding="utf-8", newline="") as file:
        found = list(csv.DictReader(file))
    for row, line in zip(rows, found, strict=True):
        assert line["path"] == row["path"] and line["error"] == (row["error"] or "")
        assert line["score"] == ("" if row["score"] is None else repr(row["score"]))
        assert json.loads(line["regions"]) == without_outlines(row)["regions"]


def test_no_file_name_is_calculated_by_a_spreadsheet(model: Model, tmp_path: Path) -> None:
    names = ["=1+1.png", "@x.png", "-2.png", 'a,b\n"c".png', os.fsdecode(b"\xff.png")]
    (tmp_path / "in").mkdir()
    for number, name in enumerate(names):
        photograph(number).save(tmp_path / "in" / name)
    predicted = predict(model, tmp_path / "in", tmp_path / "out", formats=["csv", "parquet"], save=["mask"])
    assert sorted(row["path"] for row in predicted.rows()) == sorted(names)
    with open(tmp_path / "out" / "predictions.csv", encoding="utf-8", newline="") as file:
        found = {line["path"] for line in csv.DictReader(file)}
    assert found == {"'=1+1.png", "'@x.png", "'-2.png", 'a,b\n"c".png', "\\udcff.png"}
    assert all((tmp_path / "out" / "mask" / f"{name}.png").is_file() for name in names)


# --------------------------------------------------------------------------------------------------------------------
# Names


def test_long_names_are_cut_and_stay_apart(model: Model, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    names = [f"{'ü' * 120}{number}.png" for number in (1, 2)] + [f"{'x' * 251}.png", f"{'y' * 247}.png"]
    for name in names:
        photograph().save(tmp_path / "in" / name)
    predicted = predict(model, tmp_path / "in", tmp_path / "out", save=["mask"])
    assert predicted.failed == 0
    written = {name.removeprefix("mask/") for name in files_of(tmp_path / "out") if name.startswith("mask/")}
    assert written == {picture_name(name) for name in names} and len(written) == 4
    assert picture_name(names[3]) == f"{names[3]}.png" and picture_name(names[2]) != f"{names[2]}.png"


def test_a_folder_with_the_name_of_a_picture_is_refused() -> None:
    check_names(["a.jpg", "a.png", "a/b.jpg"])
    with pytest.raises(ValueError, match="'a.jpg.png' has the name"):
        check_names(["a.jpg", "a.jpg.png/b.jpg"])


def test_results_inside_the_source_are_no_photographs(model: Model, source: Path) -> None:
    first = predict(model, source, source / "out", save=["mask"])
    again = predict(model, source, source / "out", save=["mask"], resume=True)
    assert first.total == again.total == 4
    with pytest.raises(ValueError, match="must not lie in the folder of the results"):
        list_photographs(source / "left", source)


def test_a_link_out_of_the_results_is_refused(model: Model, source: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mask").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match="is a link that leads out"):
        predict(model, source, tmp_path / "out", save=["mask"], overwrite=True)
    assert list((tmp_path / "elsewhere").iterdir()) == []


# --------------------------------------------------------------------------------------------------------------------
# Interrupted runs


def interrupt_after(count: int, action: Callable[[], Any], monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Lets so many photographs be predicted; the list counts them."""
    predicted: list[int] = []
    original = ClipSamInference.predict

    def counting(self: Any, images: Any, references: Any = None) -> Any:
        if len(predicted) == count:
            action()
        predicted.append(len(images))
        return original(self, images, references)

    monkeypatch.setattr(ClipSamInference, "predict", counting)
    return predicted


@pytest.mark.parametrize("references", [None, "mutual"])
def test_a_killed_run_goes_on(
    model: Model, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, references: str | None
) -> None:
    options = {"references": references, "save": ["mask", "overlay"]}
    predict(model, source, tmp_path / "whole", **options)

    def run() -> None:
        interrupt_after(3, lambda: os.kill(os.getpid(), signal.SIGKILL), monkeypatch)
        predict(model, source, tmp_path / "out", **options)

    process = multiprocessing.get_context("fork").Process(target=run)
    process.start()
    process.join(60)
    assert process.exitcode == -signal.SIGKILL
    rows = tmp_path / "out" / "predictions.state" / "rows-0000.jsonl"
    done = len(rows.read_bytes().splitlines())
    assert done <= 3
    with open(rows, "ab") as file:
        file.write(b'{"path": "right/b.png", "wid')  # as if it had been killed here

    predicted = interrupt_after(99, lambda: None, monkeypatch)
    predict(model, source, tmp_path / "out", resume=True, **options)
    assert len(predicted) == 4 - done  # nothing is repeated
    assert files_of(tmp_path / "out") == files_of(tmp_path / "whole")


@pytest.mark.parametrize("size", [3, 2**16 + 5])
def test_a_half_row_is_dropped_however_long(model: Model, source: Path, tmp_path: Path, size: int) -> None:
    whole = predict(model, source, tmp_path / "whole")
    output = tmp_path / "out"
    (output / "predictions.state").mkdir(parents=True)
    protocol = (tmp_path / "whole" / "predictions.protocol.json").read_bytes()
    (output / "predictions.protocol.json").write_bytes(protocol)
    first = next(iter((tmp_path / "whole" / "predictions.jsonl").read_bytes().splitlines(keepends=True)))
    (output / "predictions.state" / "rows-0000.jsonl").write_bytes(first + b"x" * size)
    (output / "predictions.state" / "rows-0007.jsonl").write_bytes(b"{" + b"x" * size)
    assert list(predict(model, source, output, resume=True).rows()) == list(whole.rows())


def test_a_finished_run_is_only_written_anew(
    model: Model, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = list(predict(model, source, tmp_path / "out").rows())
    predicted = interrupt_after(0, lambda: pytest.fail("nothing is left"), monkeypatch)
    again = predict(model, source, tmp_path / "out", resume=True, formats=["parquet"])
    assert predicted == [] and list(again.rows()) == first
    assert (tmp_path / "out" / "predictions.parquet").is_file()


def test_resuming_nothing_begins(model: Model, source: Path, tmp_path: Path) -> None:
    assert predict(model, source, tmp_path / "out", resume=True).total == 4


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"threshold": 0.25}, "threshold: 0.4 then, 0.25 now"),
        ({"refine": False}, "refine: True then, False now"),
        ({"class_name": "plate"}, "class_name: 'candle' then, 'plate' now"),
        ({"save": ["mask"]}, r"save: \[\] then, \['mask'\] now"),
        ({"references": "mutual"}, "compared_with: None then"),
        ({"model_name": "other"}, "model.name"),
    ],
)
def test_another_protocol_is_refused(
    model: Model, source: Path, tmp_path: Path, changes: dict[str, Any], line: str
) -> None:
    predict(model, source, tmp_path / "out")
    before = files_of(tmp_path / "out")
    with pytest.raises(ValueError, match=f"under another protocol:\n  {line}"):
        predict(model, source, tmp_path / "out", resume=True, **changes)
    assert files_of(tmp_path / "out") == before


def test_other_photographs_and_other_references_are_another_protocol(
    model: Model, source: Path, good: Path, tmp_path: Path
) -> None:
    predict(model, source, tmp_path / "out", references=good)
    photograph(99).save(good / "0.png")
    with pytest.raises(ValueError, match="compared_with.references_sha256"):
        predict(model, source, tmp_path / "out", references=good, resume=True)
    (source / "a.jpg").unlink()
    with pytest.raises(ValueError, match="photographs.number: 4 then, 3 now"):
        predict(model, source, tmp_path / "out", references=good, resume=True)


def test_a_used_folder_is_refused(model: Model, source: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    output.mkdir()
    (output / "note.txt").write_text("mine")
    for resume in (False, True):
        with pytest.raises(FileExistsError, match="already holds files, but none of a prediction"):
            predict(model, source, output, resume=resume)
    predict(model, source, output, overwrite=True)
    with pytest.raises(FileExistsError, match="already holds predictions; `resume` goes on"):
        predict(model, source, output)
    with pytest.raises(ValueError, match="exclude each other"):
        predict(model, source, output, resume=True, overwrite=True)


def test_overwriting_removes_what_was_predicted_and_nothing_else(model: Model, source: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    (output / "mask").mkdir(parents=True)
    (output / "mask" / "mine.png").write_text("mine")
    predict(model, source, output, overwrite=True, save=["mask", "map"], formats=["parquet"])
    (source / "left" / "a.jpg").unlink()
    predict(model, source, output, overwrite=True, save=["map"])
    names = {"mask/mine.png", *(f"map/{name}.png" for name in ("a.jpg", "a.png", "right/b.png"))}
    names |= {"predictions.csv", "predictions.jsonl", "predictions.protocol.json"}
    assert set(files_of(output)) == names
    assert not (output / "map" / "left").exists()


def test_a_row_that_could_not_be_written_leaves_no_half(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def write(file: int, content: Any) -> int:
        if len(content) < 10:
            raise OSError(28, "No space left on device")
        return original(file, content[:4])

    original = os.write
    with RowFile(tmp_path / "rows") as rows:
        rows.append({"path": "a"})
        with monkeypatch.context() as patch:
            patch.setattr(os, "write", write)
            with pytest.raises(OSError, match="No space left"):
                rows.append({"path": "b"})
        rows.append({"path": "c"})
    assert (tmp_path / "rows").read_text() == '{"path": "a"}\n{"path": "c"}\n'


def predict_in(output: Path, checkpoint: Path, source: Path) -> None:
    parts = (part.from_pretrained(checkpoint) for part in (ClipSamForAnomalySegmentation, ClipSamProcessor))
    predict_folder(
        *parts, source, output, class_name="candle", references="mutual", save=["map"], device="cpu", num_workers=0
    )


def test_two_processes_predict_as_one(checkpoint: Path, source: Path, tmp_path: Path) -> None:
    (source / "broken.jpg").write_text("no picture")
    run_processes(predict_in, tmp_path / "two", checkpoint, source)
    predict_in(tmp_path / "one", checkpoint, source)
    two, one = files_of(tmp_path / "two"), files_of(tmp_path / "one")
    assert two.keys() == one.keys()
    # Products of matrices are rounded by where they lie in memory, which another process has elsewhere. Random weights
    # cut SAM's masks in many places, so that a rounding moves a score by up to 3e-6.
    for row, expected in zip(*(json_lines(each["predictions.jsonl"]) for each in (two, one)), strict=True):
        assert row["score"] == pytest.approx(expected["score"], abs=1e-5)
        assert {**row, "score": 0, "regions": []} == {**expected, "score": 0, "regions": []}
        for region, other in zip(row["regions"], expected["regions"], strict=True):
            assert region == {**other, "score": pytest.approx(other["score"], abs=1e-5)}
    for name in (name for name in one if name.startswith("map/")):
        levels, others = (np.asarray(Image.open(io.BytesIO(each[name])), dtype=np.int64) for each in (two, one))
        assert np.abs(levels - others).max() <= 2


# --------------------------------------------------------------------------------------------------------------------
# The command


def run(*arguments: Any) -> Result:
    return CliRunner().invoke(cli.app, ["predict", *map(str, arguments)])


def test_command_says_what_it_did(checkpoint: Path, source: Path, good: Path, tmp_path: Path) -> None:
    options = ("--model", checkpoint, "--class-name", "candle", "--output", tmp_path / "out", "--num-workers", "0")
    result = run(source, *options, "--references", good, "--save", "mask, map", "--format", "csv")
    assert result.exit_code == 0, result.output
    assert re.fullmatch(r"4 photographs: \d anomalous, \d normal\n", result.stdout)
    assert "predictions.csv, predictions.jsonl, mask, map\n" in result.stderr
    assert "image/s" not in result.stderr  # no bar where nobody sees it


def test_unreadable_photographs_are_rows_and_exit_code_1(checkpoint: Path, source: Path, tmp_path: Path) -> None:
    (source / "broken.jpg").write_text("no picture")
    (source / "empty.png").touch()
    options = ("--model", checkpoint, "--class-name", "candle", "--output", tmp_path / "out", "--device", "cpu")
    result = run(source, *options, "--save", "overlay", "--batch-size", "2", "--no-refine")
    assert result.exit_code == 1, result.output
    assert "4 scored without a verdict, since there is no decision threshold, 2 unreadable" in result.stdout
    rows = {row["path"]: row for row in FolderPredictions(tmp_path / "out", 6, 0, 0, 2, []).rows()}
    assert [name for name, row in rows.items() if row["error"]] == ["broken.jpg", "empty.png"]
    assert "is empty" in rows["empty.png"]["error"] and rows["empty.png"]["score"] is None
    assert all(row["score"] is not None for row in rows.values() if not row["error"])


@pytest.mark.parametrize(
    ("fault", "exit_code", "message"),
    [
        (KeyboardInterrupt(), 130, "interrupted; the same command"),
        (OSError(errno.ENOSPC, "No space left on device"), 2, "out' is full: make room on it, and the same command"),
    ],
    ids=["interrupted", "full"],
)
def test_a_run_that_is_cut_keeps_the_state_and_says_how_to_go_on(
    checkpoint: Path,
    source: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    fault: BaseException,
    exit_code: int,
    message: str,
) -> None:
    def interrupt() -> None:
        raise fault

    options = ("--model", checkpoint, "--class-name", "candle", "--output", tmp_path / "out", "--num-workers", "0")
    with monkeypatch.context() as patch:
        interrupt_after(2, interrupt, patch)
        result = run(source, *options)
    assert result.exit_code == exit_code, result.output
    assert f"{message} with --resume, without --overwrite, goes on from here" in result.stderr
    rows = (tmp_path / "out" / "predictions.state" / "rows-0000.jsonl").read_text()
    # What waits to be written when the interruption comes is done again
    assert [json.loads(row)["path"] for row in rows.splitlines()] == ["a.jpg", "a.png"][: rows.count("\n")]
    result = run(source, *options, "--resume")
    assert result.exit_code == 0 and result.stdout.startswith("4 photographs")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--class-name", "candle", "--mutual", "--references", "good"], "exclude each other"),
        (["--mutual"], "`class_name` is needed"),
        ([], "`class_name` is needed"),
        (["--class-name", " "], "must not be empty"),
        (["--class-name", "candle", "--save", "masks"], "`save` takes overlay, heatmap, mask, map, got 'masks'"),
        (["--class-name", "candle", "--format", "xlsx"], "`formats` takes csv, jsonl, parquet, got 'xlsx'"),
        (["--class-name", "candle", "--threshold", "1.5"], "`threshold` must lie in"),
        (["--class-name", "candle", "--roi", "missing.png"], "--roi must be an image file"),
        (["--class-name", "candle", "--tile", "big"], "--tile must be auto, none or a side in pixels, got 'big'"),
        (["--class-name", "candle", "--tile", "5"], "`tile` must be 'auto', a side of at least 16 pixels or None"),
        (["--class-name", "candle", "--overwrite", "--resume"], "exclude each other"),
        (["--class-name", "candle", "--device", "nonsense"], "the device 'nonsense' cannot be used"),
        (["--class-name", "candle", "--model", "/nope"], "'/nope' is no folder"),
    ],
)
def test_bad_input_is_one_error_and_leaves_nothing(
    source: Path, good: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], message: str
) -> None:
    monkeypatch.chdir(good.parent)
    before = sorted(good.parent.rglob("*"))
    result = run(source, *arguments, "--output", "out")
    assert result.exit_code == 2, result.output
    assert result.stdout == "" and message in result.stderr
    assert result.stderr.count("error: ") == 1 and "Traceback" not in result.stderr
    assert sorted(good.parent.rglob("*")) == before


@pytest.mark.parametrize("name", ["missing", "empty"])
def test_no_photograph_is_exit_code_2(tmp_path: Path, name: str) -> None:
    (tmp_path / "empty").mkdir()
    result = run(tmp_path / name, "--class-name", "candle", "--output", tmp_path / "out")
    assert result.exit_code == 2 and "photograph" in result.stderr and not (tmp_path / "out").exists()


def test_parquet_without_pyarrow_names_the_extra(source: Path, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    result = run(source, "--class-name", "candle", "--output", tmp_path / "out", "--format", "parquet")
    assert result.exit_code == 2 and "pip install 'clipsam_hf[train]'" in result.stderr


def test_a_line_brings_its_class_name(model: Model, source: Path, tmp_path: Path) -> None:
    ClipSamReferences.from_images(*model, GOOD, class_name="candle").save_pretrained(tmp_path / "line")
    rows = predict(model, source, tmp_path / "out", references=tmp_path / "line", class_name=None).rows()
    assert {row["label"] for row in rows} <= {"normal", "anomalous"}
    with pytest.raises(ValueError, match="the references show 'candle', but `class_name` is 'plate'"):
        predict(model, source, tmp_path / "other", references=tmp_path / "line", class_name="plate")
    with pytest.raises(ValueError, match="at least two of them, got 1"):
        predict(model, source / "a.jpg", tmp_path / "other", references="mutual")


@pytest.mark.parametrize("document", ["README.md", "docs/how-to/predict.md"])
def test_documented_commands_run(
    document: str, model: Model, checkpoint: Path, good: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(good.parent)
    monkeypatch.setattr("clipsam_hf.embedded.EMBEDDED_CHECKPOINT", checkpoint)
    ClipSamReferences.from_images(*model, GOOD, class_name="candle").save_pretrained("line")
    (good.parent / "new").mkdir()
    for number in range(3):
        load_rgb(photograph(20 + number)).save(f"new/{number}.jpg")
    commands = COMMAND.findall((ROOT / document).read_text(encoding="utf-8"))
    assert commands
    for command in commands:
        program, *arguments = shlex.split(command)
        assert program == "clipsam"
        result = CliRunner().invoke(cli.app, arguments)
        assert result.exit_code == 0, result.output
