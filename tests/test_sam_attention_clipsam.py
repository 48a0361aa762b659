# SPDX-FileCopyrightText: 2026 The clipsam_hf authors
# SPDX-License-Identifier: Apache-2.0
"""SAM in another order of work: the library's numbers, and the library's own forward wherever that is safer."""

from typing import Any

import pytest
import torch
from tiny_sam_hq import make_sam_hq_config
from torch import Tensor, nn
from transformers import SamConfig, SamHQModel, SamModel

from clipsam_hf import ClipSamForAnomalySegmentation, sam_attention_clipsam
from clipsam_hf.refiner_clipsam import Refiner, find_refiner
from clipsam_hf.regions_clipsam import SamPrompts
from clipsam_hf.sam_attention_clipsam import can_decode, can_encode


def build(kind: str = "sam", attention: str = "sdpa", **vision: Any) -> tuple[Any, Refiner]:
    """A tiny network of which every weight matters, and how it is called. Its windows do not divide its map."""
    fields = {
        "hidden_size": 24,
        "num_hidden_layers": 3,
        "num_attention_heads": 2,
        "output_channels": 32,
        "num_pos_feats": 16,
        "image_size": 160,
        "patch_size": 16,
        "window_size": 4,
        "global_attn_indexes": [1],
        "mlp_dim": 40,
    }
    parts = {
        "vision_config": {**fields, **vision},
        "prompt_encoder_config": {"hidden_size": 32, "image_size": fields["image_size"], "patch_size": 16},
        "mask_decoder_config": {"hidden_size": 32, "mlp_dim": 40, "num_attention_heads": 4, "iou_head_hidden_dim": 16},
    }
    parts["prompt_encoder_config"]["image_size"] = parts["vision_config"]["image_size"]
    config = SamConfig(**parts)
    if kind == "sam_hq":
        config = make_sam_hq_config(config)
    model_class = {"sam": SamModel, "sam_hq": SamHQModel}[kind]
    sam = model_class._from_config(config, attn_implementation=attention).eval()
    for name, parameter in sam.named_parameters():
        nn.init.normal_(parameter, std=0.3 if "rel_pos" in name else 0.15)
    return sam.requires_grad_(False), find_refiner(kind)(config)


def pixels_of(sam: Any, batch_size: int = 1) -> Tensor:
    side = sam.config.vision_config.image_size
    return torch.randn(batch_size, 3, side, side, dtype=sam.dtype)


def by_library(caller: Any, function: str, *args: Any, **kwargs: Any) -> Any:
    """What a refiner, or a model of one, answers in the library's order."""
    refiner = getattr(caller, "refiner", caller)
    refiner.rearranged = False
    answer = getattr(caller, function)(*args, **kwargs)
    refiner.rearranged = True
    return answer


def assert_alike(given: tuple[Tensor, ...], expected: tuple[Tensor, ...], tolerance: float) -> None:
    """Equal within a share of what the library gives, which is not nothing."""
    assert len(given) == len(expected)
    for one, other in zip(given, expected, strict=True):
        assert one.shape == other.shape and one.dtype == other.dtype
        assert other.float().std() > 0.005
        error = (one.float() - other.float()).abs().max() / other.float().abs().max()
        assert error <= tolerance


def prompts_of(count: int, kind: str) -> SamPrompts:
    corners = torch.rand(count, 2, 2) * 80
    boxes = torch.cat([corners[:, 0], corners.sum(dim=1)], dim=1)
    points = torch.rand(count, 3, 2) * 160
    labels = torch.ones(count, 3, dtype=torch.long)
    has_points = kind != "box"
    return SamPrompts(
        boxes if kind != "points" else None, points if has_points else None, labels if has_points else None
    )


# --- The encoder


