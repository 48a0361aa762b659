# SPDX-FileCopyrightText: 2026 The clipsam_hf authors
# SPDX-License-Identifier: Apache-2.0
"""Refiners: the kinds of SAM that can give a region its exact shape, behind one small interface.

A new kind is a subclass of [`Refiner`] and a line in `REFINERS`. Nothing else in the package knows one kind of SAM
from another: the configuration finds the class by `sam_config.model_type`, the model calls `encode` and `decode`, the
embeddings are a tuple of tensors that anybody can keep, and `frame` owns how a photograph lies in the square.
"""

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from PIL import Image
from torch import Tensor
from transformers import PreTrainedConfig, PreTrainedModel, SamHQModel, SamModel

from .regions_clipsam import Frame, SamPrompts
from .sam_attention_clipsam import can_decode, can_encode, decode_prompts, encode_photographs


class Refiner:
    """What the model needs of one kind of SAM; it holds settings and no weights, those are handed in as `sam`.

    Args:
        sam_config (`PreTrainedConfig`): The configuration of the network, of this kind's `model_type`.

    Attributes:
        model_class (`type`): The library's class of the network.
        rearranged (`bool`): Whether the network's parts may be called in another order than the library's, which is
            faster and needs less memory; the numbers are the same, see `sam_attention_clipsam.py`. Set it to False,
            `model.refiner.rearranged = False`, for the library's own forward.
    """

    model_class: ClassVar[type[PreTrainedModel]]
    rearranged: bool = True

    def __init__(self, sam_config: PreTrainedConfig) -> None:
        self.config: Any = sam_config

    @staticmethod
    def check_config(sam_config: Any) -> None:
        """Checks the parts of a configuration against each other.

        Args:
            sam_config (`PreTrainedConfig`): Of this kind.

        Raises:
            ValueError: If the encoder's output does not fit the decoder's input.
        """
        channels, hidden_size = sam_config.vision_config.output_channels, sam_config.mask_decoder_config.hidden_size
        if channels != hidden_size:
            raise ValueError(
                f"`sam_config.vision_config.output_channels` ({channels}) must equal"
                f" `sam_config.mask_decoder_config.hidden_size` ({hidden_size})."
            )

    def frame(self, reshaped_input_size: Sequence[int]) -> Frame:
        """Returns how a photograph lies in the square.

        Args:
            reshaped_input_size (`tuple[int, int]`): (height, width) of the photograph in the square, in pixels.
        """
        height, width = (int(side) for side in reshaped_input_size)
        return Frame((height, width), self.config.vision_config.image_size)

    def encode(self, sam: Any, sam_pixel_values: Tensor) -> tuple[Tensor, ...]:
        """Computes what `decode` needs of photographs, without gradient; it can be cached.

        Args:
            sam (`PreTrainedModel`): The network, of `model_class`.
            sam_pixel_values (`torch.Tensor` of shape `(batch_size, 3, side, side)`): Padded to the square.

        Returns:
            `tuple` of `torch.Tensor` of shape `(batch_size, ...)`.
        """
        pixel_values = sam_pixel_values.to(sam.dtype)
        if self.rearranged and can_encode(sam.vision_encoder):
            return self.keep_embeddings(*encode_photographs(sam.vision_encoder, pixel_values))
        return self.encode_as_library(sam, pixel_values)

    def keep_embeddings(self, image_embeddings: Tensor, first_global: Tensor | None) -> tuple[Tensor, ...]:
        """Returns what `decode` needs of what the encoder computes in passing."""
        return (image_embeddings,)

    def encode_as_library(self, sam: Any, pixel_values: Tensor) -> tuple[Tensor, ...]:
        """Encodes with the network's own forward."""
        return (sam.get_image_embeddings(pixel_values),)

    def decode(
        self,
        sam: Any,
        embeddings: tuple[Tensor, ...],
        prompts: SamPrompts,
        *,
        multimask_output: bool,
        chunk: int | None,
    ) -> tuple[Tensor, Tensor]:
        """Computes the masks of one photograph's prompts.

        Args:
            sam (`PreTrainedModel`): The network, of `model_class`.
            embeddings (`tuple` of `torch.Tensor` of shape `(1, ...)`): What `encode` gave for the photograph; not
                looked at if there is no prompt.
            prompts (`SamPrompts`): One row per region, maybe none; then the network is not called.
            multimask_output (`bool`): Several masks per prompt, or one.
            chunk (`int`, *optional*): Prompts at a time; by default 2 on a CPU and 64 on an accelerator.

        Returns:
            `tuple` of mask logits (num_regions, num_masks, mask_height, mask_width) and predicted IoU (num_regions,
            num_masks).
        """
        given = {name: value for name, value in prompts._asdict().items() if value is not None}
        num_regions = len(next(iter(given.values())))
        if num_regions == 0:
            return self.no_masks(sam, multimask_output=multimask_output)
        chunk = chunk or (2 if embeddings[0].device.type == "cpu" else 64)
        num_tokens = 2 + (0 if prompts.input_points is None else prompts.input_points.shape[1])
        if self.rearranged and can_decode(sam, num_tokens):
            rows = {name: value[None] for name, value in given.items()}
            return decode_prompts(sam, embeddings[0], rows, multimask_output=multimask_output, chunk=chunk)
        masks, scores = [], []
        for start in range(0, num_regions, chunk):
            part = {name: value[None, start : start + chunk] for name, value in given.items()}
            outputs = sam(**self.name_embeddings(embeddings), multimask_output=multimask_output, **part)
            masks.append(outputs.pred_masks[0])
            scores.append(outputs.iou_scores[0])
        return torch.cat(masks), torch.cat(scores)

    def no_masks(self, sam: Any, *, multimask_output: bool) -> tuple[Tensor, Tensor]:
        """Returns what the network would answer to no prompt: mask logits and predicted IoU of no rows."""
        side = 4 * self.config.prompt_encoder_config.image_embedding_size
        num_masks = self.config.mask_decoder_config.num_multimask_outputs if multimask_output else 1
        masks = torch.zeros(0, num_masks, side, side, dtype=sam.dtype, device=sam.device)
        return masks, masks[:, :, 0, 0]

    def name_embeddings(self, embeddings: tuple[Tensor, ...]) -> dict[str, Any]:
        """Returns the embeddings as keyword arguments of the network."""
        return {"image_embeddings": embeddings[0]}


