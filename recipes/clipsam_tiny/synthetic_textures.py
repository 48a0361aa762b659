# SPDX-FileCopyrightText: 2026 The clipsam_hf authors
# SPDX-License-Identifier: Apache-2.0
"""Pools of grey textures, made once from a seed and then only cropped: what makes the generator fast."""

from collections.abc import Callable

import numpy as np
from scipy import ndimage
from scipy.spatial import cKDTree


__all__ = ["TRAINING_FAMILIES", "TextureFamily", "TexturePool", "coordinates", "power_noise", "rescale"]

TextureFamily = Callable[[np.random.Generator, int], np.ndarray]


def rescale(field: np.ndarray) -> np.ndarray:
    """Stretch a field to [0, 1] between its 0.5 % and 99.5 % quantiles."""
    low, high = np.quantile(field, (0.005, 0.995))
    return np.clip((field - low) / max(high - low, 1e-6), 0, 1).astype(np.float32)


def coordinates(rng: np.random.Generator, side: int, *, aligned: float = 0.5) -> tuple[np.ndarray, np.ndarray]:
    """Pixel coordinates (x, y), turned by a random angle unless `aligned` (a probability) keeps the axes."""
    angle = rng.choice((0.0, np.pi / 2)) if rng.random() < aligned else rng.uniform(0, np.pi)
    y, x = np.mgrid[:side, :side].astype(np.float32)
    cos, sin = np.float32(np.cos(angle)), np.float32(np.sin(angle))
    return cos * x + sin * y + rng.integers(1000), cos * y - sin * x + rng.integers(1000)


def power_noise(rng: np.random.Generator, side: int, exponent: float, *, stretch: float = 1.0) -> np.ndarray:
    """Gaussian noise with amplitude 1 / frequency**exponent; `stretch` > 1 draws it out along x."""
    rows = np.fft.fftfreq(side)[:, None]
    columns = np.fft.rfftfreq(side)[None] * stretch
    frequency = np.hypot(rows, columns)
    frequency[0, 0] = np.inf
    spectrum = np.fft.rfft2(rng.standard_normal((side, side))) * frequency**-exponent
    return rescale(np.fft.irfft2(spectrum, s=(side, side)))


def cloud(rng: np.random.Generator, side: int) -> np.ndarray:
    """Noise between sand and clouds."""
    return power_noise(rng, side, rng.uniform(0.4, 2.0))


def wood(rng: np.random.Generator, side: int) -> np.ndarray:
    """Wavy growth rings with fine fibres along them."""
    x, y = coordinates(rng, side, aligned=0.9)
    warp = power_noise(rng, side, 2.2, stretch=6) * rng.uniform(20, 80)
    rings = np.sin(2 * np.pi * (y + warp) / rng.uniform(10, 40) + 0.004 * x)
    return rescale(rings + rng.uniform(0.5, 2.5) * power_noise(rng, side, 1.0, stretch=12))


def woven(rng: np.random.Generator, side: int) -> np.ndarray:
    """Threads that pass over and under each other."""
    x, y = coordinates(rng, side)
    period = rng.uniform(4, 14)
    u, v = np.pi * x / period, np.pi * y / (period * rng.uniform(0.8, 1.3))
    over = (np.floor(u / np.pi) + np.floor(v / np.pi)) % 2
    threads = np.where(over == 0, np.abs(np.sin(v)), 0.9 * np.abs(np.sin(u)))
    return rescale(threads + rng.uniform(0.1, 0.5) * power_noise(rng, side, 0.8))


def brushed(rng: np.random.Generator, side: int) -> np.ndarray:
    """Metal brushed in one direction."""
    field = power_noise(rng, side, rng.uniform(0.3, 0.9), stretch=rng.uniform(15, 60))
    return field if rng.random() < 0.5 else np.ascontiguousarray(field.T)


def tiles(rng: np.random.Generator, side: int) -> np.ndarray:
    """Bricks or tiles with joints; every stone has its own shade."""
    x, y = coordinates(rng, side, aligned=0.8)
    height, width = rng.uniform(12, 48), rng.uniform(16, 90)
    row = np.floor(y / height)
    shifted = x + (row % 2) * width / 2 * rng.choice((0, 1))
    column = np.floor(shifted / width)
    joint = np.minimum(y % height, shifted % width) < rng.uniform(1.5, 4)
    shades = rng.uniform(0.4, 1, 4096)
    stone = shades[((row * 71 + column * 131) % 4096).astype(int)] + 0.3 * power_noise(rng, side, 1.0)
    return rescale(np.where(joint, rng.choice((0.0, 1.6)), stone))


