# SPDX-FileCopyrightText: 2026 The clipsam_hf authors
# SPDX-License-Identifier: Apache-2.0
"""The folder of the results: whether it may be used, the rows of a run that may be interrupted, and their end.

Each process appends to a file of rows of its own. A row is written when the pictures of its photograph are there, and
what was half written when a process was killed is taken away before the run goes on.
"""

import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from ..evaluation.output import check_writable
from ..files import open_atomically, read_json, refuse_differences
from .annotations import remove_annotations
from .names import KINDS, PREVIEWS, REPORT_NAME, picture_path
from .results import FILE_NAMES, FolderPredictions, parse_row, write_formats


__all__ = ["COMMAND", "OutputFolder", "RowFile"]

COMMAND = "clipsam predict"
"""What a protocol says of its origin."""

# All begin alike: in a folder that holds other files too, none of those is touched
_PROTOCOL_NAME = "predictions.protocol.json"
_STATE_NAME = "predictions.state"
# What `open_atomically` has not brought into place
_UNFINISHED = ".predictions."
_BLOCK = 2**16


class RowFile:
    """The rows that one process appends.

    Args:
        path (`Path`): of the file.
    """

    def __init__(self, path: Path) -> None:
        # Not through a link, which may lead out of the results; Windows has no such flag
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0)
        self._file = os.open(path, flags, 0o666)

    def __enter__(self) -> "RowFile":
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._file)

    def append(self, row: Mapping[str, Any]) -> None:
        """Write a row at once, so that a kill of this process cannot take it; raises OSError if that cannot be."""
        rest = memoryview(json.dumps(row).encode() + b"\n")
        start = os.fstat(self._file).st_size
        try:
            while rest:
                rest = rest[os.write(self._file, rest) :]
        except BaseException:
            os.ftruncate(self._file, start)  # half a row must not stand before others
            raise


