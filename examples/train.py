# SPDX-FileCopyrightText: 2026 The clipsam_hf authors
# SPDX-License-Identifier: Apache-2.0
"""
Train ClipSAM's UMCI head on one data set, choose its thresholds there, and report on another set.

    accelerate launch examples/train.py \\
      --clip_model_name_or_path openai/clip-vit-large-patch14-336 --sam_model_name_or_path facebook/sam-vit-huge \\
      --dataset_name visa --data_dir VisA_20220922 --eval_dataset_name mvtec --eval_data_dir mvtec_anomaly_detection \\
      --output_dir clipsam-visa

CLIP and SAM stay as they are; CLIP's features of the training images are computed once and kept. A run that was
interrupted goes on when the same command is given again, and ends with the same bits.
"""

import argparse
import json
import math
import os
import platform
import shlex
import sys
import time
from datetime import timedelta
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from accelerate.accelerator import Accelerator  # type: ignore[import-untyped]
from accelerate.tracking import LOGGER_TYPE_TO_CLASS, get_available_trackers  # type: ignore[import-untyped]
from accelerate.utils import DistributedType, InitProcessGroupKwargs, set_seed  # type: ignore[import-untyped]
from safetensors import SafetensorError

import clipsam_hf
from clipsam_hf import (
    AnomalyFolder,
    ClipSamForAnomalySegmentation,
    ClipSamProcessor,
    ZeroShotAnomalySegmentationPipeline,
)
from clipsam_hf.cards.card import build_card
from clipsam_hf.data.layouts import KNOWN_COUNTS, LAYOUTS
from clipsam_hf.evaluation import EvaluationOptions, evaluate
from clipsam_hf.training import SCHEDULES, TrainingInterruptedError, train_umci
from clipsam_hf.training.batches import TrainingBatches
from clipsam_hf.training.calibration import calibrate
from clipsam_hf.training.checkpoints import TrainingState, load_trained, newest_checkpoint, read_state
from clipsam_hf.training.features import FeatureCache
from clipsam_hf.training.views import TrainingImages


__all__ = ["main", "parse_args"]

TENSORS: Any = {"return_tensors": "pt"}
PUBLISHED = ("mvtec", "visa", "mtd", "ksdd2", "btad")


