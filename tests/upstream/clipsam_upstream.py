# SPDX-FileCopyrightText: 2026 The clipsam_hf authors
# SPDX-License-Identifier: Apache-2.0
"""transformers' common model, configuration and processor tests on tiny ClipSAMs; `run.py` runs them.

An override says why the common test does not fit; one test is skipped here. The others skip themselves, with their
reason, where this machine or this model lacks what they are about:

* one or several accelerators, flash attention, flex attention, MPS, `kernels`, deepspeed, librosa, torchcodec;
* tests that the library marks as slow;
* a language model: its head, `inputs_embeds`, experts, rotary positions, sliding windows, the tensor-parallel plan;
* position embeddings that are resized with the model (CLIP's are interpolated), renamed checkpoint keys;
* one kind of attention for a whole model: the tests for composite models run instead;
* of a processor: video and audio, chat templates, image tokens inside the text.

Left out is `PipelineTesterMixin`: it runs the library's own tasks on checkpoints of the Hub.
"""

import functools
import re
import tempfile
import unittest
from collections.abc import Iterator
from typing import Any
from unittest.mock import patch

import pytest
import tests.test_processing_common as test_processing_common
import torch
from tests.test_configuration_common import ConfigTester
from tests.test_modeling_common import ModelTesterMixin, floats_tensor, ids_tensor
from tests.test_processing_common import ProcessorTesterMixin
from tiny_sam_hq import make_sam_hq_config
from transformers import CLIPImageProcessorPil, CLIPTokenizer, SamConfig, SamImageProcessorPil
from transformers.models.auto.modeling_auto import MODEL_MAPPING_NAMES
from transformers.testing_utils import torch_device

from clipsam_hf import ClipSamConfig, ClipSamForAnomalySegmentation, ClipSamProcessor


