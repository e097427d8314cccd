"""lm-eval's tasks: its figures example by example where it is installed, one message where it is not."""

import json
import re
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

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
    with pytest.raises(Refused, match=r"lm-eval:hellaswag needs lm-eval.*: pip install -e '\.\[lm-eval\]'$"):
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
def test_a_model_is_asked_through_its_template_where_that_is_said(
    definitions: Path, make_model: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lm_eval.models.huggingface import HFLM
    from transformers import AutoTokenizer

    asked: list[str] = []
    answer = HFLM.loglikelihood

    def heard(model: Any, requests: list[Any], *given: Any, **more: Any) -> Any:
        asked.extend(request.args[0] for request in requests)
        return answer(model, requests, *given, **more)

    monkeypatch.setattr(HFLM, "loglikelihood", heard)
    tokenizer = AutoTokenizer.from_pretrained(make_model(tmp_path / "one"))
    as_chat = tokenizer.apply_chat_template(
        [{"role": "user", "content": "Ada has 0"}], tokenize=False, add_generation_prompt=True
    )
    words = ["run", str(tmp_path / "one"), "--tasks", "lm-eval:local_choices", "--include-path", str(definitions)]
    for mode, prompt, said in (("chat", as_chat, ", chat template)"), ("text", "Ada has 0", ")")):
        asked.clear()
        assert main([*words, "--limit", "1", "--mode", mode, "--out", f"{tmp_path}/{mode}.json"]) == 0
        assert set(asked) == {prompt}
        version = json.loads((tmp_path / f"{mode}.json").read_text())["results"][0]["version"]
        assert re.fullmatch(rf"3 \(lm-eval [\d.]+{re.escape(said)}", version)


@installed
def test_a_model_without_a_template_is_not_asked_through_one(
    definitions: Path, make_model: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_model(tmp_path / "plain", template=False)
    words = ["run", str(tmp_path / "plain"), "--tasks", "lm-eval:local_choices", "--include-path", str(definitions)]
    assert main([*words, "--mode", "chat", "--out", f"{tmp_path}/found.json"]) == 0
    (result,) = json.loads((tmp_path / "found.json").read_text())["results"]
    assert (result["metric"], result["value"]) == ("acc", None)
    assert "no chat template: leave out --mode chat" in result["reason"]


def test_a_mode_that_no_task_takes_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "latest", "--tasks", "skills", "--mode", "chat"]) == 2
    assert "--mode is for tasks of lm-eval:, and --tasks names none" in capsys.readouterr().err


@installed
def test_a_task_that_it_does_not_know_is_refused(definitions: Path) -> None:
    with pytest.raises(Refused, match="no task 'local_choice', did you mean 'local_choices'"):
        harness_tasks(["local_choice"], None, definitions)
    with pytest.raises(Refused, match="is no directory"):
        harness_tasks(["local_choices"], None, definitions / "none")
