"""The ways a request ends badly, refused before it starts or failed after it started, and their exit codes."""

import errno
import io
import os
import re
import sys
import traceback
from collections.abc import Iterable
from difflib import get_close_matches
from types import TracebackType

from utils.processes import is_first
from utils.text import safe


class Refused(ValueError):
    """A request that cannot be served. The message says what is wrong, what was given, what is allowed, what next.

    As a script: one message without a traceback, exit code 2.
    """


class StageFailed(RuntimeError):
    """A stage that started and failed. As a script: one message without a traceback, exit code 1."""


class Interrupted(KeyboardInterrupt):
    """A run that was stopped and can continue; the message says how. As a script: exit code 130."""


def refusal(problems: Iterable[str]) -> Refused:
    """Return the refusal of a run for all of its problems; of two about one value, the first is told."""
    messages: dict[str, str] = {}
    for problem in problems:
        messages.setdefault(problem.partition(": must be")[0], problem)
    return Refused("\n".join(["the run cannot start:", *(f"- {problem}" for problem in messages.values())]))


def without_number(error: BaseException) -> str:
    """Return what an error says, without the system's number for it."""
    return re.sub(r"\[Errno -?\d+\] ?", "", str(error)) or type(error).__name__


WAYS = dict.fromkeys((errno.ENOSPC, errno.EDQUOT, errno.EFBIG), "make room")
WAYS |= dict.fromkeys((errno.EROFS, errno.EACCES, errno.EPERM), "let it be written")


def way_out(error: BaseException | None) -> str | None:
    """Return what helps where the disk is full, a file may not grow or nothing be written; None of other errors."""
    return WAYS.get(error.errno or 0) if isinstance(error, OSError) else None


def did_you_mean(given: str, allowed: Iterable[str]) -> str:
    """Return ", did you mean 'x'?" with the allowed name nearest to `given`, or "" if none is near."""
    by_lower = {name.lower(): name for name in allowed}
    near = get_close_matches(given.lower(), by_lower, cutoff=0.6)
    near.sort(key=lambda name: sorted(name) != sorted(given.lower()))  # letters that changed places come first
    return f", did you mean {by_lower[near[0]]!r}?" if near else ""


def exit_code(error: BaseException) -> int:
    """Return the exit code of a script that ends with `error`."""
    if isinstance(error, KeyboardInterrupt):
        return 130
    return 2 if isinstance(error, Refused) else 1


def report(error: BaseException) -> int:
    """Print the message of an error of this module, and return its exit code. Of several processes one says it."""
    if is_first():
        try:
            print(safe(str(error)) or "interrupted", file=sys.stderr)
        except OSError:  # the terminal has gone away; what is buffered must not change the exit code at the end
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, 2)
            os.close(nowhere)
    return exit_code(error)


def plain_endings() -> None:
    """Let a script that these errors end print one message instead of a traceback, with the error's exit code.

    The traceback of any other error tells no secret. What a screen that is not UTF-8 cannot show becomes `?`.
    """
    for screen in (sys.stdout, sys.stderr):
        if isinstance(screen, io.TextIOWrapper):
            screen.reconfigure(errors="replace")
    if sys.excepthook is not sys.__excepthook__ or hasattr(sys, "ps1"):
        return  # an interactive session, a notebook or a test runner shows errors in its own way
    sys.excepthook = _hook


def _hook(kind: type[BaseException], error: BaseException, where: TracebackType | None) -> None:
    if isinstance(error, Refused | StageFailed | KeyboardInterrupt):
        sys.exit(report(error))
    print(safe("".join(traceback.format_exception(kind, error, where))), end="", file=sys.stderr)
