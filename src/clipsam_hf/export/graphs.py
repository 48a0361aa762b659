# SPDX-FileCopyrightText: 2026 The clipsam_hf authors
# SPDX-License-Identifier: Apache-2.0
"""The networks of a ClipSAM as ONNX graphs. What lies between them is no network; `runner.py` has it in numpy."""

import contextlib
import logging
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ..patches_clipsam import average_neighbourhoods, describe_photographs, join_views, mix_maps


__all__ = ["GRAPHS", "QUANTIZED", "Graph", "make_graph", "quantize_graph", "write_graph"]

GRAPHS = ("localizer", "sam_encoder", "sam_decoder")
"""The names of the graphs, as those of their files."""

QUANTIZED = ("localizer", "sam_encoder")
"""Those that int8 changes; the decoder takes little time, and its masks are cut at 0."""

# Entries of a references' memory that a search looks at together
_MEMORY_BLOCK = 1024


class Graph(NamedTuple):
    """What an export needs to know of a graph.

    Args:
        module (`nn.Module`): it takes and gives tensors alone.
        inputs (`dict[str, torch.Tensor]`): an example of each input, in the order of the call.
        outputs (`Sequence[str]`): names of what it gives.
        dynamic (`dict[str, str]`): of which inputs the first axis has any length, and what that is called.
    """

    module: nn.Module
    inputs: dict[str, Tensor]
    outputs: Sequence[str]
    dynamic: dict[str, str]


class _Localizer(nn.Module):
    """Pixels and two texts to the rough map; references, if there are any, are part of the weights."""

    def __init__(self, model: Any, references: Any) -> None:
        super().__init__()
        self.model, self.references = model, references
        for index, entries in enumerate([] if references is None else references.memory):
            self.register_buffer(f"memory_{index}", entries.cpu())

    def forward(self, pixel_values: Tensor, text_embeds: Tensor) -> tuple[Tensor, ...]:
        model = self.model
        if self.references is not None:
            return (self._compare(pixel_values, text_embeds),)
        features = model.localizer.encode(model.clip, pixel_values)
        logits = model.localizer.read(model.clip, model._head, features.feature_maps, text_embeds)
        rough_map = model.make_rough_map(logits, features.feature_maps, pixel_values.shape[-2:])
        rough_map = model.add_mirror_image(rough_map, pixel_values, text_embeds)
        if model.config.image_score != "text":
            return (rough_map,)
        return rough_map, model.score(rough_map, text_embeds, features.vision_outputs)

    def _compare(self, pixel_values: Tensor, text_embeds: Tensor) -> Tensor:
        references, weight = self.references, self.references.text_weight
        patches, text_map = describe_photographs(self.model, pixel_values, text_embeds if weight > 0 else None)
        tokens = average_neighbourhoods(patches, references.settings.fingerprint["reference_neighbourhoods"])
        memory = [getattr(self, f"memory_{index}") for index in range(len(tokens))]
        distances = torch.stack([_find_nearest(*pair) for pair in zip(tokens, memory, strict=True)]).mean(dim=0)
        distances = join_views(distances, self.model.config.flip_average)  # (batch, tokens)
        compared = references.to_map(distances.unflatten(1, patches[0].shape[-2:]), pixel_values.shape[-2:])
        return mix_maps(compared, text_map, weight)


def _find_nearest(tokens: Tensor, memory: Tensor) -> Tensor:
    """`patches_clipsam.find_nearest` in blocks whose number does not depend on the batch: a graph has no loops."""
    highest = [(tokens @ block.float().T).amax(dim=-1) for block in memory.split(_MEMORY_BLOCK)]
    return (1 - torch.stack(highest).amax(dim=0)).clamp(min=0)  # (batch, tokens)


class _SamEncoder(nn.Module):
    def __init__(self, model: Any) -> None:
        super().__init__()
        self.sam, self.refiner = model.sam, model.refiner

    def forward(self, sam_pixel_values: Tensor) -> tuple[Tensor, ...]:
        embeddings: tuple[Tensor, ...] = self.refiner.encode(self.sam, sam_pixel_values)
        return embeddings


class _SamDecoder(nn.Module):
    """Embeddings of one photograph and any number of prompts to masks and their predicted quality."""

    def __init__(self, model: Any, num_embeddings: int, prompt_names: Sequence[str]) -> None:
        super().__init__()
        self.sam, self.refiner = model.sam, model.refiner
        self.num_embeddings, self.prompt_names = num_embeddings, tuple(prompt_names)
        self.multimask_output = model.config.multimask_output

    def forward(self, *tensors: Tensor) -> tuple[Tensor, Tensor]:
        embeddings = self.refiner.name_embeddings(tensors[: self.num_embeddings])
        prompts = {
            name: each[None] for name, each in zip(self.prompt_names, tensors[self.num_embeddings :], strict=True)
        }
        outputs = self.sam(**embeddings, **prompts, multimask_output=self.multimask_output)
        return outputs.pred_masks[0], outputs.iou_scores[0]


