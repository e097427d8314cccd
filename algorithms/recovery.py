"""A stage that survives running out of memory: the same training in smaller micro-batches, from its last checkpoint."""

import functools
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar, cast

from algorithms import arguments
from algorithms.config import GRPOExtraConfig, TrainingConfig
from watching.out_of_memory import Batch, train_within_memory

Train = TypeVar("Train", bound=Callable[..., Path])

WITHOUT_GRADIENTS = ("per_device_eval_batch_size", "precompute_ref_batch_size")
"""Rows of the passes over held-out rows, and of DPO's reference over the data ahead of training."""


def survives_out_of_memory(kind: str) -> Callable[[Train], Train]:
    """Return a decorator of a stage's `train`; see `watching.out_of_memory.train_within_memory`."""

    def decorate(train: Train) -> Train:
        @functools.wraps(train)
        def surviving(config: TrainingConfig, stage_dir: Path, *rest: Any, **named: Any) -> Path:
            extra = next((one for one in (*rest, *named.values()) if isinstance(one, GRPOExtraConfig)), None)

            def attempt(batch: Batch) -> Path:
                return train(with_batch(kind, config, batch, extra), stage_dir, *rest, **named)

            return train_within_memory(attempt, batch_of(kind, config), stage_dir, advice(kind, config))

        return cast("Train", surviving)

    return decorate


def batch_of(kind: str, config: TrainingConfig) -> Batch:
    """Return how a step of the stage is made up; what the recipe leaves open is TRL's default."""
    options = arguments.defaults(kind) | arguments.given(config)
    rows, passes = options["per_device_train_batch_size"], options["gradient_accumulation_steps"]
    if kind != "grpo":
        return Batch(rows, passes)
    return Batch(rows, passes, options["generation_batch_size"] or rows * (options["steps_per_generation"] or passes))


def with_batch(kind: str, config: TrainingConfig, batch: Batch, extra: GRPOExtraConfig | None = None) -> TrainingConfig:
    """Return the configuration with its step made up so. GRPO samples as many completions at once as before.

    With fewer rows in a pass than the recipe has, passes without gradients take no more either; GRPO's of held-out rows
    stay whole groups, as TRL wants them.
    """
    rows, passes = batch.per_device_train_batch_size, batch.gradient_accumulation_steps
    options = dict(config.trainer_args)
    if "steps_per_generation" in options:
        options["steps_per_generation"] = batch.generation_batch_size // rows
    if rows < batch_of(kind, config).per_device_train_batch_size:
        group = (extra or GRPOExtraConfig()).num_generations if kind == "grpo" else 1
        most = math.ceil(rows / group) * group
        options |= {name: min(options[name], most) for name in WITHOUT_GRADIENTS if options.get(name)}
    for name in ("per_device_train_batch_size", "gradient_accumulation_steps"):
        options.pop(name, None)  # what stands there would win over the fields
    return replace(config, per_device_train_batch_size=rows, gradient_accumulation_steps=passes, trainer_args=options)


def advice(kind: str, config: TrainingConfig) -> str:
    """Return what would take less memory than one row at a time does now."""
    options = arguments.defaults(kind) | arguments.given(config)
    name = "max_completion_length" if kind == "grpo" else "max_length"
    ways = [f"a shorter {name}" + (f" (it is {options[name]})" if name in options and kind != "grpo" else "")]
    if not options.get("gradient_checkpointing"):
        ways.append("gradient_checkpointing=True")
    if "8bit" not in str(options.get("optim")):
        ways.append("an 8-bit optimizer (optim='adamw_torch_8bit')")
    if options["per_device_train_batch_size"] == 1:  # else passes without gradients were of one row, too
        own = {name: config.trainer_args.get(name) or 1 for name in WITHOUT_GRADIENTS}
        ways += [f"a smaller {name} (it is {rows})" for name, rows in own.items() if rows > 1]
    return ", ".join([*ways, "LoRA, or a smaller model"])
