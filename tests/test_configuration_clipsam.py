# SPDX-FileCopyrightText: 2026 The clipsam_hf authors
# SPDX-License-Identifier: Apache-2.0
"""What a configuration accepts, refuses, warns of and keeps."""

import copy
import json
import logging
import math
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub.errors import StrictDataclassFieldValidationError
from transformers import AutoConfig, CLIPConfig, PreTrainedConfig, Sam2Config, SamConfig

from clipsam_hf import ClipSamConfig, ClipSamForAnomalySegmentation
from clipsam_hf.configuration_clipsam import PURPOSES


@pytest.fixture
def make_config(tiny_clip_config: CLIPConfig, tiny_sam_config: SamConfig) -> Any:
    def make(**kwargs: Any) -> ClipSamConfig:
        backbones = {"clip_config": tiny_clip_config, "sam_config": tiny_sam_config}
        tiny = {"feature_layers": (1, 2), "image_size": 32, "umci_hidden_size": 16, "scale_sizes": (2, 3)}
        return ClipSamConfig(**{**backbones, **tiny, **kwargs})

    return make


# --- defaults


def test_default_is_the_full_size_model() -> None:
    config = ClipSamConfig()
    vision, text = config.clip_config.vision_config, config.clip_config.text_config
    sam = config.sam_config.vision_config
    assert (vision.hidden_size, vision.num_hidden_layers, vision.patch_size, vision.image_size) == (1024, 24, 14, 336)
    assert (text.hidden_size, text.num_hidden_layers, text.num_attention_heads) == (768, 12, 12)
    assert (vision.hidden_act, text.hidden_act) == ("quick_gelu", "quick_gelu")
    assert config.clip_config.projection_dim == 768
    assert (sam.hidden_size, sam.num_hidden_layers, sam.num_attention_heads, sam.mlp_dim) == (1280, 32, 16, 5120)
    assert list(sam.global_attn_indexes) == [7, 15, 23, 31]


def test_defaults_of_the_method() -> None:
    config = ClipSamConfig()
    assert tuple(config.feature_layers) == (6, 12, 18, 24)
    assert (config.image_size, config.token_grid_size) == (518, 37)
    assert (config.localizer, config.head, config.umci_hidden_size, config.strip_kernel_size) == (
        "umci",
        "conv",
        256,
        3,
    )
    assert tuple(config.scale_sizes) == (3, 9)
    assert (config.binarize_threshold, config.mask_threshold, config.decision_threshold) == (0.5, 0.5, None)
    assert (config.max_regions, config.num_points, config.prompt_type) == (10, 5, "box_and_points")
    assert config.min_region_fraction * 518**2 == pytest.approx(16)
    assert (config.merge, config.mask_fusion, config.image_score) == ("anomaly_weighted", "soft", "top_fraction")
    assert (config.score_top_fraction, config.focal_gamma, config.stage_loss_weights) == (0.001, 2.0, None)
    assert config.freeze_backbones and config.multimask_output


def test_sub_configs_may_be_dictionaries(make_config: Any) -> None:
    from_objects = make_config()
    from_dictionaries = make_config(
        clip_config=from_objects.clip_config.to_dict(), sam_config=from_objects.sam_config.to_dict()
    )
    assert isinstance(from_dictionaries.clip_config, CLIPConfig)
    assert isinstance(from_dictionaries.sam_config, SamConfig)
    assert from_dictionaries.to_dict() == from_objects.to_dict()


def test_partial_sub_config_is_completed_by_the_sub_configs_own_defaults() -> None:
    config = ClipSamConfig(sam_config={"vision_config": {"hidden_size": 768, "num_hidden_layers": 12}})
    assert config.sam_config.vision_config.num_hidden_layers == 12


def test_two_configs_share_no_sub_config() -> None:
    first, second = ClipSamConfig(), ClipSamConfig()
    first.clip_config.vision_config.hidden_size = 8
    assert second.clip_config.vision_config.hidden_size == 1024


# --- fields that contradict each other


