"""Completions of many prompts: by the engine, or by transformers where a model keeps more than keys and values."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from batching.engine import MAX_ROWS, MAX_TOKENS, Engine
from batching.length_batches import in_batches
from batching.requests import Request, Settings
from batching.slots import suits
from utils.console import warn
from utils.runtime import free_memory
from watching.out_of_memory import is_out_of_memory

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

NEVER = [2**31 - 1]
"""An EOS that no vocabulary has: without any, transformers takes the model's own, and requests have stops of theirs."""


class Completion(NamedTuple):
    """What a model said."""

    text: str
    """Without special tokens, as reward functions see it."""
    ids: list[int]
    """Its tokens, the EOS included."""
    stopped: bool
    """Whether it ended by itself, not by the limit."""

    @property
    def n_tokens(self) -> int:
        """Its length."""
        return len(self.ids)


def complete(
    model: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    prompts: Sequence[list[int]],
    max_new_tokens: int,
    sampled: bool = False,
    seed: int = 0,
) -> list[Completion]:
    """Return the completion of each prompt (token ids), in the order given: greedy, or `sampled` from that seed.

    A completion ends with the tokenizer's EOS or any that the model's generation config names, as in TRL's GRPO. What
    that config says of sampling is left aside: sampled is the policy's own distribution.
    """
    stops = model.generation_config.eos_token_id
    stops = frozenset({tokenizer.eos_token_id, *(stops if isinstance(stops, list) else [stops])} - {None})
    requests = sample(model, prompts, Settings(max_new_tokens, stops, temperature=float(sampled)), seed)
    return [Completion(tokenizer.decode(one.ids, skip_special_tokens=True), one.ids, one.stopped) for one in requests]


def sample(
    model: "PreTrainedModel",
    prompts: Sequence[list[int]],
    settings: Settings,
    seed: int = 0,
    max_rows: int = MAX_ROWS,
    max_tokens: int | None = MAX_TOKENS,
    tell: Callable[[int, int], Any] | None = None,
) -> list[Request]:
    """Return an ended request for each prompt, in order; each has draws of its own, equal prompts too.

    Where memory runs out, fewer are continued at once, with the same draws; `tell` gets how many were, and how many
    are from then on.
    """
    requests = [Request(prompt, settings, seed, index) for index, prompt in enumerate(prompts)]
    finish(model, requests, max_rows, max_tokens, tell)
    return requests


def finish(
    model: "PreTrainedModel",
    requests: Sequence[Request],
    max_rows: int = MAX_ROWS,
    max_tokens: int | None = MAX_TOKENS,
    tell: Callable[[int, int], Any] | None = None,
) -> None:
    """Continue requests until each has ended, as `sample` does."""
    left = sorted(requests, key=lambda request: -request.most_tokens)  # those of like length stand together
    if not suits(model):
        _by_transformers(model, left, max_rows, max_tokens or MAX_TOKENS)
        return
    told = False
    while left := [request for request in left if not request.ended]:
        engine = Engine(model, max_rows, max_tokens)
        engine.add(left)
        try:
            engine.run()
            return
        except RuntimeError as error:
            rows = len(engine.rows)
            if rows <= 1 or not is_out_of_memory(error):
                raise
            max_rows = -(-rows // 2)
        del engine
        free_memory()  # not before: as long as the error lives, its traceback holds the tensors of the attempt
        if tell is not None:
            tell(rows, max_rows)
        elif not told:
            warn(f"out of memory while {rows} completions were sampled at once: going on with {max_rows}")
        told = True
        for request in left:
            if not request.ended:
                request.restart()


def _by_transformers(model: "PreTrainedModel", requests: Sequence[Request], max_rows: int, max_tokens: int) -> None:
    """Continue requests of one seed, in batches of like length padded on the left; a batch ends with its longest.

    Their draws depend on the batch, and on whether memory ran out before; PyTorch's random state is put back.
    """
    from transformers import GenerationConfig

    def of_batch(batch: list[int]) -> list[None]:
        rows = [requests[place] for place in batch]
        how, width = rows[0].settings, max(len(row.prompt) for row in rows)
        config = GenerationConfig(
            max_new_tokens=how.max_new_tokens, do_sample=how.temperature > 0, temperature=how.temperature or 1.0,
            top_k=how.top_k if how.temperature else 50, top_p=how.top_p, min_p=how.min_p if how.temperature else None,
            repetition_penalty=how.repetition_penalty, eos_token_id=NEVER, pad_token_id=0, disable_compile=True,
        )  # fmt: skip

        def take(ids: torch.Tensor, *_: Any, **__: Any) -> torch.Tensor:
            for row, token in zip(rows, ids[:, -1].tolist(), strict=True):
                if not row.ended:
                    row.take(token)
            return torch.tensor([row.ended for row in rows], device=ids.device)

        padded = torch.tensor([[0] * (width - len(row.prompt)) + row.prompt for row in rows], device=model.device)
        lengths = torch.tensor([[len(row.prompt)] for row in rows], device=model.device)
        mask = (torch.arange(width, device=model.device) >= width - lengths).long()
        for row in rows:
            row.restart()
        with torch.no_grad():
            model.generate(padded, attention_mask=mask, generation_config=config, stopping_criteria=[take])
        return [None] * len(batch)

    with torch.random.fork_rng():
        torch.manual_seed(requests[0].seed)
        in_batches([request.most_tokens for request in requests], max_tokens, of_batch, max_rows)
