"""What reward functions and verifiers return, as numbers; what is none fails the stage by the function's name."""

import inspect
import math
from collections.abc import Iterable, Mapping, Set
from typing import Any

from utils.errors import StageFailed
from utils.values import shown

MOST = 3e38
"""Rewards are added up as float32, in which larger ones are infinite."""


def reward_numbers(rewards: Any, name: str, count: int) -> list[float | None]:
    """Return what a reward function returned as numbers.

    Raises:
        StageFailed: it is not one finite number, or None, for each completion, in their order.
    """
    wanted = f"it must return a list with a number, or None, for each of its {count} completions"
    no_list = isinstance(rewards, str | bytes | bytearray | Mapping | Set) or getattr(rewards, "ndim", 1) == 0
    if no_list or not isinstance(rewards, Iterable):
        raise StageFailed(f"the reward {name} returned {shown(rewards)}: {wanted}")
    listed = list(rewards)
    if len(listed) != count:
        raise StageFailed(f"the reward {name} returned {len(listed)} rewards: {wanted}")
    numbers: list[float | None] = []
    for place, one in enumerate(listed):
        if isinstance(one, str | bytes | bytearray) or getattr(one, "ndim", 0) > 0:
            raise StageFailed(f"the reward {name} returned {shown(one)} for completion {place}: {wanted}")
        try:
            number = None if one is None else float(one)
        except OverflowError:
            number = math.inf
        except (TypeError, ValueError):
            raise StageFailed(f"the reward {name} returned {shown(one)} for completion {place}: {wanted}") from None
        if number is not None and math.isnan(number):
            number = None  # as TRL takes it
        if number is not None and abs(number) > MOST:
            raise StageFailed(
                f"the reward {name} returned {shown(one)} for completion {place}: an infinite reward teaches nothing, "
                "and outweighs every other. Return a finite number, or None where it has nothing to say"
            )
        numbers.append(number)
    return numbers


def verdict(said: Any, name: str) -> float:
    """Return 1 for what a verifier's function returned of a right answer, else 0; None is no right answer.

    Raises:
        StageFailed: it is neither true nor false, 1 nor 0.
    """
    if inspect.iscoroutine(said):
        said.close()  # nobody awaits it
    number = said.item() if getattr(said, "ndim", None) == 0 else said
    if number is not None and not (isinstance(number, bool | int | float) and number in (0, 1)):
        raise StageFailed(
            f"{name} returned {shown(said)}: it must return True or False (or 1, 0 or None), as by bool()"
        )
    return float(number or 0)
