# SPDX-FileCopyrightText: 2026 The clipsam_hf authors
# SPDX-License-Identifier: Apache-2.0
"""Pictures of anomaly maps on a fixed scale, with Pillow only.

A map is never stretched to its own minimum and maximum: that would paint the brightest speck of a flawless part in the
colour of a defect. The scale is `vmin` to `vmax`, the same for every picture, and the colour bar says so in numbers.
"""

from collections.abc import Mapping, Sequence
from math import isfinite
from typing import Any, TypeAlias

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from .image_loading import ImageInput, load_rgb


MapInput: TypeAlias = np.ndarray | torch.Tensor
Font: TypeAlias = ImageFont.FreeTypeFont | ImageFont.ImageFont

# Ten equal steps of matplotlib's "inferno" (Smith and van der Walt, CC0). Its lightness rises evenly from black to
# pale yellow, so that the order survives every kind of colour blindness and a black and white printer.
_RAMP = np.array(
    [
        (0, 0, 4), (27, 12, 65), (74, 12, 107), (120, 28, 109), (165, 44, 96),
        (207, 68, 70), (237, 105, 37), (251, 155, 6), (247, 209, 61), (252, 255, 164),
    ]
)  # fmt: skip

_INK = "black"
_PAPER = "white"


def heat_map(anomaly_map: MapInput, *, vmin: float = 0.0, vmax: float = 1.0) -> Image.Image:
    """
    Paint an anomaly map with colours that mean the same in every picture.

    Args:
        anomaly_map (`np.ndarray` or `torch.Tensor` of shape `(height, width)`):
            Anomaly per pixel, usually in [0, 1]. Values outside `vmin`..`vmax` get the colour of the nearer end.
        vmin (`float`, *optional*, defaults to 0.0):
            The value painted black.
        vmax (`float`, *optional*, defaults to 1.0):
            The value painted pale yellow.

    Returns:
        `PIL.Image.Image`: RGB, of the map's size.

    Raises:
        ValueError: If the map is not 2-D and finite, or `vmin` is not below `vmax`.
        TypeError: If the map is not an array or tensor of numbers.

    Example:

    ```python
    >>> import numpy as np
    >>> from clipsam_hf.visualization import heat_map

    >>> heat_map(np.array([[0.0, 1.0]])).getpixel((1, 0))
    (252, 255, 164)

    ```
    """
    values = _check_map(anomaly_map)
    _check_scale(vmin, vmax)
    position = np.clip((values - vmin) / (vmax - vmin), 0, 1)
    # 256 colours are all that an 8-bit picture shows, and a table is much faster than interpolating every pixel.
    steps = np.linspace(0, len(_RAMP) - 1, 256)
    table = np.stack([np.interp(steps, np.arange(len(_RAMP)), channel) for channel in _RAMP.T], axis=-1)
    return Image.fromarray(np.rint(table).astype(np.uint8)[np.rint(position * 255).astype(np.uint8)])


def overlay(
    image: ImageInput,
    anomaly_map: MapInput,
    *,
    alpha: float = 0.5,
    vmin: float = 0.0,
    vmax: float = 1.0,
    score: float | None = None,
    regions: Sequence[Mapping[str, Any]] = (),
    color_bar: bool = True,
) -> Image.Image:
    """
    Lay an anomaly map over its photograph, with the scale, the score and the regions in the picture.

    Args:
        image (`str`, `os.PathLike`, `bytes`, `PIL.Image.Image`, `np.ndarray` or `torch.Tensor`):
            The photograph, in any form that `load_rgb` reads.
        anomaly_map (`np.ndarray` or `torch.Tensor` of shape `(height, width)`):
            Anomaly per pixel of the photograph, as the pipeline returns it.
        alpha (`float`, *optional*, defaults to 0.5):
            Opacity of the map in [0, 1]: 0 shows the photograph, 1 the map alone.
        vmin (`float`, *optional*, defaults to 0.0):
            Lower end of the colour scale, never taken from the map.
        vmax (`float`, *optional*, defaults to 1.0):
            Upper end of the colour scale, never taken from the map.
        score (`float`, *optional*):
            The image's score, written under the picture.
        regions (`Sequence[Mapping]`, *optional*):
            The pipeline's regions, `{"box": {"xmin", "ymin", "xmax", "ymax"}, "score", ...}` with edges in pixels of
            the photograph; each is framed and its score written beside it.
        color_bar (`bool`, *optional*, defaults to `True`):
            Whether the scale is drawn at the right.

    Returns:
        `PIL.Image.Image`: RGB with the photograph in its upper left corner, of the photograph's own size if there is
        neither colour bar nor score.

    Raises:
        ValueError: If map and photograph differ in size, or an argument is out of range.
        TypeError: If the map is not an array or tensor of numbers.
    """
    photograph = load_rgb(image)
    colours = heat_map(anomaly_map, vmin=vmin, vmax=vmax)
    if colours.size != photograph.size:
        raise ValueError(
            f"The map is {colours.height}x{colours.width}, its image {photograph.height}x{photograph.width} (height x "
            "width): resize the map, for instance with `post_process_anomaly_segmentation(target_sizes=...)`."
        )
    if not 0 <= alpha <= 1:
        raise ValueError(f"`alpha` must lie in [0, 1], got {alpha!r}.")
    if score is not None and not isfinite(score):
        raise ValueError(f"`score` must be finite, got {score!r}.")

    picture = Image.blend(photograph, colours, alpha)
    font = _font(photograph.size)
    for region in regions:
        _draw_region(picture, region, font)
    if color_bar:
        picture = _beside([picture, _color_bar(picture.height, vmin, vmax, font)])
    return picture if score is None else _captioned(picture, f"score {score:.3f}", font)


