# SPDX-FileCopyrightText: 2026 The clipsam_hf authors
# SPDX-License-Identifier: Apache-2.0
"""`python -m clipsam_hf.training`, and for several processes `accelerate launch -m clipsam_hf.training`."""

from .run import main


if __name__ == "__main__":
    main(program="python -m clipsam_hf.training")
