# SPDX-FileCopyrightText: 2026 The clipsam_hf authors
# SPDX-License-Identifier: Apache-2.0
"""What a training run keeps on the disk: only what is trained, never half of it.

A checkpoint is a folder `checkpoint-<step>`. It is written under a hidden name, forced to the disk, marked complete,
and only then given its own name; older ones go afterwards. So at any moment, a kill or a full disk included, the
newest folder with a marker is whole.

| file | content |
|---|---|
| `trained.safetensors` | the parameters that require a gradient |
| `optimizer.safetensors` | AdamW's state of each of them |
| `random-<process>.safetensors` | every random number generator of a process |
| `training_state.json` | the losses of all steps so far, and the configuration of the run |
| `complete.json` | the marker: name and size of the other files |
"""

import json
import os
import random
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors.torch import load_file, save
from torch import Tensor, nn

from ..files import describe_differences


__all__ = ["CheckpointFolder", "TrainingState", "load_trained", "mark_trained", "newest_checkpoint", "read_state"]

MARKER_NAME = "complete.json"
STATE_NAME = "training_state.json"
TRAINED_NAME = "trained.safetensors"
OPTIMIZER_NAME = "optimizer.safetensors"
_FOLDER_NAME = re.compile(r"checkpoint-(\d+)")
_HIDDEN = ".checkpoint-"


class TrainingState(NamedTuple):
    """How far a run has come.

    Args:
        losses (`list[float]`): the loss of every step done; their number is the number of steps.
        configuration (`dict[str, Any]`): all that the run depends on.
        grad_scaler (`dict[str, Any]`, *optional*): state of the loss scaling, with 16-bit floating point only.
    """

    losses: list[float]
    configuration: dict[str, Any]
    grad_scaler: dict[str, Any] | None = None


def newest_checkpoint(output_dir: str | os.PathLike[str]) -> Path | None:
    """Find the complete checkpoint with the most steps.

    Args:
        output_dir (`str` or `os.PathLike`): folder of a run; it need not exist.

    Returns:
        `Path` or `None`: the checkpoint's folder.

    Example:
        >>> newest_checkpoint("never-trained") is None
        True
    """
    return next(reversed(_complete_checkpoints(Path(output_dir))), None)


def read_state(checkpoint: str | os.PathLike[str]) -> TrainingState:
    """Read how far a run had come.

    Args:
        checkpoint (`str` or `os.PathLike`): a complete checkpoint.

    Returns:
        `TrainingState`: losses and configuration.

    Raises:
        ValueError: if this is no complete checkpoint.
    """
    _check_complete(Path(checkpoint))
    return TrainingState(**json.loads((Path(checkpoint) / STATE_NAME).read_text(encoding="utf-8")))


def load_trained(model: nn.Module, checkpoint: str | os.PathLike[str]) -> None:
    """Load the trained part of a checkpoint into a model, however many processes trained or sharded it.

    Args:
        model (`nn.Module`): with the parameters of the trained one.
        checkpoint (`str` or `os.PathLike`): a complete checkpoint.

    Raises:
        ValueError: if this is no complete checkpoint, or one of another model.
    """
    checkpoint = Path(checkpoint)
    _check_complete(checkpoint)
    saved = load_file(checkpoint / TRAINED_NAME)
    parameters = dict(model.named_parameters())
    _check_shapes(checkpoint, saved, {name: parameters[name] for name in saved if name in parameters})
    _assign(parameters, saved)
    mark_trained(model)


def mark_trained(model: nn.Module) -> None:
    """Tell a ClipSAM that its head has trained weights, which nobody but who has set them can know.

    Args:
        model (`nn.Module`): any other model is left as it is.
    """
    network: Any = model
    if hasattr(network, "head_is_trained"):
        network.head_is_trained = True


