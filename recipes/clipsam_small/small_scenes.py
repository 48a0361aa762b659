# SPDX-FileCopyrightText: 2026 The clipsam_hf authors
# SPDX-License-Identifier: Apache-2.0
"""
Generated defects on real materials, seen through a camera, with their masks and words.

The defects, shapes and cameras are those of `clipsam-tiny`'s generated world; what they are drawn on are photographs
of surfaces that tile, and pieces of the sets for training with their true defects.
"""

import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image


sys.path.append(str(Path(__file__).parents[1] / "clipsam_tiny"))

from synthetic import SyntheticImages  # noqa: E402
from synthetic_photographs import KINDS as DEFECT_WORDS  # noqa: E402
from synthetic_photographs import Photographs  # noqa: E402
from synthetic_pool import KINDS, photograph  # noqa: E402

from clipsam_hf.data import AnomalyFolder  # noqa: E402


__all__ = ["DAMAGED_BY_NATURE", "KINDS", "Scenes", "Surfaces", "draw_box", "draw_scenes", "name_of", "read_materials"]

DAMAGED_BY_NATURE = ("Ground", "Rust", "ScatteredLeaves", "TireTracks")
"""Families of materials on which nobody could say what is a defect."""

MATERIAL_SHARE = 0.75
GOOD_SHARE = 0.25
# How much of a drawn defect's change is seen
FAINTEST, STRONGEST = 0.5, 1.2
# A piece of a photograph: its side, as a share of the shorter one, and how often a defect is in it
EXTENT, DEFECT_SHARE = (0.25, 0.8), 0.7


class Scenes(NamedTuple):
    """
    Some scenes.

    Args:
        images: (count, 3, size, size) float32 in [0, 1].
        kinds: (count, size, size) uint8: 0 good, else the number of the kind of defect in `KINDS`, from 1.
        words: What each shows, as a word of a caption.
    """

    images: torch.Tensor
    kinds: torch.Tensor
    words: list[str]


def name_of(family: str) -> str:
    """
    Return the words of a family of materials.

    Example:
        >>> name_of("CorrugatedSteel")
        'corrugated steel'
    """
    return re.sub(r"(?<=[a-z])(?=[A-Z])", " ", family).lower()


def read_materials(folder: Path) -> list[tuple[np.ndarray, str]]:
    """
    Return the surfaces of a folder of families, each (side, side, 3) uint8, with its words.

    Raises:
        ValueError: If there is none.
    """
    paths = sorted(path for path in folder.glob("*/*") if path.parent.name not in DAMAGED_BY_NATURE)
    read = [
        (np.asarray(Image.open(path).convert("RGB")), name_of(path.parent.name))
        for path in paths
        if path.suffix.lower() in (".jpg", ".png")
    ]
    if not read:
        raise ValueError(f"{folder} has no photographs in folders named after their materials.")
    return read


