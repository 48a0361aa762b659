# SPDX-FileCopyrightText: 2026 The clipsam_hf authors
# SPDX-License-Identifier: Apache-2.0
"""Regions get the most similar name, and whether it is a guess, by a CLIP whose answers are known."""

import json
from math import log
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow.parquet
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from clipsam_hf import cli
from clipsam_hf.inference_clipsam import ClipSamInference, PreparedImage
from clipsam_hf.naming_clipsam import MAX_NAMED, check_defect_names, name_regions
from clipsam_hf.pipeline_clipsam import TASK, ZeroShotAnomalySegmentationPipeline


WORDS = {"red": (1.0, 0.0, 0.0), "green": (0.0, 1.0, 0.0), "blue": (0.0, 0.0, 1.0)}


class ColourSight:
    """Stands for a model: an image's embedding is its mean colour, a text's the colour that it names."""

    def __init__(self, general: tuple[float, float, float] = (0.5, 0.5, 0.5), scale: float = 10.0) -> None:
        self.general = general
        self.device = torch.device("cpu")
        self.clip = SimpleNamespace(
            dtype=torch.float32,
            logit_scale=torch.tensor(log(scale)),
            vision_model=lambda pixel_values, **_: SimpleNamespace(pooler_output=pixel_values.mean(dim=(2, 3))),
            visual_projection=lambda pooled: pooled,
        )

    @property
    def inference(self) -> Any:
        def processor(images: list[Image.Image], **_: Any) -> dict[str, torch.Tensor]:
            pixels = [np.asarray(image.resize((8, 8), Image.Resampling.BOX)) / 255 for image in images]
            return {"pixel_values": torch.tensor(np.stack(pixels)).permute(0, 3, 1, 2).float()}

        def embed_states(class_name: str, states: list[str]) -> torch.Tensor:
            assert states[0] == "{} with a defect" and class_name == "cloth"
            words = [state.removeprefix("{} with a ") for state in states[1:]]
            return torch.tensor([self.general, *(WORDS[word] for word in words)])

        return SimpleNamespace(model=self, processor=processor, embed_states=embed_states)


def prepared(*spots: tuple[tuple[int, int], tuple[int, int, int]]) -> PreparedImage:
    """A black photograph with squares of 40 pixels."""
    pixels = np.zeros((400, 600, 3), dtype=np.uint8)
    for (x, y), colour in spots:
        pixels[y : y + 40, x : x + 40] = colour
    return PreparedImage("cloth", (400, 600), {}, photograph=torch.from_numpy(pixels))


def region(x: int, y: int, side: int = 40) -> dict[str, Any]:
    return {"box": {"xmin": x, "ymin": y, "xmax": x + side, "ymax": y + side}, "score": 0.5, "area": side**2}


def test_each_region_gets_the_name_of_what_it_shows() -> None:
    places = [(20, 30), (560, 360), (300, 200)]  # one of them in the corner
    image = prepared(*zip(places, [(255, 0, 0), (0, 0, 255), (0, 255, 0)], strict=True))
    named = name_regions(ColourSight().inference, image, [region(*place) for place in places], list(WORDS))
    assert [each["defect_name"] for each in named] == ["red", "blue", "green"]
    assert not any(each["defect_is_guess"] for each in named)
    for each, place in zip(named, places, strict=True):
        assert {key: each[key] for key in ("box", "score", "area")} == region(*place)


def test_the_score_is_the_share_among_the_names() -> None:
    # Cosines 0.8 and 0.6 times 10: the odds are e squared
    image = prepared(((300, 200), (200, 150, 0)))
    (named,) = name_regions(ColourSight().inference, image, [region(300, 200)], ["green", "red"])
    assert named["defect_name"] == "red"
    assert named["defect_score"] == pytest.approx(1 / (1 + np.exp(-2.0)), abs=1e-5)


