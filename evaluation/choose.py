"""Which tasks each stage of a recipe is measured on."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from data.world import rows as made_rows
from evaluation.answers import Answers, Rewards
from evaluation.encode import Row, prompt_of
from evaluation.skills import SampledSkills, Skills
from evaluation.task import HeldOut, Task
from evaluation.tasks import Demonstrations, LanguageModelling, Preferences, RewardPairs

if TYPE_CHECKING:
    from data.sources import DataConfig

ANSWERED_PROMPTS = 64
"""Held-out prompts of a user's SFT or DPO data that are answered for the stop rate."""
REWARDED_PROMPTS = 128
"""Held-out prompts of a user's GRPO data that are answered and judged."""
POLICY_PAIRS = 300
"""Held-out pairs that a policy is scored on; a reward model is scored on all."""
SAMPLED_PROBLEMS = 300
"""Made problems that are answered by sampling too: those whose sampled answers a reward model judges."""
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

    Pretraining is measured on its documents, the later policy stages on the run's demonstrations, and all of them on
    the made problems if any stage uses made chat data; a stage on other data also answers prompts of its own.
    `reward_functions` are GRPO's verifiable rewards by name, `grpo_extra` gives the length of its completions.
    """
    held_out = {kind: HeldOut(partial(held_out_rows, config, kind)) for kind, config in configs.items()}
    made = {kind for kind, config in configs.items() if config.dataset_name.startswith("made:")}
    max_completion_length = getattr(grpo_extra, "max_completion_length", None)
    shared: list[Task] = []
    of_policies: list[Task] = []
    if made - {"pretrain"}:
        problems = HeldOut(partial(made_rows, "prompts", "eval", None, MADE_SEED))
        in_made_grpo = max_completion_length if "grpo" in made else None
        shared.append(Skills(problems, in_made_grpo or SKILL_TOKENS))
        fewer = HeldOut(partial(_first, problems, SAMPLED_PROBLEMS))
        of_policies.append(SampledSkills(fewer, in_made_grpo or SKILL_TOKENS))
    tasks: dict[str, list[Task]] = {}
    for kind in configs:
        if kind == "reward":
            tasks[kind] = [RewardPairs(held_out[kind])]
            continue
        tasks[kind] = list(shared)
        if kind == "pretrain":
            tasks[kind].append(LanguageModelling(held_out[kind]))
        else:
            tasks[kind] += of_policies
        if "sft" in configs and kind != "pretrain":
            tasks[kind].append(Demonstrations(held_out["sft"]))
        if kind == "dpo":
            tasks[kind].append(Preferences(HeldOut(partial(_first, held_out[kind], POLICY_PAIRS))))
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
    if not is_made:
        return [Rewards(HeldOut(partial(_prompts, held_out, REWARDED_PROMPTS)), max_new_tokens, functions)]
    own = {name: function for name, function in functions.items() if not name.startswith("made_")}
    return [Rewards(held_out, max_new_tokens, own)] if own else []  # the skills are what the made_ rewards are about


def _first(held_out: HeldOut, count: int) -> list[Row]:
    return held_out.rows[:count]


def _prompts(held_out: HeldOut, count: int) -> list[Row]:
    return [row for row in held_out.rows if prompt_of(row) is not None][:count]
