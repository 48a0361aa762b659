# SPDX-FileCopyrightText: 2026 The clipsam_hf authors
# SPDX-License-Identifier: Apache-2.0
"""The measures of the ablations, on cases small enough to count by hand."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from ablate_tiny import (
    MMR_VARIANTS,
    TRAINING_CHANGES,
    UMCI_VARIANTS,
    Cached,
    measure_steering,
    rank_probability,
    read_photographs,
    summarise,
)
from PIL import Image
from synthetic_pool import KINDS, Batch

from clipsam_hf.configuration_clipsam import ClipSamConfig


def test_rank_probability_counts_ties_half() -> None:
    # of six pairs four are won (3 > 1, 3 > 2 twice, 2 > 1) and two are ties (2 = 2 twice)
    assert rank_probability(np.array([3.0, 2.0]), np.array([1.0, 2.0, 2.0])) == pytest.approx((4 + 2 / 2) / 6)
    assert rank_probability(np.array([1.0]), np.array([2.0])) == 0.0


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


def test_photographs_are_squashed_with_their_masks(tmp_path: Path) -> None:
    for folder in ("good", "crack", "ground_truth/crack"):
        (tmp_path / "plate" / folder).mkdir(parents=True)
    image, mask = np.full((20, 40, 3), 100, np.uint8), np.zeros((20, 40), np.uint8)
    Image.fromarray(image).save(tmp_path / "plate" / "good" / "0.png")
    image[:10, 20:], mask[:10, 20:] = 200, 255
    Image.fromarray(image).save(tmp_path / "plate" / "crack" / "1.png")
    Image.fromarray(mask).save(tmp_path / "plate" / "ground_truth" / "crack" / "1.png")
    batch = read_photographs(tmp_path / "plate", 8)

    assert batch.images.shape == (2, 3, 8, 8)
    assert sorted(batch.masks.flatten(1).sum(1).tolist()) == [0, 16]
    defective = batch.masks.flatten(1).any(1).nonzero()[0, 0]
    assert batch.masks[defective, :4, 4:].all()
    assert batch.words == ["plate", "plate"]
    assert torch.equal(batch.kinds > 0, batch.masks)
