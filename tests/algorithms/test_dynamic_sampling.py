"""Groups without spread give way to others, up to a budget, and the same ones after a resume."""

import inspect
import json
import shutil
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from algorithms import GRPOExtraConfig, TrainingConfig, overrides, training
from algorithms.grpo import GRPO
from batching.slots import Slots
from data.sources import load_for
from tests.train_stage import train, trainer_of
from utils.files import weights_sha256

Configure = Callable[..., TrainingConfig]
BUDGET = 3


def starts_late(completions: list[Any], **_: Any) -> list[float]:
    """1 for few completions, those that begin with a letter of a to z, so that many groups of four have no spread."""
    return [float("a" <= completion[0]["content"][:1] <= "z") for completion in completions]


def seen(prompts: list[Any], completions: list[Any], log_extra: Any, **_: Any) -> list[float]:
    """`starts_late`, and which prompt each was given to."""
    log_extra("ask", [prompt[-1]["content"] for prompt in prompts])
    return starts_late(completions)


EXTRA = GRPOExtraConfig(
    reward_func=starts_late, num_generations=4, max_completion_length=6, preflight_prompts=0, dynamic_sampling=BUDGET
)


def run(config: TrainingConfig, stage_dir: Path, extra: GRPOExtraConfig = EXTRA) -> Path:
    stage_dir.mkdir(exist_ok=True)
    return train("grpo", config, stage_dir, extra)


def metrics(stage_dir: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (stage_dir / "training_metrics.jsonl").read_text().splitlines()]


@pytest.fixture
def wide(configure: Configure) -> Callable[..., TrainingConfig]:
    """Four groups a step."""
    return lambda **fields: configure("grpo", **({"per_device_train_batch_size": 16} | fields))


