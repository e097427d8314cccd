"""Tasks by name: those on made data, files of a user's own, and lm-eval's."""

import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from data import made
from evaluation.choose import SAMPLED_PROBLEMS
from evaluation.lm_harness import PREFIX, Harness, harness_tasks
from evaluation.own import Choices, Questions, own_task, version_of
from evaluation.skills import SampledSkills, Skills
from evaluation.task import HeldOut, Task
from evaluation.tasks import Demonstrations, LanguageModelling, Preferences, RewardPairs
from utils.errors import Refused, did_you_mean

SEED = 0
"""Of the made rows, the same for whatever is measured on them."""


def _held_out(name: str) -> HeldOut:
    return HeldOut(partial(made.rows, name, "eval", None, SEED))


def _skills(task: type[Skills], count: int) -> Task:
    verifier = made.made("prompts").verifier
    return task(HeldOut(verifier.rows).first(count), verifier.max_new_tokens, verifier=verifier)


BUILT_IN: dict[str, Callable[[], Task]] = {
    "skills": lambda: _skills(Skills, sys.maxsize),
    "sampled_skills": lambda: _skills(SampledSkills, SAMPLED_PROBLEMS),
    "documents": lambda: LanguageModelling(_held_out("documents")),
    "demonstrations": lambda: Demonstrations(_held_out("conversations")),
    "preferences": lambda: Preferences(_held_out("preferences")),
    "pairs": lambda: RewardPairs(_held_out("preferences")),
}
"""The tasks on held-out made data; `pairs` is for a reward model, the others are for policies."""


def tasks_named(
    names: Sequence[str],
    limit: int | None = None,
    max_new_tokens: int = 128,
    include_path: Path | None = None,
    *,
    chat: bool = False,
) -> list[Task]:
    """Return the tasks of these names, each on its first `limit` rows.

    A name is one of `BUILT_IN`, also as NAME@VERSION, a .jsonl file of one's own, or lm-eval:NAME; `chat` puts
    lm-eval's through the chat template.

    Raises:
        Refused: names that are none, versions that are not these, files with faulty rows, lm-eval not to be had.
    """
    tasks, problems = [], []
    for name in names:
        plain, _, version = name.partition("@")
        if name.startswith(PREFIX):
            continue
        if name.endswith(".jsonl"):
            tasks.append(own_task(Path(name).expanduser(), max_new_tokens))
        elif plain not in BUILT_IN:
            problems.append(f"there is no task {name!r}{did_you_mean(plain, BUILT_IN) or '.'}")
        elif version and version != version_label(task := BUILT_IN[plain]()):
            problems.append(f"{plain} is at version {version_label(task)} here, not {version}: its scores would differ")
        else:
            tasks.append(BUILT_IN[plain]())
    if problems:
        allowed = f"Tasks are {', '.join(BUILT_IN)}, a .jsonl file, and {PREFIX}NAME."
        raise Refused("\n".join([*problems, allowed]))
    if limit is not None:
        tasks = [replace(task, held_out=task.held_out.first(limit)) for task in tasks]
    of_harness = [name.removeprefix(PREFIX) for name in names if name.startswith(PREFIX)]
    return [*tasks, *(harness_tasks(of_harness, limit, include_path, chat=chat) if of_harness else [])]


def label(task: Task) -> str:
    """Return the name under which a task is shown."""
    return task.title if isinstance(task, Questions | Choices | Harness) else task.name


def version_label(task: Task) -> str:
    """Return what a figure's comparability depends on besides the name."""
    if isinstance(task, Harness):
        return task.version_label
    return version_of(task) if isinstance(task, Questions | Choices) else str(task.version)
