# SPDX-FileCopyrightText: 2026 The clipsam_hf authors
# SPDX-License-Identifier: Apache-2.0
"""
Which head to take: each is trained with a set left out, and measured on that set's whole photographs.

    python recipes/clipsam_small/sweep_small.py --output_dir runs/small --materials materials \
        --sets cookie --sets ball_screw

The text tower of `train_small.py text --leave_out SET --run without_SET` must be there. Everything is of cached
features, so that a head takes about a minute. A line for each head, set and seed is written as it comes, and those
that are there are not made again.
"""

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from probe_small import SIDE, add_map
from small_features import LAYERS, SceneCache
from small_umci import (
    UmciBatches,
    UmciSettings,
    build_model,
    build_processor,
    find_novelty_scale,
    raise_maps,
    train_head,
)
from torch.nn import functional as F
from train_small import read_features, read_names, read_shown
from transformers import CLIPModel, CLIPTokenizer

from clipsam_hf import EMBEDDED_CHECKPOINT
from clipsam_hf.configuration_clipsam import FUSED_FEATURES
from clipsam_hf.inference_clipsam import ClipSamInference
from clipsam_hf.metrics import AnomalyMetrics
from clipsam_hf.modeling_clipsam import ClipSamForAnomalySegmentation


__all__ = ["HEADS", "main"]

WHOLE = UmciSettings(
    feature_layers=(6, 9),
    fused_features=FUSED_FEATURES,
    head="conv",
    num_steps=600,
    pieces=False,
    novelty_weight=0.0,
)
TEXT_HEAD = replace(WHOLE, head="text")
PLAIN = replace(TEXT_HEAD, fused_features=("original",))
FEW = replace(UmciSettings(), num_steps=100, pieces=False)
# Without texts, unless strips or scales bring them in
BARE = replace(FEW, novelty_weight=0.0, head="conv")
HEADS = {
    "all features": WHOLE,
    "all features, 100 steps": replace(WHOLE, num_steps=100),
    "all features, 32 wide": replace(WHOLE, umci_hidden_size=32),
    "all features, text head": TEXT_HEAD,
    "all features, text head, 50 steps": replace(TEXT_HEAD, num_steps=50),
    "all features, text head, 100 steps": replace(TEXT_HEAD, num_steps=100),
    "V_ori": replace(PLAIN, head="conv"),
    "V_ori, text head": PLAIN,
    "V_ori, text head, 50 steps": replace(PLAIN, num_steps=50),
    "V_ori, text head, 100 steps": replace(PLAIN, num_steps=100),
    "V_ori, text head, 200 steps": replace(PLAIN, num_steps=200),
    "V_ori, text head, 32 wide": replace(PLAIN, umci_hidden_size=32),
    "V_ori, text head, few scenes": replace(PLAIN, scene_share=0.2),
    "V_ori, text head, as they are": replace(PLAIN, normalize_features=False),
    "V_ori, text head, block 9": replace(PLAIN, feature_layers=(9,)),
    "V_ori, text head, blocks 3, 6, 9": replace(PLAIN, feature_layers=(3, 6, 9)),
    "V_ori, text head, blocks 3, 6, 9, 50 steps": replace(PLAIN, feature_layers=(3, 6, 9), num_steps=50),
    "V_ori, text head, blocks 3, 6, 9, 100 steps": replace(FEW, novelty_weight=0.0),
    "the same, conv head": BARE,
    "the same, all features": replace(FEW, novelty_weight=0.0, fused_features=FUSED_FEATURES),
    "the same, conv head, all features": replace(BARE, fused_features=FUSED_FEATURES),
    "the same, conv head, no strips": replace(BARE, fused_features=("original", "scale")),
    "the same, conv head, no scales": replace(BARE, fused_features=("original", "row", "column")),
    "the same, conv head, no V_ori": replace(BARE, fused_features=("row", "column", "scale")),
    "the same, novelty 0.25": replace(FEW, novelty_weight=0.25),
    "the same, novelty 0.5": replace(FEW, novelty_weight=0.5),
    "novelty alone": replace(FEW, novelty_weight=1.0),
    "the same, novelty 0.15": FEW,
    "the same, pieces": replace(FEW, pieces=True),
    "the same, pieces, 200 steps": UmciSettings(),
}
"""The heads by name; the last one is taken."""
FIGURES = ("pixel_f1_max", "pixel_ap", "pixel_aupro", "image_auroc")


