# SPDX-FileCopyrightText: 2026 The clipsam_hf authors
# SPDX-License-Identifier: Apache-2.0
"""`python -m clipsam_hf.cli`, and for several processes `accelerate launch -m clipsam_hf.cli`."""

from . import main


if __name__ == "__main__":
    main()