@pytest.mark.parametrize(
    ("fields", "names"),
    [
        ({"feature_layers": (1, 3)}, ("feature_layers", "num_hidden_layers", "3")),
        ({"feature_layers": (0, 1)}, ("feature_layers", "num_hidden_layers", "0")),
        ({"feature_layers": (2, 1)}, ("feature_layers", "num_hidden_layers", "(2, 1)")),
        ({"feature_layers": (1, 1)}, ("feature_layers", "num_hidden_layers", "(1, 1)")),
        ({"feature_layers": ()}, ("feature_layers", "num_hidden_layers", "()")),
        ({"image_size": 33}, ("image_size", "patch_size", "33")),
        ({"image_size": 0}, ("image_size", "patch_size", "0")),
        ({"image_size": -8}, ("image_size", "patch_size", "-8")),
        ({"scale_sizes": (2, 5)}, ("scale_sizes", "image_size", "5")),
        ({"scale_sizes": (0, 2)}, ("scale_sizes", "image_size", "0")),
        ({"scale_sizes": ()}, ("scale_sizes", "image_size", "()")),
        ({"image_size": 16}, ("scale_sizes", "image_size", "16")),
        ({"stage_loss_weights": (1.0,)}, ("stage_loss_weights", "feature_layers")),
        ({"stage_loss_weights": (1.0, 1.0, 1.0)}, ("stage_loss_weights", "feature_layers")),
        ({"num_points": 0}, ("num_points", "prompt_type", "box_and_points")),
        ({"num_points": 0, "prompt_type": "points"}, ("num_points", "prompt_type", "points")),
    ],
)
def test_contradiction_names_both_fields_and_the_value(
    make_config: Any, fields: dict[str, Any], names: tuple[str, ...]
) -> None:
    with pytest.raises(ValueError) as error:
        make_config(**fields)
    assert all(name in str(error.value) for name in names)


def test_sam_whose_encoder_and_decoder_do_not_fit_is_refused(make_config: Any, tiny_sam_config: SamConfig) -> None:
    sam = tiny_sam_config.to_dict()
    sam["vision_config"]["output_channels"] = 8
    with pytest.raises(ValueError, match="output_channels.*8.*mask_decoder_config.hidden_size.*16"):
        make_config(sam_config=sam)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("binarize_threshold", -0.1),
        ("binarize_threshold", 1.1),
        ("binarize_threshold", math.nan),
        ("mask_threshold", 2),
        ("decision_threshold", -1),
        ("min_region_fraction", 1.5),
        ("score_top_fraction", 0.0),
        ("score_top_fraction", 1.01),
        ("focal_gamma", -1.0),
        ("focal_gamma", math.inf),
        ("strip_kernel_size", 2),
        ("strip_kernel_size", -1),
        ("umci_hidden_size", 0),
        ("fused_features", ()),
        ("fused_features", ("row", "row")),
        ("fused_features", ("rows",)),
        ("max_regions", 0),
        ("prompt_batch_size", 0),
        ("stage_loss_weights", (0.0, 0.0)),
        ("stage_loss_weights", (-1.0, 2.0)),
        ("stage_loss_weights", (math.nan, 1.0)),
    ],
)
def test_value_out_of_range_is_named(make_config: Any, name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"`{name}`") as error:
        make_config(**{name: value})
    assert str(value) in str(error.value)


@pytest.mark.parametrize(
    "fields",
    [
        {"feature_layers": (2,), "stage_loss_weights": (1.0,)},
        {"scale_sizes": (1, 4)},
        {"scale_sizes": [2]},
        {"binarize_threshold": 0, "mask_threshold": 1, "decision_threshold": 0.0},
        {"num_points": 0, "prompt_type": "box"},
        {"fused_features": ["original"]},
        {"stage_loss_weights": (0, 1)},
        {"score_top_fraction": 1},
        {"focal_gamma": 0},
    ],
)
def test_edge_of_what_is_allowed(make_config: Any, fields: dict[str, Any]) -> None:
    config = make_config(**fields)
    for name, value in fields.items():
        kept = getattr(config, name)
        assert (tuple(kept) if isinstance(kept, list | tuple) else kept) == (
            tuple(value) if isinstance(value, list | tuple) else value
        )


