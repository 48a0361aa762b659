# SPDX-FileCopyrightText: 2026 The clipsam_hf authors
# SPDX-License-Identifier: Apache-2.0
"""A connection that breaks in the middle of the weights: the download goes on, or fails, and never leaves a half."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hub_stand_in import HubStandIn, serve
from safetensors.torch import load_file

from clipsam_hf import ClipSamForAnomalySegmentation, checkpoint_clipsam


LOAD = """
import sys
from clipsam_hf import ClipSamForAnomalySegmentation
model = ClipSamForAnomalySegmentation.from_pretrained("organisation/model")
model.save_pretrained(sys.argv[1])
"""


@pytest.fixture
def hub(tiny_checkpoint: Path) -> Iterator[HubStandIn]:
    with serve() as hub:
        hub.add("organisation/model", tiny_checkpoint)
        yield hub


def load(hub: HubStandIn, tmp_path: Path) -> subprocess.CompletedProcess[str]:
    """Loads the model in a process that has its own cache, and saves what it has."""
    return subprocess.run(
        [sys.executable, "-c", LOAD, str(tmp_path / "loaded")],
        env=hub.environment(tmp_path / "cache"), capture_output=True, text=True, timeout=300,
    )  # fmt: skip


def weights_in(cache: Path) -> list[Path]:
    """Weights that a loader would find."""
    return list(cache.glob("hub/models--*/snapshots/*/*.safetensors"))


def test_a_broken_connection_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the client of the Hub raises in the middle of a file is no OSError."""

    def break_off(*_: Any, **__: Any) -> Any:
        raise type("RemoteProtocolError", (Exception,), {"__module__": "httpx"})("peer closed connection")

    monkeypatch.setattr(checkpoint_clipsam, "cached_file", break_off)
    with pytest.raises(OSError, match="The download of 'organisation/model' broke off: peer closed connection."):
        ClipSamForAnomalySegmentation.from_pretrained("organisation/model")


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_cut_download_goes_on(hub: HubStandIn, tiny_checkpoint: Path, tmp_path: Path) -> None:
    hub.cuts = 1
    run = load(hub, tmp_path)
    assert run.returncode == 0, run.stderr
    assert hub.cuts == 0
    downloads = [request for request in hub.requests if request.startswith("GET") and "safetensors" in request]
    assert len(downloads) == 2
    loaded, saved = (
        load_file(tmp_path / "loaded" / "model.safetensors"),
        load_file(tiny_checkpoint / "model.safetensors"),
    )
    assert all((loaded[name] == tensor).all() for name, tensor in saved.items())


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_download_that_never_ends_is_an_error_and_leaves_no_half(hub: HubStandIn, tmp_path: Path) -> None:
    hub.cuts = 10**6
    run = load(hub, tmp_path)
    assert run.returncode != 0 and not (tmp_path / "loaded").exists()
    assert "\nOSError: " in run.stderr
    assert weights_in(tmp_path / "cache") == []

    hub.cuts = 0
    run = load(hub, tmp_path)
    assert run.returncode == 0, run.stderr
    assert len(weights_in(tmp_path / "cache")) == 1
