"""Real input: a published trained model through SFT, reward model, DPO and GRPO on published data, and what is refused.

The model writes stories and has no chat template; the data are Alpaca-like instructions, preferences, and maths.
"""

import json
import math
from pathlib import Path
from typing import Any

import pytest

from run_all import main
from tests.conftest import SHARED
from utils.files import weights_sha256

pytestmark = [
    pytest.mark.shared,
    pytest.mark.slow,
    pytest.mark.skipif(not SHARED.is_dir(), reason=f"needs the fixtures in {SHARED}"),
]

MODEL = SHARED / "fixtures/models/stories260K"
INSTRUCTIONS = SHARED / "fixtures/data/sft/rasbt_instruction_data.json"
PREFERENCES = SHARED / "fixtures/data/preference/rasbt_instruction_preference.json"
UNPAIRED = SHARED / "fixtures/data/preference/lf_kto_en_100.json"
GSM8K = SHARED / "fixtures/data/reasoning/gsm8k_train_500.jsonl"
COUNTDOWN = SHARED / "fixtures/data/reasoning/tinyzero_countdown_500.parquet"
INPUT_OF = {"sft": None, "reward": "sft", "dpo": "sft", "grpo": "dpo"}
"""The stage that each starts from; None is the published model."""
SHORT: dict[str, Any] = {
    "max_steps": 6, "per_device_train_batch_size": 8, "learning_rate": 1e-3, "logging_steps": 1, "save_steps": 6,
    "gradient_checkpointing": False, "bf16": False, "eval_samples": 40,
}  # fmt: skip


def words_of_the_answer(completions: list[Any], answer: list[str], solution: list[str], **_: Any) -> list[float]:
    """Return which share of a completion's words occurs in GSM8K's worked answer."""
    assert all(worked.endswith(f"#### {right}") for worked, right in zip(answer, solution, strict=True))
    said = [set(completion[0]["content"].casefold().split()) for completion in completions]
    asked = [set(worked.casefold().split()) for worked in answer]
    return [len(ours & theirs) / max(len(ours), 1) for ours, theirs in zip(said, asked, strict=True)]


def brevity(completions: list[Any], target: list[int], nums: list[list[int]], **_: Any) -> list[float]:
    """Return minus the length of each completion, in characters; countdown's columns must have come with it."""
    assert all(isinstance(number, int) for number in [*target, *(one for row in nums for one in row)])
    return [-float(len(completion[0]["content"])) for completion in completions]


def _configs() -> dict[str, Any]:
    from algorithms import StageOutput, TrainingConfig

    data = {"sft": INSTRUCTIONS, "reward": PREFERENCES, "dpo": PREFERENCES, "grpo": GSM8K}
    return {
        kind: TrainingConfig(
            model_name=str(MODEL) if source is None else StageOutput(source),
            output_dir=f"stories-{kind}",
            dataset_name=str(data[kind]),
            **SHORT | ({} if kind == "grpo" else {"max_length": 512}),
        )
        for kind, source in INPUT_OF.items()
    }


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of the four stages; GRPO's rewards are a function of this file and the reward model."""
    from algorithms import GRPOExtraConfig, StageOutput
    from pipeline import run_pipeline

    extra = GRPOExtraConfig(
        reward_func=[words_of_the_answer, StageOutput("reward")], num_generations=4, max_completion_length=24
    )
    return run_pipeline(_configs(), extra, runs_dir=tmp_path_factory.mktemp("real") / "runs")


def _info(run_dir: Path, kind: str) -> dict[str, Any]:
    text = (run_dir / f"stories-{kind}" / "stage_info.json").read_text(encoding="utf-8")
    return dict(json.loads(text, parse_constant=pytest.fail))


def _metrics(run_dir: Path, kind: str) -> list[dict[str, Any]]:
    text = (run_dir / f"stories-{kind}" / "training_metrics.jsonl").read_text(encoding="utf-8")
    return [dict(json.loads(line, parse_constant=pytest.fail)) for line in text.splitlines()]


@pytest.mark.parametrize("kind", INPUT_OF)
def test_a_stage_changes_the_weights_of_the_output_before_it(kind: str, run_dir: Path) -> None:
    info, source = _info(run_dir, kind), INPUT_OF[kind]
    path = MODEL if source is None else run_dir / f"stories-{source}"
    assert info["status"] == "passed"
    assert info["input"] == {
        "ref": str(MODEL) if source is None else f'StageOutput("{source}")',
        "path": str(path.resolve()),
        "sha256": weights_sha256(path),
    }
    assert info["output"]["sha256"] == weights_sha256(run_dir / f"stories-{kind}") != info["input"]["sha256"]
    norms = [line["grad_norm"] for line in _metrics(run_dir, kind)]
    assert len(norms) == SHORT["max_steps"]
    assert all(math.isfinite(norm) and norm > 0 for norm in norms)


