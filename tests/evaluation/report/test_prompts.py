"""The prompts that are shown: of every kind, by the stated rule."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from evaluation.report import REPORT_FILE, write_report
from evaluation.report.facts import read_run
from evaluation.report.prompts import chosen

Line = dict[str, Any]


def line(task: str, prompt: str, metric: str, before: float, after: float) -> Line:
    """Return a line of samples.jsonl."""
    sides = {name: {"text": name, "scores": {metric: score}} for name, score in (("before", before), ("after", after))}
    return {"task": task, "prompt": prompt, "group": None, "expected": None} | sides


STAGES = {"pretrain": "passed", "sft": "passed", "dpo": "passed"}


def test_improvements_and_regressions_are_both_shown(make_run: Callable[..., Path]) -> None:
    """Of SCORES: 0, 3, 4, 6 improve, 1 falls back, 2 and 5 stay; one place is free, and goes to the first other."""
    ((title, rule, asked),) = chosen(read_run(make_run(**STAGES)))
    assert title == "Prompts of skills, answered by pretrain, sft, dpo"
    assert [one.text for one in asked] == [f"question {number}" for number in (0, 1, 2, 3, 4)]
    assert rule.startswith("7 held-out prompts: 4 improved, 2 did not, 1 got worse at some stage.")


def test_each_answer_stands_under_the_stage_that_gave_it(make_run: Callable[..., Path]) -> None:
    ((_, _, asked),) = chosen(read_run(make_run(**STAGES)))
    assert {stage: answer.text for stage, answer in asked[1].answers.items()} == {
        "pretrain": "says 0",
        "sft": "says 1",
        "dpo": "says 0",
    }


def test_an_input_that_is_no_stage_of_the_run_has_a_column(make_run: Callable[..., Path]) -> None:
    ((_, _, asked),) = chosen(read_run(make_run(sft="passed")))
    assert list(asked[0].answers) == ["input", "sft"]


def test_every_stages_own_prompts_are_shown_whatever_others_answered(make_run: Callable[..., Path]) -> None:
    """GRPO's on its own data are answered by fewer stages than the verifier's problems are."""
    run_dir = make_run(**STAGES, grpo="passed")
    own = [line("rewards", f"mine {number}", "brief", 0.25, 0.5) for number in range(9)]
    (run_dir / "my-grpo/samples.jsonl").write_text("".join(json.dumps(one) + "\n" for one in own), encoding="utf-8")
    groups = {group.title: group for group in chosen(read_run(run_dir))}
    assert list(groups) == [
        "Prompts of skills, answered by pretrain, sft, dpo",
        "Prompts of rewards, answered by dpo, grpo",
    ]
    shown = groups["Prompts of rewards, answered by dpo, grpo"]
    assert [one.text for one in shown.prompts] == [f"mine {number}" for number in range(5)]
    assert shown.rule.startswith("9 held-out prompts: 9 improved, 0 did not, 0 got worse at some stage.")


def test_whether_an_answer_ends_is_no_score(make_run: Callable[..., Path]) -> None:
    run_dir = make_run(sft="passed")
    said = json.dumps(line("answers", "?", "stop_rate", 0.0, 1.0))
    (run_dir / "my-sft/samples.jsonl").write_text(said, encoding="utf-8")
    ((_, rule, (prompt,)),) = chosen(read_run(run_dir))
    assert rule == "1 held-out prompt, whose answers nothing scores."
    assert prompt.scores == []
    assert [answer.is_cut_off for answer in prompt.answers.values()] == [True, False]
    write_report(run_dir)
    page = (run_dir / REPORT_FILE).read_text(encoding="utf-8")
    assert page.count('<span class="badge">cut off</span>') == 1
    assert "no reference" in page
