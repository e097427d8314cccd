"""What is recorded and watched while a TRL trainer trains: metrics, checkpoints, progress, and gradients of zero."""

import math
from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any

from transformers import TrainerCallback

from utils.console import Bar, progress
from utils.errors import StageFailed
from utils.stage_log import StageLog

ZERO_GRADIENTS = 3  # logged gradients of zero, one after the other, that raise the alarm


class Watch(TrainerCallback):
    """Copies what the trainer logs to the stage's record and the progress bar. Close it when training ends or fails.

    It reads only what the trainer has already brought to the CPU, so it costs no synchronisation with a GPU.
    """

    def __init__(self, log: StageLog, description: str, shown: Mapping[str, str]) -> None:
        self.log, self.description, self.shown = log, description, shown
        self.row: dict[str, Any] = {}
        self.step = 0
        self.zero_gradients, self.alarmed = 0, False
        self.newest: dict[str, float | str] = {}
        self.bar: Bar | None = None
        self._open = ExitStack()

    def close(self) -> None:
        """Write the last metrics and take the progress bar away."""
        self._write_row()
        self._open.close()

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Open the progress bar."""
        self.bar = self._open.enter_context(progress(self.description, state.max_steps, state.global_step))

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Write the metrics of the step before, which are complete now."""
        self._write_row()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> Any:
        """Advance the bar; let the last step be logged, whatever `logging_steps` is."""
        if self.bar is not None:
            self.bar.update(state.global_step, **self.newest)
        if state.global_step >= state.max_steps:
            control.should_log = True
        return control

    def on_log(self, args: Any, state: Any, control: Any, logs: Mapping[str, Any] | None = None, **_: Any) -> None:
        """Take the trainer's metrics of this step.

        Raises:
            StageFailed: the loss is not a number.
        """
        if not logs or "train_runtime" in logs:  # the summary of the whole training, which belongs to no step
            return
        self.step = state.global_step
        self.row |= logs
        self.newest |= {name: logs[key] for key, name in self.shown.items() if logs.get(key) is not None}
        if self.bar is not None:
            self.bar.update(self.step, **self.newest)
        if "loss" in logs and not math.isfinite(logs["loss"]):
            raise StageFailed(
                f"the loss is {logs['loss']} at step {self.step}: the weights are lost. Lower learning_rate"
                f" (it is {args.learning_rate:g}), or train with bf16=False."
            )
        if "grad_norm" in logs:
            self._watch_gradient(logs["grad_norm"])

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Record a checkpoint."""
        self._write_row()
        self.log.event("CHECKPOINT", f"checkpoint-{state.global_step}")

    def _watch_gradient(self, norm: float) -> None:
        self.zero_gradients = self.zero_gradients + 1 if norm == 0 else 0
        if self.zero_gradients == ZERO_GRADIENTS and not self.alarmed:
            self.alarmed = True  # once is enough: GRPO may pass through many such stretches
            message = f"the gradient is 0 in {ZERO_GRADIENTS} logged steps in a row: nothing is being learnt"
            self.log.alarm(self.step, "zero_gradient", message)

    def _write_row(self) -> None:
        if self.row:
            self.log.metrics(self.step, self.row.pop("epoch", None), self.row)
            self.row = {}
