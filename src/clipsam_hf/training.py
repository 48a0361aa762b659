# SPDX-FileCopyrightText: 2026 The clipsam_hf authors
# SPDX-License-Identifier: Apache-2.0
"""Training of the UMCI head: one loop, resumable, that touches nothing but what requires a gradient."""

import math
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn


BatchFunction = Callable[[int], Mapping[str, Any]]
LogFunction = Callable[[dict[str, float]], None]

STATE_NAME = "training_state.pt"


def train_umci(
    model: nn.Module,
    batches: BatchFunction,
    *,
    num_steps: int,
    learning_rate: float = 1e-4,
    weight_decay: float = 0.01,
    warmup_steps: int = 0,
    max_grad_norm: float = 1.0,
    output_dir: str | os.PathLike[str] | None = None,
    save_steps: int = 500,
    logging_steps: int = 50,
    log: LogFunction | None = None,
) -> list[float]:
    """Trains what requires a gradient: UMCI, if the backbones are frozen.

    AdamW with linear warm-up and a cosine down to zero. If `output_dir` holds the state of an interrupted run, the run
    goes on from there; if `batches` depends on nothing but the step, the result is that of an uninterrupted run, bit
    for bit.

    Args:
        model (`nn.Module`): A [`ClipSamForAnomalySegmentation`]; called with a batch it must return an output with
            `loss`.
        batches (`Callable[[int], Mapping]`): Returns the keyword arguments of the forward call of a step, with
            `labels`. Random access, so that resuming costs nothing.
        num_steps (`int`): Number of optimiser steps.
        learning_rate (`float`, defaults to 1e-4): Peak learning rate.
        weight_decay (`float`, defaults to 0.01): Of matrices and convolutions; biases are not decayed.
        warmup_steps (`int`, defaults to 0): Steps of linear warm-up.
        max_grad_norm (`float`, defaults to 1.0): Gradients are clipped to this norm.
        output_dir (`str` or `os.PathLike`, *optional*): Folder of the resumable state; none is kept without it.
        save_steps (`int`, defaults to 500): Steps between two states.
        logging_steps (`int`, defaults to 50): Steps between two calls of `log`.
        log (`Callable[[dict], None]`, *optional*): Takes `step`, `loss` (the mean since the last call) and
            `learning_rate`.

    Returns:
        `list[float]`: The loss of every step that this call has run.

    Raises:
        ValueError: If nothing requires a gradient, a number is out of range, or the state is of another model.
        FloatingPointError: If the loss is not finite.

    Example:
        ```python
        losses = train_umci(model, lambda step: collate(dataset, step), num_steps=1000, output_dir="runs/umci")
        ```
    """
    for name, value in (("num_steps", num_steps), ("save_steps", save_steps), ("logging_steps", logging_steps)):
        if value < 1:
            raise ValueError(f"`{name}` must be positive, but got {value}.")
    trained = trained_parameters(model)
    optimizer = torch.optim.AdamW(_parameter_groups(trained, weight_decay), lr=learning_rate)
    path = None if output_dir is None else Path(output_dir) / STATE_NAME
    first_step = load_state(path, trained, optimizer) if path is not None and path.exists() else 0

    was_training = model.training
    model.train()
    losses: list[float] = []
    for step in range(first_step, num_steps):
        rate = learning_rate * schedule(step, num_steps, warmup_steps)
        for group in optimizer.param_groups:
            group["lr"] = rate
        loss = model(**batches(step)).loss
        if not torch.isfinite(loss):
            raise FloatingPointError(f"The loss is {loss.item()} at step {step}; the last saved state is unharmed.")
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(list(trained.values()), max_grad_norm)
        optimizer.step()

        losses.append(loss.item())
        done = step + 1
        if log is not None and (done % logging_steps == 0 or done == num_steps):
            recent = losses[-((done - 1) % logging_steps + 1) :]
            log({"step": done, "loss": sum(recent) / len(recent), "learning_rate": rate})
        if path is not None and (done % save_steps == 0 or done == num_steps):
            save_state(path, trained, optimizer, done)
    model.train(was_training)
    return losses


def schedule(step: int, num_steps: int, warmup_steps: int) -> float:
    """Returns the share of the peak learning rate at a step: linear warm-up, then a half cosine to 0.

    Example:
        >>> [round(schedule(step, 6, 2), 2) for step in range(6)]
        [0.5, 1.0, 1.0, 0.85, 0.5, 0.15]
    """
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    progress = (step - warmup_steps) / max(num_steps - warmup_steps, 1)
    return 0.5 * (1 + math.cos(math.pi * progress))


def trained_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """Returns the parameters that require a gradient, by name.

    Raises:
        ValueError: If there is none.
    """
    trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    if not trained:
        raise ValueError("No parameter requires a gradient: `localizer='similarity'` has nothing to train.")
    return trained


def save_state(
    path: str | os.PathLike[str], trained: Mapping[str, Tensor], optimizer: torch.optim.Optimizer, step: int
) -> None:
    """Writes the trained part, the optimiser and the number of steps done; never half a file.

    Args:
        path: The file; its folder is made if need be.
        trained: What [`trained_parameters`] returns.
        optimizer: The optimiser.
        step: Number of steps done.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    model_state = {name: parameter.detach() for name, parameter in trained.items()}
    torch.save({"step": step, "model": model_state, "optimizer": optimizer.state_dict()}, partial)
    os.replace(partial, path)


def load_state(path: str | os.PathLike[str], trained: Mapping[str, Tensor], optimizer: torch.optim.Optimizer) -> int:
    """Loads what [`save_state`] wrote into the parameters and the optimiser.

    Args:
        path: The file.
        trained: What [`trained_parameters`] returns.
        optimizer: The optimiser.

    Returns:
        `int`: Number of steps done.

    Raises:
        ValueError: If the names or shapes are those of another model.
    """
    state = torch.load(path, map_location="cpu", weights_only=True)
    saved, wanted = (
        {name: tuple(tensor.shape) for name, tensor in each.items()} for each in (state["model"], trained)
    )
    if saved != wanted:
        differing = sorted(name for name in saved | wanted if saved.get(name) != wanted.get(name))
        raise ValueError(f"The state {os.fspath(path)!r} is of another model: it differs in {differing[:5]}.")
    with torch.no_grad():
        for name, parameter in trained.items():
            parameter.copy_(state["model"][name])
    optimizer.load_state_dict(state["optimizer"])
    return int(state["step"])


def _parameter_groups(trained: Mapping[str, nn.Parameter], weight_decay: float) -> list[dict[str, Any]]:
    matrices = [parameter for parameter in trained.values() if parameter.dim() > 1]
    biases = [parameter for parameter in trained.values() if parameter.dim() <= 1]
    return [{"params": matrices, "weight_decay": weight_decay}, {"params": biases, "weight_decay": 0.0}]


__all__ = ["load_state", "save_state", "schedule", "train_umci", "trained_parameters"]
