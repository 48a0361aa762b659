# SPDX-FileCopyrightText: 2026 The clipsam_hf authors
# SPDX-License-Identifier: Apache-2.0
"""Pictures of anomaly maps on a fixed scale, with Pillow only.

A map is never stretched to its own minimum and maximum: that would paint the brightest speck of a flawless part in the
colour of a defect. The scale is `vmin` to `vmax`, the same for every picture, and the colour bar says so in numbers.

Pictures are for eyes: what is larger than `max_side` is made smaller, all text included, and what is tiny is enlarged.
"""

from collections.abc import Mapping, Sequence
from math import ceil, floor, isfinite, sqrt
from typing import Any, TypeAlias

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from .image_loading import ImageInput, load_rgb


MapInput: TypeAlias = np.ndarray | torch.Tensor
Font: TypeAlias = ImageFont.FreeTypeFont | ImageFont.ImageFont
Rectangle: TypeAlias = tuple[int, int, int, int]  # left, top, right, bottom, the last two exclusive

MAX_SIDE = 1600
"""Longer side of a picture in pixels, at most, if the caller gives none."""

# A picture that shall be legible needs as much; smaller photographs are enlarged to the second
_LEAST_MAX_SIDE, _LEAST_SIDE = 200, 400

# Ten equal steps of matplotlib's "inferno" (Smith and van der Walt, CC0). Its lightness rises evenly from black to
# pale yellow, so that the order survives every kind of colour blindness and a black and white printer.
_RAMP = np.array(
    [
        (0, 0, 4), (27, 12, 65), (74, 12, 107), (120, 28, 109), (165, 44, 96),
        (207, 68, 70), (237, 105, 37), (251, 155, 6), (247, 209, 61), (252, 255, 164),
    ]
)  # fmt: skip

_INK, _PAPER, _GREY = (23, 23, 23), (255, 255, 255), (115, 115, 115)
_VERDICTS = {"anomalous": (200, 30, 30), "normal": (22, 130, 70)}


def heat_map(
    anomaly_map: MapInput, *, vmin: float = 0.0, vmax: float = 1.0, max_side: int | None = MAX_SIDE
) -> Image.Image:
    """
    Paint an anomaly map with colours that mean the same in every picture.

    Args:
        anomaly_map (`np.ndarray` or `torch.Tensor` of shape `(height, width)`):
            Anomaly per pixel, usually in [0, 1]. Values outside `vmin`..`vmax` get the colour of the nearer end.
        vmin (`float`, *optional*, defaults to 0.0):
            The value painted black.
        vmax (`float`, *optional*, defaults to 1.0):
            The value painted pale yellow.
        max_side (`int`, *optional*, defaults to 1600):
            Longer side of the picture in pixels, at most, 200 or more; `None` for none. A smaller map keeps its size.

    Returns:
        `PIL.Image.Image`: RGB, of the map's size or smaller.

    Raises:
        ValueError: If the map is not 2-D and finite, `vmin` is not below `vmax`, or `max_side` is too small.
        TypeError: If the map is not an array or tensor of numbers.

    Example:

    ```python
    >>> import numpy as np
    >>> from clipsam_hf.visualization_clipsam import heat_map

    >>> heat_map(np.array([[0.0, 1.0]])).getpixel((1, 0))
    (252, 255, 164)

    ```
    """
    values = _check_map(anomaly_map)
    size = (values.shape[1], values.shape[0])
    return _paint(_position(_resize_map(values, _fit(size, max_side, least=0)), vmin, vmax))


