# SPDX-FileCopyrightText: 2026 The clipsam_hf authors
# SPDX-License-Identifier: Apache-2.0
"""ClipSAM model configuration."""

import difflib
import json
import math
from dataclasses import field, fields
from typing import Any, Literal

from huggingface_hub.dataclasses import strict
from transformers import AutoConfig, CLIPConfig, PreTrainedConfig
from transformers.configuration_utils import SubConfigSpec
from transformers.utils import logging

from .refiner_clipsam import find_refiner


logger = logging.get_logger(__name__)

# openai/clip-vit-large-patch14-336 and facebook/sam-vit-huge: with them `ClipSamConfig()` is the paper's model.
CLIP_LARGE_336: dict[str, Any] = {
    "projection_dim": 768,
    "text_config": {
        "hidden_size": 768,
        "intermediate_size": 3072,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "projection_dim": 768,
    },
    "vision_config": {
        "hidden_size": 1024,
        "intermediate_size": 4096,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
        "image_size": 336,
        "patch_size": 14,
        "projection_dim": 768,
    },
}
SAM_HUGE: dict[str, Any] = {
    "vision_config": {
        "hidden_size": 1280,
        "num_hidden_layers": 32,
        "num_attention_heads": 16,
        "global_attn_indexes": [7, 15, 23, 31],
    },
}

FUSED_FEATURES = ("original", "row", "column", "scale")

PURPOSES = ("localize", "reference", "refine", "score", "train", "origin")
"""What a field may steer: the rough map, how photographs are compared with others, the map's refinement, what is read
from the map, training; or it says where the model comes from."""


def setting(purpose: str, default: Any) -> Any:
    """Declares a field and what it steers.

    Args:
        purpose (`str`): One of `PURPOSES`.
        default (`Any`): The field's default.
    """
    return field(default=default, metadata={"purpose": purpose})


# What a network's own configuration says of its file and not of its answers
_PLACE_KEYS = frozenset({"_name_or_path", "architectures", "dtype", "transformers_version"})

# What the library itself stores in a config.json beside the declared fields.
_LIBRARY_KEYS = frozenset(
    {
        "attn_implementation",
        "auto_map",
        "custom_pipelines",
        "experts_implementation",
        "model_type",
        "name_or_path",
        "num_labels",
        "output_attentions",
        "per_layer_config",
        "quantization_config",
        "tie_last_hidden_states",
        "tie_word_embeddings",
        "torch_dtype",
        "use_cache",
    }
)


