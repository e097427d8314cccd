"""Out of memory in a stage: back to its last checkpoint, with a smaller micro-batch and more accumulation."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from utils.console import warn
from utils.errors import StageFailed
from utils.runtime import free_memory
from utils.stage_log import StageLog

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


@dataclass(frozen=True)
class Batch:
    """How an optimizer step of one process is made up."""

    per_device_train_batch_size: int
    gradient_accumulation_steps: int
    generation_batch_size: int = 0
    """Completions that GRPO samples at once, a multiple of the micro-batch too; 0 for every other stage."""

    def smaller(self) -> "Batch | None":
        """Return the same step in more passes: half the micro-batch; if it is odd, the next smaller one that divides.

        None where the micro-batch is one row.
        """
        rows = self.per_device_train_batch_size
        step_rows = rows * self.gradient_accumulation_steps
        candidates = [rows // 2] if rows % 2 == 0 else range(rows - 1, 0, -1)
        divides = (
            number for number in candidates if step_rows % number == 0 and self.generation_batch_size % number == 0
        )
        number = next(divides, None)
        return None if number is None else Batch(number, step_rows // number, self.generation_batch_size)


def train_within_memory(train: Callable[[Batch], Path], batch: Batch, stage_dir: Path, advice: str) -> Path:
    """Train into `stage_dir`; where memory runs out, again with a smaller micro-batch, from the newest checkpoint.

    `train` goes on from what lies in `stage_dir`. What an earlier call came down to is where this one begins. `advice`
    is what would make a stage fit that does not with one row at a time.

    Raises:
        StageFailed: memory ran out with one row at a time.
    """
    log = StageLog(stage_dir)
    batch = _taken_up(batch, log)
    while True:
        try:
            return train(batch)
        except RuntimeError as error:
            batch = _reduced(batch, error, log, advice)
        # Not before: as long as the error lives, its traceback holds the tensors of the attempt that failed.
        free_memory()


def _taken_up(batch: Batch, log: StageLog) -> Batch:
    """Return the batch that an earlier attempt came down to, if it is of the same training."""
    name = "per_device_train_batch_size"
    earlier = [change[name][1] for change in log.read_info().get("out_of_memory") or [] if name in change]
    rows = earlier[-1] if earlier else batch.per_device_train_batch_size
    step_rows = batch.per_device_train_batch_size * batch.gradient_accumulation_steps
    if rows >= batch.per_device_train_batch_size or step_rows % rows or batch.generation_batch_size % rows:
        return batch
    return Batch(rows, step_rows // rows, batch.generation_batch_size)


def _reduced(batch: Batch, error: RuntimeError, log: StageLog, advice: str) -> Batch:
    """Return the batch to go on with, and say and record so; raise what cannot be helped."""
    if not is_out_of_memory(error) or int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise error  # of several processes, the others wait within the step that this one has left
    step = error.step if isinstance(error, OutOfMemory) else 0
    where = f"out of memory in step {step}" if step else "out of memory before the first step"
    rows, passes = batch.per_device_train_batch_size, batch.gradient_accumulation_steps
    smaller = batch.smaller()
    if smaller is None:
        raise StageFailed(
            f"{where}, with one row at a time (per_device_train_batch_size=1). What would make it fit: {advice}."
            f" The error was: {error}"
        )
    after = (smaller.per_device_train_batch_size, smaller.gradient_accumulation_steps)
    text = (
        f"{where}: going back to the last checkpoint with per_device_train_batch_size {after[0]} instead of {rows}, and"
        f" gradient_accumulation_steps {after[1]} instead of {passes}: the same rows a step"
    )
    change = {
        "step": step,
        "per_device_train_batch_size": [rows, after[0]],
        "gradient_accumulation_steps": [passes, after[1]],
    }
    record_out_of_memory(log, text, change)
    return smaller


def record_out_of_memory(log: StageLog, text: str, change: dict[str, Any]) -> None:
    """Record, as an event and in stage_info.json, in what step memory ran out and what has changed; tell the user."""
    log.event("OUT_OF_MEMORY", text)
    log.info(out_of_memory=[*(log.read_info().get("out_of_memory") or []), change])
    warn(text)
