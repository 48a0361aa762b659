# SPDX-FileCopyrightText: 2026 The clipsam_hf authors
# SPDX-License-Identifier: Apache-2.0
"""
MMR with other prompts, masks and merges, on photographs of a set that the checkpoint has not been trained on.

    python recipes/clipsam_small/ablate_small.py cookie --model runs/small/without_cookie/clipsam-small

The rough maps and SAM's embeddings are computed once. UMCI without its parts is in sweep_small.py.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from probe_small import SIDE
from torch import Tensor

from clipsam_hf.data import AnomalyFolder, AnomalySample
from clipsam_hf.inference_clipsam import ClipSamInference
from clipsam_hf.metrics import AnomalyMetrics, resize_mask
from clipsam_hf.modeling_clipsam import ClipSamForAnomalySegmentation
from clipsam_hf.processing_clipsam import ClipSamProcessor
from clipsam_hf.refinement_clipsam import resize_map


__all__ = ["VARIANTS", "main"]

HALF = {"refine_weight": 0.5}
VARIANTS: dict[str, dict[str, Any]] = {
    "rough map": {"refine_weight": 0.0},
    "as released": {},
    "weight 0.2": {"refine_weight": 0.2},
    "weight 0.5": HALF,
    "weight 0.8": {"refine_weight": 0.8},
    "masks alone": {"refine_weight": 1.0},
    "0.5, boxes alone": {**HALF, "prompt_type": "box"},
    "0.5, points alone": {**HALF, "prompt_type": "points"},
    "0.5, one mask a region": {**HALF, "multimask_output": False},
    "0.5, binary masks": {**HALF, "mask_fusion": "binary"},
    "0.5, merge by average": {**HALF, "merge": "average"},
    "0.5, sum and scale": {**HALF, "merge": "sum_norm"},
}
"""Fields of the configuration that differ from the checkpoint's."""


class Look(NamedTuple):
    """
    What the variants share of a photograph.

    Args:
        rough_map: (1, height, width).
        refiner: SAM's embeddings and how the photograph lies in its square, arguments of `model.refine`.
        sample: The photograph, with its mask.
    """

    rough_map: Tensor
    refiner: dict[str, Any]
    sample: AnomalySample


@torch.no_grad()
def look_at(inference: ClipSamInference, sample: AnomalySample) -> Look:
    """Compute the rough map and SAM's embeddings of a photograph."""
    model, prepared = inference.model, inference.prepare(sample.load_image(), refine=True)
    texts = inference.embed(sample.class_name)
    rough = model(pixel_values=prepared.inputs["pixel_values"], text_embeds=texts).rough_anomaly_map
    (embeddings,) = inference.encode([prepared])
    sizes = prepared.inputs["reshaped_input_sizes"]
    return Look(rough, {"image_embeddings": embeddings, "reshaped_input_sizes": sizes}, sample)


def measure(model: ClipSamForAnomalySegmentation, looks: Sequence[Look], fields: dict[str, Any]) -> dict[str, float]:
    """Return the figures of the refined maps with other fields; the model's own are put back."""
    own = {name: getattr(model.config, name) for name in fields}
    model.config.update(fields)
    metrics = AnomalyMetrics()
    for look in looks:
        (refined,) = model.refine(look.rough_map, **look.refiner)
        score = float(model.score(refined.anomaly_map[None]))
        shown = resize_map(refined.anomaly_map, (SIDE, SIDE)).numpy()
        mask = resize_mask(look.sample.load_mask(), (SIDE, SIDE))
        metrics.update(shown, mask, "all", image_score=score, label=look.sample.label)
    model.config.update(own)
    return metrics.compute()["mean"]


def parse_args(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photographs", type=Path, help="a data set")
    parser.add_argument("--model", type=Path, required=True, help="folder of the checkpoint")
    parser.add_argument("--num_threads", type=int, default=1)
    return parser.parse_args(arguments)


def main() -> None:
    """Print a row for each variant."""
    arguments = parse_args()
    torch.set_num_threads(arguments.num_threads)
    model = ClipSamForAnomalySegmentation.from_pretrained(arguments.model)
    inference = ClipSamInference(model, ClipSamProcessor.from_pretrained(arguments.model))
    looks = [look_at(inference, sample) for sample in AnomalyFolder(arguments.photographs, split=None)]
    for name, fields in VARIANTS.items():
        figures = measure(model, looks, fields)
        told = [figures[figure] for figure in ("pixel_f1_max", "pixel_ap", "pixel_aupro", "image_auroc")]
        print("|", " | ".join([name, *(f"{100 * value:.1f}" for value in told)]), "|", flush=True)


if __name__ == "__main__":
    main()
