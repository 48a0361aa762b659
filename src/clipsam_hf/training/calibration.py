# SPDX-FileCopyrightText: 2026 The clipsam_hf authors
# SPDX-License-Identifier: Apache-2.0
"""Thresholds of a trained model, and how much SAM counts in its maps, chosen on the set that it was trained on.

Never on the one that it is tested on.
"""

import math
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm  # type: ignore[import-untyped]

from ..data.samples import AnomalySample
from ..evaluation.reading import PhotographReader
from ..inference_clipsam import ClipSamInference
from ..metrics.anomaly import AnomalyMetrics
from ..metrics.masks import resize_mask
from ..metrics.ranks import ExactScores, Ranks
from ..modeling_clipsam import ClipSamForAnomalySegmentation
from ..processing_clipsam import ClipSamProcessor
from ..refiner_clipsam import prepare_photographs


__all__ = ["REFINE_WEIGHTS", "Calibration", "calibrate"]

REFINE_WEIGHTS = tuple(step / 10 for step in range(11))
"""The shares of SAM's masks in the final map, of which [`calibrate`] takes one."""

# One threshold holds for all categories, so their pixels count together
_POOL = "all"


@dataclass(frozen=True)
class Calibration:
    """What [`calibrate`] has found; thresholds and weight are in the model's configuration too.

    Args:
        binarize_threshold (`float`): F1-max of the rough map's pixels.
        mask_threshold (`float`): F1-max of the final map's pixels.
        decision_threshold (`float`, *optional*): of the image's score; `None` without good or without abnormal images.
        refine_weight (`float`): share of SAM's masks in the final map; as it was where it is not chosen.
        rough_f1 (`float`): F1 of the rough map at its threshold, in [0, 1].
        final_f1 (`float`): F1 of the final map at its threshold, in [0, 1].
        found_images (`float`, *optional*): share of the abnormal images above `decision_threshold`.
        false_alarms (`float`, *optional*): share of the good images above `decision_threshold`.
        refine (`bool`): whether the final map is the refined one.
        num_images (`int`): images that were looked at.
    """

    binarize_threshold: float
    mask_threshold: float
    decision_threshold: float | None
    refine_weight: float
    rough_f1: float
    final_f1: float
    found_images: float | None
    false_alarms: float | None
    refine: bool
    num_images: int

    def to_dict(self) -> dict[str, Any]:
        """Return all as JSON values."""
        return asdict(self)


def calibrate(
    model: ClipSamForAnomalySegmentation,
    processor: ClipSamProcessor,
    samples: Sequence[AnomalySample],
    *,
    class_name: str | None = None,
    refine: bool = True,
    refine_weights: Sequence[float] = REFINE_WEIGHTS,
    batch_size: int = 1,
    num_workers: int = 0,
    accelerator: Any = None,
    show_progress: bool = False,
) -> Calibration:
    """Choose `binarize_threshold`, `refine_weight`, `mask_threshold` and `decision_threshold`, and store them.

    The two thresholds of maps maximise the F1 of the pixels of all images together, since one threshold holds for all
    categories: first that of the rough map, with which SAM is prompted, then that of the final map. Between them, the
    weight w is the one of `refine_weights` whose final map (1 - w) A + w S has the highest such F1, S being what SAM's
    masks make of the rough map A; of equals the smallest. It is F1 and not AP because F1 is what the thresholds are
    for, and what a mask is judged by; and where 0 is among the weights, refinement never lowers it on this set. With
    `merge="sum_norm"`, which is not linear, the weight stays as it is.

    The decision threshold is Youden's: the one with the most found defects minus false alarms, both as shares. Unlike
    the F1 of images it does not depend on how many of them are good: the test sets of the field have few good ones,
    and its F1 is then nearly that of calling everything abnormal.

    Pixels are counted in a histogram of fixed size, in steps of 1e-4 of the score, whatever the number of images. Maps
    are compared with masks in CLIP's frame. The first threshold decides what prompts SAM, so SAM waits for it; CLIP
    and SAM see each photograph once, and maps wait in a temporary folder, to be read once for each weight: 2.4 MB for
    a photograph at 518 pixels. `region_rule` becomes `"fixed"`, since there is a threshold now that somebody chose.

    Args:
        model (`ClipSamForAnomalySegmentation`): a trained one; its configuration is changed.
        processor (`ClipSamProcessor`): the model's.
        samples (sequence of `AnomalySample`): the training set, such as an [`AnomalyFolder`].
        class_name (`str`, *optional*): what all photographs show; by default each sample's own word.
        refine (`bool`): whether `mask_threshold` and `decision_threshold` hold for refined maps, which
            `calibrated_refine` says, and `refine_weight` is chosen.
        refine_weights (sequence of `float`): in [0, 1], the weights to choose from; a single one stays, for a SAM
            that was trained on this set and would be trusted too much.
        batch_size (`int`): photographs per forward pass.
        num_workers (`int`): processes that read photographs.
        accelerator (`accelerate.Accelerator`, *optional*): its processes share the images, and all get the result.
        show_progress (`bool`): whether the main process shows a bar, if a terminal sees it.

    Returns:
        [`Calibration`].

    Raises:
        ValueError: if the head is not trained, there are no pixels of both kinds, or a weight is out of range.
        ImageReadError, OSError: if a file cannot be read.
    """
    if not refine_weights or not all(0 <= weight <= 1 for weight in refine_weights):
        raise ValueError(f"`refine_weights` must be numbers in [0, 1], at least one, got {tuple(refine_weights)}")
    model.check_trained()
    model.eval()
    inference, config = ClipSamInference(model, processor), model.config
    share = _Share(len(samples), batch_size, num_workers, accelerator, show_progress)
    config.region_rule = "fixed"
    with TemporaryDirectory() as folder:
        kept = Path(folder) if refine else None
        rough = final = _choose(*_count(_rough_maps(inference, samples, class_name, share, kept), samples, share))
        config.binarize_threshold = rough.threshold
        if kept is not None:
            final = _weigh(inference, samples, share, kept, rough, refine_weights)
    config.mask_threshold = final.threshold
    config.calibrated_refine = refine
    decision = _best_decision(final.images)
    config.decision_threshold, found, false_alarms = decision or (None, None, None)
    return Calibration(
        binarize_threshold=config.binarize_threshold,
        mask_threshold=config.mask_threshold,
        decision_threshold=config.decision_threshold,
        refine_weight=config.refine_weight,
        rough_f1=rough.f1,
        final_f1=final.f1,
        found_images=found,
        false_alarms=false_alarms,
        refine=refine,
        num_images=len(samples),
    )


