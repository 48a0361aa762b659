# SPDX-FileCopyrightText: 2026 The clipsam_hf authors
# SPDX-License-Identifier: Apache-2.0
"""Tiles cover a photograph, join without seams, and find what a look at the whole misses."""

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from test_references_clipsam import photograph
from torch.testing import assert_close

from clipsam_hf import ClipSamForAnomalySegmentation, ClipSamProcessor, ClipSamReferences
from clipsam_hf.inference_clipsam import ClipSamInference, Prediction
from clipsam_hf.pipeline_clipsam import TASK, ZeroShotAnomalySegmentationPipeline
from clipsam_hf.refinement_clipsam import resize_map
from clipsam_hf.tiling_clipsam import MOST_TILES, OVERLAP, Tile, join_tiles, plan_tiles


LONG = (32, 128)
"""(height, width) of a photograph that is cut into five tiles of 32 pixels."""


@pytest.fixture
def inference(tiny_model: ClipSamForAnomalySegmentation, tiny_processor: ClipSamProcessor) -> ClipSamInference:
    tiny_model.head_is_trained = True
    weights = {"reference_text_weight": 0.0, "mutual_text_weight": 0.0}
    tiny_model.config.update({**weights, "reference_neighbourhoods": (1,), "min_region_fraction": 0.0})
    return ClipSamInference(tiny_model, tiny_processor)


@pytest.fixture
def pipe(inference: ClipSamInference) -> ZeroShotAnomalySegmentationPipeline:
    return ZeroShotAnomalySegmentationPipeline(model=inference.model, processor=inference.processor, task=TASK)


def predict(inference: ClipSamInference, image: Any, references: Any = None, **options: Any) -> Prediction:
    (prediction,) = inference.predict([inference.prepare(image, **options)], references)
    return prediction


# --------------------------------------------------------------------------------------------------------------------
# The plan


@pytest.mark.parametrize(
    ("size", "tile", "count"),
    [
        ((3024, 4032), "auto", 0),  # of a telephone
        ((100, 200), "auto", 0),
        ((100, 201), "auto", 3),
        ((256, 4096), "auto", 21),
        ((4000, 6000), "auto", 40),
        ((4000, 6000), None, 0),
        ((500, 512), 512, 0),
        ((500, 513), 512, 2),
        ((10, 1000), 100, 27),  # tiles of 10 x 50
    ],
)
def test_number_of_tiles(size: tuple[int, int], tile: Any, count: int) -> None:
    assert len(plan_tiles(size, tile, 384)) == count
    assert len(plan_tiles(size[::-1], tile, 384)) == count


@settings(max_examples=60, deadline=None)
@given(
    height=st.integers(1, 7000),
    width=st.integers(1, 7000),
    tile=st.one_of(st.just("auto"), st.integers(500, 3000)),
    image_size=st.sampled_from([32, 384, 518]),
)
def test_tiles_cover_the_photograph(height: int, width: int, tile: Any, image_size: int) -> None:
    tiles = plan_tiles((height, width), tile, image_size)
    if not tiles:
        return
    assert tile != "auto" or len(tiles) <= MOST_TILES
    for low, high, length in (("top", "bottom", height), ("left", "right", width)):
        edges = sorted({(getattr(each, low), getattr(each, high)) for each in tiles})
        assert edges[0][0] == 0 and edges[-1][1] == length
        side = edges[0][1]
        assert all(end - start == side for start, end in edges)
        if side > 20:
            assert all(first[1] - second[0] >= OVERLAP * side - 2 for first, second in pairwise(edges))


@pytest.mark.parametrize("tile", ["never", 15, 0, -3])
def test_other_values_are_refused(tile: Any) -> None:
    with pytest.raises(ValueError, match=f"'auto', a side of at least 16 pixels or None, got {tile!r}"):
        plan_tiles((9, 9), tile, 32)


@pytest.mark.parametrize("tile", [True, 20.5, [64]])
def test_other_types_are_refused(tile: Any) -> None:
    with pytest.raises(TypeError, match="'auto', a side in pixels or None, got"):
        plan_tiles((9, 9), tile, 32)


# --------------------------------------------------------------------------------------------------------------------
# The join


