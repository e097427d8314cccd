"""Which tasks each stage of a run is measured on."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

from data import made
from data.examples import Row, prompt_of
from evaluation.answers import Answers, Rewards, SampledRewards
from evaluation.confounds import OtherQuestions, WorseAnswers
from evaluation.judged import VerifiedAnswers
from evaluation.skills import SampledSkills, Skills, VerifiedTask
from evaluation.task import HeldOut, Task
from evaluation.tasks import Demonstrations, LanguageModelling, Preferences, RewardPairs, Thumbs
from evaluation.verifier import Verifier
from kinds import Stage

ANSWERED_PROMPTS = 64
"""Held-out prompts of a stage's own data that are answered for the stop rate."""
REWARDED_PROMPTS = 128
"""Held-out prompts of a stage that samples that are answered and judged."""
SAMPLED_PROMPTS = 32
"""Of these, the ones that are answered by sampling too, several times each."""
POLICY_PAIRS = 128
"""Held-out pairs that a policy is scored on; a reward model is scored on all."""
SAMPLED_PROBLEMS = 48
"""Of a verifier's problems, those that are answered by sampling too, several times each, also for a reward model."""
CHANGED_ROWS = 64
"""Held-out rows that are changed to see what a stage cannot have learnt."""
ANSWER_TOKENS = 128

RewardFunctions = Mapping[str, Callable[..., Any]]


@dataclass(frozen=True)
class Chain:
    """The stages of a run, and what they have in common to be measured on."""

    stages: Sequence[Stage]
    verifier: Verifier | None
    reward_functions: Mapping[str, RewardFunctions]

    @cached_property
    def held_out(self) -> dict[str, HeldOut]:
        """The held-out rows of each stage's data, by label."""
        return {stage.label: HeldOut(partial(held_out_rows, stage)) for stage in self.stages}

    def first(self, layout: str, own: Stage) -> list[HeldOut]:
        """Return the held-out rows of `own`, or else of the first stage, that trains on that layout; or none."""
        return [self.held_out[stage.label] for stage in (own, *self.stages) if stage.kind.layout == layout][:1]

    @cached_property
    def problems(self) -> HeldOut:
        """The verifier's problems."""
        assert self.verifier is not None
        return HeldOut(partial(self.verifier.rows, [stage.config for stage in self.stages]))

    @cached_property
    def answer_tokens(self) -> int:
        """Tokens of an answer to a problem: no more than a policy is trained with."""
        assert self.verifier is not None
        most = self.verifier.max_new_tokens
        trained_with = [stage.extra.max_completion_length for stage in self.stages if stage.extra is not None]
        return min(most, max(trained_with, default=most))


Builder = Callable[[Stage, Chain], list[Task]]
"""Returns the tasks of one name for a stage; none where the run has nothing for them."""


def tasks_for(
    stages: Sequence[Stage],
    verifier: Verifier | None = None,
    reward_functions: Mapping[str, RewardFunctions] | None = None,
) -> dict[str, list[Task]]:
    """Return the tasks of each stage, by label; their rows are loaded only when a task is scored.

    `verifier` is as for `verifier_for`; `reward_functions` are the verifiable rewards of the stages that sample, by
    label and name.
    """
    chain = Chain(stages, verifier_for(stages, verifier), reward_functions or {})
    return {stage.label: [task for name in stage.kind.tasks for task in _built(name, stage, chain)] for stage in stages}


def verifier_for(stages: Iterable[Stage], verifier: Verifier | None = None) -> Verifier | None:
    """Return the recipe's `verifier`, or else that of the first made data which has one and a stage trains on."""
    registered = (made.verifier_of(stage.config.dataset_name) for stage in stages)
    return verifier or next(filter(None, registered), None)


def _built(name: str | Builder, stage: Stage, chain: Chain) -> list[Task]:
    return (BUILDERS[name] if isinstance(name, str) else name)(stage, chain)


def held_out_rows(stage: Stage) -> list[Row]:
    """Return a stage's held-out rows in its layout, those that its record describes."""
    config = stage.config
    if stage.kind.layout == "documents":
        from data.corpus.configured import corpus_for, validation_rows

        return validation_rows(corpus_for(config), config.eval_samples)
    from data.sources import load_for

    rows = list(load_for(config, stage.kind.name).eval)
    if _is_made(stage):  # the columns that training has no use for, such as the kind of a pair, tell groups apart
        as_made = made.rows(config.dataset_name.removeprefix(made.PREFIX), "eval", config.eval_samples, config.seed)
        if len(as_made) == len(rows):
            return [{**one, **row} for one, row in zip(as_made, rows, strict=True)]
    return rows


def _is_made(stage: Stage) -> bool:
    return bool(stage.config.dataset_name.startswith(made.PREFIX))


def _verified(task: type[VerifiedTask], count: int | None, _: Stage, chain: Chain) -> list[Task]:
    if chain.verifier is None:
        return []
    problems = chain.problems if count is None else chain.problems.first(count)
    return [task(problems, chain.answer_tokens, verifier=chain.verifier)]


def _answers(stage: Stage, chain: Chain) -> list[Task]:
    if _is_made(stage) and chain.verifier:  # who asks more, of the same world
        return []
    return [Answers(HeldOut(partial(_prompts, chain.held_out[stage.label], ANSWERED_PROMPTS)), ANSWER_TOKENS)]


def _other_questions(stage: Stage, chain: Chain) -> list[Task]:
    return [OtherQuestions(HeldOut(partial(_prompts, chain.held_out[stage.label], CHANGED_ROWS)))]


def _rewards(stage: Stage, chain: Chain) -> list[Task]:
    functions = chain.reward_functions.get(stage.label, {})
    said_by_verifier = (chain.verifier.verified, *chain.verifier.rewards) if chain.verifier else ()
    functions = {name: function for name, function in functions.items() if function not in said_by_verifier}
    if _is_made(stage) and chain.verifier and not functions:
        return []
    tokens = stage.extra.max_completion_length if stage.extra else ANSWER_TOKENS
    held_out = chain.held_out[stage.label]
    few, fewer = (HeldOut(partial(_prompts, held_out, count)) for count in (REWARDED_PROMPTS, SAMPLED_PROMPTS))
    return [Rewards(few, tokens, functions), SampledRewards(fewer, tokens, functions)]


def _prompts(held_out: HeldOut, count: int) -> list[Row]:
    return [row for row in held_out.rows if prompt_of(row) is not None][:count]


BUILDERS: dict[str, Builder] = {
    "skills": partial(_verified, Skills, None),
    "sampled_skills": partial(_verified, SampledSkills, SAMPLED_PROBLEMS),
    "verified_answers": partial(_verified, VerifiedAnswers, SAMPLED_PROBLEMS),
    "documents": lambda stage, chain: [LanguageModelling(rows) for rows in chain.first("documents", stage)],
    "demonstrations": lambda stage, chain: [Demonstrations(rows) for rows in chain.first("conversations", stage)],
    "preferences": lambda stage, chain: [Preferences(chain.held_out[stage.label].first(POLICY_PAIRS))],
    "thumbs": lambda stage, chain: [Thumbs(chain.held_out[stage.label].first(2 * POLICY_PAIRS))],
    "pairs": lambda stage, chain: [RewardPairs(chain.held_out[stage.label])],
    "other_questions": _other_questions,
    "worse_answers": lambda stage, chain: [WorseAnswers(chain.held_out[stage.label].first(CHANGED_ROWS))],
    "answers": _answers,
    "rewards": _rewards,
}
"""What makes the tasks that a kind of stage names. Problems and documents tell what a stage has gained or forgotten."""
