"""One pass of a model under PyTorch's fake tensors, which have shapes and no bytes: what it would allocate, measured.

Measured is a stack of at most two layers of each kind. What each of them takes and leaves is then summed over all
layers of the model: that is exact where a layer takes what its like takes, wherever it stands.
"""

import copy
import weakref
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

import numpy as np
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import AttentionInterface, AttentionMaskInterface

from algorithms.shapes import Shapes, layers_of

if TYPE_CHECKING:
    from algorithms.memory import Settings

PARTS = ("gradients", "autocast", "activations", "logits")
GRADIENTS, AUTOCAST, ACTIVATIONS, LOGITS = range(len(PARTS))
DTYPES = {2: torch.bfloat16, 4: torch.float32}
HEAD = ("trl.kernels.chunked_logprob", ("_forward_tile", "_backward_tile", "_addmm_fp32"))
"""On a GPU they work in the tile, and on a CPU copy it in float32."""
EXPERTS = "transformers.integrations.moe._can_use_grouped_mm"
"""Fake tensors are multiplied so in bfloat16 alone; what else is takes the way of other devices, and as much memory."""


@dataclass
class Span:
    """What is allocated at the start of a part of a pass, at its peak and at its end: vectors of bytes by PARTS."""

    start: Any
    peak: Any
    end: Any

    @property
    def left(self) -> Any:
        """What is there at the end that was not at the start."""
        return self.end - self.start


class Meter(TorchDispatchMode):
    """Counts the bytes of all storages but weights, in spans that begin and end where the layers do.

    Span N of `forward` begins when N layers are done, and that of `backward` when N layers remain: 0 is the first layer
    in the one and the embedding in the other. The last of `forward`, and one more of `backward`, is the head.
    """

    def __init__(self, model: Any, settings: "Settings") -> None:
        super().__init__()
        self.forward: dict[int, Span] = {}
        self.backward: dict[int, Span] = {}
        self._part, self._now = ACTIVATIONS, np.zeros(len(PARTS), dtype=np.int64)
        self._span = Span(self._now, self._now, self._now)
        self._alive: dict[int, list[Any]] = {}
        weights = (weight.untyped_storage() for weight in (*model.parameters(), *model.buffers()))
        self._weights = {id(storage): storage for storage in weights}
        self._head = LOGITS if settings.has_logits else ACTIVATIONS
        layers = layers_of(model)
        self.last = len(layers)
        layers[0].register_forward_pre_hook(lambda _, *given: self._pass(0, given), with_kwargs=True)
        for done, layer in enumerate(layers, start=1):
            layer.register_forward_hook(lambda _, __, output, done=done: self._pass(done, output))
        for weight in model.parameters():
            if weight.requires_grad:
                weight.register_post_accumulate_grad_hook(partial(self._gradient, settings.accumulates))

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        casts = func is torch.ops.aten._to_copy.default and id(args[0].untyped_storage()) in self._weights
        part = AUTOCAST if casts and self._part == ACTIVATIONS else self._part
        for storage in (each.untyped_storage() for each in tree_leaves(result) if isinstance(each, Tensor)):
            key, size = id(storage), storage.nbytes()
            if key not in self._alive and key not in self._weights:
                self._alive[key] = [weakref.ref(storage, partial(self._freed, key, size)), part]
                self._now[part] += size
        if self._now.sum() > self._span.peak.sum():
            self._span.peak = self._now.copy()
        return result

    def _freed(self, key: int, size: int, _: object) -> None:
        self._now[self._alive.pop(key)[1]] -= size

    def _gradient(self, accumulates: bool, weight: Any) -> None:
        """Count a weight's gradient as one, and drop it where it is added to an earlier one; a tied head's waits."""
        storage = weight.grad.untyped_storage()
        self._now[self._alive[id(storage)][1]] -= storage.nbytes()
        self._now[GRADIENTS] += storage.nbytes()
        self._alive[id(storage)][1] = GRADIENTS
        if accumulates and not hasattr(weight, "is_tied"):
            weight.grad = None

    def _pass(self, place: int, values: Any) -> None:
        """Begin a span where a layer does, and another one where the gradient comes back; not where it is run again."""
        if self.last + 1 not in self.backward:
            hidden = tree_leaves(values)[0]
            self.begin(self.forward, place, self._head if place == self.last else ACTIVATIONS)
            if hidden.requires_grad:
                part = ACTIVATIONS if place else GRADIENTS
                hidden.register_hook(lambda _: self.begin(self.backward, place, part))

    def begin(self, spans: dict[int, Span], place: int, part: int | None = None) -> None:
        """End a span and begin another, in which new storages are counted as `part`."""
        self._part = self._head if part is None else part
        self._span.end = self._now.copy()
        self._span = spans[place] = Span(self._now.copy(), self._now.copy(), self._now.copy())


