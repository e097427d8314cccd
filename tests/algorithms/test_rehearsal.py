"""What stages refuse only when they begin is refused before a run starts, and what they take is not."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from algorithms import TrainingConfig
from chain import recipe
from chain.fetch import fetch
from chain.stages import stages_of
from pipeline import run_pipeline
from utils.errors import Refused, StageFailed

DEMO = recipe.load("scratch_tiny")


def start(label: str = "", changed: dict[str, Any] | None = None, **args: Any) -> None:
    """Check the demo as a run does, one of its stages changed."""
    configs = dict(DEMO.configs)
    if label:
        config = configs[label]
        kept = {name: value for name, value in config.trainer_args.items() if args.get(name, ...) is not None}
        given = {name: value for name, value in args.items() if value is not None}
        configs[label] = replace(config, trainer_args=kept | given, **changed or {})
    fetch(stages_of(configs, DEMO.grpo_extra, verifier=DEMO.verifier), {})


def test_the_demo_is_taken_and_leaves_no_trace(capsys: pytest.CaptureFixture[str]) -> None:
    torch.manual_seed(7)
    before = torch.get_rng_state()
    start()
    assert torch.equal(torch.get_rng_state(), before)
    assert "tiny model" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("label", "args", "said"),
    [
        (
            "dpo",
            {"loss_type": "nope", "loss_weights": None},
            "Unknown loss type: nope.* Without loss_type",
        ),
        ("dpo", {"f_divergence_type": "nope"}, "Without f_divergence_type = 'nope' it does not"),
        ("dpo", {"loss_weights": [float("nan"), 1.0]}, "loss_weights = .nan, 1.0.: must be finite"),
        ("dpo", {"label_smoothing": 2.0}, "label_smoothing = 2.0: must be 0 or more and less than 0.5"),
        ("sft", {"adam_beta1": 1.5}, "Without adam_beta1 = 1.5 it does not"),
        ("sft", {"lr_scheduler_kwargs": {"foo": 1}}, "Without lr_scheduler_kwargs = {'foo': 1} it does not"),
        ("sft", {"eos_token": "<nope>"}, "Without eos_token = '<nope>' it does not"),
        ("sft", {"chat_template_path": "/nope.jinja"}, "Without chat_template_path = '/nope.jinja' it does not"),
        ("sft", {"label_smoothing_factor": 2.0}, "label_smoothing_factor = 2.0: must be 0 or more and less than 1"),
        ("sft", {"lr_scheduler_type": "warmup_stable_decay"}, "missing 1 required positional argument"),
        ("reward", {"optim_args": "foo"}, "Without optim_args = 'foo' it does not"),
        ("grpo", {"loss_type": "nope"}, "Unknown loss type: nope"),
        ("grpo", {"generation_kwargs": {"temprature": 1.0}}, "'temprature' is no option .* did you mean 'temperature'"),
    ],
)
def test_what_a_stage_would_fail_with_is_refused_before_it(label: str, args: dict[str, Any], said: str) -> None:
    with pytest.raises(Refused, match=said) as refusal:
        start(label, **args)
    assert f"- {label}: " in str(refusal.value)


@pytest.mark.parametrize(
    ("label", "args"),
    [
        ("sft", {"lr_scheduler_type": "cosine_with_min_lr", "lr_scheduler_kwargs": {"min_lr_rate": 0.1}}),
        ("sft", {"packing": True}),
        ("sft", {"optim": "adamw_torch_8bit"}),
        ("dpo", {"precompute_ref_log_probs": True, "loss_type": ["ipo"], "loss_weights": None}),
        ("reward", {"eval_strategy": "steps", "eval_steps": 5, "load_best_model_at_end": True}),
        ("grpo", {"num_iterations": 2, "mask_truncated_completions": True, "loss_type": "grpo"}),
    ],
)
def test_what_a_stage_takes_is_taken(label: str, args: dict[str, Any]) -> None:
    start(label, **args)


def test_a_reward_is_asked_before_the_run() -> None:
    def broken(completions: list[Any], **_: Any) -> list[float]:
        return [one["score"] for one in completions]

    extra = replace(DEMO.grpo_extra, reward_func=broken, reward_weights=None)
    with pytest.raises(Refused, match=r"fails: TypeError: .*\(test_rehearsal.py, line \d+\)"):
        fetch(stages_of(DEMO.configs, extra, verifier=DEMO.verifier), {})


def test_an_architecture_that_cannot_be_made_small_is_said(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from pretrain.stage import PRETRAIN

    tokenizer, config = PRETRAIN.stand_in(DEMO.configs["pretrain"])
    config.rope_parameters = {"rope_type": "none of those that there are"}
    monkeypatch.setattr(type(PRETRAIN), "stand_in", lambda *_: (tokenizer, config))
    start()
    assert "sft: its first step is not tried ahead, since a qwen3 cannot be made small" in capsys.readouterr().out


def test_rows_sorted_by_their_label_are_tried_with_both() -> None:
    from datasets import Dataset

    from algorithms.rehearsal import _few
    from data.sources import StageData

    rows = Dataset.from_dict({"prompt": [str(n) for n in range(1000)], "label": [n < 700 for n in range(1000)]})
    assert set(_few(StageData(rows, rows, {}), labelled=True).train["label"]) == {True, False}
    classes = Dataset.from_dict({"prompt": ["a", "b"], "label": ["red", "blue"]})
    assert len(_few(StageData(classes, classes, {}), labelled=False).train) == 2


@pytest.mark.parametrize(
    "changed",
    [
        {"peft": "lora", "peft_args": {"target_modules": ["q_proj"], "layers_to_transform": [2, 3]}},
        {"peft": "lora", "peft_args": {"target_modules": r"model\.layers\.[23]\.self_attn\.q_proj"}},
    ],
)
def test_numbers_of_layers_are_no_fault(changed: dict[str, Any]) -> None:
    start("sft", changed)


def test_a_reward_may_read_objects(tmp_path: Path) -> None:
    def tested(completions: list[Any], tests: list[Any], **_: Any) -> list[float]:
        return [float(len(one)) + n for n, one in enumerate(tests)]

    rows = [{"prompt": f"Say {n}", "tests": [{"input": "1", "output": "2"}], "label": "easy"} for n in range(200)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    configs = dict(DEMO.configs) | {"grpo": replace(DEMO.configs["grpo"], dataset_name=str(tmp_path / "rows.jsonl"))}
    extra = replace(DEMO.grpo_extra, reward_func=tested, reward_weights=None)
    fetch(stages_of(configs, extra, verifier=DEMO.verifier), {})


@pytest.mark.parametrize("label", ["sft", "reward", "dpo", "grpo"])
def test_adapters_are_tried_as_they_are_trained(label: str) -> None:
    start(label, {"peft": "lora"})


def test_a_kind_that_starts_from_nothing_need_have_no_stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    from kinds import Kind
    from pretrain.stage import PRETRAIN

    monkeypatch.setattr(type(PRETRAIN), "stand_in", Kind.stand_in)
    start("dpo", loss_type="nope", loss_weights=None)


def test_a_stage_may_be_started_all_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    nope = replace(DEMO.configs["dpo"], trainer_args={"loss_type": "nope"})
    stages = stages_of(dict(DEMO.configs) | {"dpo": nope}, DEMO.grpo_extra, verifier=DEMO.verifier)
    with pytest.raises(Refused, match=r"it does not\. If this is wrong, --force starts the run all the same"):
        fetch(stages, {})
    assert fetch(stages, {}, forced=["dpo"]).forced == ["dpo: its step with a tiny model, tried ahead, failed"]
    assert "dpo may start all the same: its first step, tried on" in capsys.readouterr().out


def test_a_stage_that_has_passed_is_not_tried_again() -> None:
    nope = replace(DEMO.configs["dpo"], trainer_args={"loss_type": "nope"})
    stages = stages_of({**DEMO.configs, "dpo": nope}, DEMO.grpo_extra, verifier=DEMO.verifier)
    with pytest.raises(Refused, match="Unknown loss type"):
        fetch(stages, {})
    fetch(stages, {}, passed=["dpo"])


def test_a_stage_that_was_started_all_the_same_is_on_the_record_and_goes_on_so(
    tmp_path: Path, data_files: dict[str, Path], model_dir: Path
) -> None:
    config = TrainingConfig(
        model_name=str(model_dir), output_dir="sft", dataset_name=str(data_files["conversations"]), max_steps=1,
        eval_samples=4, trainer_args={"lr_scheduler_kwargs": {"foo": 1}},
    )  # fmt: skip
    with pytest.raises(Refused, match="If this is wrong, --force"):
        run_pipeline({"sft": config}, runs_dir=tmp_path / "runs")
    with pytest.raises(StageFailed, match="foo"):
        run_pipeline({"sft": config}, runs_dir=tmp_path / "runs", force=True)
    (run,) = (tmp_path / "runs").iterdir()
    forced = ["sft: its step with a tiny model, tried ahead, failed"]
    assert json.loads((run / "run_info.json").read_text())["forced"] == forced
    with pytest.raises(StageFailed, match="foo"):
        run_pipeline({"sft": config}, runs_dir=tmp_path / "runs", resume="latest")
    assert json.loads((run / "run_info.json").read_text())["forced"] == forced
