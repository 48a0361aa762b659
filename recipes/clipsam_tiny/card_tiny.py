# SPDX-FileCopyrightText: 2026 The clipsam_hf authors
# SPDX-License-Identifier: Apache-2.0
"""
Write the card of `clipsam-tiny` from the files of its training and its measurements.

    python recipes/clipsam_tiny/card_tiny.py runs/tiny/clipsam-tiny --training runs/tiny/training.json \
        --heldout heldout.json --evaluation mtd/results.json --evaluation pavement/results.json

Every figure of the card comes from these files or from the checkpoint itself.
"""

import argparse
import hashlib
import json
from pathlib import Path
from typing import Any

from clipsam_hf.cards.card import FIGURES, ClipSamCard
from clipsam_hf.evaluation.report import ALL_KINDS, MEAN
from clipsam_hf.files import fingerprint
from clipsam_hf.modeling_clipsam import ClipSamForAnomalySegmentation


__all__ = ["main"]

TEMPLATE = Path(__file__).with_name("card_tiny_template.md")

# The photographs that it is trained on, by the names of their folders: source and licence as found there
PHOTOGRAPHS = {
    "road": (
        "Cracks and Potholes in Road Images, 100 of 2235 images, commit 1f200541 of"
        " github.com/biankatpas/Cracks-and-Potholes-in-Road-Images-Dataset",
        "MIT, (c) 2020 Bianka Passos",
    ),
    "cookie": (
        "cookie set, 63 images, commit 14bed61c of github.com/aws-samples/amazon-lookout-for-vision",
        "CC BY-SA 4.0 (of the repository's documentation; the images have no notice of their own)",
    ),
    "ball_screw": (
        "BSData, 120 of 1104 images, commit 7204b28a of github.com/2Obe/BSData; Schlagenhauf and Landwehr 2021,"
        " arXiv 2103.13003",
        "CC BY-SA 4.0",
    ),
}


def count_images(settings: dict[str, Any]) -> int:
    """Return how many images a stage has seen, by its schedule."""
    total = begin = 0
    for last, _, count in settings["schedule"]:
        total, begin = total + (last - begin) * count, last
    return total


def runs_of(record: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the runs behind a checkpoint, the earliest first."""
    earlier = runs_of(record["started_from"]) if record["started_from"] else []
    images = {stage: count_images(settings) for stage, settings in record["settings"].items()}
    return [*earlier, {**record, "images": images}]


def read_evaluation(path: Path, model: ClipSamForAnomalySegmentation) -> tuple[str, list[dict[str, Any]]]:
    """Return the name of a set and the rows of its means, or raise if another model was evaluated."""
    content = json.loads(path.read_text())
    data, scored = content["protocol"]["data"], content["protocol"]["model"]["weights_sha256"]
    if scored != fingerprint(model):
        raise ValueError(f"{path} is of other weights ({scored}) than the checkpoint's ({fingerprint(model)}).")
    name = f"{data['name']} ({data['images']}, {data['abnormal_images']} defective)"
    return name, [row for row in content["rows"] if (row["category"], row["kind"]) == (MEAN, ALL_KINDS)]


def main() -> None:
    """Write the card into the checkpoint's folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path, help="folder of the checkpoint")
    parser.add_argument("--training", type=Path, required=True, help="training.json of its run")
    parser.add_argument("--heldout", type=Path, required=True, help="what evaluate_tiny.py --output wrote")
    parser.add_argument("--evaluation", type=Path, action="append", default=[], help="results.json; may be repeated")
    arguments = parser.parse_args()

    from jinja2 import Environment, StrictUndefined

    model = ClipSamForAnomalySegmentation.from_pretrained(arguments.checkpoint)
    config, weights = model.config, arguments.checkpoint / "model.safetensors"
    runs = runs_of(json.loads(arguments.training.read_text()))
    shown = {name for run in runs for name in run["sets"]}
    heldout = json.loads(arguments.heldout.read_text())
    template = Environment(undefined=StrictUndefined).from_string(TEMPLATE.read_text())
    text = template.render(
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        config=config,
        vision=config.clip_config.vision_config,
        text=config.clip_config.text_config,
        sam=config.sam_config.vision_config,
        runs=runs,
        photographs={name: about for name, about in PHOTOGRAPHS.items() if name in shown},
        figures=FIGURES,
        evaluations=dict(read_evaluation(path, model) for path in arguments.evaluation),
        heldout=heldout,
        columns=[column for column in next(iter(heldout.values())) if column != "F1 at threshold"],
        percent=lambda value: "-" if value is None else f"{100 * value:.1f}",
        size=weights.stat().st_size,
        sha256=hashlib.sha256(weights.read_bytes()).hexdigest(),
    )
    ClipSamCard(text).save(arguments.checkpoint / "README.md")


if __name__ == "__main__":
    main()
