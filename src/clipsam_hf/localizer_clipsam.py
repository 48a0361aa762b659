# SPDX-FileCopyrightText: 2026 The clipsam_hf authors
# SPDX-License-Identifier: Apache-2.0
"""Localizers: ways to read the rough map from CLIP, behind one small interface.

A localizer encodes photographs to features that depend on them alone, so that they can be cached, and reads logits
from the features and the two texts. A new kind is a subclass of [`Localizer`], a line in `LOCALIZERS` and its name in
the configuration. Objects hold settings and no weights: CLIP, and the head if there is one, are handed in.
"""

from typing import Any, ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .configuration_clipsam import ClipSamConfig
from .umci_clipsam import ClipSamUmci


class ImageFeatures(NamedTuple):
    """What a localizer keeps of photographs.

    Args:
        feature_maps (`tuple` of `torch.Tensor` of shape `(batch_size, channels, height, width)`): One per stage, on
            CLIP's token grid; cacheable.
        vision_outputs (`ModelOutput`, *optional*): All that CLIP's vision tower answered.
    """

    feature_maps: tuple[Tensor, ...]
    vision_outputs: Any = None


class Localizer:
    """One way to make the rough map.

    Args:
        config ([`ClipSamConfig`]): The model's.

    Attributes:
        head_name (`str`, *optional*): Name of the trained part in the model and in its state dictionary; `None` if
            there is nothing to train.
    """

    head_name: ClassVar[str | None] = None

    def __init__(self, config: ClipSamConfig) -> None:
        self.config = config

    def build_head(self) -> nn.Module | None:
        """Returns the trained part with new weights, if there is one."""
        return None

    def used_parts(self, clip: Any) -> list[Any]:
        """Returns the modules and parameters of CLIP that a loss on the logits reaches.

        Args:
            clip (`CLIPModel`): The model's.
        """
        vision, last = clip.vision_model, max(self.config.feature_layers)
        return [vision.embeddings, vision.pre_layrnorm, *vision.encoder.layers[:last]]

    def encode(self, clip: Any, pixel_values: Tensor, *, output_attentions: bool = False) -> ImageFeatures:
        """Computes the features of photographs.

        Args:
            clip (`CLIPModel`): The model's.
            pixel_values (`torch.Tensor` of shape `(batch_size, 3, height, width)`): Any size of at least one patch.
            output_attentions (`bool`): Whether the vision tower returns its attention weights.

        Returns:
            [`ImageFeatures`]: Here the stages: outputs of the blocks `feature_layers`, class token dropped.
        """
        outputs = clip.vision_model(
            pixel_values,
            interpolate_pos_encoding=True,
            output_hidden_states=True,
            output_attentions=output_attentions,
        )
        patch_size = self.config.clip_config.vision_config.patch_size
        grid = (pixel_values.shape[-2] // patch_size, pixel_values.shape[-1] // patch_size)
        stages = [
            outputs.hidden_states[layer][:, 1:] for layer in self.config.feature_layers
        ]  # (batch, tokens, hidden)
        maps = tuple(stage.transpose(1, 2).unflatten(2, grid) for stage in stages)  # (batch, hidden, height, width)
        return ImageFeatures(maps, outputs)

    def read(self, clip: Any, head: Any, feature_maps: tuple[Tensor, ...], text_embeds: Tensor) -> Tensor:
        """Reads the logits of all stages.

        Args:
            clip (`CLIPModel`): The model's.
            head (`nn.Module`, *optional*): What `build_head` gave.
            feature_maps (`tuple` of `torch.Tensor`): Those of `encode`.
            text_embeds (`torch.Tensor` of shape `(batch_size, 2, projection_dim)`): Order [normal, abnormal].

        Returns:
            `torch.Tensor` of shape `(batch_size, num_stages, 2, height, width)`: float32, on the token grid.
        """
        raise NotImplementedError

    def to_map(self, logits: Tensor, size: torch.Size) -> Tensor:
        """Makes the rough map of the logits: upsampled, squashed, averaged over the stages.

        Args:
            logits (`torch.Tensor` of shape `(batch_size, num_stages, 2, height, width)`): Those of `read`.
            size (`torch.Size`): (height, width) of CLIP's pixels.

        Returns:
            `torch.Tensor` of shape `(batch_size, *size)`: float32 in [0, 1].
        """
        # With two classes the softmax is the sigmoid of the difference, and interpolation is linear in it
        difference = logits[:, :, 1] - logits[:, :, 0]  # (batch, num_stages, height, width)
        patch_size = self.config.clip_config.vision_config.patch_size
        covered = (logits.shape[-2] * patch_size, logits.shape[-1] * patch_size)
        rough = F.interpolate(difference, covered, mode="bilinear").sigmoid().mean(dim=1)  # (batch, *covered)
        # CLIP ignores the rest of a side that is no multiple of the patch size: its border value is repeated there
        return F.pad(rough, (0, size[1] - covered[1], 0, size[0] - covered[0]), mode="replicate")


class UmciLocalizer(Localizer):
    """UMCI, the paper's trained interaction of language and features, one per stage [S]."""

    head_name = "umci"

    def build_head(self) -> nn.Module:
        return nn.ModuleList([ClipSamUmci(self.config) for _ in self.config.feature_layers])

    def read(self, clip: Any, head: Any, feature_maps: tuple[Tensor, ...], text_embeds: Tensor) -> Tensor:
        stages = [umci(feature_map, text_embeds) for umci, feature_map in zip(head, feature_maps, strict=True)]
        return torch.stack([stage.float() for stage in stages], dim=1)


class SimilarityLocalizer(Localizer):
    """Patch tokens in CLIP's joint space against the two texts; nothing to train.

    For study: on real CLIP the map of plain patch tokens is published to be below chance ("opposite visualisation",
    CLIP Surgery); `docs/method.md` has the figures.
    """

    def used_parts(self, clip: Any) -> list[Any]:
        return [*super().used_parts(clip), clip.vision_model.post_layernorm, clip.visual_projection, clip.logit_scale]

    def read(self, clip: Any, head: Any, feature_maps: tuple[Tensor, ...], text_embeds: Tensor) -> Tensor:
        scale, stages = clip.logit_scale.float().exp(), []
        for feature_map in feature_maps:
            tokens = clip.vision_model.post_layernorm(feature_map.permute(0, 2, 3, 1))  # (batch, h, w, hidden)
            patch_embeds = F.normalize(clip.visual_projection(tokens).float(), dim=-1)  # (batch, h, w, projection_dim)
            stages.append(scale * torch.einsum("bhwc,bkc->bkhw", patch_embeds, text_embeds.float()))
        return torch.stack(stages, dim=1)  # (batch, num_stages, 2, h, w)


LOCALIZERS: dict[str, type[Localizer]] = {"umci": UmciLocalizer, "similarity": SimilarityLocalizer}
"""The kinds by the configuration's `localizer`."""

__all__ = ["LOCALIZERS", "ImageFeatures", "Localizer", "SimilarityLocalizer", "UmciLocalizer"]