@torch.no_grad()
def look_at(inference: ClipSamInference, caches: Sequence[SceneCache], layers: Sequence[int]) -> AnomalyMetrics:
    """Return the measures of the rough maps of whole photographs."""
    model, metrics = inference.model, AnomalyMetrics()
    for cache in caches:
        for number, word in enumerate(cache.words):
            scene = cache.take([number])
            maps = tuple(scene.features[:, LAYERS.index(layer)] for layer in layers)
            rough = model(feature_maps=maps, text_embeds=inference.embed(word)).rough_anomaly_map
            anomaly_map = F.interpolate(rough[None], (SIDE, SIDE), mode="bilinear")[0, 0]
            add_map(metrics, anomaly_map, scene.kinds[0] > 0, score=float(model.score(rough)))
    return metrics


def try_head(arguments: argparse.Namespace, settings: UmciSettings, left_out: str, seed: int) -> dict[str, float]:
    """Train a head without a set, and return its figures there."""
    folder = arguments.output_dir
    clip_folder = folder / f"without_{left_out}" / "clip"
    clip, tokenizer = CLIPModel.from_pretrained(clip_folder), CLIPTokenizer.from_pretrained(clip_folder)
    sam = ClipSamForAnomalySegmentation.from_pretrained(EMBEDDED_CHECKPOINT).sam
    torch.manual_seed(seed)
    model = build_model(clip, sam, settings)
    scenes, photographs = read_features(folder, [left_out])
    names = read_names(arguments.materials)
    batches = UmciBatches(clip, tokenizer, scenes, read_shown(folder, photographs, settings), names, settings, seed)
    train_head(model, batches, settings, None)
    whole, layers = list(photographs.values()), settings.feature_layers
    inference = ClipSamInference(model, build_processor(tokenizer, clip_size=settings.image_size, sam_size=256))
    if settings.novelty_weight > 0:
        # As in `train_small.py umci`: both maps must lie on the same scale
        threshold = look_at(inference, whole, layers).compute()["categories"]["all"]["pixel_f1_threshold"]
        raise_maps(model, batches.bank, threshold)
        model.config.novelty_weight = settings.novelty_weight
        model.config.novelty_scale = find_novelty_scale(whole)
    figures = look_at(inference, [SceneCache(folder / "photographs" / left_out)], layers).compute()["mean"]
    return {name: figures[name] for name in FIGURES}


def describe(head: str, left_out: str) -> dict[str, Any]:
    """Return what lines of the same trial have in common, as JSON gives it back."""
    return {"head": head, "set": left_out, "settings": json.loads(json.dumps(asdict(HEADS[head])))}


def parse_args(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output_dir", type=Path, required=True, help="that of train_small.py")
    parser.add_argument("--materials", type=Path, required=True, help="as for train_small.py")
    parser.add_argument("--sets", action="append", required=True, help="name of a set to leave out; may be repeated")
    parser.add_argument("--heads", nargs="+", choices=HEADS, default=list(HEADS), metavar="HEAD")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--num_threads", type=int, default=1)
    return parser.parse_args(arguments)


def main() -> None:
    """Print a row for each head: the mean over the seeds of each set, and how far they are apart."""
    arguments = parse_args()
    torch.set_num_threads(arguments.num_threads)
    path = arguments.output_dir / "sweep.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    for seed in range(arguments.seeds):
        for name in arguments.heads:
            for left_out in arguments.sets:
                key = {**describe(name, left_out), "seed": seed}
                if any(key.items() <= line.items() for line in lines):
                    continue
                lines.append({**key, **try_head(arguments, HEADS[name], left_out, seed)})
                with path.open("a") as file:
                    file.write(json.dumps(lines[-1]) + "\n")
                print(name, left_out, seed, *(f"{100 * lines[-1][figure]:.1f}" for figure in FIGURES), flush=True)
    for name in arguments.heads:
        for left_out in arguments.sets:
            rows = [line for line in lines if describe(name, left_out).items() <= line.items()]
            cells = [
                f"{100 * mean(values):.1f} ({100 * min(values):.1f} to {100 * max(values):.1f})"
                for values in ([row[figure] for row in rows] for figure in FIGURES)
            ]
            print("|", " | ".join([name, left_out, *cells]), "|")


if __name__ == "__main__":
    main()
