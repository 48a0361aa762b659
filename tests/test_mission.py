# SPDX-FileCopyrightText: 2026 The clipsam_hf authors
# SPDX-License-Identifier: Apache-2.0
"""The whole way in miniature: train on VisA, publish as org/clipsam-visa, use it elsewhere on MVTec-AD."""

import csv
import json
import re
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from hub_stand_in import HubStandIn, serve
from huggingface_hub import ModelCard
from miniature_sets import write_photograph
from transformers import CLIPConfig, CLIPModel, SamConfig, SamModel
from typer.main import get_command

from clipsam_hf import ClipSamProcessor
from clipsam_hf.cards.evaluations import CARD_FIGURES
from clipsam_hf.cli import app
from clipsam_hf.training.arguments import parse_arguments


ROOT = Path(__file__).parents[1]
TOKEN = "hf_standin_OfTheMission"

ELSEWHERE = """
import sys
import clipsam_hf
from PIL import Image
from transformers import pipeline

segmenter = pipeline("zero-shot-anomaly-segmentation", model="org/clipsam-visa")
result = segmenter(sys.argv[1], class_name="bottle")
assert result["anomaly_map"].shape == (48, 48) and result["mask"].size == (48, 48)
assert result["label"] in ("anomalous", "normal")
assert segmenter.model.config.auxiliary_dataset == "visa" and segmenter.model.head_is_trained
"""


