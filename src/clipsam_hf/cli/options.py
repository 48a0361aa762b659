# SPDX-FileCopyrightText: 2026 The clipsam_hf authors
# SPDX-License-Identifier: Apache-2.0
"""What the commands share: options, how their texts are read, how a model is loaded, and how errors are told."""

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer import Option

from ..embedded import find_checkpoint


if TYPE_CHECKING:
    from ..modeling_clipsam import ClipSamForAnomalySegmentation
    from ..processing_clipsam import ClipSamProcessor

DTYPES = ("float32", "bfloat16", "float16")
"""What `--dtype` takes: names in torch."""

ModelOption = Annotated[
    str | None, Option(help="Folder, repository, or clipsam-small; by default the embedded clipsam-tiny.")
]
RevisionOption = Annotated[str | None, Option(help="Commit, tag or branch of the repository.")]
ClipOption = Annotated[str | None, Option(help="With --sam: a bare CLIP, which localises by vv.")]
SamOption = Annotated[str | None, Option(help="With --clip: the SAM that refines its maps.")]
DeviceOption = Annotated[str | None, Option(help="cpu, cuda, ...; by default a GPU, where there is one.")]
DtypeOption = Annotated[str | None, Option(help=f"{', '.join(DTYPES)}; by default the checkpoint's.")]
TileOption = Annotated[
    str, Option(help="Look at long or huge photographs in tiles too: auto, none, or the side of a tile in pixels.")
]
BatchSizeOption = Annotated[int, Option(min=1, help="Photographs per forward pass.")]


@contextmanager
def explained_errors(*, of_input: bool = False) -> Iterator[None]:
    """Turn what a user can mend into one message and exit code 2.

    Args:
        of_input (`bool`): whether what is given is read here: a configuration's refusal and TypeError come of bad
            input then; elsewhere they would be faults of ours.
    """
    try:
        yield
    except BrokenPipeError:
        raise  # nobody reads on; typer ends quietly
    except Exception as error:
        from huggingface_hub.errors import StrictDataclassError
        from safetensors import SafetensorError

        mendable: tuple[type[Exception], ...] = (ImportError, OSError, SafetensorError, ValueError)
        if of_input:
            mendable += (StrictDataclassError, TypeError)
        if "torch" in sys.modules:  # else it cannot come from there, and the import takes seconds
            mendable += (sys.modules["torch"].OutOfMemoryError,)
        if not isinstance(error, mendable):
            raise
        # That of a configuration's field is spread over lines; where ours has several, they are a list
        message = " ".join(str(error).split()) if isinstance(error, StrictDataclassError) else str(error)
        typer.echo(f"error: {message}", err=True)
        raise typer.Exit(2) from error


def load_model(
    model: str | None,
    revision: str | None = None,
    clip: str | None = None,
    sam: str | None = None,
    *,
    dtype: str | None = None,
    settings: Mapping[str, Any] | None = None,
) -> tuple["ClipSamForAnomalySegmentation", "ClipSamProcessor", str]:
    """Load a ClipSAM, or put one together from a CLIP and a SAM; with the name that reports give it.

    Args:
        model, revision, clip, sam, dtype (`str`, *optional*): the options of these names.
        settings (`dict`, *optional*): fields of the configuration to change.

    Raises:
        OSError, ValueError: One that says what cannot be loaded.
    """
    from transformers.utils import logging

    if not sys.stderr.isatty():
        logging.disable_progress_bar()
    settings = settings or {}
    loading = {} if dtype is None else {"dtype": parse_dtype(dtype)}
    with _explained_loading(model, clip, sam):
        if clip is None and sam is None:
            return _load_whole(find_checkpoint(model), revision or "main", loading, settings)
        if clip is None or sam is None:
            raise ValueError("--clip and --sam belong together")
        if model is not None or revision is not None:
            raise ValueError("--model and --revision cannot be combined with --clip and --sam")
        return _load_parts(clip, sam, loading, settings)


