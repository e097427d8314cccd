"""Local data files: .jsonl .json .csv .parquet .txt, one file or a folder of one kind of them, as a Dataset."""

import csv
import io
import json
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

import pyarrow as pa
from datasets import Dataset, Features, Json, Value, concatenate_datasets
from datasets.exceptions import DatasetGenerationError

from utils.errors import Refused
from utils.hub import DATA_SUFFIXES

Row = dict[str, Any]

SPLIT_IN_NAME = re.compile(r"(?:^|[._-])(train|test|validation|valid|val|dev|eval)(?:[._-]|$)", re.IGNORECASE)
HELD_OUT = ("validation", "test")
"""Splits that hold out, the one to be preferred first."""
ALIASES = {"valid": "validation", "val": "validation", "dev": "validation", "eval": "validation"}
SCALARS = {str: "string", bool: "bool", int: "int64", float: "float64"}
MAYBE_UNSTORABLE = re.compile(r"\d{19}|\\u[dD][89a-fA-F]")
"""In JSON, what can be an integer of more than 64 bits or half a surrogate pair."""


def read_path(path: Path, split: str) -> Dataset:
    """Return the rows of a file or folder, in order.

    In a folder whose file names all tell splits (`train.jsonl`, `zen_test.jsonl`), `split` chooses; a single file, or a
    folder whose names tell none, is all `train`. CSV values stay text. Text files give one `text` row a paragraph.

    Raises:
        Refused: nothing that can be read, a file that is not what its suffix says, or no such split.
    """
    files = _files_of(path, split)
    suffix = files[0].suffix
    if empty := next((file for file in files if not file.stat().st_size), None):
        raise _no_rows(empty)
    if suffix == ".parquet":
        parts = [_parquet(file) for file in files]
        for file, part in zip(files, parts, strict=True):
            if part.features != parts[0].features:
                raise Refused(f"{file} has other columns or types than {files[0]}: name one file, not the folder.")
        return concatenate_datasets(parts)
    rows: list[Row] = []
    for file in files:
        read = list(READERS[suffix](file))
        if not read:
            raise _no_rows(file)
        if rows and set(read[0]) != set(rows[0]):
            raise Refused(
                f"{file} has columns {', '.join(read[0])}, but {files[0].name} has {', '.join(rows[0])}: "
                f"name one of the files instead of the folder {path}."
            )
        rows += read
    return from_rows(rows, str(path))


def held_out_split(path: Path, split: str) -> str | None:
    """Return which split other than `split` a folder holds out, by the names of its files; None if it has none."""
    found = set(_splits(_data_files(path)).values()) if path.is_dir() else set()
    return next((name for name in HELD_OUT if name in found - {ALIASES.get(split, split)}), None)


def from_rows(rows: list[Row], name: str) -> Dataset:
    """Return rows as a Dataset that gives back exactly their values; objects and lists are stored as JSON.

    Raises:
        Refused: a column holds values of different kinds.
    """
    columns = list(dict.fromkeys(column for row in rows for column in row))
    features = Features({column: _feature(column, rows, name) for column in columns})
    return Dataset.from_dict({column: [row.get(column) for row in rows] for column in columns}, features=features)


def _feature(column: str, rows: list[Row], name: str) -> Any:
    kinds: dict[type, int] = {}
    for number, row in enumerate(rows, 1):
        kinds.setdefault(type(row.get(column)), number)
    kinds.pop(type(None), None)
    if set(kinds) <= {dict, list} and kinds:
        return Json()
    if set(kinds) == {int, float}:
        return Value("float64")
    if len(kinds) > 1:
        said = ", ".join(f"{kind.__name__} in row {number}" for kind, number in kinds.items())
        raise Refused(f"{name}: column {column!r} holds values of different kinds ({said}). Make them all one kind.")
    return Value(SCALARS[next(iter(kinds), str)])


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
    files = _data_files(path)
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
    return sorted(file for file in folder.iterdir() if file.suffix in DATA_SUFFIXES)


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
    try:
        with file.open(encoding="utf-8-sig") as text:
            yield text
    except UnicodeDecodeError as error:
        raise Refused(
            f"{file}, line {_undecodable_line(file)}: not UTF-8 text ({error.reason}). Text in another "
            "encoding must be saved as UTF-8."
        ) from None
    except OSError as error:
        raise Refused(f"{file} cannot be read: {error.strerror}.") from None


def _undecodable_line(file: Path) -> int:
    with file.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            try:
                line.decode()
            except UnicodeDecodeError:
                return number
    return 1


