"""Whether scores rank right answers above wrong ones: the area under the ROC curve. Pure functions of numbers."""

import math
from bisect import bisect_left, bisect_right
from collections.abc import Sequence


def auc_scores(scores: Sequence[float], right: Sequence[bool]) -> list[float]:
    """Return one number an example such that their mean is the area under the ROC curve, the AUC.

    The AUC is how likely a right example scores above a wrong one, a tie counting ½: ½ is chance. An example's number
    is AUC + N/n_class · (its share - AUC), its share being the part of the other class it is ranked rightly against.
    Their spread, and that of paired differences, is DeLong's (DeLong, DeLong and Clarke-Pearson, 1988, Biometrics 44).

    Raises:
        ValueError: all examples are right, or all are wrong.
    """
    by_class = [
        sorted(s for s, is_right in zip(scores, right, strict=True) if is_right == one) for one in (False, True)
    ]
    wrong, correct = by_class
    if not wrong or not correct:
        raise ValueError(f"{len(correct)} right and {len(wrong)} wrong examples: there is nothing to rank")

    def share(score: float, is_right: bool) -> float:
        others = wrong if is_right else correct
        below = (bisect_left(others, score) + bisect_right(others, score)) / 2 / len(others)
        return below if is_right else 1 - below

    shares = [share(score, is_right) for score, is_right in zip(scores, right, strict=True)]
    auc = math.fsum(own for own, is_right in zip(shares, right, strict=True) if is_right) / len(correct)
    return [
        auc + len(scores) / len(correct if is_right else wrong) * (own - auc)
        for own, is_right in zip(shares, right, strict=True)
    ]
