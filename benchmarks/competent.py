# SPDX-FileCopyrightText: 2026 The clipsam_hf authors
# SPDX-License-Identifier: Apache-2.0
"""A competent composition (C): the library's own classes and forward passes, used well.

Fused attention (sdpa), texts encoded once and kept, SAM not run where no region asks for it, one call of its decoder
for every prompt, every mask brought to the size of the map by itself.
"""

import naive
import torch
from torch import Tensor

from clipsam_hf import ClipSamForAnomalySegmentation
from clipsam_hf.refinement_clipsam import RefinementOptions


@torch.no_grad()
def predict(model: ClipSamForAnomalySegmentation, inputs: dict[str, Tensor], text_embeds: Tensor) -> Tensor:
    """The refined map (height, width) of one photograph; the model's attention is sdpa."""
    rough = naive.locate(model, inputs["pixel_values"], text_embeds)
    options = RefinementOptions(
        **{name: getattr(model.config, name) for name in RefinementOptions.__dataclass_fields__}
    )
    if not options.find_regions(rough):
        return (1 - model.config.refine_weight) * rough
    image_embeddings = model.sam.get_image_embeddings(inputs["sam_pixel_values"])
    return naive.refine(model, rough, image_embeddings, inputs["reshaped_input_sizes"][0])
