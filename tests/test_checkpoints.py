# SPDX-FileCopyrightText: 2026 The clipsam_hf authors
# SPDX-License-Identifier: Apache-2.0
"""Saving and loading: bit for bit, and an error for whatever is missing, broken or hostile; never random weights."""

import json
import logging
import pickle
import resource
import shutil
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from transformers import AutoModel, CLIPConfig, CLIPModel, SamConfig, SamModel

from clipsam_hf import ClipSamConfig, ClipSamForAnomalySegmentation, ClipSamProcessor


KEYS = Path(__file__).parent / "data" / "state_dict_keys.txt"


def stored_keys() -> list[str]:
    return [line for line in KEYS.read_text().splitlines() if not line.startswith("#")]


HEAD_KEYS = [key for key in stored_keys() if key.startswith("umci.")]
BACKBONE_KEYS = [
    "clip.logit_scale",
    "clip.text_model.embeddings.token_embedding.weight",
    "clip.text_model.encoder.layers.1.self_attn.q_proj.bias",
    "clip.text_projection.weight",
    "clip.vision_model.embeddings.class_embedding",
    "clip.vision_model.embeddings.position_embedding.weight",
    "clip.vision_model.encoder.layers.0.mlp.fc1.weight",
    "clip.vision_model.post_layernorm.weight",
    "clip.visual_projection.weight",
    "sam.mask_decoder.iou_token.weight",
    "sam.mask_decoder.output_hypernetworks_mlps.3.proj_in.weight",
    "sam.prompt_encoder.no_mask_embed.weight",
    "sam.prompt_encoder.point_embed.0.weight",
    "sam.shared_image_embedding.positional_embedding",
    "sam.vision_encoder.layers.1.attn.rel_pos_h",
    "sam.vision_encoder.neck.conv1.weight",
    "sam.vision_encoder.pos_embed",
]


_saved: dict[str, Path] = {}


@pytest.fixture
def folder(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, tiny_config: ClipSamConfig) -> Path:
    """A saved tiny model: the one of `tiny_model`, but built and saved once for all tests, then copied."""
    if "model" not in _saved:
        torch.manual_seed(0)
        _saved["model"] = tmp_path_factory.mktemp("saved")
        ClipSamForAnomalySegmentation(tiny_config).save_pretrained(_saved["model"])
    return Path(shutil.copytree(_saved["model"], tmp_path / "model"))


@pytest.fixture
def one_stage(folder: Path) -> Path:
    """The same model with its first stage alone, which loads faster."""
    rewrite(folder, lambda tensors: [tensors.pop(key) for key in HEAD_KEYS if not key.startswith("umci.0.")])
    stored = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**stored, "feature_layers": [1]}))
    return folder


def load(folder: Path, **kwargs: Any) -> Any:
    return ClipSamForAnomalySegmentation.from_pretrained(folder, **kwargs)


