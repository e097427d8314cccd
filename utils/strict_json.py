"""JSON that others wrote: nothing of it is dropped in silence, and all that cannot be read is a ValueError."""

import json
from collections import Counter
from collections.abc import Iterator
from typing import Any


class KeyTwice(ValueError):
    """An object has a key twice, of whose values Python would keep the last."""


def read(text: str) -> Any:
    """Return the value of a JSON text.

    Raises:
        KeyTwice: an object in it has a key twice.
        ValueError: it is no JSON, or has numbers too long or brackets too deep to be read.
    """
    reader = Reader()
    value = reader.read(text)
    if problem := reader.repeated(value):
        raise KeyTwice(problem)
    return value


class Reader:
    """Reads JSON, and keeps which objects have a key twice, so that a list's good items are told from its bad ones."""

    def __init__(self) -> None:
        self._decode = json.JSONDecoder(object_pairs_hook=self._object).decode
        self._repeating: dict[int, tuple[dict[str, Any], str]] = {}
        """Objects by their id, each with the key. It holds the object too, so that the id stays its own."""

    def read(self, text: str) -> Any:
        """Return the value of a JSON text; of the one read before nothing is kept.

        Raises:
            ValueError: it is no JSON, or has numbers too long or brackets too deep to be read.
        """
        self._repeating.clear()
        try:
            return self._decode(text)
        except RecursionError as error:
            raise ValueError(str(error)) from None

    def repeated(self, value: Any) -> str | None:
        """Return what is said of a value out of the text in which a key stands twice; None of any other."""
        found = (item for item in (parts(value) if self._repeating else ()) if id(item) in self._repeating)
        twice = next(found, None)
        if twice is None:
            return None
        _, key = self._repeating[id(twice)]
        return f"the key {key!r} stands twice in one object: keep the one that is meant."

    def _object(self, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        made = dict(pairs)
        if len(made) < len(pairs):
            self._repeating[id(made)] = made, Counter(key for key, _ in pairs).most_common(1)[0][0]
        return made


def parts(value: Any) -> Iterator[Any]:
    """Yield a JSON value and everything in it, the keys too, in order."""
    unseen = [value]
    while unseen:  # no recursion: brackets that the decoder has room for are too deep for Python's own stack
        item = unseen.pop()
        yield item
        if isinstance(item, dict):
            unseen += reversed([part for pair in item.items() for part in pair])
        elif isinstance(item, list):
            unseen += reversed(item)


def reason(error: ValueError) -> str:
    """Return why a text could not be read, with the column where one is known."""
    return f"{error.msg}, column {error.colno}" if isinstance(error, json.JSONDecodeError) else str(error)
