# SPDX-FileCopyrightText: 2026 The clipsam_hf authors
# SPDX-License-Identifier: Apache-2.0
"""How time and memory grow: with pixels, regions, the batch, SAM's size and references.

CLIP ViT-L/14 and SAM with random weights, on a CPU. A point is a process of its own, forked from one with the weights:
the fastest of up to three calls in CPU seconds (of one, if that takes longer than `--seconds`), and the peak of memory
above what was there before. `time ~ work^` is the power of its work with which a part grows from one point to the
next: 1 grows as the work does, more grows faster. The picture shows the same: what stays below its diagonal grows more
slowly than its work. `--tiny` tries the benchmark itself.

    python benchmarks/bench_scaling.py [--parts side photograph ...] [--points scaling.json] [--picture scaling.svg]

With `--points`, points are kept in that file and not measured again: a stopped run goes on, and parts can be run one
by one.
"""

import argparse
import io
import json
import math
import multiprocessing
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import full_size
import numpy as np
import torch
import torch.nn.functional as F
from bench_localizers import build_memory
from PIL import Image
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

from clipsam_hf import EMBEDDED_CHECKPOINT, ClipSamProcessor
from clipsam_hf.inference_clipsam import ImagePreparer
from clipsam_hf.refinement_clipsam import resize_map


Way = Callable[[], Any]
Points = dict[str, tuple[float, float, float]]
"""Work, CPU seconds and megabytes, by size."""

PATCH = 14
FRAME = 518

# Pages are counted, so that less says nothing
LEAST_MEGABYTES = 0.1

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
"""Of Okabe and Ito, told apart by everybody."""


class Curve(NamedTuple):
    """What is measured at which sizes; `prepare` builds what they share, and answers with the way of a size."""

    title: str
    sizes: tuple[Any, ...]
    unit: str
    prepare: Callable[[argparse.Namespace], Callable[[Any], Way]]


def prepare_side(options: argparse.Namespace) -> Callable[[int], Way]:
    """CLIP's map of a photograph, `vv`."""
    model, texts = build_clip(options)
    return lambda side: lambda: model(pixel_values=torch.randn(1, 3, side, side), text_embeds=texts)


def prepare_batch(options: argparse.Namespace) -> Callable[[int], Way]:
    """CLIP's maps of a batch at 336 pixels."""
    model, texts = build_clip(options)
    return lambda count: lambda: model(pixel_values=torch.randn(count, 3, 336, 336), text_embeds=texts)


def build_clip(options: argparse.Namespace) -> tuple[Any, torch.Tensor]:
    """CLIP, beside a SAM that is not run, and the embeddings of a class."""
    model = full_size.build_model("tiny", is_tiny=options.tiny)
    return model, F.normalize(torch.randn(1, 2, model.config.clip_config.projection_dim), dim=-1)


def prepare_photograph(options: argparse.Namespace) -> Callable[[int], Way]:
    """A JPEG becomes the model's inputs, and its map takes the photograph's size."""
    processor = ClipSamProcessor.from_pretrained(EMBEDDED_CHECKPOINT)
    processor.image_processor.size = {"height": FRAME, "width": FRAME}
    processor.sam_image_processor.size = {"longest_edge": 1024}
    processor.sam_image_processor.pad_size = {"height": 1024, "width": 1024}
    preparer, small = ImagePreparer(processor), np.random.default_rng(0).integers(0, 256, (40, 40, 3), np.uint8)

    def prepare(megapixels: int) -> Way:
        side, file = 1000 * math.isqrt(megapixels) // (10 if options.tiny else 1), io.BytesIO()
        Image.fromarray(small).resize((side, side), Image.Resampling.BICUBIC).save(file, "JPEG")
        anomaly_map = torch.rand(FRAME, FRAME)
        return lambda: (preparer(Image.open(file), "candle"), resize_map(anomaly_map, (side, side)))

    return prepare


