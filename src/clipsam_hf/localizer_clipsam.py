# SPDX-FileCopyrightText: 2026 The clipsam_hf authors
# SPDX-License-Identifier: Apache-2.0
"""Localizers: ways to read the rough map from CLIP, behind one small interface.

A localizer encodes photographs to features that depend on them alone, so that they can be cached, and reads logits
from the features and the two texts. A new kind is a subclass of [`Localizer`], a line in `LOCALIZERS` and its name in
the configuration. Objects hold settings and no weights: CLIP, and the head if there is one, are handed in.
"""

import math
from collections.abc import Collection, Iterable, Sequence
from typing import Any, ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.modeling_outputs import BaseModelOutput

from .configuration_clipsam import ClipSamConfig
from .sam_attention_clipsam import is_unwatched
from .umci_clipsam import ClipSamUmci


class ImageFeatures(NamedTuple):
    """What a localizer keeps of photographs.

    Args:
        feature_maps (`tuple` of `torch.Tensor` of shape `(batch_size, channels, height, width)`): One per stage, on
            CLIP's token grid; cacheable.
        vision_outputs (`ModelOutput`, *optional*): What CLIP's vision tower answered. If it was not asked for as a
            whole, that is `hidden_states` alone, up to the last that is read, and `None` for those that are not.
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
        encode_fields (`tuple[str]`): Fields of the configuration that `encode` depends on beside `clip_config`: what
            a cache of its features is keyed by.
        caution (`str`, *optional*): What is said to whoever puts it on fresh backbones.
    """

    head_name: ClassVar[str | None] = None
    encode_fields: ClassVar[tuple[str, ...]] = ("feature_layers",)
    caution: ClassVar[str | None] = None

    def __init__(self, config: ClipSamConfig) -> None:
        self.config = config

    @property
    def num_feature_maps(self) -> int:
        """Number of feature maps of a photograph; each has the channels and the token grid of CLIP's vision tower."""
        return len(self.config.feature_layers)

    @property
    def stage_loss_weights(self) -> Sequence[float] | None:
        """Weights of the stages that `read` gives, in a loss; equal ones if `None`."""
        return self.config.stage_loss_weights

    @property
    def foreign_keys(self) -> set[str]:
        """Patterns of other kinds' tensors, which a checkpoint may hold and this kind leaves out on purpose."""
        names = {kind.head_name for kind in LOCALIZERS.values()} - {self.head_name, None}
        return {rf"^{name}\." for name in names}

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

    @property
    def read_layers(self) -> set[int]:
        """The states of CLIP's vision tower that `encode` reads, 0 before the first block; none later is computed."""
        return set(self.config.feature_layers)

    def encode(
        self,
        clip: Any,
        pixel_values: Tensor,
        *,
        layers: Iterable[int] = (),
        whole: bool = False,
        output_attentions: bool = False,
    ) -> ImageFeatures:
        """Computes the features of photographs.

        Args:
            clip (`CLIPModel`): The model's.
            pixel_values (`torch.Tensor` of shape `(batch_size, 3, height, width)`): Any size of at least one patch.
            layers (`Iterable[int]`): Further states of the vision tower that the caller reads.
            whole (`bool`): Whether the vision tower runs to its end and answers all that it can, which an
                `image_score` of `"text"` needs and gets anyway.
            output_attentions (`bool`): Whether the vision tower returns its attention weights.

        Returns:
            [`ImageFeatures`]: Here the stages: outputs of the blocks `feature_layers`, class token dropped.
        """
        outputs = self._look(clip, pixel_values, layers, whole, output_attentions)
        grid = self._grid_of(pixel_values)
        return ImageFeatures(
            tuple(_to_map(outputs.hidden_states[layer], grid) for layer in self.config.feature_layers), outputs
        )

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

    def join_stages(self, difference: Tensor) -> Tensor:
        """Makes one map of those of the stages; here the mean of their probabilities.

        Args:
            difference (`torch.Tensor` of shape `(batch_size, num_stages, height, width)`): How far the logit of
                "abnormal" is above the other.

        Returns:
            `torch.Tensor` of shape `(batch_size, height, width)`: In [0, 1].
        """
        return difference.sigmoid().mean(dim=1)

    def to_map(self, logits: Tensor, size: torch.Size) -> Tensor:
        """Makes the rough map of the logits: upsampled, squashed, the stages joined.

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
        rough = self.join_stages(F.interpolate(difference, covered, mode="bilinear"))  # (batch, *covered)
        # CLIP ignores the rest of a side that is no multiple of the patch size: its border value is repeated there
        return F.pad(rough, (0, size[1] - covered[1], 0, size[0] - covered[0]), mode="replicate")

    def _look(self, clip: Any, pixel_values: Tensor, layers: Iterable[int], whole: bool, attentions: bool) -> Any:
        """CLIP's vision tower on pixels of any size, no further than is read."""
        if whole or attentions or self.config.image_score == "text" or not is_unwatched([clip.vision_model]):
            return clip.vision_model(
                pixel_values,
                interpolate_pos_encoding=True,
                output_hidden_states=True,
                output_attentions=attentions,
            )
        return see(clip, pixel_values, self.read_layers | set(layers))

    def _grid_of(self, pixel_values: Tensor) -> tuple[int, int]:
        """(height, width) of the token grid; CLIP ignores the rest of a side."""
        patch_size = self.config.clip_config.vision_config.patch_size
        return pixel_values.shape[-2] // patch_size, pixel_values.shape[-1] // patch_size


