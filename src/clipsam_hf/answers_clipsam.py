# SPDX-FileCopyrightText: 2026 The clipsam_hf authors
# SPDX-License-Identifier: Apache-2.0
"""From a prediction to what a user reads: thresholds, verdict, mask and regions, at the size of the photograph.

The pipeline and the prediction of folders call it, so that neither can differ from the other.
"""

from functools import partial
from typing import Any, NamedTuple

import numpy as np

from .inference_clipsam import Prediction
from .regions_clipsam import describe_regions, judge, relative_threshold


class Answer(NamedTuple):
    """What is said of a photograph.

    Args:
        score (`float`): The image's anomaly score in [0, 1].
        is_anomalous (`bool`, *optional*): The verdict; `None` without a decision threshold.
        anomaly_map (`np.ndarray` of shape `(height, width)`): float32 in [0, 1].
        mask (`np.ndarray` of shape `(height, width)`): bool; what is called abnormal.
        regions (`list[dict]`): The parts of the mask, see `describe_regions`.
        threshold (`float`): Of the map, as it was used.
        decision_threshold (`float`, *optional*): Of the score, likewise.
    """

    score: float
    is_anomalous: bool | None
    anomaly_map: np.ndarray
    mask: np.ndarray
    regions: list[dict[str, Any]]
    threshold: float
    decision_threshold: float | None

    @property
    def label(self) -> str | None:
        """The verdict as a word: `"anomalous"`, `"normal"` or `None`."""
        return None if self.is_anomalous is None else ("anomalous" if self.is_anomalous else "normal")


def find_thresholds(
    config: Any, prediction: Prediction, *, refine: bool = True, references: Any = None
) -> tuple[float, float | None]:
    """Finds the thresholds that hold for a photograph if the caller gives none.

    Args:
        config ([`ClipSamConfig`]): The model's.
        prediction ([`Prediction`]): Of the photograph.
        refine (`bool`, defaults to `True`): Whether the refiner has run.
        references ([`ClipSamReferences`] or [`MutualReferences`], *optional*): What it was compared with.

    Returns:
        `float`: Threshold on the map, in [0, 1].
        `float`, *optional*: Threshold on the score, in [0, 1]; `None` if nobody knows one.
    """
    if references is not None:
        return references.region_threshold, references.decision_threshold
    # They are calibrated on the maps of one `refine` mode and say nothing about those of the other
    is_calibrated = refine == config.calibrated_refine
    threshold = config.mask_threshold if is_calibrated else config.binarize_threshold
    if config.region_rule == "relative":
        final_map, inside = prediction.anomaly_map, prediction.inside
        threshold = relative_threshold(
            final_map if inside is None else final_map[inside][None], config.region_deviations
        )
    return threshold, config.decision_threshold if is_calibrated else None


def make_answer(
    config: Any,
    prediction: Prediction,
    *,
    refine: bool = True,
    threshold: float | None = None,
    decision_threshold: float | None = None,
    references: Any = None,
    outlines: bool = False,
) -> Answer:
    """Brings a map to its photograph's size and reads verdict, mask and regions from it.

    Args:
        config ([`ClipSamConfig`]): The model's.
        prediction ([`Prediction`]): Of the photograph.
        refine (`bool`, defaults to `True`): Whether the refiner has run.
        threshold (`float`, *optional*): Of the map, in [0, 1]; by default that of `find_thresholds`.
        decision_threshold (`float`, *optional*): Of the score, likewise.
        references ([`ClipSamReferences`] or [`MutualReferences`], *optional*): What the photograph was compared with.
        outlines (`bool`, defaults to `False`): Whether each region has its mask, see `describe_regions`.

    Returns:
        [`Answer`].

    Raises:
        ValueError: If the map holds NaN or infinite values.
    """
    is_default = threshold is None
    own_threshold, own_decision = find_thresholds(config, prediction, refine=refine, references=references)
    threshold = own_threshold if threshold is None else threshold
    decision_threshold = own_decision if decision_threshold is None else decision_threshold
    full_map = prediction.resized()
    if not np.isfinite(full_map).all():
        raise ValueError("The model's map holds NaN or infinite values: check weights and input.")
    is_anomalous, mask = judge(
        prediction.pred_score,
        full_map,
        threshold,
        decision_threshold=decision_threshold,
        rough_anomaly_map=partial(prediction.resized, "rough_anomaly_map") if is_default else None,
    )
    regions = describe_regions(full_map, mask, outlines=outlines)
    return Answer(prediction.pred_score, is_anomalous, full_map, mask, regions, threshold, decision_threshold)


__all__ = ["Answer", "find_thresholds", "make_answer"]
