# SPDX-FileCopyrightText: 2026 The clipsam_hf authors
# SPDX-License-Identifier: Apache-2.0
"""Checkpoints: loaded without a random weight, saved without half a file.

A checkpoint holds the whole model, or the trained head alone (`save_backbones=False`): then its configuration names
the repositories and commits of CLIP and SAM, and loading fetches them from there.
"""

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from huggingface_hub import CommitInfo
from safetensors import safe_open
from safetensors.torch import load_file
from transformers import AutoConfig, CLIPModel, PreTrainedConfig, PreTrainedModel
from transformers.utils import (
    CONFIG_NAME,
    SAFE_WEIGHTS_INDEX_NAME,
    SAFE_WEIGHTS_NAME,
    cached_file,
    extract_commit_hash,
    logging,
)

from .publishing_clipsam import PUSH_OPTIONS, push, replace_files, update_json
from .publishing_clipsam import save_code as copy_code
from .refiner_clipsam import find_refiner


logger = logging.get_logger(__name__)

# Keyword arguments of `from_pretrained` that hold for every repository, and those that hold for one.
_HUB_OPTIONS = ("cache_dir", "force_download", "local_files_only", "proxies", "token")
_PLACE_OPTIONS = ("revision", "subfolder")

BACKBONES = ("clip", "sam")
"""Names of the backbones in the model, and the prefixes of their fields in the configuration."""


