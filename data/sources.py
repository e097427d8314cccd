"""Load a stage's data: local files, a Hub id or `made:NAME`, in the stage's layout, with its held-out side."""

import json
import math
from collections import Counter
from collections.abc import Iterable
from copy import deepcopy
from dataclasses import dataclass
from functools import lru_cache
from hashlib import sha256
from typing import Any, NamedTuple

from datasets import Dataset

from data import made as made_data
from data.columns import Names, renamed
from data.faults import Faults
from data.folders import by_split, everything_in, is_saved_to_disk, readable, tell_unread_files
from data.hub_rows import HubRows
from data.layouts import group_of, to_layout, unpaired, unread_columns
from data.local_files import from_rows, held_out_split, read_path
from data.named import refuse_unknown
from data.splits import key_of, normalised, position, two_sides
from kinds import Config
from utils.console import console, warn
from utils.errors import Refused
from utils.files import user_path


@dataclass(frozen=True)
class StageData:
    """What a stage trains and is measured on; no problem is on both sides."""

    train: Dataset
    eval: Dataset
    info: dict[str, Any]
    """`name`; `fingerprint`: sha256 of the rows used; `train_rows`, `eval_rows`; `dropped`: rows that are left out, and
    `faults`: why, with the number of each: those that cannot be read, teach nothing or repeat others, and training rows
    whose problem is in the published eval split."""


def load_for(config: Config, kind: str) -> StageData:
    """Load the data of a stage as its configuration says; see `load` and `load_once`."""
    return load_once(
        config.dataset_name,
        kind,
        split=config.dataset_split,
        config_name=config.dataset_config_name,
        revision=config.dataset_revision,
        eval_split=config.eval_split,
        eval_fraction=config.eval_fraction,
        eval_samples=config.eval_samples,
        max_samples=config.max_samples,
        max_dropped_fraction=config.max_dropped_fraction,
        columns=tuple(config.columns.items()),
        seed=config.seed,
    )


def load_once(dataset_name: str, kind: str, **options: Any) -> StageData:
    """Return what `load` does, as it was loaded first: do not change it. Files that have changed are loaded again."""
    source = made_data.generator_of(dataset_name) or files_now(dataset_name)
    return _loaded(dataset_name, kind, source, **options)


Files = tuple[tuple[str, int, int], ...]


@lru_cache(maxsize=8)  # most recipes have fewer stages
def _loaded(dataset_name: str, kind: str, _source: Files | made_data.Generator, **options: Any) -> StageData:
    return load(dataset_name, kind, **options)


def files_now(dataset_name: str) -> Files:
    """Return path, time of change and size of the local files that a name means; none for other data."""
    path = user_path(dataset_name)
    with readable(path):
        stats = [(file, file.stat()) for file in everything_in(path.absolute()) if file.exists()]
    return tuple((str(file), stat.st_mtime_ns, stat.st_size) for file, stat in stats)


