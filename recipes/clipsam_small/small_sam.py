# SPDX-FileCopyrightText: 2026 The clipsam_hf authors
# SPDX-License-Identifier: Apache-2.0
"""
SAM of `clipsam-small`: that of `clipsam-tiny`, trained further on generated defects over real surfaces.

It is asked as the package will ask it. A rough map with patches of CLIP's size is made of the true mask, blurred and
disturbed; its regions give boxes and points by the package's own functions, and the answer is what is defective in
the region and right beside it: often a hair within a wide band, sometimes nothing.
"""

from pathlib import Path

import numpy as np
import torch
from scipy import ndimage
from small_scenes import KINDS, Surfaces
from synthetic import SyntheticImages
from synthetic_defects import TRAINING_DEFECTS
from synthetic_pool import STRONGEST, Batch, photograph
from tiny_common import SAM_PIXELS, normalise, phase
from tiny_sam import PromptedMasks, SamSettings
from torch import Tensor

from clipsam_hf.regions_clipsam import Frame, build_prompts, find_regions


__all__ = ["SETTINGS", "RegionPrompts", "SamScenes", "disturbed_map"]

SETTINGS = SamSettings(
    image_size=448,
    schedule=((700, 224, 8), (950, 448, 3)),
    peak_learning_rate=1.0e-3,
    prompts_per_image=4,
    save_steps=100,
)
"""The network is that of `clipsam-tiny`, and begins with its weights."""

CELL = 14
"""Pixels of a patch of the rough map, in a photograph of `SETTINGS.image_size`."""

ROUGH_SHARE = 0.6
GOOD_SHARE = 0.1
# What a patch of the rough map blurs most, beyond its share of the kinds
THIN, THIN_SHARE = ("crack", "scratch"), 0.3
FAINTEST = 0.45
# The surfaces are small tiles: from enlarged two and a half times to halved, in a picture of 256 pixels
EXTENTS = (0.8, 4.0)


class SamScenes:
    """
    Endless batches of generated scenes, as a function of (seed, step): what `ScenePool` is, without a pool.

    Args:
        materials: Folder of families of materials.
        seed: Of all scenes.
        first_scene: Number of the scene before the first.
    """

    def __init__(self, materials: Path, *, seed: int, first_scene: int = 0) -> None:
        self.seed, self.first_scene, self.device = seed, first_scene, torch.device("cpu")
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

    def batch(self, step: int, *, first: int, count: int, size: int) -> Batch:
        """Return a batch, see `ScenePool.batch`."""
        rng = np.random.default_rng((self.seed, step, 6))
        generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
        self.surfaces.extents = (EXTENTS[0] * size / 256, EXTENTS[1] * size / 256)
        images, labels, words = [], np.zeros((count, 3, size, size), np.uint8), []
        for row in range(count):
            images_of = self.thin_images if rng.random() < THIN_SHARE else self.images
            scene = images_of.scene(self.first_scene + first + row, size=size)
            kept = rng.random() >= GOOD_SHARE
            clean, damaged = scene.clean.astype(np.float32), scene.damaged.astype(np.float32)
            images.append(clean + kept * rng.uniform(FAINTEST, STRONGEST) * (damaged - clean))
            kinds, parts, objects = labels[row]
            for kind, mask in scene.masks.items():
                kinds[mask] = KINDS.index(kind) + 1
            found, _ = ndimage.label(kinds > 0, structure=np.ones((3, 3)))
            parts[:] = np.minimum(found, 255)
            for number, mask in enumerate(scene.objects, start=1):
                objects[mask] = number
            labels[row, :2] *= kept
            words.append(scene.words)
        colours = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2) / 255
        kinds, parts, objects = torch.from_numpy(labels).unbind(1)
        return Batch(photograph(colours.clamp(0, 1), generator), kinds, parts, objects, words)


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
    """The loss of the stage: prompts of the regions of a rough map, or around a thing, as in `clipsam-tiny`."""

    def batch(self, step: int, rng: np.random.Generator) -> tuple[Tensor, ...]:
        """Return images, (batch, prompts, side, side) masks, boxes and points of a step."""
        batch = self.pool.batch(20_000_000 + step, **phase(self.settings.schedule, step))
        rows = [self.ask(batch, number, rng) for number in range(len(batch.words))]
        masks, boxes, points = (torch.stack(each) for each in zip(*rows, strict=True))
        return normalise(batch.images, SAM_PIXELS), masks.float(), boxes, points

    def ask(self, batch: Batch, number: int, rng: np.random.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """Draw the prompts of one image: (prompts, side, side) masks, (prompts, 4) boxes, (prompts, points, 2)."""
        prompts, size = self.settings.prompts_per_image, batch.images.shape[-1]
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
