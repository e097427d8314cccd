"""Every accepted layout becomes its stage's columns; everything else is refused with what was found."""

import json
import math
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from datasets import Dataset, Features, Json

from data.layouts import may_say, to_layout, unpaired, unread_columns
from data.local_files import from_rows, read_path
from data.messages import out_of_order
from utils.errors import Refused

Row = dict[str, Any]

USER = [{"role": "user", "content": "2 + 2?"}]
FOUR = [{"role": "assistant", "content": "4"}]
FIVE = [{"role": "assistant", "content": "5"}]
SYSTEM = [{"role": "system", "content": "Add."}]
THOUGHT = [{"role": "assistant", "content": "4", "reasoning_content": "2, 2"}]
BELOW = [{"role": "user", "content": "2 +\n\n2?"}]
PAIR = {"prompt": USER, "chosen": FOUR, "rejected": FIVE}
SHAREGPT = [{"from": "human", "value": "2 + 2?"}]
GPT = {"from": "gpt"}
ADD = {"name": "add"}


def convert(stage: str, *rows: Row) -> list[Row]:
    return list(to_layout(from_rows(list(rows), "rows"), stage))


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"text": "Hello.", "id": 3}, {"text": "Hello."}),
        ({"messages": USER + FOUR, "source": "x"}, {"messages": USER + FOUR}),
        ({"messages": USER + FOUR, "prompt": "2 + 2?"}, {"messages": USER + FOUR}),
        (
            {"conversations": [*SHAREGPT, {"from": "gpt", "value": "4"}], "system": "Add.", "tools": "[]"},
            {"messages": SYSTEM + USER + FOUR, "tools": None},
        ),
        ({"prompt": "2 + 2 =", "completion": " 4"}, {"prompt": "2 + 2 =", "completion": " 4"}),
        ({"prompt": USER, "completion": FOUR}, {"prompt": USER, "completion": FOUR}),
        ({"prompt": "2 + 2?", "completion": FOUR}, {"prompt": USER, "completion": FOUR}),
        ({"prompt": USER, "completion": FOUR, "system": "Add."}, {"prompt": SYSTEM + USER, "completion": FOUR}),
        ({"prompt": "2 + 2?", "completion": "4", "system": " "}, {"prompt": "2 + 2?", "completion": "4"}),
        ({"instruction": "2 + 2?", "input": "", "output": "4"}, {"prompt": USER, "completion": FOUR}),
        (
            {"instruction": "Add.", "input": "2, 2", "output": "4", "chosen": "4", "rejected": "5"},
            {"prompt": [{"role": "user", "content": "Add.\n\n2, 2"}], "completion": FOUR},
        ),
        ({"question": "2 + 2?", "answer": "4"}, {"prompt": USER, "completion": FOUR}),
        ({"problem": "2 + 2?", "solution": "4"}, {"prompt": USER, "completion": FOUR}),
        ({"query": "2 + 2?", "response": "4", "type": "maths"}, {"prompt": USER, "completion": FOUR}),
        ({"prompt": "2 + 2?", "response": "4"}, {"prompt": USER, "completion": FOUR}),
        (
            {"system_prompt": "Add.", "question": "2 + 2?", "response": "4", "id": "7"},
            {"prompt": SYSTEM + USER, "completion": FOUR},
        ),
        (
            {"instruction": "Add.", "context": "2, 2", "response": "4", "category": "maths"},
            {"prompt": [{"role": "user", "content": "Add.\n\n2, 2"}], "completion": FOUR},
        ),
        (
            {"instruction": "2 + 2?", "input": None, "output": "4", "system": "Add.", "history": [["1 + 4?", "5"]]},
            {"prompt": [*SYSTEM, {"role": "user", "content": "1 + 4?"}, *FIVE, *USER], "completion": FOUR},
        ),
        (
            {"instruction": "2 + 2?", "output": "4", "history": '[["1 + 4?", "5"]]'},  # as a .csv has it
            {
                "prompt": [{"role": "user", "content": "1 + 4?"}, {"role": "assistant", "content": "5"}, *USER],
                "completion": FOUR,
            },
        ),
        ({"instruction": "2 + 2?", "output": "4", "history": ""}, {"prompt": USER, "completion": FOUR}),
        ({"instruction": "2 + 2?", "output": "4", "history": None}, {"prompt": USER, "completion": FOUR}),
        ({"question": "2 + 2?", "answer": "4", "reasoning": "2, 2"}, {"prompt": USER, "completion": THOUGHT}),
        ({"prompt": USER, "completion": "4", "thinking": "2, 2"}, {"prompt": USER, "completion": THOUGHT}),
        ({"messages": SYSTEM + USER + FOUR, "system": "Add. "}, {"messages": SYSTEM + USER + FOUR}),
        ({"text": "I liked it.", "label": 1}, {"text": "I liked it."}),
        ({"question": "2 + 2?", "answer": "4", "reasoning": "on"}, {"prompt": USER, "completion": FOUR}),
        ({"question": "2 + 2?", "answer": "4", "thinking": ["2, 2"]}, {"prompt": USER, "completion": THOUGHT}),
        ({"instruction": "2 +", "input": "2?", "response": "4"}, {"prompt": BELOW, "completion": FOUR}),
        ({"messages": USER + FOUR, "label": "maths"}, {"messages": USER + FOUR}),
    ],
)
def test_sft_layouts(row: Row, expected: Row) -> None:
    assert convert("sft", row) == [expected]


