"""Whether a reward model's margins mean what they say, and whether it likes length. Pure functions of numbers.

A margin is the reward of the chosen answer less that of the rejected one. Trained with the Bradley-Terry loss, a model
says by it that the chosen answer is the better one with probability σ(margin).
"""

import math
from collections.abc import Sequence

BINS = 10


def sigmoid(margin: float) -> float:
    """Return 1 / (1 + e^-margin), without overflow."""
    if margin >= 0:
        return 1 / (1 + math.exp(-margin))
    odds = math.exp(margin)
    return odds / (1 + odds)


def brier(margin: float) -> float:
    """Return (1 - σ(margin))², one pair's part of the Brier score (Brier, 1950); the chosen answer is what came true.

    0 is certain and right, ¼ knows nothing, 1 is certain and wrong.
    """
    return sigmoid(-margin) ** 2


def calibration_gaps(margins: Sequence[float], bins: int = BINS) -> list[float]:
    """Return one score a pair such that their mean is the expected calibration error.

    A pair's confidence is σ(|margin|), and it is right if the margin is above 0. Pairs fall into `bins` equal parts of
    the confidence's range, ½ to 1; the error is Σ_b n_b/N · |share right in b - mean confidence in b| (Guo et al.,
    2017, "On Calibration of Modern Neural Networks", equation 3). The score is right - confidence, with the sign of its
    part's sum: the spread of the scores is that of the error, where a part's sign is beyond doubt. A perfect model's
    error is not 0 but what chance leaves in each part.
    """
    confident = [sigmoid(abs(margin)) for margin in margins]
    gaps = [float(margin > 0) - confidence for margin, confidence in zip(margins, confident, strict=True)]
    places = [min(int((confidence - 0.5) * 2 * bins), bins - 1) for confidence in confident]
    sums = [math.fsum(gap for gap, place in zip(gaps, places, strict=True) if place == one) for one in range(bins)]
    return [gap if sums[place] >= 0 else -gap for gap, place in zip(gaps, places, strict=True)]


def length_preference(margin: float, longer: int) -> tuple[float, float] | None:
    """Return whether the longer answer of a pair has the higher reward, and whether it is the chosen one; each 0 or 1.

    `longer` is by how many tokens the chosen answer is the longer one. None where both are of one length. An equal
    reward counts ½.
    """
    if longer == 0:
        return None
    signed = margin * longer
    return 0.5 + 0.5 * ((signed > 0) - (signed < 0)), float(longer > 0)
