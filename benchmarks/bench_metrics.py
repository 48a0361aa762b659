# SPDX-FileCopyrightText: 2026 The clipsam_hf authors
# SPDX-License-Identifier: Apache-2.0
"""Times the metrics of one category against scikit-learn, the field's AUPRO loop, and anomalib where it is installed.

All get the same 117 synthetic maps of 518 x 518. Every measurement is a process of its own, on one thread, and the
contestants take turns; printed are medians of CPU time, and the peak of memory above what maps and masks take.

    python benchmarks/bench_metrics.py [--repeats 5] [--images 117] [--size 518]
"""

import argparse
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from scipy import ndimage


Figures = dict[str, float]

# The figures that may be compared between contestants
SKLEARN_FIGURES = ("pixel_auroc", "pixel_ap", "pixel_f1_max")
LOOP_THRESHOLDS = 200


def synthesize(num_images: int, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Smooth float32 maps in (0, 1), three in five with two to four elliptic defects, about 1 % of all pixels."""
    generator = np.random.default_rng(0)
    rows, columns = np.mgrid[:size, :size] / size
    maps = np.empty((num_images, size, size), dtype=np.float32)
    masks = np.zeros((num_images, size, size), dtype=bool)
    for index in range(num_images):
        for _ in range(generator.integers(2, 5) if index < 0.6 * num_images else 0):
            y, x = generator.uniform(0.1, 0.9, 2)
            a, b = generator.uniform(0.012, 0.08, 2)
            masks[index] |= ((rows - y) / a) ** 2 + ((columns - x) / b) ** 2 < 1
        coarse = generator.standard_normal((37, 37))
        logits = ndimage.zoom(coarse, size / 37, order=1) + 1.5 * masks[index] - 2
        logits += 0.1 * generator.standard_normal((size, size))
        maps[index] = 1 / (1 + np.exp(-logits))
    return maps, masks


def exact(maps: np.ndarray, masks: np.ndarray) -> Figures:
    from clipsam_hf.metrics import AnomalyMetrics

    metrics = AnomalyMetrics()
    for anomaly_map, mask in zip(maps, masks, strict=True):
        metrics.update(anomaly_map, mask, "all")
    return metrics.finish("all")


def streaming(maps: np.ndarray, masks: np.ndarray) -> Figures:
    from clipsam_hf.metrics import AnomalyMetrics

    metrics = AnomalyMetrics(streaming=True)
    for anomaly_map, mask in zip(maps, masks, strict=True):
        metrics.update(anomaly_map, mask, "all")
    return metrics.finish("all")


def scikit_learn(maps: np.ndarray, masks: np.ndarray) -> Figures:
    from sklearn.metrics import average_precision_score, precision_recall_curve, roc_auc_score

    truth, scores = masks.ravel(), maps.ravel()
    figures = {
        "pixel_auroc": float(roc_auc_score(truth, scores)),
        "pixel_ap": float(average_precision_score(truth, scores)),
    }
    precision, recall, _ = precision_recall_curve(truth, scores)
    f1 = 2 * precision * recall / np.maximum(precision + recall, 1e-12)
    return {**figures, "pixel_f1_max": float(f1.max())}


def loop(maps: np.ndarray, masks: np.ndarray) -> Figures:
    """The AUPRO of most published code: connected components of all masks, again at each of 200 thresholds."""
    from skimage.measure import label, regionprops

    rates, overlaps = [], []
    inverse = ~masks
    for threshold in np.linspace(maps.min(), maps.max(), LOOP_THRESHOLDS, endpoint=False):
        found = maps > threshold
        regions = [
            part[tuple(region.coords.T)].mean()
            for part, mask in zip(found, masks, strict=True)
            for region in regionprops(label(mask))
        ]
        rates.append(np.logical_and(inverse, found).sum() / inverse.sum())
        overlaps.append(np.mean(regions))
    x, y = np.array(rates), np.array(overlaps)
    x, y = x[x < 0.3], y[x < 0.3]
    return {"legacy_aupro_linear200": abs(float(np.trapezoid(y, (x - x.min()) / (x.max() - x.min()))))}


def anomalib(maps: np.ndarray, masks: np.ndarray) -> Figures:
    import torch
    from anomalib.metrics.aupro import _AUPRO

    metric = _AUPRO(fpr_limit=0.3)
    metric.update(torch.from_numpy(maps), torch.from_numpy(masks).int())
    return {"pixel_aupro": float(metric.compute())}


CONTESTANTS: dict[str, tuple[str, Callable[[np.ndarray, np.ndarray], Figures]]] = {
    "exact": ("ours, exact: all pixel, region and image figures", exact),
    "streaming": ("ours, streaming: the same, with intervals", streaming),
    "sklearn": ("scikit-learn: AUROC, AP and F1-max", scikit_learn),
    "loop": ("the field's loop: AUPRO (legacy)", loop),
    "anomalib": ("anomalib: AUPRO", anomalib),
}


def memory(field: str) -> float:
    """A field of this process's status, in MB."""
    status = Path("/proc/self/status").read_text()
    return int(status.split(f"{field}:")[1].split()[0]) * 1024 / 1e6


def measure(name: str, num_images: int, size: int) -> dict[str, object]:
    """Run one contestant in this process."""
    maps, masks = synthesize(num_images, size)
    function = CONTESTANTS[name][1]
    function(maps[-2:, :64, :64].copy(), np.eye(64, dtype=bool)[None].repeat(2, axis=0))  # imports do not count
    Path("/proc/self/clear_refs").write_text("5")  # forgets the peak so far
    before, start = memory("VmRSS"), time.process_time()
    figures = function(maps, masks)
    return {"seconds": time.process_time() - start, "megabytes": memory("VmHWM") - before, "figures": figures}


def spawn(name: str, arguments: argparse.Namespace) -> dict[str, object]:
    command = [sys.executable, __file__, "--only", name]
    command += ["--images", str(arguments.images), "--size", str(arguments.size)]
    threads = {variable: "1" for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")}
    output = subprocess.run(command, env={**os.environ, **threads}, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(output.stdout.splitlines()[-1])


def print_table(runs: dict[str, list[dict[str, object]]]) -> None:
    """Medians, and how many times more each contestant takes than our exact metrics."""
    medians = {
        name: {key: statistics.median(run[key] for run in measured) for key in ("seconds", "megabytes")}
        for name, measured in runs.items()
    }
    ours = medians["exact"]
    print("| what | CPU s | times ours | MB above the maps | times ours | runs |")
    print("|---|---|---|---|---|---|")
    for name, median in medians.items():
        seconds, megabytes = median["seconds"], median["megabytes"]
        ratios = (f"{seconds / ours['seconds']:.1f}", f"{megabytes / ours['megabytes']:.1f}")
        cells = (
            CONTESTANTS[name][0],
            f"{seconds:.2f}",
            ratios[0],
            f"{megabytes:.0f}",
            ratios[1],
            str(len(runs[name])),
        )
        print(f"| {' | '.join(cells)} |")


def print_differences(runs: dict[str, list[dict[str, object]]]) -> None:
    figures = {name: measured[0]["figures"] for name, measured in runs.items()}
    for name, own in figures.items():
        shared = [figure for figure in (*SKLEARN_FIGURES, "pixel_aupro") if figure in own]
        if name != "exact" and shared:
            widest = max(abs(own[figure] - figures["exact"][figure]) for figure in shared)
            print(f"{CONTESTANTS[name][0]}: within {widest:.1e} of ours, exact")
    if "loop" in figures:
        legacy, aupro = figures["loop"]["legacy_aupro_linear200"], figures["exact"]["pixel_aupro"]
        print(f"AUPRO of the loop (legacy) {100 * legacy:.2f}, exact {100 * aupro:.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(description="Time and memory of the metrics of one category.")
    parser.add_argument("--repeats", type=int, default=5, help="runs of each contestant, but of the loop")
    parser.add_argument("--loop-repeats", type=int, default=1, help="runs of the loop; 0 leaves it out")
    parser.add_argument("--images", type=int, default=117)
    parser.add_argument("--size", type=int, default=518, help="side of the maps")
    parser.add_argument("--only", choices=CONTESTANTS, help="measure one contestant and print JSON")
    arguments = parser.parse_args()
    if arguments.only:
        print(json.dumps(measure(arguments.only, arguments.images, arguments.size)))
        return
    repeats = {name: arguments.repeats for name in CONTESTANTS} | {"loop": arguments.loop_repeats}
    if importlib.util.find_spec("anomalib") is None:
        del repeats["anomalib"]
        print("anomalib is not installed, and left out")
    runs: dict[str, list[dict[str, object]]] = {name: [] for name, count in repeats.items() if count}
    for turn in range(max(repeats.values())):
        for name in runs:
            if turn < repeats[name]:
                runs[name].append(spawn(name, arguments))
    print_table(runs)
    print_differences(runs)


if __name__ == "__main__":
    main()
