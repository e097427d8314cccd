"""pass@k: how likely one of k sampled answers is right. Pure functions of numbers."""

import math
from collections.abc import Sequence


def pass_at_k(samples: int, right: int, k: int) -> float:
    """Return the unbiased estimate of pass@k of one problem, `right` of whose `samples` answers are right.

    1 - C(n-c, k) / C(n, k): of all ways to take k of the n answers, the share that holds a right one (Chen et al.,
    2021, "Evaluating Large Language Models Trained on Code", equation 1). 1 - (1 - c/n)^k would be biased downwards.

    Raises:
        ValueError: there are fewer than k answers.
    """
    if not 0 <= right <= samples or not 1 <= k <= samples:
        raise ValueError(f"pass@{k} needs {k} answers or more; given: {samples}, of which {right} are right")
    return 1 - math.comb(samples - right, k) / math.comb(samples, k)


def passes(outcomes: Sequence[float | None], samples: int, k: int) -> list[float | None]:
    """Return each problem's pass@k; `outcomes`, 0 or 1, are of `samples` answers a problem, one problem after another.

    None for a problem of which an answer has no outcome.

    >>> passes([1, 0, 0, 0], 2, 2)
    [1.0, 0.0]
    """
    return [
        None if None in one else pass_at_k(samples, sum(outcome == 1 for outcome in one), k)
        for one in by_problem(outcomes, samples)
    ]


def by_problem(values: Sequence[float | None], samples: int) -> list[Sequence[float | None]]:
    """Return the values of each problem's `samples` answers, which follow one another."""
    assert len(values) % samples == 0, (len(values), samples)
    return [values[start : start + samples] for start in range(0, len(values), samples)]


def means(values: Sequence[float | None], samples: int) -> list[float | None]:
    """Return each problem's mean over its answers; None for a problem of which an answer has no value.

    Answers to one problem are alike, so problems, not answers, are the independent examples.
    """
    known = [[value for value in one if value is not None] for one in by_problem(values, samples)]
    return [math.fsum(one) / samples if len(one) == samples else None for one in known]
