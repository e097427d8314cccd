"""Calibration and length bias of a reward model, by hand."""

import math

import pytest

from evaluation.calibration import brier, calibration_gaps, length_preference, sigmoid


@pytest.mark.parametrize("margin", [-3.0, 0.0, 2.5])
def test_sigmoid_is_that_of_the_textbook(margin: float) -> None:
    assert sigmoid(margin) == pytest.approx(1 / (1 + math.exp(-margin)))


def test_sigmoid_of_large_margins_does_not_overflow() -> None:
    assert (sigmoid(-1e4), sigmoid(1e4)) == (0.0, 1.0)


@pytest.mark.parametrize(("margin", "score"), [(0.0, 0.25), (math.log(3), 0.0625), (-math.log(3), 0.5625), (50.0, 0)])
def test_brier_score_by_hand(margin: float, score: float) -> None:
    """σ(ln 3) is ¾, so the score is (1 - ¾)²; of -ln 3 it is (1 - ¼)²."""
    assert brier(margin) == pytest.approx(score)


def test_calibration_error_by_hand() -> None:
    """Confidence ¾ four times, 2 right: ¼ off; confidence 0.9 twice, both right: 0.1 off; (1 + 0.2) / 6 = 0.2."""
    low, high = math.log(3), math.log(9)
    gaps = calibration_gaps([low, low, -low, -low, high, high])
    assert gaps == pytest.approx([-0.25, -0.25, 0.75, 0.75, 0.1, 0.1])
    assert sum(gaps) / 6 == pytest.approx(0.2)


def test_a_model_as_sure_as_it_is_right_has_no_calibration_error() -> None:
    margin = math.log(3)
    assert sum(calibration_gaps([margin] * 3 + [-margin])) == pytest.approx(0)


def test_opposite_errors_of_two_parts_do_not_cancel() -> None:
    """As sure as ¾ and always wrong, as sure as 0.9 and always right: ¾ and 0.1 off."""
    gaps = calibration_gaps([-math.log(3), math.log(9)])
    assert gaps == pytest.approx([0.75, 0.1])


@pytest.mark.parametrize(
    ("margin", "longer", "found"),
    [(2.0, 5, (1.0, 1.0)), (2.0, -5, (0.0, 0.0)), (-2.0, 5, (0.0, 1.0)), (-2.0, -5, (1.0, 0.0)), (0.0, 3, (0.5, 1.0))],
)
def test_the_longer_answer_wins_or_is_right(margin: float, longer: int, found: tuple[float, float]) -> None:
    assert length_preference(margin, longer) == found


def test_answers_of_one_length_tell_nothing_of_length() -> None:
    assert length_preference(1.0, 0) is None