def write_visa(root: Path) -> None:
    """A category of VisA as it is in the archive: three good photographs and four abnormal ones to test."""
    rows = []
    for number in range(7):
        kind = "Normal" if number < 3 else "Anomaly"
        image = f"candle/Data/Images/{kind}/{number:03d}.JPG"
        mask = f"candle/Data/Masks/{kind}/{number:03d}.png" if kind == "Anomaly" else ""
        write_photograph(root / image, number, root / mask if mask else None)
        rows.append(["candle", "test", kind.lower(), image, mask])
    (root / "split_csv").mkdir()
    with open(root / "split_csv" / "1cls.csv", "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([["object", "split", "label", "image", "mask"], *rows])


def write_mvtec(root: Path) -> None:
    """A category of MVTec-AD."""
    for number in range(50, 53):
        write_photograph(root / "bottle" / "test" / "good" / f"{number:03d}.png", number)
    for number in range(53, 57):
        mask = root / "bottle" / "ground_truth" / "broken" / f"{number:03d}_mask.png"
        write_photograph(root / "bottle" / "test" / "broken" / f"{number:03d}.png", number, mask)


def publish_backbones(
    hub: HubStandIn, folder: Path, clip_config: CLIPConfig, sam_config: SamConfig, processor: ClipSamProcessor
) -> None:
    CLIPModel(clip_config).save_pretrained(folder / "clip")
    processor.image_processor.save_pretrained(folder / "clip")
    processor.tokenizer.save_pretrained(folder / "clip")
    SamModel(sam_config).save_pretrained(folder / "sam")
    processor.sam_image_processor.save_pretrained(folder / "sam")
    for name in ("clip", "sam"):
        hub.add(f"org/{name}", folder / name)


def start(hub: HubStandIn, folder: Path, cache: str, arguments: Sequence[str], **kwargs: str) -> subprocess.Popen[str]:
    environment = hub.environment(folder / cache, **kwargs)
    command = [sys.executable, *arguments]
    return subprocess.Popen(
        command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def finish(process: subprocess.Popen[str]) -> str:
    output, _ = process.communicate(timeout=180)
    assert process.returncode == 0, output[-4000:]
    return output


def commands_of_the_document() -> dict[str, list[str]]:
    text = (ROOT / "docs" / "how-to" / "publish.md").read_text(encoding="utf-8")
    found = re.findall(r"<!-- command: (\w+) -->\n```bash\n(.*?)```", text, re.DOTALL)
    return {name: shlex.split(command.replace("\\\n", " ")) for name, command in found}


@pytest.mark.parametrize("name", ["train", "continue"])
def test_documented_training_is_understood(name: str) -> None:
    command = commands_of_the_document()[name]
    assert command[:4] == ["accelerate", "launch", "-m", "clipsam_hf.training"]
    parse_arguments(command[4:])


def test_documented_use_compiles_and_evaluation_is_understood() -> None:
    commands = commands_of_the_document()
    assert commands["use"][:2] == ["python", "-c"]
    compile(commands["use"][2], "publish.md", "exec")
    options = {argument for argument in commands["evaluate"] if argument.startswith("--")}
    known = {name for option in get_command(app).commands["evaluate"].params for name in option.opts}
    assert commands["evaluate"][:2] == ["clipsam", "evaluate"] and options <= known


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_from_visa_to_a_map_of_an_mvtec_photograph_elsewhere(
    tmp_path: Path, tiny_clip_config: CLIPConfig, tiny_sam_config: SamConfig, tiny_processor: ClipSamProcessor
) -> None:
    write_visa(tmp_path / "VisA_20220922")
    write_mvtec(tmp_path / "mvtec_anomaly_detection")
    with serve(TOKEN) as hub:
        publish_backbones(hub, tmp_path / "backbones", tiny_clip_config, tiny_sam_config, tiny_processor)

        # Train on VisA, report on MVTec-AD, publish
        training = [
            str(ROOT / "examples" / "train.py"),
            *("--clip_model_name_or_path", "org/clip", "--sam_model_name_or_path", "org/sam"),
            *("--image_size", "32", "--umci_hidden_size", "8", "--scale_sizes", "2", "3"),
            *("--dataset_name", "visa", "--data_dir", "VisA_20220922"),
            *("--eval_dataset_name", "mvtec", "--eval_data_dir", "mvtec_anomaly_detection", "--eval_size", "32"),
            *("--total_train_batch_size", "4", "--max_train_steps", "3", "--learning_rate", "1e-3", "--cpu"),
            *("--output_dir", "clipsam-visa", "--push_to_hub", "--hub_model_id", "org/clipsam-visa"),
        ]
        log = finish(start(hub, tmp_path, "cache-of-the-trainer", training, token=TOKEN))
        assert TOKEN not in log
        repository = hub.repositories["org/clipsam-visa"]
        assert len(repository.commits) == 2  # the empty one, and all in one

        # Elsewhere, with nothing in the cache: a photograph, and a data set
        photograph = "mvtec_anomaly_detection/bottle/test/broken/053.png"
        evaluation = [
            *("-m", "clipsam_hf.cli", "evaluate", "mvtec_anomaly_detection", "--layout", "mvtec", "--size", "32"),
            *("--model", "org/clipsam-visa", "--output", "results"),
        ]
        processes = [
            start(hub, tmp_path, "cache-of-a-user", ["-c", ELSEWHERE, photograph]),
            start(hub, tmp_path, "cache-of-another", evaluation),
        ]
        for process in processes:
            finish(process)

    # The figures that a user measures are those of the card
    card = ModelCard(repository.files["README.md"].decode())
    assert "**trained on VisA**" in card.content and card.data.base_model == ["org/clip", "org/sam"]
    results = json.loads((tmp_path / "results" / "results.json").read_text())
    measured = [row["figures"] for row in results["rows"] if row["category"] == "mean"]
    published = [(result.metric_type, result.metric_value) for result in card.data.eval_results]
    assert published == [
        (name, figures[name]) for figures in measured for name in CARD_FIGURES if figures[name] is not None
    ]
    assert results["protocol"]["model"]["revision"] == repository.branches["main"]
    config = json.loads(repository.files["config.json"])
    assert config["clip_revision"] == hub.repositories["org/clip"].branches["main"]
    assert (config["auxiliary_dataset"], config["auxiliary_seed"]) == ("visa", 0)
