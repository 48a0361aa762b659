# SPDX-FileCopyrightText: 2026 The clipsam_hf authors
# SPDX-License-Identifier: Apache-2.0
"""The evaluations that may stand on a model's card: of these very weights and settings, on a set that it never saw."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from huggingface_hub import EvalResult

from ..evaluation.protocol import differing_settings, name_set, trained_on
from ..evaluation.report import ALL_KINDS, MEAN
from ..files import fingerprint
from ..metrics import FIGURES
from ..modeling_clipsam import ClipSamForAnomalySegmentation


__all__ = ["CARD_FIGURES", "ScoredSet", "check_evaluation", "licences_of", "pretty_name", "published_sets"]

CARD_FIGURES = {name: figure.title for name, figure in FIGURES.items() if figure.on_card}
"""Titles of the figures that stand on a card, by their names."""

# How the published sets are written, and under which licence their images are.
_SETS = {
    "mvtec": ("MVTec-AD", "CC BY-NC-SA 4.0"),
    "visa": ("VisA", "CC BY 4.0"),
    "mtd": ("MTD", "none given"),
    "ksdd2": ("KolektorSDD2", "CC BY-NC-SA 4.0"),
    "btad": ("BTAD", "CC BY-NC-SA 4.0"),
}


def check_evaluation(
    content: Mapping[str, Any], model: ClipSamForAnomalySegmentation, seen: Sequence[str] = ()
) -> "ScoredSet":
    """Refuse figures that must not stand on a model's card.

    Args:
        content (`Mapping[str, Any]`): `results.json` of an evaluation, read.
        model (`ClipSamForAnomalySegmentation`): the model.
        seen (`Sequence[str]`): names of the sets that it was trained on.

    Returns:
        `ScoredSet`: what the card shows of it.

    Raises:
        ValueError: if it is no evaluation, of a set that was trained on, of other weights, or of other settings.
    """
    if not {"rows", "protocol"} <= content.keys():
        raise ValueError(f"An evaluation has 'rows' and 'protocol', got {sorted(content)[:5]}.")
    protocol = content["protocol"]
    name, scored = name_set(protocol["data"]), protocol["model"]
    if trained_on(seen, protocol["data"]):
        raise ValueError(f"The evaluation is of {name!r}, on which the model was trained: its figures would mislead.")
    weights, dtype = fingerprint(model), str(model.dtype).removeprefix("torch.")
    if scored["dtype"] == dtype and scored["weights_sha256"] != weights:
        raise ValueError(
            f"The evaluation of {name!r} is of other weights ({scored['weights_sha256']}) than the model's"
            f" ({weights})."
        )
    differences = differing_settings(protocol, model.config)
    if differences:
        raise ValueError(f"The evaluation of {name!r} is of other settings than the model's: {'; '.join(differences)}")
    rows = [row for row in content["rows"] if row["kind"] == ALL_KINDS]
    return ScoredSet(name, protocol, rows, content.get("notes", ()))


@dataclass(frozen=True)
class ScoredSet:
    """What a card shows of one evaluation.

    Args:
        name (`str`): of the set, such as "visa".
        protocol (`Mapping[str, Any]`): what the figures depend on.
        rows (`Sequence[Mapping[str, Any]]`): those of categories and means.
        notes (`Sequence[str]`): warnings.
    """

    name: str
    protocol: Mapping[str, Any]
    rows: Sequence[Mapping[str, Any]]
    notes: Sequence[str]

    @property
    def pretty_name(self) -> str:
        """The set as its authors write it."""
        return pretty_name(self.name)

    def means(self) -> list[Mapping[str, Any]]:
        """Return the rows of the means, one per map."""
        return [row for row in self.rows if row["category"] == MEAN]

    def categories(self) -> list[Mapping[str, Any]]:
        """Return the rows of the categories, unless the only one is the mean."""
        rows = [row for row in self.rows if row["category"] != MEAN]
        return rows if len({row["category"] for row in rows}) > 1 else []

    def describe(self) -> str:
        """Say in one line what the figures depend on."""
        data, comparison = self.protocol["data"], self.protocol["comparison"]
        size = comparison["size"]
        setting = self.protocol.get("setting", "zero-shot")
        parts = [
            "" if setting == "zero-shot" else setting,
            f"{data['split']} split" if data["split"] else "all images",
            f"{data['images']} images, {data['abnormal_images']} abnormal",
            "size of each photograph"
            if size == "native"
            else f"{size} x {size} px, masks {comparison['mask_resize']}",
            f"mean of {len(data['class_names'])} categories" if len(data["class_names"]) > 1 else "",
            f"at most {data['limit_per_category']} images per category" if data.get("limit_per_category") else "",
        ]
        return ", ".join(filter(None, parts))

    def to_eval_results(self) -> list[EvalResult]:
        """Return the means as entries of the Hub's model index; each says which map and protocol it is of."""
        setting = self.protocol.get("setting", "zero-shot")
        return [
            EvalResult(
                task_type="image-segmentation",
                task_name=f"{setting[0].upper()}{setting[1:]} anomaly segmentation",
                dataset_type=self.name,
                dataset_name=self.pretty_name,
                dataset_split=self.protocol["data"]["split"],
                metric_type=figure,
                metric_value=row["figures"][figure],
                metric_name=f"{title}, {row['map_name']} map, {self.describe()}",
            )
            for row in self.means()
            for figure, title in CARD_FIGURES.items()
            if row["figures"].get(figure) is not None
        ]


def pretty_name(*names: str) -> str:
    """Return the names of sets as their authors write them, joined by "and".

    Example:
        >>> pretty_name("visa", "tiles")
        'VisA and tiles'
    """
    return " and ".join(_SETS.get(name, (name, ""))[0] for name in names)


def published_sets(names: Sequence[str]) -> list[str]:
    """Return those of some names that are published sets.

    Example:
        >>> published_sets(["visa", "tiles"])
        ['visa']
    """
    return [name for name in names if name in _SETS]


def licences_of(names: Sequence[str]) -> list[str]:
    """Return the licences of the images of published sets.

    Example:
        >>> licences_of(["visa", "tiles"])
        ['VisA: CC BY 4.0']
    """
    return [": ".join(_SETS[name]) for name in published_sets(names)]
