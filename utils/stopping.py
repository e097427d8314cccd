"""Stop between two steps, not within one: Ctrl-C and its like are noted, and the loop asks whether to go on."""

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType


def endings() -> list[signal.Signals]:
    """Return the signals beside Ctrl-C that ask to stop: SIGTERM, and under no nohup that the terminal has gone."""
    ignored = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    return [signal.SIGTERM] if ignored else [signal.SIGTERM, signal.SIGHUP]


NOTED = b"\nstopping after this step, with a checkpoint; a second Ctrl-C stops at once\n"


@contextmanager
def asked_to_stop() -> Iterator[Callable[[], bool]]:
    """Give a function that tells whether Ctrl-C or one of `endings` came; a second one interrupts at once.

    Only the main thread may handle signals: in another nothing is noted, and they do what they did before.
    """
    requested, process = threading.Event(), os.getpid()

    def note(number: int, frame: FrameType | None) -> None:
        if os.getpid() != process:  # a worker that inherited the handler; Ctrl-C reaches it too, and its batch is due
            if number != signal.SIGINT:
                os._exit(128 + number)
            return
        if requested.is_set():
            raise KeyboardInterrupt
        requested.set()
        if sys.stderr is not None:  # closed, its number may be another file's
            with suppress(OSError):  # the terminal has gone away
                os.write(2, NOTED)  # print may not be called within a print

    if threading.current_thread() is not threading.main_thread():
        yield requested.is_set
        return
    before = {number: signal.signal(number, note) for number in (signal.SIGINT, *endings())}
    try:
        yield requested.is_set
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
