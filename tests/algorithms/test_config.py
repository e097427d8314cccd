"""Each field of the configuration does something: it reaches TRL's config, or what is loaded."""

from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from algorithms import GRPOExtraConfig, StageOutput, TrainingConfig, arguments
from algorithms.grpo import GRPO
from algorithms.rewards import exact_match
from algorithms.sft import SFT
from algorithms.trl_kind import TrlKind
from data.sources import load_for
from kinds import named
from tests.train_stage import KINDS

TO_THE_TRAINER: dict[str, tuple[str, Any]] = {
    "learning_rate": ("sft", 3e-4),
    "lr_scheduler_type": ("sft", "cosine"),
    "warmup_steps": ("sft", 7),
    "num_train_epochs": ("sft", 2.5),
    "max_steps": ("sft", 11),
    "per_device_train_batch_size": ("sft", 3),
    "gradient_accumulation_steps": ("sft", 5),
    "max_length": ("dpo", 77),
    "packing": ("sft", True),
    "beta": ("dpo", 0.25),
    "weight_decay": ("reward", 0.125),
    "optim": ("sft", "sgd"),
    "bf16": ("sft", False),
    "gradient_checkpointing": ("sft", False),
    "dataloader_num_workers": ("sft", 2),
    "logging_steps": ("sft", 4),
    "save_steps": ("sft", 6),
    "save_total_limit": ("sft", 2),
    "seed": ("grpo", 9),
    "trainer_args": ("grpo", {"temperature": 0.7}),
}
TO_THE_DATA_OR_MODEL = {
    "dataset_name": "other.jsonl",
    "dataset_revision": "v2",
    "dataset_config_name": "subset",
    "dataset_split": "part",
    "eval_split": "held",
    "eval_fraction": 0.5,
    "eval_samples": 3,
    "max_samples": 5,
    "max_dropped_fraction": 0.25,
    "revision": "v1",
    "dtype": "bfloat16",
    "attn_implementation": "eager",
    "model_name": "elsewhere",
}
ELSEWHERE = {
    "output_dir",  # the run's directory
    "stage",  # tests/chain/test_labels.py
    "use_liger_kernel",  # test_liger.py
    "max_skipped_steps",  # test_gradients.py
    *("peft", "peft_args", "merge_adapter"),  # test_adapters.py
    *("gates", "on_fail"),  # tests/test_gates.py
    "columns",  # tests/data/test_columns.py
}


def config(**values: Any) -> TrainingConfig:
    return TrainingConfig(**({"model_name": "m", "output_dir": "o", "dataset_name": "d"} | values))


def test_every_field_is_tested_for_what_it_does() -> None:
    tested = TO_THE_TRAINER.keys() | TO_THE_DATA_OR_MODEL.keys() | ELSEWHERE
    assert {field.name for field in fields(TrainingConfig)} == tested


@pytest.mark.parametrize("name", TO_THE_TRAINER)
def test_field_reaches_the_trl_config(name: str) -> None:
    name_of_kind, value = TO_THE_TRAINER[name]
    kind = named(name_of_kind)
    extra = GRPOExtraConfig() if kind.samples else None
    built, plain = (kind.trainer_args(one, extra) for one in (config(**{name: value}), config()))
    for key, expected in (value if name == "trainer_args" else {name: value}).items():
        assert getattr(built, key) == expected
        assert getattr(plain, key) != expected


