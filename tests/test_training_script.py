# SPDX-FileCopyrightText: 2026 The clipsam_hf authors
# SPDX-License-Identifier: Apache-2.0
"""examples/train.py and `clipsam train`: from backbones and a data set to a saved model and figures on another set."""

import json
import shlex
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import train as script
from miniature_sets import write_photograph
from transformers import CLIPConfig, CLIPModel, SamConfig, SamModel
from typer.testing import CliRunner

from clipsam_hf.cli import app
from clipsam_hf.modeling_clipsam import ClipSamForAnomalySegmentation
from clipsam_hf.processing_clipsam import ClipSamProcessor
from clipsam_hf.training import TrainingInterruptedError
from clipsam_hf.training import run as training_run
from clipsam_hf.training.arguments import parse_arguments, public_command
from clipsam_hf.training.checkpoints import newest_checkpoint, read_state


def write_set(root: Path, category: str, first: int = 0) -> Path:
    """Three good and four abnormal photographs, laid out as MVTec-AD."""
    for number in range(first, first + 3):
        write_photograph(root / category / "test" / "good" / f"{number:03d}.png", number)
    for number in range(first + 3, first + 7):
        mask = root / category / "ground_truth" / "spot" / f"{number:03d}_mask.png"
        write_photograph(root / category / "test" / "spot" / f"{number:03d}.png", number, mask)
    return root


@pytest.fixture
def backbones(
    tmp_path: Path, tiny_clip_config: CLIPConfig, tiny_sam_config: SamConfig, tiny_processor: ClipSamProcessor
) -> list[str]:
    """The options that name a tiny CLIP and a tiny SAM."""
    CLIPModel(tiny_clip_config).save_pretrained(tmp_path / "clip")
    SamModel(tiny_sam_config).save_pretrained(tmp_path / "sam")
    tiny_processor.image_processor.save_pretrained(tmp_path / "clip")
    tiny_processor.tokenizer.save_pretrained(tmp_path / "clip")
    tiny_processor.sam_image_processor.save_pretrained(tmp_path / "sam")
    return [
        "--clip_model_name_or_path",
        str(tmp_path / "clip"),
        "--sam_model_name_or_path",
        str(tmp_path / "sam"),
        *("--image_size", "32", "--umci_hidden_size", "8", "--scale_sizes", "2", "3"),
    ]


@pytest.fixture
def options(tmp_path: Path, backbones: list[str]) -> list[str]:
    """A run of three steps over seven images."""
    data = write_set(tmp_path / "plates", "plate")
    return [
        *backbones,
        *("--data_dir", str(data), "--output_dir", str(tmp_path / "clipsam-plates")),
        *("--total_train_batch_size", "4", "--max_train_steps", "3", "--learning_rate", "1e-3", "--cpu"),
    ]


def run(*arguments: str) -> None:
    script.train(parse_arguments(list(arguments)))


def test_the_script_trains_calibrates_saves_and_reports(tmp_path: Path, options: list[str]) -> None:
    other = write_set(tmp_path / "mvtec", "bottle", first=50)
    run(*options, "--eval_dataset_name", "mvtec", "--eval_data_dir", str(other), "--eval_size", "32")
    output = tmp_path / "clipsam-plates"

    model = ClipSamForAnomalySegmentation.from_pretrained(output)
    ClipSamProcessor.from_pretrained(output)
    results = json.loads((output / "all_results.json").read_text())
    assert model.config.auxiliary_dataset == "plates"
    assert (model.config.auxiliary_epochs, model.config.auxiliary_seed) == (2, 0)
    assert model.config.binarize_threshold == results["calibration"]["binarize_threshold"] != 0.5
    assert len(results["losses"]) == 3
    figures = json.loads((output / "evaluation" / "results.json").read_text())
    assert "bottle" in json.dumps(figures)
    assert "MVTec" in (output / "README.md").read_text()


def test_another_run_goes_on_and_changes_nothing(tmp_path: Path, options: list[str]) -> None:
    run(*options)
    output = tmp_path / "clipsam-plates"
    weights = (output / "model.safetensors").read_bytes()
    losses = json.loads((output / "all_results.json").read_text())["losses"]
    run(*options)

    assert (output / "model.safetensors").read_bytes() == weights
    assert json.loads((output / "all_results.json").read_text())["losses"] == losses


@pytest.mark.parametrize("place", ["plates", "plates/plate", "plates/../plates"])
def test_reporting_on_the_training_set_is_refused(tmp_path: Path, options: list[str], place: str) -> None:
    with pytest.raises(ValueError, match="is trained on 'plates'"):
        run(*options, "--eval_data_dir", str(tmp_path / place), "--eval_dataset_name", "mvtec")
    assert not (tmp_path / "clipsam-plates").exists()


