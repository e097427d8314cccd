"""What is refused of a stage's LoRA or QLoRA before anything starts, and how it is said."""

from typing import Any

import pytest

from algorithms import TrainingConfig, adapter_checks, check
from tests.train_stage import KINDS


def config(**fields: Any) -> TrainingConfig:
    return TrainingConfig(**({"model_name": "m", "output_dir": "o", "dataset_name": "d"} | fields))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("peft", ["lora", "qlora"])
def test_a_stage_with_an_adapter_has_no_problem(peft: str, kind: str) -> None:
    args = {"r": 8, "lora_alpha": 16, "target_modules": ["q_proj", "v_proj"], "use_rslora": True, "lora_dropout": 0.05}
    assert check(kind, config(peft=peft, peft_args=args)) == []


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"peft": "lorra"}, "peft = 'lorra': must be lora or qlora"),
        ({"peft_args": {"r": 8}}, "peft_args = {'r': 8}: nothing reads it without peft"),
        ({"merge_adapter": False}, "merge_adapter = False: nothing reads it without peft"),
        ({"peft": "lora", "peft_args": {"lora_alhpa": 8}}, "did you mean 'lora_alpha'?"),
        ({"peft": "lora", "peft_args": {"r": "8"}}, "r = '8': must be int, not str"),
        ({"peft": "lora", "peft_args": {"r": 0}}, "r = 0: must be 1 or more"),
        ({"peft": "lora", "peft_args": {"lora_alpha": 0}}, "must be above 0"),
        ({"peft": "lora", "peft_args": {"lora_dropout": 1.0}}, "must be 0 or more and below 1"),
        ({"peft": "lora", "peft_args": {"bias": "all"}}, "must be 'none': the model's own biases would stay changed"),
        ({"peft": "lora", "peft_args": {"task_type": "CAUSAL_LM"}}, "task_type cannot be set: the stage decides it"),
        ({"peft": "lora", "peft_args": {"init_lora_weights": "pissa"}}, "must be one of True, False, 'gaussian'"),
        ({"peft": "lora", "peft_args": {"target_modules": ["q_proj", "lm_head"]}}, "TRL reads it past the adapter"),
        ({"peft": "lora", "peft_args": {"modules_to_save": ["embed_tokens"]}}, "TRL reads it past the adapter"),
        ({"peft": "lora", "peft_args": {"layers_to_transform": [1]}}, "cannot be used when `target_modules` is a str"),
        ({"trainer_args": {"sync_ref_model": True}}, "no checkpoint holds a reference that moves"),
        (
            {"peft": "lora", "trainer_args": {"model_init_kwargs": {"quantization_config": {}}}},
            "quantization_config cannot be set: peft='qlora' quantises",
        ),
    ],
)
def test_a_wrong_option_is_refused_with_what_is_allowed(fields: dict[str, Any], said: str) -> None:
    (problem,) = check("dpo", config(**fields))
    assert problem.startswith("dpo: ")
    assert said in problem


def test_a_reward_models_adapter_is_not_kept() -> None:
    (problem,) = check("reward", config(peft="lora", merge_adapter=False))
    assert "no stage trains a reward model on" in problem


def test_qlora_without_bitsandbytes_is_refused_with_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adapter_checks, "find_spec", lambda name: None)
    (problem,) = check("sft", config(peft="qlora"))
    assert "needs bitsandbytes, which is not installed" in problem
    assert problem.endswith("use peft='lora'")


def test_options_that_cannot_be_set_are_options_of_peft() -> None:
    from dataclasses import fields

    from peft import LoraConfig

    assert adapter_checks.OURS.keys() <= {field.name for field in fields(LoraConfig)}
