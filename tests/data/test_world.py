"""The made world: deterministic, checkable, and held-out problems in no training text."""

import re
from random import Random

import pytest

from data import world
from data.world import conversations, documents, problems, tools, verify
from data.world.problems import SKILLS, problem

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


@pytest.mark.parametrize("name", sorted(world.DEFAULT_ROWS))
def test_same_seed_gives_same_rows_and_another_seed_others(name: str) -> None:
    assert world.rows(name, "train", 40, 1) == world.rows(name, "train", 40, 1)
    assert world.rows(name, "train", 40, 1) != world.rows(name, "train", 40, 2)


def test_unknown_names_are_refused() -> None:
    with pytest.raises(ValueError, match="no made data 'poems'"):
        world.rows("poems", "train")
    with pytest.raises(ValueError, match="split 'test'"):
        world.rows("prompts", "test")


def test_no_training_text_shows_a_held_out_problem() -> None:
    held_out = {
        drawn.key for seed in range(3) for drawn in conversations.draw_problems(Random(seed), 600, held_out_side=True)
    }
    shown: set[str] = set()
    for name in world.DEFAULT_ROWS:
        for row in world.rows(name, "train", 3000, 5):
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
    asked = {row["prompt"][-1]["content"] for row in world.rows("prompts", "train", 4000, 1)}
    held = {row["prompt"][-1]["content"] for row in world.rows("prompts", "eval", 600, 2)}
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
    pairs = [row for row in world.rows("preferences", "train", 600, 1) if row["prompt"][-1]["role"] == "tool"]
    assert {row["kind"] for row in pairs} == set(conversations.AFTER_TOOL_REJECTIONS)
    for row in pairs:
        answer = row["prompt"][-1]["content"]
        assert verify.strict(row["chosen"][0]["content"], "calculator_answer", answer)
        assert not verify.strict(row["rejected"][0]["content"], "calculator_answer", answer)
    prompts = [row for row in world.rows("prompts", "train", 600, 1) if row["prompt"][-1]["role"] == "tool"]
    assert prompts
    assert all(row["skill"] == "calculator_answer" for row in prompts)
    assert all(row["prompt"][-1]["content"] == row["answer"] for row in prompts)
    assert not any(row["prompt"][-1]["role"] == "tool" for row in world.rows("prompts", "eval"))


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
