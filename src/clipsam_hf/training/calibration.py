# SPDX-FileCopyrightText: 2026 The clipsam_hf authors
# SPDX-License-Identifier: Apache-2.0
"""Thresholds of a trained model, chosen on the set that it was trained on, never on the one that it is tested on."""

import math
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from torch.utils.data import DataLoader
from tqdm import tqdm  # type: ignore[import-untyped]

from ..data.samples import AnomalySample
from ..evaluation.predictor import PhotographReader, Predictor
from ..metrics.anomaly import AnomalyMetrics, resize_mask
from ..metrics.ranks import ExactScores, Ranks
from ..modeling_clipsam import ClipSamForAnomalySegmentation
from ..processing_clipsam import ClipSamProcessor


__all__ = ["Calibration", "calibrate"]

# One threshold holds for all categories, so their pixels count together
_POOL = "all"


@dataclass(frozen=True)
class Calibration:
    """What [`calibrate`] has found; the thresholds are in the model's configuration too.

    Args:
        binarize_threshold (`float`): F1-max of the rough map's pixels.
        mask_threshold (`float`): F1-max of the final map's pixels.
        decision_threshold (`float`, *optional*): of the image's score; `None` without good or without abnormal images.
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
    batch_size: int = 1,
    num_workers: int = 0,
    accelerator: Any = None,
    show_progress: bool = False,
) -> Calibration:
    """Choose `binarize_threshold`, `mask_threshold` and `decision_threshold` and store them in the configuration.

    The first two maximise the F1 of the pixels of all images together, since one threshold holds for all categories:
    first that of the rough map, with which SAM is prompted, then that of the map that SAM returned. The third is
    Youden's: the one with the most found defects minus false alarms, both as shares. Unlike the F1 of images it does
    not depend on how many of them are good: the test sets of the field have few good ones, and its F1 is then nearly
    that of calling everything abnormal.

    Pixels are counted in a histogram of fixed size, in steps of 1e-4 of the score, whatever the number of images. Maps
    are compared with masks in CLIP's frame.

    Args:
        model (`ClipSamForAnomalySegmentation`): a trained one; its configuration is changed.
        processor (`ClipSamProcessor`): the model's.
        samples (sequence of `AnomalySample`): the training set, such as an [`AnomalyFolder`].
        class_name (`str`, *optional*): what all photographs show; by default each sample's own word.
        refine (`bool`): whether the second and third thresholds hold for refined maps; `calibrated_refine` says it.
        batch_size (`int`): photographs per forward pass.
        num_workers (`int`): processes that read photographs.
        accelerator (`accelerate.Accelerator`, *optional*): its processes share the images, and all get the result.
        show_progress (`bool`): whether the main process shows a bar, if a terminal sees it.

    Returns:
        [`Calibration`].

    Raises:
        ValueError: if the head is not trained, or there are no pixels of both kinds.
        ImageReadError, OSError: if a file cannot be read.
    """
    if not model.head_is_trained:
        raise ValueError("The UMCI head of this model has random weights: train it, then calibrate.")
    counter = _Counter(model, processor, samples, class_name, batch_size, num_workers, accelerator, show_progress)
    model.eval()
    config = model.config
    metrics, scores = counter.count("rough")
    rough_f1, config.binarize_threshold = _best_pixel_threshold(metrics)
    final_f1, config.mask_threshold = rough_f1, config.binarize_threshold
    if refine:
        metrics, scores = counter.count("refined")
        final_f1, config.mask_threshold = _best_pixel_threshold(metrics)
    config.calibrated_refine = refine
    decision = _best_decision(scores)
    config.decision_threshold, found, false_alarms = decision or (None, None, None)
    return Calibration(
        binarize_threshold=config.binarize_threshold,
        mask_threshold=config.mask_threshold,
        decision_threshold=config.decision_threshold,
        rough_f1=rough_f1,
        final_f1=final_f1,
        found_images=found,
        false_alarms=false_alarms,
        refine=refine,
        num_images=len(samples),
    )


class _Counter:
    """Runs the model over the samples and counts the scores of one of its maps."""

    def __init__(
        self,
        model: ClipSamForAnomalySegmentation,
        processor: ClipSamProcessor,
        samples: Sequence[AnomalySample],
        class_name: str | None,
        batch_size: int,
        num_workers: int,
        accelerator: Any,
        show_progress: bool,
    ) -> None:
        self.model, self.processor, self.samples, self.class_name = model, processor, samples, class_name
        self.batch_size, self.num_workers, self.accelerator = batch_size, num_workers, accelerator
        self.hidden = not show_progress or (accelerator is not None and not accelerator.is_main_process)

    def count(self, name: str) -> tuple[AnomalyMetrics, ExactScores]:
        """Count the pixels and the images' scores of the map "rough" or "refined", of all processes."""
        metrics, good, abnormal = AnomalyMetrics(streaming=True), list[float](), list[float]()
        samples: Any = self.samples
        reader = PhotographReader(samples, self.processor, class_name=self.class_name, refine=name == "refined")
        predictor = Predictor(self.model, self.processor, refine=name == "refined")
        rank, total = (self.accelerator.process_index, self.accelerator.num_processes) if self.accelerator else (0, 1)
        places = list(range(rank, len(self.samples), total))
        batches = [places[start : start + self.batch_size] for start in range(0, len(places), self.batch_size)]
        loader = DataLoader(reader, batch_sampler=batches, collate_fn=list, num_workers=self.num_workers)
        for batch in tqdm(loader, desc=f"{name} maps", unit="batch", disable=self.hidden or None):
            maps, scores = predictor.predict(batch)[name]
            for photograph, anomaly_map, score in zip(batch, maps.numpy(), scores.tolist(), strict=True):
                sample = self.samples[photograph.place]
                mask = photograph.gt_mask
                if mask is not None:
                    metrics.update(anomaly_map, resize_mask(mask, anomaly_map.shape, "bilinear"), _POOL)
                if sample.label is not None:
                    (abnormal if sample.label else good).append(score)
        if total > 1:
            metrics, good, abnormal = self._gather(metrics, good, abnormal)
        images = ExactScores(np.float64)
        images.add(np.array(good), np.array(abnormal), np.ones(len(abnormal), dtype=np.int32))
        return metrics, images

    @staticmethod
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


def _best_pixel_threshold(metrics: AnomalyMetrics) -> tuple[float, float]:
    """The best F1 of the pixels, and the threshold above which a pixel is called abnormal."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the figures that are not used here
        figures = metrics.finish(_POOL)
    f1, threshold = figures["pixel_f1_max"], figures["pixel_f1_threshold"]
    if math.isnan(f1):
        raise ValueError("Thresholds need pixels of both kinds, but the masks of these images show only one.")
    return f1, _just_below(threshold)


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
