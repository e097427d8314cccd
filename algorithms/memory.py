"""How much GPU memory a training step takes, by formula: from shapes and settings, without a GPU or a weight.

Every quantity is bytes. The formulas are of decoders as transformers builds them (RMSNorm, gated MLP, rotary positions)
and of TRL's trainers, which never make the logits of a whole batch; tests hold them against a real step of the real
shapes. What they cannot know is how the CUDA allocator splits its blocks: that is a stated share.
"""

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from algorithms.shapes import Shapes, Weight

COMPONENTS = (
    "weights", "gradients", "optimizer", "autocast", "activations", "logits", "kv_cache", "reference", "reward_models",
    "fragmentation", "context",
)  # fmt: skip
"""What a peak is made of. `autocast`: the copies in 16 bits of weights in 32 that autocast keeps during a forward."""

CONTEXT_BYTES = 400 << 20
"""The CUDA context, with the kernels that are loaded: about 300 MB with PyTorch's lazy loading (pytorch/pytorch issue
107667), and more as libraries are used. It depends on card and driver; `nvidia-smi` shows it, PyTorch does not."""

FRAGMENTATION = 0.05
"""Share of what is allocated that the caching allocator reserves besides: an assumption, not a measurement."""

TOKEN_TILE, VOCABULARY_TILE = 4096, 32_768
"""TRL projects hidden states on the vocabulary in tiles of so many tokens and pieces (trl.kernels.chunked_logprob)."""

NF4_BITS = 4 + 8 / 64 + 32 / (64 * 256)
"""Of a weight in 4 bits whose constants are quantised too (Dettmers et al. 2023, QLoRA, section 3)."""

QUANTISATION_BLOCK = 256
"""Elements that share one scale of 4 bytes in the 8-bit states of bitsandbytes and torchao; smaller tensors (below
4096 elements) have whole states."""

SAMPLING_BYTES = 16
"""For each piece of the vocabulary and sequence that is sampled from: logits, their float32 copy, scores, softmax."""


@dataclass(frozen=True, kw_only=True)
class Adapter:
    """A LoRA adapter, in float32: what is trained beside frozen weights."""

    r: int
    targets: tuple[str, ...]
    """The names of the linear weights that it stands beside."""
    quantised: bool = False
    """The frozen linear weights are in 4 bits."""


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """What GRPO generates before it trains on it."""

    sequences: int
    """Completions generated at once."""
    prompt_tokens: int
    completion_tokens: int


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What of a stage's arguments decides its memory."""

    sequences: int
    """Rows of one forward and backward pass; of pairs both sides."""
    tokens: int
    """Of the longest row."""
    weight_bytes: int
    """Of one number of the weights and of the stream between the layers: 4, or 2 for bfloat16 and float16."""
    compute_bytes: int
    """Of one number of what the matrix products give: 2 under autocast."""
    accumulates: bool
    """Gradients of earlier passes are there while the next one runs."""
    gradient_checkpointing: bool
    optim: str
    attention: str = "sdpa"
    liger: bool = False
    """Liger's layers save less for the backward pass: a norm its input, a gated MLP three tensors instead of four."""
    padding_free: bool = False
    """The rows stand behind each other in one, under one mask."""
    has_logits: bool = True
    """False for a reward model, which gives one score."""
    whole_logits: bool = False
    """The logits of the batch are made at once, as in pretraining; TRL's trainers make them in tiles."""
    adapter: Adapter | None = None
    sampling: Sampling | None = None
    reference: bool = False
    """A second copy of the weights is there."""
    reward_models_bytes: int = 0
    reward_weight_bytes: int = 4


Moment = Mapping[str, int]


