# SPDX-FileCopyrightText: 2026 The clipsam_hf authors
# SPDX-License-Identifier: Apache-2.0
"""The pipeline: what it accepts, what it answers, and what it says when it cannot."""

import base64
import io
import json
import math
import pickle
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import Dataset, IterableDataset
from transformers import pipeline
from transformers.pipelines.pt_utils import KeyDataset

from clipsam_hf import ClipSamForAnomalySegmentation
from clipsam_hf.image_loading import ImageReadError
from clipsam_hf.inference_clipsam import ClipSamInference, TextEmbeddingCache
from clipsam_hf.pipeline_clipsam import TASK, ZeroShotAnomalySegmentationPipeline, logger
from clipsam_hf.processing_clipsam import ClipSamProcessor
from clipsam_hf.regions_clipsam import relative_threshold


KEYS = ["score", "label", "is_anomalous", "anomaly_map", "mask", "regions"]


def photograph(height: int = 24, width: int = 40, seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


@pytest.fixture
def pipe(
    tiny_model: ClipSamForAnomalySegmentation, tiny_processor: ClipSamProcessor
) -> ZeroShotAnomalySegmentationPipeline:
    """A pipeline with few sentences, whose head counts as trained and whose rough maps have regions for SAM."""
    tiny_processor.normal_states, tiny_processor.abnormal_states = ["{}", "perfect {}"], ["damaged {}"]
    tiny_processor.prompt_templates = ["a photo of a {}."]
    tiny_model.head_is_trained = True
    pipe = ZeroShotAnomalySegmentationPipeline(model=tiny_model, processor=tiny_processor, task=TASK)
    rough = pipe(photograph(), refine=False)["anomaly_map"]
    tiny_model.config.binarize_threshold = float(np.median(rough))
    tiny_model.config.mask_threshold = float(np.median(pipe(photograph())["anomaly_map"]))
    return pipe


def assert_same(first: dict[str, Any], second: dict[str, Any], tolerance: float = 0.0) -> None:
    assert list(first) == list(second)
    np.testing.assert_allclose(first["anomaly_map"], second["anomaly_map"], rtol=0, atol=tolerance)
    assert first["score"] == pytest.approx(second["score"], rel=0, abs=tolerance)


# --------------------------------------------------------------------------------------------------------------------
# The answer


def test_answer_is_of_native_types_and_the_photographs_size(pipe: ZeroShotAnomalySegmentationPipeline) -> None:
    result = pipe(photograph(24, 40), class_name="candle")
    assert list(result) == KEYS
    assert type(result["score"]) is float and 0 <= result["score"] <= 1
    assert type(result["anomaly_map"]) is np.ndarray and result["anomaly_map"].dtype == np.float32
    assert result["anomaly_map"].shape == (24, 40)
    assert (result["mask"].mode, result["mask"].size) == ("L", (40, 24))
    assert set(np.unique(result["mask"])) == {0, 255}


def test_regions_describe_the_mask(pipe: ZeroShotAnomalySegmentationPipeline) -> None:
    result = pipe(photograph())
    mask = np.asarray(result["mask"]) > 0
    assert sum(region["area"] for region in result["regions"]) == mask.sum() > 0
    boxes = np.array([list(region["box"].values()) for region in result["regions"]])
    rows, columns = np.nonzero(mask)
    assert (boxes[:, 0].min(), boxes[:, 1].min()) == (columns.min(), rows.min())
    assert (boxes[:, 2].max(), boxes[:, 3].max()) == (columns.max() + 1, rows.max() + 1)


def test_answer_is_that_of_the_model(pipe: ZeroShotAnomalySegmentationPipeline) -> None:
    inputs = pipe.processor(images=photograph(), text="candle", return_tensors="pt")
    with torch.no_grad():
        outputs = pipe.model(**inputs)
    expected = pipe.processor.post_process_anomaly_segmentation(outputs, target_sizes=[(24, 40)])[0]["anomaly_map"]
    result = pipe(photograph(), class_name="candle")
    np.testing.assert_allclose(result["anomaly_map"], expected.numpy(), atol=1e-6)
    assert result["score"] == pytest.approx(outputs.pred_score.item(), abs=1e-6)


def test_exif_orientation_gives_the_displayed_size(pipe: ZeroShotAnomalySegmentationPipeline, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    photograph(24, 40).save(tmp_path / "turned.jpg", exif=exif)
    assert pipe(tmp_path / "turned.jpg")["anomaly_map"].shape == (40, 24)


def test_without_refinement_sam_does_not_run(
    pipe: ZeroShotAnomalySegmentationPipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("SAM's pixels were made")

    refined = pipe(photograph())
    monkeypatch.setattr(type(pipe.processor.sam_image_processor), "__call__", refuse)
    rough = pipe(photograph(), refine=False)
    assert np.abs(rough["anomaly_map"] - refined["anomaly_map"]).max() > 1e-3


@pytest.mark.parametrize("size", [(1, 1), (1, 100), (100, 1)])
def test_smallest_photographs(pipe: ZeroShotAnomalySegmentationPipeline, size: tuple[int, int]) -> None:
    result = pipe(photograph(*size))
    assert result["anomaly_map"].shape == size and np.isfinite(result["anomaly_map"]).all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_gives_finite_float32_maps(
    pipe: ZeroShotAnomalySegmentationPipeline, dtype: torch.dtype
) -> None:
    full = pipe(photograph(), refine=False)
    pipe.model.to(dtype)
    pipe.model.umci.float()
    half = pipe(photograph(), refine=False)
    assert half["anomaly_map"].dtype == np.float32
    np.testing.assert_allclose(half["anomaly_map"], full["anomaly_map"], atol=0.05)


def test_calls_repeat_exactly_and_leave_no_trace(pipe: ZeroShotAnomalySegmentationPipeline) -> None:
    torch.manual_seed(1)
    first = pipe(photograph())
    torch.manual_seed(2)
    assert_same(first, pipe(photograph()))
    assert not pipe.model.training
    assert all(parameter.grad is None for parameter in pipe.model.parameters())


# --------------------------------------------------------------------------------------------------------------------
# Thresholds and verdict


def test_mask_is_above_the_calibrated_threshold(pipe: ZeroShotAnomalySegmentationPipeline) -> None:
    result = pipe(photograph())
    above = result["anomaly_map"] > pipe.model.config.mask_threshold
    assert np.array_equal(np.asarray(result["mask"]) > 0, above) and 0 < above.mean() < 1


def test_mask_of_a_rough_map_is_above_the_threshold_of_regions(pipe: ZeroShotAnomalySegmentationPipeline) -> None:
    result = pipe(photograph(), refine=False)
    above = result["anomaly_map"] > pipe.model.config.binarize_threshold
    assert np.array_equal(np.asarray(result["mask"]) > 0, above) and 0 < above.mean() < 1


def test_threshold_of_the_call_goes_first(pipe: ZeroShotAnomalySegmentationPipeline) -> None:
    assert not np.asarray(pipe(photograph(), threshold=1)["mask"]).any()
    assert np.asarray(pipe(photograph(), threshold=0)["mask"]).all()
    assert pipe(photograph(), threshold=None)["regions"] == pipe(photograph())["regions"]


def test_without_a_decision_threshold_there_is_no_verdict(pipe: ZeroShotAnomalySegmentationPipeline) -> None:
    result = pipe(photograph())
    assert result["label"] is None and result["is_anomalous"] is None


@pytest.mark.parametrize(("offset", "label"), [(-0.01, "anomalous"), (0.01, "normal")])
def test_verdict_compares_the_score(pipe: ZeroShotAnomalySegmentationPipeline, offset: float, label: str) -> None:
    pipe.model.config.decision_threshold = pipe(photograph())["score"] + offset
    result = pipe(photograph())
    assert result["label"] == label and result["is_anomalous"] is (label == "anomalous")


def test_decision_threshold_of_the_call_goes_first(pipe: ZeroShotAnomalySegmentationPipeline) -> None:
    score = pipe(photograph())["score"]
    pipe.model.config.decision_threshold = score + 0.01
    assert pipe(photograph())["label"] == "normal"
    assert pipe(photograph(), decision_threshold=score - 0.01)["label"] == "anomalous"
    assert pipe(photograph(), decision_threshold=0, refine=False)["label"] == "anomalous"  # whatever was calibrated


def test_normal_photograph_has_no_region(pipe: ZeroShotAnomalySegmentationPipeline) -> None:
    for keywords in ({}, {"threshold": 0}):
        result = pipe(photograph(), decision_threshold=1, **keywords)
        assert (result["label"], result["is_anomalous"], result["regions"]) == ("normal", False, [])
        assert not np.asarray(result["mask"]).any()


def test_sam_cannot_veto_a_verdict_unless_a_threshold_is_given(pipe: ZeroShotAnomalySegmentationPipeline) -> None:
    final, rough = pipe(photograph()), pipe(photograph(), refine=False)
    highest = float(final["anomaly_map"].max())
    assert highest < rough["anomaly_map"].max()
    pipe.model.config.mask_threshold = highest

    result = pipe(photograph(), decision_threshold=0)
    assert result["is_anomalous"] is True and result["regions"]
    assert np.array_equal(np.asarray(result["mask"]) > 0, rough["anomaly_map"] > highest)
    assert np.array_equal(result["anomaly_map"], final["anomaly_map"])

    result = pipe(photograph(), decision_threshold=0, threshold=highest)
    assert (result["label"], result["is_anomalous"], result["regions"]) == ("normal", False, [])


def test_mask_stands_out_from_the_map_where_nobody_calibrated(pipe: ZeroShotAnomalySegmentationPipeline) -> None:
    pipe.model.config.region_rule, pipe.model.config.region_deviations = "relative", 0.5
    for refine in (True, False):
        inputs = pipe.processor(images=photograph(), text="object", return_sam_inputs=refine, return_tensors="pt")
        with torch.no_grad():
            outputs = pipe.model(**inputs)
        threshold = relative_threshold(outputs.anomaly_map[0], 0.5)
        result = pipe(photograph(), refine=refine)
        above = result["anomaly_map"] > threshold
        assert np.array_equal(np.asarray(result["mask"]) > 0, above) and 0 < above.mean() < 1
        assert np.asarray(pipe(photograph(), refine=refine, threshold=0)["mask"]).all()


def test_why_there_is_no_label_is_said_once(
    pipe: ZeroShotAnomalySegmentationPipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    monkeypatch.setattr(logger, "warning", said.append)
    pipe._has_explained_none = False  # the fixture has called it
    pipe(photograph(), decision_threshold=0.5)
    assert said == []
    for refine in (True, False):
        pipe([photograph(), photograph()], refine=refine)
    assert len(said) == 1 and "`label` is None" in said[0] and "clipsam calibrate" in said[0]


def test_no_verdict_for_maps_that_were_not_calibrated(pipe: ZeroShotAnomalySegmentationPipeline) -> None:
    pipe.model.config.decision_threshold = 0.1
    assert pipe(photograph(), refine=False)["label"] is None
    pipe.model.config.calibrated_refine = False
    assert pipe(photograph(), refine=False)["label"] is not None
    assert pipe(photograph())["label"] is None


# --------------------------------------------------------------------------------------------------------------------
# Inputs


def to_bytes(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


SOURCES: dict[str, Callable[[Image.Image], Any]] = {
    "array": np.asarray,
    "tensor": lambda image: torch.from_numpy(np.array(image)).permute(2, 0, 1),
    "bytes": to_bytes,
    "file": lambda image: io.BytesIO(to_bytes(image)),
    "dictionary": lambda image: {"image": image},
}


@pytest.mark.parametrize("kind", SOURCES)
def test_one_photograph_of_any_kind(pipe: ZeroShotAnomalySegmentationPipeline, kind: str) -> None:
    assert_same(pipe(SOURCES[kind](photograph())), pipe(photograph()))


@pytest.mark.parametrize("convert", [str, Path])
def test_path(pipe: ZeroShotAnomalySegmentationPipeline, tmp_path: Path, convert: Callable[[Path], Any]) -> None:
    photograph().save(tmp_path / "50%\nphoto ü.png")
    assert_same(pipe(convert(tmp_path / "50%\nphoto ü.png")), pipe(photograph()))


@pytest.mark.parametrize("container", [list, tuple])
def test_several_photographs_give_a_list(
    pipe: ZeroShotAnomalySegmentationPipeline, container: Callable[[Any], Any]
) -> None:
    results = pipe(container([photograph(seed=1), photograph(seed=2)]))
    assert type(results) is list
    assert_same(results[1], pipe(photograph(seed=2)))


@pytest.mark.parametrize("empty", [[], (), iter(())])
def test_no_photograph_gives_no_answer(pipe: ZeroShotAnomalySegmentationPipeline, empty: Any) -> None:
    assert list(pipe(empty)) == []


@pytest.mark.parametrize("batch_size", [2, 3])
def test_batch_of_different_sizes_equals_singles(pipe: ZeroShotAnomalySegmentationPipeline, batch_size: int) -> None:
    images = [photograph(24, 40, 1), photograph(40, 24, 2), photograph(7, 90, 3)]
    names = ["candle", "object", "candle"]
    for image, name, result in zip(images, names, pipe(images, class_name=names, batch_size=batch_size), strict=True):
        assert result["anomaly_map"].shape == (image.height, image.width)
        assert_same(result, pipe(image, class_name=name), tolerance=1e-5)


def test_generator_is_read_as_the_answers_are_asked_for(pipe: ZeroShotAnomalySegmentationPipeline) -> None:
    read = []

    def images() -> Iterator[Image.Image]:
        for seed in range(5):
            read.append(seed)
            yield photograph(seed=seed)

    results = iter(pipe(images()))
    assert_same(next(results), pipe(photograph(seed=0)))
    assert read == [0]
    assert len(list(results)) == 4


class Rows(Dataset):
    def __len__(self) -> int:
        return 3

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"image": photograph(seed=index), "mask": None, "class_name": "candle"}


class Stream(IterableDataset):
    def __iter__(self) -> Iterator[dict[str, Any]]:
        return (Rows()[index] for index in range(3))


def as_hf_dataset(streaming: bool) -> Any:
    datasets = pytest.importorskip("datasets")
    rows = [{**Rows()[index], "label": 1} for index in range(3)]
    for row in rows:
        del row["mask"]
    dataset = datasets.Dataset.from_list(
        [{**row, "image": {"bytes": to_bytes(row["image"]), "path": None}} for row in rows]
    ).cast_column("image", datasets.Image())
    return dataset.to_iterable_dataset() if streaming else dataset


@pytest.mark.parametrize(
    "make",
    [Rows, Stream, lambda: KeyDataset(Rows(), "image"), lambda: as_hf_dataset(False), lambda: as_hf_dataset(True)],
    ids=["torch", "torch-iterable", "KeyDataset", "datasets", "datasets-streaming"],
)
def test_data_set_streams(pipe: ZeroShotAnomalySegmentationPipeline, make: Callable[[], Any]) -> None:
    results = pipe(make(), class_name="candle", batch_size=2)
    assert not isinstance(results, list)
    results = list(results)
    assert len(results) == 3
    assert_same(results[2], pipe(photograph(seed=2), class_name="candle"), tolerance=1e-5)


def test_workers_read_photographs(pipe: ZeroShotAnomalySegmentationPipeline) -> None:
    results = pipe([photograph(seed=1), photograph(seed=2)], num_workers=1)
    assert_same(results[1], pipe(photograph(seed=2)))


def test_dictionary_needs_an_image_and_nothing_unknown(pipe: ZeroShotAnomalySegmentationPipeline) -> None:
    with pytest.raises(ValueError, match="'image'"):
        pipe({"class_name": "candle"})
    with pytest.raises(TypeError, match="'classname'; did you mean 'class_name'"):
        pipe([{"image": photograph(), "classname": "candle"}])


# --------------------------------------------------------------------------------------------------------------------
# Class names


def test_class_name_matters(pipe: ZeroShotAnomalySegmentationPipeline) -> None:
    candle, default = pipe(photograph(), class_name="candle"), pipe(photograph())
    assert np.abs(candle["anomaly_map"] - default["anomaly_map"]).max() > 0
    assert_same(default, pipe(photograph(), class_name="object"))


def test_class_name_of_a_dictionary_goes_before_the_common_one(pipe: ZeroShotAnomalySegmentationPipeline) -> None:
    items = [{"image": photograph(), "class_name": "candle"}, {"image": photograph()}]
    own, common = pipe(items, class_name="with")
    assert_same(own, pipe(photograph(), class_name="candle"))
    assert_same(common, pipe(photograph(), class_name="with"))


def test_class_name_may_belong_to_the_pipeline(
    pipe: ZeroShotAnomalySegmentationPipeline,
) -> None:
    named = ZeroShotAnomalySegmentationPipeline(
        model=pipe.model, processor=pipe.processor, task=TASK, class_name="candle", local_files_only=True
    )
    assert_same(named(photograph()), pipe(photograph(), class_name="candle"))


@pytest.mark.parametrize("images", [[photograph()], Rows(), (photograph() for _ in range(3)), photograph()])
def test_different_numbers_of_images_and_names_raise(pipe: ZeroShotAnomalySegmentationPipeline, images: Any) -> None:
    with pytest.raises(ValueError, match="2 names"):
        list(pipe(images, class_name=["candle", "bolt"]))


def test_two_names_for_one_image_raise(pipe: ZeroShotAnomalySegmentationPipeline) -> None:
    with pytest.raises(ValueError, match="'candle' and 'bolt'"):
        pipe([{"image": photograph(), "class_name": "candle"}], class_name=["bolt"])


@pytest.mark.parametrize(("name", "error"), [("", ValueError), (" ", ValueError), (None, TypeError), (3, TypeError)])
def test_unusable_class_name_raises(
    pipe: ZeroShotAnomalySegmentationPipeline, name: Any, error: type[Exception]
) -> None:
    with pytest.raises(error, match="class name"):
        pipe(photograph(), class_name=name)


# --------------------------------------------------------------------------------------------------------------------
# Mistakes and failures


def test_mistyped_keyword_raises(pipe: ZeroShotAnomalySegmentationPipeline) -> None:
    with pytest.raises(TypeError, match="'treshold'; did you mean 'threshold'"):
        pipe(photograph(), treshold=0.3)
    with pytest.raises(TypeError, match="'refined'; did you mean 'refine'"):
        ZeroShotAnomalySegmentationPipeline(model=pipe.model, processor=pipe.processor, refined=True)


@pytest.mark.parametrize(
    ("keywords", "error"),
    [
        ({"threshold": -1}, ValueError),
        ({"threshold": 1.01}, ValueError),
        ({"threshold": math.nan}, ValueError),
        ({"threshold": True}, TypeError),
        ({"threshold": "0.5"}, TypeError),
        ({"decision_threshold": 1.01}, ValueError),
        ({"decision_threshold": math.nan}, ValueError),
        ({"decision_threshold": True}, TypeError),
        ({"refine": 1}, TypeError),
        ({"return_maps": None}, TypeError),
        ({"on_error": "ignore"}, ValueError),
        ({"timeout": 0}, ValueError),
        ({"timeout": math.nan}, ValueError),
    ],
)
def test_unusable_argument_raises(
    pipe: ZeroShotAnomalySegmentationPipeline, keywords: dict[str, Any], error: type[Exception]
) -> None:
    with pytest.raises(error, match=next(iter(keywords))):
        pipe(photograph(), **keywords)


def test_untrained_head_refuses_to_predict(
    tiny_model: ClipSamForAnomalySegmentation, tiny_processor: ClipSamProcessor
) -> None:
    pipe = ZeroShotAnomalySegmentationPipeline(model=tiny_model, processor=tiny_processor)
    with pytest.raises(ValueError, match="random weights"):
        pipe(photograph())


def test_pipeline_needs_a_processor(tiny_model: ClipSamForAnomalySegmentation) -> None:
    with pytest.raises(ValueError, match="processor"):
        ZeroShotAnomalySegmentationPipeline(model=tiny_model)


def test_unreadable_photograph_raises(pipe: ZeroShotAnomalySegmentationPipeline) -> None:
    with pytest.raises(ImageReadError):
        pipe([photograph(), b"no image"])
    with pytest.raises(FileNotFoundError, match="nowhere"):
        pipe("nowhere.png")
    with pytest.raises(TypeError, match="NoneType"):
        pipe(None)


@pytest.mark.parametrize("batch_size", [1, 2, 4])
def test_unreadable_photographs_are_skipped(pipe: ZeroShotAnomalySegmentationPipeline, batch_size: int) -> None:
    images = ["nowhere.png", photograph(seed=1), b"no image", {"image": photograph(), "class_name": " "}]
    results = pipe(images, on_error="skip", batch_size=batch_size)
    assert_same(results[1], pipe(photograph(seed=1)), tolerance=1e-5)
    errors = [results[index].pop("error") for index in (0, 2, 3)]
    assert [error.partition(":")[0] for error in errors] == ["FileNotFoundError", "ImageReadError", "ValueError"]
    assert "nowhere.png" in errors[0]
    assert results[0] == {**dict.fromkeys(KEYS), "regions": []}


def test_broken_row_of_a_data_set_is_skipped(pipe: ZeroShotAnomalySegmentationPipeline) -> None:
    class BrokenRows(Rows):
        def __getitem__(self, index: int) -> dict[str, Any]:
            if index == 1:
                raise OSError("broken row")
            return super().__getitem__(index)

    with pytest.raises(OSError, match="broken row"):
        list(pipe(BrokenRows()))
    assert [row.get("error") for row in pipe(BrokenRows(), on_error="skip")] == [None, "OSError: broken row", None]


def test_interrupt_leaves_a_usable_pipeline(
    pipe: ZeroShotAnomalySegmentationPipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = pipe(photograph())

    def interrupt(*args: Any, **kwargs: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(type(pipe.model), "get_text_embeddings", interrupt)
        with pytest.raises(KeyboardInterrupt):
            pipe(photograph(), class_name="candle", on_error="skip")
    assert_same(pipe(photograph()), expected)
    assert list(pipe(photograph(), class_name="candle")) == KEYS


# --------------------------------------------------------------------------------------------------------------------
# Text embeddings, threads, copies


@pytest.fixture
def num_encodings(pipe: ZeroShotAnomalySegmentationPipeline, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Grows by one entry whenever the model encodes a class name."""
    calls: list[int] = []
    encode = pipe.model.get_text_embeddings

    def counted(*args: Any, **kwargs: Any) -> torch.Tensor:
        calls.append(1)
        return encode(*args, **kwargs)

    monkeypatch.setattr(pipe.model, "get_text_embeddings", counted)
    return calls


def test_class_name_is_encoded_once(pipe: ZeroShotAnomalySegmentationPipeline, num_encodings: list[int]) -> None:
    for _ in range(2):
        pipe([photograph(seed=1), photograph(seed=2)], class_name=["candle", "with"], batch_size=2)
    assert len(num_encodings) == 2


def change_word(pipe: ZeroShotAnomalySegmentationPipeline) -> None:
    pipe.processor.abnormal_states = ["{} with defect"]


def change_weight(pipe: ZeroShotAnomalySegmentationPipeline) -> None:
    with torch.no_grad():
        pipe.model.clip.text_projection.weight.mul_(-1)


def change_dtype(pipe: ZeroShotAnomalySegmentationPipeline) -> None:
    pipe.model.clip.to(torch.float64)


@pytest.mark.parametrize("change", [change_word, change_weight, change_dtype])
def test_change_makes_a_class_name_be_encoded_again(
    pipe: ZeroShotAnomalySegmentationPipeline,
    num_encodings: list[int],
    change: Callable[[ZeroShotAnomalySegmentationPipeline], None],
) -> None:
    with torch.no_grad():
        before = ClipSamInference(pipe.model, pipe.processor, pipe._texts).embed("candle")
        change(pipe)
        after = ClipSamInference(pipe.model, pipe.processor, pipe._texts).embed("candle")
    assert len(num_encodings) == 2
    assert before.dtype != after.dtype or not torch.equal(before, after)


def test_cache_forgets_the_least_recently_used(pipe: ZeroShotAnomalySegmentationPipeline) -> None:
    cache = TextEmbeddingCache(max_entries=2)
    made = []

    def get(key: str) -> None:
        cache.get(pipe.model, key, lambda: made.append(key) or torch.zeros(1))  # type: ignore[func-returns-value]

    for key in "abac":
        get(key)
    assert len(cache) == 2
    get("a")
    get("b")
    assert made == ["a", "b", "c", "b"]


def test_cache_belongs_to_one_model(pipe: ZeroShotAnomalySegmentationPipeline) -> None:
    cache = TextEmbeddingCache()
    cache.get(pipe.model, "key", lambda: torch.zeros(1))
    assert cache.get(pipe.model.clip, "key", lambda: torch.ones(1)) == 1


def test_threads_get_the_same_answers(pipe: ZeroShotAnomalySegmentationPipeline, num_encodings: list[int]) -> None:
    images = [photograph(16 + seed, 40 - seed, seed) for seed in range(16)]
    names = ["candle", "object"] * 8
    with ThreadPoolExecutor(8) as threads:
        results = list(threads.map(lambda image, name: pipe(image, class_name=name), images, names))
    assert len(num_encodings) == 1  # the fixture has encoded "object"
    for image, name, result in zip(images, names, results, strict=True):
        assert_same(result, pipe(image, class_name=name))


def test_result_as_json(pipe: ZeroShotAnomalySegmentationPipeline) -> None:
    expected = pipe(photograph())
    result = json.loads(json.dumps(pipe(photograph(), as_json=True)))
    assert result.keys() == expected.keys()
    assert (result["score"], result["label"], result["regions"]) == (
        expected["score"],
        expected["label"],
        expected["regions"],
    )
    mask = Image.open(io.BytesIO(base64.b64decode(result["mask"])))
    assert (np.asarray(mask) == np.asarray(expected["mask"])).all()
    anomaly_map = np.asarray(Image.open(io.BytesIO(base64.b64decode(result["anomaly_map"]))))
    assert np.abs(anomaly_map / 65535 - expected["anomaly_map"]).max() <= 0.5 / 65535 + 1e-7


@pytest.mark.parametrize("as_json", [False, True])
def test_result_without_maps(pipe: ZeroShotAnomalySegmentationPipeline, as_json: bool) -> None:
    """All else is the same; what a photograph of 12 megapixels would keep is not there."""
    whole = pipe(photograph())
    del whole["anomaly_map"], whole["mask"]
    assert pipe(photograph(), return_maps=False, as_json=as_json) == whole
    (broken,) = pipe([b"no picture"], return_maps=False, on_error="skip")
    assert set(broken) == {"score", "label", "is_anomalous", "regions", "error"}


def test_pipeline_can_be_pickled_after_use(pipe: ZeroShotAnomalySegmentationPipeline) -> None:
    expected = pipe(photograph())
    copy = pickle.loads(pickle.dumps(pipe))
    assert_same(copy(photograph()), expected)
    assert copy.model is not pipe.model and pipe(photograph()).keys() == expected.keys()


# --------------------------------------------------------------------------------------------------------------------
# Folders


def test_folder_gives_the_same_answer(pipe: ZeroShotAnomalySegmentationPipeline, tmp_path: Path) -> None:
    pipe.save_pretrained(tmp_path / "saved", save_code=False)
    loaded = pipeline(TASK, model=tmp_path / "saved")
    assert_same(loaded(photograph(), class_name="candle"), pipe(photograph(), class_name="candle"))
    names = {path.name for path in (tmp_path / "saved").iterdir()}
    assert names == {
        "config.json", "model.safetensors", "processor_config.json", "tokenizer.json", "tokenizer_config.json"
    }  # fmt: skip


def test_file_as_target_raises(pipe: ZeroShotAnomalySegmentationPipeline, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError, match="file"):
        pipe.save_pretrained(tmp_path / "file")
