# SPDX-FileCopyrightText: 2026 The clipsam_hf authors
# SPDX-License-Identifier: Apache-2.0
"""The command line: the documented commands on miniature data sets, and one clear message for what cannot be."""

import io
import json
import os
import re
import shlex
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from test_distributed import assert_same_results
from transformers import CLIPConfig, CLIPModel, SamModel
from typer.testing import CliRunner, Result

import clipsam_hf
from clipsam_hf import ClipSamConfig, ClipSamForAnomalySegmentation, ClipSamProcessor, cli
from clipsam_hf.cli import evaluate, options, predict
from clipsam_hf.data.layouts import LAYOUTS
from clipsam_hf.evaluation.report import FILE_NAMES
from clipsam_hf.prediction import FORMATS, KINDS


ROOT = Path(__file__).parents[1]
HOW_TO = (ROOT / "docs" / "how-to" / "evaluate.md").read_text(encoding="utf-8")
COMMANDS = dict(re.findall(r"<!-- command: (\w+) -->\n```bash\n(.+?)\n```", HOW_TO, re.DOTALL))


# A miniature is never the whole of a published data set
pytestmark = pytest.mark.filterwarnings("ignore:.* is not the whole of:UserWarning")


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(cli.app, [str(argument) for argument in arguments])


def save_pair(image: Path, mask: Path | None, *, has_defect: bool, seed: int = 0) -> None:
    """Writes noise with, perhaps, a bright blob, and its mask."""
    pixels = np.random.default_rng(seed).integers(0, 128, (24, 40, 3), dtype=np.uint8)
    truth = np.zeros((24, 40), dtype=np.uint8)
    if has_defect:
        truth[4 + seed : 10 + seed, 8:16] = 255
        pixels[truth > 0] = 255
    for path, content in ((image, pixels), (mask, truth)):
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(content).save(path)


def build_mvtec(root: Path) -> None:
    save_pair(root / "metal_nut/train/good/000.png", None, has_defect=False)
    for number in range(2):
        save_pair(root / f"metal_nut/test/good/{number:03d}.png", None, has_defect=False, seed=number)
        mask = root / f"metal_nut/ground_truth/bent/{number:03d}_mask.png"
        save_pair(root / f"metal_nut/test/bent/{number:03d}.png", mask, has_defect=True, seed=number)


def build_visa(root: Path) -> None:
    lines = ["object,split,label,image,mask"]
    for category in ("candle", "pcb1"):
        for number in range(2):
            normal, anomaly = (f"{category}/Data/Images/{kind}/{number:03d}.JPG" for kind in ("Normal", "Anomaly"))
            mask = f"{category}/Data/Masks/Anomaly/{number:03d}.png"
            save_pair(root / normal, None, has_defect=False, seed=number)
            save_pair(root / anomaly, root / mask, has_defect=True, seed=number)
            lines += [f"{category},test,normal,{normal},", f"{category},test,anomaly,{anomaly},{mask}"]
    (root / "split_csv").mkdir()
    (root / "split_csv/1cls.csv").write_text("\n".join(lines) + "\n")


def build_mtd(root: Path) -> None:
    for kind in ("Free", "Crack", "Blowhole"):
        for number in range(2):
            stem = root / f"MT_{kind}/Imgs/exp{number}_num_{number}"
            has_defect = kind != "Free"
            save_pair(stem.with_suffix(".jpg"), stem.with_suffix(".png"), has_defect=has_defect, seed=number)


def build_ksdd2(root: Path) -> None:
    for split in ("train", "test"):
        for number in range(2):
            stem = f"{split}/1000{number}"
            save_pair(root / f"{stem}.png", root / f"{stem}_GT.png", has_defect=number > 0, seed=number)


BUILDERS: dict[str, Callable[[Path], None]] = {
    "mvtec": build_mvtec,
    "visa": build_visa,
    "mtd": build_mtd,
    "ksdd2": build_ksdd2,
}


