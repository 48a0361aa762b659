# SPDX-FileCopyrightText: 2026 The clipsam_hf authors
# SPDX-License-Identifier: Apache-2.0
"""The pipeline with references: good photographs however they are given, and a folder that is its own reference."""

import gc
import pickle
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from test_checkpoints import library_log
from test_pipeline_clipsam import assert_same, to_bytes
from test_references_clipsam import GOOD, other_weights, photograph
from torch.utils.data import Dataset, IterableDataset
from transformers.pipelines.pt_utils import KeyDataset

from clipsam_hf import ClipSamForAnomalySegmentation, ClipSamProcessor, ClipSamReferences
from clipsam_hf.image_loading import ImageReadError
from clipsam_hf.pipeline_clipsam import TASK, ZeroShotAnomalySegmentationPipeline


Pipe = ZeroShotAnomalySegmentationPipeline
BAD = photograph(9, (1, 2))


@pytest.fixture
def pipe(tiny_model: ClipSamForAnomalySegmentation, tiny_processor: ClipSamProcessor) -> Pipe:
    """A pipeline whose head is not trained and whose comparisons need no texts."""
    weights = {"reference_text_weight": 0.0, "mutual_text_weight": 0.0}
    tiny_model.config.update({**weights, "reference_neighbourhoods": (1,), "max_regions": 2})
    return Pipe(model=tiny_model, processor=tiny_processor, task=TASK)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder of the good photographs."""
    for number, image in enumerate(GOOD):
        (tmp_path / "good").mkdir(exist_ok=True)
        image.save(tmp_path / "good" / f"{number}.png")
    return tmp_path / "good"


def make(pipe: Pipe, **options: Any) -> ClipSamReferences:
    return ClipSamReferences.from_images(pipe.model, pipe.processor, GOOD, **options)


# --------------------------------------------------------------------------------------------------------------------
# Good photographs


@pytest.mark.parametrize("kind", ["list", "photographs", "saved", "saved, as str", "object", "paths"])
def test_references_however_they_are_given(pipe: Pipe, folder: Path, tmp_path: Path, kind: str) -> None:
    references = make(pipe)
    references.save_pretrained(tmp_path / "line")
    given = {
        "list": GOOD,
        "photographs": folder,
        "saved": tmp_path / "line",
        "saved, as str": str(tmp_path / "line"),
        "object": references,
        "paths": tuple(sorted(folder.iterdir())),
    }[kind]
    expected = pipe([BAD, GOOD[1]], references=references)
    for found, each in zip(pipe([BAD, GOOD[1]], references=given), expected, strict=True):
        assert_same(found, each)
    assert expected[0]["label"] == "anomalous" and expected[1]["label"] == "normal"


def test_verdict_mask_and_regions_agree(pipe: Pipe) -> None:
    references = make(pipe)
    assert references.decision_threshold is not None
    for refine in (True, False):
        for image in (BAD, *GOOD, photograph(11)):
            result = pipe(image, references=references, refine=refine)
            assert result["is_anomalous"] == (result["score"] > references.decision_threshold)
            assert result["is_anomalous"] is bool(result["regions"]) is bool(np.any(result["mask"]))
    box = max(pipe(BAD, references=references, refine=False)["regions"], key=lambda region: region["score"])["box"]
    assert box["xmin"] <= 20 < box["xmax"] and box["ymin"] <= 12 < box["ymax"]


def test_thresholds_of_the_call_go_first(pipe: Pipe) -> None:
    references = make(pipe)
    (score,) = (pipe(BAD, references=references)["score"],)
    assert pipe(BAD, references=references, decision_threshold=min(1.0, score))["label"] == "normal"
    result = pipe(BAD, references=references, threshold=0.01, refine=False)
    assert np.array_equal(np.asarray(result["mask"]) > 0, result["anomaly_map"] > 0.01)


def test_one_reference_gives_no_label(pipe: Pipe) -> None:
    result = pipe(BAD, references=GOOD[:1], refine=False)
    assert result["label"] is result["is_anomalous"] is None
    assert np.array_equal(np.asarray(result["mask"]) > 0, result["anomaly_map"] > 0.5)


def test_without_references_the_head_must_be_trained(pipe: Pipe) -> None:
    references = make(pipe)
    assert pipe(BAD, references=references)["score"] > 0
    with pytest.raises(ValueError, match="train"):
        pipe(BAD)
    with pytest.raises(ValueError, match="train"):
        pipe(BAD, references=None)


@pytest.mark.parametrize(
    "images",
    [
        [{"image": BAD, "class_name": "candle"}, {"image": GOOD[0], "class_name": "candle"}],
        [{"image": BAD, "class_name": "candle"}, GOOD[0]],
        [BAD, GOOD[0]],
        iter([BAD, {"image": GOOD[0], "class_name": "candle"}]),
    ],
    ids=["named", "one named", "plain", "stream"],
)
def test_references_know_what_they_show(pipe: Pipe, images: Any) -> None:
    results = list(pipe(images, references=make(pipe, class_name="candle")))
    assert [result["label"] for result in results] == ["anomalous", "normal"]


@pytest.mark.parametrize(
    ("images", "options"),
    [
        ([{"image": BAD, "class_name": "candle"}] * 2, {}),
        ({"image": BAD, "class_name": "candle"}, {}),
        ([BAD, BAD], {"class_name": ["candle", "candle"]}),
        ([BAD, BAD], {"class_name": "candle"}),
    ],
    ids=["dictionaries", "dictionary", "names", "name"],
)
def test_photographs_make_references_of_their_own_name(
    pipe: Pipe, images: Any, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    names: list[str] = []
    from_images = ClipSamReferences.from_images.__func__  # type: ignore[attr-defined]

    def listed(*args: Any, **kwargs: Any) -> Any:
        names.append(kwargs["class_name"])
        return from_images(ClipSamReferences, *args, **kwargs)

    monkeypatch.setattr(ClipSamReferences, "from_images", listed)
    results = pipe(images, references=GOOD, **options)
    assert names == ["candle"]
    assert (results if isinstance(results, list) else [results])[0]["label"] == "anomalous"


@pytest.mark.parametrize("references", ["mutual", GOOD])
def test_an_unusable_name_is_told(pipe: Pipe, references: Any) -> None:
    with pytest.raises(TypeError, match="class name"):
        pipe([{"image": BAD, "class_name": ["candle"]}] * 2, references=references)


def test_photographs_of_two_products_cannot_share_references(pipe: Pipe) -> None:
    with pytest.raises(ValueError, match="of 'candle' cannot be compared with references of 'object'"):
        pipe([BAD, BAD], class_name=["candle", "bottle"], references=GOOD)
    assert len(pipe([BAD, GOOD[0]], class_name=["candle", "bottle"], references="mutual")) == 2


def test_references_may_belong_to_the_pipeline(pipe: Pipe, tmp_path: Path) -> None:
    make(pipe, class_name="candle").save_pretrained(tmp_path)
    own = Pipe(model=pipe.model, processor=pipe.processor, task=TASK, references=str(tmp_path))
    expected = pipe(BAD, references=str(tmp_path))
    assert_same(own(BAD), expected)
    assert_same(own([BAD])[0], expected)
    with pytest.raises(ValueError, match="train"):
        own(BAD, references=None)
    named = Pipe(model=pipe.model, processor=pipe.processor, task=TASK, references=GOOD, class_name="bottle")
    assert_same(named(BAD), expected)


@pytest.mark.parametrize(
    ("images", "references", "message"),
    [
        (BAD, [], "`references` is an empty list: at least one photograph is needed"),
        (
            {"image": BAD, "class_name": "bottle"},
            "candle",
            "of 'bottle' cannot be compared with references of 'candle'",
        ),
        ([BAD], "mutual", "needs at least two of them, got 1; for one photograph, give good photographs"),
        (BAD, "mutual", "'mutual'` needs a list, a data set or a folder of photographs, got one photograph"),
        (iter([BAD, BAD]), "mutual", "needs a list, a data set or a folder of photographs, got a stream"),
    ],
    ids=["none", "product", "list of one", "one", "stream"],
)
def test_what_cannot_be_compared_is_said_in_one_sentence(
    pipe: Pipe, images: Any, references: Any, message: str
) -> None:
    given = make(pipe, class_name="candle") if references == "candle" else references
    with pytest.raises(ValueError, match=message) as caught:
        pipe(images, references=given)
    assert "\n" not in str(caught.value)


def test_another_models_references_are_refused(pipe: Pipe, tmp_path: Path) -> None:
    make(pipe).save_pretrained(tmp_path)
    other_weights(pipe.model)
    with pytest.raises(ValueError, match="made with another model: other weights. Make them anew"):
        pipe(BAD, references=tmp_path)


@pytest.mark.parametrize("options", [{"threshold": 7}, {"decision_threshold": -1}, {"on_error": "ignore"}])
def test_what_is_out_of_range_is_known_before_references_are_made(
    pipe: Pipe, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(ClipSamReferences, "from_images")
    with pytest.raises(ValueError, match=next(iter(options))):
        pipe(BAD, references=GOOD, **options)


@pytest.mark.parametrize("on_error", ["raise", "skip"])
def test_references_must_be_readable(pipe: Pipe, on_error: str, tmp_path: Path) -> None:
    (tmp_path / "broken.png").write_bytes(b"no image")
    with pytest.raises(ImageReadError, match=r"broken\.png"):
        pipe([BAD], references=[*GOOD, tmp_path / "broken.png"], on_error=on_error)


def test_an_unreadable_photograph_is_skipped(pipe: Pipe) -> None:
    results = pipe([BAD, b"no image", GOOD[0]], references=GOOD, on_error="skip", batch_size=2)
    assert [result["label"] for result in results] == ["anomalous", None, "normal"]
    assert results[1]["error"].startswith("ImageReadError")


def test_threads_share_references(pipe: Pipe) -> None:
    references = make(pipe)
    images = [photograph(number, (number % 4, 1)) for number in range(4)]
    expected = [pipe(image, references=references) for image in images]
    with ThreadPoolExecutor(2) as threads:
        results = list(threads.map(lambda image: pipe(image, references=references), images))
    for found, each in zip(results, expected, strict=True):
        assert_same(found, each)


def test_pipeline_and_references_can_be_pickled(pipe: Pipe) -> None:
    references = make(pipe)
    copies = pickle.loads(pickle.dumps((pipe, references)))
    assert_same(copies[0](BAD, references=copies[1]), pipe(BAD, references=references))


def test_workers_read_photographs(pipe: Pipe) -> None:
    references = make(pipe)
    found = pipe([BAD, GOOD[0]], references=references, num_workers=1)
    assert_same(found[0], pipe(BAD, references=references))
    mutual = pipe([*GOOD, BAD], references="mutual", num_workers=1)
    assert_same(mutual[4], pipe([*GOOD, BAD], references="mutual")[4])


# --------------------------------------------------------------------------------------------------------------------
# A folder that is its own reference


class Rows(Dataset):
    def __init__(self, *names: str) -> None:
        self.names = names

    def __len__(self) -> int:
        return 5

    def __getitem__(self, index: int) -> dict[str, Any]:
        image = [*GOOD, BAD][index]
        return {"image": image, "mask": None, **({"class_name": self.names[index % 2]} if self.names else {})}


class Stream(IterableDataset):
    def __iter__(self) -> Any:
        return (Rows()[index] for index in range(5))


def as_hf_dataset() -> Any:
    datasets = pytest.importorskip("datasets")
    rows = [{"image": {"bytes": to_bytes(image), "path": None}} for image in (*GOOD, BAD)]
    return datasets.Dataset.from_list(rows).cast_column("image", datasets.Image())


def as_folder(path: Path) -> Path:
    for number, image in enumerate((*GOOD, BAD)):
        image.save(path / f"{number}.png")
    return path


@pytest.mark.parametrize(
    "images",
    [
        lambda path: [*GOOD, BAD],
        lambda path: Rows(),
        lambda path: Rows("candle", "bottle"),
        lambda path: KeyDataset(Rows(), "image"),
        lambda path: as_hf_dataset(),
        as_folder,
        lambda path: [*({"image": image, "class_name": "candle"} for image in GOOD), BAD],
    ],
    ids=["list", "torch", "torch, two names", "KeyDataset", "datasets", "folder", "dictionaries"],
)
def test_photographs_are_compared_with_each_other(pipe: Pipe, tmp_path: Path, images: Callable[[Path], Any]) -> None:
    results = list(pipe(images(tmp_path), references="mutual", batch_size=2, refine=False))
    expected = pipe([*GOOD, BAD], references="mutual", refine=False)
    assert len(results) == 5 and all(result["label"] is None for result in results)
    for found, each in zip(results, expected, strict=True):
        assert_same(found, each, tolerance=1e-4)
    assert max(range(5), key=lambda number: results[number]["score"]) == 4
    row, column = np.unravel_index(results[4]["anomaly_map"].argmax(), (32, 32))
    assert (row // 8, column // 8) == (1, 2)


def test_a_stream_of_a_data_set_cannot_be_compared(pipe: Pipe) -> None:
    with pytest.raises(ValueError, match="got a stream"):
        pipe(Stream(), references="mutual")


def test_a_folder_called_mutual_is_a_folder(pipe: Pipe, folder: Path) -> None:
    renamed = folder.rename(folder.with_name("mutual"))
    assert pipe(BAD, references=renamed)["label"] == "anomalous"


def test_sam_refines_what_stands_out(pipe: Pipe) -> None:
    rough = pipe([*GOOD, BAD], references="mutual", refine=False)[4]
    refined = pipe([*GOOD, BAD], references="mutual")[4]
    assert refined["score"] == pytest.approx(rough["score"]) and refined["label"] is None
    assert np.abs(refined["anomaly_map"] - rough["anomaly_map"]).max() > 1e-3


def test_texts_have_their_share(pipe: Pipe) -> None:
    plain = pipe([*GOOD, BAD], references="mutual", refine=False)[4]
    pipe.model.config.mutual_text_weight = 0.5
    pipe.model.head_is_trained = True
    mixed = pipe([*GOOD, BAD], references="mutual", refine=False)[4]
    assert np.abs(mixed["anomaly_map"] - plain["anomaly_map"]).max() > 1e-3


@pytest.mark.parametrize("batch_size", [1, 2])
def test_nothing_is_compared_with_an_unreadable_photograph(pipe: Pipe, batch_size: int, caplog: Any) -> None:
    images = [*GOOD[:2], b"no image", *GOOD[2:], BAD]
    with pytest.raises(ImageReadError):
        pipe(images, references="mutual")
    with library_log(caplog):
        results = pipe(images, references="mutual", on_error="skip", refine=False, batch_size=batch_size)
    assert "Photograph number 3 cannot be read, so none is compared with it" in caplog.text
    assert results[2]["error"].startswith("ImageReadError") and results[2]["score"] is None
    expected = pipe([*GOOD, BAD], references="mutual", refine=False)
    for found, each in zip([*results[:2], *results[3:]], expected, strict=True):
        np.testing.assert_allclose(found["anomaly_map"], each["anomaly_map"], atol=1e-4)


@pytest.mark.parametrize("fails", [False, True])
def test_the_temporary_folder_goes(pipe: Pipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails: bool) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    if fails:
        with pytest.raises(ImageReadError):
            pipe([*GOOD, b"no image"], references="mutual")
    else:
        results = pipe(Rows(), references="mutual")
        assert next(iter(results)) and len(list(tmp_path.glob("clipsam-mutual-*"))) == 1
        del results
    gc.collect()
    assert not list(tmp_path.glob("clipsam-mutual-*"))


def test_half_precision(pipe: Pipe) -> None:
    pipe.model.to(torch.bfloat16)
    pipe.model.umci.float()
    results = pipe([*GOOD, BAD], references="mutual")
    assert max(range(5), key=lambda number: results[number]["score"]) == 4


def test_an_empty_list_gives_no_answer(pipe: Pipe) -> None:
    assert pipe([], references="mutual") == pipe([], references=GOOD) == []


def test_proportions_may_differ(pipe: Pipe, caplog: Any) -> None:
    references = ClipSamReferences.from_images(pipe.model, pipe.processor, GOOD, class_name="candle")
    with library_log(caplog):
        for size in ((90, 30), (120, 30), (30, 90)):
            result = pipe(Image.new("RGB", size, (120, 120, 120)), references=references, refine=False)
            assert result["anomaly_map"].shape == size[::-1]
    assert "has other proportions" not in caplog.text
    assert "A photograph of 90 x 30 pixels is compared with references of 32 x 32" in caplog.text
    assert "Others that are too wide are not named" in caplog.text and "120 x 30" not in caplog.text
    assert "A photograph of 30 x 90 pixels is compared" in caplog.text
