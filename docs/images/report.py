# SPDX-FileCopyrightText: 2026 The clipsam_hf authors
# SPDX-License-Identifier: Apache-2.0
"""Makes the pictures of docs/how-to/report.md: `python docs/images/report.py`, with Chromium and selenium.

The photographs are generated, washers of brushed metal, some with a defect, and may be used by anybody. What the
report shows of them is what the embedded checkpoint says, beside others that are good.
"""

import argparse
import io
import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter


ROOT = Path(__file__).parents[2]
SIZE = (480, 360)


def draw_washer(rng: np.random.Generator, defect: str | None) -> Image.Image:
    """Draws a washer of brushed metal on a dark table, as a camera on a line sees it.

    Args:
        rng (`np.random.Generator`): where it lies, its light and its scratches.
        defect (`str`, *optional*): "scratch", "stain" or "dent".

    Returns:
        `PIL.Image.Image`: RGB, of `SIZE`.
    """
    width, height = SIZE
    middle = np.array([width / 2, height / 2]) + rng.uniform(-3, 3, 2)
    y, x = np.mgrid[:height, :width]
    radius, angle = np.hypot(x - middle[0], y - middle[1]), np.arctan2(y - middle[1], x - middle[0])
    # Brushed along the circle: noise that depends on the radius alone, and light that depends on the angle
    rings = np.interp(radius, np.arange(400), rng.normal(0, 9, 400))
    light = 26 * np.cos(2 * (angle - rng.uniform(-0.05, 0.05))) + 10 * np.cos(angle - 2)
    metal = 158 + rings + light + rng.normal(0, 3, radius.shape)
    table = 46 + 10 * (x / width) + rng.normal(0, 3, radius.shape)
    rim = np.clip(np.minimum(148 - radius, radius - 62) / 3, 0, 1)
    shade = 1 - 0.35 * np.clip(1 - np.abs(np.minimum(148 - radius, radius - 62)) / 7, 0, 1)
    grey = np.where(rim > 0, metal * shade * rim + table * (1 - rim), table)
    colours = np.stack([grey * 1.0, grey * 1.01, grey * 1.05], axis=-1)
    image = Image.fromarray(np.clip(colours, 0, 255).astype(np.uint8)).filter(ImageFilter.GaussianBlur(0.6))
    if defect is None:
        return image
    where = rng.uniform(0, 2 * np.pi)
    place = middle + rng.uniform(85, 122) * np.array([np.cos(where), np.sin(where)])
    mark = Image.new("L", SIZE)
    canvas = ImageDraw.Draw(mark)
    if defect == "scratch":
        ends = place + rng.uniform(-34, 34, (4, 2))
        canvas.line([tuple(point) for point in ends], fill=230, width=int(rng.integers(4, 7)), joint="curve")
    else:
        for _ in range(7):
            corner, extent = place + rng.uniform(-11, 11, 2), rng.uniform(8, 17, 2)
            canvas.ellipse([*(corner - extent), *(corner + extent)], fill=200)
    colour = {"scratch": (226, 230, 236), "stain": (92, 58, 30), "dent": (40, 42, 47)}[defect]
    image.paste(Image.new("RGB", SIZE, colour), mask=mark.filter(ImageFilter.GaussianBlur(1.2)))
    return image


def make_photographs(folder: Path, count: int, *, defective: float, seed: int) -> None:
    """Writes photographs, one of which cannot be read if some are defective."""
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True)
    for number in range(count):
        defect = str(rng.choice(["scratch", "stain", "dent"])) if rng.random() < defective else None
        draw_washer(rng, defect).save(folder / f"washer-{number + 1:03d}.jpg", quality=92)
    if defective:
        (folder / "washer-000.jpg").write_bytes(b"")


def take_pictures(report: Path, folder: Path) -> None:
    """Photographs the report: its table by day, its viewer by night."""
    sys.path.insert(0, str(ROOT / "tests"))
    from browser import open_browser

    for name, dark in (("report-table", False), ("report-viewer", True)):
        with (
            tempfile.TemporaryDirectory() as profile,
            open_browser(Path(profile), size=(1240, 900), dark=dark) as page,
        ):
            page.get(report.resolve().as_uri())
            if dark:
                page.execute_script("document.querySelector('#rows .path').click()")
            page.execute_async_script("setTimeout(arguments[0], 1500)")
            picture = Image.open(io.BytesIO(page.get_screenshot_as_png())).convert("RGB")
        picture.save(folder / f"{name}.webp", quality=88, method=6)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=120, help="photographs")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent, help="folder of the pictures")
    arguments = parser.parse_args()

    import clipsam_hf
    from clipsam_hf import ClipSamForAnomalySegmentation, ClipSamProcessor, ClipSamReferences
    from clipsam_hf.prediction import predict_folder

    model = ClipSamForAnomalySegmentation.from_pretrained(clipsam_hf.EMBEDDED_CHECKPOINT)
    processor = ClipSamProcessor.from_pretrained(clipsam_hf.EMBEDDED_CHECKPOINT)
    with tempfile.TemporaryDirectory() as workspace:
        good, new, results = (Path(workspace) / name for name in ("good", "new", "results"))
        make_photographs(good, 24, defective=0, seed=1)
        make_photographs(new, arguments.count, defective=0.15, seed=2)
        line = ClipSamReferences.from_images(model, processor, good, class_name="washer")
        predict_folder(model, processor, new, results, references=line, report=True, model_name="clipsam-tiny")
        arguments.output.mkdir(parents=True, exist_ok=True)
        take_pictures(results / "report.html", arguments.output)


if __name__ == "__main__":
    main()
