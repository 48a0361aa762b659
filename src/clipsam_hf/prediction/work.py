# SPDX-FileCopyrightText: 2026 The clipsam_hf authors
# SPDX-License-Identifier: Apache-2.0
"""Reading, predicting and writing at the same time: processes read ahead, threads write behind, few at a time."""

import os
import uuid
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm  # type: ignore[import-untyped]

from ..answers_clipsam import Answer, make_answer
from ..image_loading import load_rgb
from ..inference_clipsam import ClipSamInference, ImagePreparer, Prediction, PreparedImage
from ..naming_clipsam import name_regions
from ..visualization_clipsam import MAX_SIDE, heat_map, overlay
from .names import PREVIEWS, picture_path
from .previews import PREVIEW_SIDE, encode_preview
from .results import make_error_row, make_row
from .state import OutputFolder, RowFile


__all__ = ["MAX_PICTURE_SIDE", "PhotographReader", "Settings", "predict_share"]

MAX_PICTURE_SIDE = MAX_SIDE
"""Longer side, in pixels, of overlays and heat maps at most; masks and maps have the photograph's size."""


class Settings(NamedTuple):
    """What rows and pictures depend on, beside the model; see `predict_folder`."""

    refine: bool
    threshold: float | None
    decision_threshold: float | None
    save: Sequence[str]
    tile: str | int | None = None
    defect_names: Sequence[str] | None = None


class ReadPhotograph(NamedTuple):
    """A photograph that was read, or could not be.

    Args:
        name (`str`): its path below the source.
        prepared (`PreparedImage`, *optional*): what the model takes.
        picture (`np.ndarray` of shape `(height, width, 3)`, uint8, *optional*): small, for overlay and preview.
        error (`str`, *optional*): why there is nothing.
    """

    name: str
    prepared: PreparedImage | None = None
    picture: np.ndarray | None = None
    error: str | None = None


class PhotographReader(Dataset):
    """Reads and prepares photographs, in other processes perhaps.

    Args:
        root (`Path`): folder of the photographs.
        names (`Sequence[str]`): their paths below it.
        prepare (`ImagePreparer`): the model's.
        class_name (`str`): what they show.
        settings (`Settings`): whether the refiner is to run, how photographs are cut, and an overlay or preview made.
        roi (`torch.Tensor` of shape `(height, width)`, *optional*): bool; where to look.
    """

    def __init__(
        self,
        root: Path,
        names: Sequence[str],
        prepare: ImagePreparer,
        class_name: str,
        settings: Settings,
        roi: Tensor | None = None,
    ) -> None:
        self.root, self.names, self.prepare = root, names, prepare
        self.class_name, self.settings, self.roi = class_name, settings, roi

    def __getitem__(self, place: int) -> ReadPhotograph:
        name = self.names[place]
        try:
            photograph = load_rgb(self.root / name)
            options: dict[str, Any] = {
                "refine": self.settings.refine,
                "tile": self.settings.tile,
                "roi": self.roi,
                "place": place,
            }
            keep = self.settings.defect_names is not None
            prepared = self.prepare(photograph, self.class_name, **options, keep_photograph=keep)
        except (OSError, ValueError) as error:
            return ReadPhotograph(name, error=f"{type(error).__name__}: {error}")
        if not {"overlay", "preview"} & set(self.settings.save):
            return ReadPhotograph(name, prepared)
        photograph.thumbnail((MAX_PICTURE_SIDE, MAX_PICTURE_SIDE))
        return ReadPhotograph(name, prepared, np.asarray(photograph))

    def read(self, place: int) -> PreparedImage:
        """Prepare a photograph for a comparison, without the refiner; raises what `load_rgb` raises."""
        return self.prepare(self.root / self.names[place], self.class_name, refine=False, place=place)