class OutputFolder:
    """The folder of the results of a run.

    Args:
        folder (`str` or `os.PathLike`): it need not exist.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = Path(folder)

    @property
    def state(self) -> Path:
        """Sub-folder of an unfinished run."""
        return self.folder / _STATE_NAME

    def check(self, *, overwrite: bool = False, resume: bool = False) -> None:
        """Raise if results cannot, or must not, be written here; nothing is made or changed.

        Args:
            overwrite (`bool`): whether earlier results may be replaced.
            resume (`bool`): whether an earlier run may be gone on with.

        Raises:
            ValueError: if both are set.
            NotADirectoryError, PermissionError: if it cannot be written to.
            FileExistsError: if something is there that neither allows.
        """
        if overwrite and resume:
            raise ValueError("`overwrite` and `resume` exclude each other")
        check_writable("output_dir", self.folder)
        for name in (_PROTOCOL_NAME, _STATE_NAME):
            if (self.folder / name).is_symlink():
                raise FileExistsError(f"{str(self.folder / name)!r} is a link; nothing is written through it")
        # A run that could not even write its protocol leaves an empty state, and if it was killed half a file
        names = {path.name for path in self.folder.iterdir()} if self.folder.is_dir() else set()
        if overwrite or {name for name in names if not name.startswith(_UNFINISHED)} <= {_STATE_NAME}:
            return
        if self.read_protocol() is None:
            raise FileExistsError(
                f"{str(self.folder)!r} already holds files, but none of a prediction; take another folder, or"
                " `overwrite`"
            )
        if not resume:
            raise FileExistsError(
                f"{str(self.folder)!r} already holds predictions; `resume` goes on with them, `overwrite` replaces"
                " them"
            )

    def open(self, protocol: Mapping[str, Any], *, overwrite: bool = False, resume: bool = False) -> None:
        """Make the folder, or go on in it; for one process, before the others come.

        Args:
            protocol (`Mapping[str, Any]`): all that rows and pictures depend on; JSON values.
            overwrite (`bool`): whether earlier results are removed.
            resume (`bool`): whether to go on with an earlier run.

        Raises:
            ValueError: if the earlier run has another protocol; the message shows what differs.
            OSError: see `check`, or if the folder cannot be written.
        """
        self.check(overwrite=overwrite, resume=resume)
        protocol = json.loads(json.dumps(protocol))
        for path in self.folder.glob(f"{_UNFINISHED}*"):
            path.unlink()
        if overwrite:
            self._remove_results()
        earlier = self.read_protocol()
        if earlier is not None:
            refuse_differences(earlier, protocol, f"{str(self.folder)!r} holds predictions under another protocol")
        elif self.state.exists():
            shutil.rmtree(self.state)  # rows whose protocol is not known are not gone on with
        self.state.mkdir(parents=True, exist_ok=True)
        for path in self._row_files():
            _drop_half_row(path)
        if earlier is None:
            with open_atomically(self.folder / _PROTOCOL_NAME) as file:
                file.write(json.dumps(protocol, indent=2).encode())

    def find_rows(self, names: Sequence[str]) -> np.ndarray:
        """Find the rows that there are.

        Args:
            names (`Sequence[str]`): of all photographs.

        Returns:
            `np.ndarray` of shape `(len(names), 2)`, int64: for each the number of its file and the place of its first
            byte there; -1 without a row.
        """
        places = {name: place for place, name in enumerate(names)}
        found = np.full((len(names), 2), -1, dtype=np.int64)
        for number, path in enumerate(self._row_files()):
            for start, row in _read_whole_rows(path):
                if (place := places.get(row["path"])) is not None:
                    found[place] = number, start
        return found

    def open_rows(self, rank: int) -> RowFile:
        """Open the rows of a process."""
        return RowFile(self.state / f"rows-{rank:04d}.jsonl")

    def finish(self, names: Sequence[str], formats: Sequence[str]) -> FolderPredictions:
        """Bring the rows of all processes into the order of the photographs, and remove the state.

        Args:
            names (`Sequence[str]`): of all photographs; each has a row.
            formats (`Sequence[str]`): of `FORMATS`.

        Returns:
            `FolderPredictions`.

        Raises:
            OSError: if a file cannot be written.
        """
        counts = {"anomalous": 0, "normal": 0, "failed": 0}
        with open_atomically(self.folder / FILE_NAMES["jsonl"]) as file:
            for line in self._in_order(names):
                row = json.loads(line)
                key = "failed" if row["error"] is not None else row["label"]
                if key is not None:
                    counts[key] += 1
                file.write(line)
        files = write_formats(self.folder, formats)
        shutil.rmtree(self.state)
        return FolderPredictions(self.folder, len(names), **counts, files=files)

    def _in_order(self, names: Sequence[str]) -> Iterator[bytes]:
        found, paths = self.find_rows(names), self._row_files()
        opened = [open(path, "rb") for path in paths]
        try:
            for number, start in found:
                opened[number].seek(start)
                yield opened[number].readline()
        finally:
            for file in opened:
                file.close()

    def _row_files(self) -> list[Path]:
        """Files of rows, those of a finished run too."""
        finished = self.folder / FILE_NAMES["jsonl"]
        return [*([finished] if finished.exists() else []), *sorted(self.state.glob("rows-*.jsonl"))]

    def read_protocol(self) -> dict[str, Any] | None:
        """Return what the results that are there depend on; `None` without any."""
        path = self.folder / _PROTOCOL_NAME
        if not path.exists():
            return None
        earlier = read_json(path)
        is_ours = isinstance(earlier, dict) and earlier.get("command") == COMMAND
        return earlier if is_ours and isinstance(earlier.get("save"), list) else None

    def _remove_results(self) -> None:
        """Remove what an earlier run has written, and nothing else."""
        earlier = self.read_protocol()
        if earlier is None:
            return
        saved = [kind for kind in (*KINDS, *PREVIEWS) if kind in earlier["save"]]
        kinds = [kind for kind in saved if not (self.folder / kind).is_symlink()]
        inside = self.folder.resolve()
        for path in self._row_files() if kinds else ():
            for _, row in _read_whole_rows(path):
                for kind in kinds:
                    picture = self.folder / picture_path(kind, row["path"])
                    if picture.parent.resolve().is_relative_to(inside):  # neither a link nor a made-up path leads out
                        picture.unlink(missing_ok=True)
        for kind in kinds:
            for parent, _, _ in os.walk(self.folder / kind, topdown=False):
                with suppress(OSError):  # other files are there
                    os.rmdir(parent)
        remove_annotations(self.folder)
        for name in (*FILE_NAMES.values(), REPORT_NAME, _PROTOCOL_NAME):
            (self.folder / name).unlink(missing_ok=True)
        if self.state.exists():
            shutil.rmtree(self.state)


def _read_whole_rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield each row with the place of its first byte; what is none, after a power failure perhaps, is left out."""
    start = 0
    with open(path, "rb") as file:
        for line in file:
            row = parse_row(line)
            if row is not None:
                yield start, row
            start += len(line)


def _drop_half_row(path: Path) -> None:
    """Cut a file behind its last whole line."""
    with open(path, "rb+") as file:
        end = file.seek(0, os.SEEK_END)
        position = end
        while position > 0:
            start = max(0, position - _BLOCK)
            file.seek(start)
            newline = file.read(position - start).rfind(b"\n")
            if newline >= 0:
                if start + newline + 1 < end:
                    file.truncate(start + newline + 1)
                return
            position = start
        file.truncate(0)