def test_field_changed_afterwards_is_checked_when_a_model_is_built(make_config: Any) -> None:
    config = make_config()
    config.feature_layers = (1, 99)
    with pytest.raises(ValueError, match="feature_layers.*num_hidden_layers"):
        ClipSamForAnomalySegmentation(config)


# --- types


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("image_size", "518"),
        ("localizer", "clip"),
        ("head", "linear"),
        ("merge", "max"),
        ("mask_fusion", "hard"),
        ("prompt_type", "mask"),
        ("image_score", "mean"),
        ("feature_layers", 2),
        ("feature_layers", ("1", "2")),
        ("freeze_backbones", "yes"),
        ("max_regions", 2.5),
        ("focal_gamma", "2"),
        ("auxiliary_dataset", 5),
    ],
)
def test_wrong_type_raises_the_librarys_error(make_config: Any, name: str, value: Any) -> None:
    with pytest.raises(StrictDataclassFieldValidationError, match=name):
        make_config(**{name: value})


def test_assigned_wrong_type_raises_too(make_config: Any) -> None:
    with pytest.raises(StrictDataclassFieldValidationError, match="image_size"):
        make_config().image_size = "518"


# --- names


@pytest.mark.parametrize(
    ("typo", "nearest"),
    [
        ("binarise_threshold", "binarize_threshold"),
        ("feature_layer", "feature_layers"),
        ("max_region", "max_regions"),
        ("focal_gama", "focal_gamma"),
    ],
)
def test_typo_warns_with_the_nearest_name(
    make_config: Any, caplog: pytest.LogCaptureFixture, typo: str, nearest: str
) -> None:
    with caplog.at_level(logging.WARNING):
        make_config(**{typo: 0.5})
    assert f"no field `{typo}`" in caplog.text
    assert f"did you mean `{nearest}`?" in caplog.text


def test_unknown_name_without_a_near_one_warns_and_is_kept(make_config: Any, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        config = make_config(zzz=3)
    assert "no field `zzz`" in caplog.text and "did you mean" not in caplog.text
    assert config.zzz == 3


def test_config_of_a_newer_version_loads_with_a_warning(
    make_config: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    make_config().save_pretrained(tmp_path)
    stored = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**stored, "field_of_tomorrow": [1]}))
    with caplog.at_level(logging.WARNING):
        config = ClipSamConfig.from_pretrained(tmp_path)
    assert "no field `field_of_tomorrow`" in caplog.text
    assert config.image_size == 32


@pytest.mark.parametrize("how", ["make", "load", "copy"])
def test_ordinary_use_warns_of_nothing(
    make_config: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture, how: str
) -> None:
    with caplog.at_level(logging.WARNING):
        config = make_config(output_hidden_states=True, return_dict=False, dtype="float32")
        if how == "load":
            ClipSamForAnomalySegmentation(config).save_pretrained(tmp_path)
            ClipSamConfig.from_pretrained(tmp_path, attn_implementation="eager")
        elif how == "copy":
            ClipSamConfig.from_dict(copy.deepcopy(config).to_dict())
    assert "has no field" not in caplog.text


# --- saving and loading


def test_save_and_load_give_an_equal_config(make_config: Any, tmp_path: Path) -> None:
    config = make_config(
        localizer="similarity",
        stage_loss_weights=(0.1, 0.9),
        decision_threshold=0.25,
        fused_features=("scale", "original"),
        auxiliary_dataset="generated",
        calibrated_refine=False,
        prompt_batch_size=3,
    )
    config.save_pretrained(tmp_path)
    loaded = ClipSamConfig.from_pretrained(tmp_path)
    assert json.loads(loaded.to_json_string()) == json.loads(config.to_json_string())
    assert isinstance(loaded.clip_config, CLIPConfig) and isinstance(loaded.sam_config, SamConfig)


