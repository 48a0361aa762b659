# SPDX-FileCopyrightText: 2026 The clipsam_hf authors
# SPDX-License-Identifier: Apache-2.0
"""
Measure a finished checkpoint on the held-out generated set, beside floors that need no training.

    python recipes/clipsam_tiny/evaluate_tiny.py --num_threads 2

Nothing is chosen on this set, except the best window of each floor, which favours the floors.
"""

import argparse
import json
import platform
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from floors import FLOORS
from sklearn.metrics import average_precision_score, precision_recall_curve, roc_auc_score
from synthetic import Sample
from synthetic_heldout import CHECKSUM, NUM_IMAGES, SEED, SIZE, checksum, heldout_images
from torch.nn import functional as F

from clipsam_hf import EMBEDDED_CHECKPOINT
from clipsam_hf.configuration_clipsam import ClipSamConfig
from clipsam_hf.modeling_clipsam import ClipSamForAnomalySegmentation
from clipsam_hf.processing_clipsam import ClipSamProcessor


__all__ = ["Scores", "build_similarity", "embed_texts", "main"]

CHECKPOINT = EMBEDDED_CHECKPOINT
CLASS_NAME = "object"
LEVELS = 65_536
LARGEST_LOGIT = 28.0
TENSORS: Any = {"return_tensors": "pt"}
UNRELATED = (
    ["the parliament votes on tuesday", "she reads a novel in the garden", "two horses gallop over the hill"],
    ["an orchestra tunes its violins", "the baker opens before sunrise", "we sailed to a distant island"],
)


