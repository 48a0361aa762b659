# SPDX-FileCopyrightText: 2026 The clipsam_hf authors
# SPDX-License-Identifier: Apache-2.0
"""Prediction of a photograph or a folder of them into files; what `clipsam predict` does."""

from .names import KINDS, picture_name
from .results import FORMATS, FolderPredictions
from .run import predict_folder


__all__ = ["FORMATS", "KINDS", "FolderPredictions", "picture_name", "predict_folder"]
