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
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import torch
from floors import FLOORS
from synthetic import Sample
from synthetic_heldout import CHECKSUM, NUM_IMAGES, SEED, SIZE, checksum, heldout_images
from tiny_scores import Scores

from clipsam_hf import EMBEDDED_CHECKPOINT
from clipsam_hf.configuration_clipsam import ClipSamConfig
from clipsam_hf.inference_clipsam import ClipSamInference
from clipsam_hf.modeling_clipsam import ClipSamForAnomalySegmentation
from clipsam_hf.processing_clipsam import ClipSamProcessor


__all__ = ["FixedTexts", "build_similarity", "embed_texts", "main", "measure_model"]

CHECKPOINT = EMBEDDED_CHECKPOINT
CLASS_NAME = "object"
UNRELATED = (
    ["the parliament votes on tuesday", "she reads a novel in the garden", "two horses gallop over the hill"],
    ["an orchestra tunes its violins", "the baker opens before sunrise", "we sailed to a distant island"],
)


def measure_floors(samples: Sequence[Sample]) -> dict[str, dict[str, float]]:
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


class FixedTexts(ClipSamInference):
    """
    A model that is asked with given texts, whatever the class name.

    Args:
        model: The model.
        processor: Its processor.
        text_embeds: The texts, (1, 2, projection_dim).
    """

    def __init__(
        self, model: ClipSamForAnomalySegmentation, processor: ClipSamProcessor, text_embeds: torch.Tensor
    ) -> None:
        super().__init__(model, processor)
        self.text_embeds = text_embeds

    def embed(self, class_name: str) -> torch.Tensor:
        """Return the given texts."""
        return self.text_embeds


@torch.no_grad()
def embed_texts(inference: ClipSamInference, class_name: str) -> dict[str, torch.Tensor]:
    """Return the text pairs to compare: the real one, the normal text twice, and two unrelated texts."""
    real = inference.embed(class_name)
    tokens = inference.processor.tokenizer([*UNRELATED[0], *UNRELATED[1]], padding=True, return_tensors="pt")
    shape = (1, 2, len(UNRELATED[0]), -1)
    unrelated = inference.model.get_text_embeddings(
        tokens["input_ids"].view(shape), tokens["attention_mask"].view(shape)
    )
    return {"": real, ", both texts normal": real[:, [0, 0]], ", unrelated texts": unrelated}


def measure_model(
    model: ClipSamForAnomalySegmentation, processor: ClipSamProcessor, samples: Iterable[Sample]
) -> dict[str, dict[str, float]]:
    """Return the figures of the similarity localizer, the rough and the refined map, for every pair of texts."""
    inference = ClipSamInference(model, processor)
    similarity, pairs = build_similarity(model), embed_texts(inference, CLASS_NAME)
    table: dict[str, Scores] = {}
    for sample in samples:
        rough_alone, image = (inference.prepare(sample.image, CLASS_NAME, refine=refine) for refine in (False, True))
        image = image._replace(image_embeddings=inference.encode([image])[0])
        for suffix, texts in pairs.items():
            (plain,) = FixedTexts(similarity, processor, texts).predict([rough_alone])
            (refined,) = FixedTexts(model, processor, texts).predict([image])
            for name, anomaly_map, threshold in (
                ("similarity", plain.resized(), None),
                ("rough", refined.resized("rough_anomaly_map"), model.config.binarize_threshold),
                ("refined", refined.resized(), model.config.mask_threshold),
            ):
                table.setdefault(name + suffix, Scores(threshold)).update(anomaly_map, sample.mask)
    return {name: scores.compute() for name, scores in table.items()}


def seconds_per_photograph(model: ClipSamForAnomalySegmentation, processor: ClipSamProcessor) -> float:
    """Return the median time for a 640x480 photograph, texts included, over seven runs."""
    photograph = heldout_images().sample(0, size=448).image
    photograph = np.ascontiguousarray(np.pad(photograph, ((0, 32), (0, 192), (0, 0)), mode="reflect"))
    times = []
    for _ in range(7):
        begin = time.perf_counter()
        inference = ClipSamInference(model, processor)  # a new one remembers no texts
        (prediction,) = inference.predict([inference.prepare(photograph, CLASS_NAME)])
        prediction.resized()
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


def parse_args(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=CHECKPOINT, help="folder of the checkpoint")
    parser.add_argument("--num_images", type=int, default=NUM_IMAGES, help="fewer for a trial only")
    parser.add_argument("--num_threads", type=int, default=2)
    parser.add_argument("--output", type=Path, help="JSON file for the table")
    return parser.parse_args(arguments)


def main() -> None:
    """Print the table."""
    arguments = parse_args()
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
