# SPDX-FileCopyrightText: 2026 The clipsam_hf authors
# SPDX-License-Identifier: Apache-2.0
"""Read anything that people call a photograph into one form: an RGB image of 8 bits, upright, opaque."""

import base64
import binascii
import os
import re
import stat
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPException
from io import BytesIO, TextIOBase
from pathlib import Path
from typing import IO, Any, TypeAlias
from urllib.parse import urlsplit
from urllib.request import (
    DataHandler,
    HTTPDefaultErrorHandler,
    HTTPErrorProcessor,
    HTTPHandler,
    HTTPRedirectHandler,
    HTTPSHandler,
    OpenerDirector,
    ProxyHandler,
    Request,
    UnknownHandler,
)

import numpy as np
import torch
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError
from transformers.utils import logging


logger = logging.get_logger(__name__)

ImageInput: TypeAlias = (
    str | os.PathLike[str] | bytes | bytearray | memoryview | IO[bytes] | Image.Image | np.ndarray | torch.Tensor
)

MAX_PIXELS = 89_478_485
"""Pillow's own warning level, `PIL.Image.MAX_IMAGE_PIXELS`: above it a file may be a decompression bomb."""

MAX_DOWNLOAD_BYTES = 256 * 2**20
"""A download stops here: about what `MAX_PIXELS` pixels of RGB take without compression."""

BIT_DEPTHS = (8, 10, 12, 14, 16)
"""Bits per pixel that cameras give: the depths that are told apart in images of 16 bits."""

IMAGE_SUFFIXES = frozenset(
    {".avif", ".bmp", ".gif", ".heic", ".heif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"}
)
"""Endings of the files that count as photographs in a folder, in small letters."""

# Pillow hands PostScript to an external interpreter: not a thing to do with a file from a stranger.
_REFUSED_FORMATS = {"EPS"}

# How HEIC files, as phones write them, begin behind the first four bytes; Pillow needs a plugin for them
_HEIF_BEGINNINGS = {b"ftyp" + brand for brand in (b"heic", b"heim", b"heis", b"heix", b"hevc", b"hevx", b"mif1")}

# How PNG, JPEG, GIF, WebP and TIFF files begin in base64. Any other text that is no file is a mistyped path.
_BASE64_BEGINNINGS = ("iVBORw0KGgo", "/9j/", "R0lGOD", "UklGR", "SUkq", "TU0AK")

_ACCEPTED = (
    "a path, an http(s) URL, a data: URL or base64 text, bytes, a binary file, a PIL image, a numpy array or a torch "
    "tensor"
)


def find_photographs(folder: str | os.PathLike[str]) -> list[Path]:
    """Finds the photographs in a folder and its sub-folders.

    Args:
        folder (`str` or `os.PathLike`): The folder. Files and folders with a leading dot are left out, and links to
            folders are not followed.

    Returns:
        `list[Path]`: In the order of their paths, at least one.

    Raises:
        NotADirectoryError: If it is no folder.
        OSError: If a folder cannot be listed: what lies there would be missed without a word.
        ValueError: If it holds no photograph.
    """

    def stop(error: OSError) -> None:
        raise error

    if not os.path.isdir(folder):
        raise NotADirectoryError(f"{os.fspath(folder)!r} is no folder of photographs.")
    found = []
    for parent, folders, files in os.walk(folder, onerror=stop):
        folders[:] = [name for name in folders if not name.startswith(".")]
        paths = [Path(parent, name) for name in files if not name.startswith(".")]
        found += [path for path in paths if path.suffix.lower() in IMAGE_SUFFIXES]
    if not found:
        endings = ", ".join(sorted(IMAGE_SUFFIXES))
        raise ValueError(f"The folder {os.fspath(folder)!r} holds no photograph: no file ends in {endings}.")
    return sorted(found)


class ImageReadError(ValueError):
    """The source exists, but no image can be made of it; the message names the source and the reason."""


