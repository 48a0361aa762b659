# SPDX-FileCopyrightText: 2026 The clipsam_hf authors
# SPDX-License-Identifier: Apache-2.0
"""`clipsam info`."""

import json
from typing import Annotated

import typer
from typer import Argument, Option

from ..embedded import find_checkpoint
from .options import RevisionOption, explained_errors


def info(
    source: Annotated[
        str | None, Argument(metavar="MODEL_OR_LINE", help="Folder or repository; by default the embedded model.")
    ] = None,
    revision: RevisionOption = None,
    as_json: Annotated[bool, Option("--json", help="For a program.")] = False,
) -> None:  # fmt: skip
    """Say what a model was trained on and what its thresholds are, or what references are of; no weights are read."""
    from ..information import describe, to_text

    with explained_errors():
        described = describe(find_checkpoint(source), revision=revision)
    typer.echo(json.dumps(described, indent=2) if as_json else to_text(described))
