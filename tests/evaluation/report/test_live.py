"""The page of a run that is going on: there at once, written anew by another process, and never in the run's way."""

import signal
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from evaluation.report import REPORT_FILE, live, write_report
from records.stage_log import StageLog
from utils.locks import lock

RELOADS = '<meta http-equiv="refresh"'


def read(run_dir: Path) -> str:
    return (run_dir / REPORT_FILE).read_text(encoding="utf-8")


def test_the_page_reloads_while_the_run_goes_on_and_no_longer(make_run: Callable[..., Path]) -> None:
    run_dir = make_run("running", pretrain="passed", sft="running")
    with lock(run_dir):
        write_report(run_dir)
        assert RELOADS in read(run_dir)
        assert "at step 400<" in read(run_dir)
        assert "not measured yet" in read(run_dir)
        StageLog(run_dir / "my-sft").info(config={"max_steps": 500})
        write_report(run_dir)
        assert "at step 400 of 500<" in read(run_dir)
    write_report(run_dir)  # killed
    assert RELOADS not in read(run_dir)


def shows(run_dir: Path, text: str) -> bool:
    """Wait until the page of a run shows a text."""
    until = time.monotonic() + 60
    while not (there := text in read(run_dir)) and time.monotonic() < until:
        time.sleep(0.1)
    return there


def test_it_is_there_at_once_and_follows_the_run(
    make_run: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live, "FIRST_S", 0.2)
    run_dir = make_run("running", pretrain="pending")
    with lock(run_dir), live.kept_up(run_dir):
        assert "pending" in read(run_dir)
        stage_dir = run_dir / "my-pretrain"
        stage_dir.mkdir()
        log = StageLog(stage_dir)
        log.open(name="pretrain", status="running")
        log.metrics(417, None, {"loss": 1.0})
        assert shows(run_dir, "at step 417")
        assert RELOADS in read(run_dir)


def test_the_first_page_of_a_resumed_run_is_drawn_by_the_other_process_at_once(
    make_run: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live, "FIRST_S", 1000.0)
    run_dir = make_run("running", pretrain="running")
    (run_dir / REPORT_FILE).write_text("of before", encoding="utf-8")
    with lock(run_dir), live.kept_up(run_dir):
        assert read(run_dir) == "of before"
        assert shows(run_dir, "at step 400")


def test_what_it_was_writing_does_not_come_after_the_last_page(
    make_run: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live, "FIRST_S", 0.01)
    started, start = [], live._start

    def watched(directory: Path) -> "subprocess.Popen[bytes]":
        started.append(start(directory))
        (directory / f".{REPORT_FILE}.{started[-1].pid}.abc.tmp").write_text("half", encoding="utf-8")
        return started[-1]

    monkeypatch.setattr(live, "_start", watched)
    run_dir = make_run("running", pretrain="running")
    with lock(run_dir), live.kept_up(run_dir):
        (run_dir / f".{REPORT_FILE}.1.abc.tmp").write_text("of somebody's own report", encoding="utf-8")
        time.sleep(0.3)  # it has begun, and is not through
    assert [process.poll() for process in started] == [-signal.SIGKILL]
    assert [path.name for path in run_dir.glob(".*.tmp")] == [f".{REPORT_FILE}.1.abc.tmp"]


def test_a_run_ends_as_it_does_whatever_cannot_be_removed(
    make_run: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object, **__: object) -> None:
        raise PermissionError("read-only")

    monkeypatch.setattr(live, "FIRST_S", 0.01)
    run_dir = make_run("running", pretrain="running")
    start = live._start

    def watched(directory: Path) -> "subprocess.Popen[bytes]":
        process = start(directory)
        (directory / f".{REPORT_FILE}.{process.pid}.abc.tmp").touch()
        return process

    def run() -> None:
        with live.kept_up(run_dir):
            time.sleep(0.3)
            monkeypatch.setattr(Path, "unlink", fails)
            raise ZeroDivisionError

    monkeypatch.setattr(live, "_start", watched)
    with pytest.raises(ZeroDivisionError):
        run()


def test_a_run_goes_on_where_no_thread_can_be_started(
    make_run: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", full)
    run_dir = make_run("running", pretrain="pending")
    with live.kept_up(run_dir):
        pass
    assert "pending" in read(run_dir)


def test_a_page_that_cannot_be_written_is_no_matter_of_the_run(
    make_run: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live, "FIRST_S", 0.01)
    monkeypatch.setattr("sys.executable", "/no/such/python")
    run_dir = make_run("running", pretrain="running")
    (run_dir / "my-pretrain/stage_info.json").write_text("{", encoding="utf-8")
    with live.kept_up(run_dir):
        time.sleep(0.1)
    assert not (run_dir / REPORT_FILE).exists()