@pytest.mark.parametrize("stage", ["reward", "dpo"])
@pytest.mark.parametrize(
    ("row", "expected"),
    [
        (PAIR, PAIR),
        ({**PAIR, "prompt": "2 + 2?", "chosen": "4"}, PAIR),
        ({"prompt": "2 =", "chosen": " 4", "rejected": " 5"}, {"prompt": "2 =", "chosen": " 4", "rejected": " 5"}),
        ({"chosen": USER + FOUR, "rejected": USER + FIVE}, PAIR),
        ({"prompt": "2 + 2?", "chosen": USER + FOUR, "rejected": USER + FIVE, "messages": USER + FOUR}, PAIR),
        ({"chosen": "a cat", "rejected": "a car"}, {"prompt": "a", "chosen": " cat", "rejected": " car"}),
        ({"chosen": "a cat sat", "rejected": "a cat"}, {"prompt": "a", "chosen": " cat sat", "rejected": " cat"}),
        ({"chosen": "a cat", "rejected": "a cat sat"}, {"prompt": "a", "chosen": " cat", "rejected": " cat sat"}),
        ({**PAIR, "system": "Add."}, {**PAIR, "prompt": SYSTEM + USER}),
        ({"system": "Add.", "chosen": USER + FOUR, "rejected": USER + FIVE}, {**PAIR, "prompt": SYSTEM + USER}),
        (
            {"conversations": SHAREGPT, "system": "Add.", "chosen": FOUR, "rejected": FIVE},
            {**PAIR, "prompt": SYSTEM + USER},
        ),
        ({"instruction": "2 + 2?", "output": "4", "chosen": "4", "rejected": "5"}, PAIR),
        ({"system": "Add.", "question": "2 + 2?", "chosen": "4", "rejected": "5"}, {**PAIR, "prompt": SYSTEM + USER}),
        ({"conversations": SHAREGPT, "chosen": GPT | {"value": "4"}, "rejected": GPT | {"value": "5"}}, PAIR),
        ({**PAIR, "tools": '[{"name": "add"}]'}, {**PAIR, "tools": [{"type": "function", "function": ADD}]}),
        ({**PAIR, "margin": 1.5, "score_chosen": 9.0}, {**PAIR, "margin": 1.5}),
    ],
)
def test_preference_layouts(stage: str, row: Row, expected: Row) -> None:
    assert convert(stage, row) == [expected]


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"prompt": "2 + 2?"}, {"prompt": USER}),
        ({"prompt": "2 + 2?", "system": "Add."}, {"prompt": SYSTEM + USER, "system": "Add."}),
        ({"prompt": USER, "answer": "4", "nums": [2, 2]}, {"prompt": USER, "answer": "4", "nums": [2, 2]}),
        ({**PAIR, "label": True}, {"prompt": USER, "label": True}),
        ({"messages": USER + FOUR}, {"prompt": USER}),
        ({"messages": SYSTEM + USER}, {"prompt": SYSTEM + USER}),
        (
            {"question": "2 + 2?", "answer": "Count.\n#### 4"},
            {"prompt": USER, "solution": "4", "question": "2 + 2?", "answer": "Count.\n#### 4"},
        ),
        ({"problem": "2 + 2?", "solution": "$4$"}, {"prompt": USER, "problem": "2 + 2?", "solution": "$4$"}),
    ],
)
def test_grpo_layouts_keep_the_columns_that_rewards_read(row: Row, expected: Row) -> None:
    assert convert("grpo", row) == [expected]


