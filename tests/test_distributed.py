# SPDX-FileCopyrightText: 2026 The clipsam_hf authors
# SPDX-License-Identifier: Apache-2.0
"""Several processes: the same losses as one, checkpoints that any number of them wrote, and how they are launched."""

import copy
import json
import multiprocessing
import os
import shutil
import socket
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.state import AcceleratorState, PartialState
from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin, set_seed
from miniature_sets import write_photograph
from test_training import batch_of_step
from test_training_script import write_set

from clipsam_hf.configuration_clipsam import ClipSamConfig
from clipsam_hf.data import AnomalyFolder
from clipsam_hf.evaluation import EvaluationOptions, evaluate
from clipsam_hf.modeling_clipsam import ClipSamForAnomalySegmentation
from clipsam_hf.processing_clipsam import ClipSamProcessor
from clipsam_hf.training import TrainingInterruptedError, train_umci
from clipsam_hf.training import run as training_run
from clipsam_hf.training.checkpoints import load_trained, newest_checkpoint, read_state


CONFIGURATIONS = Path(__file__).parents[1] / "examples" / "accelerate"


def run_processes(function: Callable[..., None], *arguments: Any, count: int = 2) -> None:
    """Run a function in forked processes that have found each other by gloo, and raise if one of them fails."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    context = multiprocessing.get_context("fork")
    problems = context.SimpleQueue()

    def work(rank: int) -> None:
        os.environ.update(
            RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(count), MASTER_ADDR="127.0.0.1", MASTER_PORT=port
        )
        torch.set_num_threads(1)
        set_seed(rank)
        AcceleratorState._reset_state(reset_partial_state=True)
        try:
            function(*arguments)
        except BaseException:
            problems.put(traceback.format_exc())
            os._exit(1)
        if torch.distributed.is_initialized():  # a whole training has left it
            torch.distributed.destroy_process_group()

    processes = [context.Process(target=work, args=(rank,), daemon=True) for rank in range(count)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
        if process.is_alive():
            process.kill()
    assert problems.empty(), problems.get()
    assert [process.exitcode for process in processes] == [0] * count


def batch_of_three(step: int) -> dict[str, torch.Tensor]:
    """Three images, which two processes cannot share evenly."""
    first, second = batch_of_step(step), batch_of_step(step + 1)
    both = {name: torch.cat((first[name], second[name]))[:3] for name in ("pixel_values", "labels")}
    return {**first, **both}


def train(model: ClipSamForAnomalySegmentation, folder: Path, accumulation: int = 1, **options: Any) -> None:
    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=accumulation)
    options = {"num_steps": 4, "learning_rate": 1e-2, "save_steps": 2, **options}
    train_umci(model, batch_of_three, output_dir=folder, accelerator=accelerator, **options)


@pytest.mark.parametrize("accumulation", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_two_processes_follow_one(
    tiny_model: ClipSamForAnomalySegmentation, tmp_path: Path, accumulation: int
) -> None:
    run_processes(train, tiny_model, tmp_path / "two", accumulation)
    train(tiny_model, tmp_path / "one", accumulation)
    one, two = (tmp_path / name / "checkpoint-4" for name in ("one", "two"))

    assert read_state(two).losses == pytest.approx(read_state(one).losses, abs=1e-5)
    assert {path.name for path in two.glob("random-*")} == {"random-0.safetensors", "random-1.safetensors"}


@pytest.mark.slow
def test_two_processes_resume_to_the_same_bytes(tiny_model: ClipSamForAnomalySegmentation, tmp_path: Path) -> None:
    def interrupted() -> None:
        def batch(step: int) -> dict[str, torch.Tensor]:
            if step == 3:
                raise InterruptedError
            return batch_of_three(step)

        accelerator = Accelerator(cpu=True)
        options = {"num_steps": 4, "learning_rate": 1e-2, "save_steps": 2, "output_dir": tmp_path / "resumed"}
        with pytest.raises(InterruptedError):
            train_umci(tiny_model, batch, accelerator=accelerator, **options)

    run_processes(train, tiny_model, tmp_path / "whole")
    run_processes(interrupted)
    run_processes(train, tiny_model, tmp_path / "resumed")

    for path in (tmp_path / "whole" / "checkpoint-4").iterdir():
        assert (tmp_path / "resumed" / "checkpoint-4" / path.name).read_bytes() == path.read_bytes(), path.name


def test_a_signal_to_one_process_stops_both_after_the_same_step(
    tiny_model: ClipSamForAnomalySegmentation, tmp_path: Path
) -> None:
    def signalled() -> None:
        def batch(step: int) -> dict[str, torch.Tensor]:
            if step == 1 and os.environ["RANK"] == "1":
                os.kill(os.getpid(), 15)
            return batch_of_three(step)

        with pytest.raises(TrainingInterruptedError, match="after step 2"):
            train_umci(tiny_model, batch, num_steps=6, output_dir=tmp_path, accelerator=Accelerator(cpu=True))

    run_processes(signalled)

    assert newest_checkpoint(tmp_path) == tmp_path / "checkpoint-2"


def test_a_process_that_cannot_write_stops_both(
    tiny_model: ClipSamForAnomalySegmentation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from clipsam_hf.training import checkpoints

    write = checkpoints._write

    def full(path: Path, content: bytes) -> None:
        if "checkpoint-4" in str(path) and path.name == "random-1.safetensors":
            raise OSError(28, "No space left on device")
        write(path, content)

    def stopped() -> None:
        reason = "No space left" if os.environ["RANK"] == "1" else "another process could not write"
        with pytest.raises(OSError, match=f"'checkpoint-2' is the last one and unharmed.*{reason}"):
            train(tiny_model, tmp_path)

    monkeypatch.setattr(checkpoints, "_write", full)
    run_processes(stopped)

    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-2"]


@pytest.mark.parametrize(
    "change",
    [
        {"fused_features": ("original",)},
        {"fused_features": ("row", "scale")},
        {"fused_features": ("original",), "head": "text"},
        {"freeze_backbones": False},
        {"stage_loss_weights": (0.0, 1.0)},
    ],
    ids=lambda change: " ".join(change),
)
def test_no_parameter_of_any_configuration_lacks_a_gradient(
    tiny_config: ClipSamConfig, tmp_path: Path, change: dict[str, Any]
) -> None:
    """Distributed training stops in its second step where one does."""
    torch.manual_seed(0)
    model = ClipSamForAnomalySegmentation(ClipSamConfig.from_dict({**tiny_config.to_dict(), **change}))
    run_processes(train, copy.deepcopy(model), tmp_path / "two")
    train(model, tmp_path / "one")

    one, two = (read_state(tmp_path / name / "checkpoint-4").losses for name in ("one", "two"))
    assert two == pytest.approx(one, abs=1e-4)


def train_by_options(arguments: list[str]) -> None:
    training_run.main(arguments)


@pytest.mark.slow
@pytest.mark.parametrize("per_device", ["8", "1"])
def test_a_step_takes_the_same_images_on_two_processes(tiny_checkpoint: Path, tmp_path: Path, per_device: str) -> None:
    """Eight processes once took eight times the batch, at the rate of one."""
    write_set(tmp_path / "plates", "plate")
    options = [
        *("--model_name_or_path", str(tiny_checkpoint), "--data_dir", str(tmp_path / "plates"), "--cpu"),
        *("--max_train_steps", "4", "--total_train_batch_size", "3", "--no_refine", "--learning_rate", "1e-2"),
        *("--per_device_train_batch_size", per_device, "--num_views", "2", "--output_dir"),
    ]
    run_processes(train_by_options, [*options, str(tmp_path / "two")])
    training_run.main([*options, str(tmp_path / "one")])

    states = [read_state(tmp_path / name / "checkpoint-4") for name in ("one", "two")]
    assert [state.configuration["num_processes"] for state in states] == [1, 2]
    assert states[1].losses == pytest.approx(states[0].losses, abs=1e-5)


def train_sharded(model: ClipSamForAnomalySegmentation, folder: Path, save_total_limit: int | None = None) -> None:
    """Train by Accelerate's FSDP2, which it has for GPUs only: let it take two gloo processes for such."""
    prepare_backend = PartialState._prepare_backend

    def prepare(self: PartialState, cpu: bool = False, *arguments: Any, **options: Any) -> tuple[str, Any]:
        return prepare_backend(self, True, *arguments, **options)[0], DistributedType.MULTI_GPU

    def set_device(self: PartialState) -> None:
        self.device = torch.device("cpu")

    PartialState._prepare_backend, PartialState.set_device = prepare, set_device
    plugin = FullyShardedDataParallelPlugin(
        fsdp_version=2,
        auto_wrap_policy="transformer_based_wrap",
        transformer_cls_names_to_wrap=["CLIPEncoderLayer", "SamVisionLayer", "ClipSamUmci"],
    )
    accelerator = Accelerator(fsdp_plugin=plugin)
    assert accelerator.is_fsdp2 and accelerator.num_processes == 2
    options = {"num_steps": 4, "learning_rate": 1e-2, "save_steps": 2, "save_total_limit": save_total_limit}
    train_umci(model, batch_of_step, output_dir=folder, accelerator=accelerator, **options)
    assert all(hasattr(parameter, "full_tensor") for parameter in model.umci.parameters())


