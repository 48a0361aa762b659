# SPDX-FileCopyrightText: 2026 The clipsam_hf authors
# SPDX-License-Identifier: Apache-2.0
"""A web page for this machine: a photograph in; score, verdict, map, regions and files out.

    pip install "clipsam_hf[app]"
    python examples/app.py                              # http://127.0.0.1:7860, with the model inside the package
    python examples/app.py --model my-clipsam --port 8000
    python examples/app.py --clip openai/clip-vit-large-patch14-336 --sam facebook/sam-vit-huge

The model runs when "Inspect" is pressed. What its map means is worked out anew when a threshold or the opacity moves.
Nothing leaves the machine: no share link, no analytics, no fonts from elsewhere.
"""

import argparse
import html
import json
import os
import tempfile
import time
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image

from clipsam_hf import ClipSamReferences, overlay
from clipsam_hf.answers_clipsam import make_answer
from clipsam_hf.cli.options import load_model
from clipsam_hf.image_loading import load_rgb
from clipsam_hf.inference_clipsam import ClipSamInference, Prediction
from clipsam_hf.prediction.results import make_row


# gradio reads both at its import; what is uploaded and made lies in a folder that only this user reads, until the end
FOLDER = tempfile.TemporaryDirectory(prefix="clipsam-app-")
os.environ |= {"GRADIO_ANALYTICS_ENABLED": "False", "GRADIO_TEMP_DIR": FOLDER.name}
try:
    import gradio as gr
except ImportError as error:
    raise SystemExit("app.py needs gradio: pip install 'clipsam_hf[app]'") from error

MAP, DECISION = "Threshold of the map", "Decision threshold"
EDGES = ("xmin", "ymin", "xmax", "ymax")
SCREEN = 1200  # longer side, in pixels, of what is shown; files have the photograph's own size
STYLE = """
.verdict { border-left: 6px solid var(--body-text-color-subdued); padding: 2px 16px; }
.verdict.anomalous { border-color: #d92d20; } .verdict.normal { border-color: #079455; }
.verdict h2 { margin: 0; } .verdict p { margin: 2px 0; }
"""
# Fonts of the system, no links to others, no record of what was looked at
PAGE: dict[str, Any] = {
    "theme": gr.themes.Default(font=["system-ui", "sans-serif"], font_mono=["monospace"]),
    "css": STYLE,
    "share": False,
    "footer_links": [],
    "run_history": False,
    "max_file_size": "100mb",
}


class Look(NamedTuple):
    """What the model has said of a photograph; it is kept for as long as the page is open."""

    name: str
    screen: Image.Image
    prediction: Prediction
    references: ClipSamReferences | None
    refine: bool
    seconds: float


