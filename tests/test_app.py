# SPDX-FileCopyrightText: 2026 The clipsam_hf authors
# SPDX-License-Identifier: Apache-2.0
"""The web page, as its user sees it: in a real browser. Skipped without gradio or Chromium."""

import json
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from browser import console_errors, find_browser, open_browser, requested_urls
from PIL import Image

from clipsam_hf import ClipSamForAnomalySegmentation, ClipSamProcessor, ClipSamReferences
from clipsam_hf.prediction import predict_folder


pytestmark = [
    pytest.mark.timeout(300),  # a browser on a busy machine
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # those of gradio's own libraries
    pytest.mark.filterwarnings("ignore:.*regions are above the threshold"),
]


class Page:
    """What a user does on the page."""

    def __init__(self, chrome: Any, url: str) -> None:
        self.chrome = chrome
        chrome.get(url)
        self.until(lambda: len(self.find("input[type=file]")) >= 2 and self.find("button.primary"))

    def until(self, check: Callable[[], Any]) -> Any:
        from selenium.common.exceptions import StaleElementReferenceException
        from selenium.webdriver.support.ui import WebDriverWait

        ignored = [StaleElementReferenceException]
        return WebDriverWait(self.chrome, 200, 0.1, ignored).until(lambda _: check())

    def find(self, selector: str) -> list[Any]:
        found: list[Any] = self.chrome.find_elements("css selector", selector)
        return found

    def upload(self, *paths: Path, several: bool = False) -> None:
        """Chooses files, and waits until the server has them."""
        fields = [each for each in self.find("input[type=file]") if bool(each.get_attribute("multiple")) == several]
        fields[0].send_keys("\n".join(map(str, paths)))
        shown = ".file-preview .filename" if several else "[data-testid=image] img, .image-container img"
        self.until(lambda: self.find(shown))

    def write_class_name(self, name: str) -> None:
        (field,) = self.find("[placeholder=candle]")
        field.clear()
        field.send_keys(name)

    def inspect(self) -> None:
        self.find("button.primary")[0].click()

    @property
    def verdict(self) -> str:
        return str(self.find(".verdict")[0].text)

    def until_verdict(self, *texts: str) -> str:
        """Waits until the verdict has these texts."""
        self.until(lambda: all(text in self.verdict for text in texts))
        return self.verdict

    def read_message(self) -> str:
        """Waits for a message, and closes it."""
        # While it fades in it has no text yet
        text = str(self.until(lambda: "".join(each.text for each in self.find("[data-testid=toast-body]"))))
        self.find(".toast-close")[0].click()
        self.until(lambda: not self.find("[data-testid=toast-body]"))
        return text

    def slide(self, label: str, key: str) -> None:
        """Moves a slider by a key."""
        (slider,) = self.find(f"input[type=range][aria-label*='{label}']")
        self.until(slider.is_enabled)
        slider.send_keys(key)

    def tick(self, label: str) -> None:
        """Ticks a box, or clears it."""
        next(each for each in self.find("label") if each.text.strip() == label).click()

    def read_cell(self, row: int, column: int) -> str:
        """What the table of regions says."""
        return "".join(each.text.strip() for each in self.find(f"[data-testid='cell-{row}-{column}']"))

    @property
    def picture(self) -> str:
        return str(self.find(".picture img")[0].get_attribute("src"))

    def download(self, label: str, folder: Path) -> Path:
        """Presses a button and waits for its file, the only one in the folder."""
        self.chrome.execute_cdp_cmd(
            "Browser.setDownloadBehavior", {"behavior": "allow", "downloadPath": str(folder), "eventsEnabled": False}
        )
        (button,) = [each for each in self.find("button, a") if label in each.text]
        button.click()
        (path,) = self.until(lambda: [each for each in folder.glob("*") if each.suffix in (".png", ".json")])
        return Path(path)


@pytest.fixture
def app() -> Any:
    """The module of the page."""
    if not os.environ.get("CLIPSAM_REQUIRE_EXTRAS"):
        pytest.importorskip("gradio", reason="needs clipsam_hf[app]")
    import app

    return app


@pytest.fixture
def served(app: Any, tiny_checkpoint: Path) -> Iterator[tuple[str, dict[str, int]]]:
    """The page's address, and how often the model has run and references were made."""
    find_browser()
    model = ClipSamForAnomalySegmentation.from_pretrained(tiny_checkpoint)
    inspector = app.Inspector(model, ClipSamProcessor.from_pretrained(tiny_checkpoint))
    counts = {"looks": 0, "references": 0}

    def count(name: str, function: Any) -> Any:
        def counted(*args: Any, **kwargs: Any) -> Any:
            counts[name] += 1
            return function(*args, **kwargs)

        return counted

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(inspector.inference, "predict", count("looks", inspector.inference.predict))
        patch.setattr(ClipSamReferences, "from_images", count("references", ClipSamReferences.from_images))
        page = app.build(inspector)
        page.queue(max_size=20, default_concurrency_limit=1)
        _, url, _ = page.launch(prevent_thread_lock=True, quiet=True, **app.PAGE)
        yield url, counts
        page.close()