@pytest.fixture
def backbones(tmp_path: Path, tiny_clip_config: CLIPConfig, tiny_sam_config: Any, tiny_processor: Any) -> list[str]:
    """Folders of a CLIP, of 16 x 16 tokens at its real input size, and of a SAM, as the Hub would give them."""
    tiny_clip_config.vision_config.patch_size = 32
    tiny_clip_config.vision_config.image_size = 64
    folders = [tmp_path / "clip", tmp_path / "sam"]
    CLIPModel(tiny_clip_config).save_pretrained(folders[0])
    tiny_processor.image_processor.save_pretrained(folders[0])
    tiny_processor.tokenizer.save_pretrained(folders[0])
    SamModel(tiny_sam_config).save_pretrained(folders[1])
    tiny_processor.sam_image_processor.save_pretrained(folders[1])
    return [str(folder) for folder in folders]


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    build_mvtec(tmp_path / "tree")
    return tmp_path / "tree"


@pytest.fixture
def few_words(tiny_checkpoint: Path) -> Path:
    """The tiny checkpoint with two sentences only."""
    processor = ClipSamProcessor.from_pretrained(tiny_checkpoint)
    processor.normal_states, processor.abnormal_states = ["perfect {}"], ["damaged {}"]
    processor.prompt_templates = ["a photo of a {}."]
    processor.save_pretrained(tiny_checkpoint)
    return tiny_checkpoint


# --------------------------------------------------------------------------------------------------------------------
# What is documented


