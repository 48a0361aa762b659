# SPDX-FileCopyrightText: 2026 The clipsam_hf authors
# SPDX-License-Identifier: Apache-2.0
"""
Write the card of `clipsam-tiny` from the files of its training and its measurements.

    python recipes/clipsam_tiny/card_tiny.py runs/tiny/clipsam-tiny --training runs/tiny/training.json \
        --heldout heldout.json --evaluation mtd/results.json --evaluation pavement/results.json

Every figure of the card comes from these files or from the checkpoint itself.
"""

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from clipsam_hf.cards.card import ClipSamCard
from clipsam_hf.cards.evaluations import CARD_FIGURES, check_evaluation
from clipsam_hf.files import digest_file
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


def read_evaluation(
    path: Path, model: ClipSamForAnomalySegmentation, seen: Sequence[str]
) -> tuple[str, list[Mapping[str, Any]]]:
    """Return the name of a set and the rows of its means, or raise if they must not stand on the card."""
    scored = check_evaluation(json.loads(path.read_text()), model, seen)
    data = scored.protocol["data"]
    return f"{data['name']} ({data['images']}, {data['abnormal_images']} defective)", scored.means()


def parse_args(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path, help="folder of the checkpoint")
    parser.add_argument("--training", type=Path, required=True, help="training.json of its run")
    parser.add_argument("--heldout", type=Path, required=True, help="what evaluate_tiny.py --output wrote")
    parser.add_argument("--evaluation", type=Path, action="append", default=[], help="results.json; may be repeated")
    return parser.parse_args(arguments)


def main() -> None:
    """Write the card into the checkpoint's folder."""
    arguments = parse_args()

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
        figures=CARD_FIGURES,
        evaluations=dict(read_evaluation(path, model, sorted(shown)) for path in arguments.evaluation),
        heldout=heldout,
        columns=[column for column in next(iter(heldout.values())) if column != "F1 at threshold"],
        percent=lambda value: "-" if value is None else f"{100 * value:.1f}",
        size=weights.stat().st_size,
        sha256=digest_file(weights),
    )
    ClipSamCard(text).save(arguments.checkpoint / "README.md")


if __name__ == "__main__":
    main()
