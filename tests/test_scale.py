# SPDX-FileCopyrightText: 2026 The clipsam_hf authors
# SPDX-License-Identifier: Apache-2.0
"""Photographs by the million: rows of a stream, shards under `accelerate launch`, Ray Data's workers."""

import io
import os
import re
import shlex
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from datasets import Dataset, Features
from datasets import Image as ImageFeature
from PIL import Image

from clipsam_hf.modeling_clipsam import ClipSamForAnomalySegmentation
from clipsam_hf.prediction import predict_folder, predict_rows, row_schema, write_parquet
from clipsam_hf.prediction.results import COLUMNS
from clipsam_hf.processing_clipsam import ClipSamProcessor


ROOT = Path(__file__).parents[1]
SCALE = ROOT / "examples" / "scale"


def write_photographs(folder: Path, count: int = 12) -> list[Path]:
    """Photographs of several sizes, of which the fourth is broken."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    paths = [folder / f"{number:02}.png" for number in range(count)]
    for number, path in enumerate(paths):
        size = (32 + 4 * number, 48, 3)
        Image.fromarray(rng.integers(0, 256, size, dtype=np.uint8)).save(path)
    paths[3].write_bytes(paths[3].read_bytes()[:60])
    return paths


def predict_by_folder(checkpoint: Path, source: Path, output: Path, **options: Any) -> list[dict[str, Any]]:
    """What `clipsam predict` says of the photographs."""
    model = ClipSamForAnomalySegmentation.from_pretrained(checkpoint)
    processor = ClipSamProcessor.from_pretrained(checkpoint)
    predicted = predict_folder(
        model, processor, source, output, class_name="candle", device="cpu", num_workers=0, **options
    )
    assert predicted is not None
    return list(predicted.rows())


def read_output(folder: Path) -> list[dict[str, Any]]:
    """All rows of a folder, by the names of their photographs."""
    rows = [
        row for path in sorted(folder.glob("**/*.parquet")) for row in pyarrow.parquet.read_table(path).to_pylist()
    ]
    return sorted(rows, key=lambda row: str(row["path"]))


@pytest.mark.parametrize("document", ["app", "scale"])
def test_commands_of_the_document_are_understood(document: str) -> None:
    text = (ROOT / "docs" / "how-to" / f"{document}.md").read_text(encoding="utf-8")
    commands = re.findall(r"<!-- command: \w+ -->\n```bash\n(.+?)\n```", text, re.DOTALL)
    assert len(commands) == {"app": 1, "scale": 2}[document]
    for command in map(shlex.split, commands):
        (place,) = [place for place, word in enumerate(command) if word.endswith(".py")]
        code = (ROOT / command[place]).read_text(encoding="utf-8")
        options = [word for word in command[place:] if word.startswith("--")]
        assert options and all(f'"{option}"' in code for option in options)


def rounded(value: Any) -> Any:
    """Other processes may add in another order; what is said of a broken file may name it in another way."""
    if isinstance(value, dict):
        return {
            key: value["error"] and "unreadable" if key == "error" else rounded(each) for key, each in value.items()
        }
    if isinstance(value, list):
        return [rounded(each) for each in value]
    return round(value, 5) if isinstance(value, float) else value


@pytest.fixture
def checkpoint(tmp_path: Path, tiny_model: ClipSamForAnomalySegmentation, tiny_processor: ClipSamProcessor) -> Path:
    """The tiny model, with a threshold that its random maps exceed here and there."""
    tiny_model.config.binarize_threshold = tiny_model.config.mask_threshold = 0.47
    tiny_model.save_pretrained(tmp_path / "model")
    tiny_processor.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def write_parquet_shard(path: Path, photographs: list[Path]) -> None:
    rows = [{"image": {"bytes": each.read_bytes(), "path": each.name}} for each in photographs]
    Dataset.from_list(rows, features=Features({"image": ImageFeature()})).to_parquet(path)


def write_tar_shard(path: Path, photographs: list[Path]) -> None:
    with tarfile.open(path, "w") as tar:
        for photograph in photographs:
            tar.add(photograph, photograph.name)
            truth = io.BytesIO(b"{}")
            member = tarfile.TarInfo(f"{photograph.stem}.json")
            member.size = 2
            tar.addfile(member, truth)


def launch(*arguments: Any, processes: int = 2) -> subprocess.CompletedProcess[str]:
    configuration = ROOT / "examples" / "accelerate" / "cpu_two_processes.yaml"
    command = [
        sys.executable, "-m", "accelerate.commands.launch", "--config_file", configuration, "--num_processes",
        processes, SCALE / "predict_shards.py", *arguments, "--cpu",
    ]  # fmt: skip
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(list(map(str, command)), capture_output=True, text=True, env=environment, timeout=300)


@pytest.mark.parametrize("batch_size", [1, 3])
def test_rows_of_a_stream_are_those_of_the_folder(tiny_checkpoint: Path, tmp_path: Path, batch_size: int) -> None:
    paths = write_photographs(tmp_path / "photos", 5)
    expected = predict_by_folder(tiny_checkpoint, tmp_path / "photos", tmp_path / "out", batch_size=batch_size)
    model = ClipSamForAnomalySegmentation.from_pretrained(tiny_checkpoint)
    processor = ClipSamProcessor.from_pretrained(tiny_checkpoint)
    photographs = ((path.name, path) for path in paths)
    rows = list(predict_rows(model, processor, photographs, class_name="candle", batch_size=batch_size))
    assert rows == expected
    assert [row["path"] for row in rows if row["error"]] == ["03.png"]


def test_a_stream_is_read_a_few_photographs_ahead(tiny_checkpoint: Path) -> None:
    taken: list[int] = []

    def photographs() -> Any:
        for number in range(100):
            taken.append(number)
            yield str(number), np.zeros((32, 32, 3), dtype=np.uint8)

    model = ClipSamForAnomalySegmentation.from_pretrained(tiny_checkpoint)
    rows = predict_rows(
        model, ClipSamProcessor.from_pretrained(tiny_checkpoint), photographs(), class_name="nut", num_threads=3
    )
    assert next(rows)["path"] == "0"
    assert len(taken) == 4


def test_a_stream_takes_references_with_their_class_name(tiny_checkpoint: Path, tmp_path: Path) -> None:
    paths = [path for path in write_photographs(tmp_path / "photos", 6) if path.name != "03.png"]
    expected = predict_by_folder(tiny_checkpoint, paths[0], tmp_path / "out", references=paths[1:])
    model = ClipSamForAnomalySegmentation.from_pretrained(tiny_checkpoint)
    processor = ClipSamProcessor.from_pretrained(tiny_checkpoint)
    photographs = [(paths[0].name, paths[0])]
    rows = predict_rows(model, processor, photographs, class_name="candle", references=paths[1:])
    assert list(rows) == expected
    assert expected[0]["decision_threshold"] is not None


@pytest.mark.parametrize("with_references", [False, True])
def test_a_stream_looks_where_the_folder_looks(tiny_checkpoint: Path, tmp_path: Path, with_references: bool) -> None:
    paths = [path for path in write_photographs(tmp_path / "photos", 6) if path.name != "03.png"]
    roi = np.zeros((10, 10), dtype=np.uint8)
    roi[2:9, 1:6] = 255
    Image.fromarray(roi).save(tmp_path / "roi.png")
    options: dict[str, Any] = {"references": paths[1:] if with_references else None, "roi_mask": tmp_path / "roi.png"}
    expected = predict_by_folder(tiny_checkpoint, paths[0], tmp_path / "out", **options)
    model = ClipSamForAnomalySegmentation.from_pretrained(tiny_checkpoint)
    processor = ClipSamProcessor.from_pretrained(tiny_checkpoint)
    photographs = [(paths[0].name, paths[0])]
    assert list(predict_rows(model, processor, photographs, class_name="candle", **options)) == expected
    (whole,) = predict_rows(model, processor, photographs, class_name="candle", references=options["references"])
    assert whole["score"] != expected[0]["score"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "`class_name` is needed"),
        ({"class_name": "nut", "roi_mask": np.zeros((2, 2), dtype=bool)}, "region of interest is empty"),
        ({"class_name": "nut", "threshold": 2.0}, "threshold"),
        ({"class_name": "nut", "batch_size": 0}, "`batch_size` must be at least 1, got 0"),
        ({"class_name": "nut", "num_threads": 0}, "`num_threads` must be at least 1, got 0"),
    ],
)
def test_what_a_stream_cannot_use_is_told_before_the_first_photograph(
    tiny_model: Any, tiny_processor: Any, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        predict_rows(tiny_model, tiny_processor, [], **options)


def test_parquet_has_the_columns_of_a_row(tmp_path: Path) -> None:
    write_parquet(tmp_path / "rows.parquet", [])
    assert pyarrow.parquet.read_table(tmp_path / "rows.parquet").schema.equals(row_schema())
    assert row_schema().names == list(COLUMNS)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    ("write_shard", "ending"), [(write_parquet_shard, "parquet"), (write_tar_shard, "tar")], ids=["parquet", "tar"]
)
def test_shards_on_two_processes_give_the_rows_of_one_folder(
    checkpoint: Path, tmp_path: Path, write_shard: Callable[[Path, list[Path]], None], ending: str
) -> None:
    paths = write_photographs(tmp_path / "photos")
    expected = predict_by_folder(checkpoint, tmp_path / "photos", tmp_path / "out")
    assert any(row["regions"] for row in expected)
    (tmp_path / "shards").mkdir()
    for number in range(4):
        write_shard(tmp_path / "shards" / f"{number}.{ending}", paths[3 * number : 3 * number + 3])
    output = tmp_path / "rows"
    command = [f"{tmp_path / 'shards'}/*.{ending}", "--output", output, "--model", checkpoint]

    done = launch(*command, "--class-name", "candle")
    assert done.returncode == 0, done.stderr
    # Each process its share
    assert sorted(line[:9] for line in done.stdout.splitlines() if line.startswith("process")) == [
        "process 0", "process 0", "process 1", "process 1",
    ]  # fmt: skip
    assert rounded(read_output(output)) == rounded(expected)

    # What was interrupted goes on with the shards that are missing
    (output / f"2.{ending}.parquet").unlink()
    before = (output / f"1.{ending}.parquet").stat().st_mtime_ns
    done = launch(*command, "--class-name", "candle", processes=1)
    assert [line for line in done.stdout.splitlines() if line] == [f"process 0: 2.{ending}.parquet"], done.stderr
    assert (output / f"1.{ending}.parquet").stat().st_mtime_ns == before
    assert rounded(read_output(output)) == rounded(expected)

    # Rows of another question are not mixed in
    done = launch(*command, "--class-name", "nut", processes=1)
    assert "class_name: 'candle' then, 'nut' now" in done.stderr


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_ray_gives_the_rows_of_one_process(checkpoint: Path, tmp_path: Path) -> None:
    if not os.environ.get("CLIPSAM_REQUIRE_EXTRAS"):
        pytest.importorskip("ray", reason="needs clipsam_hf[ray]")
    write_photographs(tmp_path / "photos")
    expected = predict_by_folder(checkpoint, tmp_path / "photos", tmp_path / "out")
    command = [
        sys.executable, SCALE / "predict_ray.py", tmp_path / "photos", "--class-name", "candle", "--model",
        checkpoint, "--output", tmp_path / "rows", "--workers", "2", "--batch-size", "3",
    ]  # fmt: skip
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "RAY_USAGE_STATS_ENABLED": "0"}
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, env=environment, timeout=600)
    assert done.returncode == 0, done.stderr
    assert rounded(read_output(tmp_path / "rows")) == rounded(expected)
    again = subprocess.run(list(map(str, command)), capture_output=True, text=True, env=environment, timeout=600)
    assert (again.returncode, "holds files already" in again.stderr) == (2, True)
