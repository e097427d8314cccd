"""The gate is shown to work: by the numbers of docs/evidence.md, simulated again with few repetitions."""

import math
import re
import subprocess
import sys
from pathlib import Path
from random import Random

import pytest

from benchmarks.gates import outcomes, rerun, stopped
from utils.files import write_json

ROOT = Path(__file__).resolve().parents[2]
BASE = [1.0] * 525 + [0.0] * 75
"""As many of 600 solved as in the run that the table there is of."""
REPETITIONS = 300
MARGIN = 3 * math.sqrt(0.05 * 0.95 / REPETITIONS)
"""Three standard errors of a share near 5 % or 95 %."""


@pytest.fixture
def stage_dir(tmp_path: Path) -> Path:
    """The record and the kept scores of a stage, before and after."""
    write_json(tmp_path / "stage_info.json", {"output": {"sha256": "a" * 64}})
    scores = {f"skills-v1-rows@{'b' * 16}-reading": {"strict": [0.0] * 600}}
    scores |= {f"{task}-v1-rows@{'a' * 16}-reading": {"strict": BASE} for task in ("skills", "sampled_skills")}
    write_json(tmp_path / "evaluation_scores.json", scores)
    return tmp_path


def test_outcomes_are_those_of_the_model_that_the_stage_wrote(stage_dir: Path) -> None:
    assert outcomes(stage_dir) == BASE


def test_a_directory_of_no_stage_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="is no directory of a stage that has passed"):
        outcomes(tmp_path / "nowhere")


@pytest.mark.parametrize("lost", [0.0, 0.05])
def test_a_rerun_changes_as_much_as_it_says_and_loses_as_much(lost: float) -> None:
    before, random = BASE * 100, Random(0)
    after = rerun(before, 0.875, 0.1, lost, random)
    changed = sum(b != a for b, a in zip(before, after, strict=True)) / len(before)
    assert changed == pytest.approx(0.1 + lost, abs=0.005)
    assert sum(before) - sum(after) == pytest.approx(lost * len(before), abs=0.005 * len(before))


@pytest.mark.parametrize("churn", [0.02, 0.05, 0.08])
def test_a_regression_of_5_points_is_caught_and_a_harmless_rerun_is_not_stopped(churn: float) -> None:
    caught, _ = stopped(BASE, 600, churn, 0.05, REPETITIONS, seed=1)
    harmless, _ = stopped(BASE, 600, churn, 0.0, REPETITIONS, seed=2)
    assert caught >= 0.95 - MARGIN
    assert harmless <= 0.05 + MARGIN


def test_where_reruns_change_a_fifth_600_examples_are_too_few() -> None:
    assert stopped(BASE, 600, 0.2, 0.05, REPETITIONS, seed=1)[0] < 0.95 - MARGIN
    assert stopped(BASE, 2000, 0.2, 0.05, REPETITIONS, seed=1)[0] >= 0.95 - MARGIN


def test_the_benchmark_prints_its_table(stage_dir: Path) -> None:
    command = [sys.executable, str(ROOT / "benchmarks/gates.py"), "--run", str(stage_dir), "--repetitions", "3"]
    done = subprocess.run([*command, "--reruns", *[str(stage_dir)] * 2], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "base: 600 outcomes, 0.875 solved" in done.stdout
    assert "skills: 2 reruns, exact match 0.875 to 0.875 (standard deviation 0.000)" in done.stdout
    rows = [line for line in done.stdout.splitlines() if re.match(r"\| \d+% ", line)]
    assert len(rows) == 8
    assert all(row.count("|") == 9 for row in rows)