def side_by_side(pictures: Mapping[str, Image.Image]) -> Image.Image:
    """
    Put pictures next to each other, each under its title.

    Args:
        pictures (`Mapping[str, PIL.Image.Image]`):
            Titles and pictures, from left to right.

    Returns:
        `PIL.Image.Image`: RGB, as high as the highest picture and its title.

    Raises:
        ValueError: If there is no picture.
    """
    if not pictures:
        raise ValueError("`pictures` must hold at least one picture, got none.")
    font = _font(next(iter(pictures.values())).size)
    return _beside([_captioned(picture, title, font, above=True) for title, picture in pictures.items()])


def _check_map(anomaly_map: MapInput) -> np.ndarray:
    """Return the map as a 2-D array of finite floats."""
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
    return anomaly_map.astype(np.float32)


def _check_scale(vmin: float, vmax: float) -> None:
    if not (isfinite(vmin) and isfinite(vmax) and vmin < vmax):
        raise ValueError(f"`vmin` must be finite and below `vmax`, got vmin={vmin!r} and vmax={vmax!r}.")


def _font(size: tuple[int, int]) -> Font:
    """Pillow's own font, in proportion to a picture of this (width, height) but always legible."""
    return ImageFont.load_default(size=max(11, min(size) // 24))


def _text_size(text: str, font: Font) -> tuple[int, int]:
    """(width, height) that a line of text takes; the height is that of the font, the same for every line."""
    width = font.getbbox(text)[2]
    return round(width), round(font.getbbox("Ag0")[3])


def _beside(pictures: Sequence[Image.Image]) -> Image.Image:
    """Join pictures from left to right, aligned at the top."""
    gap = max(4, pictures[0].height // 40)
    width = sum(picture.width for picture in pictures) + gap * (len(pictures) - 1)
    canvas = Image.new("RGB", (width, max(picture.height for picture in pictures)), _PAPER)
    left = 0
    for picture in pictures:
        canvas.paste(picture, (left, 0))
        left += picture.width + gap
    return canvas


def _captioned(picture: Image.Image, text: str, font: Font, *, above: bool = False) -> Image.Image:
    """Add a line of text below or above a picture, widening it where the text needs it."""
    text_width, text_height = _text_size(text, font)
    margin = text_height // 3
    line = text_height + 2 * margin
    canvas = Image.new("RGB", (max(picture.width, text_width + 2 * margin), picture.height + line), _PAPER)
    canvas.paste(picture, (0, line if above else 0))
    ImageDraw.Draw(canvas).text((margin, margin if above else picture.height + margin), text, _INK, font)
    return canvas


def _color_bar(height: int, vmin: float, vmax: float, font: Font) -> Image.Image:
    """Draw the scale from `vmax` at the top to `vmin` at the bottom, with as many numbers as fit."""
    text_height = _text_size("0", font)[1]
    steps = next((steps for steps in (4, 2, 1) if height >= 2 * (steps + 1) * text_height), 1)
    values = np.linspace(vmax, vmin, steps + 1)
    labels = [f"{value:.3g}" for value in values]
    ramp = np.linspace(vmax, vmin, height)[:, None].repeat(text_height, axis=1)  # (height, width of the bar)

    label_width = max(_text_size(label, font)[0] for label in labels)
    canvas = Image.new("RGB", (text_height * 3 // 2 + label_width + 2, height), _PAPER)
    canvas.paste(heat_map(ramp, vmin=vmin, vmax=vmax), (0, 0))
    draw = ImageDraw.Draw(canvas)
    for label, fraction in zip(labels, np.linspace(0, 1, steps + 1), strict=True):
        # The outermost labels are moved inwards: the numbers stay whole, the bar keeps the picture's height.
        top = min(max(fraction * height - text_height / 2, 0), max(height - text_height - 1, 0))
        draw.text((text_height * 3 // 2, top), label, _INK, font)
    return canvas


def _draw_region(picture: Image.Image, region: Mapping[str, Any], font: Font) -> None:
    """Frame one region in white on black, which shows on every ground, and write its score beside the frame."""
    try:
        xmin, ymin, xmax, ymax = (region["box"][edge] for edge in ("xmin", "ymin", "xmax", "ymax"))
        label = f"{region['score']:.2f}"
    except (KeyError, TypeError) as error:
        raise ValueError(
            f"A region must be a mapping with a box of xmin, ymin, xmax and ymax and a score, got {region!r}."
        ) from error
    if not (0 <= xmin < xmax <= picture.width and 0 <= ymin < ymax <= picture.height):
        raise ValueError(
            "A region's box must have xmin < xmax and ymin < ymax inside the picture of "
            f"{picture.height}x{picture.width} (height x width), got {region['box']!r}."
        )

    draw = ImageDraw.Draw(picture)
    thickness = max(1, min(picture.size) // 300)
    # Edges are exclusive at the right and at the bottom, Pillow's rectangle includes its last pixel.
    for margin, colour in ((2 * thickness, "black"), (thickness, "white")):
        left, top = max(xmin - margin, 0), max(ymin - margin, 0)
        right, bottom = min(xmax - 1 + margin, picture.width - 1), min(ymax - 1 + margin, picture.height - 1)
        draw.rectangle((left, top, right, bottom), outline=colour, width=thickness)

    text_width, text_height = _text_size(label, font)
    above, below = ymin - 2 * thickness - text_height - 2, ymax + 2 * thickness
    left = min(max(xmin, 0), max(picture.width - text_width, 0))
    draw.text(
        (left, above if above >= 0 else min(below, picture.height - text_height)),
        label, "white", font, stroke_width=max(1, thickness), stroke_fill="black",
    )  # fmt: skip


__all__ = ["heat_map", "overlay", "side_by_side"]
