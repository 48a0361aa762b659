# SPDX-FileCopyrightText: 2026 The clipsam_hf authors
# SPDX-License-Identifier: Apache-2.0
"""The card of a model: its figures come from the evaluation's file, and some figures must not stand on it."""

import copy
import json
import os
import re
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from huggingface_hub import ModelCard
from package_blocker import BLOCK_PACKAGE
from PIL import Image

from clipsam_hf import ClipSamConfig, ClipSamForAnomalySegmentation, ClipSamProcessor
from clipsam_hf.cards.card import build_card
from clipsam_hf.cards.evaluations import CARD_FIGURES, check_evaluation
from clipsam_hf.evaluation.protocol import describe_settings
from clipsam_hf.files import fingerprint
from clipsam_hf.pipeline_clipsam import ZeroShotAnomalySegmentationPipeline
from clipsam_hf.publishing_clipsam import TASK, _minimal_card


pytest.importorskip("jinja2")

RUN = {
    "command": "accelerate launch examples/train.py --dataset_name visa --data_dir VisA",
    "seed": 3,
    "data": {"name": "visa", "split": "test", "num_images": 2162, "num_abnormal_images": 1200},
    "num_train_steps": 1622,
    "seconds": 12.3,
    "device": "cuda",
    "num_processes": 8,
    "versions": {"clipsam_hf": "0.1.0", "torch": "2.13.0"},
}


@pytest.fixture
def model(tiny_model: ClipSamForAnomalySegmentation) -> ClipSamForAnomalySegmentation:
    tiny_model.head_is_trained = True
    config = tiny_model.config
    config.auxiliary_dataset, config.auxiliary_epochs, config.auxiliary_seed = "visa", 6, 3
    config.clip_name_or_path, config.clip_revision = "openai/clip", "c" * 40
    config.sam_name_or_path, config.sam_revision = "facebook/sam", "d" * 40
    config.binarize_threshold = 0.4321
    return tiny_model


@pytest.fixture
def evaluation(model: ClipSamForAnomalySegmentation) -> dict[str, Any]:
    """What `results.json` holds, with figures that are found nowhere else."""

    def row(map_name: str, category: str, first: float, kind: str = "all") -> dict[str, Any]:
        figures = {name: first + 0.01 * place for place, name in enumerate(CARD_FIGURES)}
        return {"map_name": map_name, "category": category, "kind": kind, "figures": figures, "counts": {}}

    names = ("rough", 0.11), ("refined", 0.51)
    rows = [
        row(name, category, first + add)
        for name, first in names
        for category, add in (("bottle", 0.1), ("cable", 0.2), ("mean", 0.15))
    ]
    return {
        "rows": [*rows, row("rough", "cable", 0.9, kind="bent")],
        "protocol": {
            "data": {
                "name": "mvtec_anomaly_detection",
                "layout": "mvtec",
                "split": "test",
                "class_names": {"bottle": "bottle", "cable": "cable"},
                "images": 233,
                "abnormal_images": 155,
                "limit_per_category": None,
                "list_sha256": "0123456789abcdef",
            },
            "comparison": {
                "size": 518,
                "mask_resize": "bilinear",
                "pixel_figures": "exact, by rank",
                "aupro": "rank-exact",
                "thresholds": "the F1-max threshold",
            },
            "model": {"weights_sha256": fingerprint(model), "dtype": "float32", "name": "x"},
            "maps": ["rough", "refined"],
            **describe_settings(model.config),
            "seed": 0,
            "versions": {"torch": "2.13.0"},
        },
        "notes": ["cable has an <odd> mask | one"],
    }


def card_of(model: ClipSamForAnomalySegmentation, **kwargs: Any) -> ModelCard:
    return build_card(model, **{"model_id": "org/clipsam-visa", "license": "apache-2.0", **kwargs})


@pytest.mark.parametrize("localizer", ["vv", "windows", "similarity"])
def test_a_localizer_without_training_is_named(tiny_config: ClipSamConfig, localizer: str) -> None:
    untrained = ClipSamForAnomalySegmentation(ClipSamConfig(**{**tiny_config.to_dict(), "localizer": localizer}))
    assert f'without training: CLIP\'s likeness of places and texts (`localizer="{localizer}"`)' in str(
        card_of(untrained)
    )


