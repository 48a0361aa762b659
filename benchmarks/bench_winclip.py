# SPDX-FileCopyrightText: 2026 The clipsam_hf authors
# SPDX-License-Identifier: Apache-2.0
"""Our `windows` against anomalib's WinCLIP without references, on the same photographs with the same random weights.

CLIP ViT-B/16+ at 240 px, which is anomalib's, windows of 2 x 2 and 3 x 3 patches at every place, texts embedded
beforehand. CPU time on one thread, in turns; memory is the peak above the weights, each in a process of its own. The
maps are compared as anomalib makes them, probabilities of patches brought to the photograph's size, and as our model
makes them, which brings the logits there. It needs `pip install "anomalib[clip]"`. `--tiny` tries the
benchmark itself.

    python benchmarks/bench_winclip.py [--repeats 5] [--batch-size 1]
"""

import argparse
import subprocess
import sys
from typing import Any

import full_size
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import CLIPConfig

from clipsam_hf import ClipSamConfig, ClipSamForAnomalySegmentation


SIDE = 240
TEMPERATURE = 0.07
VIT_B_16_PLUS = {
    "projection_dim": 640,
    "text_config": {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2},
    "vision_config": {
        "hidden_size": 896, "intermediate_size": 3584, "num_hidden_layers": 12, "num_attention_heads": 14,
        "image_size": SIDE, "patch_size": 16, "hidden_act": "gelu",
    },
}  # fmt: skip
WINDOWS = {"tiny": (2,), "full": (2, 3)}


def main() -> None:
    """Compare both, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5, help="of each, in turns")
    parser.add_argument("--batch-size", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--tiny", action="store_true", help="windows of 2 x 2 alone")
    parser.add_argument("--peak-of", choices=("anomalib", "ours"), help="print the megabytes of one, and stop")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randn(options.batch_size, 3, SIDE, SIDE, generator=generator)
    texts = F.normalize(torch.randn(1, 2, 640, generator=generator), dim=-1)
    sizes = WINDOWS["tiny" if options.tiny else "full"]
    model = build(sizes)
    peer = build_peer(model, texts, sizes)
    ways = {"anomalib": lambda: peer(pixels), "ours": lambda: model(pixel_values=pixels, text_embeds=texts)}
    with torch.no_grad():
        if options.peak_of:
            print(full_size.peak_above(ways[options.peak_of]))
            return
        seconds, answers = full_size.take_turns(ways, options.repeats)
    command = [sys.executable, __file__, *sys.argv[1:], "--peak-of"]
    peaks = {
        name: float(subprocess.run([*command, name], check=True, capture_output=True, text=True).stdout)
        for name in ways
    }
    rows = [[name, seconds[name] / options.batch_size, peaks[name]] for name in ways]
    rows.append(["anomalib / ours", seconds["anomalib"] / seconds["ours"], peaks["anomalib"] / peaks["ours"]])
    full_size.print_table(["what", "CPU s a photograph", "MB above the weights"], rows)
    expected, own = answers["anomalib"].anomaly_map, answers["ours"]
    print(f"\nMaps: spread of anomalib's {expected.std():.1e}, largest difference", end=" ")
    print(f"{(as_anomalib(own.logits) - expected).abs().max():.1e} of probabilities brought to the size,", end=" ")
    print(f"{(own.rough_anomaly_map - expected).abs().max():.1e} as the model makes them.")


def build(sizes: tuple[int, ...]) -> ClipSamForAnomalySegmentation:
    """Ours, beside a SAM that is not run."""
    torch.manual_seed(0)
    config = ClipSamConfig(
        clip_config=CLIPConfig(**VIT_B_16_PLUS),
        sam_config=full_size.build_sam_config("tiny"),
        localizer="windows",
        feature_layers=(12,),
        image_size=SIDE,
        window_sizes=sizes,
        text_temperature=TEMPERATURE,
    )
    model = ClipSamForAnomalySegmentation(config).eval().requires_grad_(False)
    for parameter in model.clip.vision_model.parameters():
        if parameter.ndim > 1:
            nn.init.normal_(parameter, std=0.05)  # the default is so small that all windows look alike
    return model


def build_peer(model: ClipSamForAnomalySegmentation, texts: Tensor, sizes: tuple[int, ...]) -> Any:
    """anomalib's, with our weights."""
    try:
        from anomalib.models.image.winclip import torch_model
    except ImportError as error:
        raise ImportError('This benchmark needs `pip install "anomalib[clip]"`.') from error
    torch_model.PRETRAINED = None  # nothing is downloaded: the weights are ours
    peer = torch_model.WinClipModel(scales=sizes).eval()
    peer._text_embeddings = texts[0]
    vision = model.clip.vision_model
    weights = {
        "class_embedding": vision.embeddings.class_embedding,
        "positional_embedding": vision.embeddings.position_embedding.weight,
        "conv1.weight": vision.embeddings.patch_embedding.weight,
        "proj": model.clip.visual_projection.weight.T,
        **name_parameters("ln_pre", vision.pre_layrnorm),
        **name_parameters("ln_post", vision.post_layernorm),
    }
    for number, block in enumerate(vision.encoder.layers):
        prefix, attention = f"transformer.resblocks.{number}", block.self_attn
        for kind in ("weight", "bias"):
            parts = [getattr(each, kind) for each in (attention.q_proj, attention.k_proj, attention.v_proj)]
            weights[f"{prefix}.attn.in_proj_{kind}"] = torch.cat(parts)
        weights |= name_parameters(f"{prefix}.attn.out_proj", attention.out_proj)
        weights |= name_parameters(f"{prefix}.ln_1", block.layer_norm1)
        weights |= name_parameters(f"{prefix}.ln_2", block.layer_norm2)
        weights |= name_parameters(f"{prefix}.mlp.c_fc", block.mlp.fc1)
        weights |= name_parameters(f"{prefix}.mlp.c_proj", block.mlp.fc2)
    peer.clip.visual.load_state_dict(weights)
    return peer


def name_parameters(prefix: str, module: nn.Module) -> dict[str, Tensor]:
    """A module's parameters under another name."""
    return {f"{prefix}.{name}": parameter for name, parameter in module.named_parameters()}


def as_anomalib(logits: Tensor) -> Tensor:
    """Probabilities of the patches, brought to the photograph's size."""
    probabilities = logits[:, 0].softmax(dim=1)[:, 1:]  # (batch, 1, h, w)
    return F.interpolate(probabilities, size=(SIDE, SIDE), mode="bilinear")[:, 0]


if __name__ == "__main__":
    main()