class CheckpointFolder:
    """The checkpoints of one run, on one process or several that share the folder.

    Args:
        folder (`str` or `os.PathLike`): where they are; it is made when the first one is written.
        accelerator (`accelerate.Accelerator`): knows the other processes.
        configuration (`Mapping[str, Any]`): all that the run depends on; JSON values. Another run is not gone on with.
        save_total_limit (`int`, *optional*): so many checkpoints are kept; all if `None`.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        accelerator: Any,
        configuration: Mapping[str, Any],
        *,
        save_total_limit: int | None = 2,
    ) -> None:
        self.folder, self.accelerator = Path(folder), accelerator
        self.configuration: dict[str, Any] = json.loads(json.dumps(configuration))
        self.save_total_limit = save_total_limit

    def load(
        self, checkpoint: str | os.PathLike[str], trained: Mapping[str, Tensor], optimizer: torch.optim.Optimizer
    ) -> list[float]:
        """Load a checkpoint into the parameters, the optimiser and the random number generators of this process.

        Args:
            checkpoint (`str` or `os.PathLike`): a complete one.
            trained (`Mapping[str, Tensor]`): the parameters that require a gradient, by name.
            optimizer (`torch.optim.Optimizer`): theirs.

        Returns:
            `list[float]`: the losses of the steps done.

        Raises:
            ValueError: if it is not complete, of another model, or of a run with another configuration; the message
                shows what differs.
        """
        checkpoint = Path(checkpoint)
        state = read_state(checkpoint)
        saved = load_file(checkpoint / TRAINED_NAME)
        _check_shapes(checkpoint, saved, trained)
        differences = describe_differences(state.configuration, self.configuration)
        if differences:
            raise ValueError(
                f"{str(checkpoint)!r} was trained under another configuration:\n"
                + "\n".join(f"  {line}" for line in differences)
                + "\nRepeat its options to go on with it, or take another output folder."
            )
        _assign(trained, saved)
        _load_optimizer(optimizer, trained, load_file(checkpoint / OPTIMIZER_NAME))
        if self.accelerator.scaler is not None and state.grad_scaler is not None:
            self.accelerator.scaler.load_state_dict(state.grad_scaler)
        _set_random_states(load_file(checkpoint / f"random-{self.accelerator.process_index}.safetensors"))
        return state.losses

    def save(self, losses: list[float], trained: Mapping[str, Tensor], optimizer: torch.optim.Optimizer) -> None:
        """Write a checkpoint, then remove those beyond the limit. All processes must call it.

        Args:
            losses (`list[float]`): the losses of all steps done.
            trained (`Mapping[str, Tensor]`): the parameters that require a gradient, by name.
            optimizer (`torch.optim.Optimizer`): theirs.

        Raises:
            OSError: if it cannot be written, for example on a full disk; the earlier checkpoints stay as they are.
        """
        name = f"checkpoint-{len(losses)}"
        partial, final = self.folder / f".{name}.partial", self.folder / name
        is_main = self.accelerator.is_main_process
        # All processes take part in gathering what is sharded
        tensors = {name: _whole(parameter) for name, parameter in trained.items()}
        moments = _optimizer_tensors(optimizer, trained)
        scaler = self.accelerator.scaler
        state = TrainingState(losses, self.configuration, None if scaler is None else scaler.state_dict())

        with self._all_or_none(partial):
            if is_main:
                self._remove_leftovers()
                partial.mkdir(parents=True)
        with self._all_or_none(partial):
            _write(partial / f"random-{self.accelerator.process_index}.safetensors", save(_get_random_states()))
            if is_main:
                _write(partial / TRAINED_NAME, save(tensors))
                _write(partial / OPTIMIZER_NAME, save(moments))
                _write(partial / STATE_NAME, json.dumps(state._asdict(), indent=1).encode())
        with self._all_or_none(partial):
            if is_main:
                files = {path.name: path.stat().st_size for path in sorted(partial.iterdir())}
                _write(partial / MARKER_NAME, json.dumps({"files": files}, indent=1).encode())
                _sync_folder(partial)
                if final.exists():  # incomplete, or of a run that was resumed from an earlier step
                    _remove(final)
                os.replace(partial, final)
                _sync_folder(self.folder)
                self._prune()

    def _remove_leftovers(self) -> None:
        """Remove what an interrupted call of `save` has left."""
        for leftover in self.folder.glob(f"{_HIDDEN}*"):
            shutil.rmtree(leftover)

    def _prune(self) -> None:
        if self.save_total_limit is not None:
            for old in _complete_checkpoints(self.folder)[: -self.save_total_limit]:
                _remove(old)

    @contextmanager
    def _all_or_none(self, partial: Path) -> Iterator[None]:
        """Wait for the other processes, and raise on all of them if one cannot write."""
        problem: Exception | None = None
        try:
            yield
        except Exception as error:
            problem = error
        failed = torch.tensor(float(problem is not None), device=self.accelerator.device)
        if self.accelerator.reduce(failed, "sum").item() == 0:
            return
        if self.accelerator.is_main_process:
            shutil.rmtree(partial, ignore_errors=True)
        last = newest_checkpoint(self.folder)
        kept = "there is no earlier one" if last is None else f"{last.name!r} is the last one and unharmed"
        reason = "another process could not write" if problem is None else str(problem)
        raise OSError(f"A checkpoint cannot be saved in {str(self.folder)!r}; {kept}. {reason}") from problem


def _complete_checkpoints(folder: Path) -> list[Path]:
    """The complete checkpoints of a run, by rising steps."""
    found = {}
    for path in folder.iterdir() if folder.is_dir() else ():
        match = _FOLDER_NAME.fullmatch(path.name)
        if match and _is_complete(path):
            found[int(match[1])] = path
    return [found[step] for step in sorted(found)]


def _is_complete(checkpoint: Path) -> bool:
    try:
        files = json.loads((checkpoint / MARKER_NAME).read_text(encoding="utf-8"))["files"]
        return all((checkpoint / name).stat().st_size == size for name, size in files.items())
    except (OSError, ValueError):
        return False


def _check_complete(checkpoint: Path) -> None:
    if not _is_complete(checkpoint):
        raise ValueError(f"{str(checkpoint)!r} is no complete checkpoint of a training run.")


def _check_shapes(checkpoint: Path, saved: Mapping[str, Tensor], trained: Mapping[str, Tensor]) -> None:
    there, wanted = ({name: tuple(tensor.shape) for name, tensor in each.items()} for each in (saved, trained))
    if there != wanted:
        differing = sorted(name for name in there | wanted if there.get(name) != wanted.get(name))
        raise ValueError(f"{str(checkpoint)!r} is of another model: it differs in {differing[:5]}.")


def _write(path: Path, content: bytes) -> None:
    with open(path, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    """Force the names of a folder's files to the disk, where the system can."""
    if os.name == "posix":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _remove(checkpoint: Path) -> None:
    """Remove a checkpoint so that no half of it ever has its name."""
    hidden = checkpoint.with_name(f".{checkpoint.name}.removed")
    os.replace(checkpoint, hidden)
    shutil.rmtree(hidden)


