# SPDX-FileCopyrightText: 2026 The clipsam_hf authors
# SPDX-License-Identifier: Apache-2.0
"""
Generated photographs of good and defective things, with exact masks and captions.

Every image is a pure function of (seed, index, size): the order of the calls and the number of workers do not matter.
"""

import io
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageFilter
from synthetic_defects import TRAINING_DEFECTS, Canvas, Defect, blob, grid
from synthetic_details import add_details
from synthetic_photographs import Photographs
from synthetic_textures import TRAINING_FAMILIES, TexturePool
from synthetic_words import COLOURS, DEFECT_STATES, MATERIALS, NORMAL_STATES, random_sentence


__all__ = ["GOOD_FRACTION", "TRAINING_SHAPES", "Sample", "Scene", "Shape", "SyntheticImages"]

GOOD_FRACTION = 1 / 3
SURFACE_FRACTION = 0.5
GREY_FRACTION = 0.2
SECOND_DEFECT = 0.25
MIN_CHANGE = 0.035
MIN_AREA = 6
EMPTY = 0.04

Shape = Callable[[np.random.Generator, int, np.ndarray, float], np.ndarray]


class Sample(NamedTuple):
    """
    One generated image.

    Args:
        image: (size, size, 3) uint8.
        masks: For every kind of defect in it, its (size, size) bool mask; empty for a good image.
        objects: (size, size) bool masks of the things in the scene.
        material: What it is made of, as a word of the caption.
        caption: A sentence with the material, its colour and its state.
    """

    image: np.ndarray
    masks: dict[str, np.ndarray]
    objects: list[np.ndarray]
    material: str
    caption: str

    @property
    def mask(self) -> np.ndarray:
        """All defects together: (size, size) bool."""
        union = np.zeros(self.image.shape[:2], bool)
        for mask in self.masks.values():
            union |= mask
        return union


class Scene(NamedTuple):
    """
    A scene before and after its damage, without a camera: what a pool of images is made of.

    Args:
        clean: (size, size, 3) uint8; equal to `damaged` if the defect is real and nobody knows what was there before.
        damaged: (size, size, 3) uint8.
        masks: As in [`Sample`].
        objects: As in [`Sample`].
        words: The material, maybe with its colour, as in a caption.
    """

    clean: np.ndarray
    damaged: np.ndarray
    masks: dict[str, np.ndarray]
    objects: list[np.ndarray]
    words: str


def ellipse(rng: np.random.Generator, size: int, centre: np.ndarray, radius: float) -> np.ndarray:
    """Cover of a smooth round or long shape."""
    return blob(rng, size, centre, radius, soft=1.5 / radius, rough=0)


def potato(rng: np.random.Generator, size: int, centre: np.ndarray, radius: float) -> np.ndarray:
    """Cover of an irregular shape."""
    return blob(rng, size, centre, radius, soft=1.5 / radius, rough=0.25)


def box(rng: np.random.Generator, size: int, centre: np.ndarray, radius: float) -> np.ndarray:
    """Cover of a turned rectangle with round corners."""
    x, y = grid(size)
    angle, ratio, corner = rng.choice((0.0, rng.uniform(0, np.pi))), rng.uniform(0.3, 1), rng.uniform(0, 0.3) * radius
    cos, sin = np.float32(np.cos(angle)), np.float32(np.sin(angle))
    u, v = x - np.float32(centre[0]), y - np.float32(centre[1])
    u, v = np.abs(cos * u + sin * v) - np.float32(radius), np.abs(cos * v - sin * u) - np.float32(radius * ratio)
    distance = np.hypot(np.maximum(u + corner, 0), np.maximum(v + corner, 0)) + np.minimum(
        np.maximum(u, v) + corner, 0
    )
    return np.clip((corner - distance) / 1.5 + 0.5, 0, 1).astype(np.float32)


def ring(rng: np.random.Generator, size: int, centre: np.ndarray, radius: float) -> np.ndarray:
    """Cover of a washer."""
    x, y = grid(size)
    distance = np.hypot(x - np.float32(centre[0]), y - np.float32(centre[1]))
    inner = np.float32(radius * rng.uniform(0.25, 0.6))
    return np.clip(np.minimum(radius - distance, distance - inner) / 1.5 + 0.5, 0, 1).astype(np.float32)


TRAINING_SHAPES: dict[str, Shape] = {"box": box, "ellipse": ellipse, "potato": potato, "ring": ring}


