# SPDX-FileCopyrightText: 2026 The clipsam_hf authors
# SPDX-License-Identifier: Apache-2.0
"""What the ablations share: a checkpoint, cached features of the images that it is measured on, and the measures."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from synthetic_pool import KINDS, Batch, ScenePool
from tiny_common import CLIP_PIXELS, SAM_PIXELS, normalise
from tiny_scores import Scores, rank_probability
from torch.nn import functional as F
from tqdm import tqdm  # type: ignore[import-untyped]

from clipsam_hf.data import AnomalyFolder
from clipsam_hf.inference_clipsam import ClipSamInference
from clipsam_hf.metrics import resize_mask
from clipsam_hf.modeling_clipsam import ClipSamForAnomalySegmentation
from clipsam_hf.processing_clipsam import ClipSamProcessor


__all__ = ["Bench", "Cached", "Figures", "measure", "measure_steering", "read_photographs", "two_kinds"]

TWO_KINDS = 200
# One figure is a row of the tables: of each set, by its name
Figures = dict[str, dict[str, float]]


@dataclass
class Cached:
    """
    Images whose features are known.

    Args:
        batch: The images.
        class_name: What they show, for the prompts.
        stages: Per stage (num_images, hidden_size, height, width) float16.
        embeddings: SAM's, each (num_images, channels, height, width) float16; none if they were not asked for.
    """

    batch: Batch
    class_name: str
    stages: tuple[torch.Tensor, ...]
    embeddings: tuple[torch.Tensor, ...] = ()

    def rows(self, chosen: list[int]) -> tuple[torch.Tensor, ...]:
        """Return the stages of some images: each (len(chosen), hidden_size, height, width) float32."""
        return tuple(stage[chosen].float() for stage in self.stages)


class Bench:
    """
    A checkpoint and the images that it is measured on.

    Args:
        model: Folder of the checkpoint.
        pool: Folder of the scenes that it was trained on.
        validation_pool: Folder of scenes of another seed.
        photographs: Folders of data sets that it was not trained on.
        leave_out: Their class names, of which the pool is to show nothing.
        num_images: Number of generated images to measure.
    """

    def __init__(
        self,
        model: Path,
        pool: Path,
        validation_pool: Path,
        photographs: Sequence[Path],
        *,
        leave_out: Sequence[str],
        num_images: int,
    ) -> None:
        self.model = ClipSamForAnomalySegmentation.from_pretrained(model)
        self.processor = ClipSamProcessor.from_pretrained(model)
        self.inference = ClipSamInference(self.model, self.processor)
        self.training = ScenePool(pool, seed=0, leave_out=leave_out)
        self.validation = ScenePool(validation_pool, seed=1)
        self.folders, self.num_images = photographs, num_images

    @torch.no_grad()
    def cache(self, batch: Batch, class_name: str = "object", *, with_sam: bool = False) -> Cached:
        """Compute CLIP's stages of all images of a batch, and SAM's embeddings."""
        side = self.model.config.sam_config.vision_config.image_size
        stages: list[tuple[torch.Tensor, ...]] = []
        embeddings: list[tuple[torch.Tensor, ...]] = []
        for images in tqdm(batch.images.split(8), desc=class_name, disable=None):
            pixels = normalise(images, CLIP_PIXELS)
            stages.append(tuple(stage.half() for stage in self.model.get_feature_maps(pixels)))
            if with_sam:
                seen = F.interpolate(images, size=(side, side), mode="bilinear")
                parts = self.model.get_image_embeddings(normalise(seen, SAM_PIXELS))
                embeddings.append(tuple(part.half() for part in parts))
        joined = [tuple(torch.cat(part) for part in zip(*each, strict=True)) for each in (stages, embeddings)]
        return Cached(batch, class_name, *joined)

    def sets(self, *, with_sam: bool = False) -> dict[str, Cached]:
        """Return the generated images and every set of photographs, by name."""
        side = self.model.config.image_size
        generated = self.validation.batch(0, first=0, count=self.num_images, size=side)
        found = {"generated": self.cache(generated, with_sam=with_sam)}
        for folder in self.folders:
            batch = read_photographs(folder, side)
            found[batch.words[0]] = self.cache(batch, batch.words[0], with_sam=with_sam)
        return found

    def texts(self, class_name: str) -> torch.Tensor:
        """Return the embeddings of both texts: (1, 2, projection_dim)."""
        return self.inference.embed(class_name)


def read_photographs(folder: Path, side: int) -> Batch:
    """Squash all photographs of a set to squares."""
    images, masks, words = [], [], []
    for sample in AnomalyFolder(folder, split=None):
        picture = sample.load_image().resize((side, side), Image.Resampling.BICUBIC)
        images.append(torch.from_numpy(np.array(picture)).permute(2, 0, 1).float() / 255)
        masks.append(torch.from_numpy(resize_mask(sample.load_mask(), (side, side), "nearest").astype(np.uint8)))
        words.append(sample.class_name)
    kinds = torch.stack(masks)
    return Batch(torch.stack(images), kinds, kinds, torch.zeros_like(kinds), words)


@torch.inference_mode()
def measure(
    model: ClipSamForAnomalySegmentation, cached: Cached, text_embeds: torch.Tensor, *, refine: bool = False
) -> dict[str, float]:
    """Return the figures of the rough map, or of the refined one."""
    side = model.config.sam_config.vision_config.image_size
    scores = Scores()
    for number, mask in enumerate(cached.batch.masks.numpy()):
        inputs: dict[str, Any] = {"feature_maps": cached.rows([number]), "text_embeds": text_embeds}
        if refine:
            inputs["image_embeddings"] = tuple(part[[number]].float() for part in cached.embeddings)
            inputs["reshaped_input_sizes"] = torch.tensor([[side, side]])
        scores.update(model(**inputs).anomaly_map[0].numpy(), mask)
    figures = scores.compute()
    del figures["F1 at threshold"]
    return figures


def two_kinds(bench: Bench) -> Cached:
    """Return generated images with two kinds of defect each."""
    side, found = bench.model.config.image_size, []
    for step in range(40):
        batch = bench.validation.batch(1000 + step, first=64 * step, count=64, size=side)
        found += [(batch, number) for number in range(64) if len(batch.present(number)) == 2]
        if len(found) >= TWO_KINDS:
            break
    if len(found) < TWO_KINDS:
        raise ValueError(f"The validation pool gives only {len(found)} images with two kinds of defect.")
    found = found[:TWO_KINDS]
    fields = ("images", "kinds", "parts", "objects")
    planes = {field: torch.stack([getattr(batch, field)[number] for batch, number in found]) for field in fields}
    return bench.cache(Batch(**planes, words=[batch.words[number] for batch, number in found]))


@torch.inference_mode()
def measure_steering(
    model: ClipSamForAnomalySegmentation, cached: Cached, naming: Callable[[str], torch.Tensor]
) -> dict[str, float]:
    """
    Return how well a text that names one of the two kinds of defect in an image ranks its pixels above the other's.

    The AUROC between the pixels of the two defects, the mean over all images: when the first of the two kinds (by the
    alphabet) is named, when the second is, and the mean of both.

    Args:
        model: The model, whose rough map is measured.
        cached: Images with two kinds of defect each.
        naming: The texts of a kind, (2, projection_dim).
    """
    found: list[list[float]] = [[], []]
    for number in range(len(cached.batch.words)):
        present = cached.batch.present(number)
        kinds = cached.batch.kinds[number].numpy()
        for direction, (named, other) in zip(found, (present, present[::-1]), strict=True):
            output = model(feature_maps=cached.rows([number]), text_embeds=naming(named)[None])
            values = output.rough_anomaly_map[0].numpy()
            inside, outside = (values[kinds == KINDS.index(kind) + 1] for kind in (named, other))
            direction.append(rank_probability(inside, outside))
    first, second = (float(np.mean(direction)) for direction in found)
    return {"AUROC": (first + second) / 2, "first named": first, "second named": second}
