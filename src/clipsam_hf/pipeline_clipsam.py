# SPDX-FileCopyrightText: 2026 The clipsam_hf authors
# SPDX-License-Identifier: Apache-2.0
"""The task `"zero-shot-anomaly-segmentation"`: a photograph and the name of what it shows in, the defects out."""

import base64
import io
import os
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from huggingface_hub import CommitInfo
from PIL import Image
from torch.utils.data import Dataset, IterableDataset
from transformers import Pipeline
from transformers.utils import logging

from .answers_clipsam import Answer, make_answer
from .checkpoint_clipsam import check_backbones_are_public
from .image_loading import find_photographs
from .inference_clipsam import ClipSamInference, ImagePreparer, Prediction, PreparedImage, TextEmbeddingCache
from .mutual_clipsam import MutualReferences
from .naming_clipsam import check_defect_names, name_regions
from .patches_clipsam import read_roi
from .processing_clipsam import check_class_name, check_threshold, raise_if_unknown
from .publishing_clipsam import TASK, push
from .references_clipsam import ClipSamReferences, agree_on_tile, take_references
from .result_clipsam import ClipSamResult
from .tiling_clipsam import check_tile


logger = logging.get_logger(__name__)

CALL_PARAMETERS = (
    "as_json",
    "batch_size",
    "class_name",
    "decision_threshold",
    "defect_names",
    "num_workers",
    "on_error",
    "references",
    "refine",
    "return_maps",
    "roi_mask",
    "threshold",
    "tile",
    "timeout",
)


@dataclass(frozen=True)
class _Row:
    """One photograph on its way through the pipeline: what is to be predicted, or why there is nothing."""

    prepared: PreparedImage | None = None
    prediction: Prediction | None = None
    error: str | None = None