def predict_share(
    reader: PhotographReader,
    places: Sequence[int],
    inference: ClipSamInference,
    references: Any,
    output: OutputFolder,
    *,
    rank: int,
    batch_size: int,
    num_workers: int,
) -> None:
    """Predict photographs, write their pictures, and then their rows in the same order.

    Args:
        reader (`PhotographReader`): reads them.
        places (`Sequence[int]`): which of them.
        inference (`ClipSamInference`): the model.
        references: what they are compared with, see `ClipSamInference.predict`.
        output (`OutputFolder`): gets the results.
        rank (`int`): number of this process; the first one shows a bar, if a terminal sees it.
        batch_size (`int`): photographs per forward pass.
        num_workers (`int`): processes that read; no more than there are batches.

    Raises:
        OSError: if something cannot be written. What has a row by then stays.
    """
    if not places:
        return
    batches = [list(places[start : start + batch_size]) for start in range(0, len(places), batch_size)]
    num_workers = min(num_workers, len(batches) - 1)
    loader = DataLoader(reader, batch_sampler=batches, collate_fn=list, num_workers=num_workers)
    writer = _Writer(inference, references, reader.settings, output)
    with (
        output.open_rows(rank) as rows,
        tqdm(total=len(places), unit="image", disable=True if rank > 0 else None) as progress,
        # One at a time is written while the next is predicted; readers need no less
        ThreadPoolExecutor(max(1, num_workers)) as pool,
    ):
        waiting: deque[Future[dict[str, Any]]] = deque()
        try:
            for batch in loader:
                readable = [photograph.prepared for photograph in batch if photograph.prepared is not None]
                predictions = iter(inference.predict(readable, references) if readable else ())
                for photograph in batch:
                    prediction = None if photograph.prepared is None else next(predictions)
                    waiting.append(pool.submit(writer.write, photograph, prediction))
                # Whoever predicts faster than the disk writes waits here, so that memory stays flat
                while len(waiting) > 2 * max(1, num_workers) or (waiting and waiting[0].done()):
                    _append_first(waiting, rows, progress)
            while waiting:
                _append_first(waiting, rows, progress)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            with suppress(BaseException):  # what is written up to the first fault need not be done again
                while waiting and not waiting[0].cancelled():
                    _append_first(waiting, rows, progress)
            raise


def _append_first(waiting: deque[Future[dict[str, Any]]], rows: RowFile, progress: Any) -> None:
    rows.append(waiting[0].result())
    waiting.popleft()
    progress.update()


class _Writer:
    """Makes answer, pictures and row of a prediction; called in threads."""

    def __init__(self, inference: ClipSamInference, references: Any, settings: Settings, output: OutputFolder) -> None:
        self.inference, self.references, self.settings, self.output = inference, references, settings, output

    def write(self, photograph: ReadPhotograph, prediction: Prediction | None) -> dict[str, Any]:
        """Write the pictures and return the row."""
        if prediction is None:
            return make_error_row(photograph.name, str(photograph.error))
        refine, threshold, decision_threshold, save, _, defect_names = self.settings
        answer = make_answer(
            self.inference.model.config,
            prediction,
            refine=refine,
            threshold=threshold,
            decision_threshold=decision_threshold,
            references=self.references,
            outlines=True,
        )
        if defect_names is not None and photograph.prepared is not None:
            named = name_regions(self.inference, photograph.prepared, answer.regions, defect_names)
            answer = answer._replace(regions=named)
        for kind in save:
            self._save(_paint(kind, answer, prediction, photograph.picture), kind, photograph.name)
        return make_row(photograph.name, prediction.size, answer)

    def _save(self, picture: Image.Image, kind: str, name: str) -> None:
        """Write beside the rows and move into place, so that whatever has its name is complete."""
        target = self.output.folder / picture_path(kind, name)
        for parent in target.relative_to(self.output.folder).parents:
            if (self.output.folder / parent).is_symlink() and parent != Path():
                raise OSError(f"{str(self.output.folder / parent)!r} is a link that leads out of the results' folder")
        target.parent.mkdir(parents=True, exist_ok=True)
        unfinished = self.output.state / f"{uuid.uuid4().hex}{target.suffix}"
        if kind in PREVIEWS:
            unfinished.write_bytes(encode_preview(picture))
        else:
            picture.save(unfinished, compress_level=1)  # the higher levels take seconds for 12 megapixels
        os.replace(unfinished, target)


def _paint(kind: str, answer: Answer, prediction: Prediction, picture: np.ndarray | None) -> Image.Image:
    """Paint one kind of picture of a photograph."""
    if kind == "mask":
        return Image.fromarray(answer.mask.astype(np.uint8) * np.uint8(255))
    if kind == "map":
        return Image.fromarray((answer.anomaly_map * 65535).round().astype(np.uint16))
    if picture is not None and kind == "overlay":
        anomaly_map = prediction.resized(size=(picture.shape[0], picture.shape[1]))
        return overlay(
            picture,
            anomaly_map,
            score=answer.score,
            label=answer.label,
            regions=answer.regions,
            size=prediction.size,
            max_side=MAX_PICTURE_SIDE,
        )
    if picture is not None and kind == "preview":
        return Image.fromarray(picture)
    height, width = prediction.size
    scale = min(1.0, (PREVIEW_SIDE if kind == "preview-map" else MAX_PICTURE_SIDE) / max(height, width))
    small_map = prediction.resized(size=(max(1, round(height * scale)), max(1, round(width * scale))))
    if kind == "preview-map":
        return Image.fromarray((small_map * 255).round().astype(np.uint8))
    return heat_map(small_map)
