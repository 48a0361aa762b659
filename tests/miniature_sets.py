# SPDX-FileCopyrightText: 2026 The clipsam_hf authors
# SPDX-License-Identifier: Apache-2.0
"""Photographs for miniature data sets."""

from pathlib import Path

import numpy as np
from PIL import Image


SIDE = 48


def write_photograph(path: Path, number: int, mask_path: Path | None = None) -> None:
    """Noise; with a mask, also a bright square somewhere."""
    rng = np.random.default_rng(number)
    pixels, mask = rng.integers(0, 80, (SIDE, SIDE, 3), dtype=np.uint8), np.zeros((SIDE, SIDE), dtype=np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    if mask_path is not None:
        row, column = rng.integers(4, 24, 2)
        pixels[row : row + 18, column : column + 18] = 250
        mask[row : row + 18, column : column + 18] = 255
        mask_path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(mask).save(mask_path)
    Image.fromarray(pixels).save(path)
