# SPDX-FileCopyrightText: 2026 The clipsam_hf authors
# SPDX-License-Identifier: Apache-2.0
"""The training of `clipsam-tiny`: the same seed gives the same bits, also if a run was interrupted and goes on."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import synthetic_pool
import tiny_clip
import tiny_sam
import tiny_umci
import torch
from synthetic_pool import ScenePool, build_pool
from tiny_clip import ClipSettings, train_clip
from tiny_common import learning_rate, phase
from tiny_first_weights import UNUSUAL, compare_with_image
from tiny_sam import SamSettings, train_sam
from tiny_text import build_tokenizer
from tiny_umci import UmciSettings, train_head
from transformers import CLIPModel, SamModel


STEPS = 200
SCHEDULE = ((150, 32, 4), (STEPS, 64, 2))
COMMON: dict[str, Any] = {"image_size": 64, "schedule": SCHEDULE, "save_steps": 50}
SHALLOW: dict[str, Any] = {"feature_layers": (1, 2)}
CLIP = replace(ClipSettings(), num_layers=2, text_layers=1, sentence_steps=20, **SHALLOW, **COMMON)
SAM = replace(SamSettings(), hidden_size=32, output_channels=32, **COMMON)
UMCI = replace(UmciSettings(), umci_hidden_size=16, scale_sizes=(2, 4), **SHALLOW, **COMMON)


def test_the_phases_of_a_schedule_join_without_a_gap() -> None:
    schedule = ((2, 32, 4), (5, 64, 3))
    assert [phase(schedule, step)["first"] for step in range(5)] == [0, 4, 8, 11, 14]
    assert [phase(schedule, step)["size"] for step in range(5)] == [32, 32, 64, 64, 64]
    with pytest.raises(ValueError, match="ends before step 5"):
        phase(schedule, 5)


def test_the_learning_rate_rises_stays_and_falls() -> None:
    rates = [learning_rate(step, 100, 2.0, 10) for step in range(100)]
    assert rates[0] == pytest.approx(0.2) and rates[9] == 2.0
    assert set(rates[9:70]) == {2.0}
    assert rates[85] == pytest.approx(1.0) and rates[99] == pytest.approx(2 / 30)


def test_an_untrained_tower_sees_what_differs_from_its_image() -> None:
    torch.manual_seed(0)
    tower = CLIPModel(tiny_clip.clip_config(ClipSettings(), build_tokenizer())).vision_model.eval()
    filters, _ = torch.linalg.qr(torch.randn(192, 32))
    compare_with_image(tower, filters.T.view(32, 3, 8, 8))
    # noise, in which a square of 2 x 2 patches is lighter; in the other image it is darker: both sides count alike
    images = 0.1 * torch.randn(2, 3, 128, 128)
    images[0, :, 48:64, 80:96] += 0.3
    images[1, :, 48:64, 80:96] -= 0.3
    with torch.no_grad():
        states = tower(images, interpolate_pos_encoding=True, output_hidden_states=True).hidden_states
    unusual = states[2][:, 1:, UNUSUAL].sum(-1).view(2, 16, 16)  # after two blocks

    odd = torch.zeros(16, 16, dtype=torch.bool)
    odd[6:8, 10:12] = True
    for one in unusual:
        assert one[odd].min() > one[~odd].quantile(0.98)


def test_a_tower_of_another_width_cannot_compare() -> None:
    tower = CLIPModel(tiny_clip.clip_config(replace(ClipSettings(), hidden_size=64), build_tokenizer())).vision_model
    with pytest.raises(ValueError, match="must be 128 wide with 4 heads, but is 64 with 4"):
        compare_with_image(tower, torch.zeros(32, 3, 8, 8))


def train_everything(pool: ScenePool, folder: Path, *, fast: bool) -> dict[str, torch.Tensor]:
    """Run the three stages and return all weights."""
    train_clip(CLIP, build_tokenizer(), pool, folder, fast=fast)
    train_sam(SAM, pool, folder, fast=fast)
    clip, sam = CLIPModel.from_pretrained(folder / "clip"), SamModel.from_pretrained(folder / "sam")
    options: dict[str, Any] = {"auxiliary_dataset": "pieces", "fast": fast}
    return train_head(clip, sam, build_tokenizer(), pool, UMCI, folder / "umci", **options).state_dict()


def stop_at(last: int, compute: Callable[[Any, int], Any]) -> Callable[[Any, int], Any]:
    def stop(self: Any, step: int) -> Any:
        if step == last:
            raise KeyboardInterrupt
        return compute(self, step)

    return stop


@pytest.mark.slow
# torch's own compiler uses what torch deprecates
@pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated:DeprecationWarning")
@pytest.mark.parametrize("fast", [False, True])
def test_a_run_that_was_interrupted_ends_with_the_same_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fast: bool
) -> None:
    monkeypatch.setattr(synthetic_pool, "CHUNK", 8)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    build_pool(tmp_path / "pool", seed=0, num_scenes=16, data_dirs=[], num_workers=1)
    pool = ScenePool(tmp_path / "pool", seed=0)
    whole = train_everything(pool, tmp_path / "whole", fast=fast)

    # each stage is stopped once, between two saved states, and the same command is given again
    stops = ((tiny_clip.DenseContrast, 120), (tiny_sam.PromptedMasks, 180), (tiny_umci.UmciBatches, 170))
    for stage, last in stops:
        with monkeypatch.context() as patch:
            patch.setattr(stage, "__call__", stop_at(last, stage.__call__))
            with pytest.raises(KeyboardInterrupt):
                train_everything(pool, tmp_path / "broken", fast=fast)
    resumed = train_everything(pool, tmp_path / "broken", fast=fast)
    torch.set_num_threads(threads)

    assert whole.keys() == resumed.keys()
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


@pytest.mark.slow
def test_a_run_goes_on_from_the_networks_of_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(synthetic_pool, "CHUNK", 8)
    build_pool(tmp_path / "pool", seed=0, num_scenes=16, data_dirs=[], num_workers=1)
    pool = ScenePool(tmp_path / "pool", seed=0)
    brief = {"schedule": ((2, 32, 4),), "save_steps": 2}
    clip = train_clip(replace(CLIP, **brief), build_tokenizer(), pool, tmp_path / "first")
    sam = train_sam(replace(SAM, **brief), pool, tmp_path / "first")

    still = {"schedule": ((1, 32, 4),), "peak_learning_rate": 0.0}
    start: dict[str, Any] = {"folder": tmp_path / "second", "start_from": tmp_path / "first"}
    later = (
        train_clip(replace(CLIP, **still), build_tokenizer(), pool, **start),
        train_sam(replace(SAM, **still), pool, **start),
    )

    for before, after in zip((clip, sam), later, strict=True):
        state = after.state_dict()
        assert all(torch.equal(value, state[name]) for name, value in before.state_dict().items())
