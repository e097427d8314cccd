"""The recipes on published data, unchanged but for their size: fetched, then run, killed and resumed without a Hub."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from algorithms import StageOutput
from chain import recipe as recipes
from tests.conftest import SHARED
from tests.hub_repositories import RECIPES, environment, models_of
from utils.files import weights_sha256

pytestmark = [
    pytest.mark.shared,
    pytest.mark.slow,
    pytest.mark.skipif(not SHARED.is_dir(), reason=f"needs the fixtures in {SHARED}"),
]

ROOT = Path(__file__).resolve().parents[1]
STAGES = ("sft", "reward", "dpo", "grpo")
EACH = {
    "max_steps": 2, "learning_rate": 2e-3, "per_device_train_batch_size": 4, "gradient_accumulation_steps": 1,
    "eval_samples": 8, "max_samples": 64, "save_steps": 1, "logging_steps": 1,
}  # fmt: skip
SMALL: dict[str, dict[str, Any]] = {
    # SFT learns the form of an answer, so that GRPO's are sometimes right: all of a kind would teach it nothing.
    "sft": EACH | {"max_steps": 24, "learning_rate": 2e-2, "save_steps": 12, "max_length": 64},
    "reward": EACH | {"max_length": 64},
    "dpo": EACH | {"max_length": 64, "max_steps": 4},
    "grpo": EACH | {"per_device_train_batch_size": 16, "max_completion_length": 12},
}
FILES = {
    "stage_info.json", "training.log", "console_output.log", "training_events.log", "training_metrics.jsonl", "logs",
    "config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja",
}  # fmt: skip


class Run:
    """A recipe in a process of its own, that has no network."""

    def __init__(self, home: Path, directory: Path, *flags: str) -> None:
        self.runs_dir, self.printed = directory / "runs", directory / "printed.txt"
        with self.printed.open("a", encoding="utf-8") as file:
            self.process = subprocess.Popen(
                [sys.executable, str(ROOT / "run_all.py"), *flags],
                cwd=directory,
                env=environment(home, HF_HUB_OFFLINE="1"),
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def run_dir(self) -> Path:
        """The only run there."""
        (made,) = self.runs_dir.iterdir()
        return made

    def passed(self) -> Path:
        """Return the directory of the run, which must pass."""
        assert self.process.wait() == 0, self.printed.read_text(encoding="utf-8")
        return self.run_dir

    def kill_at(self, file: str) -> None:
        """Kill it at once when a file is there."""
        try:
            while not list(self.runs_dir.glob(f"*/{file}")):
                assert self.process.poll() is None, self.printed.read_text(encoding="utf-8")
                time.sleep(0.01)
        finally:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()


def small(**values: Any) -> list[str]:
    """Return the flags that make a recipe small; `values` are more of them, the stage and field joined by two `_`."""
    stages = {kind: dict(fields) for kind, fields in SMALL.items()}
    for name, value in values.items():
        kind, _, field = name.partition("__")
        stages[kind][field] = value
    return [
        word
        for kind, fields in stages.items()
        for name, value in fields.items()
        for word in ("--set", f"{kind}.{name}={value}")
    ]


LORA = ["--set", "sft.peft=lora", "--set", "dpo.peft=lora"]


def _named(run: tuple[str, list[str]]) -> str:
    return run[0] + ("-lora" if run[1] else "")


@pytest.fixture(scope="module", params=[*((name, []) for name in RECIPES), ("smollm2_135m", LORA)], ids=_named)
def finished(
    request: pytest.FixtureRequest, hub_home: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, Path]:
    """A recipe's name, and the directory of its run; that of `--prod` was killed in DPO and resumed."""
    recipe, more = request.param
    directory = tmp_path_factory.mktemp(recipe)
    if recipe == "qwen2.5_0.5b":
        dpo_dir = recipes.load(recipe).configs["dpo"].output_dir
        Run(hub_home, directory, "--prod", *small()).kill_at(f"{dpo_dir}/checkpoint-2/trainer_state.json")
        return recipe, Run(hub_home, directory, "--resume", "latest").passed()
    return recipe, Run(hub_home, directory, "--recipe", recipe, *small(), *more).passed()


