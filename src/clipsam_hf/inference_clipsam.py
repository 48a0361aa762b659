# SPDX-FileCopyrightText: 2026 The clipsam_hf authors
# SPDX-License-Identifier: Apache-2.0
"""The one way from photographs to maps and scores: read, embed the class name, forward, score, resize.

The pipeline, evaluation, calibration and the recipes call it, so that none of them can differ from the others.
"""

import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from transformers import PreTrainedModel

from .image_loading import view_rgb
from .patches_clipsam import crop_roi, describe_photographs, mix_maps, score_compared
from .processing_clipsam import check_class_name
from .prompts_clipsam import build_sentences
from .refinement_clipsam import resize_map
from .regions_clipsam import relative_threshold
from .result_clipsam import make_thumbnail
from .tiling_clipsam import WHOLE, Box, Tile, join_tiles, plan_tiles


# Tiles of a forward pass on an accelerator; a CPU is no faster with several
_TILES_AT_ONCE = 8


class PreparedImage(NamedTuple):
    """A photograph, ready for the model; the tensors have a batch dimension of 1.

    Args:
        class_name (`str`): What it shows.
        size (`tuple[int, int]`): (height, width) of the photograph as it is displayed, in pixels.
        inputs (`dict[str, torch.Tensor]`): `pixel_values` and, if it is to be refined, `reshaped_input_sizes` and
            `sam_pixel_values`; the latter is missing where `image_embeddings` are known.
        image_embeddings (`tuple` of `torch.Tensor`, *optional*): What the refiner's encoder would make of it.
        place (`int`, *optional*): Its number among the photographs that are compared with each other.
        roi (`torch.Tensor` of shape `(height, width)`, *optional*): bool; where to look in the whole photograph, at
            any size.
        tiles (`Sequence[Tile]`): What is looked at beside the whole, see `plan_tiles`.
        photograph (`torch.Tensor` of shape `(height, width, 3)`, *optional*): uint8, where there are tiles, or where
            it is wanted.
        box ([`Box`]): Of a tile, where it lies in its photograph.
        thumbnail (`bytes`, *optional*): The photograph, small, where it is to be shown.
    """

    class_name: str
    size: tuple[int, int]
    inputs: dict[str, Tensor]
    image_embeddings: tuple[Tensor, ...] | None = None
    place: int | None = None
    roi: Tensor | None = None
    tiles: Sequence[Tile] = ()
    photograph: Tensor | None = None
    box: Box = WHOLE
    thumbnail: bytes | None = None

    @property
    def is_refined(self) -> bool:
        """Whether the refiner is to run."""
        return "reshaped_input_sizes" in self.inputs


class Prediction(NamedTuple):
    """What the model says of a photograph, on the CPU.

    Args:
        size (`tuple[int, int]`): (height, width) of the photograph.
        rough_anomaly_map (`torch.Tensor` of shape `(height, width)`): In CLIP's frame, float32 in [0, 1].
        anomaly_map (`torch.Tensor` of shape `(height, width)`): The final map, likewise.
        rough_score (`float`): The image's score by the rough map, in [0, 1].
        pred_score (`float`): By the final map.
        inside (`torch.Tensor` of shape `(height, width)`, *optional*): bool, of the same frame: the region of
            interest; elsewhere both maps are 0.

    Of a photograph with tiles, the frame is that of all tiles together, and a score is the highest of its parts'.
    """

    size: tuple[int, int]
    rough_anomaly_map: Tensor
    anomaly_map: Tensor
    rough_score: float
    pred_score: float
    inside: Tensor | None = None

    def resized(self, name: str = "anomaly_map", size: tuple[int, int] | None = None) -> np.ndarray:
        """Returns a map at the photograph's own size, or at another one, float32 (height, width).

        Args:
            name (`str`): `"anomaly_map"` or `"rough_anomaly_map"`.
            size (`tuple[int, int]`, *optional*): (height, width).
        """
        resized: np.ndarray = resize_map(getattr(self, name), size or self.size).numpy()
        return resized


