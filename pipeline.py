"""Run a recipe's stages in order: check, resolve inputs, train, evaluate, stop on failure, resume."""

import os
import signal
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cache_config  # noqa: F401  sets the environment before any Hugging Face library is imported
from chain import recipe as recipes
from chain import screen
from chain.disk import refuse_little
from chain.fetch import STEP_FAILED, Fetched, fetch
from chain.fitting import Fitting, fit_all
from chain.record import (
    changes_of_run,
    changes_since,
    chosen_stages,
    open_record,
    resumable,
    reward_model_of,
    set_aside,
)
from chain.run_stage import Run, run_stage
from chain.stage_gates import tasks_of
from chain.stages import Extra
from kinds import Stage
from records.run_directory import RunInfo, create, find_source, refuse_link, usable
from records.stage_log import StageLog
from utils.agreement import by_first, first_then_all
from utils.command_line import refuse_unread_flags, resume_command
from utils.console import console, tee, warn
from utils.errors import Interrupted, Refused, StageFailed, plain_endings, without_number
from utils.limits import Clock, Limits, hours, size_bytes_of
from utils.locks import lock
from utils.processes import first_only
from utils.quiet import quiet_libraries
from utils.runtime import now
from utils.stopping import endings

if TYPE_CHECKING:
    from evaluation.task import Task
    from evaluation.verifier import Verifier

__all__ = ["Interrupted", "Refused", "StageFailed", "run_pipeline"]


def run_pipeline(
    configs: Mapping[str, Any],
    grpo_extra: Extra = None,
    *,
    verifier: "Verifier | None" = None,
    recipe: str | None = None,
    runs_dir: Path | str = "runs",
    stages: Sequence[str] | None = None,
    from_run: str | None = None,
    resume: str | None = None,
    force: bool = False,
    values: Sequence[str] = (),
    memory_budget: int | str | None = None,
    max_hours: float | None = None,
) -> Path:
    """Run the stages of `configs` in their order, and return the run directory.

    `configs` maps each stage's label to its configuration; `grpo_extra` are the rewards and the sampling of the stages
    that sample, one for all or one for each label. With a `verifier` every stage is measured on its problems,
    and gates may name what it finds. `stages` runs only some; their inputs then come from the run
    `from_run`. `resume` continues a run by its id, or the `latest` unfinished one; `force` lets it go on where the
    recipe or its data have changed, and records that: stages that have passed are kept, one that was stopped starts
    over if it has changed. It also lets a stage start whose step with a tiny model, tried ahead, fails. `recipe` is
    what `--resume` loads the recipe by, and `values` what it then sets in it.
    `memory_budget` is what the run may take of the GPU's memory, in bytes or as `6GiB`, and `max_hours` how long it may
    take. What the caller passes is not changed, and no command line is read.

    Raises:
        Refused: the run cannot start as asked; nothing has been created.
        StageFailed: a stage failed; the later ones did not run, the earlier ones are kept.
        Interrupted: it was stopped by Ctrl-C or SIGTERM, or for `max_hours`, and can be resumed.
    """
    recipes.end_of_recipe()
    plain_endings()
    _refuse_hidden()
    if recipe is None:
        recipe = recipes.of_script(configs)
        refuse_unread_flags(is_recipe=recipe is not None)
    usable(runs_dir)
    limits, runs_dir = _limits(memory_budget, max_hours), Path(runs_dir)
    with quiet_libraries(None):
        checked = _check(configs, grpo_extra, verifier, runs_dir, stages, from_run, resume, force, limits)
    run_dir = by_first(lambda: checked.earlier.run_dir if checked.earlier else create(runs_dir))
    with lock(run_dir), tee(run_dir / "console_output.log"), _terminable():
        run = _open(checked, RunInfo(run_dir), recipe, values, limits)
        with _ending(run.info), _report_kept_up(run_dir):
            for stage in run.stages:
                refuse_link(run.dir_of(stage))
                if not run.has_passed(stage):
                    _refuse_lateness(run, stage)
                    run_stage(run, stage)
                _write_card(run, stage)
                run.pass_on(stage)
        _show_results(run)
    return run_dir


