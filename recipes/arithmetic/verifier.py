"""What a right answer is in the arithmetic world: for the measurements of every stage, and as rewards of GRPO."""

from collections.abc import Sequence
from functools import partial
from typing import Any

from algorithms.rewards import Completion, text_of
from evaluation import Verifier
from recipes.arithmetic import tools, verify
from recipes.arithmetic.rows import prompts

PROBLEMS = 210
"""Held-out problems that are answered, a third of each skill."""
SEED = 0
"""One for the problems of all runs and stages: before is the input's after, whatever a recipe's own seed is."""


def strict(text: str, row: Any) -> bool:
    """Return whether each turn has the form that was taught, and is right."""
    skill, answer, prompt = row["skill"], row["answer"], row["prompt"]
    if skill == "calculator" and prompt[-1]["role"] == "tool":
        called = verify.strict(prompt[-2]["content"], skill, answer)
        return called and verify.strict(text, "calculator_answer", answer)
    return verify.strict(text, skill, answer)


def flexible(text: str, row: Any) -> bool:
    """Return whether the right answer is called for, or said in whatever form, the tool having answered or not."""
    skill = row["skill"]
    if skill == "calculator" and (row["prompt"][-1]["role"] == "tool" or respond(text, row) is None):
        skill = "calculator_answer"
    return verify.flexible(text, skill, row["answer"])


def respond(text: str, row: Any) -> str | None:
    """Return what the calculator says to a valid call."""
    return tools.respond(text) if row["skill"] == "calculator" else None


def made_strict(
    completions: Sequence[Completion], skill: Sequence[str], answer: Sequence[str], **_: Any
) -> list[float]:
    """Return 1 where a completion, which is one turn, is right in the form that was taught, else 0."""
    return [float(verify.strict(*row)) for row in zip(map(text_of, completions), skill, answer, strict=True)]


def made_flexible(
    completions: Sequence[Completion], skill: Sequence[str], answer: Sequence[str], **_: Any
) -> list[float]:
    """Return 1 where a completion ends with the right answer, in whatever form, or calls for it; else 0."""
    return [float(verify.flexible(*row)) for row in zip(map(text_of, completions), skill, answer, strict=True)]


VERIFIER = Verifier(
    problems=partial(prompts, "eval", PROBLEMS, SEED),
    strict=strict,
    flexible=flexible,
    respond=respond,
    group="skill",
    count=PROBLEMS,
    max_new_tokens=96,  # for one turn; the taught solutions need fewer
    rewards=(made_strict, made_flexible),
    version="",  # under which runs of earlier versions have kept their scores
)
