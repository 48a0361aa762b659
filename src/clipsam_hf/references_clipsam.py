# SPDX-FileCopyrightText: 2026 The clipsam_hf authors
# SPDX-License-Identifier: Apache-2.0
"""Good photographs as references: what is far from everything that they show is abnormal; nothing is trained.

References are a memory of patches (`patches_clipsam.py`) and what distances are usual: each good photograph is
compared with the others. So a map is 0.5 at the same strangeness for every photograph and product, and the highest
score among the good ones is a threshold for a verdict.
"""

import json
import math
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import CommitInfo
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers.utils import cached_file, logging

from .gallery_clipsam import Gallery, check_quantile, fill_memory, judge_references, list_sources
from .inference_clipsam import ClipSamInference
from .patches_clipsam import (
    Scale,
    average_neighbourhoods,
    check_fingerprint,
    crop_roi,
    find_nearest,
    fingerprint_encoder,
    join_views,
    read_roi,
)
from .processing_clipsam import check_class_name
from .publishing_clipsam import push, replace_files
from .tiling_clipsam import check_tile


logger = logging.get_logger(__name__)

WEIGHTS_NAME = "references.safetensors"
SETTINGS_NAME = "references.json"
FORMAT = 1

# A photograph whose proportions differ by more than this factor is seen squashed in another way
_ASPECT_TOLERANCE = 1.25


@dataclass(frozen=True)
class ReferenceSettings:
    """What references hold beside the patches, as JSON values.

    Args:
        class_name (`str`): What the photographs show.
        fingerprint (`dict[str, Any]`): What made the features, see `fingerprint_encoder`.
        names (`Sequence[str]`): Of the photographs, in their order; of files without their folders.
        sizes (`Sequence[Sequence[int]]`): (height, width) of the photographs in pixels.
        centre (`float`): See [`Scale`].
        spread (`float`): See [`Scale`].
        scores (`Sequence[float]`): Of each photograph against the others, in [0, 1]; of a single one, of its mirrored
            and its shifted view.
        outliers (`Sequence[int]`): Photographs whose scores stand out; they are not counted for the threshold.
        decision_threshold (`float`, *optional*): In [0, 1]; a photograph with a higher score is abnormal. `None` for
            a single reference.
        expected_false_alarms (`float`, *optional*): The share of good photographs that is to be expected above it.
        groups (`Sequence[int]`, *optional*): 0 or 1 for each photograph if they look like two products.
        tile (`str` or `int`, *optional*): How photographs are cut, see `plan_tiles`.
    """

    class_name: str
    fingerprint: dict[str, Any]
    names: Sequence[str]
    sizes: Sequence[Sequence[int]]
    centre: float
    spread: float
    scores: Sequence[float]
    outliers: Sequence[int] = ()
    decision_threshold: float | None = None
    expected_false_alarms: float | None = None
    groups: Sequence[int] | None = None
    tile: str | int | None = None


