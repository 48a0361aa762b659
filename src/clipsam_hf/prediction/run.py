# SPDX-FileCopyrightText: 2026 The clipsam_hf authors
# SPDX-License-Identifier: Apache-2.0
"""Prediction of a photograph or a folder of them into files, on one process or several, resumable."""

import os
from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

import torch
from torch import Tensor

from ..evaluation.processes import Processes, join_processes
from ..evaluation.protocol import describe_settings
from ..files import digest_json, digest_tensors, fingerprint
from ..inference_clipsam import ClipSamInference
from ..modeling_clipsam import ClipSamForAnomalySegmentation
from ..naming_clipsam import check_defect_names
from ..patches_clipsam import read_roi
from ..processing_clipsam import ClipSamProcessor, check_threshold
from ..tiling_clipsam import check_tile
from .annotations import check_exports, write_annotations
from .compared import Compared, choose_compared
from .names import KINDS, PREVIEWS, check_names, list_photographs
from .report import write_report
from .results import FolderPredictions, check_formats
from .state import COMMAND, OutputFolder
from .work import PhotographReader, Settings, predict_share


__all__ = ["check_request", "predict_folder"]


def predict_folder(
    model: ClipSamForAnomalySegmentation,
    processor: ClipSamProcessor,
    source: str | os.PathLike[str],
    output_dir: str | os.PathLike[str],
    *,
    class_name: str | None = None,
    references: Any = None,
    roi_mask: Any = None,
    tile: str | int | None = "auto",
    refine: bool = True,
    threshold: float | None = None,
    decision_threshold: float | None = None,
    defect_names: Sequence[str] | None = None,
    save: Sequence[str] = (),
    formats: Sequence[str] = ("csv", "jsonl"),
    report: bool = False,
    export: Sequence[str] = (),
    overwrite: bool = False,
    resume: bool = False,
    batch_size: int = 1,
    num_workers: int = 2,
    device: str | torch.device | None = None,
    model_name: str | None = None,
) -> FolderPredictions | None:
    """Predict the photographs of a folder, and write a row and, if they are wanted, pictures of each.

    Scores, verdicts, masks and regions are those of the pipeline. Rows are written as they come, so a run that was
    interrupted, or killed, goes on with `resume`. Started by `torchrun` or `accelerate launch`, each process takes its
    share; all of them must see `output_dir`. A photograph that cannot be read is a row that says why.

    Args:
        model (`ClipSamForAnomalySegmentation`): it is moved to the device.
        processor (`ClipSamProcessor`): the model's.
        source (`str` or `os.PathLike`): a photograph, or a folder, see `find_photographs`.
        output_dir (`str` or `os.PathLike`): gets `predictions.jsonl` and the other formats, and a sub-folder for each
            kind of picture; nothing is written outside it. It need not exist.
        class_name (`str`, *optional*): what the photographs show. References that were made before bring it along.
        references (`str`, `os.PathLike`, `Sequence` or [`ClipSamReferences`], *optional*): what the photographs are
            compared with: good photographs, as a folder, a file or a list; references that were made before, or their
            folder or repository; or `"mutual"`, each other.
        roi_mask (*optional*): what `load_rgb` reads, not black where to look; brought to the size of each photograph.
            References that were made before may have one of their own beside it.
        tile (`str` or `int`, *optional*): how long or huge photographs are cut into tiles, which are looked at beside
            the whole, see `plan_tiles`. References that were made before have their own.
        refine (`bool`): whether SAM refines the maps.
        threshold (`float`, *optional*): of the map, in [0, 1]; by default the pipeline's.
        decision_threshold (`float`, *optional*): of the score, likewise.
        defect_names (`Sequence[str]`, *optional*): each region gets the most similar one, see `name_regions`.
        save (`Sequence[str]`): kinds of pictures, of `"overlay"`, `"heatmap"`, `"mask"` (8 bits) and `"map"` (16 bits,
            65535 is 1). They lie at `<kind>/<path of the photograph>.png`, see `picture_name`.
        formats (`Sequence[str]`): of `"csv"`, `"jsonl"` and `"parquet"`. JSON lines are always written.
        report (`bool`): whether `report.html` is written too, see `write_report`, with small pictures of each
            photograph, which stay in `preview` and `preview-map`.
        export (`Sequence[str]`): annotations to correct by hand, of `"coco"` and `"labelme"`, see `write_annotations`.
        overwrite (`bool`): whether earlier predictions in `output_dir` are removed.
        resume (`bool`): whether an earlier run, with the same arguments, is gone on with, if there is one.
        batch_size (`int`): photographs per forward pass.
        num_workers (`int`): processes that read photographs, and threads that write pictures.
        device (`str` or `torch.device`, *optional*): by default a GPU, where there is one.
        model_name (`str`, *optional*): for the protocol; by default, where the model was loaded from.

    Returns:
        `FolderPredictions`: how many photographs are what, and where the rows are; `None` on all processes but the
        first.

    Raises:
        TypeError, ValueError: if an argument is out of range, there is no photograph, the head is needed and not
            trained, or the earlier run has another protocol.
        FileExistsError: if `output_dir` is in use, and neither `overwrite` nor `resume` is set.
        OSError: if something cannot be written, or the references cannot be read.
        ImportError: if Parquet is wanted and there is no pyarrow, or there are several processes and no accelerate.

    Example:
        >>> from clipsam_hf import ClipSamForAnomalySegmentation, ClipSamProcessor
        >>> model = ClipSamForAnomalySegmentation.from_pretrained(folder)
        >>> processor = ClipSamProcessor.from_pretrained(folder)
        >>> photograph.save("photo.png")
        >>> predicted = predict_folder(model, processor, "photo.png", "out", class_name="candle", device="cpu")
        >>> [row["path"] for row in predicted.rows()]
        ['photo.png']
    """
    settings = check_request(refine, threshold, decision_threshold, save, formats, tile, report, export, defect_names)
    for name, value, least in (("batch_size", batch_size, 1), ("num_workers", num_workers, 0)):
        if value < least:
            raise ValueError(f"`{name}` must be at least {least}, got {value}")
    roi = None if roi_mask is None else read_roi(roi_mask)
    root, names = list_photographs(source, output_dir)
    check_names(names if settings.save else ())
    processes, output = join_processes(device), OutputFolder(output_dir)
    if processes.rank == 0:
        output.check(overwrite=overwrite, resume=resume)
    torch.nn.Module.to(model, processes.device).eval()
    inference = ClipSamInference(model, processor)
    compared = choose_compared(inference, references, class_name, roi, tile, len(names))
    settings = settings._replace(tile=compared.tile)
    if compared.text_weight > 0:
        model.check_trained()
        inference.embed(compared.class_name)  # a name that cannot be read is an error now
    if processes.rank == 0:
        protocol = _describe(inference, compared, names, settings, roi, model_name)
        output.open(protocol, overwrite=overwrite, resume=resume)
    reader = PhotographReader(root, names, inference.prepare, compared.class_name, settings, roi)
    _predict_pending(reader, inference, compared, output, processes, batch_size, num_workers)
    if processes.rank > 0:
        return None
    predicted = output.finish(names, list(formats))
    if report:
        write_report(output.folder)
    return predicted._replace(files=[*predicted.files, *write_annotations(output.folder, root, export)])


