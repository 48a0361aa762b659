# SPDX-FileCopyrightText: 2026 The clipsam_hf authors
# SPDX-License-Identifier: Apache-2.0
"""`clipsam calibrate`: a folder of good photographs gives references and a threshold, or one clear message."""

import logging as standard_logging
import re
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import pipeline
from typer.testing import CliRunner, Result

from clipsam_hf import ClipSamForAnomalySegmentation, ClipSamProcessor, ClipSamReferences, cli
from clipsam_hf.lines import ScoredPhotograph, to_text
from clipsam_hf.mutual_clipsam import draw_others, explain_mixture, find_mixture
from clipsam_hf.references_clipsam import ReferenceSettings


ROOT = Path(__file__).parents[1]
COMMAND = re.compile(r"<!-- command: calibrate -->\n```bash\n(.+?)\n```", re.DOTALL)


def run(*arguments: Any) -> Result:
    return CliRunner().invoke(cli.app, [str(argument) for argument in arguments])


def save_photographs(folder: Path, count: int, *, has_defect: bool = False, width: int = 40) -> Path:
    """Dark noise, each a little different, perhaps with a bright blob."""
    folder.mkdir(parents=True)
    for number in range(count):
        pixels = np.random.default_rng(number).integers(0, 96, (24, width, 3), dtype=np.uint8)
        if has_defect:
            pixels[4:16, 8:24] = 255
        Image.fromarray(pixels).save(folder / f"{number:03d}.png")
    return folder


@pytest.fixture
def checkpoint(tiny_model: Any, tiny_checkpoint: Path) -> Path:
    """A tiny model that compares with references alone, whatever the default is."""
    tiny_model.config.update({"localizer": "similarity", "reference_text_weight": 0.0})
    tiny_model.save_pretrained(tiny_checkpoint)
    return tiny_checkpoint


@pytest.fixture
def good(tmp_path: Path) -> Path:
    return save_photographs(tmp_path / "good", 5)


def calibrate(good: Path, checkpoint: Path, line: Path, *more: Any) -> Result:
    return run("calibrate", good, "--class-name", "candle", "--model", checkpoint, "--output", line, *more)


def settings(scores: list[float], threshold: float | None, **changes: Any) -> ReferenceSettings:
    names = [f"{number}.png" for number in range(len(scores))]
    sizes = [(24, 40)] * len(scores)
    usual = {"sizes": sizes, "centre": 0.1, "spread": 0.02, "expected_false_alarms": 0.25}
    given = {**usual, "scores": scores, "decision_threshold": threshold, **changes}
    return ReferenceSettings("candle", {}, names, **given)


def report(scores: list[float], threshold: float | None, **changes: Any) -> list[str]:
    references = ClipSamReferences([torch.ones(1, 2)], torch.zeros(1), settings(scores, threshold, **changes))
    return to_text(references).splitlines()


# --------------------------------------------------------------------------------------------------------------------
# A line


def test_a_line_is_what_the_pipeline_takes(good: Path, checkpoint: Path, tmp_path: Path) -> None:
    result = calibrate(good, checkpoint, tmp_path / "line")
    assert result.exit_code == 0, result.output
    assert sorted(path.name for path in (tmp_path / "line").iterdir()) == [
        "references.json",
        "references.safetensors",
    ]
    references = ClipSamReferences.from_pretrained(tmp_path / "line")
    threshold = references.decision_threshold
    assert threshold is not None and f"threshold: {threshold:.4f}, of " in result.stdout
    assert len(references) == 5 and references.class_name == "candle"

    finder = pipeline("zero-shot-anomaly-segmentation", model=str(checkpoint))
    answer = finder(str(good / "000.png"), references=str(tmp_path / "line"))  # the class name comes with the line
    assert answer["is_anomalous"] is not None


def test_the_command_does_what_the_python_call_does(good: Path, checkpoint: Path, tmp_path: Path) -> None:
    Image.fromarray(np.uint8([[255, 0]])).save(tmp_path / "roi.png")
    options = ("--roi", tmp_path / "roi.png", "--rotations", "--quantile", "0.5", "--max-patches", "20", "--seed", "3")
    result = calibrate(good, checkpoint, tmp_path / "line", *options, "--dtype", "float32", "--device", "cpu")
    assert result.exit_code == 0, result.output
    made = ClipSamReferences.from_images(
        ClipSamForAnomalySegmentation.from_pretrained(checkpoint),
        ClipSamProcessor.from_pretrained(checkpoint),
        good,
        class_name="candle",
        roi_mask=tmp_path / "roi.png",
        rotations=True,
        quantile=0.5,
        max_patches=20,
        seed=3,
    )
    loaded = ClipSamReferences.from_pretrained(tmp_path / "line")
    assert loaded.settings.scores == pytest.approx(made.settings.scores)
    assert loaded.decision_threshold == pytest.approx(made.decision_threshold)
    assert len(loaded.photographs) == 20
    assert loaded.roi_mask is not None and bool(loaded.roi_mask.any()) and not bool(loaded.roi_mask.all())


