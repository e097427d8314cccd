"""How models are loaded that the GPU may have no room for, by sizes worked by hand."""

from pathlib import Path

import pytest
import torch

from evaluation import placement as module
from evaluation.placement import Placement, device_for, free_bytes, loading_options, placed_alike, placement

GIB = 2**30
SMOLLM3, QWEN_1_5B, EMBEDDED = 2 * 3_075_000_000, 2 * 1_544_000_000, 4 * 3_000_000


@pytest.mark.parametrize(
    ("weights_bytes", "free", "found"),
    [
        (SMOLLM3, 5.5 * GIB, Placement.IN_4_BITS),  # 5.73 GiB do not fit; 2.86 and 1.5 beside them do
        (SMOLLM3, 7.2 * GIB, Placement.IN_4_BITS),  # 5.73 and 1.5 are 7.23
        (SMOLLM3, 7.3 * GIB, Placement.AS_SAVED),
        (SMOLLM3, 4.3 * GIB, Placement.ON_CPU),  # 2.86 and 1.5 are 4.36
        (QWEN_1_5B, 5.5 * GIB, Placement.AS_SAVED),  # 2.88 and 1.5
        (QWEN_1_5B, 3.5 * GIB, Placement.IN_4_BITS),  # 1.44 and 1.5
        (EMBEDDED, GIB // 10, Placement.AS_SAVED),  # 11 MiB, and 11 beside them
        (EMBEDDED, 0, Placement.ON_CPU),
    ],
)
def test_a_model_is_loaded_as_it_was_saved_where_it_fits(weights_bytes: int, free: float, found: Placement) -> None:
    assert placement(weights_bytes, int(free)) is found


def test_what_is_free_is_within_the_budget_and_less_what_others_and_this_process_hold(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of 8 GiB, 5 are free and 1 reserved, half of it in use: others hold 2. Of 6 it may have 4, and has ½."""
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (5 * GIB, 8 * GIB))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda: GIB)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda: GIB // 2)
    for fraction, free in ((0.5, 3.5 * GIB), (1.0, 5.5 * GIB)):  # what `gpu_memory.keep_within` has set
        monkeypatch.setattr(torch.cuda, "get_per_process_memory_fraction", lambda fraction=fraction: fraction)
        assert free_bytes() == free


@pytest.fixture
def models(tmp_path: Path) -> list[Path]:
    """Two models, of 800 and of 1,000 bytes: as they were saved they need 2,000, in 4 bits 1,500."""
    directories = []
    for name, size in (("before", 800), ("after", 1000)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "model.safetensors").write_bytes(bytes(size))
        directories.append(tmp_path / name)
    return directories


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What the user is told, on a machine that seems to have a GPU."""
    texts: list[str] = []
    monkeypatch.setattr(module, "device", lambda: "cuda")
    monkeypatch.setattr(module, "warn", texts.append)
    return texts


@pytest.mark.parametrize(
    ("free", "bitsandbytes", "found"),
    [
        (2000, True, Placement.AS_SAVED),
        (1999, True, Placement.IN_4_BITS),
        (1999, False, Placement.ON_CPU),
        (1499, True, Placement.ON_CPU),
    ],
)
def test_the_largest_decides_for_both_and_it_is_said(
    free: int,
    bitsandbytes: bool,
    found: Placement,
    models: list[Path],
    said: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "free_bytes", lambda: free)
    monkeypatch.setattr(module, "find_spec", lambda _name: "found" if bitsandbytes else None)
    assert placed_alike(models) is placed_alike(models[::-1]) is found
    assert placed_alike([*models, "owner/name"]) is found
    assert len(said) == (0 if found is Placement.AS_SAVED else 3)
    assert all(text.startswith(f"evaluated {found}, before and after alike") for text in said)


def test_without_a_gpu_nothing_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "device", lambda: "cpu")
    assert placed_alike(["nowhere"]) is Placement.AS_SAVED


@pytest.mark.parametrize(("native", "computed_in"), [(True, torch.bfloat16), (False, torch.float16)])
def test_beside_a_gpu_each_way_has_its_device_and_type(
    native: bool, computed_in: torch.dtype, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "computes_in_bf16", lambda _device: native)
    assert (device_for(Placement.ON_CPU), loading_options(Placement.ON_CPU)) == ("cpu", {"dtype": "float32"})
    assert (device_for(Placement.AS_SAVED), loading_options(Placement.AS_SAVED)) == ("cuda", {"dtype": "auto"})
    options = loading_options(Placement.IN_4_BITS)
    assert (options["dtype"], options["device_map"]) == ("auto", {"": "cuda"})
    in_4_bits = options["quantization_config"]
    assert (in_4_bits.bnb_4bit_quant_type, in_4_bits.bnb_4bit_use_double_quant) == ("nf4", True)
    assert in_4_bits.bnb_4bit_compute_dtype is computed_in
