# SPDX-FileCopyrightText: 2026 The clipsam_hf authors
# SPDX-License-Identifier: Apache-2.0
"""Processor of ClipSAM: photographs and class names in, tensors out, and maps back at the photographs' own sizes."""

import difflib
import os
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache, partial
from numbers import Real
from pathlib import Path
from typing import Any, TypeAlias, Unpack

import numpy as np
import torch
import transformers
from huggingface_hub import CommitInfo
from PIL import Image
from transformers import AutoImageProcessor, AutoTokenizer, BatchFeature, PreTrainedConfig, ProcessorMixin
from transformers.dynamic_module_utils import custom_object_save
from transformers.processing_utils import ProcessingKwargs
from transformers.utils import PROCESSOR_NAME, logging

from .image_loading import ImageInput, view_rgb
from .loss_clipsam import IGNORE_INDEX
from .prompts_clipsam import ABNORMAL_STATES, NORMAL_STATES, PROMPT_TEMPLATES, build_sentences
from .publishing_clipsam import PROCESSOR_REFERENCE, PUSH_OPTIONS, push, replace_files, update_json
from .refinement_clipsam import resize_map
from .refiner_clipsam import prepare_photographs, shrink
from .regions_clipsam import describe_regions


logger = logging.get_logger(__name__)

SegmentationMap: TypeAlias = Image.Image | np.ndarray | torch.Tensor

CONTEXT_LENGTH = 77
"""Positions of CLIP's text tower; a tokenizer that knows of fewer is believed."""


class ClipSamProcessorKwargs(ProcessingKwargs, total=False):
    """
    return_sam_inputs (`bool`, *optional*, defaults to `True`):
        Whether to prepare the photograph for SAM too. Without SAM's pixels the model answers with its rough map.
    """

    return_sam_inputs: bool


