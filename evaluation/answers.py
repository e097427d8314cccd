"""Tasks that score a policy's own answers to held-out prompts: do they end, and what are they worth?"""

import asyncio
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from data.examples import Row
from evaluation.paired import is_binary
from evaluation.pass_at_k import means, passes
from evaluation.scored_model import ScoredModel
from evaluation.task import PromptTask, Scores, ending_scores, scattered
from evaluation.verifier import source_of
from utils.reward_values import reward_numbers

if TYPE_CHECKING:
    from batching.complete import Completion

RewardFunction = Callable[..., Any]


@dataclass(frozen=True)
class Answers(PromptTask):
    """Greedy answers to held-out prompts: do they end by themselves, and how long are they?"""

    name: ClassVar[str] = "answers"
    headline: ClassVar[tuple[str, ...]] = ("stop_rate",)
    metrics: ClassVar[tuple[str, ...]] = ("stop_rate", "completion_tokens")

    def score(self, checkpoint: ScoredModel) -> Scores:
        """Return `stop_rate` and `completion_tokens`."""
        return ending_scores(self.completions(checkpoint))


@dataclass(frozen=True)
class Rewards(PromptTask):
    """Greedy answers to held-out prompts, judged by verifiable reward functions of TRL's convention."""

    functions: Mapping[str, RewardFunction] = field(default_factory=dict)
    """Reward functions by name; they are given the rows' columns."""
    name: ClassVar[str] = "rewards"
    headline: ClassVar[tuple[str, ...]] = ("stop_rate",)
    metrics: ClassVar[tuple[str, ...]] = ("stop_rate", "completion_tokens")
    anew: ClassVar[bool] = True

    def all_metrics(self) -> tuple[str, ...]:
        """Return the functions' names too."""
        return (*self.functions, *self.metrics)

    @property
    def options(self) -> dict[str, object]:
        """The tokens of an answer, and the source of each function."""
        sources = {name: source_of(function) for name, function in self.functions.items()}
        return {"max_new_tokens": self.max_new_tokens, "functions": sources}

    def verified(self) -> tuple[str, ...]:
        """Return the functions that are marked as verifying."""
        return tuple(name for name, function in self.functions.items() if getattr(function, "verifies", False))

    @property
    def judged_by(self) -> tuple[str, ...]:
        """The reward functions."""
        return tuple(self.functions) or self.headline

    def score(self, checkpoint: ScoredModel) -> Scores:
        """Return each function's reward under its name, `stop_rate` and `completion_tokens`."""
        completions = self.completions(checkpoint)
        return self._rewards(completions) | ending_scores(completions)

    def _rewards(self, completions: "Sequence[Completion | None]") -> Scores:
        said = {index: completion for index, completion in enumerate(completions) if completion is not None}
        asked = self.asked
        rows = [asked[index] for index in said]
        scores: Scores = {}
        for name, function in self.functions.items():
            rewards = call_reward(function, rows, list(said.values()))
            scores[name] = scattered(dict(zip(said, rewards, strict=True)), len(completions))
        return scores


@dataclass(frozen=True)
class SampledRewards(Rewards):
    """Several sampled answers to each prompt: how often, and in how many tries, a reward function finds one right.

    This is of functions that verify: those that gave these answers no reward but 0 and 1, or none.
    """

    name: ClassVar[str] = "sampled_rewards"
    headline: ClassVar[tuple[str, ...]] = ()
    sampled: ClassVar[bool] = True
    samples: ClassVar[int] = 4

    def all_metrics(self) -> tuple[str, ...]:
        """Return those of each function, whether it verifies or not."""
        return tuple(f"{name}/pass@{k}" for name in self.functions for k in (1, 2, 4))

    def score(self, checkpoint: ScoredModel) -> Scores:
        """Return `NAME/pass@1`, `NAME/pass@2` and `NAME/pass@4` of each such function."""
        scores: Scores = {}
        for name, rewards in self._rewards(self.completions(checkpoint)).items():
            given = [reward for reward in rewards if reward is not None]
            if given and is_binary(given):
                scores[f"{name}/pass@1"] = means(rewards, self.samples)
                scores |= {f"{name}/pass@{k}": passes(rewards, self.samples, k) for k in (2, 4)}
        return scores


def call_reward(function: RewardFunction, rows: Sequence[Row], said: "Sequence[Completion]") -> list[float | None]:
    """Return what a reward function of TRL's convention gives for what was said to the rows' prompts.

    Raises:
        StageFailed: it does not return one finite number, or None, a completion.
    """
    from transformers import TrainerState

    if not said:
        return []
    prompts = [row["prompt"] for row in rows]
    talk = not isinstance(prompts[0], str)
    columns = {name: [row[name] for row in rows] for name in rows[0] if name != "prompt"}
    rewards = function(
        prompts=prompts,
        completions=[[{"role": "assistant", "content": one.text}] if talk else one.text for one in said],
        completion_ids=[one.ids for one in said],
        trainer_state=TrainerState(),
        log_extra=lambda *_: None,
        log_metric=lambda *_: None,
        **columns,
    )
    rewards = asyncio.run(rewards) if inspect.iscoroutine(rewards) else rewards
    return reward_numbers(rewards, getattr(function, "__name__", type(function).__name__), len(said))
