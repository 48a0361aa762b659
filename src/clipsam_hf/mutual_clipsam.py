# SPDX-FileCopyrightText: 2026 The clipsam_hf authors
# SPDX-License-Identifier: Apache-2.0
"""Mutual scoring: the photographs of a folder are each other's references (MuSc), so no good one need be known.

What most photographs share is normal, what few of the others have is not. Zero-shot in the strict sense, but
transductive: a photograph's map depends on the others, and where most of them have the same defect it is normal.
Each photograph is compared with the same few others, drawn once, so the cost grows with the number of photographs and
the memory does not.
"""

import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save
from scipy.cluster import hierarchy
from torch import Tensor
from transformers.utils import logging

from .patches_clipsam import (
    Scale,
    average_neighbourhoods,
    check_fingerprint,
    describe_photographs,
    find_nearest,
    fingerprint_encoder,
    measure_scale,
    mix_maps,
)


logger = logging.get_logger(__name__)

_SETTINGS_NAME = "mutual.json"

MIXTURE_COUNT = 6
"""Of fewer photographs nothing can be said about groups."""

# Of the others' averaged neighbourhoods so much is kept, at full size those of 64; what is beyond is averaged anew
_KEPT_BYTES = 2**31

# Two groups of photographs this far apart are two products
_MIXED_SILHOUETTE = 0.6


