# SPDX-FileCopyrightText: 2026 The clipsam_hf authors
# SPDX-License-Identifier: Apache-2.0
"""An export as a folder: the graphs, what the runner needs to know beside them, and the runner itself."""

import json
import os
import shutil
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from ..answers_clipsam import find_thresholds
from ..files import digest_file, fill_folder_atomically
from ..inference_clipsam import ClipSamInference, Prediction
from ..processing_clipsam import check_class_name
from ..refinement_clipsam import RefinementOptions
from .graphs import GRAPHS, QUANTIZED, make_graph, quantize_graph, write_graph


__all__ = ["FORMAT", "RUNNER_NAME", "SETTINGS_NAME", "check_export", "check_folder", "export_onnx"]

FORMAT = 1
SETTINGS_NAME = "clipsam.json"
RUNNER_NAME = "run.py"
ROI_NAME = "roi.png"


def export_onnx(
    model: Any,
    processor: Any,
    output: str | os.PathLike[str],
    class_names: Sequence[str],
    *,
    references: Any = None,
    int8: bool = False,
    overwrite: bool = False,
    model_name: str | None = None,
) -> Path:
    """Export a model to a folder that runs with onnxruntime, numpy and Pillow alone.

    The folder gets `localizer.onnx` (pixels and two text embeddings to the rough map), `sam_encoder.onnx` and
    `sam_decoder.onnx`, all with a free batch size or number of prompts; `clipsam.json`, all else that a prediction
    depends on, and checksums; and `run.py`, see `runner.py`. CLIP's text tower stays here: the folder knows the class
    names that are given.

    Args:
        model ([`ClipSamForAnomalySegmentation`]): on the CPU, in float32.
        processor ([`ClipSamProcessor`]): the model's.
        output (`str` or `os.PathLike`): the folder; it appears when it is complete.
        class_names (`Sequence[str]`): what photographs will show, at least one.
        references ([`ClipSamReferences`], *optional*): what photographs are compared with; they become part of the
            first graph, and `class_names` may be empty.
        int8 (`bool`): whether the matrices of the first two graphs are stored as int8; docs/how-to/export.md says
            what that costs, which is a lot with the embedded checkpoint.
        overwrite (`bool`): whether an earlier export in the folder may be replaced.
        model_name (`str`, *optional*): noted in `clipsam.json`.

    Returns:
        `Path`: the folder.

    Raises:
        FileExistsError: if the folder holds something else, or an export and `overwrite` is not set.
        ImportError: if the extra `onnx` is not installed.
        TypeError, ValueError: if the model or a class name cannot be exported; one sentence says why.
    """
    output = Path(output)
    names = [check_class_name(name) for name in class_names]
    if references is not None:
        names = names or [references.class_name]
    check_export(model, processor, names, references)
    check_folder(output, overwrite)
    settings = _describe(model, processor, names, references) | {"model": model_name}
    size = tuple(settings["clip"]["size"])
    with _replace_folder(output) as folder:
        for name in GRAPHS:
            path = folder / f"{name}.onnx"
            write_graph(make_graph(name, model, size, references), path)
            if int8 and name in QUANTIZED:
                quantize_graph(path)
        if settings["roi"] is not None:
            Image.fromarray(references.roi_mask.cpu().numpy()).save(folder / settings["roi"])
        shutil.copyfile(Path(__file__).with_name("runner.py"), folder / RUNNER_NAME)
        files = sorted(path for path in folder.iterdir() if path.is_file())
        settings["int8"], settings["files"] = int8, {path.name: digest_file(path) for path in files}
        (folder / SETTINGS_NAME).write_text(json.dumps(settings, indent=1) + "\n", encoding="utf-8")
    return output


