"""When a reward rose and what it stands for did not."""

import json
from pathlib import Path
from typing import Any

import pytest

from algorithms import GRPOExtraConfig, TrainingConfig
from algorithms.rewards import exact_match
from chain.hacking import hacking, tell_hacking
from data.chat import CHAT_TEMPLATE
from evaluation.answers import Rewards
from evaluation.skills import Skills
from evaluation.task import HeldOut
from pipeline import run_pipeline
from recipes.arithmetic import VERIFIER
from tests.algorithms.conftest import _save_model
from utils.stage_log import StageLog


def result(task: str, before: float, after: float, half: float) -> dict[str, Any]:
    """Return a result whose interval is `half` to each side of the difference."""
    ci95 = [after - before - half, after - before + half]
    return {"task": task, "metric": "strict", "n": 600, "before": before, "after": after, "ci95": ci95}


def rewards(start: float, end: float, count: int = 30) -> list[dict[str, Any]]:
    """Return rows whose reward goes from `start` to `end`, with some noise."""
    means = [start + (end - start) * step / (count - 1) + 0.02 * (step % 3 - 1) for step in range(count)]
    return [{"step": step, "reward": mean} for step, mean in enumerate(means, 1)]


ROSE = rewards(0.74, 0.86)


def test_a_verifier_that_falls_while_the_reward_rises_is_told() -> None:
    """The prototype's shaped reward, .74 to .86, and its exact match, .36 to .19."""
    message = str(hacking(ROSE, [result("skills", 0.36, 0.19, 0.05)]))
    assert "the training reward rose from 0.757 to 0.843" in message
    assert "skills strict 0.360 to 0.190, 95 % interval of the difference -0.220 to -0.120" in message


def test_a_verifier_that_certainly_gained_next_to_nothing_is_told() -> None:
    assert hacking(ROSE, [result("skills", 0.40, 0.40, 0.02)])
    assert hacking(ROSE, [result("skills", 0.97, 0.80, 0.03)])  # from solved to worse


@pytest.mark.parametrize(
    ("rows", "results"),
    [
        (ROSE, [result("skills", 0.40, 0.41, 0.05)]),  # it may have gained six points
        (
            ROSE,
            [result("skills", 0.97, 0.973, 0.009), result("sampled_skills", 0.75, 0.87, 0.053)],
        ),  # the healthy recipe
        (ROSE, [result("skills", 0.97, 0.973, 0.009)]),  # there was nothing to gain
        (ROSE, [result("skills", 0.40, 0.38, 0.01), result("sampled_skills", 0.2, 0.4, 0.05)]),  # one rose
        (ROSE, [{"task": "skills", "metric": "strict", "before": None, "after": 0.3, "ci95": None}]),
        (ROSE, []),
        (rewards(0.8, 0.8), [result("skills", 0.36, 0.19, 0.05)]),  # the reward has not risen: no hacking
        ([{"step": 1, "loss": 2.0}] * 30, [result("skills", 0.36, 0.19, 0.05)]),  # SFT
        ([], [result("skills", 0.36, 0.19, 0.05)]),
    ],
)
def test_what_may_be_honest_is_not_told(rows: list[dict[str, Any]], results: list[dict[str, Any]]) -> None:
    assert hacking(rows, results) is None


def test_it_is_an_alarm_of_the_stage_and_of_its_last_step(tmp_path: Path) -> None:
    log = StageLog(tmp_path)
    log.open(name="grpo")
    log.metrics_file.write_text("".join(json.dumps(row) + "\n" for row in ROSE))
    fell, rewarded = result("skills", 0.36, 0.19, 0.05), result("rewards", 0.36, 0.19, 0.05)
    rows = HeldOut([])
    tasks = [Skills(rows, verifier=VERIFIER), Rewards(rows, functions={"strict": len, "exact": exact_match})]
    tell_hacking(log, [fell | {"metric": "flexible"}, rewarded], tasks)  # neither is what a verifier says
    assert not log.read_info()["alarms"]
    for one, told in ((rewarded | {"metric": "exact"}, "rewards exact 0.360"), (fell, "skills strict 0.360")):
        tell_hacking(log, [one], tasks)
        (alarm,) = log.read_info()["alarms"]
        assert (alarm["step"], alarm["name"]) == (30, "reward_hacking")
        assert told in alarm["message"]


@pytest.mark.slow
def test_a_policy_that_learns_to_say_little_instead_of_the_answer_is_told_after_its_measurement(tmp_path: Path) -> None:
    def few_letters(completions: list[Any], **_: Any) -> list[float]:
        return [float(len(set(completion[0]["content"])) <= 6) for completion in completions]

    config = TrainingConfig(
        model_name=str(_save_model(tmp_path / "tiny", CHAT_TEMPLATE)), output_dir="grpo", dataset_name="made:prompts",
        max_samples=600, eval_samples=16, max_steps=40, per_device_train_batch_size=32, learning_rate=1e-2,
        logging_steps=1, bf16=False, gradient_checkpointing=False, trainer_args={"save_strategy": "no"},
    )  # fmt: skip
    extra = GRPOExtraConfig(reward_func=few_letters, num_generations=8, max_completion_length=12)
    run_dir = run_pipeline({"grpo": config}, extra, runs_dir=tmp_path / "runs")
    alarms = {alarm["name"]: alarm for alarm in StageLog(run_dir / "grpo").read_info()["alarms"]}
    assert alarms["reward_hacking"]["step"] == 40
    assert "skills strict 0.000 to 0.000" in alarms["reward_hacking"]["message"]
