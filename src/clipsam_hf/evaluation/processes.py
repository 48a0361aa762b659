# SPDX-FileCopyrightText: 2026 The clipsam_hf authors
# SPDX-License-Identifier: Apache-2.0
"""The device of a run, and the processes that share it."""

import os
from collections.abc import Callable
from datetime import timedelta
from typing import NamedTuple

import torch


__all__ = ["Processes", "choose_device", "join_processes"]


class Processes(NamedTuple):
    """This process among those that share the run.

    Args:
        rank (`int`): its number, from 0.
        total (`int`): how many there are.
        device (`torch.device`): where this one computes.
        wait (`Callable[[], None]`): returns when all have called it.
    """

    rank: int
    total: int
    device: torch.device
    wait: Callable[[], None]


def choose_device(device: str | torch.device | None = None) -> torch.device:
    """Return a device on which this machine can compute.

    Args:
        device (`str` or `torch.device`, *optional*): by default a GPU, where there is one.

    Returns:
        `torch.device`: the device.

    Raises:
        ValueError: if there is none of that name.

    Example:
        >>> choose_device("cpu")
        device(type='cpu')
    """
    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
        if chosen.type == "meta":
            raise RuntimeError("it holds no values")
        torch.empty(0, device=chosen)
    except (AssertionError, NotImplementedError, RuntimeError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise ValueError(f"the device {str(device)!r} cannot be used here: {reason}") from error
    return chosen


def join_processes(device: str | torch.device | None) -> Processes:
    """Find out whether a launcher started this process among others, and if so, join them.

    Args:
        device (`str` or `torch.device`, *optional*): see `choose_device`; several processes have a GPU each.

    Returns:
        `Processes`: this one among them.

    Raises:
        ValueError: if there is no such device.
        ImportError: if there are several processes and no accelerate.
    """
    chosen = choose_device(device)
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return Processes(0, 1, chosen, lambda: None)
    try:
        from accelerate import PartialState  # type: ignore[import-untyped]
    except ImportError as error:
        raise ImportError("Several processes need accelerate: pip install 'clipsam_hf[train]'") from error
    # The last process may come hours after the first: chunks differ, and so do machines
    state = PartialState(cpu=chosen.type == "cpu", timeout=timedelta(days=7))
    return Processes(state.process_index, state.num_processes, state.device, state.wait_for_everyone)
