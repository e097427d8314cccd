"""How models are loaded to be compared: as they were saved where the GPU has room, else in 4 bits, else on the CPU."""

from collections.abc import Iterable
from enum import StrEnum
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from utils.console import warn
from utils.files import weight_files
from utils.four_bits import nf4
from utils.limits import kept
from utils.runtime import computes_in_bf16, device, free_memory
from watching.gpu_memory import GIB, cap_bytes

BESIDE_BYTES = 3 * 2**29
"""What one long row takes beside the weights: a slice of logits in 16 bits, in float32 and as log-probabilities (1.25
GiB), and its activations. Small models have small vocabularies, and need no more than their weights again."""


class Placement(StrEnum):
    """How a model is loaded."""

    AS_SAVED = "as saved"
    IN_4_BITS = "in 4 bits"
    ON_CPU = "on the CPU"


def placement(weights_bytes: int, free_bytes: int) -> Placement:
    """Return how models of that size are loaded for a GPU with so much free.

    In 4 bits a model takes at most about half: its embeddings and its head stay in 16.
    """
    beside = min(weights_bytes, BESIDE_BYTES)
    if weights_bytes + beside <= free_bytes:
        return Placement.AS_SAVED
    return Placement.IN_4_BITS if weights_bytes // 2 + beside <= free_bytes else Placement.ON_CPU


def placed_alike(models: Iterable[Path | str]) -> Placement:
    """Return the one way for models that are compared, what the largest needs, and say it if it is not as saved.

    Models on the Hub are not measured. To be asked while none of the models is loaded.
    """
    if device() != "cuda":
        return Placement.AS_SAVED
    weights_bytes = max(_weights_bytes(Path(model)) for model in models)
    free = free_bytes()
    found = placement(weights_bytes, free)
    if found is Placement.IN_4_BITS and find_spec("bitsandbytes") is None:
        found = Placement.ON_CPU
    if found is not Placement.AS_SAVED:
        warn(
            f"evaluated {found}, before and after alike: the weights take {weights_bytes / GIB:.1f} GiB as saved, and"
            f" {free / GIB:.1f} GiB of the GPU's memory are left"
        )
    return found


def placed_kind(kind: str, placed: Placement) -> str:
    """Return what scores are kept under: those of a model in 4 bits are not those of the model as it was saved."""
    return kind if placed is Placement.AS_SAVED else f"{kind} {placed}"


def free_bytes() -> int:
    """Return how much this process may still take of the GPU's memory, within the budget that it keeps to."""
    import torch

    free_memory()
    free, total = torch.cuda.mem_get_info()
    budget = kept().limits.memory_budget_bytes
    cap = cap_bytes(
        total if budget is None else budget,
        total_bytes=total,
        free_bytes=free,
        reserved_bytes=torch.cuda.memory_reserved(),
    )
    return cap - torch.cuda.memory_allocated()


def device_for(placed: Placement) -> str:
    """Return where a model is evaluated: "cuda", "mps" or "cpu"."""
    return "cpu" if placed is Placement.ON_CPU else device()


def loading_options(placed: Placement) -> dict[str, Any]:
    """Return what `from_pretrained` takes: float32 on a CPU, elsewhere the type that the model was saved in.

    4 bits are NF4 with quantised constants, as QLoRA trains on.
    """
    target = device_for(placed)
    options: dict[str, Any] = {"dtype": "float32" if target == "cpu" else "auto"}
    if placed is not Placement.IN_4_BITS:
        return options
    computed_in = "bfloat16" if computes_in_bf16(target) else "float16" if target == "cuda" else "float32"
    return options | {"quantization_config": nf4(computed_in), "device_map": {"": target}}


def _weights_bytes(directory: Path) -> int:
    return sum(path.stat().st_size for path in weight_files(directory))
