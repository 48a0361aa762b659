# SPDX-FileCopyrightText: 2026 The clipsam_hf authors
# SPDX-License-Identifier: Apache-2.0
"""Long or huge photographs in overlapping tiles, beside one look at the whole; pure functions.

CLIP sees every photograph squashed to a small square: a crack of a board of 4096 x 256 pixels is gone there, and so is
a scratch in 24 megapixels. A tile keeps its proportions and its details; the whole keeps what is larger than a tile.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .refinement_clipsam import resize_map


LONGEST_ASPECT = 2.0
"""`tile="auto"` cuts photographs that are more than so many times as long as they are short."""

MOST_PIXELS = 16_000_000
"""`tile="auto"` cuts photographs of more pixels: those of telephones, with twelve million, are taken whole."""

MOST_TILES = 48
"""`tile="auto"` makes no more of one photograph: it takes larger ones instead."""

OVERLAP = 0.25
"""Share of a tile's side that it has in common with the next one, at least."""

# `tile="auto"` squashes a tile by no more than this factor, as far as the number of tiles allows
_DENSITY = 2


class Box(NamedTuple):
    """A rectangle of a photograph: edges as shares of its height and width, in [0, 1]."""

    top: float
    left: float
    bottom: float
    right: float


WHOLE = Box(0.0, 0.0, 1.0, 1.0)


class Tile(NamedTuple):
    """A rectangle of a photograph in whole pixels; `bottom` and `right` are exclusive."""

    top: int
    left: int
    bottom: int
    right: int

    def to_box(self, size: Sequence[int]) -> Box:
        """Returns the edges as shares of a photograph of (height, width) `size`."""
        height, width = size
        return Box(self.top / height, self.left / width, self.bottom / height, self.right / width)


def check_tile(tile: str | int | None) -> None:
    """Raises if it is none of what `plan_tiles` takes.

    Raises:
        TypeError: If it is neither `None`, nor a text, nor a whole number.
        ValueError: If it is another text than `"auto"`, or smaller than 16 pixels.
    """
    if isinstance(tile, bool) or not isinstance(tile, (str, int, type(None))):
        raise TypeError(f"`tile` must be 'auto', a side in pixels or None, got {tile!r}.")
    if isinstance(tile, str) and tile != "auto" or isinstance(tile, int) and tile < 16:
        raise ValueError(f"`tile` must be 'auto', a side of at least 16 pixels or None, got {tile!r}.")