class ClipSamCheckpointModel(PreTrainedModel):
    """What a ClipSAM has of `PreTrainedModel` and does differently: to load, to save, to publish."""

    localizer: Any
    head_is_trained: Any

    def _freeze(self) -> None:
        raise NotImplementedError

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | os.PathLike | None,
        *model_args: Any,
        ignore_mismatched_sizes: bool = False,
        output_loading_info: bool = False,
        **kwargs: Any,
    ) -> Any:
        """Loads a model as the library does, but never with random weights in silence.

        A checkpoint of the head alone fetches its backbones from the repositories that its configuration names, at
        the commits that it names. Only safetensors are read unless `use_safetensors=False` is given; the backbones
        are read in the form that their repositories have.

        Args:
            pretrained_model_name_or_path: A folder or a repository name; `None` with `config` and `state_dict`.
            model_args: As in `PreTrainedModel.from_pretrained`.
            ignore_mismatched_sizes: For fine-tuning: tensors that are missing or of another shape stay random.
            output_loading_info: Also return the library's dictionary of missing, unexpected and mismatched keys.
            kwargs: As in `PreTrainedModel.from_pretrained`.

        Returns:
            The model in evaluation mode, or the pair (model, loading information).

        Raises:
            ValueError: If the checkpoint lacks a tensor of the model, or does not say where its backbones are.
            OSError: If there is no such checkpoint, its backbones cannot be loaded, or a download breaks off.
        """
        source = pretrained_model_name_or_path
        kwargs.update(ignore_mismatched_sizes=ignore_mismatched_sizes, output_loading_info=True)
        stored = _StoredConfig(True, None)
        with _explained_interruption(source):
            if source is not None:
                kwargs.setdefault("use_safetensors", True)
                stored = _read_stored_config(source, kwargs)
                if stored.commit is not None:
                    kwargs["revision"] = stored.commit  # the library need not ask a second time what the revision is
            if source is None or stored.backbones_saved:
                loaded: Any = super().from_pretrained(source, *model_args, **kwargs)
            else:
                loaded = super().from_pretrained(None, *model_args, **_gather(cls.config_class, source, kwargs))
        model, loading_info = loaded

        missing = sorted(loading_info["missing_keys"])
        if missing and source is not None and not ignore_mismatched_sizes:
            raise ValueError(_missing_tensors_message(source, missing))
        random = [*missing, *(key for key, *_ in loading_info["mismatched_keys"])]
        model.head_is_trained = not any(is_of_head(model, key) for key in random)
        model._freeze()  # the library has put new parameters in the place of the frozen ones
        if source is not None:
            model.config.name_or_path = model.name_or_path = os.fspath(source)
            model.config._commit_hash = stored.commit
            model.config.backbones_saved = True  # it speaks of the file; the model itself has them now
            _warn_of_broken_head(model, source)
        return (model, loading_info) if output_loading_info else model

    def save_pretrained(  # type: ignore[override]
        self,
        save_directory: str | os.PathLike,
        *,
        save_backbones: bool = True,
        save_code: bool | None = None,
        push_to_hub: bool = False,
        **kwargs: Any,
    ) -> None:
        """Saves as the library does, but whole or not at all: if the disk is full, what was there before stays.

        Args:
            save_directory (`str` or `os.PathLike`): The folder; it is made if there is none.
            save_backbones (`bool`, defaults to `True`): With `False` the trained head is saved alone, tens of
                megabytes instead of gigabytes; loading fetches CLIP and SAM from where the configuration's
                `clip_name_or_path` and `sam_name_or_path` say.
            save_code (`bool`, *optional*): Whether the folder gets the modules too, so that it loads with
                `trust_remote_code=True` where this package is not installed. By default, if the model came from a
                checkpoint that has them.
            push_to_hub (`bool`, defaults to `False`): Whether to call `push_to_hub` afterwards, with `repo_id` (by
                default the folder's name) and the keyword arguments that belong to it.
            kwargs: As in `PreTrainedModel.save_pretrained`, for example `max_shard_size`; a head is one file.

        Raises:
            NotADirectoryError: If `save_directory` is a file; the library would only log it.
            ValueError: If `save_backbones=False`, but CLIP was trained too, or where a backbone comes from is unknown.
        """
        if os.path.isfile(save_directory):
            raise NotADirectoryError(f"A model is saved to a folder, but {os.fspath(save_directory)!r} is a file.")
        repo_id = kwargs.pop("repo_id", Path(save_directory).name)
        push_options = {name: kwargs.pop(name) for name in PUSH_OPTIONS if name in kwargs}
        if save_code is None:
            save_code = "auto_map" in self.config.to_dict()
        if not save_backbones:
            _check_backbones_are_elsewhere(self.config)
            tensors = kwargs.pop("state_dict", None) or self.state_dict()
            kwargs["state_dict"] = {name: tensor for name, tensor in tensors.items() if is_of_head(self, name)}
            kwargs["max_shard_size"] = "1TB"

        with replace_files(save_directory) as folder:
            super().save_pretrained(folder, **kwargs)
            if (folder / CONFIG_NAME).exists():  # only the first of several processes writes
                _describe_backbones(folder / CONFIG_NAME, self.config, saved=save_backbones)
                copy_code(folder, self.config, wanted=save_code)
        if push_to_hub:
            self.push_to_hub(repo_id, save_backbones=save_backbones, **push_options)

    def push_to_hub(  # type: ignore[override]
        self, repo_id: str, *, save_backbones: bool = True, max_shard_size: int | str = "5GB", **kwargs: Any
    ) -> CommitInfo:
        """Publishes the model with its code in one commit; see [`push`] for the other keyword arguments.

        Args:
            repo_id (`str`): Name of the repository, `"organisation/name"`; it is made if there is none.
            save_backbones (`bool`, defaults to `True`): See `save_pretrained`.
            max_shard_size (`int` or `str`, defaults to `"5GB"`): Size of a file of weights at most.
            kwargs: Those of [`push`].

        Returns:
            `CommitInfo`: The commit.

        Raises:
            ValueError: As in `save_pretrained`, or if a backbone is a folder of this machine.
            OSError: If the Hub cannot be reached or refuses.
        """
        if not save_backbones:
            check_backbones_are_public(self.config)
        save = partial(
            self.save_pretrained, save_backbones=save_backbones, save_code=True, max_shard_size=max_shard_size
        )
        tags = [*(self.model_tags or []), *(kwargs.pop("tags", None) or [])]
        return push(save, repo_id, config=self.config, tags=tags, **kwargs)


# ---------------------------------------------------------------------------------------------------------------------
# Loading


