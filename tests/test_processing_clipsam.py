# SPDX-FileCopyrightText: 2026 The clipsam_hf authors
# SPDX-License-Identifier: Apache-2.0
"""The processor: what CLIP and SAM get to see, the sentences, the labels, and maps back at the photographs' sizes."""

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw
from transformers import AutoProcessor, BatchFeature, CLIPImageProcessorPil, CLIPTokenizer, SamImageProcessorPil

from clipsam_hf import processing_clipsam
from clipsam_hf.processing_clipsam import ClipSamProcessor
from clipsam_hf.prompts_clipsam import ABNORMAL_STATES, NORMAL_STATES, PROMPT_TEMPLATES


CLIP_SIZE = 32
SAM_SIZE = 64


def noise(height: int, width: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(height * width).integers(0, 256, (height, width, 3), dtype=np.uint8))


def outputs_of(anomaly_map: Any, score: float = 0.5) -> SimpleNamespace:
    return SimpleNamespace(
        anomaly_map=torch.tensor(anomaly_map, dtype=torch.float32)[None], pred_score=torch.tensor([score])
    )


def regions_of(processor: ClipSamProcessor, anomaly_map: Any, threshold: float = 0.5) -> list[dict[str, Any]]:
    (result,) = processor.post_process_anomaly_segmentation(outputs_of(anomaly_map), threshold=threshold)
    return result["regions"]


