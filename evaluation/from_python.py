"""What a run measured and logged, for Python: in a notebook, figures as rows of a table and curves as points."""

from pathlib import Path
from typing import Any

from evaluation.measures import shown
from evaluation.metrics import verdict
from evaluation.report.facts import RunFacts, number, read_run
from utils.errors import Refused, did_you_mean
from utils.files import user_path

Curve = list[tuple[int, float]]
"""(step, value) points."""


def figures(run_dir: Path | str) -> list[dict[str, Any]]:
    """Return what the console's table shows of a run: a row for each measure, which `pandas.DataFrame` takes as it is.

    `before` and `after` are of the same `n` held-out examples; `low` and `high` are the 95 % interval of the
    difference, None where there is none.

    Raises:
        Refused: `run_dir` is no run's, or a record of the run cannot be read.
    """
    rows = []
    for stage in _run(run_dir).stages:
        for measure, result in shown(stage.kind, stage.results):
            low, high = result["ci95"] or (None, None)
            rows.append(
                {
                    "stage": stage.name,
                    "measure": measure,
                    "n": result["n"],
                    "before": result["before"],
                    "after": result["after"],
                    "low": low,
                    "high": high,
                    "verdict": verdict(result),
                }
            )
    return rows


def curves(run_dir: Path | str, stage: str) -> dict[str, Curve]:
    """Return each metric that a stage logged while it trained, by its name.

    Raises:
        Refused: `run_dir` is no run's, it has no such stage, or a record of the run cannot be read.
    """
    logged = {one.name: one.metrics for one in _run(run_dir).stages}
    if stage not in logged:
        raise Refused(
            f"{run_dir} has no stage {stage!r}{did_you_mean(stage, logged) or '.'} It has: {', '.join(logged)}"
        )
    found: dict[str, Curve] = {}
    for line in logged[stage]:
        for name, value in line.items():
            if name not in ("step", "timestamp") and (point := number(value)) is not None:
                found.setdefault(name, []).append((line["step"], point))
    return found


def _run(run_dir: Path | str) -> RunFacts:
    run = read_run(user_path(str(run_dir)))
    if not run.stages:
        raise Refused(f"{run_dir} is no run's directory: give the one that run_pipeline returned, such as runs/RUN_ID")
    return run
