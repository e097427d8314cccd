"""The preflight says what the groups of a GRPO stage can teach, fails the hopeless ones, and leaves no other trace."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from algorithms import GRPOExtraConfig, TrainingConfig, preflight
from records.stage_log import StageLog
from tests.algorithms.test_dynamic_sampling import metrics, run, starts_late
from tests.train_stage import train, trainer_of
from utils.errors import StageFailed

Configure = Callable[..., TrainingConfig]

EXTRA = GRPOExtraConfig(reward_func=starts_late, num_generations=4, max_completion_length=6, preflight_prompts=24)


def events(stage_dir: Path) -> str:
    return (stage_dir / "training_events.log").read_text()


def test_its_record_and_what_is_told_are_of_the_completions_that_were_sampled(
    configure: Configure, stage_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(configure("grpo", per_device_train_batch_size=16), stage_dir, EXTRA)
    found = StageLog(stage_dir).read_info()["preflight"]
    assert (found["prompts"], found["completions_a_prompt"], found["num_generations"]) == (24, 8, 4)
    means = found["mean_rewards"]
    assert 0 < sum(means) / 24 == pytest.approx(found["rewards"]["starts_late"], abs=1e-5)
    assert [count for _, count in found["histogram"]] == [means.count(n / 8) for n in range(9)]
    assert found["with_spread"] == sum(0 < mean < 1 for mean in means)
    assert found["predicted"] == found["informative"]["4"]
    assert found["informative"]["8"] == pytest.approx(found["with_spread"] / 24, abs=1e-4)
    assert found["pass_at"]["8"] == pytest.approx(sum(mean > 0 for mean in means) / 24, abs=1e-4)
    said = capsys.readouterr().out
    assert "preflight: 24 prompts, 8 completions each" in said
    assert f"0 of 8 right {'#' * 30}" in said or "#" * 30 in said
    assert f"{found['predicted']:.0%} ± " in said


@pytest.mark.parametrize(("cut_off", "names"), [(1.0, ["clipped_completions"]), (0.9, [])])
def test_completions_that_are_all_cut_off_raise_an_alarm(cut_off: float, names: list[str], stage_dir: Path) -> None:
    log = StageLog(stage_dir)
    log.open(name="grpo", status="running")
    preflight.judge({"cut_off": cut_off, "with_spread": 3}, log)
    assert [one["name"] for one in log.read_info()["alarms"]] == names


def test_training_is_bit_for_bit_what_it_is_without(configure: Configure, tmp_path: Path) -> None:
    from utils.files import weights_sha256

    config = configure("grpo", per_device_train_batch_size=16)
    tried = run(config, tmp_path / "tried", EXTRA)
    untried = run(config, tmp_path / "untried", replace(EXTRA, preflight_prompts=0))
    assert weights_sha256(tried) == weights_sha256(untried)
    timed = ("timestamp", "step_time")
    lines = [[{k: v for k, v in line.items() if k not in timed} for line in metrics(one)] for one in (tried, untried)]
    assert lines[0] == lines[1]
    assert "preflight" not in StageLog(untried).read_info()


def test_a_resumed_stage_is_not_tried_again_and_keeps_the_record(
    configure: Configure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from utils.files import weights_sha256

    config = configure("grpo", max_steps=4, save_steps=2, per_device_train_batch_size=16)
    whole, resumed = run(config, tmp_path / "whole", EXTRA), tmp_path / "resumed"
    resumed.mkdir()
    for name in ("checkpoint-2", "stage_info.json"):
        (shutil.copytree if (whole / name).is_dir() else shutil.copy)(whole / name, resumed / name)
    tried: list[int] = []
    monkeypatch.setattr(preflight, "run", lambda *_: tried.append(1))
    run(config, resumed, EXTRA)
    assert tried == []
    assert StageLog(resumed).read_info()["preflight"] == StageLog(whole).read_info()["preflight"]
    assert weights_sha256(resumed) == weights_sha256(whole)


def constant(value: float | None) -> Callable[..., list[float | None]]:
    def same(completions: list[Any], **_: Any) -> list[float | None]:
        return [value] * len(completions)

    return same


def by_prompt(prompts: list[Any], **_: Any) -> list[float]:
    return [float("red" in prompt[-1]["content"]) for prompt in prompts]


@pytest.mark.parametrize(
    ("reward", "said"),
    [
        (
            constant(0.0),
            r"always 0 \(.* cut off at max_completion_length\).*more SFT, or easier prompts.*right columns",
        ),
        (constant(1.0), r"always 1: the prompts are solved.*harder prompts, or another reward"),
        (constant(None), r"every reward function returned None"),
        (by_prompt, r"from 0 to 1: all right or all wrong.*prompts between the two"),
    ],
)
def test_a_stage_without_any_spread_fails_before_it_trains_and_says_why(
    reward: Callable[..., Any], said: str, configure: Configure, stage_dir: Path
) -> None:
    with pytest.raises(StageFailed, match=said):
        run(configure("grpo"), stage_dir, replace(EXTRA, reward_func=reward))
    assert StageLog(stage_dir).read_info()["preflight"]["with_spread"] == 0
    assert not (stage_dir / "model.safetensors").exists()
    assert metrics_of(stage_dir) == []


def metrics_of(stage_dir: Path) -> list[str]:
    file = stage_dir / "training_metrics.jsonl"
    return file.read_text().splitlines() if file.exists() else []


def test_a_hopeless_stage_fails_again_when_it_is_run_again(configure: Configure, stage_dir: Path) -> None:
    for _ in range(2):
        with pytest.raises(StageFailed, match="never varied within a group in 24 groups of 4"):
            run(configure("grpo"), stage_dir, replace(EXTRA, reward_func=constant(0.0)))


def test_where_only_a_reward_model_tells_completions_apart_there_is_an_alarm(
    configure: Configure, tmp_path: Path
) -> None:
    (tmp_path / "judge").mkdir()
    judge = train("reward", configure("reward", max_steps=2), tmp_path / "judge")
    run(configure("grpo"), tmp_path / "grpo", replace(EXTRA, reward_func=[constant(0.0), str(judge)]))
    assert "step 0: rewards_without_spread: the rewards that are functions never differed" in events(tmp_path / "grpo")
    found = StageLog(tmp_path / "grpo").read_info()["preflight"]
    assert (found["with_spread"], found["with_spread_by_models"]) == (0, 24)


def test_many_valued_rewards_have_ranges_and_no_success() -> None:
    prompts = [[0.0, 0.25, 0.5, 1.0], [1.0, 1.0, 1.0, 1.0], [0.0, 0.0, 0.0, 0.5]]
    found = preflight.expectations(prompts, 4)
    assert "pass_at" not in found
    assert found["predicted"] == pytest.approx(2 / 3, abs=1e-4)
    assert sum(count for _, count in found["histogram"]) == 3
    assert found["histogram"][-1][0].endswith("… 1")


def test_a_prediction_holds_for_what_is_sampled_next(configure: Configure, tmp_path: Path) -> None:
    extra = replace(EXTRA, preflight_prompts=95)
    config = configure("grpo", per_device_train_batch_size=96, max_steps=3, learning_rate=1e-7)
    trainer, data = trainer_of("grpo", config, tmp_path, extra)
    found = preflight.run(trainer, 95)
    trainer.model.train()
    seen = []
    for _ in range(12):
        rows = [data.train[at] for at in range(90) for _ in range(4)]
        with trainer._metrics_aside():
            import torch

            seen += trainer.informative(torch.stack([one.rewards for one in trainer.sample(rows)]))
    assert sum(seen) / len(seen) == pytest.approx(found["predicted"], abs=found["predicted_within"] + 0.03)


def test_the_fields_are_checked(configure: Configure) -> None:
    from algorithms.checks import check

    problems = check("grpo", configure("grpo"), replace(EXTRA, preflight_prompts=-1, dynamic_sampling=-2))
    assert [problem.split(": ", 1)[1] for problem in problems] == [
        "preflight_prompts = -1: must be 0 or more", "dynamic_sampling = -2: must be 0 or more",
    ]  # fmt: skip
    (problem,) = check("grpo", configure("grpo", trainer_args={"preflight_prompts": 8}), EXTRA)
    assert "preflight_prompts belongs outside trainer_args: it is a field of GRPOExtraConfig" in problem
    assert json.dumps(problem)
