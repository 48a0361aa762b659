# SPDX-FileCopyrightText: 2026 The clipsam_hf authors
# SPDX-License-Identifier: Apache-2.0
"""SAM and SAM-HQ with the library's weights and modules, but another order of work: the same numbers, sooner.

The encoder. The library pads the feature map for the windows and then projects it to queries, keys and values: at
1024 pixels a fifth of that work is for padding. Here the projection comes first, and a padded position gets what the
projection makes of zeros. The relative positions are a bias of one value for each pair of positions, 4096 x 4096 x
heads in a global block; here no such tensor exists: on a CPU it is made for some rows at a time, on an accelerator it
is folded into longer queries and keys (a key says its row and column by a one among zeros), so that flash kernels
apply.

The decoder. Attention is bilinear in what is projected: (q W) (k V)' = (q W V') k'. A prompt has a dozen tokens and an
image 4096 positions, so the weights of the image's side are applied to the tokens, and the image is not projected. In
the first layer, where all prompts see the same image, it is projected once. The upsampling of the masks is two matrix
products and one rearrangement of the few masks, instead of rearrangements of all channels.

Where a network is not exactly as the library builds it, or somebody watches its inside (hooks, export, compilation,
training), `can_encode` and `can_decode` say no, and the library's own forward is what runs.
"""

from collections.abc import Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


_LIBRARY = ("transformers.models.sam.modeling_sam", "transformers.models.sam_hq.modeling_sam_hq")

_ACTIVATIONS = "transformers.activations"

# Values of the bias, and of an intermediate layer, that exist at a time on a CPU, per thread: 4 MiB in float32
_VALUES_AT_ONCE = 2**20

# Weights on the side of the tokens pay as long as there are few of them
_MOST_TOKENS = 32

# Of an image, whose channels are upsampled at a time on a CPU, so that they stay in its cache
_MOST_POSITIONS = 1024


def can_encode(encoder: Any) -> bool:
    """Tells whether `encode_photographs` may take the place of a vision encoder's own forward.

    Args:
        encoder (`SamVisionEncoder` or `SamHQVisionEncoder`): In any state.

    Returns:
        `bool`: Whether it is the library's, unchanged, with relative positions, and nobody watches its inside.
    """
    if not _is_library(encoder, "VisionEncoder") or encoder.training or not isinstance(encoder.image_size, int):
        return False
    # What is inside these modules is called as the library calls it, and may be anything: quantised, adapted, moved
    for layer in encoder.layers:
        attention = layer.attn
        if not (
            _is_library(layer, "VisionLayer") and _is_library(attention, "VisionAttention", "VisionSdpaAttention")
        ):
            return False
        side = layer.window_size or encoder.config.image_size // encoder.config.patch_size
        if not attention.use_rel_pos or {len(attention.rel_pos_h), len(attention.rel_pos_w)} != {2 * side - 1}:
            return False
    return is_unwatched([encoder, *encoder.layers, *(layer.attn for layer in encoder.layers)])


@torch.no_grad()
def encode_photographs(encoder: Any, pixel_values: Tensor) -> tuple[Tensor, Tensor | None]:
    """Computes what a vision encoder makes of photographs, within 5e-5 of its own forward in float32.

    On a CPU, photographs go one after the other: together they would only crowd each other out of its cache.

    Args:
        encoder (`SamVisionEncoder` or `SamHQVisionEncoder`): One that `can_encode`.
        pixel_values (`torch.Tensor` of shape `(batch_size, 3, side, side)`): Padded to the square, in its dtype.

    Returns:
        `torch.Tensor` of shape `(batch_size, output_channels, height, width)`: The image embeddings.
        `torch.Tensor` of shape `(batch_size, height, width, hidden_size)`, *optional*: What the first global block
        gave, which SAM-HQ reads; `None` if there is no such block.
    """
    if pixel_values.device.type == "cpu" and len(pixel_values) > 1:
        embeddings, early = zip(*(encode_photographs(encoder, one) for one in pixel_values.split(1)), strict=True)
        return torch.cat(embeddings), None if early[0] is None else torch.cat(early)
    hidden = encoder.patch_embed(pixel_values).contiguous()  # (batch, height, width, hidden_size)
    if encoder.pos_embed is not None:
        hidden = hidden + encoder.pos_embed
    first_global = None
    for layer in encoder.layers:
        hidden = hidden + _attend_in_windows(layer, layer.layer_norm1(hidden))
        _add_feed_forward(layer, hidden)
        if first_global is None and layer.window_size == 0:
            first_global = hidden
    return encoder.neck(hidden), first_global