@dataclass
class SyntheticImages:
    """
    An endless, seeded set of images.

    Args:
        seed: Seed of the textures and of every image.
        size: Side of the images in pixels.
        families, defects, shapes: What the images are made of.
        materials: Words for each texture family.
        defect_states: Words for each kind of defect.
        good_fraction: Part of the images without defect, in [0, 1].
        grey_fraction: Part of the images without colour, in [0, 1].
        variants: Number of textures per family.
        detail_fraction: Part of the drawn scenes with details that are no defects, in [0, 1].
        photographs: Real photographs to use as materials, and their true defects.
        material_fraction: Part of the scenes on a piece of a photograph, in [0, 1].
        true_fraction: Part of the scenes that are a piece of a photograph with its true defect, in [0, 1].
    """

    seed: int
    size: int = 128
    families: dict = field(default_factory=lambda: TRAINING_FAMILIES)
    defects: dict[str, Defect] = field(default_factory=lambda: TRAINING_DEFECTS)
    shapes: dict[str, Shape] = field(default_factory=lambda: TRAINING_SHAPES)
    materials: dict[str, tuple[str, ...]] = field(default_factory=lambda: MATERIALS)
    defect_states: dict[str, tuple[str, ...]] = field(default_factory=lambda: DEFECT_STATES)
    good_fraction: float = GOOD_FRACTION
    grey_fraction: float = GREY_FRACTION
    variants: int = 12
    detail_fraction: float = 0.0
    photographs: Photographs | None = None
    material_fraction: float = 0.35
    true_fraction: float = 0.12

    def __post_init__(self) -> None:
        self.pool = TexturePool(self.families, seed=self.seed, variants=self.variants)

    def sample(self, index: int, *, size: int | None = None, with_defects: bool = True) -> Sample:
        """Return image `index`. With `with_defects=False` it is the same image before it was damaged."""
        size = self.size if size is None else size
        scene_rng, defect_rng, camera_rng = (np.random.default_rng((self.seed, index, part)) for part in range(3))
        good = defect_rng.random() < self.good_fraction
        canvas, objects, material, words = self._scene(scene_rng, size)
        clean = canvas.image
        masks = {} if good else self._damage(canvas, defect_rng, whole=not objects)
        if not with_defects:
            canvas.image, masks = clean, {}
        states = self.defect_states[next(iter(masks))] if masks else NORMAL_STATES
        caption = random_sentence(scene_rng, states, words)
        return Sample(self._photograph(canvas.image, camera_rng), masks, objects, material, caption)

    def scene(self, index: int, *, size: int | None = None) -> Scene:
        """Return scene `index` before and after its damage; every one has a defect if one can be seen."""
        size = self.size if size is None else size
        scene_rng, defect_rng = (np.random.default_rng((self.seed, index, part)) for part in range(2))
        if self.photographs is not None and defect_rng.random() < self.true_fraction:
            picture, mask, kind, words = self.photographs.defect(scene_rng, size)
            return Scene(picture, picture, {kind: mask}, [], words)
        canvas, objects, _, words = self._scene(scene_rng, size)
        clean = canvas.image
        masks = self._damage(canvas, defect_rng, whole=not objects)
        before, after = (np.round(np.clip(image, 0, 1) * 255).astype(np.uint8) for image in (clean, canvas.image))
        return Scene(before, after, masks, objects, words)

    def _paint(self, rng: np.random.Generator, size: int, *, calm: bool) -> tuple[np.ndarray, str, str]:
        """Draw one material: its (size, size, 3) colours, its family, and the word of its colour."""
        names = ("gradient", "plain", "cloud") if calm and "plain" in self.pool.textures else self.pool.names
        name = names[rng.integers(len(names))]
        height = self.pool.crop(rng, name, size)
        words = sorted(COLOURS)
        word = words[rng.integers(len(words))]
        base = np.asarray(COLOURS[word], np.float32) + rng.normal(0, 0.04, 3).astype(np.float32)
        contrast = np.float32(np.exp(rng.uniform(np.log(0.12), np.log(0.7))))
        tint = rng.normal(0, 0.12, 3).astype(np.float32) * contrast
        colours = base + (height - height.mean())[..., None] * (contrast * np.maximum(base, 0.25) * 1.4 + tint)
        return np.clip(colours, 0, 1), name, word

    def _scene(self, rng: np.random.Generator, size: int) -> tuple[Canvas, list[np.ndarray], str, str]:
        """Draw a surface that fills the image, or things on a background."""
        if self.photographs is not None and rng.random() < self.material_fraction:
            surface, words = self.photographs.material(rng, size)
            return (
                Canvas(surface, surface * np.float32(0.15), np.ones((size, size), bool), self.pool),
                [],
                words,
                words,
            )
        surface, name, word = self._paint(rng, size, calm=False)
        material = self.materials[name][rng.integers(len(self.materials[name]))]
        words = f"{word} {material}" if rng.random() < 0.7 else material
        grey = rng.random() < self.grey_fraction
        if grey:
            surface, words = np.repeat(surface.mean(-1, keepdims=True), 3, -1), material
        if rng.random() < SURFACE_FRACTION:
            support = np.ones((size, size), bool)
            canvas = Canvas(surface, surface * np.float32(0.15), support, self.pool)
            self._detail(canvas, rng)
            return canvas, [], material, words
        background, _, _ = self._paint(rng, size, calm=rng.random() < 0.7)
        background = np.repeat(background.mean(-1, keepdims=True), 3, -1) if grey else background
        background = np.clip(background * np.float32(rng.uniform(0.3, 1.1)), 0, 1)
        cover, objects = self._things(rng, size)
        image = background + cover[..., None] * (surface - background)
        canvas = Canvas(image, background, cover > 0.5, self.pool)
        self._detail(canvas, rng)
        return canvas, objects, material, words

    def _detail(self, canvas: Canvas, rng: np.random.Generator) -> None:
        """Draw details into some scenes; none are drawn, and nothing random is used up, at a fraction of zero."""
        if self.detail_fraction > 0 and rng.random() < self.detail_fraction:
            add_details(canvas, rng)

    def _things(self, rng: np.random.Generator, size: int) -> tuple[np.ndarray, list[np.ndarray]]:
        """Draw the outline of one thing, or of several equal ones in rows."""
        shape = self.shapes[sorted(self.shapes)[rng.integers(len(self.shapes))]]
        rows = int(rng.choice((1, 2, 3), p=(0.75, 0.17, 0.08)))
        pitch = size / rows
        radius = pitch * rng.uniform(0.25, 0.48)
        shift = rng.normal(0, 0.04 * size, 2) * (rows == 1)
        state = rng.bit_generator.state
        cover, objects = np.zeros((size, size), np.float32), []
        for number in range(rows * rows):
            rng.bit_generator.state = state
            centre = np.array((number % rows + 0.5, number // rows + 0.5)) * pitch + shift
            one = shape(rng, size, centre, radius)
            objects.append(one > 0.5)
            cover = np.maximum(cover, one)
        return cover, objects

    def _damage(self, canvas: Canvas, rng: np.random.Generator, *, whole: bool) -> dict[str, np.ndarray]:
        """Draw one or two kinds of defect into the canvas and return their masks."""
        kinds = sorted(self.defects)
        if whole:
            kinds = [kind for kind in kinds if kind != "missing"]
        count = 2 if rng.random() < SECOND_DEFECT else 1
        masks: dict[str, np.ndarray] = {}
        for kind in rng.permutation(kinds):
            for _ in range(3):
                image, cover = self.defects[str(kind)](canvas, rng)
                mask = cover > EMPTY
                change = np.abs(image - canvas.image).mean(-1)
                if mask.sum() >= MIN_AREA and change[mask].mean() >= MIN_CHANGE and mask.mean() < 0.4:
                    canvas.image = np.where(mask[..., None], image, canvas.image)
                    masks[str(kind)] = mask
                    break
            if len(masks) == count:
                break
        return masks

    def _photograph(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Light, blur, noise and compression of a camera: (size, size, 3) uint8."""
        size = image.shape[0]
        x, y = grid(size)
        light = np.float32(rng.uniform(0.75, 1.15)) + np.zeros_like(x)
        if rng.random() < 0.6:
            slope = rng.normal(0, 0.25, 2).astype(np.float32) / size
            light = light + slope[0] * (x - size / 2) + slope[1] * (y - size / 2)
        image = image * light[..., None]
        if rng.random() < 0.7:
            noise = rng.standard_normal((size, size, 1 if rng.random() < 0.5 else 3), dtype=np.float32)
            image = image + np.float32(np.exp(rng.uniform(np.log(0.005), np.log(0.05)))) * noise
        picture = Image.fromarray(np.round(np.clip(image, 0, 1) * 255).astype(np.uint8))
        if rng.random() < 0.35:
            picture = picture.filter(ImageFilter.GaussianBlur(rng.uniform(0.4, 1.3)))
        if rng.random() < 0.25:
            buffer = io.BytesIO()
            picture.save(buffer, "JPEG", quality=int(rng.integers(40, 95)))
            picture = Image.open(buffer).convert("RGB")
        return np.asarray(picture)
