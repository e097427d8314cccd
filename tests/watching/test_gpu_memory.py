"""The cap on the GPU's memory: its arithmetic, and, on a GPU, that it holds."""

import pytest

from utils.runtime import device
from watching import gpu_memory
from watching.gpu_memory import GIB, beyond_message, cap_bytes

MIB = 2**20


def test_the_cap_leaves_room_for_context_and_other_programs() -> None:
    # 8 GiB, of which 5 are free: torch reserved 1, so context and others hold 2, and 4 of a budget of 6 are left.
    assert cap_bytes(6 * GIB, total_bytes=8 * GIB, free_bytes=5 * GIB, reserved_bytes=1 * GIB) == 4 * GIB
    # The whole card: what is free, and what torch has reserved already.
    assert cap_bytes(8 * GIB, total_bytes=8 * GIB, free_bytes=5 * GIB, reserved_bytes=1 * GIB) == 6 * GIB
    # A budget above the card is the card's.
    assert cap_bytes(80 * GIB, total_bytes=8 * GIB, free_bytes=5 * GIB, reserved_bytes=1 * GIB) == 6 * GIB
    # Nothing is left where others hold more than the budget.
    assert cap_bytes(2 * GIB, total_bytes=8 * GIB, free_bytes=5 * GIB, reserved_bytes=0) == -1 * GIB


def test_more_reserved_than_the_card_or_the_budget_has_is_said_with_what_to_try() -> None:
    assert beyond_message(8 * GIB, 8 * GIB, None) is None
    assert beyond_message(6 * GIB, 8 * GIB, 6 * GIB) is None
    spilled = beyond_message(int(10.8 * GIB), 8 * GIB, None)
    assert spilled is not None
    for part in ("10.8 GiB are reserved, and the card has 8.0", "WSL", "per_device_train_batch_size"):
        assert part in spilled
    assert "the memory budget has 6.0" in (beyond_message(7 * GIB, 8 * GIB, 6 * GIB) or "")


def test_without_a_cuda_device_nothing_is_capped() -> None:
    if device() == "cuda":
        pytest.skip("there is one")
    assert gpu_memory.keep_within(6 * GIB) is None
    assert gpu_memory.beyond(None) is None


@pytest.mark.gpu
def test_a_capped_process_runs_out_of_memory_at_the_budget_and_not_before() -> None:
    import torch

    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA GPU")
    torch.cuda.empty_cache()
    free, total = torch.cuda.mem_get_info()
    budget = total - free + 512 * MIB  # what is in use, this process's context included, and half a GiB more
    try:
        cap = gpu_memory.keep_within(budget)
        assert cap == pytest.approx(512 * MIB + torch.cuda.memory_reserved(), abs=64 * MIB)
        held = torch.empty(384 * MIB, dtype=torch.uint8, device="cuda")
        with pytest.raises(torch.OutOfMemoryError):
            torch.empty(384 * MIB, dtype=torch.uint8, device="cuda")
        assert gpu_memory.beyond(budget) is None
        assert "the memory budget" in (gpu_memory.beyond(256 * MIB) or "")
        del held
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
        torch.cuda.empty_cache()


@pytest.mark.gpu
def test_a_budget_that_others_have_used_up_is_refused() -> None:
    import torch

    from utils.errors import StageFailed

    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA GPU")
    with pytest.raises(StageFailed, match="no GPU memory is left to train in"):
        gpu_memory.keep_within(MIB)
