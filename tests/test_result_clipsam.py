# SPDX-FileCopyrightText: 2026 The clipsam_hf authors
# SPDX-License-Identifier: Apache-2.0
"""A result is a dictionary, and shows itself in a notebook without growing it much."""

import base64
import copy
import io
import json
import pickle
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from clipsam_hf.pipeline_clipsam import TASK, ZeroShotAnomalySegmentationPipeline
from clipsam_hf.result_clipsam import ClipSamResult, make_thumbnail


REGION = {"box": {"xmin": 10, "ymin": 20, "xmax": 50, "ymax": 60}, "score": 0.875, "area": 900}


def result(size: tuple[int, int] = (600, 900), seed: int = 0, **values: Any) -> ClipSamResult:
    """A result of a noisy photograph, of all pictures the largest as a JPEG."""
    pixels = np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)
    values = {"score": 0.5, "label": "anomalous", "regions": [REGION], **values}
    values = {"anomaly_map": np.random.default_rng(seed).random(size, dtype=np.float32), **values}
    return ClipSamResult(values, thumbnail=make_thumbnail(Image.fromarray(pixels)), size=size)


def picture_of(page: str) -> Image.Image | None:
    found = re.search(r'src="data:image/jpeg;base64,([^"]+)"', page)
    return None if found is None else Image.open(io.BytesIO(base64.b64decode(found[1])))


def test_a_result_is_shown_as_picture_and_table() -> None:
    page = result()._repr_html_()
    picture = picture_of(page)
    assert picture is not None and picture.width == 512 and picture.height > 341  # what is under it
    assert "<b>anomalous</b>, score 0.500, 1 region<" in page
    assert "<td>1</td><td>0.875</td><td>900</td><td>10 to 50</td><td>20 to 60</td>" in page


def test_the_picture_shows_the_map() -> None:
    dark = np.zeros((600, 900), np.float32)
    bright = dark.copy()
    bright[:, 450:] = 1
    pictures = [picture_of(result(anomaly_map=each, regions=[])._repr_html_()) for each in (dark, bright)]
    left, right = (
        np.abs(np.subtract(*(np.asarray(each, float)[:300, columns] for each in pictures))).mean()  # type: ignore
        for columns in (slice(0, 250), slice(262, 512))
    )
    assert left < 5 and right > 50


@pytest.mark.parametrize("size", [(1500, 2000), (256, 4096), (1, 1)])
def test_what_is_shown_is_small_for_every_photograph(size: tuple[int, int]) -> None:
    box = {"xmin": 0, "ymin": 0, "xmax": 1, "ymax": 1}
    page = result(size, regions=[{**REGION, "box": box}] * 500)._repr_html_()
    assert len(page) < 300_000 and "and 480 more" in page
    assert picture_of(page) is not None


def test_texts_are_escaped() -> None:
    for page in (
        ClipSamResult({"error": "<script>alert(1)</script>"})._repr_html_(),
        result(label="<script>", regions=[{**REGION, "defect_name": "<script>"}])._repr_html_(),
    ):
        assert "<script" not in page and "&lt;script&gt;" in page


def test_a_result_is_a_dictionary_in_all_else() -> None:
    plain = {"score": 0.5, "label": None, "regions": [REGION]}
    kept = ClipSamResult(plain, thumbnail=b"bytes", size=(4, 5))
    assert kept == plain and sorted(kept) == sorted(plain) and isinstance(kept, dict)
    assert json.loads(json.dumps(kept)) == plain
    for again in (pickle.loads(pickle.dumps(kept)), copy.deepcopy(kept)):
        assert again == plain and vars(again) == vars(kept)


def test_the_pipeline_gives_such_results(tiny_model: Any, tiny_processor: Any, tmp_path: Path) -> None:
    tiny_processor.normal_states, tiny_processor.abnormal_states = ["perfect {}"], ["damaged {}"]
    tiny_processor.prompt_templates = ["a photo of a {}."]
    tiny_model.head_is_trained = True
    pipe = ZeroShotAnomalySegmentationPipeline(model=tiny_model, processor=tiny_processor, task=TASK)
    photograph = Image.fromarray(np.random.default_rng(0).integers(0, 256, (700, 500, 3), dtype=np.uint8))

    def run(**options: Any) -> Any:
        return pipe(photograph, class_name="candle", refine=False, threshold=0.4, **options)

    shown = picture_of(run()._repr_html_())
    assert shown is not None and shown.height > 512
    for options in ({"return_maps": False}, {"as_json": True}):
        small = run(**options)
        assert picture_of(small._repr_html_()) is None and "score" in small._repr_html_()
        assert len(pickle.dumps(small)) < 20_000 or options != {"return_maps": False}
    (tmp_path / "broken.jpg").write_text("no picture")
    skipped = pipe([tmp_path / "broken.jpg"], class_name="candle", on_error="skip")[0]
    assert "<b>not read</b>" in skipped._repr_html_()
