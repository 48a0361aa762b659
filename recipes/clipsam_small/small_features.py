# SPDX-FileCopyrightText: 2026 The clipsam_hf authors
# SPDX-License-Identifier: Apache-2.0
"""
What the frozen tower makes of generated scenes, computed once and kept on the disk: hours of training become minutes.

Scenes lie in files of `CHUNK` each, which are there whole or not at all, so that a build can be interrupted and
lengthened.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save
from small_scenes import Scenes
from torch import Tensor
from transformers import CLIPVisionModel
from transformers.image_utils import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

from clipsam_hf.files import open_atomically


__all__ = ["CHUNK", "LAYERS", "CachedScenes", "SceneCache", "build_cache", "compute_features"]

LAYERS = (3, 6, 9)
"""Blocks of the tower whose outputs are kept for training, counted from 1."""
CHUNK = 32
"""Scenes in a file."""
SETTINGS_NAME = "scenes.json"


class CachedScenes(NamedTuple):
    """
    Some scenes and the tower's states.

    Args:
        features: (count, blocks, channels, height, width) float16.
        kinds: See [`Scenes`].
        words: What each shows.
    """

    features: Tensor
    kinds: Tensor
    words: list[str]


@torch.no_grad()
def compute_features(vision: CLIPVisionModel, images: Tensor, layers: Sequence[int]) -> Tensor:
    """
    Return the outputs of some blocks.

    Args:
        vision: The tower.
        images: (count, 3, height, width) float32 in [0, 1].
        layers: The blocks, counted from 1.

    Returns:
        (count, blocks, channels, grid height, grid width) float16.
    """
    mean, std = (torch.tensor(each).view(3, 1, 1) for each in (IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD))
    states = vision((images - mean) / std, interpolate_pos_encoding=True, output_hidden_states=True).hidden_states
    side: Any = vision.config.patch_size
    grid = (images.shape[2] // side, images.shape[3] // side)
    stacked = torch.stack([states[layer][:, 1:] for layer in layers], 1)  # (count, blocks, tokens, channels)
    return stacked.transpose(2, 3).unflatten(3, grid).half()


def build_cache(
    folder: Path,
    compute: Callable[[Tensor], Tensor],
    draw: Callable[[int, int], Scenes],
    num_scenes: int,
    *,
    about: Mapping[str, Any],
) -> None:
    """
    Compute the features of scenes that are not there yet.

    Args:
        folder: Of the files.
        compute: From images to their features, such as [`compute_features`].
        draw: From the number of the first scene and their count to the scenes.
        num_scenes: Number of all scenes; of a later build it may be larger.
        about: What scenes and features depend on, as JSON values.

    Raises:
        ValueError: If the folder holds other scenes.
    """
    folder.mkdir(parents=True, exist_ok=True)
    wanted = dict(about)
    settings = folder / SETTINGS_NAME
    if settings.exists() and json.loads(settings.read_text()) != wanted:
        raise ValueError(f"The scenes in {folder} were made otherwise: {settings.read_text()}; asked for is {wanted}.")
    settings.write_text(json.dumps(wanted))
    for first in range(0, num_scenes, CHUNK):
        path = folder / f"scenes-{first // CHUNK:05d}.safetensors"
        if path.exists():
            continue
        scenes = draw(first, min(CHUNK, num_scenes - first))
        features = torch.cat([compute(images) for images in scenes.images.split(4)])
        tensors = {"features": features, "kinds": scenes.kinds}
        with open_atomically(path) as file:
            file.write(save(tensors, {"words": json.dumps(scenes.words)}))
        print(f"{folder.name}: {first + len(scenes.words)} of {num_scenes}", flush=True)


class SceneCache:
    """
    The scenes of a folder, read from the disk as they are needed.

    Args:
        folder: What [`build_cache`] has filled.
        leave_out: No scene that shows one of these words is used.
        blocks: Which of the kept blocks are read; by default all.

    Raises:
        FileNotFoundError: If there is none.
    """

    def __init__(self, folder: Path, *, leave_out: Sequence[str] = (), blocks: slice = slice(None)) -> None:
        self.blocks = blocks
        self.files = [safe_open(path, framework="pt") for path in sorted(folder.glob("scenes-*.safetensors"))]
        words = [json.loads(file.metadata()["words"]) for file in self.files]
        self.places = [
            (number, row)
            for number, named in enumerate(words)
            for row, name in enumerate(named)
            if name not in leave_out
        ]
        if not self.places:
            raise FileNotFoundError(f"{folder} holds no scenes: run the stage `scenes`.")
        self.words = [words[number][row] for number, row in self.places]

    def __len__(self) -> int:
        return len(self.places)

    def take(self, numbers: Sequence[int]) -> CachedScenes:
        """Return some scenes, features in float32."""
        rows = [(self.files[number], row) for number, row in (self.places[each] for each in numbers)]
        features = torch.cat([file.get_slice("features")[row : row + 1, self.blocks].float() for file, row in rows])
        kinds = torch.cat([file.get_slice("kinds")[row : row + 1] for file, row in rows])
        return CachedScenes(features, kinds, [self.words[each] for each in numbers])

    def draw(self, rng: np.random.Generator, count: int) -> CachedScenes:
        """Return some random scenes."""
        return self.take(rng.choice(len(self), count, replace=False).tolist())
