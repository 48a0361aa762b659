# SPDX-FileCopyrightText: 2026 The clipsam_hf authors
# SPDX-License-Identifier: Apache-2.0
"""What the model promises: texts, frozen backbones, batches, sizes, precisions, refinement, outputs."""

import copy
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub.errors import StrictDataclassError
from torch import Tensor
from transformers import CLIPConfig, CLIPModel, CLIPTokenizer, SamConfig, SamModel
from transformers.utils import logging as library_logging

from clipsam_hf import ClipSamConfig, ClipSamForAnomalySegmentation, ClipSamOutput
from clipsam_hf.localizer_clipsam import LOCALIZERS


SIDE, SAM_SIDE, TOKENS, WIDTH = 32, 64, 4, 16

Inputs = dict[str, Any]


@pytest.fixture
def make_model(tiny_config: ClipSamConfig) -> Any:
    """A tiny model with any fields; always the same weights, with biases that are not 0."""

    def make(attn_implementation: str | None = None, **fields: Any) -> ClipSamForAnomalySegmentation:
        config = copy.deepcopy(tiny_config)
        for name, value in fields.items():
            assert hasattr(config, name)
            setattr(config, name, value)
        torch.manual_seed(0)
        model = ClipSamForAnomalySegmentation._from_config(config, attn_implementation=attn_implementation).eval()
        for stage in getattr(model, "umci", []):
            for name, parameter in stage.named_parameters():
                if name.endswith("bias"):
                    torch.nn.init.normal_(parameter, std=0.3)
        return model

    return make


@pytest.fixture
def inputs() -> Inputs:
    """Two images with their two texts, without SAM."""
    text = torch.nn.functional.normalize(torch.randn(2, 2, WIDTH), dim=-1)
    return {"pixel_values": torch.randn(2, 3, SIDE, SIDE), "text_embeds": text}


@pytest.fixture
def sam_inputs() -> Inputs:
    """The same two images for SAM: a landscape and a portrait one."""
    return {
        "sam_pixel_values": torch.randn(2, 3, SAM_SIDE, SAM_SIDE),
        "reshaped_input_sizes": torch.tensor([[48, 64], [64, 40]]),
    }


@torch.no_grad()
def threshold_between(model: ClipSamForAnomalySegmentation, inputs: Inputs) -> tuple[int, int]:
    """Sets Eq. 7's threshold so that one of two images has regions and the other none: (with, without)."""
    highest = model(**inputs).rough_anomaly_map.amax(dim=(1, 2))
    assert abs(highest[0] - highest[1]) > 1e-3
    model.config.binarize_threshold = highest.mean().item()
    return int(highest.argmax()), int(highest.argmin())


def count_calls(module: torch.nn.Module) -> list[int]:
    """The batch size of every call of a module from now on."""
    calls: list[int] = []
    module.register_forward_pre_hook(
        lambda module, args, kwargs: calls.append(len([*args, *kwargs.values()][0])), with_kwargs=True
    )
    return calls


def assert_close(first: Tensor, second: Tensor, tolerance: float = 1e-5) -> None:
    torch.testing.assert_close(first, second, atol=tolerance, rtol=0)


# --- outputs


@pytest.fixture
def listen(caplog: pytest.LogCaptureFixture) -> Iterator[Callable[[], None]]:
    """What the library logs from now on reaches `caplog`: its logger hands nothing on."""
    loggers = [library_logging.get_logger(name) for name in ("transformers", "clipsam_hf")]

    def start() -> None:
        for logger in loggers:
            logger.addHandler(caplog.handler)

    yield start
    for logger in loggers:
        logger.removeHandler(caplog.handler)


def test_shapes_and_ranges(make_model: Any, inputs: Inputs, sam_inputs: Inputs) -> None:
    model = make_model(binarize_threshold=0.0)
    with torch.no_grad():
        outputs = model(**inputs, **sam_inputs, labels=torch.randint(0, 2, (2, 10, 12)))
    assert outputs.loss.shape == () and torch.isfinite(outputs.loss)
    assert outputs.logits.shape == (2, 2, 2, TOKENS, TOKENS)
    assert outputs.pred_score.shape == (2,)
    assert outputs.text_embeds.shape == (2, 2, WIDTH)
    for anomaly_map in (outputs.rough_anomaly_map, outputs.anomaly_map):
        assert anomaly_map.shape == (2, SIDE, SIDE) and anomaly_map.dtype == torch.float32
        assert 0 <= anomaly_map.min() and anomaly_map.max() <= 1
    assert [masks.shape for masks in outputs.pred_masks] == [(1, 3, 32, 32)] * 2
    assert [scores.shape for scores in outputs.iou_scores] == [(1, 3)] * 2
    assert [boxes.shape for boxes in outputs.input_boxes] == [(1, 4)] * 2
    assert [points.shape for points in outputs.input_points] == [(1, 5, 2)] * 2


def test_without_sam_the_final_map_is_the_rough_one(make_model: Any, inputs: Inputs) -> None:
    with torch.no_grad():
        outputs = make_model()(**inputs)
    assert torch.equal(outputs.anomaly_map, outputs.rough_anomaly_map)
    assert outputs.pred_masks is None and outputs.input_boxes is None and outputs.loss is None


def test_return_dict_false_gives_the_fields_that_are_set(make_model: Any, inputs: Inputs) -> None:
    model = make_model()
    with torch.no_grad():
        as_output, as_tuple = model(**inputs), model(**inputs, return_dict=False)
    assert isinstance(as_output, ClipSamOutput) and isinstance(as_tuple, tuple)
    assert all(torch.equal(a, b) for a, b in zip(as_output.to_tuple(), as_tuple, strict=True))


def test_all_hidden_states(make_model: Any, inputs: Inputs) -> None:
    with torch.no_grad():
        outputs = make_model()(**inputs, output_hidden_states=True)
    assert [state.shape for state in outputs.hidden_states] == [(2, 1 + TOKENS**2, 32)] * 3


