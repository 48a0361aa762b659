# SPDX-FileCopyrightText: 2026 The clipsam_hf authors
# SPDX-License-Identifier: Apache-2.0
"""The images that UMCI is trained on, as views: the photograph itself, flips of it, mosaics of one category.

Each view is a function of (seed, index, view) and nothing else. So a run can be resumed anywhere, split into any
number of processes and workers, or be fed from a cache of CLIP's features, and sees the same images.
"""

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..data.samples import AnomalySample
from ..files import digest_file, digest_json, digest_pixels
from ..image_loading import ImageReadError
from ..processing_clipsam import ClipSamProcessor


__all__ = ["TrainingImages", "TrainingView"]

# All that makes CLIP's pixels of a photograph, in words that do not change with the library
_PIXEL_SETTINGS = ("do_resize", "resample", "do_rescale", "rescale_factor", "do_normalize", "image_mean", "image_std")
# Bits of a flip
_LEFT_RIGHT, _UPSIDE_DOWN = 1, 2


class TrainingView(NamedTuple):
    """One image as the model is trained on it.

    Args:
        pixel_values (`torch.Tensor` of shape `(3, height, width)`): float32, in CLIP's square frame.
        labels (`torch.Tensor` of shape `(height, width)`): uint8, 1 = defect, 0 = good, in the same frame.
        class_name (`str`): the word for the prompts.
        file_name (`str`): of the photograph; of a mosaic the one that it was made for.
        digest (`str`): 64 hexadecimal digits that identify `pixel_values`; see [`TrainingImages.view_digest`].
    """

    pixel_values: Tensor
    labels: Tensor
    class_name: str
    file_name: str
    digest: str


class _Tile(NamedTuple):
    """One image of a view and how it is flipped."""

    image: int
    flip: int


class _Facts(NamedTuple):
    """What is asked of every sample again and again."""

    category: str
    class_name: str
    label: int | None
    has_mask: bool
    file_name: str

    @classmethod
    def of(cls, sample: AnomalySample, index: int) -> "_Facts":
        name = str(sample.image_path)
        file_name = f"image {index}" if name == "." else name
        return cls(sample.category, sample.class_name, sample.label, sample.has_mask, file_name)


