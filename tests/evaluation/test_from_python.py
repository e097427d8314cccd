"""A run's figures and curves, as Python gets them."""

from pathlib import Path

import pytest

from evaluation import curves, figures
from records.run_directory import RunInfo
from records.stage_log import StageLog

LOSS = {"task": "demonstrations", "metric": "loss", "n": 12, "before": 3.0, "after": 1.0, "ci95": [-2.5, -1.5]}
STOPS = {"task": "answers", "metric": "stop_rate", "n": 4, "before": 0.0, "after": None, "ci95": None}


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    """A run of one SFT stage, of which two lines were logged, one of them without a loss."""
    log = StageLog(tmp_path / "answers")
    (tmp_path / "answers").mkdir()
    stages = [{"name": "first", "kind": "sft", "output_dir": "answers", "status": "passed"}]
    RunInfo(tmp_path).set(status="passed", stages=stages, configs={})
    log.open(name="first", kind="sft", status="passed", evaluation=[LOSS, STOPS])
    log.metrics(1, 0.1, {"loss": 2.0, "grad_norm": float("nan")})
    log.metrics(2, 0.2, {"loss": 1.5, "grad_norm": 0.5})
    return tmp_path


def test_figures_are_rows_with_the_verdict_of_the_table(run_dir: Path) -> None:
    loss, stops = figures(run_dir)
    shown = {"stage": "first", "measure": "demonstration loss", "n": 12, "before": 3.0, "after": 1.0}
    assert loss == shown | {"low": -2.5, "high": -1.5, "verdict": "better"}
    assert (stops["measure"], stops["after"], stops["low"], stops["verdict"]) == ("stop rate", None, None, "")


def test_curves_are_points_of_what_was_logged_and_is_a_number(run_dir: Path) -> None:
    found = curves(run_dir, "first")
    assert found["loss"] == [(1, 2.0), (2, 1.5)]
    assert found["grad_norm"] == [(2, 0.5)]
    assert "timestamp" not in found
    with pytest.raises(KeyError, match="second"):
        curves(run_dir, "second")
