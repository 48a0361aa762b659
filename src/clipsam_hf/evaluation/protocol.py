# SPDX-FileCopyrightText: 2026 The clipsam_hf authors
# SPDX-License-Identifier: Apache-2.0
"""The protocol of an evaluation: everything that its figures depend on, so that no two kinds of figures are mixed."""

import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import Any

from ..configuration_clipsam import ClipSamConfig
from ..data import AnomalyDataset, AnomalyFolder
from ..data.layouts import GOOD, KNOWN_COUNTS
from ..files import describe_differences, digest_json, digest_tensors, fingerprint
from ..modeling_clipsam import ClipSamForAnomalySegmentation
from ..processing_clipsam import ClipSamProcessor
from .comparison import Comparison, NoComparison
from .options import EvaluationOptions
from .plan import Example


__all__ = [
    "SEEN",
    "ZERO_SHOT",
    "describe",
    "describe_settings",
    "describe_source",
    "differing_settings",
    "name_set",
    "trained_on",
]

ZERO_SHOT = "zero-shot"
"""Setting of a model that was trained on other sets, or on none, and sees one photograph at a time."""

SEEN = "seen in training"
"""Setting of a model that was trained on the very set that is evaluated."""

# They judge finished maps, and no figure here depends on them
_VERDICTS = ("mask_threshold", "decision_threshold", "calibrated_refine")


def describe(
    model: ClipSamForAnomalySegmentation,
    processor: ClipSamProcessor,
    data: AnomalyFolder | AnomalyDataset,
    options: EvaluationOptions,
    examples: Sequence[Example],
    model_name: str | None = None,
    comparison: Comparison | None = None,
) -> dict[str, Any]:
    """Return the protocol of an evaluation.

    Args:
        model (`ClipSamForAnomalySegmentation`): on its device.
        processor (`ClipSamProcessor`): the model's.
        data (`AnomalyFolder` or `AnomalyDataset`): what is evaluated.
        options (`EvaluationOptions`): how.
        examples (`Sequence[Example]`): the images of the data that are evaluated, at least one.
        model_name (`str`, *optional*): by default, where the model was loaded from.
        comparison (`Comparison`, *optional*): what the photographs are compared with; by default nothing.

    Returns:
        `dict[str, Any]`: JSON values.
    """
    config, comparison = model.config, comparison or NoComparison()
    described = {
        **describe_source(data),
        "class_names": {example.category: example.class_name for example in examples},
        "images": len(examples),
        "abnormal_images": sum(example.kind != GOOD for example in examples),
        "limit_per_category": options.limit,
        "list_sha256": digest_json(examples)[:16],
        **comparison.describe(),
    }
    seen = trained_on((config.auxiliary_dataset or "").split(" + "), described)
    settings = describe_settings(config)
    if comparison.setting == ZERO_SHOT:
        del settings["reference"]
    return {
        "setting": _name_setting(comparison.setting, seen),
        "data": described,
        "comparison": {
            "gt_threshold": data[examples[0].place].gt_threshold,
            **_describe_comparison(options),
        },
        "model": {
            "device": model.device.type,
            "name": model_name or config.name_or_path,
            "revision": getattr(config, "_commit_hash", None),
            "weights_sha256": fingerprint(model),
            "processor_sha256": digest_json(processor.to_json_string())[:16],
            "auxiliary_dataset": config.auxiliary_dataset,
            "dtype": str(model.dtype).removeprefix("torch."),
        },
        **_describe_look(options),
        "maps": options.map_names,
        **settings,
        "seed": config.point_seed,
        "versions": _versions(),
    }


def describe_settings(config: ClipSamConfig) -> dict[str, dict[str, Any]]:
    """Return the settings of a model that its maps and scores depend on.

    Args:
        config (`ClipSamConfig`): the model's.

    Returns:
        `dict[str, dict[str, Any]]`: by what they steer, `"localize"`, `"reference"`, `"refine"` and `"score"`; of a
        network's whole configuration the first 16 digits of its checksum.
    """
    return {
        purpose: {
            name: digest_json(value)[:16] if isinstance(value, Mapping) else value
            for name, value in config.settings_of(purpose).items()
        }
        for purpose in ("localize", "reference", "refine", "score")
    }


