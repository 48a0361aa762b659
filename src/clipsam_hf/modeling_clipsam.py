# SPDX-FileCopyrightText: 2026 The clipsam_hf authors
# SPDX-License-Identifier: Apache-2.0
"""ClipSAM: CLIP localises an anomaly (UMCI), the location prompts SAM, SAM's masks refine the map (MMR).

An independent implementation of Li et al., "ClipSAM: CLIP and SAM collaboration for zero-shot anomaly segmentation"
(arXiv 2401.12665); the authors published no code. `docs/method.md` says which parts are the paper's and which ours.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import partial
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import CLIPModel, PreTrainedModel
from transformers import initialization as init
from transformers.utils import logging
from transformers.utils.generic import ModelOutput, can_return_tuple

from .checkpoint_clipsam import ClipSamCheckpointModel, find_origin, find_training_set, is_of_head, load_backbone
from .configuration_clipsam import ClipSamConfig
from .localizer_clipsam import LOCALIZERS
from .loss_clipsam import anomaly_segmentation_loss
from .novelty_clipsam import measure_novelty
from .patches_clipsam import Scale, mix_maps
from .refinement_clipsam import Refinement, RefinementOptions, refine_map, score_map
from .refiner_clipsam import find_refiner


logger = logging.get_logger(__name__)


@dataclass
class ClipSamOutput(ModelOutput):
    """Output of [`ClipSamForAnomalySegmentation`].

    The maps are in CLIP's square frame. The fields from `pred_masks` to `input_points` are there only if SAM's pixels
    or embeddings were given; they hold one tensor per image, since images differ in their number of regions (maybe 0).

    Args:
        loss (`torch.Tensor` of shape `(1,)`, *optional*): Focal plus dice, if `labels` are given.
        logits (`torch.Tensor` of shape `(batch_size, num_stages, 2, height, width)`): Per stage, on CLIP's token
            grid, order [normal, abnormal].
        rough_anomaly_map (`torch.Tensor` of shape `(batch_size, height, width)`): CLIP's map at the size of
            `pixel_values`, float32 in [0, 1].
        anomaly_map (`torch.Tensor` of shape `(batch_size, height, width)`): The final map, float32 in [0, 1]: refined
            by SAM if SAM's pixels were given, else equal to `rough_anomaly_map`.
        pred_score (`torch.Tensor` of shape `(batch_size,)`): The image's score by the final map, in [0, 1].
            `None` only where a loss is computed of cached features and the score is one by text.
        rough_score (`torch.Tensor` of shape `(batch_size,)`): The image's score by the rough map, in [0, 1].
        pred_masks (`tuple` of `torch.Tensor` of shape `(num_regions, num_masks, height, width)`): The refiner's
            low-resolution mask logits, over its padded square.
        iou_scores (`tuple` of `torch.Tensor` of shape `(num_regions, num_masks)`): SAM's own estimate of each mask.
        input_boxes (`tuple` of `torch.Tensor` of shape `(num_regions, 4)`): Box prompts, XYXY in SAM's frame.
        input_points (`tuple` of `torch.Tensor` of shape `(num_regions, num_points, 2)`): Point prompts, XY in SAM's
            frame.
        text_embeds (`torch.Tensor` of shape `(batch_size, 2, projection_dim)`): The two class embeddings used.
        hidden_states (`tuple` of `torch.Tensor` of shape `(batch_size, sequence_length, hidden_size)`): CLIP's vision
            tower, if asked for.
        attentions (`tuple` of `torch.Tensor`): Attention weights of CLIP's vision tower, if asked for.
    """

    loss: Tensor | None = None
    logits: Tensor | None = None
    rough_anomaly_map: Tensor | None = None
    anomaly_map: Tensor | None = None
    pred_score: Tensor | None = None
    rough_score: Tensor | None = None
    pred_masks: tuple[Tensor, ...] | None = None
    iou_scores: tuple[Tensor, ...] | None = None
    input_boxes: tuple[Tensor, ...] | None = None
    input_points: tuple[Tensor, ...] | None = None
    text_embeds: Tensor | None = None
    hidden_states: tuple[Tensor | None, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None


class ClipSamPreTrainedModel(ClipSamCheckpointModel):
    """Base class: weights' initialisation and what the library must know to load, place and convert the model."""

    config: ClipSamConfig
    config_class = ClipSamConfig
    base_model_prefix = "clipsam"
    main_input_name = "pixel_values"
    input_modalities = ["image", "text"]
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _no_split_modules = ["ClipSamUmci"]
    # The head is small and its softmax over two texts sensitive: it stays in float32 beside half-precision backbones.
    _keep_in_fp32_modules_strict = ["umci"]
    # The library wants no name in both; this is where its quantizers look for what they leave alone
    _keep_in_fp32_modules = [r"umci\.\d+"]

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """Initialises UMCI, scaled by the fan-in; CLIP and SAM initialise themselves."""
        if isinstance(module, nn.Linear | nn.Conv2d):
            init.kaiming_normal_(module.weight, nonlinearity="linear")
            if module.bias is not None:
                init.zeros_(module.bias)


