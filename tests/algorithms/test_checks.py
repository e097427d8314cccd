"""What is refused before anything starts, and how it is said."""

from typing import Any

import pytest

from algorithms import GRPOExtraConfig, StageOutput, TrainingConfig, check, sampling_kind
from algorithms.grpo import GRPO
from tests.train_stage import KINDS
from utils.values import describe, matches


def config(**fields: Any) -> TrainingConfig:
    return TrainingConfig(**({"model_name": "m", "output_dir": "o", "dataset_name": "d"} | fields))


@pytest.mark.parametrize("kind", KINDS)
def test_a_minimal_config_has_no_problem(kind: str) -> None:
    assert check(kind, config()) == []


def test_all_problems_are_told_at_once() -> None:
    problems = check(
        "dpo",
        config(
            learning_rate="fast",
            max_steps=0,
            packing=True,
            weight_decay=-1,
            trainer_args={"loss_weigths": [1.0], "seed": 7, "label_smoothing": "much", "output_dir": "elsewhere"},
        ),
    )
    expected = [
        "learning_rate",
        "max_steps",
        "packing",
        "weight_decay",
        "loss_weigths",
        "seed",
        "label_smooth",
        "output_",
    ]
    assert len(problems) == len(expected)
    assert all(any(name in problem for problem in problems) for name in expected)


def test_an_unknown_option_is_told_with_the_nearest_name() -> None:
    (problem,) = check("sft", config(trainer_args={"lerning_rate": 1e-4}))
    assert "'lerning_rate'" in problem
    assert "did you mean 'learning_rate'" in problem


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"learning_rate": 0.0}, "learning_rate"),
        ({"learning_rate": float("nan")}, "learning_rate"),
        ({"max_steps": 0}, "max_steps"),
        ({"max_length": 1}, "max_length"),
        ({"num_train_epochs": -1}, "num_train_epochs"),
        ({"per_device_train_batch_size": 0}, "per_device_train_batch_size"),
        ({"eval_fraction": 1.0}, "eval_fraction"),
        ({"save_total_limit": 0}, "save_total_limit"),
        ({"seed": 2**32}, "seed"),
        ({"dtype": "float17"}, "dtype"),
        ({"model_name": ""}, "model_name"),
        ({"trainer_args": {"max_grad_norm": -1.0}}, "max_grad_norm"),
        ({"trainer_args": {"learning_rate": -1.0}}, "learning_rate"),
    ],
)
def test_a_value_out_of_range_is_told(fields: dict[str, Any], named: str) -> None:
    (problem,) = check("sft", config(**fields))
    assert named in problem
    assert "must be" in problem


@pytest.mark.parametrize(
    ("value", "name"), [("1e-5", "learning_rate"), (True, "max_steps"), (1.5, "max_steps"), (1, "bf16"), (7, "optim")]
)
def test_a_value_of_the_wrong_type_is_told_with_the_right_one(value: object, name: str) -> None:
    (problem,) = check("sft", config(**{name: value}))
    assert f"{name} = {value!r}" in problem
    assert f"not {type(value).__name__}" in problem


def test_what_only_trl_knows_is_told_too() -> None:
    (problem,) = check("sft", config(optim="adamx"))
    assert "adamx" in problem
    (problem,) = check("dpo", config(trainer_args={"loss_type": ["sigmoid", "sft"], "loss_weights": [1.0]}))
    assert "loss_weights" in problem


def test_losses_with_weights_are_accepted_for_dpo() -> None:
    assert check("dpo", config(trainer_args={"loss_type": ["sigmoid", "sft"], "loss_weights": [1, 0.5]})) == []


def test_a_name_that_the_trainer_does_not_know_is_refused_with_the_nearest() -> None:
    (problem,) = check("sft", config(lr_scheduler_type="cosin"))
    assert problem.startswith("sft: lr_scheduler_type = 'cosin': must be one of linear, cosine, ")
    assert problem.endswith("did you mean 'cosine'?")


def test_a_trainer_option_without_a_field_is_accepted_and_one_set_twice_is_not() -> None:
    extra = GRPOExtraConfig(num_generations=8)
    assert check("grpo", config(trainer_args={"temperature": 0.9, "top_k": 0}), extra) == []
    (problem,) = check("grpo", config(trainer_args={"num_generations": 8}), extra)
    assert "num_generations" in problem
    assert "twice" in problem


def test_loading_options_that_have_a_field_are_refused_in_trainer_args() -> None:
    (problem,) = check("sft", config(trainer_args={"model_init_kwargs": {"dtype": "bfloat16"}}))
    assert "dtype" in problem


@pytest.mark.parametrize("given", [{"trust_remote_code": True}, {"model_init_kwargs": {"trust_remote_code": True}}])
def test_remote_code_is_refused_wherever_it_is_asked_for(given: dict[str, Any]) -> None:
    (problem,) = check("sft", config(trainer_args=given))
    assert "trust_remote_code cannot be set: code that comes with a model is never run" in problem


