# SPDX-FileCopyrightText: 2026 The clipsam_hf authors
# SPDX-License-Identifier: Apache-2.0
"""The real configurations at their real size, with random weights: they build, run, save and load.

`pytest -m slow -s tests/test_full_size.py` prints time and peak memory; docs/results.md has the figures.
"""

import resource
import shutil
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode
from transformers import CLIPConfig, SamConfig, SamHQConfig, SamModel

from clipsam_hf import ClipSamConfig, ClipSamForAnomalySegmentation, ClipSamReferences
from clipsam_hf.mutual_clipsam import MutualReferences
from clipsam_hf.patches_clipsam import Scale, describe_photographs
from clipsam_hf.references_clipsam import ReferenceSettings
from clipsam_hf.regions_clipsam import SamPrompts


# config.json of openai/clip-vit-large-patch14-336 and facebook/sam-vit-base and -huge: what differs from the defaults.
CLIP_LARGE_336: dict[str, Any] = {
    "projection_dim": 768,
    "logit_scale_init_value": 2.6592,
    "text_config": {
        "hidden_size": 768,
        "intermediate_size": 3072,
        "num_attention_heads": 12,
        "num_hidden_layers": 12,
        "max_position_embeddings": 77,
        "vocab_size": 49408,
        "hidden_act": "quick_gelu",
        "projection_dim": 768,
        "bos_token_id": 0,
        "eos_token_id": 2,
        "pad_token_id": 1,
    },
    "vision_config": {
        "hidden_size": 1024,
        "intermediate_size": 4096,
        "num_attention_heads": 16,
        "num_hidden_layers": 24,
        "image_size": 336,
        "patch_size": 14,
        "hidden_act": "quick_gelu",
        "projection_dim": 768,
    },
}
SAM_BASE: dict[str, Any] = {
    "vision_config": {
        "hidden_size": 768,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "global_attn_indexes": [2, 5, 8, 11],
        "mlp_dim": 3072,
        "image_size": 1024,
        "patch_size": 16,
        "window_size": 14,
        "initializer_range": 0.02,  # not 1e-10: else the encoder's answer would be the same for every image
    }
}
SAM_HUGE: dict[str, Any] = {
    "vision_config": {
        "hidden_size": 1280,
        "num_hidden_layers": 32,
        "num_attention_heads": 16,
        "global_attn_indexes": [7, 15, 23, 31],
        "mlp_dim": 5120,
    }
}


# config.json of syscv-community/sam-hq-vit-huge likewise
SAM_HQ_HUGE: dict[str, Any] = {**SAM_HUGE, "mask_decoder_config": {"vit_dim": 1280}}


