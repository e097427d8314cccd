"""The notebook of the docs does what it says: its cells are run in their order, in one process.

A kernel and nbclient would be 25 packages more, to run cells that are plain Python.
"""

import ast
import json
import re
from pathlib import Path
from typing import Any

import pytest

NOTEBOOK = Path(__file__).resolve().parents[1] / "docs/first_steps.ipynb"
CELLS = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
CODE = ["".join(cell["source"]) for cell in CELLS if cell["cell_type"] == "code"]


def run_cell(source: str, names: dict[str, Any]) -> Any:
    """Run a cell, and return the value of its last line where that is an expression, as a notebook shows it."""
    *body, last = ast.parse(source).body
    value = isinstance(last, ast.Expr)
    exec(compile(ast.Module(body if value else [*body, last], []), str(NOTEBOOK), "exec"), names)
    return (
        eval(compile(ast.Expression(last.value), str(NOTEBOOK), "eval"), names) if isinstance(last, ast.Expr) else None
    )


@pytest.mark.slow
def test_the_notebook_runs_and_its_model_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    here, temporary = tmp_path / "here", tmp_path / "temporary"
    here.mkdir()
    temporary.mkdir()
    monkeypatch.chdir(here)
    monkeypatch.setenv("MPLBACKEND", "agg")
    monkeypatch.setattr("tempfile.tempdir", str(temporary))
    names: dict[str, Any] = {"__name__": "__main__"}
    shown = [run_cell(source, names) for source in CODE]
    said = capsys.readouterr().out
    (table,) = (one for one in shown if one is not None and hasattr(one, "columns"))
    sft = table[(table["stage"] == "sft") & (table["measure"] == "demonstrations loss")].iloc[0]
    assert sft["verdict"] == "better"
    assert sft["low"] < sft["high"] < 0
    assert [len(panel.lines[0].get_xdata()) > 5 for panel in names["panels"]] == [True, True]
    texts, rows = ((names["folder"] / file).read_text(encoding="utf-8") for file in ("texts.jsonl", "rows.jsonl"))
    read, learnt, asked = (set(re.findall(r"\d{3}", text)) for text in (texts, rows, " ".join(said.split("\n")[-4:])))
    assert (len(read), len(learnt), len(asked)) == (380, 500, 3)
    assert len(read | learnt | asked) == 883, "nothing that is measured or asked was read before"
    answers = [f"{n} It is {'odd' if n % 2 else 'even'}." for n in names["new"][:3]]
    assert said.endswith("\n".join(answers) + "\n")
    assert len({answer.split()[-1] for answer in answers}) == 2
    assert list(here.iterdir()) == [], "all that it writes is in the folder that it made"


def test_the_notebook_is_one_and_stores_no_outputs() -> None:
    assert [cell["outputs"] for cell in CELLS if cell["cell_type"] == "code"] == [[]] * len(CODE)
    assert len({cell["id"] for cell in CELLS}) == len(CELLS)
    assert not re.search(r"/(home|root|tmp|Users)/", NOTEBOOK.read_text(encoding="utf-8"))


def test_what_the_notebook_says_of_a_recipe_is_python_that_imports() -> None:
    text = "".join("".join(cell["source"]) for cell in CELLS if cell["cell_type"] == "markdown")
    (block,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    imports = [node for node in ast.parse(block).body if isinstance(node, ast.ImportFrom)]
    exec(compile(ast.Module(list(imports), []), str(NOTEBOOK), "exec"))
