# SPDX-FileCopyrightText: 2026 The clipsam_hf authors
# SPDX-License-Identifier: Apache-2.0
"""How much SAM should count in the embedded checkpoint: the figures of a weight by hand, and the command."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import weigh_tiny
from PIL import Image
from weigh_tiny import Maps, measure

from clipsam_hf import EMBEDDED_CHECKPOINT
from clipsam_hf.training.calibration import REFINE_WEIGHTS


def test_figures_of_a_weight_by_hand() -> None:
    # The rough map ranks a good pixel first, the masks the defect; at a half both have 0.5
    rough, masks = np.array([[0.2, 0.8, 0.0]], np.float32), np.array([[0.8, 0.2, 0.0]], np.float32)
    maps = [Maps("plate", rough, {0.25: masks}, np.array([[True, False, False]]))]
    figures = {weight: measure(maps, 0.25, weight, 0.6) for weight in (0.0, 0.5, 1.0)}
    assert [figures[weight]["F1-max"] for weight in figures] == pytest.approx([2 / 3, 2 / 3, 1])
    assert [figures[weight]["AP"] for weight in figures] == pytest.approx([1 / 2, 1 / 2, 1])
    assert [figures[weight]["F1 at mask_threshold"] for weight in figures] == [0, 0, 1]


def test_the_command_measures_every_weight_and_writes_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images, masks = tmp_path / "plate" / "test" / "hole", tmp_path / "plate" / "ground_truth" / "hole"
    for folder in (images, masks, tmp_path / "plate" / "test" / "good"):
        folder.mkdir(parents=True)
    pixels, mask = np.full((64, 64, 3), 180, np.uint8), np.zeros((64, 64), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "plate" / "test" / "good" / "000.png")
    pixels[20:30, 20:30], mask[20:30, 20:30] = 20, 255
    Image.fromarray(pixels).save(images / "000.png")
    Image.fromarray(mask).save(masks / "000_mask.png")
    before = (EMBEDDED_CHECKPOINT / "config.json").read_bytes()
    arguments = [
        "--model",
        str(EMBEDDED_CHECKPOINT),
        "--data_dir",
        str(tmp_path),
        "--output",
        str(tmp_path / "w.json"),
    ]
    monkeypatch.setattr(sys, "argv", ["weigh_tiny.py", *arguments])
    weigh_tiny.main()

    results = json.loads((tmp_path / "w.json").read_text())
    assert set(results) == {"0.25", "1.0"}
    for rows in results.values():
        assert set(rows) == {str(weight) for weight in REFINE_WEIGHTS}
        assert all(set(row) == {"all", tmp_path.name} for row in rows.values())
        assert all(0 < row["all"]["F1-max"] <= 1 for row in rows.values())
    assert (EMBEDDED_CHECKPOINT / "config.json").read_bytes() == before
