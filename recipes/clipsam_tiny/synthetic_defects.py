# SPDX-FileCopyrightText: 2026 The clipsam_hf authors
# SPDX-License-Identifier: Apache-2.0
"""Defects drawn into generated images. Each returns the changed image and how much of it covers every pixel."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from PIL import Image, ImageDraw, ImageFilter
from synthetic_textures import TexturePool


__all__ = [
    "TRAINING_DEFECTS",
    "Canvas",
    "Defect",
    "blend",
    "blob",
    "blur",
    "grid",
    "polyline",
    "radius_of",
    "tone",
    "walk",
]


@dataclass
class Canvas:
    """
    What a defect may look at.

    Args:
        image: (size, size, 3) float32 in [0, 1], with the defects drawn so far.
        background: The same scene without its objects.
        support: (size, size) bool, where the inspected material is.
        pool: Textures to take from.
    """

    image: np.ndarray
    background: np.ndarray
    support: np.ndarray
    pool: TexturePool

    @property
    def size(self) -> int:
        return self.image.shape[0]

    def place(self, rng: np.random.Generator) -> np.ndarray:
        """Return the (x, y) of a random pixel of the material."""
        rows, columns = np.nonzero(self.support)
        chosen = rng.integers(len(rows))
        return np.array((columns[chosen], rows[chosen]), float)

    def border(self, rng: np.random.Generator) -> np.ndarray:
        """Return the (x, y) of a random pixel at the border of the material."""
        inside = self.support
        edge = inside.copy()
        edge[1:-1, 1:-1] &= ~(inside[:-2, 1:-1] & inside[2:, 1:-1] & inside[1:-1, :-2] & inside[1:-1, 2:])
        rows, columns = np.nonzero(edge)
        chosen = rng.integers(len(rows))
        return np.array((columns[chosen], rows[chosen]), float)


Defect = Callable[[Canvas, np.random.Generator], tuple[np.ndarray, np.ndarray]]


@lru_cache
def grid(size: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the pixel coordinates (x, y) of a square image."""
    y, x = np.mgrid[:size, :size].astype(np.float32)
    return x, y


def blur(field: np.ndarray, radius: float) -> np.ndarray:
    """Blur a (size, size) field in [0, 1], quantised to 8 bits."""
    picture = Image.fromarray(np.round(field * 255).astype(np.uint8))
    return np.asarray(picture.filter(ImageFilter.GaussianBlur(radius)), dtype=np.float32) / 255


def radius_of(rng: np.random.Generator, size: int, low: float = 0.02, high: float = 0.2) -> float:
    """Draw a radius in pixels, log-uniform between two fractions of the side."""
    return size * float(np.exp(rng.uniform(np.log(low), np.log(high))))


def blob(
    rng: np.random.Generator, size: int, centre: np.ndarray, radius: float, *, soft: float, rough: float
) -> np.ndarray:
    """Return the cover in [0, 1] of an irregular round shape; `soft` is its edge's width as a part of the radius."""
    x, y = grid(size)
    angle, stretch = rng.uniform(0, np.pi), rng.uniform(0.5, 1)
    across, down = x - np.float32(centre[0]), y - np.float32(centre[1])
    cos, sin = np.float32(np.cos(angle)), np.float32(np.sin(angle))
    u, v = cos * across + sin * down, (cos * down - sin * across) / np.float32(stretch)
    theta = np.arctan2(v, u)
    outline = np.ones_like(theta)
    for order in range(2, 6):
        outline += np.float32(rough * rng.normal() / order) * np.cos(order * theta + np.float32(rng.uniform(0, 6.3)))
    distance = np.hypot(u, v) / (np.float32(radius) * np.maximum(outline, 0.25))
    return np.clip((1 - distance) / max(soft, 1 / radius) + 0.5, 0, 1)


