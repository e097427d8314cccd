"""The gates of a run's stages: what is wrong with them, and what follows when one fails."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from utils.console import console
from utils.errors import StageFailed, did_you_mean
from utils.stage_log import StageLog
from utils.values import mistyped, shown

if TYPE_CHECKING:
    from chain.stages import Stage
    from evaluation.task import Task
    from evaluation.verifier import Verifier

ON_FAIL = ("stop", "input")


def tasks_of(stages: "Sequence[Stage]", verifier: "Verifier | None" = None) -> "dict[str, list[Task]]":
    """Return the tasks that each stage is measured on."""
    import kinds
    from algorithms import rewards
    from evaluation import tasks_for

    functions = {}
    for stage in stages:
        sources = stage.extra.rewards if stage.extra else []
        loaded = [rewards.load(one)[0] for one in sources if one not in stage.reward_models]
        functions[stage.kind] = {rewards.name_of(function): function for function in loaded}
    measured = [kinds.Stage(stage.kind, kinds.named(stage.kind), stage.config, stage.extra) for stage in stages]
    return tasks_for(measured, verifier, functions)


def problems(
    stages: "Sequence[Stage]", outputs: Mapping[str, Path], verifier: "Verifier | None" = None
) -> Iterator[str]:
    """Yield everything wrong with the gates of the stages. `outputs` are stages of an earlier run."""
    from evaluation import gates

    if not any(stage.config.gates or stage.config.on_fail != "stop" for stage in stages):
        return
    wrong = [stage for stage in stages if mistyped(stage.config) or (stage.extra and mistyped(stage.extra))]
    tasks = {} if wrong else tasks_of(stages, verifier)  # of values of the wrong type no one can tell what is measured
    judged = "reward" in outputs
    for stage in stages:
        config, kind = stage.config, stage.kind
        if config.on_fail not in ON_FAIL:
            near = did_you_mean(shown(config.on_fail), ON_FAIL)
            yield f"{kind}: on_fail = {shown(config.on_fail)}: must be stop or input{near}"
        elif config.on_fail == "input" and stage.model is None:
            yield f"{kind}: on_fail = 'input': it starts from random weights, with which no stage could go on"
        elif config.on_fail == "input" and kind == "reward":
            yield f"{kind}: on_fail = 'input': its input is a language model, which scores nothing: leave on_fail out"
        if "gates" not in mistyped(config):
            metrics = compared = None
            if kind in tasks:
                metrics = compared = gates.measurable(tasks[kind], judged and stage.model is not None)
                if stage.model is None:
                    compared = gates.measurable([task for task in tasks[kind] if not task.asks], judged=False)
            yield from (f"{kind}: {problem}" for problem in gates.problems(config.gates, metrics, compared))
        judged = judged or kind == "reward"


def described(config: Any) -> str:
    """Return a stage's gates as a line for its panel."""
    said = (", ".join(f"{key} {value}" for key, value in gate.items() if key != "metric") for gate in config.gates)
    named = [f"{gate['metric']} {rules}" for gate, rules in zip(config.gates, said, strict=True)]
    return f"{'; '.join(named)}; else {'stop' if config.on_fail == 'stop' else 'go on with the input'}"


def settle(stage: "Stage", results: Sequence[Mapping[str, Any]], log: StageLog) -> None:
    """Decide a stage's gates by its measurements, and record and say what came of them.

    Raises:
        StageFailed: one failed, and the recipe says to stop.
    """
    from evaluation import gates

    decided = gates.decide(stage.config.gates, results)
    failed = "; ".join(gates.line(record) for record in decided if record["failed"]) or None
    goes_on = stage.config.on_fail == "input"
    log.info(gates=decided, gate_failed=failed if goes_on else None)
    for record in decided:
        log.event("GATE", gates.line(record))
        style = "red" if record["failed"] else "none"
        console().print(f"gate: {gates.line(record)}", markup=False, soft_wrap=True, style=style)
    if failed and not goes_on:
        raise StageFailed(
            f"gate: {failed}. The stage's model is kept; where a gate asks too much, change it, and --resume goes on"
        )
    if failed:
        console().print(
            f"{stage.kind}: a gate failed, so later stages start from its input", markup=False, style="yellow"
        )
