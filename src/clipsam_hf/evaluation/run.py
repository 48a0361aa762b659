# SPDX-FileCopyrightText: 2026 The clipsam_hf authors
# SPDX-License-Identifier: Apache-2.0
"""Evaluation of a model on a data set with ground truth: one pass, both maps, resumable, on one process or several.

The images are cut into chunks of one category and one kind of defect. A finished chunk is a file with all that the
metrics collected from it. The figures come from these files in a fixed order, so they do not depend on how often the
run was interrupted or how many processes shared it.
"""

import os
import platform
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from datetime import timedelta
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader
from tqdm import tqdm  # type: ignore[import-untyped]

from ..data.folders import AnomalyDataset, AnomalyFolder
from ..data.layouts import DEFECT, GOOD
from ..files import digest_json, fingerprint
from ..metrics.anomaly import AnomalyMetrics, resize_mask
from ..modeling_clipsam import ClipSamForAnomalySegmentation
from ..processing_clipsam import ClipSamProcessor
from .predictor import Photograph, PhotographReader, Predictor, open_cache
from .report import ALL_KINDS, FILE_NAMES, MEAN, EvaluationResults, ImageRow, ResultRow
from .state import StateFolder


__all__ = ["REFINEMENT_FIELDS", "EvaluationOptions", "check_output", "evaluate"]

REFINEMENT_FIELDS = (
    "binarize_threshold",
    "min_region_fraction",
    "max_regions",
    "prompt_type",
    "num_points",
    "point_seed",
    "multimask_output",
    "mask_fusion",
    "merge",
    "image_score",
    "score_top_fraction",
)
"""Fields of the configuration that act after CLIP and SAM's encoder: with cached embeddings they are cheap to vary."""

STATE_NAME = "state"
MAPS_NAME = "maps"

# A chunk is what an interruption can cost at most, and what processes take in turn.
_CHUNK_SIZE = 16


