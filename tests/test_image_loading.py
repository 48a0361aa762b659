# SPDX-FileCopyrightText: 2026 The clipsam_hf authors
# SPDX-License-Identifier: Apache-2.0
"""Every kind of photograph that people bring either becomes the right RGB picture or one clear error."""

import base64
import gc
import struct
import threading
import time
import tracemalloc
import warnings
import zlib
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO, StringIO
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import ExifTags, Image
from transformers.utils import logging

from clipsam_hf import image_loading
from clipsam_hf.image_loading import ImageReadError, find_photographs, load_rgb, view_rgb


# 5 wide, 2 high, no two values alike: any transposition or channel swap shows.
PIXELS = np.arange(30, dtype=np.uint8).reshape(2, 5, 3) * 8
WHITE = (255, 255, 255)


def encode(image: Image.Image, image_format: str = "PNG", **options) -> bytes:
    buffer = BytesIO()
    image.save(buffer, image_format, **options)
    return buffer.getvalue()


def pixels(image: Image.Image) -> np.ndarray:
    assert image.mode == "RGB"
    return np.asarray(image)


PNG = encode(Image.fromarray(PIXELS))


# Sources


@pytest.fixture
def png_path(tmp_path: Path) -> Path:
    path = tmp_path / "photo.png"
    path.write_bytes(PNG)
    return path


@pytest.mark.parametrize(
    "source",
    [
        Image.fromarray(PIXELS),
        PNG,
        bytearray(PNG),
        memoryview(PNG),
        BytesIO(PNG),
        "data:image/png;base64," + base64.b64encode(PNG).decode(),
        base64.b64encode(PNG).decode(),
        base64.encodebytes(PNG).decode(),
        PIXELS,
        PIXELS.transpose(2, 0, 1),
        PIXELS / np.float32(255),
        PIXELS.astype(np.uint16) * 257,
        PIXELS.astype(">u2") * 257,
        PIXELS[::-1][::-1],
        torch.from_numpy(PIXELS).permute(2, 0, 1),
        torch.from_numpy(PIXELS) / 255,
        (torch.from_numpy(PIXELS) / 255).double().requires_grad_(),
        np.dstack([PIXELS, np.full((2, 5), 255, np.uint8)]),
    ],
    ids=lambda source: type(source).__name__,
)
def test_every_form_of_one_picture_gives_the_same_pixels(source):
    np.testing.assert_array_equal(pixels(load_rgb(source)), PIXELS)


@pytest.mark.parametrize("form", [str, Path, lambda path: open(path, "rb")], ids=["str", "Path", "file"])
def test_paths_and_files_are_read(png_path, form):
    source = form(png_path)
    np.testing.assert_array_equal(pixels(load_rgb(source)), PIXELS)
    if hasattr(source, "close"):
        assert not source.closed
        source.close()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_tensors_are_read(dtype):
    tensor = torch.tensor([[0.0, 0.5, 1.0]]).to(dtype)
    assert pixels(load_rgb(tensor))[0, :, 0].tolist() == [0, 128, 255]


@pytest.mark.parametrize(
    "grey",
    [PIXELS[..., 0], PIXELS[..., :1], PIXELS[None, ..., 0], torch.from_numpy(PIXELS[..., 0])],
    ids=["height x width", "channel last", "channel first", "tensor"],
)
def test_grey_arrays_get_three_equal_channels(grey):
    np.testing.assert_array_equal(pixels(load_rgb(grey)), np.repeat(PIXELS[..., :1], 3, axis=2))


def test_bool_arrays_become_black_and_white():
    assert pixels(load_rgb(np.array([[True, False]])))[0, :, 0].tolist() == [255, 0]


@pytest.mark.parametrize("name", ["grüße 图像.png", "a b.png", "100%s.png", "two\nlines.png", "n" * 251 + ".png"])
def test_odd_file_names_are_read(tmp_path, name):
    path = tmp_path / name
    path.write_bytes(PNG)
    np.testing.assert_array_equal(pixels(load_rgb(str(path))), PIXELS)


def test_a_file_whose_name_looks_like_base64_is_a_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("R0lGOD").write_bytes(PNG)
    np.testing.assert_array_equal(pixels(load_rgb("R0lGOD")), PIXELS)


