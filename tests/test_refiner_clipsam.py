# SPDX-FileCopyrightText: 2026 The clipsam_hf authors
# SPDX-License-Identifier: Apache-2.0
"""Refiners: every kind in the registry from the configuration to the pipeline, and kinds that are refused by name."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from package_blocker import BLOCK_PACKAGE
from PIL import Image
from tiny_sam_hq import make_sam_hq_config
from transformers import (
    CLIPConfig,
    CLIPModel,
    PreTrainedConfig,
    Sam2Config,
    SamConfig,
    SamHQConfig,
    SamHQModel,
    SamModel,
    pipeline,
)

from clipsam_hf import ClipSamConfig, ClipSamForAnomalySegmentation, ClipSamProcessor
from clipsam_hf.publishing_clipsam import TASK
from clipsam_hf.refiner_clipsam import REFINERS, SamHQRefiner, find_refiner, prepare_photographs
from clipsam_hf.regions_clipsam import Frame, SamPrompts


WITHOUT_PACKAGE = (
    BLOCK_PACKAGE
    + """
import numpy as np
from PIL import Image
from transformers import pipeline

folder, answer = sys.argv[1:]
photograph = Image.fromarray(np.random.default_rng(0).integers(0, 256, (24, 40, 3), dtype=np.uint8))
pipe = pipeline("zero-shot-anomaly-segmentation", model=folder, trust_remote_code=True)
assert type(pipe.model).__module__.startswith("transformers_modules."), type(pipe.model).__module__
assert type(pipe.model.sam).__name__ == "SamHQModel"
np.save(answer, pipe(photograph, class_name="candle")["anomaly_map"])
"""
)


@pytest.fixture(params=sorted(REFINERS))
def sam_config(request: pytest.FixtureRequest, tiny_sam_config: SamConfig) -> PreTrainedConfig:
    """A tiny network of each kind."""
    return {"sam": lambda: tiny_sam_config, "sam_hq": lambda: make_sam_hq_config(tiny_sam_config)}[request.param]()


@pytest.fixture
def model(tiny_config: ClipSamConfig, sam_config: PreTrainedConfig) -> ClipSamForAnomalySegmentation:
    """A model with a refiner of each kind; its head counts as trained."""
    torch.manual_seed(0)
    config = ClipSamConfig(**{**tiny_config.to_dict(), "sam_config": sam_config, "max_regions": 200})
    made = ClipSamForAnomalySegmentation(config).eval()
    made.head_is_trained = True
    be_sure_of_masks(made)
    return made


@torch.no_grad()
def be_sure_of_masks(model: ClipSamForAnomalySegmentation) -> None:
    """Raises all predicted IoUs: what a random network says of them may be below 0, and then no mask counts."""
    model.sam.mask_decoder.iou_prediction_head.proj_out.bias.add_(5.0)


def sample(batch_size: int = 2) -> dict[str, torch.Tensor]:
    return {
        "pixel_values": torch.randn(batch_size, 3, 32, 32),
        "text_embeds": torch.nn.functional.normalize(torch.randn(batch_size, 2, 16), dim=-1),
        "sam_pixel_values": torch.randn(batch_size, 3, 64, 64),
        "reshaped_input_sizes": torch.tensor([[64, 64], [40, 64], [64, 17]])[:batch_size],
    }


@torch.no_grad()
def leave_first_without_regions(model: ClipSamForAnomalySegmentation, inputs: dict[str, torch.Tensor]) -> None:
    """Orders the images by their highest anomaly and puts the threshold between the first two."""
    rough = model(inputs["pixel_values"], text_embeds=inputs["text_embeds"]).rough_anomaly_map
    peaks, order = rough.flatten(1).amax(1).sort()
    inputs["pixel_values"], inputs["text_embeds"] = inputs["pixel_values"][order], inputs["text_embeds"][order]
    assert peaks[0] < peaks[1]
    model.config.binarize_threshold = float(peaks[:2].mean())


def photograph() -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (24, 40, 3), dtype=np.uint8))


# --- the registry and the configuration


def test_every_kind_is_found_by_its_model_type() -> None:
    for name, kind in REFINERS.items():
        assert find_refiner(name) is kind and kind.model_class.config_class.model_type == name


@pytest.mark.parametrize("given_as", ["object", "dict"])
def test_configuration_goes_round(
    tiny_config: ClipSamConfig, sam_config: PreTrainedConfig, given_as: str, tmp_path: Path
) -> None:
    given = sam_config if given_as == "object" else sam_config.to_dict()
    config = ClipSamConfig(**{**tiny_config.to_dict(), "sam_config": given})
    assert type(config.sam_config) is type(sam_config)
    assert config.sam_config.to_dict() == sam_config.to_dict()
    config.save_pretrained(tmp_path)
    loaded = ClipSamConfig.from_pretrained(tmp_path)
    assert type(loaded.sam_config) is type(sam_config)
    assert loaded.to_dict() == ClipSamConfig.from_dict(config.to_dict()).to_dict()
    assert loaded.settings_of("refine") == config.settings_of("refine")


def test_a_dictionary_without_a_kind_is_a_sam() -> None:
    assert type(ClipSamConfig(sam_config={}).sam_config) is SamConfig


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ({"model_type": "sam2"}, "sam2"),
        (Sam2Config(), "sam2"),
        ({"model_type": "detr"}, "detr"),
        (CLIPConfig(), "clip"),
        ({"model_type": "no such kind"}, "no such kind"),
    ],
    ids=["sam2 dict", "sam2 object", "detr dict", "clip object", "unknown dict"],
)
def test_other_kinds_are_refused_by_name(given: Any, name: str) -> None:
    with pytest.raises(ValueError, match=rf"is of the kind '{name}'.*'sam', 'sam_hq'"):
        ClipSamConfig(sam_config=given)


def test_parts_that_do_not_fit_are_refused(tiny_config: ClipSamConfig, sam_config: Any) -> None:
    sam_config.vision_config.output_channels = 24
    with pytest.raises(ValueError, match=r"output_channels` \(24\) must equal .*hidden_size` \(16\)"):
        ClipSamConfig(**{**tiny_config.to_dict(), "sam_config": sam_config})


def test_a_sam_hq_of_another_width_is_refused(tiny_config: ClipSamConfig, tiny_sam_config: SamConfig) -> None:
    sam_config = make_sam_hq_config(tiny_sam_config)
    sam_config.mask_decoder_config.vit_dim = 48
    with pytest.raises(ValueError, match=r"hidden_size` \(32\) must equal .*vit_dim` \(48\)"):
        ClipSamConfig(**{**tiny_config.to_dict(), "sam_config": sam_config})


# --- a kind by itself


def test_frame_is_the_photographs(sam_config: PreTrainedConfig) -> None:
    assert find_refiner(sam_config.model_type)(sam_config).frame(torch.tensor([40, 64])) == Frame((40, 64), 64)


@pytest.mark.parametrize("multimask_output", [True, False])
@pytest.mark.parametrize("chunk", [None, 1, 3])
@torch.no_grad()
def test_decoding_is_the_library_called_directly(
    model: ClipSamForAnomalySegmentation, multimask_output: bool, chunk: int | None
) -> None:
    pixels = sample(1)["sam_pixel_values"]
    boxes = torch.tensor([[3.0, 4.0, 30.0, 20.0], [10.0, 30.0, 60.0, 60.0], [0.0, 0.0, 63.0, 63.0]])
    points = torch.tensor([[[5.0, 6.0]], [[40.0, 40.0]], [[1.0, 62.0]]])
    labels = torch.ones(3, 1, dtype=torch.long)
    named = {"input_boxes": boxes[None], "input_points": points[None], "input_labels": labels[None]}
    expected = model.sam(pixel_values=pixels, multimask_output=multimask_output, **named)

    embeddings = model.refiner.encode(model.sam, pixels)
    prompts = SamPrompts(boxes, points, labels)
    masks, scores = model.refiner.decode(
        model.sam, embeddings, prompts, multimask_output=multimask_output, chunk=chunk
    )
    assert masks.shape == (3, 3 if multimask_output else 1, 32, 32) and masks.std() > 1e-3
    torch.testing.assert_close(masks, expected.pred_masks[0], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(scores, expected.iou_scores[0], atol=1e-5, rtol=1e-4)

    # Without a prompt, the same dimensions and no rows
    none = SamPrompts(boxes[:0], points[:0], labels[:0])
    masks, scores = model.refiner.decode(model.sam, (), none, multimask_output=multimask_output, chunk=chunk)
    assert masks.shape == (0, *expected.pred_masks.shape[2:]) and scores.shape == (0, expected.iou_scores.shape[2])


def test_sam_hq_reads_its_first_global_block(tiny_sam_config: SamConfig) -> None:
    tiny_sam_config.vision_config.global_attn_indexes = [0, 1]
    torch.manual_seed(0)
    config = make_sam_hq_config(tiny_sam_config)
    sam = SamHQModel(config).eval()
    with torch.no_grad():
        embeddings = SamHQRefiner(config).encode(sam, sample(1)["sam_pixel_values"])
        _, blocks = sam.get_image_embeddings(sample(1)["sam_pixel_values"])
    assert len(blocks) == 2
    boxes = torch.tensor([[3.0, 4.0, 30.0, 20.0]])
    prompts = SamPrompts(boxes, None, None)
    decode = SamHQRefiner(config).decode
    with torch.no_grad():
        masks, _ = decode(sam, embeddings, prompts, multimask_output=True, chunk=None)
        given = (embeddings[0], torch.zeros_like(embeddings[1]))
        other, _ = decode(sam, given, prompts, multimask_output=True, chunk=None)
    assert (masks - other).abs().max() > 1e-3  # it is read


def test_a_photograph_too_narrow_for_the_square_is_refused(tiny_processor: ClipSamProcessor) -> None:
    with pytest.raises(ValueError, match="1x200 is narrower than a pixel in SAM's frame of 64"):
        prepare_photographs(tiny_processor.sam_image_processor, [Image.new("RGB", (200, 1))])


# --- inside the model


@torch.no_grad()
def test_kept_embeddings_give_what_pixels_give(model: ClipSamForAnomalySegmentation) -> None:
    inputs = sample()
    leave_first_without_regions(model, inputs)
    expected = model(**inputs)
    embeddings = model.get_image_embeddings(inputs.pop("sam_pixel_values"))
    assert isinstance(embeddings, tuple) and len(embeddings) == {"sam": 1, "sam_hq": 2}[model.sam.config.model_type]
    assert all(len(each) == 2 for each in embeddings)
    again = model(**inputs, image_embeddings=embeddings)
    torch.testing.assert_close(again.anomaly_map, expected.anomaly_map, atol=1e-6, rtol=0)
    torch.testing.assert_close(again.pred_score, expected.pred_score, atol=1e-6, rtol=0)
    assert (expected.anomaly_map[1] - expected.rough_anomaly_map[1] / 2).abs().max() > 1e-3  # masks were added


@torch.no_grad()
def test_a_batch_is_its_images_one_by_one(model: ClipSamForAnomalySegmentation) -> None:
    inputs = sample(3)
    leave_first_without_regions(model, inputs)
    batch = model(**inputs)
    assert [len(masks) for masks in batch.pred_masks][0] == 0 and len(batch.pred_masks[1]) > 0
    torch.testing.assert_close(batch.anomaly_map[0], batch.rough_anomaly_map[0] / 2)
    for index in range(3):
        single = model(**{name: value[[index]] for name, value in inputs.items()})
        torch.testing.assert_close(single.anomaly_map[0], batch.anomaly_map[index], atol=1e-5, rtol=0)
        torch.testing.assert_close(single.pred_masks[0], batch.pred_masks[index], atol=1e-3, rtol=1e-3)
        assert single.pred_masks[0].shape[1:] == (3, 32, 32)


@torch.no_grad()
def test_saved_and_loaded_weights_are_the_same_to_the_bit(
    model: ClipSamForAnomalySegmentation, tmp_path: Path
) -> None:
    inputs = sample()
    leave_first_without_regions(model, inputs)
    expected = model(**inputs)
    model.save_pretrained(tmp_path)
    loaded = ClipSamForAnomalySegmentation.from_pretrained(tmp_path)
    assert type(loaded.sam) is type(model.sam) and loaded.head_is_trained
    state = model.state_dict()
    assert loaded.state_dict().keys() == state.keys()
    assert all(torch.equal(value, state[name]) for name, value in loaded.state_dict().items())
    # Not to the bit: where the file has a weight decides in which order a processor adds up
    torch.testing.assert_close(loaded(**inputs).anomaly_map, expected.anomaly_map, atol=1e-6, rtol=0)


@pytest.fixture
def backbones(
    tmp_path: Path, tiny_clip_config: CLIPConfig, sam_config: PreTrainedConfig, tiny_processor: ClipSamProcessor
) -> tuple[Path, Path]:
    """Folders of a CLIP and of a SAM of each kind, with their processors."""
    clip, sam = tmp_path / "clip", tmp_path / "sam"
    CLIPModel(tiny_clip_config).save_pretrained(clip)
    tiny_processor.image_processor.save_pretrained(clip)
    tiny_processor.tokenizer.save_pretrained(clip)
    {"sam": SamModel, "sam_hq": SamHQModel}[sam_config.model_type](sam_config).save_pretrained(sam)
    tiny_processor.sam_image_processor.save_pretrained(sam)
    return clip, sam


def test_from_backbones_to_the_pipeline(backbones: tuple[Path, Path], tmp_path: Path) -> None:
    """Put together, saved, loaded, asked: as somebody would do it with the published networks."""
    sizes: dict[str, Any] = {"feature_layers": (1, 2), "image_size": 32, "scale_sizes": (2, 3), "max_regions": 200}
    sizes["region_rule"] = "fixed"  # in a random map nothing stands out
    model = ClipSamForAnomalySegmentation.from_clip_sam_pretrained(*backbones, **sizes)
    processor = ClipSamProcessor.from_clip_sam_pretrained(*backbones, image_size=32)
    loaded = model.refiner.model_class.from_pretrained(backbones[1]).state_dict()
    assert all(torch.equal(value, loaded[name]) for name, value in model.sam.state_dict().items())
    assert model.config.sam_name_or_path == str(backbones[1])
    be_sure_of_masks(model)

    inputs = processor(images=photograph(), text="candle", return_tensors="pt")
    assert inputs["sam_pixel_values"].shape == (1, 3, 64, 64)
    with torch.no_grad():
        rough = model(**inputs).rough_anomaly_map
        model.config.binarize_threshold = float(rough.quantile(0.8))
        outputs = model(**inputs)
    assert len(outputs.pred_masks[0]) > 0

    folder = tmp_path / "clipsam"
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    pipe = pipeline(TASK, model=folder)
    result = pipe(photograph(), class_name="candle")
    assert result["score"] == pytest.approx(float(outputs.pred_score), abs=1e-5)
    plain = pipe(photograph(), class_name="candle", refine=False)
    assert np.abs(result["anomaly_map"] - plain["anomaly_map"] / 2).max() > 1e-3  # masks were added


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_sam_hq_by_remote_code(
    tiny_config: ClipSamConfig, tiny_sam_config: SamConfig, tiny_processor: ClipSamProcessor, tmp_path: Path
) -> None:
    """Code beside the weights, in a process that cannot import this package."""
    config = ClipSamConfig(**{**tiny_config.to_dict(), "sam_config": make_sam_hq_config(tiny_sam_config)})
    config.localizer, config.binarize_threshold = "similarity", 0.2
    folder = tmp_path / "with-code"
    model = ClipSamForAnomalySegmentation(config)
    be_sure_of_masks(model)
    model.save_pretrained(folder, save_code=True)
    tiny_processor.save_pretrained(folder, save_code=True)
    environment = {**os.environ, "HF_MODULES_CACHE": str(tmp_path / "modules"), "OMP_NUM_THREADS": "1"}
    environment.pop("PYTHONPATH", None)
    answer = tmp_path / "answer.npy"
    command = [sys.executable, "-c", WITHOUT_PACKAGE, str(folder), str(answer)]
    run = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=280)
    assert run.returncode == 0, run.stderr
    pipe = pipeline(TASK, model=folder)
    own = pipe(photograph(), class_name="candle")["anomaly_map"]
    assert np.abs(own - pipe(photograph(), class_name="candle", refine=False)["anomaly_map"] / 2).max() > 1e-3
    np.testing.assert_allclose(np.load(answer), own, atol=1e-6)


def test_sam_hq_config_of_the_tests_is_a_sam_hq(tiny_sam_config: SamConfig) -> None:
    config = make_sam_hq_config(tiny_sam_config)
    assert type(config) is SamHQConfig
    assert config.vision_config.image_size == 64 and config.mask_decoder_config.vit_dim == 32
