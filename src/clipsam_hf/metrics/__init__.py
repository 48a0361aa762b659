# SPDX-FileCopyrightText: 2026 The clipsam_hf authors
# SPDX-License-Identifier: Apache-2.0
"""Metrics of anomaly segmentation, and the same as modules for the `evaluate` library (`evaluate_modules`)."""

from .anomaly import MASK_RULES, REGION_SIZES, AnomalyMetrics, MetricResults, format_results, resize_mask


__all__ = ["MASK_RULES", "REGION_SIZES", "AnomalyMetrics", "MetricResults", "format_results", "resize_mask"]
