"""Models and data of the Hub, without a network."""

import time
from pathlib import Path

import pytest

from utils import hub
from utils.errors import Refused


def test_offline_mode_is_said_at_once() -> None:
    started = time.monotonic()
    assert hub.unreachable() == "HF_HUB_OFFLINE forbids the network"
    assert time.monotonic() - started < 1


def test_a_hub_that_does_not_answer_is_said_within_seconds_and_not_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.delenv("HF_HUB_OFFLINE")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")  # the discard port: nobody listens
    started = time.monotonic()
    assert "cannot be reached" in (hub.unreachable() or "")
    assert time.monotonic() - started < hub.TIMEOUT_S + 5
    assert constants.HF_HUB_OFFLINE is True


def test_a_model_is_found_by_its_directory(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(Refused, match="is no model's directory"):
        hub.local_model(str(tmp_path), None)
    (tmp_path / "model.safetensors").write_bytes(b"")
    assert hub.local_model(str(tmp_path), None) == tmp_path


@pytest.mark.parametrize("name", ["./nowhere", "/nowhere", "a/b/c", "~/nowhere"])
def test_what_can_only_be_a_path_is_refused(name: str) -> None:
    with pytest.raises(Refused, match="there is no directory"):
        hub.local_model(name, None)


def test_a_name_that_is_no_hub_id_is_refused() -> None:
    with pytest.raises(Refused, match="neither a directory nor a Hub id"):
        hub.local_model("not a model!", None)


def test_a_model_that_was_never_downloaded_is_not_here() -> None:
    assert hub.local_model("no-such-owner/no-such-model", None) is None


@pytest.mark.parametrize(
    ("name", "is_hub"),
    [
        ("trl-lib/Capybara", True),
        ("gsm8k", True),
        ("made:prompts", False),
        ("rows.jsonl", False),
        ("./rows", False),
        ("a/b/c", False),
        ("data/rows.csv", False),
    ],
)
def test_what_reads_as_a_data_set_of_the_hub(name: str, is_hub: bool) -> None:
    assert hub.is_dataset_id(name) is is_hub
