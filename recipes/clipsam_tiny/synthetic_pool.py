# SPDX-FileCopyrightText: 2026 The clipsam_hf authors
# SPDX-License-Identifier: Apache-2.0
"""
Scenes drawn once by several processes, and endless batches made of them: cropped, turned, lit and photographed anew.

Drawing a scene takes as long as a training step of a small network; a batch out of the pool takes next to nothing. A
scene is stored before and after its damage, so that the damage can be made fainter, stronger, or undone.
"""

import json
import math
import multiprocessing
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from scipy import ndimage
from synthetic import SyntheticImages
from synthetic_photographs import Photographs
from synthetic_words import DEFECT_STATES
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm  # type: ignore[import-untyped]


__all__ = ["KINDS", "Batch", "ScenePool", "build_pool"]

KINDS = sorted(DEFECT_STATES)
SIDE = 256
CHUNK = 256
DETAILED = 0.6
# How much of a drawn defect's change is seen
FAINTEST, STRONGEST = 0.45, 1.2
# Planes of a scene: its colours before and after the damage; then 0 where nothing is, else the number of the kind of
# defect, of the defect's connected part, or of the object, counted from 1
CLEAN, DAMAGED, LABELS = slice(0, 3), slice(3, 6), slice(6, 9)
NUM_PLANES = 9


@dataclass
class Batch:
    """
    What a step of training sees.

    Args:
        images: (batch_size, 3, size, size) float32 in [0, 1].
        kinds: (batch_size, size, size) uint8: 0 good, else the number of the kind in `KINDS`, from 1.
        parts: (batch_size, size, size) uint8: 0 good, else the number of the connected part of a defect, from 1.
        objects: (batch_size, size, size) uint8: 0 background, else the number of the object, from 1.
        words: The material of each image.
    """

    images: Tensor
    kinds: Tensor
    parts: Tensor
    objects: Tensor
    words: list[str]

    @property
    def masks(self) -> Tensor:
        """(batch_size, size, size) bool: any defect."""
        return self.kinds > 0

    def present(self, number: int) -> list[str]:
        """Return the kinds of defect that one image has, each of at least a few pixels."""
        counts = torch.bincount(self.kinds[number].flatten().long(), minlength=len(KINDS) + 1)[1:]
        return [kind for kind, count in zip(KINDS, counts.tolist(), strict=True) if count >= 6]


