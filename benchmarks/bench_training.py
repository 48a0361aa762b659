# SPDX-FileCopyrightText: 2026 The clipsam_hf authors
# SPDX-License-Identifier: Apache-2.0
"""Times a training step on cached features against one that computes them, and compares the losses of both runs.

CLIP ViT-L/14 at 336 px with random weights, UMCI of the default width, batches of 8. Two copies of one head are
trained on the same batches, step by step in turns: one on the pixels, one on the cache. A step gets the features (by
CLIP's forward pass, or from the cache), runs UMCI forward and backward, and AdamW. Photographs are decoded
beforehand, in favour of the computed features. On the CPU printed are medians of CPU time, on one thread.

    python benchmarks/bench_training.py [--repeats 5] [--batch-size 8] [--images 16] [--device cpu] [--tiny]
"""

import argparse
import copy
import statistics
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor, nn
from transformers import CLIPConfig, CLIPImageProcessorPil, CLIPTokenizer, SamConfig, SamImageProcessorPil

from clipsam_hf.configuration_clipsam import CLIP_LARGE_336, ClipSamConfig
from clipsam_hf.data import AnomalySample
from clipsam_hf.modeling_clipsam import ClipSamForAnomalySegmentation
from clipsam_hf.processing_clipsam import ClipSamProcessor
from clipsam_hf.training.batches import TrainingBatches
from clipsam_hf.training.features import FeatureCache
from clipsam_hf.training.views import TrainingImages


WHAT = {"computed": "features computed in every step", "cached": "features from the cache"}
LOSS_LIMIT = 0.01

# The text tower, which no step needs, has one layer
CLIP_LARGE = {**CLIP_LARGE_336, "text_config": {**CLIP_LARGE_336["text_config"], "num_hidden_layers": 1}}
CLIP_TINY: dict[str, Any] = {
    "vision_config": {
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "image_size": 56,
        "patch_size": 14,
    },
    "text_config": {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4},
    "projection_dim": 32,
}
# SAM takes no part in training
SAM_TINY: dict[str, Any] = {
    "vision_config": {
        "hidden_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 4,
        "image_size": 64,
        "patch_size": 16,
        "num_pos_feats": 16,
        "output_channels": 32,
        "mlp_dim": 64,
        "global_attn_indexes": [0],
    },
    "prompt_encoder_config": {"hidden_size": 32, "image_size": 64, "patch_size": 16},
    "mask_decoder_config": {"hidden_size": 32, "mlp_dim": 64, "num_attention_heads": 4, "iou_head_hidden_dim": 32},
}


def build_model(*, tiny: bool) -> ClipSamForAnomalySegmentation:
    """The whole model with random weights; UMCI has its default width unless it is tiny."""
    torch.manual_seed(0)
    clip = CLIP_TINY if tiny else CLIP_LARGE
    small: dict[str, Any] = {"feature_layers": (1, 2, 3, 4), "umci_hidden_size": 32, "scale_sizes": (2, 3)}
    config = ClipSamConfig(
        clip_config=CLIPConfig(**clip),
        sam_config=SamConfig(**SAM_TINY),
        image_size=clip["vision_config"]["image_size"],
        **(small if tiny else {}),
    )
    return ClipSamForAnomalySegmentation(config).train()


def build_images(count: int, size: int) -> TrainingImages:
    """Smooth noise in colour; three in four have a dark ellipse, which is the defect."""
    generator = np.random.default_rng(0)
    samples = []
    for number in range(count):
        coarse = Image.fromarray(generator.integers(60, 220, (12, 12, 3), dtype=np.uint8))
        image, mask = coarse.resize((size, size), Image.Resampling.BICUBIC), Image.new("L", (size, size))
        if number % 4:
            x, y, width, height = (generator.uniform(0.1, 0.4, 4) * size).tolist()
            box = (x, y, x + width, y + height)
            ImageDraw.Draw(image).ellipse(box, fill=(20, 10, 10))
            ImageDraw.Draw(mask).ellipse(box, fill=255)
        words: dict[str, Any] = {"category": "texture", "class_name": "texture", "defect_type": None, "split": "test"}
        samples.append(
            AnomalySample(Path(f"{number}.png"), None, int(number % 4 > 0), **words, image=image, mask=mask)
        )
    processor = ClipSamProcessor(
        CLIPImageProcessorPil(size={"height": size, "width": size}, do_center_crop=False),
        SamImageProcessorPil(),
        CLIPTokenizer(vocab={"<|startoftext|>": 0, "<|endoftext|>": 1}, merges=[]),
    )
    return TrainingImages(samples, processor)


