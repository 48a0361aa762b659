# SPDX-FileCopyrightText: 2026 The clipsam_hf authors
# SPDX-License-Identifier: Apache-2.0
"""The one place of the version: `setup.py` reads it here, since the package also works from a source tree."""

__version__ = "0.1.0"