@pytest.mark.parametrize("kind", ["sam", "sam_hq"])
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize(
    "vision",
    [
        {},
        {"window_size": 5},  # it divides the map: nothing is padded
        {"image_size": 48, "window_size": 14},  # one window, mostly padding
        {"use_abs_pos": False, "qkv_bias": False, "num_attention_heads": 3},
    ],
)
def test_encoder_gives_the_librarys_numbers(kind: str, attention: str, vision: dict[str, Any]) -> None:
    sam, refiner = build(kind, attention, **vision)
    assert can_encode(sam.vision_encoder)
    pixels = pixels_of(sam, 2)
    assert_alike(refiner.encode(sam, pixels), by_library(refiner, "encode", sam, pixels), 1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_encoder_in_other_precisions(dtype: torch.dtype) -> None:
    sam, refiner = build()
    pixels = pixels_of(sam)
    exact = by_library(refiner, "encode", sam.double(), pixels.double())
    sam.to(dtype)
    own = refiner.encode(sam, pixels.to(dtype))
    library = by_library(refiner, "encode", sam, pixels.to(dtype))
    assert own[0].dtype == dtype
    own_error, error = ((each[0].double() - exact[0]).abs().mean() for each in (own, library))
    assert own_error <= 1.5 * error + 1e-12


@pytest.mark.parametrize("values", [1, 300, 10_000])
def test_encoder_in_chunks_of_any_size(values: int, monkeypatch: pytest.MonkeyPatch) -> None:
    sam, refiner = build()
    pixels = pixels_of(sam)
    expected = by_library(refiner, "encode", sam, pixels)
    monkeypatch.setattr(sam_attention_clipsam, "_VALUES_AT_ONCE", values)
    assert_alike(refiner.encode(sam, pixels), expected, 1e-5)


def test_encoder_as_on_an_accelerator(monkeypatch: pytest.MonkeyPatch) -> None:
    """The relative positions as a part of queries and keys: on a CPU it is slower, but as exact."""
    sam, refiner = build(hidden_size=20)  # 10 dimensions and two sides of 10: no multiple of 8
    pixels = pixels_of(sam)
    expected = by_library(refiner, "encode", sam, pixels)
    monkeypatch.setattr(sam_attention_clipsam, "_attend_in_chunks", sam_attention_clipsam._attend_folded)
    assert_alike(refiner.encode(sam, pixels), expected, 1e-5)


def test_encoder_makes_no_tensor_of_the_attention_weights() -> None:
    """At 64 x 64 positions the library makes 2 heads x 4096 x 4096 values; here the largest is a chunk."""
    sam, refiner = build(image_size=1024, num_hidden_layers=1, global_attn_indexes=[0], hidden_size=16)

    class Largest(torch.utils._python_dispatch.TorchDispatchMode):
        values = 0

        def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            answer = function(*args, **(kwargs or {}))
            if isinstance(answer, Tensor):
                self.values = max(self.values, answer.untyped_storage().nbytes() // answer.element_size())
            return answer

    pixels = pixels_of(sam)  # 3 x 1024 x 1024, less than a chunk
    with Largest() as largest:
        refiner.encode(sam, pixels)
    assert largest.values <= sam_attention_clipsam._VALUES_AT_ONCE * max(3, torch.get_num_threads())


# --- The decoder


@pytest.mark.parametrize("kind", ["box_and_points", "box", "points"])
@pytest.mark.parametrize("multimask_output", [True, False])
@pytest.mark.parametrize("chunk", [1, 2, 64])
def test_decoder_gives_the_librarys_numbers(kind: str, multimask_output: bool, chunk: int) -> None:
    sam, refiner = build()
    embeddings, prompts = (torch.randn(1, 32, 10, 10),), prompts_of(5, kind)
    assert can_decode(sam, 5)
    settings = {"multimask_output": multimask_output, "chunk": chunk}
    own = refiner.decode(sam, embeddings, prompts, **settings)
    library = by_library(refiner, "decode", sam, embeddings, prompts, **settings)
    for one, other in zip(own, library, strict=True):
        torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-5)
    assert library[0].flatten(1).std(dim=1).min() > 1e-4  # every prompt has a mask of its own


def test_decoder_as_on_an_accelerator(monkeypatch: pytest.MonkeyPatch) -> None:
    """Positions are upsampled all at once there, and a few at a time on a CPU."""
    sam, refiner = build()
    embeddings, prompts = (torch.randn(1, 32, 10, 10),), prompts_of(3, "box")
    answers = []
    for positions in (7, 10_000):
        monkeypatch.setattr(sam_attention_clipsam, "_MOST_POSITIONS", positions)
        answers.append(refiner.decode(sam, embeddings, prompts, multimask_output=True, chunk=3)[0])
    torch.testing.assert_close(*answers, atol=1e-6, rtol=1e-5)


def test_masks_lie_as_the_image_does() -> None:
    """One bright position brings forth a mask that is highest around it: rows are rows, and columns columns."""
    sam, refiner = build()
    embeddings = torch.zeros(1, 32, 10, 10)
    embeddings[:, :, 2, 7] = 20.0
    prompts = prompts_of(1, "box")
    masks, _ = refiner.decode(sam, (embeddings,), prompts, multimask_output=True, chunk=1)
    unlike = (masks[0, 0] - masks[0, 0].median()).abs()
    row, column = divmod(int(unlike.argmax()), 40)
    assert 8 <= row < 12 and 28 <= column < 32


# --- Both of them


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("sizes", [[[64, 64]], [[48, 64]], [[64, 9], [30, 64]]])
def test_maps_are_those_of_the_librarys_order(
    tiny_model: ClipSamForAnomalySegmentation, sizes: list[list[int]], dtype: torch.dtype
) -> None:
    model = tiny_model.to(dtype)
    model.config.min_region_fraction, count = 0.0, len(sizes)
    for name, parameter in model.sam.named_parameters():
        nn.init.normal_(parameter, std=0.5 if "upscale" in name or "hypernetworks" in name else 0.15)
    assert can_encode(model.sam.vision_encoder) and can_decode(model.sam, 7)
    rough = torch.full((count, 40, 40), 0.1)
    rough[:, 4:12, 4:9] = 0.8
    rough[:, 25:, 20:34] = 0.6
    inputs = {"sam_pixel_values": torch.randn(count, 3, 64, 64), "reshaped_input_sizes": torch.tensor(sizes)}
    own, library = (
        torch.stack([each.anomaly_map for each in answer])
        for answer in (model.refine(rough, **inputs), by_library(model, "refine", rough, **inputs))
    )
    assert (library - rough / 2).std() > 0.005
    torch.testing.assert_close(own, library, atol={torch.bfloat16: 2e-3}.get(dtype, 1e-5), rtol=0)


# --- Whatever is unusual goes the library's way


def count_calls(module: nn.Module, calls: list[str]) -> None:
    module.register_forward_hook(lambda *_: calls.append(type(module).__name__))


def test_hooks_see_every_call() -> None:
    sam, refiner = build()
    calls: list[str] = []
    count_calls(sam.vision_encoder.layers[1], calls)
    refiner.encode(sam, pixels_of(sam))
    count_calls(sam.mask_decoder.transformer.layers[1].cross_attn_token_to_image, calls)
    refiner.decode(sam, (torch.randn(1, 32, 10, 10),), prompts_of(1, "box"), multimask_output=True, chunk=1)
    assert calls == ["SamVisionLayer", "SamAttention"]


def test_hooks_inside_what_is_called_as_it_is_change_nothing() -> None:
    sam, _ = build()
    calls: list[str] = []
    count_calls(sam.vision_encoder.layers[1].mlp, calls)
    count_calls(sam.vision_encoder.neck, calls)
    assert can_encode(sam.vision_encoder)
    sam.vision_encoder(pixels_of(sam), output_hidden_states=True)  # leaves the library's recorder behind
    assert can_encode(sam.vision_encoder)


def unusual(change: str) -> Any:
    sam, _ = build()
    layer = sam.vision_encoder.layers[0]
    if change == "training":
        sam.train()
    elif change == "another class":
        kind = type("Adapted", (type(layer.attn),), {})
        layer.attn.__class__ = kind
        sam.mask_decoder.iou_prediction_head.proj_in.__class__ = type("Quantised", (nn.Linear,), {})
    elif change == "a forward of its own":
        layer.forward = layer.forward
        sam.mask_decoder.forward = sam.mask_decoder.forward
    elif change == "compiled":
        layer._compiled_call_impl = sam.mask_decoder._compiled_call_impl = layer.forward  # as `compile()` does
    elif change == "other lengths of relative positions":
        layer.attn.rel_pos_h = nn.Parameter(torch.zeros(5, 12))
        sam.mask_decoder.__class__ = type("SamMaskDecoder", (type(sam.mask_decoder),), {})
    return sam


@pytest.mark.parametrize(
    "change",
    ["training", "another class", "a forward of its own", "compiled", "other lengths of relative positions"],
)
def test_an_unusual_network_is_left_to_the_library(change: str) -> None:
    sam = unusual(change)
    assert not can_encode(sam.vision_encoder)
    assert not can_decode(sam, 7)


def test_many_points_are_left_to_the_library() -> None:
    sam, _ = build()
    assert can_decode(sam, 32) and not can_decode(sam, 33)


def test_decoder_of_sam_hq_is_left_to_the_library() -> None:
    sam, _ = build("sam_hq")
    assert can_encode(sam.vision_encoder) and not can_decode(sam, 7)


@pytest.mark.parametrize(
    "state", ["torch.compiler.is_compiling", "torch.jit.is_tracing", "torch.onnx.is_in_onnx_export"]
)
def test_an_export_sees_the_librarys_forward(state: str, monkeypatch: pytest.MonkeyPatch) -> None:
    sam, _ = build()
    monkeypatch.setattr(state, lambda: True)
    assert not can_encode(sam.vision_encoder) and not can_decode(sam, 7)


@pytest.mark.filterwarnings("ignore:.*deprecated:UserWarning", "ignore:.*deprecated:DeprecationWarning")
def test_quantised_linear_layers_of_the_encoder_go_through() -> None:
    """int8 weights are an option of the user's; the rearranged encoder works with what they put in."""
    sam, refiner = build(hidden_size=32, mlp_dim=64)
    pixels = pixels_of(sam)
    exact = refiner.encode(sam, pixels)[0]
    for layer in sam.vision_encoder.layers:
        layer.attn.qkv = torch.ao.nn.quantized.dynamic.Linear.from_float(_to_quantise(layer.attn.qkv))
    assert can_encode(sam.vision_encoder)
    quantised, library = refiner.encode(sam, pixels)[0], by_library(refiner, "encode", sam, pixels)[0]
    assert (quantised - exact).abs().max() > 1e-5
    # Its scale is that of all that is quantised at a time, so that padding is rounded in another way
    assert (quantised - library).abs().mean() < (exact - library).abs().mean()


def _to_quantise(linear: nn.Linear) -> nn.Linear:
    linear.qconfig = torch.ao.quantization.default_dynamic_qconfig
    return linear