@strict
class ClipSamConfig(PreTrainedConfig):
    r"""Configuration of a [`ClipSamForAnomalySegmentation`]. The defaults are the full-size model.

    Each field declares what it steers, one of [`PURPOSES`]: `settings_of` gives the fields by it. The tag behind a
    field says where its default comes from: [S] the paper's abstract or its authors' answers,
    [L] read in code of the same family, [M p] remembered and unverified with probability p, [D] our design.
    `docs/method.md` explains each choice. The prompt words are the processor's ([`ClipSamProcessor`]).

    Args:
        clip_config (`CLIPConfig` or `dict`, *optional*): CLIP; by default that of
            `openai/clip-vit-large-patch14-336`. [M .8][L]
        sam_config (`SamConfig`, `SamHQConfig` or `dict`, *optional*): SAM, of a kind in `REFINERS`; a dictionary's
            `model_type` says of which, SAM by default. By default that of `facebook/sam-vit-huge`. [M .6]
        feature_layers (`tuple[int]`, defaults to `(6, 12, 18, 24)`): The stages: blocks of CLIP's vision tower,
            counted from 1, whose outputs (before the post layer norm, class token dropped) are used. [M .8][L]
        image_size (`int`, defaults to 518): Side of the square that a photograph is squashed to for CLIP, in
            pixels; a multiple of CLIP's patch size. [L]
        localizer (`"umci"`, `"vv"`, `"windows"` or `"similarity"`, defaults to `"umci"`): What makes the rough map:
            the trained UMCI [S]; or, without training, value-value attention, which keeps a patch's meaning at its
            place [D][L], windows that CLIP sees one by one (WinCLIP; slow) [L], or plain patch tokens, which are
            known to fail on real CLIP and are there for study [D].
        vv_num_stages (`int`, defaults to 1): The last so many stages are read by `"vv"`; a stage reaches from one of
            `feature_layers` (or the first block) to the next. States before the last are hardly in CLIP's joint
            space. [D]
        vv_residual (`bool`, defaults to `False`): Whether a stage of `"vv"` starts at the state before it (CLIP
            Surgery) or at 0 (SDP). [D][L]
        text_temperature (`float`, defaults to 0.07): By which `"vv"` and `"windows"` divide cosines before the
            softmax over the two texts. [L]
        window_sizes (`tuple[int]`, defaults to `(2, 3)`): Sides of the windows of `"windows"`, in tokens, beside the
            whole image. [L]
        window_stride (`int`, defaults to 1): From window to window, in tokens; 2 takes a quarter of the time. [L]
        umci_hidden_size (`int`, defaults to 256): Width of UMCI. [D]
        strip_kernel_size (`int`, defaults to 3): Length k of the k x 1 and 1 x k convolutions of the strip path,
            in tokens; odd. [M .45]
        scale_sizes (`tuple[int]`, defaults to `(3, 9)`): Kernel and stride of the scale path's average poolings,
            in tokens. Two scales are [S], their sizes [M .2].
        scale_interpolation (`"aligned"` or `"stretched"`, defaults to `"aligned"`): How the scale path's poolings
            come back to the grid: every cell over the tokens that it is the mean of; or, as up to release 0.1.0, all
            cells stretched over the grid, which moves features by tokens where the last cell is cut. [D]
        normalize_features (`bool`, defaults to `False`): Whether UMCI's input is normalised per token and stage, to
            mean 0 and variance 1 over the channels. [D]
        head (`"conv"` or `"text"`, defaults to `"conv"`): How the fused feature becomes logits: a 1x1 convolution,
            or the scalar product with the two projected texts. [D]
        fused_features (`tuple[str]`, defaults to `("original", "row", "column", "scale")`): What the fusion
            concatenates; fewer of them are the paper's ablations. [S]; `"original"` (V_ori) is [D].
        flip_average (`bool`, defaults to `False`): Whether the rough map is the mean of that of the photograph and
            that of its mirror image, which takes CLIP twice; references and others are then seen in both ways too. [D]
        novelty_weight (`float`, defaults to 0.0): Share in [0, 1] of the novelty within the photograph itself in the
            rough map, see `measure_novelty`. Not where there are references or others to compare with. [D]
        novelty_scale (`tuple[float]`, defaults to `(0.1, 0.05)`): Median of that novelty in photographs, and its
            spread; so many `reference_deviations` above it a map is 0.5. Calibrated on the training set. [D]
        reference_layers (`tuple[int]`, *optional*): Blocks of CLIP's vision tower, counted from 1, whose outputs are
            compared with those of references; by default `feature_layers`. [D][L]
        reference_neighbourhoods (`tuple[int]`, defaults to `(1, 3, 5)`): Odd sides of the squares of tokens over which
            these outputs are averaged, each compared by itself. [L]
        reference_deviations (`float`, defaults to 3.0): So many robust standard deviations above the good
            photographs' own distances a map of references is 0.5. [D]
        reference_text_weight (`float`, defaults to 0.25): Share in [0, 1] of the localizer's own map, made of texts,
            where there are references; see `mix_maps`. [D]
        mutual_others (`int`, defaults to 32): With so many other photographs each is compared in mutual scoring. [D]
        mutual_fraction (`float`, defaults to 0.3): Share of them, those most alike, whose distances are averaged. [L]
        mutual_text_weight (`float`, defaults to 0.25): The same in mutual scoring. [D]
        region_rule (`"fixed"` or `"relative"`, defaults to `"fixed"`): What prompts SAM: what is above
            `binarize_threshold`, where that one was calibrated; or what stands out by `region_deviations` from the
            photograph's own map, for localizers that nobody calibrated. [D]
        region_deviations (`float`, defaults to 3.0): Robust standard deviations of the map's logits above their
            median. [D]
        max_region_fraction (`float`, defaults to 0.25): Regions of a larger share of the image do not prompt SAM. [D]
        binarize_threshold (`float`, defaults to 0.5): Threshold in [0, 1] on the rough map (Eq. 7 [S]); the value
            is calibrated on the training set and never on the target. [D]
        mask_threshold (`float`, defaults to 0.5): Threshold in [0, 1] on the final map, for the final mask. [D]
        decision_threshold (`float`, *optional*): Threshold in [0, 1] on the image score; without it no verdict is
            given. [D]
        calibrated_refine (`bool`, defaults to `True`): Whether `mask_threshold` and `decision_threshold` hold for
            refined maps (`True`) or for rough ones (`False`). [D]
        min_region_fraction (`float`, defaults to `16 / 518**2`): Regions of the rough map smaller than this share
            of the image are dropped. [D]
        max_regions (`int`, defaults to 10): At most so many regions prompt SAM, by summed anomaly. [D]
        prompt_type (`"box_and_points"`, `"box"` or `"points"`): Prompts to SAM per region. Points and boxes are
            [S], their combination [M .5].
        num_points (`int`, defaults to 5): Positive points per region: the arg-max, then sampled ones. [M .5]
        point_seed (`int`, defaults to 0): Seed of the sampling, so that a map always gives the same prompts. [D]
        multimask_output (`bool`, defaults to `True`): Three masks per prompt [S], or SAM's single one.
        mask_fusion (`"soft"` or `"binary"`, defaults to `"soft"`): Fuse mask probabilities at SAM's low resolution
            and resample once, or binarise every mask at full resolution and fuse then. [D]
        merge (`"anomaly_weighted"`, `"average"` or `"sum_norm"`, defaults to `"anomaly_weighted"`): How masks and
            rough map are merged: the mean of both, a region's masks weighted by its highest rough anomaly, so that
            SAM's confidence ranks masks and not regions [D]; the mean of both, masks weighted by SAM's confidence
            alone [D]; or the min-max-normalised sum, which is nearest to memory of the paper [M .5].
        refine_weight (`float`, defaults to 0.5): Share in [0, 1] of SAM's masks in the final map; calibrated on the
            training set, so that a SAM that does not help there has no say. [D]
        prompt_batch_size (`int`, *optional*): Prompts per call of SAM's decoder; by default 2 on a CPU and all of
            them on an accelerator. [D]
        image_score (`"top_fraction"`, `"max"` or `"text"`, defaults to `"top_fraction"`): The image's score: mean
            of the final map's highest pixels, its maximum, or CLIP's own image-text score. [D]
        score_top_fraction (`float`, defaults to 0.001): The share of pixels that `"top_fraction"` averages. [D]
        stage_loss_weights (`tuple[float]`, *optional*): Weight of each stage in the loss, equal by default.
            ([M .45] has 0.1, 0.1, 0.1, 0.7.)
        loss_resolution (`"grid"` or `"image"`, defaults to `"grid"`): Where the loss compares: on the token grid,
            labels averaged per token, or at the size of the labels, logits upsampled. [D]
        focal_gamma (`float`, defaults to 2.0): Focusing exponent of the focal loss. [M .75][L]
        freeze_backbones (`bool`, defaults to `True`): CLIP gets no gradient and stays in evaluation mode. The trained
            part is UMCI [S]; with `False`, CLIP's vision tower is trained too, as far as the localizer reads it. The
            text tower stays as it is, and SAM is never trained: unmodified [S].
        auxiliary_dataset (`str`, *optional*): Name of the set that the checkpoint was trained on.
        auxiliary_epochs (`int`, *optional*): Epochs of that training, fixed before it began. [M .35] has 6.
        auxiliary_seed (`int`, *optional*): Seed of that training.
        clip_name_or_path (`str`, *optional*): Repository or folder that CLIP was loaded from.
        clip_revision (`str`, *optional*): The commit of that repository.
        sam_name_or_path (`str`, *optional*): Repository or folder that SAM was loaded from.
        sam_revision (`str`, *optional*): The commit of that repository.
        backbones_saved (`bool`, defaults to `True`): Whether the checkpoint holds CLIP's and SAM's weights; with
            `False` it holds the trained head alone, and the backbones are loaded from the four fields above.

    Raises:
        ValueError: If fields contradict each other; the message names both.

    Example:
        >>> config = ClipSamConfig()
        >>> config.clip_config.vision_config.hidden_size, config.sam_config.vision_config.hidden_size
        (1024, 1280)
    """

    model_type = "clipsam"
    sub_configs_defaults = {
        "clip_config": SubConfigSpec(config_class=CLIPConfig, init_kwargs=CLIP_LARGE_336),
        "sam_config": SubConfigSpec(config_class=AutoConfig, model_type="sam", init_kwargs=SAM_HUGE),
    }

    # Given as an object, a dictionary or None; always an object afterwards, which no type can say.
    clip_config: Any = setting("localize", None)
    sam_config: Any = setting("refine", None)

    feature_layers: list[int] | tuple[int, ...] = setting("localize", (6, 12, 18, 24))
    image_size: int = setting("localize", 518)
    localizer: Literal["umci", "vv", "windows", "similarity"] = setting("localize", "umci")
    vv_num_stages: int = setting("localize", 1)
    vv_residual: bool = setting("localize", False)
    text_temperature: float | int = setting("localize", 0.07)
    window_sizes: list[int] | tuple[int, ...] = setting("localize", (2, 3))
    window_stride: int = setting("localize", 1)

    umci_hidden_size: int = setting("localize", 256)
    strip_kernel_size: int = setting("localize", 3)
    scale_sizes: list[int] | tuple[int, ...] = setting("localize", (3, 9))
    scale_interpolation: Literal["aligned", "stretched"] = setting("localize", "aligned")
    normalize_features: bool = setting("localize", False)
    head: Literal["conv", "text"] = setting("localize", "conv")
    fused_features: list[str] | tuple[str, ...] = setting("localize", FUSED_FEATURES)

    flip_average: bool = setting("localize", False)
    novelty_weight: float | int = setting("localize", 0.0)
    novelty_scale: list[float | int] | tuple[float | int, ...] = setting("localize", (0.1, 0.05))

    reference_layers: list[int] | tuple[int, ...] | None = setting("reference", None)
    reference_neighbourhoods: list[int] | tuple[int, ...] = setting("reference", (1, 3, 5))
    reference_deviations: float | int = setting("reference", 3.0)
    reference_text_weight: float | int = setting("reference", 0.25)
    mutual_others: int = setting("reference", 32)
    mutual_fraction: float | int = setting("reference", 0.3)
    mutual_text_weight: float | int = setting("reference", 0.25)

    region_rule: Literal["fixed", "relative"] = setting("refine", "fixed")
    region_deviations: float | int = setting("refine", 3.0)
    max_region_fraction: float | int = setting("refine", 0.25)
    binarize_threshold: float | int = setting("refine", 0.5)
    mask_threshold: float | int = setting("score", 0.5)
    decision_threshold: float | int | None = setting("score", None)
    calibrated_refine: bool = setting("score", True)

    min_region_fraction: float | int = setting("refine", 16 / 518**2)
    max_regions: int = setting("refine", 10)
    prompt_type: Literal["box_and_points", "box", "points"] = setting("refine", "box_and_points")
    num_points: int = setting("refine", 5)
    point_seed: int = setting("refine", 0)
    multimask_output: bool = setting("refine", True)
    mask_fusion: Literal["soft", "binary"] = setting("refine", "soft")
    merge: Literal["anomaly_weighted", "average", "sum_norm"] = setting("refine", "anomaly_weighted")
    refine_weight: float | int = setting("refine", 0.5)
    prompt_batch_size: int | None = setting("refine", None)

    image_score: Literal["top_fraction", "max", "text"] = setting("score", "top_fraction")
    score_top_fraction: float | int = setting("score", 0.001)

    stage_loss_weights: list[float | int] | tuple[float | int, ...] | None = setting("train", None)
    loss_resolution: Literal["grid", "image"] = setting("train", "grid")
    focal_gamma: float | int = setting("train", 2.0)
    freeze_backbones: bool = setting("train", True)
    auxiliary_dataset: str | None = setting("origin", None)
    auxiliary_epochs: int | None = setting("origin", None)
    auxiliary_seed: int | None = setting("origin", None)

    clip_name_or_path: str | None = setting("origin", None)
    clip_revision: str | None = setting("origin", None)
    sam_name_or_path: str | None = setting("origin", None)
    sam_revision: str | None = setting("origin", None)
    backbones_saved: bool = setting("origin", True)

    def __post_init__(self, **kwargs: Any) -> None:
        self._warn_about_unknown_fields(kwargs)

        # `pipeline(task, model=folder)` obeys a config's `custom_pipelines` before its own registry and would then
        # ask for `trust_remote_code` although this package is installed. Only the remote copy may show the entry.
        hub_pipelines = kwargs.pop("custom_pipelines", None)
        if hub_pipelines is not None:
            self._hub_custom_pipelines = hub_pipelines
            if __name__.startswith("transformers_modules"):
                self.custom_pipelines = hub_pipelines

        if isinstance(self.sam_config, dict):
            find_refiner(self.sam_config.get("model_type", "sam"))  # else the library would know another kind
        super().__post_init__(**kwargs)
        self.check_fields()

    @classmethod
    def names_of(cls, *purposes: str) -> tuple[str, ...]:
        """Names of the fields that steer something.

        Args:
            purposes (`str`): Some of `PURPOSES`.

        Returns:
            `tuple[str, ...]`: In the order of the fields.

        Raises:
            ValueError: If a purpose is unknown.

        Example:
            >>> ClipSamConfig.names_of("train")
            ('stage_loss_weights', 'loss_resolution', 'focal_gamma', 'freeze_backbones')
        """
        for purpose in purposes:
            if purpose not in PURPOSES:
                raise ValueError(f"A purpose must be one of {PURPOSES}, got {purpose!r}.")
        return tuple(each.name for each in fields(cls) if each.metadata.get("purpose") in purposes)

    def settings_of(self, *purposes: str) -> dict[str, Any]:
        """The fields that steer something, as JSON values: what a result depends on beside weights and input.

        Args:
            purposes (`str`): Some of `PURPOSES`.

        Returns:
            `dict[str, Any]`: By name, in the order of the fields; CLIP's and SAM's configurations are dictionaries.

        Raises:
            ValueError: If a purpose is unknown.

        Example:
            >>> ClipSamConfig().settings_of("score")["image_score"]
            'top_fraction'
        """
        values = {name: getattr(self, name) for name in self.names_of(*purposes)}
        return {name: _to_json(value) for name, value in values.items()}

    def to_dict(self) -> dict[str, Any]:
        """Serialises to a dictionary, with the `custom_pipelines` entry of a checkpoint that carries its own code."""
        output = super().to_dict()
        hub_pipelines = output.pop("_hub_custom_pipelines", None)
        if hub_pipelines is not None:
            output["custom_pipelines"] = hub_pipelines
        return output

    def get_text_config(self, decoder: bool | None = None, encoder: bool | None = None) -> PreTrainedConfig:
        """CLIP's text configuration: `resize_token_embeddings` of the library keeps the vocabulary's size there."""
        return self.clip_config.text_config

    @property
    def token_grid_size(self) -> int:
        """Side of CLIP's token grid at `image_size`."""
        return self.image_size // self.clip_config.vision_config.patch_size

    def check_fields(self) -> None:
        """Checks the fields against each other.

        It runs at construction, and again when a model is built, since fields can be assigned in between.

        Raises:
            ValueError: If two fields contradict each other, or one is out of its range.
        """
        self._check_stages()
        self._check_localizers()
        self._check_novelty()
        self._check_references()
        self._check_umci()
        self._check_thresholds()
        self._check_prompts()

    def _check_stages(self) -> None:
        vision_config = self.clip_config.vision_config
        depth = vision_config.num_hidden_layers
        layers = tuple(self.feature_layers)
        if len(layers) == 0 or list(layers) != sorted(set(layers)) or layers[0] < 1 or layers[-1] > depth:
            raise ValueError(
                f"`feature_layers` must be increasing numbers from 1 to `clip_config.vision_config.num_hidden_layers`"
                f" ({depth}), but got {layers}."
            )
        if self.image_size < vision_config.patch_size or self.image_size % vision_config.patch_size != 0:
            raise ValueError(
                f"`image_size` ({self.image_size}) must be a multiple of `clip_config.vision_config.patch_size`"
                f" ({vision_config.patch_size})."
            )
        weights = self.stage_loss_weights
        if weights is not None:
            if len(weights) != len(layers):
                raise ValueError(
                    f"`stage_loss_weights` has {len(weights)} entries, but `feature_layers` has {len(layers)}."
                )
            if any(weight < 0 or not math.isfinite(weight) for weight in weights) or sum(weights) == 0:
                raise ValueError(f"`stage_loss_weights` must be non-negative and not all 0, but got {weights}.")

    def _check_localizers(self) -> None:
        if not 1 <= self.vv_num_stages <= len(self.feature_layers):
            raise ValueError(
                f"`vv_num_stages` must lie between 1 and the number of `feature_layers`, {len(self.feature_layers)},"
                f" but got {self.vv_num_stages}."
            )
        if not 0 < self.text_temperature < math.inf:
            raise ValueError(f"`text_temperature` must be positive and finite, but got {self.text_temperature}.")
        sizes = tuple(self.window_sizes)
        if any(size < 1 for size in sizes) or len(set(sizes)) != len(sizes):
            raise ValueError(f"`window_sizes` must be distinct positive numbers, but got {sizes}.")
        if self.window_stride < 1:
            raise ValueError(f"`window_stride` must be positive, but got {self.window_stride}.")

    def _check_novelty(self) -> None:
        scale = tuple(self.novelty_scale)
        if len(scale) != 2 or not 0 <= scale[0] < math.inf or not 0 < scale[1] < math.inf:
            raise ValueError(f"`novelty_scale` must be a centre and a positive spread, but got {scale}.")
        if self.novelty_weight > 0 and self.localizer == "windows":
            raise ValueError("`novelty_weight` needs feature maps of patches, which `localizer` 'windows' has not.")

    def _check_references(self) -> None:
        depth = self.clip_config.vision_config.num_hidden_layers
        layers = None if self.reference_layers is None else tuple(self.reference_layers)
        if layers is not None and (
            not layers or list(layers) != sorted(set(layers)) or not 0 < layers[0] <= layers[-1] <= depth
        ):
            raise ValueError(
                f"`reference_layers` must be increasing numbers from 1 to {depth} or None, but got {layers}."
            )
        sides = tuple(self.reference_neighbourhoods)
        if not sides or len(set(sides)) != len(sides) or any(side < 1 or side % 2 == 0 for side in sides):
            raise ValueError(f"`reference_neighbourhoods` must be distinct odd positive numbers, but got {sides}.")
        if not 0 < self.reference_deviations < math.inf:
            raise ValueError(
                f"`reference_deviations` must be positive and finite, but got {self.reference_deviations}."
            )
        if self.mutual_others < 1:
            raise ValueError(f"`mutual_others` must be positive, but got {self.mutual_others}.")
        if not 0 < self.mutual_fraction <= 1:
            raise ValueError(f"`mutual_fraction` must lie in (0, 1], but got {self.mutual_fraction}.")

    def _check_umci(self) -> None:
        sizes = tuple(self.scale_sizes)
        if len(sizes) == 0 or any(not 1 <= size <= self.token_grid_size for size in sizes):
            raise ValueError(
                f"`scale_sizes` must lie between 1 and the token grid's side, which is {self.token_grid_size} for"
                f" `image_size` {self.image_size}, but got {sizes}."
            )
        if self.strip_kernel_size < 1 or self.strip_kernel_size % 2 == 0:
            raise ValueError(f"`strip_kernel_size` must be odd and positive, but got {self.strip_kernel_size}.")
        if self.umci_hidden_size < 1:
            raise ValueError(f"`umci_hidden_size` must be positive, but got {self.umci_hidden_size}.")
        features = tuple(self.fused_features)
        if len(features) == 0 or len(set(features)) != len(features) or not set(features) <= set(FUSED_FEATURES):
            raise ValueError(f"`fused_features` must be distinct names out of {FUSED_FEATURES}, but got {features}.")

    def _check_thresholds(self) -> None:
        for name in (
            "binarize_threshold",
            "mask_threshold",
            "decision_threshold",
            "min_region_fraction",
            "max_region_fraction",
            "refine_weight",
            "novelty_weight",
            "reference_text_weight",
            "mutual_text_weight",
        ):
            value = getattr(self, name)
            if value is not None and not 0 <= value <= 1:
                raise ValueError(f"`{name}` must lie in [0, 1], but got {value}.")
        if not 0 < self.region_deviations < math.inf:
            raise ValueError(f"`region_deviations` must be positive and finite, but got {self.region_deviations}.")
        if not 0 < self.score_top_fraction <= 1:
            raise ValueError(f"`score_top_fraction` must lie in (0, 1], but got {self.score_top_fraction}.")
        if self.focal_gamma < 0 or not math.isfinite(self.focal_gamma):
            raise ValueError(f"`focal_gamma` must be finite and not negative, but got {self.focal_gamma}.")

    def _check_prompts(self) -> None:
        if self.max_regions < 1:
            raise ValueError(f"`max_regions` must be positive, but got {self.max_regions}.")
        if self.prompt_type != "box" and self.num_points < 1:
            raise ValueError(
                f"`num_points` must be positive with `prompt_type` {self.prompt_type!r}, but got {self.num_points}."
            )
        if self.prompt_batch_size is not None and self.prompt_batch_size < 1:
            raise ValueError(f"`prompt_batch_size` must be positive or None, but got {self.prompt_batch_size}.")
        find_refiner(self.sam_config.model_type).check_config(self.sam_config)

    def _warn_about_unknown_fields(self, kwargs: dict[str, Any]) -> None:
        known = [field.name for field in fields(self)]
        for name in kwargs:
            if name.startswith("_") or name in _LIBRARY_KEYS:
                continue
            nearest = difflib.get_close_matches(name, known, n=1)
            hint = f"; did you mean `{nearest[0]}`?" if nearest else "."
            logger.warning(f"`ClipSamConfig` has no field `{name}`; it is kept but not used{hint}")


def _to_json(value: Any) -> Any:
    """Makes of a field what JSON would give back; where a network's configuration was loaded from says nothing."""
    if isinstance(value, PreTrainedConfig):
        return _without_place(json.loads(value.to_json_string(use_diff=False)))
    return list(value) if isinstance(value, tuple) else value


def _without_place(described: Any) -> Any:
    if not isinstance(described, dict):
        return described
    return {name: _without_place(entry) for name, entry in described.items() if name not in _PLACE_KEYS}


__all__ = ["FUSED_FEATURES", "PURPOSES", "ClipSamConfig", "setting"]