def test_a_joined_ramp_is_the_ramp() -> None:
    # What is linear in the photograph stays so, wherever tiles begin and end
    size, cells = (60, 200), 24
    tiles = plan_tiles(size, 60, cells)
    maps = []
    for tile in tiles:
        columns = tile.left + (torch.arange(cells) + 0.5) / cells * (tile.right - tile.left)
        maps.append((columns / 200).expand(cells, -1))
    joined = join_tiles(torch.zeros(cells, cells), maps, tiles, size)
    assert joined.shape == (24, 80)
    expected = ((torch.arange(80) + 0.5) / 80).expand(24, -1)
    # at the very border a map has no centre beyond its last cell
    assert_close(joined[:, 1:-1], expected[:, 1:-1], atol=1e-6, rtol=0)


@settings(max_examples=30, deadline=None)
@given(height=st.integers(20, 90), width=st.integers(20, 300), tile=st.integers(16, 60), seed=st.integers(0, 9))
def test_no_edge_of_a_tile_can_be_seen(height: int, width: int, tile: int, seed: int) -> None:
    # Tiles that disagree entirely: what they say changes along their overlap, never at once
    tiles = plan_tiles((height, width), tile, 16)
    if not tiles:
        return
    levels = torch.from_numpy(np.random.default_rng(seed).random(len(tiles))).float()
    joined = join_tiles(
        torch.zeros(16, 16), [torch.full((16, 16), float(level)) for level in levels], tiles, (height, width)
    )
    assert levels.min() - 1e-6 <= joined.min() and joined.max() <= levels.max() + 1e-6
    sides = [tiles[0].bottom - tiles[0].top, tiles[0].right - tiles[0].left]
    for axis, side in enumerate(sides):
        step = side * (joined.shape[axis] / (height, width)[axis])
        if joined.shape[axis] > 1:
            assert joined.diff(dim=axis).abs().max() <= 2 / (OVERLAP * step) + 1e-6


def test_the_higher_of_both_is_kept() -> None:
    whole = torch.zeros(4, 4)
    whole[:, 0] = 0.9
    tiles = [Tile(0, 0, 8, 8), Tile(0, 4, 8, 12)]
    joined = join_tiles(whole, [torch.full((4, 4), 0.2)] * 2, tiles, (8, 12))
    assert joined[0, 0] == 0.9 and joined[0, -1] == pytest.approx(0.2)


# --------------------------------------------------------------------------------------------------------------------
# Photographs


def test_each_tile_is_what_its_crop_is_alone(inference: ClipSamInference) -> None:
    image = photograph(size=LONG, defect=(1, 9))
    prepared = inference.prepare(image, tile="auto")
    crops = [image.crop((tile.left, tile.top, tile.right, tile.bottom)) for tile in prepared.tiles]
    assert [crop.size for crop in crops] == [(32, 32)] * 5
    parts = [predict(inference, crop) for crop in crops]
    whole, joined = predict(inference, image), predict(inference, image, tile="auto")
    for name, score in (("rough_anomaly_map", "rough_score"), ("anomaly_map", "pred_score")):
        expected = join_tiles(getattr(whole, name), [getattr(part, name) for part in parts], prepared.tiles, LONG)
        assert_close(getattr(joined, name), expected)
        assert getattr(joined, score) == pytest.approx(max(getattr(each, score) for each in (whole, *parts)))
    assert joined.resized().shape == LONG


def test_a_constant_photograph_has_no_seams(inference: ClipSamInference) -> None:
    image = Image.new("RGB", LONG[::-1], (120, 110, 100))
    tile = predict(inference, image.crop((0, 0, 32, 32)), refine=False).resized()
    joined = predict(inference, image, refine=False, tile="auto").resized()
    # No step between neighbours is larger than those inside a tile or the whole
    whole = predict(inference, image, refine=False).resized()
    for axis in (0, 1):
        inside = max(np.abs(np.diff(each, axis=axis)).max() for each in (tile, whole))
        assert np.abs(np.diff(joined, axis=axis)).max() <= inside + np.ptp(tile) / 8


def test_short_photographs_are_what_they_were(inference: ClipSamInference) -> None:
    image = photograph(size=(40, 60))
    assert_close(predict(inference, image, tile="auto").anomaly_map, predict(inference, image).anomaly_map)


def test_the_callers_photograph_is_not_changed(inference: ClipSamInference) -> None:
    image = photograph(size=LONG)
    before = image.tobytes()
    predict(inference, image, tile="auto")
    assert image.tobytes() == before


