"""When a text is the right answer, and when it has it: for rewards and for evaluation alike."""

import math
from typing import Any

import pytest

from algorithms.rewards import exact_match
from utils.matching import flexible_match, right_answers, strict_match

DECOMPOSED, COMPOSED = "Cafe\u0301", "Caf\u00e9"


@pytest.mark.parametrize(
    ("said", "answer", "strict", "flexible"),
    [
        (" 42\n", "42", True, True),
        ("The answer is 42.", "42", False, True),
        ("42 or rather 43", "42", False, False),  # the last number is what it ends with
        ("1,234.0", "1234", True, True),
        ("0.50", "0.5", True, True),
        ("1", 1.0, True, True),
        ("1.5", 1.5, True, True),
        ("2", 1.0, False, False),
        ("1", True, False, False),
        ("-3", "3", False, False),
        ("no number", "3", False, False),
        ("It is PARIS!", "Paris", False, True),
        ("Parisian", "Paris", False, False),
        ("new  york, of course", "New York", False, True),
        ("", "Paris", False, False),
        ("", "", False, False),
        ("anything", "?!", False, False),  # nothing is left of the answer to look for
        ("anything", None, False, False),
        # numbers
        ("The result is \u22125.", "-5", False, True),
        ("\u22125", "-5", True, True),
        ("x=-5", "-5", False, True),
        ("range 3-5", "5", False, True),
        ("10-5", "-5", False, False),
        ("f(x)-5", "-5", False, False),
        ("It is .5", "0.5", False, True),
        ("One half, 1/2", "0.5", False, True),
        (r"It is \frac{1}{2}", "1/2", False, True),
        ("2/4", "1/2", True, True),
        ("It is 1e-3", "0.001", False, True),
        ("The roots are 2, 3", "2,3", False, True),
        ("{2; 3}", "[2, 3]", False, True),
        ("It is 23", "2,3", False, False),
        ("It is 2,345", "2345", False, True),
        ("2,34", "234", False, False),
        ("It is \uff14\uff12", "42", False, True),
        ("\u0664\u0662", "42", True, True),  # Arabic digits
        ("Wait...5", "5", False, True),
        ("1'234", "1234", True, True),
        ("1_234.50 in code", "1234.5", False, True),
        ("about 12\u202f345\u202f678 people", "12345678", False, True),
        ("1 234", "1234", True, True),
        ("It is 1 234", "234", False, True),  # may as well be two numbers
        ("in '99 it was 100", "100", False, True),
        ("4\u00b2", "4", False, False),
        ("4\u00b2", "16", True, True),
        ("12 m\u00b2", "12", False, True),
        ("9" * 40 + "\u2079\u2079", "5", False, False),
        # letters
        ("\u7b54\u6848\u662f\u5317\u4eac\u3002", "\u5317\u4eac", False, True),
        ("\u0e01\u0e23\u0e38\u0e07\u0e40\u0e17\u0e1e\u0e2f", "\u0e01\u0e23\u0e38\u0e07\u0e40\u0e17\u0e1e", False, True),
        ("\u4e0a\u6d77", "\u5317\u4eac", False, False),
        (DECOMPOSED, COMPOSED, True, True),
        (f"A {COMPOSED}.", DECOMPOSED, False, True),
        ("\u0915\u093f", "\u0915\u0940", False, False),  # two syllables of Hindi
        ("\u0915\u0940 \u0939\u0948", "\u0915\u0940", False, True),
        ("I like C", "C++", False, False),
        ("I like C++.", "C++", False, True),
        ("I like C#", "C", False, False),
        ("a state-of-the-art model", "state of the art", False, True),
        ("\u7b54\u6848\u662f12\u6708", "2\u6708", False, False),
        ("\uc11c\uc6b8\uc785\ub2c8\ub2e4", "\uc11c\uc6b8", False, True),  # Korean joins particles
        # what a model may write without end
        ("9" * 5000, "5", False, False),
        ("It is 1e999999999", "5", False, False),
        (r"It is 10{,}000", "10000", False, True),
        (r"1\frac{1}{2}", "3/2", False, True),
        ("1\u00bd", "1.5", False, True),
        # several right answers, and worked ones
        ("bar", "Intro\n#### Step 1\nfoo\n#### Step 2\nbar", False, False),
        ("Britain", ["England", "Britain"], True, True),
        ("France", ["England", "Britain"], False, False),
        ("72", "40 + 32 = <<40+32=72>>72\n#### 72", True, True),
        ("40", "40 + 32 = 72\n#### 72", False, False),
    ],
)
def test_strict_is_the_text_and_flexible_the_answer_in_it(said: str, answer: Any, strict: bool, flexible: bool) -> None:
    assert (strict_match(said, answer), flexible_match(said, answer)) == (strict, flexible)


def test_a_column_of_halves_rewards_whole_numbers_too() -> None:
    assert exact_match(["0", "0.5", "1", "1.5"], answer=[0.0, 0.5, 1.0, 1.5]) == [1.0, 1.0, 1.0, 1.0]


def test_answers_that_say_nothing_are_none() -> None:
    assert (right_answers(["", None, " "]), right_answers(math.nan)) == ([], [])
