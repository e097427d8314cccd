"""What a task is: held-out rows, and the scores that a checkpoint gets on each of them."""

import json
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, ClassVar

from data.examples import Row, prompt_of
from evaluation.scored_model import Impossible, ScoredModel, fingerprint
from utils.files import jsonable

if TYPE_CHECKING:
    from batching.complete import Completion

Scores = dict[str, list[float | None]]
"""For each metric one number a row, in the rows' order; None where the metric does not apply."""
SIDES, SCORE_BYTES, TOKEN_BYTES, TEXT_BYTES = 2, 24, 14, 6
"""What is written, at most, of a stage's input and output: a score in JSON, a token's text and id, its text alone."""


class HeldOut:
    """Held-out rows, loaded when first needed."""

    def __init__(self, rows: Sequence[Row] | Callable[[], Iterable[Row]]) -> None:
        self._rows = rows

    @cached_property
    def rows(self) -> list[Row]:
        """The rows, the same at every call."""
        return list(self._rows() if callable(self._rows) else self._rows)

    @cached_property
    def fingerprint(self) -> str:
        """A hash of the rows' content."""
        return fingerprint(self.rows)

    def first(self, count: int) -> "HeldOut":
        """Return the first rows alone; they are loaded when first needed, too."""
        return HeldOut(lambda: self.rows[:count])


@dataclass(frozen=True)
class Task(ABC):
    """A set of held-out examples and the way to score them."""

    held_out: HeldOut
    name: ClassVar[str]
    version: ClassVar[int] = 1
    """Rises when a score changes its meaning."""
    headline: ClassVar[tuple[str, ...]]
    """The metrics that are reported as null when the task is impossible for a checkpoint."""
    metrics: ClassVar[tuple[str, ...]]
    """The metrics of `score`; `NAME/*` stands for one for each group that the rows tell."""
    asks: ClassVar[bool] = False
    """Whether the rows are prompts, which the checkpoint answers."""
    anew: ClassVar[bool] = False
    """Whether functions of a recipe decide the scores, which may change without a trace: kept scores are not taken."""

    @property
    def options(self) -> dict[str, object]:
        """What decides the scores besides the rows and the weights."""
        return {name: value for name, value in vars(self).items() if name != "held_out"}

    def all_metrics(self) -> tuple[str, ...]:
        """Return `metrics`, and those that this task alone has."""
        return self.metrics

    def verified(self) -> tuple[str, ...]:
        """Return the metrics that are shares of answers found right."""
        return ()

    def most_bytes(self, rows: Sequence[Row]) -> int:
        """Return the bytes that are written of a stage that is measured by this task on these rows, at most."""
        scores = sum(4 if metric.endswith("/*") else 1 for metric in self.all_metrics())  # null in all groups but one
        return SIDES * len(rows) * scores * SCORE_BYTES

    @abstractmethod
    def score(self, checkpoint: ScoredModel) -> Scores:
        """Return each metric's scores, one a row.

        Raises:
            Impossible: the checkpoint cannot be given the task.
        """

    def alarm(self, scores: Scores) -> tuple[str, str] | None:
        """Return name and message of the alarm that a stage's output gives cause for by its scores; None for none."""
        return None

    def scores(self, checkpoint: ScoredModel) -> Scores:
        """Return `score(checkpoint)`, computed once for the same weights, rows, options and version."""
        if not self.held_out.rows:
            raise Impossible(f"no held-out row has what the task {self.name!r} needs")
        key = f"{self.name}-v{self.version}-{self.held_out.fingerprint}-{fingerprint(self.options)}"
        scores: Scores = checkpoint.remembered(key, lambda: self.score(checkpoint), anew=self.anew)
        return scores

    def attempt(self, checkpoint: ScoredModel) -> Scores | str:
        """Return the scores, or the reason why there are none."""
        try:
            return self.scores(checkpoint)
        except Impossible as impossible:
            return str(impossible)


MOST_SAMPLES = 600
"""Rows of one task whose answers are written to be read."""


