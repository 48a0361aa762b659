# SPDX-FileCopyrightText: 2026 The clipsam_hf authors
# SPDX-License-Identifier: Apache-2.0
"""Which photographs are predicted, and which names their pictures get."""

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from ..image_loading import find_photographs


__all__ = ["KINDS", "PREVIEWS", "REPORT_NAME", "check_names", "list_photographs", "picture_name", "picture_path"]

KINDS = ("overlay", "heatmap", "mask", "map")
"""Pictures that can be saved of a photograph; each kind has a sub-folder of its name."""

PREVIEWS = ("preview", "preview-map")
"""Small JPEGs that a report shows: photograph and grey map; kept like the kinds of pictures."""

REPORT_NAME = "report.html"
"""Of the report."""

# What file systems take, in bytes
_LONGEST_NAME = 255


def list_photographs(source: str | os.PathLike[str], output_dir: str | os.PathLike[str]) -> tuple[Path, list[str]]:
    """List what is to be predicted.

    Args:
        source (`str` or `os.PathLike`): a photograph, whatever its ending, or a folder; see `find_photographs`.
        output_dir (`str` or `os.PathLike`): where results go. What lies in it, pictures of an earlier run, does not
            count.

    Returns:
        `Path`: the folder.
        `list[str]`: the paths below it, with "/", in the order of `find_photographs`; at least one.

    Raises:
        FileNotFoundError: if there is nothing of that name.
        ValueError: if the folder holds no photograph, or lies in `output_dir`.
    """
    path, output = Path(source), Path(output_dir).resolve()
    if path.is_file():
        return path.parent, [path.name]
    if not path.exists():
        raise FileNotFoundError(f"{os.fspath(source)!r} is neither a photograph nor a folder of photographs")
    if path.resolve().is_relative_to(output):
        raise ValueError(
            f"the photographs, {os.fspath(source)!r}, must not lie in the folder of the results,"
            f" {os.fspath(output_dir)!r}"
        )
    found = find_photographs(path)
    if output.is_relative_to(path.resolve()):
        inside = path / output.relative_to(path.resolve())
        found = [each for each in found if not each.is_relative_to(inside)]
    if not found:
        raise ValueError(f"the folder {os.fspath(source)!r} holds no photograph but those of earlier results")
    return path, [each.relative_to(path).as_posix() for each in found]


def picture_name(name: str, ending: str = ".png") -> str:
    """Return the path of a photograph's pictures, below the folder of each kind.

    Args:
        name (`str`): the photograph's path below the source.
        ending (`str`): of the pictures.

    Returns:
        `str`: the same with the ending behind it, so that "a.jpg" and "a.png" do not collide; a file name that would
        be too long for a file system is cut and gets 16 digits of its checksum.

    Example:
        >>> picture_name("left/a.jpg")
        'left/a.jpg.png'
    """
    path = PurePosixPath(name)
    file_name = os.fsencode(f"{path.name}{ending}")
    if len(file_name) > _LONGEST_NAME:
        digest = hashlib.sha256(file_name).hexdigest()[:16]
        # Half a character at the cut is left out
        kept = os.fsencode(path.name)[: _LONGEST_NAME - 30].decode("utf-8", "ignore")
        return path.with_name(f"{kept}-{digest}{ending}").as_posix()
    return path.with_name(f"{path.name}{ending}").as_posix()


def picture_path(kind: str, name: str) -> str:
    """Return the path of one of a photograph's pictures, below the folder of the results.

    Args:
        kind (`str`): of `KINDS` or `PREVIEWS`.
        name (`str`): the photograph's path below the source.

    Example:
        >>> picture_path("preview", "left/a.jpg")
        'preview/left/a.jpg.jpg'
    """
    return f"{kind}/{picture_name(name, '.jpg' if kind in PREVIEWS else '.png')}"


def check_names(names: Sequence[str]) -> None:
    """Raise if a picture would have the name of a folder of other pictures.

    Args:
        names (`Sequence[str]`): of the photographs.

    Raises:
        ValueError: if there are both "a.jpg" and "a.jpg.png/b.jpg".
    """
    pictures = {picture_name(name, ending) for name in names for ending in (".png", ".jpg")}
    for folder in {parent.as_posix() for name in names for parent in PurePosixPath(name).parents}:
        if folder in pictures:
            raise ValueError(f"the sub-folder {folder!r} has the name that a photograph's picture gets: rename it")
