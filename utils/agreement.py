"""What the processes of a run do together: one decides or measures, the others wait and get what came of it."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any, TypeVar

from utils.errors import Interrupted, Refused, StageFailed
from utils.processes import count, is_first
from utils.runtime import device

T = TypeVar("T")

LONGEST_WAIT = timedelta(days=30)
"""What one process does alone, such as measuring a model, may take longer than the half hour of torch's own limit."""
SIGNS_OF_A_DEAD_PEER = ("gloo", "NCCL", "Connection closed by peer", "Connection reset by peer")


def by_first(make: Callable[[], T]) -> T:
    """Return, in every process, what `make` returns in the first one, and raise what it refuses or fails of there.

    No process goes on before all have come here.
    """
    if count() == 1:
        return make()
    import torch.distributed as dist

    message: list[Any] = [None, None]
    if is_first():
        try:
            message[0] = make()
        except (Refused, StageFailed, Interrupted) as error:
            message[1] = error
    dist.broadcast_object_list(message, group=_group())
    dist.barrier(group=_group())
    if message[1] is not None:
        raise message[1]
    result: T = message[0]
    return result


def any_says(text: str | None) -> str | None:
    """Return, in every process, what the first of those that say something says; None if none does."""
    if count() == 1:
        return text
    import torch.distributed as dist

    texts: list[Any] = [None] * count()
    dist.all_gather_object(texts, text, group=_group())
    return next((one for one in texts if one is not None), None)


def first_then_all(make: Callable[[], T]) -> T:
    """Return what `make` returns here, after it has returned in the first process: the others find what it fetched."""
    if count() == 1:
        return make()
    results: list[T] = []
    by_first(lambda: results.append(make()))
    return results[0] if is_first() else make()


def peer_has_ended(error: BaseException | None) -> bool:
    """Tell whether an error says no more than that another process of the run has ended."""
    return count() > 1 and isinstance(error, RuntimeError) and any(sign in str(error) for sign in SIGNS_OF_A_DEAD_PEER)


_own_group: Any = None


def _group() -> Any:
    """Return a group of all processes that waits on the CPU, and as long as it takes."""
    global _own_group
    if _own_group is None:
        import torch.distributed as dist
        from accelerate import PartialState

        PartialState(cpu=device() == "cpu")  # connects the processes as the trainers do, which then use it
        _own_group = dist.new_group(backend="gloo", timeout=LONGEST_WAIT)
    return _own_group
