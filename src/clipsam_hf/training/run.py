# SPDX-FileCopyrightText: 2026 The clipsam_hf authors
# SPDX-License-Identifier: Apache-2.0
"""A whole training, from the data to the published model, step by step: what `clipsam train` runs."""

import argparse
import json
import platform
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from ..cards.card import build_card
from ..evaluation import EvaluationOptions, evaluate
from ..files import open_atomically
from ..pipeline_clipsam import ZeroShotAnomalySegmentationPipeline
from .arguments import parse_arguments
from .batches import TrainingBatches
from .calibration import calibrate
from .checkpoints import load_trained, newest_checkpoint, read_state
from .loop import TrainingInterruptedError, train_umci
from .setup import build_model, count_steps, name_set, name_training_set, prepare_batches, read_data, start


__all__ = ["TrainingRun", "exit_codes", "main", "train"]

LIBRARIES = ("accelerate", "numpy", "pillow", "safetensors", "torch", "transformers")


class TrainingRun:
    """The steps of a training. `examples/train.py` goes through them one by one, and so does [`train`].

    Args:
        args (`argparse.Namespace`): of `parse_arguments`.

    Attributes:
        accelerator (`accelerate.Accelerator`): processes, devices, precision and trackers.
        data (`AnomalyFolder`): the set to train on.
        eval_data (`AnomalyFolder`, *optional*): the set to report on.
        model (`ClipSamForAnomalySegmentation`): on its device.
        processor (`ClipSamProcessor`): the model's.
        results (`dict[str, Any]`): how the model came about, as JSON values; grows with the steps.

    Raises:
        ValueError, OSError, ImportError: if something that was given cannot be used; nothing has been written.
    """

    def __init__(self, args: argparse.Namespace) -> None:
        self.args, self.begin = args, time.monotonic()
        self.accelerator = start(args)
        self.data, self.eval_data = read_data(args)
        self.model, self.processor = build_model(args)
        self.trained_on = name_training_set(args, self.model, self.data, self.eval_data)
        self.model.to(self.accelerator.device)
        self.results: dict[str, Any] = {}
        self._evaluation: Path | None = None

    def prepare_batches(self) -> TrainingBatches:
        """Makes the batches; CLIP's part of them is computed once, by [`FeatureCache`].

        Returns:
            [`TrainingBatches`].
        """
        return prepare_batches(self.args, self.model, self.processor, self.data, self.accelerator)

    def fit(self, batches: TrainingBatches) -> None:
        """Trains by [`train_umci`], or goes on with it, and notes where the model comes from.

        Args:
            batches ([`TrainingBatches`]): those of `prepare_batches`.
        """
        args = self.args
        num_steps, num_epochs, save_steps = count_steps(args, len(batches.images))
        train_umci(
            self.model,
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
            accelerator=self.accelerator,
            show_progress=True,
        )
        checkpoint = newest_checkpoint(args.output_dir) or args.resume_from_checkpoint
        if getattr(self.accelerator.distributed_type, "value", "NO") == "FSDP":
            # This model lies in shards: load what was trained into a whole one
            self.model, self.processor = build_model(args)
            load_trained(self.model.to(self.accelerator.device), checkpoint)
        config = self.model.config
        config.image_score = args.image_score or config.image_score
        config.auxiliary_dataset, config.auxiliary_epochs = self.trained_on, num_epochs
        config.auxiliary_seed = args.seed
        self.results = self._describe(checkpoint)

    def calibrate(self) -> None:
        """Chooses the thresholds on the same images, by `calibrate`."""
        self.results["calibration"] = calibrate(
            self.model,
            self.processor,
            self.data,
            refine=not self.args.no_refine,
            batch_size=self.args.per_device_eval_batch_size,
            num_workers=self.args.dataloader_num_workers,
            accelerator=self.accelerator,
            show_progress=True,
        ).to_dict()

    def save(self) -> None:
        """Saves model, processor and code, and beside them how they came about."""
        self.results["seconds"] = round(time.monotonic() - self.begin, 1)
        if self.accelerator.is_main_process:
            folder, config = Path(self.args.output_dir), self.model.config
            self._pipeline().save_pretrained(folder, save_backbones=self.args.save_backbones)
            names = ("auxiliary_dataset", "auxiliary_epochs", "auxiliary_seed")
            results = {**{name: getattr(config, name) for name in names}, **self.results}
            with open_atomically(folder / "all_results.json") as file:
                file.write((json.dumps(results, indent=2) + "\n").encode())
        self.accelerator.wait_for_everyone()

    def report(self) -> None:
        """Evaluates on the other set, if there is one, all processes together, by `evaluate`."""
        if self.eval_data is None:
            return
        args, folder = self.args, Path(self.args.output_dir) / "evaluation"
        options = EvaluationOptions(
            size=args.eval_size, refine=not args.no_refine, aupro_linear200=args.aupro_linear200
        )
        results = evaluate(
            self.model,
            self.processor,
            self.eval_data,
            options,
            output_dir=folder,
            overwrite=(folder / "results.json").exists(),
            batch_size=args.per_device_eval_batch_size,
            num_workers=args.dataloader_num_workers,
            device=self.accelerator.device,
            model_name=self._name(),
        )
        if results is not None:
            print(results.to_text())
        self._evaluation = folder / "results.json"

    def publish(self) -> None:
        """Writes the card, whose figures come from the evaluation's file, and pushes all in one commit if wanted."""
        args = self.args
        if self.accelerator.is_main_process:
            card = build_card(
                self.model,
                model_id=self._name(),
                evaluations=[] if self._evaluation is None else [self._evaluation],
                training=Path(args.output_dir) / "all_results.json",
                license=args.license,
                example_image=args.example_image,
                example_class_name=args.example_class_name,
                processor=self.processor,
            )
            card.save(Path(args.output_dir) / "README.md")
            if args.push_to_hub:
                commit = self._pipeline().push_to_hub(
                    args.hub_model_id,
                    save_backbones=args.save_backbones,
                    card=card,
                    token=args.hub_token,
                    private=args.hub_private,
                )
                print(f"published: {commit.commit_url}")
        self.accelerator.end_training()

    def _name(self) -> str:
        return self.args.hub_model_id or Path(self.args.output_dir).resolve().name

    def _pipeline(self) -> ZeroShotAnomalySegmentationPipeline:
        return ZeroShotAnomalySegmentationPipeline(model=self.model, processor=self.processor)

    def _describe(self, checkpoint: Any) -> dict[str, Any]:
        """What must be known to repeat the run, and how it went."""
        from .. import __version__

        state = read_state(checkpoint)
        return {
            "command": self.args.command,
            "seed": self.args.seed,
            "data": {
                "name": name_set(self.args.dataset_name, self.data),
                "split": self.args.split,
                "categories": self.data.categories,
                "num_images": len(self.data),
                "num_abnormal_images": sum(sample.label == 1 for sample in self.data),
            },
            "configuration": state.configuration,
            "num_train_steps": len(state.losses),
            "losses": state.losses,
            "num_processes": self.accelerator.num_processes,
            "device": self.accelerator.device.type,
            "versions": {
                "clipsam_hf": __version__,
                **{name: version(name) for name in LIBRARIES},
                "python": platform.python_version(),
            },
        }


