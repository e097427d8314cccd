"""What held-out rows cannot tell, since they share the faults of those trained on, and a model can.

Where all answers are shuffled among the questions, all pairs are swapped, or the longer answer is always the chosen
one, a stage learns just that, and its figures rise. These tasks change the held-out rows in ways of which the outcome
is known without labels.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

from data.examples import Example, Row, completion, prompt_of
from evaluation.paired import student
from evaluation.scored_model import ScoredModel
from evaluation.task import Scores, Task
from evaluation.tasks import likelihoods_of, rewards_of

FEWEST = 20
"""Rows below which nothing is said."""


@dataclass(frozen=True)
class OtherQuestions(Task):
    """Demonstrations, each answer after its own question and after another row's: is the own one of any use?"""

    name: ClassVar[str] = "other_questions"
    headline: ClassVar[tuple[str, ...]] = ("nats_saved",)
    metrics: ClassVar[tuple[str, ...]] = headline

    def score(self, checkpoint: ScoredModel) -> Scores:
        """Return `nats_saved`: by how much the own question lowers the loss of a token of the last answer."""
        rows = self.held_out.rows
        own = likelihoods_of(checkpoint, [_answered(checkpoint, row, row) for row in rows])
        others = [_answered(checkpoint, _other(rows, place), row) for place, row in enumerate(rows)]
        other = likelihoods_of(checkpoint, others)
        return {
            "nats_saved": [
                b.nll / b.tokens - a.nll / a.tokens if a.tokens and b.tokens else None
                for a, b in zip(own, other, strict=True)
            ]
        }

    def alarm(self, scores: Scores) -> tuple[str, str] | None:
        """Say that the answers have nothing to do with their questions."""
        saved = [one for one in scores["nats_saved"] if one is not None]
        if len(saved) < FEWEST or len({_question(row) for row in self.held_out.rows}) < FEWEST:
            return None
        found = student(saved)
        if found.low > 0:
            return None
        return (
            "answers_ignore_questions",
            f"after another row's question an answer is as likely as after its own (by {found.mean:+.3f} nats a token,"
            f" 95 % interval {found.low:+.3f} to {found.high:+.3f}, n = {len(saved)}): either the answers stand beside"
            " the wrong questions, as after one column was sorted or shuffled alone, or they do not depend on them."
            " Read some rows of the data; held-out rows share the fault, so no other figure shows it",
        )


@dataclass(frozen=True)
class WorseAnswers(Task):
    """Chosen answers against ones that are surely worse, under a reward model."""

    name: ClassVar[str] = "worse_answers"
    headline: ClassVar[tuple[str, ...]] = ("accuracy",)
    metrics: ClassVar[tuple[str, ...]] = (*headline, "accuracy/*")

    def score(self, checkpoint: ScoredModel) -> Scores:
        """Return `accuracy`: how often the chosen answer scores higher than itself cut, thrice, or none, or another's.

        Each of these has its own `accuracy/NAME`, where a row has it.
        """
        rows = self.held_out.rows
        chosen = rewards_of(checkpoint, [_ids(checkpoint, row, _last(row)) for row in rows])
        scores: Scores = {"accuracy": []}
        for name, worsened in WORSE.items():
            texts = [worsened(_last(row), _last(_other(rows, place))) for place, row in enumerate(rows)]
            worse = rewards_of(checkpoint, [_ids(checkpoint, row, text) for row, text in zip(rows, texts, strict=True)])
            scores[f"accuracy/{name}"] = [
                None
                if one is None or other is None or text == _last(row)
                else 0.5 + 0.5 * ((one > other) - (one < other))
                for row, text, one, other in zip(rows, texts, chosen, worse, strict=True)
            ]
        for values in zip(*(scores[f"accuracy/{name}"] for name in WORSE), strict=True):
            known = [value for value in values if value is not None]
            scores["accuracy"].append(sum(known) / len(known) if known else None)
        return scores

    def alarm(self, scores: Scores) -> tuple[str, str] | None:
        """Say that the model does not tell what is surely worse."""
        found = [one for one in scores["accuracy"] if one is not None]
        if len(found) < FEWEST or (rate := student(found)).low > 0.5:
            return None
        each = {name: [one for one in scores[f"accuracy/{name}"] if one is not None] for name in WORSE}
        told = ", ".join(f"{name} {sum(values) / len(values):.0%}" for name, values in each.items() if values)
        return (
            "takes_worse_answers",
            f"it scores the chosen answers above ones that are surely worse in {rate.mean:.0%} of the cases, no more"
            f" than a coin would ({told}; n = {len(found)}): are `chosen` and `rejected` exchanged, or has it learnt"
            " too little? Held-out pairs share the fault, so `pairs ranked right` does not show it",
        )


WORSE: dict[str, Callable[[str, str], str]] = {
    "empty": lambda text, _: "",
    "cut": lambda text, _: text[: len(text) // 2],
    "repeated": lambda text, _: "\n".join([text] * 3),
    "of_another": lambda _, other: other,
}
"""What makes a chosen answer worse, of its text and that of another row."""


def _other(rows: Sequence[Row], place: int) -> Row:
    """Return the next row that asks something else; the row itself where all ask the same."""
    own = _question(rows[place])
    later = (rows[(place + step) % len(rows)] for step in range(1, len(rows)))
    return next((row for row in later if _question(row) != own), rows[place])


def _question(row: Row) -> str:
    asked = prompt_of(row)
    return str(asked and asked[0])


def _answered(checkpoint: ScoredModel, asking: Row, answering: Row) -> Example:
    asked, own = prompt_of(asking), prompt_of(answering)
    assert asked is not None  # rows without a question are left out
    assert own is not None
    prompt, tools = asked
    checkpoint.need_template(prompt)
    answer = answering["completion"] if "prompt" in answering else answering["messages"][len(own[0]) :]
    return completion(checkpoint.tokenizer, prompt, answer, tools)


def _last(row: Row) -> str:
    """Return the text of a row's chosen answer."""
    return str(row["chosen"] if isinstance(row["chosen"], str) else row["chosen"][-1]["content"])


def _ids(checkpoint: ScoredModel, row: Row, text: str) -> list[int]:
    """Return a pair's question with another text as the last turn of its chosen answer."""
    checkpoint.need_template(row["prompt"])
    chosen = text if isinstance(row["chosen"], str) else [*row["chosen"][:-1], {**row["chosen"][-1], "content": text}]
    return completion(checkpoint.tokenizer, row["prompt"], chosen, row.get("tools")).input_ids