class ClipSamProcessor(ProcessorMixin):
    """Prepares photographs and class names for [`ClipSamForAnomalySegmentation`], and reads its answer.

    CLIP sees the whole photograph squashed to a square, SAM sees it scaled with its aspect kept and padded. Both are
    resized by Pillow, whether or not torchvision is installed, so that a map does not depend on the machine.

    Args:
        image_processor (`CLIPImageProcessor`): CLIP's, with `size` of `"height"` and `"width"` and no centre crop.
        sam_image_processor (`SamImageProcessor`): SAM's.
        tokenizer (`CLIPTokenizer`): CLIP's.
        normal_states (`Sequence[str]`, *optional*): Patterns such as `"flawless {}"`, `{}` being the class name.
        abnormal_states (`Sequence[str]`, *optional*): Patterns such as `"damaged {}"`.
        prompt_templates (`Sequence[str]`, *optional*): Patterns such as `"a photo of a {}."`, `{}` being the state.

    Raises:
        ValueError: If CLIP's image processor would crop, or a pattern lacks `{}`.
        TypeError: If a part is of another kind, or a pattern is no text.

    Example:
        >>> processor = ClipSamProcessor.from_pretrained(folder)
        >>> inputs = processor(images=photograph, text="candle", return_tensors="pt")
        >>> sorted(inputs)[:4]
        ['attention_mask', 'input_ids', 'original_sizes', 'pixel_values']
    """

    valid_processor_kwargs = ClipSamProcessorKwargs

    # Sentences of one length batch without more ado; the model trims them to the longest real one.
    text_kwargs = {"padding": "max_length", "truncation": True}
    return_sam_inputs = True

    sam_image_processor: Any

    def __init__(
        self,
        image_processor: Any = None,
        sam_image_processor: Any = None,
        tokenizer: Any = None,
        normal_states: Sequence[str] = NORMAL_STATES,
        abnormal_states: Sequence[str] = ABNORMAL_STATES,
        prompt_templates: Sequence[str] = PROMPT_TEMPLATES,
    ) -> None:
        super().__init__(_pin_backend(image_processor), _pin_backend(sam_image_processor), tokenizer)
        _check_squash(self.image_processor.size, self.image_processor.do_center_crop)
        self.normal_states = _check_patterns("normal_states", normal_states)
        self.abnormal_states = _check_patterns("abnormal_states", abnormal_states)
        self.prompt_templates = _check_patterns("prompt_templates", prompt_templates)

    @classmethod
    def from_clip_sam_pretrained(
        cls,
        clip_name_or_path: str | os.PathLike[str],
        sam_name_or_path: str | os.PathLike[str],
        *,
        image_size: int = 518,
        clip_kwargs: Mapping[str, Any] | None = None,
        sam_kwargs: Mapping[str, Any] | None = None,
        **processor_kwargs: Any,
    ) -> "ClipSamProcessor":
        """Takes CLIP's tokenizer and both image processors, and replaces CLIP's centre crop by a squash.

        A centre crop would hide every defect at the border of a photograph that is not square.

        Args:
            clip_name_or_path (`str` or `os.PathLike`): Repository or folder of a CLIP, or of a ClipSAM.
            sam_name_or_path (`str` or `os.PathLike`): Repository or folder of a SAM, or of a ClipSAM.
            image_size (`int`, defaults to 518): Side of CLIP's square in pixels; that of the model's configuration.
            clip_kwargs (`Mapping`, *optional*): For CLIP's `from_pretrained` calls, for example `revision`.
            sam_kwargs (`Mapping`, *optional*): For SAM's.
            processor_kwargs: For the constructor, for example `normal_states`.

        Returns:
            `ClipSamProcessor`: The processor.

        Raises:
            ValueError: If `image_size` is not a positive integer.
        """
        if isinstance(image_size, bool) or not isinstance(image_size, int) or image_size < 1:
            raise ValueError(f"`image_size` must be a positive integer, got {image_size!r}.")
        clip_kwargs, sam_kwargs = dict(clip_kwargs or {}), dict(sam_kwargs or {})
        squash: dict[str, Any] = {
            "do_resize": True,
            "size": {"height": image_size, "width": image_size},
            "resample": Image.Resampling.BICUBIC,
            "do_center_crop": False,
        }
        if _is_clipsam(clip_name_or_path, clip_kwargs):
            whole = cls.from_pretrained(clip_name_or_path, **clip_kwargs)
            tokenizer, found = whole.tokenizer, whole.image_processor
            image_processor = type(found).from_dict({**found.to_dict(), **squash})
        else:
            tokenizer = AutoTokenizer.from_pretrained(clip_name_or_path, **clip_kwargs)
            image_processor = AutoImageProcessor.from_pretrained(
                clip_name_or_path, backend="pil", **squash, **clip_kwargs
            )
        if _is_clipsam(sam_name_or_path, sam_kwargs):
            sam_image_processor = cls.from_pretrained(sam_name_or_path, **sam_kwargs).sam_image_processor
        else:
            sam_image_processor = AutoImageProcessor.from_pretrained(sam_name_or_path, backend="pil", **sam_kwargs)
        return cls(image_processor, sam_image_processor, tokenizer, **processor_kwargs)

    def __call__(
        self,
        images: ImageInput | Sequence[Any] | None = None,
        text: str | Sequence[str] | None = None,
        segmentation_maps: SegmentationMap | Sequence[SegmentationMap] | None = None,
        **kwargs: Unpack[ClipSamProcessorKwargs],
    ) -> BatchFeature:
        """Prepares a batch.

        Args:
            images: One photograph or a list, each anything that `load_rgb` reads. One list per sample, holding one
                photograph or none, is accepted as well, as by the library's other processors.
            text (`str` or `Sequence[str]`, *optional*): What the photographs show: one class name for all of them,
                or one for each.
            segmentation_maps: One map or a list of the defects' masks, each a PIL image or (height, width) of any
                size, a frame of the photograph as it is displayed; a 3-dimensional array is a batch. Everything
                but 0 is a defect, -100 is ignored.
            kwargs: `return_tensors`, `return_sam_inputs`, `text_kwargs` and `images_kwargs` (for CLIP) and what these
                hold, see [`ClipSamProcessorKwargs`].

        Returns:
            `BatchFeature`: For images
            `pixel_values` (batch_size, 3, height, width), `original_sizes` (batch_size, 2) and, unless
            `return_sam_inputs=False`, `sam_pixel_values` (batch_size, 3, side, side) and `reshaped_input_sizes`
            (batch_size, 2), the part of SAM's square that is photograph; sizes are (height, width).
            For text `input_ids` and `attention_mask` (batch_size, 2, num_prompts, sequence_length), order [normal,
            abnormal], where rows without attention fill the shorter class.
            For maps `labels` (batch_size, height, width) in CLIP's frame: 1 is a defect, 0 is none, -100 is ignored.
            They are the nearest pixels, which keep an expected share of the thinnest scratch; a mean would lose it.

        Raises:
            ValueError: If nothing is given, numbers of samples differ, a class name is empty, a keyword would crop.
            TypeError: If a class name is no text, or a keyword is unknown.
            ImageReadError, OSError: If a photograph cannot be read.
        """
        if images is None and text is None and segmentation_maps is None:
            raise ValueError(f"{type(self).__name__} needs at least one of `images`, `text` and `segmentation_maps`.")
        self._check_keywords(kwargs)
        merged: dict[str, Any] = self._merge_kwargs(tokenizer_init_kwargs=self.tokenizer.init_kwargs, **kwargs)
        images_kwargs, text_kwargs = merged["images_kwargs"], merged["text_kwargs"]
        return_tensors = text_kwargs.pop("return_tensors", None) or images_kwargs.get("return_tensors")

        data: dict[str, Any] = {}
        num_samples = None
        if images is not None:
            sources, num_samples = _flatten_images(images)
            photographs = [view_rgb(source) for source in sources]
            data.update(self._process_photographs(photographs, images_kwargs, merged["return_sam_inputs"]))
        if text is not None:
            names = [text] * (num_samples or 1) if isinstance(text, str) else list(text)
            _check_count("text", len(names), num_samples)
            data.update(self._encode_class_names([check_class_name(name) for name in names], text_kwargs))
        if segmentation_maps is not None:
            size = images_kwargs.get("size") or self.image_processor.size
            labels = [_to_labels(each, (size["height"], size["width"])) for each in _listed(segmentation_maps)]
            _check_count("segmentation_maps", len(labels), num_samples)
            data["labels"] = np.stack(labels)
        return BatchFeature(data, tensor_type=return_tensors)

    def save_pretrained(
        self,
        save_directory: str | os.PathLike[str],
        push_to_hub: bool = False,
        *,
        save_code: bool = False,
        **kwargs: Any,
    ) -> list[str]:
        """Saves as the library does, but whole or not at all.

        Args:
            save_directory (`str` or `os.PathLike`): The folder; it is made if there is none.
            push_to_hub (`bool`, defaults to `False`): Whether to call `push_to_hub` afterwards, with `repo_id` (by
                default the folder's name) and the keyword arguments that belong to it.
            save_code (`bool`, defaults to `False`): Whether the folder gets the modules too, so that it loads with
                `trust_remote_code=True` where this package is not installed.
            kwargs: As in `ProcessorMixin.save_pretrained`.

        Returns:
            `list[str]`: The processor's own files.

        Raises:
            NotADirectoryError: If `save_directory` is a file.
        """
        if os.path.isfile(save_directory):
            raise NotADirectoryError(f"A processor is saved to a folder, got the file {os.fspath(save_directory)!r}.")
        repo_id = kwargs.pop("repo_id", Path(save_directory).name)
        push_options = {name: kwargs.pop(name) for name in PUSH_OPTIONS if name in kwargs}
        with replace_files(save_directory) as folder:
            files = super().save_pretrained(folder, **kwargs)
            if save_code:
                custom_object_save(self, folder)
                update_json(folder / PROCESSOR_NAME, {"auto_map": PROCESSOR_REFERENCE})
        if push_to_hub:
            self.push_to_hub(repo_id, **push_options)
        return [os.path.join(save_directory, os.path.relpath(file, folder)) for file in files]

    def push_to_hub(self, repo_id: str, **kwargs: Any) -> CommitInfo:
        """Publishes the processor with its code in one commit.

        Args:
            repo_id (`str`): Name of the repository, `"organisation/name"`; it is made if there is none.
            kwargs: Those of `push`: `card`, `tags`, `private`, `token`, `revision`, `create_pr`, `commit_message`,
                `commit_description`.

        Returns:
            `CommitInfo`: The commit.

        Raises:
            OSError: If the Hub cannot be reached or refuses.
        """
        return push(partial(self.save_pretrained, save_code=True), repo_id, **kwargs)

    @staticmethod
    def get_possibly_dynamic_module(module_name: str) -> Any:
        """Finds a part's class by its name, here the Pillow one where there are two: see `_pin_backend`."""
        pillow_class = getattr(transformers, f"{module_name}Pil", None)
        return pillow_class or ProcessorMixin.get_possibly_dynamic_module(module_name)

    @property
    def model_input_names(self) -> list[str]:
        """Names of the outputs for photographs and text."""
        return [
            "pixel_values",
            "sam_pixel_values",
            "original_sizes",
            "reshaped_input_sizes",
            "input_ids",
            "attention_mask",
        ]

    def post_process_anomaly_segmentation(
        self,
        outputs: Any,
        target_sizes: Sequence[Sequence[int]] | torch.Tensor | None = None,
        threshold: float | None = None,
    ) -> list[dict[str, Any]]:
        """Brings the model's maps to the photographs' sizes and reads masks and regions from them.

        Args:
            outputs (`ClipSamOutput`): The model's, with `anomaly_map` and `pred_score`.
            target_sizes (`(batch_size, 2)`, *optional*): (height, width) of each photograph, such as the processor's
                `original_sizes`; by default the maps keep their size.
            threshold (`float`, *optional*, defaults to 0.5): In [0, 1]; a pixel above it is abnormal. A calibrated
                one is in the model's configuration, `mask_threshold`.

        Returns:
            `list[dict]`: Per image
            `"anomaly_map"`, a float32 tensor (height, width) in [0, 1], bilinear with half-pixel centres;
            `"mask"`, a bool tensor (height, width);
            `"score"`, the image's `pred_score`;
            `"regions"`, the 8-connected parts of the mask by falling score, each `{"box": {"xmin", "ymin", "xmax",
            "ymax"}, "score", "area"}`: pixel edges (`xmax` and `ymax` are exclusive), the mean of the map inside,
            and the number of pixels.

        Raises:
            ValueError: If a size or the threshold is out of range, the numbers differ, or a map is not finite.
        """
        threshold = 0.5 if threshold is None else check_threshold(threshold)
        anomaly_maps = outputs.anomaly_map.detach().float().cpu()
        scores = outputs.pred_score.detach().float().cpu().tolist()
        if not torch.isfinite(anomaly_maps).all():
            raise ValueError("`outputs.anomaly_map` holds NaN or infinite values: check weights and input.")
        if target_sizes is None:
            target_sizes = [tuple(anomaly_maps.shape[-2:])] * len(anomaly_maps)
        if len(target_sizes) != len(anomaly_maps):
            raise ValueError(f"`target_sizes` has {len(target_sizes)} entries for {len(anomaly_maps)} maps.")

        results = []
        for square_map, target_size, score in zip(anomaly_maps, target_sizes, scores, strict=True):
            height, width = (int(side) for side in target_size)
            if min(height, width) < 1:
                raise ValueError(f"`target_sizes` holds {(height, width)}, but (height, width) must be positive.")
            anomaly_map = resize_map(square_map, (height, width))
            mask = anomaly_map > threshold
            regions = describe_regions(anomaly_map.numpy(), mask.numpy())
            results.append({"anomaly_map": anomaly_map, "mask": mask, "score": score, "regions": regions})
        return results

    def _check_keywords(self, kwargs: Mapping[str, Any]) -> None:
        """The library only logs an unknown keyword and goes on without it."""
        known = {"common_kwargs", *getattr(self.image_processor.valid_kwargs, "__annotations__", {})}
        for name, annotation in self.valid_processor_kwargs.__annotations__.items():
            known |= {name, *getattr(annotation, "__annotations__", {})}
        raise_if_unknown(kwargs, known, f"{type(self).__name__}()")

    def _process_photographs(
        self, photographs: list[Image.Image], images_kwargs: dict[str, Any], return_sam_inputs: bool
    ) -> dict[str, Any]:
        """Runs both image processors on RGB images, of which they cannot mistake the axes."""
        size = images_kwargs.get("size") or self.image_processor.size
        do_center_crop = images_kwargs.get("do_center_crop")
        _check_squash(size, self.image_processor.do_center_crop if do_center_crop is None else do_center_crop)

        squashed = photographs
        if images_kwargs.get("do_resize") is not False:
            resample, sides = images_kwargs.get("resample"), (size["height"], size["width"])
            squashed = [shrink(image, sides, self.image_processor, resample) for image in photographs]
        data = {
            "pixel_values": self.image_processor(squashed, **images_kwargs)["pixel_values"],
            "original_sizes": np.array([(image.height, image.width) for image in photographs]),
        }
        if return_sam_inputs:
            tensors = images_kwargs.get("return_tensors")
            data |= prepare_photographs(self.sam_image_processor, photographs, return_tensors=tensors)
        return data

    def _encode_class_names(self, names: list[str], text_kwargs: dict[str, Any]) -> dict[str, np.ndarray]:
        """Tokenizes the sentences of all names at once, those of a repeated name once."""
        max_length = text_kwargs.get("max_length") or min(self.tokenizer.model_max_length, CONTEXT_LENGTH)
        unique_names = list(dict.fromkeys(names))
        for name in unique_names:
            self._check_special_tokens(name)
            self._warn_of_unknown_words(name)
        all_states = (self.normal_states, self.abnormal_states)
        sentences = [
            sentence
            for name in unique_names
            for states in all_states
            for sentence in build_sentences(name, states, self.prompt_templates)
        ]
        text_kwargs = {**text_kwargs, "max_length": max_length, "return_attention_mask": True}
        encoding = self.tokenizer(sentences, **text_kwargs)
        lengths = {len(row) for row in encoding["input_ids"]}
        if len(lengths) > 1:
            raise ValueError(f"`padding` must be 'longest' or 'max_length', got {text_kwargs.get('padding')!r}.")
        self._raise_if_truncated(sentences, encoding, max_length)

        num_normal, num_abnormal = (len(states) * len(self.prompt_templates) for states in all_states)
        num_prompts = max(num_normal, num_abnormal)
        index = [unique_names.index(name) for name in names]
        data = {}
        for key, filler in (("input_ids", self.tokenizer.pad_token_id or 0), ("attention_mask", 0)):
            rows = np.array(encoding[key]).reshape(len(unique_names), num_normal + num_abnormal, -1)
            pairs = np.full((len(unique_names), 2, num_prompts, rows.shape[-1]), filler, dtype=rows.dtype)
            pairs[:, 0, :num_normal] = rows[:, :num_normal]
            pairs[:, 1, :num_abnormal] = rows[:, num_normal:]
            data[key] = pairs[index]  # (batch_size, 2, num_prompts, sequence_length)
        return data

    def _raise_if_truncated(self, sentences: list[str], encoding: Mapping[str, Any], max_length: int) -> None:
        """A cut sentence may have lost the very words that tell damaged from flawless."""
        rows = zip(sentences, encoding["attention_mask"], strict=True)
        longest = max((sentence for sentence, row in rows if sum(row) >= max_length), key=len, default=None)
        if longest is None:
            return
        num_tokens = len(self.tokenizer(longest, truncation=False, verbose=False)["input_ids"])
        if num_tokens > max_length:
            shortened = longest if len(longest) <= 80 else longest[:80] + "..."
            raise ValueError(
                f"{shortened!r} has {num_tokens} tokens, and CLIP reads {max_length}, the end token included: words"
                " after the class name, such as 'with damage', would be lost. Choose a shorter class name."
            )

    def _warn_of_unknown_words(self, class_name: str) -> None:
        """A word that falls into single letters has no part that the text tower ever learned anything about."""
        for word in re.findall(r"[^\W\d_]+", class_name):  # digits are no parts of words: CLIP reads each alone
            parts = self.tokenizer.tokenize(word)
            if len(parts) > 1 and all(len(part.removesuffix("</w>")) == 1 for part in parts):
                _warn_once(
                    f"{word!r} says nothing to this model: no part of the word was in its training texts. A common"
                    " word for the shape or the material may do better."
                )

    def _check_special_tokens(self, class_name: str) -> None:
        """The tokenizer would take a special token for one, and CLIP would read what stands before it alone."""
        for token in self.tokenizer.all_special_tokens:
            if token and token.lower() in class_name.lower():
                raise ValueError(f"A class name must not hold the tokenizer's {token!r}, got {class_name!r}.")


