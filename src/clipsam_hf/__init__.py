# SPDX-FileCopyrightText: 2026 The clipsam_hf authors
# SPDX-License-Identifier: Apache-2.0
"""ClipSAM, zero-shot anomaly segmentation with CLIP and SAM, as a Hugging Face model.

Importing the package registers the configuration, model and processor with transformers' Auto classes and the task
`"zero-shot-anomaly-segmentation"` with `transformers.pipeline`.
"""

from transformers import AutoConfig, AutoModel

from .configuration_clipsam import ClipSamConfig
from .modeling_clipsam import ClipSamForAnomalySegmentation, ClipSamOutput, ClipSamPreTrainedModel


__version__ = "0.1.0"

AutoConfig.register("clipsam", ClipSamConfig, exist_ok=True)
AutoModel.register(ClipSamConfig, ClipSamForAnomalySegmentation, exist_ok=True)

__all__ = [
    "ClipSamConfig",
    "ClipSamForAnomalySegmentation",
    "ClipSamOutput",
    "ClipSamPreTrainedModel",
]
