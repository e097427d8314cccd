"""LoRA and QLoRA in the four stages: what is trained, what is left, what the reference is, and what is refused."""

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from algorithms import GRPOExtraConfig, TrainingConfig
from tests.train_stage import KINDS, train
from utils.errors import Refused, StageFailed
from utils.files import weights_sha256

Configure = Callable[..., TrainingConfig]
SMALL = {"r": 4, "lora_alpha": 8}


def lengths(completions: list[Any], **_: Any) -> list[float]:
    """A reward that differs between most completions."""
    return [float(len(completion[0]["content"])) for completion in completions]


EXTRA = GRPOExtraConfig(reward_func=lengths, num_generations=4, max_completion_length=6)


@pytest.fixture
def lora(configure: Configure) -> Configure:
    """Return a function that makes the configuration of a short, fast LoRA stage."""

    def make(kind: str, **fields: Any) -> TrainingConfig:
        return configure(kind, **({"peft": "lora", "peft_args": SMALL, "learning_rate": 1e-2} | fields))

    return make


def run(kind: str, config: TrainingConfig, stage_dir: Path) -> Path:
    stage_dir.mkdir(exist_ok=True)
    return train(kind, config, stage_dir, EXTRA)


def metrics(stage_dir: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (stage_dir / "training_metrics.jsonl").read_text().splitlines()]


def info(stage_dir: Path) -> dict[str, Any]:
    return dict(json.loads((stage_dir / "stage_info.json").read_text()))


def causal(directory: Path) -> Any:
    from transformers import AutoModelForCausalLM

    model, found = AutoModelForCausalLM.from_pretrained(directory, output_loading_info=True)
    assert not found["missing_keys"]
    return model.eval()


def logits(model: Any) -> Any:
    import torch

    with torch.no_grad():
        return model(torch.arange(3, 40)[None]).logits


