# SPDX-FileCopyrightText: 2026 The clipsam_hf authors
# SPDX-License-Identifier: Apache-2.0
"""
Train `clipsam-tiny`, the checkpoint inside the package, from nothing but generated images.

    python examples/train_tiny.py --output_dir runs/tiny

The stages "clip" and "sam" do not need each other and may run side by side; "umci" needs both. A stage that was
interrupted goes on where it stopped when the same command is given again.
"""

import argparse
from pathlib import Path

import torch

from synthetic import SyntheticImages
from tiny_clip import ClipSettings, train_clip
from tiny_sam import SamSettings, train_sam
from tiny_text import build_tokenizer

SEED = 0


def main() -> None:
    """Run the chosen stage."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stage", choices=("clip", "sam", "umci", "all"), default="all")
    parser.add_argument("--output_dir", type=Path, required=True, help="folder of the stages' states and results")
    parser.add_argument("--num_threads", type=int, default=1)
    arguments = parser.parse_args()

    torch.set_num_threads(arguments.num_threads)
    arguments.output_dir.mkdir(parents=True, exist_ok=True)
    images = SyntheticImages(seed=SEED)
    if arguments.stage in ("clip", "all"):
        train_clip(ClipSettings(), build_tokenizer(), images, arguments.output_dir)
    if arguments.stage in ("sam", "all"):
        train_sam(SamSettings(), images, arguments.output_dir)


if __name__ == "__main__":
    main()
