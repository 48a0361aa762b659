# SPDX-FileCopyrightText: 2026 The clipsam_hf authors
# SPDX-License-Identifier: Apache-2.0
"""float32 against bfloat16, int8 and a compiled tower: time of a photograph, and how far its map moves.

CLIP ViT-L/14 at 518 px with `vv`, and SAM's encoder, with random weights; `--checkpoint` takes trained ones, whose
maps mean something, and the photograph of the demo. int8 is dynamic quantisation of the linear layers; only the tower
is compiled, and "pays from" is the number of photographs that its compilation takes to come back. On a CPU it is CPU
time that is compared (of the compilation, wall time, since compilers are processes of their own). `--tiny` tries the
benchmark itself.

    python benchmarks/bench_precision.py [--parts clip sam] [--sam base] [--repeats 3] [--checkpoint NAME]
"""

import argparse
import copy
import math
import os
import tempfile
import time
import warnings
from collections.abc import Callable
from typing import Any

import full_size
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clipsam_hf import ClipSamForAnomalySegmentation, ClipSamProcessor
from clipsam_hf.demo import draw_crack, sample_photograph


HEADER = ["what", "s", "float32 / this", "mean error of the map", "largest error", "spread of its values", "pays from"]


def main() -> None:
    """Measure what is asked for, and print one table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=("clip", "sam"), default=("clip", "sam"))
    parser.add_argument("--sam", choices=full_size.SAM_SIZES, default="base", help="size of SAM's encoder")
    parser.add_argument("--checkpoint", help="folder or repository, instead of random weights")
    parser.add_argument("--repeats", type=int, default=3, help="of each way, in turns")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--tiny", action="store_true", help="a tiny CLIP and a tiny SAM")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    warnings.filterwarnings("ignore", message="(?s).*deprecated")  # what quantises will move to another package
    model, inputs = build(options)
    native = "in hardware" if multiplies_bfloat16(options.device) else "emulated"
    print(f"torch {torch.__version__}, {options.device}, {options.threads} thread(s), bfloat16 {native}\n")
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        # Of no earlier compilation
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = folder
        rough = model(pixel_values=inputs["pixel_values"], text_embeds=inputs["text_embeds"]).rough_anomaly_map
        if not options.checkpoint:
            model.config.binarize_threshold = float(rough.quantile(0.9))  # noise has regions too
        rows = []
        if "clip" in options.parts:
            rows += measure_clip(model, inputs, rough, options)
        if "sam" in options.parts:
            rows += measure_sam(model, inputs, rough, options)
    full_size.print_table(HEADER, rows)


def multiplies_bfloat16(device: str) -> bool:
    """Asks the hardware: elsewhere bfloat16 is made of float32, and slower than that."""
    if device != "cpu":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    found = torch.cpu.get_capabilities()
    return any(found.get(name, False) for name in ("amx_bf16", "avx512_bf16", "bf16"))


def build(options: argparse.Namespace) -> tuple[ClipSamForAnomalySegmentation, dict[str, Tensor]]:
    """The networks in float32, and a photograph and its class for them."""
    if options.checkpoint:
        model = ClipSamForAnomalySegmentation.from_pretrained(options.checkpoint).eval().to(options.device)
        processor = ClipSamProcessor.from_pretrained(options.checkpoint)
        photograph = draw_crack(sample_photograph())[0]
        inputs = dict(processor(images=photograph, text="brick pavement", return_tensors="pt").to(options.device))
        inputs["text_embeds"] = model.get_text_embeddings(inputs["input_ids"], inputs["attention_mask"])
        return model, inputs
    size = "tiny" if options.tiny else options.sam
    model = full_size.build_model(size, is_tiny=options.tiny).to(options.device)
    generator = torch.Generator().manual_seed(0)
    inputs = {
        "pixel_values": torch.randn(1, 3, 518, 518, generator=generator),
        "sam_pixel_values": torch.randn(1, 3, 1024, 1024, generator=generator),
        "reshaped_input_sizes": torch.tensor([[768, 1024]]),
        "text_embeds": F.normalize(
            torch.randn(1, 2, model.config.clip_config.projection_dim, generator=generator), dim=-1
        ),
    }
    return model, {name: value.to(options.device) for name, value in inputs.items()}


def in_int8(network: nn.Module) -> nn.Module:
    """A copy of a network with its linear layers in int8; a CPU's."""
    return torch.ao.quantization.quantize_dynamic(network, {nn.Linear}, dtype=torch.qint8)


