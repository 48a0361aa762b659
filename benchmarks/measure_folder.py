# SPDX-FileCopyrightText: 2026 The clipsam_hf authors
# SPDX-License-Identifier: Apache-2.0
"""Measures `clipsam predict` on many large photographs: `python benchmarks/measure_folder.py --count 1000`.

The photographs are JPEGs of 12 megapixels, generated, seeded, a few different ones under many names. The model's own
throughput is that of its forward passes on photographs that were read before, in the same way: one process, as many
threads, the same thresholds. Both take turns, so that other work on the machine disturbs both alike; then one run over
all photographs shows memory and bytes.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from statistics import median

import numpy as np
import psutil
from measure_tiling import paint_surface


SIZE = (3000, 4000)
CLASS_NAME = "concrete"

MODEL_ALONE = """
import sys, time
from pathlib import Path
import clipsam_hf
from clipsam_hf import ClipSamForAnomalySegmentation, ClipSamProcessor
from clipsam_hf.inference_clipsam import ClipSamInference
model = ClipSamForAnomalySegmentation.from_pretrained(clipsam_hf.EMBEDDED_CHECKPOINT)
inference = ClipSamInference(model, ClipSamProcessor.from_pretrained(clipsam_hf.EMBEDDED_CHECKPOINT))
paths = sorted(Path(sys.argv[1]).iterdir())
prepared = [inference.prepare(path, sys.argv[3]) for path in paths[: int(sys.argv[2])]]
inference.predict(prepared[:1])
start = time.perf_counter()
for index in range(int(sys.argv[4])):
    inference.predict([prepared[index % len(prepared)]])
print(int(sys.argv[4]) / (time.perf_counter() - start))
"""


def make_photographs(folder: Path, *, count: int, different: int) -> None:
    """Writes JPEGs; those that are equal are one file with several names."""
    folder.mkdir()
    for number in range(count):
        path = folder / f"{number:05d}.jpg"
        if number < different:
            paint_surface(SIZE, number, crack=number % 4 == 0)[0].save(path, quality=92)
        else:
            os.link(folder / f"{number % different:05d}.jpg", path)


def run_folder(source: Path, output: Path, *options: str) -> tuple[float, list[int]]:
    """Runs `clipsam predict`; returns the seconds and the memory of all its processes, in bytes, once a second."""
    command = [sys.executable, "-m", "clipsam_hf.cli", "predict", str(source), "--class-name", CLASS_NAME]
    process = subprocess.Popen([*command, "--output", str(output), *options], stdout=subprocess.DEVNULL)
    memory: list[int] = []

    def watch() -> None:
        parent = psutil.Process(process.pid)
        while process.poll() is None:
            total = 0
            for each in [parent, *parent.children(recursive=True)]:
                try:
                    total += each.memory_full_info().pss  # what processes share counts once
                except psutil.Error:
                    pass
            memory.append(total)
            time.sleep(1)

    start = time.perf_counter()
    watcher = threading.Thread(target=watch)
    watcher.start()
    if process.wait() != 0:
        raise SystemExit(f"clipsam predict ended with {process.returncode}")
    seconds = time.perf_counter() - start
    watcher.join()
    return seconds, memory


def measure_start(folder: Path) -> float:
    """Seconds of a run over two photographs: interpreter, libraries and model."""
    source = folder / "two"
    source.mkdir(exist_ok=True)
    for number in range(2):
        link = source / f"{number}.jpg"
        if not link.exists():
            os.link(folder / "photographs" / f"{number:05d}.jpg", link)
    return run_folder(source, folder / "two-results", "--overwrite")[0]


def main() -> None:
    """Prints the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--different", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--round-count", type=int, default=60)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--save", default="overlay,mask")
    parser.add_argument("--folder", type=Path, help="where to work; by default a temporary folder")
    arguments = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = str(arguments.threads)
    folder = arguments.folder or Path(tempfile.mkdtemp(prefix="clipsam-folder-"))
    folder.mkdir(exist_ok=True)
    source, part = folder / "photographs", folder / "part"
    if not source.exists():
        make_photographs(source, count=arguments.count, different=arguments.different)
    if not part.exists():
        make_photographs(part, count=arguments.round_count, different=arguments.different)

    ratios = []
    for _ in range(arguments.rounds):
        alone = subprocess.run(
            [sys.executable, "-c", MODEL_ALONE, part, "20", CLASS_NAME, str(arguments.round_count)],
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        own, start = float(alone.stdout), measure_start(folder)
        seconds, _ = run_folder(part, folder / "part-results", "--overwrite", "--save", arguments.save)
        # The start of the process is counted apart: over 1,000 photographs it is nothing
        rate = (arguments.round_count - 2) / (seconds - start)
        ratios.append(rate / own)
        print(f"model alone {own:.3f} photographs/s, folder {rate:.3f}, ratio {ratios[-1]:.3f}", flush=True)
    print(f"median ratio {median(ratios):.3f} (threads: {arguments.threads})", flush=True)

    output = folder / "results"
    seconds, memory = run_folder(source, output, "--overwrite", "--save", arguments.save)
    written = sum(path.stat().st_size for path in output.rglob("*") if path.is_file())
    early, late = (max(part) / 2**20 for part in np.array_split(np.array(memory[5:]), 2))
    print(f"{arguments.count} photographs in {seconds:.0f} s, {arguments.count / seconds:.3f} photographs/s")
    print(f"peak memory of all processes: {early:.0f} MiB in the first half, {late:.0f} MiB in the second")
    print(f"written: {written / 2**20:.0f} MiB")
    if arguments.folder is None:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