def parse_args(arguments: list[str] | None = None) -> argparse.Namespace:
    """Read the command line; the names are those of the library's own training scripts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--output_dir", required=True, help="Checkpoints, features, and at the end the model.")
    add("--seed", type=int, default=0, help="Of the head's first weights, the order and the augmentation.")
    add("--cpu", action="store_true", help="Leave GPUs alone; needed for several processes on CPUs.")
    add_model_arguments(parser)
    add_data_arguments(parser)
    add_training_arguments(parser)
    add_result_arguments(parser)
    args = parser.parse_args(arguments)

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
    return args


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
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


def add_data_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("data").add_argument
    add(
        "--dataset_name", choices=("auto", *LAYOUTS), default="auto", help="The data set, or how a folder is laid out."
    )
    add("--data_dir", required=True, help="Folder of the data set.")
    add("--category", nargs="+", help="Only these categories.")
    add("--split", default="test", help="Split to train on; the test split is the one with defects.")
    add("--mask_threshold", type=float, default=0, help="Mask values above it are defects.")
    add("--eval_dataset_name", choices=("auto", *LAYOUTS), help="Another data set, to report on.")
    add("--eval_data_dir", help="Its folder.")
    add("--eval_category", nargs="+", help="Only these categories of it.")
    add("--eval_split", default="test", help="Its split.")
    add("--eval_mask_threshold", type=float, default=0, help="Mask values above it are defects.")
    add("--eval_size", type=int, default=518, help="Side of the square in which maps and masks are compared.")
    add(
        "--num_views",
        type=int,
        default=1,
        help="Views of each image, one per epoch in turn; all but the first flipped.",
    )
    add("--mosaic_probability", type=float, default=0.0, help="Share of 2x2 mosaics among those other views.")
    add("--cache_dir", help="Where CLIP's features are kept; by default OUTPUT_DIR/features.")
    add("--no_cache", action="store_true", help="Compute them anew in every step.")
    add("--dataloader_num_workers", type=int, default=0, help="Processes that read ahead.")


def add_training_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("training").add_argument
    add("--per_device_train_batch_size", type=int, default=8, help="Images per process and forward pass.")
    add("--per_device_eval_batch_size", type=int, default=1, help="The same for calibration and evaluation.")
    add("--gradient_accumulation_steps", type=int, default=1, help="Forward passes per step.")
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


def add_result_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("result").add_argument
    add("--no_refine", action="store_true", help="Calibrate and report on CLIP's map, without SAM.")
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


def check_tracker(name: str) -> None:
    """Accelerate leaves out what is not installed without a word."""
    installed = sorted(str(tracker) for tracker in get_available_trackers())
    if name != "all" and name not in LOGGER_TYPE_TO_CLASS:
        raise ValueError(f"--report_to must be 'all' or one of {sorted(LOGGER_TYPE_TO_CLASS)}, got {name!r}.")
    if not installed if name == "all" else name not in installed:
        raise ValueError(f"--report_to {name}: it is not installed; installed are {installed or 'none'}.")


def name_set(name: str, folder: AnomalyFolder) -> str:
    """Name a data set: a published one by its own name, wherever it lies, another one by its folder."""
    if name in PUBLISHED:
        return name
    known = KNOWN_COUNTS.get(folder.layout, {}).keys() & set(folder.categories)
    return folder.layout if known else folder.root.resolve().name


def name_training_set(
    args: argparse.Namespace,
    model: ClipSamForAnomalySegmentation,
    data: AnomalyFolder,
    eval_data: AnomalyFolder | None,
) -> str:
    """Name all that the model will have seen, and refuse to report on it: the figures would say nothing."""
    trained_on = name_set(args.dataset_name, data)
    if model.config.auxiliary_dataset is not None:
        trained_on = f"{model.config.auxiliary_dataset} + {trained_on}"
    if eval_data is None:
        return trained_on
    reported_on = name_set(args.eval_dataset_name or "auto", eval_data)
    root, eval_root = data.root.resolve(), eval_data.root.resolve()
    if reported_on in trained_on.split(" + ") or root.is_relative_to(eval_root) or eval_root.is_relative_to(root):
        raise ValueError(
            f"The model is trained on {trained_on!r} ('{data.root}'), so it cannot be reported on {reported_on!r}"
            f" ('{eval_data.root}'): give another set as --eval_data_dir."
        )
    return trained_on


def build_model(args: argparse.Namespace) -> tuple[ClipSamForAnomalySegmentation, ClipSamProcessor]:
    """Put a pretrained CLIP and a pretrained SAM together with a new head, or load a whole model."""
    if args.model_name_or_path is not None:
        model = ClipSamForAnomalySegmentation.from_pretrained(args.model_name_or_path, revision=args.revision)
        return model, ClipSamProcessor.from_pretrained(args.model_name_or_path, revision=args.revision)
    names = (args.clip_model_name_or_path, args.sam_model_name_or_path)
    clip_kwargs = {} if args.clip_revision is None else {"revision": args.clip_revision}
    sam_kwargs = {} if args.sam_revision is None else {"revision": args.sam_revision}
    size = {} if args.image_size is None else {"image_size": args.image_size}
    model = ClipSamForAnomalySegmentation.from_clip_sam_pretrained(
        *names,
        localizer="umci",
        clip_kwargs=clip_kwargs,
        sam_kwargs=sam_kwargs,
        umci_hidden_size=args.umci_hidden_size,
        scale_sizes=tuple(args.scale_sizes),
        head=args.head,
        **size,
    )
    processor = ClipSamProcessor.from_clip_sam_pretrained(
        *names, image_size=model.config.image_size, clip_kwargs=clip_kwargs, sam_kwargs=sam_kwargs
    )
    return model, processor


@torch.no_grad()
def embed_class_names(
    model: ClipSamForAnomalySegmentation, processor: ClipSamProcessor, class_names: list[str]
) -> dict[str, torch.Tensor]:
    """Embed the two texts of every class name: (2, projection_dim) each."""
    embeds = {}
    for name in class_names:
        inputs = processor(text=name, **TENSORS).to(model.device)
        embeds[name] = model.get_text_embeddings(inputs["input_ids"], inputs["attention_mask"])[0]
    return embeds


def public_command(arguments: list[str]) -> str:
    """Return the command without the token, and with folders by their names: where they lie is nobody's business."""
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
    return shlex.join(["accelerate", "launch", "examples/train.py", *shown])


def start(args: argparse.Namespace) -> Accelerator:
    """Join the processes, and tell the trackers what is run."""
    if args.with_tracking:
        check_tracker(args.report_to)
    accelerator = Accelerator(
        cpu=args.cpu,
        mixed_precision=args.mixed_precision,
        gradient_accumulation_steps=args.gradient_accumulation_steps,
        log_with=args.report_to if args.with_tracking else None,
        project_dir=args.output_dir,
        # Saving, or the last share of an evaluation, may keep the others waiting
        kwargs_handlers=[InitProcessGroupKwargs(timeout=timedelta(days=7))],
    )
    if int(os.environ.get("WORLD_SIZE", "1")) != accelerator.num_processes:
        # Each would train alone, and all into the same folder
        raise ValueError("These processes do not know of each other: several of them on CPUs need --cpu.")
    set_seed(args.seed)
    if args.with_tracking:
        options = {name: value for name, value in vars(args).items() if name != "hub_token"}
        accelerator.init_trackers(
            "clipsam_hf", config={name: str(value) for name, value in options.items() if value is not None}
        )
    return accelerator


