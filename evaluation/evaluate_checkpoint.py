"""Any checkpoint on any tasks: each figure with its interval, and against another one with that of the pairs."""

import math
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from evaluation.metrics import TOKEN_METRICS, verdict
from evaluation.named import label, version_label
from evaluation.paired import mean_score, paired_difference
from evaluation.placement import placed_alike
from evaluation.scored_model import ScoreCache, open_model
from evaluation.task import Scores, Task
from evaluation.tasks import RewardPairs
from records.catalogue import Checkpoint
from utils.console import progress
from utils.errors import Refused
from utils.files import tensor_shapes, weight_files

Result = dict[str, Any]
"""`{task, version, metric, n, value, ci95}`; against another also `against, against_ci95, difference, difference_ci95,
verdict`. `reason` where there is one for a null."""


def refuse_unfit(found: Sequence[Checkpoint], tasks: Sequence[Task]) -> None:
    """Raise Refused if weights are cut off, or a reward model is to write, or another model to score."""
    for one in found:
        wrong = [label(task) for task in tasks if isinstance(task, RewardPairs) != one.scores]
        if wrong:
            kind = "a reward model, whose task is pairs" if one.scores else "no reward model, which pairs is for"
            raise Refused(f"{one.name} is {kind}: leave out {', '.join(wrong)}")
        for file in weight_files(one.path):
            tensor_shapes(file)


def results_of(found: Sequence[Checkpoint], tasks: Sequence[Task]) -> list[Result]:
    """Return the results of one checkpoint, or of the first against the second, on the same examples.

    Scores that a stage's own evaluation left beside its weights are taken over; nothing is written there. One model is
    in memory at a time.

    Raises:
        Refused: a checkpoint cannot be loaded.
    """
    placed = placed_alike([one.path for one in found])
    scores: list[list[Scores | str]] = []
    vocabularies = []
    with tempfile.TemporaryDirectory() as kept, progress("evaluating", len(tasks) * len(found)) as bar:
        for one in found:
            with _whole(one):
                checkpoint = open_model(one.path, ScoreCache(Path(kept), [one.path]), placed, scores=one.scores)
                vocabularies.append(checkpoint.tokenizer.get_vocab())
                _ = checkpoint.model
            scores.append([])
            for task in tasks:
                scores[-1].append(task.attempt(checkpoint))
                bar.update(sum(map(len, scores)))
            checkpoint.release()
    same_tokens = all(vocabulary == vocabularies[0] for vocabulary in vocabularies)
    results = []
    for index, task in enumerate(tasks):
        other = scores[1][index] if len(found) == 2 else None
        results += _of_task(task, scores[0][index], other, same_tokens)
    return results


@contextmanager
def _whole(found: Checkpoint) -> Iterator[None]:
    try:
        yield
    except Refused:
        raise
    except (OSError, ValueError, LookupError, RuntimeError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise Refused(f"{found.path} cannot be loaded by transformers: {reason}") from error


def _of_task(task: Task, scores: Scores | str, other: Scores | str | None, same_tokens: bool) -> list[Result]:
    named = {"task": label(task), "version": version_label(task)}
    if isinstance(scores, str):
        return [named | _single([]) | {"metric": metric, "reason": scores} for metric in task.headline]
    results = []
    for metric, values in scores.items():
        result = named | {"metric": metric} | _single(values)
        if other is not None:
            per_token = metric in TOKEN_METRICS.get(task.name, ()) and not same_tokens
            reason = "the two have different tokens" if per_token else other if isinstance(other, str) else None
            others = other.get(metric, []) if isinstance(other, dict) else []
            result |= _against(metric, values, others, reason)
        results.append(result)
    return results


def _single(values: Sequence[float | None]) -> Result:
    counted = [value for value in values if value is not None]
    if not counted:
        return {"n": 0, "value": None, "ci95": None}
    found = mean_score(counted)
    return {"n": len(counted), "value": found.mean, "ci95": _bounds(found.low, found.high)}


def _against(metric: str, values: Sequence[float | None], others: Sequence[float | None], reason: str | None) -> Result:
    other = _single(others)
    result: Result = {"against": other["value"], "against_ci95": other["ci95"], "difference": None}
    result |= {"difference_ci95": None, "verdict": ""}
    pairs = [(b, a) for b, a in zip(others, values, strict=False) if b is not None and a is not None]
    if reason is None and (not pairs or len(others) != len(values)):
        reason = "no example was scored for both"
    if reason is not None:
        return result | {"reason": reason}
    found = paired_difference([b for b, _ in pairs], [a for _, a in pairs])
    interval, before = _bounds(found.low, found.high), math.fsum(b for b, _ in pairs) / len(pairs)
    sides = {"before": before, "after": before + found.mean}
    return result | {
        "difference": found.mean,
        "difference_ci95": interval,
        "verdict": verdict(sides | {"metric": metric, "ci95": interval}) or "too few",
    }


def _bounds(low: float, high: float) -> list[float] | None:
    return [low, high] if math.isfinite(low) and math.isfinite(high) else None
