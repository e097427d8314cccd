"""The built-in rewards, and how rewards of every kind are found and checked."""

import asyncio
import math
from functools import partial
from typing import Any

import numpy
import pytest
import torch
from datasets import Dataset

from algorithms import rewards
from algorithms.config import GRPOExtraConfig
from utils.errors import Refused, StageFailed


def having(*columns: str) -> Dataset:
    return Dataset.from_dict({name: ["a"] for name in columns})


def chat(*texts: str) -> list[list[dict[str, str]]]:
    return [[{"role": "assistant", "content": text}] for text in texts]


def test_exact_match_reads_what_follows_the_thoughts_of_strings_and_of_messages() -> None:
    texts = ("<think>3+4=7</think>\n7", "7 ", "77", "it is 7")
    assert rewards.exact_match(texts, answer=["7"] * 4) == [1.0, 1.0, 0.0, 0.0]
    assert rewards.exact_match(chat(*texts), answer=["7"] * 4) == [1.0, 1.0, 0.0, 0.0]


def test_exact_match_says_nothing_of_rows_without_an_answer() -> None:
    given: list[Any] = ["7", None, " ", [], {"value": "7", "aliases": ["seven"]}]
    assert rewards.exact_match(["7"] * 5, answer=given) == [1.0, None, None, None, 1.0]
    with pytest.raises(Refused, match=r"answer must be text or a number.*given: {'year': 7}"):
        rewards.exact_match(["7"], answer=[{"year": 7}])


def test_the_rewards_of_made_data_are_had_by_their_names() -> None:
    texts = chat("<think>3+4=7</think>\nAnswer: 7", "The answer is 7", "Answer: 8")
    columns: dict[str, Any] = {"skill": ["arithmetic"] * 3, "answer": ["7"] * 3}
    strict, flexible = (rewards.load(name)[0] for name in ("made_strict", "made_flexible"))
    assert (rewards.name_of(strict), rewards.name_of(flexible)) == ("made_strict", "made_flexible")
    assert strict(texts, **columns) == [1.0, 0.0, 0.0]
    assert flexible(texts, **columns) == [1.0, 1.0, 0.0]


def test_the_default_reward_is_math_verifys_accuracy() -> None:
    (source,) = GRPOExtraConfig().rewards
    function, tokenizer = rewards.load(source)
    assert tokenizer is None
    assert function(chat(r"\boxed{\frac{1}{2}}", r"\boxed{3}"), solution=["$0.5$", "$4$"]) == [1.0, 0.0]


def test_accuracy_takes_a_solution_that_is_a_number() -> None:
    function, _ = rewards.load("accuracy")
    assert function(chat(r"\boxed{4}", r"\boxed{3}"), solution=[4, 4], log_extra=None) == [1.0, 0.0]
    small, large = chat(r"\boxed{0.00001}"), chat(r"\boxed{100000000000000000000}")
    assert function([*small, *large], solution=[0.00001, 1e20]) == [1.0, 1.0]
    assert rewards.name_of(function) == "accuracy_reward"
    assert rewards.missing_columns([function], having("prompt")) == [
        "the reward accuracy_reward needs solution; the data has prompt"
    ]


def test_think_format_wants_one_closed_block_first() -> None:
    function, _ = rewards.load("think_format")
    assert function(chat("<think>so</think> 7", "7")) == [1.0, 0.0]


@pytest.mark.parametrize("name", rewards.BUILT_IN)
def test_every_built_in_loads(name: str) -> None:
    assert callable(rewards.load(name)[0])


def test_a_reward_whose_column_is_missing_is_told() -> None:
    def sized(completions: list[Any], size: list[int], unit: str = "m", **_: Any) -> list[float]:
        return [0.0 for _ in size]

    (line,) = rewards.missing_columns([sized, rewards.exact_match], having("prompt", "answer"))
    assert line == "the reward sized needs size; the data has prompt, answer"


@pytest.mark.parametrize(
    ("answers", "told"), [([None, None], True), ([[], []], True), (["", None], True), ([None, "7"], False)]
)
def test_a_column_without_any_value_is_told(answers: list[Any], told: bool) -> None:
    rows = Dataset.from_dict({"prompt": ["1", "2"], "answer": answers})
    expected = ["the reward exact_match needs answer, of which no row has a value"] if told else []
    assert rewards.missing_columns([rewards.exact_match], rows) == expected


def test_a_reward_that_is_a_class_is_told() -> None:
    class Long:
        def __init__(self, *_: Any, **__: Any) -> None:
            pass

    a_class: Any = Long
    assert rewards.problems(GRPOExtraConfig(reward_func=[a_class]))[0].startswith("reward_func Long is a class")


