"""The disk that a run takes: looked at before it starts, since a full disk in the night is a night lost."""

import math
import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from algorithms import memory
from algorithms.sampling_kind import PROMPT_TOKENS
from chain import forecast
from chain.forecast import Models, gib, trainer_args
from kinds import Stage
from records.run_directory import usable
from records.stage_log import StageLog
from utils.errors import Refused
from utils.processes import count
from watching import trackers

if TYPE_CHECKING:
    from evaluation.task import Task

WEIGHT_BYTES = {None: 4, "float32": 4, "bfloat16": 2, "float16": 2}
OPTIMIZER_STATES = 2  # of AdamW: the running means of the gradient and of its square, one number each a weight
PIECE_BYTES, TENSOR_BYTES, MODEL_BYTES = 160, 160, 16 << 10
"""Beside the weights: in tokenizer.json a piece of the vocabulary (134 of Llama 3's, 75 of Qwen2.5's), in headers a
tensor, in a model's directory the configuration, the template and the manifest."""
STATES_BYTES, STATE_BYTES = 32 << 10, 1000
"""Of a checkpoint, beside the numbers of the states: random generators, schedule, and what torch.save adds a weight."""
LINE_BYTES, LINE_IN_STATE_BYTES = 4 << 10, 1500
"""Of a step that is logged: its metrics, in our file and in a tracker's, and on the console; in a trainer's state."""
TEXT_BYTES = 6
"""Of a token, as UTF-8 in JSON."""
RECORDS_BYTES = 160 << 10
"""Of a stage: its record, card and logs, and its share of the run's; in a shrunken test recipe it was 75 KiB."""


class Disk(NamedTuple):
    """What a stage writes at most, in bytes."""

    kept: int
    """What is there when it has ended."""
    more: int
    """What is there besides while a checkpoint takes the place of the oldest."""


def of_run(needs: Iterable[Disk]) -> int:
    """Return the disk that stages take at most, one after another."""
    needs = list(needs)
    return sum(need.kept for need in needs) + max((need.more for need in needs), default=0)


def refuse_little(
    stages: Sequence[Stage],
    outputs: Mapping[str, Path],
    rows: Mapping[str, int],
    place: Path,
    tasks: "Mapping[str, Sequence[Task]]",
) -> None:
    """Raise Refused if what stages write at most is more than is free where `place` is or will be.

    `rows` are those that each stage trains on, `tasks` what it is measured on. What lies in a stage's directory in
    `place` already counts as written; one that has passed writes no more. A stage whose need is not known counts
    nothing.
    """
    models = Models(stages, outputs)
    left = [one for one in stages if StageLog(place / one.config.output_dir).read_info().get("status") != "passed"]
    known = (_known(stage, models, rows.get(stage.label), tasks.get(stage.label, ())) for stage in left)
    need = of_run(filter(None, known))
    there = sum(path.lstat().st_size for stage in left for path in (place / stage.config.output_dir).rglob("*"))
    free = shutil.disk_usage(usable(place)).free
    if need - there > free:
        raise Refused(
            f"the run writes up to {gib(need)}, checkpoints included, and {usable(place)} has {gib(free)} free: make"
            " room, keep fewer checkpoints (save_total_limit), or name another --runs-dir"
        )


def _known(stage: Stage, models: Models, rows: int | None, tasks: "Sequence[Task]") -> Disk | None:
    try:
        measured = sum(task.most_bytes(task.held_out.rows) for task in tasks)
        return of_stage(stage, steps_of(stage, rows), models.of(stage).shapes.parameters, models, measured)
    except ValueError:
        return None


def steps_of(stage: Stage, rows: int | None) -> int | None:
    """Return the optimizer steps of a stage on `rows` rows; None if that is not known."""
    return stage.kind.steps(trainer_args(stage), rows, count())


def of_stage(
    stage: Stage, steps: int | None, parameters: int | None, models: Models | None = None, measured: int = 0
) -> Disk | None:
    """Return the disk that a stage takes at most: its output, checkpoints with the optimizer's states, and records.

    A new checkpoint is written before the oldest is removed; one that is written where the run is stopped is not
    counted. `models` are for the states of a known optimizer; without, they are AdamW's, and a vocabulary is not
    counted. `measured` are the bytes of scores and samples.
    """
    if parameters is None or steps is None:
        return None
    config = trainer_args(stage)
    number = WEIGHT_BYTES.get(getattr(stage.config, "dtype", None), 4)
    output = kept = number * parameters
    states = OPTIMIZER_STATES * number * parameters
    if models is not None:
        model = models.of(stage)
        held = forecast.settings(stage, config, model, models)
        trained = memory.trained_weights(model.shapes, held.adapter)
        number = 4 if held.adapter else held.weight_bytes
        files = PIECE_BYTES * model.config.get_text_config().vocab_size + TENSOR_BYTES * len(model.shapes.weights)
        output = held.weight_bytes * parameters + files
        kept = number * sum(weight.elements for weight in trained) + files  # of an adapter, its own weights alone
        states = memory.optimizer_bytes(trained, held.optim, number) + STATE_BYTES * len(trained)
    evaluations = _times(config, "eval", steps)
    lines = _times(config, "logging", steps) + evaluations + 2  # before the first step, and after the last
    output += MODEL_BYTES + measured + len(trackers.requested()) * (RECORDS_BYTES + LINE_BYTES * lines)
    if getattr(config, "log_completions", False):
        output += lines * config.generation_batch_size * (PROMPT_TOKENS + config.max_completion_length) * TEXT_BYTES
    pretrains = stage.kind.starts_from_nothing  # which saves no checkpoint of its last step, and also the best ones
    saved, limit = _times(config, "save", steps) - pretrains, config.save_total_limit
    if getattr(config, "metric_for_best_model", pretrains):
        saved, limit = saved + evaluations - pretrains, limit and limit + 1
    most = min(saved, limit or saved)
    checkpoint = kept + states + MODEL_BYTES + STATES_BYTES + LINE_IN_STATE_BYTES * lines
    return Disk(output + most * checkpoint, checkpoint if saved > most else 0)


def _times(config: Any, what: str, steps: int) -> int:
    """Return how often something is done by its `..._strategy` and `..._steps`, a share of all steps if below 1."""
    strategy, every = getattr(config, f"{what}_strategy", "steps"), getattr(config, f"{what}_steps")
    if strategy == "epoch":
        return math.ceil(config.num_train_epochs)
    return math.ceil(steps / (every if every >= 1 else every * steps)) if every and strategy != "no" else 0
