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
from .inference_clipsam import ClipSamInference, PreparedImage
from .mutual_clipsam import explain_mixture, find_mixture
from .patches_clipsam import (
    average_neighbourhoods,
    choose_coreset,
    crop_roi,
    describe_photographs,
    find_outliers,
    measure_scale,
    mix_maps,
    read_roi,
    resize_roi,
    score_compared,
    to_grid,
)
from .tiling_clipsam import Box


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
    """What is remembered of a photograph, or of a tile of it, until all have been compared."""

    box: Box
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
        tile: str | int | None = None,
    ) -> None:
        self.inference, self.sources = ClipSamInference(model, processor), sources
        self.class_name, self.timeout, self.tile = class_name, timeout, tile
        self.defects = [
            None if mask is None else read_roi(mask, timeout) for mask in defect_masks or [None] * len(sources)
        ]
        self.sizes: dict[int, tuple[int, int]] = {}
        self.means: dict[int, np.ndarray] = {}  # of each photograph the mean patch of the last block
        self._kept: dict[int, list[Look]] = {}
        self._kept_bytes = 0

    @property
    def names(self) -> list[str]:
        """Of files without their folders, of others their numbers."""
        return [
            os.path.basename(os.fspath(source)) if isinstance(source, (str, os.PathLike)) else f"photograph {number}"
            for number, source in enumerate(self.sources, start=1)
        ]

    def crop_defect(self, index: int, box: Box) -> Tensor | None:
        """(side, side) of CLIP's frame: where a photograph or a tile of it is, or may look, defective."""
        defect = self.defects[index]
        if defect is None:
            return None
        # A defect shows in the tokens around it too, and in the map between them
        config = self.inference.model.config
        cropped = crop_roi(defect, (config.image_size, config.image_size), box)
        return _dilate(cropped, config.clip_config.vision_config.patch_size)

    def find_inside(self, box: Box, roi: Tensor | None, grid: Sequence[int]) -> Tensor:
        """(height, width) of the grid: the tokens of a photograph or a tile inside the region of interest."""
        if roi is None:
            return torch.ones(tuple(grid), dtype=torch.bool)
        side = self.inference.model.config.image_size
        return to_grid(crop_roi(roi, (side, side), box), grid)

    def find_good(self, index: int, box: Box, roi: Tensor | None, grid: Sequence[int]) -> Tensor:
        """(height, width) of the grid: the tokens inside the region of interest that show no defect."""
        inside, defect = self.find_inside(box, roi, grid), self.crop_defect(index, box)
        return inside if defect is None else inside & (resize_roi(defect, grid) == 0)

    def check_good(self, index: int, boxes: Sequence[Box], roi: Tensor | None, grid: Sequence[int]) -> None:
        """Raises if nothing of a photograph can be a reference."""
        if not any(self.find_inside(box, roi, grid).any() for box in boxes):
            raise ValueError("The region of interest of the references is empty: no patch lies inside.")
        if not any(self.find_good(index, box, roi, grid).any() for box in boxes):
            raise ValueError(f"{self.names[index]!r} is marked as defective everywhere: nothing of it is a reference.")

    def find_groups(self) -> list[int] | None:
        """0 or 1 for each photograph if they look like two products, which is warned of."""
        groups = find_mixture([self.means[index] for index in range(len(self.sources))])
        if groups is not None:
            told = explain_mixture(groups, list(map(repr, self.names)))
            logger.warning(f"{told} References are of one product each.")
        return groups

    def parts(self, index: int) -> Iterator[PreparedImage]:
        """A photograph as CLIP sees it, and then its tiles, if it is cut."""
        inference = self.inference
        prepared = inference.prepare(
            self.sources[index], self.class_name, refine=False, timeout=self.timeout, tile=self.tile
        )
        self.sizes[index] = prepared.size
        yield prepared
        for tile in prepared.tiles:
            yield inference.prepare.cut(prepared, tile)

    def describe(self, part: PreparedImage, turns: int = 0) -> Look:
        """Runs CLIP on a photograph or a tile, turned by so many right angles."""
        return self.describe_pixels(part.box, part.inputs["pixel_values"].rot90(turns, (-2, -1)))

    def describe_pixels(self, box: Box, pixel_values: Tensor) -> Look:
        """Runs CLIP on (1, 3, height, width)."""
        model = self.inference.model
        text_embeds = self.inference.embed(self.class_name) if model.config.reference_text_weight > 0 else None
        return Look(box, *describe_photographs(model, pixel_values.to(model.device), text_embeds))

    def at(self, index: int) -> list[Look]:
        """The descriptions of a photograph and its tiles, again if they could not be kept."""
        if index in self._kept:
            return self._kept[index]
        looks = [self.describe(part) for part in self.parts(index)]
        self.means[index] = looks[0].patches[-1].mean(dim=(0, 2, 3)).cpu().numpy()
        size = sum(each.nbytes for look in looks for each in look.patches)
        if self._kept_bytes + size <= _KEPT_BYTES:
            self._kept[index] = looks
            self._kept_bytes += size
        return looks


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
        looks = gallery.at(index)
        gallery.check_good(index, [look.box for look in looks], roi, looks[0].patches[0].shape[-2:])
        for turns in views:
            looks = (
                gallery.at(index) if turns == 0 else [gallery.describe(each, turns) for each in gallery.parts(index)]
            )
            for look in looks:
                # Of the photograph, and of its mirror image if that is looked at: (views * height * width, hidden)
                tokens = [each.flatten(0, 1) for each in average_neighbourhoods(look.patches, sides)]
                good = gallery.find_good(index, look.box, roi, look.patches[0].shape[-2:])
                places = good.rot90(turns).flatten().repeat(len(look.patches[0])).nonzero().flatten()
                if len(places) > (most := -(-share // len(looks))):
                    places = places[torch.randperm(len(places), generator=generator)[:most].sort().values]
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
    views = _views(gallery) if is_single else map(gallery.at, range(len(references)))
    measured: list[list[tuple[Box, Tensor, Tensor | None]]] = []  # of each view its parts' distances and texts' maps
    for index, looks in enumerate(views):
        others = references.without(None if is_single else index)
        measured.append([(look.box, others.measure(look.patches), look.text_map) for look in looks])
        progress.update()
    inside = []
    for index, parts in enumerate(measured):
        good = [
            (gallery.find_good(0 if is_single else index, box, references.roi_mask, distances.shape[-2:]), distances)
            for box, distances, _ in parts
        ]
        inside.append(np.concatenate([distances[0].cpu()[counted].numpy() for counted, distances in good]))
    references.settings = replace(references.settings, **measure_scale(inside)._asdict())

    # Scores as a photograph of the line will get them: its parts' highest
    scores = [
        max(_score_part(references, gallery, None if is_single else index, *part) for part in parts)
        for index, parts in enumerate(measured)
    ]
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


def _score_part(
    references: Any, gallery: Gallery, index: int | None, box: Box, distances: Tensor, text_map: Tensor | None
) -> float:
    """The score of a photograph or a tile of it, its defects left out."""
    model = gallery.inference.model
    side = model.config.image_size
    rough = mix_maps(references.to_map(distances, (side, side)), text_map, references.text_weight)
    if references.roi_mask is not None:
        rough = rough * crop_roi(references.roi_mask, (side, side), box).to(rough)
    defect = None if index is None else gallery.crop_defect(index, box)
    if defect is not None:
        rough = rough.masked_fill(defect.to(rough.device), 0)
    return float(score_compared(model, rough))


def _dilate(mask: Tensor, reach: int) -> Tensor:
    dilated = torch.nn.functional.max_pool2d(mask[None].float(), 2 * reach + 1, stride=1, padding=reach)
    return dilated[0] > 0


def _views(gallery: Gallery) -> Iterator[list[Look]]:
    """Of a single photograph, its mirror image and itself moved by half a patch: a rough idea of usual distances.

    It stands on its head in that image where the memory holds the other one.
    """
    config = gallery.inference.model.config
    step, axis = config.clip_config.vision_config.patch_size // 2, -2 if config.flip_average else -1
    parts = list(gallery.parts(0))
    yield [gallery.describe_pixels(part.box, part.inputs["pixel_values"].flip(axis)) for part in parts]
    moved = (
        torch.nn.functional.pad(part.inputs["pixel_values"], (step, 0, step, 0), mode="replicate") for part in parts
    )
    yield [
        gallery.describe_pixels(part.box, pixels[..., :-step, :-step])
        for part, pixels in zip(parts, moved, strict=True)
    ]


__all__ = ["Gallery", "Look", "check_quantile", "fill_memory", "judge_references", "list_sources"]
