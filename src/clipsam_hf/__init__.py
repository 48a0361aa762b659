# SPDX-FileCopyrightText: 2026 The clipsam_hf authors
# SPDX-License-Identifier: Apache-2.0
"""ClipSAM, zero-shot anomaly segmentation with CLIP and SAM, as a Hugging Face model.

Importing the package registers the configuration, model and processor with transformers' Auto classes and the task
`"zero-shot-anomaly-segmentation"` with `transformers.pipeline`, whose default model is the embedded `clipsam-tiny`.
"""

from importlib.util import find_spec

from transformers import AutoConfig, AutoModel, AutoProcessor
from transformers.pipelines import PIPELINE_REGISTRY

from .configuration_clipsam import ClipSamConfig
from .data.folders import AnomalyFolder
from .embedded import EMBEDDED_CHECKPOINT, SMALL_CHECKPOINT
from .image_loading import ImageReadError
from .metrics.anomaly import AnomalyMetrics
from .modeling_clipsam import ClipSamForAnomalySegmentation, ClipSamOutput, ClipSamPreTrainedModel
from .pipeline_clipsam import TASK, ZeroShotAnomalySegmentationPipeline
from .processing_clipsam import ClipSamProcessor
from .references_clipsam import ClipSamReferences
from .version import __version__ as __version__
from .visualization_clipsam import overlay


if find_spec("pillow_heif") is not None:  # the extra `heif`; workers that read photographs import the package too
    from pillow_heif import register_heif_opener

    register_heif_opener()

AutoConfig.register("clipsam", ClipSamConfig, exist_ok=True)
AutoModel.register(ClipSamConfig, ClipSamForAnomalySegmentation, exist_ok=True)
AutoProcessor.register(ClipSamConfig, ClipSamProcessor, exist_ok=True)
if TASK not in PIPELINE_REGISTRY.supported_tasks:  # the registry warns of a second registration
    PIPELINE_REGISTRY.register_pipeline(
        TASK,
        pipeline_class=ZeroShotAnomalySegmentationPipeline,
        pt_model=AutoModel,
        default={"model": (str(EMBEDDED_CHECKPOINT), "main")},
        type="multimodal",
    )

__all__ = [
    "EMBEDDED_CHECKPOINT",
    "SMALL_CHECKPOINT",
    "AnomalyFolder",
    "AnomalyMetrics",
    "ClipSamConfig",
    "ClipSamForAnomalySegmentation",
    "ClipSamOutput",
    "ClipSamPreTrainedModel",
    "ClipSamProcessor",
    "ClipSamReferences",
    "ImageReadError",
    "ZeroShotAnomalySegmentationPipeline",
    "overlay",
]