class UmciLocalizer(Localizer):
    """UMCI, the paper's trained interaction of language and features, one per stage [S]."""

    head_name = "umci"
    caution = "The UMCI head is new: train it before use, or take `localizer='vv'`."

    def build_head(self) -> nn.Module:
        return nn.ModuleList([ClipSamUmci(self.config) for _ in self.config.feature_layers])

    def read(self, clip: Any, head: Any, feature_maps: tuple[Tensor, ...], text_embeds: Tensor) -> Tensor:
        stages = [umci(feature_map, text_embeds) for umci, feature_map in zip(head, feature_maps, strict=True)]
        return torch.stack([stage.float() for stage in stages], dim=1)


class SimilarityLocalizer(Localizer):
    """Patch tokens in CLIP's joint space against the two texts; nothing to train.

    For study, since it is known to fail: CLIP's last blocks move meaning between patches, and on real CLIP the map of
    plain patch tokens is published to be below chance ("opposite visualisation" in CLIP Surgery, arXiv 2304.05653).
    [`VvLocalizer`] is the one to use.
    """

    caution = (
        "`localizer='similarity'` is for study: on real CLIP its maps are known to be below chance. Take"
        " `localizer='vv'` to find defects."
    )

    def used_parts(self, clip: Any) -> list[Any]:
        return [*super().used_parts(clip), clip.vision_model.post_layernorm, clip.visual_projection, clip.logit_scale]

    def read(self, clip: Any, head: Any, feature_maps: tuple[Tensor, ...], text_embeds: Tensor) -> Tensor:
        scale = clip.logit_scale.float().exp()
        stages = [scale * _compare(clip, feature_map, text_embeds) for feature_map in feature_maps]
        return torch.stack(stages, dim=1)  # (batch, num_stages, 2, h, w)


