# SPDX-FileCopyrightText: 2026 The clipsam_hf authors
# SPDX-License-Identifier: Apache-2.0
"""The command line where terminals, pipes and disks are as they are: real processes, ended or starved from outside."""

import io
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from test_calibrate_line import save_photographs
from test_cli import call_main

import clipsam_hf


@pytest.fixture
def environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1"}


def shell(line: str, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """Runs `clipsam info` of the embedded checkpoint in a line of bash."""
    run = "import clipsam_command; clipsam_command.main()"
    command = f"'{sys.executable}' -c '{run}' info '{clipsam_hf.EMBEDDED_CHECKPOINT}'"
    return subprocess.run(
        ["bash", "-c", line.format(clipsam=command)], env=environment, capture_output=True, text=True, timeout=100
    )


def test_whoever_reads_one_line_gets_it_without_a_traceback(environment: dict[str, str]) -> None:
    run = shell("{clipsam} | head -1", environment)
    assert (run.returncode, run.stderr) == (0, "")
    assert len(run.stdout.splitlines()) == 1


@pytest.mark.slow
def test_a_closed_output_is_no_error(environment: dict[str, str]) -> None:
    run = shell("{clipsam} >&-", environment)
    assert (run.returncode, run.stdout, run.stderr) == (0, "", "")


def test_a_full_disk_behind_the_output_is_one_sentence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    stdout = io.TextIOWrapper(open("/dev/full", "wb", buffering=0), write_through=True)
    assert call_main(stdout, monkeypatch) == 2
    assert capsys.readouterr().err == "error: cannot write the output: [Errno 28] No space left on device\n"


def predict(source: Path, checkpoint: Path, output: Path, *more: str) -> list[Any]:
    run = "import clipsam_command; clipsam_command.main()"
    command = [sys.executable, "-c", run, "predict", source, "--class-name", "candle", "--model", checkpoint]
    return [*command, "--output", output, "--num-workers", "0", *more]


@pytest.fixture
def trained_checkpoint(tiny_model: Any, tiny_checkpoint: Path) -> Path:
    tiny_model.config.update({"localizer": "similarity"})
    tiny_model.save_pretrained(tiny_checkpoint)
    return tiny_checkpoint


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_locale_without_unicode_reads_and_writes_any_name(
    trained_checkpoint: Path, tmp_path: Path, environment: dict[str, str]
) -> None:
    source = save_photographs(tmp_path / "in", 2)
    (source / "000.png").rename(source / "Plättchen.png")
    (source / "001.png").rename(source / os.fsdecode(b"\xff.png"))
    poor = {**environment, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    output = tmp_path / "out"
    run = subprocess.run(
        predict(source, trained_checkpoint, output, "--save", "mask"), env=poor, capture_output=True, timeout=500
    )
    assert run.returncode == 0, run.stderr.decode("utf-8", "replace")
    assert {os.fsencode(path.name) for path in (output / "mask").iterdir()} == {
        "Plättchen.png.png".encode(),
        b"\xff.png.png",
    }
    assert len((output / "predictions.csv").read_text(encoding="utf-8").splitlines()) == 3


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_ctrl_c_leaves_rows_that_a_second_run_goes_on_with(
    trained_checkpoint: Path, tmp_path: Path, environment: dict[str, str]
) -> None:
    source = save_photographs(tmp_path / "in", 80)
    process = subprocess.Popen(
        predict(source, trained_checkpoint, tmp_path / "out"),
        env=environment,
        stderr=subprocess.PIPE,
        text=True,
        # A shell starts what runs in the background deaf to it
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    rows, end = tmp_path / "out" / "predictions.state" / "rows-0000.jsonl", time.monotonic() + 300
    while not (rows.exists() and rows.stat().st_size) and time.monotonic() < end:
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, message = process.communicate(timeout=100)
    assert process.returncode == 130
    assert "Traceback" not in message and "--resume" in message
    done = rows.read_bytes()
    assert done.endswith(b"\n") and len(done.splitlines()) < 80

    again = predict(source, trained_checkpoint, tmp_path / "out", "--resume")
    run = subprocess.run(again, env=environment, capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stderr
    content = (tmp_path / "out" / "predictions.jsonl").read_bytes()
    assert content.startswith(done) and len(content.splitlines()) == 80
