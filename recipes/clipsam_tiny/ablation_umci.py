# SPDX-FileCopyrightText: 2026 The clipsam_hf authors
# SPDX-License-Identifier: Apache-2.0
"""Ablations of UMCI, every variant of which is trained anew on the frozen CLIP, and of the words in its texts."""

import argparse
import json
from typing import Any

import numpy as np
import torch
from ablation_bench import Bench, Cached, Figures, measure, measure_steering, two_kinds
from evaluate_tiny import build_similarity, embed_texts
from PIL import Image
from tiny_questions import CANDIDATES, TEXTS_PER_IMAGE, ask, choose
from tiny_umci import UmciBatches, UmciSettings

from clipsam_hf.configuration_clipsam import ClipSamConfig
from clipsam_hf.modeling_clipsam import ClipSamForAnomalySegmentation
from clipsam_hf.training import train_umci
from clipsam_hf.visualization_clipsam import heat_map


__all__ = ["TRAINING_CHANGES", "UMCI_VARIANTS", "ablate_umci", "ablate_words", "summarise"]

UMCI_VARIANTS: dict[str, dict[str, Any]] = {
    "whole": {},
    "without strip path": {"fused_features": ("original", "scale")},
    "without scale path": {"fused_features": ("original", "row", "column")},
    "without V_ori": {"fused_features": ("row", "column", "scale")},
    "V_ori alone": {"fused_features": ("original",)},
    "without language": {"constant_text": True},
    "text head": {"head": "text"},
    "several texts": {"several_texts": True},
    "several texts, text head": {"several_texts": True, "head": "text"},
}
# what a variant changes beside the configuration
TRAINING_CHANGES = ("constant_text", "several_texts")
SHOWN = 4