class VvLocalizer(Localizer):
    """Value-value attention against the two texts; nothing to train.

    CLIP's last blocks move meaning between patches. Here a second path reads the states before these blocks: each
    block's attention is computed with its values in the place of queries and keys, so that a patch looks at patches
    like itself and its meaning stays at its place, and the answers of a stage's blocks are summed, without the
    feed-forward parts. The stages are the last `vv_num_stages` of those that `feature_layers` delimit; a sum starts at
    0 (SDP of CLIP-AD, arXiv 2311.00453), or with `vv_residual` at the state before the stage (CLIP Surgery, arXiv
    2304.05653). Cosines with the texts are divided by `text_temperature`; the stages' differences are averaged before
    the one sigmoid. For the last six blocks of CLIP ViT-L/14 at 518 pixels it costs 81 GFLOP, where CLIP itself takes
    1012.
    """

    encode_fields = ("localizer", "feature_layers", "vv_num_stages", "vv_residual")

    @property
    def num_feature_maps(self) -> int:
        return self.config.vv_num_stages

    @property
    def stage_loss_weights(self) -> Sequence[float] | None:
        weights = self.config.stage_loss_weights
        return None if weights is None else weights[-self.config.vv_num_stages :]

    def used_parts(self, clip: Any) -> list[Any]:
        # Of the last block, that is all that value-value attention has; those before it make the states
        vision, last = clip.vision_model, max(self.config.feature_layers)
        block = vision.encoder.layers[last - 1]
        return [
            vision.embeddings,
            vision.pre_layrnorm,
            *vision.encoder.layers[: last - 1],
            block.layer_norm1,
            block.self_attn.v_proj,
            block.self_attn.out_proj,
            vision.post_layernorm,
            clip.visual_projection,
        ]

    @property
    def _stages(self) -> list[tuple[int, int]]:
        """The first state and the last block of each stage."""
        borders = [0, *self.config.feature_layers]
        return list(zip(borders, borders[1:], strict=False))[-self.config.vv_num_stages :]

    @property
    def read_layers(self) -> set[int]:
        return {layer for first, last in self._stages for layer in range(first, last)}

    def encode(
        self,
        clip: Any,
        pixel_values: Tensor,
        *,
        layers: Iterable[int] = (),
        whole: bool = False,
        output_attentions: bool = False,
    ) -> ImageFeatures:
        outputs = self._look(clip, pixel_values, layers, whole, output_attentions)
        grid, states = self._grid_of(pixel_values), outputs.hidden_states
        maps = []
        for first, last in self._stages:
            total = states[first] if self.config.vv_residual else torch.zeros_like(states[first])
            for block, state in zip(clip.vision_model.encoder.layers[first:last], states[first:last], strict=True):
                total = total + _attend_by_value(block.self_attn, block.layer_norm1(state))  # (batch, 1 + n, hidden)
            maps.append(_to_map(total, grid))
        return ImageFeatures(tuple(maps), outputs)

    def read(self, clip: Any, head: Any, feature_maps: tuple[Tensor, ...], text_embeds: Tensor) -> Tensor:
        stages = [_compare(clip, feature_map, text_embeds) for feature_map in feature_maps]
        return torch.stack(stages, dim=1) / self.config.text_temperature  # (batch, num_stages, 2, h, w)

    def join_stages(self, difference: Tensor) -> Tensor:
        return difference.mean(dim=1).sigmoid()


