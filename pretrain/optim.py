"""The optimizer of pretraining: Muon for the hidden matrices, AdamW for the rest, one schedule for both."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.distributed.tensor import DTensor, Replicate

from utils.runtime import computes_in_bf16

if TYPE_CHECKING:
    from transformers import PreTrainedModel

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""Of the quintic a*x + b*x**3 + c*x**5, whose iteration takes every singular value into about 0.5 to 1.5."""
STEPS = 5
MOMENTUM = 0.95


def orthogonalise(matrices: Float[Tensor, "N A B"], dtype: torch.dtype = torch.bfloat16) -> Float[Tensor, "N A B"]:
    """Return for each matrix one with the same singular vectors and singular values near 1, computed in `dtype`.

    Newton-Schulz iteration on the matrix over its Frobenius norm (Jordan et al. 2024). It does not compute U V^T: the
    singular values end somewhere between 0.5 and 1.5, which serves as well.
    """
    a, b, c = COEFFICIENTS
    tall = matrices.shape[-2] > matrices.shape[-1]
    x = matrices.to(dtype).mT if tall else matrices.to(dtype)
    x = x / x.norm(dim=(-2, -1), keepdim=True).clamp(min=1e-7)
    for _ in range(STEPS):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if tall else x


class Muon(torch.optim.Optimizer):
    """Momentum, orthogonalised (Jordan et al. 2024, kellerjordan.github.io/posts/muon), for 2-D parameters.

    The same updates as `torch.optim.Muon`, bit for bit on a CPU that computes in bfloat16, but with all matrices of one
    shape in one batch: a model of many small matrices spends its time on starting operations, not in them. Where
    bfloat16 is only emulated, the matrices are orthogonalised in float32.
    """

    def __init__(self, params: list[torch.nn.Parameter], lr: float, weight_decay: float = 0.0) -> None:
        assert all(p.ndim == 2 for p in params), [tuple(p.shape) for p in params]
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        """Update every parameter from its gradient."""
        assert closure is None, "one gradient a step"
        for group in self.param_groups:
            by_shape: dict[torch.Size, list[torch.nn.Parameter]] = {}
            for p in group["params"]:
                by_shape.setdefault(p.shape, []).append(p)
            for shape, params in by_shape.items():
                self._update(params, group["lr"] * max(1.0, shape[0] / shape[1]) ** 0.5, group)

    def _update(self, params: list[torch.nn.Parameter], scaled_lr: float, group: dict[str, Any]) -> None:
        gradients = torch.stack([_whole(torch.zeros_like(p) if p.grad is None else p.grad) for p in params])
        for p in params:
            self.state[p].setdefault("momentum_buffer", torch.zeros_like(p))
        momentum = torch.stack([_whole(self.state[p]["momentum_buffer"]) for p in params]).lerp_(
            gradients, 1 - MOMENTUM
        )
        dtype = torch.bfloat16 if computes_in_bf16(gradients.device.type) else torch.float32
        updates = orthogonalise(gradients.lerp(momentum, MOMENTUM), dtype)  # Nesterov
        for p, buffer, update in zip(params, momentum, updates, strict=True):
            self.state[p]["momentum_buffer"].copy_(placed_like(p, buffer))
            p.mul_(1 - group["lr"] * group["weight_decay"])
            p.add_(placed_like(p, update), alpha=-scaled_lr)


def _whole(tensor: Tensor) -> Tensor:
    """Return a tensor whose parts lie in several processes (FSDP2) as one; a whole matrix is what Muon works on."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def placed_like(parameter: Tensor, whole: Tensor) -> Tensor:
    """Return `whole`, which every process has, placed as `parameter` is."""
    if not isinstance(parameter, DTensor):
        return whole
    mesh = parameter.device_mesh
    everywhere = DTensor.from_local(whole, mesh, [Replicate()] * mesh.ndim, run_check=False)
    return everywhere.redistribute(placements=parameter.placements)


class MuonAndAdamW(torch.optim.Optimizer):
    """Both as one optimizer, with the groups and states of the two, so that one gradient scaler and one file serve."""

    def __init__(self, muon: Muon, adamw: torch.optim.AdamW) -> None:
        self.parts: tuple[torch.optim.Optimizer, ...] = (muon, adamw)
        super().__init__([*muon.param_groups, *adamw.param_groups], {})
        self._share()

    def _share(self) -> None:
        groups = iter(self.param_groups)
        for part in self.parts:
            part.param_groups = [next(groups) for _ in part.param_groups]
            part.state = self.state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore both."""
        super().load_state_dict(state_dict)
        self._share()

    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        """Update every parameter from its gradient."""
        assert closure is None, "one gradient a step"
        for part in self.parts:
            part.step()


def make_optimizer(
    model: "PreTrainedModel",
    *,
    muon_learning_rate: float,
    learning_rate: float,
    embedding_learning_rate: float,
    weight_decay: float,
) -> MuonAndAdamW:
    """Return Muon over the matrices inside the layers and AdamW over embedding, head and norms.

    Muon moves a matrix in all its directions at the same rate; that is no good for an embedding, whose rows are seen at
    very different frequencies. Each group carries its peak rate as `initial_lr`.
    """
    embedding = model.get_input_embeddings().weight
    hidden = [p for name, p in model.named_parameters() if p.ndim == 2 and ".layers." in name]
    apart = {id(p) for p in [embedding, *hidden]}
    rest = [p for p in model.parameters() if id(p) not in apart]
    assert hidden, "a decoder has matrices in its layers"
    tied = model.get_output_embeddings().weight is embedding  # then it is the head too, and starts as small as one
    embedding_lr = learning_rate if tied else embedding_learning_rate
    groups = [{"params": [embedding], "lr": embedding_lr}, {"params": rest, "lr": learning_rate}]
    optimizer = MuonAndAdamW(
        Muon(hidden, lr=muon_learning_rate, weight_decay=weight_decay),
        torch.optim.AdamW(groups, weight_decay=weight_decay, betas=(0.9, 0.95)),
    )
    for group in optimizer.param_groups:
        group["initial_lr"] = group["lr"]
    return optimizer


def learning_rate_factor(step: int, *, max_steps: int, warmup_steps: int, decay_fraction: float) -> float:
    """Return the share of the peak rate in optimizer step `step`, from 0: warmup, plateau, linear decay to zero.

    >>> [round(learning_rate_factor(s, max_steps=10, warmup_steps=2, decay_fraction=0.4), 2) for s in (0, 1, 5, 6, 9)]
    [0.5, 1.0, 1.0, 1.0, 0.25]
    """
    warmup = (step + 1) / warmup_steps if warmup_steps else 1.0
    decay_steps = decay_fraction * max_steps
    decay = (max_steps - step) / decay_steps if decay_steps else 1.0
    return min(1.0, warmup, decay)
