"""A stage's samples: what was scored, readable, and nothing computed for it."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from data.made import rows
from evaluation import evaluate_stage
from evaluation.answers import Rewards
from evaluation.samples import SAMPLES_FILE, expected_of
from evaluation.scored_model import CACHE_FILE
from evaluation.skills import SampledSkills, Skills
from evaluation.task import HeldOut
from kinds import named
from recipes.arithmetic import VERIFIER

GRPO, PRETRAIN, SFT = named("grpo"), named("pretrain"), named("sft")

ROWS = rows("prompts", "eval", 12)


def samples(directory: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (directory / SAMPLES_FILE).read_text(encoding="utf-8").splitlines()]


def test_samples_are_the_completions_and_scores_of_both_sides(make_model: Callable[..., Path], tmp_path: Path) -> None:
    first, second = (make_model(tmp_path / name, seed) for seed, name in enumerate(("first", "second")))
    task = Skills(HeldOut(ROWS), max_new_tokens=8, verifier=VERIFIER)
    evaluate_stage(SFT, first, second, [task, SampledSkills(HeldOut(ROWS), max_new_tokens=8, verifier=VERIFIER)])
    said = samples(second)
    assert [one["prompt"] for one in said] == [row["prompt"] for row in ROWS]  # the sampled answers are left out
    assert [one["expected"] for one in said] == [row["answer"] for row in ROWS]
    kept = json.loads((second / CACHE_FILE).read_text(encoding="utf-8"))
    greedy = [value for key, value in kept.items() if key.startswith("completions-") and len(value) == len(ROWS)]
    for side, completions in zip(("after", "before"), greedy, strict=True):
        assert [one[side]["text"].partition("\n→ ")[0] for one in said] == [text for text, _, _ in completions]
    scores = [value["strict"] for key, value in kept.items() if key.startswith("skills-")]
    assert [one["after"]["scores"]["strict"] for one in said] == scores[0]


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"prompt": "?", "answer": "40 + 32 = 72\n#### 72"}, "72"),
        ({"prompt": "?", "solution": "7"}, "7"),
        ({"prompt": "?", "answer": ["7", "seven"]}, "7 or seven"),
        ({"prompt": [], "completion": [{"role": "assistant", "content": "four"}]}, "four"),
        ({"messages": [{"role": "user", "content": "?"}, {"role": "assistant", "content": "four"}]}, "four"),
        ({"prompt": "2 + 2 =", "completion": " 4"}, " 4"),
        ({"prompt": "?", "output": "four"}, "four"),
        ({"prompt": "?", "response": "four"}, "four"),
        ({"prompt": "?", "chosen": [{"role": "assistant", "content": "four"}], "rejected": []}, "four"),
        ({"prompt": "?", "output": 4}, "4"),
        ({"messages": [{"role": "user", "content": "?"}]}, None),
        ({"prompt": "?"}, None),
    ],
)
def test_what_is_expected_is_the_answer_a_row_has(row: dict[str, Any], expected: str | None) -> None:
    assert expected_of(row) == expected


def test_samples_are_written_again_without_a_model(
    make_model: Callable[..., Path], tmp_path: Path, monkeypatch: Any
) -> None:
    """As at a resume, where the scores are kept."""
    directory = make_model(tmp_path / "first")
    task = Skills(HeldOut(ROWS), max_new_tokens=8, verifier=VERIFIER)
    evaluate_stage(PRETRAIN, None, directory, [task])
    before = (directory / SAMPLES_FILE).read_text(encoding="utf-8")
    (directory / SAMPLES_FILE).unlink()
    monkeypatch.setattr("evaluation.before_and_after.load_policy", lambda *_, **__: 1 / 0)
    evaluate_stage(PRETRAIN, None, directory, [task])
    assert (directory / SAMPLES_FILE).read_text(encoding="utf-8") == before
    assert all(one["before"] is None and one["after"] for one in samples(directory))


def test_a_reward_function_is_asked_once(make_model: Callable[..., Path], tmp_path: Path) -> None:
    calls: list[int] = []

    def length(completions: list[Any], **_: Any) -> list[float]:
        calls.append(len(completions))
        return [float(len(str(one))) for one in completions]

    directory = make_model(tmp_path / "first")
    evaluate_stage(GRPO, directory, directory, [Rewards(HeldOut(ROWS), 4, {"length": length})])
    assert calls == [12, 12]
    assert all(one["after"]["scores"]["length"] > 0 for one in samples(directory))
