# SPDX-FileCopyrightText: 2026 The clipsam_hf authors
# SPDX-License-Identifier: Apache-2.0
"""The images of a data set, ready for the model, each with the mask that its maps are compared with."""

import os
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from ..data import AnomalyDataset, AnomalyFolder, AnomalySample
from ..files import digest_json, digest_pixels, fingerprint
from ..inference_clipsam import ClipSamInference, ImagePreparer, PreparedImage
from .state import Embedding, EmbeddingCache


__all__ = ["Photograph", "PhotographReader", "complete_embeddings", "open_cache"]


class Photograph(NamedTuple):
    """One image of a data set.

    Args:
        place (`int`): its place in the data.
        prepared (`PreparedImage`): what the model takes.
        gt_mask (`np.ndarray` of shape `(height, width)`, bool, *optional*): its mask, if it has one.
        key (`str`): its name in the cache; empty without one.
    """

    place: int
    prepared: PreparedImage
    gt_mask: NDArray[np.bool_] | None
    key: str = ""


class PhotographReader(Dataset):
    """Reads and prepares images, in other processes perhaps.

    Args:
        data (`AnomalyFolder`, `AnomalyDataset` or sequence of `AnomalySample`): the images.
        prepare (`ImagePreparer`): the model's.
        class_name (`str`, *optional*): what all photographs show; by default, each sample's own word.
        refine (`bool`): whether the refiner is to run.
        cache (`EmbeddingCache`, *optional*): where the refiner's embeddings may be.
        roi (`torch.Tensor` of shape `(height, width)`, *optional*): bool; where to look.
        tile (`str` or `int`, *optional*): how photographs are cut.
    """

    def __init__(
        self,
        data: AnomalyFolder | AnomalyDataset | Sequence[AnomalySample],
        prepare: ImagePreparer,
        *,
        class_name: str | None = None,
        refine: bool = True,
        cache: EmbeddingCache | None = None,
        roi: Tensor | None = None,
        tile: str | int | None = None,
    ) -> None:
        self.data, self.prepare, self.cache = data, prepare, cache
        self.roi, self.tile = roi, tile
        self.class_name, self.refine = class_name, refine

    def __getitem__(self, index: int) -> Photograph:
        sample = self.data[index]
        image = sample.load_image()
        key, known = "", None
        if self.refine and self.cache is not None:
            key = digest_pixels(image)
            known = self.cache.load(key)
        prepared = self.prepare(
            image,
            self.class_name or sample.class_name,
            refine=self.refine,
            image_embeddings=known and known.image_embeddings,
            reshaped_input_sizes=known and known.reshaped_input_sizes,
            roi=self.roi,
            tile=self.tile,
        )
        return Photograph(index, prepared, sample.load_mask() if sample.has_mask else None, key)


def complete_embeddings(
    photographs: Sequence[Photograph], inference: ClipSamInference, cache: EmbeddingCache
) -> list[PreparedImage]:
    """Encode what the cache does not know, and keep it there.

    Args:
        photographs (`Sequence[Photograph]`): a batch.
        inference (`ClipSamInference`): the model.
        cache (`EmbeddingCache`): gets the new ones.

    Returns:
        `list[PreparedImage]`: the same images, all with embeddings.
    """
    encoded = inference.encode([photograph.prepared for photograph in photographs])
    for photograph, embeddings in zip(photographs, encoded, strict=True):
        if photograph.prepared.image_embeddings is None:
            cache.save(photograph.key, Embedding(embeddings, photograph.prepared.inputs["reshaped_input_sizes"]))
    return [
        photograph.prepared._replace(image_embeddings=embeddings)
        for photograph, embeddings in zip(photographs, encoded, strict=True)
    ]


def open_cache(inference: ClipSamInference, cache_dir: str | os.PathLike[str] | None) -> EmbeddingCache | None:
    """Return the part of a folder that holds the embeddings of this very refiner, or `None` without a folder."""
    if cache_dir is None:
        return None
    model, processor = inference.model, inference.processor
    settings = (
        processor.sam_image_processor.to_json_string(),
        digest_json(model.config.settings_of("refine")["sam_config"]),
        str(model.sam.dtype),
    )
    return EmbeddingCache(cache_dir, fingerprint(model.sam, *settings))
