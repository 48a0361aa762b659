# SPDX-FileCopyrightText: 2026 The clipsam_hf authors
# SPDX-License-Identifier: Apache-2.0
"""
Several texts for the same image: a way to teach UMCI that words steer, which the ablation measures.

Is there any defect? Is there this kind, which the image has (only that is to be marked)? Is there that kind, which it
has not (nothing is)? What the image looks like is the same each time; only the words tell the answers apart.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from synthetic_pool import KINDS, Batch
from tiny_umci import UmciBatches, draw


__all__ = ["CANDIDATES", "TEXTS_PER_IMAGE", "ask", "choose"]

TEXTS_PER_IMAGE = 4
CANDIDATES = 8  # an image in fifteen has several kinds


def choose(batch: Batch, numbers: Iterable[int], count: int, rng: np.random.Generator) -> list[int]:
    """Choose `count` of these images, half with several kinds of defect if there are so many, kinds equally often."""
    present = {number: batch.present(number) for number in numbers}
    chosen: list[int] = []
    for place in range(count):
        several = [number for number, kinds in present.items() if len(kinds) > 1]
        kind = KINDS[rng.integers(len(KINDS))]
        showing = [number for number, kinds in present.items() if kind in kinds]
        # the last one as it comes: it may be a good one
        wanted = several if place < count // 2 else showing if place < count - 1 else []
        chosen.append(int(rng.choice(wanted or list(present))))
        del present[chosen[-1]]
    return chosen


def ask(
    sentences: UmciBatches, batch: Batch, chosen: list[int], stages: Sequence[torch.Tensor], rng: np.random.Generator
) -> dict[str, Any]:
    """
    Ask each chosen image for any defect, for kinds that it has and for kinds that it has not.

    Args:
        sentences: Where the texts come from.
        batch: Images.
        chosen: Their numbers.
        stages: CLIP's stages of the chosen ones, each (len(chosen), hidden_size, height, width).
        rng: What the texts are drawn with.

    Returns:
        The keyword arguments of the forward call, `TEXTS_PER_IMAGE` rows for each image.
    """
    texts, masks = [], []
    for number in chosen:
        kinds, present = batch.kinds[number], batch.present(number)
        bank = sentences.bank[rng.integers(len(sentences.bank))]
        normal = draw(bank["normal"], rng)
        absent = rng.permutation([kind for kind in KINDS if kind not in present]).tolist()
        texts.append(torch.stack((normal, draw(bank["abnormal"], rng))))
        masks.append(kinds > 0)
        for kind in (*rng.permutation(present).tolist()[:2], *absent)[: TEXTS_PER_IMAGE - 1]:
            texts.append(torch.stack((normal, draw(bank[kind], rng))))
            masks.append(kinds == KINDS.index(kind) + 1)
    return {
        "feature_maps": tuple(stage.repeat_interleave(TEXTS_PER_IMAGE, 0) for stage in stages),
        "text_embeds": torch.stack(texts),
        "labels": torch.stack(masks).float(),
    }
