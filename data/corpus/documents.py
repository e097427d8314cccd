"""Where the documents of one part come from: a local file or folder, made data, or what is published."""

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data import made
from data.columns import Names, by_name, of_turns, with_keys
from data.corpus.cache import key_of
from data.corpus.rendering import CONVERT, to_text
from data.faults import tell_unread
from data.folders import ALIASES, by_split, everything_in, is_saved_to_disk, readable, suffix_of, tell_unread_files
from data.hub_rows import HubRows
from data.local_files import READERS, saved_to_disk, separated
from data.messages import Malformed, turns_in, unread_keys
from data.named import ON_HUB, refuse_unknown
from utils.console import console
from utils.errors import Refused, did_you_mean
from utils.files import user_path

SPLITS = ("test", "validation", "train")
"""In the order in which they are read: what is held out is known before the training documents come."""
PARQUET_ROWS = 1024  # rows of a Parquet file in memory at once

Documents = Mapping[str, Iterable[str]]


@dataclass(frozen=True, kw_only=True)
class Options:
    """What decides a source's documents beside its name."""

    separator: str | None = None
    """What sets documents apart within a text; None is blank lines in .txt files, or lines of <|endoftext|>."""
    config_name: str | None = None
    """The configuration of Hub data."""
    revision: str | None = None
    """Commit, tag or branch of Hub data."""
    made_train: int | None = None
    """Documents of made data to train on; None is the generator's own number."""
    made_held_out: int | None = None
    """Documents of made data for validation; None is the generator's own number."""
    columns: tuple[tuple[str, str | None], ...] = ()
    """Columns and keys of turns by the names that they get; see data/columns.py."""
    seed: int = 42
    """Of made data."""

    @property
    def names(self) -> Names:
        """`columns` as a mapping."""
        return dict(self.columns)


@dataclass(frozen=True)
class Source:
    """The documents of one part, not read yet."""

    name: str
    key: str
    """Of the content: the same key, the same documents."""
    open: Callable[[], Documents]
    """Gives the documents by split, to be read in the order of SPLITS; those of a published split stay in it."""
    size_bytes: int | None = None
    """Of what will be read, as far as it is known."""
    as_it_is: bool = False
    """Neither normalised nor freed of duplicates: a generator's documents, which repeat short drills on purpose."""


def source_of(name: str, options: Options) -> Source:
    """Return the source that `name` means: a built-in name, `made:documents`, a local file or folder, or a Hub id.

    Raises:
        Refused: there is no such source, or it cannot be had.
    """
    path = user_path(name)
    if name.startswith("made:"):
        return _made(name, options)
    if name not in ON_HUB and path.exists():
        if options.revision:
            raise Refused(f"{name} is a local path, which has no revisions: leave {options.revision!r} out.")
        return _local(name, path, options)
    refuse_unknown(name, ON_HUB)
    on_hub = HubRows(ON_HUB.get(name, name), options.config_name, options.revision)
    key = key_of("hub", *on_hub.key, options.columns, options.separator)
    return Source(name, key, lambda: _of_hub(on_hub, name, options), on_hub.size_bytes)


def _local(name: str, path: Path, options: Options) -> Source:
    folder, files = (path, everything_in(path)) if path.is_dir() else (path.parent, [path])
    splits: Mapping[str, Any]
    listed = [("", file) for file in files]
    if is_saved_to_disk(path):
        splits = saved_to_disk(path)
    else:
        splits = by_split(path, options.config_name)
        tell_unread_files(path, splits)
        listed = [(split, file) for split, each in splits.items() for file in each]
    content = [(split, str(file.relative_to(folder)), _sha256(file)) for split, file in listed]
    key = key_of("files", options.separator, options.columns, content)

    def documents() -> Documents:
        return _published({split: _documents_of(each, name, options) for split, each in splits.items()}, name)

    return Source(name, key, documents, sum(file.stat().st_size for _, file in listed))


def _of_hub(data: HubRows, name: str, options: Options) -> Documents:
    def documents(rows: Any) -> Iterator[str]:
        there = by_name(rows.column_names or (), options.names)
        if there:
            rows = rows.select_columns([there[one] for one in to_text(there, name)[0]])
        return _separate(texts_of(data.each(rows), name, options.names), options.separator)

    return _published({split: documents(rows) for split, rows in data.splits().items()}, name)


def _documents_of(given: Any, name: str, options: Options) -> Iterator[str]:
    """Yield the documents of files, or of rows that are loaded."""
    if not isinstance(given, list):
        yield from _separate(texts_of(given, name, options.names), options.separator)
        return
    for file in given:
        suffix = suffix_of(file)
        if suffix == ".txt":
            for row in separated(file, options.separator) if options.separator else READERS[".txt"](file):
                if "\0" in row["text"]:
                    raise Refused(f"{file} holds zero bytes: a binary file, not text.")
                yield row["text"]
        else:
            rows = _parquet(file, options.names) if suffix == ".parquet" else READERS[suffix](file)
            yield from _separate(texts_of(rows, str(file), options.names), options.separator)


