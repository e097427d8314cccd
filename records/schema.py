"""What run_info.json and stage_info.json hold, as whoever reads them relies on; checked once, when they are read."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from utils.errors import Refused
from utils.files import read_json
from utils.values import matches, shown


class Unsound(Refused):
    """A file of records that cannot be read, or does not hold what it should."""


Shape = Any
"""A type; a tuple of the shapes that may be there, None for null; `[X]`, a list of X; `[X, Y]`, a list of these two;
`{str: X}`, an object of X; or an object's keys, where `key?` may be missing, and any other key may hold anything."""

CONFIG: Shape = {
    "model_name?": (str, None), "dataset_name?": str, "output_dir?": str,
    "grpo_extra?": ({"reward_func?": [(str, None)]}, None),
}  # fmt: skip
ENTRY: Shape = {
    "name": str, "output_dir": str, "status": str, "kind?": str, "started_at?": (str, None),
    "duration_s?": (float, None), "input?": ({}, None), "passes_on?": str,
}  # fmt: skip
RUN: Shape = {
    "run_id?": str, "status": str, "stages": [ENTRY], "recipe?": (str, None), "argv?": [str], "from_run?": (str, None),
    "seed?": (int, None), "started_at?": (str, None), "finished_at?": (str, None), "values?": [str], "forced?": [str],
    "limits?": {}, "configs?": {str: CONFIG}, "data?": {str: (str, None)}, "verifier?": (str, None),
    "versions?": {str: str}, "git_commit?": (str, None), "code?": ({str: str}, None), "processes?": int,
    "hardware?": {
        "cpu": str, "cpu_cores": int, "memory_bytes": int, "device": str, "gpus": [{"name": str, "memory_bytes": int}],
    },
}  # fmt: skip
"""run_info.json. Records made before stages had labels lack `kind`, which is the name there."""

WEIGHTS: Shape = ({"sha256": str, "ref?": str, "path?": str, "files?": {str: str}}, None)
DATA: Shape = {
    "name?": str, "fingerprint?": str, "train_rows?": int, "eval_rows?": int, "dropped?": int, "faults?": {str: int},
    "parts?": [{}],
}  # fmt: skip
CHAT: Shape = {
    "turns": int, "ways": [{"system": (str, None), "tools": ([{}], None), "share": float, "questions": [str]}],
}  # fmt: skip
INTERVAL: Shape = ([float, float], None)
RESULT: Shape = {
    "task": str, "metric": str, "n": int, "before": (float, None), "after": (float, None), "ci95": INTERVAL,
    "reason?": str,
}  # fmt: skip
GATE: Shape = {
    "metric": str, "rule": str, "value": (float, bool), "failed": bool, "n?": int, "before?": (float, None),
    "after?": (float, None), "ci95?": INTERVAL, "bounds95?": INTERVAL, "decision?": str, "reason?": str,
}  # fmt: skip
STAGE: Shape = {
    "name?": (str, None), "kind?": str, "status?": str, "config?": CONFIG, "input?": WEIGHTS, "output?": WEIGHTS,
    "reward_models?": {str: str}, "data?": (DATA, None), "steps?": int, "tokens?": int, "duration_s?": (float, None),
    "evaluation_s?": float, "phases_s?": {str: float},
    "energy_j?": (float, None), "energy_from?": [str], "peak_memory_bytes?": (int, None),
    "evaluation?": [RESULT], "alarms?": [{"step": int, "name": str, "message": str}], "gates?": [GATE],
    "chat?": (CHAT, None),
    "gate_failed?": (str, None), "out_of_memory?": [{"step": int, "per_device_train_batch_size?": [int, int]}],
    "forecast?": ({"per_device_train_batch_size": int, "reserved_bytes": int}, None), "error?": (str, None),
}  # fmt: skip
"""stage_info.json: a stage that has not come so far, or is of an earlier version, lacks some of it."""


def read_record(file: Path, shape: Shape) -> dict[str, Any]:
    """Return the object in a JSON file, which is of that shape.

    Raises:
        Unsound: it cannot be read, or is another one; the message says which key, and what must be there.
    """
    try:
        found = read_json(file)
    except Refused as refused:
        raise unsound(str(refused)) from refused
    if problem := next(misfits(found, shape), None):
        raise unsound(f"{file} is no sound record: {problem}")
    return dict(found)


def unsound(problem: str) -> Unsound:
    """Return the refusal of a file of records, with what to do about it."""
    return Unsound(f"{problem}. Mend the file, or name another run or model")


def misfits(value: Any, shape: Shape, key: str = "") -> Iterator[str]:
    """Yield of each part of a JSON value that is not of its shape its key, what is there, and what must be.

    >>> list(misfits({"stages": [{"name": 3}, {}]}, {"stages": [{"name": str}]}))
    ['stages[0].name is 3, and must be text', 'stages[1] has no name']
    """
    shapes = shape if isinstance(shape, tuple) else (shape,)
    one = next((one for one in shapes if _may_be(value, one)), shape)
    if one is shape and not _may_be(value, shape):
        given = "null" if value is None else shown(value)
        yield f"{key or 'it'} is {given}, and must be {' or '.join(map(_words, shapes))}"
    elif isinstance(one, list):
        for place, item in enumerate(value):
            yield from misfits(item, one[place % len(one)], f"{key}[{place}]")
    elif isinstance(one, dict):
        dot = "." if key else ""
        lacking = [name for name in one if name is not str and not name.endswith("?") and name not in value]
        yield from (f"{key or 'it'} has no {name}" for name in lacking)
        for name, item in value.items():
            inside = [one[known] for known in (name, f"{name}?", str) if known in one]
            yield from misfits(item, inside[0], f"{key}{dot}{name}") if inside else ()


def _may_be(value: Any, shape: Shape) -> bool:
    """Tell whether a value is of a shape, whatever is in it."""
    if isinstance(shape, dict):
        return isinstance(value, dict)
    if isinstance(shape, list):
        return isinstance(value, list) and (len(shape) == 1 or len(value) == len(shape))
    if shape is None or isinstance(shape, tuple):
        return shape is value
    return matches(value, shape) and not (isinstance(value, float) and not math.isfinite(value))


def _words(shape: Shape) -> str:
    """Return a shape as JSON calls it."""
    if isinstance(shape, list):
        return "a list" if len(shape) == 1 else f"a list of {len(shape)}"
    return "an object" if isinstance(shape, dict) else WORDS[shape]


WORDS = {str: "text", int: "a whole number", float: "a number", bool: "true or false", None: "null"}