UP, DOWN = {"label": True}, {"label": False}


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"prompt": "2 + 2 =", "completion": " 4", **UP}, [{"prompt": "2 + 2 =", "completion": " 4", **UP}]),
        ({"prompt": USER, "completion": FIVE, **DOWN, "id": 3}, [{"prompt": USER, "completion": FIVE, **DOWN}]),
        ({"messages": USER + FOUR, "system": "Add.", **UP}, [{"prompt": SYSTEM + USER, "completion": FOUR, **UP}]),
        (
            {"messages": USER + FIVE + USER + FOUR, "label": 1, "tools": '[{"name": "add"}]'},
            [
                {
                    "prompt": USER + FIVE + USER,
                    "completion": FOUR,
                    "tools": [{"type": "function", "function": ADD}],
                    **UP,
                }
            ],
        ),
        (
            {"conversations": [*SHAREGPT, GPT | {"value": "5"}], "label": "False"},
            [{"prompt": USER, "completion": FIVE, **DOWN}],
        ),
        (PAIR, [{"prompt": USER, "completion": FOUR, **UP}, {"prompt": USER, "completion": FIVE, **DOWN}]),
        (
            {"conversations": SHAREGPT, "chosen": FOUR, "rejected": FIVE, "label": 7},
            [{"prompt": USER, "completion": FOUR, **UP}, {"prompt": USER, "completion": FIVE, **DOWN}],
        ),
        (
            {"chosen": "a cat", "rejected": "a car", "margin": 1.0},
            [{"prompt": "a", "completion": " cat", **UP}, {"prompt": "a", "completion": " car", **DOWN}],
        ),
    ],
)
def test_labelled_layouts(row: Row, expected: list[Row]) -> None:
    assert list(unpaired(to_layout(from_rows([row], "rows"), "kto"))) == expected


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"prompt": "a", "completion": "b", "label": 2}, "row 1: label must be true or false .*, not 2"),
        ({"prompt": "a", "completion": "b", "label": "good"}, "row 1: label must be true or false .*, not 'good'"),
        ({"prompt": "a", "completion": "b", "label": None}, "row 1: label must be true or false .*, not None"),
        ({"messages": USER + FOUR + USER, **UP}, "1 × the completion is empty, row 1"),
        ({"messages": USER + FOUR}, r"For kto it needs one of: prompt, completion, label \| messages, label \| con"),
    ],
)
def test_rows_without_a_label_or_its_answer_are_refused(row: Row, message: str) -> None:
    with pytest.raises(Refused, match=message):
        convert("kto", row)


