"""Tasks of a user's own: what counts as right, and which rows are refused."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from evaluation.own import Choices, Questions, choice_example, own_task, version_of
from evaluation.scored_model import ScoredModel
from evaluation.task import HeldOut
from tests.evaluation.test_tasks import Scripted
from utils.errors import Refused

USER = {"role": "user", "content": "Which?"}
SYSTEM = {"role": "system", "content": "Be brief."}
TOOL = {"type": "function", "function": {"name": "add"}}


@pytest.fixture
def written(tmp_path: Path) -> Callable[..., Path]:
    def write(*rows: Any) -> Path:
        file = tmp_path / "own.jsonl"
        file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        return file

    return write


def test_questions_are_scored_by_both_filters(tmp_path: Path) -> None:
    rows = [{"prompt": "2+3?", "answer": "5"}, {"prompt": "Capital of France?", "answer": "Paris"}]
    scores = Questions(HeldOut(rows)).score(Scripted(tmp_path, ["5", "I say Paris"]))
    assert (scores["strict"], scores["flexible"], scores["stop_rate"]) == ([1, 0], [1, 1], [1, 1])


def test_the_likeliest_choice_is_taken_and_its_length_can_be_left_out(checkpoint: ScoredModel) -> None:
    """Against the model's own log-probabilities, choice by choice."""
    prompt, choices = "Ada has 34", [" apples", " apples and one more that Ben has", " x"]
    tokens = checkpoint.tokenizer
    start = len(tokens(prompt)["input_ids"])
    losses = []
    for choice in choices:
        ids = tokens(prompt + choice, return_tensors="pt")["input_ids"]
        logps = checkpoint.model(ids).logits.log_softmax(-1)[0, :-1].gather(1, ids[0, 1:, None])[:, 0]
        losses.append(-float(logps[start - 1 :].sum()))
    per_byte = [loss / len(choice) for loss, choice in zip(losses, choices, strict=True)]
    best, best_per_byte = losses.index(min(losses)), per_byte.index(min(per_byte))
    rows = [{"prompt": prompt, "choices": choices, "answer": answer} for answer in range(3)]
    scores = Choices(HeldOut(rows)).scores(checkpoint)
    assert scores["accuracy"] == [float(answer == best) for answer in range(3)]
    assert scores["accuracy_per_byte"] == [float(answer == best_per_byte) for answer in range(3)]
    assert best != best_per_byte


def test_a_choice_of_plain_text_has_no_end_and_a_turn_has_one(checkpoint: ScoredModel) -> None:
    tokens = checkpoint.tokenizer
    plain = choice_example(tokens, {"prompt": "Ada has 34"}, " apples")
    assert tokens.decode(plain.input_ids) == "Ada has 34 apples"
    assert (
        tokens.decode([i for i, is_scored in zip(plain.input_ids, plain.scored, strict=True) if is_scored]) == " apples"
    )
    turn = choice_example(tokens, {"prompt": [{"role": "user", "content": "How many?"}]}, "34")
    assert [i for i, is_scored in zip(turn.input_ids, turn.scored, strict=True) if is_scored][-1] == tokens.eos_token_id


def test_a_choice_longer_than_the_model_takes_has_no_figure(checkpoint: ScoredModel) -> None:
    rows = [{"prompt": "One", "choices": [" two", " two" * 600], "answer": 0}]
    assert Choices(HeldOut(rows)).scores(checkpoint)["accuracy"] == [None]


def test_a_token_without_an_embedding_is_named(checkpoint: ScoredModel) -> None:
    checkpoint.tokenizer.add_tokens(["<step>"])
    rows = [{"prompt": "One", "choices": [" two", " <step>"], "answer": 0}]
    with pytest.raises(Refused, match=r"none for '<step>' \(\d+\)"):
        Choices(HeldOut(rows)).scores(checkpoint)
    with pytest.raises(Refused, match="none for '<step>'"):
        checkpoint.complete([("One <step>", None)], 4)


