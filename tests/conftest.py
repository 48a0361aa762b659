# SPDX-FileCopyrightText: 2026 The clipsam_hf authors
# SPDX-License-Identifier: Apache-2.0
"""What every test has: no network, no cache of the user, one thread, a fixed seed, a model small enough to rebuild."""

import os
import random
import socket
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any


# huggingface_hub and transformers read these once, when they are imported; subprocesses of a test inherit them.
_cache = tempfile.TemporaryDirectory(prefix="clipsam_hf_tests_")
os.environ["HF_HOME"] = _cache.name
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"

import numpy as np  # noqa: E402
import pytest  # noqa: E402
import torch  # noqa: E402
from accelerate.state import AcceleratorState  # noqa: E402
from transformers import (  # noqa: E402
    CLIPConfig,
    CLIPImageProcessorPil,
    CLIPTokenizer,
    SamConfig,
    SamImageProcessorPil,
)


if TYPE_CHECKING:
    from clipsam_hf.configuration_clipsam import ClipSamConfig
    from clipsam_hf.modeling_clipsam import ClipSamForAnomalySegmentation
    from clipsam_hf.processing_clipsam import ClipSamProcessor


# Tiny networks are fastest on one thread, and sums in a fixed order give the same digits on every machine.
torch.set_num_threads(1)

LOOPBACK = {"127.0.0.1", "::1", "localhost"}
BPE_WORDS = (
    "a",
    "photo",
    "of",
    "the",
    "object",
    "candle",
    "flawless",
    "perfect",
    "damaged",
    "with",
    "without",
    "defect",
)

CLIP_IMAGE_SIZE = 32
SAM_IMAGE_SIZE = 64
PATCH_SIZE = 8
# SAM's own 1e-10 (encoder) and 0.02 make every mask logit of a tiny network about 1e-6: tests of it could not fail.
SAM_INITIALIZER_RANGE = 0.3


class NetworkBlockedError(RuntimeError):
    """A test tried to leave this machine. Not an OSError: libraries catch those and carry on."""


@pytest.fixture(autouse=True, scope="session")
def block_network() -> Any:
    """Lets sockets reach this machine only: loopback and Unix sockets."""

    def guard(function: Any) -> Any:
        def guarded(self: socket.socket, address: Any) -> Any:
            if self.family != socket.AF_UNIX and address[0] not in LOOPBACK:
                raise NetworkBlockedError(f"A test tried to connect to {address!r}.")
            return function(self, address)

        return guarded

    def getaddrinfo(host: Any, *args: Any, **kwargs: Any) -> Any:
        if host is not None and host not in LOOPBACK:
            raise NetworkBlockedError(f"A test tried to look up {host!r}.")
        return original_getaddrinfo(host, *args, **kwargs)

    original_getaddrinfo = socket.getaddrinfo
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", guard(socket.socket.connect))
        patch.setattr(socket.socket, "connect_ex", guard(socket.socket.connect_ex))
        patch.setattr(socket, "getaddrinfo", getaddrinfo)
        yield


@pytest.fixture(autouse=True)
def fixed_seed() -> None:
    """Starts every test from the same random state, whatever ran before it."""
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def fresh_accelerator() -> None:
    """Starts every test without an accelerator's state, which Accelerate keeps in its classes."""
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.fixture(scope="session")
def tiny_tokenizer() -> CLIPTokenizer:
    """A real byte-level BPE for CLIP: all 256 bytes, and merges that make one token of each word in `BPE_WORDS`."""
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    characters = sorted(bytes_to_unicode().values())
    vocabulary = [*characters, *(f"{character}</w>" for character in characters)]
    merges: list[str] = []
    for word in BPE_WORDS:
        pieces = [*word[:-1], f"{word[-1]}</w>"]
        while len(pieces) > 1:
            if f"{pieces[0]} {pieces[1]}" not in merges:
                merges.append(f"{pieces[0]} {pieces[1]}")
                vocabulary.append(pieces[0] + pieces[1])
            pieces[:2] = [pieces[0] + pieces[1]]
    vocabulary += ["<|startoftext|>", "<|endoftext|>"]
    return CLIPTokenizer(
        vocab={token: index for index, token in enumerate(vocabulary)},
        merges=[tuple(merge.split()) for merge in merges],
        model_max_length=77,
    )