def draw_others(count: int, num_others: int, *, seed: int = 0) -> list[int]:
    """Draws the photographs that all are compared with.

    Args:
        count (`int`): Number of photographs, at least 2.
        num_others (`int`): With so many each is compared; one more is drawn, since none is compared with itself.
        seed (`int`): Of the draw.

    Returns:
        `list[int]`: Their places in rising order, one from each of equal parts of the list.

    Raises:
        ValueError: If there are fewer than two photographs.

    Example:
        >>> draw_others(9, 2)
        [1, 3, 6]
    """
    _check_count(count)
    parts = min(count, num_others + 1)
    within = np.random.default_rng(seed).random(parts)
    edges = [part * count // parts for part in range(parts + 1)]  # whole numbers: no photograph is in two parts
    return [edges[part] + int(share * (edges[part + 1] - edges[part])) for part, share in enumerate(within)]


def _check_count(count: int) -> None:
    if count < 2:
        raise ValueError(
            f"Mutual scoring compares photographs with each other and needs at least two of them, got {count}; for one"
            " photograph, give good photographs of the same product as references."
        )


class MutualReferences:
    """The photographs that all photographs of a folder are compared with.

    Their descriptions lie on the disk, one file each, so that several processes can make them together, and an
    interrupted run need not make them again.

    Args:
        places (`Sequence[int]`): Which photographs they are, see `draw_others`.
        folder (`str` or `os.PathLike`): Where the descriptions are.
        fingerprint (`Mapping[str, Any]`): What made them, see `fingerprint_encoder`.
        fraction (`float`): Share of the others, those most alike, whose distances are averaged; in (0, 1].
        text_weight (`float`): Share of the localizer's own map, in [0, 1].
        region_threshold (`float`): Threshold on the mixed map, in [0, 1]. Nobody says which photographs are good, so
            it is the mixture of those of both maps: 0.5, `deviations` above the usual, and `binarize_threshold`.
        scale ([`Scale`]): What distances are usual among them.

    Example:
        >>> import tempfile
        >>> from clipsam_hf import ClipSamForAnomalySegmentation, ClipSamProcessor
        >>> from clipsam_hf.inference_clipsam import ClipSamInference
        >>> model = ClipSamForAnomalySegmentation.from_pretrained(folder)
        >>> inference = ClipSamInference(model, ClipSamProcessor.from_pretrained(folder))
        >>> prepared = [inference.prepare(photograph, refine=False, place=place) for place in range(3)]
        >>> mutual = MutualReferences.from_images(inference, prepared.__getitem__, 3, tempfile.mkdtemp())
        >>> len(inference.predict(prepared, mutual))
        3
    """

    decision_threshold: float | None = None
    roi_mask: Tensor | None = None
    tile: str | int | None = None

    def __init__(
        self,
        places: Sequence[int],
        folder: str | os.PathLike[str],
        fingerprint: Mapping[str, Any],
        fraction: float,
        text_weight: float,
        region_threshold: float,
        scale: Scale,
    ) -> None:
        self.places, self.folder = list(places), Path(folder)
        self.fingerprint, self.scale = dict(fingerprint), scale
        self.fraction, self.text_weight, self.region_threshold = fraction, text_weight, region_threshold
        self._loaded: dict[int, list[Tensor]] = {}
        self._averaged: dict[int, list[Tensor]] = {}
        self._averaged_bytes = 0

    def __len__(self) -> int:
        """Number of photographs that all are compared with."""
        return len(self.places)

    @classmethod
    def from_images(
        cls,
        inference: Any,
        prepare: Callable[[int], Any],
        count: int,
        folder: str | os.PathLike[str],
        *,
        seed: int = 0,
        rank: int = 0,
        num_processes: int = 1,
        wait: Callable[[], None] = lambda: None,
        skip_unreadable: bool = False,
    ) -> "MutualReferences":
        """Draws the photographs to compare with and describes those that are not described yet.

        Args:
            inference ([`ClipSamInference`]): The model.
            prepare (`Callable[[int], PreparedImage]`): Reads and prepares the photograph at a place.
            count (`int`): Number of photographs.
            folder (`str` or `os.PathLike`): For the descriptions; all processes must see it. Those of another model,
                other settings or another draw stand apart in it.
            seed (`int`, defaults to 0): Of the draw.
            rank (`int`, defaults to 0): This process among those that describe a share each.
            num_processes (`int`, defaults to 1): Their number.
            wait (`Callable`): Returns when all processes have called it.
            skip_unreadable (`bool`, defaults to `False`): Whether a photograph that was drawn and cannot be read is
                left out with a warning, in place of an error.

        Returns:
            [`MutualReferences`]: The same in all processes.

        Raises:
            ValueError: If there are fewer than two photographs.
            OSError: If the folder cannot be written to, or a photograph cannot be read.
        """
        model, config = inference.model, inference.model.config
        places = draw_others(count, config.mutual_others, seed=seed)
        fingerprint = fingerprint_encoder(model, inference.processor)
        drawn = json.dumps([places, config.mutual_fraction, fingerprint])
        folder = Path(folder) / hashlib.sha256(drawn.encode()).hexdigest()[:16]
        for place in places[rank::num_processes]:
            if _path_of(folder, place).exists():
                continue
            try:
                pixel_values = prepare(place).inputs["pixel_values"].to(model.device)
            except (OSError, TypeError, ValueError) as error:
                if not skip_unreadable:
                    raise
                logger.warning(f"Photograph number {place + 1} cannot be read, so none is compared with it: {error}")
                continue
            patches, _ = describe_photographs(model, pixel_values)
            _save(_path_of(folder, place), {str(index): each.half() for index, each in enumerate(patches)})
        wait()
        if skip_unreadable:
            places = [place for place in places if _path_of(folder, place).exists()]
            _check_count(len(places))
        text_weight = config.mutual_text_weight
        thresholds = torch.tensor(0.5), torch.tensor(float(config.binarize_threshold))
        threshold = float(mix_maps(*thresholds, text_weight))
        mutual = cls(places, folder, fingerprint, config.mutual_fraction, text_weight, threshold, Scale(0.0, 1.0))
        if rank == 0 and not (folder / _SETTINGS_NAME).exists():
            mutual._measure_scale(model.device)
            _write(folder / _SETTINGS_NAME, json.dumps(mutual.scale._asdict()).encode())
        wait()
        mutual.scale = Scale(**json.loads((folder / _SETTINGS_NAME).read_text(encoding="utf-8")))
        if rank == 0 and (groups := find_mixture([mutual._mean_at(place, model.device) for place in places])):
            names = [f"number {place + 1}" for place in places]
            logger.warning(f"{explain_mixture(groups, names)} Compare those of each product with each other.")
        mutual.forget()  # other categories are prepared before this one is scored
        return mutual

    def forget(self) -> None:
        """Leaves the descriptions to the disk; they are read again when they are needed."""
        self._loaded.clear()
        self._averaged.clear()
        self._averaged_bytes = 0

    def _measure_scale(self, device: torch.device) -> None:
        """What distances are usual: of those that all are compared with, among themselves."""
        described = ([each.float() for each in self._at(place, device)] for place in self.places)
        measured = [self._distances(patches, place) for patches, place in zip(described, self.places, strict=True)]
        self.scale = measure_scale([each.cpu().numpy() for each in measured])

    def _at(self, place: int, device: torch.device) -> list[Tensor]:
        """Per block (views, hidden_size, height, width), in half precision."""
        if place not in self._loaded:
            tensors = load_file(_path_of(self.folder, place))
            self._loaded[place] = [tensors[str(index)].to(device) for index in range(len(tensors))]
        return self._loaded[place]

    def _mean_at(self, place: int, device: torch.device) -> np.ndarray:
        """(hidden_size,): the mean patch of the last block."""
        mean: np.ndarray = self._at(place, device)[-1].float().mean(dim=(0, 2, 3)).cpu().numpy()
        return mean

    def _tokens_at(self, place: int, device: torch.device) -> list[Tensor]:
        """Per block each neighbourhood (views * height * width, hidden_size), L2-normalised, in half precision."""
        if place in self._averaged:
            return self._averaged[place]
        maps = [each.float() for each in self._at(place, device)]
        sides = self.fingerprint["reference_neighbourhoods"]
        tokens = [each.flatten(0, 1).half() for each in average_neighbourhoods(maps, sides)]
        size = sum(each.nbytes for each in tokens)
        if self._averaged_bytes + size <= _KEPT_BYTES:
            self._averaged[place] = tokens
            self._averaged_bytes += size
        return tokens

    def _distances(self, patches: Sequence[Tensor], place: int | None) -> Tensor:
        """(height, width): of a photograph to the others, its own description left out."""
        others = [other for other in self.places if other != place][: max(1, len(self.places) - 1)]
        count = max(1, round(self.fraction * len(others)))
        averaged = average_neighbourhoods(patches, self.fingerprint["reference_neighbourhoods"])
        own = [each.flatten(0, 1) for each in averaged]
        # One of the others at a time: the memory of a search does not grow with their number
        entries = (self._tokens_at(other, patches[0].device) for other in others)
        nearest = torch.stack([torch.stack(list(map(find_nearest, own, each))) for each in entries])
        lowest = nearest.topk(count, dim=0, largest=False).values  # (count, blocks * neighbourhoods, views * tokens)
        return lowest.mean(dim=(0, 1)).unflatten(0, (-1, *patches[0].shape[-2:])).mean(dim=0)

    def compare(
        self, patches: Sequence[Tensor], size: Sequence[int], places: Sequence[int | None] | None = None
    ) -> Tensor:
        """Makes the maps of photographs.

        Args:
            patches (`Sequence[torch.Tensor]` of shape `(batch_size, hidden_size, height, width)`): One per block, see
                `describe_photographs`.
            size (`Sequence[int]`): (height, width) of the maps.
            places (`Sequence[int]`, *optional*): Of the photographs; none is compared with itself.

        Returns:
            `torch.Tensor` of shape `(batch_size, *size)`: float32 in [0, 1].
        """
        views = 2 if self.fingerprint["flip_average"] else 1
        places = [None] * (len(patches[0]) // views) if places is None else places
        # The views of a photograph lie as far apart as there are photographs
        distances = [
            self._distances([each[index :: len(places)] for each in patches], place)
            for index, place in enumerate(places)
        ]
        return self.scale.to_map(torch.stack(distances), size, self.fingerprint["reference_deviations"])

    def check(self, model: Any, processor: Any) -> None:
        """Raises if these were described by another model; see `check_fingerprint`."""
        check_fingerprint(self.fingerprint, fingerprint_encoder(model, processor))

    def check_photograph(self, size: Sequence[int], class_name: str) -> None:
        """Not used: the photographs of a folder may have any size and name."""


def find_mixture(descriptions: Sequence[np.ndarray]) -> list[int] | None:
    """Tells whether photographs fall into two products.

    Args:
        descriptions (`Sequence[np.ndarray]` of shape `(channels,)`): Of each photograph the mean of its patches.

    Returns:
        `list[int]`, *optional*: 0 or 1 for each photograph if they fall into two groups that are far apart: the mean
        silhouette by cosines of Ward's clustering is above 0.6. One or two odd photographs make no group.
    """
    if len(descriptions) < MIXTURE_COUNT:
        return None
    vectors = np.stack(descriptions)
    vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    distances = np.clip(1 - vectors @ vectors.T, 0, None)
    np.fill_diagonal(distances, 0)
    # Average linkage would split off the oddest photograph, which is then in the way of two real groups
    groups = hierarchy.fcluster(hierarchy.ward(vectors), 2, "maxclust") - 1
    if min(np.bincount(groups, minlength=2)) < MIXTURE_COUNT // 2:
        return None  # a few odd ones are no product
    inside = np.array(
        [distances[index, groups == group].sum() / ((groups == group).sum() - 1) for index, group in enumerate(groups)]
    )
    outside = np.array([distances[index, groups != group].mean() for index, group in enumerate(groups)])
    silhouette = ((outside - inside) / np.maximum(np.maximum(inside, outside), 1e-12)).mean()
    return [int(group) for group in groups] if silhouette > _MIXED_SILHOUETTE else None


def explain_mixture(groups: Sequence[int], names: Sequence[str]) -> str:
    """Says that photographs fall into two groups.

    Args:
        groups (`Sequence[int]`): 0 or 1 for each, see `find_mixture`.
        names (`Sequence[str]`): Of the photographs.

    Returns:
        `str`: One sentence.

    Example:
        >>> explain_mixture([0, 1, 0, 0, 1], ["a", "b", "c", "d", "e"])
        'Of 5 photographs 3, such as a, look like one product and 2, such as b, like another.'
    """
    first, second = ([name for name, group in zip(names, groups, strict=True) if group == each] for each in (0, 1))
    return (
        f"Of {len(names)} photographs {len(first)}, such as {first[0]}, look like one product and {len(second)}, such"
        f" as {second[0]}, like another."
    )


def _path_of(folder: Path, place: int) -> Path:
    return folder / f"{place:08d}.safetensors"


def _save(path: Path, tensors: Mapping[str, Tensor]) -> None:
    _write(path, save({name: tensor.cpu().contiguous() for name, tensor in tensors.items()}))


def _write(path: Path, content: bytes) -> None:
    """Writes beside the place and moves there, so that whatever has its name is complete."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    unfinished.write_bytes(content)
    os.replace(unfinished, path)


__all__ = ["MIXTURE_COUNT", "MutualReferences", "draw_others", "explain_mixture", "find_mixture"]
