# SPDX-FileCopyrightText: 2026 The clipsam_hf authors
# SPDX-License-Identifier: Apache-2.0
"""
Make `clipsam-small`: a DINOv2 as the vision tower, and what is trained on its frozen features.

    python recipes/clipsam_small/train_small.py vision --output_dir runs/small
    python recipes/clipsam_small/train_small.py scenes --output_dir runs/small --materials materials \
        --data_dir road --data_dir cookie --data_dir ball_screw

A stage that was interrupted goes on where it stopped when the same command is given again.
"""

import argparse
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from small_features import LAYERS, SceneCache, build_cache, compute_features
from small_sam import PIECES, RegionPrompts, SamScenes, build_sam, draw_pieces, encode, train_decoder
from small_sam import SETTINGS as SAM_SETTINGS
from small_scenes import DAMAGED_BY_NATURE, Surfaces, draw_scenes, read_photographs
from small_text import LockedContrast, TextSettings, build_clip, train_text
from small_umci import (
    UmciBatches,
    UmciSettings,
    build_model,
    build_processor,
    find_novelty_scale,
    raise_maps,
    train_head,
)
from small_vision import to_clip_vision
from small_wheel import load_dinov2
from small_words import Teacher, build_tokenizer, common_words, find_teacher, product_names
from transformers import CLIPModel, CLIPTokenizer, CLIPVisionModel, SamModel
from transformers.utils import SAFE_WEIGHTS_NAME

from clipsam_hf import EMBEDDED_CHECKPOINT
from clipsam_hf.data import AnomalyFolder
from clipsam_hf.modeling_clipsam import ClipSamForAnomalySegmentation
from clipsam_hf.training.calibration import calibrate


__all__ = ["NUM_LAYERS", "main"]

TOWERS = ("clip.", "sam.vision_encoder.")
STAGES = ("vision", "scenes", "photographs", "text", "outlines", "sam", "umci")
PIECES_OF_EACH = 2
"""So many random pieces of a photograph are shown to UMCI beside the whole."""
NUM_LAYERS = 9
"""Blocks of the tower that are sound: its fine-tuning for saliency collapsed the last ones."""


def build_vision(folder: Path) -> None:
    """Convert the wheel's tower and save it."""
    to_clip_vision(load_dinov2(), num_layers=NUM_LAYERS).save_pretrained(folder)


def build_features(arguments: argparse.Namespace) -> None:
    """Compute the tower's features of generated scenes, or of whole photographs."""
    folder, size = arguments.output_dir, arguments.size
    vision = CLIPVisionModel.from_pretrained(folder / "vision").eval()
    compute, layers = partial(compute_features, vision, layers=LAYERS), {"layers": list(LAYERS)}
    if arguments.stage == "scenes":
        surfaces = Surfaces(arguments.materials, arguments.data_dir)
        names = sorted(set(surfaces.class_names))

        def draw(first: int, count: int) -> Any:
            return draw_scenes(surfaces, seed=arguments.seed, first=first, count=count, size=size)

        about = {"seed": arguments.seed, "size": size, "names": names, **layers}
        build_cache(folder / "scenes", compute, draw, arguments.num_scenes, about=about)
        return
    for root in arguments.data_dir:
        data, about = AnomalyFolder(root, split=None), {"size": size, "name": root.name, **layers}
        read = partial(read_photographs, data, size=size)
        build_cache(folder / "photographs" / root.name, compute, read, len(data), about=about)
        read, about = partial(read, seed=arguments.seed), {**about, "seed": arguments.seed}
        build_cache(folder / "pieces" / root.name, compute, read, PIECES_OF_EACH * len(data), about=about)


def read_words(folder: Path) -> tuple[list[str], torch.Tensor]:
    """Return common words and what the teacher makes of them, which is computed once."""
    words, path = common_words(find_teacher()), folder / "words.safetensors"
    if not path.exists():
        teacher = Teacher(find_teacher())
        parts = [teacher.embed(words[start : start + 256]) for start in range(0, len(words), 256)]
        save_file({"embeds": torch.cat(parts).half()}, path)
    return words, load_file(path)["embeds"]


def read_names(materials: Path) -> list[str]:
    """Return what photographs may be said to show."""
    families = sorted(path.name for path in materials.iterdir() if path.is_dir())
    return product_names([family for family in families if family not in DAMAGED_BY_NATURE])


