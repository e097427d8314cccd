"""A run of several stages of one kind, each under its label; it is resumed and built upon by label."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from chain.recovery import train_within_memory
from kinds import Stage
from run_all import main
from tests.algorithms.conftest import data_files, model_dir
from tests.chain.test_labels import TWO, write

__all__ = ["data_files", "model_dir", "write"]  # fixtures


def read(file: Path) -> dict[str, Any]:
    return dict(json.loads(file.read_text()))


def newest_run() -> Path:
    return max(Path("runs").iterdir(), key=lambda path: path.stat().st_mtime_ns)


def test_two_stages_of_one_kind_run_under_their_labels(write: Callable[[str], str]) -> None:
    assert main(["--recipe", write(TWO), "--set", "tools.max_steps=1"]) == 0
    first = newest_run()
    record = read(first / "run_info.json")
    assert [(one["name"], one["kind"], one["output_dir"]) for one in record["stages"]] == [
        ("code", "sft", "my-code"),
        ("tools", "sft", "my-tools"),
    ]
    assert (record["status"], record["values"], list(record["configs"])) == (
        "passed",
        ["tools.max_steps=1"],
        ["code", "tools"],
    )
    code, tools = (read(first / name / "stage_info.json") for name in ("my-code", "my-tools"))
    assert [(one["name"], one["kind"], one["steps"]) for one in (code, tools)] == [
        ("code", "sft", 2),
        ("tools", "sft", 1),
    ]
    assert tools["input"]["ref"] == 'StageOutput("code")'
    assert tools["input"]["sha256"] == code["output"]["sha256"]
    report = (first / "report.html").read_text(encoding="utf-8")
    assert "code" in report
    assert "tools" in report
    assert "of stage tools of run" in (first / "my-tools/README.md").read_text(encoding="utf-8")

    assert main(["--recipe", "recipe.py", "--stages", "tools", "--from", first.name]) == 0
    second = newest_run()
    assert [one["name"] for one in read(second / "run_info.json")["stages"]] == ["tools"]
    again = read(second / "my-tools/stage_info.json")
    assert (again["input"]["sha256"], again["steps"]) == (code["output"]["sha256"], 3)


def test_a_run_goes_on_at_the_label_where_it_stopped(
    write: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    trained: list[str] = []

    def stopped_once(stage: Stage, *given: Any) -> Path:
        trained.append(stage.label)
        if trained == ["code", "tools"]:
            raise KeyboardInterrupt
        return train_within_memory(stage, *given)

    monkeypatch.setattr("chain.run_stage.train_within_memory", stopped_once)
    assert main(["--recipe", write(TWO)]) == 130
    assert [one["status"] for one in read(newest_run() / "run_info.json")["stages"]] == ["passed", "interrupted"]
    assert main(["--resume", "latest", "--set", "tools.learning_rate=1e-4"]) == 2  # it has begun otherwise
    assert main(["--resume", "latest"]) == 0
    assert trained == ["code", "tools", "tools"]
    assert read(newest_run() / "run_info.json")["status"] == "passed"


def test_each_stage_that_samples_has_its_own_rewards_and_sampling(write: Callable[[str], str]) -> None:
    two = """
sampling = dict(reward_func=total, num_generations=4, preflight_prompts=0)
configs = {
    "short": stage("short", "prompts", stage="grpo", max_steps=1),
    "grpo": stage("grpo", "prompts", max_steps=1),
}
grpo_extra = {
    "short": GRPOExtraConfig(max_completion_length=3, **sampling),
    "grpo": GRPOExtraConfig(max_completion_length=5, **sampling),
}
"""
    assert main(["--recipe", write(two), "--set", "short.num_generations=2"]) == 0
    run = newest_run()
    trainers = [read(run / label / "stage_info.json")["config"]["trainer"] for label in ("short", "grpo")]
    assert [(one["max_completion_length"], one["num_generations"]) for one in trainers] == [(3, 2), (5, 4)]
    configs = read(run / "run_info.json")["configs"]
    assert [configs[label]["grpo_extra"]["max_completion_length"] for label in ("short", "grpo")] == [3, 5]


VERIFIED = """
from evaluation import Verifier


def right(text, row):
    return text == row["answer"]


verifier = Verifier(problems=[{"prompt": "1?", "answer": "1"}, {"prompt": "2?", "answer": "2"}], strict=right)
"""


def test_a_run_does_not_go_on_with_another_verifier(
    write: Callable[[str], str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stopped(*_: Any) -> Path:
        raise KeyboardInterrupt

    monkeypatch.setattr("chain.run_stage.train_within_memory", stopped)
    assert main(["--recipe", write(TWO + VERIFIED)]) == 130
    write(TWO + VERIFIED.replace('== row["answer"]', '!= row["answer"]'))
    capsys.readouterr()
    assert main(["--resume", "latest"]) == 2
    assert "the verifier, or its problems, are not those that the run began with" in capsys.readouterr().err
    write(TWO + VERIFIED)
    assert main(["--resume", "latest"]) == 130


def test_another_kinds_model_of_the_same_label_is_no_input(
    write: Callable[[str], str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--recipe", write(TWO), "--stages", "code"]) == 0
    capsys.readouterr()
    write(TWO.replace('"my-code", stage="sft"', '"my-code", stage="kto"'))
    assert main(["--recipe", "recipe.py", "--stages", "tools", "--from", newest_run().name]) == 2
    assert "has trained code as sft, and in this recipe it is kto" in " ".join(capsys.readouterr().err.split())
