"""How much energy the machine's own counters say was used: of the GPUs that train by NVML, of the CPU by Linux's RAPL.

Both count all that their device does, other programs included, and neither counts the rest of the machine.
"""

import ctypes
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from records.stage_log import StageLog
from utils.runtime import device

POWERCAP = Path("/sys/class/powercap")
READ_EVERY_S = 30.0
"""A counter of RAPL that begins again at 65 kJ, the smallest there is, takes minutes for it at 250 W."""


@dataclass(frozen=True)
class Counter:
    """A count of energy that only rises, in joules, but for a fall by `range_j` when it begins again."""

    name: str
    read_j: Callable[[], float]
    range_j: float | None
    """None: it never begins again by itself, and when it falls, what it had counted is lost."""


class Meter:
    """The energy that counters have counted since it was made. Until it is closed, a thread reads them again and again.

    Of a closed one `joules` is right for as long as no counter begins again.
    """

    def __init__(self, counters: Sequence[Counter]) -> None:
        self.counters = counters
        self.names = sorted({counter.name for counter in counters})
        self._lock, self._closed = threading.Lock(), threading.Event()
        self._total_j: float | None = 0.0 if counters else None
        self._last_j: list[float] = []
        self.joules()
        if self._total_j is not None:
            threading.Thread(target=self._keep_reading, name="energy", daemon=True).start()

    def close(self) -> None:
        """End the thread that reads."""
        self._closed.set()

    def joules(self) -> float | None:
        """Return the energy until now; None where there is no counter, or one could not be read or lost its count."""
        with self._lock:
            if self._total_j is None:
                return None
            try:
                now_j = [counter.read_j() for counter in self.counters]
            except (OSError, ValueError):  # ValueError: the file holds no number
                self._total_j = None
                return None
            for counter, last_j, new_j in zip(self.counters, self._last_j or now_j, now_j, strict=True):
                again_j = counter.range_j if new_j < last_j else 0.0
                if again_j is None:
                    self._total_j = None
                    return None
                self._total_j += new_j - last_j + again_j
            self._last_j = now_j
            return self._total_j

    def _keep_reading(self) -> None:
        while not self._closed.wait(READ_EVERY_S) and self.joules() is not None:
            pass


class Spent:
    """The time and the energy that a stage has taken, those of its earlier parts included where it goes on.

    Of an earlier part there is what it recorded, at its end or with its last checkpoint: what a part that was killed
    took after that is in neither.
    """

    def __init__(self, log: StageLog, meter: Meter | None = None) -> None:
        info = log.read_info()
        self.info_file = log.info_file
        self._meter = meter or machine_meter()
        self._earlier_s: float = info.get("duration_s") or 0.0
        self._earlier_j: float | None = info.get("energy_j") if self._earlier_s else 0.0
        self._earlier_names: list[str] = info.get("energy_from") or []
        self._began_s, self._began_j = time.monotonic(), self._meter.joules()

    def until_now(self) -> dict[str, Any]:
        """Return the fields of stage_info.json: no energy where a counter was lost, or an earlier part has none."""
        duration_s = round(self._earlier_s + time.monotonic() - self._began_s, 3)
        now_j = self._meter.joules()
        if now_j is None or self._began_j is None or self._earlier_j is None:
            return {"duration_s": duration_s, "energy_j": None, "energy_from": []}
        names = sorted({*self._earlier_names, *self._meter.names})
        energy_j = round(self._earlier_j + now_j - self._began_j, 3)
        return {"duration_s": duration_s, "energy_j": energy_j, "energy_from": names}

    def close(self) -> None:
        """End the thread that reads the counters."""
        self._meter.close()


_counted: Spent | None = None


@contextmanager
def counted(log: StageLog) -> Iterator[Spent]:
    """Count what a stage takes while open. Who opens it for the same stage meanwhile gets the same count."""
    global _counted
    before = _counted
    if before is not None and before.info_file == log.info_file:
        yield before
        return
    _counted = spent = Spent(log)
    try:
        yield spent
    finally:
        _counted = before
        spent.close()


def machine_meter() -> Meter:
    """Return a new meter of this machine; one without counters where it cannot be asked."""
    try:
        return Meter([*gpu_counters(), *cpu_counters(POWERCAP)])
    except Exception:  # noqa: BLE001  a driver too old, a GPU that is gone: a figure less is no reason to fail
        return Meter([])


def cpu_counters(powercap: Path) -> list[Counter]:
    """Return the counters of whole CPU packages, as Linux shows them; many systems let only root read them.

    Source: https://docs.kernel.org/power/powercap/powercap.html. The parts of a package and `psys`, which is more than
    one, would be counted twice.
    """
    found = []
    for zone in sorted(powercap.glob("intel-rapl:*")):  # AMD's stand there too
        try:
            name = (zone / "name").read_text(encoding="ascii").strip()
            range_uj = int((zone / "max_energy_range_uj").read_text(encoding="ascii"))
            int((zone / "energy_uj").read_text(encoding="ascii"))
        except (OSError, ValueError):
            continue
        if name.startswith("package"):
            found.append(Counter("CPU package", partial(_microjoules, zone / "energy_uj"), range_uj / 1e6))
    return found


def _microjoules(file: Path) -> float:
    return int(file.read_text(encoding="ascii")) / 1e6


def gpu_counters(library: Any = None) -> list[Counter]:
    """Return the counter of each NVIDIA GPU that this run trains on; none before Volta, and none of a part of a GPU.

    NVML is asked directly, since torch asks it through nvidia-ml-py, which may be absent:
    https://docs.nvidia.com/deploy/nvml-api/group__nvmlDeviceQueries.html.
    """
    if device() != "cuda":
        return []
    import torch

    try:
        nvml = library or ctypes.CDLL("libnvidia-ml.so.1")
    except OSError:
        return []
    if nvml.nvmlInit_v2() != 0:
        return []
    local = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))  # one process to a GPU
    if local > torch.cuda.device_count():
        return []  # each process sees its own alone, and a count of one is not that of all
    trained_on = range(local) if local > 1 else [torch.cuda.current_device()]
    found = []
    for index in trained_on:
        handle = ctypes.c_void_p()
        uuid = f"GPU-{torch.cuda.get_device_properties(index).uuid}".encode()  # its number may be another in NVML
        if nvml.nvmlDeviceGetHandleByUUID(uuid, ctypes.byref(handle)) == 0:
            counter = Counter("GPU", partial(_millijoules, nvml, handle), None)  # 64 bits of mJ
            try:
                counter.read_j()
            except OSError:
                continue
            found.append(counter)
    return found


def _millijoules(nvml: Any, handle: ctypes.c_void_p) -> float:
    energy_mj = ctypes.c_ulonglong()
    if (failed := nvml.nvmlDeviceGetTotalEnergyConsumption(handle, ctypes.byref(energy_mj))) != 0:
        raise OSError(f"NVML error {failed}")
    return energy_mj.value / 1e3
