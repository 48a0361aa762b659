# SPDX-FileCopyrightText: 2026 The clipsam_hf authors
# SPDX-License-Identifier: Apache-2.0
"""`clipsam evaluate`."""

import difflib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer import Argument, Option

from .options import (
    BatchSizeOption,
    ClipOption,
    DeviceOption,
    DtypeOption,
    ModelOption,
    RevisionOption,
    SamOption,
    TileOption,
    check_roi,
    explained_errors,
    load_model,
    parse_pairs,
    parse_tile,
)


if TYPE_CHECKING:
    from ..data.folders import AnomalyFolder
    from ..evaluation.options import EvaluationOptions
    from ..modeling_clipsam import ClipSamForAnomalySegmentation
    from ..processing_clipsam import ClipSamProcessor

LAYOUTS = ("meta", "mtd", "ksdd2", "btad", "visa", "mvtec", "folder")
"""The names in `data.layouts`, whose import takes seconds."""

# The networks are made for these
FIXED = (
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


def evaluate(
    roots: Annotated[list[Path], Argument(metavar="ROOT...", help="Folder of the data set, or several.")],
    layout: Annotated[str, Option(help=f"auto, {', '.join(LAYOUTS)}.")] = "auto",
    category: Annotated[list[str] | None, Option(help="Only this category; repeatable.")] = None,
    split: Annotated[str, Option(help="test, train, or all of them: all.")] = "test",
    visa_split: Annotated[str, Option(help="VisA: 1cls, 2cls_highshot or 2cls_fewshot.")] = "1cls",
    missing_mask: Annotated[str, Option(help="Plain folder: without mask is error or good.")] = "error",
    gt_threshold: Annotated[float, Option(help="Mask values above it are defects.")] = 0,
    model: ModelOption = None,
    revision: RevisionOption = None,
    clip: ClipOption = None,
    sam: SamOption = None,
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
    tile: TileOption = "none",
    roi: Annotated[Path | None, Option(metavar="MASK", help="Image that is not black where to look.")] = None,
    limit: Annotated[int | None, Option(help="At most so many images per category, for a trial.")] = None,
    streaming: Annotated[bool, Option("--streaming", help="Fixed memory, certified intervals.")] = False,
    aupro_limit: Annotated[float, Option(help="False positive rate up to which AUPRO counts.")] = 0.3,
    aupro_linear200: Annotated[bool, Option("--aupro-linear200", help="Add the legacy AUPRO of papers.")] = False,
    output: Annotated[Path | None, Option(help="Folder of the results; an interrupted run goes on there.")] = None,
    overwrite: Annotated[bool, Option("--overwrite", help="Replace what is in that folder.")] = False,
    save_maps: Annotated[bool, Option("--save-maps", help="Write the maps as 32-bit TIFF.")] = False,
    cache_dir: Annotated[Path | None, Option(help="Keep SAM's embeddings here for the next run.")] = None,
    batch_size: BatchSizeOption = 1,
    num_workers: Annotated[int, Option(min=0, help="Processes that read photographs.")] = 0,
    device: DeviceOption = None,
    dtype: DtypeOption = None,
) -> None:  # fmt: skip
    """Score a model on data sets with masks: MVTec-AD, VisA, MTD, KolektorSDD2, BTAD or folders of your own."""
    from ..data.folders import AnomalyFolder
    from ..evaluation.options import EvaluationOptions
    from ..evaluation.output import name_folders
    from ..evaluation.processes import choose_device

    # Whatever can be known without it comes before the model, which may take minutes to load
    with explained_errors(of_input=True):
        check_roi(roi)
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
            tile=parse_tile(tile),
            roi_mask=roi,
        )
        chosen_device, changes = choose_device(device), _parse_settings(settings or [])
        reading: dict[str, Any] = {
            "category": category or None,
            "split": None if split == "all" else split,
            "class_names": parse_pairs("--name-map", name_map or []),
            "gt_threshold": gt_threshold,
            "missing_mask": missing_mask,
            "visa_split": visa_split,
        }
        names = name_folders(roots)
        sets = {name: AnomalyFolder(root, layout, **reading) for name, root in zip(names, roots, strict=True)}
        _check_folders(output, names, overwrite, save_maps, cache_dir)
        network, processor, name = load_model(model, revision, clip, sam, dtype=dtype, settings=changes)
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
    _run(network, processor, sets, options, output, running)


def _run(
    network: "ClipSamForAnomalySegmentation",
    processor: "ClipSamProcessor",
    sets: Mapping[str, "AnomalyFolder"],
    options: "EvaluationOptions",
    output: Path | None,
    running: Mapping[str, Any],
) -> None:
    """Evaluate, and print what comes of it; another process than the first has nothing to print."""
    from ..evaluation.report import FILE_NAMES
    from ..evaluation.run import evaluate as run_evaluation
    from ..evaluation.sets import COMBINED_NAME, evaluate_sets
    from ..evaluation.writers.as_text import to_combined_text

    with explained_errors():
        try:
            if len(sets) == 1:
                results = run_evaluation(network, processor, next(iter(sets.values())), options, **running)
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


def _check_folders(
    output: Path | None, names: Sequence[str], overwrite: bool, save_maps: bool, cache_dir: Path | None
) -> None:
    """Refuse what cannot, or must not, be written to."""
    from ..evaluation.output import check_output, check_writable
    from ..evaluation.sets import check_set_outputs

    if output is not None and len(names) > 1:
        check_set_outputs(output, names, overwrite=overwrite)
    elif output is not None:
        check_output(output, overwrite=overwrite)
    elif save_maps:
        raise ValueError("--save-maps needs --output")
    if cache_dir is not None:
        check_writable("cache_dir", cache_dir)


def _parse_size(text: str) -> int | None:
    if text == "native":
        return None
    if not text.isascii() or not text.isdigit():
        raise ValueError(f"--size must be 'native' or a number of pixels such as 518, 400 or 256, got {text!r}")
    return int(text)


def list_settings() -> tuple[str, ...]:
    """List what can be varied of weights that stay; what acts after SAM's encoder is cheap to vary with a cache."""
    from ..configuration_clipsam import ClipSamConfig

    names = ClipSamConfig.names_of("localize", "reference", "refine", "score")
    return tuple(name for name in names if name not in FIXED)


def _parse_settings(texts: Sequence[str]) -> dict[str, Any]:
    """Read settings of localizer, refinement and score, whose values are JSON or plain words."""
    settings: dict[str, Any] = {}
    names = list_settings()
    for name, value in parse_pairs("--set", texts).items():
        if name not in names:
            nearest = difflib.get_close_matches(name, names, n=1, cutoff=0)[0]
            hint = "the networks are made for it" if name in FIXED else f"did you mean {nearest!r}?"
            raise ValueError(f"--set takes {', '.join(names)}, got {name!r}; {hint}")
        try:
            settings[name] = json.loads(value)
        except json.JSONDecodeError:
            settings[name] = value
    return settings
