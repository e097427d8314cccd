"""A memory budget chooses the micro-batch of a real run, which is recorded and leaves the recipe as it is."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from algorithms import TrainingConfig
from chain import forecast
from chain.forecast import Models
from kinds import Stage, named
from pipeline import Refused, run_pipeline

Configure = Callable[..., TrainingConfig]


@pytest.mark.slow
def test_a_run_within_a_budget_takes_smaller_passes_and_records_the_forecast(
    configure: Configure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    config = configure("sft", max_length=4096, per_device_train_batch_size=8)
    models = Models([Stage("sft", named("sft"), config)], {})
    stages = list(forecast.micro_batches(Stage("sft", named("sft"), config)))
    peaks = [forecast.forecast(stage, models).peak_bytes for stage in stages]
    run = run_pipeline({"sft": config}, memory_budget=peaks[1])
    info = json.loads((run / "sft/stage_info.json").read_text())
    assert (info["forecast"]["peak_bytes"], info["forecast"]["budget_bytes"]) == (peaks[1], peaks[1])
    trainer = info["config"]["trainer"]
    assert (trainer["per_device_train_batch_size"], trainer["gradient_accumulation_steps"]) == (4, 2)
    assert (info["config"]["per_device_train_batch_size"], info["peak_memory_bytes"] > 0) == (8, True)
    recorded = json.loads((run / "run_info.json").read_text())["configs"]["sft"]
    assert (recorded["per_device_train_batch_size"], recorded["gradient_accumulation_steps"]) == (8, None)
    assert "sft: 4 × 2 instead of 8 × 1" in (run / "console_output.log").read_text().replace("\n", " ")
    with pytest.raises(Refused, match="sft does not fit in"):
        run_pipeline({"sft": config}, memory_budget=peaks[-1] - 1)
    assert [path.name for path in run.parent.iterdir()] == [run.name]
