# SPDX-FileCopyrightText: 2026 The clipsam_hf authors
# SPDX-License-Identifier: Apache-2.0
"""The cache of CLIP's features: what is complete is never computed again, what is wrong is never used."""

import json
import logging
import os
import pickle
import re
import runpy
import shutil
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, safe_open, save_file
from transformers.utils import logging as library_logging

from clipsam_hf.configuration_clipsam import ClipSamConfig
from clipsam_hf.data import AnomalySample
from clipsam_hf.image_loading import ImageReadError
from clipsam_hf.modeling_clipsam import ClipSamForAnomalySegmentation
from clipsam_hf.processing_clipsam import ClipSamProcessor
from clipsam_hf.training.features import FeatureCache
from clipsam_hf.training.views import TrainingImages


# Of the tiny model: two stages of 32 channels on 4 x 4 tokens, two bytes each
VIEW_BYTES = 2 * 32 * 16 * 2
NUM_IMAGES = 5


def make_samples(count: int = NUM_IMAGES, seed: int = 0) -> list[AnomalySample]:
    generator = np.random.default_rng(seed)
    words: dict[str, Any] = {"category": "plate", "class_name": "plate", "defect_type": None, "split": "test"}
    return [
        AnomalySample(
            Path(f"{number}.png"),
            None,
            1,
            **words,
            image=Image.fromarray(generator.integers(0, 256, (40, 50, 3), dtype=np.uint8)),
            mask=Image.new("L", (50, 40), 1),
        )
        for number in range(count)
    ]


@pytest.fixture
def images(tiny_processor: ClipSamProcessor) -> TrainingImages:
    return TrainingImages(make_samples(), tiny_processor, num_views=2)


class Builder:
    """Builds with shards of two images, and counts the images that CLIP has seen."""

    def __init__(self, folder: Path, model: ClipSamForAnomalySegmentation) -> None:
        self.folder, self.model, self.computed = folder, model, 0
        original = model.get_feature_maps

        def count(pixel_values: torch.Tensor) -> tuple[torch.Tensor, ...]:
            self.computed += len(pixel_values)
            return original(pixel_values)

        model.get_feature_maps = count

    def __call__(self, images: TrainingImages, **options: Any) -> FeatureCache:
        self.computed = 0
        return FeatureCache.build(self.folder, self.model, images, **{"shard_bytes": 2 * VIEW_BYTES, **options})

    def shards(self) -> list[Path]:
        return sorted(self.folder.glob("*.safetensors"))


@pytest.fixture
def build(tmp_path: Path, tiny_model: ClipSamForAnomalySegmentation) -> Builder:
    return Builder(tmp_path / "features", tiny_model)


@pytest.fixture
def lines(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    """The log lines, which transformers keeps from pytest."""
    library_logging.enable_propagation()
    with caplog.at_level(logging.WARNING):
        yield caplog
    library_logging.disable_propagation()


def assert_right(cache: FeatureCache, model: ClipSamForAnomalySegmentation, images: TrainingImages) -> None:
    for view in range(cache.num_views):
        for index in range(len(images)):
            with torch.no_grad():
                expected = model.get_feature_maps(images.view(index, view).pixel_values[None])
            found = cache[index, view]
            assert len(found) == len(expected)
            for stage, feature_map in zip(found, expected, strict=True):
                assert stage.dtype == torch.bfloat16
                # Values near 0 are what rounding leaves of large ones, and differ with the order of the sums
                torch.testing.assert_close(stage.float(), feature_map[0], rtol=2**-8, atol=1e-5)


def test_features_survive_up_to_bfloat16(build: Builder, images: TrainingImages) -> None:
    cache = build(images)

    assert (len(cache), cache.num_views, build.computed) == (5, 2, 10)
    assert_right(cache, build.model, images)
    # Exactly the rounding of what one batch gives
    with torch.no_grad():
        batch = build.model.get_feature_maps(torch.stack([images.view(index).pixel_values for index in (0, 1)]))
    assert torch.equal(cache[1, 0][1], batch[1][1].to(torch.bfloat16))


def test_a_cached_step_has_nearly_the_loss_of_a_computed_one(build: Builder, images: TrainingImages) -> None:
    cache, views = build(images), [images.view(index) for index in range(5)]
    common = {
        "text_embeds": torch.nn.functional.normalize(torch.randn(1, 2, 16), dim=-1),
        "labels": torch.stack([view.labels for view in views]),
    }
    computed = build.model(pixel_values=torch.stack([view.pixel_values for view in views]), **common).loss
    feature_maps = tuple(torch.stack(stage) for stage in zip(*(cache[index, 0] for index in range(5)), strict=True))
    cached = build.model(feature_maps=feature_maps, **common).loss

    assert cached.item() == pytest.approx(computed.item(), rel=0.01)


def test_a_second_build_computes_nothing(build: Builder, images: TrainingImages) -> None:
    build(images)
    before = {path: path.stat().st_mtime_ns for path in build.folder.iterdir()}
    assert len(before) == 7  # six shards and the index

    build(images)

    assert build.computed == 0
    assert {path: path.stat().st_mtime_ns for path in build.folder.iterdir()} == before


def test_an_interrupted_build_goes_on(build: Builder, images: TrainingImages, monkeypatch: pytest.MonkeyPatch) -> None:
    read, original = [], images.view

    def interrupted(index: int, view: int = 0) -> Any:
        read.append((index, view))
        if len(read) == 6:
            raise KeyboardInterrupt
        return original(index, view)

    monkeypatch.setattr(images, "view", interrupted)
    with pytest.raises(KeyboardInterrupt):
        build(images, batch_size=1)
    monkeypatch.undo()
    assert len(build.shards()) == 3  # five of view 0, in shards of 2, 2 and 1

    cache = build(images)
    assert build.computed == 5
    assert_right(cache, build.model, images)


def test_a_kill_while_writing_leaves_no_shard(build: Builder, images: TrainingImages) -> None:
    build(images)
    shard = build.shards()[1]
    half = shard.with_name(f".{shard.name}.123")
    half.write_bytes(shard.read_bytes()[:1000])
    shard.unlink()
    os.utime(half, (0, 0))

    cache = build(images)

    assert build.computed == 2
    assert not half.exists()
    assert_right(cache, build.model, images)


def test_a_file_that_another_run_is_writing_is_left_alone(build: Builder, images: TrainingImages) -> None:
    build(images)
    half = build.folder / ".view-000-00000.safetensors.123"
    half.touch()

    build(images)

    assert half.exists()


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-7] ^= 4
    path.write_bytes(content)


