"""`python -m evaluation run`: figures of any checkpoint, or one message and nothing left behind."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from evaluation.__main__ import main
from evaluation.paired import mean_score
from utils.command_line import this_command
from utils.files import write_json

QUESTIONS = [{"prompt": f"{n} and {n}?", "answer": str(n)} for n in range(8)]
CHOICES = [{"prompt": f"Ada has {n}", "choices": [" apples", " x y z"], "answer": n % 2} for n in range(8)]


@pytest.fixture
def work(tmp_path: Path, make_model: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two random models, a reward model, and two files of tasks in the working directory."""
    monkeypatch.chdir(tmp_path)
    make_model(tmp_path / "one")
    make_model(tmp_path / "two", seed=1)
    make_model(tmp_path / "judge", seed=2, reward=True)
    for name, rows in (("questions", QUESTIONS), ("choices", CHOICES)):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path


def run(*words: str) -> int:
    return main(["run", *words])


def results(file: Path) -> dict[tuple[str, str], dict[str, Any]]:
    return {(one["task"], one["metric"]): one for one in json.loads(file.read_text())["results"]}


def test_each_figure_has_its_task_version_count_and_interval(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = sorted((work / "one").iterdir())
    tasks = "documents,skills@1,questions.jsonl,choices.jsonl"
    assert run("one", "--tasks", tasks, "--limit", "6", "--max-new-tokens", "4", "--out", "found.json") == 0
    found = results(work / "found.json")
    assert {task for task, _ in found} == {"documents", "skills", "questions.jsonl", "choices.jsonl"}
    assert {"strict", "flexible"} <= {metric for task, metric in found if task in ("questions.jsonl", "skills")}
    assert found["choices.jsonl", "accuracy"].keys() == {"task", "version", "metric", "n", "value", "ci95"}
    assert found["documents", "loss"]["version"] == "2"
    for one in (found["documents", "loss"], found["choices.jsonl", "accuracy"], found["questions.jsonl", "strict"]):
        assert one["n"] == 6
        assert one["ci95"][0] <= one["value"] <= one["ci95"][1]
    strict = found["questions.jsonl", "strict"]
    assert strict["ci95"] == pytest.approx(list(mean_score([0.0] * 6))[1:]), "Wilson's: it has a width though all are 0"
    printed = capsys.readouterr().out
    assert "questions.jsonl v4-" in printed
    assert "bits_per_byte" in printed
    assert sorted((work / "one").iterdir()) == before, "nothing is written beside the weights"


def test_against_another_checkpoint_the_interval_is_that_of_the_pairs(
    work: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("one", "--tasks", "documents", "--limit", "8", "--against", "two", "--out", "both.json") == 0
    assert run("two", "--tasks", "documents", "--limit", "8", "--against", "one", "--out", "back.json") == 0
    one, back = (results(work / name)["documents", "bits_per_byte"] for name in ("both.json", "back.json"))
    assert (one["value"], one["against"]) == (back["against"], back["value"])
    assert one["difference"] == pytest.approx(one["value"] - one["against"])
    low, high = one["difference_ci95"]
    assert low < one["difference"] < high
    assert high - low < one["ci95"][1] - one["ci95"][0], "the spread of the documents is not in it"
    assert {one["verdict"], back["verdict"]} in ({"better", "worse"}, {"no evidence"})
    record = json.loads((work / "both.json").read_text())
    assert record["checkpoint"]["name"].endswith("one")
    assert record["against"]["sha256"] != record["checkpoint"]["sha256"]
    assert "one against" in capsys.readouterr().out


def test_figures_a_token_are_not_compared_between_vocabularies(work: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(work / "two")
    tokenizer.add_tokens(["Ada has"])
    model = AutoModelForCausalLM.from_pretrained(work / "two")
    model.resize_token_embeddings(len(tokenizer))
    model.save_pretrained(work / "two")
    tokenizer.save_pretrained(work / "two")
    assert run("one", "--tasks", "documents", "--limit", "8", "--against", "two", "--out", "both.json") == 0
    found = results(work / "both.json")
    assert found["documents", "loss"]["difference"] is None
    assert "different tokens" in found["documents", "loss"]["reason"]
    assert found["documents", "bits_per_byte"]["difference_ci95"] is not None


def test_a_stage_of_a_run_is_found_by_name_and_its_reward_model_scores_pairs(work: Path) -> None:
    run_dir = work / "elsewhere" / "20260131_101500_k3x9"
    run_dir.mkdir(parents=True)
    stages = []
    for name, model in (("sft", "one"), ("reward", "judge")):
        (work / model).rename(run_dir / name)
        write_json(run_dir / name / "stage_info.json", {"name": name, "status": "passed"})
        stages.append({"name": name, "output_dir": name, "status": "passed"})
    write_json(run_dir / "run_info.json", {"status": "passed", "stages": stages})
    where = ("--runs-dir", "elsewhere", "--limit", "6")
    assert run("latest/reward", "--tasks", "pairs", *where, "--out", "pairs.json") == 0
    assert {"accuracy", "brier", "calibration_error"} <= {metric for _, metric in results(work / "pairs.json")}
    assert run("20260131_101500_k3x9", "--tasks", "choices.jsonl", *where, "--out", "sft.json") == 0
    assert json.loads((work / "sft.json").read_text())["checkpoint"]["name"] == "20260131_101500_k3x9/sft"


def test_a_model_without_a_template_says_so_instead_of_a_figure(
    work: Path, make_model: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    make_model(work / "plain", template=False)
    assert run("plain", "--tasks", "skills", "--limit", "6", "--out", "none.json") == 0
    strict = results(work / "none.json")["skills", "strict"]
    assert (strict["n"], strict["value"], strict["ci95"]) == (0, None, None)
    assert "no chat template" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("one", "--tasks", "skils"), "no task 'skils', did you mean 'skills'?"),
        (("one", "--tasks", "skills@7"), "skills is at version 1 here, not 7"),
        (("one", "--tasks", ","), "--tasks names none"),
        (("one", "--tasks", "skills,skills"), "names a task twice"),
        (("one", "--tasks", "skills", "--limit", "0"), "--limit must be at least 1"),
        (("one", "--tasks", "nowhere.jsonl"), "nowhere.jsonl is no file"),
        (("one", "--tasks", "skills", "--out", "choices.jsonl"), "choices.jsonl is there already"),
        (("one", "--tasks", "skills", "--out", "no/such.json"), "no is no directory"),
        (("one", "--tasks", "pairs"), "no reward model, which pairs is for"),
        (("judge", "--tasks", "skills,pairs"), "is a reward model, whose task is pairs: leave out skills"),
        (("model", "--tasks", "skills", "--out", "nowhere/out.json"), "nowhere is no directory that can be written"),
        (("missing", "--tasks", "skills"), "'missing' is no run in runs and no directory"),
        (("one", "--tasks", "skills", "--against", "missing"), "'missing' is no run"),
        (("one",), "required: --tasks. All flags: "),
    ],
)
def test_what_cannot_be_had_is_refused_before_a_model_is_loaded(
    words: tuple[str, ...], said: str, work: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def loaded(*_: Any, **__: Any) -> Any:
        raise AssertionError("a model was loaded")

    monkeypatch.setattr("evaluation.scored_model.load_policy", loaded)
    monkeypatch.setattr("evaluation.scored_model.load_reward_model", loaded)
    before = sorted(work.rglob("*"))
    assert run(*words) == 2
    assert said in " ".join(capsys.readouterr().err.split())
    assert sorted(work.rglob("*")) == before


def test_weights_that_are_cut_off_are_refused(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    weights = work / "one" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    assert run("one", "--tasks", "choices.jsonl") == 2
    assert "is it whole?" in capsys.readouterr().err


def test_weights_that_are_missing_are_not_made_up(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from safetensors.torch import load_file, save_file

    weights = load_file(work / "one" / "model.safetensors")
    del weights["model.norm.weight"]
    save_file(weights, work / "one" / "model.safetensors", metadata={"format": "pt"})
    assert run("one", "--tasks", "choices.jsonl") == 2
    assert "lacks model.norm.weight" in capsys.readouterr().err


def test_names_from_files_are_shown_as_they_are_and_steer_nothing(
    work: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    odd = work / "[red]odd\x1b[31m.jsonl"
    odd.write_text((work / "choices.jsonl").read_text())
    assert run("one", "--tasks", odd.name) == 0
    printed = capsys.readouterr().out
    assert "[red]odd" in "".join(printed.split())
    assert "\x1b" not in printed


def test_a_missing_flag_is_answered_with_the_help_that_names_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("one") == 2
    assert capsys.readouterr().err.endswith(f"All flags: {this_command('run', '--help')}\n")
