# SPDX-FileCopyrightText: 2026 The clipsam_hf authors
# SPDX-License-Identifier: Apache-2.0
"""Training of the UMCI head: one loop, from one CPU to many GPUs, that touches nothing but what requires a gradient.

Whatever a step needs is a function of its number: batches, learning rate, and through the checkpoints also weights,
optimiser and random numbers. So a run that was killed goes on to the very bits of one that was not.
"""

import math
import os
import signal
import threading
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import closing, nullcontext
from dataclasses import asdict, dataclass
from types import FrameType
from typing import Any

import torch
from torch import nn
from tqdm import tqdm  # type: ignore[import-untyped]

from ..files import digest_json, digest_tensors
from .batches import BatchFunction, BatchSource, FunctionBatches, ShareOfBatch
from .checkpoints import CheckpointFolder, mark_trained, newest_checkpoint


__all__ = ["SCHEDULES", "TrainingInterruptedError", "schedule", "train_umci", "trained_parameters"]

LogFunction = Callable[[dict[str, float]], None]

SCHEDULES = ("constant", "constant_with_warmup", "cosine", "linear")
"""Names of the learning rate's courses, as in `transformers.get_scheduler`."""


class TrainingInterruptedError(RuntimeError):
    """The run was told to stop, and has saved a checkpoint.

    Args:
        signal_number (`int`): 15 for SIGTERM, 2 for SIGINT; a script ends with 128 more.
        step (`int`): number of steps done.
    """

    def __init__(self, signal_number: int, step: int) -> None:
        name = signal.Signals(signal_number).name
        super().__init__(f"Stopped by {name} after step {step}, which is saved; the same call goes on from there.")
        self.signal_number, self.step = signal_number, step