def load(
    dataset_name: str,
    kind: str,
    *,
    split: str = "train",
    config_name: str | None = None,
    revision: str | None = None,
    eval_split: str | None = None,
    eval_fraction: float = 0.05,
    eval_samples: int = 256,
    max_samples: int | None = None,
    max_dropped_fraction: float | None = None,
    columns: Iterable[tuple[str, str | None]] = (),
    seed: int = 42,
) -> StageData:
    """Load `dataset_name` for a stage of `kind`, at most `max_samples` rows to train on and `eval_samples` held out.

    The held-out side is `eval_split` if that is named, the generator's own for made data, the `validation` or else the
    `test` files of a folder, else the share `eval_fraction` of problems by their hash (see data/splits.py); held-out
    rows beyond `eval_samples` are not used at all. Rows are taken in the source's order. `columns` names columns and
    keys of turns anew (see data/columns.py), `seed` is for made data. Rows that cannot be read, teach nothing or
    repeat others are left out while their share of what was read is allowed (see data/faults.py); made data may repeat
    itself.

    Raises:
        Refused: the data cannot be had, cannot be read, do not suit the kind, leave one side empty, or have more
            faults than are allowed; with those of both sides.
    """
    if not 0 < eval_fraction < 1 or eval_samples < 1 or (max_samples is not None and max_samples < 1):
        raise Refused(
            f"eval_fraction={eval_fraction}, eval_samples={eval_samples}, max_samples={max_samples}: the fraction lies "
            "between 0 and 1, the numbers of rows are at least 1 (max_samples may be None)."
        )
    if eval_split is None and (eval_split := held_out_split(user_path(dataset_name), split, config_name)):
        console().print(f"{kind}: {dataset_name} holds out its own split {eval_split!r}", markup=False)
    made = dataset_name.startswith("made:")
    faults = [Faults(dataset_name, max_dropped_fraction)]
    if made or eval_split is not None:
        faults.append(Faults(f"{dataset_name}, split {eval_split!r}", max_dropped_fraction))
    if made:
        sources = [_made(dataset_name, "train", max_samples, seed), _made(dataset_name, "eval", eval_samples, seed)]
    else:
        names = [split] if eval_split is None else [split, eval_split]
        sources = [
            _read(dataset_name, name, config_name, revision, each) for name, each in zip(names, faults, strict=True)
        ]
    named = [renamed(rows, dict(columns), each.name) for rows, each in zip(sources, faults, strict=True)]
    sources, keys = [rows for rows, _ in named], named[0][1]
    path = user_path(dataset_name)
    if not made and path.is_dir() and not is_saved_to_disk(path):
        tell_unread_files(path, by_split(path, config_name))
    unread, given = ([], []) if made else unread_columns(sources[0], kind, dataset_name)
    if unread:
        console().print(f"{kind} does not read {', '.join(unread)} of {dataset_name}", markup=False, soft_wrap=True)
    if given:
        told = f"{kind} shows the model no {', '.join(given)} of {dataset_name}: reward functions are given them"
        console().print(told, markup=False, soft_wrap=True)
    whole = len(sources[0])
    counts = [whole]
    labelled = group_of(kind).labels == "trained on"
    if max_samples is not None and not faults[0].broken and not labelled:  # whose shares are of the whole source
        # Enough of a long source for both sides, so that a few rows of it do not cost the conversion of all.
        both_sides = max(max_samples / (1 - eval_fraction), eval_samples / eval_fraction)
        enough = 100 + int(1.2 * (both_sides if len(sources) == 1 else max_samples))
        counts = [enough, whole] if enough < whole else [whole]
    for count in counts:
        try:
            some_rows = [_first(sources[0], count), *sources[1:]]
            sides = _sides(some_rows, kind, deepcopy(faults), eval_fraction, made, keys)
        except Refused:
            if count == whole:
                raise
        else:
            if len(sides.train) >= (max_samples or whole) and (len(sources) > 1 or len(sides.eval) >= eval_samples):
                break
    for message in sides.messages:
        warn(message)
    some = _of_both_labels if labelled else _first
    train, held = some(sides.train, max_samples or len(sides.train)), some(sides.eval, eval_samples)
    if len(train) == 0:
        raise Refused(f"{dataset_name} leaves no row to train on: all its problems are held out. Hold out others.")
    if "label" in train.column_names and group_of(kind).labels == "trained on" and len(set(train["label"])) == 1:
        other = "down" if train[0]["label"] else "up"
        raise Refused(
            f"{dataset_name}: all {len(train)} rows to train on have the label {str(train[0]['label']).lower()}, and "
            f"{kind} needs both: add answers with thumbs {other}, or, of answers that are all good, train sft without "
            "the labels."
        )
    info = {
        "name": dataset_name,
        "fingerprint": fingerprint(train, held),
        "train_rows": len(train),
        "eval_rows": len(held),
        "dropped": sides.left_out.total(),
        "faults": dict(sides.left_out),
    }
    return StageData(train, held, info)


class _Sides(NamedTuple):
    train: Dataset
    eval: Dataset
    left_out: Counter[str]
    messages: list[str]
    """What is to be told of the rows that are left out."""


def _sides(sources: list[Dataset], kind: str, faults: list[Faults], fraction: float, made: bool, keys: Names) -> _Sides:
    """Return both sides of what the sources hold.

    Raises:
        Refused: a source has more faults than are allowed, told for all sources together, or one side is empty.
    """
    name = faults[0].name
    converted = [
        to_layout(rows, kind, name=each.name, faults=each, keys=keys)
        for rows, each in zip(sources, faults, strict=True)
    ]
    if not made:
        converted[0] = _without_repeats(converted[0], faults[0])
    messages, problems = [], []
    for each, rows in zip(faults, sources, strict=True):
        try:
            messages.append(each.judge(len(rows) + each.broken))
        except Refused as error:
            problems.append(str(error))
    if problems:
        raise Refused("\n".join(problems))
    train, held = _held_apart(*converted) if len(converted) == 2 else _held_by_hash(converted[0], fraction, name)
    left_out = sum((Counter(each.counts) for each in faults), Counter())
    if shared := 0 if made else sum(map(len, converted)) - len(train) - len(held):
        messages.append(f"{name}: {shared} rows to train on ask what held-out rows ask, and are left out")
        left_out["ask what held-out rows ask"] = shared
    if group_of(kind).labels == "trained on":
        train, held = unpaired(train), unpaired(held)
    every = len(held)
    held = held if made else _once(held)
    if repeated := every - len(held):
        messages.append(f"{name}: {repeated} of {every} held-out rows repeat another one and are left out")
        left_out["repeat another held-out row"] = repeated
    return _Sides(train, held, left_out, [message for message in messages if message])


