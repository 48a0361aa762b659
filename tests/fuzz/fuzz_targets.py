# SPDX-FileCopyrightText: 2026 The clipsam_hf authors
# SPDX-License-Identifier: Apache-2.0
"""What is fuzzed: everything that reads bytes of strangers, each as a function of bytes.

A check passes if the bytes are read, or refused by an error of the kinds that a caller is promised; whatever else is
raised is a finding. tests/fuzz/test_fuzz.py feeds the checks a little in every run, tests/fuzz/run_atheris.py for
hours.
"""

import io
import json
import shutil
import tempfile
import warnings
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from huggingface_hub.errors import StrictDataclassError
from PIL import Image
from safetensors.torch import save_file

from clipsam_hf import ClipSamConfig, ClipSamReferences
from clipsam_hf.data import AnomalyFolder, load_mask, samples
from clipsam_hf.image_loading import ImageReadError, load_rgb
from clipsam_hf.prediction.state import OutputFolder
from clipsam_hf.references_clipsam import FORMAT, SETTINGS_NAME, WEIGHTS_NAME, ReferenceSettings


MAX_PIXELS = 2**20
"""Of a photograph here, so that no example takes long."""


class Target(NamedTuple):
    """One reader of bytes.

    Args:
        check: takes bytes, and raises if they are neither read nor properly refused.
        seeds: makes valid examples, from which most others are mutated.
    """

    check: Callable[[bytes], None]
    seeds: Callable[[], Sequence[bytes]]


def _expect(read: Callable[[], Any], *errors: type[Exception]) -> Any:
    """Read, or be refused by one of these errors with a message."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return read()
        except errors as error:
            assert str(error), f"{type(error).__name__} without a message"
    return None


# ---------------------------------------------------------------------------------------------------------------------
# Photographs and masks


def check_photograph(data: bytes) -> None:
    """Read bytes as a photograph: an RGB image within the limit, or one sentence."""
    image = _expect(lambda: load_rgb(data, max_pixels=MAX_PIXELS), ImageReadError)
    if image is not None:
        assert image.mode == "RGB" and 0 < image.width * image.height <= MAX_PIXELS
        assert np.asarray(image).shape == (image.height, image.width, 3)


def check_mask(data: bytes) -> None:
    """Read bytes as a mask: booleans, or one sentence."""
    samples.MAX_PIXELS = MAX_PIXELS
    mask = _expect(lambda: load_mask(data), ImageReadError)
    assert mask is None or (mask.dtype == bool and mask.ndim == 2 and 0 < mask.size <= MAX_PIXELS)


@cache
def photograph_seeds() -> list[bytes]:
    """Make a small file of each usual format and mode, animated, turned and transparent ones too."""
    rng = np.random.default_rng(0)
    colour = Image.fromarray(rng.integers(0, 256, (13, 17, 3), dtype=np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6
    grey16 = Image.fromarray(rng.integers(0, 65536, (13, 17), dtype=np.uint16))
    real = Image.fromarray(rng.random((13, 17), dtype=np.float32))
    animated: dict[str, Any] = {"save_all": True, "append_images": [colour.rotate(90)]}
    saved: list[tuple[Image.Image, dict[str, Any]]] = [
        *[(colour, {"format": name}) for name in ("BMP", "GIF", "JPEG", "PNG", "TIFF", "WEBP", "PPM", "TGA", "ICO")],
        *[(colour.convert(mode), {"format": "PNG"}) for mode in ("1", "L", "LA", "P", "RGBA")],
        *[(colour.convert(mode), {"format": "TIFF"}) for mode in ("1", "CMYK", "LAB", "P", "RGBA")],
        *[(colour, {"format": "TIFF", "compression": name}) for name in ("tiff_lzw", "jpeg", "packbits", "zstd")],
        *[(image, {"format": "TIFF"}) for image in (grey16, real)],
        *[(colour, {"format": name, **animated}) for name in ("GIF", "TIFF", "WEBP", "PNG", "MPO")],
        (grey16, {"format": "PNG"}),
        (colour, {"format": "JPEG", "exif": exif, "progressive": True}),
        (colour.convert("CMYK"), {"format": "JPEG"}),
        (colour, {"format": "JPEG2000"}),
        (colour.convert("RGBA"), {"format": "WEBP", "lossless": True}),
    ]  # fmt: skip
    seeds = []
    for image, options in saved:
        file = io.BytesIO()
        image.save(file, **options)
        seeds.append(file.getvalue())
    return seeds


# ---------------------------------------------------------------------------------------------------------------------
# Configurations


def check_configuration(data: bytes) -> None:
    """Read bytes as a checkpoint's `config.json`: a configuration, or an error that the command line explains."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "config.json").write_bytes(data)
        _expect(lambda: ClipSamConfig.from_pretrained(folder), OSError, StrictDataclassError, TypeError, ValueError)


@cache
def configuration_seeds() -> list[bytes]:
    """Make configurations of every kind of localizer."""
    return [ClipSamConfig(localizer=name).to_json_string(use_diff=False).encode() for name in ("umci", "vv")]


# ---------------------------------------------------------------------------------------------------------------------
# Tables of data sets


def check_data_set_table(data: bytes) -> None:
    """Read a data set whose table is these bytes: samples inside its folder, or an error; VisA's and `meta.json`."""
    for layout, name in (("visa", "split_csv/1cls.csv"), ("meta", "meta.json")):
        root = _data_set(layout)
        (root / name).write_bytes(data)
        folder = _expect(lambda root=root, layout=layout: AnomalyFolder(root, layout, split=None), OSError, ValueError)
        for sample in folder or ():
            for path in (sample.image_path, sample.mask_path):
                assert path is None or path.resolve().is_relative_to(root.resolve()), f"{path} is outside"


