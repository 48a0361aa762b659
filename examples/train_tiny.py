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
from tiny_umci import UmciSettings, build_processor, calibrate, train_head
from transformers import CLIPModel, SamModel


__all__ = ["main"]

SEED = 0


def finish(folder: Path, images: SyntheticImages, settings: UmciSettings) -> None:
    """Train UMCI on the two finished networks, choose the thresholds, and save the checkpoint."""
    head_folder = folder / f"umci_{settings.head}"
    clip, sam = CLIPModel.from_pretrained(folder / "clip"), SamModel.from_pretrained(folder / "sam")
    tokenizer = build_tokenizer()
    model = train_head(clip, sam, tokenizer, images, settings, head_folder)
    clip_size, sam_size = model.config.image_size, SamSettings().image_size
    processor = build_processor(tokenizer, clip_size=clip_size, sam_size=sam_size)
    calibrate(model, processor, images, settings)
    model.save_pretrained(head_folder / "clipsam-tiny")
    processor.save_pretrained(head_folder / "clipsam-tiny")


def main() -> None:
    """Run the chosen stage."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stage", choices=("clip", "sam", "umci", "all"), default="all")
    parser.add_argument("--output_dir", type=Path, required=True, help="folder of the stages' states and results")
    parser.add_argument("--head", choices=("conv", "text"), default=UmciSettings.head, help="UMCI's way to logits")
    parser.add_argument("--num_threads", type=int, default=1)
    arguments = parser.parse_args()

    torch.set_num_threads(arguments.num_threads)
    arguments.output_dir.mkdir(parents=True, exist_ok=True)
    images = SyntheticImages(seed=SEED)
    if arguments.stage in ("clip", "all"):
        train_clip(ClipSettings(), build_tokenizer(), images, arguments.output_dir)
    if arguments.stage in ("sam", "all"):
        train_sam(SamSettings(), images, arguments.output_dir)
    if arguments.stage in ("umci", "all"):
        finish(arguments.output_dir, images, UmciSettings(head=arguments.head))


if __name__ == "__main__":
    main()
