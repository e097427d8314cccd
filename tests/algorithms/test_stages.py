"""The four stages, run on a tiny model: what they learn, what they leave behind, and when they fail."""

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


def lengths(completions: list[Any], **_: Any) -> list[float]:
    """A reward that differs between most completions."""
    return [float(len(completion[0]["content"])) for completion in completions]


EXTRA = GRPOExtraConfig(reward_func=lengths, num_generations=4, max_completion_length=6, preflight_prompts=0)


def run(kind: str, config: TrainingConfig, stage_dir: Path, extra: GRPOExtraConfig = EXTRA) -> Path:
    stage_dir.mkdir(exist_ok=True)
    return train(kind, config, stage_dir, extra)


def metrics(stage_dir: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (stage_dir / "training_metrics.jsonl").read_text().splitlines()]


def events(stage_dir: Path) -> list[str]:
    return [line.split(" | ")[1] for line in (stage_dir / "training_events.log").read_text().splitlines()]


def test_a_model_with_several_chat_templates_keeps_them_all(
    configure: Configure, model_dir: Path, tmp_path: Path, stage_dir: Path
) -> None:
    from transformers import AutoTokenizer

    shutil.copytree(model_dir, tmp_path / "named")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "named")
    tokenizer.chat_template = {"default": tokenizer.chat_template, "tool_use": tokenizer.chat_template + "{# tools #}"}
    tokenizer.save_pretrained(tmp_path / "named")
    run("sft", configure("sft", model_name=str(tmp_path / "named")), stage_dir)
    assert AutoTokenizer.from_pretrained(stage_dir).chat_template == tokenizer.chat_template


