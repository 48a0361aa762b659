# SPDX-FileCopyrightText: 2026 The clipsam_hf authors
# SPDX-License-Identifier: Apache-2.0
"""The command `clipsam`. It calls only the public API; each command is one function.

Exit codes: 0, done; 1, `clipsam predict` could not read some of the photographs; 2, something that was given cannot be
used, with one message that says what; anything else, interrupted, or a fault of ours with its traceback.
"""

import difflib
import json
import os
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from transformers.utils import logging
from typer import Argument, Option

from . import EMBEDDED_CHECKPOINT, __version__
from .configuration_clipsam import ClipSamConfig
from .data.folders import AnomalyFolder
from .data.layouts import LAYOUTS
from .evaluation.options import EvaluationOptions
from .evaluation.output import check_output, check_writable, name_folders
from .evaluation.processes import choose_device
from .evaluation.report import FILE_NAMES
from .evaluation.run import evaluate as run_evaluation
from .evaluation.sets import COMBINED_NAME, check_set_outputs, evaluate_sets
from .evaluation.writers.as_text import to_combined_text
from .gallery_clipsam import check_quantile
from .image_loading import find_photographs
from .lines import check_line, score_photographs, to_text
from .modeling_clipsam import ClipSamForAnomalySegmentation
from .prediction import FORMATS, KINDS, predict_folder
from .prediction.compared import are_photographs, check_texts
from .prediction.names import list_photographs
from .prediction.run import check_request
from .prediction.state import OutputFolder
from .processing_clipsam import ClipSamProcessor, check_class_name
from .references_clipsam import ClipSamReferences


__all__ = ["app", "main"]

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
"""What `--dtype` takes."""

_MENDABLE: tuple[type[Exception], ...] = (ImportError, OSError, SafetensorError, ValueError, torch.OutOfMemoryError)