class Inspector:
    """A model, and what the page asks of it."""

    def __init__(self, model: Any, processor: Any) -> None:
        self.inference = ClipSamInference(model.eval(), processor)
        # gradio keeps an uploaded file under its checksum, so equal paths are equal photographs
        self.make_references = lru_cache(maxsize=8)(self._make_references)

    def _make_references(self, paths: tuple[str, ...], class_name: str) -> ClipSamReferences:
        model, processor = self.inference.model, self.inference.processor
        return ClipSamReferences.from_images(model, processor, paths, class_name=class_name)

    def look(self, photo: Any, class_name: str, good: Any, refine: bool, progress: Any = gr.Progress()) -> Look:  # noqa: B008
        """Run the model; what is wrong with the input becomes a message on the page."""
        if photo is None:
            raise gr.Error("Choose a photograph first.", duration=None, print_exception=False)
        names = {file["path"]: file["orig_name"] or Path(file["path"]).name for file in [photo, *(good or [])]}
        start = time.perf_counter()
        try:
            progress(0.1, desc="Reading the photograph")
            screen = load_rgb(photo["path"])
            prepared = self.inference.prepare(screen, class_name, refine=refine, tile="auto")
            references = None
            if good:
                progress(0.2, desc="Describing the good photographs")
                references = self.make_references(tuple(sorted(file["path"] for file in good)), prepared.class_name)
            progress(0.5, desc="Looking for defects")
            (prediction,) = self.inference.predict([prepared], references)
        except (OSError, TypeError, ValueError) as error:
            message = str(error)
            for path, name in names.items():
                message = message.replace(path, name)
            raise gr.Error(html.escape(message), duration=None, print_exception=False) from error
        screen.thumbnail((SCREEN, SCREEN))
        return Look(names[photo["path"]], screen, prediction, references, refine, time.perf_counter() - start)

    def judge(self, look: Look | None, by_hand: Sequence[str], threshold: float, decision: float) -> list[Any]:
        """Read a map: its row, as `clipsam predict` writes it, the thresholds that were used, and mask and map."""
        if look is None:
            return [gr.skip()] * 6
        answer = make_answer(
            self.inference.model.config,
            look.prediction,
            refine=look.refine,
            threshold=threshold if MAP in by_hand else None,
            decision_threshold=decision if DECISION in by_hand else None,
            references=look.references,
            outlines=True,
        )
        row = make_row(look.name, look.prediction.size, answer)
        used = [answer.threshold, decision if answer.decision_threshold is None else answer.decision_threshold]
        stem = Path(tempfile.mkdtemp(dir=FOLDER.name), Path(look.name).stem)
        mask, map_, result = (stem.with_name(f"{stem.name}.{end}") for end in ("mask.png", "map.png", "json"))
        Image.fromarray(answer.mask.astype(np.uint8) * np.uint8(255)).save(mask, compress_level=1)
        Image.fromarray((answer.anomaly_map * 65535).round().astype(np.uint16)).save(map_, compress_level=1)
        result.write_text(json.dumps(row))
        return [row, *(round(each, 3) for each in used), str(mask), str(map_), str(result)]


def show(look: Look | None, row: dict[str, Any] | None, opacity: float) -> list[Any]:
    """Show a row: the verdict in words, the map over the photograph, and the regions."""
    if look is None or row is None:
        return [gr.skip()] * 3
    anomaly_map = look.prediction.resized(size=look.screen.size[::-1])
    named = {name: row[name] for name in ("score", "label", "regions")}
    picture = overlay(look.screen, anomaly_map, alpha=opacity, size=look.prediction.size, **named)
    table = [
        [number, round(each["score"], 3), each["area"], *(each["box"][edge] for edge in EDGES)]
        for number, each in enumerate(row["regions"], start=1)
    ]
    return [describe(look, row), picture, table]


def describe(look: Look, row: dict[str, Any]) -> str:
    """Say the verdict, why, and, where there is none, what to do."""
    score, decision, count = row["score"], row["decision_threshold"], len(row["regions"])
    if decision is None:
        why = (
            "No threshold is known."
            if look.references is None
            else "One good photograph does not tell how they differ."
        )
        why += " Add good photographs, two at least, or set the decision threshold by hand."
    else:
        why = f"It is {'above' if score > decision else 'not above'} the decision threshold, {decision:.3f}"
        why += ", but no pixel is above that of the map." if score > decision and not count else "."
    details = f"{look.name}, {row['width']} x {row['height']} pixels, {look.seconds:.1f} s"
    return (
        f'<div class="verdict {row["label"]}"><h2>{(row["label"] or "no verdict").capitalize()}</h2><p>The score is'
        f" <b>{score:.3f}</b>, with {count} region{'s' * (count != 1)}. {why}</p><p>{html.escape(details)}</p></div>"
    )


