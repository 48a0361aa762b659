# SPDX-FileCopyrightText: 2026 The clipsam_hf authors
# SPDX-License-Identifier: Apache-2.0
"""`clipsam report`."""

from pathlib import Path
from typing import Annotated

import typer
from typer import Argument

from .options import explained_errors


def report(
    folder: Annotated[Path, Argument(metavar="DIR", help="Folder of the results of a finished `clipsam predict`.")],
) -> None:
    """Write the report of a finished run: one HTML file with its table, histogram, pictures and protocol."""
    from ..prediction.names import PREVIEWS
    from ..prediction.report import write_report

    with explained_errors(of_input=True):
        path = write_report(folder)
    typer.echo(f"written to {path}", err=True)
    if not (folder / PREVIEWS[0]).is_dir():
        typer.echo("it shows no photographs, since `clipsam predict` ran without --report", err=True)