def test_a_given_pil_image_is_not_modified():
    exif = Image.Exif()
    exif[274] = 6
    given = Image.open(BytesIO(encode(Image.fromarray(PIXELS).convert("RGBA"), exif=exif)))
    before = given.copy()
    load_rgb(given).putpixel((0, 0), WHITE)
    assert (given.size, given.mode, given.getexif()[274]) == ((5, 2), "RGBA", 6)
    assert given.tobytes() == before.tobytes()


# Pixel formats


@pytest.mark.parametrize(
    ("mode", "image_format"), [("I;16", "PNG"), ("I;16", "TIFF"), ("I;16B", "TIFF"), ("I", "TIFF")]
)
def test_16_bit_grey_keeps_its_order_and_spans_the_range(mode, image_format):
    ramp = np.linspace(0, 65535, 256).reshape(1, 256)
    dtype = {"I;16": "<u2", "I;16B": ">u2", "I": "<i4"}[mode]
    image = Image.frombytes(mode, (256, 1), ramp.astype(dtype).tobytes())
    for source in (image, encode(image, image_format)):
        np.testing.assert_array_equal(pixels(load_rgb(source))[0, :, 1], np.arange(256))


def test_float_tiff_between_0_and_1_is_scaled():
    image = Image.fromarray(np.array([[0.0, 0.25, 1.0]], dtype=np.float32))
    assert pixels(load_rgb(encode(image, "TIFF")))[0, :, 2].tolist() == [0, 64, 255]


def test_an_excess_below_half_a_grey_level_is_rounded_away():
    assert pixels(load_rgb(np.array([[-0.001, 1.001]])))[0, :, 0].tolist() == [0, 255]


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_colours_under_transparent_pixels_do_not_matter(mode):
    transparent = [Image.new(mode, (3, 2), (hidden,) * (len(mode) - 1) + (0,)) for hidden in (0, 200)]
    for image in transparent:
        assert load_rgb(encode(image)).getcolors() == [(6, WHITE)]


def test_half_transparent_black_on_white_is_grey():
    assert load_rgb(Image.new("RGBA", (1, 1), (0, 0, 0, 128))).getpixel((0, 0)) == (127, 127, 127)


@pytest.mark.parametrize("transparency", [0, bytes([0, 255])], ids=["index", "table"])
def test_palette_transparency_is_laid_on_white(transparency):
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 40, 50, 60])
    image.putpixel((1, 0), 1)
    assert pixels(load_rgb(encode(image))).tolist() == [[[10, 20, 30], [40, 50, 60]]]
    assert pixels(load_rgb(encode(image, transparency=transparency))).tolist() == [[list(WHITE), [40, 50, 60]]]


def test_a_transparent_colour_key_is_laid_on_white():
    assert load_rgb(encode(Image.new("RGB", (1, 1), (9, 8, 7)), transparency=(9, 8, 7))).getpixel((0, 0)) == WHITE


def test_one_bit_images_are_black_and_white():
    image = Image.new("1", (2, 1))
    image.putpixel((0, 0), 1)
    assert pixels(load_rgb(encode(image)))[0, :, 0].tolist() == [255, 0]


def test_cmyk_jpeg_is_converted():
    image = Image.new("CMYK", (8, 8), (0, 255, 255, 0))
    assert np.abs(pixels(load_rgb(encode(image, "JPEG"))).astype(int) - [255, 0, 0]).max() < 8


