# SPDX-FileCopyrightText: 2026 The clipsam_hf authors
# SPDX-License-Identifier: Apache-2.0
"""
Make `clipsam-small`: a DINOv2 as the vision tower, and what is trained on its frozen features.

    python recipes/clipsam_small/train_small.py vision --output_dir runs/small
    python recipes/clipsam_small/train_small.py scenes --output_dir runs/small --materials materials \
        --data_dir road --data_dir cookie --data_dir ball_screw

A stage that was interrupted goes on where it stopped when the same command is given again.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch
from transformers import CLIPVisionModel


__all__ = ["LAYERS", "NUM_LAYERS", "main"]

STAGES = ("vision", "scenes")
NUM_LAYERS = 9
"""Blocks of the tower that are sound: its fine-tuning for saliency collapsed the last ones."""
LAYERS = (3, 6, 9)
"""Blocks whose outputs are kept for training."""


def build_vision(folder: Path) -> None:
    """Convert the wheel's tower and save it."""
    from small_vision import to_clip_vision
    from small_wheel import load_dinov2

    to_clip_vision(load_dinov2(), num_layers=NUM_LAYERS).save_pretrained(folder)


def parse_args(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stage", choices=STAGES)
    parser.add_argument("--output_dir", type=Path, required=True, help="folder of the stages' states and results")
    parser.add_argument("--materials", type=Path, help="folder of photographs of surfaces, a folder each family")
    parser.add_argument("--data_dir", type=Path, action="append", default=[], help="a data set; may be repeated")
    parser.add_argument("--num_scenes", type=int, default=2048)
    parser.add_argument("--size", type=int, default=224, help="side of the scenes in pixels")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--num_threads", type=int, default=1)
    return parser.parse_args(arguments)


def main() -> None:
    """Run the chosen stage."""
    arguments = parse_args()
    torch.set_num_threads(arguments.num_threads)
    folder = arguments.output_dir
    if arguments.stage == "vision":
        build_vision(folder / "vision")
    if arguments.stage == "scenes":
        from small_features import build_scenes
        from small_scenes import Surfaces

        build_scenes(
            folder / "scenes",
            CLIPVisionModel.from_pretrained(folder / "vision").eval(),
            Surfaces(arguments.materials, arguments.data_dir),
            seed=arguments.seed,
            num_scenes=arguments.num_scenes,
            size=arguments.size,
            layers=LAYERS,
        )


if __name__ == "__main__":
    main()
