"""Run a recipe's stages in order: check, resolve inputs, train, evaluate, stop on failure, resume."""

import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import cache_config  # noqa: F401  sets the environment before any Hugging Face library is imported
from algorithms.config import GRPOExtraConfig, StageOutput
from chain import command_line, gates, screen
from chain.disk import refuse_little
from chain.fitting import Fitting, fit_all, missed
from chain.hacking import tell_hacking
from chain.preflight import Fetched, fetch
from chain.record import (
    changes_of_run,
    changes_since,
    chosen_stages,
    open_record,
    output_of,
    recorded,
    resumable,
    set_aside,
)
from chain.stages import Config, Stage, reference, shown
from recipes import name_of
from utils import gpu_memory
from utils.agreement import by_first, first_then_all, peer_has_ended
from utils.command_line import resume_command
from utils.console import console, tee, warn
from utils.energy import Spent
from utils.errors import Interrupted, Refused, StageFailed, lacks_room, plain_endings, without_number
from utils.files import weight_files, weights_sha256
from utils.limits import Limits, hours, keep, kept, size_bytes_of
from utils.locks import lock
from utils.processes import first_only, in_first, is_first
from utils.quiet import quiet_libraries
from utils.run_directory import RunInfo, create, find_source, refuse_link, usable
from utils.runtime import device, free_memory, keep_freed_memory, now, reset_peak_memory
from utils.stage_log import StageLog
from utils.stopping import endings
from utils.text import entry, safe
from utils.trackers import stage_environment

__all__ = ["Interrupted", "Refused", "StageFailed", "run_pipeline"]


