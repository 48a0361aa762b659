# SPDX-FileCopyrightText: 2026 The clipsam_hf authors
# SPDX-License-Identifier: Apache-2.0
"""The two floors of the package: what travels to the Hub imports nothing optional, and nothing imports upwards.

transformers' remote-code loader scans every import of a file, also those inside functions, and refuses the whole
repository when one library is missing. So the rule is checked on the syntax tree, without importing anything.
"""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest


PACKAGE = Path(__file__).parents[1] / "src" / "clipsam_hf"

# The ground floor, from the bottom to the top: each file and the siblings that it may import.
GROUND_FLOOR: dict[str, set[str]] = {
    "configuration_clipsam": set(),
    "loss_clipsam": set(),
    "refinement_clipsam": set(),
    "prompts_clipsam": set(),
    "image_loading": set(),
    "publishing_clipsam": set(),
    "checkpoint_clipsam": {"publishing_clipsam"},
    "umci_clipsam": {"configuration_clipsam"},
    "modeling_clipsam": {
        "checkpoint_clipsam",
        "configuration_clipsam",
        "loss_clipsam",
        "refinement_clipsam",
        "umci_clipsam",
    },
    "processing_clipsam": {"image_loading", "prompts_clipsam", "publishing_clipsam"},
    "pipeline_clipsam": {
        "checkpoint_clipsam",
        "image_loading",
        "modeling_clipsam",
        "processing_clipsam",
        "publishing_clipsam",
    },
}
# huggingface_hub and safetensors are beneath transformers itself: its strict dataclasses and its weights.
GROUND_LIBRARIES = {"PIL", "huggingface_hub", "numpy", "safetensors", "scipy", "torch", "transformers"}

# Upper floor: what these may import of the package. Files that are not named may import whatever is not above them.
UPPER_FLOOR: dict[str, set[str]] = {
    "rank_statistics": set(),
    "metrics": {"rank_statistics"},
    "data_layouts": set(),
    "data_samples": {"data_layouts", "image_loading"},
    "data": {"data_layouts", "data_samples", "image_loading"},
    "visualization": {"image_loading"},
    "report": {"visualization"},
    "evaluation_store": {"metrics"},
    "evaluation_report": {"evaluation_store"},
    "evaluation_predictor": {
        "data",
        "evaluation_store",
        "modeling_clipsam",
        "processing_clipsam",
        "refinement_clipsam",
    },
    # `__version__` inside a function: the package may export this module
    "evaluation": {
        "__version__",
        "data",
        "data_layouts",
        "evaluation_predictor",
        "evaluation_report",
        "evaluation_store",
        "metrics",
        "modeling_clipsam",
        "processing_clipsam",
    },
    "training_data": {"data_samples", "image_loading", "processing_clipsam"},
    "feature_cache": {"evaluation_store", "modeling_clipsam", "training_data"},
    "training_batches": {"feature_cache", "training_data"},
    "training_checkpoints": {"evaluation_store"},
    "training": {"evaluation_store", "training_batches", "training_checkpoints"},
    "calibration": {
        "data_samples",
        "evaluation_predictor",
        "metrics",
        "modeling_clipsam",
        "processing_clipsam",
        "rank_statistics",
    },
    "model_card": {
        "data_layouts",
        "evaluation_report",
        "evaluation_store",
        "image_loading",
        "modeling_clipsam",
        "pipeline_clipsam",
        "processing_clipsam",
        "publishing_clipsam",
        "visualization",
    },
    "cli": {
        "EMBEDDED_CHECKPOINT",
        "__version__",
        "data",
        "evaluation",
        "evaluation_report",
        "modeling_clipsam",
        "processing_clipsam",
    },
}
TOP = {"__init__", "cli"}
# tqdm and typer are requirements of transformers.
UPPER_LIBRARIES = GROUND_LIBRARIES | {"tqdm", "typer"}


class Import(NamedTuple):
    """One import statement; `module` is absolute, siblings are `.name`."""

    line: int
    module: str
    names: tuple[str, ...]
    inside_function: bool