@pytest.mark.parametrize("kind", KINDS)
def test_a_stage_leaves_a_checkpoint_that_loads_and_a_record(kind: str, configure: Configure, stage_dir: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

    config = configure(kind, logging_steps=2)
    assert run(kind, config, stage_dir) == stage_dir
    auto = AutoModelForSequenceClassification if kind == "reward" else AutoModelForCausalLM
    model = auto.from_pretrained(stage_dir)
    tokenizer = AutoTokenizer.from_pretrained(stage_dir)
    assert model.config.pad_token_id == tokenizer.pad_token_id != tokenizer.eos_token_id
    assert model.config.use_cache is True
    assert tokenizer.chat_template == AutoTokenizer.from_pretrained(str(config.model_name)).chat_template
    assert weights_sha256(stage_dir) != weights_sha256(Path(str(config.model_name)))
    assert {file.name for file in stage_dir.rglob("*.bin")} == set()  # no pickle, in the checkpoint neither
    assert [line["step"] for line in metrics(stage_dir)] == [2, 3]
    assert events(stage_dir) == ["TRAIN_START", "CHECKPOINT", "TRAIN_END"]
    info = json.loads((stage_dir / "stage_info.json").read_text())
    assert info["steps"] == 3
    assert info["tokens"] == metrics(stage_dir)[-1]["num_tokens"] > 0
    assert info["peak_memory_bytes"] > 0
    trainer = info["config"]["trainer"]
    assert (trainer["max_steps"], trainer["per_device_train_batch_size"]) == (3, 4)
    assert trainer.get("assistant_only_loss", True) is True  # what SFT decides by the template
    rows = len(Path(config.dataset_name).read_text().splitlines())
    assert info["data"]["train_rows"] + info["data"]["eval_rows"] + info["data"]["dropped"] == rows


@pytest.mark.parametrize("kind", KINDS)
def test_same_seed_same_weights_bit_for_bit(kind: str, configure: Configure, tmp_path: Path) -> None:
    config = configure(kind, max_steps=2, trainer_args={"save_strategy": "no"})
    hashes = [weights_sha256(run(kind, config, tmp_path / name)) for name in ("one", "two")]
    assert hashes[0] == hashes[1]
    other = configure(kind, max_steps=2, seed=7, trainer_args={"save_strategy": "no"})
    assert weights_sha256(run(kind, other, tmp_path / "three")) != hashes[0]


@pytest.mark.parametrize("kind", KINDS)
def test_resumed_weights_are_those_of_the_uninterrupted_run(kind: str, configure: Configure, tmp_path: Path) -> None:
    config = configure(kind, max_steps=4, save_steps=2)
    whole, resumed = run(kind, config, tmp_path / "whole"), tmp_path / "resumed"
    resumed.mkdir()
    shutil.copytree(whole / "checkpoint-2", resumed / "checkpoint-2")
    (resumed / "checkpoint-3").mkdir()  # not sealed, so not written to its end
    # killed between checkpoint-2 and its line, and then again after step 3
    (resumed / "training_metrics.jsonl").write_text('{"step": 1}\n{"step": 3}\n')
    run(kind, config, resumed)
    assert weights_sha256(resumed) == weights_sha256(whole)
    assert [line["step"] for line in metrics(resumed)] == [1, 2, 3, 4]
    step_2, uninterrupted = (metrics(stage_dir)[1] | {"timestamp": None} for stage_dir in (resumed, whole))
    assert step_2 == uninterrupted
    assert metrics(resumed)[-1]["num_tokens"] == metrics(whole)[-1]["num_tokens"]
    assert events(resumed) == ["CHECKPOINT", "RESUME", "TRAIN_START", "CHECKPOINT", "TRAIN_END"]  # its log was left out


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_logged_after_a_resume_is_of_all_steps_since_the_last_log(
    kind: str, configure: Configure, tmp_path: Path
) -> None:
    config = configure(kind, max_steps=4, save_steps=1, save_total_limit=4, logging_steps=3)
    whole, resumed = run(kind, config, tmp_path / "whole"), tmp_path / "resumed"
    resumed.mkdir()
    shutil.copytree(whole / "checkpoint-2", resumed / "checkpoint-2")
    run(kind, config, resumed)
    logged = [
        [{name: row[name] for name in row if name not in ("timestamp", "step_time")} for row in metrics(stage_dir)]
        for stage_dir in (resumed, whole)
    ]
    assert logged[0] == logged[1]
    assert [row["step"] for row in logged[0]][-2:] == [3, 4]


@pytest.mark.parametrize("kind", KINDS)
def test_a_damaged_checkpoint_is_told_kept_aside_and_the_one_before_it_taken(
    kind: str, configure: Configure, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = configure(kind, max_steps=4, save_steps=1, save_total_limit=2)
    whole = run(kind, config, tmp_path / "whole")
    stopped = tmp_path / "stopped"
    shutil.copytree(whole, stopped)
    assert sorted(path.name for path in stopped.glob("checkpoint-*")) == ["checkpoint-3", "checkpoint-4"]
    (stopped / "checkpoint-4/optimizer.pt").write_bytes(b"half")
    capsys.readouterr()
    run(kind, config, stopped)
    said = " ".join(capsys.readouterr().out.split())
    assert "checkpoint-4 is damaged, and kept as damaged-checkpoint-4: optimizer.pt has 4 bytes of" in said
    assert "going on from checkpoint-3" in said
    assert weights_sha256(stopped) == weights_sha256(whole)
    assert sorted(path.name for path in stopped.glob("*checkpoint-*")) == [
        "checkpoint-3", "checkpoint-4", "damaged-checkpoint-4"
    ]  # fmt: skip


def test_a_stage_killed_before_its_first_checkpoint_holds_each_step_once(configure: Configure, stage_dir: Path) -> None:
    (stage_dir / "training_metrics.jsonl").write_text('{"step": 1}\n{"step": 2}\n')
    run("sft", configure("sft"), stage_dir)
    assert [line["step"] for line in metrics(stage_dir)] == [1, 2, 3]
    assert "loss" in metrics(stage_dir)[0]


def test_evaluation_before_training_is_logged_once_however_often_a_stage_is_resumed(
    configure: Configure, tmp_path: Path
) -> None:
    config = configure("sft", max_steps=4, save_steps=2, trainer_args={"eval_on_start": True})
    whole, resumed, anew = run("sft", config, tmp_path / "whole"), tmp_path / "resumed", tmp_path / "anew"
    logged = (whole / "training_metrics.jsonl").read_text()
    assert [line["step"] for line in metrics(whole) if "eval_loss" in line] == [0]
    for stage_dir in (resumed, anew):
        stage_dir.mkdir()
        (stage_dir / "training_metrics.jsonl").write_text(logged)
    shutil.copytree(whole / "checkpoint-2", resumed / "checkpoint-2")
    for stage_dir in (resumed, anew):
        run("sft", config, stage_dir)
        assert [line["step"] for line in metrics(stage_dir)] == [0, 1, 2, 3, 4]
        assert [line["step"] for line in metrics(stage_dir) if "eval_loss" in line] == [0]
    assert weights_sha256(resumed) == weights_sha256(whole)


def test_tensorboard_shows_each_step_once_though_a_killed_attempt_went_beyond_its_checkpoint(
    configure: Configure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tensorboard.backend.event_processing import event_accumulator, plugin_event_accumulator

    config = configure("sft", max_steps=4, save_steps=2, trainer_args={"eval_on_start": True})
    anew, resumed = tmp_path / "anew", tmp_path / "resumed"
    for stage_dir in (anew, resumed):  # a kill before the first checkpoint, and one after it
        monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", str(stage_dir / "logs"))
        run("sft", config, stage_dir)
    shutil.rmtree(anew / "checkpoint-2")
    for stage_dir in (anew, resumed):
        shutil.rmtree(stage_dir / "checkpoint-4")
        monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", str(stage_dir / "logs"))
        run("sft", config, stage_dir)
        assert len(list((stage_dir / "logs").glob("events.*"))) == 2
        shown = plugin_event_accumulator.EventAccumulator(str(stage_dir / "logs")).Reload()  # TensorBoard's own
        read = event_accumulator.EventAccumulator(str(stage_dir / "logs")).Reload()
        for tag, steps in (("train/loss", [1, 2, 3, 4]), ("eval/loss", [0])):
            assert [event.step for event in shown.Tensors(tag)] == steps
            assert [event.step for event in read.Scalars(tag)] == steps


def test_a_stage_killed_after_its_last_checkpoint_takes_no_more_steps(configure: Configure, tmp_path: Path) -> None:
    # The model has an EOS of its own; the stage's is that of the template.
    config = configure("sft", max_steps=3, trainer_args={"model_init_kwargs": {"eos_token_id": 0}})
    whole, resumed = run("sft", config, tmp_path / "whole"), tmp_path / "resumed"
    resumed.mkdir()
    shutil.copytree(whole / "checkpoint-3", resumed / "checkpoint-3")
    shutil.copy(whole / "training_events.log", resumed)
    run("sft", config, resumed)
    assert weights_sha256(resumed) == weights_sha256(whole)
    assert events(resumed) == ["TRAIN_START", "CHECKPOINT", "TRAIN_END", "RESUME"]
    for name in ("config.json", "generation_config.json"):
        assert (resumed / name).read_text() == (whole / name).read_text()
    assert json.loads((resumed / "stage_info.json").read_text())["steps"] == 3


@pytest.mark.shared
def test_a_trained_model_without_a_template_goes_through_all_stages(
    configure: Configure, tmp_path: Path, shared: Path
) -> None:
    sft = run("sft", configure("sft", model_name=str(shared / "fixtures/models/stories260K")), tmp_path / "sft")
    reward = run("reward", configure("reward", model_name=str(sft)), tmp_path / "reward")
    dpo = run("dpo", configure("dpo", model_name=str(sft)), tmp_path / "dpo")
    mixed = GRPOExtraConfig(reward_func=[lengths, str(reward)], max_completion_length=8)
    grpo = run("grpo", configure("grpo", model_name=str(dpo)), tmp_path / "grpo", mixed)
    templates = {(stage / "chat_template.jinja").read_text() for stage in (sft, reward, dpo, grpo)}
    assert len(templates) == 1
    assert len({weights_sha256(stage) for stage in (sft, dpo, grpo)}) == 3


def test_dpo_loss_is_log_2_when_policy_equals_reference(configure: Configure, stage_dir: Path) -> None:
    run("dpo", configure("dpo", max_steps=1), stage_dir)
    assert metrics(stage_dir)[0]["loss"] == pytest.approx(math.log(2), abs=1e-6)


@pytest.mark.parametrize("kind", ["dpo", "grpo"])
def test_the_reference_is_loaded_as_the_policy_was_and_nobody_is_told_otherwise(
    kind: str,
    configure: Configure,
    stage_dir: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from algorithms import training
    from utils.quiet import quiet_libraries

    trainers: list[Any] = []

    def collect(trainer: Any, *_: Any) -> Path:
        trainers.append(trainer)
        return stage_dir

    monkeypatch.setattr(training, "fit", collect)
    loading = {"model_init_kwargs": {"attention_dropout": 0.25}}
    with quiet_libraries(None):
        run(kind, configure(kind, beta=0.1, attn_implementation="eager", trainer_args=loading), stage_dir)
    (trainer,) = trainers
    for model in (trainer.model, trainer.ref_model):
        assert model.config.attention_dropout == 0.25
        assert model.config._attn_implementation == "eager"
    states = (trainer.model.state_dict(), trainer.ref_model.state_dict())
    assert all(weight.equal(states[1][name]) for name, weight in states[0].items())
    assert "will be ignored" not in capsys.readouterr().out


def test_dpo_with_the_reference_computed_ahead_holds_none_and_learns_the_same(
    configure: Configure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from algorithms import training

    trainers: list[Any] = []
    fit = training.fit

    def watched(trainer: Any, *rest: Any) -> Path:
        trainers.append(trainer)
        return fit(trainer, *rest)

    monkeypatch.setattr(training, "fit", watched)
    run("dpo", configure("dpo"), tmp_path / "beside")
    run("dpo", configure("dpo", trainer_args={"precompute_ref_log_probs": True}), tmp_path / "ahead")
    assert trainers[0].ref_model is not None
    assert trainers[1].ref_model is None
    losses = [[line["loss"] for line in metrics(tmp_path / name)] for name in ("beside", "ahead")]
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)


def test_dpo_accepts_several_losses_with_weights(configure: Configure, stage_dir: Path) -> None:
    mixed = {"loss_type": ["sigmoid", "sft"], "loss_weights": [1.0, 0.5]}
    run("dpo", configure("dpo", max_steps=1, trainer_args=mixed), stage_dir)
    assert metrics(stage_dir)[0]["loss"] > math.log(2) + 0.5


def test_sft_lowers_the_loss_and_reward_learns_to_prefer(configure: Configure, tmp_path: Path) -> None:
    run("sft", configure("sft", max_steps=25, learning_rate=1e-2), tmp_path / "sft")
    logged = metrics(tmp_path / "sft")
    assert logged[-1]["loss"] < 0.7 * logged[0]["loss"]
    run("reward", configure("reward", max_steps=15, learning_rate=1e-2), tmp_path / "reward")
    assert metrics(tmp_path / "reward")[-1]["accuracy"] == 1.0


def test_grpo_mixes_functions_built_ins_and_a_reward_model(configure: Configure, tmp_path: Path) -> None:
    reward = run("reward", configure("reward"), tmp_path / "reward")
    extra = GRPOExtraConfig(
        reward_func=[lengths, "exact_match", str(reward)], reward_weights=[0.5, 1, 2], max_completion_length=6
    )
    run("grpo", configure("grpo", max_steps=1), tmp_path / "grpo", extra)
    (line,) = metrics(tmp_path / "grpo")
    parts = {name: line[f"rewards/{name}/mean"] for name in ("lengths", "exact_match", "reward")}
    assert parts["reward"] != 0
    assert line["reward"] == pytest.approx(
        0.5 * parts["lengths"] + parts["exact_match"] + 2 * parts["reward"], rel=1e-5
    )


def test_a_reward_models_scores_do_not_depend_on_padding(configure: Configure, stage_dir: Path) -> None:
    import torch

    from algorithms import rewards

    model, tokenizer = rewards.load(str(run("reward", configure("reward"), stage_dir)))
    texts = ["<|im_start|>user\nsay red<|im_end|>\n", "red", "up down left right one two three"]
    padded = model(**tokenizer(texts, padding=True, return_tensors="pt")).logits[:, 0]
    alone = torch.cat([model(**tokenizer(text, return_tensors="pt")).logits[:, 0] for text in texts])
    torch.testing.assert_close(padded, alone, rtol=0, atol=1e-6)
    assert len(set(alone.tolist())) == 3


def test_a_reward_models_new_head_depends_on_the_seed_alone(
    configure: Configure, capfd: pytest.CaptureFixture[str]
) -> None:
    import torch

    from algorithms import loading

    heads = []
    for seed in (1, 1, 2):
        torch.rand(3)
        heads.append(loading.reward_model(configure("reward", seed=seed), pad_token_id=0).score.weight)
    assert torch.equal(heads[0], heads[1])
    assert not torch.equal(heads[0], heads[2])
    assert "MISSING" not in "".join(capfd.readouterr())


def test_grpo_with_beta_measures_the_distance_from_its_input(configure: Configure, stage_dir: Path) -> None:
    run("grpo", configure("grpo", per_device_train_batch_size=8, beta=0.1, learning_rate=3e-2), stage_dir)
    logged = metrics(stage_dir)
    assert logged[0]["kl"] == pytest.approx(0, abs=1e-7)
    assert logged[-1]["kl"] > 1e-4


def test_grpo_without_any_difference_in_reward_fails_and_says_where_to_look(
    configure: Configure, stage_dir: Path
) -> None:
    def constant(completions: list[Any], **_: Any) -> list[float]:
        return [0.5] * len(completions)

    extra = GRPOExtraConfig(reward_func=constant, max_completion_length=4, preflight_prompts=0)
    with pytest.raises(
        StageFailed, match=r"never varied within a group: mean reward 0.5.*max_completion_length"
    ) as failed:
        run("grpo", configure("grpo"), stage_dir, extra)
    assert "temperature" in str(failed.value)


def test_grpo_without_any_reward_fails_and_says_so(configure: Configure, stage_dir: Path) -> None:
    def undecided(completions: list[Any], **_: Any) -> list[None]:
        return [None] * len(completions)

    extra = GRPOExtraConfig(reward_func=undecided, max_completion_length=4, preflight_prompts=0)
    with pytest.raises(StageFailed, match=r"no completion got a reward: every reward function returned None"):
        run("grpo", configure("grpo"), stage_dir, extra)


def test_a_stage_keeps_what_was_recorded_of_its_configuration(configure: Configure, stage_dir: Path) -> None:
    (stage_dir / "stage_info.json").write_text('{"config": {"model_name": "mine"}}')
    run("sft", configure("sft", max_steps=1), stage_dir)
    config = json.loads((stage_dir / "stage_info.json").read_text())["config"]
    assert config["model_name"] == "mine"
    assert config["trainer"]["max_steps"] == 1


def test_a_classifier_whose_head_has_another_name_is_no_reward_model(
    model_dir: Path, configure: Configure, tmp_path: Path
) -> None:
    shutil.copytree(model_dir, tmp_path / "other")
    config = json.loads((tmp_path / "other" / "config.json").read_text())
    (tmp_path / "other" / "config.json").write_text(json.dumps(config | {"id2label": {"0": "score"}}))
    with pytest.raises(Refused, match=r"cannot be a reward model here: it lacks score.weight, which would be random\."):
        run("grpo", configure("grpo"), tmp_path / "grpo", GRPOExtraConfig(reward_func=str(tmp_path / "other")))


def test_a_tokenizer_that_transformers_makes_up_is_none(configure: Configure, tmp_path: Path) -> None:
    from transformers import Qwen3Config

    Qwen3Config(vocab_size=64, hidden_size=32, num_hidden_layers=1, num_attention_heads=2).save_pretrained(tmp_path)
    with pytest.raises(Refused, match=r"has no tokenizer: save tokenizer\.json beside its weights"):
        run("sft", configure("sft", model_name=str(tmp_path)), tmp_path / "stage")


@pytest.mark.parametrize("kind", KINDS)
def test_a_directory_without_a_tokenizer_is_refused(
    kind: str, model_dir: Path, configure: Configure, tmp_path: Path
) -> None:
    shutil.copytree(model_dir, tmp_path / "bare", ignore=shutil.ignore_patterns("tokenizer*"))
    with pytest.raises(Refused, match=r"bare has no tokenizer that transformers can load \(.*tokenizer.json"):
        run(kind, configure(kind, model_name=str(tmp_path / "bare")), tmp_path / "stage")


@pytest.mark.parametrize("kind", ["sft", "reward"])
def test_a_model_of_an_unknown_type_is_refused(
    kind: str, model_dir: Path, configure: Configure, tmp_path: Path
) -> None:
    shutil.copytree(model_dir, tmp_path / "odd")
    (tmp_path / "odd" / "config.json").write_text('{"model_type": "nonesuch"}')
    with pytest.raises(Refused, match=r"odd cannot be loaded by transformers: .*nonesuch"):
        run(kind, configure(kind, model_name=str(tmp_path / "odd")), tmp_path / "stage")


@pytest.mark.shared
@pytest.mark.parametrize("kind", ["sft", "dpo"])
def test_rows_with_tools_are_refused_under_a_template_that_drops_them(
    kind: str, configure: Configure, stage_dir: Path, shared: Path
) -> None:
    layout = {"sft": "language_modeling", "dpo": "preference"}[kind]
    calls = shared / f"fixtures/data/sft/trl_toolcall/{layout}_train.jsonl"
    smollm2 = shared / "fixtures/tokenizers/smollm2"  # holds no model: it is refused before one is loaded
    with pytest.raises(Refused, match=r"row 1 has tools.*Qwen2\.5's"):
        run(kind, configure(kind, model_name=str(smollm2), dataset_name=str(calls), eval_fraction=0.3), stage_dir)


def test_grpo_refuses_a_reward_whose_column_the_data_lacks(configure: Configure, stage_dir: Path) -> None:
    with pytest.raises(Refused, match="accuracy_reward needs solution; the data has prompt, answer"):
        run("grpo", configure("grpo"), stage_dir, GRPOExtraConfig())


def test_a_language_model_is_no_reward_model(configure: Configure, stage_dir: Path, base_dir: Path) -> None:
    with pytest.raises(Refused, match="no chat template"):
        run("grpo", configure("grpo"), stage_dir, GRPOExtraConfig(reward_func=str(base_dir)))


def test_unchanged_weights_fail_the_stage(configure: Configure, stage_dir: Path) -> None:
    with pytest.raises(StageFailed, match="changed fewer than 1 %"):  # so small that float32 rounds it away
        run("sft", configure("sft", learning_rate=1e-30, weight_decay=0.0), stage_dir)


def test_a_loss_that_is_not_a_number_fails_the_stage_at_once(configure: Configure, stage_dir: Path) -> None:
    with pytest.raises(StageFailed, match="step 2: the gradient is nan"):
        run("sft", configure("sft", learning_rate=1e38, optim="sgd", max_steps=50), stage_dir)
    assert metrics(stage_dir)[-1]["step"] < 10
    assert "TRAIN_END" not in events(stage_dir)


def test_fewer_prompts_than_one_batch_needs_fail_the_stage(configure: Configure, stage_dir: Path) -> None:
    with pytest.raises(StageFailed, match="no step was taken: 3 rows do not fill one batch"):
        run("grpo", configure("grpo", max_samples=3, per_device_train_batch_size=16), stage_dir)


def test_a_checkpoint_without_some_weights_fails_the_stage(
    model_dir: Path, configure: Configure, tmp_path: Path
) -> None:
    from safetensors.torch import load_file, save_file

    broken = tmp_path / "broken"
    shutil.copytree(model_dir, broken)
    weights = load_file(broken / "model.safetensors")
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, broken / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(StageFailed, match=r"lacks 1 of the weights.*model.layers.1.mlp.up_proj.weight"):
        run("sft", configure("sft", model_name=str(broken)), tmp_path / "stage")


def test_trl_evaluates_while_training_if_asked_and_each_step_is_one_line(configure: Configure, stage_dir: Path) -> None:
    run("sft", configure("sft", trainer_args={"eval_strategy": "steps", "eval_steps": 2}), stage_dir)
    logged = metrics(stage_dir)
    assert [line["step"] for line in logged] == [1, 2, 3]
    assert "eval_loss" not in logged[0]
    assert {"loss", "eval_loss"} <= logged[1].keys()


def test_a_tracker_directory_and_progress_reach_the_user(
    configure: Configure, stage_dir: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", str(stage_dir / "logs"))
    run("sft", configure("sft"), stage_dir)
    out, _ = capfd.readouterr()
    assert "stage: 3/3 · loss" in out
    assert "accuracy" in out
    assert "'loss':" not in out  # transformers' own printing
    assert list((stage_dir / "logs").glob("events.*"))
