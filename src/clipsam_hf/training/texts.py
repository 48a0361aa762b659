# SPDX-FileCopyrightText: 2026 The clipsam_hf authors
# SPDX-License-Identifier: Apache-2.0
"""The texts of a training: for each class name several ways to speak of it and of what is wrong with it.

UMCI sees the texts as a set without order, so language can act through its content alone: a head that has only ever
read one pair of texts need not read it. The first variant is the processor's own ensemble, which is what a user of the
model gets; in the others the thing may have a more general name, and its states are drawn from more words.
"""

import copy
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..files import digest_json
from ..modeling_clipsam import ClipSamForAnomalySegmentation
from ..processing_clipsam import ClipSamProcessor


__all__ = ["TextWords", "draw_text", "draw_words", "embed_texts"]

GENERAL_NAMES = ("object", "product", "part", "item", "component", "piece", "material", "surface")

MORE_NORMAL_STATES = (
    "intact {}",
    "good {}",
    "clean {}",
    "undamaged {}",
    "regular {}",
    "{} in perfect condition",
    "{} as it should be",
    "{} without anything unusual",
)

DEFECT_STATES = (
    "defective {}",
    "faulty {}",
    "abnormal {}",
    "scratched {}",
    "cracked {}",
    "dented {}",
    "stained {}",
    "dirty {}",
    "worn {}",
    "chipped {}",
    "bent {}",
    "torn {}",
    "{} with a scratch",
    "{} with a crack",
    "{} with a hole",
    "{} with a dent",
    "{} with a spot",
    "{} with a stain",
    "{} with contamination",
    "{} with corrosion",
    "{} with a missing part",
    "{} with a foreign body",
)

# Of each variant; few sentences differ more from each other than the means of many
_NUM_NORMAL, _NUM_ABNORMAL, _NUM_DEFECTS, _NUM_TEMPLATES = 3, 2, 3, 6
_KEEP_NAME = 0.5


class TextWords(NamedTuple):
    """What the sentences of one variant are made of.

    Args:
        class_name (`str`): the thing's own name, or a more general one.
        normal_states (`tuple[str, ...]`): patterns with one `{}`.
        abnormal_states (`tuple[str, ...]`): patterns with one `{}`: some general ones and some kinds of defects.
        templates (`tuple[str, ...]`): patterns with one `{}`.
    """

    class_name: str
    normal_states: tuple[str, ...]
    abnormal_states: tuple[str, ...]
    templates: tuple[str, ...]


def draw_words(processor: ClipSamProcessor, class_name: str, variant: int, *, seed: int = 0) -> TextWords:
    """Draws the words of a variant, a function of the class name, the variant and the seed.

    Args:
        processor (`ClipSamProcessor`): its words are among those that are drawn from.
        class_name (`str`): what the photograph shows.
        variant (`int`): from 0; 0 is the processor's own ensemble.
        seed (`int`, defaults to 0): of the run.

    Returns:
        [`TextWords`].
    """
    normal, abnormal, templates = processor.normal_states, processor.abnormal_states, processor.prompt_templates
    if variant == 0:
        return TextWords(class_name, tuple(normal), tuple(abnormal), tuple(templates))
    rng = np.random.default_rng(int(digest_json([seed, class_name, variant])[:16], 16))

    def draw(words: Sequence[str], count: int) -> tuple[str, ...]:
        chosen = rng.choice(len(words), min(count, len(words)), replace=False)
        return tuple(words[place] for place in chosen)

    name = class_name if rng.random() < _KEEP_NAME else draw(GENERAL_NAMES, 1)[0]
    return TextWords(
        name,
        draw([*normal, *MORE_NORMAL_STATES], _NUM_NORMAL),
        draw(abnormal, _NUM_ABNORMAL) + draw(DEFECT_STATES, _NUM_DEFECTS),
        draw(templates, _NUM_TEMPLATES),
    )


@torch.no_grad()
def embed_texts(
    model: ClipSamForAnomalySegmentation,
    processor: ClipSamProcessor,
    class_names: Sequence[str],
    *,
    num_variants: int = 1,
    seed: int = 0,
) -> dict[str, Tensor]:
    """Embeds the two texts of every variant of every class name.

    Args:
        model (`ClipSamForAnomalySegmentation`): its CLIP has the text tower.
        processor (`ClipSamProcessor`): the model's.
        class_names (`Sequence[str]`): such as `TrainingImages.class_names`.
        num_variants (`int`, defaults to 1): ways to speak of each; with 1, the processor's own ensemble alone.
        seed (`int`, defaults to 0): of the run.

    Returns:
        `dict[str, torch.Tensor]`: for each class name `(num_variants, 2, projection_dim)` on the model's device, order
        [normal, abnormal], L2-normalised; the first variant is the processor's own ensemble.

    Raises:
        ValueError: if `num_variants` is not positive, or a class name is too long for CLIP.

    Example:

    ```python
    >>> model = ClipSamForAnomalySegmentation.from_pretrained(folder)
    >>> processor = ClipSamProcessor.from_pretrained(folder)
    >>> texts = embed_texts(model, processor, ["candle", "cable"], num_variants=3)
    >>> sorted(texts), tuple(texts["candle"].shape[:2])
    (['cable', 'candle'], (3, 2))

    ```
    """
    if num_variants < 1:
        raise ValueError(f"`num_variants` must be at least 1, but got {num_variants}.")
    speaker: Any = copy.copy(processor)
    tensors: dict[str, Any] = {"return_tensors": "pt"}
    embeds = {}
    for class_name in class_names:
        rows = []
        for variant in range(num_variants):
            words = draw_words(processor, class_name, variant, seed=seed)
            speaker.normal_states, speaker.abnormal_states = list(words.normal_states), list(words.abnormal_states)
            speaker.prompt_templates = list(words.templates)
            inputs = speaker(text=words.class_name, **tensors).to(model.device)
            rows.append(model.get_text_embeddings(inputs["input_ids"], inputs["attention_mask"])[0])
        embeds[class_name] = torch.stack(rows)  # (num_variants, 2, projection_dim)
    return embeds


def draw_text(num_variants: int, seed: int, epoch: int, index: int) -> int:
    """Draws the variant with which an image is seen in an epoch.

    Args:
        num_variants (`int`): how many there are.
        seed (`int`): of the run.
        epoch (`int`): from 0.
        index (`int`): of the image.

    Returns:
        `int`: from 0 to `num_variants - 1`.

    Example:
        >>> [draw_text(4, 0, 0, index) for index in range(8)], draw_text(1, 0, 5, 7)
        ([0, 3, 3, 2, 0, 2, 3, 1], 0)
    """
    return int(np.random.default_rng((seed, epoch, index, 2)).integers(num_variants))
