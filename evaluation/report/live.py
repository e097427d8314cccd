"""The report of a run that is going on: there from its start, and written anew beside it, at next to no cost."""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from evaluation.report import REPORT_FILE, write_report
from records.stage_log import StageLog
from utils.files import remove_half
from utils.processes import is_first

FIRST_S = 20.0
"""Seconds after which the page of a new run is written for the second time."""
PAUSE = 20
"""The pause after a page, as a multiple of what it took: so it takes a twentieth of a core, and only an idle one."""
ROOT = Path(__file__).parent.parent.parent
LEAST_PRIORITY = 19


@contextmanager
def kept_up(run_dir: Path) -> Iterator[None]:
    """Have the report of a run written now, and anew while this is open; what fails of it is left undone.

    Another process writes, since drawing curves in this one would hold up its steps. It gets the processor when nobody
    else wants it, and is ended with this, so that the last page is that of the caller. Where stages have begun before,
    as in a run that is resumed, the first page has curves too and is left to it.
    """
    if not is_first():
        yield
        return
    pause = FIRST_S
    with suppress(Exception):  # whatever stands in a run's files, the run goes on
        if any(run_dir.glob(f"*/{StageLog.INFO}")):
            pause = 0.0
        else:
            write_report(run_dir)
    ended = threading.Event()
    thread = threading.Thread(target=_write, args=(run_dir.absolute(), ended, pause), daemon=True)
    with suppress(RuntimeError):  # no more threads: the caller writes the last page
        thread.start()
    try:
        yield
    finally:
        ended.set()
        if thread.is_alive():
            thread.join()


def _write(run_dir: Path, ended: threading.Event, pause: float) -> None:
    while not ended.wait(pause):
        started = time.monotonic()
        try:
            process = _start(run_dir)
        except OSError:  # no memory, or no more processes: perhaps later
            pause = FIRST_S
            continue
        while process.poll() is None:
            if ended.wait(0.1):
                process.kill()
        with suppress(OSError):
            remove_half(run_dir / REPORT_FILE, process.pid)
        pause = PAUSE * (time.monotonic() - started)


def _start(run_dir: Path) -> "subprocess.Popen[bytes]":
    words = [sys.executable, "-m", "evaluation", "report", run_dir.name, "--runs-dir", str(run_dir.parent)]
    nowhere = subprocess.DEVNULL
    process = subprocess.Popen(  # in a session of its own: Ctrl-C is for the run
        words, cwd=ROOT, stdin=nowhere, stdout=nowhere, stderr=nowhere, start_new_session=True
    )
    with suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, process.pid, LEAST_PRIORITY)
    return process
