"""Data sets of the Hub: known by their commit, streamed when they are large, read offline from the cache."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from datasets import Dataset

from utils import hub
from utils.errors import Refused

STREAMED_BYTES = 2 << 30
"""Larger downloads are read as they come, where what is kept is the prepared documents."""
ROWS = 1000  # rows in memory at once


class HubRows:
    """A data set as the Hub, or without a network this machine, has it; no rows are loaded before they are asked for.

    Raises:
        Refused: it cannot be had, or not in this configuration or revision; that also where rows are asked for.
    """

    def __init__(self, name: str, config_name: str | None, revision: str | None) -> None:
        from datasets import load_dataset_builder

        self._named, self._revision = (name, config_name), revision
        self._title = f"data set {name!r} (configuration {config_name!r}, revision {revision!r})"
        self._unreachable = hub.unreachable()
        with self._plainly():
            builder = load_dataset_builder(*self._named, revision=revision)
        commit = Path(builder.cache_dir).name
        if self._unreachable and revision is not None and hub.dataset_commit(name, revision) != commit:
            raise Refused(f"{self._title} is on this machine as {commit} only, and {self._unreachable}. {hub.GET_IT}")
        self.key = (name, builder.config.name, commit)
        """Id, configuration and commit."""
        self.size_bytes: int | None = builder.info.dataset_size
        download_bytes = builder.info.download_size
        self._streamed = not self._unreachable and (download_bytes is None or download_bytes > STREAMED_BYTES)

    def split(self, split: str) -> Dataset:
        """Return the rows of a split, downloading them first."""
        from datasets import load_dataset

        with self._plainly(), hub.bars():
            return load_dataset(*self._named, split=split, revision=self._revision)

    def splits(self) -> dict[str, Any]:
        """Return every split, a Dataset or, of large data, an IterableDataset."""
        from datasets import load_dataset

        with self._plainly(), hub.bars():
            return dict(load_dataset(*self._named, streaming=self._streamed, revision=self._revision))

    def each(self, rows: Any) -> Iterator[Mapping[str, Any]]:
        """Yield the rows of one of `splits`."""
        with self._plainly():
            for batch in rows.iter(ROWS):
                yield from (dict(zip(batch, values, strict=True)) for values in zip(*batch.values(), strict=True))

    @contextmanager
    def _plainly(self) -> Iterator[None]:
        """Turn the libraries' errors into refusals."""
        import httpx2
        from datasets.exceptions import DatasetsError

        try:
            yield
        except Refused:
            raise
        except (OSError, ValueError, RuntimeError, DatasetsError, httpx2.HTTPError) as error:
            reason = str(error).strip().split("\n")[0]
            if self._unreachable is None:
                raise Refused(f"{self._title} cannot be loaded from the Hub: {reason}.") from None
            raise Refused(
                f"{self._title} is not on this machine, and {self._unreachable}: {reason}. {hub.GET_IT}"
            ) from None