@pytest.fixture
def tiny_clip_config(tiny_tokenizer: CLIPTokenizer) -> CLIPConfig:
    """CLIP with two layers and 4 x 4 tokens."""
    tower = {"hidden_size": 32, "intermediate_size": 37, "num_hidden_layers": 2, "num_attention_heads": 4}
    return CLIPConfig(
        text_config={
            **tower,
            "vocab_size": len(tiny_tokenizer),
            "bos_token_id": tiny_tokenizer.bos_token_id,
            "eos_token_id": tiny_tokenizer.eos_token_id,
            "pad_token_id": tiny_tokenizer.pad_token_id,
        },
        vision_config={**tower, "image_size": CLIP_IMAGE_SIZE, "patch_size": PATCH_SIZE},
        projection_dim=16,
    )


@pytest.fixture
def tiny_sam_config() -> SamConfig:
    """SAM with two layers and 8 x 8 tokens; its masks have 32 x 32 pixels."""
    return SamConfig(
        vision_config={
            "hidden_size": 32,
            "output_channels": 16,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_pos_feats": 8,
            "image_size": SAM_IMAGE_SIZE,
            "patch_size": PATCH_SIZE,
            "window_size": 4,
            "global_attn_indexes": [1],
            "mlp_dim": 64,
            "initializer_range": SAM_INITIALIZER_RANGE,
        },
        prompt_encoder_config={
            "hidden_size": 16,
            "image_size": SAM_IMAGE_SIZE,
            "patch_size": PATCH_SIZE,
            "mask_input_channels": 4,
        },
        mask_decoder_config={
            "hidden_size": 16,
            "mlp_dim": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "iou_head_hidden_dim": 16,
        },
        initializer_range=SAM_INITIALIZER_RANGE,
    )


@pytest.fixture
def tiny_config(tiny_clip_config: CLIPConfig, tiny_sam_config: SamConfig) -> "ClipSamConfig":
    """ClipSAM of both tiny networks, with two stages."""
    from clipsam_hf.configuration_clipsam import ClipSamConfig

    return ClipSamConfig(
        clip_config=tiny_clip_config,
        sam_config=tiny_sam_config,
        feature_layers=(1, 2),
        image_size=CLIP_IMAGE_SIZE,
        umci_hidden_size=16,
        scale_sizes=(2, 3),
        max_region_fraction=1.0,  # a map of 4 x 4 tokens has large regions
    )


@pytest.fixture
def tiny_model(tiny_config: "ClipSamConfig") -> "ClipSamForAnomalySegmentation":
    """A tiny model with random weights, always the same, in evaluation mode."""
    from clipsam_hf.modeling_clipsam import ClipSamForAnomalySegmentation

    torch.manual_seed(0)
    return ClipSamForAnomalySegmentation(tiny_config).eval()


@pytest.fixture
def tiny_processor(tiny_tokenizer: CLIPTokenizer) -> "ClipSamProcessor":
    """The processor of the tiny model: a squash for CLIP, an aspect-preserving resize with padding for SAM."""
    from clipsam_hf.processing_clipsam import ClipSamProcessor

    side = {"height": CLIP_IMAGE_SIZE, "width": CLIP_IMAGE_SIZE}
    padded = {"height": SAM_IMAGE_SIZE, "width": SAM_IMAGE_SIZE}
    mask_side = SAM_IMAGE_SIZE // 2
    return ClipSamProcessor(
        image_processor=CLIPImageProcessorPil(size=side, do_center_crop=False),
        sam_image_processor=SamImageProcessorPil(
            size={"longest_edge": SAM_IMAGE_SIZE},
            pad_size=padded,
            mask_size={"longest_edge": mask_side},
            mask_pad_size={"height": mask_side, "width": mask_side},
        ),
        tokenizer=tiny_tokenizer,
    )


@pytest.fixture
def tiny_checkpoint(
    tmp_path: Path, tiny_model: "ClipSamForAnomalySegmentation", tiny_processor: "ClipSamProcessor"
) -> Path:
    """A folder with the tiny model and its processor."""
    folder = tmp_path / "clipsam-test"
    tiny_model.save_pretrained(folder)
    tiny_processor.save_pretrained(folder)
    return folder
