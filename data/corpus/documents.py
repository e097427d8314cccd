"""Where the documents of one part come from: a local file or folder, made data, or what is published."""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data import made
from data.corpus import enwik8, hub_data
from data.corpus.cache import key_of
from data.corpus.rendering import to_text
from data.files import ALIASES, READERS, named_splits, separated
from data.messages import Malformed
from utils import hub
from utils.errors import Refused, did_you_mean
from utils.files import user_path

SPLITS = ("test", "validation", "train")
"""In the order in which they are read: what is held out is known before the training documents come."""
ON_HUB = {"tinystories": "roneneldan/TinyStories", "hermes": "interstellarninja/hermes_reasoning_tool_use"}
BUILT_IN = ("enwik8", *ON_HUB)
PARQUET_ROWS = 1024  # rows of a Parquet file in memory at once

Documents = Mapping[str, Iterable[str]]


@dataclass(frozen=True, kw_only=True)
class Options:
    """What decides a source's documents beside its name."""

    separator: str | None = None
    """What sets the documents of .txt files apart; None is blank lines."""
    config_name: str | None = None
    """The configuration of Hub data."""
    revision: str | None = None
    """Commit, tag or branch of Hub data."""
    made_train: int | None = None
    """Documents of made data to train on; None is the generator's own number."""
    made_held_out: int | None = None
    """Documents of made data for validation; None is the generator's own number."""
    seed: int = 42
    """Of made data."""


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
    """Neither normalised nor freed of duplicates: a benchmark or a generator whose documents are published so."""


def source_of(name: str, options: Options) -> Source:
    """Return the source that `name` means: a built-in name, `made:documents`, a local file or folder, or a Hub id.

    Raises:
        Refused: there is no such source, or it cannot be had.
    """
    path = user_path(name)
    of_hub = bool(options.config_name or options.revision)
    if name == "enwik8":
        return Source(name, key_of(name, enwik8.ENWIK8.sha1), enwik8.documents, enwik8.ENWIK8.size_bytes, as_it_is=True)
    if name.startswith("made:"):
        return _made(name, options)
    if name not in ON_HUB and path.exists():
        if of_hub:
            raise Refused(f"{name} is a local path, which has no configurations or revisions: leave them out.")
        return _local(name, path, options.separator)
    if name in ON_HUB or hub.is_dataset_id(name):
        found = hub_data.find(ON_HUB.get(name, name), options.config_name, options.revision)
        return Source(name, key_of("hub", *found.key), lambda: _published(found.open(), name), found.size_bytes)
    beside = [str(path.parent / found.name) for found in path.parent.iterdir()] if path.parent.is_dir() else []
    meant = did_you_mean(name, [*beside, *BUILT_IN, "made:documents"]) or "."
    raise Refused(
        f"there are no data {name!r}{meant} Data are a local file or folder (looked in {path.parent.resolve()}), a Hub "
        f"id as owner/name, {', '.join(BUILT_IN)}, or made:documents."
    )


def _local(name: str, path: Path, separator: str | None) -> Source:
    folder = path if path.is_dir() else path.parent
    suffixes = (*READERS, ".parquet")
    files = [path] if path.is_file() else sorted(file for file in path.rglob("*") if file.suffix in suffixes)
    files = [file for file in files if path.is_file() or not _hidden(file.relative_to(folder))]
    if not files or files[0].suffix not in suffixes:
        what = f"{name} has suffix {path.suffix!r}" if path.is_file() else f"{name} holds no data files"
        raise Refused(f"{what}; data files are {' '.join(suffixes)}.")
    # A single file is all there is: its name tells no split.
    splits = {"train": files} if path.is_file() else named_splits(path, files) or {"train": files}
    key = key_of("files", separator, [(str(file.relative_to(folder)), _sha256(file)) for file in files])

    def documents() -> Documents:
        named = {split: _documents_of(found, separator) for split, found in splits.items()}
        return _published(named, name)

    return Source(name, key, documents, sum(file.stat().st_size for file in files))


def _hidden(relative: Path) -> bool:
    return any(part.startswith(".") for part in relative.parts)


def _documents_of(files: Iterable[Path], separator: str | None) -> Iterator[str]:
    for file in files:
        if file.suffix == ".txt":
            for row in separated(file, separator) if separator else READERS[".txt"](file):
                if "\0" in row["text"]:
                    raise Refused(f"{file} holds zero bytes: a binary file, not text.")
                yield row["text"]
        else:
            yield from texts_of(_parquet(file) if file.suffix == ".parquet" else READERS[file.suffix](file), str(file))


def texts_of(rows: Iterable[Mapping[str, Any]], name: str) -> Iterator[str]:
    """Yield the document of each row.

    Raises:
        Refused: the columns of the first row hold no text, or a row is not what they say.
    """
    make: Callable[[Mapping[str, Any]], str] | None = None
    for number, row in enumerate(rows, 1):
        if make is None:
            _, make = to_text(row, name)
        try:
            yield make(row)
        except Malformed as error:
            raise Refused(f"{name}, row {number}: {error}.") from None


def _parquet(file: Path) -> Iterator[dict[str, Any]]:
    import pyarrow as pa
    from pyarrow import parquet

    try:
        with parquet.ParquetFile(file) as table:
            columns, _ = to_text(table.schema_arrow.names, str(file))
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
    try:
        with file.open("rb") as content:
            return hashlib.file_digest(content, "sha256").hexdigest()
    except OSError as error:
        raise Refused(f"{file} cannot be read: {error.strerror}.") from None
