# SPDX-FileCopyrightText: 2026 The clipsam_hf authors
# SPDX-License-Identifier: Apache-2.0
"""
Test the paper's claims on `clipsam-tiny`: UMCI without each of its parts, MMR with other prompts, masks and merges.

    python examples/ablate_tiny.py --model CHECKPOINT --pool runs/tiny/pool --output ablations.json

Every UMCI is trained anew on the frozen CLIP, on features that are computed once, from several seeds; all are measured
on generated images of another seed. Nothing else is looked at: the choices that follow from the table are made here.
"""

import argparse
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from evaluate_tiny import TENSORS, Scores, build_similarity
from synthetic_pool import KINDS, Batch, ScenePool
from tiny_common import CLIP_PIXELS, SAM_PIXELS, normalise
from tiny_umci import UmciBatches, UmciSettings
from tqdm import tqdm  # type: ignore[import-untyped]

from clipsam_hf.configuration_clipsam import ClipSamConfig
from clipsam_hf.modeling_clipsam import ClipSamForAnomalySegmentation
from clipsam_hf.processing_clipsam import ClipSamProcessor
from clipsam_hf.training import train_umci


__all__ = ["UMCI_VARIANTS", "main"]

WHOLE = ("original", "row", "column", "scale")
UMCI_VARIANTS: dict[str, dict[str, Any]] = {
    "whole": {},
    "without strip path": {"fused_features": ("original", "scale")},
    "without scale path": {"fused_features": ("original", "row", "column")},
    "without V_ori": {"fused_features": ("row", "column", "scale")},
    "V_ori alone": {"fused_features": ("original",)},
    "without language": {"constant_text": True},
    "text head": {"head": "text"},
}
MMR_VARIANTS: dict[str, dict[str, Any]] = {
    "as configured": {},
    "points": {"prompt_type": "points"},
    "boxes": {"prompt_type": "box"},
    "boxes and points": {"prompt_type": "box_and_points"},
    "one mask": {"multimask_output": False},
    "three masks": {"multimask_output": True},
    "soft masks": {"mask_fusion": "soft"},
    "binary masks": {"mask_fusion": "binary"},
    "normalised sum": {"merge": "sum_norm"},
    **{f"binarize_threshold {value}": {"binarize_threshold": value} for value in (0.1, 0.2, 0.3, 0.4, 0.5, 0.6)},
}


@dataclass
class Cached:
    """
    Images whose features are known.

    Args:
        batch: The images.
        stages: Per stage (num_images, hidden_size, height, width) float16.
        embeddings: SAM's, (num_images, channels, height, width) float16, if they were asked for.
    """

    batch: Batch
    stages: tuple[torch.Tensor, ...]
    embeddings: torch.Tensor | None = None

    def rows(self, chosen: list[int]) -> tuple[torch.Tensor, ...]:
        """Return the stages of some images: each (len(chosen), hidden_size, height, width) float32."""
        return tuple(stage[chosen].float() for stage in self.stages)


@torch.no_grad()
def cache(model: ClipSamForAnomalySegmentation, batch: Batch, *, with_sam: bool) -> Cached:
    """Compute CLIP's stages of all images of a batch, and SAM's embeddings."""
    side = model.config.sam_config.vision_config.image_size
    stages, embeddings = [], []
    for images in tqdm(batch.images.split(8), desc="features", disable=None):
        stages.append([stage.half() for stage in model.get_feature_maps(normalise(images, CLIP_PIXELS))])
        if with_sam:
            seen = torch.nn.functional.interpolate(images, size=(side, side), mode="bilinear")
            embeddings.append(model.get_image_embeddings(normalise(seen, SAM_PIXELS)).half())
    joined = tuple(torch.cat(stage) for stage in zip(*stages, strict=True))
    return Cached(batch, joined, torch.cat(embeddings) if with_sam else None)