class SamRefiner(Refiner):
    """SAM (arXiv 2304.02643), unmodified."""

    model_class = SamModel


class SamHQRefiner(Refiner):
    """SAM-HQ (arXiv 2306.01567): SAM with a token for fine masks, which also reads the encoder's early blocks."""

    model_class = SamHQModel

    @staticmethod
    def check_config(sam_config: Any) -> None:
        Refiner.check_config(sam_config)
        width, expected = sam_config.vision_config.hidden_size, sam_config.mask_decoder_config.vit_dim
        if width != expected:
            raise ValueError(
                f"`sam_config.vision_config.hidden_size` ({width}) must equal"
                f" `sam_config.mask_decoder_config.vit_dim` ({expected})."
            )

    def keep_embeddings(self, image_embeddings: Tensor, first_global: Tensor | None) -> tuple[Tensor, ...]:
        if first_global is None:
            raise ValueError("SAM-HQ reads the encoder's first global block, but `global_attn_indexes` names none.")
        return image_embeddings, first_global

    def encode_as_library(self, sam: Any, pixel_values: Tensor) -> tuple[Tensor, ...]:
        image_embeddings, intermediate = sam.get_image_embeddings(pixel_values)
        return image_embeddings, intermediate[0]  # the decoder reads the first global block alone

    def name_embeddings(self, embeddings: tuple[Tensor, ...]) -> dict[str, Any]:
        return {"image_embeddings": embeddings[0], "intermediate_embeddings": [embeddings[1]]}


REFINERS: dict[str, type[Refiner]] = {"sam": SamRefiner, "sam_hq": SamHQRefiner}
"""The kinds of SAM by `model_type`, as the Hub's configurations spell it."""


def find_refiner(model_type: str) -> type[Refiner]:
    """Finds the kind of SAM by its `model_type`.

    Args:
        model_type (`str`): As in its configuration, for example `"sam"`.

    Returns:
        `type[Refiner]`: The kind.

    Raises:
        ValueError: If this kind is not supported; the message names those that are.

    Example:
        >>> find_refiner("sam_hq").__name__
        'SamHQRefiner'
    """
    if model_type not in REFINERS:
        kinds = ", ".join(map(repr, REFINERS))
        raise ValueError(f"`sam_config` is of the kind {model_type!r}; masks can be refined with {kinds}.")
    return REFINERS[model_type]


def shrink(photograph: Image.Image, size: tuple[int, int], image_processor: Any, resample: Any = None) -> Image.Image:
    """Resizes a photograph as an image processor will: the library turns the whole of it into arrays and back before.

    Args:
        photograph (`PIL.Image.Image`): RGB.
        size (`tuple[int, int]`): (height, width) to which the processor resizes it.
        image_processor: Pillow's backend; what another one gets stays as it is.
        resample (*optional*): Instead of the processor's filter.

    Returns:
        `PIL.Image.Image`: Of which the processor makes the same values; Pillow copies what has its size already.
    """
    if getattr(image_processor, "backend", None) != "pil" or not image_processor.do_resize:
        return photograph
    return photograph.resize(size[::-1], image_processor.resample if resample is None else resample)


def _shrink_to_edge(photograph: Image.Image, image_processor: Any) -> Image.Image:
    edge, longest = image_processor.size["longest_edge"], max(photograph.size)
    height, width = (int(side * (edge / longest) + 0.5) for side in (photograph.height, photograph.width))
    return shrink(photograph, (height, width), image_processor)


def prepare_photographs(image_processor: Any, photographs: Sequence[Image.Image], **kwargs: Any) -> dict[str, Any]:
    """Makes a refiner's pixels of photographs, scaled with their aspect kept and padded to the square.

    Args:
        image_processor (`SamImageProcessor`): The refiner's; SAM and SAM-HQ share it.
        photographs (`Sequence[PIL.Image.Image]`): RGB.
        kwargs: For the image processor, `return_tensors`.

    Returns:
        `dict`: `sam_pixel_values` (batch_size, 3, side, side) and `reshaped_input_sizes` (batch_size, 2).

    Raises:
        ValueError: If a photograph is so narrow that the square would leave it no pixel.
    """
    longest_edge = image_processor.size["longest_edge"]
    for image in photographs:
        if 2 * longest_edge * min(image.size) < max(image.size):
            raise ValueError(
                f"A photograph of {image.height}x{image.width} is narrower than a pixel in SAM's frame of"
                f" {longest_edge}; take a part of it, or do without SAM."
            )
    features = image_processor([_shrink_to_edge(image, image_processor) for image in photographs], **kwargs)
    return {"sam_pixel_values": features["pixel_values"], "reshaped_input_sizes": features["reshaped_input_sizes"]}


__all__ = ["REFINERS", "Refiner", "SamHQRefiner", "SamRefiner", "find_refiner", "prepare_photographs", "shrink"]
