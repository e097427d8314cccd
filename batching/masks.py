"""Attention masks of our own making, in the form that a transformers model takes them."""

from typing import Any

import torch

KINDS = {"full_attention", "sliding_attention"}
"""Layers that look at earlier tokens and keep nothing else."""

ROUNDING = 0.05
"""Largest difference of a row, as a share of its range, that computing in bfloat16 explains."""
UNSUITED = (AttributeError, IndexError, KeyError, NotImplementedError, RuntimeError, TypeError, ValueError)
"""What a model raises that cannot be run so."""


def alike(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Tell whether the rows of two tensors differ by rounding alone."""
    spread = (other.amax(-1) - other.amin(-1)).float()
    return bool(((one - other).abs().amax(-1).float() <= ROUNDING * spread).all())


def takes_masks(config: Any) -> bool:
    """Tell whether a model of that configuration does nothing but attend to what a mask shows it."""
    text = config.get_text_config(decoder=True)
    return (
        not config.is_encoder_decoder
        and set(getattr(text, "layer_types", None) or ()) <= KINDS
        and getattr(text, "_attn_implementation", None) in ("sdpa", "eager")
    )


def mask_for(config: Any, sees: torch.Tensor, distance: torch.Tensor, dtype: torch.dtype) -> Any:
    """Return what a model takes as `attention_mask`.

    `sees` tells which token sees which, (rows, queries, keys); `distance` by how many places the key stands before the
    query, which windows of sliding attention limit.
    """
    text = config.get_text_config(decoder=True)
    kinds, window = set(getattr(text, "layer_types", None) or ()), getattr(text, "sliding_window", None)
    if not kinds:
        kinds = {"sliding_attention" if window else "full_attention"}

    def of(kind: str) -> torch.Tensor:
        seen = sees & (distance < window) if kind == "sliding_attention" and window else sees
        seen = seen[:, None]
        if text._attn_implementation == "sdpa":
            return seen
        return torch.where(seen, 0.0, torch.finfo(dtype).min).to(dtype)

    return of(kinds.pop()) if len(kinds) == 1 else {kind: of(kind) for kind in kinds}