@contextmanager
def _explained_interruption(source: str | os.PathLike | None) -> Iterator[None]:
    """Turns what a connection that breaks off raises into an OSError, which the library does for its start alone."""
    try:
        yield
    except Exception as error:
        # Its client's own errors, by name: this file may not import the client
        if not type(error).__module__.startswith("httpx"):
            raise
        raise OSError(f"The download of {os.fspath(source or '')!r} broke off: {error}.") from error


class _StoredConfig(NamedTuple):
    """What must be known of a checkpoint before it is loaded."""

    backbones_saved: bool
    commit: str | None


def _read_stored_config(source: str | os.PathLike, kwargs: Mapping[str, Any]) -> _StoredConfig:
    """Looks into a checkpoint's `config.json`."""
    folder = os.path.join(source, kwargs.get("subfolder") or "")
    if os.path.isdir(folder) and CONFIG_NAME not in os.listdir(folder):
        if kwargs.get("config") is None:
            raise OSError(f"The folder {folder!r} has no {CONFIG_NAME}.")  # the library would build the default model
        return _StoredConfig(True, None)
    options = {name: kwargs[name] for name in (*_HUB_OPTIONS, *_PLACE_OPTIONS) if kwargs.get(name) is not None}
    path = cached_file(source, CONFIG_NAME, **options)
    try:
        content = json.loads(Path(path or "").read_text(encoding="utf-8"))
    except ValueError:
        content = {}  # the library's own message says it best
    return _StoredConfig(content.get("backbones_saved", True), extract_commit_hash(path, None))


def _gather(config_class: Any, source: str | os.PathLike, kwargs: dict[str, Any]) -> dict[str, Any]:
    """Turns the request for a checkpoint of the head alone into one for its three parts, as one state dictionary."""
    kwargs = dict(kwargs)
    hub_options = {name: kwargs.pop(name) for name in _HUB_OPTIONS if name in kwargs}
    place = {name: kwargs.pop(name) for name in _PLACE_OPTIONS if name in kwargs}
    dtype: dict[str, Any] = {name: kwargs.pop(name) for name in ("dtype", "torch_dtype") if name in kwargs}
    variant, config = kwargs.pop("variant", None), kwargs.pop("config", None)
    if config is None:
        config, kwargs = config_class.from_pretrained(
            source, return_unused_kwargs=True, **hub_options, **place, **kwargs
        )
    weights = "model.safetensors" if variant is None else f"model.{variant}.safetensors"
    path = cached_file(source, weights, **{**hub_options, **{k: v for k, v in place.items() if v is not None}})
    tensors = load_file(str(path))
    for part in BACKBONES:
        name, revision = _origin_of(config, part)
        if name is None:
            raise ValueError(
                f"The checkpoint {os.fspath(source)!r} holds the trained head alone, and its configuration does not"
                f" say where {part.upper()} comes from: `{part}_name_or_path` is None."
            )
        try:
            backbone = load_backbone(part, name, {**hub_options, "revision": revision or "main"})
        except OSError as error:
            raise OSError(
                f"The checkpoint {os.fspath(source)!r} holds the trained head alone, and its {part.upper()}, {name!r}"
                f" (revision {revision or 'main'}), cannot be loaded: {error}"
            ) from error
        tensors |= {f"{part}.{key}": tensor for key, tensor in backbone.state_dict().items()}
    return {**kwargs, **dtype, "config": config, "state_dict": tensors}


def load_backbone(part: str, name_or_path: str | os.PathLike, kwargs: Mapping[str, Any]) -> Any:
    """Loads CLIP or SAM; a missing tensor is an error, since a random backbone would go unnoticed.

    Args:
        part (`str`): `"clip"` or `"sam"`.
        name_or_path (`str` or `os.PathLike`): Repository or folder of such a model, or of a ClipSAM, whose own is
            taken.
        kwargs (`Mapping`): For its `from_pretrained`.

    Returns:
        The model.

    Raises:
        ValueError: If the checkpoint lacks a tensor, is of another kind, or its kind of SAM is not supported.
        OSError: If there is no such checkpoint.
    """
    stored, _ = PreTrainedConfig.get_config_dict(name_or_path, **kwargs)
    if stored.get("model_type") == "clipsam":
        return _take_backbone(part, name_or_path, stored, kwargs)
    model_class = _backbone_class(part, stored, name_or_path)
    loaded: Any = model_class.from_pretrained(name_or_path, **kwargs, output_loading_info=True)
    return _checked(loaded, name_or_path)


