# SPDX-FileCopyrightText: 2026 The clipsam_hf authors
# SPDX-License-Identifier: Apache-2.0
"""A report for programs: everything but the single images."""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from .tables import figures_in


if TYPE_CHECKING:
    from ..report import EvaluationResults


__all__ = ["to_json"]


def to_json(results: "EvaluationResults") -> str:
    """Return rows, protocol and notes as JSON; what is undefined is null.

    Args:
        results (`EvaluationResults`): of one data set.

    Returns:
        `str`: an object with the keys `rows`, `protocol` and `notes`.
    """
    figures_in(results.rows)  # raises for a figure that other formats could not show
    content = {"rows": [asdict(row) for row in results.rows], "protocol": results.protocol, "notes": results.notes}
    return json.dumps(_without_nan(content), indent=2, allow_nan=False) + "\n"


def _without_nan(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _without_nan(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_without_nan(item) for item in value]
    return None if isinstance(value, float) and math.isnan(value) else value