def read_features(
    folder: Path, leave_out: Sequence[str], blocks: slice = slice(None)
) -> tuple[SceneCache, dict[str, SceneCache]]:
    """Return the cached scenes, and the whole photographs by set, without some of the sets."""
    photographs = {path.name: SceneCache(path) for path in sorted((folder / "photographs").iterdir())}
    if unknown := set(leave_out) - set(photographs):
        raise ValueError(f"No set {sorted(unknown)} to leave out; there are {sorted(photographs)}.")
    hidden = {word for name in leave_out for word in photographs.pop(name).words}
    return SceneCache(folder / "scenes", leave_out=sorted(hidden), blocks=blocks), photographs


def read_shown(folder: Path, photographs: dict[str, SceneCache], settings: UmciSettings) -> list[SceneCache]:
    """Return what UMCI is shown of photographs: the whole ones and, by the settings, pieces of the same sets."""
    pieces = [SceneCache(folder / "pieces" / name) for name in photographs] if settings.pieces else []
    return [*photographs.values(), *pieces]


def tune_text(arguments: argparse.Namespace) -> None:
    """Train the text tower against the locked vision tower, and save both as a CLIP with its tokenizer."""
    folder, settings = arguments.output_dir, TextSettings()
    words, names = read_words(folder), read_names(arguments.materials)
    tokenizer = build_tokenizer(names, words[0])
    clip = build_clip(CLIPVisionModel.from_pretrained(folder / "vision"), tokenizer, settings, seed=arguments.seed)
    scenes, _ = read_features(folder, arguments.leave_out, blocks=slice(len(LAYERS) - 1, None))
    loss = LockedContrast(clip, tokenizer, scenes, names, words, settings, arguments.seed)
    run = folder / arguments.run
    train_text(clip, loss, settings, run / "text_state.safetensors")
    clip.save_pretrained(run / "clip")
    tokenizer.save_pretrained(run / "clip")


def first_sam(seed: int) -> SamModel:
    """Return SAM before training."""
    tiny = ClipSamForAnomalySegmentation.from_pretrained(EMBEDDED_CHECKPOINT).sam
    return build_sam(load_dinov2(), tiny, SAM_SETTINGS, seed=seed)


def build_outlines(arguments: argparse.Namespace) -> None:
    """Compute what SAM's encoder makes of generated scenes, and of photographs and their pieces."""
    folder, size = arguments.output_dir / "sam_features", SAM_SETTINGS.image_size
    encoder = first_sam(arguments.seed).eval().vision_encoder
    layers = {"layers": SAM_SETTINGS.num_layers, "window": SAM_SETTINGS.window_size, "size": size}
    about = {"seed": arguments.seed, "fast": arguments.fast, "global": list(SAM_SETTINGS.global_layers), **layers}
    scenes = SamScenes(arguments.materials, seed=arguments.seed, size=size)
    compute = partial(encode, encoder, fast=arguments.fast)
    build_cache(folder / "scenes", compute, scenes.draw, arguments.num_scenes, about=about)
    for root in arguments.data_dir:
        data = AnomalyFolder(root, split=None)
        draw = partial(draw_pieces, data, seed=arguments.seed, size=size)
        build_cache(
            folder / "photographs" / root.name, compute, draw, PIECES * len(data), about={**about, "name": root.name}
        )


def outline(arguments: argparse.Namespace) -> None:
    """Train SAM's decoder on what its encoder makes of scenes and photographs."""
    folder = arguments.output_dir
    scenes, photographs = read_features(folder / "sam_features", arguments.leave_out)
    sam = first_sam(arguments.seed)
    loss = RegionPrompts(sam, scenes, list(photographs.values()), SAM_SETTINGS, arguments.seed)
    run = folder / arguments.run
    train_decoder(sam, loss, SAM_SETTINGS, run / "sam_state.pt", fast=arguments.fast)
    sam.save_pretrained(run / "sam")


