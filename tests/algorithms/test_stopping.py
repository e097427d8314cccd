"""A stage that is stopped, by Ctrl-C, SIGTERM or the limit of time; and what it tells of its time while it trains."""

import itertools
import json
import os
import pty
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import run_all
from algorithms import GRPOExtraConfig, TrainingConfig, loading
from records.stage_log import StageLog
from tests.train_stage import KINDS, train
from utils.errors import Interrupted
from utils.files import weights_sha256

Configure = Callable[..., TrainingConfig]


def lengths(completions: list[Any], **_: Any) -> list[float]:
    """A reward that differs between most completions."""
    return [float(len(completion[0]["content"])) for completion in completions]


EXTRA = GRPOExtraConfig(reward_func=lengths, num_generations=4, max_completion_length=6)


def run(kind: str, config: TrainingConfig, stage_dir: Path, **limits: Any) -> Path:
    stage_dir.mkdir(exist_ok=True)
    return train(kind, config, stage_dir, EXTRA, **limits)


def checkpoints(stage_dir: Path) -> list[str]:
    return sorted(path.name for path in stage_dir.glob("checkpoint-*"))


@pytest.fixture
def at_pass(monkeypatch: pytest.MonkeyPatch) -> dict[int, Callable[[], None]]:
    """What happens within a pass that trains, by the number of the pass from 0."""
    actions: dict[int, Callable[[], None]] = {}
    passes = 0

    def embed(*_: Any) -> None:
        import torch

        nonlocal passes
        if torch.is_grad_enabled():
            passes += 1
            actions.get(passes - 1, lambda: None)()

    def watched(load: Callable[..., Any]) -> Callable[..., Any]:
        def loaded(*given: Any) -> Any:
            model = load(*given)
            model.get_input_embeddings().register_forward_pre_hook(embed)
            return model

        return loaded

    for name in ("language_model", "reward_model"):
        monkeypatch.setattr(loading, name, watched(getattr(loading, name)))
    return actions


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_a_stage_after_its_step_and_the_resumed_weights_are_those_of_the_uninterrupted_run(
    kind: str,
    number: signal.Signals,
    configure: Configure,
    tmp_path: Path,
    at_pass: dict[int, Callable[[], None]],
) -> None:
    config = configure(kind, max_steps=5, gradient_accumulation_steps=2)
    whole = run(kind, config, tmp_path / "whole")
    at_pass[10 + 4] = lambda: os.kill(os.getpid(), number)  # within the first pass of the third step
    stopped = tmp_path / "stopped"
    before = signal.getsignal(number)
    with pytest.raises(Interrupted, match="stopped after step 3 of 5, with a checkpoint"):
        run(kind, config, stopped)
    assert signal.getsignal(number) == before
    assert checkpoints(stopped) == ["checkpoint-3"]
    assert not (stopped / "model.safetensors").exists()
    run(kind, config, stopped)
    assert weights_sha256(stopped) == weights_sha256(whole)
    steps = [json.loads(line)["step"] for line in (stopped / "training_metrics.jsonl").read_text().splitlines()]
    assert steps == [1, 2, 3, 4, 5]


