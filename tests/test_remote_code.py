# SPDX-FileCopyrightText: 2026 The clipsam_hf authors
# SPDX-License-Identifier: Apache-2.0
"""Three ways to load a folder: with the package, without it by remote code, and through the Auto classes."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from package_blocker import BLOCK_PACKAGE
from PIL import Image
from transformers import AutoConfig, AutoModel, AutoProcessor, pipeline
from transformers.pipelines import PIPELINE_REGISTRY

import clipsam_hf
from clipsam_hf.pipeline_clipsam import ZeroShotAnomalySegmentationPipeline
from clipsam_hf.publishing_clipsam import CODE_FILES, CODE_REFERENCES, PROCESSOR_REFERENCE, TASK


PACKAGE = Path(clipsam_hf.__file__).parent

# Runs where the package cannot be imported. The arguments: a folder with code, and one that does not exist yet.
WITHOUT_PACKAGE = (
    BLOCK_PACKAGE
    + """
import numpy as np
import torch
from PIL import Image
from transformers import AutoConfig, AutoModel, AutoProcessor, pipeline

folder, retrained = sys.argv[1:]
task = "zero-shot-anomaly-segmentation"
photograph = Image.fromarray(np.random.default_rng(0).integers(0, 256, (24, 40, 3), dtype=np.uint8))

def load(folder):
    assert AutoConfig.from_pretrained(folder, trust_remote_code=True).model_type == "clipsam"
    model = AutoModel.from_pretrained(folder, trust_remote_code=True)
    processor = AutoProcessor.from_pretrained(folder, trust_remote_code=True)
    pipe = pipeline(task, model=folder, trust_remote_code=True)
    assert type(pipe).__module__.startswith("transformers_modules."), type(pipe).__module__
    return model, processor, pipe

# 1. Load and predict
model, processor, pipe = load(folder)
np.save(retrained + "-before.npy", pipe(photograph, class_name="candle")["anomaly_map"])

# 1a. Good photographs, a folder of them that was saved, and photographs that are compared with each other
pipe.model.config.update({"reference_text_weight": 0.0, "mutual_text_weight": 0.0})
good = [Image.fromarray(np.random.default_rng(n).integers(0, 256, (24, 40, 3), dtype=np.uint8)) for n in range(1, 4)]
ground_floor = sys.modules[type(pipe).__module__]
references = ground_floor.ClipSamReferences.from_images(pipe.model, pipe.processor, good, class_name="candle")
assert type(references).__module__.startswith("transformers_modules.")
references.save_pretrained(retrained + "-line")
expected = pipe(photograph, references=good, class_name="candle")
for given in (references, retrained + "-line"):
    assert (pipe(photograph, references=given)["anomaly_map"] == expected["anomaly_map"]).all()
np.save(retrained + "-references.npy", expected["anomaly_map"])
np.save(retrained + "-mutual.npy", pipe([photograph, *good], references="mutual")[0]["anomaly_map"])

# 2. Train one step
inputs = processor(
    images=[photograph] * 2, text="candle", segmentation_maps=[np.eye(24)] * 2, return_sam_inputs=False,
    return_tensors="pt",
)
model = pipe.model.train()
optimizer = torch.optim.SGD([weight for weight in model.parameters() if weight.requires_grad], lr=1.0)
model(**inputs).loss.sum().backward()
optimizer.step()
model.eval()
expected = pipe(photograph, class_name="candle")["anomaly_map"]

