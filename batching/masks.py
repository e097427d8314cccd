"""Attention masks of our own making, in the form that a transformers model takes them."""

from typing import Any

import torch

KINDS = {"full_attention", "sliding_attention"}
"""Layers that look at earlier tokens and keep nothing else."""

ROUNDING = {torch.float32: 1e-3, torch.float64: 1e-3}
OTHERWISE = 0.05
"""Largest difference of a row, as a share of its range, that rounding explains, by the type that is computed in."""
UNSUITED = (AttributeError, IndexError, KeyError, NotImplementedError, RuntimeError, TypeError, ValueError)
"""What a model raises that cannot be run so."""


def alike(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Tell whether the rows of two tensors differ by rounding alone."""
    spread = (other.amax(-1) - other.amin(-1)).float()
    share = ROUNDING.get(other.dtype, OTHERWISE)
    return bool(((one - other).abs().amax(-1).float() <= share * spread).all())


def takes_masks(config: Any, model_class: Any, attention: str | None = None) -> bool:
    """Tell whether a model does nothing but attend to what a mask shows it, in all of its layers.

    Classes with a state, and those with attention of their own (ALiBi, windows over places in the cache), do more.
    `attention` is how it is computed, where the configuration does not say.
    """
    text = config.get_text_config(decoder=True)
    return bool(
        getattr(model_class, "_supports_attention_backend", False)
        and not getattr(model_class, "_is_stateful", False)
        and not config.is_encoder_decoder
        and set(getattr(text, "layer_types", None) or ()) <= KINDS
        and (getattr(text, "_attn_implementation", None) or attention) in ("sdpa", "eager")
    )


def class_of(model: Any) -> Any:
    """Return the class that transformers has for a model, within an adapter too."""
    return type(model.get_base_model() if hasattr(model, "get_base_model") else model)


def mask_for(config: Any, sees: torch.Tensor, queries: torch.Tensor, keys: torch.Tensor, dtype: torch.dtype) -> Any:
    """Return what a model takes as `attention_mask`.

    `sees` tells which token sees which, (rows, queries, keys); `queries` and `keys` are the places of the tokens in
    their sequences, (rows, queries) and (rows or 1, keys), by which windows of sliding attention are measured.
    """
    text = config.get_text_config(decoder=True)
    kinds, window = set(getattr(text, "layer_types", None) or ()), getattr(text, "sliding_window", None)
    if not kinds:
        kinds = {"sliding_attention" if window else "full_attention"}

    def of(kind: str) -> torch.Tensor:
        seen = sees
        if kind == "sliding_attention" and window is not None:
            seen = sees & (queries[:, :, None] - keys[:, None, :] < window)
        seen = seen[:, None]
        if text._attn_implementation == "sdpa":
            return seen
        return torch.where(seen, 0.0, torch.finfo(dtype).min).to(dtype)

    return of(kinds.pop()) if len(kinds) == 1 else {kind: of(kind) for kind in kinds}
