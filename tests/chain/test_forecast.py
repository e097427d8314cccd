"""A stage's memory, and the micro-batch that keeps to a budget: the step stays the recipe's."""

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from algorithms import GRPOExtraConfig, StageOutput, TrainingConfig
from algorithms.memory import COMPONENTS
from chain import forecast
from chain.fitting import fit_all
from chain.forecast import Models
from chain.recipe import load
from kinds import Stage, named
from pretrain import PretrainConfig
from utils.errors import Refused

GIB = 2**30
SIZES = load("qwen2.5_0.5b").sizes


@pytest.fixture(autouse=True)
def no_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    """The shapes are those that the recipe records, whatever this machine has."""
    monkeypatch.setattr("utils.hub.local_model", lambda *_: None)


def stage(kind: str, extra: GRPOExtraConfig | None = None, **fields: Any) -> Stage:
    given: dict[str, Any] = {
        "model_name": "Qwen/Qwen2.5-0.5B", "output_dir": kind, "dataset_name": "made:prompts", "dtype": "bfloat16",
        "optim": "adamw_torch_fused", "per_device_train_batch_size": 8, "gradient_accumulation_steps": 2,
    }  # fmt: skip
    return Stage(kind, named(kind), TrainingConfig(**given | fields), extra)


def models(*stages: Stage) -> Models:
    return Models(stages, {}, SIZES)


def test_the_largest_micro_batch_that_fits_is_chosen_and_the_step_stays() -> None:
    sft = stage("sft", max_length=2048, gradient_checkpointing=False)
    peaks = {}
    for candidate in forecast.micro_batches(sft):
        config = candidate.config
        assert config.per_device_train_batch_size * config.gradient_accumulation_steps == 16
        peaks[config.per_device_train_batch_size] = forecast.forecast(candidate, models(sft)).peak_bytes
    assert list(peaks) == [8, 4, 2, 1]
    assert peaks[8] > peaks[4] > peaks[2] > peaks[1]
    for rows, peak in peaks.items():
        chosen = forecast.fit(sft, models(sft), peak)
        assert chosen is not None
        assert chosen[0].config.per_device_train_batch_size == rows
    assert forecast.fit(sft, models(sft), peaks[1] - 1) is None


def test_without_a_budget_the_recipe_stays_as_it_is() -> None:
    sft = stage("sft")
    chosen = forecast.fit(sft, models(sft), None)
    assert chosen is not None
    assert chosen[0] is sft


def test_grpo_samples_as_many_completions_at_once_with_a_smaller_micro_batch() -> None:
    for options in ({}, {"steps_per_generation": 2}, {"generation_batch_size": 16}):
        grpo = stage("grpo", GRPOExtraConfig(num_generations=4), trainer_args=options)
        made = [forecast.trainer_args(candidate) for candidate in forecast.micro_batches(grpo)]
        assert [args.per_device_train_batch_size for args in made] == [8, 4, 2, 1]
        assert {args.generation_batch_size for args in made} == {16}


def test_evaluation_takes_no_more_rows_than_training() -> None:
    sft = stage("sft", trainer_args={"per_device_eval_batch_size": 8})
    assert [forecast.trainer_args(one).per_device_eval_batch_size for one in forecast.micro_batches(sft)] == [
        8,
        4,
        2,
        1,
    ]


def test_pairs_have_two_rows_and_a_reference_its_own_weights() -> None:
    alone = stage("dpo", trainer_args={"precompute_ref_log_probs": True})
    beside = stage("dpo")
    assert forecast.forecast(alone, models()).components["reference"] == 0
    assert forecast.forecast(beside, models()).components["reference"] == 494_032_768 * 2
    sft = forecast.forecast(stage("sft", per_device_train_batch_size=16), models()).components
    assert forecast.forecast(alone, models()).components["activations"] == sft["activations"]


def test_a_reward_model_of_the_run_is_counted_in_grpo() -> None:
    reward = stage("reward", dtype="float32")
    extra = GRPOExtraConfig(reward_func=["accuracy", StageOutput("reward")])
    assert forecast.forecast(stage("grpo", extra), models(reward)).components["reward_models"] == 494_033_664 * 4


