"""Intervals of paired differences and of means, at 95 % unless asked otherwise. Pure functions of numbers."""

import math
from collections.abc import Sequence
from functools import lru_cache
from statistics import NormalDist, stdev
from typing import NamedTuple

FEWEST = 6
"""Examples that an interval needs: even if all of five change the same way, chance does that once in 16 times."""


class Estimate(NamedTuple):
    """A mean, or a mean difference, with its interval. The bounds are NaN where there are too few examples for one."""

    mean: float
    low: float
    high: float


def z_quantile(level: float) -> float:
    """Return the z that a standard normal variable stays within, either side of 0, with probability `level`."""
    return NormalDist().inv_cdf((1 + level) / 2)


def paired_difference(before: Sequence[float], after: Sequence[float], level: float = 0.95) -> Estimate:
    """Return the mean of `after - before` with its interval; item i of both belongs to the same example.

    `level` is the probability that the interval holds the truth; each of its bounds alone is one-sided, at a level of
    (1 + `level`) / 2.

    Outcomes 0 and 1: the adjusted Wald interval of Agresti and Min (2005, "Simple improved confidence intervals for
    comparing matched proportions", Statistics in Medicine 24), which adds ½ to each cell of the 2×2 table. It is a
    little too narrow where few outcomes changed, so it holds 0 wherever the exact McNemar test sees no difference.
    Otherwise Student's t. Of fewer than `FEWEST` examples there is no interval.

    Raises:
        ValueError: the two differ in length, or are empty.
    """
    if len(before) != len(after) or not before:
        raise ValueError(f"{len(before)} scores before and {len(after)} after: they must be of the same examples")
    differences = [b - a for a, b in zip(before, after, strict=True)]
    if len(differences) < FEWEST:
        return Estimate(math.fsum(differences) / len(differences), math.nan, math.nan)
    if not (is_binary(before) and is_binary(after)):
        return student(differences, level)
    gained, lost = (sum(difference == sign for difference in differences) for sign in (1, -1))
    n = len(differences) + 2
    centre = (gained - lost) / n
    half = z_quantile(level) * math.sqrt((gained + lost + 1) / n - centre**2) / math.sqrt(n)
    mean = (gained - lost) / len(differences)
    low, high = max(-1.0, centre - half), min(1.0, centre + half)
    if not _differs(gained, lost, level):
        low, high = min(low, 0.0), max(high, 0.0)
    return Estimate(mean, low, high)


def _differs(gained: int, lost: int, level: float) -> bool:
    """Return whether the exact McNemar test tells gains and losses apart, at 1 - `level` on both sides together."""
    changed = gained + lost
    at_most = sum(math.comb(changed, k) for k in range(min(gained, lost) + 1))
    return 2 * at_most / 2**changed < 1 - level  # whole numbers of any size divide; as floats they would overflow


def mean_score(values: Sequence[float], level: float = 0.95) -> Estimate:
    """Return the mean of scores of one side with its interval: Wilson's (1927) of outcomes 0 and 1, else Student's t.

    Of fewer than `FEWEST` there is no interval.

    Raises:
        ValueError: there are none.
    """
    if not values:
        raise ValueError("no scores: there is no mean")
    n, mean = len(values), math.fsum(values) / len(values)
    if n < FEWEST:
        return Estimate(mean, math.nan, math.nan)
    if not is_binary(values):
        return student(values, level)
    z = z_quantile(level)
    centre = (mean + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z * math.sqrt(mean * (1 - mean) / n + z**2 / (4 * n**2)) / (1 + z**2 / n)
    return Estimate(mean, max(0.0, centre - half), min(1.0, centre + half))


def with_noise(estimate: Estimate, level: float, rerun: float, seeds: float) -> Estimate:
    """Return an estimate whose interval is no narrower than what a harmless rerun changes.

    `rerun` is the standard error of what sampling anew from the same weights changes. The examples' spread contains it,
    unless both sides drew the same random numbers: so the wider of the two counts. `seeds` is the standard deviation of
    what training with other seeds changes, which no single pair of models shows: it is added, in squares.
    """
    z, centre = z_quantile(level), (estimate.low + estimate.high) / 2
    half = max(estimate.high - centre, z * rerun)
    if half == estimate.high - centre and not seeds:
        return estimate  # to the bit, as the table has it
    half = math.hypot(half, z * seeds)
    return Estimate(estimate.mean, centre - half, centre + half)


def standard_error(values: Sequence[float]) -> float:
    """Return the standard error of the mean of values; 0 of fewer than two."""
    return stdev(values) / math.sqrt(len(values)) if len(values) > 1 else 0.0


def is_binary(values: Sequence[float]) -> bool:
    """Return whether every value is an outcome 0 or 1."""
    return all(value in (0, 1) for value in values)


def student(values: Sequence[float], level: float = 0.95) -> Estimate:
    """Return the mean of two or more independent values with the interval of Student's t."""
    n = len(values)
    mean = math.fsum(values) / n
    variance = math.fsum((value - mean) ** 2 for value in values) / (n - 1)
    half = t_quantile(n - 1, level) * math.sqrt(variance / n)
    return Estimate(mean, mean - half, mean + half)


@lru_cache
def t_quantile(degrees_of_freedom: int, level: float = 0.95) -> float:
    """Return Student's t that a variable stays within, either side of 0, with probability `level`, at most 95 %."""
    low, high = 0.0, 13.0  # one degree of freedom needs 12.71
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (low, middle) if t_probability(middle, degrees_of_freedom) > level else (middle, high)
    return high


def t_probability(t: float, degrees_of_freedom: int) -> float:
    """Return the probability that Student's variable lies within ±t (Abramowitz and Stegun, 26.7.3 and 26.7.4)."""
    angle = math.atan(t / math.sqrt(degrees_of_freedom))
    odd = degrees_of_freedom % 2
    term, total = (math.cos(angle), 0.0) if odd else (1.0, 0.0)
    for k in range(odd + 1, degrees_of_freedom, 2):  # k: 2, 4, … or 1, 3, …
        total += term
        term *= math.cos(angle) ** 2 * k / (k + 1)
    return 2 / math.pi * (angle + math.sin(angle) * total) if odd else math.sin(angle) * total
