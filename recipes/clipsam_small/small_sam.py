# SPDX-FileCopyrightText: 2026 The clipsam_hf authors
# SPDX-License-Identifier: Apache-2.0
"""
SAM of `clipsam-small`: its encoder is the first blocks of the same DINOv2, as they are; the rest is trained, and
begins with what `clipsam-tiny` knows of prompts.

What the encoder makes of an image is computed once. Images are generated defects over real surfaces, and photographs
whole and in pieces; asked for are defects, things, and patches of one colour, whose edges are real. Most often SAM is
asked as the package will ask it: a rough map with patches of CLIP's size is made of the true mask, blurred and
disturbed; its regions give boxes and points by the package's own functions, and the answer is what is defective in
the region and right beside it: often a hair within a wide band, sometimes nothing.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from scipy import ndimage
from small_features import SceneCache
from small_scenes import DEFECT_WORDS, KINDS, Scenes, Surfaces, draw_box
from small_vision import to_sam_vision
from synthetic import SyntheticImages
from synthetic_defects import TRAINING_DEFECTS
from synthetic_pool import STRONGEST, Batch, photograph
from tiny_common import SAM_PIXELS, normalise, run_steps
from tiny_sam import PromptedMasks, SamSettings
from torch import Tensor
from torch.nn import functional as F
from transformers import Dinov2Model, SamConfig, SamModel
from transformers.models.sam.modeling_sam import SamVisionEncoder

from clipsam_hf.data import AnomalyFolder
from clipsam_hf.regions_clipsam import Frame, build_prompts, find_regions


__all__ = [
    "PIECES",
    "SETTINGS",
    "OwnSettings",
    "RegionPrompts",
    "SamScenes",
    "build_sam",
    "disturbed_map",
    "draw_pieces",
    "encode",
    "find_segments",
    "train_decoder",
]


@dataclass(frozen=True)
class OwnSettings(SamSettings):
    """Every choice of the stage."""

    image_size: int = 672
    num_layers: int = 6
    window_size: int = 16
    global_layers: tuple[int, ...] = (5,)
    num_steps: int = 1600
    images_per_step: int = 6
    photograph_share: float = 0.5
    peak_learning_rate: float = 1.0e-3
    prompts_per_image: int = 4
    save_steps: int = 250


SETTINGS = OwnSettings()

CELL = 21
"""Pixels of a patch of the rough map, in a photograph of `SETTINGS.image_size`."""
PIECES = 4
"""So often a photograph is shown: whole, and pieces of it."""

ROUGH_SHARE = 0.6
GOOD_SHARE = 0.1
# What a patch of the rough map blurs most, beyond its share of the kinds
THIN, THIN_SHARE = ("crack", "scratch"), 0.3
FAINTEST = 0.45
# The surfaces are small tiles: from enlarged two and a half times to halved, in a picture of 256 pixels
EXTENTS = (0.8, 4.0)
# Photographs are most often smaller than SAM's square: so many pixels of a side are there for one that was drawn
ENLARGED = (1.5, 2.0, 2.5)
# A patch of one colour: how different its colours may be, and how large it is
TOLERANCES, AREAS, MOST_SEGMENTS, TRIES = (0.03, 0.15), (5e-4, 0.25), 6, 18


def build_sam(dinov2: Dinov2Model, first: SamModel, settings: OwnSettings, *, seed: int) -> SamModel:
    """
    Return the network before training: DINOv2's blocks, a new neck, and the rest of another SAM.

    From nothing, a decoder takes very long to learn that a prompt is a place in the image.

    Args:
        dinov2: The network.
        first: A SAM, of whose width the neck is.
        settings: The choices.
        seed: Of the neck.
    """
    own: Any = dinov2.config
    theirs: Any = first.config
    prompts, width = theirs.prompt_encoder_config.to_dict(), theirs.vision_config.output_channels
    del prompts["image_embedding_size"]
    torch.manual_seed(seed)
    config = SamConfig(
        vision_config={
            "hidden_size": own.hidden_size,
            "output_channels": width,
            "num_hidden_layers": settings.num_layers,
            "num_attention_heads": own.num_attention_heads,
            "image_size": settings.image_size,
            "patch_size": own.patch_size,
            "window_size": settings.window_size,
            "global_attn_indexes": list(settings.global_layers),
            "num_pos_feats": width // 2,
            "mlp_dim": int(own.hidden_size * own.mlp_ratio),
            "hidden_act": own.hidden_act,
            "layer_norm_eps": own.layer_norm_eps,
            "use_rel_pos": False,
        },
        prompt_encoder_config={**prompts, "image_size": settings.image_size, "patch_size": own.patch_size},
        mask_decoder_config=theirs.mask_decoder_config.to_dict(),
    )
    model = SamModel(config)
    vision: Any = model.config.vision_config
    blocks = to_sam_vision(dinov2, vision).state_dict()
    model.vision_encoder.load_state_dict(
        {name: tensor for name, tensor in blocks.items() if not name.startswith("neck.")}, strict=False
    )
    for part in ("shared_image_embedding", "prompt_encoder", "mask_decoder"):
        model.get_submodule(part).load_state_dict(first.get_submodule(part).state_dict())
    for name, parameter in model.vision_encoder.named_parameters():
        parameter.requires_grad_(name.startswith("neck."))
    return model


@torch.no_grad()
def encode(encoder: SamVisionEncoder, images: Tensor, *, fast: bool = False) -> Tensor:
    """
    Return what the neck is given.

    Args:
        encoder: With table of positions.
        images: (count, 3, side, side) float32 in [0, 1].
        fast: Compute in bfloat16.

    Returns:
        (count, 1, channels, height, width) float16.
    """
    with torch.autocast("cpu", torch.bfloat16, enabled=fast):
        hidden = encoder.patch_embed(normalise(images, SAM_PIXELS)) + encoder.pos_embed
        for layer in encoder.layers:
            hidden = layer(hidden)
    return hidden.permute(0, 3, 1, 2)[:, None].half()


class SamScenes:
    """
    An endless list of generated scenes, each a function of the seed and its number.

    Args:
        materials: Folder of families of materials.
        seed: Of all scenes.
        size: Their side in pixels.
    """

    def __init__(self, materials: Path, *, seed: int, size: int) -> None:
        self.seed, self.size = seed, size
        self.surfaces = Surfaces(materials, [])
        thin = {kind: draw for kind, draw in TRAINING_DEFECTS.items() if kind in THIN}
        self.images, self.thin_images = (
            SyntheticImages(
                seed=seed,
                defects=defects,
                good_fraction=0,
                grey_fraction=0.45,
                detail_fraction=0.6,
                photographs=self.surfaces,
                material_fraction=0.55,
                true_fraction=0.0,
            )
            for defects in (TRAINING_DEFECTS, thin)
        )

    def draw(self, first: int, count: int) -> Scenes:
        """Return some scenes; `kinds` is (count, 2, size, size): kinds, and things or patches of one colour."""
        images, labels, words = zip(*(self.draw_one(first + row) for row in range(count)), strict=True)
        return Scenes(torch.stack(images), torch.stack(labels), list(words))

    def draw_one(self, number: int) -> tuple[Tensor, Tensor, str]:
        """Return a scene's image, labels and words."""
        rng = np.random.default_rng((self.seed, number, 6))
        generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
        drawn = round(self.size / ENLARGED[rng.integers(len(ENLARGED))])
        self.surfaces.extents = (EXTENTS[0] * drawn / 256, EXTENTS[1] * drawn / 256)
        scene = (self.thin_images if rng.random() < THIN_SHARE else self.images).scene(number, size=drawn)
        kept = rng.random() >= GOOD_SHARE
        clean, damaged = (torch.from_numpy(each.copy()).float() / 255 for each in (scene.clean, scene.damaged))
        image = clean + kept * rng.uniform(FAINTEST, STRONGEST) * (damaged - clean)
        image = photograph(image.permute(2, 0, 1)[None].clamp(0, 1), generator)[0]
        labels = np.zeros((2, drawn, drawn), np.uint8)
        for kind, mask in scene.masks.items():
            labels[0, mask] = kept * (KINDS.index(kind) + 1)
        for place, mask in enumerate(scene.objects, start=1):
            labels[1, mask] = place
        if not scene.objects:
            labels[1] = find_segments(image.permute(1, 2, 0).numpy(), rng)
        square = (self.size, self.size)
        enlarged = F.interpolate(image[None], size=square, mode="bicubic", align_corners=False)[0].clamp(0, 1)
        return enlarged, F.interpolate(torch.from_numpy(labels)[None], size=square)[0], scene.words


