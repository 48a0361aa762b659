# SPDX-FileCopyrightText: 2026 The clipsam_hf authors
# SPDX-License-Identifier: Apache-2.0
"""The package against a plain composition of the library's classes (N, naive.py) and a good one (C, competent.py).

CLIP ViT-L/14 at 518 px and SAM with random weights, three ways with the same weights in turns. On a CPU it is CPU time
on one thread that is compared, so that other work on the machine disturbs little. Memory is the peak above the
weights, each way in a process of its own. `--tiny` tries the benchmark itself in seconds.

    python benchmarks/bench_speed.py [--parts encoder decoder text image empty memory] [--sam base] [--repeats 5]
"""

import argparse
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import competent
import full_size
import naive
import torch
from torch import Tensor

from clipsam_hf import EMBEDDED_CHECKPOINT, ClipSamForAnomalySegmentation, ClipSamProcessor
from clipsam_hf.inference_clipsam import ClipSamInference
from clipsam_hf.refinement_clipsam import merge_masks
from clipsam_hf.regions_clipsam import Frame, SamPrompts


PARTS = ("encoder", "decoder", "text", "image", "empty", "memory")
HEADER = ["what", "N, s", "C, s", "ours, s", "N / ours", "C / ours", "largest error", "spread of the values"]
FRAME = Frame((768, 1024), 1024)


def main() -> None:
    """Measure what is asked for, and print a table of each part."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--sam", choices=full_size.SAM_SIZES, default="base", help="size of SAM's encoder")
    parser.add_argument("--repeats", type=int, default=5, help="of each way, in turns")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--prompts", type=int, nargs="+", default=[20, 60], help="of the part decoder")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16", "float16"))
    parser.add_argument("--tiny", action="store_true", help="a tiny CLIP and a tiny SAM")
    parser.add_argument("--peak-of", nargs=2, metavar=("PART", "WAY"), help="print the megabytes of one way, and stop")
    options = parser.parse_args()
    options.sam = "tiny" if options.tiny else options.sam
    torch.set_num_threads(options.threads)
    with torch.no_grad():
        if options.peak_of:
            part, way = options.peak_of
            ways = {"encoder": encoder_ways, "decoder": decoder_ways}[part](build(options), options)
            print(full_size.peak_above(ways[way], options.device))
            return
        print(f"torch {torch.__version__}, {options.device}, {options.dtype}, {options.threads} thread(s),", end=" ")
        print(f"SAM {options.sam}, medians of {options.repeats}\n")
        for part in options.parts:
            full_size.print_table(*globals()[f"measure_{part}"](options))
            print(flush=True)


def build(options: argparse.Namespace, **settings: Any) -> ClipSamForAnomalySegmentation:
    """The networks, where and how they are to run."""
    # Without settings CLIP is not run, and need not be large
    model = full_size.build_model(options.sam, is_tiny=options.tiny or not settings, **settings)
    return model.to(options.device, getattr(torch, options.dtype))


def three_ways(
    model: ClipSamForAnomalySegmentation, plain: Callable[[], Any], good: Callable[[], Any], own: Callable[[], Any]
) -> dict[str, Callable[[], Any]]:
    """N in eager attention, C and ours in sdpa."""

    def with_attention(kind: str, way: Callable[[], Any]) -> Callable[[], Any]:
        def run() -> Any:
            full_size.use_attention(model, kind)
            return way()

        return run

    return {
        "N": with_attention("eager", plain),
        "C": with_attention("sdpa", good),
        "ours": with_attention("sdpa", own),
    }


def compare(what: str, ways: dict[str, Callable[[], Any]], options: argparse.Namespace, expected: Any = None) -> Any:
    """A row of the table; the error is against N, or against what is expected."""
    seconds, answers = full_size.take_turns(ways, options.repeats, options.device)
    first = [each[0] if isinstance(each, tuple) else each for each in (answers["ours"], answers["N"])]
    reference = first[1] if expected is None else expected
    error = float((first[0].float() - reference.float()).abs().max())
    ratios = [seconds[name] / seconds["ours"] for name in ("N", "C")]
    return [what, *(seconds[name] for name in ("N", "C", "ours")), *ratios, error, float(reference.float().std())]


def encoder_ways(model: ClipSamForAnomalySegmentation, options: argparse.Namespace) -> dict[str, Callable[[], Any]]:
    """SAM's encoder on one photograph."""
    pixels = torch.randn(1, 3, 1024, 1024, generator=torch.Generator().manual_seed(0)).to(model.sam.device)
    library = lambda: model.sam.get_image_embeddings(pixels.to(model.sam.dtype))  # noqa: E731
    return three_ways(model, library, library, lambda: model.get_image_embeddings(pixels))


