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
from scipy import ndimage
from synthetic_pool import Batch, ScenePool
from tiny_common import SAM_PIXELS, normalise, patch_filters, phase, run_steps
from torch import nn
from torch.nn import functional as F
from transformers import SamConfig, SamModel


__all__ = ["PromptedMasks", "SamSettings", "sam_config", "train_sam", "widen"]


MIN_AREA = 6


@dataclass(frozen=True)
class SamSettings:
    """Every choice of the stage. `schedule`: (last step, image side, batch size) of each phase."""

    image_size: int = 256
    patch_size: int = 8
    hidden_size: int = 96
    num_layers: int = 4
    window_size: int = 8
    global_layers: tuple[int, ...] = (2,)
    output_channels: int = 64
    schedule: tuple[tuple[int, int, int], ...] = ((3200, 128, 16), (4000, 256, 6))
    peak_learning_rate: float = 1.0e-3
    warmup: int = 200
    prompts_per_image: int = 3
    num_points: int = 5
    all_masks_weight: float = 0.2
    score_weight: float = 1.0


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


def widen(model: SamModel, settings: SamSettings, image_size: int) -> SamModel:
    """Return the same network for a larger image side: tables of positions are interpolated, all else is copied."""
    wider = SamModel(sam_config(settings, image_size))
    state = {}
    for name, tensor in wider.state_dict().items():
        source = model.state_dict()[name]
        if source.shape == tensor.shape:
            state[name] = source
        elif name.endswith("pos_embed"):
            table = source.permute(0, 3, 1, 2)
            state[name] = F.interpolate(table, size=tensor.shape[1:3], mode="bicubic").permute(0, 2, 3, 1)
        else:
            state[name] = F.interpolate(source.T[None], size=len(tensor), mode="linear")[0].T
    wider.load_state_dict(state)
    return wider


