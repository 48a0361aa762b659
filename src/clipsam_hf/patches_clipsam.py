# SPDX-FileCopyrightText: 2026 The clipsam_hf authors
# SPDX-License-Identifier: Apache-2.0
"""Patches of photographs and how far they are from those of others: pure functions, nothing is trained.

A patch is described by the outputs of some blocks of CLIP's vision tower, each as the next block reads it (through
that block's layer norm, which takes off what outlier channels add), averaged over small squares of tokens (MuSc's
neighbourhoods) and L2-normalised. A distance is one minus a cosine.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from .image_loading import load_rgb
from .localizer_clipsam import see
from .refinement_clipsam import score_map
from .tiling_clipsam import WHOLE, Box


# A block of cosines of a search, in values: 4 MiB in float32, which stays in a processor's cache
_BLOCK = 2**20

# Of the greedy coreset: dimensions after the random projection, and rounds
_CORESET_DIRECTIONS, _CORESET_ROUNDS = 128, 256

OUTLIER_COUNT = 5
"""Of fewer photographs nothing can be said about outliers."""

# A photograph stands out by so many robust deviations
_OUTLIER_DEVIATIONS = 4.0

# The share of a normal distribution below 1.645 standard deviations: the upper tail from which the spread is read
_TAIL, _TAIL_DEVIATIONS = 0.95, 1.645


@torch.no_grad()
def describe_photographs(
    model: Any, pixel_values: Tensor, text_embeds: Tensor | None = None
) -> tuple[list[Tensor], Tensor | None]:
    """Describes photographs for a comparison with others.

    Args:
        model ([`ClipSamForAnomalySegmentation`]): On the device of the pixels.
        pixel_values (`torch.Tensor` of shape `(batch_size, 3, height, width)`): As its processor makes them.
        text_embeds (`torch.Tensor` of shape `(batch_size or 1, 2, projection_dim)`, *optional*): Without them the
            localizer itself is not run.

    Returns:
        `list[torch.Tensor]` of shape `(batch_size, hidden_size, grid height, grid width)`: The patches, one per block
        of `reference_layers`, float32. With `flip_average` twice as many, those of the mirror images behind the
        others, each patch at its place in the photograph.
        `torch.Tensor` of shape `(batch_size, height, width)`, *optional*: The localizer's own map, with texts alone.

    Raises:
        ValueError: If texts are given and the localizer's head is not trained.
    """
    config, size, count = model.config, pixel_values.shape[-2:], pixel_values.shape[0]
    layers = config.reference_layers or config.feature_layers
    if config.flip_average:
        pixel_values = torch.cat([pixel_values, pixel_values.flip(-1)])
    outputs: Any
    feature_maps = None
    if text_embeds is None:
        outputs = see(model.clip, pixel_values, layers)
    else:
        feature_maps, outputs = model.localizer.encode(model.clip, pixel_values, layers=layers)
    states, blocks = outputs.hidden_states, model.clip.vision_model.encoder.layers
    patch_size = config.clip_config.vision_config.patch_size
    patches = []
    for layer in layers:
        norm = blocks[layer].layer_norm1 if layer < len(blocks) else model.clip.vision_model.post_layernorm
        tokens = norm(states[layer][:, 1:]).float().transpose(1, 2)  # (batch, hidden, tokens)
        tokens = tokens.unflatten(2, (size[0] // patch_size, size[1] // patch_size))
        patches.append(_turn_back(tokens, count) if config.flip_average else tokens)
    if text_embeds is None:
        return patches, None
    model.check_trained()
    # The whole forward would add novelty within the photograph, which a comparison has no use for
    texts = text_embeds.to(pixel_values.device).expand(count, -1, -1)
    if not config.flip_average:
        return patches, model.localizer.to_map(model._localize(feature_maps, texts), size)
    text_maps = model.localizer.to_map(model._localize(feature_maps, texts.repeat(2, 1, 1)), size)
    return patches, join_views(_turn_back(text_maps, count), True)


def join_views(values: Tensor, are_two: bool) -> Tensor:
    """Takes the mean over photographs and their mirror images.

    Args:
        values (`torch.Tensor` of shape `(views * batch_size, ...)`): In the order of `describe_photographs`.
        are_two (`bool`): Whether there are mirror images.

    Returns:
        `torch.Tensor` of shape `(batch_size, ...)`.
    """
    return values.unflatten(0, (2, -1)).mean(dim=0) if are_two else values


def _turn_back(values: Tensor, count: int) -> Tensor:
    """Mirrors what lies behind the first so many of a batch (2 * count, ..., width)."""
    return torch.cat([values[:count], values[count:].flip(-1)])


def mix_maps(compared: Tensor, text_map: Tensor | None, text_weight: float) -> Tensor:
    """Mixes the map of a comparison with the localizer's own.

    It is the square of the mean of both maps' roots, which lies between their mean and their geometric mean: what both
    call abnormal stands out from what one of them does, and neither can wipe out the other.

    Args:
        compared (`torch.Tensor` of shape `(batch_size, height, width)`): In [0, 1].
        text_map (`torch.Tensor` of shape `(batch_size, height, width)`, *optional*): In [0, 1].
        text_weight (`float`): Its share, in [0, 1].

    Returns:
        `torch.Tensor` of shape `(batch_size, height, width)`: In [0, 1].

    Example:
        >>> mix_maps(torch.tensor([[[0.64]]]), torch.tensor([[[0.16]]]), 0.25)
        tensor([[[0.4900]]])
    """
    return compared if text_map is None else compared.sqrt().lerp(text_map.sqrt(), text_weight).square()


def score_compared(model: Any, maps: Tensor) -> Tensor:
    """Scores photographs by the maps of a comparison.

    Args:
        model ([`ClipSamForAnomalySegmentation`]): Its `image_score` says how; `"text"`, which looks at no map, gives
            way to `"top_fraction"`, for it would score photographs as if there were nothing to compare with.
        maps (`torch.Tensor` of shape `(batch_size, height, width)`): In [0, 1].

    Returns:
        `torch.Tensor` of shape `(batch_size,)`: In [0, 1].
    """
    config = model.config
    by_text = config.image_score == "text"
    scores: Tensor = score_map(maps, top_fraction=config.score_top_fraction) if by_text else model.score(maps)
    return scores


def average_neighbourhoods(feature_maps: Sequence[Tensor], sides: Sequence[int]) -> list[Tensor]:
    """Averages feature maps over squares of tokens and normalises every token.

    Args:
        feature_maps (`Sequence[torch.Tensor]` of shape `(batch_size, channels, height, width)`): One per block.
        sides (`Sequence[int]`): Odd sides of the squares, in tokens; at the border a square is cut.

    Returns:
        `list[torch.Tensor]` of shape `(batch_size, height * width, channels)`: For each block each side,
        L2-normalised.

    Example:
        >>> (tokens,) = average_neighbourhoods([torch.tensor([[[[3.0, 1.0]], [[0.0, 4.0]]]])], [3])
        >>> tokens
        tensor([[[0.7071, 0.7071],
                 [0.7071, 0.7071]]])
    """
    tokens = []
    for feature_map in feature_maps:
        for side in sides:
            averaged = feature_map
            # Down and then across: a square's mean is the mean of its rows' means
            for kernel in ((side, 1), (1, side)) if side > 1 else ():
                padding = (kernel[0] // 2, kernel[1] // 2)
                averaged = F.avg_pool2d(averaged, kernel, stride=1, padding=padding, count_include_pad=False)
            tokens.append(F.normalize(averaged.flatten(2).transpose(1, 2), dim=-1))
    return tokens


def find_nearest(tokens: Tensor, memory: Tensor) -> Tensor:
    """Finds the cosine distance from tokens to the nearest entry of a memory.

    Args:
        tokens (`torch.Tensor` of shape `(..., channels)`): L2-normalised.
        memory (`torch.Tensor` of shape `(num_entries, channels)`): L2-normalised, perhaps in half precision; at least
            one.

    Returns:
        `torch.Tensor` of shape `(...)`: float32 in [0, 2]. The search runs in blocks of a constant size, so that its
        own memory does not grow with the sizes.

    Example:
        >>> find_nearest(torch.eye(2), torch.tensor([[1.0, 0.0], [0.6, 0.8]]))
        tensor([0.0000, 0.2000])
    """
    # An accelerator multiplies halves as they are and adds up in float32; a CPU would be slower with them
    precision = torch.float32 if tokens.device.type == "cpu" else memory.dtype
    queries = tokens.flatten(0, -2).to(precision)  # (num_tokens, channels)
    highest = torch.full((len(queries),), -torch.inf, device=queries.device)
    step = max(1, _BLOCK // max(len(queries), 1))
    for start in range(0, len(memory), step):
        cosines = queries @ memory[start : start + step].to(precision).T  # (num_tokens, step)
        highest = torch.maximum(highest, cosines.amax(dim=1).float())
    return (1 - highest).clamp(min=0).reshape(tokens.shape[:-1])


def choose_coreset(tokens: Tensor, size: int, *, seed: int = 0) -> Tensor:
    """Chooses entries so that none of the others is far from all of them.

    PatchCore's greedy k-centre on random projections, a batch at a time: its own, one by one, takes minutes where
    this takes seconds, since the time of both is that of reading all entries once a round.

    Args:
        tokens (`torch.Tensor` of shape `(num_tokens, channels)`): The candidates.
        size (`int`): How many are kept.
        seed (`int`): Of the projection and of the first choice.

    Returns:
        `torch.Tensor` of shape `(min(size, num_tokens),)`, int64: Places of the chosen ones, in rising order.

    Example:
        >>> choose_coreset(torch.tensor([[0.0], [0.1], [5.0], [9.0]]), 2).tolist()[1]
        3
    """
    if size >= len(tokens):
        return torch.arange(len(tokens), device=tokens.device)
    generator = torch.Generator().manual_seed(seed)
    directions = torch.randn(tokens.shape[1], _CORESET_DIRECTIONS, generator=generator).to(tokens.device)
    projected = tokens.float() @ directions / _CORESET_DIRECTIONS**0.5  # (num_tokens, directions)
    squares = projected.square().sum(dim=1)
    chosen = torch.randint(len(tokens), (1,), generator=generator).to(tokens.device)
    newest, nearest = chosen, torch.full_like(squares, torch.inf)
    while len(chosen) < size:
        apart = squares[:, None] - 2 * projected @ projected[newest].T + squares[newest]  # (num_tokens, newest)
        nearest = torch.minimum(nearest, apart.amin(dim=1))
        nearest[newest] = -torch.inf
        newest = nearest.topk(min(size - len(chosen), -(-size // _CORESET_ROUNDS))).indices
        chosen = torch.cat([chosen, newest])
    return chosen.sort().values


class Scale(NamedTuple):
    """What distances are usual among good photographs.

    Args:
        centre (`float`): Their median.
        spread (`float`): A standard deviation of the upper side, see `measure_scale`.
    """

    centre: float
    spread: float

    def to_map(self, distances: Tensor, size: Sequence[int], deviations: float) -> Tensor:
        """Makes maps of distances: 0.5 where one is so many deviations above the centre.

        Args:
            distances (`torch.Tensor` of shape `(batch_size, height, width)`): On the token grid.
            size (`Sequence[int]`): (height, width) of the maps.
            deviations (`float`): Where a map is 0.5.

        Returns:
            `torch.Tensor` of shape `(batch_size, *size)`: float32 in [0, 1].

        Example:
            >>> Scale(0.1, 0.05).to_map(torch.tensor([[[0.25]]]), (1, 1), 3.0)
            tensor([[[0.5000]]])
        """
        upsampled = F.interpolate(distances[:, None].float(), tuple(size), mode="bilinear")[:, 0]
        return ((upsampled - self.centre) / self.spread - deviations).sigmoid()


def measure_scale(distances: Sequence[np.ndarray]) -> Scale:
    """Measures what distances are usual.

    Distances of good patches have a long upper tail: the median absolute deviation calls 3 to 14 % of them abnormal at
    three deviations (cookies, docs/results.md). So the spread is read from that tail: of each photograph the distance
    that 5 % exceed, less the centre, in standard deviations of a normal distribution. The median over photographs
    keeps a defective one among them from having a say.

    Args:
        distances (`Sequence[np.ndarray]`): Of each photograph's patches, each against the other photographs.

    Returns:
        [`Scale`].

    Example:
        >>> measure_scale([np.linspace(0.0, 1.0, 101)])
        Scale(centre=0.5, spread=0.2735...)
    """
    centre = float(np.median(np.concatenate([each.ravel() for each in distances])))
    tail = float(np.median([np.quantile(each, _TAIL) for each in distances]))
    # Identical photographs have no spread: what differs from them at all is then far away
    return Scale(centre, max((tail - centre) / _TAIL_DEVIATIONS, 1e-4))


def find_outliers(distances: Sequence[np.ndarray]) -> list[int]:
    """Finds photographs whose farthest patches are much farther than those of the others.

    Args:
        distances (`Sequence[np.ndarray]`): Of each photograph's patches, each against the other photographs.

    Returns:
        `list[int]`: Their numbers; none of fewer than `OUTLIER_COUNT` photographs.
    """
    if len(distances) < OUTLIER_COUNT:
        return []
    farthest = np.log([np.sort(each)[-max(1, len(each) // 100) :].mean() + 1e-6 for each in distances])
    middle = np.median(farthest)
    spread = max(1.4826 * float(np.median(np.abs(farthest - middle))), 0.05)
    return [int(index) for index in np.flatnonzero(farthest - middle > _OUTLIER_DEVIATIONS * spread)]


def read_roi(roi_mask: Any, timeout: float | None = None) -> Tensor:
    """Reads a region of interest.

    Args:
        roi_mask: What `load_rgb` reads; where it is not black is inside. Or an array or a tensor of bool.
        timeout (`float`, *optional*): Seconds to wait for a URL's server.

    Returns:
        `torch.Tensor` of shape `(height, width)`: bool, at the mask's own size.

    Raises:
        ValueError: If nothing is inside.
        ImageReadError, OSError: If it cannot be read.
    """
    if isinstance(roi_mask, (np.ndarray, Tensor)) and roi_mask.ndim == 2 and str(roi_mask.dtype).endswith("bool"):
        inside = torch.as_tensor(roi_mask)
    else:
        inside = torch.from_numpy(np.any(np.asarray(load_rgb(roi_mask, timeout=timeout)), axis=-1))
    if not inside.any():
        raise ValueError("The region of interest is empty: its mask is black everywhere.")
    return inside


def crop_roi(roi: Tensor, size: Sequence[int], box: Box = WHOLE) -> Tensor:
    """Brings a region of interest to the frame of a photograph or of a tile of it: the nearest pixels.

    Args:
        roi (`torch.Tensor` of shape `(height, width)`): bool; of a whole photograph, at any size.
        size (`Sequence[int]`): (height, width) of the frame.
        box ([`Box`], *optional*): The tile; by default the whole.

    Returns:
        `torch.Tensor` of shape `size`: bool, by half-pixel centres.

    Example:
        >>> crop_roi(torch.tensor([[True, False]]), (1, 2), Box(0.0, 0.0, 1.0, 0.5))
        tensor([[True, True]])
    """
    edges = ((box.top, box.bottom), (box.left, box.right))
    rows, columns = (
        ((low + (torch.arange(cells) + 0.5) / cells * (high - low)) * length).long().clamp(max=length - 1)
        for cells, length, (low, high) in zip(size, roi.shape, edges, strict=True)
    )
    return roi[rows[:, None], columns]


def to_grid(roi: Tensor, grid: Sequence[int]) -> Tensor:
    """The tokens, on a grid (height, width), of which at least half are inside a region of interest."""
    return resize_roi(roi, grid) >= 0.5


def resize_roi(roi: Tensor, size: Sequence[int]) -> Tensor:
    """The share of each cell, of (height, width) cells, that is inside a region of interest."""
    return F.interpolate(roi[None, None].float(), tuple(size), mode="area")[0, 0]


def fingerprint_encoder(model: Any, processor: Any) -> dict[str, Any]:
    """Describes what the features depend on, so that references of another model can be told.

    Args:
        model ([`ClipSamForAnomalySegmentation`]): On any device.
        processor ([`ClipSamProcessor`]): The model's.

    Returns:
        `dict[str, Any]`: JSON values. Of the weights a checksum of evenly spaced samples of each tensor, which takes
        milliseconds and tells trained models apart.
    """
    config, has_texts = model.config, model.config.reference_text_weight > 0
    digest = hashlib.sha256()
    for name, weight in model.named_parameters():
        # What makes the patches; for the localizer's own map all but the refiner
        if name.startswith("sam.") or not (has_texts or name.startswith("clip.vision_model.")):
            continue
        flat = weight.detach().flatten()
        sample = flat[:: max(1, len(flat) // 64)].float().cpu().numpy()
        digest.update(f"{name}{tuple(weight.shape)}".encode() + sample.tobytes())
    of_references = {name: value for name, value in config.settings_of("reference").items() if "mutual" not in name}
    settings = {
        **of_references,
        "reference_layers": list(config.reference_layers or config.feature_layers),
        "localizer": config.localizer if has_texts else None,
        "flip_average": config.flip_average,
        "image_score": config.image_score,
        "score_top_fraction": config.score_top_fraction,
    }
    localize = {name: value for name, value in config.settings_of("localize").items() if name != "clip_config"}
    texts = [localize, processor.normal_states, processor.abnormal_states, processor.prompt_templates]
    return {
        "weights": digest.hexdigest()[:16],
        "dtype": str(model.dtype).removeprefix("torch."),
        "image_size": config.image_size,
        "preprocessing": _digest(processor.image_processor.to_dict()),
        "texts": _digest(texts) if has_texts else None,
        **settings,
    }


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()[:16]


def check_fingerprint(made_with: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Raises if references were made with another model, or with other settings.

    Args:
        made_with (`Mapping[str, Any]`): Of the references.
        now (`Mapping[str, Any]`): Of the model that is to use them.

    Raises:
        ValueError: If they differ; the message names what does.
    """
    differing = [name for name in {**made_with, **now} if made_with.get(name) != now.get(name)]
    if not differing:
        return
    told = ", ".join(
        f"other {name}"
        if name in ("weights", "preprocessing", "texts")
        else f"`{name}` {made_with.get(name)}, not {now.get(name)}"
        for name in differing
    )
    raise ValueError(f"These references were made with another model: {told}. Make them anew with this one.")


__all__ = [
    "OUTLIER_COUNT",
    "Scale",
    "average_neighbourhoods",
    "check_fingerprint",
    "choose_coreset",
    "crop_roi",
    "describe_photographs",
    "find_nearest",
    "find_outliers",
    "fingerprint_encoder",
    "join_views",
    "measure_scale",
    "mix_maps",
    "read_roi",
    "resize_roi",
    "score_compared",
    "to_grid",
]
