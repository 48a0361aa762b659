# SPDX-FileCopyrightText: 2026 The clipsam_hf authors
# SPDX-License-Identifier: Apache-2.0
"""Time, memory and exactness of an exported model beside torch: onnxruntime, its int8, and torch.compile.

Each run is a process of its own, which has nothing else in it; the contestants take turns. A run loads its model,
looks at one photograph to warm up and then at `--photographs` more, refined; its figures are the median CPU time of
these, the time until the first answer, and the peak of memory. Then the maps of `--data`, if it is given, are compared
with torch's, and with the ground truth.

    python benchmarks/bench_export.py [--model embedded] [--repeats 5] [--threads 1] [--data FOLDER ...]

`--model full` takes CLIP ViT-L/14 at 518 pixels and SAM ViT-B at 1024 with random weights, large enough that maps and
masks say something.
"""

import argparse
import importlib.util
import json
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image


CONTESTANTS = ("torch", "torch.compile", "onnxruntime", "onnxruntime, int8")


def build_full_size(folder: Path) -> None:
    """Save CLIP ViT-L/14 and SAM ViT-B with random weights; the tokenizer is that of the embedded checkpoint."""
    import torch
    from transformers import CLIPConfig, SamConfig

    from clipsam_hf import EMBEDDED_CHECKPOINT, ClipSamConfig, ClipSamForAnomalySegmentation, ClipSamProcessor

    processor = ClipSamProcessor.from_pretrained(EMBEDDED_CHECKPOINT)
    stored = json.loads((Path(EMBEDDED_CHECKPOINT) / "config.json").read_text())["clip_config"]["text_config"]
    text = {name: stored[name] for name in ("vocab_size", "bos_token_id", "eos_token_id", "pad_token_id")}
    vision = {
        "hidden_size": 1024,
        "intermediate_size": 4096,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
        "image_size": 336,
        "patch_size": 14,
    }
    config = ClipSamConfig(
        clip_config=CLIPConfig(text_config=text, vision_config=vision, projection_dim=768, initializer_factor=3.0),
        sam_config=SamConfig(vision_config={"initializer_range": 0.05}, initializer_range=0.1),
        localizer="vv",
        region_rule="relative",
        max_region_fraction=1.0,
    )
    torch.manual_seed(0)
    ClipSamForAnomalySegmentation(config).save_pretrained(folder)
    clip = processor.image_processor.to_dict() | {"size": {"height": 518, "width": 518}}
    sam = processor.sam_image_processor.to_dict()
    sam |= {"size": {"longest_edge": 1024}, "pad_size": {"height": 1024, "width": 1024}}
    processor.image_processor = type(processor.image_processor).from_dict(clip)
    processor.sam_image_processor = type(processor.sam_image_processor).from_dict(sam)
    processor.save_pretrained(folder)


def make_photographs(count: int) -> list[Image.Image]:
    """Photographs of something: large shapes of noise, of 900 x 1200 pixels, with a bright spot."""
    images = []
    for seed in range(count):
        coarse = np.random.default_rng(seed).integers(0, 256, (18, 24, 3), dtype=np.uint8)
        image = Image.fromarray(coarse).resize((1200, 900), Image.Resampling.BICUBIC)
        image.paste((255, 255, 255), (300 + 50 * seed, 200, 420 + 50 * seed, 320))
        images.append(image)
    return images


Predict = Callable[[Any, str, bool], tuple[float, np.ndarray]]


def open_torch(folder: Path, threads: int, compiled: bool) -> Predict:
    """The package's own way to an answer: the score and the map at the photograph's size."""
    import torch

    from clipsam_hf import ClipSamForAnomalySegmentation, ClipSamProcessor
    from clipsam_hf.inference_clipsam import ClipSamInference

    torch.set_num_threads(threads)
    model = ClipSamForAnomalySegmentation.from_pretrained(folder).eval()
    model.head_is_trained = True
    if compiled:
        for part in (model.clip.vision_model, model.sam.vision_encoder, getattr(model, "umci", None)):
            if part is not None:
                part.compile()
    inference = ClipSamInference(model, ClipSamProcessor.from_pretrained(folder))

    def predict(image: Any, name: str, refine: bool) -> tuple[float, np.ndarray]:
        (prediction,) = inference.predict([inference.prepare(image, name, refine=refine)])
        return prediction.pred_score, prediction.resized()

    return predict


