# SPDX-FileCopyrightText: 2026 The clipsam_hf authors
# SPDX-License-Identifier: Apache-2.0
"""
UMCI of `clipsam-small`: the package's own training on cached features, whole photographs and generated scenes.

The texts of a batch ask for any defect, for one kind, or for nothing; a photograph may be called by any name.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from small_features import LAYERS, CachedScenes, SceneCache
from small_scenes import KINDS
from small_words import STATES
from synthetic_words import TEMPLATES, fill
from torch import Tensor
from torch.nn import functional as F
from transformers import CLIPImageProcessorPil, CLIPModel, CLIPTokenizer, SamImageProcessorPil, SamModel
from transformers.image_utils import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

from clipsam_hf.configuration_clipsam import ClipSamConfig
from clipsam_hf.modeling_clipsam import ClipSamForAnomalySegmentation
from clipsam_hf.novelty_clipsam import measure_novelty
from clipsam_hf.patches_clipsam import measure_scale
from clipsam_hf.processing_clipsam import ClipSamProcessor
from clipsam_hf.training import train_umci


__all__ = [
    "UmciBatches",
    "UmciSettings",
    "build_model",
    "build_processor",
    "find_novelty_scale",
    "raise_maps",
    "sam_processor",
    "train_head",
]


@dataclass(frozen=True)
class UmciSettings:
    """Every choice of the stage."""

    feature_layers: tuple[int, ...] = (3, 6, 9)
    reference_layers: tuple[int, ...] = (6, 7)
    reference_neighbourhoods: tuple[int, ...] = (3,)
    reference_text_weight: float = 0.5
    mutual_text_weight: float = 0.5
    flip_average: bool = True
    novelty_weight: float = 0.15
    refine_weight: float = 0.4
    image_size: int = 448
    umci_hidden_size: int = 64
    normalize_features: bool = True
    head: Literal["conv", "text"] = "text"
    fused_features: tuple[str, ...] = ("original",)
    num_steps: int = 200
    pieces: bool = True
    scenes_per_batch: int = 12
    photographs_per_batch: int = 3
    scene_share: float = 0.5
    learning_rate: float = 1e-3
    weight_decay: float = 0.05
    warmup_steps: int = 50
    own_name: float = 0.5
    any_defect: float = 0.6
    present_kind: float = 0.25
    absent_kind: float = 0.1
    save_steps: int = 100


def build_processor(tokenizer: CLIPTokenizer, *, clip_size: int, sam_size: int) -> ClipSamProcessor:
    """Return the processor: a squash with ImageNet's mean for CLIP, a resize with padding for SAM."""
    return ClipSamProcessor(
        image_processor=CLIPImageProcessorPil(
            size={"height": clip_size, "width": clip_size},
            do_center_crop=False,
            image_mean=IMAGENET_DEFAULT_MEAN,
            image_std=IMAGENET_DEFAULT_STD,
        ),
        sam_image_processor=sam_processor(sam_size),
        tokenizer=tokenizer,
    )


