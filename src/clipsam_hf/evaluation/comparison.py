# SPDX-FileCopyrightText: 2026 The clipsam_hf authors
# SPDX-License-Identifier: Apache-2.0
"""What the photographs of a data set are compared with: K good ones of each category, or each other."""

import json
import os
import zlib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..configuration_clipsam import ClipSamConfig
from ..data import AnomalyDataset, AnomalyFolder, AnomalySample
from ..data.layouts import GOOD
from ..files import digest_json, open_atomically
from ..inference_clipsam import ClipSamInference, PreparedImage
from ..mutual_clipsam import MutualReferences
from ..references_clipsam import ClipSamReferences
from .options import EvaluationOptions
from .plan import Example
from .processes import Processes
from .rows import ImageRow


__all__ = ["Comparison", "GoodPhotographs", "MutualComparison", "NoComparison", "choose_comparison", "needs_texts"]


GOOD_PARTS = "good parts of defective photographs of the scored split, which are left out of the figures"
"""Where references come from if there is no good photograph."""


class Comparison:
    """What an evaluation compares photographs with.

    Attributes:
        setting (`str`): how a report names the protocol.
    """

    setting = ""

    def describe(self) -> dict[str, Any]:
        """Return what the figures depend on, as JSON values."""
        return {}

    def prepare(self, inference: ClipSamInference, folder: Path, processes: Processes) -> None:
        """Do what must be done before the first photograph is scored, together with the other processes.

        Args:
            inference (`ClipSamInference`): the model.
            folder (`Path`): for what may be kept; all processes see it.
            processes (`Processes`): this one among them.
        """

    def at(self, category: str) -> Any:
        """Return what the photographs of a category are compared with: an argument of `ClipSamInference.predict`."""
        return None

    def number_of(self, place: int) -> int | None:
        """Return the number of a photograph among those that are compared with each other."""
        return None

    def judge(self, images: Sequence[ImageRow]) -> list[str]:
        """Say how good the verdicts are that the comparison gives, a sentence for each category.

        Args:
            images (`Sequence[ImageRow]`): all that were scored, by all processes.
        """
        return []


class NoComparison(Comparison):
    """Texts alone."""

    setting = "zero-shot"


class GoodPhotographs(Comparison):
    """K good photographs of each category, which are not among those that are scored.

    Of a category that has none, what is good of K defective ones.

    Args:
        chosen (`dict[str, list[AnomalySample]]`): by category.
        class_names (`dict[str, str]`): what the photographs of a category show.
        options (`EvaluationOptions`): number and seed.
        sources (`Sequence[str]`): where they were found.
    """

    def __init__(
        self,
        chosen: dict[str, list[AnomalySample]],
        class_names: dict[str, str],
        options: EvaluationOptions,
        sources: Sequence[str],
    ) -> None:
        self.chosen, self.class_names, self.options, self.sources = chosen, class_names, options, sources
        self.setting = f"{options.references_per_category}-shot"
        if GOOD_PARTS in sources:
            self.setting += " of good parts"
        self._made: tuple[str, ClipSamReferences] | None = None

    def describe(self) -> dict[str, Any]:
        names = {category: [Path(each.image_path).name for each in found] for category, found in self.chosen.items()}
        return {
            "references_per_category": self.options.references_per_category,
            "references_of": " and ".join(self.sources),
            "references_seed": self.options.seed,
            "references_sha256": digest_json(names)[:16],
        }

    def prepare(self, inference: ClipSamInference, folder: Path, processes: Processes) -> None:
        self._inference, self._folder = inference, folder

    def at(self, category: str) -> ClipSamReferences:
        # Chunks come category by category: one memory at a time
        if self._made is None or self._made[0] != category:
            images = [sample.load_image() for sample in self.chosen[category]]
            model, processor = self._inference.model, self._inference.processor
            options: dict[str, Any] = {
                "class_name": self.class_names[category],
                "roi_mask": self.options.roi,
                "tile": self.options.tile,
            }
            if any(sample.label for sample in self.chosen[category]):
                masks = [sample.load_mask() for sample in self.chosen[category]]
                options["defect_masks"] = [mask.astype(np.uint8) * np.uint8(255) for mask in masks]
            self._made = category, ClipSamReferences.from_images(model, processor, images, **options)
            # The threshold is for the process that writes the report, which may not have made these
            self._folder.mkdir(parents=True, exist_ok=True)
            with open_atomically(self._path_of(category)) as file:
                file.write(json.dumps(self._made[1].decision_threshold).encode())
        return self._made[1]

    def _path_of(self, category: str) -> Path:
        return self._folder / f"threshold-{list(self.chosen).index(category):04d}.json"

    def judge(self, images: Sequence[ImageRow]) -> list[str]:
        notes = []
        for category in self.chosen:
            threshold = json.loads(self._path_of(category).read_text(encoding="utf-8"))
            if threshold is None:
                continue
            own = [image for image in images if image.category == category]
            good = [image.scores["rough"] > threshold for image in own if image.kind == GOOD]
            abnormal = [image.scores["rough"] > threshold for image in own if image.kind != GOOD]
            notes.append(
                f"{category}: at the references' own threshold, {threshold:.3f}, {sum(abnormal)} of {len(abnormal)}"
                f" abnormal images are found and {sum(good)} of {len(good)} good ones called abnormal"
            )
        return notes


