"""The area under the ROC curve: by hand, and its interval as often right as it says."""

from random import Random

import pytest

from evaluation.paired import mean_score
from evaluation.ranking import auc_scores


def auc(scores: list[float], right: list[bool]) -> float:
    return sum(auc_scores(scores, right)) / len(scores)


def test_auc_by_hand() -> None:
    """Right 3 and 1, wrong 2 and 0: 3 of the 4 pairs are in order."""
    assert auc([3.0, 1.0, 2.0, 0.0], [True, True, False, False]) == pytest.approx(0.75)


def test_a_tie_counts_a_half() -> None:
    """Right 1, wrong 1, 1 and 0: (½ + ½ + 1) / 3."""
    assert auc([1.0, 1.0, 1.0, 0.0], [True, False, False, False]) == pytest.approx(2 / 3)


def test_scores_turned_around_have_the_rest_of_1() -> None:
    scores, right = [0.3, 0.1, 0.8, 0.5, 0.2], [True, False, True, False, False]
    assert auc([-score for score in scores], right) == pytest.approx(1 - auc(scores, right))


@pytest.mark.parametrize("right", [True, False])
def test_one_class_alone_has_nothing_to_rank(right: bool) -> None:
    with pytest.raises(ValueError, match="nothing to rank"):
        auc_scores([1.0, 2.0], [right, right])


def test_the_interval_holds_the_truth_95_times_in_100() -> None:
    """Right scores are N(1, 1), wrong ones N(0, 1), one in four right: the AUC is Φ(1/√2) = 0.7602."""
    random, held, trials = Random(5), 0, 1000
    for _ in range(trials):
        right = [True] * 50 + [False] * 150
        found = mean_score(auc_scores([random.gauss(float(one), 1) for one in right], right))
        held += found.low <= 0.7602 <= found.high
    assert 0.92 <= held / trials <= 0.97
