"""The held-out prompts that the report shows, answered by every stage side by side."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, NamedTuple

from evaluation.report.facts import RunFacts, items, mapping, number

MOST = 5
INPUT = "input"
"""The column of a model that is no stage of this run."""
ROSE, FELL, STAYED = RULES = (
    "improved",
    "got worse at some stage",
    "did not improve",
)
SHOWN = {ROSE: 2, FELL: 2, STAYED: 1}
"""How many prompts of each kind are shown."""


class Answer(NamedTuple):
    """What one stage answered, and what it scored."""

    text: str | None
    metric: str
    score: float | None


@dataclass
class Prompt:
    """One held-out prompt, and the answers to it by stage."""

    text: str
    expected: str | None
    answers: dict[str, Answer] = field(default_factory=dict)

    @property
    def scores(self) -> list[float]:
        """The scores that there are, in the order of the stages."""
        return [answer.score for answer in self.answers.values() if answer.score is not None]

    @property
    def change(self) -> str:
        """How its scores changed over the stages: one of `RULES`."""
        if any(later < earlier for earlier, later in pairwise(self.scores)):
            return FELL
        return ROSE if self.scores[-1] > self.scores[0] else STAYED


def chosen(run: RunFacts) -> tuple[list[Prompt], str]:
    """Return the prompts to show, and how they were chosen.

    They are the first of each kind, in the order of the held-out rows, of those that the most stages answered.
    """
    every = answered(run)
    most = max((len(prompt.answers) for prompt in every), default=0)
    scored = [prompt for prompt in every if len(prompt.answers) == most and len(prompt.scores) > 1]
    if not scored:
        return every[:MOST], "The first held-out prompts." if every else ""
    of = {rule: [place for place, prompt in enumerate(scored) if prompt.change == rule] for rule in RULES}
    picked = [place for rule, count in SHOWN.items() for place in of[rule][:count]]
    picked += [place for place in range(len(scored)) if place not in picked][: MOST - len(picked)]
    counts = ", ".join(f"{len(places)} {rule}" for rule, places in of.items())
    rule = f"{len(scored)} held-out prompts: {counts}. Shown are the first of each kind: two, two and one"
    return [scored[place] for place in sorted(picked)], f"{rule}, and of others where a kind has too few."


def answered(run: RunFacts) -> list[Prompt]:
    """Return every prompt of the run's samples with the answers to it, in the order of the stages and of the rows.

    What a stage's input answered stands under the stage that wrote that input, and under "input" where no stage of the
    run did.
    """
    policies = [stage for stage in run.policies if stage.samples]
    writers = {f'StageOutput("{stage.name}")': stage.name for stage in policies}
    prompts: dict[str, Prompt] = {}
    for stage in policies:
        for sample in stage.samples:
            key = json.dumps([sample.get("task"), sample.get("prompt")], sort_keys=True)
            prompt = prompts.setdefault(key, Prompt(_text(sample.get("prompt")), sample.get("expected")))
            for column, side in ((writers.get(stage.input_ref or "", INPUT), "before"), (stage.name, "after")):
                if isinstance(sample.get(side), Mapping):
                    prompt.answers.setdefault(column, _answer(sample[side]))
    for prompt in prompts.values():  # an input answers before the stages, in whichever order they were read
        prompt.answers = {name: prompt.answers[name] for name in (INPUT, *writers.values()) if name in prompt.answers}
    return [prompt for prompt in prompts.values() if prompt.answers]


def _text(prompt: Any) -> str:
    """Return a prompt as one reads it; of several turns, with who speaks."""
    turns = items(prompt)
    if len(turns) < 2:
        return str(turns[0].get("content") if turns else prompt)
    return "\n".join(f"{turn.get('role')}: {turn.get('content')}" for turn in turns)


def _answer(side: Mapping[str, Any]) -> Answer:
    metric, score = next(iter(mapping(side.get("scores")).items()), ("", None))
    text = side.get("text")
    return Answer(None if text is None else str(text), metric, number(score))
