# SPDX-FileCopyrightText: 2026 The clipsam_hf authors
# SPDX-License-Identifier: Apache-2.0
"""The UMCI training loop: it learns, resumes bit for bit, and leaves the backbones alone."""

import copy
import os
import random
import signal
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from accelerate.tracking import GeneralTracker
from safetensors.torch import load_file
from transformers import get_scheduler

from clipsam_hf.configuration_clipsam import ClipSamConfig
from clipsam_hf.modeling_clipsam import ClipSamForAnomalySegmentation
from clipsam_hf.training import TrainingInterruptedError, schedule, train_umci, trained_parameters
from clipsam_hf.training.batches import FunctionBatches


def batch_of_step(step: int) -> dict[str, torch.Tensor]:
    """Images with one bright square, which is the defect."""
    generator = torch.Generator().manual_seed(step % 4)
    pixel_values = 0.1 * torch.randn(2, 3, 32, 32, generator=generator)
    labels = torch.zeros(2, 32, 32)
    pixel_values[:, :, 8:24, 8:24] += 2
    labels[:, 8:24, 8:24] = 1
    text_embeds = torch.nn.functional.normalize(
        torch.randn(1, 2, 16, generator=torch.Generator().manual_seed(9)), dim=-1
    )
    return {"pixel_values": pixel_values, "text_embeds": text_embeds, "labels": labels}


def test_the_loss_falls(tiny_model: ClipSamForAnomalySegmentation) -> None:
    losses = train_umci(tiny_model, batch_of_step, num_steps=40, learning_rate=3e-3)

    assert len(losses) == 40
    assert sum(losses[-5:]) < 0.5 * sum(losses[:5])


class InterruptedStepError(Exception):
    """Ends a run in the middle of a step, as a kill would."""


def run_twice(model: ClipSamForAnomalySegmentation, folder: Path, stop_at: int, accumulation: int = 1) -> None:
    """Train without and with an interruption in batch `stop_at`, into `folder/whole` and `folder/resumed`."""
    start = {name: tensor.clone() for name, tensor in model.state_dict().items()}

    def interrupted(batch: int) -> dict[str, torch.Tensor]:
        if batch == stop_at:
            raise InterruptedStepError
        return batch_of_step(batch)

    def train(batches: Callable[[int], dict[str, torch.Tensor]], name: str) -> None:
        torch.manual_seed(5)
        model.load_state_dict(start)
        options = {"num_steps": 6, "learning_rate": 1e-2, "warmup_steps": 2, "save_steps": 2}
        accelerator = Accelerator(cpu=True, gradient_accumulation_steps=accumulation)
        train_umci(model, batches, **options, output_dir=folder / name, accelerator=accelerator)

    train(batch_of_step, "whole")
    with pytest.raises(InterruptedStepError):
        train(interrupted, "resumed")
    train(batch_of_step, "resumed")


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(("stop_at", "accumulation"), [(3, 1), (4, 1), (7, 2), (8, 3)])
def test_a_resumed_run_ends_with_the_same_bytes(
    tiny_model: ClipSamForAnomalySegmentation, tmp_path: Path, stop_at: int, accumulation: int
) -> None:
    """Weights, optimiser, losses and random numbers, from a batch in the middle of a step too."""
    run_twice(tiny_model, tmp_path, stop_at, accumulation)

    assert len(contents(tmp_path / "whole")) == 10
    assert contents(tmp_path / "resumed") == contents(tmp_path / "whole")


