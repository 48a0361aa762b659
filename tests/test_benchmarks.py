# SPDX-FileCopyrightText: 2026 The clipsam_hf authors
# SPDX-License-Identifier: Apache-2.0
"""The benchmarks of time and memory run, tiny, and their tables and picture say what was measured."""

import importlib
import re
import subprocess
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest


BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def bench_scaling(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("bench_scaling")


def run(script: str, *arguments: str) -> str:
    command = [sys.executable, str(BENCHMARKS / script), "--tiny", *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=550).stdout


def test_powers_of_growth_are_those_from_the_point_before(bench_scaling: Any) -> None:
    points = {"0": (0, 0.5, 8.0), "15": (15, 1.0, 10.0), "30": (30, 4.0, 10.0), "60": (60, 8.0, 20.0)}
    header, rows = bench_scaling.tabulate(bench_scaling.CURVES["regions"], points)
    assert header[-2:] == ["time ~ work^", "memory ~ work^"]
    assert [row[-2:] for row in rows] == [["", ""], ["", ""], [2.0, 0.0], [1.0, 1.0]]
    assert [row[2] for row in rows] == ["", 1 / 15, 4 / 30, 8 / 60]  # seconds of a region


def test_the_picture_shows_multiples_of_the_first_point_with_work(bench_scaling: Any) -> None:
    """Twice the work in four times the time: one grid line to the right, two up."""
    picture = bench_scaling.draw({"regions": {"0": (0, 1, 1), "15": (15, 2, 3), "30": (30, 8, 3)}})
    circles = [each for each in ElementTree.fromstring(picture).iter() if each.tag.endswith("circle")]
    assert len(circles) == 4  # two points in two panels
    (x, y), (right, up), (_, level), (_, as_level) = [
        (float(each.get("cx")), float(each.get("cy"))) for each in circles
    ]
    assert (right - x, y - up, level - as_level) == (40, 80, 0)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_measured_point_is_not_measured_again(tmp_path: Path) -> None:
    points, picture = tmp_path / "points.json", tmp_path / "picture.svg"
    arguments = ["--parts", "side", "batch", "--seconds", "0", "--points", str(points), "--picture", str(picture)]
    tables = run("bench_scaling.py", *arguments)
    assert len(re.findall(r"^\| \d+ \|", tables, re.MULTILINE)) == 8
    kept = points.read_text()
    assert run("bench_scaling.py", *arguments) == tables and points.read_text() == kept
    assert ElementTree.parse(picture).getroot().tag.endswith("svg")


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_other_benchmarks_of_speed_run() -> None:
    rows = run("bench_speed.py", "--parts", "text", "memory", "--repeats", "1")
    assert re.search(r"^\| the kept embedding.* \| 0 \| [\d.]+ \|$", rows, re.MULTILINE)  # no error at all
    assert re.search(r"^\| decoder and fusion, 60 prompts \|", rows, re.MULTILINE)
    rows = run("bench_precision.py", "--repeats", "1")
    assert re.findall(r"^\| (?:CLIP|SAM).*, (\w+) \|", rows, re.MULTILINE) == [
        *("float32", "bfloat16", "int8", "compiled"),
        *("float32", "bfloat16", "int8"),
    ]
