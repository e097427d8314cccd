"""The one console of the process: what it prints can be copied to files, and it stays readable when piped."""

import os
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console, RenderableType
from rich.control import Control
from rich.markup import escape
from rich.panel import Panel
from rich.progress import BarColumn, Progress, TaskID, TextColumn
from rich.table import Table
from rich.text import Text

from utils.errors import without_number
from utils.pace import Pace
from utils.processes import is_first
from utils.runtime import memory_bytes
from utils.text import safe

WIDTH = 120  # columns of files and pipes, which have no width of their own
PLAIN_INTERVAL_S = 5.0


class SafeConsole(Console):
    """A rich console that prints every string, in a table too, as `safe` makes it."""

    def render_str(self, text: str, **options: Any) -> Text:
        """Return what a string in a table or a panel is shown as."""
        return super().render_str(safe(text), **options)


class SharedConsole(SafeConsole):
    """A console that also prints to each open copy, without colours or cursor movements.

    What rich makes `Text` of must have been made safe before, such as the title of a panel and a live bar.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(highlight=False, **options)
        self.copies: list[Console] = []

    def print(self, *objects: Any, **options: Any) -> None:
        """Print as rich does, here and to the copies. A screen or a copy that can no longer be written is given up."""
        objects = tuple(safe(item) if isinstance(item, str) else item for item in objects)
        try:
            super().print(*objects, **options)
        except OSError:  # the terminal has gone away
            self.on_broken_pipe()
        if objects and all(isinstance(item, Control) for item in objects):
            return  # a live display moves the cursor
        self._to_copies(*objects, **options)

    def print_to_copies(self, text: str) -> None:
        """Print plain text to the copies only: what the terminal shows by another way."""
        self._to_copies(safe(text), markup=False)

    def _to_copies(self, *objects: Any, **options: Any) -> None:
        for copy in list(self.copies):
            try:
                copy.print(*objects, **options)
            except OSError as error:  # a full disk: what is dispensable does not end a training
                self.copies.remove(copy)
                warn(f"{copy.file.name} is written no further: {without_number(error)}")

    def on_broken_pipe(self) -> None:
        """Go on in silence where rich would end the process: nobody reads the screen any more."""
        self.quiet = True
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, 1)  # what is still buffered goes there too, when the process ends
        os.close(nowhere)


_console: SharedConsole | None = None
_live: Progress | None = None


def console() -> SharedConsole:
    """Return the console that the whole process shares; of several processes the first speaks."""
    global _console
    if _console is None:
        _console = SharedConsole(width=None if sys.stdout and sys.stdout.isatty() else WIDTH, quiet=not is_first())
    return _console


def warn(message: str) -> None:
    """Show a warning to the user, as plain text."""
    console().print(f"[yellow]warning:[/yellow] {escape(safe(message))}")


def panel(title: str, rows: Mapping[str, str], colour: str = "cyan") -> RenderableType:
    """Return a panel of names and values; the values are plain text."""
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in rows.items():
        table.add_row(name, escape(safe(value)))
    return Panel(table, title=title, title_align="left", border_style=colour)


@contextmanager
def tee(path: Path) -> Iterator[None]:
    """Append everything printed while open to `path` too, without colour codes. Nests. In the first process only."""
    if not is_first():
        yield
        return
    with path.open("a", encoding="utf-8") as file:
        copy = SafeConsole(file=file, width=WIDTH, color_system=None, force_terminal=False, highlight=False)
        shared = console()
        shared.copies.append(copy)
        try:
            yield
        finally:
            if copy in shared.copies:
                shared.copies.remove(copy)


class Bar:
    """The progress of one loop: live on a terminal; plain lines, few of them, in pipes and files.

    Both show the newest metrics, the memory in use, the time of a step and the time that is left.
    """

    def __init__(self, description: str, total: int, live: Progress | None, start: int = 0) -> None:
        self.description, self.total, self.live = description, total, live
        self.start, self.step, self.text = start, start, ""
        self.pace = Pace(start)
        self._started = self._said_at = time.monotonic()
        self._said_step = start
        self._task: TaskID | None = None
        if live is not None:
            self._task = live.add_task(escape(safe(description)), total=total, completed=start, text="")
        self._say(f"{description}: {self._count()}")

    def update(self, step: int, **metrics: float | str) -> None:
        """Show that `step` steps of the total are done, with the newest metrics."""
        self.step, self.text = step, _format(metrics)
        self.pace.mark(step)
        if self.live is not None and self._task is not None:
            text = _joined(self._left(), _memory(), self.text)
            self.live.update(self._task, completed=step, text=escape(safe(text)))
        due = time.monotonic() - self._said_at >= PLAIN_INTERVAL_S and step - self._said_step >= self.total / 10
        if due and (step < self.total or not self.total):
            self._said_at, self._said_step = time.monotonic(), step
            self._say(_joined(self._position(), self._left()))

    def close(self) -> None:
        """Say where it ended, and take the live bar away."""
        if self.live is not None and self._task is not None:
            self.live.remove_task(self._task)
            self._task = None
        line = f"{self._position()} · {duration(time.monotonic() - self._started)}"
        console().print(line, markup=False)

    def _position(self) -> str:
        return _joined(f"{self.description}: {self._count()}", self.text, _memory())

    def _count(self) -> str:
        return f"{self.step}/{self.total}" if self.total else str(self.step)

    def _left(self) -> str:
        step_s, left_s = self.pace.step_s, self.pace.left_s(self.total)
        return "" if step_s is None or left_s is None else f"{step_s:.3g} s each · {duration(left_s)} left"

    def _say(self, line: str) -> None:
        """Print a plain line wherever no live bar is seen."""
        shared = console()
        if self.live is None:
            shared.print(line, markup=False)
        else:
            shared.print_to_copies(line)


@contextmanager
def progress(description: str, total: int, start: int = 0) -> Iterator[Bar]:
    """Show the progress of a loop of `total` steps, 0 if unknown, of which `start` were done before.

    One opened inside another joins the outer one's display.
    """
    global _live
    if not console().is_terminal or _live is not None:
        bar = Bar(description, total, _live, start)
        try:
            yield bar
        finally:
            bar.close()
        return
    columns = (TextColumn("{task.description}"), BarColumn(bar_width=30), TextColumn("{task.completed}/{task.total}"))
    with Progress(*columns, TextColumn("{task.fields[text]}"), console=console()) as live:
        _live = live
        bar = Bar(description, total, live, start)
        try:
            yield bar
        finally:
            bar.close()
            _live = None


def _joined(*parts: str) -> str:
    return " · ".join(part for part in parts if part)


def _memory() -> str:
    return f"{memory_bytes() / 2**30:.1f} GiB"


def _format(metrics: dict[str, float | str]) -> str:
    shown = ((name, value if isinstance(value, str) else f"{value:.4g}") for name, value in metrics.items())
    return _joined(*(f"{name} {value}" for name, value in shown))


def duration(seconds: float) -> str:
    """Return a duration as people say it: 8.3 s, 2 min 05 s, 3 h 20 min."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"
