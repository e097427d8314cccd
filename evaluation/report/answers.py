"""The prompts of the report, answered by every stage side by side, and by which rule they were chosen."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from evaluation.report.facts import MODELS_OUTPUT, Facts, RunFacts, StageFacts, items, mapping, number

PROMPTS = 5
INPUT = "input"
"""The column of a model that is no stage of this run."""
LONGEST_PROMPT, LONGEST_ANSWER = 1500, 1200
"""Letters of a prompt and of an answer that are shown."""


@dataclass(frozen=True)
class Answer:
    """What one stage said, and what it scored."""

    text: str | None
    metric: str
    score: float | None


@dataclass(frozen=True)
class Asked:
    """One held-out prompt, and the answers to it by stage."""

    task: str
    before: str
    """The turns before what is asked, such as a system message; "" where there are none."""
    prompt: str
    group: str | None
    expected: str | None
    answers: Mapping[str, Answer]

    @property
    def scores(self) -> list[float]:
        """The scores that there are, in the order of the stages."""
        return [answer.score for answer in self.answers.values() if answer.score is not None]


def improved(asked: Asked) -> bool:
    """Tell whether the last stage scores higher than the first."""
    return len(asked.scores) > 1 and asked.scores[-1] > asked.scores[0]


def regressed(asked: Asked) -> bool:
    """Tell whether a stage scores lower than the one before it."""
    return any(later < earlier for earlier, later in zip(asked.scores, asked.scores[1:], strict=False))


RULES: tuple[tuple[str, int, Callable[[Asked], bool]], ...] = (
    ("the last stage scores higher than the first", 2, lambda asked: improved(asked) and not regressed(asked)),
    ("a stage scores lower than the one before it", 2, regressed),
    ("the last stage scores no higher than the first", 1, lambda asked: not improved(asked) and not regressed(asked)),
)
"""Which prompts are shown: why, how many, and the test."""


def chosen(run: RunFacts) -> tuple[list[Asked], str]:
    """Return the prompts to show, and how they were chosen.

    They are the first of each kind of `RULES`, in the order of the held-out rows, of groups that are not there yet
    where there are such; of prompts that the most stages answered.
    """
    everything = all_asked(run)
    most = max((len(asked.answers) for asked in everything), default=0)
    asked = [one for one in everything if len(one.answers) == most and len(one.scores) > 1]
    if not asked:
        return everything[:PROMPTS], "The first held-out prompts." if everything else ""
    taken: list[Asked] = []
    said = []
    for why, count, is_one in RULES:
        found = [one for one in asked if is_one(one)]
        taken += _first_of_each_group([one for one in found if one not in taken], taken, count)
        said.append(f"at {len(found)} {why}")
    taken += [one for one in asked if one not in taken][: max(0, PROMPTS - len(taken))]
    order = {id(one): place for place, one in enumerate(asked)}
    rule = f"Of {len(asked)} held-out prompts, {', '.join(said)}. Shown are the first of each kind: two, two and one"
    return sorted(taken, key=lambda one: order[id(one)]), f"{rule}, and of others where a kind has too few."


def _first_of_each_group(found: Sequence[Asked], taken: Sequence[Asked], count: int) -> list[Asked]:
    """Return the first `count` of `found`, those first whose groups are not among what is taken."""
    picked: list[Asked] = []
    for _ in range(min(count, len(found))):
        seen = [one.group for one in (*taken, *picked)]
        left = [one for one in found if one not in picked]
        picked.append(min(left, key=lambda one: seen.count(one.group)))  # min keeps the first of equals
    return picked


def all_asked(run: RunFacts) -> list[Asked]:
    """Return every prompt of the run's samples with the answers to it, in the order of the stages and of the rows.

    What a stage's input said stands under the stage that wrote that input, and under "input" where no stage of the run
    did.
    """
    policies = [stage for stage in run.policies if stage.samples]
    rows: dict[str, Facts] = {}
    answers: dict[str, dict[str, Answer]] = {}
    for stage in policies:
        before = _stage_before(stage, policies)
        for sample in stage.samples:
            key = json.dumps([sample.get("task"), sample.get("prompt")], sort_keys=True)
            rows.setdefault(key, sample)
            for column, side in ((before, sample.get("before")), (stage.name, sample.get("after"))):
                if isinstance(side, Mapping):
                    answers.setdefault(key, {}).setdefault(column, _answer(side))
    columns = [INPUT, *(stage.name for stage in policies)]
    asked = []
    for key, row in rows.items():
        if key not in answers:
            continue
        before, prompt = _turns(row.get("prompt"))
        asked.append(
            Asked(
                task=str(row.get("task")),
                before=_cut(before, LONGEST_PROMPT),
                prompt=_cut(prompt, LONGEST_PROMPT),
                group=_optional(row.get("group")),
                expected=_optional(row.get("expected")),
                answers={column: answers[key][column] for column in columns if column in answers[key]},
            )
        )
    return asked


def _stage_before(stage: StageFacts, stages: Sequence[StageFacts]) -> str:
    return next((one.name for one in stages if stage.input_ref == MODELS_OUTPUT.format(one.name)), INPUT)


def _answer(side: Mapping[str, Any]) -> Answer:
    metric, score = next(iter(mapping(side.get("scores")).items()), ("", None))
    text = side.get("text")
    return Answer(None if text is None else _cut(str(text), LONGEST_ANSWER), metric, number(score))


def _turns(prompt: Any) -> tuple[str, str]:
    """Return a prompt as one reads it: the turns before the last, with who speaks, and what the last asks."""
    turns = items(prompt)
    if not turns:
        return "", str(prompt)
    return "\n".join(f"{turn.get('role')}: {turn.get('content')}" for turn in turns[:-1]), str(turns[-1].get("content"))


def _optional(value: Any) -> str | None:
    return None if value is None else str(value)


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[:most]}…"
