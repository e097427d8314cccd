"""A run's figures and curves, as Python gets them."""

from pathlib import Path

import pytest

from evaluation import curves, figures
from records.run_directory import RunInfo
from records.stage_log import StageLog
from utils.errors import Refused

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
    shown = {"stage": "first", "measure": "demonstrations loss", "n": 12, "before": 3.0, "after": 1.0}
    assert loss == shown | {"low": -2.5, "high": -1.5, "verdict": "better"}
    assert (stops["measure"], stops["after"], stops["low"], stops["verdict"]) == ("answers stop_rate", None, None, "")


def test_curves_are_points_of_what_was_logged_and_is_a_number(run_dir: Path) -> None:
    found = curves(run_dir, "first")
    assert found["loss"] == [(1, 2.0), (2, 1.5)]
    assert found["grad_norm"] == [(2, 0.5)]
    assert "timestamp" not in found


def test_a_run_or_a_stage_that_is_not_there_is_refused(run_dir: Path) -> None:
    with pytest.raises(Refused, match=r"has no stage 'frist', did you mean 'first'\? It has: first$"):
        curves(run_dir, "frist")
    (run_dir / "empty").mkdir()
    for wrong in (run_dir / "typo", run_dir / "answers", str(run_dir / "empty")):
        with pytest.raises(Refused, match="is no run's directory: give the one that run_pipeline returned"):
            figures(wrong)
        with pytest.raises(Refused, match=f"{wrong} is no run's directory"):
            curves(wrong, "first")
