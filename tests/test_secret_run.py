"""No byte that a run writes or prints is of a key, a token or a password."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[1]
SHORT = (
    "pretrain.max_steps=10 pretrain.max_samples=300 pretrain.tokenizer_samples=300 pretrain.eval_samples=20"
    " pretrain.eval_steps=10 sft.max_steps=2 sft.max_samples=64 sft.eval_samples=20"
).split()
ENVIRONMENT = {
    "HF_TOKEN": "hf_" + "CanaryOfTheHub99" * 2,
    "WANDB_API_KEY": "c0ffee" * 6 + "abcd",  # 40 digits, as the service's keys
    "NEPTUNE_API_TOKEN": "canary-of-neptune-0123456789",
    "MY_SECRET": "canary-of-another-service",
}
IN_A_VALUE = "hf_" + "CanaryInAValue00" * 2
PASSWORD = "canary-before-the-host"
URL = f"https://ann:{PASSWORD}@127.0.0.1:9/rows.jsonl"
SECRETS = [*ENVIRONMENT.values(), IN_A_VALUE, PASSWORD]


def run(directory: Path, *values: str) -> "subprocess.CompletedProcess[bytes]":
    """Run the first two stages of the embedded recipe, shortened, with every tracker on and offline."""
    environment = os.environ | ENVIRONMENT | {"HOME": str(directory), "OMP_NUM_THREADS": "1"}
    environment |= {"REPORT_TO": "wandb,neptune", "WANDB_MODE": "offline", "NEPTUNE_MODE": "offline"}
    words = [word for value in (*SHORT, *values) for word in ("--set", value)]
    return subprocess.run(
        [sys.executable, str(ROOT / "run_all.py"), "--test", "--stages", "pretrain,sft", *words],
        cwd=directory,
        env=environment,
        capture_output=True,
    )


def told(directory: Path, printed: bytes) -> list[str]:
    """Return each file under `directory` with a secret in it, and the console if that has one."""
    found = [str(path) for path in directory.rglob("*") if path.is_file() and _has_secret(path.read_bytes())]
    return [*found, *(["the console"] if _has_secret(printed) else [])]


def _has_secret(content: bytes) -> bool:
    return any(secret.encode() in content for secret in SECRETS)


def test_a_run_tells_no_secret(tmp_path: Path) -> None:
    values = [f"sft.trainer_args.run_name={IN_A_VALUE}", f"sft.trainer_args.project={ENVIRONMENT['MY_SECRET']}"]
    done = run(tmp_path, *values)
    assert done.returncode == 0, done.stdout + done.stderr
    assert told(tmp_path, done.stdout + done.stderr) == []
    (record,) = tmp_path.glob("runs/*/run_info.json")
    assert "sft.trainer_args.run_name=***" in record.read_text()
    for tracker in ("events.out.tfevents.*", "wandb/offline-run-*/run-*.wandb", "neptune/offline/*/data-*.log"):
        (file,) = record.parent.glob(f"tiny-sft/logs/{tracker}")
        assert b"***" in file.read_bytes(), tracker


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        (f"sft.trainer_args.hub_token={IN_A_VALUE}", b"hub_token cannot be set"),
        (f"sft.hub_token={PASSWORD}", b"there is no field 'hub_token'"),
        (f"sft.dataset_name={URL}", b"https"),
        (f"sft.model_name={URL}", b"https"),
    ],
)
def test_a_refusal_tells_no_secret(value: str, problem: bytes, tmp_path: Path) -> None:
    done = run(tmp_path, value)
    assert done.returncode == 2, done.stdout + done.stderr
    assert problem in done.stderr
    assert told(tmp_path, done.stdout + done.stderr) == []
