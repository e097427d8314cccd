"""The benchmarks beside TRL run both sides, find that they did the same work, and say what they compared."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.slow


def ran(*argv: str) -> "subprocess.CompletedProcess[str]":
    """Run a benchmark."""
    command = [sys.executable, str(ROOT / "benchmarks" / argv[0]), *argv[1:]]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_both_sides_of_each_kind_are_trained_and_learn_the_same() -> None:
    done = ran("against_trl.py", "--pairs", "1", "--steps", "2", "--max-completion-length", "8")
    assert done.returncode == 0, done.stderr
    rows = dict(re.findall(r"^\| (sft|reward|dpo|grpo) \| ([\d.]+) \(", done.stdout, re.MULTILINE))
    assert set(rows) == {"sft", "reward", "dpo", "grpo"}
    for kind in ("sft", "reward", "dpo"):
        (apart,) = re.findall(rf"^\| {kind} \|.*losses at most ([\d.]+) apart", done.stdout, re.MULTILINE)
        assert float(apart) < 0.01
    assert re.search(r"completions of [\d.]+ and [\d.]+ tokens", done.stdout)


def test_an_unknown_kind_is_refused() -> None:
    done = ran("against_trl.py", "--kinds", "sft,sfd")
    assert done.returncode == 2
    assert "--kinds: sfd: known are sft, reward, dpo, grpo" in done.stderr


def test_sampling_is_compared_on_the_same_prompts(tmp_path: Path) -> None:
    from dataclasses import replace
    from typing import Any

    from chain import recipe as recipes
    from tests.train_stage import train

    config: Any = recipes.load("scratch_tiny").configs["pretrain"]
    few = {"max_steps": 4, "save_steps": 1000, "eval_samples": 16, "max_samples": 2000}
    train("pretrain", replace(config, **few), tmp_path)
    options = ["--prompts", "3", "--group", "2", "--max-new-tokens", "6", "--pairs", "2", "--sides", "ours,trl,paged"]
    done = ran("sampling.py", "--model", str(tmp_path), *options)
    assert done.returncode == 0, done.stderr
    sides = re.findall(r"^\| (ours|trl|paged) \| ([\d.]+) \| [\d,.]+ \| ([\d.]+) \|", done.stdout, re.MULTILINE)
    assert [name for name, *_ in sides] == ["ours", "trl", "paged"]
    assert all(float(rate) > 0 and 1 <= float(length) <= 6 for _, rate, length in sides)


def test_a_model_that_is_not_there_is_refused() -> None:
    done = ran("sampling.py", "--model", "nowhere")
    assert done.returncode == 2
    assert "--model nowhere: there is no such directory" in done.stderr
