# SPDX-FileCopyrightText: 2026 The clipsam_hf authors
# SPDX-License-Identifier: Apache-2.0
"""Prediction of a photograph, a folder of them or a stream; what `clipsam predict` does."""

from .names import KINDS, picture_name
from .parquet import row_schema, write_parquet
from .report import write_report
from .results import FORMATS, FolderPredictions
from .rows import predict_rows
from .run import predict_folder


__all__ = [
    "FORMATS",
    "KINDS",
    "FolderPredictions",
    "picture_name",
    "predict_folder",
    "predict_rows",
    "row_schema",
    "write_parquet",
    "write_report",
]
