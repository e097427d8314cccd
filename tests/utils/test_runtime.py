"""Facts about the machine."""

import datetime
import subprocess
import sys

import pytest

from utils import runtime


def test_now_is_iso_8601_with_an_offset() -> None:
    assert datetime.datetime.fromisoformat(runtime.now()).utcoffset() is not None


def test_versions_name_what_is_installed() -> None:
    found = runtime.versions()
    assert {"python", "torch", "trl", "transformers", "datasets"} <= set(found)
    assert all(found.values())


def test_peak_memory_is_at_least_what_is_in_use_and_starts_anew() -> None:
    held = bytearray(200 * 2**20)
    held[:: 2**12] = b"x" * len(held[:: 2**12])
    in_use = runtime.memory_bytes()  # first: to ask takes memory too
    peak = runtime.peak_memory_bytes()
    assert peak >= in_use >= 200 * 2**20
    del held
    runtime.reset_peak_memory()
    assert runtime.peak_memory_bytes() <= peak


@pytest.mark.skipif(sys.platform != "linux", reason="it is glibc's memory that is kept")
def test_freed_memory_is_kept_for_the_next_tensor_until_it_is_given_back() -> None:
    code = """
import resource
import torch
from utils import runtime

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        kept = [torch.ones(5 << 18) for _ in range(16)]  # 80 MiB
        del kept
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

runtime.keep_freed_memory()
faults()
held = runtime.memory_bytes()
print(faults())
runtime.free_memory()
print((held - runtime.memory_bytes()) >> 20)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    in_20_rounds, given_back_mib = map(int, done.stdout.split())
    assert in_20_rounds < 500, "the 80 MiB of one round are 20,480 pages"
    assert given_back_mib >= 60


@pytest.mark.parametrize("has", [True, False])
@pytest.mark.parametrize("name", ["avx512_bf16", "bf16"])
def test_a_cpu_computes_in_bf16_if_it_has_the_instructions(
    name: str, has: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    assert "architecture" in torch.cpu.get_capabilities()
    assert f" {name}," in str(torch.cpu.get_capabilities.__doc__)  # of x86 and of ARM, as torch names them
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx2": True, "neon": True, name: has})
    assert runtime.computes_in_bf16("cpu") is has


def test_hardware_tells_device_cores_and_memory() -> None:
    found = runtime.hardware()
    assert found["device"] == runtime.device()
    assert found["cpu_cores"] >= 1
    assert found["memory_bytes"] > 2**28
    assert found["cpu"]
