"""Local files: read as they are, or refused with the file and the line."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet
import pytest

from algorithms.rewards import exact_match
from data.layouts import to_layout
from data.local_files import from_rows, read_path
from utils.errors import Refused

Write = Callable[[str, str], Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write(name: str, text: str) -> Path:
        path = tmp_path / name
        path.write_text(text, encoding="utf-8")
        return path

    return write


def test_rows_come_back_exactly_as_they_were() -> None:
    rows: list[dict[str, Any]] = [
        {"messages": [{"role": "user", "content": None}, {"role": "tool"}], "answer": "72", "nums": [1, 2], "n": 1},
        {"messages": [], "answer": None, "nums": [], "n": 0.5},
    ]
    assert list(from_rows(rows, "rows")) == rows


def test_integers_that_a_float_rounds_stay_what_they_are_beside_fractions(write: Write) -> None:
    text = "".join(f'{{"question": "?", "answer": {answer}}}\n' for answer in ("9007199254740993", "0.5", "null", "2"))
    rows = read_path(write("a.jsonl", text), "train")
    assert rows["answer"][:] == [9007199254740993, 0.5, None, 2]
    assert to_layout(rows, "grpo")["solution"][:] == ["9007199254740993", "0.5", None, "2"]
    assert exact_match(["9007199254740993", "0.5"], answer=rows["answer"][:2]) == [1.0, 1.0]


def test_a_column_of_two_kinds_is_refused_with_the_rows() -> None:
    with pytest.raises(Refused, match=r"'prompt' .*str in row 1, list in row 3"):
        from_rows([{"prompt": "a"}, {"prompt": None}, {"prompt": ["b"]}], "rows")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.jsonl", '{"text": "one"}\n\n{"text": "two\\u2028lines"}\n'),
        ("a.json", '[{"text": "one"}, {"text": "two\\u2028lines"}]'),
        ("a.csv", 'text\none\n"two\u2028lines"\n'),
        ("a.txt", "one\n\n \n\ntwo\u2028lines\n"),
    ],
)
def test_each_text_format_gives_its_rows(write: Write, name: str, text: str) -> None:
    assert list(read_path(write(name, text), "train")) == [{"text": "one"}, {"text": "two\u2028lines"}]


def test_parquet_gives_its_rows(tmp_path: Path) -> None:
    pa.parquet.write_table(pa.table({"prompt": ["a"], "nums": [[1, 2]]}), tmp_path / "a.parquet")
    assert list(read_path(tmp_path / "a.parquet", "train")) == [{"prompt": "a", "nums": [1, 2]}]


def test_csv_values_stay_text(write: Write) -> None:
    assert list(read_path(write("a.csv", "answer,n\n007,\n"), "train")) == [{"answer": "007", "n": ""}]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.jsonl", '{"text": "one"}\n{"text": \n', r"a\.jsonl, line 2: not valid JSON"),
        ("a.jsonl", '[{"text": "one"}]', r"line 1: each line is one JSON object.*named \.json\."),
        ("a.json", '{"text": "one"}\n{"text": "two"}', r"line 2: not valid JSON.*named \.jsonl\."),
        ("a.json", '{"text": "one"}', r"one JSON dict"),
        ("a.json", '[{"text": "one"}, 3]', r"item 2 of the list"),
        ("a.csv", "a,b\n1,2\n3\n", r"line 3: not the 2 fields"),
        ("a.csv", "a,b\n1,2,3\n", r"line 2: not the 2 fields"),
        ("a.parquet", "text", r"cannot be read as Parquet"),
        (
            "a.jsonl",
            '{"n": 1}\n{"n": 9223372036854775808}',
            r"line 2: column 'n' holds the integer 9223372036854775808",
        ),
        ("a.json", '[{"a": [{"n": -9223372036854775809}]}]', r"item 1 of the list: column 'a' holds the integer -92"),
        ("a.jsonl", '{"n": ' + 5000 * "9" + "}", r"line 1: not valid JSON \(Exceeds the limit"),
        ("a.json", '[{"n": ' + 5000 * "9" + "}]", r"a\.json: not valid JSON \(Exceeds the limit"),
        ("a.json", 100_000 * "[", r"a\.json: not valid JSON \(maximum recursion"),
        ("a.jsonl", '{"text": "\\ud83d?"}', r"line 1: column 'text' holds half a surrogate pair"),
        ("a.json", '[{"m": [{"content": "\\uDE00"}]}]', r"column 'm' holds half a surrogate pair"),
        ("a.csv", "a;b\n1;2\n", r"header is one column, 'a;b'.*separated by commas, not by ';'"),
        ("a.csv", "a\tb\n1\t2,5\n", r"separated by commas, not by '\\t'"),
        ("a.jsonl", "", r"no rows"),
        ("a.json", "", r"no rows"),
        ("a.parquet", "", r"no rows"),
        ("a.csv", "text\n", r"no rows"),
        ("a.txt", "\n \n", r"no rows"),
        ("a.xlsx", "text", r"'\.xlsx'.*\.jsonl"),
    ],
)
def test_a_file_that_cannot_be_read_is_refused_with_its_place(write: Write, name: str, text: str, message: str) -> None:
    with pytest.raises(Refused, match=message):
        read_path(write(name, text), "train")


def test_the_largest_integers_and_whole_surrogate_pairs_are_read(write: Write) -> None:
    path = write("a.jsonl", '{"n": 9223372036854775807, "text": "\\ud83d\\ude00", "m": [-9223372036854775808]}')
    assert list(read_path(path, "train")) == [{"n": 2**63 - 1, "text": "😀", "m": [-(2**63)]}]


def test_a_long_document_is_a_csv_value(write: Write) -> None:
    assert list(read_path(write("a.csv", f"text\n{'a' * 200_000}\n"), "train")) == [{"text": "a" * 200_000}]


def test_a_column_that_stands_twice_in_a_parquet_file_is_named(tmp_path: Path) -> None:
    table = pa.Table.from_arrays([pa.array(["a"]), pa.array(["b"])], names=["text", "text"])
    pa.parquet.write_table(table, tmp_path / "a.parquet")
    with pytest.raises(Refused, match=r"a\.parquet has 'text' twice"):
        read_path(tmp_path / "a.parquet", "train")


def test_a_broken_page_of_a_parquet_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pa.parquet.write_table(pa.table({"text": [f"line {n}" for n in range(20_000)]}), path, compression="zstd")
    content = bytearray(path.read_bytes())
    middle = len(content) // 3
    content[middle : middle + 1000] = bytes(1000)
    path.write_bytes(content)
    with pytest.raises(Refused, match=r"a\.parquet cannot be read as Parquet"):
        read_path(path, "train")


def test_bytes_that_are_no_text_are_refused_with_the_line(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"one\n\xff\xfe")
    with pytest.raises(Refused, match=r"line 2: not UTF-8.*must be saved as UTF-8"):
        read_path(tmp_path / "a.txt", "train")


def test_the_names_in_a_folder_tell_its_splits(write: Write, tmp_path: Path) -> None:
    for split in ("train", "val"):
        write(f"zen_{split}.jsonl", json.dumps({"text": split}))
    assert list(read_path(tmp_path, "train")) == [{"text": "train"}]
    assert list(read_path(tmp_path, "validation")) == [{"text": "val"}]
    with pytest.raises(Refused, match="no split 'test'; it has train, val"):
        read_path(tmp_path, "test")


def test_splits_are_told_in_any_case(write: Write, tmp_path: Path) -> None:
    for split in ("Train", "TEST"):
        write(f"{split}.csv", f"text\n{split}\n")
    assert list(read_path(tmp_path, "train")) == [{"text": "Train"}]
    assert list(read_path(tmp_path, "test")) == [{"text": "TEST"}]


def test_a_folder_where_only_some_names_tell_a_split_is_refused(write: Write, tmp_path: Path) -> None:
    for name in ("train", "more"):
        write(f"{name}.jsonl", '{"text": "a"}')
    with pytest.raises(Refused, match=r"the names of more\.jsonl tell no split, while those of train\.jsonl do"):
        read_path(tmp_path, "train")


def test_a_folder_without_splits_in_its_names_is_all_train(write: Write, tmp_path: Path) -> None:
    for name in ("b", "a"):
        write(f"{name}.jsonl", json.dumps({"text": name}))
    assert list(read_path(tmp_path, "train")) == [{"text": "a"}, {"text": "b"}]


def test_files_of_one_folder_need_the_same_columns_and_format(write: Write, tmp_path: Path) -> None:
    write("a.jsonl", '{"text": "a"}')
    write("b.jsonl", '{"prompt": "b"}')
    with pytest.raises(Refused, match=r"b\.jsonl has columns prompt, but a\.jsonl has text"):
        read_path(tmp_path, "train")
    write("b.jsonl", '{"text": "b"}')
    write("c.txt", "c")
    with pytest.raises(Refused, match=r"mixes \.jsonl, \.txt"):
        read_path(tmp_path, "train")


def test_a_single_file_has_no_other_split(write: Write) -> None:
    with pytest.raises(Refused, match=r"test\.jsonl into one folder"):
        read_path(write("a.jsonl", '{"text": "a"}'), "test")
