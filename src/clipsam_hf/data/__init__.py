# SPDX-FileCopyrightText: 2026 The clipsam_hf authors
# SPDX-License-Identifier: Apache-2.0
"""Data sets of photographs with defect masks: MVTec-AD, VisA, MTD, KolektorSDD2, BTAD, plain folders, Hugging Face."""

from .folders import AnomalyFolder
from .rows import AnomalyDataset
from .samples import LABELS, AnomalySample, load_mask


__all__ = ["LABELS", "AnomalyDataset", "AnomalyFolder", "AnomalySample", "load_mask"]
