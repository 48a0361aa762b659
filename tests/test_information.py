# SPDX-FileCopyrightText: 2026 The clipsam_hf authors
# SPDX-License-Identifier: Apache-2.0
"""`clipsam info`: what it tells agrees with what is loaded, and what cannot be read is one sentence."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner, Result

import clipsam_hf
from clipsam_hf import ClipSamForAnomalySegmentation, ClipSamReferences
from clipsam_hf.cli import app
from clipsam_hf.information import describe, to_text
from clipsam_hf.references_clipsam import ReferenceSettings


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, ["info", *map(str, arguments)])


@pytest.fixture
def line(tmp_path: Path) -> Path:
    """Saved references of three photographs."""
    sizes = [(480, 640), (480, 640), (300, 400)]
    fingerprint = {"localizer": "vv", "reference_layers": [1, 2], "image_size": 64}
    settings = ReferenceSettings(
        "candle", fingerprint, ["a.png", "b.png", "c.png"], sizes, 0.1, 0.02, [0.25, 0.5, 0.125], [0], 0.5, 0.25
    )
    references = ClipSamReferences([torch.ones(8, 4), torch.ones(8, 6)], torch.zeros(8, dtype=torch.int32), settings)
    references.save_pretrained(tmp_path / "line")
    return tmp_path / "line"


def test_a_model_is_described_as_it_is_loaded(
    tiny_model: ClipSamForAnomalySegmentation, tiny_checkpoint: Path
) -> None:
    tiny_model.config.auxiliary_dataset, tiny_model.config.decision_threshold = "visa", 0.25
    tiny_model.config.clip_name_or_path, tiny_model.config.clip_revision = "org/clip", "0123abc"
    tiny_model.save_pretrained(tiny_checkpoint)
    described = describe(tiny_checkpoint)
    weights = {part: sum(each.numel() for each in getattr(tiny_model, part).parameters()) for part in ("clip", "umci")}
    assert described["parameters"].items() >= weights.items()
    stored = load_file(tiny_checkpoint / "model.safetensors").values()  # what is shared is stored once
    assert sum(described["parameters"].values()) == sum(each.numel() for each in stored)
    assert described["bytes"] == sum(each.nbytes for each in stored)
    assert described["image_size"] == tiny_model.config.image_size
    assert described["refiner"] == tiny_model.config.sam_config.model_type
    assert described["base_models"]["clip"] == {"name": "org/clip", "revision": "0123abc"}
    text = to_text(described)
    assert "trained on    visa" in text and "above a score of 0.250, of refined maps" in text
    assert "CLIP org/clip at 0123abc" in text


def test_the_embedded_model_is_the_default() -> None:
    result = run("--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout) == describe(clipsam_hf.EMBEDDED_CHECKPOINT)
    assert "licence       apache-2.0" in run().stdout


def test_protocols_of_the_card_are_told(tiny_checkpoint: Path) -> None:
    result = {"task": {"name": "8-shot anomaly segmentation"}, "dataset": {"name": "MVTec AD"}, "metrics": []}
    card = {"license": "mit", "model-index": [{"name": "x", "results": [result, result]}]}
    (tiny_checkpoint / "README.md").write_text(f"---\n{json.dumps(card)}\n---\n# x\n")
    described = describe(tiny_checkpoint)
    assert described["licence"] == "mit"
    assert described["reported"] == {"MVTec AD": ["8-shot anomaly segmentation"]}
    (tiny_checkpoint / "README.md").write_text("---\n{: broken\n---\n")
    assert describe(tiny_checkpoint)["licence"] is None


def test_references_are_described(line: Path) -> None:
    described = describe(line)
    assert described["photograph_sizes"] == [[300, 400], [480, 640]] and described["patches"] == 8
    assert described["stand_out"] == ["a.png"] and described["protocol"] == "3-shot"
    text = run(line).stdout
    assert text.startswith("line: good photographs of 'candle'\n")
    assert "above a score of 0.5000; 25.0 % of good photographs" in text and "400 x 300, 640 x 480 pixels" in text


def drop_field(folder: Path) -> None:
    content = json.loads((folder / "config.json").read_text())
    del content["sam_config"]
    (folder / "config.json").write_text(json.dumps(content))


def replace(name: str, content: bytes) -> Callable[[Path], Any]:
    return lambda folder: (folder / name).write_bytes(content)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (replace("config.json", b"{"), "'config.json' of .* is damaged: Expecting"),
        (replace("config.json", b"[]"), "damaged: it holds a list, not an object"),
        (replace("config.json", b'{"model_type": "bert"}'), "a model of the kind 'bert', where a ClipSAM is needed"),
        (drop_field, "'config.json' of .* is damaged: KeyError: 'sam_config'"),
        (replace("model.safetensors", b"\xff" * 8), "'model.safetensors' of .* is damaged: its header is longer"),
        (replace("model.safetensors", b""), "'model.safetensors' of .* is damaged"),
        (replace("model.safetensors", b"\x02" + b"\0" * 7 + b"[]"), "'model.safetensors' of .* is damaged"),
        (lambda folder: (folder / "model.safetensors").unlink(), "holds no 'model.safetensors'"),
        (lambda folder: (folder / "config.json").unlink(), "holds neither a model .* nor references"),
    ],
)
def test_what_is_damaged_is_one_sentence(damage: Callable[[Path], Any], message: str, tiny_checkpoint: Path) -> None:
    damage(tiny_checkpoint)
    result = run(tiny_checkpoint)
    assert result.exit_code == 2 and result.stdout == ""
    assert re.search(message, result.stderr) and result.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("photo.png", "is a file; a folder of a model or of references is needed"),
        ("./nowhere", "is no folder"),
        ("org/unknown", "is no folder, and the Hub cannot be reached"),
        ("a b", "is neither a folder nor a repository"),
    ],
)
def test_what_is_no_model_is_one_sentence(
    source: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photo.png").write_bytes(b"")
    result = run(source)
    assert result.exit_code == 2 and result.stdout == ""
    assert message in result.stderr and result.stderr.count("\n") == 1
