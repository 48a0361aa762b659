# SPDX-FileCopyrightText: 2026 The clipsam_hf authors
# SPDX-License-Identifier: Apache-2.0
"""The checkpoints that ship with the package are found by their names."""

from pathlib import Path

import pytest

from clipsam_hf import EMBEDDED_CHECKPOINT, SMALL_CHECKPOINT
from clipsam_hf.embedded import find_checkpoint


@pytest.mark.parametrize("checkpoint", [EMBEDDED_CHECKPOINT, SMALL_CHECKPOINT], ids=lambda path: path.name)
def test_a_name_is_enough(checkpoint: Path) -> None:
    assert find_checkpoint(checkpoint.name) == str(checkpoint)
    assert (checkpoint / "model.safetensors").is_file()


def test_no_name_is_the_default() -> None:
    assert find_checkpoint(None) == str(EMBEDDED_CHECKPOINT)


@pytest.mark.parametrize("name", ["org/clipsam-small", "clipsam-unknown", "", "..", "/", "."])
def test_another_name_stays(name: str) -> None:
    assert find_checkpoint(name) == name


def test_a_folder_of_ones_own_goes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "clipsam-small").mkdir()
    monkeypatch.chdir(tmp_path)
    assert find_checkpoint("clipsam-small") == "clipsam-small"
