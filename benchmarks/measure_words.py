# SPDX-FileCopyrightText: 2026 The clipsam_hf authors
# SPDX-License-Identifier: Apache-2.0
"""How much the name of the object changes the image score: paraphrases, plurals, typos, other words.

    python benchmarks/measure_words.py cookie --names cookie cookies biscuit cokie --references 8

Prints, for texts alone and with references, each name's mean score on good and on defective photographs and its image
AUROC; and the standard deviation of a photograph's score over the names, beside that between photographs.
"""

import argparse
from collections.abc import Sequence

import numpy as np
import torch
from scipy.stats import mannwhitneyu

from clipsam_hf import EMBEDDED_CHECKPOINT, ClipSamForAnomalySegmentation, ClipSamProcessor
from clipsam_hf.data import AnomalyFolder
from clipsam_hf.inference_clipsam import ClipSamInference
from clipsam_hf.patches_clipsam import describe_photographs, mix_maps
from clipsam_hf.references_clipsam import ClipSamReferences


NAMES = [
    "cookie",
    "cookies",
    "a cookie",
    "Cookie",
    "cokie",
    "biscuit",
    "chocolate cookie",
    "cookie 😀",
    "food",
    "object",
]


@torch.no_grad()
def score(
    inference: ClipSamInference,
    photographs: AnomalyFolder,
    places: Sequence[int],
    names: Sequence[str],
    references: object,
) -> dict[str, np.ndarray]:
    """Scores of the rough maps, (num_names, num_photographs), by protocol."""
    model = inference.model
    scores: dict[str, list[list[float]]] = {"texts alone": [], "with references": []}
    for place in places:
        prepared = inference.prepare(photographs[place].load_image(), refine=False)
        pixels = prepared.inputs["pixel_values"]
        patches, _ = describe_photographs(model, pixels)
        compared = references.compare(patches, pixels.shape[-2:]) if references else None
        features = model.get_feature_maps(pixels)
        rows: dict[str, list[float]] = {"texts alone": [], "with references": []}
        for name in names:
            rough = model(feature_maps=features, text_embeds=inference.embed(name)).rough_anomaly_map
            rows["texts alone"].append(model.score(rough).item())
            if compared is not None:
                rows["with references"].append(model.score(mix_maps(compared, rough, references.text_weight)).item())
        for protocol, row in rows.items():
            scores[protocol].append(row)
    return {protocol: np.array(found).T for protocol, found in scores.items() if found[0]}


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root", help="folder of a data set")
    parser.add_argument("--names", nargs="+", default=NAMES, help="words for what it shows")
    parser.add_argument("--references", type=int, default=8, help="good photographs to compare with; 0 for none")
    parser.add_argument("--seed", type=int, default=0, help="of their draw")
    parser.add_argument("--model", default=str(EMBEDDED_CHECKPOINT), help="folder or repository")
    options = parser.parse_args()
    model = ClipSamForAnomalySegmentation.from_pretrained(options.model).eval()
    inference = ClipSamInference(model, ClipSamProcessor.from_pretrained(options.model))
    photographs = AnomalyFolder(options.root, split=None)
    good = [place for place, sample in enumerate(photographs) if sample.label == 0]
    drawn = sorted(np.random.default_rng(options.seed).choice(good, options.references, replace=False)) if good else []
    references = None
    if drawn:
        images = [photographs[place].load_image() for place in drawn]
        references = ClipSamReferences.from_images(model, inference.processor, images)
    places = [place for place in range(len(photographs)) if place not in drawn]
    labels = np.array([photographs[place].label for place in places], dtype=bool)

    for protocol, scores in score(inference, photographs, places, options.names, references).items():
        print(f"| {protocol} | good | defective | image AUROC |\n|---|---:|---:|---:|")
        for name, row in zip(options.names, scores, strict=True):
            auroc = mannwhitneyu(row[labels], row[~labels]).statistic / max(labels.sum() * (~labels).sum(), 1)
            print(f"| {name} | {row[~labels].mean():.3f} | {row[labels].mean():.3f} | {100 * auroc:.1f} |")
        within, between = scores.std(axis=0), scores.mean(axis=0).std()
        print(f"\na photograph's score over the names: standard deviation {within.mean():.3f}", end=" ")
        print(f"(good {within[~labels].mean():.3f}, defective {within[labels].mean():.3f});", end=" ")
        print(f"between photographs {between:.3f}\n", flush=True)


if __name__ == "__main__":
    main()