@lru_cache(maxsize=256)
def training(shapes: Shapes, settings: "Settings") -> Mapping[str, Mapping[str, int]]:
    """Return what is there, beyond weights, states and earlier gradients, in each moment that can be a pass's peak.

    With `settings.accumulates` a gradient goes as it is added to the earlier one, else it stays.
    """
    rows = (1, settings.sequences * settings.tokens) if settings.padding_free else (settings.sequences, settings.tokens)
    with _faked(shapes, settings) as model, Meter(model, settings) as meter:
        loss = _loss(model, torch.zeros(rows, dtype=torch.long), settings)
        meter.begin(meter.backward, meter.last + 1)
        loss.backward()
        meter.begin({}, 0)
    forward = [meter.forward[place] for place in shapes.layers]
    backward = [meter.backward[place + 1] for place in shapes.layers]
    # what the stack lacks of what all leave: the forward pass adds; in the backward pass gradients come, the rest goes
    more = _left(forward) - _left([meter.forward[place] for place in range(meter.last)])
    change = _left(backward) - _left([meter.backward[place + 1] for place in range(meter.last)])
    gradients = np.where(np.arange(len(PARTS)) == GRADIENTS, change, 0)
    peaks = {
        "layers, forward": _peak(forward, forward[0].start),
        "head, forward": meter.forward[meter.last].peak + more,
        "head, backward": meter.backward[meter.last + 1].peak + gradients - change,
        "layers, backward": _peak(backward[::-1], backward[-1].start + gradients - change),
    }
    if 0 in meter.backward:
        peaks["embedding, backward"] = meter.backward[0].peak + gradients
    return {name: dict(zip(PARTS, peak.tolist(), strict=True)) for name, peak in peaks.items()}


def _left(layers: Sequence[Span]) -> Any:
    return sum(layer.left for layer in layers)


def _peak(layers: Sequence[Span], now: Any) -> Any:
    """Return the peak of passing the layers, one after the other, where `now` is allocated before the first."""
    befores = np.cumsum([now, *(layer.left for layer in layers)], axis=0)
    return max((before + layer.peak - layer.start for before, layer in zip(befores, layers, strict=False)), key=np.sum)


@lru_cache(maxsize=256)
def without_gradients(shapes: Shapes, settings: "Settings", *, cached: bool) -> tuple[Mapping[str, int], Sequence[int]]:
    """Return the peak of a pass without gradients, head and cache; and the size of the cache of each layer."""
    with _faked(shapes, settings) as model, torch.no_grad(), Meter(model, settings) as meter, _autocast(settings):
        ids = torch.zeros((settings.sequences, settings.tokens), dtype=torch.long)
        output = model.get_decoder()(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=cached)
        caches = [vars(layer).values() for layer in output.past_key_values.layers] if cached else [()] * meter.last
    cache = [sum(one.nbytes for one in values if isinstance(one, Tensor)) for values in caches]
    spans = [meter.forward[place] for place in range(meter.last)]
    activations = max(int(span.peak[ACTIVATIONS]) - sum(cache[:place]) for place, span in enumerate(spans))
    casts = sum(int(spans[place].left[AUTOCAST]) for place in shapes.layers)
    return {"activations": activations, "autocast": casts}, [cache[place] for place in shapes.layers]


@contextmanager
def _faked(shapes: Shapes, settings: "Settings") -> Iterator[Any]:
    """Give the stack as a stage trains it, of fake tensors.

    Raises:
        ValueError: it cannot be made, or its pass fails under them.
    """
    replaced: dict[str, Any] = dict.fromkeys(HEAD[1], _nothing)
    with ExitStack() as stack:
        try:
            model = _stack(shapes, settings)
            stack.enter_context(patch.multiple(HEAD[0], **replaced))
            stack.enter_context(patch(EXPERTS, lambda _, weight, __: weight.dtype == torch.bfloat16))
            stack.enter_context(FakeTensorMode())
            _fake(model)
            yield model
        except (AttributeError, ImportError, LookupError, RuntimeError, TypeError, ValueError) as error:
            kind, reason = shapes.stack.config.model_type, str(error).strip().partition("\n")[0]
            raise ValueError(f"a pass of {kind} cannot be measured without bytes: {reason}") from error


