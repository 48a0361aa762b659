# SPDX-FileCopyrightText: 2026 The clipsam_hf authors
# SPDX-License-Identifier: Apache-2.0
"""Predict millions of photographs that lie in shards, Parquet files or webdataset's tars, on any number of processes.

    accelerate launch --num_processes 8 examples/scale/predict_shards.py \\
        "photographs/*.tar" --class-name candle --output rows

Each shard becomes one Parquet file of the rows of `clipsam predict`. A shard is streamed, so that only a few of its
photographs are in memory. Its file appears when all its rows are in it: the same command goes on with a run that was
interrupted, on another number of processes if need be. A photograph that cannot be read is a row that says why.
"""

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import fsspec  # type: ignore[import-untyped]
import torch
from accelerate import PartialState  # type: ignore[import-untyped]
from datasets import Image, load_dataset

from clipsam_hf.cli.options import load_model
from clipsam_hf.files import fingerprint, open_atomically, refuse_differences
from clipsam_hf.prediction import predict_rows, write_parquet


def list_shards(patterns: Sequence[str]) -> dict[str, str]:
    """Find the shards, here or wherever fsspec reaches, and the file name of the rows of each."""
    shards: dict[str, str] = {}
    for pattern in patterns:
        files, path = fsspec.core.url_to_fs(pattern)
        found = sorted(files.glob(path))
        if not found:
            raise FileNotFoundError(f"no shard is called {pattern!r}")
        for shard in found:
            name = f"{PurePosixPath(shard).name}.parquet"
            if name in shards:
                raise ValueError(f"two shards have the name {PurePosixPath(shard).name!r}: their rows would collide")
            shards[name] = files.unstrip_protocol(shard)
    return shards


def read_shard(shard: str, column: str | None) -> Iterator[tuple[str, Any]]:
    """Yield names and files of a shard's photographs."""
    kind = "webdataset" if shard.endswith(".tar") else "parquet"
    rows = load_dataset(kind, data_files=shard, split="train", streaming=True)
    pictures = [name for name, feature in rows.features.items() if isinstance(feature, Image)]
    if column is None and len(pictures) != 1:
        raise ValueError(f"{shard!r} has the columns {list(rows.features)}: say by --column which holds photographs")
    chosen = column or pictures[0]
    # Files as they are: whoever decodes them here ends at the first broken one
    for number, row in enumerate(rows.cast_column(chosen, Image(decode=False))):
        file = row[chosen]
        name = f"{row['__key__']}.{chosen}" if "__key__" in row else file["path"] or str(number)
        yield name, file["path"] if file["bytes"] is None else file["bytes"]


def keep_protocol(path: Path, protocol: dict[str, Any]) -> None:
    """Refuse to mix rows of different models or options; all processes say the same."""
    if path.exists():
        refuse_differences(json.loads(path.read_text()), protocol, f"{str(path.parent)!r} holds rows of another run")
    with open_atomically(path) as file:
        file.write(json.dumps(protocol).encode())


def parse_args(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Predict photographs in shards, one file of rows for each shard.")
    parser.add_argument("shards", nargs="+", help="files or patterns of .tar or .parquet; URLs that fsspec knows, too")
    parser.add_argument("--output", type=Path, required=True, help="folder of the rows")
    parser.add_argument("--column", help="that holds the photographs; default: the one of images")
    parser.add_argument("--class-name", help="what the photographs show")
    parser.add_argument("--references", help="good photographs or a calibrated line; all processes must see them")
    parser.add_argument("--model", help="folder or name of a ClipSAM model; default: the one inside the package")
    parser.add_argument("--no-refine", action="store_true", help="maps of CLIP alone, much faster")
    parser.add_argument("--batch-size", type=int, default=1)
    parser.add_argument("--cpu", action="store_true", help="even if there is a GPU")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    args = parse_args(arguments)
    state = PartialState(cpu=args.cpu)
    try:
        shards = list_shards(args.shards)
        model, processor, _ = load_model(args.model)
        options = {"class_name": args.class_name, "references": args.references, "refine": not args.no_refine}
        args.output.mkdir(parents=True, exist_ok=True)
        keep_protocol(args.output / "protocol.json", {**options, "weights_sha256": fingerprint(model)})
        torch.nn.Module.to(model, state.device)
        pending = [name for name in shards if not (args.output / name).exists()]
        state.wait_for_everyone()  # until all have seen the same
        for name in pending[state.process_index :: state.num_processes]:
            photographs = read_shard(shards[name], args.column)
            rows = predict_rows(model, processor, photographs, batch_size=args.batch_size, **options)
            write_parquet(args.output / name, rows)
            print(f"process {state.process_index}: {name}", flush=True)
    except (OSError, TypeError, ValueError) as error:
        print(f"predict_shards.py: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
