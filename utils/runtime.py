"""Facts about where the code runs: time, versions, commit, hardware, memory."""

import ctypes
import gc
import os
import platform
import subprocess
import sys
from datetime import datetime
from pathlib import Path
from typing import Any

import psutil

PACKAGES = (
    "torch", "trl", "transformers", "datasets", "accelerate", "peft", "liger-kernel", "triton", "bitsandbytes",
    "torchao", "tokenizers", "rich",
)  # fmt: skip


def now() -> str:
    """Return the local time as ISO 8601 with its offset, to the millisecond."""
    return datetime.now().astimezone().isoformat(timespec="milliseconds")


def versions() -> dict[str, str]:
    """Return the installed version of Python and of each library that shapes a result, without importing any."""
    from importlib import metadata  # 11 ms, and the command line is to answer at once

    installed = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            installed[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return installed


def git_commit() -> str | None:
    """Return the commit of this checkout, with "-dirty" if tracked files differ from it; None outside git."""
    root = Path(__file__).resolve().parent.parent
    try:
        top = _git(root, "rev-parse", "--show-toplevel")
        if Path(top).resolve() != root:
            return None
        return _git(root, "rev-parse", "HEAD") + ("-dirty" if _git(root, "status", "--porcelain", "-uno") else "")
    except (OSError, subprocess.SubprocessError):
        return None


def _git(root: Path, *arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True, timeout=10, check=True)
    return done.stdout.strip()


def device() -> str:
    """Return where training runs: "cuda", "mps" or "cpu"."""
    import torch

    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def computes_in_bf16(device: str) -> bool:
    """Tell whether a device ("cuda", "mps" or "cpu") computes in bfloat16 natively.

    Where it does not, bfloat16 is emulated, on a CPU many times slower than float32. MPS does not tell.
    """
    import torch

    if device == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    features = torch.cpu.get_capabilities()
    return device == "cpu" and bool(features.get("avx512_bf16") or features.get("bf16"))  # bf16 is ARM's own name


def hardware() -> dict[str, Any]:
    """Return the machine: platform, processor, cores, memory, device and GPUs."""
    facts: dict[str, Any] = {
        "platform": platform.platform(),
        "cpu": _cpu_name(),
        "cpu_cores": available_cores(),
        "memory_bytes": machine_bytes(),
        "device": device(),
        "gpus": [],
    }
    if facts["device"] == "cuda":
        import torch

        devices = [torch.cuda.get_device_properties(index) for index in range(torch.cuda.device_count())]
        facts["gpus"] = [{"name": gpu.name, "memory_bytes": gpu.total_memory} for gpu in devices]
    return facts


def card_bytes() -> int | None:
    """Return the memory of the GPU that training uses; None without one."""
    if device() != "cuda":
        return None
    import torch

    return int(torch.cuda.get_device_properties(torch.cuda.current_device()).total_memory)


def machine_bytes() -> int:
    """Return the machine's memory in bytes, without that of a GPU."""
    return int(psutil.virtual_memory().total)


def available_cores() -> int:
    """Return how many CPU cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def _cuda() -> Any:
    """Return torch.cuda once something uses it, else None; a reading of memory is no reason to import torch."""
    torch = sys.modules.get("torch")
    cuda = getattr(torch, "cuda", None)
    return cuda if cuda is not None and cuda.is_initialized() else None


def memory_bytes() -> int:
    """Return the memory in use: reserved on the GPU where training uses one, else the process's resident memory."""
    cuda = _cuda()
    return int(cuda.memory_reserved() if cuda else psutil.Process().memory_info().rss)


def peak_memory_bytes() -> int:
    """Return the peak of `memory_bytes` since the last `reset_peak_memory`, or since the process began."""
    cuda = _cuda()
    if cuda:
        return int(cuda.max_memory_reserved())
    try:
        lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))
    except (OSError, StopIteration):
        import resource

        unit_bytes = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit_bytes


def reset_peak_memory() -> None:
    """Start a new peak, so that each stage reports its own. Where the system cannot, the peak is the process's."""
    cuda = _cuda()
    if cuda:
        cuda.reset_peak_memory_stats()
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # 5: reset VmHWM, see proc(5)
    except OSError:
        pass


def keep_freed_memory() -> None:
    """Let glibc keep what is freed for the next tensor of that size, where it would ask the system for every one.

    A training step frees and takes the same buffers again; each page of a fresh one costs a page fault. Tensors over 32
    MiB still go back to the system at once, so that they do not leave holes. `free_memory` returns the rest.
    """
    if sys.platform == "linux":
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_M_MMAP_THRESHOLD, 32 << 20)
        mallopt(_M_TRIM_THRESHOLD, (1 << 31) - 1)


_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h


def free_memory() -> None:
    """Give the memory of what is finished back to the system, so that what comes next has all of it."""
    gc.collect()
    if sys.platform == "linux":
        ctypes.CDLL(None).malloc_trim(0)
    cuda = _cuda()
    if cuda:
        cuda.empty_cache()
