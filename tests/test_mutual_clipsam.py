# SPDX-FileCopyrightText: 2026 The clipsam_hf authors
# SPDX-License-Identifier: Apache-2.0
"""Mutual scoring: which photographs are compared, what is found, and that nothing depends on who did it when."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from test_checkpoints import library_log
from test_references_clipsam import patches_of, photograph

from clipsam_hf import ClipSamForAnomalySegmentation, ClipSamProcessor
from clipsam_hf.image_loading import ImageReadError
from clipsam_hf.inference_clipsam import ClipSamInference, PreparedImage
from clipsam_hf.mutual_clipsam import MIXTURE_COUNT, MutualReferences, draw_others, find_mixture
from clipsam_hf.patches_clipsam import Scale, average_neighbourhoods, find_nearest


@pytest.fixture
def inference(tiny_model: ClipSamForAnomalySegmentation, tiny_processor: ClipSamProcessor) -> ClipSamInference:
    tiny_model.config.update({"mutual_text_weight": 0.0, "reference_neighbourhoods": (1,)})
    return ClipSamInference(tiny_model, tiny_processor)


class Folder:
    """Photographs by number; it remembers which were read."""

    def __init__(self, inference: ClipSamInference, images: list[Any]) -> None:
        self.inference, self.images, self.read = inference, images, list[int]()

    def __call__(self, place: int) -> PreparedImage:
        self.read.append(place)
        return self.inference.prepare(self.images[place], refine=False, place=place)

    def compare(self, folder: Path, **options: Any) -> MutualReferences:
        return MutualReferences.from_images(self.inference, self, len(self.images), folder, **options)

    def maps(self, mutual: MutualReferences) -> torch.Tensor:
        predicted = self.inference.predict([self(place) for place in range(len(self.images))], mutual)
        return torch.stack([each.rough_anomaly_map for each in predicted])


def six(*defective: int) -> list[Image.Image]:
    """Six parts, some with a red square of one token in the second row and the third column."""
    return [photograph(number, (1, 2) if number in defective else None) for number in range(6)]


# --------------------------------------------------------------------------------------------------------------------
# The draw


@pytest.mark.parametrize(("count", "num_others"), [(2, 1), (2, 32), (5, 4), (33, 32), (20, 32)])
def test_where_they_are_few_all_are_drawn(count: int, num_others: int) -> None:
    assert draw_others(count, num_others) == list(range(count))


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(("count", "num_others"), [(3, 1), (5, 2), (7, 5), (40, 32), (1000, 32), (100_000, 32)])
def test_one_is_drawn_from_each_part_and_none_twice(count: int, num_others: int, seed: int) -> None:
    places = draw_others(count, num_others, seed=seed)
    parts = num_others + 1
    assert len(places) == len(set(places)) == parts and 0 <= places[0] and places[-1] < count
    for part, place in enumerate(places):
        assert part * count // parts <= place < (part + 1) * count // parts


def test_the_draw_depends_on_the_seed() -> None:
    assert draw_others(1000, 8, seed=1) == draw_others(1000, 8, seed=1) != draw_others(1000, 8, seed=2)


@pytest.mark.parametrize("count", [0, 1])
def test_one_photograph_has_nothing_to_be_compared_with(count: int) -> None:
    with pytest.raises(ValueError, match=f"needs at least two of them, got {count}; for one .* as references"):
        draw_others(count, 32)


# --------------------------------------------------------------------------------------------------------------------
# The map


@pytest.mark.parametrize("fraction", [0.3, 0.5, 1.0])
def test_distances_are_means_of_the_nearest_others(
    inference: ClipSamInference, tmp_path: Path, fraction: float
) -> None:
    """Of five others 30 % are two (1.5 rounds to the even one), half of them two, all five."""
    inference.model.config.update({"mutual_fraction": fraction, "reference_neighbourhoods": (1, 3)})
    images = six(3)
    mutual = Folder(inference, images).compare(tmp_path)
    tokens = [average_neighbourhoods(patches_of(inference, image), (1, 3)) for image in images]
    measured = []
    for own in range(6):
        others = [other for other in range(6) if other != own]
        parts = [[find_nearest(tokens[own][part][0], tokens[other][part][0]) for other in others] for part in range(4)]
        count = {0.3: 2, 0.5: 2, 1.0: 5}[fraction]
        measured.append(torch.stack([torch.stack(each).sort(dim=0).values[:count].mean(0) for each in parts]).mean(0))
    mutual.scale = Scale(0.0, 1.0)
    expected = torch.stack(measured).unflatten(1, (4, 4))
    patches = [torch.cat(each) for each in zip(*(patches_of(inference, image) for image in images), strict=True)]
    found = mutual.compare(patches, (4, 4), range(6))
    torch.testing.assert_close(found.logit() + 3, expected, rtol=0, atol=2e-3)  # patches on the disk are halves


def test_a_defect_of_one_is_found_and_one_of_all_is_not(inference: ClipSamInference, tmp_path: Path) -> None:
    one = Folder(inference, six(3))
    maps = one.maps(one.compare(tmp_path / "one"))
    row, column = np.unravel_index(int(maps[3].argmax()), maps[3].shape)
    assert (row // 8, column // 8) == (1, 2) and maps[3].max() > 0.5
    assert maps[3].max() > 1.2 * maps[[0, 1, 2, 4, 5]].max()
    everyone = Folder(inference, six(*range(6)))
    of_all = everyone.maps(everyone.compare(tmp_path / "all"))
    assert of_all[3, 8:16, 16:24].max() < 0.5 * maps[3, 8:16, 16:24].max()


def test_none_is_compared_with_itself(inference: ClipSamInference, tmp_path: Path) -> None:
    folder = Folder(inference, six())
    mutual = folder.compare(tmp_path)
    patches = patches_of(inference, folder.images[2])
    mutual.fraction = 0.01  # the nearest one alone
    own, stranger = (mutual.compare(patches, (4, 4), [place]) for place in (2, None))
    assert own.min() > stranger.max()  # a stranger finds the very same photograph


def test_a_photograph_that_was_not_drawn_has_as_many_others(
    inference: ClipSamInference, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inference.model.config.mutual_others = 3
    mutual = Folder(inference, six()).compare(tmp_path)
    assert len(mutual) == 4
    asked: list[int] = []
    at = MutualReferences._tokens_at

    def listed(self: MutualReferences, place: int, device: torch.device) -> Any:
        asked.append(place)
        return at(self, place, device)

    monkeypatch.setattr(MutualReferences, "_tokens_at", listed)
    for place in range(6):
        asked.clear()
        mutual.compare(patches_of(inference, photograph(place)), (4, 4), [place])
        assert len(set(asked)) == 3 and place not in asked


def test_a_batch_equals_singles(inference: ClipSamInference, tmp_path: Path) -> None:
    folder = Folder(inference, six(1))
    mutual = folder.compare(tmp_path)
    singles = [inference.predict([folder(place)], mutual)[0].rough_anomaly_map for place in range(6)]
    torch.testing.assert_close(folder.maps(mutual), torch.stack(singles), rtol=0, atol=1e-4)


def test_there_is_no_verdict(inference: ClipSamInference, tmp_path: Path) -> None:
    mutual = Folder(inference, six()).compare(tmp_path)
    assert mutual.decision_threshold is None and mutual.region_threshold == pytest.approx(0.5)


def test_the_threshold_of_regions_is_a_mixture(inference: ClipSamInference, tmp_path: Path) -> None:
    inference.model.config.mutual_text_weight, inference.model.config.binarize_threshold = 0.5, 0.125
    inference.model.head_is_trained = True
    # Roots 2 ** -0.5 and 2 ** -1.5, mean 0.75 * 2 ** -0.5
    assert Folder(inference, six()).compare(tmp_path).region_threshold == pytest.approx(0.28125)


def test_with_texts_the_head_must_be_trained(inference: ClipSamInference, tmp_path: Path) -> None:
    inference.model.config.mutual_text_weight = 0.25
    folder = Folder(inference, six())
    mutual = folder.compare(tmp_path)
    with pytest.raises(ValueError, match="train"):
        folder.maps(mutual)
    inference.model.head_is_trained = True
    assert folder.maps(mutual).isfinite().all()


# --------------------------------------------------------------------------------------------------------------------
# The disk


def test_what_is_there_is_not_made_again(inference: ClipSamInference, tmp_path: Path) -> None:
    folder = Folder(inference, six(1))
    first = folder.compare(tmp_path)
    maps = folder.maps(first)
    assert folder.read[:6] == list(range(6))
    next(iter(first.folder.glob("*3.safetensors"))).unlink()
    folder.read.clear()
    again = folder.compare(tmp_path)
    assert folder.read == [3] and again.folder == first.folder and again.scale == first.scale
    assert torch.equal(folder.maps(again), maps)


def test_an_interruption_costs_what_was_not_finished(inference: ClipSamInference, tmp_path: Path) -> None:
    folder = Folder(inference, six(1))
    expected = folder.maps(folder.compare(tmp_path / "whole"))
    broken = Folder(inference, six(1))
    broken.images[4] = b"no image"
    with pytest.raises(ImageReadError):
        broken.compare(tmp_path / "resumed")
    folder.read.clear()
    mutual = folder.compare(tmp_path / "resumed")
    assert folder.read == [4, 5]
    assert torch.equal(folder.maps(mutual), expected)


@pytest.mark.parametrize("change", ["seed", "weights", "fraction", "layers"])
def test_another_run_stands_apart(inference: ClipSamInference, tmp_path: Path, change: str) -> None:
    inference.model.config.mutual_others = 2
    folder = Folder(inference, six())
    first = folder.compare(tmp_path)
    if change == "weights":
        inference.model.clip.vision_model.encoder.layers[0].mlp.fc1.weight.data.mul_(1.01)
    elif change == "layers":
        inference.model.config.reference_layers = (1,)
    elif change == "fraction":
        inference.model.config.mutual_fraction = 1.0
    folder.read.clear()
    second = folder.compare(tmp_path, seed=3 if change == "seed" else 0)
    assert len(folder.read) == 3 and second.folder != first.folder and second.scale != first.scale


def test_two_processes_make_what_one_makes(inference: ClipSamInference, tmp_path: Path) -> None:
    """Run in turn, they cannot wait for each other: the second one comes when the first has done its share."""
    one = Folder(inference, six(2))
    expected = one.compare(tmp_path / "one")
    shares = [Folder(inference, six(2)) for _ in range(2)]
    found: list[MutualReferences] = []

    def second() -> None:
        if not shares[1].read:
            waiting = iter((lambda: None, finish_first))
            found.append(shares[1].compare(tmp_path / "two", rank=1, num_processes=2, wait=lambda: next(waiting)()))

    def finish_first() -> None:
        found.append(shares[0].compare(tmp_path / "two", rank=0, num_processes=2))

    found.insert(0, shares[0].compare(tmp_path / "two", rank=0, num_processes=2, wait=second))
    assert (shares[0].read[:3], shares[1].read) == ([0, 2, 4], [1, 3, 5])
    for mutual in found:
        assert mutual.scale == expected.scale and mutual.places == expected.places
        assert torch.equal(one.maps(mutual), one.maps(expected))


def test_forgetting_changes_nothing(inference: ClipSamInference, tmp_path: Path) -> None:
    folder = Folder(inference, six(1))
    mutual = folder.compare(tmp_path)
    first = folder.maps(mutual)
    assert mutual._loaded
    mutual.forget()
    assert not mutual._loaded
    assert torch.equal(folder.maps(mutual), first)


def test_no_unfinished_file_is_left(inference: ClipSamInference, tmp_path: Path) -> None:
    mutual = Folder(inference, six()).compare(tmp_path)
    names = sorted(path.name for path in mutual.folder.iterdir())
    assert names == [*(f"{place:08d}.safetensors" for place in range(6)), "mutual.json"]


# --------------------------------------------------------------------------------------------------------------------
# Bad photographs, mixed products


def test_an_unreadable_one_is_left_out_if_it_may_be(inference: ClipSamInference, tmp_path: Path, caplog: Any) -> None:
    folder = Folder(inference, [*six(1)[:5], b"no image"])
    with pytest.raises(ImageReadError):
        folder.compare(tmp_path / "strict")
    with library_log(caplog):
        mutual = folder.compare(tmp_path / "lenient", skip_unreadable=True)
    assert mutual.places == [0, 1, 2, 3, 4]
    assert "Photograph number 6 cannot be read, so none is compared with it" in caplog.text
    five = Folder(inference, six(1)[:5])
    assert mutual.scale == five.compare(tmp_path / "five").scale


def test_too_few_readable_ones_are_too_few(inference: ClipSamInference, tmp_path: Path) -> None:
    folder = Folder(inference, [b"none", photograph(1), b"none"])
    with pytest.raises(ValueError, match="needs at least two of them, got 1"):
        folder.compare(tmp_path, skip_unreadable=True)


def test_other_settings_are_refused(inference: ClipSamInference, tmp_path: Path) -> None:
    mutual = Folder(inference, six()).compare(tmp_path)
    mutual.check(inference.model, inference.processor)
    inference.model.config.reference_deviations = 5.0
    with pytest.raises(ValueError, match=r"`reference_deviations` 3\.0, not 5\.0"):
        mutual.check(inference.model, inference.processor)


def around(direction: list[float], count: int) -> list[np.ndarray]:
    return [np.array(direction) + np.random.default_rng(number).normal(0, 0.02, 3) for number in range(count)]


@pytest.mark.parametrize(
    ("descriptions", "groups"),
    [
        ([*around([1, 0, 0], 3), *around([0, 1, 0], 3)], [0, 0, 0, 1, 1, 1]),
        ([*around([0, 1, 0], 5), *around([1, 0, 1], 3)], [0, 0, 0, 0, 0, 1, 1, 1]),
        ([*around([0, 1, 0], 5), *around([1, 0, 1], 2)], None),
        (around([1, 0, 0], MIXTURE_COUNT - 1), None),
        (around([1, 0, 0], 8), None),
        ([*around([1, 0, 0], 2), *around([0, 1, 0], MIXTURE_COUNT - 3)], None),
    ],
    ids=["two", "unequal", "odd ones", "few", "one", "two, but few"],
)
def test_products_are_told_apart(descriptions: list[np.ndarray], groups: list[int] | None) -> None:
    found = find_mixture(descriptions)
    assert found == groups or (groups is not None and found == [1 - group for group in groups])


def test_equal_photographs_are_one_product() -> None:
    assert find_mixture([np.ones(4)] * 8) is None


def test_a_mixed_folder_is_told(inference: ClipSamInference, tmp_path: Path, caplog: Any) -> None:
    noise = [Image.fromarray(np.random.default_rng(n).integers(0, 256, (32, 32, 3), np.uint8)) for n in range(4)]
    with library_log(caplog):
        Folder(inference, [*six(), *noise]).compare(tmp_path / "mixed")
    assert "Of 10 photographs" in caplog.text and "look like one product" in caplog.text
    caplog.clear()
    with library_log(caplog):
        Folder(inference, six(1)).compare(tmp_path / "one")
    assert caplog.text == ""