def run_pipeline(
    configs: Mapping[str, Config],
    grpo_extra: GRPOExtraConfig | None = None,
    *,
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
        asked = command_line.request(args, script, configs, grpo_extra, sizes)
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
        chosen, outputs = chosen_stages(configs, grpo_extra, stages, source)
        fetched = first_then_all(lambda: fetch(chosen, outputs))
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
        try:
            with keep(allowed):
                _run_stages(Run(info, chosen, fetched, outputs, fitting))
        except KeyboardInterrupt as error:
            with suppress(OSError):  # on a full disk it stays "running", and without its lock that is the same
                info.set(status="interrupted", finished_at=now())
            _report(run_dir)
            stopped = Interrupted(
                f"{str(error) or 'interrupted'}. Continue with:\n  {resume_command(run_dir, _by_itself(recipe))}"
            )
            console().print_to_copies(str(stopped))
            raise stopped from error
        except (StageFailed, Refused):
            with suppress(OSError):
                info.set(status="failed", finished_at=now())
            _report(run_dir)
            raise
        info.set(status="passed", finished_at=now())
        if not is_first():
            return run_dir
        records = [StageLog(run_dir / stage.config.output_dir).read_info() for stage in chosen]
        console().print(*screen.results(info.read(), records), sep="\n")
        _report(run_dir)
        console().print(screen.model_line(info.read(), run_dir), markup=False, soft_wrap=True)
    return run_dir


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


class Run:
    """A run under way: its record, its stages, and where each model that they name lies."""

    def __init__(
        self,
        info: RunInfo,
        stages: list[Stage],
        fetched: Fetched,
        outputs: Mapping[str, Path],
        fitting: Mapping[str, Fitting],
    ) -> None:
        self.info, self.stages, self.fetched, self.fitting = info, stages, fetched, fitting
        self.outputs = dict(outputs)  # grows as stages finish
        self.tasks = gates.tasks_of(stages)

    def path_of(self, model: str | StageOutput, revision: str | None) -> Path:
        """Return the directory of a model that a stage names."""
        return self.fetched.path_of(model, revision, self.outputs)


def _run_stages(run: Run) -> None:
    from evaluation.card import write_card

    for stage in run.stages:
        stage_dir = run.info.run_dir / stage.config.output_dir
        refuse_link(stage_dir)
        if by_first(partial(_has_passed, stage_dir)):
            done = StageLog(stage_dir).read_info()  # a kill may have come before the run's own record had it
            run.info.set_stage(stage.kind, status="passed", duration_s=done["duration_s"], input=done["input"])
            console().print(f"{stage.kind} has passed, and is kept")
        else:
            if kept().left_s <= 0:
                raise Interrupted(
                    f"stopped for time: --max-hours {kept().limits.max_hours:g} are over before {stage.kind}"
                )
            _run_stage(run, stage, stage_dir)
        write_card(run.info, stage.kind)
        run.outputs[stage.kind] = by_first(partial(_passed_on, run, stage, stage_dir))


def _passed_on(run: Run, stage: Stage, stage_dir: Path) -> Path:
    """Return the model that later stages get: the stage's own, or its input where a gate failed; record the latter."""
    if stage.model is None or not StageLog(stage_dir).read_info().get("gate_failed"):
        return stage_dir
    path, run_dir = run.path_of(stage.model, stage.config.revision), run.info.run_dir
    inside = path.is_relative_to(run_dir)  # a run that is moved still finds it
    run.info.set_stage(stage.kind, passes_on=str(path.relative_to(run_dir) if inside else path))
    return path


def _has_passed(stage_dir: Path) -> bool:
    return bool(StageLog(stage_dir).read_info().get("status") == "passed")


def _run_stage(run: Run, stage: Stage, stage_dir: Path) -> None:
    """Train and measure one stage, and record how it ended."""
    stage_dir.mkdir(exist_ok=True)
    log = StageLog(stage_dir)
    spent = Spent(log)
    reset_peak_memory()
    with (
        in_first(lambda: tee(stage_dir / "console_output.log")),
        in_first(lambda: stage_environment(run.info.run_dir.name, stage.kind, stage_dir)),
        quiet_libraries(stage_dir / "training.log" if is_first() else None),
    ):
        ended: BaseException | None = None
        try:
            _begin(run, stage, log)
            gpu_memory.keep_within(kept().limits.memory_budget_bytes)
            _train(run, stage, stage_dir, log)
            free_memory()  # of the trainer, whose model a reference cycle keeps alive
            by_first(lambda: _measure(run, stage, stage_dir, log))
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
    config = (log.read_info().get("config") or {}) | recorded(
        stage
    )  # of an interrupted run: its trainer's options stay
    data = run.fetched.data[stage.kind]
    log.open(
        name=stage.kind, status="running", config=config, input=source, reward_models=judges, data=data, error=None
    )
    run.info.set_stage(stage.kind, status="running", started_at=now(), input=source)
    log.event("STAGE_START", f"{stage.kind} from {shown(stage.model)}")
    console().print(screen.stage(stage, data))
    if stage.kind in run.fitting:
        fitting = run.fitting[stage.kind]
        log.info(forecast=fitting.record)
        console().print(*fitting.said, sep="\n", markup=False, soft_wrap=True, end="\n" if fitting.said else "")


def _train(run: Run, stage: Stage, stage_dir: Path, log: StageLog) -> None:
    """Train into `stage_dir`; if an interrupted run had finished training, what it wrote is taken as it is."""
    if by_first(lambda: _has_trained(stage_dir, log)):
        log.event("RESUME", "training had ended: evaluating what it wrote")
        return
    if device() == "cpu":  # where the model trains on a GPU, the memory it was loaded in is not needed again
        keep_freed_memory()
    fitted = run.fitting[stage.kind].stage if stage.kind in run.fitting else stage
    checkpoint = _train_function(stage)(fitted.with_paths(run.path_of), stage_dir)
    if is_first():  # others may be here before its weights are
        log.info(output=output_of(checkpoint))


def _has_trained(stage_dir: Path, log: StageLog) -> bool:
    done = log.read_info().get("output")
    return bool(done and weight_files(stage_dir) and weights_sha256(stage_dir) == done["sha256"])


def _train_function(stage: Stage) -> Any:
    """Return the stage's `train`, as a function of the stage and its directory."""
    import pretrain
    from algorithms import dpo, grpo, reward, sft

    if stage.kind == "grpo":
        return lambda given, directory: grpo.train(given.config, directory, given.extra)
    modules: dict[str, Any] = {"pretrain": pretrain, "sft": sft, "reward": reward, "dpo": dpo}
    return lambda given, directory: modules[stage.kind].train(given.config, directory)


def _measure(run: Run, stage: Stage, stage_dir: Path, log: StageLog) -> None:
    """Score the stage's input and output on the same held-out examples."""
    import pretrain
    from evaluation import evaluate_stage

    started = time.monotonic()
    source = None if stage.model is None else Path(stage.with_paths(run.path_of).config.model_name)
    results = evaluate_stage(
        stage.kind,
        source,
        stage_dir,
        run.tasks[stage.kind],
        reward_model=run.outputs.get("reward"),
        seed=stage.config.seed,
        gated={gate["metric"] for gate in stage.config.gates},
        random_weights=None if source else lambda: pretrain.untrained(stage_dir, stage.config.seed),
    )
    for_gates = ("scores", "noise")
    log.info(
        evaluation=[{key: value for key, value in one.items() if key not in for_gates} for one in results],
        evaluation_s=round(time.monotonic() - started, 3),
    )
    tell_hacking(log, results)
    gates.settle(stage, results, log)


def _end(run: Run, stage: Stage, log: StageLog, spent: Spent, error: BaseException | None) -> None:
    """Record the end of a stage in both records, and raise what ended it unless it passed."""
    free_memory()
    status = "passed" if error is None else "interrupted" if isinstance(error, KeyboardInterrupt) else "failed"
    reason = _reason(error, log) if status == "failed" else None
    done, taken = {} if error is None else log.done(), spent.until_now()
    with nullcontext() if error is None else suppress(OSError):  # a full disk is what may have ended it
        log.info(status=status, error=reason, **done, **taken)
        run.info.set_stage(stage.kind, status=status, duration_s=taken["duration_s"])
    if reason is not None:
        with suppress(OSError):
            log.event("STAGE_FAILED", reason)
        failed = StageFailed(f"stage {stage.kind} failed: {reason}\nIts files: {log.info_file.parent}")
        console().print_to_copies(str(failed))
        if not (is_first() or isinstance(error, StageFailed | Refused) or peer_has_ended(error)):
            print(safe(f"process {os.environ['RANK']}: {failed}"), file=sys.stderr)  # which the first cannot know
        raise failed from error
    if error is not None:
        with suppress(OSError):
            log.event("STAGE_INTERRUPTED", str(error) or f"step {done['steps']} was the last that was logged")
        raise error
    console().print(f"{stage.kind} passed in {taken['duration_s']:.1f} s", style="green")
    info = log.read_info()
    if device() == "cuda" and (said := missed(stage.kind, info.get("forecast"), info["peak_memory_bytes"])):
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
    if error is not None and lacks_room(error):
        return f"{without_number(error)}. What was saved before is whole: make room, and go on with --resume"
    if isinstance(error, FileNotFoundError) and error.filename and _is_cached(Path(error.filename)):
        return f"{error.filename} is gone: --resume goes on, and prepares what was prepared anew"
    training_log = log.info_file.parent / "training.log"
    with suppress(OSError), training_log.open("a", encoding="utf-8") as file:
        file.write(entry("".join(traceback.format_exception(error))))
    return f"{type(error).__name__}: {error} (traceback in {training_log.name})"
