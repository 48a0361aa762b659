# SPDX-FileCopyrightText: 2026 The clipsam_hf authors
# SPDX-License-Identifier: Apache-2.0
"""The sentences that states and templates make of a class name."""

import pytest

from clipsam_hf.prompts_clipsam import ABNORMAL_STATES, NORMAL_STATES, PROMPT_TEMPLATES, build_sentences


def test_lists_have_the_lengths_of_the_method() -> None:
    assert (len(NORMAL_STATES), len(ABNORMAL_STATES), len(PROMPT_TEMPLATES)) == (7, 5, 35)


@pytest.mark.parametrize("patterns", [NORMAL_STATES, ABNORMAL_STATES, PROMPT_TEMPLATES])
def test_patterns_are_distinct_and_have_one_placeholder(patterns: tuple[str, ...]) -> None:
    assert len(set(patterns)) == len(patterns)
    assert all(pattern.count("{}") == 1 for pattern in patterns)


def test_normal_and_abnormal_states_share_nothing() -> None:
    assert not set(NORMAL_STATES) & set(ABNORMAL_STATES)


def test_states_are_outermost() -> None:
    assert build_sentences("nut", ["{}", "bent {}"], ["a {}.", "my {}!"]) == [
        "a nut.",
        "my nut!",
        "a bent nut.",
        "my bent nut!",
    ]


def test_full_lists_make_distinct_sentences_with_the_class_name() -> None:
    sentences = build_sentences("candle", NORMAL_STATES) + build_sentences("candle", ABNORMAL_STATES)
    assert len(set(sentences)) == (7 + 5) * 35
    assert all("candle" in sentence and "{" not in sentence for sentence in sentences)


@pytest.mark.parametrize("class_name", ["{}", "{0} bracket", "{name}", "}{", "%s", "a {} b {}", "\\1", "écrou 🔩"])
def test_class_name_stays_as_it_is(class_name: str) -> None:
    assert build_sentences(class_name, ["damaged {}"], ["a {}."]) == [f"a damaged {class_name}."]


@pytest.mark.parametrize(
    ("states", "templates", "wrong"),
    [
        (["damaged"], ["a {}."], "`states` has 'damaged'"),
        (["damaged {}"], ["a photo"], "`templates` has 'a photo'"),
        (["damaged {}", "{0}"], ["a {}."], "`states` has '{0}'"),
        ([], ["a {}."], "`states` is empty"),
        (["damaged {}"], [], "`templates` is empty"),
    ],
)
def test_pattern_without_placeholder_raises(states: list[str], templates: list[str], wrong: str) -> None:
    with pytest.raises(ValueError, match=wrong):
        build_sentences("candle", states, templates)