class Scores:
    """
    Pixel and image figures of one method, by scikit-learn, over all pixels of all images together.

    The logits of the maps are rounded to 65536 levels, so that the pixels can be counted level by level: scikit-learn
    gets each level once for either class, weighted by its number of pixels.

    Args:
        threshold: For "F1 at threshold"; a pixel above it is marked.
    """

    def __init__(self, threshold: float | None = None) -> None:
        self.threshold = threshold
        self.hits = np.zeros(3, np.int64)
        self.counts = np.zeros((2, LEVELS), np.int64)
        self.image_scores: list[float] = []
        self.image_truth: list[bool] = []

    def update(self, anomaly_map: np.ndarray, mask: np.ndarray, score: float | None = None) -> None:
        """Add one image: its (height, width) map in [0, 1], its truth, and its score (the mean of its top 0.1 %)."""
        # the logit, so that the order among very small values counts as well
        values = np.clip(anomaly_map.astype(float), 1e-12, 1 - 1e-7)
        logit = np.clip(np.log(values / (1 - values)) / LARGEST_LOGIT, -1, 1)
        levels = np.round((logit + 1) / 2 * (LEVELS - 1)).astype(np.int64)
        for truth in (0, 1):
            self.counts[truth] += np.bincount(levels[mask == truth], minlength=LEVELS)
        if self.threshold is not None:
            marked = anomaly_map > self.threshold
            self.hits += np.array(((marked & mask).sum(), marked.sum(), mask.sum()))
        top = np.sort(anomaly_map.ravel())[-max(1, anomaly_map.size // 1000) :]
        self.image_scores.append(float(top.mean()) if score is None else score)
        self.image_truth.append(bool(mask.any()))

    def compute(self) -> dict[str, float]:
        """Return pixel AUROC, AP and F1-max, image AUROC, and F1 at the threshold (NaN without one), in [0, 1]."""
        both, marked, real = self.hits.tolist()
        at_threshold = 2 * both / max(marked + real, 1) if self.threshold is not None else float("nan")
        truth = np.repeat((0, 1), LEVELS)
        score = np.tile(np.arange(LEVELS), 2)
        used = self.counts.ravel() > 0
        truth, score, weight = truth[used], score[used], self.counts.ravel()[used]
        precision, recall, _ = precision_recall_curve(truth, score, sample_weight=weight)
        return {
            "pixel AUROC": float(roc_auc_score(truth, score, sample_weight=weight)),
            "pixel AP": float(average_precision_score(truth, score, sample_weight=weight)),
            "pixel F1-max": float((2 * precision * recall / np.maximum(precision + recall, 1e-12)).max()),
            "image AUROC": float(roc_auc_score(self.image_truth, self.image_scores)),
            "F1 at threshold": float(at_threshold),
        }


def measure_floors(samples: list[Sample]) -> dict[str, dict[str, float]]:
    """Return the figures of the floors; of the local contrasts only those of the one with the best AP."""
    table = {}
    for name, floor in FLOORS.items():
        scores = Scores()
        for sample in samples:
            scores.update(floor(sample.image.astype(np.float32) / 255), sample.mask)
        table[name] = scores.compute()
    contrasts = {name: row for name, row in table.items() if name.startswith("local")}
    best = max(contrasts, key=lambda name: contrasts[name]["pixel AP"])
    return {name: row for name, row in table.items() if name == best or name not in contrasts}


def build_similarity(model: ClipSamForAnomalySegmentation) -> ClipSamForAnomalySegmentation:
    """Return a model with the same backbones that localises without UMCI."""
    fields = {**model.config.to_dict(), "localizer": "similarity"}
    similarity = ClipSamForAnomalySegmentation(ClipSamConfig.from_dict(fields))
    similarity.clip, similarity.sam = model.clip, model.sam
    return similarity.eval()


def embed_texts(
    model: ClipSamForAnomalySegmentation, processor: ClipSamProcessor, class_name: str
) -> dict[str, torch.Tensor]:
    """Return the text pairs to compare: the real one, the normal text twice, and two unrelated texts."""
    inputs = processor(text=class_name, **TENSORS)
    real = model.get_text_embeddings(inputs["input_ids"], inputs["attention_mask"])
    tokens = processor.tokenizer([*UNRELATED[0], *UNRELATED[1]], padding=True, return_tensors="pt")
    shape = (1, 2, len(UNRELATED[0]), -1)
    unrelated = model.get_text_embeddings(tokens["input_ids"].view(shape), tokens["attention_mask"].view(shape))
    return {"": real, ", both texts normal": real[:, [0, 0]], ", unrelated texts": unrelated}


@torch.inference_mode()
def measure_model(
    model: ClipSamForAnomalySegmentation, processor: ClipSamProcessor, samples: Iterable[Sample]
) -> dict[str, dict[str, float]]:
    """Return the figures of the similarity localizer, the rough and the refined map, for every pair of texts."""
    similarity, pairs = build_similarity(model), embed_texts(model, processor, CLASS_NAME)
    table: dict[str, Scores] = {}
    for sample in samples:
        inputs = processor(images=sample.image, **TENSORS)
        pixels, size = inputs["pixel_values"], inputs["reshaped_input_sizes"]
        feature_maps = model.get_feature_maps(pixels)
        embeddings = model.get_image_embeddings(inputs["sam_pixel_values"])
        for suffix, texts in pairs.items():
            plain = similarity(feature_maps=feature_maps, text_embeds=texts)
            refined = model(
                feature_maps=feature_maps, text_embeds=texts, image_embeddings=embeddings, reshaped_input_sizes=size
            )
            rows = (
                ("similarity", plain.rough_anomaly_map, None),
                ("rough", refined.rough_anomaly_map, model.config.binarize_threshold),
                ("refined", refined.anomaly_map, model.config.mask_threshold),
            )
            for name, anomaly_map, threshold in rows:
                # maps are of CLIP's frame, which need not have the images' size
                full = F.interpolate(anomaly_map[None], sample.mask.shape, mode="bilinear", align_corners=False)
                table.setdefault(name + suffix, Scores(threshold)).update(full[0, 0].numpy(), sample.mask)
    return {name: scores.compute() for name, scores in table.items()}


@torch.inference_mode()
def seconds_per_photograph(model: ClipSamForAnomalySegmentation, processor: ClipSamProcessor) -> float:
    """Return the median time for a 640x480 photograph, texts included, over seven runs."""
    photograph = heldout_images().sample(0, size=448).image
    photograph = np.ascontiguousarray(np.pad(photograph, ((0, 32), (0, 192), (0, 0)), mode="reflect"))
    times = []
    for _ in range(7):
        begin = time.perf_counter()
        inputs = processor(images=photograph, text=CLASS_NAME, **TENSORS)
        sizes = inputs.pop("original_sizes")
        processor.post_process_anomaly_segmentation(model(**inputs), sizes)
        times.append(time.perf_counter() - begin)
    return float(np.median(times))


def to_markdown(table: dict[str, dict[str, float]]) -> str:
    """Write the rows as a Markdown table."""
    columns = list(next(iter(table.values())))
    lines = ["| map | " + " | ".join(columns) + " |", "|---|" + "---:|" * len(columns)]
    lines += [
        f"| {name} | " + " | ".join(f"{row[column]:.3f}".replace("nan", "") for column in columns) + " |"
        for name, row in table.items()
    ]
    return "\n".join(lines)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=CHECKPOINT, help="folder of the checkpoint")
    parser.add_argument("--num_images", type=int, default=NUM_IMAGES, help="fewer for a trial only")
    parser.add_argument("--num_threads", type=int, default=2)
    parser.add_argument("--output", type=Path, help="JSON file for the table")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.num_threads)

    images = heldout_images()
    samples = [images.sample(index) for index in range(arguments.num_images)]
    state = "as committed" if checksum(samples) == CHECKSUM else "NOT the committed one"
    print(f"{len(samples)} images of side {SIZE}, seed {SEED}, SHA-256 {state}\n")
    table = measure_floors(samples)
    model = ClipSamForAnomalySegmentation.from_pretrained(arguments.model)
    processor = ClipSamProcessor.from_pretrained(arguments.model)
    table.update(measure_model(model, processor, samples))
    print(to_markdown(table))
    if arguments.output is not None:
        arguments.output.write_text(json.dumps(table, indent=1))
    seconds = seconds_per_photograph(model, processor)
    print(f"\n{seconds:.2f} s for a 640x480 photograph on {arguments.num_threads} threads, {platform.machine()}")


if __name__ == "__main__":
    main()