@contextmanager
def library_log(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """The library's logger keeps its messages from the root, where pytest listens."""
    library = logging.getLogger("transformers")
    library.propagate = True
    try:
        with caplog.at_level(logging.WARNING):
            yield
    finally:
        library.propagate = False


def rewrite(folder: Path, change: Any) -> None:
    """Changes the tensors of a checkpoint."""
    file = folder / "model.safetensors"
    tensors = load_file(file)
    change(tensors)
    save_file(tensors, file, metadata={"format": "pt"})


# --- bit for bit


@torch.no_grad()
def test_loaded_weights_are_bit_identical(folder: Path, tiny_model: ClipSamForAnomalySegmentation) -> None:
    tiny_model.config.binarize_threshold = 0.0
    loaded = load(folder)
    loaded.config.binarize_threshold = 0.0
    expected = tiny_model.state_dict()
    assert loaded.state_dict().keys() == expected.keys()
    assert all(torch.equal(value, expected[name]) for name, value in loaded.state_dict().items())

    inputs = {
        "pixel_values": torch.randn(1, 3, 32, 32),
        "text_embeds": torch.randn(1, 2, 16),
        "sam_pixel_values": torch.randn(1, 3, 64, 64),
        "reshaped_input_sizes": torch.tensor([[64, 48]]),
    }
    # some processors round by where weights lie in memory
    torch.testing.assert_close(loaded(**inputs).anomaly_map, tiny_model(**inputs).anomaly_map, atol=1e-6, rtol=0)
    assert not loaded.training


def test_loaded_model_keeps_its_backbones_frozen(folder: Path) -> None:
    trained = {name.partition(".")[0] for name, weight in load(folder).named_parameters() if weight.requires_grad}
    assert trained == {"umci"}
    model = load(folder, freeze_backbones=False)
    trained = {name.partition(".")[0] for name, weight in model.named_parameters() if weight.requires_grad}
    assert trained == {"umci", "clip"}


def test_saving_again_writes_the_same_bytes(folder: Path, tmp_path: Path) -> None:
    load(folder).save_pretrained(tmp_path / "again")
    assert (tmp_path / "again" / "model.safetensors").read_bytes() == (folder / "model.safetensors").read_bytes()


def test_auto_model_finds_the_class(folder: Path) -> None:
    assert type(AutoModel.from_pretrained(folder)) is ClipSamForAnomalySegmentation


def test_keys_of_a_checkpoint_never_change(folder: Path) -> None:
    # Checkpoints that people have trained carry these names: a change here needs a conversion of old files.
    assert sorted(load_file(folder / "model.safetensors")) == stored_keys()


def test_load_reports_nothing_missing_and_nothing_unexpected(folder: Path) -> None:
    _, information = load(folder, output_loading_info=True)
    assert not any(information[name] for name in ("missing_keys", "unexpected_keys", "mismatched_keys"))


# --- shards


def test_sharded_checkpoint_loads_bit_identically(tmp_path: Path, tiny_model: ClipSamForAnomalySegmentation) -> None:
    tiny_model.save_pretrained(tmp_path, max_shard_size="50KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 2 and (tmp_path / "model.safetensors.index.json").exists()
    expected = tiny_model.state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in load(tmp_path).state_dict().items())


def test_missing_shard_raises(tmp_path: Path, tiny_model: ClipSamForAnomalySegmentation) -> None:
    tiny_model.save_pretrained(tmp_path, max_shard_size="50KB")
    shard = sorted(tmp_path.glob("*.safetensors"))[1]
    shard.unlink()
    with pytest.raises(OSError, match=shard.name):
        load(tmp_path)


def test_missing_index_raises(tmp_path: Path, tiny_model: ClipSamForAnomalySegmentation) -> None:
    tiny_model.save_pretrained(tmp_path, max_shard_size="50KB")
    (tmp_path / "model.safetensors.index.json").unlink()
    with pytest.raises(OSError):
        load(tmp_path)


def test_weights_that_accelerate_sharded_load_as_one_model(
    tmp_path: Path, tiny_model: ClipSamForAnomalySegmentation
) -> None:
    accelerate = pytest.importorskip("accelerate")
    accelerate.Accelerator(cpu=True).save_model(tiny_model, tmp_path, max_shard_size="50KB")
    tiny_model.config.save_pretrained(tmp_path)
    assert len(list(tmp_path.glob("*.safetensors"))) > 2
    expected = tiny_model.state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in load(tmp_path).state_dict().items())


# --- the head alone


@pytest.fixture
def backbones(tmp_path: Path, tiny_clip_config: CLIPConfig, tiny_sam_config: SamConfig) -> tuple[Path, Path]:
    """Folders of a CLIP and of a SAM."""
    torch.manual_seed(1)
    for model, name in ((CLIPModel(tiny_clip_config), "clip"), (SamModel(tiny_sam_config), "sam")):
        model.save_pretrained(tmp_path / name)
    return tmp_path / "clip", tmp_path / "sam"


@pytest.fixture
def composed(backbones: tuple[Path, Path]) -> ClipSamForAnomalySegmentation:
    """A model of both, with a head that counts as trained."""
    model = ClipSamForAnomalySegmentation.from_clip_sam_pretrained(
        *backbones, localizer="umci", umci_hidden_size=16, scale_sizes=(2, 3), image_size=32
    )
    with torch.no_grad():
        model.umci[0].fuse.bias.fill_(0.5)
    return model


@pytest.fixture
def head(tmp_path: Path, composed: ClipSamForAnomalySegmentation) -> Path:
    """A checkpoint of the head alone."""
    composed.save_pretrained(tmp_path / "head", save_backbones=False)
    return tmp_path / "head"


def stored_config(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / "config.json").read_text()))


def change_config(folder: Path, **fields: Any) -> None:
    (folder / "config.json").write_text(json.dumps({**stored_config(folder), **fields}))


def test_head_alone_holds_nothing_else(head: Path, backbones: tuple[Path, Path]) -> None:
    assert sorted(load_file(head / "model.safetensors")) == HEAD_KEYS
    stored = stored_config(head)
    assert stored["backbones_saved"] is False
    assert (stored["clip_name_or_path"], stored["sam_name_or_path"]) == tuple(map(str, backbones))


