"""What a source's name means: one data set, or several with the share of tokens that each has in training."""

import math

from utils.errors import Refused
from utils.files import user_path

FORM = "A mixture is NAME:WEIGHT,NAME:WEIGHT,... with weights above 0 that sum to 1, as in tinystories:0.7,notes:0.3."
TOLERANCE = 0.015
"""How far a sum of weights may be from 1: three thirds may be written 0.33."""


def parse(source: str) -> list[tuple[str, float]]:
    """Return the parts of a source, each with its weight; the weights sum to 1. A path that exists is one part.

    >>> parse("tinystories:0.7,path/to/notes:0.3")
    [('tinystories', 0.7), ('path/to/notes', 0.3)]
    >>> parse("made:documents")
    [('made:documents', 1.0)]

    Raises:
        Refused: a part without a name or a weight, a weight that is no share, weights that do not sum to 1, or the
            same part twice.
    """
    if not source.strip():
        raise Refused("the data have no name: give a file, a folder, a Hub id, a built-in name, or a mixture of them.")
    if _exists(source) or ("," not in source and _weight(source.rpartition(":")[2]) is None):
        return [(source, 1.0)]
    weights: dict[str, float] = {}
    for part in source.split(","):
        name, _, number = part.strip().rpartition(":")
        name, weight = name.strip(), _weight(number)
        if not name or weight is None:
            raise Refused(f"{part.strip()!r} in the mixture {source!r} is not a name and its weight. {FORM}")
        if not (math.isfinite(weight) and weight > 0):
            raise Refused(f"the weight {number} in the mixture {source!r} is no share of the tokens. {FORM}")
        if name in weights:
            raise Refused(f"the mixture {source!r} names {name} twice. {FORM}")
        weights[name] = weight
    total = math.fsum(weights.values())
    if abs(total - 1) > TOLERANCE:
        shares = ",".join(f"{name}:{weight / total:.4g}" for name, weight in weights.items())
        raise Refused(f"the weights of {source!r} sum to {total:g}, not to 1: write {shares}?")
    return [(name, weight / total) for name, weight in weights.items()]


def _weight(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _exists(source: str) -> bool:
    try:
        return user_path(source).exists()
    except Refused:  # too long for a path: a mixture of many parts
        return False
