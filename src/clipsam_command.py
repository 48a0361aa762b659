# SPDX-FileCopyrightText: 2026 The clipsam_hf authors
# SPDX-License-Identifier: Apache-2.0
"""Where the console script `clipsam` starts: help and completion must not wait for torch.

`import clipsam_hf` registers the model with transformers, and so imports torch and transformers' models, which takes
seconds. A module of the package cannot be imported without the package. So the package stands in `sys.modules` here
before its `__init__` has run, which it does as soon as anything is asked of it; the commands that need a model do.
"""

import sys
from importlib.util import find_spec, module_from_spec
from types import ModuleType
from typing import Any


class WaitingPackage(ModuleType):
    """A package whose `__init__` runs when one of its names is missing.

    `importlib.util.LazyLoader` is the same for modules: of a package, any import below it would run the `__init__`.
    """

    def __getattr__(self, name: str) -> Any:
        """Become the package, then answer."""
        spec = self.__dict__["__spec__"]
        self.__class__ = ModuleType  # type: ignore[assignment]
        spec.loader.exec_module(self)
        return getattr(self, name)


def import_waiting(name: str) -> ModuleType:
    """Import a top-level package without running its `__init__`; one that is imported already stays as it is.

    Args:
        name (`str`): Of the package.

    Raises:
        ModuleNotFoundError: If there is none of this name.
    """
    if name not in sys.modules:
        spec = find_spec(name)
        if spec is None:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        package = sys.modules[name] = module_from_spec(spec)
        package.__class__ = WaitingPackage
    return sys.modules[name]


def main() -> None:
    """Run the command line."""
    import_waiting("clipsam_hf")
    from clipsam_hf.cli import main as run

    run()
