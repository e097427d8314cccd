"""The stages of a run, one after the other: what each is given, its training and measuring, and how it ended."""

import os
import sys
import time
import traceback
from collections.abc import Mapping
from contextlib import nullcontext, suppress
from functools import partial
from pathlib import Path
from typing import Any

from algorithms.config import StageOutput
from chain import gates, screen
from chain.fitting import Fitting, missed
from chain.hacking import tell_hacking
from chain.preflight import Fetched
from chain.record import output_of, recorded
from chain.stages import Stage, reference, shown
from kinds import named
from utils import gpu_memory
from utils.agreement import by_first, peer_has_ended
from utils.console import console, tee
from utils.energy import Spent, counted
from utils.errors import Interrupted, Refused, StageFailed, lacks_room, without_number
from utils.files import weight_files, weights_sha256
from utils.limits import kept
from utils.processes import in_first, is_first
from utils.quiet import quiet_libraries
from utils.run_directory import RunInfo, refuse_link
from utils.runtime import device, free_memory, keep_freed_memory, now, reset_peak_memory
from utils.stage_log import StageLog
from utils.text import entry, safe
from utils.trackers import stage_environment


class Run:
    """A run under way: its record, its stages, and where each model that they name lies."""

    def __init__(
        self,
        info: RunInfo,
        stages: list[Stage],
        fetched: Fetched,
        outputs: Mapping[str, Path],
        fitting: Mapping[str, Fitting],
        verifier: Any = None,
    ) -> None:
        self.info, self.stages, self.fetched, self.fitting = info, stages, fetched, fitting
        self.outputs = dict(outputs)  # grows as stages finish
        self.tasks = gates.tasks_of(stages, verifier)

    def path_of(self, model: str | StageOutput, revision: str | None) -> Path:
        """Return the directory of a model that a stage names."""
        return self.fetched.path_of(model, revision, self.outputs)


def run_stages(run: Run) -> None:
    """Run the stages that have not passed yet, and make each one's output the input of those that name it.

    Raises:
        StageFailed: a stage failed; the later ones did not run.
        Interrupted: there is no time left for the next one.
    """
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
    reset_peak_memory()
    with (
        counted(log) as spent,
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
    before, data = log.read_info(), run.fetched.data[stage.kind]
    if (was := before.get("data") or {}).get("fingerprint") == data["fingerprint"]:
        data = was | data  # with what training found out about the same rows
    config = (before.get("config") or {}) | recorded(stage)  # of an interrupted run: its trainer's options stay
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
    checkpoint = train_function(stage)(fitted.with_paths(run.path_of), stage_dir)
    if is_first():  # others may be here before its weights are
        log.info(output=output_of(checkpoint))


def _has_trained(stage_dir: Path, log: StageLog) -> bool:
    done = log.read_info().get("output")
    return bool(done and weight_files(stage_dir) and weights_sha256(stage_dir) == done["sha256"])


def train_function(stage: Stage) -> Any:
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
        named(stage.kind),
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
    tell_hacking(log, results, run.tasks[stage.kind])
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
