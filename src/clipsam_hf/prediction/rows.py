# SPDX-FileCopyrightText: 2026 The clipsam_hf authors
# SPDX-License-Identifier: Apache-2.0
"""Rows of photographs that come from anywhere: shards, queues, tables; the same rows as those of a folder."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from itertools import islice
from typing import Any, NamedTuple

from ..answers_clipsam import make_answer
from ..inference_clipsam import ClipSamInference, PreparedImage
from ..modeling_clipsam import ClipSamForAnomalySegmentation
from ..patches_clipsam import read_roi
from ..processing_clipsam import ClipSamProcessor, check_class_name, check_threshold
from ..references_clipsam import agree_on_tile, take_references
from ..tiling_clipsam import check_tile
from .results import make_error_row, make_row


__all__ = ["predict_rows"]


def predict_rows(
    model: ClipSamForAnomalySegmentation,
    processor: ClipSamProcessor,
    photographs: Iterable[tuple[str, Any]],
    *,
    class_name: str | None = None,
    references: Any = None,
    roi_mask: Any = None,
    refine: bool = True,
    threshold: float | None = None,
    decision_threshold: float | None = None,
    tile: str | int | None = "auto",
    batch_size: int = 1,
    num_threads: int = 2,
) -> Iterator[dict[str, Any]]:
    """Predict photographs one after the other, and yield the row of each, in their order.

    Rows are those of `predict_folder`, for who brings the photographs, and keeps the rows, in another way. Threads
    read and prepare a few photographs ahead, so memory stays flat however many there are.

    Args:
        model (`ClipSamForAnomalySegmentation`): on its device.
        processor (`ClipSamProcessor`): the model's.
        photographs (`Iterable[tuple[str, Any]]`): of each its name, the `path` of its row, and what `load_rgb` reads.
        class_name (`str`, *optional*): what they show. References that were made before bring it along.
        references (`str`, `os.PathLike`, `Sequence` or [`ClipSamReferences`], *optional*): good photographs, as a
            list or a folder, or references that were made before.
        roi_mask (*optional*): what `load_rgb` reads, not black where to look; brought to the size of each photograph.
            References that were made before may have one of their own beside it.
        refine (`bool`): whether SAM refines the maps.
        threshold (`float`, *optional*): of the map, in [0, 1]; by default the pipeline's.
        decision_threshold (`float`, *optional*): of the score, likewise.
        tile (`str` or `int`, *optional*): how long or huge photographs are cut, see `plan_tiles`.
        batch_size (`int`): photographs per forward pass.
        num_threads (`int`): that read and prepare.

    Returns:
        `Iterator[dict[str, Any]]`: JSON values by the names of `COLUMNS`; a photograph that cannot be read has its
        reason in `error`.

    Raises:
        TypeError, ValueError: if an argument is out of range, or the head is needed and not trained.
        OSError: if references or the mask cannot be read.

    Example:
        >>> from clipsam_hf import ClipSamForAnomalySegmentation, ClipSamProcessor
        >>> model = ClipSamForAnomalySegmentation.from_pretrained(folder)
        >>> processor = ClipSamProcessor.from_pretrained(folder)
        >>> photographs = [("a", photograph), ("b", b"no photograph")]
        >>> rows = predict_rows(model, processor, photographs, class_name="nut")
        >>> [(row["path"], row["error"] is None) for row in rows]
        [('a', True), ('b', False)]
    """
    for option, value in (("threshold", threshold), ("decision_threshold", decision_threshold)):
        if value is not None:
            check_threshold(value, option)
    for option, count in (("batch_size", batch_size), ("num_threads", num_threads)):
        if count < 1:
            raise ValueError(f"`{option}` must be at least 1, got {count}")
    if class_name is None and references is None:
        raise ValueError("`class_name` is needed: what the photographs show, such as 'candle'")
    check_tile(tile)
    roi = None if roi_mask is None else read_roi(roi_mask)
    inference = ClipSamInference(model.eval(), processor)
    if references is None:
        model.check_trained()
    else:
        options: dict[str, Any] = {"class_name": class_name or "object", "roi_mask": roi, "tile": tile}
        references = take_references(inference, references, **options)
    prepare = partial(
        inference.prepare,
        class_name=check_class_name(class_name or references.class_name),
        refine=refine,
        roi=roi,
        tile=agree_on_tile(tile, references),
    )
    read = _read_ahead(partial(_read, prepare), photographs, num_threads, num_threads + batch_size)
    judging = {"refine": refine, "threshold": threshold, "decision_threshold": decision_threshold}
    return _yield_rows(inference, read, batch_size, {**judging, "references": references})


class _Photograph(NamedTuple):
    """A photograph that was read, or why it could not be."""

    name: str
    prepared: PreparedImage | None = None
    error: str = ""


def _read(prepare: Callable[[Any], PreparedImage], name: str, image: Any) -> _Photograph:
    try:
        return _Photograph(name, prepare(image))
    except (OSError, ValueError) as error:
        return _Photograph(name, error=f"{type(error).__name__}: {error}")


def _read_ahead(
    read: Callable[[str, Any], _Photograph], photographs: Iterable[tuple[str, Any]], num_threads: int, ahead: int
) -> Iterator[_Photograph]:
    """Read photographs in threads, and yield them in their order; at most so many wait."""
    waiting: deque[Future[_Photograph]] = deque()
    with ThreadPoolExecutor(num_threads) as pool:
        for name, image in photographs:
            waiting.append(pool.submit(read, name, image))
            if len(waiting) >= ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def _yield_rows(
    inference: ClipSamInference, photographs: Iterator[_Photograph], batch_size: int, judging: dict[str, Any]
) -> Iterator[dict[str, Any]]:
    while batch := list(islice(photographs, batch_size)):
        readable = [photograph.prepared for photograph in batch if photograph.prepared is not None]
        predictions = iter(inference.predict(readable, judging["references"]) if readable else ())
        for name, prepared, error in batch:
            if prepared is None:
                yield make_error_row(name, error)
            else:
                prediction = next(predictions)
                answer = make_answer(inference.model.config, prediction, outlines=True, **judging)
                yield make_row(name, prediction.size, answer)
