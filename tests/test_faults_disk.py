# SPDX-FileCopyrightText: 2026 The clipsam_hf authors
# SPDX-License-Identifier: Apache-2.0
"""A disk that fills up, a folder of a stranger, a process that is killed: what was there stays, what comes goes on."""

import multiprocessing
import os
import random
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import test_prediction
from test_calibrate_line import save_photographs
from test_checkpoints import contents, full_disk
from test_prediction import Model, predict
from test_references_clipsam import GOOD, photograph

from clipsam_hf import ClipSamReferences, image_loading
from clipsam_hf.data import AnomalyFolder
from clipsam_hf.evaluation import EvaluationOptions, evaluate


model, source = test_prediction.model, test_prediction.source  # the fixtures


@pytest.mark.parametrize("room", [300, 2_000])  # too little for the protocol, for a map
def test_a_full_disk_stops_a_folder_and_its_run_goes_on(
    model: Model,
    source: Path,
    tmp_path: Path,
    room: int,
) -> None:
    options: dict[str, Any] = {"save": ["map"], "formats": ["csv", "jsonl"]}
    predict(model, source, tmp_path / "whole", **options)
    with full_disk(room), pytest.raises(OSError, match="File too large"):
        predict(model, source, tmp_path / "out", **options)
    assert not (tmp_path / "out" / "predictions.jsonl").exists()
    predict(model, source, tmp_path / "out", resume=True, **options)
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_a_full_disk_leaves_the_old_line(model: Model, tmp_path: Path) -> None:
    references = ClipSamReferences.from_images(*model, GOOD, class_name="candle")
    references.save_pretrained(tmp_path / "line")
    before = contents(tmp_path / "line")
    for target in (tmp_path / "line", tmp_path / "new"):
        with full_disk(300), pytest.raises(Exception, match="(?i)too large|os error"):
            references.save_pretrained(target)
    assert contents(tmp_path / "line") == before
    assert contents(tmp_path / "new") == {}


def test_a_full_disk_stops_an_evaluation_and_its_run_goes_on(model: Model, tmp_path: Path) -> None:
    save_photographs(tmp_path / "set" / "good", 2)
    save_photographs(tmp_path / "set" / "bad", 2, has_defect=True)
    data, options = AnomalyFolder(tmp_path / "set"), EvaluationOptions(size=24, refine=False)

    def run(output: Path) -> None:
        evaluate(*model, data, options, output_dir=output, device="cpu")

    run(tmp_path / "whole")
    with full_disk(3_000), pytest.raises(OSError, match="File too large"):
        run(tmp_path / "out")
    assert not (tmp_path / "out" / "results.json").exists()
    run(tmp_path / "out")
    names = set(contents(tmp_path / "whole"))
    assert set(contents(tmp_path / "out")) == names and "results.json" in names


def test_a_photograph_that_may_not_be_read_is_a_row(
    model: Model,
    source: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The administrator, who may run this, can read any."""

    def closed(path: str, mode: str) -> Any:
        if path.endswith("a.png"):
            raise PermissionError(13, "Permission denied", path)
        return open(path, mode)

    monkeypatch.setattr(image_loading, "open", closed, raising=False)
    os.mkfifo(source / "pipe.png")
    (source / "circle.png").symlink_to("circle.png")
    predicted = predict(model, source, tmp_path / "out")
    errors = {row["path"]: row["error"] for row in predicted.rows() if row["error"]}
    assert predicted.failed == len(errors) == 3
    assert errors["a.png"].startswith("PermissionError: ")
    assert errors["pipe.png"].startswith("ImageReadError: ") and "pipe" in errors["pipe.png"]
    assert errors["circle.png"].startswith("OSError: ")


def test_names_that_are_no_text_are_predicted(model: Model, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    names = [os.fsdecode(b"\xff\xfe.png"), "line\nbreak.png", "100 %s {}.png", "=cmd().png"]
    for name in names:
        photograph().save(tmp_path / "in" / name)
    output = tmp_path / "out"
    predicted = predict(model, tmp_path / "in", output, save=["mask"], formats=["csv", "jsonl", "parquet"])
    assert predicted.failed == 0
    assert sorted(row["path"] for row in predicted.rows()) == sorted(names)
    assert sorted(path.name for path in (output / "mask").iterdir()) == sorted(f"{name}.png" for name in names)
    assert "\\udcff\\udcfe.png" in (output / "predictions.csv").read_text(encoding="utf-8")


def test_a_used_folder_of_a_stranger_removes_and_writes_nothing_outside(
    model: Model,
    source: Path,
    tmp_path: Path,
) -> None:
    """Its rows speak of files elsewhere, and its sub-folders are links."""
    output, elsewhere = tmp_path / "out", tmp_path / "elsewhere"
    predict(model, source, output, save=["mask"])
    elsewhere.mkdir()
    for name in ("a.jpg.png", "victim.png"):
        (elsewhere / name).touch()
    (elsewhere / "empty").mkdir()
    rows = (output / "predictions.jsonl").read_text()
    (output / "predictions.jsonl").write_text(rows.replace("right/b.png", "../../elsewhere/victim"))
    (output / "mask").rename(output / "mask-before")
    (output / "mask").symlink_to(elsewhere)
    with pytest.raises(OSError, match="link that leads out"):
        predict(model, source, output, save=["mask"], overwrite=True)
    assert {path.name for path in elsewhere.iterdir()} == {"a.jpg.png", "victim.png", "empty"}

    (output / "mask").unlink()
    for name in ("predictions.state", "predictions.protocol.json"):
        (tmp_path / "linked" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "linked" / name).symlink_to(elsewhere / "target")
        with pytest.raises(FileExistsError, match=f"{name}' is a link"):
            predict(model, source, tmp_path / "linked", overwrite=True)
        (tmp_path / "linked" / name).unlink()


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_runs_that_are_killed_at_any_time_end_as_one(model: Model, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for number in range(60):
        photograph(number, (1, 2) if number % 3 else None).save(tmp_path / "in" / f"{number:02d}.png")
    options: dict[str, Any] = {"save": ["mask", "map"], "num_workers": 1}
    start = time.perf_counter()
    predict(model, tmp_path / "in", tmp_path / "whole", **options)
    seconds = time.perf_counter() - start
    rng, kills = random.Random(0), 0
    while kills < 8:
        process = multiprocessing.get_context("fork").Process(
            target=predict, args=(model, tmp_path / "in", tmp_path / "out"), kwargs={**options, "resume": True}
        )
        process.start()
        time.sleep(rng.uniform(0.0, seconds / 5))
        process.kill()
        process.join()
        kills += process.exitcode == -signal.SIGKILL
        if process.exitcode == 0:
            break
    predict(model, tmp_path / "in", tmp_path / "out", resume=True, **options)
    assert kills >= 2
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_a_run_that_was_killed_while_it_began_goes_on(model: Model, source: Path, tmp_path: Path) -> None:
    """All that is there is the half of a protocol, beside its place; found by killing at any time."""
    (tmp_path / "out" / "predictions.state").mkdir(parents=True)
    (tmp_path / "out" / ".predictions.protocol.json.4711").write_text('{"command": "clip')
    assert predict(model, source, tmp_path / "out", resume=True).total == 4
    assert not any(name.startswith(".") for name in contents(tmp_path / "out"))