def load_rgb(
    image: ImageInput,
    *,
    max_pixels: int = MAX_PIXELS,
    timeout: float | None = None,
    bit_depth: int | None = None,
) -> Image.Image:
    """
    Read an image from any usual source as upright 8-bit RGB.

    What is done to the pixels, always the same for the same file and never stretched to the values of one image:

    * the EXIF orientation is applied, so maps and boxes refer to the photograph as it is displayed;
    * transparent pixels are laid on white, whatever colour hides under them;
    * integers of more than 8 bits (`I;16`, `I;16B`, `I`, `uint16`) are scaled by their bit depth: 0..65535 becomes
      0..255, but where a camera put 12 bits into a file of 16, 0..4095 does. Without `bit_depth` it is the least of
      8, 10, 12, 14 and 16 bits that holds the image; one below 16 is logged as a warning, once per process and depth;
    * floats must lie in [0, 1] and become 0..255; `bool` becomes 0 and 255;
    * grey, palette, 1-bit and CMYK images are converted by Pillow;
    * of several frames or pages the first is taken, with a warning.

    Args:
        image (`str`, `os.PathLike`, `bytes`, binary file, `PIL.Image.Image`, `np.ndarray` or `torch.Tensor`):
            The source. Text is a path, an http(s) URL, a `data:` URL or base64. Arrays and tensors are
            (height, width), (height, width, channels) or (channels, height, width) with 1, 3 or 4 channels, of
            `uint8`, `uint16`, `bool` or float in [0, 1]. A PIL image is not modified; a file stays open.
        max_pixels (`int`, *optional*, defaults to 89,478,485):
            Largest height x width that is read. Pillow itself refuses more than twice `PIL.Image.MAX_IMAGE_PIXELS`.
        timeout (`float`, *optional*):
            Seconds to wait for each answer of a URL's server; `None` waits for ever.
        bit_depth (`int`, *optional*):
            Bits that the camera gave, 8 to 16, where the source holds 16 (or 32) bits per pixel; others ignore it.
            Give it for a set of varying exposure: the depth that is found in a dark photograph may be less than that
            of its neighbours, and only with one depth do all share one scale.

    Returns:
        `PIL.Image.Image`: A new image of mode "RGB".

    Raises:
        ImageReadError: If the source is no readable image, is truncated, too large, ambiguous, or out of range.
        TypeError: If `image` is of another type, or an array of another dtype.
        ValueError: If `max_pixels` or `bit_depth` is no such number.
        FileNotFoundError, IsADirectoryError, PermissionError: If a path cannot be opened.

    Example:

    ```python
    >>> import numpy as np
    >>> from clipsam_hf.image_loading import load_rgb

    >>> image = load_rgb(np.full((2, 3), 65535, dtype=np.uint16))
    >>> image.mode, image.size, image.getpixel((0, 0))
    ('RGB', (3, 2), (255, 255, 255))
    >>> load_rgb(np.full((2, 3), 4095, dtype=np.uint16), bit_depth=12).getpixel((0, 0))
    (255, 255, 255)

    ```
    """
    if isinstance(max_pixels, bool) or not isinstance(max_pixels, int) or max_pixels < 1:
        raise ValueError(f"`max_pixels` must be a positive integer, got {max_pixels!r}.")
    if bit_depth is not None and (not isinstance(bit_depth, int) or not 8 <= bit_depth <= 16):
        raise ValueError(f"`bit_depth` must be an integer from 8 to 16, got {bit_depth!r}.")
    name = _describe(image)
    if isinstance(image, torch.Tensor):
        image = _to_numpy(image)
    if isinstance(image, np.ndarray):
        return _to_rgb(_from_array(image, name, max_pixels, bit_depth), name, bit_depth)
    if isinstance(image, Image.Image):
        return _decode(image, name, max_pixels, bit_depth)
    with _open_binary(image, name, timeout) as file, _open_image(file, name, max_pixels) as opened:
        with _decoding(name, max_pixels):
            # MPO is one photograph with a preview behind it, as many phones write it: nothing is lost there.
            has_more = getattr(opened, "is_animated", False) and opened.format != "MPO"
        if has_more:
            warnings.warn(f"{name} has several frames or pages; only the first is used.", stacklevel=2)
        return _decode(opened, name, max_pixels, bit_depth)