def measure_clip(
    model: ClipSamForAnomalySegmentation, inputs: dict[str, Tensor], rough: Tensor, options: argparse.Namespace
) -> list[list[Any]]:
    """The rough map, CLIP's tower in each precision."""
    towers: dict[str, Any] = {"float32": model.clip, "bfloat16": copy.deepcopy(model.clip).bfloat16()}
    if options.device == "cpu":
        towers["int8"] = copy.deepcopy(model.clip)
        towers["int8"].vision_model = in_int8(model.clip.vision_model)
    towers["compiled"] = copy.deepcopy(model.clip)

    def way(tower: Any) -> Callable[[], Tensor]:
        def run() -> Tensor:
            model.clip = tower
            pixels = inputs["pixel_values"].to(tower.logit_scale.dtype)
            return model(pixel_values=pixels, text_embeds=inputs["text_embeds"]).rough_anomaly_map

        return run

    ways = {name: way(tower) for name, tower in towers.items()}
    towers["compiled"].vision_model.compile()
    start = time.perf_counter()
    ways["compiled"]()
    first = time.perf_counter() - start
    rows = compare("CLIP and its map", ways, rough, options)
    model.clip = towers["float32"]
    # The first call also computed a map
    saved, compilation = rows[0][1] - rows[-1][1], first - rows[-1][1]
    rows[-1][-1] = f"{math.ceil(compilation / saved)} (compiled in {compilation:.0f} s)" if saved > 0 else "never"
    return rows


def measure_sam(
    model: ClipSamForAnomalySegmentation, inputs: dict[str, Tensor], rough: Tensor, options: argparse.Namespace
) -> list[list[Any]]:
    """SAM's encoder in each precision, and the map that a decoder in float32 makes of it."""
    networks: dict[str, Any] = {"float32": model.sam, "bfloat16": copy.deepcopy(model.sam).bfloat16()}
    if options.device == "cpu":
        networks["int8"] = copy.deepcopy(model.sam)
        networks["int8"].vision_encoder = in_int8(model.sam.vision_encoder)

    def way(network: Any) -> Callable[[], Tensor]:
        def run() -> Tensor:
            model.sam = network
            return model.get_image_embeddings(inputs["sam_pixel_values"])[0].float()

        return run

    def refined(embeddings: Tensor) -> Tensor:
        model.sam = networks["float32"]
        sizes = inputs["reshaped_input_sizes"]
        return model.refine(rough, image_embeddings=(embeddings,), reshaped_input_sizes=sizes)[0].anomaly_map

    ways = {name: way(network) for name, network in networks.items()}
    return compare("SAM's encoder", ways, refined(ways["float32"]()), options, refined)


def compare(
    what: str,
    ways: dict[str, Callable[[], Tensor]],
    expected: Tensor,
    options: argparse.Namespace,
    to_map: Callable[[Tensor], Tensor] = torch.clone,
) -> list[list[Any]]:
    """A row of each way; the errors are against the map that is expected."""
    seconds, answers = full_size.take_turns(ways, options.repeats, options.device)
    rows = []
    for name, answer in answers.items():
        errors = (to_map(answer).float() - expected).abs()
        ratio = seconds["float32"] / seconds[name]
        spread = float(expected.std())
        rows.append([f"{what}, {name}", seconds[name], ratio, float(errors.mean()), float(errors.max()), spread, ""])
    return rows


if __name__ == "__main__":
    main()