def test_the_pipeline_cuts_by_itself(pipe: ZeroShotAnomalySegmentationPipeline, inference: ClipSamInference) -> None:
    image = photograph(size=LONG)
    expected = predict(inference, image, tile="auto").resized()
    batch = pipe([image, photograph(), image], batch_size=3)
    for result in (pipe(image), pipe(image, tile="auto"), batch[0], batch[2]):
        assert_close(result["anomaly_map"], expected)
    whole = pipe(image, tile=None)
    assert_close(whole["anomaly_map"], predict(inference, image).resized())
    with pytest.raises(ValueError, match="`tile` must be 'auto'"):
        pipe(image, tile="yes")


# --------------------------------------------------------------------------------------------------------------------
# References


def test_references_are_cut_alike(inference: ClipSamInference, pipe: Any, tmp_path: Path) -> None:
    good = [photograph(number, size=LONG) for number in range(3)]
    references = ClipSamReferences.from_images(inference.model, inference.processor, good)
    assert references.tile == "auto"
    # 16 tokens of the whole and of each of five tiles
    assert len(references.photographs) == 3 * 6 * 16
    bad = photograph(7, defect=(1, 9), size=LONG)
    for refine in (False, True):
        assert pipe(bad, references=references, refine=refine)["label"] == "anomalous"
        assert pipe(good[1], references=references, refine=refine)["label"] == "normal"
    prediction = predict(inference, bad, references, refine=False, tile="auto")
    row, column = np.unravel_index(prediction.resized().argmax(), LONG)
    assert 4 <= row < 20 and 68 <= column < 84

    references.save_pretrained(tmp_path)
    assert ClipSamReferences.from_pretrained(tmp_path).tile == "auto"


def test_references_know_how_they_were_cut(inference: ClipSamInference, pipe: Any) -> None:
    good = [photograph(number, size=LONG) for number in range(2)]
    references = ClipSamReferences.from_images(inference.model, inference.processor, good, tile=None)
    expected = predict(inference, good[0], references, refine=False).resized()
    assert_close(pipe(good[0], references=references, refine=False)["anomaly_map"], expected)
    with pytest.raises(ValueError, match="by `tile` None, not 64"):
        pipe(good[0], references=references, tile=64)
    with pytest.raises(ValueError, match="compared with each other are taken whole"):
        pipe(good, references="mutual", tile=64)
    assert len(pipe(good, references="mutual", refine=False)) == 2


def test_a_single_reference_and_turned_ones_are_cut(inference: ClipSamInference) -> None:
    single = ClipSamReferences.from_images(inference.model, inference.processor, [photograph(size=LONG)])
    assert len(single.settings.scores) == 2 and single.decision_threshold is None
    turned = ClipSamReferences.from_images(
        inference.model, inference.processor, [photograph(number, size=LONG) for number in range(2)], rotations=True
    )
    assert len(turned.photographs) == 2 * 6 * 4 * 16


def test_defects_of_references_are_left_out_of_tiles(inference: ClipSamInference) -> None:
    mask = np.zeros(LONG, dtype=np.uint8)
    mask[8:16, 72:80] = 255
    bad = [photograph(number, defect=(1, 9), size=LONG) for number in range(2)]
    references = ClipSamReferences.from_images(
        inference.model, inference.processor, bad, defect_masks=[Image.fromarray(mask), None]
    )
    counts = torch.bincount(references.photographs.long()).tolist()
    assert counts[1] == 6 * 16 and counts[0] < counts[1] - 16


# --------------------------------------------------------------------------------------------------------------------
# Region of interest


