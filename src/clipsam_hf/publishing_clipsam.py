# SPDX-FileCopyrightText: 2026 The clipsam_hf authors
# SPDX-License-Identifier: Apache-2.0
"""Publishing: the code that travels beside the weights, the push in one commit, and the least of a card."""

import json
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from huggingface_hub import CommitInfo, HfApi, ModelCard, ModelCardData
from huggingface_hub.errors import EntryNotFoundError
from transformers import PreTrainedConfig
from transformers.utils import CONFIG_NAME, cached_file, logging


logger = logging.get_logger(__name__)

TASK = "zero-shot-anomaly-segmentation"

# The ground floor of the package: what travels to the Hub beside the weights.
CODE_FILES = (
    "answers_clipsam.py",
    "checkpoint_clipsam.py",
    "configuration_clipsam.py",
    "gallery_clipsam.py",
    "image_loading.py",
    "inference_clipsam.py",
    "localizer_clipsam.py",
    "loss_clipsam.py",
    "modeling_clipsam.py",
    "mutual_clipsam.py",
    "naming_clipsam.py",
    "novelty_clipsam.py",
    "patches_clipsam.py",
    "pipeline_clipsam.py",
    "processing_clipsam.py",
    "prompts_clipsam.py",
    "publishing_clipsam.py",
    "references_clipsam.py",
    "refinement_clipsam.py",
    "refiner_clipsam.py",
    "regions_clipsam.py",
    "result_clipsam.py",
    "sam_attention_clipsam.py",
    "tiling_clipsam.py",
    "umci_clipsam.py",
    "visualization_clipsam.py",
)
PROCESSOR_REFERENCE = {"AutoProcessor": "processing_clipsam.ClipSamProcessor"}
CODE_REFERENCES: dict[str, Any] = {
    "auto_map": {
        "AutoConfig": "configuration_clipsam.ClipSamConfig",
        "AutoModel": "modeling_clipsam.ClipSamForAnomalySegmentation",
        **PROCESSOR_REFERENCE,
    },
    "custom_pipelines": {
        TASK: {
            "impl": "pipeline_clipsam.ZeroShotAnomalySegmentationPipeline",
            "pt": ["AutoModel"],
            "type": "multimodal",
        }
    },
}

# No `pipeline_tag`: the Hub's list of tasks has no anomaly segmentation, and with another one its page would show
# `pipeline("image-segmentation", ...)`, which does not run with this model. The tags name the task.
CARD_METADATA: dict[str, Any] = {
    "library_name": "transformers",
    "tags": ["anomaly-detection", "clipsam", TASK],
}

# Keyword arguments of `push`.
PUSH_OPTIONS = ("card", "commit_description", "commit_message", "create_pr", "private", "revision", "tags", "token")

_WEIGHT_FILE = re.compile(r"model(-\d{5}-of-\d{5})?\.safetensors(\.index\.json)?")
_COMMIT = re.compile(r"[0-9a-f]{40}")


