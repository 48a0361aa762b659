# SPDX-FileCopyrightText: 2026 The clipsam_hf authors
# SPDX-License-Identifier: Apache-2.0
"""What users build on: public names stay, the source distribution builds, and the table of faults names real tests."""

import ast
import importlib
import re
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest


ROOT = Path(__file__).parents[1]
TESTS = ROOT / "tests"
PUBLIC = TESTS / "data" / "public_names.txt"
MODULES = ("clipsam_hf", *(f"clipsam_hf.{name}" for name in ("data", "evaluation", "metrics", "prediction")))


def functions_of(path: Path) -> set[str]:
    """Functions and methods of a file, by name."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}


@pytest.mark.parametrize("document", ["docs/faults.md", "SECURITY.md"])
def test_every_test_that_a_document_names_exists(document: str) -> None:
    text = (ROOT / document).read_text(encoding="utf-8")
    named = re.findall(r"`(\w+)::(\w+)`", text)
    assert len(named) > 10
    for file, function in named:
        [path] = [
            path for path in (TESTS / f"test_{file}.py", TESTS / f"{file}.py", TESTS / "fuzz" / f"test_{file}.py")
            if path.exists()
        ]  # fmt: skip
        assert function in functions_of(path), f"{document} names {file}::{function}"


def test_public_names_stay() -> None:
    """One is taken away after a deprecation only; a release adds to the file what has come."""
    names = {f"{module}.{name}" for module in MODULES for name in importlib.import_module(module).__all__}
    assert set(PUBLIC.read_text(encoding="utf-8").split()) - names == set()


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_source_distribution_builds(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    for name in ("LICENSE", "MANIFEST.in", "README.md", "pyproject.toml", "setup.py"):
        shutil.copy(ROOT / name, source)
    shutil.copytree(ROOT / "src", source / "src", ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    build = f"from setuptools.build_meta import build_sdist; build_sdist({str(tmp_path)!r})"
    subprocess.run([sys.executable, "-c", build], cwd=source, check=True, capture_output=True)
    [archive] = tmp_path.glob("*.tar.gz")
    with tarfile.open(archive) as opened:
        held = {name.partition("/")[2] for name in opened.getnames()}
    files = {path.relative_to(source).as_posix() for path in (source / "src").rglob("*") if path.is_file()}
    assert {name for name in files if ".egg-info" not in name} | {"setup.py", "LICENSE"} <= held
