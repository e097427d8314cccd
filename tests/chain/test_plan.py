"""What a plan counts, worked by hand."""

import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from algorithms import GRPOExtraConfig, StageOutput, TrainingConfig
from chain import disk
from chain.disk import MODEL_BYTES, Disk, of_run, of_stage, steps_of
from chain.forecast import Models
from chain.plan import _download_bytes, _parameters
from chain.recipe import load
from evaluation.answers import Answers
from evaluation.task import HeldOut
from kinds import Stage, named
from records.stage_log import StageLog
from utils.errors import Refused


def test_plan_of_grpo_counts_whole_groups() -> None:
    config = TrainingConfig(
        model_name="m", output_dir="o", dataset_name="d", per_device_train_batch_size=8, gradient_accumulation_steps=2,
        num_train_epochs=1,
    )  # fmt: skip
    # 16 completions a step are 4 prompts of 4; 103 prompts give 25 whole batches of prompts, one step each
    assert steps_of(Stage("grpo", named("grpo"), config, GRPOExtraConfig(num_generations=4)), 103) == 25


@pytest.mark.parametrize(("processes", "steps"), [(1, 13), (2, 7)])
def test_a_step_has_the_rows_of_every_process(processes: int, steps: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disk, "count", lambda: processes)
    config = TrainingConfig(
        model_name="m", output_dir="o", dataset_name="d", per_device_train_batch_size=4, gradient_accumulation_steps=2,
        num_train_epochs=1,
    )  # fmt: skip
    assert (
        steps_of(Stage("sft", named("sft"), config), 101) == steps
    )  # 101 rows are 26 batches of 4, 13 for each of two processes


def test_disk_is_the_output_the_checkpoints_that_are_kept_and_one_more_and_what_is_logged() -> None:
    config = TrainingConfig(
        model_name="m", output_dir="o", dataset_name="d", save_steps=5, save_total_limit=2, logging_steps=6,
        trainer_args={"eval_strategy": "no"},
    )  # fmt: skip
    sft = Stage("sft", named("sft"), config)
    # 17 weights of 4 bytes are 68; AdamW's two states 136; steps 5, 10, 15 and 18 save, and 3 lie there at once;
    # steps 6, 12 and 18 are logged, one before the first and one after the last
    checkpoint = 68 + 136 + MODEL_BYTES + disk.STATES_BYTES + 5 * disk.LINE_IN_STATE_BYTES
    output = 68 + MODEL_BYTES + disk.RECORDS_BYTES + 5 * disk.LINE_BYTES
    assert of_stage(sft, 18, 17) == Disk(output + 2 * checkpoint, checkpoint)
    assert of_stage(sft, 18, 17, measured=1000) == Disk(output + 1000 + 2 * checkpoint, checkpoint)
    kept, more = of_stage(sft, 6, 17) or (0, 0)
    assert more == 0  # steps 5 and 6: none takes the place of another
    assert kept < output + 2 * checkpoint


def test_the_disk_of_a_run_has_one_checkpoint_too_many_at_a_time() -> None:
    assert of_run([Disk(100, 10), Disk(200, 30), Disk(50, 0)]) == 350 + 30
    assert of_run([]) == 0


def test_the_best_checkpoint_of_pretraining_is_kept_beside_the_newest() -> None:
    config = replace(load("scratch_tiny").configs["pretrain"], save_total_limit=1, save_steps=10, eval_steps=10)
    pretrain = Stage("pretrain", named("pretrain"), config)
    kept, more = of_stage(pretrain, 100, 1_000_000) or (0, 0)
    assert 4 * 10**6 + 2 * 12 * 10**6 < kept < 30 * 10**6 < kept + more
    kept, more = of_stage(pretrain, 10, 1_000_000) or (0, 0)
    assert (kept < 5 * 10**6, more) == (True, 0)  # of its last step it saves no checkpoint


def test_answers_are_counted_as_long_as_they_may_be() -> None:
    rows = [{"prompt": "What is 2 + 3?", "answer": "5"}] * 10
    few, many = (Answers(HeldOut(rows), tokens).most_bytes(rows) for tokens in (8, 80))
    assert many - few == 10 * 2 * 72 * (14 + 6)  # of input and output a token and its id, and in the samples its text
    assert Answers(HeldOut(rows), 8).most_bytes(rows[:5]) == few / 2


def test_weights_are_counted_of_the_stage_of_this_run_before_those_of_an_earlier_one(tmp_path: Path) -> None:
    dpo = Stage("dpo", named("dpo"), TrainingConfig(model_name=StageOutput("sft"), output_dir="o", dataset_name="d"))
    assert _parameters(dpo, {"sft": 17}, {"sft": tmp_path}, offline=True) == 17
    assert _parameters(dpo, {}, {}, offline=True) is None  # that stage is refused itself


def test_a_download_is_counted_once(monkeypatch: pytest.MonkeyPatch) -> None:
    described = SimpleNamespace(safetensors=SimpleNamespace(total=17, parameters={"BF16": 12, "F32": 5}))
    monkeypatch.setattr("utils.hub.model_on_hub", lambda *_: described)
    stage = Stage(
        "sft", named("sft"), TrainingConfig(model_name="no/such-model", output_dir="o", dataset_name="made:prompts")
    )
    seen: set[tuple[str, str | None]] = set()
    assert [_download_bytes(stage, seen), _download_bytes(stage, seen)] == [12 * 2 + 5 * 4, 0]


def test_a_run_that_would_fill_the_disk_is_refused_before_it_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("utils.hub.local_model", lambda *_: None)
    sizes = load("qwen2.5_0.5b").sizes
    monkeypatch.setattr(disk, "Models", lambda stages, outputs: Models(stages, outputs, sizes))
    config = TrainingConfig(
        model_name="Qwen/Qwen2.5-0.5B", output_dir="o", dataset_name="d", save_steps=1, save_total_limit=None,
        per_device_train_batch_size=1, max_length=64,
    )  # fmt: skip
    stage = Stage("sft", named("sft"), config)
    each = 494_032_768 * (4 + 8)  # a checkpoint: weights, and AdamW's states
    with pytest.raises(Refused, match=r"writes up to [\d.]+ GiB.*GiB free: make room.*save_total_limit"):
        disk.refuse_little([stage], {}, {"sft": 10 * shutil.disk_usage(tmp_path).free // each}, tmp_path / "run", {})
    disk.refuse_little([stage], {}, {}, tmp_path / "run", {})  # of how many steps is not known
    assert not list(tmp_path.iterdir())


def test_what_a_resumed_run_has_written_is_not_counted_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pretrain = Stage("pretrain", named("pretrain"), load("scratch_tiny").configs["pretrain"])
    models = Models([pretrain], {})
    needed = of_stage(pretrain, pretrain.config.max_steps, models.of(pretrain).shapes.parameters, models)
    assert needed is not None
    need = sum(needed)
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=need - 1000))
    with pytest.raises(Refused, match="make room"):
        disk.refuse_little([pretrain], {}, {}, tmp_path, {})
    stage_dir = tmp_path / pretrain.config.output_dir
    stage_dir.mkdir()
    (stage_dir / "checkpoint").write_bytes(bytes(1000))
    disk.refuse_little([pretrain], {}, {}, tmp_path, {})
    (stage_dir / "checkpoint").unlink()
    with pytest.raises(Refused, match="make room"):
        disk.refuse_little([pretrain], {}, {}, tmp_path, {})
    StageLog(stage_dir).open(status="passed")  # which writes no more
    disk.refuse_little([pretrain], {}, {}, tmp_path, {})