@lru_cache(maxsize=256)
def _warn_once(message: str) -> None:
    """The library's `warning_once` keeps every message for good, and a server may be asked for any number of words."""
    logger.warning(message)


def check_class_name(class_name: Any) -> str:
    """Returns a class name with single spaces, or raises TypeError or ValueError if it is none that can be read."""
    if not isinstance(class_name, str):
        raise TypeError(f"A class name must be a str such as 'candle', got {class_name!r}.")
    name = " ".join(class_name.split())
    if not name:
        raise ValueError(f"A class name must not be empty, got {class_name!r}; 'object' is the general word.")
    if any(unicodedata.category(character) in ("Cc", "Cs") for character in name):
        raise ValueError(f"A class name must not hold control characters, got {class_name!r}.")
    return name


def check_threshold(threshold: Any, name: str = "threshold") -> float:
    """Returns a threshold as a float, or raises TypeError or ValueError if it is none in [0, 1]."""
    if isinstance(threshold, bool) or not isinstance(threshold, Real):
        raise TypeError(f"`{name}` must be a number in [0, 1], got {threshold!r}.")
    value = float(threshold)
    if not 0 <= value <= 1:  # NaN fails too
        raise ValueError(f"`{name}` must lie in [0, 1], got {value}.")
    return value


def raise_if_unknown(names: Iterable[str], known: Iterable[str], owner: str) -> None:
    """Raises TypeError for the first unknown name and suggests the nearest known one."""
    known = sorted(known)
    for name in names:
        if name not in known:
            nearest = difflib.get_close_matches(name, known, n=1, cutoff=0)
            raise TypeError(f"{owner} got an unexpected keyword {name!r}; did you mean {nearest[0]!r}?")