def test_a_published_set_is_known_in_another_folder(tmp_path: Path, options: list[str]) -> None:
    write_set(tmp_path / "copy", "bottle", first=20)
    with pytest.raises(ValueError, match="trained on 'mvtec'.*reported on 'mvtec'"):
        run(*options, "--dataset_name", "mvtec", "--eval_data_dir", str(tmp_path / "copy"))


def test_processes_that_do_not_know_of_each_other_are_refused(
    options: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As `torchrun` starts them on a machine without a GPU; each would be the only one, in the same folder."""
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr("accelerate.accelerator.Accelerator", lambda **_: SimpleNamespace(num_processes=1))
    with pytest.raises(ValueError, match="do not know of each other.*--cpu"):
        run(*options)


def test_an_unknown_tracker_is_refused(options: list[str]) -> None:
    with pytest.raises(ValueError, match="--report_to must be 'all' or one of .*, got 'notebook'"):
        run(*options, "--with_tracking", "--report_to", "notebook")


def test_a_tracker_that_is_not_installed_is_refused(options: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("accelerate.tracking.get_available_trackers", lambda: [])
    with pytest.raises(ValueError, match="--report_to wandb: it is not installed"):
        run(*options, "--with_tracking", "--report_to", "wandb")


def test_a_set_without_masks_is_refused(tmp_path: Path, options: list[str]) -> None:
    for path in (tmp_path / "plates" / "plate" / "test" / "spot").iterdir():
        path.unlink()
    shutil.rmtree(tmp_path / "plates" / "plate" / "ground_truth")

    with pytest.raises(ValueError, match="no defect to learn from"):
        run(*options)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (["--model_name_or_path", "clipsam"], "brings its own backbones"),
        (["--push_to_hub"], "needs --hub_model_id"),
        (["--checkpointing_steps", "often"], "must be 'epoch' or a number"),
        (["--eval_dataset_name", "visa"], "needs --eval_data_dir"),
    ],
)
def test_options_that_contradict_are_refused(
    options: list[str], capsys: pytest.CaptureFixture[str], wrong: list[str], message: str
) -> None:
    with pytest.raises(SystemExit):
        parse_arguments([*options, *wrong])
    assert message in capsys.readouterr().err


def test_the_command_is_told_without_token_and_folders(tmp_path: Path) -> None:
    command = public_command(
        [
            "--data_dir",
            str(tmp_path),
            f"--cache_dir={tmp_path}",
            "--hub_token",
            "hf_secret",
            "--hub_token=hf_secret",
            "--seed",
            "3",
        ]
    )
    assert (
        command
        == f"accelerate launch -m clipsam_hf.training --data_dir {tmp_path.name} --cache_dir={tmp_path.name} --seed 3"
    )


@pytest.mark.parametrize(
    ("problem", "code"),
    [(TrainingInterruptedError(15, 3), 143), (TrainingInterruptedError(2, 3), 130), (OSError("full"), 2)],
)
def test_the_exit_code_tells_how_it_ended(
    options: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    problem: Exception,
    code: int,
) -> None:
    def fail(_: object) -> None:
        raise problem

    for module in (script, training_run):
        monkeypatch.setattr(module, "train", fail)
    monkeypatch.setattr(sys, "argv", ["train.py", *options])
    for main in (script.main, training_run.main):
        with pytest.raises(SystemExit) as caught:
            main()
        assert caught.value.code == code
        assert str(problem) in capsys.readouterr().err


def test_training_goes_on_from_a_whole_model(tmp_path: Path, options: list[str]) -> None:
    run(*options)
    more = write_set(tmp_path / "bottles", "green", first=30)
    run(
        *("--model_name_or_path", str(tmp_path / "clipsam-plates"), "--data_dir", str(more), "--cpu", "--no_cache"),
        *("--output_dir", str(tmp_path / "clipsam-both"), "--max_train_steps", "1", "--no_refine"),
    )

    model = ClipSamForAnomalySegmentation.from_pretrained(tmp_path / "clipsam-both")
    assert model.config.auxiliary_dataset == "plates + bottles"


@pytest.mark.parametrize("name", ["train", "publish"])
def test_the_documented_command_is_understood(name: str) -> None:
    document = (Path(__file__).parents[1] / "docs" / "how-to" / "train.md").read_text(encoding="utf-8")
    block = document.split(f"<!-- command: {name} -->\n```bash\n")[1].split("\n```")[0]
    words = shlex.split(block.replace("\\\n", " "))

    assert words[:4] == ["accelerate", "launch", "-m", "clipsam_hf.training"]
    args = parse_arguments(words[4:])
    assert (args.dataset_name, args.eval_dataset_name, args.push_to_hub) == ("visa", "mvtec", name == "publish")


def test_the_command_trains_to_the_same_weights(tmp_path: Path, options: list[str]) -> None:
    run(*options, "--no_refine")
    place = options.index("--output_dir") + 1
    elsewhere = [*options[:place], str(tmp_path / "by-command"), *options[place + 1 :]]
    result = CliRunner().invoke(app, ["train", *elsewhere, "--no_refine"])

    assert result.exit_code == 0, result.output
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("clipsam-plates", "by-command")]
    assert weights[0] == weights[1]


def test_the_command_shows_all_options() -> None:
    result = CliRunner().invoke(app, ["train", "--help"])

    assert result.exit_code == 0 and "usage: clipsam train" in result.output
    assert all(option in result.output for option in ("--data_dir", "--total_train_batch_size", "--image_score"))


def test_the_command_says_in_one_sentence_what_cannot_be_used(options: list[str]) -> None:
    result = CliRunner().invoke(app, ["train", *options, "--split", "nowhere"])

    assert result.exit_code == 2
    assert result.stderr.startswith("error: ") and "nowhere" in result.stderr and "Traceback" not in result.stderr


def test_backbones_of_another_type_leave_the_head_in_float32(tmp_path: Path, options: list[str]) -> None:
    run(*options, "--dtype", "bfloat16", "--no_refine")
    output = tmp_path / "clipsam-plates"
    model = ClipSamForAnomalySegmentation.from_pretrained(output)

    assert {parameter.dtype for parameter in model.umci.parameters()} == {torch.float32}
    assert {parameter.dtype for parameter in model.clip.parameters()} == {torch.bfloat16}
    index = json.loads((output / "features" / "index.json").read_text())
    assert index["model"]["dtype"] == "bfloat16"
    with pytest.raises(ValueError, match="frozen_weights"):
        run(*options, "--no_refine")


def test_the_score_of_an_image_and_the_aupro_of_papers_can_be_chosen(tmp_path: Path, options: list[str]) -> None:
    """By text, an image's score needs what the cached features lack: training must not ask for it."""
    other = write_set(tmp_path / "mvtec", "bottle", first=50)
    report = ["--eval_dataset_name", "mvtec", "--eval_data_dir", str(other), "--eval_size", "32"]
    run(*options, *report, "--image_score", "text", "--aupro_linear200", "--no_refine")
    output = tmp_path / "clipsam-plates"

    assert json.loads((output / "config.json").read_text())["image_score"] == "text"
    assert "legacy_aupro_linear200" in (output / "evaluation" / "results.json").read_text()


def test_the_loss_can_be_taken_at_the_size_of_the_image(tmp_path: Path, options: list[str]) -> None:
    run(*options, "--loss_resolution", "image", "--no_refine")
    output = tmp_path / "clipsam-plates"

    assert json.loads((output / "config.json").read_text())["loss_resolution"] == "image"
    image = read_state(newest_checkpoint(output) or "")
    assert image.configuration["model"]["loss_resolution"] == "image"


def test_texts_vary_unless_switched_off(tmp_path: Path, options: list[str]) -> None:
    losses = []
    for variants in ("1", "4"):
        place = options.index("--output_dir") + 1
        output = tmp_path / f"variants-{variants}"
        run(*options[:place], str(output), *options[place + 1 :], "--no_refine", "--text_variants", variants)
        losses.append(read_state(newest_checkpoint(output) or "").losses)

    assert losses[0] != losses[1]
    with pytest.raises(ValueError, match=r"batches\.texts_sha256"):
        run(*options[:place], str(output), *options[place + 1 :], "--no_refine", "--text_variants", "3")


def test_both_names_may_be_those_of_one_whole_model(tmp_path: Path, tiny_checkpoint: Path, options: list[str]) -> None:
    place = options.index("--clip_model_name_or_path")
    options[place + 1] = options[place + 3] = str(tiny_checkpoint)
    run(*options)

    model = ClipSamForAnomalySegmentation.from_pretrained(tmp_path / "clipsam-plates")
    original = ClipSamForAnomalySegmentation.from_pretrained(tiny_checkpoint)
    for name in ("clip", "sam"):
        parts = (getattr(each, name).state_dict() for each in (model, original))
        assert all(torch.equal(*pair) for pair in zip(*(part.values() for part in parts), strict=True))
    processor = ClipSamProcessor.from_pretrained(tmp_path / "clipsam-plates")
    expected = ClipSamProcessor.from_pretrained(tiny_checkpoint)
    assert processor.sam_image_processor.to_dict() == expected.sam_image_processor.to_dict()