def _attend_in_windows(layer: Any, hidden: Tensor) -> Tensor:
    """A block's attention, over windows or over the whole: (batch, height, width, hidden_size), likewise."""
    attention, side = layer.attn, layer.window_size or hidden.shape[1]
    batch, height, width, _ = hidden.shape
    qkv = attention.qkv(hidden)  # (batch, height, width, 3 * hidden_size)
    padding = -height % side
    of_zeros = attention.qkv(hidden.new_zeros(1, hidden.shape[-1]))[0] if padding else None
    # On a CPU one row of windows at a time, so that the padded copy stays small
    step = side if hidden.device.type == "cpu" else height + padding
    mixed = hidden  # the norm's answer, which nobody reads again, gives its memory
    for top in range(0, height, step):
        strip = qkv[:, top : top + step]
        rows = strip.shape[1]
        if of_zeros is not None:
            full = of_zeros.expand(batch, step, width + padding, -1).clone()
            full[:, :rows, :width] = strip
            strip = full
        windows = _attend(attention, _to_windows(strip, side))
        mixed[:, top : top + rows] = _from_windows(windows, batch, strip.shape[1], strip.shape[2])[:, :rows, :width]
    projected: Tensor = attention.proj(mixed)
    return projected


def _to_windows(hidden: Tensor, side: int) -> Tensor:
    """(batch, height, width, channels), multiples of the side, to (batch * num_windows, side, side, channels)."""
    windows = hidden.unflatten(2, (-1, side)).unflatten(1, (-1, side))  # (batch, rows, side, columns, side, channels)
    return windows.transpose(2, 3).flatten(0, 2)


