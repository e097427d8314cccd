"""What a plan counts, worked by hand."""

from types import SimpleNamespace

import pytest

from algorithms import GRPOExtraConfig, TrainingConfig
from chain import plan
from chain.plan import _disk_bytes, _download_bytes, _steps
from chain.stages import Stage


def test_plan_of_grpo_counts_whole_groups() -> None:
    config = TrainingConfig(
        model_name="m", output_dir="o", dataset_name="d", per_device_train_batch_size=8, gradient_accumulation_steps=2,
        num_train_epochs=1,
    )  # fmt: skip
    # 16 completions a step are 4 prompts of 4; 103 prompts give 25 whole batches of prompts, one step each
    assert _steps(Stage("grpo", config, GRPOExtraConfig(num_generations=4)), 103) == 25


@pytest.mark.parametrize(("processes", "steps"), [(1, 13), (2, 7)])
def test_a_step_has_the_rows_of_every_process(processes: int, steps: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan, "count", lambda: processes)
    config = TrainingConfig(
        model_name="m", output_dir="o", dataset_name="d", per_device_train_batch_size=4, gradient_accumulation_steps=2,
        num_train_epochs=1,
    )  # fmt: skip
    assert _steps(Stage("sft", config), 101) == steps  # 101 rows are 26 batches of 4, 13 for each of two processes


def test_disk_is_the_output_and_one_checkpoint_more_than_are_kept() -> None:
    config = TrainingConfig(model_name="m", output_dir="o", dataset_name="d", save_steps=5, save_total_limit=2)
    # 17 weights of 4 bytes are 68; AdamW's two states 136; steps 5, 10, 15 and 18 save, and 3 lie there at once
    assert _disk_bytes(Stage("sft", config), 18, 17) == 68 + 3 * (68 + 136)
    assert _disk_bytes(Stage("sft", config), 6, 17) == 68 + 2 * (68 + 136)


def test_a_download_is_counted_once(monkeypatch: pytest.MonkeyPatch) -> None:
    described = SimpleNamespace(safetensors=SimpleNamespace(total=17, parameters={"BF16": 12, "F32": 5}))
    monkeypatch.setattr("utils.hub.model_on_hub", lambda *_: described)
    stage = Stage("sft", TrainingConfig(model_name="no/such-model", output_dir="o", dataset_name="made:prompts"))
    seen: set[tuple[str, str | None]] = set()
    assert [_download_bytes(stage, seen), _download_bytes(stage, seen)] == [12 * 2 + 5 * 4, 0]
