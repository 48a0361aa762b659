# SPDX-FileCopyrightText: 2026 The clipsam_hf authors
# SPDX-License-Identifier: Apache-2.0
"""The texts of a training: several ways to speak of a thing, the same for the same seed, the plain one among them."""

import pytest
import torch

from clipsam_hf.modeling_clipsam import ClipSamForAnomalySegmentation
from clipsam_hf.processing_clipsam import ClipSamProcessor
from clipsam_hf.training.texts import DEFECT_STATES, GENERAL_NAMES, draw_text, draw_words, embed_texts


def test_the_first_variant_is_the_ensemble_of_the_processor(
    tiny_model: ClipSamForAnomalySegmentation, tiny_processor: ClipSamProcessor
) -> None:
    with torch.no_grad():
        inputs = tiny_processor(text="candle", return_tensors="pt")
        plain = tiny_model.get_text_embeddings(inputs["input_ids"], inputs["attention_mask"])[0]

    for num_variants in (1, 3):
        texts = embed_texts(tiny_model, tiny_processor, ["candle"], num_variants=num_variants)
        assert texts["candle"].shape == (num_variants, 2, 16)
        assert torch.equal(texts["candle"][0], plain)


def test_variants_differ_and_have_length_1(
    tiny_model: ClipSamForAnomalySegmentation, tiny_processor: ClipSamProcessor
) -> None:
    embeds = embed_texts(tiny_model, tiny_processor, ["candle"], num_variants=5)["candle"]

    assert len({tuple(variant.flatten().tolist()) for variant in embeds}) == 5
    assert torch.allclose(embeds.norm(dim=-1), torch.ones(5, 2))


def test_the_processor_keeps_its_words(
    tiny_model: ClipSamForAnomalySegmentation, tiny_processor: ClipSamProcessor
) -> None:
    before = (tiny_processor.normal_states, tiny_processor.abnormal_states, tiny_processor.prompt_templates)
    embed_texts(tiny_model, tiny_processor, ["candle"], num_variants=3)

    assert (tiny_processor.normal_states, tiny_processor.abnormal_states, tiny_processor.prompt_templates) == before


def test_a_variant_depends_on_class_name_number_and_seed_alone(
    tiny_model: ClipSamForAnomalySegmentation, tiny_processor: ClipSamProcessor
) -> None:
    few = embed_texts(tiny_model, tiny_processor, ["candle"], num_variants=2, seed=3)["candle"]
    many = embed_texts(tiny_model, tiny_processor, ["cable", "candle"], num_variants=4, seed=3)["candle"]
    other_seed = embed_texts(tiny_model, tiny_processor, ["candle"], num_variants=2, seed=4)["candle"]

    assert torch.equal(many[:2], few)
    assert torch.equal(other_seed[0], few[0]) and not torch.equal(other_seed[1], few[1])


def test_names_states_and_defects_vary(tiny_processor: ClipSamProcessor) -> None:
    drawn = [draw_words(tiny_processor, "candle", variant) for variant in range(1, 60)]
    names = [words.class_name for words in drawn]

    assert set(names) == {"candle", *GENERAL_NAMES}
    assert 0.3 < names.count("candle") / len(names) < 0.7
    assert set(DEFECT_STATES) <= {state for words in drawn for state in words.abnormal_states}
    for words in drawn:
        # A word for what is broken in general is always among them
        assert set(words.abnormal_states) & set(tiny_processor.abnormal_states)
        assert not set(words.normal_states) & set(words.abnormal_states)
        for patterns in words[1:]:
            assert len(set(patterns)) == len(patterns) and all(pattern.count("{}") == 1 for pattern in patterns)


def test_words_of_the_processor_are_drawn_from(tiny_processor: ClipSamProcessor) -> None:
    tiny_processor.abnormal_states, tiny_processor.prompt_templates = ["kaputte {}"], ["Foto: {}"]
    words = draw_words(tiny_processor, "Kerze", 1)

    assert "kaputte {}" in words.abnormal_states and words.templates == ("Foto: {}",)


def test_the_drawn_text_is_a_function_of_seed_epoch_and_image() -> None:
    def draw(seed: int, epoch: int) -> list[int]:
        return [draw_text(8, seed, epoch, index) for index in range(100)]

    assert draw(0, 1) == draw(0, 1)
    assert draw(0, 1) != draw(0, 2) and draw(0, 1) != draw(1, 1)
    counts = [sum(draw(0, epoch).count(text) for epoch in range(10)) for text in range(8)]
    assert min(counts) > 90 and max(counts) < 160  # 125 each, give or take three deviations
    assert {draw_text(1, 0, epoch, 7) for epoch in range(9)} == {0}


def test_no_variant_at_all_is_refused(
    tiny_model: ClipSamForAnomalySegmentation, tiny_processor: ClipSamProcessor
) -> None:
    with pytest.raises(ValueError, match="`num_variants` must be at least 1, but got 0"):
        embed_texts(tiny_model, tiny_processor, ["candle"], num_variants=0)