def train_umci(
    model: nn.Module,
    batches: BatchFunction | BatchSource,
    *,
    num_steps: int,
    learning_rate: float = 1e-4,
    weight_decay: float = 0.01,
    warmup_steps: int = 0,
    lr_scheduler_type: str = "cosine",
    max_grad_norm: float = 1.0,
    output_dir: str | os.PathLike[str] | None = None,
    save_steps: int = 500,
    save_total_limit: int | None = 2,
    resume_from_checkpoint: str | os.PathLike[str] | None = None,
    logging_steps: int = 50,
    log: LogFunction | None = None,
    accelerator: Any = None,
    show_progress: bool = False,
) -> list[float]:
    """Trains what requires a gradient: UMCI, if the backbones are frozen.

    AdamW; a step takes `accelerator.gradient_accumulation_steps` batches and the mean over all their images, however
    many processes share them. If `output_dir` holds a checkpoint of the same run, the run goes on from there, to the
    same bits as an uninterrupted one; a finished run does nothing. With `output_dir`, SIGTERM and SIGINT end the step,
    save it and raise; a second signal acts at once.

    Args:
        model (`nn.Module`): A [`ClipSamForAnomalySegmentation`]; called with a batch it must return an output with
            `loss`, the mean over the batch's images. It is moved to the accelerator's device.
        batches (`Callable[[int], Mapping]` or [`BatchSource`]): From the number of a batch to the keyword arguments of
            the forward call, with `labels`, of all processes together; or a [`TrainingBatches`]. Random access, so
            that resuming costs nothing.
        num_steps (`int`): Number of optimiser steps.
        learning_rate (`float`, defaults to 1e-4): Peak learning rate.
        weight_decay (`float`, defaults to 0.01): Of matrices and convolutions; biases are not decayed.
        warmup_steps (`int`, defaults to 0): Steps of linear warm-up.
        lr_scheduler_type (`str`, defaults to `"cosine"`): One of [`SCHEDULES`].
        max_grad_norm (`float`, defaults to 1.0): Gradients are clipped to this norm.
        output_dir (`str` or `os.PathLike`, *optional*): Folder of the checkpoints; none is kept without it.
        save_steps (`int`, defaults to 500): Steps between two checkpoints.
        save_total_limit (`int`, *optional*, defaults to 2): So many checkpoints are kept; all if `None`.
        resume_from_checkpoint (`str` or `os.PathLike`, *optional*): This checkpoint instead of the newest one.
        logging_steps (`int`, defaults to 50): Steps between two calls of `log`.
        log (`Callable[[dict], None]`, *optional*): Takes `step`, `loss` (the mean since the last call) and
            `learning_rate`, on the main process. The accelerator's trackers get the same.
        accelerator (`accelerate.Accelerator`, *optional*): Processes, devices, precision, accumulation and trackers;
            by default one process in float32 on a GPU, or on the CPU where the model is there.
        show_progress (`bool`, defaults to `False`): Whether the main process shows a bar, if a terminal sees it.

    Returns:
        `list[float]`: The loss of every step that this call has run.

    Raises:
        ValueError: If nothing requires a gradient, a number is out of range, the model is sharded by anything but
            FSDP2, or the checkpoint is of another model or configuration; the message shows what differs.
        FloatingPointError: If the loss or its gradient is not finite; with the step and the files of its batch.
        TrainingInterruptedError: If a signal has ended the run.
        OSError: If a checkpoint cannot be written; the last one is unharmed.
        ImportError: If accelerate is not installed.

    Example:
        ```python
        losses = train_umci(model, lambda step: collate(dataset, step), num_steps=1000, output_dir="runs/umci")
        ```
    """
    _check_counts(
        num_steps=num_steps, save_steps=save_steps, logging_steps=logging_steps, save_total_limit=save_total_limit
    )
    options = _Options(num_steps, learning_rate, weight_decay, warmup_steps, lr_scheduler_type, max_grad_norm)
    accelerator = accelerator or _default_accelerator(model)
    source = batches if isinstance(batches, BatchSource) else FunctionBatches(batches)
    folder = None
    if output_dir is not None:
        configuration = _describe(options, accelerator, model, source)
        folder = CheckpointFolder(output_dir, accelerator, configuration, save_total_limit=save_total_limit)
    was_training = model.training
    model.train()
    run = _Run(model, accelerator, options)
    try:
        losses: list[float] = []
        checkpoint = resume_from_checkpoint or (newest_checkpoint(output_dir) if output_dir is not None else None)
        if folder is not None and checkpoint is not None:
            losses = folder.load(checkpoint, run.trained, run.optimizer)
            mark_trained(model)
        first_step = len(losses)
        with (
            closing(run.load(source, first_step)) as shares,
            _StopSignals(catch=folder is not None) as signals,
            run.show_bar(first_step, show_progress) as bar,
        ):
            for step in range(first_step, num_steps):
                losses.append(run.take_step(step, shares, source))
                done, stopped = step + 1, run.agree(signals.received)
                bar.update()
                if done % logging_steps == 0 or done == num_steps:
                    recent = losses[-((done - 1) % logging_steps + 1) :]
                    run.report(done, sum(recent) / len(recent), log)
                if folder is not None and (done % save_steps == 0 or done == num_steps or stopped):
                    folder.save(losses, run.trained, run.optimizer)
                if stopped and done < num_steps:
                    raise TrainingInterruptedError(stopped, done)
    finally:
        model.train(was_training)
        accelerator.unwrap_model(run.model, keep_fp32_wrapper=False)
    return losses[first_step:]


def schedule(step: int, num_steps: int, warmup_steps: int, lr_scheduler_type: str = "cosine") -> float:
    """Returns the share of the peak learning rate at a step: linear warm-up, then the course down to 0.

    The courses are those of the library, but the first step of a warm-up already learns something.

    Args:
        step (`int`): From 0.
        num_steps (`int`): Number of all steps.
        warmup_steps (`int`): Number of steps of the warm-up; `"constant"` has none.
        lr_scheduler_type (`str`, defaults to `"cosine"`): One of [`SCHEDULES`].

    Example:
        >>> [round(schedule(step, 6, 2), 2) for step in range(6)]
        [0.5, 1.0, 1.0, 0.85, 0.5, 0.15]
        >>> [schedule(step, 6, 2, "linear") for step in range(6)]
        [0.5, 1.0, 1.0, 0.75, 0.5, 0.25]
    """
    if lr_scheduler_type == "constant":
        return 1.0
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    progress = (step - warmup_steps) / max(num_steps - warmup_steps, 1)
    if lr_scheduler_type == "cosine":
        return 0.5 * (1 + math.cos(math.pi * progress))
    return 1 - progress if lr_scheduler_type == "linear" else 1.0


