# SPDX-FileCopyrightText: 2026 The clipsam_hf authors
# SPDX-License-Identifier: Apache-2.0
"""`clipsam predict`."""

import errno
import os
from pathlib import Path
from typing import Annotated, Any

import typer
from typer import Argument, Option

from .options import (
    BatchSizeOption,
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
    parse_list,
    parse_tile,
)


# The names in `prediction`, whose import takes seconds
KINDS = ("overlay", "heatmap", "mask", "map")
FORMATS = ("csv", "jsonl", "parquet")
EXPORTS = ("coco", "labelme")

GOES_ON = "the same command with --resume, without --overwrite, goes on from here"


def predict(
    source: Annotated[Path, Argument(metavar="IMAGE_OR_FOLDER", help="Photograph, or folder with its sub-folders.")],
    output: Annotated[Path, Option(metavar="DIR", help="Folder of the results.")],
    class_name: Annotated[str | None, Option(help="What the photographs show; a calibrated line knows it.")] = None,
    references: Annotated[
        str | None, Option(metavar="DIR_OR_FILE", help="Good photographs, or what `clipsam calibrate` made of them.")
    ] = None,
    mutual: Annotated[bool, Option("--mutual", help="Compare the photographs with each other.")] = False,
    roi: Annotated[Path | None, Option(metavar="MASK", help="Image that is not black where to look.")] = None,
    tile: TileOption = "auto",
    refine: Annotated[bool, Option(help="Whether SAM refines CLIP's maps.")] = True,
    threshold: Annotated[float | None, Option(help="Of the map, in [0, 1]; by default the model's or line's.")] = None,
    decision_threshold: Annotated[float | None, Option(help="Of the score, for the verdict; likewise.")] = None,
    defect_names: Annotated[
        str | None, Option(help="Words for defects, with commas between: each region gets the most similar one.")
    ] = None,
    save: Annotated[str, Option(help=f"Pictures of each photograph, with commas between: {', '.join(KINDS)}.")] = "",
    formats: Annotated[
        str, Option("--format", help=f"Of the rows, with commas between: {', '.join(FORMATS)}.")
    ] = "csv,jsonl",
    report: Annotated[bool, Option("--report", help="Write report.html too, with small pictures.")] = False,
    export: Annotated[
        list[str] | None, Option(help=f"Annotations to correct by hand, of {', '.join(EXPORTS)}.")
    ] = None,
    model: ModelOption = None,
    revision: RevisionOption = None,
    clip: ClipOption = None,
    sam: SamOption = None,
    device: DeviceOption = None,
    dtype: DtypeOption = None,
    batch_size: BatchSizeOption = 1,
    num_workers: Annotated[int, Option(min=0, help="Processes that read, and threads that write.")] = 2,
    overwrite: Annotated[bool, Option("--overwrite", help="Replace the predictions in DIR.")] = False,
    resume: Annotated[bool, Option("--resume", help="Go on with the run in DIR that was interrupted.")] = False,
) -> None:  # fmt: skip
    """Predict a photograph or a folder: a row for each, and pictures; exit code 1 if some cannot be read."""
    from ..evaluation.processes import choose_device
    from ..image_loading import find_photographs
    from ..prediction import predict_folder
    from ..prediction.compared import are_photographs, check_texts
    from ..prediction.names import list_photographs
    from ..prediction.run import check_request
    from ..prediction.state import OutputFolder

    with explained_errors(of_input=True):
        if mutual and references is not None:
            raise ValueError("--mutual and --references exclude each other")
        compared_with = "mutual" if mutual else references
        if references is not None and os.path.isdir(references) and are_photographs(references):
            find_photographs(references)
        chosen: dict[str, Any] = {"save": parse_list(save), "formats": parse_list(formats)}
        chosen |= {"refine": refine, "threshold": threshold, "decision_threshold": decision_threshold}
        chosen["tile"] = parse_tile(tile)
        chosen["defect_names"] = None if defect_names is None else parse_list(defect_names)
        chosen |= {"report": report, "export": parse_list(",".join(export or ()))}
        check_request(**chosen)
        check_texts(compared_with, class_name)
        check_roi(roi)
        list_photographs(source, output)
        if os.environ.get("RANK", "0") == "0":  # the first process may have begun when the others come here
            OutputFolder(output).check(overwrite=overwrite, resume=resume)
        chosen_device = choose_device(device)
        network, processor, name = load_model(model, revision, clip, sam, dtype=dtype)
    chosen |= {"overwrite": overwrite, "resume": resume, "batch_size": batch_size, "num_workers": num_workers}
    chosen |= {"class_name": class_name, "references": compared_with, "roi_mask": roi, "model_name": name}
    with explained_errors():
        try:
            predicted = predict_folder(network, processor, source, output, device=chosen_device, **chosen)
        except KeyboardInterrupt:
            typer.echo(f"interrupted; {GOES_ON}", err=True)
            raise typer.Exit(130) from None
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            raise OSError(f"the disk of {str(output)!r} is full: make room on it, and {GOES_ON}") from error
    if predicted is None:
        return  # another process has the results
    typer.echo(predicted.to_text())
    written = [*predicted.files, *(["report.html"] if report else []), *chosen["save"]]
    typer.echo(f"written to {output}: {', '.join(written)}", err=True)
    if predicted.failed:
        typer.echo("what could not be read has a row with the reason", err=True)
        raise typer.Exit(1)