@pytest.mark.parametrize("name", ["use_safetensors", "weights_only", "token"])
def test_loading_options_that_would_be_unsafe_are_refused(name: str) -> None:
    (problem,) = check("sft", config(trainer_args={"model_init_kwargs": {name: "a-secret"}}))
    assert f"model_init_kwargs: {name} cannot be set: " in problem
    assert "a-secret" not in problem


@pytest.mark.parametrize("name", ["push_to_hub", "hub_token", "hub_model_id", "hub_revision"])
def test_nothing_is_sent_to_the_hub_and_no_token_is_a_value_of_a_recipe(name: str) -> None:
    (problem,) = check("dpo", config(trainer_args={name: "a-secret"}))
    assert f"trainer_args: {name} cannot be set: " in problem
    assert "a-secret" not in problem


def test_the_names_of_special_tokens_are_no_secrets() -> None:
    assert check("sft", config(trainer_args={"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"})) == []


def test_a_batch_that_holds_no_whole_groups_is_refused_with_one_that_does() -> None:
    fields = {"per_device_train_batch_size": 3, "gradient_accumulation_steps": 2}
    (problem,) = check("grpo", config(**fields), GRPOExtraConfig(num_generations=4))
    assert "3 × 2 = 6" in problem
    assert "such as 8" in problem
    assert check("grpo", config(**fields), GRPOExtraConfig(num_generations=3)) == []


@pytest.mark.parametrize("several", ["1", "2"])
def test_a_batch_of_completions_counts_every_process(several: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", several)
    two_rows = config(per_device_train_batch_size=2, gradient_accumulation_steps=1)
    problems = GRPO.problems_together(two_rows, GRPOExtraConfig(num_generations=4))
    assert bool(problems) == (several == "1")


@pytest.mark.parametrize("mode", ["colocate", "server"])
def test_vllm_is_refused_in_one_message_where_it_is_not_installed(mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    given = config(trainer_args={"use_vllm": True, "vllm_mode": mode})
    monkeypatch.setattr(sampling_kind, "find_spec", lambda name: None)
    (problem,) = check("grpo", given)
    assert problem.startswith("grpo: trainer_args: use_vllm = True needs vLLM, which is not installed: pip install")
    monkeypatch.setattr(sampling_kind, "find_spec", lambda name: name)
    assert check("grpo", given) == []


def test_rewards_are_checked_by_name_and_by_number_of_weights() -> None:
    def short(completions: list[Any], **_: Any) -> list[float]:
        return [0.0 for _ in completions]

    good = GRPOExtraConfig(
        reward_func=["accuracy", short, StageOutput("reward"), "a/hub-id"], reward_weights=[1, 1, 1, 2]
    )
    assert check("grpo", config(), good) == []
    problems = check("grpo", config(), GRPOExtraConfig(reward_func=["exact_mach", short], reward_weights=[1.0]))
    assert len(problems) == 2
    assert "did you mean 'exact_match'" in problems[0]
    assert "1 numbers for 2 rewards" in problems[1]


def test_an_unknown_kind_is_told_with_the_nearest() -> None:
    (problem,) = check("stf", config())
    assert "'sft'" in problem
    (problem,) = check("quantise", config())
    assert "no kind of stage. Allowed" in problem
    (problem,) = check("grpo", config(), GRPOExtraConfig(reward_func="zzz"))
    assert "no built-in reward. Built in" in problem


def test_two_rewards_of_one_name_are_refused() -> None:
    def at_most(limit: int) -> Any:
        def brief(completions: list[Any], **_: Any) -> list[float]:
            return [float(len(one) <= limit) for one in completions]

        return brief

    pairs: list[list[Any]] = [
        [at_most(3), at_most(9)],
        [lambda **_: [], lambda **_: []],
        ["exact_match", "exact_match"],
    ]
    for pair in pairs:
        (problem,) = check("grpo", config(), GRPOExtraConfig(reward_func=pair))
        assert "2 functions of the name" in problem
    named = at_most(9)
    named.__name__ = "brief_9"
    assert check("grpo", config(), GRPOExtraConfig(reward_func=[at_most(3), named, "exact_match"])) == []


@pytest.mark.parametrize(
    ("value", "annotation", "fits"),
    [
        (1, float, True), (True, float, False), (True, int, False), (None, int | None, True), ("x", int | None, False),
        ([1, 2.5], list[float] | None, True), ([1, "a"], list[float], False), ("sigmoid", list[str], True),
        ({"a": 1}, dict[str, Any] | str | None, True), ([], dict, False),
    ],
)  # fmt: skip
def test_values_match_annotations(value: Any, annotation: Any, fits: bool) -> None:
    assert matches(value, annotation) is fits


def test_annotations_are_described_in_words() -> None:
    assert describe(list[float] | None) == "list of float or None"
