"""The benchmark of pretraining runs, and says what it compared."""

import json
import math
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks.pretraining import fewest_steps
from benchmarks.pretraining_runs import table
from data import world

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "pretraining.py"


@pytest.mark.slow
def test_throughput_compares_both_sides_on_real_tokens_and_equal_threads(tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("\n\n".join(row["text"] for row in world.rows("documents", "train", 1500, 0)))
    command = [sys.executable, str(SCRIPT), "throughput", "--text", str(text), "--quick"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    first, ours, its, summary = (json.loads(line) for line in done.stdout.splitlines() if line.startswith("{"))
    assert first["machine"]["cpu_cores"] >= 1
    assert ours["steps"] == its["steps"] == 6
    assert ours["threads"] == its["threads"]
    assert its["tokens"] == 6 * 16 * 128  # one stream without padding
    assert 0.8 * its["tokens"] < ours["tokens"] < its["tokens"]  # packed documents, padding not counted
    assert summary["ratio"] == pytest.approx(ours["tokens_per_s"] / its["tokens_per_s"])
    assert "| equal |" in done.stdout


@pytest.mark.parametrize(
    ("reaches", "expected"),
    [
        (lambda steps: steps >= 61, 75),  # 50 does not, 75 does
        (lambda steps: steps >= 100, 100),
        (lambda steps: False, math.inf),
    ],
)
def test_fewest_steps_is_a_number_that_was_seen_to_suffice(reaches: Callable[[int], bool], expected: float) -> None:
    assert fewest_steps(reaches, 100, bisections=2) == expected
    assert fewest_steps(reaches, 100, bisections=3) <= expected


def test_a_table_rounds_only_what_is_shown() -> None:
    shown = table(["side", "ratio", "tokens/s"], [["ours", 1.23456, 12345.6]])
    assert shown == "| side | ratio | tokens/s |\n| --- | --- | --- |\n| ours | 1.235 | 12,346 |"
