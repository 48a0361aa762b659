# SPDX-FileCopyrightText: 2026 The clipsam_hf authors
# SPDX-License-Identifier: Apache-2.0
"""
The held-out set: 600 generated images whose texture families, shapes and kinds of defect training never uses.

It is fixed by this file, `SEED` and `CHECKSUM`. Nothing may be chosen on it: it is for finished checkpoints only.
"""

import hashlib

import numpy as np
from scipy import ndimage
from scipy.spatial import cKDTree
from synthetic import Sample, Shape, SyntheticImages
from synthetic_defects import Canvas, Defect, blend, blob, grid, polyline, radius_of, tone, walk
from synthetic_textures import TextureFamily, coordinates, power_noise, rescale


__all__ = [
    "CHECKSUM",
    "HELDOUT_DEFECTS",
    "HELDOUT_FAMILIES",
    "HELDOUT_SHAPES",
    "NUM_IMAGES",
    "SEED",
    "SIZE",
    "checksum",
    "heldout_images",
]

SEED = 20_260_101
SIZE = 256
NUM_IMAGES = 600
CHECKSUM = "5b806c3c1a2bb36d3f6fdc2c4aaba2861ecc7890be7cf6f178fb1a6902a52336"


def marble(rng: np.random.Generator, side: int) -> np.ndarray:
    """Veins: a sine of warped noise."""
    x, y = coordinates(rng, side)
    warp = power_noise(rng, side, 1.9) * rng.uniform(2, 6)
    vein = 1 - np.abs(np.sin(x / rng.uniform(25, 60) + y / rng.uniform(40, 120) + warp))
    return rescale(vein ** rng.uniform(1, 4) + 0.5 * power_noise(rng, side, 1.6))


def hexagons(rng: np.random.Generator, side: int) -> np.ndarray:
    """A honeycomb: the least distance to three families of lines."""
    x, y = coordinates(rng, side)
    pitch = rng.uniform(12, 36)
    centres = []
    for shift in (0.0, 0.5):
        u = (x / pitch + shift) % 1 - 0.5
        v = (y / (pitch * np.sqrt(3)) + shift) % 1 - 0.5
        centres.append((u, v * np.sqrt(3)))
    inside = np.minimum(*(np.maximum(np.abs(u), 0.5 * np.abs(u) + np.sqrt(0.75) * np.abs(v)) for u, v in centres))
    wall = 1 / (1 + np.exp(-(inside - rng.uniform(0.36, 0.45)) * 60))
    return rescale(rng.choice((-1, 1)) * wall + rng.uniform(0.1, 0.5) * power_noise(rng, side, 1.0))


def lathe(rng: np.random.Generator, side: int) -> np.ndarray:
    """Concentric turning marks around a far or near centre."""
    x, y = coordinates(rng, side)
    centre = rng.uniform(-0.3, 1.3, 2) * side
    distance = np.hypot(x - x.mean() + centre[0] - side / 2, y - y.mean() + centre[1] - side / 2)
    marks = ndimage.gaussian_filter1d(rng.standard_normal(4 * side), rng.uniform(0.8, 2.5))
    field = np.interp(distance, np.arange(4 * side), marks / marks.std())
    return rescale(field + rng.uniform(0.1, 0.6) * rng.standard_normal((side, side)))


def chevron(rng: np.random.Generator, side: int) -> np.ndarray:
    """Herringbone rows, as in knitwear."""
    x, y = coordinates(rng, side)
    period = rng.uniform(10, 36)
    zigzag = np.abs((x / period) % 2 - 1) * period
    rows = np.sin(2 * np.pi * (y + zigzag * rng.uniform(0.6, 1.5)) / rng.uniform(5, 14))
    return rescale(rows + rng.uniform(0.2, 0.8) * power_noise(rng, side, 0.7))


