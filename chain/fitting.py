"""The micro-batch of each stage of a run, chosen before it starts so that its forecast keeps to the memory budget."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from algorithms.memory import CONTEXT_BYTES
from chain import forecast
from chain.forecast import Models, gib
from chain.stages import Stage
from utils.agreement import by_first
from utils.console import console
from utils.errors import refusal
from utils.runtime import card_bytes
from watching.gpu_memory import others_bytes

OFF, OFF_BYTES = 0.10, 128 << 20
"""Share and size of what was reserved that a forecast may be off before it is said: cuBLAS alone takes 8 to 64 MiB for
itself, which decides nothing, but is a tenth of what a model of a million parameters needs."""


@dataclass(frozen=True)
class Fitting:
    """How a stage is trained within the budget."""

    stage: Stage
    """As the recipe has it, but for the micro-batch: rows times passes are the recipe's."""
    record: Mapping[str, Any] | None
    """Its forecast, for stage_info.json; None where there is none."""
    said: Sequence[str]
    """What is not as the recipe has it, a line each."""


def available_bytes(budget_bytes: int | None) -> int | None:
    """Return the GPU memory to plan with: the budget, by default the card, less what other programs hold.

    The run is capped so, too. Without a GPU it is the budget.
    """
    card = card_bytes()
    if card is None:
        return budget_bytes
    most, others = min(budget_bytes or card, card), others_bytes(CONTEXT_BYTES)
    if others:
        console().print(f"other programs hold {gib(others)} of the GPU: {gib(max(0, most - others))} are left")
    return max(0, most - others)


def missed(kind: str, record: Mapping[str, Any] | None, reserved_bytes: int) -> str | None:
    """Say what a stage has reserved of the GPU, where its recorded forecast is far off; else None."""
    if not record or abs(record["reserved_bytes"] - reserved_bytes) <= max(OFF * reserved_bytes, OFF_BYTES):
        return None
    expected, more = record["reserved_bytes"], record["reserved_bytes"] / max(reserved_bytes, 1) - 1
    return f"{kind}: {gib(reserved_bytes)} of the GPU were reserved, and {gib(expected)} forecast ({more:+.0%})"


def fit_all(
    stages: Sequence[Stage], outputs: Mapping[str, Path], budget_bytes: int | None, begun: Mapping[str, int]
) -> dict[str, Fitting]:
    """Return how each stage is trained in `budget_bytes` of GPU memory, of which other programs may hold a part.

    None is all that the GPU has. `begun` are the micro-batches of stages that were stopped, which they keep. Without a
    budget and a GPU there is nothing to choose: an empty mapping. A stage whose memory cannot be forecast stays as it
    is, and that is said.

    Raises:
        Refused: some stage does not fit, with what would make it.
    """
    given_bytes = budget_bytes
    budget_bytes = by_first(lambda: available_bytes(given_bytes))  # one micro-batch for all processes
    if budget_bytes is None:
        return {}
    models, found, problems = Models(stages, outputs), {}, []
    for stage in stages:
        try:
            if stage.kind in begun and not forecast.needs_float32(stage, models):  # another GPU may be here now
                fitted = forecast.with_micro_batch(stage, begun[stage.kind])
                peak = forecast.forecast(fitted, models)
            elif (chosen := forecast.fit(stage, models, budget_bytes)) is not None:
                fitted, peak = chosen
            else:
                problems.append(forecast.refusal_of(stage, models, budget_bytes))
                continue
        except ValueError as error:
            found[stage.kind] = Fitting(stage, None, [f"{stage.kind}: its memory cannot be forecast: {error}"])
            continue
        said = forecast.changes(stage, peak, models)
        found[stage.kind] = Fitting(fitted, peak.record(budget_bytes), said)
    if problems:
        raise refusal(problems)
    return found
