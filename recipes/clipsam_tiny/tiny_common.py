# SPDX-FileCopyrightText: 2026 The clipsam_hf authors
# SPDX-License-Identifier: Apache-2.0
"""What the stages of `train_tiny.py` share: schedule, resumable state, patch filters, pixel normalisation."""

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import torch
from synthetic_pool import Batch
from torch import nn
from transformers.image_utils import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD, OPENAI_CLIP_MEAN, OPENAI_CLIP_STD


__all__ = ["CLIP_PIXELS", "SAM_PIXELS", "Batches", "Schedule", "normalise", "patch_filters", "phase", "run_steps"]

# The phases of a run: last step, image side, batch size
Schedule = tuple[tuple[int, int, int], ...]

CLIP_PIXELS = (OPENAI_CLIP_MEAN, OPENAI_CLIP_STD)
SAM_PIXELS = (IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD)

BETAS = (0.9, 0.98)
WEIGHT_DECAY = 0.05
MAX_NORM = 1.0
DECAY = 0.3


class Batches(Protocol):
    """Where images come from, as a function of the step: a `ScenePool`, or what draws scenes as it goes."""

    seed: int
    device: torch.device

    def batch(self, step: int, *, first: int, count: int, size: int) -> Batch:
        """Return the batch of a step, see `ScenePool.batch`."""


def normalise(images: torch.Tensor, pixels: tuple[list[float], list[float]]) -> torch.Tensor:
    """Give (batch_size, 3, height, width) images in [0, 1] a network's mean and deviation."""
    mean, std = (torch.tensor(values, device=images.device).view(1, 3, 1, 1) for values in pixels)
    return (images - mean) / std


def patch_filters(pool: Batches, num_filters: int, patch_size: int, pixels: tuple) -> torch.Tensor:
    """
    Return the leading principal components of the pool's patches, as convolution weights of about unit response.

    A network this small has no time to find edges and colours by itself: (num_filters, 3, patch_size, patch_size).
    """
    batch = normalise(pool.batch(0, first=0, count=400, size=128).images.cpu(), pixels)
    patches = nn.functional.unfold(batch, patch_size, stride=patch_size).transpose(1, 2).flatten(0, 1)
    values, vectors = torch.linalg.eigh(torch.cov(patches.T))
    values, vectors = values.flip(0), vectors.flip(1)
    scaled = vectors * (values.clamp(min=0) + 0.02).rsqrt()
    filters = torch.zeros(num_filters, patches.shape[1])
    count = min(num_filters, patches.shape[1])
    filters[:count] = scaled.T[:count]
    return filters.view(num_filters, 3, patch_size, patch_size)


def phase(schedule: Schedule, step: int) -> dict[str, Any]:
    """Return what a schedule of (last step, image side, batch size) says of a step: `first`, `count` and `size`."""
    first = begin = 0
    for last, size, count in schedule:
        if step < last:
            return {"first": first + (step - begin) * count, "count": count, "size": size}
        first, begin = first + (last - begin) * count, last
    raise ValueError(f"The schedule ends before step {step}.")


def learning_rate(step: int, num_steps: int, peak: float, warmup: int) -> float:
    """Linear warm-up, a plateau, and over the last `DECAY` of the steps a straight line down to 2 % of the peak.

    What was trained on the plateau can be trained longer than was planned, which a cosine would not allow.
    """
    left = (num_steps - step) / (DECAY * num_steps)
    return peak * min((step + 1) / warmup, max(left, 0.02), 1.0)


def save_atomically(state: dict, path: Path) -> None:
    """Write a file that is either the old one or the new one, never half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    torch.save(state, partial)
    os.replace(partial, path)


def build_optimizers(model: nn.Module, peak: float) -> list[torch.optim.Optimizer]:
    """Muon for the matrices of transformer blocks, AdamW for everything else; both decay matrices only."""
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    blocks = [p for name, p in trained.items() if p.ndim == 2 and "layers." in name and name.endswith(".weight")]
    known = {id(p) for p in blocks}
    others = [p for p in trained.values() if id(p) not in known]
    groups = [
        {"params": [p for p in others if p.ndim > 1], "weight_decay": WEIGHT_DECAY},
        {"params": [p for p in others if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return [
        torch.optim.Muon(blocks, lr=peak, weight_decay=WEIGHT_DECAY, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(groups, lr=peak, betas=BETAS),
    ]


def run_steps(
    model: nn.Module,
    compute_loss: Callable[[int], tuple[torch.Tensor, dict[str, float], int]],
    *,
    first_step: int,
    last_step: int,
    num_steps: int,
    peak: float,
    warmup: int,
    state_path: Path,
    save_every: int = 200,
    log_every: int = 50,
    fast: bool = False,
) -> None:
    """
    Train from `first_step` to `last_step` of a schedule of `num_steps`, or go on from the state file.

    `compute_loss(step)` returns the loss, figures to log and the number of images; it must depend on the step only, so
    that a resumed run equals an uninterrupted one. With `fast` the networks compute in bfloat16, which some processors
    multiply three times as fast as float32 and others far more slowly.
    """
    optimizers = build_optimizers(model, peak)
    step = first_step
    if state_path.exists():
        state = torch.load(state_path, weights_only=True, map_location="cpu")
        model.load_state_dict(state["model"])
        for optimizer, values in zip(optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(values)
        step = state["step"]
    device = next(model.parameters()).device
    model.train()
    sums: dict[str, list[float]] = {}
    begin, seen = time.monotonic(), 0
    while step < last_step:
        for group in (group for optimizer in optimizers for group in optimizer.param_groups):
            group["lr"] = learning_rate(step, num_steps, peak, warmup)
        with torch.autocast(device.type, torch.bfloat16, enabled=fast):
            loss, figures, count = compute_loss(step)
        if not torch.isfinite(loss):
            raise FloatingPointError(f"the loss is {loss.item()} at step {step}")
        model.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), MAX_NORM)
        for optimizer in optimizers:
            optimizer.step()
        step, seen = step + 1, seen + count
        for name, value in {"loss": loss.item(), **figures}.items():
            sums.setdefault(name, []).append(value)
        if step % log_every == 0 or step == last_step:
            line = " ".join(f"{name} {sum(values) / len(values):.4f}" for name, values in sums.items())
            print(f"step {step}/{num_steps} {line} | {seen / (time.monotonic() - begin):.1f} img/s", flush=True)
            begin, seen, sums = time.monotonic(), 0, {}
        if step % save_every == 0 or step == last_step:
            states = [optimizer.state_dict() for optimizer in optimizers]
            save_atomically({"model": model.state_dict(), "optimizers": states, "step": step}, state_path)
    model.eval()
