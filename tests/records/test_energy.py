"""Energy by counters in files as Linux shows them, and by NVML's functions: sums, a counter that begins again, none."""

import ctypes
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from algorithms.watch import Watch
from pretrain import PretrainConfig
from pretrain.record import Record
from records import energy
from records.energy import Counter, Meter, Spent, counted, cpu_counters, gpu_counters, machine_meter
from records.stage_log import StageLog
from records.step_watch import StepWatch

RANGE_UJ = 262_143_328_850


def zone(powercap: Path, name: str, called: str, energy_uj: int) -> Path:
    """Write the files of a zone, as in /sys/class/powercap; return the counter's."""
    directory = powercap / name
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "name").write_text(f"{called}\n", encoding="ascii")
    (directory / "max_energy_range_uj").write_text(f"{RANGE_UJ}\n", encoding="ascii")
    file = directory / "energy_uj"
    file.write_text(f"{energy_uj}\n", encoding="ascii")
    return file


def test_the_energy_of_all_packages_is_summed_and_no_part_of_them_is_counted_twice(tmp_path: Path) -> None:
    files = [zone(tmp_path, f"intel-rapl:{n}", f"package-{n}", 7_000_000) for n in range(2)]
    others = [zone(tmp_path, "intel-rapl:0:0", "core", 0), zone(tmp_path, "intel-rapl:2", "psys", 0)]
    meter = Meter(cpu_counters(tmp_path))
    for file in [*files, *others]:
        file.write_text("9500000\n", encoding="ascii")
    assert meter.joules() == pytest.approx(2 * 2.5)
    assert meter.names == ["CPU package"]


def test_a_counter_that_begins_again_goes_on(tmp_path: Path) -> None:
    """From 1 J below the end of the range to 2 J above its start are 3 J; then 5 J more."""
    file = zone(tmp_path, "intel-rapl:0", "package-0", RANGE_UJ - 1_000_000)
    meter = Meter(cpu_counters(tmp_path))
    file.write_text("2000000", encoding="ascii")
    assert meter.joules() == pytest.approx(3.0)
    file.write_text("7000000", encoding="ascii")
    assert meter.joules() == pytest.approx(8.0)


def test_a_counter_is_read_often_enough_without_being_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """2 to 9, over 10 to 2, to 8, over 10 to 4: 7 + 3 + 6 + 6 = 22 J. Who reads at the end alone sees 4 - 2 = 2."""
    monkeypatch.setattr(energy, "READ_EVERY_S", 0.001)
    values = [2.0, 9.0, 2.0, 8.0]
    meter = Meter([Counter("CPU package", lambda: values.pop(0) if values else 4.0, 10.0)])
    until = time.monotonic() + 10
    while values and time.monotonic() < until:
        time.sleep(0.01)
    assert meter.joules() == pytest.approx(22.0)
    meter.close()


def test_no_thread_reads_on_after_the_stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reads = iter(range(10**9))
    monkeypatch.setattr(energy, "machine_meter", lambda: Meter([Counter("CPU package", reads.__next__, 1e9)]))
    before = set(threading.enumerate())
    with counted(StageLog(tmp_path)):
        (thread,) = set(threading.enumerate()) - before
    thread.join(timeout=10)
    assert not thread.is_alive()


def test_a_machine_without_counters_records_nothing_and_says_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    zone(tmp_path, "intel-rapl:0", "package-0", 0).unlink()  # as where only root may read it
    for powercap in (tmp_path, tmp_path / "none"):
        log = StageLog(tmp_path)
        taken = Spent(log, Meter(cpu_counters(powercap))).until_now()
        assert (taken["energy_j"], taken["energy_from"]) == (None, [])
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    "lose", [Path.unlink, lambda file: file.write_text("", encoding="ascii")], ids=["gone", "empty"]
)
def test_a_counter_that_is_lost_on_the_way_leaves_no_figure(tmp_path: Path, lose: Callable[[Path], object]) -> None:
    file = zone(tmp_path, "intel-rapl:0", "package-0", 0)
    meter = Meter(cpu_counters(tmp_path))
    spent = Spent(StageLog(tmp_path), meter)
    lose(file)
    assert spent.until_now()["energy_j"] is None


def test_the_parts_of_a_resumed_stage_add_up(tmp_path: Path) -> None:
    file = zone(tmp_path, "intel-rapl:0", "package-0", 50_000_000)
    log, meter = StageLog(tmp_path), Meter(cpu_counters(tmp_path))
    for end, whole in ((53_000_000, 3.0), (57_000_000, 7.0)):
        spent = Spent(log, meter)
        file.write_text(str(end), encoding="ascii")
        log.info(**spent.until_now() | {"duration_s": 1.0})
        assert log.read_info()["energy_j"] == pytest.approx(whole)
    assert log.read_info()["energy_from"] == ["CPU package"]


def test_a_stage_of_which_a_part_was_not_counted_has_no_energy(tmp_path: Path) -> None:
    zone(tmp_path, "intel-rapl:0", "package-0", 0)
    log = StageLog(tmp_path)
    log.info(duration_s=100.0)  # elsewhere, without counters
    taken = Spent(log, Meter(cpu_counters(tmp_path))).until_now()
    assert taken["energy_j"] is None
    assert taken["duration_s"] >= 100.0