def test_a_run_that_a_signal_stops_is_interrupted_and_goes_on(
    configure: Configure,
    tmp_path: Path,
    at_pass: dict[int, Callable[[], None]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from pipeline import run_pipeline

    monkeypatch.chdir(tmp_path)
    at_pass[2] = lambda: os.kill(os.getpid(), signal.SIGTERM)  # the first is tried before the run
    configs = {"sft": configure("sft")}
    with pytest.raises(Interrupted, match=r"stopped after step 2 of 3, with a checkpoint. Continue with:\n.*--resume"):
        run_pipeline(configs)
    (run_dir,) = (tmp_path / "runs").iterdir()
    record = json.loads((run_dir / "run_info.json").read_text())
    assert (record["status"], record["stages"][0]["status"]) == ("interrupted", "interrupted")
    assert StageLog(run_dir / "sft").read_info()["steps"] == 2
    assert "STAGE_INTERRUPTED | stopped after step 2" in (run_dir / "sft" / "training_events.log").read_text()
    assert run_pipeline(configs, resume="latest") == run_dir
    assert json.loads((run_dir / "run_info.json").read_text())["status"] == "passed"


def test_grpo_stops_where_no_sampled_completion_is_lost(
    configure: Configure, tmp_path: Path, at_pass: dict[int, Callable[[], None]]
) -> None:
    """A generation serves two steps, each twice: so only every fourth step is an end."""
    options = {"steps_per_generation": 2, "num_iterations": 2}
    config = configure("grpo", max_steps=8, trainer_args=options)
    whole = run("grpo", config, tmp_path / "whole")
    at_pass[8] = lambda: os.kill(os.getpid(), signal.SIGTERM)
    stopped = tmp_path / "stopped"
    with pytest.raises(Interrupted, match="stopped after step 4 of 8"):
        run("grpo", config, stopped)
    run("grpo", config, stopped)
    assert weights_sha256(stopped) == weights_sha256(whole)


def test_a_second_signal_stops_at_once(
    configure: Configure, stage_dir: Path, at_pass: dict[int, Callable[[], None]], capfd: pytest.CaptureFixture[str]
) -> None:
    def twice() -> None:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)

    at_pass[1] = twice
    with pytest.raises(KeyboardInterrupt):
        run("sft", configure("sft"), stage_dir)
    assert checkpoints(stage_dir) == []
    assert "a second Ctrl-C stops at once" in capfd.readouterr().err


def test_a_signal_in_the_last_step_leaves_a_finished_training_to_resume(
    configure: Configure, tmp_path: Path, at_pass: dict[int, Callable[[], None]]
) -> None:
    config = configure("sft", trainer_args={"save_strategy": "no"})
    whole = run("sft", config, tmp_path / "whole")
    at_pass[3 + 2] = lambda: os.kill(os.getpid(), signal.SIGTERM)
    with pytest.raises(Interrupted):
        run("sft", config, tmp_path / "stopped")
    run("sft", config, tmp_path / "stopped")
    assert weights_sha256(tmp_path / "stopped") == weights_sha256(whole)


def test_a_stage_that_would_not_end_in_time_stops_early_and_says_what_would(
    configure: Configure, tmp_path: Path, at_pass: dict[int, Callable[[], None]]
) -> None:
    for number in range(1000):
        at_pass[number] = lambda: time.sleep(0.05)
    config = configure("sft", max_steps=1000)
    began = time.monotonic()
    with pytest.raises(Interrupted) as stopped:  # 18 s, and 1000 steps take 50 or more
        run("sft", config, tmp_path / "stage", max_hours=0.005)
    assert time.monotonic() - began < 15
    said = str(stopped.value)
    for part in ("stopped for time", "of 1000", "--max-hours 0.005 leave", "continued with --max-hours", "max_steps="):
        assert part in said
    fits = int(said.partition("max_steps=")[2].partition(",")[0])
    assert 50 < fits < 18 / 0.05
    (kept,) = checkpoints(tmp_path / "stage")
    at_pass.clear()
    run("sft", configure("sft", max_steps=int(kept[11:]) + 2), tmp_path / "stage")  # and it can be resumed


def test_a_stage_stops_when_its_time_is_over(
    configure: Configure, tmp_path: Path, at_pass: dict[int, Callable[[], None]]
) -> None:
    at_pass[1] = lambda: time.sleep(1.5)
    with pytest.raises(Interrupted, match=r"step [12] of 30.* are over"):
        run("sft", configure("sft", max_steps=30), tmp_path / "stage", max_hours=1 / 3600)
    assert len(checkpoints(tmp_path / "stage")) == 1


def test_a_stage_with_time_enough_is_left_alone(configure: Configure, stage_dir: Path) -> None:
    run("sft", configure("sft", max_steps=8), stage_dir, max_hours=1)
    assert StageLog(stage_dir).read_info()["steps"] == 8


def test_steps_that_explode_raise_one_alarm(
    configure: Configure, stage_dir: Path, at_pass: dict[int, Callable[[], None]], capsys: pytest.CaptureFixture[str]
) -> None:
    for number in (22, 23, 24, 25):
        at_pass[number] = lambda: time.sleep(1.05)
    run("sft", configure("sft", max_steps=27, trainer_args={"eval_strategy": "steps", "eval_steps": 9}), stage_dir)
    (alarm,) = StageLog(stage_dir).read_info()["alarms"]
    assert (alarm["step"], alarm["name"]) == (25, "slow_steps")
    for part in ("steps take 1.", "times the", "another program keeps the cores busy"):
        assert part in alarm["message"]
    assert capsys.readouterr().out.count("slow_steps") == 1


def test_a_healthy_stage_raises_no_alarm_although_it_saves_slowly(
    configure: Configure, stage_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from trl import SFTTrainer

    save = SFTTrainer._save_checkpoint

    def slowly(trainer: Any, *given: Any) -> None:
        if trainer.state.global_step > 20:
            time.sleep(1.05)
        save(trainer, *given)

    monkeypatch.setattr(SFTTrainer, "_save_checkpoint", slowly)
    run("sft", configure("sft", max_steps=24, save_steps=1, save_total_limit=1), stage_dir)
    assert StageLog(stage_dir).read_info().get("alarms", []) == []


def test_a_checkpoint_says_how_much_time_and_energy_the_stage_has_taken(
    configure: Configure, stage_dir: Path, at_pass: dict[int, Callable[[], None]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("watching.energy.gpu_joules", itertools.count().__next__)  # a joule at each reading

    def killed() -> None:
        raise SystemExit

    at_pass[0], at_pass[2] = lambda: time.sleep(0.2), killed
    StageLog(stage_dir).info(duration_s=100.0, energy_j=50.0)
    with pytest.raises(SystemExit):
        run("sft", configure("sft", save_steps=2), stage_dir)
    info = StageLog(stage_dir).read_info()
    assert 100.2 < info["duration_s"] < 160
    assert 51 <= info["energy_j"] < 100


@pytest.mark.slow
def test_a_run_without_its_terminal_still_ends_for_time_with_a_checkpoint(configure: Configure, tmp_path: Path) -> None:
    config = configure("sft")
    recipe = tmp_path / "mine.py"
    recipe.write_text(
        "from algorithms import TrainingConfig\n\n"
        f"configs = {{'sft': TrainingConfig(model_name={str(config.model_name)!r}, output_dir='sft',\n"
        f"    dataset_name={config.dataset_name!r}, max_steps=100_000, per_device_train_batch_size=2)}}\n"
    )
    ours, theirs = pty.openpty()
    command = [sys.executable, run_all.__file__, "--recipe", str(recipe), "--max-hours", "0.002"]
    with subprocess.Popen(command, cwd=tmp_path, stdin=theirs, stdout=theirs, stderr=theirs) as process:
        os.close(theirs)
        assert os.read(ours, 1)
        os.close(ours)  # as when the window is closed of a run that nohup keeps: whoever writes to it gets an error
        assert process.wait(timeout=300) == 130
    (run_dir,) = (tmp_path / "runs").iterdir()
    assert json.loads((run_dir / "run_info.json").read_text())["status"] == "interrupted"
    assert len(checkpoints(run_dir / "sft")) == 1
    assert "stopped for time" in (run_dir / "console_output.log").read_text()
