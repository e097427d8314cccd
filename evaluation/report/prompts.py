"""The held-out prompts that the report shows, answered by every stage side by side."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from evaluation.report.facts import Facts, RunFacts, items, mapping, number

MOST = 5
INPUT = "input"
"""The column of a model that is no stage of this run."""


@dataclass(frozen=True)
class Answer:
    """What one stage answered, and what it scored."""

    text: str | None
    metric: str
    score: float | None


@dataclass
class Prompt:
    """One held-out prompt, and the answers to it by stage."""

    row: Facts
    answers: dict[str, Answer] = field(default_factory=dict)

    @property
    def turns(self) -> tuple[str, str]:
        """The turns before the last, with who speaks, "" where there are none; and what the last one asks."""
        turns = items(self.row.get("prompt"))
        if not turns:
            return "", str(self.row.get("prompt"))
        before = "\n".join(f"{turn.get('role')}: {turn.get('content')}" for turn in turns[:-1])
        return before, str(turns[-1].get("content"))

    @property
    def scores(self) -> list[float]:
        """The scores that there are, in the order of the stages."""
        return [answer.score for answer in self.answers.values() if answer.score is not None]


def fell(prompt: Prompt) -> bool:
    """Tell whether a stage scores lower than the one before it."""
    return any(later < earlier for earlier, later in zip(prompt.scores, prompt.scores[1:], strict=False))


def rose(prompt: Prompt) -> bool:
    """Tell whether the last stage scores higher than the first, and none lower than the one before it."""
    return prompt.scores[-1] > prompt.scores[0] and not fell(prompt)


RULES: tuple[tuple[str, int, Callable[[Prompt], bool]], ...] = (
    ("the last stage scores higher than the first", 2, rose),
    ("a stage scores lower than the one before it", 2, fell),
    ("the last stage scores no higher than the first", 1, lambda prompt: not rose(prompt) and not fell(prompt)),
)
"""Which prompts are shown: why, how many, and the test."""


def chosen(run: RunFacts) -> tuple[list[Prompt], str]:
    """Return the prompts to show, and how they were chosen.

    They are the first of each kind of `RULES`, in the order of the held-out rows, of those that the most stages
    answered.
    """
    every = answered(run)
    most = max((len(prompt.answers) for prompt in every), default=0)
    scored = [prompt for prompt in every if len(prompt.answers) == most and len(prompt.scores) > 1]
    if not scored:
        return every[:MOST], "The first held-out prompts." if every else ""
    picked: list[int] = []
    counts = []
    for why, count, test in RULES:
        places = [place for place, prompt in enumerate(scored) if test(prompt)]
        picked += places[:count]
        counts.append(f"at {len(places)} {why}")
    picked += [place for place in range(len(scored)) if place not in picked][: MOST - len(picked)]
    rule = f"Of {len(scored)} held-out prompts, {', '.join(counts)}. Shown are the first of each kind: two, two and one"
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
        before = writers.get(stage.input_ref or "", INPUT)
        for sample in stage.samples:
            key = json.dumps([sample.get("task"), sample.get("prompt")], sort_keys=True)
            prompt = prompts.setdefault(key, Prompt(sample))
            for column, side in ((before, "before"), (stage.name, "after")):
                if isinstance(sample.get(side), Mapping):
                    prompt.answers.setdefault(column, _answer(sample[side]))
    return [_in_order(prompt, [INPUT, *writers.values()]) for prompt in prompts.values() if prompt.answers]


def _in_order(prompt: Prompt, columns: Sequence[str]) -> Prompt:
    return Prompt(prompt.row, {column: prompt.answers[column] for column in columns if column in prompt.answers})


def _answer(side: Mapping[str, Any]) -> Answer:
    metric, score = next(iter(mapping(side.get("scores")).items()), ("", None))
    text = side.get("text")
    return Answer(None if text is None else str(text), metric, number(score))
