# SPDX-FileCopyrightText: 2026 The clipsam_hf authors
# SPDX-License-Identifier: Apache-2.0
"""Frames and maps that the tests of regions, refinement and their references have in common."""

import numpy as np


def sam_content(height: int, width: int, side: int = 1024) -> tuple[int, int]:
    """The (height, width) that SAM's image processor gives to a photograph, at least one pixel."""
    scale = side / max(height, width)
    return max(1, int(height * scale + 0.5)), max(1, int(width * scale + 0.5))


def random_map(height: int, width: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).random((height, width), dtype=np.float32)
