# SPDX-FileCopyrightText: 2026 The clipsam_hf authors
# SPDX-License-Identifier: Apache-2.0
"""What a quantizer of transformers makes of the model: CLIP's and SAM's linear layers shrink, the head stays."""

import pytest
import torch
from transformers.quantizers.base import HfQuantizer
from transformers.quantizers.quantizers_utils import should_convert_module

from clipsam_hf import ClipSamForAnomalySegmentation
from clipsam_hf.sam_attention_clipsam import can_decode


def test_the_head_is_none_of_the_layers_that_are_converted(tiny_model: ClipSamForAnomalySegmentation) -> None:
    """torchao's and bitsandbytes' quantizers choose by these two functions and this attribute."""
    left = HfQuantizer.get_modules_to_not_convert(tiny_model, None, tiny_model._keep_in_fp32_modules)
    layers = [name for name, module in tiny_model.named_modules() if isinstance(module, torch.nn.Linear)]
    converted = {name for name in layers if should_convert_module(name, left)}
    assert {name.partition(".")[0] for name in layers} == {"clip", "sam", "umci"}
    assert converted == {name for name in layers if not name.startswith("umci.")}


class OtherTensor(torch.Tensor):
    """Stands for torchao's: weights of another kind in the library's own modules."""


def test_weights_of_another_kind_are_left_to_the_library(tiny_model: ClipSamForAnomalySegmentation) -> None:
    sam = tiny_model.eval().sam
    assert can_decode(sam, 4)
    layer = sam.mask_decoder.transformer.layers[0].self_attn.q_proj
    layer.weight = torch.nn.Parameter(layer.weight.detach().as_subclass(OtherTensor))
    assert not can_decode(sam, 4)


@pytest.mark.slow
def test_torchao_loads_and_the_head_stays_in_float32(tiny_checkpoint: str) -> None:
    quantization = pytest.importorskip("torchao.quantization")
    from transformers import TorchAoConfig

    config = TorchAoConfig(quantization.Int8WeightOnlyConfig())
    model = ClipSamForAnomalySegmentation.from_pretrained(tiny_checkpoint, quantization_config=config)
    kinds = {name: type(weight) for name, weight in model.named_parameters() if name.endswith("weight")}
    assert all(kind is torch.nn.Parameter for name, kind in kinds.items() if name.startswith("umci."))
    assert any(kind is not torch.nn.Parameter for name, kind in kinds.items() if name.startswith("clip."))
    assert any(kind is not torch.nn.Parameter for name, kind in kinds.items() if name.startswith("sam."))