class ClipSamForAnomalySegmentation(ClipSamPreTrainedModel):
    """Zero-shot anomaly segmentation with CLIP and SAM.

    Args:
        config ([`ClipSamConfig`]): The configuration. A model made from it has random weights; see
            [`~ClipSamForAnomalySegmentation.from_clip_sam_pretrained`] and `from_pretrained`.

    Example:
        >>> from transformers import CLIPConfig, SamConfig
        >>> with torch.device("meta"):
        ...     model = ClipSamForAnomalySegmentation(ClipSamConfig())
        >>> sum(parameter.numel() for parameter in model.umci.parameters())
        18114568
    """

    def __init__(self, config: ClipSamConfig) -> None:
        super().__init__(config)
        config.check_fields()
        self.localizer = LOCALIZERS[config.localizer](config)
        self.refiner = find_refiner(config.sam_config.model_type)(config.sam_config)
        self.clip = CLIPModel._from_config(config.clip_config)
        self.sam = self.refiner.model_class._from_config(config.sam_config)
        head = self.localizer.build_head()
        if head is not None:
            setattr(self, self.localizer.head_name, head)
        self._keys_to_ignore_on_load_unexpected = self.localizer.foreign_keys
        self._freeze()
        self.post_init()
        self._head_is_trained = head is None
        self._updates_at_first_loss: tuple[int, ...] | None = None

    @classmethod
    def from_clip_sam_pretrained(
        cls,
        clip_name_or_path: str | os.PathLike,
        sam_name_or_path: str | os.PathLike,
        *,
        localizer: Literal["umci", "vv", "windows", "similarity"] = "vv",
        clip_kwargs: dict[str, Any] | None = None,
        sam_kwargs: dict[str, Any] | None = None,
        **config_kwargs: Any,
    ) -> "ClipSamForAnomalySegmentation":
        """Puts a pretrained CLIP and a pretrained SAM together.

        With `"umci"` the head is new and must be trained; all other localizers can be used at once, and prompt SAM by
        what stands out (`region_rule="relative"`), since nobody has calibrated a threshold for them. Fields that
        depend on the backbones follow them unless given: four stages at the quarters of CLIP's depth, the multiple of
        CLIP's patch size that is nearest to 518 as input size, and where the backbones come from.

        Args:
            clip_name_or_path: Repository name or folder of a CLIP, or of a ClipSAM, whose CLIP is taken.
            sam_name_or_path: The same of a SAM, of any kind in `REFINERS`.
            localizer: One of `LOCALIZERS`; [`ClipSamConfig`] says what they are, and which one is known to fail.
            clip_kwargs: Keyword arguments of `CLIPModel.from_pretrained`, for example `revision` or `dtype`.
            sam_kwargs: The same of SAM's class.
            config_kwargs: Fields of [`ClipSamConfig`].

        Returns:
            The model in evaluation mode.

        Raises:
            ValueError: If a checkpoint lacks a tensor, or the configuration contradicts itself.
            OSError: If there is no such checkpoint.

        Example:
            ```python
            model = ClipSamForAnomalySegmentation.from_clip_sam_pretrained(
                "openai/clip-vit-large-patch14-336", "facebook/sam-vit-huge"
            )
            ```
        """
        backbones = []
        for part, name_or_path, kwargs in (
            ("clip", clip_name_or_path, dict(clip_kwargs or {})),
            ("sam", sam_name_or_path, dict(sam_kwargs or {})),
        ):
            origin, commit = find_origin(name_or_path, kwargs)
            config_kwargs.setdefault(f"{part}_name_or_path", origin)
            config_kwargs.setdefault(f"{part}_revision", commit)
            kwargs["revision"] = commit or kwargs.get("revision") or "main"
            if part == "clip":
                config_kwargs.setdefault("auxiliary_dataset", find_training_set(name_or_path, kwargs))
            backbones.append(load_backbone(part, name_or_path, kwargs))
        clip, sam = backbones

        depth, patch_size = clip.config.vision_config.num_hidden_layers, clip.config.vision_config.patch_size
        quarters = sorted({max(1, round(depth * quarter / 4)) for quarter in (1, 2, 3, 4)})
        config_kwargs.setdefault("feature_layers", quarters)
        config_kwargs.setdefault("image_size", max(1, round(518 / patch_size)) * patch_size)
        if localizer in LOCALIZERS and LOCALIZERS[localizer].head_name is None:
            config_kwargs.setdefault("region_rule", "relative")
        # A composite configuration resets its parts' attention, which their loading has chosen.
        attention = {
            "clip_config": clip.config._attn_implementation,
            "sam_config": sam.config._attn_implementation,
        }
        # The objects, not dictionaries: the sub-models and the configuration must go on sharing them.
        config = ClipSamConfig(clip_config=clip.config, sam_config=sam.config, localizer=localizer, **config_kwargs)

        with torch.device("meta"):
            skeleton = cls._from_config(config, attn_implementation=attention)
        model = skeleton._adopt_backbones(clip, sam)
        if model.localizer.caution is not None:
            logger.warning(model.localizer.caution)
        return model.eval()

    def _adopt_backbones(self, clip: CLIPModel, sam: PreTrainedModel) -> "ClipSamForAnomalySegmentation":
        """Replaces the meta backbones of a skeleton by loaded ones and gives the head real, initialised weights."""
        self.clip, self.sam = clip, sam
        self._freeze()
        head = self._head
        if head is not None:
            head.to_empty(device=clip.device).float()
            head.apply(self._init_weights)
        return self

    @property
    def _head(self) -> nn.Module | None:
        """The trained part of the localizer, if it has one."""
        return None if self.localizer.head_name is None else getattr(self, self.localizer.head_name)

    def _count_head_updates(self) -> tuple[int, ...]:
        head = self._head
        return () if head is None else tuple(parameter._version for parameter in head.parameters())

    @property
    def head_is_trained(self) -> bool:
        """Whether the model may predict: the localizer has no head, or its weights come from a checkpoint, or a loss
        of them was differentiated here and they have changed since. Set it to True after setting weights by hand."""
        if self._head_is_trained or self._updates_at_first_loss is None:
            return self._head_is_trained
        return self._count_head_updates() != self._updates_at_first_loss

    @head_is_trained.setter
    def head_is_trained(self, value: bool) -> None:
        self._head_is_trained, self._updates_at_first_loss = value, None

    def check_trained(self) -> None:
        """Raises where the model's answer would be noise.

        Raises:
            ValueError: If the localizer's head has random weights.
        """
        if not self.head_is_trained:
            raise ValueError(
                "The UMCI head of this model has random weights, so its answer would be noise: load a trained"
                " checkpoint, train the head, or take `localizer='vv'`, which needs no training."
            )

    def _notice_loss(self, loss: Tensor) -> None:
        """Remembers the head's first weights of which a loss is differentiated: training is what changes them."""
        if not self._head_is_trained and self._updates_at_first_loss is None and loss.requires_grad:
            self._updates_at_first_loss = self._count_head_updates()

    def load_state_dict(self, state_dict: Mapping[str, Any], *args: Any, **kwargs: Any) -> Any:
        """Loads as any module does; a head that is loaded whole counts as trained."""
        loaded = super().load_state_dict(state_dict, *args, **kwargs)
        if not any(is_of_head(self, name) for name in loaded.missing_keys):
            self.head_is_trained = True
        return loaded

    def __getstate__(self) -> dict[str, Any]:
        # A copy's parameters count their updates from 0 again
        return {**self.__dict__, "_head_is_trained": self.head_is_trained, "_updates_at_first_loss": None}

    def get_input_embeddings(self) -> nn.Module:
        return self.clip.text_model.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.clip.text_model.set_input_embeddings(value)

    def train(self, mode: bool = True) -> "ClipSamForAnomalySegmentation":
        """Sets the mode of what is trained; what is frozen stays in evaluation mode."""
        super().train(mode)
        self.sam.eval()
        if self.config.freeze_backbones:
            self.clip.eval()
        return self

    def _freeze(self) -> None:
        """SAM is never trained: it is the official one, unmodified [S], and MMR runs without gradient.

        Of CLIP only what a loss reaches is trained: with several processes, a parameter without gradient is an error.
        """
        self.sam.requires_grad_(False)
        self.clip.requires_grad_(False)
        if not self.config.freeze_backbones:
            for part in self.localizer.used_parts(self.clip):
                part.requires_grad_(True)

    def _backbone_grad(self) -> torch.autograd.grad_mode.set_grad_enabled:
        return torch.set_grad_enabled(torch.is_grad_enabled() and not self.config.freeze_backbones)

    def get_text_embeddings(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Encodes the sentences of the two classes and averages them (prompt ensemble).

        Each sentence's embedding is L2-normalised, a class is the mean of its sentences, L2-normalised again. Repeated
        sentences are encoded once, and the padding that is common to all of them is cut off (CLIP's text tower is
        causal and pools at the end token, so that padding cannot matter).

        Args:
            input_ids: (batch_size, 2, sequence_length) or (batch_size, 2, num_prompts, sequence_length), order
                [normal, abnormal], padded on the right.
            attention_mask: Same shape, 1 = token, 0 = padding; a row of zeros is a filler and not a sentence.

        Returns:
            (batch_size, 2, projection_dim), L2-normalised.

        Raises:
            ValueError: If the shapes are others, or a class has no sentence.
        """
        if input_ids.dim() == 3:
            input_ids = input_ids[:, :, None]
            attention_mask = attention_mask[:, :, None] if attention_mask is not None else None
        if input_ids.dim() != 4 or input_ids.shape[1] != 2:
            raise ValueError(
                "`input_ids` must be (batch_size, 2, sequence_length) or (batch_size, 2, num_prompts,"
                f" sequence_length), but got {tuple(input_ids.shape)}."
            )
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        if mask.shape != input_ids.shape:
            raise ValueError(
                f"`attention_mask` {tuple(mask.shape)} must have the shape of `input_ids` {tuple(input_ids.shape)}."
            )
        is_sentence = mask.any(dim=-1)  # (batch, 2, num_prompts)
        if not bool(is_sentence.any(dim=-1).all()):
            raise ValueError("Every class needs at least one sentence, but `attention_mask` is all 0 for one.")

        # Encode each different sentence once, without the common padding
        length = int(mask.flatten(0, 2).any(dim=0).nonzero().max()) + 1
        sentences, place = torch.unique(input_ids[is_sentence][:, :length], dim=0, return_inverse=True)
        with self._backbone_grad():
            embeds = self.clip.text_projection(self.clip.text_model(input_ids=sentences).pooler_output)
        embeds = F.normalize(embeds.float(), dim=-1)  # (num_sentences, projection_dim)

        # Average per class
        per_prompt = embeds.new_zeros(*is_sentence.shape, embeds.shape[-1])  # (batch, 2, num_prompts, projection_dim)
        per_prompt[is_sentence] = embeds[place]
        means = per_prompt.sum(dim=2) / is_sentence.sum(dim=2, keepdim=True)
        return F.normalize(means, dim=-1)

    def get_feature_maps(self, pixel_values: Tensor) -> tuple[Tensor, ...]:
        """Computes the localizer's features, which depend on the image alone and can be cached.

        Args:
            pixel_values: (batch_size, 3, height, width), any size of at least one patch.

        Returns:
            Per stage (batch_size, hidden_size, height / patch_size, width / patch_size), sizes rounded down.
        """
        return self._take_features(pixel_values, None)[0]

    def get_image_embeddings(self, sam_pixel_values: Tensor) -> tuple[Tensor, ...]:
        """Computes the refiner's image embeddings, the part of the refinement that can be cached.

        Args:
            sam_pixel_values: (batch_size, 3, size, size), padded to the refiner's square.

        Returns:
            One or more tensors (batch_size, ...): SAM's is (batch_size, output_channels, size / patch_size, size /
            patch_size), SAM-HQ has the first global block's output beside it.
        """
        return self.refiner.encode(self.sam, sam_pixel_values)

    def _take_features(
        self, pixel_values: Tensor | None, feature_maps: tuple[Tensor, ...] | None, **wanted: bool
    ) -> tuple[tuple[Tensor, ...], Any, torch.Size]:
        """Features, what CLIP's vision tower answered, and (height, width) of CLIP's pixels: of whichever is given."""
        if feature_maps is None and pixel_values is not None:
            with self._backbone_grad():
                return *self.localizer.encode(self.clip, pixel_values, **wanted), pixel_values.shape[-2:]
        if feature_maps is not None and pixel_values is None:
            patch_size = self.config.clip_config.vision_config.patch_size
            return feature_maps, None, torch.Size(patch_size * side for side in feature_maps[0].shape[-2:])
        raise ValueError("Give either `pixel_values` or `feature_maps`: the images, or CLIP's stages of them.")

    def _localize(self, feature_maps: tuple[Tensor, ...], text_embeds: Tensor) -> Tensor:
        """Logits of all stages: (batch_size, num_stages, 2, height, width), float32."""
        return self.localizer.read(self.clip, self._head, feature_maps, text_embeds)

    def make_rough_map(self, logits: Tensor, feature_maps: tuple[Tensor, ...], size: torch.Size) -> Tensor:
        """Makes the rough map: what the texts say, and by `novelty_weight` what stands out in its own photograph.

        Args:
            logits: (batch_size, num_stages, 2, height, width), of the localizer.
            feature_maps: What `get_feature_maps` gives.
            size: (height, width) of CLIP's pixels.

        Returns:
            (batch_size, *size), float32 in [0, 1].
        """
        text_map, weight = self.localizer.to_map(logits, size), self.config.novelty_weight
        if weight == 0:
            return text_map
        with torch.no_grad():
            novelty = measure_novelty(feature_maps)
            novelty_map = Scale(*self.config.novelty_scale).to_map(novelty, size, self.config.reference_deviations)
        return mix_maps(novelty_map, text_map, 1 - weight)

    @torch.no_grad()
    def add_mirror_image(self, rough_map: Tensor, pixel_values: Tensor, text_embeds: Tensor) -> Tensor:
        """Averages a rough map with that of the mirror image, if `flip_average` says so.

        Args:
            rough_map: (batch_size, height, width), in [0, 1].
            pixel_values: (batch_size, 3, height, width), what it is the map of.
            text_embeds: (batch_size, 2, projection_dim).

        Returns:
            (batch_size, height, width), float32 in [0, 1].
        """
        if not self.config.flip_average:
            return rough_map
        feature_maps = self.localizer.encode(self.clip, pixel_values.flip(-1)).feature_maps
        logits = self._localize(feature_maps, text_embeds)
        return (rough_map + self.make_rough_map(logits, feature_maps, pixel_values.shape[-2:]).flip(-1)) / 2

    @torch.no_grad()
    def refine(
        self,
        rough_anomaly_map: Tensor,
        *,
        sam_pixel_values: Tensor | None = None,
        image_embeddings: tuple[Tensor, ...] | None = None,
        reshaped_input_sizes: Tensor | None = None,
        binarize_threshold: float | None = None,
    ) -> list[Refinement]:
        """Refines rough maps (MMR), image by image, since they differ in their number of prompts.

        Args:
            rough_anomaly_map: (batch_size, height, width), in [0, 1].
            sam_pixel_values: As in `forward`.
            image_embeddings: As in `forward`, instead of `sam_pixel_values`.
            reshaped_input_sizes: As in `forward`.
            binarize_threshold: In [0, 1]; regions above it prompt SAM, whatever the configuration's `region_rule`.

        Returns:
            One [`Refinement`] for each image.

        Raises:
            ValueError: If an input is missing or given twice, or the threshold is out of range.
        """
        if reshaped_input_sizes is None:
            raise ValueError("SAM's pixels need `reshaped_input_sizes`: the photograph's size inside the padding.")
        names = [each.name for each in fields(RefinementOptions)]
        options = RefinementOptions(**{name: getattr(self.config, name) for name in names})
        if binarize_threshold is not None:
            if not 0.0 <= binarize_threshold <= 1.0:
                raise ValueError(f"`binarize_threshold` must lie in [0, 1], got {binarize_threshold}.")
            options = replace(options, region_rule="fixed", binarize_threshold=binarize_threshold)
        rough_maps = rough_anomaly_map.detach()
        regions = [options.find_regions(rough) for rough in rough_maps.cpu().numpy()]
        prompted = [index for index, found in enumerate(regions) if found]
        embeddings = self._encode_prompted(prompted, sam_pixel_values, image_embeddings)

        refinements = []
        for index, found in enumerate(regions):
            decode = partial(
                self.refiner.decode,
                self.sam,
                embeddings.get(index, ()),
                multimask_output=self.config.multimask_output,
                chunk=self.config.prompt_batch_size,
            )
            frame = self.refiner.frame(reshaped_input_sizes[index].tolist())
            refinements.append(refine_map(rough_maps[index], found, frame, decode, options))
        return refinements

    def _encode_prompted(
        self, prompted: list[int], sam_pixel_values: Tensor | None, image_embeddings: tuple[Tensor, ...] | None
    ) -> dict[int, tuple[Tensor, ...]]:
        """The refiner's embeddings, each (1, ...), of the images that have something to refine."""
        if image_embeddings is not None and sam_pixel_values is None:
            if isinstance(image_embeddings, Tensor):
                raise TypeError("`image_embeddings` must be a tuple of tensors, as `get_image_embeddings` gives it.")
            chosen = tuple(each[prompted] for each in image_embeddings)
        elif sam_pixel_values is not None and image_embeddings is None:
            chosen = self.get_image_embeddings(sam_pixel_values[prompted]) if prompted else ()
        else:
            raise ValueError("Give either `sam_pixel_values` or `image_embeddings`, not both.")
        return {index: tuple(each[[place]] for each in chosen) for place, index in enumerate(prompted)}

    def score(self, anomaly_map: Tensor, text_embeds: Tensor | None = None, vision_outputs: Any = None) -> Tensor:
        """Scores images by `config.image_score`.

        Args:
            anomaly_map: (batch_size, height, width), in [0, 1].
            text_embeds: (batch_size, 2, projection_dim), needed by `"text"` alone.
            vision_outputs: What CLIP's vision tower answered, needed by `"text"` alone.

        Returns:
            (batch_size,), in [0, 1].

        Raises:
            ValueError: If `"text"` lacks what it needs.
        """
        if self.config.image_score == "top_fraction":
            return score_map(anomaly_map, top_fraction=self.config.score_top_fraction)
        if self.config.image_score == "max":
            return anomaly_map.flatten(1).amax(dim=1)
        if vision_outputs is None or text_embeds is None:
            raise ValueError("`image_score='text'` needs `pixel_values`; cached `feature_maps` lack the class token.")
        image_embeds = F.normalize(self.clip.visual_projection(vision_outputs.pooler_output).float(), dim=-1)
        logits = self.clip.logit_scale.float().exp() * torch.einsum("bc,bkc->bk", image_embeds, text_embeds.float())
        return logits.softmax(dim=-1)[:, 1]

    @can_return_tuple
    def forward(
        self,
        pixel_values: Tensor | None = None,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        text_embeds: Tensor | None = None,
        sam_pixel_values: Tensor | None = None,
        reshaped_input_sizes: Tensor | None = None,
        labels: Tensor | None = None,
        *,
        original_sizes: Tensor | None = None,
        feature_maps: tuple[Tensor, ...] | None = None,
        image_embeddings: tuple[Tensor, ...] | None = None,
        output_hidden_states: bool | int | list[int] | None = None,
        output_attentions: bool | None = None,
    ) -> ClipSamOutput:
        """Marks the anomalous pixels of a batch of images.

        Args:
            pixel_values: (batch_size, 3, height, width), CLIP's squashed square.
            input_ids: (batch_size, 2, sequence_length) or (batch_size, 2, num_prompts, sequence_length), sentences of
                the classes [normal, abnormal].
            attention_mask: As `input_ids`; rows of zeros are fillers.
            text_embeds: (batch_size or 1, 2, projection_dim), instead of `input_ids`: from `get_text_embeddings`.
            sam_pixel_values: (batch_size, 3, size, size), padded to SAM's square. The refiner runs if given.
            reshaped_input_sizes: (batch_size, 2), (height, width) of the real content in `sam_pixel_values`.
            labels: (batch_size, any height, any width), 1 = defect, 0 = good, -100 = ignore.
            original_sizes: Not used; taken so that `model(**processor(...))` works.
            feature_maps: What `get_feature_maps` gives, instead of `pixel_values`; without the mirror image.
            image_embeddings: What `get_image_embeddings` gives, instead of `sam_pixel_values`.
            output_hidden_states: Whether to return CLIP's vision states: all, or those of the given layers.
            output_attentions: Whether to return CLIP's vision attention weights (eager attention only).

        Returns:
            [`ClipSamOutput`], or a tuple of its fields that are set with `return_dict=False`.

        Raises:
            ValueError: If an input is missing or given twice, or shapes do not fit.
        """
        if output_hidden_states is None:
            output_hidden_states = self.config.output_hidden_states
        if output_attentions is None:
            output_attentions = self.config.output_attentions

        # 1. The two texts
        if text_embeds is None and input_ids is not None:
            text_embeds = self.get_text_embeddings(input_ids, attention_mask)
        elif text_embeds is None or input_ids is not None:
            raise ValueError("Give either `input_ids` or `text_embeds`: the sentences, or their embeddings.")

        # 2. The localizer's features
        wanted = {"whole": output_hidden_states not in (None, []) and output_hidden_states is not False}
        wanted["output_attentions"] = bool(output_attentions)
        feature_maps, vision_outputs, size = self._take_features(pixel_values, feature_maps, **wanted)
        text_embeds = text_embeds.to(feature_maps[0].device).expand(feature_maps[0].shape[0], -1, -1)

        # 3. Where is it? The localizer
        logits = self._localize(feature_maps, text_embeds)  # (batch, num_stages, 2, grid_height, grid_width)
        rough_anomaly_map = self.make_rough_map(logits, feature_maps, size)  # (batch, height, width)
        if pixel_values is not None and not self.training:
            rough_anomaly_map = self.add_mirror_image(rough_anomaly_map, pixel_values, text_embeds)

        # 4. What is its exact shape? MMR with the refiner
        anomaly_map, refinement = rough_anomaly_map, dict[str, Any]()
        if sam_pixel_values is not None or image_embeddings is not None:
            refinements = self.refine(
                rough_anomaly_map,
                sam_pixel_values=sam_pixel_values,
                image_embeddings=image_embeddings,
                reshaped_input_sizes=reshaped_input_sizes,
            )
            anomaly_map = torch.stack([each.anomaly_map for each in refinements])  # (batch, height, width)
            refinement = _collect(refinements)

        # 5. Loss
        loss = None
        if labels is not None:
            loss = anomaly_segmentation_loss(
                logits,
                labels,
                stage_weights=self.localizer.stage_loss_weights,
                focal_gamma=self.config.focal_gamma,
                resolution=self.config.loss_resolution,
            )
            self._notice_loss(loss)

        # 6. Scores; a loss of cached features is asked for without the class token that one by text needs
        rough_score = pred_score = None
        if loss is None or vision_outputs is not None or self.config.image_score != "text":
            rough_score = pred_score = self.score(rough_anomaly_map, text_embeds, vision_outputs)
            if anomaly_map is not rough_anomaly_map:
                pred_score = self.score(anomaly_map, text_embeds, vision_outputs)
        return ClipSamOutput(
            loss=loss,
            logits=logits,
            rough_anomaly_map=rough_anomaly_map,
            anomaly_map=anomaly_map,
            pred_score=pred_score,
            rough_score=rough_score,
            text_embeds=text_embeds,
            hidden_states=_select_states(vision_outputs, output_hidden_states),
            attentions=vision_outputs.attentions if vision_outputs is not None and output_attentions else None,
            **refinement,
        )


def _collect(refinements: Sequence[Refinement]) -> dict[str, tuple[Tensor, ...] | None]:
    """The prompts and masks of all images as fields of the output; a kind of prompt that no image has is None."""
    columns: dict[str, list[Any]] = {
        "pred_masks": [each.mask_logits for each in refinements],
        "iou_scores": [each.iou_scores for each in refinements],
        "input_boxes": [each.prompts.input_boxes for each in refinements],
        "input_points": [each.prompts.input_points for each in refinements],
    }
    return {name: None if values[0] is None else tuple(values) for name, values in columns.items()}


def _select_states(vision_outputs: Any, wanted: bool | int | list[int] | None) -> tuple[Tensor | None, ...] | None:
    """The states that the caller asked for; as in the library, those that a list leaves out are None."""
    if vision_outputs is None or wanted is None or wanted is False:
        return None
    states = vision_outputs.hidden_states
    if wanted is True:
        return states
    layers = {layer % len(states) for layer in ([wanted] if isinstance(wanted, int) else wanted)}
    return tuple(state if layer in layers else None for layer, state in enumerate(states))


__all__ = ["ClipSamForAnomalySegmentation", "ClipSamOutput", "ClipSamPreTrainedModel"]
