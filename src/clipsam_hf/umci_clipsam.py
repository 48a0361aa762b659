# SPDX-FileCopyrightText: 2026 The clipsam_hf authors
# SPDX-License-Identifier: Apache-2.0
"""UMCI, unified multi-scale cross-modal interaction: where language meets the visual features of one CLIP stage.

Two independent paths, strip and scale, let image and text read each other; their outputs are fused with the stage's
own feature ([S] and [D] in docs/method.md). Shapes: `hidden_size` is UMCI's width, height and width the token grid.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .configuration_clipsam import ClipSamConfig


# Not named "...Attention": the library's `set_attn_implementation` would take it for one that it can exchange.
class ClipSamInteraction(nn.Module):
    """One modality reads another: single-head scaled dot-product attention, no norm, no output projection."""

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.query = nn.Linear(hidden_size, hidden_size)
        self.key = nn.Linear(hidden_size, hidden_size)
        self.value = nn.Linear(hidden_size, hidden_size)

    def forward(self, reader: Tensor, source: Tensor) -> Tensor:
        """(batch_size, num_readers, hidden_size), (batch_size, num_sources, hidden_size) -> as `reader`."""
        # One head, with its axis: not every backend and no exporter takes attention of three dimensions
        query, key, value = self.query(reader), self.key(source), self.value(source)
        return F.scaled_dot_product_attention(query[:, None], key[:, None], value[:, None])[:, 0]


class ClipSamStripPath(nn.Module):
    """Row-column interaction in two attentions: the text reads the image, then the image reads that text [S].

    Only the directions that are used are built: a parameter without gradient would stop distributed training.
    """

    def __init__(self, hidden_size: int, kernel_size: int, directions: Sequence[str] = ("row", "column")) -> None:
        super().__init__()
        padding = kernel_size // 2
        if "row" in directions:
            self.row_conv = nn.Conv2d(hidden_size, hidden_size, (kernel_size, 1), padding=(padding, 0))
        if "column" in directions:
            self.column_conv = nn.Conv2d(hidden_size, hidden_size, (1, kernel_size), padding=(0, padding))
        if "row" in directions:
            self.row_text = ClipSamInteraction(hidden_size)
            self.row_image = ClipSamInteraction(hidden_size)
        if "column" in directions:
            self.column_text = ClipSamInteraction(hidden_size)
            self.column_image = ClipSamInteraction(hidden_size)
        self.directions = tuple(directions)

    def forward(self, visual: Tensor, text: Tensor) -> dict[str, Tensor]:
        """(batch_size, hidden_size, height, width), (batch_size, 2, hidden_size) -> by direction, as `visual`."""
        maps = {}
        for direction in self.directions:
            # Pool each row over the width, each column over the height
            pooled = visual.mean(dim=3 if direction == "row" else 2, keepdim=True)
            strip = getattr(self, f"{direction}_conv")(pooled).flatten(2).transpose(1, 2)  # (batch, strips, hidden)

            # Let the text learn what this image looks like, then let the image read that text
            learned = text + getattr(self, f"{direction}_text")(text, strip)  # (batch, 2, hidden)
            strip = getattr(self, f"{direction}_image")(strip, learned).transpose(1, 2)  # (batch, hidden, strips)

            # Bilinear interpolation of one row or column to the whole grid is a repetition
            strip = strip[:, :, :, None] if direction == "row" else strip[:, :, None, :]
            maps[direction] = strip.expand_as(visual)  # (batch, hidden, height, width)
        return maps


class ClipSamScalePath(nn.Module):
    """Multi-scale interaction in one attention: the pooled image reads the text [S]; the scales are fused by 1x1."""

    def __init__(self, hidden_size: int, scale_sizes: tuple[int, ...], interpolation: str = "aligned") -> None:
        super().__init__()
        self.scale_sizes, self.interpolation = scale_sizes, interpolation
        self.interactions = nn.ModuleList([ClipSamInteraction(hidden_size) for _ in scale_sizes])
        self.fuse = nn.Conv2d(len(scale_sizes) * hidden_size, hidden_size, kernel_size=1)

    def forward(self, visual: Tensor, text: Tensor) -> Tensor:
        """(batch_size, hidden_size, height, width), (batch_size, 2, hidden_size) -> as `visual`."""
        scales = []
        for size, interaction in zip(self.scale_sizes, self.interactions, strict=True):
            # A grid smaller than the kernel (a small input) is pooled to one cell
            kernel = (min(size, visual.shape[2]), min(size, visual.shape[3]))
            pooled = F.avg_pool2d(visual, kernel, ceil_mode=True)  # (batch, hidden, pooled_height, pooled_width)
            read = interaction(
                pooled.flatten(2).transpose(1, 2), text
            )  # (batch, pooled_height * pooled_width, hidden)
            read = read.transpose(1, 2).reshape(pooled.shape)
            scales.append(self._upsample(read, kernel, visual.shape[2:]))
        return self.fuse(torch.cat(scales, dim=1))

    def _upsample(self, cells: Tensor, kernel: tuple[int, int], size: torch.Size) -> Tensor:
        """(batch_size, hidden_size, pooled_height, pooled_width) -> (batch_size, hidden_size, *size)."""
        if self.interpolation == "stretched":
            return F.interpolate(cells, size, mode="bilinear")
        # The last cell may reach beyond the grid: give it its whole size, then cut
        whole = (cells.shape[2] * kernel[0], cells.shape[3] * kernel[1])
        return F.interpolate(cells, whole, mode="bilinear")[:, :, : size[0], : size[1]]


class ClipSamUmci(nn.Module):
    """Unified multi-scale cross-modal interaction of one stage: feature map and two texts -> two-class logits."""

    def __init__(self, config: ClipSamConfig) -> None:
        super().__init__()
        hidden_size = config.umci_hidden_size
        self.fused_features = tuple(config.fused_features)
        self.visual_projection = nn.Conv2d(config.clip_config.vision_config.hidden_size, hidden_size, kernel_size=1)
        if config.head == "text" or self.fused_features != ("original",):
            self.text_projection = nn.Linear(config.clip_config.projection_dim, hidden_size)
        self.normalize_features = config.normalize_features
        directions = [name for name in ("row", "column") if name in self.fused_features]
        if directions:
            self.strip_path = ClipSamStripPath(hidden_size, config.strip_kernel_size, directions)
        if "scale" in self.fused_features:
            self.scale_path = ClipSamScalePath(hidden_size, tuple(config.scale_sizes), config.scale_interpolation)
        self.fuse = nn.Conv2d(len(self.fused_features) * hidden_size, hidden_size, kernel_size=3, padding=1)
        self.classifier = nn.Conv2d(hidden_size, 2, kernel_size=1) if config.head == "conv" else None

    def forward(self, feature_map: Tensor, text_embeds: Tensor) -> Tensor:
        """(batch_size, d_vision, height, width), (batch_size, 2, d_text) -> (batch_size, 2, height, width)."""
        # Bring both modalities to the same width, in the head's own precision
        dtype = self.visual_projection.weight.dtype
        feature_map = feature_map.to(dtype)
        if self.normalize_features:
            feature_map = F.layer_norm(feature_map.movedim(1, -1), feature_map.shape[1:2]).movedim(-1, 1)
        visual = self.visual_projection(feature_map)  # (batch, hidden, height, width)
        text = self.text_projection(text_embeds.to(dtype)) if hasattr(self, "text_projection") else None

        # Run the two independent paths, as far as they are used
        features = {"original": visual}
        if {"row", "column"} & set(self.fused_features):
            features |= self.strip_path(visual, text)
        if "scale" in self.fused_features:
            features["scale"] = self.scale_path(visual, text)

        # Fuse; without V_ori ("original") the head would see almost no spatial detail
        fused = self.fuse(torch.cat([features[name] for name in self.fused_features], dim=1)).relu()
        if self.classifier is not None:
            return self.classifier(fused)
        return torch.einsum("bchw,bkc->bkhw", fused, text) / fused.shape[1] ** 0.5


__all__ = ["ClipSamInteraction", "ClipSamScalePath", "ClipSamStripPath", "ClipSamUmci"]
