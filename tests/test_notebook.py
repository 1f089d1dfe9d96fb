"""The notebook of the docs runs from top to bottom, in a kernel of its own, and shows what it says."""

from __future__ import annotations

from pathlib import Path

import nbformat
import pandas as pd
import pytest
from nbclient import NotebookClient

from tests.made.pyramids import write_pyramid
from wsi_seg import Box, open_slide

NOTEBOOK = Path(__file__).resolve().parent.parent / "docs" / "notebook.ipynb"
MOST_BYTES = 30_000
# A sixth of the sample slide in l0 pixels, with tumor and stroma: one tile.
PART = Box.at(800, 700, 1024, 1024)


@pytest.mark.long
def test_the_notebook_runs(sample_svs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("IPYTHONDIR", "JUPYTER_CONFIG_DIR", "JUPYTER_RUNTIME_DIR"):
        monkeypatch.setenv(variable, str(tmp_path / variable.lower()))
    with open_slide(sample_svs) as slide:
        assert slide.info.mpp is not None
        write_pyramid(tmp_path / "part.tiff", slide.read_level(0, PART), slide.info.mpp)
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    first = notebook.cells[1]
    first.source = first.source.replace("path = sample_slide()", 'path = Path("part.tiff")')
    assert "part.tiff" in first.source
    NotebookClient(notebook, timeout=200, resources={"metadata": {"path": str(tmp_path)}}).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    assert sum("image/png" in output.get("data", {}) for output in outputs) == 3
    tables = [output["data"]["text/html"] for output in outputs if "text/html" in output.get("data", {})]
    assert len(tables) == 3 and all("<td>" in table for table in tables)
    rows = pd.read_csv(tmp_path / "notebook-results" / "regions.csv")
    assert {"Tumor", "Stroma"} == set(rows["class"])


def test_the_notebook_is_stored_without_what_it_shows() -> None:
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert all(not cell.outputs and cell.execution_count is None for cell in code)
    assert NOTEBOOK.stat().st_size < MOST_BYTES
