# SPDX-FileCopyrightText: 2026 The clipsam_hf authors
# SPDX-License-Identifier: Apache-2.0
"""Regions as polygons that a person can edit: one polygon each, holes and all.

A polygon runs through the middles of the pixels at a region's border. Drawn with its outline, as LabelMe and Pillow
draw polygons, it covers exactly the region's pixels; with fewer points, almost.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np


__all__ = ["SHARE_LOST", "choose_points", "decode_region", "trace_borders", "trace_polygon"]

SHARE_LOST = 0.02
"""Of a region's area: what leaving points out may change, and what holes that are left out may have, each."""

# Edges between pixels, walked with the region at the right: where the outside is, and from which corner to which
_EDGES = (
    ((-1, 0), (0, 0), (0, 1)),
    ((0, 1), (0, 1), (1, 1)),
    ((1, 0), (1, 1), (1, 0)),
    ((0, -1), (1, 0), (0, 0)),
)


def decode_region(region: Mapping[str, Any]) -> np.ndarray:
    """Decode the mask of a region inside its box.

    Args:
        region (`Mapping[str, Any]`): of a row, with `"box"` and `"outline"`.

    Returns:
        `np.ndarray` of shape `(height, width)` of the box, bool.

    Example:
        >>> box = {"xmin": 1, "ymin": 0, "xmax": 2, "ymax": 1}
        >>> decode_region({"box": box, "outline": {"size": [2, 3], "counts": [2, 1, 3]}})
        array([[ True]])
    """
    (height, _), box = region["outline"]["size"], region["box"]
    counts = np.asarray(region["outline"]["counts"], dtype=np.int64)
    # Runs go down the columns; of those beside the box nothing is unfolded
    start, end = box["xmin"] * height, box["xmax"] * height
    edges = np.clip(np.concatenate([[0], np.cumsum(counts)]), start, end)
    flat = np.repeat(np.arange(len(counts)) % 2 == 1, np.diff(edges))
    return flat.reshape(-1, height).T[box["ymin"] : box["ymax"]]


def trace_borders(mask: np.ndarray) -> list[np.ndarray]:
    """Walk round the borders of an 8-connected region.

    Args:
        mask (`np.ndarray` of shape `(height, width)`, bool): the region.

    Returns:
        `list[np.ndarray]`: for each border, the outer one first, int64 (number of pixels, 2): x and y of the region's
        pixels along it, clockwise; those round holes counterclockwise.

    Example:
        >>> trace_borders(np.array([[True, True], [True, True]]))[0].tolist()
        [[0, 0], [1, 0], [1, 1], [0, 1]]
    """
    padded = np.pad(mask, 1)
    leaving: dict[tuple[int, int], dict[int, tuple[tuple[int, int], tuple[int, int]]]] = {}
    for direction, ((down, right), start, end) in enumerate(_EDGES):
        border = mask & ~np.roll(padded, (-down, -right), (0, 1))[1:-1, 1:-1]
        for row, column in np.argwhere(border).tolist():
            corners = (row + start[0], column + start[1]), (row + end[0], column + end[1])
            leaving.setdefault(corners[0], {})[direction] = corners[1], (column, row)
    borders = []
    while leaving:
        corner, direction = next((corner, next(iter(ways))) for corner, ways in leaving.items())
        pixels: list[tuple[int, int]] = []
        while corner in leaving:
            ways = leaving[corner]
            # Where two parts of the region touch at a corner, to the left, so that both are on one border
            direction = next(
                way for way in (direction - 1, direction, direction + 1, direction + 2) if way % 4 in ways
            )
            direction %= 4
            following, pixel = ways.pop(direction)
            if not ways:
                del leaving[corner]
            if not pixels or pixels[-1] != pixel:
                pixels.append(pixel)
            corner = following
        if len(pixels) > 1 and pixels[0] == pixels[-1]:
            pixels.pop()
        borders.append(np.array(pixels, dtype=np.int64))
    return borders