class WindowsLocalizer(Localizer):
    """Windows that CLIP sees one by one (WinCLIP, arXiv 2303.14814) against the two texts; nothing to train.

    The photograph is embedded once; each window's tokens and the class token go through the encoder alone, and the
    class token is compared with the texts as an image is. A token's probability is the harmonic mean over the windows
    that cover it, which leans to normality, and then over `window_sizes` and the whole image.

    It is slow: CLIP ViT-L/14 at 518 pixels takes 11.3 TFLOP for a photograph with windows of 2 x 2 and 3 x 3 tokens at
    `window_stride` 1, 3.0 at 2, beside 1.0 for the whole image. The last window of a row reaches the border and a
    stride is at most the window's side, so that every token is covered; a window larger than the grid is as large as
    the grid.

    Feature maps are, per size and last for the whole image, the class tokens of the windows before the post layer
    norm, each at the place of its window's first token, 0 elsewhere.

    Attributes:
        chunk_size (`int`): So many windows go through the encoder at once, which bounds the memory.
    """

    encode_fields = ("localizer", "window_sizes", "window_stride")
    chunk_size: ClassVar[int] = 512

    @property
    def num_feature_maps(self) -> int:
        return len(self.config.window_sizes) + 1

    @property
    def stage_loss_weights(self) -> None:
        return None

    def used_parts(self, clip: Any) -> list[Any]:
        vision = clip.vision_model
        towards_texts = [vision.post_layernorm, clip.visual_projection]
        return [vision.embeddings, vision.pre_layrnorm, *vision.encoder.layers, *towards_texts]

    def encode(
        self,
        clip: Any,
        pixel_values: Tensor,
        *,
        layers: Iterable[int] = (),
        whole: bool = False,
        output_attentions: bool = False,
    ) -> ImageFeatures:
        # The class token of the whole image comes from the last block
        outputs = self._look(clip, pixel_values, layers, True, output_attentions)
        grid, tokens = self._grid_of(pixel_values), outputs.hidden_states[0]
        maps = [self._encode_windows(clip, tokens, self._windows_of(size, grid)) for size in self.config.window_sizes]
        everything = _Windows(grid, grid, [0], [0])
        return ImageFeatures((*maps, everything.to_map(outputs.last_hidden_state[:, :1])), outputs)

    def read(self, clip: Any, head: Any, feature_maps: tuple[Tensor, ...], text_embeds: Tensor) -> Tensor:
        *maps, whole = feature_maps
        height, width = whole.shape[-2:]
        # The harmonic mean of probabilities 1 / (1 + exp(-x)) is 1 / (1 + the mean of exp(-x)): exact in logits
        sizes = [-self._compare_places(clip, whole[..., :1, :1], text_embeds).expand(-1, height, width)]
        for size, feature_map in zip(self.config.window_sizes, maps, strict=True):
            windows = self._windows_of(size, (height, width))
            places = feature_map[:, :, windows.tops][..., windows.lefts]  # (batch, hidden, rows, columns)
            sizes.append(windows.average(-self._compare_places(clip, places, text_embeds)))
        logit = -_log_mean_exp(torch.stack(sizes, dim=1), dim=1)  # (batch, h, w)
        return torch.stack([torch.zeros_like(logit), logit], dim=1)[:, None]  # (batch, 1, 2, h, w)

    def _compare_places(self, clip: Any, places: Tensor, text_embeds: Tensor) -> Tensor:
        """Logits of the windows' probabilities: (batch, rows, columns)."""
        normal, abnormal = _compare(clip, places, text_embeds).unbind(dim=1)
        return (abnormal - normal) / self.config.text_temperature

    def _windows_of(self, size: int, grid: tuple[int, int]) -> "_Windows":
        sides = (min(size, grid[0]), min(size, grid[1]))
        starts = []
        for side, length in zip(sides, grid, strict=True):
            step = min(self.config.window_stride, side)
            starts.append([*range(0, length - side, step), length - side])
        return _Windows(grid, sides, *starts)

    def _encode_windows(self, clip: Any, tokens: Tensor, windows: "_Windows") -> Tensor:
        """Class tokens of windows, at their places: (batch, hidden, h, w)."""
        members = windows.members().to(tokens.device)  # (num_windows, 1 + area)
        chosen = torch.arange(len(tokens) * len(members), device=tokens.device)
        states = []
        for chunk in chosen.split(self.chunk_size):
            image, window = chunk // len(members), chunk % len(members)
            seen = tokens[image[:, None], members[window]]  # (chunk, 1 + area, hidden)
            states.append(clip.vision_model.encoder(inputs_embeds=seen).last_hidden_state[:, 0])
        return windows.to_map(torch.cat(states).unflatten(0, (len(tokens), len(members))))


