"""A stage's samples: what it and its input answer to the same held-out prompts, with the scores, to be read."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from data.examples import Row, prompt_of
from evaluation.scored_model import ScoredModel
from evaluation.task import MOST_SAMPLES, PromptTask, Scores, Task
from utils.errors import Refused
from utils.files import jsonable, write_json
from utils.matching import right_answers

SAMPLES_FILE = "samples.jsonl"
ANSWERED = ("completion", "messages", "chosen", "output", "response")
"""Columns of a row that hold what a good answer is, where it names none to be checked."""

Side = tuple[ScoredModel, Sequence[Scores | str | None]]
"""A checkpoint, and its scores on each task; a string or nothing in place of scores where there are none."""


def write_samples(directory: Path, tasks: Sequence[Task], sides: Mapping[str, Side]) -> None:
    """Write `samples.jsonl` from completions that scoring has generated; none where the tasks ask for none.

    A line is `{task, prompt, group, expected, before, after}`; `before` and `after` are `{text, scores}`, or null where
    that side could not be given the task. `group` and `expected`, the kind of problem and its answer, may be null.
    """
    lines: list[dict[str, Any]] = []
    for index, task in enumerate(tasks):
        if not isinstance(task, PromptTask) or task.sampled:
            continue
        said = {
            name: _answers(task, checkpoint, scores[index])
            for name, (checkpoint, scores) in sides.items()
            if isinstance(scores[index], dict)
        }
        for place, row in enumerate(task.held_out.rows[:MOST_SAMPLES] if said else []):
            asked = prompt_of(row)
            answers = {name: said[name][place] if name in said else None for name in ("before", "after")}
            line = {"task": task.name, "prompt": asked and asked[0], "group": task.group_of(row)}
            line["expected"] = expected_of(row)
            lines.append(line | answers)
    if lines:
        write_json(directory / SAMPLES_FILE, *lines, indent=None)


def expected_of(row: Row) -> str | None:
    """Return what a row's answer should be: its answers, of a worked one what it comes to, or else its completion."""
    value = row["solution"] if row.get("answer") is None and "solution" in row else row.get("answer")
    try:
        answers = right_answers(value)
    except Refused:  # an object that a reward of the recipe's own reads
        return json.dumps(jsonable(value), ensure_ascii=False)
    if answers:
        return " or ".join(answers)
    answered = next((row[name] for name in ANSWERED if row.get(name) not in (None, "", [])), None)
    last = answered[-1] if isinstance(answered, list) else answered
    if isinstance(last, Mapping):  # of turns, what the assistant says last
        last = last.get("content") if last.get("role") == "assistant" else None
    return None if last is None else str(last)


def _answers(task: PromptTask, checkpoint: ScoredModel, scores: Scores | str | None) -> list[dict[str, Any]]:
    assert isinstance(scores, dict), scores
    return [
        {"text": text, "scores": {name: scores[name][place] for name in task.judged_by if name in scores}}
        for place, text in enumerate(task.texts(checkpoint))
    ]
