"""Pretraining end to end, small: it learns, it can be loaded, it resumes to the same bytes."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from pretrain import PretrainConfig, loop, untrained
from pretrain.optim import MuonAndAdamW
from pretrain.pretrain_config import range_problems
from records.sealed import sealed
from records.stage_log import StageLog
from tests import train_stage
from utils.errors import Interrupted, Refused, StageFailed
from utils.files import weights_sha256
from watching.trackers import stage_environment

ROOT = Path(__file__).resolve().parents[2]
SMALL = PretrainConfig(
    output_dir="base",
    dataset_name="made:documents",
    max_samples=600,
    eval_samples=64,
    vocab_size=512,
    tokenizer_samples=600,
    hidden_size=32,
    intermediate_size=64,
    num_hidden_layers=2,
    num_attention_heads=2,
    max_steps=24,
    per_device_train_batch_size=8,
    logging_steps=4,
    eval_steps=12,
    save_steps=10,
    save_total_limit=1,
)


def train(config: PretrainConfig, stage_dir: Path, **limits: Any) -> Path:
    return train_stage.train("pretrain", config, stage_dir, **limits)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("base")
    with stage_environment("run", "pretrain", directory):
        return train(SMALL, directory)


def test_random_weights_are_drawn_again_as_training_drew_them(trained: Path) -> None:
    from safetensors.torch import load_file
    from transformers import AutoTokenizer

    from pretrain.model import random_model

    began = random_model(SMALL, AutoTokenizer.from_pretrained(trained), "cpu").state_dict()
    state = torch.get_rng_state()
    again = untrained(trained, SMALL.seed).state_dict()
    assert torch.equal(torch.get_rng_state(), state)
    assert again.keys() == began.keys()
    assert all(torch.equal(again[name], weight) for name, weight in began.items())
    assert not any(
        torch.equal(again[name], weight) for name, weight in load_file(trained / "model.safetensors").items()
    )


def metrics(directory: Path) -> list[dict]:
    return [json.loads(line) for line in (directory / "training_metrics.jsonl").read_text().splitlines()]


def test_loss_falls_on_training_and_held_out_text(trained: Path) -> None:
    logged = metrics(trained)
    assert [line["step"] for line in logged] == [4, 8, 12, 16, 20, 24]
    assert logged[-1]["loss"] < logged[0]["loss"] - 0.3
    held_out = [line["eval_loss"] for line in logged if "eval_loss" in line]
    assert len(held_out) == 2
    assert held_out[1] < held_out[0]


def test_output_loads_as_any_model_with_its_chat_template(trained: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model, tokenizer = AutoModelForCausalLM.from_pretrained(trained), AutoTokenizer.from_pretrained(trained)
    assert type(model).__module__.startswith("transformers.")
    assert model.dtype == torch.float32
    ids = tokenizer.apply_chat_template([{"role": "user", "content": "Hello"}], add_generation_prompt=True)
    assert ids
    assert (trained / "tokenizer.model").exists()
    assert model.generation_config.eos_token_id == tokenizer.eos_token_id
    assert model.generation_config.use_cache


def test_positions_matter_and_the_future_does_not(trained: Path) -> None:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(trained).eval()
    ids = torch.randint(10, 200, (1, 12))
    permuted = torch.cat([ids[:, :11].flip(1), ids[:, 11:]], dim=1)
    changed = torch.cat([ids[:, :6], torch.randint(200, 400, (1, 6))], dim=1)
    with torch.no_grad():
        logits, of_permuted, of_changed = (model(x).logits for x in (ids, permuted, changed))
    assert (logits[0, -1] - of_permuted[0, -1]).abs().max() > 1e-3
    torch.testing.assert_close(logits[:, :6], of_changed[:, :6], rtol=1e-4, atol=1e-5)


def test_info_and_events_are_complete(trained: Path) -> None:
    info = StageLog(trained).read_info()
    assert info["steps"] == 24
    assert info["tokens"] > 24 * 8 * 100
    assert info["peak_memory_bytes"] > 0
    assert (info["data"]["train_rows"], info["data"]["eval_rows"]) == (600, 64)
    kinds = [line.split(" | ")[1] for line in (trained / "training_events.log").read_text().splitlines()]
    assert kinds == ["TRAIN_START", "CHECKPOINT", "CHECKPOINT", "CHECKPOINT", "TRAIN_END"]
    # The newest, and the best before the last step, which is the result itself.
    assert [path.name for path in sealed(trained)] == ["checkpoint-12", "checkpoint-20"]
    assert info["best"] == {"step": 24, "eval_loss": metrics(trained)[-1]["eval_loss"]}


def test_tensorboard_has_the_names_and_values_of_the_other_stages(trained: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(trained / "logs")).Reload()
    logged = metrics(trained)
    for tag, name in (("train/loss", "loss"), ("train/grad_norm", "grad_norm"), ("eval/loss", "eval_loss")):
        found = {event.step: event.value for event in events.Scalars(tag)}
        assert found == pytest.approx({line["step"]: line[name] for line in logged if name in line})
    assert '"muon_learning_rate": 0.02' in events.Tensors("args/text_summary")[0].tensor_proto.string_val[0].decode()


def test_resumed_run_ends_with_the_same_bytes_and_metrics(trained: Path, tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.plugin_event_accumulator import EventAccumulator

    shutil.copytree(trained / "checkpoint-20", tmp_path / "checkpoint-20")
    shutil.copy(trained / "training_metrics.jsonl", tmp_path)
    shutil.copytree(trained / "logs", tmp_path / "logs")
    with stage_environment("run", "pretrain", tmp_path):
        train(SMALL, tmp_path)
    assert len(list((tmp_path / "logs").glob("events.*"))) == 2
    shown = EventAccumulator(str(tmp_path / "logs")).Reload()
    assert [event.step for event in shown.Tensors("train/loss")] == [4, 8, 12, 16, 20, 24]
    assert weights_sha256(tmp_path) == weights_sha256(trained)
    assert [line["step"] for line in metrics(tmp_path)] == [4, 8, 12, 16, 20, 24]
    assert metrics(tmp_path)[-1]["num_tokens"] == metrics(trained)[-1]["num_tokens"]
    assert "RESUME | checkpoint-20" in (tmp_path / "training_events.log").read_text()


def test_the_same_seed_gives_the_same_weights_and_another_others(tmp_path: Path) -> None:
    made = {}
    for name, seed in (("one", SMALL.seed), ("again", SMALL.seed), ("other", 7)):
        train(replace(SMALL, seed=seed, max_steps=2), tmp_path / name)
        made[name] = weights_sha256(tmp_path / name)
    assert made["one"] == made["again"] != made["other"]


def test_a_diverging_run_fails_in_that_step_and_saves_no_such_weights(tmp_path: Path) -> None:
    said = r"step 2: the loss is nan\. The step's documents: .*\nLast good checkpoint: none yet"
    with pytest.raises(StageFailed, match=said):
        train(replace(SMALL, learning_rate=1e30, max_steps=12, logging_steps=100, save_steps=2), tmp_path)
    assert sealed(tmp_path) == []


def test_a_checkpoint_is_a_model_and_is_refused_for_another_shape(trained: Path, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    saved = trained / "checkpoint-20"
    assert AutoModelForCausalLM.from_pretrained(saved).num_parameters() > 0
    assert AutoTokenizer.from_pretrained(saved).chat_template
    shutil.copytree(saved, tmp_path / "checkpoint-20")
    with pytest.raises(Refused, match=r"Cannot resume from .*checkpoint-20: .* has shape \[512, 32\], the model's"):
        train(replace(SMALL, hidden_size=64), tmp_path)


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.pt", "trainer_state.json"])
def test_a_damaged_checkpoint_is_kept_aside_and_the_one_before_it_taken(
    name: str, trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for step in (12, 20):
        shutil.copytree(trained / f"checkpoint-{step}", tmp_path / f"checkpoint-{step}")
    file = tmp_path / "checkpoint-20" / name
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    train(SMALL, tmp_path)
    said = capsys.readouterr().out
    assert f"checkpoint-20 is damaged, and kept as damaged-checkpoint-20: {name} has" in said
    assert "going on from checkpoint-12" in said
    assert weights_sha256(tmp_path) == weights_sha256(trained)


@pytest.fixture(scope="module")
def overfitted(tmp_path_factory: pytest.TempPathFactory) -> tuple[PretrainConfig, Path]:
    """Sixteen rows seen a hundred times: held-out loss falls and then rises, so the best evaluation is not the last."""
    config = replace(SMALL, max_samples=30, max_steps=240, muon_learning_rate=0.05, eval_steps=20, decay_fraction=0.0)
    return config, train(config, tmp_path_factory.mktemp("overfitted"))


def test_the_best_weights_are_not_taken_if_they_are_damaged(
    overfitted: tuple[PretrainConfig, Path], tmp_path: Path
) -> None:
    config, whole = overfitted
    best = StageLog(whole).read_info()["best"]["step"]
    shutil.copytree(whole, tmp_path / "again")
    (tmp_path / f"again/checkpoint-{best}/model.safetensors").write_bytes(b"half")
    with pytest.raises(StageFailed, match=rf"checkpoint-{best} is damaged, and its weights are the result"):
        train(config, tmp_path / "again")


def test_dropout_and_accumulation_resume_to_the_same_bytes(tmp_path: Path) -> None:
    config = replace(SMALL, max_steps=8, dropout=0.2, per_device_train_batch_size=4, gradient_accumulation_steps=2)
    train(replace(config, save_steps=5), tmp_path / "whole")
    shutil.copytree(tmp_path / "whole" / "checkpoint-5", tmp_path / "later" / "checkpoint-5")
    train(config, tmp_path / "later")
    assert weights_sha256(tmp_path / "later") == weights_sha256(tmp_path / "whole")
    train(replace(config, dropout=0.0), tmp_path / "without")
    assert weights_sha256(tmp_path / "without") != weights_sha256(tmp_path / "whole")


def test_the_result_has_the_weights_of_the_best_evaluation(overfitted: tuple[PretrainConfig, Path]) -> None:
    _, directory = overfitted
    held_out = {line["step"]: line["eval_loss"] for line in metrics(directory) if "eval_loss" in line}
    best = min(held_out, key=held_out.__getitem__)
    assert best < 240
    assert StageLog(directory).read_info()["best"] == {"step": best, "eval_loss": held_out[best]}
    assert weights_sha256(directory) == weights_sha256(directory / f"checkpoint-{best}")


def test_a_stop_ends_the_step_and_saves_it(trained: Path, tmp_path: Path) -> None:
    """A real SIGTERM, in the middle of a real run; what it leaves goes on to the result of a run that never stopped."""
    code = f"""
