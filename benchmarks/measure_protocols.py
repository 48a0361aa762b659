# SPDX-FileCopyrightText: 2026 The clipsam_hf authors
# SPDX-License-Identifier: Apache-2.0
"""The same model by every protocol on data sets of one's own: texts alone, K good photographs, the folder itself.

    python benchmarks/measure_protocols.py cookie --references 1 8 --seeds 5 --mutual --output runs/protocols

Each run is a `clipsam evaluate` of its own below `--output`, so an interrupted measurement goes on where it stopped;
options that are not known here are handed on to it.
Prints one table per data set: mean and standard deviation over the draws, rough and refined, in percent.
"""

import argparse
import json
import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path


FIGURES = {
    "pixel_f1_max": "px F1-max",
    "pixel_ap": "px AP",
    "pixel_aupro": "AUPRO",
    "image_auroc": "image AUROC",
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("roots", nargs="+", type=Path, help="folders of data sets")
    parser.add_argument("--references", nargs="*", type=int, default=[], help="numbers of good photographs")
    parser.add_argument("--seeds", type=int, default=5, help="draws of each number")
    parser.add_argument("--mutual", action="store_true", help="the folder as its own reference")
    parser.add_argument("--no-zero-shot", action="store_true", help="leave out texts alone")
    parser.add_argument("--split", default="all", help="split that is scored")
    parser.add_argument("--output", type=Path, required=True, help="folder of the runs")
    options, more = parser.parse_known_args(arguments)

    for root in options.roots:
        protocols: dict[str, list[list[str]]] = {} if options.no_zero_shot else {"zero-shot": [[]]}
        for count in options.references:
            protocols[f"{count}-shot"] = [
                ["--references-per-category", str(count), "--seed", str(seed)] for seed in range(options.seeds)
            ]
        if options.mutual:
            protocols["transductive"] = [["--mutual", "--seed", str(seed)] for seed in range(options.seeds)]
        tables = {
            name: [
                _evaluate(
                    root, options.output / root.name / f"{name}-{place}", [*each, "--split", options.split, *more]
                )
                for place, each in enumerate(runs)
            ]
            for name, runs in protocols.items()
        }
        print(_to_table(root.name, tables), flush=True)


def _evaluate(root: Path, output: Path, options: Sequence[str]) -> dict[str, dict[str, float]]:
    """Run an evaluation, unless it is there, and return its mean figures by the name of the map."""
    if not (output / "results.json").is_file():
        command = [sys.executable, "-m", "clipsam_hf.cli", "evaluate", str(root), *options, "--output", str(output)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    rows = json.loads((output / "results.json").read_text(encoding="utf-8"))["rows"]
    return {row["map_name"]: row["figures"] for row in rows if row["category"] == "mean" and row["kind"] == "all"}


def _to_table(name: str, tables: dict[str, list[dict[str, dict[str, float]]]]) -> str:
    lines = [f"| {name} | map | {' | '.join(FIGURES.values())} |", f"|---|---|{'---:|' * len(FIGURES)}"]
    for protocol, runs in tables.items():
        for map_name in runs[0]:
            cells = [_to_cell([run[map_name][figure] for run in runs]) for figure in FIGURES]
            lines.append(f"| {protocol} | {map_name} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _to_cell(values: Sequence[float | None]) -> str:
    numbers = [100 * value for value in values if value is not None]
    if not numbers:
        return "-"
    mean = f"{statistics.mean(numbers):.1f}"
    return mean if len(values) == 1 else f"{mean} ± {statistics.stdev(numbers):.1f}"


if __name__ == "__main__":
    main()