def break_the_header(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[8] = 0
    path.write_bytes(content)


def lose_a_view(path: Path) -> None:
    tensors = load_file(path)
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    del tensors[sorted(tensors)[0]]
    save_file(tensors, path, metadata)


@pytest.mark.parametrize("damage", [truncate, empty, flip_a_bit, break_the_header, lose_a_view])
def test_a_damaged_shard_is_made_anew(
    build: Builder, images: TrainingImages, damage: Any, lines: pytest.LogCaptureFixture
) -> None:
    build(images)
    path = build.shards()[3]
    damage(path)
    lines.clear()

    cache = build(images)

    assert build.computed == 2
    assert f"'{path}' is damaged" in lines.text
    assert_right(cache, build.model, images)


def test_other_weights_make_every_shard_anew(
    build: Builder, images: TrainingImages, lines: pytest.LogCaptureFixture
) -> None:
    build(images)
    with torch.no_grad():
        build.model.clip.vision_model.encoder.layers[0].mlp.fc1.bias[3] += 1
    lines.clear()

    cache = build(images)

    assert build.computed == 10
    assert lines.text.count("is of other images or another CLIP and is made anew") == 6
    assert_right(cache, build.model, images)


@pytest.mark.parametrize(
    "change",
    [
        lambda config: setattr(config.clip_config.vision_config, "hidden_act", "gelu"),
        lambda config: setattr(config, "feature_layers", (2, 1)),
    ],
    ids=["activation", "stages"],
)
def test_what_clip_does_with_its_weights_counts(build: Builder, images: TrainingImages, change: Any) -> None:
    build(images)
    change(build.model.config)
    build(images)

    assert build.computed == 10


@pytest.mark.parametrize(
    ("kind", "change", "computed"),
    [
        ("vv", {"vv_residual": True}, 10),
        ("vv", {"vv_num_stages": 2}, 10),
        ("vv", {"feature_layers": (2,)}, 10),
        ("vv", {"text_temperature": 0.01}, 0),
        ("vv", {"window_stride": 2}, 0),
        ("windows", {"window_stride": 2}, 10),
        ("windows", {"window_sizes": (3,)}, 10),
        ("windows", {"localizer": "vv"}, 10),
        ("similarity", {"localizer": "umci"}, 0),  # both read the same stages
        ("similarity", {"vv_residual": True}, 0),
    ],
)
def test_what_the_localizer_encodes_counts(
    tmp_path: Path,
    tiny_config: ClipSamConfig,
    images: TrainingImages,
    kind: str,
    change: dict[str, Any],
    computed: int,
) -> None:
    counts = []
    for fields in ({"localizer": kind}, {"localizer": kind, **change}):
        torch.manual_seed(0)
        model = ClipSamForAnomalySegmentation(ClipSamConfig(**{**tiny_config.to_dict(), **fields})).eval()
        build = Builder(tmp_path / "features", model)
        assert_right(build(images), build.model, images)
        counts.append(build.computed - 10)
    assert counts == [10, computed]


def test_the_trained_head_does_not_count(build: Builder, images: TrainingImages) -> None:
    build(images)
    with torch.no_grad():
        for parameter in build.model.umci.parameters():
            parameter += 1
    build(images)

    assert build.computed == 0


def test_a_changed_photograph_makes_its_shards_anew(
    build: Builder, images: TrainingImages, tiny_processor: ClipSamProcessor
) -> None:
    build(images)
    samples = make_samples()
    samples[4] = replace(samples[4], image=Image.new("RGB", (50, 40)))
    changed = TrainingImages(samples, tiny_processor, num_views=2)

    cache = build(changed)

    assert build.computed == 2  # the last image stands alone in a shard, of each view
    assert_right(cache, build.model, changed)


def test_more_views_keep_those_that_are_there(build: Builder, images: TrainingImages) -> None:
    build(images)
    cache = build(images, num_views=3)
    assert (build.computed, cache.num_views) == (5, 3)

    assert build(images).num_views == 2
    build(images, num_views=3)
    assert build.computed == 0


def test_the_batch_size_does_not_count(build: Builder, images: TrainingImages) -> None:
    build(images, batch_size=1)
    build(images, batch_size=3)

    assert build.computed == 0


def test_a_corrupt_photograph_is_named_and_what_was_finished_stays(
    build: Builder, tiny_processor: ClipSamProcessor, tmp_path: Path
) -> None:
    samples = make_samples()
    path = tmp_path / "three.png"
    samples[3].image.save(path)
    whole = path.read_bytes()
    samples[3] = replace(samples[3], image_path=path, image=None)
    images = TrainingImages(samples, tiny_processor)
    path.write_bytes(whole[:300])

    with pytest.raises(ImageReadError, match=r"three\.png"):
        build(images)
    assert len(build.shards()) == 1

    path.write_bytes(whole)
    cache = build(TrainingImages(samples, tiny_processor))
    assert build.computed == 3
    assert_right(cache, build.model, images)


def test_a_disk_that_is_too_small_is_said_before_anything_is_written(
    build: Builder, images: TrainingImages, monkeypatch: pytest.MonkeyPatch, lines: pytest.LogCaptureFixture
) -> None:
    needed = 10 * VIEW_BYTES
    free = shutil._ntuple_diskusage(10**6, 10**6 - needed + 1, needed - 1)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: free)

    with pytest.raises(OSError, match=f"10 views take {needed} bytes, but only {needed - 1} are free"):
        build(images)
    assert f"Caching CLIP's features of 10 views takes {needed / 1e6:.1f} MB" in lines.text
    assert not build.folder.exists()


