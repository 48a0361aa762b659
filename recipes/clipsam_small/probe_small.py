# SPDX-FileCopyrightText: 2026 The clipsam_hf authors
# SPDX-License-Identifier: Apache-2.0
"""
What a linear head can tell from the frozen features: a closed-form discriminant, for each set trained on all others.

    python recipes/clipsam_small/probe_small.py --output_dir runs/small --sets cookie --sets ball_screw --sets road

A row says how the features were normalised before: not at all, each token over its channels, or by the image's own
mean (and deviation) of each channel.
"""

import argparse
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from small_features import SceneCache
from torch import Tensor
from torch.nn import functional as F

from clipsam_hf.metrics import AnomalyMetrics


__all__ = ["NORMALISATIONS", "SIDE", "Discriminant", "add_map", "main"]

CHANNELS = 384
"""Of the tower's states; those after them are empty."""
SIDE = 256
"""Side of the square in which maps and masks are compared."""
# Of a patch's pixels: above it is a defect, and none of it is good
LEAST_COVER = 0.25


def by_token(features: Tensor) -> Tensor:
    """Normalise each token over its channels."""
    return F.layer_norm(features, features.shape[-1:])


def by_image(features: Tensor) -> Tensor:
    """Normalise each token, then take off the image's mean of each channel."""
    tokens = by_token(features)
    return tokens - tokens.mean(-2, keepdim=True)


def by_image_scaled(features: Tensor) -> Tensor:
    """Do the same, then divide by the image's deviation of each channel."""
    centred = by_image(features)
    return centred / (centred.std(-2, keepdim=True) + 0.1)


NORMALISATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "none": lambda features: features,
    "token": by_token,
    "image": by_image,
    "image, scaled": by_image_scaled,
}


def read_tokens(
    caches: Sequence[SceneCache], blocks: Sequence[int], normalise: Callable[[Tensor], Tensor], every: int = 1
) -> Iterator[tuple[Tensor, Tensor]]:
    """Give for each image its tokens (tokens, blocks * channels) and the masks of its defects (size, size)."""
    for cache in caches:
        for number in range(0, len(cache), every):
            scene = cache.take([number])
            chosen = (
                scene.features[0, list(blocks), :CHANNELS].flatten(2).transpose(1, 2)
            )  # (blocks, tokens, channels)
            yield normalise(chosen).transpose(0, 1).flatten(1), scene.kinds[0] > 0


class Discriminant:
    """
    Fisher's linear discriminant of good and defective patches, of means and covariances that are summed up.

    Args:
        width: Number of features.
        ridge: Share of the mean variance that is added to the covariance's diagonal.
    """

    def __init__(self, width: int, ridge: float = 0.1) -> None:
        self.counts = torch.zeros(2, dtype=torch.double)
        self.sums = torch.zeros(2, width, dtype=torch.double)
        self.squares = torch.zeros(2, width, width, dtype=torch.double)
        self.ridge = ridge

    def update(self, tokens: Tensor, mask: Tensor) -> None:
        """Add an image's tokens (tokens, width), with the mask of its defects (size, size)."""
        grid = round(len(tokens) ** 0.5)
        cover = F.adaptive_avg_pool2d(mask[None, None].float(), grid).flatten()
        for label, chosen in enumerate((cover == 0, cover > LEAST_COVER)):
            of_class = tokens[chosen]
            self.counts[label] += len(of_class)
            self.sums[label] += of_class.sum(0)
            self.squares[label] += of_class.T @ of_class

    def solve(self) -> tuple[Tensor, float]:
        """Return the direction (width,), along which the good have a deviation of 1, and their mean along it."""
        means = self.sums / self.counts[:, None]
        scatter = self.squares / self.counts[:, None, None] - means[:, :, None] * means[:, None]
        within = scatter.mean(0)
        within += self.ridge * within.diagonal().mean() * torch.eye(len(within), dtype=torch.double)
        direction = torch.linalg.solve(within, means[1] - means[0])
        direction /= (direction @ scatter[0] @ direction).sqrt()
        return direction.float(), float(direction @ means[0])


def add_map(metrics: AnomalyMetrics, anomaly_map: Tensor, mask: Tensor, *, score: float) -> None:
    """Add a map (SIDE, SIDE) and its image's score to the figures, with the mask of the defects (size, size)."""
    truth = F.interpolate(mask[None, None].float(), (SIDE, SIDE), mode="nearest")[0, 0] > 0
    metrics.update(anomaly_map.numpy(), truth.numpy(), "all", image_score=score, label=bool(mask.any()))


def measure(images: Iterator[tuple[Tensor, Tensor]], direction: Tensor, mean: float) -> dict[str, float]:
    """Return the figures of the maps that a direction makes."""
    metrics = AnomalyMetrics()
    for tokens, mask in images:
        grid = round(len(tokens) ** 0.5)
        # three deviations above the good are a half, as with references
        values = (tokens @ direction - mean - 3).view(1, 1, grid, grid)
        anomaly_map = F.interpolate(values, (SIDE, SIDE), mode="bilinear")[0, 0].sigmoid()
        add_map(metrics, anomaly_map, mask, score=float(anomaly_map.flatten().topk(65).values.mean()))
    return metrics.compute()["mean"]


def parse_args(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output_dir", type=Path, required=True, help="that of train_small.py")
    parser.add_argument("--sets", action="append", required=True, help="name of a set in photographs; may be repeated")
    parser.add_argument("--blocks", type=int, nargs="+", default=[2], help="which of the kept blocks, from 0")
    parser.add_argument("--no_scenes", action="store_true", help="train on the other sets alone")
    parser.add_argument("--ridge", type=float, default=0.1)
    parser.add_argument("--num_threads", type=int, default=1)
    return parser.parse_args(arguments)


@torch.no_grad()
def main() -> None:
    """Print a line for each normalisation and set."""
    arguments = parse_args()
    torch.set_num_threads(arguments.num_threads)
    folder, names = arguments.output_dir, arguments.sets
    photographs = {name: SceneCache(folder / "photographs" / name) for name in names}
    for name, cache in photographs.items():
        others = [other for other_name, other in photographs.items() if other_name != name]
        if not arguments.no_scenes:
            others.append(SceneCache(folder / "scenes", leave_out=sorted(set(cache.words))))
        for label, normalise in NORMALISATIONS.items():
            discriminant = Discriminant(len(arguments.blocks) * CHANNELS, arguments.ridge)
            for tokens, mask in read_tokens(others, arguments.blocks, normalise):
                discriminant.update(tokens, mask)
            figures = measure(read_tokens([cache], arguments.blocks, normalise), *discriminant.solve())
            row = " ".join(f"{key} {100 * value:.1f}" for key, value in figures.items() if not np.isnan(value))
            print(f"{name} | {label} | {row}", flush=True)


if __name__ == "__main__":
    main()