def train(args: argparse.Namespace) -> None:
    """Runs everything, from the data to the published model.

    Args:
        args (`argparse.Namespace`): of `parse_arguments`.

    Raises:
        ValueError, OSError, ImportError, ImageReadError: if something that was given cannot be used.
        FloatingPointError: if the loss or its gradient is not finite.
        TrainingInterruptedError: if a signal has ended the run, after saving.
    """
    run = TrainingRun(args)
    run.fit(run.prepare_batches())
    run.calibrate()
    run.save()
    run.report()
    run.publish()


@contextmanager
def exit_codes() -> Iterator[None]:
    """Ends the process: 2 and a message for what cannot be used, 128 and the signal's number after an interruption.

    Raises:
        SystemExit: if the block has not ended well.
    """
    try:
        yield
    except TrainingInterruptedError as interruption:
        print(interruption, file=sys.stderr)
        sys.exit(128 + interruption.signal_number)
    except (FloatingPointError, ImportError, OSError, SafetensorError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


def main(arguments: Sequence[str] | None = None, *, program: str | None = None) -> None:
    """Trains as the options say.

    Args:
        arguments (`Sequence[str]`, *optional*): by default those of the process.
        program (`str`, *optional*): what the help calls the program.

    Raises:
        SystemExit: as `exit_codes` says, if the training has not ended well.
    """
    args = parse_arguments(arguments, program=program)
    with exit_codes():
        train(args)
