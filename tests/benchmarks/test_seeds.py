"""The seeds' tables come from the files of runs, and a run that has ended is not made again."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any, Literal

import pytest

from benchmarks import seeds
from chain.record import deciding_code
from records.run_directory import RunInfo
from records.stage_log import StageLog
from utils.runtime import versions

STAGES = ("pretrain", "sft", "reward", "dpo", "grpo")
GATE = {"metric": "skills strict", "rule": "not_below_input", "value": 0.02}


def results(stage: str, dpo: float) -> list[dict[str, Any]]:
    """Return every figure that the table shows of a stage; DPO changes exact match from 0.8 by `dpo`."""
    empty: dict[str, Any] = {"n": 10, "before": None, "after": 0.5, "ci95": None}
    found = [empty | {"task": task, "metric": metric} for kind, task, metric in seeds.SHOWN if kind == stage]
    for one in found:
        if (stage, one["task"]) == ("dpo", "skills"):
            one |= {"before": 0.8, "after": 0.8 + dpo, "ci95": [dpo - 0.04, dpo + 0.04]}
    return found


def make_run(
    run_dir: Path, seed: int, dpo: float, *, failed: str = "", names: tuple[str, ...] = STAGES, **record: Any
) -> None:
    """Write what a run leaves whose DPO changed exact match by `dpo`; where a gate failed, nothing follows.

    Each stage takes 60 s, half of it training.
    """
    run_dir.mkdir(parents=True)
    ends = dict.fromkeys(names, "passed")
    if failed:
        ends |= dict.fromkeys(names[names.index(failed) :], "pending") | {failed: "failed"}
    RunInfo(run_dir).set(
        run_id=run_dir.name, recipe="scratch_tiny", seed=seed, status="failed" if failed else "passed", from_run=None,
        values=[f"{name}.seed={seed}" for name in names], git_commit=f"commit{seed}",
        code=deciding_code(seeds.stages_named(names)), versions=versions(),
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
            at = {"STAGE_START": "10:15:00", "TRAIN_START": "10:15:10", "TRAIN_END": "10:15:40"}
            lines = [f"2026-01-31T{time}+00:00 | {kind} | {name}\n" for kind, time in at.items()]
            log.events_file.write_text("".join(lines), encoding="utf-8")
            if name == "dpo":
                log.alarm(3, "coin_flip", "pairs are ranked by a coin")


@pytest.fixture
def no_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    def started(command: list[str], **_: Any) -> None:
        raise AssertionError(f"started {command}")

    monkeypatch.setattr(subprocess, "run", started)


def tables(
    runs_dir: Path, monkeypatch: pytest.MonkeyPatch, asked: str, *more: str, control: bool = False
) -> list[dict[str, Any]]:
    out = runs_dir / "seeds.json"
    words = ["seeds.py", "--seeds", asked, "--runs-dir", str(runs_dir), "--out", str(out), *more]
    words += [] if control else ["--no-control"]
    monkeypatch.setattr(sys, "argv", words)
    seeds.main()
    found: list[dict[str, Any]] = json.loads(out.read_text(encoding="utf-8"))
    return found


@pytest.mark.usefixtures("no_runs")
def test_the_tables_of_runs_that_have_ended_need_no_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two seeds, DPO +0.10 and +0.02: mean 0.06, standard error 0.04, Student's 12.706 for one degree of freedom.

    0.86 ± 0.508 reaches beyond 1, which no share does; a difference is left as it is.
    The intervals within the runs are 0.06 … 0.14 and −0.02 … 0.06.
    """
    make_run(tmp_path / "20260131_101500_aaaa", 1, 0.1)
    make_run(tmp_path / "20260131_101500_bbbb", 2, 0.02)
    found = tables(tmp_path, monkeypatch, "1,2")
    assert [one["stages"]["dpo"]["verdict"] for one in found] == ["better", "no evidence"]
    assert found[0]["stages"]["dpo"]["difference"] == pytest.approx(0.1)
    assert [one["wall_s"] for one in found] == [330.0, 330.0]
    out = capsys.readouterr().out
    dpo = "| skills strict | 0.800 → 0.860 | +0.060 [-0.448, +0.568] | better 1 of 2, no evidence 1 of 2 | 2 of 2 | 2 |"
    assert f"| dpo {dpo}" in out
    assert "| dpo skills strict | 0.86 | 0.3518 … 1 | 0.82 | 0.9 |" in out
    assert "| reward | pairs accuracy | 0.500 | – | not compared 2 of 2 | – | 0 |" in out
    assert "The runs are of 2 commits: commit1, commit2" in out


@pytest.mark.usefixtures("no_runs")
def test_a_seed_whose_gate_failed_counts_as_failed_with_what_was_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    make_run(tmp_path / "20260131_101500_aaaa", 1, 0.1)
    make_run(tmp_path / "20260131_101500_bbbb", 2, -0.1, failed="dpo")
    found = tables(tmp_path, monkeypatch, "1,2")
    out = capsys.readouterr().out
    assert "| better 1 of 2, failed 1 of 2 | 1 of 2 | 2 |" in out
    assert "| dpo | skills strict | 0.800 → 0.800 | +0.000" in out  # of both, or the mean would leave out the bad one
    assert "| dpo skills strict | 0.8 | 0 … 1 | 0.7 | 0.9 |" in out
    assert "| dpo change of skills strict (" not in out
    assert "| grpo skills strict (1 of 2 seeds) | 0.5 |" in out
    for name in ("wall_s", "peak_bytes", "sft seconds", "grpo seconds"):  # of a run that was cut short, no cost
        assert f"| {name} (1 of 2 seeds) |" in out
    assert [len(one["stages"]) for one in found] == [5, 5]


