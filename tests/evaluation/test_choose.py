"""Which tasks a recipe's stages get."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from algorithms import GRPOExtraConfig, StageOutput, TrainingConfig
from data import made
from evaluation import evaluate_stage, tasks_for
from evaluation.answers import Rewards, SampledRewards
from evaluation.choose import ANSWERED_PROMPTS, REWARDED_PROMPTS, SAMPLED_PROMPTS
from evaluation.task import PromptTask, Task
from kinds import Stage, named
from pretrain import PretrainConfig
from recipes.arithmetic import made_strict

SFT = named("sft")

Configs = dict[str, Any]


def made_chain() -> Configs:
    names = {"sft": "conversations", "reward": "preferences", "dpo": "preferences", "grpo": "prompts"}
    return {"pretrain": PretrainConfig(output_dir="pretrain", dataset_name="made:documents")} | {
        kind: TrainingConfig(model_name=StageOutput("pretrain"), output_dir=kind, dataset_name=f"made:{name}")
        for kind, name in names.items()
    }


@pytest.fixture
def own_data(tmp_path: Path) -> Callable[..., Configs]:
    def make(kind: str, rows: list[dict[str, Any]]) -> Configs:
        file = tmp_path / f"{kind}.jsonl"
        file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        return {kind: TrainingConfig(model_name="m", output_dir=kind, dataset_name=str(file), eval_fraction=0.5)}

    return make


def tasks_of(
    configs: Configs, extra: GRPOExtraConfig | None = None, functions: dict[str, Any] | None = None, **more: Any
) -> dict[str, list[Task]]:
    stages = [Stage(kind, named(kind), config, extra if kind == "grpo" else None) for kind, config in configs.items()]
    return tasks_for(stages, reward_functions={"grpo": functions or {}}, **more)


def names(tasks: list[Task]) -> list[str]:
    return [task.name for task in tasks]


def test_every_policy_stage_of_the_made_chain_is_measured_on_the_same_problems() -> None:
    tasks = tasks_of(made_chain(), GRPOExtraConfig(max_completion_length=80))
    assert {kind: names(some) for kind, some in tasks.items()} == {
        "pretrain": ["skills", "documents"],
        "sft": ["skills", "documents", "sampled_skills", "demonstrations", "other_questions"],
        "reward": ["verified_answers", "pairs", "worse_answers"],
        "dpo": ["skills", "documents", "sampled_skills", "demonstrations", "preferences"],
        "grpo": ["skills", "documents", "sampled_skills", "demonstrations"],
    }
    skills = [task for some in tasks.values() for task in some if isinstance(task, PromptTask)]
    assert len({task.held_out.fingerprint for task in skills if not task.sampled}) == 1
    rows = skills[0].held_out.rows
    assert {row["skill"] for row in rows} == {"arithmetic", "counting", "calculator"}
    assert all(task.held_out.rows == rows[:48] for task in skills if task.sampled)
    assert {task.samples for task in skills if task.sampled} == {4}  # the reward model judges answers that are there
    assert {task.max_new_tokens for task in skills} == {80}


def test_what_is_forgotten_is_measured_on_the_documents_of_pretraining() -> None:
    chain = made_chain()
    chain["pretrain"] = replace(chain["pretrain"], eval_samples=20)
    documents = [task for some in tasks_of(chain).values() for task in some if task.name == "documents"]
    assert len(documents) == 4
    assert {id(task.held_out) for task in documents} == {id(documents[0].held_out)}
    assert len(documents[0].held_out.rows) == 20


def test_without_pretraining_nothing_is_said_to_be_forgotten() -> None:
    chain = made_chain()
    del chain["pretrain"]
    assert "documents" not in [name for some in tasks_of(chain).values() for name in names(some)]


def test_the_problems_do_not_depend_on_the_runs_seed() -> None:
    chain = made_chain()
    other = {kind: type(config)(**(vars(config) | {"seed": 7})) for kind, config in chain.items()}
    one, two = tasks_of(chain)["sft"][0], tasks_of(other)["sft"][0]
    assert one.name == "skills"
    assert one.held_out.fingerprint == two.held_out.fingerprint


@pytest.mark.parametrize(
    ("kind", "task"),
    [("pretrain", "documents"), ("sft", "demonstrations"), ("reward", "pairs"), ("dpo", "preferences")],
)
def test_made_rows_are_those_that_the_stage_records(kind: str, task: str) -> None:
    from data.sources import load

    chain = made_chain()
    chain[kind] = replace(chain[kind], eval_samples=20, max_samples=30, seed=7)
    config = chain[kind]
    (measured,) = [one for one in tasks_of(chain)[kind] if one.name == task]
    recorded = load(config.dataset_name, kind, eval_samples=20, max_samples=30, seed=7)
    for row, described in zip(measured.held_out.rows, recorded.eval, strict=True):
        assert {name: row[name] for name in described} == described  # what is measured has the kind of pair besides
    assert recorded.info["eval_rows"] == len(measured.held_out.rows) == 20


def test_own_sft_data_are_measured_on_their_held_out_rows(own_data: Callable[..., Configs]) -> None:
    rows = [{"instruction": f"Say {n}", "input": "", "output": str(n)} for n in range(300)]
    configs = own_data("sft", rows)
    demonstrations, others, answers = tasks_of(configs)["sft"]
    assert names([demonstrations, others, answers]) == ["demonstrations", "other_questions", "answers"]
    held_out = [row["prompt"] for row in demonstrations.held_out.rows]
    assert 64 < len(held_out) < 300
    assert [row["prompt"] for row in answers.held_out.rows] == held_out[:ANSWERED_PROMPTS]


def test_own_pairs_are_measured_on_their_held_out_rows(own_data: Callable[..., Configs]) -> None:
    rows = [{"prompt": f"Say {n}", "chosen": f" {n}", "rejected": " no"} for n in range(40)]
    assert names(tasks_of(own_data("dpo", rows))["dpo"]) == ["preferences", "answers"]
    (pairs, _) = tasks_of(own_data("reward", rows))["reward"]
    assert pairs.name == "pairs"
    assert set(pairs.held_out.rows[0]) >= {"prompt", "chosen", "rejected"}


def test_own_prompts_are_judged_by_the_reward_functions(own_data: Callable[..., Configs]) -> None:
    rows = [{"prompt": f"Say {n}", "answer": str(n)} for n in range(400)]
    functions = {"right": lambda completions, **_: [0.0] * len(completions)}
    task, sampled = tasks_of(own_data("grpo", rows), GRPOExtraConfig(max_completion_length=32), functions)["grpo"]
    assert isinstance(task, Rewards)
    assert task.functions == functions
    assert task.max_new_tokens == 32
    assert len(task.held_out.rows) == REWARDED_PROMPTS
    assert isinstance(sampled, SampledRewards)
    assert (sampled.functions, sampled.max_new_tokens) == (functions, 32)
    assert sampled.held_out.rows == task.held_out.rows[:SAMPLED_PROMPTS]
    assert "answer" in task.held_out.rows[0]


@pytest.mark.shared
def test_real_instructions_measure_a_real_model(shared: Path, tmp_path: Path) -> None:
    """stories260K on the instruction data, its copy with a template in the place of a trained stage."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from data.chat import prepare_tokenizer

    base = shared / "fixtures/models/stories260K"
    tokenizer = AutoTokenizer.from_pretrained(base)
    prepare_tokenizer(tokenizer, template="give")
    AutoModelForCausalLM.from_pretrained(base).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    data = shared / "fixtures/data/sft/rasbt_instruction_data.json"
    config = TrainingConfig(model_name=str(base), output_dir="sft", dataset_name=str(data), eval_samples=16)
    results = evaluate_stage(SFT, base, tmp_path, tasks_of({"sft": config})["sft"])
    by_metric = {(one["task"], one["metric"]): one for one in results}
    assert by_metric["demonstrations", "loss"]["before"] == by_metric["demonstrations", "loss"]["after"] > 1
    assert by_metric["answers", "stop_rate"]["n"] == 16
    assert by_metric["answers", "stop_rate"]["ci95"] is not None


