"""Completions of many prompts at once, greedy or sampled."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from evaluation.length_batches import in_batches

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

TOKENS_PER_BATCH = 32_768
"""Prompt and completion tokens whose keys and values are held at once."""
CHUNK_TOKENS = 16
"""Tokens generated before the rows that have ended are taken out of the batch."""

GREEDY: dict[str, Any] = {
    "do_sample": False, "temperature": 1.0, "top_p": 1.0, "top_k": 50, "repetition_penalty": 1.0, "use_cache": True,
}  # fmt: skip
"""What a model's own generation config must not change; the numbers are those that mean nothing to greedy search."""
SAMPLED = GREEDY | {"do_sample": True, "top_k": 0}
"""The policy's own distribution: temperature 1, nothing cut off."""


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
    batch_size: int = 128,
    sampled: bool = False,
    seed: int = 0,
) -> list[Completion]:
    """Return the completion of each prompt (token ids), in the order given: greedy, or `sampled` from that seed.

    Prompts of similar length share a batch, padded on the left, which changes no text. A completion ends with the
    tokenizer's EOS or any that the model's generation config names, as in TRL's GRPO. Where memory runs out, smaller
    batches give the same greedy completions; sampled ones are then drawn anew from the same policy.
    """
    stops = model.generation_config.eos_token_id
    stops = {tokenizer.eos_token_id, *(stops if isinstance(stops, list) else [stops])} - {None}
    options = (SAMPLED if sampled else GREEDY) | {"eos_token_id": sorted(stops), "pad_token_id": tokenizer.pad_token_id}

    def of_batch(batch: list[int]) -> list[Completion]:
        generated = _generate(model, [prompts[i] for i in batch], max_new_tokens, options)
        texts = tokenizer.batch_decode(generated, skip_special_tokens=True)
        return [Completion(text, ids, ids[-1] in stops) for ids, text in zip(generated, texts, strict=True)]

    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return in_batches([len(ids) + max_new_tokens for ids in prompts], TOKENS_PER_BATCH, of_batch, batch_size)


def _generate(
    model: "PreTrainedModel", prompts: Sequence[list[int]], max_new_tokens: int, options: dict[str, Any]
) -> list[list[int]]:
    """Generate in chunks, between which the rows that have stopped leave the batch and its cache.

    A batch would otherwise compute every row until its longest has ended, which is about half of the time.
    """
    from transformers import DynamicCache, GenerationConfig

    stops, pad_token_id = options["eos_token_id"], options["pad_token_id"]
    width = max(map(len, prompts))
    input_ids = torch.tensor([[pad_token_id] * (width - len(ids)) + ids for ids in prompts], device=model.device)
    lengths = torch.tensor([[len(ids)] for ids in prompts], device=model.device)
    attention_mask = (torch.arange(width, device=model.device) >= width - lengths).long()
    generated: list[list[int]] = [[] for _ in prompts]
    alive = list(range(len(prompts)))
    cache = DynamicCache(config=model.config)
    while alive and (left := max_new_tokens - (input_ids.shape[1] - width)) > 0:
        config = GenerationConfig(max_new_tokens=min(CHUNK_TOKENS, left), **options)
        with torch.inference_mode():
            output = model.generate(
                input_ids, attention_mask=attention_mask, past_key_values=cache, generation_config=config
            )
        new = output[:, input_ids.shape[1] :].tolist()
        for row, tokens in zip(alive, new, strict=True):
            end = next((place + 1 for place, token in enumerate(tokens) if token in stops), len(tokens))
            generated[row] += tokens[:end]
        kept = [place for place, row in enumerate(alive) if generated[row][-1] not in stops]
        alive = [alive[place] for place in kept]
        rows = torch.tensor(kept, dtype=torch.long, device=model.device)
        input_ids = output[rows]
        attention_mask = torch.cat([attention_mask, attention_mask.new_ones(output.shape[0], len(new[0]))], dim=1)[rows]
        if len(kept) < len(output):
            cache.batch_select_indices(rows)
    return generated