@cache
def _data_set(layout: str) -> Path:
    """Make a folder of two photographs, beside it a third that no table may name, and a link to that."""
    parent = Path(tempfile.mkdtemp(prefix="clipsam_fuzz_"))
    root = parent / layout
    for name in ("candle/Data/Images/1.png", "candle/Data/Images/2.png", "candle/Data/Masks/2.png", "../secret.png"):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (4, 4), 255).save(path)
    (root / "candle" / "link.png").symlink_to(parent / "secret.png")
    (root / "split_csv").mkdir()
    return root


@cache
def data_set_table_seeds() -> list[bytes]:
    """Make both kinds of tables."""
    good, bad, mask = (f"candle/Data/{name}.png" for name in ("Images/1", "Images/2", "Masks/2"))
    table = f"object,split,label,image,mask\ncandle,test,normal,{good},\ncandle,test,anomaly,{bad},{mask}\n"
    common = {"cls_name": "candle", "split": "test"}
    rows: list[dict[str, Any]] = [
        {"img_path": good, "mask_path": "", "anomaly": 0, "specie_name": "", **common},
        {"img_path": bad, "mask_path": mask, "anomaly": 1, "specie_name": "melt", **common},
    ]
    tables = [table, json.dumps(rows), json.dumps({"test": {"candle": rows}})]
    outside = ("../secret.png", "/etc/passwd", "candle/link.png", "C:/x.png")
    return [each.replace(good, name).encode() for each in tables for name in (good, *outside)]


# ---------------------------------------------------------------------------------------------------------------------
# References


def check_references(data: bytes) -> None:
    """Read bytes as the settings of saved references: references, or an error."""
    folder = _references_folder()
    (folder / SETTINGS_NAME).write_bytes(data)
    references = _expect(lambda: ClipSamReferences.from_pretrained(folder), OSError, ValueError)
    assert references is None or (repr(references) and len(references) > 0)


@cache
def _references_folder() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="clipsam_fuzz_"))
    save_file({"memory.0": torch.ones(8, 4), "photographs": torch.zeros(8, dtype=torch.int64)}, folder / WEIGHTS_NAME)
    return folder


@cache
def references_seeds() -> list[bytes]:
    """Make settings with everything in them."""
    settings = ReferenceSettings("candle", {}, ["1.png", "2.png"], [(4, 4)] * 2, 0.1, 0.02, [0.2, 0.5], (), 0.5, 0.3)
    return [json.dumps({"format": FORMAT, **vars(settings)}).encode()]


# ---------------------------------------------------------------------------------------------------------------------
# A used folder of results

SEPARATOR = b"\n----\n"
"""Between the parts of an example, each of them JSON."""

_NAMES = ("a.jpg", "b/c.png")


def check_used_output(data: bytes) -> None:
    """Take bytes for the protocol and the rows of an earlier run, and go on, finish and overwrite in its folder."""
    protocol, *parts = data.split(SEPARATOR)
    rows = b"".join(part + b"\n" for part in parts)
    with tempfile.TemporaryDirectory() as parent:
        bystander = Path(parent, "bystander.png")
        bystander.touch()
        for overwrite in (False, True):
            folder = Path(parent, "out")
            shutil.rmtree(folder, ignore_errors=True)
            (folder / "predictions.state").mkdir(parents=True)
            (folder / "predictions.protocol.json").write_bytes(protocol)
            (folder / "predictions.state" / "rows-0000.jsonl").write_bytes(rows)
            (folder / "mask").symlink_to(parent)
            output = OutputFolder(folder)
            _expect(lambda output=output, overwrite=overwrite: _use(output, overwrite), OSError, ValueError)
            assert bystander.exists(), "a file outside the folder was removed"


def _use(output: OutputFolder, overwrite: bool) -> None:
    output.open(_PROTOCOL, overwrite=overwrite, resume=not overwrite)
    if (output.find_rows(_NAMES) >= 0).all():
        assert [row["path"] for row in output.finish(_NAMES, ["csv", "jsonl"]).rows()] == list(_NAMES)


_PROTOCOL = {"command": "clipsam predict", "class_name": "candle", "save": ["mask"]}


@cache
def used_output_seeds() -> list[bytes]:
    """Make what a finished run leaves, and one whose rows speak of files outside."""
    common = {"width": 4, "height": 4, "score": 0.5, "label": "normal", "threshold": None, "decision_threshold": 0.6}
    region = {"box": {"xmin": 0, "ymin": 0, "xmax": 1, "ymax": 1}, "score": 0.5, "area": 1}
    region["outline"] = {"size": [4, 4], "counts": [0, 1, 15]}
    seeds = []
    for names in (_NAMES, ("../bystander", "bystander"), ("\0", "/bystander")):
        rows = [{"path": name, **common, "regions": [region], "error": None} for name in names]
        seeds.append(SEPARATOR.join(json.dumps(part).encode() for part in (_PROTOCOL, *rows)))
    return seeds


TARGETS = {
    "photograph": Target(check_photograph, photograph_seeds),
    "mask": Target(check_mask, photograph_seeds),
    "configuration": Target(check_configuration, configuration_seeds),
    "data_set_table": Target(check_data_set_table, data_set_table_seeds),
    "references": Target(check_references, references_seeds),
    "used_output": Target(check_used_output, used_output_seeds),
}
