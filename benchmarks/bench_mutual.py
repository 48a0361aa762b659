# SPDX-FileCopyrightText: 2026 The clipsam_hf authors
# SPDX-License-Identifier: Apache-2.0
"""Mutual scoring of a large folder: time and memory must not grow with what has been scored.

Draws `--photographs` small pictures into a temporary folder and lets the pipeline compare them with each other,
without SAM, with the embedded checkpoint at `--side` pixels. Prints the time per photograph and the memory of the
process after every tenth of them.

    python benchmarks/bench_mutual.py [--photographs 2000] [--side 192]
"""

import argparse
import os
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image
from transformers import pipeline

from clipsam_hf import EMBEDDED_CHECKPOINT, ClipSamForAnomalySegmentation, ClipSamProcessor


def draw(folder: Path, count: int, side: int) -> None:
    """Write photographs of a striped surface, every tenth with a spot."""
    rows, columns = np.mgrid[:side, :side]
    for index in range(count):
        generator = np.random.default_rng(index)
        surface = 120 + 40 * np.sin(rows / 6 + generator.uniform(0, 6)) + generator.normal(0, 6, (side, side))
        if index % 10 == 0:
            row, column = generator.integers(20, side - 20, 2)
            surface[(rows - row) ** 2 + (columns - column) ** 2 < 100] = 20
        Image.fromarray(surface.clip(0, 255).astype(np.uint8)).convert("RGB").save(folder / f"{index:06d}.jpg")


def memory() -> float:
    """Megabytes that this process holds now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def main() -> None:
    """Score the folder, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photographs", type=int, default=2000, help="in the folder")
    parser.add_argument("--side", type=int, default=192, help="of a photograph and of CLIP's frame, in pixels")
    options = parser.parse_args()
    checkpoint = str(EMBEDDED_CHECKPOINT)
    model = ClipSamForAnomalySegmentation.from_pretrained(checkpoint, image_size=options.side)
    processor = ClipSamProcessor.from_pretrained(checkpoint)
    processor.image_processor.size = {"height": options.side, "width": options.side}
    finder = pipeline("zero-shot-anomaly-segmentation", model=model, processor=processor)

    with tempfile.TemporaryDirectory() as name:
        draw(Path(name), options.photographs, options.side)
        scores: list[float] = []
        start = last = time.perf_counter()
        print("| photographs | seconds each | memory, MB |\n|---:|---:|---:|", flush=True)
        for result in finder(name, references="mutual", refine=False):
            scores.append(result["score"])
            if len(scores) % max(1, options.photographs // 10) == 0:
                now = time.perf_counter()
                each = (now - last) / max(1, options.photographs // 10)
                print(f"| {len(scores)} | {each:.3f} | {memory():.0f} |", flush=True)
                last = now
    with_spot = np.arange(len(scores)) % 10 == 0
    print(f"\n{len(scores)} photographs in {time.perf_counter() - start:.0f} s; mean score with a spot", end=" ")
    print(f"{np.mean(np.array(scores)[with_spot]):.3f}, without {np.mean(np.array(scores)[~with_spot]):.3f}")


if __name__ == "__main__":
    main()
