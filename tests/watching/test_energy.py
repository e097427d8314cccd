"""Energy by NVML's counter: sums over the parts of a stage, a counter that is lost, none."""

import sys
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace

import pytest

from utils.stage_log import StageLog
from watching import energy
from watching.energy import Spent, counted, gpu_joules
from watching.stage_watch import StageWatch


class Gpu:
    """A counter that a test sets, in joules; None is no counter."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.used_j: float | None = 10.0
        monkeypatch.setattr(energy, "gpu_joules", lambda: self.used_j)

    def use(self, joules: float) -> None:
        assert self.used_j is not None
        self.used_j += joules


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Gpu:
    return Gpu(monkeypatch)


def test_a_machine_without_a_counter_records_nothing_and_says_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    taken = Spent(StageLog(tmp_path)).until_now()
    assert (taken["energy_j"], taken["energy_from"]) == (None, [])
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("later_j", [None, 0.5])
def test_a_counter_that_is_lost_or_begins_again_on_the_way_leaves_no_figure(
    later_j: float | None, tmp_path: Path, gpu: Gpu
) -> None:
    spent = Spent(StageLog(tmp_path))
    gpu.used_j = later_j
    assert spent.until_now()["energy_j"] is None


def test_the_parts_of_a_resumed_stage_add_up(tmp_path: Path, gpu: Gpu) -> None:
    log = StageLog(tmp_path)
    for used_j, whole_j in ((3.0, 3.0), (4.0, 7.0)):
        spent = Spent(log)
        gpu.use(used_j)
        log.info(**spent.until_now() | {"duration_s": 1.0})
        gpu.use(100.0)  # between the two
        assert log.read_info()["energy_j"] == pytest.approx(whole_j)
    assert log.read_info()["energy_from"] == ["GPU"]


def test_a_stage_of_which_a_part_was_not_counted_has_no_energy(tmp_path: Path, gpu: Gpu) -> None:
    log = StageLog(tmp_path)
    log.info(duration_s=100.0)  # elsewhere, without a counter
    taken = Spent(log).until_now()
    assert taken["energy_j"] is None
    assert taken["duration_s"] >= 100.0


def test_a_checkpoint_has_what_the_stage_has_taken_from_its_start(tmp_path: Path, gpu: Gpu) -> None:
    """3 J before training begins, which loads the model, say, and 4 J after the checkpoint."""
    log = StageLog(tmp_path)
    with counted(log) as spent:
        gpu.use(3.0)
        with closing(StageWatch(log, "sft", {})) as watch:
            watch.saved("checkpoint-1")
        assert log.read_info()["energy_j"] == pytest.approx(3.0)
        gpu.use(4.0)
        assert spent.until_now()["energy_j"] == pytest.approx(7.0)


def test_each_stage_has_a_count_of_its_own(tmp_path: Path) -> None:
    with counted(StageLog(tmp_path)) as first, counted(StageLog(tmp_path)) as again:
        assert again is first
        with counted(StageLog(tmp_path / "other")) as other:
            assert other is not first
    with counted(StageLog(tmp_path)) as later:
        assert later is not first


class Nvml:
    """What pynvml answers: GPUs that have used `used_mj` each."""

    def __init__(self, used_mj: int) -> None:
        self.used_mj, self.asked = used_mj, list[str]()

    def nvmlInit(self) -> None:  # noqa: N802  its name
        pass

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> int:  # noqa: N802
        self.asked.append(uuid)
        return 77

    def nvmlDeviceGetTotalEnergyConsumption(self, handle: int) -> int:  # noqa: N802
        assert handle == 77
        return self.used_mj


@pytest.fixture
def nvml(monkeypatch: pytest.MonkeyPatch) -> Nvml:
    import torch

    answers = Nvml(2**32 + 500)  # more than 32 bits hold
    monkeypatch.setitem(sys.modules, "pynvml", answers)
    monkeypatch.setattr(energy, "device", lambda: "cuda")
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: SimpleNamespace(uuid=f"11-{index}"))
    return answers


def test_the_energy_of_a_gpu_is_nvml_s_in_millijoules(nvml: Nvml) -> None:
    assert gpu_joules() == pytest.approx(2**32 / 1000 + 0.5)
    assert nvml.asked == ["GPU-11-0"]


def test_the_gpus_of_all_processes_are_counted_and_none_where_each_sees_its_own_alone(
    nvml: Nvml, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    assert (gpu_joules(), nvml.asked) == (None, [])
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert gpu_joules() == pytest.approx(2 * nvml.used_mj / 1e3)
    assert nvml.asked == ["GPU-11-0", "GPU-11-1"]


def test_a_gpu_that_does_not_count_or_a_package_that_is_not_there_costs_a_figure_and_no_stage(
    nvml: Nvml, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nvml, "nvmlDeviceGetTotalEnergyConsumption", lambda handle: 1 / 0)
    assert gpu_joules() is None
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert gpu_joules() is None


def test_without_a_gpu_nvml_is_not_asked(nvml: Nvml, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(energy, "device", lambda: "cpu")
    assert (gpu_joules(), nvml.asked) == (None, [])