def train_head_of(arguments: argparse.Namespace) -> None:
    """
    Train UMCI, and save the model with the SAM of the embedded checkpoint.

    Thresholds are chosen on whole photographs of the sets that it was shown.
    """
    folder, settings = arguments.output_dir, UmciSettings()
    run = folder / arguments.run
    clip, tokenizer = CLIPModel.from_pretrained(run / "clip"), CLIPTokenizer.from_pretrained(run / "clip")
    sam = ClipSamForAnomalySegmentation.from_pretrained(EMBEDDED_CHECKPOINT).sam
    torch.manual_seed(arguments.seed)
    model = build_model(clip, sam, settings, auxiliary_seed=arguments.seed)
    round_towers(model)
    scenes, photographs = read_features(folder, arguments.leave_out)
    samples = [
        sample for root in arguments.data_dir if root.name in photographs for sample in AnomalyFolder(root, split=None)
    ]
    if not samples:
        raise ValueError(f"Thresholds are chosen on whole photographs: give --data_dir, of {sorted(photographs)}.")
    names = read_names(arguments.materials)
    shown = read_shown(folder, photographs, settings)
    batches = UmciBatches(clip, tokenizer, scenes, shown, names, settings, arguments.seed)
    train_head(model, batches, settings, run / "umci")
    model.config.auxiliary_dataset = " + ".join(["generated images", *photographs])
    vision: Any = sam.config.vision_config
    processor = build_processor(tokenizer, clip_size=settings.image_size, sam_size=vision.image_size)
    rough = calibrate(model, processor, samples, refine=False)
    raise_maps(model, batches.bank, rough.binarize_threshold)
    model.config.flip_average = settings.flip_average
    model.config.novelty_weight = settings.novelty_weight
    model.config.novelty_scale = find_novelty_scale(list(photographs.values()))
    # Its SAM has seen pieces of these photographs, and would be trusted too much
    final = calibrate(model, processor, samples, refine_weights=[settings.refine_weight])
    print(rough, final, sep="\n", flush=True)
    # What texts alone say of an image is no verdict: `clipsam calibrate` makes one from good photographs
    model.config.decision_threshold = None
    model.save_pretrained(run / "clipsam-small")
    processor.save_pretrained(run / "clipsam-small")
    halve_towers(run / "clipsam-small" / SAFE_WEIGHTS_NAME)


@torch.no_grad()
def round_towers(model: ClipSamForAnomalySegmentation) -> None:
    """Give a model the weights that it will have when it is loaded again, see [`halve_towers`]."""
    for name, parameter in model.named_parameters():
        if name.startswith(TOWERS):
            parameter.copy_(parameter.half())


def halve_towers(path: Path) -> None:
    """
    Keep the towers in float16 in a file of weights; they are loaded as the configuration says, in float32.

    They are nearly all of the file.
    """
    tensors = load_file(path)
    halved = {name: each.half() if name.startswith(TOWERS) else each for name, each in tensors.items()}
    save_file(halved, path, {"format": "pt"})


def parse_args(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stage", choices=STAGES)
    parser.add_argument("--output_dir", type=Path, required=True, help="folder of the stages' states and results")
    parser.add_argument("--materials", type=Path, help="folder of photographs of surfaces, a folder each family")
    parser.add_argument("--data_dir", type=Path, action="append", default=[], help="a data set; may be repeated")
    parser.add_argument("--run", default="run", help="folder below it of a text tower, a head and their checkpoint")
    parser.add_argument("--leave_out", action="append", default=[], help="name of a set that is not shown")
    parser.add_argument("--num_scenes", type=int, default=2048)
    parser.add_argument("--size", type=int, default=224, help="side of the scenes in pixels")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--num_threads", type=int, default=1)
    parser.add_argument("--fast", action="store_true", help="SAM in bfloat16, where a processor multiplies it")
    return parser.parse_args(arguments)


def main() -> None:
    """Run the chosen stage."""
    arguments = parse_args()
    torch.set_num_threads(arguments.num_threads)
    folder = arguments.output_dir
    if arguments.stage == "vision":
        build_vision(folder / "vision")
    if arguments.stage in ("scenes", "photographs"):
        build_features(arguments)
    if arguments.stage == "text":
        tune_text(arguments)
    if arguments.stage == "outlines":
        build_outlines(arguments)
    if arguments.stage == "sam":
        outline(arguments)
    if arguments.stage == "umci":
        train_head_of(arguments)


if __name__ == "__main__":
    main()