def view_rgb(image: ImageInput, **options: Any) -> Image.Image:
    """
    Read an image as [`load_rgb`] does, but without copying one that is upright RGB in memory already.

    Args:
        image: As for [`load_rgb`].
        options: Likewise.

    Returns:
        `PIL.Image.Image`: Of mode "RGB"; it may be the one that was given, so it must not be written to.

    Raises:
        ImageReadError, TypeError, ValueError, OSError: As [`load_rgb`].
    """
    # One that was opened from a file is of a class of its own, and perhaps not decoded yet
    if not isinstance(image, Image.Image) or type(image) is not Image.Image or image.mode != "RGB":
        return load_rgb(image, **options)
    if image.has_transparency_data or image.getexif().get(ExifTags.Base.Orientation, 1) != 1:
        return load_rgb(image, **options)
    _check_size(image.height, image.width, _describe(image), options.get("max_pixels", MAX_PIXELS))
    return image


def _describe(image: object) -> str:
    """Name a source in an error message, short enough for one line."""
    if isinstance(image, (str, os.PathLike)):
        text = os.fsdecode(image)
        return repr(text if len(text) <= 300 else text[:60] + "...")
    if isinstance(image, (bytes, bytearray, memoryview)):
        return f"the image of {memoryview(image).nbytes} bytes"
    if isinstance(image, Image.Image):
        return repr(getattr(image, "filename", "")) if getattr(image, "filename", "") else "the PIL image"
    if isinstance(image, (np.ndarray, torch.Tensor)):
        kind = "array" if isinstance(image, np.ndarray) else "tensor"
        return f"the {kind} of shape {tuple(image.shape)} and dtype {image.dtype}"
    if isinstance(getattr(image, "name", None), str):
        return repr(image.name)  # type: ignore[attr-defined]
    return f"the {type(image).__name__} object"


# --------------------------------------------------------------------------------------------------------------------
# Sources to open files


@contextmanager
def _open_binary(image: Any, name: str, timeout: float | None) -> Iterator[IO[bytes]]:
    """Open a path, URL, text or bytes as a binary file and close it afterwards; leave a caller's own file open."""
    if isinstance(image, (bytes, bytearray, memoryview)):
        image = BytesIO(image)
    elif isinstance(image, str) and image.startswith(("http://", "https://", "data:")):
        image = BytesIO(_download(image, name, timeout))
    elif isinstance(image, str) and image.startswith(_BASE64_BEGINNINGS) and not os.path.exists(image):
        image = BytesIO(_decode_base64(image, name))

    if hasattr(image, "read") and not isinstance(image, TextIOBase):
        yield image
    elif isinstance(image, (str, os.PathLike)):
        path = os.fsdecode(image)
        if re.match(r"[a-z][a-z0-9+.-]+://", path, re.IGNORECASE) and not os.path.exists(path):
            raise ImageReadError(f"{name} is a URL of another kind than http:// and https://, which are accepted.")
        if "\0" in path:
            raise ImageReadError(f"{name} is not a path: it holds a null character.")
        kind = os.stat(path).st_mode
        if not stat.S_ISREG(kind) and not stat.S_ISDIR(kind):
            # To open a pipe waits for whoever writes to it
            raise ImageReadError(f"{name} is no file, but a pipe, a socket or a device.")
        with open(path, "rb") as file:
            yield file
    else:
        raise TypeError(f"An image must be {_ACCEPTED}, got {type(image).__name__}.")


def _opener() -> OpenerDirector:
    """Open http, https and data, also after a redirect: no file:, no ftp:, unlike urllib's default opener."""
    opener = OpenerDirector()
    for handler in (
        ProxyHandler, UnknownHandler, HTTPHandler, HTTPSHandler, DataHandler,
        HTTPDefaultErrorHandler, HTTPRedirectHandler, HTTPErrorProcessor,
    ):  # fmt: skip
        opener.add_handler(handler())
    return opener