@dataclass(frozen=True)
class _Checked:
    """A run that can start: everything that it needs is here, and fits."""

    stages: list[Stage]
    outputs: Mapping[str, Path]
    fetched: Fetched
    fitting: Mapping[str, Fitting]
    earlier: RunInfo | None
    """The run that is resumed."""
    source: RunInfo | None
    """The run that inputs come from."""
    changes: Mapping[str, Sequence[str]]
    of_run: Sequence[str]
    verifier: "Verifier | None"
    tasks: "Mapping[str, Sequence[Task]]"
    """What each stage is measured on, by label."""


def _check(
    configs: Mapping[str, Any],
    grpo_extra: Extra,
    verifier: "Verifier | None",
    runs_dir: Path,
    labels: Sequence[str] | None,
    from_run: str | None,
    resume: str | None,
    force: bool,
    limits: Limits,
) -> _Checked:
    """Look at everything that can be wrong before a run starts; nothing is created."""
    from evaluation.choose import verifier_for
    from evaluation.verifier import Verifier

    if not isinstance(verifier, Verifier | None):
        raise Refused(f"verifier must be a Verifier; given: {verifier!r}")
    if resume is not None and (labels is not None or from_run is not None):
        raise Refused("a resumed run has the stages and inputs that it began with: leave out stages and from_run")
    earlier = None if resume is None else resumable(runs_dir, resume)
    if earlier:
        labels, from_run = [entry["name"] for entry in earlier.read()["stages"]], earlier.read()["from_run"]
    source = None if from_run is None else find_source(runs_dir, from_run)
    chosen, outputs = chosen_stages(configs, grpo_extra, labels, source, verifier)
    stages = earlier.read()["stages"] if earlier else []
    passed = [entry["name"] for entry in stages if entry["status"] == "passed"]
    recorded = (line.partition(": ") for line in (earlier.read().get("forced", []) if earlier else ()))
    started = {label for label, _, said in recorded if said == STEP_FAILED}
    forced = {stage.label for stage in chosen} if force else started
    fetched = first_then_all(lambda: fetch(chosen, outputs, passed=passed, forced=forced))
    if verifier := verifier_for(chosen, verifier):
        first_then_all(partial(verifier.check, [stage.config for stage in chosen]))
    tasks = tasks_of(chosen, verifier)
    of_run = changes_of_run(earlier, chosen, verifier, force) if earlier else []
    changes = changes_since(earlier, chosen, fetched, outputs, force) if earlier else {}
    begun = _begun(earlier.run_dir, [one for one in chosen if one.label not in changes]) if earlier else {}
    fitting = fit_all(chosen, outputs, limits.memory_budget_bytes, begun)
    rows = {label: data["train_rows"] for label, data in fetched.data.items()}
    refuse_little(chosen, outputs, rows, earlier.run_dir if earlier else runs_dir / "new", tasks)
    return _Checked(chosen, outputs, fetched, fitting, earlier, source, changes, of_run, verifier, tasks)


def _begun(run_dir: Path, stages: list[Stage]) -> dict[str, int]:
    """Return the micro-batch of each stage that was stopped: it goes on with that."""
    records = {stage.label: StageLog(run_dir / stage.config.output_dir).read_info() for stage in stages}
    forecasts = {label: record.get("forecast") for label, record in records.items() if record.get("status") != "passed"}
    return {label: one["per_device_train_batch_size"] for label, one in forecasts.items() if one}


def _open(checked: _Checked, info: RunInfo, recipe: str | None, values: Sequence[str], limits: Limits) -> Run:
    """Open the record of a run, or take it up again, and show what it is."""
    _start_over(info.run_dir, [stage for stage in checked.stages if stage.label in checked.changes])
    open_record(
        info,
        checked.stages,
        recipe=recipe,
        from_run=checked.source.run_dir.name if checked.source else None,
        values=values,
        changes=checked.changes,
        of_run=checked.of_run,
        untried=checked.fetched.forced,
        limits=limits,
        data=checked.fetched.data,
        verifier=checked.verifier,
    )
    by_first(lambda: console().print(screen.header(info.read(), info.run_dir)))
    judge = reward_model_of(checked.source)
    fetched, fitting = checked.fetched, checked.fitting
    return Run(info, checked.stages, fetched, checked.outputs, fitting, Clock(limits), judge, checked.tasks)