def polyline(size: int, points: np.ndarray, width: float, *, softness: float = 0.5) -> np.ndarray:
    """Return the cover in [0, 1] of a line through (n, 2) points."""
    picture = Image.new("L", (size, size))
    ImageDraw.Draw(picture).line([tuple(point) for point in points.tolist()], fill=255, width=max(round(width), 1))
    cover = np.asarray(picture.filter(ImageFilter.GaussianBlur(softness)), dtype=np.float32) / 255
    return np.minimum(cover * 1.6, 1)


def walk(rng: np.random.Generator, start: np.ndarray, length: float, *, step: float, turn: float) -> np.ndarray:
    """Return the (n, 2) points of a random walk that keeps its direction but for `turn` radians a step."""
    count = max(int(length / step), 2)
    heading = rng.uniform(0, 2 * np.pi) + np.cumsum(rng.normal(0, turn, count))
    steps = step * np.stack((np.cos(heading), np.sin(heading)), 1)
    return start + np.concatenate((np.zeros((1, 2)), np.cumsum(steps, 0)))


def tone(rng: np.random.Generator, canvas: Canvas, *, coloured: float = 0.2) -> np.ndarray:
    """Draw a colour that is darker or brighter than the material, or (with some chance) of another hue."""
    mean = canvas.image[canvas.support].mean(0)
    if rng.random() < coloured:
        return rng.uniform(0, 1, 3).astype(np.float32)
    level = float(mean.mean())
    darker = rng.random() < (0.6 if level > 0.25 else 0.15)
    target = rng.uniform(0, 0.6) * level if darker else level + rng.uniform(0.35, 1) * (1 - level)
    return np.clip(mean + target - level + rng.normal(0, 0.03, 3), 0, 1).astype(np.float32)


def blend(image: np.ndarray, other: np.ndarray, cover: np.ndarray) -> np.ndarray:
    """Lay `other` over the image as far as it covers."""
    return image + cover[..., None] * (other - image)