def measure_encoder(options: argparse.Namespace) -> tuple[list[str], list[list[Any]]]:
    """Target 2: N is eager, C is sdpa."""
    return HEADER, [compare(f"SAM {options.sam} encoder", encoder_ways(build(options), options), options)]


def draw_prompts(count: int) -> SamPrompts:
    """Boxes, with five points each."""
    generator = torch.Generator().manual_seed(0)
    corners = torch.rand(count, 2, 2, generator=generator) * torch.tensor([500.0, 370.0])
    points = corners[:, :1] + corners[:, 1:] * torch.rand(count, 5, 2, generator=generator)
    boxes = torch.cat([corners[:, 0], corners.sum(dim=1)], dim=1)
    return SamPrompts(boxes, points, torch.ones(count, 5, dtype=torch.long))


def decoder_ways(
    model: ClipSamForAnomalySegmentation, options: argparse.Namespace, count: int = 60
) -> dict[str, Callable[[], Any]]:
    """SAM's decoder and the merge of its masks; both give the map first and then the masks."""
    prompts = SamPrompts(*(each.to(model.device) for each in draw_prompts(count)))
    embeddings = torch.randn(1, 256, 64, 64, generator=torch.Generator().manual_seed(1)).to(model.device, model.dtype)
    rough = torch.rand(518, 518, generator=torch.Generator().manual_seed(2)).to(model.device)
    peaks = [0.5 + 0.5 * index / count for index in range(count)]

    def plain() -> tuple[Tensor, ...]:
        masks, scores = naive.decode(model, embeddings, prompts)
        return naive.merge(rough, masks.float(), scores.float(), FRAME, peaks, 0.5), masks, scores

    def own() -> tuple[Tensor, ...]:
        masks, scores = model.refiner.decode(model.sam, (embeddings,), prompts, multimask_output=True, chunk=None)
        return merge_masks(rough, masks, scores, FRAME, region_peaks=peaks), masks, scores

    return three_ways(model, plain, plain, own)


def measure_decoder(options: argparse.Namespace) -> tuple[list[str], list[list[Any]]]:
    """Target 4. N and C differ in attention alone; the error is against their masks, merged as ours are."""
    model, rows = build(options), []
    for count in options.prompts:
        ways = decoder_ways(model, options, count)
        rough_map, masks, scores = ways["N"]()
        peaks = [0.5 + 0.5 * index / count for index in range(count)]
        rough = torch.rand(518, 518, generator=torch.Generator().manual_seed(2)).to(model.device)
        expected = merge_masks(rough, masks, scores, FRAME, region_peaks=peaks)
        rows.append(compare(f"decoder and fusion, {count} prompts", ways, options, expected))
        at_size = float((expected - rough_map).abs().max())
        print(f"{count} prompts: merging at the masks' resolution changes the map by {at_size:.1e}", file=sys.stderr)
    return HEADER, rows


def measure_text(options: argparse.Namespace) -> tuple[list[str], list[list[Any]]]:
    """Target 5: one class's 28 sentences of 14 tokens; N and C pad to 77, C in sdpa; then the kept embedding."""
    model = build(options, feature_layers=[1])
    generator = torch.Generator().manual_seed(0)
    ids = torch.zeros(1, 2, 14, 77, dtype=torch.long)
    ids[..., :14] = torch.randint(3, 49000, (1, 2, 14, 14), generator=generator)
    ids[..., 13] = 49407
    mask = (ids > 0).long()
    ids, mask = ids.to(options.device), mask.to(options.device)
    plain = lambda: naive.embed_texts(model, ids[0], mask[0])  # noqa: E731
    ways = three_ways(model, plain, plain, lambda: model.get_text_embeddings(ids, mask))
    row = compare("28 sentences", ways, options)
    return HEADER, [row, look_up(model, row, options)]


