# SPDX-FileCopyrightText: 2026 The clipsam_hf authors
# SPDX-License-Identifier: Apache-2.0
"""The card of a trained model. Every figure in it is read from the file of an evaluation of these very weights."""

import json
import os
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import CommitInfo, ModelCard, ModelCardData
from PIL import Image

from ..image_loading import ImageInput
from ..modeling_clipsam import ClipSamForAnomalySegmentation
from ..pipeline_clipsam import ZeroShotAnomalySegmentationPipeline
from ..processing_clipsam import ClipSamProcessor
from ..publishing_clipsam import CARD_METADATA, public_base_models, push
from ..visualization_clipsam import overlay
from .evaluations import CARD_FIGURES, ScoredSet, check_evaluation, licences_of, pretty_name, published_sets


__all__ = ["ClipSamCard", "build_card"]

TEMPLATE = Path(__file__).with_name("template.md")
PICTURE_NAME = "example.png"

# Identifiers of the Hub; any other licence goes there by its name.
_LICENSES = {
    *("afl-3.0", "agpl-3.0", "apache-2.0", "bsd-2-clause", "bsd-3-clause", "cc-by-4.0", "cc-by-nc-4.0"),
    *("cc-by-nc-nd-4.0", "cc-by-nc-sa-4.0", "cc-by-nd-4.0", "cc-by-sa-4.0", "cc0-1.0", "gpl-3.0", "lgpl-3.0"),
    *("mit", "mpl-2.0", "openrail", "unlicense"),
}


class ClipSamCard(ModelCard):
    """A model card with the pictures that it shows.

    `save` and `push_to_hub` write them beside it, to where the card's relative links point.
    """

    pictures: Mapping[str, Image.Image] = {}

    def save(self, filepath: str | os.PathLike[str]) -> None:
        """Write the card and, beside it, its pictures.

        Args:
            filepath (`str` or `os.PathLike`): usually `README.md` of the model's folder.

        Raises:
            OSError: if it cannot be written.
        """
        super().save(Path(filepath))
        for name, picture in self.pictures.items():
            picture.save(Path(filepath).with_name(name))

    def push_to_hub(self, repo_id: str, **kwargs: Any) -> CommitInfo:  # type: ignore[override]
        """Publish the card and its pictures in one commit.

        Args:
            repo_id (`str`): name of the model's repository.
            kwargs: `private`, `token`, `revision`, `create_pr`, `commit_message`, `commit_description`.

        Returns:
            `CommitInfo`: the commit.

        Raises:
            OSError: if the Hub cannot be reached or refuses.
        """
        return push(lambda folder: None, repo_id, card=self, **{"commit_message": "Upload the card", **kwargs})


def build_card(
    model: ClipSamForAnomalySegmentation,
    *,
    model_id: str,
    evaluations: Sequence[Mapping[str, Any] | str | os.PathLike[str]] = (),
    training: Mapping[str, Any] | str | os.PathLike[str] | None = None,
    license: str | None = None,
    language: str | None = "en",
    example_image: ImageInput | None = None,
    example_class_name: str = "object",
    processor: ClipSamProcessor | None = None,
) -> ClipSamCard:
    """Make the card of a trained model.

    Args:
        model (`ClipSamForAnomalySegmentation`): the model.
        model_id (`str`): its name on the Hub, `"organisation/name"`; it should say the set that it was trained on.
        evaluations (`Sequence`): `results.json` of evaluations, as files or read.
        training (`Mapping`, `str` or `os.PathLike`, *optional*): `all_results.json` of the training.
        license (`str`, *optional*): of the weights. One that the Hub has no identifier for is given by its name.
        language (`str`, *optional*): of the class names.
        example_image (*optional*): a photograph for the picture, in any form that `load_rgb` reads. It is published!
        example_class_name (`str`): what it shows.
        processor (`ClipSamProcessor`, *optional*): the model's; for the picture.

    Returns:
        `ClipSamCard`: the card.

    Raises:
        ValueError: if an evaluation is of the set that the model was trained on, of other weights or settings, or no
            evaluation; or `example_image` comes without `processor`.
        OSError: if a file cannot be read.
        ImportError: if jinja2 is missing.
    """
    try:
        import jinja2  # noqa: F401
    except ImportError as error:
        raise ImportError("A model card needs jinja2: pip install 'clipsam_hf[train]'") from error
    if example_image is not None and processor is None:
        raise ValueError("`example_image` needs `processor`: the picture is made by the model itself.")
    run = _read(training)
    trained_on = _trained_on(model, run)
    _warn_of_silent_name(model_id, trained_on)
    scored = [check_evaluation(_read(source), model, trained_on) for source in evaluations]

    pictures = {}
    if example_image is not None:
        pictures[PICTURE_NAME] = _draw_example(model, processor, example_image, example_class_name)
    card = ClipSamCard.from_template(
        _metadata(model, model_id, trained_on, scored, license, language),
        template_path=str(TEMPLATE),
        backbones=_describe_backbones(model.config),
        config=model.config,
        example_class_name=example_class_name,
        figures=CARD_FIGURES,
        license_text=license,
        limits=licences_of(trained_on),
        model_id=model_id,
        picture=PICTURE_NAME if pictures else None,
        run=run,
        scored=scored,
        trained_on=pretty_name(*trained_on),
        cell=_cell,
        percent=_percent,
    )
    card.pictures = pictures
    return card