# The networks are made for these
_FIXED = (
    "clip_config",
    "sam_config",
    "image_size",
    "umci_hidden_size",
    "strip_kernel_size",
    "scale_sizes",
    "scale_interpolation",
    "normalize_features",
    "head",
    "fused_features",
)
# What can be varied of weights that stay; what acts after SAM's encoder is cheap to vary with cached embeddings
_SETTINGS = tuple(
    name for name in ClipSamConfig.names_of("localize", "reference", "refine", "score") if name not in _FIXED
)

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
def _explained_errors(*more: type[Exception]) -> Iterator[None]:
    """Turn what a user can mend into one message and exit code 2.

    Args:
        more (`type`): what also comes of bad input here; elsewhere it would be a fault of ours.
    """
    try:
        yield
    except BrokenPipeError:
        raise  # nobody reads on; typer ends quietly
    except (*_MENDABLE, *more) as error:
        # That of a configuration's field is spread over lines; where ours has several, they are a list
        message = " ".join(str(error).split()) if isinstance(error, StrictDataclassError) else str(error)
        typer.echo(f"error: {message}", err=True)
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
    roots: Annotated[list[Path], Argument(metavar="ROOT...", help="Folder of the data set, or several.")],
    layout: Annotated[str, Option(help=f"auto, {', '.join(LAYOUTS)}.")] = "auto",
    category: Annotated[list[str] | None, Option(help="Only this category; repeatable.")] = None,
    split: Annotated[str, Option(help="test, train, or all of them: all.")] = "test",
    visa_split: Annotated[str, Option(help="VisA: 1cls, 2cls_highshot or 2cls_fewshot.")] = "1cls",
    missing_mask: Annotated[str, Option(help="Plain folder: without mask is error or good.")] = "error",
    gt_threshold: Annotated[float, Option(help="Mask values above it are defects.")] = 0,
    model: Annotated[str | None, Option(help="Folder or repository; by default the embedded one.")] = None,
    revision: Annotated[str | None, Option(help="Commit, tag or branch of the repository.")] = None,
    clip: Annotated[str | None, Option(help="With --sam: a bare CLIP; it localises by vv, or as --set says.")] = None,
    sam: Annotated[str | None, Option(help="With --clip: the SAM that refines its maps.")] = None,
    settings: Annotated[list[str] | None, Option("--set", help="NAME=VALUE of a setting; repeatable.")] = None,
    refine: Annotated[bool, Option(help="Whether SAM's maps are scored too, beside CLIP's.")] = True,
    class_name: Annotated[str | None, Option(help="What all photographs show.")] = None,
    name_map: Annotated[list[str] | None, Option(help="CATEGORY=CLASS NAME; repeatable.")] = None,
    size: Annotated[str, Option(help="Side of the square in which maps are compared, or native.")] = "518",
    mask_resize: Annotated[str, Option(help="How masks come to that size: bilinear or nearest.")] = "bilinear",
    references_per_category: Annotated[
        int | None, Option(help="Compare with so many good photographs of the train split.")
    ] = None,
    mutual: Annotated[bool, Option("--mutual", help="Compare the photographs with each other.")] = False,
    seed: Annotated[int, Option(min=0, help="Of the draw of what is compared with.")] = 0,
    limit: Annotated[int | None, Option(help="At most so many images per category, for a trial.")] = None,
    streaming: Annotated[bool, Option("--streaming", help="Fixed memory, certified intervals.")] = False,
    aupro_limit: Annotated[float, Option(help="False positive rate up to which AUPRO counts.")] = 0.3,
    aupro_linear200: Annotated[bool, Option("--aupro-linear200", help="Add the legacy AUPRO of papers.")] = False,
    output: Annotated[Path | None, Option(help="Folder of the results; an interrupted run goes on there.")] = None,
    overwrite: Annotated[bool, Option("--overwrite", help="Replace what is in that folder.")] = False,
    save_maps: Annotated[bool, Option("--save-maps", help="Write the maps as 32-bit TIFF.")] = False,
    cache_dir: Annotated[Path | None, Option(help="Keep SAM's embeddings here for the next run.")] = None,
    batch_size: Annotated[int, Option(min=1, help="Photographs per forward pass.")] = 1,
    num_workers: Annotated[int, Option(min=0, help="Processes that read photographs.")] = 0,
    device: Annotated[str | None, Option(help="cpu, cuda, ...; by default a GPU, where there is one.")] = None,
    dtype: Annotated[str | None, Option(help=f"{', '.join(DTYPES)}; by default the checkpoint's.")] = None,
) -> None:  # fmt: skip
    """Score a model on data sets with masks: MVTec-AD, VisA, MTD, KolektorSDD2, BTAD or folders of your own."""
    # Whatever can be known without it comes before the model, which may take minutes to load
    with _explained_errors(StrictDataclassError, TypeError):
        options = EvaluationOptions(
            size=_parse_size(size),
            mask_resize=mask_resize,
            refine=refine,
            limit=limit,
            class_name=class_name,
            aupro_limit=aupro_limit,
            streaming=streaming,
            aupro_linear200=aupro_linear200,
            references_per_category=references_per_category,
            mutual=mutual,
            seed=seed,
        )
        chosen_device, changes = choose_device(device), _parse_settings(settings or [])
        reading: dict[str, Any] = {
            "category": category or None,
            "split": None if split == "all" else split,
            "class_names": _parse_pairs("--name-map", name_map or []),
            "gt_threshold": gt_threshold,
            "missing_mask": missing_mask,
            "visa_split": visa_split,
        }
        names = name_folders(roots)
        sets = {name: AnomalyFolder(root, layout, **reading) for name, root in zip(names, roots, strict=True)}
        _check_folders(output, names, overwrite, save_maps, cache_dir)
        loading = {} if dtype is None else {"dtype": _parse_dtype(dtype)}
        with _explained_loading(model, clip, sam):
            network, processor, name = _load_model(model, revision, clip, sam, loading, changes)
    running: dict[str, Any] = {
        "output_dir": output,
        "overwrite": overwrite,
        "save_maps": save_maps,
        "cache_dir": cache_dir,
        "batch_size": batch_size,
        "num_workers": num_workers,
        "device": chosen_device,
        "model_name": name,
    }
    with _explained_errors():
        try:
            if len(sets) == 1:
                results = run_evaluation(network, processor, sets[names[0]], options, **running)
                report = None if results is None else results.to_text()
            else:
                found = evaluate_sets(network, processor, sets, options, **running)
                report = "\n".join([*(each.to_text() for each in found.values()), to_combined_text(found)])
                report = report if found else None
        except KeyboardInterrupt:
            if output is not None:
                typer.echo("interrupted; the same command, without --overwrite, goes on from here", err=True)
            raise
    if report is not None:
        typer.echo(report, nl=False)
        if output is not None:
            files = [*FILE_NAMES.values(), *([COMBINED_NAME] if len(sets) > 1 else [])]
            typer.echo(f"written to {output}: {', '.join(files)}", err=True)


