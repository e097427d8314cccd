"""How rows are put into batches changes neither the loss nor the step."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from algorithms import TrainingConfig
from tests.train_stage import train

Configure = Callable[..., TrainingConfig]


def first_step(config: TrainingConfig, directory: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Train one step; return what was logged, and the weights."""
    from safetensors.torch import load_file

    directory.mkdir()
    train("sft", config, directory)
    logged = json.loads((directory / "training_metrics.jsonl").read_text())
    return logged, load_file(directory / "model.safetensors")


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_packed_loss_equals_unpacked_loss(attention: str, configure: Configure, tmp_path: Path) -> None:
    same: dict[str, Any] = {"max_steps": 1, "max_samples": 6, "optim": "sgd", "learning_rate": 0.1}
    same["attn_implementation"] = attention
    packed, packed_weights = first_step(configure("sft", packing=True, max_length=256, **same), tmp_path / "packed")
    plain, weights = first_step(configure("sft", per_device_train_batch_size=6, **same), tmp_path / "plain")
    assert packed["num_tokens"] == plain["num_tokens"]
    assert packed["loss"] == pytest.approx(plain["loss"], rel=1e-5)
    assert all((packed_weights[name] - weights[name]).abs().max() < 1e-6 for name in weights)


def test_eight_rows_at_once_equal_eight_one_by_one(configure: Configure, tmp_path: Path) -> None:
    same: dict[str, Any] = {"max_steps": 1, "max_samples": 8, "optim": "sgd", "learning_rate": 0.1}
    at_once = configure("sft", per_device_train_batch_size=8, **same)
    singly = configure("sft", per_device_train_batch_size=1, gradient_accumulation_steps=8, **same)
    one, one_weights = first_step(at_once, tmp_path / "one")
    other, other_weights = first_step(singly, tmp_path / "other")
    assert one["loss"] == pytest.approx(other["loss"], rel=1e-5)
    assert all((one_weights[name] - other_weights[name]).abs().max() < 1e-6 for name in one_weights)
