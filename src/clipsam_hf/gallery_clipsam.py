# SPDX-FileCopyrightText: 2026 The clipsam_hf authors
# SPDX-License-Identifier: Apache-2.0
"""How references are made: photographs are described, a memory is filled, and each is compared with the others."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from transformers.utils import logging

from .image_loading import find_photographs
from .inference_clipsam import ClipSamInference
from .mutual_clipsam import explain_mixture, find_mixture
from .patches_clipsam import (
    average_neighbourhoods,
    choose_coreset,
    describe_photographs,
    find_outliers,
    measure_scale,
    mix_maps,
    read_roi,
    resize_roi,
    score_compared,
    to_grid,
)


logger = logging.get_logger(__name__)

# What is kept of photographs between the two looks at them; beyond it they are looked at twice
_KEPT_BYTES = 2**30


def check_quantile(quantile: float) -> None:
    """Raises ValueError if a quantile does not lie in (0, 1]."""
    if not 0 < quantile <= 1:
        raise ValueError(f"`quantile` must lie in (0, 1], got {quantile}.")


def list_sources(images: Any, what: str) -> list[Any]:
    """Lists photographs.

    Args:
        images (`str`, `os.PathLike` or `Sequence`): A folder, or a list of what `load_rgb` reads.
        what (`str`): How messages call them.

    Returns:
        `list`: At least one.

    Raises:
        TypeError, ValueError: If there is none, or it is neither.
    """
    if isinstance(images, (str, os.PathLike)):
        return find_photographs(images)
    if not isinstance(images, (list, tuple)):
        raise TypeError(f"`{what}` must be a folder or a list of photographs, got {type(images).__name__}.")
    if not images:
        raise ValueError(f"`{what}` is an empty list: at least one photograph is needed.")
    return list(images)


class Look(NamedTuple):
    """What is remembered of a photograph until all have been compared."""

    patches: list[Tensor]
    text_map: Tensor | None


class Gallery:
    """The photographs of which references are made; each is described once, as far as the memory allows."""

    def __init__(
        self,
        model: Any,
        processor: Any,
        sources: list[Any],
        class_name: str,
        timeout: float | None,
        defect_masks: Sequence[Any] | None = None,
    ) -> None:
        self.inference, self.sources = ClipSamInference(model, processor), sources
        self.class_name, self.timeout = class_name, timeout
        # A defect shows in the tokens around it too, and in the map between them
        side, reach = model.config.image_size, model.config.clip_config.vision_config.patch_size
        self.defects = [
            None if mask is None else _dilate(read_roi(mask, side, timeout), reach)
            for mask in defect_masks or [None] * len(sources)
        ]
        self.sizes: dict[int, tuple[int, int]] = {}
        self.means: dict[int, np.ndarray] = {}  # of each photograph the mean patch of the last block
        self._kept: dict[int, Look] = {}
        self._kept_bytes = 0

    @property
    def names(self) -> list[str]:
        """Of files without their folders, of others their numbers."""
        return [
            os.path.basename(os.fspath(source)) if isinstance(source, (str, os.PathLike)) else f"photograph {number}"
            for number, source in enumerate(self.sources, start=1)
        ]

    def find_good(self, index: int, roi: Tensor | None, grid: Sequence[int]) -> Tensor:
        """(height, width) of the grid: the tokens inside the region of interest that show no defect."""
        inside = torch.ones(tuple(grid), dtype=torch.bool) if roi is None else to_grid(roi, grid)
        if not inside.any():
            raise ValueError("The region of interest of the references is empty: no patch lies inside.")
        defect = self.defects[index]
        good = inside if defect is None else inside & (resize_roi(defect, grid) == 0)
        if not good.any():
            raise ValueError(f"{self.names[index]!r} is marked as defective everywhere: nothing of it is a reference.")
        return good

    def find_groups(self) -> list[int] | None:
        """0 or 1 for each photograph if they look like two products, which is warned of."""
        groups = find_mixture([self.means[index] for index in range(len(self.sources))])
        if groups is not None:
            told = explain_mixture(groups, list(map(repr, self.names)))
            logger.warning(f"{told} References are of one product each.")
        return groups

    def pixels(self, index: int) -> Tensor:
        """(1, 3, height, width): a photograph as CLIP sees it."""
        prepared = self.inference.prepare(self.sources[index], self.class_name, refine=False, timeout=self.timeout)
        self.sizes[index] = prepared.size
        return prepared.inputs["pixel_values"]

    def describe(self, pixel_values: Tensor) -> Look:
        """Runs CLIP on a photograph."""
        model = self.inference.model
        text_embeds = self.inference.embed(self.class_name) if model.config.reference_text_weight > 0 else None
        return Look(*describe_photographs(model, pixel_values.to(model.device), text_embeds))

    def at(self, index: int) -> Look:
        """The description of a photograph, again if it could not be kept."""
        if index in self._kept:
            return self._kept[index]
        look = self.describe(self.pixels(index))
        self.means[index] = look.patches[-1].mean(dim=(0, 2, 3)).cpu().numpy()
        size = sum(each.nbytes for each in look.patches)
        if self._kept_bytes + size <= _KEPT_BYTES:
            self._kept[index] = look
            self._kept_bytes += size
        return look


def fill_memory(
    gallery: Gallery, roi: Tensor | None, rotations: bool, max_patches: int, seed: int, progress: Any
) -> tuple[list[Tensor], Tensor]:
    """The patches of all photographs, those that a coreset keeps, and from which photograph each is."""
    count = len(gallery.sources)
    sides = gallery.inference.model.config.reference_neighbourhoods
    views = (0, 1, 2, 3) if rotations else (0,)
    # Twice as many candidates as are kept, of each photograph as many: the memory does not grow with their number
    share = -(-2 * max_patches // (count * len(views)))
    generator = torch.Generator().manual_seed(seed)
    columns: list[list[Tensor]] = []
    photographs = []
    for index in range(count):
        for turns in views:
            look = gallery.at(index) if turns == 0 else gallery.describe(gallery.pixels(index).rot90(turns, (-2, -1)))
            tokens = [each[0] for each in average_neighbourhoods(look.patches, sides)]  # (height * width, hidden)
            good = gallery.find_good(index, roi, look.patches[0].shape[-2:])
            places = good.rot90(turns).flatten().nonzero().flatten()
            if len(places) > share:
                places = places[torch.randperm(len(places), generator=generator)[:share].sort().values]
            columns.append([each[places.to(each.device)].half().cpu() for each in tokens])
            photographs.append(torch.full((len(places),), index, dtype=torch.int32))
        progress.update()
    entries = [torch.cat(column) for column in zip(*columns, strict=True)]
    owners = torch.cat(photographs)
    if len(owners) > max_patches:
        chosen = choose_coreset(entries[-1], max_patches, seed=seed)
        entries, owners = [each[chosen] for each in entries], owners[chosen]
    if count > 1 and bool((owners == owners[0]).all()):
        raise ValueError(
            f"`max_patches` {max_patches} is too few for {count} photographs: it holds patches of one only."
        )
    return entries, owners


def judge_references(references: Any, gallery: Gallery, quantile: float, progress: Any) -> Any:
    """Compares each photograph with the others: what distances are usual, what scores good photographs have."""
    is_single = len(references) == 1
    distances, text_maps = [], []
    for index, look in enumerate(_views(gallery) if is_single else map(gallery.at, range(len(references)))):
        distances.append(references.without(None if is_single else index).measure(look.patches))
        text_maps.append(look.text_map)
        progress.update()
    grid = distances[0].shape[-2:]
    good = [gallery.find_good(0 if is_single else index, references.roi_mask, grid) for index in range(len(distances))]
    inside = [each[0].cpu()[counted].numpy() for each, counted in zip(distances, good, strict=True)]
    references.settings = replace(references.settings, **measure_scale(inside)._asdict())

    # Scores as a photograph of the line will get them
    model = gallery.inference.model
    side = model.config.image_size
    maps = (
        references.keep_inside(mix_maps(references.to_map(measured, (side, side)), text_map, references.text_weight))
        for measured, text_map in zip(distances, text_maps, strict=True)
    )
    scores = []
    for index, each in enumerate(maps):
        defect = None if is_single else gallery.defects[index]
        scores.append(
            float(score_compared(model, each if defect is None else each.masked_fill(defect.to(each.device), 0)))
        )
    if is_single:
        return replace(references.settings, scores=scores)

    outliers = find_outliers(inside)
    usual = [score for index, score in enumerate(scores) if index not in outliers]
    threshold = float(np.quantile(usual, quantile, method="higher"))
    for index in outliers:
        logger.warning(
            f"{gallery.names[index]!r} stands out among the references (score {scores[index]:.2f}, the others at most"
            f" {max(usual):.2f}): see whether it is a good one. It does not count for the threshold, but what it"
            " shows is held to be good."
        )
    return replace(
        references.settings,
        scores=scores,
        outliers=outliers,
        decision_threshold=threshold,
        expected_false_alarms=(1 + sum(score > threshold for score in usual)) / (1 + len(usual)),
    )


def _dilate(mask: Tensor, reach: int) -> Tensor:
    dilated = torch.nn.functional.max_pool2d(mask[None].float(), 2 * reach + 1, stride=1, padding=reach)
    return dilated[0] > 0


def _views(gallery: Gallery) -> Iterator[Look]:
    """Of a single photograph, its mirror image and itself moved by half a patch: a rough idea of usual distances."""
    pixels = gallery.pixels(0)
    step = gallery.inference.model.config.clip_config.vision_config.patch_size // 2
    moved = torch.nn.functional.pad(pixels, (step, 0, step, 0), mode="replicate")[..., :-step, :-step]
    for view in (pixels.flip(-1), moved):
        yield gallery.describe(view)


__all__ = ["Gallery", "Look", "check_quantile", "fill_memory", "judge_references", "list_sources"]
