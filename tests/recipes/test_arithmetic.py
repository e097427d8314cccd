"""The arithmetic world: deterministic, checkable, and held-out problems in no training text."""

import math
import re
from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import Any

import pytest

from batching.complete import Completion
from data import made
from evaluation import judged
from evaluation.judged import VerifiedAnswers
from evaluation.scored_model import ScoreCache, ScoredModel, fingerprint
from evaluation.skills import SampledSkills, Skills
from evaluation.task import HeldOut, Scores
from recipes.arithmetic import VERIFIER, conversations, problems, tools, verify
from recipes.arithmetic import texts as documents
from recipes.arithmetic.problems import SKILLS, problem

EXPRESSION = re.compile(r"\d+(?:[-+*/]\d+)+")
COUNTED_PHRASE = re.compile(r"(?:[a-z]+\d+ ?){3,}")


def texts_of(row: dict) -> list[str]:
    """Return every text in a row."""
    found = []
    for value in row.values():
        if isinstance(value, str):
            found.append(value)
        else:
            found += [message["content"] for message in value]
    return found


def shown_keys(text: str) -> set[str]:
    """Return the keys of all the problems that a text works out or computes."""
    keys = set()
    for expression in EXPRESSION.findall(text):
        parts = re.split(r"([-+*/])", expression)
        if len(parts) == 3:
            keys.add(problems.sum_key(int(parts[0]), parts[1], int(parts[2])))
    for tally in COUNTED_PHRASE.findall(text):
        keys.add(" ".join(sorted(step.rstrip("0123456789") for step in tally.split())))
    return keys


@pytest.mark.parametrize("name", sorted(made.REGISTERED))
def test_same_seed_gives_same_rows_and_another_seed_others(name: str) -> None:
    assert made.rows(name, "train", 40, 1) == made.rows(name, "train", 40, 1)
    assert made.rows(name, "train", 40, 1) != made.rows(name, "train", 40, 2)


def test_no_training_text_shows_a_held_out_problem() -> None:
    held_out = {
        drawn.key for seed in range(3) for drawn in conversations.draw_problems(Random(seed), 600, held_out_side=True)
    }
    shown: set[str] = set()
    for name in made.REGISTERED:
        for row in made.rows(name, "train", 3000, 5):
            for text in texts_of(row):
                shown |= shown_keys(text)
    assert len(shown) > 3000, "the search for problems in the text finds them"
    # A digit step such as 14-7=7 is a single-digit sum inside a trace, not a problem: problems start at 11.
    steps = {
        key
        for key in shown
        if (match := re.fullmatch(r"(\d+)([-+])(\d+)", key)) and max(int(match[1]), int(match[3])) < 20
    }
    assert not (shown - steps) & held_out


def test_training_and_held_out_prompts_share_no_question() -> None:
    asked = {row["prompt"][-1]["content"] for row in made.rows("prompts", "train", 4000, 1)}
    held = {row["prompt"][-1]["content"] for row in made.rows("prompts", "eval", 600, 2)}
    assert len(held) == 600
    assert not asked & held


@pytest.mark.parametrize("skill", SKILLS)
def test_solutions_are_strictly_right_and_other_answers_wrong(skill: problems.Skill) -> None:
    random = Random(0)
    for _ in range(300):
        drawn = problem(random, skill)
        solution = conversations.solution(drawn)
        assert verify.strict(solution, skill, drawn.answer), solution
        assert verify.flexible(solution, skill, drawn.answer)
        assert not verify.strict(solution + "\n", skill, drawn.answer)
        assert not verify.strict(solution, skill, conversations.other_answer(drawn, random))


def test_traces_compute_what_they_claim() -> None:
    random = Random(0)
    for _ in range(500):
        drawn = problem(random, "arithmetic")
        expression, _, steps = drawn.trace.partition(":")
        total = tools.calculate(expression)
        assert steps.endswith(f", {total}"), drawn
        for sum_text, result in re.findall(r"([\d+-]+)=(\d+)", steps):
            assert eval(sum_text) == int(result), drawn  # the sum was generated here, from digits
        assert total == drawn.answer


def test_counts_are_right() -> None:
    random = Random(0)
    for _ in range(300):
        drawn = problem(random, "counting")
        words = drawn.question.rpartition(": " if ":" in drawn.question else "? ")[2].split()
        assert verify.counts(drawn.answer) == {word: words.count(word) for word in words}


@pytest.mark.parametrize("kind", conversations.REJECTIONS)
def test_rejections_differ_from_the_solution_and_never_pass_the_strict_check(kind: str) -> None:
    random = Random(0)
    for skill in SKILLS:
        reject = conversations.rejected_call if skill == "calculator" else conversations.rejected_answer
        for _ in range(100):
            drawn = problem(random, skill)
            rejected = reject(drawn, kind, random)
            assert rejected != conversations.solution(drawn)
            assert not verify.strict(rejected, skill, drawn.answer), (kind, rejected, drawn)


def test_preferences_and_prompts_train_the_turn_after_the_tools_response_too() -> None:
    pairs = [row for row in made.rows("preferences", "train", 600, 1) if row["prompt"][-1]["role"] == "tool"]
    assert {row["kind"] for row in pairs} == set(conversations.AFTER_TOOL_REJECTIONS)
    for row in pairs:
        answer = row["prompt"][-1]["content"]
        assert verify.strict(row["chosen"][0]["content"], "calculator_answer", answer)
        assert not verify.strict(row["rejected"][0]["content"], "calculator_answer", answer)
    prompts = [row for row in made.rows("prompts", "train", 600, 1) if row["prompt"][-1]["role"] == "tool"]
    assert prompts
    assert all(row["skill"] == "calculator_answer" for row in prompts)
    assert all(row["prompt"][-1]["content"] == row["answer"] for row in prompts)
    assert not any(row["prompt"][-1]["role"] == "tool" for row in made.rows("prompts", "eval"))