@dataclass(frozen=True)
class _Share:
    """The samples of this process, and how they are read."""

    num_samples: int
    batch_size: int
    num_workers: int
    accelerator: Any
    show_progress: bool

    @property
    def num_processes(self) -> int:
        return self.accelerator.num_processes if self.accelerator else 1

    @property
    def places(self) -> list[int]:
        """The numbers of this process's samples."""
        rank = self.accelerator.process_index if self.accelerator else 0
        return list(range(rank, self.num_samples, self.num_processes))

    def batches(self, reader: Dataset, name: str) -> Iterator[list[Any]]:
        """Read this process's samples batch by batch, in their order."""
        places = self.places
        batches = [places[start : start + self.batch_size] for start in range(0, len(places), self.batch_size)]
        loader = DataLoader(reader, batch_sampler=batches, collate_fn=list, num_workers=self.num_workers)
        is_shown = self.show_progress and (self.accelerator is None or self.accelerator.is_main_process)
        yield from tqdm(loader, desc=f"{name} maps", unit="batch", disable=None if is_shown else True)


# The place of a sample, one of its maps in CLIP's frame, its mask there, and its score
_Scored = tuple[int, NDArray[np.float32], NDArray[np.bool_] | None, float]


def _rough_maps(
    inference: ClipSamInference,
    samples: Sequence[AnomalySample],
    class_name: str | None,
    share: _Share,
    kept: Path | None,
) -> Iterator[_Scored]:
    """Run CLIP on all samples, and keep what the refinement needs."""
    reader = PhotographReader(samples, inference.prepare, class_name=class_name, refine=False)
    for batch in share.batches(reader, "rough"):
        predictions = inference.predict([photograph.prepared for photograph in batch])
        for photograph, prediction in zip(batch, predictions, strict=True):
            rough, mask = prediction.rough_anomaly_map.numpy(), photograph.gt_mask
            if mask is not None:
                mask = resize_mask(mask, rough.shape, "bilinear")
            if kept is not None:
                masks = {} if mask is None else {"mask": mask}
                np.savez(_path_of(kept, photograph.place), rough=rough, score=prediction.rough_score, **masks)
            yield photograph.place, rough, mask, prediction.rough_score


class _RefinerReader(Dataset):
    """Reads photographs for the refiner alone, and the rough maps that wait for it."""

    def __init__(self, samples: Sequence[AnomalySample], image_processor: Any, kept: Path) -> None:
        self.samples, self.image_processor, self.kept = samples, image_processor, kept

    def __getitem__(self, index: int) -> tuple[int, dict[str, NDArray[Any]], dict[str, Tensor]]:
        with np.load(_path_of(self.kept, index)) as arrays:
            waiting = {name: arrays[name] for name in arrays.files}
        photograph = self.samples[index].load_image()
        return index, waiting, prepare_photographs(self.image_processor, [photograph], return_tensors="pt")


@dataclass(frozen=True)
class _Choice:
    """A kind of map: the best F1 of its pixels, the threshold where it has that, and its images' scores."""

    f1: float
    threshold: float
    images: ExactScores


