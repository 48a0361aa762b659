# SPDX-FileCopyrightText: 2026 The clipsam_hf authors
# SPDX-License-Identifier: Apache-2.0
"""A finished run as one HTML file that holds all it shows: table, small pictures, histogram, protocol.

It is made of what the run has left in its folder, the rows, the protocol and the previews, one photograph after
another, so that memory stays flat. Names of files and classes are untrusted: texts are escaped, data stands as JSON in
a script of another type, and the page's policy lets nothing run but its own script and nothing be fetched at all.
"""

import base64
import hashlib
import json
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from ..files import open_atomically
from ..visualization_clipsam import heat_map
from .names import PREVIEWS, REPORT_NAME, picture_path
from .previews import trace_outline
from .results import FILE_NAMES, read_rows
from .state import OutputFolder


__all__ = ["write_report"]

_TEMPLATES = Path(__file__).with_name("templates")

# Keys of a row by which the table can be sorted, with the titles of their columns
_COLUMNS = {
    "path": "Path", "score": "Score", "verdict": "Verdict", "regions": "Regions", "defects": "Defects", "size": "Size",
    "error": "Error",
}  # fmt: skip


def write_report(output_dir: str | Path) -> Path:
    """Write the report of a finished run into its folder.

    Args:
        output_dir (`str` or `Path`): of `predict_folder`. Photographs are shown if the run was one with `report=True`.

    Returns:
        `Path`: of the report. One that was there before is replaced at the very end.

    Raises:
        FileNotFoundError: if the folder holds no finished run.
        ValueError: if its rows are damaged.
        OSError: if something cannot be read or written.
    """
    from jinja2 import Environment, FileSystemLoader

    from .. import __version__  # not at the top: the package may itself be importing this module

    folder = Path(output_dir)
    protocol = OutputFolder(folder).read_protocol()
    rows = folder / FILE_NAMES["jsonl"]
    if protocol is None or not rows.is_file():
        raise FileNotFoundError(f"{str(folder)!r} holds no finished run of `clipsam predict`")
    environment = Environment(loader=FileSystemLoader(_TEMPLATES), autoescape=True)
    environment.filters["csp_hash"] = _hash_for_policy
    about = _describe(protocol, rows)
    is_shown = {"defects": protocol.get("defect_names") is not None, "error": about["failed"] > 0}
    ramp = np.asarray(heat_map(np.linspace(0, 1, 10)[None]))[0]  # the colours at equal steps
    page = environment.get_template("report.html.jinja").generate(
        about=about,
        columns=[(key, name) for key, name in _COLUMNS.items() if is_shown.get(key, True)],
        is_named=is_shown["defects"],
        previews=_read_previews(folder, rows),
        ramp=ramp.tolist(),
        tables=[
            (name, " ".join(f"{each / 255:.3f}" for each in row)) for name, row in zip("RGB", ramp.T, strict=True)
        ],
        rows=map(_describe_row, read_rows(rows)),
        script=(_TEMPLATES / "report.js").read_text(encoding="utf-8"),
        style=(_TEMPLATES / "report.css").read_text(encoding="utf-8"),
        version=__version__,
    )
    with open_atomically(folder / REPORT_NAME) as file:
        for piece in page:
            # A file name may hold bytes that are no text
            file.write(piece.encode("utf-8", "backslashreplace"))
    return folder / REPORT_NAME


def _hash_for_policy(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


def _describe_row(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the table and the viewer show of a row, with outlines as lines instead of masks."""
    regions = [
        {
            "box": [each["box"][edge] for edge in ("xmin", "ymin", "xmax", "ymax")],
            "score": each["score"],
            "area": each["area"],
            "path": trace_outline(each),
            "defect": _describe_defect(each),
        }
        for each in row["regions"]
    ]
    return {key: row[key] for key in ("path", "width", "height", "score", "label", "error")} | {"regions": regions}


def _describe_defect(region: Mapping[str, Any]) -> str | None:
    name = region.get("defect_name")
    return f"{name} (guess)" if name is not None and region.get("defect_is_guess") else name


def _read_previews(folder: Path, rows: Path) -> Iterator[tuple[int, str, str]]:
    """Yield each preview that there is, with the number of its row, as base64."""
    for number, row in enumerate(read_rows(rows)):
        photograph, anomaly_map = (_read_base64(folder / picture_path(kind, row["path"])) for kind in PREVIEWS)
        if photograph:
            yield number, photograph, anomaly_map


def _read_base64(path: Path) -> str:
    return base64.b64encode(path.read_bytes()).decode() if path.is_file() else ""


def _describe(protocol: Mapping[str, Any], rows: Path) -> dict[str, Any]:
    """Return what stands above the table."""
    total, failed = 0, 0
    thresholds: set[float] = set()
    decision_thresholds: set[float | None] = set()
    for row in read_rows(rows):
        total += 1
        if row["error"] is not None:
            failed += 1
            continue
        thresholds.add(row["threshold"])
        decision_thresholds.add(row["decision_threshold"])
    model = protocol["model"]
    name = model["name"] if model["revision"] is None else f"{model['name']} at {model['revision'][:12]}"
    summary = {
        "Compared with": _name_comparison(protocol["compared_with"]),
        "Model": name,
        "Refined by SAM": "yes" if protocol["refine"] else "no",
        "Threshold of the map": _name_range(thresholds),
        "Decision threshold": _name_range(decision_thresholds - {None}),
        "Region of interest": "the whole photograph" if protocol.get("roi_sha256") is None else "a mask",
        "Computed on": f"{model['device']}, {model['dtype']}",
        "Version": f"clipsam_hf {protocol['versions']['clipsam_hf']}",
    }
    return {
        "title": "Anomaly report",
        "class_name": protocol["class_name"],
        "date": datetime.fromtimestamp(rows.stat().st_mtime, UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "total": total,
        "failed": failed,
        "summary": summary.items(),
        # The line of the histogram begins there, if one holds for all photographs
        "decision_threshold": next(iter(decision_thresholds)) if len(decision_thresholds) == 1 else None,
        "protocol": json.dumps(protocol, indent=2),
    }


def _name_comparison(described: Mapping[str, Any] | None) -> str:
    if described is None:
        return "words alone (zero-shot)"
    if "mutual_seed" in described:
        return "each other (mutual)"
    if "references" in described:
        number = described["references"]
        return f"{number} good photograph{'' if number == 1 else 's'}"
    return f"references {described['references_sha256']}"


def _name_range(values: set[Any]) -> str:
    if not values:
        return "none"
    low, high = f"{min(values):.3f}", f"{max(values):.3f}"
    return low if low == high else f"{low} to {high}, by photograph"
