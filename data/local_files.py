"""Local data files as a Dataset: .jsonl .json .csv .parquet .txt, packed or not, one file or a folder of one kind."""

import bz2
import csv
import gzip
import io
import json
import lzma
import re
import sys
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import groupby, islice
from pathlib import Path
from typing import IO, Any, TextIO

import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Dataset, DatasetDict, Features, Json, Value, concatenate_datasets, load_from_disk
from datasets.exceptions import DatasetGenerationError

from data.faults import Faults
from data.folders import ALIASES, HELD_OUT, NAMED, by_split, is_saved_to_disk, packing_of, readable, suffix_of
from utils import strict_json
from utils.console import console, warn
from utils.errors import Refused
from utils.strict_json import Reader, parts
from utils.values import shown

Row = dict[str, Any]

MOST_LOOKED_AT = 1 << 20  # characters of the first line of a .csv in which JSON is looked for
SCALARS = {str: "string", bool: "bool", int: "int64", float: "float64"}
Broken = Callable[[Path, str, str, str], None]
"""Takes a row that cannot be read: its file, its place, what it has in common with others, what is wrong with it."""
SIGNATURES = (
    (b"PAR1", "Parquet, which is named .parquet"),
    (b"PK\x03\x04", "a binary file, a ZIP archive as Excel's .xlsx are"),
    (b"\x1f\x8b", "gzip, which is named .gz"),
    (b"BZh", "bzip2, which is named .bz2"),
    (b"\x28\xb5\x2f\xfd", "Zstandard, which is named .zst"),
    (b"\xfd7zXZ", "xz, which is named .xz"),
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


def read_path(path: Path, split: str, faults: Faults | None = None, config_name: str | None = None) -> Dataset:
    """Return the rows of a file or folder, in order.

    In a folder whose files tell splits by their names (`train.jsonl`, `zen_test.jsonl`, `test/a.jsonl`), `split`
    chooses; a single file, or a folder whose names tell none, is all `train` (see data/folders.py). CSV values stay
    text. Text files give one `text` row a paragraph, or a story that a line `<|endoftext|>` ends. Rows that cannot be
    read are left out and counted in `faults`; without it the first is refused.

    Raises:
        Refused: nothing that can be read, a file that is not what its suffix says, or no such split.
    """
    if is_saved_to_disk(path):
        return saved_to_disk(path)[_known_split(path, split, list(saved_to_disk(path)))]
    files = _files_of(path, split, config_name)
    if len(suffixes := sorted({suffix_of(file) for file in files})) > 1:
        raise Refused(f"{path} mixes {', '.join(suffixes)}: name one file, or one kind.")
    files = _with_rows(files)
    if suffixes == [".parquet"]:
        return _one_table(files)

    def count(file: Path, where: str, reason: str, message: str) -> None:
        assert faults is not None
        faults.add(reason, where if len(files) == 1 else f"{file.name} {where}", message)

    rows: list[Row] = []
    columns: list[dict[str, None]] = []
    for file in files:
        more = list(READERS[suffixes[0]](file, refuse if faults is None else count))
        if not more:
            if faults is not None:
                faults.judge(faults.count + len(rows))
            raise Refused(f"{file} has no rows. Check that it was written completely.")
        columns.append(dict.fromkeys(column for row in more for column in row))
        if columns[-1] and not columns[-1].keys() & columns[0].keys():
            raise Refused(
                f"{file} has columns {', '.join(columns[-1])}, but {files[0].name} has {', '.join(columns[0])}: "
                f"name one of the files instead of the folder {path}."
            )
        rows += more
    return from_rows(rows, str(path), faults)


def held_out_split(path: Path, split: str, config_name: str | None = None) -> str | None:
    """Return which split other than `split` a folder holds out, by the names of its files; None if it has none."""
    if not path.is_dir():
        return None
    found = set(saved_to_disk(path) if is_saved_to_disk(path) else by_split(path, config_name))
    return next((name for name in HELD_OUT if name in found - {ALIASES.get(split, split)}), None)


def saved_to_disk(folder: Path) -> dict[str, Dataset]:
    """Return the splits that datasets' save_to_disk wrote.

    Raises:
        Refused: the folder is not whole.
    """
    try:
        loaded = load_from_disk(str(folder)).with_format(None)
    except (OSError, ValueError, LookupError, pa.ArrowException) as error:
        raise Refused(f"{folder} was written by save_to_disk, and cannot be read: {error}") from None
    splits = dict(loaded) if isinstance(loaded, DatasetDict) else {"train": loaded}
    return {ALIASES.get(name, name): rows for name, rows in splits.items()}


def _files_of(path: Path, split: str, config_name: str | None) -> list[Path]:
    splits = by_split(path, config_name)
    if path.is_file() and split != "train":
        raise Refused(
            f"{path} is a single file, which has only the split 'train', not {split!r}: put train{path.suffix} and "
            f"{split}{path.suffix} into one folder, and name the folder."
        )
    return splits[_known_split(path, split, list(splits))]


def _known_split(path: Path, split: str, there: list[str]) -> str:
    if (name := ALIASES.get(split, split)) not in there:
        raise Refused(
            f"{path} has no split {split!r}; it has {', '.join(sorted(there))}, as its files are named or listed. Name "
            "one of them with dataset_split or eval_split, or name a single file."
        )
    return name


def _one_table(files: list[Path]) -> Dataset:
    """Return the rows of Parquet files, a column that is null throughout one of them as what it is in the others."""
    tables = [_parquet(file) for file in files]
    for file, table in zip(files, tables, strict=True):
        if not set(table.column_names) & set(tables[0].column_names):
            raise _unlike(file, files[0])
        try:
            schemas = [tables[0].features.arrow_schema, table.features.arrow_schema]
            schema = pa.unify_schemas(schemas, promote_options="permissive")
        except pa.ArrowException:
            raise _unlike(file, files[0]) from None
        tables[0] = _as(tables[0], Features.from_arrow_schema(schema))
    return concatenate_datasets([_as(table, tables[0].features) for table in tables])


def _as(table: Dataset, features: Features) -> Dataset:
    for lacking in features.keys() - {*table.column_names}:
        table = table.add_column(lacking, [None] * len(table))
    return table if table.features == features else table.cast(features)


def _unlike(file: Path, other: Path) -> Refused:
    return Refused(f"{file} has other columns or types than {other}: name one file, not the folder.")


def from_rows(rows: list[Row], name: str, faults: Faults | None = None) -> Dataset:
    """Return rows as a Dataset that gives back exactly their values; objects and lists are stored as JSON, and
    so are fractions beside integers that a float rounds.

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
        inexact = usual is float and any(_is_rounded(rows[number - 1][column]) for number in numbers[float])
        features[column] = Json() if inexact or usual in (dict, list) else Value(SCALARS[usual])
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


def _is_rounded(value: float) -> bool:
    """Tell whether a number is an integer that a column of fractions would hold as another one."""
    return isinstance(value, int) and float(value) != value


def _with_rows(files: list[Path]) -> list[Path]:
    """Return the files that have something in them, and name the others.

    Raises:
        Refused: none has.
    """
    empty = [file for file in files if not _has_rows(file)]
    if len(empty) == len(files):
        raise Refused(f"{empty[0]} has no rows. Check that it was written completely.")
    if empty:
        warn(f"{len(empty)} of {len(files)} files have no rows: {', '.join(map(str, empty[:NAMED]))}")
    return [file for file in files if file not in empty]


def _has_rows(file: Path) -> bool:
    if suffix_of(file) != ".parquet" or not file.stat().st_size:
        return file.stat().st_size > 0
    try:
        return packing_of(file) is not None or pq.read_metadata(file).num_rows > 0
    except (pa.ArrowException, OSError):  # told where it is read
        return True


OPENERS: dict[str | None, Callable[..., Any]] = {
    None: open,
    ".gz": gzip.open,
    ".bz2": bz2.open,
    ".xz": lzma.open,
    ".zst": lambda file, _: pa.input_stream(str(file), compression="zstd"),
    ".zstd": lambda file, _: pa.input_stream(str(file), compression="zstd"),
}
"""How a file is opened, by the suffix that says how it is packed."""


@contextmanager
def _unpacked(file: Path) -> Iterator[IO[bytes]]:
    """Open a file, unpacked if its name says that it is packed; what cannot be unpacked is refused while it is read."""
    packing = packing_of(file)
    try:
        with readable(file):
            content = OPENERS[packing](file, "rb")
        with content:
            yield content
    except (EOFError, zlib.error, gzip.BadGzipFile, lzma.LZMAError, pa.ArrowException) as error:
        raise Refused(f"{file} cannot be unpacked ({error}). Is it really {packing}, and complete?") from None
    except OSError as error:
        if packing and error.errno is None:  # what is not packed so
            raise Refused(f"{file} cannot be unpacked ({error}). Is it really {packing}, and complete?") from None
        raise Refused(f"{file} cannot be read: {error.strerror}.") from None


@contextmanager
def _opened(file: Path) -> Iterator[TextIO]:
    """Open a UTF-8 text file, its BOM skipped; what cannot be read is refused while it is read."""
    if other := _other_format(file):
        raise Refused(f"{file} is no {suffix_of(file)} file: it looks like {other}.")
    try:
        with _unpacked(file) as content, io.TextIOWrapper(content, encoding="utf-8-sig") as text:
            yield text
    except UnicodeDecodeError as error:
        with _unpacked(file) as content:
            text = io.TextIOWrapper(content, encoding="utf-8", errors="surrogateescape", newline="\n")
            numbers = [number for number, line in enumerate(text, 1) if UNDECODABLE.search(line)]
        more = f" (and {len(numbers) - 1} more lines)" if len(numbers) > 1 else ""
        raise Refused(
            f"{file}, line {numbers[0]}{more}: not UTF-8 text ({error.reason}). Text in another encoding must be saved "
            "as UTF-8."
        ) from None


def _other_format(file: Path) -> str | None:
    """Return what a file that should be text is instead, by how it begins; None if it may be text."""
    with _unpacked(file) as content:
        start = content.read(4096)
    if suffix_of(file) != ".txt" and start.lstrip()[:14].lower().startswith((b"<!doctype html", b"<html")):
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
        raise Refused(f"{file} is no {suffix_of(file)} file: it looks like JSON, which is named {named}.")


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
        raise Refused(f"{file} holds one JSON {type(rows).__name__}; it should be a list of objects{_meant(rows)}.")
    look = bool(MAYBE_UNSTORABLE.search(text))
    for number, row in enumerate(rows, 1):
        if fault := _fault(row, reader, look, "an object with the row's columns is needed"):
            broken(file, f"item {number} of the list", *fault)
        else:
            yield row


def _meant(rows: Any) -> str:
    """Return how the rows of a JSON object that is no list can be had, by what it looks like."""
    if not isinstance(rows, dict) or not rows:
        return ""
    lists = [key for key, value in rows.items() if isinstance(value, list) and value and isinstance(value[0], dict)]
    sizes = {len(value) if isinstance(value, dict | list) else -1 for value in rows.values()}
    if len(lists) == 1:
        return f". Its list {lists[0]!r} looks like the rows: save that alone"
    if sizes != {-1} and len(sizes) == 1:
        return ". It looks like columns, as pandas writes them: write rows, by to_json(orient='records')"
    return ""


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
                "each column needs a name of its own (pandas writes its index, without one, unless index=False)."
            )
        for row in reader:
            if None in row or None in row.values():
                message = f"not the {len(names)} fields that the header names."
                broken(file, f"line {reader.line_num}", "another number of fields than the header", message)
            else:
                yield row
    except csv.Error as error:
        raise Refused(f"{file}, line {max(reader.line_num, 1)}: not valid CSV ({error}).") from None


END_MARKS = ("<|endoftext|>", "</s>", "<|end_of_text|>", "<eos>", "[EOS]")
"""Tokens with which published models end a document."""
BEGIN_MARKS = ("<s>", "<|startoftext|>", "<|begin_of_text|>", "<bos>", "[BOS]")
"""And those with which they begin one."""


def _paragraphs(file: Path, _broken: Broken = refuse) -> Iterator[Row]:
    """Yield the documents of a text file: paragraphs, or where lines begin or end with a mark, what lies between."""
    _refuse_json(file, list(islice((line for line in _lines(file) if line.strip()), 2)))
    marks = _end_marks(file)
    if not marks:
        for has_text, lines in groupby(_lines(file), lambda line: bool(line.strip())):
            if has_text:
                yield {"text": "\n".join(lines)}
        return
    console().print(f"{file}: lines of {' and '.join(marks)} end its documents", markup=False, soft_wrap=True)
    parts = (part for line in _lines(file) for part in _at_edges(line, marks))
    for is_text, lines in groupby(parts, lambda part: part not in marks):
        if is_text and (text := "\n".join(lines).strip("\n")).strip():
            begins = next((mark for mark in BEGIN_MARKS if text.startswith(mark)), "")
            yield {"text": text.removeprefix(begins).lstrip("\n") if begins else text}


def _at_edges(line: str, marks: Sequence[str]) -> Iterator[str]:
    """Yield a line without the mark that it begins or ends with, and the mark where it stands."""
    text = line.strip()
    begins = next((mark for mark in marks if text.startswith(mark)), None)
    if begins:
        yield begins
        line, text = line.lstrip().removeprefix(begins), text.removeprefix(begins)
    ends = next((mark for mark in marks if text.endswith(mark)), None)
    if text or not begins:
        yield line.rstrip().removesuffix(ends) if ends else line
    if ends:
        yield ends


def _end_marks(file: Path) -> list[str]:
    """Return the marks that evidently end the documents of a text file.

    One is a line by itself; or it begins or ends some lines and stands nowhere else, as it would in prose about it.
    """
    alone, at_edge, within = (dict.fromkeys(END_MARKS, 0) for _ in range(3))
    html = False  # where <s> strikes text through, </s> is its other half
    for line in _lines(file):
        text = line.strip()
        html |= "<s>" in text.removeprefix("<s>") or (text.startswith("<s>") and "</s>" in text.removesuffix("</s>"))
        for mark in END_MARKS:
            if mark in text:
                inside = mark in text.removeprefix(mark).removesuffix(mark)
                found = alone if text == mark else within if inside else at_edge
                found[mark] += 1
    if html:
        alone["</s>"] = at_edge["</s>"] = 0
    return [mark for mark in END_MARKS if alone[mark] or (at_edge[mark] > 1 and not within[mark])]


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
        if packing_of(file):
            raise Refused(f"{file}: Parquet packs its columns itself. Unpack the file.")
        names = Counter(pq.read_schema(file).names)
        if twice := [name for name, times in names.items() if times > 1]:
            raise Refused(f"{file} has {', '.join(map(repr, twice))} twice: each column needs a name of its own.")
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
