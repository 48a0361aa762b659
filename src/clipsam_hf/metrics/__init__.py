# SPDX-FileCopyrightText: 2026 The clipsam_hf authors
# SPDX-License-Identifier: Apache-2.0
"""Metrics of anomaly segmentation, and the same as modules for the `evaluate` library (`evaluate_modules`)."""

from .anomaly import AnomalyMetrics, MetricResults
from .figures import FIGURES, REGION_SIZES, Figure
from .masks import MASK_RULES, resize_mask


__all__ = ["FIGURES", "MASK_RULES", "REGION_SIZES", "AnomalyMetrics", "Figure", "MetricResults", "resize_mask"]
