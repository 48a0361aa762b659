# SPDX-FileCopyrightText: 2026 The clipsam_hf authors
# SPDX-License-Identifier: Apache-2.0
"""What images are asked, and that every text asks for its own pixels."""

from types import SimpleNamespace
from typing import Any
from zlib import crc32

import numpy as np
import pytest
import tiny_umci
import torch
from synthetic_pool import KINDS, Batch
from tiny_questions import TEXTS_PER_IMAGE, ask, choose
from tiny_text import build_tokenizer
from tiny_umci import UmciBatches, UmciSettings
from torch.nn import functional as F


@pytest.fixture
def sentences(monkeypatch: pytest.MonkeyPatch) -> UmciBatches:
    """Sentences with made-up embeddings, so that all can be told apart."""

    def embed(clip: Any, tokenizer: Any, sentences: list[str]) -> torch.Tensor:
        seeds = [torch.Generator().manual_seed(crc32(sentence.encode())) for sentence in sentences]
        return torch.stack([torch.randn(64, generator=seed) for seed in seeds])

    monkeypatch.setattr(tiny_umci, "embed_sentences", embed)
    model: Any = SimpleNamespace(clip=None)
    pool: Any = SimpleNamespace(seed=0)
    return UmciBatches(model, build_tokenizer(), pool, UmciSettings())


def striped(*images: list[str]) -> Batch:
    """Black images, each with a row of pixels of every kind that is named."""
    kinds = torch.zeros(len(images), 16, 16, dtype=torch.uint8)
    for labels, present in zip(kinds, images, strict=True):
        for row, kind in enumerate(present):
            labels[row] = KINDS.index(kind) + 1
    return Batch(torch.zeros(len(images), 3, 16, 16), kinds, kinds, torch.zeros_like(kinds), ["felt"] * len(images))


def group_of(sentences: UmciBatches, text: torch.Tensor) -> str:
    """The group that an embedding is a sentence of, or the mean of."""
    for groups in sentences.bank:
        for group, bank in groups.items():
            if any(torch.equal(text, each) for each in (*bank, F.normalize(bank.mean(0), dim=-1))):
                return group
    raise AssertionError("No such sentence.")


@pytest.mark.slow
def test_every_text_asks_for_its_own_pixels(sentences: UmciBatches) -> None:
    batch, rng, asked = striped(["crack", "stain"], ["hole"], []), np.random.default_rng(0), set()
    chosen = [0, 1, 2] * 8
    stage = torch.arange(len(chosen)).view(-1, 1, 1, 1).expand(-1, 5, 2, 2)
    inputs = ask(sentences, batch, chosen, [stage], rng)

    rows = len(chosen) * TEXTS_PER_IMAGE
    assert inputs["text_embeds"].shape == (rows, 2, 64) and inputs["labels"].shape == (rows, 16, 16)
    assert inputs["feature_maps"][0].shape == (rows, 5, 2, 2)
    for row in range(rows):
        place = row // TEXTS_PER_IMAGE
        assert (inputs["feature_maps"][0][row] == place).all()
        (normal, other), kinds = inputs["text_embeds"][row], batch.kinds[chosen[place]]
        group = group_of(sentences, other)
        asked.add(group)
        assert group_of(sentences, normal) == "normal" and (group == "abnormal") == (row % TEXTS_PER_IMAGE == 0)
        expected = kinds > 0 if group == "abnormal" else kinds == KINDS.index(group) + 1
        assert torch.equal(inputs["labels"][row], expected.float())
    assert asked == {"abnormal", *KINDS}


@pytest.mark.slow
def test_what_an_image_has_is_always_asked_for(sentences: UmciBatches) -> None:
    batch = striped(["crack", "stain"])
    for seed in range(5):
        inputs = ask(sentences, batch, [0], [torch.zeros(1, 5, 2, 2)], np.random.default_rng(seed))
        named = {group_of(sentences, other) for _, other in inputs["text_embeds"]}
        assert named > {"abnormal", "crack", "stain"} and len(named) == TEXTS_PER_IMAGE


def test_images_are_chosen_for_their_kinds() -> None:
    # two thirds of the images are of cracks; three have two kinds
    others = [[kind] for kind in KINDS if kind != "crack"] * 3
    images = [["crack"]] * 60 + others + [["stain", "dent"], ["spot", "fray"], ["hole", "crack"]]
    batch, drawn = striped(*images), []
    for seed in range(40):
        chosen = choose(batch, range(len(images)), 6, np.random.default_rng(seed))
        assert len(set(chosen)) == 6 and all(len(images[number]) == 2 for number in chosen[:3])
        drawn += [images[number][0] for number in chosen[3:-1]]
    assert set(drawn) == set(KINDS)
    assert drawn.count("crack") / len(drawn) < 0.25


def test_a_kind_is_named_against_normal_or_against_the_others(sentences: UmciBatches) -> None:
    bank = {group: torch.cat([texts[group] for texts in sentences.bank]) for group in ("normal", *KINDS)}
    means = {group: F.normalize(texts.mean(0), dim=-1) for group, texts in bank.items()}
    assert torch.allclose(sentences.naming("crack"), torch.stack((means["normal"], means["crack"])))
    others = F.normalize(sum(means[kind] for kind in KINDS if kind != "crack"), dim=-1)
    assert torch.allclose(sentences.against_others("crack"), torch.stack((others, means["crack"])), atol=1e-6)
