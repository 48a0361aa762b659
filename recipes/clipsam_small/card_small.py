# SPDX-FileCopyrightText: 2026 The clipsam_hf authors
# SPDX-License-Identifier: Apache-2.0
"""
Write the card of `clipsam-small` from its measurements.

    python recipes/clipsam_small/card_small.py runs/small/run/clipsam-small --evaluation zero/mtd/results.json

Every figure of the card comes from these files or from the checkpoint itself; one table for each protocol.
"""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


sys.path.append(str(Path(__file__).parents[1] / "clipsam_tiny"))

from card_tiny import PHOTOGRAPHS  # noqa: E402
from small_wheel import FILE, SHA256, VERSION, WHEEL  # noqa: E402
from small_words import TEACHER, TEACHER_VERSION  # noqa: E402

from clipsam_hf.cards.card import ClipSamCard  # noqa: E402
from clipsam_hf.cards.evaluations import CARD_FIGURES, check_evaluation  # noqa: E402
from clipsam_hf.files import digest_file  # noqa: E402
from clipsam_hf.modeling_clipsam import ClipSamForAnomalySegmentation  # noqa: E402


__all__ = ["main", "tables_of"]

TEMPLATE = Path(__file__).with_name("card_small_template.md")


def tables_of(
    contents: Sequence[Mapping[str, Any]], model: ClipSamForAnomalySegmentation, seen: Sequence[str]
) -> dict[str, list[tuple[str, Mapping[str, Any]]]]:
    """
    Return the means of evaluations by their protocol, each with the name of its set.

    Raises:
        ValueError: If one must not stand on the card.
    """
    tables: dict[str, list[tuple[str, Mapping[str, Any]]]] = {}
    for content in contents:
        scored = check_evaluation(content, model, seen)
        data = scored.protocol["data"]
        name = f"{scored.pretty_name}, {data['images']} photographs, {data['abnormal_images']} defective"
        setting = scored.protocol.get("setting", "zero-shot")
        tables.setdefault(setting, []).extend((name, row) for row in scored.means())
    return tables


def parse_args(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path, help="folder of the checkpoint")
    parser.add_argument("--evaluation", type=Path, action="append", default=[], help="results.json; may be repeated")
    return parser.parse_args(arguments)


def main() -> None:
    """Write the card into the checkpoint's folder."""
    arguments = parse_args()

    from jinja2 import Environment, StrictUndefined

    model = ClipSamForAnomalySegmentation.from_pretrained(arguments.checkpoint)
    config, weights = model.config, arguments.checkpoint / "model.safetensors"
    seen = (config.auxiliary_dataset or "").split(" + ")
    contents = [json.loads(path.read_text()) for path in arguments.evaluation]
    text = (
        Environment(undefined=StrictUndefined)
        .from_string(TEMPLATE.read_text())
        .render(
            parameters=sum(parameter.numel() for parameter in model.parameters()),
            config=config,
            vision=config.clip_config.vision_config,
            text=config.clip_config.text_config,
            sam=config.sam_config.vision_config,
            photographs={name: about for name, about in PHOTOGRAPHS.items() if name in seen},
            wheel={"name": WHEEL, "version": VERSION, "file": FILE, "sha256": SHA256},
            teacher=f"{TEACHER}=={TEACHER_VERSION}",
            figures=CARD_FIGURES,
            tables=tables_of(contents, model, seen),
            percent=lambda value: "-" if value is None else f"{100 * value:.1f}",
            size=weights.stat().st_size,
            sha256=digest_file(weights),
        )
    )
    ClipSamCard(text).save(arguments.checkpoint / "README.md")


if __name__ == "__main__":
    main()