def _download(url: str, name: str, timeout: float | None) -> bytes:
    """Fetch a URL into memory, at most `MAX_DOWNLOAD_BYTES` of it."""
    content = BytesIO()
    try:
        if urlsplit(url).scheme != "data" and not urlsplit(url).hostname:
            raise ValueError("the URL names no host")
        # Some servers of pictures answer 403 to urllib's own name.
        request = Request(url, headers={"User-Agent": "clipsam_hf"})
        with _opener().open(request, timeout=timeout) as response:
            while chunk := response.read(2**20):
                content.write(chunk)
                if content.tell() > MAX_DOWNLOAD_BYTES:
                    raise ValueError(f"it is larger than {MAX_DOWNLOAD_BYTES} bytes")
    except (OSError, HTTPException, ValueError) as error:  # among them URLError, TimeoutError and binascii.Error
        raise ImageReadError(f"Cannot fetch {name}: {error}.") from error
    return content.getvalue()


def _decode_base64(text: str, name: str) -> bytes:
    """Decode base64 text, which may be broken into lines."""
    try:
        return base64.b64decode("".join(text.split()), validate=True)
    except binascii.Error as error:
        raise ImageReadError(f"{name} is neither a file nor valid base64: {error}.") from error


@contextmanager
def _open_image(file: IO[bytes], name: str, max_pixels: int) -> Iterator[Image.Image]:
    """Read the header of an image file; nothing is decoded yet."""
    if hasattr(file, "seekable") and file.seekable() and file.seek(0, os.SEEK_END) == 0:
        raise ImageReadError(f"{name} is empty (0 bytes).")
    Image.init()
    formats = [known for known in Image.ID if known not in _REFUSED_FORMATS]
    with _decoding(name, max_pixels):
        try:
            opened = Image.open(file, formats=formats)
        except UnidentifiedImageError as error:
            file.seek(4)
            if file.read(8) not in _HEIF_BEGINNINGS:
                raise
            raise ImageReadError(
                f"{name} is a HEIC photograph, which Pillow reads with pillow-heif: pip install 'clipsam_hf[heif]'."
            ) from error
    with opened:
        yield opened


@contextmanager
def _decoding(name: str, max_pixels: int) -> Iterator[None]:
    """Turn what Pillow raises on broken or hostile bytes, which may be any exception, into one sentence of ours."""
    try:
        yield
    except (ImageReadError, MemoryError):
        raise
    except UnidentifiedImageError as error:
        raise ImageReadError(f"{name} is not an image of a format that Pillow reads.") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ImageReadError(
            f"{name} is too large to be read safely (`max_pixels` = {max_pixels}; Pillow says: {error})"
        ) from error
    except Exception as error:
        raise ImageReadError(f"Cannot read {name}: {str(error) or type(error).__name__}.") from error


# --------------------------------------------------------------------------------------------------------------------
# Pixels to RGB


def _check_size(height: int, width: int, name: str, max_pixels: int) -> None:
    if height * width == 0:
        raise ImageReadError(f"{name} has no pixels: its size is {height}x{width}.")
    if height * width > max_pixels:
        raise ImageReadError(
            f"{name} has {height}x{width} = {height * width} pixels, more than `max_pixels` = {max_pixels}."
        )


def _decode(image: Image.Image, name: str, max_pixels: int, bit_depth: int | None) -> Image.Image:
    """Decode, turn upright and convert a PIL image, without touching the one that was given."""
    _check_size(image.height, image.width, name, max_pixels)
    with _decoding(name, max_pixels):
        # A copy in any case, so that the result outlives the file.
        return _to_rgb(ImageOps.exif_transpose(image), name, bit_depth)


def _to_rgb(image: Image.Image, name: str, bit_depth: int | None) -> Image.Image:
    """Convert an image of any mode to 8-bit RGB, transparency on white."""
    if image.mode == "F" or image.mode.startswith("I"):
        # "I" holds 32 bits, but what people store in it are 16-bit pictures: older Pillow reads 16-bit PNG as "I".
        return Image.fromarray(_to_uint8(np.asarray(image), name, bit_depth)).convert("RGB")
    if image.has_transparency_data:
        opaque = Image.new("RGBA", image.size, "white")
        opaque.alpha_composite(image.convert("RGBA"))
        image = opaque
    return image if image.mode == "RGB" else image.convert("RGB")


