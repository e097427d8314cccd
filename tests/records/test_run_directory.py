"""Run ids, locks, and finding runs."""

import errno
import os
import subprocess
import sys
from datetime import datetime, tzinfo
from pathlib import Path

import pytest

from records import run_directory
from records.run_directory import (
    RunInfo,
    create,
    find,
    find_source,
    find_unfinished,
    refuse_unusable,
    status_now,
    usable,
)
from utils.errors import Refused
from utils.locks import is_live, lock


def test_two_runs_never_share_a_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Fixed(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> "Fixed":
            return cls(2026, 1, 2, 3, 4, 5)

    letters = iter("aaaa" + "aaaa" + "bbbb")
    monkeypatch.setattr("secrets.choice", lambda _: next(letters))
    monkeypatch.setattr(run_directory, "datetime", Fixed)
    first, second = create(tmp_path), create(tmp_path)
    assert (first.name, second.name) == ("20260102_030405_aaaa", "20260102_030405_bbbb")


def test_a_lock_is_held_by_one_and_free_when_its_process_is_killed(tmp_path: Path) -> None:
    assert not is_live(tmp_path)
    code = (
        "import sys, time; from pathlib import Path; from utils.locks import lock\n"
        f"with lock(Path({str(tmp_path)!r})): print('held', flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        assert is_live(tmp_path)
        with pytest.raises(Refused, match="is still running"), lock(tmp_path):
            pass
        process.kill()
    assert not is_live(tmp_path)
    with lock(tmp_path):
        pass


def test_running_without_the_lock_was_interrupted(tmp_path: Path) -> None:
    with lock(tmp_path):
        assert status_now(tmp_path, "running") == "running"
        assert status_now(tmp_path, "failed") == "failed"
    recorded = ["running", "pending", "passed", "failed"]
    assert [status_now(tmp_path, status) for status in recorded] == ["interrupted", "pending", "passed", "failed"]


def test_a_lock_that_may_not_be_opened_leaves_the_record_as_it_is(tmp_path: Path) -> None:
    (tmp_path / ".lock").mkdir()  # which nobody can open as a file, root neither
    assert status_now(tmp_path, "running") == "running"


SFT = {"name": "sft", "output_dir": "a", "status": "pending"}
DPO = {"name": "dpo", "output_dir": "b", "status": "pending"}


def _run(runs_dir: Path, name: str, status: str) -> RunInfo:
    (runs_dir / name).mkdir(parents=True)
    info = RunInfo(runs_dir / name)
    info.set(status=status, stages=[dict(SFT), dict(DPO)])
    return info


def test_latest_is_the_newest_that_has_not_passed(tmp_path: Path) -> None:
    ids = [f"20260102_03040{second}_abcd" for second in range(3)]
    for name, status in zip(ids, ["interrupted", "running", "passed"], strict=True):
        _run(tmp_path, name, status)
    assert find_unfinished(tmp_path, "latest").run_dir.name == ids[1]
    assert find(tmp_path, "latest").run_dir.name == ids[2]


WRONG = [
    "{", "[]", "{}", '{"status": "failed", "stages": null}', '{"status": "failed", "stages": {"sft": 1}}',
    '{"status": "failed", "stages": ["sft"]}', '{"status": "failed", "stages": [{"name": "sft", "status": "failed"}]}',
    '{"status": 3, "stages": []}', '{"status": "failed", "stages": [], "versions": [1]}',
    '{"status": "failed", "stages": [], "configs": {"sft": "x"}}',
    '{"status": "failed", "stages": [{"name": "a", "output_dir": "a", "status": "passed"},'
    ' {"name": "a", "output_dir": "b", "status": "passed"}]}',
]  # fmt: skip


@pytest.mark.parametrize("text", WRONG)
def test_a_record_that_is_none_stops_only_who_asks_for_that_run(
    text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    older, wanted, newer = (f"20260102_03040{second}_abcd" for second in range(3))
    _run(tmp_path, wanted, "interrupted").set(stages=[SFT | {"status": "passed"}])
    for name in ("of-another-tool", older, newer):
        (tmp_path / name).mkdir()
        (tmp_path / name / "run_info.json").write_text(text)
        with pytest.raises(Refused, match=rf"{name}/run_info\.json is n"):
            find(tmp_path, name).read()
    for finder in (find, find_unfinished, find_source):
        assert finder(tmp_path, "latest").run_dir.name == wanted
        warning = "".join(capsys.readouterr().out.split())  # the console wraps the path
        assert warning.count("passedover") == 1
        assert f"{newer}/run_info.jsonisno" in warning


@pytest.mark.parametrize("name", ["../elsewhere", "/etc", "..", ".hidden", "a/b", "a\n", ""])
def test_a_record_that_names_a_directory_outside_the_run_is_refused(name: str, tmp_path: Path) -> None:
    info = RunInfo(tmp_path)
    info.set(status="passed", stages=[{"name": "sft", "output_dir": name, "status": "passed"}])
    with pytest.raises(Refused, match="must be a directory inside the run's"):
        info.read()


def test_a_run_whose_stage_is_a_link_is_not_gone_on_with(tmp_path: Path) -> None:
    info = RunInfo(tmp_path / "run")
    info.run_dir.mkdir()
    info.set(status="interrupted", stages=[{"name": "sft", "output_dir": "mine", "status": "pending"}])
    refuse_unusable(info)
    (info.run_dir / "mine").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(Refused, match=r"run/mine is a link to \S+/elsewhere"):
        refuse_unusable(info)


def test_a_run_that_may_not_be_written_is_refused_in_one_message(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    info = _run(tmp_path, "20260102_030405_abcd", "interrupted")
    monkeypatch.setattr("os.access", lambda *_: False)  # as for who is not root
    with pytest.raises(Refused, match="20260102_030405_abcd cannot be resumed: it may not be written"):
        refuse_unusable(info)

    def locked(*_: object) -> bool:
        raise PermissionError(errno.EACCES, "Permission denied", str(info.run_dir / ".lock"))

    monkeypatch.setattr(run_directory, "is_live", locked)
    with pytest.raises(Refused, match=r"cannot be resumed: Permission denied: '\S+/\.lock'$"):
        refuse_unusable(info)


def test_inputs_of_latest_are_those_of_the_newest_run_of_which_a_stage_has_passed(tmp_path: Path) -> None:
    with pytest.raises(Refused, match="has a stage that has passed"):
        find_source(tmp_path, "latest")
    for name, status in (("20260101_000000_aaaa", "passed"), ("20260102_000000_aaaa", "failed")):
        (tmp_path / name).mkdir()
        RunInfo(tmp_path / name).set(status=status, stages=[SFT | {"status": status}])
    assert find_source(tmp_path, "latest").run_dir.name == "20260101_000000_aaaa"
    assert find_source(tmp_path, "20260102_000000_aaaa").run_dir.name == "20260102_000000_aaaa"


def test_an_unknown_run_is_refused_with_the_nearest_and_the_newest(tmp_path: Path) -> None:
    _run(tmp_path, "20260102_030405_abcd", "passed")
    with pytest.raises(Refused, match="did you mean '20260102_030405_abcd'"):
        find(tmp_path, "20260102_030405_abce")
    with pytest.raises(Refused, match="nothing to resume"):
        find_unfinished(tmp_path, "latest")


def test_a_stage_entry_changes_alone(tmp_path: Path) -> None:
    info = _run(tmp_path, "1", "running")
    info.set_stage("dpo", status="passed", duration_s=1.0)
    assert info.read()["stages"] == [SFT, DPO | {"status": "passed", "duration_s": 1.0}]
    assert info.read()["status"] == "running"


def test_a_directory_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(Refused, match="cannot be written"):
            create(path)


def test_whether_runs_can_be_kept_is_told_without_creating_anything(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(Refused, match="file is a file"):
            usable(path)
    with pytest.raises(Refused, match="is empty"):
        usable("")
    assert usable(tmp_path / "not" / "yet") == tmp_path
    access = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: access(path, mode) and mode == os.F_OK)
    with pytest.raises(Refused, match="cannot be written"):
        usable(tmp_path / "not" / "yet")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
