"""How likely a model finds given text: negative log-likelihood and next-token accuracy, example by example."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch.nn.functional import cross_entropy

from batching.length_batches import in_batches
from data.examples import Example

if TYPE_CHECKING:
    from transformers import PreTrainedModel

TOKENS_PER_BATCH = 16_384
LOGITS_PER_BATCH = 2**27
"""Numbers in the logits that are made at once: half a GiB in float32."""


class Likelihood(NamedTuple):
    """Sums over the scored tokens of one example."""

    nll: float
    """Negative log-likelihood, in nats."""
    tokens: int
    correct: int
    """Tokens that were the model's first choice."""


def likelihoods(model: "PreTrainedModel", examples: Sequence[Example], pad_token_id: int) -> list[Likelihood]:
    """Return each example's likelihood under the model, in the order given."""
    lengths = [len(example.input_ids) for example in examples]
    at_once = max(1, LOGITS_PER_BATCH // model.config.get_text_config().vocab_size)
    long = next((example for example in examples if len(example.input_ids) > at_once), None)
    head = None if long is None else _plain_head(model, long.input_ids[0])

    def of_batch(batch: list[int]) -> list[Likelihood]:
        chosen = [examples[i] for i in batch]
        if lengths[batch[0]] > at_once:  # then it is alone
            return [_of_long_row(model, chosen[0], at_once, head)]
        input_ids, attention_mask = right_padded([example.input_ids for example in chosen], pad_token_id)
        logits = model(
            input_ids=input_ids.to(model.device), attention_mask=attention_mask.to(model.device), use_cache=False
        ).logits
        found = []
        for row, example in enumerate(chosen):
            scored = torch.tensor(example.scored, device=model.device)
            targets = torch.tensor(example.input_ids, device=model.device)[scored]
            found.append(_sums(logits[row, : len(scored) - 1][scored[1:]], targets))  # the token before predicts
        return found

    with torch.inference_mode():
        return in_batches(lengths, min(TOKENS_PER_BATCH, at_once), of_batch)


def _of_long_row(
    model: "PreTrainedModel", example: Example, at_once: int, head: Callable[[torch.Tensor], torch.Tensor] | None
) -> Likelihood:
    """Return the likelihood of one example from the logits of `at_once` positions at a time.

    With a plain `head` the rest of the model runs once; without, the whole model runs for each slice.
    """
    input_ids = torch.tensor([example.input_ids], device=model.device)
    inputs: dict[str, Any] = {
        "input_ids": input_ids, "attention_mask": torch.ones_like(input_ids), "use_cache": False
    }  # fmt: skip
    places = torch.tensor(example.scored[1:], device=model.device).nonzero().flatten()  # the token before predicts
    hidden = None if head is None else model.base_model(**inputs).last_hidden_state[0]
    total = Likelihood(0.0, 0, 0)
    for part in places.split(at_once):
        if head is None or hidden is None:
            logits = model(**inputs, logits_to_keep=part).logits[0]
        else:
            logits = head(hidden[part])
        found = _sums(logits, input_ids[0, part + 1])
        total = Likelihood(total.nll + found.nll, total.tokens + found.tokens, total.correct + found.correct)
    return total


def _plain_head(model: "PreTrainedModel", token_id: int) -> Callable[[torch.Tensor], torch.Tensor] | None:
    """Return the layer that makes logits of hidden states; None if the model scales or caps what comes out of it.

    It is tried on one token of a text, since each architecture has its own names for what it does to logits. Padding
    would not do: its embedding may be zero, and so are then its logits, whatever they are multiplied by.
    """
    head = model.get_output_embeddings()
    if head is None or model.base_model is model:
        return None
    input_ids = torch.tensor([[token_id]], device=model.device)
    with torch.inference_mode():
        hidden = getattr(model.base_model(input_ids=input_ids, use_cache=False), "last_hidden_state", None)
        logits = model(input_ids=input_ids, use_cache=False).logits
        return head if hidden is not None and torch.equal(head(hidden).float(), logits.float()) else None


def _sums(logits: torch.Tensor, targets: torch.Tensor) -> Likelihood:
    """Return the likelihood of the targets, each under its own row of logits."""
    predictions = logits.float()
    nll = cross_entropy(predictions, targets, reduction="sum") if len(targets) else torch.zeros(())
    correct = (predictions.argmax(-1) == targets).sum()
    return Likelihood(nll.item(), len(targets), int(correct.item()))


def reward_scores(model: "PreTrainedModel", sequences: Sequence[list[int]], pad_token_id: int) -> list[float]:
    """Return a reward model's score of each sequence, read at its last token."""

    def of_batch(batch: list[int]) -> list[float]:
        input_ids, attention_mask = right_padded([sequences[i] for i in batch], pad_token_id)
        logits = model(input_ids=input_ids.to(model.device), attention_mask=attention_mask.to(model.device)).logits
        scores: list[float] = logits[:, 0].float().tolist()
        return scores

    with torch.inference_mode():
        return in_batches([len(ids) for ids in sequences], TOKENS_PER_BATCH, of_batch)


def right_padded(sequences: Sequence[list[int]], pad_token_id: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return `input_ids` and `attention_mask` of one batch.

    >>> right_padded([[5, 6, 7], [8]], 0)[0].tolist()
    [[5, 6, 7], [8, 0, 0]]
    """
    longest = max(map(len, sequences))
    input_ids = torch.tensor([ids + [pad_token_id] * (longest - len(ids)) for ids in sequences])
    lengths = torch.tensor([[len(ids)] for ids in sequences])
    return input_ids, (torch.arange(longest) < lengths).long()
