"""Tasks that score given text: held-out documents, demonstrations and preference pairs."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from data.examples import Example, Row, completion, demonstration, document
from evaluation.calibration import brier, calibration_gaps, length_preference
from evaluation.paired import mean_score
from evaluation.ranking import auc_scores
from evaluation.scored_model import ScoredModel
from evaluation.task import Scores, Task, by_group, scattered, weighted

if TYPE_CHECKING:
    from evaluation.likelihood import Likelihood


@dataclass(frozen=True)
class LanguageModelling(Task):
    """Documents (rows with `text`): how well each token is predicted, from a document's second on."""

    name: ClassVar[str] = "documents"
    version: ClassVar[int] = 2
    headline: ClassVar[tuple[str, ...]] = ("loss", "bits_per_byte")
    metrics: ClassVar[tuple[str, ...]] = ("loss", "accuracy", "bits_per_byte")

    def score(self, checkpoint: ScoredModel) -> Scores:
        """Return `loss` (nats a token), `accuracy` and `bits_per_byte`; their means weigh documents by length."""
        limit = checkpoint.max_tokens
        examples = [document(checkpoint.tokenizer, row["text"], limit) for row in self.held_out.rows]
        found = likelihoods_of(checkpoint, [example for example, _ in examples])
        bits = [likelihood.nll / math.log(2) for likelihood in found]
        return _token_scores(found) | {"bits_per_byte": weighted(bits, [n_bytes for _, n_bytes in examples])}


@dataclass(frozen=True)
class Demonstrations(Task):
    """SFT rows (`messages`, `prompt, completion` or `text`): how well what the assistant should say is predicted."""

    name: ClassVar[str] = "demonstrations"
    version: ClassVar[int] = 2
    headline: ClassVar[tuple[str, ...]] = ("loss", "accuracy")
    metrics: ClassVar[tuple[str, ...]] = ("loss", "accuracy")

    def score(self, checkpoint: ScoredModel) -> Scores:
        """Return `loss` (nats a token) and `accuracy` over completion tokens, the end of each turn included."""
        rows = self.held_out.rows
        for row in rows:
            checkpoint.need_template(row.get("messages", row.get("prompt", "")))
        return _token_scores(likelihoods_of(checkpoint, [demonstration(checkpoint.tokenizer, row) for row in rows]))


@dataclass(frozen=True)
class Preferences(Task):
    """Pairs (`prompt, chosen, rejected`) under a policy: is the chosen answer likelier than the rejected one?"""

    name: ClassVar[str] = "preferences"
    headline: ClassVar[tuple[str, ...]] = ("accuracy", "margin", "chosen_logp", "rejected_logp")
    metrics: ClassVar[tuple[str, ...]] = (*headline, "accuracy/*")

    def score(self, checkpoint: ScoredModel) -> Scores:
        """Return `accuracy`, `margin`, `chosen_logp`, `rejected_logp`: log-probabilities of whole answers, in nats."""
        rows = self.held_out.rows
        found = likelihoods_of(checkpoint, pair_examples(checkpoint, rows))
        logps = [-likelihood.nll if likelihood.tokens else None for likelihood in found]
        return _pair_scores(logps[: len(rows)], logps[len(rows) :], rows, "logp")

    def alarm(self, scores: Scores) -> tuple[str, str] | None:
        """Say that the policy holds nearly all rejected answers for likelier, though it was trained on such pairs."""
        found = [one for one in scores["accuracy"] if one is not None]
        if not found or not mean_score(found).high < AGAINST:
            return None
        return (
            "pairs_against_policy",
            f"in {sum(found) / len(found):.0%} of the {len(found)} held-out pairs the policy, trained on such pairs,"
            " finds the chosen answer likelier than the rejected one: are `chosen` and `rejected` exchanged? Or the"
            " chosen answers are of another form than it writes; then SFT on them comes first",
        )


@dataclass(frozen=True)
class Thumbs(Task):
    """Single answers (`prompt, completion, label`) under a policy: are those with thumbs up likelier?"""

    name: ClassVar[str] = "thumbs"
    headline: ClassVar[tuple[str, ...]] = ("auc", "up_logp", "down_logp")
    metrics: ClassVar[tuple[str, ...]] = headline

    def score(self, checkpoint: ScoredModel) -> Scores:
        """Return `auc`, and `up_logp` and `down_logp`: log-probabilities of whole answers by their label, in nats.

        `auc` is how likely an answer with thumbs up has the higher log-probability a token than one with thumbs down.
        """
        rows = self.held_out.rows
        for row in rows:
            checkpoint.need_template(row["prompt"])
        tokens = checkpoint.tokenizer
        examples = [completion(tokens, row["prompt"], row["completion"], row.get("tools")) for row in rows]
        found = likelihoods_of(checkpoint, examples)
        scores: Scores = {}
        for metric, label in (("up_logp", True), ("down_logp", False)):
            scores[metric] = [
                -likelihood.nll if likelihood.tokens and row["label"] == label else None
                for row, likelihood in zip(rows, found, strict=True)
            ]
        known = {i: -likelihood.nll / likelihood.tokens for i, likelihood in enumerate(found) if likelihood.tokens}
        wanted = [bool(rows[i]["label"]) for i in known]
        numbers = auc_scores(list(known.values()), wanted) if len(set(wanted)) == 2 else []
        scores["auc"] = scattered(dict(zip(known, numbers, strict=False)), len(rows))  # of one label alone: none
        return scores


AGAINST = 0.1
"""Share of pairs in which a policy after its stage finds the chosen answer likelier, below which it disputes them."""
LENGTH_ALONE = 0.8
"""Share of pairs in which the longer, or the shorter, answer scores higher, beyond which length is all that counts."""


