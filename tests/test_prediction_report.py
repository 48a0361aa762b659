# SPDX-FileCopyrightText: 2026 The clipsam_hf authors
# SPDX-License-Identifier: Apache-2.0
"""The report of a folder: what it holds, that names in it are harmless, and how it behaves in a real browser."""

import base64
import io
import json
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from browser import console_errors, open_browser, requested_urls
from PIL import Image
from test_prediction import checkpoint, files_of, good, model, predict, source  # noqa: F401
from typer.testing import CliRunner

from clipsam_hf import ClipSamForAnomalySegmentation, ClipSamProcessor, cli
from clipsam_hf.prediction import names, previews
from clipsam_hf.prediction import report as prediction_report
from clipsam_hf.prediction import work as prediction_work
from clipsam_hf.prediction.report import write_report
from clipsam_hf.regions_clipsam import encode_rle


ROOT = Path(__file__).parents[1]
COMMAND = re.compile(r"<!-- command: report -->\n```bash\n(.+?)\n```", re.DOTALL)

Model = tuple[ClipSamForAnomalySegmentation, ClipSamProcessor]

# What would run, or end the script that holds it, if it were not escaped
HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(2)>.jpg"
HOSTILE_CLASS = "<img src=//evil.example/x onerror=alert(3)>&\"'"