def test_a_reward_has_the_name_that_trl_gives_it() -> None:
    from trl.trainer.utils import get_callable_name

    class Long:
        def __call__(self, completions: list[Any], **_: Any) -> list[float]:
            return [1.0 for _ in completions]

    for function in (rewards.exact_match, partial(rewards.exact_match, answer=[]), Long(), Long().__call__):
        assert rewards.name_of(function) == get_callable_name(function)


def test_a_callable_object_is_a_reward() -> None:
    class Long:
        def __call__(self, completions: list[Any], goal: list[int], **_: Any) -> list[float]:
            return [0.0 for _ in goal]

    (line,) = rewards.missing_columns([Long()], having("prompt"))
    assert line == "the reward Long needs goal; the data has prompt"


def returned(value: Any) -> Any:
    def judged(completions: list[Any], **_: Any) -> Any:
        return value(len(completions)) if callable(value) else value

    return rewards.checked(judged)(completions=["a", "b"])


@pytest.mark.parametrize(
    "value",
    [
        [1, None], (1.0, None), (one for one in (True, math.nan)), numpy.array([1.0, math.nan]),
        [numpy.bool_(True), None], torch.tensor([1.0, math.nan]), [torch.tensor(1.0, requires_grad=True), None],
    ],
)  # fmt: skip
def test_rewards_of_every_form_become_numbers(value: Any) -> None:
    first, second = returned(value)
    assert first == 1.0
    assert second is None or math.isnan(second)


@pytest.mark.parametrize(
    ("value", "told"),
    [
        (0.5, "returned 0.5: it must return a list with a number, or None, for each of its 2 completions"),
        ("good", "returned 'good'"),
        ({"a": 1, "b": 2}, "returned {'a': 1, 'b': 2}"),
        ([1.0], "returned 1 rewards: it must return a list"),
        (["1", "2"], "returned '1' for completion 0"),
        ([1.0, [2.0]], r"returned \[2.0\] for completion 1"),
        (numpy.ones((2, 1)), r"returned array\(\[1.\]\) for completion 0"),
        ({1.0, 2.0}, "returned {1.0, 2.0}: it must return a list"),  # has no order
        ({1: "a", 2: "b"}.keys(), r"returned dict_keys\(\[1, 2\]\)"),
        (torch.tensor(1.0), r"returned tensor\(1.\): it must return a list"),
        (numpy.float64(1.0), r"returned .*1.0.*: it must return a list"),
        ([10**400] * 2, r"returned 10+….* for completion 0: an infinite reward teaches nothing"),
        ([bytearray(b"1"), 0], "returned bytearray"),
        ([0.0, math.inf], "returned inf for completion 1: an infinite reward teaches nothing"),
        ([-1e39, 0.0], r"returned -1e\+39 for completion 0"),
    ],
)
def test_what_is_no_finite_number_each_fails_the_stage_by_the_rewards_name(value: Any, told: str) -> None:
    with pytest.raises(StageFailed, match=f"the reward judged {told}"):
        returned(value)


def test_an_awaited_reward_is_checked_too() -> None:
    class Judge:
        async def __call__(self, completions: list[Any], **_: Any) -> list[float]:
            return [math.inf for _ in completions]

    judge: Any = Judge()
    function = rewards.checked(judge)
    assert rewards.name_of(function) == "Judge"
    with pytest.raises(StageFailed, match="the reward Judge returned inf"):
        asyncio.run(function(completions=["a"]))


def test_a_reward_without_a_place_for_what_it_does_not_read_is_refused() -> None:
    def positional(prompts: list[Any], completions: list[Any], answer: list[str]) -> list[float]:
        return [0.0 for _ in completions]

    (line,) = rewards.problems(GRPOExtraConfig(reward_func=positional))
    assert line.startswith("reward_func positional takes no `**_`")


def by_place(completions: list[Any], /, **_: Any) -> list[float]:
    return [0.0 for _ in completions]


@pytest.mark.parametrize(
    ("function", "told"),
    [
        (by_place, "reward_func by_place takes completions by its place alone"),
        (partial(by_place), "reward_func by_place takes completions by its place alone"),
        (int, "reward_func int has no parameters that can be read"),
        (max, "reward_func max has no parameters that can be read"),
    ],
)
def test_a_reward_that_cannot_be_called_by_names_is_refused(function: Any, told: str) -> None:
    assert [line for line in rewards.problems(GRPOExtraConfig(reward_func=function)) if line.startswith(told)]
