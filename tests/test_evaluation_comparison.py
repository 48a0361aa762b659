# SPDX-FileCopyrightText: 2026 The clipsam_hf authors
# SPDX-License-Identifier: Apache-2.0
"""Evaluation by comparison: which photographs are references, and that a report says which protocol it followed."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from test_cli import run
from test_evaluation import Parts, figures_of, save_photograph, stop_after
from test_evaluation import data as data
from test_evaluation import tree as tree

from clipsam_hf import (
    AnomalyMetrics,
    ClipSamForAnomalySegmentation,
    ClipSamProcessor,
    ClipSamReferences,
    mutual_clipsam,
)
from clipsam_hf.cards.evaluations import check_evaluation
from clipsam_hf.data import AnomalyDataset, AnomalyFolder
from clipsam_hf.evaluation import EvaluationOptions, evaluate, evaluate_sets
from clipsam_hf.evaluation.comparison import GoodPhotographs, MutualComparison, choose_comparison
from clipsam_hf.evaluation.plan import Example, plan_examples
from clipsam_hf.evaluation.processes import join_processes
from clipsam_hf.evaluation.protocol import differing_settings
from clipsam_hf.evaluation.report import EvaluationResults
from clipsam_hf.evaluation.writers.as_text import to_combined_text
from clipsam_hf.inference_clipsam import ClipSamInference
from clipsam_hf.pipeline_clipsam import TASK, ZeroShotAnomalySegmentationPipeline


pytestmark = pytest.mark.filterwarnings("ignore:.* regions are above the threshold:UserWarning")

ONE_SHOT = EvaluationOptions(size=48, refine=False, references_per_category=1)
TWO_SHOT = EvaluationOptions(size=48, refine=False, references_per_category=2)
MUTUAL = EvaluationOptions(size=48, refine=False, mutual=True)
TEXTS = EvaluationOptions(size=48, refine=False)


@pytest.fixture
def parts(tiny_model: ClipSamForAnomalySegmentation, tiny_processor: ClipSamProcessor) -> Parts:
    """A model with few sentences that compares photographs by their patches alone."""
    tiny_processor.normal_states, tiny_processor.abnormal_states = ["{}", "perfect {}"], ["damaged {}"]
    tiny_processor.prompt_templates = ["a photo of a {}."]
    weights = {"reference_text_weight": 0.0, "mutual_text_weight": 0.0}
    tiny_model.config.update({**weights, "reference_neighbourhoods": (1,), "max_regions": 2})
    tiny_model.head_is_trained = True
    return tiny_model, tiny_processor


@pytest.fixture
def with_train(tree: Path) -> Path:
    """The tree, with five good photographs of each category to train on."""
    for category in ("plate", "ring"):
        for number in range(5):
            save_photograph(
                tree / category / "train" / "good" / f"{number:03d}.png", has_defect=False, seed=50 + number
            )
    return tree


def choose(data: Any, options: EvaluationOptions) -> tuple[GoodPhotographs, list[Example], list[Example]]:
    examples = plan_examples(data, options)
    comparison, kept = choose_comparison(data, examples, options)
    assert isinstance(comparison, GoodPhotographs)
    return comparison, examples, list(kept)


def chosen_paths(comparison: GoodPhotographs) -> dict[str, list[Path]]:
    return {category: [Path(each.image_path) for each in found] for category, found in comparison.chosen.items()}


# --------------------------------------------------------------------------------------------------------------------
# Which photographs are references


def test_they_come_from_the_train_split(with_train: Path) -> None:
    comparison, examples, kept = choose(AnomalyFolder(with_train), TWO_SHOT)
    assert kept == examples
    for category, paths in chosen_paths(comparison).items():
        assert len(set(paths)) == 2
        assert all(path.parent == with_train / category / "train" / "good" for path in paths)
    described = comparison.describe()
    assert described["references_of"] == "good photographs of the train split"
    assert (described["references_per_category"], described["references_seed"]) == (2, 0)


def test_without_a_train_split_they_are_scored_ones_that_are_left_out(data: AnomalyFolder) -> None:
    comparison, examples, kept = choose(data, ONE_SHOT)
    left_out = [example for example in examples if example not in kept]
    assert [(example.category, example.kind) for example in left_out] == [("plate", "good"), ("ring", "good")]
    assert [data[example.place].image_path for example in left_out] == [
        path for paths in chosen_paths(comparison).values() for path in paths
    ]
    assert "left out of the figures" in comparison.describe()["references_of"]


def test_each_category_has_its_own_source(with_train: Path) -> None:
    for path in sorted((with_train / "ring" / "train" / "good").iterdir())[1:]:
        path.unlink()
    save_photograph(with_train / "ring" / "test" / "good" / "002.png", has_defect=False, seed=7)
    comparison, examples, kept = choose(AnomalyFolder(with_train), TWO_SHOT)
    assert len(examples) - len(kept) == 2
    assert comparison.describe()["references_of"].startswith(
        "good photographs of the train split and good photographs"
    )


def test_no_reported_photograph_is_a_reference(with_train: Path) -> None:
    """Even where the train split is reported too: then the references are left out."""
    data = AnomalyFolder(with_train, split=None)
    comparison, examples, kept = choose(data, TWO_SHOT)
    assert len(kept) == len(examples) - 4
    reported = {Path(data[example.place].image_path).resolve() for example in kept}
    assert not reported & {path.resolve() for paths in chosen_paths(comparison).values() for path in paths}


def test_a_link_to_a_reported_photograph_is_no_reference(with_train: Path) -> None:
    for category in ("plate", "ring"):
        for number in range(5):
            path = with_train / category / "train" / "good" / f"{number:03d}.png"
            path.unlink()
            path.symlink_to(with_train / category / "test" / "good" / f"{number % 2:03d}.png")
    comparison, examples, kept = choose(AnomalyFolder(with_train), ONE_SHOT)
    assert len(kept) == len(examples) - 2 and "left out" in comparison.describe()["references_of"]


def test_a_limit_does_not_make_the_others_references(tmp_path: Path) -> None:
    """A folder without splits has no train split: what the limit leaves out is of the scored one."""
    for kind, count in (("good", 4), ("bent", 2)):
        for number in range(count):
            save_photograph(tmp_path / kind / f"{number}.png", has_defect=kind != "good", seed=number)
    comparison, examples, kept = choose(
        AnomalyFolder(tmp_path), EvaluationOptions(size=48, references_per_category=1, limit=4)
    )
    assert "train" not in comparison.describe()["references_of"] and len(kept) == len(examples) - 1


def test_the_seed_changes_the_draw(with_train: Path) -> None:
    data = AnomalyFolder(with_train)
    drawn = [
        choose(data, EvaluationOptions(size=48, references_per_category=2, seed=seed))[0] for seed in (0, 0, 1, 2, 3)
    ]
    paths = [chosen_paths(each) for each in drawn]
    assert paths[0] == paths[1] and any(paths[0] != other for other in paths[2:])
    assert paths[0]["plate"] != [with_train / "plate" / "train" / "good" / path.name for path in paths[0]["ring"]]
    assert drawn[0].describe()["references_sha256"] == drawn[1].describe()["references_sha256"]


def test_a_data_set_of_the_hub_gives_its_scored_ones(data: AnomalyFolder) -> None:
    dataset = AnomalyDataset(data.to_hf_dataset(), class_names={"plate": "plate", "ring": "ring"})
    _, examples, kept = choose(dataset, ONE_SHOT)
    assert len(kept) == len(examples) - 2


def test_too_few_good_photographs_are_refused(parts: Parts, data: AnomalyFolder) -> None:
    with pytest.raises(
        ValueError, match="'plate' has 0 good photographs in the train split and 2 in the scored one: too few for 2"
    ):
        evaluate(*parts, data, TWO_SHOT)


def test_one_photograph_of_a_category_cannot_be_compared(parts: Parts, tmp_path: Path) -> None:
    for name, count in (("plate", 2), ("ring", 1)):
        for number in range(count):
            save_photograph(
                tmp_path / name / "test" / "bent" / f"{number:03d}.png",
                has_defect=True,
                mask_path=tmp_path / name / "ground_truth" / "bent" / f"{number:03d}_mask.png",
            )
    with pytest.raises(ValueError, match="category 'ring' has one photograph: nothing to compare it with"):
        evaluate(*parts, AnomalyFolder(tmp_path), MUTUAL, output_dir=tmp_path / "output")
    assert not (tmp_path / "output").exists()


def test_two_protocols_at_once_are_refused(tree: Path) -> None:
    with pytest.raises(ValueError, match="`mutual` and `references_per_category` are two protocols: choose one"):
        EvaluationOptions(mutual=True, references_per_category=1)
    result = run("evaluate", tree, "--mutual", "--references-per-category", "2")
    assert result.exit_code != 0 and "two protocols: choose one" in result.output


@pytest.mark.parametrize(
    "options", [{"references_per_category": 0}, {"references_per_category": 1.5}, {"seed": -1}, {"seed": True}]
)
def test_options_out_of_range_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(options))):
        EvaluationOptions(**options)


# --------------------------------------------------------------------------------------------------------------------
# The figures


def test_figures_are_those_of_the_pipeline_with_the_same_references(parts: Parts, with_train: Path) -> None:
    data = AnomalyFolder(with_train)
    comparison, _, _ = choose(data, TWO_SHOT)
    pipe = ZeroShotAnomalySegmentationPipeline(model=parts[0], processor=parts[1], task=TASK)
    expected = {name: AnomalyMetrics() for name in ("rough", "refined")}
    references = {
        category: ClipSamReferences.from_images(*parts, paths, class_name=category)
        for category, paths in chosen_paths(comparison).items()
    }
    for sample in data:
        for name, metrics in expected.items():
            result = pipe(
                {"image": sample.load_image(), "class_name": sample.class_name},
                references=references[str(sample.category)],
                refine=name == "refined",
            )
            metrics.update(result["anomaly_map"], sample.load_mask(), sample.category, image_score=result["score"])
    results = evaluate(*parts, data, EvaluationOptions(size=None, references_per_category=2))
    assert results is not None
    for name, metrics in expected.items():
        assert results.find(name).figures == pytest.approx(metrics.compute()["mean"], nan_ok=True)


def test_mutual_figures_are_those_of_the_pipeline(parts: Parts, data: AnomalyFolder) -> None:
    pipe = ZeroShotAnomalySegmentationPipeline(model=parts[0], processor=parts[1], task=TASK)
    expected = AnomalyMetrics()
    for category in ("plate", "ring"):
        samples = [sample for sample in data if sample.category == category]
        found = pipe([sample.load_image() for sample in samples], references="mutual", refine=False)
        for sample, result in zip(samples, found, strict=True):
            expected.update(result["anomaly_map"], sample.load_mask(), category, image_score=result["score"])
    results = evaluate(*parts, data, EvaluationOptions(size=None, mutual=True, refine=False))
    assert results is not None
    assert results.find("rough").figures == pytest.approx(expected.compute()["mean"], nan_ok=True)


@pytest.mark.parametrize("options", [ONE_SHOT, MUTUAL], ids=["references", "mutual"])
def test_batches_and_readers_do_not_matter(parts: Parts, data: AnomalyFolder, options: EvaluationOptions) -> None:
    one = evaluate(*parts, data, options)
    many = evaluate(*parts, data, options, batch_size=2, num_workers=1)
    assert one is not None and many is not None
    for row, other in zip(one.rows, many.rows, strict=True):
        assert row.figures == pytest.approx(other.figures, abs=1e-3, nan_ok=True)


@pytest.mark.parametrize(("options", "weight"), [(ONE_SHOT, "reference_text_weight"), (MUTUAL, "mutual_text_weight")])
def test_the_head_is_needed_where_texts_have_a_share(
    parts: Parts, data: AnomalyFolder, options: EvaluationOptions, weight: str
) -> None:
    parts[0].head_is_trained = False
    assert evaluate(*parts, data, options) is not None
    setattr(parts[0].config, weight, 0.25)
    with pytest.raises(ValueError, match="train"):
        evaluate(*parts, data, options)


# --------------------------------------------------------------------------------------------------------------------
# The report


@pytest.mark.parametrize(
    ("options", "setting"), [(TEXTS, "zero-shot"), (ONE_SHOT, "1-shot"), (MUTUAL, "transductive")]
)
def test_the_first_line_names_the_protocol(
    parts: Parts, data: AnomalyFolder, tmp_path: Path, options: EvaluationOptions, setting: str
) -> None:
    results = evaluate(*parts, data, options, output_dir=tmp_path / "output")
    assert results is not None
    assert results.to_text().splitlines()[0] == f"{setting}: tree"
    protocol = json.loads((tmp_path / "output" / "results.json").read_text())["protocol"]
    assert protocol["setting"] == setting and ("reference" in protocol) is (setting != "zero-shot")
    assert protocol["data"].get("references_per_category") == (1 if setting == "1-shot" else None)
    assert protocol["data"].get("mutual_seed") == (0 if setting == "transductive" else None)
    assert protocol["data"]["images"] == len(data) - (2 if setting == "1-shot" else 0)
    line = check_evaluation(json.loads(results.to("json")), parts[0]).describe()
    assert line.startswith("test split" if setting == "zero-shot" else f"{setting}, test split")


@pytest.mark.parametrize("options", [ONE_SHOT, MUTUAL], ids=["references", "mutual"])
def test_a_set_that_was_trained_on_is_told(parts: Parts, data: AnomalyFolder, options: EvaluationOptions) -> None:
    parts[0].config.auxiliary_dataset = "tree"
    with pytest.warns(UserWarning, match="was trained on 'tree'"):
        results = evaluate(*parts, data, options)
    assert results is not None
    setting = "transductive" if options.mutual else "1-shot"
    assert results.to_text().partition(":")[0] == f"{setting}, seen in training"


def test_protocols_stand_in_tables_of_their_own(parts: Parts, data: AnomalyFolder) -> None:
    found: dict[str, EvaluationResults] = {}
    for name, options in (("a", TEXTS), ("b", ONE_SHOT), ("c", MUTUAL), ("d", TEXTS)):
        results = evaluate(*parts, data, options)
        assert results is not None
        found[name] = results
    titles = [line for line in to_combined_text(found).splitlines() if "rough maps" in line]
    assert [title.partition(":")[0] for title in titles] == ["zero-shot", "1-shot", "transductive"]


def test_several_sets(parts: Parts, tree: Path, tmp_path: Path) -> None:
    sets = {"tree": AnomalyFolder(tree), "rings": AnomalyFolder(tree, category="ring")}
    found = evaluate_sets(*parts, sets, MUTUAL, output_dir=tmp_path / "output")
    alone = evaluate(*parts, sets["rings"], MUTUAL)
    assert figures_of(found["rings"]) == figures_of(alone)
    text = (tmp_path / "output" / "combined.txt").read_text()
    assert text.startswith("transductive: rough maps")


def test_a_card_takes_figures_of_the_same_settings_alone(parts: Parts, data: AnomalyFolder) -> None:
    reports = {}
    for name, options in (("texts", TEXTS), ("references", ONE_SHOT)):
        results = evaluate(*parts, data, options)
        assert results is not None
        reports[name] = json.loads(results.to("json"))
    scored = check_evaluation(reports["references"], parts[0])
    names = {(entry.task_name, entry.metric_name.split(", ")[2]) for entry in scored.to_eval_results()}
    assert names == {("1-shot anomaly segmentation", "1-shot")}
    parts[0].config.reference_deviations = 4.0
    assert differing_settings(reports["texts"]["protocol"], parts[0].config) == []
    (line,) = differing_settings(reports["references"]["protocol"], parts[0].config)
    assert "reference_deviations" in line
    with pytest.raises(ValueError, match=r"of other settings than the model's: reference\.reference_deviations"):
        check_evaluation(reports["references"], parts[0])


# --------------------------------------------------------------------------------------------------------------------
# Interruption


@pytest.mark.parametrize("options", [ONE_SHOT, MUTUAL], ids=["references", "mutual"])
def test_an_interrupted_run_goes_on_and_ends_the_same(
    parts: Parts, data: AnomalyFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: EvaluationOptions
) -> None:
    whole = figures_of(evaluate(*parts, data, options))
    with monkeypatch.context() as patch:
        stop_after(2, patch)
        with pytest.raises(KeyboardInterrupt):
            evaluate(*parts, data, options, output_dir=tmp_path / "output")
    descriptions = sorted((tmp_path / "output" / "state").rglob("*.safetensors"))
    assert len(descriptions) == (len(data) if options.mutual else 0)
    described: list[Any] = []
    monkeypatch.setattr("clipsam_hf.mutual_clipsam._save", lambda *arguments: described.append(arguments))
    assert figures_of(evaluate(*parts, data, options, output_dir=tmp_path / "output")) == whole
    assert not described and not (tmp_path / "output" / "state").exists()


def test_a_run_that_was_killed_while_it_described_goes_on(
    parts: Parts, data: AnomalyFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = figures_of(evaluate(*parts, data, MUTUAL))
    save, calls = mutual_clipsam._save, []

    def killed(path: Path, tensors: Any) -> None:
        calls.append(path)
        if len(calls) == 4:
            raise KeyboardInterrupt
        save(path, tensors)

    with monkeypatch.context() as patch:
        patch.setattr(mutual_clipsam, "_save", killed)
        with pytest.raises(KeyboardInterrupt):
            evaluate(*parts, data, MUTUAL, output_dir=tmp_path / "output")
    calls.clear()
    monkeypatch.setattr(mutual_clipsam, "_save", lambda path, tensors: (calls.append(path), save(path, tensors)))
    assert figures_of(evaluate(*parts, data, MUTUAL, output_dir=tmp_path / "output")) == whole
    assert len(calls) == len(data) - 3


def other_seed(parts: Parts) -> EvaluationOptions:
    return EvaluationOptions(size=48, refine=False, mutual=True, seed=1)


def other_protocol(parts: Parts) -> EvaluationOptions:
    return ONE_SHOT


def other_settings(parts: Parts) -> EvaluationOptions:
    parts[0].config.mutual_fraction = 0.9
    return MUTUAL


@pytest.mark.parametrize(
    ("change", "message"),
    [(other_seed, "mutual_seed"), (other_protocol, "setting"), (other_settings, "mutual_fraction")],
)
def test_another_protocol_does_not_go_on(
    parts: Parts,
    data: AnomalyFolder,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    change: Callable[[Parts], EvaluationOptions],
    message: str,
) -> None:
    with monkeypatch.context() as patch:
        stop_after(2, patch)
        with pytest.raises(KeyboardInterrupt):
            evaluate(*parts, data, MUTUAL, output_dir=tmp_path / "output")
    options = change(parts)
    with pytest.raises(ValueError, match=f"another protocol:\n(.*\n)*.*{message}"):
        evaluate(*parts, data, options, output_dir=tmp_path / "output")


def test_kinds_are_not_known_to_the_comparison(data: AnomalyFolder) -> None:
    """Photographs are numbered in the order of the data, not good ones first."""
    examples = plan_examples(data, MUTUAL)
    comparison, kept = choose_comparison(data, examples, MUTUAL)
    assert isinstance(comparison, MutualComparison) and list(kept) == examples
    for category in ("plate", "ring"):
        places = sorted(example.place for example in examples if example.category == category)
        assert [comparison.number_of(place) for place in places] == list(range(len(places)))


def test_one_category_is_in_the_memory_at_a_time(parts: Parts, data: AnomalyFolder, tmp_path: Path) -> None:
    examples = plan_examples(data, MUTUAL)
    comparison, _ = choose_comparison(data, examples, MUTUAL)
    inference = ClipSamInference(*parts)
    comparison.prepare(inference, tmp_path, join_processes("cpu"))
    for category, other in (("plate", "ring"), ("ring", "plate")):
        mutual = comparison.at(category)
        image = Image.fromarray(np.zeros((24, 40, 3), dtype=np.uint8))
        inference.predict([inference.prepare(image, refine=False)], mutual)
        assert mutual._loaded and not comparison._mutual[other]._loaded


def test_a_report_says_how_good_the_verdicts_of_the_references_are(with_train: Path, parts: Parts) -> None:
    results = evaluate(*parts, AnomalyFolder(with_train), TWO_SHOT)
    assert results is not None
    notes = [note for note in results.notes if "own threshold" in note]
    assert [note.partition(":")[0] for note in notes] == ["plate", "ring"]
    comparison, _, _ = choose(AnomalyFolder(with_train), TWO_SHOT)
    comparison.prepare(ClipSamInference(*parts), with_train / "compared", join_processes("cpu"))
    threshold = comparison.at("ring").decision_threshold
    found = [row.scores["rough"] > threshold for row in results.images if (row.category, row.kind) == ("ring", "bent")]
    assert len(found) == 2 and f", {threshold:.3f}, {sum(found)} of 2 abnormal" in notes[1]


def test_without_a_good_photograph_good_parts_of_defective_ones_are_references(tree: Path, parts: Parts) -> None:
    for category in ("plate", "ring"):
        shutil.rmtree(tree / category / "test" / "good")
    options = EvaluationOptions(size=48, references_per_category=3)
    with pytest.raises(
        ValueError, match="0 good photographs in the train split and 0 in the scored one: too few for 3"
    ):
        choose(AnomalyFolder(tree), options)
    results = evaluate(*parts, AnomalyFolder(tree, category="plate"), options)
    assert results is not None and len(results.images) == 1
    assert results.to_text().startswith("3-shot of good parts: ")
    assert "good parts of defective photographs" in results.protocol["data"]["references_of"]