def _read_text(file: Path) -> str:
    with _opened(file) as text:
        return text.read()


def _lines(file: Path) -> Iterator[str]:
    with _opened(file) as text:
        for line in text:
            yield line.removesuffix("\n")


def _jsonl(file: Path) -> Iterator[Row]:
    for number, line in enumerate(_lines(file), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise Refused(f"{file}, line {number}: not valid JSON ({_json_reason(error)}): {line[:60]!r}") from None
        if not isinstance(row, dict):
            hint = " A file that is one JSON list is named .json." if number == 1 and isinstance(row, list) else ""
            raise Refused(f"{file}, line {number}: each line is one JSON object, not {line[:60]!r}.{hint}")
        if MAYBE_UNSTORABLE.search(line):
            _check_storable(row, f"{file}, line {number}")
        yield row


def _json(file: Path) -> Iterator[Row]:
    text = _read_text(file)
    try:
        rows = json.loads(text)
    except (ValueError, RecursionError) as error:
        line = f", line {error.lineno}" if isinstance(error, json.JSONDecodeError) else ""
        hint = " A file with one JSON object a line is named .jsonl." if str(error).startswith("Extra data") else ""
        raise Refused(f"{file}{line}: not valid JSON ({_json_reason(error)}).{hint}") from None
    check = bool(MAYBE_UNSTORABLE.search(text))
    if not isinstance(rows, list):
        raise Refused(f"{file} holds one JSON {type(rows).__name__}; it should be a list of objects.")
    for number, row in enumerate(rows, 1):
        if not isinstance(row, dict):
            raise Refused(
                f"{file}, item {number} of the list: an object with the row's columns is needed, not {row!r}."
            )
        if check:
            _check_storable(row, f"{file}, item {number} of the list")
        yield row


def _json_reason(error: Exception) -> str:
    return f"{error.msg}, column {error.colno}" if isinstance(error, json.JSONDecodeError) else str(error)


def _check_storable(row: Row, where: str) -> None:
    for column, value in row.items():
        problem = _unstorable(column) or _unstorable(value)
        if problem:
            raise Refused(f"{where}: column {column!r} holds {problem}.")


def _unstorable(value: Any) -> str | None:
    """Return what in a JSON value cannot be stored in a table and read back the same; None if all can."""
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        return f"the integer {str(value)[:40]}, which needs more than 64 bits: write it as text"
    if isinstance(value, str) and any("\ud800" <= character <= "\udfff" for character in value):
        return f"half a surrogate pair, which is no text: {value[:40]!r}"
    inner = [*value, *value.values()] if isinstance(value, dict) else value if isinstance(value, list) else []
    return next((problem for item in inner if (problem := _unstorable(item))), None)


def _csv(file: Path) -> Iterator[Row]:
    csv.field_size_limit(sys.maxsize)  # its own, 131,072 characters, is less than a long document
    reader = csv.DictReader(io.StringIO(_read_text(file), newline=""), strict=True)
    try:
        names = list(reader.fieldnames or ())
        header = names[0] if len(names) == 1 else ""
        if other := next((mark for mark in ";\t|" if mark in header), None):
            raise Refused(
                f"{file}: its header is one column, {header!r}. The fields of a .csv are separated by commas, not by "
                f"{other!r}: save it with commas."
            )
        for row in reader:
            if None in row or None in row.values():
                raise Refused(f"{file}, line {reader.line_num}: not the {len(names)} fields that the header names.")
            yield row
    except csv.Error as error:
        raise Refused(f"{file}, line {reader.line_num}: not valid CSV ({error}).") from None


def _paragraphs(file: Path) -> Iterator[Row]:
    lines: list[str] = []
    for line in _lines(file):
        if line.strip():
            lines.append(line)
        elif lines:
            yield {"text": "\n".join(lines)}
            lines = []
    if lines:
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
        rows = Dataset.from_parquet(str(file))
    except (pa.ArrowException, OSError, ValueError, DatasetGenerationError) as error:
        reason = error.__cause__ if isinstance(error, DatasetGenerationError) else error
        raise Refused(f"{file} cannot be read as Parquet ({reason}). Is it really Parquet, and complete?") from None
    if len(rows) == 0:
        raise _no_rows(file)
    return rows


READERS: dict[str, Callable[[Path], Iterator[Row]]] = {
    ".jsonl": _jsonl,
    ".json": _json,
    ".csv": _csv,
    ".txt": _paragraphs,
}