def test_hidden_states_of_a_list_leave_the_others_out(make_model: Any, inputs: Inputs) -> None:
    model = make_model()
    with torch.no_grad():
        complete = model(**inputs, output_hidden_states=True).hidden_states
        chosen = model(**inputs, output_hidden_states=[0, -1])
    assert torch.equal(chosen.hidden_states[0], complete[0]) and torch.equal(chosen.hidden_states[2], complete[2])
    assert chosen.hidden_states[1] is None
    assert torch.equal(chosen.logits, model(**inputs).logits)  # our own layers are untouched by the choice


def test_config_asks_for_hidden_states(make_model: Any, inputs: Inputs) -> None:
    model = make_model(output_hidden_states=True)
    assert model(**inputs).hidden_states is not None
    assert model(**inputs, output_hidden_states=False).hidden_states is None


def test_attentions_are_given_with_eager_attention(make_model: Any, inputs: Inputs) -> None:
    outputs = make_model("eager")(**inputs, output_attentions=True)
    assert [attention.shape for attention in outputs.attentions] == [(2, 4, 17, 17)] * 2


def test_mistyped_keyword_raises(make_model: Any, inputs: Inputs) -> None:
    with pytest.raises(TypeError, match="sam_pixel_value"):
        make_model()(**inputs, sam_pixel_value=None)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"text_embeds"}, "`pixel_values` or `feature_maps`"),
        ({"pixel_values"}, "`input_ids` or `text_embeds`"),
        ({"pixel_values", "text_embeds", "input_ids"}, "`input_ids` or `text_embeds`"),
        ({"pixel_values", "text_embeds", "feature_maps"}, "`pixel_values` or `feature_maps`"),
        ({"pixel_values", "text_embeds", "sam_pixel_values"}, "reshaped_input_sizes"),
        (
            {"pixel_values", "text_embeds", "sam_pixel_values", "image_embeddings", "reshaped_input_sizes"},
            "`sam_pixel_values` or `image_embeddings`",
        ),
    ],
)
def test_input_that_is_missing_or_given_twice_raises(
    make_model: Any, inputs: Inputs, sam_inputs: Inputs, given: set[str], message: str
) -> None:
    everything = {
        **inputs,
        **sam_inputs,
        "input_ids": torch.randint(3, 98, (2, 2, 5)),
        "feature_maps": (torch.randn(2, 32, 4, 4),) * 2,
        "image_embeddings": torch.randn(2, 16, 8, 8),
    }
    with pytest.raises(ValueError, match=message):
        make_model()(**{name: everything[name] for name in given})


# --- texts


def test_sentences_and_their_embeddings_give_the_same(make_model: Any, inputs: Inputs) -> None:
    model = make_model()
    input_ids = torch.randint(3, 98, (2, 2, 3, 7))
    with torch.no_grad():
        by_sentences = model(inputs["pixel_values"], input_ids)
        by_embeddings = model(inputs["pixel_values"], text_embeds=model.get_text_embeddings(input_ids))
    assert torch.equal(by_sentences.anomaly_map, by_embeddings.anomaly_map)
    assert by_sentences.logits.std() > 0.1


def test_text_embedding_is_the_normalised_mean_of_normalised_sentences(
    make_model: Any, tiny_tokenizer: CLIPTokenizer
) -> None:
    model = make_model()
    sentences = [["a candle", "the flawless candle"], ["a damaged candle", "the candle with defect"]]
    expected = []
    for words in sentences:
        ones = []
        for sentence in words:
            tokens = tiny_tokenizer(sentence, return_tensors="pt")
            embedding = model.clip.get_text_features(**tokens).pooler_output[0]
            ones.append(embedding / embedding.norm())
        mean = torch.stack(ones).mean(dim=0)
        expected.append(mean / mean.norm())
    flat = [sentence for words in sentences for sentence in words]
    tokens = tiny_tokenizer(flat, padding="max_length", return_tensors="pt")
    given = model.get_text_embeddings(
        tokens["input_ids"].view(1, 2, 2, -1), tokens["attention_mask"].view(1, 2, 2, -1)
    )
    assert_close(given[0], torch.stack(expected))


def test_one_sentence_per_class_needs_no_prompt_dimension(make_model: Any) -> None:
    model, input_ids = make_model(), torch.randint(3, 98, (2, 2, 7))
    assert torch.equal(model.get_text_embeddings(input_ids), model.get_text_embeddings(input_ids[:, :, None]))


def test_padding_does_not_matter_and_is_not_encoded(make_model: Any, tiny_tokenizer: CLIPTokenizer) -> None:
    model = make_model()
    lengths: list[int] = []
    model.clip.text_model.register_forward_pre_hook(
        lambda module, args, kwargs: lengths.append(kwargs["input_ids"].shape[1]), with_kwargs=True
    )
    words = ["a photo of the candle", "a damaged candle"]
    embeddings = []
    for padding in ({"padding": "longest"}, {"padding": "max_length"}):
        tokens = tiny_tokenizer(words, return_tensors="pt", **padding)
        embeddings.append(model.get_text_embeddings(tokens["input_ids"][None], tokens["attention_mask"][None]))
    assert_close(*embeddings)
    assert lengths == [7, 7]  # start, five words, end


def test_fillers_do_not_matter(make_model: Any) -> None:
    model = make_model()
    normal, abnormal = torch.randint(3, 98, (3, 6)), torch.randint(3, 98, (2, 6))
    input_ids = torch.stack([normal, torch.cat([abnormal, torch.randint(3, 98, (1, 6))])])[None]  # (1, 2, 3, 6)
    attention_mask = torch.ones_like(input_ids)
    attention_mask[0, 1, 2] = 0
    given = model.get_text_embeddings(input_ids, attention_mask)[0, 1]
    alone = model.get_text_embeddings(torch.stack([abnormal, abnormal])[None])[0, 1]
    assert_close(given, alone)


