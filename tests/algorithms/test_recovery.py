"""Memory runs out in a stage's step: the training goes on in smaller micro-batches, and is the same training."""

import functools
import gc
import json
import shutil
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from algorithms import GRPOExtraConfig, TrainingConfig, loading, overrides, training
from algorithms.grpo import GRPO
from algorithms.sft import SFT
from batching.slots import Slots
from kinds import MicroBatch, named
from tests.train_stage import KINDS, train
from utils.errors import StageFailed
from utils.files import weights_sha256

Configure = Callable[..., TrainingConfig]


def lengths(completions: list[Any], **_: Any) -> list[float]:
    """A reward that differs between most completions."""
    return [float(len(completion[0]["content"])) for completion in completions]


EXTRA = GRPOExtraConfig(reward_func=lengths, num_generations=4, max_completion_length=6)


class Forwards:
    """The rows of each forward pass that trains, of every model that a stage loads; it can run out of memory."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.rows: list[list[tuple[int, ...]]] = []
        self.fail_at: set[int] = set()
        """Numbers of the passes, from 0, that run out of memory instead."""
        self.most_rows = 10**9
        """A pass of more rows runs out of memory."""
        self.models: list[weakref.ref[Any]] = []
        self.trainers: list[weakref.ref[Any]] = []
        for name in ("language_model", "reward_model"):
            monkeypatch.setattr(loading, name, self._watched(getattr(loading, name)))
        fit = training.fit

        def watched_fit(trainer: Any, *rest: Any) -> Path:
            self.trainers.append(weakref.ref(trainer))
            return fit(trainer, *rest)

        monkeypatch.setattr(training, "fit", watched_fit)

    def _watched(self, load: Callable[..., Any]) -> Callable[..., Any]:
        def loaded(*given: Any) -> Any:
            assert [one() for one in self.trainers] == [None] * len(self.trainers)  # of attempts that are over
            model = load(*given)
            model.get_input_embeddings().register_forward_pre_hook(self._embed)
            self.models.append(weakref.ref(model))
            return model

        return loaded

    def _embed(self, module: Any, given: tuple[Any, ...]) -> None:
        import torch

        if not torch.is_grad_enabled():
            return  # GRPO samples, DPO computes reference log-probabilities
        (input_ids,) = given
        number = len(self.rows)
        self.rows.append([tuple(id_ for id_ in row if id_ != 0) for row in input_ids.tolist()])  # 0 is the pad
        if number in self.fail_at or len(input_ids) > self.most_rows:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")


@pytest.fixture
def forwards(monkeypatch: pytest.MonkeyPatch) -> Forwards:
    return Forwards(monkeypatch)


def run(kind: str, config: TrainingConfig, stage_dir: Path, extra: GRPOExtraConfig = EXTRA) -> Path:
    gc.collect()  # of a run before, whose trainer is a cycle of references
    stage_dir.mkdir(exist_ok=True)
    return train(kind, config, stage_dir, extra)


def info(stage_dir: Path) -> dict[str, Any]:
    return dict(json.loads((stage_dir / "stage_info.json").read_text()))


def events(stage_dir: Path) -> list[str]:
    return [line.split(" | ")[1] for line in (stage_dir / "training_events.log").read_text().splitlines()]


def weights(stage_dir: Path) -> dict[str, Any]:
    from safetensors.torch import load_file

    return load_file(stage_dir / "model.safetensors")


def per_step(passes: list[list[tuple[int, ...]]], passes_per_step: int) -> list[list[tuple[int, ...]]]:
    """Return the rows of each optimizer step, in an order of their own: DPO has its pairs side by side in a pass."""
    steps = range(0, len(passes), passes_per_step)
    return [sorted(row for one in passes[start : start + passes_per_step] for row in one) for start in steps]


@pytest.mark.parametrize("kind", KINDS)
def test_out_of_memory_is_survived_and_the_training_is_the_same(
    kind: str, configure: Configure, tmp_path: Path, forwards: Forwards, capsys: pytest.CaptureFixture[str]
) -> None:
    import torch

    # 88 training rows are 11 steps of 8 an epoch: steps 9 to 12 go into the second, whose rows are shuffled anew.
    config = configure(kind, max_steps=12, save_steps=9, per_device_train_batch_size=8, learning_rate=1e-4)
    whole = run(kind, config, tmp_path / "whole")
    rows, forwards.rows = forwards.rows, []
    forwards.fail_at = {10}  # in the eleventh step
    survived = run(kind, config, tmp_path / "survived")

    assert per_step(forwards.rows[:10], 1) == per_step(rows[:10], 1)
    assert per_step(forwards.rows[11:], 2) == per_step(rows[9:], 1)  # again from checkpoint-9, in passes of 4
    for name, weight in weights(whole).items():
        torch.testing.assert_close(weights(survived)[name], weight, rtol=1e-4, atol=1e-6)
    assert info(survived)["out_of_memory"] == [
        {"step": 11, "per_device_train_batch_size": [8, 4], "gradient_accumulation_steps": [1, 2]}
    ]
    assert info(survived)["config"]["trainer"]["per_device_train_batch_size"] == 4
    assert [event for event in events(survived) if event != "ALARM"] == [  # all of GRPO's answers are cut off here
        "TRAIN_START", "CHECKPOINT", "OUT_OF_MEMORY", "RESUME", "TRAIN_START", "CHECKPOINT", "TRAIN_END",
    ]  # fmt: skip
    said = " ".join(capsys.readouterr().out.split())
    assert said.count("out of memory in step 11: going back to the last checkpoint") == 1
    gc.collect()
    assert len(forwards.models) == len(forwards.trainers) == 3  # of two runs, one with a failed attempt
    assert [one() for one in (*forwards.models, *forwards.trainers)] == [None] * 6


@pytest.mark.parametrize("kind", ["sft", "grpo"])
def test_without_a_checkpoint_it_starts_again_and_halves_until_a_pass_fits(
    kind: str, configure: Configure, tmp_path: Path, forwards: Forwards
) -> None:
    import torch

    config = configure(kind, per_device_train_batch_size=8, trainer_args={"save_strategy": "no"})
    whole = run(kind, config, tmp_path / "whole")
    rows, forwards.rows, forwards.most_rows = forwards.rows, [], 2
    survived = run(kind, config, tmp_path / "survived")
    assert per_step(forwards.rows[2:], 4) == per_step(rows, 1)
    for name, weight in weights(whole).items():
        torch.testing.assert_close(weights(survived)[name], weight, rtol=1e-3, atol=1e-5)
    changes = [change["per_device_train_batch_size"] for change in info(survived)["out_of_memory"]]
    assert changes == [[8, 4], [4, 2]]


def test_a_stage_that_one_row_does_not_fit_fails_with_what_would(
    configure: Configure, stage_dir: Path, forwards: Forwards
) -> None:
    forwards.most_rows = 0
    config = configure("sft", per_device_train_batch_size=3, max_length=64)
    with pytest.raises(StageFailed, match=r"out of memory in step 1, with one row at a time") as failed:
        run("sft", config, stage_dir)
    for way in ("max_length (it is 64)", "gradient_checkpointing=True", "8-bit optimizer", "LoRA", "Tried to allocate"):
        assert way in str(failed.value)
    assert [change["per_device_train_batch_size"] for change in info(stage_dir)["out_of_memory"]] == [[3, 1]]


def test_a_stage_resumed_later_keeps_the_smaller_micro_batch(
    configure: Configure, tmp_path: Path, forwards: Forwards
) -> None:
    config = configure("dpo", max_steps=4, save_steps=2, per_device_train_batch_size=8)
    forwards.fail_at = {0}
    whole = run("dpo", config, tmp_path / "stage")
    for path in (*whole.glob("checkpoint-4"), whole / "model.safetensors"):
        path.rename(tmp_path / path.name)  # as after a kill
    forwards.rows, forwards.fail_at = [], set()
    run("dpo", config, whole)
    assert [len(one) for one in forwards.rows] == [2 * 4] * 4  # chosen and rejected, in two passes a step
    assert weights_sha256(whole) == weights_sha256(tmp_path)


def test_an_error_of_another_kind_is_raised_as_it_is(
    configure: Configure, stage_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> Any:
        raise RuntimeError("shapes do not match")

    monkeypatch.setattr(loading, "language_model", broken)
    with pytest.raises(RuntimeError, match="shapes do not match"):
        run("sft", configure("sft"), stage_dir)
    assert not (stage_dir / "stage_info.json").exists()


def test_grpo_samples_as_many_completions_at_once_as_before() -> None:
    def halved(**trainer_args: int) -> dict[str, Any]:
        config = TrainingConfig(
            model_name="m", output_dir="o", dataset_name="d", per_device_train_batch_size=8,
            gradient_accumulation_steps=2, trainer_args=trainer_args,
        )  # fmt: skip
        smaller = GRPO.micro_batch(config).smaller()
        assert smaller is not None
        made = GRPO.with_micro_batch(config, smaller)
        assert (made.per_device_train_batch_size, made.gradient_accumulation_steps) == (4, 4)
        return dict(made.trainer_args)

    assert halved() == {}  # TRL's: one generation a step, of all its 16 completions
    assert halved(steps_per_generation=4) == {"steps_per_generation": 8}
    assert halved(generation_batch_size=32) == {"generation_batch_size": 32}


def test_passes_without_gradients_take_no_more_rows_than_those_that_train() -> None:
    def halved(kind: str, extra: GRPOExtraConfig | None = None, **trainer_args: int) -> TrainingConfig:
        config = TrainingConfig(
            model_name="m", output_dir="o", dataset_name="d", per_device_train_batch_size=8, trainer_args=trainer_args
        )
        batch = named(kind).micro_batch(config)
        assert named(kind).with_micro_batch(config, batch, extra).trainer_args == trainer_args  # the recipe's own stays
        smaller = batch.smaller()
        assert smaller is not None
        made: TrainingConfig = named(kind).with_micro_batch(config, smaller, extra)
        return made

    ahead = halved("dpo", per_device_eval_batch_size=16, precompute_ref_batch_size=32).trainer_args
    assert ahead == {"per_device_eval_batch_size": 4, "precompute_ref_batch_size": 4}
    few = halved("dpo", per_device_eval_batch_size=2, precompute_ref_batch_size=1).trainer_args
    assert few == {"per_device_eval_batch_size": 2, "precompute_ref_batch_size": 1}
    groups = GRPOExtraConfig(num_generations=8)
    assert halved("grpo", groups, per_device_eval_batch_size=16).trainer_args == {"per_device_eval_batch_size": 8}


def test_a_micro_batch_given_in_trainer_args_becomes_smaller_too() -> None:
    given = {"per_device_train_batch_size": 8, "gradient_accumulation_steps": 2}
    config = TrainingConfig(model_name="m", output_dir="o", dataset_name="d", trainer_args=given)
    smaller = SFT.micro_batch(config).smaller()
    assert smaller is not None
    assert SFT.micro_batch(SFT.with_micro_batch(config, smaller)) == MicroBatch(4, 4)


def test_memory_that_runs_out_in_the_reference_pass_halves_its_rows(
    configure: Configure, stage_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch
    from trl import DPOTrainer

    ahead, sizes = DPOTrainer._precompute_ref_logps, []

    def limited(trainer: Any, dataset: Any, name: str, batch_size: int) -> Any:
        sizes.append(batch_size)
        if batch_size > 2:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")
        return ahead(trainer, dataset, name, batch_size)

    monkeypatch.setattr(DPOTrainer, "_precompute_ref_logps", limited)
    options = {"precompute_ref_log_probs": True, "precompute_ref_batch_size": 8}
    run("dpo", configure("dpo", max_steps=1, per_device_train_batch_size=4, trainer_args=options), stage_dir)
    assert sizes == [8, 2]


def test_one_row_at_a_time_is_told_what_takes_more_rows() -> None:
    def advised(rows: int) -> str:
        config = TrainingConfig(
            model_name="m", output_dir="o", dataset_name="d", per_device_train_batch_size=rows,
            trainer_args={"precompute_ref_batch_size": 8},
        )  # fmt: skip
        return named("dpo").advice(config)

    assert "a smaller precompute_ref_batch_size (it is 8)" in advised(1)
    assert "precompute_ref_batch_size" not in advised(2)  # with two rows it came down to one, and memory ran out again


def test_what_the_recipe_leaves_open_is_trls_default() -> None:
    config = TrainingConfig(model_name="m", output_dir="o", dataset_name="d")
    for kind in map(named, KINDS):
        assert kind.micro_batch(config) == MicroBatch(8, 1, 8 if kind.samples else 0)


@pytest.mark.parametrize("save_steps", [1, 3])
def test_grpos_checkpoints_wait_until_what_was_sampled_is_used_up(
    save_steps: int, configure: Configure, tmp_path: Path
) -> None:
    """A generation of 16 completions serves 2 steps of 8, and each is used twice: a checkpoint lies after 4 steps."""
    options = {"steps_per_generation": 2, "num_iterations": 2}
    config = configure("grpo", max_steps=10, save_steps=save_steps, per_device_train_batch_size=8, trainer_args=options)
    whole, resumed = run("grpo", config, tmp_path / "whole"), tmp_path / "resumed"
    saved = sorted(int(path.name.removeprefix("checkpoint-")) for path in whole.glob("checkpoint-*"))
    assert saved == [4, 8, 10]
    for step in (4, 8):
        shutil.copytree(whole / f"checkpoint-{step}", resumed / f"checkpoint-{step}")
        run("grpo", config, resumed)
        assert weights_sha256(resumed) == weights_sha256(whole)
        shutil.rmtree(resumed)


def test_grpo_samples_in_parts_where_a_whole_generation_does_not_fit(
    configure: Configure, stage_dir: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import torch
    from transformers import LlamaForCausalLM

    forward = LlamaForCausalLM.forward
    sizes: list[int] = []

    def limited(model: Any, *given: Any, **named: Any) -> Any:
        if isinstance(named.get("past_key_values"), Slots) and named["input_ids"].shape[1] == 1:
            sizes.append(len(named["input_ids"]))
            if sizes[-1] > 3:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")
        return forward(model, *given, **named)

    rewarded: list[int] = []

    def counted(completions: list[Any], **_: Any) -> list[float]:
        rewarded.append(len(completions))
        return lengths(completions)

    monkeypatch.setattr(LlamaForCausalLM, "forward", functools.wraps(forward)(limited))
    extra = GRPOExtraConfig(reward_func=counted, num_generations=4, max_completion_length=6, preflight_prompts=0)
    config = configure("grpo", max_steps=2, per_device_train_batch_size=8, gradient_checkpointing=True)
    run("grpo", config, stage_dir, extra)
    assert [size for size in sizes if size > 3] == [8, 4]  # found out in the first step, kept in the second
    assert rewarded == [8, 8]
    assert [change["completions_at_once"] for change in info(stage_dir)["out_of_memory"]] == [[8, 4], [4, 2]]
    assert info(stage_dir)["config"]["trainer"]["per_device_train_batch_size"] == 8
    assert "2 completions are sampled at once, not 4" in capsys.readouterr().out


@pytest.mark.parametrize(
    "asked", [{"cache_implementation": "static"}, {"generation_kwargs": {"no_repeat_ngram_size": 2}}]
)
def test_what_the_engine_does_not_know_is_sampled_by_trl_in_parts_too(
    asked: dict[str, Any], configure: Configure, stage_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch
    from transformers import LlamaForCausalLM

    generate = LlamaForCausalLM.generate
    sizes: list[int] = []
    checkpointing: set[bool] = set()

    def limited(model: Any, **given: Any) -> Any:
        sizes.append(len(given["input_ids"]))
        if sizes[-1] > 3:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")
        return generate(model, **given)

    def counted(completions: list[Any], **_: Any) -> list[float]:
        return lengths(completions)

    monkeypatch.setattr(LlamaForCausalLM, "generate", limited)
    extra = GRPOExtraConfig(reward_func=counted, num_generations=4, max_completion_length=6, preflight_prompts=0)
    config = configure(
        "grpo", max_steps=2, per_device_train_batch_size=8, gradient_checkpointing=True, trainer_args=asked
    )
    see = overrides.see_gradients

    def seen(trainer: Any, judge: Callable[[float], bool]) -> None:
        def judged(norm: float) -> bool:
            checkpointing.add(trainer.model.is_gradient_checkpointing)
            return judge(norm)

        see(trainer, judged)

    monkeypatch.setattr(overrides, "see_gradients", seen)
    run("grpo", config, stage_dir, extra)
    assert sizes == [8, 4, 2, 2, 2, 2, 2, 2, 2, 2]  # found out in the first step, kept in the second
    assert [change["completions_at_once"] for change in info(stage_dir)["out_of_memory"]] == [[8, 4], [4, 2]]
    assert checkpointing == {True}


def test_sampling_that_ran_out_of_memory_leaves_gradient_checkpointing_on(
    configure: Configure, stage_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch
    from transformers import LlamaModel

    forward = LlamaModel.forward
    failed: list[int] = []
    checkpointing: set[bool] = set()

    def watched(model: Any, *given: Any, **named: Any) -> Any:
        if torch.is_grad_enabled():
            checkpointing.add(model.is_gradient_checkpointing)
        elif isinstance(named.get("past_key_values"), Slots) and not failed and len(given[0]) > 2:
            failed.append(1)
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return forward(model, *given, **named)

    monkeypatch.setattr(LlamaModel, "forward", functools.wraps(forward)(watched))
    run("grpo", configure("grpo", max_steps=1, gradient_checkpointing=True), stage_dir)
    assert checkpointing == {True}
    assert failed