@dataclass(frozen=True)
class EvaluationOptions:
    """What the figures depend on, beside the model and the data.

    Args:
        size (`int`, *optional*): side in pixels of the square in which maps and masks are compared; `None` compares
            at the size of each photograph.
        mask_resize (`str`): how masks come to that size, `"bilinear"` or `"nearest"`, see `resize_mask`. Without
            meaning where `size` is `None`.
        refine (`bool`): whether SAM's map is evaluated too; CLIP's always is.
        limit (`int`, *optional*): at most so many images per category, good and abnormal ones in proportion, spread
            evenly over the list. For trials: the figures are not those of the data set.
        class_name (`str`, *optional*): what all photographs show; by default, the data's name of their category.
        aupro_limit (`float`): false positive rate up to which AUPRO is integrated.
        streaming (`bool`): histograms and certified intervals instead of exact figures, in fixed memory.
        aupro_linear200 (`bool`): adds the loop of most published tables, for comparison with papers only.

    Raises:
        ValueError: if one is out of range.
    """

    size: int | None = 518
    mask_resize: str = "bilinear"
    refine: bool = True
    limit: int | None = None
    class_name: str | None = None
    aupro_limit: float = 0.3
    streaming: bool = False
    aupro_linear200: bool = False

    def __post_init__(self) -> None:
        for name in ("size", "limit"):
            value = getattr(self, name)
            if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
                raise ValueError(f"`{name}` must be a positive integer or None, got {value!r}")
        if self.mask_resize not in ("bilinear", "nearest"):
            raise ValueError(f"`mask_resize` must be 'bilinear' or 'nearest', got {self.mask_resize!r}")
        self.new_metrics()

    @property
    def mask_rule(self) -> str:
        """The rule for `resize_mask`."""
        return "native" if self.size is None else self.mask_resize

    @property
    def map_names(self) -> list[str]:
        """The maps that are evaluated."""
        return ["rough", "refined"] if self.refine else ["rough"]

    def new_metrics(self) -> AnomalyMetrics:
        """Return empty metrics with these options."""
        return AnomalyMetrics(self.aupro_limit, streaming=self.streaming, aupro_linear200=self.aupro_linear200)


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
        model (`ClipSamForAnomalySegmentation`): with a trained head, or `localizer="similarity"`.
        processor (`ClipSamProcessor`): the model's.
        data (`AnomalyFolder` or `AnomalyDataset`): photographs, masks and labels.
        options (`EvaluationOptions`, *optional*): what the figures depend on.
        output_dir (`str` or `os.PathLike`, *optional*): gets the results and, until they are there, the state of the
            run. Without it nothing is kept.
        overwrite (`bool`): whether results, or the state of another run, may be replaced.
        save_maps (`bool`): whether to write the maps as they were scored, as 32-bit floating point TIFF, below
            `output_dir/maps/rough` and `maps/refined`, each under the path of its photograph.
        cache_dir (`str` or `os.PathLike`, *optional*): keeps SAM's image embeddings for the next evaluation, whatever
            its `REFINEMENT_FIELDS`.
        batch_size (`int`): photographs per forward pass.
        num_workers (`int`): processes that read and prepare photographs.
        device (`str` or `torch.device`, *optional*): by default a GPU, where there is one.
        model_name (`str`, *optional*): for the report; by default, where the model was loaded from.

    Returns:
        `EvaluationResults`: figures, protocol and notes; `None` on all processes but the first.

    Raises:
        ValueError: if the head is not trained, an option is out of range, there is no image, the output folder is in
            use, or its unfinished run has another protocol.
        OSError: if a file cannot be read or written.
        ImportError: if there are several processes and no accelerate.
    """
    options = options or EvaluationOptions()
    _check_request(model, output_dir, overwrite, save_maps, cache_dir, batch_size, num_workers)
    processes = _join_processes(device)
    if processes.total > 1 and output_dir is None:
        raise ValueError("Several processes need `output_dir`, a folder that all of them see.")

    examples = _plan(data, options)
    chunks = _cut(examples)
    torch.nn.Module.to(model, processes.device).eval()
    protocol = _describe(model, processor, data, options, examples, model_name)
    with TemporaryDirectory() if output_dir is None else nullcontext(output_dir) as folder:
        state = StateFolder(Path(folder) / STATE_NAME)
        if processes.rank == 0:
            if overwrite:
                state.remove()
            state.open(protocol)
        processes.wait()
        pending = [chunk for chunk in chunks if not state.has(chunk.number)]
        processes.wait()  # no process may finish a chunk before all have listed what is left

        cache = open_cache(model, processor, cache_dir)
        _score_chunks(
            pending[processes.rank :: processes.total],
            PhotographReader(data, processor, class_name=options.class_name, refine=options.refine, cache=cache),
            Predictor(model, processor, refine=options.refine, cache=cache),
            state,
            options,
            paths={example.place: example.path for example in examples},
            maps_dir=Path(folder) / MAPS_NAME if save_maps else None,
            batch_size=batch_size,
            num_workers=num_workers,
            quiet=processes.rank > 0,
        )
        processes.wait()
        if processes.rank > 0:
            return None

        results = _collect(state, chunks, options, protocol, {example.place: example for example in examples})
        if output_dir is not None:
            results.write(Path(output_dir))
            state.remove()
        return results


def check_output(output_dir: str | os.PathLike[str], *, overwrite: bool = False) -> None:
    """Raise if results cannot, or must not, be written to a folder; nothing is made or changed.

    Args:
        output_dir (`str` or `os.PathLike`): the folder; it need not exist. The state of an unfinished run is no
            obstacle.
        overwrite (`bool`): whether results that are there may be replaced.

    Raises:
        NotADirectoryError: if a file is in the way.
        PermissionError: if the folder cannot be written to or made.
        FileExistsError: if it holds results or anything else, and `overwrite` is not set.
    """
    folder = Path(output_dir)
    _check_writable("output_dir", folder)
    # Listed once: another process of the same run may be making its state right now
    names = {path.name for path in folder.iterdir()} if folder.exists() else set()
    if names and STATE_NAME not in names and not overwrite:
        what = "results" if FILE_NAMES["json"] in names else "files"
        raise FileExistsError(f"{str(folder)!r} already holds {what}; take another folder, or `overwrite`")


def _check_writable(name: str, folder: Path) -> None:
    nearest = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not nearest.is_dir():
        raise NotADirectoryError(f"`{name}` must be a folder, but {str(nearest)!r} is a file")
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise PermissionError(f"`{name}` cannot be written: {str(nearest)!r} is not writable")


def _check_request(
    model: ClipSamForAnomalySegmentation,
    output_dir: str | os.PathLike[str] | None,
    overwrite: bool,
    save_maps: bool,
    cache_dir: str | os.PathLike[str] | None,
    batch_size: int,
    num_workers: int,
) -> None:
    """Refuse what cannot end well before anything is read or written."""
    if not model.head_is_trained:
        raise ValueError(
            "The UMCI head of this model has random weights: load a trained checkpoint, or take"
            " `localizer='similarity'`, which needs no training."
        )
    for name, value, least in (("batch_size", batch_size, 1), ("num_workers", num_workers, 0)):
        if value < least:
            raise ValueError(f"`{name}` must be at least {least}, got {value}")
    if output_dir is not None:
        check_output(output_dir, overwrite=overwrite)
    elif save_maps:
        raise ValueError("`save_maps` needs `output_dir`")
    if cache_dir is not None:
        _check_writable("cache_dir", Path(cache_dir))


# ---------------------------------------------------------------------------------------------------------------------
# What is to be done


class _Example(NamedTuple):
    """One image of the data, by its place in the list."""

    place: int
    category: str
    kind: str
    class_name: str
    path: str
    has_mask: bool


class _Chunk(NamedTuple):
    """Images of one category and kind: what is scored, kept and merged together."""

    number: int
    category: str
    kind: str
    places: list[int]


class _Processes(NamedTuple):
    """This process among those that share the run."""

    rank: int
    total: int
    device: torch.device
    wait: Callable[[], None]


def _join_processes(device: str | torch.device | None) -> _Processes:
    """Find out whether a launcher started this process among others, and if so, join them."""
    if device is None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return _Processes(0, 1, torch.device(device), lambda: None)
    try:
        from accelerate import PartialState  # type: ignore[import-untyped]
    except ImportError as error:
        raise ImportError("Several processes need accelerate: pip install 'clipsam_hf[train]'") from error
    # The last process may come hours after the first: chunks differ, and so do machines
    state = PartialState(cpu=torch.device(device).type == "cpu", timeout=timedelta(days=7))
    return _Processes(state.process_index, state.num_processes, state.device, state.wait_for_everyone)


def _plan(data: AnomalyFolder | AnomalyDataset, options: EvaluationOptions) -> list[_Example]:
    """List the images to evaluate: by category, then by kind, then in the order of the data."""
    categories: dict[str, list[_Example]] = {}
    for place, sample in enumerate(data):
        if sample.label is None:
            raise ValueError(
                f"'{sample.image_path}' has neither a mask nor a label: there is nothing to compare with."
            )
        kind = (sample.defect_type or DEFECT) if sample.label else GOOD
        class_name = options.class_name or sample.class_name
        path = _inner_path(data, sample.image_path, place)
        example = _Example(place, str(sample.category), kind, class_name, path, sample.has_mask)
        categories.setdefault(example.category, []).append(example)
    if not categories:
        raise ValueError("There are no images to evaluate.")
    chosen = [example for name in sorted(categories) for example in _limit(categories[name], options.limit)]
    return sorted(chosen, key=lambda example: (example.category, example.kind != GOOD, example.kind, example.place))


def _inner_path(data: AnomalyFolder | AnomalyDataset, path: Path, place: int) -> str:
    """Where an image stands in its data set: no two have the same, and none leads out of it."""
    if isinstance(data, AnomalyFolder):
        inner, root = Path(os.path.abspath(path)), Path(os.path.abspath(data.root))
        if inner.is_relative_to(root):
            return inner.relative_to(root).as_posix()
    return f"{place:06d}-{path.name}"


def _limit(examples: list[_Example], limit: int | None) -> list[_Example]:
    """Choose good and abnormal images in proportion, at least one of each, spread evenly over the list."""
    if limit is None or limit >= len(examples):
        return examples
    good = [example for example in examples if example.kind == GOOD]
    abnormal = [example for example in examples if example.kind != GOOD]
    num_abnormal = round(limit * len(abnormal) / len(examples))
    if good and abnormal and limit > 1:
        num_abnormal = min(max(num_abnormal, 1), limit - 1)
    return _spread(good, limit - num_abnormal) + _spread(abnormal, num_abnormal)


def _spread(examples: list[_Example], count: int) -> list[_Example]:
    return [examples[step * len(examples) // count] for step in range(count)]


def _cut(examples: Sequence[_Example]) -> list[_Chunk]:
    """Cut the sorted list wherever the category or the kind changes or a chunk is full."""
    groups: dict[tuple[str, str], list[int]] = {}
    for example in examples:
        groups.setdefault((example.category, example.kind), []).append(example.place)
    parts = [
        (category, kind, places[start : start + _CHUNK_SIZE])
        for (category, kind), places in groups.items()
        for start in range(0, len(places), _CHUNK_SIZE)
    ]
    return [_Chunk(number, *part) for number, part in enumerate(parts)]


def _describe(
    model: ClipSamForAnomalySegmentation,
    processor: ClipSamProcessor,
    data: AnomalyFolder | AnomalyDataset,
    options: EvaluationOptions,
    examples: Sequence[_Example],
    model_name: str | None,
) -> dict[str, Any]:
    """Return the protocol: everything that the figures depend on, as JSON values."""
    config = model.config
    pixels = "histogram with certified intervals" if options.streaming else "exact, by rank"
    return {
        "data": {
            **_describe_source(data),
            "class_names": {example.category: example.class_name for example in examples},
            "images": len(examples),
            "abnormal_images": sum(example.kind != GOOD for example in examples),
            "limit_per_category": options.limit,
            "list_sha256": digest_json(examples)[:16],
        },
        "comparison": {
            "size": "native" if options.size is None else options.size,
            "mask_resize": options.mask_rule,
            "mask_threshold": data[examples[0].place].mask_threshold,
            "map_resize": "bilinear, half-pixel centres",
            "pixel_figures": pixels,
            "aupro": f"rank-exact, up to a false positive rate of {options.aupro_limit:g}, 8-connected regions",
            "aupro_linear200": options.aupro_linear200,
            "region_overlap": options.new_metrics().region_overlap,
            "thresholds": "the F1-max threshold of each row, chosen on the evaluated images themselves",
        },
        "model": {
            "device": model.device.type,
            "name": model_name or config.name_or_path,
            "revision": getattr(config, "_commit_hash", None),
            "weights_sha256": fingerprint(model),
            "processor_sha256": digest_json(processor.to_json_string())[:16],
            "auxiliary_dataset": config.auxiliary_dataset,
            "localizer": config.localizer,
            "image_size": config.image_size,
            "dtype": str(model.dtype).removeprefix("torch."),
        },
        "maps": options.map_names,
        "refinement": {name: getattr(config, name) for name in REFINEMENT_FIELDS},
        "seed": config.point_seed,
        "versions": _versions(),
    }


def _describe_source(data: AnomalyFolder | AnomalyDataset) -> dict[str, Any]:
    if isinstance(data, AnomalyFolder):
        # The folder's own name: where it lies on this machine says nothing about the figures
        return {"name": data.root.resolve().name, "layout": data.layout, "split": data.split}
    info = getattr(data.dataset, "info", None)
    return {"name": getattr(info, "dataset_name", None), "layout": "datasets", "split": str(data.dataset.split)}


def _versions() -> dict[str, str]:
    # Not at the top: the package may itself be importing this module
    from .. import __version__

    libraries = ("numpy", "pillow", "scipy", "torch", "transformers")
    return {
        "clipsam_hf": __version__,
        **{name: version(name) for name in libraries},
        "python": platform.python_version(),
    }


# ---------------------------------------------------------------------------------------------------------------------
# The loop


def _score_chunks(
    chunks: Sequence[_Chunk],
    photographs: PhotographReader,
    predictor: Predictor,
    state: StateFolder,
    options: EvaluationOptions,
    *,
    paths: Mapping[int, str],
    maps_dir: Path | None,
    batch_size: int,
    num_workers: int,
    quiet: bool,
) -> None:
    """Predict and score chunk by chunk, and keep what the metrics collected of each."""
    batches = [
        chunk.places[start : start + batch_size]
        for chunk in chunks
        for start in range(0, len(chunk.places), batch_size)
    ]
    loader = iter(DataLoader(photographs, batch_sampler=batches, collate_fn=list, num_workers=num_workers))
    # `disable=None`: no bar where nobody sees it
    with tqdm(total=sum(map(len, batches)), unit="image", disable=True if quiet else None) as progress:
        for chunk in chunks:
            collected = {name: options.new_metrics() for name in options.map_names}
            for _ in range(0, len(chunk.places), batch_size):
                batch = next(loader)
                for name, (maps, scores) in predictor.predict(batch).items():
                    for photograph, anomaly_map, score in zip(batch, maps, scores.tolist(), strict=True):
                        compared = _resize_map(anomaly_map, photograph, options)
                        _update(collected[name], compared, photograph, score, chunk, options)
                        if maps_dir is not None:
                            _save_map(compared, maps_dir / name / paths[photograph.place])
                progress.update(len(batch))
            state.save(chunk.number, collected)


def _resize_map(anomaly_map: Tensor, photograph: Photograph, options: EvaluationOptions) -> NDArray[np.float32]:
    """Bring a map from CLIP's frame to the size at which it is compared."""
    size = photograph.size if options.size is None else (options.size, options.size)
    return F.interpolate(anomaly_map[None, None], size=size, mode="bilinear")[0, 0].numpy()