def make_graph(name: str, model: Any, size: tuple[int, int], references: Any = None) -> Graph:
    """Describe one of the graphs of a model.

    Args:
        name (`str`): one of `GRAPHS`.
        model ([`ClipSamForAnomalySegmentation`]): on the CPU, in float32.
        size (`tuple[int, int]`): (height, width) of CLIP's pixels.
        references ([`ClipSamReferences`], *optional*): what photographs are compared with.

    Returns:
        [`Graph`].
    """
    config = model.config
    # Two of each, of no special size: an exporter takes a length of 1 for a constant
    if name == "localizer":
        inputs = {
            "pixel_values": torch.zeros(2, 3, *size),
            "text_embeds": torch.zeros(2, 2, config.clip_config.projection_dim),
        }
        outputs = ["rough_anomaly_map"]
        if references is None and config.image_score == "text":
            outputs.append("text_score")
        return Graph(_Localizer(model, references), inputs, outputs, dict.fromkeys(inputs, "batch_size"))
    side = config.sam_config.vision_config.image_size
    encoder, pixels = _SamEncoder(model), torch.zeros(2, 3, side, side)
    with torch.no_grad():
        embeddings = model.get_image_embeddings(pixels[:1])
    names = ["image_embeddings", "intermediate_embeddings"][: len(embeddings)]
    if name == "sam_encoder":
        return Graph(encoder, {"sam_pixel_values": pixels}, names, {"sam_pixel_values": "batch_size"})
    prompts = {}
    if config.prompt_type in ("box_and_points", "points"):
        prompts["input_points"] = torch.full((3, config.num_points, 2), side / 2)
        prompts["input_labels"] = torch.ones(3, config.num_points, dtype=torch.long)
    if config.prompt_type in ("box_and_points", "box"):
        prompts["input_boxes"] = torch.tensor([[0.0, 0.0, side / 2, side / 2]]).repeat(3, 1)
    decoder = _SamDecoder(model, len(embeddings), list(prompts))
    given = dict(zip(names, embeddings, strict=True))
    return Graph(decoder, {**given, **prompts}, ["pred_masks", "iou_scores"], dict.fromkeys(prompts, "num_regions"))


def write_graph(graph: Graph, path: Path) -> None:
    """Write a graph as ONNX; weights above 2 GB lie in a second file, `<name>.onnx.data`.

    Args:
        graph ([`Graph`]): it.
        path (`Path`): the file.

    Raises:
        ImportError: if the exporter's library is missing.
    """
    try:
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise ImportError("An export to ONNX needs onnxscript: pip install 'clipsam_hf[onnx]'") from error
    lengths = {name: torch.export.Dim(name) for name in dict.fromkeys(graph.dynamic.values())}
    shapes = tuple({0: lengths[graph.dynamic[name]]} if name in graph.dynamic else None for name in graph.inputs)
    # Of `*tensors` the shapes are one entry, of named arguments as many as there are
    dynamic_shapes = (shapes,) if isinstance(graph.module, _SamDecoder) else shapes
    with torch.no_grad(), _quiet():
        exported = torch.export.export(
            graph.module.eval(), tuple(graph.inputs.values()), dynamic_shapes=dynamic_shapes, strict=False
        )
        program = torch.onnx.export(
            exported, input_names=list(graph.inputs), output_names=list(graph.outputs), dynamo=True, verbose=False
        )
        assert program is not None
        program.save(path)


def quantize_graph(path: Path) -> None:
    """Store the matrices of a graph as int8, one scale each; what is multiplied with them is quantised as it comes.

    Args:
        path (`Path`): the file, which is replaced.

    Raises:
        ImportError: if the library is missing.
    """
    try:
        from onnxruntime.quantization import QuantType, quantize_dynamic
    except ImportError as error:
        raise ImportError("int8 needs onnxruntime: pip install 'clipsam_hf[onnx]'") from error
    quantized = path.with_name(f"{path.stem}-int8.onnx")
    with _quiet():
        quantize_dynamic(path, quantized, weight_type=QuantType.QInt8, op_types_to_quantize=["MatMul", "Gemm"])
    path.with_name(f"{path.name}.data").unlink(missing_ok=True)
    quantized.replace(path)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the libraries' talk about their own insides from the user."""
    loggers = [logging.getLogger(name) for name in (None, "torch.onnx", "torch.export", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            for logger in loggers:
                logger.setLevel(logging.ERROR)
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
