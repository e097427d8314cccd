"""What is recorded and watched while a TRL trainer trains: metrics, checkpoints, progress, time, memory, gradients."""

import math
from collections.abc import Callable, Mapping
from typing import Any

from transformers import TrainerCallback

from utils.agreement import any_says
from utils.errors import StageFailed
from utils.stage_log import StageLog
from watching.stage_watch import StageWatch

ZERO_GRADIENTS = 3  # logged gradients of zero, one after the other, that raise the alarm
HOPELESS = 50  # steps after which a stage is judged for the first time, rather than at its end alone


class Watch(TrainerCallback):
    """Copies what the trainer logs to the stage's record and the progress bar. Close it when training ends or fails.

    It stops the training, with a checkpoint, when the user asks for it or the time of the run does not suffice;
    `stopped` then says why. It reads only what the trainer has already brought to the CPU, so it costs no
    synchronisation with a GPU.
    """

    def __init__(
        self,
        log: StageLog,
        description: str,
        shown: Mapping[str, str],
        asked_to_stop: Callable[[], bool],
        may_stop: Callable[[], bool],
        judge: Callable[[list[dict[str, Any]]], None],
    ) -> None:
        self.log = log
        self.asked_to_stop, self.may_stop, self.judge = asked_to_stop, may_stop, judge
        self.judged = False
        self.stopped: str | None = None
        self.row: dict[str, Any] = {}
        self.step = 0
        self.zero_gradients = 0
        self.save_is_due = False
        self.stage = StageWatch(log, description, shown)

    def close(self) -> None:
        """Write the last metrics, and end what this opened."""
        try:
            self._write_row()
        finally:
            self.stage.close()

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Open the progress bar."""
        self.stage.start(state.max_steps, state.global_step)

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Write the metrics of the step before, which are complete now."""
        self._write_row()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> Any:
        """Advance the bar, look at time and memory; let the last step be logged, whatever `logging_steps` is."""
        self.stage.done(state.global_step)
        if state.global_step >= state.max_steps:
            control.should_log = True
        self._save_between_generations(state, control)
        reason = self._reason_to_stop(state)
        if reason and self.may_stop():
            self.stopped = reason
            control.should_save = control.should_training_stop = True
        return control

    def on_log(self, args: Any, state: Any, control: Any, logs: Mapping[str, Any] | None = None, **_: Any) -> None:
        """Take the trainer's metrics of this step.

        Raises:
            StageFailed: the loss is not a number, or `HOPELESS` steps were judged to be just that.
        """
        if not logs or "train_runtime" in logs:  # the summary of the whole training, which belongs to no step
            return
        self.step = state.global_step
        self.row |= logs
        if "loss" in logs and not math.isfinite(logs["loss"]):
            raise StageFailed(
                f"the loss is {logs['loss']} at step {self.step}: the weights are lost. Lower learning_rate"
                f" (it is {args.learning_rate:g}), or train with bf16=False."
            )
        if "grad_norm" in logs and not logs.get("frac_reward_zero_std"):  # no spread in a group, no gradient
            self._watch_gradient(logs["grad_norm"])
        done, beta = self.step / state.max_steps, getattr(args, "beta", None) or 0.0
        self.stage.logged(self.step, state.log_history, share_done=done, beta=beta)
        if self.step >= HOPELESS and not self.judged:
            self.judged = True
            self.judge(state.log_history)

    def on_evaluate(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Let the time of an evaluation be no step's."""
        self.stage.begin_step()

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Record a checkpoint, and what the stage has taken: after a kill nobody else can tell."""
        self._write_row()
        self.stage.saved(f"checkpoint-{state.global_step}")

    def on_epoch_end(self, args: Any, state: Any, control: Any, **_: Any) -> Any:
        """Let a checkpoint that is due at the end of an epoch wait, too."""
        self._save_between_generations(state, control)
        return control

    def _save_between_generations(self, state: Any, control: Any) -> None:
        """Let a checkpoint wait until GRPO has used up what it sampled, which none holds; the last need not."""
        due = control.should_save or self.save_is_due
        control.should_save = due and (self.may_stop() or state.global_step >= state.max_steps)
        self.save_is_due = due and not control.should_save

    def _reason_to_stop(self, state: Any) -> str | None:
        """Return why all processes stop after this step, one of which may have been asked to; None if they go on."""
        if self.asked_to_stop():
            return any_says(f"stopped after step {state.global_step} of {state.max_steps}, with a checkpoint")
        return any_says(self.stage.out_of_time())

    def _watch_gradient(self, norm: float) -> None:
        self.zero_gradients = self.zero_gradients + 1 if norm == 0 else 0
        if self.zero_gradients == ZERO_GRADIENTS:  # once is enough: GRPO may pass through many such stretches
            self.stage.alarm(
                self.step,
                "zero_gradient",
                f"the gradient is 0 in {ZERO_GRADIENTS} logged steps in a row: nothing is being learnt. Is any token"
                " supervised (SFT's training.log shows an example)? Do chosen and rejected differ? Is the loss 0"
                " already? Are all completions masked?",
            )

    def _write_row(self) -> None:
        if self.row:
            self.log.metrics(self.step, self.row.pop("epoch", None), self.row)
            self.row = {}
