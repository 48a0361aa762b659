# SPDX-FileCopyrightText: 2026 The clipsam_hf authors
# SPDX-License-Identifier: Apache-2.0
"""examples/quickstart.py: it runs as it stands, and says in one sentence what a user can mend."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import quickstart
from PIL import Image

from clipsam_hf.pipeline_clipsam import ZeroShotAnomalySegmentationPipeline


@pytest.fixture
def photo(tmp_path: Path) -> str:
    path = tmp_path / "photo.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (24, 40, 3), dtype=np.uint8)).save(path)
    return str(path)


def test_without_arguments_it_finds_the_drawn_crack(tmp_path: Path) -> None:
    pytest.importorskip("skimage")
    run = subprocess.run(
        [sys.executable, quickstart.__file__], cwd=tmp_path, capture_output=True, text=True, timeout=100
    )
    assert run.returncode == 0, run.stderr
    lines = run.stdout.splitlines()
    assert lines[0].startswith("bricks with a drawn crack: 512x512 (height x width), 'brick pavement', on ")
    assert sum("against the known truth: IoU 0." in line for line in lines) == 2
    with Image.open(tmp_path / "quickstart.png") as picture:
        assert picture.width > 4 * 512


def test_a_photograph_of_ones_own(tmp_path: Path, photo: str, capsys: pytest.CaptureFixture[str]) -> None:
    quickstart.main([photo, "--class-name", "candle", "--output", str(tmp_path / "candle.jpg")])
    out = capsys.readouterr().out
    assert out.startswith(f"{photo}: 24x40 (height x width), 'candle'") and "truth" not in out
    assert (tmp_path / "candle.jpg").stat().st_size > 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--class-name", ""], "class name must not be empty"),
        (["--model", "/nope"], "--model must be a folder or the name of a ClipSAM, got '/nope': "),
        (["--model", "empty"], "--model must be a folder or the name of a ClipSAM, got 'empty': "),
        (["--model", "org/unknown"], "got 'org/unknown': "),
        (["--output", "nowhere/candle.png"], "--output must be a file in a folder that exists"),
        (["--output", "empty.png/"], "--output must be a file in a folder that exists"),
        (["--output", "candle.txt"], "--output must end in .png"),
        (["missing.png"], "missing.png"),
        (["no_image.png"], "no_image.png"),
    ],
)
def test_what_a_user_can_mend_is_one_line_and_exit_code_2(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    photo: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    for folder in ("empty", "empty.png"):
        (tmp_path / folder).mkdir()
    (tmp_path / "no_image.png").write_text("no image")
    monkeypatch.setattr(ZeroShotAnomalySegmentationPipeline, "__call__", lambda *_, **__: pytest.fail("it computed"))
    with pytest.raises(SystemExit) as stopped:
        quickstart.main(arguments if arguments[0].endswith(".png") else [photo, *arguments])
    line = capsys.readouterr().err.splitlines()[-1]  # before it at most the bar of a model that loads
    assert stopped.value.code == 2
    assert line.startswith("quickstart.py: ") and message in line


def test_a_model_that_cannot_predict_is_refused(
    tiny_checkpoint: Path, photo: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # as if its head had not been loaded
    untrained = property(lambda model: False, lambda model, value: None)
    monkeypatch.setattr(quickstart.ClipSamForAnomalySegmentation, "head_is_trained", untrained)
    with pytest.raises(SystemExit, match="2"):
        quickstart.main([photo, "--model", str(tiny_checkpoint)])
    assert "has random weights" in capsys.readouterr().err