def trained_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """Returns the parameters that require a gradient, by name.

    Raises:
        ValueError: If there is none.
    """
    trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    if not trained:
        raise ValueError("No parameter requires a gradient: this localizer has no head; train `localizer='umci'`.")
    return trained


@dataclass(frozen=True)
class _Options:
    """What a step depends on, beside model and batches."""

    num_steps: int
    learning_rate: float
    weight_decay: float
    warmup_steps: int
    lr_scheduler_type: str
    max_grad_norm: float

    def __post_init__(self) -> None:
        for name in ("learning_rate", "weight_decay", "warmup_steps"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"`{name}` must not be negative, but got {getattr(self, name)}.")
        if not self.max_grad_norm > 0:
            raise ValueError(f"`max_grad_norm` must be positive, but got {self.max_grad_norm}.")
        if self.lr_scheduler_type not in SCHEDULES:
            raise ValueError(f"`lr_scheduler_type` must be one of {SCHEDULES}, but got {self.lr_scheduler_type!r}.")

    def rate(self, step: int) -> float:
        return self.learning_rate * schedule(step, self.num_steps, self.warmup_steps, self.lr_scheduler_type)


class _Run:
    """The model and its optimiser where they are trained, and one step of them."""

    def __init__(self, model: nn.Module, accelerator: Any, options: _Options) -> None:
        self.accelerator, self.options = accelerator, options
        kind = getattr(accelerator.distributed_type, "value", "NO")
        if kind in ("DEEPSPEED", "MEGATRON_LM") or (kind == "FSDP" and not accelerator.is_fsdp2):
            raise ValueError(f"Training shards with FSDP, `fsdp_version: 2`, only; Accelerate is set to {kind}.")
        if accelerator.is_fsdp2:
            _store_scalars_as_buffers(model)
        groups = _parameter_groups(trained_parameters(model), options.weight_decay)
        optimizer = torch.optim.AdamW(groups, lr=options.learning_rate)
        self.model, self.optimizer = accelerator.prepare(model, optimizer)
        # Sharding replaces the parameters
        self.trained = trained_parameters(accelerator.unwrap_model(self.model))

    def load(self, source: BatchSource, first_step: int) -> Generator[ShareOfBatch, None, None]:
        """This process's share of all batches from a step on."""
        accumulation, accelerator = self.accelerator.gradient_accumulation_steps, self.accelerator
        first, last = first_step * accumulation, self.options.num_steps * accumulation
        yield from source.load(
            first, last, process_index=accelerator.process_index, num_processes=accelerator.num_processes
        )

    def take_step(self, step: int, shares: Iterator[ShareOfBatch], source: BatchSource) -> float:
        """Take one optimiser step and return its loss, the mean over all images of all processes."""
        from accelerate.utils import send_to_device  # type: ignore[import-untyped]

        accelerator, parts = self.accelerator, self.accelerator.gradient_accumulation_steps
        for group in self.optimizer.param_groups:
            group["lr"] = self.options.rate(step)
        self.optimizer.zero_grad()
        losses = []
        for part in range(parts):
            share = next(shares)
            inputs = send_to_device(dict(share.inputs), accelerator.device)
            with nullcontext() if part == parts - 1 else accelerator.no_sync(self.model):
                loss = self.model(**inputs).loss
                # The gradients of the processes are averaged, and by `backward` those of the parts
                accelerator.backward(loss * (share.weight * accelerator.num_processes))
            losses.append(loss.detach().float().reshape(()) * share.weight)
        totals = accelerator.reduce(torch.stack(losses), "sum")  # (parts,)
        for part, total in enumerate(totals.tolist()):
            if not math.isfinite(total):
                self._stop_at(step, f"The loss is {total}", source.names(step * parts + part))

        norm = accelerator.clip_grad_norm_(list(self.trained.values()), self.options.max_grad_norm)
        norm = norm.full_tensor() if hasattr(norm, "full_tensor") else norm
        # With 16-bit floats the scaler skips such a step and lowers its scale
        if accelerator.scaler is None and not math.isfinite(norm.item()):
            names = [name for part in range(parts) for name in source.names(step * parts + part)]
            self._stop_at(step, f"The gradient's norm is {norm.item()}", names)
        self.optimizer.step()
        return totals.mean().item()

    def agree(self, received: int) -> int:
        """Return the signal that any process has received, or 0: all must stop after the same step."""
        if self.accelerator.num_processes == 1:
            return received
        return int(self.accelerator.reduce(torch.tensor(received, device=self.accelerator.device), "max").item())

    def report(self, done: int, loss: float, log: LogFunction | None) -> None:
        """Tell the caller and the trackers how it goes."""
        rate = self.options.rate(done - 1)
        self.accelerator.log({"train_loss": loss, "learning_rate": rate}, step=done)
        if log is not None and self.accelerator.is_main_process:
            log({"step": done, "loss": loss, "learning_rate": rate})

    def show_bar(self, first_step: int, wanted: bool) -> Any:
        hidden = not (wanted and self.accelerator.is_main_process)
        # `disable=None`: no bar where nobody sees it
        return tqdm(initial=first_step, total=self.options.num_steps, unit="step", disable=hidden or None)

    @staticmethod
    def _stop_at(step: int, what: str, names: list[str]) -> None:
        files = f", whose images are {', '.join(map(repr, names))}" if names else ""
        raise FloatingPointError(f"{what} at step {step}{files}. The last saved checkpoint is unharmed.")


