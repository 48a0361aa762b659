# SPDX-FileCopyrightText: 2026 The clipsam_hf authors
# SPDX-License-Identifier: Apache-2.0
"""What photographs are compared with, chosen before anything is predicted, so that a protocol can say it."""

import json
import os
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from ..evaluation.processes import Processes
from ..files import digest_file, digest_json, digest_pixels, digest_tensors
from ..gallery_clipsam import list_sources
from ..image_loading import load_rgb
from ..inference_clipsam import ClipSamInference, PreparedImage
from ..mutual_clipsam import MutualReferences, draw_others
from ..processing_clipsam import check_class_name
from ..references_clipsam import ClipSamReferences, agree_on_tile, is_saved_in, take_references


__all__ = ["Compared", "are_photographs", "check_texts", "choose_compared"]


class Compared(NamedTuple):
    """What photographs are compared with.

    Args:
        class_name (`str`): what they show.
        described (`dict[str, Any]`, *optional*): what identifies it, JSON values; `None` for texts alone.
        text_weight (`float`): share of the localizer's own map.
        tile (`str` or `int`, *optional*): how photographs are cut.
        make (callable): takes how a photograph is read, by its place, a folder to keep things in, and this process
            among others; gives the argument of `ClipSamInference.predict`.
    """

    class_name: str
    described: dict[str, Any] | None
    text_weight: float
    tile: str | int | None
    make: Callable[[Callable[[int], PreparedImage], Path, Processes], Any]


def are_photographs(references: Any) -> bool:
    """Tell whether references are given as photographs: a folder of some, a file or a list."""
    if isinstance(references, (str, os.PathLike)):
        return os.path.isfile(references) or (os.path.isdir(references) and not is_saved_in(references))
    return isinstance(references, (list, tuple))


def check_texts(references: Any, class_name: str | None) -> None:
    """Raise for what contradicts itself, before a model is loaded.

    Args:
        references: see `predict_folder`.
        class_name (`str`, *optional*): likewise.

    Raises:
        TypeError, ValueError: if the class name is no usable one, or is missing where it is needed.
    """
    if class_name is not None:
        check_class_name(class_name)
    is_given = references is not None and not (isinstance(references, str) and references == "mutual")
    if class_name is None and (not is_given or are_photographs(references)):
        raise ValueError("`class_name` is needed: what the photographs show, such as 'candle'")


def choose_compared(
    inference: ClipSamInference,
    references: Any,
    class_name: str | None,
    roi: Tensor | None,
    tile: str | int | None,
    count: int,
) -> Compared:
    """Choose what the photographs are compared with.

    Args:
        inference (`ClipSamInference`): the model.
        references: see `predict_folder`.
        class_name (`str`, *optional*): likewise.
        roi (`torch.Tensor` of shape `(height, width)`, *optional*): where to look.
        tile (`str` or `int`, *optional*): see `predict_folder`.
        count (`int`): number of photographs.

    Returns:
        `Compared`.

    Raises:
        TypeError, ValueError: see `check_texts`; or if references do not belong to the model or the class name, or
            there are too few photographs for mutual scoring.
        OSError: if references cannot be read.
    """
    check_texts(references, class_name)
    name, config = check_class_name(class_name or "object"), inference.model.config
    if references is None:
        return Compared(name, None, 1.0, tile, lambda prepare, folder, processes: None)
    if isinstance(references, str) and references == "mutual":
        draw_others(count, config.mutual_others)  # too few are an error now

        def make_mutual(
            prepare: Callable[[int], PreparedImage], folder: Path, processes: Processes
        ) -> MutualReferences:
            shared: dict[str, Any] = {"rank": processes.rank, "num_processes": processes.total, "wait": processes.wait}
            return MutualReferences.from_images(inference, prepare, count, folder, skip_unreadable=True, **shared)

        tile = agree_on_tile(tile, MutualReferences)
        return Compared(name, {"mutual_seed": 0}, config.mutual_text_weight, tile, make_mutual)
    if are_photographs(references):
        return _choose_photographs(inference, references, name, roi, tile)
    line = take_references(inference, references)
    if class_name is not None and name != line.class_name:
        raise ValueError(f"the references show {line.class_name!r}, but `class_name` is {name!r}")
    described = {"references_sha256": _digest_line(line)}
    tile = agree_on_tile(tile, line)
    return Compared(line.class_name, described, line.text_weight, tile, lambda prepare, folder, processes: line)


def _choose_photographs(
    inference: ClipSamInference, references: Any, name: str, roi: Tensor | None, tile: str | int | None
) -> Compared:
    """Photographs of good parts, which are described when it is known that something is to be predicted."""
    is_file = isinstance(references, (str, os.PathLike)) and os.path.isfile(references)
    sources = [references] if is_file else list_sources(references, "references")
    digests = [
        digest_file(Path(source)) if isinstance(source, (str, os.PathLike)) and os.path.isfile(source) else
        digest_pixels(load_rgb(source))
        for source in sources
    ]  # fmt: skip
    described = {"references": len(sources), "references_sha256": digest_json(digests)[:16]}

    def make(prepare: Callable[[int], PreparedImage], folder: Path, processes: Processes) -> ClipSamReferences:
        return ClipSamReferences.from_images(
            inference.model, inference.processor, sources, class_name=name, roi_mask=roi, tile=tile
        )

    return Compared(name, described, inference.model.config.reference_text_weight, tile, make)


def _digest_line(line: ClipSamReferences) -> str:
    tensors = {f"memory.{index}": entries for index, entries in enumerate(line.memory)}
    tensors["photographs"] = line.photographs
    if line.roi_mask is not None:
        tensors["roi_mask"] = line.roi_mask
    return digest_tensors(tensors, json.dumps(asdict(line.settings), sort_keys=True))[:16]
