"""lm-eval's tasks: its figures example by example where it is installed, one message where it is not."""

import json
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pytest

from evaluation.__main__ import main
from evaluation.lm_harness import harness_tasks
from utils.errors import Refused

installed = pytest.mark.skipif(find_spec("lm_eval") is None, reason="needs the extra: pip install -e '.[lm-eval]'")
DEFINITION = """
task: local_choices
dataset_path: json
dataset_kwargs:
  data_files: {{test: {file}}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{question}}}}"
doc_to_choice: choices
doc_to_target: label
metric_list:
  - metric: acc
  - metric: acc_norm
metadata:
  version: 3
"""


@pytest.fixture
def definitions(tmp_path: Path) -> Path:
    """A directory with the definition of a multiple-choice task, on a file in it."""
    directory = tmp_path / "definitions"
    directory.mkdir()
    rows = [{"question": f"Ada has {n}", "choices": ["apples", "x y z"], "label": n % 2} for n in range(8)]
    file = directory / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    (directory / "local_choices.yaml").write_text(DEFINITION.format(file=file))
    return directory


def test_without_the_library_it_is_said_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("evaluation.lm_harness.find_spec", lambda _: None)
    with pytest.raises(Refused, match=r"lm-eval:hellaswag needs lm-eval, which is not installed: pip install"):
        harness_tasks(["hellaswag"], None, None)


@installed
def test_its_figures_are_those_of_our_own_task_on_the_same_choices(
    definitions: Path, make_model: Callable[..., Path], tmp_path: Path
) -> None:
    """Its acc and our accuracy are of the same likelihoods; both come with the same interval."""
    make_model(tmp_path / "one")
    make_model(tmp_path / "two", seed=1)
    rows = [json.loads(line) for line in (definitions / "rows.jsonl").read_text().splitlines()]
    own = [
        {"prompt": row["question"], "choices": [f" {one}" for one in row["choices"]], "answer": row["label"]}
        for row in rows
    ]
    (tmp_path / "own.jsonl").write_text("".join(json.dumps(row) + "\n" for row in own))
    words = ["--tasks", f"lm-eval:local_choices,{tmp_path / 'own.jsonl'}", "--include-path", str(definitions)]
    out = tmp_path / "found.json"
    command = ["run", str(tmp_path / "one"), *words, "--limit", "6", "--against", str(tmp_path / "two")]
    assert main([*command, "--out", str(out)]) == 0
    found = {(one["task"], one["metric"]): one for one in json.loads(out.read_text())["results"]}
    theirs, ours = found["lm-eval:local_choices", "acc"], found["own.jsonl", "accuracy"]
    assert theirs["version"].startswith("3 (lm-eval ")
    for key in ("n", "value", "ci95", "against", "difference", "difference_ci95"):
        assert theirs[key] == ours[key]
    assert theirs["n"] == 6
    assert ("lm-eval:local_choices", "acc_norm") in found


@installed
def test_a_task_that_it_does_not_know_is_refused(definitions: Path) -> None:
    with pytest.raises(Refused, match="no task 'local_choice', did you mean 'local_choices'"):
        harness_tasks(["local_choice"], None, definitions)
    with pytest.raises(Refused, match="is no directory"):
        harness_tasks(["local_choices"], None, definitions / "none")
