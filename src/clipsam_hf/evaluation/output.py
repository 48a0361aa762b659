# SPDX-FileCopyrightText: 2026 The clipsam_hf authors
# SPDX-License-Identifier: Apache-2.0
"""Where results go, and whether they may: what can be known before anything expensive."""

import os
from collections.abc import Sequence
from pathlib import Path

from .writers import FILE_NAMES


__all__ = ["MAPS_NAME", "STATE_NAME", "check_output", "check_writable", "name_folders"]

STATE_NAME = "state"
"""Sub-folder of an unfinished run."""

MAPS_NAME = "maps"
"""Sub-folder of the maps."""


def check_output(output_dir: str | os.PathLike[str], *, overwrite: bool = False) -> None:
    """Raise if results cannot, or must not, be written to a folder; nothing is made or changed.

    Args:
        output_dir (`str` or `os.PathLike`): the folder; it need not exist. The state of an unfinished run is no
            obstacle.
        overwrite (`bool`): whether results that are there may be replaced.

    Raises:
        NotADirectoryError: if a file is in the way.
        PermissionError: if the folder cannot be written to or made.
        FileExistsError: if it holds results or anything else, and `overwrite` is not set.
    """
    folder = Path(output_dir)
    check_writable("output_dir", folder)
    # Listed once: another process of the same run may be making its state right now
    names = {path.name for path in folder.iterdir()} if folder.exists() else set()
    if names and STATE_NAME not in names and not overwrite:
        what = "results" if FILE_NAMES["json"] in names else "files"
        raise FileExistsError(f"{str(folder)!r} already holds {what}; take another folder, or `overwrite`")


def check_writable(name: str, folder: Path) -> None:
    """Raise if a folder cannot be written to or made.

    Args:
        name (`str`): of the option, for the message.
        folder (`Path`): it need not exist.

    Raises:
        NotADirectoryError: if a file is in the way.
        PermissionError: if it is not writable.
    """
    nearest = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not nearest.is_dir():
        raise NotADirectoryError(f"`{name}` must be a folder, but {str(nearest)!r} is a file")
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise PermissionError(f"`{name}` cannot be written: {str(nearest)!r} is not writable")


def name_folders(roots: Sequence[Path]) -> list[str]:
    """Give each of several data sets a name of its own, for its sub-folder and its row.

    Args:
        roots (`Sequence[Path]`): their folders.

    Returns:
        `list[str]`: the folders' names; a name that is there already gets a number.

    Example:
        >>> name_folders([Path("a/tiles"), Path("b/tiles"), Path("tiles-2"), Path("leather")])
        ['tiles', 'tiles-2', 'tiles-2-2', 'leather']
    """
    names: list[str] = []
    for root in roots:
        name, number = root.resolve().name or "root", 1
        while (unique := name if number == 1 else f"{name}-{number}").lower() in map(str.lower, names):
            number += 1
        names.append(unique)
    return names