def _weigh(
    inference: ClipSamInference,
    samples: Sequence[AnomalySample],
    share: _Share,
    kept: Path,
    rough: _Choice,
    weights: Sequence[float],
) -> _Choice:
    """Choose how much SAM counts, and store it."""
    model, config = inference.model, inference.model.config
    if config.merge == "sum_norm":
        _keep_refined_maps(inference, share, samples, kept)
        return _choose(*_count(_final_maps(model, share, kept, 1.0), samples, share))
    before, config.refine_weight = config.refine_weight, 1.0  # the map of SAM's masks alone
    try:
        _keep_refined_maps(inference, share, samples, kept)
    finally:
        config.refine_weight = before
    # At 0 the final map is the rough one
    choices = [
        (rough if weight == 0 else _choose(*_count(_final_maps(model, share, kept, weight), samples, share)), weight)
        for weight in sorted(weights)
    ]
    best, config.refine_weight = max(choices, key=lambda each: each[0].f1)  # the first of equals
    return best


@torch.no_grad()
def _keep_refined_maps(
    inference: ClipSamInference, share: _Share, samples: Sequence[AnomalySample], kept: Path
) -> None:
    """Run SAM on the rough maps, and keep what it makes of them."""
    model = inference.model
    for batch in share.batches(_RefinerReader(samples, inference.processor.sam_image_processor, kept), "refined"):
        rough = torch.stack([torch.from_numpy(waiting["rough"]) for _, waiting, _ in batch]).to(model.device)
        pixels, sizes = (
            torch.cat([inputs[name] for _, _, inputs in batch]).to(model.device)
            for name in ("sam_pixel_values", "reshaped_input_sizes")
        )
        refinements = model.refine(rough, sam_pixel_values=pixels, reshaped_input_sizes=sizes)
        for (place, _, _), refinement in zip(batch, refinements, strict=True):
            np.save(_path_of(kept, place, "refined"), refinement.anomaly_map.float().cpu().numpy())


@torch.no_grad()
def _final_maps(model: ClipSamForAnomalySegmentation, share: _Share, kept: Path, weight: float) -> Iterator[_Scored]:
    """Merge rough and refined maps that wait, as the refinement does."""
    for place in share.places:
        refined = torch.from_numpy(np.load(_path_of(kept, place, "refined")))
        with np.load(_path_of(kept, place)) as waiting:
            final = (1.0 - weight) * torch.from_numpy(waiting["rough"]) + weight * refined
            if model.config.image_score == "text":
                score = float(waiting["score"])  # of CLIP's class token, which SAM does not change
            else:
                score = model.score(final[None].to(model.device)).item()
            yield place, final.numpy(), waiting["mask"] if "mask" in waiting.files else None, score


def _path_of(folder: Path, place: int, name: str | None = None) -> Path:
    return folder / (f"{place}.npz" if name is None else f"{place}.{name}.npy")


def _count(
    maps: Iterator[_Scored], samples: Sequence[AnomalySample], share: _Share
) -> tuple[AnomalyMetrics, ExactScores]:
    """Count the pixels and the images' scores of a kind of map, of all processes."""
    metrics, good, abnormal = AnomalyMetrics(streaming=True), list[float](), list[float]()
    for place, anomaly_map, mask, score in maps:
        if mask is not None:
            metrics.update(anomaly_map, mask, _POOL)
        if (label := samples[place].label) is not None:
            (abnormal if label else good).append(score)
    if share.num_processes > 1:
        metrics, good, abnormal = _gather(metrics, good, abnormal)
    images = ExactScores(np.float64)
    images.add(np.array(good), np.array(abnormal), np.ones(len(abnormal), dtype=np.int32))
    return metrics, images


def _gather(
    metrics: AnomalyMetrics, good: list[float], abnormal: list[float]
) -> tuple[AnomalyMetrics, list[float], list[float]]:
    from accelerate.utils import gather_object  # type: ignore[import-untyped]

    merged = AnomalyMetrics(streaming=True)
    good_scores, abnormal_scores = list[float](), list[float]()
    for state, some_good, some_abnormal in gather_object([(metrics.state_dict(), good, abnormal)]):
        merged.merge(AnomalyMetrics.from_state_dict(state))
        good_scores += some_good
        abnormal_scores += some_abnormal
    return merged, good_scores, abnormal_scores


def _choose(metrics: AnomalyMetrics, images: ExactScores) -> _Choice:
    """Find the best F1 of the pixels, and the threshold above which a pixel is called abnormal."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the figures that are not used here
        figures = metrics.finish(_POOL)
    f1, threshold = figures["pixel_f1_max"], figures["pixel_f1_threshold"]
    if math.isnan(f1):
        raise ValueError("Thresholds need pixels of both kinds, but the masks of these images show only one.")
    return _Choice(f1, _just_below(threshold), images)


def _best_decision(images: ExactScores) -> tuple[float, float, float] | None:
    """The threshold with the best balance of found images and false alarms (Youden), and both shares there."""
    ranks: Ranks = images.ranks()
    if not ranks.is_defined:
        return None
    found = np.cumsum(ranks.positives) / ranks.positives.sum()
    false_alarms = (ranks.above + ranks.tied) / ranks.num_negatives
    best = int(np.argmax(found - false_alarms))
    return _just_below(ranks.scores[best]), float(found[best]), float(false_alarms[best])


def _just_below(score: float) -> float:
    """A threshold that this score is strictly above, in [0, 1]: the model compares in float32 with `>`."""
    return max(0.0, float(np.nextafter(np.float32(score), np.float32(-1))))
