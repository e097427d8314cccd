"""Many completions at once: a prompt is read once, what has ended leaves, and what waits takes its place."""

import math
from collections import deque
from collections.abc import Iterable
from typing import TYPE_CHECKING

import torch

from batching.choice import choose
from batching.requests import Request
from batching.slots import Slots

if TYPE_CHECKING:
    from transformers import PreTrainedModel

MAX_ROWS = 128
MAX_TOKENS = 32_768
"""Tokens whose keys and values are held at once, unless a single sequence needs more."""


class Engine:
    """Continues requests, a token of each at a time.

    Which ones share a pass changes no draw; it changes logits by rounding, and so a token where two are as likely.
    """

    def __init__(self, model: "PreTrainedModel", max_rows: int = MAX_ROWS, max_tokens: int | None = MAX_TOKENS) -> None:
        self.model, self.max_rows, self.max_tokens = model, max_rows, max_tokens or math.inf
        self.waiting: deque[Request] = deque()
        self.rows: list[Request] = []
        """Those that are being continued, in the order of their slots."""
        self._slots = Slots(model)

    def add(self, requests: Iterable[Request]) -> None:
        """Let requests wait for a place."""
        self.waiting.extend(request for request in requests if not request.ended)

    def run(self) -> None:
        """Continue all until each has ended."""
        while self.rows or self.waiting:
            self.step()

    @torch.no_grad()  # what a model computes in passing and keeps, training may read
    def step(self) -> list[Request]:
        """Continue each by one token; return those that ended.

        A request whose `ended` was set from outside leaves before.

        Raises:
            FloatingPointError: the model computes no probabilities.
        """
        self._leave()
        self._admit()
        if not self.rows:
            return []
        lengths = [len(request.prompt) + len(request.ids) - 1 for request in self.rows]
        self._slots.reserve(len(self.rows), max(lengths) + 1, max(request.most_tokens for request in self.rows))
        newest = [[(request.ids or request.prompt)[-1]] for request in self.rows]
        logits = self.model(
            input_ids=torch.tensor(newest, device=self.model.device),
            past_key_values=self._slots,
            use_cache=True,
            **self._slots.extend(lengths),
        ).logits[:, -1]
        for request, token in zip(self.rows, choose(logits, self.rows), strict=True):
            request.take(token)
        return self._leave()

    def _leave(self) -> list[Request]:
        """Give the slots of what has ended to the last ones."""
        ended = [slot for slot, request in enumerate(self.rows) if request.ended]
        left = [self.rows[slot] for slot in ended]
        for slot in reversed(ended):
            last = self.rows.pop()
            if slot < len(self.rows):
                self._slots.move(len(self.rows), slot, len(last.prompt) + len(last.ids) - 1)
                self.rows[slot] = last
        return left

    def _admit(self) -> None:
        """Read the prompts of those that there is room for, equal ones once.

        A pass over prompts costs about as much as one over tokens, so a few wait until they are a quarter of the batch.
        """
        self.waiting = deque(request for request in self.waiting if not request.ended)
        new: list[Request] = []
        longest = max((request.most_tokens for request in self.rows), default=0)
        for request in self.waiting:
            count, longest = len(self.rows) + len(new) + 1, max(longest, request.most_tokens)
            if count > 1 and (count > self.max_rows or count * longest > self.max_tokens):
                break
            new.append(request)
        if not new or (len(new) < len(self.waiting) and 3 * len(new) < len(self.rows)):
            return
        for _ in new:
            self.waiting.popleft()
        slots: dict[tuple[int, ...], list[int]] = {}
        for slot, request in enumerate(new, len(self.rows)):
            slots.setdefault(tuple(request.prompt[:-1]), []).append(slot)  # the last token is the first step's
        self.rows += new
        slots.pop((), None)
        if not slots:
            return
        width = max(map(len, slots))
        held = max(len(request.prompt) + len(request.ids) for request in self.rows)
        self._slots.reserve(len(self.rows), held, max(request.most_tokens for request in self.rows))
        self._slots.fill(list(slots.values()))
        ids = torch.tensor([[*prompt, *[0] * (width - len(prompt))] for prompt in slots], device=self.model.device)
        positions = torch.arange(width, device=self.model.device)[None]
        # Padding stands on the right, where no token of the prompt sees it and the completion overwrites it.
        self.model(input_ids=ids, position_ids=positions, past_key_values=self._slots, use_cache=True, logits_to_keep=1)
