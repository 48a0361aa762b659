# SPDX-FileCopyrightText: 2026 The clipsam_hf authors
# SPDX-License-Identifier: Apache-2.0
"""
A DINOv2 as a `CLIPVisionModel`: the same numbers, in the architecture that the package reads. And as the encoder of a
SAM, which holds all of it but the class token.

Where DINOv2 and CLIP differ, and what makes up for it:

* CLIP has no layer scale, and no bias on its patches: they are folded into what stands before them.
* CLIP normalises the embeddings before its first block, which DINOv2 does not. The network is widened by channels that
  hold a constant there, so large that it alone decides the standard deviation: the layer norm divides by what is known
  and its weight multiplies by it. Its weight for the new channels is 0, so that they are empty from then on.
* Later layer norms would see the empty channels: all that is written to the residual stream is made free of its mean,
  which DINOv2's layer norms take off anyway, so that the mean is 0 with and without them; the variance is smaller by
  384 / 396, which the weights and epsilon take up.
* The heads are wider: their new channels are 0, and the queries make up for the other scale of the scalar product.
"""

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import CLIPVisionConfig, CLIPVisionModel, Dinov2Model, SamVisionConfig
from transformers.models.sam.modeling_sam import SamVisionEncoder


__all__ = ["LEVEL", "to_clip_vision", "to_sam_vision"]

LEVEL = 512.0
"""The constant of the new channels: exact in half precision, and far above any embedding."""


@torch.no_grad()
def to_clip_vision(dinov2: Dinov2Model, *, num_layers: int, widening: int = 2) -> CLIPVisionModel:
    """
    Return the first blocks of a DINOv2 as CLIP's vision tower.

    Its hidden states are those of the DINOv2, less each token's mean over the channels, and followed by channels of 0.

    Args:
        dinov2: The network; with plain MLPs.
        num_layers: So many blocks are kept.
        widening: So many channels are added to each head; the sum over the heads is even, for the constant to have no
            mean.

    Raises:
        ValueError: If there are not so many blocks, or the DINOv2 is of a kind that CLIP cannot hold.
    """
    config = dinov2.config
    _check_kind(dinov2, num_layers)
    width, heads = config.hidden_size, config.num_attention_heads
    wide = width + heads * widening
    if (wide - width) % 2 or widening < 1:
        raise ValueError(f"{heads} heads cannot be widened by {widening} each: the sum must be even and positive.")
    clip = CLIPVisionModel(
        CLIPVisionConfig(
            hidden_size=wide,
            intermediate_size=int(width * config.mlp_ratio),
            num_hidden_layers=num_layers,
            num_attention_heads=heads,
            image_size=config.image_size,
            patch_size=config.patch_size,
            hidden_act=config.hidden_act,
            layer_norm_eps=config.layer_norm_eps * width / wide,
        )
    )
    source = {name: tensor.double() for name, tensor in dinov2.state_dict().items()}
    state = _embeddings(source, width, wide, config.layer_norm_eps * width / wide)
    for number in range(num_layers):
        prefix, block = f"encoder.layers.{number}.", _Block(source, f"encoder.layer.{number}.", heads, widening)
        state |= {prefix + name: tensor for name, tensor in block.convert().items()}
    # What comes after the last block that is kept: the next one's layer norm, or the network's last
    after = f"encoder.layer.{num_layers}.norm1" if num_layers < config.num_hidden_layers else "layernorm"
    norm = _norm(source[f"{after}.weight"], source[f"{after}.bias"], wide)
    state |= {f"post_layernorm.{name}": tensor for name, tensor in norm.items()}
    clip.load_state_dict({name: tensor.float() for name, tensor in state.items()})
    return clip.eval()


def _check_kind(dinov2: Dinov2Model, num_layers: int) -> None:
    """Raise a ValueError if there are not so many blocks, or if they are gated or without biases."""
    config = dinov2.config
    if not 1 <= num_layers <= config.num_hidden_layers:
        raise ValueError(f"`num_layers` must lie between 1 and {config.num_hidden_layers}, got {num_layers}.")
    if config.use_swiglu_ffn or not config.qkv_bias:
        raise ValueError("A DINOv2 with gated MLPs or without biases of its attention has no equal in CLIP or SAM.")


