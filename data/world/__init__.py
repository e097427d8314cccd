"""The made world: everything the embedded recipe learns from, generated from a seed and split by the problems' hash."""

from random import Random
from typing import Any

DEFAULT_ROWS = {"documents": 50_000, "conversations": 600, "preferences": 4_000, "prompts": 10_000}
EVAL_ROWS = {"documents": 256, "conversations": 240, "preferences": 600, "prompts": 600}


def rows(name: str, split: str, count: int | None = None, seed: int = 0) -> list[dict[str, Any]]:
    """Return `count` rows of the made data set `name`; the same arguments give the same rows.

    `split` is `"train"` or `"eval"`; a problem of one is never in the other, whatever the seed. Documents have `text`,
    conversations `messages`, preferences `prompt, chosen, rejected, kind, skill`, prompts `prompt, skill, answer`.

    Raises:
        ValueError: there is no data set of that name, or no such split.
    """
    from data.splits import held_out
    from data.world import conversations, documents, problems

    if name not in DEFAULT_ROWS or split not in ("train", "eval"):
        raise ValueError(
            f"no made data {name!r}, split {split!r}: names are {sorted(DEFAULT_ROWS)}, splits train and eval"
        )
    evaluation = split == "eval"
    count = count or (EVAL_ROWS if evaluation else DEFAULT_ROWS)[name]
    random = Random(f"{seed} {name} {split}")
    if name == "documents":
        texts: list[str] = []
        while len(texts) < count:
            text = documents.document(random)
            if held_out(text, problems.HELD_OUT_FRACTION) == evaluation:
                texts.append(text)
        return [{"text": text} for text in texts]
    drawn = conversations.draw_problems(random, count, held_out_side=evaluation)
    if name == "conversations":
        return [conversations.conversation(one, random) for one in drawn]
    if name == "preferences":
        return [conversations.preference(one, random) for one in drawn]
    # Held-out problems are posed from the start, and the evaluation runs the tool; in training some start after it.
    return [conversations.checkable_prompt(one, not evaluation and random.random() < 0.25) for one in drawn]
