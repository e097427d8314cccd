"""Alarms in real, short trainings: each ailment raises its own, sabotage is seen, and healthy stages raise none."""

import itertools
import json
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from algorithms import GRPOExtraConfig, TrainingConfig
from algorithms.watch import HOPELESS
from kinds import named
from records.stage_log import StageLog
from tests.algorithms.conftest import WORDS
from tests.train_stage import train
from utils.errors import StageFailed

EXACT = GRPOExtraConfig(reward_func="exact_match", num_generations=4, max_completion_length=12)
HEALTHY = {"sft": 1e-3, "reward": 1e-2, "dpo": 3e-4, "grpo": 1e-3}
Stage = Callable[..., list[dict[str, Any]]]


def turn(role: str, content: str) -> list[dict[str, str]]:
    return [{"role": role, "content": content}]


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Rows whose answer is the first of three words, and pairs that prefer some words; shuffled, half of them not."""
    directory, draw = tmp_path_factory.mktemp("answers"), random.Random(0)
    asks = [f"say {one} {two} {three}" for one in WORDS for two in WORDS for three in WORDS]
    draw.shuffle(asks)
    pairs = [
        {
            "prompt": turn("user", ask),
            "chosen": turn("assistant", draw.choice(WORDS[:5])),
            "rejected": turn("assistant", draw.choice(WORDS[5:])),
        }
        for ask in asks
    ]
    swapped = [row | {"chosen": row["rejected"], "rejected": row["chosen"]} for row in pairs]
    made: dict[str, list[dict[str, Any]]] = {
        "sft": [{"messages": turn("user", ask) + turn("assistant", ask.split()[1])} for ask in asks[:600]],
        "reward": pairs[:1000],
        "shuffled": [row[draw.randrange(2)] for row in zip(pairs, swapped, strict=True)],
        "grpo": [{"prompt": turn("user", ask), "answer": ask.split()[1]} for ask in asks[:600]],
        "few": [
            {"messages": turn("user", ask) + turn("assistant", " ".join(draw.choices(WORDS, k=8)))} for ask in asks[:12]
        ],
    }
    made["dpo"] = made["reward"]
    return {name: write(directory / f"{name}.jsonl", rows) for name, rows in made.items()}


@pytest.fixture(scope="module")
def answering(model_dir: Path, answers: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model after an SFT: it ends its answers, and some of them are right."""
    directory = tmp_path_factory.mktemp("answering")
    config = TrainingConfig(
        model_name=str(model_dir), output_dir="sft", dataset_name=str(answers["sft"]), max_steps=150, logging_steps=1,
        per_device_train_batch_size=32, learning_rate=1e-2, bf16=False, gradient_checkpointing=False,
        trainer_args={"save_strategy": "no"},
    )  # fmt: skip
    train("sft", config, directory)
    assert not StageLog(directory).read_info().get("alarms")  # the first healthy one
    return directory


@pytest.fixture
def stage(
    answering: Path, answers: dict[str, Path], stage_dir: Path, configure: Callable[..., TrainingConfig]
) -> Stage:
    """Return a function that trains a stage and returns the alarms it raised; it may fail with an ALARM before."""

    def alarms(kind: str, data: str | None = None, extra: GRPOExtraConfig = EXACT, **fields: Any) -> Any:
        usual: dict[str, Any] = {
            "model_name": str(answering), "dataset_name": str(answers[data or kind]), "max_steps": 40,
            "per_device_train_batch_size": 32 if named(kind).samples else 16, "learning_rate": HEALTHY[kind],
        }  # fmt: skip
        args = {"save_strategy": "no"} | fields.pop("trainer_args", {})
        config = configure(kind, trainer_args=args, **(usual | fields))
        train(kind, config, stage_dir, extra)
        return StageLog(stage_dir).read_info().get("alarms", [])

    return alarms


def names(alarms: list[dict[str, Any]]) -> set[str]:
    assert len({alarm["name"] for alarm in alarms}) == len(alarms), "an alarm was raised twice"
    return {alarm["name"] for alarm in alarms}


@pytest.mark.parametrize(
    ("kind", "fields"),
    [
        ("sft", {"trainer_args": {"eval_strategy": "steps", "eval_steps": 8}}),
        ("reward", {"max_steps": 60}),
        ("dpo", {"beta": 0.1, "max_steps": 60}),
        ("grpo", {"beta": 0.01}),
    ],
)
def test_a_healthy_stage_raises_no_alarm(kind: str, fields: dict[str, Any], stage: Stage) -> None:
    assert stage(kind, **fields) == []


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("sft", {"rising_loss"}),
        ("reward", {"coin_flip", "rising_loss"}),
        ("dpo", {"displaced_chosen", "coin_flip", "rising_loss"}),
        ("grpo", {"dead_groups", "clipped_completions", "falling_reward"}),
    ],
)
def test_a_hundred_times_the_learning_rate_is_seen(kind: str, expected: set[str], stage: Stage) -> None:
    fields = {"beta": 0.1} if kind == "dpo" else {}
    try:
        raised = names(stage(kind, max_steps=50, learning_rate=100 * HEALTHY[kind], **fields))
    except StageFailed as failed:
        assert any(word in str(failed) for word in ("gradient", "loss", "weights"))  # noqa: PT017
    else:
        assert raised & expected


