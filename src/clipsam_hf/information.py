# SPDX-FileCopyrightText: 2026 The clipsam_hf authors
# SPDX-License-Identifier: Apache-2.0
"""What `clipsam info` tells of a model or of references, from their JSON and the headers of their weights.

No weight is read and no network is built, so it takes a moment, costs no memory, and needs neither torch nor numpy.
"""

import json
import math
import os
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any


# The longest header that safetensors itself reads, in bytes
_MAX_HEADER = 100_000_000
_MODEL, _REFERENCES, _CARD = "config.json", "references.json", "README.md"


def describe(source: str | os.PathLike[str], *, revision: str | None = None) -> dict[str, Any]:
    """Describe a ClipSAM, or references that `clipsam calibrate` made.

    Args:
        source (`str` or `os.PathLike`): A folder, or a repository of the Hub.
        revision (`str`, *optional*): Commit, tag or branch of the repository.

    Returns:
        `dict[str, Any]`: JSON values; `kind` is `"model"` or `"references"`.

    Raises:
        OSError: If there is no such folder or repository, or it holds neither.
        ValueError: If a file in it is damaged, or a model of another kind.

    Example:
        >>> from clipsam_hf import EMBEDDED_CHECKPOINT
        >>> described = describe(EMBEDDED_CHECKPOINT)
        >>> described["localizer"], described["image_size"], described["parameters"]["umci"]
        ('umci', 384, 816006)
    """
    name, files = os.fspath(source), _find_files(os.fspath(source), revision)
    if (path := files.get(_REFERENCES)) is not None:
        content = _read_json(path, name)
    elif (path := files.get(_MODEL)) is not None:
        content = _read_json(path, name)
        if (kind := content.get("model_type")) != "clipsam":
            raise ValueError(f"{name!r} holds a model of the kind {kind!r}, where a ClipSAM is needed")
    else:
        raise FileNotFoundError(f"{name!r} holds neither a model ({_MODEL}) nor references ({_REFERENCES})")
    card = _read_card(files.get(_CARD))
    commit = path.parent.name if path.parent.parent.name == "snapshots" else None  # how the Hub's cache is laid out
    begin = {"name": Path(name).resolve().name if os.path.isdir(name) else name, "revision": commit}
    try:
        parts = _describe_references(content) if _REFERENCES in files else _describe_model(content, card)
        described = {**begin, "licence": card.get("license"), **parts}
        return described | _describe_weights(name, revision, files, content)
    except (AttributeError, LookupError, TypeError) as error:
        raise ValueError(f"{path.name!r} of {name!r} is damaged: {type(error).__name__}: {error}") from error


def _find_files(name: str, revision: str | None) -> dict[str, Path]:
    """Find the small files of a folder or a repository that there are, by name."""
    names = (_REFERENCES, _MODEL, _CARD, "model.safetensors.index.json")
    if os.path.isdir(name):
        return {each: Path(name, each) for each in names if Path(name, each).is_file()}
    if os.path.exists(name):
        raise NotADirectoryError(f"{name!r} is a file; a folder of a model or of references is needed")
    if name.startswith((".", "~", "/")) or name.count("/") > 1 or "\\" in name:
        raise NotADirectoryError(f"{name!r} is no folder")
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    found = {}
    for each in names:
        try:
            found[each] = Path(hf_hub_download(name, each, revision=revision))
        except LocalEntryNotFoundError as error:
            if found:  # offline, and what there is has been loaded before
                continue
            raise OSError(f"{name!r} is no folder, and the Hub cannot be reached") from error
        except EntryNotFoundError:
            continue
        except (HfHubHTTPError, HFValidationError) as error:
            reason = str(error).strip().partition("\n")[0]
            raise OSError(f"{name!r} is neither a folder nor a repository that can be read: {reason}") from error
    return found


def _read_json(path: Path, name: str) -> dict[str, Any]:
    try:
        content = json.loads(path.read_bytes())
    except (RecursionError, ValueError) as error:
        raise ValueError(f"{path.name!r} of {name!r} is damaged: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path.name!r} of {name!r} is damaged: it holds a {type(content).__name__}, not an object")
    return content


def _read_card(path: Path | None) -> dict[str, Any]:
    """Read a card's metadata; a card that cannot be read is none."""
    if path is None:
        return {}
    from huggingface_hub.repocard import metadata_load
    from yaml import YAMLError  # type: ignore[import-untyped]

    try:
        return metadata_load(path) or {}
    except (ValueError, YAMLError):
        return {}


