"""The documented recipe with problems of its own and a verifier in Python, run end to end on GSM8K's rows."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from run_all import main

DOCS = Path(__file__).resolve().parent.parent / "docs/recipes.md"
QUICK = {
    "max_steps": 6, "per_device_train_batch_size": 8, "learning_rate": 1e-3, "logging_steps": 1,
    "gradient_checkpointing": False, "bf16": False, "eval_samples": 12, "dtype": "float32",
}  # fmt: skip


def blocks() -> list[str]:
    """Return the Python of the section on verifiers."""
    section = DOCS.read_text(encoding="utf-8").partition("## Your own problems, verified")[2].partition("\n## ")[0]
    return re.findall(r"```python\n(.*?)```", section, flags=re.DOTALL)


def recipe(shared: Path, changes: dict[str, str]) -> str:
    """Return the documented recipe with the fixtures' model and rows."""
    text = blocks()[0]
    model, rows = shared / "fixtures/models/stories260K", shared / "fixtures/data/reasoning/gsm8k_train_500.jsonl"
    for old, new in {
        '"HuggingFaceTB/SmolLM2-135M"': repr(str(model)), '"gsm8k.jsonl"': repr(str(rows)), "count=200": "count=16",
        "max_new_tokens=256": "max_new_tokens=24",
    }.items() | changes.items():  # fmt: skip
        assert old in text, old
        text = text.replace(old, new)
    return text


@pytest.mark.shared
def test_a_recipe_is_measured_by_its_own_verifier_and_gated_on_it(
    shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("maths.py").write_text(recipe(shared, {}), encoding="utf-8")
    values = [part for name, value in QUICK.items() for part in ("--set", f"sft.{name}={value}")]
    assert main(["--recipe", "maths.py", "--stages", "sft", *values]) == 0
    (run,) = Path("runs").iterdir()
    info: dict[str, Any] = json.loads((run / "maths-sft/stage_info.json").read_text(encoding="utf-8"))
    results = {f"{one['task']} {one['metric']}": one for one in info["evaluation"]}
    for name in ("skills strict", "skills flexible", "skills stop_rate"):
        assert results[name]["n"] == 16
    for name in ("sampled_skills strict", "sampled_skills pass@4", "sampled_skills flexible_pass@2"):
        assert results[name]["n"] == 16
        assert 0 <= results[name]["before"] <= 1
    assert [(gate["metric"], gate["rule"], gate["failed"]) for gate in info["gates"]] == [
        ("skills strict", "not_below_input", False), ("sampled_skills pass@4", "not_below_input", False)
    ]  # fmt: skip
    assert all(gate["n"] == 16 for gate in info["gates"])
    samples = [json.loads(line) for line in (run / "maths-sft/samples.jsonl").read_text().splitlines()]
    assert next(one["expected"] for one in samples if one["task"] == "skills").isdigit(), "not the whole rationale"
    assert "skills strict" in (run / "console_output.log").read_text(encoding="utf-8")


REFUSED: dict[str, tuple[dict[str, str], str]] = {
    "a column that is not there": ({"row['solution']}": "row['result']}"}, "strict fails on problem 0"),
    "no such data": ({"problems=PROBLEMS": "problems='gsm8q.jsonl'"}, "there is no data set 'gsm8q.jsonl'"),
    "no verifier": ({"verifier = Verifier(": "verifier = dict("}, "verifier must be a Verifier"),
    "no such result": ({"skills strict": "skills strickt"}, "did you mean 'skills strict'"),
}


@pytest.mark.shared
@pytest.mark.parametrize("case", REFUSED)
def test_a_verifier_that_cannot_work_is_refused_before_anything_is_created(
    case: str, shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    changes, message = REFUSED[case]
    monkeypatch.chdir(tmp_path)
    text = recipe(shared, changes)
    if case == "no verifier":
        text = text.replace("verifier.verified", "None")
    Path("maths.py").write_text(text, encoding="utf-8")
    assert main(["--recipe", "maths.py", "--stages", "sft", "--set", "sft.bf16=False"]) == 2
    said = capsys.readouterr().err
    assert message in " ".join(said.split())
    assert "Traceback" not in said
    assert not Path("runs").exists()


def test_the_documented_rows_of_a_program_are_found_and_held_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    from data import made

    monkeypatch.setattr(made, "REGISTERED", dict(made.REGISTERED))
    exec(blocks()[1], {})
    train, held_out = (
        {row["prompt"] for seed in (0, 9) for row in made.rows("doubles", side, 50, seed)} for side in ("train", "eval")
    )
    assert len(train) == len(held_out) == 59
    assert not train & held_out


def test_a_recipes_own_rows_verifier_and_reward_carry_a_stage_from_end_to_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from algorithms import GRPOExtraConfig, TrainingConfig
    from data import made
    from data.chat import CHAT_TEMPLATE
    from evaluation import Verifier
    from pipeline import run_pipeline
    from tests.algorithms.conftest import _save_model

    def even(text: str, row: Any) -> bool:
        return int(row["answer"]) // 2 % 2 == len(text) % 2

    monkeypatch.setattr(made, "REGISTERED", dict(made.REGISTERED))
    exec(blocks()[1], {})
    verifier = Verifier(problems=lambda: made.rows("doubles", "eval", 12), strict=even, max_new_tokens=8)
    config = TrainingConfig(
        model_name=str(_save_model(tmp_path / "tiny", CHAT_TEMPLATE)), output_dir="grpo", dataset_name="made:doubles",
        max_samples=64, eval_samples=8, max_steps=2, per_device_train_batch_size=16, learning_rate=1e-2,
        logging_steps=1, bf16=False, gradient_checkpointing=False, trainer_args={"save_strategy": "no"},
        gates=[{"metric": "sampled_skills strict", "at_least": 0.1}],
    )  # fmt: skip
    extra = GRPOExtraConfig(reward_func=verifier.verified, num_generations=8, max_completion_length=8)
    run = run_pipeline({"grpo": config}, extra, verifier=verifier, runs_dir=tmp_path / "runs")
    info = json.loads((run / "grpo/stage_info.json").read_text(encoding="utf-8"))
    results = {f"{one['task']} {one['metric']}": one for one in info["evaluation"]}
    assert results["skills strict"]["n"] == results["sampled_skills pass@4"]["n"] == 12
    assert 0 < results["sampled_skills strict"]["before"] < 1
    assert not [name for name in results if name.startswith("rewards ")], "skills say what the reward says"
    assert [gate["failed"] for gate in info["gates"]] == [False]
    logged = [json.loads(line) for line in (run / "grpo/training_metrics.jsonl").read_text().splitlines()]
    assert 0 < logged[0]["rewards/verified/mean"] < 1