def _separate(texts: Iterator[str], separator: str | None) -> Iterator[str]:
    for text in texts:
        yield from (part.strip("\n") for part in text.split(separator)) if separator else [text]


def texts_of(rows: Iterable[Mapping[str, Any]], name: str, names: Names) -> Iterator[str]:
    """Yield the document of each row; `names` names columns and keys of turns anew.

    Raises:
        Refused: the columns of a row hold no text, it is not what they say, most have turns with text that is not read,
            or `names` has one that is nowhere.
    """
    forms: dict[tuple[str, ...], _Form] = {}  # the rows of a .jsonl file need not have the same columns
    unread: Counter[str] = Counter()
    number, seen = 0, set[str]()
    for number, row in enumerate(rows, 1):
        there = tuple(row)
        if there not in forms:
            if forms and not _has_text(by_name(there, names)):  # as writers leave out what is null
                yield ""
                continue
            forms[there] = _Form(there, name, names)
        form = forms[there]
        given = {one: row.get(form.columns[one]) for one in form.used}
        try:
            turns = turns_in(given[form.used[0]]) if form.used[0] != "text" else given["text"]
            seen |= (
                {key for turn in turns if isinstance(turn, Mapping) for key in turn} if form.keys and turns else set()
            )
            given[form.used[0]] = with_keys(turns, form.keys)
            unread.update(unread_keys(given[form.used[0]]))
            yield form.make(given)
        except Malformed as error:
            raise Refused(f"{name}, row {number}: {error}.") from None
    seen |= {column for there in forms for column in there}
    if lost := next((given for given in names.values() if number and given is not None and given not in seen), None):
        raise Refused(
            f"columns names {lost!r}, and {name} has no such column, nor key of a turn{did_you_mean(lost, seen)}"
        )
    tell_unread(unread, number, name)
    read = {form.columns[one] for form in forms.values() for one in form.used}
    if others := sorted({column for there in forms for column in there} - read):
        console().print(f"pretrain does not read {', '.join(others)} of {name}", markup=False, soft_wrap=True)


def _has_text(columns: Iterable[str]) -> bool:
    return not CONVERT.keys().isdisjoint(columns)


class _Form:
    """How rows of some columns become documents."""

    def __init__(self, there: Sequence[str], name: str, names: Names) -> None:
        self.columns, self.keys = by_name(there, names), of_turns(there, names)
        self.used, self.make = to_text(self.columns, name)


def _parquet(file: Path, names: Names) -> Iterator[dict[str, Any]]:
    import pyarrow as pa
    from pyarrow import parquet

    try:
        with parquet.ParquetFile(file) as table:
            there = by_name(table.schema_arrow.names, names)
            columns = [there[one] for one in to_text(there, str(file))[0]]
            for batch in table.iter_batches(PARQUET_ROWS, columns=columns):
                batch.validate(full=True)  # text that is not UTF-8
                yield from batch.to_pylist()
    except (pa.ArrowException, OSError) as error:
        raise Refused(f"{file} cannot be read as Parquet ({error}). Is it really Parquet, and complete?") from None


def _published(named: Documents, name: str) -> Documents:
    """Return documents by train, validation and test, whatever these splits are called."""
    found: dict[str, Iterable[str]] = {}
    for split, documents in named.items():
        found.setdefault(ALIASES.get(split, split), documents)
    if len(found) == 1:
        return {"train": next(iter(found.values()))}
    if "train" not in found:
        raise Refused(f"{name} has the splits {', '.join(named)}, none of them train: name one file or data set of it.")
    if others := [split for split in found if split not in SPLITS]:
        console().print(f"{name}: the splits {', '.join(others)} are not read", markup=False, soft_wrap=True)
    return {split: documents for split, documents in found.items() if split in SPLITS}


def _made(name: str, options: Options) -> Source:
    data_set = name.removeprefix(made.PREFIX)
    columns = list(next(iter(made.rows(data_set, "eval", 1, options.seed)), {}))
    if "text" not in columns:
        raise Refused(f"there is no text to pretrain on in {name}: its rows have {', '.join(columns)}.")
    code = [_sha256(file) for file in made.files_of(data_set)]

    def side(split: str, count: int | None) -> list[str]:
        return [row["text"] for row in made.rows(data_set, split, count, options.seed)]

    def documents() -> Documents:
        return {
            "test": [],
            "validation": side("eval", options.made_held_out),
            "train": side("train", options.made_train),
        }

    key = key_of(name, options.made_train, options.made_held_out, options.seed, code)
    return Source(name, key, documents, as_it_is=True)


def _sha256(file: Path) -> str:
    with readable(file), file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()