@dataclass(frozen=True)
class PromptTask(Task):
    """A task whose rows are prompts, which the checkpoint completes."""

    asks: ClassVar[bool] = True
    max_new_tokens: int = 128
    """Tokens after which a completion is cut off."""
    sampled: ClassVar[bool] = False
    """Whether completions are sampled at temperature 1, from a fixed seed, instead of the likeliest ones."""
    samples: ClassVar[int] = 1
    """Completions of each prompt."""

    @property
    def turns(self) -> int:
        """Completions of an answer, at most."""
        return 1

    def most_bytes(self, rows: Sequence[Row]) -> int:
        """Return the bytes of its scores, and of answers as long as they may be: kept, and shown with their prompts."""
        tokens = self.turns * self.max_new_tokens
        kept = super().most_bytes(rows) + SIDES * len(rows) * self.samples * (tokens * TOKEN_BYTES + 64)
        shown = [] if self.sampled else rows[:MOST_SAMPLES]
        prompts = sum(len(json.dumps(jsonable([prompt_of(row), row.get("answer")]))) for row in shown)
        return kept + prompts + len(shown) * (SIDES * (tokens * TEXT_BYTES + 128) + 256)

    @property
    def asked(self) -> list[Row]:
        """The rows, each as often as it is answered."""
        return [row for row in self.held_out.rows for _ in range(self.samples)]

    def completions(self, checkpoint: ScoredModel) -> "list[Completion | None]":
        """Return a completion of each prompt asked; None where there is no prompt, or no room after it."""
        asked = [prompt_of(row) for row in self.asked]
        prompts = [prompt for prompt in asked if prompt is not None]
        done = iter(checkpoint.complete(prompts, self.max_new_tokens, self.sampled))
        return [None if prompt is None else next(done) for prompt in asked]

    def group_of(self, row: Row) -> str | None:
        """Return the kind of thing that a row asks for, if rows tell kinds."""
        return None

    @property
    def judged_by(self) -> tuple[str, ...]:
        """The metrics by which a reader judges one answer."""
        return self.headline[:1]

    def texts(self, checkpoint: ScoredModel) -> list[str | None]:
        """Return the answer to each row's prompt, as one reads it; what scoring has generated is not generated anew."""
        return [None if said is None else said.text for said in self.completions(checkpoint)]


def ending_scores(completions: "Sequence[Completion | None]") -> Scores:
    """Return `stop_rate`, whether each completion ended by itself, and `completion_tokens`."""
    return {
        "stop_rate": [None if c is None else float(c.stopped) for c in completions],
        "completion_tokens": [None if c is None else float(c.n_tokens) for c in completions],
    }


def by_group(metric: str, values: Sequence[float | None], groups: Sequence[str | None]) -> Scores:
    """Return `metric/GROUP` for each group: the values of its rows, None for the others."""
    return {
        f"{metric}/{group}": [value if of == group else None for value, of in zip(values, groups, strict=True)]
        for group in sorted({group for group in groups if group is not None})
    }


def scattered(values: Mapping[int, float | None], length: int) -> list[float | None]:
    """Return a list of `length` with the values at their indices, None elsewhere."""
    return [values.get(index) for index in range(length)]


def weighted(sums: Sequence[float], sizes: Sequence[int]) -> list[float | None]:
    """Return one score an example such that their plain mean is sum(sums) / sum(sizes); None where the size is 0.

    The score is `ratio + (total - ratio·size) / mean size`, the ratio linearised (delta method). The spread of these
    scores, or of their paired differences, is that of the ratio, since a size adds nothing by itself. Documents, not
    tokens, are the independent examples.

    >>> weighted([2.0, 10.0], [1, 3])
    [2.5, 3.5]
    """
    counted = [(total, size) for total, size in zip(sums, sizes, strict=True) if size]
    if not counted:
        return [None for _ in sizes]
    all_sizes = sum(size for _, size in counted)
    ratio, mean_size = math.fsum(total for total, _ in counted) / all_sizes, all_sizes / len(counted)
    scores = (ratio + (total - ratio * size) / mean_size for total, size in zip(sums, sizes, strict=True))
    return [score if size else None for score, size in zip(scores, sizes, strict=True)]