def overlay(
    image: ImageInput,
    anomaly_map: MapInput,
    *,
    alpha: float = 0.7,
    vmin: float = 0.0,
    vmax: float = 1.0,
    score: float | None = None,
    label: str | None = None,
    regions: Sequence[Mapping[str, Any]] = (),
    size: tuple[int, int] | None = None,
    color_bar: bool = True,
    max_side: int | None = MAX_SIDE,
) -> Image.Image:
    """
    Lay an anomaly map over its photograph, with the scale, the score and the regions in the picture.

    The colours cover the more, the higher the map is: where it is at `vmin`, the photograph is as it was, so a good
    part looks like a good part.

    Args:
        image (`str`, `os.PathLike`, `bytes`, `PIL.Image.Image`, `np.ndarray` or `torch.Tensor`):
            The photograph, in any form that `load_rgb` reads.
        anomaly_map (`np.ndarray` or `torch.Tensor` of shape `(height, width)`):
            Anomaly per pixel of the photograph, as the pipeline returns it.
        alpha (`float`, *optional*, defaults to 0.7):
            Opacity of the map's high half, in [0, 1]; below, it falls to 0 at `vmin`.
        vmin (`float`, *optional*, defaults to 0.0):
            Lower end of the colour scale, never taken from the map.
        vmax (`float`, *optional*, defaults to 1.0):
            Upper end of the colour scale, never taken from the map.
        score (`float`, *optional*):
            The image's score, written under the picture.
        label (`str`, *optional*):
            The verdict, `"anomalous"` or `"normal"`, written before the score.
        regions (`Sequence[Mapping]`, *optional*):
            The pipeline's regions, `{"box": {"xmin", "ymin", "xmax", "ymax"}, "score", ...}` with edges in pixels of
            the photograph. Each is framed, and its score written beside it where there is room: labels neither cover
            each other nor leave the photograph, and those of high scores come first.
        size (`tuple[int, int]`, *optional*):
            (height, width) of the photograph in whose pixels the boxes are, where `image` is a smaller copy of it.
        color_bar (`bool`, *optional*, defaults to `True`):
            Whether the scale is drawn under the picture.
        max_side (`int`, *optional*, defaults to 1600):
            Longer side in pixels, at most, 200 or more, of the whole picture. A photograph of less than 400 is
            enlarged to that. With `None`, the photograph keeps its pixels.

    Returns:
        `PIL.Image.Image`: RGB with the photograph at its top.

    Raises:
        ValueError: If map and photograph differ in size, or an argument is out of range.
        TypeError: If the map is not an array or tensor of numbers.
    """
    photograph, values = load_rgb(image), _check_map(anomaly_map)
    if values.shape != (photograph.height, photograph.width):
        raise ValueError(
            f"The map is {values.shape[0]}x{values.shape[1]}, its image {photograph.height}x{photograph.width} (height"
            " x width): resize the map, for instance with `post_process_anomaly_segmentation(target_sizes=...)`."
        )
    if not 0 <= alpha <= 1:
        raise ValueError(f"`alpha` must lie in [0, 1], got {alpha!r}.")
    if score is not None and not isfinite(score):
        raise ValueError(f"`score` must be finite, got {score!r}.")
    height, width = size or values.shape
    boxes = [_check_region(region, (width, height)) for region in regions]

    shown = _fit(photograph.size, max_side)
    font = _font(shown)
    footer = _footer(shown[0], font, score, label, (vmin, vmax) if color_bar else None)
    if footer is not None and max_side is not None:
        shown = _fit(photograph.size, max_side, room=(max_side, max_side - footer.height))

    position = _position(_resize_map(values, shown), vmin, vmax)
    opacity = Image.fromarray(np.rint(np.minimum(2 * position, 1) * alpha * 255).astype(np.uint8))
    picture = Image.composite(_paint(position), _resize(photograph, shown), opacity)
    scale = (shown[0] / width, shown[1] / height)
    _draw_regions(picture, [(_scale_box(box, scale, shown), region_score) for box, region_score in boxes], font)
    return picture if footer is None else _stack([picture, footer])