def _embeddings(source: dict[str, Tensor], width: int, wide: int, eps: float) -> dict[str, Tensor]:
    """The embeddings and the layer norm after them, which together give the embeddings and empty channels."""
    level = LEVEL * torch.tensor([1.0, -1.0], dtype=torch.double).repeat((wide - width) // 2)
    patches = _pad(_centre(source["embeddings.patch_embeddings.projection.weight"]), wide)
    positions = source["embeddings.position_embeddings"][0].clone()  # (1 + num_patches, width)
    positions[1:] += source["embeddings.patch_embeddings.projection.bias"]
    positions = torch.cat([_centre(positions.T).T, level.expand(len(positions), -1)], dim=1)
    deviation = math.sqrt(float(level.square().sum()) / wide + eps)
    kept = torch.arange(wide) < width
    return {
        "embeddings.patch_embedding.weight": patches,
        "embeddings.class_embedding": _pad(_centre(source["embeddings.cls_token"].flatten()), wide),
        "embeddings.position_embedding.weight": positions,
        "pre_layrnorm.weight": deviation * kept,
        "pre_layrnorm.bias": torch.zeros(wide),
    }


def _centre(rows: Tensor) -> Tensor:
    """Take off the mean over the first dimension, that of the channels that are written to."""
    return rows - rows.mean(dim=0, keepdim=True)


def _pad(tensor: Tensor, *sizes: int) -> Tensor:
    """Append zeros to the first dimensions up to these sizes."""
    padded = tensor.new_zeros(*sizes, *tensor.shape[len(sizes) :])
    padded[tuple(slice(size) for size in tensor.shape)] = tensor
    return padded


def _norm(weight: Tensor, bias: Tensor, wide: int) -> dict[str, Tensor]:
    """A layer norm that sees empty channels beside its own."""
    return {"weight": _pad(math.sqrt(len(weight) / wide) * weight, wide), "bias": _pad(bias, wide)}


class _Block:
    """One block of a DINOv2, its tensors by the name that they have in the block."""

    def __init__(self, source: dict[str, Tensor], prefix: str, heads: int, widening: int) -> None:
        self.source = {name.removeprefix(prefix): each for name, each in source.items() if name.startswith(prefix)}
        self.heads, self.widening = heads, widening
        self.width = len(self.source["norm1.weight"])
        self.wide = self.width + heads * widening

    def convert(self) -> dict[str, Tensor]:
        """Return the tensors of CLIP's block."""
        state = {
            f"layer_norm{number}.{name}": tensor
            for number in (1, 2)
            for name, tensor in _norm(*self._pair(f"norm{number}"), self.wide).items()
        }
        head = self.width // self.heads
        for name in ("q", "k", "v"):
            factor = math.sqrt((head + self.widening) / head) if name == "q" else 1.0
            weight, bias = self._pair(f"attention.{name}_proj")
            state |= _name(
                f"self_attn.{name}_proj",
                _pad(self._widen(factor * weight), self.wide, self.wide),
                self._widen(factor * bias),
            )
        weight, bias = self._written("attention.o_proj", "layer_scale1")
        weight = self._widen(weight.T).T
        state |= _name("self_attn.out_proj", _pad(weight, self.wide, self.wide), _pad(bias, self.wide))
        weight, bias = self._pair("mlp.fc1")
        state |= _name("mlp.fc1", _pad(weight, len(weight), self.wide), bias)
        weight, bias = self._written("mlp.fc2", "layer_scale2")
        return state | _name("mlp.fc2", _pad(weight, self.wide), _pad(bias, self.wide))

    def _pair(self, name: str) -> tuple[Tensor, Tensor]:
        return _pair(self.source, name)

    def _written(self, name: str, scale: str) -> tuple[Tensor, Tensor]:
        """Of a layer that writes to the residual stream: scaled, and free of its mean over the channels."""
        weight, bias = self._pair(name)
        factor = self.source[f"{scale}.lambda1"]
        return _centre(factor[:, None] * weight), _centre(factor * bias)

    def _widen(self, rows: Tensor) -> Tensor:
        """Append rows of 0 to each head's: (width, ...) to (wide, ...)."""
        parts = rows.unflatten(0, (self.heads, -1))  # (heads, head, ...)
        return _pad(parts, self.heads, parts.shape[1] + self.widening).flatten(0, 1)


def _pair(source: dict[str, Tensor], layer: str) -> tuple[Tensor, Tensor]:
    return source[f"{layer}.weight"], source[f"{layer}.bias"]


def _name(layer: str, weight: Tensor, bias: Tensor) -> dict[str, Any]:
    return {f"{layer}.weight": weight, f"{layer}.bias": bias}


@torch.no_grad()
def to_sam_vision(dinov2: Dinov2Model, config: SamVisionConfig) -> SamVisionEncoder:
    """
    Return the first blocks of a DINOv2 as SAM's vision encoder, with a new neck.

    There is no class token, and most blocks attend within windows: up to these two the states of the last block are
    DINOv2's own.

    Args:
        dinov2: The network; with plain MLPs.
        config: So many blocks are kept; their width, heads and patches are those of the DINOv2.

    Raises:
        ValueError: If the two do not fit together.
    """
    own: Any = dinov2.config
    fit = {
        "hidden_size": own.hidden_size,
        "num_attention_heads": own.num_attention_heads,
        "patch_size": own.patch_size,
        "mlp_dim": int(own.hidden_size * own.mlp_ratio),
        "hidden_act": own.hidden_act,
        "layer_norm_eps": own.layer_norm_eps,
        "use_rel_pos": False,
    }
    if wrong := {name: getattr(config, name) for name, value in fit.items() if getattr(config, name) != value}:
        raise ValueError(
            f"SAM's encoder needs { ({name: fit[name] for name in wrong}) } for this DINOv2, got {wrong}."
        )
    _check_kind(dinov2, config.num_hidden_layers)
    source = {name: tensor.double() for name, tensor in dinov2.state_dict().items()}
    sam: Any = config
    side = sam.image_size // sam.patch_size
    positions = source["embeddings.position_embeddings"][0, 1:]  # (num_patches, hidden_size)
    table = positions.T.unflatten(1, (-1, own.image_size // own.patch_size))[None]
    table = F.interpolate(table, size=(side, side), mode="bicubic", align_corners=False)
    state = _name("patch_embed.projection", *_pair(source, "embeddings.patch_embeddings.projection"))
    state["pos_embed"] = table.permute(0, 2, 3, 1)
    for number in range(config.num_hidden_layers):
        theirs, prefix = f"encoder.layer.{number}.", f"layers.{number}."
        queries = [_pair(source, f"{theirs}attention.{name}_proj") for name in ("q", "k", "v")]
        weights, biases = zip(*queries, strict=True)
        state |= _name(f"{prefix}attn.qkv", torch.cat(weights), torch.cat(biases))
        state |= _name(f"{prefix}mlp.lin1", *_pair(source, f"{theirs}mlp.fc1"))
        for ours, written, scale in (("attn.proj", "attention.o_proj", 1), ("mlp.lin2", "mlp.fc2", 2)):
            weight, bias = _pair(source, theirs + written)
            factor = source[f"{theirs}layer_scale{scale}.lambda1"]
            state |= _name(prefix + ours, factor[:, None] * weight, factor * bias)
            state |= _name(f"{prefix}layer_norm{scale}", *_pair(source, f"{theirs}norm{scale}"))
    encoder = SamVisionEncoder(config)
    neck = {name: tensor for name, tensor in encoder.state_dict().items() if name.startswith("neck.")}
    encoder.load_state_dict({name: tensor.float() for name, tensor in (state | neck).items()})
    return encoder.eval()
