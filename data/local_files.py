"""Local data files: .jsonl .json .csv .parquet .txt, one file or a folder of one kind of them, as a Dataset."""

import csv
import io
import json
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import groupby, islice
from pathlib import Path
from typing import Any, TextIO

import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Dataset, Features, Json, Value, concatenate_datasets
from datasets.exceptions import DatasetGenerationError

from data.faults import Faults
from utils import strict_json
from utils.errors import Refused
from utils.hub import DATA_SUFFIXES
from utils.strict_json import Reader, parts
from utils.values import shown

Row = dict[str, Any]

SPLIT_IN_NAME = re.compile(r"(?:^|[._-])(train|test|validation|valid|val|dev|eval)(?:[._-]|$)", re.IGNORECASE)
MOST_LOOKED_AT = 1 << 20  # characters of the first line of a .csv in which JSON is looked for
HELD_OUT = ("validation", "test")
"""Splits that hold out, the one to be preferred first."""
ALIASES = {"valid": "validation", "val": "validation", "dev": "validation", "eval": "validation"}
SCALARS = {str: "string", bool: "bool", int: "int64", float: "float64"}
Broken = Callable[[Path, str, str, str], None]
"""Takes a row that cannot be read: its file, its place, what it has in common with others, what is wrong with it."""
SIGNATURES = (
    (b"PAR1", "Parquet, which is named .parquet"),
    (b"PK\x03\x04", "a binary file, a ZIP archive as Excel's .xlsx are"),
    (b"\x1f\x8b", "gzip: unpack it"),
    (b"BZh", "bzip2: unpack it"),
    (b"\x28\xb5\x2f\xfd", "Zstandard: unpack it"),
    (b"\xfd7zXZ", "xz: unpack it"),
    (b"%PDF", "a PDF"),
    (b"SQLite format 3", "an SQLite database"),
    (b"ARROW1", "an Arrow file"),
    (b"\xff\xfe", "UTF-16: save it as UTF-8"),
    (b"\xfe\xff", "UTF-16: save it as UTF-8"),
    (b"version https://git-lfs", "a Git LFS pointer: run git lfs pull"),
)
"""How files of other formats begin, and what to say of them."""
UNDECODABLE = re.compile("[\udc80-\udcff]")
"""What stands for a byte that is no UTF-8 where it is decoded with `surrogateescape`."""
MAYBE_UNSTORABLE = re.compile(r"\d{19}|\\u[dD][89a-fA-F]|\\u0000")
"""In JSON, what can be an integer of more than 64 bits, half a surrogate pair, or a column that no table can have."""


def read_path(path: Path, split: str, faults: Faults | None = None) -> Dataset:
    """Return the rows of a file or folder, in order.

    In a folder whose file names all tell splits (`train.jsonl`, `zen_test.jsonl`), `split` chooses; a single file, or a
    folder whose names tell none, is all `train`. CSV values stay text. Text files give one `text` row a paragraph. Rows
    that cannot be read are left out and counted in `faults`; without it the first is refused.

    Raises:
        Refused: nothing that can be read, a file that is not what its suffix says, or no such split.
    """
    files = _files_of(path, split)
    suffix = files[0].suffix
    if empty := next((file for file in files if not file.stat().st_size), None):
        raise _no_rows(empty)
    if suffix == ".parquet":
        tables = [_parquet(file) for file in files]
        for file, table in zip(files, tables, strict=True):
            if table.features != tables[0].features:
                raise Refused(f"{file} has other columns or types than {files[0]}: name one file, not the folder.")
        return concatenate_datasets(tables)

    def count(file: Path, where: str, reason: str, message: str) -> None:
        assert faults is not None
        faults.add(reason, where if len(files) == 1 else f"{file.name} {where}", message)

    rows: list[Row] = []
    for file in files:
        more = list(READERS[suffix](file, refuse if faults is None else count))
        if not more:
            if faults is not None:
                faults.judge(faults.count + len(rows))
            raise _no_rows(file)
        if rows and set(more[0]) != set(rows[0]):
            raise Refused(
                f"{file} has columns {', '.join(more[0])}, but {files[0].name} has {', '.join(rows[0])}: "
                f"name one of the files instead of the folder {path}."
            )
        rows += more
    return from_rows(rows, str(path), faults)


def held_out_split(path: Path, split: str) -> str | None:
    """Return which split other than `split` a folder holds out, by the names of its files; None if it has none."""
    found = set(_splits(_data_files(path)).values()) if path.is_dir() else set()
    return next((name for name in HELD_OUT if name in found - {ALIASES.get(split, split)}), None)


