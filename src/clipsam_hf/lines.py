# SPDX-FileCopyrightText: 2026 The clipsam_hf authors
# SPDX-License-Identifier: Apache-2.0
"""One production line: references of good photographs and a report of them; what `clipsam calibrate` does."""

import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from transformers.utils import logging

from .image_loading import find_photographs
from .inference_clipsam import ClipSamInference
from .mutual_clipsam import MIXTURE_COUNT, explain_mixture
from .patches_clipsam import OUTLIER_COUNT
from .references_clipsam import ClipSamReferences, ReferenceSettings, is_saved_in


__all__ = ["ScoredPhotograph", "check_line", "score_photographs", "to_text"]

# Of a list in a report
_MAX_LINES, _MAX_SIZES = 20, 3


class ScoredPhotograph(NamedTuple):
    """A photograph and its score.

    Args:
        name (`str`): of its file.
        score (`float`): in [0, 1].
    """

    name: str
    score: float


def check_line(folder: str | os.PathLike[str], *, overwrite: bool = False) -> None:
    """Raise if references must not be written to a folder; nothing is made or changed.

    Args:
        folder (`str` or `os.PathLike`): the folder; it need not exist.
        overwrite (`bool`): whether references that are there may be replaced.

    Raises:
        FileExistsError: if it holds references or anything else, and `overwrite` is not set.
    """
    path = Path(folder)
    if overwrite or not path.is_dir() or not any(path.iterdir()):
        return
    what = "references" if is_saved_in(path) else "files"
    raise FileExistsError(f"{os.fspath(folder)!r} already holds {what}; take another folder, or `overwrite`")


def score_photographs(
    model: Any,
    processor: Any,
    references: ClipSamReferences,
    folder: str | os.PathLike[str],
    *,
    show_progress: bool = False,
) -> list[ScoredPhotograph]:
    """Score the photographs of a folder against references, as the pipeline does.

    Args:
        model ([`ClipSamForAnomalySegmentation`]): on its device.
        processor ([`ClipSamProcessor`]): the model's.
        references ([`ClipSamReferences`]): what they are compared with.
        folder (`str` or `os.PathLike`): of photographs.
        show_progress (`bool`): whether to show a bar, if a terminal sees it.

    Returns:
        `list[ScoredPhotograph]`: in the order of their paths.

    Raises:
        ValueError: if the folder holds no photograph.
        ImageReadError, OSError: if one cannot be read.
    """
    inference, scored = ClipSamInference(model, processor), []
    for path in logging.tqdm(find_photographs(folder), unit="image", disable=None if show_progress else True):
        # The score is that of the map before SAM, so SAM need not run
        prepared = inference.prepare(path, references.class_name, refine=False, tile=references.tile)
        (prediction,) = inference.predict([prepared], references)
        scored.append(ScoredPhotograph(path.relative_to(folder).as_posix(), prediction.pred_score))
    return scored


def to_text(references: ClipSamReferences, defective: Sequence[ScoredPhotograph] | None = None) -> str:
    """Say what good photographs are like, which threshold they give, and how many defective ones it finds.

    Args:
        references ([`ClipSamReferences`]): made of the good photographs.
        defective (`Sequence[ScoredPhotograph]`, *optional*): photographs with defects, scored against them.

    Returns:
        `str`: lines, each with its end.

    Example:
        >>> import torch
        >>> from clipsam_hf.references_clipsam import ReferenceSettings
        >>> names, sizes, scores = ["1.png", "2.png"], [(480, 640)] * 2, [0.25, 0.5]
        >>> settings = ReferenceSettings("candle", {}, names, sizes, 0.1, 0.02, scores, (), 0.5, 1 / 3)
        >>> references = ClipSamReferences([torch.ones(8, 4)], torch.zeros(8), settings)
        >>> print(to_text(references, [ScoredPhotograph("crack.png", 0.75)]), end="")
        2 good photographs of 'candle': 640 x 480 pixels (2)
        scores, each compared with the others:
          0.5000  2.png  sets the threshold
          0.2500  1.png
        threshold: 0.5000, of 2.png; the next highest score is 0.2500, of 1.png
        expected false alarms: 33.3 % of good photographs
        stand out: nothing is said of fewer than 5 photographs
        groups: nothing is said of fewer than 6 photographs
        defective photographs above the threshold: 1 of 1
          0.7500  crack.png
    """
    settings, threshold = references.settings, references.decision_threshold
    sizes = Counter(tuple(size) for size in settings.sizes).most_common()
    listed = [f"{width} x {height} pixels ({count})" for (height, width), count in sizes[:_MAX_SIZES]]
    more = [f"{len(sizes) - _MAX_SIZES} other sizes"] if len(sizes) > _MAX_SIZES else []
    plural = "photograph" if len(references) == 1 else "photographs"
    lines = [f"{len(references)} good {plural} of {references.class_name!r}: {', '.join([*listed, *more])}"]
    if threshold is None:
        views = " and ".join(f"{score:.4f}" for score in settings.scores)
        lines.append(f"scores of its mirrored and its shifted view: {views}")
        lines.append("threshold: none, since a single photograph has no others to be compared with")
    else:
        lines += [*_list_scores(settings, threshold), *_describe_groups(settings)]
    if defective is not None:
        lines += _list_defective(defective, threshold)
    return "".join(f"{line}\n" for line in lines)


