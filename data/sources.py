"""Load a stage's data: local files, a Hub id or `made:NAME`, in the stage's layout, with its held-out side."""

import json
import math
from collections import Counter
from dataclasses import dataclass
from functools import lru_cache
from hashlib import sha256
from pathlib import Path
from typing import Any, Protocol

from datasets import Dataset

from data import made as made_data
from data.faults import Faults
from data.files import from_rows, held_out_split, read_path
from data.layouts import to_layout
from data.splits import key_of, normalised, position, two_sides
from utils import hub
from utils.console import console, warn
from utils.errors import Refused, did_you_mean
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


class DataConfig(Protocol):
    """What of a stage's configuration decides its rows."""

    @property
    def dataset_name(self) -> str: ...
    @property
    def dataset_split(self) -> str: ...
    @property
    def dataset_config_name(self) -> str | None: ...
    @property
    def dataset_revision(self) -> str | None: ...
    @property
    def eval_split(self) -> str | None: ...
    @property
    def eval_fraction(self) -> float: ...
    @property
    def eval_samples(self) -> int: ...
    @property
    def max_samples(self) -> int | None: ...
    @property
    def max_dropped_fraction(self) -> float | None: ...
    @property
    def seed(self) -> int: ...


def load_for(config: DataConfig, stage: str) -> StageData:
    """Load the data of a stage as its configuration says; see `load`.

    Checks, training and evaluation of a stage share what was loaded first: do not change it. A local file that has
    changed since is loaded again.
    """
    return _loaded(
        config.dataset_name,
        stage,
        files_now(config.dataset_name),
        split=config.dataset_split,
        config_name=config.dataset_config_name,
        revision=config.dataset_revision,
        eval_split=config.eval_split,
        eval_fraction=config.eval_fraction,
        eval_samples=config.eval_samples,
        max_samples=config.max_samples,
        max_dropped_fraction=config.max_dropped_fraction,
        seed=config.seed,
    )


Files = tuple[tuple[str, int, int], ...]


@lru_cache(maxsize=5)  # a recipe has five stages at most
def _loaded(dataset_name: str, stage: str, _files: Files, **options: Any) -> StageData:
    return load(dataset_name, stage, **options)


def files_now(dataset_name: str) -> Files:
    """Return path, time of change and size of the local files that a name means; none for other data."""
    path = user_path(dataset_name)
    try:
        files = sorted(path.resolve().iterdir()) if path.is_dir() else [path.resolve()] if path.exists() else []
        found = [(file, file.stat()) for file in files if file.exists()]
    except OSError as error:
        raise Refused(f"{path} cannot be read: {error.strerror}.") from None
    return tuple((str(file), stat.st_mtime_ns, stat.st_size) for file, stat in found)


def load(
    dataset_name: str,
    stage: str,
    *,
    split: str = "train",
    config_name: str | None = None,
    revision: str | None = None,
    eval_split: str | None = None,
    eval_fraction: float = 0.05,
    eval_samples: int = 256,
    max_samples: int | None = None,
    max_dropped_fraction: float | None = None,
    seed: int = 42,
) -> StageData:
    """Load `dataset_name` for `stage`, at most `max_samples` rows to train on and `eval_samples` held-out ones.

    The held-out side is `eval_split` if that is named, the generator's own for made data, the `validation` or else the
    `test` files of a folder, else the share `eval_fraction` of problems by their hash (see data/splits.py); held-out
    rows beyond `eval_samples` are not used at all. Rows are taken in the source's order. `seed` is for made data. Rows
    that cannot be read, teach nothing or repeat others are left out while their share of the source is allowed (see
    data/faults.py); made data may repeat itself.

    Raises:
        Refused: the data cannot be had, cannot be read, do not suit the stage, leave one side empty, or have more
            faults than are allowed; with those of both sides.
    """
    if not 0 < eval_fraction < 1 or eval_samples < 1 or (max_samples is not None and max_samples < 1):
        raise Refused(
            f"eval_fraction={eval_fraction}, eval_samples={eval_samples}, max_samples={max_samples}: the fraction lies "
            "between 0 and 1, the numbers of rows are at least 1 (max_samples may be None)."
        )
    if eval_split is None and (eval_split := held_out_split(user_path(dataset_name), split)):
        console().print(f"{stage}: {dataset_name} holds out its own split {eval_split!r}", markup=False)
    made = dataset_name.startswith("made:")
    faults = [Faults(name, max_dropped_fraction) for name in (dataset_name, f"{dataset_name}, split {eval_split!r}")]
    if made:
        sources = [_made(dataset_name, "train", max_samples, seed), _made(dataset_name, "eval", eval_samples, seed)]
    else:
        splits = [split] if eval_split is None else [split, eval_split]
        sources = [
            _read(dataset_name, each, config_name, revision, found) for each, found in zip(splits, faults, strict=False)
        ]
    if max_samples is not None and not faults[0].broken:  # whose share is of the whole source
        # Enough of a long source for both sides, so that a few rows of it do not cost the conversion of all.
        both_sides = max(max_samples / (1 - eval_fraction), eval_samples / eval_fraction)
        sources[0] = _first(sources[0], 100 + int(1.2 * (both_sides if len(sources) == 1 else max_samples)))
    names = [found.name for found in faults]
    converted = [
        to_layout(rows, stage, name=name, faults=found)
        for rows, name, found in zip(sources, names, faults, strict=False)
    ]
    if not made:
        converted[0] = _without_repeats(converted[0], faults[0])
    _judge(faults, sources)
    if len(converted) == 2:
        train, held = _held_apart(*converted)
    else:
        train, held = _held_by_hash(converted[0], eval_fraction, dataset_name)
    left_out = sum((Counter(found.counts) for found in faults), Counter())
    if not made:
        if shared := sum(map(len, converted)) - len(train) - len(held):
            warn(f"{dataset_name}: {shared} rows to train on ask what held-out rows ask, and are left out")
            left_out["ask what held-out rows ask"] = shared
        every = len(held)
        held = _once(held, dataset_name)
        if every > len(held):
            left_out["repeat another held-out row"] = every - len(held)
    train, held = _first(train, max_samples or len(train)), _first(held, eval_samples)
    if len(train) == 0:
        raise Refused(f"{dataset_name} leaves no row to train on: all its problems are held out. Hold out others.")
    info = {
        "name": dataset_name,
        "fingerprint": fingerprint(train, held),
        "train_rows": len(train),
        "eval_rows": len(held),
        "dropped": left_out.total(),
        "faults": dict(left_out),
    }
    return StageData(train, held, info)


