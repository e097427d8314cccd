"""Data sets of the Hub: known by their commit, streamed when they are large, read offline from the cache."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from data.corpus.rendering import to_text
from data.messages import Malformed
from utils import hub
from utils.errors import Refused

STREAMED_BYTES = 2 << 30
"""Larger downloads are read as they come, since what is kept is the prepared documents."""
ROWS = 1000  # rows in memory at once


class HubData(NamedTuple):
    """A data set that can be opened."""

    key: tuple[str, str, str]
    """Id, configuration and commit."""
    open: Callable[[], Mapping[str, Iterable[str]]]
    """Gives the documents of each of its splits."""
    size_bytes: int | None


def find(name: str, config_name: str | None, revision: str | None) -> HubData:
    """Return the data set `name` as the Hub, or without a network this machine, has it; loads no rows.

    Raises:
        Refused: it cannot be had, or not in this configuration or revision.
    """
    from datasets import load_dataset, load_dataset_builder

    unreachable = hub.unreachable()
    asked = f"data set {name!r} (configuration {config_name!r}, revision {revision!r})"
    with _said_plainly(asked, unreachable):
        builder = load_dataset_builder(name, config_name, revision=revision)
    commit = Path(builder.cache_dir).name
    if unreachable and revision is not None and hub.dataset_commit(name, revision) != commit:
        raise Refused(f"{asked} is on this machine as {commit} only, and {unreachable}. {hub.GET_IT}")
    download_bytes = builder.info.download_size
    streamed = unreachable is None and (download_bytes is None or download_bytes > STREAMED_BYTES)

    def documents() -> Mapping[str, Iterable[str]]:
        with _said_plainly(asked, unreachable):
            splits = load_dataset(name, config_name, revision=revision, streaming=streamed)
        return {split: _documents(rows, name, asked, unreachable) for split, rows in splits.items()}

    return HubData((name, builder.config.name, commit), documents, builder.info.dataset_size)


def _documents(rows: Any, name: str, asked: str, unreachable: str | None) -> Iterator[str]:
    """Yield the documents of a split, a Dataset or an IterableDataset."""
    number = 0
    with _said_plainly(asked, unreachable):
        if rows.column_names is not None:
            rows = rows.select_columns(to_text(rows.column_names, name)[0])
        for batch in rows.iter(ROWS):
            _, make = to_text(batch, name)
            for values in zip(*batch.values(), strict=True):
                number += 1
                try:
                    yield make(dict(zip(batch, values, strict=True)))
                except Malformed as error:
                    raise Refused(f"{name}, row {number}: {error}.") from None


@contextmanager
def _said_plainly(asked: str, unreachable: str | None) -> Iterator[None]:
    import httpx2
    from datasets.exceptions import DatasetsError

    try:
        yield
    except Refused:
        raise
    except (OSError, ValueError, RuntimeError, DatasetsError, httpx2.HTTPError) as error:
        reason = str(error).strip().split("\n")[0]
        if unreachable is None:
            raise Refused(f"{asked} cannot be loaded from the Hub: {reason}.") from None
        raise Refused(f"{asked} is not on this machine, and {unreachable}: {reason}. {hub.GET_IT}") from None