def _list_scores(settings: ReferenceSettings, threshold: float) -> list[str]:
    """The scores of the good photographs, and which of them is the threshold."""
    falling = sorted(range(len(settings.scores)), key=lambda index: -settings.scores[index])
    usual = [index for index in falling if index not in settings.outliers]
    place = next(place for place, index in enumerate(usual) if settings.scores[index] <= threshold)
    notes = {index: "stands out, not counted" for index in settings.outliers} | {usual[place]: "sets the threshold"}
    scored = [ScoredPhotograph(settings.names[index], settings.scores[index]) for index in falling]
    lines = ["scores, each compared with the others:", *_list(scored, [notes.get(index, "") for index in falling])]
    following = "there is no lower score"
    if len(usual) > place + 1:
        lower = usual[place + 1]
        following = f"the next highest score is {settings.scores[lower]:.4f}, of {settings.names[lower]}"
    share = settings.expected_false_alarms or 0.0
    return [
        *lines,
        f"threshold: {threshold:.4f}, of {settings.names[usual[place]]}; {following}",
        f"expected false alarms: {100 * share:.1f} % of good photographs",
    ]


def _describe_groups(settings: ReferenceSettings) -> list[str]:
    """What may be wrong with the good photographs."""
    count, unknown = len(settings.names), "nothing is said of fewer than {} photographs"
    outliers = ", ".join(settings.names[index] for index in settings.outliers)
    return [
        f"stand out: {unknown.format(OUTLIER_COUNT) if count < OUTLIER_COUNT else outliers or 'none'}",
        f"groups: {unknown.format(MIXTURE_COUNT) if count < MIXTURE_COUNT else _name_groups(settings)}",
    ]


def _name_groups(settings: ReferenceSettings) -> str:
    return "none" if settings.groups is None else explain_mixture(settings.groups, settings.names)


def _list_defective(defective: Sequence[ScoredPhotograph], threshold: float | None) -> list[str]:
    """The scores of the defective photographs, the lowest first: what is missed is what one wants to see."""
    rising = sorted(defective, key=lambda photograph: photograph.score)
    if threshold is None:
        return [f"scores of {len(rising)} defective photographs:", *_list(rising)]
    found = [photograph.score > threshold for photograph in rising]
    notes = ["" if is_found else "missed" for is_found in found]
    return [f"defective photographs above the threshold: {sum(found)} of {len(found)}", *_list(rising, notes)]


def _list(photographs: Sequence[ScoredPhotograph], notes: Sequence[str] | None = None) -> list[str]:
    """At most so many lines, the first ones."""
    notes = [""] * len(photographs) if notes is None else notes
    rows = [f"  {score:.4f}  {name}  {note}".rstrip() for (name, score), note in zip(photographs, notes, strict=True)]
    if len(rows) <= _MAX_LINES:
        return rows
    return [*rows[: _MAX_LINES - 1], f"  ... and {len(rows) - _MAX_LINES + 1} more"]