class ZeroShotAnomalySegmentationPipeline(Pipeline):
    """Finds what is damaged in photographs of any object, without having seen one before.

    `pipeline("zero-shot-anomaly-segmentation", model=...)` makes one. Text embeddings are kept per class name until
    words, weights, dtype or device change. One pipeline may be called from several threads.

    Example:
        >>> from transformers import pipeline
        >>> finder = pipeline("zero-shot-anomaly-segmentation", model=folder)
        >>> result = finder(photograph, class_name="candle")
        >>> sorted(result)
        ['anomaly_map', 'is_anomalous', 'label', 'mask', 'regions', 'score']
        >>> result["anomaly_map"].shape == (photograph.height, photograph.width)
        True
    """

    _load_processor: Any = True
    _load_image_processor: Any = False
    _load_video_processor: Any = False
    _load_feature_extractor: Any = False
    _load_tokenizer: Any = False

    model: Any
    processor: Any

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        # `pipeline()` reads this one and hands it on
        kwargs.pop("local_files_only", None)
        super().__init__(*args, **kwargs)
        if self.processor is None:
            raise ValueError(f"{type(self).__name__} needs `processor`, a ClipSamProcessor, beside the model.")
        self.model.eval()
        self._texts = TextEmbeddingCache()
        self._has_explained_none = False

    def __call__(self, images: Any, **kwargs: Any) -> Any:  # type: ignore[override]
        """Marks the anomalous pixels of one photograph or of many.

        Args:
            images: One photograph: a path, an http(s) URL, bytes, an open file, a PIL image, an array or a tensor,
                see `load_rgb`; or a dictionary `{"image": ..., "class_name": ..., "roi_mask": ...}`, of which only the
                image must be there. Or many:
                a list or tuple of these gives a list; a generator, `KeyDataset`, torch `Dataset`, `datasets.Dataset`
                (columns `image` and, if there is one, `class_name`) or a folder, by the order of its paths, gives an
                iterator that reads and predicts as it goes.
            class_name (`str` or `Sequence[str]`, *optional*, defaults to `"object"`): What the photographs show, for
                all of them or one name for each. A dictionary's own name goes before the common one.
            threshold (`float`, *optional*): In [0, 1]; pixels above it make the mask. By default the configuration's
                `mask_threshold` where that one was calibrated (`calibrated_refine`), else its `binarize_threshold`;
                or, with `region_rule="relative"`, what stands out from the photograph's own map by
                `region_deviations`; or, with references, their own: the score that no good photograph reached.
            references (`str`, `os.PathLike`, `Sequence` or [`ClipSamReferences`], *optional*): Good photographs that
                the photographs are compared with: references that were made before or their folder, or a list or
                folder of photographs, of which references are made for this call. Or `"mutual"`: the photographs, a
                list, data set or folder, are compared with each other, and none need be known to be good.
            decision_threshold (`float`, *optional*): In [0, 1]; photographs with a score above it may be anomalous. By
                default the configuration's, where that one was calibrated for this `refine`; or, with references,
                their own, if there are at least two.
            roi_mask (*optional*): A mask that is not black where to look, brought to the size of each photograph: what
                `load_rgb` reads, or an array of bool. Elsewhere maps are 0, and nothing scores. A dictionary's own one
                goes before the common one; references may have one of their own.
            tile (`str` or `int`, *optional*, defaults to `"auto"`): How photographs are cut into tiles that are looked
                at beside the whole: with `"auto"` those that are more than twice as long as short or have more than 16
                megapixels; with a number all that are longer, into tiles of that side in pixels; with None, none. Each
                tile costs about as much as a photograph, see `plan_tiles`. References have their own `tile`;
                photographs that are compared with each other are taken whole.
            refine (`bool`, defaults to `True`): Whether SAM refines CLIP's rough map.
            defect_names (`Sequence[str]`, *optional*): Words for defects, such as `["scratch", "hole"]`: each region
                gets the most similar one by CLIP, see `name_regions`. With small models it is little more than chance.
            batch_size (`int`, defaults to 1): Photographs per forward pass, whatever their sizes.
            timeout (`float`, *optional*): Seconds to wait for a URL's server; by default for ever.
            on_error (`"raise"` or `"skip"`, defaults to `"raise"`): With `"skip"`, a photograph that cannot be read
                gives a row whose `"error"` says why, `"regions"` is empty and all else is None; the others go on, and
                in mutual scoring none is compared with it. References must be readable.
            num_workers (`int`, defaults to 0): Processes that read photographs of a list or a data set.
            as_json (`bool`, defaults to `False`): Whether map and mask come as base64 PNG, so that `json.dumps` takes
                the result: the mask 8-bit, the map 16-bit grey, of which 65535 is 1.
            return_maps (`bool`, defaults to `True`): Whether a result holds `"anomaly_map"` and `"mask"`. They take 5
                bytes a pixel, 60 MB of a photograph of 12 megapixels: leave them out where many results are kept.

        Returns:
            Per photograph a `dict` that shows itself in a notebook, as picture and table (with `return_maps=False`
            or `as_json=True` as table alone), see [`ClipSamResult`]:
            `"score"` (`float`), the image's anomaly score in [0, 1];
            `"label"` (`"anomalous"`, `"normal"` or None) and `"is_anomalous"` (`bool` or None), the verdict: where a
            decision threshold holds, a photograph whose score is not above it is normal, and its mask and regions are
            empty; one above it is anomalous if its mask has a pixel; so `"is_anomalous"` is true exactly if there is a
            region. None without a decision threshold;
            `"anomaly_map"` (`np.ndarray`, float32 of shape (height, width)), in [0, 1], at the size of the photograph
            as it is displayed;
            `"mask"` (`PIL.Image.Image` of mode "L"), 255 where the map is above the threshold, else 0. Where the score
            is above the decision threshold, no pixel above a threshold that was not given, and SAM has lowered the
            map, the map before SAM is asked instead;
            `"regions"` (`list[dict]`), the parts of the mask by falling score, `{"box": {"xmin", "ymin", "xmax",
            "ymax"}, "score": float, "area": int}`: pixel edges (`xmax` and `ymax` are exclusive), mean of the map
            inside, number of pixels; with `defect_names` also `"defect_name"`, `"defect_score"` (its probability among
            the names) and `"defect_is_guess"` (`bool`), whether another name or none would do as well.

        Raises:
            TypeError: If a keyword is unknown, or an argument of the wrong type.
            ValueError: If an argument is out of range, numbers of images and names differ, or the head is untrained.
            ImageReadError, OSError: If a photograph cannot be read and `on_error="raise"`.
        """
        raise_if_unknown(kwargs, CALL_PARAMETERS, f"The pipeline {TASK!r}")
        references = kwargs.get("references", self._forward_params.get("references"))
        if references is None:
            self.model.check_trained()
        class_names = None
        if isinstance(kwargs.get("class_name"), (list, tuple)):
            class_names = list(kwargs.pop("class_name"))
        items = _to_items(images, class_names)
        if items == []:
            return []
        if kwargs.get("roi_mask") is not None:
            kwargs["roi_mask"] = read_roi(kwargs["roi_mask"], kwargs.get("timeout"))  # once for all
        if references is not None:
            self._sanitize_parameters(**kwargs)  # what is out of range is known before anything is compared
            given = {**self._preprocess_params, **kwargs, "references": references}
            items, kwargs["references"] = self._prepare_references(items, **given)
            if "class_name" not in given:
                kwargs["class_name"] = getattr(kwargs["references"], "class_name", "object")
            kwargs["tile"] = agree_on_tile(given.get("tile", "auto"), kwargs["references"])
        return super().__call__(items, **kwargs)

    def _prepare_references(
        self,
        items: Any,
        references: Any,
        class_name: str = "object",
        roi_mask: Any = None,
        tile: str | int | None = "auto",
        timeout: float | None = None,
        on_error: str = "raise",
        **_: Any,
    ) -> tuple[Any, ClipSamReferences | MutualReferences]:
        """Makes or loads what the photographs are compared with; for mutual scoring they get their numbers."""
        inference = ClipSamInference(self.model, self.processor, self._texts)
        if not isinstance(references, str) or references != "mutual":
            name = _common_name(items) or class_name
            options = {"class_name": name, "roi_mask": roi_mask, "tile": tile, "timeout": timeout}
            return items, take_references(inference, references, **options)
        if not isinstance(items, (list, _Rows)):
            kind = "one photograph" if isinstance(items, dict) else "a stream"
            raise ValueError(f"`references='mutual'` needs a list, a data set or a folder of photographs, got {kind}.")
        items = _number(items)

        def prepare(place: int) -> PreparedImage:
            item = _as_called(items[place])
            return inference.prepare(item["image"], item.get("class_name", class_name), refine=False, timeout=timeout)

        folder = TemporaryDirectory(prefix="clipsam-mutual-")
        try:
            mutual = MutualReferences.from_images(
                inference, prepare, len(items), folder.name, skip_unreadable=on_error == "skip"
            )
        except BaseException:
            folder.cleanup()
            raise
        weakref.finalize(mutual, folder.cleanup)  # when the last photograph has been compared
        return items, mutual

    def __getstate__(self) -> dict[str, Any]:
        # The hooks by which the library collects hidden states cannot be pickled, so the model goes as its parts
        model = self.model
        parts = (type(model), model.config, model.state_dict(), model.dtype, model.head_is_trained)
        return {**self.__dict__, "model": parts}

    def __setstate__(self, state: dict[str, Any]) -> None:
        model_class, config, state_dict, dtype, head_is_trained = state["model"]
        model = model_class.from_pretrained(None, config=config, state_dict=state_dict, dtype=dtype)
        model.head_is_trained = head_is_trained
        self.__dict__.update(state, model=model.to(state["device"]))

    def save_pretrained(
        self, save_directory: str | os.PathLike[str], *, save_code: bool = True, **kwargs: Any
    ) -> None:
        """Saves model and processor, and beside them the code that machines without this package need.

        Args:
            save_directory (`str` or `os.PathLike`): The folder; it is made if there is none.
            save_code (`bool`, defaults to `True`): Whether the folder gets the modules too, so that
                `pipeline(task, model=folder, trust_remote_code=True)` and the Auto classes work without the package.
                With the package installed, its own code is used and no trust is asked for.
            kwargs: For the model's `save_pretrained`, for example `save_backbones` or `max_shard_size`.

        Raises:
            NotADirectoryError: If `save_directory` is a file.
            ValueError: If `save_backbones=False` and the backbones could not be loaded again.
        """
        if os.path.isfile(save_directory):
            raise NotADirectoryError(f"A pipeline is saved to a folder, got the file {os.fspath(save_directory)!r}.")
        self.model.save_pretrained(save_directory, save_code=save_code, **kwargs)
        self.processor.save_pretrained(save_directory, save_code=save_code)

    def push_to_hub(  # type: ignore[override]
        self, repo_id: str, *, save_backbones: bool = True, max_shard_size: int | str = "5GB", **kwargs: Any
    ) -> CommitInfo:
        """Publishes model, processor and code in one commit.

        Args:
            repo_id (`str`): Name of the repository, `"organisation/name"`; it is made if there is none.
            save_backbones (`bool`, defaults to `True`): With `False` the trained head is published alone, see the
                model's `save_pretrained`.
            max_shard_size (`int` or `str`, defaults to `"5GB"`): Size of a file of weights at most.
            kwargs: Those of `push`: `card`, `tags`, `private`, `token`, `revision`, `create_pr`, `commit_message`,
                `commit_description`.

        Returns:
            `CommitInfo`: The commit.

        Raises:
            ValueError: If `save_backbones=False` and nobody else could load the backbones.
            OSError: If the Hub cannot be reached or refuses.
        """
        if not save_backbones:
            check_backbones_are_public(self.model.config)
        save = partial(self.save_pretrained, save_backbones=save_backbones, max_shard_size=max_shard_size)
        return push(save, repo_id, config=self.model.config, **kwargs)

    def _sanitize_parameters(self, **parameters: Any) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        """Checks what was given and hands it to the steps; what was not given keeps the steps' defaults."""
        raise_if_unknown(parameters, CALL_PARAMETERS, f"The pipeline {TASK!r}")
        if "class_name" in parameters:
            check_class_name(parameters["class_name"])
        for name in ("decision_threshold", "threshold"):
            if parameters.get(name) is not None:
                check_threshold(parameters[name], name)
        for name in ("as_json", "refine", "return_maps"):
            if not isinstance(parameters.get(name, True), bool):
                raise TypeError(f"`{name}` must be True or False, got {parameters[name]!r}.")
        if parameters.get("on_error", "raise") not in ("raise", "skip"):
            raise ValueError(f"`on_error` must be 'raise' or 'skip', got {parameters['on_error']!r}.")
        check_tile(parameters.get("tile"))
        if parameters.get("defect_names") is not None:
            check_defect_names(parameters["defect_names"])
        timeout = parameters.get("timeout")
        if timeout is not None and (isinstance(timeout, bool) or not timeout > 0):
            raise ValueError(f"`timeout` must be a positive number of seconds or None, got {timeout!r}.")

        def chosen(*names: str) -> dict[str, Any]:
            return {name: parameters[name] for name in names if name in parameters}

        of_both = chosen("as_json", "defect_names", "refine", "return_maps")
        of_answer = of_both | chosen("decision_threshold", "references", "threshold")
        of_reading = of_both | chosen("class_name", "on_error", "roi_mask", "tile", "timeout")
        return of_reading, chosen("references"), of_answer

    def preprocess(  # type: ignore[override]
        self,
        input_: Any,
        class_name: str = "object",
        refine: bool = True,
        roi_mask: Any = None,
        tile: str | int | None = "auto",
        timeout: float | None = None,
        on_error: str = "raise",
        return_maps: bool = True,
        as_json: bool = False,
        defect_names: Sequence[str] | None = None,
    ) -> dict[str, Any]:
        """Reads one photograph and makes the pixels of CLIP and, if SAM is to refine, of SAM."""
        try:
            item = _as_called(input_)
            name, place, roi_mask = (
                item.get("class_name", class_name),
                item.get("place"),
                item.get("roi_mask", roi_mask),
            )
            roi = None if roi_mask is None else read_roi(roi_mask, timeout)
            prepare = ImagePreparer(self.processor)
            options: dict[str, Any] = {"refine": refine, "timeout": timeout, "place": place, "roi": roi, "tile": tile}
            options |= {"thumbnail": return_maps and not as_json, "keep_photograph": defect_names is not None}
            row = _Row(prepare(item["image"], name, **options))
        except (OSError, TypeError, ValueError) as error:
            if on_error == "raise":
                raise
            row = _Row(error=f"{type(error).__name__}: {error}")
        return {"row": row}

    def _forward(  # type: ignore[override]
        self, input_tensors: dict[str, Any], references: Any = None
    ) -> dict[str, list[_Row]]:
        """Runs the model on the photographs of a batch that could be read."""
        rows = _as_list(input_tensors["row"])
        readable = [row.prepared for row in rows if row.prepared is not None]
        inference = ClipSamInference(self.model, self.processor, self._texts)
        predictions = iter(inference.predict(readable, references) if readable else ())
        return {
            "rows": [row if row.prepared is None else _Row(row.prepared, next(predictions)) for row in rows],
        }

    def postprocess(  # type: ignore[override]
        self,
        model_outputs: Any,
        threshold: float | None = None,
        refine: bool = True,
        as_json: bool = False,
        decision_threshold: float | None = None,
        references: Any = None,
        return_maps: bool = True,
        defect_names: Sequence[str] | None = None,
    ) -> dict[str, Any]:
        """Brings one map to its photograph's size and reads score, verdict, mask and regions from it."""
        (row,) = _as_list(model_outputs["rows"])
        if row.prepared is None or row.prediction is None:
            names = ("score", "label", "is_anomalous", *(("anomaly_map", "mask") if return_maps else ()))
            empty = dict.fromkeys(names)
            return ClipSamResult({**empty, "regions": [], "error": row.error})

        answer = make_answer(
            self.model.config,
            row.prediction,
            refine=refine,
            threshold=threshold,
            decision_threshold=decision_threshold,
            references=references,
        )
        if answer.decision_threshold is None:
            self._explain_none()
        maps: dict[str, Any] = {}
        if return_maps:
            full_map, picture = answer.anomaly_map, Image.fromarray(answer.mask.astype(np.uint8) * np.uint8(255))
            maps["anomaly_map"] = _to_png((full_map * 65535).round().astype(np.uint16)) if as_json else full_map
            maps["mask"] = _to_png(picture) if as_json else picture
        values = {
            "score": answer.score,
            "label": answer.label,
            "is_anomalous": answer.is_anomalous,
            **maps,
            "regions": answer.regions if defect_names is None else self._name(row.prepared, answer, defect_names),
        }
        return ClipSamResult(values, thumbnail=row.prepared.thumbnail, size=row.prediction.size)

    def _name(self, prepared: PreparedImage, answer: Answer, defect_names: Sequence[str]) -> list[dict[str, Any]]:
        """The regions with the names of their defects."""
        inference = ClipSamInference(self.model, self.processor, self._texts)
        return name_regions(inference, prepared, answer.regions, check_defect_names(defect_names))

    def _explain_none(self) -> None:
        """Says once why photographs get no label."""
        if not self._has_explained_none:
            self._has_explained_none = True
            logger.warning(
                "This model has no decision threshold for such photographs, so `label` is None; `clipsam calibrate`"
                " makes one from good photographs."
            )


