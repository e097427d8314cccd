"""A kind of stage that a recipe brings: planned, run, stopped, resumed, measured and shown as any other."""

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import kinds
from algorithms import StageOutput, TrainingConfig
from algorithms.sft import SupervisedFineTuning
from algorithms.watch import Watch
from chain.plan import plan
from chain.stages import stages_of
from evaluation.choose import Chain
from evaluation.task import Task
from evaluation.tasks import Demonstrations
from kinds import Stage
from pipeline import Interrupted, run_pipeline
from tests.algorithms.conftest import configure, data_files, model_dir
from utils.files import weights_sha256

__all__ = ["configure", "data_files", "model_dir"]  # fixtures

Configs = dict[str, TrainingConfig]


def half(stage: Stage, chain: Chain) -> list[Task]:
    """Return the task of this file: the demonstrations of the first half of the held-out rows."""
    rows = chain.held_out[stage.label]
    return [Demonstrations(rows.first(max(len(rows.rows) // 2, 1)))]


class Parroting(SupervisedFineTuning):
    """Supervised fine-tuning that is measured by a task of its own alone."""

    name = "parroting"
    tasks = (half,)  # type: ignore[assignment]
    figures = ("demonstrations accuracy",)  # type: ignore[assignment]
    headlines = ("demonstrations accuracy",)  # type: ignore[assignment]


@pytest.fixture
def configs(
    configure: Callable[..., TrainingConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Configs]:
    """Two stages, the first of the kind of this file, which is registered as long as a test runs."""
    monkeypatch.chdir(tmp_path)
    kinds.register(Parroting())
    quick: dict[str, Any] = {"save_steps": 2, "eval_samples": 8, "max_steps": 4}
    yield {
        "parrot": configure("parroting", stage="parroting", output_dir="parrot", **quick),
        "sft": configure("sft", model_name=StageOutput("parrot"), **quick),
    }
    del kinds.KINDS[Parroting.name]


def info(stage_dir: Path) -> dict[str, Any]:
    return dict(json.loads((stage_dir / "stage_info.json").read_text()))


def test_a_kind_of_ones_own_is_planned_run_measured_and_shown(
    configs: Configs, capsys: pytest.CaptureFixture[str]
) -> None:
    needs = plan(stages_of(configs), {})
    assert [(need.stage.label, need.stage.kind.name, need.steps) for need in needs] == [
        ("parrot", "parroting", 4),
        ("sft", "sft", 4),
    ]
    assert all(need.memory is not None and need.train_rows for need in needs)
    run = run_pipeline(configs)
    record = json.loads((run / "run_info.json").read_text())
    assert [(one["name"], one["kind"], one["status"]) for one in record["stages"]] == [
        ("parrot", "parroting", "passed"),
        ("sft", "sft", "passed"),
    ]
    said = capsys.readouterr().out
    results = info(run / "parrot")["evaluation"]
    assert {one["task"] for one in results} == {"demonstrations"}
    assert {one["n"] for one in results} == {info(run / "parrot")["data"]["eval_rows"] // 2}
    for text in (said, (run / "report.html").read_text(encoding="utf-8")):
        assert "demonstrations accuracy" in text
    assert "of stage parrot of run" in (run / "parrot/README.md").read_text(encoding="utf-8")


def test_a_kind_of_ones_own_resumes_to_the_same_bits(configs: Configs, monkeypatch: pytest.MonkeyPatch) -> None:
    one = {"parrot": configs["parrot"]}
    whole = run_pipeline(one)
    begin = Watch.on_step_begin

    def stopping(watch: Watch, args: Any, state: Any, control: Any, **given: Any) -> Any:
        if state.global_step == 3:
            raise KeyboardInterrupt
        return begin(watch, args, state, control, **given)

    with monkeypatch.context() as patched:
        patched.setattr(Watch, "on_step_begin", stopping)
        with pytest.raises(Interrupted):
            run_pipeline(one)
    stopped = run_pipeline(one, resume="latest")
    assert stopped != whole
    assert "RESUME | from checkpoint-2 of 4 steps" in (stopped / "parrot/training_events.log").read_text()
    assert weights_sha256(stopped / "parrot") == weights_sha256(whole / "parrot")


def test_a_run_of_a_kind_that_is_gone_can_still_be_shown(configs: Configs, capsys: pytest.CaptureFixture[str]) -> None:
    from evaluation.report import write_report

    run = run_pipeline({"parrot": replace(configs["parrot"], max_steps=1)})
    kind = kinds.KINDS.pop(Parroting.name)
    try:
        (run / "report.html").unlink()
        write_report(run)
    finally:
        kinds.KINDS[Parroting.name] = kind
    assert "parrot" in (run / "report.html").read_text(encoding="utf-8")
