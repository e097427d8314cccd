"""The next token of each row: the likeliest, or the one that a draw from [0, 1) falls on."""

from collections.abc import Sequence

import torch

from batching.requests import Request, Settings


def choose(logits: torch.Tensor, requests: Sequence[Request]) -> list[int]:
    """Return the next token of each request, whose logits are (rows, vocabulary).

    Raises:
        FloatingPointError: a row to sample from has no probabilities, since its logits are NaN or infinite.
    """
    rows: dict[Settings, list[int]] = {}
    for row, request in enumerate(requests):
        rows.setdefault(request.settings, []).append(row)
    tokens = torch.empty(len(requests), dtype=torch.long, device=logits.device)
    for settings, places in rows.items():
        own = [requests[place] for place in places]
        if len(rows) == 1:
            tokens = _choose(logits, own, settings)
        else:
            at = torch.tensor(places, device=logits.device)
            tokens[at] = _choose(logits[at], own, settings)
    chosen: list[int] = tokens.tolist()
    if min(chosen) < 0:
        raise FloatingPointError("the model's logits are NaN or infinite: no token can be sampled from them")
    return chosen


def _choose(logits: torch.Tensor, requests: Sequence[Request], how: Settings) -> torch.Tensor:
    """Return tokens, (rows,); -1 where there are no probabilities.

    A draw falls on the token at which the sum of the probabilities so far first exceeds it. One number a row is enough
    so, and a row's token does not depend on how many rows there are.
    """
    if how.repetition_penalty != 1.0:
        logits = _penalised(logits, requests, how.repetition_penalty)
    if not how.temperature:
        return logits.argmax(-1)
    probabilities, tokens = torch.softmax(logits.float() / how.temperature, -1), None
    if how.top_k > 0:
        probabilities, tokens = probabilities.topk(min(how.top_k, logits.shape[1]))
    if how.top_p < 1.0:
        if tokens is None:
            probabilities, tokens = probabilities.sort(descending=True)
        sums = probabilities.cumsum(-1)
        probabilities = probabilities * (sums - probabilities < how.top_p * sums[:, -1:])
    if how.min_p:
        probabilities = probabilities * (probabilities >= how.min_p * probabilities.amax(-1, keepdim=True))
    sums = probabilities.cumsum(-1)
    total = sums[:, -1:]
    draws = torch.tensor([request.uniform() for request in requests], device=logits.device)[:, None]
    places = (sums <= draws * total).sum(-1, keepdim=True).clamp(max=sums.shape[1] - 1)  # past the end: sums of NaN
    chosen = places if tokens is None else tokens.gather(-1, places)
    return torch.where(total > 0, chosen, -1)[:, 0]  # not where it is NaN


def _penalised(logits: torch.Tensor, requests: Sequence[Request], penalty: float) -> torch.Tensor:
    """Return the logits, lower where a token occurs in the prompt or the completion."""
    logits = logits.clone()
    for row, request in enumerate(requests):
        seen = torch.tensor(sorted({*request.prompt, *request.ids}), device=logits.device)
        values = logits[row, seen]
        logits[row, seen] = torch.where(values < 0, values * penalty, values / penalty)
    return logits