def check_request(
    refine: bool,
    threshold: float | None,
    decision_threshold: float | None,
    save: Sequence[str],
    formats: Sequence[str],
    tile: str | int | None = "auto",
    report: bool = False,
    export: Sequence[str] = (),
    defect_names: Sequence[str] | None = None,
) -> Settings:
    """Refuse what cannot end well before anything is read or written; see `predict_folder`.

    Returns:
        `Settings`: with the kinds of pictures in their own order.
    """
    for name, value in (("threshold", threshold), ("decision_threshold", decision_threshold)):
        if value is not None:
            check_threshold(value, name)
    for kind in save:
        if kind not in KINDS:
            raise ValueError(f"`save` takes {', '.join(KINDS)}, got {kind!r}")
    check_formats(formats)
    check_exports(export)
    check_tile(tile)
    kinds = [kind for kind in KINDS if kind in save] + (list(PREVIEWS) if report else [])
    defect_names = None if defect_names is None else check_defect_names(defect_names)
    return Settings(refine, threshold, decision_threshold, kinds, tile, defect_names)


def _predict_pending(
    reader: PhotographReader,
    inference: ClipSamInference,
    compared: Compared,
    output: OutputFolder,
    processes: Processes,
    batch_size: int,
    num_workers: int,
) -> None:
    """Predict what has no row yet, each process its share; returns when all have."""
    processes.wait()  # until the first one has opened the folder
    pending = [place for place, row in enumerate(output.find_rows(reader.names)) if row[0] < 0]
    processes.wait()  # no process may write a row before all have listed what is left
    if pending:
        references = compared.make(reader.read, output.state / "compared", processes)
        share = pending[processes.rank :: processes.total]
        rank = processes.rank
        predict_share(
            reader, share, inference, references, output, rank=rank, batch_size=batch_size, num_workers=num_workers
        )
    processes.wait()


def _describe(
    inference: ClipSamInference,
    compared: Compared,
    names: Sequence[str],
    settings: Settings,
    roi: Tensor | None,
    model_name: str | None,
) -> dict[str, Any]:
    """Return what rows and pictures depend on, as JSON values."""
    from .. import __version__  # not at the top: the package may itself be importing this module

    model = inference.model
    return {
        "command": COMMAND,
        "photographs": {"number": len(names), "list_sha256": digest_json(names)[:16]},
        "class_name": compared.class_name,
        "compared_with": compared.described,
        **settings._asdict(),
        "roi_sha256": None if roi is None else digest_tensors({"roi": roi})[:16],
        "model": {
            "name": model_name or model.config.name_or_path,
            "revision": getattr(model.config, "_commit_hash", None),
            "weights_sha256": fingerprint(model),
            "processor_sha256": digest_json(inference.processor.to_json_string())[:16],
            "dtype": str(model.dtype).removeprefix("torch."),
            "device": model.device.type,
        },
        "settings": describe_settings(model.config),
        "versions": {
            "clipsam_hf": __version__,
            **{name: version(name) for name in ("pillow", "torch", "transformers")},
        },
    }
