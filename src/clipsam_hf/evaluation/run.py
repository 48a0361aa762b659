# SPDX-FileCopyrightText: 2026 The clipsam_hf authors
# SPDX-License-Identifier: Apache-2.0
"""Evaluation of a model on a data set with ground truth: one pass, both maps, resumable, on one process or several.

The images are cut into chunks of one category and one kind of defect. A finished chunk is a file with all that the
metrics collected from it. The figures come from these files in a fixed order, so they do not depend on how often the
run was interrupted or how many processes shared it.
"""

import os
import warnings
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch.utils.data import DataLoader
from tqdm import tqdm  # type: ignore[import-untyped]

from ..data import AnomalyDataset, AnomalyFolder
from ..data.layouts import GOOD
from ..inference_clipsam import ClipSamInference
from ..metrics.masks import resize_mask
from ..modeling_clipsam import ClipSamForAnomalySegmentation
from ..processing_clipsam import ClipSamProcessor
from .collect import collect_results, merge_groups, plan_groups
from .comparison import Comparison, choose_comparison, needs_texts
from .options import EvaluationOptions
from .output import MAPS_NAME, STATE_NAME, check_output, check_writable
from .plan import Chunk, cut_into_chunks, plan_examples
from .processes import join_processes
from .protocol import SEEN, describe
from .reading import Photograph, PhotographReader, complete_embeddings, open_cache
from .report import EvaluationResults
from .state import EmbeddingCache, StateFolder


__all__ = ["evaluate"]


def evaluate(
    model: ClipSamForAnomalySegmentation,
    processor: ClipSamProcessor,
    data: AnomalyFolder | AnomalyDataset,
    options: EvaluationOptions | None = None,
    *,
    output_dir: str | os.PathLike[str] | None = None,
    overwrite: bool = False,
    save_maps: bool = False,
    cache_dir: str | os.PathLike[str] | None = None,
    batch_size: int = 1,
    num_workers: int = 0,
    device: str | torch.device | None = None,
    model_name: str | None = None,
) -> EvaluationResults | None:
    """Run a model over a data set and compute the figures of its rough and its refined maps.

    Started again after an interruption, it goes on with the chunk that was not finished. Started by `torchrun` or
    `accelerate launch`, each process takes its share of the chunks; all of them must see the folder `output_dir`.

    Args:
        model (`ClipSamForAnomalySegmentation`): with a trained head, or a localizer that needs none.
        processor (`ClipSamProcessor`): the model's.
        data (`AnomalyFolder` or `AnomalyDataset`): photographs, masks and labels. A set that the model was trained on
            is no error, but a warning and a note in the report.
        options (`EvaluationOptions`, *optional*): what the figures depend on.
        output_dir (`str` or `os.PathLike`, *optional*): gets the results and, until they are there, the state of the
            run. Without it nothing is kept.
        overwrite (`bool`): whether results, or the state of another run, may be replaced.
        save_maps (`bool`): whether to write the maps as they were scored, as 32-bit floating point TIFF, below
            `output_dir/maps/rough` and `maps/refined`, each under the path of its photograph.
        cache_dir (`str` or `os.PathLike`, *optional*): keeps the refiner's image embeddings for the next evaluation,
            whatever its thresholds and prompts.
        batch_size (`int`): photographs per forward pass.
        num_workers (`int`): processes that read and prepare photographs.
        device (`str` or `torch.device`, *optional*): by default a GPU, where there is one.
        model_name (`str`, *optional*): for the report; by default, where the model was loaded from.

    Returns:
        `EvaluationResults`: figures, protocol and notes; `None` on all processes but the first.

    Raises:
        ValueError: if the head is needed and not trained, a category has too few (good) photographs, an option is out
            of range, there is no image, the output folder is in use, or its unfinished run has another protocol.
        OSError: if a file cannot be read or written.
        ImportError: if there are several processes and no accelerate.
    """
    options = options or EvaluationOptions()
    if needs_texts(model.config, options):
        model.check_trained()
    _check_request(output_dir, overwrite, save_maps, cache_dir, batch_size, num_workers)
    processes = join_processes(device)
    if processes.total > 1 and output_dir is None:
        raise ValueError("Several processes need `output_dir`, a folder that all of them see.")

    comparison, examples = choose_comparison(data, plan_examples(data, options), options)
    chunks = cut_into_chunks(examples)
    torch.nn.Module.to(model, processes.device).eval()
    inference = ClipSamInference(model, processor)
    for name in sorted({example.class_name for example in examples}):
        inference.embed(name)  # a name that cannot be read is an error now, not after hours
    protocol = describe(model, processor, data, options, examples, model_name, comparison)
    notes = _notes_on(protocol)
    if processes.rank == 0:
        for note in notes:
            warnings.warn(note, stacklevel=2)
    with TemporaryDirectory() if output_dir is None else nullcontext(output_dir) as folder:
        state = StateFolder(Path(folder) / STATE_NAME)
        if processes.rank == 0:
            if overwrite:
                state.remove()
            state.open(protocol)
        processes.wait()
        comparison.prepare(inference, state.folder / "compared", processes)
        pending = [chunk for chunk in chunks if not state.has(chunk.number)]
        processes.wait()  # no process may finish a chunk before all have listed what is left

        _score_chunks(
            pending[processes.rank :: processes.total],
            data,
            inference,
            state,
            options,
            comparison,
            cache=open_cache(inference, cache_dir),
            paths={example.place: example.path for example in examples},
            maps_dir=Path(folder) / MAPS_NAME if save_maps else None,
            batch_size=batch_size,
            num_workers=num_workers,
            quiet=processes.rank > 0,
        )
        processes.wait()
        groups = plan_groups(chunks, options)
        merge_groups(state, groups[processes.rank :: processes.total], options)
        processes.wait()
        if processes.rank > 0:
            return None

        places = {example.place: example for example in examples}
        results = collect_results(state, groups, options, protocol, places, notes)
        results = replace(results, notes=[*results.notes, *comparison.judge(results.images)])
        if output_dir is not None:
            results.write(Path(output_dir))
            state.remove()
        return results