class ImagePreparer:
    """Reads photographs and makes the model's inputs of them; it can be sent to other processes.

    Args:
        processor ([`ClipSamProcessor`]): The model's.
    """

    def __init__(self, processor: Any) -> None:
        self.processor = processor

    def __call__(
        self,
        image: Any,
        class_name: str = "object",
        *,
        refine: bool = True,
        timeout: float | None = None,
        image_embeddings: tuple[Tensor, ...] | None = None,
        reshaped_input_sizes: Tensor | None = None,
        place: int | None = None,
        roi: Tensor | None = None,
        tile: str | int | None = None,
        thumbnail: bool = False,
        keep_photograph: bool = False,
    ) -> PreparedImage:
        """Prepares one photograph.

        Args:
            image: Anything that `load_rgb` reads.
            class_name (`str`): What it shows.
            refine (`bool`): Whether the refiner is to run.
            timeout (`float`, *optional*): Seconds to wait for a URL's server.
            image_embeddings (`tuple` of `torch.Tensor`, *optional*): The refiner's embeddings of this photograph, if
                they are known, each (1, ...); with `reshaped_input_sizes`.
            reshaped_input_sizes (`torch.Tensor` of shape `(1, 2)`, *optional*): As the processor gave it with them.
            place (`int`, *optional*): Its number among the photographs that are compared with each other.
            roi (`torch.Tensor` of shape `(height, width)`, *optional*): bool; where to look, at any size, see
                `read_roi`.
            tile (`str` or `int`, *optional*): How a long or huge photograph is cut, see `plan_tiles`; by default it is
                taken whole.
            thumbnail (`bool`): Whether a small copy is kept, see `make_thumbnail`.
            keep_photograph (`bool`): Whether the photograph is kept itself.

        Returns:
            [`PreparedImage`].

        Raises:
            TypeError, ValueError: If there is no usable class name, or the image or `tile` is of an unknown kind.
            ImageReadError, OSError: If the photograph cannot be read.
        """
        name = check_class_name(class_name)
        photograph = view_rgb(image, timeout=timeout)
        is_new = image_embeddings is None
        features = self.processor(images=photograph, return_sam_inputs=refine and is_new, return_tensors="pt")
        inputs = {key: value for key, value in features.items() if key != "original_sizes"}
        if refine and reshaped_input_sizes is not None:
            inputs["reshaped_input_sizes"] = reshaped_input_sizes
        size = (photograph.height, photograph.width)
        prepared = PreparedImage(name, size, inputs, image_embeddings if refine else None, place, roi)
        if thumbnail:
            prepared = prepared._replace(thumbnail=make_thumbnail(photograph))
        side = features["pixel_values"].shape[-1]
        tiles = plan_tiles(size, tile, side)
        if tiles or keep_photograph:
            # A copy: the photograph is the caller's
            prepared = prepared._replace(photograph=torch.from_numpy(np.array(photograph)))
        if tiles:
            return prepared._replace(tiles=tiles)
        return prepared if roi is None else prepared._replace(roi=crop_roi(roi, (side, side)))

    def cut(self, image: PreparedImage, tile: Tile) -> PreparedImage:
        """Prepares a tile of a photograph.

        Args:
            image ([`PreparedImage`]): With the photograph.
            tile ([`Tile`]): One of its tiles.

        Returns:
            [`PreparedImage`].
        """
        assert image.photograph is not None
        pixels = image.photograph[tile.top : tile.bottom, tile.left : tile.right].numpy()
        prepared = self(Image.fromarray(pixels), image.class_name, refine=image.is_refined)
        return prepared._replace(roi=image.roi, box=tile.to_box(image.size))


