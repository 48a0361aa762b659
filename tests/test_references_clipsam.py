# SPDX-FileCopyrightText: 2026 The clipsam_hf authors
# SPDX-License-Identifier: Apache-2.0
"""Good photographs as references: what they find, what they leave out, their threshold, and how they are kept."""

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from test_checkpoints import library_log
from tiny_sam_hq import make_sam_hq_config

from clipsam_hf import (
    ClipSamConfig,
    ClipSamForAnomalySegmentation,
    ClipSamProcessor,
    ClipSamReferences,
    gallery_clipsam,
)
from clipsam_hf.gallery_clipsam import list_sources
from clipsam_hf.image_loading import ImageReadError
from clipsam_hf.inference_clipsam import ClipSamInference, Prediction
from clipsam_hf.patches_clipsam import describe_photographs, find_outliers, mix_maps
from clipsam_hf.references_clipsam import take_references


SIDE = 32
# A patch in half precision is this far from itself at most, see test_patches_clipsam
HALF = 2**-11


def photograph(number: int = 0, defect: tuple[int, int] | None = None, size: tuple[int, int] = (SIDE, SIDE)) -> Image:
    """A grey part with a little noise of its own; with a red square of one token, at its row and column."""
    rng = np.random.default_rng(number)
    rows, columns = np.mgrid[: size[0], : size[1]]
    pixels = 110 + 40 * np.sin(rows / 5) + 30 * np.cos(columns / 7) + rng.normal(0, 4, size)
    pixels = np.repeat(pixels[:, :, None], 3, axis=2).clip(0, 255).astype(np.uint8)
    if defect is not None:
        row, column = (8 * each for each in defect)
        pixels[row : row + 8, column : column + 8] = (250, 0, 0)
    return Image.fromarray(pixels)


GOOD = [photograph(number) for number in range(4)]


@pytest.fixture
def inference(tiny_model: ClipSamForAnomalySegmentation, tiny_processor: ClipSamProcessor) -> ClipSamInference:
    """A tiny model, untrained, whose maps of references are of the tokens themselves and need no texts."""
    tiny_model.config.update({"reference_text_weight": 0.0, "reference_neighbourhoods": (1,)})
    assert not tiny_model.head_is_trained
    return ClipSamInference(tiny_model, tiny_processor)


def make(inference: ClipSamInference, images: Any = GOOD, **options: Any) -> ClipSamReferences:
    return ClipSamReferences.from_images(inference.model, inference.processor, images, **options)


def predict(inference: ClipSamInference, references: ClipSamReferences, *images: Any, **options: Any) -> Prediction:
    options = {"refine": False, "class_name": references.class_name, **options}
    return inference.predict([inference.prepare(image, **options) for image in images], references)


def patches_of(inference: ClipSamInference, image: Image.Image) -> list[torch.Tensor]:
    return describe_photographs(inference.model, inference.prepare(image).inputs["pixel_values"])[0]


# --------------------------------------------------------------------------------------------------------------------
# The map


def test_a_reference_itself_has_no_distance(inference: ClipSamInference) -> None:
    references = make(inference)
    assert references.measure(patches_of(inference, GOOD[2])).max() < HALF
    assert references.measure(patches_of(inference, photograph(9))).max() > 2 * HALF


