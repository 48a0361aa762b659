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
    "image_loading": set(),
    "loss_clipsam": set(),
    "prompts_clipsam": set(),
    "publishing_clipsam": set(),
    "regions_clipsam": set(),
    "refinement_clipsam": {"regions_clipsam"},
    "sam_attention_clipsam": set(),
    "refiner_clipsam": {"regions_clipsam", "sam_attention_clipsam"},
    # It knows the kinds of SAM, since it refuses those that nothing can refine with
    "configuration_clipsam": {"refiner_clipsam"},
    "checkpoint_clipsam": {"publishing_clipsam", "refiner_clipsam"},
    "umci_clipsam": {"configuration_clipsam"},
    "localizer_clipsam": {"configuration_clipsam", "sam_attention_clipsam", "umci_clipsam"},
    "tiling_clipsam": {"refinement_clipsam"},
    "patches_clipsam": {"image_loading", "localizer_clipsam", "refinement_clipsam", "tiling_clipsam"},
    "novelty_clipsam": {"patches_clipsam"},
    "modeling_clipsam": {
        "checkpoint_clipsam",
        "configuration_clipsam",
        "localizer_clipsam",
        "loss_clipsam",
        "novelty_clipsam",
        "patches_clipsam",
        "refinement_clipsam",
        "refiner_clipsam",
    },
    "processing_clipsam": {
        "image_loading",
        "loss_clipsam",
        "prompts_clipsam",
        "publishing_clipsam",
        "refinement_clipsam",
        "refiner_clipsam",
        "regions_clipsam",
    },
    "visualization_clipsam": {"image_loading"},
    "result_clipsam": {"visualization_clipsam"},
    "mutual_clipsam": {"patches_clipsam"},
    "inference_clipsam": {
        "image_loading",
        "patches_clipsam",
        "processing_clipsam",
        "prompts_clipsam",
        "refinement_clipsam",
        "regions_clipsam",
        "result_clipsam",
        "tiling_clipsam",
    },
    "naming_clipsam": {"inference_clipsam"},
    "answers_clipsam": {"inference_clipsam", "regions_clipsam"},
    "gallery_clipsam": {"image_loading", "inference_clipsam", "mutual_clipsam", "patches_clipsam", "tiling_clipsam"},
    "references_clipsam": {
        "gallery_clipsam",
        "inference_clipsam",
        "patches_clipsam",
        "processing_clipsam",
        "publishing_clipsam",
        "tiling_clipsam",
    },
    "pipeline_clipsam": {
        "answers_clipsam",
        "checkpoint_clipsam",
        "image_loading",
        "inference_clipsam",
        "mutual_clipsam",
        "naming_clipsam",
        "processing_clipsam",
        "patches_clipsam",
        "publishing_clipsam",
        "references_clipsam",
        "result_clipsam",
        "tiling_clipsam",
    },
}
# huggingface_hub and safetensors are beneath transformers itself: its strict dataclasses and its weights.
GROUND_LIBRARIES = {"PIL", "huggingface_hub", "numpy", "safetensors", "scipy", "torch", "transformers"}

# Upper floor, from the bottom to the top: what each file or package may import beside its own parts.
# Names of the ground floor are files, the others packages as a whole.
UPPER_FLOOR: dict[str, set[str]] = {
    "version": set(),
    "embedded": set(),
    "files": set(),
    "metrics": {"regions_clipsam"},
    "data": {"files", "image_loading"},
    # `__version__` inside a function: the package exports what imports it
    "evaluation": {
        "__version__",
        "configuration_clipsam",
        "data",
        "files",
        "inference_clipsam",
        "metrics",
        "modeling_clipsam",
        "mutual_clipsam",
        "processing_clipsam",
        "references_clipsam",
        "patches_clipsam",
        "tiling_clipsam",
    },
    "prediction": {
        "__version__",
        "answers_clipsam",
        "evaluation",
        "files",
        "gallery_clipsam",
        "image_loading",
        "inference_clipsam",
        "modeling_clipsam",
        "mutual_clipsam",
        "naming_clipsam",
        "processing_clipsam",
        "references_clipsam",
        "visualization_clipsam",
        "patches_clipsam",
        "tiling_clipsam",
    },
    "cards": {
        "data",
        "evaluation",
        "files",
        "image_loading",
        "metrics",
        "modeling_clipsam",
        "pipeline_clipsam",
        "processing_clipsam",
        "publishing_clipsam",
        "visualization_clipsam",
    },
    # the last step of a whole training is the card
    "training": {
        "__version__",
        "cards",
        "data",
        "evaluation",
        "files",
        "image_loading",
        "inference_clipsam",
        "metrics",
        "modeling_clipsam",
        "pipeline_clipsam",
        "processing_clipsam",
        "refiner_clipsam",
    },
    "lines": {"image_loading", "inference_clipsam", "mutual_clipsam", "patches_clipsam", "references_clipsam"},
    "export": {
        "__version__",
        "answers_clipsam",
        "files",
        "inference_clipsam",
        "patches_clipsam",
        "processing_clipsam",
        "refinement_clipsam",
    },
    "demo": {"image_loading", "visualization_clipsam"},
    "information": set(),
    # `__version__` inside a function: asked for a name, the package registers its classes
    "cli": {
        "__version__",
        "demo",
        "export",
        "embedded",
        "gallery_clipsam",
        "configuration_clipsam",
        "data",
        "evaluation",
        "image_loading",
        "information",
        "lines",
        "modeling_clipsam",
        "pipeline_clipsam",
        "prediction",
        "processing_clipsam",
        "references_clipsam",
        "training",
        "version",
        "tiling_clipsam",
    },
}
# tqdm and typer are requirements of transformers.
UPPER_LIBRARIES = GROUND_LIBRARIES | {"tqdm", "typer"}
# `evaluate` copies these files and imports them from elsewhere, so that they name the package and their libraries.
EVALUATE_MODULES = "metrics.evaluate_modules"
# It is copied beside the graphs and runs without this package.
RUNNER = "export.runner"


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