@app.command()
def calibrate(
    folder: Annotated[Path, Argument(metavar="FOLDER", help="Photographs of good parts, sub-folders included.")],
    class_name: Annotated[str, Option(help="What the photographs show.")],
    output: Annotated[Path, Option(metavar="LINE", help="Folder for the result: what `references=` takes.")],
    model: Annotated[str | None, Option(help="Folder or repository; by default the embedded one.")] = None,
    revision: Annotated[str | None, Option(help="Commit, tag or branch of the repository.")] = None,
    clip: Annotated[str | None, Option(help="With --sam: a bare CLIP.")] = None,
    sam: Annotated[str | None, Option(help="With --clip: the SAM that will refine its maps.")] = None,
    roi: Annotated[Path | None, Option(metavar="MASK", help="Image that is not black where to look.")] = None,
    rotations: Annotated[bool, Option("--rotations", help="Parts lie in any direction.")] = False,
    quantile: Annotated[float, Option(help="Of the good scores, for the threshold; 1 is the highest.")] = 1.0,
    max_patches: Annotated[int, Option(min=1, help="At most so many patches are kept.")] = 16384,
    seed: Annotated[int, Option(min=0, help="Of the choice of these patches.")] = 0,
    defective: Annotated[
        Path | None, Option(metavar="FOLDER", help="Defective photographs: how many does it find?")
    ] = None,
    device: Annotated[str | None, Option(help="cpu, cuda, ...; by default a GPU, where there is one.")] = None,
    dtype: Annotated[str | None, Option(help=f"{', '.join(DTYPES)}; by default the checkpoint's.")] = None,
    overwrite: Annotated[bool, Option("--overwrite", help="Replace the references in LINE.")] = False,
) -> None:  # fmt: skip
    """Make references and a threshold for a production line of good photographs; no masks, no defects needed."""
    with _explained_errors(StrictDataclassError, TypeError):
        check_class_name(class_name)
        check_quantile(quantile)
        for photographs in (folder, *([] if defective is None else [defective])):
            find_photographs(photographs)
        if roi is not None and not roi.is_file():
            raise FileNotFoundError(f"--roi must be an image file, got {str(roi)!r}")
        check_writable("output", output)
        check_line(output, overwrite=overwrite)
        chosen_device, loading = choose_device(device), {} if dtype is None else {"dtype": _parse_dtype(dtype)}
        with _explained_loading(model, clip, sam):
            network, processor, _ = _load_model(model, revision, clip, sam, loading, {})
    with _explained_errors():
        torch.nn.Module.to(network, chosen_device).eval()
        references = ClipSamReferences.from_images(
            network,
            processor,
            folder,
            class_name=class_name,
            roi_mask=roi,
            rotations=rotations,
            max_patches=max_patches,
            quantile=quantile,
            seed=seed,
            show_progress=True,
        )
        scored = None
        if defective is not None:
            scored = score_photographs(network, processor, references, defective, show_progress=True)
        references.save_pretrained(output)
    typer.echo(to_text(references, scored), nl=False)
    typer.echo(f"written to {output}; it is what `references=` of the pipeline takes", err=True)


