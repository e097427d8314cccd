"""Keys, tokens and passwords are taken out of what is shown and written."""

import json
import logging
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from rich.table import Table

from records.stage_log import StageLog
from utils import secrets
from utils.console import console, tee, warn
from utils.errors import Refused, plain_endings, report
from utils.files import read_json, replace_text, write_json
from utils.quiet import quiet_libraries
from utils.secrets import SECRET_NAME, hidden, hide

KEY = "0123456789abcdef-the-key"
HUB = "hf_" + "aBcD1234" * 4


@pytest.fixture(autouse=True)
def known(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """An environment with a key, and with values that are no secrets though their names might say so."""
    for name, value in {
        "WANDB_API_KEY": KEY,
        "PGPASSWORD": "pass[word].*1",
        "SHORT_KEY": "abc",
        "DB_PASS": "postgres",
        "MAX_TOKENS": "20480000",
        "TOKENIZER_NAME": "Qwen/Qwen2.5-0.5B",
        "SSH_KEY_PATH": str(tmp_path),
    }.items():
        monkeypatch.setenv(name, value)
    secrets._of_environment.cache_clear()
    yield
    secrets._of_environment.cache_clear()


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (f"401 for key {KEY}!", "401 for key ***!"),
        ("psql: pass[word].*1 is wrong", "psql: *** is wrong"),
        (f"token={HUB},", "token=***,"),
        ("https://ann:s3cret@hub.example/data and s3://t0ken@host", "https://***@hub.example/data and s3://***@host"),
        ("https://ann:s3c@ret@hub.example", "https://***@hub.example"),
        ("there is no https:/ann:s3cret@hub.example/data", "there is no https:/***@hub.example/data"),
        ("https://ann:s3/c@ret@hub.example/data", "https://***@hub.example/data"),
        ("https://host/a?sig=s3cret&n=2 ?X-Amz-Signature=s3cret", "https://host/a?sig=***&n=2 ?X-Amz-Signature=***"),
        ("Bearer s3cret-to-2 Authorization: Basic c2VjcmV0", "Bearer *** Authorization: Basic ***"),
        ("DB_PASSWORD=s3cret {'api_key': 's3cret'}", "DB_PASSWORD=*** {'api_key': '***'}"),
        ('{\\"hub_token\\": \\"s3cret\\"}', '{\\"hub_token\\": \\"***\\"}'),
        ("in a URL pass%5Bword%5D.%2A1", "in a URL ***"),
        ("-----BEGIN PRIVATE KEY-----\nMIIE\n-----END PRIVATE KEY-----\nafter", "***\nafter"),
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
        "http://[::1]:8080/a@b http://host:8080?a@b",
        "c0ffee" * 6 + "abcd",  # a git hash
        "sha256:" + "0123456789abcdef" * 4,
        "20261130_171411_56zu 123e4567-e89b-12d3-a456-426614174000 2026-11-30T17:14:11+00:00",
        "owner/Zm9vYmFyYmF6Zm9vYmFyYmF6Zm9vYmFyYmF6Zm9vYmFyYmF6Cg==",
        "glaive-function-calling-v2-sharegpt jina-embeddings-v2-base-en-large xai-org-grok-2-instruct-long-name",
        "sk-learn-a-long-dataset-name-2024 risk-0123456789abcdef0123456789 npm_config_registry_of_the_house_1",
        "pad_token=<|endoftext|> sft.trainer_args.eos_token=<|im_end|> max_tokens=20480 key=value",
        "Bearer of bad news, the password: is none; https://host/rows?page=2&tokenizer=abcd",
        "postgres 20480000",
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


@pytest.mark.parametrize("name", "GITHUB_PAT DB_PASS DB_PWD AUTH MY_CREDENTIALS apiKey X-API-KEY S3SECRET".split())
def test_a_name_says_that_a_value_is_secret(name: str) -> None:
    assert SECRET_NAME.search(name)


@pytest.mark.parametrize("name", "PWD OLDPWD PATH GIT_AUTHOR_NAME KEYBOARD COMPAT TOKENIZERS_PARALLELISM".split())
def test_a_name_says_that_a_value_is_none(name: str) -> None:
    assert not SECRET_NAME.search(name)


def test_values_are_hidden_however_deep_and_names_of_fields_are_not() -> None:
    assert hidden({"a": [{"b": f"x{KEY}"}], KEY: 1, "n": None}) == {"a": [{"b": "x***"}], KEY: 1, "n": None}
    assert hidden({"password": "s3cret", "pad_token": "<pad>"}) == {"password": "***", "pad_token": "<pad>"}


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


def test_a_table_and_a_page_have_no_secret(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = Table("data", title=HUB)
    table.add_row(f"rows-{HUB}")
    with tee(tmp_path / "console_output.log"):
        console().print(table)
    replace_text(tmp_path / "page.html", f"<p>{HUB}</p>")
    written = [capsys.readouterr().out, *(path.read_text() for path in sorted(tmp_path.iterdir()))]
    assert [text.count("***") for text in written] == [2, 2, 1]
    assert HUB not in "".join(written)


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
