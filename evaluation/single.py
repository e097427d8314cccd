"""The interval of one estimate, at 95 %: a rate, a loss, a score over held-out examples. Pure functions of numbers."""

import math
from collections.abc import Sequence

from evaluation.paired import FEWEST, Estimate, Z, is_binary, student


def estimate(values: Sequence[float]) -> Estimate:
    """Return the mean of independent examples' scores with its interval.

    Outcomes 0 and 1: Wilson's score interval. Otherwise Student's t; of fewer than `FEWEST` examples it has no bounds.

    Raises:
        ValueError: there is no example.
    """
    if not values:
        raise ValueError("no example: there is nothing to estimate from")
    if is_binary(values):
        return wilson(sum(value == 1 for value in values), len(values))
    if len(values) < FEWEST:
        return Estimate(math.fsum(values) / len(values), math.nan, math.nan)
    return student(values)


def wilson(successes: int, n: int) -> Estimate:
    """Return the rate of `successes` among `n` with its score interval (Wilson, 1927, JASA 22; n = 1 or more).

    centre = (p + z²/2n) / (1 + z²/n), half width = z / (1 + z²/n) · √(p(1-p)/n + z²/4n²). Unlike p ± z·√(p(1-p)/n) it
    stays within 0 and 1, and keeps a width where every outcome is the same.
    """
    rate, spread = successes / n, Z**2 / n
    centre = (rate + spread / 2) / (1 + spread)
    half = Z * math.sqrt(rate * (1 - rate) / n + spread / (4 * n)) / (1 + spread)
    return Estimate(rate, max(0.0, min(rate, centre - half)), min(1.0, max(rate, centre + half)))  # but for rounding