def train_variant(
    bench: Bench,
    texts: UmciBatches,
    cached: Cached,
    changes: dict[str, Any],
    *,
    seed: int,
    num_steps: int,
    count: int,
    learning_rate: float,
) -> ClipSamForAnomalySegmentation:
    """Train one UMCI on cached features, `count` pairs of image and texts a step."""
    fields = {name: value for name, value in changes.items() if name not in TRAINING_CHANGES}
    constant = texts.constant() if changes.get("constant_text") else None
    torch.manual_seed(seed)
    model = ClipSamForAnomalySegmentation(ClipSamConfig.from_dict({**bench.model.config.to_dict(), **fields}))
    model.clip, model.sam = bench.model.clip, bench.model.sam

    def batches(step: int) -> dict[str, Any]:
        rng = np.random.default_rng((seed, step, 107))
        if changes.get("several_texts"):
            wanted = count // TEXTS_PER_IMAGE
            numbers = rng.integers(len(cached.batch.words), size=CANDIDATES * wanted).tolist()
            chosen = choose(cached.batch, numbers, wanted, rng)
            return ask(texts, cached.batch, chosen, cached.rows(chosen), rng)
        chosen = rng.integers(len(cached.batch.words), size=count).tolist()
        pairs = [texts.text_of(cached.batch, number, rng) for number in chosen]
        if constant is not None:
            pairs = [(constant, cached.batch.masks[number]) for number in chosen]
        return {
            "feature_maps": cached.rows(chosen),
            "text_embeds": torch.stack([text for text, _ in pairs]),
            "labels": torch.stack([mask for _, mask in pairs]).float(),
        }

    train_umci(model, batches, num_steps=num_steps, learning_rate=learning_rate, warmup_steps=num_steps // 10)
    return model.eval()


def summarise(rows: list[Figures]) -> dict[str, dict[str, list[float]]]:
    """Return mean and standard deviation over the seeds of every figure of every set."""
    return {
        each: {
            name: [float(f([row[each][name] for row in rows])) for f in (np.mean, np.std)] for name in rows[0][each]
        }
        for each in rows[0]
    }


def draw_maps(sets: dict[str, Cached], maps: dict[str, list[np.ndarray]]) -> Image.Image:
    """Put photographs, their truth and every variant's maps side by side, in the order of `shown`."""
    rows = []
    for place, (cached, number) in enumerate(shown(sets)):
        photograph = Image.fromarray((cached.batch.images[number] * 255).byte().permute(1, 2, 0).numpy())
        cells = [photograph, heat_map(cached.batch.masks[number].numpy().astype(float))]
        cells += [heat_map(each[place]) for each in maps.values()]
        rows.append(np.concatenate([np.asarray(cell.resize((160, 160))) for cell in cells], axis=1))
    return Image.fromarray(np.concatenate(rows))


def shown(sets: dict[str, Cached]) -> list[tuple[Cached, int]]:
    """Return a few defective images of each set, evenly spread over it."""
    chosen = []
    for cached in sets.values():
        defective = cached.batch.masks.flatten(1).any(1).nonzero()[:, 0].tolist()
        chosen += [(cached, defective[len(defective) * place // SHOWN]) for place in range(SHOWN)]
    return chosen


def ablate_umci(bench: Bench, arguments: argparse.Namespace) -> dict[str, Any]:
    """Train and measure every variant of UMCI; the similarity localizer and the checkpoint's own UMCI beside them."""
    texts = UmciBatches(bench.model, bench.processor.tokenizer, bench.training, UmciSettings())
    seen = bench.training.batch(40_000_000, first=0, count=arguments.num_training_images, size=arguments.size)
    cached, sets, pairs = bench.cache(seen), bench.sets(), two_kinds(bench)

    def figures(model: ClipSamForAnomalySegmentation, changes: dict[str, Any]) -> Figures:
        constant = changes.get("constant_text")
        rows = {
            name: measure(model, each, texts.constant()[None] if constant else bench.texts(each.class_name))
            for name, each in sets.items()
        }
        return rows if constant else {**rows, "two kinds": measure_steering(model, pairs, texts.naming)}

    results: dict[str, Any] = {
        "similarity": figures(build_similarity(bench.model), {}),
        "the checkpoint's UMCI": figures(bench.model, {}),
    }
    print(json.dumps(results), flush=True)
    options: dict[str, Any] = {
        "num_steps": arguments.num_steps,
        "count": arguments.batch_size,
        "learning_rate": arguments.learning_rate,
    }
    maps: dict[str, list[np.ndarray]] = {}
    for name in arguments.variants or UMCI_VARIANTS:
        changes, rows = UMCI_VARIANTS[name], []
        for seed in range(arguments.num_seeds):
            model = train_variant(bench, texts, cached, changes, seed=seed, **options)
            rows.append(figures(model, changes))
            print(name, seed, json.dumps(rows[-1]), flush=True)
        results[name] = summarise(rows)
        with torch.inference_mode():
            for each, number in shown(sets):
                pair = texts.constant()[None] if changes.get("constant_text") else bench.texts(each.class_name)
                output = model(feature_maps=each.rows([number]), text_embeds=pair)
                maps.setdefault(name, []).append(output.rough_anomaly_map[0].numpy())
    draw_maps(sets, maps).save(arguments.output_dir / "umci.png")
    return results


def ablate_words(bench: Bench, arguments: argparse.Namespace) -> dict[str, Any]:
    """Measure the rough map with other class names and meaningless texts, and how well the name of a kind steers."""
    texts = UmciBatches(bench.model, bench.processor.tokenizer, bench.training, UmciSettings())
    images = two_kinds(bench)
    results: dict[str, Any] = {
        "two kinds": {
            f"{localizer}, {against}": measure_steering(model, images, naming)
            for localizer, model in (("similarity", build_similarity(bench.model)), ("UMCI", bench.model))
            for against, naming in (("against normal", texts.naming), ("against other kinds", texts.against_others))
        }
    }
    print("two kinds", json.dumps(results["two kinds"]), flush=True)
    sets = bench.sets()
    names = [each.class_name for each in sets.values() if each.class_name != "object"]
    for name, each in sets.items():
        wrong = next(other for other in [*names, "candle"] if other != each.class_name)
        pairs = embed_texts(bench.inference, each.class_name)
        results[name] = {
            f"right: {each.class_name}": measure(bench.model, each, pairs[""]),
            f"wrong: {wrong}": measure(bench.model, each, bench.texts(wrong)),
            "absent: object": measure(bench.model, each, bench.texts("object")),
            "both texts normal": measure(bench.model, each, pairs[", both texts normal"]),
            "unrelated texts": measure(bench.model, each, pairs[", unrelated texts"]),
        }
        print(name, json.dumps(results[name]), flush=True)
    return results
