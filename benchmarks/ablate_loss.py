# SPDX-FileCopyrightText: 2026 The clipsam_hf authors
# SPDX-License-Identifier: Apache-2.0
"""Compares ways to train UMCI at equal cost: where the loss looks, and what the head gets of CLIP's features.

On the frozen CLIP of the embedded checkpoint new heads are trained on two sets of photographs and measured on a third,
or trained on every other photograph of all three and measured on the rest, which is easier and less noisy. Every
variant may use the same CPU seconds: its step is timed first, and it takes as many as fit. Features and labels lie in
memory, so that a step is the head's forward and backward pass, the loss and AdamW.

    python benchmarks/ablate_loss.py DATA [--folds halves] [--seconds 40] [--seeds 3] [--image-size 256]

DATA holds the folders `road`, `cookie` and `ball_screw`, each laid out as `meta`. The embedded CLIP has seen pieces of
photographs of all three: the figures compare the variants and say nothing about unseen sets.
"""

import argparse
import json
import statistics
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from clipsam_hf import EMBEDDED_CHECKPOINT
from clipsam_hf.configuration_clipsam import ClipSamConfig
from clipsam_hf.data import AnomalyFolder
from clipsam_hf.metrics import AnomalyMetrics
from clipsam_hf.modeling_clipsam import ClipSamForAnomalySegmentation
from clipsam_hf.processing_clipsam import ClipSamProcessor
from clipsam_hf.training import train_umci
from clipsam_hf.training.batches import draw_order
from clipsam_hf.training.views import TrainingImages


PLAIN = {"loss_resolution": "grid", "normalize_features": False, "scale_interpolation": "aligned"}
VARIANTS: dict[str, dict[str, Any]] = {
    "plain: loss on the grid, features as they are, aligned scales": PLAIN,
    "loss at the size of the image": {**PLAIN, "loss_resolution": "image"},
    "features normalised": {**PLAIN, "normalize_features": True},
    "loss at the size of the image, features normalised": {
        **PLAIN,
        "loss_resolution": "image",
        "normalize_features": True,
    },
    "stretched scales": {**PLAIN, "scale_interpolation": "stretched"},
}
SETS = ("ball_screw", "cookie", "road")
FOLDS = ("cookie", "ball_screw", "halves")
"""The set that is held out, or half of each."""
FIGURES = ("pixel_ap", "pixel_f1_max")
NUM_VIEWS = 4
"""The four flips."""


class Photographs:
    """A set in memory: CLIP's stages, labels and texts of all views.

    Args:
        folder: Of the set.
        model: Its CLIP computes the features.
        processor: Makes the pixels, at the size that is wanted.
        num_views: Views of each photograph.
    """

    def __init__(
        self, folder: Path, model: ClipSamForAnomalySegmentation, processor: ClipSamProcessor, num_views: int
    ) -> None:
        data = AnomalyFolder(folder, "meta")
        images = TrainingImages(data, processor, num_views=num_views)
        places = [(index, view) for view in range(num_views) for index in range(len(images))]
        stages, labels = [], []
        with torch.no_grad():
            for place in places:
                view = images.view(*place)
                stages.append([stage[0] for stage in model.get_feature_maps(view.pixel_values[None])])
                labels.append(view.labels)
            (name,) = images.class_names
            text = processor(text=name, return_tensors="pt")
            self.text = model.get_text_embeddings(text["input_ids"], text["attention_mask"])[0]
        self.name, self.num_images, self.num_views = folder.name, len(images), num_views
        # Per stage (views * images, hidden, grid height, grid width)
        self.stages = tuple(torch.stack(stage) for stage in zip(*stages, strict=True))
        self.labels = torch.stack(labels)  # (views * images, height, width)

    def rows(self, rows: Sequence[int]) -> dict[str, Any]:
        """The keyword arguments of the forward pass."""
        return {
            "feature_maps": tuple(stage[list(rows)] for stage in self.stages),
            "text_embeds": self.text.expand(len(rows), -1, -1),
            "labels": self.labels[list(rows)],
        }


def choose(fold: str, *, to_train: bool) -> dict[str, slice]:
    """Which photographs of which sets are trained on, or measured."""
    if fold == "halves":
        return dict.fromkeys(SETS, slice(0 if to_train else 1, None, 2))
    return {name: slice(None) for name in SETS if (name != fold) == to_train}