def crack(canvas: Canvas, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Draw a jagged thin line with branches."""
    size = canvas.size
    main = walk(
        rng, canvas.place(rng), size * rng.uniform(0.12, 0.9), step=rng.uniform(2, 6), turn=rng.uniform(0.2, 0.6)
    )
    width = rng.uniform(1, 1 + size / 64)
    cover = polyline(size, main, width)
    for _ in range(rng.integers(0, 4)):
        start = main[rng.integers(len(main))]
        branch = walk(rng, start, size * rng.uniform(0.05, 0.3), step=3, turn=0.4)
        cover = np.maximum(cover, polyline(size, branch, width * 0.6))
    cover = cover * (canvas.support * np.float32(rng.uniform(0.5, 1)))
    return blend(canvas.image, tone(rng, canvas, coloured=0.05), cover), cover


def scratch(canvas: Canvas, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Draw straight or slightly bent parallel lines."""
    size = canvas.size
    line = walk(rng, canvas.place(rng), size * rng.uniform(0.1, 0.8), step=size / 24, turn=rng.choice((0.0, 0.05)))
    across = rng.normal(0, 1, 2)
    cover = np.zeros((size, size), np.float32)
    for _ in range(rng.integers(1, 5)):
        moved = line + across * rng.uniform(-0.05, 0.05) * size
        part = slice(0, max(2, int(len(line) * rng.uniform(0.5, 1))))
        cover = np.maximum(cover, polyline(size, moved[part], rng.uniform(1, 2.4)) * np.float32(rng.uniform(0.4, 1)))
    cover = cover * canvas.support
    return blend(canvas.image, tone(rng, canvas, coloured=0.05), cover), cover


def spot(canvas: Canvas, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Draw one or several small dots."""
    centre, spread = canvas.place(rng), radius_of(rng, canvas.size, 0.03, 0.2)
    cover = np.zeros((canvas.size, canvas.size), np.float32)
    soft = rng.uniform(0.1, 1)
    for _ in range(rng.integers(1, 5)):
        radius = max(radius_of(rng, canvas.size, 0.01, 0.045), 1.2)
        dot = blob(rng, canvas.size, centre + rng.normal(0, spread / 2, 2), radius, soft=soft, rough=0.1)
        cover = np.maximum(cover, dot)
    cover = cover * canvas.support
    return blend(canvas.image, tone(rng, canvas), cover), cover


def stain(canvas: Canvas, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Tint an area; its texture stays visible."""
    radius = radius_of(rng, canvas.size, 0.05, 0.28)
    cover = blob(rng, canvas.size, canvas.place(rng), radius, soft=rng.uniform(0.05, 0.9), rough=0.4)
    cover = cover * (canvas.support * np.float32(rng.uniform(0.25, 0.85)))
    tint = tone(rng, canvas, coloured=0.4)
    mean = canvas.image[canvas.support].mean(0)
    return blend(canvas.image, np.clip(tint + 0.7 * (canvas.image - mean), 0, 1), cover), cover


def hole(canvas: Canvas, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Cut a hole: what is behind shows, often dark, sometimes with a bright rim."""
    size, centre, radius = canvas.size, canvas.place(rng), radius_of(rng, canvas.size, 0.02, 0.15)
    state = rng.bit_generator.state
    inner = blob(rng, size, centre, radius, soft=0.1, rough=0.25)
    behind = canvas.background * np.float32(0.6) if rng.random() < 0.3 else tone(rng, canvas, coloured=0.1)
    if rng.random() < 0.4:
        same = np.random.Generator(type(rng.bit_generator)())
        same.bit_generator.state = state
        outer = blob(same, size, centre, radius * 1.25, soft=0.1, rough=0.25) * canvas.support
        rimmed = blend(canvas.image, tone(rng, canvas, coloured=0), outer)
        return blend(rimmed, behind, inner * canvas.support), outer
    return blend(canvas.image, behind, inner * canvas.support), inner * canvas.support


def shade(canvas: Canvas, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Make a wide area darker or brighter without an edge; its texture stays."""
    radius = radius_of(rng, canvas.size, 0.1, 0.4)
    cover = blob(rng, canvas.size, canvas.place(rng), radius, soft=rng.uniform(0.3, 1.2), rough=0.5)
    cover = cover * canvas.support
    gain = 1 + rng.choice((-1, 1)) * rng.uniform(0.15, 0.5)
    other = np.clip(canvas.image * np.float32(gain) + np.float32(0.1 * (gain - 1)), 0, 1)
    # what is darker by a little everywhere would be no defect: the mask begins where a third of the change is reached
    return blend(canvas.image, other, cover), np.clip(cover * 1.5 - 0.5, 0, 1) * canvas.support


def dent(canvas: Canvas, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Bend the surface: light on one side, shadow on the other; no colour changes."""
    radius = radius_of(rng, canvas.size, 0.04, 0.2)
    x, y = grid(canvas.size)
    centre, light = canvas.place(rng), rng.uniform(0, 2 * np.pi)
    u, v = (x - np.float32(centre[0])) / np.float32(radius), (y - np.float32(centre[1])) / np.float32(radius)
    turned, stretch = rng.uniform(0, np.pi), rng.uniform(0.5, 1)
    cos, sin = np.float32(np.cos(turned)), np.float32(np.sin(turned))
    square = (cos * u + sin * v) ** 2 + ((cos * v - sin * u) / np.float32(stretch)) ** 2
    slope = (np.float32(np.cos(light)) * u + np.float32(np.sin(light)) * v) * np.exp(-1.5 * square)
    cover = np.clip(2 - 2 * np.sqrt(square), 0, 1) * canvas.support
    shade = np.float32(rng.uniform(0.3, 0.9)) * 2 * slope * cover
    return np.clip(canvas.image * (1 + shade[..., None]) + 0.1 * shade[..., None], 0, 1), cover


def region(canvas: Canvas, rng: np.random.Generator) -> np.ndarray:
    """Draw an area with a clear edge: a blob or a turned rectangle."""
    centre, radius = canvas.place(rng), radius_of(rng, canvas.size, 0.04, 0.22)
    if rng.random() < 0.5:
        return blob(rng, canvas.size, centre, radius, soft=rng.uniform(0.05, 0.5), rough=0.3) * canvas.support
    x, y = grid(canvas.size)
    angle = rng.choice((0.0, rng.uniform(0, np.pi)))
    cos, sin = np.float32(np.cos(angle)), np.float32(np.sin(angle))
    u, v = x - np.float32(centre[0]), y - np.float32(centre[1])
    u, v = np.abs(cos * u + sin * v), np.abs(cos * v - sin * u)
    inside = np.minimum(np.float32(radius) - u, np.float32(radius * rng.uniform(0.3, 1)) - v)
    return np.clip(inside / np.float32(rng.uniform(1, 3)) + 0.5, 0, 1) * canvas.support


def patch(canvas: Canvas, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Cut and paste: an area shows another part of the same image, turned."""
    cover = region(canvas, rng)
    other = np.roll(canvas.image, tuple(rng.integers(canvas.size // 8, canvas.size, 2)), (0, 1))
    other = np.rot90(other, int(rng.integers(1, 4)))
    return blend(canvas.image, np.clip(other + np.float32(rng.normal(0, 0.05)), 0, 1), cover), cover


def texture(canvas: Canvas, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Give an area another texture; its mean colour stays."""
    cover = region(canvas, rng)
    name = canvas.pool.names[rng.integers(len(canvas.pool.names))]
    field = canvas.pool.crop(rng, name, canvas.size)
    inside = cover > 0.5
    if not inside.any():
        return canvas.image, cover * 0
    mean = canvas.image[inside].mean(0)
    strength = np.float32(rng.uniform(0.2, 0.6))
    other = np.clip(mean + strength * (field - field[inside].mean())[..., None], 0, 1)
    return blend(canvas.image, other, cover), cover


def colour(canvas: Canvas, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Change the hue of an area; brightness and texture stay."""
    cover = region(canvas, rng) * np.float32(rng.uniform(0.5, 1))
    grey = canvas.image.mean(-1, keepdims=True)
    mean = canvas.image[canvas.support].mean(0)
    hue = rng.normal(0, 1, 3)
    hue = (hue - hue.mean()).astype(np.float32)
    hue *= np.float32(rng.uniform(0.12, 0.35)) / max(float(np.abs(hue).max()), 1e-3)
    faded = rng.random() < 0.25 and float(np.ptp(mean)) > 0.15
    other = grey if faded else canvas.image + hue
    return blend(canvas.image, np.clip(np.broadcast_to(other, canvas.image.shape), 0, 1), cover), cover


def missing(canvas: Canvas, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Break a piece off the border of the object: the background shows."""
    radius = radius_of(rng, canvas.size, 0.05, 0.2)
    cover = blob(rng, canvas.size, canvas.border(rng), radius, soft=0.08, rough=0.5) * canvas.support
    return blend(canvas.image, canvas.background, cover), cover


def fray(canvas: Canvas, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Draw a tuft of short loose strands."""
    size, centre, spread = canvas.size, canvas.border(rng), radius_of(rng, canvas.size, 0.03, 0.1)
    if rng.random() < 0.5:
        centre = canvas.place(rng)
    cover = np.zeros((size, size), np.float32)
    for _ in range(rng.integers(5, 16)):
        strand = walk(rng, centre + rng.normal(0, spread, 2), size * rng.uniform(0.05, 0.2), step=3, turn=0.35)
        cover = np.maximum(cover, polyline(size, strand, 1) * np.float32(rng.uniform(0.5, 1)))
    return blend(canvas.image, tone(rng, canvas, coloured=0.1), cover), cover


TRAINING_DEFECTS: dict[str, Defect] = {
    "colour": colour,
    "crack": crack,
    "dent": dent,
    "fray": fray,
    "hole": hole,
    "missing": missing,
    "patch": patch,
    "scratch": scratch,
    "shade": shade,
    "spot": spot,
    "stain": stain,
    "texture": texture,
}