def _to_png(picture: Image.Image | np.ndarray) -> str:
    """A picture as a base64 PNG."""
    image = Image.fromarray(picture) if isinstance(picture, np.ndarray) else picture
    target = io.BytesIO()
    image.save(target, format="PNG")
    return base64.b64encode(target.getvalue()).decode("ascii")


class _Rows(Dataset):
    """A data set as the pipeline's input; a row is read later, where an error can be told from a mistake."""

    def __init__(self, rows: Any, class_names: Sequence[str] | None) -> None:
        self.rows, self.class_names = rows, class_names

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Callable[[], dict[str, Any]]:
        class_name = None if self.class_names is None else self.class_names[index]
        return partial(_read_row, self.rows, index, class_name)


class _Numbered(Dataset):
    """A data set whose items know their number."""

    def __init__(self, rows: "_Rows") -> None:
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Callable[[], dict[str, Any]]:
        return partial(_add_place, self.rows[index], index)


def _number(items: "list[dict[str, Any]] | _Rows") -> "list[dict[str, Any]] | _Numbered":
    if isinstance(items, _Rows):
        return _Numbered(items)
    return [{**item, "place": index} for index, item in enumerate(items)]


def _common_name(items: Any) -> str | None:
    """The class name that all photographs have of their own, if it is known before they are read."""
    names: list[Any] = []
    if isinstance(items, _Rows):
        names = list(items.class_names or ())
    elif isinstance(items, (dict, list)):
        names = [item.get("class_name") for item in (items if isinstance(items, list) else [items])]
    return names[0] if names and all(name == names[0] for name in names) else None