def write_photographs(folder: Path, count: int) -> list[Path]:
    rng = np.random.default_rng(0)
    paths = [folder / f"part-{number}.png" for number in range(count)]
    for path in paths:
        Image.fromarray(rng.integers(0, 256, (48, 64, 3), dtype=np.uint8)).save(path)
    return paths


def test_page_shows_what_the_folder_command_writes(
    served: tuple[str, dict[str, int]], tiny_checkpoint: Path, tmp_path: Path
) -> None:
    url, counts = served
    photograph, *good = write_photographs(tmp_path, 3)
    with open_browser(tmp_path / "profile") as chrome:
        page = Page(chrome, url)
        page.upload(photograph)
        page.write_class_name("candle")
        page.inspect()
        verdict = page.until_verdict("No verdict", "part-0.png, 64 x 48 pixels", "two at least")
        page.until(lambda: page.find(".picture img"))

        # Files, score and table are those of `clipsam predict`
        model = ClipSamForAnomalySegmentation.from_pretrained(tiny_checkpoint)
        processor = ClipSamProcessor.from_pretrained(tiny_checkpoint)
        save = ("mask", "map")
        predicted = predict_folder(model, processor, photograph, tmp_path / "out", class_name="candle", save=save)
        assert predicted is not None
        (row,) = predicted.rows()
        assert json.loads(page.download("JSON", tmp_path / "json").read_text()) == row
        for label, kind in (("Mask", "mask"), ("Map", "map")):
            files = page.download(label, tmp_path / kind), tmp_path / f"out/{kind}/part-0.png.png"
            np.testing.assert_array_equal(*(np.asarray(Image.open(file)) for file in files))
        assert f"{row['score']:.3f}" in verdict and f"{len(row['regions'])} region" in verdict

        # Opacity and thresholds do not run the model again
        from selenium.webdriver.common.keys import Keys

        before = page.picture
        page.slide("Opacity", Keys.END)
        page.until(lambda: page.picture != before)
        page.tick("Threshold of the map")
        page.slide("Threshold of the map", Keys.HOME)
        page.until_verdict("1 region")
        page.until(lambda: page.read_cell(0, 5) == "64" and page.read_cell(0, 6) == "48")
        page.tick("Decision threshold")
        page.slide("Decision threshold", Keys.END)
        page.until_verdict("Normal", "not above the decision threshold, 1.000", "0 regions")
        page.slide("Decision threshold", Keys.HOME)
        page.until_verdict("Anomalous", "above the decision threshold, 0.000")
        page.tick("Decision threshold")
        page.until_verdict("No verdict", "1 region")
        assert counts == {"looks": 1, "references": 0}

        # Good photographs bring a threshold, and are described once
        page.upload(*good, several=True)
        page.inspect()
        page.until_verdict("the decision threshold, 0.")
        page.write_class_name("candle ")
        page.inspect()
        page.until(lambda: counts["looks"] == 3)
        assert counts["references"] == 1

        assert [asked for asked in requested_urls(chrome) if not asked.startswith(url)] == []
        assert [each for each in console_errors(chrome) if "Method not implemented" not in each] == []


def test_page_says_what_is_wrong_with_its_input(served: tuple[str, dict[str, int]], tmp_path: Path) -> None:
    url, counts = served
    (photograph,) = write_photographs(tmp_path, 1)
    broken = tmp_path / "<b>broken.png"
    broken.write_bytes(photograph.read_bytes()[:60])
    with open_browser(tmp_path / "profile") as chrome:
        page = Page(chrome, url)
        page.inspect()
        assert "Choose a photograph first" in page.read_message()
        page.upload(photograph)
        page.inspect()
        assert "class name must not be empty" in page.read_message()
        page.write_class_name("candle")
        page.upload(broken, several=True)
        page.inspect()
        message = page.read_message()
        assert "'<b>broken.png'" in message
        assert str(Path.home()) not in message and "/tmp/" not in message
    assert counts["looks"] == 0


def test_two_users_do_not_meet(served: tuple[str, dict[str, int]], tmp_path: Path) -> None:
    url, _ = served
    photographs = write_photographs(tmp_path, 2)
    with open_browser(tmp_path / "one") as first, open_browser(tmp_path / "two") as second:
        pages = [Page(first, url), Page(second, url)]
        for page, photograph in zip(pages, photographs, strict=True):
            page.upload(photograph)
            page.write_class_name("candle")
        for page in pages:
            page.inspect()
        verdicts = [page.until_verdict(photo.name) for page, photo in zip(pages, photographs, strict=True)]
    assert verdicts[0] != verdicts[1]


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [(["--clip", "a"], "--clip and --sam belong together"), (["--model", "no/such"], "no/such")],
)
def test_what_cannot_be_loaded_is_one_sentence(
    app: Any, arguments: list[str], reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as raised:
        app.main(arguments)
    assert raised.value.code == 2
    assert reason in capsys.readouterr().err.splitlines()[-1]


def test_without_gradio_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gradio", None)
    monkeypatch.delitem(sys.modules, "app", raising=False)
    with pytest.raises(SystemExit, match=r"pip install 'clipsam_hf\[app\]'"):
        import app  # noqa: F401
    monkeypatch.delitem(sys.modules, "app", raising=False)