def read_data(args: argparse.Namespace) -> tuple[AnomalyFolder, AnomalyFolder | None]:
    """Open the set to train on and, if there is one, the set to report on."""
    data = AnomalyFolder(
        args.data_dir,
        args.dataset_name,
        category=args.category,
        split=args.split,
        mask_threshold=args.mask_threshold,
    )
    if args.eval_data_dir is None:
        return data, None
    return data, AnomalyFolder(
        args.eval_data_dir,
        args.eval_dataset_name or "auto",
        category=args.eval_category,
        split=args.eval_split,
        mask_threshold=args.eval_mask_threshold,
    )


def prepare_batches(
    args: argparse.Namespace,
    model: ClipSamForAnomalySegmentation,
    processor: ClipSamProcessor,
    data: AnomalyFolder,
    accelerator: Accelerator,
) -> TrainingBatches:
    """Make the views of the images, embed their class names, and compute CLIP's features unless they are there."""
    images = TrainingImages(
        data, processor, seed=args.seed, num_views=args.num_views, mosaic_probability=args.mosaic_probability
    )
    cache = None
    if not args.no_cache:
        cache = FeatureCache.build(
            args.cache_dir or Path(args.output_dir) / "features",
            model,
            images,
            batch_size=args.per_device_train_batch_size,
            num_workers=args.dataloader_num_workers,
            accelerator=accelerator,
        )
    return TrainingBatches(
        images,
        embed_class_names(model, processor, images.class_names),
        batch_size=args.per_device_train_batch_size * accelerator.num_processes,
        seed=args.seed,
        cache=cache,
        num_workers=args.dataloader_num_workers,
    )


def count_steps(args: argparse.Namespace, batches: TrainingBatches) -> tuple[int, int, int]:
    """Return the number of steps, the epochs that they make, and the steps between two checkpoints."""
    count, per_step = len(batches.images), batches.batch_size * args.gradient_accumulation_steps
    per_epoch = math.ceil(count / per_step)
    save_steps = per_epoch if args.checkpointing_steps == "epoch" else int(args.checkpointing_steps)
    if args.max_train_steps is not None:
        return args.max_train_steps, math.ceil(args.max_train_steps * per_step / count), save_steps
    return math.ceil(args.num_train_epochs * count / per_step), args.num_train_epochs, save_steps


def describe_run(
    args: argparse.Namespace, data: AnomalyFolder, accelerator: Accelerator, state: TrainingState
) -> dict[str, Any]:
    """Return what must be known to repeat the run, and how it went."""
    libraries = ("accelerate", "numpy", "pillow", "safetensors", "torch", "transformers")
    return {
        "command": public_command(sys.argv[1:]),
        "seed": args.seed,
        "data": {
            "name": name_set(args.dataset_name, data),
            "split": args.split,
            "categories": data.categories,
            "num_images": len(data),
            "num_abnormal_images": sum(sample.label == 1 for sample in data),
        },
        "configuration": state.configuration,
        "num_train_steps": len(state.losses),
        "losses": state.losses,
        "num_processes": accelerator.num_processes,
        "device": accelerator.device.type,
        "versions": {
            "clipsam_hf": clipsam_hf.__version__,
            **{name: version(name) for name in libraries},
            "python": platform.python_version(),
        },
    }


def save(args: argparse.Namespace, pipe: ZeroShotAnomalySegmentationPipeline, results: dict[str, Any]) -> None:
    """Save model, processor and code, and beside them how they came about."""
    config, folder = pipe.model.config, Path(args.output_dir)
    pipe.save_pretrained(folder, save_backbones=args.save_backbones)
    origin = {name: getattr(config, name) for name in ("auxiliary_dataset", "auxiliary_epochs", "auxiliary_seed")}
    (folder / "all_results.json").write_text(json.dumps({**origin, **results}, indent=2) + "\n", encoding="utf-8")


