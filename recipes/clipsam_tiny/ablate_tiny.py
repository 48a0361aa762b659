# SPDX-FileCopyrightText: 2026 The clipsam_hf authors
# SPDX-License-Identifier: Apache-2.0
"""
Test the paper's claims on a `clipsam-tiny`: UMCI without each of its parts, MMR with other prompts, masks and merges.

    python recipes/clipsam_tiny/ablate_tiny.py umci --model CHECKPOINT --pool POOL --validation_pool OTHER \
        --photographs cookie --output_dir runs/ablations

The parts: "umci" trains every variant anew on the frozen CLIP, from several seeds; "mmr" refines the checkpoint's own
rough maps in other ways; "size" squashes images to other sides, one or several; "stages" takes some of CLIP's stages;
"score" compares ways to score an image; "words" changes the texts. All are measured on generated images of another
seed and on whole sets of photographs, which the checkpoint must not have been trained on: the choices that follow from
the tables are made here.
"""

import argparse
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from ablation_bench import Bench
from ablation_maps import ablate_mmr, ablate_score, ablate_size, ablate_stages
from ablation_umci import ablate_umci, ablate_words


__all__ = ["main"]

PARTS: dict[str, Callable[[Bench, argparse.Namespace], dict[str, Any]]] = {
    "umci": ablate_umci,
    "mmr": ablate_mmr,
    "score": ablate_score,
    "size": ablate_size,
    "stages": ablate_stages,
    "words": ablate_words,
}


def parse_args(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=sorted(PARTS))
    parser.add_argument("--model", type=Path, required=True, help="folder of the checkpoint")
    parser.add_argument("--pool", type=Path, required=True, help="folder of the scenes to train on")
    parser.add_argument("--validation_pool", type=Path, required=True, help="folder of scenes of another seed")
    parser.add_argument("--photographs", type=Path, action="append", default=[], help="a data set; may be repeated")
    parser.add_argument("--output_dir", type=Path, required=True, help="folder of the figures")
    parser.add_argument("--variants", nargs="+", help="some variants only")
    parser.add_argument("--leave_out", action="append", default=[], help="class name of a set that UMCI is not shown")
    parser.add_argument("--num_training_images", type=int, default=2048, help="images that UMCI is trained on")
    parser.add_argument("--size", type=int, default=128, help="their side in pixels")
    parser.add_argument("--num_images", type=int, default=240, help="generated images to measure")
    parser.add_argument("--num_steps", type=int, default=300)
    parser.add_argument("--batch_size", type=int, default=16, help="pairs of image and texts a step; a multiple of 4")
    parser.add_argument("--learning_rate", type=float, default=1e-3)
    parser.add_argument("--num_seeds", type=int, default=3)
    parser.add_argument("--num_threads", type=int, default=1)
    return parser.parse_args(arguments)


def main() -> None:
    """Run one part and write its figures to OUTPUT_DIR/PART.json."""
    arguments = parse_args()
    torch.set_num_threads(arguments.num_threads)
    arguments.output_dir.mkdir(parents=True, exist_ok=True)
    bench = Bench(
        arguments.model,
        arguments.pool,
        arguments.validation_pool,
        arguments.photographs,
        leave_out=arguments.leave_out,
        num_images=arguments.num_images,
    )
    results = {
        "settings": {name: str(value) for name, value in vars(arguments).items()},
        **PARTS[arguments.part](bench, arguments),
    }
    (arguments.output_dir / f"{arguments.part}.json").write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
