"""Documents: where they come from, what is left out, and that no split has what another has."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet
import pytest

from data import made
from data.corpus.corpus import Corpus, prepare
from data.corpus.documents import Options
from data.splits import normalised, position
from tests.data.corpus.conftest import Write, tales
from utils.errors import Refused

SPLITS = ("train", "validation", "test")


def documents(corpus: Corpus, split: str, part: int = 0) -> list[str]:
    return list(corpus.parts[part].store.texts(split).texts())


def everything(corpus: Corpus) -> list[str]:
    return [text for split in SPLITS for text in documents(corpus, split)]


def test_documents_are_split_by_their_hash_and_none_is_lost(write: Write) -> None:
    corpus = prepare(str(write("a.txt", tales(1000))))
    assert sorted(everything(corpus)) == sorted(tales(1000))
    for split, low, high in (("test", 0, 0.01), ("validation", 0.01, 0.11), ("train", 0.11, 1)):
        found = documents(corpus, split)
        assert found
        assert all(low <= position(text) < high for text in found)
    assert corpus.info["parts"][0]["overlap"] == {"train/validation": 0, "train/test": 0, "validation/test": 0}


def test_the_order_and_names_of_files_do_not_change_the_split(write: Write, tmp_path: Path) -> None:
    texts = tales(300)
    for folder, order in (("one", texts), ("other", texts[::-1])):
        for number in range(3):
            write(f"{folder}/{number}.txt", order[number * 100 : number * 100 + 100])
    one, other = (prepare(str(tmp_path / folder)) for folder in ("one", "other"))
    for split in SPLITS:
        assert sorted(documents(one, split)) == sorted(documents(other, split))
        assert documents(one, split) != documents(other, split) or split == "test"


def test_empty_and_repeated_documents_are_counted_and_left_out(tmp_path: Path) -> None:
    rows = [{"text": text} for text in [*tales(100), *tales(7), "", " \n ", None]]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    corpus = prepare(str(tmp_path / "a.jsonl"))
    assert sorted(everything(corpus)) == sorted(tales(100))
    assert corpus.info["parts"][0]["left_out"] == {"empty": 3, "duplicates": 7, "held_out": 0}
    assert "3 empty, 7 repeated, 0 held out elsewhere; 0 in two splits" in corpus.lines()[0]


def test_byte_order_marks_and_carriage_returns_are_no_part_of_a_document(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbf" + "\r\n\r\n".join(f"{t}\r\nend" for t in tales(100)).encode())
    (tmp_path / "b.jsonl").write_text(json.dumps({"text": "\ufeffmarked\r\ninside"}))
    found = everything(prepare(str(tmp_path)))
    assert sorted(found) == sorted([*(f"{text}\nend" for text in tales(100)), "marked\ninside"])


def test_published_splits_are_kept_and_training_documents_among_them_dropped(write: Write, tmp_path: Path) -> None:
    write("d/train.txt", [*tales(100), "TALE  7: word7 word14 word21 word28 word35 word42 word49 word56"])
    write("d/val.txt", tales(10, start=95))
    corpus = prepare(str(tmp_path / "d"))
    assert documents(corpus, "validation") == tales(10, start=95)
    assert set(documents(corpus, "train")) | set(documents(corpus, "test")) == set(tales(95)) | {
        "TALE  7: word7 word14 word21 word28 word35 word42 word49 word56"
    }
    assert all(position(text) < 0.01 for text in documents(corpus, "test"))  # not published: held out by hash
    assert corpus.info["parts"][0]["left_out"]["held_out"] == 5


def test_a_training_document_like_a_published_held_out_one_but_for_case_and_spaces_is_dropped(
    write: Write, tmp_path: Path
) -> None:
    write("d/train.txt", [*tales(50), "THE   secret"])
    write("d/validation.txt", ["The secret"])
    corpus = prepare(str(tmp_path / "d"))
    assert corpus.info["parts"][0]["left_out"]["held_out"] == 1
    assert "THE   secret" not in everything(corpus)


def test_what_one_part_holds_out_no_other_part_trains_on(write: Write, tmp_path: Path) -> None:
    write("d/train.txt", tales(100))
    write("d/validation.txt", tales(20, start=200))
    write("d/test.txt", tales(5, start=220))
    notes = write("notes.txt", tales(100, start=180))
    corpus = prepare(f"{tmp_path / 'd'}:0.5,{notes}:0.5")
    trained = {corpus.parts[1].store.texts("train").text(index) for index in corpus.parts[1].train}
    held = {normalised(text) for split in ("validation", "test") for text in documents(corpus, split)}
    assert not {normalised(text) for text in trained} & held
    assert trained == {text for text in documents(corpus, "train", 1) if normalised(text) not in held}
    assert (
        corpus.parts[1].held_out_elsewhere == len(set(documents(corpus, "train", 1)) & set(tales(25, start=200))) > 10
    )


def test_a_share_of_the_training_documents_is_nested_and_leaves_the_rest_alone(write: Write) -> None:
    path = str(write("a.txt", tales(2000)))
    small, large, whole = (prepare(path, data_fraction=share) for share in (0.1, 0.5, 1.0))
    chosen = [set(corpus.parts[0].train.tolist()) for corpus in (small, large, whole)]
    assert chosen[0] < chosen[1] < chosen[2]
    assert len(chosen[0]) / len(chosen[2]) == pytest.approx(0.1, abs=0.03)
    assert documents(small, "validation") == documents(whole, "validation")
    every = len(small.parts[0].train) // 5
    assert list(small.training_texts(5)) == [
        small.parts[0].store.texts("train").text(i) for i in small.parts[0].train[::every][:5]
    ]


def test_a_tokenizer_is_shown_every_file_of_a_folder(tmp_path: Path) -> None:
    folder = tmp_path / "texts"
    folder.mkdir()
    for name, word in (("a", "first"), ("b", "second"), ("c", "third")):
        (folder / f"{name}.txt").write_text("\n\n".join(f"{word} {number}" for number in range(400)))
    shown = list(prepare(str(folder)).training_texts(30))
    assert len(shown) == 30
    assert {text.split()[0] for text in shown} == {"first", "second", "third"}
    assert len(list(prepare(str(folder)).training_texts(10_000))) > 1000  # all, where fewer are there


@pytest.mark.parametrize("fraction", [0, -0.1, 1.0001, float("nan")])
def test_a_fraction_outside_0_to_1_is_refused_before_anything_is_read(fraction: float, cache_root: Path) -> None:
    with pytest.raises(Refused, match="data_fraction"):
        prepare("nowhere.txt", data_fraction=fraction)
    assert not cache_root.exists()


def test_a_second_start_reads_nothing(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    path = str(write("a.txt", tales(100)))
    first = prepare(path)
    monkeypatch.setattr("data.corpus.store._write", None)
    assert prepare(path).info == first.info
    write("a.txt", tales(101))
    with pytest.raises(TypeError):  # the content has changed, so it is read again
        prepare(path)


def test_a_named_separator_parts_documents_wherever_it_stands(write: Write) -> None:
    texts = [f"{text}\n\nsecond paragraph" for text in tales(100)]
    path = write("a.txt", "<|endoftext|>".join(texts) + "<|endoftext|>\n<|endoftext|>")
    corpus = prepare(str(path), Options(separator="<|endoftext|>"))
    assert sorted(everything(corpus)) == sorted(texts)
    assert corpus.info["parts"][0]["left_out"]["empty"] == 1


def test_folders_are_read_whole_but_not_what_is_hidden(write: Write, tmp_path: Path) -> None:
    write("n/a.txt", tales(40))
    write("n/deep/b.txt", tales(40, start=40))
    write("n/.git/c.txt", tales(40, start=80))
    pa.parquet.write_table(pa.table({"text": tales(40, start=120), "id": range(40)}), tmp_path / "n" / "d.parquet")
    assert sorted(everything(prepare(str(tmp_path / "n")))) == sorted([*tales(80), *tales(40, start=120)])


def test_every_row_is_read_by_its_own_columns(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def turns(n: int) -> list[dict[str, str]]:
        return [{"role": "user", "content": f"Add {n}."}, {"role": "assistant", "content": f"It is {n}."}]

    rows = [{"messages": turns(n), "note": "a"} | ({"system": "Be kind."} if n else {}) for n in range(40)]
    rows += [{"text": f"A tale of {n}."} for n in range(40)]
    rows += [{"messages": json.dumps(turns(n))} for n in range(40, 60)]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = everything(prepare(str(tmp_path / "a.jsonl")))
    assert len(found) == 100
    assert sum("Be kind." in text for text in found) == 39
    assert sum("<|im_start|>user\nAdd" in text for text in found) == 60
    assert "pretrain does not read note" in capsys.readouterr().out


def test_a_name_of_a_column_that_is_nowhere_is_refused(tmp_path: Path) -> None:
    rows = ({"text": text, "body": "b"} for text in tales(40))
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(Refused, match=r"columns names 'bdy', .* did you mean 'body'"):
        everything(prepare(str(tmp_path / "a.jsonl"), Options(columns=(("text", "bdy"),))))


def test_turns_that_are_rendered_already_are_refused(tmp_path: Path) -> None:
    turns = [{"role": "user", "content": "?"}, {"role": "assistant", "content": "<|im_start|>assistant\n!<|im_end|>"}]
    (tmp_path / "a.jsonl").write_text(json.dumps({"messages": turns}) + "\n")
    with pytest.raises(Refused, match="row 1: a turn holds tags of a chat template"):
        everything(prepare(str(tmp_path / "a.jsonl")))


def test_conversations_are_rendered_by_the_projects_template(tmp_path: Path) -> None:
    turns = [
        {"from": "system", "value": "Use <tools>\n[add]\n</tools>."},
        {"from": "human", "value": "Add."},
        {"from": "gpt", "value": "<think>1+1</think>\n<tool_call>\n{}\n</tool_call>"},
        {"from": "tool", "value": "<tool_response>\n2\n</tool_response>"},
        {"from": "gpt", "value": "2"},
    ]
    listed, unlisted = ({"conversations": each, "tools": '[{"name": "add"}]'} for each in (turns, turns[1:]))
    fillers = (
        {"conversations": [{"from": "human", "value": text}, {"from": "gpt", "value": text}]} for text in tales(80)
    )
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in [listed, unlisted, *fillers]))
    found = [text for text in everything(prepare(str(tmp_path / "a.jsonl"))) if "Add." in text]
    common = (
        "<|im_start|>user\nAdd.<|im_end|>\n"
        "<|im_start|>assistant\n<think>1+1</think>\n<tool_call>\n{}\n</tool_call><|im_end|>\n"
        "<|im_start|>user\n<tool_response>\n2\n</tool_response><|im_end|>\n"
        "<|im_start|>assistant\n2<|im_end|>\n"
    )
    tools = '<tools>\n{"type": "function", "function": {"name": "add"}}\n</tools>'
    assert sorted(found) == sorted(
        [
            f"<|im_start|>system\nUse <tools>\n[add]\n</tools>.<|im_end|>\n{common}",
            f"<|im_start|>system\n{tools}<|im_end|>\n{common}",
        ]
    )


def test_made_documents_are_the_generators_own_on_both_sides() -> None:
    corpus = prepare("made:documents", Options(made_train=300, made_held_out=20, seed=1))
    for split, side, count in (("train", "train", 300), ("validation", "eval", 20)):
        assert documents(corpus, split) == [row["text"] for row in made.rows("documents", side, count, 1)]
    assert documents(corpus, "test") == []


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("empty.txt", b"", "has no documents: it is empty"),
        ("blank.txt", b"\n \n\n", "has no documents"),
        ("one.txt", b"just one line\n", "1 documents, and none of them to validate on"),
        ("latin.txt", "caf\xe9\n\ntwo".encode("latin-1"), r"latin.txt, line 1: not UTF-8 text"),
        ("deep.jsonl", b'{"text": "a"}\n{"text": "\xff"}\n', r"deep.jsonl, line 2: not UTF-8 text"),
        ("binary.txt", b"PK\x03\x04\0\0\0", "binary file"),
        ("binary.parquet", b"PK\x03\x04\0\0\0", "cannot be read as Parquet"),
        ("model.bin", b"12", "has suffix '.bin'"),
        ("numbers.jsonl", b'{"n": 1}\n', "has no text: its columns are n"),
        ("near.jsonl", b'{"texts": "a"}\n', "did you mean 'text'"),
        ("kinds.jsonl", b'{"text": "a"}\n{"text": 3}\n', "row 2: text must be text, not the int 3"),
        ("chat.jsonl", b'{"messages": [{"role": "wizard", "content": "a"}]}\n', "row 1: the role 'wizard'"),
    ],
)
def test_bad_files_are_one_message_and_leave_nothing(
    tmp_path: Path, cache_root: Path, name: str, content: bytes, message: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(Refused, match=message):
        prepare(str(tmp_path / name))
    assert not [path for path in cache_root.rglob("*") if path.is_file()]


@pytest.mark.parametrize("name", ["nowhere.txt", "enwik9", "made:prompts", "folder"])
def test_what_is_not_there_is_refused(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    with pytest.raises(Refused, match=r"there is no|has no data files"):
        prepare(name)


def test_an_unreadable_file_is_refused(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write("a.txt", tales(10))

    def denied(*_: Any, **__: Any) -> Any:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "open", denied)
    with pytest.raises(Refused, match=r"a\.txt cannot be read: Permission denied"):
        prepare(str(path))


def test_a_mixture_is_looked_for_as_a_whole_before_any_of_it_is_read(write: Write, cache_root: Path) -> None:
    with pytest.raises(Refused, match=r"no data .*nowhere\.txt"):
        prepare(f"{write('a.txt', tales(100))}:0.5,nowhere.txt:0.5")
    assert not cache_root.exists()