@pytest.mark.parametrize("name", BUILDERS)
def test_documented_command_runs_on_a_miniature(
    name: str, backbones: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    program, *arguments = shlex.split(COMMANDS[name].replace("\\\n", ""))
    assert program == "clipsam"
    BUILDERS[name](tmp_path / arguments[1])
    real = ("openai/clip-vit-large-patch14-336", "facebook/sam-vit-huge")
    given = [dict(zip(real, backbones, strict=True)).get(argument, argument) for argument in arguments]
    assert len(set(given) - set(arguments)) == 2

    result = run(*given)
    assert result.exit_code == 0, result.output
    results = json.loads((tmp_path / "results" / name / "results.json").read_text())
    assert results["protocol"]["data"]["layout"] == name
    assert results["protocol"]["localize"]["localizer"] == "vv"
    assert results["protocol"]["refine"]["region_rule"] == "relative"
    means = {row["map_name"]: row["figures"] for row in results["rows"] if row["category"] == "mean"}
    assert means.keys() == {"rough", "refined"}
    assert all(0 <= figures["pixel_aupro"] <= 1 for figures in means.values())


def test_documented_protocols_are_those_of_the_field() -> None:
    assert COMMANDS.keys() == BUILDERS.keys()
    assert "--size 400 --mask-resize nearest" in COMMANDS["mtd"]
    assert "--split test" in COMMANDS["ksdd2"]


# --------------------------------------------------------------------------------------------------------------------
# A run


def test_results_are_printed_and_written(tree: Path, few_words: Path, tmp_path: Path) -> None:
    result = run("evaluate", tree, "--model", few_words, "--output", tmp_path / "output", "--size", "native")
    assert result.exit_code == 0, result.output
    assert result.stdout == (tmp_path / "output" / "results.txt").read_text()
    assert result.stdout.startswith("zero-shot: tree\n") and "refined map" in result.stdout
    assert sorted(path.name for path in (tmp_path / "output").iterdir()) == sorted(FILE_NAMES.values())
    assert "image/s" not in result.stderr  # no progress bar where nobody sees it


def test_without_output_nothing_is_written(tree: Path, few_words: Path, tmp_path: Path) -> None:
    before = sorted(tmp_path.rglob("*"))
    result = run("evaluate", tree, "--model", few_words, "--size", "32", "--no-refine")
    assert result.exit_code == 0, result.output
    assert sorted(tmp_path.rglob("*")) == before
    assert "refined map" not in result.stdout


def test_default_model_is_the_embedded_one(tree: Path, few_words: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("clipsam_hf.embedded.EMBEDDED_CHECKPOINT", few_words)
    result = run("evaluate", tree, "--size", "32", "--no-refine")
    assert result.exit_code == 0, result.output
    assert f"model.name: {few_words.name}\n" in result.stdout


def test_options_reach_the_protocol(tree: Path, few_words: Path) -> None:
    result = run(
        *("evaluate", tree, "--model", few_words, "--size", "32", "--limit", "2", "--name-map", "metal_nut=hex nut"),
        *("--set", "num_points=2", "--set", "prompt_type=points", "--gt-threshold", "127", "--batch-size", "2"),
    )
    assert result.exit_code == 0, result.output
    for line in (
        "data.class_names.metal_nut: hex nut",
        "data.images: 2",
        "data.limit_per_category: 2",
        "comparison.size: 32",
        "comparison.gt_threshold: 127.0",
        "refine.num_points: 2",
        "refine.prompt_type: points",
    ):
        assert f"  {line}\n" in result.stdout


def test_text_scores_legacy_aupro_and_types_are_reachable(tree: Path, few_words: Path) -> None:
    result = run(
        *("evaluate", tree, "--model", few_words, "--size", "32", "--no-refine", "--dtype", "bfloat16"),
        *("--set", "image_score=text", "--aupro-linear200"),
    )
    assert result.exit_code == 0, result.output
    for line in ("score.image_score: text", "model.dtype: bfloat16", "comparison.aupro_linear200: true"):
        assert f"  {line}\n" in result.stdout
    assert "LEGACY AUPRO-linear200" in result.stdout


def test_settings_are_those_that_the_weights_leave_open() -> None:
    """What the networks were made for cannot be changed behind the weights."""
    names = set(evaluate.list_settings())
    assert {"merge", "num_points", "image_score", "mask_threshold"} <= names
    assert {"localizer", "feature_layers", "vv_num_stages", "vv_residual"} <= names
    assert {"text_temperature", "window_sizes", "window_stride"} <= names
    assert not {"sam_config", "clip_config", "image_size", "umci_hidden_size", "focal_gamma"} & names
    assert set(evaluate.FIXED) <= set(ClipSamConfig.names_of("localize", "refine"))


def test_a_trained_checkpoint_is_read_without_its_head(tree: Path, few_words: Path) -> None:
    result = run(
        *("evaluate", tree, "--model", few_words, "--size", "32", "--no-refine"),
        *("--set", "localizer=vv", "--set", "vv_num_stages=2", "--set", "feature_layers=[1, 2]"),
    )
    assert result.exit_code == 0, result.output
    for line in ("localizer: vv", "vv_num_stages: 2", "feature_layers: [1, 2]"):
        assert f"  localize.{line}\n" in result.stdout
    assert "umci" not in result.stderr


def test_settings_reach_fresh_backbones(tree: Path, backbones: list[str]) -> None:
    clip, sam = backbones
    result = run(
        *("evaluate", tree, "--clip", clip, "--sam", sam, "--size", "32", "--no-refine", "--limit", "1"),
        *("--set", "localizer=windows", "--set", "window_stride=2", "--set", "window_sizes=[3]"),
    )
    assert result.exit_code == 0, result.output
    for line in ("localize.localizer: windows", "localize.window_sizes: [3]", "refine.region_rule: relative"):
        assert f"  {line}\n" in result.stdout


def test_a_trained_head_keeps_its_stages(tree: Path, few_words: Path) -> None:
    result = run("evaluate", tree, "--model", few_words, "--set", "feature_layers=[2]")
    assert result.exit_code == 2
    assert "needs a localizer without a trained head, vv, windows or similarity, got 'umci'" in result.stderr


def test_several_sets_have_a_folder_each_and_one_table(tree: Path, few_words: Path, tmp_path: Path) -> None:
    build_mvtec(tmp_path / "other" / "tree")
    roots = [tree, tmp_path / "other" / "tree"]
    command = [
        "evaluate",
        *roots,
        "--model",
        few_words,
        "--output",
        tmp_path / "output",
        "--size",
        "32",
        "--no-refine",
    ]
    result = run(*command)
    assert result.exit_code == 0, result.output
    assert sorted(path.name for path in (tmp_path / "output").iterdir()) == ["combined.txt", "tree", "tree-2"]
    for name in ("tree", "tree-2"):
        report = (tmp_path / "output" / name / "results.txt").read_text()
        assert report in result.stdout
    assert result.stdout.endswith((tmp_path / "output" / "combined.txt").read_text())
    assert run(*command).stdout == result.stdout  # finished sets are read, not computed


def test_a_set_that_was_trained_on_warns(tree: Path, few_words: Path, capfd: pytest.CaptureFixture[str]) -> None:
    model = ClipSamForAnomalySegmentation.from_pretrained(few_words)
    model.config.auxiliary_dataset = "generated images + tree"
    model.save_pretrained(few_words)
    with pytest.warns(UserWarning, match="the model was trained on 'tree'"):
        result = run("evaluate", tree, "--model", few_words, "--size", "32", "--no-refine")
    assert result.exit_code == 0, result.output
    assert "note: the model was trained on 'tree'" in result.stdout


def test_interruption_says_how_to_go_on(
    tree: Path, few_words: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*args: Any, **kwargs: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("clipsam_hf.evaluation.run.evaluate", interrupt)
    result = run("evaluate", tree, "--model", few_words, "--output", tmp_path / "output")
    assert result.exit_code != 0
    assert "goes on from here" in result.stderr


def test_version_is_the_packages() -> None:
    assert run("--version").stdout == f"{clipsam_hf.__version__}\n"


def test_names_in_the_help_are_those_of_the_package() -> None:
    """They are written down in the commands, so that help does not import what takes seconds."""
    assert evaluate.LAYOUTS == tuple(LAYOUTS)
    assert predict.KINDS == KINDS
    assert predict.FORMATS == FORMATS
    assert all(isinstance(options.parse_dtype(name), torch.dtype) for name in options.DTYPES)


def test_help_is_plain_text() -> None:
    result = run("evaluate", "--help")
    assert result.exit_code == 0 and "--mask-resize" in result.stdout
    assert "\x1b" not in result.stdout


def call_main(stdout: io.TextIOBase, monkeypatch: pytest.MonkeyPatch) -> int | str | None:
    """Runs the console script, as the terminal does, and returns its exit code."""
    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)
    monkeypatch.setattr(sys, "argv", ["clipsam", "--version"])
    monkeypatch.setattr(sys, "stdout", stdout)
    with pytest.raises(SystemExit) as end:
        cli.main()
    return end.value.code


def test_closed_pipe_ends_quietly(monkeypatch: pytest.MonkeyPatch) -> None:
    """As with `clipsam ... | head`; a BrokenPipeError would be a traceback."""
    reader, writer = os.pipe()
    os.close(reader)
    assert call_main(io.TextIOWrapper(os.fdopen(writer, "wb", 0), write_through=True), monkeypatch) == 1


def test_poor_terminal_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    stdout = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    assert not call_main(stdout, monkeypatch)
    stdout.write("Pl\u00e4ttchen")
    stdout.seek(0)
    assert stdout.read().endswith("Pl\\xe4ttchen")


@pytest.mark.slow
@pytest.mark.timeout(170)
def test_two_processes_give_the_numbers_of_one(tree: Path, few_words: Path, tmp_path: Path) -> None:
    """gloo on a CPU; a process that fails to find the other would print a table of its own."""
    options = ["evaluate", str(tree), "--model", str(few_words), "--size", "64", "--device", "cpu"]
    result = run(*options, "--output", tmp_path / "one")
    assert result.exit_code == 0, result.output
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    shared = subprocess.run(
        [*launcher, "-m", "clipsam_hf.cli", *options, "--output", str(tmp_path / "two")],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=160,
    )
    assert shared.returncode == 0, shared.stderr
    assert shared.stdout.count("rough map") == 1
    assert_same_results(*(tmp_path / name / "results.json" for name in ("two", "one")))


# --------------------------------------------------------------------------------------------------------------------
# What cannot be


def build_nothing(root: Path) -> None:
    root.mkdir()


def build_masks_only(root: Path) -> None:
    build_mvtec(root)
    for path in sorted(root.glob("metal_nut/test/bent/*")):
        path.unlink()


def build_defect_without_mask(root: Path) -> None:
    build_mvtec(root)
    (root / "metal_nut/ground_truth/bent/000_mask.png").unlink()


@pytest.mark.parametrize(
    ("build", "arguments", "message"),
    [
        (lambda root: None, [], "is no folder"),
        (build_nothing, [], "holds no images"),
        (build_masks_only, [], "bent"),
        (build_defect_without_mask, [], "bent"),
        (build_mvtec, ["--layout", "mvtek"], "Did you mean 'mvtec'"),
        (build_mvtec, ["--layout", "ksdd2"], "looks like|What is looked for"),
        (build_mvtec, ["--split", "validation"], "split"),
        (build_mvtec, ["--category", "bottle"], "category"),
        (build_mvtec, ["--size", "large"], "--size must be"),
        (build_mvtec, ["--size", "0"], "size"),
        (build_mvtec, ["--mask-resize", "cubic"], "cubic"),
        (build_mvtec, ["--name-map", "metal_nut"], "NAME=VALUE"),
        (build_mvtec, ["--set", "num_point=3"], "did you mean 'num_points'"),
        (build_mvtec, ["--clip", "somewhere"], "--clip and --sam"),
        (build_mvtec, ["--clip", "somewhere", "--sam", "elsewhere", "--model", "tiny"], "cannot be combined"),
        (build_mvtec, ["--model", "missing-checkpoint"], "missing-checkpoint"),
        (build_mvtec, ["--model", "/nope"], "'/nope' is no folder"),
        (build_mvtec, ["--class-name", ""], "must not be empty"),
        (build_mvtec, ["--name-map", "metal_nut= "], "must not be empty"),
        (build_mvtec, ["--device", "nonsense"], "the device 'nonsense' cannot be used here"),
        (build_mvtec, ["--dtype", "int8"], "--dtype must be one of float32, bfloat16, float16, got 'int8'"),
        (build_mvtec, ["--set", "num_points=many"], "'num_points' expected int"),
        (build_mvtec, ["--set", "sam_config=1"], "--set takes"),
        (build_mvtec, ["--set", "scale_sizes=[2]"], "--set takes .*vv_num_stages.*; the networks are made for it"),
        (build_mvtec, ["--set", "localizer=vvv"], "'localizer' expected one of"),
        (build_mvtec, ["--gt-threshold", "-1"], "must be at least 0"),
    ],
)
def test_bad_input_is_one_error_and_leaves_nothing(
    build: Callable[[Path], None], arguments: list[str], message: str, tmp_path: Path
) -> None:
    build(tmp_path / "tree")
    before = sorted(tmp_path.rglob("*"))
    result = run("evaluate", tmp_path / "tree", *arguments, "--output", tmp_path / "output")
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    assert re.search(message, result.stderr)
    assert result.stderr.count("error: ") == 1 and "Traceback" not in result.stderr
    assert sorted(tmp_path.rglob("*")) == before


def test_missing_gpu_is_one_sentence_before_the_model_is_loaded(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ClipSamForAnomalySegmentation, "from_pretrained", None)
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    result = run("evaluate", tree, "--device", "cuda")
    assert result.exit_code == 2
    assert re.fullmatch(r"error: the device 'cuda' cannot be used here: .+\n", result.stderr)


def test_output_without_permission_is_refused_before_the_model_is_loaded(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ClipSamForAnomalySegmentation, "from_pretrained", None)
    monkeypatch.setattr(os, "access", lambda path, mode, **kwargs: not mode & os.W_OK)  # root may write anywhere
    for roots in ([tree], [tree, tree]):
        result = run("evaluate", *roots, "--output", tmp_path / "output")
        assert result.exit_code == 2
        assert "is not writable" in result.stderr and result.stderr.count("\n") == 1


def test_a_fault_of_ours_keeps_its_traceback(tree: Path, few_words: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: Any, **kwargs: Any) -> None:
        raise TypeError("a fault")

    monkeypatch.setattr("clipsam_hf.evaluation.run.evaluate", fail)
    result = run("evaluate", tree, "--model", few_words)
    assert isinstance(result.exception, TypeError)


@pytest.mark.parametrize(
    ("output", "message"), [("file", "is a file"), ("file/below", "is a file"), ("full", "already holds files")]
)
def test_unusable_output_is_refused_before_the_model_is_loaded(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, output: str, message: str
) -> None:
    (tmp_path / "file").write_text("a file")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").write_text("years of work")
    monkeypatch.setattr(ClipSamForAnomalySegmentation, "from_pretrained", None)
    result = run("evaluate", tree, "--output", tmp_path / output)
    assert result.exit_code == 2
    assert message in result.stderr
    assert (tmp_path / "file").read_text() == "a file"