def granular(rng: np.random.Generator, side: int) -> np.ndarray:
    """Grains of one size: sand, asphalt, cast metal."""
    size = rng.uniform(0.6, 2.5)
    noise = ndimage.gaussian_filter(rng.standard_normal((side, side)), size, mode="wrap")
    return rescale(np.tanh(noise / noise.std() * rng.uniform(0.5, 2)))


def leather(rng: np.random.Generator, side: int) -> np.ndarray:
    """Cells with sunken borders, as in leather."""
    period = rng.uniform(6, 20)
    count = max(int((side / period) ** 2), 16)
    tree = cKDTree(rng.uniform(0, side, (count, 2)), boxsize=np.full(2, side))
    grid = np.stack(np.meshgrid(np.arange(side), np.arange(side), indexing="ij"), -1).reshape(-1, 2)
    distances = np.asarray(tree.query(grid, k=2)[0])
    first, second = distances.T.reshape(2, side, side)
    return rescale(np.minimum((second - first) / period, rng.uniform(0.3, 0.9)) + 0.1 * power_noise(rng, side, 1.0))


def gradient(rng: np.random.Generator, side: int) -> np.ndarray:
    """A smooth change of tone with a little grain."""
    return rescale(power_noise(rng, side, 3.0) + rng.uniform(0, 0.1) * rng.standard_normal((side, side)))


def stripes(rng: np.random.Generator, side: int) -> np.ndarray:
    """Regular stripes, hard or soft."""
    _, y = coordinates(rng, side)
    wave = np.sin(2 * np.pi * y / rng.uniform(6, 40))
    return rescale(np.tanh(wave * rng.uniform(0.5, 6)) + rng.uniform(0, 0.6) * power_noise(rng, side, 0.7))


def dots(rng: np.random.Generator, side: int) -> np.ndarray:
    """A regular grid of round dots or holes."""
    x, y = coordinates(rng, side)
    period = rng.uniform(8, 32)
    distance = np.hypot(x % period - period / 2, y % period - period / 2)
    edge = (period * rng.uniform(0.15, 0.35) - distance) * rng.uniform(0.5, 2)
    field = rng.choice((-1, 1)) / (1 + np.exp(-np.clip(edge, -30, 30)))
    return rescale(field + rng.uniform(0.05, 0.4) * power_noise(rng, side, 0.8))


def concrete(rng: np.random.Generator, side: int) -> np.ndarray:
    """Clouds with many small pits."""
    pits = ndimage.gaussian_filter((rng.random((side, side)) < rng.uniform(0.002, 0.02)).astype(float), 0.8)
    return rescale(power_noise(rng, side, 1.1) - rng.uniform(0.5, 2) * pits)


def plain(rng: np.random.Generator, side: int) -> np.ndarray:
    """Nearly nothing: paint, plastic, polished metal."""
    return (0.5 + rng.uniform(0.03, 0.12) * (power_noise(rng, side, rng.uniform(0, 1.5)) - 0.5)).astype(np.float32)


TRAINING_FAMILIES: dict[str, TextureFamily] = {
    "brushed": brushed,
    "cloud": cloud,
    "concrete": concrete,
    "dots": dots,
    "gradient": gradient,
    "granular": granular,
    "leather": leather,
    "plain": plain,
    "stripes": stripes,
    "tiles": tiles,
    "wood": wood,
    "woven": woven,
}


class TexturePool:
    """
    Ready-made textures of some families, of which a crop costs a slice.

    Args:
        families: Name of each family and the function that draws one texture of it.
        seed: Seed of the whole pool.
        variants: Number of textures per family.
        side: Side of each texture in pixels.
    """

    def __init__(self, families: dict[str, TextureFamily], *, seed: int, variants: int = 12, side: int = 448) -> None:
        self.side = side
        self.textures: dict[str, list[np.ndarray]] = {}
        for number, (name, family) in enumerate(sorted(families.items())):
            rngs = [np.random.default_rng((seed, number, variant)) for variant in range(variants)]
            self.textures[name] = [np.round(family(rng, side) * 255).astype(np.uint8) for rng in rngs]
        self.names = sorted(self.textures)

    def crop(self, rng: np.random.Generator, name: str, size: int) -> np.ndarray:
        """Return a random crop of a random texture of one family: (size, size) float32 in [0, 1]."""
        texture = self.textures[name][rng.integers(len(self.textures[name]))]
        top, left = rng.integers(self.side - size + 1, size=2)
        patch = texture[top : top + size, left : left + size]
        flip = rng.integers(8)
        patch = patch[::-1] if flip & 1 else patch
        patch = patch[:, ::-1] if flip & 2 else patch
        patch = patch.T if flip & 4 else patch
        return patch.astype(np.float32) / 255
