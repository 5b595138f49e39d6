"""The notebook runs from top to bottom, on the CPU and with a small setting."""

from __future__ import annotations

import sys

import pytest
from support.limits import HANG_S
from support.paths import ROOT

NOTEBOOK = ROOT / "examples" / "llmbench_colab.ipynb"


def read():
    nbformat = pytest.importorskip("nbformat", reason="llmbench[notebook] is not installed")
    return nbformat.read(NOTEBOOK, as_version=4)


def test_the_notebook_is_valid_and_carries_no_output():
    book = read()
    pytest.importorskip("nbformat").validate(book)
    assert all(not cell.outputs and cell.execution_count is None for cell in book.cells if cell.cell_type == "code")


def outputs_of(book, start):
    (cell,) = [cell for cell in book.cells if cell.cell_type == "code" and cell.source.startswith(start)]
    return {kind for output in cell.outputs for kind in output.get("data", {})}, cell.outputs


@pytest.mark.slow
def test_the_notebook_runs_from_top_to_bottom(tmp_path, monkeypatch):
    client = pytest.importorskip("nbclient", reason="llmbench[notebook] is not installed")
    from jupyter_client import AsyncKernelManager

    monkeypatch.setenv("LLMBENCH_NOTEBOOK_SMALL", "1")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    book = read()
    kernel = AsyncKernelManager()
    kernel.kernel_spec.argv = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    client.NotebookClient(book, km=kernel, timeout=HANG_S, resources={"metadata": {"path": str(tmp_path)}}).execute()

    kinds, (*_, shown) = outputs_of(book, "results = llmbench.run")
    assert "text/html" in kinds and "What bounds each cell" in shown.data["text/html"]
    for start, kind in (
        ("cells = results.cells", "text/html"),
        ("results.bottlenecks", "text/html"),
        ("import matplotlib", "image/png"),
        ("tried = ", "image/png"),
        ("results.page()", "text/html"),
        ("from torch import nn", "text/html"),
    ):
        assert kind in outputs_of(book, start)[0], start
    assert (tmp_path / "llmbench-quick" / "records.jsonl").exists()