def _describe_model(config: Mapping[str, Any], card: Mapping[str, Any]) -> dict[str, Any]:
    sam = config["sam_config"]
    base = {}
    for part in ("clip", "sam"):
        base[part] = {"name": config.get(f"{part}_name_or_path"), "revision": config.get(f"{part}_revision")}
    reported: dict[str, list[str]] = {}
    for model in card.get("model-index") or []:
        for result in model["results"]:
            of_set = reported.setdefault(result["dataset"]["name"], [])
            if (protocol := result["task"]["name"]) not in of_set:
                of_set.append(protocol)
    return {
        "kind": "model",
        "trained_on": config.get("auxiliary_dataset"),
        "epochs": config.get("auxiliary_epochs"),
        "seed": config.get("auxiliary_seed"),
        "localizer": config["localizer"],
        "feature_layers": list(config["feature_layers"]),
        "refiner": sam.get("model_type", "sam"),
        "image_size": config["image_size"],
        "sam_image_size": sam.get("vision_config", {}).get("image_size", 1024),
        "base_models": base,
        "backbones_saved": config.get("backbones_saved", True),
        "region_rule": config.get("region_rule", "fixed"),
        "binarize_threshold": config["binarize_threshold"],
        "mask_threshold": config["mask_threshold"],
        "decision_threshold": config.get("decision_threshold"),
        "thresholds_hold_for": "refined maps" if config.get("calibrated_refine", True) else "rough maps",
        "reported": reported,
    }


def _describe_references(settings: Mapping[str, Any]) -> dict[str, Any]:
    fingerprint, sizes = settings["fingerprint"], sorted({tuple(size) for size in settings["sizes"]})
    names = settings["names"]
    return {
        "kind": "references",
        "class_name": settings["class_name"],
        "photographs": len(names),
        "photograph_sizes": [list(size) for size in sizes],
        "protocol": f"{len(names)}-shot",
        "decision_threshold": settings.get("decision_threshold"),
        "region_threshold": 0.5 if settings.get("decision_threshold") is None else settings["decision_threshold"],
        "expected_false_alarms": settings.get("expected_false_alarms"),
        "stand_out": [names[place] for place in settings.get("outliers") or []],
        "two_products": settings.get("groups") is not None,
        "tile": settings.get("tile"),
        "made_with": {name: fingerprint.get(name) for name in ("localizer", "reference_layers", "image_size")},
    }


def _describe_weights(
    name: str, revision: str | None, files: Mapping[str, Path], content: Mapping[str, Any]
) -> dict[str, Any]:
    """Count the numbers of the weights by part, from the headers of their files."""
    if _REFERENCES in files:
        weights = ["references.safetensors"]
    elif (index := files.get("model.safetensors.index.json")) is not None:
        weights = sorted(set(_read_json(index, name)["weight_map"].values()))
    else:
        weights = ["model.safetensors"]
    parts: dict[str, int] = {}
    total, kinds = 0, set()
    for each in weights:
        for tensor, (kind, shape, size) in _read_header(name, each, revision).items():
            part = tensor.partition(".")[0]
            parts[part] = parts.get(part, 0) + math.prod(shape)
            total += size
            kinds.add(kind)
    counted = {"patches": parts.get("photographs")} if _REFERENCES in files else {"parameters": parts}
    return {**counted, "bytes": total, "dtypes": sorted(kinds)}