def parse_without_types(source: str) -> ast.Module:
    tree = ast.parse(source)
    tree.body = [node for node in tree.body if not is_for_type_checker(node)]
    return tree


def resolve(module: str, names: tuple[str, ...], package: str) -> set[str]:
    """Gives what a relative import inside `package` ("" is the root) means, as dotted names below the root."""
    level = len(module) - len(module.lstrip("."))
    parts = package.split(".") if package else []
    base = parts[: len(parts) - level + 1]
    path = module.lstrip(".")
    return {".".join([*base, path])} if path else {".".join([*base, name]) for name in names}


def imports_of_package(source: str, package: str) -> Iterator[tuple[int, str]]:
    """Yields (line, dotted name below the root) of everything that a file takes from this package."""
    for statement in iterate_imports(parse_without_types(source)):
        module, names = statement.module, statement.names
        if module.startswith("."):
            used = resolve(module, names, package)
        elif library_of(module) == "clipsam_hf":
            inner = module.removeprefix("clipsam_hf").lstrip(".")
            used = {inner} if inner else set(names or ("the whole package",))
        else:
            continue
        yield from ((statement.line, name) for name in sorted(used))


def check_upper_floor(source: str, beneath: set[str], package: str = "") -> list[str]:
    """Lists what an upper-floor file with this source may not import, or not at module level."""
    own = package.partition(".")[0]
    problems = [
        f"line {line}: `{name}` is not beneath this file"
        for line, name in imports_of_package(source, package)
        if name.partition(".")[0] not in beneath | ({own} - {""})
    ]
    for statement in iterate_imports(parse_without_types(source)):
        is_library = not statement.module.startswith(".") and library_of(statement.module) != "clipsam_hf"
        known = library_of(statement.module) in UPPER_LIBRARIES | sys.stdlib_module_names
        if is_library and not known and not statement.inside_function:
            problems.append(
                f"line {statement.line}: optional `{statement.module}` belongs inside the function that needs it"
            )
    return problems


def module_names() -> list[str]:
    """Dotted names of all files below the root, those in packages too."""
    paths = [path.relative_to(PACKAGE).with_suffix("") for path in PACKAGE.rglob("*.py")]
    return sorted(".".join(path.parts) for path in paths)


def read(name: str) -> str:
    return PACKAGE.joinpath(*name.split(".")).with_suffix(".py").read_text(encoding="utf-8")


def test_packages_are_walked() -> None:
    assert {"cli.predict", "metrics.ranks", "evaluation.run", "data.__init__"} <= set(module_names())


@pytest.mark.parametrize("name", [name for name in module_names() if name != "__init__"])
def test_file_imports_only_what_lies_beneath(name: str) -> None:
    if name in GROUND_FLOOR or name.endswith("_clipsam"):
        assert name in GROUND_FLOOR, f"give {name} its place in GROUND_FLOOR"
        assert check_ground_floor(read(name), GROUND_FLOOR[name]) == []
    elif not name.startswith(f"{EVALUATE_MODULES}.") and name != RUNNER:
        unit, _, inner = name.partition(".")
        assert unit in UPPER_FLOOR, f"give {unit} its place in UPPER_FLOOR"
        package = name.rpartition(".")[0] if inner else ""
        assert check_upper_floor(read(name), UPPER_FLOOR[unit], package) == []


@pytest.mark.parametrize("floor", [GROUND_FLOOR, UPPER_FLOOR], ids=["ground", "upper"])
def test_the_order_of_a_floor_has_no_circle(floor: dict[str, set[str]]) -> None:
    seen: set[str] = set() if floor is GROUND_FLOOR else {*GROUND_FLOOR, "__version__"}
    for name, beneath in floor.items():
        assert beneath <= seen, f"{name} imports what stands above it"
        seen.add(name)


@pytest.mark.parametrize("unit", [unit for unit in UPPER_FLOOR if (PACKAGE / unit).is_dir()])
def test_files_of_a_package_import_each_other_without_a_circle(unit: str) -> None:
    names = [name for name in module_names() if name.startswith(f"{unit}.") and not name.startswith(EVALUATE_MODULES)]
    waiting = {
        name: {
            other
            for _, used in imports_of_package(read(name), name.rpartition(".")[0])
            for other in (used, f"{used}.__init__")
            if other in names and other != name
        }
        for name in names
    }
    while ready := [name for name, used in waiting.items() if not used & waiting.keys()]:
        for name in ready:
            del waiting[name]
    assert waiting == {}


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
    "source", ["from ..cli import app", "from .. import cli", "from ..training.loop import train_umci"]
)
def test_checker_refuses_inside_a_package(source: str) -> None:
    assert len(check_upper_floor(source, {"metrics"}, "data")) == 1


@pytest.mark.parametrize(
    "source",
    ["from .folders import AnomalyFolder", "from ..metrics.ranks import Ranks", "from ..metrics import Ranks"],
)
def test_checker_accepts_inside_a_package(source: str) -> None:
    assert check_upper_floor(source, {"metrics"}, "data") == []


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
