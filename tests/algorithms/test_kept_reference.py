"""What DPO's reference says of the same rows is computed once, and gives the same training."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from trl import DPOTrainer

from algorithms import TrainingConfig
from tests.train_stage import train
from utils.files import weights_sha256

Configure = Callable[..., TrainingConfig]


@pytest.fixture
def computed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """The names of the row sets that a reference reads, with a cache of the test's own."""
    monkeypatch.setenv("SIXGIG_CACHE", str(tmp_path / "cache"))
    ahead = DPOTrainer._precompute_ref_logps
    names: list[str] = []

    def counted(trainer: Any, dataset: Any, name: str, batch_size: int) -> Any:
        names.append(name)
        return ahead(trainer, dataset, name, batch_size)

    monkeypatch.setattr(DPOTrainer, "_precompute_ref_logps", counted)
    return names


def run(config: TrainingConfig, directory: Path) -> Path:
    directory.mkdir()
    return train("dpo", config, directory)


def metrics(directory: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (directory / "training_metrics.jsonl").read_text().splitlines()]


def test_a_second_stage_does_not_compute_it_again(configure: Configure, computed: list[str], tmp_path: Path) -> None:
    config = configure("dpo", trainer_args={"precompute_ref_log_probs": True}, eval_fraction=0.2)
    first = run(config, tmp_path / "first")
    assert len(computed) >= 1
    times = len(computed)
    second = run(config, tmp_path / "second")
    assert len(computed) == times
    assert weights_sha256(first) == weights_sha256(second)
    beside = run(configure("dpo", eval_fraction=0.2), tmp_path / "beside")
    assert metrics(first) == pytest.approx(metrics(beside), rel=1e-4)


def test_other_rows_another_model_and_other_batches_are_computed(
    configure: Configure, computed: list[str], tmp_path: Path, base_dir: Path
) -> None:
    options = {"precompute_ref_log_probs": True}
    run(configure("dpo", trainer_args=options), tmp_path / "first")
    done = len(computed)
    others: list[dict[str, Any]] = [
        {"trainer_args": options, "max_samples": 20},
        {"trainer_args": options | {"ld_alpha": 0.5}},
        {"trainer_args": options, "attn_implementation": "eager"},
        {"trainer_args": options | {"precompute_ref_batch_size": 2}},
        {"trainer_args": options, "max_length": 60},
        {"trainer_args": options, "model_name": str(tmp_path / "first")},
    ]
    for place, other in enumerate(others, 1):
        run(configure("dpo", **other), tmp_path / str(place))
        assert len(computed) == done + place, other


def test_trl_reads_these_columns() -> None:
    import inspect

    from trl.trainer import dpo_trainer

    source = inspect.getsource(dpo_trainer)
    for text in ('"ref_chosen_logps"', '"ref_rejected_logps"', "self._precompute_model_hash", "hash_module("):
        assert text in source
    for column in ("prompt_ids", "chosen_ids", "rejected_ids"):
        assert f'"{column}"' in source