def trace_polygon(mask: np.ndarray) -> np.ndarray:
    """Make a polygon of an 8-connected region; holes hang on it by slits that lie in the region.

    Args:
        mask (`np.ndarray` of shape `(height, width)`, bool): the region.

    Returns:
        `np.ndarray` of shape `(number of points, 2)`, int64: x and y of pixels, at least three.

    Example:
        >>> trace_polygon(np.ones((20, 30), dtype=bool)).tolist()
        [[0, 0], [29, 0], [29, 19], [0, 19]]
    """
    area = int(mask.sum())
    outer, *holes = trace_borders(mask)
    length = len(outer) + sum(len(hole) for hole in holes)
    path, is_kept = outer, np.zeros(len(outer), dtype=bool)
    for hole in _leave_out_small(holes, SHARE_LOST * area):
        path, is_kept = _join(path, is_kept, hole)
    # No point moves by more than the tolerance, so what changes is less than the border's length times it. Below half
    # a pixel, rounding would change more than is gained
    tolerance = SHARE_LOST * area / length
    polygon = path[choose_points(path, is_kept, tolerance if tolerance >= 0.5 else 0.0)]
    return polygon if len(polygon) >= 3 else np.concatenate([polygon, polygon[[-1] * (3 - len(polygon))]])


def _leave_out_small(holes: list[np.ndarray], most: float) -> list[np.ndarray]:
    """Leave out the smallest holes, of at most so many pixels together; what is left is ordered from left to right."""
    areas = []
    for hole in holes:
        x, y = hole.T
        # Through the middles of the pixels round it: less half its length, more one (Pick's theorem)
        doubled = abs(int((x * np.roll(y, -1) - np.roll(x, -1) * y).sum()))
        areas.append(max(1.0, (doubled - len(hole)) / 2 + 1))
    order = np.argsort(areas)
    is_large = np.cumsum(np.asarray(areas)[order]) > most
    return sorted((holes[place] for place in order[is_large]), key=lambda hole: int(hole[:, 0].min()))


def _join(path: np.ndarray, is_kept: np.ndarray, hole: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Hang a hole on a path: from its leftmost pixel to the left, where the first pixel of the path is."""
    start = int(hole[:, 0].argmin())
    x, y = hole[start]
    in_row = np.flatnonzero((path[:, 1] == y) & (path[:, 0] <= x))
    place = int(in_row[path[in_row, 0].argmax()])
    round_trip = np.concatenate([hole[start:], hole[: start + 1]])
    kept = np.zeros(len(round_trip), dtype=bool)
    kept[[0, -1]] = True
    is_kept = is_kept.copy()
    is_kept[place] = True
    joined = np.concatenate([path[: place + 1], round_trip, path[place:]])
    return joined, np.concatenate([is_kept[: place + 1], kept, is_kept[place:]])


def choose_points(path: np.ndarray, is_kept: np.ndarray, tolerance: float) -> np.ndarray:
    """Choose points of a closed path so that none of the others lies further from the lines between them.

    Args:
        path (`np.ndarray` of shape `(number of points, 2)`): x and y.
        is_kept (`np.ndarray` of shape `(number of points,)`, bool): points that are chosen whatever lies beside them.
        tolerance (`float`): in the units of the path.

    Returns:
        `np.ndarray`, int64: places of the chosen points, in rising order.

    Source: Douglas and Peucker, 1973.
    """
    is_kept = is_kept.copy()
    is_kept[0] = True
    if is_kept.sum() == 1:
        is_kept[int(np.square(path - path[0]).sum(axis=1).argmax())] = True
    closed = np.concatenate([path, path[:1]]).astype(float)
    anchors = [*np.flatnonzero(is_kept).tolist(), len(path)]
    waiting = list(zip(anchors[:-1], anchors[1:], strict=True))
    while waiting:
        start, end = waiting.pop()
        if end - start < 2:
            continue
        between, chord = closed[start + 1 : end] - closed[start], closed[end] - closed[start]
        # Distance to the chord itself, not to its line, which goes on behind its ends
        along = np.clip(between @ chord / max(chord @ chord, 1e-9), 0, 1)
        distances = np.linalg.norm(between - along[:, None] * chord, axis=1)
        furthest = int(distances.argmax())
        if distances[furthest] > tolerance + 1e-9:
            place = start + 1 + furthest
            is_kept[place] = True
            waiting += [(start, place), (place, end)]
    return np.flatnonzero(is_kept)
