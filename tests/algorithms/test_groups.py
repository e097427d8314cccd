"""What groups of completions can teach, by hand and against enumeration."""

import itertools
import random
import statistics

import pytest

from algorithms import groups


@pytest.mark.parametrize("rewards", [[1, 0, 0, 0, 1], [0.5, 0.5, 1, 0, 1, 1], [0, 0, 0]])
def test_the_probability_is_that_of_all_groups_that_can_be_drawn(rewards: list[float]) -> None:
    for size in range(2, len(rewards) + 1):
        drawn = [len(set(group)) > 1 for group in itertools.combinations(rewards, size)]
        assert groups.informative(rewards, size) == pytest.approx(statistics.fmean(drawn))


def test_a_group_larger_than_what_was_sampled_is_refused() -> None:
    with pytest.raises(ValueError, match="a group of 3 cannot be drawn from 2"):
        groups.informative([0, 1], 3)


def test_the_share_is_unbiased_where_the_pooled_formula_is_far_too_high() -> None:
    """Half of the prompts solved 95 %, half 5 % of the time; groups of 4: 1 - .95**4 - .05**4 = .185 of each."""
    draw = random.Random(0)
    prompts = [[float(draw.random() < rate) for _ in range(8)] for rate in (0.95, 0.05) for _ in range(4000)]
    share, half = groups.informative_share(prompts, 4)
    assert share == pytest.approx(0.185, abs=0.01)
    assert half == pytest.approx(1.96 * statistics.stdev(groups.informative(one, 4) for one in prompts) / 8000**0.5)
    pooled = statistics.fmean(statistics.fmean(one) for one in prompts)
    assert 1 - pooled**4 - (1 - pooled) ** 4 == pytest.approx(0.875, abs=0.01)


def test_pass_at_k_is_that_of_all_draws() -> None:
    rewards = [1, 0, 0, 1, 0]
    for k in range(1, 6):
        drawn = [1 in some for some in itertools.combinations(rewards, k)]
        assert groups.pass_at(k, rewards, 1) == pytest.approx(statistics.fmean(drawn))


def test_the_smallest_size_reaches_the_target_and_the_one_below_does_not() -> None:
    prompts = [[1.0, 0, 0, 0], [1.0, 1, 0, 0]]  # pairs differ in 1/2 and 2/3, triples in 3/4 and 1
    assert groups.smallest_size(prompts, 0.58) == 2
    assert groups.smallest_size(prompts, 0.6) == 3
    assert groups.smallest_size([[1.0, 1], [0.0, 0]]) is None


def test_at_the_ends_of_the_band_every_second_group_is_informative() -> None:
    for size in (2, 4, 16):
        low, high = groups.difficulty_band(size)
        assert 1 - low**size - (1 - low) ** size == pytest.approx(0.5)
        assert low + high == pytest.approx(1)
        assert low <= 0.5
