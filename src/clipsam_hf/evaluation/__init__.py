# SPDX-FileCopyrightText: 2026 The clipsam_hf authors
# SPDX-License-Identifier: Apache-2.0
"""Evaluation of a model on a data set with ground truth, and its reports."""

from .report import ALL_KINDS, FILE_NAMES, MEAN, EvaluationResults, ImageRow, ResultRow
from .run import REFINEMENT_FIELDS, EvaluationOptions, check_output, evaluate


__all__ = [
    "ALL_KINDS",
    "FILE_NAMES",
    "MEAN",
    "REFINEMENT_FIELDS",
    "EvaluationOptions",
    "EvaluationResults",
    "ImageRow",
    "ResultRow",
    "check_output",
    "evaluate",
]