def test_without_a_budget_the_weights_are_those_of_trls_own_trainer_with_the_same_completions(
    wide: Configure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import GRPOTrainer

    from algorithms.dynamic_sampling import DynamicSamplingTrainer

    sample = DynamicSamplingTrainer._sampled
    sampled: list[Any] = []

    def recorded(trainer: Any, *given: Any) -> Any:
        ids, logprobs = sample(trainer, *given)
        sampled.append(ids)
        return ids, logprobs

    class Its(GRPOTrainer):
        def _generate_single_turn(self, *_: Any, **__: Any) -> tuple[Any, None]:
            torch.randint(2**62, ())  # the seed of the draws: TRL shuffles with what comes next
            return sampled.pop(0), None

    monkeypatch.setattr(DynamicSamplingTrainer, "_sampled", recorded)
    monkeypatch.setattr(overrides, "each_token_once", lambda trainer: nullcontext())  # which rounds otherwise
    config = wide()
    ours = run(config, tmp_path / "ours", replace(EXTRA, dynamic_sampling=0))
    data = load_for(config, "grpo")
    assert len(sampled) == 3
    trainer = Its(
        model=AutoModelForCausalLM.from_pretrained(str(config.model_name)),
        reward_funcs=[starts_late],
        args=training.trl_config(GRPO, config, tmp_path / "its", EXTRA),
        train_dataset=data.train,
        processing_class=AutoTokenizer.from_pretrained(str(config.model_name)),
    )
    trainer.train()
    trainer.save_model(str(tmp_path / "its"))
    assert weights_sha256(ours) == weights_sha256(tmp_path / "its")


def test_groups_without_spread_are_replaced_and_it_is_logged(wide: Configure, tmp_path: Path) -> None:
    plain = metrics(run(wide(max_steps=6), tmp_path / "plain", replace(EXTRA, dynamic_sampling=0)))
    filled = metrics(run(wide(max_steps=6), tmp_path / "filled"))
    assert plain[0]["informative_groups"] + filled[0]["replaced_groups"] == filled[0]["informative_groups"]
    assert sum(line["informative_groups"] for line in filled) > 1.3 * sum(line["informative_groups"] for line in plain)
    assert any(line["replaced_groups"] > 0 for line in filled)
    assert all(16 <= line["completions_sampled"] <= 16 * (1 + BUDGET) for line in filled)
    assert any(line["completions_sampled"] > 16 for line in filled)
    assert filled[0]["num_tokens"] > plain[0]["num_tokens"]  # the discarded ones count
    assert "replaced_groups" not in plain[0]


def test_where_every_group_has_spread_a_budget_changes_nothing(wide: Configure, tmp_path: Path) -> None:
    def distinct(completions: list[Any], completion_ids: list[list[int]], **_: Any) -> list[float]:
        return [float(sum(ids)) for ids in completion_ids]

    extra = replace(EXTRA, reward_func=distinct)
    plain = run(wide(), tmp_path / "plain", replace(extra, dynamic_sampling=0))
    filled = run(wide(), tmp_path / "filled", extra)
    assert weights_sha256(filled) == weights_sha256(plain)
    assert [line["num_tokens"] for line in metrics(filled)] == [line["num_tokens"] for line in metrics(plain)]
    assert {line["completions_sampled"] for line in metrics(filled)} == {16}


def test_a_resumed_run_draws_the_same_prompts_and_has_the_same_weights(wide: Configure, tmp_path: Path) -> None:
    config = wide(max_steps=6, save_steps=2, save_total_limit=3)
    whole, resumed = run(config, tmp_path / "whole"), tmp_path / "resumed"
    resumed.mkdir()
    shutil.copytree(whole / "checkpoint-2", resumed / "checkpoint-2")
    run(config, resumed)
    assert any(line["replaced_groups"] > 0 for line in metrics(whole)[2:])
    assert weights_sha256(resumed) == weights_sha256(whole)
    timed = ("timestamp", "step_time")
    of_each = [[{k: v for k, v in line.items() if k not in timed} for line in metrics(one)] for one in (whole, resumed)]
    assert of_each[0] == of_each[1]


def test_what_is_trained_on_is_what_was_rewarded_and_stands_beside_its_own_prompt(
    wide: Configure, tmp_path: Path
) -> None:
    config, extra = wide(), replace(EXTRA, reward_func=seen)
    trainer, data = trainer_of("grpo", config, tmp_path, extra)
    trainer.model.train()
    rows = [data.train[at] for at in range(4) for _ in range(4)]
    output = trainer._generate_and_score_completions(rows)
    assert trainer.drawn  # at least one was replaced
    asked = [one["content"] for (one,) in (list(prompt) for prompt in trainer._logs["prompt"])]
    assert asked == list(trainer._logs["extra"]["ask"])
    assert asked != [row["prompt"][-1]["content"] for row in rows]
    assert {data.train[at]["prompt"][-1]["content"] for at in trainer.drawn} < set(asked)
    assert len(set(asked)) == 4  # no prompt twice
    texts = trainer.processing_class.batch_decode(output["prompt_ids"], skip_special_tokens=True)
    assert all(ask in text for ask, text in zip(asked, texts, strict=True))
    said = trainer.processing_class.batch_decode(output["completion_ids"], skip_special_tokens=True)
    wanted = [float("a" <= text[:1] <= "z") for text in said]
    assert wanted == list(trainer._logs["rewards"]["seen"])
    groups = output["advantages"].view(4, 4)
    spread = [len(set(wanted[at : at + 4])) > 1 for at in range(0, 16, 4)]
    assert [bool(group.any()) for group in groups] == spread
    assert sum(spread) / 4 == trainer._metrics["train"]["informative_groups"][-1]


def test_sampled_in_parts_after_memory_ran_out_the_same_completions_are_trained_on(
    wide: Configure, tmp_path: Path
) -> None:
    import torch

    def completions(most_rows: int) -> tuple[Any, list[tuple[int, int]]]:
        trainer, data = trainer_of("grpo", wide(), tmp_path, EXTRA)
        told: list[tuple[int, int]] = []
        trainer.tell_fewer = lambda was, now: told.append((was, now))
        forward = trainer.model.forward

        def limited(*args: Any, **named: Any) -> Any:
            if isinstance(named.get("past_key_values"), Slots) and len(named["input_ids"]) > most_rows:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return forward(*args, **named)

        trainer.model.forward = limited
        trainer.model.train()
        torch.manual_seed(3)
        output = trainer._generate_and_score_completions([data.train[at] for at in range(4) for _ in range(4)])
        return output["completion_ids"], told

    (whole, nothing), (parts, told) = completions(16), completions(8)
    assert (nothing, told) == ([], [(16, 8)])
    assert torch.equal(whole, parts)


def test_a_reward_models_scores_are_no_spread_where_a_function_judges(configure: Configure, tmp_path: Path) -> None:
    import torch

    (tmp_path / "judge").mkdir()
    judge = train("reward", configure("reward", max_steps=2), tmp_path / "judge")
    config = configure("grpo")
    cases: list[tuple[list[Any], list[float], list[bool]]] = [
        ([starts_late, str(judge)], [1, 0.5], [False, True]),
        ([starts_late, str(judge)], [0, 0.5], [False, False]),  # a weight of 0: logged alone
        ([str(judge)], [1], [True, True]),
    ]
    for sources, weights, wanted in cases:
        extra = replace(EXTRA, reward_func=sources, reward_weights=weights)
        trainer, _ = trainer_of("grpo", config, tmp_path, extra)
        scores = [[1, 0.1], [1, 0.2], [1, 0.3], [1, 0.4], [1, 0.1], [0, 0.2], [torch.nan, 0.3], [1, 0.4]]
        rewards = torch.tensor([score[-len(sources) :] for score in scores])
        assert trainer.informative(rewards) == wanted
    assert trainer.judged(torch.tensor([[torch.nan]])).isnan().all()


def test_with_too_few_prompts_to_draw_from_training_goes_on(wide: Configure, tmp_path: Path) -> None:
    lines = metrics(run(wide(max_samples=5, max_steps=5), tmp_path / "few"))  # four of them in every generation
    assert all(line["completions_sampled"] <= 20 for line in lines)


def test_several_processes_are_refused(configure: Configure, monkeypatch: pytest.MonkeyPatch) -> None:
    from algorithms.checks import check

    config = configure("grpo")
    assert check("grpo", config, EXTRA) == []
    monkeypatch.setenv("WORLD_SIZE", "2")
    (problem,) = check("grpo", config, EXTRA)
    assert "dynamic_sampling = 3: is for one process, and there are 2" in problem


def test_trl_keeps_what_is_overridden_and_reached_into() -> None:
    from trl import GRPOTrainer

    scored = inspect.getsource(GRPOTrainer._generate_and_score_completions)
    assert "self._generate(prompts)" in scored
    assert "self._calculate_rewards(inputs, prompts, completions, completion_ids_list)" in scored
    generated = inspect.getsource(GRPOTrainer._generate)
    assert "self._generate_single_turn(" in generated
    assert "self.num_generations if mode ==" in generated
    returned = "return prompt_ids, completion_ids, tool_mask, completions, logprobs, extra_fields, images, tool_images"
    assert returned in generated
    assert 'self._metrics[mode]["num_tokens"] = [self.state.num_input_tokens_seen]' in generated
    source = inspect.getsource(GRPOTrainer)
    for line in ("_pending_extra_logs = defaultdict(list)", "_pending_metrics = defaultdict(list)", "eos_token_ids = "):
        assert f"self.{line}" in source
    assert "self.reward_weights = torch.tensor(args.reward_weights" in source
