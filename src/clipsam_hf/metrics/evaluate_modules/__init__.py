# SPDX-FileCopyrightText: 2026 The clipsam_hf authors
# SPDX-License-Identifier: Apache-2.0
"""The metrics as modules for the `evaluate` library, loaded from this folder without any network.

`aupro` is the area under the per-region overlap, `anomaly_segmentation` all pixel figures, `anomaly_detection` those
of one score per image. `evaluate` passes everything through Arrow, which is slow for thousands of large maps: there,
use `clipsam_hf.metrics.AnomalyMetrics` directly. To publish a module as a Space on the Hub, upload its one file with a
`requirements.txt` that names `clipsam_hf`; then `evaluate.load("<user>/aupro")` works as well.
"""

from pathlib import Path


__all__ = ["METRIC_NAMES", "metric_path"]

METRIC_NAMES = ("anomaly_detection", "anomaly_segmentation", "aupro")


def metric_path(name: str) -> str:
    """Return the path of a metric module, for `evaluate.load`.

    Args:
        name (`str`): one of `METRIC_NAMES`.

    Returns:
        `str`: its folder.

    Raises:
        ValueError: if there is no such module.

    Example:
        >>> import evaluate
        >>> aupro = evaluate.load(metric_path("aupro"))
        >>> aupro.compute(predictions=[[[0.9, 0.1]], [[0.2, 0.3]]], references=[[[1, 0]], [[0, 0]]])
        {'aupro': 1.0}
    """
    if name not in METRIC_NAMES:
        raise ValueError(f"`name` must be one of {METRIC_NAMES}, got {name!r}")
    return str(Path(__file__).parent / name)
