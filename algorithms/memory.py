"""How much GPU memory a training step takes, without a GPU or a weight.

What a pass allocates is measured under fake tensors (algorithms/fake_step.py), for any architecture of transformers.
By formula are the sizes of what is there before it, optimizers' states and steps, and what fake tensors do not see:
weights in 4 bits, sampling's scores, the CUDA context, and how the allocator splits its blocks, a stated share.
Every quantity is bytes.
"""

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

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
    """What a kind that samples generates before it trains on it."""

    sequences: int
    """Completions generated at once."""
    prompt_tokens: int
    completion_tokens: int
    group: int = 1
    """Completions of each prompt."""


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
    """Liger's norms and gated MLPs take the place of the model's."""
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


def moments(model: Shapes, settings: Settings) -> dict[str, Mapping[str, int]]:
    """Return what is allocated in each moment of a step that can be its peak, by component.

    Raises:
        ValueError: the states of this optimizer are not known.
    """
    from algorithms import fake_step  # which imports torch

    trained = trained_weights(model, settings.adapter)
    number = 4 if settings.adapter else settings.weight_bytes  # of what is trained, its gradient and its states
    gradients = number * sum(weight.elements for weight in trained)
    static = {
        "weights": weights_bytes(model, settings),
        "optimizer": optimizer_bytes(trained, settings.optim, number),
        "reference": model.parameters * settings.weight_bytes if settings.reference else 0,
        "reward_models": settings.reward_models_bytes,
    }
    in_4_bits = settings.adapter is not None and settings.adapter.quantised
    largest = max((weight.elements for weight in model.weights if weight.role == "linear"), default=0)
    dequantised = settings.compute_bytes * largest if in_4_bits else 0  # the one that is multiplied
    found: dict[str, dict[str, int]] = {}
    for name, measured in fake_step.training(model, _of_a_pass(settings)).items():
        found[name] = dict(measured)
        found[name]["gradients"] += gradients if settings.accumulates else 0
        found[name]["activations"] += dequantised if name.startswith("layers") else 0
    found["optimizer"] = {"gradients": gradients, "activations": _update_bytes(trained, settings.optim, number)}
    if settings.sampling is not None:
        found |= _sampling_moments(model, settings, settings.sampling)
    return {name: static | moment for name, moment in found.items()}


def _of_a_pass(settings: Settings, **changed: Any) -> Settings:
    """Return settings without what a pass does not depend on, so that each pass is measured once."""
    plain = {"optim": "", "sampling": None, "reference": False, "reward_models_bytes": 0, "reward_weight_bytes": 0}
    return replace(settings, **plain | changed)


def peak(model: Shapes, settings: Settings) -> dict[str, int]:
    """Return the largest moment of a step, by component, with what the allocator and the CUDA context take besides.

    Raises:
        ValueError: the states of this optimizer are not known.
    """
    largest = max(moments(model, settings).values(), key=lambda moment: sum(moment.values()))
    beside = {"fragmentation": round(FRAGMENTATION * sum(largest.values())), "context": CONTEXT_BYTES}
    whole = {**largest, **beside}
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
    whole, block = 2 * number, 2 * (1 + 4 / QUANTISATION_BLOCK)
    sizes = {  # of an element of a large tensor, and of another
        **dict.fromkeys(("adamw_torch", "adamw_torch_fused"), (whole, whole)),
        **dict.fromkeys(("adamw_8bit", "adamw_bnb_8bit", "paged_adamw_8bit"), (block, 8)),
        **dict.fromkeys(("paged_adamw", "paged_adamw_32bit"), (8, 8)),
        "adamw_torch_8bit": (block, whole),
        "adamw_torch_4bit": (1 + 2 * 4 / 128, whole),
        MUON: (number, whole),
        "sgd": (0, 0),
    }
    if optim not in sizes:
        raise ValueError(f"the states of optim = {optim!r} are not known")

    def is_large(weight: Weight) -> bool:
        if optim == MUON:
            return weight.role == "linear"
        divides = {"adamw_torch_8bit": QUANTISATION_BLOCK, "adamw_torch_4bit": 128}.get(optim)
        fits = weight.elements % divides == 0 if divides else weight.role != "embedding"
        return weight.elements >= 4096 and fits

    return round(sum(weight.elements * sizes[optim][0 if is_large(weight) else 1] for weight in trained))


MUON = "muon"
"""Pretraining's: Muon for the matrices inside the layers, torch's AdamW for the rest."""


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


def _sampling_moments(model: Shapes, settings: Settings, sampling: Sampling) -> dict[str, dict[str, int]]:
    """Return the moments without gradients of a kind that samples: completions sampled, and scored by reward models."""
    from algorithms import fake_step

    rows = {"sequences": sampling.sequences, "gradient_checkpointing": False, "adapter": None, "padding_free": False}
    of_prompts = _of_a_pass(settings, tokens=sampling.prompt_tokens, **rows)
    prompts, caches = fake_step.without_gradients(model, of_prompts, cached=True)
    tokens = sampling.prompt_tokens + sampling.completion_tokens
    found = {
        "sampling": {
            **prompts,  # one layer's cache is there twice while it grows
            "kv_cache": (sum(caches) + max(caches)) * tokens // sampling.prompt_tokens,
            "logits": SAMPLING_BYTES * sampling.sequences * model.stack.config.get_text_config().vocab_size,
        }
    }
    if settings.reward_models_bytes:  # TRL scores a whole generation batch at once, without autocast
        number = settings.reward_weight_bytes
        whole = _of_a_pass(settings, tokens=tokens, weight_bytes=number, compute_bytes=number, **rows)
        scoring, _ = fake_step.without_gradients(model, whole, cached=False)
        found["scoring"] = dict(scoring)
    return found
