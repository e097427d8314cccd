"""A stage's time in the plan: what is counted, worked by hand, and that every kind of pass can be timed."""

import weakref
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from algorithms import GRPOExtraConfig, StageOutput, TrainingConfig
from chain import timing
from chain.forecast import Models
from chain.timing import Pace
from kinds import Stage, named
from pretrain import PretrainConfig
from utils import four_bits

SHAPE: dict[str, Any] = {
    "model_type": "qwen2", "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
    "num_key_value_heads": 1, "intermediate_size": 64, "vocab_size": 300, "tie_word_embeddings": True,
}  # fmt: skip
SIZES = {"some/model": SHAPE}
GROUPS = GRPOExtraConfig(num_generations=4, max_completion_length=16, preflight_prompts=0)


@pytest.fixture(autouse=True)
def no_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("utils.hub.local_model", lambda *_: None)


def stage(kind: str, **fields: Any) -> Stage:
    if kind == "pretrain":
        shape: dict[str, Any] = {
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
        }
        return Stage(
            "pretrain",
            named("pretrain"),
            PretrainConfig(output_dir="base", dataset_name="made:documents", **shape, **fields),
        )
    given: dict[str, Any] = {
        "model_name": "some/model", "output_dir": kind, "dataset_name": "made:prompts",
        "per_device_train_batch_size": 4, "gradient_accumulation_steps": 2,
    }  # fmt: skip
    given |= {} if kind == "grpo" else {"max_length": 24}
    return Stage(kind, named(kind), TrainingConfig(**given | fields), GROUPS if kind == "grpo" else None)


def work(one: Stage, steps: int = 10, rows: int = 80) -> timing.Work:
    return timing.work_of(one, Models([one], {}, SIZES), steps, rows)


def test_every_pass_of_the_accumulation_is_counted() -> None:
    found = work(stage("sft"))
    assert (found.passes, found.sequences, found.tokens) == (20, 4, 24)
    assert (found.references, found.samplings) == (0, 0)
    assert Pace(2.0).of(found) == 40.0


def test_a_pair_is_two_rows_and_its_reference_runs_once_or_with_each_pass() -> None:
    each = work(stage("dpo"))
    assert (each.sequences, each.references) == (8, 20)
    ahead = work(stage("dpo", trainer_args={"precompute_ref_log_probs": True}), rows=81)
    assert ahead.references == 81 * 2 / 8
    assert work(stage("reward")).references == 0


def test_grpo_samples_once_for_the_passes_that_use_it() -> None:
    found = work(stage("grpo"))
    assert (found.passes, found.samplings) == (20, 10)  # eight completions for the two passes of a step
    assert found.tokens == 256 + 16
    again = work(stage("grpo", trainer_args={"num_iterations": 2}))
    assert again.samplings == 5
    assert found.references == 0
    assert work(stage("grpo", beta=0.1)).references == 20
    twice = work(stage("grpo", beta=0.1, trainer_args={"num_iterations": 2}))
    assert twice.references == 10  # once for each generation, which two steps use


def test_what_may_be_sampled_besides_is_counted() -> None:
    plain = stage("grpo")
    tried = replace(plain, extra=replace(GROUPS, preflight_prompts=6))  # 6 prompts of 8, by 8 completions at once
    assert work(tried).samplings == 10 + 6
    assert work(replace(plain, extra=replace(GROUPS, dynamic_sampling=2))).samplings == 30


def test_a_reference_over_rows_that_are_not_known_is_not_guessed() -> None:
    one = stage("dpo", trainer_args={"precompute_ref_log_probs": True})
    with pytest.raises(ValueError, match="how many rows"):
        timing.work_of(one, Models([one], {}, SIZES), 10, None)


@pytest.mark.parametrize("kind", ["pretrain", "sft", "reward", "dpo", "grpo"])
def test_the_passes_of_each_kind_are_timed(kind: str) -> None:
    found = work(stage(kind))
    pace = timing.measured(found)
    assert pace.one_pass > 0
    assert (pace.reference > 0, pace.sampling > 0) == (kind == "dpo", kind == "grpo")
    assert 0 < pace.of(found) < 600


@pytest.mark.parametrize("kind", ["sft", "reward"])
def test_an_adapter_is_what_is_trained(kind: str, trained: list[set[str]]) -> None:
    timing.measured(work(stage(kind, peft="lora")))
    assert all("lora_" in name or "score" in name for name in trained[-1])
    timing.measured(work(stage(kind)))
    assert any("embed" in name for name in trained[-1])


