# SPDX-FileCopyrightText: 2026 The clipsam_hf authors
# SPDX-License-Identifier: Apache-2.0
"""The console script starts light: help, version and completion come without torch."""

import os
import shutil
import stat
import subprocess
import sys
from importlib.metadata import distribution
from pathlib import Path

import pytest
from PIL import Image

import clipsam_command
import clipsam_hf
from clipsam_command import WaitingPackage, import_waiting


CALL = """
import sys
from contextlib import suppress

from clipsam_command import main

for argument in sys.argv[1:]:
    sys.argv = ["clipsam", *argument.split()]
    with suppress(SystemExit):
        main()
print("imported:", *sorted({"numpy", "scipy", "torch", "transformers"} & sys.modules.keys()))
"""


def test_console_script_is_the_light_one() -> None:
    (entry,) = distribution("clipsam_hf").entry_points.select(group="console_scripts")
    assert (entry.name, entry.load()) == ("clipsam", clipsam_command.main)


def test_help_version_and_info_come_without_torch() -> None:
    arguments = ["--version", "--help", "predict --help", "evaluate --help", "calibrate --help", "info"]
    result = subprocess.run([sys.executable, "-c", CALL, *arguments], capture_output=True, text=True, check=True)
    assert result.stdout.startswith(f"{clipsam_hf.__version__}\n")
    assert result.stdout.count("Usage: clipsam") == 4
    assert "clipsam-tiny: a ClipSAM" in result.stdout
    assert result.stdout.endswith("imported:\n")


def test_a_model_is_loaded_without_a_word(tmp_path: Path) -> None:
    """The package that waited registers its classes before the library reads a checkpoint."""
    Image.new("RGB", (40, 40)).save(tmp_path / "photo.png")
    argument = f"predict {tmp_path / 'photo.png'} --class-name tile --no-refine --output {tmp_path / 'out'}"
    result = subprocess.run([sys.executable, "-c", CALL, argument], capture_output=True, text=True, check=True)
    assert (tmp_path / "out" / "predictions.csv").exists()
    assert "[transformers]" not in result.stderr, result.stderr


def write_toy(folder: Path) -> None:
    (folder / "toy").mkdir()
    (folder / "toy" / "__init__.py").write_text("from .below import began\n\nbegan.append('toy')\nanswer = 42\n")
    (folder / "toy" / "below.py").write_text("began = ['below']\n")


def test_a_waiting_package_begins_when_it_is_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_toy(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    toy = import_waiting("toy")
    try:
        from toy.below import began  # type: ignore[import-not-found]

        assert began == ["below"] and isinstance(toy, WaitingPackage)
        from toy import answer

        assert answer == 42 and began == ["below", "toy"]
        assert toy.answer == 42 and not isinstance(toy, WaitingPackage)
        with pytest.raises(AttributeError, match="no attribute 'nothing'"):
            _ = toy.nothing
        assert import_waiting("toy") is toy and began == ["below", "toy"]  # once only
    finally:
        for name in ("toy", "toy.below"):
            sys.modules.pop(name, None)


def test_only_what_exists_and_is_new_waits() -> None:
    assert import_waiting("clipsam_hf") is clipsam_hf
    with pytest.raises(ModuleNotFoundError, match="no_such_package"):
        import_waiting("no_such_package")


@pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash")
def test_bash_completes_options(tmp_path: Path) -> None:
    program = tmp_path / "clipsam"
    program.write_text(f"#!{sys.executable}\nfrom clipsam_command import main\n\nmain()\n")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    script = """
        eval "$(_CLIPSAM_COMPLETE=source_bash clipsam)"
        COMP_WORDS=(clipsam predict --over); COMP_CWORD=2; _clipsam_completion clipsam; echo "${COMPREPLY[@]}"
    """
    environment = {**os.environ, "PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}"}
    result = subprocess.run(["bash", "-euc", script], env=environment, capture_output=True, text=True, check=True)
    assert result.stdout.split() == ["--overwrite"]
