# SPDX-FileCopyrightText: 2026 The clipsam_hf authors
# SPDX-License-Identifier: Apache-2.0
"""A real Chromium without a window, for tests of pages.

Tests are skipped where Chromium, its driver or selenium is missing, unless CLIPSAM_REQUIRE_BROWSER is set, as
continuous integration does: then that is a failure.
"""

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest


# Nothing but this machine is reached, and nothing is asked for in the background
FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--force-device-scale-factor=1",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE localhost, EXCLUDE 127.0.0.1",
)


def find_browser() -> tuple[str, str]:
    """Returns the paths of Chromium and its driver; skips the test, or fails it, where one is missing."""
    names = ("chromium", "chromium-browser", "google-chrome")
    browser = next((path for name in names if (path := shutil.which(name))), None)
    driver = shutil.which("chromedriver")
    if browser and driver and find_spec("selenium"):
        return browser, driver
    reason = "needs selenium, and Debian's chromium and chromium-driver or the like"
    if os.environ.get("CLIPSAM_REQUIRE_BROWSER"):
        pytest.fail(reason)
    pytest.skip(reason)


@contextmanager
def open_browser(profile: Path, *, size: tuple[int, int] = (1280, 900), dark: bool = False) -> Iterator[Any]:
    """Starts a browser and ends it with the block.

    Args:
        profile (`Path`): a new folder, for its profile.
        size (`tuple[int, int]`): (width, height) of the page, in pixels.
        dark (`bool`): whether it prefers dark pages.

    Returns:
        `ContextManager[selenium.webdriver.Chrome]`: with the logs that `console_errors` and `requested_urls` read.
    """
    browser, driver = find_browser()
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = browser
    for flag in (*FLAGS, f"--user-data-dir={profile}", "about:blank"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    chrome = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    try:
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        chrome.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})
        metrics = {"width": size[0], "height": size[1], "deviceScaleFactor": 1, "mobile": False}
        chrome.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        yield chrome
    finally:
        chrome.quit()


def console_errors(chrome: Any) -> list[str]:
    """Returns what the page complained of since the last call, blocked requests and exceptions among it."""
    return [entry["message"] for entry in chrome.get_log("browser") if entry["level"] in ("SEVERE", "WARNING")]


def requested_urls(chrome: Any) -> list[str]:
    """Returns the addresses that were requested since the last call, without the page's own data and the browser's."""
    messages = [json.loads(entry["message"])["message"] for entry in chrome.get_log("performance")]
    urls = [each["params"]["request"]["url"] for each in messages if each["method"] == "Network.requestWillBeSent"]
    return [url for url in urls if not url.startswith(("data:", "blob:", "chrome:", "chrome-untrusted:", "about:"))]
