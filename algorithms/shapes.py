"""The shapes of a model's weights, from its configuration alone: transformers builds it without a weight."""

import copy
import math
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Weight:
    """One tensor of a model."""

    name: str
    shape: tuple[int, ...]
    role: str
    """`embedding`; `linear`, a projection inside the layers; `head`, on the vocabulary; or `other`."""

    @property
    def elements(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)


@dataclass(frozen=True, kw_only=True)
class Shapes:
    """What of a model decides its memory."""

    weights: tuple[Weight, ...]
    """Each tensor once: a tied embedding is not a head as well."""
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    vocab_size: int
    normalises_heads: bool = False
    """Queries and keys have a norm of their own, as in Qwen3."""

    @property
    def parameters(self) -> int:
        """Number of weights."""
        return sum(weight.elements for weight in self.weights)

    @property
    def tied(self) -> bool:
        """Whether the embedding is the head as well."""
        return not any(weight.role == "head" for weight in self.weights)


def shapes_of(config: Any, *, scores: bool = False) -> Shapes:
    """Return the shapes of the language model of a transformers configuration; `scores`: of the reward model.

    Raises:
        ValueError: it is no decoder whose layers are described by one width, or transformers cannot build it.
    """
    import torch
    import transformers

    auto: Any = transformers.AutoModelForSequenceClassification if scores else transformers.AutoModelForCausalLM
    config = copy.deepcopy(config)
    if scores:
        config.num_labels = 1
    text = config.get_text_config()
    with torch.device("meta"):
        model = auto.from_config(config)
    heads, width = getattr(text, "num_attention_heads", None), getattr(text, "hidden_size", None)
    inner, layers = getattr(text, "intermediate_size", None), getattr(text, "num_hidden_layers", None)
    if not (isinstance(heads, int) and isinstance(width, int) and isinstance(inner, int) and isinstance(layers, int)):
        raise ValueError(f"{text.model_type}: its layers are not described by one width, so no formula is theirs")
    weights = _weights(model)
    return Shapes(
        weights=weights,
        hidden_size=width,
        intermediate_size=inner,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=getattr(text, "num_key_value_heads", None) or heads,
        head_dim=getattr(text, "head_dim", None) or width // heads,
        vocab_size=text.vocab_size,
        normalises_heads=any(weight.name.endswith("q_norm.weight") for weight in weights),
    )


def _weights(model: Any) -> tuple[Weight, ...]:
    from torch import nn

    head = model.get_output_embeddings()
    found: dict[int, Weight] = {}
    for path, module in model.named_modules():
        for name, tensor in module.named_parameters(recurse=False):
            matrix = isinstance(module, nn.Linear) and tensor.dim() == 2
            role = "embedding" if isinstance(module, nn.Embedding) else "linear" if matrix else "other"
            role = "head" if module is head else "other" if path == "score" else role
            found.setdefault(id(tensor), Weight(f"{path}.{name}", tuple(tensor.shape), role))
    return tuple(found.values())