def report_on(
    args: argparse.Namespace,
    pipe: ZeroShotAnomalySegmentationPipeline,
    eval_data: AnomalyFolder,
    accelerator: Accelerator,
) -> Path:
    """Evaluate on the other set, all processes together, and return the file of the figures."""
    folder = Path(args.output_dir) / "evaluation"
    results = evaluate(
        pipe.model,
        pipe.processor,
        eval_data,
        EvaluationOptions(size=args.eval_size, refine=not args.no_refine),
        output_dir=folder,
        overwrite=(folder / "results.json").exists(),
        batch_size=args.per_device_eval_batch_size,
        num_workers=args.dataloader_num_workers,
        device=accelerator.device,
        model_name=args.hub_model_id or Path(args.output_dir).resolve().name,
    )
    if results is not None:
        print(results.to_text())
    return folder / "results.json"


def publish(args: argparse.Namespace, pipe: ZeroShotAnomalySegmentationPipeline, evaluation: Path | None) -> None:
    """Write the card, whose figures come from the evaluation's file, and push everything in one commit if wanted."""
    card = build_card(
        pipe.model,
        model_id=args.hub_model_id or Path(args.output_dir).resolve().name,
        evaluations=[] if evaluation is None else [evaluation],
        training=Path(args.output_dir) / "all_results.json",
        license=args.license,
        example_image=args.example_image,
        example_class_name=args.example_class_name,
        processor=pipe.processor,
    )
    card.save(Path(args.output_dir) / "README.md")
    if args.push_to_hub:
        commit = pipe.push_to_hub(
            args.hub_model_id,
            save_backbones=args.save_backbones,
            card=card,
            token=args.hub_token,
            private=args.hub_private,
        )
        print(f"published: {commit.commit_url}")


def train(args: argparse.Namespace) -> None:
    """Run everything, from the data to the published model."""
    # 1. Processes, devices, precision and trackers are Accelerate's
    accelerator = start(args)
    begin = time.monotonic()

    # 2. The data to train on, the other data to report on, and the model
    data, eval_data = read_data(args)
    model, processor = build_model(args)
    trained_on = name_training_set(args, model, data, eval_data)
    model.to(accelerator.device)

    # 3. Batches; CLIP's part of them is computed once
    batches = prepare_batches(args, model, processor, data, accelerator)
    num_steps, num_epochs, save_steps = count_steps(args, batches)

    # 4. Train, or go on with it
    train_umci(
        model,
        batches,
        num_steps=num_steps,
        learning_rate=args.learning_rate,
        weight_decay=args.weight_decay,
        warmup_steps=args.num_warmup_steps,
        lr_scheduler_type=args.lr_scheduler_type,
        max_grad_norm=args.max_grad_norm,
        output_dir=args.output_dir,
        save_steps=save_steps,
        save_total_limit=args.save_total_limit,
        resume_from_checkpoint=args.resume_from_checkpoint,
        logging_steps=args.logging_steps,
        log=lambda line: print(" ".join(f"{name} {value:.4g}" for name, value in line.items()), flush=True),
        accelerator=accelerator,
        show_progress=True,
    )
    checkpoint = newest_checkpoint(args.output_dir) or args.resume_from_checkpoint
    if accelerator.distributed_type == DistributedType.FSDP:
        # This model lies in shards: load what was trained into a whole one
        model, processor = build_model(args)
        load_trained(model.to(accelerator.device), checkpoint)

    # 5. Choose the thresholds on the same images, save, report on the other ones, publish
    model.config.auxiliary_dataset = trained_on
    model.config.auxiliary_epochs = num_epochs
    model.config.auxiliary_seed = args.seed
    pipe = ZeroShotAnomalySegmentationPipeline(model=model, processor=processor)
    results = describe_run(args, data, accelerator, read_state(checkpoint))
    results["calibration"] = calibrate(
        model,
        processor,
        data,
        refine=not args.no_refine,
        batch_size=args.per_device_eval_batch_size,
        num_workers=args.dataloader_num_workers,
        accelerator=accelerator,
        show_progress=True,
    ).to_dict()
    results["seconds"] = round(time.monotonic() - begin, 1)
    if accelerator.is_main_process:
        save(args, pipe, results)
    accelerator.wait_for_everyone()
    evaluation = None if eval_data is None else report_on(args, pipe, eval_data, accelerator)
    if accelerator.is_main_process:
        publish(args, pipe, evaluation)
    accelerator.end_training()


def main() -> None:
    """Run the script: 1 and a message for what cannot be used, 143 when SIGTERM has ended it after saving."""
    args = parse_args()
    try:
        train(args)
    except TrainingInterruptedError as interruption:
        print(interruption, file=sys.stderr)
        sys.exit(128 + interruption.signal_number)
    except (FloatingPointError, ImportError, OSError, SafetensorError, ValueError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
