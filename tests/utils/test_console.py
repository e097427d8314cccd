"""What reaches the terminal, pipes and files."""

import io
import time
from pathlib import Path

import pytest
from rich.panel import Panel

from utils import console as module
from utils.console import SharedConsole, console, progress, tee


@pytest.fixture
def piped(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    """A shared console that writes to a pipe."""
    out = io.StringIO()
    monkeypatch.setattr(module, "_console", SharedConsole(file=out, width=120))
    return out


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    """A shared console that believes it is on a terminal."""
    out = io.StringIO()
    monkeypatch.setattr(module, "_console", SharedConsole(file=out, width=120, force_terminal=True))
    return out


def test_tees_nest_and_close(piped: io.StringIO, tmp_path: Path) -> None:
    with tee(tmp_path / "run.log"):
        console().print("one")
        with tee(tmp_path / "stage.log"):
            console().print("two")
        console().print("three")
    console().print("four")
    assert (tmp_path / "run.log").read_text() == "one\ntwo\nthree\n"
    assert (tmp_path / "stage.log").read_text() == "two\n"
    assert piped.getvalue() == "one\ntwo\nthree\nfour\n"


def test_a_tee_appends_to_what_an_earlier_run_wrote(piped: io.StringIO, tmp_path: Path) -> None:
    for text in ("before", "after"):
        with tee(tmp_path / "run.log"):
            console().print(text)
    assert (tmp_path / "run.log").read_text() == "before\nafter\n"


def test_copies_of_a_terminal_hold_no_control_codes(terminal: io.StringIO, tmp_path: Path) -> None:
    with tee(tmp_path / "run.log"):
        console().print(Panel("[red]hot[/red]"))
        with progress("train", 3) as bar:
            bar.update(3, loss=0.5)
    assert "\x1b[" in terminal.getvalue()
    copied = (tmp_path / "run.log").read_text()
    assert "\x1b" not in copied
    assert "train: 3/3 · loss 0.5" in copied


def test_a_piped_bar_says_little(piped: io.StringIO, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(0, 10_000))
    monkeypatch.setattr(time, "monotonic", lambda: float(next(clock)))
    with progress("train", 1000) as bar:
        for step in range(1, 1001):
            bar.update(step, loss=1 / step)
    lines = piped.getvalue().splitlines()
    assert "\x1b" not in piped.getvalue()
    assert (lines[0], lines[-1].startswith("train: 1000/1000 · loss 0.001")) == ("train: 0/1000", True)
    assert 10 <= len(lines) <= 12


def test_a_quick_piped_loop_prints_its_start_and_its_end(piped: io.StringIO) -> None:
    with progress("train", 50) as bar:
        for step in range(1, 51):
            bar.update(step)
    assert len(piped.getvalue().splitlines()) == 2


def test_markup_in_names_and_metrics_is_shown_as_it_is(piped: io.StringIO) -> None:
    with progress("a [/INST] b", 1) as bar:
        bar.update(1, answer="[/bold] [x]")
    assert "a [/INST] b: 1/1 · answer [/bold] [x]" in piped.getvalue()


def test_a_bar_inside_a_bar_joins_its_display(terminal: io.StringIO) -> None:
    with progress("outer", 2) as outer, progress("inner", 2) as inner:
        inner.update(2)
        outer.update(2)
    assert "inner: 2/2" in terminal.getvalue()


def test_a_bar_that_an_error_ends_leaves_the_console_usable(terminal: io.StringIO) -> None:
    with pytest.raises(RuntimeError), progress("train", 2):
        raise RuntimeError
    with progress("again", 1) as bar:
        bar.update(1)
    assert "again: 1/1" in terminal.getvalue()


def test_what_was_done_before_makes_no_step_look_faster(piped: io.StringIO, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(0, 10_000, 30))
    monkeypatch.setattr(time, "monotonic", lambda: float(next(clock)))
    with progress("sft", 100, start=60) as bar:
        bar.update(80)
    assert piped.getvalue().startswith("sft: 60/100\n")
    (line,) = [line for line in piped.getvalue().splitlines() if "left" in line]
    assert "min" in line, line  # 20 steps took a minute or more, and as many are left


@pytest.mark.parametrize("where", ["piped", "terminal"])
def test_a_bar_tells_memory_step_time_and_what_is_left_without_the_slow_first_step(
    where: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, now = request.getfixturevalue(where), 0.0
    monkeypatch.setattr(module, "memory_bytes", lambda: 5 * 2**30)
    monkeypatch.setattr(time, "monotonic", lambda: now)
    with progress("sft", 40) as bar:
        for step in range(1, 21):
            now += 60.0 if step == 1 else 3.0
            bar.update(step, loss=0.5)
        if bar.live is not None:
            bar.live.refresh()
    assert "3 s each · 1 min 00 s left" in out.getvalue()  # 20 steps of 3 s; the mean of all would say 1 min 57 s
    assert "5.0 GiB" in out.getvalue()


def test_a_bar_of_unknown_length_counts(capsys: pytest.CaptureFixture[str]) -> None:
    with progress("read rows (MB)", 0) as bar:
        bar.update(6)
    first, last = capsys.readouterr().out.splitlines()
    assert first == "read rows (MB): 0"
    assert last.startswith("read rows (MB): 6 · ")
