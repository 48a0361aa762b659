# SPDX-FileCopyrightText: 2026 The clipsam_hf authors
# SPDX-License-Identifier: Apache-2.0
"""CLIP's stages of the training views on the disk, computed once: the frozen part of every training step.

The views lie in shards of bfloat16 tensors that are mapped into memory, so a step reads the views that it needs and no
more. A shard holds in its header what it was made of and a checksum; it is written beside its place and then moved
there. So an interrupted build goes on where it stopped, and what is damaged or out of date is found and made anew.
"""

import errno
import json
import os
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm  # type: ignore[import-untyped]
from transformers.utils import logging

from ..files import digest_json, digest_tensors, fingerprint, open_atomically
from ..modeling_clipsam import ClipSamForAnomalySegmentation
from .views import TrainingImages


__all__ = ["FeatureCache"]

logger = logging.get_logger(__name__)

INDEX_NAME = "index.json"
FORMAT = 1
SHARD_BYTES = 2**27
"""About the size of a shard, and the most work that an interruption loses for each process."""

# What CLIP's vision tower does beside its weights; names and values of the Hub's configurations
_VISION_SETTINGS = ("hidden_act", "layer_norm_eps", "num_attention_heads", "patch_size")


class FeatureCache:
    """CLIP's stages of training views, read from the disk without computing anything.

    `FeatureCache.build` makes a cache, or checks and completes one; `FeatureCache(folder)` opens a complete one.
    A worker process maps the files again; the memory behind them is shared.

    Args:
        folder (`str` or `os.PathLike`): that of a complete cache.

    Attributes:
        num_images (`int`): number of images.
        num_views (`int`): number of views of each image.
        model_key (`dict[str, Any]`): the CLIP and the settings that the features are of.

    Raises:
        FileNotFoundError: if the folder holds no cache.
        ValueError: if its index is of another format.

    Example:
        ```python
        cache = FeatureCache.build("features", model, TrainingImages(data, processor, num_views=4))
        feature_maps = cache[17, 3]  # per stage (hidden_size, height, width), bfloat16
        ```
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = Path(folder)
        try:
            index = json.loads((self.folder / INDEX_NAME).read_text(encoding="utf-8"))
        except FileNotFoundError as error:
            raise FileNotFoundError(f"'{self.folder}' holds no cached features: it has no {INDEX_NAME}.") from error
        except json.JSONDecodeError as error:
            raise ValueError(f"The index of the cached features in '{self.folder}' is damaged: build it.") from error
        if index.get("format") != FORMAT:
            raise ValueError(f"'{self.folder}' holds features of format {index.get('format')}; known is {FORMAT}.")
        self.model_key: dict[str, Any] = index["model"]
        self.num_views: int = len(index["views"])
        self.num_images: int = len(index["views"][0])
        self._shards = {shard.path: shard for shard in _cut(self.folder, index)}
        self._images_per_shard: int = index["images_per_shard"]
        self._opened: dict[Path, Any] = {}

    def __len__(self) -> int:
        return self.num_images

    def __getitem__(self, place: tuple[int, int]) -> tuple[Tensor, ...]:
        """Reads one view.

        Args:
            place (`tuple[int, int]`): number of the image and of the view.

        Returns:
            `tuple` of `torch.Tensor` of shape `(hidden_size, height, width)`: one per stage, bfloat16; they lie in the
            mapped file, so copy them before changing them.

        Raises:
            IndexError: if there is no such image or view.
            FileNotFoundError: if the shard was never completed.
            ValueError: if another build has replaced the shard since.
        """
        index, view = place
        if not (0 <= index < self.num_images and 0 <= view < self.num_views):
            raise IndexError(
                f"There is no view {view} of image {index} among {self.num_views} views of {self.num_images} images."
            )
        path = _name_shard(self.folder, view, index // self._images_per_shard)
        return self._open(path).get_tensor(str(index)).unbind(0)  # (num_stages, hidden, height, width)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_opened": {}}

    @classmethod
    def build(
        cls,
        folder: str | os.PathLike[str],
        model: ClipSamForAnomalySegmentation,
        images: TrainingImages,
        *,
        batch_size: int = 8,
        num_views: int | None = None,
        num_workers: int = 0,
        accelerator: Any = None,
        shard_bytes: int = SHARD_BYTES,
    ) -> "FeatureCache":
        """Computes what is not there yet, and opens the cache.

        Shards that are complete are kept; their checksums are compared, which reads all of them once. The bytes that
        are needed are logged and compared with the free disk before anything is written.

        Args:
            folder (`str` or `os.PathLike`): of the cache; all processes must see it.
            model ([`ClipSamForAnomalySegmentation`]): with frozen backbones, on its device, not wrapped.
            images ([`TrainingImages`]): the views.
            batch_size (`int`, *optional*, defaults to 8): images per forward pass.
            num_views (`int`, *optional*): views of each image; by default `images.num_views`. More of them later keep
                those that are there.
            num_workers (`int`, *optional*, defaults to 0): processes that read and prepare photographs, per process.
            accelerator (`Accelerator` or `PartialState`, *optional*): shares the work among its processes.
            shard_bytes (`int`, *optional*): about the size of a shard.

        Returns:
            [`FeatureCache`].

        Raises:
            ValueError: if the backbones are trained, so that their features change, or a number is out of range.
            OSError: if the disk is too small, or a file cannot be read or written. What is finished stays.
            ImageReadError: if a photograph cannot be read; the message names it.
        """
        num_views = images.num_views if num_views is None else num_views
        _check_request(model, batch_size=batch_size, num_views=num_views, shard_bytes=shard_bytes)
        rank, total = (accelerator.process_index, accelerator.num_processes) if accelerator is not None else (0, 1)
        wait = accelerator.wait_for_everyone if accelerator is not None else lambda: None

        folder = Path(folder)
        if rank == 0:
            _remove_leftovers(folder)
        wait()
        view_bytes = _count_bytes(model, images.size)
        index: dict[str, Any] = {
            "format": FORMAT,
            "model": _describe_model(model),
            "images_per_shard": max(1, shard_bytes // view_bytes),
            "views": [[images.view_digest(image, view) for image in range(len(images))] for view in range(num_views)],
        }
        shards = _cut(folder, index)
        faults = {shard: shard.find_fault() for shard in shards}
        missing = [shard for shard, fault in faults.items() if fault]
        kept = [shard for shard, fault in faults.items() if not fault]
        if rank == 0:
            _say_what_is_rebuilt(faults)
        _check_disk(folder, missing, view_bytes, say=rank == 0)
        wait()  # no process may write before all have listed what is missing

        if rank == 0:
            _write_index(folder, index)
        wait()
        damage = {shard: shard.find_damage() for shard in kept[rank::total]}
        _say_what_is_rebuilt(damage)
        mine = missing[rank::total] + [shard for shard, fault in damage.items() if fault]
        _write_shards(mine, model, images, batch_size, num_workers, quiet=rank > 0)
        wait()
        return cls(folder)

    def _open(self, path: Path) -> Any:
        if path not in self._opened:
            opened = safe_open(path, framework="pt")
            if opened.metadata().get("key") != self._shards[path].key:
                raise ValueError(
                    f"'{path}' holds the features of other images or another CLIP: build the cache again."
                )
            self._opened[path] = opened
        return self._opened[path]


class _Shard(NamedTuple):
    """A file with the same view of consecutive images, and what it must be made of."""

    path: Path
    key: str
    view: int
    images: range

    def find_fault(self) -> str | None:
        """What keeps the file from being used, as far as its header and its length tell."""
        try:
            metadata = safe_open(self.path, framework="pt").metadata() or {}
        except FileNotFoundError:
            return "missing"
        except SafetensorError as error:
            return f"damaged ({error})"
        return None if metadata.get("key") == self.key else "of other images or another CLIP"

    def find_damage(self) -> str | None:
        """What is wrong with the content of a file whose header is right; reads all of it."""
        file = safe_open(self.path, framework="pt")
        try:
            tensors = {str(image): file.get_tensor(str(image)) for image in self.images}
        except SafetensorError as error:
            return f"damaged ({error})"
        return None if file.metadata().get("checksum") == digest_tensors(tensors) else "damaged (its checksum differs)"

    def save(self, feature_maps: Sequence[Tensor]) -> None:
        tensors = {str(image): stages for image, stages in zip(self.images, feature_maps, strict=True)}
        metadata = {"key": self.key, "checksum": digest_tensors(tensors)}
        with open_atomically(self.path) as file:
            file.write(save(tensors, metadata))


class _Views(Dataset):
    """Pixels by the number of the image and of the view."""

    def __init__(self, images: TrainingImages) -> None:
        self.images = images

    def __getitem__(self, place: tuple[int, int]) -> Tensor:
        return self.images.view(*place).pixel_values


def _check_request(model: ClipSamForAnomalySegmentation, **numbers: Any) -> None:
    if not model.config.freeze_backbones:
        raise ValueError("Features can be cached of frozen backbones only, but `freeze_backbones` is False.")
    for name, value in numbers.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ValueError(f"`{name}` must be a positive integer, got {value!r}.")


def _describe_model(model: ClipSamForAnomalySegmentation) -> dict[str, Any]:
    """All that the features depend on beside the pixels: the tower, and what the localizer's `encode` reads of it."""
    vision_config, chosen = model.config.clip_config.vision_config, model.config.settings_of("localize")
    return {
        "weights": fingerprint(model.clip.vision_model),
        "dtype": str(model.clip.dtype).removeprefix("torch."),
        **{name: chosen[name] for name in model.localizer.encode_fields},
        **{name: getattr(vision_config, name) for name in _VISION_SETTINGS},
    }


