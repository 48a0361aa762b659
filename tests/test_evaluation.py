# SPDX-FileCopyrightText: 2026 The clipsam_hf authors
# SPDX-License-Identifier: Apache-2.0
"""Evaluation: the figures are those of the maps, however the run was cut, cached, interrupted or shared."""

import csv
import io
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from clipsam_hf import AnomalyMetrics, ClipSamForAnomalySegmentation, ClipSamProcessor
from clipsam_hf.data import AnomalyDataset, AnomalyFolder
from clipsam_hf.evaluation import EvaluationOptions, check_output, evaluate, evaluate_sets
from clipsam_hf.evaluation.collect import collect_results, merge_groups, plan_groups
from clipsam_hf.evaluation.plan import cut_into_chunks, plan_examples
from clipsam_hf.evaluation.processes import choose_device
from clipsam_hf.evaluation.protocol import describe_settings, differing_settings
from clipsam_hf.evaluation.report import ALL_KINDS, FILE_NAMES, MEAN, EvaluationResults, ResultRow
from clipsam_hf.evaluation.state import Embedding, EmbeddingCache, StateFolder
from clipsam_hf.evaluation.writers import FORMATS
from clipsam_hf.evaluation.writers.as_text import to_combined_text
from clipsam_hf.files import describe_differences, fingerprint, open_atomically
from clipsam_hf.metrics import FIGURES, resize_mask
from clipsam_hf.pipeline_clipsam import TASK, ZeroShotAnomalySegmentationPipeline


# Noise has more regions above its median than the two that keep these tests fast
pytestmark = pytest.mark.filterwarnings("ignore:.* regions are above the threshold:UserWarning")

Parts = tuple[ClipSamForAnomalySegmentation, ClipSamProcessor]
SMALL = EvaluationOptions(size=48)


def save_photograph(path: Path, *, has_defect: bool, mask_path: Path | None = None, seed: int = 0) -> None:
    """Writes noise of 24 x 40 with, perhaps, a bright blob and its mask."""
    generator = np.random.default_rng(seed)
    pixels = generator.integers(0, 128, (24, 40, 3), dtype=np.uint8)
    mask = np.zeros((24, 40), dtype=np.uint8)
    if has_defect:
        row, column = generator.integers(2, 14), generator.integers(2, 30)
        mask[row : row + 6, column : column + 7] = 255
        pixels[mask > 0] = 255
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    if mask_path is not None:
        mask_path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(mask).save(mask_path)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Two categories in MVTec-AD's layout; "plate" has two kinds of defects, "ring" has one."""
    root = tmp_path / "tree"
    for category, kinds in (("plate", ("good", "bent", "scratch")), ("ring", ("good", "bent"))):
        for kind in kinds:
            for number in range(2):
                mask = root / category / "ground_truth" / kind / f"{number:03d}_mask.png" if kind != "good" else None
                photograph = root / category / "test" / kind / f"{number:03d}.png"
                seed = 100 * kinds.index(kind) + 10 * number + len(category)
                save_photograph(photograph, has_defect=kind != "good", mask_path=mask, seed=seed)
    return root


@pytest.fixture
def data(tree: Path) -> AnomalyFolder:
    return AnomalyFolder(tree)


@pytest.fixture
def parts(tiny_checkpoint: Path, data: AnomalyFolder) -> Parts:
    """A loaded model with few sentences, whose rough maps have regions for SAM."""
    model = ClipSamForAnomalySegmentation.from_pretrained(tiny_checkpoint)
    processor = ClipSamProcessor.from_pretrained(tiny_checkpoint)
    processor.normal_states, processor.abnormal_states = ["{}", "perfect {}"], ["damaged {}"]
    processor.prompt_templates = ["a photo of a {}."]
    pipe = ZeroShotAnomalySegmentationPipeline(model=model, processor=processor, task=TASK)
    rough = pipe(data[0].load_image(), class_name="plate", refine=False)["anomaly_map"]
    model.config.binarize_threshold = float(np.median(rough))
    model.config.max_regions = 2
    return model, processor


def figures_of(results: EvaluationResults | None) -> dict[tuple[str, str, str], Any]:
    """All figures as JSON has them: NaN, which differs from itself, as None."""
    assert results is not None
    rows = json.loads(results.to("json"))["rows"]
    return {(row["map_name"], row["category"], row["kind"]): row["figures"] for row in rows}