def make_batches(
    sets: Mapping[str, Photographs], chosen: Mapping[str, slice], batch_size: int, seed: int
) -> Callable[[int], dict[str, Any]]:
    """Batches of the chosen photographs, by their number: every epoch another order and another flip."""
    members = [(name, index) for name, part in chosen.items() for index in range(sets[name].num_images)[part]]

    def batch(number: int) -> dict[str, Any]:
        parts: list[dict[str, Any]] = []
        for place in range(number * batch_size, (number + 1) * batch_size):
            epoch, rank = divmod(place, len(members))
            name, index = members[int(draw_order(len(members), seed, epoch)[rank])]
            photographs = sets[name]
            parts.append(photographs.rows([index + (epoch % photographs.num_views) * photographs.num_images]))
        stages = zip(*(part["feature_maps"] for part in parts), strict=True)
        joined = {name: torch.cat([part[name] for part in parts]) for name in ("text_embeds", "labels")}
        return {"feature_maps": tuple(torch.cat(stage) for stage in stages), **joined}

    return batch


def build_model(settings: dict[str, Any], base: ClipSamForAnomalySegmentation, seed: int) -> Any:
    """The embedded networks with a new head."""
    torch.manual_seed(seed)
    config = ClipSamConfig.from_dict({**base.config.to_dict(), **settings})
    model = ClipSamForAnomalySegmentation(config)
    model.clip = base.clip  # frozen
    return model


def measure(
    model: ClipSamForAnomalySegmentation, sets: Mapping[str, Photographs], chosen: Mapping[str, slice]
) -> dict[str, float]:
    """Figures of the rough map in CLIP's frame, the mean over the sets."""
    metrics = AnomalyMetrics()
    model.eval()
    for name, part in chosen.items():
        for index in range(sets[name].num_images)[part]:
            with torch.no_grad():
                rough: Tensor = model(**sets[name].rows([index])).rough_anomaly_map[0]
            metrics.update(rough.numpy(), sets[name].labels[index].numpy(), name)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the images' figures, which two sets without good ones lack
        figures = metrics.compute()["mean"]
    return {name: 100 * figures[name] for name in FIGURES}


def time_step(model: ClipSamForAnomalySegmentation, batches: Callable[[int], dict[str, Any]], rate: float) -> float:
    """CPU seconds of a training step; the first two do not count."""
    train_umci(model, batches, num_steps=2, learning_rate=rate)
    start = time.process_time()
    train_umci(model, batches, num_steps=20, learning_rate=rate)
    return (time.process_time() - start) / 20


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="folder with road, cookie and ball_screw")
    parser.add_argument("--folds", nargs="+", choices=FOLDS, default=FOLDS)
    parser.add_argument("--seconds", type=float, default=40, help="CPU seconds of each training")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--image-size", type=int, default=256)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--output", type=Path, help="a JSON file for every single figure")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)

    base = ClipSamForAnomalySegmentation.from_pretrained(EMBEDDED_CHECKPOINT)
    processor: Any = ClipSamProcessor.from_pretrained(EMBEDDED_CHECKPOINT)
    processor.image_processor.size = {"height": options.image_size, "width": options.image_size}
    sets = {name: Photographs(options.data / name, base, processor, NUM_VIEWS) for name in SETS}

    rows, seconds = [], {}
    for variant, settings in VARIANTS.items():
        batches = make_batches(sets, choose("halves", to_train=True), options.batch_size, seed=0)
        seconds[variant] = time_step(build_model(settings, base, 0), batches, options.learning_rate)
        print(f"{variant}: {seconds[variant]:.3f} CPU s a step", flush=True)
    for seed in range(options.seeds):
        for fold in options.folds:
            for variant, settings in VARIANTS.items():
                num_steps = max(1, round(options.seconds / seconds[variant]))
                model = build_model(settings, base, seed)
                batches = make_batches(sets, choose(fold, to_train=True), options.batch_size, seed)
                start = time.process_time()
                train_umci(model, batches, num_steps=num_steps, learning_rate=options.learning_rate, warmup_steps=20)
                used = time.process_time() - start
                figures = measure(model, sets, choose(fold, to_train=False))
                rows.append(
                    {"variant": variant, "fold": fold, "seed": seed, "steps": num_steps, "seconds": used, **figures}
                )
                print(json.dumps(rows[-1]), flush=True)
    print_table(rows)
    if options.output is not None:
        options.output.write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")


def print_table(rows: Sequence[dict[str, Any]]) -> None:
    """Mean and standard deviation over the seeds, in percent."""
    folds = list(dict.fromkeys(row["fold"] for row in rows))
    columns = ["variant", "steps", "CPU s", *(f"{fold} {figure}" for fold in folds for figure in ("AP", "F1-max"))]
    print(f"\n| {' | '.join(columns)} |\n|{'---|' * len(columns)}")
    for variant in VARIANTS:
        mine = [row for row in rows if row["variant"] == variant]
        cells = [f"{mine[0]['steps']}", f"{statistics.mean(row['seconds'] for row in mine):.1f}"]
        for fold in folds:
            for figure in FIGURES:
                values = [row[figure] for row in mine if row["fold"] == fold]
                spread = statistics.stdev(values) if len(values) > 1 else 0.0
                cells.append(f"{statistics.mean(values):.1f} ± {spread:.1f}")
        print(f"| {variant} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
