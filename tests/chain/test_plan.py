"""What a plan counts, worked by hand."""

import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from algorithms import GRPOExtraConfig, StageOutput, TrainingConfig
from chain import disk
from chain.disk import bytes_of, steps_of
from chain.forecast import Models
from chain.plan import _download_bytes, _parameters
from chain.stages import Stage
from recipes import load
from records.stage_log import StageLog
from utils.errors import Refused


def test_plan_of_grpo_counts_whole_groups() -> None:
    config = TrainingConfig(
        model_name="m", output_dir="o", dataset_name="d", per_device_train_batch_size=8, gradient_accumulation_steps=2,
        num_train_epochs=1,
    )  # fmt: skip
    # 16 completions a step are 4 prompts of 4; 103 prompts give 25 whole batches of prompts, one step each
    assert steps_of(Stage("grpo", config, GRPOExtraConfig(num_generations=4)), 103) == 25


@pytest.mark.parametrize(("processes", "steps"), [(1, 13), (2, 7)])
def test_a_step_has_the_rows_of_every_process(processes: int, steps: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disk, "count", lambda: processes)
    config = TrainingConfig(
        model_name="m", output_dir="o", dataset_name="d", per_device_train_batch_size=4, gradient_accumulation_steps=2,
        num_train_epochs=1,
    )  # fmt: skip
    assert steps_of(Stage("sft", config), 101) == steps  # 101 rows are 26 batches of 4, 13 for each of two processes


def test_disk_is_the_output_and_one_checkpoint_more_than_are_kept() -> None:
    config = TrainingConfig(model_name="m", output_dir="o", dataset_name="d", save_steps=5, save_total_limit=2)
    # 17 weights of 4 bytes are 68; AdamW's two states 136; steps 5, 10, 15 and 18 save, and 3 lie there at once
    assert bytes_of(Stage("sft", config), 18, 17) == 68 + 3 * (68 + 136)
    assert bytes_of(Stage("sft", config), 6, 17) == 68 + 2 * (68 + 136)


def test_weights_are_counted_of_the_stage_of_this_run_before_those_of_an_earlier_one(tmp_path: Path) -> None:
    dpo = Stage("dpo", TrainingConfig(model_name=StageOutput("sft"), output_dir="o", dataset_name="d"))
    assert _parameters(dpo, {"sft": 17}, {"sft": tmp_path}, offline=True) == 17
    assert _parameters(dpo, {}, {}, offline=True) is None  # that stage is refused itself


def test_a_download_is_counted_once(monkeypatch: pytest.MonkeyPatch) -> None:
    described = SimpleNamespace(safetensors=SimpleNamespace(total=17, parameters={"BF16": 12, "F32": 5}))
    monkeypatch.setattr("utils.hub.model_on_hub", lambda *_: described)
    stage = Stage("sft", TrainingConfig(model_name="no/such-model", output_dir="o", dataset_name="made:prompts"))
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
    stage = Stage("sft", config)
    each = 494_032_768 * (4 + 8)  # a checkpoint: weights, and AdamW's states
    with pytest.raises(Refused, match=r"writes up to [\d.]+ GiB.*GiB free: make room.*save_total_limit"):
        disk.refuse_little([stage], {}, {"sft": 10 * shutil.disk_usage(tmp_path).free // each}, tmp_path / "run")
    disk.refuse_little([stage], {}, {}, tmp_path / "run")  # of how many steps is not known
    assert not list(tmp_path.iterdir())


def test_what_a_resumed_run_has_written_is_not_counted_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pretrain = Stage("pretrain", load("scratch_tiny").configs["pretrain"])
    need = bytes_of(pretrain, 1000, Models([pretrain], {}).of(pretrain).shapes.parameters)
    assert need is not None
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=need - 1000))
    with pytest.raises(Refused, match="make room"):
        disk.refuse_little([pretrain], {}, {}, tmp_path)
    stage_dir = tmp_path / pretrain.config.output_dir
    stage_dir.mkdir()
    (stage_dir / "checkpoint").write_bytes(bytes(1000))
    disk.refuse_little([pretrain], {}, {}, tmp_path)
    (stage_dir / "checkpoint").unlink()
    with pytest.raises(Refused, match="make room"):
        disk.refuse_little([pretrain], {}, {}, tmp_path)
    StageLog(stage_dir).open(status="passed")  # which writes no more
    disk.refuse_little([pretrain], {}, {}, tmp_path)