class Contestant:
    """One copy of the head with its optimiser, and where it gets its features from."""

    def __init__(self, model: ClipSamForAnomalySegmentation, batches: TrainingBatches) -> None:
        self.model, self.batches = model, batches
        self.head = copy.deepcopy(model.umci)
        self.optimizer = torch.optim.AdamW(self.head.parameters(), lr=1e-4)
        self.losses: list[float] = []
        self.seconds: list[float] = []

    def step(self, number: int) -> None:
        """Run one step and take its time, in which the cache is read, but no photograph."""
        places = self.batches.places(number)
        decoded = self.batches.collate(places) if self.batches.cache is None else None
        start = read_clock(self.model.device)
        self.losses.append(self._train(decoded or self.batches.collate(places)))
        self.seconds.append(read_clock(self.model.device) - start)

    def _train(self, inputs: Mapping[str, Any]) -> float:
        self.model.umci = self.head
        loss = self.model(**{name: to_device(value, self.model.device) for name, value in inputs.items()}).loss
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self.head.parameters(), 1.0)
        self.optimizer.step()
        return loss.item()


def to_device(value: Tensor | tuple[Tensor, ...], device: torch.device) -> Any:
    return tuple(each.to(device) for each in value) if isinstance(value, tuple) else value.to(device)


def read_clock(device: torch.device) -> float:
    """CPU time, which other work on the machine disturbs little; beside a GPU, time."""
    if device.type == "cpu":
        return time.process_time()
    torch.cuda.synchronize(device)
    return time.perf_counter()


def print_results(contestants: Mapping[str, Contestant], unit: str) -> None:
    """Medians of all steps but the first, their ratio, and how far the losses are apart."""
    medians = {name: statistics.median(each.seconds[1:]) for name, each in contestants.items()}
    print(f"| what | {unit} a step | fastest | slowest | times cached | steps |")
    print("|---|---|---|---|---|---|")
    for name, median in medians.items():
        timed = contestants[name].seconds[1:]
        ratio = f"{median / medians['cached']:.1f}"
        cells = (WHAT[name], *(f"{value:.3f}" for value in (median, min(timed), max(timed))), ratio, str(len(timed)))
        print(f"| {' | '.join(cells)} |")
    computed, cached = (contestants[name].losses for name in WHAT)
    difference = abs(cached[-1] / computed[-1] - 1)
    verdict = "within" if difference <= LOSS_LIMIT else "ABOVE"
    print(
        f"Loss at step {len(cached)}: {computed[-1]:.6f} computed, {cached[-1]:.6f} cached (both began at"
        f" {computed[0]:.4f}); {100 * difference:.4f} % apart, {verdict} the limit of {100 * LOSS_LIMIT:g} %"
    )


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="A training step on cached features against computed ones.")
    parser.add_argument("--repeats", type=int, default=5, help="timed steps of each; one more comes before them")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--images", type=int, default=16)
    parser.add_argument("--threads", type=int, default=1, help="of the CPU")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--tiny", action="store_true", help="a small CLIP, to try the benchmark itself")
    options = parser.parse_args(arguments)
    if min(options.repeats, options.batch_size, options.images, options.threads) < 1:
        parser.error("all numbers must be positive")

    torch.set_num_threads(options.threads)
    model = build_model(tiny=options.tiny).to(options.device)
    images = build_images(options.images, model.config.image_size)
    text_embeds = nn.functional.normalize(torch.randn(2, model.config.clip_config.projection_dim), dim=-1)
    with tempfile.TemporaryDirectory() as folder:
        start = read_clock(model.device)
        cache = FeatureCache.build(folder, model, images, batch_size=options.batch_size)
        seconds = (read_clock(model.device) - start) / len(images)
        unit = "CPU s" if model.device.type == "cpu" else "s"
        megabytes = sum(path.stat().st_size for path in Path(folder).iterdir()) / len(images) / 2**20
        print(f"Caching took {seconds:.3f} {unit} and {megabytes:.2f} MiB an image")

        common: dict[str, Any] = {"text_embeds": {"texture": text_embeds}, "batch_size": options.batch_size}
        contestants = {
            "computed": Contestant(model, TrainingBatches(images, **common)),
            "cached": Contestant(model, TrainingBatches(images, **common, cache=cache)),
        }
        for number in range(options.repeats + 1):
            for contestant in contestants.values():
                contestant.step(number)
    print_results(contestants, unit)


if __name__ == "__main__":
    main()