def _check_request(
    output_dir: str | os.PathLike[str] | None,
    overwrite: bool,
    save_maps: bool,
    cache_dir: str | os.PathLike[str] | None,
    batch_size: int,
    num_workers: int,
) -> None:
    """Refuse what cannot end well before anything is read or written."""
    for name, value, least in (("batch_size", batch_size, 1), ("num_workers", num_workers, 0)):
        if value < least:
            raise ValueError(f"`{name}` must be at least {least}, got {value}")
    if output_dir is not None:
        check_output(output_dir, overwrite=overwrite)
    elif save_maps:
        raise ValueError("`save_maps` needs `output_dir`")
    if cache_dir is not None:
        check_writable("cache_dir", Path(cache_dir))


def _notes_on(protocol: Mapping[str, Any]) -> list[str]:
    """Say what a reader must know before any figure."""
    notes = []
    look = protocol.get("photographs", {})
    if look.get("tile") is not None:
        notes.append(f"photographs are looked at in tiles too (`tile` {look['tile']!r}): published figures are not")
    if look.get("roi_sha256") is not None:
        notes.append("only a region of interest is looked at: what lies outside counts as called good")
    if SEEN not in protocol["setting"]:
        return notes
    name, sets = protocol["data"]["name"], protocol["model"]["auxiliary_dataset"]
    return [
        *notes,
        f"the model was trained on {name!r} (`auxiliary_dataset`: {sets!r}): these figures say nothing about other"
        " sets, and must not be compared with zero-shot figures",
    ]


def _score_chunks(
    chunks: Sequence[Chunk],
    data: AnomalyFolder | AnomalyDataset,
    inference: ClipSamInference,
    state: StateFolder,
    options: EvaluationOptions,
    comparison: Comparison,
    *,
    cache: EmbeddingCache | None,
    paths: Mapping[int, str],
    maps_dir: Path | None,
    batch_size: int,
    num_workers: int,
    quiet: bool,
) -> None:
    """Predict and score chunk by chunk, and keep what the metrics collected of each."""
    reader = PhotographReader(
        data,
        inference.prepare,
        class_name=options.class_name,
        refine=options.refine,
        cache=cache,
        roi=options.roi,
        tile=options.tile,
    )
    batches = [
        chunk.places[start : start + batch_size]
        for chunk in chunks
        for start in range(0, len(chunk.places), batch_size)
    ]
    loader = iter(DataLoader(reader, batch_sampler=batches, collate_fn=list, num_workers=num_workers))
    # `disable=None`: no bar where nobody sees it
    with tqdm(total=sum(map(len, batches)), unit="image", disable=True if quiet else None) as progress:
        for chunk in chunks:
            collected = {name: options.new_metrics() for name in options.map_names}
            references = comparison.at(chunk.category)
            for _ in range(0, len(chunk.places), batch_size):
                batch = next(loader)
                for photograph, maps in zip(
                    batch, _predict(batch, inference, options, cache, references, comparison), strict=True
                ):
                    for name, (anomaly_map, score) in maps.items():
                        mask = _mask_for(photograph, anomaly_map.shape, options)
                        # A small defect may vanish from the resized mask; its image stays abnormal
                        is_abnormal = chunk.kind != GOOD
                        collected[name].update(anomaly_map, mask, chunk.category, image_score=score, label=is_abnormal)
                        if maps_dir is not None:
                            _save_map(anomaly_map, maps_dir / name / paths[photograph.place])
                progress.update(len(batch))
            state.save(chunk.number, collected)


def _predict(
    batch: Sequence[Photograph],
    inference: ClipSamInference,
    options: EvaluationOptions,
    cache: EmbeddingCache | None,
    references: Any,
    comparison: Comparison,
) -> list[dict[str, tuple[NDArray[np.float32], float]]]:
    """Return for each photograph, by name, its maps at the size at which they are compared, and their scores."""
    images = [photograph.prepared for photograph in batch]
    if cache is not None and options.refine:
        images = complete_embeddings(batch, inference, cache)
    images = [
        image._replace(place=comparison.number_of(photograph.place))
        for image, photograph in zip(images, batch, strict=True)
    ]
    size = None if options.size is None else (options.size, options.size)
    predicted = []
    for prediction in inference.predict(images, references):
        maps = {"rough": (prediction.resized("rough_anomaly_map", size), prediction.rough_score)}
        if options.refine:
            maps["refined"] = (prediction.resized("anomaly_map", size), prediction.pred_score)
        predicted.append(maps)
    return predicted


def _mask_for(photograph: Photograph, shape: tuple[int, ...], options: EvaluationOptions) -> NDArray[np.bool_] | None:
    height, width = shape
    mask = photograph.gt_mask
    return None if mask is None else resize_mask(mask, (height, width), options.mask_rule)


def _save_map(anomaly_map: NDArray[np.float32], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(anomaly_map).save(path.with_name(f"{path.name}.tiff"), compression="tiff_adobe_deflate")
