"""The interval of one estimate: by hand, and as often right as it says."""

import math
from random import Random

import pytest

from evaluation.single import estimate, wilson


def test_wilsons_interval_by_hand() -> None:
    """8 of 10, z² = 3.8415: centre 0.9921 / 1.3841 = 0.7167, half 1.96 / 1.3841 · √(0.016 + 0.0096) = 0.2266."""
    assert wilson(8, 10) == pytest.approx((0.8, 0.4902, 0.9433), abs=1e-4)


def test_outcomes_that_are_all_the_same_keep_a_width() -> None:
    """z² / (n + z²) with n = 10: 3.8415 / 13.8415."""
    assert estimate([0.0] * 10) == pytest.approx((0, 0, 0.2775), abs=1e-4)
    assert estimate([1.0] * 10) == pytest.approx((1, 0.7225, 1), abs=1e-4)


def test_other_scores_have_students_interval() -> None:
    """0 to 5: mean 2.5, deviation 1.8708, t with 5 degrees 2.5706, over √6: 1.9633."""
    assert estimate([0.0, 1.0, 2.0, 3.0, 4.0, 5.0]) == pytest.approx((2.5, 0.5367, 4.4633), abs=1e-4)


def test_few_scores_that_are_no_outcomes_have_no_bounds() -> None:
    mean, low, high = estimate([0.5, 1.5])
    assert mean == 1.0
    assert math.isnan(low)
    assert math.isnan(high)


def test_nothing_cannot_be_estimated() -> None:
    with pytest.raises(ValueError, match="no example"):
        estimate([])


@pytest.mark.parametrize("rate", [0.05, 0.5, 0.9])
def test_wilsons_interval_holds_the_truth_95_times_in_100(rate: float) -> None:
    random, held, trials = Random(1), 0, 2000
    for _ in range(trials):
        found = wilson(sum(random.random() < rate for _ in range(100)), 100)
        held += found.low <= rate <= found.high
    assert 0.93 <= held / trials <= 0.98
