# SPDX-FileCopyrightText: 2026 The clipsam_hf authors
# SPDX-License-Identifier: Apache-2.0
"""The tokenizer of `clipsam-tiny`: byte-level BPE of CLIP's kind, learned on the sentences of the generated world."""

import itertools
import json
from typing import Any

from synthetic_words import (
    ABNORMAL_STATES,
    CLASS_NAMES,
    COLOURS,
    DEFECT_STATES,
    MATERIALS,
    NORMAL_STATES,
    TEMPLATES,
    fill,
)
from tokenizers import pre_tokenizers
from tokenizers.trainers import BpeTrainer
from transformers import CLIPTokenizer


__all__ = ["build_tokenizer", "corpus"]

MAX_MERGES = 900


def corpus() -> list[str]:
    """Return sentences that hold every word of the generated world, in an order that never changes."""
    materials = [name for family in sorted(MATERIALS) for name in MATERIALS[family]]
    nouns = [*CLASS_NAMES, *materials, *(f"{colour} {name}" for colour in sorted(COLOURS) for name in materials)]
    kinds = itertools.chain.from_iterable(DEFECT_STATES[kind] for kind in sorted(DEFECT_STATES))
    states = [*NORMAL_STATES, *ABNORMAL_STATES, *kinds]
    pairs = zip(itertools.cycle(TEMPLATES), itertools.product(states, nouns))
    return [fill(template, fill(state, noun)) for template, (state, noun) in pairs]


def build_tokenizer() -> CLIPTokenizer:
    """
    Learn the merges and return a tokenizer that takes any text.

    Every byte is a token, alone and at the end of a word, so that nothing is ever unknown; the end of text is the
    last token, as in CLIP's own vocabulary.
    """
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    learner = CLIPTokenizer().backend_tokenizer
    trainer = BpeTrainer(
        vocab_size=2 * len(alphabet) + MAX_MERGES,
        initial_alphabet=alphabet,
        end_of_word_suffix="</w>",
        show_progress=False,
    )
    learner.train_from_iterator(corpus(), trainer)
    merges: Any = [tuple(merge) for merge in json.loads(learner.to_str())["model"]["merges"]]
    words = ("".join(merge) for merge in merges)
    ends = (f"{byte}</w>" for byte in alphabet)
    tokens = dict.fromkeys([*alphabet, *ends, *words, "<|startoftext|>", "<|endoftext|>"])
    vocab = {token: number for number, token in enumerate(tokens)}
    return CLIPTokenizer(vocab=vocab, merges=merges, model_max_length=77)
