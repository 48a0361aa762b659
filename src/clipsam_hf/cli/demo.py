# SPDX-FileCopyrightText: 2026 The clipsam_hf authors
# SPDX-License-Identifier: Apache-2.0
"""`clipsam demo`."""

from pathlib import Path
from typing import Annotated

import typer
from typer import Argument, Option

from .options import DeviceOption, ModelOption, RevisionOption, explained_errors, load_model


def demo(
    photo: Annotated[Path | None, Argument(metavar="PHOTO", help="By default bricks with a crack, drawn.")] = None,
    class_name: Annotated[str | None, Option(help="What the photograph shows; without it an object.")] = None,
    output: Annotated[Path, Option(metavar="FILE", help="Picture to write.")] = Path("clipsam-demo.png"),
    model: ModelOption = None,
    revision: RevisionOption = None,
    device: DeviceOption = None,
) -> None:  # fmt: skip
    """Find the defect on one photograph, and draw the maps of CLIP and SAM side by side."""
    from ..demo import SAMPLE_NAME, check_picture, draw_crack, sample_photograph, show
    from ..evaluation.processes import choose_device
    from ..image_loading import load_rgb
    from ..pipeline_clipsam import ZeroShotAnomalySegmentationPipeline
    from ..processing_clipsam import check_class_name

    with explained_errors(of_input=True):
        check_picture(output)
        truth = None
        if photo is None:
            photograph, truth = draw_crack(sample_photograph())
        else:
            photograph = load_rgb(photo)
        if class_name is None:
            class_name = "object" if photo else SAMPLE_NAME
        check_class_name(class_name)
        chosen_device = choose_device(device)
        network, processor, _ = load_model(model, revision)
        network.check_trained()
    segmenter = ZeroShotAnomalySegmentationPipeline(model=network, processor=processor, device=chosen_device)
    name = photo or "bricks with a drawn crack"
    typer.echo(f"{name}: {photograph.height}x{photograph.width} (height x width), {class_name!r}, on {chosen_device}")
    text, picture = show(segmenter, photograph, class_name=class_name, truth=truth)
    typer.echo(text)
    with explained_errors():
        picture.save(output)
    typer.echo(f"written to {output}", err=True)