@pytest.mark.parametrize(
    ("stage", "row", "message"),
    [
        ("pretrain", {"messages": USER}, "has columns messages. For pretrain it needs one of: text"),
        ("sft", {"mesages": USER}, r"\('mesages' may be meant as 'messages'\)"),
        ("sft", {"conversations": SHAREGPT, "chosen": "4", "rejected": "5"}, "needs one of"),
        ("sft", {"messages": USER + FOUR, "label": True}, "unpaired.*which sft cannot use: kto can"),
        ("dpo", {"prompt": "2 + 2?", "completion": "4", "label": True}, "unpaired.*chosen and rejected"),
        ("dpo", {"prompt": "2 + 2?"}, "needs one of: conversations, chosen, rejected"),
        ("grpo", {"prompt": USER, "tools": '[{"name": "add"}]'}, "row 1: GRPO shows no tools"),
        ("grpo", {"text": "Hello."}, "has columns text"),
        ("sft", {"messages": SYSTEM + USER + FOUR, "system": "Sum."}, "two different system turns"),
        ("sft", {"messages": USER + FOUR, "history": [["1?", "1"]]}, "messages has no place for `history`"),
        ("sft", {"messages": USER + FOUR, "reasoning": "2, 2"}, "messages has no place for `reasoning`"),
        ("sft", {"prompt": "2 + 2 =", "completion": "4", "thinking": "2, 2"}, "plain text has no place for `thinking`"),
        ("sft", {"instruction": "2?", "output": "4", "history": ["1?", "1"]}, "history is a list of rounds"),
        ("sft", {"messages": USER + FOUR, "label": 1}, "has a label for each completion"),
        ("sft", {"messages": USER + FOUR, "label": 1.0}, "has a label for each completion"),
        ("sft", {"question": "2?", "answer": "4", "system": "A.", "system_prompt": "B."}, "two system texts"),
        ("sft", {"text": "Hi.", "role": "prompter", "parent_id": "x"}, "single messages of trees"),
        ("sft", {"prompt": "2?", "completion": 0}, "a list of messages was expected, not 0"),
        ("dpo", {"prompt": "3?", "chosen": USER + FOUR, "rejected": USER + FIVE}, "do not begin with"),
        ("dpo", {"chosen": USER + FOUR, "rejected": [{"role": "user", "content": "3?"}, *FIVE]}, "different questions"),
        ("dpo", {"prompt": USER, "chosen": FOUR + USER, "rejected": FIVE}, "does not end with a turn of the assistant"),
        ("dpo", {**PAIR, "reasoning": "2, 2"}, "a pair of answers has no place for `reasoning`"),
        ("sft", {"messages": [USER[0] | {"thought": "let me see"}, *FOUR]}, "under 'thought', which no stage reads"),
        ("sft", {"question": "<|im_start|>user\n2 + 2?<|im_end|>\n", "answer": "4"}, "is rendered already"),
        ("grpo", {"prompt": "[INST] 2 + 2? [/INST]"}, r"'\[INST\] 2 \+ 2\? \[/INST\]': give its turns as messages"),
        ("dpo", {**PAIR, "chosen": "4<|eot_id|>"}, "is rendered already"),
        ("reward", {**PAIR, "margin": "wide"}, "row 1: margin must be a number, not 'wide'"),
        ("sft", {"question": 4, "answer": "4"}, "row 1: question must be text, not the int 4: write it as"),
        (
            "sft",
            {"prompt": "2 + 2 =", "completion": "4", "system": "Add."},
            "row 1: plain text has no place for `system`",
        ),
        (
            "dpo",
            {"prompt": "2 =", "chosen": "4", "rejected": "5", "system": "Add."},
            "row 1: plain text has no place for `system`",
        ),
        (
            "dpo",
            {"chosen": "a cat", "rejected": "a car", "system": "Add."},
            "row 1: plain text has no place for `system`",
        ),
    ],
)
def test_what_a_stage_cannot_use_is_refused(stage: str, row: Row, message: str) -> None:
    with pytest.raises(Refused, match=message):
        convert(stage, row)


def test_a_malformed_row_is_refused_by_its_number() -> None:
    rows = [{"messages": USER + FOUR}, {"messages": [{"role": "robot", "content": "hi"}]}]
    with pytest.raises(Refused, match=r"rows: 1 of 2 rows .*\n.* an unknown role, row 2: the role 'robot'"):
        to_layout(from_rows(rows, "rows"), "sft", name="rows")


def test_text_and_messages_do_not_mix() -> None:
    rows = [{"prompt": "Two?", "completion": "Four."}, {"prompt": USER, "completion": FOUR}]
    mixed = Dataset.from_list(rows, features=Features({"prompt": Json(), "completion": Json()}))
    with pytest.raises(Refused, match="row 2: prompt is messages, while the first rows have plain text"):
        to_layout(mixed, "sft")


@pytest.mark.parametrize(
    ("stage", "good", "useless"),
    [
        ("pretrain", {"text": "a"}, {"text": " \n"}),
        ("sft", {"messages": USER + FOUR}, {"messages": [*USER, {"role": "assistant", "content": " "}]}),
        ("sft", {"messages": USER + FOUR}, {"messages": USER}),
        ("sft", {"prompt": "a", "completion": "b"}, {"prompt": "a", "completion": None}),
        ("sft", {"prompt": "a", "completion": "b"}, {"prompt": " ", "completion": "b"}),
        ("sft", {"question": "a", "answer": "b", "system": "c"}, {"question": "", "answer": "b", "system": "c"}),
        ("dpo", PAIR, {**PAIR, "rejected": FOUR}),
        ("dpo", PAIR, {**PAIR, "rejected": [{"role": "assistant", "content": ""}]}),
        ("dpo", {"chosen": "a b", "rejected": "a c"}, {"chosen": "b", "rejected": "c"}),
        ("dpo", {"chosen": USER + FOUR, "rejected": USER + FIVE}, {"chosen": USER + FOUR, "rejected": USER + FOUR}),
        ("grpo", {"prompt": "a", "answer": "1"}, {"prompt": " ", "answer": "2"}),
    ],
)
def test_rows_that_teach_nothing_are_left_out(stage: str, good: Row, useless: Row) -> None:
    assert len(convert(stage, *19 * [good], useless)) == 19
    with pytest.raises(Refused, match=r"2 of 3 rows cannot be used \(read as .*\n  2 × .* \(also row 3\), row 1: "):
        convert(stage, useless, good, useless)
    with pytest.raises(Refused, match=r"1 of 1 rows cannot be used \(read as .*\n.*\nNo row is left"):
        convert(stage, useless)


