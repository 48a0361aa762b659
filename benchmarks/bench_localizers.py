# SPDX-FileCopyrightText: 2026 The clipsam_hf authors
# SPDX-License-Identifier: Apache-2.0
"""Time and memory per photograph of what needs no training, at full size with random weights.

CLIP ViT-L/14 at 518 px, four stages, neighbourhoods 1, 3 and 5. Each row is a process of its own: its median CPU time
over `--repeats` photographs, what it adds to CLIP's own forward pass in the same process, and the peak of memory above
the model's.

    python benchmarks/bench_localizers.py [--repeats 3] [--threads 1] [--references 8] [--others 32]
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import SamConfig

from clipsam_hf.configuration_clipsam import ClipSamConfig
from clipsam_hf.modeling_clipsam import ClipSamForAnomalySegmentation
from clipsam_hf.mutual_clipsam import MutualReferences
from clipsam_hf.patches_clipsam import Scale, average_neighbourhoods, describe_photographs
from clipsam_hf.references_clipsam import ClipSamReferences, ReferenceSettings


ROWS = {
    "similarity": {"localizer": "similarity"},
    "vv": {"localizer": "vv"},
    "vv, four stages": {"localizer": "vv", "vv_num_stages": 4},
    "windows, stride 2": {"localizer": "windows", "window_stride": 2},
    "windows, stride 1": {"localizer": "windows"},
    "references": {"localizer": "similarity"},
    "mutual": {"localizer": "similarity"},
}
"""What is measured, and the configuration of its model."""


def build_model(**settings: Any) -> ClipSamForAnomalySegmentation:
    """A full-size CLIP with random weights beside a SAM of no size: it is not run here."""
    small = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "output_channels": 32}
    sam = SamConfig(
        vision_config=small, prompt_encoder_config={"hidden_size": 32}, mask_decoder_config={"hidden_size": 32}
    )
    torch.manual_seed(0)
    return ClipSamForAnomalySegmentation(ClipSamConfig(sam_config=sam, **settings)).eval()


def build_memory(model: ClipSamForAnomalySegmentation, count: int) -> ClipSamReferences:
    """References with the patches of so many photographs of noise."""
    grid = model.config.token_grid_size
    maps = [torch.randn(count, 1024, grid, grid) for _ in model.config.feature_layers]
    memory = [each.flatten(0, 1).half() for each in average_neighbourhoods(maps, (1, 3, 5))]
    fingerprint = {"reference_neighbourhoods": (1, 3, 5), "reference_deviations": 3.0, "reference_text_weight": 0.0}
    settings = ReferenceSettings("object", fingerprint, ["noise"] * count, [(518, 518)] * count, 0.5, 0.1, ())
    return ClipSamReferences(memory, torch.zeros(len(memory[0]), dtype=torch.int32), settings)


def build_others(model: ClipSamForAnomalySegmentation, count: int, folder: Path) -> MutualReferences:
    """What mutual scoring compares with: so many photographs of noise, and one more."""
    from safetensors.torch import save_file

    grid = model.config.token_grid_size
    for place in range(count + 1):
        maps = {
            str(block): torch.randn(1, 1024, grid, grid).half() for block in range(len(model.config.feature_layers))
        }
        save_file(maps, folder / f"{place:08d}.safetensors")
    fingerprint = {"reference_neighbourhoods": (1, 3, 5), "reference_deviations": 3.0}
    return MutualReferences(range(count + 1), folder, fingerprint, 0.3, 0.0, 0.5, Scale(0.5, 0.1))


@torch.no_grad()
def measure(row: str, repeats: int, threads: int, references: int, others: int) -> dict[str, float]:
    """CPU seconds of CLIP's pass and of the row, and the gigabytes that it adds to the peak of this process."""
    torch.set_num_threads(threads)
    model, folder = build_model(**ROWS[row]), tempfile.TemporaryDirectory()
    pixels = torch.randn(1, 3, 518, 518)
    texts = torch.nn.functional.normalize(torch.randn(1, 2, 768), dim=-1)
    run: Callable[[], Any]
    if row in ("references", "mutual"):
        compared: Any = (
            build_memory(model, references) if row == "references" else build_others(model, others, Path(folder.name))
        )
        patches, _ = describe_photographs(model, pixels)
        run = lambda: compared.compare(patches, (518, 518), [0])  # noqa: E731
    else:
        run = lambda: model(pixel_values=pixels, text_embeds=texts)  # noqa: E731
    model.clip.vision_model(pixels, interpolate_pos_encoding=True)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    run()
    peak = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 2**20
    times: dict[str, list[float]] = {"clip": [], "row": []}
    for _ in range(repeats):
        for name, call in (
            ("clip", lambda: model.clip.vision_model(pixels, interpolate_pos_encoding=True)),
            ("row", run),
        ):
            start = time.process_time()
            call()
            times[name].append(time.process_time() - start)
    folder.cleanup()
    return {**{name: statistics.median(values) for name, values in times.items()}, "peak": peak}


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3, help="photographs")
    parser.add_argument("--threads", type=int, default=1, help="of torch")
    parser.add_argument("--references", type=int, default=8, help="photographs in the memory")
    parser.add_argument("--others", type=int, default=32, help="photographs that mutual scoring compares with")
    parser.add_argument("--row", choices=ROWS, help="measure one, and print it as JSON")
    options = parser.parse_args()
    numbers = [options.repeats, options.threads, options.references, options.others]
    if options.row:
        print(json.dumps(measure(options.row, *numbers)))
        return
    print("| | CPU s | of which CLIP's own pass | the rest, CLIP = 1 | peak above the model, GB |")
    print("|---|---:|---:|---:|---:|")
    for row in ROWS:
        arguments = [f"--{name}={getattr(options, name)}" for name in ("repeats", "threads", "references", "others")]
        command = [sys.executable, __file__, "--row", row, *arguments]
        found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1])
        whole = found["row"] + (found["clip"] if row in ("references", "mutual") else 0)
        rest = (whole - found["clip"]) / found["clip"]
        print(f"| {row} | {whole:.2f} | {found['clip']:.2f} | {rest:.2f} | {found['peak']:.2f} |", flush=True)


if __name__ == "__main__":
    main()