def test_made_problems_are_judged_by_own_functions_too() -> None:
    functions: dict[str, Any] = {"made_strict": made_strict, "short": lambda **_: []}
    *_, rewards, sampled = tasks_of(made_chain(), None, functions)["grpo"]
    assert isinstance(rewards, Rewards)
    assert isinstance(sampled, SampledRewards)
    assert list(rewards.functions) == list(sampled.functions) == ["short"]


def test_no_data_are_read_before_they_are_needed() -> None:
    missing = TrainingConfig(model_name="m", output_dir="sft", dataset_name="there/is/no/such.jsonl")
    (demonstrations, *_) = tasks_of({"sft": missing})["sft"]
    with pytest.raises(ValueError, match="no data set"):
        _ = demonstrations.held_out.rows


def test_made_rows_of_another_layout_are_measured_as_they_are_trained_on(monkeypatch: pytest.MonkeyPatch) -> None:
    def told(side: str, count: int, seed: int) -> list[dict[str, str]]:
        return [{"instruction": f"Say {side} {n}", "output": str(n), "size": "small"} for n in range(count)]

    monkeypatch.setattr(made, "REGISTERED", dict(made.REGISTERED))
    made.register_rows("told", told)
    config = TrainingConfig(model_name="m", output_dir="o", dataset_name="made:told", eval_samples=4)
    demonstrations, others, answers = tasks_of({"sft": config})["sft"]
    assert names([demonstrations, others, answers]) == ["demonstrations", "other_questions", "answers"], (
        "no verifier asks instead"
    )
    first, *_ = demonstrations.held_out.rows
    assert first["prompt"] == [{"role": "user", "content": "Say eval 0"}]
    assert first["size"] == "small"