class _StopSignals:
    """Notes SIGTERM and SIGINT instead of ending the process; the second one ends it as usual."""

    def __init__(self, *, catch: bool) -> None:
        self.received = 0
        # Python lets no other thread handle signals
        self._catch = catch and threading.current_thread() is threading.main_thread()
        self._earlier: dict[int, Any] = {}

    def __enter__(self) -> "_StopSignals":
        if self._catch:
            self._earlier = {number: signal.signal(number, self._note) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._earlier.items():
            signal.signal(number, handler)
        self._earlier = {}

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.received = number
        self.__exit__()


def _check_counts(**counts: int | None) -> None:
    for name, value in counts.items():
        if value is not None and value < 1:
            raise ValueError(f"`{name}` must be positive, but got {value}.")


def _default_accelerator(model: nn.Module) -> Any:
    try:
        from accelerate.accelerator import Accelerator  # type: ignore[import-untyped]
    except ImportError as error:
        raise ImportError('Training needs accelerate: pip install "clipsam_hf[train]"') from error
    return Accelerator(cpu=next(model.parameters()).device.type == "cpu")


def _describe(options: _Options, accelerator: Any, model: nn.Module, source: BatchSource) -> dict[str, Any]:
    """All that the weights at the end depend on, as JSON values."""
    config: Any = getattr(model, "config", None)
    settings = {} if config is None else config.settings_of("localize", "train")
    # Of CLIP's own configuration that it is the same says enough
    settings = {name: digest_json(each)[:16] if isinstance(each, dict) else each for name, each in settings.items()}
    trained = trained_parameters(model)
    # SAM has no part in the loss
    frozen = {
        name: tensor
        for name, tensor in model.state_dict().items()
        if name not in trained and not name.startswith("sam.")
    }
    return {
        **asdict(options),
        "gradient_accumulation_steps": accelerator.gradient_accumulation_steps,
        "mixed_precision": accelerator.mixed_precision,
        "num_processes": accelerator.num_processes,
        "model": {**settings, "frozen_weights": digest_tensors(frozen)[:16]},
        "batches": source.describe(),
    }


def _store_scalars_as_buffers(model: nn.Module) -> None:
    """Keep CLIP's frozen `logit_scale` out of the shards: torch cannot cut a tensor without dimensions."""
    for module in model.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            if parameter.dim() == 0 and not parameter.requires_grad:
                delattr(module, name)
                module.register_buffer(name, parameter.detach())


def _parameter_groups(trained: Mapping[str, nn.Parameter], weight_decay: float) -> list[dict[str, Any]]:
    matrices = [parameter for parameter in trained.values() if parameter.dim() > 1]
    biases = [parameter for parameter in trained.values() if parameter.dim() <= 1]
    return [{"params": matrices, "weight_decay": weight_decay}, {"params": biases, "weight_decay": 0.0}]
