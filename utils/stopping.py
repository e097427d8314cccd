"""Stop between two steps, not within one: Ctrl-C and SIGTERM are noted, and the loop asks whether to go on."""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

NOTED = b"\nstopping after this step, with a checkpoint; a second Ctrl-C stops at once\n"


@contextmanager
def asked_to_stop() -> Iterator[Callable[[], bool]]:
    """Give a function that tells whether Ctrl-C or SIGTERM came; a second one interrupts at once.

    Only the main thread may handle signals: in another nothing is noted, and they do what they did before.
    """
    asked, process = threading.Event(), os.getpid()

    def note(number: int, frame: FrameType | None) -> None:
        if os.getpid() != process:  # a worker that inherited the handler; Ctrl-C reaches it too, and its batch is due
            if number == signal.SIGTERM:
                os._exit(143)
            return
        if asked.is_set():
            raise KeyboardInterrupt
        asked.set()
        os.write(2, NOTED)  # print may not be called within a print

    if threading.current_thread() is not threading.main_thread():
        yield asked.is_set
        return
    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield asked.is_set
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