class TrainingImages:
    """Photographs with masks as a map-style set of training views.

    View 0 is the plain photograph. The other views are flips: among the views 0 to 3, 4 to 7 and so on each of the
    four flips (none, left-right, upside down, both) comes up once. With `mosaic_probability` a view becomes a 2x2
    mosaic of the photograph and three others of its category, each flipped on its own. Flips are made in CLIP's
    frame, so image and mask move together to the pixel.

    Masks are brought to the frame by the nearest pixel, as the processor does it: this keeps an expected share of the
    thinnest scratch, of which a majority in each cell would leave nothing. The loss takes means of cells of it.

    Args:
        samples (`Sequence[AnomalySample]`): such as an [`AnomalyFolder`]; all of them with pixel truth.
        processor (`ClipSamProcessor`): makes the pixels; its `size` is the frame.
        seed (`int`, *optional*, defaults to 0): of the flips and mosaics, at least 0.
        num_views (`int`, *optional*, defaults to 1): how many views of each image are worth caching; `view` makes any.
        flip (`bool`, *optional*, defaults to `True`): whether views other than 0 are flipped.
        mosaic_probability (`float`, *optional*, defaults to 0.0): share of mosaics among the views other than 0.

    Attributes:
        size (`tuple[int, int]`): (height, width) of the frame.
        class_names (`list[str]`): every word for the prompts, sorted.

    Raises:
        ValueError: if there is no image or no defect at all, an image has no pixel truth, an option is out of range,
            or more than one view is asked for where all are the same.

    Example:

    ```python
    >>> from pathlib import Path
    >>> from clipsam_hf.data import AnomalyFolder
    >>> from clipsam_hf.processing_clipsam import ClipSamProcessor

    >>> for kind in ("good", "bad"):
    ...     Path("plate/test", kind).mkdir(parents=True)
    ...     photograph.save(f"plate/test/{kind}/1.png")
    >>> Path("plate/ground_truth/bad").mkdir(parents=True)
    >>> photograph.convert("L").save("plate/ground_truth/bad/1_mask.png")
    >>> images = TrainingImages(AnomalyFolder("plate"), ClipSamProcessor.from_pretrained(folder), num_views=2)
    >>> view = images.view(0, 1)
    >>> len(images), view.class_name, view.labels.shape == view.pixel_values.shape[1:]
    (2, 'plate', True)

    ```
    """

    def __init__(
        self,
        samples: Sequence[AnomalySample],
        processor: ClipSamProcessor,
        *,
        seed: int = 0,
        num_views: int = 1,
        flip: bool = True,
        mosaic_probability: float = 0.0,
    ) -> None:
        self.samples = samples
        self.processor: Any = processor
        self.seed = _check_integer("seed", seed, least=0)
        self.num_views = _check_integer("num_views", num_views, least=1)
        self.flip = flip
        self.mosaic_probability = mosaic_probability
        if not 0 <= mosaic_probability <= 1:  # NaN fails too
            raise ValueError(f"`mosaic_probability` must lie in [0, 1], got {mosaic_probability!r}.")
        if num_views > 1 and not flip and not mosaic_probability:
            raise ValueError(f"Without flips and mosaics all views are the same, but `num_views` is {num_views}.")
        # One pass: a data set may open its files whenever it is asked for a sample
        self._facts = [_Facts.of(sample, index) for index, sample in enumerate(samples)]
        _check_facts(self._facts)
        frame = self.processor.image_processor.size
        self.size: tuple[int, int] = (frame["height"], frame["width"])
        self.class_names = sorted({facts.class_name for facts in self._facts})
        self._categories: dict[str, list[int]] = {}
        for index, facts in enumerate(self._facts):
            self._categories.setdefault(facts.category, []).append(index)
        self._content_digests: dict[int, str] = {}

    def __len__(self) -> int:
        return len(self._facts)

    def view(self, index: int, view: int = 0) -> TrainingView:
        """Reads and prepares one view.

        Args:
            index (`int`): of the image, from 0 to `len - 1`.
            view (`int`): at least 0; also above `num_views`.

        Returns:
            [`TrainingView`].

        Raises:
            IndexError: if there is no such image.
            ImageReadError, OSError: if a photograph or a mask cannot be read; the message names the file.
            ValueError: if the sizes of a photograph and its mask differ, or `view` is negative.
        """
        tiles = self._plan(index, view)
        return TrainingView(
            _join([self._read_pixels(tile, size) for tile, size in self._lay_out(tiles)]),
            self.labels(index, view),
            self._facts[index].class_name,
            self.file_name(index),
            self.view_digest(index, view),
        )

    def labels(self, index: int, view: int = 0) -> Tensor:
        """Reads the labels of a view alone, for which no photograph is decoded.

        Args:
            index (`int`): of the image.
            view (`int`): at least 0.

        Returns:
            `torch.Tensor` of shape `(height, width)`: uint8, as in [`TrainingView`].

        Raises:
            As `view`.
        """
        return _join([self._read_labels(tile, size) for tile, size in self._lay_out(self._plan(index, view))])

    def file_name(self, index: int) -> str:
        """The file of an image, or its number where it is no file."""
        return self._facts[index].file_name

    def class_name(self, index: int) -> str:
        """The word for the prompts of an image."""
        return self._facts[index].class_name

    def view_digest(self, index: int, view: int = 0) -> str:
        """Identifies the pixels of a view, without decoding anything: 64 hexadecimal digits of SHA-256.

        It depends on the files' content, not on their names, on what makes CLIP's pixels of them, and on the draw.
        """
        tiles = [(self._content_digest(tile.image), tile.flip) for tile in self._plan(index, view)]
        return digest_json([self._pixel_settings(), tiles])

    @property
    def digest(self) -> str:
        """Identifies all that the set gives to a training, masks and words too: 64 hexadecimal digits of SHA-256.

        All files are read for it, none is decoded.
        """
        rows = [
            (self._content_digest(index), self._mask_digest(index), facts.label, facts.category, facts.class_name)
            for index, facts in enumerate(self._facts)
        ]
        options = (self.seed, self.flip, self.mosaic_probability)
        return digest_json([self._pixel_settings(), options, rows])

    def _plan(self, index: int, view: int) -> list[_Tile]:
        """Draws what a view is made of: one image, or four from the upper left to the lower right."""
        if not 0 <= index < len(self):
            raise IndexError(f"There is no image {index}; there are {len(self)}.")
        _check_integer("view", view, least=0)
        if view == 0:
            return [_Tile(index, 0)]
        rng = np.random.default_rng((self.seed, index, view, 0))
        if rng.random() < self.mosaic_probability:
            others = [other for other in self._categories[self._facts[index].category] if other != index] or [index]
            drawn = [index, *(others[place] for place in rng.choice(len(others), 3, replace=len(others) < 3))]
            flips = rng.integers(4, size=4) if self.flip else [0] * 4
            return [_Tile(drawn[place], int(flips[place])) for place in rng.permutation(4)]
        # The first of four views is the plain one, whatever the order drawn
        order = np.random.default_rng((self.seed, index, view // 4, 1)).permutation(4)
        return [_Tile(index, int(order[view % 4] ^ order[0]) if self.flip else 0)]

    def _lay_out(self, tiles: list[_Tile]) -> list[tuple[_Tile, tuple[int, int]]]:
        """Gives each tile its (height, width); the right and the lower ones get the pixel that does not divide."""
        height, width = self.size
        if len(tiles) == 1:
            return [(tiles[0], self.size)]
        sizes = [(rows, columns) for rows in _halve(height) for columns in _halve(width)]
        return list(zip(tiles, sizes, strict=True))

    def _read_pixels(self, tile: _Tile, size: tuple[int, int]) -> Tensor:
        with _naming(self.file_name(tile.image)):
            image = self.samples[tile.image].load_image()
        pixels = self.processor(images=image, size=_to_dict(size), return_sam_inputs=False, return_tensors="pt")
        return _flip(pixels["pixel_values"][0].float(), tile.flip)  # (3, height, width)

    def _read_labels(self, tile: _Tile, size: tuple[int, int]) -> Tensor:
        if self._facts[tile.image].label == 0:
            return torch.zeros(size, dtype=torch.uint8)
        with _naming(self.file_name(tile.image)):
            mask = self.samples[tile.image].load_mask()
        labels = self.processor(segmentation_maps=mask, size=_to_dict(size), return_tensors="pt")["labels"]
        return _flip(labels[0].to(torch.uint8), tile.flip)  # (height, width)

    def _pixel_settings(self) -> list[Any]:
        image_processor = self.processor.image_processor
        return [self.size, *(getattr(image_processor, name) for name in _PIXEL_SETTINGS)]

    def _content_digest(self, index: int) -> str:
        """Of a file its bytes; of an image in memory its pixels, which alone are known for certain."""
        if index not in self._content_digests:
            sample = self.samples[index]
            if sample.image is None:
                digest = digest_file(sample.image_path)
            else:
                with _naming(self.file_name(index)):
                    image = sample.load_image()
                digest = digest_pixels(image)
            self._content_digests[index] = digest
        return self._content_digests[index]

    def _mask_digest(self, index: int) -> str:
        sample = self.samples[index]
        if sample.mask is not None:
            with _naming(self.file_name(index)):
                mask = sample.load_mask()
            return digest_pixels(mask)
        return "" if sample.mask_path is None else f"{digest_file(sample.mask_path)} > {sample.gt_threshold:g}"


def _check_integer(name: str, value: Any, *, least: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(f"`{name}` must be an integer of at least {least}, got {value!r}.")
    return value


def _check_facts(facts: list[_Facts]) -> None:
    """Refuses what nothing can be learned from, and warns of categories that show no defect."""
    if not facts:
        raise ValueError("There is no image to train on.")
    unknown = [each.file_name for each in facts if not each.has_mask]
    if unknown:
        raise ValueError(
            f"{len(unknown)} of {len(facts)} images have no pixel truth, such as {unknown[0]!r}: training needs a"
            " mask for every image that is not known to be good."
        )
    categories = {each.category for each in facts}
    without = sorted(categories - {each.category for each in facts if each.label != 0})
    if len(without) == len(categories):
        raise ValueError(f"None of the {len(facts)} images has a mask: there is no defect to learn from.")
    if without:
        warnings.warn(f"No image of {', '.join(map(repr, without))} has a defect.", stacklevel=3)


@contextmanager
def _naming(name: str) -> Iterator[None]:
    """Puts the name of the photograph before what is said of a source that has none, or of its mask."""
    try:
        yield
    except ImageReadError as error:
        if name in str(error):
            raise
        raise ImageReadError(f"{name}: {error}") from error


def _to_dict(size: tuple[int, int]) -> dict[str, int]:
    return {"height": size[0], "width": size[1]}


def _halve(length: int) -> tuple[int, int]:
    return length // 2, length - length // 2


def _flip(values: Tensor, flip: int) -> Tensor:
    """Flips (..., height, width) by the bits of `flip`."""
    dims = [dim for bit, dim in ((_LEFT_RIGHT, -1), (_UPSIDE_DOWN, -2)) if flip & bit]
    return values.flip(dims) if dims else values


def _join(tiles: list[Tensor]) -> Tensor:
    """One tile as it is, or four (..., height, width) in reading order to one frame."""
    if len(tiles) == 1:
        return tiles[0]
    upper, lower = torch.cat(tiles[:2], dim=-1), torch.cat(tiles[2:], dim=-1)
    return torch.cat((upper, lower), dim=-2)
