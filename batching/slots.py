"""Keys and values of many sequences, each in a slot of its own and of a length of its own.

transformers' caches hold sequences that are all at the same place: shorter ones are padded, and one can only leave with
a copy of the others. Here a sequence that has ended gives its slot to the last one, so that the sequences are always
the first slots, which a forward pass sees as a view.
"""

from typing import TYPE_CHECKING, Any

import torch
from transformers.cache_utils import Cache, CacheLayerMixin

from batching.masks import UNSUITED, alike, class_of, mask_for, takes_masks
from utils.console import warn
from watching.out_of_memory import is_out_of_memory

if TYPE_CHECKING:
    from transformers import PreTrainedModel

GROWTH = 256
"""Tokens by which slots become longer at a time, as far as their sequences can."""


def suits(model: "PreTrainedModel") -> bool:
    """Tell whether a model computes over slots what it computes without a cache; others are for transformers to sample.

    Those are models with a state (Mamba), with an encoder, or whose attention is not PyTorch's. What can be known of a
    class is not trusted: a few tokens are tried, once for each model.
    """
    known = model.__dict__.get("_computes_over_slots")
    if known is None:
        known = model._computes_over_slots = takes_masks(model.config, class_of(model)) and _agrees(model)
    return bool(known)


@torch.no_grad()
def _agrees(model: Any) -> bool:
    """Compare the logits of a step over slots with those of plain passes."""
    prompts = [[1, 2, 3, 4, 5], [6, 7, 8]]
    rows = [0, 1, 0]
    training = model.training
    model.eval()  # without dropout
    try:
        ids = [torch.tensor([prompt], device=model.device) for prompt in prompts]
        expected = torch.cat([model(input_ids=one, use_cache=False).logits[:, -1] for one in ids])[rows]
        slots = Slots(model)
        slots.reserve(3, 5, 5)
        slots.fill([[0, 2], [1]])
        padded = torch.tensor([[1, 2, 3, 4], [6, 7, 0, 0]], device=model.device)
        positions = torch.arange(4, device=model.device)[None]
        model(input_ids=padded, position_ids=positions, past_key_values=slots, use_cache=True, logits_to_keep=1)
        newest = torch.tensor([[prompts[row][-1]] for row in rows], device=model.device)
        found = model(input_ids=newest, past_key_values=slots, use_cache=True, **slots.extend([4, 2, 4])).logits[:, -1]
        return alike(found, expected)
    except UNSUITED as error:
        if is_out_of_memory(error):
            raise
        warn(f"{class_of(model).__name__} is sampled by transformers alone: {type(error).__name__}: {error}")
        return False
    finally:
        model.train(training)


class Slots(Cache):
    """The cache that a model's forward pass gets: first to `fill` some slots with prompts, then for a token of each."""

    def __init__(self, model: "PreTrainedModel") -> None:
        config = model.config.get_text_config(decoder=True)
        super().__init__(layers=[_Layer(self) for _ in range(config.num_hidden_layers)])
        self.config, self.dtype, self.device = model.config, model.dtype, model.device
        self.capacity = (0, 0)
        """Slots, and tokens of each."""
        self.targets: list[torch.Tensor] | None = None
        """While prompts are read: the slots of each."""
        self.lengths: torch.Tensor = torch.empty(0, dtype=torch.long)
        """Tokens that each sequence has, (rows,)."""
        self.width = 0

    def reserve(self, rows: int, needed: int, most: int) -> None:
        """Make room for that many sequences of `needed` tokens, of which none becomes longer than `most`."""
        if rows > self.capacity[0] or needed > self.capacity[1]:
            self.capacity = rows, min(needed + GROWTH, max(most, needed))
            for layer in self.layers:
                layer.resize()

    def fill(self, targets: list[list[int]]) -> None:
        """Let the next forward pass be of prompts, each of which goes to all of its slots."""
        self.targets = [torch.tensor(slots, device=self.device) for slots in targets]

    def extend(self, lengths: list[int]) -> dict[str, Any]:
        """Let the next forward pass be of one more token of each sequence; return its mask and its positions."""
        self.targets, self.width = None, max(lengths) + 1
        self.lengths = torch.tensor(lengths, device=self.device)
        self.rows = torch.arange(len(lengths), device=self.device)
        places = torch.arange(self.width, device=self.device)[None]
        queries = self.lengths[:, None]
        mask = mask_for(self.config, places[:, None] <= queries[:, :, None], queries, places, self.dtype)
        return {"attention_mask": mask, "position_ids": queries}

    def move(self, source: int, target: int, length: int) -> None:
        """Copy the first `length` tokens of one slot to another."""
        for layer in self.layers:
            for kept in (layer.keys, layer.values):
                kept[target, :, :length] = kept[source, :, :length]


class _Layer(CacheLayerMixin):
    """One layer's keys and values, (slots, heads, tokens, size of a head)."""

    is_sliding = False

    def __init__(self, slots: Slots) -> None:
        super().__init__()
        self.slots = slots

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *_: Any, **__: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Keep keys and values, (rows, heads, tokens, size); return those that the pass attends to."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        assert self.keys is not None
        assert self.values is not None
        slots = self.slots
        if slots.targets is not None:
            tokens = key_states.shape[2]
            for row, targets in enumerate(slots.targets):
                self.keys[targets, :, :tokens] = key_states[row].to(self.keys.dtype)
                self.values[targets, :, :tokens] = value_states[row].to(self.values.dtype)
            return key_states, value_states
        at = (slots.rows, slice(None), slots.lengths)
        self.keys[at] = key_states[:, :, 0].to(self.keys.dtype)
        self.values[at] = value_states[:, :, 0].to(self.values.dtype)
        seen = (slice(len(slots.rows)), slice(None), slice(slots.width))
        return self.keys[seen], self.values[seen]

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        """Take the memory, once it is known what the model computes."""
        rows, tokens = self.slots.capacity
        self.keys, self.values = (
            like.new_zeros((rows, like.shape[1], tokens, like.shape[3])) for like in (key_states, value_states)
        )
        self.is_initialized = True

    def resize(self) -> None:
        """Take as much memory as the slots now have, and keep what fits."""
        rows, tokens = self.slots.capacity
        for name in ("keys", "values"):
            old = getattr(self, name)
            if old is not None:
                new = old.new_zeros((rows, old.shape[1], tokens, old.shape[3]))
                kept = (slice(min(rows, old.shape[0])), slice(None), slice(min(tokens, old.shape[2])))
                new[kept] = old[kept]
                setattr(self, name, new)

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Return what a pass over prompts attends to: themselves."""
        return query_length, 0

    def get_seq_length(self) -> int:
        """Return where a pass over prompts begins."""
        return 0

    def get_max_length(self) -> int:
        """Return that there is no limit."""
        return -1