class Dropout(torch.nn.Module):
    """A model whose loss draws from the global random numbers of all three libraries."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(4))

    def forward(self, value: float) -> SimpleNamespace:
        noise = random.random() + np.random.rand() + random.gauss(0, 1)
        return SimpleNamespace(loss=(torch.dropout(self.weight, 0.5, True) * (value + noise)).square().mean())


def test_a_resumed_run_draws_the_same_random_numbers(tmp_path: Path) -> None:
    def train(num_calls: int, name: str) -> list[float]:
        def batch(step: int) -> dict[str, float]:
            if step >= num_calls:
                raise InterruptedStepError
            return {"value": float(step)}

        return train_umci(Dropout(), batch, num_steps=5, save_steps=1, output_dir=tmp_path / name)

    for seeded in (random.seed, np.random.seed, torch.manual_seed):
        seeded(3)
    whole = train(5, "whole")
    for seeded in (random.seed, np.random.seed, torch.manual_seed):
        seeded(3)
    with pytest.raises(InterruptedStepError):
        train(3, "resumed")
    random.seed(99)
    torch.manual_seed(99)

    assert train(5, "resumed") == whole[3:]


def test_two_runs_of_one_seed_are_equal(tiny_model: ClipSamForAnomalySegmentation) -> None:
    other = copy.deepcopy(tiny_model)
    losses = [train_umci(model, batch_of_step, num_steps=4, learning_rate=1e-2) for model in (tiny_model, other)]

    assert losses[0] == losses[1]
    assert all(torch.equal(*pair) for pair in zip(tiny_model.parameters(), other.parameters(), strict=True))


def test_accumulated_halves_equal_a_whole_batch(tiny_model: ClipSamForAnomalySegmentation) -> None:
    def half(batch: int) -> dict[str, torch.Tensor]:
        step, part = divmod(batch, 2)
        whole = batch_of_step(step)
        return {**whole, **{name: whole[name][part : part + 1] for name in ("pixel_values", "labels")}}

    other = copy.deepcopy(tiny_model)
    whole = train_umci(tiny_model, batch_of_step, num_steps=5, learning_rate=1e-2)
    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=2)
    halves = train_umci(other, half, num_steps=5, learning_rate=1e-2, accelerator=accelerator)

    assert halves == pytest.approx(whole, abs=1e-5)


def test_a_finished_run_does_nothing_more(tiny_model: ClipSamForAnomalySegmentation, tmp_path: Path) -> None:
    train_umci(tiny_model, batch_of_step, num_steps=2, output_dir=tmp_path)

    assert train_umci(tiny_model, batch_of_step, num_steps=2, output_dir=tmp_path) == []


def test_frozen_parts_stay_as_they_are(tiny_model: ClipSamForAnomalySegmentation) -> None:
    before = {name: tensor.clone() for name, tensor in tiny_model.state_dict().items()}
    train_umci(tiny_model, batch_of_step, num_steps=3, learning_rate=1e-2)

    changed = {name for name, tensor in tiny_model.state_dict().items() if not torch.equal(tensor, before[name])}
    assert changed and all(name.startswith("umci.") for name in changed)
    assert tiny_model.head_is_trained


def test_a_checkpoint_holds_the_trained_part_only(tiny_model: ClipSamForAnomalySegmentation, tmp_path: Path) -> None:
    train_umci(tiny_model, batch_of_step, num_steps=1, output_dir=tmp_path)

    assert set(load_file(tmp_path / "checkpoint-1" / "trained.safetensors")) == set(trained_parameters(tiny_model))
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-1"]


def test_the_state_of_another_model_is_refused(tiny_model: ClipSamForAnomalySegmentation, tmp_path: Path) -> None:
    train_umci(tiny_model, batch_of_step, num_steps=1, output_dir=tmp_path)
    other = ClipSamForAnomalySegmentation(
        type(tiny_model.config).from_dict({**tiny_model.config.to_dict(), "umci_hidden_size": 8})
    )

    with pytest.raises(ValueError, match=r"another model.*umci\.0"):
        train_umci(other, batch_of_step, num_steps=2, output_dir=tmp_path)


def test_another_configuration_is_refused_with_the_difference(
    tiny_model: ClipSamForAnomalySegmentation, tmp_path: Path
) -> None:
    train_umci(tiny_model, batch_of_step, num_steps=1, output_dir=tmp_path)
    tiny_model.config.focal_gamma = 1.0

    with pytest.raises(ValueError) as caught:
        train_umci(tiny_model, batch_of_step, num_steps=1, learning_rate=1e-3, output_dir=tmp_path)
    lines = str(caught.value).splitlines()
    assert lines[1:-1] == ["  learning_rate: 0.0001 then, 0.001 now", "  model.focal_gamma: 2.0 then, 1.0 now"]


@pytest.mark.parametrize(("name", "value"), [("loss_resolution", "image"), ("scale_interpolation", "stretched")])
def test_every_setting_of_the_loss_counts(
    tiny_model: ClipSamForAnomalySegmentation, tmp_path: Path, name: str, value: str
) -> None:
    train_umci(tiny_model, batch_of_step, num_steps=1, output_dir=tmp_path)
    setattr(tiny_model.config, name, value)

    with pytest.raises(ValueError, match=f"model\\.{name}: .* then, '{value}' now"):
        train_umci(tiny_model, batch_of_step, num_steps=1, output_dir=tmp_path)


def test_what_stays_frozen_counts_where_clip_is_trained(tiny_config: ClipSamConfig, tmp_path: Path) -> None:
    """The text tower is frozen still, and the loss depends on it."""
    tiny_config.freeze_backbones = False
    model = ClipSamForAnomalySegmentation(tiny_config)
    train_umci(model, batch_of_step, num_steps=1, output_dir=tmp_path)
    with torch.no_grad():
        model.clip.text_projection.weight += 1

    with pytest.raises(ValueError, match=r"model\.frozen_weights: '\w+' then, '\w+' now"):
        train_umci(model, batch_of_step, num_steps=1, output_dir=tmp_path)


def test_the_refiner_and_its_settings_do_not_count(tiny_model: ClipSamForAnomalySegmentation, tmp_path: Path) -> None:
    train_umci(tiny_model, batch_of_step, num_steps=1, output_dir=tmp_path)
    tiny_model.config.merge, tiny_model.config.binarize_threshold = "average", 0.3
    with torch.no_grad():
        tiny_model.sam.mask_decoder.iou_token.weight += 1

    assert train_umci(tiny_model, batch_of_step, num_steps=1, output_dir=tmp_path) == []


def test_another_clip_is_refused(tiny_model: ClipSamForAnomalySegmentation, tmp_path: Path) -> None:
    train_umci(tiny_model, batch_of_step, num_steps=1, output_dir=tmp_path)
    with torch.no_grad():
        tiny_model.clip.visual_projection.weight += 1

    with pytest.raises(ValueError, match=r"model\.frozen_weights: '\w+' then, '\w+' now"):
        train_umci(tiny_model, batch_of_step, num_steps=1, output_dir=tmp_path)


class NamedBatches(FunctionBatches):
    """Batches that know their files."""

    def names(self, batch: int) -> list[str]:
        return [f"photographs/{batch}.png"]


def test_a_loss_that_is_not_finite_stops_the_run_with_step_and_files(
    tiny_model: ClipSamForAnomalySegmentation, tmp_path: Path
) -> None:
    def poisoned(batch: int) -> dict[str, torch.Tensor]:
        inputs = batch_of_step(batch)
        return {**inputs, "pixel_values": inputs["pixel_values"] * (float("nan") if batch == 5 else 1)}

    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=2)
    options = {"num_steps": 4, "save_steps": 2, "output_dir": tmp_path, "accelerator": accelerator}
    with pytest.raises(FloatingPointError, match=r"loss is nan at step 2, whose images are 'photographs/5\.png'\."):
        train_umci(tiny_model, NamedBatches(poisoned), **options)

    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-2"]
    assert all(bool(tensor.isfinite().all()) for tensor in tiny_model.umci.parameters())


def test_a_gradient_that_is_not_finite_stops_the_run() -> None:
    class Steep(torch.nn.Module):
        """Its loss is 0, with an infinite slope."""

        def __init__(self) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(torch.zeros(1))

        def forward(self, value: float) -> SimpleNamespace:
            return SimpleNamespace(loss=self.weight.abs().sqrt().sum() * value)

    model = Steep()
    with pytest.raises(FloatingPointError, match="gradient's norm is nan at step 0"):
        train_umci(model, lambda step: {"value": 1.0}, num_steps=1)

    assert model.weight.item() == 0


@pytest.mark.parametrize(("number", "exit_code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_ends_the_step_saves_and_stops(
    tiny_model: ClipSamForAnomalySegmentation, tmp_path: Path, number: int, exit_code: int
) -> None:
    def batch(step: int) -> dict[str, torch.Tensor]:
        if step == 1:
            os.kill(os.getpid(), number)
        return batch_of_step(step)

    before = [signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGINT)]
    with pytest.raises(TrainingInterruptedError, match="after step 2, which is saved") as caught:
        train_umci(tiny_model, batch, num_steps=5, output_dir=tmp_path)

    assert 128 + caught.value.signal_number == exit_code
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-2"]
    assert [signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGINT)] == before


def test_without_a_folder_signals_are_left_alone(tiny_model: ClipSamForAnomalySegmentation) -> None:
    def batch(step: int) -> dict[str, torch.Tensor]:
        os.kill(os.getpid(), signal.SIGINT)
        return batch_of_step(step)

    # a job in the background of a shell starts with the signal ignored
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            train_umci(tiny_model, batch, num_steps=1)
    finally:
        signal.signal(signal.SIGINT, before)


def test_mixed_precision_trains_and_leaves_the_model_as_it_was(tiny_model: ClipSamForAnomalySegmentation) -> None:
    """The forward pass runs in bfloat16, the head's weights stay in float32."""
    seen = []
    tiny_model.umci[0].fuse.register_forward_hook(lambda *arguments: seen.append(arguments[2].dtype))
    accelerator = Accelerator(cpu=True, mixed_precision="bf16")
    losses = train_umci(tiny_model, batch_of_step, num_steps=20, learning_rate=3e-3, accelerator=accelerator)
    assert seen[0] == torch.bfloat16 and sum(losses[-3:]) < 0.9 * sum(losses[:3])
    assert {parameter.dtype for parameter in tiny_model.umci.parameters()} == {torch.float32}

    seen.clear()
    tiny_model(**batch_of_step(0))
    assert seen == [torch.float32]


