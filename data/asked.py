"""How the rows of a stage ask: after which system turns, with which tools, in how many turns, and what, for example.

Whoever talks to its model does best to ask as it was asked while it learnt.
"""

import json
from collections import Counter
from itertools import islice
from typing import Any

from data.examples import prompt_of

LOOKED_AT = 5000
WAYS = 3
"""Most system turns, each with its tools, that are kept, and most example questions."""
SHORT = 200  # letters of an example


def how_asked(rows: Any) -> dict[str, Any] | None:
    """Return `{turns, ways}`, as stage_info.json keeps it; None of plain text, which no chat asks.

    `turns` are the most questions of a conversation; `ways` the commonest system turns and tools, `{system, tools,
    share, questions}`, the commonest first.
    """
    ways: Counter[tuple[str | None, str]] = Counter()
    questions: dict[tuple[str | None, str], list[str]] = {}
    turns = 0
    for row in islice(rows, LOOKED_AT):
        asked, tools = prompt_of(row) or (None, None)
        if not isinstance(asked, list):
            continue
        said = [turn["content"] for turn in asked if turn["role"] == "user"]
        way = asked[0]["content"] if asked and asked[0]["role"] == "system" else None, json.dumps(tools or None)
        ways[way] += 1
        turns = max(turns, len(said))
        if len(said) == 1 and len(said[0]) <= SHORT and len(questions.setdefault(way, [])) < WAYS:
            questions[way].append(said[0])
    if not ways:
        return None
    found = [
        {
            "system": way[0],
            "tools": json.loads(way[1]),
            "share": round(count / ways.total(), 4),
            "questions": questions.get(way, []),
        }
        for way, count in ways.most_common(WAYS)
    ]
    return {"turns": turns, "ways": found}
