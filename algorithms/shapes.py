"""The weights and the layers of a model, from its configuration alone: transformers builds it without a byte."""

import copy
import math
from dataclasses import dataclass, field
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


@dataclass(frozen=True)
class Shapes:
    """What of a model decides its memory."""

    described: str
    """Its configuration, by which two are the same."""
    weights: tuple[Weight, ...] = field(compare=False)
    """Each tensor once: a tied embedding is not a head as well."""
    layers: tuple[int, ...] = field(compare=False)
    """For each layer the one of `stack` that is like it."""
    stack: Any = field(compare=False, repr=False)
    """The model with at most two layers of each kind, on the meta device: what is measured."""

    @property
    def parameters(self) -> int:
        """Number of weights."""
        return sum(weight.elements for weight in self.weights)


def shapes_of(config: Any, *, scores: bool = False) -> Shapes:
    """Return the shapes of the language model of a transformers configuration; `scores`: of the reward model.

    Raises:
        ValueError: it is no decoder with a list of layers, or transformers cannot build it.
    """
    import torch
    import transformers

    auto: Any = transformers.AutoModelForSequenceClassification if scores else transformers.AutoModelForCausalLM
    config = copy.deepcopy(config)
    config.pad_token_id = 0
    if scores:
        config.num_labels = 1
    with torch.device("meta"):
        model = auto.from_config(config)
    return Shapes(f"{type(model).__name__} {model.config.to_json_string()}", _weights(model), _cut(model), model)


def layers_of(model: Any) -> Any:
    """Return the list of a decoder's layers.

    Raises:
        ValueError: it has none of the length that its configuration says.
    """
    from torch import nn

    number = getattr(model.config.get_text_config(), "num_hidden_layers", None)
    lists = (part for part in model.get_decoder().modules() if isinstance(part, nn.ModuleList) and len(part) == number)
    found = next(lists, None)
    if found is None:
        raise ValueError(f"{model.config.model_type}: it has no list of {number} layers, so none can be measured")
    return found


def _cut(model: Any) -> tuple[int, ...]:
    """Leave the first two layers of each kind in a model; return for each layer the one that is like it."""
    layers, text = layers_of(model), model.config.get_text_config()
    number, kinds = len(layers), [_kind(layer) for layer in layers]
    kept = [i for i, kind in enumerate(kinds) if kinds[:i].count(kind) < 2]
    for name, value in list(vars(text).items()):  # such as layer_types
        if isinstance(value, list) and len(value) == number:
            setattr(text, name, [value[i] for i in kept])
    text.num_hidden_layers = len(kept)
    for place, i in enumerate(kept):
        layers[place] = layers[i]
        for part in layers[i].modules():
            if hasattr(part, "layer_idx"):
                part.layer_idx = place
    del layers[len(kept) :]
    like = {kinds[i]: place for place, i in enumerate(kept)}
    return tuple(kept.index(i) if i in kept else like[kind] for i, kind in enumerate(kinds))


def _kind(layer: Any) -> str:
    """Return what tells kinds of layers apart: the plain values and the shapes of all their parts."""
    parts = []
    for part in layer.modules():
        plain = {name: value for name, value in vars(part).items() if isinstance(value, bool | int | float | str)}
        plain.pop("layer_idx", None)
        parts.append((type(part).__name__, plain, [weight.shape for weight in part.parameters(recurse=False)]))
    return repr(parts)


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