def stop_after(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets a run be interrupted when it is about to keep one chunk more."""
    save, calls = StateFolder.save, []

    def interrupted(self: StateFolder, *args: Any) -> None:
        calls.append(args)
        if len(calls) > count:
            raise KeyboardInterrupt
        save(self, *args)

    monkeypatch.setattr(StateFolder, "save", interrupted)


def count_images(model: ClipSamForAnomalySegmentation, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Returns a list to which each forward pass adds its number of images."""
    sizes: list[int] = []
    forward = model.forward

    def counted(**kwargs: Any) -> Any:
        sizes.append(len(kwargs["pixel_values"]))
        return forward(**kwargs)

    monkeypatch.setattr(model, "forward", counted)
    return sizes


# --------------------------------------------------------------------------------------------------------------------
# The figures


def test_native_figures_are_those_of_the_pipelines_maps(parts: Parts, data: AnomalyFolder) -> None:
    model, processor = parts
    pipe = ZeroShotAnomalySegmentationPipeline(model=model, processor=processor, task=TASK)
    expected = {"rough": AnomalyMetrics(), "refined": AnomalyMetrics()}
    for sample in data:
        for name, metrics in expected.items():
            result = pipe(sample.load_image(), class_name=sample.class_name, refine=name == "refined")
            metrics.update(result["anomaly_map"], sample.load_mask(), sample.category, image_score=result["score"])
    results = evaluate(model, processor, data, EvaluationOptions(size=None))
    assert results is not None
    for name, metrics in expected.items():
        figures = metrics.compute()
        for category in ("plate", "ring"):
            assert results.find(name, category).figures == pytest.approx(figures["categories"][category], nan_ok=True)
        assert results.find(name).figures == pytest.approx(figures["mean"], nan_ok=True)
    assert results.find("rough").figures["pixel_auroc"] != results.find("refined").figures["pixel_auroc"]


@pytest.mark.parametrize("look", ["tiles", "region"])
def test_tiles_and_a_region_of_interest_are_those_of_the_pipeline(
    parts: Parts, tree: Path, tmp_path: Path, look: str
) -> None:
    model, processor = parts
    roi = np.zeros((4, 4), dtype=np.uint8)
    roi[:, :2] = 255
    Image.fromarray(roi).save(tmp_path / "roi.png")
    given: dict[str, Any] = {"tile": 32} if look == "tiles" else {"roi_mask": tmp_path / "roi.png"}
    pipe = ZeroShotAnomalySegmentationPipeline(model=model, processor=processor, task=TASK)
    data, metrics = AnomalyFolder(tree, category="ring"), AnomalyMetrics()
    for sample in data:
        result = pipe(sample.load_image(), class_name=sample.class_name, refine=False, **{"tile": None, **given})
        metrics.update(result["anomaly_map"], sample.load_mask(), sample.category, image_score=result["score"])
    results = evaluate(model, processor, data, EvaluationOptions(size=None, refine=False, **given))
    assert results is not None
    assert results.find("rough", "ring").figures == pytest.approx(metrics.compute()["categories"]["ring"], nan_ok=True)
    (note,) = (note for note in results.notes if "tiles" in note or "region of interest" in note)
    assert note in results.to_text()
    assert results.protocol["photographs"]["tile"] == given.get("tile")
    plain = evaluate(model, processor, data, EvaluationOptions(size=None, refine=False))
    assert plain is not None and "photographs" not in plain.protocol
    assert plain.find("rough", "ring").figures != results.find("rough", "ring").figures


def test_the_file_of_a_region_of_interest_is_read_once(tmp_path: Path) -> None:
    path = tmp_path / "roi.png"
    Image.fromarray(np.eye(2, dtype=np.uint8)).save(path)
    options = EvaluationOptions(roi_mask=path)
    path.unlink()
    assert options.roi is not None and options.roi.tolist() == [[True, False], [False, True]]
    with pytest.raises(FileNotFoundError):
        EvaluationOptions(roi_mask=path)


@pytest.mark.parametrize("rule", ["nearest", "bilinear"])
def test_maps_and_masks_meet_in_a_square(parts: Parts, data: AnomalyFolder, rule: str) -> None:
    model, processor = parts
    expected = AnomalyMetrics()
    for sample in data:
        inputs = processor(images=sample.load_image(), text=sample.class_name, return_tensors="pt")
        inputs.pop("original_sizes")
        with torch.no_grad():
            outputs = model(**inputs)
        resized = torch.nn.functional.interpolate(outputs.anomaly_map[None], size=(48, 48), mode="bilinear")[0, 0]
        mask = resize_mask(sample.load_mask(), (48, 48), rule)
        expected.update(resized, mask, sample.category, image_score=float(outputs.pred_score))
    results = evaluate(model, processor, data, EvaluationOptions(size=48, mask_resize=rule))
    assert results is not None
    assert results.find("refined").figures == pytest.approx(expected.compute()["mean"], nan_ok=True)
    assert results.protocol["comparison"]["mask_resize"] == rule


def test_without_refinement_the_rough_figures_are_the_same(parts: Parts, data: AnomalyFolder) -> None:
    both = figures_of(evaluate(*parts, data, SMALL))
    alone = figures_of(evaluate(*parts, data, EvaluationOptions(size=48, refine=False)))
    assert alone == {key: figures for key, figures in both.items() if key[0] == "rough"}


@pytest.mark.parametrize("image_score", ["max", "text"])
def test_rough_maps_have_scores_of_their_own_kind(parts: Parts, data: AnomalyFolder, image_score: str) -> None:
    parts[0].config.image_score = image_score
    both = figures_of(evaluate(*parts, data, SMALL))
    alone = figures_of(evaluate(*parts, data, EvaluationOptions(size=48, refine=False)))
    assert both["rough", MEAN, ALL_KINDS] == alone["rough", MEAN, ALL_KINDS]


def test_a_kind_of_defect_is_compared_with_the_good_images(parts: Parts, data: AnomalyFolder, tree: Path) -> None:
    figures = figures_of(evaluate(*parts, data, SMALL))
    assert {kind for _, category, kind in figures if category == "ring"} == {ALL_KINDS}
    for folder in ("test", "ground_truth"):
        for path in sorted((tree / "plate" / folder / "scratch").glob("*")):
            path.unlink()
        (tree / "plate" / folder / "scratch").rmdir()
    only_bent = figures_of(evaluate(*parts, AnomalyFolder(tree), SMALL))
    for name in ("rough", "refined"):
        assert figures[name, "plate", "bent"] == only_bent[name, "plate", ALL_KINDS]


def test_batches_and_readers_do_not_matter(parts: Parts, data: AnomalyFolder) -> None:
    one = evaluate(*parts, data, SMALL)
    many = evaluate(*parts, data, SMALL, batch_size=2, num_workers=1)
    assert one is not None and many is not None
    for row, other in zip(one.rows, many.rows, strict=True):
        assert row.figures == pytest.approx(other.figures, abs=1e-4, nan_ok=True)


def test_streaming_bounds_the_exact_figures(parts: Parts, data: AnomalyFolder) -> None:
    exact = evaluate(*parts, data, SMALL)
    streamed = evaluate(*parts, data, EvaluationOptions(size=48, streaming=True))
    assert exact is not None and streamed is not None
    for row in streamed.rows:
        figures = exact.find(row.map_name, row.category, row.kind).figures
        assert row.intervals
        for name, (low, high) in row.intervals.items():
            assert low - 1e-12 <= figures[name] <= high + 1e-12
    assert "[" in streamed.to_text()


def test_class_name_reaches_the_text(parts: Parts, data: AnomalyFolder) -> None:
    named = evaluate(*parts, data, EvaluationOptions(size=48, class_name="candle"))
    assert named is not None
    assert named.protocol["data"]["class_names"] == {"plate": "candle", "ring": "candle"}
    assert figures_of(named) != figures_of(evaluate(*parts, data, SMALL))


def test_limit_keeps_good_and_abnormal_images_of_each_category(parts: Parts, data: AnomalyFolder) -> None:
    results = evaluate(*parts, data, EvaluationOptions(size=48, limit=2))
    assert results is not None
    for category in ("plate", "ring"):
        counts = results.find("rough", category).counts
        assert (counts["images"], counts["abnormal_images"]) == (2, 1)


def test_labels_without_masks_give_image_figures(parts: Parts, tmp_path: Path) -> None:
    for kind in ("good", "bad"):
        for number in range(2):
            save_photograph(tmp_path / "plain" / kind / f"{number}.png", has_defect=kind == "bad", seed=number)
    results = evaluate(*parts, AnomalyFolder(tmp_path / "plain"), SMALL)
    assert results is not None
    figures = results.find("refined").figures
    assert math.isnan(figures["pixel_auroc"]) and 0 <= figures["image_auroc"] <= 1
    assert any("no pixel figures" in note for note in results.notes)


def test_a_hugging_face_dataset_gives_the_same_figures(parts: Parts, data: AnomalyFolder) -> None:
    dataset = AnomalyDataset(data.to_hf_dataset(), class_names={"plate": "plate", "ring": "ring"})
    assert figures_of(evaluate(*parts, dataset, SMALL)) == figures_of(evaluate(*parts, data, SMALL))


# --------------------------------------------------------------------------------------------------------------------
# Interruption


def test_an_interrupted_run_goes_on_and_ends_the_same(
    parts: Parts, data: AnomalyFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = figures_of(evaluate(*parts, data, SMALL))
    output = tmp_path / "output"
    with monkeypatch.context() as patch:
        stop_after(3, patch)
        with pytest.raises(KeyboardInterrupt):
            evaluate(*parts, data, SMALL, output_dir=output)
    assert [path.name for path in output.iterdir()] == ["state"]
    sizes = count_images(parts[0], monkeypatch)
    assert figures_of(evaluate(*parts, data, SMALL, output_dir=output)) == whole
    assert sum(sizes) == len(data) - 3 * 2  # chunks of one category and kind: two images each
    assert sorted(path.name for path in output.iterdir()) == sorted(FILE_NAMES.values())


def test_another_protocol_does_not_go_on(
    parts: Parts, data: AnomalyFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        stop_after(1, patch)
        with pytest.raises(KeyboardInterrupt):
            evaluate(*parts, data, SMALL, output_dir=tmp_path / "output")
    parts[0].config.num_points = 2
    other = EvaluationOptions(size=64)
    with pytest.raises(ValueError, match=r"size: 48 then, 64 now\n.*num_points: 5 then, 2 now"):
        evaluate(*parts, data, other, output_dir=tmp_path / "output")
    anew = evaluate(*parts, data, other, output_dir=tmp_path / "output", overwrite=True)
    assert figures_of(anew) == figures_of(evaluate(*parts, data, other))


def test_other_weights_do_not_go_on(
    parts: Parts, data: AnomalyFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stop_after(1, monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        evaluate(*parts, data, SMALL, output_dir=tmp_path / "output")
    with torch.no_grad():
        next(parts[0].umci.parameters()).add_(0.1)
    with pytest.raises(ValueError, match="weights_sha256"):
        evaluate(*parts, data, SMALL, output_dir=tmp_path / "output")


@pytest.mark.parametrize(
    ("name", "value"),
    [("feature_layers", [2, 3]), ("scale_sizes", [2, 4]), ("hidden_act", "gelu"), ("score_top_fraction", 0.5)],
)
def test_models_that_differ_in_a_setting_have_different_protocols(
    parts: Parts, data: AnomalyFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: Any
) -> None:
    """The weights are the same, and the maps are not: their figures must not be mixed."""
    config = parts[0].config
    before = {"maps": ["rough"], **describe_settings(config)}
    with monkeypatch.context() as patch:
        stop_after(1, patch)
        with pytest.raises(KeyboardInterrupt):
            evaluate(*parts, data, SMALL, output_dir=tmp_path / "output")
    assert differing_settings(before, config) == []
    owner = config.clip_config.vision_config if name == "hidden_act" else config
    assert getattr(owner, name) != value
    setattr(owner, name, value)
    [difference] = differing_settings(before, config)
    assert ("clip_config" if name == "hidden_act" else name) in difference
    with pytest.raises(ValueError, match="under another protocol"):
        evaluate(*parts, data, SMALL, output_dir=tmp_path / "output")


def test_settings_of_the_refinement_do_not_part_rough_figures(parts: Parts) -> None:
    config = parts[0].config
    rough, both = ({"maps": maps, **describe_settings(config)} for maps in (["rough"], ["rough", "refined"]))
    config.num_points, config.decision_threshold = 3, 0.25
    assert differing_settings(rough, config) == []
    assert differing_settings(both, config) == ["refine.num_points: 5 then, 3 now"]


def test_chunks_without_their_protocol_are_not_trusted(tmp_path: Path) -> None:
    state = StateFolder(tmp_path / "state")
    state.open({"seed": 0})
    state.save(0, {"rough": AnomalyMetrics()})
    (tmp_path / "state" / "protocol.json").unlink()
    state.open({"seed": 1})
    assert not state.has(0)


def test_a_file_takes_its_place_only_when_it_is_complete(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"before")
    with pytest.raises(RuntimeError), open_atomically(path) as file:
        file.write(b"after")
        raise RuntimeError
    assert path.read_bytes() == b"before"
    assert list(tmp_path.iterdir()) == [path]


def test_differences_name_what_came_and_what_went() -> None:
    earlier, now = {"model": {"seed": 0, "old": 1}}, {"model": {"seed": 0, "new": 2}}
    assert describe_differences(earlier, now) == ["model.old: 1 then, None now", "model.new: None then, 2 now"]


# --------------------------------------------------------------------------------------------------------------------
# Several processes, several sets


@pytest.mark.parametrize("streaming", [False, True])
def test_processes_that_share_the_merge_give_the_report_of_one(
    data: AnomalyFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, streaming: bool
) -> None:
    options = EvaluationOptions(size=48, streaming=streaming)
    examples = plan_examples(data, options)
    chunks = cut_into_chunks(examples)
    state = StateFolder(tmp_path / "state")
    state.open({})
    generator = np.random.default_rng(0)
    for chunk in chunks:
        collected = {name: options.new_metrics() for name in options.map_names}
        for place in chunk.places:
            mask = resize_mask(data[place].load_mask(), (48, 48))
            for metrics in collected.values():
                metrics.update(generator.random((48, 48)), mask, chunk.category)
        state.save(chunk.number, collected)

    groups = plan_groups(chunks, options)
    assert [(group.map_name, group.category, group.kind) for group in groups[:4]] == [
        *(("rough", category, ALL_KINDS) for category in ("plate", "ring")),
        *(("rough", "plate", kind) for kind in ("bent", "scratch")),
    ]
    merged: list[int] = []
    load = StateFolder.load

    def counted(self: StateFolder, index: int, name: str) -> AnomalyMetrics:
        merged.append(index)
        return load(self, index, name)

    monkeypatch.setattr(StateFolder, "load", counted)
    reports, loads = [], []
    places = {example.place: example for example in examples}
    for total in (1, 3):
        for path in state.folder.glob("figures-*"):
            path.unlink()
        for rank in range(total):
            merged.clear()
            merge_groups(state, groups[rank::total], options)
            loads.append(len(merged))
        merged.clear()
        reports.append(collect_results(state, groups, options, {}, places))
        assert merged == []  # the first process reads figures only
    assert [reports[1].to(form) for form in FORMATS] == [reports[0].to(form) for form in FORMATS]
    assert sum(loads[1:]) == loads[0] and max(loads[1:]) <= loads[0] / 2


def test_a_missing_chunk_is_no_figure(data: AnomalyFolder, tmp_path: Path) -> None:
    state = StateFolder(tmp_path / "state")
    state.open({})
    groups = plan_groups(cut_into_chunks(plan_examples(data, SMALL)), SMALL)
    with pytest.raises(OSError, match="do all processes see the same folder"):
        merge_groups(state, groups, SMALL)


@pytest.fixture
def sets(data: AnomalyFolder, tree: Path) -> dict[str, AnomalyFolder]:
    return {"tree": data, "rings": AnomalyFolder(tree, category="ring")}


def test_several_sets_have_a_report_each_and_one_table(
    parts: Parts, sets: dict[str, AnomalyFolder], tmp_path: Path
) -> None:
    found = evaluate_sets(*parts, sets, SMALL, output_dir=tmp_path / "output")
    assert {name: figures_of(results) for name, results in found.items()} == {
        name: figures_of(evaluate(*parts, data, SMALL)) for name, data in sets.items()
    }
    assert sorted(path.name for path in (tmp_path / "output").iterdir()) == ["combined.txt", "rings", "tree"]
    text = (tmp_path / "output" / "combined.txt").read_text()
    lines = [line for line in text.splitlines() if line.startswith(("zero-shot", "tree", "rings"))]
    assert [line.split()[0] for line in lines] == 2 * ["zero-shot:", "tree", "rings"]
    rough = found["rings"].find("rough").figures["pixel_auroc"]
    assert lines[2].split()[1:4] == ["4", "2", f"{100 * rough:.1f}"]


def test_several_sets_go_on_where_they_were_interrupted(
    parts: Parts, sets: dict[str, AnomalyFolder], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "output"
    with monkeypatch.context() as patch:
        stop_after(6, patch)  # five chunks of the first set
        with pytest.raises(KeyboardInterrupt):
            evaluate_sets(*parts, sets, SMALL, output_dir=output)
    assert (output / "tree" / "results.json").exists() and (output / "rings" / "state").exists()
    before = (output / "tree" / "results.json").read_bytes()
    sizes = count_images(parts[0], monkeypatch)
    found = evaluate_sets(*parts, sets, SMALL, output_dir=output)
    assert sum(sizes) == 2
    assert found["tree"].to("json").encode() == before and "tree " in (output / "combined.txt").read_text()
    parts[0].config.score_top_fraction = 0.5
    with pytest.raises(ValueError, match=r"another protocol:\n.*score_top_fraction"):
        evaluate_sets(*parts, sets, SMALL, output_dir=output)


def test_protocols_stand_apart_in_the_table() -> None:
    comparison = {"size": 518, "mask_resize": "bilinear", "aupro": "rank-exact", "pixel_figures": "exact"}
    data = {"images": 3, "abnormal_images": 1}
    row = ResultRow("rough", MEAN, ALL_KINDS, {"pixel_auroc": 0.5})
    protocols = [
        {"setting": "zero-shot", "data": data, "comparison": comparison},
        {"setting": "seen in training", "data": data, "comparison": comparison},
        {"setting": "zero-shot", "data": data, "comparison": {**comparison, "size": 256}},
        {"setting": "zero-shot", "data": data, "comparison": comparison},
    ]
    text = to_combined_text(
        {name: EvaluationResults([row], each) for name, each in zip("abcd", protocols, strict=True)}
    )
    tables = [[line[:1] for line in block.splitlines()[2:]] for block in text.split("\n\n")[:3]]
    assert tables == [["a", "d"], ["b"], ["c"]]


@pytest.mark.parametrize("name", ["tree", "Tree"])
def test_a_set_that_was_trained_on_is_told(parts: Parts, data: AnomalyFolder, name: str) -> None:
    parts[0].config.auxiliary_dataset = f"visa + {name}"
    with pytest.warns(UserWarning, match="the model was trained on 'tree'"):
        results = evaluate(*parts, data, SMALL)
    assert results is not None
    assert results.to_text().startswith("seen in training: tree\n") and "the model was trained on" in results.to_text()
    parts[0].config.auxiliary_dataset = "visa + trees"
    results = evaluate(*parts, data, SMALL)
    assert results is not None and results.to("markdown").startswith("# Results, zero-shot: tree\n")


@pytest.mark.parametrize("device", ["nonsense", "cuda:x", "meta", "cpu,cuda"])
def test_a_device_that_is_not_there_is_named(device: str) -> None:
    with pytest.raises(ValueError, match=f"the device '{device}' cannot be used here: .") as caught:
        choose_device(device)
    assert "\n" not in str(caught.value)


# --------------------------------------------------------------------------------------------------------------------
# The cache of SAM's embeddings


def test_cached_embeddings_replace_sams_encoder(
    parts: Parts, data: AnomalyFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without = evaluate(*parts, data, SMALL)
    first = evaluate(*parts, data, SMALL, cache_dir=tmp_path / "cache")
    assert without is not None and first is not None
    for row, other in zip(without.rows, first.rows, strict=True):
        assert row.figures == pytest.approx(other.figures, abs=1e-4, nan_ok=True)

    def refuse(*args: Any) -> None:
        raise AssertionError("SAM's encoder runs")

    parts[0].config.num_points = 2
    swept = figures_of(evaluate(*parts, data, SMALL))
    monkeypatch.setattr(parts[0].sam, "get_image_embeddings", refuse)
    parts[0].config.num_points = 5
    assert figures_of(evaluate(*parts, data, SMALL, cache_dir=tmp_path / "cache")) == figures_of(first)
    parts[0].config.num_points = 2
    cached = figures_of(evaluate(*parts, data, SMALL, cache_dir=tmp_path / "cache"))
    for key, figures in swept.items():
        assert cached[key] == pytest.approx(figures, abs=1e-4)


def test_cache_knows_photographs_and_networks_apart(parts: Parts, tmp_path: Path) -> None:
    network = parts[0].sam.vision_encoder
    key = fingerprint(network, "1024")
    assert key == fingerprint(network, "1024") != fingerprint(network, "512")
    embeddings = torch.arange(4.0).view(1, 1, 2, 2), torch.arange(3.0).view(1, 3)
    EmbeddingCache(tmp_path, key).save("a", Embedding(embeddings, torch.tensor([[2, 1]])))
    with torch.no_grad():
        next(network.parameters()).view(-1)[0] += 1
    assert fingerprint(network, "1024") != key
    loaded = EmbeddingCache(tmp_path, key).load("a")
    assert loaded is not None and loaded.reshaped_input_sizes.tolist() == [[2, 1]]
    assert [each.tolist() for each in loaded.image_embeddings] == [[[[[0, 1], [2, 3]]]], [[0, 1, 2]]]
    assert EmbeddingCache(tmp_path, key).load("b") is None
    assert EmbeddingCache(tmp_path, fingerprint(network, "1024")).load("a") is None


def test_fingerprint_reads_bfloat16(parts: Parts) -> None:
    assert len(fingerprint(parts[0].sam.to(torch.bfloat16))) == 16


# --------------------------------------------------------------------------------------------------------------------
# What is written


def test_maps_are_saved_as_they_were_scored(parts: Parts, data: AnomalyFolder, tmp_path: Path) -> None:
    output = tmp_path / "output"
    results = evaluate(*parts, data, EvaluationOptions(size=None), output_dir=output, save_maps=True)
    assert results is not None
    metrics = AnomalyMetrics()
    for sample in data:
        path = output / "maps" / "rough" / f"{sample.image_path.relative_to(data.root)}.tiff"
        metrics.update(np.asarray(Image.open(path)), sample.load_mask(), sample.category)
    assert metrics.compute()["mean"]["pixel_ap"] == results.find("rough").figures["pixel_ap"]
    assert len(list((output / "maps" / "refined").rglob("*.tiff"))) == len(data)


def test_protocol_says_what_the_figures_depend_on(parts: Parts, data: AnomalyFolder, tmp_path: Path) -> None:
    evaluate(*parts, data, SMALL, output_dir=tmp_path / "output", model_name="tiny")
    protocol = json.loads((tmp_path / "output" / "results.json").read_text())["protocol"]
    assert protocol["data"]["layout"] == "mvtec" and protocol["data"]["images"] == len(data) == 10
    assert protocol["comparison"]["size"] == 48 and "exact" in protocol["comparison"]["pixel_figures"]
    assert "rank-exact" in protocol["comparison"]["aupro"] and "F1-max" in protocol["comparison"]["thresholds"]
    assert protocol["model"]["name"] == "tiny" and len(protocol["model"]["weights_sha256"]) == 16
    assert protocol["refine"]["num_points"] == 5 and protocol["seed"] == 0
    assert {"clipsam_hf", "torch", "transformers"} <= protocol["versions"].keys()
    for name in FILE_NAMES.values():
        if not name.endswith(".csv"):
            assert "weights_sha256" in (tmp_path / "output" / name).read_text()


def test_every_image_has_its_scores(parts: Parts, data: AnomalyFolder, tmp_path: Path) -> None:
    model, processor = parts
    results = evaluate(*parts, data, SMALL, output_dir=tmp_path / "output")
    assert results is not None
    pipe = ZeroShotAnomalySegmentationPipeline(model=model, processor=processor)
    by_path = {image.path: image for image in results.images}

    assert len(by_path) == len(data)
    for sample in data:
        image = by_path[sample.image_path.relative_to(data.root).as_posix()]
        assert (image.category, image.kind) == (sample.category, sample.defect_type)
        expected = pipe(sample.load_image(), class_name=sample.class_name)["score"]
        assert image.scores["refined"] == pytest.approx(expected, abs=1e-6)
    lines = (tmp_path / "output" / "images.csv").read_text().splitlines()
    assert lines[0] == "path,category,kind,rough_score,refined_score"
    first = results.images[0]
    assert lines[1].split(",")[:3] == [first.path, first.category, first.kind]
    assert float(lines[1].split(",")[4]) == first.scores["refined"]


ROW = ResultRow("rough", "=cmd|x", ALL_KINDS, {"pixel_auroc": 0.875, "image_auroc": math.nan}, {"images": 3})


@pytest.mark.parametrize("form", ["text", "csv", "json", "markdown"])
def test_every_listed_figure_is_in_every_format(form: str) -> None:
    """And one that is not listed is an error in each of them, where it once vanished without a word."""
    rows = [ResultRow("rough", "nut", ALL_KINDS, {name: 0.125 for name in FIGURES})]
    text = EvaluationResults(rows, {}).to(form)
    shown = {
        "text": [figure.heading for figure in FIGURES.values() if figure.in_terminal],
        "markdown": [f"| {figure.heading} " for figure in FIGURES.values()],
    }.get(form, list(FIGURES))
    assert [name for name in shown if name not in text] == []
    with pytest.raises(ValueError, match="'pixel_pro'"):
        EvaluationResults([ResultRow("rough", "nut", ALL_KINDS, {"pixel_pro": 0.5})], {}).to(form)


def test_unknown_format_is_named() -> None:
    with pytest.raises(ValueError, match="got 'xlsx'"):
        EvaluationResults([ROW], {}).to("xlsx")


def test_text_shows_percent_and_a_dash_for_nothing() -> None:
    protocol = {"setting": "zero-shot", "data": {"name": "tiles"}, "seed": 0}
    lines = EvaluationResults([ROW], protocol, ["beware"]).to_text().splitlines()
    assert lines[:2] == ["zero-shot: tiles", ""]
    assert lines[2].split("  ") == ["rough map", "images", "abnormal", "px AUROC", "im AUROC"]
    assert lines[3].split() == ["=cmd|x", "3", "-", "87.5", "-"]
    assert "note: beware" in lines and "  seed: 0" in lines


def test_csv_runs_no_formula_and_leaves_nothing_empty() -> None:
    [row] = csv.DictReader(io.StringIO(EvaluationResults([ROW], {}).to("csv")))
    assert row["category"] == "'=cmd|x"
    assert (row["pixel_auroc"], row["image_auroc"], row["images"]) == ("0.875", "", "3")


def test_json_has_null_for_nothing() -> None:
    [row] = json.loads(EvaluationResults([ROW], {}).to("json"))["rows"]
    assert row["figures"] == {"pixel_auroc": 0.875, "image_auroc": None}


def test_markdown_keeps_names_inside_their_cells() -> None:
    text = EvaluationResults([ROW], {"name": "a|b\n<script>"}).to("markdown")
    assert "| =cmd\\|x | 3 | - | 87.50 | - |" in text
    assert "| `name` | a\\|b &lt;script> |" in text


def test_legacy_aupro_is_labelled_wherever_it_is_shown(parts: Parts, data: AnomalyFolder) -> None:
    results = evaluate(*parts, data, EvaluationOptions(size=48, aupro_linear200=True))
    assert results is not None
    for text in (results.to_text(), results.to("markdown")):
        assert "LEGACY AUPRO-linear200" in text and "for comparison with papers only" in " ".join(text.split())
    assert "legacy_aupro_linear200" in results.to("csv")


# --------------------------------------------------------------------------------------------------------------------
# What cannot be


def test_an_untrained_head_is_refused(
    tiny_model: ClipSamForAnomalySegmentation, tiny_processor: ClipSamProcessor, data: AnomalyFolder
) -> None:
    with pytest.raises(ValueError, match="random weights"):
        evaluate(tiny_model, tiny_processor, data)


def test_images_without_any_truth_are_refused(parts: Parts, tmp_path: Path) -> None:
    save_photograph(tmp_path / "plain" / "1.png", has_defect=False)
    with pytest.raises(ValueError, match="neither a mask nor a label"):
        evaluate(*parts, AnomalyFolder(tmp_path / "plain"), output_dir=tmp_path / "output")
    assert not (tmp_path / "output").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": 0}, "size"),
        ({"limit": -1}, "limit"),
        ({"mask_resize": "bicubic"}, "bicubic"),
        ({"aupro_limit": 2.0}, "aupro_limit"),
        ({"streaming": True, "aupro_linear200": True}, "streaming"),
    ],
)
def test_options_out_of_range_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        EvaluationOptions(**options)


@pytest.mark.parametrize(
    "options", [{"batch_size": 0}, {"num_workers": -1}, {"save_maps": True}, {"cache_dir": __file__}]
)
def test_a_request_that_cannot_end_well_is_refused(parts: Parts, data: AnomalyFolder, options: dict[str, Any]) -> None:
    with pytest.raises((ValueError, OSError), match=next(iter(options))):
        evaluate(*parts, data, SMALL, **options)


def make_file(folder: Path) -> None:
    folder.write_text("a file")


def make_results(folder: Path) -> None:
    folder.mkdir()
    (folder / "results.json").write_text("{}")


def make_others(folder: Path) -> None:
    folder.mkdir()
    (folder / "thesis.tex").write_text("years of work")


@pytest.mark.parametrize(
    ("prepare", "error", "message"),
    [
        (make_file, NotADirectoryError, "is a file"),
        (make_results, FileExistsError, "already holds results"),
        (make_others, FileExistsError, "already holds files"),
    ],
)
def test_output_that_is_in_use_is_refused(
    tmp_path: Path, prepare: Callable[[Path], None], error: type[Exception], message: str
) -> None:
    prepare(tmp_path / "output")
    with pytest.raises(error, match=message):
        check_output(tmp_path / "output")


def test_overwriting_replaces_results_and_nothing_else(parts: Parts, data: AnomalyFolder, tmp_path: Path) -> None:
    make_results(tmp_path / "output")
    (tmp_path / "output" / "thesis.tex").write_text("years of work")
    evaluate(*parts, data, SMALL, output_dir=tmp_path / "output", overwrite=True)
    assert (tmp_path / "output" / "thesis.tex").read_text() == "years of work"
    assert json.loads((tmp_path / "output" / "results.json").read_text())["rows"]


def test_checking_the_output_makes_nothing(tmp_path: Path) -> None:
    check_output(tmp_path / "new" / "folder")
    assert list(tmp_path.iterdir()) == []