def test_before_and_after_are_of_the_seeds_that_have_both() -> None:
    same = {"judged_by": "skills strict", "verdict": "better", "gates_passed": None, "alarms": 0}
    both = same | {"before": 0.8, "after": 0.9, "difference": 0.1}
    after = same | {"before": None, "after": 0.5, "difference": None}
    out = seeds.verdict_table([{"stages": {"dpo": both, "sft": after}}, {"stages": {"dpo": after, "sft": after}}])
    assert "| dpo | skills strict | 0.800 → 0.900 (1 of 2 seeds) | +0.100 |" in out
    assert "| sft | skills strict | 0.500 | – |" in out


@pytest.mark.usefixtures("no_runs")
@pytest.mark.parametrize("failed", ["", "sft"])
def test_a_control_whose_gate_failed_has_what_was_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failed: str
) -> None:
    """SFT took 30 s for 10 steps, the four stages 120 s: the control has 40 steps."""
    make_run(tmp_path / "20260131_101500_aaaa", 1, 0.1)
    more: dict[str, Any] = {"from_run": "20260131_101500_aaaa", "values": ["sft.max_steps=40", "sft.seed=1"]}
    make_run(tmp_path / "20260131_111500_bbbb", 1, 0.1, failed=failed, names=("sft",), **more)
    (found,) = tables(tmp_path, monkeypatch, "1", control=True)
    assert found["seconds of training of sft, reward, dpo, grpo"] == 120.0
    assert (found["control skills strict"], found["control sampled_skills strict"]) == (0.5, 0.5)
    assert found.get("control sft seconds of training") == (None if failed else 30.0)


def test_what_a_failed_stage_could_not_measure_is_left_out(tmp_path: Path) -> None:
    make_run(tmp_path / "20260131_101500_aaaa", 1, 0.1, failed="dpo")
    log = StageLog(tmp_path / "20260131_101500_aaaa" / "tiny-dpo")
    log.info(evaluation=[one | {"after": None} for one in results("dpo", 0.1)])
    found = seeds.measure(1, tmp_path, with_control=True, any_code=False)
    assert "sft skills strict" in found
    assert not [name for name in found if name.startswith("dpo")]


@pytest.mark.parametrize(
    "other",
    [
        {"status": "interrupted"},
        {"from_run": "20260130_101500_zzzz"},
        {"values": ["dpo.seed=1", "dpo.max_steps=3"]},
        {"recipe": "smollm2_135m"},
        {"code": {"data/splits.py": "another"}},
        {"code": None},
        {"versions": versions() | {"torch": "0.1"}},
        {"processes": 2},
        {"forced": ["sft: max_steps was 10, now 20"]},
        {"stages": [{"name": name, "output_dir": f"tiny-{name}", "status": "passed"} for name in ("pretrain", "sft")]},
    ],
    ids=lambda other: "".join(other),
)
def test_a_run_that_is_not_the_seed_s_is_not_taken_for_it(tmp_path: Path, other: dict[str, Any]) -> None:
    make_run(tmp_path / "20260131_101500_aaaa", 1, 0.1)
    assert seeds.ended(tmp_path, 1, [], None, any_code=False)
    assert seeds.ended(tmp_path, 2, [], None, any_code=False) is None
    RunInfo(tmp_path / "20260131_101500_aaaa").set(**other)
    assert seeds.ended(tmp_path, 1, [], None, any_code=False) is None


@pytest.mark.parametrize("kind", ["RESUME", "STAGE_START"])
def test_a_run_that_was_taken_up_again_is_not_taken_for_the_seed_s(
    tmp_path: Path, kind: Literal["RESUME", "STAGE_START"]
) -> None:
    make_run(tmp_path / "20260131_101500_aaaa", 1, 0.1)
    StageLog(tmp_path / "20260131_101500_aaaa" / "tiny-sft").event(kind, "from checkpoint-5")
    assert seeds.ended(tmp_path, 1, [], None, any_code=True) is None


def test_a_run_that_passed_is_taken_before_a_newer_one_that_failed(tmp_path: Path) -> None:
    make_run(tmp_path / "20260131_101500_aaaa", 1, 0.1)
    make_run(tmp_path / "20260131_111500_bbbb", 1, 0.1)
    make_run(tmp_path / "20260131_121500_cccc", 1, 0.1, failed="grpo")
    assert seeds.ended(tmp_path, 1, [], None, any_code=False) == tmp_path / "20260131_111500_bbbb"


def test_a_run_of_other_code_is_taken_where_that_is_asked_for(tmp_path: Path) -> None:
    make_run(tmp_path / "20260131_101500_aaaa", 1, 0.1, code={})
    assert seeds.ended(tmp_path, 1, [], None, any_code=True) == tmp_path / "20260131_101500_aaaa"


def test_the_control_is_the_run_from_the_seed_s_own_base(tmp_path: Path) -> None:
    more: dict[str, Any] = {"from_run": "20260131_101500_aaaa", "values": ["sft.max_steps=855", "sft.seed=1"]}
    make_run(tmp_path / "20260131_111500_bbbb", 1, 0.1, names=("sft",), **more)
    assert seeds.ended(tmp_path, 1, ["sft.max_steps=855"], "20260131_101500_aaaa", any_code=False)
    assert seeds.ended(tmp_path, 1, ["sft.max_steps=855"], "20260131_101500_cccc", any_code=False) is None
