# SPDX-FileCopyrightText: 2026 The clipsam_hf authors
# SPDX-License-Identifier: Apache-2.0
"""A pipeline's result: a dictionary that shows itself in a notebook."""

import base64
import html
import io
from typing import Any

import numpy as np
from PIL import Image

from .visualization_clipsam import overlay


# Of the small photograph that a result keeps, in pixels, and of what is shown
_SIDE = 512
_MAX_ROWS = 20
# Of the picture, as JPEG: with the table, a page grows by less than 300 KB for each result
_MAX_BYTES = 150_000

_STYLE = "border-collapse:collapse;margin:0.5em 0;font-variant-numeric:tabular-nums"


class ClipSamResult(dict[str, Any]):
    """What the pipeline says of a photograph; as a notebook's last line it is shown as a picture and a table.

    It is a plain dictionary in all else: `json.dumps`, `==`, `pickle` and `copy` treat it as one.

    Args:
        values (`dict[str, Any]`): See the pipeline's call.
        thumbnail (`bytes`, *optional*): The photograph, small, as `make_thumbnail` makes it.
        size (`tuple[int, int]`, *optional*): (height, width) of the photograph.

    Example:
        >>> result = ClipSamResult({"score": 0.25, "label": "normal", "regions": []})
        >>> result == {"score": 0.25, "label": "normal", "regions": []}
        True
        >>> result._repr_html_()
        '<p><b>normal</b>, score 0.250, no regions</p>'
    """

    def __init__(
        self, values: dict[str, Any], *, thumbnail: bytes | None = None, size: tuple[int, int] | None = None
    ) -> None:
        super().__init__(values)
        self._thumbnail, self._size = thumbnail, size

    def __reduce__(self) -> tuple[Any, ...]:
        return _restore, (dict(self), self._thumbnail, self._size)

    def _repr_html_(self) -> str:
        """Verdict, score, picture and regions; without maps there is no picture."""
        if self.get("error") is not None:
            return f"<p><b>not read</b>: {html.escape(str(self['error']))}</p>"
        regions = self.get("regions") or []
        count = f"{len(regions) or 'no'} region{'s' * (len(regions) != 1)}"
        verdict = "" if self.get("label") is None else f"<b>{html.escape(str(self['label']))}</b>, "
        parts = [f"<p>{verdict}score {self['score']:.3f}, {count}</p>"]
        if self._thumbnail is not None and not isinstance(self.get("anomaly_map"), (str, type(None))):
            picture = base64.b64encode(self._paint()).decode()
            parts.append(f'<img alt="anomaly map over the photograph" src="data:image/jpeg;base64,{picture}">')
        if regions:
            parts.append(_make_table(regions))
        return "".join(parts)

    def _paint(self) -> bytes:
        assert self._thumbnail is not None
        photograph = Image.open(io.BytesIO(self._thumbnail))
        small = np.asarray(Image.fromarray(self["anomaly_map"]).resize(photograph.size, Image.Resampling.BOX))
        shown: dict[str, Any] = {name: self.get(name) for name in ("score", "label", "regions")}
        return _encode(overlay(photograph, small, size=self._size, **shown), _MAX_BYTES)


def make_thumbnail(photograph: Image.Image) -> bytes:
    """Makes a small JPEG of a photograph, some ten milliseconds for 12 megapixels.

    Args:
        photograph (`PIL.Image.Image`): RGB.

    Returns:
        `bytes`: A JPEG, at most 512 pixels long.
    """
    scale = min(1.0, _SIDE / max(photograph.size))
    size = (max(1, round(photograph.width * scale)), max(1, round(photograph.height * scale)))
    return _encode(photograph.resize(size, Image.Resampling.BOX, reducing_gap=2.0), _MAX_BYTES)


def _encode(picture: Image.Image, most: int) -> bytes:
    """A JPEG of at most so many bytes, in the best quality that this allows."""
    for quality in (88, 70, 50, 30, 10):
        encoded = io.BytesIO()
        picture.save(encoded, "JPEG", quality=quality)
        if encoded.tell() <= most:
            break
    return encoded.getvalue()


def _make_table(regions: list[dict[str, Any]]) -> str:
    """The regions of highest scores, as a table."""
    columns = ["region", "score", "area", "x", "y"]
    is_named = any("defect_name" in region for region in regions)
    rows = []
    for number, region in enumerate(regions[:_MAX_ROWS], start=1):
        box = region["box"]
        edges = [f"{box['xmin']} to {box['xmax']}", f"{box['ymin']} to {box['ymax']}"]
        cells = [str(number), f"{region['score']:.3f}", str(region["area"]), *edges]
        if is_named:
            guess = " (a guess)" if region.get("defect_is_guess") else ""
            cells.append(html.escape(f"{region.get('defect_name')}{guess}"))
        rows.append("".join(f"<td>{cell}</td>" for cell in cells))
    head = "".join(f"<th>{name}</th>" for name in [*columns, *(["defect"] if is_named else [])])
    rest = f"<p>and {len(regions) - _MAX_ROWS} more</p>" if len(regions) > _MAX_ROWS else ""
    body = "".join(f"<tr>{row}</tr>" for row in rows)
    return f'<table style="{_STYLE}"><tr>{head}</tr>{body}</table>{rest}'


def _restore(values: dict[str, Any], thumbnail: bytes | None, size: tuple[int, int] | None) -> ClipSamResult:
    return ClipSamResult(values, thumbnail=thumbnail, size=size)


__all__ = ["ClipSamResult", "make_thumbnail"]
