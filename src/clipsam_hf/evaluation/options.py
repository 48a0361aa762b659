# SPDX-FileCopyrightText: 2026 The clipsam_hf authors
# SPDX-License-Identifier: Apache-2.0
"""What the figures of an evaluation depend on, beside the model and the data."""

import os
from dataclasses import dataclass
from functools import cached_property

from torch import Tensor

from ..metrics.anomaly import AnomalyMetrics
from ..patches_clipsam import read_roi
from ..processing_clipsam import check_class_name
from ..tiling_clipsam import check_tile


__all__ = ["EvaluationOptions"]


@dataclass(frozen=True)
class EvaluationOptions:
    """What the figures depend on, beside the model and the data.

    Args:
        size (`int`, *optional*): side in pixels of the square in which maps and masks are compared; `None` compares
            at the size of each photograph.
        mask_resize (`str`): how masks come to that size, `"bilinear"` or `"nearest"`, see `resize_mask`. Without
            meaning where `size` is `None`.
        refine (`bool`): whether SAM's map is evaluated too; CLIP's always is.
        limit (`int`, *optional*): at most so many images per category, good and abnormal ones in proportion, spread
            evenly over the list. For trials: the figures are not those of the data set.
        class_name (`str`, *optional*): what all photographs show; by default, the data's name of their category.
        aupro_limit (`float`): false positive rate up to which AUPRO is integrated.
        streaming (`bool`): histograms and certified intervals instead of exact figures, in fixed memory.
        aupro_linear200 (`bool`): adds the loop of most published tables, for comparison with papers only.
        references_per_category (`int`, *optional*): so many good photographs of each category, which are not scored,
            are what the others are compared with.
        mutual (`bool`): the photographs of a category are compared with each other.
        seed (`int`): of the draw of those that are compared with.
        tile (`str` or `int`, *optional*): how long or huge photographs are cut into tiles, which are looked at beside
            the whole, see `plan_tiles`. By default all are taken whole, as published figures are.
        roi_mask (`str` or `os.PathLike`, *optional*): file of a mask that is not black where to look, brought to the
            size of each photograph. Maps are 0 elsewhere, and a defect there counts as missed.

    Raises:
        TypeError, ValueError: if one is out of range.
        ImageReadError, OSError: if the mask cannot be read.

    Example:
        >>> EvaluationOptions(refine=False).map_names
        ['rough']
    """

    size: int | None = 518
    mask_resize: str = "bilinear"
    refine: bool = True
    limit: int | None = None
    class_name: str | None = None
    aupro_limit: float = 0.3
    streaming: bool = False
    aupro_linear200: bool = False
    references_per_category: int | None = None
    mutual: bool = False
    seed: int = 0
    tile: str | int | None = None
    roi_mask: str | os.PathLike[str] | None = None

    def __post_init__(self) -> None:
        check_tile(self.tile)
        if self.mutual and self.tile is not None:
            raise ValueError("photographs that are compared with each other are taken whole: leave out `tile`")
        _ = self.roi  # a mask that cannot be read is an error now
        if self.mutual and self.references_per_category is not None:
            raise ValueError("`mutual` and `references_per_category` are two protocols: choose one")
        if isinstance(self.seed, bool) or not isinstance(self.seed, int) or self.seed < 0:
            raise ValueError(f"`seed` must be an integer of at least 0, got {self.seed!r}")
        for name in ("size", "limit", "references_per_category"):
            value = getattr(self, name)
            if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
                raise ValueError(f"`{name}` must be a positive integer or None, got {value!r}")
        if self.mask_resize not in ("bilinear", "nearest"):
            raise ValueError(f"`mask_resize` must be 'bilinear' or 'nearest', got {self.mask_resize!r}")
        if self.class_name is not None:
            check_class_name(self.class_name)
        self.new_metrics()

    @property
    def mask_rule(self) -> str:
        """The rule for `resize_mask`."""
        return "native" if self.size is None else self.mask_resize

    @cached_property
    def roi(self) -> Tensor | None:
        """The region of interest, bool of shape (height, width), or `None`; the file is read once."""
        return None if self.roi_mask is None else read_roi(self.roi_mask)

    @property
    def map_names(self) -> list[str]:
        """The maps that are evaluated."""
        return ["rough", "refined"] if self.refine else ["rough"]

    def new_metrics(self) -> AnomalyMetrics:
        """Return empty metrics with these options."""
        return AnomalyMetrics(self.aupro_limit, streaming=self.streaming, aupro_linear200=self.aupro_linear200)