def test_an_adapter_of_the_attention_alone_leaves_the_optimizer_little(monkeypatch: pytest.MonkeyPatch) -> None:
    shapes = models().described("Qwen/Qwen2.5-0.5B", None, scores=False).shapes
    config: Any = type("WithPeft", (), {"peft": "qlora", "peft_args": {"r": 8, "target_modules": ["q_proj", "v_proj"]}})
    adapter = forecast._adapter(config, shapes)
    assert adapter is not None
    assert (adapter.r, adapter.quantised, len(adapter.targets)) == (8, True, 48)


def test_what_does_not_fit_is_refused_with_what_would_make_it(monkeypatch: pytest.MonkeyPatch) -> None:
    sft = stage("sft", dtype="float32", max_length=1024)
    monkeypatch.setattr("chain.fitting.Models", lambda *_: models(sft))
    with pytest.raises(Refused) as refused:
        fit_all([sft], {}, 6 * GIB, {})
    said = str(refused.value)
    assert "sft does not fit in 6.00 GiB: with one row at a time its forecast is" in said
    assert "--set sft.dtype=bfloat16 --set sft.optim=adamw_torch_8bit" in said
    _, _, change = said.partition("It fits with ")
    from chain.set_values import with_values

    values = change.replace("--set ", "").split()
    configs, _ = with_values({"sft": sft.config}, None, values)
    assert forecast.fit(Stage("sft", named("sft"), configs["sft"]), models(), 6 * GIB) is not None


