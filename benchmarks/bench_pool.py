# SPDX-FileCopyrightText: 2026 The clipsam_hf authors
# SPDX-License-Identifier: Apache-2.0
"""Times batches of training images for `clipsam-tiny` from the pool, drawn anew, and in a training step.

A pool of 256 scenes is drawn, then batches of 32 images of 128 x 128 pixels are made of it; the same number of images
is drawn without a pool; and CLIP's step is taken on one batch. All take turns. Printed are medians of CPU time, on one
thread.

    python benchmarks/bench_pool.py [--repeats 5]
"""

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path


sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "recipes" / "clipsam_tiny"))

import torch  # noqa: E402
from synthetic import SyntheticImages  # noqa: E402
from synthetic_pool import CHUNK, ScenePool, build_pool  # noqa: E402
from tiny_clip import ClipSettings, DenseContrast, clip_config  # noqa: E402
from tiny_text import build_tokenizer  # noqa: E402
from transformers import CLIPModel  # noqa: E402


COUNT, SIZE = 32, 128


def cpu_seconds(call: Callable[[], object]) -> float:
    """CPU time of one call, which other work on the machine disturbs little."""
    start = time.process_time()
    call()
    return time.process_time() - start


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Training images from the pool against images drawn anew.")
    parser.add_argument("--repeats", type=int, default=5, help="timed batches of each; one more comes before them")
    options = parser.parse_args(arguments)
    if options.repeats < 1:
        parser.error("the number of repeats must be positive")

    torch.set_num_threads(1)
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        build = cpu_seconds(lambda: build_pool(Path(folder), seed=0, num_scenes=CHUNK, data_dirs=[], num_workers=1))
        print(f"Drawing the pool took {build / CHUNK:.3f} CPU s a scene, once\n")
        pool, drawn = ScenePool(Path(folder), seed=0), SyntheticImages(seed=0, size=SIZE)
        settings, tokenizer = ClipSettings(schedule=((10**9, SIZE, COUNT),)), build_tokenizer()
        contrast = DenseContrast(CLIPModel(clip_config(settings, tokenizer)), tokenizer, pool, settings)
        what: dict[str, Callable[[int], object]] = {
            "a batch from the pool": lambda step: pool.batch(step, first=step * COUNT, count=COUNT, size=SIZE),
            "a batch drawn anew": lambda step: [drawn.sample(step * COUNT + number) for number in range(COUNT)],
            "a step of CLIP, its batch included": lambda step: contrast(step)[0].backward(),
        }
        seconds: dict[str, list[float]] = {name: [] for name in what}
        for step in range(options.repeats + 1):
            for name, call in what.items():
                seconds[name].append(cpu_seconds(lambda call=call, step=step: call(step)))  # type: ignore[misc]

    print("| what | CPU s | fastest | slowest | images a CPU s | times the pool |")
    print("|---|---|---|---|---|---|")
    pooled = statistics.median(seconds["a batch from the pool"][1:])
    for name, times in seconds.items():
        median = statistics.median(times[1:])
        cells = (f"{median:.3f}", f"{min(times[1:]):.3f}", f"{max(times[1:]):.3f}", f"{COUNT / median:.0f}")
        print(f"| {name} | {' | '.join(cells)} | {median / pooled:.1f} |")


if __name__ == "__main__":
    main()
