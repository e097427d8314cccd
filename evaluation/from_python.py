"""What a run measured and logged, for Python: in a notebook, figures as rows of a table and curves as points."""

from pathlib import Path
from typing import Any

from evaluation.measures import shown
from evaluation.metrics import verdict
from evaluation.report.facts import number, read_run

Curve = list[tuple[int, float]]
"""(step, value) points."""


def figures(run_dir: Path | str) -> list[dict[str, Any]]:
    """Return what the console's table shows of a run: a row for each measure, which `pandas.DataFrame` takes as it is.

    `before` and `after` are of the same `n` held-out examples; `low` and `high` are the 95 % interval of the
    difference, None where there is none.

    Raises:
        Unsound: a record of the run cannot be read.
    """
    rows = []
    for stage in read_run(Path(run_dir)).stages:
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
        KeyError: the run has no such stage.
        Unsound: a record of the run cannot be read.
    """
    logged = {one.name: one.metrics for one in read_run(Path(run_dir)).stages}[stage]
    found: dict[str, Curve] = {}
    for line in logged:
        for name, value in line.items():
            if name not in ("step", "timestamp") and (point := number(value)) is not None:
                found.setdefault(name, []).append((line["step"], point))
    return found