def _from_windows(windows: Tensor, batch: int, height: int, width: int) -> Tensor:
    """The way back: (batch, height, width, channels)."""
    side = windows.shape[1]
    return (
        windows.reshape(batch, height // side, width // side, side, side, -1)
        .transpose(2, 3)
        .reshape(batch, height, width, -1)
    )


def _attend(attention: Any, qkv: Tensor) -> Tensor:
    """Attention with relative positions within windows: (windows, side, side, 3 * hidden), to (..., hidden)."""
    count, side, _, _ = qkv.shape
    heads = attention.num_attention_heads
    parts = qkv.reshape(count, side * side, 3, heads, -1)
    # One axis for windows and heads: every pair of them is an attention of its own
    query, key, value = (each.transpose(1, 2).flatten(0, 1) for each in parts.unbind(2))  # (pairs, positions, dim)
    grid = query.unflatten(1, (side, side))
    offsets = torch.arange(side, device=qkv.device)
    offsets = offsets[:, None] - offsets + side - 1
    rows = torch.einsum("phwc,hkc->phwk", grid, attention.rel_pos_h[offsets]).flatten(1, 2)  # (pairs, positions, side)
    columns = torch.einsum("phwc,wkc->phwk", grid, attention.rel_pos_w[offsets]).flatten(1, 2)
    on_cpu = qkv.device.type == "cpu"
    mixed = (_attend_in_chunks if on_cpu else _attend_folded)(query, key, value, rows, columns, attention.scale)
    return mixed.unflatten(0, (count, heads)).transpose(1, 2).reshape(count, side, side, -1)


def _attend_in_chunks(
    query: Tensor, key: Tensor, value: Tensor, rows: Tensor, columns: Tensor, scale: float
) -> Tensor:
    """Attention of (pairs, positions, dim), the bias made for some pairs and some queries at a time."""
    pairs, positions, _ = query.shape
    budget = _VALUES_AT_ONCE * max(2, torch.get_num_threads())
    queries = min(positions, max(1, budget // positions))
    step = max(1, budget // (queries * positions))
    mixed = torch.empty_like(query)
    for first in range(0, pairs, step):
        pair = slice(first, first + step)
        for start in range(0, positions, queries):
            part = (pair, slice(start, start + queries))
            bias = (rows[part][..., :, None] + columns[part][..., None, :]).flatten(2)  # (step, queries, positions)
            # The four dimensions are what makes the CPU's flash kernel apply
            mixed[part] = F.scaled_dot_product_attention(
                query[part][None], key[pair][None], value[pair][None], attn_mask=bias[None], scale=scale
            )[0]
    return mixed


def _attend_folded(query: Tensor, key: Tensor, value: Tensor, rows: Tensor, columns: Tensor, scale: float) -> Tensor:
    """Attention of (pairs, positions, dim), the bias as a part of the scalar products."""
    side, dim = rows.shape[-1], query.shape[-1]
    one_hot = torch.eye(side, dtype=key.dtype, device=key.device)
    places = torch.cat([one_hot.repeat_interleave(side, 0), one_hot.repeat(side, 1)], dim=1)  # (positions, 2 * side)
    longer_query = torch.cat([query * scale, rows, columns], dim=-1)
    longer_key = torch.cat([key, places.expand(len(key), -1, -1)], dim=-1)
    # Flash kernels want one length for all three, and a multiple of 8
    length = longer_query.shape[-1] + -longer_query.shape[-1] % 8
    query, key, value = (F.pad(each, (0, length - each.shape[-1]))[None] for each in (longer_query, longer_key, value))
    return F.scaled_dot_product_attention(query, key, value, scale=1.0)[0, ..., :dim]


def _add_feed_forward(layer: Any, hidden: Tensor) -> None:
    """Adds a block's perceptron to (batch, height, width, hidden_size) in place, on a CPU some positions at a time."""
    positions = hidden.view(-1, hidden.shape[-1])
    step = len(positions)
    if hidden.device.type == "cpu":
        step = max(1, _VALUES_AT_ONCE * max(2, torch.get_num_threads()) // (4 * hidden.shape[-1]))
    for part in positions.split(step):
        part += layer.mlp(layer.layer_norm2(part))


def can_decode(sam: Any, num_tokens: int) -> bool:
    """Tells whether `decode_prompts` may take the place of a network's own forward.

    Args:
        sam (`SamModel`): In any state.
        num_tokens (`int`): Points and corners of a prompt.

    Returns:
        `bool`: Whether its decoder is the library's, unchanged and unwatched, and a prompt has few tokens.
    """
    decoder = sam.mask_decoder
    if not _is_library(sam, "Model") or not _is_library(decoder, "MaskDecoder") or decoder.training:
        return False
    if type(sam).__name__ != "SamModel" or num_tokens > _MOST_TOKENS:
        return False
    # Weights are read here, so every module must be one of those that the library builds it of
    plain = (nn.Linear, nn.LayerNorm, nn.Embedding, nn.Conv2d, nn.ConvTranspose2d, nn.ModuleList, nn.GELU, nn.ReLU)
    modules = list(decoder.modules())
    are_known = all(type(each) in plain or type(each).__module__ in (*_LIBRARY, _ACTIVATIONS) for each in modules)
    # torchao's weights are tensors of another kind in the library's own modules
    are_plain = all(type(each) is nn.Parameter for each in decoder.parameters())
    return are_known and are_plain and is_unwatched([sam, *modules])


@torch.no_grad()
def decode_prompts(
    sam: Any,
    image_embeddings: Tensor,
    prompts: dict[str, Tensor],
    *,
    multimask_output: bool,
    chunk: int,
) -> tuple[Tensor, Tensor]:
    """Computes the masks of one photograph's prompts, within 1e-5 of the network's own forward in float32.

    Args:
        sam (`SamModel`): One that `can_decode`.
        image_embeddings (`torch.Tensor` of shape `(1, channels, height, width)`): The photograph's.
        prompts (`dict[str, torch.Tensor]`): `input_points`, `input_labels`, `input_boxes`, as the network takes them,
            each (1, num_prompts, ...); at least one prompt.
        multimask_output (`bool`): Several masks per prompt, or one.
        chunk (`int`): Prompts at a time.

    Returns:
        `tuple` of mask logits (num_prompts, num_masks, mask_height, mask_width) and predicted IoU (num_prompts,
        num_masks).
    """
    names = ("input_points", "input_labels", "input_boxes", "input_masks")
    sparse, dense = sam.prompt_encoder(**{name: prompts.get(name) for name in names})
    decoder = sam.mask_decoder
    keys, places = (
        each.flatten(2).transpose(1, 2).contiguous()  # (1, positions, channels)
        for each in (image_embeddings + dense, sam.get_image_wide_positional_embeddings())
    )
    image = _SharedImage(decoder.transformer.layers[0], keys, places)
    fixed = torch.cat([decoder.iou_token.weight, decoder.mask_tokens.weight])  # (num_fixed, channels)
    tokens = torch.cat([fixed.expand(sparse.shape[1], -1, -1), sparse[0].to(fixed.dtype)], dim=1)
    # The tokens that are read in the end: that of the scores, and those of the masks that are asked for
    wanted = [0, *(range(2, len(fixed)) if multimask_output else [1])]

    masks = scores = tokens.new_empty(0)
    for start in range(0, len(tokens), chunk):
        part_masks, part_scores = _decode_some(
            decoder, tokens[start : start + chunk], image, image_embeddings.shape[-2:], wanted
        )
        if start == 0:
            # The place of all, so that they need not be kept twice
            masks, scores = (each.new_empty(len(tokens), *each.shape[1:]) for each in (part_masks, part_scores))
        masks[start : start + chunk], scores[start : start + chunk] = part_masks, part_scores
    return masks, scores


def _decode_some(
    decoder: Any, tokens: Tensor, image: "_SharedImage", size: torch.Size, wanted: list[int]
) -> tuple[Tensor, Tensor]:
    """Masks and scores of some prompts; a function of its own, so that nothing large is left for the next ones."""
    outputs, seen = _run_transformer(decoder.transformer, tokens, image, wanted)
    scores = decoder.iou_prediction_head(outputs[:, 0])[:, [token - 1 for token in wanted[1:]]]
    return _make_masks(decoder, outputs[:, 1:], seen, size, wanted), scores


class _SharedImage:
    """The image before the first layer, the same for all prompts, and what the first layer projects of it."""

    def __init__(self, layer: Any, keys: Tensor, places: Tensor) -> None:
        self.keys, self.places = keys, places  # (1, positions, channels)
        inwards, outwards = layer.cross_attn_token_to_image, layer.cross_attn_image_to_token
        placed = keys + places
        self.key, self.value = _to_heads(inwards, inwards.k_proj(placed)), _to_heads(inwards, inwards.v_proj(keys))
        self.query = _to_heads(outwards, outwards.q_proj(placed))  # (1, heads, positions, dim)


def _run_transformer(
    transformer: Any, points: Tensor, image: _SharedImage, wanted: list[int]
) -> tuple[Tensor, Tensor]:
    """The wanted tokens (prompts, wanted, channels) and the image (prompts, positions, channels) after all layers."""
    queries, keys = points, image.keys
    for number, layer in enumerate(transformer.layers):
        placed = queries if layer.skip_first_layer_pe else queries + points
        mixed = layer.self_attn(query=placed[None], key=placed[None], value=queries[None])[0][0]
        queries = layer.layer_norm1(mixed if layer.skip_first_layer_pe else queries + mixed)

        inwards, outwards = layer.cross_attn_token_to_image, layer.cross_attn_image_to_token
        placed_keys = None if number == 0 else keys + image.places
        mixed = _look_at_image(inwards, queries + points, placed_keys, keys, image)
        queries = layer.layer_norm2(queries + mixed)
        queries = layer.layer_norm3(queries + layer.mlp(queries))
        keys = _look_at_tokens(outwards, placed_keys, keys, queries + points, queries, image)
        del placed_keys  # as large as the image of each prompt, like what the norm is about to make
        keys = layer.layer_norm4(keys)
    chosen, attention = queries[:, wanted], transformer.final_attn_token_to_image
    mixed = _look_at_image(attention, chosen + points[:, wanted], keys + image.places, keys, image)
    return transformer.layer_norm_final_attn(chosen + mixed), keys


def _to_heads(attention: Any, hidden: Tensor) -> Tensor:
    """(prompts, tokens, heads * dim) to (prompts, heads, tokens, dim)."""
    return hidden.unflatten(-1, (attention.num_attention_heads, -1)).transpose(1, 2)


def _weight_of_heads(attention: Any, projection: nn.Linear) -> Tensor:
    """The weight of a projection to heads: (heads, dim, channels)."""
    return projection.weight.unflatten(0, (attention.num_attention_heads, -1))


def _look_at_image(
    attention: Any, queries: Tensor, placed_keys: Tensor | None, keys: Tensor, image: _SharedImage
) -> Tensor:
    """Tokens (prompts, tokens, channels) look at their images (prompts, positions, channels), or at the shared one."""
    query = attention.q_proj(queries)
    if placed_keys is None:
        # All prompts' tokens are queries to one image
        query = _to_heads(attention, query.flatten(0, 1)[None])  # (1, heads, prompts * tokens, dim)
        value = F.scaled_dot_product_attention(query, image.key, image.value, scale=attention.scaling)
        return attention.out_proj(value.transpose(1, 2).reshape(queries.shape[0], queries.shape[1], -1))
    query = _to_heads(attention, query) * attention.scaling  # (prompts, heads, tokens, dim)
    # The bias of the keys adds the same to all positions, which a softmax does not see
    query = (query @ _weight_of_heads(attention, attention.k_proj)).flatten(
        1, 2
    )  # (prompts, heads * tokens, channels)
    probabilities = (query @ placed_keys.transpose(1, 2)).softmax(dim=-1)
    mixed = (probabilities @ keys).unflatten(1, (attention.num_attention_heads, -1))
    value = mixed @ _weight_of_heads(attention, attention.v_proj).transpose(1, 2)  # (prompts, heads, tokens, dim)
    return attention.out_proj(value.transpose(1, 2).flatten(2) + attention.v_proj.bias)


def _look_at_tokens(
    attention: Any, placed_keys: Tensor | None, keys: Tensor, queries: Tensor, values: Tensor, image: _SharedImage
) -> Tensor:
    """Images (prompts, positions, channels) look at their tokens, and what they see is added in place.

    The shared image stays as it is; one for each prompt is made of it.
    """
    heads = attention.num_attention_heads
    key = _to_heads(attention, attention.k_proj(queries)) * attention.scaling  # (prompts, heads, tokens, dim)
    if placed_keys is None:
        scores = key @ image.query.transpose(2, 3)  # (prompts, heads, tokens, positions)
    else:
        own = key @ attention.q_proj.bias.view(heads, -1, 1)  # (prompts, heads, tokens, 1)
        key = (key @ _weight_of_heads(attention, attention.q_proj)).flatten(1, 2)
        scores = (key @ placed_keys.transpose(1, 2)).unflatten(1, (heads, -1)).add_(own)
    probabilities = scores.softmax(dim=2).flatten(1, 2)  # (prompts, heads * tokens, positions)
    value = _to_heads(attention, attention.v_proj(values))  # (prompts, heads, tokens, dim)
    value = (value @ attention.out_proj.weight.T.unflatten(0, (heads, -1))).flatten(1, 2)
    # A head's probabilities add up to 1, so that every token carries its share of the bias
    value = value + attention.out_proj.bias / heads  # (prompts, heads * tokens, channels)
    if placed_keys is None:
        return torch.baddbmm(keys.expand(len(value), -1, -1), probabilities.transpose(1, 2), value)
    return keys.baddbmm_(probabilities.transpose(1, 2), value)


def _make_masks(decoder: Any, tokens: Tensor, keys: Tensor, size: torch.Size, wanted: list[int]) -> Tensor:
    """Mask logits (prompts, masks, height, width), of the masks' tokens and of the image as each prompt sees it."""
    networks = [decoder.output_hypernetworks_mlps[token - 1] for token in wanted[1:]]
    weights = torch.stack([network(tokens[:, index]) for index, network in enumerate(networks)], dim=-1)
    # A transposed convolution whose stride is its size is a matrix product. The cells stay where they are, behind
    # their position, until there are but few channels left to rearrange
    norm, parts = decoder.upscale_layer_norm, []
    step = _MOST_POSITIONS if keys.device.type == "cpu" else keys.shape[1]
    for part in keys.split(step, dim=1):
        cells = _upsample(decoder.upscale_conv1, part)  # (prompts, positions, 4, channels / 4)
        cells = decoder.activation(F.layer_norm(cells, norm.normalized_shape, norm.weight, norm.bias, norm.eps))
        cells = decoder.activation(_upsample(decoder.upscale_conv2, cells))  # (prompts, positions, 4, 4, channels / 8)
        parts.append(cells.flatten(1, 3) @ weights)  # (prompts, positions * 16, masks)
    height, width = size
    masks = torch.cat(parts, dim=1).view(len(keys), height, width, 2, 2, 2, 2, -1)  # of a cell row and column, twice
    return masks.permute(0, 7, 1, 3, 5, 2, 4, 6).reshape(len(keys), -1, 4 * height, 4 * width)


def _upsample(convolution: nn.ConvTranspose2d, hidden: Tensor) -> Tensor:
    """A transposed convolution, of stride and size 2, of (..., channels): (..., 4, channels), its rows first."""
    weight = convolution.weight.permute(0, 2, 3, 1).flatten(1)  # (channels, 2 * 2 * output channels)
    bias = None if convolution.bias is None else convolution.bias.repeat(4)
    return F.linear(hidden, weight.T, bias).unflatten(-1, (4, -1))


def _is_library(module: Any, *names: str) -> bool:
    """Whether a module is of one of the library's classes, and of no subclass of it."""
    kind = type(module)
    return kind.__module__ in _LIBRARY and kind.__name__.removeprefix("SamHQ").removeprefix("Sam") in names


def is_unwatched(modules: Iterable[Any]) -> bool:
    """Tells whether nobody notices when what is inside some modules is called in the place of themselves.

    Args:
        modules (`Iterable[nn.Module]`): Any.

    Returns:
        `bool`: Whether they have neither hooks nor a forward of their own, and nothing is being exported or compiled.
    """
    if torch.compiler.is_compiling() or torch.jit.is_tracing() or torch.onnx.is_in_onnx_export():
        return False
    return not any(
        "forward" in vars(module)  # offloading and kernels put their own in its place
        or module._forward_pre_hooks
        # The library's own recorder is there for its own forward
        or any(getattr(hook, "__name__", "") != "output_capturing_hook" for hook in module._forward_hooks.values())
        or module._compiled_call_impl is not None
        for module in modules
    )


__all__ = ["can_decode", "can_encode", "decode_prompts", "encode_photographs", "is_unwatched"]
