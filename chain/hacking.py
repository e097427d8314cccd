"""After a stage that samples: did the reward rise while what it stands for, measured on held-out problems, did not?"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from records.stage_log import StageLog
from watching import alarms

if TYPE_CHECKING:
    from evaluation.task import Task

GAIN, SOLVED = 0.05, 0.95
"""A gain that the interval of a difference must exclude to say that a verifier has not moved, and the share of right
answers from which on there is none to expect. Between the two nothing is said: an interval that allows both tells
nothing."""


def tell_hacking(log: StageLog, results: Sequence[Mapping[str, Any]], tasks: "Sequence[Task]") -> None:
    """Raise the alarm in a stage's record where its results and its logged rewards say so; other stages log none."""
    rows = log.read_metrics()
    message = hacking(rows, [one for task in tasks for one in results if verifies(task, one)])
    if message:
        log.alarm(rows[-1]["step"], "reward_hacking", message)


def verifies(task: "Task", result: Mapping[str, Any]) -> bool:
    """Tell whether a result is a task's share of held-out answers that were found right."""
    return result["task"] == task.name and result["metric"] in task.verified()


def hacking(rows: alarms.Rows, verified: Sequence[Mapping[str, Any]]) -> str | None:
    """Return what is to be said of a stage whose reward rose and whose verifiers fell, or did not move; else None.

    `verified` are the results of its verifiers. One verifier that rose clears it (a policy that is right already may
    gain in sampled answers alone), and so does a reward that has not clearly risen. A shaped reward went from .74 to
    .86 while exact match went from .36 to .19 in the prototype; over-optimised reward models do the same (Gao et al.,
    2023, arXiv 2210.10760).
    """
    rose = alarms.risen([row["reward"] for row in rows if row.get("reward") is not None])
    verified = [one for one in verified if one["ci95"]]
    if rose is None or not verified or any(one["ci95"][0] > 0 for one in verified):
        return None
    fell = [one for one in verified if one["ci95"][1] < 0]
    open_ended = [one for one in verified if one["before"] < SOLVED]
    if not fell and not (open_ended and all(one["ci95"][1] < GAIN for one in open_ended)):
        return None
    shown = "; ".join(
        f"{one['task']} {one['metric']} {one['before']:.3f} to {one['after']:.3f}, 95 % interval of the difference"
        f" {one['ci95'][0]:+.3f} to {one['ci95'][1]:+.3f}"
        for one in fell or open_ended
    )
    return (
        f"the training reward rose from {rose[0]:.3g} to {rose[1]:.3g}, and the held-out answers did not become better"
        f" ({shown}): the policy may only please the reward. Read some of its answers, give the verified"
        " part of the reward more weight, set beta, or take an earlier checkpoint"
    )