def count(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def peak_gigabytes() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


# --- on the meta device


def test_default_model_has_the_published_parameter_counts() -> None:
    with torch.device("meta"):
        model = ClipSamForAnomalySegmentation(
            ClipSamConfig(clip_config=CLIPConfig(**CLIP_LARGE_336), sam_config=SamConfig(**SAM_HUGE))
        )
        default = ClipSamForAnomalySegmentation(ClipSamConfig())
    assert round(count(model.clip) / 1e6, 1) == 427.9
    assert round(count(model.sam) / 1e6, 1) == 641.1
    assert round(count(model.umci) / 1e6, 1) == 18.1
    shapes = {name: value.shape for name, value in model.state_dict().items()}
    assert {name: value.shape for name, value in default.state_dict().items()} == shapes


@torch.no_grad()
def test_default_model_has_the_right_output_shapes() -> None:
    with torch.device("meta"):
        model = ClipSamForAnomalySegmentation(ClipSamConfig()).eval()
        outputs = model(torch.zeros(2, 3, 518, 518), text_embeds=torch.zeros(1, 2, 768))
        embeddings = model.get_image_embeddings(torch.zeros(2, 3, 1024, 1024))
        prompted = model.sam(
            image_embeddings=embeddings[0][:1], input_boxes=torch.zeros(1, 3, 4), input_points=torch.zeros(1, 3, 5, 2)
        )
    assert outputs.logits.shape == (2, 4, 2, 37, 37)
    assert outputs.anomaly_map.shape == (2, 518, 518)
    assert outputs.pred_score.shape == (2,)
    assert [tuple(each.shape) for each in embeddings] == [(2, 256, 64, 64)]
    assert prompted.pred_masks.shape == (1, 3, 3, 256, 256) and prompted.iou_scores.shape == (1, 3, 3)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "fields", "teraflops"),
    [
        ("similarity", {}, 1.012 + 0.009),  # CLIP itself, and the projection of four stages
        ("vv", {}, 1.012 * 23 / 24 + 0.081),  # nobody reads the last block
        ("windows", {}, 1.012 + 11.3),
        ("windows", {"window_stride": 2}, 1.012 + 3.0),
    ],
)
@torch.no_grad()
def test_localizers_without_training_have_the_stated_cost(kind: str, fields: dict[str, Any], teraflops: float) -> None:
    config = ClipSamConfig(localizer=kind, **fields)
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        model = ClipSamForAnomalySegmentation(config).eval()
        outputs = model(torch.zeros(1, 3, 518, 518), text_embeds=torch.zeros(1, 2, 768))
    assert outputs.logits.shape == (1, 4 if kind == "similarity" else 1, 2, 37, 37)
    assert outputs.anomaly_map.shape == (1, 518, 518)
    assert counter.get_total_flops() / 1e12 == pytest.approx(teraflops, rel=0.015)


def describe_at_full_size() -> tuple[list[Tensor], ClipSamConfig]:
    """What a photograph of 518 x 518 gives, without values."""
    with torch.device("meta"):
        model = ClipSamForAnomalySegmentation(ClipSamConfig()).eval()
        patches, _ = describe_photographs(model, torch.zeros(1, 3, 518, 518))
    assert [tuple(each.shape) for each in patches] == [(1, 1024, 37, 37)] * 4
    return patches, model.config


@torch.no_grad()
@pytest.mark.slow
def test_references_cost_less_than_clip() -> None:
    """Eight photographs, four blocks, three neighbourhoods: 0.37 TFLOP beside CLIP's 1.01, and 257 MiB."""
    patches, config = describe_at_full_size()
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        memory = [torch.zeros(8 * 37 * 37, 1024, dtype=torch.half) for _ in range(4 * 3)]
        fingerprint = config.settings_of("reference") | {"flip_average": config.flip_average}
        settings = ReferenceSettings("object", fingerprint, ["a"], [(518, 518)], 0.1, 0.01, ())
        references = ClipSamReferences(memory, torch.zeros(8 * 37 * 37), settings)
        assert references.compare(patches, (518, 518)).shape == (1, 518, 518)
    assert counter.get_total_flops() / 1e12 == pytest.approx(0.368, rel=0.01)
    assert sum(each.nbytes for each in memory) / 2**20 == pytest.approx(257, rel=0.01)


@torch.no_grad()
@pytest.mark.slow
def test_mutual_scoring_has_the_stated_cost() -> None:
    """32 others: 1.47 TFLOP a photograph, and descriptions of 11 MiB each."""
    patches, config = describe_at_full_size()
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        fingerprint = config.settings_of("reference") | {"flip_average": config.flip_average}
        mutual = MutualReferences(range(33), "nowhere", fingerprint, 0.3, 0.0, 0.5, Scale(0.1, 0.01))
        mutual._loaded = {place: [each.half() for each in patches] for place in range(33)}
        assert mutual.compare(patches, (518, 518), [0]).shape == (1, 518, 518)
    assert counter.get_total_flops() / 1e12 == pytest.approx(1.474, rel=0.01)
    assert sum(each.nbytes for each in mutual._loaded[0]) / 2**20 == pytest.approx(10.7, rel=0.01)