def _add_place(read: Callable[[], dict[str, Any]], index: int) -> dict[str, Any]:
    return {**read(), "place": index}


def _as_called(item: Any) -> dict[str, Any]:
    """An item, or what reads it."""
    called: dict[str, Any] = item() if callable(item) else item
    return called


def _read_row(rows: Any, index: int, class_name: str | None) -> dict[str, Any]:
    return _to_item(rows[index], class_name, is_row=True)


def _to_items(images: Any, class_names: Sequence[str] | None) -> Any:
    """Turns the caller's images into what `Pipeline` tells apart: one item, a list, a data set, or a generator."""
    is_dataset = isinstance(images, Dataset) or type(images).__module__.partition(".")[0] == "datasets"
    is_sized = isinstance(images, (list, tuple)) or (
        is_dataset and hasattr(images, "__len__") and not isinstance(images, IterableDataset)
    )
    if class_names is not None and is_sized and len(class_names) != len(images):
        raise ValueError(f"`class_name` has {len(class_names)} names for {len(images)} images.")

    if isinstance(images, (str, os.PathLike)) and os.path.isdir(images):
        photographs = find_photographs(images)
        if class_names is not None and len(class_names) != len(photographs):
            raise ValueError(f"`class_name` has {len(class_names)} names for {len(photographs)} images.")
        return _Rows(photographs, class_names)
    if isinstance(images, (list, tuple)):
        names = [None] * len(images) if class_names is None else class_names
        return [_to_item(image, name) for image, name in zip(images, names, strict=True)]
    if is_dataset and is_sized and not isinstance(images, Mapping):
        return _Rows(images, class_names) if len(images) else []
    if is_dataset and not is_sized or (isinstance(images, Iterator) and not hasattr(images, "read")):
        return _stream(images, class_names, is_row=is_dataset)
    if class_names is not None:
        raise ValueError(f"`class_name` has {len(class_names)} names for one image; give a str, or a list of images.")
    return _to_item(images)


