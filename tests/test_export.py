# SPDX-FileCopyrightText: 2026 The clipsam_hf authors
# SPDX-License-Identifier: Apache-2.0
"""An export gives the model's answers without torch: its runner's functions one by one, and whole folders."""

import ast
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_sam_hq import make_sam_hq_config
from typer.testing import CliRunner

from clipsam_hf import EMBEDDED_CHECKPOINT, ClipSamForAnomalySegmentation, ClipSamProcessor, ClipSamReferences
from clipsam_hf.answers_clipsam import Answer, make_answer
from clipsam_hf.cli import app
from clipsam_hf.configuration_clipsam import ClipSamConfig
from clipsam_hf.data import AnomalyFolder
from clipsam_hf.export import export_onnx, runner
from clipsam_hf.export.folder import SETTINGS_NAME
from clipsam_hf.image_loading import ImageReadError, load_rgb
from clipsam_hf.inference_clipsam import ClipSamInference
from clipsam_hf.patches_clipsam import crop_roi, read_roi
from clipsam_hf.refinement_clipsam import RefinementOptions, merge_masks, resample_masks, resize_map
from clipsam_hf.refiner_clipsam import prepare_photographs
from clipsam_hf.regions_clipsam import Frame, build_prompts, describe_regions, judge, relative_threshold


ROOT = Path(__file__).parents[1]
ALLOWED_PACKAGES = {"numpy", "onnxruntime", "PIL"}
BLOCKER = """
import sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("clipsam_hf", "torch", "transformers", "scipy", "huggingface_hub", "onnx"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Blocker())
"""