@pytest.fixture
def trainers(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The trainers of the stages that the test runs."""
    from algorithms import training

    seen: list[Any] = []
    fit = training.fit

    def watched(trainer: Any, *rest: Any) -> Path:
        seen.append(trainer)
        return fit(trainer, *rest)

    monkeypatch.setattr(training, "fit", watched)
    return seen


@pytest.mark.parametrize("peft", ["lora", "qlora"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_merged_stage_leaves_an_ordinary_model_and_says_what_merging_changed(
    kind: str, peft: str, lora: Configure, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

    stage = run(kind, lora(kind, peft=peft, dtype="float32"), tmp_path / kind)
    auto = AutoModelForSequenceClassification if kind == "reward" else AutoModelForCausalLM
    model, found = auto.from_pretrained(stage, output_loading_info=True)
    assert not found["missing_keys"]
    assert not found["unexpected_keys"]
    assert model.config.pad_token_id == AutoTokenizer.from_pretrained(stage).pad_token_id
    assert model.config.use_cache is True
    assert not list(stage.glob("adapter*"))
    assert "quantization_config" not in (stage / "config.json").read_text()
    recorded = info(stage)
    assert 0 < recorded["parameters"]["trainable"] < 0.6 * recorded["parameters"]["total"]
    merge = recorded["merge"]
    assert merge["metric"] == ("score" if kind == "reward" else "loss")
    assert merge["examples"] > 0
    if peft == "lora":
        assert merge["largest"] < 1e-4
        assert not recorded.get("alarms")
    else:  # the model was trained beside other weights, so something must differ
        assert merge["largest"] > 1e-4
    assert "the adapter is merged: mean" in capsys.readouterr().out


@pytest.mark.parametrize("peft", ["lora", "qlora"])
def test_only_the_adapter_is_trained_and_in_float32(
    peft: str, lora: Configure, tmp_path: Path, trainers: list[Any]
) -> None:
    import torch

    # Kept, since merging would take the adapter away.
    run("sft", lora("sft", peft=peft, dtype="bfloat16", merge_adapter=False), tmp_path / "sft")
    weights = dict(trainers[0].model.named_parameters())
    trained = {name: weight for name, weight in weights.items() if weight.requires_grad}
    # In each of 2 layers, with hidden size 16, feed-forward 32 and r 4: 4 matrices of 16 × 16, 3 of 16 × 32.
    number = 2 * 4 * (4 * (16 + 16) + 3 * (16 + 32))
    assert (
        sum(weight.numel() for weight in trained.values())
        == number
        == info(tmp_path / "sft")["parameters"]["trainable"]
    )
    assert {weight.dtype for weight in trained.values()} == {torch.float32}
    assert all(".lora_" in name for name in trained)
    assert weights["base_model.model.model.embed_tokens.weight"].dtype == torch.bfloat16


def test_the_number_of_parameters_counts_weights_in_4_bits_one_by_one(lora: Configure, tmp_path: Path) -> None:
    for peft in ("lora", "qlora"):
        run("sft", lora("sft", peft=peft, max_steps=1), tmp_path / peft)
    assert info(tmp_path / "lora")["parameters"] == info(tmp_path / "qlora")["parameters"]
    assert "98 rows, 2176 trainable parameters" in (tmp_path / "qlora" / "training_events.log").read_text()


def test_what_is_merged_is_what_was_trained(lora: Configure, tmp_path: Path) -> None:
    import torch

    kept = run("sft", lora("sft", merge_adapter=False), tmp_path / "kept")
    merged = run("sft", lora("sft"), tmp_path / "merged")
    torch.testing.assert_close(logits(causal(kept)), logits(causal(merged)), rtol=0, atol=1e-5)
    plain = logits(causal(Path(str(lora("sft").model_name))))
    assert (logits(causal(merged)) - plain).abs().max() > 1e-2


def test_a_large_difference_of_merging_raises_an_alarm(
    lora: Configure, stage_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from peft.tuners.lora import Linear

    monkeypatch.setattr(Linear, "get_delta_weight", lambda self, name: 1 + 0 * self.get_base_layer().weight)
    run("reward", lora("reward", max_steps=15, learning_rate=3e-2), stage_dir)
    (alarm,) = info(stage_dir)["alarms"]
    assert alarm["name"] == "merge_differs"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("peft", ["lora", "qlora"])
def test_a_resumed_adapter_is_that_of_the_uninterrupted_run(
    peft: str, kind: str, lora: Configure, tmp_path: Path
) -> None:
    config = lora(kind, peft=peft, max_steps=4, save_steps=2)
    whole, resumed, ended = (tmp_path / name for name in ("whole", "resumed", "ended"))
    run(kind, config, whole)
    for directory, checkpoint in ((resumed, "checkpoint-2"), (ended, "checkpoint-4")):
        shutil.copytree(whole / checkpoint, directory / checkpoint)
        run(kind, config, directory)
        assert weights_sha256(directory) == weights_sha256(whole)
        assert (directory / "config.json").read_text() == (whole / "config.json").read_text()


def test_the_seed_decides_the_adapter(lora: Configure, tmp_path: Path) -> None:
    hashes = [
        weights_sha256(run("sft", lora("sft", max_steps=1, seed=seed), tmp_path / name))
        for name, seed in (("one", 1), ("two", 1), ("three", 2))
    ]
    assert hashes[0] == hashes[1] != hashes[2]


@pytest.mark.parametrize("peft", ["lora", "qlora"])
def test_dpo_loss_is_log_2_at_the_start_of_a_new_adapter_and_no_second_model_is_held(
    peft: str, lora: Configure, stage_dir: Path, trainers: list[Any]
) -> None:
    run("dpo", lora("dpo", peft=peft, max_steps=1, merge_adapter=False), stage_dir)
    assert metrics(stage_dir)[0]["loss"] == pytest.approx(math.log(2), abs=1e-6)
    assert trainers[0].ref_model is None
    assert list(trainers[0].model.peft_config) == ["default"]


def test_dpo_loss_is_log_2_at_the_start_after_a_merged_adapter(
    lora: Configure, configure: Configure, tmp_path: Path
) -> None:
    sft = run("sft", lora("sft"), tmp_path / "sft")
    run("dpo", configure("dpo", model_name=str(sft), max_steps=1), tmp_path / "dpo")
    assert metrics(tmp_path / "dpo")[0]["loss"] == pytest.approx(math.log(2), abs=1e-6)


@pytest.mark.parametrize("peft", ["lora", "qlora"])
def test_dpo_of_a_kept_adapter_starts_at_log_2_and_its_reference_stays(
    peft: str, lora: Configure, tmp_path: Path, trainers: list[Any]
) -> None:
    from safetensors.torch import load_file

    sft = run("sft", lora("sft", peft=peft, max_steps=20, merge_adapter=False), tmp_path / "sft")
    dpo = run("dpo", lora("dpo", peft=peft, model_name=str(sft), merge_adapter=False), tmp_path / "dpo")
    assert metrics(dpo)[0]["loss"] == pytest.approx(math.log(2), abs=1e-6)
    assert metrics(dpo)[-1]["loss"] < math.log(2)
    before, after = (load_file(stage / "adapter_model.safetensors") for stage in (sft, dpo))
    held = dict(trainers[1].model.named_parameters())
    for name, weight in before.items():
        reference = held[name.replace(".weight", ".ref.weight")]
        assert reference.equal(weight)
        assert not reference.requires_grad
    assert before.keys() == after.keys()
    assert any(not weight.equal(after[name]) for name, weight in before.items())


def test_dpo_of_a_kept_adapter_resumes_with_its_reference(lora: Configure, tmp_path: Path) -> None:
    sft = run("sft", lora("sft", max_steps=20, merge_adapter=False), tmp_path / "sft")
    config = lora("dpo", model_name=str(sft), merge_adapter=False, max_steps=4, save_steps=2)
    whole, resumed = run("dpo", config, tmp_path / "whole"), tmp_path / "resumed"
    shutil.copytree(whole / "checkpoint-2", resumed / "checkpoint-2")
    run("dpo", config, resumed)
    assert weights_sha256(resumed) == weights_sha256(whole)
    assert sorted(path.name for path in resumed.glob("adapter*")) == [
        "adapter_config.json",
        "adapter_model.safetensors",
    ]
    assert not (resumed / "ref").exists()


@pytest.mark.parametrize("kept", [False, True])
def test_grpo_measures_the_distance_from_its_input_without_a_second_model(
    kept: bool, lora: Configure, tmp_path: Path, trainers: list[Any]
) -> None:
    fields: dict[str, Any] = {"per_device_train_batch_size": 8, "beta": 0.1, "learning_rate": 3e-2}
    if kept:
        fields["model_name"] = str(run("sft", lora("sft", max_steps=20, merge_adapter=False), tmp_path / "sft"))
    run("grpo", lora("grpo", **fields, merge_adapter=False), tmp_path / "grpo")
    logged = metrics(tmp_path / "grpo")
    assert logged[0]["kl"] == pytest.approx(0, abs=1e-7)
    assert logged[-1]["kl"] > 1e-4
    assert trainers[-1].ref_model is None
    assert ("ref" in trainers[-1].model.peft_config) is kept


def test_a_reward_model_starts_from_a_kept_adapter_and_its_new_head_is_trained(
    lora: Configure, tmp_path: Path, trainers: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    from peft import PeftModel
    from safetensors.torch import load_file

    seen: dict[str, Any] = {}
    merge = PeftModel.__getattr__

    def look(self: Any, name: str) -> Any:
        if name == "merge_and_unload":  # the last moment at which the adapter stands beside the weights
            seen.update({key: weight.detach().clone() for key, weight in self.named_parameters()})
        return merge(self, name)

    sft = run("sft", lora("sft", max_steps=20, merge_adapter=False), tmp_path / "sft")
    monkeypatch.setattr(PeftModel, "__getattr__", look)
    reward = run("reward", lora("reward", model_name=str(sft)), tmp_path / "reward")
    trained = seen["base_model.model.score.modules_to_save.default.weight"]
    assert not trained.equal(seen["base_model.model.score.original_module.weight"])
    assert load_file(reward / "model.safetensors")["score.weight"].equal(trained)
    # The reward model goes on from what SFT learnt: three steps away from it.
    name = "base_model.model.model.layers.0.mlp.up_proj.lora_B{}.weight"
    learnt = load_file(sft / "adapter_model.safetensors")[name.format("")]
    assert (seen[name.format(".default")] - learnt).abs().max() < 0.04 < learnt.abs().max()


@pytest.mark.parametrize("peft", ["lora", "qlora"])
def test_a_lora_reward_models_scores_do_not_depend_on_padding(peft: str, lora: Configure, stage_dir: Path) -> None:
    import torch

    from algorithms import rewards

    model, tokenizer = rewards.load(str(run("reward", lora("reward", peft=peft, dtype="float32"), stage_dir)))
    texts = ["<|im_start|>user\nsay red<|im_end|>\n", "red", "up down left right one two three"]
    padded = model(**tokenizer(texts, padding=True, return_tensors="pt")).logits[:, 0]
    alone = torch.cat([model(**tokenizer(text, return_tensors="pt")).logits[:, 0] for text in texts])
    torch.testing.assert_close(padded, alone, rtol=0, atol=1e-6)
    assert len(set(alone.tolist())) == 3


@pytest.mark.parametrize("peft", ["lora", "qlora"])
def test_an_adapter_learns(peft: str, lora: Configure, stage_dir: Path) -> None:
    run("reward", lora("reward", peft=peft, max_steps=15), stage_dir)
    assert metrics(stage_dir)[-1]["loss"] < 0.5 * metrics(stage_dir)[0]["loss"]
    assert metrics(stage_dir)[-1]["accuracy"] == 1.0


@pytest.mark.parametrize("bf16", [False, True])
@pytest.mark.parametrize("peft", ["lora", "qlora"])
def test_the_new_head_of_a_reward_model_is_trained_in_float32_and_saved_in_the_models_type(
    peft: str, bf16: bool, lora: Configure, stage_dir: Path, trainers: list[Any]
) -> None:
    import torch
    from safetensors.torch import load_file

    run("reward", lora("reward", peft=peft, dtype="bfloat16", bf16=bf16), stage_dir)
    state = torch.load(stage_dir / "checkpoint-3" / "optimizer.pt", weights_only=True)["state"]
    assert {moments["exp_avg"].dtype for moments in state.values()} == {torch.float32}
    assert {weight.dtype for weight in load_file(stage_dir / "model.safetensors").values()} == {torch.bfloat16}


def test_a_kept_adapter_names_the_absolute_directory_of_its_model_and_says_when_that_is_gone(
    lora: Configure, tmp_path: Path, model_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from evaluation.scored_model import load_policy, load_tokenizer

    base = tmp_path / "base"
    shutil.copytree(model_dir, base)
    monkeypatch.chdir(tmp_path)
    stage = run("sft", lora("sft", model_name="base", merge_adapter=False), tmp_path / "sft")
    monkeypatch.chdir("/")
    for directory in (stage, stage / "checkpoint-3"):
        assert json.loads((directory / "adapter_config.json").read_text())["base_model_name_or_path"] == str(base)
    assert logits(load_policy(stage)).equal(logits(causal(stage)))
    assert load_tokenizer(stage).chat_template
    base.rename(tmp_path / "moved")

    def goes_on(path: Path) -> Any:
        return run("dpo", lora("dpo", model_name=str(path)), tmp_path / "dpo")

    for use in (weights_sha256, goes_on):
        with pytest.raises(Refused, match=r"holds an adapter for the model in '.*/base', which is not there: put it"):
            use(stage)


def test_a_kept_adapter_is_refused_by_a_stage_that_trains_all_weights_or_asks_for_another(
    lora: Configure, configure: Configure, tmp_path: Path
) -> None:
    kept = run("sft", lora("sft", merge_adapter=False), tmp_path / "sft")
    with pytest.raises(Refused, match=r"holds an adapter, not a whole model.*set peft='lora'"):
        run("dpo", configure("dpo", model_name=str(kept)), tmp_path / "plain")
    other = {"r": 8, "target_modules": ["q_proj"]}
    with pytest.raises(Refused, match=r"r = 8, not 4; target_modules = \['q_proj'\], not \['down_proj'"):
        run("dpo", lora("dpo", model_name=str(kept), peft_args=other), tmp_path / "other")


def test_an_adapter_that_lacks_weights_is_not_trained_on(lora: Configure, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    kept = run("sft", lora("sft", merge_adapter=False), tmp_path / "sft")
    weights = load_file(kept / "adapter_model.safetensors")
    del weights["base_model.model.model.layers.1.mlp.up_proj.lora_B.weight"]
    save_file(weights, kept / "adapter_model.safetensors", metadata={"format": "pt"})
    with pytest.raises(StageFailed, match=r"lacks 1 of its weights, such as .*layers.1.mlp.up_proj.lora_B"):
        run("dpo", lora("dpo", model_name=str(kept)), tmp_path / "dpo")


def test_qlora_weights_are_in_nf4_with_double_quantisation(
    lora: Configure, stage_dir: Path, trainers: list[Any]
) -> None:
    import torch
    from bitsandbytes.nn import Linear4bit

    run("sft", lora("sft", peft="qlora"), stage_dir)
    layers = [module for module in trainers[0].model.modules() if isinstance(module, Linear4bit)]
    assert len(layers) == 14  # 7 in each of 2 layers
    state = layers[0].weight.quant_state
    assert (layers[0].weight.dtype, state.quant_type, state.nested) == (torch.uint8, "nf4", True)


@pytest.mark.parametrize(
    ("device", "native", "dtype"),
    [("cuda", True, "bfloat16"), ("cuda", False, "float16"), ("cpu", True, "bfloat16"), ("cpu", False, "float32")],
)
def test_qlora_computes_in_what_the_device_has(
    device: str, native: bool, dtype: str, configure: Configure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    from algorithms import adapters, arguments, loading

    monkeypatch.setattr(arguments, "training_device", lambda options: device)
    monkeypatch.setattr(adapters, "computes_in_bf16", lambda target: native)
    config = configure("sft", peft="qlora")
    assert adapters.quantization(config)["quantization_config"].bnb_4bit_compute_dtype == getattr(torch, dtype)
    assert loading.options(config)["dtype"] == dtype
    assert loading.options(configure("sft", peft="qlora", dtype="float32"))["dtype"] == "float32"
    assert loading.options(configure("sft", peft="lora"))["dtype"] == "float32"
    # frozen weights before Ampere: float16 is what autocast computes in there
    frozen = "float16" if (device, native) == ("cuda", False) else "bfloat16"
    assert loading.options(configure("sft", peft="lora", dtype="bfloat16"))["dtype"] == frozen
    assert loading.options(configure("sft", peft="qlora", dtype="bfloat16"))["dtype"] == frozen
    assert loading.options(configure("sft", dtype="bfloat16"))["dtype"] == "bfloat16"
    for saved in ("bfloat16", "float32"):
        base = tmp_path / saved
        base.mkdir(exist_ok=True)
        (base / "config.json").write_text(json.dumps({"model_type": "qwen2", "dtype": saved}))
        auto = loading.options(configure("sft", peft="lora", dtype="auto", model_name=str(base)))["dtype"]
        assert auto == ("float16" if (frozen, saved) == ("float16", "bfloat16") else "auto")
