"""When a text is the right answer, and when it has it: for rewards and for evaluation alike."""

import math
from typing import Any

import pytest

from algorithms.rewards import exact_match
from utils.errors import Refused
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
        ("It is 1 234", "234", False, False),  # may as well be two numbers, of which it is not the one that is said
        ("It is 1 234", "1234", False, True),
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
        (r"1\frac{1}{2}", "3/2", True, True),
        ("1\u00bd", "1.5", True, True),
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


# fmt: off
ONLY_FLEXIBLE = [
    # a number is no part of another one, wherever its unit stands
    ("It is 1,234 km", "234 km", False), ("It is 1 234 km", "234 km", False), ("It is 1234 km", "1,234 km", True),
    ("USD 1 000 000", "1000000", True), ("-5 km", "5 km", False), ("5 km", "-5 km", False),
    ("It is -5 km.", "-5 km", True), ("5.0 km", "5 km", True), ("5km", "5 km", True), ("$-5$", "$5$", False),
    ("$5$", "$-5$", False), ("It is $5$", "$5$", True), ("2.5%", "5%", False), ("It is 5 %", "5%", True),
    (r"50\%", "50%", True), ("12.50%", "50%", False), ("1.5 hours", "5 hours", False), ("2,5 hours", "5 hours", False),
    ("3-5 km", "5 km", False), ("2/3 cup", "3 cup", False), ("1 1/2 cups", "1.5 cups", True),
    ("3:30 pm", "30 pm", False), ("$1,500", "$500", False), ("-$500", "$500", False), ("-$500", "-500", True),
    ("-5 公里", "5公里", False), ("1.5公里", "5公里", False), ("是5公里", "5公里", True), ("5 m/s", "5 m", False),
    (r"5\text{ km}", "5 km", True), ("May 1st", "May 1", True), ("B12", "B", False), ("F-16", "F 16", True),
    ("COVID-19", "covid 19", True),
    ("5 km/h", "5 km", False), ("5 km/h", "5 km/h", True), ("at 10:30", "30", False), ("at 10:30", "10:30", True),
    ("It is 2,5", "5", False), ("It is 2,5", "2, 5", True), ("It is ฿500.", "500 ฿", True), ("-₩500", "₩500", False),
    # formulas
    ("x = -3", "x = 3", False), ("x = 3", "x = -3", False), ("so x=-3.", "x = -3", True),
    (r"$-\frac{1}{2}$", "1/2", False), (r"\frac{1}{2}", r"-\frac{1}{2}", False), (r"$-\frac{1}{2}$", "-1/2", True),
    (r"It is \frac12.", "1/2", True), ("x^2+1", "x^2-1", False), ("x^2+1", "x^2", False), ("y = x^2", "x^2", True),
    ("$x^{2} + 1$", "x^2+1", True), ("x² + 1", "x^2+1", True), ("2x + 3", "2x-3", False), ("2x+3", "x+3", False),
    ("y = 2x", "y = 2", False), (r"2 \cdot x", "2 * x", True), ("x <= 3", "x >= 3", False), ("x < 3", "x > 3", False),
    (r"x \leq 3", "x ≤ 3", True), ("10^3", "3", False), ("10^3", "1000", True), ("10**3", "1000", True),
    ("10^{-3}", "0.001", True), (r"3 \times 10^8", "300000000", True), ("2^100", "100", False),
    ("1.5^2", "2", False), ("the 5^{th}", "5", True), ("42 m2", "42", True), ("42 km^2", "42", True),
    ("42 m2", "42 m²", True),
    ("It goes to ∞.", "∞", True), ("It is -∞", "∞", False), (r"It goes to $\infty$", "∞", True),
    ("It is 😀", "😀", True),
    (r"It is 2\sqrt{3}", r"\sqrt{3}", False), (r"It is 2\sqrt{3}", "2√3", True), (r"\frac{\pi}{4}", "π/4", True),
    (r"\frac{3\pi}{4}", r"\frac{\pi}{4}", False), (r"2\cdot x", "2x", True), ("±5 V", "5 V", False),
    ("It is √2", "2", False), (r"It is 2\sqrt{3}", "2", False), (r"\frac{3\pi}{4}", "4", False), ("x = ±5", "±5", True),
    ("y=mx+b", "y = mx + b", True), ("y=mx+b", "y = mx - b", False), ("b + mx", "b+mx", True), ("x = ab", "x=ab", True),
    # letters that are chosen
    ("I have a dog. It is B", "A", False), ("I have a dog. It is B", "B", True), ("A is wrong, so it is B", "A", False),
    ("A is wrong, so it is B", "B", True), ("A dog barks", "A", False), ("The answer is A because of it", "A", True),
    ("The answer is B. Vitamin C helps.", "B", True), ("I think B, as I said", "B", True), ("A. Paris", "A", True),
    ("**A**", "(A)", True), (r"\boxed{B}", "B", True), ("a", "A", False), ("y = x", "x", True), ("F-16", "F", False),
    ("Not yes", "yes", True),  # what denies is not understood
]
# fmt: on


@pytest.mark.parametrize(("said", "answer", "right"), ONLY_FLEXIBLE)
def test_an_answer_is_no_part_of_another(said: str, answer: str, right: bool) -> None:
    assert flexible_match(said, answer) == right


@pytest.mark.parametrize(
    ("said", "answer"),
    [
        (r"\frac12", "1/2"),
        ("3 / 4", "3/4"),
        ("1\u20442", "0.5"),
        ("\u0663\u066b\u0665", "3.5"),  # Arabic digits and their point
        ("4\u200b2", "42"),  # which nobody sees
        ("50 %", "50%"),
        ("\u221e", "\u221e"),
        ("10^3", "1000"),
    ],
)
def test_one_value_is_the_same_however_it_is_written(said: str, answer: str) -> None:
    assert (strict_match(said, answer), flexible_match(said, answer)) == (True, True)


def test_a_column_of_halves_rewards_whole_numbers_too() -> None:
    assert exact_match(["0", "0.5", "1", "1.5"], answer=[0.0, 0.5, 1.0, 1.5]) == [1.0, 1.0, 1.0, 1.0]


def test_right_answers_are_read_from_json_and_from_the_objects_that_data_sets_have() -> None:
    trivia = {"value": "Sunset", "aliases": ["Sunset", "Sundown"], "normalized_value": "sunset"}
    assert right_answers(trivia) == ["Sunset", "Sundown"]
    assert right_answers({"value": 7, "aliases": None}) == ["7"]
    assert right_answers({"text": ["a", "the a"], "answer_start": [1, 1]}) == ["a", "the a"]
    assert right_answers('["1", "2"]') == ["1", "2"]
    assert right_answers("[1, 2]") == ["[1, 2]"], "an answer of two numbers"
    assert right_answers("[a") == ["[a"]
    for other in ({"year": 1900}, [["1"]], [{"value": "1"}]):
        with pytest.raises(Refused, match="answer must be text or a number, a list of them"):
            right_answers(other)


def test_answers_that_say_nothing_are_none() -> None:
    assert (right_answers(["", None, " "]), right_answers(math.nan)) == ([], [])
