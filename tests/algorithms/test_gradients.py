"""A row that breaks the gradient: the stage stops before the weights do, names the row, or leaves the step out."""

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from algorithms import TrainingConfig
from tests.algorithms.test_stages import metrics, run
from utils.errors import StageFailed
from utils.files import weights_sha256

Configure = Callable[..., TrainingConfig]
BROKEN_ROW = 17


@pytest.fixture
def broken(data_files: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Pairs with margins, of which one is not a number, as Parquet can hold it: so is the loss of its step.

    Such a margin is refused with the data; what is tested is what happens if something passes those checks.
    """
    from datasets import Dataset

    monkeypatch.setattr("data.converters._number", lambda row, column: row[column])

    rows = [json.loads(line) for line in data_files["pairs"].read_text().splitlines()]
    margins = [math.nan if number == BROKEN_ROW else 0.5 for number in range(len(rows))]
    for row, margin in zip(rows, margins, strict=True):
        row["margin"] = margin
    Dataset.from_list(rows).to_parquet(tmp_path / "pairs.parquet")
    return {"dataset_name": str(tmp_path / "pairs.parquet"), "max_steps": 20, "eval_samples": 4, "save_steps": 5}


def alarms(stage_dir: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((stage_dir / "stage_info.json").read_text())["alarms"]
    return found


def test_the_step_is_not_made_and_its_rows_are_named(
    broken: dict[str, Any], configure: Configure, stage_dir: Path
) -> None:
    with pytest.raises(StageFailed, match=r"(?s)the gradient is nan\. The step's rows: .*max_skipped_steps"):
        run("reward", configure("reward", **broken), stage_dir)
    (alarm,) = alarms(stage_dir)
    assert alarm["name"] == "gradient"
    assert len(alarm["rows"]) == 4
    assert BROKEN_ROW in alarm["rows"]
    logged = metrics(stage_dir) if alarm["step"] > 1 else []  # else there is nothing to log yet
    assert all(line["step"] < alarm["step"] for line in logged)


def test_the_rows_that_are_named_are_those_of_the_step(
    broken: dict[str, Any], configure: Configure, stage_dir: Path, data_files: dict[str, Path]
) -> None:
    """One row a step, in the second epoch: the one that is named is the one that was broken."""
    ask = json.loads(data_files["pairs"].read_text().splitlines()[BROKEN_ROW])["prompt"][0]["content"]
    alone = {**broken, "per_device_train_batch_size": 1, "max_steps": 200, "save_steps": 500}
    with pytest.raises(StageFailed, match=ask):
        run("reward", configure("reward", **alone, max_skipped_steps=1), stage_dir)
    first, second = alarms(stage_dir)
    assert first["rows"] == second["rows"]
    assert len(first["rows"]) == 1
    assert second["step"] > 90  # of the next epoch


def test_a_step_is_left_out_where_the_recipe_allows_it_and_a_resumed_stage_counts_it(
    broken: dict[str, Any], configure: Configure, tmp_path: Path
) -> None:
    config = configure("reward", **broken, max_skipped_steps=1)
    whole, resumed = run("reward", config, tmp_path / "whole"), tmp_path / "resumed"
    (alarm,) = alarms(whole)
    assert alarm["name"] == "skipped_step"
    assert alarm["message"].startswith("left out: the gradient is nan")
    shutil.copytree(whole, resumed)
    checkpoints = sorted(resumed.glob("checkpoint-*"), key=lambda path: int(path.name[11:]))
    for checkpoint in checkpoints[1:]:
        shutil.rmtree(checkpoint)
    run("reward", config, resumed)
    assert weights_sha256(resumed) == weights_sha256(whole)
    assert [one["step"] for one in alarms(resumed)] == [alarm["step"]]


def test_one_more_than_is_allowed_fails_the_stage(
    broken: dict[str, Any], configure: Configure, stage_dir: Path
) -> None:
    twice = {**broken, "max_steps": 60, "save_steps": 500}  # the row comes again in the next epoch
    with pytest.raises(StageFailed, match="the gradient is nan"):
        run("reward", configure("reward", **twice, max_skipped_steps=1), stage_dir)
    assert [one["name"] for one in alarms(stage_dir)] == ["skipped_step", "gradient"]


def test_a_step_that_is_left_out_is_in_no_mean_of_the_loss(
    broken: dict[str, Any], configure: Configure, tmp_path: Path
) -> None:
    """Without learning, the mean of the steps that were made is that of their losses, logged one by one."""
    fields = {**broken, "learning_rate": 1e-12, "max_skipped_steps": 1, "dtype": "float32"}
    losses: dict[int, dict[int, float]] = {}
    for every in (1, 5):
        with pytest.raises(StageFailed, match="training changed fewer"):
            run("reward", configure("reward", **fields, logging_steps=every), tmp_path / str(every))
        losses[every] = {line["step"]: line["loss"] for line in metrics(tmp_path / str(every)) if "loss" in line}
    (alarm,) = alarms(tmp_path / "5")
    assert sorted({*range(1, 21)} - losses[1].keys()) == [alarm["step"]]
    for step, mean in losses[5].items():
        made = [losses[1][one] for one in range(step - 4, step + 1) if one != alarm["step"]]
        assert mean == pytest.approx(sum(made) / len(made), rel=1e-3)
