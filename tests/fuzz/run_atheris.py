# SPDX-FileCopyrightText: 2026 The clipsam_hf authors
# SPDX-License-Identifier: Apache-2.0
"""Fuzz one target, guided by the code that its examples reach; it needs `pip install atheris`.

    python tests/fuzz/run_atheris.py photograph -max_total_time=600 -rss_limit_mb=3000 -timeout=30

What follows the target's name is libFuzzer's. What it finds is written to `crash-...`, and gets a test of its own.
"""

import sys
import tempfile
from pathlib import Path

import atheris


with atheris.instrument_imports(include=["PIL", "clipsam_hf", "json", "csv"]):
    import json  # noqa: F401

    import PIL.Image  # noqa: F401

    import clipsam_hf.data
    import clipsam_hf.image_loading
    import clipsam_hf.prediction.state  # noqa: F401

from fuzz_targets import TARGETS  # noqa: E402
from transformers.utils import logging  # noqa: E402


def main() -> None:
    """Run the target that the command line names until libFuzzer's own options stop it."""
    name = sys.argv[1] if len(sys.argv) > 1 else ""
    if name not in TARGETS:
        sys.exit(f"usage: {sys.argv[0]} {{{','.join(TARGETS)}}} [options of libFuzzer]")
    logging.set_verbosity_error()
    target = TARGETS[name]
    with tempfile.TemporaryDirectory(prefix="clipsam_corpus_") as corpus:
        for number, seed in enumerate(target.seeds()):
            Path(corpus, f"{number:03d}").write_bytes(seed)
        atheris.Setup([sys.argv[0], corpus, *sys.argv[2:]], target.check)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
