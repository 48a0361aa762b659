# SPDX-FileCopyrightText: 2026 The clipsam_hf authors
# SPDX-License-Identifier: Apache-2.0
"""Times the loss and its gradient on the token grid and at the size of the image, for the full-size grid.

Random logits of `--images` images, four stages and 37 x 37 tokens, labels of 518 x 518. Every measurement is a
process of its own, on one thread, and the two take turns; printed are medians of CPU time, and the peak of memory
above what logits and labels take.

    python benchmarks/bench_loss.py [--repeats 5] [--images 8]
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time

import torch

from clipsam_hf.loss_clipsam import anomaly_segmentation_loss


RESOLUTIONS = ("grid", "image")
NUM_STAGES, GRID, SIZE = 4, 37, 518
# Calls in a process, of which the first is not timed; the grid's takes hundredths of a second
NUM_CALLS = 4


def measure(resolution: str, num_images: int) -> dict[str, float]:
    """CPU seconds of a loss with its gradient, and the megabytes that it adds to the peak of this process."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    logits = torch.randn(num_images, NUM_STAGES, 2, GRID, GRID, requires_grad=True)
    labels = (torch.rand(num_images, SIZE, SIZE) > 0.99).long()
    # Autograd's own memory, at a size that does not count
    anomaly_segmentation_loss(logits[:1, :1, :, :4, :4], labels[:1, :8, :8]).backward()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.process_time()
    for call in range(NUM_CALLS):
        if call == 1:
            start = time.process_time()
        anomaly_segmentation_loss(logits, labels, resolution=resolution).backward()  # type: ignore[arg-type]
    seconds = (time.process_time() - start) / (NUM_CALLS - 1)
    return {"seconds": seconds, "megabytes": (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024}


def main() -> None:
    """Run the benchmark, or in a process of its own one measurement."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--images", type=int, default=8)
    parser.add_argument("--measure", choices=RESOLUTIONS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure is not None:
        print(json.dumps(measure(args.measure, args.images)))
        return

    found: dict[str, list[dict[str, float]]] = {resolution: [] for resolution in RESOLUTIONS}
    for _ in range(args.repeats):
        for resolution in RESOLUTIONS:
            command = [sys.executable, __file__, "--measure", resolution, "--images", str(args.images)]
            found[resolution].append(json.loads(subprocess.run(command, capture_output=True, check=True).stdout))
    print(f"{args.images} images, {args.repeats} repeats, torch {torch.__version__}")
    print("| loss | CPU s | MB | CPU s, as multiple of the grid |\n|---|---:|---:|---:|")
    medians = {
        resolution: {key: statistics.median(each[key] for each in runs) for key in ("seconds", "megabytes")}
        for resolution, runs in found.items()
    }
    for resolution, median in medians.items():
        ratio = median["seconds"] / medians["grid"]["seconds"]
        print(f"| {resolution} | {median['seconds']:.3f} | {median['megabytes']:.0f} | {ratio:.0f} |")


if __name__ == "__main__":
    main()
