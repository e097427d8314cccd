"""The micro-batch of each stage of a run, chosen before it starts so that its forecast keeps to the memory budget."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from chain import forecast
from chain.forecast import Models
from chain.stages import Stage
from utils.errors import refusal
from utils.runtime import card_bytes


@dataclass(frozen=True)
class Fitting:
    """How a stage is trained within the budget."""

    stage: Stage
    """As the recipe has it, but for the micro-batch: rows times passes are the recipe's."""
    record: Mapping[str, Any] | None
    """Its forecast, for stage_info.json; None where there is none."""
    said: Sequence[str]


def fit_all(
    stages: Sequence[Stage], outputs: Mapping[str, Path], budget_bytes: int | None, begun: Mapping[str, int]
) -> dict[str, Fitting]:
    """Return how each stage is trained in `budget_bytes` of GPU memory; None: in all that the GPU has.

    `begun` are the micro-batches of stages that were stopped, which they keep. Without a budget and a GPU there is
    nothing to choose: an empty mapping. A stage whose memory cannot be forecast stays as it is, and that is said.

    Raises:
        Refused: some stage does not fit, with what would make it.
    """
    budget_bytes = budget_bytes or card_bytes()
    if budget_bytes is None:
        return {}
    models, found, problems = Models(stages, outputs), {}, []
    for stage in (one for one in stages if one.model is not None):
        try:
            if stage.kind in begun:
                kept = forecast.with_micro_batch(stage, begun[stage.kind])
                fitting = kept, forecast.forecast(kept, models)
            else:
                chosen = forecast.fit(stage, models, budget_bytes)
                if chosen is None:
                    problems.append(forecast.refusal_of(stage, models, budget_bytes))
                    continue
                fitting = chosen
        except ValueError as error:
            found[stage.kind] = Fitting(stage, None, [f"{stage.kind}: its memory cannot be forecast: {error}"])
            continue
        said = forecast.changes(stage, fitting[1])
        found[stage.kind] = Fitting(fitting[0], fitting[1].record(budget_bytes), said)
    if problems:
        raise refusal(problems)
    return found
