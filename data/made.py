"""Data that a program makes: rows by name, which `made:NAME` finds. A recipe registers its own above its `configs`."""

import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

from utils.errors import Refused, did_you_mean

PREFIX = "made:"
Row = Mapping[str, Any]
Generator = Callable[[str, int, int], Iterable[Row]]
"""Takes the side, `train` or `eval`, the number of rows and a seed. The same three give the same rows, and no problem
is on both sides, whatever the seeds."""


@dataclass(frozen=True)
class MadeRows:
    """A made data set."""

    generator: Generator
    train_rows: int
    """Rows to train on, where a recipe asks for no number."""
    eval_rows: int
    """Held-out rows, where nobody asks for a number."""
    verifier: Any = None
    """The `evaluation.Verifier` of a recipe that trains on these rows and has none of its own."""


REGISTERED: dict[str, MadeRows | str] = {
    "documents": "recipes.arithmetic:DOCUMENTS",
    "conversations": "recipes.arithmetic:CONVERSATIONS",
    "preferences": "recipes.arithmetic:PREFERENCES",
    "prompts": "recipes.arithmetic:PROMPTS",
}
"""Each made data set by its name, or where it stands: it is imported when it is first asked for."""
SHIPPED = frozenset(REGISTERED)


def register_rows(
    name: str, generator: Generator, *, train_rows: int = 10_000, eval_rows: int = 256, verifier: Any = None
) -> None:
    """Add a data set that `made:NAME` finds.

    Raises:
        Refused: sixgig itself has one of that name.
    """
    if name in SHIPPED:
        raise Refused(f"'{PREFIX}{name}' is sixgig's own: call your rows otherwise")
    REGISTERED[name] = MadeRows(generator, train_rows, eval_rows, verifier)


def names() -> list[str]:
    """Return what a recipe may write as `dataset_name`."""
    return [f"{PREFIX}{name}" for name in sorted(REGISTERED)]


def made(name: str) -> MadeRows:
    """Return the made data set of that name, without `made:`.

    Raises:
        Refused: there is none.
    """
    if name not in REGISTERED:
        near = did_you_mean(f"{PREFIX}{name}", names()) or "."
        raise Refused(f"there is no '{PREFIX}{name}'{near} Made data: {', '.join(names())}.")
    found = REGISTERED[name]
    if isinstance(found, str):
        found = REGISTERED[name] = resolve_name(found)
    assert isinstance(found, MadeRows), found
    return found


def rows(name: str, side: str, count: int | None = None, seed: int = 0) -> list[dict[str, Any]]:
    """Return `count` rows of a made data set; `side` is `train` or `eval`.

    Raises:
        Refused: there is no data set of that name.
    """
    assert side in ("train", "eval"), side
    found = made(name)
    count = count or (found.train_rows if side == "train" else found.eval_rows)
    return [dict(row) for row in islice(found.generator(side, count, seed), count)]


def verifier_of(dataset_name: str) -> Any:
    """Return the verifier registered with the data that a recipe names; None for other data."""
    name = dataset_name.removeprefix(PREFIX)
    return made(name).verifier if dataset_name.startswith(PREFIX) and name in REGISTERED else None


def generator_of(dataset_name: str) -> Generator | None:
    """Return what makes the data that a recipe names; None of other data."""
    return made(dataset_name.removeprefix(PREFIX)).generator if dataset_name.startswith(PREFIX) else None


def modules_of(dataset_name: str) -> list[str]:
    """Return the module that makes the data which a recipe names; none of other data, or of one that is not known."""
    known = dataset_name.removeprefix(PREFIX) in REGISTERED
    return [_function(generator).__module__] if known and (generator := generator_of(dataset_name)) else []


def _function(generator: Any) -> Any:
    while isinstance(generator, partial):
        generator = generator.func
    return generator if inspect.isroutine(generator) else type(generator)


def files_of(name: str) -> list[Path]:
    """Return the files of Python that decide a made data set: its generator's, or all of its package."""
    file = Path(inspect.getfile(_function(made(name).generator)))
    return sorted(file.parent.glob("*.py")) if (file.parent / "__init__.py").exists() else [file]
