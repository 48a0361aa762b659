# SPDX-FileCopyrightText: 2026 The clipsam_hf authors
# SPDX-License-Identifier: Apache-2.0
"""From the images of a data set to the model's rough and refined maps, with SAM's embeddings kept if wanted."""

import os
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from ..data.folders import AnomalyDataset, AnomalyFolder
from ..files import digest_pixels, fingerprint
from ..modeling_clipsam import ClipSamForAnomalySegmentation, ClipSamOutput
from ..processing_clipsam import ClipSamProcessor
from ..refinement_clipsam import score_map
from .state import Embedding, EmbeddingCache


__all__ = ["Photograph", "PhotographReader", "Predictor", "open_cache"]


class Photograph(NamedTuple):
    """One image, ready for the model, and what its maps are compared with."""

    place: int
    class_name: str
    size: tuple[int, int]
    gt_mask: NDArray[np.bool_] | None
    pixel_values: Tensor
    sam_pixel_values: Tensor | None
    embedding_key: str
    embedding: Embedding | None
    reshaped_input_size: Tensor | None


class PhotographReader(Dataset):
    """Reads and prepares images, in other processes perhaps."""

    def __init__(
        self,
        data: AnomalyFolder | AnomalyDataset,
        processor: ClipSamProcessor,
        *,
        class_name: str | None = None,
        refine: bool = True,
        cache: EmbeddingCache | None = None,
    ) -> None:
        self.data, self.cache = data, cache
        self.processor: Any = processor
        self.class_name, self.refine = class_name, refine

    def __getitem__(self, index: int) -> Photograph:
        sample = self.data[index]
        image = sample.load_image()
        key, embedding = "", None
        if self.refine and self.cache is not None:
            key = digest_pixels(image)
            embedding = self.cache.load(key)
        needs_sam = self.refine and embedding is None
        features = self.processor(images=image, return_sam_inputs=needs_sam, return_tensors="pt")
        return Photograph(
            index,
            self.class_name or sample.class_name,
            (image.height, image.width),
            sample.load_mask() if sample.has_mask else None,
            features["pixel_values"],
            features.get("sam_pixel_values"),
            key,
            embedding,
            embedding.reshaped_input_size[None] if embedding else features.get("reshaped_input_sizes"),
        )


class Predictor:
    """Runs the model on prepared images, and gives the rough map, the refined one and their scores."""

    def __init__(
        self,
        model: ClipSamForAnomalySegmentation,
        processor: ClipSamProcessor,
        *,
        refine: bool = True,
        cache: EmbeddingCache | None = None,
    ) -> None:
        self.model, self.refine, self.cache = model, refine, cache
        self.processor: Any = processor
        self._text_embeds: dict[str, Tensor] = {}

    @torch.no_grad()
    def predict(self, photographs: Sequence[Photograph]) -> dict[str, tuple[Tensor, Tensor]]:
        """Return by name the maps (batch_size, height, width) in CLIP's frame and the scores (batch_size,)."""
        device = self.model.device
        inputs = {
            "pixel_values": torch.cat([photograph.pixel_values for photograph in photographs]).to(device),
            "text_embeds": torch.cat([self._embed(photograph.class_name) for photograph in photographs]),
        }
        if self.refine:
            inputs["reshaped_input_sizes"] = torch.cat([_known(each.reshaped_input_size) for each in photographs])
            if self.cache is None:
                pixels = torch.cat([_known(photograph.sam_pixel_values) for photograph in photographs])
                inputs["sam_pixel_values"] = pixels.to(device)
            else:
                inputs["image_embeddings"] = self._look_up(photographs, self.cache)
        outputs = self.model(**inputs)
        maps = {"rough": (outputs.rough_anomaly_map.cpu(), self._score_rough(outputs).cpu())}
        if self.refine:
            maps["refined"] = (outputs.anomaly_map.cpu(), outputs.pred_score.cpu())
        return maps

    def _embed(self, class_name: str) -> Tensor:
        """The two text embeddings of a class name: (1, 2, projection_dim)."""
        if class_name not in self._text_embeds:
            inputs = self.processor(text=class_name, return_tensors="pt").to(self.model.device)
            embeds = self.model.get_text_embeddings(inputs["input_ids"], inputs["attention_mask"])
            self._text_embeds[class_name] = embeds
        return self._text_embeds[class_name]

    def _look_up(self, photographs: Sequence[Photograph], cache: EmbeddingCache) -> Tensor:
        """SAM's embeddings (batch_size, output_channels, height, width), encoded and kept where they are new."""
        new = [photograph for photograph in photographs if photograph.embedding is None]
        encoded: list[Tensor] = []
        if new:
            pixels = torch.cat([_known(photograph.sam_pixel_values) for photograph in new]).to(self.model.device)
            encoded = list(self.model.get_image_embeddings(pixels))
            for photograph, embedding in zip(new, encoded, strict=True):
                size = _known(photograph.reshaped_input_size)[0]
                cache.save(photograph.embedding_key, Embedding(embedding, size))
        fresh = iter(encoded)
        return torch.stack(
            [
                next(fresh) if each.embedding is None else each.embedding.image_embedding.to(self.model.device)
                for each in photographs
            ]
        )

    def _score_rough(self, outputs: ClipSamOutput) -> Tensor:
        """The images' scores as the model gives them without SAM: (batch_size,)."""
        config, rough = self.model.config, _known(outputs.rough_anomaly_map)
        if config.image_score == "top_fraction":
            return score_map(rough, top_fraction=config.score_top_fraction)
        if config.image_score == "max":
            return rough.flatten(1).amax(dim=1)
        return _known(outputs.pred_score)  # of CLIP's class token, which SAM does not change


def open_cache(
    model: ClipSamForAnomalySegmentation, processor: ClipSamProcessor, cache_dir: str | os.PathLike[str] | None
) -> EmbeddingCache | None:
    if cache_dir is None:
        return None
    settings = (processor.sam_image_processor.to_json_string(), str(model.sam.dtype))
    return EmbeddingCache(cache_dir, fingerprint(model.sam.vision_encoder, *settings))


def _known(value: Tensor | None) -> Tensor:
    """Return what the settings of the run guarantee to be there."""
    if value is None:
        raise RuntimeError("an input of SAM is missing")
    return value