def by_watch(log: StageLog, _: ExitStack) -> None:
    watch = Watch(log, "sft", {}, lambda: False, lambda: True, lambda _: None)
    watch.on_save(None, SimpleNamespace(global_step=1), None)
    watch.close()


def by_record(log: StageLog, stack: ExitStack) -> None:
    record = Record(log.info_file.parent, PretrainConfig(output_dir="base", dataset_name="text.txt"), True, stack)
    record._steps = StepWatch(log)
    record.checkpoint("checkpoint-1")


@pytest.mark.parametrize("save", [by_watch, by_record])
def test_a_checkpoint_has_what_the_stage_has_taken_from_its_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, save: Callable[[StageLog, ExitStack], None]
) -> None:
    """3 J before training begins, which loads the model, say, and 4 J after the checkpoint."""
    used_j = 10.0
    monkeypatch.setattr(energy, "machine_meter", lambda: Meter([Counter("CPU package", lambda: used_j, 1e9)]))
    log = StageLog(tmp_path)
    with counted(log) as spent, ExitStack() as stack:
        used_j += 3.0
        save(log, stack)
        assert log.read_info()["energy_j"] == pytest.approx(3.0)
        used_j += 4.0
        assert spent.until_now()["energy_j"] == pytest.approx(7.0)


def test_each_stage_has_a_count_of_its_own(tmp_path: Path) -> None:
    with counted(StageLog(tmp_path)) as first, counted(StageLog(tmp_path)) as again:
        assert again is first
        with counted(StageLog(tmp_path / "other")) as other:
            assert other is not first
    with counted(StageLog(tmp_path)) as later:
        assert later is not first


def test_after_a_kill_there_is_what_the_last_checkpoint_recorded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """50 J in 100 s until the checkpoint, then the kill; the part that goes on takes 2 J."""
    used_j = 10.0
    monkeypatch.setattr(energy, "machine_meter", lambda: Meter([Counter("CPU package", lambda: used_j, 1e9)]))
    log = StageLog(tmp_path)
    log.info(duration_s=100.0, energy_j=50.0, energy_from=["CPU package"])
    with counted(log) as spent:
        used_j += 2.0
        taken = spent.until_now()
    assert taken["energy_j"] == pytest.approx(52.0)
    assert 100.0 <= taken["duration_s"] < 110.0


def test_a_machine_that_cannot_be_asked_costs_a_figure_and_no_stage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lost() -> list[Counter]:
        raise AssertionError("Invalid device id")

    monkeypatch.setattr(energy, "gpu_counters", lost)
    assert machine_meter().joules() is None
    with counted(StageLog(tmp_path)) as spent:
        assert spent.until_now()["energy_j"] is None


class Nvml:
    """What NVML answers: a GPU that has used `used_mj`, or an error."""

    def __init__(self, used_mj: int, error: int = 0) -> None:
        self.used_mj, self.error = used_mj, error
        self.asked: list[bytes] = []

    def nvmlInit_v2(self) -> int:  # noqa: N802  its name
        return 0

    def nvmlDeviceGetHandleByUUID(self, uuid: bytes, handle: Any) -> int:  # noqa: N802
        self.asked.append(uuid)
        handle._obj.value = 77
        return 0

    def nvmlDeviceGetTotalEnergyConsumption(self, handle: ctypes.c_void_p, energy_mj: Any) -> int:  # noqa: N802
        assert handle.value == 77
        energy_mj._obj.value = self.used_mj
        return self.error


def properties(index: int) -> SimpleNamespace:
    import torch

    assert index < torch.cuda.device_count(), "Invalid device id"  # as torch does
    return SimpleNamespace(uuid=f"11-{index}")


@pytest.fixture
def one_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(energy, "device", lambda: "cuda")
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_properties", properties)


@pytest.mark.usefixtures("one_gpu")
def test_the_energy_of_a_gpu_is_nvml_s_in_millijoules() -> None:
    nvml = Nvml(2**32 - 1000)  # soon more than 32 bits hold
    meter = Meter(gpu_counters(nvml))
    nvml.used_mj += 2500
    assert meter.joules() == pytest.approx(2.5)
    assert (meter.names, nvml.asked) == (["GPU"], [b"GPU-11-0"])


@pytest.mark.usefixtures("one_gpu")
def test_the_gpus_of_all_processes_are_counted_and_none_where_each_sees_its_own_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import torch

    nvml = Nvml(1)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    assert (gpu_counters(nvml), nvml.asked) == ([], [])
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert len(gpu_counters(nvml)) == 2
    assert nvml.asked == [b"GPU-11-0", b"GPU-11-1"]


@pytest.mark.usefixtures("one_gpu")
def test_a_gpu_s_count_that_falls_is_lost() -> None:
    """64 bits of millijoules last for ever: the driver has been loaded anew."""
    nvml = Nvml(5_000)
    meter = Meter(gpu_counters(nvml))
    nvml.used_mj = 100
    assert meter.joules() is None
    nvml.used_mj = 10_000
    assert meter.joules() is None


@pytest.mark.usefixtures("one_gpu")
def test_a_gpu_that_does_not_count_is_left_out() -> None:
    assert gpu_counters(Nvml(0, error=3)) == []  # NVML_ERROR_NOT_SUPPORTED: before Volta, or a part of a GPU


def test_without_a_gpu_nvml_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(energy, "device", lambda: "cpu")
    nvml = Nvml(1)
    assert (gpu_counters(nvml), nvml.asked) == ([], [])