def test_sam_hq_has_the_published_parameter_counts_and_shapes() -> None:
    sizes = ClipSamConfig(sam_config=SamHQConfig(**SAM_HQ_HUGE))
    with torch.device("meta"), torch.no_grad():
        model = ClipSamForAnomalySegmentation(sizes).eval()
        embeddings = model.get_image_embeddings(torch.zeros(2, 3, 1024, 1024))
        prompts = SamPrompts(torch.zeros(3, 4), torch.zeros(3, 5, 2), torch.ones(3, 5, dtype=torch.long))
        chosen = tuple(each[:1] for each in embeddings)
        masks, scores = model.refiner.decode(model.sam, chosen, prompts, multimask_output=True, chunk=None)
    assert [tuple(each.shape) for each in embeddings] == [(2, 256, 64, 64), (2, 64, 64, 1280)]
    assert masks.shape == (3, 3, 256, 256) and scores.shape == (3, 3)
    # The fine masks' own part comes on top of SAM's huge model: a token, and small networks around it
    assert count(model.sam.vision_encoder) == count_of_sam_huge_encoder()
    assert 641.1 < count(model.sam) / 1e6 < 644


def count_of_sam_huge_encoder() -> int:
    with torch.device("meta"):
        return count(SamModel(SamConfig(**SAM_HUGE)).vision_encoder)


# --- for real


def timed(name: str, function: Any) -> Any:
    start = time.perf_counter()
    result = function()
    print(f"{name}: {time.perf_counter() - start:.1f} s, peak memory so far {peak_gigabytes():.2f} GB")
    return result


def build() -> ClipSamForAnomalySegmentation:
    config = ClipSamConfig(
        clip_config=CLIPConfig(**CLIP_LARGE_336),
        sam_config=SamConfig(**SAM_BASE),
        binarize_threshold=0.0,  # every pixel is above it: one region, so that SAM is asked
        max_region_fraction=1.0,
    )
    model = ClipSamForAnomalySegmentation(config).eval()
    # Relative positions start at 0, where a mistake about them would not show
    for layer in model.sam.vision_encoder.layers:
        torch.nn.init.normal_(layer.attn.rel_pos_h, std=0.02)
        torch.nn.init.normal_(layer.attn.rel_pos_w, std=0.02)
    return model


def sample(side: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(side)
    return {
        "pixel_values": torch.randn(1, 3, side, side, generator=generator),
        "input_ids": torch.randint(3, 49407, (1, 2, 4, 12), generator=generator),
        "sam_pixel_values": torch.randn(1, 3, 1024, 1024, generator=generator),
        "reshaped_input_sizes": torch.tensor([[768, 1024]]),
    }


@pytest.mark.slow
@pytest.mark.timeout(1800)
@torch.no_grad()
def test_large_clip_and_base_sam_build_run_save_and_load(tmp_path: Path) -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        model = timed("build", build)
        assert round(count(model.sam) / 1e6, 1) == 93.7
        outputs = {side: timed(f"forward at {side}", lambda side=side: model(**sample(side))) for side in (518, 336)}
        for side, output in outputs.items():
            assert output.logits.shape == (1, 4, 2, side // 14, side // 14)
            assert output.anomaly_map.shape == (1, side, side)
            assert torch.isfinite(output.anomaly_map).all() and output.anomaly_map.std() > 0
            assert output.pred_masks[0].shape == (1, 3, 256, 256)

        timed("save", lambda: model.save_pretrained(tmp_path, max_shard_size="1GB"))
        loaded = timed("load", lambda: ClipSamForAnomalySegmentation.from_pretrained(tmp_path))
        expected = model.state_dict()
        assert all(torch.equal(value, expected[name]) for name, value in loaded.state_dict().items())
        again = loaded(**sample(336))
        torch.testing.assert_close(again.anomaly_map, outputs[336].anomaly_map, atol=1e-6, rtol=0)
    finally:
        torch.set_num_threads(threads)
        shutil.rmtree(tmp_path)