def read(file: Path) -> dict[str, Any]:
    return dict(json.loads(file.read_text(encoding="utf-8")))


def test_every_stage_starts_from_the_bytes_of_the_one_that_it_names(finished: tuple[str, Path], hub_home: Path) -> None:
    recipe, run_dir = finished
    configs = recipes.load(recipe).configs
    assert tuple(configs) == STAGES
    record = read(run_dir / "run_info.json")
    assert record["status"] == "passed"
    assert [stage["status"] for stage in record["stages"]] == ["passed"] * 4
    for config in configs.values():
        info = read(run_dir / config.output_dir / "stage_info.json")
        source = config.model_name
        if isinstance(source, StageOutput):
            earlier = run_dir / configs[source.name].output_dir
            assert info["input"]["sha256"] == read(earlier / "stage_info.json")["output"]["sha256"]
            assert info["input"]["sha256"] == weights_sha256(earlier)
        else:
            assert source in models_of(recipe)
            assert Path(info["input"]["path"]).is_relative_to(hub_home / "hub")
        assert info["output"]["sha256"] == weights_sha256(run_dir / config.output_dir) != info["input"]["sha256"]


def test_the_run_directory_holds_every_file_of_every_stage(finished: tuple[str, Path]) -> None:
    recipe, run_dir = finished
    assert (run_dir / "console_output.log").is_file()
    for kind, config in recipes.load(recipe).configs.items():
        stage_dir = run_dir / config.output_dir
        assert {path.name for path in stage_dir.iterdir()} >= FILES
        steps = SMALL[kind]["max_steps"]
        assert (stage_dir / f"checkpoint-{steps}").is_dir()
        assert list((stage_dir / "logs").glob("events.out.tfevents.*"))
        lines = (stage_dir / "training_metrics.jsonl").read_text(encoding="utf-8").splitlines()
        assert [json.loads(line)["step"] for line in lines] == list(range(1, steps + 1))


def test_a_model_keeps_the_tokenizer_and_the_template_of_its_recipe(finished: tuple[str, Path]) -> None:
    from transformers import AutoTokenizer

    recipe, run_dir = finished
    for config in recipes.load(recipe).configs.values():
        tokenizer = AutoTokenizer.from_pretrained(run_dir / config.output_dir)
        assert tokenizer.eos_token == "<|im_end|>" != tokenizer.pad_token
        shown = tokenizer.apply_chat_template([{"role": "user", "content": "hello"}], tokenize=False)
        assert "<|im_start|>user\nhello<|im_end|>" in shown


def test_sft_teaches_the_form_of_an_answer_so_that_grpo_has_something_to_prefer(finished: tuple[str, Path]) -> None:
    recipe, run_dir = finished
    configs = recipes.load(recipe).configs
    loss = next(
        result
        for result in read(run_dir / configs["sft"].output_dir / "stage_info.json")["evaluation"]
        if result["metric"] == "loss"
    )
    adapter = read(run_dir / "run_info.json")["configs"]["sft"].get("peft")  # which leaves the embeddings as they are
    assert loss["after"] < (1 if adapter else 0.5) * loss["before"]
    lines = (run_dir / configs["grpo"].output_dir / "training_metrics.jsonl").read_text(encoding="utf-8").splitlines()
    assert any(json.loads(line)["reward_std"] > 0 for line in lines)


def test_what_was_killed_went_on_from_its_checkpoint(finished: tuple[str, Path]) -> None:
    recipe, run_dir = finished
    events = (run_dir / recipes.load(recipe).configs["dpo"].output_dir / "training_events.log").read_text()
    assert ("| RESUME | from checkpoint-" in events) == (recipe == "qwen2.5_0.5b")
    said = (run_dir / "console_output.log").read_text(encoding="utf-8")
    assert ("sft has passed, and is kept" in said) == (recipe == "qwen2.5_0.5b")


def test_no_noise_of_a_library_reaches_the_user(finished: tuple[str, Path]) -> None:
    said = (finished[1].parents[1] / "printed.txt").read_text(encoding="utf-8")
    assert "warning: (" not in said
    assert "Traceback" not in said
