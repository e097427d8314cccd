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


def shown_cost(stage: Mapping[str, Any], name: str) -> str:
    """Return one cost of a stage; a dash where it is not known."""
    field, show = COSTS[name]
    return "–" if stage.get(field) is None else show(float(stage[field]))
