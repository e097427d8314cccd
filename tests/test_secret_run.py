"""A run with every tracker on: each stage is one run of each, and no byte tells a key, a token or a password."""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
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
    "GITHUB_PAT": "canaryWithoutAShape1",
    "DB_PASS": 'C4n@ry/of "the" data',
}
LETTERS = "CanaryOfAShape0123456789ABCDEFabcdef" * 3
DIGITS = "0123456789abcdef" * 4
SHAPES = [
    "ghp_" + LETTERS[:36], "gho_" + LETTERS[:36], "github_pat_" + LETTERS[:82], "glpat-" + LETTERS[:20],
    "sk-" + LETTERS[:48], "sk-proj-" + LETTERS[:60], "sk-ant-api03-" + LETTERS[:93], "sk-or-v1-" + DIGITS,
    "AKIA" + "CANARY2345ABCDEF", "AIza" + LETTERS[:35], "ya29." + LETTERS[:60], "xoxb-123456789012-" + LETTERS[:24],
    "sk_live_" + LETTERS[:24], "SG." + LETTERS[:22] + "." + LETTERS[:43], "npm_" + LETTERS[:36],
    "pypi-AgE" + LETTERS[:70], "dckr_pat_" + LETTERS[:27], "gsk_" + LETTERS[:52], "r8_" + LETTERS[:37],
    "nvapi-" + LETTERS[:64], "dapi" + DIGITS[:32], "hvs." + LETTERS[:90], "123456789:AA" + LETTERS[:33],
    "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJDYW5hcnkifQ." + LETTERS[:43], "wandb_v1_" + LETTERS[:40],
]  # fmt: skip
"""A key of each of these services, by its prefix."""
NAMED = {
    "Bearer {}": "canary-of-a-header-1",
    "https://ann:{}@host/rows": "canary/with-a/slash",
    "https://host/rows?token={}&page=2": "canary-of-a-query",
    "https://host/rows?X-Amz-Signature={}": "canary-of-a-signature",
    "password={}": "canary-of-an-assignment",
    '{{"api_key": "{}"}}': "canary-of-a-field",
}
"""What the text around it calls a secret."""
IN_A_VALUE = "hf_" + "CanaryInAValue00" * 2
IN_A_NAME = "hf_" + "CanaryInADataSet" * 2
PASSWORD = "canary-before-the-host"
URL = f"https://ann:{PASSWORD}@127.0.0.1:9/rows.jsonl"
SECRETS = [*ENVIRONMENT.values(), *SHAPES, *NAMED.values(), IN_A_VALUE, IN_A_NAME, PASSWORD]


def run(directory: Path, *flags: Sequence[str]) -> "subprocess.CompletedProcess[bytes]":
    """Run the first two stages of the embedded recipe, shortened, every tracker on and offline, for each of `flags`."""
    environment = os.environ | ENVIRONMENT | {"HOME": str(directory), "OMP_NUM_THREADS": "1"}
    environment |= {"REPORT_TO": "wandb,neptune", "WANDB_MODE": "offline", "NEPTUNE_MODE": "offline"}
    always = ["--test", "--stages", "pretrain,sft", *(word for value in SHORT for word in ("--set", value))]
    lines = [[*always, *more] for more in flags]
    code = (
        f"import run_all, sys\nfor words in {lines!r}:\n    sys.argv[1:] = words\n    code = run_all.main(words)\n"
        "    print('ended with', code)"
    )
    return subprocess.run(
        [sys.executable, "-c", code], cwd=directory, env=environment | {"PYTHONPATH": str(ROOT)}, capture_output=True
    )


def told(directory: Path, printed: bytes) -> list[str]:
    """Return each file under `directory` with a secret in it, and the console if that has one."""
    found = [str(path) for path in directory.rglob("*") if path.is_file() and _has_secret(path.read_bytes())]
    return [*found, *(["the console"] if _has_secret(printed) else [])]


