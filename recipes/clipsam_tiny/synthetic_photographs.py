# SPDX-FileCopyrightText: 2026 The clipsam_hf authors
# SPDX-License-Identifier: Apache-2.0
"""Pieces of real photographs for generated scenes: as materials, and with their true defects."""

import os
from collections.abc import Sequence

import numpy as np
from PIL import Image

from clipsam_hf.data import AnomalyFolder


__all__ = ["Photographs"]

LONGEST_SIDE = 1024
MIN_AREA = 12
TRIES = 12
# The data sets' words for their defects, and the kind of the generated world that means the same
KINDS = {"crack": "crack", "pothole": "hole", "pitting": "hole"}


class Photographs:
    """
    Some data sets, read into memory.

    Args:
        folders: Folders that [`AnomalyFolder`] can read; all their splits are used.

    Raises:
        ValueError: If a photograph's kind of defect has no word in the generated world.
    """

    def __init__(self, folders: Sequence[str | os.PathLike[str]]) -> None:
        self.photographs: list[tuple[Image.Image, np.ndarray, str | None]] = []
        self.class_names: list[str] = []
        for folder in folders:
            for sample in AnomalyFolder(folder, split=None):
                kind = sample.defect_type
                if sample.label == 1 and kind not in KINDS:
                    raise ValueError(
                        f"No kind for the defects {kind!r} of {sample.image_path}; known: {sorted(KINDS)}."
                    )
                image, mask = sample.load_image(), Image.fromarray(sample.load_mask().astype(np.uint8) * 255)
                scale = min(1.0, LONGEST_SIDE / max(image.size))
                size = (round(image.width * scale), round(image.height * scale))
                smaller = np.asarray(mask.resize(size, Image.Resampling.BOX)) > 127
                self.photographs.append((image.resize(size), smaller, KINDS.get(str(kind))))
                self.class_names.append(sample.class_name)
        self.defective = [number for number, (_, mask, _) in enumerate(self.photographs) if mask.any()]

    def material(self, rng: np.random.Generator, size: int) -> tuple[np.ndarray, str]:
        """Return a piece without known defects, (size, size, 3) float32 in [0, 1], and its class name."""
        for _ in range(TRIES):
            number = int(rng.integers(len(self.photographs)))
            image, mask, _ = self.photographs[number]
            box = self._window(rng, image, size, None)
            if not mask[box[1] : box[3], box[0] : box[2]].any():
                break
        piece = self._turned(rng, np.asarray(image.resize((size, size), box=box)))
        return piece.astype(np.float32) / 255, self.class_names[number]

    def defect(self, rng: np.random.Generator, size: int) -> tuple[np.ndarray, np.ndarray, str, str]:
        """Return a piece with a true defect, (size, size, 3) uint8, its bool mask, its kind and its class name."""
        for _ in range(TRIES):
            number = self.defective[rng.integers(len(self.defective))]
            image, truth, kind = self.photographs[number]
            rows, columns = np.nonzero(truth)
            chosen = rng.integers(len(rows))
            box = self._window(rng, image, size, (int(columns[chosen]), int(rows[chosen])))
            picture = Image.fromarray(truth).convert("L").resize((size, size), Image.Resampling.BILINEAR, box=box)
            mask = np.asarray(picture) > 100
            if mask.sum() >= MIN_AREA:
                break
        both = self._turned(rng, np.dstack((np.asarray(image.resize((size, size), box=box)), mask)))
        return both[..., :3], both[..., 3] > 0, str(kind), self.class_names[number]

    def _window(
        self, rng: np.random.Generator, image: Image.Image, size: int, around: tuple[int, int] | None
    ) -> tuple[int, int, int, int]:
        """Draw the part of a photograph that becomes a square: XYXY, in its pixels."""
        width, height = image.size
        extent = float(np.exp(rng.uniform(np.log(min(0.8 * size, height)), np.log(height))))
        across = min(width, int(extent * rng.uniform(0.8, 1.5)))
        down = int(extent)
        if around is None:
            left, top = rng.integers(width - across + 1), rng.integers(height - down + 1)
        else:
            place = rng.uniform(0.1, 0.9, 2)
            left = np.clip(around[0] - place[0] * across, 0, width - across)
            top = np.clip(around[1] - place[1] * down, 0, height - down)
        return int(left), int(top), int(left) + across, int(top) + down

    def _turned(self, rng: np.random.Generator, piece: np.ndarray) -> np.ndarray:
        piece = piece[:, ::-1] if rng.random() < 0.5 else piece
        return np.rot90(piece, int(rng.integers(4)))
