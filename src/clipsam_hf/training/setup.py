# SPDX-FileCopyrightText: 2026 The clipsam_hf authors
# SPDX-License-Identifier: Apache-2.0
"""What a training begins with: processes, data, model, and batches that do not depend on the number of processes."""

import argparse
import math
import os
import warnings
from datetime import timedelta
from pathlib import Path
from typing import Any

from ..data.folders import AnomalyFolder
from ..data.layouts import KNOWN_COUNTS
from ..evaluation import protocol
from ..modeling_clipsam import ClipSamForAnomalySegmentation
from ..processing_clipsam import ClipSamProcessor
from .batches import TrainingBatches
from .features import FeatureCache
from .texts import embed_texts
from .views import TrainingImages


__all__ = [
    "build_model",
    "count_steps",
    "name_set",
    "name_training_set",
    "prepare_batches",
    "read_data",
    "split_batch",
    "start",
]


def start(args: argparse.Namespace) -> Any:
    """Joins the processes, and tells the trackers what is run.

    Args:
        args (`argparse.Namespace`): of `parse_arguments`.

    Returns:
        `accelerate.Accelerator`.

    Raises:
        ValueError: if a tracker is unknown or not installed, or the processes do not know of each other.
        ImportError: if accelerate is not installed.
    """
    try:
        from accelerate.accelerator import Accelerator  # type: ignore[import-untyped]
        from accelerate.utils import InitProcessGroupKwargs, set_seed  # type: ignore[import-untyped]
    except ImportError as error:
        raise ImportError('Training needs accelerate: pip install "clipsam_hf[train]"') from error

    if args.with_tracking:
        _check_tracker(args.report_to)
    accelerator = Accelerator(
        cpu=args.cpu,
        mixed_precision=args.mixed_precision,
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


def _check_tracker(name: str) -> None:
    """Accelerate leaves out what is not installed without a word."""
    from accelerate import tracking  # type: ignore[import-untyped]

    installed = sorted(str(tracker) for tracker in tracking.get_available_trackers())
    if name != "all" and name not in tracking.LOGGER_TYPE_TO_CLASS:
        known = sorted(tracking.LOGGER_TYPE_TO_CLASS)
        raise ValueError(f"--report_to must be 'all' or one of {known}, got {name!r}.")
    if not installed if name == "all" else name not in installed:
        raise ValueError(f"--report_to {name}: it is not installed; installed are {installed or 'none'}.")


def read_data(args: argparse.Namespace) -> tuple[AnomalyFolder, AnomalyFolder | None]:
    """Opens the set to train on and, if there is one, the set to report on.

    Args:
        args (`argparse.Namespace`): of `parse_arguments`.

    Returns:
        `tuple[AnomalyFolder, AnomalyFolder | None]`.

    Raises:
        ValueError, OSError: if a folder is not there or not laid out as said.
    """
    data = AnomalyFolder(
        args.data_dir, args.dataset_name, category=args.category, split=args.split, gt_threshold=args.gt_threshold
    )
    if args.eval_data_dir is None:
        return data, None
    return data, AnomalyFolder(
        args.eval_data_dir,
        args.eval_dataset_name or "auto",
        category=args.eval_category,
        split=args.eval_split,
        gt_threshold=args.eval_gt_threshold,
    )


def build_model(args: argparse.Namespace) -> tuple[ClipSamForAnomalySegmentation, ClipSamProcessor]:
    """Puts a pretrained CLIP and a pretrained SAM together with a new head, or loads a whole model.

    Args:
        args (`argparse.Namespace`): of `parse_arguments`. With `dtype`, CLIP and SAM have it; the head has float32.

    Returns:
        `tuple[ClipSamForAnomalySegmentation, ClipSamProcessor]`: on the CPU.

    Raises:
        ValueError, OSError: if something cannot be loaded, or options contradict each other.
    """
    settings: dict[str, Any] = {} if args.loss_resolution is None else {"loss_resolution": args.loss_resolution}
    dtype: dict[str, Any] = {} if args.dtype is None else {"dtype": args.dtype}
    if args.model_name_or_path is not None:
        origin: dict[str, Any] = {"revision": args.revision}
        model = ClipSamForAnomalySegmentation.from_pretrained(args.model_name_or_path, **origin, **dtype, **settings)
        return model, ClipSamProcessor.from_pretrained(args.model_name_or_path, **origin)
    names = (args.clip_model_name_or_path, args.sam_model_name_or_path)
    clip_kwargs, sam_kwargs = (
        {} if revision is None else {"revision": revision} for revision in (args.clip_revision, args.sam_revision)
    )
    if args.image_size is not None:
        settings["image_size"] = args.image_size
    model = ClipSamForAnomalySegmentation.from_clip_sam_pretrained(
        *names,
        localizer="umci",
        clip_kwargs={**clip_kwargs, **dtype},
        sam_kwargs={**sam_kwargs, **dtype},
        umci_hidden_size=args.umci_hidden_size,
        scale_sizes=tuple(args.scale_sizes),
        head=args.head,
        normalize_features=args.normalize_features,
        **settings,
    )
    processor = ClipSamProcessor.from_clip_sam_pretrained(
        *names, image_size=model.config.image_size, clip_kwargs=clip_kwargs, sam_kwargs=sam_kwargs
    )
    return model, processor


def name_set(name: str, folder: AnomalyFolder) -> str:
    """Names a data set: a published one by its own name, wherever it lies, another one by its folder.

    Args:
        name (`str`): the layout that was asked for.
        folder (`AnomalyFolder`): the set.

    Returns:
        `str`.
    """
    return name if name in KNOWN_COUNTS else protocol.name_set(_describe(folder))


def _describe(folder: AnomalyFolder) -> dict[str, Any]:
    return {**protocol.describe_source(folder), "class_names": folder.categories}


def name_training_set(
    args: argparse.Namespace,
    model: ClipSamForAnomalySegmentation,
    data: AnomalyFolder,
    eval_data: AnomalyFolder | None,
) -> str:
    """Names all that the model will have seen, and refuses to report on it: the figures would say nothing.

    Args:
        args (`argparse.Namespace`): of `parse_arguments`.
        model (`ClipSamForAnomalySegmentation`): knows what it has seen before.
        data (`AnomalyFolder`): the set to train on.
        eval_data (`AnomalyFolder`, *optional*): the set to report on.

    Returns:
        `str`: for `auxiliary_dataset`.

    Raises:
        ValueError: if the set to report on is one of them, by its name or its folder.
    """
    before = [] if model.config.auxiliary_dataset is None else model.config.auxiliary_dataset.split(" + ")
    names = list(dict.fromkeys([*before, name_set(args.dataset_name, data)]))
    trained_on = " + ".join(names)
    if eval_data is None:
        return trained_on
    reported_on = name_set(args.eval_dataset_name or "auto", eval_data)
    root, eval_root = data.root.resolve(), eval_data.root.resolve()
    has_seen = reported_on in names or protocol.trained_on(names, _describe(eval_data))
    if has_seen or root.is_relative_to(eval_root) or eval_root.is_relative_to(root):
        raise ValueError(
            f"The model is trained on {trained_on!r} ('{data.root}'), so it cannot be reported on {reported_on!r}"
            f" ('{eval_data.root}'): give another set as --eval_data_dir."
        )
    return trained_on


def split_batch(total: int, per_device: int, num_processes: int) -> tuple[int, int]:
    """Divides the images of a step, so that they stay the same whatever the number of processes.

    Args:
        total (`int`): images per step.
        per_device (`int`): at most so many per process and forward pass.
        num_processes (`int`): number of processes.

    Returns:
        `tuple[int, int]`: images of a batch, which all processes share, and batches of a step; their product is
        `total`. Processes may get different numbers of images.

    Example:
        >>> split_batch(8, 8, 1), split_batch(8, 2, 1), split_batch(8, 2, 3), split_batch(8, 8, 16)
        ((8, 1), (2, 4), (4, 2), (8, 1))
    """
    parts = next(
        parts for parts in range(1, total + 1) if total % parts == 0 and total // parts <= per_device * num_processes
    )
    return total // parts, parts


def prepare_batches(
    args: argparse.Namespace,
    model: ClipSamForAnomalySegmentation,
    processor: ClipSamProcessor,
    data: AnomalyFolder,
    accelerator: Any,
) -> TrainingBatches:
    """Makes the views of the images, embeds the texts, and computes CLIP's features unless they are there.

    Args:
        args (`argparse.Namespace`): of `parse_arguments`.
        model (`ClipSamForAnomalySegmentation`): on its device.
        processor (`ClipSamProcessor`): the model's.
        data (`AnomalyFolder`): the set to train on.
        accelerator (`accelerate.Accelerator`): is told how many batches make a step.

    Returns:
        [`TrainingBatches`].
    """
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
    batch_size, accelerator.gradient_accumulation_steps = split_batch(
        args.total_train_batch_size, args.per_device_train_batch_size, accelerator.num_processes
    )
    if accelerator.num_processes > batch_size and accelerator.is_main_process:
        warnings.warn(
            f"Of {accelerator.num_processes} processes only {batch_size} have an image in a step of"
            f" {args.total_train_batch_size}.",
            stacklevel=2,
        )
    return TrainingBatches(
        images,
        embed_texts(model, processor, images.class_names, num_variants=args.text_variants, seed=args.seed),
        batch_size=batch_size,
        seed=args.seed,
        cache=cache,
        num_workers=args.dataloader_num_workers,
    )


def count_steps(args: argparse.Namespace, num_images: int) -> tuple[int, int, int]:
    """Counts the steps of a run.

    Args:
        args (`argparse.Namespace`): of `parse_arguments`.
        num_images (`int`): number of images to train on.

    Returns:
        `tuple[int, int, int]`: number of steps, the epochs that they make, and the steps between two checkpoints.
    """
    per_step = args.total_train_batch_size
    per_epoch = math.ceil(num_images / per_step)
    save_steps = per_epoch if args.checkpointing_steps == "epoch" else int(args.checkpointing_steps)
    if args.max_train_steps is not None:
        return args.max_train_steps, math.ceil(args.max_train_steps * per_step / num_images), save_steps
    return math.ceil(args.num_train_epochs * num_images / per_step), args.num_train_epochs, save_steps
