# SPDX-FileCopyrightText: 2026 The clipsam_hf authors
# SPDX-License-Identifier: Apache-2.0
"""What an evaluation keeps on the disk: finished chunks, so that it can go on, and embeddings, for the next one.

Each file is written beside its place and then moved there, so whatever has its final name is complete.
"""

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from safetensors.torch import load_file, save
from torch import Tensor

from ..files import open_atomically, refuse_differences
from ..metrics.anomaly import AnomalyMetrics


__all__ = ["Embedding", "EmbeddingCache", "StateFolder"]


class StateFolder:
    """The finished chunks of a run that may be interrupted, and the protocol under which they were made.

    Processes that share the folder may write different chunks at the same time.

    Args:
        folder (`Path`): where the files are; `open` makes it.

    Example:
        >>> import tempfile
        >>> state = StateFolder(Path(tempfile.mkdtemp()) / "state")
        >>> state.open({"seed": 0})
        >>> state.save(0, {"rough": AnomalyMetrics()})
        >>> state.has(0), state.has(1)
        (True, False)
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @property
    def exists(self) -> bool:
        """Whether an interrupted run has left its state."""
        return self._protocol_path.exists()

    @property
    def _protocol_path(self) -> Path:
        return self.folder / "protocol.json"

    def open(self, protocol: Mapping[str, Any]) -> None:
        """Make the folder, or go on in it if it was made under the same protocol.

        Args:
            protocol (`Mapping[str, Any]`): all that the figures depend on; JSON values.

        Raises:
            ValueError: if the folder holds the chunks of another protocol; the message shows what differs.
            OSError: if the folder cannot be written.
        """
        protocol = json.loads(json.dumps(protocol))
        if self.exists:
            earlier = json.loads(self._protocol_path.read_text(encoding="utf-8"))
            finding = f"{str(self.folder.parent)!r} holds an unfinished evaluation under another protocol"
            refuse_differences(earlier, protocol, finding)
            return
        self.remove()  # chunks whose protocol is lost
        self.folder.mkdir(parents=True)
        with open_atomically(self._protocol_path) as file:
            file.write(json.dumps(protocol, indent=2).encode())

    def has(self, index: int) -> bool:
        """Whether the chunk of this number is finished."""
        return self._path_of(index).exists()

    def save(self, index: int, metrics: Mapping[str, AnomalyMetrics]) -> None:
        """Keep what was collected of a chunk.

        Args:
            index (`int`): number of the chunk.
            metrics (`Mapping[str, AnomalyMetrics]`): by the name of the map.

        Raises:
            OSError: if the file cannot be written.
        """
        arrays = {f"{name}/{key}": array for name, part in metrics.items() for key, array in part.state_dict().items()}
        # Histograms shrink to a fraction; the scores of single pixels hardly shrink at all
        write: Any = np.savez_compressed if any(part.streaming for part in metrics.values()) else np.savez
        with open_atomically(self._path_of(index)) as file:
            write(file, **arrays)

    def load(self, index: int, name: str) -> AnomalyMetrics:
        """Return what was collected of a chunk for one map.

        Args:
            index (`int`): number of a finished chunk.
            name (`str`): name of the map.

        Returns:
            `AnomalyMetrics`: as it was given to `save`.
        """
        prefix = f"{name}/"
        with np.load(self._path_of(index), allow_pickle=False) as arrays:
            state = {key.removeprefix(prefix): arrays[key] for key in arrays.files if key.startswith(prefix)}
        return AnomalyMetrics.from_state_dict(state)

    def save_figures(self, index: int, metrics: AnomalyMetrics, image_scores: Sequence[float]) -> None:
        """Keep the figures of a group of chunks, for the process that writes the report.

        Args:
            index (`int`): number of the group.
            metrics (`AnomalyMetrics`): of one category, finished, so that this is small.
            image_scores (`Sequence[float]`): the scores of the group's images.

        Raises:
            OSError: if the file cannot be written.
        """
        with open_atomically(self._figures_path_of(index)) as file:
            np.savez(file, allow_pickle=False, image_scores=np.array(image_scores), **metrics.state_dict())

    def load_figures(self, index: int) -> tuple[AnomalyMetrics, list[float]]:
        """Return what `save_figures` has kept of a group."""
        with np.load(self._figures_path_of(index), allow_pickle=False) as arrays:
            state = {key: arrays[key] for key in arrays.files}
        image_scores = state.pop("image_scores").tolist()
        return AnomalyMetrics.from_state_dict(state), image_scores

    def remove(self) -> None:
        """Remove the folder and all that is in it; raises OSError if that cannot be."""
        if self.folder.exists():
            shutil.rmtree(self.folder)

    def _path_of(self, index: int) -> Path:
        return self.folder / f"chunk-{index:06d}.npz"

    def _figures_path_of(self, index: int) -> Path:
        return self.folder / f"figures-{index:06d}.npz"


class Embedding(NamedTuple):
    """What the refiner's decoder needs of a photograph.

    Args:
        image_embeddings (`tuple` of `torch.Tensor` of shape `(1, ...)`): of the encoder; SAM gives one, SAM-HQ
            several.
        reshaped_input_sizes (`torch.Tensor` of shape `(1, 2)`): (height, width) of the photograph in SAM's square.
    """

    image_embeddings: tuple[Tensor, ...]
    reshaped_input_sizes: Tensor


class EmbeddingCache:
    """The refiner's image embeddings on the disk, each under the content of its photograph.

    A folder serves many evaluations: those of another refiner or another preprocessing stand apart, by `model_key`.
    An embedding of SAM's 64 x 64 grid takes 4 MiB.

    Args:
        folder (`str` or `os.PathLike`): where the files are; it is made when the first one is written.
        model_key (`str`): what the embeddings depend on beside the photograph, such as `fingerprint` of the refiner.

    Example:
        >>> import tempfile, torch
        >>> cache = EmbeddingCache(tempfile.mkdtemp(), "some-sam")
        >>> cache.save("photograph", Embedding((torch.zeros(1, 1, 2, 2),), torch.tensor([[4, 3]])))
        >>> cache.load("photograph").reshaped_input_sizes.tolist(), cache.load("another")
        ([[4, 3]], None)
    """

    def __init__(self, folder: str | os.PathLike[str], model_key: str) -> None:
        self.folder = Path(folder) / model_key

    def load(self, photograph_key: str) -> Embedding | None:
        """Return the embedding of a photograph, or `None` if it was never saved."""
        path = self._path_of(photograph_key)
        if not path.exists():
            return None
        tensors = load_file(path)
        sizes = tensors.pop("reshaped_input_sizes")
        return Embedding(tuple(tensors[str(index)] for index in range(len(tensors))), sizes)

    def save(self, photograph_key: str, embedding: Embedding) -> None:
        """Keep the embedding of a photograph; raises OSError if the folder cannot be written."""
        self.folder.mkdir(parents=True, exist_ok=True)
        tensors = {str(index): tensor for index, tensor in enumerate(embedding.image_embeddings)}
        tensors["reshaped_input_sizes"] = embedding.reshaped_input_sizes
        with open_atomically(self._path_of(photograph_key)) as file:
            file.write(save({name: tensor.cpu().contiguous() for name, tensor in tensors.items()}))

    def _path_of(self, photograph_key: str) -> Path:
        return self.folder / f"{photograph_key}.safetensors"
