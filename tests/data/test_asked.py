"""How the rows of a stage ask."""

from typing import Any

from data.asked import how_asked


def row(question: str, system: str = "", tools: Any = None, rounds: int = 1) -> dict[str, Any]:
    turns = [{"role": "user", "content": question}, {"role": "assistant", "content": "4"}] * rounds
    return {"messages": ([{"role": "system", "content": system}] if system else []) + turns, "tools": tools}


def test_the_commonest_system_turns_are_kept_with_their_questions() -> None:
    tool = [{"type": "function", "function": {"name": "add"}}]
    rows = [row("1?"), row("2?"), row("3?", "Be kind.", tool), row("4?" * 200), row("5?"), row("6?", rounds=2)]
    assert how_asked(rows) == {
        "turns": 2,
        "ways": [
            {"system": None, "tools": None, "share": 0.8333, "questions": ["1?", "2?", "5?"]},
            {"system": "Be kind.", "tools": tool, "share": 0.1667, "questions": ["3?"]},
        ],
    }


def test_prompts_and_pairs_ask_and_plain_text_does_not() -> None:
    asked = how_asked([{"prompt": [{"role": "user", "content": "1?"}], "chosen": "", "rejected": ""}])
    assert asked is not None
    assert asked["ways"][0]["questions"] == ["1?"]
    assert how_asked([{"text": "A tale."}, {"prompt": "2 + 2 =", "completion": " 4"}]) is None