def find_segments(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """
    Find patches of one colour around random places, as a flood would fill them.

    Args:
        image: (height, width, 3) float32 in [0, 1].
        rng: Of the places, and of how much colours may differ.

    Returns:
        (height, width) uint8: 0, or the number of a patch from 1.
    """
    labels = np.zeros(image.shape[:2], np.uint8)
    smooth = ndimage.gaussian_filter(image, (sigma := rng.uniform(0.5, 2.5), sigma, 0))
    for _ in range(TRIES):
        row, column = rng.integers(labels.shape).tolist()
        tolerance = np.exp(rng.uniform(*np.log(TOLERANCES)))
        alike, _ = ndimage.label(np.abs(smooth - smooth[row, column]).max(-1) < tolerance)
        patch = ndimage.binary_fill_holes(alike == alike[row, column]) & (labels == 0)
        if AREAS[0] <= patch.mean() <= AREAS[1] and patch[row, column]:
            labels[patch] = labels.max() + 1
            if labels.max() == MOST_SEGMENTS:
                break
    return labels


def draw_pieces(data: AnomalyFolder, first: int, count: int, *, seed: int, size: int) -> Scenes:
    """
    Return photographs and pieces of them, `PIECES` of each in turn; the first is the whole, padded as SAM pads it.

    Args:
        data: The data set.
        first: Number of the first piece.
        count: How many.
        seed: Of the pieces.
        size: Side of the square in pixels.
    """
    images, labels, words = [], [], []
    for number in range(first, first + count):
        sample, rng = data[number // PIECES], np.random.default_rng((seed, number, 8))
        picture, mask = sample.load_image().convert("RGB"), np.asarray(sample.load_mask()) > 0
        box = (0, 0, *picture.size) if number % PIECES == 0 else draw_box(mask, rng)
        scale = size / max(box[2] - box[0], box[3] - box[1])
        shown = (round((box[2] - box[0]) * scale), round((box[3] - box[1]) * scale))
        image = np.asarray(picture.resize(shown, Image.Resampling.BILINEAR, box=box), np.float32) / 255
        kind = KINDS.index(DEFECT_WORDS[str(sample.defect_type)]) + 1 if sample.label == 1 else 0
        kinds = np.asarray(Image.fromarray(mask).resize(shown, Image.Resampling.NEAREST, box=box)) * np.uint8(kind)
        both = np.stack((kinds, find_segments(image, rng)))
        if rng.random() < 0.5 and number % PIECES:
            image, both = image[:, ::-1], both[..., ::-1]
        # The mean colour is what SAM's zeros beside a photograph are
        square = torch.tensor(SAM_PIXELS[0]).view(3, 1, 1).repeat(1, size, size)
        square[:, : shown[1], : shown[0]] = torch.from_numpy(image.copy()).permute(2, 0, 1)
        padded = torch.zeros(2, size, size, dtype=torch.uint8)
        padded[:, : shown[1], : shown[0]] = torch.from_numpy(both.copy())
        images.append(square)
        labels.append(padded)
        words.append(sample.class_name)
    return Scenes(torch.stack(images), torch.stack(labels), words)


def disturbed_map(mask: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """
    Draw a rough map that a localizer with patches of `CELL` pixels might give.

    Args:
        mask: (size, size) bool, the true defects; `size` is a multiple of `CELL`.
        rng: Of the draw.

    Returns:
        (size / 2, size / 2) float32 in [0, 1].
    """
    side = len(mask) // CELL
    cover = mask.reshape(side, CELL, side, CELL).mean((1, 3))
    # A patch with a hair in it answers nearly as one that is all defect
    answer = 1 - (1 - cover) ** np.exp(rng.uniform(np.log(2), np.log(16)))
    answer = ndimage.gaussian_filter(answer, rng.uniform(0.2, 1.0)) * rng.uniform(0.5, 1.0)
    noise = ndimage.gaussian_filter(rng.standard_normal((side, side)), rng.uniform(0.4, 1.5))
    answer = answer + rng.uniform(0, 0.2) * noise / noise.std()
    if rng.random() < 0.3:  # what is no defect and is taken for one
        place = np.mgrid[:side, :side] - rng.uniform(0, side, (2, 1, 1))
        answer = np.maximum(answer, np.exp(-0.5 * (place**2).sum(0) / rng.uniform(0.4, 2.0) ** 2))
    enlarged = torch.from_numpy(answer)[None, None].float().clamp(0, 1)
    return torch.nn.functional.interpolate(enlarged, size=len(mask) // 2, mode="bilinear")[0, 0].numpy()


class RegionPrompts(PromptedMasks):
    """
    The loss of the stage: prompts of the regions of a rough map, or around a thing, as in `clipsam-tiny`.

    Args:
        model: The network, of which the encoder's blocks are not called.
        scenes: Generated scenes.
        photographs: Photographs and their pieces by set; may be empty.
        settings: The choices.
        seed: Of all draws.
    """

    def __init__(
        self,
        model: SamModel,
        scenes: SceneCache,
        photographs: Sequence[SceneCache],
        settings: OwnSettings,
        seed: int,
    ) -> None:
        super().__init__(model, _Seed(seed), settings)
        self.scenes, self.photographs, self.own = scenes, photographs, settings

    def batch(self, step: int, rng: np.random.Generator) -> tuple[Tensor, ...]:
        """Return the encoder's states, (batch, prompts, side, side) masks, boxes and points of a step."""
        cache, share = self.scenes, self.own.photograph_share
        if self.photographs and rng.random() < share:
            cache = self.photographs[int(rng.integers(len(self.photographs)))]
        drawn = cache.draw(rng, self.own.images_per_step)
        kinds, objects = drawn.kinds.unbind(1)
        parts = torch.stack([label_parts(each) for each in kinds])
        batch = Batch(drawn.features, kinds, parts, objects, drawn.words)
        rows = [self.ask(batch, number, rng) for number in range(len(batch.words))]
        masks, boxes, points = (torch.stack(each) for each in zip(*rows, strict=True))
        return drawn.features[:, 0].permute(0, 2, 3, 1), masks.float(), boxes, points

    def embed(self, images: Tensor) -> Tensor:
        """Return the image embeddings of the encoder's states."""
        embeddings: Tensor = self.model.vision_encoder.neck(images)
        return embeddings

    def ask(self, batch: Batch, number: int, rng: np.random.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """Draw the prompts of one image: (prompts, side, side) masks, (prompts, 4) boxes, (prompts, points, 2)."""
        prompts, size = self.settings.prompts_per_image, batch.kinds.shape[-1]
        if rng.random() < ROUGH_SHARE:
            truth = batch.kinds[number].numpy() > 0
            rough = disturbed_map(truth, rng)
            threshold = rng.uniform(0.25, 0.6) * float(rough.max())
            regions = find_regions(rough, threshold, max_region_fraction=0.5, max_regions=64)
            if regions:
                chosen = [regions[i] for i in rng.integers(len(regions), size=prompts)]
                frame, points = Frame((size, size), size), self.settings.num_points
                given = build_prompts(chosen, rough, frame, num_points=points, seed=int(rng.integers(2**31)))
                asked = [torch.from_numpy(truth & near(region.mask)) for region in chosen]
                assert given.input_boxes is not None and given.input_points is not None
                return torch.stack(asked), given.input_boxes, given.input_points
        segments = self.segments(batch, number, rng)
        masks = torch.stack([segments[i] for i in rng.integers(len(segments), size=prompts)])
        # SAM itself adds half a pixel
        return masks, self.draw_boxes(masks, rng) - 0.5, self.draw_points(masks, rng) - 0.5


def near(region: np.ndarray) -> np.ndarray:
    """Return where a region of a map of half the side is, or is a patch away: bool, of the whole side."""
    wide = ndimage.binary_dilation(region, np.ones((3, 3), bool), iterations=CELL // 2)
    return wide.repeat(2, 0).repeat(2, 1)


def label_parts(kinds: Tensor) -> Tensor:
    """Number the connected parts of the defects: (side, side) uint8."""
    found, _ = ndimage.label(kinds.numpy() > 0, structure=np.ones((3, 3)))
    return torch.from_numpy(np.minimum(found, 255).astype(np.uint8))


class _Seed:
    """What `PromptedMasks` asks a pool that draws no images."""

    def __init__(self, seed: int) -> None:
        self.seed, self.device = seed, torch.device("cpu")

    def batch(self, step: int, *, first: int, count: int, size: int) -> Batch:
        raise NotImplementedError


def train_decoder(
    model: SamModel, loss: RegionPrompts, settings: OwnSettings, state_path: Path, *, fast: bool = False
) -> None:
    """Train neck, prompts and decoder, or go on with what the file holds; the encoder's blocks stay."""
    run_steps(
        model,
        loss,
        first_step=0,
        last_step=settings.num_steps,
        num_steps=settings.num_steps,
        peak=settings.peak_learning_rate,
        warmup=settings.warmup,
        state_path=state_path,
        save_every=settings.save_steps,
        fast=fast,
    )
