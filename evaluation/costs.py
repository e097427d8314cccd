"""What a stage cost, by its record, as people say it."""

from collections.abc import Callable, Mapping
from typing import Any

from utils.console import duration


def size(value: float) -> str:
    """Return a number of bytes in the unit that people would choose."""
    return f"{value / 2**20:,.0f} MiB" if value < 2**30 else f"{value / 2**30:.2f} GiB"


COSTS: dict[str, tuple[str, Callable[[Any], str]]] = {
    "time": ("duration_s", duration),
    "steps": ("steps", "{:,.0f}".format),
    "tokens": ("tokens", "{:,.0f}".format),
    "peak memory": ("peak_memory_bytes", size),
    "disk": ("disk_bytes", size),
    "energy": ("energy_j", lambda joules: f"{joules / 3600:.2f} Wh"),
}
"""The field of a stage's record for each cost, and how it is shown."""


OTHER = "other"
"""What is in no phase: loading, preparing rows, trying a step, writing the record."""


def phase_shares(stage: Mapping[str, Any]) -> dict[str, float]:
    """Return the share of a stage's time that went into each phase, the largest first; {} where it was not counted."""
    duration_s, seconds = stage.get("duration_s"), dict(stage.get("phases_s") or {})
    if not duration_s or not seconds:
        return {}
    rest = max(0.0, duration_s - sum(seconds.values()))
    whole = sum(seconds.values()) + rest
    ordered = sorted(seconds.items(), key=lambda one: -one[1])
    return {name: value / whole for name, value in [*ordered, (OTHER, rest)]}


def tokens_a_second(stage: Mapping[str, Any]) -> float | None:
    """Return the tokens trained on in a second of passes and updates; None where it was not counted."""
    seconds, tokens = stage.get("phases_s") or {}, stage.get("tokens")
    trained = sum(seconds.get(name, 0.0) for name in ("reading", "forward and backward", "optimizer"))
    return tokens / trained if tokens and trained else None


def shown_cost(stage: Mapping[str, Any], name: str) -> str:
    """Return one cost of a stage; a dash where it is not known."""
    field, show = COSTS[name]
    return "–" if stage.get(field) is None else show(float(stage[field]))
