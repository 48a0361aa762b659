# SPDX-FileCopyrightText: 2026 The clipsam_hf authors
# SPDX-License-Identifier: Apache-2.0
"""A pipeline in a server that runs for weeks: many threads, many calls, many names, photographs of any size."""

import gc
import multiprocessing
import resource
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import psutil
import pytest
import test_pipeline_clipsam
from PIL import Image
from test_pipeline_clipsam import assert_same, photograph
from test_references_clipsam import GOOD

from clipsam_hf import ClipSamReferences, processing_clipsam
from clipsam_hf.inference_clipsam import ClipSamInference
from clipsam_hf.pipeline_clipsam import ZeroShotAnomalySegmentationPipeline


Pipe = ZeroShotAnomalySegmentationPipeline
pipe = test_pipeline_clipsam.pipe  # the fixture


def memory() -> float:
    """Megabytes of this process."""
    gc.collect()
    return float(psutil.Process().memory_info().rss / 2**20)


def test_threads_ask_the_fast_tokenizer_and_references_as_one_would(pipe: Pipe) -> None:
    """The tokenizer in Rust lends itself to one thread at a time: "Already borrowed" is what others say."""
    assert pipe.processor.tokenizer.is_fast
    pipe.model.config.reference_neighbourhoods = (1,)
    candle = ClipSamReferences.from_images(pipe.model, pipe.processor, GOOD, class_name="candle")
    assert candle.text_weight > 0
    calls: list[dict[str, Any]] = [{"references": candle}, *({"class_name": f"name {n}"} for n in range(7))] * 2
    images = [photograph(32, 32, seed) for seed in range(len(calls))]
    with ThreadPoolExecutor(8) as threads:
        found = list(threads.map(lambda image, call: pipe(image, **call), images, calls))
    for image, call, each in zip(images, calls, found, strict=True):
        assert_same(each, pipe(image, **call))


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_memory_stays_flat_over_500_calls(pipe: Pipe) -> None:
    for seed in range(100):
        pipe(photograph(64, 96, seed))
    before = memory()
    for seed in range(500):
        pipe(photograph(64, 96, seed))
    assert memory() - before < 8


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_memory_stays_flat_over_10_000_class_names(pipe: Pipe, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processing_clipsam.logger, "disabled", True)  # pytest would keep every warning
    inference = ClipSamInference(pipe.model, pipe.processor, pipe._texts)

    def embed(numbers: range) -> None:
        for number in numbers:
            word = "".join(chr(ord("a") + number // 26**place % 26) for place in range(5))
            inference.embed(f"part {word}")

    embed(range(15_500))  # the tokenizer remembers 10,000 words: 7 MB
    before = memory()
    embed(range(15_500, 25_500))
    assert len(pipe._texts) == pipe._texts.max_entries
    assert memory() - before < 2  # measured: 0.3


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_photograph_of_12_megapixels_takes_bounded_memory(pipe: Pipe) -> None:
    """Whole and in tiles; the memory that counts is that at its highest, in a process of its own."""

    def look(tile: str | None, peak: Any) -> None:
        image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (3000, 4000, 3), dtype=np.uint8))
        before = memory()
        assert pipe(image, tile=tile)["anomaly_map"].shape == (3000, 4000)
        peak.value = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10 - before

    for tile in (None, "auto"):
        peak = multiprocessing.Value("d", 0.0)
        process = multiprocessing.get_context("fork").Process(target=look, args=(tile, peak))
        process.start()
        process.join()
        assert process.exitcode == 0
        assert 0 < peak.value < 1500