def differing_settings(protocol: Mapping[str, Any], config: ClipSamConfig) -> list[str]:
    """List the settings in which a model differs from the one whose figures were taken.

    Args:
        protocol (`Mapping[str, Any]`): of the evaluation.
        config (`ClipSamConfig`): of the model.

    Returns:
        `list[str]`: one line per setting that figures depend on; those of the refinement count if it was evaluated.
    """
    purposes = ["localize", "score"]
    purposes += ["refine"] if "refined" in protocol.get("maps", ()) else []
    purposes += ["reference"] if "reference" in protocol else []

    def chosen(settings: Mapping[str, Any]) -> dict[str, Any]:
        return {
            purpose: {name: value for name, value in settings.get(purpose, {}).items() if name not in _VERDICTS}
            for purpose in purposes
        }

    return describe_differences(chosen(protocol), chosen(describe_settings(config)))


def name_set(described: Mapping[str, Any]) -> str:
    """Return the name of a data set: its layout's if it is a published one, else that of its folder.

    Args:
        described (`Mapping[str, Any]`): `protocol["data"]`, of which `name`, `layout` and `class_names` count.

    Returns:
        `str`: such as "visa".
    """
    published = KNOWN_COUNTS.get(described["layout"], {}).keys() & set(described["class_names"])
    return str(described["layout"] if published else described["name"])


def trained_on(names: Sequence[str], described: Mapping[str, Any]) -> bool:
    """Tell whether a data set is among those that a model was trained on.

    Args:
        names (`Sequence[str]`): the sets that it was trained on, as in `auxiliary_dataset`.
        described (`Mapping[str, Any]`): `protocol["data"]` of the evaluation.

    Returns:
        `bool`: whether the set's name, or that of its folder, is one of them, in any case of letters.

    Example:
        >>> trained_on(["road", "cookie"], {"name": "Cookie", "layout": "meta", "class_names": {}})
        True
    """
    return bool({name_set(described).lower(), str(described["name"]).lower()} & {name.lower() for name in names})


def _name_setting(setting: str, seen: bool) -> str:
    """Name the protocol, as the first line of a report does."""
    if not seen:
        return setting
    return SEEN if setting == ZERO_SHOT else f"{setting}, {SEEN}"


def _describe_look(options: EvaluationOptions) -> dict[str, Any]:
    """How photographs are looked at, where not as a whole."""
    roi = options.roi
    if options.tile is None and roi is None:
        return {}
    return {
        "photographs": {"tile": options.tile, "roi_sha256": None if roi is None else digest_tensors({"roi": roi})[:16]}
    }


def _describe_comparison(options: EvaluationOptions) -> dict[str, Any]:
    return {
        "size": "native" if options.size is None else options.size,
        "mask_resize": options.mask_rule,
        "map_resize": "bilinear, half-pixel centres",
        "pixel_figures": "histogram with certified intervals" if options.streaming else "exact, by rank",
        "aupro": f"rank-exact, up to a false positive rate of {options.aupro_limit:g}, 8-connected regions",
        "aupro_linear200": options.aupro_linear200,
        "region_overlap": options.new_metrics().region_overlap,
        "thresholds": "the F1-max threshold of each row, chosen on the evaluated images themselves",
    }


def describe_source(data: AnomalyFolder | AnomalyDataset) -> dict[str, Any]:
    """Return what a data set is called: `name`, `layout` and `split`, as JSON values.

    Args:
        data (`AnomalyFolder` or `AnomalyDataset`): the data set.
    """
    if isinstance(data, AnomalyFolder):
        # The folder's own name: where it lies on this machine says nothing about the figures
        return {"name": data.root.resolve().name, "layout": data.layout, "split": data.split}
    info = getattr(data.dataset, "info", None)
    return {"name": getattr(info, "dataset_name", None), "layout": "datasets", "split": str(data.dataset.split)}


def _versions() -> dict[str, str]:
    # Not at the top: the package may itself be importing this module
    from .. import __version__

    libraries = ("numpy", "pillow", "scipy", "torch", "transformers")
    return {
        "clipsam_hf": __version__,
        **{name: version(name) for name in libraries},
        "python": platform.python_version(),
    }
