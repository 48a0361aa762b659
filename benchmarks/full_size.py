# SPDX-FileCopyrightText: 2026 The clipsam_hf authors
# SPDX-License-Identifier: Apache-2.0
"""Networks of real size with random weights, and how their time and memory are measured; for the benchmarks here."""

import ctypes
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import CLIPConfig, SamConfig
from transformers.models.sam import modeling_sam

from clipsam_hf import ClipSamConfig, ClipSamForAnomalySegmentation
from clipsam_hf.configuration_clipsam import CLIP_LARGE_336


SAM_SIZES: dict[str, dict[str, Any]] = {
    "tiny": {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "global_attn_indexes": [1]},
    "base": {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12},
    "large": {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16},
    "huge": {"hidden_size": 1280, "num_hidden_layers": 32, "num_attention_heads": 16},
}
"""SAM's encoders. The others have global attention in the last block of each quarter."""

CLIP_TINY = {
    "projection_dim": 32,
    "text_config": {
        "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2,
        "projection_dim": 32,
    },
    "vision_config": {
        "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 4, "num_attention_heads": 2,
        "image_size": 336, "patch_size": 14, "projection_dim": 32,
    },
}  # fmt: skip


def build_sam_config(size: str) -> SamConfig:
    """A SAM of a size in `SAM_SIZES`, whose random weights are large enough to matter."""
    vision = dict(SAM_SIZES[size])
    layers = vision["num_hidden_layers"]
    vision.setdefault("global_attn_indexes", [layers // 4 * quarter - 1 for quarter in (1, 2, 3, 4)])
    # The default of 1e-10 makes outputs of 1e-19, which are equal whatever one does
    return SamConfig(vision_config={**vision, "initializer_range": 0.02})


def build_model(sam: str, *, is_tiny: bool = False, **settings: Any) -> ClipSamForAnomalySegmentation:
    """CLIP ViT-L/14 (or a tiny one) and a SAM, with random weights of which none is 0 that is not in real ones."""
    torch.manual_seed(0)
    clip = CLIPConfig(**(CLIP_TINY if is_tiny else CLIP_LARGE_336))
    layers = (1, 2, 3, 4) if is_tiny else (6, 12, 18, 24)
    settings = {"localizer": "vv", "feature_layers": layers, "max_region_fraction": 1.0, **settings}
    config = ClipSamConfig(clip_config=clip, sam_config=build_sam_config(sam), **settings)
    model = ClipSamForAnomalySegmentation(config).eval().requires_grad_(False)
    for name, parameter in model.sam.named_parameters():
        if "rel_pos" in name or name.endswith("pos_embed"):
            nn.init.normal_(parameter, std=0.02)
        elif parameter.ndim > 1 and name.startswith(("mask_decoder", "prompt_encoder")):
            nn.init.normal_(parameter, std=0.05)
    return model


def use_attention(model: ClipSamForAnomalySegmentation, kind: str) -> None:
    """Lets the library's forward passes use `"eager"` or `"sdpa"` from now on, with the same weights."""
    model.clip.set_attn_implementation(kind)
    model.sam.config.mask_decoder_config._attn_implementation = kind
    for layer in model.sam.vision_encoder.layers:
        layer.attn.__class__ = modeling_sam.SAM_VISION_ATTENTION_CLASSES[kind]


def clock(device: str) -> float:
    """Seconds of this process's CPU time, which other work on the machine hardly changes; of a GPU, wall time."""
    if device == "cpu":
        return time.process_time()
    torch.cuda.synchronize()
    return time.perf_counter()


def take_turns(
    ways: dict[str, Callable[[], Any]], repeats: int, device: str = "cpu"
) -> tuple[dict[str, float], dict[str, Any]]:
    """Runs each way once unmeasured and then `repeats` times, in turns: median seconds, and what each gave first."""
    answers = {name: way() for name, way in ways.items()} if device != "cpu" else {}
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(repeats):
        for name, way in ways.items():
            start = clock(device)
            answer = way()
            seconds[name].append(clock(device) - start)
            answers.setdefault(name, answer)
    return {name: statistics.median(each) for name, each in seconds.items()}, answers


def peak_above(way: Callable[[], Any], device: str = "cpu") -> float:
    """Megabytes that a call needs at most, above what is there before it; one call in a process of its own."""
    if device != "cpu":
        torch.cuda.reset_peak_memory_stats()
        allocated = torch.cuda.memory_allocated()
        way()
        return (torch.cuda.max_memory_allocated() - allocated) / 2**20
    # What is free already goes back to the system, or it would hide what the call takes; and the libraries' own code,
    # of which the call may be the first reader, is not what it needs
    ctypes.CDLL(None).malloc_trim(0)
    before, code = _read_status("VmRSS"), _read_status("RssFile")
    Path("/proc/self/clear_refs").write_text("5")  # from here on counts the peak
    way()
    return _read_status("VmHWM") - before - (_read_status("RssFile") - code)


def _read_status(name: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name)) / 1024


def print_table(header: list[str], rows: list[list[Any]]) -> None:
    """Markdown; numbers to three places."""
    print("| " + " | ".join(header) + " |\n|---|" + "---:|" * (len(header) - 1))
    for row in rows:
        print("| " + " | ".join(_write(cell) for cell in row) + " |", flush=True)


def _write(cell: Any) -> str:
    if not isinstance(cell, float):
        return str(cell)
    return f"{cell:.1e}" if 0 < abs(cell) < 1e-3 else f"{cell:.3g}" if abs(cell) < 100 else f"{cell:.0f}"
