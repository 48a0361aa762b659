# SPDX-FileCopyrightText: 2026 The clipsam_hf authors
# SPDX-License-Identifier: Apache-2.0
"""
Train `clipsam-tiny`, the checkpoint inside the package, on generated images and pieces of real photographs.

    python recipes/clipsam_tiny/train_tiny.py --data_dir road --data_dir cookie \
        --data_dir ball_screw --output_dir runs/tiny

The stages "clip" and "sam" do not need each other and may run side by side; both need "pool", and "umci" needs all. A
stage that was interrupted goes on where it stopped when the same command is given again. The result is the folder
`clipsam-tiny`, and `training.json` beside it says how it was made.
"""

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import tiny_clip
import tiny_sam
import torch
from synthetic_pool import ScenePool, build_pool
from tiny_clip import ClipSettings, train_clip
from tiny_sam import SamSettings, train_sam
from tiny_text import build_tokenizer
from tiny_umci import UmciSettings, build_processor, generated_samples, train_head
from transformers import CLIPModel, SamModel

from clipsam_hf.data import AnomalyFolder
from clipsam_hf.training.calibration import calibrate


__all__ = ["main"]

STAGES = ("pool", "clip", "sam", "umci")
RECORD = "training.json"
GENERATED = "generated images"


def read_record(folder: Path | None) -> dict[str, Any] | None:
    """Return how an earlier run was made, or raise OSError if it is not finished."""
    return None if folder is None else json.loads((folder / RECORD).read_text())


def stage_settings(arguments: argparse.Namespace) -> tuple[ClipSettings, SamSettings, UmciSettings]:
    """Return the choices of a new run, or of one that goes on from another."""
    umci = UmciSettings(head=arguments.head)
    if arguments.start_from is None:
        return ClipSettings(), SamSettings(), umci
    return tiny_clip.FURTHER, tiny_sam.FURTHER, umci


def finish(pool: ScenePool, arguments: argparse.Namespace) -> None:
    """Train UMCI on the two finished networks, choose the thresholds, and save the checkpoint with its record."""
    folder, earlier = arguments.output_dir, read_record(arguments.start_from)
    of_clip, of_sam, settings = stage_settings(arguments)
    head_folder = folder / f"umci_{settings.head}"
    clip, sam = CLIPModel.from_pretrained(folder / "clip"), SamModel.from_pretrained(folder / "sam")
    tokenizer = build_tokenizer()
    # by their folders' names: evaluations and cards compare those
    photographs = {
        Path(root).name: [each for each in AnomalyFolder(root, split=None) if each.class_name not in pool.leave_out]
        for root in arguments.data_dir
    }
    seen = [*(earlier["sets"] if earlier else []), GENERATED, *(name for name, found in photographs.items() if found)]
    sets = list(dict.fromkeys(seen))
    options: Any = {"auxiliary_dataset": " + ".join(sets), "fast": arguments.fast}
    model = train_head(clip, sam, tokenizer, pool, settings, head_folder, **options).cpu()
    clip_size, sam_size = model.config.image_size, of_sam.image_size
    processor = build_processor(tokenizer, clip_size=clip_size, sam_size=sam_size)

    # all of it is training data: generated images, and whole photographs
    samples = [*generated_samples(pool, settings), *(each for found in photographs.values() for each in found)]
    calibration = calibrate(model, processor, samples)
    # It knows too little for a verdict: the threshold of its training images raised false alarms wherever else
    model.config.decision_threshold = None
    model.save_pretrained(folder / "clipsam-tiny")
    processor.save_pretrained(folder / "clipsam-tiny")
    record = {
        "sets": sets,
        "num_scenes": len(pool.scenes),
        "seed": arguments.seed,
        "num_threads": arguments.num_threads,
        "device": arguments.device,
        "fast": arguments.fast,
        "torch": torch.__version__,
        "settings": {"clip": asdict(of_clip), "sam": asdict(of_sam), "umci": asdict(settings)},
        "calibration": calibration.to_dict(),
        "started_from": earlier,
    }
    (folder / RECORD).write_text(json.dumps(record, indent=1))
    print(calibration, flush=True)


def parse_args(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stage", choices=(*STAGES, "all"), default="all")
    parser.add_argument("--output_dir", type=Path, required=True, help="folder of the stages' states and results")
    parser.add_argument("--pool", type=Path, help="folder of the pool; by default in the output folder")
    parser.add_argument("--data_dir", action="append", default=[], help="a set of real photographs; may be repeated")
    parser.add_argument("--leave_out", action="append", default=[], help="class name of a set that is not shown")
    parser.add_argument("--start_from", type=Path, help="folder of an earlier run, whose networks are trained further")
    parser.add_argument("--num_scenes", type=int, default=8192, help="scenes in the pool")
    parser.add_argument("--num_workers", type=int, default=2, help="processes that draw scenes")
    parser.add_argument("--head", choices=("conv", "text"), default=UmciSettings.head, help="UMCI's way to logits")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cpu", help="where to train: cpu, cuda")
    parser.add_argument("--num_threads", type=int, default=1)
    parser.add_argument("--fast", action="store_true", help="train in bfloat16, if the processor has it")
    return parser.parse_args(arguments)


def main() -> None:
    """Run the chosen stage."""
    arguments = parse_args()
    torch.set_num_threads(arguments.num_threads)
    folder, start_from = arguments.output_dir, arguments.start_from
    pool_folder = arguments.pool or folder / "pool"
    stages = STAGES if arguments.stage == "all" else (arguments.stage,)
    if "pool" in stages:
        build_pool(
            pool_folder,
            seed=arguments.seed,
            num_scenes=arguments.num_scenes,
            data_dirs=arguments.data_dir,
            num_workers=arguments.num_workers,
        )
    if stages == ("pool",):
        return
    pool = ScenePool(pool_folder, seed=arguments.seed, leave_out=arguments.leave_out, device=arguments.device)
    of_clip, of_sam, _ = stage_settings(arguments)
    if "clip" in stages:
        train_clip(of_clip, build_tokenizer(), pool, folder, start_from, fast=arguments.fast)
    if "sam" in stages:
        train_sam(of_sam, pool, folder, start_from, fast=arguments.fast)
    if "umci" in stages:
        finish(pool, arguments)


if __name__ == "__main__":
    main()
