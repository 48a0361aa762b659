# SPDX-FileCopyrightText: 2026 The clipsam_hf authors
# SPDX-License-Identifier: Apache-2.0
"""The UMCI training loop: it learns, resumes bit for bit, and leaves the backbones alone."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file

from clipsam_hf.modeling_clipsam import ClipSamForAnomalySegmentation
from clipsam_hf.training import schedule, train_umci, trained_parameters


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


def test_a_resumed_run_equals_an_uninterrupted_one(tiny_model: ClipSamForAnomalySegmentation, tmp_path: Path) -> None:
    start = {name: tensor.clone() for name, tensor in tiny_model.state_dict().items()}
    whole = train_umci(tiny_model, batch_of_step, num_steps=6, learning_rate=1e-2, warmup_steps=2)
    expected = {name: tensor.clone() for name, tensor in tiny_model.state_dict().items()}

    def interrupted(step: int) -> dict[str, torch.Tensor]:
        if step == 3:
            raise KeyboardInterrupt
        return batch_of_step(step)

    options = {"num_steps": 6, "learning_rate": 1e-2, "warmup_steps": 2, "output_dir": tmp_path, "save_steps": 2}
    tiny_model.load_state_dict(start)
    with pytest.raises(KeyboardInterrupt):
        train_umci(tiny_model, interrupted, **options)
    tiny_model.load_state_dict(start)
    rest = train_umci(tiny_model, batch_of_step, **options)

    assert rest == whole[2:]
    for name, tensor in tiny_model.state_dict().items():
        assert torch.equal(tensor, expected[name]), name


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


def test_a_loss_that_is_not_finite_stops_the_run(tiny_model: ClipSamForAnomalySegmentation) -> None:
    def poisoned(step: int) -> dict[str, torch.Tensor]:
        batch = batch_of_step(step)
        return {**batch, "pixel_values": batch["pixel_values"] * float("nan")}

    with pytest.raises(FloatingPointError, match="step 0"):
        train_umci(tiny_model, poisoned, num_steps=1)


def test_a_model_with_nothing_to_train_is_refused(tiny_model: ClipSamForAnomalySegmentation) -> None:
    tiny_model.requires_grad_(False)

    with pytest.raises(ValueError, match="requires a gradient"):
        train_umci(tiny_model, batch_of_step, num_steps=1)


@pytest.mark.parametrize("name", ["num_steps", "save_steps", "logging_steps"])
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


def test_the_schedule_warms_up_and_falls_to_zero() -> None:
    assert [schedule(step, 6, 2) for step in (0, 1, 2, 4)] == pytest.approx([0.5, 1.0, 1.0, 0.5])
    assert schedule(6, 6, 2) == pytest.approx(0)
