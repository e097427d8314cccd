"""The optimizers of pretraining: Muon for the hidden matrices, AdamW for the rest, one schedule for both."""

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def make_optimizers(
    model: "PreTrainedModel",
    *,
    muon_learning_rate: float,
    learning_rate: float,
    embedding_learning_rate: float,
    weight_decay: float,
) -> list[torch.optim.Optimizer]:
    """Return Muon over the matrices inside the layers and AdamW over embedding, head and norms.

    Muon (Jordan et al. 2024, kellerjordan.github.io/posts/muon) replaces each matrix's momentum by the nearest
    semi-orthogonal matrix, so that every direction is learned at the same rate; that is no good for an embedding,
    whose rows are seen at very different frequencies. Each group carries its peak rate as `initial_lr`.
    """
    embedding = model.get_input_embeddings().weight
    hidden = [p for name, p in model.named_parameters() if p.ndim == 2 and ".layers." in name]
    apart = {id(p) for p in [embedding, *hidden]}
    rest = [p for p in model.parameters() if id(p) not in apart]
    assert hidden, "a decoder has matrices in its layers"
    groups = [{"params": [embedding], "lr": embedding_learning_rate}, {"params": rest, "lr": learning_rate}]
    optimizers: list[torch.optim.Optimizer] = [
        torch.optim.Muon(hidden, lr=muon_learning_rate, weight_decay=weight_decay),
        torch.optim.AdamW(groups, weight_decay=weight_decay, betas=(0.9, 0.95)),
    ]
    for group in (group for optimizer in optimizers for group in optimizer.param_groups):
        group["initial_lr"] = group["lr"]
    return optimizers


def learning_rate_factor(step: int, *, max_steps: int, warmup_steps: int, decay_fraction: float) -> float:
    """Return the share of the peak rate in optimizer step `step`, from 0: warmup, plateau, linear decay to zero.

    >>> [round(learning_rate_factor(s, max_steps=10, warmup_steps=2, decay_fraction=0.4), 2) for s in (0, 1, 5, 6, 9)]
    [0.5, 1.0, 1.0, 1.0, 0.25]
    """
    warmup = (step + 1) / warmup_steps if warmup_steps else 1.0
    decay_steps = decay_fraction * max_steps
    decay = (max_steps - step) / decay_steps if decay_steps else 1.0
    return min(1.0, warmup, decay)