def _is_clipsam(name_or_path: str | os.PathLike[str], kwargs: Mapping[str, Any]) -> bool:
    stored, _ = PreTrainedConfig.get_config_dict(name_or_path, **kwargs)
    return stored.get("model_type") == "clipsam"


def _pin_backend(image_processor: Any) -> Any:
    """Exchanges a torchvision image processor for its Pillow twin: their resized pixels differ a little."""
    if getattr(image_processor, "backend", "pil") != "torchvision":
        return image_processor
    pillow_class = getattr(transformers, f"{type(image_processor).__name__}Pil", None)
    return image_processor if pillow_class is None else pillow_class.from_dict(image_processor.to_dict())


def _check_patterns(name: str, patterns: Any) -> list[str]:
    """Returns prompt words as a list, as JSON will give them back."""
    if isinstance(patterns, str) or not isinstance(patterns, Sequence):
        raise TypeError(f"`{name}` must be a list of patterns such as ['{{}}'], got {patterns!r}.")
    if not all(isinstance(pattern, str) for pattern in patterns):
        raise TypeError(f"`{name}` must hold text only, got {list(patterns)!r}.")
    try:
        build_sentences("object", patterns, ["{}"])
    except ValueError as error:
        raise ValueError(f"`{name}` must be patterns with a '{{}}' each, got {list(patterns)!r}.") from error
    return list(patterns)