def left(size: tuple[int, int]) -> np.ndarray:
    roi = np.zeros(size, dtype=bool)
    roi[:, : size[1] // 2] = True
    return roi


@pytest.mark.parametrize("kind", ["array", "image", "file", "of another size", "in the dictionary"])
def test_a_region_of_interest_however_it_is_given(pipe: Any, tmp_path: Path, kind: str) -> None:
    image = photograph(size=(40, 60))
    picture = Image.fromarray(left((40, 60)))
    picture.save(tmp_path / "roi.png")
    given = {
        "array": left((40, 60)),
        "image": picture,
        "file": tmp_path / "roi.png",
        "of another size": left((4, 6)),
    }.get(kind)
    item = {"image": image, "roi_mask": picture} if given is None else image
    result = pipe(item, roi_mask=given)
    # CLIP's frame is 32 pixels wide: at the edge half a cell of it is blended
    assert result["anomaly_map"][:, 31:].max() == 0 < result["anomaly_map"][:, :29].min()
    assert all(region["box"]["xmax"] <= 31 for region in result["regions"])


def test_nothing_outside_scores(inference: ClipSamInference) -> None:
    inference.model.config.image_score = "max"
    image = photograph(size=(40, 60))
    plain = predict(inference, image, refine=False)
    for side in (left((32, 32)), ~left((32, 32))):
        inside = predict(inference, image, refine=False, roi=torch.from_numpy(side))
        assert inside.pred_score == pytest.approx(plain.anomaly_map[torch.from_numpy(side)].max().item())
    everything = predict(inference, image, roi=torch.ones(3, 3, dtype=torch.bool))
    assert_close(everything.anomaly_map, predict(inference, image).anomaly_map)


@pytest.mark.parametrize("rule", ["fixed", "relative"])
def test_refinement_is_prompted_inside_alone(inference: ClipSamInference, rule: str) -> None:
    config = inference.model.config
    rough = predict(inference, photograph(size=(40, 60)), refine=False).rough_anomaly_map
    config.update({"region_rule": rule, "binarize_threshold": float(rough.quantile(0.9)), "region_deviations": 1.0})
    roi = torch.from_numpy(left((32, 32)))
    images = [inference.prepare(photograph(seed, size=(40, 60)), roi=roi) for seed in range(2)]
    both = inference.predict(images)
    for image, prediction in zip(images, both, strict=True):
        (alone,) = inference.predict([image])
        assert_close(prediction.anomaly_map, alone.anomaly_map)
        assert prediction.anomaly_map[:, 16:].max() == 0 < prediction.anomaly_map.max()


def test_the_relative_rule_looks_inside(pipe: Any) -> None:
    # Zeros outside would lower the median and call half of the region abnormal
    pipe.model.config.update({"region_rule": "relative", "region_deviations": 3.0})
    result = pipe(photograph(size=(40, 60)), roi_mask=left((40, 60)), refine=False)
    assert np.mean(np.asarray(result["mask"])[:, :29] > 0) < 0.2


def test_a_region_of_a_long_photograph(inference: ClipSamInference, pipe: Any) -> None:
    roi = left(LONG)
    result = pipe(photograph(size=LONG), roi_mask=roi)
    assert result["anomaly_map"][:, 65:].max() == 0 < result["anomaly_map"][:, :63].min()
    references = ClipSamReferences.from_images(
        inference.model, inference.processor, [photograph(number, size=LONG) for number in range(2)], roi_mask=roi
    )
    # Half of the whole, of three tiles all, half and nothing
    assert len(references.photographs) < 2 * 6 * 16 * 0.7
    bad_outside = photograph(7, defect=(1, 12), size=LONG)
    assert pipe(bad_outside, references=references)["label"] == "normal"
    assert pipe(photograph(7, defect=(1, 2), size=LONG), references=references)["label"] == "anomalous"


def test_mutual_scoring_has_a_region_too(pipe: Any) -> None:
    images = [photograph(number) for number in range(3)]
    for result in pipe(images, references="mutual", roi_mask=left((32, 32)), refine=False):
        assert result["anomaly_map"][:, 16:].max() == 0 < result["anomaly_map"].max()


def test_an_empty_region_is_refused(pipe: Any) -> None:
    with pytest.raises(ValueError, match="region of interest is empty"):
        pipe(photograph(), roi_mask=np.zeros((4, 4), dtype=bool))


def test_a_map_in_the_photographs_size_is_that_of_the_join(inference: ClipSamInference) -> None:
    prediction = predict(inference, photograph(size=LONG), tile="auto")
    assert_close(torch.from_numpy(prediction.resized()), resize_map(prediction.anomaly_map, LONG))


def test_a_region_between_the_maps_pixels_is_refused(pipe: Any) -> None:
    point = np.zeros((500, 500), dtype=bool)
    point[0, 0] = True
    with pytest.raises(ValueError, match="holds no pixel of the map of 32 x 32: it is too small"):
        pipe(photograph(size=(500, 500)), roi_mask=point, refine=False)
