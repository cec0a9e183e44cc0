"""The notebook runs from top to bottom."""

from pathlib import Path

import pytest

from tests.examples.conftest import EXAMPLES


@pytest.mark.nightly
@pytest.mark.ray
def test_the_notebook_goes_from_images_to_a_verdict_and_the_report(tmp_path: Path) -> None:
    import nbformat  # takes half a second, which only this test should pay
    from nbclient import NotebookClient

    notebook = nbformat.read(EXAMPLES / "xraytune.ipynb", as_version=4)
    assert not any(cell.get("outputs") for cell in notebook.cells), "commit it without outputs"

    NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(tmp_path)}}).execute()

    results = [
        output.data
        for cell in notebook.cells
        for output in cell.get("outputs", [])
        if "data" in output
    ]
    pages = [result.get("text/html", "") for result in results]
    assert any("<b>xrays</b>: " in page and "val_b_score" in page for page in pages)
    assert any("<iframe" in page for page in pages)
    assert any("application/vnd.plotly.v1+json" in result for result in results)
    assert {"'helps'", "'hurts'", "'no_better'", "'undecided'"} & {
        result.get("text/plain") for result in results
    }
