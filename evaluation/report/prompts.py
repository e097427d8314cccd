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
ROSE, STAYED, FELL = RULES = ("improved", "did not", "got worse at some stage")
SHOWN = {ROSE: 2, STAYED: 1, FELL: 2}
"""How many prompts of each kind are shown."""
ENDS = "stop_rate"
"""It says whether an answer ends, and not whether it is good."""


class Answer(NamedTuple):
    """What one stage answered, and what it scored."""

    text: str | None
    metric: str
    score: float | None
    """None where nothing says how good the answer is."""
    is_cut_off: bool = False


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


class Answered(NamedTuple):
    """Prompts of one task that the same stages answered."""

    title: str
    rule: str
    """How many there are, and how the ones to show were chosen."""
    prompts: list[Prompt]


def chosen(run: RunFacts) -> list[Answered]:
    """Return the prompts to show, for each task and each set of stages that answered them."""
    groups: dict[tuple[str, ...], list[Prompt]] = {}
    for task, prompt in answered(run):
        groups.setdefault((task, *prompt.answers), []).append(prompt)
    return [
        Answered(f"Prompts of {task}, answered by {', '.join(stages)}", *_few(prompts))
        for (task, *stages), prompts in groups.items()
    ]


def _few(prompts: list[Prompt]) -> tuple[str, list[Prompt]]:
    """Return how a few of the prompts were chosen, the first of each kind in the order of the rows, and those few."""
    count = f"{len(prompts)} held-out prompt{'' if len(prompts) == 1 else 's'}"
    scored = [prompt for prompt in prompts if len(prompt.scores) > 1]
    if not scored:
        judged = "" if any(prompt.scores for prompt in prompts) else ", whose answers nothing scores"
        return f"{count}{judged}" + (f"; the first {MOST} are shown." if len(prompts) > MOST else "."), prompts[:MOST]
    of = {rule: [place for place, prompt in enumerate(scored) if prompt.change == rule] for rule in RULES}
    picked = [place for rule, most in SHOWN.items() for place in of[rule][:most]]
    picked += [place for place in range(len(scored)) if place not in picked][: MOST - len(picked)]
    rule = f"{count}: {', '.join(f'{len(places)} {rule}' for rule, places in of.items())}."
    if len(scored) > len(picked):
        rule += " Shown are the first of each: two, one and two, and more of the others where one has fewer."
    return rule, [scored[place] for place in sorted(picked)]


def answered(run: RunFacts) -> list[tuple[str, Prompt]]:
    """Return every prompt of the run's samples with its task and its answers, in the order of the stages and the rows.

    What a stage's input answered stands under the stage that wrote that input, and under "input" where no stage of the
    run did.
    """
    policies = [stage for stage in run.policies if stage.samples]
    writers = {f'StageOutput("{stage.name}")': stage.name for stage in policies}
    prompts: dict[tuple[str, str], Prompt] = {}
    for stage in policies:
        for sample in stage.samples:
            key = str(sample.get("task")), json.dumps(sample.get("prompt"), sort_keys=True)
            prompt = prompts.setdefault(key, Prompt(_text(sample.get("prompt")), sample.get("expected")))
            for column, side in ((writers.get(stage.input_ref or "", INPUT), "before"), (stage.name, "after")):
                if isinstance(sample.get(side), Mapping):
                    prompt.answers.setdefault(column, _answer(sample[side]))
    for prompt in prompts.values():  # an input answers before the stages, in whichever order they were read
        prompt.answers = {name: prompt.answers[name] for name in (INPUT, *writers.values()) if name in prompt.answers}
    return [(task, prompt) for (task, _), prompt in prompts.items() if prompt.answers]


def _text(prompt: Any) -> str:
    """Return a prompt as one reads it; of several turns, with who speaks."""
    turns = items(prompt)
    if len(turns) < 2:
        return str(turns[0].get("content") if turns else prompt)
    return "\n".join(f"{turn.get('role')}: {turn.get('content')}" for turn in turns)


def _answer(side: Mapping[str, Any]) -> Answer:
    metric, score = next(iter(mapping(side.get("scores")).items()), ("", None))
    text = None if side.get("text") is None else str(side["text"])
    if metric == ENDS:
        return Answer(text, "", None, is_cut_off=score == 0)
    return Answer(text, metric, number(score))
