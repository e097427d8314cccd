"""python -m pretrain: what it makes, refuses and goes on with."""

import contextlib
import io
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from utils.files import weights_sha256

ROOT = Path(__file__).resolve().parents[2]
SHAPE = (
    "vocab_size=300", "hidden_size=32", "intermediate_size=64", "num_hidden_layers=2", "num_attention_heads=2",
    "max_length=64", "eval_steps=10", "save_steps=7", "logging_steps=5",
)  # fmt: skip


def run(*words: str, cwd: Path, **options: Any) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pretrain", *words]
    return subprocess.run(
        command, cwd=cwd, capture_output=True, text=True, timeout=240, env=environment(cwd), **options
    )


def environment(cwd: Path) -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(ROOT), "SIXGIG_CACHE": str(cwd / "cache")}


def refused(*words: str, cwd: Path) -> str:
    """Return what is said of words that are refused, here in this process."""
    from pretrain.__main__ import main

    with (
        contextlib.chdir(cwd),
        contextlib.redirect_stderr(io.StringIO()) as said,
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setenv("SIXGIG_CACHE", str(cwd / "cache"))
        assert main(words) == 2
    return said.getvalue()


def settings(*more: str) -> list[str]:
    return [word for value in (*SHAPE, *more) for word in ("--set", value)]


@pytest.fixture
def text(tmp_path: Path) -> Path:
    draw = random.Random(0)
    names, verbs, things = ("Ada", "Bo", "Cy", "Dee"), ("sees", "takes", "likes"), ("a cat", "the sea", "red hats")
    lines = [
        ". ".join(f"{draw.choice(names)} {draw.choice(verbs)} {draw.choice(things)}" for _ in range(6)) + f" {n}."
        for n in range(600)
    ]
    path = tmp_path / "notes.txt"
    path.write_text("\n\n".join(lines))
    return path


def test_text_becomes_a_model_with_the_records_of_a_stage(text: Path, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    done = run("--data", "notes.txt", "--out", "base", "--max-steps", "30", *settings(), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    out = tmp_path / "base"
    assert AutoModelForCausalLM.from_pretrained(out).config.vocab_size == 300
    assert AutoTokenizer.from_pretrained(out)("Ada sees a cat")["input_ids"]
    info = json.loads((out / "stage_info.json").read_text())
    assert (info["name"], info["status"], info["steps"]) == ("pretrain", "passed", 30)
    assert info["output"]["sha256"] == weights_sha256(out)
    metrics = [json.loads(line) for line in (out / "training_metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in metrics] == [5, 10, 15, 20, 25, 30]
    held_out = [line for line in metrics if "eval_loss" in line]
    assert held_out[-1]["eval_loss"] < held_out[0]["eval_loss"]
    assert set(held_out[0]) >= {"eval_loss", "eval_accuracy", "eval_perplexity", "eval_bits_per_byte"}
    assert set(info["test"]) == {"test_loss", "test_accuracy", "test_perplexity", "test_bits_per_byte"}
    splits = info["data"]["parts"][0]["splits"]
    assert sum(split["documents"] for split in splits.values()) == 600
    assert splits["validation"]["documents"] > 30
    assert {path.name for path in out.iterdir()} >= {"console_output.log", "training.log", "logs", "tokenizer.model"}
    assert f"{info['test']['test_bits_per_byte']:.4f}" in done.stdout
    assert "chat.py base" in done.stdout
    said = refused("--data", "notes.txt", "--out", "base", *settings(), cwd=tmp_path)
    assert said == "--out base is in use: name a new directory\n"  # it has ended: there is nothing to go on with


def test_killed_at_any_moment_it_goes_on_to_the_same_weights(text: Path, tmp_path: Path) -> None:
    words = ("--data", "notes.txt", "--max-steps", "40", *settings("dropout=0.1"))
    assert run(*words, "--out", "whole", cwd=tmp_path).returncode == 0
    command = [sys.executable, "-m", "pretrain", *words, "--out", "killed"]
    with subprocess.Popen(command, cwd=tmp_path, env=environment(tmp_path), stdout=subprocess.DEVNULL) as process:
        deadline = time.monotonic() + 120
        while not (tmp_path / "killed" / "checkpoint-14").exists() and time.monotonic() < deadline:
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
    assert not (tmp_path / "killed" / "model.safetensors").exists()
    resumed = run("--resume", "killed", cwd=tmp_path)
    assert resumed.returncode == 0, resumed.stderr
    assert weights_sha256(tmp_path / "killed") == weights_sha256(tmp_path / "whole")
    assert "has been trained to its last step, 40" in refused("--resume", "killed", cwd=tmp_path)


def test_a_run_goes_on_with_the_documents_that_it_began_with_or_not_at_all(text: Path, tmp_path: Path) -> None:
    words = ("--data", "notes.txt", "--out", "base", *settings())
    assert run(*words, "--max-steps", "8", cwd=tmp_path).returncode == 0
    info = tmp_path / "base/stage_info.json"
    began = json.loads(info.read_text())
    info.write_text(json.dumps(began | {"status": "interrupted"}))
    text.write_text(text.read_text().replace("a cat", "a dog"))
    said = refused("--resume", "base", cwd=tmp_path)
    assert "checkpoint-7 was trained on other documents than the source holds now" in said
    assert json.loads(info.read_text())["data"] == began["data"]


def test_a_test_document_of_one_token_is_no_test(text: Path, tmp_path: Path) -> None:
    (tmp_path / "split").mkdir()
    paragraphs = text.read_text().split("\n\n")
    for name, documents in (("train", paragraphs[:400]), ("validation", paragraphs[400:]), ("test", ["&"])):
        (tmp_path / "split" / f"{name}.txt").write_text("\n\n".join(documents))
    words = ("--data", "split", "--out", "base", "--max-steps", "3", *settings("tokenizer_name=bytes"))
    done = run(*words, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "no documents were left for a test" in done.stdout


def test_ctrl_c_saves_and_names_the_command_that_goes_on(text: Path, tmp_path: Path) -> None:
    words = ("--data", "notes.txt", "--out", "runs/mine", "--max-steps", "5000", *settings())
    command = [sys.executable, "-m", "pretrain", *words]
    with subprocess.Popen(
        command, cwd=tmp_path, env=environment(tmp_path), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    ) as process:
        deadline = time.monotonic() + 120
        while not (tmp_path / "runs/mine/checkpoint-7").exists() and time.monotonic() < deadline:
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "-m pretrain --resume runs/mine" in stderr
    info = json.loads((tmp_path / "runs/mine/stage_info.json").read_text())
    assert info["status"] == "interrupted"
    from pretrain.__main__ import stopped_run

    with contextlib.chdir(tmp_path):
        out, config = stopped_run("")
    assert (str(out), config.max_steps, config.hidden_size) == ("runs/mine", 5000, 32)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "--data says what to train on"),
        (("--data", "nowhere.txt"), "there is no data set 'nowhere.txt', did you mean 'notes.txt'?"),
        (("--data", "notes.txt", "--preset", "tini"), "there is no preset 'tini', did you mean 'tiny'?"),
        (
            ("--data", "notes.txt", "--set", "hiden_size=3"),
            "there is no field 'hiden_size', did you mean 'hidden_size'?",
        ),
        (("--data", "notes.txt", "--max-steps", "many"), "max_steps=many: must be int, not 'many'"),
        (("--data", "notes.txt", "--data-fraction", "1.5"), "data_fraction = 1.5: must be at most 1"),
        (("--data", "notes.txt", "--data-fraction", "0"), "data_fraction = 0.0: must be above 0"),
        (("--data", "notes.txt", "--set", "max_length=4096"), "must be at most max_position_embeddings = 512"),
        (("--data", "notes.txt:0.5,empty.txt:0.2"), "empty.txt"),
        (("--data", "empty.txt"), "empty.txt"),
        (("--data", "binary.txt"), "binary.txt"),
        (("--data", "nothing.jsonl"), "nothing.jsonl"),
        (("--dat", "notes.txt"), "--dat notes.txt, did you mean '--data'?"),
        (("--resume", "nowhere"), "nowhere is not the directory of a pretraining run"),
        (("--resume",), "runs/ holds no stopped pretraining run"),
        (("--resume", "x", "--max-steps", "3"), "--resume goes on with the values that the run began with"),
        (
            ("--data", "notes.txt", "--set", "tokenizer_name=nosuch"),
            "there is no tokenizer 'nosuch': HF_HUB_OFFLINE forbids",
        ),
        (
            ("--data", "notes.txt", "--set", "vocab_size=300", "--out", "notes.txt/base"),
            "notes.txt/base cannot be made: Not a directory",
        ),
        (("--data", "notes.txt", "--set", "attn_implementation=flex_attention"), "must be 'eager', 'sdpa' or None"),
        (("--data", "notes.txt", "--set", "mixed_precision=fp16"), "mixed_precision = 'fp16': needs a CUDA GPU"),
        (
            ("--data", "notes.txt", "--set", "vocab_size=50000"),
            "vocab_size = 50000: the text has pieces for at most 364: --set vocab_size=364",
        ),
    ],
)
def test_what_cannot_be_is_refused_and_leaves_nothing(
    text: Path, tmp_path: Path, words: tuple[str, ...], said: str, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    from pretrain.__main__ import main

    (tmp_path / "empty.txt").write_text("\n\n \n")
    (tmp_path / "binary.txt").write_bytes(bytes(range(256)) * 40)
    (tmp_path / "nothing.jsonl").write_text('{"number": 3}\n{"number": 4}\n')
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SIXGIG_CACHE", str(tmp_path / "cache"))
    before = {path.name for path in tmp_path.iterdir()}
    out = ("--out", "out") if "--data" in words else ()
    assert main([*out, *words]) == 2
    message = capsys.readouterr().err
    assert said in message
    assert "Traceback" not in message
    assert {path.name for path in tmp_path.iterdir()} - {"cache"} == before


def test_help_is_fast_and_names_the_presets() -> None:
    code = "import sys, pretrain.__main__ as m; m.parser().format_help(); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, timeout=60)
    done = run("--help", cwd=ROOT)
    assert "agentic-30m  Conversations with tools at a small size: 29.50 M parameters" in done.stdout


def test_the_launchers_configurations_are_accelerates() -> None:
    from accelerate.commands.config.config_args import load_config_from_file

    kinds = {path.stem: load_config_from_file(str(path)) for path in (ROOT / "pretrain" / "launch").glob("*.yaml")}
    assert {name: str(config.distributed_type.value) for name, config in kinds.items()} == {
        "ddp": "MULTI_GPU", "fsdp2": "FSDP"
    }  # fmt: skip
    assert kinds["fsdp2"].fsdp_config["fsdp_version"] == 2
