"""Intervals: numbers worked by hand, and how often they hold the truth."""

import math
from random import Random

import pytest

from evaluation.paired import FEWEST, paired_difference, t_probability, t_quantile


def outcomes(both: int, lost: int, gained: int, neither: int) -> tuple[list[float], list[float]]:
    before = [1.0] * (both + lost) + [0.0] * (gained + neither)
    after = [1.0] * both + [0.0] * lost + [1.0] * gained + [0.0] * neither
    return before, after


def test_binary_difference_is_agresti_and_min_by_hand() -> None:
    """n = 10, lost 1, gained 3. With ½ in each cell: n 12, centre 2/12, width 1.96·sqrt(5 - 4/12)/12 = 0.3528."""
    difference = paired_difference(*outcomes(both=2, lost=1, gained=3, neither=4))
    assert difference.mean == pytest.approx(0.2)
    assert difference.low == pytest.approx(2 / 12 - 0.35284, abs=1e-4)
    assert difference.high == pytest.approx(2 / 12 + 0.35284, abs=1e-4)


def test_binary_difference_without_a_change_still_has_a_width() -> None:
    difference = paired_difference(*outcomes(both=5, lost=0, gained=0, neither=5))
    assert difference.mean == 0
    assert difference.high == -difference.low == pytest.approx(1.96 * math.sqrt(1) / 12, abs=1e-3)


def test_bounds_stay_within_what_a_difference_of_shares_can_be() -> None:
    assert paired_difference(*outcomes(both=0, lost=0, gained=100, neither=0)).high == 1.0
    assert paired_difference(*outcomes(both=0, lost=100, gained=0, neither=0)).low == -1.0


def test_other_scores_get_students_t_by_hand() -> None:
    """Differences 0, 0, 1, 1, 2, 2: mean 1, variance 4/5, so 1 ± 2.5706·sqrt(0.8/6)."""
    difference = paired_difference([1.0, 2.0, 3.0, 4.0, 5.0, 6.0], [1.0, 2.0, 4.0, 5.0, 7.0, 8.0])
    assert difference == pytest.approx((1.0, 1 - 0.93865, 1 + 0.93865), abs=1e-4)


def test_pairing_matters() -> None:
    before = [float(value) for value in range(20)]
    after = [value + 0.5 + 0.1 * (-1) ** value for value in range(20)]
    shuffled = after[10:] + after[:10]
    assert paired_difference(before, after).low > 0
    assert paired_difference(before, shuffled).low < 0 < paired_difference(before, shuffled).high


@pytest.mark.parametrize(("before", "after"), [(0.0, 1.0), (0.5, 0.75)])
def test_fewer_than_six_examples_give_no_interval_whatever_their_scores(before: float, after: float) -> None:
    for n in range(1, FEWEST):
        difference = paired_difference([before] * n, [after] * n)
        assert difference.mean == after - before
        assert math.isnan(difference.low)
        assert math.isnan(difference.high)
    assert paired_difference([before] * FEWEST, [after] * FEWEST).low > 0


@pytest.mark.parametrize(("before", "after"), [([], []), ([1.0], [1.0, 0.0])])
def test_scores_of_different_examples_are_refused(before: list[float], after: list[float]) -> None:
    with pytest.raises(ValueError, match="same examples"):
        paired_difference(before, after)


@pytest.mark.parametrize(
    ("degrees_of_freedom", "published"),
    [(1, 12.7062), (2, 4.3027), (5, 2.5706), (10, 2.2281), (30, 2.0423), (100, 1.9840)],
)
def test_t_quantile_is_the_published_one(degrees_of_freedom: int, published: float) -> None:
    assert t_quantile(degrees_of_freedom) == pytest.approx(published, abs=5e-5)
    assert t_probability(published, degrees_of_freedom) == pytest.approx(0.95, abs=1e-5)


def test_t_quantile_tends_to_the_normal_one() -> None:
    assert t_quantile(100_000) == pytest.approx(1.95996, abs=1e-4)


@pytest.mark.parametrize(("lost", "gained"), [(0.02, 0.05), (0.1, 0.3), (0.2, 0.2)])
def test_binary_interval_holds_the_truth_95_times_in_100(lost: float, gained: float) -> None:
    random, held, trials = Random(1), 0, 1500
    for _ in range(trials):
        draws = [random.random() for _ in range(60)]
        before = [float(draw < lost or draw > 0.6) for draw in draws]
        after = [float(lost <= draw < lost + gained or draw > 0.6) for draw in draws]
        difference = paired_difference(before, after)
        held += difference.low <= gained - lost <= difference.high
    assert 0.94 <= held / trials <= 0.99


def test_students_interval_holds_the_truth_95_times_in_100() -> None:
    random, held, trials = Random(2), 0, 1500
    for _ in range(trials):
        before = [random.expovariate(1) for _ in range(12)]
        after = [value + random.gauss(0.3, 1) for value in before]
        difference = paired_difference(before, after)
        held += difference.low <= 0.3 <= difference.high
    assert 0.935 <= held / trials <= 0.965


@pytest.mark.parametrize(
    ("n", "gained", "differs"), [(10, 8, False), (10, 9, True), (6, 5, False), (6, 6, True), (40, 26, False)]
)
def test_few_changed_outcomes_show_nothing_that_the_exact_test_does_not(n: int, gained: int, differs: bool) -> None:
    before, after = [0.0] * gained + [1.0] * (n - gained), [1.0] * gained + [0.0] * (n - gained)
    found = paired_difference(before, after)
    assert (found.low > 0) is differs
    assert found.low <= found.mean <= found.high