import os, signal
from pathlib import Path
import cache_config, pretrain.loop as loop
from tests.pretrain.test_pretrain import SMALL, train
step = loop.Run._step
def stopping(self):
    if self.position.step == 6:
        os.kill(os.getpid(), signal.SIGTERM)
    return step(self)
loop.Run._step = stopping
train(SMALL, Path({str(tmp_path)!r}))
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=200)
    assert "Interrupted: stopped after step 7 of 24, with a checkpoint" in done.stderr
    assert [path.name for path in sealed(tmp_path)] == ["checkpoint-7"]
    train(SMALL, tmp_path)
    assert weights_sha256(tmp_path) == weights_sha256(trained)


def test_a_full_disk_stops_and_loses_nothing(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save = torch.save

    def full_from_step_20(obj: Any, path: Path) -> None:
        if path.name == "optimizer.pt" and (tmp_path / "checkpoint-12").exists():
            path.write_bytes(b"half")
            raise OSError(28, "No space left on device")
        save(obj, path)

    monkeypatch.setattr(torch, "save", full_from_step_20)
    with pytest.raises(StageFailed, match=r"checkpoint-20 cannot be written: .*No space left on device.* make room"):
        train(SMALL, tmp_path)
    assert not list(tmp_path.glob(".*"))
    monkeypatch.undo()
    train(SMALL, tmp_path)
    assert weights_sha256(tmp_path) == weights_sha256(trained)


def test_evaluation_has_its_own_steps(tmp_path: Path) -> None:
    train(replace(SMALL, max_steps=7, logging_steps=4, eval_steps=3), tmp_path)
    assert [(line["step"], "eval_loss" in line) for line in metrics(tmp_path)] == [
        (3, True), (4, False), (6, True), (7, True)
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"max_steps": 0}, "max_steps = 0: must be above 0"),
        ({"weight_decay": float("nan")}, "weight_decay = nan: must be 0 or more"),
        ({"decay_fraction": 1.5}, "decay_fraction = 1.5: must be at most 1"),
        ({"hidden_size": 33}, "hidden_size = 33: must be a multiple of 2 × num_attention_heads, for RoPE"),
        ({"max_length": 1}, "max_length = 1: must be at least 2, since a single token predicts nothing"),
        ({"max_length": 1024}, "max_length = 1024: must be at most max_position_embeddings = 512"),
    ],
)
def test_what_is_out_of_range_is_said(change: dict[str, Any], problem: str) -> None:
    assert list(range_problems(SMALL)) == []
    assert list(range_problems(replace(SMALL, **change))) == [problem]