def test_shuffled_pairs_teach_a_reward_model_nothing_and_it_says_so(stage: Stage, stage_dir: Path) -> None:
    (alarm,) = stage("reward", "shuffled", max_steps=70)
    assert alarm["name"] == "coin_flip"
    assert alarm["step"] >= 39  # twenty rows in the second half of those logged
    assert "ALARM | step" in StageLog(stage_dir).events_file.read_text()


def test_a_constant_reward_is_an_alarm_and_then_the_end_of_grpo(stage: Stage, stage_dir: Path) -> None:
    def constant(completions: list[Any], **_: Any) -> list[float]:
        return [0.5] * len(completions)

    with pytest.raises(StageFailed, match=r"never varied within a group: mean reward 0\.5"):
        stage("grpo", extra=replace(EXACT, reward_func=constant, preflight_prompts=0), max_steps=500)
    (alarm,) = StageLog(stage_dir).read_info()["alarms"]
    assert (alarm["name"], alarm["step"]) == ("dead_groups", 20)
    assert StageLog(stage_dir).done()["steps"] == HOPELESS  # not all the 500


def test_a_model_that_never_ends_its_answers_is_seen(stage: Stage, model_dir: Path) -> None:
    def lengths(completions: list[Any], **_: Any) -> list[float]:
        return [float(len(completion[0]["content"])) for completion in completions]

    extra = GRPOExtraConfig(reward_func=lengths, num_generations=4, max_completion_length=3)
    (alarm,) = stage("grpo", extra=extra, model_name=str(model_dir), max_steps=10)
    assert alarm["name"] == "clipped_completions"
    assert "no completion ended by itself" in alarm["message"] or "were cut off" in alarm["message"]


def red(completions: list[Any], **_: Any) -> list[float]:
    """A reward for one answer to all prompts."""
    return [float(completion[0]["content"] == "red") for completion in completions]


def test_a_policy_that_always_says_the_same_has_no_entropy_left(stage: Stage) -> None:
    extra = replace(EXACT, reward_func=red, num_generations=8)
    assert "entropy_collapse" in names(stage("grpo", extra=extra, max_steps=80, learning_rate=5e-3))


def test_a_policy_that_leaves_its_reference_is_seen_where_the_distance_is_measured(stage: Stage) -> None:
    raised = stage("grpo", extra=replace(EXACT, reward_func=red), learning_rate=1e-2, beta=1e-4)
    assert "exploding_kl" in names(raised)


def test_a_reward_that_falls_is_seen(stage: Stage) -> None:
    calls = itertools.count()

    def fading(completions: list[Any], **_: Any) -> list[float]:
        worse = next(calls) / 10
        return [len(completion[0]["content"]) % 7 / 7 - worse for completion in completions]

    raised = stage("grpo", extra=replace(EXACT, reward_func=fading), max_steps=50)
    assert "falling_reward" in names(raised)


def test_dpo_that_makes_both_answers_unlikely_is_seen(stage: Stage) -> None:
    alarm = next(one for one in stage("dpo", learning_rate=3e-2, beta=0.1) if one["name"] == "displaced_chosen")
    assert "together with the rejected ones'" in alarm["message"]


def test_rows_learnt_by_heart_are_seen_by_the_evaluations(stage: Stage) -> None:
    evaluate = {"eval_strategy": "steps", "eval_steps": 16}
    raised = stage("sft", "few", max_steps=112, learning_rate=1e-2, eval_fraction=0.3, trainer_args=evaluate)
    assert names(raised) == {"overfitting"}


def test_an_alarm_raised_before_a_resume_is_not_raised_again(stage: Stage, stage_dir: Path) -> None:
    evaluate = {"save_strategy": "steps", "eval_strategy": "steps", "eval_steps": 16}
    fields = {"learning_rate": 1e-2, "eval_fraction": 0.3, "save_steps": 112, "trainer_args": evaluate}
    (alarm,) = stage("sft", "few", max_steps=112, **fields)
    assert stage("sft", "few", max_steps=160, **fields) == [alarm]
    text = StageLog(stage_dir).events_file.read_text()
    assert (text.count("ALARM"), text.count("RESUME")) == (1, 1)
