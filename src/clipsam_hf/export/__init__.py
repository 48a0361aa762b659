# SPDX-FileCopyrightText: 2026 The clipsam_hf authors
# SPDX-License-Identifier: Apache-2.0
"""Export to ONNX, with a runner that needs neither torch nor this package; what `clipsam export` does."""

from .folder import export_onnx


__all__ = ["export_onnx"]
