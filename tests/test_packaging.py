# SPDX-FileCopyrightText: 2026 The clipsam_hf authors
# SPDX-License-Identifier: Apache-2.0
"""What is installed: requirement lists and pins that agree, a complete wheel, and an import that asks for little."""

import importlib.metadata
import runpy
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import clipsam_hf


ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "clipsam_hf"


@pytest.fixture
def setup_arguments(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The keyword arguments with which setup.py calls `setup`."""
    arguments: dict[str, Any] = {}
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr("setuptools.setup", lambda **kwargs: arguments.update(kwargs))
    runpy.run_path("setup.py")
    return arguments


@pytest.fixture(scope="module")
def pins() -> dict[str, str]:
    """The exact versions of constraints.txt by canonical name."""
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    rows = [line.split("==") for line in lines if not line.startswith("#")]
    return {canonicalize_name(name): version for name, version in rows}


def all_requirements(arguments: dict[str, Any]) -> list[Requirement]:
    extras = [extra for name, extra in arguments["extras_require"].items() if name != "compat-tests"]
    return [Requirement(line) for line in sum(extras, arguments["install_requires"])]


def run_python(*arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *arguments], cwd=cwd, capture_output=True, text=True, timeout=100)


def test_every_requirement_declares_a_minimum_that_the_pin_meets(
    setup_arguments: dict[str, Any], pins: dict[str, str]
) -> None:
    for requirement in all_requirements(setup_arguments):
        assert [bound.operator for bound in requirement.specifier] == [">="], requirement
        assert requirement.specifier.contains(pins[canonicalize_name(requirement.name)]), requirement


def test_everything_that_comes_along_is_pinned(setup_arguments: dict[str, Any], pins: dict[str, str]) -> None:
    """Walks from the tests' requirements to all that they install; torch pins its own CUDA libraries exactly."""
    if any(importlib.metadata.version(name) != pins[name] for name in ("transformers", "huggingface-hub")):
        pytest.skip("other versions than those of constraints.txt need other libraries")
    waiting = [Requirement(line) for line in setup_arguments["extras_require"]["tests"]]
    waiting += [Requirement(line) for line in setup_arguments["install_requires"]]
    seen: set[tuple[str, str]] = set()
    while waiting:
        requirement = waiting.pop()
        for extra in {"", *requirement.extras}:
            name = canonicalize_name(requirement.name)
            if (name, extra) in seen or name.startswith(("nvidia-", "cuda-", "triton")):
                continue
            seen.add((name, extra))
            assert name in pins, f"constraints.txt lacks {name}"
            below = [Requirement(line) for line in importlib.metadata.requires(name) or []]
            waiting += [item for item in below if item.marker is None or item.marker.evaluate({"extra": extra})]
    assert len(seen) > 30


def test_compat_tests_are_the_declared_minimums(setup_arguments: dict[str, Any]) -> None:
    extras = setup_arguments["extras_require"]
    for exact, declared in zip(
        extras["compat-tests"], [*setup_arguments["install_requires"], *extras["tests"]], strict=True
    ):
        assert exact == (declared if declared == "torch>=2.6" else declared.replace(">=", "=="))


def test_dev_is_tests_and_quality(setup_arguments: dict[str, Any]) -> None:
    extras = setup_arguments["extras_require"]
    assert set(extras["dev"]) == {*extras["tests"], *extras["quality"]}


def test_wheel_holds_every_file_of_the_package(tmp_path: Path) -> None:
    source, wheels = tmp_path / "source", tmp_path / "wheels"
    source.mkdir()
    wheels.mkdir()
    for name in ("LICENSE", "MANIFEST.in", "README.md", "pyproject.toml", "setup.py"):
        shutil.copy(ROOT / name, source)
    shutil.copytree(ROOT / "src", source / "src", ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    build = run_python(
        "-c", f"from setuptools.build_meta import build_wheel; build_wheel({str(wheels)!r})", cwd=source
    )
    assert build.returncode == 0, build.stderr

    [wheel] = wheels.iterdir()
    held = set(zipfile.ZipFile(wheel).namelist())
    files = {
        path.relative_to(source / "src").as_posix()
        for path in (source / "src").rglob("*")
        if path.is_file() and ".egg-info" not in path.parent.name
    }
    assert files <= held
    assert {
        "clipsam_command.py",
        "clipsam_hf/py.typed",
        "clipsam_hf/checkpoints/clipsam-tiny/model.safetensors",
    } <= held
    assert any(name.endswith("/LICENSE") for name in held)


def test_import_is_silent_and_offline() -> None:
    """No warning, no output, no connection."""
    script = (
        "import socket\n"
        "def refuse(*args, **kwargs): raise SystemExit('the import uses the network')\n"
        "socket.socket.connect = socket.getaddrinfo = refuse\n"
        "import clipsam_hf\n"
    )
    result = run_python("-W", "error", "-c", script)
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")


@pytest.mark.slow
def test_import_needs_no_extra() -> None:
    optional = ["accelerate", "datasets", "evaluate", "skimage", "sklearn", "torchvision"]
    result = run_python("-c", f"import sys; sys.modules.update(dict.fromkeys({optional})); import clipsam_hf")
    assert result.returncode == 0, result.stderr


def test_citation_names_the_version() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == clipsam_hf.__version__


def test_every_source_file_names_its_licence() -> None:
    header = "# SPDX-FileCopyrightText: 2026 The clipsam_hf authors\n# SPDX-License-Identifier: Apache-2.0\n"
    folders = ("src", "examples", "recipes", "benchmarks", "tests")
    files = [ROOT / "setup.py", *(path for folder in folders for path in (ROOT / folder).rglob("*.py"))]
    assert [path.name for path in files if not path.read_text(encoding="utf-8").startswith(header)] == []
