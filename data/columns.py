"""Columns of a data set, and keys of its turns, under the names that a recipe gives them.

`columns={"prompt": "query", "completion": "response"}` reads the column `query` as `prompt`;
`{"reasoning_content": "thought"}` may as well name a key of turns; None leaves one out: `{"label": None}`.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from datasets import Dataset, Value

from data.messages import Malformed, turns_in
from utils.errors import Refused, did_you_mean

Names = Mapping[str, str | None]


def renamed(rows: Dataset, names: Names, data: str) -> tuple[Dataset, Names]:
    """Return rows with their columns named anew, and what is left of `names`: that of keys of turns.

    Raises:
        Refused: there is no such column or key.
    """
    columns = by_name(rows.column_names, names)
    keys = of_turns(rows.column_names, names)
    if columns != dict(zip(rows.column_names, rows.column_names, strict=True)):
        rows = rows.select_columns(list(columns.values())).rename_columns({old: new for new, old in columns.items()})
    if keys:
        known = _keys_of_turns(rows)
        if lost := next((given or name for name, given in keys.items() if (given or name) not in known), None):
            near = did_you_mean(lost, [*rows.column_names, *known]) or "."
            there = ", ".join([*rows.column_names, *sorted(known)])
            raise Refused(
                f"columns names {lost!r}, and {data} has no such column, nor key of a turn{near} It has: {there}"
            )
    return rows, keys


def of_turns(columns: Iterable[str], names: Names) -> Names:
    """Return what of `names` names no column, and so keys of turns."""
    there = set(columns)
    return {name: given for name, given in names.items() if (given or name) not in there}


def by_name(columns: Iterable[str], names: Names) -> dict[str, str]:
    """Return the columns of a data set by the names that they get."""
    there = list(columns)
    gone = {given or name for name, given in names.items()} | {name for name, given in names.items() if given in there}
    found = {name: given for name, given in names.items() if given in there}
    return {column: column for column in there if column not in gone} | {name: str(one) for name, one in found.items()}


def with_keys(value: Any, names: Names) -> Any:
    """Return a conversation with the keys of its turns named anew."""
    if not names:
        return value
    if isinstance(value, list):
        return [with_keys(item, names) for item in value]
    if not isinstance(value, Mapping):
        return value
    found = {name: value[given] for name, given in names.items() if given is not None and given in value}
    gone = {given or name for name, given in names.items()}
    return {key: item for key, item in value.items() if key not in gone} | found


def _turns(value: Any) -> Any:
    try:
        return turns_in(value)
    except Malformed:  # told where the row is converted
        return value


def _keys_of_turns(rows: Dataset) -> set[str]:
    texts = ("string", "large_string")
    may = [name for name, kind in rows.features.items() if not isinstance(kind, Value) or kind.dtype in texts]
    listed = (_turns(value) for row in rows.select_columns(may) for value in row.values())
    return {
        key
        for turns in listed
        for turn in (turns if isinstance(turns, list) else [turns])
        if isinstance(turn, Mapping)
        for key in turn
    }
