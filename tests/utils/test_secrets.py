"""Keys, tokens and passwords are taken out of what is shown and written."""

import json
import logging
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from records.stage_log import StageLog
from utils import secrets
from utils.console import tee, warn
from utils.errors import Refused, plain_endings, report
from utils.files import read_json, write_json
from utils.quiet import quiet_libraries
from utils.secrets import hidden, hide

KEY = "0123456789abcdef-the-key"
HUB = "hf_" + "aBcD1234" * 4


@pytest.fixture(autouse=True)
def known(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """An environment with a key, and with values that are no secrets though their names might say so."""
    for name, value in {
        "WANDB_API_KEY": KEY,
        "PGPASSWORD": "pass[word].*1",
        "SHORT_KEY": "abc",
        "TOKENIZER_NAME": "Qwen/Qwen2.5-0.5B",
        "SSH_KEY_PATH": str(tmp_path),
    }.items():
        monkeypatch.setenv(name, value)
    secrets._secrets.cache_clear()
    yield
    secrets._secrets.cache_clear()


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (f"401 for key {KEY}!", "401 for key ***!"),
        ("psql: pass[word].*1 is wrong", "psql: *** is wrong"),
        (f"token={HUB},", "token=***,"),
        ("https://ann:s3cret@hub.example/data and s3://t0ken@host", "https://***@hub.example/data and s3://***@host"),
        ("https://ann:s3c@ret@hub.example", "https://***@hub.example"),
        ("there is no https:/ann:s3cret@hub.example/data", "there is no https:/***@hub.example/data"),
    ],
)
def test_a_secret_is_hidden_and_what_stands_around_it_is_not(text: str, shown: str) -> None:
    assert hide(text) == shown


@pytest.mark.parametrize(
    "text",
    [
        "abc Qwen/Qwen2.5-0.5B hf_hub_download hf_transfer",
        "hf://datasets/owner/name@main",
        "http://host:8080/a@b mail to ann@example.org",
    ],
)
def test_what_is_no_secret_stays(text: str) -> None:
    assert hide(text) == text


def test_the_directory_that_a_variable_names_is_no_secret(tmp_path: Path) -> None:
    assert hide(f"{tmp_path}/run") == f"{tmp_path}/run"


def test_a_word_of_the_home_directory_is_no_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/postgres")
    monkeypatch.setenv("DB_PASSWORD", "postgres")
    assert hide("files  /home/postgres/runs") == "files  /home/postgres/runs"


def test_values_are_hidden_however_deep_and_names_of_fields_are_not() -> None:
    assert hidden({"a": [{"b": f"x{KEY}"}], KEY: 1, "n": None}) == {"a": [{"b": "x***"}], KEY: 1, "n": None}


def test_no_file_of_a_stage_and_nothing_on_the_console_has_a_secret(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log = StageLog(tmp_path)
    log.open(name="sft", config={"trainer_args": {"run_name": HUB}})
    with tee(tmp_path / "console_output.log"), quiet_libraries(tmp_path / "training.log"):
        warn(f"no answer for {KEY}")
        logging.getLogger("trl").error("refused: %s", HUB)
    log.event("STAGE_FAILED", f"https://ann:{KEY}@host")
    log.metrics(1, None, {"said": KEY})
    report(Refused(f"{KEY} is no data set"))
    said = capsys.readouterr()
    written = "".join(path.read_text() for path in tmp_path.iterdir())
    for secret in (KEY, HUB):
        assert secret not in written + said.out + said.err
    assert written.count("***") == 6  # the log and the copy have the error, the copy the warning
    assert said.err == "*** is no data set\n"


def test_json_keeps_all_but_the_secret(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"argv": ["--set", f"x={HUB}"], "n": 1.5, "none": None, "path": tmp_path})
    assert read_json(tmp_path / "a.json") == {"argv": ["--set", "x=***"], "n": 1.5, "none": None, "path": str(tmp_path)}
    json.loads((tmp_path / "a.json").read_text())


def test_the_traceback_of_a_script_has_no_secret(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "excepthook", sys.__excepthook__)
    plain_endings()
    try:
        raise RuntimeError(f"no answer for {KEY}")
    except RuntimeError as error:
        sys.excepthook(type(error), error, error.__traceback__)
    said = capsys.readouterr().err
    assert said.startswith("Traceback (most recent call last):")
    assert said.endswith("RuntimeError: no answer for ***\n")
