"""Out of memory in a stage: back to its last checkpoint, with a smaller micro-batch and more accumulation."""

from dataclasses import replace
from pathlib import Path

from kinds import MicroBatch, Stage
from records.stage_log import StageLog
from utils.errors import StageFailed
from utils.limits import Clock
from utils.processes import count
from utils.runtime import free_memory
from watching.out_of_memory import OutOfMemory, is_out_of_memory, record_out_of_memory


def train_within_memory(stage: Stage, stage_dir: Path, clock: Clock) -> Path:
    """Train a stage; where memory runs out, again with a smaller micro-batch, from the newest checkpoint.

    What an earlier call came down to is where this one begins.

    Raises:
        StageFailed: memory ran out with one row at a time, or training did not work.
    """
    log, kind = StageLog(stage_dir), stage.kind
    batch = _taken_up(kind.micro_batch(stage.config), log)
    while True:
        config = kind.with_micro_batch(stage.config, batch, stage.extra)
        try:
            return kind.train(replace(stage, config=config), stage_dir, clock)
        except RuntimeError as error:
            batch = _reduced(batch, error, log, kind.advice(config), kind.least_rows(config))
        # Not before: as long as the error lives, its traceback holds the tensors of the attempt that failed.
        free_memory()


def _taken_up(batch: MicroBatch, log: StageLog) -> MicroBatch:
    """Return the batch that an earlier attempt came down to, if it is of the same training."""
    name = "per_device_train_batch_size"
    found = [change[name][1] for change in log.read_info().get("out_of_memory") or [] if name in change]
    rows = found[-1] if found else batch.per_device_train_batch_size
    step_rows = batch.per_device_train_batch_size * batch.gradient_accumulation_steps
    if rows >= batch.per_device_train_batch_size or step_rows % rows or batch.generation_batch_size % rows:
        return batch
    return replace(batch, per_device_train_batch_size=rows, gradient_accumulation_steps=step_rows // rows)


def _reduced(batch: MicroBatch, error: RuntimeError, log: StageLog, advice: str, least_rows: int) -> MicroBatch:
    """Return the batch to go on with after an error, and say and record so; raise what cannot be helped.

    `advice` is what would make a stage fit that does not with `least_rows` at a time.

    Raises:
        StageFailed: memory ran out with no more than that.
    """
    if not is_out_of_memory(error) or count() > 1:
        raise error  # of several processes, the others wait within the step that this one has left
    step = error.step if isinstance(error, OutOfMemory) else 0
    where = f"out of memory in step {step}" if step else "out of memory before the first step"
    rows, passes = batch.per_device_train_batch_size, batch.gradient_accumulation_steps
    smaller = batch.smaller()
    if smaller is None or smaller.per_device_train_batch_size < least_rows:
        number = "one row" if rows == 1 else f"{rows} rows"
        raise StageFailed(
            f"{where}, with {number} at a time (per_device_train_batch_size={rows}). What would make it fit: {advice}."
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
