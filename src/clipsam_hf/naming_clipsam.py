# SPDX-FileCopyrightText: 2026 The clipsam_hf authors
# SPDX-License-Identifier: Apache-2.0
"""What kind of defect a region shows: the most similar of the caller's words, by CLIP, and whether that is a guess."""

from collections.abc import Sequence
from math import log
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from .inference_clipsam import ClipSamInference, PreparedImage


MAX_NAMED = 32
"""Regions of a photograph that are named, those of highest scores; each is a pass through CLIP."""

# A crop is so many times as large as the longer side of its region: a scratch is one against the surface round it. By
# reasoning, not by measurement
_CONTEXT = 2.0
# At least so much of the photograph's shorter side, and so many pixels, so that there is something to be seen
_LEAST_SHARE, _LEAST_SIDE = 1 / 8, 32
# A name that is not twice as probable as the next is a guess
_ODDS = 2.0
_CROPS_AT_ONCE = 8


def check_defect_names(defect_names: Any) -> list[str]:
    """Raises unless these are names of defects.

    Args:
        defect_names: `Sequence[str]` of at least one.

    Returns:
        `list[str]`: Without spaces at their ends.

    Raises:
        TypeError: If it is no list or tuple of texts.
        ValueError: If there is none, one is empty, or one is there twice.
    """
    if not isinstance(defect_names, (list, tuple)) or not all(isinstance(name, str) for name in defect_names):
        raise TypeError(f"`defect_names` must be a list of texts such as ['scratch', 'hole'], got {defect_names!r}.")
    names = [name.strip() for name in defect_names]
    if not names or not all(names) or len(set(names)) < len(names):
        raise ValueError(f"`defect_names` must be different words, at least one, got {list(defect_names)!r}.")
    return names


@torch.no_grad()
def name_regions(
    inference: ClipSamInference,
    prepared: PreparedImage,
    regions: Sequence[dict[str, Any]],
    defect_names: Sequence[str],
) -> list[dict[str, Any]]:
    """Gives each region the most similar name.

    Each region's square crop, twice as large as its longer side, is compared with "<class name> with a <name>" in the
    prompt templates. The name is a guess where it is not twice as probable as the next one, or not more similar than
    "<class name> with a defect": the truth may be none of the names, and CLIP knows few kinds of defects.

    Args:
        inference ([`ClipSamInference`]): The model, and where texts are kept.
        prepared ([`PreparedImage`]): What it shows, and the photograph itself.
        regions (`Sequence[dict]`): See `describe_regions`, by falling score.
        defect_names (`Sequence[str]`): Different words.

    Returns:
        `list[dict]`: The regions, with `"defect_name"` (`str`), `"defect_score"` (`float`, its probability among the
        names, which add up to 1) and `"defect_is_guess"` (`bool`); None all three beyond the first `MAX_NAMED`.

    Raises:
        ValueError: If the photograph was not kept, or a name is too long for CLIP.
    """
    if not regions:
        return []
    if prepared.photograph is None:
        raise ValueError("Regions are named by their photograph: prepare it with `keep_photograph=True`.")
    model, photograph = inference.model, Image.fromarray(prepared.photograph.numpy())
    states = [f"{{}} with a {name}" for name in ("defect", *defect_names)]
    texts = inference.embed_states(prepared.class_name, states)  # (1 + names, dim)
    named: list[dict[str, Any]] = []
    for start in range(0, min(len(regions), MAX_NAMED), _CROPS_AT_ONCE):
        part = regions[start : min(start + _CROPS_AT_ONCE, MAX_NAMED)]
        crops = [photograph.crop(_frame(region["box"], photograph.size)) for region in part]
        pixels = inference.processor(images=crops, return_sam_inputs=False, return_tensors="pt")["pixel_values"]
        pixels = pixels.to(model.device, model.clip.dtype)
        pooled = model.clip.vision_model(pixel_values=pixels, interpolate_pos_encoding=True).pooler_output
        embeds = F.normalize(model.clip.visual_projection(pooled).float(), dim=-1)  # (regions, dim)
        logits = model.clip.logit_scale.exp().float() * embeds @ texts.T  # (regions, 1 + names)
        named += [{**region, **_choose(row, defect_names)} for region, row in zip(part, logits.cpu(), strict=True)]
    nothing = dict.fromkeys(("defect_name", "defect_score", "defect_is_guess"))
    return [*named, *({**region, **nothing} for region in regions[MAX_NAMED:])]


def _choose(logits: Tensor, names: Sequence[str]) -> dict[str, Any]:
    """The best name of a region; `logits` are those of the general word and of the names."""
    general, of_names = logits[0], logits[1:]
    best = int(of_names.argmax())
    others = torch.cat([of_names[:best], of_names[best + 1 :]])
    is_guess = bool(of_names[best] <= general) or bool((of_names[best] < others + log(_ODDS)).any())
    return {
        "defect_name": names[best],
        "defect_score": float(of_names.softmax(dim=0)[best]),
        "defect_is_guess": is_guess,
    }


def _frame(box: dict[str, int], size: tuple[int, int]) -> tuple[int, int, int, int]:
    """The square round a box, inside a photograph of this (width, height) as far as that is possible."""
    side = max(_CONTEXT * max(box["xmax"] - box["xmin"], box["ymax"] - box["ymin"]), _LEAST_SHARE * min(size))
    edges = []
    for axis, limit in (("x", size[0]), ("y", size[1])):
        length = min(limit, max(round(side), _LEAST_SIDE))
        middle = (box[f"{axis}min"] + box[f"{axis}max"]) / 2
        low = min(max(round(middle - length / 2), 0), limit - length)
        edges.append((low, low + length))
    (left, right), (top, bottom) = edges
    return left, top, right, bottom


__all__ = ["MAX_NAMED", "check_defect_names", "name_regions"]