def test_frozen_weights_of_qlora_are_in_4_bits_as_in_its_training(tmp_path: Path) -> None:
    from bitsandbytes.nn import Linear4bit
    from transformers import AutoModelForCausalLM, Qwen2Config, Qwen2ForCausalLM

    def in_4_bits(model: Any) -> dict[str, tuple[Any, ...]]:
        layers = {name: one.weight for name, one in model.named_modules() if isinstance(one, Linear4bit)}
        return {
            name: (weight.tolist(), weight.quant_state.quant_type, weight.quant_state.nested, weight.quant_state.dtype)
            for name, weight in layers.items()
        }

    model = Qwen2ForCausalLM(Qwen2Config(**SHAPE)).bfloat16()
    model.save_pretrained(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(
        tmp_path, quantization_config=four_bits.nf4("bfloat16"), device_map={"": "cpu"}, dtype="bfloat16"
    )
    made = four_bits.in_4_bits(model, "bfloat16").to("cpu")
    assert len(in_4_bits(made)) == 14  # 7 in each of 2 layers
    assert in_4_bits(made) == in_4_bits(loaded)


def test_an_adapter_beside_weights_in_4_bits_is_what_is_trained(
    trained: list[set[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    from bitsandbytes.nn import Linear4bit

    multiplied: set[int] = set()
    forward = Linear4bit.forward

    def watched(layer: Any, *given: Any) -> Any:
        multiplied.add(id(layer))
        return forward(layer, *given)

    monkeypatch.setattr(Linear4bit, "forward", watched)
    found = work(stage("sft", peft="qlora"))
    assert found.multiplied_in in ("bfloat16", "float32")  # what this CPU has
    assert found.dtype == found.multiplied_in
    assert timing.measured(found).one_pass > 0
    assert len(multiplied) == 14
    assert trained[-1]
    assert all("lora_" in name for name in trained[-1])


def test_before_ampere_weights_saved_in_bfloat16_are_timed_in_float16(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("algorithms.adapters.compute_dtype", lambda _config: "float16")
    sizes = {"some/model": SHAPE | {"dtype": "bfloat16"}}
    sft = stage("sft", peft="lora", dtype="auto")
    dpo = stage("dpo", peft="lora", dtype="auto", model_name=StageOutput("sft"), max_length=24)
    models = Models([sft, dpo], {}, sizes)
    assert [timing.work_of(one, models, 10, 80).dtype for one in (sft, dpo)] == ["float16", "float16"]


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[set[str]]:
    """What had a gradient in each pass that was timed."""
    import transformers

    found: list[set[str]] = []
    clear = transformers.PreTrainedModel.zero_grad

    def zero_grad(model: Any) -> None:
        found.append({name for name, weight in model.named_parameters() if weight.grad is not None})
        clear(model)

    monkeypatch.setattr(transformers.PreTrainedModel, "zero_grad", zero_grad)
    return found


def test_timing_leaves_the_configuration_and_the_random_numbers_as_they_were() -> None:
    import torch

    found = work(stage("reward"))
    before, drawn = found.config.to_dict(), torch.random.get_rng_state()
    timing._random_model(found)
    assert found.config.to_dict() == before
    assert torch.equal(torch.random.get_rng_state(), drawn)


def test_on_a_cpu_rows_are_as_long_as_the_batches_of_the_stage(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[timing.Work] = []

    def measured(work: timing.Work) -> Pace:
        seen.append(work)
        return Pace(2.0, 0.0, 30.0)

    monkeypatch.setattr(timing, "measured", measured)
    one, groups = stage("sft"), stage("grpo")
    assert timing.seconds(one, Models([one], {}, SIZES), 10, 80, 7) == 20 * 2.0
    assert timing.seconds(groups, Models([groups], {}, SIZES), 10, 80, 9) == 20 * 2.0 + 10 * 30.0
    assert [work.tokens for work in seen] == [7, -(-9 // 4) + 16], "a prompt is read once for a group of 4"
    assert timing.work_of(one, Models([one], {}, SIZES), 10, 80, 1000).tokens == 24, "what is longer is cut"


def test_what_would_take_a_cpu_long_is_told_by_its_products(monkeypatch: pytest.MonkeyPatch) -> None:
    one = stage("sft")
    found = work(one)
    pace = timing.by_products(found)
    assert pace.one_pass == pytest.approx(3 * pace.reference)
    larger = timing.by_products(replace(found, parameters=1000 * found.parameters))
    assert 200 < larger.one_pass / pace.one_pass < 5000
    monkeypatch.setattr(timing, "by_products", lambda _: Pace(100.0))
    monkeypatch.setattr(timing, "measured", lambda _: pytest.fail("it was tried"))
    assert timing.seconds(one, Models([one], {}, SIZES), 10, 80) == 20 * 100.0


def test_what_was_timed_is_multiplied_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timing, "device", lambda: "cuda")
    monkeypatch.setattr(timing, "measured", lambda _: Pace(2.0, 1.0, 30.0))
    one = stage("grpo", beta=0.1)
    assert timing.seconds(one, Models([one], {}, SIZES), 10, 80) == 20 * 2.0 + 20 * 1.0 + 10 * 30.0


def test_what_does_not_fit_is_said_and_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    held: list[Any] = []

    class Weights:
        pass

    def full(_: object) -> Pace:
        weights = Weights()
        held.append(weakref.ref(weights))
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(timing, "_measured", full)
    alive: list[bool] = []
    monkeypatch.setattr(timing, "free_memory", lambda: alive.append(held[0]() is not None))
    with pytest.raises(ValueError, match="do not fit"):
        timing.measured(work(stage("sft")))
    assert alive == [False]


def test_a_kernel_that_is_not_installed_is_said() -> None:
    with pytest.raises(ValueError, match="FlashAttention2"):
        timing.measured(work(stage("sft", attn_implementation="flash_attention_2")))