def test_repeated_sentences_are_encoded_once(make_model: Any) -> None:
    model = make_model()
    calls = count_calls(model.clip.text_model)
    one = torch.randint(3, 98, (1, 2, 3, 6))
    batch = model.get_text_embeddings(one.expand(5, -1, -1, -1))
    assert calls == [6]
    assert_close(batch, model.get_text_embeddings(one).expand(5, -1, -1))


def test_class_without_a_sentence_raises(make_model: Any) -> None:
    input_ids = torch.randint(3, 98, (1, 2, 3, 6))
    attention_mask = torch.ones_like(input_ids)
    attention_mask[0, 1] = 0
    with pytest.raises(ValueError, match="at least one sentence"):
        make_model().get_text_embeddings(input_ids, attention_mask)


@pytest.mark.parametrize("shape", [(2, 7), (1, 3, 7), (1, 1, 2, 3, 7)])
def test_sentences_of_another_shape_raise(make_model: Any, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="`input_ids` must be"):
        make_model().get_text_embeddings(torch.ones(shape, dtype=torch.long))


def test_mask_of_another_shape_raises(make_model: Any) -> None:
    with pytest.raises(ValueError, match="`attention_mask`.*shape of `input_ids`"):
        make_model().get_text_embeddings(torch.ones(1, 2, 7).long(), torch.ones(1, 2, 6).long())


def test_one_text_serves_a_whole_batch(make_model: Any, inputs: Inputs) -> None:
    model, text = make_model(), inputs["text_embeds"][:1]
    with torch.no_grad():
        once = model(inputs["pixel_values"], text_embeds=text)
        twice = model(inputs["pixel_values"], text_embeds=text.expand(2, -1, -1))
    assert torch.equal(once.anomaly_map, twice.anomaly_map)


@torch.no_grad()
def test_swapped_texts_change_nothing_with_the_convolutional_head(make_model: Any, inputs: Inputs) -> None:
    model = make_model(head="conv")
    swapped = {**inputs, "text_embeds": inputs["text_embeds"].flip(1)}
    assert_close(model(**swapped).rough_anomaly_map, model(**inputs).rough_anomaly_map)


@pytest.mark.parametrize("fields", [{"head": "text"}, {"localizer": "vv"}, {"localizer": "similarity"}])
@torch.no_grad()
def test_swapped_texts_invert_the_map(make_model: Any, inputs: Inputs, fields: dict[str, str]) -> None:
    model = make_model(**fields)
    swapped = {**inputs, "text_embeds": inputs["text_embeds"].flip(1)}
    rough = model(**inputs).rough_anomaly_map
    assert rough.std() > 0.01
    assert_close(model(**swapped).rough_anomaly_map, 1 - rough)


@pytest.mark.parametrize(
    "fields", [{"head": "conv"}, {"head": "text"}, {"localizer": "vv"}, {"localizer": "similarity"}]
)
@torch.no_grad()
def test_other_texts_change_the_map(make_model: Any, inputs: Inputs, fields: dict[str, str]) -> None:
    model = make_model(**fields)
    other = {**inputs, "text_embeds": inputs["text_embeds"].roll(1, dims=-1)}
    assert (model(**other).rough_anomaly_map - model(**inputs).rough_anomaly_map).abs().max() > 0.01


@torch.no_grad()
def test_similarity_by_hand(make_model: Any, inputs: Inputs) -> None:
    model = make_model(localizer="similarity", feature_layers=(2,))
    image, text = inputs["pixel_values"][:1], inputs["text_embeds"][:1]
    tokens = model.clip.vision_model(image).last_hidden_state[0, 1:]
    logits = model(image, text_embeds=text).logits[0, 0]
    for place in range(TOKENS**2):
        patch = model.clip.visual_projection(model.clip.vision_model.post_layernorm(tokens[place]))
        for word in range(2):
            cosine = torch.dot(patch / patch.norm(), text[0, word]).item()
            expected = model.clip.logit_scale.exp().item() * cosine
            assert logits[word, place // TOKENS, place % TOKENS].item() == pytest.approx(expected, abs=1e-4)


# --- frozen backbones


def training_step(model: ClipSamForAnomalySegmentation, inputs: Inputs) -> Tensor:
    loss = model(**inputs, labels=torch.randint(0, 2, (2, 8, 8))).loss
    loss.backward()
    return loss


def test_frozen_backbones_have_no_gradient(make_model: Any, inputs: Inputs, sam_inputs: Inputs) -> None:
    model = make_model(binarize_threshold=0.0).train()
    training_step(model, {**inputs, **sam_inputs})
    # Not `text_embeds`: the text tower must not build a graph either
    assert not model.get_text_embeddings(torch.randint(3, 98, (1, 2, 7))).requires_grad
    trained = {name.split(".")[0] for name, parameter in model.named_parameters() if parameter.grad is not None}
    assert trained == {"umci"}
    assert not any(p.requires_grad for part in (model.clip, model.sam) for p in part.parameters())
    assert all(parameter.requires_grad for parameter in model.umci.parameters())


def test_frozen_backbones_stay_in_evaluation_mode(make_model: Any) -> None:
    model = make_model().train()
    assert model.training and model.umci.training
    assert not any(module.training for part in (model.clip, model.sam) for module in part.modules())


def test_training_changes_the_head_and_nothing_else(make_model: Any, inputs: Inputs) -> None:
    model = make_model().train()
    before = copy.deepcopy(model.state_dict())
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        training_step(model, inputs)
        optimizer.step()
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert {name.split(".")[0] for name in changed} == {"umci"}
    unchanged = {name for name in before if name.startswith("umci.")} - changed
    assert all(name.endswith("key.bias") for name in unchanged)  # softmax does not see a key's bias


def test_sam_is_never_trained(make_model: Any, inputs: Inputs, sam_inputs: Inputs) -> None:
    model = make_model(freeze_backbones=False, binarize_threshold=0.0).train()
    training_step(model, {**inputs, **sam_inputs})
    assert not model.sam.training
    assert not any(parameter.requires_grad or parameter.grad is not None for parameter in model.sam.parameters())


def test_free_backbones_get_gradients(make_model: Any, inputs: Inputs) -> None:
    model = make_model(freeze_backbones=False).train()
    training_step(model, {"pixel_values": inputs["pixel_values"], "input_ids": torch.randint(3, 98, (2, 2, 7))})
    used = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    assert {name for name in used if name.startswith("clip.")} and not any("clip.text_" in name for name in used)
    # With several processes, a parameter that requires a gradient and gets none is an error
    assert used == [name for name, parameter in model.named_parameters() if parameter.grad is not None]
    assert model.clip.training


@pytest.mark.parametrize("refine", [False, True])
def test_training_lowers_the_loss(make_model: Any, inputs: Inputs, sam_inputs: Inputs, refine: bool) -> None:
    model = make_model(binarize_threshold=0.4).train()
    everything = {**inputs, **(sam_inputs if refine else {})}
    labels = torch.zeros(2, 8, 8).long()
    labels[:, 2:5, 1:4] = 1
    optimizer = torch.optim.AdamW(model.umci.parameters(), lr=1e-2)
    losses = []
    for _ in range(8):
        loss = model(**everything, labels=labels).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0]