def terrazzo(rng: np.random.Generator, side: int) -> np.ndarray:
    """Chips of many shades in a matrix."""
    count = int((side / rng.uniform(7, 22)) ** 2)
    points = rng.uniform(0, side, (count, 2))
    rows = np.stack(np.meshgrid(np.arange(side), np.arange(side), indexing="ij"), -1).reshape(-1, 2)
    distance, nearest = cKDTree(points, boxsize=np.full(2, side)).query(rows)
    sizes, shades = rng.uniform(2, 9, count), rng.uniform(0, 1, count)
    chip = np.where(distance < sizes[nearest], shades[nearest], 0.55).reshape(side, side)
    return rescale(chip + 0.15 * power_noise(rng, side, 1.0))


def felt(rng: np.random.Generator, side: int) -> np.ndarray:
    """Short hairs in all directions: several drawn-out noises, the strongest wins."""
    layers = []
    for angle in rng.uniform(0, 180, 4):
        wide = power_noise(rng, side, 0.5, stretch=rng.uniform(6, 14))
        layers.append(ndimage.rotate(wide, angle, reshape=False, order=1, mode="wrap"))
    return rescale(np.max(layers, axis=0))


HELDOUT_FAMILIES: dict[str, TextureFamily] = {
    "chevron": chevron,
    "felt": felt,
    "hexagons": hexagons,
    "lathe": lathe,
    "marble": marble,
    "terrazzo": terrazzo,
}
HELDOUT_MATERIALS: dict[str, tuple[str, ...]] = {
    "chevron": ("knitwear",),
    "felt": ("felt",),
    "hexagons": ("honeycomb",),
    "lathe": ("turned metal",),
    "marble": ("marble",),
    "terrazzo": ("terrazzo",),
}


def star(rng: np.random.Generator, size: int, centre: np.ndarray, radius: float) -> np.ndarray:
    """Cover of a gear or flower."""
    x, y = grid(size)
    u, v = x - np.float32(centre[0]), y - np.float32(centre[1])
    teeth, depth, phase = rng.integers(5, 14), rng.uniform(0.05, 0.25), rng.uniform(0, 6.3)
    edge = radius * (1 - depth / 2 + depth / 2 * np.tanh(3 * np.cos(teeth * np.arctan2(v, u) + phase)))
    return np.clip((edge - np.hypot(u, v)) / 1.5 + 0.5, 0, 1).astype(np.float32)


def capsule(rng: np.random.Generator, size: int, centre: np.ndarray, radius: float) -> np.ndarray:
    """Cover of a pill or rod."""
    x, y = grid(size)
    angle, width = rng.uniform(0, np.pi), radius * rng.uniform(0.2, 0.55)
    u, v = x - np.float32(centre[0]), y - np.float32(centre[1])
    along = np.cos(angle) * u + np.sin(angle) * v
    along = along - np.clip(along, width - radius, radius - width)
    distance = np.hypot(along, np.cos(angle) * v - np.sin(angle) * u)
    return np.clip((width - distance) / 1.5 + 0.5, 0, 1).astype(np.float32)


def triangle(rng: np.random.Generator, size: int, centre: np.ndarray, radius: float) -> np.ndarray:
    """Cover of a three- or five-sided plate."""
    x, y = grid(size)
    u, v = x - np.float32(centre[0]), y - np.float32(centre[1])
    sides, phase = rng.choice((3, 5)), rng.uniform(0, 6.3)
    directions = phase + 2 * np.pi * np.arange(sides) / sides
    distance = np.max([np.cos(a) * u + np.sin(a) * v for a in directions], axis=0)
    return np.clip((radius * np.cos(np.pi / sides) - distance) / 1.5 + 0.5, 0, 1).astype(np.float32)


HELDOUT_SHAPES: dict[str, Shape] = {"capsule": capsule, "star": star, "triangle": triangle}


def footprint(
    canvas: Canvas, rng: np.random.Generator, *, soft: float, low: float = 0.05, high: float = 0.2
) -> np.ndarray:
    """Draw where a defect lies: an irregular area of the material."""
    radius = radius_of(rng, canvas.size, low, high)
    return blob(rng, canvas.size, canvas.place(rng), radius, soft=soft, rough=0.3) * canvas.support


