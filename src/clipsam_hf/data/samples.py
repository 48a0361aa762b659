# SPDX-FileCopyrightText: 2026 The clipsam_hf authors
# SPDX-License-Identifier: Apache-2.0
"""One photograph of a data set with its truth: how masks are read, and what must agree."""

import os
import warnings
from dataclasses import dataclass, field, replace
from io import BytesIO
from pathlib import Path
from typing import TypeAlias

import numpy as np
from PIL import Image

from ..image_loading import MAX_PIXELS, ImageReadError, load_rgb
from .layouts import DEFECT, GOOD


LABELS = (GOOD, "anomalous")
"""Names of the labels 0 and 1."""

COLUMNS = ("image", "mask", "label", "category", "class_name", "defect_type", "image_path", "split")
"""What a row of a Hugging Face dataset says of one photograph."""

MaskInput: TypeAlias = str | os.PathLike[str] | bytes | Image.Image

_MASK_FORMATS = ("BMP", "GIF", "JPEG", "PNG", "TIFF", "WEBP")
_EXIF_ORIENTATION = 0x0112


def load_mask(mask: MaskInput, *, gt_threshold: float = 0) -> np.ndarray:
    """Read a mask: a pixel is a defect if its value is above the threshold.

    Values are those of the file, never rescaled: class ids 1, 2, ... and 255 are all defects by default. Of colours,
    also those of a palette, the brightest channel counts; transparent pixels are background.

    Args:
        mask (`str`, `os.PathLike`, `bytes` or `PIL.Image.Image`): The mask.
        gt_threshold (`float`, *optional*, defaults to 0): In the values of the file, 0 to 255 for 8 bits. 127
            cuts grey ramps (MTD) and JPEG artefacts in half.

    Returns:
        `np.ndarray` of shape `(height, width)` and dtype `bool`: True where the defect is.

    Raises:
        ImageReadError: If the mask cannot be read, or has more than 89,478,485 pixels, as `load_rgb`.
        ValueError: If the threshold is negative.

    Example:

    ```python
    >>> import numpy as np
    >>> from PIL import Image
    >>> from clipsam_hf.data import load_mask

    >>> mask = Image.fromarray(np.array([[0, 1, 255]], dtype=np.uint8))
    >>> load_mask(mask).tolist(), load_mask(mask, gt_threshold=127).tolist()
    ([[False, True, True]], [[False, False, True]])

    ```
    """
    _check_threshold(gt_threshold)
    name = "the mask" if isinstance(mask, (bytes, Image.Image)) else f"the mask '{os.fspath(mask)}'"
    if isinstance(mask, Image.Image):
        return _mask_values(mask) > gt_threshold
    try:
        with Image.open(BytesIO(mask) if isinstance(mask, bytes) else mask, formats=_MASK_FORMATS) as opened:
            if opened.width * opened.height > MAX_PIXELS:
                raise ImageReadError(f"it has {opened.height}x{opened.width} pixels, more than {MAX_PIXELS}")
            return _mask_values(opened) > gt_threshold
    except MemoryError:
        raise
    except Exception as error:  # Pillow raises anything on broken bytes
        raise ImageReadError(f"Cannot read {name}: {str(error) or type(error).__name__}.") from error


def _check_threshold(gt_threshold: float) -> None:
    if not gt_threshold >= 0:  # also NaN
        raise ValueError(f"`gt_threshold` must be at least 0, got {gt_threshold!r}.")


def _mask_values(image: Image.Image) -> np.ndarray:
    """Give one value per pixel: (height, width)."""
    if image.has_transparency_data:
        rgba = np.asarray(image.convert("RGBA"))
        return np.where(rgba[..., 3] > 0, rgba[..., :3].max(axis=-1), 0)  # (height, width, 4) -> (height, width)
    if image.mode == "1":
        image = image.convert("L")
    elif image.mode not in ("F", "L") and not image.mode.startswith("I"):
        image = image.convert("RGB")
    values = np.asarray(image)
    return values.max(axis=-1) if values.ndim == 3 else values  # (height, width, 3) -> (height, width)


def _read_size(image: Path | Image.Image, *, displayed: bool) -> tuple[int, int]:
    """Read (height, width) from the header alone; `displayed` is what `load_rgb` gives, after the EXIF rotation."""
    if isinstance(image, Image.Image):
        quarter_turn = displayed and image.getexif().get(_EXIF_ORIENTATION, 1) >= 5
        return (image.width, image.height) if quarter_turn else (image.height, image.width)
    try:
        with Image.open(image) as opened:
            return _read_size(opened, displayed=displayed)
    except MemoryError:
        raise
    except Exception as error:
        raise ImageReadError(f"Cannot read '{image}': {str(error) or type(error).__name__}.") from error


