"""What is told of the norms of gradients, and what is passed over."""

import math

import pytest

from watching.gradients import DEAD, IN_A_ROW, MEASURED, MOST_SKIPPED, Gradients


def told(norms: list[float], *, scaled: bool = False, **options: bool) -> list[str | None]:
    gradients = Gradients(**options)
    return [gradients.look(norm, scaled=scaled) for norm in norms]


@pytest.mark.parametrize("norm", [math.nan, math.inf])
def test_a_norm_that_is_no_number_is_told_at_once(norm: float) -> None:
    assert told([1.0, norm]) == [None, f"the gradient is {norm}"]


def test_fp16s_scale_may_be_too_large_for_a_while() -> None:
    said = told([math.inf] * MOST_SKIPPED, scaled=True)
    assert said[:-1] == [None] * (MOST_SKIPPED - 1)
    assert "beyond fp16" in str(said[-1])
    between = [math.inf] * (MOST_SKIPPED - 1) + [1.0]
    assert told(between * 3, scaled=True) == [None] * 3 * MOST_SKIPPED


def test_an_explosion_is_several_steps_far_above_what_is_usual() -> None:
    usual = [1.0 + step % 3 for step in range(MEASURED)]
    assert told([*usual, *[1e4] * IN_A_ROW])[-2:] == [None, "the gradient's norm has exploded, from 2 to 1e+04"]
    assert told([*usual, 1e4, 1.0, 1e4, 1e4, 1.0]) == [None] * (MEASURED + 5)  # strange rows, clipped
    assert told([1e-3] * 5 + [1e3] * IN_A_ROW) == [None] * (5 + IN_A_ROW)  # too few to know what is usual
    assert told([*usual, *[500.0] * 10]) == [None] * (MEASURED + 10)


def test_a_gradient_that_stays_zero_is_dead_but_not_in_grpo() -> None:
    assert told([0.0] * DEAD)[-2:] == [None, f"the gradient was 0 in {DEAD} steps in a row: nothing is learnt"]
    assert told(([0.0] * (DEAD - 1) + [1.0]) * 2) == [None] * 2 * DEAD
    assert told([0.0] * 3 * DEAD, may_be_zero=True) == [None] * 3 * DEAD


def test_norms_of_zero_do_not_make_an_ordinary_one_an_explosion() -> None:
    norms = [0.0, 0.0, 1.0] * MEASURED + [1.5, 1.2, 1.4]
    assert told(norms, may_be_zero=True) == [None] * len(norms)