@pytest.mark.slow
def test_a_sharded_run_follows_one_process_and_is_saved_whole(
    tiny_model: ClipSamForAnomalySegmentation, tmp_path: Path
) -> None:
    run_processes(train_sharded, tiny_model, tmp_path / "sharded")
    plain = copy.deepcopy(tiny_model)
    losses = train_umci(plain, batch_of_step, num_steps=4, learning_rate=1e-2)
    checkpoint = tmp_path / "sharded" / "checkpoint-4"
    assert read_state(checkpoint).losses == pytest.approx(losses, abs=1e-5)

    load_trained(tiny_model, checkpoint)
    tiny_model.save_pretrained(tmp_path / "saved")
    loaded = ClipSamForAnomalySegmentation.from_pretrained(tmp_path / "saved")
    # Not the weights: AdamW makes whole steps of the rounding where the gradient is 0
    last = [model(**batch_of_step(4)).loss.item() for model in (plain, loaded)]
    assert last[0] == pytest.approx(last[1], abs=1e-4)


@pytest.mark.slow
def test_a_sharded_run_resumes_to_the_same_bytes(tiny_model: ClipSamForAnomalySegmentation, tmp_path: Path) -> None:
    run_processes(train_sharded, tiny_model, tmp_path)
    whole = {path.name: path.read_bytes() for path in (tmp_path / "checkpoint-4").iterdir()}
    shutil.rmtree(tmp_path / "checkpoint-4")
    run_processes(train_sharded, tiny_model, tmp_path)

    assert {path.name: path.read_bytes() for path in (tmp_path / "checkpoint-4").iterdir()} == whole