def test_advice_leaves_out_what_the_recipe_has_already() -> None:
    one = stage("sft", dtype="bfloat16", optim="adamw_torch_8bit", max_length=2048, gradient_checkpointing=True)
    advice = {forecast.remedy(one, models(), number * GIB // 4) for number in range(6, 20)} - {None}
    assert any("sft.peft=lora" in str(change) for change in advice)
    assert not any("sft.dtype=" in str(change) or "sft.optim=" in str(change) for change in advice)


def test_a_stage_that_was_stopped_keeps_its_micro_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    sft = stage("sft")
    monkeypatch.setattr("chain.fitting.Models", lambda *_: models(sft))
    fitting = fit_all([sft], {}, 64 * GIB, {"sft": 2})["sft"]
    assert fitting.record is not None
    assert (fitting.record["per_device_train_batch_size"], fitting.record["gradient_accumulation_steps"]) == (2, 8)
    assert fitting.record["budget_bytes"] == 64 * GIB
    assert fitting.record["peak_bytes"] == sum(fitting.record[name] for name in COMPONENTS)
    assert fitting.record["reserved_bytes"] == fitting.record["peak_bytes"] - fitting.record["context"]
    assert fitting.said == [
        "sft: 2 × 8 instead of 8 × 2 (per_device_train_batch_size × gradient_accumulation_steps) keeps to the memory"
        " budget; a step is the same"
    ]


def test_a_loss_that_smaller_passes_change_is_said() -> None:
    plain, held = (stage("dpo", trainer_args={"loss_type": losses}) for losses in (["sigmoid"], ["sigmoid", "sft"]))
    said = [
        forecast.changes(one, forecast.smallest(one, models()), models())[0].rpartition("; ")[2]
        for one in (plain, held)
    ]
    assert said[0] == "a step is the same"
    assert said[1] == "the loss 'sft' is a mean over the tokens of a pass, so that passes weigh alike"


@pytest.mark.parametrize(
    ("kind", "options", "said"),
    [
        ("dpo", {"loss_type": ["aot"]}, "the loss 'aot' sorts the pairs of a pass, so that fewer are compared"),
        ("dpo", {"loss_type": "aot_unpaired"}, "the loss 'aot_unpaired' sorts the pairs of a pass"),
        ("grpo", {"entropy_coef": 0.01}, "the entropy's bonus is a mean over the tokens of a pass"),
        ("grpo", {"top_entropy_quantile": 0.2}, "top_entropy_quantile is taken of the tokens of a pass"),
        ("grpo", {"loss_type": "bnpo"}, "the loss 'bnpo' is a mean over the tokens of a pass"),
        ("grpo", {}, "a step is the same"),
    ],
)
def test_whatever_looks_at_a_pass_as_a_whole_is_said(kind: str, options: dict[str, Any], said: str) -> None:
    one = stage(kind, GRPOExtraConfig() if kind == "grpo" else None, trainer_args=options)
    (line,) = forecast.changes(one, forecast.smallest(one, models()), models())
    assert f"; {said}" in line
    assert ("a step is the same" in line) == (not options)


def test_each_process_samples_its_share_of_a_generation(monkeypatch: pytest.MonkeyPatch) -> None:
    grpo = stage("grpo", GRPOExtraConfig(num_generations=4), trainer_args={"generation_batch_size": 32})
    whole = forecast.forecast(grpo, models()).components["kv_cache"]
    monkeypatch.setattr(forecast, "count", lambda: 2)
    assert forecast.forecast(grpo, models()).components["kv_cache"] == whole / 2


def test_ligers_layers_are_counted_on_where_the_stage_will_have_them(monkeypatch: pytest.MonkeyPatch) -> None:
    def has_liger(**fields: Any) -> bool:
        one, described = stage("sft", **fields), models()
        return forecast.settings(one, forecast.trainer_args(one), described.of(one), described).liger

    assert (has_liger(), has_liger(use_liger_kernel=True), has_liger(use_liger_kernel=False)) == (True, True, False)
    monkeypatch.setattr("liger_kernel.transformers.monkey_patch.MODEL_TYPE_TO_APPLY_LIGER_FN", {"llama": None})
    assert not has_liger()
    monkeypatch.setitem(sys.modules, "liger_kernel.transformers.monkey_patch", None)  # as where it is not installed
    assert not has_liger()


def test_a_reward_model_scores_in_the_type_that_it_was_saved_in() -> None:
    extra = GRPOExtraConfig(reward_func=StageOutput("reward"))
    for dtype, number in (("float32", 4), ("bfloat16", 2)):
        described, one = models(stage("reward", dtype=dtype)), stage("grpo", extra)
        found = forecast.settings(one, forecast.trainer_args(one), described.of(one), described)
        assert (found.reward_weight_bytes, found.reward_models_bytes) == (number, 494_033_664 * number)


@pytest.fixture
def before_ampere(monkeypatch: pytest.MonkeyPatch) -> None:
    """A GPU that does not compute in bfloat16, as far as the arguments of a stage and its forecast look."""
    monkeypatch.setattr(forecast, "lacks_bf16", lambda: True)


@pytest.mark.parametrize("dtype", ["bfloat16", "auto"])
def test_before_ampere_bfloat16_weights_are_not_trained_and_lora_is_proposed(dtype: str, before_ampere: None) -> None:
    one = stage("sft", dtype=dtype, optim="adamw_torch_8bit", max_length=1024)
    assert forecast.fit(one, models(), 6 * GIB) is None
    said = forecast.refusal_of(one, models(), 6 * GIB)
    why = "this GPU does not compute in bfloat16, so all weights have to be trained in float32"
    assert said.startswith(f"sft does not fit in 6.00 GiB as it is: {why}; with one row at a time its forecast is ")
    assert said.endswith("It fits with --set sft.dtype=float32 --set sft.peft=lora")
    assert "\n" not in said
    adapter = stage("sft", dtype="float32", peft="lora", optim="adamw_torch_8bit", max_length=1024)
    assert forecast.fit(adapter, models(), 6 * GIB) is not None


def test_before_ampere_float32_weights_are_proposed_where_there_is_room(before_ampere: None) -> None:
    one = stage("sft", optim="adamw_torch_8bit", max_length=1024)
    assert forecast.refusal_of(one, models(), 24 * GIB).endswith("It fits with --set sft.dtype=float32")
    assert forecast.fit(stage("sft", dtype="float32", max_length=1024), models(), 24 * GIB) is not None


def test_before_ampere_float16_is_proposed_where_float32_beside_an_adapter_does_not_fit(before_ampere: None) -> None:
    one = stage("sft", max_length=512)
    most = {
        dtype: forecast.smallest(stage("sft", dtype=dtype, peft="lora", max_length=512), models()).peak_bytes
        for dtype in ("float32", "float16")
    }
    assert most["float16"] < most["float32"]
    said = forecast.refusal_of(one, models(), most["float32"] - 1)
    assert said.endswith("It fits with --set sft.dtype=float16 --set sft.peft=lora")


def test_before_ampere_weights_beside_an_adapter_are_said_to_be_in_float16(before_ampere: None) -> None:
    said = ["sft: this GPU does not compute in bfloat16: the frozen weights are loaded in float16"]
    for dtype, expected in (("bfloat16", said), ("auto", said), ("float32", [])):
        one = stage("sft", peft="lora", dtype=dtype)
        chosen = forecast.fit(one, models(), 64 * GIB)
        assert chosen is not None
        assert forecast.changes(one, chosen[1], models()) == expected


def test_a_stage_that_began_on_another_gpu_is_refused_before_ampere(
    before_ampere: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    sft = stage("sft", optim="adamw_torch_8bit", max_length=1024)
    monkeypatch.setattr("chain.fitting.Models", lambda *_: models(sft))
    with pytest.raises(Refused, match="this GPU does not compute in bfloat16, so all weights have to be trained in fl"):
        fit_all([sft], {}, 6 * GIB, {"sft": 1})


def test_a_kept_adapter_is_forecast_by_its_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base, adapter = tmp_path / "base", tmp_path / "adapter"
    for directory in (base, adapter):
        directory.mkdir()
    (base / "config.json").write_text(json.dumps(dict(SIZES["Qwen/Qwen2.5-0.5B"])))
    (adapter / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": str(base)}))
    monkeypatch.setattr("utils.hub.local_model", lambda name, _: Path(name))
    outputs = {"sft": adapter}
    of_an_earlier_run = stage("dpo", model_name=StageOutput("sft"), peft="lora")
    by_its_path = stage("dpo", model_name=str(adapter), peft="lora")
    for one in (of_an_earlier_run, by_its_path):
        assert Models([one], outputs).of(one).shapes.parameters == 494_032_768
        assert forecast.fit(one, Models([one], outputs), 64 * GIB) is not None


def test_a_configuration_that_cannot_be_loaded_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("utils.hub.local_model", lambda *_: tmp_path)
    one = stage("sft", model_name=str(tmp_path), peft="lora")

    def said() -> str:
        fitting = fit_all([one], {}, 6 * GIB, {})["sft"]
        assert fitting.record is None
        (line,) = fitting.said
        assert line.startswith("sft: its memory cannot be forecast: ")
        return line

    (tmp_path / "config.json").write_text("{")
    assert f"the configuration of {tmp_path} cannot be loaded: " in said()
    (tmp_path / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": str(tmp_path / "gone")}))
    assert "which is not there" in said()
    (tmp_path / "adapter_config.json").unlink()
    monkeypatch.setattr("transformers.AutoConfig.from_pretrained", _lacks_a_library)
    assert said().endswith("cannot be loaded: it needs a library")


def _lacks_a_library(*_: Any, **__: Any) -> None:
    raise ImportError("it needs a library\nwhich can be installed")


def test_an_unknown_optimizer_is_said_and_stops_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    sft = stage("sft", optim="adafactor")
    monkeypatch.setattr("chain.fitting.Models", lambda *_: models(sft))
    fitting = fit_all([sft], {}, 6 * GIB, {})["sft"]
    assert (fitting.stage, fitting.record) == (sft, None)
    assert fitting.said == ["sft: its memory cannot be forecast: the states of optim = 'adafactor' are not known"]


@pytest.mark.parametrize("kind", ["sft", "reward", "dpo", "grpo"])
def test_every_stage_of_the_shipped_recipe_is_forecast_without_weights(kind: str) -> None:
    recipe = load("qwen2.5_0.5b")
    every = [
        Stage(name, named(name), config, recipe.grpo_extra if name == "grpo" else None)
        for name, config in recipe.configs.items()
    ]
    one = next(one for one in every if one.label == kind)
    assert 2 * GIB < forecast.forecast(one, models(*every)).peak_bytes < 16 * GIB
    assert Path("never-written").exists() is False


def test_pretraining_takes_a_smaller_micro_batch_and_what_makes_it_fit_is_told() -> None:
    config = PretrainConfig(output_dir="o", dataset_name="d", vocab_size=32_768, max_length=1024)
    base = Stage("pretrain", named("pretrain"), config)
    known = Models([base], {})
    whole = forecast.forecast(base, known)
    fitting = forecast.fit(base, known, whole.peak_bytes // 2)
    assert fitting is not None
    smaller, found = fitting
    assert found.peak_bytes <= whole.peak_bytes // 2 < whole.peak_bytes
    batch = smaller.config
    assert batch.per_device_train_batch_size * batch.gradient_accumulation_steps == config.per_device_train_batch_size
    assert replace(batch, per_device_train_batch_size=16, gradient_accumulation_steps=1) == config
    (said,) = forecast.changes(base, found, known)
    assert said.endswith("keeps to the memory budget; a step is the same")
    least = forecast.smallest(base, known).peak_bytes
    assert forecast.fit(base, known, least - 1) is None
    assert "It fits with --set pretrain.gradient_checkpointing=True" in forecast.refusal_of(base, known, least - 1)
