# SPDX-FileCopyrightText: 2026 The clipsam_hf authors
# SPDX-License-Identifier: Apache-2.0
"""`clipsam export`."""

from pathlib import Path
from typing import Annotated

import typer
from typer import Argument, Option

from .options import ClipOption, RevisionOption, SamOption, explained_errors, load_model


def export(
    output: Annotated[Path, Option(metavar="DIR", help="Folder of the export.")],
    model: Annotated[
        str | None, Argument(metavar="[MODEL]", help="Folder or repository; by default the embedded one.")
    ] = None,
    class_name: Annotated[
        list[str] | None, Option(help="What photographs will show; repeat it for more names.")
    ] = None,
    references: Annotated[
        str | None, Option(metavar="LINE", help="What `clipsam calibrate` made, to become part of the export.")
    ] = None,
    export_format: Annotated[str, Option("--format", help="onnx, the only one.")] = "onnx",
    int8: Annotated[bool, Option("--int8", help="Store matrices as int8: smaller, less exact.")] = False,
    revision: RevisionOption = None,
    clip: ClipOption = None,
    sam: SamOption = None,
    overwrite: Annotated[bool, Option("--overwrite", help="Replace the export in DIR.")] = False,
) -> None:  # fmt: skip
    """Export a model to a folder that runs with onnxruntime, numpy and Pillow, without torch."""
    from ..export import export_onnx
    from ..export.folder import RUNNER_NAME, check_folder
    from ..references_clipsam import ClipSamReferences

    with explained_errors(of_input=True):
        if export_format != "onnx":
            raise ValueError(f"--format must be onnx, got {export_format!r}")
        if not class_name and references is None:
            raise ValueError("--class-name is needed: what will the photographs show?")
        check_folder(output, overwrite)
        line = None if references is None else ClipSamReferences.from_pretrained(references)
        network, processor, name = load_model(model, revision, clip, sam, dtype="float32")
        export_onnx(
            network.eval(),
            processor,
            output,
            class_name or [],
            references=line,
            int8=int8,
            overwrite=overwrite,
            model_name=name,
        )
    typer.echo(f"written to {output}; `python {output / RUNNER_NAME} photo.jpg` needs onnxruntime, numpy and Pillow")
