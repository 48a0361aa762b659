# SPDX-FileCopyrightText: 2026 The clipsam_hf authors
# SPDX-License-Identifier: Apache-2.0
"""Batches as a function of the step, so that a run can go on anywhere, on any number of processes.

The order of the images depends on seed and epoch alone. Epochs follow each other without a gap: every batch is full,
and one across the end of an epoch takes its last and the next one's first images. Nothing is dropped or seen twice, so
every image has the same weight.
"""

import os
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ..files import digest_tensors
from .texts import draw_text


if TYPE_CHECKING:
    from .features import FeatureCache
    from .views import TrainingImages


__all__ = ["BatchFunction", "BatchSource", "FunctionBatches", "Place", "ShareOfBatch", "TrainingBatches", "draw_order"]

# Between SIGTERM and the end of a process that reads ahead, unless the main one ends it before
_GRACE_SECONDS = 20

BatchFunction = Callable[[int], Mapping[str, Any]]
"""From the number of a batch to the keyword arguments of the forward call, for all images of the batch."""


class ShareOfBatch(NamedTuple):
    """What one process computes of a batch.

    Args:
        inputs (`Mapping[str, Any]`): keyword arguments of the forward call.
        weight (`float`): its images as a share of those of the whole batch; the weights of all processes sum to 1.
    """

    inputs: Mapping[str, Any]
    weight: float


class Place(NamedTuple):
    """What an image is seen as in a batch.

    Args:
        image (`int`): its number.
        view (`int`): of its views.
        text (`int`): of the variants of its class name's texts.
    """

    image: int
    view: int = 0
    text: int = 0


@runtime_checkable
class BatchSource(Protocol):
    """What [`train_umci`] takes its batches from."""

    def load(self, first: int, last: int, *, process_index: int, num_processes: int) -> Iterator[ShareOfBatch]:
        """Give this process's share of the batches `first` to `last - 1`, in that order."""
        ...

    def names(self, batch: int) -> list[str]:
        """Name the files of a batch, for messages; may be empty."""
        ...

    def describe(self) -> dict[str, Any]:
        """Give all that the batches depend on, as JSON values."""
        ...


class FunctionBatches:
    """A plain function of the batch's number; each process computes the whole batch and takes its rows of it.

    Args:
        function (`Callable[[int], Mapping]`): must give the same for the same number.
    """

    def __init__(self, function: BatchFunction) -> None:
        self.function = function

    def load(self, first: int, last: int, *, process_index: int, num_processes: int) -> Iterator[ShareOfBatch]:
        for number in range(first, last):
            batch = self.function(number)
            yield ShareOfBatch(batch, 1.0) if num_processes == 1 else _cut(batch, process_index, num_processes)

    def names(self, batch: int) -> list[str]:
        return []

    def describe(self) -> dict[str, Any]:
        return {}


def draw_order(num_images: int, seed: int, epoch: int) -> np.ndarray:
    """Draw the order of an epoch.

    Args:
        num_images (`int`): number of images.
        seed (`int`): of the run.
        epoch (`int`): from 0.

    Returns:
        `np.ndarray` of shape `(num_images,)`: a permutation.

    Example:
        >>> sorted(draw_order(4, seed=0, epoch=1).tolist())
        [0, 1, 2, 3]
    """
    return np.random.default_rng((seed, epoch)).permutation(num_images)


