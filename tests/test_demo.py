# SPDX-FileCopyrightText: 2026 The clipsam_hf authors
# SPDX-License-Identifier: Apache-2.0
"""`clipsam demo`: it runs without a checkout, and says in one sentence what a user can mend."""

import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
import venv
from pathlib import Path

import numpy as np
import pytest
import quickstart
from PIL import Image
from typer.testing import CliRunner, Result

from clipsam_hf import ClipSamForAnomalySegmentation
from clipsam_hf.cli import app
from clipsam_hf.pipeline_clipsam import ZeroShotAnomalySegmentationPipeline


ROOT = Path(__file__).parents[1]


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["demo", *arguments])


@pytest.fixture
def photo(tmp_path: Path) -> str:
    path = tmp_path / "photo.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (24, 40, 3), dtype=np.uint8)).save(path)
    return str(path)


def test_documented_commands_find_the_drawn_crack(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("skimage")
    monkeypatch.chdir(tmp_path)
    document = (ROOT / "docs" / "how-to" / "install.md").read_text(encoding="utf-8")
    [block] = re.findall(r"<!-- command: install -->\n```bash\n(.+?)\n```", document, re.DOTALL)
    shown, told = (CliRunner().invoke(app, shlex.split(line)[1:]) for line in block.splitlines())
    assert shown.exit_code == told.exit_code == 0, shown.output + told.output
    check_sample(shown.stdout, tmp_path / "demo.png")
    assert told.stdout.startswith("clipsam-tiny: a ClipSAM\n")


def check_sample(output: str, picture: Path) -> None:
    lines = output.splitlines()
    assert lines[0].startswith("bricks with a drawn crack: 512x512 (height x width), 'brick pavement', on ")
    assert sum("against the known truth: IoU 0." in line for line in lines) == 2
    with Image.open(picture) as opened:
        assert opened.width > 3 * 512


def test_a_photograph_of_ones_own(tmp_path: Path, photo: str, tiny_checkpoint: Path) -> None:
    picture = tmp_path / "candle.jpg"
    result = run(photo, "--class-name", "candle", "--output", str(picture), "--model", str(tiny_checkpoint))
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith(f"{photo}: 24x40 (height x width), 'candle'") and "truth" not in result.stdout
    assert picture.stat().st_size > 0


def test_the_script_is_the_command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["quickstart.py", "--help"])
    with pytest.raises(SystemExit, match="0"):
        runpy.run_path(quickstart.__file__, run_name="__main__")
    assert "[PHOTO]" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--class-name", ""], "class name must not be empty"),
        (["--model", "/nope"], "'/nope' is no folder with a checkpoint"),
        (["--model", "empty"], "cannot load 'empty': "),
        (["--model", "org/unknown"], "cannot load 'org/unknown': "),
        (["--output", "nowhere/candle.png"], "--output must be a file in a folder that exists"),
        (["--output", "empty.png/"], "--output must be a file in a folder that exists"),
        (["--output", "candle.txt"], "--output must end in .png"),
        (["missing.png"], "missing.png"),
        (["no_image.png"], "no_image.png"),
    ],
)
def test_what_a_user_can_mend_is_one_line_and_exit_code_2(
    arguments: list[str], message: str, tmp_path: Path, photo: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for folder in ("empty", "empty.png"):
        (tmp_path / folder).mkdir()
    (tmp_path / "no_image.png").write_text("no image")
    monkeypatch.setattr(ZeroShotAnomalySegmentationPipeline, "__call__", lambda *_, **__: pytest.fail("it computed"))
    result = run(*(arguments if arguments[0].endswith(".png") else [photo, *arguments]))
    assert result.exit_code == 2, result.output
    assert result.stderr.startswith("error: ") and message in result.stderr and result.stderr.count("\n") == 1


def test_a_model_that_cannot_predict_is_refused(
    tiny_checkpoint: Path, photo: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # as if its head had not been loaded
    untrained = property(lambda model: False, lambda model, value: None)
    monkeypatch.setattr(ClipSamForAnomalySegmentation, "head_is_trained", untrained)
    result = run(photo, "--model", str(tiny_checkpoint))
    assert result.exit_code == 2 and "has random weights" in result.stderr


@pytest.mark.slow
@pytest.mark.timeout(800)
def test_the_wheel_alone_shows_it_offline(tmp_path: Path) -> None:
    """An environment with the wheel, and of the rest what this one has; neither checkout nor network."""
    pytest.importorskip("skimage")
    source, wheels, environment = tmp_path / "source", tmp_path / "wheels", tmp_path / "environment"
    ignored = shutil.ignore_patterns("__pycache__", "*.egg-info")
    shutil.copytree(ROOT / "src", source / "src", ignore=ignored)
    for name in ("LICENSE", "MANIFEST.in", "README.md", "pyproject.toml", "setup.py"):
        shutil.copy(ROOT / name, source)
    wheels.mkdir()
    build = f"from setuptools.build_meta import build_wheel; build_wheel({str(wheels)!r})"
    subprocess.run([sys.executable, "-c", build], cwd=source, check=True, capture_output=True)
    shutil.rmtree(source)
    venv.create(environment, symlinks=True)
    python = environment / "bin" / "python"
    installed = environment / "lib" / f"python{sys.version_info.major}.{sys.version_info.minor}" / "site-packages"
    # The libraries of this environment, but not an editable install of this package
    for path in map(Path, sys.path):
        for entry in path.iterdir() if path.name == "site-packages" else ():
            if "clipsam" not in entry.name and not (installed / entry.name).exists():
                (installed / entry.name).symlink_to(entry)
    [wheel] = wheels.iterdir()
    install = [sys.executable, "-m", "zipfile", "-e", str(wheel), str(installed)]
    subprocess.run(install, check=True)
    script = "import sys; from importlib.metadata import distribution; sys.argv[0] = 'clipsam'; "
    script += "distribution('clipsam_hf').entry_points['clipsam'].load()()"
    result = subprocess.run(
        [str(python), "-c", script, "demo"],
        cwd=tmp_path,
        env={**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONPATH": ""},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert result.returncode == 0, result.stderr
    check_sample(result.stdout, tmp_path / "clipsam-demo.png")