@dataclass(frozen=True)
class AnomalySample:
    """One photograph of a data set and what is known of it; nothing is decoded before a `load_` method is called.

    Args:
        image_path (`Path`): The image; of a Hugging Face dataset whatever path or name its row has, possibly ".".
        mask_path (`Path` or `None`): Its mask; `None` for good images, and where there is no pixel truth.
        label (`int` or `None`): 0 good, 1 anomalous, `None` unknown.
        category (`str`): Object class in the data set's spelling: "metal_nut", "pcb1". Metrics are per category.
        class_name (`str`): The word for the prompts: "metal nut", "printed circuit board".
        defect_type (`str` or `None`): Kind of defect, "good" for good images, `None` if unknown.
        split (`str`): "train" or "test", or whatever the data set calls it.
        gt_threshold (`float`): Mask values above it are defects.
        image (`PIL.Image.Image`, *optional*): The image itself, if it is no file.
        mask (`PIL.Image.Image`, *optional*): The mask itself, if it is no file.
    """

    image_path: Path
    mask_path: Path | None
    label: int | None
    category: str
    class_name: str
    defect_type: str | None
    split: str
    gt_threshold: float = 0
    image: Image.Image | None = field(default=None, repr=False, compare=False)
    mask: Image.Image | None = field(default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        _check_threshold(self.gt_threshold)

    @property
    def has_mask(self) -> bool:
        """Whether `load_mask` knows which pixels are defects: false where the truth is one label, or nothing."""
        return self.label == 0 or self._mask_source is not None

    @property
    def _image_source(self) -> Path | Image.Image:
        return self.image_path if self.image is None else self.image

    @property
    def _mask_source(self) -> Path | Image.Image | None:
        return self.mask_path if self.mask is None else self.mask

    def load_image(self) -> Image.Image:
        """Read the photograph.

        Returns:
            `PIL.Image.Image`: Upright, of mode "RGB"; see [`load_rgb`].

        Raises:
            ImageReadError: If it cannot be read.
        """
        return load_rgb(self._image_source)

    def load_mask(self) -> np.ndarray:
        """Read the defect mask; that of a good image is empty.

        Returns:
            `np.ndarray` of shape `(height, width)` and dtype `bool`: Of the size of the displayed photograph.

        Raises:
            ImageReadError: If the mask cannot be read.
            ValueError: If there is no pixel truth, or the sizes of mask and photograph differ.
        """
        if self.label == 0:
            return np.zeros(_read_size(self._image_source, displayed=True), dtype=bool)
        if self._mask_source is None:
            known = "is not known to be good or anomalous" if self.label is None else "is anomalous"
            raise ValueError(f"'{self.image_path}' {known} and has no mask; ask `has_mask` first.")
        mask = load_mask(self._mask_source, gt_threshold=self.gt_threshold)
        self._check_size(mask.shape)
        if self.label == 1 and not mask.any():
            warnings.warn(
                f"The mask of the anomalous image '{self.image_path}' has no value above {self.gt_threshold:g}.",
                stacklevel=2,
            )
        return mask

    def resolve(self) -> "AnomalySample":
        """Compare the sizes of image and mask, and let the mask's content decide where no label does.

        Returns:
            `AnomalySample`: With label, defect type and mask in agreement: a good image has no mask.

        Raises:
            ImageReadError: If the mask, or the header of the image, cannot be read.
            ValueError: If the sizes differ, or a good image has defects in its mask.
        """
        label = self.label
        if self._mask_source is not None and label == 1:
            self._check_size(_read_size(self._mask_source, displayed=False))
        elif self._mask_source is not None:
            mask = load_mask(self._mask_source, gt_threshold=self.gt_threshold)
            self._check_size(mask.shape)
            if label == 0 and mask.any():
                raise ValueError(
                    f"'{self.image_path}' is said to be good, but its mask '{self.mask_path}' is not empty."
                )
            label = int(mask.any())
        if label == 0:
            return replace(self, label=0, mask_path=None, mask=None, defect_type=GOOD)
        return replace(self, label=label, defect_type=self.defect_type or (DEFECT if label == 1 else None))

    def _check_size(self, mask_size: tuple[int, ...]) -> None:
        size = _read_size(self._image_source, displayed=True)
        if size != mask_size:
            turned = " The mask may be drawn on the photograph before its EXIF rotation." * (size == mask_size[::-1])
            raise ValueError(
                f"The image '{self.image_path}' is {size[0]}x{size[1]} (height x width), but its mask "
                f"'{self.mask_path}' is {mask_size[0]}x{mask_size[1]}.{turned}"
            )


__all__ = ["COLUMNS", "LABELS", "AnomalySample", "MaskInput", "load_mask"]
