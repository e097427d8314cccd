"""What counts as running out of memory, and how a step is made up then."""

import pytest
import torch

from watching.out_of_memory import Batch, OutOfMemory, is_out_of_memory, naming_the_step


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (Batch(8, 1), Batch(4, 2)),
        (Batch(6, 5), Batch(3, 10)),
        (Batch(3, 2), Batch(2, 3)),  # 3 cannot be halved; of the 6 rows a step, 2 is the next divisor
        (Batch(5, 2), Batch(2, 5)),
        (Batch(7, 1), Batch(1, 7)),
        (Batch(9, 2, 27), Batch(3, 6, 27)),  # 6 would divide the 18 rows a step, not the 27 completions
        (Batch(1, 8), None),
    ],
)
def test_the_step_keeps_its_rows_in_more_passes(before: Batch, after: Batch | None) -> None:
    assert before.smaller() == after


@pytest.mark.parametrize(
    "message",
    [
        "CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported",
        "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
        "Triton Error [CUDA]: out of memory",
        "Error out of memory at line 383 in file /src/csrc/pythonInterface.cpp",
    ],
)
def test_libraries_beside_torchs_allocator_run_out_of_memory_too(message: str) -> None:
    assert is_out_of_memory(RuntimeError(message))


def test_only_running_out_of_memory_is_taken_for_it() -> None:
    assert is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory."))
    assert not is_out_of_memory(RuntimeError("CUDA error: device-side assert triggered"))
    assert not is_out_of_memory(ValueError("CUDA error: out of memory"))


def test_an_impossible_allocation_on_the_cpu_is_recognised() -> None:
    with pytest.raises(OutOfMemory, match="memory") as error, naming_the_step(lambda: 7):
        torch.empty(2**60, dtype=torch.uint8)
    assert error.value.step == 7