class ClipSamModelTester:
    """Makes the configuration and the inputs that the common tests ask for."""

    batch_size = 3
    is_training = True

    def __init__(self, config: ClipSamConfig) -> None:
        self.config = config
        vision_config = config.clip_config.vision_config
        self.num_hidden_layers = vision_config.num_hidden_layers
        self.hidden_size = vision_config.hidden_size
        self.num_attention_heads = vision_config.num_attention_heads
        self.seq_length = (vision_config.image_size // vision_config.patch_size) ** 2 + 1

    def get_config(self) -> ClipSamConfig:
        # Something to refine in every image, whatever the random weights: a test takes the maximum of each output
        return ClipSamConfig.from_dict({**self.config.to_dict(), "binarize_threshold": 0.0})

    def prepare_config_and_inputs_for_common(self) -> tuple[ClipSamConfig, dict[str, Any]]:
        config = self.get_config()
        side, sam_side = config.image_size, config.sam_config.vision_config.image_size
        text_config = config.clip_config.text_config
        input_ids = ids_tensor((self.batch_size, 2, 2, 7), text_config.vocab_size - 1)
        input_ids[..., -1] = text_config.eos_token_id
        inputs = {
            "pixel_values": floats_tensor((self.batch_size, 3, side, side)),
            "input_ids": input_ids,
            "attention_mask": torch.ones_like(input_ids),
            "sam_pixel_values": floats_tensor((self.batch_size, 3, sam_side, sam_side)),
            "reshaped_input_sizes": torch.tensor([[sam_side, sam_side // 2]] * self.batch_size, device=torch_device),
        }
        return config, inputs


class ClipSamModelTest(ModelTesterMixin, unittest.TestCase):
    all_model_classes = (ClipSamForAnomalySegmentation,)
    test_can_init_all_missing_weights_before_2023 = True
    # SAM refines without gradient, and with UMCI nothing reads CLIP's last norm, visual projection and logit scale
    test_all_params_have_gradient = False
    _is_composite = True

    @pytest.fixture(autouse=True)
    def make_testers(self, tiny_config: ClipSamConfig) -> None:
        tiny_config.freeze_backbones = False
        self.model_tester = ClipSamModelTester(tiny_config)
        self.config_tester = ConfigTester(self, config_class=ClipSamConfig, has_text_modality=False)

    def _prepare_for_class(self, inputs_dict: dict[str, Any], model_class: type, return_labels: bool = False) -> Any:
        inputs = super()._prepare_for_class(inputs_dict, model_class, return_labels=return_labels)
        batch_size, _, height, width = inputs["pixel_values"].shape
        if return_labels:
            inputs["labels"] = torch.zeros(batch_size, height, width, dtype=torch.long, device=torch_device)
        # The test of sdpa against eager gives images alone, with a mask of (batch_size, tokens), which is not ours
        if "input_ids" not in inputs:
            inputs["text_embeds"] = floats_tensor((1, 2, self.model_tester.config.clip_config.projection_dim))
        return inputs

    def test_config(self) -> None:
        self.config_tester.run_common_tests()

    def test_can_init_all_missing_weights(self) -> None:
        # The library excuses its CLIP from this test, which is older than the rule; UMCI and SAM must pass
        with self.assertRaises(AssertionError) as caught:
            super().test_can_init_all_missing_weights()
        self.assertEqual(set(re.findall(r"called from `(\w+)`", str(caught.exception))), {"CLIPPreTrainedModel"})

    def test_model_forward_default_config_values(self) -> None:
        # It passes over models that the library's own table lacks
        with patch.dict(MODEL_MAPPING_NAMES, {"clipsam": "ClipSamForAnomalySegmentation"}):
            super().test_model_forward_default_config_values()

    def test_model_weights_reload_no_missing_tied_weights(self) -> None:
        # A checkpoint without tensors raises, unless the caller wants it so
        lenient = functools.partial(ClipSamForAnomalySegmentation.from_pretrained, ignore_mismatched_sizes=True)
        with patch.object(ClipSamForAnomalySegmentation, "from_pretrained", lenient):
            super().test_model_weights_reload_no_missing_tied_weights()

    def test_sdpa_can_dispatch_composite_models(self) -> None:
        # It knows one tower and one language model, and asks other compositions for a test of their own
        model = ClipSamForAnomalySegmentation(self.model_tester.get_config())
        with tempfile.TemporaryDirectory() as folder:
            model.save_pretrained(folder)
            for implementation in ("sdpa", "eager"):
                model = ClipSamForAnomalySegmentation.from_pretrained(folder, attn_implementation=implementation)
                parts = (model, model.clip, model.clip.text_model, model.clip.vision_model, model.sam)
                used = {part.config._attn_implementation for part in (*parts, model.sam.vision_encoder)}
                self.assertEqual(used, {implementation})


class ClipSamHQModelTest(ClipSamModelTest):
    """The same with SAM-HQ as the refiner."""

    @pytest.fixture(autouse=True)
    def make_testers(self, tiny_config: ClipSamConfig, tiny_sam_config: SamConfig) -> None:
        tiny_config.sam_config = make_sam_hq_config(tiny_sam_config)
        tiny_config.freeze_backbones = False
        self.model_tester = ClipSamModelTester(tiny_config)
        self.config_tester = ConfigTester(self, config_class=ClipSamConfig, has_text_modality=False)


class SavedSamImageProcessor:
    """What an Auto class would be for the second image processor; the library has one per processor."""

    @staticmethod
    def from_pretrained(folder: str, **kwargs: Any) -> Any:
        return ClipSamProcessor.from_pretrained(folder, **kwargs).sam_image_processor


@pytest.fixture(autouse=True, scope="module")
def prepare_processor_tests(tiny_tokenizer: CLIPTokenizer) -> Iterator[None]:
    """Hands the tokenizer to the class, which is set up as a class, and names the second image processor."""
    ClipSamProcessorTest.tiny_tokenizer = tiny_tokenizer
    known = test_processing_common.MODALITY_TO_AUTOPROCESSOR_MAPPING
    classes = {name: known[name] for name in known.keys()}  # noqa: SIM118 (it has no iterator)
    classes["sam_image_processor"] = SavedSamImageProcessor
    with patch.object(test_processing_common, "MODALITY_TO_AUTOPROCESSOR_MAPPING", classes):
        yield


class ClipSamProcessorTest(ProcessorTesterMixin, unittest.TestCase):
    processor_class = ClipSamProcessor
    tiny_tokenizer: CLIPTokenizer

    @classmethod
    def _setup_image_processor(cls) -> CLIPImageProcessorPil:
        return CLIPImageProcessorPil(size={"height": 32, "width": 32}, do_center_crop=False)

    @classmethod
    def _setup_sam_image_processor(cls) -> SamImageProcessorPil:
        return SamImageProcessorPil(size={"longest_edge": 64}, pad_size={"height": 64, "width": 64})

    @classmethod
    def _setup_tokenizer(cls) -> CLIPTokenizer:
        return cls.tiny_tokenizer

    def _check_modality_outputs(self, inputs: Any, modality: str) -> None:
        super()._check_modality_outputs(inputs, modality)
        # What follows measures (batch_size, sequence_length); ours has a class and a prompt axis in between
        inputs["input_ids"] = inputs["input_ids"][:, 0, 0]

    # The tokenizer alone gives one row; the processor makes sentences of a class name and tokenizes those
    @unittest.skip("The text is a class name, not what the tokenizer sees.")
    def test_subprocessor_defaults_0_text(self) -> None: ...
