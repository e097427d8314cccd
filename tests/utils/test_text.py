"""Text from outside steers no terminal and forges no line."""

import io
import logging
from pathlib import Path

import pytest
from rich.console import Console

from records.stage_log import StageLog
from utils import console as module
from utils.console import SharedConsole, console, panel, progress, tee, warn
from utils.errors import Refused, report
from utils.quiet import quiet_libraries
from utils.text import entry, one_line, plain

CODES = "\x1b]0;title\x07 \x9b2J \u202egnp \u2066 \u2028 \x7f \r \udc80"
STEERS = set("\x1b\x07\x9b\u202e\u2066\u2028\x7f\r\udc80")


def test_every_code_is_replaced_and_text_stays() -> None:
    text = "naïve ünïcode 漢字 العربية 🙂 tab\t line\n"
    assert plain(text) == text
    assert not set(plain(CODES)) & STEERS
    assert len(plain(CODES)) == len(CODES)


def test_an_entry_is_one_entry_and_a_line_one_line() -> None:
    forged = "a\n2026-01-01 ERROR us: b\x85c\u2028d"
    assert entry(forged) == "a\n    2026-01-01 ERROR us: b\ufffdc\ufffdd\n"
    assert one_line(forged) == "a 2026-01-01 ERROR us: b\ufffdc\ufffdd"


@pytest.mark.parametrize("live", [False, True])
def test_text_from_outside_cannot_steer_the_console_and_our_colours_survive(
    live: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = io.StringIO()
    monkeypatch.setattr(module, "_console", SharedConsole(file=out, width=200, force_terminal=live))
    with tee(tmp_path / "copy.log"):
        console().print(f"[red]{CODES}[/red]")
        console().print(panel("title", {"name": CODES}))
        console().print_to_copies(CODES)
        warn(CODES)
        with progress(CODES, 2) as bar:
            bar.update(1, metric=CODES)
            bar.update(2, metric=CODES)
    copied, shown = (tmp_path / "copy.log").read_text(), out.getvalue()
    assert not set(copied) & STEERS
    assert "]0;title" in copied
    for code in ("\x1b]0;", "\x9b", "\u202e", "\u2066", "\udc80"):
        assert code not in shown
    assert ("\x1b[31m" in shown) == live


def test_the_result_table_steers_no_terminal() -> None:
    from evaluation import result_table

    result = {"task": "rewards", "metric": f"mine{CODES}", "n": 1, "before": None, "after": None, "ci95": None}
    stage = {"name": "grpo", "evaluation": [result | {"reason": CODES}]}
    out = io.StringIO()
    Console(width=200, file=out).print(result_table([stage]))
    assert "mine" in out.getvalue()
    assert not set(out.getvalue()) & STEERS


def test_an_error_steers_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    report(Refused(f"row 1: {CODES}"))
    said = capsys.readouterr().err
    assert said.startswith("row 1: ")
    assert not set(said) & STEERS


def test_no_text_forges_a_line_of_the_logs(tmp_path: Path) -> None:
    log = StageLog(tmp_path)
    log.event("STAGE_FAILED", "one\n2026 | TRAIN_END | two\x85three\u2028four")
    with quiet_libraries(tmp_path / "training.log"):
        logging.getLogger("trl").warning("one\n2026-01-01 ERROR trl: two")
    assert len(log.events_file.read_text().splitlines()) == 1
    first, second = (tmp_path / "training.log").read_text().splitlines()
    assert first.endswith("WARNING trl: one")
    assert second == "    2026-01-01 ERROR trl: two"
