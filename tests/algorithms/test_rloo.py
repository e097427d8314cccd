"""RLOO as a stage: it samples, rewards and learns like GRPO, against the rest of each group."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from algorithms import GRPOExtraConfig, TrainingConfig, check
from tests.train_stage import train
from utils.errors import StageFailed

Configure = Callable[..., TrainingConfig]


def short(completions: list[Any], **_: Any) -> list[float]:
    """A reward that an untrained model can raise within some steps: few letters e."""
    return [-float(completion[0]["content"].count("e")) for completion in completions]


EXTRA = GRPOExtraConfig(reward_func=short, num_generations=8, max_completion_length=8, preflight_prompts=8)


def test_the_reward_rises(configure: Configure, stage_dir: Path) -> None:
    config = configure(
        "rloo", max_steps=25, per_device_train_batch_size=32, learning_rate=1e-2, trainer_args={"beta": 0.0}
    )
    train("rloo", config, stage_dir, EXTRA)
    rewards = [json.loads(line)["reward"] for line in (stage_dir / "training_metrics.jsonl").read_text().splitlines()]
    assert sum(rewards[-5:]) / 5 > sum(rewards[:5]) / 5 + 0.1
    info = json.loads((stage_dir / "stage_info.json").read_text())
    assert info["preflight"]["num_generations"] == 8
    assert 0 < info["preflight"]["predicted"] <= 1


def test_groups_are_whole_and_dynamic_sampling_is_grpos(configure: Configure) -> None:
    (uneven,) = check("rloo", configure("rloo", per_device_train_batch_size=6), EXTRA)
    assert "must be a multiple of num_generations = 8, such as 8" in uneven
    dynamic = GRPOExtraConfig(reward_func=short, dynamic_sampling=2)
    (problem,) = check("rloo", configure("rloo", per_device_train_batch_size=8), dynamic)
    assert "only a stage of kind grpo has it" in problem


def same(completions: list[Any], **_: Any) -> list[float]:
    return [1.0] * len(completions)


def test_groups_without_a_difference_are_told_although_the_divergence_is_taken_off(
    configure: Configure, stage_dir: Path
) -> None:
    config = configure(
        "rloo", max_steps=3, per_device_train_batch_size=16, learning_rate=1e-3, trainer_args={"beta": 1.0}
    )
    with pytest.raises(StageFailed, match="the rewards never varied within a group"):
        train("rloo", config, stage_dir, replace(EXTRA, reward_func=same, preflight_prompts=0))
    rows = [json.loads(line) for line in (stage_dir / "training_metrics.jsonl").read_text().splitlines()]
    assert rows[-1]["reward_std"] == 0.0
    assert {row["frac_reward_zero_std"] for row in rows} == {1.0}
