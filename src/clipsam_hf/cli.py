# SPDX-FileCopyrightText: 2026 The clipsam_hf authors
# SPDX-License-Identifier: Apache-2.0
"""The command `clipsam`. It calls only the public API; each command is one function.

Exit codes: 0, done; 2, something that was given cannot be used, with one message that says what; anything else,
interrupted, or a fault of ours with its traceback.
"""

import difflib
import json
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from safetensors import SafetensorError
from transformers.utils import logging
from typer import Argument, Option

from . import EMBEDDED_CHECKPOINT, __version__
from .data.folders import AnomalyFolder
from .evaluation.report import FILE_NAMES
from .evaluation.run import REFINEMENT_FIELDS, EvaluationOptions, check_output
from .evaluation.run import evaluate as run_evaluation
from .modeling_clipsam import ClipSamForAnomalySegmentation
from .processing_clipsam import ClipSamProcessor


__all__ = ["app", "main"]

# Plain help and plain tracebacks: they look the same in a terminal, a log and a pipe.
app = typer.Typer(
    name="clipsam", add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False, rich_markup_mode=None
)


def main() -> None:
    """Run the command line, as the console script `clipsam` does."""
    for stream in (sys.stdout, sys.stderr):
        # A name that the terminal's encoding lacks must not end a run of hours
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    warnings.showwarning = _show_warning
    if not sys.stderr.isatty():
        logging.disable_progress_bar()
    app()


def _show_warning(message: Warning | str, *_: Any, **__: Any) -> None:
    typer.echo(f"warning: {message}", err=True)


@contextmanager
def _explained_errors() -> Iterator[None]:
    """Turn what a user can mend into one message and exit code 2."""
    try:
        yield
    except BrokenPipeError:
        raise  # nobody reads on; typer ends quietly
    except (ImportError, OSError, SafetensorError, ValueError) as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(2) from error


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(__version__)
        raise typer.Exit()


