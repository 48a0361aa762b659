# SPDX-FileCopyrightText: 2026 The clipsam_hf authors
# SPDX-License-Identifier: Apache-2.0
"""Metrics against hand-computed numbers, scikit-learn, twins that follow the definitions, and invariances."""

import math
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from reference_metrics import brute_force_aupro, linear_loop_aupro, region_recall
from scipy import ndimage, special
from sklearn.metrics import average_precision_score, precision_recall_curve, roc_auc_score

from clipsam_hf.metrics import FIGURES, AnomalyMetrics, categories, ranks, resize_mask


Figures = dict[str, float]


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Makes even tiny categories fill several blocks."""
    monkeypatch.setattr(ranks, "_BLOCK_LENGTH", 1000)
    yield


def images(seed: int = 0, count: int = 12, size: tuple[int, int] = (33, 41)) -> tuple[np.ndarray, np.ndarray]:
    """Maps in (0, 1) without ties, and masks of a few blobs; every third image is good."""
    generator = np.random.default_rng(seed)
    noise = ndimage.gaussian_filter(generator.standard_normal((2, count, *size)), (0, 0, 2, 2))
    masks = noise[0] > 1.8 * noise[0].std()
    masks[::3] = False
    maps = 1 / (1 + np.exp(-(noise[1] / noise[1].std() + 1.5 * masks)))
    return maps.astype(np.float32), masks


def collect(maps: Any, masks: Any, category: str = "candle", **options: Any) -> AnomalyMetrics:
    metrics = AnomalyMetrics(**options)
    for anomaly_map, mask in zip(maps, masks, strict=True):
        metrics.update(anomaly_map, mask, category)
    return metrics


def figures_of(maps: Any, masks: Any, **options: Any) -> Figures:
    return collect(maps, masks, **options).finish("candle")


def quantized(maps: np.ndarray) -> np.ndarray:
    return np.round(maps * 8) / 8


def saturated(maps: np.ndarray) -> np.ndarray:
    """Most pixels exactly 0 or 1, as float32 rounds a steep softmax."""
    return np.clip(6 * maps - 3, 0, 1).astype(np.float32)


def constant(maps: np.ndarray) -> np.ndarray:
    return np.full_like(maps, 0.25)


def unchanged(maps: np.ndarray) -> np.ndarray:
    return maps


MAPS = [unchanged, quantized, saturated, constant]


# Exact figures


@pytest.mark.parametrize("change", MAPS)
def test_pixel_figures_equal_scikit_learn(change: Callable[[np.ndarray], np.ndarray]) -> None:
    maps, masks = images()
    maps = change(maps)
    figures = figures_of(maps, masks)
    precision, recall, _ = precision_recall_curve(masks.ravel(), maps.ravel())
    expected_f1 = np.max(2 * precision * recall / np.maximum(precision + recall, 1e-300))
    assert figures["pixel_auroc"] == pytest.approx(roc_auc_score(masks.ravel(), maps.ravel()), abs=1e-9)
    assert figures["pixel_ap"] == pytest.approx(average_precision_score(masks.ravel(), maps.ravel()), abs=1e-9)
    assert figures["pixel_f1_max"] == pytest.approx(expected_f1, abs=1e-9)


@pytest.mark.parametrize("decimals", [1, 6])
def test_image_figures_equal_scikit_learn(decimals: int) -> None:
    generator = np.random.default_rng(0)
    labels = generator.random(60) < 0.6
    scores = np.round(generator.standard_normal(60) + labels, decimals)
    metrics = AnomalyMetrics()
    for score, label in zip(scores, labels, strict=True):
        metrics.update(np.zeros((1, 1)), np.array([[label]]), "candle", image_score=score)
    figures = metrics.finish("candle")
    precision, recall, _ = precision_recall_curve(labels, scores)
    assert figures["image_auroc"] == pytest.approx(roc_auc_score(labels, scores), abs=1e-9)
    assert figures["image_ap"] == pytest.approx(average_precision_score(labels, scores), abs=1e-9)
    assert figures["image_f1_max"] == pytest.approx(np.nanmax(2 * precision * recall / (precision + recall)), abs=1e-9)


@pytest.mark.parametrize("streaming", [False, True])
def test_threshold_reaches_f1_max_and_iou(streaming: bool) -> None:
    maps, masks = images()
    figures = figures_of(maps, masks, streaming=streaming)
    called = maps >= np.float32(figures["pixel_f1_threshold"])
    hits = (called & masks).sum()
    assert figures["pixel_f1_max"] == pytest.approx(2 * hits / (called.sum() + masks.sum()), abs=1e-12)
    assert figures["pixel_iou"] == pytest.approx(hits / (called | masks).sum(), abs=1e-12)


def test_aupro_of_a_four_by_four_map_by_hand() -> None:
    # Two regions: one pixel (weight 1) and two pixels that touch at a corner (weight 1/2 each); 13 good pixels.
    mask = np.array([[1, 0, 0, 0], [0, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
    anomaly_map = np.array([[9, 1, 1, 1], [1, 1, 1, 1], [1, 8, 7, 1], [1, 1, 8, 2]])
    # Overlap by threshold: 9 -> 1/2 at rate 0; 8 -> no more at 2/13; 7 -> 3/4 at 2/13; 2 -> 1 at 2/13; then 1 at 1.
    # Up to 0.3: 1/2 over [0, 2/13], 1 from there on.
    expected = (0.5 * 2 / 13 + (0.3 - 2 / 13)) / 0.3
    assert figures_of([anomaly_map], [mask])["pixel_aupro"] == pytest.approx(expected, abs=1e-12)


def test_aupro_is_linear_across_a_tie_and_cut_at_the_limit() -> None:
    # One threshold calls the only defect pixel and 2 of 4 good ones: the line from (0, 0) to (1/2, 1), cut at 1/4.
    anomaly_map, mask = np.array([[3, 3, 3, 1, 1]]), np.array([[1, 0, 0, 0, 0]])
    figures = figures_of([anomaly_map], [mask], aupro_limit=0.25)
    assert figures["pixel_aupro"] == pytest.approx((0.25 * 0.5 / 2) / 0.25, abs=1e-12)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    levels=st.sampled_from([1, 2, 5, 1000]),
    limit=st.sampled_from([0.05, 0.3, 1.0]),
    density=st.sampled_from([0.1, 0.4]),
)
def test_aupro_equals_the_definition(seed: int, levels: int, limit: float, density: float) -> None:
    generator = np.random.default_rng(seed)
    shapes = [(5, 7), (6, 4), (1, 9)]
    maps = [generator.integers(0, levels, shape) / levels for shape in shapes]
    maps = [scores.astype(np.float32) for scores in maps]
    masks = [generator.random(shape) < density for shape in shapes]
    masks[0][0, :2] = True, False
    expected = brute_force_aupro(maps, masks, limit)
    assert figures_of(maps, masks, aupro_limit=limit)["pixel_aupro"] == pytest.approx(expected, abs=1e-9)


# What an order of pixels can and cannot change

SQUASHES = [lambda x: 2 * x**3 - 5, lambda x: 1 / (1 + np.exp(6 - 12 * x)), lambda x: np.exp(30 * x), np.sqrt]


def ranked(maps: np.ndarray) -> np.ndarray:
    """Maps of distinct values i / n, so that no squash below rounds two of them together."""
    return (np.argsort(np.argsort(maps.ravel())).reshape(maps.shape) + 1) / maps.size


@pytest.mark.parametrize("squash", SQUASHES)
def test_figures_are_invariant_under_monotone_maps(squash: Callable[[np.ndarray], np.ndarray]) -> None:
    maps, masks = images(count=6)
    maps = ranked(maps)
    squashed = squash(maps).astype(np.float32)
    assert len(np.unique(squashed)) > 0.9 * maps.size
    # Where float32 does round values together, the others follow, so that the order is the same in both
    _, plain = np.unique(squashed, return_inverse=True)
    expected, figures = figures_of(plain.reshape(maps.shape), masks), figures_of(squashed, masks)
    for name in set(figures) - {"pixel_f1_threshold"}:
        assert figures[name] == pytest.approx(expected[name], abs=1e-12, nan_ok=True), name


def test_the_fields_loop_is_not_invariant_and_the_exact_figure_is() -> None:
    """The same ranking, squashed harder and harder: the reason why `legacy_aupro_linear200` is called legacy."""
    maps, masks = images(count=9, size=(48, 48))
    ranks = ranked(maps)
    exact, legacy = [], []
    for steepness in (1, 10, 60):
        figures = figures_of(np.exp(steepness * (ranks - 1)), masks, aupro_linear200=True)
        exact.append(figures["pixel_aupro"])
        legacy.append(figures["legacy_aupro_linear200"])
    assert np.ptp(exact) < 1e-9
    assert np.ptp(legacy) > 0.2


@pytest.mark.parametrize("change", [unchanged, quantized, saturated])
def test_legacy_figure_reproduces_the_fields_loop(change: Callable[[np.ndarray], np.ndarray]) -> None:
    maps, masks = images(count=3, size=(24, 29))
    maps = change(maps).astype(np.float32)
    legacy = figures_of(maps, masks, aupro_linear200=True)["legacy_aupro_linear200"]
    assert legacy == pytest.approx(linear_loop_aupro(maps, masks), abs=1e-9, nan_ok=True)


def test_legacy_figure_is_absent_unless_asked_for() -> None:
    assert "legacy_aupro_linear200" not in figures_of(*images())


def test_legacy_figure_of_a_constant_map_is_nan() -> None:
    maps, masks = images()
    assert math.isnan(figures_of(constant(maps), masks, aupro_linear200=True)["legacy_aupro_linear200"])


# Regions


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("overlap", [1e-9, 0.3, 0.5, 1.0])
def test_region_recall_equals_its_definition(overlap: float, streaming: bool) -> None:
    maps, masks = images()
    figures = figures_of(maps, masks, region_overlap=overlap, streaming=streaming)
    expected = region_recall(list(maps), list(masks), np.float32(figures["pixel_f1_threshold"]), overlap)
    assert figures["region_recall"] == pytest.approx(expected, abs=1e-12)


def test_regions_are_counted_and_found_by_size() -> None:
    # In 100 x 100 pixels: 10 are still small, 100 still medium. All is found but the medium region.
    mask = np.zeros((100, 100), dtype=bool)
    mask[0, :10] = mask[10:20, :10] = mask[40:60, :50] = True
    anomaly_map = mask.astype(np.float32)
    anomaly_map[10:20, :10] = 0
    metrics = collect([anomaly_map], [mask])
    figures = metrics.finish("candle")
    sizes = ("small", "medium", "large")
    assert [figures[f"region_recall_{size}"] for size in sizes] == [1, 0, 1]
    assert figures["region_recall"] == pytest.approx(2 / 3)
    with pytest.warns(UserWarning, match="no image figures"):
        counts = metrics.compute()["counts"]["candle"]
    assert [counts[f"regions_{size}"] for size in sizes] == [1, 1, 1]
    assert (counts["regions"], counts["pixels"], counts["abnormal_pixels"]) == (3, 10_000, 1110)


def test_diagonal_pixels_are_one_region() -> None:
    with pytest.warns(UserWarning, match="no image figures"):
        counts = collect([np.eye(3)], [np.eye(3)]).compute()["counts"]["candle"]
    assert counts["regions"] == 1


# Edges


def test_constant_maps_score_like_chance() -> None:
    maps, masks = images()
    figures = figures_of(constant(maps), masks)
    share = masks.mean()
    assert figures["pixel_auroc"] == 0.5
    assert figures["pixel_ap"] == pytest.approx(share)
    assert figures["pixel_f1_max"] == pytest.approx(2 * share / (1 + share))
    assert figures["pixel_aupro"] == pytest.approx(0.15)
    assert figures["image_auroc"] == 0.5


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("abnormal", [False, True])
def test_one_kind_of_pixels_gives_nan_and_a_warning(abnormal: bool, streaming: bool) -> None:
    metrics = collect([np.full((3, 4), 0.5)], [np.full((3, 4), abnormal)], streaming=streaming)
    with pytest.warns(UserWarning) as caught:
        results = metrics.compute()
    assert [str(warning.message)[:16] for warning in caught] == ["no pixel figures", "no image figures"]
    assert all(math.isnan(value) for value in results["categories"]["candle"].values())
    assert all(math.isnan(value) for value in results["mean"].values())


def test_single_pixels_are_enough() -> None:
    figures = figures_of([np.array([[0.7]]), np.array([[0.2]])], [np.array([[True]]), None])
    assert {figures[name] for name in ("pixel_auroc", "pixel_ap", "pixel_f1_max", "pixel_aupro", "pixel_iou")} == {1.0}
    assert figures["pixel_f1_threshold"] == pytest.approx(0.7)


def test_saturated_maps_count_as_the_ties_they_are() -> None:
    # 1 of 2 defect pixels and 1 of 4 good ones are saturated: (1/2)(3/4) wins, and ties for half.
    figures = figures_of([np.array([[1, 0, 1, 0, 0, 0]])], [np.array([[1, 1, 0, 0, 0, 0]])])
    assert figures["pixel_auroc"] == pytest.approx((3 + 0.5 + 1.5) / 8)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 1e300])
def test_scores_that_are_not_finite_raise(value: float) -> None:
    anomaly_map = np.zeros((3, 3))
    anomaly_map[1, 1] = value
    with pytest.raises(ValueError, match="NaN or infinity .*'candle'"):
        AnomalyMetrics().update(anomaly_map, None, "candle")


@pytest.mark.parametrize(
    ("arguments", "options", "error", "message"),
    [
        ((np.zeros((2, 2)), np.zeros((2, 3)), "candle"), {}, ValueError, r"\(2, 3\), `anomaly_map` \(2, 2\)"),
        ((np.zeros((1, 2, 2)), None, "candle"), {}, ValueError, r"got \(1, 2, 2\)"),
        ((np.zeros((0, 2)), None, "candle"), {}, ValueError, "at least a pixel"),
        (([[0.0]], None, "candle"), {}, TypeError, "got list"),
        ((np.zeros((1, 1)), [[0]], "candle"), {}, TypeError, "got list"),
        ((np.zeros((1, 1)), None, 3), {}, TypeError, "got 3"),
        ((np.zeros((1, 1)), None, "candle"), {"image_score": math.nan}, ValueError, "got nan"),
        ((np.zeros((1, 1)), np.ones((1, 1)), "candle"), {"label": 0}, ValueError, "has a defect"),
    ],
)
def test_bad_input_is_named(arguments: Any, options: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        AnomalyMetrics().update(*arguments, **options)


@pytest.mark.parametrize("options", [{"aupro_limit": 0}, {"aupro_limit": 1.1}, {"region_overlap": 0}])
def test_options_out_of_range_raise(options: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r"must be in \(0, 1\]"):
        AnomalyMetrics(**options)


def test_refused_update_leaves_no_trace() -> None:
    metrics = AnomalyMetrics()
    with pytest.raises(ValueError, match="NaN"):
        metrics.update(np.array([[math.nan]]), None, "candle")
    with pytest.raises(ValueError, match="nothing to compute"):
        metrics.compute()


def test_label_of_a_vanished_defect_stays() -> None:
    metrics = AnomalyMetrics().update(np.array([[0.9]]), np.array([[False]]), "candle", label=True)
    figures = metrics.update(np.array([[0.1]]), None, "candle").finish("candle")
    assert figures["image_auroc"] == 1.0


def test_abnormal_image_without_mask_counts_for_the_image_figures_alone() -> None:
    maps, masks = images()
    expected = figures_of(maps, masks)
    metrics = collect(maps, masks).update(np.full((5, 5), 0.9), None, "candle", image_score=-1.0, label=True)
    figures = metrics.finish("candle")
    assert figures["pixel_auroc"] == expected["pixel_auroc"]
    assert figures["image_auroc"] < expected["image_auroc"]


def test_tensors_of_any_kind_are_taken() -> None:
    maps, masks = images(count=4)
    low = torch.from_numpy(maps).to(torch.bfloat16).requires_grad_()
    expected = figures_of(low.detach().float().numpy(), masks)
    assert figures_of(low, torch.from_numpy(masks).long()) == pytest.approx(expected, nan_ok=True)


def test_given_arrays_stay_as_they_are() -> None:
    maps, masks = images()
    given_maps, given_masks = maps.copy(), masks.copy()
    metrics = collect(maps, masks)
    metrics.compute()
    maps[:] = 0
    assert metrics.finish("candle") == figures_of(given_maps, given_masks)
    assert np.array_equal(masks, given_masks)


# Categories


def test_mean_is_over_categories_and_never_pooled() -> None:
    maps, masks = images()
    metrics = AnomalyMetrics()
    for index, name in enumerate(["candle", "pill"]):
        for anomaly_map, mask in zip(maps[index::2], masks[index::2], strict=True):
            metrics.update(anomaly_map + 10 * index, mask, name)
    results = metrics.compute()
    for index, name in enumerate(["candle", "pill"]):
        alone = roc_auc_score(masks[index::2].ravel(), maps[index::2].ravel())
        assert results["categories"][name]["pixel_auroc"] == pytest.approx(alone, abs=1e-9)
    mean = np.mean([figures["pixel_auroc"] for figures in results["categories"].values()])
    assert results["mean"]["pixel_auroc"] == pytest.approx(mean, abs=1e-12)
    assert "pixel_f1_threshold" not in results["mean"]


def test_mean_leaves_out_the_undefined_and_says_so() -> None:
    maps, masks = images()
    metrics = collect(maps, masks).update(maps[0], None, "only good")
    with pytest.warns(UserWarning, match="figures for only good.*left out of the mean"):
        results = metrics.compute()
    assert results["mean"]["pixel_ap"] == results["categories"]["candle"]["pixel_ap"]


def test_finished_category_frees_its_scores_and_keeps_its_figures() -> None:
    maps, masks = images()
    metrics, expected = collect(maps, masks), collect(maps, masks).compute()
    metrics.finish("candle")
    assert not metrics._categories
    assert metrics.compute() == expected
    with pytest.raises(ValueError, match="'candle' is finished"):
        metrics.update(maps[0], None, "candle")


def test_unknown_category_cannot_be_finished() -> None:
    with pytest.raises(ValueError, match="unknown category 'pill'; there are .*candle"):
        collect(*images()).finish("pill")


def test_computing_between_updates_changes_nothing() -> None:
    maps, masks = images()
    metrics = collect(maps[:6], masks[:6])
    metrics.compute()
    for anomaly_map, mask in zip(maps[6:], masks[6:], strict=True):
        metrics.update(anomaly_map, mask, "candle")
    assert metrics.finish("candle") == pytest.approx(figures_of(maps, masks), abs=1e-12)


# Shards and states


@pytest.mark.parametrize("streaming", [False, True])
def test_merged_shards_equal_one(streaming: bool) -> None:
    maps, masks = images()
    whole = collect(maps, masks, streaming=streaming).compute()
    shards = [collect(maps[index::2], masks[index::2], streaming=streaming) for index in range(2)]
    untouched = shards[1].compute()
    merged = shards[0].merge(shards[1]).compute()
    assert merged["categories"]["candle"] == pytest.approx(whole["categories"]["candle"], abs=1e-12)
    assert merged["counts"] == whole["counts"]
    assert shards[1].compute() == untouched


def test_merge_joins_different_categories() -> None:
    maps, masks = images()
    merged = collect(maps, masks).merge(collect(maps, masks, category="pill"))
    assert sorted(merged.compute()["categories"]) == ["candle", "pill"]


def test_merge_refuses_other_options() -> None:
    with pytest.raises(ValueError, match="different options"):
        AnomalyMetrics().merge(AnomalyMetrics(0.2))


@pytest.mark.parametrize("finished", [0, 1])
def test_merge_refuses_a_finished_category(finished: int) -> None:
    both = [collect(*images()), collect(*images())]
    both[finished].finish("candle")
    with pytest.raises(ValueError, match="merge before `finish`"):
        both[0].merge(both[1])


@pytest.mark.parametrize("streaming", [False, True])
def test_state_survives_a_file(tmp_path: Any, streaming: bool) -> None:
    maps, masks = images()
    metrics = collect(maps, masks, category="../odd name\n", streaming=streaming)
    metrics.merge(collect(maps[::-1], masks, streaming=streaming)).finish("candle")
    np.savez(tmp_path / "state.npz", allow_pickle=False, **metrics.state_dict())
    with np.load(tmp_path / "state.npz", allow_pickle=False) as state:
        restored = AnomalyMetrics.from_state_dict(state)
    assert restored.compute() == metrics.compute()
    assert restored.update(maps[0], None, "../odd name\n").compute() != metrics.compute()


def test_foreign_state_is_refused() -> None:
    with pytest.raises(ValueError, match="no 'header' among"):
        AnomalyMetrics.from_state_dict({"weights": np.zeros(3)})


# Streaming


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), steepness=st.sampled_from([0.1, 1, 8, 40]), shift=st.sampled_from([-1, 0, 1]))
def test_intervals_contain_the_exact_figures(seed: int, steepness: float, shift: float) -> None:
    """Mild, saturated at 0, saturated at 1."""
    maps, masks = images(seed, count=4, size=(17, 19))
    masks[1, 3, 4] = True
    maps = special.expit(steepness * (special.logit(maps) + shift)).astype(np.float32)
    exact = figures_of(maps, masks)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        results = collect(maps, masks, streaming=True).compute()
    intervals, figures = results["intervals"]["candle"], results["categories"]["candle"]
    assert set(intervals) == {f"pixel_{name}" for name in ("auroc", "ap", "f1_max", "iou", "aupro")}
    for name, (low, high) in intervals.items():
        assert low <= exact[name] <= high
        assert low <= figures[name] <= high


@pytest.mark.parametrize("best", [False, True])
def test_bounds_of_one_key_by_hand(best: bool) -> None:
    # Two defect pixels below, or above, three good ones, all in one key: every order is possible
    scores = (0.3 + np.arange(5) / 2**25).astype(np.float32)[None, ::-1]
    mask = np.array([[True, True, False, False, False]]) if best else np.array([[False, False, False, True, True]])
    assert len(np.unique(ranks._keys_of(scores))) == 1
    with pytest.warns(UserWarning):
        intervals = collect([scores], [mask], streaming=True).compute()["intervals"]["candle"]
    exact = figures_of([scores], [mask])
    lows = {"pixel_auroc": 0, "pixel_ap": (1 / 4 + 2 / 5) / 2, "pixel_f1_max": 4 / 7, "pixel_aupro": 0}
    for name, low in lows.items():
        assert intervals[name] == pytest.approx((low, 1), abs=1e-9)
        assert exact[name] == pytest.approx(1 if best else low, abs=1e-9)


@pytest.mark.parametrize("end", [0.0, 1.0])
def test_scores_crowded_at_either_end_stay_apart(end: float) -> None:
    maps, masks = images()
    crowded = np.abs(end - 1e-4 * ranked(maps)).astype(np.float32)
    if end:
        crowded = (1 - np.abs(1 - crowded)).astype(np.float32)
        masks = masks[..., ::-1, :].copy()
    results = collect(crowded, masks, streaming=True).compute()
    low, high = results["intervals"]["candle"]["pixel_auroc"]
    assert high - low < 1e-3


def test_keys_rise_with_the_score_and_start_at_the_lowest_one() -> None:
    scores = np.sort(np.concatenate([np.random.default_rng(0).random(5000), 2.0 ** -np.arange(1, 140)]))
    scores = np.unique(np.concatenate([scores, 1 - scores, [-0.0, 0.5, 1.0]]).astype(np.float32))
    keys = ranks._keys_of(scores)
    assert (np.diff(keys) >= 0).all() and keys[0] == 0 and keys[-1] == ranks._NUM_KEYS - 1
    lowest = ranks._lowest_score_of(keys)
    assert (lowest <= scores).all()
    assert (ranks._keys_of(lowest) == keys).all()
    assert (ranks._keys_of(np.nextafter(lowest[1:], np.float32(-1))) < keys[1:]).all()


def test_wide_intervals_warn_and_name_the_way_out() -> None:
    maps, masks = images()
    with pytest.warns(UserWarning, match=r"wider than 0.05 points.*candle pixel_auroc \[.*streaming=False"):
        collect(constant(maps), masks, streaming=True).compute()


def test_mean_interval_is_the_mean_of_the_intervals() -> None:
    maps, masks = images()
    metrics = collect(maps, masks, streaming=True).merge(collect(maps[::-1], masks, category="pill", streaming=True))
    results = metrics.compute()
    lows = [bounds["pixel_ap"][0] for bounds in results["intervals"].values()]
    assert results["mean_interval"]["pixel_ap"][0] == pytest.approx(np.mean(lows))


@pytest.mark.parametrize("value", [-0.1, 1.5])
def test_streaming_refuses_maps_outside_the_unit_interval(value: float) -> None:
    with pytest.raises(ValueError, match=r"maps in \[0, 1\], got \[.*streaming=False"):
        AnomalyMetrics(streaming=True).update(np.array([[0.5, value]]), None, "candle")


def test_streaming_refuses_the_legacy_figure() -> None:
    with pytest.raises(ValueError, match="needs all scores"):
        AnomalyMetrics(streaming=True, aupro_linear200=True)


# The list of figures


@pytest.mark.parametrize("legacy", [False, True])
def test_all_listed_figures_are_computed(legacy: bool) -> None:
    figures = figures_of(*images(), aupro_linear200=legacy)
    assert list(figures) == [name for name, figure in FIGURES.items() if legacy or figure.group != "legacy"]
    assert not math.isnan(figures["pixel_auroc"])


def test_a_figure_that_is_not_listed_raises(monkeypatch: pytest.MonkeyPatch) -> None:
    """It would be computed, and then be in no table and no file."""
    ranked_figures = categories.figures_of
    monkeypatch.setattr(categories, "figures_of", lambda *args: {**ranked_figures(*args), "gain": 0.5})
    with pytest.raises(ValueError, match=r"`FIGURES` does not list: \['pixel_gain'\]"):
        figures_of(*images())


def test_only_figures_with_a_mean_have_one() -> None:
    mean = collect(*images(), aupro_linear200=True).compute()["mean"]
    assert list(mean) == [name for name, figure in FIGURES.items() if figure.has_mean]
    assert [name for name, figure in FIGURES.items() if not figure.has_mean] == ["pixel_f1_threshold"]


# Masks and options


def test_nearest_and_bilinear_masks_by_hand() -> None:
    mask = np.zeros((4, 4), dtype=np.uint8)
    mask[:2, :2] = 7  # any nonzero value is a defect
    mask[0, 3] = mask[2, 3] = mask[3, 2] = 1
    assert resize_mask(mask, (2, 2), "bilinear").tolist() == [[True, False], [False, False]]
    # The pixel right of and below the centre of each 2 x 2 block stands for it
    assert resize_mask(mask, (2, 2), "nearest").tolist() == [[True, False], [False, False]]
    assert resize_mask(mask, (8, 8), "nearest").sum() == 4 * (mask > 0).sum()


def test_thin_line_breaks_in_nearest_only_where_it_is_not_sampled() -> None:
    mask = np.zeros((100, 10), dtype=bool)
    mask[:, 4] = True
    assert not resize_mask(mask, (50, 5), "nearest").any()
    assert not resize_mask(mask, (50, 5), "bilinear").any()


def test_native_mask_stays() -> None:
    mask = np.eye(5)
    assert np.array_equal(resize_mask(mask, (2, 2), "native"), mask.astype(bool))


@pytest.mark.parametrize(
    ("mask", "size", "rule", "message"),
    [
        (np.eye(3), (2, 2), "area", "got 'area'"),
        (np.zeros((1, 3, 3)), (2, 2), "nearest", r"got \(1, 3, 3\)"),
        (np.eye(3), (0, 2), "nearest", r"got \(0, 2\)"),
    ],
)
def test_resize_mask_names_bad_input(mask: np.ndarray, size: tuple[int, int], rule: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        resize_mask(mask, size, rule)


def test_protocol_names_the_options() -> None:
    protocol = collect(*images(), aupro_limit=0.2).compute()["protocol"]
    assert protocol == {
        "aupro_limit": 0.2,
        "streaming": False,
        "region_overlap": 0.5,
        "aupro_linear200": False,
        "connectivity": 8,
    }


def test_image_scores_come_in_order_and_of_known_categories_only() -> None:
    metrics = AnomalyMetrics()
    for score in (0.7, 0.2):
        metrics.update(np.zeros((2, 2)), np.zeros((2, 2), bool), "bolt", image_score=score)
    assert metrics.image_scores("bolt") == [0.7, 0.2]
    with pytest.raises(ValueError, match=r"no images of the category 'nut'; known: \['bolt'\]"):
        metrics.image_scores("nut")