def moments(model: Shapes, settings: Settings) -> dict[str, Moment]:
    """Return what is allocated in each moment of a step that can be its peak, by component.

    Raises:
        ValueError: the states of this optimizer are not known.
    """
    trained = trained_weights(model, settings.adapter)
    number = 4 if settings.adapter else settings.weight_bytes  # of what is trained, its gradient and its states
    gradients = number * sum(weight.elements for weight in trained)
    static = {
        "weights": weights_bytes(model, settings),
        "optimizer": optimizer_bytes(trained, settings.optim, number),
        "reference": model.parameters * settings.weight_bytes if settings.reference else 0,
        "reward_models": settings.reward_models_bytes,
    }
    earlier = gradients if settings.accumulates else 0
    vocabulary = model.vocab_size * model.hidden_size * number if settings.adapter is None else 0
    saved, casts = saved_bytes(model, settings), _autocast_bytes(model, settings)
    lasting = 0 if settings.gradient_checkpointing else casts  # a checkpointed layer casts its weights again
    cached = casts if settings.adapter is None else lasting  # autocast keeps its copies of what is trained alone
    found: dict[str, dict[str, int]] = {}
    if settings.has_logits:
        forward, backward = head_bytes(model, settings)
        found["head, forward"] = {"gradients": earlier, "activations": saved, "autocast": cached, "logits": forward}
        found["head, backward"] = {"gradients": earlier, "activations": saved, "autocast": lasting, "logits": backward}
    # the head's gradient waits for the embedding's if they are one, or is there already
    waiting = vocabulary if settings.has_logits and (model.tied or not settings.accumulates) else 0
    found["layers, backward"] = {
        "gradients": earlier + waiting,
        "activations": saved + _backward_bytes(model, settings),
        "autocast": lasting,
    }
    beside = settings.accumulates + (model.tied and settings.has_logits)
    found["embedding, backward"] = {"gradients": gradients + beside * vocabulary}
    found["optimizer"] = {"gradients": gradients, "activations": _update_bytes(trained, settings.optim, number)}
    if settings.sampling is not None:
        found |= _sampling_moments(model, settings, settings.sampling)
    return {name: static | moment for name, moment in found.items()}


def peak(model: Shapes, settings: Settings) -> dict[str, int]:
    """Return the largest moment of a step, by component, with what the allocator and the CUDA context take besides.

    Raises:
        ValueError: the states of this optimizer are not known.
    """
    largest = max(moments(model, settings).values(), key=lambda moment: sum(moment.values()))
    whole = dict(largest) | {
        "fragmentation": round(FRAGMENTATION * sum(largest.values())),
        "context": CONTEXT_BYTES,
    }
    return {name: whole.get(name, 0) for name in COMPONENTS}


def trained_weights(model: Shapes, adapter: Adapter | None) -> tuple[Weight, ...]:
    """Return what the optimizer trains: the model's weights, or the adapter's two for each target."""
    if adapter is None:
        return model.weights
    linear = [weight for weight in model.weights if weight.name in adapter.targets]
    return tuple(
        Weight(f"{weight.name}.{side}", shape, "linear")
        for weight in linear
        for side, shape in (("A", (adapter.r, weight.shape[1])), ("B", (weight.shape[0], adapter.r)))
    )


def weights_bytes(model: Shapes, settings: Settings) -> int:
    """Return the size of the weights, an adapter's included."""
    adapter = settings.adapter
    quantised = adapter is not None and adapter.quantised
    bits = sum(
        weight.elements * (NF4_BITS if quantised and weight.role == "linear" else 8 * settings.weight_bytes)
        for weight in model.weights
    )
    added = 4 * sum(weight.elements for weight in trained_weights(model, adapter)) if adapter else 0
    return math.ceil(bits / 8) + added


def optimizer_bytes(trained: Iterable[Weight], optim: str, number: int) -> int:
    """Return the size of an optimizer's states; `number` is that of one trained number.

    torch's AdamW keeps two states in the weights' type. bitsandbytes keeps them in 8 bits with a scale a block, in
    float32 for small tensors, and (as transformers asks) for embeddings; torchao in 8 or 4 bits, small tensors in the
    weights' type.

    Raises:
        ValueError: the states of this optimizer are not known.
    """
    total = 0.0
    for weight in trained:
        whole = 2 * number
        block = 2 * (1 + 4 / QUANTISATION_BLOCK)
        small = weight.elements < 4096
        if optim in _TORCH_ADAMW:
            each: float = whole
        elif optim in _BITSANDBYTES_8BIT:
            each = 8 if small or weight.role == "embedding" else block
        elif optim in ("paged_adamw_32bit", "paged_adamw"):
            each = 8
        elif optim == "adamw_torch_8bit":
            each = whole if small or weight.elements % QUANTISATION_BLOCK else block
        elif optim == "adamw_torch_4bit":
            each = whole if small or weight.elements % 128 else 1 + 2 * 4 / 128
        elif optim == MUON:
            each = number if weight.role == "linear" else whole
        elif optim == "sgd":
            each = 0
        else:
            raise ValueError(f"the states of optim = {optim!r} are not known")
        total += each * weight.elements
    return round(total)


