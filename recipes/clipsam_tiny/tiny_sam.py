# SPDX-FileCopyrightText: 2026 The clipsam_hf authors
# SPDX-License-Identifier: Apache-2.0
"""
Stage 2 of `clipsam-tiny`: a small SAM, asked with boxes and points for objects, defects and patches of texture.

The prompts are as coarse as a rough anomaly map makes them: boxes too wide or shifted, points beside a thin crack.
Training begins on small images; the network is then widened to its final side and trained on.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from synthetic_pool import Batch
from tiny_common import SAM_PIXELS, Batches, Schedule, normalise, patch_filters, phase, run_steps
from torch import nn
from torch.nn import functional as F
from transformers import SamConfig, SamModel


__all__ = ["FURTHER", "PromptedMasks", "SamSettings", "resized", "sam_config", "train_sam"]


MIN_AREA = 6


@dataclass(frozen=True)
class SamSettings:
    """
    Every choice of the stage. `schedule`: (last step, image side, batch size) of each phase.

    A run that goes on from another has `FURTHER` instead.
    """

    image_size: int = 256
    patch_size: int = 8
    hidden_size: int = 96
    num_layers: int = 4
    window_size: int = 8
    global_layers: tuple[int, ...] = (2,)
    output_channels: int = 64
    schedule: Schedule = ((4400, 128, 16), (5000, 256, 6))
    peak_learning_rate: float = 2.0e-3
    warmup: int = 100
    prompts_per_image: int = 3
    num_points: int = 5
    all_masks_weight: float = 0.2
    score_weight: float = 1.0
    save_steps: int = 200


FURTHER = SamSettings(schedule=((800, 128, 16), (1000, 256, 6)), peak_learning_rate=1.0e-3)


def sam_config(settings: SamSettings, image_size: int) -> SamConfig:
    """Return the configuration of the network for one image side."""
    width = settings.output_channels
    return SamConfig(
        vision_config={
            "hidden_size": settings.hidden_size,
            "output_channels": width,
            "num_hidden_layers": settings.num_layers,
            "num_attention_heads": 2,
            "image_size": image_size,
            "patch_size": settings.patch_size,
            "window_size": settings.window_size,
            "global_attn_indexes": list(settings.global_layers),
            "num_pos_feats": width // 2,
            "mlp_ratio": 3.0,
            "initializer_range": 0.02,
        },
        prompt_encoder_config={
            "hidden_size": width,
            "image_size": image_size,
            "patch_size": settings.patch_size,
            "mask_input_channels": 8,
        },
        mask_decoder_config={
            "hidden_size": width,
            "mlp_dim": 2 * width,
            "num_attention_heads": 4,
            "iou_head_hidden_dim": width,
        },
    )


def resized(model: SamModel, settings: SamSettings, image_size: int) -> SamModel:
    """Return the same network for another image side: tables of positions are interpolated, all else is copied."""
    other = SamModel(sam_config(settings, image_size))
    state = {}
    for name, tensor in other.state_dict().items():
        source = model.state_dict()[name]
        if source.shape == tensor.shape:
            state[name] = source
        elif name.endswith("pos_embed"):
            table = source.permute(0, 3, 1, 2)
            state[name] = F.interpolate(table, size=tensor.shape[1:3], mode="bicubic").permute(0, 2, 3, 1)
        else:
            state[name] = F.interpolate(source.T[None], size=len(tensor), mode="linear")[0].T
    other.load_state_dict(state)
    return other


class PromptedMasks:
    """
    The loss of the stage, as a function of the step.

    Args:
        model: The network, of which the submodules are called: its own way to embed prompts gives no gradient.
        pool: Where the images come from.
        settings: The choices.
    """

    def __init__(self, model: SamModel, pool: Batches, settings: SamSettings) -> None:
        self.model, self.pool, self.settings = model, pool, settings

    def segments(self, batch: Batch, number: int, rng: np.random.Generator) -> list[torch.Tensor]:
        """Return what one image has to ask for, bool masks: parts of its defects, objects, else a random square."""
        masks = []
        # defects are what SAM will be asked for; objects are there so that it learns what a thing is
        for labels, weight in ((batch.parts[number], 2), (batch.objects[number], 1)):
            counts = torch.bincount(labels.flatten().long(), minlength=256)[1:].tolist()
            found = [label for label, count in enumerate(counts, start=1) if count >= MIN_AREA]
            masks += [labels == label for label in rng.permutation(found)[:4].tolist()] * weight
        if masks:
            return masks
        side = batch.parts.shape[-1]
        nothing = torch.zeros_like(batch.parts[number], dtype=torch.bool)
        top, left = rng.integers(side // 2, size=2)
        height, width = rng.integers(side // 16, side // 2, size=2)
        nothing[top : top + height, left : left + width] = True
        return [nothing]

    def draw_boxes(self, masks: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
        """Draw coarse boxes (XYXY, pixels) around (num_masks, side, side) masks: too wide, or shifted."""
        side = masks.shape[-1]
        place = torch.arange(side, device=masks.device)
        edges = []
        for seen in (masks.any(1), masks.any(2)):  # columns, rows: (num_masks, side)
            first = torch.where(seen, place, side).amin(1)
            edges.append((first, torch.where(seen, place, -1).amax(1) + 1))
        (left, right), (top, bottom) = edges
        boxes = torch.stack((left, top, right, bottom), 1).cpu().double().numpy()
        extent = np.tile(boxes[:, 2:] - boxes[:, :2], 2)
        wide = rng.random((len(boxes), 1)) < 0.6
        outwards = np.array((-1, -1, 1, 1)) * np.abs(rng.normal(0, 0.03 * side, boxes.shape)) * wide
        boxes = np.clip(boxes + outwards + rng.normal(0, 0.06, boxes.shape) * extent, 0, side)
        return torch.from_numpy(boxes).float().to(masks.device)

    def draw_points(self, masks: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
        """Draw points (XY, pixels) in (num_masks, side, side) masks or right beside them."""
        side = masks.shape[-1]
        reach = 1 + 2 * int(rng.integers(1, 2 + side // 64))
        near = F.max_pool2d(masks[:, None].float(), (reach, 1), 1, (reach // 2, 0))
        near = F.max_pool2d(near, (1, reach), 1, (0, reach // 2))[:, 0]
        beside = torch.from_numpy(rng.random(len(masks)) < 0.5).to(masks.device)
        weights = torch.where(beside[:, None, None], near, masks.float()).flatten(1)  # (num_masks, side * side)
        # the k-th marked pixel for a random k: a cumulative sum instead of a sampler whose draws depend on the device
        total = weights.cumsum(1)
        draws = torch.from_numpy(rng.random((len(masks), self.settings.num_points))).to(total)
        chosen = torch.searchsorted(total, draws * total[:, -1:], right=True).clamp(max=side * side - 1)
        points = torch.stack((chosen % side, chosen // side), -1).float()
        return points + torch.from_numpy(rng.random(points.shape)).to(points)

    def batch(self, step: int, rng: np.random.Generator) -> tuple[torch.Tensor, ...]:
        """Return images, (batch, prompts, side, side) masks, boxes and points of a step."""
        # other images than those of the CLIP stage at the same step
        batch = self.pool.batch(10_000_000 + step, **phase(self.settings.schedule, step))
        count, prompts = len(batch.words), self.settings.prompts_per_image
        chosen: list[torch.Tensor] = []
        for number in range(count):
            segments = self.segments(batch, number, rng)
            chosen += [segments[i] for i in rng.integers(len(segments), size=prompts)]
        masks = torch.stack(chosen)  # (batch * prompts, side, side)
        # SAM itself adds half a pixel
        boxes, points = self.draw_boxes(masks, rng) - 0.5, self.draw_points(masks, rng) - 0.5
        shape = (count, prompts)
        images = normalise(batch.images, SAM_PIXELS)
        return images, masks.float().unflatten(0, shape), boxes.unflatten(0, shape), points.unflatten(0, shape)

    def embed(self, images: torch.Tensor) -> torch.Tensor:
        """Return the image embeddings of the images of a batch, (batch, width, low, low)."""
        return self.model.vision_encoder(images).last_hidden_state

    def __call__(self, step: int) -> tuple[torch.Tensor, dict[str, float], int]:
        """Return the loss of a step, its parts, and the number of images."""
        rng = np.random.default_rng((self.pool.seed, step, 102))
        images, masks, boxes, points = self.batch(step, rng)
        kind = rng.choice(("both", "box", "points"), p=(0.6, 0.2, 0.2))
        points = points[:, :, : self.settings.num_points if kind == "both" else rng.integers(1, 6)]
        sparse, dense = self.model.prompt_encoder(
            input_points=None if kind == "box" else points,
            input_labels=None if kind == "box" else points.new_ones(points.shape[:3]),
            input_boxes=None if kind == "points" else boxes,
            input_masks=None,
        )
        logits, scores = self.model.mask_decoder(
            image_embeddings=self.embed(images),
            image_positional_embeddings=self.model.get_image_wide_positional_embeddings().expand(
                len(boxes), -1, -1, -1
            ),
            sparse_prompt_embeddings=sparse,
            dense_prompt_embeddings=dense,
            multimask_output=bool(rng.random() < 0.85),
        )  # (batch, prompts, masks, low, low)

        # each mask against the truth; the best one counts most
        target = F.interpolate(masks, size=logits.shape[-2:], mode="area")[:, :, None].expand_as(logits)
        probability = logits.sigmoid()
        dice = 1 - (2 * (probability * target).sum((-2, -1)) + 1) / ((probability + target).sum((-2, -1)) + 1)
        # defects are small: unless either side counts half, the network begins by marking nothing and stays there
        entropy = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
        balanced = (entropy * target).sum((-2, -1)) / target.sum((-2, -1)).clamp(min=0.5)
        balanced = balanced + (entropy * (1 - target)).sum((-2, -1)) / (1 - target).sum((-2, -1)).clamp(min=0.5)
        quality = dice + 0.25 * balanced
        with torch.no_grad():
            marked, real = logits > 0, target > 0.5
            overlap = (marked & real).sum((-2, -1)) / (marked | real).sum((-2, -1)).clamp(min=1)
        honesty = F.mse_loss(scores, overlap)
        best = quality.min(-1).values.mean()
        loss = best + self.settings.all_masks_weight * quality.mean() + self.settings.score_weight * honesty
        figures = {"best": best, "honesty": honesty, "iou": overlap.max(-1).values.mean()}
        return loss, {name: value.item() for name, value in figures.items()}, len(boxes)


def first_weights(settings: SamSettings, pool: Batches, image_size: int) -> SamModel:
    """Return an untrained network with filters for edges and colours, and waves that fit coordinates in [0, 1]."""
    model = SamModel(sam_config(settings, image_size))
    with torch.no_grad():
        filters = patch_filters(pool, settings.hidden_size, settings.patch_size, SAM_PIXELS)
        model.vision_encoder.patch_embed.projection.weight.copy_(filters)
        waves = model.shared_image_embedding.positional_embedding
        waves.copy_(1.5 * torch.randn_like(waves))
        if model.vision_encoder.pos_embed is not None:
            model.vision_encoder.pos_embed.normal_(std=0.02)
    return model


def train_sam(
    settings: SamSettings,
    pool: Batches,
    folder: Path,
    start_from: Path | None = None,
    *,
    fast: bool = False,
) -> SamModel:
    """
    Train the stage (or go on with it) and save the network to `folder`/sam.

    Args:
        settings: The choices.
        pool: Where the images come from.
        folder: Folder of the states and the result.
        start_from: Folder of an earlier run, whose network is trained further.
        fast: Compute in bfloat16.
    """
    torch.manual_seed(pool.seed)
    first_size = settings.schedule[0][1]
    if start_from is None:
        model = first_weights(settings, pool, first_size)
    else:
        model = resized(SamModel.from_pretrained(start_from / "sam"), settings, first_size)
    nn.Module.to(model, pool.device)
    first_step = 0
    for last_step, size, _ in settings.schedule:
        if size != first_size:
            model = resized(model, settings, size)
            nn.Module.to(model, pool.device)
        if fast:
            model.set_attn_implementation("eager")
        run_steps(
            model,
            PromptedMasks(model, pool, settings),
            first_step=first_step,
            last_step=last_step,
            num_steps=settings.schedule[-1][0],
            peak=settings.peak_learning_rate,
            warmup=settings.warmup,
            state_path=folder / f"sam_state_{size}.pt",
            save_every=settings.save_steps,
            fast=fast,
        )
        first_step = last_step
    model.save_pretrained(folder / "sam")
    return model
