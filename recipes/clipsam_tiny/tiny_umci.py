# SPDX-FileCopyrightText: 2026 The clipsam_hf authors
# SPDX-License-Identifier: Apache-2.0
"""
Stage 3 of `clipsam-tiny`: UMCI on the two frozen networks, and what its thresholds are chosen on.

The sentences vary with the images, so that language acts: sometimes they name a defect that is there (only it is to be
marked), sometimes one that is not, or both texts are normal, or they are about something else (then nothing is).
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from accelerate import Accelerator  # type: ignore[import-untyped]
from PIL import Image
from synthetic_pool import KINDS, Batch, ScenePool
from synthetic_words import ABNORMAL_STATES, CLASS_NAMES, DEFECT_STATES, MATERIALS, NORMAL_STATES, TEMPLATES, fill
from tiny_clip import ClipSettings
from tiny_common import CLIP_PIXELS, Schedule, normalise, phase
from torch import nn
from torch.nn import functional as F
from transformers import CLIPImageProcessorPil, CLIPModel, CLIPTokenizer, SamImageProcessorPil, SamModel

from clipsam_hf.configuration_clipsam import ClipSamConfig
from clipsam_hf.data import AnomalySample
from clipsam_hf.modeling_clipsam import ClipSamForAnomalySegmentation
from clipsam_hf.processing_clipsam import ClipSamProcessor
from clipsam_hf.training import train_umci


__all__ = ["UmciBatches", "UmciSettings", "build_processor", "generated_samples", "train_head"]

TENSORS: Any = {"return_tensors": "pt"}
UNRELATED = (
    "a dog runs on the beach",
    "two people drink coffee",
    "the train leaves at noon",
    "a song about the summer",
    "my brother plays the piano",
    "blue mountains behind a lake",
    "a recipe for apple cake",
    "the cat sleeps on a chair",
    "a ship in the harbour",
    "children at school",
    "an old letter from a friend",
    "rain over the city at night",
)


@dataclass(frozen=True)
class UmciSettings:
    """Every choice of the stage. `schedule`: (last step, image side, batch size) of each phase."""

    image_size: int = 384
    feature_layers: tuple[int, ...] = ClipSettings.feature_layers[1:]
    umci_hidden_size: int = 64
    scale_sizes: tuple[int, ...] = (3, 9)
    # the embedded checkpoint learnt with these two, whatever a new configuration has
    scale_interpolation: Literal["aligned", "stretched"] = "stretched"
    loss_resolution: Literal["grid", "image"] = "grid"
    head: Literal["conv", "text"] = "conv"
    schedule: Schedule = ((700, 128, 24), (950, 256, 8))
    faintest: float = 0.7
    learning_rate: float = 1e-3
    warmup_steps: int = 100
    generic: float = 0.5
    present_kind: float = 0.33
    absent_kind: float = 0.07
    both_normal: float = 0.05
    min_region_fraction: float = 32 / 256**2
    prompt_type: Literal["box_and_points", "box", "points"] = "points"
    mask_fusion: Literal["soft", "binary"] = "binary"
    merge: Literal["average", "anomaly_weighted", "sum_norm"] = "anomaly_weighted"
    multimask_output: bool = True
    score_top_fraction: float = 0.03
    calibration_images: int = 120
    save_steps: int = 200


def build_processor(tokenizer: CLIPTokenizer, *, clip_size: int, sam_size: int) -> ClipSamProcessor:
    """Return the processor of the checkpoint: a squash for CLIP, an aspect-preserving resize with padding for SAM."""
    return ClipSamProcessor(
        image_processor=CLIPImageProcessorPil(size={"height": clip_size, "width": clip_size}, do_center_crop=False),
        sam_image_processor=SamImageProcessorPil(
            size={"longest_edge": sam_size},
            pad_size={"height": sam_size, "width": sam_size},
            mask_size={"longest_edge": sam_size // 2},
            mask_pad_size={"height": sam_size // 2, "width": sam_size // 2},
        ),
        tokenizer=tokenizer,
    )


class UmciBatches:
    """
    The batches of the stage, as a function of the step.

    Args:
        model: The model, for the embeddings of the sentences, which are made once.
        tokenizer: Its tokenizer.
        pool: Where the images come from.
        settings: The choices.
    """

    def __init__(
        self,
        model: ClipSamForAnomalySegmentation,
        tokenizer: CLIPTokenizer,
        pool: ScenePool,
        settings: UmciSettings,
    ) -> None:
        self.pool, self.settings = pool, settings
        self.groups = {"normal": NORMAL_STATES, "abnormal": ABNORMAL_STATES, **DEFECT_STATES}
        nouns = [*CLASS_NAMES, *(name for family in sorted(MATERIALS) for name in MATERIALS[family])]
        rng = np.random.default_rng((pool.seed, 103))
        self.bank = [
            {group: self._embed(model, tokenizer, group, noun, rng) for group in self.groups} for noun in nouns
        ]
        self.unrelated = embed_sentences(model.clip, tokenizer, list(UNRELATED))

    def _embed(
        self,
        model: ClipSamForAnomalySegmentation,
        tokenizer: CLIPTokenizer,
        group: str,
        noun: str,
        rng: np.random.Generator,
    ) -> torch.Tensor:
        """Embed every state of a group in four templates: (num_sentences, projection_dim)."""
        sentences = [
            fill(TEMPLATES[number], fill(state, noun))
            for state in self.groups[group]
            for number in rng.choice(len(TEMPLATES), 4, replace=False)
        ]
        return embed_sentences(model.clip, tokenizer, sentences)

    def text_of(self, batch: Batch, number: int, rng: np.random.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        """Draw two texts for an image, (2, projection_dim), and the (size, size) mask that they ask for."""
        kinds, present = batch.kinds[number], batch.present(number)
        nothing = torch.zeros_like(kinds, dtype=torch.bool)
        texts = self.bank[rng.integers(len(self.bank))]
        options = self.settings
        limits = np.cumsum((options.generic, options.present_kind, options.absent_kind, options.both_normal))
        case = int(np.searchsorted(limits, rng.random(), side="right"))
        normal = draw(texts["normal"], rng)
        if case == 1 and present:
            kind = present[rng.integers(len(present))]
            return torch.stack((normal, draw(texts[kind], rng))), kinds == KINDS.index(kind) + 1
        if case == 2:
            absent = [kind for kind in KINDS if kind not in present]
            return torch.stack((normal, draw(texts[absent[rng.integers(len(absent))]], rng))), nothing
        if case == 3:
            return torch.stack((normal, normal if rng.random() < 0.5 else draw(texts["normal"], rng))), nothing
        if case == 4:
            first, second = self.unrelated[rng.choice(len(self.unrelated), 2)]
            return torch.stack((first, second)), nothing
        return torch.stack((normal, draw(texts["abnormal"], rng))), kinds > 0

    def constant(self) -> torch.Tensor:
        """Return one pair of texts for everything, the means of all nouns and states: (2, projection_dim)."""
        return torch.stack([self._mean(group) for group in ("normal", "abnormal")])

    def naming(self, kind: str) -> torch.Tensor:
        """Return the texts that ask for one kind of defect on any object: (2, projection_dim)."""
        return torch.stack([self._mean(group) for group in ("normal", kind)])

    def against_others(self, kind: str) -> torch.Tensor:
        """Return the same with all other kinds of defect in the place of the normal text: (2, projection_dim)."""
        others = torch.stack([self._mean(group) for group in KINDS if group != kind])
        return torch.stack((F.normalize(others.mean(0), dim=-1), self._mean(kind)))

    def _mean(self, group: str) -> torch.Tensor:
        return F.normalize(torch.cat([texts[group] for texts in self.bank]).mean(0), dim=-1)

    def __call__(self, step: int) -> dict[str, Any]:
        """Return the keyword arguments of the forward call of a step."""
        rng = np.random.default_rng((self.pool.seed, step, 104))
        options = self.settings
        batch = self.pool.batch(20_000_000 + step, **phase(options.schedule, step), faintest=options.faintest)
        texts, masks = zip(*(self.text_of(batch, number, rng) for number in range(len(batch.words))), strict=True)
        return {
            "pixel_values": normalise(batch.images, CLIP_PIXELS),
            "text_embeds": torch.stack(texts),
            "labels": torch.stack(masks).float(),
        }


@torch.no_grad()
def embed_sentences(clip: CLIPModel, tokenizer: CLIPTokenizer, sentences: list[str]) -> torch.Tensor:
    """Return the normalised embeddings of sentences: (num_sentences, projection_dim)."""
    tokens = tokenizer(sentences, padding=True, truncation=True, return_tensors="pt").to(clip.device)
    return F.normalize(clip.get_text_features(**tokens).pooler_output, dim=-1)


def draw(bank: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
    """Return one sentence's embedding or the mean of all, normalised: (projection_dim,)."""
    if rng.random() < 0.5:
        return F.normalize(bank.mean(0), dim=-1)
    return bank[rng.integers(len(bank))]


