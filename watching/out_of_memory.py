"""Running out of memory: how libraries say it, in which step it was, and its record."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from records.stage_log import StageLog
from utils.console import warn

SIGNS = (
    "CUDA error: out of memory",
    "Triton Error [CUDA]: out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
    "Error out of memory at line",  # bitsandbytes
)
"""What libraries beside torch's allocator say; accelerate knows the messages of the allocators."""


class OutOfMemory(RuntimeError):
    """Memory ran out in optimizer step `step`, counted from 1."""

    def __init__(self, step: int, message: str) -> None:
        super().__init__(message)
        self.step = step


def is_out_of_memory(error: BaseException) -> bool:
    """Tell whether an error says that memory ran out, on a GPU or in torch's allocator on the CPU."""
    import torch
    from accelerate.utils.memory import should_reduce_batch_size

    if isinstance(error, OutOfMemory | torch.OutOfMemoryError):
        return True
    if not isinstance(error, RuntimeError):
        return False
    return should_reduce_batch_size(error) or any(sign in str(error) for sign in SIGNS)


@contextmanager
def naming_the_step(step: Callable[[], int]) -> Iterator[None]:
    """Raise OutOfMemory, which says in what step, where memory runs out inside."""
    try:
        yield
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        raise OutOfMemory(step(), str(error).strip().partition("\n")[0]) from error


def record_out_of_memory(log: StageLog, text: str, change: dict[str, Any]) -> None:
    """Record, as an event and in stage_info.json, in what step memory ran out and what has changed; tell the user."""
    log.event("OUT_OF_MEMORY", text)
    log.info(out_of_memory=[*(log.read_info().get("out_of_memory") or []), change])
    warn(text)
