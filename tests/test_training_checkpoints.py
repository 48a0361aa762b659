# SPDX-FileCopyrightText: 2026 The clipsam_hf authors
# SPDX-License-Identifier: Apache-2.0
"""Checkpoints of a training run: whole or not there, whatever happens while they are written."""

import errno
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from accelerate import Accelerator

from clipsam_hf.modeling_clipsam import ClipSamForAnomalySegmentation
from clipsam_hf.training import checkpoints, train_umci
from clipsam_hf.training.checkpoints import load_trained, newest_checkpoint, read_state


class KilledError(BaseException):
    """Nothing catches a kill."""


class Line(torch.nn.Module):
    """A model of two parameters, one of which is frozen."""

    def __init__(self) -> None:
        super().__init__()
        self.slope, self.offset = torch.nn.Parameter(torch.zeros(3)), torch.nn.Parameter(torch.ones(1))
        self.offset.requires_grad_(False)

    def forward(self, value: float) -> SimpleNamespace:
        return SimpleNamespace(loss=(self.slope * value + self.offset - 3).square().mean())


def train(folder: Path, num_steps: int = 3, **options: object) -> Line:
    model = Line()
    train_umci(
        model, lambda step: {"value": 1.0 + step}, num_steps=num_steps, save_steps=1, output_dir=folder, **options
    )
    return model


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@contextmanager
def largest_file(num_bytes: int) -> Iterator[None]:
    """Let the system refuse to write beyond this size, as a full disk does."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_the_newest_ones_are_kept(tmp_path: Path) -> None:
    train(tmp_path / "two", num_steps=11)
    train(tmp_path / "all", num_steps=3, save_total_limit=None)

    assert names(tmp_path / "two") == ["checkpoint-10", "checkpoint-11"]
    assert names(tmp_path / "all") == ["checkpoint-1", "checkpoint-2", "checkpoint-3"]
    assert newest_checkpoint(tmp_path / "two") == tmp_path / "two" / "checkpoint-11"


def test_a_checkpoint_says_how_far_the_run_has_come(tmp_path: Path) -> None:
    train(tmp_path)
    state = read_state(tmp_path / "checkpoint-2")

    assert len(state.losses) == 2 and state.losses[0] == 4.0
    assert state.configuration["num_steps"] == 3 and state.configuration["lr_scheduler_type"] == "cosine"


def test_the_trained_part_loads_into_another_model(tmp_path: Path) -> None:
    trained, fresh = train(tmp_path), Line()
    with torch.no_grad():
        fresh.offset += 1
    load_trained(fresh, tmp_path / "checkpoint-3")

    assert torch.equal(fresh.slope, trained.slope) and fresh.offset.item() == 2


def test_the_trained_part_of_another_model_is_refused(tmp_path: Path) -> None:
    train(tmp_path)

    with pytest.raises(ValueError, match=r"another model: it differs in \['slope'\]"):
        load_trained(torch.nn.Linear(3, 1), tmp_path / "checkpoint-3")


@pytest.mark.parametrize("name", ["random-0", "trained", "optimizer", "training_state", "complete", "checkpoint-2"])
def test_a_kill_while_saving_leaves_the_checkpoint_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """The process ends in the middle of a file, or before the folder gets its name; nothing is tidied up."""
    write, replace = checkpoints._write, checkpoints.os.replace

    def write_half(path: Path, content: bytes) -> None:
        if "checkpoint-2" in path.parent.name and path.stem == name:
            path.write_bytes(content[: len(content) // 2])
            raise KilledError
        write(path, content)

    def replace_nothing(source: Path, target: Path) -> None:
        if target.name == name:
            raise KilledError
        replace(source, target)

    whole = train(tmp_path / "whole")
    with monkeypatch.context() as patch:
        patch.setattr(checkpoints, "_write", write_half)
        patch.setattr(checkpoints.os, "replace", replace_nothing)
        with pytest.raises(KilledError):
            train(tmp_path / "killed")
    assert newest_checkpoint(tmp_path / "killed") == tmp_path / "killed" / "checkpoint-1"
    assert (tmp_path / "killed" / ".checkpoint-2.partial").is_dir()

    assert torch.equal(train(tmp_path / "killed").slope, whole.slope)
    assert names(tmp_path / "killed") == ["checkpoint-2", "checkpoint-3"]


def test_a_kill_while_an_old_one_is_removed_leaves_the_new_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(path: Path) -> None:
        (path / "trained.safetensors").unlink()
        raise KilledError

    with monkeypatch.context() as patch:
        patch.setattr(checkpoints.shutil, "rmtree", killed)
        with pytest.raises(KilledError):
            train(tmp_path, num_steps=5, save_total_limit=1)

    assert newest_checkpoint(tmp_path) == tmp_path / "checkpoint-2"
    train(tmp_path, num_steps=5, save_total_limit=1)
    assert names(tmp_path) == ["checkpoint-5"]


def test_a_full_disk_keeps_the_last_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written = checkpoints._write

    def full(path: Path, content: bytes) -> None:
        if "checkpoint-2" in str(path) and path.name == "optimizer.safetensors":
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        written(path, content)

    monkeypatch.setattr(checkpoints, "_write", full)
    with pytest.raises(OSError, match="'checkpoint-1' is the last one and unharmed.*No space left on device"):
        train(tmp_path)

    assert names(tmp_path) == ["checkpoint-1"]
    assert len(read_state(tmp_path / "checkpoint-1").losses) == 1


def test_a_file_that_the_system_refuses_is_an_error(tmp_path: Path) -> None:
    with largest_file(1000), pytest.raises(OSError, match="there is no earlier one.*too large"):
        train(tmp_path)

    assert names(tmp_path) == []


@pytest.mark.parametrize(
    "name", ["trained.safetensors", "optimizer.safetensors", "training_state.json", "complete.json"]
)
def test_a_checkpoint_that_lost_a_part_is_passed_over(tmp_path: Path, name: str) -> None:
    whole = train(tmp_path)
    damaged = tmp_path / "checkpoint-3" / name
    damaged.write_bytes(damaged.read_bytes()[:-1])

    assert newest_checkpoint(tmp_path) == tmp_path / "checkpoint-2"
    assert torch.equal(train(tmp_path).slope, whole.slope)
    assert names(tmp_path) == ["checkpoint-2", "checkpoint-3"]


def test_a_given_checkpoint_is_gone_on_with(tmp_path: Path) -> None:
    whole = train(tmp_path, save_total_limit=None)
    losses = read_state(tmp_path / "checkpoint-3").losses
    again = train(tmp_path, save_total_limit=None, resume_from_checkpoint=tmp_path / "checkpoint-1")

    assert torch.equal(again.slope, whole.slope)
    assert read_state(tmp_path / "checkpoint-3").losses == losses


def test_a_given_folder_that_is_no_checkpoint_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no complete checkpoint"):
        train(tmp_path, resume_from_checkpoint=tmp_path / "checkpoint-9")


def test_another_number_of_parts_is_refused(tmp_path: Path) -> None:
    train(tmp_path)

    with pytest.raises(ValueError, match="gradient_accumulation_steps: 1 then, 2 now"):
        train(tmp_path, accelerator=Accelerator(cpu=True, gradient_accumulation_steps=2))


def test_a_folder_without_checkpoints_has_no_newest_one(tmp_path: Path) -> None:
    (tmp_path / "checkpoint-7").mkdir()

    assert newest_checkpoint(tmp_path) is None


def test_nothing_is_pickled(tmp_path: Path) -> None:
    """Nothing in a checkpoint is a pickle, so that loading one cannot run code."""
    train(tmp_path)

    assert names(tmp_path / "checkpoint-3") == [
        "complete.json",
        "optimizer.safetensors",
        "random-0.safetensors",
        "trained.safetensors",
        "training_state.json",
    ]


def batch_of_two(step: int) -> dict[str, torch.Tensor]:
    texts = torch.nn.functional.normalize(torch.ones(1, 2, 16), dim=-1)
    return {"pixel_values": torch.ones(2, 3, 32, 32), "text_embeds": texts, "labels": torch.ones(2, 32, 32)}


def test_a_model_with_loaded_weights_may_predict(tiny_model: ClipSamForAnomalySegmentation, tmp_path: Path) -> None:
    """Its own parameters were set by hand: it cannot know that these were trained."""
    fresh = [ClipSamForAnomalySegmentation(tiny_model.config) for _ in range(2)]
    for model in fresh:
        model.clip = tiny_model.clip
    assert not any(model.head_is_trained for model in fresh)
    train_umci(tiny_model, batch_of_two, num_steps=1, output_dir=tmp_path)

    load_trained(fresh[0], tmp_path / "checkpoint-1")
    assert train_umci(fresh[1], batch_of_two, num_steps=1, output_dir=tmp_path) == []  # nothing was left to do
    assert all(model.head_is_trained for model in fresh)
