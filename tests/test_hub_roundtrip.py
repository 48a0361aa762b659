# SPDX-FileCopyrightText: 2026 The clipsam_hf authors
# SPDX-License-Identifier: Apache-2.0
"""What is published comes back: pushes to a stand-in of the Hub, then fresh processes with an empty cache."""

import json
import logging
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import huggingface_hub
import numpy as np
import pytest
import torch
from hub_stand_in import HubStandIn, serve
from huggingface_hub import ModelCard
from huggingface_hub.errors import HfHubHTTPError
from package_blocker import BLOCK_PACKAGE
from PIL import Image
from safetensors.torch import load

from clipsam_hf import (
    ClipSamConfig,
    ClipSamForAnomalySegmentation,
    ClipSamProcessor,
    ClipSamReferences,
    ZeroShotAnomalySegmentationPipeline,
)
from clipsam_hf.cards.card import build_card
from clipsam_hf.information import describe
from clipsam_hf.publishing_clipsam import CODE_FILES, CODE_REFERENCES


TOKEN = "hf_standin_OnlyForTheseTests"
WEIGHTS = "model.safetensors"
COMMON = ["README.md", "config.json", *CODE_FILES]
# huggingface_hub's own upload of large files says `data=` to its HTTP library, which would have it say `content=`.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=<...>':DeprecationWarning")

PROCESSOR_FILES = ["processor_config.json", "tokenizer.json", "tokenizer_config.json"]


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubStandIn]:
    """The stand-in, for pushes from this process; others learn of it by `hub.environment`."""
    with serve(TOKEN) as hub:
        constants = huggingface_hub.constants
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "own-cache"))
        monkeypatch.setattr(constants, "ENDPOINT", hub.url)
        template = hub.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        yield hub


@pytest.fixture
def pipe(
    tiny_model: ClipSamForAnomalySegmentation, tiny_processor: ClipSamProcessor
) -> ZeroShotAnomalySegmentationPipeline:
    """A pipeline of a tiny model whose head counts as trained."""
    tiny_model.umci[0].fuse.bias.data.fill_(0.25)
    tiny_model.head_is_trained = True
    tiny_model.config.auxiliary_dataset = "visa"
    return ZeroShotAnomalySegmentationPipeline(model=tiny_model, processor=tiny_processor)


def add_backbones(hub: HubStandIn, pipe: ZeroShotAnomalySegmentationPipeline, tmp_path: Path) -> None:
    """Gives each backbone a repository of its own, whose main branch has gone on since, and tells the model."""
    for part in ("clip", "sam"):
        backbone = getattr(pipe.model, part)
        backbone.save_pretrained(tmp_path / part)
        getattr(pipe.processor, "image_processor" if part == "clip" else "sam_image_processor").save_pretrained(
            tmp_path / part
        )
        setattr(pipe.model.config, f"{part}_name_or_path", f"org/{part}")
        setattr(pipe.model.config, f"{part}_revision", hub.add(f"org/{part}", tmp_path / part))
        (tmp_path / part / WEIGHTS).write_bytes(b"broken since")
        hub.add(f"org/{part}", tmp_path / part)


def photograph() -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (24, 40, 3), dtype=np.uint8))


# --- pushing


def test_pipeline_is_published_whole_in_one_commit(hub: HubStandIn, pipe: ZeroShotAnomalySegmentationPipeline) -> None:
    commit = pipe.push_to_hub("org/clipsam-visa", token=TOKEN)
    repository = hub.repositories["org/clipsam-visa"]
    assert list(repository.commits)[1:] == [commit.oid]
    assert sorted(repository.files) == sorted([*COMMON, *PROCESSOR_FILES, WEIGHTS])
    config = json.loads(repository.files["config.json"])
    assert CODE_REFERENCES.items() <= config.items() and config["auxiliary_dataset"] == "visa"
    assert load(repository.files[WEIGHTS]).keys() >= {"umci.0.fuse.bias", "clip.logit_scale"}
    assert repository.files[WEIGHTS] in hub.large_files.values()


def test_model_and_processor_published_apart_make_the_same_repository(
    hub: HubStandIn, pipe: ZeroShotAnomalySegmentationPipeline
) -> None:
    pipe.push_to_hub("org/together", token=TOKEN)
    pipe.processor.push_to_hub("org/apart", token=TOKEN)
    pipe.model.push_to_hub("org/apart", token=TOKEN, tags=["tiles"])
    together, apart = (hub.repositories[name].files for name in ("org/together", "org/apart"))
    assert together.keys() == apart.keys()
    assert {name for name in together if together[name] != apart[name]} == {"README.md"}
    assert "tiles" in ModelCard(apart["README.md"].decode()).data.tags


