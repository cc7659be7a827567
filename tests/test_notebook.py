"""The notebook: as it is committed, and executed from top to bottom in its quick mode."""

import ast
import dataclasses
import inspect
import re
import shutil
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

from lab import ablation
from tinydigits import evaluation, preset
from tinydigits.network import model
from tinydigits.training import loop

ROOT = Path(__file__).parents[1]
NOTEBOOK = ROOT / "notebooks" / "mnist.ipynb"


@pytest.fixture(scope="module")
def committed() -> nbformat.NotebookNode:
    return nbformat.read(NOTEBOOK, as_version=4)


def outputs_of(notebook: nbformat.NotebookNode) -> list[dict[str, Any]]:
    return [output for cell in notebook.cells for output in cell.get("outputs", [])]


def shown_text(notebook: nbformat.NotebookNode) -> str:
    """All that the outputs say in words."""
    parts = []
    for output in outputs_of(notebook):
        data = output.get("data", {})
        parts.append(output.get("text") or data.get("text/markdown") or data.get("text/plain", ""))
    return "\n".join(parts)


def check_clean(notebook: nbformat.NotebookNode) -> None:
    """Every cell ran, in order; none failed, warned, or told where on the machine it was."""
    ran = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in ran] == list(range(1, len(ran) + 1))
    for output in outputs_of(notebook):
        assert output["output_type"] != "error"
        assert output.get("name") != "stderr", output["text"]
        assert "application/vnd.jupyter.widget-view+json" not in output.get("data", {})
    assert not re.search(r"(?<![\w.])/(root|tmp|home|work|Users|var)/", shown_text(notebook))


def test_the_committed_notebook_was_executed_in_order(committed):
    nbformat.validate(committed)
    check_clean(committed)


def test_the_committed_notebook_is_small_and_names_no_machine():
    text = NOTEBOOK.read_text(encoding="utf-8")
    assert len(text.encode()) < 1_000_000
    assert not re.search(r"(?<![\w.])/(root|tmp|home|work|Users)\b", text)


def test_the_committed_notebook_covers_the_six_sections(committed):
    prose = [cell.source for cell in committed.cells if cell.cell_type == "markdown"]
    headings = re.findall(r"^## (.+)$", "\n".join(prose), re.MULTILINE)
    numbered = [heading for heading in headings if heading[0].isdigit()]
    topics = ("Goals", "Configuration", "data", "model", "Training", "Results")
    assert len(numbered) == len(topics)
    for number, (heading, topic) in enumerate(zip(numbered, topics, strict=True), 1):
        assert heading.startswith(f"{number}. ")
        assert topic in heading


def test_the_committed_notebook_was_not_executed_in_quick_mode(committed):
    assert "19,664 parameters" in shown_text(committed)
    assert "This execution was shortened" not in shown_text(committed)


def code_of(tree: ast.AST) -> str:
    """A program without its comments and docstrings, which may be reworded at any time."""
    for node in ast.walk(tree):
        documented = isinstance(node, ast.FunctionDef | ast.ClassDef | ast.Module)
        if documented and ast.get_docstring(node) is not None:
            node.body[0] = ast.Pass()
    return ast.unparse(tree)


def shown_code(notebook: nbformat.NotebookNode) -> dict[str, str]:
    """The functions and classes whose source a notebook shows, by their name."""
    blocks = re.findall(r"^```python\n(.*?)^```", shown_text(notebook), re.MULTILINE | re.DOTALL)
    return {
        node.name: code_of(node)
        for block in blocks
        for node in ast.parse(block).body
        if isinstance(node, ast.FunctionDef | ast.ClassDef)
    }


def test_only_code_is_compared():
    before, after, other = (
        'def f(x):\n    """Old."""\n    return x + 1  # old\n',
        'def f(x):\n    # New.\n    """New."""\n\n    return x + 1\n',
        'def f(x):\n    """Old."""\n    return x + 2  # old\n',
    )
    assert code_of(ast.parse(before)) == code_of(ast.parse(after)) != code_of(ast.parse(other))


def test_the_committed_notebook_shows_the_present_code(committed):
    shown = shown_code(committed)
    assert {"Network", "conv_block", "train_one_epoch", "train_step", "evaluate"} <= shown.keys()
    for name, code in shown.items():
        (now,) = {
            inspect.getsource(vars(module)[name])
            for module in (model, loop, evaluation)
            if name in vars(module)
        }
        assert code == code_of(ast.parse(now)), name


def test_the_committed_notebook_was_executed_with_the_present_preset_and_results(committed):
    text = shown_text(committed)
    for field, value in dataclasses.asdict(preset("classic")).items():
        assert f"| `{field}` | {' '.join(value) if field == 'layers' else value} |" in text
    for row in ablation.read_rows(ROOT / "results"):
        assert f"{row['mean']:.3f} ± {row['sd']:.3f} | {row['n']} |" in text


def test_the_committed_notebook_meets_all_goals(committed):
    text = shown_text(committed)
    assert text.count("| **met** |") == 3
    assert "| **missed** |" not in text


@pytest.mark.slow
def test_the_notebook_runs_from_top_to_bottom(committed, tmp_path, monkeypatch):
    monkeypatch.setenv("TINYDIGITS_QUICK", "1")
    (tmp_path / "notebooks").mkdir()
    copy = Path(shutil.copy(NOTEBOOK, tmp_path / "notebooks"))
    for folder in ("results", "lab"):
        shutil.copytree(ROOT / folder, tmp_path / folder)
    notebook = nbformat.read(copy, as_version=4)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    client = NotebookClient(
        notebook, timeout=300, resources={"metadata": {"path": str(copy.parent)}}
    )
    client.execute()
    check_clean(notebook)

    pictures = [o["data"] for o in outputs_of(notebook) if "image/png" in o.get("data", {})]
    expected = [o["data"] for o in outputs_of(committed) if "image/png" in o.get("data", {})]
    assert len(pictures) == len(expected)
    text = shown_text(notebook)
    assert "class Network(nn.Module):" in text
    assert "def train_one_epoch(" in text
    assert "def train_step(" in text
    assert "This execution was shortened" in text
    for goal in ("accuracy over 99.4 %", "under 20,000 trainable parameters", "at most 15 epochs"):
        assert goal in text
    misread = re.search(r"misreads \*\*([\d,]+) of 10,000\*\* test digits", text)
    assert misread
    assert int(misread[1].replace(",", "")) < 8000  # guessing gets 9,000 wrong
    assert {path.name for path in (tmp_path / "notebooks").rglob("*")} == {copy.name}