def test_only_what_is_missing_needs_space(
    build: Builder, images: TrainingImages, monkeypatch: pytest.MonkeyPatch
) -> None:
    build(images, num_views=1)
    free = shutil._ntuple_diskusage(10**6, 10**6 - 5 * VIEW_BYTES, 5 * VIEW_BYTES)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: free)

    assert build(images).num_views == 2


def test_a_disk_that_fills_up_leaves_what_was_finished(
    build: Builder, images: TrainingImages, monkeypatch: pytest.MonkeyPatch
) -> None:
    replaced, original = [], os.replace

    def full(source: Any, target: Any) -> None:
        replaced.append(target)
        if len(replaced) == 4:  # the index and two shards went well
            raise OSError(28, "No space left on device")
        original(source, target)

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match="No space left"):
        build(images)
    monkeypatch.undo()
    assert len(build.shards()) == 2
    assert not list(build.folder.glob(".*"))

    build(images)
    assert build.computed == 6


class Processes:
    """Stands in for an accelerator: each thread takes the part of one process."""

    def __init__(self, process_index: int, barrier: threading.Barrier) -> None:
        self.process_index, self.num_processes = process_index, barrier.parties
        self.wait_for_everyone = barrier.wait


@pytest.mark.parametrize("start", ["empty", "partly damaged"])
def test_two_processes_share_the_work(
    tmp_path: Path, tiny_model: ClipSamForAnomalySegmentation, images: TrainingImages, start: str
) -> None:
    folder = tmp_path / "features"
    models = [ClipSamForAnomalySegmentation(tiny_model.config) for _ in range(2)]
    for model in models:
        model.load_state_dict(tiny_model.state_dict())
    if start == "partly damaged":
        Builder(folder, tiny_model)(images)
        for path in sorted(folder.glob("*.safetensors"))[:2]:
            flip_a_bit(path)
    barrier = threading.Barrier(2, timeout=60)
    builders = [Builder(folder, model) for model in models]
    caches: dict[int, FeatureCache] = {}

    def run(rank: int) -> None:
        caches[rank] = builders[rank](images, accelerator=Processes(rank, barrier))

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    expected = [5, 5] if start == "empty" else [2, 2]
    assert [builder.computed for builder in builders] == expected
    for cache in caches.values():
        assert_right(cache, tiny_model, images)


