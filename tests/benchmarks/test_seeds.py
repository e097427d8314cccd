"""The seeds' tables come from the files of runs, and a run that has ended is not made again."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks import seeds
from utils.run_directory import RunInfo
from utils.runtime import code
from utils.stage_log import StageLog

GATE = {"metric": "skills strict", "rule": "not_below_input", "value": 0.02}


def results(stage: str, dpo: float) -> list[dict[str, Any]]:
    """Return every figure that the table shows of a stage; DPO changes exact match from 0.8 by `dpo`."""
    empty: dict[str, Any] = {"n": 10, "before": None, "after": 0.5, "ci95": None}
    found = [empty | {"task": task, "metric": metric} for kind, task, metric in seeds.SHOWN if kind == stage]
    for one in found:
        if (stage, one["task"]) == ("dpo", "skills"):
            one |= {"before": 0.8, "after": 0.8 + dpo, "ci95": [dpo - 0.04, dpo + 0.04]}
    return found


def make_run(run_dir: Path, seed: int, dpo: float, *, status: str = "passed", **record: Any) -> None:
    """Write what a run leaves whose DPO changed exact match by `dpo`; where it failed, by a gate, nothing follows."""
    run_dir.mkdir(parents=True)
    names = ["pretrain", "sft", "reward", "dpo", "grpo"]
    ends = dict.fromkeys(names, "passed") | ({"dpo": "failed", "grpo": "pending"} if status == "failed" else {})
    RunInfo(run_dir).set(
        run_id=run_dir.name, recipe="scratch_tiny", seed=seed, status=status, from_run=None,
        values=[f"{name}.seed={seed}" for name in names], git_commit=f"commit{seed}", code=code(),
        started_at="2026-01-31T10:15:00+00:00", finished_at="2026-01-31T10:20:30+00:00",
        stages=[{"name": name, "output_dir": f"tiny-{name}", "status": how} for name, how in ends.items()],
    )  # fmt: skip
    RunInfo(run_dir).set(**record)
    for name, how in ends.items():
        if how != "pending":
            (run_dir / f"tiny-{name}").mkdir()
            log = StageLog(run_dir / f"tiny-{name}")
            gates = [GATE | {"failed": how == "failed"}] if name == "dpo" else []
            log.open(
                name=name, status=how, config={"output_dir": f"tiny-{name}"}, duration_s=60.0, steps=10, gates=gates,
                peak_memory_bytes=seed, evaluation=results(name, dpo),
            )  # fmt: skip
            if name == "dpo":
                log.alarm(3, "coin_flip", "pairs are ranked by a coin")


@pytest.fixture
def no_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    def started(command: list[str], **_: Any) -> None:
        raise AssertionError(f"started {command}")

    monkeypatch.setattr(subprocess, "run", started)


def tables(runs_dir: Path, monkeypatch: pytest.MonkeyPatch, asked: str, *more: str) -> list[dict[str, Any]]:
    out = runs_dir / "seeds.json"
    words = ["seeds.py", "--seeds", asked, "--runs-dir", str(runs_dir), "--out", str(out), "--no-control", *more]
    monkeypatch.setattr(sys, "argv", words)
    seeds.main()
    found: list[dict[str, Any]] = json.loads(out.read_text(encoding="utf-8"))
    return found


@pytest.mark.usefixtures("no_runs")
def test_the_tables_of_runs_that_have_ended_need_no_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two seeds, DPO +0.10 and +0.02: mean 0.06, standard error 0.04, Student's 12.706 for one degree of freedom.

    The intervals within the runs are 0.06 … 0.14 and −0.02 … 0.06.
    """
    make_run(tmp_path / "20260131_101500_aaaa", 1, 0.1)
    make_run(tmp_path / "20260131_101500_bbbb", 2, 0.02)
    found = tables(tmp_path, monkeypatch, "1,2")
    assert [one["stages"]["dpo"]["verdict"] for one in found] == ["better", "no evidence"]
    assert found[0]["stages"]["dpo"]["difference"] == pytest.approx(0.1)
    assert [one["wall_s"] for one in found] == [330.0, 330.0]
    out = capsys.readouterr().out
    dpo = "| exact match | 0.800 → 0.860 | +0.060 [-0.448, +0.568] | better 1 of 2, no evidence 1 of 2 | 2 of 2 | 2 |"
    assert f"| dpo {dpo}" in out
    assert "| dpo skills strict | 0.86 | 0.3518 … 1.368 | 0.82 | 0.9 |" in out
    assert "| reward | pairs ranked right | 0.500 | – | not compared 2 of 2 | – | 0 |" in out
    assert "The runs are of 2 commits: commit1, commit2" in out


@pytest.mark.usefixtures("no_runs")
def test_a_seed_whose_gate_failed_counts_as_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    make_run(tmp_path / "20260131_101500_aaaa", 1, 0.1)
    make_run(tmp_path / "20260131_101500_bbbb", 2, -0.1, status="failed")
    tables(tmp_path, monkeypatch, "1,2")
    out = capsys.readouterr().out
    assert "| better 1 of 2, failed 1 of 2 | 1 of 2 | 2 |" in out
    assert "| dpo | exact match | 0.800 → 0.800 | +0.000" in out  # of both, or the mean would leave out the bad one
    assert "| grpo seconds (1 of 2 seeds) | 60 |" in out


@pytest.mark.parametrize(
    "other",
    [
        {"status": "interrupted"},
        {"from_run": "20260130_101500_zzzz"},
        {"values": ["dpo.seed=1", "dpo.max_steps=3"]},
        {"recipe": "smollm2_135m"},
        {"code": {"data/splits.py": "another"}},
    ],
    ids=lambda other: str(*other),
)
def test_a_run_that_is_not_the_seed_s_is_not_taken_for_it(tmp_path: Path, other: dict[str, Any]) -> None:
    make_run(tmp_path / "20260131_101500_aaaa", 1, 0.1)
    assert seeds.ended(tmp_path, 1, [], None, any_code=False)
    assert seeds.ended(tmp_path, 2, [], None, any_code=False) is None
    RunInfo(tmp_path / "20260131_101500_aaaa").set(**other)
    assert seeds.ended(tmp_path, 1, [], None, any_code=False) is None


def test_a_run_of_other_code_is_taken_where_that_is_asked_for(tmp_path: Path) -> None:
    make_run(tmp_path / "20260131_101500_aaaa", 1, 0.1, code={})
    assert seeds.ended(tmp_path, 1, [], None, any_code=True) == tmp_path / "20260131_101500_aaaa"


def test_the_control_is_the_run_from_the_seed_s_own_base(tmp_path: Path) -> None:
    more: dict[str, Any] = {"from_run": "20260131_101500_aaaa", "values": ["sft.max_steps=855", "sft.seed=1"]}
    make_run(tmp_path / "20260131_111500_bbbb", 1, 0.1, **more)
    assert seeds.ended(tmp_path, 1, ["sft.max_steps=855"], "20260131_101500_aaaa", any_code=False)
    assert seeds.ended(tmp_path, 1, ["sft.max_steps=855"], "20260131_101500_cccc", any_code=False) is None
