# SPDX-FileCopyrightText: 2026 The clipsam_hf authors
# SPDX-License-Identifier: Apache-2.0
"""
What the frozen tower makes of generated scenes, computed once and kept on the disk: hours of training become minutes.

Scenes lie in files of `CHUNK` each, which are there whole or not at all, so that a build can be interrupted and
lengthened.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors.torch import load_file, save
from small_scenes import Surfaces, draw_scenes
from torch import Tensor
from transformers import CLIPVisionModel
from transformers.image_utils import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

from clipsam_hf.files import open_atomically


__all__ = ["CHUNK", "CachedScenes", "build_scenes", "compute_features", "read_scenes"]

CHUNK = 32
SETTINGS_NAME = "scenes.json"


class CachedScenes(NamedTuple):
    """
    Some scenes and the tower's states.

    Args:
        features: (count, blocks, channels, height, width) float16.
        kinds: (count, size, size) uint8, see [`Scenes`].
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
    side = vision.config.patch_size
    grid = (images.shape[2] // side, images.shape[3] // side)
    stacked = torch.stack([states[layer][:, 1:] for layer in layers], 1)  # (count, blocks, tokens, channels)
    return stacked.transpose(2, 3).unflatten(3, grid).half()


def build_scenes(
    folder: Path,
    vision: CLIPVisionModel,
    surfaces: Surfaces,
    *,
    seed: int,
    num_scenes: int,
    size: int,
    layers: Sequence[int],
) -> None:
    """
    Draw the scenes that are not there yet and compute their features.

    Args:
        folder: Of the files.
        vision: The tower.
        surfaces: What the scenes are drawn on.
        seed: Of the scenes.
        num_scenes: Their number; rounded up to whole files.
        size: Their side in pixels, a multiple of the tower's patches.
        layers: Blocks whose outputs are kept, counted from 1.

    Raises:
        ValueError: If the folder holds other scenes.
    """
    folder.mkdir(parents=True, exist_ok=True)
    wanted = {"seed": seed, "size": size, "layers": list(layers), "names": sorted(set(surfaces.class_names))}
    about = folder / SETTINGS_NAME
    if about.exists() and json.loads(about.read_text()) != wanted:
        raise ValueError(f"The scenes in {folder} were made otherwise: {about.read_text()}; asked for is {wanted}.")
    about.write_text(json.dumps(wanted))
    for number in range(-(-num_scenes // CHUNK)):
        path = folder / f"scenes-{number:05d}.safetensors"
        if path.exists():
            continue
        scenes = draw_scenes(surfaces, seed=seed, first=number * CHUNK, count=CHUNK, size=size)
        features = torch.cat([compute_features(vision, images, layers) for images in scenes.images.split(8)])
        images = (255 * scenes.images).round().to(torch.uint8)
        with open_atomically(path) as file:
            tensors = {"features": features, "kinds": scenes.kinds, "images": images}
            file.write(save(tensors, {"words": json.dumps(scenes.words)}))
        print(f"scenes {(number + 1) * CHUNK}/{num_scenes}", flush=True)


def read_scenes(folder: Path, *, leave_out: Sequence[str] = ()) -> CachedScenes:
    """
    Return all scenes of a folder, but those that show certain words.

    Raises:
        FileNotFoundError: If there is none.
    """
    from safetensors import safe_open

    features, kinds, words = [], [], list[str]()
    for path in sorted(folder.glob("scenes-*.safetensors")):
        tensors = load_file(path)
        named = json.loads(safe_open(path, framework="pt").metadata()["words"])
        kept = [place for place, name in enumerate(named) if name not in leave_out]
        features.append(tensors["features"][kept])
        kinds.append(tensors["kinds"][kept])
        words += [named[place] for place in kept]
    if not features:
        raise FileNotFoundError(f"{folder} holds no scenes: run the stage `scenes`.")
    return CachedScenes(torch.cat(features), torch.cat(kinds), words)