def test_head_is_published_alone(hub: HubStandIn, pipe: ZeroShotAnomalySegmentationPipeline, tmp_path: Path) -> None:
    add_backbones(hub, pipe, tmp_path)
    pipe.push_to_hub("org/clipsam-head", token=TOKEN, save_backbones=False)
    files = hub.repositories["org/clipsam-head"].files
    assert all(name.startswith("umci.") for name in load(files[WEIGHTS]))
    assert json.loads(files["config.json"])["backbones_saved"] is False
    assert ModelCard(files["README.md"].decode()).data.base_model == ["org/clip", "org/sam"]


def test_references_are_published_and_come_back(
    hub: HubStandIn, pipe: ZeroShotAnomalySegmentationPipeline, tmp_path: Path
) -> None:
    """In a repository of their own, and beside a model whose files stay."""
    references = ClipSamReferences.from_images(pipe.model, pipe.processor, [photograph()] * 2, class_name="candle")
    commit = references.push_to_hub("org/line", token=TOKEN)
    repository = hub.repositories["org/line"]
    assert list(repository.commits)[1:] == [commit.oid]
    assert {"references.json", "references.safetensors"} <= repository.files.keys()
    pipe.push_to_hub("org/clipsam-visa", token=TOKEN)
    before = dict(hub.repositories["org/clipsam-visa"].files)
    references.push_to_hub("org/clipsam-visa", token=TOKEN)
    after = hub.repositories["org/clipsam-visa"].files
    assert before.items() <= after.items() and after.keys() - before.keys() == {
        "references.json",
        "references.safetensors",
    }

    expected = pipe(photograph(), references=references)
    for name in ("org/line", "org/clipsam-visa"):
        loaded = ClipSamReferences.from_pretrained(name, token=TOKEN)
        assert loaded.class_name == "candle" and loaded.decision_threshold == references.decision_threshold
        np.testing.assert_array_equal(pipe(photograph(), references=name)["anomaly_map"], expected["anomaly_map"])
    assert ClipSamReferences.from_pretrained("org/line", revision=commit.oid, token=TOKEN).class_name == "candle"
    with pytest.raises(OSError, match="There are no references 'org/nothing', neither in a folder nor on the Hub"):
        ClipSamReferences.from_pretrained("org/nothing", token=TOKEN)


def test_saving_can_publish_too(hub: HubStandIn, pipe: ZeroShotAnomalySegmentationPipeline, tmp_path: Path) -> None:
    pipe.model.save_pretrained(tmp_path / "model", push_to_hub=True, repo_id="org/model", token=TOKEN, private=True)
    pipe.processor.save_pretrained(tmp_path / "processor", push_to_hub=True, repo_id="org/model", token=TOKEN)
    assert {WEIGHTS, "processor_config.json"} <= hub.repositories["org/model"].files.keys()
    assert not list(tmp_path.glob("*/*.py"))


def test_second_push_keeps_the_card_and_the_first_commit(
    hub: HubStandIn, pipe: ZeroShotAnomalySegmentationPipeline
) -> None:
    card = ModelCard("---\nlicense: mit\n---\n\n# Mine\n")
    first = pipe.push_to_hub("org/clipsam-visa", token=TOKEN, card=card)
    pipe.model.config.binarize_threshold = 0.125
    second = pipe.push_to_hub("org/clipsam-visa", token=TOKEN)
    commits = hub.repositories["org/clipsam-visa"].commits
    thresholds = [json.loads(commits[commit.oid]["config.json"])["binarize_threshold"] for commit in (first, second)]
    assert thresholds == [0.5, 0.125]
    assert commits[second.oid]["README.md"] == commits[first.oid]["README.md"] == card.content.encode()


def test_push_in_another_number_of_files_leaves_no_old_weights(
    hub: HubStandIn, pipe: ZeroShotAnomalySegmentationPipeline
) -> None:
    files = hub.repositories
    for max_shard_size, count in (("5GB", 1), ("100KB", 3), ("5GB", 1)):
        pipe.push_to_hub("org/clipsam-visa", token=TOKEN, max_shard_size=max_shard_size)
        weights = [name for name in files["org/clipsam-visa"].files if name.endswith(".safetensors")]
        assert len(weights) >= count and (WEIGHTS in weights) == (count == 1)
    pipe.processor.push_to_hub("org/clipsam-visa", token=TOKEN)
    assert WEIGHTS in files["org/clipsam-visa"].files


def test_card_comes_with_its_picture(hub: HubStandIn, pipe: ZeroShotAnomalySegmentationPipeline) -> None:
    pytest.importorskip("jinja2")
    card = build_card(pipe.model, model_id="org/clipsam-visa", example_image=photograph(), processor=pipe.processor)
    commit = pipe.push_to_hub("org/clipsam-visa", token=TOKEN, card=card)
    repository = hub.repositories["org/clipsam-visa"]
    assert {"example.png", "README.md", WEIGHTS} <= repository.commits[commit.oid].keys()

    del card.data.tags[0]
    card.push_to_hub("org/clipsam-visa", token=TOKEN)
    assert {"example.png", "README.md", WEIGHTS} <= repository.files.keys()
    assert repository.files["README.md"] != repository.commits[commit.oid]["README.md"]


