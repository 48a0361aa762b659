# SPDX-FileCopyrightText: 2026 The clipsam_hf authors
# SPDX-License-Identifier: Apache-2.0
"""How ground-truth masks come to the size at which maps are compared."""

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image


__all__ = ["MASK_RULES", "resize_mask"]

MASK_RULES = ("nearest", "bilinear", "native")
"""Names of the rules for `resize_mask`."""


def resize_mask(mask: ArrayLike, size: tuple[int, int], rule: str = "bilinear") -> NDArray[np.bool_]:
    """Bring a ground-truth mask to the size at which maps are compared.

    The rule changes the figures: of thin scratches, `"nearest"` leaves a row of fragments, each of which AUPRO counts
    like a whole defect, and `"bilinear"` loses some. Name it beside every figure.

    Args:
        mask (array of shape `(height, width)`): nonzero on defects.
        size (`tuple[int, int]`): wanted (height, width).
        rule (`str`): `"nearest"` (SAA, WinCLIP's re-implementations), `"bilinear"` (antialiased by Pillow, above one
            half; APRIL-GAN, AnomalyCLIP, AdaCLIP, VCP-CLIP), or `"native"`: the mask stays as it is, whatever `size`,
            and the map must be brought to its size.

    Returns:
        `np.ndarray` of shape `size`, bool (of the mask's own shape with `"native"`).

    Raises:
        ValueError: if the rule is unknown, the mask is not two-dimensional, or the size is not positive.

    Example:
        >>> resize_mask(np.eye(4), (2, 2), "nearest").tolist()
        [[True, False], [False, True]]
    """
    defect = np.asarray(mask) != 0
    if rule not in MASK_RULES:
        raise ValueError(f"`rule` must be one of {MASK_RULES}, got {rule!r}")
    if defect.ndim != 2:
        raise ValueError(f"`mask` must have shape (height, width), got {defect.shape}")
    if min(size) < 1:
        raise ValueError(f"`size` must be a positive (height, width), got {size}")
    height, width = size
    if rule == "native" or defect.shape == (height, width):
        return defect
    filters = {"nearest": Image.Resampling.NEAREST, "bilinear": Image.Resampling.BILINEAR}
    resized = Image.fromarray(defect.astype(np.uint8) * 255).resize((width, height), filters[rule])
    return np.asarray(resized) > 127  # the field compares value / 255 with 0.5