def _has_secret(content: bytes) -> bool:
    return any(secret.encode() in content for secret in SECRETS)


@pytest.fixture(scope="module")
def tracked(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, bytes]:
    """The directory of a run with secrets in its values, and what it printed."""
    directory = tmp_path_factory.mktemp("tracked")
    every = " ".join([*ENVIRONMENT.values(), *SHAPES, *(text.format(value) for text, value in NAMED.items())])
    rows = directory / f"data-{IN_A_NAME}" / "rows.jsonl"
    rows.parent.mkdir()
    lines = (json.dumps({"prompt": f"What is {row} + 1?", "completion": f"{row + 1}"}) + "\n" for row in range(100))
    rows.write_text("".join(lines))
    values = [
        f"sft.trainer_args.run_name={IN_A_VALUE}",
        f"sft.trainer_args.project={ENVIRONMENT['MY_SECRET']}",
        f"sft.trainer_args.trackio_space_id={every}",
        f"sft.dataset_name={rows}",
    ]
    done = run(directory, [word for value in values for word in ("--set", value)])
    assert b"ended with 0" in done.stdout, done.stdout + done.stderr
    (run_dir,) = (directory / "runs").iterdir()
    return run_dir, done.stdout + done.stderr


def test_a_run_tells_no_secret(tracked: tuple[Path, bytes]) -> None:
    run_dir, printed = tracked
    assert told(run_dir.parents[1], printed) == []
    record = (run_dir / "run_info.json").read_text()
    assert "sft.trainer_args.run_name=***" in record
    assert record.count("***") >= 3 * (len(SHAPES) + len(NAMED))  # in the command, the values and the configuration
    for tracker in ("events.out.tfevents.*", "wandb/offline-run-*/run-*.wandb", "neptune/offline/*/data-*.log"):
        (file,) = run_dir.glob(f"tiny-sft/logs/{tracker}")
        assert b"***" in file.read_bytes(), tracker


@pytest.mark.parametrize(("stage", "output_dir"), [("pretrain", "tiny-base"), ("sft", "tiny-sft")])
def test_each_stage_is_one_run_of_each_tracker_in_the_group_of_the_run(
    stage: str, output_dir: str, tracked: tuple[Path, bytes]
) -> None:
    run_dir, printed = tracked
    logs, name = run_dir / output_dir / "logs", f"{run_dir.name}-{stage}"
    assert len(list(logs.glob("events.out.tfevents.*"))) == 1
    (recorded,) = logs.glob("wandb/offline-run-*/run-*.wandb")
    (container,) = (logs / "neptune/offline").iterdir()
    written = {
        "W&B": recorded.read_bytes(),
        "Neptune": b"".join(file.read_bytes() for file in container.glob("data-*.log")),
    }
    for tracker, content in written.items():
        renamed = tracker == "W&B" and stage == "sft"  # by run_name, which is a secret here
        assert (b"***" if renamed else name.encode()) in content, tracker
        assert content.replace(name.encode(), b"").count(run_dir.name.encode()) > 0, f"{tracker} has no group"
        assert b"train/loss" in content or (b"train" in content and b"loss" in content), tracker
    assert not [path.name for path in run_dir.parents[1].iterdir() if path.name in (".neptune", "wandb")]
    assert b"records nothing more" not in printed
    assert b"[neptune]" not in printed


def test_a_refusal_tells_no_secret(tmp_path: Path) -> None:
    refused = {
        f"sft.trainer_args.hub_token={IN_A_VALUE}": b"hub_token cannot be set",
        f"sft.hub_token={PASSWORD}": b"there is no field 'hub_token'",
        f"sft.dataset_name={URL}": b"https",
        f"sft.model_name={URL}": b"https",
    }
    done = run(tmp_path, *(["--set", value] for value in refused))
    assert done.stdout.count(b"ended with 2") == len(refused), done.stdout + done.stderr
    for problem in refused.values():
        assert problem in done.stderr
    assert told(tmp_path, done.stdout + done.stderr) == []
