# SPDX-FileCopyrightText: 2026 The clipsam_hf authors
# SPDX-License-Identifier: Apache-2.0
"""Predict a folder of photographs with Ray Data, on one machine or a cluster: one model in each worker.

    pip install "clipsam_hf[ray]"
    python examples/scale/predict_ray.py photographs --class-name candle --output rows --workers 2

The rows are those of `clipsam predict`, as Parquet files. Ray gives batches of files to the workers as they become
free; a photograph that cannot be read is a row that says why.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from typing import Any

import pyarrow  # type: ignore[import-untyped]
import ray
import torch

from clipsam_hf.cli.options import load_model
from clipsam_hf.prediction import predict_rows, row_schema


class Predictor:
    """A model in a worker; Ray makes one for each, and calls it with one batch after the other."""

    def __init__(self, source: str, model: str | None, **options: Any) -> None:
        self.source, self.options = os.path.abspath(source), options
        self.model, self.processor, _ = load_model(model)
        torch.nn.Module.to(self.model, "cuda" if torch.cuda.is_available() else "cpu")

    def __call__(self, batch: dict[str, Any]) -> pyarrow.Table:
        """Make a table of rows of a batch of files."""
        names = [os.path.relpath(path, self.source) for path in batch["path"]]
        photographs = zip(names, batch["bytes"], strict=True)
        rows = predict_rows(self.model, self.processor, photographs, **self.options)
        return pyarrow.Table.from_pylist(list(rows), row_schema())


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Predict a folder of photographs with Ray Data.")
    parser.add_argument("photographs", help="folder, with its sub-folders")
    parser.add_argument("--class-name", required=True, help="what the photographs show")
    parser.add_argument("--output", required=True, help="folder of the rows, which every worker can write to")
    parser.add_argument("--model", help="folder or name of a ClipSAM model; default: the one inside the package")
    parser.add_argument("--no-refine", action="store_true", help="maps of CLIP alone, much faster")
    parser.add_argument("--workers", type=int, default=1, help="each has a model, and a GPU where there are some")
    parser.add_argument("--batch-size", type=int, default=16, help="photographs that a worker gets at once")
    args = parser.parse_args(arguments)
    if not os.path.isdir(args.photographs):
        parser.error(f"{args.photographs!r} is no folder")
    if os.path.exists(args.output) and os.listdir(args.output):
        parser.error(f"{args.output!r} holds files already")  # Ray would add to them

    ray.init(include_dashboard=False, log_to_driver=False)
    has_gpu = ray.cluster_resources().get("GPU", 0) > 0
    files = ray.data.read_binary_files(args.photographs, include_paths=True)
    rows = files.map_batches(
        Predictor,
        fn_constructor_args=(args.photographs, args.model),
        fn_constructor_kwargs={"class_name": args.class_name, "refine": not args.no_refine},
        batch_size=args.batch_size,
        batch_format="numpy",
        num_cpus=0,  # the pool's size says how many work; a CPU for each would leave a small machine none to read with
        num_gpus=1 if has_gpu else 0,
        compute=ray.data.ActorPoolStrategy(size=args.workers),
    )
    rows.write_parquet(os.path.abspath(args.output))
    print(f"{ray.data.read_parquet(os.path.abspath(args.output)).count()} photographs", file=sys.stderr)


if __name__ == "__main__":
    main()
