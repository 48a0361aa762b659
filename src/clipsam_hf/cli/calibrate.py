# SPDX-FileCopyrightText: 2026 The clipsam_hf authors
# SPDX-License-Identifier: Apache-2.0
"""`clipsam calibrate`."""

from pathlib import Path
from typing import Annotated

import typer
from typer import Argument, Option

from .options import (
    ClipOption,
    DeviceOption,
    DtypeOption,
    ModelOption,
    RevisionOption,
    SamOption,
    TileOption,
    check_roi,
    explained_errors,
    load_model,
    parse_tile,
)


def calibrate(
    folder: Annotated[Path, Argument(metavar="FOLDER", help="Photographs of good parts, sub-folders included.")],
    class_name: Annotated[str, Option(help="What the photographs show.")],
    output: Annotated[Path, Option(metavar="LINE", help="Folder for the result: what `references=` takes.")],
    model: ModelOption = None,
    revision: RevisionOption = None,
    clip: ClipOption = None,
    sam: SamOption = None,
    roi: Annotated[Path | None, Option(metavar="MASK", help="Image that is not black where to look.")] = None,
    tile: TileOption = "auto",
    rotations: Annotated[bool, Option("--rotations", help="Parts lie in any direction.")] = False,
    quantile: Annotated[float, Option(help="Of the good scores, for the threshold; 1 is the highest.")] = 1.0,
    max_patches: Annotated[int, Option(min=1, help="At most so many patches are kept.")] = 16384,
    seed: Annotated[int, Option(min=0, help="Of the choice of these patches.")] = 0,
    defective: Annotated[
        Path | None, Option(metavar="FOLDER", help="Defective photographs: how many does it find?")
    ] = None,
    device: DeviceOption = None,
    dtype: DtypeOption = None,
    overwrite: Annotated[bool, Option("--overwrite", help="Replace the references in LINE.")] = False,
) -> None:  # fmt: skip
    """Make references and a threshold for a production line of good photographs; no masks, no defects needed."""
    import torch

    from ..evaluation.output import check_writable
    from ..evaluation.processes import choose_device
    from ..gallery_clipsam import check_quantile
    from ..image_loading import find_photographs
    from ..lines import check_line, score_photographs, to_text
    from ..processing_clipsam import check_class_name
    from ..references_clipsam import ClipSamReferences
    from ..tiling_clipsam import check_tile

    with explained_errors(of_input=True):
        check_class_name(class_name)
        check_quantile(quantile)
        for photographs in (folder, *([] if defective is None else [defective])):
            find_photographs(photographs)
        check_roi(roi)
        chosen_tile = parse_tile(tile)
        check_tile(chosen_tile)
        check_writable("output", output)
        check_line(output, overwrite=overwrite)
        chosen_device = choose_device(device)
        network, processor, _ = load_model(model, revision, clip, sam, dtype=dtype)
    with explained_errors():
        torch.nn.Module.to(network, chosen_device).eval()  # `PreTrainedModel.to` is not typed
        references = ClipSamReferences.from_images(
            network,
            processor,
            folder,
            class_name=class_name,
            roi_mask=roi,
            tile=chosen_tile,
            rotations=rotations,
            max_patches=max_patches,
            quantile=quantile,
            seed=seed,
            show_progress=True,
        )
        scored = None
        if defective is not None:
            scored = score_photographs(network, processor, references, defective, show_progress=True)
        references.save_pretrained(output)
    typer.echo(to_text(references, scored), nl=False)
    typer.echo(f"written to {output}; it is what `references=` of the pipeline takes", err=True)