def open_runner(folder: Path, threads: int) -> Predict:
    """The exported folder, by the runner that lies in it."""
    # As `from run import Runner`, of several folders in one process
    spec = importlib.util.spec_from_file_location("run", folder / "run.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    runner = module.Runner(folder, num_threads=threads)

    def predict(image: Any, name: str, refine: bool) -> tuple[float, np.ndarray]:
        result = runner.predict(image, name, refine=refine)
        return result.score, result.anomaly_map

    return predict


def open_contestant(name: str, folders: dict[str, str], threads: int) -> Predict:
    folder = Path(folders["torch" if name.startswith("torch") else name])
    if name.startswith("torch"):
        return open_torch(folder, threads, compiled=name == "torch.compile")
    return open_runner(folder, threads)


def run_once(name: str, folders: dict[str, str], threads: int, count: int, class_name: str) -> dict[str, float]:
    """What one process does; the photographs are made before its clock starts."""
    photographs, wall, cpu = make_photographs(count + 1), time.perf_counter(), time.process_time()
    predict = open_contestant(name, folders, threads)
    predict(photographs[0], class_name, True)
    first = {"first_s": time.perf_counter() - wall, "first_cpu_s": time.process_time() - cpu}
    seconds, seconds_rough = [], []
    for image in photographs[1:]:
        for refine, column in ((True, seconds), (False, seconds_rough)):
            start = time.process_time()
            predict(image, class_name, refine)
            column.append(time.process_time() - start)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {**first, "cpu_s": statistics.median(seconds), "rough_cpu_s": statistics.median(seconds_rough), "mb": peak}


def export_all(model: str, keep: Path, data: list[Path]) -> dict[str, str]:
    """Export the model, in float32 and in int8; the folder of each contestant."""
    from clipsam_hf import EMBEDDED_CHECKPOINT, ClipSamForAnomalySegmentation, ClipSamProcessor
    from clipsam_hf.data import AnomalyFolder
    from clipsam_hf.export import export_onnx
    from clipsam_hf.export.graphs import QUANTIZED, quantize_graph

    source = Path(EMBEDDED_CHECKPOINT)
    if model == "full":
        source = keep / "full"
        if not source.exists():
            build_full_size(source)
    names = ["object", *sorted({sample.class_name for folder in data for sample in AnomalyFolder(folder)})]
    folders = {"torch": str(source)}
    exact, small = keep / f"{model}-float32", keep / f"{model}-int8"
    if not exact.exists():
        network, start = ClipSamForAnomalySegmentation.from_pretrained(source).eval(), time.process_time()
        network.head_is_trained = True
        export_onnx(network, ClipSamProcessor.from_pretrained(source), exact, names)
        print(f"exported in {time.process_time() - start:.0f} CPU s", flush=True)
    if not small.exists():
        # What `int8=True` does, without exporting again
        start = time.process_time()
        shutil.copytree(exact, small)
        for graph in QUANTIZED:
            quantize_graph(small / f"{graph}.onnx")
        print(f"quantised in {time.process_time() - start:.0f} CPU s", flush=True)
    for name, folder in (("onnxruntime", exact), ("onnxruntime, int8", small)):
        folders[name] = str(folder)
        sizes = {path.name: path.stat().st_size / 2**20 for path in sorted(folder.glob("*.onnx*"))}
        print(f"{name}: " + ", ".join(f"{file} {size:.1f} MiB" for file, size in sizes.items()), flush=True)
    return folders


def measure(folders: dict[str, str], names: list[str], repeats: int, threads: int, count: int) -> None:
    """Let the contestants take turns, and print a table of their medians."""
    runs: dict[str, list[dict[str, float]]] = {name: [] for name in names}
    for _ in range(repeats):
        for name in names:
            asked = {"name": name, "folders": folders, "threads": threads, "count": count, "class_name": "object"}
            command = [sys.executable, __file__, "--run", json.dumps(asked)]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
            runs[name].append(json.loads(done.stdout.splitlines()[-1]))
    columns = {
        "cpu_s": "CPU s a photograph",
        "rough_cpu_s": "without SAM",
        "first_cpu_s": "CPU s to the first answer",
        "mb": "peak MB",
    }
    print("| runtime | " + " | ".join(columns.values()) + " | times the first | runs |")
    print("|---" * (len(columns) + 3) + "|")
    medians = {name: {key: statistics.median(run[key] for run in runs[name]) for key in columns} for name in runs}
    for name, found in medians.items():
        ratio = found["cpu_s"] / medians[names[0]]["cpu_s"]
        told = [f"{found[key]:.0f}" if key == "mb" else f"{found[key]:.3f}" for key in columns]
        print(f"| {name} | {' | '.join(told)} | {ratio:.2f} | {repeats} |", flush=True)


def compare_maps(folders: dict[str, str], data: list[Path], limit: int | None) -> None:
    """Print how far maps are from torch's, and what the ground truth says of them."""
    from clipsam_hf.data import AnomalyFolder
    from clipsam_hf.metrics import AnomalyMetrics

    figures = ("pixel_ap", "pixel_f1_max", "image_auroc")
    print(f"| set | maps | runtime | largest difference | pixels above 1e-4 | {' | '.join(figures)} |")
    print("|---" * (5 + len(figures)) + "|")
    predictors = {name: open_contestant(name, folders, 1) for name in CONTESTANTS if name != "torch.compile"}
    for folder in data:
        samples = list(AnomalyFolder(folder))
        samples = samples[:: max(1, len(samples) // (limit or len(samples)))]
        for refine in (False, True):
            metrics = {name: AnomalyMetrics(streaming=True) for name in predictors}
            largest, above, pixels = dict.fromkeys(predictors, 0.0), dict.fromkeys(predictors, 0), 0
            for sample in samples:
                image, mask, truth = sample.load_image(), sample.load_mask(), None
                for name, predict in predictors.items():
                    score, found = predict(image, sample.class_name, refine)
                    metrics[name].update(found, mask, folder.name, image_score=score)
                    truth = found if truth is None else truth
                    difference = np.abs(found - truth)
                    largest[name] = max(largest[name], float(difference.max()))
                    above[name] += int((difference > 1e-4).sum())
                pixels += mask.size
            for name in predictors:
                found = metrics[name].compute()["categories"][folder.name]
                told = " | ".join(f"{100 * found[figure]:.2f}" for figure in figures)
                mode, apart = "refined" if refine else "rough", f"{largest[name]:.1e} | {above[name] / pixels:.1e}"
                print(f"| {folder.name} | {mode} | {name} | {apart} | {told} |", flush=True)


def main() -> None:
    """Export, measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=("embedded", "full"), default="embedded")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--photographs", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--only", nargs="*", choices=CONTESTANTS, help="contestants; the first is compared with")
    parser.add_argument("--data", type=Path, nargs="*", default=[])
    parser.add_argument("--limit", type=int, help="about so many photographs of each set, evenly spread")
    parser.add_argument("--keep", type=Path, help="folder for the exports, taken from there if they are in it")
    parser.add_argument("--run", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.run:
        print(json.dumps(run_once(**json.loads(given.run))))
        return
    with tempfile.TemporaryDirectory() as temporary:
        folders = export_all(given.model, given.keep or Path(temporary), given.data)
        if given.repeats:
            measure(folders, given.only or list(CONTESTANTS), given.repeats, given.threads, given.photographs)
        if given.data:
            compare_maps(folders, given.data, given.limit)


if __name__ == "__main__":
    main()