def iterate_imports(node: ast.AST, inside_function: bool = False) -> Iterator[Import]:
    """Yields the imports below `node`, wherever they stand, except those for the type checker alone."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            for alias in child.names:
                yield Import(child.lineno, alias.name, (), inside_function)
        elif isinstance(child, ast.ImportFrom):
            names = tuple(alias.name for alias in child.names)
            yield Import(child.lineno, "." * child.level + (child.module or ""), names, inside_function)
        else:
            is_function = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            yield from iterate_imports(child, inside_function or is_function)


def is_for_type_checker(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test) in {"TYPE_CHECKING", "typing.TYPE_CHECKING"}


def library_of(module: str) -> str:
    return module.partition(".")[0]


def check_ground_floor(source: str, siblings: set[str]) -> list[str]:
    """Lists what a ground-floor file with this source may not import."""
    problems = []
    for statement in iterate_imports(ast.parse(source)):
        module, names = statement.module, statement.names
        if module.startswith("."):
            if module[1:].count(".") or not module[1:] or "*" in names:
                problems.append(f"line {statement.line}: only `from .sibling import Name`, not `{module}`")
            elif module[1:] not in siblings:
                problems.append(f"line {statement.line}: `{module}` is not beneath this file")
        elif library_of(module) not in GROUND_LIBRARIES | sys.stdlib_module_names:
            problems.append(f"line {statement.line}: `{module}` may be missing on a user's machine")
    return problems


def check_upper_floor(source: str, siblings: set[str]) -> list[str]:
    """Lists what an upper-floor file with this source may not import, or not at module level."""
    tree = ast.parse(source)
    tree.body = [node for node in tree.body if not is_for_type_checker(node)]
    problems = []
    for statement in iterate_imports(tree):
        module = statement.module
        if module.startswith(".") or library_of(module) == "clipsam_hf":
            used = {module.removeprefix("clipsam_hf").lstrip(".") or name for name in statement.names or ("",)}
            problems += [f"line {statement.line}: `{name}` is not beneath this file" for name in used - siblings]
        elif not statement.inside_function and library_of(module) not in UPPER_LIBRARIES | sys.stdlib_module_names:
            problems.append(f"line {statement.line}: optional `{module}` belongs inside the function that needs it")
    return problems


def module_names() -> list[str]:
    return sorted(path.stem for path in PACKAGE.glob("*.py"))


@pytest.mark.parametrize("name", [name for name in module_names() if name != "__init__"])
def test_file_imports_only_what_lies_beneath(name: str) -> None:
    source = (PACKAGE / f"{name}.py").read_text(encoding="utf-8")
    if name in GROUND_FLOOR or name.endswith("_clipsam"):
        assert name in GROUND_FLOOR, f"give {name} its place in GROUND_FLOOR"
        assert check_ground_floor(source, GROUND_FLOOR[name]) == []
    else:
        beneath = UPPER_FLOOR.get(name, set(module_names()) - TOP - {name})
        assert check_upper_floor(source, beneath) == []


def test_the_order_of_the_ground_floor_has_no_circle() -> None:
    seen: set[str] = set()
    for name, siblings in GROUND_FLOOR.items():
        assert siblings <= seen, f"{name} imports what stands above it"
        seen.add(name)


@pytest.mark.parametrize(
    "source",
    [
        "import cv2",
        "def load():\n    import datasets",
        "try:\n    import torchvision\nexcept ImportError:\n    pass",
        "if TYPE_CHECKING:\n    from accelerate import Accelerator",
        "from . import loss_clipsam",
        "from .. import loss_clipsam",
        "from .package.loss_clipsam import focal",
        "from .loss_clipsam import *",
        "from .modeling_clipsam import ClipSamOutput",
        "from clipsam_hf.loss_clipsam import focal",
        "import clipsam_hf",
    ],
)
def test_checker_refuses_on_the_ground_floor(source: str) -> None:
    assert len(check_ground_floor(source, {"loss_clipsam"})) == 1


@pytest.mark.parametrize(
    "source", ["import math", "from .loss_clipsam import focal", "def f():\n    from scipy import ndimage"]
)
def test_checker_accepts_on_the_ground_floor(source: str) -> None:
    assert check_ground_floor(source, {"loss_clipsam"}) == []


@pytest.mark.parametrize(
    "source",
    [
        "import accelerate",
        "try:\n    import datasets\nexcept ImportError:\n    datasets = None",
        "class Report:\n    from jinja2 import Template",
        "from .cli import app",
        "from clipsam_hf.cli import app",
        "from clipsam_hf import cli",
        "import clipsam_hf",
        "def f():\n    from . import cli",
    ],
)
def test_checker_refuses_on_the_upper_floor(source: str) -> None:
    assert len(check_upper_floor(source, {"metrics"})) == 1


@pytest.mark.parametrize(
    "source",
    [
        "def f():\n    import accelerate",
        "from .metrics import AnomalyMetrics",
        "from clipsam_hf.metrics import AnomalyMetrics",
        "if TYPE_CHECKING:\n    import datasets",
    ],
)
def test_checker_accepts_on_the_upper_floor(source: str) -> None:
    assert check_upper_floor(source, {"metrics"}) == []