def test_rows_left_out_are_told_with_the_first(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{"instruction": "2 + 2?", "output": "4"}] * 19 + [{"instruction": "1 + 1?", "ouput": "2"}]
    assert len(to_layout(from_rows(rows, "rows"), "sft", name="rows")) == 19
    said = " ".join(capsys.readouterr().out.split())
    assert "rows: 1 of 20 rows cannot be used (read as instruction, output, for sft): 1 × the completion is" in said
    assert "row 20: \"[{'role': 'user', 'content': '1 + 1?'}]\" They are left out." in said
    to_layout(from_rows(rows[:1], "rows"), "sft", name="rows")
    assert capsys.readouterr().out == ""


USER_TURN, ANSWER = USER[0], FOUR[0]
CALLS = {"role": "assistant", "content": "", "tool_calls": [{"type": "function", "function": {"name": "add"}}]}
RESULT = {"role": "tool", "content": "4"}


@pytest.mark.parametrize(
    ("turns", "wrong"),
    [
        ([*USER, *SYSTEM, ANSWER], "turn 2, of the system, is not the first"),
        ([*USER, *USER, ANSWER], "turn 2, of the user, follows another of the user"),
        ([ANSWER, *USER, ANSWER], "turn 1, of the assistant, follows no question"),
        ([*SYSTEM, ANSWER], "turn 2, of the assistant, follows no question"),
        ([*USER, ANSWER, ANSWER], "turn 3, of the assistant, follows another of the assistant"),
        ([*USER, RESULT, ANSWER], "turn 2, of a tool, follows no call"),
        ([*SYSTEM, *USER, ANSWER, *USER, CALLS, RESULT, RESULT, ANSWER], None),
        ([*USER, ANSWER, CALLS, RESULT, ANSWER], None),
        ([*USER, CALLS, RESULT, *USER, ANSWER], None),
    ],
)
def test_turns_out_of_order_are_found(turns: list[Row], wrong: str | None) -> None:
    assert out_of_order(turns) == wrong
    if wrong is None:
        assert len(convert("sft", {"messages": turns})) == 1
    else:
        with pytest.raises(Refused, match=f"1 × turns are out of order, row 1: {wrong}"):
            convert("sft", {"messages": turns})


def test_the_turns_of_a_pair_are_in_order_in_both_answers() -> None:
    with pytest.raises(Refused, match="turn 2, of the user, follows another"):
        convert("dpo", {**PAIR, "rejected": [*USER, *FIVE]})


def test_arguments_are_not_padded_with_those_of_other_calls() -> None:
    def calling(name: str, **arguments: object) -> Row:
        call = {"type": "function", "function": {"name": name, "arguments": arguments}}
        return {"messages": [*USER, {"role": "assistant", "content": "", "tool_calls": [call]}]}

    rows = [calling("timer", seconds=600), calling("weather", city="Rome")]
    for source in (from_rows(rows, "rows"), Dataset.from_list(rows)):
        assert list(to_layout(source, "sft")) == rows


def test_conversions_are_cached_apart_for_each_stage_and_each_content(tmp_path: Path) -> None:
    def load(answer: str) -> Dataset:
        path = tmp_path / f"{answer}.parquet"
        if not path.exists():
            Dataset.from_list([{"question": "2 + 2?", "answer": answer}]).to_parquet(path)
        return Dataset.from_parquet(str(path), cache_dir=str(tmp_path / "cache"))

    first, again = to_layout(load("4"), "sft"), to_layout(load("4"), "sft")
    assert first.cache_files == again.cache_files != []
    assert list(first) == list(again) == [{"prompt": USER, "completion": FOUR}]
    assert to_layout(load("4"), "grpo")[0]["solution"] == "4"
    assert to_layout(load("5"), "sft")[0]["completion"] == FIVE


