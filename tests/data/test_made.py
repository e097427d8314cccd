"""Made data: a recipe registers its own, and the names that come with sixgig are found without."""

import json
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from algorithms import TrainingConfig
from data import made
from data.corpus.corpus import prepare
from data.corpus.documents import Options
from data.sources import load, load_for
from evaluation import Verifier
from utils.errors import Refused


def doubles(factor: int, side: str, count: int, seed: int) -> Iterator[dict[str, Any]]:
    """Yield questions without an end, odd ones on the held-out side."""
    n = seed
    while True:
        n += 1
        if (n % 2 == 1) == (side == "eval"):
            yield {"prompt": f"{factor} times {n}?", "answer": str(factor * n), "text": f"{factor * n} is even."}


@pytest.fixture
def registered(monkeypatch: pytest.MonkeyPatch) -> Verifier:
    monkeypatch.setattr(made, "REGISTERED", dict(made.REGISTERED))
    verifier = Verifier(problems=[{"prompt": "1?"}], strict=lambda text, row: True)
    made.register_rows("doubles", partial(doubles, 2), train_rows=7, eval_rows=3, verifier=verifier)
    return verifier


def test_a_recipes_own_rows_are_found_by_their_name(registered: Verifier) -> None:
    assert [len(made.rows("doubles", side)) for side in ("train", "eval")] == [7, 3]
    data = load("made:doubles", "grpo", max_samples=4, eval_samples=2, seed=10)
    assert data.train["answer"][:] == ["24", "28", "32", "36"]
    assert data.eval["prompt"][0] == [{"role": "user", "content": "2 times 11?"}]
    assert made.verifier_of("made:doubles") is registered


def test_a_recipes_own_documents_are_pretrained_on_and_made_anew_when_their_code_changes(registered: Verifier) -> None:
    corpus = prepare("made:doubles", Options(made_train=5, made_held_out=2, seed=1))
    assert corpus.count("train") == 5
    assert made.files_of("doubles") == [Path(__file__)]
    assert "right_answers.py" in [file.name for file in made.files_of("prompts")]
    with pytest.raises(Refused, match="no text to pretrain on in made:prompts: its rows have prompt, skill, answer"):
        prepare("made:prompts", Options())


def test_an_unknown_name_is_refused_with_the_nearest(registered: Verifier) -> None:
    with pytest.raises(Refused, match=r"no 'made:double', did you mean 'made:doubles'\? Made data: .*made:prompts"):
        made.rows("double", "train")
    assert made.verifier_of("made:double") is None
    assert made.verifier_of("prompts") is None
    assert made.verifier_of("made:documents") is None


def test_old_recipes_find_the_rows_and_rewards_that_they_never_registered() -> None:
    code = """import json
from data.made import rows, verifier_of
from algorithms.rewards import load
print(json.dumps([len(rows(name, "eval", 2)) for name in ("documents", "conversations", "preferences", "prompts")]))
assert verifier_of("made:conversations").group == "skill"
assert load("made_flexible")[0].__name__ == "made_flexible" """
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == [2, 2, 2, 2]


def test_the_shipped_names_are_not_taken(registered: Verifier) -> None:
    with pytest.raises(Refused, match="'made:prompts' is sixgig's own: call your rows otherwise"):
        made.register_rows("prompts", partial(doubles, 2))


def test_rows_that_are_registered_anew_are_those_that_are_trained_on(registered: Verifier) -> None:
    config = TrainingConfig(model_name="m", output_dir="o", dataset_name="made:doubles", max_samples=2)
    assert load_for(config, "grpo").train["prompt"][0][0]["content"].startswith("2 times")
    made.register_rows("doubles", partial(doubles, 3))
    assert load_for(config, "grpo").train["prompt"][0][0]["content"].startswith("3 times")
    assert made.modules_of("made:doubles") == [__name__]
    assert made.modules_of("made:nowhere") == made.modules_of("mine.jsonl") == []