def test_defective_photographs_are_counted_as_the_pipeline_scores_them(
    good: Path, checkpoint: Path, tmp_path: Path
) -> None:
    bad = save_photographs(tmp_path / "bad", 2, has_defect=True)
    line = tmp_path / "line"
    result = calibrate(good, checkpoint, line, "--defective", bad)
    assert result.exit_code == 0, result.output
    finder = pipeline("zero-shot-anomaly-segmentation", model=str(checkpoint))
    scores = [answer["score"] for answer in finder(str(bad), references=str(line))]
    threshold = ClipSamReferences.from_pretrained(line).decision_threshold
    assert threshold is not None
    count = sum(score > threshold for score in scores)
    assert f"defective photographs above the threshold: {count} of 2\n" in result.stdout
    for name, score in zip(("000.png", "001.png"), scores, strict=True):
        assert f"  {score:.4f}  {name}" in result.stdout.partition("defective photographs")[2]


def test_one_photograph_gives_a_line_without_a_threshold(checkpoint: Path, tmp_path: Path) -> None:
    single, bad = save_photographs(tmp_path / "single", 1), save_photographs(tmp_path / "bad", 1, has_defect=True)
    result = calibrate(single, checkpoint, tmp_path / "line", "--defective", bad)
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith("1 good photograph of 'candle': 40 x 24 pixels (1)\n")
    assert "threshold: none, since a single photograph has no others" in result.stdout
    assert "scores of 1 defective photographs:" in result.stdout


