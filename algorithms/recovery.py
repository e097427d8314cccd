"""A stage that survives running out of memory: the same training in smaller micro-batches, from its last checkpoint."""

import functools
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar, cast

from algorithms import arguments
from algorithms.config import TrainingConfig
from utils.out_of_memory import Batch, train_within_memory

Train = TypeVar("Train", bound=Callable[..., Path])


def survives_out_of_memory(kind: str) -> Callable[[Train], Train]:
    """Return a decorator of a stage's `train`; see `utils.out_of_memory.train_within_memory`."""

    def decorate(train: Train) -> Train:
        @functools.wraps(train)
        def surviving(config: TrainingConfig, stage_dir: Path, *rest: Any, **named: Any) -> Path:
            def attempt(batch: Batch) -> Path:
                return train(with_batch(config, batch), stage_dir, *rest, **named)

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


def with_batch(config: TrainingConfig, batch: Batch) -> TrainingConfig:
    """Return the configuration with its step made up so. GRPO samples as many completions at once as before."""
    rows, passes = batch.per_device_train_batch_size, batch.gradient_accumulation_steps
    options = dict(config.trainer_args)
    if "steps_per_generation" in options:
        options["steps_per_generation"] = batch.generation_batch_size // rows
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
    return ", ".join([*ways, "LoRA, or a smaller model"])