@contextmanager
def replace_files(folder: str | os.PathLike) -> Iterator[Path]:
    """Gives an empty folder to write to, whose files take their places in `folder` once all of them are written.

    Args:
        folder (`str` or `os.PathLike`): Where the files belong; it is made if there is none.

    Yields:
        `Path`: The folder to write to. If an error leaves the block, `folder` stays as it was.

    Raises:
        OSError: If `folder` cannot be written to.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=".saving-", dir=folder) as unfinished:
        yield Path(unfinished)
        written = {path.relative_to(unfinished) for path in Path(unfinished).rglob("*") if path.is_file()}
        for path in written:
            with open(unfinished / path, "rb+") as file:
                os.fsync(file.fileno())
        # Weights first: a configuration never speaks of weights that are not there yet
        for path in sorted(written, key=lambda path: (path.suffix == ".json", path)):
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            os.replace(unfinished / path, folder / path)
        # Weights of an earlier save in another number of files would be loaded in place of the new ones
        if any(_WEIGHT_FILE.fullmatch(str(path)) for path in written):
            for old in folder.iterdir():
                if _WEIGHT_FILE.fullmatch(old.name) and Path(old.name) not in written:
                    old.unlink(missing_ok=True)


def update_json(path: Path, entries: Mapping[str, Any]) -> None:
    """Changes entries of a JSON file; None removes one.

    Args:
        path (`Path`): The file.
        entries (`Mapping[str, Any]`): The new values.

    Raises:
        OSError: If it cannot be read or written.
    """
    content = {**json.loads(path.read_text(encoding="utf-8")), **entries}
    content = {name: value for name, value in content.items() if value is not None or name not in entries}
    path.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def save_code(folder: Path, config: PreTrainedConfig, *, wanted: bool) -> None:
    """Copies the modules flat into a folder, and has its `config.json` say where to find what.

    Args:
        folder (`Path`): A folder with a `config.json`.
        config (`PreTrainedConfig`): The model's, which knows where the model came from.
        wanted (`bool`): With `False`, `config.json` loses what it says of code.

    Raises:
        OSError: If the folder cannot be written to.
    """
    lacking = [name for name in CODE_FILES if wanted and not _copy_module(name, folder, config)]
    if lacking:
        logger.warning(f"The checkpoint is saved without its code, of which {', '.join(lacking)} cannot be found.")
    has_code = wanted and not lacking
    update_json(folder / CONFIG_NAME, CODE_REFERENCES if has_code else dict.fromkeys(CODE_REFERENCES))


def _copy_module(name: str, folder: Path, config: PreTrainedConfig) -> bool:
    """Takes a module from beside this one or, if this one is remote code itself, from where the model came from."""
    beside = Path(__file__).with_name(name)
    source: str | os.PathLike | None = beside
    if not beside.is_file():
        # Remote code lies in a folder named by its commit, with those modules alone that were imported
        revision = beside.parent.name if _COMMIT.fullmatch(beside.parent.name) else "main"
        try:
            source = cached_file(config.name_or_path or "", name, revision=revision)
        except OSError:
            source = None
    if source is None:
        return False
    shutil.copyfile(source, folder / name)
    return True


def push(
    save: Callable[[str], Any],
    repo_id: str,
    *,
    config: PreTrainedConfig | None = None,
    card: Any = None,
    tags: Sequence[str] = (),
    private: bool | None = None,
    token: bool | str | None = None,
    revision: str | None = None,
    create_pr: bool = False,
    commit_message: str = "Upload ClipSAM",
    commit_description: str | None = None,
) -> CommitInfo:
    """Saves to a temporary folder and publishes that in one commit: a push that breaks off changes nothing.

    Args:
        save (`Callable[[str], Any]`): Saves to a folder.
        repo_id (`str`): Name of the repository, `"organisation/name"`; it is made if there is none.
        config (`PreTrainedConfig`, *optional*): For the card that a new repository gets if none is given.
        card (`ModelCard`, *optional*): The card, such as `clipsam_hf.cards.card.build_card` makes. By default the one
            that the repository has stays.
        tags (`Sequence[str]`, *optional*): Further tags of the card.
        private (`bool`, *optional*): Whether a new repository is private.
        token (`bool` or `str`, *optional*): Access token; by default the one of `hf auth login`.
        revision (`str`, *optional*): Branch; by default the main one.
        create_pr (`bool`, defaults to `False`): Whether to open a pull request.
        commit_message (`str`, *optional*): The commit's title.
        commit_description (`str`, *optional*): The commit's text.

    Returns:
        `CommitInfo`: The commit.

    Raises:
        OSError: If the Hub cannot be reached or refuses.
    """
    api = HfApi(token=token)
    with TemporaryDirectory() as folder:
        save(folder)  # before anything is made on the Hub
        repo_id = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
        if revision is not None and not revision.startswith("refs/pr"):
            api.create_branch(repo_id, branch=revision, exist_ok=True)
        if card is None:
            card = _load_card(api, repo_id) or _minimal_card(repo_id, config)
        card.data.tags = list(dict.fromkeys([*(card.data.tags or []), *tags]))
        card.save(os.path.join(folder, "README.md"))
        # Weights of an earlier push in another number of files would be loaded in place of the new ones
        has_weights = any(_WEIGHT_FILE.fullmatch(name) for name in os.listdir(folder))
        return api.upload_folder(
            repo_id=repo_id,
            folder_path=folder,
            delete_patterns=["model*.safetensors", "model.safetensors.index.json"] if has_weights else None,
            revision=revision,
            create_pr=create_pr,
            commit_message=commit_message,
            commit_description=commit_description,
        )


def _load_card(api: HfApi, repo_id: str) -> Any:
    try:
        return ModelCard.load(api.hf_hub_download(repo_id, "README.md"))
    except EntryNotFoundError:
        return None


def public_base_models(config: Any) -> list[str]:
    """Returns the repositories of the backbones, as far as they are known and no folders of this machine.

    Args:
        config (`PreTrainedConfig`): A ClipSAM's.

    Returns:
        `list[str]`: Of CLIP, then of SAM.
    """
    names = (config.clip_name_or_path, config.sam_name_or_path)
    return [name for name in names if name is not None and not os.path.isdir(name) and not os.path.isabs(name)]


_MINIMAL_CARD = """---
{metadata}
---

A ClipSAM{training}, for `{task}`:

```python
from transformers import pipeline

segmenter = pipeline("{task}", model="{repo_id}", trust_remote_code=True)
segmenter("photo.jpg", class_name="object")["mask"].save("mask.png")
```
"""


def _minimal_card(repo_id: str, config: Any) -> Any:
    """Says what is known without an evaluation; the library's own template would be a page of gaps."""
    data = ModelCardData(**CARD_METADATA)
    trained_on = None if config is None else config.auxiliary_dataset
    if config is not None:
        data.base_model = public_base_models(config) or None
    training = f" whose head was trained on {trained_on}" if trained_on else ""
    return ModelCard(_MINIMAL_CARD.format(metadata=data.to_yaml(), training=training, task=TASK, repo_id=repo_id))


__all__ = [
    "CARD_METADATA",
    "CODE_FILES",
    "CODE_REFERENCES",
    "PROCESSOR_REFERENCE",
    "PUSH_OPTIONS",
    "TASK",
    "public_base_models",
    "push",
    "replace_files",
    "save_code",
    "update_json",
]
