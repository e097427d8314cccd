"""Run a recipe's stages in order: check, resolve inputs, train, evaluate, stop on failure, resume."""

import os
import signal
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path

import cache_config  # noqa: F401  sets the environment before any Hugging Face library is imported
from algorithms.config import GRPOExtraConfig
from chain import command_line, screen
from chain.disk import refuse_little
from chain.fitting import fit_all
from chain.preflight import fetch
from chain.record import (
    changes_of_run,
    changes_since,
    chosen_stages,
    open_record,
    resumable,
    set_aside,
)
from chain.run import Run, run_stages
from chain.stages import Config, Stage
from evaluation.verifier import Verifier
from recipes import name_of
from utils.agreement import by_first, first_then_all
from utils.command_line import resume_command
from utils.console import console, tee, warn
from utils.errors import Interrupted, Refused, StageFailed, plain_endings, without_number
from utils.limits import Limits, hours, keep, size_bytes_of
from utils.locks import lock
from utils.processes import first_only, in_first, is_first
from utils.quiet import quiet_libraries
from utils.run_directory import RunInfo, create, find_source, usable
from utils.runtime import now
from utils.stage_log import StageLog
from utils.stopping import endings

__all__ = ["Interrupted", "Refused", "StageFailed", "run_pipeline"]