class PromptedMasks:
    """
    The loss of the stage, as a function of the step.

    Args:
        model: The network, of which the submodules are called: its own way to embed prompts gives no gradient.
        pool: Where the images come from.
        settings: The choices.
    """

    def __init__(self, model: SamModel, pool: ScenePool, settings: SamSettings) -> None:
        self.model, self.pool, self.settings = model, pool, settings

    def prompt(self, mask: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Draw a coarse box (XYXY) around a mask and points (XY) in or beside it, in pixels."""
        side = len(mask)
        rows, columns = np.nonzero(mask)
        box = np.array((columns.min(), rows.min(), columns.max() + 1, rows.max() + 1), float)
        extent = np.tile(box[2:] - box[:2], 2)
        outwards = np.array((-1, -1, 1, 1)) * np.abs(rng.normal(0, 0.03 * side, 4)) * (rng.random() < 0.6)
        box = np.clip(box + outwards + rng.normal(0, 0.06, 4) * extent, 0, side)
        near = mask
        if rng.random() < 0.5:
            near = ndimage.binary_dilation(mask, iterations=int(rng.integers(1, 2 + side // 64)))
        rows, columns = np.nonzero(near)
        chosen = rng.integers(len(rows), size=self.settings.num_points)
        return box, np.stack((columns[chosen], rows[chosen]), 1) + rng.uniform(0, 1, (len(chosen), 2))

    def segments(self, batch: Batch, number: int, rng: np.random.Generator) -> list[np.ndarray]:
        """Return what one image has to ask for: connected parts of its defects, objects, else a random square."""
        masks: list[np.ndarray] = []
        kinds, objects = batch.kinds[number].cpu().numpy(), batch.objects[number].cpu().numpy()
        for kind in np.unique(kinds[kinds > 0]):
            parts, count = ndimage.label(kinds == kind, structure=np.ones((3, 3)))
            masks += [parts == part for part in range(1, min(count, 4) + 1)]
        # defects are what SAM will be asked for; objects are there so that it learns what a thing is
        things = [objects == label for label in np.unique(objects[objects > 0])]
        masks = [*masks, *masks, *things[:3]]
        masks = [mask for mask in masks if mask.sum() >= MIN_AREA]
        if masks:
            return masks
        nothing = np.zeros(kinds.shape, bool)
        corner = rng.integers(kinds.shape[0] // 2, size=2)
        extent = rng.integers(kinds.shape[0] // 16, kinds.shape[0] // 2, size=2)
        nothing[corner[0] : corner[0] + extent[0], corner[1] : corner[1] + extent[1]] = True
        return [nothing]

    def batch(self, step: int, rng: np.random.Generator) -> tuple[torch.Tensor, ...]:
        """Return images, (batch, prompts, side, side) masks, boxes and points of a step."""
        # other images than those of the CLIP stage at the same step
        batch = self.pool.batch(10_000_000 + step, **phase(self.settings.schedule, step))
        masks, boxes, points = [], [], []
        for number in range(len(batch.words)):
            segments = self.segments(batch, number, rng)
            chosen = [segments[i] for i in rng.integers(len(segments), size=self.settings.prompts_per_image)]
            prompts = [self.prompt(mask, rng) for mask in chosen]
            masks.append(np.stack(chosen))
            boxes.append(np.stack([box for box, _ in prompts]))
            points.append(np.stack([point for _, point in prompts]))
        # SAM itself adds half a pixel
        device = self.pool.device
        coordinates = (torch.from_numpy(np.stack(each)).float().to(device) - 0.5 for each in (boxes, points))
        images = normalise(batch.images, SAM_PIXELS)
        return images, torch.from_numpy(np.stack(masks)).float().to(device), *coordinates

    def __call__(self, step: int) -> tuple[torch.Tensor, dict[str, float], int]:
        """Return the loss of a step, its parts, and the number of images."""
        rng = np.random.default_rng((self.pool.seed, step, 102))
        pixel_values, masks, boxes, points = self.batch(step, rng)
        kind = rng.choice(("both", "box", "points"), p=(0.6, 0.2, 0.2))
        points = points[:, :, : self.settings.num_points if kind == "both" else rng.integers(1, 6)]
        sparse, dense = self.model.prompt_encoder(
            input_points=None if kind == "box" else points,
            input_labels=None if kind == "box" else points.new_ones(points.shape[:3]),
            input_boxes=None if kind == "points" else boxes,
            input_masks=None,
        )
        logits, scores = self.model.mask_decoder(
            image_embeddings=self.model.vision_encoder(pixel_values).last_hidden_state,
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
        area = target.mean((-2, -1)).clamp(min=0.01)
        entropy = F.binary_cross_entropy_with_logits(logits, target, reduction="none").mean((-2, -1))
        quality = dice + 0.5 * entropy / area.sqrt()
        with torch.no_grad():
            marked, real = logits > 0, target > 0.5
            overlap = (marked & real).sum((-2, -1)) / (marked | real).sum((-2, -1)).clamp(min=1)
        honesty = F.mse_loss(scores, overlap)
        best = quality.min(-1).values.mean()
        loss = best + self.settings.all_masks_weight * quality.mean() + self.settings.score_weight * honesty
        figures = {"best": best, "honesty": honesty, "iou": overlap.max(-1).values.mean()}
        return loss, {name: value.item() for name, value in figures.items()}, len(boxes)


def first_weights(settings: SamSettings, pool: ScenePool, image_size: int) -> SamModel:
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


def train_sam(settings: SamSettings, pool: ScenePool, folder: Path) -> SamModel:
    """Train the stage (or go on with it) and save the network to `folder`/sam."""
    torch.manual_seed(pool.seed)
    num_steps = settings.schedule[-1][0]
    first_size = settings.schedule[0][1]
    model = first_weights(settings, pool, first_size)
    nn.Module.to(model, pool.device)
    first_step = 0
    for last_step, size, _ in settings.schedule:
        if size != first_size:
            model = widen(model, settings, size)
            nn.Module.to(model, pool.device)
        run_steps(
            model,
            PromptedMasks(model, pool, settings),
            first_step=first_step,
            last_step=last_step,
            num_steps=num_steps,
            peak=settings.peak_learning_rate,
            warmup=settings.warmup,
            state_path=folder / f"sam_state_{size}.pt",
        )
        first_step = last_step
    model.save_pretrained(folder / "sam")
    return model
