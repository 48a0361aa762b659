# SPDX-FileCopyrightText: 2026 The clipsam_hf authors
# SPDX-License-Identifier: Apache-2.0
"""
Measure on training data how much SAM should count in a checkpoint's final map (`refine_weight`).

    python recipes/clipsam_tiny/weigh_tiny.py --model CHECKPOINT --data_dir road --data_dir cookie \
        --data_dir ball_screw --pool runs/pool --output runs/weights.json

The rough map A, and the map S of SAM's masks, are made once, with the checkpoint's own thresholds; every weight w of
(1 - w) A + w S is then measured on the pixels of all images together, in CLIP's frame, as `calibrate` does. It does so
for each limit on the size of regions that prompt SAM (`max_region_fraction`). Nothing is written into the checkpoint.
"""

import argparse
import json
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from synthetic_pool import ScenePool
from tiny_umci import UmciSettings, generated_samples
from tqdm import tqdm  # type: ignore[import-untyped]

from clipsam_hf.data import AnomalyFolder, AnomalySample
from clipsam_hf.inference_clipsam import ClipSamInference
from clipsam_hf.metrics import AnomalyMetrics, resize_mask
from clipsam_hf.modeling_clipsam import ClipSamForAnomalySegmentation
from clipsam_hf.processing_clipsam import ClipSamProcessor
from clipsam_hf.training.calibration import REFINE_WEIGHTS


__all__ = ["main"]

LIMITS = (0.25, 1.0)
POOL = "all"
FIGURES = {"F1-max": "pixel_f1_max", "AP": "pixel_ap", "threshold": "pixel_f1_threshold"}


class Maps(NamedTuple):
    """One image: its set, the rough map, the masks' map at each limit, and the truth, all (height, width)."""

    name: str
    rough: np.ndarray
    masks: dict[float, np.ndarray]
    truth: np.ndarray


@torch.no_grad()
def make_maps(
    model: ClipSamForAnomalySegmentation, folder: Path, sets: dict[str, list[AnomalySample]]
) -> Iterator[Maps]:
    """Run the model once for each limit, SAM's encoder once."""
    inference = ClipSamInference(model, ClipSamProcessor.from_pretrained(folder))
    model.config.refine_weight = 1.0
    for name, samples in sets.items():
        for sample in tqdm(samples, desc=name, disable=None):
            prepared = inference.prepare(sample.load_image(), sample.class_name)
            (embeddings,) = inference.encode([prepared])
            masks = {}
            for model.config.max_region_fraction in LIMITS:
                (prediction,) = inference.predict([prepared._replace(image_embeddings=embeddings)])
                masks[model.config.max_region_fraction] = prediction.anomaly_map.numpy()
            rough = prediction.rough_anomaly_map.numpy()
            yield Maps(name, rough, masks, resize_mask(sample.load_mask(), rough.shape, "bilinear"))


def measure(maps: Sequence[Maps], limit: float, weight: float, threshold: float) -> dict[str, float]:
    """Return the figures of the pixels of all maps together, and F1 at a threshold."""
    metrics, counts = AnomalyMetrics(streaming=True), np.zeros(3, np.int64)
    for each in maps:
        final = np.float32(1 - weight) * each.rough + np.float32(weight) * each.masks[limit]
        metrics.update(final, each.truth, POOL)
        marked = final > threshold
        counts += ((marked & each.truth).sum(), marked.sum(), each.truth.sum())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the figures that are not used here
        figures = metrics.finish(POOL)
    both, marked_pixels, defective = counts.tolist()
    at_threshold = 2 * both / max(marked_pixels + defective, 1)
    return {**{title: figures[name] for title, name in FIGURES.items()}, "F1 at mask_threshold": at_threshold}


def parse_args(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True, help="folder of the checkpoint")
    parser.add_argument("--data_dir", type=Path, action="append", default=[], help="a set; may be repeated")
    parser.add_argument("--pool", type=Path, help="folder of scenes, of which generated images are made")
    parser.add_argument("--output", type=Path, required=True, help="JSON file of the figures")
    parser.add_argument("--num_threads", type=int, default=1)
    return parser.parse_args(arguments)


def main() -> None:
    """Print and write the figures of every weight, of all images together and of each set."""
    arguments = parse_args()
    torch.set_num_threads(arguments.num_threads)
    sets = {folder.name: list(AnomalyFolder(folder, split=None)) for folder in arguments.data_dir}
    if arguments.pool is not None:
        sets["generated"] = generated_samples(ScenePool(arguments.pool, seed=0), UmciSettings())
    model = ClipSamForAnomalySegmentation.from_pretrained(arguments.model)
    threshold = model.config.mask_threshold
    maps = list(make_maps(model, arguments.model, sets))

    groups = {POOL: maps, **{name: [each for each in maps if each.name == name] for name in sets}}
    results: dict[str, Any] = {}
    for limit in LIMITS:
        for weight in REFINE_WEIGHTS:
            row = {name: measure(group, limit, weight, threshold) for name, group in groups.items()}
            results.setdefault(str(limit), {})[str(weight)] = row
            print(limit, weight, json.dumps(row), flush=True)
        best = max(REFINE_WEIGHTS, key=lambda weight: results[str(limit)][str(weight)][POOL]["F1-max"])
        print(f"max_region_fraction {limit}: the best weight is {best}", flush=True)
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