@app.command()
def predict(
    source: Annotated[Path, Argument(metavar="IMAGE_OR_FOLDER", help="Photograph, or folder with its sub-folders.")],
    output: Annotated[Path, Option(metavar="DIR", help="Folder of the results.")],
    class_name: Annotated[str | None, Option(help="What the photographs show; a calibrated line knows it.")] = None,
    references: Annotated[
        str | None, Option(metavar="DIR_OR_FILE", help="Good photographs, or what `clipsam calibrate` made of them.")
    ] = None,
    mutual: Annotated[bool, Option("--mutual", help="Compare the photographs with each other.")] = False,
    roi: Annotated[
        Path | None, Option(metavar="MASK", help="With good photographs: image that is not black where to look.")
    ] = None,
    refine: Annotated[bool, Option(help="Whether SAM refines CLIP's maps.")] = True,
    threshold: Annotated[float | None, Option(help="Of the map, in [0, 1]; by default the model's or line's.")] = None,
    decision_threshold: Annotated[float | None, Option(help="Of the score, for the verdict; likewise.")] = None,
    save: Annotated[str, Option(help=f"Pictures of each photograph, with commas between: {', '.join(KINDS)}.")] = "",
    formats: Annotated[
        str, Option("--format", help=f"Of the rows, with commas between: {', '.join(FORMATS)}.")
    ] = "csv,jsonl",
    model: Annotated[str | None, Option(help="Folder or repository; by default the embedded one.")] = None,
    revision: Annotated[str | None, Option(help="Commit, tag or branch of the repository.")] = None,
    clip: Annotated[str | None, Option(help="With --sam: a bare CLIP.")] = None,
    sam: Annotated[str | None, Option(help="With --clip: the SAM that refines its maps.")] = None,
    device: Annotated[str | None, Option(help="cpu, cuda, ...; by default a GPU, where there is one.")] = None,
    dtype: Annotated[str | None, Option(help=f"{', '.join(DTYPES)}; by default the checkpoint's.")] = None,
    batch_size: Annotated[int, Option(min=1, help="Photographs per forward pass.")] = 1,
    num_workers: Annotated[int, Option(min=0, help="Processes that read, and threads that write.")] = 2,
    overwrite: Annotated[bool, Option("--overwrite", help="Replace the predictions in DIR.")] = False,
    resume: Annotated[bool, Option("--resume", help="Go on with the run in DIR that was interrupted.")] = False,
) -> None:  # fmt: skip
    """Predict a photograph or a folder: a row for each, and pictures; exit code 1 if some cannot be read."""
    with _explained_errors(StrictDataclassError, TypeError):
        if mutual and references is not None:
            raise ValueError("--mutual and --references exclude each other")
        compared_with = "mutual" if mutual else references
        if references is not None and os.path.isdir(references) and are_photographs(references):
            find_photographs(references)
        chosen: dict[str, Any] = {"save": _parse_list(save), "formats": _parse_list(formats)}
        chosen |= {"refine": refine, "threshold": threshold, "decision_threshold": decision_threshold}
        check_request(**chosen)
        check_texts(compared_with, class_name, roi)
        if roi is not None and not roi.is_file():
            raise FileNotFoundError(f"--roi must be an image file, got {str(roi)!r}")
        list_photographs(source, output)
        if os.environ.get("RANK", "0") == "0":  # the first process may have begun when the others come here
            OutputFolder(output).check(overwrite=overwrite, resume=resume)
        chosen_device, loading = choose_device(device), {} if dtype is None else {"dtype": _parse_dtype(dtype)}
        with _explained_loading(model, clip, sam):
            network, processor, name = _load_model(model, revision, clip, sam, loading, {})
    chosen |= {"overwrite": overwrite, "resume": resume, "batch_size": batch_size, "num_workers": num_workers}
    chosen |= {"class_name": class_name, "references": compared_with, "roi_mask": roi, "model_name": name}
    with _explained_errors():
        try:
            predicted = predict_folder(network, processor, source, output, device=chosen_device, **chosen)
        except KeyboardInterrupt:
            typer.echo("interrupted; the same command with --resume, without --overwrite, goes on from here", err=True)
            raise typer.Exit(130) from None
    if predicted is None:
        return  # another process has the results
    typer.echo(predicted.to_text())
    typer.echo(f"written to {output}: {', '.join([*predicted.files, *chosen['save']])}", err=True)
    if predicted.failed:
        typer.echo("what could not be read has a row with the reason", err=True)
        raise typer.Exit(1)