def _check_squash(size: Any, do_center_crop: bool | None) -> None:
    """Refuses what would show CLIP another part of the photograph than the frame that its maps are read in."""
    if do_center_crop or not size.get("height") or not size.get("width"):
        raise ValueError(
            "CLIP must see the whole photograph: its image processor needs `do_center_crop=False` and `size` with"
            f" 'height' and 'width', got do_center_crop={do_center_crop} and size={dict(size)}. See"
            " `ClipSamProcessor.from_clip_sam_pretrained`."
        )


def _check_count(name: str, count: int, num_samples: int | None) -> None:
    if num_samples is not None and count != num_samples:
        raise ValueError(f"`{name}` has {count} entries, but there are {num_samples} images.")


def _listed(value: Any) -> list[Any]:
    """Makes a list of one thing or several; an array with one axis more than an image or a map is several."""
    if isinstance(value, (list, tuple)):
        return list(value)
    if isinstance(value, (np.ndarray, torch.Tensor)) and value.ndim == 3:
        return list(value)
    return [value]


def _flatten_images(images: Any) -> tuple[list[Any], int]:
    """Returns all photographs in one list, and the number of samples, of which some may have none."""
    if isinstance(images, (np.ndarray, torch.Tensor)) and images.ndim == 4:
        images = list(images)
    if not isinstance(images, (list, tuple)):
        return [images], 1
    flat = [source for each in images for source in (each if isinstance(each, (list, tuple)) else [each])]
    if not flat:
        raise ValueError("`images` is empty.")
    return flat, len(images)