def look_up(model: ClipSamForAnomalySegmentation, encoding: list[Any], options: argparse.Namespace) -> list[Any]:
    """A row of the kept embedding, as the pipeline takes it; N and C encode the sentences again."""
    texts = ClipSamInference(model, ClipSamProcessor.from_pretrained(EMBEDDED_CHECKPOINT))
    first, times = texts.embed("candle"), 100
    ways = {"ours": lambda: [texts.embed("candle") for _ in range(times)]}
    seconds, answers = full_size.take_turns(ways, options.repeats, options.device)
    own = seconds["ours"] / times
    again = encoding[1:3]
    error = float((answers["ours"][-1].float() - first.float()).abs().max())
    ratios = [each / own for each in again]
    return ["the kept embedding, N and C encode again", *again, own, *ratios, error, float(first.float().std())]


def sample_inputs(model: ClipSamForAnomalySegmentation) -> dict[str, Tensor]:
    """A photograph of noise and the sentences of its class."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.zeros(1, 2, 14, 77, dtype=torch.long)
    ids[..., :14] = torch.randint(3, 49000, (1, 2, 14, 14), generator=generator)
    ids[..., 13] = 49407
    inputs = {
        "pixel_values": torch.randn(1, 3, 518, 518, generator=generator).to(model.dtype),
        "sam_pixel_values": torch.randn(1, 3, 1024, 1024, generator=generator).to(model.dtype),
        "reshaped_input_sizes": torch.tensor([[768, 1024]]),
        "input_ids": ids,
        "attention_mask": (ids > 0).long(),
    }
    return {name: value.to(model.device) for name, value in inputs.items()}


def photograph_ways(model: ClipSamForAnomalySegmentation, inputs: dict[str, Tensor]) -> dict[str, Callable[[], Any]]:
    """The whole way of one photograph; C and ours keep the texts' embeddings."""
    kept = model.get_text_embeddings(inputs["input_ids"], inputs["attention_mask"])
    images = {name: value for name, value in inputs.items() if name not in ("input_ids", "attention_mask")}
    return three_ways(
        model,
        lambda: naive.predict(model, inputs),
        lambda: competent.predict(model, inputs, kept),
        lambda: model(**images, text_embeds=kept).anomaly_map[0],
    )


def measure_image(options: argparse.Namespace) -> tuple[list[str], list[list[Any]]]:
    """Target 1: a photograph with 20 regions, everything included."""
    model = build(options, max_regions=20, min_region_fraction=0.0)
    inputs = sample_inputs(model)
    kept = model.get_text_embeddings(inputs["input_ids"], inputs["attention_mask"])
    rough = naive.locate(model, inputs["pixel_values"], kept)
    model.config.binarize_threshold = float(rough.quantile(0.9))
    ways = photograph_ways(model, inputs)
    model.refiner.rearranged = False
    refined = model.refine(
        rough[None],
        image_embeddings=(model.sam.get_image_embeddings(inputs["sam_pixel_values"]),),
        reshaped_input_sizes=inputs["reshaped_input_sizes"],
    )[0]
    model.refiner.rearranged = True
    what = f"a photograph, {len(refined.iou_scores)} regions, SAM {options.sam}"
    return HEADER, [compare(what, ways, options, refined.anomaly_map)]


def measure_empty(options: argparse.Namespace) -> tuple[list[str], list[list[Any]]]:
    """Target 6: a photograph in which nothing stands out; N runs SAM's encoder all the same."""
    model = build(options, binarize_threshold=1.0)
    return HEADER, [compare(f"no region, SAM {options.sam}", photograph_ways(model, sample_inputs(model)), options)]


def measure_memory(options: argparse.Namespace) -> tuple[list[str], list[list[Any]]]:
    """Targets 3 and 4: peaks above the weights, each in a process of its own."""
    rows = []
    for part in ("encoder", "decoder"):
        peaks = {}
        for way in ("N", "C", "ours"):
            command = [sys.executable, __file__, "--peak-of", part, way, "--sam", options.sam]
            command += ["--device", options.device, "--dtype", options.dtype, "--threads", str(options.threads)]
            answer = subprocess.run(
                command + ["--tiny"] * options.tiny, check=True, capture_output=True, text=True
            ).stdout
            peaks[way] = float(answer)
        what = f"SAM {options.sam} encoder" if part == "encoder" else "decoder and fusion, 60 prompts"
        rows.append([what, *peaks.values(), peaks["N"] / peaks["ours"], peaks["C"] / peaks["ours"]])
    return ["what", "N, MB", "C, MB", "ours, MB", "N / ours", "C / ours"], rows


if __name__ == "__main__":
    main()