@pytest.fixture
def warnings_of_processor(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    messages: list[str] = []
    monkeypatch.setattr(processing_clipsam.logger, "warning", messages.append)
    return messages


# --------------------------------------------------------------------------------------------------------------------
# Photographs


def test_output_keys_are_the_model_input_names(tiny_processor: ClipSamProcessor) -> None:
    inputs = tiny_processor(images=noise(20, 40), text="candle", return_tensors="pt")
    assert set(inputs) == set(tiny_processor.model_input_names)
    assert isinstance(inputs, BatchFeature)


def test_clip_sees_the_whole_photograph_squashed(tiny_processor: ClipSamProcessor) -> None:
    photograph = noise(20, 90)
    seen = tiny_processor(images=photograph, return_tensors="np")["pixel_values"][0]
    part = tiny_processor.image_processor
    squashed = np.asarray(photograph.resize((CLIP_SIZE, CLIP_SIZE), Image.Resampling.BICUBIC)) / 255
    expected = (squashed - np.array(part.image_mean)) / np.array(part.image_std)
    np.testing.assert_allclose(seen, expected.transpose(2, 0, 1), atol=1e-5)


def test_sizes_are_height_and_width(tiny_processor: ClipSamProcessor) -> None:
    inputs = tiny_processor(images=[noise(20, 40), noise(30, 10)], return_tensors="pt")
    assert inputs["original_sizes"].tolist() == [[20, 40], [30, 10]]
    assert inputs["reshaped_input_sizes"].tolist() == [[32, 64], [64, 21]]
    assert inputs["pixel_values"].shape == (2, 3, CLIP_SIZE, CLIP_SIZE)
    assert inputs["sam_pixel_values"].shape == (2, 3, SAM_SIZE, SAM_SIZE)


def test_sam_sees_the_photograph_scaled_and_padded_below(tiny_processor: ClipSamProcessor) -> None:
    photograph = Image.new("RGB", (40, 20), "white")
    seen = tiny_processor(images=photograph, return_tensors="pt")["sam_pixel_values"][0]
    assert (seen[:, :32] > 2).all() and (seen[:, 32:] == 0).all()


def test_without_sam_there_are_only_the_inputs_of_clip(tiny_processor: ClipSamProcessor) -> None:
    inputs = tiny_processor(images=noise(20, 40), return_sam_inputs=False, return_tensors="pt")
    assert set(inputs) == {"pixel_values", "original_sizes"}


@pytest.mark.parametrize("kind", ["array", "tensor", "path", "batch"])
def test_photograph_may_come_in_other_forms(tiny_processor: ClipSamProcessor, tmp_path: Path, kind: str) -> None:
    photograph = noise(20, 40)
    photograph.save(tmp_path / "photo.png")
    forms = {
        "array": np.asarray(photograph),
        "tensor": torch.from_numpy(np.array(photograph)).permute(2, 0, 1),
        "path": tmp_path / "photo.png",
        "batch": np.asarray(photograph)[None],
    }
    inputs = tiny_processor(images=forms[kind], return_tensors="pt")
    expected = tiny_processor(images=photograph, return_tensors="pt")
    for name in expected:
        assert torch.equal(inputs[name], expected[name])


@pytest.mark.parametrize("size", [(1, 1), (1, 100), (100, 1)])
def test_smallest_photographs(tiny_processor: ClipSamProcessor, size: tuple[int, int]) -> None:
    inputs = tiny_processor(images=noise(*size), return_tensors="pt")
    assert torch.isfinite(inputs["pixel_values"]).all()
    assert inputs["reshaped_input_sizes"].min() >= 1


def test_photograph_too_narrow_for_sam(tiny_processor: ClipSamProcessor) -> None:
    with pytest.raises(ValueError, match="1x129"):
        tiny_processor(images=noise(1, 129))
    assert "pixel_values" in tiny_processor(images=noise(1, 129), return_sam_inputs=False)


def test_cropping_image_processor_raises(tiny_processor: ClipSamProcessor) -> None:
    with pytest.raises(ValueError, match="do_center_crop=True"):
        ClipSamProcessor(CLIPImageProcessorPil(), tiny_processor.sam_image_processor, tiny_processor.tokenizer)


@pytest.mark.parametrize("keywords", [{"do_center_crop": True}, {"size": {"shortest_edge": 32}}])
def test_cropping_keyword_raises(tiny_processor: ClipSamProcessor, keywords: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="whole photograph"):
        tiny_processor(images=noise(20, 40), **keywords)


def test_size_may_be_another_square(tiny_processor: ClipSamProcessor) -> None:
    inputs = tiny_processor(
        images=noise(20, 40),
        segmentation_maps=np.ones((20, 40)),
        size={"height": 48, "width": 48},
        return_tensors="pt",
    )
    assert inputs["pixel_values"].shape[-2:] == inputs["labels"].shape[-2:] == (48, 48)


def test_torchvision_parts_become_pillow_parts(tiny_processor: ClipSamProcessor) -> None:
    class CLIPImageProcessor(CLIPImageProcessorPil):  # as the library names the one of torchvision
        backend = "torchvision"  # type: ignore[assignment]

    part = CLIPImageProcessor(size={"height": 16, "width": 16}, do_center_crop=False)
    processor = ClipSamProcessor(part, tiny_processor.sam_image_processor, tiny_processor.tokenizer)
    assert type(processor.image_processor) is CLIPImageProcessorPil
    assert processor.image_processor.size["height"] == 16


def test_from_clip_sam_pretrained_never_crops(tmp_path: Path, tiny_tokenizer: CLIPTokenizer) -> None:
    CLIPImageProcessorPil().save_pretrained(tmp_path / "clip")  # CLIP's real settings: 224, centre crop
    tiny_tokenizer.save_pretrained(tmp_path / "clip")
    SamImageProcessorPil().save_pretrained(tmp_path / "sam")
    processor = ClipSamProcessor.from_clip_sam_pretrained(tmp_path / "clip", tmp_path / "sam", image_size=42)

    photograph = Image.new("RGB", (300, 100))
    photograph.paste("white", (0, 0, 20, 100))  # at the edge, where a centre crop would cut it off
    seen = processor(images=photograph, return_tensors="pt")["pixel_values"]
    assert seen.shape == (1, 3, 42, 42)
    assert seen[0, :, :, 0].min() > 1 > seen[0, :, :, -1].max()


def test_from_clip_sam_pretrained_defaults_to_518(tmp_path: Path, tiny_tokenizer: CLIPTokenizer) -> None:
    CLIPImageProcessorPil().save_pretrained(tmp_path)
    tiny_tokenizer.save_pretrained(tmp_path)
    processor = ClipSamProcessor.from_clip_sam_pretrained(tmp_path, tmp_path, normal_states=["{}"])
    assert (processor.image_processor.size["height"], processor.image_processor.size["width"]) == (518, 518)
    assert processor.normal_states == ["{}"]


def test_no_input_raises(tiny_processor: ClipSamProcessor) -> None:
    with pytest.raises(ValueError, match="at least one"):
        tiny_processor()
    with pytest.raises(ValueError, match="empty"):
        tiny_processor(images=[])


def test_mistyped_keyword_raises(tiny_processor: ClipSamProcessor) -> None:
    with pytest.raises(TypeError, match="'return_tensor'; did you mean 'return_tensors'"):
        tiny_processor(images=noise(4, 4), return_tensor="pt")


# --------------------------------------------------------------------------------------------------------------------
# Text


def test_sentences_of_both_classes(tiny_processor: ClipSamProcessor) -> None:
    inputs = tiny_processor(text="candle", return_tensors="pt")
    num_normal, num_abnormal = (len(states) * len(PROMPT_TEMPLATES) for states in (NORMAL_STATES, ABNORMAL_STATES))
    assert inputs["input_ids"].shape == (1, 2, num_normal, 77)
    real = inputs["attention_mask"].any(dim=-1)[0]
    assert real.sum(dim=-1).tolist() == [num_normal, num_abnormal]
    assert real[1, :num_abnormal].all()

    decode = tiny_processor.tokenizer.decode
    normal, abnormal = (decode(ids, skip_special_tokens=True) for ids in inputs["input_ids"][0, :, 0])
    assert normal.replace(" ", "") == "abadphotoofacandle."
    assert abnormal.replace(" ", "") == "abadphotoofadamagedcandle."


def test_one_name_serves_all_images(tiny_processor: ClipSamProcessor) -> None:
    inputs = tiny_processor(images=[noise(4, 4)] * 3, text="candle", return_tensors="pt")
    assert inputs["input_ids"].shape[0] == 3


def test_names_keep_their_order(tiny_processor: ClipSamProcessor) -> None:
    together = tiny_processor(text=["candle", "bolt", "candle"], return_tensors="pt")["input_ids"]
    bolt = tiny_processor(text="bolt", return_tensors="pt")["input_ids"]
    assert torch.equal(together[0], together[2])
    assert torch.equal(together[1], bolt[0]) and not torch.equal(together[0], bolt[0])


def test_different_numbers_of_images_and_names_raise(tiny_processor: ClipSamProcessor) -> None:
    with pytest.raises(ValueError, match="2 entries, but there are 3 images"):
        tiny_processor(images=[noise(4, 4)] * 3, text=["candle", "bolt"])


def test_samples_without_an_image(tiny_processor: ClipSamProcessor) -> None:
    inputs = tiny_processor(images=[[], [noise(4, 4)]], text=["candle", "bolt"], return_tensors="pt")
    assert (len(inputs["pixel_values"]), len(inputs["input_ids"])) == (1, 2)


@pytest.mark.parametrize(
    ("name", "error"), [("", ValueError), (" \t\n", ValueError), (None, TypeError), (7, TypeError), (b"a", TypeError)]
)
def test_unusable_class_name_raises(tiny_processor: ClipSamProcessor, name: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match="class name"):
        tiny_processor(text=["candle", name])


@pytest.mark.parametrize("name", ["{}", "{0} {name} {", "%s", "🕯️ кружка", "candle"])
def test_any_other_name_is_plain_text(tiny_processor: ClipSamProcessor, name: str) -> None:
    ids = tiny_processor(text=name, return_tensors="pt")["input_ids"][0, 1, 0]
    decoded = tiny_processor.tokenizer.decode(ids, skip_special_tokens=True)
    plain = tiny_processor.tokenizer.decode(tiny_processor.tokenizer(name)["input_ids"], skip_special_tokens=True)
    assert plain.replace(" ", "") in decoded.replace(" ", "")


def test_white_space_of_a_name_does_not_matter(tiny_processor: ClipSamProcessor) -> None:
    spaced = tiny_processor(text="  wax\n candle ", return_tensors="pt")["input_ids"]
    assert torch.equal(spaced, tiny_processor(text="wax candle", return_tensors="pt")["input_ids"])


def test_a_word_of_which_the_model_knows_no_part_is_told_once(
    tiny_processor: ClipSamProcessor, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    monkeypatch.setattr(processing_clipsam.logger, "warning", said.append)
    processing_clipsam._warn_once.cache_clear()
    for name in ("photo 1234", "photo zqzq", "zqzq"):  # digits are read one by one, and known
        tiny_processor(text=name)
    assert [each.partition(":")[0] for each in said] == ["'zqzq' says nothing to this model"]


def test_long_name_is_refused(tiny_processor: ClipSamProcessor) -> None:
    with pytest.raises(ValueError, match=r"tokens, and CLIP reads 77.*Choose a shorter class name"):
        tiny_processor(text="candle " * 400, return_tensors="pt")


def test_name_that_just_fits_is_taken(tiny_processor: ClipSamProcessor) -> None:
    sentence_length = len(tiny_processor.tokenizer("a photo of a damaged candle.")["input_ids"])
    processor = ClipSamProcessor(
        tiny_processor.image_processor,
        tiny_processor.sam_image_processor,
        tiny_processor.tokenizer,
        normal_states=["{}"],
        abnormal_states=["damaged {}"],
        prompt_templates=["a photo of a {}."],
    )
    processor(text="candle", max_length=sentence_length)
    with pytest.raises(ValueError, match=f"and CLIP reads {sentence_length - 1}"):
        processor(text="candle", max_length=sentence_length - 1)


@pytest.mark.parametrize("name", ["can\x00dle", "candle\x1b[31m", "\ud800"])
def test_control_characters_in_a_name_are_refused(tiny_processor: ClipSamProcessor, name: str) -> None:
    with pytest.raises(ValueError, match="control characters"):
        tiny_processor(text=name)


def test_special_tokens_in_a_name_are_refused(tiny_processor: ClipSamProcessor) -> None:
    token = tiny_processor.tokenizer.eos_token
    with pytest.raises(ValueError, match="must not hold the tokenizer's"):
        tiny_processor(text=f"candle {token.upper()} holder")


def test_braces_in_a_name_stay_text(tiny_processor: ClipSamProcessor) -> None:
    ids = tiny_processor(text="{} {0} bracket", return_tensors="pt")["input_ids"]
    sentence = tiny_processor.tokenizer.decode(ids[0, 0, 0], skip_special_tokens=True)
    assert "".join(sentence.split()).endswith("{}{0}bracket.")


def test_padding_to_the_longest_sentence(tiny_processor: ClipSamProcessor) -> None:
    inputs = tiny_processor(text=["candle", "zz"], padding="longest", return_tensors="pt")
    lengths = inputs["attention_mask"].sum(dim=-1)
    assert inputs["input_ids"].shape[-1] == lengths.max() < 77


def test_ragged_sentences_raise(tiny_processor: ClipSamProcessor) -> None:
    with pytest.raises(ValueError, match="padding"):
        tiny_processor(text="candle", padding=False)


def test_words_are_saved_with_the_processor(tiny_processor: ClipSamProcessor, tmp_path: Path) -> None:
    processor = ClipSamProcessor(
        tiny_processor.image_processor,
        tiny_processor.sam_image_processor,
        tiny_processor.tokenizer,
        normal_states=("whole {}",),
        abnormal_states=["torn {}", "{} with hole"],
        prompt_templates=["a scan of {}"],
    )
    processor.save_pretrained(tmp_path)
    for loaded in (ClipSamProcessor.from_pretrained(tmp_path), AutoProcessor.from_pretrained(tmp_path)):
        assert loaded.to_dict() == processor.to_dict()
        assert loaded.abnormal_states == ["torn {}", "{} with hole"]
        assert type(loaded.sam_image_processor) is SamImageProcessorPil


@pytest.mark.parametrize(
    ("words", "error"),
    [
        ({"normal_states": []}, ValueError),
        ({"abnormal_states": ["damaged"]}, ValueError),
        ({"prompt_templates": ["a photo"]}, ValueError),
        ({"prompt_templates": "a photo of {}"}, TypeError),
        ({"normal_states": ["{}", None]}, TypeError),
    ],
)
def test_unusable_words_raise(tiny_processor: ClipSamProcessor, words: dict[str, Any], error: type[Exception]) -> None:
    parts = (tiny_processor.image_processor, tiny_processor.sam_image_processor, tiny_processor.tokenizer)
    with pytest.raises(error, match=next(iter(words))):
        ClipSamProcessor(*parts, **words)


# --------------------------------------------------------------------------------------------------------------------
# Labels


def labels_of(processor: ClipSamProcessor, segmentation_maps: Any, size: int = 4) -> list[Any]:
    keywords = {"size": {"height": size, "width": size}}
    return processor(segmentation_maps=segmentation_maps, return_tensors="pt", **keywords)["labels"].tolist()


def test_labels_are_the_nearest_pixels(tiny_processor: ClipSamProcessor) -> None:
    doubled = [[0, 0, 1, 1], [0, 0, 1, 1], [1, 1, 0, 0], [1, 1, 0, 0]]
    assert labels_of(tiny_processor, np.array([[0, 1], [1, 0]])) == [doubled]
    # Half-pixel centres: of 8 columns those at 1, 3, 5, 7
    columns = np.tile([0, 1, 0, 0, 0, 1, 1, 0], (8, 1))
    assert labels_of(tiny_processor, columns) == [[[1, 0, 1, 0]] * 4]


@pytest.mark.parametrize(
    "segmentation_map",
    [
        np.array([[0, 255], [255, 0]], dtype=np.uint8),
        np.array([[False, True], [True, False]]),
        np.array([[0.0, 1.0], [1.0, 0.0]]),
        torch.tensor([[0, 3], [1, 0]]),
        Image.fromarray(np.array([[0, 255], [255, 0]], dtype=np.uint8)),
        Image.fromarray(np.array([[0, 255], [255, 0]], dtype=np.uint8)).convert("1"),
        Image.fromarray(np.array([[0, 255], [255, 0]], dtype=np.uint8)).convert("RGBA"),
        Image.fromarray(np.array([[0, 2], [1, 0]], dtype=np.uint8)).convert("P"),
    ],
)
def test_labels_of_any_kind_of_mask(tiny_processor: ClipSamProcessor, segmentation_map: Any) -> None:
    assert labels_of(tiny_processor, [segmentation_map], size=2) == [[[0, 1], [1, 0]]]


def test_ignored_pixels_stay_ignored(tiny_processor: ClipSamProcessor) -> None:
    assert labels_of(tiny_processor, np.array([[-100, 1], [0, -100]]), size=2) == [[[-100, 1], [0, -100]]]


def test_maps_of_different_sizes_batch(tiny_processor: ClipSamProcessor) -> None:
    inputs = tiny_processor(
        images=[noise(9, 7), noise(30, 40)], segmentation_maps=[np.zeros((9, 7)), np.ones((3, 4))], return_tensors="pt"
    )
    assert inputs["labels"].shape == (2, CLIP_SIZE, CLIP_SIZE)
    assert inputs["labels"].flatten(1).float().mean(dim=1).tolist() == [0, 1]
    assert inputs["labels"].dtype == torch.int64


@pytest.mark.parametrize(
    ("segmentation_map", "error"),
    [
        (np.array([[np.nan]]), ValueError),
        (np.array([[-1]]), ValueError),
        (np.zeros((1, 0)), ValueError),
        (np.zeros((2, 2, 2, 2)), ValueError),
        ("mask.png", TypeError),
    ],
)
def test_unusable_map_raises(tiny_processor: ClipSamProcessor, segmentation_map: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match="segmentation map"):
        tiny_processor(segmentation_maps=segmentation_map)


def test_different_numbers_of_images_and_maps_raise(tiny_processor: ClipSamProcessor) -> None:
    with pytest.raises(ValueError, match="segmentation_maps"):
        tiny_processor(images=noise(4, 4), segmentation_maps=[np.ones((4, 4))] * 2)


@settings(max_examples=20, deadline=None)
@given(st.integers(40, 200), st.integers(40, 200), st.integers(0, 20), st.integers(0, 20))
def test_labels_lie_where_clip_sees_the_defect(height: int, width: int, top: int, left: int) -> None:
    image_processor = CLIPImageProcessorPil(size={"height": CLIP_SIZE, "width": CLIP_SIZE}, do_center_crop=False)
    photograph = Image.new("L", (width, height))
    ImageDraw.Draw(photograph).rectangle((left, top, left + width // 2, top + height // 2), fill=255)
    seen = image_processor(photograph.convert("RGB"), do_normalize=False, return_tensors="np")["pixel_values"][0, 0]
    labels = processing_clipsam._to_labels(photograph, (CLIP_SIZE, CLIP_SIZE))
    # They may differ on the rectangle's two open edges by one pixel's width
    assert np.mean((seen > 0.5) != labels) <= 4 / CLIP_SIZE
    rows = [np.nonzero(mask.any(axis=1))[0][[0, -1]] for mask in (seen > 0.5, labels > 0)]
    assert np.abs(rows[0] - rows[1]).max() <= 1


# --------------------------------------------------------------------------------------------------------------------
# Maps, masks and regions


def test_map_is_resized_with_half_pixel_centres(tiny_processor: ClipSamProcessor) -> None:
    (result,) = tiny_processor.post_process_anomaly_segmentation(outputs_of([[0.0, 1.0]]), target_sizes=[(2, 4)])
    assert result["anomaly_map"].tolist() == [[0, 0.25, 0.75, 1]] * 2
    assert result["mask"].tolist() == [[False, False, True, True]] * 2
    assert result["anomaly_map"].dtype == torch.float32 and result["mask"].dtype == torch.bool


def test_every_map_gets_its_own_size(tiny_processor: ClipSamProcessor) -> None:
    outputs = SimpleNamespace(anomaly_map=torch.rand(2, 8, 8).bfloat16(), pred_score=torch.tensor([0.1, 0.2]))
    sizes = torch.tensor([[3, 5], [20, 1]])
    results = tiny_processor.post_process_anomaly_segmentation(outputs, target_sizes=sizes)
    assert [tuple(result["anomaly_map"].shape) for result in results] == [(3, 5), (20, 1)]
    assert [result["score"] for result in results] == pytest.approx([0.1, 0.2])
    assert results[0]["anomaly_map"].dtype == torch.float32


def test_threshold_is_exceeded_and_not_reached(tiny_processor: ClipSamProcessor) -> None:
    (result,) = tiny_processor.post_process_anomaly_segmentation(outputs_of([[0.5, 0.75]]), threshold=0.5)
    assert result["mask"].tolist() == [[False, True]]


def test_region_has_box_area_and_mean(tiny_processor: ClipSamProcessor) -> None:
    anomaly_map = np.zeros((4, 6))
    anomaly_map[1:3, 2:5] = [[0.75, 1.0, 0.75], [0.0, 1.0, 0.0]]
    (region,) = regions_of(tiny_processor, anomaly_map)
    assert region == {"box": {"xmin": 2, "ymin": 1, "xmax": 5, "ymax": 3}, "score": 0.875, "area": 4}
    kinds = {type(value) for value in (*region["box"].values(), region["area"])}
    assert kinds == {int} and type(region["score"]) is float


def test_regions_come_by_falling_score(tiny_processor: ClipSamProcessor) -> None:
    regions = regions_of(tiny_processor, [[0.6, 0, 0.9, 0, 0.7]])
    assert [region["score"] for region in regions] == pytest.approx([0.9, 0.7, 0.6])
    assert [region["box"]["xmin"] for region in regions] == [2, 4, 0]


def test_pixels_that_touch_at_a_corner_are_one_region(tiny_processor: ClipSamProcessor) -> None:
    assert len(regions_of(tiny_processor, np.eye(5))) == 1


def test_nothing_above_the_threshold_gives_no_region(tiny_processor: ClipSamProcessor) -> None:
    assert regions_of(tiny_processor, np.full((4, 4), 1.0), threshold=1) == []


def test_speckles_are_all_listed(tiny_processor: ClipSamProcessor) -> None:
    speckles = np.zeros((100, 100))
    speckles[::2, ::2] = 1
    assert len(regions_of(tiny_processor, speckles)) == 2500


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_map_that_is_not_finite_raises(tiny_processor: ClipSamProcessor, value: float) -> None:
    with pytest.raises(ValueError, match="NaN"):
        regions_of(tiny_processor, [[0.1, value]])


@pytest.mark.parametrize(
    ("threshold", "error"), [(-0.1, ValueError), (1.1, ValueError), (math.nan, ValueError), ("0.5", TypeError)]
)
def test_unusable_threshold_raises(tiny_processor: ClipSamProcessor, threshold: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match="threshold"):
        regions_of(tiny_processor, [[0.1]], threshold=threshold)


@pytest.mark.parametrize("target_sizes", [[(2, 2), (2, 2)], [(0, 2)]])
def test_unusable_target_sizes_raise(tiny_processor: ClipSamProcessor, target_sizes: Any) -> None:
    with pytest.raises(ValueError, match="target_sizes"):
        tiny_processor.post_process_anomaly_segmentation(outputs_of([[0.1]]), target_sizes=target_sizes)


def test_parts_may_come_out_of_a_clipsam(tiny_checkpoint: Path, tiny_processor: ClipSamProcessor) -> None:
    processor = ClipSamProcessor.from_clip_sam_pretrained(tiny_checkpoint, tiny_checkpoint, image_size=48)
    assert processor.image_processor.size == {"height": 48, "width": 48}
    for name in ("image_mean", "image_std"):
        assert getattr(processor.image_processor, name) == getattr(tiny_processor.image_processor, name)
        assert getattr(processor.sam_image_processor, name) == getattr(tiny_processor.sam_image_processor, name)
    assert processor.image_processor.image_mean != processor.sam_image_processor.image_mean
    assert processor.sam_image_processor.to_dict() == tiny_processor.sam_image_processor.to_dict()
    assert processor.tokenizer.get_vocab() == tiny_processor.tokenizer.get_vocab()


@pytest.mark.parametrize("size", [(7, 9), (32, 32), (300, 201), (64, 640)], ids=str)
def test_values_are_those_of_the_librarys_processors(tiny_processor: ClipSamProcessor, size: tuple[int, int]) -> None:
    """What is resized beforehand, so that large photographs are not copied about, is the same to the bit."""
    pixels = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    photograph = Image.fromarray(pixels)
    inputs = tiny_processor(images=photograph, return_tensors="pt")
    clip = tiny_processor.image_processor(photograph, return_tensors="pt")
    sam = tiny_processor.sam_image_processor(photograph, return_tensors="pt")
    assert torch.equal(inputs["pixel_values"], clip["pixel_values"])
    assert torch.equal(inputs["sam_pixel_values"], sam["pixel_values"])
    assert inputs["reshaped_input_sizes"].tolist() == [list(shape) for shape in sam["reshaped_input_sizes"]]
    assert inputs["original_sizes"].tolist() == [list(size)]
    bilinear = {"resample": Image.Resampling.BILINEAR, "size": {"height": 20, "width": 30}}
    asked = tiny_processor(images=photograph, return_sam_inputs=False, return_tensors="pt", images_kwargs=bilinear)
    expected = tiny_processor.image_processor(photograph, return_tensors="pt", **bilinear)
    assert torch.equal(asked["pixel_values"], expected["pixel_values"])