@pytest.mark.parametrize(
    ("colour", "names", "general", "is_guess"),
    [
        ((200, 150, 0), ["red", "green"], (0.0, 0.0, 0.0), False),
        ((200, 195, 0), ["red", "green"], (0.0, 0.0, 0.0), True),  # the next is nearly as probable
        ((200, 150, 0), ["red", "green"], (0.8, 0.6, 0.0), True),  # just some defect is more similar
        ((255, 0, 0), ["red"], (0.5, 0.5, 0.5), False),
        ((0, 0, 255), ["red"], (0.5, 0.5, 0.5), True),  # the only name, and not similar
    ],
)
def test_it_is_said_when_a_name_is_a_guess(colour: Any, names: list[str], general: Any, is_guess: bool) -> None:
    image = prepared(((300, 200), colour))
    (named,) = name_regions(ColourSight(general).inference, image, [region(300, 200)], names)
    assert named["defect_is_guess"] is is_guess


def test_surroundings_belong_to_the_crop() -> None:
    # A quarter of a crop is the region itself; the green round it outweighs it
    image = prepared(((300, 200), (255, 0, 0)), ((260, 200), (0, 255, 0)), ((340, 200), (0, 255, 0)))
    (named,) = name_regions(ColourSight().inference, image, [region(300, 200)], list(WORDS))
    assert named["defect_name"] == "red" and named["defect_score"] < 0.9
    assert name_regions(ColourSight().inference, image, [], list(WORDS)) == []


def test_of_many_regions_the_first_are_named() -> None:
    named = name_regions(ColourSight().inference, prepared(), [region(0, 0)] * (MAX_NAMED + 2), ["red"])
    assert [each["defect_name"] for each in named] == ["red"] * MAX_NAMED + [None, None]


@pytest.mark.parametrize(
    ("names", "error"),
    [("scratch", TypeError), ([1], TypeError), ([], ValueError), (["a", " "], ValueError), (["a", "a "], ValueError)],
)
def test_names_that_are_none_raise(names: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match="`defect_names` must be"):
        check_defect_names(names)


@pytest.fixture
def pipe(tiny_model: Any, tiny_processor: Any) -> ZeroShotAnomalySegmentationPipeline:
    tiny_processor.normal_states, tiny_processor.abnormal_states = ["perfect {}"], ["damaged {}"]
    tiny_processor.prompt_templates = ["a photo of a {}."]
    tiny_model.head_is_trained = True
    return ZeroShotAnomalySegmentationPipeline(model=tiny_model, processor=tiny_processor, task=TASK)


def test_states_are_embedded_once(pipe: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    inference = ClipSamInference(pipe.model, pipe.processor)
    states = ["perfect {}", "damaged {}"]
    embeds = inference.embed_states("candle", states)
    torch.testing.assert_close(embeds[None], inference.embed("candle"))
    monkeypatch.setattr(pipe.model, "get_text_embeddings", None)
    assert inference.embed_states("candle", states) is embeds
    with pytest.raises(TypeError):
        inference.embed_states("candle", ["broken {}"])


def test_pipeline_folder_and_command_name_alike(pipe: Any, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "in" / "a.png")
    pipe.save_pretrained(tmp_path / "model")
    options = {"class_name": "candle", "threshold": 0.4, "refine": False}
    result = pipe(tmp_path / "in" / "a.png", defect_names=["hole", "defect of the object"], **options)
    assert result["regions"] and "defect" in result._repr_html_()
    plain = pipe(tmp_path / "in" / "a.png", **options)
    keys = ("defect_name", "defect_score", "defect_is_guess")
    assert plain["regions"] == [{k: v for k, v in each.items() if k not in keys} for each in result["regions"]]
    json.dumps(result["regions"])

    command = ["predict", str(tmp_path / "in"), "--output", str(tmp_path / "out"), "--class-name", "candle"]
    command += ["--model", str(tmp_path / "model"), "--threshold", "0.4", "--no-refine", "--num-workers", "0"]
    command += ["--defect-names", "hole, defect of the object", "--format", "parquet", "--device", "cpu"]
    ran = CliRunner().invoke(cli.app, command)
    assert ran.exit_code == 0, ran.output
    (row,) = pyarrow.parquet.read_table(tmp_path / "out" / "predictions.parquet").to_pylist()
    assert [each["defect_name"] for each in row["regions"]] == [each["defect_name"] for each in result["regions"]]
    assert row["regions"][0]["defect_score"] == pytest.approx(result["regions"][0]["defect_score"], abs=1e-5)
