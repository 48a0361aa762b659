# SPDX-FileCopyrightText: 2026 The clipsam_hf authors
# SPDX-License-Identifier: Apache-2.0
"""Makes the picture of docs/how-to/app.md: `python docs/images/app.py`, with gradio, Chromium and selenium.

The photographs are generated, see report.py. What the page shows of them is what the embedded checkpoint says.
"""

import io
import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image
from report import draw_washer


ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT / "examples"), str(ROOT / "tests")]


def main() -> None:
    from app import PAGE, Inspector, build  # type: ignore[attr-defined]
    from browser import open_browser
    from test_app import Page

    from clipsam_hf.cli.options import load_model

    model, processor, _ = load_model(None)
    page = build(Inspector(model, processor))
    _, url, _ = page.queue().launch(prevent_thread_lock=True, quiet=True, **PAGE)
    rng = np.random.default_rng(2)
    with tempfile.TemporaryDirectory() as workspace:
        paths = [Path(workspace) / f"washer-{number}.jpg" for number in range(9)]
        for number, path in enumerate(paths):
            draw_washer(rng, "stain" if number == 0 else None).save(path, quality=92)
        with open_browser(Path(workspace) / "profile", size=(1240, 1010)) as chrome:
            user = Page(chrome, url)
            user.upload(paths[0])
            user.upload(*paths[1:], several=True)
            user.write_class_name("washer")
            user.inspect()
            user.until_verdict("decision threshold, 0.")
            user.until(lambda: user.find(".picture img"))
            chrome.execute_async_script("setTimeout(arguments[0], 2000)")
            picture = Image.open(io.BytesIO(chrome.get_screenshot_as_png())).convert("RGB")
    picture.save(Path(__file__).with_name("app.webp"), quality=88, method=6)
    page.close()


if __name__ == "__main__":
    main()