FIXTURES = {
    "sft": ["conversational_language_modeling", "conversational_prompt_completion", "standard_language_modeling",
            "standard_prompt_completion"],
    "dpo": ["conversational_implicit_prompt_preference", "conversational_preference",
            "standard_implicit_prompt_preference", "standard_preference"],
    "grpo": ["conversational_prompt_only", "standard_prompt_only", "conversational_unpaired_preference",
             "standard_unpaired_preference", "standard_stepwise_supervision"],
}  # fmt: skip


@pytest.mark.shared
@pytest.mark.parametrize(("stage", "layout"), [(stage, name) for stage, names in FIXTURES.items() for name in names])
@pytest.mark.parametrize(("split", "count"), [("train", 17), ("test", 2)])
def test_every_trl_layout_converts_whole(shared: Path, stage: str, layout: str, split: str, count: int) -> None:
    rows = to_layout(read_path(shared / f"fixtures/data/sft/trl_zen/{layout}_{split}.jsonl", "train"), stage)
    assert len(rows) == count
    explicit = layout.replace("implicit_prompt_", "")
    if explicit != layout:  # the same pairs, with the prompt apart
        apart = to_layout(read_path(shared / f"fixtures/data/sft/trl_zen/{explicit}_{split}.jsonl", "train"), stage)
        for side in ("chosen", "rejected"):
            assert [row["prompt"] + row[side] for row in rows] == [row["prompt"] + row[side] for row in apart]


@pytest.mark.shared
@pytest.mark.parametrize(
    ("stage", "path", "count"),
    [
        ("sft", "sft/trl_toolcall/language_modeling_train.jsonl", 7),
        ("dpo", "sft/trl_toolcall/preference_train.jsonl", 7),
        ("sft", "sft/rasbt_instruction_data.json", 1100),
        ("sft", "sft/lf_glaive_toolcall_en_100.json", 100),
        ("dpo", "preference/lf_dpo_en_100.json", 100),
        ("grpo", "reasoning/gsm8k_train_500.jsonl", 500),
        ("grpo", "reasoning/tinyzero_countdown_500.parquet", 500),
        ("pretrain", "pretrain/tinystories_minigpt_197k.txt", 1230),
    ],
)
def test_published_files_convert_whole(shared: Path, stage: str, path: str, count: int) -> None:
    assert len(to_layout(read_path(shared / "fixtures/data" / path, "train"), stage)) == count


@pytest.mark.shared
def test_the_six_pairs_whose_sides_are_equal_are_left_out(shared: Path) -> None:
    path = shared / "fixtures/data/preference/rasbt_instruction_preference.json"
    assert sum(row["chosen"] == row["rejected"] for row in json.loads(path.read_text())) == 6
    assert len(to_layout(read_path(path, "train"), "dpo")) == 1094


@pytest.mark.shared
def test_columns_of_a_published_file_reach_the_rewards_unchanged(shared: Path) -> None:
    rows = to_layout(read_path(shared / "fixtures/data/reasoning/tinyzero_countdown_500.parquet", "train"), "grpo")
    assert rows[0]["reward_model"]["ground_truth"] == {"numbers": [44, 19, 35], "target": 98}
    assert rows[0]["nums"] == [44, 19, 35]


@pytest.mark.shared
@pytest.mark.parametrize(
    ("path", "count", "good"),
    [
        ("preference/lf_kto_en_100.json", 100, 54),
        ("preference/lf_dpo_en_100.json", 200, 100),
        ("sft/trl_zen/conversational_unpaired_preference_train.jsonl", 17, 11),
        ("sft/trl_zen/standard_unpaired_preference_train.jsonl", 17, 10),
        ("sft/trl_zen/standard_implicit_prompt_preference_train.jsonl", 34, 17),
    ],
)
def test_published_answers_have_their_label(shared: Path, path: str, count: int, good: int) -> None:
    rows = unpaired(to_layout(read_path(shared / "fixtures/data" / path, "train"), "kto"))
    assert (len(rows), sum(rows["label"])) == (count, good)
    assert rows.column_names == ["prompt", "completion", "label"]


