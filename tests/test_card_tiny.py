# SPDX-FileCopyrightText: 2026 The clipsam_hf authors
# SPDX-License-Identifier: Apache-2.0
"""The card of the embedded checkpoint: its figures come from files, and files of other weights are refused."""

import hashlib
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import card_tiny
import pytest
from evaluate_tiny import CHECKPOINT

from clipsam_hf import ClipSamForAnomalySegmentation
from clipsam_hf.cards.evaluations import CARD_FIGURES
from clipsam_hf.evaluation.protocol import describe_settings
from clipsam_hf.files import fingerprint


STAGES = {"clip": {"schedule": [[10, 128, 4], [12, 256, 2]]}, "umci": {"schedule": [[5, 128, 3]]}}
RUN: dict[str, Any] = {
    "sets": ["generated images"],
    "num_scenes": 64,
    "seed": 0,
    "num_threads": 1,
    "device": "cpu",
    "torch": "2.13.0",
    "settings": STAGES,
    "started_from": None,
}


@pytest.fixture
def arguments(tmp_path: Path) -> list[str]:
    shutil.copytree(CHECKPOINT, tmp_path / "checkpoint")
    (tmp_path / "training.json").write_text(
        json.dumps({**RUN, "sets": ["generated images", "cookie"], "started_from": RUN})
    )
    (tmp_path / "heldout.json").write_text(json.dumps({"rough": {"pixel AP": 0.4321, "F1 at threshold": 0.1}}))
    model = ClipSamForAnomalySegmentation.from_pretrained(CHECKPOINT)
    figures = dict.fromkeys(CARD_FIGURES, 0.25)
    rows = [
        {"map_name": "rough", "category": "mean", "kind": "all", "figures": {**figures, "image_ap": None}},
        {"map_name": "rough", "category": "tile", "kind": "all", "figures": figures},
    ]
    protocol = {
        "data": {"name": "tiles", "layout": "folder", "class_names": {}, "images": 7, "abnormal_images": 3},
        "model": {"weights_sha256": fingerprint(model), "dtype": "float32"},
        "maps": ["rough"],
        **describe_settings(model.config),
    }
    (tmp_path / "results.json").write_text(json.dumps({"rows": rows, "protocol": protocol, "notes": []}))
    files = {"training": "training.json", "heldout": "heldout.json", "evaluation": "results.json"}
    given = [part for name, file in files.items() for part in (f"--{name}", str(tmp_path / file))]
    return ["card_tiny.py", str(tmp_path / "checkpoint"), *given]


def test_the_card_says_what_the_files_say(arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", arguments)
    card_tiny.main()
    card = (Path(arguments[1]) / "README.md").read_text()

    assert hashlib.sha256((CHECKPOINT / "model.safetensors").read_bytes()).hexdigest() in card
    assert "1. generated images; 64 scenes" in card and "2. generated images, cookie; 64 scenes" in card
    assert "Images: 44 for clip, 15 for umci." in card
    assert "| cookie | cookie set" in card and "| road |" not in card
    assert "| tiles (7, 3 defective) | rough | 25.0 |" in card and card.count("| tiles (7") == 1
    assert "| rough | 0.432 |" in card
    config = json.loads((CHECKPOINT / "config.json").read_text())
    assert config["decision_threshold"] is None and "| verdict | none: `label` is None." in card
    assert f"| weight of SAM's masks | {config['refine_weight']} " in card


@pytest.mark.parametrize(
    ("place", "entry", "message"),
    [
        (("model", "weights_sha256"), "0" * 16, "is of other weights"),
        (("localize", "feature_layers"), [1, 2], "feature_layers"),
        (("data", "name"), "cookie", "on which the model was trained"),
    ],
)
def test_figures_that_mislead_are_refused(
    arguments: list[str], place: tuple[str, str], entry: Any, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = Path(arguments[-1])
    content = json.loads(path.read_text())
    content["protocol"][place[0]][place[1]] = entry
    path.write_text(json.dumps(content))
    before = (Path(arguments[1]) / "README.md").read_bytes()
    monkeypatch.setattr(sys, "argv", arguments)
    with pytest.raises(ValueError, match=message):
        card_tiny.main()
    assert (Path(arguments[1]) / "README.md").read_bytes() == before