def _stream(images: Iterable[Any], class_names: Sequence[str] | None, is_row: bool) -> Iterator[dict[str, Any]]:
    """Pairs images of an unknown number with their names."""
    if class_names is None:
        yield from (_to_item(image, is_row=is_row) for image in images)
        return
    count = -1
    for count, image in enumerate(images):
        if count >= len(class_names):
            raise ValueError(f"`class_name` has {len(class_names)} names, but there are more images.")
        yield _to_item(image, class_names[count], is_row=is_row)
    if count + 1 < len(class_names):
        raise ValueError(f"`class_name` has {len(class_names)} names for {count + 1} images.")


def _to_item(image: Any, class_name: str | None = None, *, is_row: bool = False) -> dict[str, Any]:
    """Makes `{"image": ..., "class_name": ...}`; a row of a data set may have other columns."""
    if isinstance(image, Mapping):
        if not is_row:
            raise_if_unknown(image, ("class_name", "image", "roi_mask"), "The dictionary of an image")
        if "image" not in image:
            raise ValueError(f"An image's dictionary or row needs the key 'image', got {sorted(map(str, image))}.")
        item = {key: image[key] for key in ("image", "class_name", "roi_mask") if key in image}
    else:
        item = {"image": image}
    if class_name is not None:
        if "class_name" in item:
            raise ValueError(f"Two class names for one image: {item['class_name']!r} and {class_name!r}.")
        item["class_name"] = class_name
    return item


def _as_list(value: Any) -> list[Any]:
    """The library hands on one value bare and a batch as a list."""
    return value if isinstance(value, list) else [value]


__all__ = ["TASK", "ZeroShotAnomalySegmentationPipeline"]