@pytest.mark.shared
def test_pairs_become_the_rows_that_trl_makes_of_them(shared: Path) -> None:
    from trl.data_utils import unpair_preference_dataset

    source = read_path(shared / "fixtures/data/sft/trl_zen/conversational_preference_train.jsonl", "train")
    ours = [json.dumps(row, sort_keys=True) for row in unpaired(to_layout(source, "kto"))]
    assert sorted(ours) == sorted(json.dumps(row, sort_keys=True) for row in unpair_preference_dataset(source))


@pytest.mark.shared
def test_unpaired_preferences_are_refused_for_dpo(shared: Path) -> None:
    with pytest.raises(Refused, match="unpaired"):
        to_layout(read_path(shared / "fixtures/data/preference/lf_kto_en_100.json", "train"), "dpo")


def test_text_of_turns_that_is_not_read_is_told_where_few_rows_have_it(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{"messages": [{"role": "user", "content": f"{n} + 1?"}, *FOUR]} for n in range(3)]
    rows[1]["messages"][1] = FOUR[0] | {"plan": "add them up"}
    assert len(convert("sft", *rows)) == 3
    assert "in 1 of 3 rows a turn has text under 'plan', which no stage reads" in capsys.readouterr().out


BELOW = [{"role": "user", "content": "2 + 2?\n\nAdd."}]
TURN_JSON, ANSWER_JSON = '{"role": "user", "content": "2 + 2?"}', '{"role": "assistant", "content": "%s"}'


@pytest.mark.parametrize(
    ("kind", "row", "expected"),
    [
        (
            "sft",
            {"prompt": f"[{TURN_JSON}]", "completion": f"[{ANSWER_JSON % 4}]"},
            {"prompt": USER, "completion": FOUR},
        ),
        (
            "dpo",
            {"chosen": f"[{TURN_JSON}, {ANSWER_JSON % 4}]", "rejected": f"[{TURN_JSON}, {ANSWER_JSON % 5}]"},
            {"prompt": USER, "chosen": FOUR, "rejected": FIVE},
        ),
        ("grpo", {"prompt": TURN_JSON}, {"prompt": USER}),
        (
            "sft",
            {"prompt": '{"a": 1}', "completion": '[{"role": 3}]'},
            {"prompt": '{"a": 1}', "completion": '[{"role": 3}]'},
        ),
        ("grpo", {"prompt": "2 + 2?", "context": "Add."}, {"prompt": BELOW, "context": "Add."}),
        (
            "dpo",
            {"prompt": "What is 2 + 2?", "chosen": "What is 2 + 2? 4", "rejected": "What is 2 + 2? 5"},
            {"prompt": "What is 2 + 2?", "chosen": " 4", "rejected": " 5"},
        ),
        ("sft", {"instruction": "2 + 2?", "input": math.nan, "output": "4"}, {"prompt": USER, "completion": FOUR}),
    ],
)
def test_cells_and_columns_say_what_they_evidently_mean(
    kind: str, row: dict[str, Any], expected: dict[str, Any]
) -> None:
    assert convert(kind, row) == [expected]


@pytest.mark.parametrize(
    ("kind", "row", "said"),
    [
        ("sft", {"prompt": "[{'role': 'user', 'content': '?'}]", "completion": "4"}, "a conversation should be JSON"),
        ("grpo", {"prompt": USER + FOUR}, "the prompt ends with a turn of the assistant"),
        ("dpo", {"chosen": USER + FOUR, "rejected": USER}, "the rejected is empty"),
        ("sft", {"prompt": "2 + 2?", "completion": " \u200b\u2060"}, "the completion is empty"),
        ("sft", {"prompt": "2 + 2?", "completion": "</s>"}, "the completion is empty"),
        ("sft", {"messages": [*USER, {"role": "assistant", "content": "\u200b"}]}, "the assistant says nothing"),
        (
            "dpo",
            {"chosen": USER + FOUR + USER + FOUR, "rejected": USER + FOUR + SYSTEM + FIVE},
            "answer different questions",
        ),
        *(
            ("sft", {"messages": [*USER, {"role": "assistant", "content": text}]}, "it is rendered already")
            for text in (
                "hi<|end|>", "<|START_OF_TURN_TOKEN|>hi", "[|user|]hi", "<s>hi", "hi<|end_of_text|>", "<<SYS>>hi",
                "<|im_user|>hi", "<|eom_id|>", "<|header_start|>user",
            )
        ),
        (
            "sft",
            {"messages": [*USER, {"role": "assistant", "content": "hi", "reasoning_content": "<|im_start|>hm"}]},
            "it is rendered already",
        ),
    ],
)  # fmt: skip
def test_what_cells_cannot_mean_is_told(kind: str, row: dict[str, Any], said: str) -> None:
    with pytest.raises(Refused, match=said):
        convert(kind, row)


