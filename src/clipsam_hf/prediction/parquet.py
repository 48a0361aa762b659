# SPDX-FileCopyrightText: 2026 The clipsam_hf authors
# SPDX-License-Identifier: Apache-2.0
"""Rows as Parquet."""

from collections.abc import Iterable
from itertools import islice
from pathlib import Path
from typing import Any

from ..files import open_atomically


__all__ = ["row_schema", "write_parquet"]

_ROWS_PER_GROUP = 1000


def row_schema(*, named: bool = False) -> Any:
    """Return the types of a row's columns.

    Args:
        named (`bool`): whether regions have the names of defects.

    Returns:
        `pyarrow.Schema`: names are those of `COLUMNS`.

    Raises:
        ImportError: if there is no pyarrow.
    """
    try:
        import pyarrow.parquet  # type: ignore[import-untyped]
    except ImportError as error:
        raise ImportError("Parquet needs pyarrow: pip install 'clipsam_hf[train]', or pyarrow") from error
    whole, real, text = pyarrow.int64(), pyarrow.float64(), pyarrow.string()
    box = pyarrow.struct([(edge, whole) for edge in ("xmin", "ymin", "xmax", "ymax")])
    outline = pyarrow.struct([("size", pyarrow.list_(whole)), ("counts", pyarrow.list_(whole))])
    names = [("defect_name", text), ("defect_score", real), ("defect_is_guess", pyarrow.bool_())] if named else []
    region = pyarrow.struct([("box", box), ("score", real), ("area", whole), ("outline", outline), *names])
    columns = [
        ("path", text), ("width", whole), ("height", whole), ("score", real), ("label", text), ("threshold", real),
        ("decision_threshold", real), ("regions", pyarrow.list_(region)), ("error", text),
    ]  # fmt: skip
    return pyarrow.schema(columns)


def write_parquet(path: Path, rows: Iterable[dict[str, Any]], *, named: bool = False) -> None:
    """Write rows to a file that appears when all are in it; a few at a time are in memory.

    Args:
        path (`Path`): of the file.
        rows (`Iterable[dict]`): as `make_row` makes them.
        named (`bool`): whether regions have the names of defects.

    Raises:
        ImportError: if there is no pyarrow.
        OSError: if it cannot be written.
    """
    schema = row_schema(named=named)
    import pyarrow.parquet

    remaining = map(_as_utf8, rows)
    with open_atomically(path) as file, pyarrow.parquet.ParquetWriter(file, schema) as writer:
        writer.write_table(schema.empty_table())  # a file without rows has columns too
        while group := list(islice(remaining, _ROWS_PER_GROUP)):
            writer.write_table(pyarrow.Table.from_pylist(group, schema))


def _as_utf8(row: dict[str, Any]) -> dict[str, Any]:
    """Escape bytes of a file name that are no text."""
    texts = {name: value for name, value in row.items() if isinstance(value, str)}
    return {**row, **{name: text.encode("utf-8", "backslashreplace").decode("utf-8") for name, text in texts.items()}}