def _count_bytes(model: ClipSamForAnomalySegmentation, size: tuple[int, int]) -> int:
    """Bytes of one view's stages in bfloat16."""
    vision_config = model.config.clip_config.vision_config
    num_tokens = (size[0] // vision_config.patch_size) * (size[1] // vision_config.patch_size)
    return 2 * model.localizer.num_feature_maps * vision_config.hidden_size * num_tokens


def _cut(folder: Path, index: Mapping[str, Any]) -> list[_Shard]:
    """Lists the shards; none has two views, so that a cache of more views has all shards of one of fewer."""
    step, shards = index["images_per_shard"], []
    for view, digests in enumerate(index["views"]):
        for number, first in enumerate(range(0, len(digests), step)):
            content = [index["format"], index["model"], digests[first : first + step]]
            key = digest_json(content)
            images = range(first, min(first + step, len(digests)))
            shards.append(_Shard(_name_shard(folder, view, number), key, view, images))
    return shards


def _name_shard(folder: Path, view: int, number: int) -> Path:
    return folder / f"view-{view:03d}-{number:05d}.safetensors"


def _say_what_is_rebuilt(faults: Mapping[_Shard, str | None]) -> None:
    for shard, fault in faults.items():
        if fault and fault != "missing":
            logger.warning(f"'{shard.path}' is {fault} and is made anew.")


def _remove_leftovers(folder: Path) -> None:
    """Removes what killed builds have left half-written; a file of this hour may be another run's work."""
    for path in folder.glob(".view-*.safetensors.*"):
        with suppress(FileNotFoundError):
            if time.time() - path.stat().st_mtime > 3600:
                path.unlink()


def _check_disk(folder: Path, missing: list[_Shard], view_bytes: int, *, say: bool) -> None:
    """Says what the missing shards take, and refuses to begin what the disk cannot hold."""
    num_views = sum(len(shard.images) for shard in missing)
    if not num_views:
        return
    there = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    replaced = sum(shard.path.stat().st_size for shard in missing if shard.path.exists())
    needed, free = num_views * view_bytes, shutil.disk_usage(there).free + replaced
    if say:
        # Gigabytes are worth a line that everybody sees
        logger.warning(
            f"Caching CLIP's features of {num_views} views takes {_in_words(needed)} in '{folder}', where"
            f" {_in_words(free)} are free."
        )
    if needed > free:
        raise OSError(
            errno.ENOSPC,
            f"The features of {num_views} views take {needed} bytes, but only {free} are free: take another folder,"
            " fewer views, or no cache",
            str(folder),
        )


def _in_words(num_bytes: int) -> str:
    return f"{num_bytes / 1e9:.1f} GB" if num_bytes >= 1e8 else f"{num_bytes / 1e6:.1f} MB"


def _write_index(folder: Path, index: Mapping[str, Any]) -> None:
    """Writes the index unless it is there: a complete cache may lie where nothing can be written."""
    path, content = folder / INDEX_NAME, json.dumps(index, indent=1).encode()
    if not path.exists() or path.read_bytes() != content:
        folder.mkdir(parents=True, exist_ok=True)
        with open_atomically(path) as file:
            file.write(content)


def _write_shards(
    shards: list[_Shard],
    model: ClipSamForAnomalySegmentation,
    images: TrainingImages,
    batch_size: int,
    num_workers: int,
    *,
    quiet: bool,
) -> None:
    """Computes shards and writes each as soon as it is complete."""
    num_views = sum(len(shard.images) for shard in shards)
    with tqdm(
        total=num_views, desc="CLIP's features", unit="view", disable=quiet or not num_views or None
    ) as progress:
        feature_maps = _compute(shards, model, images, batch_size, num_workers)
        for shard in shards:
            stages = []
            for _ in shard.images:
                stages.append(next(feature_maps))
                progress.update()
            shard.save(stages)


@torch.no_grad()
def _compute(
    shards: list[_Shard],
    model: ClipSamForAnomalySegmentation,
    images: TrainingImages,
    batch_size: int,
    num_workers: int,
) -> Iterator[Tensor]:
    """Yields the stages of each view, (num_stages, hidden_size, height, width), bfloat16; no batch crosses a shard."""
    batches = [
        [(image, shard.view) for image in shard.images[first : first + batch_size]]
        for shard in shards
        for first in range(0, len(shard.images), batch_size)
    ]
    # Its own generator: the training's random numbers must not depend on whether there was anything to cache
    loader: DataLoader = DataLoader(
        _Views(images), batch_sampler=batches, num_workers=num_workers, generator=torch.Generator()
    )
    model.clip.eval()
    for pixel_values in loader:
        stages = torch.stack(model.get_feature_maps(pixel_values.to(model.device)), dim=1)
        yield from stages.to(torch.bfloat16).cpu().contiguous()  # (batch, num_stages, hidden, height, width)