@app.command(add_help_option=False, context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def train(context: typer.Context) -> None:
    """Train a head on one data set and report on another; `clipsam train --help` shows the options."""
    from .training.run import main as run_training

    run_training(context.args, program="clipsam train")


def _check_folders(
    output: Path | None, names: Sequence[str], overwrite: bool, save_maps: bool, cache_dir: Path | None
) -> None:
    """Refuse what cannot, or must not, be written to."""
    if output is not None and len(names) > 1:
        check_set_outputs(output, names, overwrite=overwrite)
    elif output is not None:
        check_output(output, overwrite=overwrite)
    elif save_maps:
        raise ValueError("--save-maps needs --output")
    if cache_dir is not None:
        check_writable("cache_dir", cache_dir)


@contextmanager
def _explained_loading(*names: str | None) -> Iterator[None]:
    """Say what cannot be loaded; the library's own message may be about the network alone, with hints over lines."""
    given = [name for name in names if name is not None]
    for name in given:
        if _looks_like_a_path(name) and not Path(name).is_dir():
            raise NotADirectoryError(f"{name!r} is no folder with a checkpoint")
    try:
        yield
    except OSError as error:
        sources = " and ".join(map(repr, given)) or f"'{EMBEDDED_CHECKPOINT}'"
        raise OSError(f"cannot load {sources}: {str(error).strip().partition(chr(10))[0]}") from error


def _looks_like_a_path(name: str) -> bool:
    """Tell a path from the name of a repository, which has one part or two."""
    return name.startswith((".", "~", "/")) or name.count("/") > 1 or "\\" in name


def _load_model(
    model: str | None,
    revision: str | None,
    clip: str | None,
    sam: str | None,
    loading: Mapping[str, Any],
    settings: Mapping[str, Any],
) -> tuple[ClipSamForAnomalySegmentation, ClipSamProcessor, str]:
    """Load a ClipSAM, or put one together from a CLIP and a SAM; with the name that reports give it."""
    if clip is None and sam is None:
        source, revision = str(EMBEDDED_CHECKPOINT) if model is None else model, revision or "main"
        if "feature_layers" in settings:
            stored = ClipSamConfig.from_pretrained(source, revision=revision)
            _check_layers(settings.get("localizer", stored.localizer))
        network = ClipSamForAnomalySegmentation.from_pretrained(source, revision=revision, **loading, **settings)
        processor = ClipSamProcessor.from_pretrained(source, revision=revision)
        return network, processor, _public_name(source)
    if clip is None or sam is None:
        raise ValueError("--clip and --sam belong together")
    if model is not None or revision is not None:
        raise ValueError("--model and --revision cannot be combined with --clip and --sam")
    network = ClipSamForAnomalySegmentation.from_clip_sam_pretrained(
        clip, sam, clip_kwargs=dict(loading), sam_kwargs=dict(loading), **settings
    )
    processor = ClipSamProcessor.from_clip_sam_pretrained(clip, sam, image_size=network.config.image_size)
    return network, processor, f"{_public_name(clip)} + {_public_name(sam)}"


def _check_layers(localizer: str) -> None:
    """Refuse other stages than a trained head was made for."""
    if localizer == "umci":
        raise ValueError(
            "--set feature_layers needs a localizer without a trained head, vv, windows or similarity, got 'umci'"
        )


def _public_name(source: str) -> str:
    """Name a folder without the place where it lies, which is nobody's business in a report."""
    return Path(source).resolve().name if Path(source).is_dir() else source


def _parse_size(text: str) -> int | None:
    if text == "native":
        return None
    if not text.isascii() or not text.isdigit():
        raise ValueError(f"--size must be 'native' or a number of pixels such as 518, 400 or 256, got {text!r}")
    return int(text)


def _parse_dtype(text: str) -> torch.dtype:
    if text not in DTYPES:
        raise ValueError(f"--dtype must be one of {', '.join(DTYPES)}, got {text!r}")
    return DTYPES[text]


def _parse_list(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


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
    """Read settings of localizer, refinement and score, whose values are JSON or plain words."""
    settings: dict[str, Any] = {}
    for name, value in _parse_pairs("--set", texts).items():
        if name not in _SETTINGS:
            nearest = difflib.get_close_matches(name, _SETTINGS, n=1, cutoff=0)[0]
            hint = "the networks are made for it" if name in _FIXED else f"did you mean {nearest!r}?"
            raise ValueError(f"--set takes {', '.join(_SETTINGS)}, got {name!r}; {hint}")
        try:
            settings[name] = json.loads(value)
        except json.JSONDecodeError:
            settings[name] = value
    return settings


if __name__ == "__main__":
    main()