def rust(canvas: Canvas, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Corrosion: brown or pale crust with a ragged, grainy border."""
    area = footprint(canvas, rng, soft=0.9)
    grain = power_noise(rng, canvas.size, 0.9)
    cover = np.clip((area + 0.8 * (grain - 0.5) - 0.35) * 5, 0, 1) * (area > 0)
    crust = np.array(((0.50, 0.26, 0.12), (0.62, 0.70, 0.60), (0.85, 0.85, 0.80))[rng.integers(3)], np.float32)
    return blend(canvas.image, np.clip(crust * (0.6 + 0.8 * grain[..., None]), 0, 1), cover), cover


def burn(canvas: Canvas, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Scorching: the light fades towards a nearly black middle."""
    cover = footprint(canvas, rng, soft=1.2, high=0.18) * np.float32(rng.uniform(0.5, 0.95))
    char = np.array((0.10, 0.07, 0.05), np.float32)
    return blend(canvas.image, char + 0.15 * canvas.image, cover), cover


def mould(canvas: Canvas, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """A colony of tiny fuzzy points, dark, pale or green."""
    area = footprint(canvas, rng, soft=0.8, low=0.07, high=0.2)
    seeds = (rng.random(area.shape) < 0.02 * area).astype(float)
    cover = np.clip(ndimage.gaussian_filter(seeds, rng.uniform(1.2, 2.4)) * rng.uniform(8, 20), 0, 0.9)
    cover = (cover * canvas.support).astype(np.float32)
    shade = np.array(((0.08, 0.10, 0.08), (0.85, 0.88, 0.85), (0.30, 0.45, 0.30))[rng.integers(3)], np.float32)
    return blend(canvas.image, shade, cover), cover


def blister(canvas: Canvas, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Bubbles under a film: bright crescents with a shadow on the other side."""
    image, total = canvas.image, np.zeros(canvas.support.shape, np.float32)
    centre, light = canvas.place(rng), rng.uniform(0, 2 * np.pi)
    x, y = grid(canvas.size)
    for _ in range(rng.integers(1, 5)):
        radius = np.float32(radius_of(rng, canvas.size, 0.015, 0.06))
        middle = centre + rng.normal(0, 0.06 * canvas.size, 2)
        u, v = (x - np.float32(middle[0])) / radius, (y - np.float32(middle[1])) / radius
        cover = np.clip((1 - np.hypot(u, v)) * 4, 0, 1) * canvas.support
        facing = np.float32(np.cos(light)) * u + np.float32(np.sin(light)) * v
        crescent = np.sign(facing) * facing**2 * np.float32(rng.uniform(0.3, 0.6))
        image = np.clip(image + (cover * crescent)[..., None], 0, 1)
        total = np.maximum(total, cover)
    return image, total


def thread(canvas: Canvas, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """A foreign fibre that curls over the surface and throws a thin shadow."""
    turn = np.cumsum(rng.normal(0, 0.06, 60))
    step = canvas.size * rng.uniform(0.006, 0.016)
    heading = rng.uniform(0, 6.3) + np.cumsum(turn)
    steps = step * np.stack((np.cos(heading), np.sin(heading)), 1)
    points = canvas.place(rng) + np.cumsum(steps, 0)
    width = rng.uniform(1.5, 4)
    shadow = polyline(canvas.size, points + 2, width, softness=1) * np.float32(0.3)
    fibre = polyline(canvas.size, points, width)
    cover = np.maximum(shadow, fibre) * canvas.support
    image = blend(canvas.image, canvas.image * np.float32(0.3), shadow * canvas.support)
    return blend(image, tone(rng, canvas, coloured=0.5), fibre * canvas.support), cover


def smear(canvas: Canvas, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """The texture is wiped in one direction; its colours stay."""
    cover = footprint(canvas, rng, soft=0.4, low=0.07, high=0.25)
    axis, length = int(rng.integers(2)), int(canvas.size * rng.uniform(0.05, 0.15))
    return blend(canvas.image, ndimage.uniform_filter1d(canvas.image, length, axis=axis), cover), cover


def shift(canvas: Canvas, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """A strip of the pattern is displaced: a weaving or printing fault without any new colour."""
    x, y = grid(canvas.size)
    centre, vertical = canvas.place(rng), rng.random() < 0.5
    along, across = (y, x) if vertical else (x, y)
    half_length, half_width = canvas.size * rng.uniform(0.06, 0.2), canvas.size * rng.uniform(0.02, 0.07)
    middle = centre[::-1] if vertical else centre
    inside = np.minimum(half_length - np.abs(along - middle[0]), half_width - np.abs(across - middle[1]))
    cover = (np.clip(inside + 0.5, 0, 1) * canvas.support).astype(np.float32)
    moved = np.roll(canvas.image, int(canvas.size * rng.uniform(0.03, 0.15)), axis=0 if vertical else 1)
    return blend(canvas.image, moved, cover), cover


def crease(canvas: Canvas, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """A fold: a soft band with a light and a dark flank."""
    points = walk(rng, canvas.place(rng), canvas.size * rng.uniform(0.25, 0.7), step=8, turn=0.08)
    width = canvas.size * rng.uniform(0.015, 0.04)
    band = polyline(canvas.size, points, width, softness=width / 3)
    slope = ndimage.gaussian_filter(band, width / 2)
    flank = np.gradient(slope, axis=int(rng.integers(2)))
    shade = (flank / max(float(np.abs(flank).max()), 1e-6) * rng.uniform(0.2, 0.45)).astype(np.float32)
    cover = band * canvas.support
    return np.clip(canvas.image + (shade * cover)[..., None], 0, 1), cover


def bleach(canvas: Canvas, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """A run of liquid that pales the material: drops with a drip below each."""
    cover: np.ndarray = np.zeros(canvas.support.shape, np.float32)
    start = canvas.place(rng)
    for _ in range(rng.integers(1, 4)):
        drop = start + rng.normal(0, 0.05 * canvas.size, 2)
        radius = radius_of(rng, canvas.size, 0.02, 0.06)
        cover = np.maximum(cover, blob(rng, canvas.size, drop, radius, soft=0.3, rough=0.1))
        drip = np.stack((drop, drop + (rng.normal(0, 2), canvas.size * rng.uniform(0.03, 0.25))))
        cover = np.maximum(cover, polyline(canvas.size, drip, radius * rng.uniform(0.4, 0.9), softness=1))
    cover = cover * (canvas.support * np.float32(rng.uniform(0.35, 0.8)))
    pale = canvas.image.mean(-1, keepdims=True) * np.float32(0.3) + np.float32(0.68)
    return blend(canvas.image, np.broadcast_to(pale, canvas.image.shape), cover), cover


HELDOUT_DEFECTS: dict[str, Defect] = {
    "bleach": bleach,
    "blister": blister,
    "burn": burn,
    "crease": crease,
    "mould": mould,
    "rust": rust,
    "shift": shift,
    "smear": smear,
    "thread": thread,
}
HELDOUT_STATES: dict[str, tuple[str, ...]] = {kind: (f"{{}} with {kind}",) for kind in HELDOUT_DEFECTS}


def heldout_images() -> SyntheticImages:
    """Return the generator of the held-out set; its images are `sample(0)` to `sample(NUM_IMAGES - 1)`."""
    return SyntheticImages(
        seed=SEED,
        size=SIZE,
        families=HELDOUT_FAMILIES,
        defects=HELDOUT_DEFECTS,
        shapes=HELDOUT_SHAPES,
        materials=HELDOUT_MATERIALS,
        defect_states=HELDOUT_STATES,
    )


def checksum(samples: list[Sample]) -> str:
    """Return the SHA-256 of all pixels and masks. It holds where numpy rounds as on the machine that made it."""
    digest = hashlib.sha256()
    for sample in samples:
        digest.update(sample.image.tobytes())
        digest.update(np.packbits(sample.mask).tobytes())
    return digest.hexdigest()
