# SPDX-FileCopyrightText: 2026 The clipsam_hf authors
# SPDX-License-Identifier: Apache-2.0
"""What README and documents promise: the two commands, the Python they show, and the files they link to."""

import doctest
import importlib
import pkgutil
import re
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import clipsam_hf


ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
DOCUMENTS = [
    path.relative_to(ROOT).as_posix()
    for pattern in ("*.md", "docs/**/*.md", "examples/*.md", "recipes/**/*.md")
    for path in sorted(ROOT.glob(pattern))
]
# A block that cannot be run, because it needs the Hub, says so in a comment above it; it must still compile.
PYTHON_BLOCK = re.compile(
    r"(?P<comment><!-- not run: .+ -->\n)?```python\n(?P<code>.*?)^```$", re.MULTILINE | re.DOTALL
)
LINK = re.compile(r"\]\(([^)#\s]+)(?:#[^)\s]*)?\)")

EVALUATE_MODULES = "clipsam_hf.metrics.evaluate_modules."

SETUP = [
    "python3.11 -m venv --without-pip .venv &&",
    "python3.11 -m pip --python .venv/bin/python install pip &&",
    "source .venv/bin/activate &&",
    "pip install -c constraints.txt torch==2.13.0 &&",
]
COMMANDS = {
    "demo": [
        *SETUP,
        'pip install -c constraints.txt ".[demo]" &&',
        "clipsam demo",
    ],
    "test": [
        *SETUP,
        'pip install -c constraints.txt ".[tests]" &&',
        "python -m pytest -n 2",
    ],
}


def photograph(seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (48, 64, 3), dtype=np.uint8))


def python_blocks(document: str) -> list[re.Match[str]]:
    return list(PYTHON_BLOCK.finditer((ROOT / document).read_text(encoding="utf-8")))


def documents_with_python() -> list[str]:
    return [document for document in DOCUMENTS if python_blocks(document)]


@pytest.mark.parametrize("name", COMMANDS)
def test_readme_has_the_command(name: str) -> None:
    assert f"<!-- command: {name} -->\n```bash\n" + "\n".join(COMMANDS[name]) + "\n```\n" in README


@pytest.mark.parametrize("name", COMMANDS)
def test_continuous_integration_runs_the_command_of_the_readme(name: str) -> None:
    extract = 'eval "$(sed -n \'/^readme_command()/,/^}/p\' .ci/run)"; readme_command "$1"'
    arguments = ["bash", "-euo", "pipefail", "-c", extract, "bash", name]
    output = subprocess.run(arguments, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert output.splitlines() == COMMANDS[name]


def test_commands_install_the_torch_of_the_constraints() -> None:
    pins = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    assert [pin for pin in pins if pin.startswith("torch==")] == ["torch==2.13.0"]


def test_continuous_integration_script_parses() -> None:
    subprocess.run(["bash", "-n", ".ci/run"], cwd=ROOT, check=True)


@pytest.mark.parametrize("document", documents_with_python())
def test_python_of_document_compiles(document: str) -> None:
    for block in python_blocks(document):
        compile(block["code"], document, "exec")


QUICK_DOCUMENTS = {"docs/quickstart.md", "docs/how-to/predict.md"}
"""The others run with the slow tests: they load the embedded checkpoint again and again."""


@pytest.mark.parametrize(
    "document",
    [
        pytest.param(each, marks=() if each in QUICK_DOCUMENTS else pytest.mark.slow)
        for each in documents_with_python()
    ],
)
def test_python_of_document_runs(document: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The blocks of a document run one after the other, in a folder with a photograph and two folders of some."""
    monkeypatch.chdir(tmp_path)
    photograph().save("photo.jpg")
    for folder in ("good", "new"):
        Path(folder).mkdir()
        for number in (1, 2, 3):
            photograph(number).save(f"{folder}/{number}.jpg")
    namespace: dict[str, object] = {}
    for block in python_blocks(document):
        if not block["comment"]:
            exec(compile(block["code"], document, "exec"), namespace)


@pytest.mark.parametrize("document", DOCUMENTS)
def test_links_of_document_lead_to_files(document: str) -> None:
    text = (ROOT / document).read_text(encoding="utf-8")
    targets = [target for target in LINK.findall(text) if "://" not in target]
    missing = [target for target in targets if not (ROOT / document).parent.joinpath(target).exists()]
    assert missing == []


def module_names() -> list[str]:
    """Every module of the package, those of its packages too; the modules for `evaluate` are data to this one."""
    modules = pkgutil.walk_packages(clipsam_hf.__path__, "clipsam_hf.")
    return sorted(module.name for module in modules if not module.name.startswith(EVALUATE_MODULES))


def test_modules_of_packages_are_walked() -> None:
    assert {"clipsam_hf.cli", "clipsam_hf.metrics.ranks", "clipsam_hf.evaluation.run"} <= set(module_names())


@pytest.mark.parametrize("name", module_names())
def test_examples_in_docstrings_are_true(name: str, tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Examples may use `folder`, a checkpoint, and `photograph`, a PIL image."""
    monkeypatch.chdir(tiny_checkpoint.parent)
    module = importlib.import_module(name)
    given = {"folder": tiny_checkpoint, "photograph": photograph()}
    result = doctest.testmod(module, extraglobs=given, optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    assert result.failed == 0
