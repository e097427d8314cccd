"""The rows of the arithmetic world: generated from a seed, and split by the problems' hash."""

from collections.abc import Iterator
from random import Random
from typing import Any

from data.splits import held_out
from recipes.arithmetic.conversations import checkable_prompt, conversation, draw_problems, preference
from recipes.arithmetic.documents import document
from recipes.arithmetic.problems import HELD_OUT_FRACTION, Problem

Row = dict[str, Any]


def documents(side: str, count: int, seed: int) -> Iterator[Row]:
    """Yield rows with `text`; the text of one side is never on the other."""
    random = Random(f"{seed} documents {side}")
    while count:
        text = document(random)
        if held_out(text, HELD_OUT_FRACTION) == (side == "eval"):
            count -= 1
            yield {"text": text}


def conversations(side: str, count: int, seed: int) -> list[Row]:
    """Return demonstrations: rows with `messages`."""
    random, problems = _drawn("conversations", side, count, seed)
    return [conversation(one, random) for one in problems]


def preferences(side: str, count: int, seed: int) -> list[Row]:
    """Return pairs: rows with `prompt, chosen, rejected, kind, skill`."""
    random, problems = _drawn("preferences", side, count, seed)
    return [preference(one, random) for one in problems]


def prompts(side: str, count: int, seed: int) -> list[Row]:
    """Return problems: rows with `prompt, skill, answer`.

    Held-out problems are posed from the start, and the evaluation runs the tool; in training some start after it.
    """
    random, problems = _drawn("prompts", side, count, seed)
    return [checkable_prompt(one, side == "train" and random.random() < 0.25) for one in problems]


def _drawn(name: str, side: str, count: int, seed: int) -> tuple[Random, list[Problem]]:
    random = Random(f"{seed} {name} {side}")
    return random, draw_problems(random, count, held_out_side=side == "eval")