def _backbone_class(part: str, stored: Mapping[str, Any], source: str | os.PathLike) -> type[PreTrainedModel]:
    kind = stored.get("model_type")
    if part == "sam":
        return find_refiner(str(kind)).model_class
    if kind != "clip":
        raise ValueError(f"{os.fspath(source)!r} is of the kind {kind!r}, where a CLIP ('clip') is needed.")
    return CLIPModel


def _take_backbone(
    part: str, source: str | os.PathLike, stored: Mapping[str, Any], kwargs: Mapping[str, Any]
) -> PreTrainedModel:
    """Takes CLIP or SAM out of a ClipSAM, or loads it from where a ClipSAM without its backbones says."""
    options = {name: kwargs[name] for name in (*_HUB_OPTIONS, *_PLACE_OPTIONS) if kwargs.get(name) is not None}
    others = {name: value for name, value in kwargs.items() if name not in (*_HUB_OPTIONS, *_PLACE_OPTIONS)}
    if not stored.get("backbones_saved", True):
        hub_options = {name: value for name, value in options.items() if name in _HUB_OPTIONS}
        revision = stored.get(f"{part}_revision") or "main"
        return load_backbone(part, stored[f"{part}_name_or_path"], {**hub_options, **others, "revision": revision})
    config = AutoConfig.for_model(**stored[f"{part}_config"])
    tensors = _read_tensors(source, f"{part}.", options)
    loaded: Any = _backbone_class(part, stored[f"{part}_config"], source).from_pretrained(
        None, **others, config=config, state_dict=tensors, output_loading_info=True
    )
    return _checked(loaded, source)


def _checked(loaded: tuple[PreTrainedModel, Mapping[str, Any]], source: str | os.PathLike) -> PreTrainedModel:
    model, loading_info = loaded
    if loading_info["missing_keys"]:
        raise ValueError(_missing_tensors_message(source, sorted(loading_info["missing_keys"])))
    return model