class Page(HTMLParser):
    """What a browser makes of a page, without running it: its tags, and the texts of scripts by their id."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.text = path.read_text(encoding="utf-8")
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: dict[str, str] = {}
        self.texts: list[str] = []
        self.script: str | None = None  # the one that we are in
        self.feed(self.text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self.script = dict(attrs).get("id") or "code" if tag == "script" else None

    def handle_endtag(self, tag: str) -> None:
        self.script = None

    def handle_data(self, data: str) -> None:
        if self.script is None:
            self.texts.append(data)
        else:
            self.scripts[self.script] = self.scripts.get(self.script, "") + data

    @property
    def rows(self) -> list[dict[str, Any]]:
        return json.loads(self.scripts["data"])


def a_row(name: str, score: float | None, threshold: float | None = 0.5, error: str | None = None) -> dict[str, Any]:
    """A row as a run writes it, with one region where the photograph is anomalous."""
    label = None if threshold is None or score is None else ("anomalous" if score > threshold else "normal")
    mask = np.zeros((60, 80), dtype=bool)
    mask[20:40, 10:30] = True
    region = {
        "box": {"xmin": 10, "ymin": 20, "xmax": 30, "ymax": 40},
        "score": score,
        "area": 400,
        "outline": encode_rle(mask),
    }
    size = (None, None) if score is None else (80, 60)
    known = (None, None) if score is None else (0.5, threshold)
    values = (name, *size, score, label, *known, [region] if label == "anomalous" else [], error)
    keys = ("path", "width", "height", "score", "label", "threshold", "decision_threshold", "regions", "error")
    return dict(zip(keys, values, strict=True))


def a_run(folder: Path, rows: list[dict[str, Any]], class_name: str = "candle", pictures: bool = True) -> Path:
    """Writes what a finished run with `report=True` has left, without a model."""
    folder.mkdir(parents=True, exist_ok=True)
    protocol = {
        "command": "clipsam predict",
        "class_name": class_name,
        "compared_with": {"references": 8, "references_sha256": "0" * 16},
        "refine": True,
        "save": list(names.PREVIEWS) if pictures else [],
        "model": {"name": "a-model", "revision": None, "device": "cpu", "dtype": "float32"},
        "versions": {"clipsam_hf": "0.0.7"},
    }
    (folder / "predictions.protocol.json").write_text(json.dumps(protocol))
    (folder / "predictions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    photograph = Image.fromarray(np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8))
    encoded = {
        "preview": previews.encode_preview(photograph),
        "preview-map": previews.encode_preview(photograph.convert("L")),
    }
    for row in rows if pictures else ():
        for kind in names.PREVIEWS if row["error"] is None else ():
            path = folder / names.picture_path(kind, row["path"])
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(encoded[kind])
    return folder


# --------------------------------------------------------------------------------------------------------------------
# What it holds


def test_a_run_writes_its_report(model: Model, source: Path, tmp_path: Path) -> None:  # noqa: F811
    (source / "broken.jpg").write_text("no picture")
    output = tmp_path / "out"
    predicted = predict(model, source, output, report=True, decision_threshold=0.3)
    page, rows = Page(output / "report.html"), list(predicted.rows())
    assert [row["path"] for row in page.rows] == [row["path"] for row in rows]
    for number, (shown, row) in enumerate(zip(page.rows, rows, strict=True)):
        assert all(shown[key] == row[key] for key in ("width", "height", "score", "label", "error"))
        assert [each["area"] for each in shown["regions"]] == [each["area"] for each in row["regions"]]
        assert (f"photograph-{number}" in page.scripts) == (f"map-{number}" in page.scripts) == (row["error"] is None)
    assert any(row["regions"] for row in page.rows) and sum(row["error"] is not None for row in page.rows) == 1
    number = next(place for place, row in enumerate(rows) if row["path"] == "right/b.png")
    encoded = io.BytesIO(base64.b64decode(page.scripts[f"photograph-{number}"]))
    difference = np.asarray(Image.open(encoded), float) - np.asarray(Image.open(source / "right" / "b.png"), float)
    assert np.abs(difference).mean() < 16
    assert json.loads(page.scripts["about"]) == {"threshold": 0.3}


def test_the_map_of_a_report_is_that_of_the_photograph(model: Model, source: Path, tmp_path: Path) -> None:  # noqa: F811
    predict(model, source, tmp_path / "out", report=True, save=["map"])
    for small in (tmp_path / "out" / "preview-map").rglob("*.jpg"):
        name = small.relative_to(tmp_path / "out" / "preview-map").with_suffix(".png")
        full = np.asarray(Image.open(tmp_path / "out" / "map" / name)) / 65535
        assert np.abs(np.asarray(Image.open(small)) / 255 - full).max() < 0.06  # JPEG


def test_without_it_nothing_of_a_report_is_written(model: Model, source: Path, tmp_path: Path) -> None:  # noqa: F811
    predict(model, source, tmp_path / "out")
    assert not [name for name in files_of(tmp_path / "out") if "preview" in name or "report" in name]


def test_a_resumed_run_has_the_same_report(
    model: Model,  # noqa: F811
    source: Path,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    predict(model, source, tmp_path / "whole", report=True)
    append = prediction_work.RowFile.append

    def append_two(self: Any, row: Any) -> None:
        if row["path"] == "left/a.jpg":
            raise KeyboardInterrupt
        append(self, row)

    monkeypatch.setattr(prediction_work.RowFile, "append", append_two)
    with pytest.raises(KeyboardInterrupt):
        predict(model, source, tmp_path / "cut", report=True)
    assert not (tmp_path / "cut" / "report.html").exists()
    monkeypatch.undo()
    predict(model, source, tmp_path / "cut", report=True, resume=True)
    date = re.compile(rb"\d{4}-\d\d-\d\d \d\d:\d\d UTC")
    pages = [date.sub(b"", (tmp_path / name / "report.html").read_bytes()) for name in ("whole", "cut")]
    assert pages[0] == pages[1]
    with pytest.raises(ValueError, match="save: "):  # there are no pictures of what was predicted before
        predict(model, source, tmp_path / "cut", resume=True)
    predict(model, source, tmp_path / "cut", overwrite=True)
    assert not [name for name in files_of(tmp_path / "cut") if "preview" in name or "report" in name]


def test_it_replaces_an_earlier_one_at_the_end_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = a_run(tmp_path, [a_row(f"{number}.jpg", 0.1 * number) for number in range(5)])
    earlier = write_report(folder).read_bytes()

    def fail(row: Any) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(prediction_report, "_describe_row", fail)
    with pytest.raises(OSError, match="no space left"):
        write_report(folder)
    assert (folder / "report.html").read_bytes() == earlier
    assert not list(folder.glob(".report*"))


@pytest.mark.parametrize("rows", [[], [a_row("a.jpg", None, error="OSError: truncated")]], ids=["none", "broken"])
def test_a_folder_without_a_readable_photograph(tmp_path: Path, rows: list[dict[str, Any]]) -> None:
    page = Page(write_report(a_run(tmp_path, rows)))
    assert page.rows == [
        {"path": "a.jpg", "width": None, "height": None, "score": None, "label": None, "error": row["error"],
         "regions": []} for row in rows
    ]  # fmt: skip
    assert json.loads(page.scripts["about"]) == {"threshold": None}


def test_what_is_no_finished_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="holds no finished run of `clipsam predict`"):
        write_report(tmp_path)
    a_run(tmp_path, [])
    (tmp_path / "predictions.jsonl").unlink()
    with pytest.raises(FileNotFoundError, match="holds no finished run"):
        write_report(tmp_path)
    (tmp_path / "predictions.jsonl").write_text("no row\n")
    with pytest.raises(ValueError, match="line 1 of .* is no row"):
        write_report(tmp_path)


@pytest.mark.parametrize(
    ("compared_with", "words"),
    [
        (None, "words alone (zero-shot)"),
        ({"mutual_seed": 0}, "each other (mutual)"),
        ({"references": 1}, "1 good photograph"),
        ({"references_sha256": "abc"}, "references abc"),
    ],
)
def test_it_says_what_photographs_were_compared_with(tmp_path: Path, compared_with: Any, words: str) -> None:
    folder = a_run(tmp_path, [a_row("a.jpg", 0.25)])
    protocol = json.loads((folder / "predictions.protocol.json").read_text())
    (folder / "predictions.protocol.json").write_text(json.dumps({**protocol, "compared_with": compared_with}))
    texts = Page(write_report(folder)).texts
    assert words in texts and {"0.500", "a-model", "clipsam_hf 0.0.7"} <= set(texts)


def test_the_commands_of_the_document(
    checkpoint: Path,  # noqa: F811
    source: Path,  # noqa: F811
    good: Path,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    commands = COMMAND.findall((ROOT / "docs" / "how-to" / "report.md").read_text(encoding="utf-8"))
    first, second = (shlex.split(command)[1:] for command in commands)
    monkeypatch.chdir(tmp_path)
    source.rename("new")
    assert good == tmp_path / "good"
    options = ["--model", str(checkpoint), "--device", "cpu", "--num-workers", "0"]
    result = CliRunner().invoke(cli.app, [*first, *options])
    assert result.exit_code == 0 and "report.html" in result.stderr
    report = tmp_path / "results" / "report.html"
    written = report.read_bytes()
    report.unlink()
    result = CliRunner().invoke(cli.app, second)
    assert result.exit_code == 0 and report.read_bytes() == written
    result = CliRunner().invoke(cli.app, ["report", "new"])
    assert result.exit_code == 2 and "holds no finished run" in result.stderr


def name_defects(folder: Path, names: dict[str, tuple[str | None, bool | None]]) -> Path:
    """Gives the region of each photograph a name, and whether it is a guess, as a run with `defect_names` does."""
    path = folder / "predictions.protocol.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "defect_names": ["scratch", "hole"]}))
    rows = [json.loads(line) for line in (folder / "predictions.jsonl").read_text().splitlines()]
    for row in rows:
        for region in row["regions"]:
            region["defect_name"], region["defect_is_guess"] = names[row["path"]]
    (folder / "predictions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def test_names_of_defects_are_shown_where_the_run_had_some(tmp_path: Path) -> None:
    folder = a_run(tmp_path, [a_row("a.jpg", 0.9), a_row("b.jpg", 0.8), a_row("c.jpg", 0.7), a_row("d.jpg", 0.1)])
    page = Page(write_report(folder))
    assert "Defects" not in page.texts and page.rows[0]["regions"][0]["defect"] is None
    name_defects(folder, {"a.jpg": ("scratch", False), "b.jpg": ("hole", True), "c.jpg": (None, None)})
    page = Page(write_report(folder))
    assert page.texts.count("Defects") == 1
    assert [[each["defect"] for each in row["regions"]] for row in page.rows] == [
        ["scratch"], ["hole (guess)"], [None], [],
    ]  # fmt: skip
    rows = (folder / "predictions.jsonl").read_text()
    (folder / "predictions.jsonl").write_text(rows.replace('"scratch"', "7"))
    with pytest.raises(ValueError, match="line 1 of .* is no row"):
        write_report(folder)


# --------------------------------------------------------------------------------------------------------------------
# That it is harmless


def test_names_are_texts(tmp_path: Path) -> None:
    broken = a_row("b.jpg", None, error=f"OSError: {HOSTILE}")
    # A file's name may hold bytes that are no text, marks that turn the writing round, and line separators
    odd = "\udcff\u202egpj.\u2028\u2029{{ 7 * 7 }}{% raw %}<!--"
    plain = Page(
        write_report(a_run(tmp_path / "plain", [a_row("a", 0.5), a_row("b", None, error="c"), a_row("d", 0.5)]))
    )
    rows = [a_row(HOSTILE.replace("/", "_"), 0.5), broken, a_row(odd, 0.5)]
    page = Page(write_report(a_run(tmp_path / "hostile", rows, class_name=HOSTILE_CLASS)))
    assert [row["path"] for row in page.rows] == [row["path"] for row in rows]
    assert page.rows[1]["error"] == broken["error"]
    assert [tag for tag, _ in page.tags] == [tag for tag, _ in plain.tags]
    assert page.texts.count(HOSTILE_CLASS) == 1  # the heading; and within the title and the protocol


def test_names_of_defects_are_texts(tmp_path: Path) -> None:
    folder = a_run(tmp_path, [a_row("a.jpg", 0.9)])
    plain = Page(write_report(name_defects(folder, {"a.jpg": ("scratch", False)})))
    page = Page(write_report(name_defects(folder, {"a.jpg": (HOSTILE, False)})))
    assert page.rows[0]["regions"][0]["defect"] == HOSTILE
    assert [tag for tag, _ in page.tags] == [tag for tag, _ in plain.tags]


def test_its_policy_lets_its_own_script_run_and_nothing_be_fetched(tmp_path: Path) -> None:
    page = Page(write_report(a_run(tmp_path, [a_row("a.jpg", 0.9)])))
    policy = next(attrs["content"] for tag, attrs in page.tags if attrs.get("http-equiv") == "Content-Security-Policy")
    rules = dict(rule.strip().split(" ", 1) for rule in str(policy).split(";"))
    assert rules["default-src"] == "'none'" and rules["img-src"] == "data:"
    for rule, tag in (("script-src", "script"), ("style-src", "style")):
        text = re.findall(rf"<{tag}>(.*?)</{tag}>", page.text, re.DOTALL)
        assert [f"'{prediction_report._hash_for_policy(each)}'" for each in text] == [rules[rule]]
    for _, attrs in page.tags:
        assert not {"src", "srcset", "style", "onload", "onclick", "onerror"} & attrs.keys()
        assert attrs.get("href", "#").startswith(("#", "data:"))  # type: ignore[union-attr]
    assert set(re.findall(r"[a-z]+://[\w./]+", page.text)) == {"http://www.w3.org/2000/svg"}  # a name, not a place


# --------------------------------------------------------------------------------------------------------------------
# Small pictures


@pytest.mark.parametrize("size", [(3000, 200), (40, 30), (1000, 1000)])
def test_a_preview_is_bounded(size: tuple[int, int]) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    encoded = previews.encode_preview(Image.fromarray(noise))
    picture = Image.open(io.BytesIO(encoded))
    assert len(encoded) <= previews.MAX_PREVIEW_BYTES and max(picture.size) <= previews.PREVIEW_SIDE
    assert picture.width / picture.height == pytest.approx(size[1] / size[0], rel=0.05)
    assert max(size) > previews.PREVIEW_SIDE or picture.size == size[::-1]


def area_of(path: str) -> float:
    """The area that a path encloses, holes taken off, by the shoelace formula."""
    total = 0.0
    for line in path.removesuffix("Z").split("Z"):
        x, y = np.array([point.split() for point in line.removeprefix("M").split("L")], dtype=float).T
        total += float(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1))) / 2
    return abs(total)


def test_outlines_follow_their_masks() -> None:
    y, x = np.mgrid[:600, :800]
    radius = np.hypot(x - 400, y - 300)
    mask = (radius < 200) & (radius > 80)
    box = {"xmin": 201, "ymin": 101, "xmax": 600, "ymax": 500}
    path = previews.trace_outline({"box": box, "outline": encode_rle(mask)})
    assert path.count("M") == 2 and area_of(path) == pytest.approx(mask.sum(), rel=0.02)
    # At most a pixel of a preview of 512 pixels away from one of the circles
    points = np.array([point.split() for point in re.findall(r"[\d.]+ [\d.]+", path)], dtype=float)
    distances = np.hypot(points[:, 0] - 400, points[:, 1] - 300)
    assert np.minimum(np.abs(distances - 200), np.abs(distances - 80)).max() < 2 * 800 / 512
    assert len(path) < 7000


def test_a_region_thinner_than_a_preview_keeps_an_outline() -> None:
    mask = np.zeros((4000, 4000), dtype=bool)
    mask[2001, 1000:3000] = True
    box = {"xmin": 1000, "ymin": 2001, "xmax": 3000, "ymax": 2002}
    path = previews.trace_outline({"box": box, "outline": encode_rle(mask)})
    numbers = np.array(re.findall(r"[\d.]+", path), dtype=float).reshape(-1, 2)
    assert numbers[:, 0].min() < 1010 and numbers[:, 0].max() > 2990 and numbers[:, 1].min() >= 2001


@pytest.mark.slow
def test_a_thousand_photographs(tmp_path: Path) -> None:
    folder = a_run(
        tmp_path, [a_row(f"part-{number % 7}/{number:04d}.jpg", number % 100 / 100) for number in range(1000)]
    )
    script = (
        "import sys, time, tracemalloc\n"
        "from clipsam_hf.prediction import write_report\n"
        "write_report(sys.argv[1])\n"  # what is loaded once is loaded
        "tracemalloc.start()\n"
        "start = time.process_time()\n"
        "write_report(sys.argv[1])\n"
        "print(time.process_time() - start, tracemalloc.get_traced_memory()[1])\n"
    )
    result = subprocess.run([sys.executable, "-c", script, folder], capture_output=True, text=True, check=True)
    seconds, peak = map(float, result.stdout.split())
    assert seconds < 60 and peak < 2e6  # the file is much larger
    size = (folder / "report.html").stat().st_size
    assert 6e6 < size < 1000 * 2 * previews.MAX_PREVIEW_BYTES * 4 / 3


# --------------------------------------------------------------------------------------------------------------------
# In a real browser. Chromium takes seconds to start, so these are slow tests; one browser serves them all.


@pytest.fixture(scope="module")
def chrome(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    with open_browser(tmp_path_factory.mktemp("profile"), size=(1200, 900)) as chrome:
        yield chrome


# By falling score: f 0.9, d 0.7, b 0.5, e 0.4, a 0.3, c 0.2; at the threshold of 0.45 three are anomalous
SCORES = {"a.jpg": 0.3, "b.jpg": 0.5, "left/c.jpg": 0.2, "left/d.jpg": 0.7, "e10.jpg": 0.4, "e9.jpg": 0.9}


@pytest.fixture
def page(chrome: Any, tmp_path: Path) -> Iterator[Any]:
    """The report of six photographs and one that is broken; it must not complain, nor ask anybody for anything."""
    rows = [a_row(name, score, 0.45) for name, score in SCORES.items()]
    rows.append(a_row(HOSTILE.replace("/", "_"), None, error=HOSTILE))
    url = write_report(a_run(tmp_path / "run", rows, class_name=HOSTILE_CLASS)).as_uri()
    chrome.get(url)
    yield chrome
    assert console_errors(chrome) == []
    assert set(requested_urls(chrome)) == {url}


def css(page: Any, selector: str) -> list[Any]:
    return page.find_elements("css selector", selector)


def texts(page: Any, selector: str) -> list[str]:
    return [element.text for element in css(page, selector)]


def press(page: Any, *keys: str) -> None:
    from selenium.webdriver import ActionChains

    ActionChains(page).send_keys(*keys).perform()


def sort_by(page: Any, key: str) -> None:
    css(page, f"th[data-key={key}] button")[0].click()


def paths(page: Any) -> list[str]:
    return texts(page, "#rows .path")


BROKEN = HOSTILE.replace("/", "_")
BY_SCORE = ["e9.jpg", "left/d.jpg", "b.jpg", "e10.jpg", "a.jpg", "left/c.jpg", BROKEN]


@pytest.mark.slow
def test_browser_shows_names_as_texts(page: Any) -> None:
    assert texts(page, "h1") == [HOSTILE_CLASS]
    assert BROKEN in paths(page) and HOSTILE in texts(page, "td.error")
    assert page.execute_script("return document.images.length") == 0


@pytest.mark.slow
def test_browser_runs_nothing_but_the_script_of_the_page(page: Any) -> None:
    page.execute_script(
        "const script = document.createElement('script'); window.ran = false;"
        "try { script.text = 'window.ran = true'; document.body.append(script); } catch { }"
        "try { document.body.setAttribute('onclick', 'window.ran = true'); document.body.click(); } catch { }"
    )
    assert page.execute_script("return window.ran") is False
    assert any("Content Security Policy" in message or "Trusted" in message for message in console_errors(page))


@pytest.mark.slow
def test_browser_sorts(page: Any) -> None:
    assert paths(page) == BY_SCORE
    sort_by(page, "score")
    assert paths(page) == [*BY_SCORE[-2::-1], BROKEN]  # what has no score stays at the end
    assert css(page, "th[data-key=score]")[0].get_attribute("aria-sort") == "ascending"
    sort_by(page, "path")
    names = [name for name in paths(page) if name != BROKEN]
    assert names == ["a.jpg", "b.jpg", "e9.jpg", "e10.jpg", "left/c.jpg", "left/d.jpg"]
    sort_by(page, "verdict")
    assert texts(page, "#rows .chip") == [*["anomalous"] * 3, *["normal"] * 3, "unreadable"]
    sort_by(page, "error")
    assert paths(page)[0] == BROKEN


@pytest.mark.slow
def test_browser_filters(page: Any) -> None:
    from selenium.webdriver.common.keys import Keys

    buttons = {each.text.split()[0]: each for each in css(page, "#filters button") if each.is_displayed()}
    assert [each.text.split()[1] for each in buttons.values()] == ["7", "3", "3", "1"]
    buttons["Normal"].click()
    assert paths(page) == ["e10.jpg", "a.jpg", "left/c.jpg"]
    assert buttons["Normal"].get_attribute("aria-pressed") == "true"
    css(page, "#search")[0].send_keys("LEFT")
    assert paths(page) == ["left/c.jpg"] and texts(page, "#shown") == ["1 of 7 shown"]
    css(page, "#search")[0].send_keys("x")
    assert paths(page) == [] and texts(page, "#shown") == ["Nothing matches."]
    buttons["All"].click()
    css(page, "#search")[0].send_keys(Keys.CONTROL + "a", Keys.NULL, Keys.BACKSPACE)
    assert paths(page) == BY_SCORE


@pytest.mark.slow
def test_browser_moves_the_threshold(page: Any) -> None:
    from selenium.webdriver import ActionChains
    from selenium.webdriver.common.keys import Keys

    verdicts, line, number = css(page, "#verdicts")[0], css(page, "#line")[0], css(page, "#threshold")[0]
    assert verdicts.text.startswith("3 of 6 fail (50.0 %)") and css(page, "#reset")[0].is_enabled() is False
    histogram = css(page, "#histogram")[0]
    bars = histogram.find_elements("css selector", "rect.anomalous")
    assert len(bars) == 3
    # To the left of all: everything that has a score would fail
    grip = css(page, "#line .grip")[0]
    x = grip.rect["x"]
    ActionChains(page).click_and_hold(grip).move_by_offset(-50, 0).move_by_offset(70 - x, 0).release().perform()
    assert verdicts.text == "6 of 6 would fail (100.0 %); the run's was 0.450."
    assert texts(page, "#rows .chip") == [*["anomalous"] * 6, "unreadable"]
    assert float(line.get_attribute("aria-valuenow")) == float(number.get_attribute("value")) < 0.2
    # By keyboard, from where it is: the focus went along
    press(page, Keys.END)
    assert verdicts.text.startswith("0 of 6 would fail")
    before = float(line.get_attribute("aria-valuenow"))
    press(page, Keys.ARROW_LEFT, Keys.PAGE_DOWN)
    assert float(line.get_attribute("aria-valuenow")) == pytest.approx(before - 0.055)
    number.send_keys(Keys.CONTROL + "a", Keys.NULL, "0.6", Keys.ENTER)
    assert verdicts.text == "2 of 6 would fail (33.3 %); the run's was 0.450."
    assert line.get_attribute("aria-valuetext") == "0.600"
    css(page, "#filters .anomalous")[0].click()
    assert paths(page) == ["e9.jpg", "left/d.jpg"]
    css(page, "#reset")[0].click()
    assert verdicts.text.startswith("3 of 6 fail") and paths(page) == ["e9.jpg", "left/d.jpg", "b.jpg"]


@pytest.mark.slow
def test_browser_shows_a_photograph_under_its_map(page: Any) -> None:
    from selenium.webdriver.common.keys import Keys

    css(page, "#rows .path")[1].click()
    viewer = css(page, "#viewer")[0]
    assert viewer.is_displayed() and texts(page, "#viewer-title, #viewer-place") == ["left/d.jpg", "2 of 7"]
    assert texts(page, "#viewer-score, #viewer-verdict") == ["Score 0.700", "anomalous"]
    assert texts(page, "#regions li") == ["0.700\n400 px"]
    loaded = "return ['photograph', 'map'].map((id) => document.getElementById(id).getAttribute('href').slice(0, 23))"
    assert page.execute_script(loaded) == ["data:image/jpeg;base64,"] * 2
    assert page.execute_script("return document.querySelector('#outlines path').getBBox().width") == 20
    # The slider, by keyboard, does not turn the page
    slider, anomaly_map = css(page, "#opacity")[0], css(page, "#map")[0]
    assert anomaly_map.get_attribute("opacity") == "0.7"
    slider.send_keys(Keys.ARROW_LEFT, Keys.ARROW_LEFT)
    assert anomaly_map.get_attribute("opacity") == "0.68" and texts(page, "#viewer-place") == ["2 of 7"]
    slider.send_keys(Keys.HOME)
    assert anomaly_map.get_attribute("opacity") == "0" and texts(page, "#opacity-value") == ["0 %"]


@pytest.mark.slow
def test_browser_leafs_by_keyboard(page: Any) -> None:
    from selenium.webdriver.common.keys import Keys

    css(page, "#rows .path")[0].send_keys(Keys.ENTER)
    assert css(page, "#previous")[0].is_enabled() is False
    press(page, Keys.ARROW_LEFT, Keys.ARROW_RIGHT, Keys.ARROW_RIGHT)
    assert texts(page, "#viewer-title, #viewer-place") == ["b.jpg", "3 of 7"]
    state = "return ['map', 'outlines', 'boxes'].map((id) => document.getElementById(id))"
    state += ".map((each) => each.getAttribute('opacity') ?? each.getAttribute('visibility'))"
    assert page.execute_script(state) == ["0.7", "visible", "hidden"]
    press(page, "m", "o", "b")
    assert page.execute_script(state) == ["0", "hidden", "visible"]
    press(page, "m")
    assert page.execute_script(state) == ["0.7", "hidden", "visible"]
    press(page, *[Keys.ARROW_RIGHT] * 9)
    assert texts(page, "#viewer-title, #missing") == [BROKEN, HOSTILE]  # the last one, with its reason
    assert css(page, "#next")[0].is_enabled() is False and not css(page, "#stage")[0].is_displayed()
    press(page, Keys.ESCAPE)
    assert not css(page, "#viewer")[0].is_displayed()
    assert page.switch_to.active_element.text == BROKEN  # the focus is where one had come to


@pytest.mark.slow
def test_browser_shows_names_of_defects(chrome: Any, tmp_path: Path) -> None:
    folder = a_run(tmp_path, [a_row(name, score, 0.45) for name, score in SCORES.items()])
    named = {"b.jpg": ("scratch", False), "left/d.jpg": (HOSTILE, True), "e9.jpg": ("hole", True)}
    chrome.get(write_report(name_defects(folder, named)).as_uri())
    assert texts(chrome, "#rows .defects") == ["hole (guess)", f"{HOSTILE} (guess)", "scratch", "–", "–", "–"]
    sort_by(chrome, "defects")
    assert paths(chrome)[:3] == ["left/d.jpg", "e9.jpg", "b.jpg"]  # what has none stays at the end
    css(chrome, "#search")[0].send_keys("Scratch")
    assert paths(chrome) == ["b.jpg"]
    css(chrome, "#rows .path")[0].click()
    assert texts(chrome, "#regions li") == ["0.500\nscratch\n400 px"]
    assert console_errors(chrome) == []


@pytest.mark.slow
def test_browser_without_a_threshold_or_pictures(chrome: Any, tmp_path: Path) -> None:
    rows = [a_row("a.jpg", 0.25, None), a_row("b.jpg", 0.75, None)]
    chrome.get(write_report(a_run(tmp_path, rows, pictures=False)).as_uri())
    assert texts(chrome, "#rows .chip") == ["unjudged", "unjudged"]
    assert "No decision threshold is known" in texts(chrome, "#verdicts")[0]
    css(chrome, "#line .grip")[0].click()
    press(chrome, *["\ue00e"] * 4)  # page up raises it: nothing is above
    assert texts(chrome, "#verdicts")[0].startswith("0 of 2 would fail")
    css(chrome, "#rows .path")[0].click()
    assert texts(chrome, "#missing") == ["The run has kept no preview of this photograph."]
    assert console_errors(chrome) == []


@pytest.mark.slow
@pytest.mark.parametrize("rows", [[], [a_row("a.jpg", None, error="cut")]], ids=["none", "broken"])
def test_browser_with_nothing_to_show(chrome: Any, tmp_path: Path, rows: list[dict[str, Any]]) -> None:
    chrome.get(write_report(a_run(tmp_path, rows)).as_uri())
    assert texts(chrome, "#verdicts") == ["No photograph could be read."] and len(paths(chrome)) == len(rows)
    assert console_errors(chrome) == []


@pytest.mark.slow
def test_browser_makes_rows_and_pictures_as_one_scrolls(chrome: Any, tmp_path: Path) -> None:
    chrome.get(write_report(a_run(tmp_path, [a_row(f"{number:04d}.jpg", 0.5) for number in range(1000)])).as_uri())
    pictures = "return document.querySelectorAll('#rows image[href]').length"
    wait = "setTimeout(arguments[0], 400)"
    chrome.execute_async_script(wait)
    first, shown = len(css(chrome, "#rows tr")), chrome.execute_script(pictures)
    assert 60 <= first < 200 and 0 < shown < 2 * first
    chrome.execute_script("scrollTo(0, document.body.scrollHeight)")
    chrome.execute_async_script(wait)
    assert len(css(chrome, "#rows tr")) > first and chrome.execute_script(pictures) < 100
    chrome.execute_script("dispatchEvent(new Event('beforeprint'))")
    assert len(css(chrome, "#rows tr")) == 1000