class ClipSamInference:
    """A model and its processor, ready to predict.

    Args:
        model ([`ClipSamForAnomalySegmentation`]): On its device.
        processor ([`ClipSamProcessor`]): The model's.
        texts (`TextEmbeddingCache`, *optional*): Where text embeddings are kept; by default a new one.

    Example:
        >>> from clipsam_hf import ClipSamForAnomalySegmentation, ClipSamProcessor
        >>> model = ClipSamForAnomalySegmentation.from_pretrained(folder)
        >>> inference = ClipSamInference(model, ClipSamProcessor.from_pretrained(folder))
        >>> (prediction,) = inference.predict([inference.prepare(photograph, "candle")])
        >>> prediction.resized().shape == (photograph.height, photograph.width)
        True
    """

    def __init__(self, model: Any, processor: Any, texts: "TextEmbeddingCache | None" = None) -> None:
        self.model, self.processor = model, processor
        self.prepare = ImagePreparer(processor)
        self.texts = TextEmbeddingCache() if texts is None else texts

    def embed(self, class_name: str) -> Tensor:
        """Embeds a class name, once until words, weights, dtype or device change.

        Args:
            class_name (`str`): What photographs show.

        Returns:
            `torch.Tensor` of shape `(1, 2, projection_dim)`: Order [normal, abnormal], on the model's device.

        Raises:
            TypeError, ValueError: If it is no usable class name.
        """
        processor = self.processor

        @torch.no_grad()
        def encode() -> Tensor:
            inputs = processor(text=class_name, return_tensors="pt").to(self.model.device)
            embeds: Tensor = self.model.get_text_embeddings(inputs["input_ids"], inputs["attention_mask"])
            return embeds

        return self._cached(encode, class_name, processor.normal_states, processor.abnormal_states)

    def embed_states(self, class_name: str, states: Sequence[str]) -> Tensor:
        """Embeds states of a class, such as `"{} with a scratch"`, each in all prompt templates, once likewise.

        Args:
            class_name (`str`): What photographs show.
            states (`Sequence[str]`): Patterns with one `{}` for the class name.

        Returns:
            `torch.Tensor` of shape `(number of states, projection_dim)`: L2-normalised, on the model's device.

        Raises:
            TypeError, ValueError: If it is no usable class name, or a sentence is longer than CLIP reads.
        """
        name, tokenizer, device = check_class_name(class_name), self.processor.tokenizer, self.model.device

        @torch.no_grad()
        def encode() -> Tensor:
            templates = self.processor.prompt_templates
            sentences = build_sentences(name, states, templates)
            tokens = tokenizer(sentences, padding="longest", return_tensors="pt").to(device)
            if tokens["input_ids"].shape[1] > self.model.config.clip_config.text_config.max_position_embeddings:
                raise ValueError(f"A sentence is longer than CLIP reads: {max(sentences, key=len)!r}.")
            shape = (len(states), 1, len(templates), -1)
            # As both classes; repeated sentences cost nothing
            ids, mask = (tokens[key].reshape(shape).repeat(1, 2, 1, 1) for key in ("input_ids", "attention_mask"))
            embeds: Tensor = self.model.get_text_embeddings(ids, mask)[:, 0]
            return embeds

        return self._cached(encode, name, states)

    def _cached(self, encode: Callable[[], Tensor], *words: Any) -> Tensor:
        """Text embeddings of these words, made by `encode` where nobody has."""
        clip = self.model.clip
        text_tower = (*clip.text_model.parameters(), *clip.text_projection.parameters())
        # A write in place counts the version up, a move to another device or dtype changes the address. Only a write
        # through `.data` goes unseen.
        weights = tuple((weight.data_ptr(), _version_of(weight), weight.dtype, weight.device) for weight in text_tower)
        given = tuple(each if isinstance(each, str) else tuple(each) for each in words)
        return self.texts.get(
            self.model, (*given, tuple(self.processor.prompt_templates), weights, self.model.device), encode
        )

    @torch.no_grad()
    def encode(self, images: Sequence[PreparedImage]) -> list[tuple[Tensor, ...]]:
        """Computes the refiner's embeddings of photographs that are to be refined, in one forward pass.

        Args:
            images (`Sequence[PreparedImage]`): Those with embeddings keep them.

        Returns:
            `list[tuple[torch.Tensor, ...]]`: For each photograph, each tensor with a batch dimension of 1.
        """
        new = [image.inputs["sam_pixel_values"] for image in images if image.image_embeddings is None]
        fresh: Iterator[tuple[Tensor, ...]] = iter(())
        if new:
            encoded = self.model.get_image_embeddings(torch.cat(new).to(self.model.device))
            fresh = iter([tuple(each[[index]] for each in encoded) for index in range(len(new))])
        return [next(fresh) if image.image_embeddings is None else image.image_embeddings for image in images]

    @torch.no_grad()
    def predict(self, images: Sequence[PreparedImage], references: Any = None) -> list[Prediction]:
        """Runs the model on a batch of photographs, all of them to be refined, or none.

        Args:
            images (`Sequence[PreparedImage]`): At least one.
            references ([`ClipSamReferences`] or [`MutualReferences`], *optional*): What they are compared with. The
                rough map is then the comparison's, mixed with the localizer's own by `reference_text_weight`, and the
                refined map has the rough one's score: SAM says what shape a defect has, and the thresholds of good
                photographs hold with it and without.

        Returns:
            `list[Prediction]`: One for each.

        Raises:
            ValueError: If the model's head has random weights and is needed.
        """
        wholes = self._predict_alike(images, references)
        return [
            self._add_tiles(image, whole, references) if image.tiles else whole
            for image, whole in zip(images, wholes, strict=True)
        ]

    def _add_tiles(self, image: PreparedImage, whole: Prediction, references: Any) -> Prediction:
        """Looks at a photograph's tiles too."""
        step = 1 if self.model.device.type == "cpu" else _TILES_AT_ONCE
        parts: list[Prediction] = []
        for start in range(0, len(image.tiles), step):
            cut = [self.prepare.cut(image, tile) for tile in image.tiles[start : start + step]]
            parts += self._predict_alike(cut, references)
        rough_map = join_tiles(
            whole.rough_anomaly_map, [each.rough_anomaly_map for each in parts], image.tiles, image.size
        )
        anomaly_map = rough_map
        if image.is_refined:
            anomaly_map = join_tiles(whole.anomaly_map, [each.anomaly_map for each in parts], image.tiles, image.size)
        inside = self._find_inside([image], references, rough_map.shape)
        if inside is not None:
            # The whole's region is coarser than that of the tiles
            rough_map, anomaly_map = rough_map * inside[0], anomaly_map * inside[0]
        rough_score, score = (
            max(getattr(each, name) for each in (whole, *parts)) for name in ("rough_score", "pred_score")
        )
        return Prediction(
            image.size, rough_map, anomaly_map, rough_score, score, None if inside is None else inside[0]
        )

    def _predict_alike(self, images: Sequence[PreparedImage], references: Any) -> list[Prediction]:
        """Predicts photographs or tiles as they are, in one forward pass."""
        inputs = self._collate(images)
        inside = self._find_inside(images, references, inputs["pixel_values"].shape[-2:])
        if inside is not None and len(images) > 1 and self.model.config.region_rule == "relative":
            # Each has its own threshold, what stands out from its region; the rest of a map is 0 and says nothing
            return [each for image in images for each in self._predict_alike([image], references)]
        if references is None and inside is None:
            self.model.check_trained()
            text_embeds = torch.cat([self.embed(image.class_name) for image in images])
            outputs = self.model(**inputs, text_embeds=text_embeds)
            answers = (outputs.rough_anomaly_map, outputs.anomaly_map, outputs.rough_score, outputs.pred_score)
        else:
            answers = self._predict_in_steps(images, inputs, references, inside)
        rough_maps, maps, rough_scores, scores = (answer.float().cpu() for answer in answers)
        insides = [None] * len(images) if inside is None else list(inside)
        return [
            Prediction(image.size, rough_map, final_map, rough_score.item(), score.item(), own)
            for image, rough_map, final_map, rough_score, score, own in zip(
                images, rough_maps, maps, rough_scores, scores, insides, strict=True
            )
        ]

    def _collate(self, images: Sequence[PreparedImage]) -> dict[str, Any]:
        """The inputs of a batch, on the model's device."""
        device = self.model.device
        names = {"pixel_values", "reshaped_input_sizes"} & images[0].inputs.keys()
        inputs: dict[str, Any] = {
            name: torch.cat([image.inputs[name] for image in images]).to(device) for name in sorted(names)
        }
        if images[0].is_refined and any(image.image_embeddings is not None for image in images):
            parts = zip(*self.encode(images), strict=True)
            inputs["image_embeddings"] = tuple(torch.cat([each.to(device) for each in part]) for part in parts)
        elif images[0].is_refined:
            inputs["sam_pixel_values"] = torch.cat([image.inputs["sam_pixel_values"] for image in images]).to(device)
        return inputs

    def _find_inside(self, images: Sequence[PreparedImage], references: Any, size: Sequence[int]) -> Tensor | None:
        """(batch_size, *size), bool, on the CPU: the regions of interest; `None` if there is none."""
        of_references = None if references is None else references.roi_mask
        if of_references is None and all(image.roi is None for image in images):
            return None
        inside = torch.ones(len(images), *size, dtype=torch.bool)
        for image, own in zip(images, inside, strict=True):
            for roi in (image.roi, of_references):
                if roi is not None:
                    own &= crop_roi(roi.cpu(), size, image.box)
            if image.box == WHOLE and not own.any():
                raise ValueError(
                    f"The region of interest holds no pixel of the map of {size[0]} x {size[1]}: it is too small."
                )
        return inside

    def _predict_in_steps(
        self, images: Sequence[PreparedImage], inputs: dict[str, Any], references: Any, inside: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Rough and final maps and their scores, where something comes between the localizer and the refiner."""
        model, pixel_values = self.model, inputs.pop("pixel_values")
        rough_maps = self._localize(images, pixel_values, references)
        threshold = None if references is None else references.region_threshold

        def keep(maps: Tensor) -> Tensor:
            return maps if inside is None else maps * inside.to(maps)

        if inside is not None and threshold is None and model.config.region_rule == "relative":
            # It is one photograph, see `_predict_alike`
            threshold = relative_threshold(rough_maps[0].cpu()[inside[0]][None], model.config.region_deviations)
        rough_maps = maps = keep(rough_maps)
        if images[0].is_refined:
            refined = model.refine(rough_maps, **inputs, binarize_threshold=threshold)
            maps = keep(torch.stack([each.anomaly_map for each in refined]))
        rough_scores = score_compared(model, rough_maps)
        # The thresholds of good photographs hold with the refiner and without
        return rough_maps, maps, rough_scores, rough_scores if references is not None else score_compared(model, maps)

    def _localize(self, images: Sequence[PreparedImage], pixel_values: Tensor, references: Any) -> Tensor:
        """Rough maps, by texts alone or by a comparison with references."""
        model, text_weight = self.model, 1.0 if references is None else references.text_weight
        text_embeds = torch.cat([self.embed(image.class_name) for image in images]) if text_weight > 0 else None
        if references is None:
            model.check_trained()
            rough_maps: Tensor = model(pixel_values=pixel_values, text_embeds=text_embeds).rough_anomaly_map
            return rough_maps
        for image in images:
            if image.box == WHOLE:
                references.check_photograph(image.size, image.class_name)
        patches, text_map = describe_photographs(model, pixel_values, text_embeds)
        compared = references.compare(patches, pixel_values.shape[-2:], [image.place for image in images])
        return mix_maps(compared, text_map, text_weight)


class TextEmbeddingCache:
    """The most recently used text embeddings of one model, computed once even if several threads ask.

    Args:
        max_entries (`int`, defaults to 256): Number of class names that are kept.
    """

    def __init__(self, max_entries: int = 256) -> None:
        self.max_entries = max_entries
        self._entries: OrderedDict[Hashable, Tensor] = OrderedDict()
        self._model: Callable[[], PreTrainedModel | None] = lambda: None
        # It also keeps two threads out of the tokenizer, which lends itself to one at a time
        self._lock = threading.Lock()

    def __reduce__(self) -> tuple[type["TextEmbeddingCache"], tuple[int]]:
        return type(self), (self.max_entries,)  # a copy, in another process perhaps, starts empty

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, model: PreTrainedModel, key: Hashable, compute: Callable[[], Tensor]) -> Tensor:
        """Returns the entry, made by `compute` if it is not there."""
        with self._lock:
            if self._model() is not model:
                # Addresses in the keys may come back for the weights of another model
                self._entries.clear()
                self._model = weakref.ref(model)
            if key not in self._entries:
                self._entries[key] = compute()
                if len(self._entries) > self.max_entries:
                    self._entries.popitem(last=False)
            self._entries.move_to_end(key)
            return self._entries[key]


def _version_of(weight: Tensor) -> int:
    return 0 if weight.is_inference() else weight._version


__all__ = ["ClipSamInference", "ImagePreparer", "Prediction", "PreparedImage", "TextEmbeddingCache"]