def test_trackers_get_loss_and_learning_rate(tiny_model: ClipSamForAnomalySegmentation) -> None:
    class Notebook(GeneralTracker):
        name, requires_logging_directory = "notebook", False

        def __init__(self) -> None:
            super().__init__()
            self.lines: list[tuple[int, dict[str, float]]] = []

        @property
        def tracker(self) -> None:
            return None

        def store_init_configuration(self, values: dict) -> None: ...

        def log(self, values: dict, step: int | None = None) -> None:
            self.lines.append((step, values))

    notebook = Notebook()
    accelerator = Accelerator(cpu=True, log_with=notebook)
    accelerator.init_trackers("clipsam")
    losses = train_umci(tiny_model, batch_of_step, num_steps=3, logging_steps=2, accelerator=accelerator)

    assert [step for step, _ in notebook.lines] == [2, 3]
    assert notebook.lines[1][1]["train_loss"] == losses[2] and notebook.lines[0][1]["learning_rate"] > 0


def test_a_model_with_nothing_to_train_is_refused(tiny_model: ClipSamForAnomalySegmentation) -> None:
    tiny_model.requires_grad_(False)

    with pytest.raises(ValueError, match="requires a gradient"):
        train_umci(tiny_model, batch_of_step, num_steps=1)


@pytest.mark.parametrize("name", ["num_steps", "save_steps", "logging_steps", "save_total_limit"])
def test_a_number_of_steps_must_be_positive(tiny_model: ClipSamForAnomalySegmentation, name: str) -> None:
    with pytest.raises(ValueError, match=f"`{name}` must be positive, but got 0"):
        train_umci(tiny_model, batch_of_step, **{"num_steps": 1, name: 0})