@pytest.mark.parametrize("name", [name for name in TO_THE_DATA_OR_MODEL if name.startswith(("dataset", "eval", "max"))])
def test_field_reaches_the_data_loader(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from data import sources

    asked: list[Any] = []
    monkeypatch.setattr(sources, "_loaded", lambda *args, **options: asked.append((args, options)))
    load_for(config(**{name: TO_THE_DATA_OR_MODEL[name]}), "sft")
    load_for(config(), "sft")
    assert asked[0] != asked[1]
    assert TO_THE_DATA_OR_MODEL[name] in [*asked[0][0], *asked[0][1].values()]


def test_data_fields_change_the_rows(configure: Callable[..., TrainingConfig]) -> None:
    some = load_for(configure("sft", max_samples=5, eval_samples=3, eval_fraction=0.5), "sft")
    assert (len(some.train), len(some.eval)) == (5, 3)


@pytest.mark.parametrize("name", ["revision", "dtype", "attn_implementation"])
def test_field_reaches_from_pretrained(name: str) -> None:
    from algorithms import loading

    value = TO_THE_DATA_OR_MODEL[name]
    assert loading.options(config(**{name: value}))[name] == value
    assert loading.options(config()).get(name) != value


def test_type_and_attention_reach_the_model(configure: Callable[..., TrainingConfig]) -> None:
    import torch

    from algorithms import loading

    model = loading.language_model(configure("sft", dtype="bfloat16", attn_implementation="eager"))
    assert model.dtype == torch.bfloat16
    assert model.config._attn_implementation == "eager"
    assert loading.language_model(configure("sft")).dtype == torch.float32


@pytest.mark.parametrize("target", ["cpu", "cuda"])
def test_autocast_is_trls_default_except_on_a_device_without_bf16(
    target: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(arguments, "training_device", lambda options: target)
    monkeypatch.setattr(arguments, "computes_in_bf16", lambda device: True)
    assert "bf16" not in arguments.resolve(config(), None, tmp_path)
    monkeypatch.setattr(arguments, "computes_in_bf16", lambda device: device != target)
    assert arguments.resolve(config(), None, tmp_path)["bf16"] is False
    assert arguments.resolve(config(bf16=True), None, tmp_path)["bf16"] is True
    assert "bf16" not in arguments.resolve(config(trainer_args={"fp16": True}), None, tmp_path)
    # a card without bfloat16 computes in float16, unless the weights that are trained are in 16 bits
    in_fp16 = {"float32": None, "float16": None, "bfloat16": None, "float16 with an adapter": "lora"}
    chosen = {
        name: arguments.resolve(config(dtype=name.split()[0], peft=peft), None, tmp_path).get("fp16")
        for name, peft in in_fp16.items()
    }
    on_a_card = {"float32": True, "float16": False, "bfloat16": False, "float16 with an adapter": True}
    assert chosen == (on_a_card if target == "cuda" else dict.fromkeys(in_fp16))


def test_trls_default_is_autocast() -> None:
    assert SFT.args_class()(output_dir="o", use_cpu=True).bf16 is True


def test_grpo_extra_reaches_the_trl_config() -> None:
    extra = GRPOExtraConfig(num_generations=2, max_completion_length=33, reward_weights=[2, 1])
    built = GRPO.trainer_args(config(), extra)
    assert (built.num_generations, built.max_completion_length, built.reward_weights) == (2, 33, [2.0, 1.0])


def test_trainer_fields_are_named_as_in_trl() -> None:
    names = {field.name for field in fields(TrainingConfig)} - arguments.NOT_FOR_THE_TRAINER
    kinds = [named(name) for name in KINDS]
    known = {field.name for kind in kinds if isinstance(kind, TrlKind) for field in fields(kind.args_class())}
    assert names <= known
    assert arguments.OURS.keys() <= known


def test_grpo_rewards_are_one_or_a_list() -> None:
    assert GRPOExtraConfig(reward_func=StageOutput("reward")).rewards == (StageOutput("reward"),)
    assert GRPOExtraConfig(reward_func=["exact_match", "accuracy"]).rewards == ("exact_match", "accuracy")
    assert GRPOExtraConfig(reward_func=exact_match).rewards == (exact_match,)
    assert GRPOExtraConfig().rewards == ("accuracy",)


def test_configs_and_grpo_import_no_heavy_library() -> None:
    import subprocess
    import sys

    code = (
        "import sys, algorithms.grpo; print({'torch', 'transformers', 'trl', 'datasets', 'numpy'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