def run_pipeline(
    configs: Mapping[str, Config],
    grpo_extra: GRPOExtraConfig | None = None,
    *,
    verifier: Verifier | None = None,
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

    With a `verifier` every stage is measured on its problems, and gates may name what it finds.

    `stages` runs only some; their inputs then come from the run `from_run`. `resume` continues a run by its id, or the
    `latest` unfinished one; `force` lets it go on where the recipe or its data have changed, and records that: stages
    that have passed are kept, one that was stopped starts over if it has changed. `recipe` is what `--resume` loads the
    recipe by, and `values` what it then sets in it. `memory_budget` is what the run may take of the GPU's memory, in
    bytes or as `6GiB`, and `max_hours` how long it may take. What the caller passes is not changed.

    A script that passes its own `configs`, and no `recipe`, is a recipe run by itself: it takes the flags that
    `run_all.py` has for one recipe, and ends here where they ask for no run (`--plan`, `--download`).

    Raises:
        Refused: the run cannot start as asked; nothing has been created.
        StageFailed: a stage failed; the later ones did not run, the earlier ones are kept.
        Interrupted: it was stopped by Ctrl-C or SIGTERM, or for `max_hours`, and can be resumed.
    """
    plain_endings()
    _refuse_hidden()
    allowed = _limits(memory_budget, max_hours)
    if recipe is None and (script := _calling_script(configs)):
        args = command_line.of_script(
            runs_dir=runs_dir,
            stages=stages,
            from_run=from_run,
            resume=resume,
            force=force,
            memory_budget=allowed.memory_budget_bytes,
            max_hours=allowed.max_hours,
        )
        sizes = getattr(sys.modules["__main__"], "SIZES", None)
        asked = command_line.request(args, script, configs, grpo_extra, sizes, verifier)
        made = command_line.serve(args, asked, run_pipeline)
        return made or sys.exit(0)
    if recipe is None:
        command_line.refuse_flags()
    usable(runs_dir)
    runs_dir = Path(runs_dir)
    if resume is not None and (stages is not None or from_run is not None):
        raise Refused("a resumed run has the stages and inputs that it began with: leave out stages and from_run")
    with quiet_libraries(None):
        earlier = None if resume is None else resumable(runs_dir, resume)
        if earlier:
            stages, from_run = [entry["name"] for entry in earlier.read()["stages"]], earlier.read()["from_run"]
        source = None if from_run is None else find_source(runs_dir, from_run)
        chosen, outputs = chosen_stages(configs, grpo_extra, stages, source, verifier)
        fetched = first_then_all(lambda: fetch(chosen, outputs))
        if verifier:
            first_then_all(verifier.check)
        of_run = changes_of_run(earlier, force) if earlier else []
        changes = changes_since(earlier, chosen, fetched, outputs, force) if earlier else {}
        begun = {} if earlier is None else _begun(earlier.run_dir, [one for one in chosen if one.kind not in changes])
        fitting = fit_all(chosen, outputs, allowed.memory_budget_bytes, begun)
        rows = {kind: data["train_rows"] for kind, data in fetched.data.items()}
        refuse_little(chosen, outputs, rows, earlier.run_dir if earlier else runs_dir / "new")
    run_dir = by_first(lambda: earlier.run_dir if earlier else create(runs_dir))
    with in_first(lambda: lock(run_dir)), in_first(lambda: tee(run_dir / "console_output.log")), _terminable():
        info = RunInfo(run_dir)
        _start_over(run_dir, [stage for stage in chosen if stage.kind in changes])
        open_record(
            info,
            chosen,
            recipe=recipe,
            from_run=source.run_dir.name if source else None,
            values=values,
            changes=changes,
            of_run=of_run,
            limits=allowed,
            data=fetched.data,
        )
        by_first(lambda: console().print(screen.header(info.read(), run_dir)))
        with _ending(info, recipe), keep(allowed):
            run_stages(Run(info, chosen, fetched, outputs, fitting, verifier))
        if is_first():
            records = [StageLog(run_dir / stage.config.output_dir).read_info() for stage in chosen]
            console().print(*screen.results(info.read(), records), sep="\n")
            _report(run_dir)
            console().print(screen.model_line(info.read(), run_dir), markup=False, soft_wrap=True)
    return run_dir


@contextmanager
def _ending(info: RunInfo, recipe: str | None) -> Iterator[None]:
    """Record how the run ends, and write its report where it ends before its last stage."""
    try:
        yield
    except KeyboardInterrupt as error:
        with suppress(OSError):  # on a full disk it stays "running", and without its lock that is the same
            info.set(status="interrupted", finished_at=now())
        _report(info.run_dir)
        stopped = Interrupted(
            f"{str(error) or 'interrupted'}. Continue with:\n  {resume_command(info.run_dir, _by_itself(recipe))}"
        )
        console().print_to_copies(str(stopped))
        raise stopped from error
    except (StageFailed, Refused):
        with suppress(OSError):
            info.set(status="failed", finished_at=now())
        _report(info.run_dir)
        raise
    info.set(status="passed", finished_at=now())


@first_only
def _report(run_dir: Path) -> None:
    """Write the report, and say how it begins and where it lies. That it cannot be written fails no run."""
    from evaluation.report import write_report

    try:
        said = screen.report_lines(write_report(run_dir), run_dir)
    except Exception as error:  # noqa: BLE001  whatever stands in a run's files, the run has ended as it has
        warn(f"the report of the run could not be written: {type(error).__name__}: {without_number(error)}")
    else:
        console().print(said, markup=False, highlight=False, soft_wrap=True)


def _begun(run_dir: Path, stages: list[Stage]) -> dict[str, int]:
    """Return the micro-batch of each stage that was stopped: it goes on with that."""
    records = {stage.kind: StageLog(run_dir / stage.config.output_dir).read_info() for stage in stages}
    forecasts = {kind: record.get("forecast") for kind, record in records.items() if record.get("status") != "passed"}
    return {kind: one["per_device_train_batch_size"] for kind, one in forecasts.items() if one}


def _limits(memory_budget: int | str | None, max_hours: float | None) -> Limits:
    try:
        return Limits(
            memory_budget_bytes=None if memory_budget is None else size_bytes_of(memory_budget),
            max_hours=None if max_hours is None else hours(max_hours),
        )
    except ValueError as error:
        raise Refused(str(error)) from error


@first_only
def _start_over(run_dir: Path, changed: list[Stage]) -> None:
    """Set aside what a stopped stage has done when it has changed: its checkpoints would bring the old values back."""
    for stage in changed:
        stage_dir = run_dir / stage.config.output_dir
        if StageLog(stage_dir).read_info().get("status") == "passed":
            warn(f"{stage.kind} has passed and is kept as it is: what has changed does not reach it")
        elif stage_dir.exists():
            warn(f"{stage.kind} starts over, since it has changed; what it had is kept in {set_aside(stage_dir).name}")


def _refuse_hidden() -> None:
    """Raise Refused if a file beside a recipe run as a script takes the place of a package that is imported later."""
    for name in ("data", "evaluation"):
        spec = find_spec(name)
        if spec is None or spec.origin != str(Path(__file__).resolve().parent / name / "__init__.py"):
            raise Refused(f"{spec and spec.origin} hides sixgig's package {name}: rename it")


def _calling_script(configs: Mapping[str, Config]) -> str | None:
    """Return the script that is being run, as `--recipe` takes it; None if that would not find these `configs`."""
    script = vars(sys.modules["__main__"])
    of_a_recipe = "__file__" in script and "configs" in script and script["configs"] is configs
    return name_of(Path(script["__file__"]).resolve()) if of_a_recipe else None


def _by_itself(recipe: str | None) -> Path | None:
    """Return the script that is being run if it is the file of `recipe`; None for run_all.py and whatever else."""
    script = getattr(sys.modules["__main__"], "__file__", None)
    return Path(script).resolve() if script and recipe == name_of(Path(script).resolve()) else None


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
