# SPDX-FileCopyrightText: 2026 The clipsam_hf authors
# SPDX-License-Identifier: Apache-2.0
"""Evaluation of one model on several data sets: a report for each, and one table of their means."""

import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from ..data.folders import AnomalyFolder
from ..files import open_atomically, refuse_differences
from ..modeling_clipsam import ClipSamForAnomalySegmentation
from ..processing_clipsam import ClipSamProcessor
from .options import EvaluationOptions
from .output import check_output
from .plan import plan_examples
from .processes import join_processes
from .protocol import describe
from .report import EvaluationResults
from .rows import ResultRow
from .run import evaluate
from .writers import FILE_NAMES
from .writers.as_text import to_combined_text


__all__ = ["COMBINED_NAME", "check_set_outputs", "evaluate_sets"]

COMBINED_NAME = "combined.txt"
"""File of the table of all sets."""


def evaluate_sets(
    model: ClipSamForAnomalySegmentation,
    processor: ClipSamProcessor,
    sets: Mapping[str, AnomalyFolder],
    options: EvaluationOptions | None = None,
    *,
    output_dir: str | os.PathLike[str] | None = None,
    overwrite: bool = False,
    device: str | torch.device | None = None,
    model_name: str | None = None,
    **kwargs: Any,
) -> dict[str, EvaluationResults]:
    """Run a model over several data sets, one after the other.

    Started again after an interruption, it takes the reports that are there and goes on with the first set that has
    none.

    Args:
        model (`ClipSamForAnomalySegmentation`): with a trained head, or a localizer that needs none.
        processor (`ClipSamProcessor`): the model's.
        sets (`Mapping[str, AnomalyFolder]`): the data sets, by the names of their sub-folders and rows.
        options (`EvaluationOptions`, *optional*): what the figures depend on, the same for all sets.
        output_dir (`str` or `os.PathLike`, *optional*): gets a sub-folder per set, and `combined.txt`.
        overwrite (`bool`): whether results, or the state of another run, may be replaced.
        device (`str` or `torch.device`, *optional*): by default a GPU, where there is one.
        model_name (`str`, *optional*): for the reports.
        kwargs: further ones of [`evaluate`].

    Returns:
        `dict[str, EvaluationResults]`: by the names of the sets; empty on all processes but the first.

    Raises:
        ValueError: as [`evaluate`], and if results that are there followed another protocol.
        OSError: if a file cannot be read or written.
    """
    options = options or EvaluationOptions()
    processes = join_processes(device)
    torch.nn.Module.to(model, processes.device)
    finished = {}
    for name, data in sets.items():
        folder = None if output_dir is None else Path(output_dir) / name
        if folder is not None and _has_results(folder) and not overwrite:
            known = _read_results(folder)
            now = describe(model, processor, data, options, plan_examples(data, options), model_name)
            _check_protocol(folder, known, now)
            results: EvaluationResults | None = known
        else:
            results = evaluate(
                model,
                processor,
                data,
                options,
                output_dir=folder,
                overwrite=overwrite,
                device=device,
                model_name=model_name,
                **kwargs,
            )
        if results is not None and processes.rank == 0:
            finished[name] = results
    if finished and output_dir is not None:
        with open_atomically(Path(output_dir) / COMBINED_NAME) as file:
            file.write(to_combined_text(finished).encode("utf-8"))
    return finished


def check_set_outputs(output_dir: str | os.PathLike[str], names: Sequence[str], *, overwrite: bool = False) -> None:
    """Raise if results of several sets cannot, or must not, be written; nothing is made or changed.

    Args:
        output_dir (`str` or `os.PathLike`): as in [`evaluate_sets`].
        names (`Sequence[str]`): the names of the sets. One that has results already is no obstacle.
        overwrite (`bool`): whether results that are there may be replaced.

    Raises:
        FileExistsError, NotADirectoryError, PermissionError: as in `check_output`.
    """
    for name in names:
        folder = Path(output_dir) / name
        if not _has_results(folder):
            check_output(folder, overwrite=overwrite)


def _has_results(folder: Path) -> bool:
    return (folder / FILE_NAMES["json"]).is_file()


def _read_results(folder: Path) -> EvaluationResults:
    """Read a report back, without its single images."""
    path = folder / FILE_NAMES["json"]
    content = json.loads(path.read_text(encoding="utf-8"))
    try:
        rows = [_read_row(row) for row in content["rows"]]
        return EvaluationResults(rows, content["protocol"], content["notes"])
    except (KeyError, TypeError) as error:
        raise ValueError(f"{str(path)!r} holds no results of this version; take another folder") from error


def _read_row(row: Mapping[str, Any]) -> ResultRow:
    def number(value: float | None) -> float:
        return math.nan if value is None else value

    figures = {name: number(value) for name, value in row["figures"].items()}
    intervals = {name: (number(low), number(high)) for name, (low, high) in row["intervals"].items()}
    return ResultRow(**{**row, "figures": figures, "intervals": intervals})


def _check_protocol(folder: Path, results: EvaluationResults, now: Mapping[str, Any]) -> None:
    refuse_differences(
        results.protocol,
        json.loads(json.dumps(now)),
        f"{str(folder)!r} holds results of another protocol",
        "Take another folder, or start anew with `overwrite`",
    )