def test_wrong_form_and_no_trace_still_hold_the_right_answer() -> None:
    random = Random(0)
    for skill in ("arithmetic", "counting"):
        for kind in ("wrong_form", "no_trace", "rambling"):
            drawn = problem(random, skill)
            assert verify.flexible(conversations.rejected_answer(drawn, kind, random), skill, drawn.answer)


def test_calculator_computes_and_refuses_everything_else() -> None:
    assert tools.respond(tools.call("348*27")) == "9396"
    assert tools.respond(tools.call("9396/27")) == "348"
    for bad in ("7/2", "1/0", "__import__('os')", "1+2+3", "-5+2", ""):
        assert tools.respond(tools.call(bad)) is None, bad
    for malformed in (
        "<tool_call>\n{}\n</tool_call>",
        "<tool_call>\n[1]\n</tool_call>",
        "348*27",
        "<tool_call>\n{\n</tool_call>",
    ):
        assert tools.respond(malformed) is None, malformed


def test_documents_never_hold_the_form_that_fine_tuning_teaches() -> None:
    random = Random(0)
    for _ in range(3000):
        text = documents.document(random)
        assert "\nAnswer: " not in text
        assert not ("<tool_call>" in text and "calculator" in text)


PROBLEMS = HeldOut(VERIFIER.rows)


class Said(ScoredModel):
    """A model that answers right, wrong, in another form, with a call and without, in turn."""

    def __init__(self, tmp_path: Path) -> None:
        self.cache, self.policy = ScoreCache(tmp_path), self

    def complete(
        self, prompts: Sequence[tuple[Any, Any]], max_new_tokens: int, sampled: bool = False
    ) -> list[Completion | None]:
        texts = [answer(prompt, place) for place, (prompt, _) in enumerate(prompts)]
        return [Completion(text, list(range(len(text))), place % 3 > 0) for place, text in enumerate(texts)]


def answer(prompt: list[dict[str, str]], place: int) -> str:
    question = prompt[-3 if prompt[-1]["role"] == "tool" else -1]["content"]
    right = next(row["answer"] for row in PROBLEMS.rows if row["prompt"][-1]["content"] == question)
    if prompt[-1]["role"] == "tool":
        return [f"Answer: {right}", f"It is {right}.", f"Answer: {prompt[-1]['content']}", "Answer: 1"][place % 4]
    return [
        f"<think>steps</think>\nAnswer: {right}", f"Answer: {right}", f"The result is {right}",
        tools.call(f"{right}*1"), tools.call("7/2"), "<think>steps</think>\nAnswer: 17",
        tools.call(f"{right}+0") + "\nI hope.",
    ][place % 7]  # fmt: skip


def sums(scores: Scores) -> dict[str, tuple[int, float]]:
    """Return for each metric how many examples have a score, and the sum of these."""
    known = {metric: [value for value in values if value is not None] for metric, values in scores.items()}
    return {metric: (len(values), round(math.fsum(values), 6)) for metric, values in known.items()}


def test_the_worlds_figures_are_those_of_runs_before_it_was_a_recipes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Problems, scores and what they are kept under, as they were when the skills were built in."""
    said, few = Said(tmp_path), PROBLEMS.first(48)
    task = Skills(PROBLEMS, 48, verifier=VERIFIER)
    assert PROBLEMS.fingerprint == "53a35d2190eadf89"
    assert fingerprint(task.options) == fingerprint({"max_new_tokens": 48})
    assert sums(task.score(said)) == {
        "strict": (210, 29), "flexible": (210, 124), "strict/arithmetic": (70, 15), "strict/calculator": (70, 5),
        "strict/counting": (70, 9), "flexible/arithmetic": (70, 33), "flexible/calculator": (70, 46),
        "flexible/counting": (70, 45), "stop_rate": (210, 140), "completion_tokens": (210, 11682),
    }  # fmt: skip
    assert fingerprint(task.texts(said)) == "3be1088f4873bda2"
    assert sums(SampledSkills(few, 48, verifier=VERIFIER).score(said)) == {
        "strict": (48, 6), "flexible": (48, 29), "strict/arithmetic": (18, 3.5), "strict/calculator": (18, 1.25),
        "strict/counting": (12, 1.25), "flexible/arithmetic": (18, 8.75), "flexible/calculator": (18, 12.25),
        "flexible/counting": (12, 8), "stop_rate": (48, 32), "completion_tokens": (48, 2580), "pass@2": (48, 12),
        "flexible_pass@2": (48, 40.5), "pass@4": (48, 24), "flexible_pass@4": (48, 48),
    }  # fmt: skip
    rewards = [float(place * 7919 % 101) for place in range(4 * 48)]
    monkeypatch.setattr(judged, "answer_rewards", lambda *_: rewards)
    assert sums(VerifiedAnswers(few, 48, verifier=VERIFIER).score(said))["auc"] == (192, 78.717157)


@pytest.mark.parametrize(
    ("name", "train", "held_out"),
    [
        ("documents", "58265165e8e482e8", "e9cb64b786ab15dc"),
        ("conversations", "a802e3f8ace0bd67", "1666453aeac1df69"),
        ("preferences", "76265bebccd8fd86", "deb051a0b8798855"),
        ("prompts", "0f02a397b2c962a2", "1c8ce2a4d5eebf12"),
    ],
)
def test_the_worlds_rows_are_those_of_earlier_runs(name: str, train: str, held_out: str) -> None:
    assert [fingerprint(made.rows(name, side, 30, 3)) for side in ("train", "eval")] == [train, held_out]