def _update(
    metrics: AnomalyMetrics,
    anomaly_map: NDArray[np.float32],
    photograph: Photograph,
    score: float,
    chunk: _Chunk,
    options: EvaluationOptions,
) -> None:
    gt_mask = photograph.gt_mask
    if gt_mask is not None:
        gt_mask = resize_mask(gt_mask, anomaly_map.shape, options.mask_rule)
    # A small defect may vanish from the resized mask; its image stays abnormal
    metrics.update(anomaly_map, gt_mask, chunk.category, image_score=score, label=chunk.kind != GOOD)


def _save_map(anomaly_map: NDArray[np.float32], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(anomaly_map).save(path.with_name(f"{path.name}.tiff"), compression="tiff_adobe_deflate")


# ---------------------------------------------------------------------------------------------------------------------
# The figures


def _collect(
    state: StateFolder,
    chunks: Sequence[_Chunk],
    options: EvaluationOptions,
    protocol: Mapping[str, Any],
    examples: Mapping[int, _Example],
) -> EvaluationResults:
    """Merge the finished chunks, one category at a time, into rows of figures and notes on them."""
    missing = [chunk.number for chunk in chunks if not state.has(chunk.number)]
    if missing:
        raise OSError(f"{str(state.folder)!r} lacks the chunks {missing[:5]}: do all processes see the same folder?")
    categories: dict[str, list[_Chunk]] = {}
    for chunk in chunks:
        categories.setdefault(chunk.category, []).append(chunk)

    rows: list[ResultRow] = []
    scores: dict[int, dict[str, float]] = {place: {} for chunk in chunks for place in chunk.places}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for name in options.map_names:
            metrics = options.new_metrics()
            for category, parts in categories.items():
                for chunk in parts:
                    finished = state.load(chunk.number, name)
                    for place, score in zip(chunk.places, finished.image_scores(category), strict=True):
                        scores[place][name] = score
                    metrics.merge(finished)
                metrics.finish(category)
            results = metrics.compute()
            intervals = results.get("intervals", {})
            for category, figures in results["categories"].items():
                counts = results["counts"][category]
                rows.append(ResultRow(name, category, ALL_KINDS, figures, counts, intervals.get(category, {})))
            rows.append(ResultRow(name, MEAN, ALL_KINDS, results["mean"], {}, results.get("mean_interval", {})))
            rows += [row for parts in categories.values() for row in _collect_kinds(state, parts, name, options)]
    images = [
        ImageRow(examples[place].path, examples[place].category, examples[place].kind, found)
        for place, found in scores.items()
    ]
    notes = list(dict.fromkeys(str(warning.message) for warning in caught))
    return EvaluationResults(rows, protocol, notes, images)


def _collect_kinds(
    state: StateFolder, chunks: Sequence[_Chunk], name: str, options: EvaluationOptions
) -> Iterator[ResultRow]:
    """Compare each kind of defect of a category with the category's good images, if it has several kinds."""
    kinds = dict.fromkeys(chunk.kind for chunk in chunks if chunk.kind != GOOD)
    for kind in kinds if len(kinds) > 1 else ():
        metrics = options.new_metrics()
        for chunk in chunks:
            if chunk.kind in (GOOD, kind):
                metrics.merge(state.load(chunk.number, name))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the category's own row has said so already
            results = metrics.compute()
        for category, figures in results["categories"].items():
            intervals = results.get("intervals", {}).get(category, {})
            yield ResultRow(name, category, kind, figures, results["counts"][category], intervals)