def _read_tensors(source: str | os.PathLike, prefix: str, options: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    """Reads the tensors of a checkpoint whose names begin with a prefix, and drops that."""
    index = cached_file(source, SAFE_WEIGHTS_INDEX_NAME, _raise_exceptions_for_missing_entries=False, **options)
    names = [SAFE_WEIGHTS_NAME]
    if index is not None:
        weight_map = json.loads(Path(index).read_text(encoding="utf-8"))["weight_map"]
        names = sorted({file for name, file in weight_map.items() if name.startswith(prefix)})
    tensors = {}
    for name in names:
        with safe_open(str(cached_file(source, name, **options)), framework="pt") as file:
            for key in file.keys():  # noqa: SIM118 - it is no dictionary
                if key.startswith(prefix):
                    tensors[key.removeprefix(prefix)] = file.get_tensor(key)
    return tensors


def find_origin(name_or_path: str | os.PathLike, kwargs: Mapping[str, Any]) -> tuple[str | None, str | None]:
    """Finds out under which name and commit a backbone can be loaded again.

    Args:
        name_or_path (`str` or `os.PathLike`): Repository or folder.
        kwargs (`Mapping`): Those with which it is loaded.

    Returns:
        `tuple`: The repository and its commit; the absolute path of a folder and None; or None twice, where a name
        and a commit are not enough (`subfolder`, `variant`).

    Raises:
        OSError: If there is no such checkpoint.
    """
    if kwargs.get("subfolder") or kwargs.get("variant"):
        return None, None
    if os.path.isdir(name_or_path):
        return os.path.abspath(name_or_path), None
    options = {name: kwargs[name] for name in (*_HUB_OPTIONS, "revision") if kwargs.get(name) is not None}
    return os.fspath(name_or_path), extract_commit_hash(cached_file(name_or_path, CONFIG_NAME, **options), None)


def find_training_set(name_or_path: str | os.PathLike, kwargs: Mapping[str, Any]) -> str | None:
    """Finds out what a CLIP that is taken out of a ClipSAM may have seen.

    Args:
        name_or_path (`str` or `os.PathLike`): Repository or folder.
        kwargs (`Mapping`): Those with which it is loaded.

    Returns:
        `str`, *optional*: The ClipSAM's `auxiliary_dataset`, unless its CLIP is a frozen one from elsewhere.

    Raises:
        OSError: If there is no such checkpoint.
    """
    stored, _ = PreTrainedConfig.get_config_dict(name_or_path, **kwargs)
    is_from_elsewhere = stored.get("clip_name_or_path") is not None and stored.get("freeze_backbones", True)
    return None if is_from_elsewhere or stored.get("model_type") != "clipsam" else stored.get("auxiliary_dataset")


def _origin_of(config: PreTrainedConfig, part: str) -> tuple[str | None, str | None]:
    return getattr(config, f"{part}_name_or_path"), getattr(config, f"{part}_revision")


def _missing_tensors_message(source: str | os.PathLike, missing: list[str]) -> str:
    shown = ", ".join(missing[:5]) + (f" and {len(missing) - 5} more" if len(missing) > 5 else "")
    return f"The checkpoint {os.fspath(source)!r} lacks {len(missing)} tensors that the model needs: {shown}."


def is_of_head(model: Any, name: str) -> bool:
    """Tells whether a tensor belongs to what is trained.

    Args:
        model ([`ClipSamForAnomalySegmentation`]): The model.
        name (`str`): The tensor's name in its state dictionary.

    Returns:
        `bool`: Whether the localizer's head has it.
    """
    return model.localizer.head_name is not None and name.startswith(f"{model.localizer.head_name}.")


def _warn_of_broken_head(model: PreTrainedModel, source: str | os.PathLike) -> None:
    for name, weight in model.named_parameters():
        if is_of_head(model, name) and not weight.is_meta and not torch.isfinite(weight).all():
            logger.warning(f"{name!r} of the checkpoint {os.fspath(source)!r} is not finite: its answers will be NaN.")
            return


# ---------------------------------------------------------------------------------------------------------------------
# Saving


def _check_backbones_are_elsewhere(config: Any) -> None:
    if not config.freeze_backbones:
        raise ValueError("`save_backbones=False` would lose what CLIP has learned: `freeze_backbones` is False.")
    for part in BACKBONES:
        if _origin_of(config, part)[0] is None:
            raise ValueError(
                f"`save_backbones=False` needs the place that {part.upper()} is loaded from, but"
                f" `config.{part}_name_or_path` is None."
            )


def check_backbones_are_public(config: Any) -> None:
    """Raises if others could not load the backbones of a head that is published alone.

    Args:
        config ([`ClipSamConfig`]): The model's.

    Raises:
        ValueError: If a backbone comes from nowhere, or from a folder of this machine, or CLIP was trained.
    """
    _check_backbones_are_elsewhere(config)
    for part in BACKBONES:
        name = _origin_of(config, part)[0]
        if name is not None and os.path.isdir(name):
            raise ValueError(
                f"`save_backbones=False` would publish a model that nobody else can load: `config.{part}_name_or_path`"
                f" is the folder {name!r}. Publish it and name its repository, or publish the whole model."
            )


def _describe_backbones(path: Path, config: Any, *, saved: bool) -> None:
    """Has a `config.json` say where the backbones are; a whole model needs no folder of this machine."""
    entries: dict[str, Any] = {"backbones_saved": saved}
    stored = json.loads(path.read_text(encoding="utf-8"))
    for part in BACKBONES:
        entries[f"{part}_config"] = {
            name: value for name, value in stored[f"{part}_config"].items() if name != "_name_or_path"
        }
        if saved and os.path.isdir(_origin_of(config, part)[0] or ""):
            entries |= {f"{part}_name_or_path": None, f"{part}_revision": None}
    update_json(path, entries)


__all__ = [
    "BACKBONES",
    "ClipSamCheckpointModel",
    "check_backbones_are_public",
    "find_origin",
    "find_training_set",
    "load_backbone",
]