class _Windows(NamedTuple):
    """Where windows lie on a token grid: their sides, and the rows and columns at which they begin."""

    grid: tuple[int, int]
    sides: tuple[int, int]
    tops: list[int]
    lefts: list[int]

    def members(self) -> Tensor:
        """Numbers of each window's tokens in CLIP's sequence, where 0 is the class token: (num_windows, 1 + area)."""
        number = 1 + torch.arange(self.grid[0] * self.grid[1]).unflatten(0, self.grid)
        inside = number.unfold(0, self.sides[0], 1).unfold(1, self.sides[1], 1)[self.tops][:, self.lefts]
        return F.pad(inside.flatten(2).flatten(0, 1), (1, 0))

    def to_map(self, states: Tensor) -> Tensor:
        """Puts each window's state (batch, num_windows, hidden) at its first token: (batch, hidden, h, w)."""
        places = torch.tensor(self.tops)[:, None] * self.grid[1] + torch.tensor(self.lefts)  # (rows, columns)
        flat = states.new_zeros(len(states), self.grid[0] * self.grid[1], states.shape[-1])
        flat = flat.index_copy(1, places.flatten().to(states.device), states)
        return flat.transpose(1, 2).unflatten(2, self.grid)

    def average(self, values: Tensor) -> Tensor:
        """Log of the mean exponential over the windows that cover a token: (batch, rows, columns) to (batch, h, w)."""
        dense = values.new_full((len(values), *self.grid), -math.inf)
        dense[:, torch.tensor(self.tops)[:, None], torch.tensor(self.lefts)] = values
        # A token is covered by the windows that begin on it or up to a side before it
        rows, columns = self.sides
        padded = F.pad(dense, (columns - 1, 0, rows - 1, 0), value=-math.inf)
        covering = padded.unfold(1, rows, 1).unfold(2, columns, 1).flatten(3)  # (batch, h, w, area)
        return _log_mean_exp(covering, dim=3)


def see(clip: Any, pixel_values: Tensor, layers: Collection[int]) -> BaseModelOutput:
    """Runs CLIP's vision tower on pixels of any size as far as its states are read.

    Args:
        clip (`CLIPModel`): The model's.
        pixel_values (`torch.Tensor` of shape `(batch_size, 3, height, width)`): Any size of at least one patch.
        layers (`Collection[int]`): Which states are read: those after so many blocks. At least one.

    Returns:
        `BaseModelOutput`: With `hidden_states` up to the last of them, `None` for those that are not read.
    """
    vision = clip.vision_model
    hidden = vision.pre_layrnorm(vision.embeddings(pixel_values, interpolate_pos_encoding=True))
    states: list[Any] = [hidden if 0 in layers else None]
    for number, block in enumerate(vision.encoder.layers[: max(layers)], start=1):
        hidden = block(hidden, None)
        states.append(hidden if number in layers else None)
    return BaseModelOutput(hidden_states=tuple(states))


def _to_map(states: Tensor, grid: tuple[int, int]) -> Tensor:
    """Drops the class token of states (batch, 1 + tokens, hidden): (batch, hidden, h, w)."""
    return states[:, 1:].transpose(1, 2).unflatten(2, grid)


def _compare(clip: Any, feature_map: Tensor, text_embeds: Tensor) -> Tensor:
    """Cosines of tokens in CLIP's joint space with the two texts: (batch, 2, h, w), float32."""
    tokens = feature_map.permute(0, 2, 3, 1).to(clip.visual_projection.weight.dtype)  # (batch, h, w, hidden)
    tokens = clip.vision_model.post_layernorm(tokens)
    patch_embeds = F.normalize(clip.visual_projection(tokens).float(), dim=-1)  # (batch, h, w, projection_dim)
    return torch.einsum("bhwc,bkc->bkhw", patch_embeds, text_embeds.float())


def _attend_by_value(attention: Any, hidden: Tensor) -> Tensor:
    """A block's attention with its values as queries and keys: (batch, tokens, hidden)."""
    value = attention.v_proj(hidden).unflatten(-1, (-1, attention.head_dim)).transpose(1, 2)  # (batch, heads, n, dim)
    mixed = F.scaled_dot_product_attention(value, value, value, scale=attention.scale)
    return attention.out_proj(mixed.transpose(1, 2).flatten(2))


def _log_mean_exp(values: Tensor, dim: int) -> Tensor:
    """Log of the mean exponential; entries of minus infinity are no entries."""
    return values.logsumexp(dim) - values.isfinite().sum(dim).log()


LOCALIZERS: dict[str, type[Localizer]] = {
    "umci": UmciLocalizer,
    "vv": VvLocalizer,
    "windows": WindowsLocalizer,
    "similarity": SimilarityLocalizer,
}
"""The kinds by the configuration's `localizer`."""

__all__ = [
    "LOCALIZERS",
    "ImageFeatures",
    "Localizer",
    "SimilarityLocalizer",
    "UmciLocalizer",
    "VvLocalizer",
    "WindowsLocalizer",
    "see",
]