@pytest.mark.parametrize("image_format", ["PNG", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_all_eight_exif_orientations_show_the_same_picture(orientation, image_format):
    undo = {
        2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_90, 7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }  # fmt: skip
    stored = Image.fromarray(PIXELS)
    if orientation > 1:
        stored = stored.transpose(undo[orientation])
    exif = Image.Exif()
    exif[274] = orientation
    np.testing.assert_array_equal(pixels(load_rgb(encode(stored, image_format, exif=exif))), PIXELS)


@pytest.mark.parametrize("image_format", ["GIF", "TIFF", "PNG"])
def test_the_first_of_several_frames_is_taken_with_a_warning(tmp_path, image_format):
    first, second = Image.new("RGB", (3, 3), (255, 0, 0)), Image.new("RGB", (3, 3), (0, 0, 255))
    path = tmp_path / f"frames.{image_format.lower()}"
    path.write_bytes(encode(first, image_format, save_all=True, append_images=[second]))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        image = load_rgb(path)
        gc.collect()
    assert image.getcolors() == [(9, (255, 0, 0))]
    assert [str(warning.message) for warning in caught] == [
        f"'{path}' has several frames or pages; only the first is used."
    ]
    assert caught[0].filename == __file__


def test_the_preview_inside_a_phone_photograph_is_no_reason_to_warn():
    photo = Image.fromarray(PIXELS)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert load_rgb(encode(photo, "MPO", save_all=True, append_images=[photo])).size == (5, 2)


def with_values(*values: int, kind: str = "uint16") -> object:
    """One row of 16-bit grey, as an array, a tensor, or a PIL image of a mode."""
    row = np.array([values])
    if kind == "tensor":
        return torch.from_numpy(row.astype(np.uint16))
    if kind == "uint16":
        return row.astype(np.uint16)
    dtype = {"I;16": "<u2", "I;16B": ">u2", "I": "<i4"}[kind]
    return Image.frombytes(kind, (len(values), 1), row.astype(dtype).tobytes())


def greys(image: Image.Image) -> list[int]:
    return pixels(image)[0, :, 0].tolist()


@pytest.mark.parametrize("kind", ["uint16", "tensor", "I;16", "I;16B", "I"])
def test_12_bits_in_16_span_the_range(kind):
    assert greys(load_rgb(with_values(0, 2048, 4095, kind=kind))) == [0, 128, 255]


def test_12_bits_in_a_file_of_16_span_the_range():
    assert greys(load_rgb(encode(with_values(0, 2048, 4095, kind="I;16")))) == [0, 128, 255]


@pytest.mark.parametrize(
    ("brightest", "full_scale"),
    [(1, 255), (255, 255), (256, 1023), (1023, 1023), (1024, 4095), (4096, 16383), (16384, 65535), (65535, 65535)],
)
def test_bit_depth_is_the_least_of_a_camera_that_holds_the_image(brightest, full_scale):
    assert greys(load_rgb(with_values(0, brightest))) == [0, round(255 * brightest / full_scale)]


def test_a_black_16_bit_picture_is_black():
    assert greys(load_rgb(with_values(0, 0))) == [0, 0]


def test_given_bit_depth_puts_a_dark_picture_on_the_scale_of_its_set():
    assert greys(load_rgb(with_values(0, 511), bit_depth=12)) == [0, 32]
    assert greys(load_rgb(with_values(0, 4095), bit_depth=16)) == [0, 16]


@pytest.mark.parametrize("source", [PIXELS, PNG, PIXELS / np.float32(255)], ids=["uint8", "PNG", "float"])
def test_bit_depth_is_for_16_bit_pixels_only(source):
    np.testing.assert_array_equal(pixels(load_rgb(source, bit_depth=12)), PIXELS)


@pytest.mark.parametrize("bit_depth", [7, 17, 12.0, True, "12"])
def test_a_senseless_bit_depth_raises(bit_depth):
    with pytest.raises(ValueError, match="`bit_depth` must be an integer from 8 to 16, got "):
        load_rgb(PNG, bit_depth=bit_depth)


def test_values_above_the_given_bit_depth_raise():
    with pytest.raises(ImageReadError, match="integers from 0 to 4096, accepted are 12 bits, 0 to 4095"):
        load_rgb(with_values(0, 4096), bit_depth=12)


def test_a_found_bit_depth_is_said_once(monkeypatch):
    said = []
    monkeypatch.setattr(image_loading.logger, "warning", said.append)
    logging.warning_once.cache_clear()
    for brightest in (4000, 4095, 65535):
        load_rgb(with_values(0, brightest))
    load_rgb(with_values(0, 1023), bit_depth=10)
    assert len(said) == 1
    assert "holds 12 bits: 0 to 4095 becomes 0 to 255" in said[0]


# Broken, hostile and mistaken input


def truncated(image_format: str) -> bytes:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    data = encode(Image.fromarray(noise), image_format)
    return data[: len(data) // 2]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (truncated("JPEG"), "is truncated"),
        (truncated("PNG"), "is truncated"),
        (truncated("TIFF"), "is truncated"),
        (truncated("GIF"), "is truncated"),
        (PNG[:20], "Truncated"),
        (b"", "is empty"),
        (b"not an image, only named like one\n", "is not an image"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "is not an image"),
    ],
    ids=["JPEG", "PNG", "TIFF", "GIF", "header", "empty", "text", "PostScript"],
)
def test_unreadable_files_are_named(tmp_path, content, reason):
    path = tmp_path / "broken.png"
    path.write_bytes(content)
    with pytest.raises(ImageReadError, match=reason) as caught:
        load_rgb(path)
    assert repr(str(path)) in str(caught.value)
    assert "\n" not in str(caught.value)


def png_header(width: int, height: int) -> bytes:
    """A PNG that promises a size and holds almost nothing."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    size = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", size) + chunk(b"IDAT", zlib.compress(b"\0")) + chunk(b"IEND", b"")


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("side", [30000, 12000], ids=["bomb", "above the default"])
def test_a_decompression_bomb_costs_neither_time_nor_memory(side):
    load_rgb(PNG)  # Pillow's plugins are imported
    tracemalloc.start()
    start = time.process_time()  # not the clock's: other processes may hold the machine
    with pytest.raises(ImageReadError, match="max_pixels"):
        load_rgb(png_header(side, side))
    seconds, peak = time.process_time() - start, tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert seconds < 0.1
    assert peak < 50e6


@pytest.mark.parametrize("source", [PNG, Image.fromarray(PIXELS), PIXELS], ids=["bytes", "PIL", "array"])
def test_the_pixel_limit_permits_and_refuses(source):
    assert load_rgb(source, max_pixels=10).size == (5, 2)
    with pytest.raises(ImageReadError, match="2x5 = 10 pixels, more than `max_pixels` = 9"):
        load_rgb(source, max_pixels=9)


@pytest.mark.parametrize("limit", [0, -1, None, 1.5, True])
def test_a_senseless_pixel_limit_raises(limit):
    with pytest.raises(ValueError, match="`max_pixels` must be a positive integer"):
        load_rgb(PNG, max_pixels=limit)


@pytest.mark.parametrize(
    ("array", "reason"),
    [
        (np.array([[0.0, np.nan]]), "NaN"),
        (np.array([[0.0, np.inf]]), "NaN or infinite"),
        (torch.tensor([[float("nan")]]), "NaN"),
        (np.array([[0.0, 255.0]]), "from 0 to 255, accepted are 0 to 1"),
        (np.array([[-1.0, 1.0]]), "from -1 to 1"),
        (np.array([[0.0, 60000.0]], dtype=np.float16), "accepted are 0 to 1"),
        (Image.fromarray(np.array([[0, 70000]], dtype=np.int32)), "from 0 to 70000"),
        (np.zeros((3, 5, 3), np.uint8), "ambiguous"),
        (np.zeros((5, 7, 2), np.uint8), "no axis of 1, 3 or 4 channels"),
        (np.zeros((1, 5, 7, 3), np.uint8), "not one image"),
        (np.zeros(5, np.uint8), "not one image"),
        (np.zeros((0, 5, 3), np.uint8), "no pixels"),
        (Image.new("RGB", (0, 3)), "no pixels"),
    ],
)
def test_arrays_that_are_no_image_raise(array, reason):
    with pytest.raises(ImageReadError, match=reason):
        load_rgb(array)


@pytest.mark.parametrize("dtype", [np.int64, np.int8, np.uint32, np.complex64, object])
def test_other_dtypes_raise(dtype):
    with pytest.raises(TypeError, match=r"shape \(2, 2\).*uint8, uint16, bool or float in \[0, 1\]"):
        load_rgb(np.zeros((2, 2), dtype))


@pytest.mark.parametrize(
    "source", [None, 3, [PIXELS], {"image": PIXELS}, StringIO("text")], ids=lambda source: type(source).__name__
)
def test_other_types_raise(source):
    with pytest.raises(TypeError, match=f"An image must be a path.*, got {type(source).__name__}"):
        load_rgb(source)


@pytest.mark.parametrize("form", [str, Path])
def test_missing_files_and_directories_raise_the_usual_errors(tmp_path, form):
    with pytest.raises(FileNotFoundError, match="absent.png"):
        load_rgb(form(tmp_path / "absent.png"))
    with pytest.raises(IsADirectoryError, match=tmp_path.name):
        load_rgb(form(tmp_path))


@pytest.mark.parametrize("url", ["ftp://host/a.png", "file:///etc/hostname", "s3://bucket/a.png"])
def test_other_kinds_of_url_raise(url):
    with pytest.raises(ImageReadError, match="URL of another kind"):
        load_rgb(url)


@pytest.mark.parametrize("text", ["iVBORw0KGgo!", "data:image/png;base64,AAAA", "data:nothing", "http://", "a\0b"])
def test_broken_text_sources_raise(text):
    with pytest.raises(ImageReadError):
        load_rgb(text)


# URLs, from a server on this machine


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):  # noqa: N802
        redirects = {"/moved": "/photo.png", "/to-a-file": "file:///etc/hostname", "/to-ftp": "ftp://127.0.0.1/a.png"}
        if self.path == "/slow":
            time.sleep(0.5)
        if self.path in redirects:
            self.send_response(302)
            self.send_header("Location", redirects[self.path])
            self.end_headers()
        elif self.path in ("/photo.png", "/slow"):
            self.send_response(200)
            self.end_headers()
            self.wfile.write(PNG)
        else:
            self.send_error(404)

    def log_message(self, *args):
        pass


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http_server:
        threading.Thread(target=http_server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{http_server.server_port}"
        http_server.shutdown()


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch):
    monkeypatch.setenv("no_proxy", "*")


@pytest.mark.parametrize("page", ["photo.png", "moved"])
def test_a_url_is_read(server, page):
    np.testing.assert_array_equal(pixels(load_rgb(f"{server}/{page}", timeout=30)), PIXELS)


@pytest.mark.parametrize(
    ("page", "timeout", "reason"),
    [("absent", 30, "404"), ("to-a-file", 30, "file:"), ("to-ftp", 30, "ftp"), ("slow", 0.1, "timed out")],
)
def test_a_failed_download_is_named(server, page, timeout, reason):
    with pytest.raises(ImageReadError, match=f"Cannot fetch '{server}/{page}'.*{reason}"):
        load_rgb(f"{server}/{page}", timeout=timeout)


def test_a_download_is_cut_at_the_size_limit(server, monkeypatch):
    monkeypatch.setattr(image_loading, "MAX_DOWNLOAD_BYTES", len(PNG) - 1)
    with pytest.raises(ImageReadError, match="larger than"):
        load_rgb(f"{server}/photo.png", timeout=30)


def test_heic_is_read_where_the_plugin_is_and_named_where_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pillow_heif = pytest.importorskip("pillow_heif")
    pixels = np.full((32, 48, 3), 200, dtype=np.uint8)
    path = tmp_path / "phone.heic"
    pillow_heif.from_pillow(Image.fromarray(pixels)).save(path, quality=95)
    assert np.abs(np.asarray(load_rgb(path)).astype(int) - pixels).max() < 8
    assert find_photographs(tmp_path) == [path]
    Image.init()
    monkeypatch.setattr(Image, "ID", [known for known in Image.ID if known != "HEIF"])
    with pytest.raises(ImageReadError, match=r"is a HEIC photograph, .* pip install 'clipsam_hf\[heif\]'"):
        load_rgb(path)
    path.write_bytes(b"\0\0\0\x18ftypmp42")  # a film
    with pytest.raises(ImageReadError, match="is not an image of a format that Pillow reads"):
        load_rgb(path)


def test_what_is_upright_rgb_in_memory_is_not_copied(tmp_path: Path) -> None:
    image = Image.new("RGB", (4, 2), (10, 20, 30))
    assert view_rgb(image) is image and load_rgb(image) is not image
    image.save(tmp_path / "image.png")
    with Image.open(tmp_path / "image.png") as opened:
        assert view_rgb(opened) is not opened and view_rgb(opened).tobytes() == image.tobytes()
    turned = image.copy()
    turned.getexif()[ExifTags.Base.Orientation] = 6
    assert view_rgb(turned).size == (2, 4)
    grey = image.convert("L")
    assert view_rgb(grey).mode == "RGB"
    with pytest.raises(ImageReadError, match="more than `max_pixels` = 7"):
        view_rgb(image, max_pixels=7)
