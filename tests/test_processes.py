"""Several processes on one machine without a GPU: the run of one process, one run directory, and no hanging."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[1]
RECIPE = """
from typing import Any
from algorithms import StageOutput, TrainingConfig
from pipeline import run_pipeline

EACH: dict[str, Any] = {
    "max_steps": 4, "gradient_accumulation_steps": 2, "learning_rate": 1e-3, "logging_steps": 1, "save_steps": 2,
    "eval_fraction": 0.2, "bf16": False, "gradient_checkpointing": False, "max_length": 128,
}
configs = {
    "sft": TrainingConfig(model_name="base", output_dir="sft", dataset_name="chat.jsonl", **EACH),
    "dpo": TrainingConfig(model_name=StageOutput("sft"), output_dir="dpo", dataset_name="pairs.jsonl", **EACH),
}
if __name__ == "__main__":
    run_pipeline(configs)
"""


@pytest.fixture
def directory(tmp_path: Path, tokenizer_dir: Path) -> Path:
    """A working directory with a recipe, its data and its model."""
    from transformers import AutoTokenizer, Qwen3Config, Qwen3ForCausalLM

    torch.manual_seed(0)
    shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    Qwen3ForCausalLM(Qwen3Config(vocab_size=272, num_key_value_heads=1, head_dim=16, **shape)).save_pretrained(
        tmp_path / "base"
    )
    AutoTokenizer.from_pretrained(tokenizer_dir).save_pretrained(tmp_path / "base")
    asked = [{"role": "user", "content": f"say {n}"} for n in range(60)]
    said = [{"role": "assistant", "content": f"{n} is {'even' if n % 2 == 0 else 'odd'}"} for n in range(60)]
    rows: dict[str, list[dict[str, Any]]] = {
        "chat": [{"messages": list(turns)} for turns in zip(asked, said, strict=True)],
        "pairs": [{"prompt": [asked[n]], "chosen": [said[n]], "rejected": [said[n - 1]]} for n in range(60)],
    }
    for name, some in rows.items():
        (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, some)))
    (tmp_path / "small.py").write_text(RECIPE)
    return tmp_path


ONE: tuple[str, ...] = ()
TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
# With --cpu it starts one process, whatever --num_processes says, unless there is MPI.
ACCELERATE = ("-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--num_machines", "1",
    "--main_process_port", "0", "--mixed_precision", "no", "--dynamo_backend", "no")  # fmt: skip


def start(
    directory: Path, launcher: tuple[str, ...], rows: int, *flags: str, runs: str
) -> subprocess.CompletedProcess[str]:
    """Run the recipe with `rows` rows a process and step; twice as many processes take half of them."""
    values = [word for stage in ("sft", "dpo") for word in ("--set", f"{stage}.per_device_train_batch_size={rows}")]
    recipe = [] if "--resume" in flags else ["--recipe", "small.py", *values]
    return subprocess.run(
        [sys.executable, *launcher, str(ROOT / "run_all.py"), *recipe, *flags, "--runs-dir", runs],
        cwd=directory,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )


def run_of(directory: Path, runs: str) -> Path:
    (made,) = (directory / runs).iterdir()
    return made


def read(file: Path) -> dict[str, Any]:
    return dict(json.loads(file.read_text(encoding="utf-8")))


def _files(run_dir: Path) -> set[str]:
    """Return the names in a run directory, without what tells the time, and each process's random state."""
    names = {str(path.relative_to(run_dir)) for path in run_dir.rglob("*")}
    return {name for name in names if "tfevents" not in name and "rng_state" not in name}


def metrics(run_dir: Path, stage: str) -> list[dict[str, Any]]:
    lines = (run_dir / stage / "training_metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def test_two_processes_train_as_one_with_the_same_rows_a_step(directory: Path) -> None:
    from safetensors.torch import load_file

    for launcher, rows, runs in ((ONE, 4, "one"), (ACCELERATE, 2, "two")):
        done = start(directory, launcher, rows, runs=runs)
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert done.stdout.count("Held-out results") == 1, "the first process alone speaks"
    one, two = run_of(directory, "one"), run_of(directory, "two")
    assert read(two / "run_info.json")["status"] == "passed"
    assert _files(two) == _files(one)
    for stage in ("sft", "dpo"):
        assert len(list((two / stage / "logs").glob("events.out.tfevents.*"))) == 1
        for single, double in zip(metrics(one, stage), metrics(two, stage), strict=True):
            for name in ("num_tokens", "loss", "grad_norm"):
                assert double[name] == pytest.approx(single[name], rel=1e-3), (stage, single["step"], name)
        whole, parts = load_file(one / stage / "model.safetensors"), load_file(two / stage / "model.safetensors")
        for name, weight in whole.items():
            torch.testing.assert_close(parts[name], weight, rtol=0, atol=2e-4, msg=f"{stage} {name}")
        before, after = (read(run / stage / "stage_info.json")["evaluation"] for run in (one, two))
        for single, double in zip(before, after, strict=True):
            assert double["after"] == pytest.approx(single["after"], abs=0.01), (stage, single["metric"])


DIES = """
import os
from transformers import TrainerCallback
from algorithms import watch
step_begin = watch.Watch.on_step_begin
def dying(self, args, state, control, **more):
    if os.environ.get("RANK") == "1" and state.global_step == 3 and not os.path.exists("dead"):
        open("dead", "w").close()
        os._exit(9)
    step_begin(self, args, state, control, **more)
watch.Watch.on_step_begin = dying
"""


def test_a_process_that_dies_ends_the_run_which_then_goes_on(directory: Path) -> None:
    (directory / "small.py").write_text(DIES + RECIPE)
    began = time.monotonic()
    done = start(directory, TORCHRUN, 2, runs="two")
    assert done.returncode != 0
    assert time.monotonic() - began < 120
    assert "exitcode  : 9" in done.stderr
    run_dir = run_of(directory, "two")
    assert read(run_dir / "run_info.json")["status"] in ("failed", "interrupted")
    again = start(directory, TORCHRUN, 2, "--resume", "latest", runs="two")
    assert again.returncode == 0, again.stdout[-3000:] + again.stderr[-3000:]
    assert run_of(directory, "two") == run_dir
    assert [line["step"] for line in metrics(run_dir, "sft")] == [1, 2, 3, 4]
    assert "RESUME | from checkpoint-2" in (run_dir / "sft/training_events.log").read_text()


def test_what_is_refused_is_said_once_and_creates_nothing(directory: Path) -> None:
    done = start(directory, TORCHRUN, 2, "--set", "sft.dataset_name=nowhere.jsonl", runs="two")
    assert done.returncode != 0
    assert done.stderr.count("there is no data set 'nowhere.jsonl'") == 1
    assert not (directory / "two").exists()


def test_a_stage_that_fails_in_the_first_process_alone_ends_all(directory: Path) -> None:
    fails = "import evaluation\nfrom utils.errors import StageFailed\n"
    fails += "def fail(*_, **__):\n    raise StageFailed('not measured')\nevaluation.evaluate_stage = fail\n"
    (directory / "small.py").write_text(fails + RECIPE)
    done = start(directory, TORCHRUN, 2, runs="two")
    assert done.returncode != 0
    assert done.stderr.count("stage sft failed: not measured") == 1
    assert read(run_of(directory, "two") / "run_info.json")["status"] == "failed"
