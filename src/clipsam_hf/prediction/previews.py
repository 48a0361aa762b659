# SPDX-FileCopyrightText: 2026 The clipsam_hf authors
# SPDX-License-Identifier: Apache-2.0
"""Small pictures for a report: photographs and maps of a bounded number of bytes, and regions as lines."""

import io
from collections.abc import Mapping
from typing import Any

import numpy as np
from PIL import Image

from .polygons import choose_points


__all__ = ["MAX_PREVIEW_BYTES", "PREVIEW_SIDE", "encode_preview", "trace_outline"]

PREVIEW_SIDE = 512
"""Longer side of a preview, in pixels, at most."""

MAX_PREVIEW_BYTES = 40_000
"""Of a preview, as JPEG."""

# An outline keeps to its mask within so much of a preview's pixel
_TOLERANCE = 0.25


def encode_preview(picture: Image.Image) -> bytes:
    """Encode a picture as a small JPEG.

    Args:
        picture (`PIL.Image.Image`): RGB or L.

    Returns:
        `bytes`: at most `MAX_PREVIEW_BYTES`; a picture with more detail than fits is made smaller.

    Example:
        >>> noise = np.random.default_rng(0).integers(0, 256, (900, 1200, 3), dtype=np.uint8)
        >>> len(encode_preview(Image.fromarray(noise))) <= MAX_PREVIEW_BYTES
        True
    """
    side = PREVIEW_SIDE
    while True:
        small = picture.copy()
        small.thumbnail((side, side))
        encoded = io.BytesIO()
        small.save(encoded, "JPEG", quality=78, optimize=True)
        if encoded.tell() <= MAX_PREVIEW_BYTES:
            return encoded.getvalue()
        side = side * 3 // 4


def trace_outline(region: Mapping[str, Any]) -> str:
    """Trace the outline of a region.

    Args:
        region (`Mapping[str, Any]`): of a row, with `"box"` and `"outline"`.

    Returns:
        `str`: the path of closed lines, in SVG's notation, in pixels of the photograph, as exact as a preview is.

    Example:
        >>> box = {"xmin": 1, "ymin": 1, "xmax": 5, "ymax": 3}
        >>> trace_outline({"box": box, "outline": {"size": [4, 6], "counts": [5, 2, 2, 2, 2, 2, 2, 2, 5]}})
        'M1.5 1L4.5 1L5 1.5L5 2.5L4.5 3L1.5 3L1 2.5L1 1.5Z'
    """
    (height, width), box = region["outline"]["size"], region["box"]
    step = max(1.0, max(height, width) / PREVIEW_SIDE)
    rows, columns = (
        np.minimum(np.arange(box[f"{axis}min"] + step / 2, box[f"{axis}max"] + step / 2, step), box[f"{axis}max"] - 1)
        for axis in ("y", "x")
    )
    # Runs of 0 and 1 by turns, down the columns: the number of the run at a place says which it is
    places = columns.astype(np.int64)[None] * height + rows.astype(np.int64)[:, None]
    mask = np.searchsorted(np.cumsum(region["outline"]["counts"]), places, side="right") % 2 == 1
    if not mask.any():  # thinner than a preview's pixel
        mask[:] = True
    corner = np.array([box["xmin"], box["ymin"]])
    lines = []
    for line in _walk_borders(mask):
        chosen = choose_points(line, np.zeros(len(line), dtype=bool), _TOLERANCE)
        lines.append(line[chosen] * step + corner)
    return "".join(f"M{'L'.join(f'{x:.4g} {y:.4g}' for x, y in line.round(1))}Z" for line in lines)


def _walk_borders(mask: np.ndarray) -> list[np.ndarray]:
    """Return the borders between inside and outside as closed lines of (x, y) through the middles of pixels' edges."""
    padded = np.pad(mask, 1)
    edges: dict[tuple[int, int], list[tuple[int, int]]] = {}
    # Clockwise round the inside: the neighbour that must be outside, then the edge from one corner to another
    for (down, right), start, end in (
        ((-1, 0), (0, 0), (0, 1)),
        ((0, 1), (0, 1), (1, 1)),
        ((1, 0), (1, 1), (1, 0)),
        ((0, -1), (1, 0), (0, 0)),
    ):
        border = mask & ~np.roll(padded, (-down, -right), (0, 1))[1:-1, 1:-1]
        for row, column in np.argwhere(border).tolist():
            edges.setdefault((row + start[0], column + start[1]), []).append((row + end[0], column + end[1]))
    lines = []
    while edges:
        corner = next(iter(edges))
        corners = [corner]
        while corner in edges:
            ends = edges[corner]
            following = ends.pop()
            if not ends:
                del edges[corner]
            corner = following
            corners.append(corner)
        walked = np.array(corners, dtype=float)[:, ::-1]
        lines.append((walked[1:] + walked[:-1]) / 2)
    return lines
