"""Trackers: on by request, named by stage, and never the end of a run."""

import base64
import json
import os
import socket
import time
from pathlib import Path
from threading import Event
from types import SimpleNamespace
from typing import Any

import pytest

from utils.errors import Refused
from watching import trackers
from watching.trackers import recording, report_to, requested, shield, stage_environment


@pytest.mark.parametrize(
    ("value", "names"),
    [(None, []), ("", []), ("none", []), ("wandb", ["wandb"]), (" WandB , tensorboard,wandb", ["wandb"])],
)
def test_tensorboard_and_what_is_named(value: str | None, names: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    if value is not None:
        monkeypatch.setenv("REPORT_TO", value)
    assert requested() == ["tensorboard", *names]


def test_an_unknown_tracker_is_refused_with_the_nearest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REPORT_TO", "wandb,neptun")
    with pytest.raises(Refused, match="did you mean 'neptune'"):
        requested()


def test_a_tracker_that_is_not_installed_is_said_and_left_out(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("REPORT_TO", "swanlab")
    assert report_to() == ["tensorboard"]
    assert "swanlab is not installed" in capsys.readouterr().out


def test_our_names_are_those_of_transformers() -> None:
    from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK

    from watching.trackers import PACKAGE_OF

    assert set(PACKAGE_OF) <= set(INTEGRATION_TO_CALLBACK)


def test_a_tracker_that_raises_is_reported_once_and_then_left_alone(capsys: pytest.CaptureFixture[str]) -> None:
    from transformers import TrainerCallback
    from transformers.integrations import WandbCallback

    calls = []

    class Broken(WandbCallback):
        def __init__(self) -> None:
            pass

        def on_train_begin(self, *_: Any, **__: Any) -> None:
            raise RuntimeError("no key")

        def on_log(self, *_: Any, **__: Any) -> None:
            calls.append("logged")

    class Ours(TrainerCallback):
        def on_log(self, *_: Any, **__: Any) -> None:
            raise ValueError("ours are not shielded")

    trainer = SimpleNamespace(callback_handler=SimpleNamespace(callbacks=[Broken(), Ours()]))
    shield(trainer)
    broken, ours = trainer.callback_handler.callbacks
    broken.on_train_begin(None, None, None)
    broken.on_log(None, None, None)
    assert calls == []
    assert capsys.readouterr().out.count("no key") == 1
    with pytest.raises(ValueError, match="ours"):
        ours.on_log(None, None, None)


def test_a_stage_without_a_trainer_records_with_every_tracker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REPORT_TO", "wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    model = SimpleNamespace(device=SimpleNamespace(type="cpu"), config=None)
    environment = stage_environment("20260102_030405_abcd", "pretrain", tmp_path)
    with environment, recording(tmp_path, {"learning_rate": 0.1234567}, model) as record:
        record(1, {"loss": 2.5})
        record(2, {"loss": 1.5})
    assert list((tmp_path / "logs").glob("events.out.tfevents.*"))
    (recorded,) = (tmp_path / "logs/wandb").glob("offline-run-*/run-*.wandb")
    content = recorded.read_bytes()
    assert b"train/loss" in content
    assert b"0.1234567" in content


def test_a_tracker_that_fails_does_not_end_a_stage_without_a_trainer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from transformers import TrainerCallback
    from transformers.integrations import integration_utils

    class Unborn(TrainerCallback):
        def __init__(self) -> None:
            raise RuntimeError("no account")

    class Broken(TrainerCallback):
        def on_log(self, *_: Any, **__: Any) -> None:
            raise RuntimeError("no network")

    monkeypatch.setitem(integration_utils.INTEGRATION_TO_CALLBACK, "wandb", Unborn)
    monkeypatch.setitem(integration_utils.INTEGRATION_TO_CALLBACK, "tensorboard", Broken)
    monkeypatch.setenv("REPORT_TO", "wandb")
    model = SimpleNamespace(device=SimpleNamespace(type="cpu"), config=None)
    with recording(tmp_path, {}, model) as record:
        record(1, {"loss": 2.5})
        record(2, {"loss": 1.5})
    said = capsys.readouterr().out
    assert (said.count("no account"), said.count("no network")) == (1, 1)


def test_a_stage_names_its_trackers_and_leaves_the_environment_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REPORT_TO", "wandb")
    monkeypatch.setenv("WANDB_PROJECT", "mine")
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    monkeypatch.setenv("HOME", str(tmp_path))
    before = dict(os.environ)
    with stage_environment("20260102_030405_abcd", "sft", tmp_path):
        assert os.environ["TENSORBOARD_LOGGING_DIR"] == str(tmp_path / "logs")
        assert os.environ["WANDB_NAME"] == "20260102_030405_abcd-sft"
        assert os.environ["WANDB_PROJECT"] == "mine"
        assert os.environ["WANDB_MODE"] == "offline"  # there is no key, and asking for one would block the run
    assert dict(os.environ) == before


@pytest.fixture
def three(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A stage's directory, with all trackers asked for, and no key of any."""
    monkeypatch.setenv("REPORT_TO", "wandb,neptune")
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("WANDB_API_KEY", "WANDB_MODE", "NEPTUNE_API_TOKEN", "NEPTUNE_PROJECT", "NEPTUNE_MODE"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


MODEL = SimpleNamespace(device=SimpleNamespace(type="cpu"), config=None)


def test_without_any_key_each_tracker_keeps_the_stage_on_this_machine_and_says_so(
    three: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with stage_environment("20260102_030405_abcd", "sft", three), recording(three, {}, MODEL) as record:
        record(1, {"loss": 2.5})
    said = " ".join(capsys.readouterr().out.split())
    assert "Weights & Biases has no key (WANDB_API_KEY), so it records offline" in said
    assert "Neptune's service has closed, so it records offline" in said
    assert "failed" not in said
    (container,) = (three / "logs/neptune/offline").iterdir()
    content = "".join(file.read_text(encoding="utf-8") for file in container.glob("data-*.log"))
    for written in ("20260102_030405_abcd-sft", '"values": ["20260102_030405_abcd"]', '"loss"', "2.5"):
        assert written in content
    assert len(list((three / "logs/wandb").glob("offline-run-*"))) == 1


def test_each_stage_of_a_process_has_a_run_of_its_own_name_and_place(three: Path) -> None:
    for stage in ("sft", "dpo"):
        (three / stage).mkdir()
        with stage_environment("20260102_030405_abcd", stage, three / stage), recording(three, {}, MODEL) as record:
            record(1, {"loss": 2.5})
        (recorded,) = (three / stage / "logs/wandb").glob("offline-run-*/run-*.wandb")
        assert f"20260102_030405_abcd-{stage}".encode() in recorded.read_bytes()
        assert len(list((three / stage / "logs/neptune/offline").iterdir())) == 1


def test_a_tracker_that_hangs_is_left_behind_once(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from transformers.integrations import WandbCallback

    released, calls = Event(), []

    class Hanging(WandbCallback):
        def __init__(self) -> None:
            pass

        def on_log(self, *_: Any, **__: Any) -> None:
            calls.append("logged")
            released.wait()

    monkeypatch.setattr(trackers, "LONGEST_CALL_S", 0.2)
    trainer = SimpleNamespace(callback_handler=SimpleNamespace(callbacks=[Hanging()]))
    shield(trainer)
    began = time.monotonic()
    for _ in range(5):
        trainer.callback_handler.callbacks[0].on_log(None, None, None)
    assert time.monotonic() - began < 1
    assert calls == ["logged"]
    assert capsys.readouterr().out.count("no answer within 0.2 s") == 1
    released.set()


def test_a_service_that_never_answers_costs_its_wait_and_training_goes_on(
    three: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as deaf:  # connects, and says nothing
        url = f"http://127.0.0.1:{deaf.getsockname()[1]}"
        token = {"api_address": url, "api_url": url, "api_key": "k"}
        monkeypatch.setenv("WANDB_BASE_URL", url)
        monkeypatch.setenv("WANDB_API_KEY", "k" * 40)
        monkeypatch.setenv("WANDB_INIT_TIMEOUT", "2")
        monkeypatch.setenv("NEPTUNE_MODE", "async")
        monkeypatch.setenv("NEPTUNE_PROJECT", "a/b")
        monkeypatch.setenv("NEPTUNE_API_TOKEN", base64.b64encode(json.dumps(token).encode()).decode())
        monkeypatch.setattr(trackers, "LONGEST_CALL_S", 4.0)
        began = time.monotonic()
        with stage_environment("20260102_030405_abcd", "sft", three), recording(three, {}, MODEL) as record:
            record(1, {"loss": 2.5})
        assert time.monotonic() - began < 15
    said = " ".join(capsys.readouterr().out.split())
    for name in ("Wandb", "Neptune"):
        assert said.count(f"the tracker {name} failed and records nothing more; training goes on") == 1
    assert list((three / "logs").glob("events.out.tfevents.*"))