MUON = "muon"
"""Pretraining's: Muon for the matrices inside the layers, torch's AdamW for the rest."""
_TORCH_ADAMW = ("adamw_torch", "adamw_torch_fused")
_BITSANDBYTES_8BIT = ("adamw_8bit", "adamw_bnb_8bit", "paged_adamw_8bit")


def _update_bytes(trained: Iterable[Weight], optim: str, number: int) -> int:
    """Return what an optimizer's step takes for itself.

    torch's unfused AdamW takes one more number a weight. Muon stacks all matrices of one shape: their gradients, their
    momentum, the sum of the two, and two copies in 16 bits as it orthogonalises that. torchao's compiled step has both
    states of a tensor in float32 (8.0 bytes an element above the states, measured on a CPU).
    """
    trained = tuple(trained)
    if optim == MUON:
        of_shape: Counter[tuple[int, ...]] = Counter()
        for weight in trained:
            if weight.role == "linear":
                of_shape[weight.shape] += weight.elements
        rest = sum(weight.elements for weight in trained if weight.role != "linear")
        return max((3 * number + 2 * 2) * max(of_shape.values(), default=0), number * rest)
    elements = [weight.elements for weight in trained]
    if optim in ("adamw_torch_8bit", "adamw_torch_4bit"):
        return 8 * max(elements)
    return sum(elements) * number if optim == "adamw_torch" else 0


def layer_bytes(model: Shapes, settings: Settings) -> int:
    """Return what one layer saves for its backward pass, for one token."""
    width, inner, compute = model.hidden_size, model.intermediate_size, settings.compute_bytes
    queries, keys = model.num_attention_heads * model.head_dim, model.num_key_value_heads * model.head_dim
    stream = settings.weight_bytes
    trained = settings.adapter is None  # a frozen weight has no gradient, so what it multiplies is not saved for one
    # a norm saves its input in float32 and, before its own weight, the result
    norm = stream if settings.liger else 4 + stream * trained
    total = 2 * norm * width + (norm * (queries + keys) if model.normalises_heads else 0)
    # under autocast, each of five projections saves a copy of its own of the norm's result
    total += trained * (5 * compute * width if stream > compute else 2 * stream * width)
    total += (2 + trained + (not settings.liger)) * compute * inner
    total += _attention_bytes(model, settings, queries, keys)
    if settings.adapter is not None:
        inputs = [weight.shape[1] for weight in model.weights if weight.name in settings.adapter.targets]
        total += compute * (sum(inputs) + len(inputs) * settings.adapter.r) // model.num_hidden_layers
    return total


def _attention_bytes(model: Shapes, settings: Settings, queries: int, keys: int) -> int:
    compute, heads, row = settings.compute_bytes, model.num_attention_heads, _row_tokens(settings)
    if settings.attention == "eager":  # the scores' softmax in float32, and as it multiplies the values
        return 4 * compute * queries + heads * row * (4 + (compute if compute < 4 else 0))
    if settings.attention.startswith("flash"):
        return 2 * compute * (queries + keys) + 4 * heads
    return 4 * compute * queries + 4 * heads + compute * row  # keys and values repeated a head; the mask


def _row_tokens(settings: Settings) -> int:
    return settings.tokens * (settings.sequences if settings.padding_free else 1)


def saved_bytes(model: Shapes, settings: Settings) -> int:
    """Return what a forward pass saves for the backward one: with gradient checkpointing each layer's input alone."""
    stream, width = settings.weight_bytes, model.hidden_size
    layer = stream * width if settings.gradient_checkpointing else layer_bytes(model, settings)
    last = (4 + 2 * stream) * width  # the last norm, and its result
    return settings.sequences * settings.tokens * (model.num_hidden_layers * layer + last)