def _judge(faults: list[Faults], sources: list[Dataset]) -> None:
    """Raise Refused, for all sources together, if one has more faults than are allowed."""
    problems = []
    for found, rows in zip(faults, sources, strict=False):
        try:
            found.judge(len(rows) + found.broken)
        except Refused as error:
            problems.append(str(error))
    if problems:
        raise Refused("\n".join(problems))


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


ASKED = ("prompt", "messages", "text", "completion", "chosen", "rejected", "tools")
"""Columns that make an example what it is; other columns, such as a number, do not make it another one."""


def _content(row: Any) -> str:
    return json.dumps(row, sort_keys=True, default=str)


def _first(rows: Dataset, count: int) -> Dataset:
    return rows.select(range(min(len(rows), count)))


def _keys(rows: Dataset) -> list[str]:
    columns = [column for column in ("prompt", "messages", "text") if column in rows.column_names]
    return [normalised(key_of(row)) for row in rows.select_columns(columns)]


def _once(held: Dataset, name: str) -> Dataset:
    """Return each row once: measured twice, an example would pass for two, and the interval would be too narrow."""
    first: dict[str, int] = {}
    asked = held.select_columns([column for column in ASKED if column in held.column_names])
    for index, row in enumerate(asked):
        first.setdefault(_content(row), index)
    if repeated := len(held) - len(first):
        warn(f"{name}: {repeated} of {len(held)} held-out rows repeat another one and are left out")
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
        if config_name or revision:
            raise Refused(f"{dataset_name} is a local path, which has no configurations or revisions: leave them out.")
        return read_path(path, split, faults)
    if not hub.is_dataset_id(dataset_name):
        raise Refused(
            f"there is no data set {dataset_name!r}{did_you_mean(dataset_name, _near(path)) or '.'} Data are a local "
            f"file or folder (looked in {path.parent.resolve()}), a Hub id as owner/name, or made:NAME."
        )
    return _from_hub(dataset_name, split, config_name, revision)


def _near(path: Path) -> list[str]:
    """Return names that may have been meant: what lies where `path` was looked for, and made data."""
    beside = [str(path.parent / found.name) for found in path.parent.iterdir()] if path.parent.is_dir() else []
    return [*beside, *made_data.names()]


def _from_hub(name: str, split: str, config_name: str | None, revision: str | None) -> Dataset:
    from datasets import load_dataset
    from datasets.exceptions import DatasetsError

    unreachable = hub.unreachable()
    try:
        with hub.bars():
            rows = load_dataset(name, config_name, split=split, revision=revision)
    except (OSError, ValueError, RuntimeError, DatasetsError) as error:
        reason = str(error).strip().split("\n")[0]
        asked = f"split {split!r}, configuration {config_name!r}, revision {revision!r}"
        if unreachable is None:
            raise Refused(f"data set {name!r} cannot be loaded from the Hub: {reason} ({asked}).") from None
        raise Refused(
            f"data set {name!r} ({asked}) is not on this machine, and {unreachable}: {reason}. {hub.GET_IT}"
        ) from None
    found = {Path(file["filename"]).parent.name for file in rows.cache_files}
    if unreachable and revision is not None and hub.dataset_commit(name, revision) not in found:
        raise Refused(
            f"data set {name!r} is on this machine as {', '.join(sorted(found))}, not as revision {revision!r}, and "
            f"{unreachable}. {hub.GET_IT}"
        )
    return rows
