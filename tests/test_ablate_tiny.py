# SPDX-FileCopyrightText: 2026 The clipsam_hf authors
# SPDX-License-Identifier: Apache-2.0
"""The measures of the ablations, on cases small enough to count by hand."""

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import ablate_tiny
import ablation_bench
import ablation_maps
import numpy as np
import pytest
import synthetic_pool
import torch
from ablation_bench import Cached, measure_steering, read_photographs
from ablation_maps import MMR_VARIANTS
from ablation_umci import TRAINING_CHANGES, UMCI_VARIANTS, summarise
from PIL import Image
from synthetic_pool import KINDS, Batch, build_pool

from clipsam_hf import EMBEDDED_CHECKPOINT
from clipsam_hf.configuration_clipsam import ClipSamConfig


def test_the_spread_over_seeds_is_mean_and_deviation() -> None:
    rows = [{"cookie": {"pixel AP": value}} for value in (0.1, 0.3)]
    assert summarise(rows)["cookie"]["pixel AP"] == pytest.approx([0.2, 0.1])


def test_steering_is_measured_in_both_directions() -> None:
    # The left half is a crack, the right half a stain; a map that rises to the right fits the stain's name alone
    kinds = torch.zeros(1, 4, 8, dtype=torch.uint8)
    kinds[0, :, :4], kinds[0, :, 4:] = KINDS.index("crack") + 1, KINDS.index("stain") + 1
    batch = Batch(torch.zeros(1, 3, 4, 8), kinds, kinds, kinds, ["felt"])
    cached = Cached(batch, "object", (torch.zeros(1, 2, 1, 1),))
    ramp = torch.linspace(0, 1, 8).expand(1, 4, 8)

    def see(feature_maps: tuple, text_embeds: torch.Tensor) -> SimpleNamespace:
        return SimpleNamespace(rough_anomaly_map=ramp * text_embeds[0, 1, 0])

    def naming(kind: str) -> torch.Tensor:
        return torch.full((2, 1), 1.0 if kind == "stain" else answer)

    model: Any = see
    answer = 1.0
    found = measure_steering(model, cached, naming)
    assert found == {"AUROC": 0.5, "first named": 0.0, "second named": 1.0}
    answer = -1.0
    assert measure_steering(model, cached, naming)["AUROC"] == 1.0


@pytest.mark.parametrize("changes", [*UMCI_VARIANTS.values(), *MMR_VARIANTS.values()])
def test_every_variant_is_a_configuration(changes: dict) -> None:
    fields = {name: value for name, value in changes.items() if name not in TRAINING_CHANGES}
    config = ClipSamConfig(**fields)
    for name, value in fields.items():
        assert getattr(config, name) == value


def write_plates(root: Path) -> Path:
    """A set of two photographs, one of which has a bright quarter."""
    for folder in ("good", "crack", "ground_truth/crack"):
        (root / "plate" / folder).mkdir(parents=True)
    image, mask = np.full((20, 40, 3), 100, np.uint8), np.zeros((20, 40), np.uint8)
    Image.fromarray(image).save(root / "plate" / "good" / "0.png")
    image[:10, 20:], mask[:10, 20:] = 200, 255
    Image.fromarray(image).save(root / "plate" / "crack" / "1.png")
    Image.fromarray(mask).save(root / "plate" / "ground_truth" / "crack" / "1.png")
    return root / "plate"


def test_photographs_are_squashed_with_their_masks(tmp_path: Path) -> None:
    batch = read_photographs(write_plates(tmp_path), 8)

    assert batch.images.shape == (2, 3, 8, 8)
    assert sorted(batch.masks.flatten(1).sum(1).tolist()) == [0, 16]
    defective = batch.masks.flatten(1).any(1).nonzero()[0, 0]
    assert batch.masks[defective, :4, 4:].all()
    assert batch.words == ["plate", "plate"]
    assert torch.equal(batch.kinds > 0, batch.masks)


@pytest.mark.slow
def test_every_part_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(synthetic_pool, "CHUNK", 8)
    monkeypatch.setattr(ablation_bench, "TWO_KINDS", 1)
    monkeypatch.setattr(ablation_maps, "SIZES", (64, 96))
    monkeypatch.setattr(ablation_maps, "SEVERAL_SIZES", ((64, 96),))
    for name, seed in (("pool", 0), ("validation", 1)):
        build_pool(tmp_path / name, seed=seed, num_scenes=32, data_dirs=[], num_workers=1)
    given = {
        **{"--model": EMBEDDED_CHECKPOINT, "--pool": tmp_path / "pool", "--validation_pool": tmp_path / "validation"},
        **{"--photographs": write_plates(tmp_path), "--output_dir": tmp_path / "out", "--num_images": 4},
        **{"--num_training_images": 8, "--size": 64, "--num_steps": 2, "--batch_size": 4, "--num_seeds": 2},
    }
    options = [str(part) for pair in given.items() for part in pair]
    variants = {"umci": ["whole", "several texts, text head"], "mmr": ["as configured", "three masks"]}
    rows = {}
    for part in ablate_tiny.PARTS:
        chosen = ["--variants", *variants[part]] if part in variants else []
        monkeypatch.setattr(sys, "argv", ["ablate_tiny.py", part, *options, *chosen])
        ablate_tiny.main()
        rows[part] = json.loads((tmp_path / "out" / f"{part}.json").read_text())
    assert {"similarity", "whole", "several texts, text head"} < rows["umci"].keys()
    assert rows["mmr"]["rough"]["plate"] != rows["mmr"]["as configured"]["plate"]
    assert rows["size"]["plate"].keys() == {"64", "96", "64 + 96"}
    assert rows["stages"]["plate"]["3 + 4 + 5"]["pixel AP"] == pytest.approx(
        rows["mmr"]["rough"]["plate"]["pixel AP"], abs=1e-6
    )
    assert 0 <= rows["score"]["plate"]["highest 3.0%"]["image AUROC"] <= 1
    assert "right: plate" in rows["words"]["plate"] and "UMCI, against normal" in rows["words"]["two kinds"]