def _load_whole(
    source: str, revision: str, loading: Mapping[str, Any], settings: Mapping[str, Any]
) -> tuple["ClipSamForAnomalySegmentation", "ClipSamProcessor", str]:
    # The package registers its classes when it is first asked for a name: else the library wonders what they are
    from .. import __version__  # noqa: F401
    from ..configuration_clipsam import ClipSamConfig
    from ..modeling_clipsam import ClipSamForAnomalySegmentation
    from ..processing_clipsam import ClipSamProcessor

    if "feature_layers" in settings:
        stored = ClipSamConfig.from_pretrained(source, revision=revision)
        if settings.get("localizer", stored.localizer) == "umci":  # a trained head keeps its stages
            raise ValueError(
                "--set feature_layers needs a localizer without a trained head, vv, windows or similarity, got 'umci'"
            )
    network = ClipSamForAnomalySegmentation.from_pretrained(source, revision=revision, **loading, **settings)
    processor = ClipSamProcessor.from_pretrained(source, revision=revision)
    return network, processor, _public_name(source)


def _load_parts(
    clip: str, sam: str, loading: Mapping[str, Any], settings: Mapping[str, Any]
) -> tuple["ClipSamForAnomalySegmentation", "ClipSamProcessor", str]:
    from ..modeling_clipsam import ClipSamForAnomalySegmentation
    from ..processing_clipsam import ClipSamProcessor

    network = ClipSamForAnomalySegmentation.from_clip_sam_pretrained(
        clip, sam, clip_kwargs=dict(loading), sam_kwargs=dict(loading), **settings
    )
    processor = ClipSamProcessor.from_clip_sam_pretrained(clip, sam, image_size=network.config.image_size)
    return network, processor, f"{_public_name(clip)} + {_public_name(sam)}"


@contextmanager
def _explained_loading(*names: str | None) -> Iterator[None]:
    """Say what cannot be loaded; the library's own message may be about the network alone, with hints over lines."""
    given = [name for name in names if name is not None]
    for name in given:
        if looks_like_a_path(name) and not Path(name).is_dir():
            raise NotADirectoryError(f"{name!r} is no folder with a checkpoint")
    try:
        yield
    except OSError as error:
        sources = " and ".join(map(repr, given)) or repr(find_checkpoint(None))
        raise OSError(f"cannot load {sources}: {str(error).strip().partition(chr(10))[0]}") from error


def looks_like_a_path(name: str) -> bool:
    """Tell a path from the name of a repository, which has one part or two."""
    return name.startswith((".", "~", "/")) or name.count("/") > 1 or "\\" in name


def _public_name(source: str) -> str:
    """Name a folder without the place where it lies, which is nobody's business in a report."""
    return Path(source).resolve().name if Path(source).is_dir() else source


def check_roi(roi: Path | None) -> None:
    """Refuse a region of interest that is no file."""
    if roi is not None and not roi.is_file():
        raise FileNotFoundError(f"--roi must be an image file, got {str(roi)!r}")


def parse_tile(text: str) -> str | int | None:
    """Read what `plan_tiles` takes."""
    if text in ("auto", "none"):
        return None if text == "none" else text
    if not text.isdecimal():
        raise ValueError(f"--tile must be auto, none or a side in pixels, got {text!r}")
    return int(text)


def parse_dtype(text: str) -> Any:
    """Read the name of one of torch's types."""
    import torch

    if text not in DTYPES:
        raise ValueError(f"--dtype must be one of {', '.join(DTYPES)}, got {text!r}")
    return getattr(torch, text)


def parse_list(text: str) -> list[str]:
    """Read names with commas between them."""
    return [part.strip() for part in text.split(",") if part.strip()]


def parse_pairs(option: str, texts: Sequence[str]) -> dict[str, str]:
    """Read NAME=VALUE, in which the value may hold further signs of equality."""
    pairs = {}
    for text in texts:
        name, separator, value = text.partition("=")
        if not (name and separator and value):
            raise ValueError(f"{option} must be NAME=VALUE, got {text!r}")
        pairs[name] = value
    return pairs