# ---------------------------------------------------------------------------------------------------------------------
# What goes in


def _read(source: Mapping[str, Any] | str | os.PathLike[str] | None) -> Mapping[str, Any]:
    if source is None or isinstance(source, Mapping):
        return source or {}
    content = json.loads(Path(source).read_text(encoding="utf-8"))
    if not isinstance(content, Mapping):
        raise ValueError(f"{os.fspath(source)!r} holds no JSON object.")
    return content


def _trained_on(model: ClipSamForAnomalySegmentation, run: Mapping[str, Any]) -> list[str]:
    """Names of the sets that the head has seen, in the order of its training."""
    known = model.config.auxiliary_dataset or run.get("auxiliary_dataset")
    names = known.split(" + ") if known else []
    return list(dict.fromkeys([*names, *filter(None, [run.get("data", {}).get("name")])]))


def _warn_of_silent_name(model_id: str, trained_on: Sequence[str]) -> None:
    silent = [name for name in published_sets(trained_on) if name not in model_id.lower()]
    if silent:
        warnings.warn(
            f"The name {model_id!r} does not say the set that the model was trained on, {pretty_name(*silent)}."
            " Readers will compare it on that set.",
            stacklevel=3,
        )


# ---------------------------------------------------------------------------------------------------------------------
# What comes out


def _metadata(
    model: ClipSamForAnomalySegmentation,
    model_id: str,
    trained_on: Sequence[str],
    scored: Sequence[ScoredSet],
    license: str | None,
    language: str | None,
) -> ModelCardData:
    fields: dict[str, Any] = dict(CARD_METADATA)
    if license is not None and license.lower() in _LICENSES:
        fields["license"] = license.lower()
    elif license is not None:
        fields |= {"license": "other", "license_name": license}
    base_models = public_base_models(model.config)
    if base_models:
        relation = "adapter" if model.config.freeze_backbones else "finetune"
        fields |= {"base_model": base_models, "base_model_relation": relation}
    results = [result for evaluation in scored for result in evaluation.to_eval_results()]
    if results:
        fields |= {"eval_results": results, "model_name": model_id.rpartition("/")[-1]}
    # The Hub takes names there, no descriptions
    datasets = [name for name in trained_on if name.replace("-", "").replace("_", "").isalnum()]
    return ModelCardData(language=language, datasets=datasets or None, **fields)


def _describe_backbones(config: Any) -> dict[str, str]:
    public = public_base_models(config)
    lines = {}
    for part in ("clip", "sam"):
        name, commit = getattr(config, f"{part}_name_or_path"), getattr(config, f"{part}_revision")
        known = f"{name}, commit `{commit}`" if commit else name
        lines[part.upper()] = known if name in public else "see `config.json`"
    return lines


def _draw_example(
    model: ClipSamForAnomalySegmentation, processor: Any, image: ImageInput, class_name: str
) -> Image.Image:
    pipe = ZeroShotAnomalySegmentationPipeline(model=model, processor=processor)
    result = pipe(image, class_name=class_name, refine=model.config.calibrated_refine)
    shown = {name: result[name] for name in ("score", "label", "regions")}
    return overlay(image, result["anomaly_map"], **shown)


def _cell(value: Any) -> str:
    """Keep a text inside its cell of a table: names of folders may hold anything."""
    return " ".join(str(value).split()).replace("|", "\\|").replace("<", "&lt;")


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f}"
