"""What a command takes is told only where it answers; a plan's minutes are found beside those of a run."""

import json
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest

from benchmarks import first_minutes


def test_a_command_that_fails_is_not_timed(tmp_path: Path) -> None:
    assert first_minutes.seconds(["-c", "raise SystemExit(2)"], tmp_path) > 0
    with pytest.raises(SystemExit, match="ended with 1"):
        first_minutes.seconds(["-c", "raise SystemExit(1)"], tmp_path)


def test_the_plan_stands_beside_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tiny-sft").mkdir()
    (tmp_path / "tiny-sft/stage_info.json").write_text(json.dumps({"name": "sft", "duration_s": 28.1}))
    said = "Disk: 1\nTime of the passes, about: pretrain 2 min 08 s, sft 20.1 s, together 3 min; optimizer besides\n"
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: SimpleNamespace(stdout=said))
    assert first_minutes.planned(tmp_path) == [["sft", "28.1 s", "20.1 s"]]


@pytest.mark.slow
def test_the_first_step_is_waited_for_and_the_run_is_ended(tmp_path: Path) -> None:
    options = [
        "--test",
        "--stages",
        "pretrain",
        "--set",
        "pretrain.max_samples=300",
        "--set",
        "pretrain.logging_steps=1",
    ]
    taken = first_minutes.first_step(tmp_path, options)
    assert 1 < taken < first_minutes.LONGEST_S
    (metrics,) = (tmp_path / "runs").glob("*/*/training_metrics.jsonl")
    assert json.loads(metrics.read_text().splitlines()[0])["step"] == 1
    assert (tmp_path / "cache").is_dir()


def test_a_run_that_is_refused_has_no_first_step(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="logged no step"):
        first_minutes.first_step(tmp_path, ["--tset"])