def train_variant(
    base: ClipSamForAnomalySegmentation,
    texts: UmciBatches,
    cached: Cached,
    changes: dict[str, Any],
    *,
    seed: int,
    num_steps: int,
    batch_size: int,
) -> ClipSamForAnomalySegmentation:
    """Train one UMCI on cached features."""
    fields = {name: value for name, value in changes.items() if name != "constant_text"}
    constant = texts.constant() if changes.get("constant_text") else None
    torch.manual_seed(seed)
    model = ClipSamForAnomalySegmentation(ClipSamConfig.from_dict({**base.config.to_dict(), **fields}))
    model.clip, model.sam = base.clip, base.sam
    count = len(cached.batch.words)

    def batches(step: int) -> dict[str, Any]:
        rng = np.random.default_rng((seed, step, 107))
        chosen = rng.integers(count, size=batch_size).tolist()
        pairs = [texts.text_of(cached.batch, number, rng) for number in chosen]
        if constant is not None:
            pairs = [(constant, cached.batch.masks[number]) for number in chosen]
        return {
            "feature_maps": cached.rows(chosen),
            "text_embeds": torch.stack([text for text, _ in pairs]),
            "labels": torch.stack([mask for _, mask in pairs]).float(),
        }

    train_umci(model, batches, num_steps=num_steps, learning_rate=1e-3, warmup_steps=num_steps // 10)
    return model.eval()


@torch.inference_mode()
def measure_rough(model: ClipSamForAnomalySegmentation, cached: Cached, text_embeds: torch.Tensor) -> dict[str, float]:
    """Return the figures of the rough map."""
    scores = Scores()
    masks = cached.batch.masks.numpy()
    for number, mask in enumerate(masks):
        output = model(feature_maps=cached.rows([number]), text_embeds=text_embeds)
        scores.update(output.rough_anomaly_map[0].numpy(), mask)
    return scores.compute()


@torch.inference_mode()
def measure_steering(model: ClipSamForAnomalySegmentation, cached: Cached, texts: UmciBatches) -> float:
    """
    Return how well a text that names one of two kinds of defect in an image ranks its pixels above the other's.

    The mean, over all such images and both directions, of the AUROC between the pixels of the two defects.
    """
    found = []
    for number in range(len(cached.batch.words)):
        present = cached.batch.present(number)
        if len(present) != 2:
            continue
        kinds = cached.batch.kinds[number].numpy()
        for named, other in (present, present[::-1]):
            output = model(feature_maps=cached.rows([number]), text_embeds=texts.naming(named)[None])
            values = output.rough_anomaly_map[0].numpy()
            inside, outside = (values[kinds == KINDS.index(kind) + 1] for kind in (named, other))
            found.append(rank_probability(inside, outside))
    return float(np.mean(found)) if found else float("nan")


def rank_probability(above: np.ndarray, below: np.ndarray) -> float:
    """Return the probability that a value of the first kind is greater, ties counting half: the AUROC."""
    ordered = np.sort(below)
    less, not_more = np.searchsorted(ordered, above, "left"), np.searchsorted(ordered, above, "right")
    return float((less + not_more).mean() / 2 / len(below))


@torch.inference_mode()
def measure_refined(
    model: ClipSamForAnomalySegmentation, cached: Cached, text_embeds: torch.Tensor, changes: dict[str, Any]
) -> dict[str, float]:
    """Return the figures of the refined map with some fields of the configuration changed."""
    before = {name: getattr(model.config, name) for name in changes}
    for name, value in changes.items():
        setattr(model.config, name, value)
    assert cached.embeddings is not None
    side = model.config.sam_config.vision_config.image_size
    scores = Scores()
    for number, mask in enumerate(cached.batch.masks.numpy()):
        output = model(
            feature_maps=cached.rows([number]),
            text_embeds=text_embeds,
            image_embeddings=cached.embeddings[number, None].float(),
            reshaped_input_sizes=torch.tensor([[side, side]]),
        )
        scores.update(output.anomaly_map[0].numpy(), mask)
    for name, value in before.items():
        setattr(model.config, name, value)
    return scores.compute()


def summarise(rows: list[dict[str, float]]) -> dict[str, list[float]]:
    """Return mean and standard deviation of every figure over the seeds."""
    return {name: [float(f([row[name] for row in rows])) for f in (np.mean, np.std)] for name in rows[0]}


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return all figures."""
    base = ClipSamForAnomalySegmentation.from_pretrained(arguments.model)
    processor = ClipSamProcessor.from_pretrained(arguments.model)
    inputs: Any = processor(text="object", **TENSORS)
    generic = base.get_text_embeddings(inputs["input_ids"], inputs["attention_mask"]).detach()

    training = ScenePool(arguments.pool, seed=0)
    size, validation_size = arguments.size, base.config.image_size
    texts = UmciBatches(base, processor.tokenizer, training, replace(UmciSettings(), image_size=size))
    cached = cache(base, training.batch(40_000_000, first=0, count=arguments.num_images, size=size), with_sam=False)
    other = ScenePool(arguments.validation_pool, seed=1)
    batch = other.batch(0, first=0, count=arguments.num_validation_images, size=validation_size)
    held = cache(base, batch, with_sam=True)

    results: dict[str, Any] = {"settings": {name: str(value) for name, value in vars(arguments).items()}}
    results["similarity"] = measure_rough(build_similarity(base), held, generic)
    results["released UMCI"] = {
        **measure_rough(base, held, generic),
        "steering AUROC": measure_steering(base, held, texts),
    }
    results["umci"], results["mmr"] = {}, {}
    for name, changes in UMCI_VARIANTS.items():
        rows = []
        for seed in range(arguments.num_seeds):
            options: dict[str, Any] = {"num_steps": arguments.num_steps, "batch_size": arguments.batch_size}
            model = train_variant(base, texts, cached, changes, seed=seed, **options)
            pair = texts.constant()[None] if changes.get("constant_text") else generic
            steering = float("nan") if changes.get("constant_text") else measure_steering(model, held, texts)
            rows.append({**measure_rough(model, held, pair), "steering AUROC": steering})
        results["umci"][name] = summarise(rows)
        print(name, results["umci"][name], flush=True)
    for name, changes in MMR_VARIANTS.items():
        results["mmr"][name] = measure_refined(base, held, generic, changes)
        print(name, results["mmr"][name], flush=True)
    return results


def main() -> None:
    """Run all ablations and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True, help="folder of the checkpoint")
    parser.add_argument("--pool", type=Path, required=True, help="folder of the scenes to train on")
    parser.add_argument("--validation_pool", type=Path, required=True, help="folder of scenes of another seed")
    parser.add_argument("--output", type=Path, required=True, help="JSON file of the figures")
    parser.add_argument("--num_images", type=int, default=3072, help="images that UMCI is trained on")
    parser.add_argument("--size", type=int, default=128, help="their side in pixels")
    parser.add_argument("--num_validation_images", type=int, default=240)
    parser.add_argument("--num_steps", type=int, default=600)
    parser.add_argument("--batch_size", type=int, default=24)
    parser.add_argument("--num_seeds", type=int, default=3)
    parser.add_argument("--num_threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.num_threads)
    arguments.output.write_text(json.dumps(run(arguments), indent=1))


if __name__ == "__main__":
    main()