def build(inspector: Inspector) -> gr.Blocks:
    """Lay out the page and say what happens when."""
    with gr.Blocks(title="ClipSAM", analytics_enabled=False, delete_cache=(600, 7200)) as page:
        gr.Markdown("# ClipSAM\nWhat is damaged? A photograph, a word for what it shows, and a few good photographs.")
        look, row = gr.State(time_to_live=7200), gr.State(time_to_live=7200)
        with gr.Row():
            with gr.Column(scale=2):
                photo = gr.Image(label="Photograph", sources=["upload", "clipboard"], type="filepath", height=300)
                class_name = gr.Textbox(label="What it shows", placeholder="candle", max_lines=1)
                good = gr.Files(label="Good photographs of the same (optional)", file_types=["image"], height=170)
                refine = gr.Checkbox(True, label="Refine the outlines with SAM, which takes longer")
                button = gr.Button("Inspect", variant="primary")
                by_hand = gr.CheckboxGroup([MAP, DECISION], label="Thresholds set by hand")
                threshold = gr.Slider(0, 1, 0.5, step=0.001, label=MAP, interactive=False, buttons=[])
                decision = gr.Slider(0, 1, 0.5, step=0.001, label=DECISION, interactive=False, buttons=[])
            with gr.Column(scale=3):
                verdict = gr.HTML('<div class="verdict"><p>The verdict will stand here.</p></div>')
                picture = gr.Image(
                    elem_classes="picture",
                    label="Map",
                    format="jpeg",
                    interactive=False,
                    height=480,
                    buttons=["fullscreen"],
                )
                opacity = gr.Slider(0, 1, 0.7, step=0.05, label="Opacity of the map", buttons=[])
                headers = ["region", "score", "pixels", *EDGES]
                table = gr.Dataframe(headers=headers, label="Regions", interactive=False, max_height=220, buttons=[])
                with gr.Row():
                    files = [gr.DownloadButton(label) for label in ("Mask, PNG", "Map, 16 bits", "Result, JSON")]
        chosen, judged = [look, by_hand, threshold, decision], [row, threshold, decision, *files]
        shown: dict[str, Any] = {"inputs": [look, row, opacity], "outputs": [verdict, picture, table]}
        # Raw values: a file that is no photograph is refused by `look`, in its words
        given = [photo, class_name, good, refine]
        looked = button.click(inspector.look, given, look, preprocess=False, show_progress_on=[picture])
        looked.success(inspector.judge, chosen, judged).success(show, **shown)
        live: dict[str, Any] = {"show_progress": "hidden", "trigger_mode": "always_last"}
        moved = gr.on([threshold.input, decision.input], inspector.judge, chosen, judged, **live)
        moved.success(show, **shown, show_progress="hidden")
        free = by_hand.input(
            lambda names: [gr.Slider(interactive=each in names) for each in (MAP, DECISION)], by_hand, judged[1:3]
        )
        free.success(inspector.judge, chosen, judged).success(show, **shown)
        opacity.input(show, **shown, **live)
    return page


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="A web page for this machine that finds defects in photographs.")
    parser.add_argument("--model", help="folder or name of a ClipSAM model; default: the one inside the package")
    parser.add_argument("--clip", help="with --sam: a bare CLIP")
    parser.add_argument("--sam", help="with --clip: the SAM that refines its maps")
    parser.add_argument("--host", default="127.0.0.1", help="0.0.0.0 lets other machines in (default: %(default)s)")
    parser.add_argument("--port", type=int, default=7860, help="default: %(default)s")
    args = parser.parse_args(arguments)
    try:
        model, processor, _ = load_model(args.model, clip=args.clip, sam=args.sam)
        torch.nn.Module.to(model, "cuda" if torch.cuda.is_available() else "cpu")
        page = build(Inspector(model, processor))
        # One look at a time: more would only share the same processor
        page.queue(max_size=20, default_concurrency_limit=1)
        page.launch(server_name=args.host, server_port=args.port, **PAGE)
    except (OSError, ValueError) as error:
        parser.error(" ".join(str(error).split()))


if __name__ == "__main__":
    main()
