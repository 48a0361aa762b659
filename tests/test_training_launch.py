# SPDX-FileCopyrightText: 2026 The clipsam_hf authors
# SPDX-License-Identifier: Apache-2.0
"""The training script as users start it, and as machines end it: processes of their own, killed in the middle."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from test_training_script import backbones, write_set

from clipsam_hf.training.checkpoints import newest_checkpoint, read_state


__all__ = ["backbones"]

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
SCRIPT = str(ROOT / "examples" / "train.py")


def launch(configuration: str, *what: str) -> list[str]:
    """The command up to the options: by Accelerate with one of our configurations."""
    path = ROOT / "examples" / "accelerate" / f"{configuration}.yaml"
    return [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(path), *what, "--cpu"]


@pytest.fixture
def options(tmp_path: Path, backbones: list[str]) -> list[str]:  # noqa: F811
    """Twelve steps over seven images, each of several accumulated batches, with a checkpoint after every fifth."""
    write_set(tmp_path / "plates", "plate")
    return [
        *(*backbones, "--data_dir", str(tmp_path / "plates"), "--no_refine", "--logging_steps", "1"),
        *("--max_train_steps", "12", "--checkpointing_steps", "5", "--total_train_batch_size", "4"),
        *("--learning_rate", "1e-3", "--num_views", "2", "--per_device_train_batch_size", "1"),
    ]


def run(command: list[str]) -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=240)
    assert done.returncode == 0, done.stdout + done.stderr


def run_and_send(command: list[str], number: int, *, after: str, to_group: bool) -> int:
    """Start, send a signal when a line of the log begins so, and return the exit code."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment, start_new_session=True
    )
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith(after):
            (os.killpg if to_group else os.kill)(process.pid, number)
            break
    return process.wait(timeout=120)


@pytest.mark.parametrize("configuration", ["cpu", "cpu_two_processes"])
def test_a_run_that_was_killed_ends_with_the_same_bytes(
    tmp_path: Path, options: list[str], configuration: str
) -> None:
    command = [*launch(configuration, SCRIPT), *options, "--output_dir"]
    run_and_send([*command, str(tmp_path / "killed")], signal.SIGKILL, after="step 8", to_group=True)
    time.sleep(1)
    first = newest_checkpoint(tmp_path / "killed")
    assert first is not None and first.name == "checkpoint-5"
    run([*command, str(tmp_path / "killed")])
    run([*command, str(tmp_path / "whole")])

    killed, whole = (newest_checkpoint(tmp_path / name) for name in ("killed", "whole"))
    assert killed is not None and whole is not None
    assert sorted(path.name for path in killed.iterdir()) == sorted(path.name for path in whole.iterdir())
    for path in whole.iterdir():
        assert (killed / path.name).read_bytes() == path.read_bytes(), path.name
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("killed", "whole")]
    assert weights[0] == weights[1]
    results = json.loads((tmp_path / "whole" / "all_results.json").read_text())
    assert results["num_processes"] == (2 if configuration == "cpu_two_processes" else 1)


@pytest.mark.parametrize("num_workers", ["0", "2"])
def test_sigterm_saves_and_exits_with_143(tmp_path: Path, options: list[str], num_workers: str) -> None:
    """Also where it reaches the processes that read ahead."""
    command = [sys.executable, SCRIPT, "--cpu", *options, "--output_dir", str(tmp_path / "stopped")]
    command += ["--dataloader_num_workers", num_workers]

    assert run_and_send(command, signal.SIGTERM, after="step 3", to_group=True) == 143
    checkpoint = newest_checkpoint(tmp_path / "stopped")
    assert checkpoint is not None and 3 <= len(read_state(checkpoint).losses) < 12


def test_an_error_with_readers_at_work_ends_the_process(tmp_path: Path, options: list[str]) -> None:
    (tmp_path / "plates" / "plate" / "test" / "good" / "001.png").write_bytes(b"no image")
    command = [sys.executable, SCRIPT, "--cpu", *options, "--output_dir", str(tmp_path / "out"), "--no_cache"]
    done = subprocess.run(
        [*command, "--dataloader_num_workers", "1"], capture_output=True, text=True, timeout=120, check=False
    )

    assert done.returncode == 2
    assert "error: " in done.stderr and "001.png" in done.stderr


def test_two_processes_keep_the_protocol_of_one(tmp_path: Path, options: list[str]) -> None:
    """The module needs no file of the repository; a step has the same images, so its loss is the same."""
    losses = []
    for configuration in ("cpu", "cpu_two_processes"):
        output = tmp_path / configuration
        run([*launch(configuration, "-m", "clipsam_hf.training"), *options, "--output_dir", str(output)])
        results = json.loads((output / "all_results.json").read_text())
        losses.append(results["losses"])

    assert results["num_processes"] == 2 and len(losses[0]) == 12
    assert losses[1] == pytest.approx(losses[0], abs=1e-4)


def test_two_processes_calibrate_as_one_does(tmp_path: Path, options: list[str]) -> None:
    """Thresholds and the weight of SAM's masks: each process keeps the maps of its own images, and all are counted."""
    run([sys.executable, SCRIPT, "--cpu", *options, "--output_dir", str(tmp_path / "trained")])
    script = tmp_path / "calibrate.py"
    script.write_text(CALIBRATE)
    found = []
    for configuration in ("cpu", "cpu_two_processes"):
        output = tmp_path / f"{configuration}.json"
        run([*launch(configuration, str(script)), *map(str, (tmp_path / "trained", tmp_path / "plates", output))])
        found.append(json.loads(output.read_text()))

    assert [each.pop("num_processes") for each in found] == [1, 2]
    assert found[0] == found[1] and found[0]["refine"] is True


CALIBRATE = """
import json
import sys

from accelerate import Accelerator

from clipsam_hf import ClipSamForAnomalySegmentation, ClipSamProcessor
from clipsam_hf.data import AnomalyFolder
from clipsam_hf.training.calibration import calibrate

trained, data, output = (each for each in sys.argv[1:] if each != "--cpu")
accelerator = Accelerator(cpu=True)
model, processor = (each.from_pretrained(trained) for each in (ClipSamForAnomalySegmentation, ClipSamProcessor))
found = calibrate(model, processor, AnomalyFolder(data, split=None), accelerator=accelerator)
if accelerator.is_main_process:
    with open(output, "w") as file:
        json.dump({**found.to_dict(), "num_processes": accelerator.num_processes}, file)
"""
