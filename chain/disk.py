"""The disk that a run takes: looked at before it starts, since a full disk in the night is a night lost."""

import math
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from algorithms import memory
from chain import forecast
from chain.forecast import Models, gib, trainer_args
from chain.stages import Stage
from records.run_directory import usable
from records.stage_log import StageLog
from utils.errors import Refused
from utils.processes import count

WEIGHT_BYTES = {None: 4, "float32": 4, "bfloat16": 2, "float16": 2}
OPTIMIZER_STATES = 2  # of AdamW: the running means of the gradient and of its square, one number each a weight


def refuse_little(stages: Sequence[Stage], outputs: Mapping[str, Path], rows: Mapping[str, int], place: Path) -> None:
    """Raise Refused if what stages write at most is more than is free where `place` is or will be.

    `rows` are those that each stage trains on. What lies in a stage's directory in `place` already counts as written;
    one that has passed writes no more. A stage whose need is not known counts nothing.
    """
    models = Models(stages, outputs)
    left = [one for one in stages if StageLog(place / one.config.output_dir).read_info().get("status") != "passed"]
    need = sum(_known(stage, models, rows.get(stage.kind)) for stage in left)
    there = sum(path.lstat().st_size for stage in left for path in (place / stage.config.output_dir).rglob("*"))
    free = shutil.disk_usage(usable(place)).free
    if need - there > free:
        raise Refused(
            f"the run writes up to {gib(need)}, checkpoints included, and {usable(place)} has {gib(free)} free: make"
            " room, keep fewer checkpoints (save_total_limit), or name another --runs-dir"
        )


def _known(stage: Stage, models: Models, rows: int | None) -> int:
    try:
        number, states = models.of(stage).shapes.parameters, None if stage.model is None else models
        return bytes_of(stage, steps_of(stage, rows), number, states) or 0
    except ValueError:
        return 0


def steps_of(stage: Stage, rows: int | None) -> int | None:
    """Return the optimizer steps of a stage: those it sets, or what the Trainer makes of rows, batch and epochs.

    With packing, rows share sequences, and this is an upper bound.
    """
    args = trainer_args(stage)
    if args.max_steps > 0:
        return int(args.max_steps)
    if rows is None:
        return None
    batch, accumulation = args.per_device_train_batch_size, args.gradient_accumulation_steps
    batches = math.ceil(math.ceil(rows / batch) / count())  # of each process
    if stage.kind == "grpo":  # whole generation batches of G completions a prompt, each used num_iterations times
        prompts = args.generation_batch_size // args.num_generations
        batches = rows // prompts * args.num_iterations * args.steps_per_generation
    return math.ceil(args.num_train_epochs * max(math.ceil(batches / accumulation), 1))


def bytes_of(stage: Stage, steps: int | None, parameters: int | None, models: Models | None = None) -> int | None:
    """Return the disk that a stage takes at most: its output, and its checkpoints with the optimizer's states.

    A new checkpoint is written before the oldest is removed, so there is one more than are kept. `models` are for the
    states of a known optimizer; without, they are AdamW's.
    """
    if parameters is None or steps is None:
        return None
    config = trainer_args(stage)
    number = WEIGHT_BYTES.get(getattr(stage.config, "dtype", None), 4)
    output = kept = number * parameters
    states = OPTIMIZER_STATES * number * parameters
    if models is not None:
        held = forecast.settings(stage, config, models.of(stage), models)
        trained = memory.trained_weights(models.of(stage).shapes, held.adapter)
        number = 4 if held.adapter else held.weight_bytes
        output = held.weight_bytes * parameters
        kept = number * sum(weight.elements for weight in trained)  # of an adapter, its own weights alone
        states = memory.optimizer_bytes(trained, held.optim, number)
    if getattr(config, "save_strategy", "steps") == "no":
        return output
    every = config.save_steps if config.save_steps >= 1 else config.save_steps * steps
    checkpoints = math.ceil(steps / every)
    most = min(checkpoints, (config.save_total_limit or checkpoints) + 1)
    return output + most * (kept + states)