def blobs(seed: int, height: int = 37, width: int = 53) -> np.ndarray:
    """A map in [0, 1] with parts of all sizes, some of which touch at corners."""
    generator = np.random.default_rng(seed)
    noise = torch.from_numpy(generator.random((1, 1, height // 3, width // 3), dtype=np.float32))
    smooth = torch.nn.functional.interpolate(noise, (height, width), mode="bilinear")[0, 0].numpy()
    return np.where(generator.random((height, width)) < 0.1, generator.random((height, width)), smooth).astype("f4")


def photograph(height: int = 61, width: int = 97, seed: int = 0) -> Image.Image:
    """Noise, smooth enough for a network to see more in it than grey, with a bright spot."""
    generator = np.random.default_rng(seed)
    coarse = Image.fromarray(generator.integers(0, 256, (7, 9, 3), dtype=np.uint8))
    image = coarse.resize((width, height), Image.Resampling.BICUBIC)
    image.paste((255, 255, 255), (width // 3, height // 3, width // 2, height // 2))
    return image


# --------------------------------------------------------------------------------------------------------------------
# The runner's functions


def test_runner_imports_what_it_promises_and_nothing_else() -> None:
    tree = ast.parse(Path(runner.__file__).read_text(encoding="utf-8"))
    imported = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    imported |= {node.module or "." for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    packages = {name.partition(".")[0] for name in imported}
    assert packages - sys.stdlib_module_names == ALLOWED_PACKAGES


@pytest.mark.parametrize("density", [0.0, 0.02, 0.3, 0.5, 0.7, 0.98, 1.0])
def test_parts_are_those_of_scipy(density: float) -> None:
    from scipy import ndimage

    for seed, shape in enumerate([(1, 1), (1, 40), (40, 1), (33, 47), (64, 64)]):
        foreground = np.random.default_rng(seed).random(shape) < density
        labels, boxes = runner.label_parts(foreground)
        expected, count = ndimage.label(foreground, structure=np.ones((3, 3)))
        np.testing.assert_array_equal(labels, expected)
        found = [
            (columns.start, rows.start, columns.stop, rows.stop) for rows, columns in ndimage.find_objects(expected)
        ]
        assert boxes.tolist() == [list(box) for box in found]
        assert len(boxes) == count


def test_a_spiral_is_one_part() -> None:
    spiral = np.zeros((41, 41), dtype=bool)
    row, column, step = 0, 0, (0, 1)
    spiral[0, 0] = True
    for length in [40, *(side for side in range(40, 0, -2) for _ in range(2))]:
        for _ in range(length):
            row, column = row + step[0], column + step[1]
            spiral[row, column] = True
        step = (step[1], -step[0])
    labels, boxes = runner.label_parts(spiral)
    assert labels.max() == 1
    assert boxes.tolist() == [[0, 0, 41, 41]]


@pytest.mark.parametrize("prompt_type", ["box_and_points", "box", "points"])
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.filterwarnings("ignore:.*max_regions")
def test_regions_and_prompts_are_those_of_the_package(prompt_type: str, seed: int) -> None:
    anomaly_map, content = blobs(seed), (29, 64)
    options = RefinementOptions(prompt_type=prompt_type, min_region_fraction=0.0005, max_regions=4, point_seed=seed)
    expected = options.find_regions(anomaly_map)
    found = runner.find_regions(anomaly_map, 0.5, asdict(options))
    assert [(region.box, region.peak) for region in found] == [(region.box, region.peak) for region in expected]
    assert len(found) > 1
    prompts = runner.build_prompts(found, anomaly_map, content, asdict(options))
    truth = build_prompts(expected, anomaly_map, Frame(content, 64), prompt_type=prompt_type, seed=seed)._asdict()
    assert set(prompts) == {name for name, value in truth.items() if value is not None}
    for name, value in prompts.items():
        np.testing.assert_array_equal(value, truth[name].numpy())


@pytest.mark.parametrize("seed", range(4))
def test_regions_of_a_result_are_those_of_the_package(seed: int) -> None:
    anomaly_map = blobs(seed)
    mask = anomaly_map > 0.6
    assert runner.describe_regions(anomaly_map, mask) == describe_regions(anomaly_map, mask)


def test_relative_threshold_is_that_of_the_package() -> None:
    for anomaly_map in (blobs(0), 0.2 * blobs(1), np.full((4, 5), 0.3, np.float32), np.ones((3, 3), np.float32)):
        assert runner.relative_threshold(anomaly_map, 3.0) == pytest.approx(
            relative_threshold(anomaly_map, 3.0), abs=1e-12
        )


@pytest.mark.parametrize("decision", [None, 0.3, 0.5, 0.9])
@pytest.mark.parametrize("threshold", [0.2, 0.6, 0.95])
def test_verdict_and_mask_are_those_of_the_package(threshold: float, decision: float | None) -> None:
    final, rough = 0.5 * blobs(0), 0.9 * blobs(1)
    for rough_map in (None, lambda: rough):
        expected = judge(0.6, final, threshold, decision_threshold=decision, rough_anomaly_map=rough_map)
        is_anomalous, mask = runner.judge(0.6, final, threshold, decision, rough_map)
        assert is_anomalous is expected.is_anomalous
        np.testing.assert_array_equal(mask, expected.mask)


@pytest.mark.parametrize("merge", ["anomaly_weighted", "average", "sum_norm"])
@pytest.mark.parametrize("fusion", ["soft", "binary"])
@pytest.mark.parametrize("count", [0, 1, 3])
def test_masks_are_merged_as_in_the_package(merge: str, fusion: str, count: int) -> None:
    generator = torch.Generator().manual_seed(count)
    rough, peaks = torch.from_numpy(blobs(2)), [0.9, 0.7, 0.4][:count]
    masks = 4 * torch.randn(count, 3, 16, 16, generator=generator)
    scores = 1.2 * torch.rand(count, 3, generator=generator)
    options = RefinementOptions(merge=merge, mask_fusion=fusion, refine_weight=0.3)
    frame = Frame((41, 64), 64)
    expected = merge_masks(
        rough, masks, scores, frame, region_peaks=peaks, mask_fusion=fusion, merge=merge, refine_weight=0.3
    )
    found = runner.merge_masks(
        rough.numpy(), masks.numpy(), scores.numpy(), peaks, (frame.content, frame.side), asdict(options)
    )
    np.testing.assert_allclose(found, expected.numpy(), atol=2e-6)


def test_maps_and_masks_are_resized_as_in_the_package() -> None:
    rough = blobs(3)
    for size in ((37, 53), (1, 1), (200, 31), (801, 1203)):
        np.testing.assert_allclose(
            runner.resize_map(rough, size), resize_map(torch.from_numpy(rough), size).numpy(), atol=3e-6
        )
    masks = torch.randn(2, 16, 16)
    for content in ((64, 64), (64, 1), (33, 64)):
        expected = resample_masks(masks, Frame(content, 64), (37, 53)).numpy()
        np.testing.assert_allclose(runner.resample_masks(masks.numpy(), (content, 64), (37, 53)), expected, atol=2e-6)


@pytest.mark.parametrize("size", [(1, 1), (37, 53), (518, 518), (900, 700)])
def test_regions_of_interest_are_those_of_the_package(size: tuple[int, int]) -> None:
    for shape in ((1, 1), (13, 7), (518, 300), (1111, 2003)):
        roi = np.random.default_rng(0).random(shape) < 0.5
        roi[0, 0] = True
        image = Image.fromarray(roi)
        np.testing.assert_array_equal(runner.read_roi(image), read_roi(image).numpy())
        np.testing.assert_array_equal(runner.crop_roi(roi, size), crop_roi(read_roi(roi), size).numpy())
    with pytest.raises(ValueError, match="region of interest is empty"):
        runner.read_roi(Image.new("L", (4, 3)))


def as_bytes_of(mode: str) -> Image.Image:
    values = np.random.default_rng(0).integers(0, 256, (20, 30), dtype=np.uint8)
    if mode == "I;16":
        return Image.fromarray(values.astype(np.uint16) * 13)
    if mode == "F":
        return Image.fromarray(values.astype(np.float32) / 255)
    if mode == "RGBA":
        return Image.merge("RGBA", [Image.fromarray(np.roll(values, shift)) for shift in range(4)])
    return Image.fromarray(values).convert(mode)


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA", "CMYK", "I;16", "I", "F"])
def test_photographs_are_read_as_in_the_package(mode: str, tmp_path: Path) -> None:
    image = as_bytes_of(mode)
    assert np.array_equal(runner.read_photograph(image), load_rgb(image))
    path = tmp_path / "photo.tiff"
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a right angle
    image.save(path, exif=exif)
    read = runner.read_photograph(path)
    assert np.array_equal(read, load_rgb(path))
    assert read.size == (20, 30)


def test_what_is_no_photograph_is_refused_as_in_the_package(tmp_path: Path) -> None:
    path = tmp_path / "photo.png"
    path.write_bytes(b"no photograph")
    for read, error in ((runner.read_photograph, ValueError), (load_rgb, ImageReadError)):
        with pytest.raises(error, match="photo.png"):
            read(path)
        with pytest.raises(FileNotFoundError):
            read(tmp_path / "missing.png")


@pytest.mark.parametrize("size", [(61, 97), (97, 61), (333, 20), (40, 40)])
def test_pixels_are_those_of_the_processor(size: tuple[int, int], tiny_processor: ClipSamProcessor) -> None:
    from clipsam_hf.export.folder import _look

    image = photograph(*size)
    clip, sam = tiny_processor.image_processor, tiny_processor.sam_image_processor
    expected = clip([image])["pixel_values"][0]
    np.testing.assert_array_equal(runner.to_pixels(image, expected.shape[-2:], _look(clip)), expected)
    features = prepare_photographs(sam, [image])
    content = runner.fit_square(size, sam.size["longest_edge"])
    assert content == tuple(features["reshaped_input_sizes"][0])
    found = runner.to_pixels(image, content, _look(sam))
    np.testing.assert_array_equal(found, features["sam_pixel_values"][0][:, : content[0], : content[1]])


# --------------------------------------------------------------------------------------------------------------------
# What is refused


def trained(config: ClipSamConfig) -> ClipSamForAnomalySegmentation:
    torch.manual_seed(0)
    model = ClipSamForAnomalySegmentation(config).eval()
    model.head_is_trained = True
    return model


def test_what_cannot_be_exported_is_refused(
    tiny_config: ClipSamConfig, tiny_processor: ClipSamProcessor, tmp_path: Path
) -> None:
    def attempt(model: Any, names: list[str], **options: Any) -> None:
        export_onnx(model, tiny_processor, tmp_path / "out", names, **options)

    model = trained(tiny_config)
    with pytest.raises(ValueError, match="at least one class name"):
        attempt(model, [])
    with pytest.raises(ValueError, match="must not be empty"):
        attempt(model, [" "])
    model.head_is_trained = False
    with pytest.raises(ValueError, match="random weights"):
        attempt(model, ["candle"])
    tiny_config.localizer = "windows"
    with pytest.raises(ValueError, match="localizer='windows'` cannot be exported"):
        attempt(ClipSamForAnomalySegmentation(tiny_config), ["candle"])
    tiny_config.localizer = "vv"
    with pytest.raises(ValueError, match="float32, got torch.bfloat16 on cpu"):
        attempt(ClipSamForAnomalySegmentation(tiny_config).bfloat16(), ["candle"])
    assert not (tmp_path / "out").exists()


def test_a_used_folder_is_refused(
    tiny_config: ClipSamConfig, tiny_processor: ClipSamProcessor, tmp_path: Path
) -> None:
    model = trained(tiny_config)
    (tmp_path / "notes.txt").write_text("mine")
    for overwrite in (False, True):
        with pytest.raises(FileExistsError, match="no earlier export"):
            export_onnx(model, tiny_processor, tmp_path, ["candle"], overwrite=overwrite)
    (tmp_path / SETTINGS_NAME).write_text("{}")
    with pytest.raises(FileExistsError, match="already holds an export"):
        export_onnx(model, tiny_processor, tmp_path, ["candle"])
    assert (tmp_path / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "--class-name is needed"),
        (["--class-name", "candle", "--format", "tflite"], "--format must be onnx, got 'tflite'"),
        (["--class-name", "candle", "./nothing"], "'./nothing' is no folder with a checkpoint"),
    ],
)
def test_command_refuses_what_it_cannot_use(arguments: list[str], message: str, tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["export", "--output", str(tmp_path / "out"), *arguments])
    assert (result.exit_code, message in result.output) == (2, True), result.output


def test_documented_command_exports_what_it_says(
    tiny_model: ClipSamForAnomalySegmentation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    document = (ROOT / "docs" / "how-to" / "export.md").read_text(encoding="utf-8")
    (command,) = re.findall(r"<!-- command: export -->\n```bash\n(.+?)\n```", document, re.DOTALL)
    program, *arguments = shlex.split(command)
    assert program == "clipsam"
    asked: list[Any] = []
    monkeypatch.setattr("clipsam_hf.cli.export.load_model", lambda *_, **options: (tiny_model, options, "a model"))
    monkeypatch.setattr("clipsam_hf.export.export_onnx", lambda *given, **options: asked.append((given, options)))
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(app, [*arguments, "--class-name", "screw", "--int8"])
    assert (result.exit_code, result.output.partition(";")[0]) == (0, "written to exported")
    options = {"references": None, "int8": True, "overwrite": False, "model_name": "a model"}
    names = ["cookie", "screw"]
    assert asked == [((tiny_model, {"dtype": "float32"}, Path("exported"), names), options)]


def test_a_folder_without_an_export_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="holds no exported model"):
        runner.Runner(tmp_path)
    (tmp_path / SETTINGS_NAME).write_text('{"format": 99}')
    with pytest.raises(ValueError, match="is of format 99; known is 1"):
        runner.Runner(tmp_path)


# --------------------------------------------------------------------------------------------------------------------
# Whole exports, each of which takes the exporter tens of seconds


def slow_export(test: Any) -> Any:
    return pytest.mark.slow(pytest.mark.timeout(1200)(test))


def ask_package(
    model: Any,
    processor: Any,
    image: Any,
    name: str,
    *,
    refine: bool = True,
    references: Any = None,
    roi: np.ndarray | None = None,
) -> tuple[Answer, np.ndarray]:
    """What the pipeline says of a photograph as a whole, and its map in CLIP's frame."""
    inference = ClipSamInference(model, processor)
    region = None if roi is None else read_roi(roi)
    (prediction,) = inference.predict([inference.prepare(image, name, refine=refine, roi=region)], references)
    answer = make_answer(model.config, prediction, refine=refine, references=references)
    return answer, prediction.anomaly_map.numpy()


def assert_same(found: runner.Result, expected: Answer) -> None:
    np.testing.assert_allclose(found.anomaly_map, expected.anomaly_map, atol=1e-4)
    assert found.score == pytest.approx(expected.score, abs=1e-5)
    # Of a relative rule it is read from the map
    assert (found.threshold, found.decision_threshold) == pytest.approx(
        (expected.threshold, expected.decision_threshold), abs=1e-5
    )
    assert found.is_anomalous == expected.is_anomalous
    np.testing.assert_array_equal(found.mask, expected.mask)
    assert [region["box"] for region in found.regions] == [region["box"] for region in expected.regions]
    assert [region["score"] for region in found.regions] == pytest.approx(
        [region["score"] for region in expected.regions], abs=1e-5
    )


def compare(folder: Path, model: Any, processor: Any) -> None:
    """Photographs of odd sizes get the same answers, and different ones, with a region of interest and without."""
    exported, roi = runner.Runner(folder, num_threads=1), np.zeros((40, 30), dtype=bool)
    roi[5:33, 4:21] = True
    for where in (None, roi):
        maps = []
        for size in ((61, 97), (120, 63), (50, 50)):
            for refine in (True, False):
                image = photograph(*size)
                expected, _ = ask_package(model, processor, image, "candle", refine=refine, roi=where)
                assert_same(exported.predict(image, "candle", refine=refine, roi_mask=where), expected)
                maps.append(expected.anomaly_map)
        assert not np.allclose(maps[0], maps[1], atol=1e-3)  # SAM had a say
        assert (maps[0].min() == 0) == (where is not None)


@slow_export
def test_an_export_runs_where_there_is_no_torch(
    tiny_config: ClipSamConfig, tiny_processor: ClipSamProcessor, tmp_path: Path
) -> None:
    tiny_config.binarize_threshold = 0.4
    model, folder = trained(tiny_config), tmp_path / "exported"
    assert export_onnx(model, tiny_processor, folder, ["candle", "object"], model_name="tiny") == folder
    names = {"clipsam.json", "localizer.onnx", "run.py", "sam_decoder.onnx", "sam_encoder.onnx"}
    assert {path.name for path in folder.iterdir()} == names
    assert set(json.loads((folder / SETTINGS_NAME).read_text())["files"]) == names - {SETTINGS_NAME}
    assert runner.Runner(folder).find_damaged_files() == []
    compare(folder, model, tiny_processor)

    # Any number of photographs and of prompts at once
    exported = runner.Runner(folder, num_threads=1)
    pixels, texts = torch.randn(3, 3, 32, 32), torch.nn.functional.normalize(torch.randn(3, 2, 16), dim=-1)
    (found,) = exported._localizer.run(None, {"pixel_values": pixels.numpy(), "text_embeds": texts.numpy()})
    with torch.no_grad():
        expected = model(pixel_values=pixels, text_embeds=texts).rough_anomaly_map
    np.testing.assert_allclose(found, expected.numpy(), atol=1e-5)

    # In a process of its own, moved to another place, with a file that is no photograph
    moved = tmp_path / "elsewhere" / "model"
    shutil.copytree(folder, moved)
    photograph().save(tmp_path / "photo.png")
    (tmp_path / "broken.jpg").write_bytes(b"")
    script = (
        BLOCKER
        + f"import runpy; sys.argv[0] = {str(moved / 'run.py')!r}; runpy.run_path(sys.argv[0], run_name='__main__')"
    )
    Image.new("L", (4, 3), "white").save(tmp_path / "everywhere.png")
    arguments = ["photo.png", "broken.jpg", "--class-name", "candle", "--check", "--maps", "maps"]
    arguments += ["--roi", "everywhere.png"]
    done = subprocess.run([sys.executable, "-c", script, *arguments], cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (1, "")
    first, second = map(json.loads, done.stdout.splitlines())
    answer, _ = ask_package(model, tiny_processor, photograph(), "candle")
    assert first["score"] == pytest.approx(answer.score, abs=1e-5)
    assert [each["box"] for each in first["regions"]] == [each["box"] for each in answer.regions]
    assert "broken.jpg" in second["error"]
    saved = np.asarray(Image.open(tmp_path / "maps" / "0001-photo.png")) / 65535
    np.testing.assert_allclose(saved, answer.anomaly_map, atol=1e-4)

    # What is damaged or not known is said
    (moved / "sam_decoder.onnx").write_bytes(b"")
    assert runner.Runner(moved).find_damaged_files() == ["sam_decoder.onnx"]
    with pytest.raises(ValueError, match="sam_decoder.onnx cannot be loaded, see `--check`"):
        runner.Runner(moved)._open("sam_decoder")
    with pytest.warns(UserWarning, match="A photograph of 120x33 is looked at as a whole"):
        exported.predict(photograph(120, 33), "candle", refine=False)
    with pytest.raises(ValueError, match="`threshold` must lie in"):
        exported.predict(photograph(), "candle", threshold=1.5)
    with pytest.raises(ValueError, match="holds the class names 'candle', 'object', got 'screw'"):
        exported.predict(photograph(), "screw")


@slow_export
@pytest.mark.parametrize("localizer", ["vv", "similarity"])
@pytest.mark.parametrize("prompt_type", ["box_and_points", "box"])
def test_other_localizers_and_a_relative_threshold(
    localizer: str, prompt_type: str, tiny_config: ClipSamConfig, tiny_processor: ClipSamProcessor, tmp_path: Path
) -> None:
    tiny_config.localizer, tiny_config.prompt_type = localizer, prompt_type
    tiny_config.novelty_weight = 0.5 if prompt_type == "box" else 0.0
    tiny_config.flip_average = prompt_type == "box"
    tiny_config.region_rule, tiny_config.region_deviations = "relative", 1.0
    tiny_config.image_score, tiny_config.decision_threshold = "text", 0.4
    model = trained(tiny_config)
    export_onnx(model, tiny_processor, tmp_path / "exported", ["candle"])
    compare(tmp_path / "exported", model, tiny_processor)


@slow_export
def test_sam_hq_is_exported(tiny_config: ClipSamConfig, tiny_processor: ClipSamProcessor, tmp_path: Path) -> None:
    settings = {**tiny_config.to_dict(), "sam_config": make_sam_hq_config(tiny_config.sam_config)}
    settings |= {"localizer": "vv", "region_rule": "relative", "region_deviations": 1.0}
    model = trained(ClipSamConfig.from_dict(settings))
    export_onnx(model, tiny_processor, tmp_path / "exported", ["candle"])
    compare(tmp_path / "exported", model, tiny_processor)


@slow_export
@pytest.mark.parametrize(("text_weight", "has_roi"), [(0.0, True), (0.25, False)])
def test_references_become_part_of_an_export(
    text_weight: float, has_roi: bool, tiny_config: ClipSamConfig, tiny_processor: ClipSamProcessor, tmp_path: Path
) -> None:
    tiny_config.reference_text_weight, tiny_config.flip_average = text_weight, has_roi
    model, good = trained(tiny_config), [photograph(seed=seed) for seed in (1, 2, 3)]
    roi = np.ones((40, 30), dtype=bool)
    roi[:, :6] = False
    references = ClipSamReferences.from_images(
        model, tiny_processor, good, class_name="candle", roi_mask=roi if has_roi else None
    )
    folder = tmp_path / "exported"
    with pytest.raises(ValueError, match="know no other name, got 'object'"):
        export_onnx(model, tiny_processor, folder, ["object"], references=references)
    export_onnx(model, tiny_processor, folder, [], references=references)
    exported = runner.Runner(folder, num_threads=1)
    for refine in (True, False):
        for seed in (1, 5):
            expected, _ = ask_package(
                model, tiny_processor, photograph(seed=seed), "candle", refine=refine, references=references
            )
            found = exported.predict(photograph(seed=seed), refine=refine)
            assert_same(found, expected)
            assert (found.anomaly_map[:, :10] == 0).all() == has_roi


@slow_export
def test_int8_replaces_an_export_and_a_failed_one_leaves_it(
    tiny_config: ClipSamConfig, tiny_processor: ClipSamProcessor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, folder = trained(tiny_config), tmp_path / "exported"
    export_onnx(model, tiny_processor, folder, ["candle"], int8=True)
    expected, _ = ask_package(model, tiny_processor, photograph(), "candle", refine=False)
    found = runner.Runner(folder).predict(photograph(), refine=False)
    difference = np.abs(found.anomaly_map - expected.anomaly_map).max()
    assert 0 < difference < 0.1
    before = {path.name: path.read_bytes() for path in folder.iterdir()}

    def fail(*_: Any) -> None:
        raise OSError("no space left")

    with monkeypatch.context() as patch:
        patch.setattr("clipsam_hf.export.folder.write_graph", fail)
        with pytest.raises(OSError, match="no space left"):
            export_onnx(model, tiny_processor, folder, ["candle"], overwrite=True)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["exported"]


@slow_export
@pytest.mark.skipif("CLIPSAM_DATA" not in os.environ, reason="CLIPSAM_DATA names no folder with real photographs")
@pytest.mark.filterwarnings("ignore:A photograph of .* is looked at as a whole")
def test_real_photographs_get_the_answers_of_the_embedded_checkpoint(tmp_path: Path) -> None:
    model = ClipSamForAnomalySegmentation.from_pretrained(EMBEDDED_CHECKPOINT).eval()
    processor = ClipSamProcessor.from_pretrained(EMBEDDED_CHECKPOINT)
    samples = [
        sample
        for name in ("cookie", "road", "ball_screw")
        for sample in list(AnomalyFolder(Path(os.environ["CLIPSAM_DATA"], name)))[::23]
    ]
    names = sorted({sample.class_name for sample in samples})
    export_onnx(model, processor, tmp_path / "exported", names)
    exported, num_regions = runner.Runner(tmp_path / "exported", num_threads=1), 0
    for sample in samples:
        for refine in (True, False):
            expected, _ = ask_package(model, processor, sample.image_path, sample.class_name, refine=refine)
            found = exported.predict(sample.image_path, sample.class_name, refine=refine)
            # A mask of SAM is cut at 0: on its edge a pixel may fall to the other side by rounding
            difference = np.abs(found.anomaly_map - expected.anomaly_map)
            assert refine or difference.max() < 1e-5
            assert (difference > 1e-4).mean() < 2e-4
            assert found.score == pytest.approx(expected.score, abs=1e-4)
            assert [each["box"] for each in found.regions] == [each["box"] for each in expected.regions]
            num_regions += len(found.regions)
    assert num_regions > 10