def test_the_default_model_is_the_embedded_one(
    good: Path, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("clipsam_hf.embedded.EMBEDDED_CHECKPOINT", checkpoint)
    result = run("calibrate", good, "--class-name", "candle", "--output", tmp_path / "line")
    assert result.exit_code == 0, result.output


@pytest.mark.parametrize("document", ["README.md", "docs/how-to/first-day.md"])
def test_documented_command_runs(
    document: str, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("clipsam_hf.embedded.EMBEDDED_CHECKPOINT", checkpoint)
    save_photographs(tmp_path / "good", 3)
    save_photographs(tmp_path / "bad", 1, has_defect=True)
    (command,) = COMMAND.findall((ROOT / document).read_text(encoding="utf-8"))
    program, *arguments = shlex.split(command)
    assert program == "clipsam"
    result = run(*arguments)
    assert result.exit_code == 0, result.output
    assert (tmp_path / "line" / "references.json").is_file()


# --------------------------------------------------------------------------------------------------------------------
# The report


def test_report_names_the_photograph_that_sets_the_threshold() -> None:
    lines = report([0.2, 0.4, 0.3], 0.4)
    assert lines[:6] == [
        "3 good photographs of 'candle': 40 x 24 pixels (3)",
        "scores, each compared with the others:",
        "  0.4000  1.png  sets the threshold",
        "  0.3000  2.png",
        "  0.2000  0.png",
        "threshold: 0.4000, of 1.png; the next highest score is 0.3000, of 2.png",
    ]
    assert lines[6] == "expected false alarms: 25.0 % of good photographs"


def test_report_of_a_quantile_has_photographs_above_the_threshold() -> None:
    lines = report([0.2, 0.4, 0.3], 0.3)
    assert "  0.4000  1.png" in lines and "  0.3000  2.png  sets the threshold" in lines
    assert "threshold: 0.3000, of 2.png; the next highest score is 0.2000, of 0.png" in lines


def test_report_of_one_that_stands_out_does_not_count_it() -> None:
    lines = report([0.2, 0.9, 0.3, 0.1, 0.15, 0.12], 0.3, outliers=[1])
    assert lines[2:4] == ["  0.9000  1.png  stands out, not counted", "  0.3000  2.png  sets the threshold"]
    assert "threshold: 0.3000, of 2.png; the next highest score is 0.2000, of 0.png" in lines
    assert lines[-2:] == ["stand out: 1.png", "groups: none"]


def test_report_of_two_products_names_both() -> None:
    lines = report([0.1] * 6, 0.1, groups=[0, 1, 0, 1, 0, 0])
    assert lines[-1] == (
        "groups: Of 6 photographs 4, such as 0.png, look like one product and 2, such as 1.png, like another."
    )


def test_report_of_many_photographs_is_short() -> None:
    lines = report([number / 100 for number in range(50)], 0.49)
    start = lines.index("scores, each compared with the others:") + 1
    listed = [line for line in lines[start:] if line.startswith("  ")]
    assert len(listed) == 20 and listed[-1] == "  ... and 31 more"


def test_report_of_many_sizes_names_the_usual_ones() -> None:
    sizes = [(24, 40), (24, 40), (30, 30), (31, 31), (32, 32), (33, 33)]
    (first, *_) = report([0.1] * 6, 0.1, sizes=sizes)
    assert first.endswith("40 x 24 pixels (2), 30 x 30 pixels (1), 31 x 31 pixels (1), 2 other sizes")


def test_report_of_defective_photographs_shows_the_missed_ones_first() -> None:
    references = ClipSamReferences([torch.ones(1, 2)], torch.zeros(1), settings([0.2, 0.4], 0.4))
    defective = [ScoredPhotograph("a.png", 0.9), ScoredPhotograph("b.png", 0.4), ScoredPhotograph("c.png", 0.5)]
    assert to_text(references, defective).splitlines()[-4:] == [
        "defective photographs above the threshold: 2 of 3",
        "  0.4000  b.png  missed",
        "  0.5000  c.png",
        "  0.9000  a.png",
    ]


# --------------------------------------------------------------------------------------------------------------------
# Two products in one folder


def around(direction: int, count: int, seed: int) -> list[np.ndarray]:
    """Vectors near one axis."""
    draw = np.random.default_rng(seed)
    return [np.eye(8)[direction] + draw.normal(0, 0.05, 8) for _ in range(count)]


def test_two_groups_are_found_and_one_is_not_split() -> None:
    assert find_mixture([*around(0, 4, 0), *around(1, 3, 1)]) in ([0] * 4 + [1] * 3, [1] * 4 + [0] * 3)
    assert find_mixture(around(0, 12, 0)) is None
    assert find_mixture([*around(0, 2, 0), *around(1, 2, 1)]) is None  # too few


def test_an_odd_photograph_is_no_group_and_hides_none() -> None:
    odd = around(2, 1, 2)
    assert find_mixture([*around(0, 8, 0), *odd]) is None
    groups = find_mixture([*around(0, 8, 0), *around(1, 8, 1), *odd])
    assert groups is not None and len(set(groups[:8])) == 1 and len(set(groups[8:16])) == 1 and groups[0] != groups[8]


def test_the_sentence_names_one_of_each_product() -> None:
    assert explain_mixture([1, 0, 1], ["a", "b", "c"]) == (
        "Of 3 photographs 1, such as b, look like one product and 2, such as a, like another."
    )


@pytest.fixture
def mixed(tmp_path: Path) -> Path:
    """Dark noise and, under later names, bright stripes."""
    folder = save_photographs(tmp_path / "mixed", 4)
    for number in range(4):
        pixels = np.random.default_rng(number).integers(0, 20, (24, 40, 3), dtype=np.uint8)
        pixels[:, ::4] = 255
        Image.fromarray(pixels).save(folder / f"striped-{number}.png")
    return folder


@pytest.fixture
def warnings_of(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> pytest.LogCaptureFixture:
    """The library's logger hands nothing to the root logger, where pytest listens."""
    monkeypatch.setattr(standard_logging.getLogger("clipsam_hf"), "propagate", True)
    monkeypatch.setattr(standard_logging.getLogger("transformers"), "propagate", True)
    return caplog


def test_references_of_two_products_warn(
    mixed: Path, checkpoint: Path, tmp_path: Path, warnings_of: pytest.LogCaptureFixture
) -> None:
    result = calibrate(mixed, checkpoint, tmp_path / "line")
    assert result.exit_code == 0, result.output
    sentence = "Of 8 photographs 4, such as {}, look like one product and 4, such as {}, like another."
    assert any(
        f"groups: {sentence.format(*pair)}\n" in result.stdout
        for pair in (("000.png", "striped-0.png"), ("striped-0.png", "000.png"))
    )
    warned = [record.message for record in warnings_of.records if "like another" in record.message]
    assert len(warned) == 1 and warned[0].endswith("References are of one product each.")


def test_mutual_scoring_of_two_products_warns_once(
    mixed: Path, checkpoint: Path, warnings_of: pytest.LogCaptureFixture
) -> None:
    finder = pipeline("zero-shot-anomaly-segmentation", model=str(checkpoint))
    assert len(list(finder(str(mixed), references="mutual", refine=False))) == 8
    warned = [record.message for record in warnings_of.records if "like another" in record.message]
    assert len(warned) == 1
    assert "such as number 1," in warned[0] and "such as number 5," in warned[0]


def test_mutual_scoring_of_one_photograph_is_refused(checkpoint: Path, tmp_path: Path) -> None:
    finder = pipeline("zero-shot-anomaly-segmentation", model=str(checkpoint))
    folder = save_photographs(tmp_path / "single", 1)
    with pytest.raises(ValueError, match="needs at least two of them, got 1; for one photograph, give good"):
        list(finder(str(folder), references="mutual"))
    with pytest.raises(ValueError, match="at least two"):
        draw_others(0, 32)


# --------------------------------------------------------------------------------------------------------------------
# What cannot be


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "'nowhere' is no folder of photographs"),
        (["good/000.png"], "'good/000.png' is no folder of photographs"),
        (["empty"], "'empty' holds no photograph"),
        (["good", "--defective", "nowhere"], "'nowhere' is no folder of photographs"),
        (["good", "--defective", "empty"], "'empty' holds no photograph"),
        (["good", "--class-name", " "], "must not be empty"),
        (["good", "--quantile", "0"], r"`quantile` must lie in \(0, 1\], got 0.0"),
        (["good", "--quantile", "1.5"], r"`quantile` must lie in \(0, 1\], got 1.5"),
        (["good", "--quantile", "nan"], r"`quantile` must lie in \(0, 1\], got nan"),
        (["good", "--roi", "nowhere.png"], "--roi must be an image file, got 'nowhere.png'"),
        (["good", "--roi", "good"], "--roi must be an image file, got 'good'"),
        (["good", "--output", "used"], "'used' already holds references; take another folder, or `overwrite`"),
        (["good", "--output", "good"], "'good' already holds files"),
        (["good", "--output", "black.png"], "must be a folder, but .* is a file"),
        (["good", "--device", "nonsense"], "the device 'nonsense' cannot be used here"),
        (["good", "--dtype", "int8"], "--dtype must be one of"),
        (["good", "--model", "/nope"], "'/nope' is no folder"),
        (["good", "--clip", "somewhere"], "--clip and --sam belong together"),
    ],
)
def test_bad_input_is_one_message_before_the_model_is_loaded(
    arguments: list[str], message: str, good: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(ClipSamForAnomalySegmentation, "from_pretrained", None)
    for folder in ("empty", "used"):
        (tmp_path / folder).mkdir()
    (tmp_path / "used" / "references.json").write_text("{}")
    Image.new("L", (8, 8)).save("black.png")
    given = ["calibrate", "--class-name", "candle", "--output", "line", *arguments]
    before = sorted(tmp_path.rglob("*"))
    result = run(*given)
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    assert re.search(message, result.stderr) and result.stderr.count("\n") == 1
    assert sorted(tmp_path.rglob("*")) == before


def test_a_region_of_interest_that_is_black_is_refused(good: Path, checkpoint: Path, tmp_path: Path) -> None:
    Image.new("L", (8, 8)).save(tmp_path / "black.png")
    result = calibrate(good, checkpoint, tmp_path / "line", "--roi", tmp_path / "black.png")
    assert result.exit_code == 2
    message = "error: The region of interest is empty: its mask is black everywhere."
    assert result.stderr.splitlines()[-1] == message and result.stderr.count("error: ") == 1
    assert not (tmp_path / "line").exists()


def test_a_broken_photograph_is_named(good: Path, checkpoint: Path, tmp_path: Path) -> None:
    (good / "broken.png").write_bytes((good / "000.png").read_bytes()[:60])
    result = calibrate(good, checkpoint, tmp_path / "line")
    assert result.exit_code == 2
    assert "broken.png" in result.stderr.splitlines()[-1] and result.stderr.count("error: ") == 1
    assert not (tmp_path / "line").exists()


def test_overwrite_replaces_a_line(good: Path, checkpoint: Path, tmp_path: Path) -> None:
    assert calibrate(good, checkpoint, tmp_path / "line").exit_code == 0
    (good / "004.png").unlink()
    assert calibrate(good, checkpoint, tmp_path / "line").exit_code == 2
    assert len(ClipSamReferences.from_pretrained(tmp_path / "line")) == 5
    result = calibrate(good, checkpoint, tmp_path / "line", "--overwrite")
    assert result.exit_code == 0, result.output
    assert len(ClipSamReferences.from_pretrained(tmp_path / "line")) == 4