def test_metadata(model: ClipSamForAnomalySegmentation) -> None:
    data = card_of(model).data.to_dict()
    assert data == {
        "base_model": ["openai/clip", "facebook/sam"],
        "base_model_relation": "adapter",
        "datasets": ["visa"],
        "language": "en",
        "library_name": "transformers",
        "license": "apache-2.0",
        "tags": ["anomaly-detection", "clipsam", TASK],
    }


def test_model_index_holds_the_means_with_map_and_protocol(
    model: ClipSamForAnomalySegmentation, evaluation: dict[str, Any]
) -> None:
    results = card_of(model, evaluations=[evaluation]).data.eval_results
    assert [(result.metric_type, result.metric_value) for result in results] == [
        (name, row["figures"][name])
        for row in evaluation["rows"]
        if row["category"] == "mean"
        for name in CARD_FIGURES
    ]
    assert {(result.dataset_type, result.dataset_name, result.dataset_split) for result in results} == {
        ("mvtec", "MVTec-AD", "test")
    }
    assert results[0].metric_name == (
        "pixel AUROC, rough map, test split, 233 images, 155 abnormal, 518 x 518 px, masks bilinear,"
        " mean of 2 categories"
    )


def test_every_figure_of_the_results_is_in_the_file_of_the_evaluation(
    model: ClipSamForAnomalySegmentation, evaluation: dict[str, Any], tmp_path: Path
) -> None:
    file = tmp_path / "results.json"
    file.write_text(json.dumps(evaluation))
    text = card_of(model, evaluations=[file], training=RUN).content
    section = text.partition("## Results")[2].partition("## Limits")[0]
    shown = re.findall(r"(?<=\| )\d+\.\d(?= \|)", section)
    stored = [
        f"{100 * row['figures'][name]:.1f}"
        for mean in (True, False)
        for row in evaluation["rows"]
        if row["kind"] == "all" and (row["category"] == "mean") == mean
        for name in CARD_FIGURES
    ]
    assert shown == stored and len(stored) == 42


def test_card_without_evaluation_holds_no_figure_and_says_so(model: ClipSamForAnomalySegmentation) -> None:
    card = card_of(model)
    assert "has not been evaluated" in card.content and card.data.eval_results is None
    assert not re.search(r"\d+\.\d \|", card.content.partition("## Results")[2])


def test_undefined_figure_is_a_dash_and_not_in_the_index(
    model: ClipSamForAnomalySegmentation, evaluation: dict[str, Any]
) -> None:
    evaluation["rows"][2]["figures"]["pixel_ap"] = None
    card = card_of(model, evaluations=[evaluation])
    assert "| rough | 26.0 | - |" in card.content
    assert len(card.data.eval_results) == 2 * len(CARD_FIGURES) - 1


def test_training_is_told(model: ClipSamForAnomalySegmentation) -> None:
    text = card_of(model, training=RUN).content
    for part in (
        "**trained on VisA**",
        f"```bash\n{RUN['command']}\n```",
        "| set | VisA, test split |",
        "| images | 2162, 1200 of them abnormal |",
        "| epochs | 6, fixed beforehand |",
        "| steps | 1622 |",
        "| seed | 3 |",
        "| time | 12 s on 8 x cuda |",
        "| versions | clipsam_hf 0.1.0, torch 2.13.0 |",
        f"| CLIP | openai/clip, commit `{'c' * 40}` |",
        "0.4321 on the rough map",
        "VisA: CC BY 4.0",
    ):
        assert part in text


def python_blocks(card: ModelCard) -> list[str]:
    return re.findall(r"```python\n(.*?)```", card.content, re.DOTALL)


def test_use_names_the_repository_and_the_class(model: ClipSamForAnomalySegmentation) -> None:
    pipeline_block, auto_block = python_blocks(card_of(model, example_class_name='a "nut"'))
    assert 'model="org/clipsam-visa"' in pipeline_block and r'class_name="a \"nut\""' in pipeline_block
    assert 'from_pretrained("org/clipsam-visa", ' in auto_block and r'text="a \"nut\""' in auto_block