def test_branch_leaves_the_main_one_alone(hub: HubStandIn, pipe: ZeroShotAnomalySegmentationPipeline) -> None:
    pipe.push_to_hub("org/clipsam-visa", token=TOKEN, revision="trial")
    repository = hub.repositories["org/clipsam-visa"]
    assert repository.files == {} and WEIGHTS in repository.commits[repository.branches["trial"]]


@pytest.mark.parametrize("refuse", ["^PUT /large-files", "^POST /api/models/.*/commit/"])
def test_interrupted_push_leaves_the_old_revision(
    hub: HubStandIn, pipe: ZeroShotAnomalySegmentationPipeline, refuse: str
) -> None:
    pipe.push_to_hub("org/clipsam-visa", token=TOKEN)
    repository = hub.repositories["org/clipsam-visa"]
    before, commits = dict(repository.files), len(repository.commits)

    hub.refuse = refuse
    pipe.model.umci[0].fuse.bias.data.fill_(0.75)
    with pytest.raises((HfHubHTTPError, RuntimeError)):
        pipe.push_to_hub("org/clipsam-visa", token=TOKEN)
    assert (repository.files, len(repository.commits)) == (before, commits)

    hub.refuse = None
    pipe.push_to_hub("org/clipsam-visa", token=TOKEN)
    assert load(repository.files[WEIGHTS])["umci.0.fuse.bias"].min() == 0.75