# 3. Save and load again: a model takes along the modules that it did not need itself
AutoModel.from_pretrained(folder, trust_remote_code=True).save_pretrained(retrained)
processor.save_pretrained(retrained)
pipeline(task, model=retrained, trust_remote_code=True)
pipe.save_pretrained(retrained)
trained = pipe.model.state_dict()
model, processor, pipe = load(retrained)
assert all(torch.equal(trained[key], value) for key, value in pipe.model.state_dict().items())
np.testing.assert_allclose(pipe(photograph, class_name="candle")["anomaly_map"], expected, atol=1e-6)
np.save(retrained + "-after.npy", expected)
assert not any(name.partition(".")[0] == "clipsam_hf" for name in sys.modules)
"""
)


@pytest.fixture
def saved(tiny_checkpoint: Path) -> Path:
    """The folder that a pipeline saves, with code."""
    folder = tiny_checkpoint.parent / "with-code.v1"  # a name that is no identifier
    pipeline(TASK, model=tiny_checkpoint).save_pretrained(folder)
    return folder


def photograph(number: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(number).integers(0, 256, (24, 40, 3), dtype=np.uint8))


def test_registered_task_is_ours() -> None:
    assert PIPELINE_REGISTRY.supported_tasks[TASK]["impl"] is ZeroShotAnomalySegmentationPipeline


def test_without_a_model_the_default_is_taken_and_named(
    tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = PIPELINE_REGISTRY.supported_tasks[TASK]
    assert task["default"]["model"][0] == str(clipsam_hf.EMBEDDED_CHECKPOINT)

    messages: list[str] = []
    monkeypatch.setattr("transformers.pipelines.logger.warning", messages.append)
    monkeypatch.setitem(task, "default", {"model": (str(tiny_checkpoint), "main")})
    assert pipeline(TASK).model.config.model_type == "clipsam"
    assert any(str(tiny_checkpoint) in message for message in messages)


def test_folder_holds_the_ground_floor_flat(saved: Path) -> None:
    ground_floor = {path.name for path in PACKAGE.glob("*_clipsam.py")} | {"image_loading.py"}
    assert {path.name for path in saved.glob("*.py")} == ground_floor == set(CODE_FILES)
    assert all((saved / name).read_bytes() == (PACKAGE / name).read_bytes() for name in ground_floor)


def test_folder_says_where_its_code_is(saved: Path) -> None:
    config = json.loads((saved / "config.json").read_text(encoding="utf-8"))
    assert config["auto_map"] == {
        "AutoConfig": "configuration_clipsam.ClipSamConfig",
        "AutoModel": "modeling_clipsam.ClipSamForAnomalySegmentation",
        "AutoProcessor": "processing_clipsam.ClipSamProcessor",
    }
    implementation = "pipeline_clipsam.ZeroShotAnomalySegmentationPipeline"
    assert config["custom_pipelines"] == {TASK: {"impl": implementation, "pt": ["AutoModel"], "type": "multimodal"}}
    processor = json.loads((saved / "processor_config.json").read_text(encoding="utf-8"))
    assert processor["auto_map"] == {"AutoProcessor": "processing_clipsam.ClipSamProcessor"}


def test_folder_names_no_place_of_this_machine(saved: Path) -> None:
    for path in saved.glob("*.json"):
        assert str(saved.parent) not in path.read_text(encoding="utf-8")


@pytest.mark.parametrize("trust_remote_code", [None, True])
def test_with_the_package_its_own_code_is_used(saved: Path, trust_remote_code: bool | None) -> None:
    """Neither `auto_map` nor `custom_pipelines` may ask for trust in code that is installed already."""
    keywords = {} if trust_remote_code is None else {"trust_remote_code": trust_remote_code}
    pipe = pipeline(TASK, model=saved, **keywords)
    assert type(pipe) is ZeroShotAnomalySegmentationPipeline
    assert type(pipe.model) is clipsam_hf.ClipSamForAnomalySegmentation
    assert pipe(photograph(), class_name="candle")["anomaly_map"].shape == (24, 40)


def test_auto_classes_load_the_folder(saved: Path) -> None:
    assert type(AutoConfig.from_pretrained(saved)) is clipsam_hf.ClipSamConfig
    assert type(AutoProcessor.from_pretrained(saved)) is clipsam_hf.ClipSamProcessor
    model, loading_info = AutoModel.from_pretrained(saved, output_loading_info=True)
    assert type(model) is clipsam_hf.ClipSamForAnomalySegmentation
    assert not loading_info["missing_keys"] and not loading_info["unexpected_keys"]


def test_model_saved_again_keeps_its_code(saved: Path, tmp_path: Path) -> None:
    AutoModel.from_pretrained(saved).save_pretrained(tmp_path / "again")
    config = json.loads((tmp_path / "again" / "config.json").read_text(encoding="utf-8"))
    assert CODE_REFERENCES.items() <= config.items()
    assert sorted(path.name for path in (tmp_path / "again").glob("*.py")) == sorted(CODE_FILES)


def test_model_saved_again_without_code_speaks_of_none(saved: Path, tmp_path: Path) -> None:
    AutoModel.from_pretrained(saved).save_pretrained(tmp_path / "again", save_code=False)
    config = json.loads((tmp_path / "again" / "config.json").read_text(encoding="utf-8"))
    assert not CODE_REFERENCES.keys() & config.keys()
    assert not list((tmp_path / "again").glob("*.py"))


def test_model_without_code_stays_without(tiny_checkpoint: Path, tmp_path: Path) -> None:
    AutoModel.from_pretrained(tiny_checkpoint).save_pretrained(tmp_path / "again")
    assert not list((tmp_path / "again").glob("*.py"))


def test_processor_can_carry_its_code_alone(tiny_processor: clipsam_hf.ClipSamProcessor, tmp_path: Path) -> None:
    files = tiny_processor.save_pretrained(tmp_path, save_code=True)
    assert str(tmp_path / "processor_config.json") in map(str, files)
    needed = {
        "image_loading.py",
        "loss_clipsam.py",
        "processing_clipsam.py",
        "prompts_clipsam.py",
        "publishing_clipsam.py",
        "refinement_clipsam.py",
        "refiner_clipsam.py",
        "regions_clipsam.py",
        "sam_attention_clipsam.py",
    }
    assert {path.name for path in tmp_path.glob("*.py")} == needed
    stored = json.loads((tmp_path / "processor_config.json").read_text(encoding="utf-8"))
    assert stored["auto_map"] == PROCESSOR_REFERENCE


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_without_the_package_the_folder_works(saved: Path) -> None:
    """Remote code loads, predicts, trains a step, saves, and loads again; it also predicts what the package does."""
    retrained = saved.parent / "retrained"
    environment = {**os.environ, "HF_MODULES_CACHE": str(saved.parent / "modules"), "OMP_NUM_THREADS": "1"}
    environment.pop("PYTHONPATH", None)
    run = subprocess.run(
        [sys.executable, "-c", WITHOUT_PACKAGE, saved, retrained],
        cwd=saved.parent,
        env=environment,
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert run.returncode == 0, run.stderr
    before, after = (np.load(f"{retrained}-{moment}.npy") for moment in ("before", "after"))
    with torch.no_grad():
        own = pipeline(TASK, model=saved)(photograph(), class_name="candle")["anomaly_map"]
    np.testing.assert_allclose(before, own, atol=1e-6)

    pipe = pipeline(TASK, model=saved)
    pipe.model.config.update({"reference_text_weight": 0.0, "mutual_text_weight": 0.0})
    compared = pipe(photograph(), references=f"{retrained}-line")["anomaly_map"]  # the same format, here and there
    np.testing.assert_allclose(np.load(f"{retrained}-references.npy"), compared, atol=1e-5)
    mutual = pipe([photograph(), *(photograph(number) for number in range(1, 4))], references="mutual")
    np.testing.assert_allclose(np.load(f"{retrained}-mutual.npy"), mutual[0]["anomaly_map"], atol=1e-4)
    assert np.abs(after - before).max() > 1e-4
