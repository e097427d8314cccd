"""The time and the energy that a stage takes; the energy is what NVML counts of the GPUs that train.

A GPU's counter counts all that it does, other programs included; the rest of the machine is not counted.
"""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from records.stage_log import StageLog
from utils.runtime import device
from watching import phases

COUNTED = "GPU"


class Spent:
    """The time and the energy that a stage has taken, those of its earlier parts included where it goes on.

    Of an earlier part there is what it recorded, at its end or with its last checkpoint: what a part that was killed
    took after that is in neither.
    """

    def __init__(self, log: StageLog) -> None:
        info = log.read_info()
        self.info_file = log.info_file
        self._earlier_s: float = info.get("duration_s") or 0.0
        self._earlier_j: float | None = info.get("energy_j") if self._earlier_s else 0.0
        self._earlier_from: list[str] = info.get("energy_from") or []
        self.phases = phases.Phases(info.get("phases_s"))
        self._began_s, self._began_j = time.monotonic(), gpu_joules()

    def until_now(self) -> dict[str, Any]:
        """Return the fields of stage_info.json: no energy where it was not counted all the time."""
        now_j = gpu_joules()
        taken: dict[str, Any] = {
            "duration_s": round(self._earlier_s + time.monotonic() - self._began_s, 3),
            "phases_s": {name: round(seconds, 3) for name, seconds in self.phases.seconds.items()},
        }
        if now_j is None or self._began_j is None or self._earlier_j is None or now_j < self._began_j:
            return taken | {"energy_j": None, "energy_from": []}
        energy_j = round(self._earlier_j + now_j - self._began_j, 3)
        return taken | {"energy_j": energy_j, "energy_from": sorted({*self._earlier_from, COUNTED})}


_counted: Spent | None = None


@contextmanager
def counted(log: StageLog) -> Iterator[Spent]:
    """Count what a stage takes while open. Who opens it for the same stage meanwhile gets the same count."""
    global _counted
    before = _counted
    _counted = spent = before if before is not None and before.info_file == log.info_file else Spent(log)
    try:
        with phases.counted(spent.phases):
            yield spent
    finally:
        _counted = before


def gpu_joules() -> float | None:
    """Return what the GPUs that this run trains on have counted since their driver was loaded.

    None without a GPU that counts (from Volta on, and no part of one), or without nvidia-ml-py.
    """
    if device() != "cuda":
        return None
    import torch

    processes = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))  # one to a GPU
    if processes > torch.cuda.device_count():
        return None  # each process sees its own alone, and a count of one is not that of all
    trained_on = range(processes) if processes > 1 else [torch.cuda.current_device()]
    try:
        import pynvml

        pynvml.nvmlInit()
        uuids = [f"GPU-{torch.cuda.get_device_properties(index).uuid}" for index in trained_on]  # NVML counts otherwise
        handles = map(pynvml.nvmlDeviceGetHandleByUUID, uuids)
        return sum(pynvml.nvmlDeviceGetTotalEnergyConsumption(handle) for handle in handles) / 1e3
    except Exception:  # noqa: BLE001  no package, a driver too old, a GPU that is gone: a figure less fails no stage
        return None
