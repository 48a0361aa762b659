# SPDX-FileCopyrightText: 2026 The clipsam_hf authors
# SPDX-License-Identifier: Apache-2.0
"""The commands of a recipe's README are those that its scripts take, and all of its files are described."""

import importlib
import re
import shlex
from fnmatch import fnmatch
from pathlib import Path

import pytest
from typer.main import get_command

from clipsam_hf.cli import app


RECIPE = Path(__file__).parents[1] / "recipes" / "clipsam_tiny"
README = (RECIPE / "README.md").read_text(encoding="utf-8")


def commands() -> list[list[str]]:
    blocks = re.findall(r"```bash\n(.*?)```", README, re.DOTALL)
    return [shlex.split(line) for block in blocks for line in block.replace("\\\n", " ").splitlines()]


@pytest.mark.parametrize("command", commands(), ids=" ".join)
def test_command_is_understood(command: list[str]) -> None:
    if command[0] == "python":
        folder, _, script = command[1].rpartition("/")
        assert folder == "recipes/clipsam_tiny"
        importlib.import_module(script.removesuffix(".py")).parse_args(command[2:])
    else:
        assert command[0] == "clipsam"
        parser = get_command(app).commands[command[1]]
        parser.make_context(command[1], command[2:])


def test_every_file_is_described() -> None:
    patterns = re.findall(r"`([\w*]+\.(?:py|md))`", README.partition("## Files")[2].partition("Figures are")[0])
    files = [path.name for path in RECIPE.iterdir() if path.is_file() and path.name != "README.md"]
    assert [name for name in files if not any(fnmatch(name, pattern) for pattern in patterns)] == []
    assert [pattern for pattern in patterns if not any(fnmatch(name, pattern) for name in files)] == []
