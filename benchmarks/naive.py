# SPDX-FileCopyrightText: 2026 The clipsam_hf authors
# SPDX-License-Identifier: Apache-2.0
"""The plain composition (N): what one writes first from the library's classes and the paper's description.

Eager attention, the texts encoded for every image at CLIP's full length, one call of SAM's decoder for every region,
every mask brought to the size of the map by itself and merged there. It takes regions and localizer from the package,
so that both make the same map, and nothing that is there for speed.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from clipsam_hf import ClipSamForAnomalySegmentation
from clipsam_hf.refinement_clipsam import RefinementOptions, resample_masks
from clipsam_hf.regions_clipsam import Frame, SamPrompts, build_prompts


def embed_texts(model: ClipSamForAnomalySegmentation, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
    """The two classes' embeddings of (2, num_prompts, 77) tokens, all of them encoded: (1, 2, projection_dim)."""
    sentences = attention_mask.any(dim=-1)  # (2, num_prompts)
    embeds = model.clip.text_projection(model.clip.text_model(input_ids=input_ids.flatten(0, 1)).pooler_output)
    embeds = F.normalize(embeds, dim=-1).unflatten(0, sentences.shape) * sentences[..., None]
    return F.normalize(embeds.sum(dim=1) / sentences.sum(dim=1, keepdim=True), dim=-1)[None]


def locate(model: ClipSamForAnomalySegmentation, pixel_values: Tensor, text_embeds: Tensor) -> Tensor:
    """The rough map (height, width), CLIP's tower run to its end."""
    features = model.localizer.encode(model.clip, pixel_values, whole=True)
    head = getattr(model, model.localizer.head_name) if model.localizer.head_name else None
    logits = model.localizer.read(model.clip, head, features.feature_maps, text_embeds)
    return model.make_rough_map(logits, features.feature_maps, pixel_values.shape[-2:])[0]


def decode(model: ClipSamForAnomalySegmentation, image_embeddings: Tensor, prompts: SamPrompts) -> Any:
    """SAM's masks and their scores, one call for every prompt."""
    given = {name: value for name, value in prompts._asdict().items() if value is not None}
    outputs = [
        model.sam(
            image_embeddings=image_embeddings,
            multimask_output=model.config.multimask_output,
            **{name: value[None, [index]] for name, value in given.items()},
        )
        for index in range(len(next(iter(given.values()))))
    ]
    return torch.cat([each.pred_masks[0] for each in outputs]), torch.cat([each.iou_scores[0] for each in outputs])


def merge(rough: Tensor, masks: Tensor, scores: Tensor, frame: Frame, peaks: list[float], weight: float) -> Tensor:
    """`merge="anomaly_weighted"` at the size of the map: probabilities of every mask are brought there one by one."""
    best = torch.zeros_like(rough)
    for region_masks, region_scores, peak in zip(masks, scores.clamp(0, 1), peaks, strict=True):
        total = torch.zeros_like(rough)
        for mask, score in zip(region_masks, region_scores, strict=True):
            total = total + score * resample_masks(mask.sigmoid(), frame, rough.shape)
        best = torch.maximum(best, peak * total / region_scores.sum().clamp(min=1e-30))
    return (1 - weight) * rough + weight * best


@torch.no_grad()
def predict(model: ClipSamForAnomalySegmentation, inputs: dict[str, Tensor]) -> Tensor:
    """The refined map (height, width) of one photograph."""
    text_embeds = embed_texts(model, inputs["input_ids"][0], inputs["attention_mask"][0])
    rough = locate(model, inputs["pixel_values"], text_embeds)
    image_embeddings = model.sam.get_image_embeddings(inputs["sam_pixel_values"])
    return refine(model, rough, image_embeddings, inputs["reshaped_input_sizes"][0])


def refine(model: ClipSamForAnomalySegmentation, rough: Tensor, image_embeddings: Tensor, size: Tensor) -> Tensor:
    """The refined map, of the rough one and SAM's image embeddings."""
    config = model.config
    options = RefinementOptions(**{name: getattr(config, name) for name in RefinementOptions.__dataclass_fields__})
    regions = options.find_regions(rough)
    if not regions:
        return (1 - config.refine_weight) * rough
    frame = model.refiner.frame(size.tolist())
    prompts = build_prompts(
        regions,
        rough,
        frame,
        prompt_type=config.prompt_type,
        num_points=config.num_points,
        seed=config.point_seed,
        device=rough.device,
    )
    masks, scores = decode(model, image_embeddings, prompts)
    return merge(rough, masks, scores, frame, [region.peak for region in regions], config.refine_weight)