# What the Hub shows of a model whose library is transformers, whose code is its own, and which has no pipeline tag
OF_THE_HUB = """
from transformers import AutoModel
model = AutoModel.from_pretrained("org/clipsam-visa", trust_remote_code=True, dtype="auto")
"""


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_what_is_shown_runs_as_shown_without_the_package(
    model: ClipSamForAnomalySegmentation, tiny_processor: ClipSamProcessor, tmp_path: Path
) -> None:
    pipe = ZeroShotAnomalySegmentationPipeline(model=model, processor=tiny_processor)
    pipe.save_pretrained(tmp_path / "org" / "clipsam-visa")
    Image.fromarray(np.zeros((24, 40, 3), np.uint8)).save(tmp_path / "photo.jpg")
    minimal = _minimal_card("org/clipsam-visa", model.config)
    blocks = [*python_blocks(card_of(model, example_class_name="candle")), *python_blocks(minimal), OF_THE_HUB]
    assert len(blocks) == 4 and "pipeline_tag" not in minimal.data.to_dict()
    script = "\n".join(
        [BLOCK_PACKAGE, *blocks, "assert type(model).__name__ == 'ClipSamForAnomalySegmentation', type(model)"]
    )
    run = subprocess.run(
        [sys.executable, "-c", script],
        cwd=tmp_path,
        env={**os.environ, "HF_MODULES_CACHE": str(tmp_path / "modules"), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert run.returncode == 0, run.stderr
    with Image.open(tmp_path / "mask.png") as mask:
        assert (mask.mode, mask.size) == ("L", (40, 24))


def test_names_of_folders_cannot_break_the_tables(
    model: ClipSamForAnomalySegmentation, evaluation: dict[str, Any]
) -> None:
    evaluation["protocol"]["data"] |= {"layout": "folder", "name": "my | <b>set</b>"}
    text = card_of(model, evaluations=[evaluation]).content.partition("\n# ")[2]
    assert "my \\| &lt;b>set" in text and "&lt;odd> mask \\| one" in text


@pytest.mark.parametrize(
    ("trained_on", "data"),
    [
        ("mvtec", {}),
        ("visa + mvtec", {}),
        ("my_tiles", {"layout": "folder", "name": "my_tiles"}),
        ("My_Tiles", {"layout": "meta", "name": "my_tiles"}),
    ],
)
def test_evaluation_on_the_training_set_is_refused(
    model: ClipSamForAnomalySegmentation, evaluation: dict[str, Any], trained_on: str, data: dict[str, Any]
) -> None:
    model.config.auxiliary_dataset = trained_on
    evaluation["protocol"]["data"] |= data
    with pytest.raises(ValueError, match="on which the model was trained"):
        card_of(model, model_id="org/clipsam-visa-mvtec", evaluations=[evaluation])


def test_training_file_alone_is_enough_to_refuse(
    model: ClipSamForAnomalySegmentation, evaluation: dict[str, Any]
) -> None:
    model.config.auxiliary_dataset = None
    training = {**RUN, "data": {**RUN["data"], "name": "mvtec"}}  # type: ignore[dict-item]
    with pytest.raises(ValueError, match="on which the model was trained"):
        card_of(model, model_id="org/clipsam-mvtec", evaluations=[evaluation], training=training)


def test_evaluation_of_other_weights_is_refused(
    model: ClipSamForAnomalySegmentation, evaluation: dict[str, Any]
) -> None:
    before = copy.deepcopy(evaluation)
    model.umci[0].fuse.bias.data.fill_(0.75)
    with pytest.raises(ValueError, match="of other weights"):
        card_of(model, evaluations=[before])


@pytest.mark.parametrize(
    ("name", "value"),
    [("feature_layers", [2, 1]), ("scale_sizes", [3, 5]), ("merge", "average"), ("score_top_fraction", 0.5)],
)
def test_evaluation_of_other_settings_is_refused(
    model: ClipSamForAnomalySegmentation, evaluation: dict[str, Any], name: str, value: Any
) -> None:
    setattr(model.config, name, value)
    with pytest.raises(ValueError, match=f"of other settings than the model's: [a-z]+.{name}: "):
        check_evaluation(evaluation, model)


def test_thresholds_of_verdicts_change_no_figure(
    model: ClipSamForAnomalySegmentation, evaluation: dict[str, Any]
) -> None:
    model.config.mask_threshold, model.config.decision_threshold = 0.25, 0.75
    assert check_evaluation(evaluation, model).means()


def test_evaluation_that_does_not_say_its_settings_is_refused(
    model: ClipSamForAnomalySegmentation, evaluation: dict[str, Any]
) -> None:
    del evaluation["protocol"]["localize"]
    with pytest.raises(ValueError, match="of other settings"):
        check_evaluation(evaluation, model)


def test_what_is_no_evaluation_is_refused(model: ClipSamForAnomalySegmentation, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="'rows' and 'protocol'"):
        card_of(model, evaluations=[RUN])
    (tmp_path / "list.json").write_text("[]")
    with pytest.raises(ValueError, match="no JSON object"):
        card_of(model, evaluations=[tmp_path / "list.json"])


def test_name_that_hides_the_training_set_warns(model: ClipSamForAnomalySegmentation) -> None:
    with pytest.warns(UserWarning, match="does not say the set that the model was trained on, VisA"):
        card_of(model, model_id="org/clipsam-best")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        card_of(model, model_id="org/ClipSAM-VisA")


@pytest.mark.parametrize(
    ("license", "expected", "sentence"),
    [
        ("MIT", {"license": "mit"}, "Licence of the weights: MIT."),
        ("My own", {"license": "other", "license_name": "My own"}, "Licence of the weights: My own."),
        (None, {}, "No licence is given"),
    ],
)
def test_licence(
    model: ClipSamForAnomalySegmentation, license: str | None, expected: dict[str, str], sentence: str
) -> None:
    card = card_of(model, license=license)
    assert {name: value for name, value in card.data.to_dict().items() if "license" in name} == expected
    assert sentence in card.content


def test_folders_of_this_machine_are_no_base_models(model: ClipSamForAnomalySegmentation, tmp_path: Path) -> None:
    model.config.clip_name_or_path = str(tmp_path)
    card = card_of(model)
    assert card.data.base_model == ["facebook/sam"] and str(tmp_path) not in card.content
    assert "| CLIP | see `config.json` |" in card.content and "| SAM | facebook/sam, commit" in card.content


def test_trained_clip_is_told(model: ClipSamForAnomalySegmentation) -> None:
    model.config.freeze_backbones = False
    card = card_of(model)
    assert card.data.to_dict()["base_model_relation"] == "finetune" and "CLIP was trained too" in card.content


def test_picture_lies_where_the_card_points(
    model: ClipSamForAnomalySegmentation, tiny_processor: ClipSamProcessor, tmp_path: Path
) -> None:
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (24, 40, 3), dtype=np.uint8))
    card = card_of(model, example_image=image, example_class_name="candle", processor=tiny_processor)
    card.save(tmp_path / "README.md")
    [target] = re.findall(r"!\[.*candle\]\((.+)\)", card.content)
    with Image.open(tmp_path / target) as picture:
        assert picture.width > 40 and picture.height > 24  # the scale and the score are in it
    assert ModelCard.load(tmp_path / "README.md").data.to_dict() == card.data.to_dict()


def test_picture_needs_the_processor(model: ClipSamForAnomalySegmentation) -> None:
    with pytest.raises(ValueError, match="`example_image` needs `processor`"):
        card_of(model, example_image=np.zeros((8, 8, 3), np.uint8))


def test_card_of_a_model_that_knows_nothing(tiny_model: ClipSamForAnomalySegmentation) -> None:
    card = build_card(tiny_model, model_id="org/clipsam")
    assert "is not recorded" in card.content and "## Training" not in card.content
    assert card.data.base_model is None and card.data.datasets is None