def prepare_regions(options: argparse.Namespace) -> Callable[[int], Way]:
    """SAM's decoder and the merge, for a map with so many regions; of SAM's size, only the encoder differs."""
    model = full_size.build_model("tiny", is_tiny=True, max_regions=60, min_region_fraction=0.0)
    embeddings, sizes = (torch.randn(1, 256, 64, 64),), torch.tensor([[768, 1024]])

    def prepare(count: int) -> Way:
        rough = torch.zeros(1, FRAME, FRAME)
        for index in range(count):
            top, left = 64 * (index // 8), 64 * (index % 8)
            rough[0, top : top + 40, left : left + 40] = 0.9
        return lambda: model.refine(rough, image_embeddings=embeddings, reshaped_input_sizes=sizes)

    return prepare


def prepare_sam(options: argparse.Namespace) -> Callable[[str], Way]:
    """SAM's encoder on one photograph."""

    def prepare(size: str) -> Way:
        model, pixels = full_size.build_model(size, is_tiny=True), torch.randn(1, 3, 1024, 1024)
        return lambda: model.get_image_embeddings(pixels)

    return prepare


def prepare_references(options: argparse.Namespace) -> Callable[[int], Way]:
    """A photograph's patches, those of one block, against those of so many good ones."""
    model, _ = build_clip(options)
    model.config.feature_layers = model.config.feature_layers[-1:]
    grid = model.config.token_grid_size

    def prepare(count: int) -> Way:
        references, patches = build_memory(model, count), [torch.randn(1, 1024, grid, grid)]
        return lambda: references.compare(patches, (FRAME, FRAME))

    return prepare


CURVES = {
    # Whole patches, half as many again on each side
    "side": Curve(
        "CLIP, side in pixels", tuple(PATCH * patches for patches in (16, 24, 36, 54)), "TFLOP", prepare_side
    ),
    "photograph": Curve("reading and writing, megapixels", (1, 4, 16, 64), "megapixel", prepare_photograph),
    "regions": Curve("decoder and merge, regions", (0, 15, 30, 60), "region", prepare_regions),
    "batch": Curve("CLIP, batch", (1, 2, 4, 8), "photograph", prepare_batch),
    "sam": Curve("SAM's encoder", ("base", "large", "huge"), "TFLOP", prepare_sam),
    "references": Curve("references, photographs", (1, 4, 16, 64), "photograph", prepare_references),
}


def main() -> None:
    """Measure what is asked for, print a table of each part, and draw all of them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=CURVES, default=list(CURVES))
    parser.add_argument("--seconds", type=float, default=10, help="after which a point is not called again")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--points", type=Path, help="JSON in which points are kept, and looked for")
    parser.add_argument("--picture", type=Path, help="SVG of all points")
    parser.add_argument("--tiny", action="store_true", help="a tiny CLIP and a tiny SAM")
    options = parser.parse_args()
    # No thread may have run before the processes are forked
    torch.set_num_threads(1)
    points: dict[str, Points] = {}
    if options.points and options.points.exists():
        points = json.loads(options.points.read_text())
    print(f"torch {torch.__version__}, {options.threads} thread(s)\n")
    for part in options.parts:
        measure(part, points.setdefault(part, {}), options)
        full_size.print_table(*tabulate(CURVES[part], points[part]))
        print(flush=True)
        if options.points:
            options.points.write_text(json.dumps(points, indent=2) + "\n")
    if options.picture:
        options.picture.write_text(draw({CURVES[part].title: points[part] for part in CURVES if part in points}))


def measure(part: str, points: Points, options: argparse.Namespace) -> None:
    """Adds the points of a curve that are not there yet."""
    curve = CURVES[part]
    sizes = ("tiny",) if options.tiny and part == "sam" else curve.sizes
    missing = [size for size in sizes if str(size) not in points]
    if not missing:
        return
    prepare = curve.prepare(options)
    for size in missing:
        context = multiprocessing.get_context("fork")
        receiver, sender = context.Pipe(duplex=False)
        child = context.Process(target=run_point, args=(prepare, size, curve.unit, options, sender))
        child.start()
        sender.close()
        points[str(size)] = receiver.recv()
        child.join()


@torch.no_grad()
def run_point(prepare: Callable[[Any], Way], size: Any, unit: str, options: argparse.Namespace, sender: Any) -> None:
    """Sends work, CPU seconds and megabytes of one size."""
    torch.set_num_threads(options.threads)
    way, seconds = prepare(size), list[float]()

    def call() -> None:
        start = full_size.clock("cpu")
        way()
        seconds.append(full_size.clock("cpu") - start)

    # Its formulas lack the CPU's attention
    attention = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    formulas = {attention: lambda query, key, value, *_, **__: sdpa_flop_count(query, key, value)}
    with FlopCounterMode(display=False, custom_mapping=formulas) as counter:
        megabytes = full_size.peak_above(call)
    while len(seconds) < 3 and sum(seconds) < options.seconds:
        call()
    work = counter.get_total_flops() / 1e12 if unit == "TFLOP" else size
    sender.send((work, min(seconds), max(megabytes, LEAST_MEGABYTES)))


def tabulate(curve: Curve, points: Points) -> tuple[list[str], list[list[Any]]]:
    """A row of each size; the powers are those from the row before it."""
    header = [curve.title, *([curve.unit] if curve.unit == "TFLOP" else []), "CPU s", f"CPU s a {curve.unit}", "MB"]
    rows = []
    before: tuple[float, float, float] | None = None
    for size, (work, seconds, megabytes) in points.items():
        row = [size, *([work] if curve.unit == "TFLOP" else []), seconds, seconds / work if work else "", megabytes]
        if before and before[0]:
            longer = math.log(work / before[0])
            row += [math.log(now / then) / longer for now, then in zip((seconds, megabytes), before[1:], strict=True)]
        else:
            row += ["", ""]
        rows.append(row)
        before = (work, seconds, megabytes)
    return [*header, "time ~ work^", "memory ~ work^"], rows


def draw(curves: dict[str, Points]) -> str:
    """An SVG of time and memory against work, as multiples of what a curve's first point with work has."""
    panels = [
        draw_panel(title, place, curves, 60 + 400 * (place - 1)) for place, title in ((1, "CPU time"), (2, "memory"))
    ]
    names = [
        f'<text x="{80 + 260 * (index % 3)}" y="{420 + 20 * (index // 3)}" fill="{COLOURS[index]}">● {title}</text>'
        for index, title in enumerate(curves)
    ]
    return "\n".join(
        [
            '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 820 460" font-family="sans-serif" font-size="13">',
            '<rect width="820" height="460" fill="white"/>',
            *panels,
            *names,
            "</svg>\n",
        ]
    )


def draw_panel(title: str, place: int, curves: dict[str, Points], left: int) -> str:
    """One panel; `place` says where its values stand in a point."""
    side, top, powers = 320, 30, 8

    def position(factor: float, *, up: bool = False) -> float:
        share = (math.log2(factor) + 1) / powers
        return round(top + side * (1 - share) if up else left + side * share, 1)

    parts = [f'<text x="{left}" y="20" font-weight="bold">{title}, times that of the first point</text>']
    for power in range(powers):
        across, up = position(2**power), position(2**power, up=True)
        parts += [
            f'<path d="M{across} {top}V{top + side}M{left} {up}H{left + side}" stroke="#ddd"/>',
            f'<text x="{across}" y="{top + side + 16}" text-anchor="middle" fill="#555">{2**power}</text>',
            f'<text x="{left - 6}" y="{up + 4}" text-anchor="end" fill="#555">{2**power}</text>',
        ]
    parts += [
        f'<path d="M{left} {top + side}L{left + side} {top}" stroke="#555" stroke-dasharray="4"/>',
        f'<text x="{left + side}" y="{top + side + 34}" text-anchor="end" fill="#555">times its work</text>',
    ]
    for colour, points in zip(COLOURS, curves.values(), strict=False):
        with_work = [point for point in points.values() if point[0]]
        first = with_work[0]
        line = [(position(each[0] / first[0]), position(each[place] / first[place], up=True)) for each in with_work]
        path = "L".join(f"{across} {up}" for across, up in line)
        parts.append(f'<path d="M{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        parts += [f'<circle cx="{across}" cy="{up}" r="3.5" fill="{colour}"/>' for across, up in line]
    return "\n".join(parts)


if __name__ == "__main__":
    main()
