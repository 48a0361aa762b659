# SPDX-FileCopyrightText: 2026 The clipsam_hf authors
# SPDX-License-Identifier: Apache-2.0
"""`clipsam train`."""

import typer


def train(context: typer.Context) -> None:
    """Train a head on one data set and report on another; `clipsam train --help` shows the options."""
    from ..training.run import main as run_training

    run_training(context.args, program="clipsam train")
