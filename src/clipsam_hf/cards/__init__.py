# SPDX-FileCopyrightText: 2026 The clipsam_hf authors
# SPDX-License-Identifier: Apache-2.0
"""Model cards whose figures are those of evaluations."""

from .card import ClipSamCard, build_card


__all__ = ["ClipSamCard", "build_card"]
