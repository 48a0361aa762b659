# SPDX-FileCopyrightText: 2026 The clipsam_hf authors
# SPDX-License-Identifier: Apache-2.0
"""The words of the generated world: colours, materials, states, defects, and the sentences built of them."""

import numpy as np

from clipsam_hf import prompts_clipsam


__all__ = [
    "ABNORMAL_STATES",
    "CLASS_NAMES",
    "COLOURS",
    "DEFECT_STATES",
    "MATERIALS",
    "NORMAL_STATES",
    "TEMPLATES",
    "fill",
    "random_sentence",
]

COLOURS: dict[str, tuple[float, float, float]] = {
    "beige": (0.80, 0.72, 0.58),
    "black": (0.12, 0.12, 0.13),
    "blue": (0.20, 0.36, 0.70),
    "brown": (0.45, 0.29, 0.17),
    "dark": (0.25, 0.24, 0.24),
    "golden": (0.78, 0.60, 0.25),
    "green": (0.25, 0.55, 0.28),
    "grey": (0.50, 0.50, 0.50),
    "light": (0.74, 0.74, 0.72),
    "orange": (0.85, 0.48, 0.16),
    "pink": (0.85, 0.55, 0.62),
    "purple": (0.45, 0.27, 0.55),
    "red": (0.70, 0.18, 0.16),
    "silver": (0.66, 0.68, 0.71),
    "white": (0.90, 0.90, 0.88),
    "yellow": (0.86, 0.78, 0.25),
}

MATERIALS: dict[str, tuple[str, ...]] = {
    "brushed": ("brushed metal", "steel", "aluminium"),
    "cloud": ("stone", "paper", "plaster"),
    "concrete": ("concrete", "cement", "pavement"),
    "dots": ("perforated plate", "dotted cloth", "grid"),
    "gradient": ("glass", "ceramic", "enamel"),
    "granular": ("sand", "asphalt", "cast iron"),
    "leather": ("leather", "skin", "cork"),
    "plain": ("plastic", "paint", "rubber"),
    "stripes": ("striped cloth", "ribbed board", "corduroy"),
    "tiles": ("tile", "brick wall", "floor"),
    "wood": ("wood", "plank", "veneer"),
    "woven": ("fabric", "carpet", "canvas"),
}

CLASS_NAMES: tuple[str, ...] = ("object", "part", "product", "item", "surface", "material", "thing", "component")

NORMAL_STATES: tuple[str, ...] = (
    *prompts_clipsam.NORMAL_STATES,
    "intact {}",
    "good {}",
    "undamaged {}",
    "normal {}",
)

ABNORMAL_STATES: tuple[str, ...] = (
    *prompts_clipsam.ABNORMAL_STATES,
    "defective {}",
    "faulty {}",
    "abnormal {}",
    "{} with an anomaly",
)

DEFECT_STATES: dict[str, tuple[str, ...]] = {
    "colour": ("discoloured {}", "{} with a wrong colour", "faded {}", "{} with a colour change"),
    "crack": ("cracked {}", "{} with a crack", "fractured {}", "{} with cracks"),
    "dent": ("dented {}", "{} with a dent", "{} with a bump", "deformed {}"),
    "fray": ("frayed {}", "{} with loose threads", "torn {}", "{} with fray"),
    "hole": ("{} with a hole", "pierced {}", "punctured {}", "{} with holes"),
    "missing": ("incomplete {}", "{} with a missing part", "chipped {}", "{} with a piece missing"),
    "patch": ("patched {}", "{} with a misplaced piece", "{} with a patch", "misaligned {}"),
    "scratch": ("scratched {}", "{} with a scratch", "scuffed {}", "{} with scratches"),
    "shade": ("uneven {}", "{} with uneven brightness", "blotchy {}", "{} with a dull area"),
    "spot": ("spotted {}", "{} with a spot", "{} with specks", "speckled {}"),
    "stain": ("stained {}", "{} with a stain", "dirty {}", "soiled {}"),
    "texture": ("roughened {}", "{} with a wrong texture", "worn {}", "{} with a rough area"),
}

_ARTICLES = ("a", "the")
_VIEWS = (
    "bad ",
    "low resolution ",
    "cropped ",
    "bright ",
    "dark ",
    "close-up ",
    "black and white ",
    "blurry ",
    "good ",
    "",
)
TEMPLATES: tuple[str, ...] = (
    *(f"a {view}photo of {article} {{}}." for view in _VIEWS for article in _ARTICLES),
    "a jpeg corrupted photo of a {}.",
    "a jpeg corrupted photo of the {}.",
    "a photo of my {}.",
    "a photo of the cool {}.",
    "a photo of a cool {}.",
    "a photo of one {}.",
    "a photo of a large {}.",
    "a photo of the large {}.",
    "a photo of a small {}.",
    "a photo of the small {}.",
    "there is a {} in the scene.",
    "there is the {} in the scene.",
    "this is a {} in the scene.",
    "this is the {} in the scene.",
    "this is one {} in the scene.",
)


def fill(template: str, words: str) -> str:
    """Put words into a template's braces, whatever braces the words hold themselves."""
    return template.replace("{}", words)


def random_sentence(rng: np.random.Generator, states: tuple[str, ...], class_name: str) -> str:
    """Return one sentence: a random template around a random state of the class name."""
    state = states[rng.integers(len(states))]
    return fill(TEMPLATES[rng.integers(len(TEMPLATES))], fill(state, class_name))