def test_the_log_has_the_mean_of_the_steps_since_the_last_one() -> None:
    class Constant(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(torch.zeros(1))

        def forward(self, value: float) -> SimpleNamespace:
            return SimpleNamespace(loss=(0 * self.weight + value).sum())

    lines: list[dict[str, float]] = []
    train_umci(Constant(), lambda step: {"value": float(step)}, num_steps=5, logging_steps=2, log=lines.append)

    assert [(line["step"], line["loss"]) for line in lines] == [(2, 0.5), (4, 2.5), (5, 4.0)]


@pytest.mark.parametrize("name", ["constant", "constant_with_warmup", "cosine", "linear"])
def test_the_schedule_is_the_libraries_but_for_the_warmup(name: str) -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = get_scheduler(name, optimizer, num_warmup_steps=3, num_training_steps=10)
    theirs = []
    for _ in range(10):
        theirs.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()

    assert [schedule(step, 10, 3, name) for step in range(3, 10)] == pytest.approx(theirs[3:])


@pytest.mark.parametrize(
    ("name", "value"),
    [("lr_scheduler_type", "step"), ("learning_rate", -1.0), ("weight_decay", -1.0), ("max_grad_norm", 0.0)],
)
def test_an_option_out_of_range_is_refused(
    tiny_model: ClipSamForAnomalySegmentation, name: str, value: object
) -> None:
    with pytest.raises(ValueError, match=f"`{name}` must .* but got '?{value}"):
        train_umci(tiny_model, batch_of_step, num_steps=1, **{name: value})


def test_the_schedule_warms_up_and_falls_to_zero() -> None:
    assert [schedule(step, 6, 2) for step in (0, 1, 2, 4)] == pytest.approx([0.5, 1.0, 1.0, 0.5])
    assert schedule(6, 6, 2) == pytest.approx(0)
