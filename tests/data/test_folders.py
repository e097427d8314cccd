"""Folders as people have them: every data file is read, or named."""

import bz2
import gzip
import json
import lzma
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from datasets import Dataset, DatasetDict

from data.corpus.corpus import prepare
from data.local_files import held_out_split, read_path
from data.sources import load
from utils.errors import Refused

PACK: dict[str, Callable[[bytes], bytes]] = {
    "": bytes,
    ".gz": gzip.compress,
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
    ".zst": lambda content: bytes(pa.compress(content, "zstd", asbytes=True)),
}


def rows(start: int, count: int = 20) -> bytes:
    return "".join(json.dumps({"text": f"Row {n} is here."}) + "\n" for n in range(start, start + count)).encode()


def numbers(found: Any) -> list[int]:
    return [int(row["text"].split()[1]) for row in found]


def documents(path: Path) -> int:
    corpus = prepare(str(path))
    return sum(corpus.count(split) for split in ("train", "validation", "test"))


@pytest.mark.parametrize("packing", PACK)
def test_packed_files_are_unpacked_as_they_are_read(packing: str, tmp_path: Path) -> None:
    (tmp_path / f"a.jsonl{packing}").write_bytes(PACK[packing](rows(0)))
    assert numbers(read_path(tmp_path / f"a.jsonl{packing}", "train")) == list(range(20))
    (tmp_path / f"b.csv{packing}").write_bytes(PACK[packing](b"text\nRow 7 is here.\n"))
    assert numbers(read_path(tmp_path / f"b.csv{packing}", "train")) == [7]


@pytest.mark.parametrize("packing", [name for name in PACK if name])
@pytest.mark.parametrize("cut", [0, 20])
def test_what_cannot_be_unpacked_is_refused(packing: str, cut: int, tmp_path: Path) -> None:
    file = tmp_path / f"a.jsonl{packing}"
    file.write_bytes(PACK[packing](rows(0))[:-cut] if cut else b"{}\n" * 20)
    with pytest.raises(Refused, match=f"cannot be unpacked .* really {packing}, and complete"):
        read_path(file, "train")


def test_a_folder_is_read_to_its_ends_by_every_stage(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, elsewhere = tmp_path / "data", tmp_path / "elsewhere"
    for directory in (folder / "deep/er", folder / ".cache/huggingface", folder / "__MACOSX", elsewhere):
        directory.mkdir(parents=True)
    (folder / "a.jsonl").write_bytes(rows(0))
    (folder / "B.JSONL").write_bytes(rows(20))
    (folder / "c.jsonl.gz").write_bytes(gzip.compress(rows(40)))
    (folder / "deep/er/d.Jsonl.GZ").write_bytes(gzip.compress(rows(60)))
    (elsewhere / "e.jsonl").write_bytes(rows(80))
    (folder / "linked").symlink_to(elsewhere)
    (folder / "deep/back").symlink_to(folder)  # a circle
    for name in ("._a.jsonl", ".cache/huggingface/f.jsonl", "__MACOSX/g.jsonl"):
        (folder / name).write_bytes(b"\x00\x05\x16\x07")
    for name in ("README.md", "dataset_infos.json", "LICENSE", ".gitattributes", "_SUCCESS", "Thumbs.db"):
        (folder / name).write_text("{}")
    (folder / "picture.png").touch()
    assert sorted(numbers(read_path(folder, "train"))) == list(range(100))
    assert documents(folder) == 100
    said = capsys.readouterr().out
    assert "1 files are no data and are not read: picture.png" in said.replace("\n", " ")
    data = load(str(folder), "sft", eval_fraction=0.2)
    assert len(data.train) + len(data.eval) == 100
    (elsewhere / "more.jsonl").write_bytes(rows(100))  # seen, though the folder itself is as it was
    assert load(str(folder), "sft", eval_fraction=0.2).info["train_rows"] > len(data.train)


def test_a_folder_without_data_says_what_it_has(tmp_path: Path) -> None:
    (tmp_path / "notes.md").write_text("# Notes")
    (tmp_path / "rows.jsonl.zip").touch()
    for read in (lambda: read_path(tmp_path, "train"), lambda: prepare(str(tmp_path))):
        with pytest.raises(Refused, match=r"has no data files .* packed as .*: it has notes\.md, rows\.jsonl\.zip"):
            read()


def test_names_of_folders_tell_splits(tmp_path: Path) -> None:
    for number, split in enumerate(("train", "test")):
        (tmp_path / split).mkdir()
        (tmp_path / split / "rows-00000.jsonl").write_bytes(rows(20 * number))
    assert numbers(read_path(tmp_path, "test")) == list(range(20, 40))
    assert held_out_split(tmp_path, "train") == "test"


README = """---
configs:
- config_name: default
  data_files:
  - split: train
    path: "main/train-*"
  - split: validation
    path: ["main/held.jsonl"]
- config_name: other
  data_files: "other/*.jsonl"
---
# A data set
"""


def test_files_that_a_readme_does_not_list_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "README.md").write_text("---\nconfigs:\n- config_name: default\n  data_files: a.jsonl\n---\n")
    for number, name in enumerate(("a.jsonl", "b.jsonl")):
        (tmp_path / name).write_bytes(rows(20 * number, 40))
    load(str(tmp_path), "sft", eval_fraction=0.2)
    assert capsys.readouterr().out.count("1 files are not in what README.md lists, and not read: b.jsonl") == 1
    prepare(str(tmp_path))
    assert "and not read: b.jsonl" in capsys.readouterr().out