@app.callback()
def clipsam(
    version: Annotated[
        bool, Option("--version", callback=_print_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Zero-shot anomaly segmentation with CLIP and SAM."""


@app.command()
def evaluate(
    root: Annotated[Path, Argument(help="Folder of the data set.")],
    layout: Annotated[str, Option(help="auto, mvtec, visa, mtd, ksdd2, btad, folder or meta.")] = "auto",
    category: Annotated[list[str] | None, Option(help="Only this category; repeatable.")] = None,
    split: Annotated[str, Option(help="test, train, or all of them: all.")] = "test",
    visa_split: Annotated[str, Option(help="VisA: 1cls, 2cls_highshot or 2cls_fewshot.")] = "1cls",
    missing_mask: Annotated[str, Option(help="Plain folder: without mask is error or good.")] = "error",
    mask_threshold: Annotated[float, Option(help="Mask values above it are defects.")] = 0,
    model: Annotated[str | None, Option(help="Folder or repository; by default the embedded one.")] = None,
    revision: Annotated[str | None, Option(help="Commit, tag or branch of the repository.")] = None,
    clip: Annotated[str | None, Option(help="With --sam: a bare CLIP that localises by similarity.")] = None,
    sam: Annotated[str | None, Option(help="With --clip: the SAM that refines its maps.")] = None,
    settings: Annotated[list[str] | None, Option("--set", help="NAME=VALUE of the refinement; repeatable.")] = None,
    refine: Annotated[bool, Option(help="Whether SAM's maps are scored too, beside CLIP's.")] = True,
    class_name: Annotated[str | None, Option(help="What all photographs show.")] = None,
    name_map: Annotated[list[str] | None, Option(help="CATEGORY=CLASS NAME; repeatable.")] = None,
    size: Annotated[str, Option(help="Side of the square in which maps are compared, or native.")] = "518",
    mask_resize: Annotated[str, Option(help="How masks come to that size: bilinear or nearest.")] = "bilinear",
    limit: Annotated[int | None, Option(help="At most so many images per category, for a trial.")] = None,
    streaming: Annotated[bool, Option("--streaming", help="Fixed memory, certified intervals.")] = False,
    aupro_limit: Annotated[float, Option(help="False positive rate up to which AUPRO counts.")] = 0.3,
    aupro_linear200: Annotated[bool, Option("--aupro-linear200", help="Add the legacy AUPRO of papers.")] = False,
    output: Annotated[Path | None, Option(help="Folder of the results; an interrupted run goes on there.")] = None,
    overwrite: Annotated[bool, Option("--overwrite", help="Replace what is in that folder.")] = False,
    save_maps: Annotated[bool, Option("--save-maps", help="Write the maps as 32-bit TIFF.")] = False,
    cache_dir: Annotated[Path | None, Option(help="Keep SAM's embeddings here for the next run.")] = None,
    batch_size: Annotated[int, Option(help="Photographs per forward pass.")] = 1,
    num_workers: Annotated[int, Option(help="Processes that read photographs.")] = 0,
    device: Annotated[str | None, Option(help="cpu, cuda, ...; by default a GPU, where there is one.")] = None,
) -> None:  # fmt: skip
    """Score a model on a data set with masks: MVTec-AD, VisA, MTD, KolektorSDD2, BTAD or a folder of your own."""
    with _explained_errors():
        options = EvaluationOptions(
            size=_parse_size(size),
            mask_resize=mask_resize,
            refine=refine,
            limit=limit,
            class_name=class_name,
            aupro_limit=aupro_limit,
            streaming=streaming,
            aupro_linear200=aupro_linear200,
        )
        data = AnomalyFolder(
            root,
            layout,
            category=category or None,
            split=None if split == "all" else split,
            class_names=_parse_pairs("--name-map", name_map or []),
            mask_threshold=mask_threshold,
            missing_mask=missing_mask,
            visa_split=visa_split,
        )
        if output is not None:
            check_output(output, overwrite=overwrite)  # before the model: that may take minutes to load
        network, processor, name = _load_model(model, revision, clip, sam, _parse_settings(settings or []))
        try:
            results = run_evaluation(
                network,
                processor,
                data,
                options,
                output_dir=output,
                overwrite=overwrite,
                save_maps=save_maps,
                cache_dir=cache_dir,
                batch_size=batch_size,
                num_workers=num_workers,
                device=device,
                model_name=name,
            )
        except KeyboardInterrupt:
            if output is not None:
                typer.echo("interrupted; the same command, without --overwrite, goes on from here", err=True)
            raise
    if results is not None:
        typer.echo(results.to_text(), nl=False)
        if output is not None:
            typer.echo(f"written to {output}: {', '.join(FILE_NAMES.values())}", err=True)


def _load_model(
    model: str | None, revision: str | None, clip: str | None, sam: str | None, settings: Mapping[str, Any]
) -> tuple[ClipSamForAnomalySegmentation, ClipSamProcessor, str]:
    """Load a ClipSAM, or put one together from a CLIP and a SAM; with the name that reports give it."""
    try:
        return _load_parts(model, revision, clip, sam, settings)
    except OSError as error:
        # The library's own message may be about the network alone
        names = " and ".join(repr(name) for name in (model, clip, sam) if name) or f"'{EMBEDDED_CHECKPOINT}'"
        raise OSError(f"cannot load {names}: {error}") from error


def _load_parts(
    model: str | None, revision: str | None, clip: str | None, sam: str | None, settings: Mapping[str, Any]
) -> tuple[ClipSamForAnomalySegmentation, ClipSamProcessor, str]:
    if clip is None and sam is None:
        source = str(EMBEDDED_CHECKPOINT) if model is None else model
        network = ClipSamForAnomalySegmentation.from_pretrained(source, revision=revision or "main", **settings)
        processor = ClipSamProcessor.from_pretrained(source, revision=revision or "main")
        return network, processor, _public_name(source)
    if clip is None or sam is None:
        raise ValueError("--clip and --sam belong together")
    if model is not None or revision is not None:
        raise ValueError("--model and --revision cannot be combined with --clip and --sam")
    network = ClipSamForAnomalySegmentation.from_clip_sam_pretrained(clip, sam, **settings)
    processor = ClipSamProcessor.from_clip_sam_pretrained(clip, sam, image_size=network.config.image_size)
    return network, processor, f"{_public_name(clip)} + {_public_name(sam)}"


def _public_name(source: str) -> str:
    """Name a folder without the place where it lies, which is nobody's business in a report."""
    return Path(source).resolve().name if Path(source).is_dir() else source


def _parse_size(text: str) -> int | None:
    if text == "native":
        return None
    if not text.isascii() or not text.isdigit():
        raise ValueError(f"--size must be 'native' or a number of pixels such as 518, 400 or 256, got {text!r}")
    return int(text)


def _parse_pairs(option: str, texts: Sequence[str]) -> dict[str, str]:
    """Read NAME=VALUE, in which the value may hold further signs of equality."""
    pairs = {}
    for text in texts:
        name, separator, value = text.partition("=")
        if not (name and separator and value):
            raise ValueError(f"{option} must be NAME=VALUE, got {text!r}")
        pairs[name] = value
    return pairs


def _parse_settings(texts: Sequence[str]) -> dict[str, Any]:
    """Read settings of the refinement, whose values are JSON or plain words."""
    settings: dict[str, Any] = {}
    for name, value in _parse_pairs("--set", texts).items():
        if name not in REFINEMENT_FIELDS:
            nearest = difflib.get_close_matches(name, REFINEMENT_FIELDS, n=1, cutoff=0)[0]
            raise ValueError(f"--set takes {', '.join(REFINEMENT_FIELDS)}, got {name!r}; did you mean {nearest!r}?")
        try:
            settings[name] = json.loads(value)
        except json.JSONDecodeError:
            settings[name] = value
    return settings


if __name__ == "__main__":
    main()
