"""How scripts end: one message, the right exit code."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from utils.errors import Interrupted, Refused, StageFailed, did_you_mean, exit_code, refusal, without_number


@pytest.mark.parametrize(("kind", "code"), [("Refused", 2), ("StageFailed", 1), ("Interrupted", 130)])
def test_a_script_ends_with_one_message_and_the_exit_code(kind: str, code: int) -> None:
    script = f"from utils.errors import *\nplain_endings()\nraise {kind}('what to do next')"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (code, "what to do next\n")


def test_a_programming_error_keeps_its_traceback() -> None:
    script = "from utils.errors import *\nplain_endings()\n1 / 0"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "Traceback" in done.stderr


def test_exit_codes() -> None:
    ends = [Refused(), StageFailed(), Interrupted(), KeyboardInterrupt()]
    assert [exit_code(error) for error in ends] == [2, 1, 130, 130]


def test_of_two_problems_of_one_value_the_first_is_told() -> None:
    said = refusal(["sft: a = '': must be a name", "sft: b = 0: must be 1", "sft: a = '': must be given"])
    assert str(said) == "the run cannot start:\n- sft: a = '': must be a name\n- sft: b = 0: must be 1"


def test_an_error_of_the_system_is_told_without_its_number() -> None:
    assert without_number(OSError(-2, "Name or service not known")) == "Name or service not known"
    assert without_number(TimeoutError()) == "TimeoutError"


def test_of_names_as_near_the_one_of_the_same_letters_is_meant() -> None:
    assert did_you_mean("--tset", ["--set", "--test", "--stages"]) == ", did you mean '--test'?"


@pytest.mark.parametrize(("given", "near"), [("sfd", "sft"), ("SFT", "sft"), ("rewrad", "reward"), ("zzz", None)])
def test_did_you_mean_gives_the_nearest_name_if_one_is_near(given: str, near: str | None) -> None:
    hint = did_you_mean(given, ["sft", "reward", "dpo"])
    assert hint == (f", did you mean {near!r}?" if near else "")


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252"])
def test_a_screen_that_is_not_utf_8_is_shown_what_it_can(encoding: str) -> None:
    code = (
        "from utils.errors import plain_endings; plain_endings(); from utils.console import console, panel;"
        "console().print(panel('⟦ é → 好', {'loss': '1 · 2'})); print('好')"
    )
    environment = os.environ | {"PYTHONIOENCODING": encoding, "PYTHONPATH": str(Path(__file__).resolve().parents[2])}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True)
    assert done.returncode == 0, done.stderr
    assert b"loss" in done.stdout
    assert done.stdout.rstrip().endswith(b"?")
