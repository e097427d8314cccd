"""Which tasks each stage of a recipe is measured on."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from data.world import rows as made_rows
from evaluation.answers import Answers, Rewards, SampledRewards
from evaluation.encode import Row, prompt_of
from evaluation.judged import VerifiedAnswers
from evaluation.skills import SampledSkills, Skills
from evaluation.task import HeldOut, Task
from evaluation.tasks import Demonstrations, LanguageModelling, Preferences, RewardPairs

if TYPE_CHECKING:
    from data.sources import DataConfig

ANSWERED_PROMPTS = 64
"""Held-out prompts of a user's SFT or DPO data that are answered for the stop rate."""
REWARDED_PROMPTS = 128
"""Held-out prompts of a user's GRPO data that are answered and judged."""
SAMPLED_PROMPTS = 32
"""Of these, the ones that are answered by sampling too, several times each."""
POLICY_PAIRS = 128
"""Held-out pairs that a policy is scored on; a reward model is scored on all."""
PROBLEMS = 210
"""Made problems that are answered, a third of each skill."""
SAMPLED_PROBLEMS = 48
"""Of these, the ones that are answered by sampling too, several times each: answers that a reward model judges."""
ANSWER_TOKENS = 128
SKILL_TOKENS = 96
"""Tokens for one turn on a made problem; the taught solutions need fewer."""
MADE_SEED = 0
"""One for the problems of all runs and stages: before is the input's after, whatever `seed` and `eval_samples` are."""


def tasks_for(
    configs: Mapping[str, "DataConfig"],
    grpo_extra: Any = None,
    reward_functions: Mapping[str, Callable[..., Any]] | None = None,
) -> dict[str, list[Task]]:
    """Return the tasks of each stage kind in `configs`; their rows are loaded only when a task is scored.

    Pretraining is measured on its documents, and so are the later policy stages, which may forget them; these also on
    the run's demonstrations, and all of them on the made problems if any stage uses made chat data, as is a reward
    model; a stage on other data also answers prompts of its own. `reward_functions` are GRPO's verifiable rewards by
    name, `grpo_extra` gives the length of its completions.
    """
    held_out = {kind: HeldOut(partial(held_out_rows, config, kind)) for kind, config in configs.items()}
    made = {kind for kind, config in configs.items() if config.dataset_name.startswith("made:")}
    max_completion_length = getattr(grpo_extra, "max_completion_length", None)
    shared: list[Task] = []
    of_policies: list[Task] = []
    of_rewards: list[Task] = []
    if made - {"pretrain"}:
        problems = made_problems()
        tokens = (max_completion_length if "grpo" in made else None) or SKILL_TOKENS
        fewer = problems.first(SAMPLED_PROBLEMS)
        shared, of_policies = [Skills(problems, tokens)], [SampledSkills(fewer, tokens)]
        of_rewards = [VerifiedAnswers(fewer, tokens)]  # the first of its tasks, so that the policy is loaded before it
    if "pretrain" in configs:
        shared.append(LanguageModelling(held_out["pretrain"]))
    tasks: dict[str, list[Task]] = {}
    for kind in configs:
        if kind == "reward":
            tasks[kind] = [*of_rewards, RewardPairs(held_out[kind])]
            continue
        tasks[kind] = list(shared)
        if kind != "pretrain":
            tasks[kind] += of_policies
        if "sft" in configs and kind != "pretrain":
            tasks[kind].append(Demonstrations(held_out["sft"]))
        if kind == "dpo":
            tasks[kind].append(Preferences(held_out[kind].first(POLICY_PAIRS)))
        if kind in ("sft", "dpo") and kind not in made:
            prompts = HeldOut(partial(_prompts, held_out[kind], ANSWERED_PROMPTS))
            tasks[kind].append(Answers(prompts, ANSWER_TOKENS))
        if kind == "grpo":
            tasks[kind] += _reward_tasks(
                held_out[kind], kind in made, max_completion_length or ANSWER_TOKENS, reward_functions or {}
            )
    return tasks


def held_out_rows(config: Any, kind: str) -> list[Row]:
    """Return a stage's held-out rows in its layout, those that its record describes."""
    if kind == "pretrain":
        from data.corpus.configured import corpus_for, validation_rows

        return validation_rows(corpus_for(config), config.eval_samples)
    if config.dataset_name.startswith("made:"):
        return list(made_rows(config.dataset_name.removeprefix("made:"), "eval", config.eval_samples, config.seed))
    from data.sources import load_for

    return list(load_for(config, kind).eval)


def _reward_tasks(
    held_out: HeldOut, is_made: bool, max_new_tokens: int, functions: Mapping[str, Callable[..., Any]]
) -> list[Task]:
    if is_made:  # the skills are what the made_ rewards are about
        functions = {name: function for name, function in functions.items() if not name.startswith("made_")}
        if not functions:
            return []
    few, fewer = (HeldOut(partial(_prompts, held_out, count)) for count in (REWARDED_PROMPTS, SAMPLED_PROMPTS))
    return [Rewards(few, max_new_tokens, functions), SampledRewards(fewer, max_new_tokens, functions)]


def made_problems(count: int = PROBLEMS) -> HeldOut:
    """Return the held-out problems that all runs and stages are measured on."""
    return HeldOut(partial(made_rows, "prompts", "eval", count, MADE_SEED))


def _prompts(held_out: HeldOut, count: int) -> list[Row]:
    return [row for row in held_out.rows if prompt_of(row) is not None][:count]