def test_a_file_is_a_task_named_after_it_whose_version_is_that_of_its_rows(written: Callable[..., Path]) -> None:
    task = own_task(written({"prompt": "2+3?", "answer": "5"}), 7)
    assert isinstance(task, Questions)
    assert (task.title, task.max_new_tokens) == ("own.jsonl", 7)
    other = own_task(written({"prompt": "2+3?", "answer": "6"}), 7)
    assert isinstance(other, Questions)
    assert version_of(task) != version_of(other)
    turns = [{"from": "human", "value": "Which?"}]
    choices = own_task(written({"prompt": turns, "choices": ["a", "b"], "answer": 1}), 7)
    assert isinstance(choices, Choices)
    assert choices.held_out.rows[0]["prompt"] == [{"role": "user", "content": "Which?"}]


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"answer": "5"}, "prompt, or question, must be text or a list of messages; given: None"),
        ({"prompt": "a", "answer": True}, "answer must be text or a number, or a list of them; given: True"),
        ({"prompt": "a", "answer": []}, "answer must be text or a number"),
        ({"prompt": "a", "answer": ["5", {}]}, "answer must be text or a number"),
        ({"prompt": "a", "answer": " "}, "an answer is empty"),
        ({"prompt": "a", "answer": ["5", ""]}, "an answer is empty"),
        ({"prompt": [{"role": "assistant", "content": "b"}], "answer": "5"}, "follows no question"),
        ({"prompt": "a", "answer": "5", "choices": ["a", "b"]}, "the first row has none"),
        ({"prompt": "a", "answer": {"year": 5}}, "answer must be text or a number, a list of them, or an object"),
        ({"prompt": "a", "answer": "5", "answers": ["6"]}, "answer is none of answers"),
        ({"prompt": "a", "answer": "5", "system": 7}, "system must be text"),
        ({"prompt": "a", "answer": "5", "context": {"title": "b"}}, "context must be text"),
        ({"prompt": [USER], "answer": "5", "context": "b"}, "messages have no place for `context`"),
        ({"prompt": [USER], "answer": "5", "history": [["a", "b"]]}, "messages has no place for `history`"),
        ({"prompt": [USER, {"role": "assistant", "content": "b"}], "answer": "5"}, "ends with a turn of the assistant"),
        ({"prompt": [{**USER, "content": "<|im_start|>user\na<|im_end|>"}], "answer": "5"}, "it is rendered already"),
        ({"prompt": "[INST] a [/INST]", "system": "b", "answer": "5"}, "it is rendered already"),
    ],
)
def test_faulty_questions_are_refused_by_their_number(row: Any, said: str, written: Callable[..., Path]) -> None:
    with pytest.raises(Refused, match=r"1 of 2 rows cannot be used as questions:\n- row 2: ") as refused:
        own_task(written({"prompt": "2+3?", "answer": "5"}, row), 8)
    assert said in str(refused.value)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"choices": ["a"]}, "choices must be a list of two texts or more"),
        ({"choices": ["a", ""]}, "choices must be a list of two texts or more"),
        ({"answer": 2}, "0 to 1, its letter, A to B, or its text; given: 2"),
        ({"answer": True}, "given: True"),
        ({"answers": ["a"]}, "of choices one is right"),
        ({"prompt": [USER], "choices": ["a", "b<|eot_id|>"]}, "it is rendered already"),
        ({"answer": "c"}, "given: 'c'"),
        ({"choices": ["x", "x"], "answer": "x"}, "given: 'x'"),
    ],
)
def test_faulty_choices_are_refused_by_their_number(changed: Any, said: str, written: Callable[..., Path]) -> None:
    good = {"prompt": "a", "choices": ["a", "b"], "answer": 0}
    with pytest.raises(Refused, match="- row 2: ") as refused:
        own_task(written(good, good | changed), 8)
    assert said in str(refused.value)


