"""Tasks that a recipe's verifier judges: the share of right answers, and pass@k."""

from dataclasses import dataclass, field
from itertools import product
from typing import TYPE_CHECKING, Any, ClassVar

from data.examples import Row
from evaluation.pass_at_k import means, passes
from evaluation.task import PromptTask, Scores, by_group, ending_scores
from evaluation.verifier import Verifier

if TYPE_CHECKING:
    from batching.complete import Completion
    from evaluation.scored_model import ScoredModel

METRICS = ("strict", "flexible")


@dataclass(frozen=True)
class VerifiedTask(PromptTask):
    """A task whose rows are a verifier's problems."""

    verifier: Verifier = field(kw_only=True)
    anew: ClassVar[bool] = True

    @property
    def options(self) -> dict[str, Any]:
        """The tokens of an answer, and what the verifier is known by."""
        return {"max_new_tokens": self.max_new_tokens} | self.verifier.key

    @property
    def turns(self) -> int:
        """Two where a tool may answer."""
        return 1 if self.verifier.respond is None else 2

    def group_of(self, row: Row) -> str | None:
        """Return the kind of a problem."""
        return None if self.verifier.group is None else str(row[self.verifier.group])


@dataclass(frozen=True)
class Skills(VerifiedTask):
    """Greedy answers to the problems; where an answer calls a tool, the tool answers, and the model goes on once."""

    name: ClassVar[str] = "skills"
    headline: ClassVar[tuple[str, ...]] = ("strict", "flexible", "stop_rate")
    metrics: ClassVar[tuple[str, ...]] = (*METRICS, "stop_rate", "completion_tokens")

    def verified(self) -> tuple[str, ...]:
        """Return `strict`."""
        return ("strict",)

    def all_metrics(self) -> tuple[str, ...]:
        """Return `strict` and `flexible` of each kind of problem too; problems that are no data set tell the kinds."""
        if self.verifier.group is None:
            return self.metrics
        is_data = isinstance(self.verifier.problems, str)
        groups = ["*"] if is_data else sorted({str(self.group_of(row)) for row in self.held_out.rows})
        return (*self.metrics, *(f"{metric}/{group}" for metric, group in product(METRICS, groups)))

    def score(self, checkpoint: "ScoredModel") -> Scores:
        """Return `strict` (right in the form that is wanted) and `flexible` (right), over all and for each kind.

        `stop_rate` and `completion_tokens` are of the first turn.
        """
        first = self.completions(checkpoint)
        last = self._last_turns(checkpoint, first)
        scores: Scores = {
            metric: [None if said is None else self.verifier.verdict(metric, said.text, row) for row, said in last]
            for metric in METRICS
        }
        groups = [self.group_of(row) for row in self.asked]
        for metric in METRICS:
            scores |= by_group(metric, scores[metric], groups)
        return scores | ending_scores(first)

    def texts(self, checkpoint: "ScoredModel") -> list[str | None]:
        """Return each answer; that of the tool, and what is said after it, stand below the call."""
        first = self.completions(checkpoint)
        texts = [None if said is None else said.text for said in first]
        for index, (row, then) in enumerate(self._last_turns(checkpoint, first)):
            if then is not None and then is not first[index]:
                texts[index] = f"{texts[index]}\n→ {row['prompt'][-1]['content']}\n{then.text}"
        return texts

    def _last_turns(
        self, checkpoint: "ScoredModel", first: "list[Completion | None]"
    ) -> "list[tuple[Row, Completion | None]]":
        """Run the tool that first turns call; return each last turn, and its row with what came before it as prompt."""
        turns: list[tuple[Row, Completion | None]] = list(zip(self.asked, first, strict=True))
        going_on: dict[int, Row] = {}
        for index, (row, said) in enumerate(turns):
            response = self.verifier.respond(said.text, row) if said is not None and self.verifier.respond else None
            if said is not None and response is not None:
                called = [{"role": "assistant", "content": said.text}, {"role": "tool", "content": response}]
                going_on[index] = {**row, "prompt": [*row["prompt"], *called]}
        if going_on:
            prompts = [(row["prompt"], row.get("tools")) for row in going_on.values()]
            then = checkpoint.complete(prompts, self.max_new_tokens, self.sampled)
            for (index, row), said in zip(going_on.items(), then, strict=True):
                turns[index] = (row, said)
        return turns


@dataclass(frozen=True)
class SampledSkills(Skills):
    """The same with sampled answers, several to a problem: how often the policy is right, and in how many tries.

    This is what GRPO raises: its rewards are of sampled answers.
    """

    name: ClassVar[str] = "sampled_skills"
    version: ClassVar[int] = 2
    headline: ClassVar[tuple[str, ...]] = ("strict", "pass@4")
    metrics: ClassVar[tuple[str, ...]] = (
        *Skills.metrics,
        *(f"{metric}pass@{k}" for metric, k in product(("", "flexible_"), (2, 4))),
    )
    sampled: ClassVar[bool] = True
    samples: ClassVar[int] = 4

    def score(self, checkpoint: "ScoredModel") -> Scores:
        """Return each problem's mean of the scores of `Skills`, and `pass@2` and `pass@4` of both metrics.

        The mean of `strict` is pass@1. `flexible_pass@k` is pass@k of right answers in any form.
        """
        scores = super().score(checkpoint)
        reached: Scores = {}
        for k in (2, 4):
            reached[f"pass@{k}"] = passes(scores["strict"], self.samples, k)
            reached[f"flexible_pass@{k}"] = passes(scores["flexible"], self.samples, k)
        return {metric: means(values, self.samples) for metric, values in scores.items()} | reached