def plan_tiles(size: Sequence[int], tile: str | int | None, image_size: int) -> list[Tile]:
    """Plans the tiles of a photograph: as few as cover it with at least a quarter of overlap, evenly spread.

    Args:
        size (`Sequence[int]`): (height, width) of the photograph, in pixels.
        tile (`str` or `int`, *optional*): The side of a tile in pixels, down to half of it where the photograph is
            narrower; or `"auto"`: tiles where the photograph is more than twice as long as short, or has more than 16
            megapixels, with a side that CLIP squashes by two at most, or by more so that there are no more than 48
            tiles; or `None` for none.
        image_size (`int`): Side of CLIP's frame, in pixels.

    Returns:
        `list[Tile]`: By rows; empty if the whole is to be looked at alone.

    Raises:
        TypeError, ValueError: See `check_tile`.

    Example:
        >>> [(tile.left, tile.right) for tile in plan_tiles((100, 250), 100, 64)]
        [(0, 100), (75, 175), (150, 250)]
        >>> plan_tiles((3000, 4000), "auto", 384), len(plan_tiles((256, 4096), "auto", 384))
        ([], 21)
    """
    check_tile(tile)
    short, long = min(size), max(size)
    if tile is None or (isinstance(tile, int) and long <= tile):
        return []
    if isinstance(tile, int):
        return _cover(size, max(min(tile, short), tile // 2))
    if long <= LONGEST_ASPECT * short and short * long <= MOST_PIXELS:
        return []
    side = min(short, _DENSITY * image_size)
    while _count(size[0], side) * _count(size[1], side) > MOST_TILES:
        side = side * 11 // 10 + 1
    return _cover(size, side)


def _cover(size: Sequence[int], side: int) -> list[Tile]:
    rows, columns = (_spread(length, side) for length in size)
    return [Tile(top, left, bottom, right) for top, bottom in rows for left, right in columns]


def _count(length: int, side: int) -> int:
    """How many parts of a length cover another with enough overlap."""
    return 1 + -(-max(0, length - side) // max(1, int(side * (1 - OVERLAP))))


def _spread(length: int, side: int) -> list[tuple[int, int]]:
    """First and last edges, in pixels, of equal parts that cover a length."""
    count = _count(length, side)
    if count == 1:
        return [(0, length)]
    starts = [round(index * (length - side) / (count - 1)) for index in range(count)]
    return [(start, start + side) for start in starts]


def join_tiles(whole: Tensor, maps: Sequence[Tensor], tiles: Sequence[Tile], size: Sequence[int]) -> Tensor:
    """Joins the maps of tiles and of the whole photograph: at each place the higher of both.

    Where tiles overlap, the weight of each falls linearly to nothing at its edge, so that no edge can be seen.

    Args:
        whole (`torch.Tensor` of shape `(height, width)`): The whole photograph's map, in [0, 1].
        maps (`Sequence[torch.Tensor]` of shape `(height, width)`): Those of the tiles.
        tiles (`Sequence[Tile]`): Where they lie; together they cover the photograph.
        size (`Sequence[int]`): (height, width) of the photograph, in pixels.

    Returns:
        `torch.Tensor` of shape `(height, width)`: As fine as the maps of the tiles, but no finer than the photograph.

    Example:
        >>> tiles = plan_tiles((8, 20), 16, 4)
        >>> join_tiles(torch.zeros(4, 4), [torch.full((4, 4), 0.5) for _ in tiles], tiles, (8, 20)).unique()
        tensor([0.5000])
    """
    tallest = max(map_.shape[0] / (tile.bottom - tile.top) for map_, tile in zip(maps, tiles, strict=True))
    canvas = [max(1, round(length * min(1.0, tallest))) for length in size]
    total, weights = whole.new_zeros(canvas), whole.new_zeros(canvas)
    for map_, tile in zip(maps, tiles, strict=True):
        top, bottom, rows = _place(tile.top, tile.bottom, size[0], canvas[0])
        left, right, columns = _place(tile.left, tile.right, size[1], canvas[1])
        grid = torch.stack(torch.meshgrid(rows * 2 - 1, columns * 2 - 1, indexing="ij")[::-1], dim=-1)
        sampled = F.grid_sample(map_[None, None], grid[None].to(map_), padding_mode="border", align_corners=False)[
            0, 0
        ]
        weight = (_ramp(rows)[:, None] * _ramp(columns)).to(map_)
        total[top:bottom, left:right] += weight * sampled
        weights[top:bottom, left:right] += weight
    return torch.maximum(total / weights, resize_map(whole, canvas))


def _place(low: int, high: int, length: int, cells: int) -> tuple[int, int, Tensor]:
    """The canvas' cells whose centres lie in a tile, along one axis, and these centres as shares of the tile."""
    centres = (torch.arange(cells, dtype=torch.float64) + 0.5) * length / cells
    inside = ((centres >= low) & (centres < high)).nonzero().flatten()
    first, last = int(inside[0]), int(inside[-1]) + 1
    return first, last, (centres[first:last] - low) / (high - low)


def _ramp(shares: Tensor) -> Tensor:
    """Weights that fall linearly to nothing at both edges, over the overlap."""
    return (torch.minimum(shares, 1 - shares) / OVERLAP).clamp(1e-6, 1.0)


__all__ = [
    "LONGEST_ASPECT",
    "MOST_PIXELS",
    "MOST_TILES",
    "OVERLAP",
    "WHOLE",
    "Box",
    "Tile",
    "check_tile",
    "join_tiles",
    "plan_tiles",
]
