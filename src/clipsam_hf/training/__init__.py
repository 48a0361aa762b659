# SPDX-FileCopyrightText: 2026 The clipsam_hf authors
# SPDX-License-Identifier: Apache-2.0
"""Training of the UMCI head, from one CPU to many GPUs, and the choice of its thresholds."""

from .loop import SCHEDULES, TrainingInterruptedError, schedule, train_umci, trained_parameters


__all__ = ["SCHEDULES", "TrainingInterruptedError", "schedule", "train_umci", "trained_parameters"]
