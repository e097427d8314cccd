"""A run that trains on its own test set: a real one, and the command names what was planted, item by item."""

import json
from pathlib import Path
from random import Random
from typing import Any

import pytest

from algorithms import StageOutput, TrainingConfig
from data.examples import Row
from data.made import rows as made_rows
from data.sources import load_for
from evaluation.__main__ import main
from pipeline import run_pipeline
from recipes.arithmetic.right_answers import PROBLEMS, SEED
from tests.algorithms.conftest import model_dir
from utils.files import read_json

__all__ = ["model_dir"]  # a fixture
QUICK: dict[str, Any] = {
    "max_steps": 1, "per_device_train_batch_size": 4, "bf16": False, "eval_samples": 8, "eval_fraction": 0.3,
    "gradient_checkpointing": False, "learning_rate": 1e-3,
}  # fmt: skip
DRAW = Random(0)
WORDS = ["".join(DRAW.choices("abcdefghijklmnoprstuvwz", k=3 + n % 3)) for n in range(900)]


def sentence(words: int = 14) -> str:
    return " ".join(DRAW.sample(WORDS, words))


def write(file: str, rows: list[dict[str, Any]]) -> str:
    Path(file).write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return file


def shown(row: Row) -> dict[str, Any]:
    """Return a row of questions to be trained on."""
    return {"question": row["prompt"][-1]["content"], "answer": str(row.get("answer", "so it is"))}


def test_every_item_of_the_test_set_that_was_trained_on_is_named(
    model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """SFT learns 3 questions of a file, 2 problems of the made world, 2 pairs that the reward model is judged by."""
    monkeypatch.chdir(tmp_path)
    asked = [{"prompt": [{"role": "user", "content": sentence()}], "answer": sentence(6)} for _ in range(9)]
    write("questions.jsonl", asked)
    pairs = [{"question": sentence(), "chosen": sentence(), "rejected": sentence()} for _ in range(40)]
    judged = TrainingConfig(
        model_name=StageOutput("sft"), output_dir="my-reward", dataset_name=write("pairs.jsonl", pairs), **QUICK
    )
    held_out = load_for(judged, "reward").eval
    problems = list(made_rows("prompts", "eval", PROBLEMS, SEED))
    planted = [shown(asked[item]) for item in (1, 4, 8)]
    planted += [shown(problems[item]) for item in (0, 100)]
    planted += [shown(held_out[item]) for item in (2, 5)]
    rows = [{"question": sentence(), "answer": sentence(6)} for _ in range(60)]
    rows = [row for place, row in enumerate(rows) for row in (row, *planted[place : place + 1])]
    Path("chats").mkdir()
    write("chats/test.jsonl", [{"question": sentence(), "answer": sentence(6)} for _ in range(8)])
    write("chats/train.jsonl", rows)
    learnt = TrainingConfig(model_name=str(model_dir), output_dir="my-sft", dataset_name="chats", **QUICK)

    run = run_pipeline({"sft": learnt, "reward": judged})
    capsys.readouterr()
    words = ["contamination", run.name, "--tasks", "questions.jsonl,skills", "--out", "found.json"]
    assert main(words) == 0  # it tells; what follows is the reader's to say

    report = read_json(Path("found.json"))
    found = {
        (one["training_set"].partition("/")[2], one["evaluation_set"].rpartition("/")[2]): one["found"]
        for one in report["overlaps"]
    }
    named = {sets: [item["item"] for item in items] for sets, items in found.items() if items}
    assert named == {
        ("sft chats", "questions.jsonl"): [1, 4, 8],
        ("sft chats", "skills"): [0, 100],
        ("sft chats", "reward pairs"): [2, 5],
    }
    trained = load_for(learnt, "sft").train
    for item in found["sft chats", "questions.jsonl"]:
        (row,) = item["first_rows"]
        assert trained[row]["prompt"][0]["content"] == asked[item["item"]]["prompt"][0]["content"]
    said = capsys.readouterr().out
    assert "questions.jsonl" in said
    assert "100%" in said


def test_rows_of_another_librarys_are_not_searched_for(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["contamination", "latest", "--tasks", "lm-eval:hellaswag"]) == 2
    assert "its rows are lm-eval's own" in capsys.readouterr().err