def from_rows(rows: list[Row], name: str, faults: Faults | None = None) -> Dataset:
    """Return rows as a Dataset that gives back exactly their values; objects and lists are stored as JSON.

    Where a column holds values of different kinds, the rows that have not the commonest are left out and counted in
    `faults`; without it that is refused.

    Raises:
        Refused: a column holds values of different kinds.
    """
    features: dict[str, Any] = {}
    odd: dict[int, str] = {}
    for column in dict.fromkeys(column for row in rows for column in row):
        numbers = _numbers_by_type(column, rows)
        usual = max(numbers, key=lambda kind: len(numbers[kind]), default=str)
        features[column] = Json() if usual in (dict, list) else Value(SCALARS[usual])
        if len(numbers) > 1:
            types = ", ".join(f"{kind.__name__} in row {places[0]}" for kind, places in numbers.items())
            message = f"column {column!r} holds values of different kinds ({types})"
            if faults is None:
                raise Refused(f"{name}: {message}. Make them all one kind.")
            odd |= {number: message for kind, places in numbers.items() if kind is not usual for number in places}
    for number, message in odd.items():
        assert faults is not None
        faults.add("a value of another kind than most of its column", f"row {number}", message)
    rows = [row for number, row in enumerate(rows, 1) if number not in odd] if odd else rows
    columns = {column: [row.get(column) for row in rows] for column in features}
    return Dataset.from_dict(columns, features=Features(features))


def _numbers_by_type(column: str, rows: list[Row]) -> dict[type, list[int]]:
    """Return the numbers of the rows that hold each type of value; objects and lists are one, and so are numbers."""
    numbers: dict[type, list[int]] = {}
    for number, row in enumerate(rows, 1):
        numbers.setdefault(type(row.get(column)), []).append(number)
    numbers.pop(type(None), None)
    for stored, others in ((list, dict), (float, int)):
        if stored in numbers and others in numbers:
            numbers[stored] = sorted(numbers[stored] + numbers.pop(others))
    return numbers


def _no_rows(file: Path) -> Refused:
    return Refused(f"{file} has no rows. Check that it was written completely.")


def _files_of(path: Path, split: str) -> list[Path]:
    accepted = " ".join(DATA_SUFFIXES)
    if path.is_file():
        if path.suffix not in DATA_SUFFIXES:
            raise Refused(f"{path} has suffix {path.suffix!r}; data files are {accepted}.")
        if split != "train":
            raise Refused(
                f"{path} is a single file, which has only the split 'train', not {split!r}: put train{path.suffix} and "
                f"{split}{path.suffix} into one folder, and name the folder."
            )
        return [path]
    if not path.is_dir():
        raise Refused(f"{path} is neither a file nor a folder that can be read: name one of them.")
    files = _data_files(path)
    if other := next((file for file in files if not file.is_file()), None):
        what = "a link to nothing" if other.is_symlink() and not other.exists() else "no file"
        raise Refused(f"{other} is {what}, though its name is that of a data file: take it out, or name one file.")
    if not files:
        raise Refused(f"{path} has no data files ({accepted}) directly inside. Name a folder that has, or one file.")
    named = named_splits(path, files)
    if named:
        files = named.get(ALIASES.get(split, split), [])
    if not files or (not named and split != "train"):
        found = sorted(named) or ["train"]
        raise Refused(
            f"{path} has no split {split!r}; it has {', '.join(found)} (by the names of its files). Name one of them "
            "with dataset_split or eval_split, or name a single file."
        )
    if len({file.suffix for file in files}) > 1:
        raise Refused(f"{path} mixes {', '.join(sorted({file.suffix for file in files}))}: name one file, or one kind.")
    return files


def _data_files(folder: Path) -> list[Path]:
    with readable(folder):
        return sorted(file for file in folder.iterdir() if file.suffix in DATA_SUFFIXES)


@contextmanager
def readable(path: Path) -> Iterator[None]:
    """Refuse a path that the system does not let us read."""
    try:
        yield
    except OSError as error:
        raise Refused(f"{path} cannot be read: {error.strerror}.") from None


def named_splits(path: Path, files: Sequence[Path]) -> dict[str, list[Path]]:
    """Return the files of the folder `path` by the split that each name tells; nothing if none tells any.

    Raises:
        Refused: some names tell a split and others do not.
    """
    named = _splits(files)
    if named and len(named) < len(files):
        unnamed = ", ".join(file.name for file in files if file not in named)
        raise Refused(
            f"in {path}, the names of {unnamed} tell no split, while those of "
            f"{', '.join(file.name for file in named)} do: put a split into every name, or into none."
        )
    by_split: dict[str, list[Path]] = {}
    for file, split in named.items():
        by_split.setdefault(split, []).append(file)
    return by_split


