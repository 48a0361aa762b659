# SPDX-FileCopyrightText: 2026 The clipsam_hf authors
# SPDX-License-Identifier: Apache-2.0
"""A SAM-HQ as small as the tests' SAM."""

from typing import Any

from transformers import SamConfig, SamHQConfig


def make_sam_hq_config(sam_config: SamConfig) -> SamHQConfig:
    """The configuration of a SAM-HQ of the size of a SAM; it reads the SAM's first global block, so one is needed."""

    def sizes(part: Any, **more: Any) -> dict[str, Any]:
        kept = {name: value for name, value in part.to_dict().items() if name not in ("model_type", "dtype")}
        return {**kept, **more}

    return SamHQConfig(
        vision_config=sizes(sam_config.vision_config),
        prompt_encoder_config=sizes(sam_config.prompt_encoder_config),
        mask_decoder_config=sizes(sam_config.mask_decoder_config, vit_dim=sam_config.vision_config.hidden_size),
        initializer_range=sam_config.initializer_range,
    )