def train_head(
    clip: CLIPModel,
    sam: SamModel,
    tokenizer: CLIPTokenizer,
    pool: ScenePool,
    settings: UmciSettings,
    folder: Path,
    *,
    auxiliary_dataset: str,
    fast: bool = False,
) -> ClipSamForAnomalySegmentation:
    """Put both networks together, train UMCI (or go on with it) and return the model without thresholds.

    With `fast` it computes in bfloat16.
    """
    torch.manual_seed(pool.seed)
    clip.config._name_or_path = sam.config._name_or_path = ""
    config = ClipSamConfig(
        clip_config=clip.config,
        sam_config=sam.config,
        feature_layers=settings.feature_layers,
        image_size=settings.image_size,
        umci_hidden_size=settings.umci_hidden_size,
        scale_sizes=settings.scale_sizes,
        scale_interpolation=settings.scale_interpolation,
        loss_resolution=settings.loss_resolution,
        head=settings.head,
        min_region_fraction=settings.min_region_fraction,
        prompt_type=settings.prompt_type,
        mask_fusion=settings.mask_fusion,
        merge=settings.merge,
        multimask_output=settings.multimask_output,
        score_top_fraction=settings.score_top_fraction,
        auxiliary_dataset=auxiliary_dataset,
        auxiliary_seed=pool.seed,
    )
    model = ClipSamForAnomalySegmentation(config)
    model.clip.load_state_dict(clip.state_dict())
    model.sam.load_state_dict(sam.state_dict())
    nn.Module.to(model, pool.device)
    train_umci(
        model,
        UmciBatches(model, tokenizer, pool, settings),
        num_steps=settings.schedule[-1][0],
        learning_rate=settings.learning_rate,
        warmup_steps=settings.warmup_steps,
        output_dir=folder,
        save_steps=settings.save_steps,
        accelerator=Accelerator(cpu=pool.device.type == "cpu", mixed_precision="bf16") if fast else None,
        log=lambda line: print(" ".join(f"{name} {value:.4g}" for name, value in line.items()), flush=True),
    )
    return model.eval()


def generated_samples(pool: ScenePool, settings: UmciSettings) -> list[AnomalySample]:
    """Return generated images as samples of a data set, to choose thresholds on."""
    batch = pool.batch(30_000_000, first=30_000_000, count=settings.calibration_images, size=settings.image_size)
    images = (batch.images.cpu() * 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
    return [
        AnomalySample(
            image_path=Path(f"{number}.png"),
            mask_path=None,
            label=int(mask.any()),
            category="generated",
            class_name="object",
            defect_type=None,
            split="train",
            image=Image.fromarray(image),
            mask=Image.fromarray(mask.astype(np.uint8) * 255),
        )
        for number, (image, mask) in enumerate(zip(images, batch.masks.cpu().numpy(), strict=True))
    ]
