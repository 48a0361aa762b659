# SPDX-FileCopyrightText: 2026 The clipsam_hf authors
# SPDX-License-Identifier: Apache-2.0
"""
What good things have and what stands out all the same: bands, prints, fixtures, inclusions, frames, round shading.

A network that only ever saw bare textures takes everything on them for a defect: lane markings, chocolate chips, rims.
Details are regular, crosswise, or many of a kind; a defect is none of these. Each function returns the changed image.
"""

from collections.abc import Callable

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage
from synthetic_defects import Canvas, blend, blob, grid, radius_of, tone


__all__ = ["DETAILS", "Detail", "add_details"]

Detail = Callable[[Canvas, np.random.Generator], np.ndarray]

SECOND_DETAIL = 0.35
LETTERS = "ABCDEFGHJKLMNPRSTUVWXYZ0123456789-."


def across(rng: np.random.Generator, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Return how far every pixel is along and beside a line through the image, often parallel to its sides."""
    x, y = grid(size)
    angle = rng.choice((0.0, np.pi / 2)) if rng.random() < 0.5 else rng.uniform(0, np.pi)
    cos, sin = np.float32(np.cos(angle)), np.float32(np.sin(angle))
    u, v = x - np.float32(rng.uniform(0, size)), y - np.float32(rng.uniform(0, size))
    return cos * u + sin * v, cos * v - sin * u


def bands(canvas: Canvas, rng: np.random.Generator) -> np.ndarray:
    """Draw one to three parallel bands from side to side, whole or in dashes: markings, seams, rims, grooves."""
    size = canvas.size
    along, beside = across(rng, size)
    width, pitch = size * rng.uniform(0.006, 0.1), size * rng.uniform(0.12, 0.4)
    nearest = np.abs(beside - pitch * np.clip(np.round(beside / pitch), 0, rng.integers(0, 3)))
    cover: np.ndarray = np.clip((width / 2 - nearest) / rng.uniform(0.7, 2.5) + 0.5, 0, 1).astype(np.float32)
    if rng.random() < 0.3:
        period = size * rng.uniform(0.1, 0.5)
        cover = cover * ((along % period) < period * rng.uniform(0.4, 0.8))
    cover = cover * (canvas.support * np.float32(rng.uniform(0.3, 1)))
    return blend(canvas.image, tone(rng, canvas), cover)


def halves(canvas: Canvas, rng: np.random.Generator) -> np.ndarray:
    """Let the material end at a straight or gently bent line, behind which is another: verges, plates that meet."""
    along, beside = across(rng, canvas.size)
    bend = rng.choice((0.0, rng.uniform(0, 0.06))) * canvas.size
    beside = beside + bend * np.sin(along / (canvas.size * rng.uniform(0.1, 0.4)))
    cover = np.clip(beside / rng.uniform(1, 3) + 0.5, 0, 1).astype(np.float32) * canvas.support
    field = canvas.pool.crop(rng, canvas.pool.names[rng.integers(len(canvas.pool.names))], canvas.size)
    strength = np.float32(rng.uniform(0.05, 0.4))
    other = np.clip(tone(rng, canvas, coloured=0.4) + strength * (field - field.mean())[..., None], 0, 1)
    return blend(canvas.image, other, cover)


def inclusions(canvas: Canvas, rng: np.random.Generator) -> np.ndarray:
    """Scatter many lumps of one tone and about one size: chips, pebbles, grains, flakes."""
    size, radius = canvas.size, radius_of(rng, canvas.size, 0.012, 0.06)
    colour, rough, soft = tone(rng, canvas), rng.uniform(0, 0.35), rng.uniform(0.1, 0.5)
    cover = np.zeros((size, size), np.float32)
    for _ in range(rng.integers(8, 30)):
        centre, extent = rng.uniform(0, size, 2), radius * np.exp(0.25 * rng.normal())
        # only the lump's surroundings are drawn
        reach = int(2.5 * extent) + 2
        left, top = (int(np.clip(place - reach, 0, size - 1)) for place in centre)
        side = min(2 * reach, size - left, size - top)
        lump = blob(rng, side, centre - (left, top), extent, soft=soft, rough=rough)
        seen = cover[top : top + side, left : left + side]
        np.maximum(seen, lump, out=seen)
    return blend(canvas.image, colour, cover * canvas.support)


def fixtures(canvas: Canvas, rng: np.random.Generator) -> np.ndarray:
    """Draw equal round or square things at mirrored places: screws, drilled holes, pads, buttons."""
    x, y = grid(canvas.size)
    middle = (canvas.size - 1) / 2
    radius = radius_of(rng, canvas.size, 0.015, 0.07)
    offset = rng.uniform(0.15, 0.45, 2) * canvas.size
    shown = [(-1, -1), (1, 1), (-1, 1), (1, -1)][: rng.choice((2, 4, 4))]
    square = rng.random() < 0.4
    distance = np.full((canvas.size, canvas.size), np.inf, np.float32)
    for right, down in shown:
        u, v = np.abs(x - middle - right * offset[0]), np.abs(y - middle - down * offset[1])
        distance = np.minimum(distance, np.maximum(u, v) if square else np.hypot(u, v))
    image = canvas.image
    for part in (1.0, rng.uniform(0.3, 0.8))[: rng.integers(1, 3)]:
        cover = np.clip(radius * part - distance + 0.5, 0, 1).astype(np.float32) * canvas.support
        image = blend(image, tone(rng, canvas, coloured=0.1), cover)
    return image


def print_(canvas: Canvas, rng: np.random.Generator) -> np.ndarray:
    """Print letters and numbers."""
    size = canvas.size
    text = "".join(LETTERS[number] for number in rng.integers(len(LETTERS), size=rng.integers(2, 9)))
    picture = Image.new("L", (size, size))
    font = ImageFont.load_default(size * rng.uniform(0.06, 0.3))
    place = (float(rng.uniform(0, 0.7) * size), float(rng.uniform(0, 0.8) * size))
    ImageDraw.Draw(picture).text(place, text, fill=255, font=font)
    turned = picture.rotate(float(rng.choice((0, 90, 180, 270, rng.uniform(0, 360)))), Image.Resampling.BILINEAR)
    cover = np.asarray(turned, dtype=np.float32) / 255 * (canvas.support * np.float32(rng.uniform(0.4, 1)))
    return blend(canvas.image, tone(rng, canvas), cover)


def frame(canvas: Canvas, rng: np.random.Generator) -> np.ndarray:
    """Let the outermost part of the image or of the things in it be of another tone: rims, edges, borders."""
    depth = ndimage.distance_transform_edt(np.pad(canvas.support, 1))[1:-1, 1:-1]
    width = canvas.size * rng.uniform(0.01, 0.12)
    cover: np.ndarray = np.clip((width - depth) / rng.uniform(1, 4) + 0.5, 0, 1).astype(np.float32)
    cover = cover * (canvas.support * np.float32(rng.uniform(0.3, 1)))
    return blend(canvas.image, tone(rng, canvas, coloured=0.1), cover)


def roundness(canvas: Canvas, rng: np.random.Generator) -> np.ndarray:
    """Let the light fall off towards the edges, or to one of them."""
    depth = ndimage.distance_transform_edt(np.pad(canvas.support, 1))[1:-1, 1:-1]
    height = np.clip(depth / (depth.max() * rng.uniform(0.3, 1)), 0, 1) ** 0.5
    height = ndimage.gaussian_filter(height, canvas.size / 48)
    light = rng.uniform(0, 2 * np.pi)
    slope = np.cos(light) * np.gradient(height, axis=1) + np.sin(light) * np.gradient(height, axis=0)
    gain = 1 + rng.uniform(0.2, 0.6) * (height - 1) + rng.uniform(0, 12) * slope
    shaded = canvas.image * np.clip(gain, 0.2, 1.8)[..., None].astype(np.float32)
    return np.where(canvas.support[..., None], np.clip(shaded, 0, 1), canvas.image)


DETAILS: dict[str, Detail] = {
    "bands": bands,
    "fixtures": fixtures,
    "frame": frame,
    "halves": halves,
    "inclusions": inclusions,
    "print": print_,
    "roundness": roundness,
}


def add_details(canvas: Canvas, rng: np.random.Generator) -> None:
    """Draw one or two kinds of detail into the canvas."""
    count = 2 if rng.random() < SECOND_DETAIL else 1
    for name in rng.choice(sorted(DETAILS), count, replace=False):
        canvas.image = DETAILS[str(name)](canvas, rng).astype(np.float32)