class Steps:
    """Lets something happen within steps of pretraining, by their number from 0: in a pass of the model."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.actions: dict[int, Callable[[int], None]] = {}
        summed_loss = loop.summed_loss
        step = loop.Run._step

        def counted(run: Any) -> dict[str, float]:
            self.now = run.position.step
            return step(run)

        def watched(model: Any, rows: Any, *given: Any) -> Any:
            self.actions.get(self.now, lambda rows: None)(len(rows.input_ids))
            return summed_loss(model, rows, *given)

        monkeypatch.setattr(loop.Run, "_step", counted)
        monkeypatch.setattr(loop, "summed_loss", watched)


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> Steps:
    return Steps(monkeypatch)


def test_out_of_memory_is_survived_and_the_training_is_the_same(trained: Path, tmp_path: Path, steps: Steps) -> None:
    def too_many(rows: int) -> None:
        if rows > 4:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")

    steps.actions[14] = too_many
    train(SMALL, tmp_path)
    losses = [[line["loss"] for line in metrics(directory)] for directory in (tmp_path, trained)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    assert StageLog(tmp_path).read_info()["out_of_memory"] == [
        {"step": 15, "per_device_train_batch_size": [8, 4], "gradient_accumulation_steps": [1, 2]}
    ]
    assert "RESUME | checkpoint-12" in (tmp_path / "training_events.log").read_text()  # of the evaluation before


def test_a_checkpoint_that_memory_runs_out_for_is_not_said_to_be_wrong(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def once(*given: Any) -> Any:
        monkeypatch.undo()
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")

    monkeypatch.setattr("pretrain.checkpoint.load_file", once)
    shutil.copytree(trained / "checkpoint-20", tmp_path / "checkpoint-20")
    train(SMALL, tmp_path)
    assert "out of memory before the first step" in (tmp_path / "training_events.log").read_text()


def test_the_gradient_is_looked_at_before_the_step_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[None] = []
    step = MuonAndAdamW.step
    monkeypatch.setattr(MuonAndAdamW, "step", lambda self, *rest: made.append(step(self, *rest)))
    monkeypatch.setattr("watching.gradients.Gradients.look", lambda *_, **__: "it exploded" if len(made) == 2 else None)
    with pytest.raises(StageFailed, match=r"step 3: it exploded\. The step's documents"):
        train(SMALL, tmp_path)
    assert len(made) == 2


def test_a_signal_in_the_last_step_is_not_lost(trained: Path, tmp_path: Path, steps: Steps) -> None:
    steps.actions[23] = lambda rows: os.kill(os.getpid(), signal.SIGINT)
    with pytest.raises(Interrupted, match="stopped after step 24 of 24"):
        train(SMALL, tmp_path)
    train(SMALL, tmp_path)
    assert weights_sha256(tmp_path) == weights_sha256(trained)


def test_the_limit_of_time_stops_it_early_with_a_checkpoint(trained: Path, tmp_path: Path, steps: Steps) -> None:
    steps.actions |= {step: lambda rows: time.sleep(0.2) for step in range(24)}
    with pytest.raises(Interrupted, match=r"step \d of 24.*max_steps=\d+"):
        train(SMALL, tmp_path, max_hours=3.0 / 3600)
    steps.actions.clear()
    train(SMALL, tmp_path)
    assert weights_sha256(tmp_path) == weights_sha256(trained)


def test_text_learnt_by_heart_raises_one_alarm_also_after_a_resume(tmp_path: Path) -> None:
    import random

    draw, words = random.Random(0), "red green blue one two three up down left right".split()
    text = tmp_path / "few.txt"
    text.write_text("\n\n".join(" ".join(draw.choices(words, k=30)) for _ in range(40)), encoding="utf-8")
    config = replace(
        SMALL, dataset_name=str(text), max_samples=None, vocab_size=300, max_steps=150, eval_steps=10, save_steps=30
    )
    train(config, tmp_path / "base")
    log = StageLog(tmp_path / "base")
    (alarm,) = log.read_info()["alarms"]
    assert alarm["name"] == "overfitting"
    assert "the held-out loss rose in 3 evaluations in a row" in alarm["message"]
    kept = 30 * ((alarm["step"] - 10) // 30)  # of the evaluations that rose one or two are before it
    for later in sealed(tmp_path / "base"):
        if int(later.name.partition("-")[2]) > kept:
            shutil.rmtree(later)
    train(replace(config, max_steps=150), tmp_path / "base")
    assert log.read_info()["alarms"] == [alarm]
