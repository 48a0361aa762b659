# SPDX-FileCopyrightText: 2026 The clipsam_hf authors
# SPDX-License-Identifier: Apache-2.0
"""The command `clipsam`. It calls only the public API; each command is one file with one function.

A command's file imports at its top what its options need, which is typer, and the rest inside the function: help and
completion answer at once. tests/test_cli.py holds that they come without torch.

Exit codes: 0, done; 1, `clipsam predict` could not read some of the photographs; 2, something that was given cannot be
used, with one message that says what; anything else, interrupted, or a fault of ours with its traceback.
"""

import errno
import sys
import warnings
from typing import Annotated, Any

import typer
from typer import Option

from . import calibrate, demo, evaluate, export, info, predict, report, train


__all__ = ["app", "main"]

# Plain help and plain tracebacks: they look the same in a terminal, a log and a pipe.
app = typer.Typer(name="clipsam", no_args_is_help=True, pretty_exceptions_enable=False, rich_markup_mode=None)
app.command()(demo.demo)
app.command()(predict.predict)
app.command()(calibrate.calibrate)
app.command()(evaluate.evaluate)
app.command()(info.info)
app.command()(export.export)
app.command()(report.report)
# Its options are those of a parser of its own
app.command(add_help_option=False, context_settings={"allow_extra_args": True, "ignore_unknown_options": True})(
    train.train
)


def main() -> None:
    """Run the command line, as the console script `clipsam` does."""
    for stream in (sys.stdout, sys.stderr):
        # A name that the terminal's encoding lacks must not end a run of hours
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    warnings.showwarning = _show_warning
    try:
        app()
    except OSError as error:
        # What a command writes to files is explained where it does; this is what it prints, into a file on a full disk
        if error.errno != errno.ENOSPC:
            raise
        typer.echo(f"error: cannot write the output: {error}", err=True)
        sys.exit(2)


def _show_warning(message: Warning | str, *_: Any, **__: Any) -> None:
    typer.echo(f"warning: {message}", err=True)


def _print_version(wanted: bool) -> None:
    if wanted:
        from ..version import __version__

        typer.echo(__version__)
        raise typer.Exit()


@app.callback()
def clipsam(
    version: Annotated[
        bool, Option("--version", callback=_print_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Zero-shot anomaly segmentation with CLIP and SAM."""