class ClipSamReferences:
    """A memory of good photographs of one product, and what distances are usual among them.

    Args:
        memory (`Sequence[torch.Tensor]` of shape `(num_patches, hidden_size)`): For each block each neighbourhood, as
            `average_neighbourhoods` gives them, in half precision; the same patches in all of them.
        photographs (`torch.Tensor` of shape `(num_patches,)`, int32): From which photograph a patch is.
        settings ([`ReferenceSettings`]): All else.
        roi_mask (`torch.Tensor` of shape `(height, width)`, bool, *optional*): Where to look, the same for every
            photograph, in CLIP's frame; elsewhere maps are 0.

    Example:
        >>> from clipsam_hf import ClipSamForAnomalySegmentation, ClipSamProcessor
        >>> model = ClipSamForAnomalySegmentation.from_pretrained(folder)
        >>> processor = ClipSamProcessor.from_pretrained(folder)
        >>> references = ClipSamReferences.from_images(model, processor, [photograph] * 2, class_name="candle")
        >>> references.class_name, len(references)
        ('candle', 2)
    """

    def __init__(
        self,
        memory: Sequence[Tensor],
        photographs: Tensor,
        settings: ReferenceSettings,
        roi_mask: Tensor | None = None,
    ) -> None:
        self.memory, self.photographs = list(memory), photographs
        self.settings, self.roi_mask = settings, roi_mask
        self._warned: set[bool] = set()  # of narrow photographs (False), of wide ones (True): once each

    def __len__(self) -> int:
        """Number of photographs."""
        return len(self.settings.names)

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}({self.class_name!r}, {len(self)} photographs, {len(self.photographs)} patches,"
            f" decision_threshold={self.decision_threshold})"
        )

    @property
    def class_name(self) -> str:
        """What the photographs show."""
        return self.settings.class_name

    @property
    def decision_threshold(self) -> float | None:
        """Threshold on the image score, in [0, 1]."""
        return self.settings.decision_threshold

    @property
    def region_threshold(self) -> float:
        """Threshold on the map, in [0, 1]: what no good photograph reached, if that is known, else 0.5."""
        return 0.5 if self.decision_threshold is None else self.decision_threshold

    @property
    def tile(self) -> str | int | None:
        """How photographs are cut, see `plan_tiles`."""
        return self.settings.tile

    @property
    def text_weight(self) -> float:
        """Share of the localizer's own map, in [0, 1]."""
        weight: float = self.settings.fingerprint["reference_text_weight"]
        return weight

    @classmethod
    def from_images(
        cls,
        model: Any,
        processor: Any,
        images: str | os.PathLike[str] | Sequence[Any],
        *,
        class_name: str = "object",
        roi_mask: Any = None,
        defect_masks: Sequence[Any] | None = None,
        rotations: bool = False,
        max_patches: int = 16384,
        quantile: float = 1.0,
        seed: int = 0,
        tile: str | int | None = "auto",
        timeout: float | None = None,
        show_progress: bool = False,
    ) -> "ClipSamReferences":
        """Makes references of photographs of good parts.

        The threshold for a verdict is the highest score that a good photograph has against the others (or the
        `quantile` of the scores): of n good photographs one in n + 1 will be above it. A photograph whose score stands
        out from the rest, a defective one perhaps, is named in a warning and not counted; look at it.

        Args:
            model ([`ClipSamForAnomalySegmentation`]): On its device.
            processor ([`ClipSamProcessor`]): The model's.
            images (`str`, `os.PathLike` or `Sequence`): A folder of photographs, or a list of what `load_rgb` reads.
            class_name (`str`, *optional*, defaults to `"object"`): What they show.
            roi_mask (*optional*): What `load_rgb` reads; where it is not black is where to look. Any size.
            defect_masks (`Sequence`, *optional*): If photographs show defects: of each what `load_rgb` reads, not
                black where it is defective, or `None`. What is a patch or more away becomes a reference. For at least
                two photographs.
            rotations (`bool`, defaults to `False`): Whether parts may lie in any direction: the memory gets each
                photograph turned by 90, 180 and 270 degrees too.
            max_patches (`int`, defaults to 16384): More patches than these are thinned out by a greedy coreset.
            quantile (`float`, defaults to 1.0): In (0, 1]; of the scores of the good photographs, for the threshold.
            seed (`int`, defaults to 0): Of the coreset.
            tile (`str` or `int`, *optional*, defaults to `"auto"`): How long or huge photographs are cut, these and
                those that are compared with them; see `plan_tiles`. The whole and its tiles share one memory, and a
                photograph's score is the highest of its parts.
            timeout (`float`, *optional*): Seconds to wait for a URL's server.
            show_progress (`bool`, defaults to `False`): Whether to show a bar, if a terminal sees it.

        Returns:
            [`ClipSamReferences`].

        Raises:
            TypeError, ValueError: If there is no photograph, or an argument is out of range.
            ImageReadError, OSError: If one cannot be read.
        """
        check_quantile(quantile)
        if max_patches < 1:
            raise ValueError(f"`max_patches` must be at least 1, got {max_patches}.")
        check_tile(tile)
        sources, name = list_sources(images, "references"), check_class_name(class_name)
        if defect_masks is not None and not 1 < len(defect_masks) == len(sources):
            raise ValueError(f"`defect_masks` has {len(defect_masks)} entries for {len(sources)} photographs.")
        gallery = Gallery(model, processor, sources, name, timeout, defect_masks, tile)
        frame = (model.config.image_size, model.config.image_size)
        roi = None if roi_mask is None else crop_roi(read_roi(roi_mask, timeout), frame)
        with logging.tqdm(
            total=2 * len(gallery.sources), unit="look", disable=None if show_progress else True
        ) as progress:
            memory, photographs = fill_memory(gallery, roi, rotations, max_patches, seed, progress)
            sizes = [gallery.sizes[index] for index in range(len(sources))]
            fingerprint, groups = fingerprint_encoder(model, processor), gallery.find_groups()
            settings = ReferenceSettings(
                name, fingerprint, gallery.names, sizes, 0.0, 1.0, (), groups=groups, tile=tile
            )
            references = cls(memory, photographs, settings, roi)
            references.settings = judge_references(references, gallery, quantile, progress)
        return references

    def without(self, photograph: int | None) -> "ClipSamReferences":
        """Leaves a photograph out, so that it can be compared with the others.

        Args:
            photograph (`int`, *optional*): Its number; `None` leaves out none.

        Returns:
            [`ClipSamReferences`]: With a memory of the others.
        """
        if photograph is None:
            return self
        kept = self.photographs != photograph
        memory = [entries[kept] for entries in self.memory]
        return ClipSamReferences(memory, self.photographs[kept], self.settings, self.roi_mask)

    def measure(self, patches: Sequence[Tensor]) -> Tensor:
        """Measures how far the patches of photographs are from the memory.

        Args:
            patches (`Sequence[torch.Tensor]` of shape `(batch_size, hidden_size, height, width)`): One per block, as
                `describe_photographs` gives them.

        Returns:
            `torch.Tensor` of shape `(batch_size, height, width)`: Mean over blocks and neighbourhoods of the cosine
            distance to the nearest patch, float32.
        """
        device = patches[0].device
        self.memory = [entries.to(device) for entries in self.memory]
        tokens = average_neighbourhoods(patches, self.settings.fingerprint["reference_neighbourhoods"])
        pairs = zip(tokens, self.memory, strict=True)
        distances = torch.stack([find_nearest(each, entries) for each, entries in pairs]).mean(dim=0)
        distances = join_views(distances, self.settings.fingerprint["flip_average"])  # (batch, tokens)
        return distances.unflatten(1, patches[0].shape[-2:])  # (batch, height, width)

    def compare(
        self, patches: Sequence[Tensor], size: Sequence[int], places: Sequence[int | None] | None = None
    ) -> Tensor:
        """Makes the maps of photographs.

        Args:
            patches (`Sequence[torch.Tensor]` of shape `(batch_size, hidden_size, height, width)`): As in `measure`.
            size (`Sequence[int]`): (height, width) of the maps.
            places (`Sequence[int]`, *optional*): Not used: no photograph is one of the references.

        Returns:
            `torch.Tensor` of shape `(batch_size, *size)`: float32 in [0, 1].
        """
        return self.to_map(self.measure(patches), size)

    def to_map(self, distances: Tensor, size: Sequence[int]) -> Tensor:
        """Makes maps of distances.

        Args:
            distances (`torch.Tensor` of shape `(batch_size, height, width)`): Those of `measure`.
            size (`Sequence[int]`): (height, width) of the maps.

        Returns:
            `torch.Tensor` of shape `(batch_size, *size)`: float32 in [0, 1].
        """
        scale = Scale(self.settings.centre, self.settings.spread)
        return scale.to_map(distances, size, self.settings.fingerprint["reference_deviations"])

    def check(self, model: Any, processor: Any) -> None:
        """Raises if these references cannot be used with a model.

        Args:
            model ([`ClipSamForAnomalySegmentation`]): That is to use them.
            processor ([`ClipSamProcessor`]): The model's.

        Raises:
            ValueError: If they were made with other weights or settings; the message names them.
        """
        check_fingerprint(self.settings.fingerprint, fingerprint_encoder(model, processor))

    def check_photograph(self, size: Sequence[int], class_name: str) -> None:
        """Refuses another product, and warns of other proportions: CLIP sees every photograph squashed to a square.

        Args:
            size (`Sequence[int]`): (height, width) of the photograph.
            class_name (`str`): What it shows.

        Raises:
            ValueError: If that is something else than what the references show.
        """
        if class_name != self.class_name:
            raise ValueError(
                f"A photograph of {class_name!r} cannot be compared with references of {self.class_name!r}."
            )
        aspect, aspects = size[1] / size[0], [width / height for height, width in self.settings.sizes]
        is_narrower, is_wider = aspect < min(aspects) / _ASPECT_TOLERANCE, aspect > max(aspects) * _ASPECT_TOLERANCE
        if (is_narrower or is_wider) and is_wider not in self._warned:
            self._warned.add(is_wider)
            height, width = self.settings.sizes[0]
            logger.warning(
                f"A photograph of {size[1]} x {size[0]} pixels is compared with references of {width} x {height}: CLIP"
                " sees both as squares, so parts have other proportions there; crop it alike. Others that are too"
                f" {'wide' if is_wider else 'narrow'} are not named."
            )

    def save_pretrained(self, save_directory: str | os.PathLike[str]) -> None:
        """Saves to a folder: tensors as safetensors, all else as JSON.

        Args:
            save_directory (`str` or `os.PathLike`): The folder; it is made if there is none.

        Raises:
            NotADirectoryError: If it is a file.
            OSError: If it cannot be written to; what was there stays.
        """
        if os.path.isfile(save_directory):
            raise NotADirectoryError(f"References are saved to a folder, got the file {os.fspath(save_directory)!r}.")
        tensors = {f"memory.{index}": entries.cpu().contiguous() for index, entries in enumerate(self.memory)}
        tensors["photographs"] = self.photographs.cpu()
        if self.roi_mask is not None:
            tensors["roi_mask"] = self.roi_mask.cpu()
        with replace_files(save_directory) as folder:
            save_file(tensors, folder / WEIGHTS_NAME)
            described = {"format": FORMAT, **asdict(self.settings)}
            (folder / SETTINGS_NAME).write_text(json.dumps(described, indent=2) + "\n", encoding="utf-8")

    @classmethod
    def from_pretrained(cls, name_or_path: str | os.PathLike[str], **kwargs: Any) -> "ClipSamReferences":
        """Loads references.

        Args:
            name_or_path (`str` or `os.PathLike`): A folder, or a repository of the Hub.
            kwargs: For the Hub: `revision`, `token`, `cache_dir`, `local_files_only`.

        Returns:
            [`ClipSamReferences`].

        Raises:
            OSError: If there are none.
            ValueError: If they are of another format, or damaged.
        """
        name = os.fspath(name_or_path)
        if os.path.exists(name) and not is_saved_in(name):
            raise FileNotFoundError(
                f"{name!r} holds no references: a folder where some were saved has {SETTINGS_NAME!r}."
            )
        try:
            settings_path, weights_path = (
                str(cached_file(name, file_name, **kwargs)) for file_name in (SETTINGS_NAME, WEIGHTS_NAME)
            )
        except OSError as error:
            reason = str(error).strip().partition("\n")[0]
            raise OSError(f"There are no references {name!r}, neither in a folder nor on the Hub: {reason}") from error
        settings = _read_settings(Path(settings_path), name)
        try:
            tensors = load_file(weights_path)
            roi_mask, photographs = tensors.pop("roi_mask", None), tensors.pop("photographs")
            memory = [tensors[f"memory.{index}"] for index in range(len(tensors))]
            return cls(memory, photographs, settings, roi_mask)
        except (KeyError, SafetensorError) as error:
            raise ValueError(f"The references {name!r} are damaged: {error}.") from error

    def push_to_hub(self, repo_id: str, **kwargs: Any) -> CommitInfo:
        """Publishes the references in one commit.

        Args:
            repo_id (`str`): Name of the repository, `"organisation/name"`; it is made if there is none.
            kwargs: Those of `push`: `card`, `tags`, `private`, `token`, `revision`, `create_pr`, `commit_message`,
                `commit_description`.

        Returns:
            `CommitInfo`: The commit.

        Raises:
            OSError: If the Hub cannot be reached or refuses.
        """
        return push(self.save_pretrained, repo_id, **kwargs)