def _backward_bytes(model: Shapes, settings: Settings) -> int:
    """Return what the backward pass of one layer takes: with checkpointing, its activations are there again."""
    tokens = settings.sequences * settings.tokens
    gradients = 3 * settings.compute_bytes * model.intermediate_size + 2 * settings.weight_bytes * model.hidden_size
    again = layer_bytes(model, settings) if settings.gradient_checkpointing else 0
    casts = _autocast_bytes(model, settings) // model.num_hidden_layers if settings.gradient_checkpointing else 0
    dequantised = 0
    if settings.adapter is not None and settings.adapter.quantised:
        linear = [weight.elements for weight in model.weights if weight.role == "linear"]
        dequantised = settings.compute_bytes * max(linear, default=0)
    return tokens * (gradients + again) + casts + dequantised


def _autocast_bytes(model: Shapes, settings: Settings) -> int:
    """Return the size of the copies that autocast makes of the layers' matrices, kept until its context ends."""
    if settings.weight_bytes <= settings.compute_bytes:
        return 0
    return settings.compute_bytes * sum(weight.elements for weight in model.weights if weight.role == "linear")


def head_bytes(model: Shapes, settings: Settings) -> tuple[int, int]:
    """Return what the head takes in the forward and in the backward pass: tiles, or the logits of the whole batch.

    Of tiles the gradients of hidden states and head are summed in float32; the head's is then there once more in its
    own type. Whole logits are there in float32 beside their softmax; then that beside the gradients of both.
    """
    tokens, width, compute = settings.sequences * settings.tokens, model.hidden_size, settings.compute_bytes
    if settings.whole_logits:
        return 8 * tokens * model.vocab_size, 12 * tokens * model.vocab_size
    tile = compute * min(tokens, TOKEN_TILE) * min(VOCABULARY_TILE, model.vocab_size)
    if settings.weight_bytes > compute:  # the part of the head and of the states that a tile is made from
        tile += compute * width * (min(VOCABULARY_TILE, model.vocab_size) + min(tokens, TOKEN_TILE))
    in_own_type = settings.weight_bytes if settings.weight_bytes < 4 else 0
    states = tokens * width * (4 + in_own_type)
    weight = 0 if settings.adapter else model.vocab_size * width * (4 + in_own_type)
    return tile, tile + states + weight


def kv_cache_bytes(model: Shapes, sequences: int, tokens: int, weight_bytes: int, compute_bytes: int) -> int:
    """Return the size of a cache of keys and values; rotated keys have the type of the stream, values of the products.

    One layer's is there twice while it grows.
    """
    keys = model.num_key_value_heads * model.head_dim
    layer = sequences * tokens * keys * (weight_bytes + compute_bytes)
    return (model.num_hidden_layers + 1) * layer


def _sampling_moments(model: Shapes, settings: Settings, sampling: Sampling) -> dict[str, dict[str, int]]:
    """Return the moments of GRPO that have no gradients: completions sampled, and scored by reward models."""
    tokens = sampling.prompt_tokens + sampling.completion_tokens
    weight, compute = settings.weight_bytes, settings.compute_bytes
    cache = kv_cache_bytes(model, sampling.sequences, tokens, weight, compute)
    prompts = sampling.sequences * sampling.prompt_tokens
    found = {
        "sampling": {
            "kv_cache": cache,
            "logits": SAMPLING_BYTES * sampling.sequences * model.vocab_size,
            "activations": prompts * _forward_bytes(model, weight, compute),
        }
    }
    if settings.reward_models_bytes:  # TRL scores a whole generation batch at once, without autocast
        number = settings.reward_weight_bytes
        found["scoring"] = {"activations": sampling.sequences * tokens * _forward_bytes(model, number, number)}
    return found


def _forward_bytes(model: Shapes, weight_bytes: int, compute_bytes: int) -> int:
    """Return what a forward pass without gradients takes at once, for one token: its widest layer."""
    return 3 * compute_bytes * model.intermediate_size + 4 * weight_bytes * model.hidden_size