def check_export(model: Any, processor: Any, class_names: Sequence[str], references: Any = None) -> None:
    """Raise if something cannot be exported.

    Args:
        model, processor, class_names, references: as in `export_onnx`.

    Raises:
        ValueError: one sentence that says what, and what can be.
    """
    config = model.config
    if not class_names:
        raise ValueError("An export needs at least one class name: the text tower stays behind.")
    if config.localizer == "windows":
        raise ValueError(
            "`localizer='windows'` cannot be exported: how often it looks depends on the batch; the others,"
            " 'umci', 'vv' and 'similarity', can."
        )
    weight = next(model.parameters())
    if weight.device.type != "cpu" or weight.dtype != torch.float32:
        raise ValueError(
            f"A model is exported from the CPU and in float32, got {weight.dtype} on {weight.device}; see `model.to`."
        )
    if references is None or references.text_weight > 0:
        model.check_trained()
    for part in (processor.image_processor, processor.sam_image_processor):
        if not (part.do_resize and part.do_rescale and part.do_normalize) or part.backend != "pil":
            raise ValueError(f"{type(part).__name__} must resize by Pillow, rescale and normalise to be exported.")
    if references is None:
        return
    references.check(model, processor)
    if list(class_names) != [references.class_name]:
        raise ValueError(
            f"References of {references.class_name!r} know no other name, got {', '.join(map(repr, class_names))}."
        )


def _describe(model: Any, processor: Any, class_names: Sequence[str], references: Any) -> dict[str, Any]:
    """All that a prediction depends on beside the graphs, as JSON values."""
    from .. import __version__

    config, inference = model.config, ClipSamInference(model, processor)
    refinement = {each.name: getattr(config, each.name) for each in fields(RefinementOptions)}
    thresholds = {}
    for name, refine in (("refined", True), ("rough", False)):
        # A relative threshold is the map's own; the runner reads it there
        of_map = config.region_rule == "relative" and references is None
        any_map = Prediction((1, 1), torch.zeros(1, 1), torch.zeros(1, 1), rough_score=0.0, pred_score=0.0)
        threshold, decision = find_thresholds(config, any_map, refine=refine, references=references)
        thresholds[name] = {"map": None if of_map else threshold, "score": decision}
    if references is not None:
        refinement |= {"region_rule": "fixed", "binarize_threshold": references.region_threshold}
    clip, sam = processor.image_processor, processor.sam_image_processor
    return {
        "format": FORMAT,
        "clipsam_hf": __version__,
        "torch": torch.__version__,
        "localizer": config.localizer,
        "references": None if references is None else len(references),
        "roi": None if references is None or references.roi_mask is None else ROI_NAME,
        "clip": {**_look(clip), "size": [clip.size["height"], clip.size["width"]]},
        "sam": {
            **_look(sam),
            "longest_edge": sam.size["longest_edge"],
            "side": config.sam_config.vision_config.image_size,
        },
        "refinement": refinement,
        "thresholds": thresholds,
        "score": {
            "image_score": config.image_score,
            "score_top_fraction": config.score_top_fraction,
            "of_rough_map": references is not None,
        },
        "text_embeds": {name: inference.embed(name)[0].tolist() for name in class_names},
    }


def _look(image_processor: Any) -> dict[str, Any]:
    return {
        "resample": int(image_processor.resample),
        "rescale_factor": image_processor.rescale_factor,
        "mean": list(image_processor.image_mean),
        "std": list(image_processor.image_std),
    }


def check_folder(path: Path, overwrite: bool) -> None:
    """Refuse a folder with anything in it but an export that may be replaced.

    Args:
        path (`Path`): the folder; it need not exist.
        overwrite (`bool`): whether an earlier export may be replaced.

    Raises:
        FileExistsError: if it must not be written to.
    """
    if not path.exists() or (path.is_dir() and not any(path.iterdir())):
        return
    if not (path.is_dir() and (path / SETTINGS_NAME).is_file()):
        raise FileExistsError(f"'{path}' exists and is no earlier export; give another folder.")
    if not overwrite:
        raise FileExistsError(f"'{path}' already holds an export; take another folder, or `overwrite`.")


@contextmanager
def _replace_folder(path: Path) -> Iterator[Path]:
    """Fill a folder that takes its place, and that of an earlier export, only when the block ends well."""
    if not (path / SETTINGS_NAME).is_file():
        with fill_folder_atomically(path) as folder:
            yield folder
        return
    beside = path.with_name(f".{path.name}-{uuid.uuid4().hex}")
    new, old = beside / "new", beside / "old"
    try:
        with fill_folder_atomically(new) as folder:
            yield folder
        path.rename(old)
        try:
            new.rename(path)
        except OSError:
            old.rename(path)
            raise
    finally:
        shutil.rmtree(beside, ignore_errors=True)