def _without_repeats(rows: Dataset, faults: Faults) -> Dataset:
    """Return each row once, the first of it; the others are counted as faults."""
    keys = _keys(rows)
    times = Counter(keys)
    asked_again = [index for index, key in enumerate(keys) if times[key] > 1]
    if not asked_again:
        return rows
    places = [number for number in range(1, len(rows) + len(faults.numbers) + 1) if number not in faults.numbers]
    first: dict[str, int] = {}
    repeats = set()
    for index, row in zip(asked_again, rows.select(asked_again), strict=True):
        if (earlier := first.setdefault(_content(row), index)) != index:
            repeats.add(index)
            number = places[index]
            faults.add("a repeated row", f"row {number}", f"row {places[earlier]} again", readable=True, number=number)
    return rows.select([index for index in range(len(rows)) if index not in repeats]) if repeats else rows


def fingerprint(*parts: Dataset) -> str:
    """Return the sha256 of the rows' content, in order, and of which part they are in."""
    digest = sha256()
    for part in parts:
        for row in part:
            digest.update(_content(row).encode() + b"\n")
        digest.update(b"\x00")
    return digest.hexdigest()


ASKED = ("prompt", "messages", "text", "completion", "label", "chosen", "rejected", "tools")
"""Columns that make an example what it is; other columns, such as a number, do not make it another one."""


def _content(row: Any) -> str:
    return json.dumps(row, sort_keys=True, default=str)


def _first(rows: Dataset, count: int) -> Dataset:
    return rows.select(range(min(len(rows), count)))


def _of_both_labels(rows: Dataset, count: int) -> Dataset:
    """Return `count` rows by their hash, in their order: the first rows of a file sorted by label have only one."""
    if count >= len(rows):
        return rows
    digests = [sha256(_content(row).encode()).digest() for row in rows]
    return rows.select(sorted(sorted(range(len(rows)), key=digests.__getitem__)[:count]))


def positions(rows: Dataset) -> list[float]:
    """Return where each row's problem lies in [0, 1): a fraction holds out those that lie below it."""
    return [position(key) for key in _keys(rows)]


def _keys(rows: Dataset) -> list[str]:
    columns = [column for column in ("prompt", "messages", "text") if column in rows.column_names]
    return [normalised(key_of(row)) for row in rows.select_columns(columns)]


def _once(held: Dataset) -> Dataset:
    """Return each row once: measured twice, an example would pass for two, and the interval would be too narrow."""
    first: dict[str, int] = {}
    for index, row in enumerate(held.select_columns([column for column in ASKED if column in held.column_names])):
        first.setdefault(_content(row), index)
    return held.select(list(first.values()))


def _held_apart(train: Dataset, held: Dataset) -> tuple[Dataset, Dataset]:
    """Return both sides as they came, less the training rows whose problem is held out too."""
    taken = set(_keys(held))
    return train.select([index for index, key in enumerate(_keys(train)) if key not in taken]), held


def _held_by_hash(rows: Dataset, fraction: float, name: str) -> tuple[Dataset, Dataset]:
    keys = _keys(rows)
    train, held = two_sides(keys, fraction)
    if len(set(keys)) == 1:
        raise Refused(
            f"{name} has one row, or one problem in all its rows, which cannot be both trained on and held out: give "
            "more (in a .txt file, blank lines part the rows), or name an eval_split."
        )
    if not held:
        nearest = min(position(key) for key in keys)
        raise Refused(
            f"{name}: eval_fraction={fraction} holds out none of its {len(keys)} rows, so nothing could be measured. "
            f"From eval_fraction={math.floor(nearest * 1000 + 1) / 1000} on it holds out one; or name an eval_split."
        )
    return rows.select(train), rows.select(held)


def _made(dataset_name: str, side: str, count: int | None, seed: int) -> Dataset:
    return from_rows(made_data.rows(dataset_name.removeprefix("made:"), side, count, seed), dataset_name)


def _read(dataset_name: str, split: str, config_name: str | None, revision: str | None, faults: Faults) -> Dataset:
    path = user_path(dataset_name)
    if path.exists():
        if revision:
            raise Refused(f"{dataset_name} is a local path, which has no revisions: leave {revision!r} out.")
        return read_path(path, split, faults, config_name)
    refuse_unknown(dataset_name)
    return HubRows(dataset_name, config_name, revision).split(split)
