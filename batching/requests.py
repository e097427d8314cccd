"""What is asked of the engine: a prompt to continue, how its tokens are chosen, and what ends it."""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy


@dataclass(frozen=True)
class Settings:
    """How the tokens of a completion are chosen. The defaults are the policy's own distribution."""

    max_new_tokens: int
    stops: frozenset[int] = frozenset()
    """Tokens each of which ends a completion; it is the last of it."""
    temperature: float = 1.0
    """0 is greedy."""
    top_k: int = 0
    """How many of the likeliest tokens are left; 0 is all."""
    top_p: float = 1.0
    """Probability that the likeliest tokens have together which are left (nucleus sampling, Holtzman et al., 2020)."""
    min_p: float = 0.0
    """Least probability of a token that is left, as a share of the likeliest one's."""
    repetition_penalty: float = 1.0
    """What logits of tokens that occurred are divided by, or multiplied with where they are below 0 (CTRL, 2019)."""


@dataclass(eq=False)
class Request:
    """A prompt and what it has become so far.

    Its draws come from `seed` and `index` alone, so they are the same whatever else is sampled beside it.
    """

    prompt: list[int]
    settings: Settings
    seed: int = 0
    index: int = 0
    """Its place among the requests of that seed."""
    on_token: Callable[["Request"], bool | None] | None = None
    """Called after each token; if it returns True, the completion ends there."""
    ids: list[int] = field(default_factory=list)
    """The tokens of its completion."""
    ended: bool = False

    def __post_init__(self) -> None:
        if not self.prompt:
            raise ValueError("a prompt needs at least one token")
        self.restart()

    def restart(self) -> None:
        """Forget the completion; the same draws come again."""
        self.ids.clear()
        self.ended = self.settings.max_new_tokens < 1
        key = (self.seed % 2**64, self.index % 2**64)
        self._generator = numpy.random.Generator(numpy.random.Philox(key=numpy.array(key, dtype=numpy.uint64)))

    def uniform(self) -> float:
        """Return the draw for the next token, in [0, 1); so far below 1 that no product with it is rounded to 1's."""
        return min(self._generator.random(), 1 - 2**-23)

    def take(self, token: int) -> None:
        """Add a token, and see whether it was the last."""
        self.ids.append(token)
        self.ended = token in self.settings.stops or len(self.ids) >= self.settings.max_new_tokens
        if self.on_token is not None and self.on_token(self):
            self.ended = True

    @property
    def stopped(self) -> bool:
        """Whether it ended with one of its stops."""
        return bool(self.ids) and self.ids[-1] in self.settings.stops

    @property
    def most_tokens(self) -> int:
        """Tokens of prompt and completion, if nothing ends it early."""
        return len(self.prompt) + self.settings.max_new_tokens
