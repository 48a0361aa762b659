# SPDX-FileCopyrightText: 2026 The clipsam_hf authors
# SPDX-License-Identifier: Apache-2.0
"""The one list of figures: metrics compute those that stand here, and all tables and files are made from it.

A new figure is one line here and one place that computes it, in `categories`.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal


__all__ = ["FIGURES", "REGION_SIZES", "Figure", "Figures", "Group", "Intervals", "check_registered", "names_of"]

Figures = dict[str, float]
Intervals = dict[str, tuple[float, float]]
Group = Literal["pixel", "region", "image", "legacy"]

# Upper ends, as shares of the image's area; at 518 x 518 they are 268 and 2683 pixels.
REGION_SIZES = {"small": 0.001, "medium": 0.01, "large": 1.0}
"""Sizes of defect regions by the largest share of the image that they take."""


@dataclass(frozen=True)
class Figure:
    """What tables and files must know of a figure.

    Args:
        name (`str`): the key under which `AnomalyMetrics` gives it.
        title (`str`): as cards write it; tables shorten "pixel" and "image".
        group (`str`): what it is of: `"pixel"`, `"region"`, `"image"`, or `"legacy"` for those on request alone.
        is_percentage (`bool`): whether tables show it in percent; a threshold stays as it is.
        in_terminal (`bool`): whether the table of a terminal has room for it.
        on_card (`bool`): whether a model card shows it.
        has_mean (`bool`): whether a mean over categories says anything.

    Example:
        >>> FIGURES["pixel_auroc"].title, FIGURES["pixel_auroc"].heading
        ('pixel AUROC', 'px AUROC')
    """

    name: str
    title: str
    group: Group
    is_percentage: bool = True
    in_terminal: bool = True
    on_card: bool = False
    has_mean: bool = True

    @property
    def heading(self) -> str:
        """The title as it stands above a column."""
        return self.title.replace("pixel ", "px ").replace("image ", "im ")


_ALL = (
    Figure("pixel_auroc", "pixel AUROC", "pixel", on_card=True),
    Figure("pixel_ap", "pixel AP", "pixel", on_card=True),
    Figure("pixel_f1_max", "pixel F1-max", "pixel", on_card=True),
    Figure("pixel_f1_threshold", "at threshold", "pixel", is_percentage=False, in_terminal=False, has_mean=False),
    Figure("pixel_iou", "pixel IoU", "pixel"),
    Figure("pixel_aupro", "pixel AUPRO", "pixel", on_card=True),
    Figure("legacy_aupro_linear200", "LEGACY AUPRO-linear200", "legacy"),
    Figure("region_recall", "found", "region"),
    *(Figure(f"region_recall_{size}", f"found, {size}", "region", in_terminal=False) for size in REGION_SIZES),
    Figure("image_auroc", "image AUROC", "image", on_card=True),
    Figure("image_ap", "image AP", "image", on_card=True),
    Figure("image_f1_max", "image F1-max", "image", on_card=True),
)

FIGURES: dict[str, Figure] = {figure.name: figure for figure in _ALL}
"""All figures by their names, in the order of columns."""


def names_of(*groups: Group) -> tuple[str, ...]:
    """Return the names of the figures of some groups.

    Args:
        groups (`str`): names of groups.

    Returns:
        `tuple[str, ...]`: in the order of columns.

    Example:
        >>> names_of("image")
        ('image_auroc', 'image_ap', 'image_f1_max')
    """
    return tuple(name for name, figure in FIGURES.items() if figure.group in groups)


def check_registered(names: Iterable[str]) -> None:
    """Raise if a figure would silently vanish from the tables.

    Args:
        names (`Iterable[str]`): names of figures that were computed.

    Raises:
        ValueError: if one is not in `FIGURES`.

    Example:
        >>> check_registered(["pixel_ap", "pixel_pro"])
        Traceback (most recent call last):
        ...
        ValueError: figures that `FIGURES` does not list: ['pixel_pro']
    """
    unknown = sorted(set(names) - set(FIGURES))
    if unknown:
        raise ValueError(f"figures that `FIGURES` does not list: {unknown}")
