"""A row that breaks the gradient: the stage stops before the weights do, names the row, or leaves the step out."""

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from algorithms import GRPOExtraConfig, TrainingConfig
from tests.algorithms.test_stages import metrics
from tests.algorithms.test_stages import run as run_stage
from utils.errors import StageFailed
from utils.files import weights_sha256

Configure = Callable[..., TrainingConfig]
BROKEN_ROW, BROKEN = 17, "say green down"


def lengths_but_one(prompts: list[Any], completions: list[Any], **_: Any) -> list[float]:
    """Return the lengths of the answers; to one prompt they are infinite, and so their advantages are no numbers."""
    asked, said = ([turns[-1]["content"] for turns in chats] for chats in (prompts, completions))
    return [math.inf if ask == BROKEN else float(len(text)) for ask, text in zip(asked, said, strict=True)]


@pytest.fixture
def broken(data_files: dict[str, Path]) -> dict[str, Any]:
    """The settings of a short GRPO stage, in whose rows the prompt is that breaks the gradient."""
    rows = [json.loads(line) for line in data_files["grpo"].read_text().splitlines()]
    assert [number for number, row in enumerate(rows) if row["prompt"][0]["content"] == BROKEN] == [BROKEN_ROW]
    return {"max_steps": 60, "eval_samples": 4, "save_steps": 20, "per_device_train_batch_size": 8}


def run(config: TrainingConfig, stage_dir: Path) -> Path:
    extra = GRPOExtraConfig(reward_func=lengths_but_one, num_generations=2, max_completion_length=4)
    return run_stage("grpo", config, stage_dir, extra)


def alarms(stage_dir: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((stage_dir / "stage_info.json").read_text())["alarms"]
    return found


def test_the_step_is_not_made_and_its_rows_are_named(
    broken: dict[str, Any], configure: Configure, stage_dir: Path
) -> None:
    with pytest.raises(StageFailed, match=r"(?s)the gradient is nan\. The step's rows: .*max_skipped_steps"):
        run(configure("grpo", **broken), stage_dir)
    (alarm,) = alarms(stage_dir)
    assert alarm["name"] == "gradient"
    assert len(alarm["rows"]) == 4
    assert BROKEN_ROW in alarm["rows"]
    logged = metrics(stage_dir) if alarm["step"] > 1 else []  # else there is nothing to log yet
    assert all(line["step"] < alarm["step"] for line in logged)


def test_the_rows_that_are_named_are_those_of_the_step(
    broken: dict[str, Any], configure: Configure, stage_dir: Path
) -> None:
    """One prompt a step, in the second epoch too: the one that is named is the one that broke the gradient."""
    alone = {**broken, "per_device_train_batch_size": 2, "max_steps": 200, "save_steps": 500}
    with pytest.raises(StageFailed, match=f"The step's rows: {BROKEN_ROW + 1} '{BROKEN}'"):
        run(configure("grpo", **alone, max_skipped_steps=1), stage_dir)
    first, second = alarms(stage_dir)
    assert first["rows"] == second["rows"] == [BROKEN_ROW]
    assert second["step"] > 90  # of the next epoch


def test_a_step_is_left_out_where_the_recipe_allows_it_and_a_resumed_stage_counts_it(
    broken: dict[str, Any], configure: Configure, tmp_path: Path
) -> None:
    config = configure("grpo", **{**broken, "max_steps": 24, "save_steps": 5}, max_skipped_steps=1)
    whole, resumed = run(config, tmp_path / "whole"), tmp_path / "resumed"
    (alarm,) = alarms(whole)
    assert alarm["name"] == "skipped_step"
    assert alarm["message"].startswith("left out: the gradient is nan")
    shutil.copytree(whole, resumed)
    checkpoints = sorted(resumed.glob("checkpoint-*"), key=lambda path: int(path.name[11:]))
    for checkpoint in checkpoints[1:]:
        shutil.rmtree(checkpoint)
    run(config, resumed)
    assert weights_sha256(resumed) == weights_sha256(whole)
    assert [one["step"] for one in alarms(resumed)] == [alarm["step"]]


def test_one_more_than_is_allowed_fails_the_stage(
    broken: dict[str, Any], configure: Configure, stage_dir: Path
) -> None:
    twice = {**broken, "max_steps": 60, "save_steps": 500}  # the row comes again in the next epoch
    with pytest.raises(StageFailed, match="the gradient is nan"):
        run(configure("grpo", **twice, max_skipped_steps=1), stage_dir)
    assert [one["name"] for one in alarms(stage_dir)] == ["skipped_step", "gradient"]
