# SPDX-FileCopyrightText: 2026 The clipsam_hf authors
# SPDX-License-Identifier: Apache-2.0
"""Ablations without training: MMR's prompts, masks and merges, sizes, stages of CLIP, and scores of images."""

import argparse
import json
from typing import Any

import numpy as np
import torch
from ablation_bench import Bench, measure, read_photographs
from tiny_common import CLIP_PIXELS, normalise
from tiny_scores import Scores, rank_probability
from torch.nn import functional as F
from tqdm import tqdm  # type: ignore[import-untyped]

from clipsam_hf.refinement_clipsam import resize_map, score_map


__all__ = ["MMR_VARIANTS", "ablate_mmr", "ablate_score", "ablate_size", "ablate_stages"]

MMR_VARIANTS: dict[str, dict[str, Any]] = {
    "as configured": {},
    "points": {"prompt_type": "points"},
    "boxes": {"prompt_type": "box"},
    "boxes and points": {"prompt_type": "box_and_points"},
    "one mask": {"multimask_output": False},
    "three masks": {"multimask_output": True},
    "soft masks": {"mask_fusion": "soft"},
    "binary masks": {"mask_fusion": "binary"},
    "average": {"merge": "average"},
    "weighted by anomaly": {"merge": "anomaly_weighted"},
    "normalised sum": {"merge": "sum_norm"},
    "points, weighted by anomaly": {"prompt_type": "points", "merge": "anomaly_weighted"},
    "points, soft, weighted by anomaly": {
        "prompt_type": "points",
        "mask_fusion": "soft",
        "merge": "anomaly_weighted",
    },
    "points, soft": {"prompt_type": "points", "mask_fusion": "soft"},
    **{
        f"binarize_threshold {value}": {"binarize_threshold": value}
        for value in (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
    },
}
SIZES = (192, 256, 384, 512)
SEVERAL_SIZES = ((256, 384), (192, 256, 384), (256, 384, 512), (192, 256, 384, 512))
TOP_SHARES = (0.001, 0.01, 0.03, 0.1, 0.3)


def ablate_mmr(bench: Bench, arguments: argparse.Namespace) -> dict[str, Any]:
    """Measure the rough maps and every way to refine them."""
    sets, config = bench.sets(with_sam=True), bench.model.config
    texts = {name: bench.texts(each.class_name) for name, each in sets.items()}
    results: dict[str, Any] = {"rough": {name: measure(bench.model, sets[name], texts[name]) for name in sets}}
    print("rough", json.dumps(results["rough"]), flush=True)
    for variant in arguments.variants or MMR_VARIANTS:
        changes = MMR_VARIANTS[variant]
        before = {name: getattr(config, name) for name in changes}
        for name, value in changes.items():
            setattr(config, name, value)
        results[variant] = {name: measure(bench.model, sets[name], texts[name], refine=True) for name in sets}
        for name, value in before.items():
            setattr(config, name, value)
        print(variant, json.dumps(results[variant]), flush=True)
    return results


@torch.inference_mode()
def ablate_size(bench: Bench, arguments: argparse.Namespace) -> dict[str, Any]:
    """Measure the rough map of images squashed to other sides, and means of several, against masks of the largest."""
    largest, results = max(SIZES), dict[str, Any]()
    subsets = [*((side,) for side in SIZES), *SEVERAL_SIZES]
    generated = bench.validation.batch(0, first=0, count=bench.num_images, size=largest)
    photographs = [read_photographs(folder, largest) for folder in bench.folders]
    for name, batch in {"generated": generated, **{batch.words[0]: batch for batch in photographs}}.items():
        text_embeds = bench.texts("object" if batch is generated else name)
        scores = {sides: Scores() for sides in subsets}
        for image, mask in zip(tqdm(batch.images, desc=name, disable=None), batch.masks.numpy(), strict=True):
            maps = {}
            for side in SIZES:
                resized = F.interpolate(image[None], (side, side), mode="bicubic", antialias=True)
                stages = bench.model.get_feature_maps(normalise(resized, CLIP_PIXELS))
                output = bench.model(feature_maps=stages, text_embeds=text_embeds)
                maps[side] = resize_map(output.rough_anomaly_map[0], mask.shape)
            for sides, score in scores.items():
                score.update(torch.stack([maps[side] for side in sides]).mean(0).numpy(), mask)
        results[name] = {" + ".join(map(str, sides)): score.compute() for sides, score in scores.items()}
        print(name, json.dumps(results[name]), flush=True)
    return results


@torch.inference_mode()
def ablate_stages(bench: Bench, arguments: argparse.Namespace) -> dict[str, Any]:
    """Measure the rough map of single stages and of the last few: every stage has a UMCI of its own."""
    layers, results = bench.model.config.feature_layers, {}
    places = range(len(layers))
    subsets = list(dict.fromkeys([*((place,) for place in places), *(tuple(places[place:]) for place in places)]))
    for name, cached in bench.sets().items():
        text_embeds = bench.texts(cached.class_name)
        scores = {subset: Scores() for subset in subsets}
        for number, mask in enumerate(cached.batch.masks.numpy()):
            logits = bench.model(feature_maps=cached.rows([number]), text_embeds=text_embeds).logits
            for subset, score in scores.items():
                rough = bench.model.localizer.to_map(logits[:, list(subset)], mask.shape)
                score.update(rough[0].numpy(), mask)
        results[name] = {
            " + ".join(str(layers[place]) for place in subset): score.compute() for subset, score in scores.items()
        }
        print(name, json.dumps(results[name]), flush=True)
    return results


@torch.inference_mode()
def ablate_score(bench: Bench, arguments: argparse.Namespace) -> dict[str, Any]:
    """Measure the ways to score an image: its AUROC by shares of the rough map's highest pixels, and by CLIP alone."""
    results: dict[str, Any] = {}
    for name, cached in bench.sets().items():
        truth = cached.batch.masks.flatten(1).any(1).numpy()
        if truth.all():
            continue
        text_embeds, scores = bench.texts(cached.class_name), dict[str, list[float]]()
        for number in range(len(truth)):
            rough = bench.model(feature_maps=cached.rows([number]), text_embeds=text_embeds).rough_anomaly_map
            for share in TOP_SHARES:
                scores.setdefault(f"highest {share:.1%}", []).append(score_map(rough, top_fraction=share).item())
            pixels = normalise(cached.batch.images[number, None], CLIP_PIXELS)
            image = bench.model.clip.get_image_features(pixels, interpolate_pos_encoding=True).pooler_output
            contrast = F.normalize(image, dim=-1) @ (text_embeds[0, 1] - text_embeds[0, 0])
            scores.setdefault("CLIP's image and texts", []).append(contrast.item())
        results[name] = {
            way: {"image AUROC": rank_probability(np.array(values)[truth], np.array(values)[~truth])}
            for way, values in scores.items()
        }
        print(name, json.dumps(results[name]), flush=True)
    return results