class MutualComparison(Comparison):
    """The photographs of a category are compared with each other.

    Args:
        data (`AnomalyFolder` or `AnomalyDataset`): the photographs.
        examples (`Sequence[Example]`): those that are scored.
        options (`EvaluationOptions`): the seed.
    """

    setting = "transductive"

    def __init__(
        self, data: AnomalyFolder | AnomalyDataset, examples: Sequence[Example], options: EvaluationOptions
    ) -> None:
        self.data, self.options = data, options
        self._examples: dict[str, list[Example]] = {}
        for example in sorted(examples, key=lambda each: each.place):  # not by kind, which nobody may know here
            self._examples.setdefault(example.category, []).append(example)
        self._numbers = {
            example.place: number for own in self._examples.values() for number, example in enumerate(own)
        }
        self._mutual: dict[str, MutualReferences] = {}

    def describe(self) -> dict[str, Any]:
        return {"mutual_seed": self.options.seed}

    def prepare(self, inference: ClipSamInference, folder: Path, processes: Processes) -> None:
        for index, (category, examples) in enumerate(self._examples.items()):

            def read(number: int, examples: Sequence[Example] = examples) -> PreparedImage:
                example = examples[number]
                return inference.prepare(self.data[example.place].load_image(), example.class_name, refine=False)

            self._mutual[category] = MutualReferences.from_images(
                inference,
                read,
                len(examples),
                folder / f"{index:04d}",
                seed=self.options.seed,
                rank=processes.rank,
                num_processes=processes.total,
                wait=processes.wait,
            )

    def at(self, category: str) -> MutualReferences:
        for other, mutual in self._mutual.items():
            if other != category:
                mutual.forget()  # one category's descriptions in memory at a time
        return self._mutual[category]

    def number_of(self, place: int) -> int | None:
        return self._numbers[place]


def needs_texts(config: ClipSamConfig, options: EvaluationOptions) -> bool:
    """Tell whether maps depend on the localizer's own, made of texts, and so on its trained head.

    Args:
        config (`ClipSamConfig`): the model's.
        options (`EvaluationOptions`): which protocol.
    """
    if options.mutual:
        return config.mutual_text_weight > 0
    return options.references_per_category is None or config.reference_text_weight > 0


def choose_comparison(
    data: AnomalyFolder | AnomalyDataset, examples: Sequence[Example], options: EvaluationOptions
) -> tuple[Comparison, Sequence[Example]]:
    """Choose what the photographs are compared with.

    Good photographs are drawn from the split "train" of the data set, as far as they are not scored themselves. Where
    a category has too few of them there, they are drawn from its scored ones, which are then not scored; and where it
    has no good photograph at all, from its defective ones with a mask, of which the good parts count.

    Args:
        data (`AnomalyFolder` or `AnomalyDataset`): the photographs.
        examples (`Sequence[Example]`): those that are to be scored.
        options (`EvaluationOptions`): which protocol.

    Returns:
        `Comparison`: what they are compared with.
        `Sequence[Example]`: what is scored.

    Raises:
        ValueError: if a category has too few good photographs, or one to compare.
    """
    if options.mutual:
        numbers = Counter(example.category for example in examples)
        for category, number in numbers.items():
            if number < 2:
                raise ValueError(f"The category {category!r} has one photograph: nothing to compare it with.")
        return MutualComparison(data, examples, options), examples
    if options.references_per_category is None:
        return NoComparison(), examples
    count, scored = (
        options.references_per_category,
        {os.path.realpath(data[each.place].image_path) for each in examples},
    )
    spare: dict[str, list[AnomalySample]] = {}
    for sample in data.with_split("train") if isinstance(data, AnomalyFolder) else ():
        if sample.label == 0 and os.path.realpath(sample.image_path) not in scored:
            spare.setdefault(str(sample.category), []).append(sample)

    chosen, sources, taken = dict[str, list[AnomalySample]](), list[str](), set[int]()
    class_names = {example.category: example.class_name for example in examples}
    for category in class_names:
        draw = np.random.default_rng((options.seed, zlib.crc32(category.encode())))
        all_own = [example for example in examples if example.category == category]
        own = [example for example in all_own if example.kind == GOOD]
        marked = [example for example in all_own if example.kind != GOOD and example.has_mask]
        if len(spare.get(category, ())) >= count:
            places = draw.choice(len(spare[category]), count, replace=False)
            chosen[category] = [spare[category][place] for place in sorted(places)]
            sources.append("good photographs of the train split")
        elif len(own) > count:
            drawn = [own[place] for place in sorted(draw.choice(len(own), count, replace=False))]
            chosen[category] = [data[example.place] for example in drawn]
            taken |= {example.place for example in drawn}
            sources.append("good photographs of the scored split, which are left out of the figures")
        elif not own and not spare.get(category) and len(marked) > count:
            drawn = [marked[place] for place in sorted(draw.choice(len(marked), count, replace=False))]
            chosen[category] = [data[example.place] for example in drawn]
            taken |= {example.place for example in drawn}
            sources.append(GOOD_PARTS)
        else:
            raise ValueError(
                f"The category {category!r} has {len(spare.get(category, ()))} good photographs in the train split and"
                f" {len(own)} in the scored one: too few for {count} references."
            )
    kept = [example for example in examples if example.place not in taken]
    return GoodPhotographs(chosen, class_names, options, list(dict.fromkeys(sources))), kept