@pytest.mark.parametrize("defect", [(0, 3), (2, 1)])
def test_another_colour_is_where_the_map_is_highest(inference: ClipSamInference, defect: tuple[int, int]) -> None:
    references = make(inference)
    (prediction,) = predict(inference, references, photograph(9, defect))
    anomaly_map = prediction.rough_anomaly_map.numpy()
    row, column = np.unravel_index(anomaly_map.argmax(), anomaly_map.shape)
    assert (row // 8, column // 8) == defect and anomaly_map.max() > 0.5
    (good,) = predict(inference, references, photograph(9))
    assert good.pred_score < prediction.pred_score


def test_the_map_is_a_half_at_three_deviations(inference: ClipSamInference) -> None:
    references = make(inference)
    centre, spread = references.settings.centre, references.settings.spread
    references.measure = lambda patches: torch.full((1, 4, 4), centre + 3 * spread)  # type: ignore[method-assign]
    assert references.compare([torch.zeros(1, 1, 4, 4)], (2, 2)) == pytest.approx(torch.full((1, 2, 2), 0.5))


def test_neighbourhoods_and_blocks_are_averaged(inference: ClipSamInference) -> None:
    """The distance of two blocks and two squares is the mean of the four."""
    patches = patches_of(inference, photograph(9, (1, 1)))
    parts = []
    for layers in ((1,), (2,)):
        for sides in ((1,), (3,)):
            inference.model.config.update({"reference_layers": layers, "reference_neighbourhoods": sides})
            parts.append(make(inference).measure([patches[layers[0] - 1]]))
    inference.model.config.update({"reference_layers": (1, 2), "reference_neighbourhoods": (1, 3)})
    torch.testing.assert_close(make(inference).measure(patches), torch.stack(parts).mean(dim=0))


def test_the_order_of_references_does_not_matter(inference: ClipSamInference) -> None:
    first = predict(inference, make(inference), photograph(9, (1, 1)))[0]
    other = predict(inference, make(inference, GOOD[::-1]), photograph(9, (1, 1)))[0]
    torch.testing.assert_close(first.rough_anomaly_map, other.rough_anomaly_map, rtol=0, atol=1e-5)


@pytest.mark.parametrize("refine", [True, False])
def test_a_batch_equals_singles(inference: ClipSamInference, refine: bool) -> None:
    references = make(inference)
    images = [photograph(number, (number % 4, 1), size) for number, size in enumerate([(32, 32), (40, 36), (30, 30)])]
    for batched, image in zip(predict(inference, references, *images, refine=refine), images, strict=True):
        (single,) = predict(inference, references, image, refine=refine)
        torch.testing.assert_close(batched.anomaly_map, single.anomaly_map, rtol=0, atol=1e-4)
        assert batched.pred_score == pytest.approx(single.pred_score, abs=1e-4)


def test_sam_refines_and_leaves_the_score(inference: ClipSamInference) -> None:
    references = make(inference)
    (rough,) = predict(inference, references, photograph(9, (1, 1)))
    (refined,) = predict(inference, references, photograph(9, (1, 1)), refine=True)
    torch.testing.assert_close(refined.rough_anomaly_map, rough.anomaly_map)
    assert (refined.anomaly_map - rough.anomaly_map).abs().max() > 1e-3
    assert refined.pred_score == refined.rough_score == pytest.approx(rough.pred_score)


def test_sam_hq_refines_too(tiny_config: ClipSamConfig, tiny_processor: ClipSamProcessor) -> None:
    fields = {**tiny_config.to_dict(), "sam_config": make_sam_hq_config(tiny_config.sam_config).to_dict()}
    config = ClipSamConfig.from_dict({**fields, "reference_text_weight": 0.0, "reference_neighbourhoods": (1,)})
    inference = ClipSamInference(ClipSamForAnomalySegmentation(config).eval(), tiny_processor)
    (prediction,) = predict(inference, make(inference), photograph(9, (1, 1)), refine=True)
    assert (prediction.anomaly_map - prediction.rough_anomaly_map).abs().max() > 1e-3


def test_half_precision_finds_the_same(inference: ClipSamInference) -> None:
    inference.model.to(torch.bfloat16)
    inference.model.umci.float()
    (prediction,) = predict(inference, make(inference), photograph(9, (2, 1)), refine=True)
    anomaly_map = prediction.rough_anomaly_map.numpy()
    row, column = np.unravel_index(anomaly_map.argmax(), anomaly_map.shape)
    assert anomaly_map.dtype == np.float32 and (row // 8, column // 8) == (2, 1)


# --------------------------------------------------------------------------------------------------------------------
# Texts


def test_without_texts_none_is_encoded(inference: ClipSamInference, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("A text was encoded")

    monkeypatch.setattr(inference.model, "get_text_embeddings", refuse)
    predict(inference, make(inference, class_name="candle"), photograph(9))


def test_with_texts_the_head_must_be_trained_and_has_its_share(inference: ClipSamInference) -> None:
    inference.model.config.reference_text_weight = 0.25
    with pytest.raises(ValueError, match="train"):
        make(inference)
    inference.model.head_is_trained = True
    references = make(inference, class_name="candle")
    (mixed,) = predict(inference, references, photograph(9, (1, 1)))
    (text,) = inference.predict([inference.prepare(photograph(9, (1, 1)), "candle", refine=False)])
    compared = references.compare(patches_of(inference, photograph(9, (1, 1))), (SIDE, SIDE))
    expected = mix_maps(compared, text.rough_anomaly_map[None], 0.25)[0]
    torch.testing.assert_close(mixed.rough_anomaly_map, expected, rtol=0, atol=1e-5)
    assert references.decision_threshold == max(references.settings.scores)


@pytest.mark.parametrize("localizer", ["vv", "windows", "similarity"])
def test_localizers_without_training_have_their_share(
    tiny_config: ClipSamConfig, tiny_processor: ClipSamProcessor, localizer: str
) -> None:
    weights = {"reference_text_weight": 0.25, "reference_neighbourhoods": (1,)}
    config = ClipSamConfig.from_dict({**tiny_config.to_dict(), **weights, "localizer": localizer})
    inference = ClipSamInference(ClipSamForAnomalySegmentation(config).eval(), tiny_processor)
    references = make(inference)
    (mixed,) = predict(inference, references, photograph(9, (1, 1)))
    (text,) = inference.predict([inference.prepare(photograph(9, (1, 1)), refine=False)])
    compared = references.compare(patches_of(inference, photograph(9, (1, 1))), (SIDE, SIDE))
    expected = mix_maps(compared, text.rough_anomaly_map[None], 0.25)[0]
    torch.testing.assert_close(mixed.rough_anomaly_map, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("image_score", ["max", "text"])
def test_scores_are_of_the_map_whatever_the_image_score(inference: ClipSamInference, image_score: str) -> None:
    """`"text"` looks at no map: with references it gives way to the mean of the highest pixels."""
    inference.model.config.image_score = image_score
    (prediction,) = predict(inference, make(inference), photograph(9, (1, 1)))
    assert prediction.pred_score == pytest.approx(prediction.rough_anomaly_map.max().item())


# --------------------------------------------------------------------------------------------------------------------
# Leave-one-out: scores, threshold, outliers


@pytest.mark.parametrize("rotations", [False, True])
def test_a_photographs_own_patches_are_left_out(inference: ClipSamInference, rotations: bool) -> None:
    references = make(inference, GOOD[:2], rotations=rotations)
    first = references.without(0)
    assert len(references.photographs) == 2 * 16 * (4 if rotations else 1)
    assert set(first.photographs.tolist()) == {1} and all(len(each) == len(first.photographs) for each in first.memory)
    assert first.measure(patches_of(inference, GOOD[0])).min() > 2 * HALF
    assert first.measure(patches_of(inference, GOOD[1])).max() < HALF
    assert references.without(None) is references


def test_turned_parts_are_known_with_rotations_alone(inference: ClipSamInference) -> None:
    turned = photograph(0, (0, 3)).rotate(90)
    plain, rotating = (make(inference, [photograph(0, (0, 3))], rotations=each) for each in (False, True))
    assert rotating.measure(patches_of(inference, turned)).max() < HALF
    assert plain.measure(patches_of(inference, turned)).max() > 2 * HALF


def test_threshold_is_the_highest_score_against_the_others(inference: ClipSamInference) -> None:
    references = make(inference)
    settings = references.settings
    scores = []
    for index, image in enumerate(GOOD):
        (prediction,) = predict(inference, references.without(index), image)
        scores.append(prediction.pred_score)
    assert settings.scores == pytest.approx(scores, abs=1e-5)
    assert references.decision_threshold == references.region_threshold == max(settings.scores)
    assert settings.expected_false_alarms == 1 / 5


def test_quantile_of_the_scores(inference: ClipSamInference) -> None:
    """Of four scores half are at or below the second lowest: two good ones and the next one of five are above it."""
    references = make(inference, quantile=0.5)
    assert references.decision_threshold == sorted(references.settings.scores)[2]
    assert references.settings.expected_false_alarms == 2 / 5


def test_one_reference_gives_maps_and_no_threshold(inference: ClipSamInference) -> None:
    references = make(inference, GOOD[:1])
    assert references.decision_threshold is None and references.settings.expected_false_alarms is None
    assert references.region_threshold == 0.5 and len(references.settings.scores) == 2
    assert references.settings.spread > 1e-4  # of the mirrored and of the shifted view
    (prediction,) = predict(inference, references, photograph(9, (1, 2)))
    assert prediction.rough_anomaly_map.max() > 0.5


def test_a_defective_one_is_named_and_not_counted(inference: ClipSamInference, caplog: Any, tmp_path: Path) -> None:
    images = [photograph(number, (2, 2) if number == 3 else None) for number in range(6)]
    for number, image in enumerate(images):
        image.save(tmp_path / f"part-{number}.png")
    with library_log(caplog):
        references = make(inference, tmp_path)
    settings = references.settings
    assert settings.names == [f"part-{number}.png" for number in range(6)] and settings.outliers == [3]
    assert "'part-3.png' stands out" in caplog.text and caplog.text.count("stands out") == 1
    usual = [score for index, score in enumerate(settings.scores) if index != 3]
    assert references.decision_threshold == max(usual) < settings.scores[3]
    assert settings.expected_false_alarms == 1 / 6


def test_good_photographs_have_no_outlier(inference: ClipSamInference, caplog: Any) -> None:
    with library_log(caplog):
        references = make(inference, [photograph(number) for number in range(8)])
    assert references.settings.outliers == [] and caplog.text == ""


def test_of_four_photographs_none_is_called_an_outlier() -> None:
    distances = [np.full(10, 0.1)] * 3 + [np.full(10, 0.9)]
    assert find_outliers(distances) == [] and find_outliers([*distances[:1], *distances]) == [4]


def test_two_products_are_told(inference: ClipSamInference, caplog: Any) -> None:
    noise = [Image.fromarray(np.random.default_rng(n).integers(0, 256, (32, 32, 3), np.uint8)) for n in range(4)]
    with library_log(caplog):
        references = make(inference, [*GOOD, *noise])
    assert references.settings.groups in ([0] * 4 + [1] * 4, [1] * 4 + [0] * 4)
    assert "look like one product" in caplog.text


def test_photographs_that_were_not_kept_are_looked_at_again(
    inference: ClipSamInference, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = make(inference)
    monkeypatch.setattr(gallery_clipsam, "_KEPT_BYTES", 5000)  # one and a half of 4 x 4 tokens of 32 numbers
    again = make(inference)
    assert again.settings == kept.settings
    assert all(torch.equal(first, second) for first, second in zip(kept.memory, again.memory, strict=True))


# --------------------------------------------------------------------------------------------------------------------
# Region of interest, memory


def left_half() -> Image.Image:
    return Image.fromarray(np.repeat([[255, 0]], 8, axis=1).repeat(4, axis=0).astype(np.uint8))


def test_outside_the_region_maps_are_nothing(inference: ClipSamInference) -> None:
    references = make(inference, roi_mask=left_half())
    assert len(references.photographs) == 4 * 8  # half of the tokens
    (outside,) = predict(inference, references, photograph(9, (1, 3)))
    assert outside.rough_anomaly_map[:, 16:].max() == 0 < outside.rough_anomaly_map[:, :16].min()
    (inside,) = predict(inference, references, photograph(9, (1, 0)))
    assert inside.pred_score > max(outside.pred_score, 0.5)


def test_texts_and_sam_mark_nothing_outside_the_region_of_interest(inference: ClipSamInference) -> None:
    inference.model.config.reference_text_weight, inference.model.head_is_trained = 0.5, True
    references = make(inference, roi_mask=left_half())
    (seen,) = predict(inference, references, photograph(9, (0, 0)), refine=True)
    for anomaly_map in (seen.rough_anomaly_map, seen.anomaly_map):
        assert (anomaly_map[:, SIDE // 2 :] == 0).all() and (anomaly_map[:, : SIDE // 2] > 0).any()


def test_a_defect_outside_the_region_is_none_of_the_scale(inference: ClipSamInference) -> None:
    clean = make(inference, roi_mask=left_half())
    defective = make(inference, [photograph(0, (1, 3)), *GOOD[1:]], roi_mask=left_half())
    # Attention carries a little of it across
    assert defective.settings.centre == pytest.approx(clean.settings.centre, rel=0.3)


@pytest.mark.parametrize("rotations", [True, False])
def test_an_empty_region_raises(inference: ClipSamInference, rotations: bool) -> None:
    with pytest.raises(ValueError, match="region of interest.* is empty"):
        make(inference, roi_mask=Image.new("L", (5, 5)), rotations=rotations)


@pytest.mark.parametrize("rotations", [True, False])
def test_the_memory_is_bounded(inference: ClipSamInference, rotations: bool) -> None:
    references = make(inference, max_patches=20, rotations=rotations)
    assert all(len(entries) == 20 for entries in (*references.memory, references.photographs))
    again = make(inference, max_patches=20, rotations=rotations)
    assert torch.equal(references.photographs, again.photographs)
    others = [make(inference, max_patches=20, rotations=rotations, seed=seed).memory[0] for seed in (1, 2)]
    assert not torch.equal(*others)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_patches": 0}, "`max_patches` must be at least 1, got 0"),
        ({"max_patches": 1}, "`max_patches` 1 is too few for 4 photographs"),
        ({"quantile": 0.0}, r"`quantile` must lie in \(0, 1\], got 0.0"),
        ({"quantile": 1.1}, "`quantile`"),
        ({"class_name": " "}, "class"),
        ({"images": []}, "`references` is an empty list"),
    ],
)
def test_what_is_out_of_range_raises(inference: ClipSamInference, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(inference, **options)


@pytest.mark.parametrize("images", [GOOD[0], iter(GOOD), None, {"image": GOOD[0]}])
def test_other_kinds_raise(images: Any) -> None:
    with pytest.raises(TypeError, match="`references` must be a folder or a list of photographs, got"):
        list_sources(images, "references")


def test_an_unreadable_reference_raises(inference: ClipSamInference, tmp_path: Path) -> None:
    (tmp_path / "broken.png").write_bytes(b"no image")
    with pytest.raises(ImageReadError, match="broken.png"):
        make(inference, [GOOD[0], tmp_path / "broken.png"])


# --------------------------------------------------------------------------------------------------------------------
# Kept in a folder


def assert_equal(first: ClipSamReferences, second: ClipSamReferences) -> None:
    assert json.dumps(vars(first.settings)) == json.dumps(vars(second.settings))
    pairs = zip([*first.memory, first.photographs], [*second.memory, second.photographs], strict=True)
    assert all(torch.equal(*pair) for pair in pairs)
    assert first.roi_mask is second.roi_mask is None or torch.equal(first.roi_mask, second.roi_mask)


@pytest.mark.parametrize("roi", [False, True])
def test_a_folder_gives_the_same_maps_to_the_bit(inference: ClipSamInference, tmp_path: Path, roi: bool) -> None:
    references = make(inference, class_name="candle", roi_mask=left_half() if roi else None)
    references.save_pretrained(tmp_path / "new" / "line")
    loaded = ClipSamReferences.from_pretrained(tmp_path / "new" / "line")
    assert_equal(references, loaded)
    loaded.check(inference.model, inference.processor)
    for refine in (True, False):
        maps = [predict(inference, each, photograph(9, (1, 1)), refine=refine)[0] for each in (references, loaded)]
        assert torch.equal(maps[0].anomaly_map, maps[1].anomaly_map)
    assert sorted(path.name for path in (tmp_path / "new" / "line").iterdir()) == [
        "references.json",
        "references.safetensors",
    ]


def test_references_lie_beside_a_model(inference: ClipSamInference, tiny_checkpoint: Path) -> None:
    """Either may be saved again and leaves the other's files alone."""
    names = {path.name for path in tiny_checkpoint.iterdir()}
    references = make(inference)
    references.save_pretrained(tiny_checkpoint)
    inference.model.save_pretrained(tiny_checkpoint)
    assert {path.name for path in tiny_checkpoint.iterdir()} == names | {"references.json", "references.safetensors"}
    loaded = ClipSamForAnomalySegmentation.from_pretrained(tiny_checkpoint)
    ClipSamReferences.from_pretrained(tiny_checkpoint).check(loaded, inference.processor)


def test_saving_again_replaces(inference: ClipSamInference, tmp_path: Path) -> None:
    make(inference, roi_mask=left_half()).save_pretrained(tmp_path)
    make(inference, GOOD[:2]).save_pretrained(tmp_path)
    loaded = ClipSamReferences.from_pretrained(tmp_path)
    assert len(loaded) == 2 and loaded.roi_mask is None


def test_another_format_raises(inference: ClipSamInference, tmp_path: Path) -> None:
    make(inference).save_pretrained(tmp_path)
    settings = json.loads((tmp_path / "references.json").read_text())
    (tmp_path / "references.json").write_text(json.dumps({**settings, "format": 2}))
    with pytest.raises(ValueError, match="references of format 2; known is 1"):
        ClipSamReferences.from_pretrained(tmp_path)


def damage_settings(folder: Path) -> None:
    settings = json.loads((folder / "references.json").read_text())
    del settings["centre"]
    (folder / "references.json").write_text(json.dumps(settings))


def damage_weights(folder: Path) -> None:
    content = (folder / "references.safetensors").read_bytes()
    (folder / "references.safetensors").write_bytes(content[:-5])


@pytest.mark.parametrize("damage", [damage_settings, damage_weights])
def test_damaged_references_are_told(
    inference: ClipSamInference, tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    make(inference).save_pretrained(tmp_path)
    damage(tmp_path)
    with pytest.raises(ValueError, match="The references '.*' are damaged: "):
        ClipSamReferences.from_pretrained(tmp_path)


def test_a_file_is_no_target(inference: ClipSamInference, tmp_path: Path) -> None:
    (tmp_path / "line").write_text("mine")
    with pytest.raises(NotADirectoryError, match="saved to a folder, got the file"):
        make(inference, GOOD[:1]).save_pretrained(tmp_path / "line")
    assert (tmp_path / "line").read_text() == "mine"


def test_a_folder_without_references_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"holds no references: a folder .* has 'references.json'"):
        ClipSamReferences.from_pretrained(tmp_path)
    with pytest.raises(OSError, match="There are no references '.*none', neither in a folder nor on the Hub"):
        ClipSamReferences.from_pretrained(tmp_path / "none")


def test_what_they_are_can_be_read(inference: ClipSamInference) -> None:
    references = make(inference, class_name="candle")
    assert repr(references).startswith("ClipSamReferences('candle', 4 photographs, 64 patches, decision_threshold=0.")
    assert len(references) == 4 and references.settings.names[1] == "photograph 2"


# --------------------------------------------------------------------------------------------------------------------
# Taken by a model


@pytest.mark.parametrize("kind", ["object", "saved", "list", "photographs"])
def test_whatever_they_are_given_as(inference: ClipSamInference, tmp_path: Path, kind: str) -> None:
    references = make(inference, class_name="candle")
    for number, image in enumerate(GOOD):
        (tmp_path / "photographs").mkdir(exist_ok=True)
        image.save(tmp_path / "photographs" / f"{number}.png")
    references.save_pretrained(tmp_path / "saved")
    given = {"object": references, "list": GOOD}.get(kind, tmp_path / kind)
    taken = take_references(inference, given, class_name="candle")
    assert (taken is references) is (kind == "object") and taken.class_name == "candle"
    assert all(torch.equal(first, second) for first, second in zip(taken.memory, references.memory, strict=True))


def test_one_photograph_is_no_folder(inference: ClipSamInference, tmp_path: Path) -> None:
    GOOD[0].save(tmp_path / "one.png")
    with pytest.raises(ValueError, match="must be a folder or a list of photographs, got the file '.*one.png'"):
        take_references(inference, tmp_path / "one.png")


def other_weights(model: ClipSamForAnomalySegmentation) -> None:
    model.clip.vision_model.encoder.layers[0].mlp.fc1.weight.data.mul_(1.01)


def other_deviations(model: ClipSamForAnomalySegmentation) -> None:
    model.config.reference_deviations = 4.0


def other_text_weight(model: ClipSamForAnomalySegmentation) -> None:
    model.config.reference_text_weight = 0.5


@pytest.mark.parametrize("change", [other_weights, other_deviations, other_text_weight])
def test_another_model_is_refused(
    inference: ClipSamInference, change: Callable[[ClipSamForAnomalySegmentation], None]
) -> None:
    references = make(inference)
    other = ClipSamInference(copy.deepcopy(inference.model), inference.processor)
    change(other.model)
    with pytest.raises(ValueError, match="made with another model: .*Make them anew with this one"):
        take_references(other, references)


def test_another_product_is_refused(inference: ClipSamInference) -> None:
    with pytest.raises(ValueError, match="photograph of 'bottle' cannot be compared with references of 'candle'"):
        predict(inference, make(inference, class_name="candle"), photograph(9), class_name="bottle")


@pytest.mark.parametrize(("size", "warns"), [((32, 32), False), ((38, 32), False), ((64, 32), True), ((32, 50), True)])
def test_other_proportions_warn(inference: ClipSamInference, caplog: Any, size: tuple[int, int], warns: bool) -> None:
    references = make(inference)
    with library_log(caplog):
        predict(inference, references, photograph(9, size=size))
    assert (f"A photograph of {size[1]} x {size[0]} pixels" in caplog.text) is warns


def test_other_proportions_are_told_once(inference: ClipSamInference, caplog: Any) -> None:
    references = make(inference)
    with library_log(caplog):
        for _ in range(2):
            predict(inference, references, photograph(9, size=(64, 32)), photograph(8, size=(96, 32)))
    assert [caplog.text.count(f"of 32 x {height} pixels") for height in (64, 96)] == [1, 0]


def test_references_may_have_many_sizes(inference: ClipSamInference, caplog: Any) -> None:
    references = make(inference, [*GOOD[:3], photograph(5, size=(32, 64))])
    assert references.settings.sizes == [(32, 32)] * 3 + [(32, 64)]
    with library_log(caplog):
        predict(inference, references, photograph(9, size=(32, 50)))
    assert caplog.text == ""


def test_of_defective_photographs_what_is_good_counts(inference: ClipSamInference) -> None:
    mask = np.zeros((SIDE, SIDE), dtype=np.uint8)
    mask[8:16, 24:] = 255
    defective = [photograph(number, (1, 3)) for number in range(2)]
    references = make(inference, [*defective, *GOOD[2:]], defect_masks=[mask, mask, None, None])
    assert references.photographs.bincount().tolist() == [10, 10, 16, 16]  # tokens; six are at the defect
    plain = make(inference, [*defective, *GOOD[2:]])
    (found,), (missed,) = (predict(inference, each, photograph(9, (1, 3))) for each in (references, plain))
    assert found.pred_score > 0.9 > max(references.settings.scores) and found.pred_score > missed.pred_score


def test_masks_of_defects_are_checked(inference: ClipSamInference) -> None:
    everywhere = np.full((SIDE, SIDE), 255, dtype=np.uint8)
    with pytest.raises(ValueError, match="'photograph 2' is marked as defective everywhere"):
        make(inference, GOOD[:2], defect_masks=[None, everywhere])
    with pytest.raises(ValueError, match="`defect_masks` has 1 entries for 2 photographs"):
        make(inference, GOOD[:2], defect_masks=[None])
