"""How many calls lie between the command line and the training of a stage."""

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import run_all
from algorithms import TrainingConfig
from algorithms.watch import Watch
from tests.algorithms.conftest import configure, data_files, model_dir

__all__ = ["configure", "data_files", "model_dir"]  # fixtures

ROOT = Path(run_all.__file__).parent
CALLS = ["act", "run_pipeline", "run_stage", "train_within_memory", "train", "fit"]
"""Between `main` and the trainer's `train`."""


def test_seven_calls_lead_from_the_command_line_to_the_trainer(
    configure: Callable[..., TrainingConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    began: list[list[str]] = []
    begin = Watch.on_train_begin

    def seen(watch: Watch, *given: Any, **named: Any) -> None:
        ours = [
            frame.function
            for frame in inspect.stack(0)
            if Path(frame.filename).parent in (ROOT, ROOT / "chain", ROOT / "algorithms")
        ]
        began.append(ours[: ours.index("main")][::-1])
        begin(watch, *given, **named)

    monkeypatch.setattr(Watch, "on_train_begin", seen)
    monkeypatch.chdir(tmp_path)
    config = configure("sft", max_steps=1, eval_samples=2)
    Path("recipe.py").write_text(
        "from algorithms import TrainingConfig\n"
        f"configs = {{'sft': TrainingConfig(model_name={str(config.model_name)!r}, output_dir='sft',\n"
        f"    dataset_name={config.dataset_name!r}, max_steps=1, eval_samples=2, bf16=False)}}\n"
    )
    assert run_all.main(["--recipe", "recipe.py"]) == 0
    (calls,) = began
    assert calls == CALLS
    assert len(calls) + 1 <= 7  # the last is that of the trainer's `train`
