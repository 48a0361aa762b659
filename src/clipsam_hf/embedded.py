# SPDX-FileCopyrightText: 2026 The clipsam_hf authors
# SPDX-License-Identifier: Apache-2.0
"""The checkpoints that ship with the package. Nothing else is imported, so that a command can find them at once."""

from pathlib import Path


__all__ = ["EMBEDDED_CHECKPOINT", "SMALL_CHECKPOINT", "find_checkpoint"]

_CHECKPOINTS = Path(__file__).parent / "checkpoints"
EMBEDDED_CHECKPOINT = _CHECKPOINTS / "clipsam-tiny"
"""Folder of the checkpoint that is taken where none is named: 3 million parameters, trained from nothing."""
SMALL_CHECKPOINT = _CHECKPOINTS / "clipsam-small"
"""Folder of the checkpoint that stands on a DINOv2: larger, slower, and better above all with good photographs."""


def find_checkpoint(name: str | None) -> str:
    """Find an embedded checkpoint by its name.

    Args:
        name (`str`, *optional*): Such as "clipsam-small"; a folder or repository is returned as it is.

    Returns:
        `str`: The folder; that of the default for `None`. A folder of the same name where the user is goes first.

    Example:
        >>> find_checkpoint("org/clipsam-visa")
        'org/clipsam-visa'
    """
    if name is None:
        return str(EMBEDDED_CHECKPOINT)
    embedded = _CHECKPOINTS / name
    return str(embedded) if embedded.parent == _CHECKPOINTS and embedded.is_dir() and not Path(name).exists() else name
