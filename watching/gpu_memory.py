"""The memory of the GPU that this process may take: a cap that leaves room for what else is held there."""

import os

from utils.errors import StageFailed
from utils.runtime import device

GIB = 2**30


def cap_bytes(budget_bytes: int, *, total_bytes: int, free_bytes: int, reserved_bytes: int) -> int:
    """Return what torch may reserve so that all that is in use on the card stays within the budget.

    In use beside torch's own `reserved_bytes` are this process's CUDA context and whatever other programs hold.
    """
    others = total_bytes - free_bytes - reserved_bytes
    return min(budget_bytes, total_bytes) - others


def others_bytes(context_bytes: int) -> int:
    """Return what other programs hold of the GPU, and 0 without a CUDA device.

    `context_bytes` is what this process's own CUDA context is taken for: the driver tells the sum of both alone.
    """
    if device() != "cuda":
        return 0
    import torch

    card = _device()
    free, total = torch.cuda.mem_get_info(card)
    return max(0, total - free - torch.cuda.memory_reserved(card) - context_bytes)


def keep_within(budget_bytes: int | None) -> int | None:
    """Cap the process so that the card's use stays within the budget, by default the card; return the cap in bytes.

    The context grows as kernels are loaded, so this is called again after the first step. None, and no cap, where
    there is no CUDA device.

    Raises:
        StageFailed: context and other programs alone take the budget.
    """
    if device() != "cuda":
        return None
    import torch

    card = _device()
    free, total = torch.cuda.mem_get_info(card)
    budget = total if budget_bytes is None else budget_bytes
    reserved = torch.cuda.memory_reserved(card)
    cap = cap_bytes(budget, total_bytes=total, free_bytes=free, reserved_bytes=reserved)
    if cap <= 0:
        raise StageFailed(
            f"no GPU memory is left to train in: of {budget / GIB:.1f} GiB, the CUDA context and other programs hold"
            f" {(total - free - reserved) / GIB:.1f}. Close what else uses the GPU (nvidia-smi lists it), or raise"
            " --memory-budget"
        )
    torch.cuda.set_per_process_memory_fraction(cap / total, card)
    return cap


def beyond_message(reserved_bytes: int, total_bytes: int, budget_bytes: int | None) -> str | None:
    """Say that more is reserved than the card or the budget has, and what to try; None if it is not so."""
    allowed = min(total_bytes, budget_bytes or total_bytes)
    if reserved_bytes <= allowed:
        return None
    what = "the memory budget" if budget_bytes is not None and budget_bytes < total_bytes else "the card"
    return (
        f"{reserved_bytes / GIB:.1f} GiB are reserved, and {what} has {allowed / GIB:.1f}: the driver moves the rest to"
        " the computer's memory, as on Windows and WSL, and steps become many times slower. Try a smaller"
        " per_device_train_batch_size (with more gradient_accumulation_steps), a shorter max_length, or --memory-budget"
    )


def beyond(budget_bytes: int | None) -> str | None:
    """Say that this process has reserved more than the card or the budget has; None if not, or without CUDA."""
    if device() != "cuda":
        return None
    import torch

    card = _device()
    total = torch.cuda.get_device_properties(card).total_memory
    return beyond_message(torch.cuda.max_memory_reserved(card), total, budget_bytes)


def _device() -> int:
    """Return the GPU of this process: of several that a launcher starts, each has its own."""
    return int(os.environ.get("LOCAL_RANK", "0"))
