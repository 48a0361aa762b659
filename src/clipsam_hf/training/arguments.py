# SPDX-FileCopyrightText: 2026 The clipsam_hf authors
# SPDX-License-Identifier: Apache-2.0
"""The options of a training, by the names that the library's own training scripts have."""

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from ..data.layouts import LAYOUTS
from .loop import SCHEDULES


__all__ = ["parse_arguments", "public_command"]

DESCRIPTION = """Train ClipSAM's UMCI head on one data set, choose its thresholds there, and report on another set.

CLIP and SAM stay as they are; CLIP's features of the training images are computed once and kept. A run that was
interrupted goes on when the same command is given again, and ends with the same bits."""

DTYPES = ("float32", "bfloat16", "float16")

_COUNTS = ("total_train_batch_size", "per_device_train_batch_size", "per_device_eval_batch_size", "text_variants")


def parse_arguments(arguments: Sequence[str] | None = None, *, program: str | None = None) -> argparse.Namespace:
    """Reads the options of a training.

    Args:
        arguments (`Sequence[str]`, *optional*): by default those of the process.
        program (`str`, *optional*): what the help calls the program.

    Returns:
        `argparse.Namespace`: the options, and as `command` how to repeat the run.

    Raises:
        SystemExit: with code 2 and a message, if an option is missing, unknown or contradicts another.

    Example:
        >>> args = parse_arguments(["--model_name_or_path", "org/tiny", "--data_dir", "plates", "--output_dir", "out"])
        >>> args.total_train_batch_size, args.learning_rate
        (8, 0.0001)
    """
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    # A token must be known as one by its option's whole name
    parser = argparse.ArgumentParser(
        prog=program,
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--output_dir", required=True, help="Checkpoints, features, and at the end the model.")
    add("--seed", type=int, default=0, help="Of the head's first weights, the order, the augmentation and the texts.")
    add("--cpu", action="store_true", help="Leave GPUs alone; needed for several processes on CPUs.")
    _add_model_arguments(parser)
    _add_data_arguments(parser)
    _add_training_arguments(parser)
    _add_result_arguments(parser)
    args = parser.parse_args(arguments)
    _check(parser, args)
    args.command = public_command(arguments)
    return args


def public_command(arguments: Sequence[str]) -> str:
    """Gives the command without the token, and with folders by their names: where they lie is nobody's business.

    Args:
        arguments (`Sequence[str]`): the options.

    Returns:
        `str`: for a shell.

    Example:
        >>> public_command(["--data_dir", "plates", "--hub_token", "hf_secret", "--seed", "3"])
        'accelerate launch -m clipsam_hf.training --data_dir plates --seed 3'
    """
    shown, hide = [], False
    for argument in arguments:
        option, equals, value = argument.partition("=")
        if hide:
            hide = False
        elif option == "--hub_token":
            hide = not equals
        elif equals and option.startswith("--"):
            shown.append(f"{option}={Path(value).name if Path(value).exists() else value}")
        else:
            shown.append(Path(argument).name if Path(argument).exists() else argument)
    return shlex.join(["accelerate", "launch", "-m", "clipsam_hf.training", *shown])


def _check(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """Refuses options that contradict each other."""
    backbones = (args.clip_model_name_or_path, args.sam_model_name_or_path)
    if args.model_name_or_path is not None and any(backbones):
        parser.error("--model_name_or_path brings its own backbones")
    if args.model_name_or_path is None and not all(backbones):
        parser.error("give --clip_model_name_or_path and --sam_model_name_or_path, or --model_name_or_path instead")
    if args.eval_dataset_name is not None and args.eval_data_dir is None:
        parser.error("--eval_dataset_name needs --eval_data_dir")
    if args.push_to_hub and args.hub_model_id is None:
        parser.error("--push_to_hub needs --hub_model_id, such as your-name/clipsam-visa")
    if args.checkpointing_steps != "epoch" and not args.checkpointing_steps.isdigit():
        parser.error(f"--checkpointing_steps must be 'epoch' or a number, got {args.checkpointing_steps!r}")
    for name in _COUNTS:
        if getattr(args, name) < 1:
            parser.error(f"--{name} must be positive, got {getattr(args, name)}")


def _add_model_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("model").add_argument
    add("--clip_model_name_or_path", help="Folder or repository of a CLIP.")
    add("--clip_revision", help="Commit, tag or branch of that repository.")
    add("--sam_model_name_or_path", help="Folder or repository of a SAM.")
    add("--sam_revision", help="Commit, tag or branch of that repository.")
    add("--model_name_or_path", help="A ClipSAM to go on from, instead of the two.")
    add("--revision", default="main", help="Commit, tag or branch of that repository.")
    add("--image_size", type=int, help="Side of CLIP's square; by default about 518, a multiple of its patch.")
    add("--umci_hidden_size", type=int, default=256, help="Width of the head.")
    add("--scale_sizes", nargs="+", type=int, default=[3, 9], help="Poolings of its scale path, in tokens.")
    add("--head", choices=("conv", "text"), default="conv", help="How the head comes to its logits.")
    add("--normalize_features", action="store_true", help="Normalise what the head gets of CLIP, per token.")
    add("--loss_resolution", choices=("grid", "image"), help="Where the loss compares map and labels.")
    add("--dtype", choices=DTYPES, help="Of CLIP and SAM; by default that of their files. The head's is float32.")


def _add_data_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("data").add_argument
    add(
        "--dataset_name", choices=("auto", *LAYOUTS), default="auto", help="The data set, or how a folder is laid out."
    )
    add("--data_dir", required=True, help="Folder of the data set.")
    add("--category", nargs="+", help="Only these categories.")
    add("--split", default="test", help="Split to train on; the test split is the one with defects.")
    add("--gt_threshold", type=float, default=0, help="Mask values above it are defects.")
    add("--eval_dataset_name", choices=("auto", *LAYOUTS), help="Another data set, to report on.")
    add("--eval_data_dir", help="Its folder.")
    add("--eval_category", nargs="+", help="Only these categories of it.")
    add("--eval_split", default="test", help="Its split.")
    add("--eval_gt_threshold", type=float, default=0, help="Mask values above it are defects.")
    add("--eval_size", type=int, default=518, help="Side of the square in which maps and masks are compared.")
    add(
        "--num_views",
        type=int,
        default=1,
        help="Views of each image, one per epoch in turn; all but the first flipped.",
    )
    add("--mosaic_probability", type=float, default=0.0, help="Share of 2x2 mosaics among those other views.")
    add("--text_variants", type=int, default=8, help="Ways to speak of each class, drawn per image and epoch.")
    add("--cache_dir", help="Where CLIP's features are kept; by default OUTPUT_DIR/features.")
    add("--no_cache", action="store_true", help="Compute them anew in every step.")
    add("--dataloader_num_workers", type=int, default=0, help="Processes that read ahead.")


def _add_training_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("training").add_argument
    add("--total_train_batch_size", type=int, default=8, help="Images per step, of all processes together.")
    add("--per_device_train_batch_size", type=int, default=8, help="At most so many per process and forward pass.")
    add("--per_device_eval_batch_size", type=int, default=1, help="Images per forward pass where nothing is learned.")
    add("--learning_rate", type=float, default=1e-4, help="The highest one.")
    add("--weight_decay", type=float, default=0.01, help="Of matrices and convolutions.")
    add("--max_grad_norm", type=float, default=1.0, help="Gradients are clipped to it.")
    add("--num_train_epochs", type=int, default=6, help="Chosen beforehand, never on the set that is reported on.")
    add("--max_train_steps", type=int, help="Number of steps; instead of --num_train_epochs.")
    add("--lr_scheduler_type", choices=SCHEDULES, default="cosine", help="Course of the learning rate.")
    add("--num_warmup_steps", type=int, default=0, help="Steps of its linear rise.")
    add("--mixed_precision", choices=("no", "fp16", "bf16"), help="By default what `accelerate launch` says.")
    add("--checkpointing_steps", default="epoch", help="Steps between two checkpoints, or 'epoch'.")
    add("--save_total_limit", type=int, default=2, help="So many checkpoints are kept.")
    add("--resume_from_checkpoint", help="Go on from this one; by default from the newest in OUTPUT_DIR.")
    add("--logging_steps", type=int, default=50, help="Steps between two lines of the log.")
    add("--with_tracking", action="store_true", help="Tell experiment trackers.")
    add("--report_to", default="all", help="Which one: tensorboard, wandb, ..., or all that are installed.")


def _add_result_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("result").add_argument
    add("--no_refine", action="store_true", help="Calibrate and report on CLIP's map, without SAM.")
    add("--image_score", choices=("top_fraction", "max", "text"), help="How an image's score comes from its map.")
    add("--aupro_linear200", action="store_true", help="Report the AUPRO of most published tables too.")
    backbones = parser.add_mutually_exclusive_group()
    backbones.add_argument("--save_backbones", action="store_true", default=True, help="Save CLIP and SAM too.")
    backbones.add_argument(
        "--no_save_backbones", action="store_false", dest="save_backbones", help="Save the trained head alone."
    )
    add("--push_to_hub", action="store_true", help="Publish the result.")
    add("--hub_model_id", help="Name of the repository.")
    add("--hub_token", help="By default that of `hf auth login`. It is never written anywhere.")
    add("--hub_private", action="store_true", help="Publish for yourself only.")
    add("--license", help="Of the weights, for their card; mind that of the data.")
    add("--example_image", help="A photograph for the card's picture. It is published with it.")
    add("--example_class_name", default="object", help="What it shows.")