class TrainingBatches:
    """The batches of a data set: order, views and texts.

    Args:
        images (`TrainingImages`): the data set.
        text_embeds (`Mapping[str, Tensor]`): for each class name (num_variants, 2, projection_dim), such as
            `embed_texts` gives, or (2, projection_dim); order [normal, abnormal].
        batch_size (`int`): images per batch, of all processes together.
        seed (`int`): of the order and the texts. Epoch e takes view e modulo `images.num_views` of each image, and a
            variant of its text that is drawn for seed, epoch and image.
        cache (`FeatureCache`, *optional*): CLIP's stages of these images and views, instead of the photographs.
        num_workers (`int`): processes that read ahead.

    Raises:
        ValueError: if a number is out of range, or a class name has no text.
    """

    def __init__(
        self,
        images: "TrainingImages",
        text_embeds: Mapping[str, Tensor],
        *,
        batch_size: int,
        seed: int = 0,
        cache: "FeatureCache | None" = None,
        num_workers: int = 0,
    ) -> None:
        for name, value, least in (("batch_size", batch_size, 1), ("seed", seed, 0), ("num_workers", num_workers, 0)):
            if value < least:
                raise ValueError(f"`{name}` must be at least {least}, but got {value}.")
        missing = sorted(set(images.class_names) - set(text_embeds))
        if missing:
            raise ValueError(f"`text_embeds` lacks the class names {missing}; it has {sorted(text_embeds)}.")
        self.images, self.cache = images, cache
        self.text_embeds = {
            name: (embeds if embeds.dim() == 3 else embeds[None]).detach().cpu()
            for name, embeds in text_embeds.items()
        }
        self.batch_size, self.seed, self.num_workers = batch_size, seed, num_workers

    def load(self, first: int, last: int, *, process_index: int, num_processes: int) -> Iterator[ShareOfBatch]:
        # A generator of its own: the loader would otherwise draw from the one that a resumed run restores
        loader = DataLoader(
            _Shares(self, process_index, num_processes),
            batch_size=None,
            sampler=range(first, last),
            num_workers=self.num_workers,
            worker_init_fn=_leave_signals_to_main,
            generator=torch.Generator(),
        )
        shares: Any = iter(loader)
        try:
            yield from shares
        finally:
            if self.num_workers:
                shares._shutdown_workers()  # now, not when the last traceback has gone

    def names(self, batch: int) -> list[str]:
        return [self.images.file_name(place.image) for place in self.places(batch)]

    def describe(self) -> dict[str, Any]:
        return {
            "images": len(self.images),
            "images_sha256": self.images.digest[:16],
            "texts_sha256": digest_tensors(self.text_embeds)[:16],
            "batch_size": self.batch_size,
            "seed": self.seed,
            "num_views": self.images.num_views,
            "cached": self.cache is not None,
        }

    def places(self, batch: int) -> list[Place]:
        """Return what is seen in a batch."""
        count = len(self.images)
        orders: dict[int, np.ndarray] = {}
        places = []
        for number in range(batch * self.batch_size, (batch + 1) * self.batch_size):
            epoch, rank = divmod(number, count)
            if epoch not in orders:
                orders[epoch] = draw_order(count, self.seed, epoch)
            index = int(orders[epoch][rank])
            num_texts = len(self.text_embeds[self.images.class_name(index)])
            text = draw_text(num_texts, self.seed, epoch, index)
            places.append(Place(index, epoch % self.images.num_views, text))
        return places

    def collate(self, places: Sequence[Place]) -> dict[str, Any]:
        """Read images and stack them: the keyword arguments of the forward call."""
        inputs: dict[str, Any] = {}
        if self.cache is None:
            views = [self.images.view(place.image, place.view) for place in places]
            inputs["pixel_values"] = torch.stack([view.pixel_values for view in views])
            inputs["labels"] = torch.stack([view.labels for view in views])
        else:
            stages = zip(*(self.cache[place.image, place.view] for place in places), strict=True)
            inputs["feature_maps"] = tuple(torch.stack(stage) for stage in stages)
            inputs["labels"] = torch.stack([self.images.labels(place.image, place.view) for place in places])
        texts = [self.text_embeds[self.images.class_name(place.image)][place.text] for place in places]
        inputs["text_embeds"] = torch.stack(texts)  # (batch, 2, projection_dim)
        return inputs


class _Shares(Dataset):
    """One process's rows of each batch, by the batch's number."""

    def __init__(self, batches: TrainingBatches, process_index: int, num_processes: int) -> None:
        self.batches, self.process_index, self.num_processes = batches, process_index, num_processes

    def __getitem__(self, number: int) -> ShareOfBatch:
        rows, weight = _rows(self.batches.batch_size, self.process_index, self.num_processes)
        return ShareOfBatch(self.batches.collate(self.batches.places(number)[rows]), weight)


def _rows(count: int, process_index: int, num_processes: int) -> tuple[slice, float]:
    """The rows of a process and their weight. A process without any computes one row that does not count."""
    start, end = (count * part // num_processes for part in (process_index, process_index + 1))
    return slice(start, max(end, start + 1)) if start < count else slice(0, 1), (end - start) / count


def _cut(batch: Mapping[str, Any], process_index: int, num_processes: int) -> ShareOfBatch:
    count = len(batch["labels"])
    rows, weight = _rows(count, process_index, num_processes)

    def cut(value: Any) -> Any:
        if isinstance(value, Tensor):
            return value[rows] if value.dim() and len(value) == count else value
        if isinstance(value, list | tuple):
            return type(value)(cut(part) for part in value)
        return value

    return ShareOfBatch({name: cut(value) for name, value in batch.items()}, weight)


def _leave_signals_to_main(worker: int) -> None:
    """Where a signal goes to all processes, the main one ends its step first, and needs its readers until then."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGALRM, lambda *_: os._exit(0))
    signal.signal(signal.SIGTERM, lambda *_: signal.alarm(_GRACE_SECONDS))
