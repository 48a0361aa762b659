# SPDX-FileCopyrightText: 2026 The clipsam_hf authors
# SPDX-License-Identifier: Apache-2.0
"""Export a model to ONNX, and let the runner that lies in the export look at a photograph: no torch is needed there.

python examples/export_onnx.py photo.jpg cookie exported
"""

import argparse
import subprocess
import sys
from pathlib import Path

from clipsam_hf import EMBEDDED_CHECKPOINT, ClipSamForAnomalySegmentation, ClipSamProcessor
from clipsam_hf.export import export_onnx


def main() -> None:
    """Export, then ask the exported model in a process of its own."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photograph", type=Path)
    parser.add_argument("class_name", help="what it shows")
    parser.add_argument("output", type=Path, help="a new folder for the export")
    parser.add_argument("--model", default=str(EMBEDDED_CHECKPOINT), help="folder or repository of a ClipSAM")
    given = parser.parse_args()
    model = ClipSamForAnomalySegmentation.from_pretrained(given.model).eval()
    processor = ClipSamProcessor.from_pretrained(given.model)
    export_onnx(model, processor, given.output, [given.class_name])
    subprocess.run([sys.executable, given.output / "run.py", given.photograph], check=True)


if __name__ == "__main__":
    main()
