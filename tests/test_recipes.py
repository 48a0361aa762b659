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


RECIPES = sorted(path.parent for path in (Path(__file__).parents[1] / "recipes").glob("*/README.md"))


def readme_of(recipe: Path) -> str:
    return (recipe / "README.md").read_text(encoding="utf-8")


def commands() -> list[tuple[str, list[str]]]:
    blocks = [
        (recipe.name, block)
        for recipe in RECIPES
        for block in re.findall(r"```bash\n(.*?)```", readme_of(recipe), re.DOTALL)
    ]
    return [(name, shlex.split(line)) for name, block in blocks for line in block.replace("\\\n", " ").splitlines()]


@pytest.mark.parametrize(
    ("recipe", "command"), commands(), ids=lambda part: part if isinstance(part, str) else " ".join(part)
)
def test_command_is_understood(recipe: str, command: list[str]) -> None:
    if command[0] == "python":
        folder, _, script = command[1].rpartition("/")
        assert folder == f"recipes/{recipe}"
        importlib.import_module(script.removesuffix(".py")).parse_args(command[2:])
    else:
        assert command[0] == "clipsam"
        parser = get_command(app).commands[command[1]]
        parser.make_context(command[1], command[2:])


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.name)
def test_every_file_is_described(recipe: Path) -> None:
    table = readme_of(recipe).partition("## Files")[2].partition("Figures are")[0]
    patterns = re.findall(r"^\|.*?\|", table, re.MULTILINE)
    named = re.findall(r"`([\w*]+\.(?:py|md))`", "".join(patterns))
    files = [path.name for path in recipe.iterdir() if path.is_file() and path.name != "README.md"]
    assert [name for name in files if not any(fnmatch(name, pattern) for pattern in named)] == []
    assert [pattern for pattern in named if not any(fnmatch(name, pattern) for name in files)] == []
