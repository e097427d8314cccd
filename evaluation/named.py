"""Tasks by name: those of the made world, files of a user's own, and lm-eval's."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from data.world import rows as made_rows
from evaluation.choose import MADE_SEED, SAMPLED_PROBLEMS, SKILL_TOKENS, made_problems
from evaluation.lm_harness import PREFIX, Harness, harness_tasks
from evaluation.own import Choices, Questions, own_task, version_of
from evaluation.skills import SampledSkills, Skills
from evaluation.task import HeldOut, Task
from evaluation.tasks import Demonstrations, LanguageModelling, Preferences, RewardPairs
from utils.errors import Refused, did_you_mean


def _made(name: str) -> HeldOut:
    return HeldOut(partial(made_rows, name, "eval", None, MADE_SEED))


MADE: dict[str, Callable[[], Task]] = {
    "skills": lambda: Skills(made_problems(), SKILL_TOKENS),
    "sampled_skills": lambda: SampledSkills(made_problems().first(SAMPLED_PROBLEMS), SKILL_TOKENS),
    "documents": lambda: LanguageModelling(_made("documents")),
    "demonstrations": lambda: Demonstrations(_made("conversations")),
    "preferences": lambda: Preferences(_made("preferences")),
    "pairs": lambda: RewardPairs(_made("preferences")),
}
"""The tasks on held-out data of the made world; `pairs` is for a reward model, the others are for policies."""


def tasks_named(
    names: Sequence[str],
    limit: int | None = None,
    max_new_tokens: int = 128,
    include_path: Path | None = None,
    *,
    chat: bool = False,
) -> list[Task]:
    """Return the tasks of these names, each on its first `limit` rows.

    A name is one of `MADE`, also as NAME@VERSION, a .jsonl file of one's own, or lm-eval:NAME; `chat` puts lm-eval's
    through the chat template.

    Raises:
        Refused: names that are none, versions that are not these, files with faulty rows, lm-eval not to be had.
    """
    tasks, problems = [], []
    for name in names:
        made, _, version = name.partition("@")
        if name.startswith(PREFIX):
            continue
        if name.endswith(".jsonl"):
            tasks.append(own_task(Path(name).expanduser(), max_new_tokens))
        elif made not in MADE:
            problems.append(f"there is no task {name!r}{did_you_mean(made, MADE) or '.'}")
        elif version and version != version_label(task := MADE[made]()):
            problems.append(f"{made} is at version {version_label(task)} here, not {version}: its scores would differ")
        else:
            tasks.append(MADE[made]())
    if problems:
        allowed = f"Tasks are {', '.join(MADE)}, a .jsonl file, and {PREFIX}NAME."
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