def build_pool(folder: Path, *, seed: int, num_scenes: int, data_dirs: list[str], num_workers: int) -> None:
    """
    Draw the scenes that are not there yet.

    Args:
        folder: Folder of the pool; a chunk of scenes is a file, and is there whole or not at all.
        seed: Seed of all scenes.
        num_scenes: Number of scenes, a multiple of 256.
        data_dirs: Data sets of real photographs to take pieces from.
        num_workers: Number of processes; with 1, this one draws.

    Raises:
        ValueError: If the folder holds scenes of another seed or other data sets.
    """
    if num_scenes < 1 or num_scenes % CHUNK != 0:
        raise ValueError(f"The number of scenes must be a multiple of {CHUNK}, but got {num_scenes}.")
    folder.mkdir(parents=True, exist_ok=True)
    names = [Path(each).name for each in data_dirs]
    wanted = {"seed": seed, "data": names, "kinds": KINDS, "side": SIDE, "detailed": DETAILED}
    about = folder / "pool.json"
    if about.exists() and json.loads(about.read_text()) != wanted:
        raise ValueError(f"The pool in {folder} was made otherwise: {about.read_text()}; asked for is {wanted}.")
    about.write_text(json.dumps(wanted))
    missing = [number for number in range(num_scenes // CHUNK) if not (folder / f"words-{number:04d}.json").exists()]
    if not missing:
        return
    draw = partial(_draw_chunk, folder)
    progress = partial(tqdm, total=len(missing), desc="scenes", unit="chunk", disable=None)
    if num_workers == 1:
        _start(seed, data_dirs)
        for _ in progress(map(draw, missing)):
            pass
        return
    context = multiprocessing.get_context("spawn")
    with context.Pool(num_workers, initializer=_start, initargs=(seed, data_dirs)) as workers:
        for _ in progress(workers.imap_unordered(draw, missing)):
            pass


_images: SyntheticImages


def _start(seed: int, data_dirs: list[str]) -> None:
    """Prepare a process that draws."""
    global _images
    photographs = Photographs(data_dirs) if data_dirs else None
    _images = SyntheticImages(
        seed=seed, good_fraction=0, grey_fraction=0.45, detail_fraction=DETAILED, photographs=photographs
    )


def _draw_chunk(folder: Path, number: int) -> None:
    scenes, words = np.zeros((CHUNK, NUM_PLANES, SIDE, SIDE), np.uint8), []
    for row in range(CHUNK):
        scene = _images.scene(number * CHUNK + row, size=SIDE)
        scenes[row, CLEAN], scenes[row, DAMAGED] = scene.clean.transpose(2, 0, 1), scene.damaged.transpose(2, 0, 1)
        kinds, parts, objects = scenes[row, LABELS]
        for kind, mask in scene.masks.items():
            kinds[mask] = KINDS.index(kind) + 1
            labels, count = ndimage.label(mask, structure=np.ones((3, 3)))
            for label in range(1, count + 1):
                parts[labels == label] = min(int(parts.max()) + 1, 255)
        for count, mask in enumerate(scene.objects, start=1):
            objects[mask] = count
        words.append(scene.words)
    partial_path = folder / f"scenes-{number:04d}.partial"
    with open(partial_path, "wb") as file:
        np.save(file, scenes)
    os.replace(partial_path, folder / f"scenes-{number:04d}.npy")
    # the words come last: they say that the chunk is complete
    (folder / f"words-{number:04d}.json").write_text(json.dumps(words))


class ScenePool:
    """
    The batches of a pool, as a function of (seed, step).

    Args:
        folder: What [`build_pool`] has filled.
        seed: Seed of the batches.
        good_fraction: Part of the images whose damage is undone, in [0, 1].
        leave_out: Class names of data sets; no scene that shows a piece of one of them is used.
        device: Where batches are made.

    Raises:
        ValueError: If there are no scenes, or a class name to leave out is not among them.
    """

    def __init__(
        self,
        folder: Path,
        *,
        seed: int,
        good_fraction: float = 0.2,
        leave_out: Sequence[str] = (),
        device: torch.device | str = "cpu",
    ) -> None:
        self.seed, self.good_fraction, self.device = seed, good_fraction, torch.device(device)
        self.leave_out = tuple(leave_out)
        paths = sorted(folder.glob("words-*.json"))
        self.words = [json.loads(path.read_text()) for path in paths]
        # On a GPU the scenes lie in its memory, else they are read from the files as they are needed
        self.chunks = [
            torch.from_numpy(np.load(folder / f"scenes-{path.stem[6:]}.npy", mmap_mode="c")).to(self.device)
            for path in paths
        ]
        words = [each for chunk in self.words for each in chunk]
        for name in leave_out:
            if name not in words:
                raise ValueError(f"No scene in {folder} shows {name!r}, which was to be left out.")
        self.scenes = [number for number, each in enumerate(words) if each not in leave_out]
        if not self.scenes:
            raise ValueError(f"There are no scenes in {folder}.")

    def _order(self, first: int, count: int) -> Iterator[int]:
        """The scenes of a run of images: every scene once an epoch, in an order that depends on seed and epoch."""
        for place in range(first, first + count):
            epoch, within = divmod(place, len(self.scenes))
            if within == 0 or place == first:
                order = np.random.default_rng((self.seed, epoch, 5)).permutation(self.scenes)
            yield int(order[within])

    def batch(
        self, step: int, *, first: int, count: int, size: int, paired: bool = False, faintest: float = FAINTEST
    ) -> Batch:
        """
        Return a batch.

        Args:
            step: Number of the step, which with the seed decides all that is random.
            first: Number of images of all steps before.
            count: Number of images; an even one, if they are paired.
            size: Their side in pixels.
            paired: Whether the second half of the images is the first half with the damage undone, under the same
                camera, so that nothing tells a defect from the rest but the defect. A true one stays in both.
            faintest: How much at least of a drawn defect's change is seen, at most 1.2.
        """
        rng = np.random.default_rng((self.seed, step, 6))
        generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
        pieces, labels, words = [], [], []
        if paired:
            first, count = first // 2, count // 2
        for number in self._order(first, count):
            chunk, row = divmod(number, CHUNK)
            scene = self.chunks[chunk][row]
            seen = turn(scene[:, *self._window(scene[LABELS][0], rng, size)], int(rng.integers(8)))
            pieces.append(resize(seen[: LABELS.start], size, "bilinear"))
            labels.append(resize(seen[LABELS], size, "nearest"))
            words.append(self.words[chunk][row])
        colours = torch.stack(pieces) / 255
        kinds, parts, objects = torch.stack(labels).to(torch.uint8).unbind(1)
        clean, damaged = colours[:, CLEAN], colours[:, DAMAGED]

        # the damage fainter or stronger, or undone; a true defect cannot be undone
        true = (clean == damaged).flatten(1).all(1) & (kinds > 0).flatten(1).any(1)
        good = (torch.rand(count, generator=generator) < self.good_fraction).to(self.device) & ~true
        strength = (faintest + (STRONGEST - faintest) * torch.rand(count, generator=generator)).to(self.device)
        shown = strength.view(-1, 1, 1, 1) * (damaged - clean)
        if not paired:
            kept = ~good.view(-1, 1, 1)
            images = clean + shown * kept[:, None]
            return Batch(photograph(images, generator), kinds * kept, parts * kept, objects, words)
        camera = generator.get_state()
        twins = torch.cat((photograph(clean + shown, generator), photograph(clean, generator.set_state(camera))))
        kept = true.view(-1, 1, 1)
        kinds, parts = (torch.cat((labels, labels * kept)) for labels in (kinds, parts))
        return Batch(twins, kinds, parts, torch.cat((objects, objects)), words * 2)

    def _window(self, kinds: Tensor, rng: np.random.Generator, size: int) -> tuple[slice, slice]:
        """Draw the square part of a scene that is seen, more often than not with a defect in it."""
        extent = min(round(size * math.exp(rng.uniform(math.log(0.7), math.log(1.4)))), SIDE)
        corner = rng.integers(SIDE - extent + 1, size=2)
        places = kinds[::4, ::4].nonzero()
        if len(places) and rng.random() < 0.7:
            place = 4 * places[rng.integers(len(places))].cpu().numpy() - rng.uniform(0.1, 0.9, 2) * extent
            corner = np.clip(np.round(place), 0, SIDE - extent).astype(int)
        return slice(corner[0], corner[0] + extent), slice(corner[1], corner[1] + extent)


def turn(piece: Tensor, way: int) -> Tensor:
    """Turn a (channels, extent, extent) piece by quarters and maybe mirror it: `way` is one of eight."""
    turned = torch.rot90(piece, way % 4, (1, 2))
    return turned.flip(2) if way >= 4 else turned


def resize(piece: Tensor, size: int, mode: str) -> Tensor:
    """Scale a (channels, extent, extent) uint8 piece to (channels, size, size) float32, values unchanged."""
    return F.interpolate(piece[None].float(), size=(size, size), mode=mode)[0]


def photograph(images: Tensor, generator: torch.Generator) -> Tensor:
    """Give each image another colour, light, sharpness and grain: (batch_size, 3, size, size) in [0, 1]."""
    count, _, size, _ = images.shape
    device = images.device

    def draw(*shape: int) -> Tensor:
        return torch.rand(count, *shape, generator=generator).to(device)

    def normal(*shape: int) -> Tensor:
        return torch.randn(count, *shape, generator=generator).to(device)

    # colour
    grey = images.mean(1, keepdim=True)
    saturation = draw(1, 1, 1) * (draw(1, 1, 1) > 0.3)
    images = grey + saturation * (images - grey)
    images = images * (1 + 0.06 * normal(3, 1, 1) * (saturation > 0))

    # exposure and contrast
    mean = images.mean((1, 2, 3), keepdim=True)
    images = mean + (images - mean) * torch.exp(0.25 * normal(1, 1, 1))
    images = (images + 0.08 * normal(1, 1, 1)).clamp(1e-3, 1) ** torch.exp(0.3 * normal(1, 1, 1))

    # light that falls off to one side
    place = torch.linspace(-0.5, 0.5, size, device=device)
    slope = 0.3 * normal(2, 1, 1) * (draw(1, 1, 1) < 0.5)
    images = images * (1 + slope[:, :1] * place.view(1, 1, -1, 1) + slope[:, 1:] * place.view(1, 1, 1, -1))

    # lens and sensor
    sigma = (0.4 + draw(1)) * (draw(1) < 0.4)
    taps = torch.arange(-3, 4, device=device)
    kernel = torch.where(sigma > 0, torch.exp(-0.5 * (taps / sigma.clamp(min=0.1)) ** 2), (taps == 0).float())
    kernel = (kernel / kernel.sum(1, keepdim=True)).repeat_interleave(3, 0)  # (count * 3, 7)
    flat = F.pad(images.reshape(1, count * 3, size, size), (3, 3, 3, 3), mode="reflect")
    flat = F.conv2d(flat, kernel[:, None, None], groups=count * 3)
    images = F.conv2d(flat, kernel[:, None, :, None], groups=count * 3).view(count, 3, size, size)
    level = torch.exp(math.log(0.004) + draw(1, 1, 1) * math.log(12.0)) * (draw(1, 1, 1) < 0.7)
    coloured = (draw(1, 1, 1) < 0.5).float() * (saturation > 0)
    noise = normal(1, size, size)
    noise = noise + coloured * (normal(3, size, size) - noise)
    return (images + level * noise).clamp(0, 1)