def _splits(files: Sequence[Path]) -> dict[Path, str]:
    """Return the split that each file's name tells; without the files whose names tell none."""
    found = {file: match[1].lower() for file in files if (match := SPLIT_IN_NAME.search(file.stem))}
    return {file: ALIASES.get(name, name) for file, name in found.items()}


@contextmanager
def _opened(file: Path) -> Iterator[TextIO]:
    """Open a UTF-8 text file, its BOM skipped; what cannot be read is refused while it is read."""
    if other := _other_format(file):
        raise Refused(f"{file} is no {file.suffix} file: it looks like {other}.")
    try:
        with readable(file), file.open(encoding="utf-8-sig") as text:
            yield text
    except UnicodeDecodeError as error:
        with file.open(encoding="utf-8", errors="surrogateescape", newline="\n") as text:
            numbers = [number for number, line in enumerate(text, 1) if UNDECODABLE.search(line)]
        more = f" (and {len(numbers) - 1} more lines)" if len(numbers) > 1 else ""
        raise Refused(
            f"{file}, line {numbers[0]}{more}: not UTF-8 text ({error.reason}). Text in another encoding must be saved "
            "as UTF-8."
        ) from None


def _other_format(file: Path) -> str | None:
    """Return what a file that should be text is instead, by how it begins; None if it may be text."""
    with readable(file), file.open("rb") as content:
        start = content.read(4096)
    if file.suffix != ".txt" and start.lstrip()[:14].lower().startswith((b"<!doctype html", b"<html")):
        return "a web page: download the file itself"
    known = next((what for signature, what in SIGNATURES if start.startswith(signature)), None)
    return known or ("a binary file" if b"\0" in start else None)


def _refuse_json(file: Path, lines: list[str]) -> None:
    """Raise Refused if the first lines of a .csv or .txt file are JSON objects."""
    try:
        for line in lines:
            json.loads(line)
    except (ValueError, RecursionError):
        return
    if lines and all(line.startswith(("{", "[{")) for line in lines):
        named = ".jsonl" if lines[0].startswith("{") else ".json"
        raise Refused(f"{file} is no {file.suffix} file: it looks like JSON, which is named {named}.")


def refuse(file: Path, where: str, _reason: str, message: str) -> None:
    """Refuse the file for a row of it."""
    raise Refused(f"{file}, {where}: {message}")


def _lines(file: Path) -> Iterator[str]:
    with _opened(file) as text:
        for line in text:
            yield line.removesuffix("\n")


def _jsonl(file: Path, broken: Broken = refuse) -> Iterator[Row]:
    reader = Reader()
    for number, line in enumerate(_lines(file), 1):
        if not line.strip():
            continue
        try:
            row = reader.read(line)
        except ValueError as error:
            if number == 1 and line.strip() in ("[", "{"):
                raise Refused(f"{file} is one JSON text of many lines, which is named .json, as a list.") from None
            message = f"not valid JSON ({strict_json.reason(error)}): {line[:60]!r}"
            broken(file, f"line {number}", "not valid JSON", message)
            continue
        if number == 1 and isinstance(row, list):
            raise Refused(
                f"{file}, line 1: each line is one JSON object, not {line[:60]!r}. A file that is one JSON list is "
                "named .json."
            )
        if fault := _fault(row, reader, bool(MAYBE_UNSTORABLE.search(line)), "each line is one JSON object"):
            broken(file, f"line {number}", *fault)
        else:
            yield row


def _json(file: Path, broken: Broken = refuse) -> Iterator[Row]:
    with _opened(file) as opened:
        text = opened.read()
    reader = Reader()
    try:
        rows = reader.read(text)
    except ValueError as error:
        line = f", line {error.lineno}" if isinstance(error, json.JSONDecodeError) else ""
        hint = " A file with one JSON object a line is named .jsonl." if str(error).startswith("Extra data") else ""
        raise Refused(f"{file}{line}: not valid JSON ({strict_json.reason(error)}).{hint}") from None
    if not isinstance(rows, list):
        raise Refused(f"{file} holds one JSON {type(rows).__name__}; it should be a list of objects.")
    look = bool(MAYBE_UNSTORABLE.search(text))
    for number, row in enumerate(rows, 1):
        if fault := _fault(row, reader, look, "an object with the row's columns is needed"):
            broken(file, f"item {number} of the list", *fault)
        else:
            yield row


