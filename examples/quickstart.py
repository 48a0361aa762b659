# SPDX-FileCopyrightText: 2026 The clipsam_hf authors
# SPDX-License-Identifier: Apache-2.0
"""Find the defect on one photograph and write a picture of it; the same as `clipsam demo`.

    python examples/quickstart.py                                  # a brick pavement with a crack that we draw
    python examples/quickstart.py photo.jpg --class-name candle    # a photograph of yours

`clipsam_hf.demo.show` is what it does with the photograph.
"""

import typer

from clipsam_hf.cli.demo import demo


if __name__ == "__main__":
    typer.run(demo)
