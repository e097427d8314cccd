"""How likely a model finds given text: negative log-likelihood and next-token accuracy, example by example."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch.nn.functional import cross_entropy

from evaluation.encode import Example

if TYPE_CHECKING:
    from transformers import PreTrainedModel

TOKENS_PER_BATCH = 16_384
LOGITS_PER_BATCH = 2**27
"""Numbers in one batch of logits: half a GiB in float32."""


class Likelihood(NamedTuple):
    """Sums over the scored tokens of one example."""

    nll: float
    """Negative log-likelihood, in nats."""
    tokens: int
    correct: int
    """Tokens that were the model's first choice."""


def likelihoods(model: "PreTrainedModel", examples: Sequence[Example], pad_token_id: int) -> list[Likelihood]:
    """Return each example's likelihood under the model, in the order given."""
    results = [Likelihood(0.0, 0, 0)] * len(examples)
    budget = min(TOKENS_PER_BATCH, LOGITS_PER_BATCH // model.config.get_text_config().vocab_size)
    with torch.inference_mode():
        for batch in batches([len(example.input_ids) for example in examples], budget):
            input_ids, attention_mask = right_padded([examples[i].input_ids for i in batch], pad_token_id)
            logits = model(
                input_ids=input_ids.to(model.device), attention_mask=attention_mask.to(model.device), use_cache=False
            ).logits
            for row, index in enumerate(batch):
                scored = torch.tensor(examples[index].scored, device=model.device)
                targets = torch.tensor(examples[index].input_ids, device=model.device)[scored]
                predictions = logits[row, : len(scored) - 1][scored[1:]].float()  # the token before predicts
                nll = cross_entropy(predictions, targets, reduction="sum") if len(targets) else torch.zeros(())
                correct = (predictions.argmax(-1) == targets).sum()
                results[index] = Likelihood(nll.item(), len(targets), int(correct.item()))
    return results


def reward_scores(model: "PreTrainedModel", sequences: Sequence[list[int]], pad_token_id: int) -> list[float]:
    """Return a reward model's score of each sequence, read at its last token."""
    scores = [0.0] * len(sequences)
    with torch.inference_mode():
        for batch in batches([len(ids) for ids in sequences], TOKENS_PER_BATCH):
            input_ids, attention_mask = right_padded([sequences[i] for i in batch], pad_token_id)
            logits = model(input_ids=input_ids.to(model.device), attention_mask=attention_mask.to(model.device)).logits
            for index, score in zip(batch, logits[:, 0].float().tolist(), strict=True):
                scores[index] = score
    return scores


def batches(lengths: Sequence[int], tokens_per_batch: int, max_rows: int = 128) -> Iterator[list[int]]:
    """Yield indices in batches of similar length, the longest first, each within the budget once padded."""
    batch: list[int] = []
    for index in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        if batch and (len(batch) == max_rows or (len(batch) + 1) * lengths[batch[0]] > tokens_per_batch):
            yield batch
            batch = []
        batch.append(index)
    if batch:
        yield batch


def right_padded(sequences: Sequence[list[int]], pad_token_id: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return `input_ids` and `attention_mask` of one batch.

    >>> right_padded([[5, 6, 7], [8]], 0)[0].tolist()
    [[5, 6, 7], [8, 0, 0]]
    """
    longest = max(map(len, sequences))
    input_ids = torch.tensor([ids + [pad_token_id] * (longest - len(ids)) for ids in sequences])
    lengths = torch.tensor([[len(ids)] for ids in sequences])
    return input_ids, (torch.arange(longest) < lengths).long()
