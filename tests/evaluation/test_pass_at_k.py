"""pass@k: by hand, and against what it estimates."""

from itertools import combinations

import pytest

from evaluation.pass_at_k import means, pass_at_k, passes


def test_pass_at_k_by_hand() -> None:
    """2 of 5 right, 3 tries: all 3 are wrong in C(3, 3) = 1 of C(5, 3) = 10 ways."""
    assert pass_at_k(5, 2, 3) == pytest.approx(0.9)


def test_pass_at_1_is_the_share_of_right_answers() -> None:
    assert pass_at_k(8, 3, 1) == pytest.approx(3 / 8)


@pytest.mark.parametrize(("right", "value"), [(0, 0.0), (1, 1.0), (4, 1.0)])
def test_with_as_many_tries_as_answers_one_right_answer_is_enough(right: int, value: float) -> None:
    assert pass_at_k(4, right, 4) == value


@pytest.mark.parametrize("k", range(1, 7))
def test_it_is_the_mean_over_all_choices_of_k_answers(k: int) -> None:
    answers = [1, 0, 0, 1, 0, 0]
    drawn = [float(any(choice)) for choice in combinations(answers, k)]
    assert pass_at_k(6, 2, k) == pytest.approx(sum(drawn) / len(drawn))


@pytest.mark.parametrize(("samples", "right", "k"), [(3, 0, 4), (3, 4, 1), (3, 1, 0)])
def test_more_tries_than_answers_cannot_be_estimated(samples: int, right: int, k: int) -> None:
    with pytest.raises(ValueError, match=f"pass@{k} needs"):
        pass_at_k(samples, right, k)


def test_a_problem_without_all_of_its_answers_has_no_figure() -> None:
    outcomes = [1.0, 0.0, None, 1.0, 0.0, 0.0]
    assert passes(outcomes, 2, 2) == [1.0, None, 0.0]
    assert means(outcomes, 2) == [0.5, None, 0.0]