def _to_labels(segmentation_map: Any, size: tuple[int, int]) -> np.ndarray:
    """Brings one mask to CLIP's frame as 0, 1 and -100."""
    if isinstance(segmentation_map, Image.Image):
        has_colours = segmentation_map.mode not in ("1", "L", "P", "F") and not segmentation_map.mode.startswith("I")
        values: np.ndarray = np.asarray(segmentation_map.convert("RGB") if has_colours else segmentation_map)
        values = np.asarray(values.any(axis=-1)) if has_colours else values
    elif isinstance(segmentation_map, torch.Tensor):
        values = segmentation_map.detach().cpu().numpy()
    elif isinstance(segmentation_map, np.ndarray):
        values = segmentation_map
    else:
        kind = type(segmentation_map).__name__
        raise TypeError(f"A segmentation map must be a PIL image, an array or a tensor, got {kind}.")
    if values.ndim != 2 or values.size == 0:
        raise ValueError(f"A segmentation map must be (height, width), got shape {values.shape}.")
    ignored = values == IGNORE_INDEX
    if not np.isfinite(values).all() or (values[~ignored] < 0).any():
        raise ValueError(f"A segmentation map must hold numbers >= 0, or {IGNORE_INDEX} for pixels to ignore.")

    # The nearest pixel by half-pixel centres, as Pillow takes it
    rows, columns = (
        ((np.arange(target) + 0.5) * source / target).astype(int)
        for target, source in zip(size, values.shape, strict=True)
    )
    labels = np.where(ignored, IGNORE_INDEX, values != 0)
    return labels[rows[:, None], columns].astype(np.int64)  # (height, width)


__all__ = ["ClipSamProcessor", "ClipSamProcessorKwargs"]