def test_a_cloned_data_set_is_read_as_its_readme_lists_it(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text(README)
    for number, name in enumerate(("main/train-0.jsonl", "main/train-1.jsonl", "main/held.jsonl", "other/x.jsonl")):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(rows(20 * number))
    assert numbers(read_path(tmp_path, "train")) == list(range(40))
    assert held_out_split(tmp_path, "train") == "validation"
    assert numbers(read_path(tmp_path, "validation")) == list(range(40, 60))
    assert numbers(read_path(tmp_path, "train", config_name="other")) == list(range(60, 80))
    with pytest.raises(Refused, match="no configuration 'othr', did you mean 'other'"):
        read_path(tmp_path, "train", config_name="othr")
    (tmp_path / "README.md").write_text(README.replace("default", "first"))
    with pytest.raises(Refused, match=r"several configurations.* first, other as dataset_config_name"):
        read_path(tmp_path, "train")
    (tmp_path / "README.md").write_text(README.replace("train-*", "missing-*"))
    with pytest.raises(Refused, match=r"lists main/missing-\*, and no such file is there"):
        read_path(tmp_path, "train")


@pytest.mark.parametrize(
    ("files", "found"),
    [
        ("data_files: {train: main/train-*, test: main/held.jsonl}", list(range(40))),
        ("data_dir: main", list(range(60))),
        ("data_dir: main\n  data_files: 'train-*'", list(range(40))),
        ("data_files: '*.jsonl'", [80 + n for n in range(20)]),  # a star stays in its folder
        ("data_files: '**/*.jsonl'", list(range(100))),
        ("data_files: [./main/train-0.jsonl, main/held.jsonl]", [*range(40, 60), *range(20)]),
    ],
)
def test_a_readme_lists_files_as_the_hub_reads_it(files: str, found: list[int], tmp_path: Path) -> None:
    (tmp_path / "readme.md").write_text(f"---\nconfigs:\n- config_name: 2024\n  {files}\n---\n")
    names = ("main/train-0.jsonl", "main/train-1.jsonl", "main/held.jsonl", "other/x.jsonl", "y.jsonl")
    for number, name in enumerate(names):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(rows(20 * number))
    assert sorted(numbers(read_path(tmp_path, "train", config_name="2024"))) == sorted(found)


@pytest.mark.parametrize(
    "listed", ["configs: 3", "configs:\n- config_name: a\n  data_files:\n  - split: x", "configs: [a]"]
)
def test_a_readme_that_lists_nothing_is_passed_over(listed: str, tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text(f"---\n{listed}\n---\n")
    (tmp_path / "a.jsonl").write_bytes(rows(0))
    assert len(read_path(tmp_path, "train")) == 20


def test_names_that_only_begin_as_those_beside_data_are_data(tmp_path: Path) -> None:
    for number, name in enumerate(("citations.jsonl", "license_texts.ndjson", "readme-notes.jsonl")):
        (tmp_path / name).write_bytes(rows(20 * number))
    assert len(read_path(tmp_path, "train")) == 60


def test_a_folder_that_ends_as_a_file_is_a_folder(tmp_path: Path) -> None:
    (tmp_path / "train.jsonl").mkdir()
    (tmp_path / "train.jsonl/part-0.jsonl").write_bytes(rows(0))
    assert len(read_path(tmp_path, "train")) == 20


@pytest.mark.parametrize("several", [False, True])
def test_what_save_to_disk_wrote_is_read(several: bool, tmp_path: Path) -> None:
    train, test = (Dataset.from_list([json.loads(line) for line in rows(start).splitlines()]) for start in (0, 20))
    (DatasetDict(train=train, test=test) if several else train).save_to_disk(tmp_path / "saved")
    assert numbers(read_path(tmp_path / "saved", "train")) == list(range(20))
    assert held_out_split(tmp_path / "saved", "train") == ("test" if several else None)
    if several:
        assert numbers(read_path(tmp_path / "saved", "test")) == list(range(20, 40))
    assert documents(tmp_path / "saved") == (40 if several else 20)
    with pytest.raises(Refused, match="holds folders that save_to_disk wrote, saved: name one"):
        read_path(tmp_path, "train")
    next((tmp_path / "saved").rglob("*.arrow")).write_bytes(b"cut")
    with pytest.raises(Refused, match="was written by save_to_disk, and cannot be read"):
        read_path(tmp_path / "saved", "train")


def test_a_column_that_is_null_in_one_shard_goes_with_any_type(tmp_path: Path) -> None:
    def write(name: str, **columns: Any) -> None:
        pa.parquet.write_table(pa.table(columns), tmp_path / name)

    write("0.parquet", text=["Row 0 is here."], source=pa.nulls(1), tags=pa.array([None], pa.list_(pa.null())))
    write("1.parquet", text=["Row 1 is here."], source=["web"], tags=[["a"]])
    found = read_path(tmp_path, "train")
    assert (numbers(found), found["source"][:], found["tags"][:]) == ([0, 1], [None, "web"], [None, ["a"]])
    write("2.parquet", text=["Row 2 is here."], source=[7], tags=[["a"]])
    with pytest.raises(Refused, match="has other columns or types"):
        read_path(tmp_path, "train")


@pytest.mark.parametrize("suffix", [".parquet", ".jsonl"])
def test_a_shard_without_rows_is_named_and_passed_over(
    suffix: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, lines in (("0", b""), ("1", rows(0)), ("2", rows(20))):
        if suffix == ".parquet":
            table = pa.table({"text": [json.loads(line)["text"] for line in lines.splitlines()]})
            pa.parquet.write_table(table, tmp_path / f"{name}.parquet")
        else:
            (tmp_path / f"{name}.jsonl").write_bytes(lines)
    assert numbers(read_path(tmp_path, "train")) == list(range(40))
    assert f"1 of 3 files have no rows: {tmp_path / f'0{suffix}'}" in " ".join(capsys.readouterr().out.split())
    for name in "12":
        (tmp_path / f"{name}{suffix}").unlink()
    with pytest.raises(Refused, match="has no rows"):
        read_path(tmp_path, "train")


def test_shards_of_the_hub_keep_the_whole_name_of_their_split(tmp_path: Path) -> None:
    for start, split in ((0, "train_sft"), (20, "train_gen"), (40, "test_sft")):
        (tmp_path / f"{split}-00000-of-00001.jsonl").write_bytes(rows(start))
    assert numbers(read_path(tmp_path, "train_sft")) == list(range(20))
    with pytest.raises(Refused, match="no split 'train'; it has test_sft, train_gen, train_sft"):
        read_path(tmp_path, "train")
    with pytest.raises(Refused, match="none of them train"):
        documents(tmp_path)


def test_lines_of_the_end_of_text_end_documents(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    stories = [f"Story {n} begins.\n\nIt ends, too." for n in range(60)]
    (tmp_path / "stories.txt").write_text("\n<|endoftext|>\n".join(stories) + "\n<|endoftext|>\n")
    assert [row["text"] for row in read_path(tmp_path / "stories.txt", "train")] == stories
    assert documents(tmp_path / "stories.txt") == 60
    assert "lines of <|endoftext|> end its documents" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("text", "documents"),
    [
        ("One.\n\nMore.<|endoftext|>\nTwo.<|endoftext|>", ["One.\n\nMore.", "Two."]),
        ("<|endoftext|>One.\n\nMore.\n<|endoftext|>Two.", ["One.\n\nMore.", "Two."]),
        ("One.\n<|endoftext|>\nTwo.\n</s>\nThree.", ["One.", "Two.", "Three."]),
        ("<|endoftext|>One.<|endoftext|>\n<|endoftext|>Two.<|endoftext|>", ["One.", "Two."]),
        ("<s>One.\n\nMore.</s>\n<s>Two.</s>\n<s>Three.</s>", ["One.\n\nMore.", "Two.", "Three."]),
        ("He paid <s>ten</s> nine.\n\n<s>old</s>\n<s>new</s>\n", None),
        ("<s>One.\n\nMore.</s>\n<s>Two.\n\nMore.</s>\n", ["One.\n\nMore.", "Two.\n\nMore."]),
        ("One.\n[EOS]\nTwo.\n[EOS]\n", ["One.", "Two."]),
        ("One </s> here.\n</s>\nTwo.\n</s>\n", ["One </s> here.", "Two."]),
        ("Texts end with <|endoftext|>\nin GPT-2.\n\nMore.", ["Texts end with <|endoftext|>\nin GPT-2.", "More."]),
        ("It writes <|endoftext|> so.\n\n<|endoftext|> is one\ntoken, <|endoftext|>\n", None),
    ],
)
def test_a_mark_ends_documents_where_it_evidently_does(text: str, documents: list[str] | None, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text(text)
    found = [row["text"] for row in read_path(tmp_path / "a.txt", "train")]
    assert found == (documents or [part.strip("\n") for part in text.split("\n\n")])


@pytest.mark.parametrize(
    ("content", "meant"),
    [
        ({"version": "1", "data": [{"text": "a"}]}, "Its list 'data' looks like the rows"),
        ({"prompt": {"0": "a", "1": "b"}, "completion": {"0": "c", "1": "d"}}, r"to_json\(orient='records'\)"),
        ({"prompt": ["a", "b"], "completion": ["c", "d"]}, r"to_json\(orient='records'\)"),
        ({"text": "a"}, "should be a list of objects"),
    ],
)
def test_json_that_is_no_list_is_told_from_what_it_looks_like(content: Any, meant: str, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(json.dumps(content))
    with pytest.raises(Refused, match=meant):
        read_path(tmp_path / "a.json", "train")