def sam_processor(size: int) -> SamImageProcessorPil:
    """Return what makes SAM's square of a photograph: its longer side `size` pixels, the rest padded."""
    return SamImageProcessorPil(
        size={"longest_edge": size},
        pad_size={"height": size, "width": size},
        mask_size={"longest_edge": size // 2},
        mask_pad_size={"height": size // 2, "width": size // 2},
    )


def build_model(
    clip: CLIPModel, sam: SamModel, settings: UmciSettings, **fields: Any
) -> ClipSamForAnomalySegmentation:
    """Return the model of both networks, with a new head."""
    parts: list[Any] = [clip.config, clip.config.vision_config, clip.config.text_config, sam.config]
    for part in parts:
        part._name_or_path = ""
    config = ClipSamConfig(
        clip_config=clip.config,
        sam_config=sam.config,
        feature_layers=settings.feature_layers,
        reference_layers=settings.reference_layers,
        reference_neighbourhoods=settings.reference_neighbourhoods,
        reference_text_weight=settings.reference_text_weight,
        mutual_text_weight=settings.mutual_text_weight,
        image_size=settings.image_size,
        umci_hidden_size=settings.umci_hidden_size,
        normalize_features=settings.normalize_features,
        head=settings.head,
        fused_features=settings.fused_features,
        **fields,
    )
    model = ClipSamForAnomalySegmentation(config)
    model.clip.load_state_dict(clip.state_dict())
    model.sam.load_state_dict(sam.state_dict())
    return model


class UmciBatches:
    """
    The batches of the stage, as a function of the step: scenes or photographs.

    Args:
        clip: For the embeddings of the sentences, which are made once.
        tokenizer: Its tokenizer.
        scenes: Generated scenes.
        photographs: Photographs by set, whole or in pieces; may be empty.
        names: What a photograph may be said to show.
        settings: The choices.
        seed: Of all draws.
    """

    def __init__(
        self,
        clip: CLIPModel,
        tokenizer: CLIPTokenizer,
        scenes: SceneCache,
        photographs: list[SceneCache],
        names: list[str],
        settings: UmciSettings,
        seed: int,
    ) -> None:
        self.scenes, self.photographs, self.settings, self.seed = scenes, photographs, settings, seed
        own = {word for cache in (scenes, *photographs) for word in cache.words}
        self.names = list(dict.fromkeys([*names, *sorted(own)]))
        self.bank = {
            name: {group: embed_group(clip, tokenizer, group, name, seed) for group in STATES} for name in self.names
        }

    def __call__(self, step: int) -> dict[str, Any]:
        """Return the keyword arguments of the forward call of a step."""
        rng, options = np.random.default_rng((self.seed, step, 301)), self.settings
        if self.photographs and rng.random() >= options.scene_share:
            cache = self.photographs[rng.integers(len(self.photographs))]
            batch = cache.draw(rng, options.photographs_per_batch)
        else:
            batch = self.scenes.draw(rng, options.scenes_per_batch)
        texts, masks = zip(*(self.ask(batch, number, rng) for number in range(len(batch.words))), strict=True)
        return {
            "feature_maps": tuple(batch.features[:, LAYERS.index(layer)] for layer in options.feature_layers),
            "text_embeds": torch.stack(texts),
            "labels": torch.stack(masks).float(),
        }

    def ask(self, batch: CachedScenes, number: int, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        """Draw two texts for an image, (2, projection_dim), and the (size, size) mask that they ask for."""
        kinds, options = batch.kinds[number], self.settings
        name = batch.words[number] if rng.random() < options.own_name else self.names[rng.integers(len(self.names))]
        texts, present = self.bank[name], [KINDS[kind - 1] for kind in kinds.unique().tolist() if kind > 0]
        case, nothing = rng.random(), torch.zeros_like(kinds, dtype=torch.bool)
        normal = choose(texts["normal"], rng)
        if case < options.any_defect:
            return torch.stack((normal, choose(texts["abnormal"], rng))), kinds > 0
        if case < options.any_defect + options.present_kind and present:
            kind = present[rng.integers(len(present))]
            return torch.stack((normal, choose(texts[kind], rng))), kinds == KINDS.index(kind) + 1
        if case < options.any_defect + options.present_kind + options.absent_kind:
            absent = [kind for kind in KINDS if kind not in present]
            return torch.stack((normal, choose(texts[absent[rng.integers(len(absent))]], rng))), nothing
        return torch.stack((normal, choose(texts["normal"], rng))), nothing


def find_novelty_scale(photographs: list[SceneCache]) -> tuple[float, float]:
    """Return what novelty within a photograph is usual: its median and spread, over all photographs of each set."""
    scales = []
    for cache in photographs:
        features = (cache.take([number]).features.unbind(1) for number in range(len(cache)))
        scales.append(measure_scale([measure_novelty(each)[0].numpy() for each in features]))
    centre, spread = np.mean(scales, 0).tolist()
    return centre, spread


@torch.no_grad()
def embed_group(clip: CLIPModel, tokenizer: CLIPTokenizer, group: str, name: str, seed: int) -> Tensor:
    """Embed every phrase of a state in one template each: (num_phrases, projection_dim), normalised."""
    rng = np.random.default_rng((seed, len(name), len(group), 302))
    sentences = [fill(TEMPLATES[rng.integers(len(TEMPLATES))], fill(state, name)) for state in STATES[group]]
    tokens = tokenizer(sentences, padding=True, truncation=True, return_tensors="pt")
    return F.normalize(clip.get_text_features(**tokens).pooler_output, dim=-1)


def choose(bank: Tensor, rng: np.random.Generator) -> Tensor:
    """Return one sentence's embedding or the mean of all, normalised: (projection_dim,)."""
    return F.normalize(bank.mean(0), dim=-1) if rng.random() < 0.5 else bank[rng.integers(len(bank))]


@torch.no_grad()
def raise_maps(model: ClipSamForAnomalySegmentation, bank: dict[str, dict[str, Tensor]], threshold: float) -> None:
    """
    Bring what a trained head gives at a threshold to a half, so that a map can be read on its scale from 0 to 1.

    A head of few steps ranks pixels well and is sure of nothing. The texts of two states differ in much the same way
    for every name; along that way a constant is added to the logits of all stages. Two kinds of defect, or
    swapped texts, do not differ so, or the other way round. The channel with the least to say is given up for it.

    Args:
        model: With a text head.
        bank: Normalised embeddings of the phrases by name and state, see [`UmciBatches`].
        threshold: Of the rough map, in (0, 1).
    """
    means = [
        [F.normalize(texts[state].mean(0), dim=-1) for texts in bank.values()] for state in ("normal", "abnormal")
    ]
    way = (torch.stack(means[1]) - torch.stack(means[0])).mean(0)
    wanted = -torch.logit(torch.tensor(threshold)) * model.config.umci_hidden_size**0.5
    heads: Any = model.umci
    for head in heads:
        weight = head.text_projection.weight
        channel = int((head.fuse.weight.flatten(1).norm(dim=1) * (weight @ way).abs()).argmin())
        head.fuse.weight[channel], head.fuse.bias[channel] = 0.0, 1.0
        weight[channel] = wanted * way / way.square().sum()


def train_head(
    model: ClipSamForAnomalySegmentation, batches: UmciBatches, settings: UmciSettings, folder: Path | None
) -> None:
    """Train the head by the package, or go on with what the folder holds."""
    train_umci(
        model,
        batches,
        num_steps=settings.num_steps,
        learning_rate=settings.learning_rate,
        weight_decay=settings.weight_decay,
        warmup_steps=settings.warmup_steps,
        output_dir=folder,
        save_steps=settings.save_steps,
        logging_steps=25,
        log=lambda line: print(" ".join(f"{name} {value:.4g}" for name, value in line.items()), flush=True),
    )
    model.eval()
