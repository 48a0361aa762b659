# SPDX-FileCopyrightText: 2026 The clipsam_hf authors
# SPDX-License-Identifier: Apache-2.0
"""Evaluation of a model on data sets with ground truth, and its reports."""

from .options import EvaluationOptions
from .output import check_output
from .report import ALL_KINDS, FILE_NAMES, MEAN, EvaluationResults, ImageRow, ResultRow
from .run import evaluate
from .sets import evaluate_sets


__all__ = [
    "ALL_KINDS",
    "FILE_NAMES",
    "MEAN",
    "EvaluationOptions",
    "EvaluationResults",
    "ImageRow",
    "ResultRow",
    "check_output",
    "evaluate",
    "evaluate_sets",
]