def _read_header(name: str, file_name: str, revision: str | None) -> dict[str, tuple[str, list[int], int]]:
    """Read dtype, shape and bytes of each tensor of a safetensors file; of a repository its beginning is asked for."""
    if not os.path.isdir(name):
        from huggingface_hub import HfApi, try_to_load_from_cache
        from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

        cached = try_to_load_from_cache(name, file_name, revision=revision)
        if not isinstance(cached, str):
            try:
                metadata = HfApi().parse_safetensors_file_metadata(name, file_name, revision=revision)
            except (HfHubHTTPError, OfflineModeIsEnabled) as error:
                raise OSError(f"the sizes of {name!r} cannot be read: {str(error).partition(chr(10))[0]}") from error
            return {
                key: (info.dtype, list(info.shape), info.data_offsets[1] - info.data_offsets[0])
                for key, info in metadata.tensors.items()
            }
        path = Path(cached)
    else:
        path = Path(name, file_name)
        if Path(file_name).name != file_name or not path.is_file():
            raise FileNotFoundError(f"{name!r} holds no {file_name!r}")
    try:
        with open(path, "rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            if length > min(_MAX_HEADER, path.stat().st_size):
                raise ValueError("its header is longer than the file")
            header = json.loads(file.read(length))
        header.pop("__metadata__", None)
        return {
            key: (info["dtype"], info["shape"], info["data_offsets"][1] - info["data_offsets"][0])
            for key, info in header.items()
        }
    except (AttributeError, LookupError, RecursionError, TypeError, ValueError, struct.error) as error:
        raise ValueError(f"{file_name!r} of {name!r} is damaged: {error}") from error


def to_text(described: Mapping[str, Any]) -> str:
    """Put a description into lines.

    Args:
        described (`dict[str, Any]`): What `describe` returns.

    Returns:
        `str`: Lines, the last without its end.
    """
    rows = _list_model(described) if described["kind"] == "model" else _list_references(described)
    rows["weights"] += f", {described['bytes'] / 1e6:,.1f} MB of {', '.join(described['dtypes'])}"
    rows |= {"licence": described["licence"] or "not stated", "revision": described["revision"] or "none: a folder"}
    title = "a ClipSAM" if described["kind"] == "model" else f"good photographs of {described['class_name']!r}"
    return "\n".join([f"{described['name']}: {title}", *(f"  {key:13} {value}" for key, value in rows.items())])


def _list_model(described: Mapping[str, Any]) -> dict[str, str]:
    counts, decision, hold = (described[key] for key in ("parameters", "decision_threshold", "thresholds_hold_for"))
    aside = ", ".join(
        f"{word} {described[key]}"
        for key, word in (("epochs", "epochs:"), ("seed", "seed"))
        if described[key] is not None
    )
    prompts = f"{described['binarize_threshold']:.3f} on the rough map prompts SAM"
    if described["region_rule"] == "relative":
        prompts = "what stands out of the rough map prompts SAM"
    layers = ", ".join(map(str, described["feature_layers"]))
    parts = ", ".join(f"{part} {count / 1e6:,.1f}" for part, count in counts.items())
    rows = {
        "trained on": (described["trained_on"] or "not stated") + (f" ({aside})" if aside else ""),
        "localizer": f"{described['localizer']}, on CLIP's blocks {layers}",
        "refiner": described["refiner"],
        "base models": "; ".join(_name_base(part, base) for part, base in described["base_models"].items()),
        "image sizes": f"{described['image_size']} pixels for CLIP, {described['sam_image_size']} for SAM",
        "weights": f"{sum(counts.values()) / 1e6:,.1f} million parameters ({parts})",
        "thresholds": f"{prompts}; {described['mask_threshold']:.3f} for the mask, of {hold}",
        "verdict": "none: `clipsam calibrate` makes a threshold of good photographs",
    }
    if decision is not None:
        rows["verdict"] = f"above a score of {decision:.3f}, of {hold}"
    if not described["backbones_saved"]:
        rows["weights"] += ", the trained head alone"
    for name, protocols in described["reported"].items():
        rows[f"on {name}"] = "; ".join(protocols)
    return rows


def _name_base(part: str, base: Mapping[str, Any]) -> str:
    name, revision = base["name"] or "not named", base["revision"]
    return f"{part.upper()} {name}{f' at {revision}' if revision else ''}"


def _list_references(described: Mapping[str, Any]) -> dict[str, str]:
    sizes = ", ".join(f"{width} x {height}" for height, width in described["photograph_sizes"][:3])
    more = ", ..." if len(described["photograph_sizes"]) > 3 else ""
    made, threshold = described["made_with"], described["decision_threshold"]
    rows = {
        "photographs": f"{described['photographs']}, of {sizes}{more} pixels",
        "protocol": described["protocol"],
        "verdict": "none: there is a single photograph",
        "tiles": "none" if described["tile"] is None else str(described["tile"]),
        "made with": f"localizer {made['localizer']}, blocks {made['reference_layers']}, {made['image_size']} pixels",
        "weights": f"{described['patches']:,} patches",
    }
    if threshold is not None:
        share = 100 * (described["expected_false_alarms"] or 0)
        rows["verdict"] = f"above a score of {threshold:.4f}; {share:.1f} % of good photographs are expected there"
    if described["stand_out"]:
        rows["stand out"] = ", ".join(described["stand_out"])
    if described["two_products"]:
        rows["products"] = "they look like two"
    return rows