def _to_numpy(tensor: torch.Tensor) -> np.ndarray:
    """Copy a tensor to a numpy array; numpy knows no bfloat16."""
    tensor = tensor.detach().cpu()
    return (tensor.float() if tensor.is_floating_point() else tensor).numpy()


def _from_array(array: np.ndarray, name: str, max_pixels: int, bit_depth: int | None) -> Image.Image:
    """Make a PIL image of 8 bits from an array of any accepted layout and dtype."""
    if array.dtype.kind not in "buf" or (array.dtype.kind == "u" and array.dtype.itemsize > 2):
        raise TypeError(f"{name} is not accepted: an image array is uint8, uint16, bool or float in [0, 1].")
    if array.ndim == 3:
        channels_first, channels_last = (array.shape[axis] in (1, 3, 4) for axis in (0, -1))
        if channels_first and channels_last:
            raise ImageReadError(f"{name} is ambiguous: its channels may come first or last; give a PIL image.")
        if channels_first:
            array = np.moveaxis(array, 0, -1)  # (channels, height, width) -> (height, width, channels)
        elif not channels_last:
            raise ImageReadError(f"{name} has no axis of 1, 3 or 4 channels in the first or the last place.")
    elif array.ndim != 2:
        raise ImageReadError(
            f"{name} is not one image: (height, width), (height, width, channels) or (channels, height, width)."
        )
    _check_size(array.shape[0], array.shape[1], name, max_pixels)
    if array.ndim == 3 and array.shape[-1] == 1:
        array = array[..., 0]
    return Image.fromarray(np.ascontiguousarray(_to_uint8(array, name, bit_depth)))


def _to_uint8(values: np.ndarray, name: str, bit_depth: int | None) -> np.ndarray:
    """Rescale pixel values to 0..255 by what their dtype and their bit depth stand for."""
    if values.dtype == np.uint8:
        return values
    if values.dtype == np.bool_:
        return values.astype(np.uint8) * np.uint8(255)
    if values.dtype.kind == "f":
        if not np.isfinite(values).all():
            raise ImageReadError(f"{name} holds NaN or infinite values.")
        # An excess of less than half a grey level, as interpolation leaves it, changes nothing and is let through.
        low, high = float(values.min()), float(values.max())
        if not (-0.5 <= 255 * low and 255 * high <= 255.5):
            raise ImageReadError(
                f"{name} holds float values from {low:g} to {high:g}, accepted are 0 to 1: divide by the full range."
            )
        return np.clip(np.rint(values * np.float32(255)), 0, 255).astype(np.uint8)
    return _integers_to_uint8(values, name, bit_depth)


def _integers_to_uint8(values: np.ndarray, name: str, bit_depth: int | None) -> np.ndarray:
    """Rescale integers of more than 8 bits by the depth that is given, or else by the least that holds them."""
    low, high = int(values.min()), int(values.max())
    most = 2 ** (bit_depth or 16) - 1
    if low < 0 or high > most:
        raise ImageReadError(
            f"{name} holds integers from {low} to {high}, accepted are {bit_depth or 16} bits, 0 to {most}."
        )
    if bit_depth is None:
        # A file does not say how many of its 16 bits the camera used, and a picture of 12 bits read as 16 is black.
        # Only depths that cameras have: the photographs of one set then seldom fall on two sides of a power of two.
        bit_depth = next(depth for depth in BIT_DEPTHS if high < 2**depth)
        most = 2**bit_depth - 1
        if bit_depth < 16:
            # Two of these messages in one run also tell that two photographs do not share one scale.
            logger.warning_once(
                f"An image of 16 bits per pixel holds {bit_depth} bits: 0 to {most} becomes 0 to 255. Give "
                "`load_rgb` a `bit_depth` if other photographs of the set are brighter. This is said once."
            )
    logger.info("%s has more than 8 bits per pixel: 0 to %d is rescaled to 0 to 255.", name, most)
    return ((values.astype(np.uint32) * 255 + most // 2) // most).astype(np.uint8)


__all__ = ["IMAGE_SUFFIXES", "ImageInput", "ImageReadError", "find_photographs", "load_rgb", "view_rgb"]
