"""The benchmark of dynamic sampling trains both sides from a run's checkpoint, and says what it compared."""

import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks/grpo_sampling.py"
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of the embedded recipe's shapes, cut short: what it knows does not matter here."""
    from chain import recipe as recipes
    from tests.train_stage import train

    configs: dict[str, Any] = recipes.load("scratch_tiny").configs
    run = tmp_path_factory.mktemp("run")
    few = {"max_steps": 4, "save_steps": 1000, "eval_samples": 16}
    for kind in ("pretrain", "sft", "reward"):
        (run / kind).mkdir()
    train("pretrain", replace(configs["pretrain"], **few, max_samples=2000), run / "pretrain")
    train("sft", replace(configs["sft"], **few, model_name=str(run / "pretrain")), run / "sft")
    train("reward", replace(configs["reward"], **few, max_samples=64, model_name=str(run / "sft")), run / "reward")
    stages = [{"name": kind, "output_dir": kind} for kind in ("pretrain", "sft", "reward")]
    (run / "run_info.json").write_text(json.dumps({"stages": stages}))
    return run


def test_both_sides_are_trained_and_compared(run_dir: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--run", str(run_dir), "--quick"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "preflight: 8 prompts, 8 completions each" in done.stdout
    sides = dict(re.findall(r"pair 1 (trl|dynamic): 1 steps in .* s, (\d+) completions", done.stdout))
    assert int(sides["trl"]) == 128
    assert 128 < int(sides["dynamic"]) <= 128 * 3  # a model that knows nothing: the whole budget
    for name in ("groups_a_second", "greedy", "drawn"):
        assert re.search(rf"^{name}: median trl [\d.]+, dynamic [\d.]+, difference", done.stdout, re.MULTILINE)


def test_a_directory_that_is_no_run_is_refused(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, str(SCRIPT), "--run", str(tmp_path)], capture_output=True, text=True)
    assert done.returncode == 2
    assert "it holds no run_info.json" in done.stderr
