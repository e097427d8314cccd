"""One stage of a run: what it is given, its training and measuring, and how it ended."""

import os
import sys
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from chain import screen
from chain import stage_gates as gates
from chain.fetch import Fetched
from chain.fitting import Fitting, missed
from chain.hacking import tell_hacking
from chain.record import output_of, recorded
from chain.recovery import train_within_memory
from chain.stages import reference, shown
from kinds import Stage, StageOutput
from records.run_directory import RunInfo
from records.stage_log import StageLog
from utils.agreement import by_first, peer_has_ended
from utils.console import console, tee
from utils.errors import Refused, StageFailed, way_out, without_number
from utils.files import weight_files, weights_sha256
from utils.limits import Clock
from utils.processes import is_first
from utils.quiet import quiet_libraries
from utils.runtime import device, free_memory, keep_freed_memory, now, reset_peak_memory
from utils.text import entry, safe
from watching import gpu_memory
from watching.energy import Spent, counted
from watching.phases import of_phase
from watching.trackers import stage_environment

if TYPE_CHECKING:
    from evaluation.task import Task


class Run:
    """A run under way: its record, its stages, and where each model that they name lies."""

    def __init__(
        self,
        info: RunInfo,
        stages: list[Stage],
        fetched: Fetched,
        outputs: Mapping[str, Path],
        fitting: Mapping[str, Fitting],
        clock: Clock,
        reward_model: Path | None,
        tasks: "Mapping[str, Sequence[Task]]",
    ) -> None:
        self.info, self.stages, self.fetched, self.fitting, self.clock = info, stages, fetched, fitting, clock
        self.outputs = dict(outputs)  # grows as stages finish
        self.reward_model = reward_model
        """The newest that there is, which judges the answers of later policies."""
        self.tasks = tasks

    def dir_of(self, stage: Stage) -> Path:
        """Return the directory of a stage."""
        return self.info.run_dir / str(stage.config.output_dir)

    def path_of(self, model: str | StageOutput, revision: str | None) -> Path:
        """Return the directory of a model that a stage names."""
        return self.fetched.path_of(model, revision, self.outputs)

    def has_passed(self, stage: Stage) -> bool:
        """Tell whether a stage has passed; a kill may have come before the run's own record had it."""
        done = StageLog(self.dir_of(stage)).read_info()
        if not by_first(lambda: bool(done.get("status") == "passed")):
            return False
        self.info.set_stage(stage.label, status="passed", duration_s=done.get("duration_s"), input=done.get("input"))
        console().print(f"{stage.label} has passed, and is kept")
        return True

    def pass_on(self, stage: Stage) -> None:
        """Let later stages find the stage's model, or its input where a gate failed; record the latter."""
        self.outputs[stage.label] = by_first(partial(self._passed_on, stage))
        if stage.kind.scores:
            self.reward_model = self.dir_of(stage)

    def _passed_on(self, stage: Stage) -> Path:
        stage_dir, run_dir = self.dir_of(stage), self.info.run_dir
        if stage.model is None or not StageLog(stage_dir).read_info().get("gate_failed"):
            return stage_dir
        path = self.path_of(stage.model, stage.config.revision)
        inside = path.is_relative_to(run_dir)  # a run that is moved still finds it
        self.info.set_stage(stage.label, passes_on=str(path.relative_to(run_dir) if inside else path))
        return path


def run_stage(run: Run, stage: Stage) -> None:
    """Train and measure one stage, and judge it by its gates; the record tells how it ended.

    Raises:
        StageFailed: it failed.
        KeyboardInterrupt: it was stopped.
    """
    stage_dir = run.dir_of(stage)
    stage_dir.mkdir(exist_ok=True)
    log = StageLog(stage_dir)
    with _recorded_end(run, stage, log):
        _begin(run, stage, log)
        gpu_memory.keep_within(run.clock.limits.memory_budget_bytes)
        if by_first(lambda: _has_trained(stage_dir, log)):
            log.event("RESUME", "training had ended: evaluating what it wrote")
        else:
            fitted = run.fitting[stage.label].stage if stage.label in run.fitting else stage
            fitted = fitted.with_paths(run.path_of)
            if device() == "cpu":  # where the model trains on a GPU, the memory it was loaded in is not needed again
                keep_freed_memory()
            checkpoint = train_within_memory(fitted, stage_dir, run.clock)
            if is_first():  # others may be here before its weights are
                log.info(output=output_of(checkpoint))
        free_memory()  # of the trainer, whose model a reference cycle keeps alive
        by_first(lambda: _measure(run, stage, stage_dir, log))


@contextmanager
def _recorded_end(run: Run, stage: Stage, log: StageLog) -> Iterator[None]:
    """Keep a stage's console, trackers and costs while open; record how it ends, and raise what ended it."""
    stage_dir = log.info_file.parent
    reset_peak_memory()
    with (
        counted(log) as spent,
        tee(stage_dir / "console_output.log"),
        stage_environment(run.info.run_dir.name, stage.label, stage_dir),
        quiet_libraries(stage_dir / "training.log" if is_first() else None),
    ):
        ended: BaseException | None = None
        try:
            yield
        except (Exception, SystemExit, KeyboardInterrupt) as error:  # noqa: BLE001  _end raises it again
            ended = error
        _end(run, stage, log, spent, ended)