@pytest.mark.parametrize("path", sorted(CONFIGURATIONS.glob("*.yaml")), ids=lambda path: path.stem)
def test_accelerate_reads_the_configuration(path: Path) -> None:
    configuration = load_config_from_file(str(path))

    assert configuration.num_processes == {"cpu_two_processes": 2, "multi_node": 16}.get(
        path.stem, 8 if "8" in path.stem or path.stem == "fsdp" else 1
    )


def assert_same_results(path: Path, expected_path: Path) -> None:
    """The same files but for a rounding, which depends on where matrices lie in memory and may reorder pixels."""
    results, expected = (json.loads(each.read_text()) for each in (path, expected_path))
    for row, other in zip(results.pop("rows"), expected.pop("rows"), strict=True):
        assert row.pop("figures") == pytest.approx(other.pop("figures"), abs=1e-3)
        assert row == other
    assert results == expected


def evaluate_in(folder: Path, checkpoint: Path, root: Path, options: EvaluationOptions) -> None:
    model = ClipSamForAnomalySegmentation.from_pretrained(checkpoint)
    model.config.update({"reference_text_weight": 0.0, "mutual_text_weight": 0.0})
    processor = ClipSamProcessor.from_pretrained(checkpoint)
    evaluate(model, processor, AnomalyFolder(root), options, output_dir=folder, device="cpu")


@pytest.mark.parametrize(
    "protocol",
    [{"mutual": True}, pytest.param({"references_per_category": 1}, marks=pytest.mark.slow)],
    ids=["mutual", "references"],
)
def test_two_processes_compare_as_one(tiny_checkpoint: Path, tmp_path: Path, protocol: dict[str, Any]) -> None:
    for category in ("plate", "ring"):
        for number in range(3):
            write_photograph(tmp_path / "set" / category / "test" / "good" / f"{number:03d}.png", number)
            photograph = tmp_path / "set" / category / "test" / "bent" / f"{number:03d}.png"
            mask = tmp_path / "set" / category / "ground_truth" / "bent" / f"{number:03d}_mask.png"
            write_photograph(photograph, 10 + number, mask)
    options = EvaluationOptions(size=48, refine=False, **protocol)
    run_processes(evaluate_in, tmp_path / "two", tiny_checkpoint, tmp_path / "set", options)
    evaluate_in(tmp_path / "one", tiny_checkpoint, tmp_path / "set", options)

    assert_same_results(*(tmp_path / name / "results.json" for name in ("two", "one")))
