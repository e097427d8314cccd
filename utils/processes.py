"""Which process of a run this is: `accelerate launch` and `torchrun` start several, of which the first one writes."""

import os
from collections.abc import Callable
from functools import wraps
from typing import ParamSpec

P = ParamSpec("P")


def count() -> int:
    """Return how many processes the run has."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_first() -> bool:
    """Tell whether this is the process that writes and speaks for all."""
    return os.environ.get("RANK", "0") == "0"


def first_only(function: Callable[P, None]) -> Callable[P, None]:
    """Make a function that writes do nothing in the other processes."""

    @wraps(function)
    def guarded(*arguments: P.args, **options: P.kwargs) -> None:
        if is_first():
            function(*arguments, **options)

    return guarded