def test_pairs_that_look_the_same_are_counted(capsys: pytest.CaptureFixture[str]) -> None:
    pairs = [{"prompt": "2 + 2?", "chosen": "4", "rejected": text} for text in ("4 \u200b\n", "5")]
    assert len(to_layout(from_rows(pairs, "rows"), "dpo")) == 2
    said = " ".join(capsys.readouterr().out.split())
    assert "1 of 2 rows have answers that differ in nothing but space or what cannot be seen" in said


def test_completions_that_say_the_prompt_again_are_counted(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{"prompt": "What is 2 + 2?", "completion": text} for text in ("What is 2 + 2? 4", " 4")]
    assert len(to_layout(from_rows(rows, "rows"), "sft")) == 2
    assert "1 of 2 rows have a completion that begins with the prompt" in " ".join(capsys.readouterr().out.split())


def test_texts_that_only_begin_as_json_stay_texts() -> None:
    for text in ('{"content": "hello"}\nTurn this JSON into YAML.', '{"value": 3}', '[{"type": "text"}] is a list'):
        row = {"prompt": text, "completion": text}
        assert convert("sft", row) == [row]
        turns = [{"role": "user", "content": text}, {"role": "assistant", "content": text}]
        assert convert("sft", {"messages": turns}) == [{"messages": turns}]


def test_columns_that_are_not_read_are_known() -> None:
    rows = from_rows([{"messages": USER + FOUR, "source": "x", "id": 3, "system": "Add."}], "rows")
    assert unread_columns(rows, "sft", "rows") == (["id", "source"], [])
    assert unread_columns(from_rows([{"prompt": USER, "target": 4}], "rows"), "grpo", "rows") == ([], ["target"])


def test_the_prompt_of_whole_conversations_keeps_its_system_turn() -> None:
    row = {"prompt": SYSTEM + USER, "chosen": USER + FOUR, "rejected": USER + FIVE}
    assert convert("dpo", row) == [{"prompt": SYSTEM + USER, "chosen": FOUR, "rejected": FIVE}]


def test_of_a_labelled_answer_of_several_turns_the_last_is_the_answer() -> None:
    row = {"prompt": USER, "completion": FOUR + USER + FIVE, "label": False}
    assert convert("kto", row) == [{"prompt": USER + FOUR + USER, "completion": FIVE, "label": False}]


def test_several_or_no_answers_make_no_solution() -> None:
    rows = [{"question": "2 + 2?", "answer": answer} for answer in ("4", "", None, "so\n#### 4")]
    assert [row["solution"] for row in convert("grpo", *rows)] == ["4", None, None, "4"]


@pytest.mark.parametrize(
    ("answer", "solution"),
    [
        ({"value": "4", "aliases": ["4"]}, "4"),
        ({"value": "4", "aliases": ["four"]}, None),
        ({"text": ["4"], "answer_start": [7]}, "4"),
        ({"year": 4}, None),  # for a reward of the recipe's
        ('["4", "four"]', None),
        ('["4"]', "4"),
    ],
)
def test_answers_in_objects_and_lists_make_a_solution_where_one_is_right(answer: Any, solution: str | None) -> None:
    (row,) = convert("grpo", {"question": "2 + 2?", "answer": answer})
    assert (row["solution"], row["answer"]) == (solution, answer)


def test_a_text_is_found_in_stored_conversations() -> None:
    rows = to_layout(from_rows([{"messages": [*USER, {"role": "assistant", "content": "</think> 4"}]}], "rows"), "sft")
    assert [may_say(rows, text, "messages") for text in ("</think>", '"role"', '"weight"')] == [True, True, False]


def test_integers_of_64_bits_beside_a_prompt_are_refused() -> None:
    table = pa.table({"prompt": ["2 + 2?"], "id": pa.array([2**63], pa.uint64())})
    with pytest.raises(Refused, match="id holds integers that need 64 bits: leave it out by columns"):
        to_layout(Dataset(table), "grpo")