def _whole(tensor: Tensor) -> Tensor:
    """A copy on the CPU, gathered if the tensor is sharded."""
    gathered = tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor
    return gathered.detach().cpu().contiguous()


def _like(tensor: Tensor, target: Tensor) -> Tensor:
    """Place a whole tensor as the target is placed: on its device, in its shards."""
    if not hasattr(target, "full_tensor"):
        return tensor.to(target.device)
    from torch.distributed.tensor import distribute_tensor

    sharded: Any = target
    return distribute_tensor(tensor.to(sharded.device), sharded.device_mesh, sharded.placements)


@torch.no_grad()
def _assign(parameters: Mapping[str, Tensor], saved: Mapping[str, Tensor]) -> None:
    for name, tensor in saved.items():
        parameters[name].copy_(_like(tensor, parameters[name]))


def _optimizer_tensors(optimizer: torch.optim.Optimizer, trained: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The optimiser's state as flat tensors, `exp_avg/umci.0.fuse.weight`; learning rates follow from the step."""
    return {
        f"{key}/{name}": _whole(value)
        for name, parameter in trained.items()
        for key, value in optimizer.state[parameter].items()
    }


def _load_optimizer(
    optimizer: torch.optim.Optimizer, trained: Mapping[str, Tensor], saved: Mapping[str, Tensor]
) -> None:
    for label, tensor in saved.items():
        key, _, name = label.partition("/")
        parameter = trained[name]
        # AdamW counts its steps on the CPU
        optimizer.state[parameter][key] = tensor if tensor.dim() == 0 else _like(tensor, parameter)


def _get_random_states() -> dict[str, Tensor]:
    """The state of every random number generator of this process."""
    version, numbers, gauss = random.getstate()
    name, keys, position, has_gauss, cached = np.random.get_state(legacy=True)
    states = {
        "python": torch.tensor([version, *numbers], dtype=torch.int64),
        "python_gauss": torch.tensor([] if gauss is None else [gauss], dtype=torch.float64),
        "numpy": torch.tensor([*np.asarray(keys).tolist(), position, has_gauss], dtype=torch.int64),
        "numpy_gauss": torch.tensor([cached], dtype=torch.float64),
        "torch": torch.get_rng_state(),
    }
    if torch.cuda.is_available():
        states["cuda"] = torch.cuda.get_rng_state()
    return states


def _set_random_states(states: Mapping[str, Tensor]) -> None:
    version, *numbers = states["python"].tolist()
    random.setstate((version, tuple(numbers), next(iter(states["python_gauss"].tolist()), None)))
    *keys, position, has_gauss = states["numpy"].tolist()
    np.random.set_state(
        ("MT19937", np.array(keys, dtype=np.uint32), position, has_gauss, states["numpy_gauss"].item())
    )
    torch.set_rng_state(states["torch"])
    if "cuda" in states and torch.cuda.is_available():
        torch.cuda.set_rng_state(states["cuda"])
