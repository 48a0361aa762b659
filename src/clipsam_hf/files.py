# SPDX-FileCopyrightText: 2026 The clipsam_hf authors
# SPDX-License-Identifier: Apache-2.0
"""Files that are never half-written, and digests that say what a file, a set of weights or a setting was made of."""

import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor, nn


__all__ = [
    "describe_differences",
    "digest_file",
    "digest_json",
    "digest_pixels",
    "digest_tensors",
    "fill_folder_atomically",
    "fingerprint",
    "open_atomically",
    "read_json",
    "refuse_differences",
]


def digest_json(value: Any) -> str:
    """Identify JSON values by their content, whatever the order of their keys.

    Args:
        value (`Any`): JSON values; what is none counts by its `str`.

    Returns:
        `str`: 64 hexadecimal digits of SHA-256.

    Example:
        >>> digest_json({"a": 1, "b": 2}) == digest_json({"b": 2, "a": 1})
        True
    """
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()


def digest_file(path: Path) -> str:
    """Identify a file by its bytes.

    Args:
        path (`Path`): the file.

    Returns:
        `str`: 64 hexadecimal digits of SHA-256.

    Raises:
        OSError: if it cannot be read.
    """
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest_pixels(array: Any) -> str:
    """Identify an image or a mask in memory by its size and its pixels.

    Args:
        array (`PIL.Image.Image` or `np.ndarray`): pixels.

    Returns:
        `str`: 64 hexadecimal digits of SHA-256.
    """
    size = array.shape if hasattr(array, "shape") else array.size
    return hashlib.sha256(repr(size).encode() + array.tobytes()).hexdigest()


def digest_tensors(tensors: Mapping[str, Tensor], *settings: str) -> str:
    """Identify tensors by their content, with their names, types and shapes.

    Args:
        tensors (`Mapping[str, torch.Tensor]`): on any device.
        settings (`str`): anything else that shall count.

    Returns:
        `str`: 64 hexadecimal digits of SHA-256.
    """
    digest = hashlib.sha256(json.dumps(settings).encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        # bfloat16 is unknown to numpy, its bytes are not
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def fingerprint(module: nn.Module, *settings: str) -> str:
    """Identify weights by their content.

    Args:
        module (`nn.Module`): its parameters and buffers count, with their names, types and shapes.
        settings (`str`): anything else that shall count.

    Returns:
        `str`: 16 hexadecimal digits of SHA-256.

    Example:
        >>> fingerprint(nn.Identity()), fingerprint(nn.Identity(), "another size")
        ('4f53cda18c2baa0c', 'bc8de826fa46584d')
    """
    return digest_tensors(module.state_dict(), *settings)[:16]


def refuse_differences(
    earlier: Mapping[str, Any],
    now: Mapping[str, Any],
    finding: str,
    advice: str = "Repeat its options to go on, or start anew with `overwrite`",
) -> None:
    """Raise if an earlier run followed another protocol.

    Args:
        earlier (`Mapping[str, Any]`): its protocol.
        now (`Mapping[str, Any]`): the one now; JSON values.
        finding (`str`): what was found, without a stop.
        advice (`str`): what to do.

    Raises:
        ValueError: if they differ; the message shows in what.
    """
    differences = describe_differences(earlier, now)
    if differences:
        raise ValueError("\n".join([f"{finding}:", *(f"  {line}" for line in differences), advice]))


def describe_differences(earlier: Mapping[str, Any], now: Mapping[str, Any], prefix: str = "") -> list[str]:
    """List what differs between two nested dictionaries.

    Args:
        earlier (`Mapping[str, Any]`): the one before.
        now (`Mapping[str, Any]`): the one now.
        prefix (`str`): stands before each name.

    Returns:
        `list[str]`: one line per value that differs.

    Example:
        >>> describe_differences({"model": {"seed": 0}, "size": 518}, {"model": {"seed": 1}, "size": 518})
        ['model.seed: 0 then, 1 now']
    """
    lines = []
    for name in dict.fromkeys([*earlier, *now]):
        old, new = earlier.get(name), now.get(name)
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            lines += describe_differences(old, new, f"{prefix}{name}.")
        elif old != new:
            lines.append(f"{prefix}{name}: {old!r} then, {new!r} now")
    return lines


def read_json(path: Path) -> Any:
    """Read a JSON file, which may be anybody's.

    Args:
        path (`Path`): the file.

    Returns:
        JSON values.

    Raises:
        OSError: if it cannot be read.
        ValueError: if it is no JSON, or nested too deep; the message names the file.
    """
    try:
        return json.loads(path.read_bytes())
    except (RecursionError, ValueError) as error:
        raise ValueError(f"'{path}' is no JSON: {error}.") from error


@contextmanager
def open_atomically(path: Path) -> Iterator[IO[bytes]]:
    """Open a file that takes its place only when the block ends well; until then, what was there stays.

    Args:
        path (`Path`): the place; its folder must exist.

    Returns:
        `ContextManager[IO[bytes]]`: of the new file.

    Raises:
        OSError: if it cannot be written.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "results.txt"
        >>> with open_atomically(path) as file:
        ...     _ = file.write(b"100.0")
        ...     path.exists()
        False
        >>> path.read_text()
        '100.0'
    """
    # Another process may write the same file; and a name that is long enough must not become too long
    beside = path.with_name(f".{uuid.uuid4().hex}.part")
    try:
        with open(beside, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)


@contextmanager
def fill_folder_atomically(path: Path) -> Iterator[Path]:
    """Fill a new folder, which takes its place only when the block ends well, so that nothing half-written stays.

    Args:
        path (`Path`): the place: an empty folder, or nothing yet. Folders above it are made.

    Returns:
        `ContextManager[Path]`: of the folder to write to until then.

    Raises:
        FileExistsError: if something is there already.
        OSError: if it cannot be written.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "as-parquet"
        >>> with fill_folder_atomically(path) as folder:
        ...     (folder / "data").mkdir()
        ...     path.exists()
        False
        >>> [inner.name for inner in path.iterdir()]
        ['data']
    """
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise FileExistsError(f"'{path}' exists and is no empty folder; give another one.")
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.parent / f".{path.name}-{uuid.uuid4().hex}"
    beside.mkdir()
    try:
        yield beside
        if path.exists():
            path.rmdir()
        beside.rename(path)
    except BaseException:
        shutil.rmtree(beside, ignore_errors=True)
        raise