def test_failing_save_makes_no_repository(
    hub: HubStandIn, pipe: ZeroShotAnomalySegmentationPipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr(pipe.processor, "save_pretrained", fail)
    with pytest.raises(OSError, match="No space"):
        pipe.push_to_hub("org/clipsam-visa", token=TOKEN)
    assert hub.requests == []


@pytest.mark.parametrize("token", [TOKEN, TOKEN.lower()])
def test_token_is_never_shown(
    hub: HubStandIn,
    pipe: ZeroShotAnomalySegmentationPipeline,
    token: str,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    message = ""
    with caplog.at_level(logging.DEBUG):
        try:
            pipe.push_to_hub("org/clipsam-visa", token=token)
        except HfHubHTTPError as error:
            message = str(error)
    assert bool(message) == (token != TOKEN)
    shown = "".join([message, caplog.text, *capfd.readouterr()])
    stored = b"".join(
        b"".join(files.values()) for repo in hub.repositories.values() for files in repo.commits.values()
    )
    assert token not in shown and token.encode() not in stored


# --- coming back

WITH_PACKAGE = """
import socket, sys
import numpy as np
from PIL import Image
from transformers import AutoModel, pipeline
from clipsam_hf import ClipSamForAnomalySegmentation, ClipSamProcessor

old, new, clip_commit, sam_commit, photograph, output = sys.argv[1:]
task, name, head = "zero-shot-anomaly-segmentation", "org/clipsam-visa", "org/clipsam-head"
photograph = Image.open(photograph)

# 1. The newest commit
model = ClipSamForAnomalySegmentation.from_pretrained(name)
assert model.config.binarize_threshold == 0.125 and model.config._commit_hash == new
pipe = pipeline(task, model=name)
np.save(output, pipe(photograph, class_name="candle")["anomaly_map"])

# 2. A pinned one
for loader in (ClipSamForAnomalySegmentation, AutoModel):
    assert loader.from_pretrained(name, revision=old).config.binarize_threshold == 0.25
assert pipeline(task, model=name, revision=old).model.config.binarize_threshold == 0.25

# 3. The head alone, with CLIP and SAM from their own repositories at their own commits
whole = model.state_dict()
for loader in (ClipSamForAnomalySegmentation, AutoModel):
    loaded = loader.from_pretrained(head).state_dict()
    assert loaded.keys() == whole.keys() and all((loaded[key] == whole[key]).all() for key in whole)
pipeline(task, model=head)(photograph, class_name="candle")

# 4. Backbones from the Hub are remembered with their commits
parts = ClipSamForAnomalySegmentation.from_clip_sam_pretrained(
    "org/clip", "org/sam", clip_kwargs={"revision": clip_commit}, sam_kwargs={"revision": sam_commit},
    image_size=32, scale_sizes=(2, 3),
)
assert (parts.config.clip_name_or_path, parts.config.clip_revision) == ("org/clip", clip_commit)
assert (parts.config.sam_name_or_path, parts.config.sam_revision) == ("org/sam", sam_commit)

# 5. Without the network
def refuse(*_):
    raise AssertionError("the network was asked")

socket.socket.connect = socket.socket.connect_ex = refuse
for source in (name, head):
    ClipSamForAnomalySegmentation.from_pretrained(source, local_files_only=True)
    ClipSamProcessor.from_pretrained(source, local_files_only=True)
    pipeline(task, model=source, local_files_only=True)(photograph, class_name="candle")
ClipSamForAnomalySegmentation.from_pretrained(name, revision=old, local_files_only=True)
try:
    ClipSamForAnomalySegmentation.from_pretrained("org/unknown", local_files_only=True)
except OSError:
    pass
else:
    raise AssertionError("a model that was never downloaded")
"""

WITHOUT_PACKAGE = (
    BLOCK_PACKAGE
    + """
import numpy as np
from PIL import Image
from transformers import AutoConfig, AutoModel, AutoProcessor, pipeline

old, new, photograph, output, folder = sys.argv[1:]
task, name, head = "zero-shot-anomaly-segmentation", "org/clipsam-visa", "org/clipsam-head"
trust = {"trust_remote_code": True}
photograph = Image.open(photograph)

# 1. A model that the Auto class loads takes all of its code along, although only a part of it was needed
model = AutoModel.from_pretrained(name, **trust)
assert type(model).__module__ == f"transformers_modules.org.clipsam_hyphen_visa.{new}.modeling_clipsam"
model.save_pretrained(folder)
AutoProcessor.from_pretrained(name, **trust).save_pretrained(folder)
local = pipeline(task, model=folder, **trust)

# 2. The pipeline, with the task given or read from the repository
pipe = pipeline(task, model=name, **trust)
expected = pipe(photograph, class_name="candle")["anomaly_map"]
np.save(output, expected)
weights = pipe.model.state_dict()
for other in (local, pipeline(model=name, **trust), pipeline(task, model=head, **trust)):
    assert all((weights[key] == value).all() for key, value in other.model.state_dict().items())
    np.testing.assert_allclose(other(photograph, class_name="candle")["anomaly_map"], expected, atol=1e-6)

# 3. A pinned revision, code included
pinned = AutoModel.from_pretrained(name, revision=old, code_revision=old, **trust)
assert pinned.config.binarize_threshold == 0.25 and old in type(pinned).__module__
assert AutoConfig.from_pretrained(head, **trust).clip_name_or_path == "org/clip"

# 4. Whoever trusts nobody runs nothing
try:
    AutoModel.from_pretrained(name, trust_remote_code=False)
except ValueError:
    pass
else:
    raise AssertionError("remote code without trust")
assert not any(module.partition(".")[0] == "clipsam_hf" for module in sys.modules)
"""
)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_published_models_come_back_in_fresh_processes(
    hub: HubStandIn, pipe: ZeroShotAnomalySegmentationPipeline, tmp_path: Path
) -> None:
    """Whole and head alone, with the package and by remote code, by name, by revision and from the cache."""
    pipe.model.config.binarize_threshold = 0.25
    old = pipe.push_to_hub("org/clipsam-visa", token=TOKEN).oid
    pipe.model.config.binarize_threshold = 0.125
    new = pipe.push_to_hub("org/clipsam-visa", token=TOKEN).oid
    add_backbones(hub, pipe, tmp_path)
    pipe.push_to_hub("org/clipsam-head", token=TOKEN, save_backbones=False)
    photograph().save(tmp_path / "photograph.png")

    config: ClipSamConfig = pipe.model.config
    arguments = {
        WITH_PACKAGE: [old, new, config.clip_revision, config.sam_revision, "photograph.png", "with.npy"],
        WITHOUT_PACKAGE: [old, new, "photograph.png", "without.npy", "saved-again"],
    }
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", script, *map(str, values)],
            cwd=tmp_path,
            env=hub.environment(tmp_path / f"empty-cache-{number}"),
            stderr=subprocess.PIPE,
            text=True,
        )
        for number, (script, values) in enumerate(arguments.items())
    ]
    for process in processes:
        _, errors = process.communicate(timeout=280)
        assert process.returncode == 0, errors[-4000:]

    with torch.no_grad():
        expected = pipe(photograph(), class_name="candle")["anomaly_map"]
    for name in ("with.npy", "without.npy"):
        np.testing.assert_allclose(np.load(tmp_path / name), expected, atol=1e-6)


def test_info_of_a_repository_reads_its_beginning_only(hub: HubStandIn, tiny_checkpoint: Path) -> None:
    commit = hub.add("org/tiny", tiny_checkpoint)
    described = describe("org/tiny")
    assert described == {**describe(tiny_checkpoint), "name": "org/tiny", "revision": commit}
    with pytest.raises(OSError, match="'org/none' is neither a folder nor a repository"):
        describe("org/none")