def _read_settings(path: Path, name: str) -> ReferenceSettings:
    """Reads the settings of saved references, which may be damaged, or a stranger's."""
    try:
        stored = json.loads(path.read_bytes())
        found = stored.pop("format", None)
    except (AttributeError, RecursionError, TypeError, ValueError) as error:
        raise ValueError(f"The references {name!r} are damaged: {error}.") from error
    if found != FORMAT:
        raise ValueError(f"{name!r} holds references of format {found!r}; known is {FORMAT}.")
    try:
        settings = ReferenceSettings(**stored)
        _check_settings(settings)
    except (IndexError, OverflowError, TypeError, ValueError) as error:
        raise ValueError(f"The references {name!r} are damaged: {error}.") from error
    return settings


def _check_settings(settings: ReferenceSettings) -> None:
    """Raises if a value is not of its kind, by whatever error."""
    names, groups = settings.names, [0] * len(settings.names) if settings.groups is None else settings.groups
    optional = [each for each in (settings.decision_threshold, settings.expected_false_alarms) if each is not None]
    if not (
        all(isinstance(text, str) for text in (settings.class_name, *names))
        and isinstance(settings.fingerprint, dict)
        and all(len(size) == 2 and all(isinstance(side, int) for side in size) for size in settings.sizes)
        and all(math.isfinite(number) for number in (settings.centre, settings.spread, *settings.scores, *optional))
        and all(names[place] is not None for place in settings.outliers)
        and all(group in (0, 1) for group in groups)
        # A single photograph is scored by two views of it
        and len(names) == len(settings.sizes) == len(groups) == len(settings.scores) - (len(names) == 1) > 0
    ):
        raise ValueError("a value is not of its kind")
    check_tile(settings.tile)