def test_auto_config_finds_the_class(make_config: Any, tmp_path: Path) -> None:
    make_config().save_pretrained(tmp_path)
    assert type(AutoConfig.from_pretrained(tmp_path)) is ClipSamConfig


def test_saved_config_holds_native_json(make_config: Any, tmp_path: Path) -> None:
    make_config().save_pretrained(tmp_path)
    stored = json.loads((tmp_path / "config.json").read_text())
    assert stored["model_type"] == "clipsam"
    assert stored["feature_layers"] == [1, 2]
    assert stored["clip_config"]["model_type"] == "clip" and stored["sam_config"]["model_type"] == "sam"


# --- the entry that points to a pipeline's code


PIPELINES = {"some-task": {"impl": "pipeline_clipsam.Pipeline", "pt": ["AutoModel"], "type": "multimodal"}}


def test_custom_pipelines_are_no_attribute(make_config: Any) -> None:
    # `transformers.pipeline` reads the attribute and would then ask for `trust_remote_code`.
    assert not hasattr(make_config(custom_pipelines=PIPELINES), "custom_pipelines")


def test_custom_pipelines_are_written_again(make_config: Any, tmp_path: Path) -> None:
    make_config(custom_pipelines=PIPELINES).save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["custom_pipelines"] == PIPELINES
    again = ClipSamConfig.from_pretrained(tmp_path)
    assert not hasattr(again, "custom_pipelines")
    assert again.to_dict()["custom_pipelines"] == PIPELINES
    assert "_hub_custom_pipelines" not in again.to_dict()


def test_config_without_custom_pipelines_writes_none(make_config: Any) -> None:
    assert "custom_pipelines" not in make_config().to_dict()


# --- what the fields steer


def test_every_field_is_classified() -> None:
    own = {each.name: each.metadata.get("purpose") for each in fields(ClipSamConfig)}
    inherited = {each.name for each in fields(PreTrainedConfig)}
    assert {name: purpose for name, purpose in own.items() if name not in inherited and purpose not in PURPOSES} == {}


def test_every_field_has_one_purpose() -> None:
    names = [name for purpose in PURPOSES for name in ClipSamConfig.names_of(purpose)]
    assert len(names) == len(set(names)) > 0


def test_unknown_purpose_raises() -> None:
    with pytest.raises(ValueError, match="purpose must be one of .*'localize'.*got 'loclize'"):
        ClipSamConfig().settings_of("loclize")


def test_settings_are_those_of_json_and_of_the_networks() -> None:
    settings = ClipSamConfig().settings_of("localize", "train")
    assert json.loads(json.dumps(settings)) == settings
    assert settings["feature_layers"] == [6, 12, 18, 24] and "merge" not in settings
    other = ClipSamConfig()
    other.clip_config.vision_config.hidden_act = "gelu"
    assert other.settings_of("localize") != ClipSamConfig().settings_of("localize")


def test_settings_do_not_say_where_a_network_lay() -> None:
    config = ClipSamConfig()
    config.clip_config._name_or_path = "/somewhere"
    config.clip_config.vision_config._name_or_path = "/somewhere"
    assert config.settings_of("localize") == ClipSamConfig().settings_of("localize")


# --- kinds of SAM


@pytest.mark.parametrize("kind", ["sam2", "detr", "no-such-model"])
def test_unsupported_kind_of_sam_is_refused_by_name(kind: str) -> None:
    with pytest.raises(ValueError, match=f"of the kind '{kind}'; masks can be refined with 'sam', 'sam_hq'"):
        ClipSamConfig(sam_config={"model_type": kind})


def test_unsupported_sam_as_an_object_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="of the kind 'sam2'"):
        ClipSamConfig(sam_config=Sam2Config())


def test_a_dictionary_may_be_a_sam_hq() -> None:
    config = ClipSamConfig(sam_config={"model_type": "sam_hq"})
    assert config.sam_config.model_type == "sam_hq"
    assert ClipSamConfig.from_dict(config.to_dict()).sam_config.model_type == "sam_hq"
