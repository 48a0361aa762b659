# SPDX-FileCopyrightText: 2026 The clipsam_hf authors
# SPDX-License-Identifier: Apache-2.0
"""The notebook runs as it stands, and shows what it promises."""

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient


NOTEBOOK = Path(__file__).parents[1] / "examples" / "first_day.ipynb"


def test_the_notebook_is_kept_without_outputs() -> None:
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(notebook)
    assert all(
        not cell.outputs and cell.execution_count is None for cell in notebook.cells if cell.cell_type == "code"
    )
    assert NOTEBOOK.stat().st_size < 20_000


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_notebook_runs() -> None:
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    NotebookClient(notebook, timeout=300, kernel_name="python3").execute()
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    pages = [output.data["text/html"] for output in outputs if "text/html" in output.get("data", {})]
    assert len(pages) == 3
    assert all("<img " in page and len(page) < 300_000 for page in pages)
    # Texts alone give no verdict, good photographs do
    assert "anomalous" not in pages[0] and "<b>anomalous</b>" in pages[1] and "<b>anomalous</b>" in pages[2]
    printed = "".join(output.text for output in outputs if output.get("name") == "stdout")
    assert printed.count("score") == 3 and "6.png: score" in printed
