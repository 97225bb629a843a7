"""The notebook of the documentation, executed."""

from pathlib import Path

import nbclient
import nbformat
import pytest

from tests.training_runs import ROOT, environment

PAGE = ROOT / "docs" / "quickstart.ipynb"


def test_the_notebook_runs_and_keeps_no_outputs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in environment().items():
        monkeypatch.setenv(name, value)
    book = nbformat.read(PAGE, 4)
    nbformat.validate(book)
    cells = [cell for cell in book.cells if cell.cell_type == "code"]
    assert [cell for cell in cells if cell.outputs or cell.execution_count] == []
    where = {"metadata": {"path": str(tmp_path)}}
    nbclient.NotebookClient(book, timeout=240, kernel_name="python3", resources=where).execute()
    shown = [output for cell in cells for output in cell.outputs]
    text = "".join(output.text for output in shown if output.output_type == "stream")
    assert "pca: 0." in text
    assert "vae: 0." in text
    assert sum("image/png" in output.get("data", {}) for output in shown) == 3, "three plots"
