# SPDX-FileCopyrightText: 2026 The clipsam_hf authors
# SPDX-License-Identifier: Apache-2.0
"""The words of ClipSAM: states and templates, and the sentences that they make of a class name. Pure functions.

The lists are those of the APRIL-GAN family ([L] in docs/method.md): 7 normal and 5 abnormal states, 35 templates.
"""

from collections.abc import Sequence


NORMAL_STATES: tuple[str, ...] = (
    "{}",
    "flawless {}",
    "perfect {}",
    "unblemished {}",
    "{} without flaw",
    "{} without defect",
    "{} without damage",
)

ABNORMAL_STATES: tuple[str, ...] = (
    "damaged {}",
    "broken {}",
    "{} with flaw",
    "{} with defect",
    "{} with damage",
)

PROMPT_TEMPLATES: tuple[str, ...] = (
    "a bad photo of a {}.",
    "a low resolution photo of the {}.",
    "a bad photo of the {}.",
    "a cropped photo of the {}.",
    "a bright photo of a {}.",
    "a dark photo of the {}.",
    "a photo of my {}.",
    "a photo of the cool {}.",
    "a close-up photo of a {}.",
    "a black and white photo of the {}.",
    "a bright photo of the {}.",
    "a cropped photo of a {}.",
    "a jpeg corrupted photo of a {}.",
    "a blurry photo of the {}.",
    "a photo of the {}.",
    "a good photo of the {}.",
    "a photo of one {}.",
    "a close-up photo of the {}.",
    "a photo of a {}.",
    "a low resolution photo of a {}.",
    "a photo of a large {}.",
    "a blurry photo of a {}.",
    "a jpeg corrupted photo of the {}.",
    "a good photo of a {}.",
    "a photo of the small {}.",
    "a photo of the large {}.",
    "a black and white photo of a {}.",
    "a dark photo of a {}.",
    "a photo of a cool {}.",
    "a photo of a small {}.",
    "there is a {} in the scene.",
    "there is the {} in the scene.",
    "this is a {} in the scene.",
    "this is the {} in the scene.",
    "this is one {} in the scene.",
)


def build_sentences(class_name: str, states: Sequence[str], templates: Sequence[str] = PROMPT_TEMPLATES) -> list[str]:
    """Puts a class name into every state and every state into every template.

    Only the first `{}` of a state or template is a placeholder; braces in the class name itself stay as they are.

    Args:
        class_name: What the photograph shows, free text, for example `"candle"`.
        states: Patterns with one `{}` for the class name, for example `"damaged {}"`.
        templates: Patterns with one `{}` for the state, for example `"a photo of a {}."`.

    Returns:
        `len(states) * len(templates)` sentences, states outermost.

    Raises:
        ValueError: If a state or a template has no `{}`, or there is none at all.

    Example:
        >>> build_sentences("candle", ["damaged {}"], ["a photo of a {}.", "there is a {} in the scene."])
        ['a photo of a damaged candle.', 'there is a damaged candle in the scene.']
    """
    for kind, patterns in (("states", states), ("templates", templates)):
        if len(patterns) == 0:
            raise ValueError(f"`{kind}` is empty; at least one pattern with a '{{}}' placeholder is needed.")
        for pattern in patterns:
            if "{}" not in pattern:
                raise ValueError(f"`{kind}` has {pattern!r}, which lacks the placeholder '{{}}'.")

    # `replace` and not `format`: a class name such as "{0} bracket" must stay text.
    named_states = [state.replace("{}", class_name, 1) for state in states]
    return [template.replace("{}", state, 1) for state in named_states for template in templates]


__all__ = ["ABNORMAL_STATES", "NORMAL_STATES", "PROMPT_TEMPLATES", "build_sentences"]