@dataclass(frozen=True)
class RewardPairs(Task):
    """Pairs (`prompt, chosen, rejected`) under a reward model: does the chosen answer score higher, as sure as said?"""

    name: ClassVar[str] = "pairs"
    version: ClassVar[int] = 2
    headline: ClassVar[tuple[str, ...]] = ("accuracy", "margin", "brier", "calibration_error")
    metrics: ClassVar[tuple[str, ...]] = (
        *headline, "chosen_reward", "rejected_reward", "accuracy/*", "longer_wins", "longer_is_right", "length_bias",
    )  # fmt: skip

    def score(self, checkpoint: ScoredModel) -> Scores:
        """Return `accuracy`, also for each `kind` of rejection, `margin`, `chosen_reward`, `rejected_reward` and more.

        `brier` and `calibration_error` say whether σ(margin) is the probability that it is taken for. Of pairs whose
        answers differ in tokens, `longer_wins` is the share in which the longer one scores higher, `longer_is_right`
        that in which it is the chosen one, and `length_bias` the first less the second: 0 is none.
        """
        rows = self.held_out.rows
        sequences = [example.input_ids for example in pair_examples(checkpoint, rows)]
        rewards = rewards_of(checkpoint, sequences)
        scores = _pair_scores(rewards[: len(rows)], rewards[len(rows) :], rows, "reward")
        margins = {i: margin for i, margin in enumerate(scores["margin"]) if margin is not None}
        lengths = [len(ids) for ids in sequences]
        preferences = {i: length_preference(m, lengths[i] - lengths[len(rows) + i]) for i, m in margins.items()}
        by_length = {i: found for i, found in preferences.items() if found is not None}
        gaps = calibration_gaps(list(margins.values()))
        more = {
            "brier": {i: brier(margin) for i, margin in margins.items()},
            "calibration_error": dict(zip(margins, gaps, strict=True)),
            "longer_wins": {i: wins for i, (wins, _) in by_length.items()},
            "longer_is_right": {i: is_right for i, (_, is_right) in by_length.items()},
            "length_bias": {i: wins - is_right for i, (wins, is_right) in by_length.items()},
        }
        return scores | {metric: scattered(values, len(rows)) for metric, values in more.items()}

    def alarm(self, scores: Scores) -> tuple[str, str] | None:
        """Say that length alone tells which answer the model likes."""
        wins = [one for one in scores["longer_wins"] if one is not None]
        if not wins:
            return None
        share = sum(wins) / len(wins)
        way, agree = ("longer", wins) if share > 0.5 else ("shorter", [1 - one for one in wins])
        if not mean_score(agree).low > LENGTH_ALONE:
            return None
        right = [one for one in scores["longer_is_right"] if one is not None]
        return (
            "length_alone",
            f"the {way} answer scores higher in {max(share, 1 - share):.0%} of the {len(wins)} held-out pairs whose"
            f" answers differ in length, and the longer one is the chosen one in {sum(right) / len(right):.0%}: it may"
            " have learnt length, and nothing else. Add pairs whose better answer is the shorter one and others whose"
            " is the longer one",
        )


def pair_examples(checkpoint: ScoredModel, rows: Sequence[Row]) -> list[Example]:
    """Return every row's chosen side, then every row's rejected side."""
    for row in rows:
        checkpoint.need_template(row["prompt"])
    return [
        completion(checkpoint.tokenizer, row["prompt"], row[side], row.get("tools"))
        for side in ("chosen", "rejected")
        for row in rows
    ]


def rewards_of(checkpoint: ScoredModel, sequences: Sequence[list[int]]) -> list[float | None]:
    """Return the reward model's score of each sequence; None for one that is longer than the model can take."""
    from evaluation.likelihood import reward_scores

    fits = checkpoint.readable(sequences)
    scores = reward_scores(checkpoint.model, [sequences[i] for i in fits], checkpoint.pad_token_id)
    return scattered(dict(zip(fits, scores, strict=True)), len(sequences))


def likelihoods_of(checkpoint: ScoredModel, examples: Sequence[Example]) -> "list[Likelihood]":
    """Return the examples' likelihoods; no token counts of an example that is longer than the model can take."""
    from evaluation.likelihood import Likelihood, likelihoods

    fits = checkpoint.readable([example.input_ids for example in examples])
    found = likelihoods(checkpoint.model, [examples[i] for i in fits], checkpoint.pad_token_id)
    by_index = dict(zip(fits, found, strict=True))
    return [by_index.get(i, Likelihood(0.0, 0, 0)) for i in range(len(examples))]


def _token_scores(likelihoods: "Sequence[Likelihood]") -> Scores:
    tokens = [likelihood.tokens for likelihood in likelihoods]
    return {
        "loss": weighted([likelihood.nll for likelihood in likelihoods], tokens),
        "accuracy": weighted([float(likelihood.correct) for likelihood in likelihoods], tokens),
    }


def _pair_scores(
    chosen: Sequence[float | None], rejected: Sequence[float | None], rows: Sequence[Row], unit: str
) -> Scores:
    margins = [None if c is None or r is None else c - r for c, r in zip(chosen, rejected, strict=True)]
    accuracy = [None if margin is None else float(margin > 0) for margin in margins]
    return {
        "accuracy": accuracy,
        "margin": margins,
        f"chosen_{unit}": list(chosen),
        f"rejected_{unit}": list(rejected),
        **by_group("accuracy", accuracy, [row.get("kind") for row in rows]),
    }