def mapped_bytes(path: Path) -> int:
    """How much of a mapped file this process has touched."""
    resident, inside = 0, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if line[:1] in "0123456789abcdef" and "-" in line.split()[0]:
            inside = line.endswith(str(path))
        elif inside and line.startswith("Rss:"):
            resident += 1024 * int(line.split()[1])
    return resident


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_reading_one_view_does_not_read_the_shard(build: Builder, tiny_processor: ClipSamProcessor) -> None:
    # Two stages of 1 MiB each, all in one shard
    build.model.get_feature_maps = lambda pixels: (torch.ones(len(pixels), 32, 128, 128),) * 2
    cache = build(TrainingImages(make_samples(16), tiny_processor), shard_bytes=2**30)
    (path,) = build.shards()

    total = float(sum(stage.float().sum() for stage in cache[7, 0]))

    assert total == 2**20
    assert 2**20 < mapped_bytes(path) < path.stat().st_size / 4


def test_writing_to_a_view_does_not_reach_the_disk(build: Builder, images: TrainingImages) -> None:
    before = [stage.clone() for stage in build(images)[0, 0]]
    FeatureCache(build.folder)[0, 0][0].zero_()

    assert torch.equal(FeatureCache(build.folder)[0, 0][0], before[0])


def test_a_worker_opens_the_cache_again(build: Builder, images: TrainingImages) -> None:
    cache = build(images)
    expected = cache[3, 1]
    copied = pickle.loads(pickle.dumps(cache))[3, 1]

    assert all(torch.equal(ours, theirs) for ours, theirs in zip(expected, copied, strict=True))


def test_workers_read_photographs(build: Builder, images: TrainingImages) -> None:
    assert_right(build(images, num_workers=1), build.model, images)


def test_the_training_draws_the_same_numbers_after_caching(build: Builder, images: TrainingImages) -> None:
    before = torch.get_rng_state()
    build(images)

    assert torch.equal(torch.get_rng_state(), before)


def test_the_index_says_what_was_cached(build: Builder, images: TrainingImages) -> None:
    build(images)
    index = json.loads((build.folder / "index.json").read_text())

    assert index["views"][1][3] == images.view_digest(3, 1)
    assert index["model"]["feature_layers"] == [1, 2]
    assert FeatureCache(build.folder).model_key == index["model"]


def test_a_shard_of_another_build_is_not_read(build: Builder, images: TrainingImages) -> None:
    build(images)
    index = (build.folder / "index.json").read_text()
    with torch.no_grad():
        build.model.clip.vision_model.pre_layrnorm.bias += 1
    build(images)
    (build.folder / "index.json").write_text(index)

    with pytest.raises(ValueError, match="other images or another CLIP"):
        FeatureCache(build.folder)[0, 0]


def test_trained_backbones_are_refused(build: Builder, images: TrainingImages) -> None:
    build.model.config.freeze_backbones = False

    with pytest.raises(ValueError, match="`freeze_backbones` is False"):
        build(images)


@pytest.mark.parametrize("name", ["batch_size", "num_views", "shard_bytes"])
def test_numbers_out_of_range_are_refused(build: Builder, images: TrainingImages, name: str) -> None:
    with pytest.raises(ValueError, match=f"`{name}` must be a positive integer, got 0"):
        build(images, **{name: 0})


@pytest.mark.parametrize("place", [(5, 0), (-1, 0), (0, 2), (0, -1)])
def test_a_view_that_is_not_there_is_refused(build: Builder, images: TrainingImages, place: tuple[int, int]) -> None:
    with pytest.raises(IndexError, match="There is no view"):
        build(images)[place]


def test_a_folder_without_a_cache_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=f"'{tmp_path}' holds no cached features"):
        FeatureCache(tmp_path)
    (tmp_path / "index.json").write_text("{")
    with pytest.raises(ValueError, match="damaged"):
        FeatureCache(tmp_path)
    (tmp_path / "index.json").write_text('{"format": 7}')
    with pytest.raises(ValueError, match="features of format 7; known is 1"):
        FeatureCache(tmp_path)


def test_the_benchmark_runs(capsys: pytest.CaptureFixture[str]) -> None:
    script = Path(__file__).parents[1] / "benchmarks" / "bench_training.py"
    runpy.run_path(str(script))["main"](["--tiny", "--repeats", "2", "--images", "3", "--batch-size", "2"])
    output = capsys.readouterr().out

    assert re.search(r"\| features computed in every step \|( [\d.]+ \|){4} 2 \|", output)
    assert re.search(r"\| features from the cache \|( [\d.]+ \|){3} 1\.0 \| 2 \|", output)
    assert re.search(r"Loss at step 3: .* % apart, within the limit of 1 %", output)