def _begin(run: Run, stage: Stage, log: StageLog) -> None:
    resolved = stage.with_paths(run.path_of)
    source = None
    if stage.model is not None:
        path = Path(resolved.config.model_name)
        source = {"ref": reference(stage.model), "path": str(path), "sha256": weights_sha256(path)}
    judges = {reference(one): weights_sha256(run.path_of(one, None)) for one in stage.reward_models}
    before, data = log.read_info(), run.fetched.data[stage.label]
    if (was := before.get("data") or {}).get("fingerprint") == data["fingerprint"]:
        data = was | data  # with what training found out about the same rows
    log.open(
        name=stage.label,
        kind=stage.kind.name,
        status="running",
        config=(before.get("config") or {}) | recorded(stage),  # of an interrupted run: its trainer's options stay
        input=source,
        reward_models=judges,
        data=data,
        error=None,
    )
    run.info.set_stage(stage.label, status="running", started_at=now(), input=source)
    log.event("STAGE_START", f"{stage.label} from {shown(stage.model)}")
    console().print(screen.stage(stage, data))
    if stage.label in run.fitting:
        fitting = run.fitting[stage.label]
        log.info(forecast=fitting.record)
        console().print(*fitting.said, sep="\n", markup=False, soft_wrap=True, end="\n" if fitting.said else "")


def _has_trained(stage_dir: Path, log: StageLog) -> bool:
    """Tell whether an interrupted run had finished training: then what it wrote is taken as it is."""
    done = log.read_info().get("output")
    return bool(done and weight_files(stage_dir) and weights_sha256(stage_dir) == done["sha256"])


def _measure(run: Run, stage: Stage, stage_dir: Path, log: StageLog) -> None:
    """Score the stage's input and output on the same held-out examples."""
    from evaluation import evaluate_stage

    started = time.monotonic()
    results = of_phase("measuring", evaluate_stage)(
        stage.kind,
        None if stage.model is None else run.path_of(stage.model, stage.config.revision),
        stage_dir,
        run.tasks[stage.label],
        reward_model=None if stage.kind.scores else run.reward_model,
        seed=stage.config.seed,
        label=stage.label,
        gated={gate["metric"] for gate in stage.config.gates},
        random_weights=None if stage.model else lambda: stage.kind.untrained(stage_dir, stage.config.seed),
    )
    for_gates_and_alarms = ("scores", "noise", "alarm")
    log.info(
        evaluation=[{key: value for key, value in one.items() if key not in for_gates_and_alarms} for one in results],
        evaluation_s=round(time.monotonic() - started, 3),
    )
    for result in results:
        if "alarm" in result:
            log.alarm(log.done()["steps"], *result["alarm"])
    tell_hacking(log, results, run.tasks[stage.label])
    gates.settle(stage, results, log)


def _end(run: Run, stage: Stage, log: StageLog, spent: Spent, error: BaseException | None) -> None:
    """Record the end of a stage in both records, and raise what ended it unless it passed."""
    free_memory()
    status = "passed" if error is None else "interrupted" if isinstance(error, KeyboardInterrupt) else "failed"
    reason = _reason(error, log) if status == "failed" else None
    done, taken = {} if error is None else log.done(), spent.until_now()
    with nullcontext() if error is None else suppress(OSError):  # a full disk is what may have ended it
        log.info(status=status, error=reason, **done, **taken)
        run.info.set_stage(stage.label, status=status, duration_s=taken["duration_s"])
    if reason is not None:
        with suppress(OSError):
            log.event("STAGE_FAILED", reason)
        failed = StageFailed(f"stage {stage.label} failed: {reason}\nIts files: {log.info_file.parent}")
        console().print_to_copies(str(failed))
        if not (is_first() or isinstance(error, StageFailed | Refused) or peer_has_ended(error)):
            print(safe(f"process {os.environ['RANK']}: {failed}"), file=sys.stderr)  # which the first cannot know
        raise failed from error
    if error is not None:
        with suppress(OSError):
            log.event("STAGE_INTERRUPTED", str(error) or f"step {done['steps']} was the last that was logged")
        raise error
    console().print(f"{stage.label} passed in {taken['duration_s']:.1f} s", style="green")
    info = log.read_info()
    if device() == "cuda" and (said := missed(stage.label, info.get("forecast"), info["peak_memory_bytes"])):
        console().print(said, markup=False)


def _is_cached(file: Path) -> bool:
    from data.corpus.cache import root

    return file.is_relative_to(root())


def _reason(error: BaseException | None, log: StageLog) -> str:
    """Return why a stage failed. What was not foreseen does not explain itself: its traceback goes to training.log."""
    if isinstance(error, StageFailed | Refused):
        return str(error)
    if peer_has_ended(error):
        return "another process of the run has ended; what it or the launcher says tells why. Go on with --resume"
    if error is not None and (way := way_out(error)):
        return f"{without_number(error)}. What was saved before is whole: {way}, and go on with --resume"
    if isinstance(error, FileNotFoundError) and error.filename and _is_cached(Path(error.filename)):
        return f"{error.filename} is gone: --resume goes on, and prepares what was prepared anew"
    training_log = log.info_file.parent / "training.log"
    with suppress(OSError), training_log.open("a", encoding="utf-8") as file:
        file.write(entry("".join(traceback.format_exception(error))))
    return f"{type(error).__name__}: {error} (traceback in {training_log.name})"