@pytest.mark.parametrize("kind", INPUT_OF)
def test_a_stage_is_measured_before_and_after_with_finite_figures(kind: str, run_dir: Path) -> None:
    results = _info(run_dir, kind)["evaluation"]
    wanted = {
        "sft": {("demonstrations", "loss"), ("answers", "stop_rate")},
        "reward": {("pairs", "accuracy"), ("pairs", "margin")},
        "dpo": {("demonstrations", "loss"), ("preferences", "margin"), ("reward_model", "prefers_after")},
        "grpo": {("demonstrations", "loss"), ("rewards", "words_of_the_answer"), ("reward_model", "reward")},
    }
    assert {(result["task"], result["metric"]) for result in results} >= wanted[kind]
    for result in results:
        if result["before"] is None and result.get("reason", "").startswith("before:"):
            continue  # the published model has no chat template to be asked by
        assert result["n"] > 0, result
        assert all(math.isfinite(figure) for figure in (result["before"], result["after"], *result["ci95"])), result


def test_every_row_is_used_or_accounted_for(run_dir: Path) -> None:
    data = {kind: _info(run_dir, kind)["data"] for kind in INPUT_OF}
    rows = {kind: each["train_rows"] + each["eval_rows"] + each["dropped"] for kind, each in data.items()}
    beyond_eval_samples = {kind: total - rows[kind] for kind, total in (("sft", 1100), ("dpo", 1100), ("grpo", 500))}
    assert all(0 <= unused <= 30 for unused in beyond_eval_samples.values()), rows
    assert data["dpo"]["dropped"] == data["reward"]["dropped"] == 6  # the pairs that are no pairs
    assert data["dpo"]["fingerprint"] == data["reward"]["fingerprint"]


def test_sft_learns_real_instructions_and_gives_the_model_a_template(run_dir: Path) -> None:
    (loss,) = [r for r in _info(run_dir, "sft")["evaluation"] if (r["task"], r["metric"]) == ("demonstrations", "loss")]
    assert loss["after"] < loss["before"]
    assert loss["ci95"][1] < 0
    assert not (MODEL / "chat_template.jinja").exists()
    templates = {(run_dir / f"stories-{kind}" / "chat_template.jinja").read_text() for kind in INPUT_OF}
    assert len(templates) == 1


def test_grpo_is_rewarded_by_the_callers_function_and_the_reward_model(run_dir: Path) -> None:
    for line in _metrics(run_dir, "grpo"):
        assert line["reward_std"] > 0
        parts = line["rewards/words_of_the_answer/mean"] + line["rewards/stories-reward/mean"]
        assert line["reward"] == pytest.approx(parts, rel=1e-4, abs=1e-6)


def test_grpo_on_countdown_rows_starts_from_the_earlier_runs_dpo(run_dir: Path) -> None:
    from dataclasses import replace

    from algorithms import GRPOExtraConfig
    from pipeline import run_pipeline

    configs = _configs()
    configs["grpo"] = replace(configs["grpo"], dataset_name=str(COUNTDOWN), max_steps=2, eval_samples=8)
    extra = GRPOExtraConfig(reward_func=brevity, num_generations=4, max_completion_length=16)
    again = run_pipeline(configs, extra, runs_dir=run_dir.parent, stages=["grpo"], from_run=run_dir.name)
    info = _info(again, "grpo")
    assert info["input"]["sha256"] == _info(run_dir, "dpo")["output"]["sha256"] != info["output"]["sha256"]
    assert all(line["rewards/brevity/mean"] < 0 < line["reward_std"] for line in _metrics(again, "grpo"))


REFUSALS = {
    "unpaired preferences for DPO": (
        "dpo", UNPAIRED, "None", ["lf_kto_en_100.json", "messages", "label", "chosen", "rejected"],
    ),
    "maths for a reward model": ("reward", GSM8K, "None", ["question", "answer", "chosen", "rejected"]),
    "a model without a chat template": ("dpo", PREFERENCES, "None", ["no chat template", "sft stage first"]),
    "a reward whose column is not there": (
        "grpo", GSM8K, "GRPOExtraConfig(reward_func='made_strict')", ["needs skill", "question", "answer"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSALS)
def test_real_input_that_a_stage_cannot_take_is_refused_and_nothing_is_created(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    kind, data, extra, told = REFUSALS[case]
    model = MODEL
    if kind == "grpo":  # so that the reward is what is refused
        model = tmp_path / "with-template"
        _with_template(model)
    (tmp_path / "mine.py").write_text(
        "from algorithms import GRPOExtraConfig, TrainingConfig\n"
        f"configs = {{'{kind}': TrainingConfig(model_name={str(model)!r}, output_dir='x',"
        f" dataset_name={str(data)!r})}}\n"
        f"grpo_extra = {extra}\n",
        encoding="utf-8",
    )
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    assert main(["--recipe", "mine.py"]) == 2
    said = capsys.readouterr()
    message = " ".join(said.err.split())
    for words in (kind, *told):
        assert words in message
    assert "Traceback" not in said.err + said.out
    assert [path for path in sorted(tmp_path.rglob("*")) if "__pycache__" not in path.parts] == before


def _with_template(directory: Path) -> None:
    """Copy the published model, and give it the project's chat template."""
    import shutil

    from data.chat import CHAT_TEMPLATE

    shutil.copytree(MODEL, directory, copy_function=shutil.copyfile)
    directory.chmod(0o755)
    (directory / "chat_template.jinja").write_text(CHAT_TEMPLATE, encoding="utf-8")
