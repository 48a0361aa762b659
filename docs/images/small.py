# SPDX-FileCopyrightText: 2026 The clipsam_hf authors
# SPDX-License-Identifier: Apache-2.0
"""Makes the picture of clipsam-small in the README: `python docs/images/small.py`.

The photographs are generated, see report.py; nothing was trained or chosen on them. Each row is a washer with a
defect, then the map and the regions with a name alone, and with eight good washers.
"""

from pathlib import Path

import numpy as np
from report import draw_washer
from transformers import pipeline

from clipsam_hf import SMALL_CHECKPOINT
from clipsam_hf.visualization_clipsam import overlay, side_by_side


def main() -> None:
    segmenter = pipeline("zero-shot-anomaly-segmentation", model=str(SMALL_CHECKPOINT))
    rng = np.random.default_rng(0)
    good = [draw_washer(rng, None) for _ in range(8)]
    pictures = {}
    for defect in ("scratch", "stain", "dent"):
        photograph = draw_washer(rng, defect)
        pictures[defect] = photograph
        for title, references in (("a name alone", None), ("eight good washers", good)):
            result = segmenter(photograph, class_name="washer", references=references)
            pictures[f"{defect}: {title}"] = overlay(
                photograph, result["anomaly_map"], regions=result["regions"], color_bar=False
            )
    side_by_side(pictures, max_side=1200).save(Path(__file__).with_name("small.webp"), quality=88, method=6)


if __name__ == "__main__":
    main()
