"""The benchmark of pretraining runs, and says what it compared."""

import json
import math
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchmarks.pretraining import fewest_steps
from benchmarks.pretraining_runs import table
from data import made

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
pytestmark = pytest.mark.slow


@pytest.fixture
def text(tmp_path: Path) -> Path:
    """A file of documents, large enough for each script's smallest run; the number gives each a place of its own."""
    file = tmp_path / "text.txt"
    rows = enumerate(made.rows("documents", "train", 1500, 0))
    file.write_text("\n\n".join(f"{number}. {row['text']}" for number, row in rows))
    return file


def printed(script: str, *words: str, text: Path) -> tuple[list[dict[str, Any]], str]:
    """Return the JSON objects that a script prints, the machine's left out, and all that it prints."""
    command = [sys.executable, str(BENCHMARKS / script), *words, "--text", str(text)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    return [line for line in lines if "machine" not in line], done.stdout


def test_throughput_compares_both_sides_on_real_tokens_and_equal_threads(text: Path) -> None:
    (ours, its, summary), shown = printed("pretraining.py", "throughput", "--quick", text=text)
    assert ours["steps"] == its["steps"] == 6
    assert ours["threads"] == its["threads"]
    assert its["tokens"] == 6 * 16 * 128  # one stream without padding
    assert 0.8 * its["tokens"] < ours["tokens"] < its["tokens"]  # packed documents, padding not counted
    assert summary["ratio"] == pytest.approx(ours["tokens_per_s"] / its["tokens_per_s"])
    assert "| equal |" in shown


def test_the_optimizers_meet_at_a_loss_that_the_other_one_ended_at(text: Path) -> None:
    found, shown = printed("pretraining.py", "optimizer", "--quick", text=text)
    loss_of = {line["run"]: line["eval_losses"][-1][1] for line in found if "run" in line}
    for line in (line for line in found if "against" in line):
        assert line["loss"] == loss_of[f"{line['against']}, rate 0.0001, seed 1, 12 steps"]
        assert line["muon_steps"] in (6, 12)
        assert loss_of[f"muon, rate 0.02, seed 1, {line['muon_steps']} steps"] <= line["loss"]
    assert set(found[-1]["ratio_of_steps"]) == {"adamw", "adamw_one_rate"}
    assert "AdamW with one rate | mean" in shown


def test_quality_compares_trained_models_by_the_bits_of_the_same_bytes(text: Path) -> None:
    found, shown = printed("pretraining.py", "quality", "--quick", text=text)
    ours, its = found[-3:-1] if found[-3]["run"].startswith("ours") else found[-2:-4:-1]
    assert found[-1]["ours"] == ours["test_bits_per_byte"] < 8
    assert found[-1]["trainer"] == its["test_bits_per_byte"] < 8
    assert found[-1]["ratio"] == pytest.approx(found[-1]["ours"] / found[-1]["trainer"])
    assert "Tuned settings of" in shown


def test_the_overhead_is_that_of_a_run_with_and_one_without(text: Path) -> None:
    (with_, without, summary), _ = printed("pretraining.py", "overhead", "--quick", text=text)
    assert with_["seconds"]["evaluate"] > 0 == without["seconds"].get("evaluate", 0)
    assert 0 < summary["share_spent"]["all four"] < 1


def test_the_data_path_is_timed_from_text_to_batches(text: Path) -> None:
    words = "--megabytes 0.5 --vocab-size 512 --row-length 64 --hidden-size 32 --layers 1 --heads 2"
    _, shown = printed("data_path.py", *words.split(), text=text)
    (times,) = re.findall(r"the data path is ([\d,]+) times as fast", shown)
    assert int(times.replace(",", "")) > 1


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
