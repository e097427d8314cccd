"""Trackers: on by request, named by stage, and never the end of a run."""

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from utils.errors import Refused
from utils.trackers import recording, report_to, requested, shield, stage_environment


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

    from utils.trackers import PACKAGE_OF

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
    monkeypatch.setitem(integration_utils.INTEGRATION_TO_CALLBACK, "neptune", Broken)
    monkeypatch.setenv("REPORT_TO", "wandb,neptune")
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
