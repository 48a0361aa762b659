# SPDX-FileCopyrightText: 2026 The clipsam_hf authors
# SPDX-License-Identifier: Apache-2.0
"""
Train ClipSAM's UMCI head on one data set, choose its thresholds there, and report on another set.

    accelerate launch examples/train.py \\
      --clip_model_name_or_path openai/clip-vit-large-patch14-336 --sam_model_name_or_path facebook/sam-vit-huge \\
      --dataset_name visa --data_dir VisA_20220922 --eval_dataset_name mvtec --eval_data_dir mvtec_anomaly_detection \\
      --output_dir clipsam-visa

This is `clipsam train` as a file to copy and to change: the same steps and options. `TrainingRun` and what it calls
are documented, so that a step can be replaced by one of your own.
"""

import argparse

from clipsam_hf.training.arguments import parse_arguments
from clipsam_hf.training.run import TrainingRun, exit_codes


__all__ = ["main", "train"]


def train(args: argparse.Namespace) -> None:
    """Run everything, from the data to the published model."""
    # 1. Processes, devices, precision and trackers are Accelerate's; then the data, and CLIP, SAM and head
    run = TrainingRun(args)

    # 2. Batches: TrainingImages makes views, embed_texts the texts, and FeatureCache computes CLIP's part once
    batches = run.prepare_batches()

    # 3. Train, or go on with it: train_umci takes any function from the number of a batch to its tensors
    run.fit(batches)

    # 4. Choose the thresholds on the same images, never on the ones that are reported on; save
    run.calibrate()
    run.save()

    # 5. Report on the other set, write the card, publish
    run.report()
    run.publish()


def main() -> None:
    """Run the script: 2 and a message for what cannot be used, 143 when SIGTERM has ended it after saving."""
    args = parse_arguments()
    with exit_codes():
        train(args)


if __name__ == "__main__":
    main()
