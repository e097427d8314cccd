"""The next token: likeliest or drawn, from what the settings leave, which is what transformers leaves."""

from collections import Counter
from typing import Any

import pytest
import torch
from transformers import (
    LogitsProcessorList,
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from batching.choice import choose
from batching.requests import Request, Settings

VOCABULARY, DRAWS = 40, 4000


class Grid(Request):
    """A request whose draw is the middle of one of equal parts of [0, 1), so that counts are probabilities."""

    def uniform(self) -> float:
        """Return the draw of its index."""
        return (self.index + 0.5) / DRAWS


def logits(seed: int = 0) -> torch.Tensor:
    """Return one row."""
    return torch.randn(VOCABULARY, generator=torch.Generator().manual_seed(seed)) * 2


def counts(row: torch.Tensor, settings: Settings, prompt: list[int]) -> torch.Tensor:
    """Return how often each token is chosen over all draws, as a share."""
    requests: list[Request] = [Grid(prompt, settings, index=index) for index in range(DRAWS)]
    found = Counter(choose(row.expand(DRAWS, -1), requests))
    return torch.tensor([found[token] / DRAWS for token in range(VOCABULARY)])


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"temperature": 0.5},
        {"top_k": 7},
        {"top_p": 0.6},
        {"min_p": 0.2},
        {"repetition_penalty": 1.7},
        {"temperature": 1.5, "top_k": 12, "top_p": 0.8, "min_p": 0.1, "repetition_penalty": 1.3},
        {"top_k": 100},
    ],
    ids=str,
)
def test_what_is_chosen_has_the_probabilities_that_transformers_gives_it(options: dict[str, Any]) -> None:
    prompt = [3, 5, 3]
    steps = LogitsProcessorList()
    if "repetition_penalty" in options:
        steps.append(RepetitionPenaltyLogitsProcessor(options["repetition_penalty"]))
    steps.append(TemperatureLogitsWarper(options.get("temperature", 1.0)))
    if "top_k" in options:
        steps.append(TopKLogitsWarper(options["top_k"]))
    if "top_p" in options:
        steps.append(TopPLogitsWarper(options["top_p"]))
    if "min_p" in options:
        steps.append(MinPLogitsWarper(options["min_p"]))
    for seed in range(3):
        expected = torch.softmax(steps(torch.tensor([prompt]), logits(seed)[None].clone()), -1)[0]
        found = counts(logits(seed), Settings(1, **options), prompt)
        assert (found - expected).abs().max() <= 1.01 / DRAWS


def test_temperature_0_is_the_likeliest_token() -> None:
    row = logits()
    assert choose(row[None], [Request([1], Settings(1, temperature=0.0))]) == [int(row.argmax())]


def test_rows_of_several_settings_are_chosen_as_each_alone() -> None:
    rows = torch.stack([logits(seed) for seed in range(6)])
    ways = [Settings(1), Settings(1, temperature=0.0), Settings(1, top_k=3), Settings(1, top_p=0.5)]
    chosen = [Request([1], ways[place % 4], seed=9, index=place) for place in range(6)]
    alone = [Request([1], ways[place % 4], seed=9, index=place) for place in range(6)]
    together = choose(rows, chosen)
    assert together == [choose(row[None], [request])[0] for row, request in zip(rows, alone, strict=True)]


def test_a_token_without_probability_is_never_chosen() -> None:
    class Last(Request):
        def uniform(self) -> float:
            return 1 - 2**-23

    class First(Request):
        def uniform(self) -> float:
            return 0.0

    row = torch.full((VOCABULARY,), -torch.inf)
    row[3:30] = torch.linspace(-9, 2, 27)
    assert choose(row[None], [Last([1], Settings(1))]) == [29]
    assert choose(row[None], [First([1], Settings(1))]) == [3]


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_a_model_without_probabilities_is_told(value: float) -> None:
    rows = torch.stack([logits(), torch.full((VOCABULARY,), value)])
    with pytest.raises(FloatingPointError, match="NaN or infinite"):
        choose(rows, [Request([1], Settings(1)), Request([1], Settings(1))])


def test_draws_are_of_seed_and_index_and_come_again_after_a_restart() -> None:
    def draws(seed: int, index: int) -> list[float]:
        request = Request([1], Settings(5), seed, index)
        first = [request.uniform() for _ in range(5)]
        request.restart()
        assert [request.uniform() for _ in range(5)] == first
        return first

    every = [tuple(draws(seed, index)) for seed in (0, 1, 2**63) for index in (0, 1, 2)]
    assert len(set(every)) == len(every)
    assert draws(1, 2) == draws(1, 2)


def test_an_empty_prompt_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one token"):
        Request([], Settings(1))