def test_activation_checkpointing_gives_the_same_gradients(make_model: Any, inputs: Inputs) -> None:
    gradients = []
    for checkpointing in (False, True):
        model = make_model(freeze_backbones=False).train()
        if checkpointing:
            model.activation_checkpointing_enable()
            assert model.is_activation_checkpointing
        torch.manual_seed(1)
        training_step(model, inputs)
        gradients.append({n: p.grad for n, p in model.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys() and any(name.startswith("clip.vision") for name in gradients[0])
    for name, gradient in gradients[0].items():
        assert_close(gradients[1][name], gradient, 1e-6)


# --- regions and SAM


@torch.no_grad()
def test_batch_equals_its_images_alone(make_model: Any, inputs: Inputs, sam_inputs: Inputs) -> None:
    model = make_model(min_region_fraction=0.0)
    everything = {**inputs, **sam_inputs}
    found, _ = threshold_between(model, inputs)
    batch = model(**everything)
    assert len(batch.pred_masks[found]) > 0 and len(batch.pred_masks[1 - found]) == 0
    for index in range(2):
        single = model(**{name: value[index : index + 1] for name, value in everything.items()})
        for name in ("logits", "rough_anomaly_map", "anomaly_map", "pred_score"):
            assert_close(getattr(single, name)[0], getattr(batch, name)[index])
        for name in ("pred_masks", "iou_scores", "input_boxes", "input_points"):
            assert_close(getattr(single, name)[0], getattr(batch, name)[index], 1e-4)


@torch.no_grad()
def test_sam_encodes_only_images_with_regions(make_model: Any, inputs: Inputs, sam_inputs: Inputs) -> None:
    model = make_model(min_region_fraction=0.0)
    threshold_between(model, inputs)
    calls = count_calls(model.sam.vision_encoder)
    model(**inputs, **sam_inputs)
    assert calls == [1]


@torch.no_grad()
def test_without_regions_sam_is_not_called_and_the_map_is_halved(
    make_model: Any, inputs: Inputs, sam_inputs: Inputs
) -> None:
    model = make_model(binarize_threshold=1.0)
    encoder, decoder = count_calls(model.sam.vision_encoder), count_calls(model.sam.mask_decoder)
    outputs = model(**inputs, **sam_inputs)
    assert encoder == [] and decoder == []
    assert_close(outputs.anomaly_map, outputs.rough_anomaly_map / 2)  # (A + S) / 2 with S = 0
    assert [len(masks) for masks in outputs.pred_masks] == [0, 0]


@torch.no_grad()
def test_refined_map_depends_on_sams_image(make_model: Any, inputs: Inputs, sam_inputs: Inputs) -> None:
    model = make_model(binarize_threshold=0.0)
    first = model(**inputs, **sam_inputs)
    other = model(**inputs, **{**sam_inputs, "sam_pixel_values": torch.randn(2, 3, SAM_SIDE, SAM_SIDE)})
    assert torch.equal(first.rough_anomaly_map, other.rough_anomaly_map)
    assert (first.anomaly_map - other.anomaly_map).abs().max() > 1e-3


@pytest.mark.parametrize("prompt_batch_size", [1, 2, 7, None])
@torch.no_grad()
def test_prompts_in_chunks_give_the_same(
    make_model: Any, inputs: Inputs, sam_inputs: Inputs, prompt_batch_size: int | None
) -> None:
    model = make_model(min_region_fraction=0.0)
    # A board of 16 separate cells: with a rough map of its own, whatever the network says
    board = torch.full((2, SIDE, SIDE), 0.1)
    board[:, 2::12, 2::12] = 0.9
    model.localizer.to_map = lambda logits, size: board
    expected = model(**inputs, **sam_inputs)
    assert len(expected.pred_masks[0]) == 9
    model.config.prompt_batch_size = prompt_batch_size
    given = model(**inputs, **sam_inputs)
    assert_close(given.anomaly_map, expected.anomaly_map)
    assert_close(given.pred_masks[0], expected.pred_masks[0], 1e-4)


@pytest.mark.parametrize(
    ("prompt_type", "boxes", "points"),
    [("box", True, False), ("points", False, True), ("box_and_points", True, True)],
)
@torch.no_grad()
def test_prompt_types(
    make_model: Any, inputs: Inputs, sam_inputs: Inputs, prompt_type: str, boxes: bool, points: bool
) -> None:
    outputs = make_model(binarize_threshold=0.0, prompt_type=prompt_type)(**inputs, **sam_inputs)
    assert (outputs.input_boxes is not None, outputs.input_points is not None) == (boxes, points)
    assert torch.isfinite(outputs.anomaly_map).all()


@torch.no_grad()
def test_single_mask_output(make_model: Any, inputs: Inputs, sam_inputs: Inputs) -> None:
    outputs = make_model(binarize_threshold=0.0, multimask_output=False)(**inputs, **sam_inputs)
    assert outputs.pred_masks[0].shape == (1, 1, 32, 32)


@pytest.mark.parametrize("fields", [{"merge": "sum_norm"}, {"merge": "average"}, {"mask_fusion": "binary"}])
@torch.no_grad()
def test_merge_options_reach_the_map(
    make_model: Any, inputs: Inputs, sam_inputs: Inputs, fields: dict[str, str]
) -> None:
    default = make_model(binarize_threshold=0.0)(**inputs, **sam_inputs).anomaly_map
    other = make_model(binarize_threshold=0.0, **fields)(**inputs, **sam_inputs).anomaly_map
    assert 0 <= other.min() and other.max() <= 1
    assert (default - other).abs().max() > 1e-3


@torch.no_grad()
def test_repeated_call_gives_the_same_bits(make_model: Any, inputs: Inputs, sam_inputs: Inputs) -> None:
    model = make_model(binarize_threshold=0.4, min_region_fraction=0.0)
    first, second = model(**inputs, **sam_inputs), model(**inputs, **sam_inputs)
    assert torch.equal(first.anomaly_map, second.anomaly_map)


# --- cached halves


@pytest.mark.parametrize("localizer", list(LOCALIZERS))
@torch.no_grad()
def test_cached_halves_give_the_same(make_model: Any, inputs: Inputs, sam_inputs: Inputs, localizer: str) -> None:
    model = make_model(localizer=localizer, binarize_threshold=0.4, min_region_fraction=0.0)
    whole = model(**inputs, **sam_inputs)
    halves = model(
        text_embeds=inputs["text_embeds"],
        feature_maps=model.get_feature_maps(inputs["pixel_values"]),
        image_embeddings=model.get_image_embeddings(sam_inputs["sam_pixel_values"]),
        reshaped_input_sizes=sam_inputs["reshaped_input_sizes"],
    )
    assert any(len(masks) for masks in whole.pred_masks)
    assert torch.equal(halves.rough_anomaly_map, whole.rough_anomaly_map)
    assert_close(halves.anomaly_map, whole.anomaly_map)


@torch.no_grad()
def test_feature_maps_are_the_blocks_outputs_without_the_class_token(make_model: Any, inputs: Inputs) -> None:
    model = make_model(feature_layers=(2,))
    states = model.clip.vision_model(inputs["pixel_values"], output_hidden_states=True).hidden_states
    (feature_map,) = model.get_feature_maps(inputs["pixel_values"])
    for row in range(TOKENS):
        for column in range(TOKENS):
            assert torch.equal(feature_map[:, :, row, column], states[2][:, 1 + TOKENS * row + column])


# --- input sizes


@pytest.mark.parametrize("localizer", list(LOCALIZERS))
@pytest.mark.parametrize(("height", "width"), [(48, 48), (16, 16), (24, 56), (56, 24), (37, 50), (8, 8), (15, 40)])
@torch.no_grad()
def test_any_input_size(make_model: Any, inputs: Inputs, height: int, width: int, localizer: str) -> None:
    outputs = make_model(localizer=localizer)(
        torch.randn(2, 3, height, width), text_embeds=inputs["text_embeds"], labels=torch.ones(2, height, width)
    )
    assert outputs.logits.shape[-2:] == (height // 8, width // 8)
    assert outputs.anomaly_map.shape == (2, height, width)
    assert torch.isfinite(outputs.anomaly_map).all() and torch.isfinite(outputs.loss)


@torch.no_grad()
def test_rest_of_a_side_repeats_the_border(make_model: Any, inputs: Inputs) -> None:
    model, image = make_model(), torch.randn(2, 3, 32, 37)
    wide = model(image, text_embeds=inputs["text_embeds"]).anomaly_map
    narrow = model(image[..., :32], text_embeds=inputs["text_embeds"]).anomaly_map
    assert_close(wide[..., :32], narrow)
    assert_close(wide[..., 32:], narrow[..., 31:].expand(-1, -1, 5))


# --- precision, attention, devices


@pytest.mark.parametrize("localizer", list(LOCALIZERS))
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@torch.no_grad()
def test_half_precision_is_finite_and_near(
    make_model: Any, tmp_path: Path, inputs: Inputs, sam_inputs: Inputs, dtype: torch.dtype, localizer: str
) -> None:
    exact = make_model(localizer=localizer, binarize_threshold=0.0)
    exact.save_pretrained(tmp_path)
    model = ClipSamForAnomalySegmentation.from_pretrained(tmp_path, dtype=dtype)
    assert {p.dtype for part in (model.clip, model.sam) for p in part.parameters()} == {dtype}
    if localizer == "umci":
        assert {parameter.dtype for parameter in model.umci.parameters()} == {torch.float32}
    outputs, expected = model(**inputs, **sam_inputs), exact(**inputs, **sam_inputs)
    for name in ("logits", "rough_anomaly_map", "anomaly_map", "pred_score"):
        assert getattr(outputs, name).dtype == torch.float32
        assert torch.isfinite(getattr(outputs, name)).all()
    assert_close(outputs.rough_anomaly_map, expected.rough_anomaly_map, 0.1)


@torch.no_grad()
def test_half_precision_images_are_accepted(make_model: Any, inputs: Inputs, sam_inputs: Inputs) -> None:
    model = make_model(binarize_threshold=0.0)
    halves = {name: value.bfloat16() if value.is_floating_point() else value for name, value in sam_inputs.items()}
    outputs = model(inputs["pixel_values"].bfloat16(), text_embeds=inputs["text_embeds"].bfloat16(), **halves)
    assert torch.isfinite(outputs.anomaly_map).all()


@torch.no_grad()
def test_sdpa_and_eager_agree(make_model: Any, inputs: Inputs, sam_inputs: Inputs) -> None:
    fields = {"binarize_threshold": 0.0}
    sdpa, eager = make_model("sdpa", **fields), make_model("eager", **fields)
    assert_close(sdpa(**inputs, **sam_inputs).anomaly_map, eager(**inputs, **sam_inputs).anomaly_map, 1e-4)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_attention_choice_reaches_the_backbones(make_model: Any, attention: str) -> None:
    model = make_model(attention)
    for part in (model.clip.vision_model, model.clip.text_model, model.sam.vision_encoder):
        assert part.config._attn_implementation == attention
    name = type(model.sam.vision_encoder.layers[0].attn).__name__
    assert name == ("SamVisionSdpaAttention" if attention == "sdpa" else "SamVisionAttention")


def test_attention_choice_per_backbone(make_model: Any) -> None:
    model = make_model()
    model.set_attn_implementation({"clip_config": "eager"})
    assert model.clip.vision_model.config._attn_implementation == "eager"
    assert model.sam.vision_encoder.config._attn_implementation == "sdpa"


def test_model_is_built_on_the_meta_device(tiny_config: ClipSamConfig) -> None:
    with torch.device("meta"):
        model = ClipSamForAnomalySegmentation(tiny_config)
    assert {parameter.device.type for parameter in model.parameters()} == {"meta"}


def test_device_map(make_model: Any, tmp_path: Path, inputs: Inputs) -> None:
    exact = make_model()
    exact.save_pretrained(tmp_path)
    model = ClipSamForAnomalySegmentation.from_pretrained(tmp_path, device_map="cpu")
    with torch.no_grad():
        assert torch.equal(model(**inputs).anomaly_map, exact(**inputs).anomaly_map)


def test_embeddings_can_be_replaced(make_model: Any) -> None:
    model = make_model()
    assert model.get_input_embeddings() is model.clip.text_model.embeddings.token_embedding
    new = torch.nn.Embedding(7, 32)
    model.set_input_embeddings(new)
    assert model.get_input_embeddings() is new


# --- the image's score


@torch.no_grad()
def test_score_is_the_mean_of_the_highest_pixels(make_model: Any, inputs: Inputs) -> None:
    model = make_model(score_top_fraction=4 / SIDE**2)
    outputs = model(**inputs)
    assert_close(outputs.pred_score, outputs.anomaly_map.flatten(1).topk(4).values.mean(dim=1))


@torch.no_grad()
def test_score_of_the_final_map_and_not_of_the_rough_one(make_model: Any, inputs: Inputs, sam_inputs: Inputs) -> None:
    outputs = make_model(binarize_threshold=0.0, image_score="max")(**inputs, **sam_inputs)
    assert torch.equal(outputs.pred_score, outputs.anomaly_map.amax(dim=(1, 2)))
    assert not torch.equal(outputs.anomaly_map, outputs.rough_anomaly_map)


@torch.no_grad()
def test_text_score_is_clips_own(make_model: Any, inputs: Inputs, tiny_tokenizer: CLIPTokenizer) -> None:
    model = make_model(image_score="text")
    tokens = tiny_tokenizer(["a flawless object", "a damaged object"], padding=True, return_tensors="pt")
    outputs = model(inputs["pixel_values"], tokens["input_ids"][None].expand(2, -1, -1))
    clip = model.clip(pixel_values=inputs["pixel_values"], **tokens)
    assert_close(outputs.pred_score, clip.logits_per_image.softmax(dim=-1)[:, 1])


def test_text_score_needs_the_image(make_model: Any, inputs: Inputs) -> None:
    model = make_model(image_score="text")
    with pytest.raises(ValueError, match="image_score.*text.*`pixel_values`"):
        model(feature_maps=model.get_feature_maps(inputs["pixel_values"]), text_embeds=inputs["text_embeds"])


def test_a_loss_of_cached_features_needs_no_score(make_model: Any, inputs: Inputs) -> None:
    model = make_model(image_score="text")
    cached = {"feature_maps": model.get_feature_maps(inputs["pixel_values"]), "text_embeds": inputs["text_embeds"]}
    outputs = model(**cached, labels=torch.zeros(2, 8, 8))
    assert torch.isfinite(outputs.loss) and outputs.pred_score is None and outputs.rough_score is None


# --- is the head trained?


def test_fresh_head_is_untrained(make_model: Any, tiny_config: ClipSamConfig) -> None:
    model = ClipSamForAnomalySegmentation(tiny_config)
    assert not model.head_is_trained


@pytest.mark.parametrize("localizer", ["vv", "windows", "similarity"])
def test_a_localizer_without_a_head_needs_no_training(make_model: Any, localizer: str) -> None:
    assert make_model(localizer=localizer).head_is_trained


@pytest.mark.parametrize(
    "use",
    [
        lambda model: model.train(),
        lambda model: model.to(torch.bfloat16),
        lambda model: model.to("cpu"),
        lambda model: copy.deepcopy(model),
        lambda model: model.requires_grad_(False),
        lambda model: model.share_memory(),
    ],
    ids=["train", "dtype", "device", "deepcopy", "requires_grad", "share_memory"],
)
def test_use_does_not_make_a_fresh_head_trained(tiny_config: ClipSamConfig, use: Any) -> None:
    used = use(ClipSamForAnomalySegmentation(tiny_config))
    assert not used.head_is_trained


def test_forward_and_backward_do_not_make_a_fresh_head_trained(tiny_config: ClipSamConfig, inputs: Inputs) -> None:
    model = ClipSamForAnomalySegmentation(tiny_config)
    training_step(model, inputs)
    assert not model.head_is_trained


@torch.no_grad()
def test_overwriting_a_fresh_head_does_not_train_it(tiny_config: ClipSamConfig) -> None:
    model = ClipSamForAnomalySegmentation(tiny_config)
    for parameter in model.umci.parameters():
        parameter.zero_()
    assert not model.head_is_trained
    with pytest.raises(ValueError, match="random weights"):
        model.check_trained()


def test_whoever_sets_weights_by_hand_says_so(tiny_config: ClipSamConfig) -> None:
    model = ClipSamForAnomalySegmentation(tiny_config)
    model.head_is_trained = True
    model.check_trained()


def test_optimizer_step_makes_a_head_trained(tiny_config: ClipSamConfig, inputs: Inputs) -> None:
    model = ClipSamForAnomalySegmentation(tiny_config)
    training_step(model, inputs)
    torch.optim.AdamW(model.umci.parameters()).step()
    assert model.head_is_trained
    assert copy.deepcopy(model).head_is_trained


def test_loaded_head_is_trained(make_model: Any, tmp_path: Path, tiny_config: ClipSamConfig) -> None:
    model = make_model()
    model.save_pretrained(tmp_path)
    assert ClipSamForAnomalySegmentation.from_pretrained(tmp_path).head_is_trained
    fresh = ClipSamForAnomalySegmentation(tiny_config)
    fresh.load_state_dict(model.state_dict())
    assert fresh.head_is_trained


# --- from pretrained CLIP and SAM


@pytest.fixture
def backbones(tmp_path: Path, tiny_clip_config: CLIPConfig, tiny_sam_config: SamConfig) -> tuple[Path, Path]:
    """Folders of a CLIP of four blocks and a SAM."""
    tiny_clip_config.vision_config.num_hidden_layers = 4
    CLIPModel(tiny_clip_config).save_pretrained(tmp_path / "clip")
    SamModel(tiny_sam_config).save_pretrained(tmp_path / "sam")
    return tmp_path / "clip", tmp_path / "sam"


def test_backbones_weights_are_identical(backbones: tuple[Path, Path]) -> None:
    model = ClipSamForAnomalySegmentation.from_clip_sam_pretrained(*backbones)
    for part, original in (
        (model.clip, CLIPModel.from_pretrained(backbones[0])),
        (model.sam, SamModel.from_pretrained(backbones[1])),
    ):
        expected = original.state_dict()
        assert part.state_dict().keys() == expected.keys()
        assert all(torch.equal(value, expected[name]) for name, value in part.state_dict().items())


def test_fields_follow_the_backbones(backbones: tuple[Path, Path]) -> None:
    model = ClipSamForAnomalySegmentation.from_clip_sam_pretrained(*backbones)
    assert tuple(model.config.feature_layers) == (1, 2, 3, 4)
    assert model.config.image_size == 520  # the multiple of 8 nearest to 518
    assert model.config.localizer == "vv" and not hasattr(model, "umci")
    assert model.config.region_rule == "relative"  # no threshold was calibrated for it
    assert not model.training and model.head_is_trained
    assert not any(parameter.requires_grad for parameter in model.parameters())


def test_fields_can_be_given(backbones: tuple[Path, Path]) -> None:
    model = ClipSamForAnomalySegmentation.from_clip_sam_pretrained(
        *backbones, feature_layers=(2, 4), image_size=32, scale_sizes=(2,), freeze_backbones=False
    )
    assert (tuple(model.config.feature_layers), model.config.image_size) == ((2, 4), 32)
    assert all(parameter.requires_grad for parameter in model.clip.vision_model.encoder.layers[:3].parameters())


@pytest.mark.parametrize(
    ("localizer", "rule", "words"),
    [
        ("umci", "fixed", "The UMCI head is new: train it before use, or take `localizer='vv'`."),
        ("vv", "relative", ""),
        ("windows", "relative", ""),
        ("similarity", "relative", "known to be below chance"),
    ],
)
def test_a_localizer_brings_its_region_rule_and_its_caution(
    backbones: tuple[Path, Path],
    localizer: Any,
    rule: str,
    words: str,
    caplog: pytest.LogCaptureFixture,
    listen: Callable[[], None],
) -> None:
    listen()
    model = ClipSamForAnomalySegmentation.from_clip_sam_pretrained(*backbones, localizer=localizer, scale_sizes=(2,))
    assert (model.config.localizer, model.config.region_rule) == (localizer, rule)
    assert words in caplog.text and bool(words) == bool(caplog.text)


def test_a_given_region_rule_stays(backbones: tuple[Path, Path]) -> None:
    model = ClipSamForAnomalySegmentation.from_clip_sam_pretrained(*backbones, region_rule="fixed")
    assert model.config.region_rule == "fixed"


def test_an_unknown_localizer_is_refused(backbones: tuple[Path, Path]) -> None:
    name: Any = "vvv"
    with pytest.raises(StrictDataclassError, match="'localizer'"):
        ClipSamForAnomalySegmentation.from_clip_sam_pretrained(*backbones, localizer=name)


def test_configs_stay_shared_with_the_backbones(backbones: tuple[Path, Path]) -> None:
    model = ClipSamForAnomalySegmentation.from_clip_sam_pretrained(*backbones)
    assert model.clip.config is model.config.clip_config
    assert model.clip.vision_model.config is model.config.clip_config.vision_config
    assert model.sam.config is model.config.sam_config


def test_new_head_is_initialised_and_untrained(backbones: tuple[Path, Path], tiny_config: ClipSamConfig) -> None:
    model = ClipSamForAnomalySegmentation.from_clip_sam_pretrained(
        *backbones, localizer="umci", umci_hidden_size=64, feature_layers=(1, 2), image_size=32, scale_sizes=(2,)
    )
    assert not model.head_is_trained
    assert {parameter.dtype for parameter in model.umci.parameters()} == {torch.float32}
    for name, parameter in model.umci.named_parameters():
        if name.endswith("bias"):
            assert parameter.abs().max() == 0
        else:
            # Fan-in scaling; a wide band, since the smallest tensors have few entries
            fan_in = parameter[0].numel()
            assert 0.8 < parameter.std().item() * fan_in**0.5 < 1.2, name


def test_new_head_follows_the_seed(backbones: tuple[Path, Path]) -> None:
    heads = []
    for seed in (3, 3, 4):
        torch.manual_seed(seed)
        model = ClipSamForAnomalySegmentation.from_clip_sam_pretrained(
            *backbones, localizer="umci", umci_hidden_size=8, image_size=32, feature_layers=(1,), scale_sizes=(2,)
        )
        heads.append(model.umci[0].fuse.weight)
    assert torch.equal(heads[0], heads[1]) and not torch.equal(heads[0], heads[2])


def test_made_model_can_be_saved_and_loaded(backbones: tuple[Path, Path], tmp_path: Path, inputs: Inputs) -> None:
    model = ClipSamForAnomalySegmentation.from_clip_sam_pretrained(*backbones, image_size=32, scale_sizes=(2,))
    model.save_pretrained(tmp_path / "both")
    loaded = ClipSamForAnomalySegmentation.from_pretrained(tmp_path / "both")
    expected = model.state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in loaded.state_dict().items())
    with torch.no_grad():
        torch.testing.assert_close(loaded(**inputs).anomaly_map, model(**inputs).anomaly_map, atol=1e-6, rtol=0)


def test_keyword_arguments_reach_each_backbone(backbones: tuple[Path, Path]) -> None:
    model = ClipSamForAnomalySegmentation.from_clip_sam_pretrained(
        *backbones, clip_kwargs={"dtype": torch.bfloat16}, sam_kwargs={"dtype": torch.float16}
    )
    assert (model.clip.dtype, model.sam.dtype) == (torch.bfloat16, torch.float16)


@pytest.mark.parametrize("which", ["clip", "sam"])
def test_attention_choice_of_each_backbone_is_kept(backbones: tuple[Path, Path], which: str) -> None:
    kwargs: dict[str, Any] = {f"{which}_kwargs": {"attn_implementation": "eager"}}
    model = ClipSamForAnomalySegmentation.from_clip_sam_pretrained(*backbones, **kwargs)
    encoders = {"clip": model.clip.vision_model, "sam": model.sam.vision_encoder}
    chosen = {name: encoder.config._attn_implementation for name, encoder in encoders.items()}
    assert chosen == {"clip": "sdpa", "sam": "sdpa", which: "eager"}


def test_missing_backbone_raises(backbones: tuple[Path, Path], tmp_path: Path) -> None:
    with pytest.raises(OSError):
        ClipSamForAnomalySegmentation.from_clip_sam_pretrained(tmp_path / "nothing", backbones[1])


def test_backbone_that_lacks_a_tensor_raises(backbones: tuple[Path, Path]) -> None:
    from safetensors.torch import load_file, save_file

    file = backbones[0] / "model.safetensors"
    tensors = load_file(file)
    del tensors["visual_projection.weight"]
    save_file(tensors, file, metadata={"format": "pt"})
    with pytest.raises(ValueError, match="lacks 1 tensors.*visual_projection.weight"):
        ClipSamForAnomalySegmentation.from_clip_sam_pretrained(*backbones)


# --- out of a ClipSAM


def same(part: torch.nn.Module, other: torch.nn.Module) -> bool:
    expected = other.state_dict()
    return part.state_dict().keys() == expected.keys() and all(
        torch.equal(value, expected[name]) for name, value in part.state_dict().items()
    )


@pytest.mark.parametrize("save", [{}, {"max_shard_size": "20KB"}], ids=["one file", "shards"])
def test_backbones_may_come_out_of_a_clipsam(
    make_model: Any, tmp_path: Path, save: dict[str, str], caplog: pytest.LogCaptureFixture, listen: Callable[[], None]
) -> None:
    whole = make_model()
    whole.save_pretrained(tmp_path / "whole", **save)
    listen()
    model = ClipSamForAnomalySegmentation.from_clip_sam_pretrained(tmp_path / "whole", tmp_path / "whole")
    assert same(model.clip, whole.clip) and same(model.sam, whole.sam)
    assert model.config.localizer == "vv" and model.config.clip_name_or_path == str(tmp_path / "whole")
    assert caplog.text == ""  # neither what the head is not needed for, nor that the other half is unexpected


def test_backbones_may_come_out_of_a_clipsam_without_backbones(backbones: tuple[Path, Path], tmp_path: Path) -> None:
    trained = ClipSamForAnomalySegmentation.from_clip_sam_pretrained(*backbones, localizer="umci")
    trained.save_pretrained(tmp_path / "head", save_backbones=False)
    model = ClipSamForAnomalySegmentation.from_clip_sam_pretrained(tmp_path / "head", tmp_path / "head")
    assert same(model.clip, trained.clip) and same(model.sam, trained.sam)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, "visa"),
        ({"clip_name_or_path": "openai/clip-vit-large-patch14-336"}, None),
        ({"clip_name_or_path": "openai/clip-vit-large-patch14-336", "freeze_backbones": False}, "visa"),
    ],
    ids=["its own", "frozen from elsewhere", "trained"],
)
def test_a_clip_out_of_a_clipsam_says_what_it_may_have_seen(
    make_model: Any, tmp_path: Path, fields: dict[str, Any], expected: str | None
) -> None:
    make_model(auxiliary_dataset="visa", **fields).save_pretrained(tmp_path / "whole")
    model = ClipSamForAnomalySegmentation.from_clip_sam_pretrained(tmp_path / "whole", tmp_path / "whole")
    assert model.config.auxiliary_dataset == expected


def test_another_kind_in_the_place_of_clip_is_refused(backbones: tuple[Path, Path]) -> None:
    with pytest.raises(ValueError, match="is of the kind 'sam', where a CLIP"):
        ClipSamForAnomalySegmentation.from_clip_sam_pretrained(backbones[1], backbones[1])


def test_loading_says_nothing(
    make_model: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture, listen: Callable[[], None]
) -> None:
    make_model().save_pretrained(tmp_path)
    listen()
    ClipSamForAnomalySegmentation.from_pretrained(tmp_path)
    assert caplog.text == ""