def _refuse_lateness(run: Run, stage: Stage) -> None:
    if run.clock.left_s <= 0:
        limit = run.clock.limits.max_hours
        raise Interrupted(f"stopped for time: --max-hours {limit:g} are over before {stage.label}")


def _write_card(run: Run, stage: Stage) -> None:
    from evaluation.card import write_card

    write_card(run.info, stage.label)


@first_only
def _show_results(run: Run) -> None:
    run_dir = run.info.run_dir
    records = [StageLog(run.dir_of(stage)).read_info() for stage in run.stages]
    console().print(*screen.results(run.info.read(), records), sep="\n")
    _report(run_dir)
    console().print(screen.model_line(run.info.read(), run_dir), markup=False, soft_wrap=True)


@contextmanager
def _ending(info: RunInfo) -> Iterator[None]:
    """Record how the run ends, and write its report where it ends before its last stage."""
    try:
        yield
    except KeyboardInterrupt as error:
        with suppress(OSError):  # on a full disk it stays "running", and without its lock that is the same
            info.set(status="interrupted", finished_at=now())
        _report(info.run_dir)
        stopped = Interrupted(f"{str(error) or 'interrupted'}. Continue with:\n  {resume_command(info.run_dir)}")
        console().print_to_copies(str(stopped))
        raise stopped from error
    except (StageFailed, Refused):
        with suppress(OSError):
            info.set(status="failed", finished_at=now())
        _report(info.run_dir)
        raise
    info.set(status="passed", finished_at=now())


def _report_kept_up(run_dir: Path) -> AbstractContextManager[None]:
    from evaluation.report.live import kept_up

    return kept_up(run_dir)


@first_only
def _report(run_dir: Path) -> None:
    """Write the report, and say how it begins and where it lies. That it cannot be written fails no run."""
    from evaluation.report import write_report

    try:
        lines = screen.report_lines(write_report(run_dir), run_dir)
    except Exception as error:  # noqa: BLE001  whatever stands in a run's files, the run has ended as it has
        warn(f"the report of the run could not be written: {type(error).__name__}: {without_number(error)}")
    else:
        console().print(lines, markup=False, highlight=False, soft_wrap=True)


def _limits(memory_budget: int | str | None, max_hours: float | None) -> Limits:
    try:
        return Limits(
            memory_budget_bytes=None if memory_budget is None else size_bytes_of(memory_budget),
            max_hours=None if max_hours is None else hours(max_hours),
        )
    except (TypeError, ValueError) as error:
        raise Refused(str(error)) from error


@first_only
def _start_over(run_dir: Path, changed: list[Stage]) -> None:
    """Set aside what a stopped stage has done when it has changed: its checkpoints would bring the old values back."""
    for stage in changed:
        stage_dir = run_dir / stage.config.output_dir
        if StageLog(stage_dir).read_info().get("status") == "passed":
            warn(f"{stage.label} has passed and is kept as it is: what has changed does not reach it")
        elif stage_dir.exists():
            warn(f"{stage.label} starts over, since it has changed; what it had is kept in {set_aside(stage_dir).name}")


def _refuse_hidden() -> None:
    """Raise Refused if a file beside a recipe run as a script takes the place of a package that is imported later."""
    for name in ("data", "evaluation"):
        spec = find_spec(name)
        if spec is None or spec.origin != str(Path(__file__).resolve().parent / name / "__init__.py"):
            raise Refused(f"{spec and spec.origin} hides sixgig's package {name}: rename it")


@contextmanager
def _terminable() -> Iterator[None]:
    """Let SIGTERM stop the run as Ctrl-C does, and a terminal that has gone away."""
    process = os.getpid()

    def stop(number: int, _: object) -> None:
        if os.getpid() != process:  # a worker that inherited the handler: its end is the ordinary one
            os._exit(128 + number)
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread may handle signals
        return
    before = {number: signal.signal(number, stop) for number in endings()}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