def test_head_alone_is_one_file(tmp_path: Path, composed: ClipSamForAnomalySegmentation) -> None:
    composed.save_pretrained(tmp_path / "head", save_backbones=False, max_shard_size="10KB")
    assert [path.name for path in (tmp_path / "head").glob("*.safetensors*")] == ["model.safetensors"]


@pytest.mark.parametrize("loader", [ClipSamForAnomalySegmentation, AutoModel])
def test_head_alone_loads_as_the_whole_model(head: Path, composed: ClipSamForAnomalySegmentation, loader: Any) -> None:
    model, information = loader.from_pretrained(head, output_loading_info=True)
    expected = composed.state_dict()
    assert model.state_dict().keys() == expected.keys()
    assert all(torch.equal(value, expected[name]) for name, value in model.state_dict().items())
    assert not any(information[name] for name in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert model.head_is_trained and not model.training and model.name_or_path == str(head)
    assert not any(weight.requires_grad for weight in (*model.clip.parameters(), *model.sam.parameters()))
    assert model.clip.config is model.config.clip_config


def test_head_alone_takes_the_keywords_of_loading(head: Path) -> None:
    model = load(head, dtype=torch.bfloat16, binarize_threshold=0.25, attn_implementation="eager")
    assert model.clip.dtype == model.sam.dtype == torch.bfloat16
    assert model.umci[0].fuse.bias.dtype == torch.float32
    assert model.config.binarize_threshold == 0.25
    assert model.clip.config._attn_implementation == "eager"


def test_head_alone_saved_again_is_whole_and_names_no_place_of_this_machine(head: Path, tmp_path: Path) -> None:
    load(head).save_pretrained(tmp_path / "whole")
    shutil.rmtree(tmp_path / "clip")
    shutil.rmtree(tmp_path / "sam")
    assert load(tmp_path / "whole").head_is_trained


def test_whole_model_names_no_place_of_this_machine(tmp_path: Path, composed: ClipSamForAnomalySegmentation) -> None:
    composed.save_pretrained(tmp_path / "whole")
    assert str(tmp_path) not in (tmp_path / "whole" / "config.json").read_text()
    composed.config.clip_name_or_path, composed.config.clip_revision = "org/clip", "0" * 40
    composed.save_pretrained(tmp_path / "whole")
    assert stored_config(tmp_path / "whole")["clip_name_or_path"] == "org/clip"


@pytest.mark.parametrize("part", ["clip", "sam"])
def test_head_alone_without_its_backbone_raises(head: Path, tmp_path: Path, part: str) -> None:
    shutil.rmtree(tmp_path / part)
    with pytest.raises(OSError, match=f"head alone, and its {part.upper()}, .*{part}.*cannot be loaded"):
        load(head)


def test_head_alone_that_does_not_know_its_backbone_raises(head: Path) -> None:
    change_config(head, sam_name_or_path=None)
    with pytest.raises(ValueError, match="does not say where SAM comes from: `sam_name_or_path` is None"):
        load(head)


def test_head_alone_with_a_backbone_that_lacks_a_tensor_raises(head: Path, backbones: tuple[Path, Path]) -> None:
    rewrite(backbones[1], lambda tensors: tensors.pop("vision_encoder.pos_embed"))
    with pytest.raises(ValueError, match="sam.*lacks 1 tensors.*vision_encoder.pos_embed"):
        load(head)


def test_head_alone_with_another_backbone_raises(
    head: Path, backbones: tuple[Path, Path], tiny_clip_config: CLIPConfig
) -> None:
    tiny_clip_config.vision_config.intermediate_size = 24
    CLIPModel(tiny_clip_config).save_pretrained(backbones[0])
    with pytest.raises(RuntimeError, match="clip.vision_model|mismatch"):
        load(head)


def test_head_alone_that_lacks_a_tensor_raises(head: Path) -> None:
    rewrite(head, lambda tensors: tensors.pop(HEAD_KEYS[0]))
    with pytest.raises(ValueError, match=f"lacks 1 tensors.*{HEAD_KEYS[0]}"):
        load(head)


def test_head_alone_without_its_file_raises(head: Path) -> None:
    (head / "model.safetensors").unlink()
    with pytest.raises(OSError, match="model.safetensors"):
        load(head)


def test_trained_clip_is_never_left_out(tmp_path: Path, composed: ClipSamForAnomalySegmentation) -> None:
    composed.config.freeze_backbones = False
    with pytest.raises(ValueError, match="lose what CLIP has learned"):
        composed.save_pretrained(tmp_path / "lost", save_backbones=False)
    assert not (tmp_path / "lost").exists()


def test_backbones_of_unknown_origin_are_never_left_out(
    tmp_path: Path, tiny_model: ClipSamForAnomalySegmentation
) -> None:
    with pytest.raises(ValueError, match="`config.clip_name_or_path` is None"):
        tiny_model.save_pretrained(tmp_path / "lost", save_backbones=False)


def test_backbone_of_a_subfolder_has_no_origin(tmp_path: Path, backbones: tuple[Path, Path]) -> None:
    clip_kwargs = {"subfolder": "clip"}
    model = ClipSamForAnomalySegmentation.from_clip_sam_pretrained(
        tmp_path, backbones[1], clip_kwargs=clip_kwargs, image_size=32, scale_sizes=(2, 3)
    )
    assert model.config.clip_name_or_path is None and model.config.sam_name_or_path == str(backbones[1])


def test_head_alone_is_not_pushed_when_its_backbones_are_folders(composed: ClipSamForAnomalySegmentation) -> None:
    with pytest.raises(ValueError, match="nobody else can load: `config.clip_name_or_path` is the folder"):
        composed.push_to_hub("org/clipsam", save_backbones=False)


# --- missing tensors


MISSING_KEYS = [key for key in HEAD_KEYS if key.startswith("umci.0.")] + BACKBONE_KEYS


@pytest.mark.parametrize(
    "key",
    [pytest.param(key, marks=() if place % 8 == 0 else pytest.mark.slow) for place, key in enumerate(MISSING_KEYS)],
)
def test_missing_tensor_raises_and_is_named(one_stage: Path, key: str) -> None:
    rewrite(one_stage, lambda tensors: tensors.pop(key))
    with pytest.raises(ValueError, match="lacks [12] tensors") as error:
        load(one_stage)
    assert key in str(error.value) and str(one_stage) in str(error.value)


def test_one_stage_alone_loads(one_stage: Path) -> None:
    assert len(load(one_stage).umci) == 1


def test_missing_stage_raises(one_stage: Path) -> None:
    with pytest.raises(ValueError, match="umci.1."):
        load(one_stage, feature_layers=(1, 2))


def test_checkpoint_of_the_training_free_localizer_has_no_head_to_offer(
    folder: Path, tiny_config: ClipSamConfig
) -> None:
    rewrite(folder, lambda tensors: [tensors.pop(key) for key in HEAD_KEYS])
    with pytest.raises(ValueError, match=f"lacks {len(HEAD_KEYS)} tensors.*and {len(HEAD_KEYS) - 5} more"):
        load(folder)
    assert load(folder, localizer="vv").config.localizer == "vv"


@pytest.mark.parametrize("localizer", ["vv", "windows", "similarity"])
def test_a_trained_head_is_left_out_without_a_word(
    folder: Path, localizer: str, caplog: pytest.LogCaptureFixture
) -> None:
    with library_log(caplog):
        model = load(folder, localizer=localizer)
    assert caplog.text == "" and model.head_is_trained and not hasattr(model, "umci")


def test_auto_model_refuses_a_missing_tensor_too(folder: Path) -> None:
    rewrite(folder, lambda tensors: tensors.pop(HEAD_KEYS[0]))
    with pytest.raises(ValueError, match=HEAD_KEYS[0]):
        AutoModel.from_pretrained(folder)


def test_ignore_mismatched_sizes_keeps_the_librarys_behaviour(folder: Path) -> None:
    rewrite(folder, lambda tensors: [tensors.pop(key) for key in HEAD_KEYS])
    model, information = load(folder, ignore_mismatched_sizes=True, output_loading_info=True)
    assert sorted(information["missing_keys"]) == HEAD_KEYS
    assert not model.head_is_trained


def test_state_dict_without_a_path_keeps_the_librarys_behaviour(tiny_model: ClipSamForAnomalySegmentation) -> None:
    complete = tiny_model.state_dict()
    model = ClipSamForAnomalySegmentation.from_pretrained(None, config=tiny_model.config, state_dict=complete)
    assert torch.equal(model.umci[0].fuse.weight, complete["umci.0.fuse.weight"])
    assert model.head_is_trained

    partial = {key: value for key, value in complete.items() if not key.startswith("umci.")}
    model = ClipSamForAnomalySegmentation.from_pretrained(None, config=tiny_model.config, state_dict=partial)
    assert not model.head_is_trained


def test_partly_loaded_head_is_untrained(folder: Path) -> None:
    rewrite(folder, lambda tensors: tensors.pop(HEAD_KEYS[0]))
    model = load(folder, ignore_mismatched_sizes=True)
    assert not model.head_is_trained


def test_head_with_one_tensor_of_another_shape_is_untrained(folder: Path) -> None:
    rewrite(folder, lambda tensors: tensors.update({"umci.0.fuse.bias": torch.zeros(5)}))
    model = load(folder, ignore_mismatched_sizes=True)
    assert not model.head_is_trained


# --- tensors that do not fit


def test_tensor_of_another_shape_raises(folder: Path) -> None:
    rewrite(folder, lambda tensors: tensors.update({"umci.1.fuse.bias": torch.zeros(5)}))
    with pytest.raises(RuntimeError, match="umci.1.fuse.bias|mismatch"):
        load(folder)


def test_config_of_another_width_raises(folder: Path) -> None:
    with pytest.raises(RuntimeError):
        load(folder, umci_hidden_size=8)


def test_extra_tensor_warns(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    rewrite(folder, lambda tensors: tensors.update({"umci.9.fuse.bias": torch.zeros(5)}))
    with library_log(caplog):
        _, information = load(folder, output_loading_info=True)
    assert list(information["unexpected_keys"]) == ["umci.9.fuse.bias"]
    assert "umci.9.fuse.bias" in caplog.text


# --- broken files


@pytest.mark.parametrize("kind", ["truncated", "garbage", "empty"])
def test_broken_safetensors_raises(folder: Path, kind: str) -> None:
    file = folder / "model.safetensors"
    content = file.read_bytes()
    file.write_bytes({"truncated": content[: len(content) // 2], "garbage": b"\xff" * 4096, "empty": b""}[kind])
    with pytest.raises((SafetensorError, OSError)):
        load(folder)


@pytest.mark.parametrize("content", ["{", "", "not json"])
def test_corrupt_config_raises(folder: Path, content: str) -> None:
    (folder / "config.json").write_text(content)
    with pytest.raises(OSError, match="config.json.*not a valid JSON file"):
        load(folder)


def test_absent_weights_raise(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    with pytest.raises(OSError, match="model.safetensors"):
        load(folder)


def test_absent_config_raises_before_a_model_is_built(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Any, config: ClipSamConfig) -> None:
        pytest.fail("Without config.json the full-size default was built.")

    monkeypatch.setattr(ClipSamForAnomalySegmentation, "__init__", refuse)
    (folder / "config.json").unlink()
    with pytest.raises(OSError, match="config.json"):
        load(folder)


def test_absent_folder_raises(tmp_path: Path) -> None:
    with pytest.raises(OSError):
        load(tmp_path / "nothing")


def test_head_that_is_not_finite_warns(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    rewrite(folder, lambda tensors: tensors["umci.1.fuse.bias"].fill_(torch.nan))
    with library_log(caplog):
        load(folder)
    assert "'umci.1.fuse.bias'" in caplog.text and "not finite" in caplog.text


# --- pickles


def test_pickled_weights_are_refused_by_default(folder: Path) -> None:
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    with pytest.raises(OSError, match="safetensors"):
        load(folder)
    assert load(folder, use_safetensors=False).head_is_trained  # whoever asks for them gets them


class Evil:
    """Creates a file when it is unpickled."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> Any:
        return Path.touch, (self.trace,)


@pytest.mark.parametrize("use_safetensors", [None, False])
def test_evil_pickle_does_not_run(folder: Path, tmp_path: Path, use_safetensors: bool | None) -> None:
    trace = tmp_path / "trace"
    (folder / "model.safetensors").unlink()
    torch.save({"umci.0.fuse.bias": Evil(trace)}, folder / "pytorch_model.bin")
    with pytest.raises((OSError, pickle.UnpicklingError)):
        load(folder, **({} if use_safetensors is None else {"use_safetensors": use_safetensors}))
    assert not trace.exists()


# --- saving


def test_saving_onto_a_file_raises(tmp_path: Path, tiny_model: ClipSamForAnomalySegmentation) -> None:
    target = tmp_path / "target"
    target.write_text("precious")
    with pytest.raises(NotADirectoryError, match="target"):
        tiny_model.save_pretrained(target)
    assert target.read_text() == "precious"


def test_saving_over_a_checkpoint_replaces_it(folder: Path, tiny_model: ClipSamForAnomalySegmentation) -> None:
    with torch.no_grad():
        tiny_model.umci[0].fuse.bias.fill_(7.0)
    tiny_model.save_pretrained(folder)
    assert load(folder).umci[0].fuse.bias.min() == 7.0


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@contextmanager
def full_disk(room: int) -> Iterator[None]:
    """No file may grow above `room` bytes: what a process sees of a full disk."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)


@pytest.mark.parametrize("room", [1_000, 20_000])  # too little for the configuration, for the weights
def test_full_disk_leaves_the_old_checkpoint(
    folder: Path, tmp_path: Path, tiny_model: ClipSamForAnomalySegmentation, room: int
) -> None:
    before = contents(folder)
    tiny_model.config.binarize_threshold = 0.125
    for target in (folder, tmp_path / "new"):
        with full_disk(room), pytest.raises((OSError, SafetensorError)):
            tiny_model.save_pretrained(target)
    assert contents(folder) == before
    assert list((tmp_path / "new").iterdir()) == []


def test_full_disk_leaves_the_old_processor(tmp_path: Path, tiny_processor: ClipSamProcessor) -> None:
    tiny_processor.save_pretrained(tmp_path)
    before = contents(tmp_path)
    tiny_processor.normal_states = ["whole {}"]
    with full_disk(1_000), pytest.raises(Exception, match="(?i)too large|os error"):
        tiny_processor.save_pretrained(tmp_path)
    assert contents(tmp_path) == before


@pytest.mark.parametrize("target", ["/proc/self", "/proc/clipsam"])  # closed to the administrator too
def test_folder_that_cannot_be_written_raises(tiny_model: ClipSamForAnomalySegmentation, target: str) -> None:
    with pytest.raises(OSError, match="/proc"):
        tiny_model.save_pretrained(target)


def test_other_number_of_shards_leaves_no_old_weights(folder: Path, tiny_model: ClipSamForAnomalySegmentation) -> None:
    for value, max_shard_size in ((1.0, "50KB"), (2.0, "100KB"), (3.0, "1GB")):
        with torch.no_grad():
            tiny_model.umci[0].fuse.bias.fill_(value)
        tiny_model.save_pretrained(folder, max_shard_size=max_shard_size)
        assert load(folder).umci[0].fuse.bias.min() == value
    assert [path.name for path in folder.glob("*.safetensors*")] == ["model.safetensors"]


def test_two_that_save_to_one_folder_leave_a_whole_checkpoint(
    folder: Path, tmp_path: Path, tiny_config: ClipSamConfig
) -> None:
    models = [ClipSamForAnomalySegmentation(tiny_config) for _ in range(2)]
    for number, model in enumerate(models):
        model.save_pretrained(tmp_path / str(number))
    with ThreadPoolExecutor() as pool:
        list(pool.map(lambda turn: models[turn % 2].save_pretrained(folder), range(8)))
    weights = (folder / "model.safetensors").read_bytes()
    assert weights in [(tmp_path / number / "model.safetensors").read_bytes() for number in "01"]
    assert sorted(contents(folder)) == ["config.json", "model.safetensors"]
    assert load(folder).head_is_trained


def test_moved_checkpoint_loads(folder: Path, tmp_path: Path) -> None:
    moved = tmp_path / "with space, ümlaut & 100 %"
    shutil.move(folder, moved)
    assert load(moved).head_is_trained


def test_checkpoint_with_a_field_of_tomorrow_loads(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    change_config(folder, field_of_tomorrow=1)
    with library_log(caplog):
        assert load(folder).head_is_trained
    assert "field_of_tomorrow" in caplog.text


def test_configuration_of_the_first_version_loads(tmp_path: Path) -> None:
    """The file is what 0.1.0 wrote before it knew where backbones come from; it stays as it is."""
    shutil.copy(KEYS.parent / "config_0.1.0.json", tmp_path / "config.json")
    config = ClipSamConfig.from_pretrained(tmp_path)
    assert (config.feature_layers, config.binarize_threshold, config.decision_threshold) == ([1, 2], 0.25, 0.75)
    assert (config.auxiliary_dataset, config.clip_name_or_path, config.backbones_saved) == ("visa", None, True)
    config.save_pretrained(tmp_path / "again")
    again = stored_config(tmp_path / "again")
    assert stored_config(tmp_path).items() <= again.items()