@pytest.mark.parametrize(("answer", "place"), [(1, 1), ("B", 1), ("(b)", 1), ("A.", 0), ("Rome", 1), (" Paris", 0)])
def test_the_right_choice_has_a_place_a_letter_and_a_text(
    answer: Any, place: int, written: Callable[..., Path]
) -> None:
    task = own_task(written({"prompt": "Capital?", "choices": [" Paris", " Rome"], "answer": answer}), 8)
    assert task.held_out.rows[0]["answer"] == place


def test_a_choice_that_is_a_letter_itself_is_taken_by_its_text(written: Callable[..., Path]) -> None:
    task = own_task(written({"prompt": "Which?", "choices": ["B", "A"], "answer": "A"}), 8)
    assert task.held_out.rows[0]["answer"] == 1


def test_questions_take_numbers_and_several_right_answers(tmp_path: Path, written: Callable[..., Path]) -> None:
    task = own_task(written({"prompt": "2+3?", "answer": 5}, {"prompt": "UK?", "answer": ["England", "Britain"]}), 8)
    scores = task.score(Scripted(tmp_path, ["5.0", "It is Britain."]))
    assert (scores["strict"], scores["flexible"]) == ([1, 0], [1, 1])


@pytest.mark.parametrize(
    ("row", "asked"),
    [
        ({"prompt": "Which?", "context": "Of these."}, {"prompt": "Which?\n\nOf these."}),
        ({"question": "Which?", "input": "", "context": None, "system": " "}, {"prompt": "Which?"}),
        ({"prompt": "Which?", "system": "Be brief."}, {"prompt": [SYSTEM, USER]}),
        ({"prompt": [USER], "system_prompt": "Be brief."}, {"prompt": [SYSTEM, USER]}),
        ({"question": "Which?", "tools": [TOOL]}, {"prompt": [USER], "tools": [TOOL]}),
        ({"prompt": [USER], "tools": [TOOL]}, {"prompt": [USER], "tools": [TOOL]}),
        ({"question": "Which?", "input": "Of these.", "history": [["Hi", "Ho"]]},
         {"prompt": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho"},
                     {"role": "user", "content": "Which?\n\nOf these."}]}),
        ({"prompt": "[INST] a [/INST]"}, {"prompt": "[INST] a [/INST]"}),  # continued as it is
    ],
)  # fmt: skip
def test_what_a_row_says_beside_its_question_is_asked_too(row: Any, asked: Any, written: Callable[..., Path]) -> None:
    (found,) = own_task(written({**row, "answer": "5"}), 8).held_out.rows
    assert found == {**asked, "answer": "5"}


@pytest.mark.parametrize(
    "right",
    [
        {"answers": ["a", "b"]}, {"answer": "a", "answers": ["a", "b"]}, {"answer": '["a", "b"]'},
        {"answer": {"value": "a", "aliases": ["b"]}}, {"answers": {"text": ["a", "b"], "answer_start": [0, 1]}},
    ],
)  # fmt: skip
def test_several_right_answers_have_several_forms(right: Any, tmp_path: Path, written: Callable[..., Path]) -> None:
    task = own_task(written({"prompt": "Which?", **right}), 8)
    for said, strict in (("a", 1), ("b", 1), ("c", 0), ("value", 0)):
        assert task.score(Scripted(tmp_path, [said]))["strict"] == [strict]


def test_of_many_faulty_rows_the_first_are_shown_and_steer_no_terminal(written: Callable[..., Path]) -> None:
    with pytest.raises(Refused) as refused:
        own_task(written(*[{"prompt": "a", "answer": {"\x1b[31m": 1}}] * 9), 8)
    said = str(refused.value)
    assert "9 of 9 rows" in said
    assert said.count("- row") == 5
    assert said.endswith("- and 4 more")
    assert "\x1b" not in said


@pytest.mark.parametrize(("text", "said"), [("", "no rows"), ("{", "line"), ("[1]\n", "one JSON object")])
def test_a_file_that_is_no_jsonl_is_refused(text: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "own.jsonl").write_text(text)
    with pytest.raises(Refused, match=said):
        own_task(tmp_path / "own.jsonl", 8)
