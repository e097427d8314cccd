"""--set and --seed: text becomes a value of the field's type, and nothing else changes."""

from dataclasses import fields
from typing import Any

import pytest

from algorithms import GRPOExtraConfig, StageOutput, TrainingConfig
from chain.set_values import recorded_values, seeds, with_values
from pretrain import PretrainConfig
from utils.errors import Refused
from utils.values import parse

CONFIGS = {
    "pretrain": PretrainConfig(output_dir="base", dataset_name="made:documents"),
    "grpo": TrainingConfig(model_name=StageOutput("pretrain"), output_dir="grpo", dataset_name="made:prompts"),
}


@pytest.mark.parametrize(
    ("text", "annotation", "value"),
    [
        ("1e-5", float | None, 1e-5),
        ("3", float | None, 3.0),
        ("none", float | None, None),
        ("12", int | None, 12),
        ("true", bool | None, True),
        ("False", bool, False),
        ("12", str, "12"),
        ("None", str | None, None),
        ("Qwen/Qwen2.5-0.5B", str | StageOutput, "Qwen/Qwen2.5-0.5B"),
    ],
)
def test_set_reads_text_as_the_annotated_type(text: str, annotation: Any, value: Any) -> None:
    found = parse(text, annotation)
    assert (found, type(found)) == (value, type(value))


@pytest.mark.parametrize(("text", "annotation"), [("nan", float), ("yes", bool), ("1.0", int), ("none", int)])
def test_set_refuses_what_is_not_of_the_type(text: str, annotation: Any) -> None:
    with pytest.raises(ValueError, match="must be"):
        parse(text, annotation)


def test_set_changes_values_of_every_config_class_and_nothing_else() -> None:
    asked = ["pretrain.max_steps=7", "grpo.beta=0.1", "grpo.num_generations=8", "grpo.reward_func=[\"exact_match\"]",
             "grpo.trainer_args.temperature=0.7", "grpo.trainer_args.loss_type=grpo"]  # fmt: skip
    after, extra = with_values(CONFIGS, None, asked)
    assert after["pretrain"].max_steps == 7
    assert after["grpo"].beta == 0.1
    assert after["grpo"].trainer_args == {"temperature": 0.7, "loss_type": "grpo"}
    assert extra == GRPOExtraConfig(num_generations=8, reward_func=["exact_match"])
    for field in fields(TrainingConfig):
        if field.name not in ("beta", "trainer_args"):
            assert getattr(after["grpo"], field.name) == getattr(CONFIGS["grpo"], field.name)


def test_one_option_of_any_mapping_is_set_by_its_name() -> None:
    asked = ["grpo.peft=lora", "grpo.peft_args.r=8", 'grpo.peft_args.target_modules=["q_proj"]']
    after, _ = with_values(CONFIGS, None, asked)
    assert after["grpo"].peft == "lora"
    assert after["grpo"].peft_args == {"r": 8, "target_modules": ["q_proj"]}
    assert after["grpo"].trainer_args == {}
    with pytest.raises(Refused, match=r"revision is a field of the stage: leave out `peft_args\.`"):
        with_values(CONFIGS, None, ["grpo.peft_args.revision=x"])
    with pytest.raises(Refused, match="there is no field 'beta'"):
        with_values(CONFIGS, None, ["grpo.beta.x=1"])


def test_a_stages_output_is_set_as_a_recipe_names_it() -> None:
    changed, _ = with_values(CONFIGS, None, ['grpo.model_name=StageOutput("sft")'])
    assert changed["grpo"].model_name == StageOutput("sft")


def test_set_tells_all_its_problems_at_once() -> None:
    with pytest.raises(Refused) as refused:
        with_values(CONFIGS, None, ["grpo.bta=1", "sft.seed=1", "pretrain.max_steps=x"])
    assert str(refused.value).count("--set") == 3


def test_seed_reaches_every_stage() -> None:
    configs, _ = with_values(CONFIGS, None, ["grpo.seed=3", *seeds(CONFIGS, 7)])
    assert [config.seed for config in configs.values()] == [7, 7]


def test_a_refused_value_that_is_a_secret_by_its_name_is_not_said() -> None:
    with pytest.raises(Refused, match=r"--set grpo.hub_token=\*\*\*: there is no field") as refused:
        with_values(CONFIGS, None, ["grpo.hub_token=the-secret"])
    assert "the-secret" not in str(refused.value)


def test_a_secret_that_is_on_no_record_is_asked_for_anew() -> None:
    record = {"values": ["grpo.seed=3", "grpo.dataset_name=https://***@host/rows.jsonl", "sft.chat_template=a ***"]}
    with pytest.raises(Refused, match=r"anew in place of \*\*\*:\n") as refused:
        recorded_values(record, [])
    asked_for = "  --set 'grpo.dataset_name=https://***@host/rows.jsonl'\n  --set 'sft.chat_template=a ***'"
    assert str(refused.value).endswith(asked_for)
    anew = ["grpo.dataset_name=https://ann:secret@host/rows.jsonl", "sft.chat_template=a hf_secret"]
    assert recorded_values(record, anew) == ["grpo.seed=3"]
