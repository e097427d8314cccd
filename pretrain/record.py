"""What a pretraining run shows and records: only its first process does, the others stay silent."""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from data.corpus.configured import record_of
from data.corpus.corpus import Corpus
from pretrain.checkpoint import Position
from pretrain.config import PretrainConfig
from records.energy import counted
from records.stage_log import StageLog
from records.step_watch import StepWatch
from utils import alarms, trackers
from utils.console import console, progress
from utils.limits import kept
from utils.runtime import peak_memory_bytes


class Record:
    """The stage's files, its progress bar and its trackers, or nothing in a process that is not the first."""

    def __init__(self, stage_dir: Path, config: PretrainConfig, is_main: bool, stack: ExitStack) -> None:
        self.stage_dir, self.config, self.is_main, self._stack = stage_dir, config, is_main, stack
        self.log = StageLog(stage_dir)
        self._spent = stack.enter_context(counted(self.log))

    def data(self, corpus: Corpus) -> None:
        """Record and show what the run is trained on."""
        if self.is_main:
            self.log.info(data=record_of(corpus, self.config.eval_samples))
            for line in corpus.lines():
                self.say(line)

    def start(self, model: Any, step: int, checkpoint: str | None) -> None:
        """Open bar and trackers at `step`, and cut the metrics back to it."""
        if not self.is_main:
            return
        self.log.cut_back(step)
        self._shown: dict[str, float] = {}
        self._steps = StepWatch(self.log)
        self._rows: list[Mapping[str, Any]] = [*self.log.read_metrics()]
        if checkpoint:
            self.log.resumed(checkpoint, checkpoint)
            self.say(f"pretrain goes on from {checkpoint}")
        text = f"{self.config.max_steps} steps, {model.num_parameters()} parameters, on {model.device.type}"
        self.log.event("TRAIN_START", text)
        self._bar = self._stack.enter_context(progress("pretrain", self.config.max_steps, step))
        self._track = self._stack.enter_context(trackers.recording(self.stage_dir, self.config, model, step))

    def checkpoint(self, name: str) -> None:
        """Record a checkpoint, and what the stage has taken: after a kill nobody else can tell."""
        if self.is_main:
            self.log.event("CHECKPOINT", name)
            self.log.info(**self._spent.until_now())
            self._steps.begin()

    def step(self, step: int) -> None:
        """Show that `step` steps are done, and look at the time and the memory that the last one took."""
        if self.is_main:
            self._bar.update(step, **self._shown)
            self._steps.done(step)

    def out_of_time(self) -> str | None:
        """Say why the run must stop for its limit of time; None if it may go on, and in a process that cannot tell."""
        return kept().out_of_time(self._bar.pace, self.config.max_steps) if self.is_main else None

    def say(self, text: str) -> None:
        """Print a line."""
        if self.is_main:
            console().print(text, markup=False)

    def metrics(self, step: int, epoch: float, values: Mapping[str, float]) -> None:
        """Record and show the metrics of a step."""
        if self.is_main:
            self.log.metrics(step, epoch, values)
            self._track(step, {**values, "epoch": epoch})
            self._shown = {name: values[name] for name in ("loss", "eval_loss", "eval_bits_per_byte") if name in values}
            self._bar.update(step, **self._shown)
            self._rows.append(values)
            self._steps.logged(step, values["num_tokens"])
            for name, message in alarms.found(self._rows):
                self._steps.alarm(step, name, message)
            self._steps.begin()

    def end(self, position: Position, test: Mapping[str, float] | None) -> None:
        """Record what the whole run came to."""
        if self.is_main:
            self.log.train_end(f"step {position.step}")
            best = {"step": position.best_step, "eval_loss": position.best_loss}
            measured = {name.replace("eval_", "test_"): value for name, value in (test or {}).items()}
            self.log.info(
                steps=position.step,
                tokens=position.tokens,
                best=best,
                test=measured,
                peak_memory_bytes=peak_memory_bytes(),
            )


@contextmanager
def recording(stage_dir: Path, config: PretrainConfig, is_main: bool) -> Iterator[Record]:
    """Give the record of a run, and close its bar and trackers at the end."""
    with ExitStack() as stack:
        yield Record(stage_dir, config, is_main, stack)