def take_references(
    inference: ClipSamInference,
    references: Any,
    *,
    class_name: str = "object",
    roi_mask: Any = None,
    tile: str | int | None = "auto",
    timeout: float | None = None,
) -> ClipSamReferences:
    """Makes references of whatever they were given as, and checks that the model can use them.

    Args:
        inference ([`ClipSamInference`]): The model.
        references ([`ClipSamReferences`], `str`, `os.PathLike` or `Sequence`): References, a folder or repository
            where some were saved, or a folder or list of good photographs.
        class_name (`str`, defaults to `"object"`): What the photographs show, where references are made.
        roi_mask (*optional*): Likewise, where to look; see [`ClipSamReferences`].
        tile (`str` or `int`, *optional*, defaults to `"auto"`): Likewise, how photographs are cut.
        timeout (`float`, *optional*): Seconds to wait for a URL's server.

    Returns:
        [`ClipSamReferences`].

    Raises:
        TypeError, ValueError: If they are none of these, or were made with another model.
        ImageReadError, OSError: If one cannot be read.
    """
    is_name = isinstance(references, (str, os.PathLike))
    if is_name and os.path.isfile(references):
        raise ValueError(
            f"`references` must be a folder or a list of photographs, got the file {os.fspath(references)!r}."
        )
    if is_name and (not os.path.isdir(references) or is_saved_in(references)):
        references = ClipSamReferences.from_pretrained(references)
    if not isinstance(references, ClipSamReferences):
        return ClipSamReferences.from_images(
            inference.model,
            inference.processor,
            references,
            class_name=class_name,
            roi_mask=roi_mask,
            tile=tile,
            timeout=timeout,
        )
    references.check(inference.model, inference.processor)
    return references


