"""The embedded recipe, shortened, with every tracker on and no key of any: one run a stage in each of them."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from chain import recipe as recipes

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[1]
STAGES = {kind: config.output_dir for kind, config in recipes.load("scratch_tiny").configs.items()}
SHORT = {
    "pretrain": "max_steps=20 max_samples=600 tokenizer_samples=600 eval_samples=50 eval_steps=20",
    "sft": "max_steps=2 max_samples=64 eval_samples=20",
    "reward": "max_steps=2 max_samples=64 eval_samples=20",
    "dpo": "max_steps=2 max_samples=64 eval_samples=20",
    "grpo": "max_steps=2 max_samples=32 eval_samples=20 per_device_train_batch_size=16 max_completion_length=8",
}


@pytest.fixture(scope="module")
def tracked(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The directory of a run, and what it printed."""
    directory = tmp_path_factory.mktemp("tracked")
    keyless = {name: value for name, value in os.environ.items() if not name.startswith(("WANDB_", "NEPTUNE_"))}
    values = [word for kind, text in SHORT.items() for value in text.split() for word in ("--set", f"{kind}.{value}")]
    done = subprocess.run(
        [sys.executable, str(ROOT / "run_all.py"), "--test", *values],
        cwd=directory,
        env=keyless | {"REPORT_TO": "wandb,neptune", "HOME": str(directory), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (run_dir,) = (directory / "runs").iterdir()
    assert not [path.name for path in directory.iterdir() if path.name in (".neptune", "wandb")]
    return run_dir, done.stdout + done.stderr


@pytest.mark.parametrize("stage", STAGES)
def test_each_stage_is_one_run_of_each_tracker_in_the_group_of_the_run(stage: str, tracked: tuple[Path, str]) -> None:
    run_dir, _ = tracked
    logs, name = run_dir / STAGES[stage] / "logs", f"{run_dir.name}-{stage}"
    assert len(list(logs.glob("events.out.tfevents.*"))) == 1
    (recorded,) = logs.glob("wandb/offline-run-*/run-*.wandb")
    (container,) = (logs / "neptune/offline").iterdir()
    written = {
        "W&B": recorded.read_bytes(),
        "Neptune": b"".join(file.read_bytes() for file in container.glob("data-*.log")),
    }
    for tracker, content in written.items():
        assert name.encode() in content, tracker
        assert content.replace(name.encode(), b"").count(run_dir.name.encode()) > 0, f"{tracker} has no group"
        assert b"train/loss" in content or (b"train" in content and b"loss" in content), tracker


def test_what_has_no_key_is_said_once_a_stage_and_nothing_fails(tracked: tuple[Path, str]) -> None:
    said = " ".join(tracked[1].split())
    assert "records nothing more" not in said
    assert "[neptune]" not in said
    assert said.count("Weights & Biases has no key") == len(STAGES)