def side_by_side(pictures: Mapping[str, Image.Image], *, max_side: int | None = MAX_SIDE) -> Image.Image:
    """
    Put pictures next to each other, each under its title, in as many rows as show them largest.

    Args:
        pictures (`Mapping[str, PIL.Image.Image]`):
            Titles and pictures, in reading order.
        max_side (`int`, *optional*, defaults to 1600):
            Longer side in pixels, at most, 200 or more, of all together. With `None`, pictures keep their pixels and
            stand in one row.

    Returns:
        `PIL.Image.Image`: RGB.

    Raises:
        ValueError: If there is no picture, or `max_side` is too small for so many.
    """
    if not pictures:
        raise ValueError("`pictures` must hold at least one picture, got none.")
    sizes = [_fit(picture.size, max_side) for picture in pictures.values()]
    cell = (max(width for width, _ in sizes), max(height for _, height in sizes))
    columns, scale = _choose_columns(len(sizes), cell, max_side)
    font = _font((round(cell[0] * scale), round(cell[1] * scale)))
    line, gap = _text_size("", font)[1] * 2, _text_size("", font)[1]
    rows = -(-len(sizes) // columns)
    if max_side is not None:
        room = ((max_side - gap * (columns - 1)) // columns, (max_side - gap * (rows - 1)) // rows - line)
        if min(room) < 1:
            raise ValueError(f"`max_side` of {max_side} pixels is too small for {len(sizes)} pictures.")
        scale = min(1.0, room[0] / cell[0], room[1] / cell[1])
    sizes = [(max(1, floor(width * scale)), max(1, floor(height * scale))) for width, height in sizes]
    cell = (max(width for width, _ in sizes), max(height for _, height in sizes) + line)

    total = (columns * cell[0] + (columns - 1) * gap, rows * cell[1] + (rows - 1) * gap)
    canvas = Image.new("RGB", total, _PAPER)
    draw = ImageDraw.Draw(canvas)
    for number, (size, (title, picture)) in enumerate(zip(sizes, pictures.items(), strict=True)):
        left, top = (number % columns) * (cell[0] + gap), (number // columns) * (cell[1] + gap)
        draw.text((left, top + line // 4), _shorten(title, font, cell[0]), _INK, font)
        canvas.paste(_resize(picture.convert("RGB"), size), (left, top + line))
    return canvas


def _choose_columns(count: int, cell: tuple[int, int], max_side: int | None) -> tuple[int, float]:
    """Number of columns, and the scale of cells of this (width, height), that show most; of equals, most columns."""
    if max_side is None:
        return count, 1.0
    scales = [
        (min(1.0, max_side / (columns * cell[0]), max_side / (-(-count // columns) * cell[1])), columns)
        for columns in range(1, count + 1)
    ]
    scale, columns = max(scales)
    return columns, scale


# Sizes


def _fit(
    size: tuple[int, int],
    max_side: int | None,
    *,
    room: tuple[int, int] | None = None,
    least: int = _LEAST_SIDE,
) -> tuple[int, int]:
    """(width, height) at which a picture of this (width, height) is shown, in a room of a (width, height) perhaps."""
    if max_side is None:
        return size
    if max_side < _LEAST_MAX_SIDE:
        raise ValueError(f"`max_side` must be at least {_LEAST_MAX_SIDE} pixels or None, got {max_side!r}.")
    longest = max(size)
    scale = min(max(longest, least), max_side) / longest
    if room is not None:
        scale = min(scale, room[0] / size[0], room[1] / size[1])
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def _resize(picture: Image.Image, size: tuple[int, int]) -> Image.Image:
    """Bring a picture to this (width, height); large ones in two steps, which is much faster and looks the same."""
    return picture if picture.size == size else picture.resize(size, Image.Resampling.BICUBIC, reducing_gap=3.0)


def _resize_map(values: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Bring a map to this (width, height); without overshoot, so that no value appears that was not there."""
    if values.shape == size[::-1]:
        return values
    return np.asarray(Image.fromarray(values).resize(size, Image.Resampling.BILINEAR, reducing_gap=3.0))


def _scale_box(box: Sequence[float], scale: tuple[float, float], limits: tuple[int, int]) -> Rectangle:
    """Carry a box to a picture of this (width, height); it keeps at least a pixel."""
    left, top = (min(floor(box[axis] * scale[axis] + 1e-6), limits[axis] - 1) for axis in (0, 1))
    right, bottom = (min(ceil(box[axis + 2] * scale[axis] - 1e-6), limits[axis]) for axis in (0, 1))
    return left, top, max(right, left + 1), max(bottom, top + 1)


# Colours


def _position(values: np.ndarray, vmin: float, vmax: float) -> np.ndarray:
    """Where values lie on the scale, in [0, 1]."""
    if not (isfinite(vmin) and isfinite(vmax) and vmin < vmax):
        raise ValueError(f"`vmin` must be finite and below `vmax`, got vmin={vmin!r} and vmax={vmax!r}.")
    return np.clip((values - vmin) / (vmax - vmin), 0, 1)


def _paint(position: np.ndarray) -> Image.Image:
    # 256 colours are all that an 8-bit picture shows, and a table is much faster than interpolating every pixel.
    steps = np.linspace(0, len(_RAMP) - 1, 256)
    table = np.stack([np.interp(steps, np.arange(len(_RAMP)), channel) for channel in _RAMP.T], axis=-1)
    return Image.fromarray(np.rint(table).astype(np.uint8)[np.rint(position * 255).astype(np.uint8)])


def _check_map(anomaly_map: MapInput) -> np.ndarray:
    """The map as a 2-D array of finite floats."""
    if isinstance(anomaly_map, torch.Tensor):
        anomaly_map = anomaly_map.detach().float().cpu().numpy()
    if not isinstance(anomaly_map, np.ndarray):
        raise TypeError(f"`anomaly_map` must be a numpy array or a torch tensor, got {type(anomaly_map).__name__}.")
    if anomaly_map.dtype.kind not in "buif":
        raise TypeError(f"`anomaly_map` must hold real numbers, got dtype {anomaly_map.dtype}.")
    if anomaly_map.ndim != 2 or anomaly_map.size == 0:
        raise ValueError(f"`anomaly_map` must have the shape (height, width), got {anomaly_map.shape}.")
    if not np.isfinite(anomaly_map).all():
        raise ValueError("`anomaly_map` holds NaN or infinite values.")
    return anomaly_map.astype(np.float32, copy=False)


# Text


def _font(size: tuple[int, int]) -> Font:
    """Pillow's own font, in proportion to a picture of this (width, height) but always legible."""
    return ImageFont.load_default(size=max(14, round(sqrt(size[0] * size[1]) / 48)))


def _text_size(text: str, font: Font) -> tuple[int, int]:
    """(width, height) that a line of text takes; the height is that of the font, the same for every line."""
    return ceil(font.getbbox(text)[2]), ceil(font.getbbox("Ag0")[3])


def _shorten(text: str, font: Font, width: int) -> str:
    """As much of a line as this width takes."""
    if _text_size(text, font)[0] <= width:
        return text
    ends = (f"{text[:length].rstrip()}..." for length in range(len(text) - 1, 0, -1))
    return next((end for end in ends if _text_size(end, font)[0] <= width), "")


def _footer(
    width: int, font: Font, score: float | None, label: str | None, scale: tuple[float, float] | None
) -> Image.Image | None:
    """What stands under a photograph of this width: verdict and score at the left, the scale at the right."""
    parts = []
    if score is not None or label is not None:
        parts.append(_caption(font, score, label))
    if scale is not None:
        parts.append(_color_bar(font, *scale))
    if not parts:
        return None
    margin = _text_size("", font)[1] // 2
    if sum(part.width for part in parts) + margin * (len(parts) + 1) > width:
        parts = [_stack(parts)]  # under a narrow photograph, one below the other
    width = max(width, *(part.width + 2 * margin for part in parts))
    canvas = Image.new("RGB", (width, max(part.height for part in parts) + 2 * margin), _PAPER)
    for number, part in enumerate(parts):
        left = margin if number == 0 else width - margin - part.width
        canvas.paste(part, (left, (canvas.height - part.height) // 2))
    return canvas


def _caption(font: Font, score: float | None, label: str | None) -> Image.Image:
    """Verdict, with a dot of its colour, and score."""
    height = _text_size("", font)[1]
    words = [*([] if label is None else [label]), *([] if score is None else [f"score {score:.3f}"])]
    text, indent = ", ".join(words), 0 if label is None else height
    canvas = Image.new("RGB", (indent + _text_size(text, font)[0] + 2, height + 2), _PAPER)
    draw = ImageDraw.Draw(canvas)
    if label is not None:
        radius = height * 3 // 10
        draw.circle((radius, height * 0.58), radius, fill=_VERDICTS.get(label, _GREY))
    draw.text((indent, 0), text, _INK, font)
    return canvas


def _color_bar(font: Font, vmin: float, vmax: float) -> Image.Image:
    """The scale from `vmin` to `vmax`, with as many numbers as fit under it."""
    height = _text_size("", font)[1]
    length = 9 * height
    for steps in (4, 2, 1):
        values = np.linspace(vmin, vmax, steps + 1)
        widths = [_text_size(f"{value:.3g}", font)[0] for value in values]
        if max(widths) + height // 2 <= length / steps:
            break
    length = max(length, 2 * max(widths))
    indent, thickness, tick = max(widths) // 2 + 1, height * 2 // 3, max(2, height // 5)
    canvas = Image.new("RGB", (length + 2 * indent, thickness + tick + height + 2), _PAPER)
    ramp = np.linspace(0, 1, length)[None].repeat(thickness, axis=0)  # (thickness, length)
    canvas.paste(_paint(ramp), (indent, 0))
    draw = ImageDraw.Draw(canvas)
    for value, width, fraction in zip(values, widths, np.linspace(0, 1, steps + 1), strict=True):
        middle = indent + round(fraction * (length - 1))
        draw.line((middle, thickness, middle, thickness + tick - 1), fill=_INK)
        draw.text((middle - width // 2, thickness + tick), f"{value:.3g}", _INK, font)
    return canvas


def _stack(pictures: Sequence[Image.Image]) -> Image.Image:
    """Join pictures from top to bottom, aligned at the left."""
    canvas = Image.new("RGB", (max(each.width for each in pictures), sum(each.height for each in pictures)), _PAPER)
    top = 0
    for picture in pictures:
        canvas.paste(picture, (0, top))
        top += picture.height
    return canvas


# Regions


def _check_region(region: Mapping[str, Any], size: tuple[int, int]) -> tuple[tuple[float, float, float, float], float]:
    """Box (xmin, ymin, xmax, ymax) and score of a region of a photograph of this (width, height)."""
    try:
        xmin, ymin, xmax, ymax = (float(region["box"][edge]) for edge in ("xmin", "ymin", "xmax", "ymax"))
        score = float(region["score"])
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"A region must be a mapping with a box of xmin, ymin, xmax and ymax and a score, got {region!r}."
        ) from error
    if not (0 <= xmin < xmax <= size[0] and 0 <= ymin < ymax <= size[1]):
        raise ValueError(
            "A region's box must have xmin < xmax and ymin < ymax inside the picture of "
            f"{size[1]}x{size[0]} (height x width), got {region['box']!r}."
        )
    return (xmin, ymin, xmax, ymax), score


def _draw_regions(picture: Image.Image, regions: Sequence[tuple[Rectangle, float]], font: Font) -> None:
    """Frame regions in white on black, which shows on every ground, and write their scores beside the frames."""
    draw, (width, height) = ImageDraw.Draw(picture), picture.size
    thickness = max(1, round(sqrt(width * height) / 350))
    regions = sorted(regions, key=lambda region: region[1])  # the highest is drawn last, above the others
    frames = []
    for (xmin, ymin, xmax, ymax), _ in regions:
        for margin, colour in ((2 * thickness, "black"), (thickness, "white")):
            left, top = max(xmin - margin, 0), max(ymin - margin, 0)
            right, bottom = min(xmax + margin, width), min(ymax + margin, height)
            if margin > thickness:
                frames.append((left, top, right, bottom))
            # Pillow's rectangle includes its last pixel
            draw.rectangle((left, top, right - 1, bottom - 1), outline=colour, width=thickness)

    texts = [f"{score:.2f}" for _, score in regions]
    padding, text_height = max(2, thickness), _text_size("", font)[1]
    sizes = [(_text_size(text, font)[0] + 2 * padding, text_height + padding) for text in texts]
    places = place_labels(frames[::-1], sizes[::-1], picture.size)[::-1]
    for text, place in zip(texts, places, strict=True):
        if place is not None:
            left, top, right, bottom = place
            draw.rectangle((left, top, right - 2, bottom - 2), fill=_INK)  # a pixel keeps neighbours apart
            draw.text((left + padding, top), text, "white", font)


def place_labels(
    frames: Sequence[Rectangle], sizes: Sequence[tuple[int, int]], picture_size: tuple[int, int]
) -> list[Rectangle | None]:
    """
    Find places for labels beside frames that neither cover each other nor leave the picture.

    Each gets, in its turn, the one of its twelve places that covers least of all frames: above or below the frame at
    either end, beside it at either end, or inside its corners.

    Args:
        frames (`Sequence[tuple[int, int, int, int]]`):
            Left, top, right and bottom edges in pixels, the last two exclusive; the most important first.
        sizes (`Sequence[tuple[int, int]]`):
            (width, height) of the label of each.
        picture_size (`tuple[int, int]`):
            (width, height).

    Returns:
        `list`: Of each label left, top, right and bottom; `None` where there is no room.

    Example:

    ```python
    >>> place_labels([(10, 20, 30, 40), (10, 20, 30, 40)], [(8, 5), (8, 5)], (100, 100))
    [(10, 15, 18, 20), (22, 15, 30, 20)]

    ```
    """
    width, height = picture_size
    frames_at, is_taken = np.zeros((height, width), dtype=np.int32), np.zeros((height, width), dtype=bool)
    for left, top, right, bottom in frames:
        frames_at[top:bottom, left:right] += 1
    places: list[Rectangle | None] = []
    for frame, (label_width, label_height) in zip(frames, sizes, strict=True):
        best, least = None, np.inf
        if label_width <= width and label_height <= height:
            for x, y in _corners(frame, (label_width, label_height)):
                left, top = min(max(x, 0), width - label_width), min(max(y, 0), height - label_height)
                area = np.s_[top : top + label_height, left : left + label_width]
                if not is_taken[area].any() and (covered := frames_at[area].sum()) < least:
                    best, least = (left, top, left + label_width, top + label_height), covered
        if best is not None:
            is_taken[best[1] : best[3], best[0] : best[2]] = True
        places.append(best)
    return places


def _corners(frame: Rectangle, size: tuple[int, int]) -> list[tuple[int, int]]:
    """Upper left corners of a label of this (width, height) at a frame, the usual ones first."""
    left, top, right, bottom = frame
    end, last = right - size[0], bottom - size[1]
    above_and_below = [(left, top - size[1]), (end, top - size[1]), (left, bottom), (end, bottom)]
    beside = [(right, top), (right, last), (left - size[0], top), (left - size[0], last)]
    return [*above_and_below, *beside, (left, top), (end, top), (left, last), (end, last)]


__all__ = ["MAX_SIDE", "heat_map", "overlay", "place_labels", "side_by_side"]