class Surfaces(Photographs):
    """
    Surfaces that tile, and the pieces of photographs of data sets.

    Args:
        materials: Folder of families of materials.
        folders: Data sets, as in [`Photographs`].
        leave_out: Class names of data sets that are not shown.

    Attributes:
        extents: How wide a piece of material is, least and most, in sides of its tile.
    """

    extents: tuple[float, float] = (0.6, 2.0)

    def __init__(self, materials: Path, folders: Sequence[Path], leave_out: Sequence[str] = ()) -> None:
        super().__init__(folders)
        kept = [number for number, name in enumerate(self.class_names) if name not in leave_out]
        self.photographs = [self.photographs[number] for number in kept]
        self.class_names = [self.class_names[number] for number in kept]
        self.defective = [number for number, (_, mask, _) in enumerate(self.photographs) if mask.any()]
        self.tiles = read_materials(materials)

    def material(self, rng: np.random.Generator, size: int) -> tuple[np.ndarray, str]:
        """Return a piece without known defects, (size, size, 3) float32 in [0, 1], and its words."""
        if self.photographs and rng.random() > MATERIAL_SHARE:
            return super().material(rng, size)
        tile, words = self.tiles[rng.integers(len(self.tiles))]
        side = len(tile)
        extent = int(side * np.exp(rng.uniform(*np.log(self.extents))))
        moved = np.roll(tile, tuple(rng.integers(side, size=2)), (0, 1))
        whole = np.tile(moved, (-(-extent // side), -(-extent // side), 1))[:extent, :extent]
        piece = Image.fromarray(whole).resize((size, size), Image.Resampling.BICUBIC)
        return self._turned(rng, np.asarray(piece)).astype(np.float32) / 255, words


def draw_scenes(surfaces: Surfaces, *, seed: int, first: int, count: int, size: int) -> Scenes:
    """
    Return some scenes of an endless list; each depends on the seed and its number alone.

    Args:
        surfaces: What the defects are drawn on.
        seed: Of all scenes.
        first: Number of the first one.
        count: How many.
        size: Their side in pixels.
    """
    generated = SyntheticImages(
        seed=seed,
        good_fraction=0,
        grey_fraction=0.45,
        detail_fraction=0.6,
        photographs=surfaces,
        material_fraction=0.8,
        true_fraction=0.15 if surfaces.defective else 0.0,
    )
    images, all_kinds, words = [], [], []
    for number in range(first, first + count):
        scene = generated.scene(number, size=size)
        rng = np.random.default_rng((seed, number, 7))
        clean, damaged = (
            torch.from_numpy(each.copy()).permute(2, 0, 1) / 255 for each in (scene.clean, scene.damaged)
        )
        kinds = np.zeros((size, size), np.uint8)
        for kind, mask in scene.masks.items():
            kinds[mask] = KINDS.index(kind) + 1
        # a true defect cannot be undone
        is_true = np.array_equal(scene.clean, scene.damaged)
        good = rng.random() < GOOD_SHARE and not is_true
        strength = 0.0 if good else rng.uniform(FAINTEST, STRONGEST)
        generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
        images.append(photograph((clean + strength * (damaged - clean))[None].clamp(0, 1), generator)[0])
        all_kinds.append(torch.from_numpy(kinds) * (not good))
        words.append(scene.words)
    return Scenes(torch.stack(images), torch.stack(all_kinds), words)


def draw_box(mask: np.ndarray, rng: np.random.Generator) -> tuple[int, int, int, int]:
    """Draw a square piece of a photograph (XYXY), most often with a part of its (height, width) defects in it."""
    height, width = mask.shape
    side = int(min(height, width) * rng.uniform(*EXTENT))
    rows, columns = np.nonzero(mask)
    if len(rows) and rng.random() < DEFECT_SHARE:
        chosen = rng.integers(len(rows))
        middle = np.array((columns[chosen], rows[chosen])) + rng.uniform(-0.4, 0.4, 2) * side
    else:
        middle = rng.uniform(0, 1, 2) * (width, height)
    left, top = np.clip(middle - side / 2, 0, np.array((width, height)) - side).astype(int).tolist()
    return left, top, left + side, top + side


def read_photographs(data: AnomalyFolder, first: int, count: int, *, size: int, seed: int | None = None) -> Scenes:
    """
    Return whole photographs of a data set with their true defects, squashed to a square as the package does it.

    Args:
        data: The data set.
        first: Number of the first one.
        count: How many.
        size: Side of the square in pixels.
        seed: Of a random piece of each, that is returned instead of it.

    Raises:
        ValueError: If a kind of defect has no word in the generated world.
    """
    images, all_kinds, words = [], [], []
    for place in range(first, first + count):
        sample = data[place % len(data)]
        if sample.label == 1 and sample.defect_type not in DEFECT_WORDS:
            raise ValueError(f"No kind for the defects {sample.defect_type!r} of {sample.image_path}.")
        picture, defects, square = sample.load_image().convert("RGB"), np.asarray(sample.load_mask()) > 0, (size, size)
        box = None if seed is None else draw_box(defects, np.random.default_rng((seed, place, 9)))
        image = np.asarray(picture.resize(square, Image.Resampling.BICUBIC, box=box))
        mask = Image.fromarray(defects).resize(square, Image.Resampling.NEAREST, box=box)
        number = KINDS.index(DEFECT_WORDS[str(sample.defect_type)]) + 1 if sample.label == 1 else 0
        images.append(torch.from_numpy(image.copy()).permute(2, 0, 1) / 255)
        all_kinds.append(torch.from_numpy(np.asarray(mask).astype(np.uint8) * np.uint8(number)))
        words.append(sample.class_name)
    return Scenes(torch.stack(images), torch.stack(all_kinds), words)
