"""The held-out split: the same side for the same problem, whatever stands around it."""

from typing import Any
from zlib import crc32

import pytest

from data.splits import held_out, key_of, position, two_sides

QUESTION = "What is 2 + 2?"


def test_position_is_crc32_of_the_normalised_text() -> None:
    assert position("  What is\n2 + 2? ") == crc32(b"what is 2 + 2?") / 2**32


def test_a_problem_is_on_one_side_in_every_stage() -> None:
    user, answer = {"role": "user", "content": QUESTION}, {"role": "assistant", "content": "4"}
    rows: list[dict[str, Any]] = [
        {"messages": [{"role": "system", "content": "Add."}, user, answer, {"role": "user", "content": "And 3 + 3?"}]},
        {"prompt": [user], "chosen": [answer], "rejected": []},
        {"prompt": QUESTION, "completion": "4"},
        {"text": QUESTION},
    ]
    assert {key_of(row) for row in rows} == {QUESTION}


def test_a_larger_fraction_holds_out_all_that_a_smaller_one_does() -> None:
    keys = [f"problem {n}" for n in range(2000)]
    small, large = ({key for key in keys if held_out(key, fraction)} for fraction in (0.05, 0.2))
    assert small < large
    assert len(small) / len(keys) == pytest.approx(0.05, abs=0.015)


def test_two_sides_hold_every_row_once() -> None:
    keys = [f"problem {n % 50}" for n in range(200)]
    train, held = two_sides(keys, 0.3)
    assert sorted(train + held) == list(range(200))
    assert not {keys[n] for n in train} & {keys[n] for n in held}