def agree_on_tile(tile: str | int | None, references: Any) -> str | int | None:
    """Chooses how photographs are cut: as what they are compared with.

    Args:
        tile (`str` or `int`, *optional*): What the caller wants, see `plan_tiles`; `"auto"` gives way.
        references ([`ClipSamReferences`] or [`MutualReferences`], *optional*): What photographs are compared with.

    Returns:
        `str` or `int`, *optional*: How they are cut.

    Raises:
        ValueError: If the caller wants something else than the references.
    """
    if references is None or tile == references.tile:
        return tile
    if tile != "auto":
        raise ValueError(
            f"Photographs are cut like what they are compared with, by `tile` {references.tile!r}, not {tile!r}: leave"
            " it out, or make references with it (photographs that are compared with each other are taken whole)."
        )
    own: str | int | None = references.tile
    return own


def is_saved_in(folder: str | os.PathLike[str]) -> bool:
    """Tells whether a folder holds saved references.

    Args:
        folder (`str` or `os.PathLike`): The folder.

    Returns:
        `bool`: Whether [`ClipSamReferences`] were saved there.
    """
    return (Path(folder) / SETTINGS_NAME).is_file()


__all__ = ["ClipSamReferences", "ReferenceSettings", "agree_on_tile", "is_saved_in", "take_references"]