def _fault(row: Any, reader: Reader, look: bool, needed: str) -> tuple[str, str] | None:
    """Return what an item of JSON has in common with others that are no rows, and what is wrong; None for a row."""
    if not isinstance(row, dict):
        return "no JSON object", f"{needed}, not {shown(row, 60)}."
    if problem := reader.repeated(row):
        return "a key that stands twice", problem
    if look and (problem := _problem(row)):
        return "a value that cannot be stored", problem
    return None


def _problem(row: Row) -> str | None:
    """Return what of a row cannot be stored, with its column."""
    if named := next((column for column in row if "\0" in column), None):
        return f"the name {named!r} of a column holds a null character."
    problems = ((column, _unstorable(column) or _unstorable(value)) for column, value in row.items())
    return next((f"column {column!r} holds {problem}." for column, problem in problems if problem), None)


def _unstorable(value: Any) -> str | None:
    """Return what in a JSON value cannot be stored in a table and read back the same; None if all can."""
    for item in parts(value):
        if isinstance(item, int) and not -(2**63) <= item < 2**63:
            return f"the integer {shown(item, 40)}, which needs more than 64 bits: write it as text"
        if isinstance(item, str) and any("\ud800" <= character <= "\udfff" for character in item):
            return f"half a surrogate pair, which is no text: {item[:40]!r}"
    return None


def _csv(file: Path, broken: Broken = refuse) -> Iterator[Row]:
    csv.field_size_limit(sys.maxsize)  # its own, 131,072 characters, is less than a long document
    with _opened(file) as opened:
        text = opened.read()
    _refuse_json(file, text.lstrip()[:MOST_LOOKED_AT].splitlines()[:1])
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    try:
        names = list(reader.fieldnames or ())
        header = names[0] if len(names) == 1 else ""
        if other := next((mark for mark in ";\t|" if mark in header), None):
            raise Refused(
                f"{file}: its header is one column, {header!r}. The fields of a .csv are separated by commas, not by "
                f"{other!r}: save it with commas."
            )
        if twice := [name for name, times in Counter(names).items() if times > 1 or not name.strip()]:
            raise Refused(
                f"{file}: its header {','.join(names)!r:.100} names {', '.join(map(repr, twice))} twice or not at all: "
                "each column needs a name of its own."
            )
        for row in reader:
            if None in row or None in row.values():
                message = f"not the {len(names)} fields that the header names."
                broken(file, f"line {reader.line_num}", "another number of fields than the header", message)
            else:
                yield row
    except csv.Error as error:
        raise Refused(f"{file}, line {reader.line_num}: not valid CSV ({error}).") from None


def _paragraphs(file: Path, _broken: Broken = refuse) -> Iterator[Row]:
    _refuse_json(file, list(islice((line for line in _lines(file) if line.strip()), 2)))
    for has_text, lines in groupby(_lines(file), lambda line: bool(line.strip())):
        if has_text:
            yield {"text": "\n".join(lines)}


def separated(file: Path, separator: str) -> Iterator[Row]:
    """Yield the documents of a text file that `separator` sets apart, wherever in a line it stands.

    Raises:
        Refused: the file cannot be read.
    """
    with _opened(file) as text:
        rest = ""
        while chunk := text.read(1 << 20):
            *documents, rest = (rest + chunk).split(separator)
            yield from ({"text": document.strip("\n")} for document in documents)
    if rest.strip():
        yield {"text": rest.strip("\n")}


def _parquet(file: Path) -> Dataset:
    try:
        if pq.read_metadata(file).num_rows == 0:
            raise _no_rows(file)
        rows = Dataset.from_parquet(str(file))
        rows.data.validate(full=True)  # text that is not UTF-8
    except Refused:
        raise
    except (pa.ArrowException, OSError, ValueError, DatasetGenerationError) as error:
        other = _other_format(file)
        if other and not other.startswith("Parquet"):
            raise Refused(f"{file} is no Parquet file that is whole: it looks like {other}.") from None
        reason = error.__cause__ if isinstance(error, DatasetGenerationError) else error
        raise Refused(f"{file} cannot be read as Parquet ({reason}). Is it really Parquet, and complete?") from None
    return rows


READERS: dict[str, Callable[..., Iterator[Row]]] = {
    ".jsonl": _jsonl,
    ".json": _json,
    ".csv": _csv,
    ".txt": _paragraphs,
}