def _stack(shapes: Shapes, settings: "Settings") -> Any:
    """Return the stack as a stage trains it, on the meta device."""
    AttentionInterface.register("fused", _flash)
    AttentionMaskInterface.register("fused", _nothing)
    model = copy.deepcopy(shapes.stack).to(DTYPES[settings.weight_bytes]).train()
    for config in (model.config, model.config.get_text_config()):
        config._attn_implementation = "fused" if "flash" in settings.attention else settings.attention
    for module in model.get_decoder().modules():
        if isinstance(module, nn.Linear) and settings.adapter is not None and settings.adapter.quantised:
            module.to(DTYPES[settings.compute_bytes])  # nothing casts what is in 4 bits
        elif settings.liger and type(module).__name__.endswith("RMSNorm"):
            module.forward = _Fused.apply
        elif settings.liger and all(hasattr(module, f"{name}_proj") for name in ("gate", "up", "down")):
            module.forward = partial(_liger_mlp, module)
    if settings.gradient_checkpointing:
        model.activation_checkpointing_enable({"use_reentrant": False})
    if settings.has_logits and not settings.whole_logits:
        from trl.trainer.utils import add_fused_lm_head

        add_fused_lm_head(model, outputs=("log_probs", "entropy", "is_top1"))
    if settings.adapter is not None:
        from peft import LoraConfig, get_peft_model

        names = sorted({name.removesuffix(".weight").rpartition(".")[2] for name in settings.adapter.targets})
        with torch.device("meta"):
            get_peft_model(model, LoraConfig(r=settings.adapter.r, target_modules=names))
    return model


def _fake(model: Any) -> None:
    """Put fake tensors in the place of a model's."""
    made: dict[int, Tensor] = {}
    for module in model.modules():
        for tensors in (module._parameters, module._buffers):
            for name, tensor in tensors.items():
                tensors[name] = None if tensor is None else made.setdefault(id(tensor), _empty(tensor))
    head = model.get_output_embeddings()
    if head is not None and head.weight is model.get_input_embeddings().weight:
        # a gradient of its own: autograd adds the two in place, and fake ones in a third
        head.weight = nn.Parameter(head.weight.detach(), head.weight.requires_grad)
        head.weight.is_tied = True


def _empty(tensor: Tensor) -> Tensor:
    empty = torch.empty(tensor.shape, dtype=tensor.dtype)
    return nn.Parameter(empty, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else empty


def _autocast(settings: "Settings") -> torch.autocast:
    return torch.autocast("cpu", torch.bfloat16, enabled=settings.compute_bytes == 2)


def _loss(model: Any, ids: Tensor, settings: "Settings") -> Tensor:
    in_tiles = settings.has_logits and not settings.whole_logits
    options = {"labels": ids, "fused_lm_head": True} if in_tiles else {}
    with _autocast(settings):
        output = model(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False, **options)
    if in_tiles:
        return output.loss
    logits = output.logits.float()
    return nn.functional.cross_entropy(logits.flatten(0, 1), ids.flatten()) if settings.has_logits else logits.sum()


class _Fused(torch.autograd.Function):
    """Saves what kernels for a GPU do: the inputs, in whose place the gradients are written."""

    @staticmethod
    def forward(ctx: Any, *inputs: Tensor) -> Tensor:
        ctx.save_for_backward(*inputs)
        return torch.empty_like(inputs[0])

    @staticmethod
    def backward(ctx: Any, _: Tensor) -> Any:
        return ctx.saved_tensors


def _liger_mlp(module: Any, hidden: Tensor) -> Any:
    return module.down_proj(_Fused.apply(module.gate_proj(hidden), module.up_proj(hidden)))


def _flash(_: Any, query: Tensor, key: Tensor, value: Tensor, *__: Any, **___: Any) -> tuple[Tensor, None]:
    return _Fused.apply(query, key, value).transpose(1, 2), None


def _nothing(*_: Any, **__: Any) -> None:
    pass
